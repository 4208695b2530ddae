// SPDX-License-Identifier: Apache-2.0
#include "journal/state.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"

/* ---- segments ---- */

static size_t segment_place(const struct state *s, uint32_t number) {
    size_t low = 0, high = s->segments_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->segments[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct segment *segment_add(struct state *s, uint32_t number, uint32_t bytes, uint32_t end) {
    size_t at = segment_place(s, number);
    CHECK(at == s->segments_count || s->segments[at]->number != number);
    struct segment *g = xcalloc(1, sizeof *g);
    g->number = number;
    g->bytes = bytes;
    g->end = end;
    xgrow(&s->segments, &s->segments_capacity, s->segments_count + 1, sizeof *s->segments);
    memmove(s->segments + at + 1, s->segments + at, (s->segments_count - at) * sizeof *s->segments);
    s->segments[at] = g;
    s->segments_count++;
    return g;
}

struct segment *segment_find(struct state *s, uint32_t number) {
    if (s->recent && s->recent->number == number)
        return s->recent;
    size_t at = segment_place(s, number);
    if (at == s->segments_count || s->segments[at]->number != number)
        return NULL;
    return s->recent = s->segments[at];
}

struct segment *segment_head(const struct state *s) {
    CHECK(s->segments_count > 0);
    return s->segments[s->segments_count - 1];
}

struct segment *segment_take(struct state *s, uint32_t number) {
    size_t at = segment_place(s, number);
    CHECK(at < s->segments_count && s->segments[at]->number == number);
    struct segment *g = s->segments[at];
    for (size_t i = 0; i < g->partitions_count; i++) {
        struct partition *p = partition_find(s, g->partitions[i]);
        if (p)
            p->holders--;
    }
    s->recent = NULL;
    s->segments_count--;
    memmove(s->segments + at, s->segments + at + 1, (s->segments_count - at) * sizeof *s->segments);
    return g;
}

void segment_free(struct segment *g) {
    free(g->partitions);
    free(g);
}

void segment_note(struct segment *g, struct partition *p) {
    if (p->noted == g->number)
        return;
    p->noted = g->number;
    p->holders++;
    xgrow(&g->partitions, &g->partitions_capacity, g->partitions_count + 1, sizeof *g->partitions);
    g->partitions[g->partitions_count++] = p->id;
}

/* ---- slots ---- */

static bool counts_as_live(const struct state *s, const struct slot *slot) {
    return slot->type == s->batch_type && !(slot->flags & SLOT_DEAD);
}

void slot_hold(struct state *s, const struct slot *slot) {
    if (!slot->segment)
        return;
    struct segment *g = segment_find(s, slot->segment);
    CHECK(g);
    g->refs++;
    g->held += slot->bytes;
    if (counts_as_live(s, slot))
        g->live += slot->bytes;
}

void slot_release(struct state *s, const struct slot *slot) {
    if (!slot->segment)
        return;
    struct segment *g = segment_find(s, slot->segment);
    CHECK(g && g->refs > 0 && g->held >= slot->bytes);
    g->refs--;
    g->held -= slot->bytes;
    g->release = s->ticket;
    if (counts_as_live(s, slot))
        g->live -= slot->bytes;
}

void slot_move(struct state *s, struct slot *slot, uint32_t segment, uint32_t offset) {
    slot_release(s, slot);
    slot->segment = segment;
    slot->offset = offset;
    slot_hold(s, slot);
}

void slot_kill(struct state *s, struct slot *slot) {
    if (slot->segment && counts_as_live(s, slot))
        segment_find(s, slot->segment)->live -= slot->bytes;
    slot->flags |= SLOT_DEAD;
}

/* ---- lists of live batches ---- */

static size_t live_place(const struct live_list *l, uint64_t index) {
    size_t low = 0, high = l->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->items[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct live_slot *live_find(const struct live_list *l, uint64_t index) {
    size_t at = live_place(l, index);
    return at < l->count && l->items[at].index == index ? &l->items[at] : NULL;
}

void live_put(struct live_list *l, uint64_t index, const struct slot *slot, struct slot *old) {
    size_t at = live_place(l, index);
    *old = (struct slot){0};
    if (at < l->count && l->items[at].index == index) {
        *old = l->items[at].slot;
    } else {
        xgrow(&l->items, &l->capacity, l->count + 1, sizeof *l->items);
        memmove(l->items + at + 1, l->items + at, (l->count - at) * sizeof *l->items);
        l->count++;
    }
    l->items[at] = (struct live_slot){.index = index, .slot = *slot};
}

static void live_clear(struct state *s, struct live_list *l) {
    for (size_t i = 0; i < l->count; i++)
        slot_release(s, &l->items[i].slot);
    free(l->items);
    *l = (struct live_list){0};
}

/* ---- partitions ---- */

struct partition *partition_find(const struct state *s, uint64_t id) {
    struct partition *p;
    HASH_FIND(hh, s->partitions, &id, sizeof id, p);
    return p;
}

struct partition *partition_get(struct state *s, uint64_t id) {
    struct partition *p = partition_find(s, id);
    if (p)
        return p;
    p = xcalloc(1, sizeof *p);
    p->id = id;
    HASH_ADD(hh, s->partitions, id, sizeof p->id, p);
    return p;
}

static void partition_free(struct partition *p) {
    free(p->entries);
    free(p->live.items);
    free(p->staged.items);
    free(p);
}

void partition_delete(struct state *s, struct partition *p) {
    HASH_DEL(s->partitions, p);
    partition_free(p);
}

void partition_clear(struct partition *p) {
    struct partition cleared = {.id = p->id, .reject = p->reject, .hh = p->hh};
    free(p->entries);
    free(p->live.items);
    free(p->staged.items);
    *p = cleared;
}

void state_free(struct state *s) {
    struct partition *p, *next;
    HASH_ITER(hh, s->partitions, p, next)
    partition_delete(s, p);
    for (size_t i = 0; i < s->segments_count; i++)
        segment_free(s->segments[i]);
    free(s->segments);
}

uint64_t partition_last(const struct partition *p) {
    return p->base_index + p->count;
}

uint64_t partition_last_epoch(const struct partition *p) {
    return p->count ? p->entries[p->first + p->count - 1].epoch : p->base_epoch;
}

struct slot *partition_slot(const struct partition *p, uint64_t index) {
    if (index > p->base_index)
        return index <= partition_last(p) ? &p->entries[p->first + (index - p->base_index - 1)] : NULL;
    struct live_slot *l = live_find(&p->live, index);
    return l ? &l->slot : NULL;
}

void partition_append(struct state *s, struct partition *p, const struct slot *slot) {
    /* room at the front, left by rebasing, is taken back before growing */
    if (p->first + p->count == p->capacity && p->first > p->count) {
        memcpy(p->entries, p->entries + p->first, p->count * sizeof *p->entries);
        p->first = 0;
    }
    xgrow(&p->entries, &p->capacity, p->first + p->count + 1, sizeof *p->entries);
    p->entries[p->first + p->count++] = *slot;
    slot_hold(s, slot);
    if (slot->epoch > p->promise)
        p->promise = slot->epoch;
}

void partition_truncate(struct state *s, struct partition *p, uint64_t after_index) {
    while (partition_last(p) > after_index && p->count > 0)
        slot_release(s, &p->entries[p->first + --p->count]);
}

void partition_stage(struct state *s, struct partition *p, uint64_t index, const struct slot *slot) {
    struct slot old;
    live_put(&p->staged, index, slot, &old);
    slot_hold(s, slot);
    slot_release(s, &old);
}

void partition_forget_staged(struct state *s, struct partition *p) {
    live_clear(s, &p->staged);
}

static void forget_entries(struct state *s, struct partition *p) {
    partition_truncate(s, p, p->base_index);
    free(p->entries);
    p->entries = NULL;
    p->first = p->capacity = 0;
}

void partition_drop(struct state *s, struct partition *p, uint64_t promise) {
    forget_entries(s, p);
    live_clear(s, &p->live);
    live_clear(s, &p->staged);
    p->base_index = p->base_epoch = 0;
    p->checkpoint = (struct slot){0};
    p->dropped = true;
    p->boot = 0;
    partition_mend(p);
    if (promise > p->promise || MUTATED(promise_not_in_drop))
        p->promise = MUTATED(promise_not_in_drop) ? 0 : promise;
}

void partition_damage(struct partition *p, uint64_t from_index, bool promise_lost) {
    if (!p->damaged || from_index < p->damaged_from)
        p->damaged_from = from_index;
    p->damaged = true;
    p->promise_lost |= promise_lost;
}

void partition_mend(struct partition *p) {
    p->damaged = p->promise_lost = false;
    p->damaged_from = 0;
}

/* ---- checkpoints ---- */

static bool same_epoch(const struct slot *slot, uint64_t epoch) {
    return slot && (epoch == 0 || slot->epoch == epoch);
}

/* The log's own checkpoint names only what the log holds: what is staged besides stays
 * apart, or two slots would refer to one record and reclaim would move only one. */
static const struct slot *resolve(const struct partition *p, const struct journal_live *want, bool install) {
    const struct live_slot *staged = install ? live_find(&p->staged, want->index) : NULL;
    if (staged && same_epoch(&staged->slot, want->epoch))
        return &staged->slot;
    const struct slot *own = partition_slot(p, want->index);
    return same_epoch(own, want->epoch) ? own : NULL;
}

bool partition_resolve(const struct partition *p, const struct journal_checkpoint *c, struct live_list *out) {
    *out = (struct live_list){0};
    if (c->live_count)
        xgrow(&out->items, &out->capacity, c->live_count, sizeof *out->items);
    for (size_t i = 0; i < c->live_count; i++) {
        const struct slot *slot = resolve(p, &c->live[i], c->install);
        if (!slot) {
            free(out->items);
            *out = (struct live_list){0};
            return false;
        }
        out->items[out->count++] = (struct live_slot){.index = c->live[i].index, .slot = *slot};
    }
    return true;
}

void partition_rebase(struct state *s, struct partition *p, const struct journal_checkpoint *c,
                      struct live_list *live) {
    for (size_t i = 0; i < live->count; i++)
        slot_hold(s, &live->items[i].slot);
    live_clear(s, &p->live);
    p->live = *live;
    if (c->install) {
        forget_entries(s, p);
        live_clear(s, &p->staged);
    }
    while (!c->install && p->base_index < c->base_index) {
        slot_release(s, &p->entries[p->first++]);
        p->base_index++;
        p->count--;
    }
    p->base_index = c->base_index;
    p->base_epoch = c->base_epoch;
    p->dropped = false;
}

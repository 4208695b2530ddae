// SPDX-License-Identifier: Apache-2.0
/*
 * The batches still stored, and when one is dead: all subscriptions have settled
 * all of its messages, and retention lets go. Batches die in the middle too.
 */
#include <stdlib.h>
#include <string.h>

#include "mailbox/state.h"

enum { BATCHES_SWEEP_MIN = 64 };

uint64_t batch_end(const struct batch_record *r) {
    return r->base + r->count;
}

/* Position of the first record, dead or not, that ends above offset. */
static size_t position_from(const struct batches *b, uint64_t offset) {
    size_t low = 0, high = b->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (batch_end(&b->items[b->head + middle]) > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static struct batch_record *alive_from(const struct batches *b, size_t position) {
    for (; position < b->count; position++)
        if (!b->items[b->head + position].dead)
            return &b->items[b->head + position];
    return NULL;
}

struct batch_record *batches_from(const struct batches *b, uint64_t offset) {
    return alive_from(b, position_from(b, offset));
}

struct batch_record *batches_at(const struct batches *b, uint64_t offset) {
    struct batch_record *r = batches_from(b, offset);
    return r && r->base <= offset ? r : NULL;
}

struct batch_record *batches_younger(const struct batches *b, int64_t stamp) {
    size_t low = 0, high = b->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (b->items[b->head + middle].stamp > stamp)
            high = middle;
        else
            low = middle + 1;
    }
    return alive_from(b, low);
}

struct batch_record *batches_next(const struct batches *b, const struct batch_record *r) {
    return alive_from(b, (size_t)(r - (b->items + b->head)) + 1);
}

struct batch_record *batches_push(struct batches *b) {
    if (b->head && b->head + b->count == b->capacity) {
        memmove(b->items, b->items + b->head, b->count * sizeof *b->items);
        b->head = 0;
    }
    xgrow(&b->items, &b->capacity, b->head + b->count + 1, sizeof *b->items);
    struct batch_record *r = &b->items[b->head + b->count++];
    *r = (struct batch_record){0};
    return r;
}

static void record_release(struct batch_record *r) {
    free(r->keys);
    r->keys = NULL;
    body_drop(r->body);
    r->body = NULL;
}

void batches_kill(struct batches *b, struct batch_record *r) {
    record_release(r);
    r->dead = true;
    b->dead++;
}

/* Dead ones leave: at once at the head, in the middle when they are many. */
void batches_sweep(struct batches *b) {
    while (b->count && b->items[b->head].dead) {
        b->head++;
        b->count--;
        b->dead--;
    }
    if (b->count == 0)
        b->head = 0;
    if (b->dead < BATCHES_SWEEP_MIN || b->dead * 2 < b->count)
        return;
    size_t kept = 0;
    for (size_t i = 0; i < b->count; i++)
        if (!b->items[b->head + i].dead)
            b->items[kept++] = b->items[b->head + i];
    b->head = 0;
    b->count = kept;
    b->dead = 0;
}

void batches_free(struct batches *b) {
    for (size_t i = 0; i < b->count; i++)
        record_release(&b->items[b->head + i]);
    free(b->items);
    *b = (struct batches){0};
}

/* ---- keys ---- */

static uint32_t key_hash(struct batch_string key) {
    if (key.size == 0)
        return 0;
    uint32_t hash = (uint32_t)batch_key_hash(key.data, key.size);
    return hash ? hash : 1;
}

uint32_t batch_key(const struct batch_record *r, uint64_t offset) {
    return r->keys[r->one_key ? 0 : offset - r->base];
}

void batch_read_keys(struct batch_record *r, const struct body *body) {
    struct batch_cursor cursor = batch_messages(body->data, body->size);
    struct batch_message message;
    r->keys = xmalloc(r->count * sizeof *r->keys);
    r->one_key = true;
    for (uint32_t i = 0; i < r->count; i++) {
        CHECK(batch_next(&cursor, &message));
        r->keys[i] = key_hash(message.key);
        r->one_key &= r->keys[i] == r->keys[0];
    }
    if (r->one_key)
        r->keys = xrealloc(r->keys, sizeof *r->keys);
}

/* ---- life and death ---- */

/* Messages of [first, end) that subscriptions i.. have all settled. */
static uint64_t settled_by_all(const struct mailbox *m, size_t i, uint64_t first, uint64_t end) {
    if (i == m->subscriptions_count)
        return end - first;
    const struct ranges *settled = &m->subscriptions[i]->settled;
    if (i + 1 == m->subscriptions_count)
        return ranges_covered(settled, first, end);
    uint64_t sum = 0;
    const struct range *r;
    for (uint64_t at = first; at < end && (r = ranges_from(settled, at)) && r->first < end; at = r->end)
        sum += settled_by_all(m, i + 1, r->first > at ? r->first : at, r->end < end ? r->end : end);
    return sum;
}

uint64_t batches_unsettled(const struct mailbox *m, uint64_t first, uint64_t end) {
    return end - first - settled_by_all(m, 0, first, end);
}

static bool retention_holds(const struct mailbox *m, const struct batch_record *r) {
    return (m->settings.retain_time || m->settings.retain_bytes) && batch_end(r) > m->forget_below;
}

/* All have settled it. */
static void batch_over(struct mailbox *m, struct batch_record *r, struct mailbox_effects *fx) {
    if (retention_holds(m, r)) {
        limits_arm(m);
        return;
    }
    effect_add(fx, MAILBOX_DEAD_BATCH)->index = r->index;
    m->stored_bytes -= r->bytes;
    batches_kill(&m->batches, r);
}

static void batch_set_unsettled(struct mailbox *m, struct batch_record *r, uint32_t unsettled) {
    m->messages += unsettled;
    m->messages -= r->unsettled;
    if (r->unsettled && !unsettled)
        m->bytes -= r->bytes;
    if (!r->unsettled && unsettled)
        m->bytes += r->bytes;
    r->unsettled = unsettled;
}

void batches_settled(struct mailbox *m, uint64_t first, uint64_t end, struct mailbox_effects *fx) {
    struct batch_record *r = batches_from(&m->batches, first);
    for (; r && r->base < end; r = batches_next(&m->batches, r)) {
        uint64_t low = r->base > first ? r->base : first, high = batch_end(r) < end ? batch_end(r) : end;
        uint64_t over = settled_by_all(m, 0, low, high);
        CHECK(over <= r->unsettled);
        batch_set_unsettled(m, r, r->unsettled - (uint32_t)over);
        if (over && r->unsettled == 0)
            batch_over(m, r, fx);
    }
    batches_sweep(&m->batches);
}

void batches_sum(struct mailbox *m) {
    struct batch_record *r = batches_from(&m->batches, 0);
    for (; r; r = batches_next(&m->batches, r))
        batch_set_unsettled(m, r, (uint32_t)batches_unsettled(m, r->base, batch_end(r)));
}

void batches_recount(struct mailbox *m, struct mailbox_effects *fx) {
    batches_sum(m);
    batches_release(m, fx);
}

void batches_release(struct mailbox *m, struct mailbox_effects *fx) {
    struct batch_record *r = batches_from(&m->batches, 0);
    for (; r; r = batches_next(&m->batches, r))
        if (r->unsettled == 0)
            batch_over(m, r, fx);
    batches_sweep(&m->batches);
}

void apply_batch(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    struct batch_header h;
    CHECK(e->body && e->body->size >= BATCH_HEADER_BYTES);
    batch_read_header(e->body->data, &h);
    CHECK(h.count > 0 && h.size == e->body->size && h.base_offset == m->next_offset &&
          h.stamp >= m->last_stamp);
    struct batch_record *r = batches_push(&m->batches);
    *r = (struct batch_record){
        .index = e->index, .base = h.base_offset, .stamp = h.stamp, .count = h.count, .bytes = h.size};
    if (keys_used(m))
        batch_read_keys(r, e->body);
    if (m->settings.durability == DURABILITY_NONE)
        r->body = body_keep(e->body);
    m->next_offset += h.count;
    m->last_stamp = h.stamp;
    m->stored_bytes += h.size;
    producer_committed(m, &h);
    if (m->subscriptions_count) {
        batch_set_unsettled(m, r, r->count);
    } else {
        batch_over(m, r, fx);
        batches_sweep(&m->batches);
    }
    for (size_t i = 0; i < m->subscriptions_count; i++)
        dispatch_touch(m->subscriptions[i]);
    limits_arm(m);
}

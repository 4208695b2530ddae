// SPDX-License-Identifier: Apache-2.0
/*
 * Giving space back. A victim is a segment that holds nothing any more, or is
 * mostly dead, or is the oldest while too much is used. It goes in steps:
 *
 *   1. every partition that says something in it has a newer, synced checkpoint
 *      (or drop); until then it waits: journal_needs_checkpoint
 *   2. what is still referenced is copied forward, 1 MiB a step
 *   3. once the copies are synced a REMOVED record is written
 *   4. once that is synced the file goes, or becomes the spare
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "journal/internal.h"

enum {
    RECLAIM_STEP_BYTES = 1 << 20,
    RECLAIM_STEP_COPIES = 256,    /* each a read */
    RECLAIM_STEP_LOOKS = 4096,    /* records or partitions looked at */
    RECLAIM_LIVE_PERCENT = 25,    /* below: mostly dead */
    RECLAIM_CROWDED_PERCENT = 90, /* over the space target: below, copying gains something */
    RECLAIM_ROUND_PERCENT = 50    /* still referenced after the checkpoints: not worth it */
};

void journal_mark_dead(struct journal *j, uint64_t partition, uint64_t index) {
    struct partition *p = partition_find(&j->state, partition);
    struct slot *slot = p ? partition_slot(p, index) : NULL;
    if (slot && slot->type == j->state.batch_type)
        slot_kill(&j->state, slot);
}

void journal_set_aside(struct journal *j, uint64_t partition, bool aside) {
    struct partition *p = partition_find(&j->state, partition);
    if (p)
        p->aside = aside;
    j->carried = 0; /* the victim's may have been looked at already */
}

void journal_carry(struct journal *j, uint64_t partition) {
    struct partition *p = partition_find(&j->state, partition);
    struct body *body = NULL;
    if (!p)
        return;
    if (p->dropped) {
        journal_put_drop(j, p);
        return;
    }
    enum err e = journal_read_checkpoint(j, partition, &body);
    if (e != ERR_OK && e != ERR_NOT_FOUND) {
        journal_write_damage(j, partition, 0);
        store_fail(&j->store, e == ERR_IO ? EIO : 0, "read", "checkpoint");
    }
    struct journal_live *live = xcalloc(p->live.count + 1, sizeof *live);
    struct journal_checkpoint c = {.base_index = p->base_index,
                                   .base_epoch = p->base_epoch,
                                   .live = live,
                                   .live_count = journal_live(j, partition, live, p->live.count),
                                   .body = body};
    CHECK(journal_put_checkpoint(j, p, &c) == ERR_OK);
    body_drop(body);
    free(live);
}

/* ---- what a partition still needs of a segment ---- */

enum cover { COVER_NONE, COVER_WRITTEN, COVER_SYNCED };

/* What the segment says of the partition is said again in a newer one. */
static enum cover covered(const struct journal *j, uint64_t id, const struct segment *g) {
    const struct partition *p = partition_find(&j->state, id);
    if (!p)
        return COVER_SYNCED;
    if (p->dropped && p->forgotten && p->ticket <= j->synced && p->holders == 1)
        return COVER_SYNCED; /* nothing older is left that it would have to contradict */
    if (p->reset.segment <= g->number && !MUTATED(reclaimed_unsaid))
        return COVER_NONE;
    return p->ticket <= j->synced || MUTATED(reclaimed_unsynced) ? COVER_SYNCED : COVER_WRITTEN;
}

static enum cover all_covered(const struct journal *j, const struct segment *g) {
    enum cover worst = COVER_SYNCED;
    for (size_t i = 0; i < g->partitions_count && worst > COVER_NONE; i++) {
        enum cover c = covered(j, g->partitions[i], g);
        worst = c < worst ? c : worst;
    }
    return worst;
}

/* All that was done when the segment lost its last reference is synced. Letting
 * staged ones go writes nothing: then there is no turn to wait for. */
static bool released(const struct journal *j, const struct segment *g) {
    bool idle = turn_empty(j->writer.turn) && j->in_flight_count == 0;
    return g->release <= j->synced || idle || MUTATED(reclaimed_unsynced);
}

/* ---- the victim ---- */

static bool below(uint64_t part, uint64_t whole, unsigned percent) {
    return part * 100 < whole * percent;
}

static bool too_much_used(const struct journal *j) {
    uint64_t total = 0, live = 0;
    for (size_t i = 0; i < j->state.segments_count; i++) {
        total += j->state.segments[i]->bytes;
        live += j->state.segments[i]->live;
    }
    return j->space_target && total > j->space_target && live < j->space_target;
}

static bool worth_it(const struct segment *g, bool crowded) {
    uint64_t used = g->tried ? g->held : g->live;
    return g->refs == 0 || below(used, g->bytes, RECLAIM_LIVE_PERCENT) ||
           (crowded && below(used, g->bytes, RECLAIM_CROWDED_PERCENT));
}

static struct segment *choose(struct journal *j) {
    struct segment *oldest = NULL;
    bool crowded = too_much_used(j);
    for (size_t i = 0; i + 1 < j->state.segments_count; i++) {
        struct segment *g = j->state.segments[i];
        if (g->number >= j->writer.proven.segment)
            break; /* not wholly synced */
        if (g->refs == 0 && released(j, g) && all_covered(j, g) == COVER_SYNCED)
            return g;
        if (!oldest && worth_it(g, crowded))
            oldest = g;
    }
    return oldest;
}

/* The same for the victim. What is covered and synced stays so: each partition is
 * looked at once. */
static enum cover victim_covered(struct journal *j, const struct segment *g) {
    while (j->covered < g->partitions_count) {
        enum cover c = covered(j, g->partitions[j->covered], g);
        if (c != COVER_SYNCED)
            return c;
        j->covered++;
    }
    return COVER_SYNCED;
}

static void victim_clear(struct journal *j) {
    scan_free(&j->copies);
    j->copies_loaded = false;
    j->victim = 0;
    j->copied = j->covered = j->carried = 0;
}

static struct segment *victim(struct journal *j) {
    struct segment *g = j->victim ? segment_find(&j->state, j->victim) : NULL;
    if (g)
        return g;
    victim_clear(j);
    g = choose(j);
    j->victim = g ? g->number : 0;
    return g;
}

size_t journal_needs_checkpoint(struct journal *j, void (*each)(void *ctx, uint64_t partition), void *ctx) {
    struct segment *g = victim(j);
    size_t wanted = 0;
    if (!g || victim_covered(j, g) == COVER_SYNCED)
        return 0;
    size_t looks = g->partitions_count - j->covered;
    looks = looks < RECLAIM_STEP_LOOKS ? looks : RECLAIM_STEP_LOOKS;
    uint64_t *ids = xcalloc(looks, sizeof *ids);
    for (size_t i = 0; i < looks; i++)
        if (covered(j, g->partitions[j->covered + i], g) == COVER_NONE)
            ids[wanted++] = g->partitions[j->covered + i];
    for (size_t i = 0; i < wanted; i++)
        each(ctx, ids[i]);
    free(ids);
    return wanted;
}

/* ---- copying forward ---- */

static bool load_copies(struct journal *j, const struct segment *g) {
    if (j->copies_loaded || g->refs == 0)
        return true;
    j->copies_loaded = scan_seal(&j->store, j->writer.identity, g->number, g->bytes, g->end, &j->copies) ||
                       scan_segment(&j->store, j->writer.identity, g->number, g->end, &j->copies) == ERR_OK;
    if (!j->copies_loaded)
        store_fail(&j->store, EIO, "read", "segment");
    return j->copies_loaded;
}

static bool at(const struct slot *slot, uint32_t segment, uint32_t offset) {
    return slot && slot->segment == segment && slot->offset == offset;
}

/* The slot that refers to the record, if one does. */
static struct slot *referring(struct partition *p, const struct record *r, uint32_t segment,
                              uint32_t offset) {
    struct slot *slot = partition_slot(p, r->index);
    if (at(slot, segment, offset))
        return slot;
    struct live_slot *staged = live_find(&p->staged, r->index);
    return staged && at(&staged->slot, segment, offset) ? &staged->slot : NULL;
}

static size_t copy_record(struct journal *j, const struct segment *g, const struct scan_item *item) {
    struct partition *p = partition_find(&j->state, item->record.partition);
    struct slot *slot = p ? referring(p, &item->record, g->number, item->offset) : NULL;
    struct body *body = NULL;
    struct record r;
    if (!slot)
        return 0;
    struct position from = {g->number, item->offset};
    enum err e = journal_read_at(&j->store, j->writer.identity, from, slot->bytes, &r, &body);
    if (e != ERR_OK) {
        store_fail(&j->store, e == ERR_IO ? EIO : 0, "read", "segment");
        slot_move(&j->state, slot, 0, 0);
        journal_write_damage(j, p->id, item->record.index);
        return 0;
    }
    struct record copy = {
        .kind = RECORD_MOVED, .type = slot->type, .epoch = slot->epoch, .index = item->record.index};
    struct position to = journal_put(j, p, &copy, NULL, 0, body->size ? body : NULL);
    slot_move(&j->state, slot, to.segment, to.offset);
    body_drop(body);
    return copy.bytes + RECORD_HEADER_BYTES;
}

static bool names_bytes(const struct scan_item *i) {
    uint8_t k = i->record.kind;
    return i->what != SCAN_GAP && (k == RECORD_ENTRY || k == RECORD_MOVED || k == RECORD_STAGED);
}

static void lose(struct journal *j, struct partition *p, uint64_t index, struct slot *slot,
                 uint32_t segment) {
    if (slot->segment != segment)
        return;
    slot_move(&j->state, slot, 0, 0);
    journal_write_damage(j, p->id, index);
}

/* The segment was gone through and something referenced was not met: its header
 * has become unreadable since the journal was opened. */
static void lose_rest(struct journal *j, uint32_t segment) {
    struct partition *p, *next;
    HASH_ITER(hh, j->state.partitions, p, next) {
        for (size_t i = 0; i < p->live.count; i++)
            lose(j, p, p->live.items[i].index, &p->live.items[i].slot, segment);
        for (size_t i = 0; i < p->count; i++)
            lose(j, p, p->base_index + 1 + i, &p->entries[p->first + i], segment);
        for (size_t i = 0; i < p->staged.count; i++)
            lose(j, p, p->staged.items[i].index, &p->staged.items[i].slot, segment);
    }
}

static void copy_step(struct journal *j, const struct segment *g) {
    size_t bytes = 0, looks = 0, copies = 0;
    while (g->refs > 0 && j->copied < j->copies.count && bytes < RECLAIM_STEP_BYTES &&
           copies < RECLAIM_STEP_COPIES && looks++ < RECLAIM_STEP_LOOKS) {
        const struct scan_item *item = &j->copies.items[j->copied++];
        size_t copied = names_bytes(item) ? copy_record(j, g, item) : 0;
        bytes += copied;
        copies += copied > 0;
    }
    j->statistics.moved_bytes += bytes;
    if (g->refs > 0 && j->copied == j->copies.count)
        lose_rest(j, g->number);
}

/* ---- going ---- */

/* A tombstone that nothing needs any more goes with the last of its segments. */
static void forget_tombstones(struct journal *j, const struct segment *g) {
    for (size_t i = 0; i < g->partitions_count; i++) {
        struct partition *p = partition_find(&j->state, g->partitions[i]);
        if (p && p->dropped && p->forgotten && p->reset.segment == g->number)
            partition_delete(&j->state, p);
    }
}

static void leave(struct journal *j, uint32_t number) {
    struct segment *g = segment_take(&j->state, number);
    CHECK(g->refs == 0);
    forget_tombstones(j, g);
    xgrow(&j->leaving, &j->leaving_capacity, j->leaving_count + 1, sizeof *j->leaving);
    j->leaving[j->leaving_count++] = (struct leaving){g, j->state.ticket};
    writer_add(&j->writer, &(struct record){.kind = RECORD_REMOVED, .index = number}, NULL, 0, NULL);
    victim_clear(j);
}

static bool remove_left(struct journal *j) {
    size_t kept = 0, before = j->leaving_count;
    for (size_t i = 0; i < before; i++) {
        struct leaving l = j->leaving[i];
        if (l.ticket > j->synced && !MUTATED(reclaimed_unsynced)) {
            j->leaving[kept++] = l;
            continue;
        }
        journal_submit(j, job_remove(&j->store, l.segment->number));
        segment_free(l.segment);
        j->statistics.reclaimed++;
    }
    j->leaving_count = kept;
    return kept < before;
}

/* Tombstones and what has been set aside have no owner to ask. */
static bool carry_ownerless(struct journal *j, const struct segment *g) {
    size_t carried = 0;
    for (size_t n = 0; n < RECLAIM_STEP_LOOKS && j->carried < g->partitions_count; n++) {
        const struct partition *p = partition_find(&j->state, g->partitions[j->carried++]);
        if (!p || !(p->dropped || p->aside) || covered(j, p->id, g) != COVER_NONE)
            continue;
        journal_carry(j, p->id);
        carried++;
    }
    return carried > 0 || j->carried < g->partitions_count;
}

/* Everything newer is synced, and still most of it is needed. */
static bool give_up(struct journal *j, struct segment *g) {
    if (j->copied > 0 || too_much_used(j) || below(g->held, g->bytes, RECLAIM_ROUND_PERCENT))
        return false;
    g->tried = true;
    victim_clear(j);
    return true;
}

/* Publishes are refused while the disk is full, so that there may be no flush that
 * would notice the space somebody else has made. */
static void look_for_space(struct journal *j) {
    if (journal_full(j) && !atomic_exchange(&j->store.measuring, true))
        journal_submit(j, job_measure(&j->store));
}

enum journal_progress journal_reclaim(struct journal *j) {
    look_for_space(j);
    bool worked = remove_left(j);
    struct segment *g = store_failed(&j->store) ? NULL : victim(j);
    if (!g)
        return worked ? JOURNAL_WORKED : j->leaving_count ? JOURNAL_WAITS : JOURNAL_IDLE;
    if (carry_ownerless(j, g))
        return JOURNAL_WORKED;
    if (victim_covered(j, g) != COVER_SYNCED)
        return worked ? JOURNAL_WORKED : JOURNAL_WAITS;
    if (g->refs > 0) {
        if (give_up(j, g))
            return JOURNAL_WORKED;
        if (!load_copies(j, g))
            return JOURNAL_WAITS;
        copy_step(j, g);
        return JOURNAL_WORKED;
    }
    if (!released(j, g))
        return worked ? JOURNAL_WORKED : JOURNAL_WAITS;
    leave(j, g->number);
    return JOURNAL_WORKED;
}

// SPDX-License-Identifier: Apache-2.0
#include "journal/replay.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "journal/recover_table.h"

/* ---- first pass ---- */

void replay_restart(struct replay *r) {
    struct partition *p, *next;
    HASH_ITER(hh, r->state->partitions, p, next) {
        partition_clear(p);
    }
}

static bool resets(const struct partition *p, const struct scan_item *i, struct position at) {
    if (i->record.kind == RECORD_DROP)
        return true;
    bool rejected = p->reject.segment && !position_before(at, p->reject);
    return i->record.kind == RECORD_CHECKPOINT && i->what == SCAN_RECORD && !rejected;
}

void replay_survey(struct replay *r, uint32_t segment, const struct scan *scan, uint32_t from, uint32_t end) {
    for (size_t n = 0; n < scan->count; n++) {
        const struct scan_item *i = &scan->items[n];
        struct position at = {segment, i->offset};
        if (i->what == SCAN_GAP || i->offset < from || i->end > end || !record_states(i->record.kind))
            continue;
        struct partition *p = partition_get(r->state, i->record.partition);
        if (!resets(p, i, at))
            continue;
        p->reset = at;
        p->checkpoint = (struct slot){0};
        if (i->record.kind == RECORD_CHECKPOINT)
            p->checkpoint = (struct slot){
                .segment = segment, .offset = i->offset, .bytes = i->record.bytes, .epoch = i->record.epoch};
        p->base_index = p->checkpoint.segment ? i->record.index : 0;
    }
}

/* The checkpoint's body; NULL if it is bad. */
static uint8_t *read_body(struct replay *r, const struct slot *slot, enum err *error) {
    uint8_t header[RECORD_HEADER_BYTES];
    uint32_t seed = segment_seed(r->identity, slot->segment);
    struct record record;
    size_t got = 0;
    uint8_t *body = xmalloc(slot->bytes + 1);
    *error = store_read(r->store, slot->segment, slot->offset, header, sizeof header, &got);
    bool good = *error == ERR_OK && got == sizeof header &&
                record_decode(header, seed, slot->offset, &record) && record.bytes == slot->bytes;
    if (good) {
        *error = store_read(r->store, slot->segment, slot->offset + sizeof header, body, slot->bytes, &got);
        good = *error == ERR_OK && got == slot->bytes && crc32c(seed, body, got) == record.body_crc;
    }
    if (good)
        return body;
    free(body);
    return NULL;
}

/* Named batches and entries, their places still to be found. */
static void expect(struct partition *p, const struct checkpoint_prefix *prefix) {
    struct slot old;
    for (size_t i = 0; i < prefix->live_count; i++)
        for (uint64_t n = 0; n < prefix->live[i].count; n++)
            live_put(&p->live, prefix->live[i].first + n, &(struct slot){.epoch = prefix->live[i].epoch},
                     &old);
    p->count = (size_t)(prefix->last_index - p->base_index);
    xgrow(&p->entries, &p->capacity, p->count + 1, sizeof *p->entries);
    uint64_t epoch = 0;
    for (size_t i = 0, run = 0; i < p->count; i++) {
        if (run < prefix->tail_count && prefix->tail[run].first == p->base_index + 1 + i)
            epoch = prefix->tail[run++].epoch;
        p->entries[i] = (struct slot){.epoch = epoch};
    }
}

static bool load_checkpoint(struct replay *r, struct partition *p, enum err *error) {
    struct checkpoint_prefix prefix = {0};
    uint8_t *body = read_body(r, &p->checkpoint, error);
    bool good = body && checkpoint_decode(body, p->checkpoint.bytes, p->base_index, &prefix);
    if (good) {
        p->promise = prefix.promise;
        p->base_epoch = p->checkpoint.epoch;
        p->damaged = prefix.damaged;
        p->promise_lost = prefix.promise_lost;
        p->damaged_from = prefix.damaged_from;
        expect(p, &prefix);
    }
    checkpoint_prefix_free(&prefix);
    free(body);
    return good;
}

bool replay_checkpoints(struct replay *r, enum err *error) {
    bool all = true;
    struct partition *p, *next;
    *error = ERR_OK;
    HASH_ITER(hh, r->state->partitions, p, next) {
        if (!p->checkpoint.segment || load_checkpoint(r, p, error))
            continue;
        if (*error)
            return false;
        p->reject = p->reset;
        all = false;
    }
    return all;
}

/* ---- second pass ---- */

/* A place for bytes that the state names; the newest copy is the one kept. */
static void found(struct partition *p, const struct record *record, struct position now) {
    struct slot *slot = partition_slot(p, record->index);
    if (!slot || slot->epoch != record->epoch)
        return;
    slot->segment = now.segment;
    slot->offset = now.offset;
    slot->bytes = record->bytes;
    slot->type = record->type;
}

static void append_slot(struct partition *p, const struct slot *slot) {
    xgrow(&p->entries, &p->capacity, p->first + p->count + 1, sizeof *p->entries);
    p->entries[p->first + p->count++] = *slot;
}

/* Entries between the log's end and `index` are gone. */
static void fill_hole(struct partition *p, uint64_t index) {
    partition_damage(p, partition_last(p) + 1, true);
    if (index - partition_last(p) > REPLAY_HOLE_MAX || (p->count == 0 && p->base_index == 0)) {
        p->count = p->first = 0;
        p->base_index = index - 1;
        p->base_epoch = 0;
    }
    while (partition_last(p) + 1 < index)
        append_slot(p, &(struct slot){0});
}

static void on_entry(struct partition *p, const struct record *record, struct position now) {
    uint64_t last = partition_last(p);
    if (record->index <= p->base_index) { /* the checkpoint it follows was lost */
        partition_damage(p, 0, true);
        return;
    }
    if (record->index > last + 1 && MUTATED(damaged_middle_cut))
        return;
    if (record->index > last + 1)
        fill_hole(p, record->index);
    if (record->index <= last) { /* a truncate was lost */
        partition_damage(p, record->index, true);
        p->count = (size_t)(record->index - p->base_index - 1);
    }
    append_slot(p, &(struct slot){.segment = now.segment,
                                  .offset = now.offset,
                                  .bytes = record->bytes,
                                  .type = record->type,
                                  .epoch = record->epoch});
    p->dropped = false;
}

static void on_truncate(struct partition *p, const struct record *record) {
    if (record->index < p->base_index)
        partition_damage(p, 0, true);
    else if (record->index < partition_last(p))
        p->count = (size_t)(record->index - p->base_index);
}

static void on_reset(struct partition *p, const struct record *record, struct position now) {
    p->reached = true;
    p->reset = now;
    p->dropped = record->kind == RECORD_DROP;
    if (record->kind == RECORD_CHECKPOINT) {
        p->checkpoint.segment = now.segment;
        p->checkpoint.offset = now.offset;
    }
}

/* Behind the newest checkpoint. */
static void apply(struct partition *p, const struct record *record, struct position now) {
    switch (record->kind) {
    case RECORD_ENTRY:
        on_entry(p, record, now);
        break;
    case RECORD_TRUNCATE:
        on_truncate(p, record);
        break;
    case RECORD_MOVED:
        found(p, record, now);
        break;
    case RECORD_DAMAGE:
        partition_damage(p, record->index, record->flags & DAMAGE_FLAG_PROMISE_LOST);
        break;
    case RECORD_PROMISE: /* the promise itself is learned from any */
        if (record->index)
            p->boot = record->index;
        break;
    default: /* STAGED: forgotten at a restart */
        break;
    }
}

static bool names_bytes(uint8_t kind) {
    return kind == RECORD_ENTRY || kind == RECORD_MOVED || kind == RECORD_STAGED;
}

static enum bytes_found kind_of_bad(uint8_t kind) {
    switch (kind) {
    case RECORD_ENTRY:
        return FOUND_BAD_ENTRY;
    case RECORD_CHECKPOINT:
        return FOUND_BAD_CHECKPOINT;
    case RECORD_SEGMENTS:
        return FOUND_BAD_LIST;
    default:
        return FOUND_BAD_COPY;
    }
}

static void on_bad_body(struct replay *r, struct partition *p, const struct record *record,
                        struct position now) {
    switch (bytes_decide(BYTES_PROVEN, kind_of_bad(record->kind))) {
    case BYTES_DAMAGE_ENTRY:
        if (MUTATED(damaged_middle_cut))
            break;
        if (p->reached)
            on_entry(p, record, now);
        if (p->reached)
            partition_damage(p, record->index, false);
        break;
    case BYTES_DAMAGE_CHECKPOINT:
        if (p->reached)
            partition_damage(p, 0, true);
        break;
    default:
        break;
    }
    r->damaged = true;
}

static void learn_promise(struct partition *p, const struct record *record) {
    bool carries =
        record->kind == RECORD_PROMISE || record->kind == RECORD_ENTRY || record->kind == RECORD_DROP;
    if (carries && record->epoch > p->promise)
        p->promise = record->epoch;
}

void replay_record(struct replay *r, const struct record *record, uint8_t what, struct position from,
                   struct position now) {
    struct partition *p = partition_find(r->state, record->partition);
    if (!p || !(record_states(record->kind) || names_bytes(record->kind)))
        return;
    if (record_states(record->kind))
        segment_note(segment_find(r->state, now.segment), p);
    learn_promise(p, record);
    if (!p->reset.segment)
        p->reached = true;
    if (!p->reached && position_value(from) == position_value(p->reset))
        on_reset(p, record, now);
    else if (what == SCAN_BAD_BODY)
        on_bad_body(r, p, record, now);
    else if (p->reached && record->kind == RECORD_CHECKPOINT)
        on_bad_body(r, p, record, now); /* rejected: its body is bad */
    else if (p->reached)
        apply(p, record, now);
    else if (names_bytes(record->kind))
        found(p, record, now);
}

void replay_lost(struct replay *r, uint64_t summary) {
    struct partition *p, *next;
    r->damaged = true;
    r->suspect |= summary;
    HASH_ITER(hh, r->state->partitions, p, next) {
        if ((p->reached || !p->reset.segment) && (summary & summary_bit(p->id)))
            partition_damage(p, partition_last(p) + 1, true);
    }
}

/* What the gap before item n may have held: if the flushes on both sides follow
 * each other, only partitions of the first; else any. */
static uint64_t gap_summary(const struct scan *scan, size_t n, const struct record *flush) {
    for (size_t i = n + 1; flush && i < scan->count; i++)
        if (scan->items[i].what != SCAN_GAP && scan->items[i].record.kind == RECORD_FLUSH)
            return scan->items[i].record.epoch == flush->epoch + 1 ? flush->partition : UINT64_MAX;
    return UINT64_MAX;
}

void replay_segment(struct replay *r, uint32_t segment, const struct scan *scan, uint32_t from,
                    uint32_t end) {
    const struct record *flush = NULL;
    uint32_t covered = from;
    for (size_t n = 0; n < scan->count; n++) {
        const struct scan_item *i = &scan->items[n];
        if (i->offset < from || i->offset >= end)
            continue;
        covered = i->end;
        if (i->what == SCAN_GAP) {
            CHECK(bytes_decide(BYTES_PROVEN, FOUND_GAP) == BYTES_DAMAGE_FLUSH);
            if (!MUTATED(gap_ignored))
                replay_lost(r, gap_summary(scan, n, flush));
        } else if (i->record.kind == RECORD_FLUSH) {
            flush = &i->record;
        } else {
            struct position at = {segment, i->offset};
            replay_record(r, &i->record, i->what, at, at);
        }
    }
    if (covered < end) {
        CHECK(bytes_decide(BYTES_PROVEN, FOUND_END) == BYTES_DAMAGE_FLUSH);
        replay_lost(r, UINT64_MAX);
    }
}

static void finish_partition(struct state *s, struct partition *p) {
    for (size_t i = 0; i < p->live.count; i++) {
        slot_hold(s, &p->live.items[i].slot);
        if (!p->live.items[i].slot.segment)
            partition_damage(p, p->live.items[i].index, false);
    }
    for (size_t i = 0; i < p->count; i++) {
        slot_hold(s, &p->entries[i]);
        if (!p->entries[i].segment)
            partition_damage(p, p->base_index + 1 + i, false);
    }
}

void replay_finish(struct replay *r) {
    struct partition *p, *next;
    HASH_ITER(hh, r->state->partitions, p, next) {
        finish_partition(r->state, p);
        r->damaged |= p->damaged;
    }
}

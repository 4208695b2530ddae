// SPDX-License-Identifier: Apache-2.0
/* Records into the turn, and what they mean for the state. */
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "journal/internal.h"

struct position journal_put(struct journal *j, struct partition *p, struct record *r, const void *prefix,
                            size_t prefix_size, struct body *body) {
    r->partition = p->id;
    struct position at = writer_add(&j->writer, r, prefix, prefix_size, body);
    if (record_states(r->kind))
        segment_note(segment_head(&j->state), p);
    return at;
}

static struct slot slot_at(struct position at, const struct record *r) {
    return (struct slot){
        .segment = at.segment, .offset = at.offset, .bytes = r->bytes, .type = r->type, .epoch = r->epoch};
}

void journal_write_entry(struct journal *j, uint64_t partition, uint64_t epoch, uint64_t index, uint8_t type,
                         struct body *body) {
    struct partition *p = partition_get(&j->state, partition);
    CHECK(index == partition_last(p) + 1 && epoch >= partition_last_epoch(p));
    struct record r = {.kind = RECORD_ENTRY, .type = type, .epoch = epoch, .index = index};
    struct position at = journal_put(j, p, &r, NULL, 0, body);
    struct slot slot = slot_at(at, &r);
    partition_append(&j->state, p, &slot);
    p->dropped = false;
}

void journal_write_promise(struct journal *j, uint64_t partition, uint64_t epoch) {
    struct partition *p = partition_get(&j->state, partition);
    if (epoch <= p->promise)
        return;
    p->promise = epoch;
    journal_put(j, p, &(struct record){.kind = RECORD_PROMISE, .epoch = epoch}, NULL, 0, NULL);
}

static void put_boot(struct journal *j, struct partition *p) {
    journal_put(j, p, &(struct record){.kind = RECORD_PROMISE, .epoch = p->promise, .index = p->boot}, NULL,
                0, NULL);
}

void journal_write_boot(struct journal *j, uint64_t partition, uint64_t boot) {
    struct partition *p = partition_get(&j->state, partition);
    if (p->boot == boot)
        return;
    p->boot = boot;
    put_boot(j, p);
}

void journal_write_truncate(struct journal *j, uint64_t partition, uint64_t after_index) {
    struct partition *p = partition_get(&j->state, partition);
    CHECK(after_index >= p->base_index);
    if (after_index >= partition_last(p))
        return;
    journal_put(j, p, &(struct record){.kind = RECORD_TRUNCATE, .index = after_index}, NULL, 0, NULL);
    partition_truncate(&j->state, p, after_index);
}

void journal_write_staged(struct journal *j, uint64_t partition, uint64_t epoch, uint64_t index, uint8_t type,
                          struct body *body) {
    struct partition *p = partition_get(&j->state, partition);
    struct record r = {.kind = RECORD_STAGED, .type = type, .epoch = epoch, .index = index};
    struct position at = journal_put(j, p, &r, NULL, 0, body);
    struct slot slot = slot_at(at, &r);
    partition_stage(&j->state, p, index, &slot);
}

void journal_forget_staged(struct journal *j, uint64_t partition) {
    struct partition *p = partition_find(&j->state, partition);
    if (p)
        partition_forget_staged(&j->state, p);
}

void journal_forget(struct journal *j, uint64_t partition) {
    struct partition *p = partition_find(&j->state, partition);
    if (p)
        p->forgotten = true;
}

static void write_damage(struct journal *j, struct partition *p) {
    uint8_t flags = p->promise_lost ? DAMAGE_FLAG_PROMISE_LOST : 0;
    journal_put(j, p, &(struct record){.kind = RECORD_DAMAGE, .flags = flags, .index = p->damaged_from}, NULL,
                0, NULL);
}

void journal_put_drop(struct journal *j, struct partition *p) {
    struct record r = {.kind = RECORD_DROP, .epoch = p->promise};
    p->reset = journal_put(j, p, &r, NULL, 0, NULL);
    p->ticket = j->state.ticket;
    if (p->damaged)
        write_damage(j, p);
}

void journal_write_drop(struct journal *j, uint64_t partition, uint64_t promise) {
    struct partition *p = partition_get(&j->state, partition);
    partition_drop(&j->state, p, promise);
    journal_put_drop(j, p);
}

void journal_write_damage(struct journal *j, uint64_t partition, uint64_t from_index) {
    struct partition *p = partition_get(&j->state, partition);
    partition_damage(p, from_index, false);
    write_damage(j, p);
}

/* A checkpoint of what is there now, so that bad bytes before it are nothing to the
 * partition any more, and those behind it are. */
void journal_write_mended(struct journal *j, uint64_t partition) {
    struct partition *p = partition_get(&j->state, partition);
    partition_mend(p);
    journal_carry(j, partition);
}

/* ---- checkpoints ---- */

static struct checkpoint_run *add_run(struct checkpoint_run **runs, size_t *count, size_t *capacity) {
    xgrow(runs, capacity, *count + 1, sizeof **runs);
    return &(*runs)[(*count)++];
}

static void add_live_runs(struct checkpoint_prefix *out, const struct live_list *live) {
    size_t capacity = 0;
    struct checkpoint_run *run = NULL;
    for (size_t i = 0; i < live->count; i++) {
        uint64_t index = live->items[i].index, epoch = live->items[i].slot.epoch;
        if (run && run->epoch == epoch && run->first + run->count == index) {
            run->count++;
            continue;
        }
        run = add_run(&out->live, &out->live_count, &capacity);
        *run = (struct checkpoint_run){index, 1, epoch};
    }
}

static void add_tail_runs(struct checkpoint_prefix *out, const struct partition *p, uint64_t base_index) {
    size_t capacity = 0;
    uint64_t epoch = UINT64_MAX;
    out->last_index = partition_last(p);
    for (uint64_t index = base_index + 1; index <= out->last_index; index++) {
        const struct slot *slot = partition_slot(p, index);
        if (slot->epoch == epoch)
            continue;
        epoch = slot->epoch;
        *add_run(&out->tail, &out->tail_count, &capacity) = (struct checkpoint_run){index, 0, epoch};
    }
}

static void encode_prefix(struct encoder *e, const struct partition *p, const struct journal_checkpoint *c,
                          const struct live_list *live) {
    struct checkpoint_prefix prefix = {.promise = p->promise,
                                       .damaged = p->damaged,
                                       .promise_lost = p->promise_lost,
                                       .damaged_from = p->damaged_from,
                                       .last_index = c->base_index};
    if (c->base_epoch > prefix.promise)
        prefix.promise = c->base_epoch;
    add_live_runs(&prefix, live);
    if (!c->install)
        add_tail_runs(&prefix, p, c->base_index);
    checkpoint_encode(e, c->base_index, &prefix);
    checkpoint_prefix_free(&prefix);
}

enum err journal_put_checkpoint(struct journal *j, struct partition *p, const struct journal_checkpoint *c) {
    struct live_list live;
    struct encoder e = {0};
    if (!partition_resolve(p, c, &live))
        return ERR_NOT_FOUND;
    encode_prefix(&e, p, c, &live);
    if (e.size + (c->body ? c->body->size : 0) > RECORD_BODY_BYTES_MAX) {
        free(live.items);
        encoder_free(&e);
        return ERR_TOO_LARGE;
    }
    struct record r = {.kind = RECORD_CHECKPOINT, .epoch = c->base_epoch, .index = c->base_index};
    struct position at = journal_put(j, p, &r, e.data, e.size, c->body);
    encoder_free(&e);
    partition_rebase(&j->state, p, c, &live);
    if (c->base_epoch > p->promise)
        p->promise = c->base_epoch;
    p->checkpoint = slot_at(at, &r);
    p->reset = at;
    p->ticket = j->state.ticket;
    if (p->boot) /* what stands before the checkpoint is not read again */
        put_boot(j, p);
    return ERR_OK;
}

enum err journal_write_checkpoint(struct journal *j, uint64_t partition, const struct journal_checkpoint *c) {
    struct partition *p = partition_get(&j->state, partition);
    CHECK(c->install || (c->base_index >= p->base_index && c->base_index <= partition_last(p)));
    for (size_t i = 0; i < c->live_count; i++)
        CHECK(c->live[i].index > (i ? c->live[i - 1].index : 0) && c->live[i].index <= c->base_index);
    return journal_put_checkpoint(j, p, c);
}

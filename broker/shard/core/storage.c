// SPDX-License-Identifier: Apache-2.0
/*
 * The shard's journal: records of a turn in, one flush, completions back.
 *
 * A turn's flush remembers for each partition how far its core's writes went
 * (replica_mark); when the journal says synced, each is told so and sends what
 * it had kept back. Failures of the disk end the process inside the journal.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

/* Damage is numbered within a start of the journal, so that numbers only grow. */
enum { DAMAGE_START_SHIFT = 24 };

/* ---- completions ---- */

static void tell(struct shard *s, const struct flush_item *item, bool synced) {
    struct hosted *h = shard_find(s, item->partition);
    usec_t now = shard_now(s);
    if (!h || !h->partition || h->opened != item->opened)
        return; /* dropped since, and perhaps here again: its marks begin anew */
    shard_working_on(s, h->id);
    shard_touch(h);
    if (item->mark)
        replica_stored(h->partition->replica, item->mark, synced, now, &h->partition->replica_effects);
    if (synced && item->checkpoint)
        partition_checkpointed(h->partition, item->checkpoint);
    partition_run(h->partition, now);
    shard_working_on(s, 0);
}

void storage_written(struct shard *s, uint64_t ticket) {
    for (; s->written_next && s->written_next->ticket <= ticket; s->written_next = s->written_next->next)
        for (size_t i = 0; i < s->written_next->count; i++)
            tell(s, &s->written_next->items[i], false);
}

void storage_synced(struct shard *s, uint64_t ticket) {
    journal_completed(s->journal, ticket);
    while (s->flushes && s->flushes->ticket <= ticket) {
        struct flush *f = s->flushes;
        s->flushes = f->next;
        if (!s->flushes)
            s->flushes_last = NULL;
        if (s->written_next == f)
            s->written_next = f->next;
        for (size_t i = 0; i < f->count; i++)
            tell(s, &f->items[i], true);
        free(f->items);
        free(f);
        counters_add(COUNTER_journal_syncs, 1);
    }
}

/* ---- writing ---- */

static bool written(const struct hosted *h) {
    return h->settings.durability == DURABILITY_WRITTEN;
}

static void write_whole(struct hosted *h) {
    struct shard *s = h->shard;
    struct journal_partition jp = {0};
    journal_get(s->journal, h->id, &jp);
    if (written(h) && s->boot)
        journal_write_boot(s->journal, h->id, s->boot);
    if (jp.damaged)
        journal_write_mended(s->journal, h->id);
}

void storage_write(struct hosted *h, const struct replica_effect *e) {
    struct journal *j = h->shard->journal;
    switch (e->type) {
    case REPLICA_WRITE:
        journal_write_entry(j, h->id, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        break;
    case REPLICA_TRUNCATE:
        journal_write_truncate(j, h->id, e->index);
        break;
    case REPLICA_PROMISE:
        journal_write_promise(j, h->id, e->promise.epoch);
        break;
    case REPLICA_STAGE:
        journal_write_staged(j, h->id, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        xgrow(&h->staged, &h->staged_capacity, h->staged_count + 1, sizeof *h->staged);
        h->staged[h->staged_count++] = (struct staged){e->entry.index, e->entry.epoch};
        break;
    case REPLICA_MARK_DAMAGED:
        journal_write_damage(j, h->id, e->damage.everything ? 1 : e->damage.from);
        break;
    case REPLICA_MARK_WHOLE:
        write_whole(h);
        break;
    case REPLICA_UNSTAGE:
        journal_forget_staged(j, h->id);
        h->staged_count = 0;
        break;
    default:
        CHECK(!"not a write");
    }
}

static uint64_t staged_epoch(const struct hosted *h, uint64_t index) {
    for (size_t i = h->staged_count; i-- > 0;)
        if (h->staged[i].index == index)
            return h->staged[i].epoch;
    return 0;
}

void storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c) {
    struct journal_live *live = xcalloc(c->live_count, sizeof *live);
    for (size_t i = 0; i < c->live_count; i++)
        live[i] = (struct journal_live){c->live[i], c->install ? staged_epoch(h, c->live[i]) : 0};
    struct journal_checkpoint record = {.base_index = c->base_index,
                                        .base_epoch = c->base_epoch,
                                        .live = live,
                                        .live_count = c->live_count,
                                        .body = c->state,
                                        .install = c->install};
    enum err err = journal_write_checkpoint(h->shard->journal, h->id, &record);
    free(live);
    if (err != ERR_OK) {
        /* a journal that lacks what its own log names, or a state past a segment:
         * going on would lose track of what is stored */
        shard_say(h->shard, true, "partition %" PRIu64 " (%s/%u): checkpoint at %" PRIu64 ": %s", h->id,
                  h->name, h->number, c->base_index, err_text(err));
        CHECK(err == ERR_TOO_LARGE && !c->install);
        return;
    }
    if (c->install)
        h->staged_count = 0;
    else
        h->checkpoint_pending = c->base_index;
}

static struct flush *collect(struct shard *s) {
    struct flush *f = xcalloc(1, sizeof *f);
    f->items = xcalloc(s->turned_count, sizeof *f->items);
    for (size_t i = 0; i < s->turned_count; i++) {
        struct hosted *h = s->turned[i];
        uint64_t mark = h->partition ? replica_mark(h->partition->replica) : 0;
        if (!h->partition || (mark == h->flushed_mark && !h->checkpoint_pending))
            continue;
        f->items[f->count++] = (struct flush_item){h->id, h->opened, mark, h->checkpoint_pending};
        h->flushed_mark = mark;
        h->checkpoint_pending = 0;
    }
    return f;
}

void storage_flush(struct shard *s) {
    struct flush *f = collect(s);
    f->ticket = journal_flush(s->journal);
    if (f->count == 0) {
        free(f->items);
        free(f);
        return;
    }
    if (s->flushes_last)
        s->flushes_last->next = f;
    else
        s->flushes = f;
    s->flushes_last = f;
    if (!s->written_next)
        s->written_next = f;
}

void storage_free(struct shard *s) {
    while (s->flushes) {
        struct flush *f = s->flushes;
        s->flushes = f->next;
        free(f->items);
        free(f);
    }
}

/* ---- space ---- */

static void sum_up(void *ctx, uint64_t partition) {
    struct shard *s = ctx;
    struct hosted *h = shard_find(s, partition);
    if (!h || !h->partition || !replica_counts(h->partition->replica) || !partition_checkpoint(h->partition))
        journal_carry(s->journal, partition);
}

void storage_reclaim(struct shard *s) {
    for (int i = 0; i < SHARD_RECLAIM_STEPS; i++) {
        enum journal_progress progress = journal_reclaim(s->journal);
        if (progress == JOURNAL_WAITS)
            journal_needs_checkpoint(s->journal, sum_up, s);
        if (progress != JOURNAL_WORKED)
            break;
    }
    /* idle: let a torn tail and damage be told apart */
    if (journal_in_flight(s->journal) == 0)
        journal_prove(s->journal);
}

/* ---- recovery ---- */

/* The log behind the base as the journal has it; bodies are fetched when needed. */
static struct entry *log_of(struct shard *s, const struct journal_partition *jp, size_t *count) {
    *count = 0;
    uint64_t last = jp->last_index;
    if (jp->damaged && jp->damaged_from && jp->damaged_from <= last)
        last = jp->damaged_from - 1;
    struct entry *entries = xcalloc(last > jp->base_index ? last - jp->base_index : 0, sizeof *entries);
    for (uint64_t index = jp->base_index + 1; index <= last; index++) {
        struct journal_location at;
        if (journal_locate(s->journal, jp->id, index, &at) != ERR_OK)
            break; /* damaged from here on */
        entries[(*count)++] = (struct entry){.index = index, .epoch = at.epoch, .type = at.type};
        body_drop(at.in_flight);
    }
    return entries;
}

/* Replica's part of the checkpoint into *state; *d is left at the mailbox's. NULL
 * with *lost: there is one that cannot be read; without: there is none. */
static struct body *read_checkpoint(struct shard *s, const struct journal_partition *jp,
                                    struct replica_state *state, struct decoder *d, bool *lost) {
    struct body *body = NULL;
    *lost = journal_read_checkpoint(s->journal, jp->id, &body) != ERR_OK;
    if (*lost)
        return NULL;
    *d = decoder_of(body->data, body->size);
    /* journal_carry writes an empty one for a log that was never summed up: that is none */
    bool none = body->size == 0 && jp->base_index == 0;
    if (!none && replica_decode(d, state))
        return body;
    *lost = !none;
    body_drop(body);
    return NULL;
}

static struct partition *recover(struct shard *s, struct hosted *h, struct journal_partition *jp) {
    struct replica_state state = {0};
    struct body *checkpoint = NULL;
    struct decoder d = {0};
    bool all_lost = jp->damaged && jp->damaged_from <= jp->base_index;
    if (jp->checkpointed && !all_lost)
        checkpoint = read_checkpoint(s, jp, &state, &d, &all_lost);
    if (all_lost) {
        /* nothing here can be trusted but the promise: everything comes anew from the others */
        state = (struct replica_state){0};
        jp->damaged = true;
        jp->damaged_from = 1;
        jp->base_index = jp->base_epoch = jp->last_index = 0;
    }
    state.base_index = jp->base_index;
    state.base_epoch = jp->base_epoch;
    state.damaged = jp->damaged;
    state.doubtful = replica_doubts(written(h), jp->boot, s->boot, jp->last_index);
    state.damage = s->starts << DAMAGE_START_SHIFT;
    if (jp->promise > state.promise)
        state.promise = jp->promise;
    struct entry *entries = log_of(s, jp, &state.entries_count);
    state.entries = entries;
    struct partition *p = partition_new(&(struct partition_options){.id = h->id,
                                                                    .number = h->number,
                                                                    .mailbox = h->name,
                                                                    .settings = h->settings,
                                                                    .self = s->self,
                                                                    .failure_timeout = s->failure_timeout,
                                                                    .append_entries = s->append_entries,
                                                                    .host = shard_partition_host(),
                                                                    .host_context = s},
                                        &state, checkpoint ? &d : NULL);
    free(entries);
    free((void *)(uintptr_t)state.epochs);
    body_drop(checkpoint);
    return p;
}

bool storage_partition(struct shard *s, struct hosted *h) {
    struct journal_partition jp = {.id = h->id};
    journal_get(s->journal, h->id, &jp);
    if (jp.dropped)
        jp = (struct journal_partition){.id = h->id, .promise = jp.promise};
    h->partition = recover(s, h, &jp);
    if (!h->partition) {
        shard_say(h->shard, true,
                  "partition %" PRIu64
                  " (%s/%u): its checkpoint cannot be read; it stands still until it is rebuilt",
                  h->id, h->name, h->number);
        return false;
    }
    h->partition->user = h;
    journal_set_aside(s->journal, h->id, false);
    if (written(h) && s->boot && !replica_damaged(h->partition->replica))
        journal_write_boot(s->journal, h->id, s->boot);
    partition_time(h->partition, shard_now(s), s->calls->wall(s->host));
    h->opened = ++s->opens;
    h->flushed_mark = replica_mark(h->partition->replica);
    h->checkpoint_pending = 0;
    return true;
}

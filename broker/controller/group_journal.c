// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata group's journal: entries, votes, checkpoints, and the way back from
 * them at start.
 *
 * Votes: a PROMISE names to whom it was given; that is kept in a log of its own
 * in the same journal (VOTES_PARTITION), an entry a vote, newest counts.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "controller/core_private.h"

enum { DAMAGE_START_SHIFT = 24, FETCH_ENTRIES_MAX = 1024 };
#define FETCH_BYTES_MAX ((size_t)1 << 20)

/* ---- journal ---- */

void group_synced(struct core *c, uint64_t ticket) {
    journal_completed(c->journal, ticket);
    while (c->flushes && c->flushes->ticket <= ticket) {
        struct group_flush *f = c->flushes;
        c->flushes = f->next;
        if (!c->flushes)
            c->flushes_last = NULL;
        replica_stored(c->replica, f->mark, true, core_now(c), &c->replica_effects);
        if (f->checkpoint)
            replica_checkpointed(c->replica, f->checkpoint);
        free(f);
    }
    group_run(c);
}

void group_flush(struct core *c) {
    uint64_t mark = replica_mark(c->replica);
    uint64_t ticket = journal_flush(c->journal);
    if (mark == c->flushed_mark && !c->checkpoint_pending)
        return;
    struct group_flush *f = xcalloc(1, sizeof *f);
    *f = (struct group_flush){.ticket = ticket, .mark = mark, .checkpoint = c->checkpoint_pending};
    c->flushed_mark = mark;
    c->checkpoint_pending = 0;
    if (c->flushes_last)
        c->flushes_last->next = f;
    else
        c->flushes = f;
    c->flushes_last = f;
}

static void write_vote(struct core *c, uint64_t epoch, member_t candidate) {
    journal_write_promise(c->journal, GROUP_PARTITION, epoch);
    struct encoder e = {0};
    encode_u64(&e, epoch);
    encode_u64(&e, candidate);
    struct body *body = encoder_body(&e);
    journal_write_entry(c->journal, VOTES_PARTITION, 1, ++c->votes_index, ENTRY_COMMAND, body);
    body_drop(body);
}

void group_write(struct core *c, const struct replica_effect *e) {
    struct journal *j = c->journal;
    switch (e->type) {
    case REPLICA_WRITE:
        journal_write_entry(j, GROUP_PARTITION, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        break;
    case REPLICA_TRUNCATE:
        journal_write_truncate(j, GROUP_PARTITION, e->index);
        break;
    case REPLICA_PROMISE:
        write_vote(c, e->promise.epoch, e->promise.candidate);
        break;
    case REPLICA_MARK_DAMAGED:
        journal_write_damage(j, GROUP_PARTITION,
                             e->damage.everything ? 1 : replica_last_index(c->replica) + 1);
        break;
    case REPLICA_MARK_WHOLE:
        journal_write_mended(j, GROUP_PARTITION);
        break;
    case REPLICA_STAGE:
        journal_write_staged(j, GROUP_PARTITION, e->entry.epoch, e->entry.index, e->entry.type,
                             e->entry.body);
        break;
    case REPLICA_UNSTAGE:
        journal_forget_staged(j, GROUP_PARTITION);
        break;
    default:
        break;
    }
}

static bool parse_vote(struct body *body, uint64_t *epoch, member_t *candidate) {
    struct decoder d = decoder_of(body->data, body->size);
    *epoch = decode_u64(&d);
    *candidate = decode_u64(&d);
    return !d.failed;
}

/* The newest vote: the last entry of its log, or what its checkpoint says. */
static void read_vote(struct core *c, struct replica_state *state) {
    struct journal_partition jp;
    struct journal_location at;
    struct body *body = NULL;
    uint64_t epoch;
    member_t candidate;
    if (!journal_get(c->journal, VOTES_PARTITION, &jp))
        return;
    c->votes_index = jp.last_index;
    if (jp.last_index > jp.base_index) {
        if (journal_locate(c->journal, VOTES_PARTITION, jp.last_index, &at) == ERR_OK)
            journal_read(c->journal, &at, &body);
    } else if (jp.checkpointed && jp.base_index > 0) {
        journal_read_checkpoint(c->journal, VOTES_PARTITION, &body);
    }
    /* a promise above the newest vote was given to nobody: the epoch of an append */
    if (body && parse_vote(body, &epoch, &candidate) && epoch >= state->promise) {
        state->promise = epoch;
        state->candidate = candidate;
    }
    body_drop(body);
}

static void sum_up_votes(struct core *c) {
    struct encoder e = {0};
    struct replica_state state = {0};
    read_vote(c, &state);
    encode_u64(&e, state.promise);
    encode_u64(&e, state.candidate);
    struct body *body = encoder_body(&e);
    journal_write_checkpoint(
        c->journal, VOTES_PARTITION,
        &(struct journal_checkpoint){.base_index = c->votes_index, .base_epoch = 1, .body = body});
    body_drop(body);
}

void group_checkpoint(struct core *c) {
    uint64_t base = replica_applied(c->replica);
    if (base <= c->checkpoint_base)
        return;
    struct encoder e = {0};
    replica_encode(c->replica, base, &e);
    metadata_encode(c->metadata, &e);
    struct body *body = encoder_body(&e);
    enum err err = journal_write_checkpoint(
        c->journal, GROUP_PARTITION,
        &(struct journal_checkpoint){
            .base_index = base, .base_epoch = replica_epoch_at(c->replica, base), .body = body});
    body_drop(body);
    if (err == ERR_OK)
        c->checkpoint_base = c->checkpoint_pending = base;
    else
        core_say(c, LOG_ERROR, "metadata: checkpoint at %" PRIu64 ": %s", base, err_text(err));
}

static void needs_checkpoint(void *ctx, uint64_t partition) {
    struct core *c = ctx;
    uint64_t before = c->checkpoint_base;
    if (partition == VOTES_PARTITION)
        sum_up_votes(c);
    else if (partition == GROUP_PARTITION)
        group_checkpoint(c);
    if (partition == GROUP_PARTITION && c->checkpoint_base == before)
        journal_carry(c->journal, partition);
}

void group_reclaim(struct core *c) {
    enum journal_progress progress = journal_reclaim(c->journal);
    if (progress == JOURNAL_WAITS)
        journal_needs_checkpoint(c->journal, needs_checkpoint, c);
}

static struct body *read_entry(struct core *c, uint64_t index, struct entry *out) {
    struct journal_location at;
    struct body *body = NULL;
    if (journal_locate(c->journal, GROUP_PARTITION, index, &at) != ERR_OK ||
        journal_read(c->journal, &at, &body) != ERR_OK)
        return NULL;
    *out = (struct entry){.index = index, .epoch = at.epoch, .type = at.type, .body = body};
    return body;
}

/* Metadata is small: read on the loop. */
void group_fetch(struct core *c, uint64_t from, uint64_t to, member_t reader) {
    struct entry *entries = xcalloc(FETCH_ENTRIES_MAX, sizeof *entries);
    size_t count = 0, bytes = 0;
    while (from + count <= to && count < FETCH_ENTRIES_MAX && bytes < FETCH_BYTES_MAX) {
        struct body *body = read_entry(c, from + count, &entries[count]);
        if (!body)
            break;
        bytes += body->size;
        count++;
    }
    struct journal_location at;
    bool unreadable = count == 0 && journal_locate(c->journal, GROUP_PARTITION, from, &at) == ERR_OK &&
                      (body_drop(at.in_flight), true);
    replica_fetched(c->replica, reader, from, entries, count, unreadable, core_now(c), &c->replica_effects);
    for (size_t i = 0; i < count; i++)
        body_drop(entries[i].body);
    free(entries);
}

/* ---- opening ---- */

static struct entry *log_of(struct core *c, const struct journal_partition *jp, size_t *count) {
    uint64_t last = jp->last_index;
    if (jp->damaged && jp->damaged_from && jp->damaged_from <= last)
        last = jp->damaged_from - 1;
    struct entry *entries = xcalloc(last > jp->base_index ? last - jp->base_index : 0, sizeof *entries);
    *count = 0;
    for (uint64_t index = jp->base_index + 1; index <= last; index++) {
        if (!read_entry(c, index, &entries[*count]))
            break;
        ++*count;
    }
    return entries;
}

void group_recover(struct core *c, bool found) {
    struct journal_partition jp = {.id = GROUP_PARTITION};
    struct replica_state state = {0};
    struct body *body = NULL;
    journal_get(c->journal, GROUP_PARTITION, &jp);
    bool all_lost = jp.damaged && jp.damaged_from <= jp.base_index;
    if (jp.checkpointed && !all_lost &&
        journal_read_checkpoint(c->journal, GROUP_PARTITION, &body) == ERR_OK) {
        struct decoder d = decoder_of(body->data, body->size);
        /* journal_carry writes an empty one for a log that was never summed up: that is none */
        bool none = body->size == 0 && jp.base_index == 0;
        all_lost = !none && (!replica_decode(&d, &state) || !metadata_restore(c->metadata, &d, &c->changes));
    } else if (jp.checkpointed) {
        all_lost = true;
    }
    if (all_lost) {
        state = (struct replica_state){0};
        jp.damaged = true;
        jp.damaged_from = 1;
        jp.base_index = jp.base_epoch = jp.last_index = 0;
    }
    state.base_index = c->checkpoint_base = jp.base_index;
    state.base_epoch = jp.base_epoch;
    state.damaged = jp.damaged;
    state.damage = c->starts << DAMAGE_START_SHIFT;
    if (jp.promise > state.promise)
        state.promise = jp.promise, state.candidate = 0;
    read_vote(c, &state);
    struct entry *entries = log_of(c, &jp, &state.entries_count);
    state.entries = entries;
    /* a founder that had begun (or begins now) and has no voters in its log yet is its
     * own only voter: see forming.c. That it had begun its vote for itself proves, with
     * or without an entry; entries alone prove nothing: a founder whose disk was
     * replaced gets them from the others. */
    bool founder = strcmp(forming_founder(c), c->config->node) == 0;
    if (state.config.count == 0 && (found || (founder && state.promise && state.candidate == c->self)))
        state.config = (struct replica_set){.count = 1, .members = {c->self}};
    c->replica = replica_new(
        &(struct replica_options){.self = c->self, .synced = true, .config_in_log = true}, &state);
    c->flushed_mark = replica_mark(c->replica);
    for (size_t i = 0; i < state.entries_count; i++)
        body_drop(entries[i].body);
    free(entries);
    free((void *)(uintptr_t)state.epochs);
    body_drop(body);
}

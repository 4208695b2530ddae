// SPDX-License-Identifier: Apache-2.0
/* The simulated controller's journal: writing, checkpoints, opening; mirrors
 * broker/controller/group_journal.c. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "controller.h"

enum { DAMAGE_START_SHIFT = 24 };

static usec_t now_of(struct controller *c) {
    return process_now(c->process);
}
static struct journal *journal_of(struct controller *c) {
    return c->process->journal;
}

/* ---- journal ---- */

void group_synced(struct controller *c, uint64_t ticket) {
    journal_completed(journal_of(c), ticket);
    while (c->flushes && c->flushes->ticket <= ticket) {
        struct group_flush *f = c->flushes;
        c->flushes = f->next;
        if (!c->flushes)
            c->flushes_last = NULL;
        replica_stored(c->replica, f->mark, true, now_of(c), &c->replica_effects);
        if (f->checkpoint)
            replica_checkpointed(c->replica, f->checkpoint);
        free(f);
    }
    group_run(c);
}

void group_flush_turn(struct controller *c) {
    uint64_t mark = replica_mark(c->replica);
    uint64_t ticket = journal_flush(journal_of(c));
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

void group_write_vote(struct controller *c, uint64_t epoch, member_t candidate) {
    journal_write_promise(journal_of(c), GROUP_PARTITION, epoch);
    struct encoder e = {0};
    encode_u64(&e, epoch);
    encode_u64(&e, candidate);
    struct body *body = encoder_body(&e);
    journal_write_entry(journal_of(c), VOTES_PARTITION, 1, ++c->votes_index, ENTRY_COMMAND, body);
    body_drop(body);
}

static bool parse_vote(struct body *body, uint64_t *epoch, member_t *candidate) {
    struct decoder d = decoder_of(body->data, body->size);
    *epoch = decode_u64(&d);
    *candidate = decode_u64(&d);
    return !d.failed;
}

static void read_vote(struct controller *c, struct replica_state *state) {
    struct journal_partition jp;
    struct journal_location at;
    struct body *body = NULL;
    uint64_t epoch;
    member_t candidate;
    if (!journal_get(journal_of(c), VOTES_PARTITION, &jp))
        return;
    c->votes_index = jp.last_index;
    if (jp.last_index > jp.base_index) {
        if (journal_locate(journal_of(c), VOTES_PARTITION, jp.last_index, &at) == ERR_OK)
            journal_read(journal_of(c), &at, &body);
    } else if (jp.checkpointed && jp.base_index > 0) {
        journal_read_checkpoint(journal_of(c), VOTES_PARTITION, &body);
    }
    if (body && parse_vote(body, &epoch, &candidate) && epoch >= state->promise) {
        state->promise = epoch;
        state->candidate = candidate;
    }
    body_drop(body);
}

static void sum_up_votes(struct controller *c) {
    struct encoder e = {0};
    struct replica_state state = {0};
    read_vote(c, &state);
    encode_u64(&e, state.promise);
    encode_u64(&e, state.candidate);
    struct body *body = encoder_body(&e);
    journal_write_checkpoint(
        journal_of(c), VOTES_PARTITION,
        &(struct journal_checkpoint){.base_index = c->votes_index, .base_epoch = 1, .body = body});
    body_drop(body);
}

void group_checkpoint(struct controller *c) {
    uint64_t base = replica_applied(c->replica);
    if (base <= c->checkpoint_base)
        return;
    struct encoder e = {0};
    replica_encode(c->replica, base, &e);
    metadata_encode(c->metadata, &e);
    struct body *body = encoder_body(&e);
    enum err err = journal_write_checkpoint(
        journal_of(c), GROUP_PARTITION,
        &(struct journal_checkpoint){
            .base_index = base, .base_epoch = replica_epoch_at(c->replica, base), .body = body});
    body_drop(body);
    if (err == ERR_OK)
        c->checkpoint_base = c->checkpoint_pending = base;
}

static void needs_checkpoint(void *ctx, uint64_t partition) {
    struct controller *c = ctx;
    uint64_t before = c->checkpoint_base;
    if (partition == VOTES_PARTITION)
        sum_up_votes(c);
    else if (partition == GROUP_PARTITION)
        group_checkpoint(c);
    if (partition == GROUP_PARTITION && c->checkpoint_base == before)
        journal_carry(journal_of(c), partition);
}

static struct body *read_entry(struct controller *c, uint64_t index, struct entry *out) {
    struct journal_location at;
    struct body *body = NULL;
    if (journal_locate(journal_of(c), GROUP_PARTITION, index, &at) != ERR_OK ||
        journal_read(journal_of(c), &at, &body) != ERR_OK)
        return NULL;
    *out = (struct entry){.index = index, .epoch = at.epoch, .type = at.type, .body = body};
    return body;
}

void group_fetch(struct controller *c, uint64_t from, uint64_t to, member_t reader) {
    struct entry *entries = xcalloc(CONTROLLER_FETCH_ENTRIES, sizeof *entries);
    size_t count = 0, bytes = 0;
    while (from + count <= to && count < CONTROLLER_FETCH_ENTRIES && bytes < MIB) {
        struct body *body = read_entry(c, from + count, &entries[count]);
        if (!body)
            break;
        bytes += body->size;
        count++;
    }
    struct journal_location at;
    bool unreadable = count == 0 && journal_locate(journal_of(c), GROUP_PARTITION, from, &at) == ERR_OK &&
                      (body_drop(at.in_flight), true);
    replica_fetched(c->replica, reader, from, entries, count, unreadable, now_of(c), &c->replica_effects);
    for (size_t i = 0; i < count; i++)
        body_drop(entries[i].body);
    free(entries);
}

void group_reclaim(struct controller *c) {
    if (journal_reclaim(journal_of(c)) == JOURNAL_WAITS)
        journal_needs_checkpoint(journal_of(c), needs_checkpoint, c);
}

/* ---- opening ---- */

static struct entry *log_of(struct controller *c, const struct journal_partition *jp, size_t *count) {
    uint64_t last = jp->last_index;
    if (jp->damaged && jp->damaged_from && jp->damaged_from <= last)
        last = jp->damaged_from - 1;
    struct entry *entries =
        xcalloc(last > jp->base_index ? (size_t)(last - jp->base_index) : 1, sizeof *entries);
    *count = 0;
    for (uint64_t index = jp->base_index + 1; index <= last; index++) {
        if (!read_entry(c, index, &entries[*count]))
            break;
        ++*count;
    }
    return entries;
}

static void make_replica(struct controller *c, bool found) {
    struct journal_partition jp = {.id = GROUP_PARTITION};
    struct replica_state state = {0};
    struct body *body = NULL;
    journal_get(journal_of(c), GROUP_PARTITION, &jp);
    bool all_lost = jp.damaged && jp.damaged_from <= jp.base_index;
    if (jp.checkpointed && !all_lost &&
        journal_read_checkpoint(journal_of(c), GROUP_PARTITION, &body) == ERR_OK) {
        struct decoder d = decoder_of(body->data, body->size);
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
    state.damage = c->process->starts << DAMAGE_START_SHIFT;
    if (jp.promise > state.promise)
        state.promise = jp.promise, state.candidate = 0;
    read_vote(c, &state);
    struct entry *entries = log_of(c, &jp, &state.entries_count);
    state.entries = entries;
    bool founder = c->process->node == 0;
    if (state.config.count == 0 && (found || (founder && state.entries_count > 0)))
        state.config = (struct replica_set){.count = 1, .members = {c->process->self}};
    c->replica = replica_new(
        &(struct replica_options){.self = c->process->self, .synced = true, .config_in_log = true}, &state);
    c->flushed_mark = replica_mark(c->replica);
    for (size_t i = 0; i < state.entries_count; i++)
        body_drop(entries[i].body);
    free(entries);
    free((void *)(uintptr_t)state.epochs);
    body_drop(body);
}

void group_found(struct controller *c) {
    CHECK(replica_last_index(c->replica) == 0);
    election_free(c->election);
    replica_free(c->replica);
    make_replica(c, true);
    c->empty = false;
    c->election = election_new(c->replica, &c->rng, 0, now_of(c));
    sim_trace(c->process->sim, "%s founds the cluster", c->process->name);
    election_stand(c->election, now_of(c), &c->replica_effects, &c->election_effects);
    group_run(c);
}

void group_open(struct controller *c) {
    struct sim *s = c->process->sim;
    usec_t now = now_of(c);
    c->rng.state = rng_next(&s->rng);
    c->metadata = metadata_new();
    c->detector = detector_new(s->failure_timeout, 2 * CONTROLLER_HEARTBEAT_US, now);
    c->control =
        control_new(&(struct control_options){.rebuild_grace = s->rebuild_grace, .seed = rng_next(&s->rng)},
                    c->metadata, c->detector);
    make_replica(c, false);
    c->empty = replica_last_index(c->replica) == 0 && replica_promise(c->replica) == 0;
    c->election = election_new(c->replica, &c->rng, 0, now);
    metadata_changes_clear(&c->changes);
}

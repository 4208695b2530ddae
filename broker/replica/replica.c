// SPDX-License-Identifier: Apache-2.0
/* Life, the journal's completions, time, and the questions. */
#include "replica/replica.h"

#include <stdlib.h>

#include "replica/core.h"

bool replica_set_has(const struct replica_set *set, member_t m) {
    for (uint32_t i = 0; i < set->count; i++)
        if (set->members[i] == m)
            return true;
    return false;
}

bool replica_set_equal(const struct replica_set *a, const struct replica_set *b) {
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (!replica_set_has(b, a->members[i]))
            return false;
    return true;
}

struct replica *replica_new(const struct replica_options *options, const struct replica_state *state) {
    struct replica *r = xcalloc(1, sizeof *r);
    r->self = options->self;
    r->synced = options->synced;
    r->config_in_log = options->config_in_log;
    r->cache_limit = options->cache_bytes ? options->cache_bytes : REPLICA_CACHE_BYTES_DEFAULT;
    r->append_entries = options->append_entries ? options->append_entries : REPLICA_APPEND_CACHED_MAX;
    CHECK(r->append_entries <= REPLICA_APPEND_CACHED_MAX);
    log_init(r, state);
    r->promise = state->promise;
    r->candidate = state->candidate;
    if (r->promise < r->log.last_epoch) {
        r->promise = r->log.last_epoch;
        r->candidate = 0;
    }
    r->commit = r->applied = state->base_index;
    r->epoch = r->log.last_epoch;
    r->doubtful = state->doubtful && !state->damaged;
    r->damaged = state->damaged || state->doubtful;
    r->damage = state->damage;
    r->report_at = USEC_NEVER;
    return r;
}

void replica_free(struct replica *r) {
    if (!r)
        return;
    for (size_t i = 0; i < r->peers_count; i++)
        peer_free(&r->peers[i]);
    free(r->peers);
    free(r->learners);
    take_free(&r->take);
    log_free(&r->log);
    free(r);
}

/* ---- the journal ---- */

uint64_t replica_mark(const struct replica *r) {
    return r->mark;
}

void replica_stored(struct replica *r, uint64_t mark, bool synced, usec_t now, struct replica_effects *fx) {
    CHECK(mark <= r->mark);
    if (mark > r->written_mark)
        r->written_mark = mark;
    if (synced && mark > r->synced_mark)
        r->synced_mark = mark;
    uint64_t stored = r->log.stored;
    log_advance(r);
    take_stored(r, fx);
    damage_stored(r, now, fx);
    follow_stored(r, fx);
    seal_stored(r, fx);
    if (!r->leading || r->log.stored == stored)
        return;
    r->dirty = r->dirty || stored < r->epoch_index; /* now the epoch may be sent */
    lead_commit(r, now, fx);
}

void replica_checkpointed(struct replica *r, uint64_t base_index) {
    struct log *log = &r->log;
    /* Damaged since, or replaced by a leader's: then the log is not what it summed up. */
    if (r->take.installing || r->damaged || base_index <= log->base_index || base_index > r->applied)
        return;
    log->base_epoch = log_epoch_at(log, base_index);
    log->base_index = base_index;
}

/* ---- time ---- */

bool replica_dirty(const struct replica *r) {
    return r->dirty;
}

void replica_pump(struct replica *r, usec_t now, struct replica_effects *fx) {
    if (!r->leading || (r->log.stored < r->epoch_index && !MUTATED(epoch_unsynced)))
        return;
    r->dirty = false;
    for (size_t i = 0; i < r->peers_count; i++)
        peer_pump(r, &r->peers[i], now, fx);
}

usec_t replica_deadline(const struct replica *r) {
    if (r->damaged && !r->damage_marked)
        return 0;
    usec_t at = r->report_at;
    if (r->leading && r->lease_at < at)
        at = r->lease_at;
    bool sending = r->leading && r->log.stored >= r->epoch_index;
    for (size_t i = 0; sending && i < r->peers_count; i++) {
        usec_t peer_at = peer_deadline(&r->peers[i]);
        if (peer_at < at)
            at = peer_at;
    }
    return at;
}

static void tick_peer(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    if (p->report_at <= now) {
        fx_push(fx, REPLICA_REPORT_CAUGHT_UP)->peer = p->id;
        p->report_at = p->learner ? now + REPLICA_RETRY_US : USEC_NEVER;
    }
    if (!p->up || p->retry_at > now)
        return;
    if (p->mode == PEER_GIVE) { /* on from the last piece that is there */
        p->give.next = p->give.done;
        p->sent_count = p->sent_bytes = 0;
        p->retry_at = USEC_NEVER;
        return;
    }
    peer_probe(r, p, p->match ? p->match + 1 : p->next);
}

void replica_tick(struct replica *r, usec_t now, struct replica_effects *fx) {
    damage_mark_due(r, fx);
    if (r->report_at <= now)
        report_again(r, now, fx);
    if (!r->leading)
        return;
    if (r->lease_at <= now) /* the owner asks replica_lease_until after each event */
        r->lease_at = USEC_NEVER;
    for (size_t i = 0; i < r->peers_count; i++)
        tick_peer(r, &r->peers[i], now, fx);
    replica_pump(r, now, fx);
}

/* ---- questions ---- */

bool replica_leading(const struct replica *r) {
    return r->leading;
}

uint64_t replica_epoch(const struct replica *r) {
    return r->epoch;
}

uint64_t replica_promise(const struct replica *r) {
    return r->promise;
}

uint64_t replica_last_index(const struct replica *r) {
    return r->log.last_index;
}

uint64_t replica_last_epoch(const struct replica *r) {
    return r->log.last_epoch;
}

uint64_t replica_commit(const struct replica *r) {
    return r->commit;
}

uint64_t replica_applied(const struct replica *r) {
    return r->applied;
}

uint64_t replica_base(const struct replica *r) {
    return r->log.base_index;
}

uint64_t replica_epoch_at(const struct replica *r, uint64_t index) {
    return index == r->log.base_index ? r->log.base_epoch : log_epoch_at(&r->log, index);
}

bool replica_damaged(const struct replica *r) {
    return r->damaged;
}

bool replica_doubtful(const struct replica *r) {
    return r->doubtful;
}

/* An empty log has answered for nothing: its first entry is an EPOCH, which is synced. */
bool replica_doubts(bool written, uint64_t boot_then, uint64_t boot_now, uint64_t last_index) {
    return written && boot_now && boot_then != boot_now && last_index > 0;
}

bool replica_counts(const struct replica *r) {
    return !r->damaged && !r->take.open;
}

member_t replica_self(const struct replica *r) {
    return r->self;
}

const struct replica_set *replica_voters(const struct replica *r) {
    return r->config_in_log ? log_voters(r) : &r->record.current;
}

uint64_t replica_config_index(const struct replica *r) {
    const struct log *log = &r->log;
    return log->configs_count ? log->configs[log->configs_count - 1].index : 0;
}

bool replica_transferring(const struct replica *r) {
    for (size_t i = 0; i < r->peers_count; i++)
        if (r->peers[i].up && r->peers[i].mode == PEER_GIVE)
            return true;
    return false;
}

struct body *replica_cached(const struct replica *r, uint64_t index) {
    const struct slot *slot = log_slot(&r->log, index);
    return slot ? slot->body : NULL;
}

uint64_t replica_match(const struct replica *r, member_t peer) {
    const struct peer *p = r->leading ? lead_peer(r, peer) : NULL;
    return p ? p->match : 0;
}

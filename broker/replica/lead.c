// SPDX-License-Identifier: Apache-2.0
/*
 * Leading: from a record that names us to the commit index.
 *
 * An epoch is taken at most once, and only by a log that ends exactly where the
 * record says. The EPOCH entry is appended first; nothing is sent before it is
 * synced; nothing counts as committed before it is, so older entries commit with
 * it and never by themselves.
 */
#include <stdlib.h>

#include "replica/core.h"

/* ---- reports ---- */

void report_again(struct replica *r, usec_t now, struct replica_effects *fx) {
    r->report_at = USEC_NEVER;
    if (r->leading && r->record.activating && r->activated) {
        fx_epoch(fx, REPLICA_REPORT_ACTIVATED, r->epoch);
    } else if (broken(r)) {
        fx_push(fx, REPLICA_REPORT_DAMAGED);
        follow_damaged(r, fx);
    } else if (r->cannot && r->promise > r->record.epoch) {
        fx_push(fx, REPLICA_REPORT_SUPERSEDED)->promise.epoch = r->promise;
    } else if (r->cannot) {
        fx_epoch(fx, REPLICA_REPORT_CANNOT, r->record.epoch);
    } else {
        return;
    }
    r->report_at = now + REPLICA_RETRY_US;
}

/* ---- peers ---- */

struct peer *lead_peer(const struct replica *r, member_t id) {
    for (size_t i = 0; i < r->peers_count; i++)
        if (r->peers[i].id == id)
            return &r->peers[i];
    return NULL;
}

static void want_peer(struct replica *r, member_t id, bool learner) {
    if (id == r->self)
        return;
    struct peer *p = lead_peer(r, id);
    if (!p) {
        xgrow(&r->peers, &r->peers_capacity, r->peers_count + 1, sizeof *r->peers);
        p = &r->peers[r->peers_count++];
        peer_init(r, p, id);
    } else if (p->keep)
        return;
    p->learner = learner;
    p->keep = true;
}

static void want_set(struct replica *r, const struct replica_set *set, bool learners) {
    for (uint32_t i = 0; i < set->count; i++)
        want_peer(r, set->members[i], learners);
}

void lead_peers(struct replica *r) {
    for (size_t i = 0; i < r->peers_count; i++)
        r->peers[i].keep = false;
    want_set(r, replica_voters(r), false);
    if (r->record.activating)
        want_set(r, &r->record.previous, false);
    want_set(r, &r->record.learners, true);
    for (size_t i = 0; i < r->learners_count; i++)
        want_peer(r, r->learners[i], false);
    size_t kept = 0;
    for (size_t i = 0; i < r->peers_count; i++) {
        if (r->peers[i].keep)
            r->peers[kept++] = r->peers[i];
        else
            peer_free(&r->peers[i]);
    }
    r->peers_count = kept;
    r->dirty = true;
}

static void drop_peers(struct replica *r) {
    for (size_t i = 0; i < r->peers_count; i++)
        peer_free(&r->peers[i]);
    free(r->peers);
    r->peers = NULL;
    r->peers_count = r->peers_capacity = 0;
}

void replica_set_learners(struct replica *r, const member_t *members, size_t count,
                          struct replica_effects *fx) {
    r->learners = xrealloc(r->learners, (count ? count : 1) * sizeof *r->learners);
    for (size_t i = 0; i < count; i++)
        r->learners[i] = members[i];
    r->learners_count = count;
    if (r->leading)
        lead_peers(r);
}

/* ---- majorities ---- */

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

uint64_t set_majority(const struct replica *r, const struct replica_set *set,
                      uint64_t (*value)(const struct peer *peer), uint64_t own) {
    uint64_t values[REPLICA_SET_MAX] = {0};
    uint32_t count = set->count;
    if (set->count == 0)
        return 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct peer *p = lead_peer(r, set->members[i]);
        if (set->members[i] == r->self)
            values[i] = own;
        else if (p && (!p->damaged || MUTATED(damaged_counts)))
            values[i] = value(p);
    }
    for (size_t i = 0; MUTATED(learner_counts) && i < r->peers_count && count < REPLICA_SET_MAX; i++)
        if (r->peers[i].learner)
            values[count++] = value(&r->peers[i]);
    qsort(values, count, sizeof values[0], descending);
    return values[MUTATED(minority_commits) ? 0 : set->count / 2];
}

uint64_t sets_majority(const struct replica *r, uint64_t (*value)(const struct peer *peer), uint64_t own) {
    uint64_t current = set_majority(r, replica_voters(r), value, own);
    if (!r->record.activating || r->config_in_log || MUTATED(new_set_alone))
        return current;
    uint64_t previous = set_majority(r, &r->record.previous, value, own);
    return current < previous ? current : previous;
}

static uint64_t match_of(const struct peer *p) {
    return p->match;
}

/* Both sets' majorities store the epoch's record: the controller may let the old one go. */
static void activated(struct replica *r, uint64_t stored, usec_t now, struct replica_effects *fx) {
    if (stored < r->epoch_index || !r->record.activating || r->activated)
        return;
    r->activated = true;
    report_again(r, now, fx);
}

void lead_commit(struct replica *r, usec_t now, struct replica_effects *fx) {
    uint64_t stored = sets_majority(r, match_of, r->log.stored);
    uint64_t previous =
        MUTATED(activated_by_one) ? set_majority(r, &r->record.previous, match_of, r->log.stored) : 0;
    activated(r, stored > previous ? stored : previous, now, fx);
    if (stored < r->epoch_index && !MUTATED(older_by_majority))
        return;
    commit_to(r, stored, fx);
}

/* ---- start and stop ---- */

static void lead(struct replica *r, usec_t now, struct replica_effects *fx) {
    if (r->take.open)
        take_abandon(r, fx);
    follow_forget(r);
    r->leading = true;
    r->ceded = r->active = r->activated = false;
    r->led_since = now;
    r->lease_at = r->record.wait_lease ? now + REPLICA_LEASE_US : USEC_NEVER;
    r->epoch = r->promise = r->record.epoch;
    r->candidate = r->config_in_log ? r->self : 0;
    r->epoch_index = r->log.last_index + 1;
    struct entry entry = {.index = r->epoch_index, .epoch = r->epoch, .type = ENTRY_EPOCH};
    log_append(r, &entry, fx);
    r->promise_mark = r->mark;
    damage_chosen(r, fx);
    lead_peers(r);
    fx_epoch(fx, REPLICA_LEADING, r->epoch);
}

void lead_stop(struct replica *r, struct replica_effects *fx) {
    CHECK(r->leading);
    r->leading = r->active = r->activated = r->dirty = false;
    drop_peers(r);
    fx_epoch(fx, REPLICA_STOPPED, r->epoch);
}

static bool can_lead(const struct replica *r) {
    const struct replica_record *record = &r->record;
    return !broken(r) && !r->take.installing && r->promise <= record->epoch &&
           ((r->log.last_epoch < record->epoch && r->log.last_epoch == record->last_epoch &&
             r->log.last_index == record->last_index) ||
            (MUTATED(leads_again) && r->log.last_epoch == record->epoch));
}

static void named(struct replica *r, usec_t now, struct replica_effects *fx) {
    if (can_lead(r)) {
        lead(r, now, fx);
        return;
    }
    r->cannot = true;
    report_again(r, now, fx);
}

static void go_on(struct replica *r, usec_t now, struct replica_effects *fx) {
    lead_peers(r);
    lead_commit(r, now, fx);
}

void replica_on_record(struct replica *r, const struct replica_record *record, usec_t now,
                       struct replica_effects *fx) {
    damage_mark_due(r, fx);
    if (record->version <= r->record.version)
        return;
    r->record = *record;
    r->cannot = false;
    if (r->leading && record->epoch > r->epoch)
        lead_stop(r, fx);
    if (r->leading)
        go_on(r, now, fx);
    else if (record->leader == r->self)
        named(r, now, fx);
}

/* ---- proposals ---- */

bool replica_room(const struct replica *r) {
    return r->leading && r->log.uncommitted_bytes < REPLICA_UNCOMMITTED_BYTES_MAX;
}

enum err replica_propose(struct replica *r, uint8_t type, struct body *body, usec_t now, uint64_t *index,
                         struct replica_effects *fx) {
    CHECK(body && type != ENTRY_EPOCH);
    if (!r->leading)
        return ERR_NOT_LEADER;
    bool data = type == ENTRY_BATCH || type == ENTRY_COMMAND;
    if (data ? !replica_room(r) : r->log.uncommitted_bytes >= 2 * (size_t)REPLICA_UNCOMMITTED_BYTES_MAX)
        return ERR_BUSY;
    struct entry entry = {.index = r->log.last_index + 1, .epoch = r->epoch, .type = type, .body = body};
    log_append(r, &entry, fx);
    *index = entry.index;
    r->dirty = true;
    if (r->config_in_log && type == ENTRY_CONFIG)
        lead_peers(r);
    return ERR_OK;
}

/* ---- answers ---- */

static void on_refused(struct replica *r, struct peer *p, const struct replica_appended *m, usec_t now,
                       struct replica_effects *fx) {
    if (m->promise <= r->epoch)
        return;
    p->confirmed = 0;
    peer_probe(r, p, p->match + 1);
    p->waiting = true;
    p->retry_at = now + REPLICA_RETRY_US;
    fx_push(fx, REPLICA_REPORT_SUPERSEDED)->promise.epoch = m->promise;
}

/* True: an answer from before its last known damage, not to be believed; or the
 * first report of one. */
static bool on_damage(struct replica *r, struct peer *p, const struct replica_appended *m) {
    if (m->damage < p->damage)
        return true;
    bool report = m->damaged && (!p->damaged || m->damage > p->damage);
    p->damaged = m->damaged;
    p->damage = m->damage;
    if (report) {
        p->match = 0;
        p->mend_to = r->log.last_index;
        peer_probe(r, p, m->verified + 1);
    }
    return report;
}

static void caught_up(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    bool voter = replica_set_has(replica_voters(r), p->id) ||
                 (r->record.activating && replica_set_has(&r->record.previous, p->id));
    if (p->caught_up || voter || p->damaged || p->match < r->commit || r->commit < r->epoch_index)
        return;
    p->caught_up = true;
    p->report_at = p->learner ? now + REPLICA_RETRY_US : USEC_NEVER;
    fx_push(fx, REPLICA_REPORT_CAUGHT_UP)->peer = p->id;
}

static void on_stored(struct replica *r, struct peer *p, const struct replica_appended *m, usec_t now,
                      struct replica_effects *fx) {
    if (m->verified > p->match)
        p->match = m->verified;
    if (p->mode == PEER_PROBE) {
        p->mode = PEER_STREAM;
        p->waiting = false;
        p->next = p->match + 1;
    }
    if (p->mode == PEER_STREAM) {
        peer_arrived(p, p->match);
        p->retry_at = p->sent_count || p->damaged ? now + REPLICA_RETRY_US : USEC_NEVER;
    }
    if (m->sent_at >= p->commit_sent_at && m->verified >= p->commit_sent)
        p->commit_told = p->commit_sent;
    lead_commit(r, now, fx);
    caught_up(r, p, now, fx);
}

/* Where to look for agreement next; an answer to something sent before the
 * newest probe says nothing new. */
static void on_mismatch(struct replica *r, struct peer *p, const struct replica_appended *m) {
    if (p->mode == PEER_GIVE || m->sent_at < p->probe_at)
        return;
    if (m->verified < p->match) {
        /* Old, or (durability written) it lost its unsynced tail with its power. */
        if (p->mode != PEER_PROBE || m->sent_at != p->probe_at)
            return;
        p->match = 0;
    }
    uint64_t next = m->verified + 1;
    if (p->mode == PEER_PROBE && next >= p->next)
        next = p->next > 1 ? p->next - 1 : 1;
    peer_probe(r, p, next > p->match ? next : p->match + 1);
}

void replica_on_appended(struct replica *r, const struct replica_appended *m, usec_t now,
                         struct replica_effects *fx) {
    struct peer *p = r->leading && m->to == r->self && m->epoch == r->epoch ? lead_peer(r, m->from) : NULL;
    if (!p || (m->status == REPLICA_APPEND_STORED && m->verified > r->log.last_index))
        return;
    r->dirty = true;
    if (m->status == REPLICA_APPEND_REFUSED) {
        on_refused(r, p, m, now, fx);
        return;
    }
    if (on_damage(r, p, m))
        return;
    if (m->sent_at > p->confirmed)
        p->confirmed = m->sent_at;
    if (m->status == REPLICA_APPEND_STORED)
        on_stored(r, p, m, now, fx);
    else if (m->status == REPLICA_APPEND_MISMATCH)
        on_mismatch(r, p, m);
}

void replica_peer_up(struct replica *r, member_t peer, usec_t now, struct replica_effects *fx) {
    struct peer *p = r->leading ? lead_peer(r, peer) : NULL;
    if (!p)
        return;
    p->up = true;
    peer_probe(r, p, p->match ? p->match + 1 : p->next);
    r->dirty = true;
}

void replica_peer_down(struct replica *r, member_t peer, usec_t now, struct replica_effects *fx) {
    struct peer *p = r->leading ? lead_peer(r, peer) : NULL;
    if (!p)
        return;
    p->up = false;
    peer_probe(r, p, p->match ? p->match + 1 : p->next);
}

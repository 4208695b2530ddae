// SPDX-License-Identifier: Apache-2.0
/*
 * Seals: ask, count, pick the longest log, commit.
 *
 * Happy path: each replica of the sets in force (and the leader, if it is in none
 * of them) is asked to promise the new epoch; when all that can answer have, or a
 * majority has and CONTROL_SEAL_LINGER_US are over, the best log leads. Where copies
 * lost their power (durability written) more is needed, or less will do: replica.h.
 * Failures: a higher promise starts over above it; a shard that was not told of
 * the partition is told and asked again; without a majority that could answer the
 * operation ends and the partition is blocked until a member comes up.
 */
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "cluster/control_private.h"

/* ---- asking ---- */

static void ask_add(struct op *op, member_t member) {
    for (uint32_t i = 0; i < op->asked_count; i++) {
        if (op->asked[i].member == member)
            return;
    }
    CHECK(op->asked_count < ASKED_MAX);
    op->asked[op->asked_count++] = (struct asked){.member = member};
}

static void ask_send(struct op *op, struct asked *a, struct control_effects *fx) {
    a->sent = true;
    control_effect_add(fx, CONTROL_SEND_SEAL, a->member, op->watch->partition)->seal =
        (struct replica_seal){.token = op->token, .to = a->member, .epoch = op->number};
}

void seal_start(struct control *c, struct op *op, usec_t now, struct control_effects *fx) {
    const struct metadata_partition *p = control_partition(c, op->watch);
    const struct replica_record *r = &p->record;
    uint64_t highest = op->watch->promise_seen > r->epoch ? op->watch->promise_seen : r->epoch;
    op->stage = STAGE_SEAL;
    op->number = highest + 1;
    op->token = ++c->next_token;
    op->base_version = r->version;
    op->enough_at = 0;
    op->deadline = now + CONTROL_SEAL_RETRY_US;
    op->asked_count = 0;
    if (op->kind == OP_RECOVER) {
        ask_add(op, op->target);
    } else {
        for (uint32_t i = 0; i < r->current.count; i++)
            ask_add(op, r->current.members[i]);
        for (uint32_t i = 0; i < r->previous.count; i++)
            ask_add(op, r->previous.members[i]);
        ask_add(op, r->leader);
    }
    for (uint32_t i = 0; i < op->asked_count; i++) {
        if (control_usable(c, op->asked[i].member))
            ask_send(op, &op->asked[i], fx);
    }
}

bool seal_possible(const struct control *c, const struct replica_record *r) {
    if (r->activating) /* a return to the old set needs that one only */
        return control_majority(c, &r->previous);
    return control_majority(c, &r->current);
}

/* ---- counting ---- */

static const struct asked *granted_by(const struct op *op, member_t member) {
    for (uint32_t i = 0; i < op->asked_count; i++) {
        if (op->asked[i].member == member && op->asked[i].granted)
            return &op->asked[i];
    }
    return NULL;
}

enum grant {
    GRANT_WAIT,
    GRANT_LOST, /* a majority is doubtful: what was committed may be gone */
    GRANT_KNOWN /* promises of a majority, and whole logs of a part of each majority */
};

static enum grant set_grant(const struct op *op, const struct replica_set *set) {
    uint32_t whole = 0, doubtful = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct asked *a = granted_by(op, set->members[i]);
        whole += a && !a->doubtful;
        doubtful += a && a->doubtful;
    }
    if ((whole + doubtful) * 2 > set->count && whole >= set->count - set->count / 2)
        return GRANT_KNOWN;
    if (MUTATED(half_seals) && whole && (whole + doubtful) * 2 + 1 >= set->count)
        return GRANT_KNOWN;
    return doubtful * 2 > set->count ? GRANT_LOST : GRANT_WAIT;
}

static bool set_granted(const struct op *op, const struct replica_set *set) {
    return set_grant(op, set) != GRANT_WAIT;
}

/* It goes on from what a majority's power failure has left. */
static bool lossy(const struct op *op, const struct replica_record *r) {
    return op->kind != OP_RECOVER && (set_grant(op, &r->current) == GRANT_LOST ||
                                      (r->activating && set_grant(op, &r->previous) == GRANT_LOST));
}

/* Everybody that could still answer has; if something may be lost: everybody. */
static bool all_answered(const struct control *c, const struct op *op, bool lost) {
    for (uint32_t i = 0; i < op->asked_count; i++) {
        const struct asked *a = &op->asked[i];
        if (!a->granted && !a->damaged && (lost || control_usable(c, a->member)))
            return false;
    }
    return true;
}

/* What the answers allow: both sets, or (while activating) a return to the old one. */
enum verdict { VERDICT_WAIT, VERDICT_SETS, VERDICT_RETURN };

static enum verdict verdict(const struct control *c, const struct op *op, const struct replica_record *r) {
    if (op->kind == OP_RECOVER)
        return granted_by(op, op->target) ? VERDICT_SETS : VERDICT_WAIT;
    if (!r->activating)
        return set_granted(op, &r->current) ? VERDICT_SETS : VERDICT_WAIT;
    if (!set_granted(op, &r->previous) && !(MUTATED(seal_of_one_set) && set_granted(op, &r->current)))
        return VERDICT_WAIT;
    if (set_granted(op, &r->current))
        return VERDICT_SETS;
    return all_answered(c, op, lossy(op, r)) ? VERDICT_RETURN : VERDICT_WAIT;
}

/* ---- picking ---- */

static int log_compare(const struct asked *a, const struct asked *b) {
    if (a->last_epoch != b->last_epoch && !(MUTATED(index_before_epoch) && a->last_index != b->last_index))
        return a->last_epoch < b->last_epoch ? -1 : 1;
    return a->last_index < b->last_index ? -1 : a->last_index > b->last_index;
}

/* Among equal logs: the one the operation wants, then the leader as it is, then
 * the node that leads least. Smaller is better. */
static uint32_t preference(const struct control *c, const struct op *op, const struct replica_record *r,
                           member_t m) {
    const struct metadata_node *n = metadata_node_of(c->m, m, NULL);
    uint32_t leads = n && n->id < 1025 ? c->leaders[n->id] : UINT32_MAX / 2;
    bool stays = op->kind != OP_CHANGE || replica_set_has(&op->set, m);
    if (m == op->target)
        return 0;
    if (m == r->leader && stays && op->kind != OP_MOVE)
        return 1;
    if (detector_member(c->d, m) != DETECTOR_UP || !stays)
        return leads + UINT32_MAX / 4;
    return leads + 2;
}

static const struct asked *pick(const struct control *c, const struct op *op, const struct replica_record *r,
                                const struct replica_set *a, const struct replica_set *b) {
    const struct asked *best = NULL;
    for (uint32_t i = 0; i < op->asked_count; i++) {
        const struct asked *x = &op->asked[i];
        if (!x->granted || !(replica_set_has(a, x->member) || replica_set_has(b, x->member)))
            continue;
        int order = !best ? 1 : MUTATED(any_log_leads) ? 0 : log_compare(x, best);
        if (order > 0 || (order == 0 && preference(c, op, r, x->member) < preference(c, op, r, best->member)))
            best = x;
    }
    return best;
}

/* Must the new leader sit out the old one's lease? Not if the old one promised,
 * or its process is known to be gone. */
static bool lease_waits(const struct control *c, const struct op *op, const struct replica_record *r,
                        usec_t now) {
    usec_t lease = c->options.lease ? c->options.lease : REPLICA_LEASE_US;
    if (r->wait_lease && now - op->watch->epoch_at < 2 * lease)
        return true; /* the one before it may still deliver */
    return !granted_by(op, r->leader) && detector_member(c->d, r->leader) != DETECTOR_GONE;
}

static void commit(struct control *c, struct op *op, const struct replica_record *next) {
    xgrow(&c->ready, &c->ready_capacity, c->ready_count + 1, sizeof *c->ready);
    c->ready[c->ready_count++] = (struct record_change){.partition = op->watch->partition,
                                                        .base_version = op->base_version,
                                                        .record = *next,
                                                        .lossy = op->kind == OP_RECOVER};
    op->stage = STAGE_COMMIT;
    op->tag = 0;
    control_lead_counted(c, op->watch, next->leader);
}

static void decide(struct control *c, struct op *op, enum verdict v, usec_t now) {
    const struct replica_record *r = &control_partition(c, op->watch)->record;
    struct replica_record next = {.epoch = op->number, .current = r->current, .learners = {0}};
    if (op->kind == OP_RECOVER) {
        next.current = (struct replica_set){.count = 1, .members = {op->target}};
    } else if (v == VERDICT_RETURN) {
        next.current = r->previous;
    } else if (r->activating) {
        next.activating = true;
        next.previous = r->previous;
    } else if (op->kind == OP_CHANGE) {
        next.activating = true;
        next.previous = r->current;
        next.current = op->set;
    }
    const struct asked *best = pick(c, op, r, &next.current, &next.previous);
    CHECK(best);
    next.leader = best->member;
    next.last_epoch = best->last_epoch;
    next.last_index = best->last_index;
    next.wait_lease = lease_waits(c, op, r, now);
    op->deadline = now + CONTROL_PROPOSE_US;
    commit(c, op, &next);
}

static void count(struct control *c, struct op *op, usec_t now) {
    const struct replica_record *r = &control_partition(c, op->watch)->record;
    enum verdict v = verdict(c, op, r);
    if (v == VERDICT_WAIT)
        return;
    bool lost = lossy(op, r);
    if (!op->enough_at)
        op->enough_at = now;
    usec_t until = op->enough_at + (lost ? CONTROL_POWER_LINGER_US : CONTROL_SEAL_LINGER_US);
    if (all_answered(c, op, lost) || now >= until) {
        if (lost)
            op->why = "a majority lost its power: it goes on from what is left";
        decide(c, op, v, now);
        return;
    }
    if (op->deadline > until)
        op->deadline = until;
}

/* ---- events ---- */

void seal_answer(struct control *c, struct op *op, const struct replica_sealed *m, bool unknown, usec_t now,
                 struct control_effects *fx) {
    struct watch *w = op->watch;
    if (m->promise > w->promise_seen)
        w->promise_seen = m->promise;
    if (op->stage != STAGE_SEAL || m->token != op->token || m->epoch != op->number)
        return;
    for (uint32_t i = 0; i < op->asked_count; i++) {
        struct asked *a = &op->asked[i];
        if (a->member != m->from)
            continue;
        if (unknown) { /* told, and asked at once; later only with the next retry */
            control_effect_add(fx, CONTROL_SEND_RECORD, m->from, w->partition);
            if (!a->told)
                ask_send(op, a, fx);
            a->told = true;
            return;
        }
        a->damaged = m->damaged;
        a->granted = m->granted && (!m->damaged || MUTATED(damaged_counts));
        a->doubtful = m->doubtful;
        a->last_epoch = m->last_epoch;
        a->last_index = m->last_index;
        if (!m->granted && !m->damaged) { /* a higher promise, or the epoch is taken: above it */
            if (w->promise_seen < m->last_epoch)
                w->promise_seen = m->last_epoch;
            if (w->promise_seen < op->number)
                w->promise_seen = op->number;
            seal_start(c, op, now, fx);
            return;
        }
    }
    count(c, op, now);
}

/* No majority can answer any more: wait without an operation. */
static bool stuck(struct control *c, struct op *op) {
    const struct replica_record *r = &control_partition(c, op->watch)->record;
    if (op->kind == OP_RECOVER ? control_usable(c, op->target) : seal_possible(c, r))
        return false;
    op->watch->blocked = true;
    op_end(c, op);
    return true;
}

void seal_member(struct control *c, struct op *op, member_t member, usec_t now, struct control_effects *fx) {
    if (op->stage != STAGE_SEAL || stuck(c, op))
        return;
    for (uint32_t i = 0; i < op->asked_count; i++) {
        struct asked *a = &op->asked[i];
        if (a->member == member && !a->granted && control_usable(c, member))
            ask_send(op, a, fx);
    }
    count(c, op, now);
}

void seal_tick(struct control *c, struct op *op, usec_t now, struct control_effects *fx) {
    if (stuck(c, op))
        return;
    for (uint32_t i = 0; i < op->asked_count; i++) {
        struct asked *a = &op->asked[i];
        if (!a->granted && !a->damaged && control_usable(c, a->member))
            ask_send(op, a, fx);
    }
    op->deadline = now + CONTROL_SEAL_RETRY_US;
    count(c, op, now);
}

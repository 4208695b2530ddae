// SPDX-License-Identifier: Apache-2.0
/*
 * One round: PRE (asks whether it would win) -> STANDING (asks for votes) ->
 * the replica leads. Any sign of a leader of the same or a newer epoch ends it.
 */
#include "cluster/election.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"

enum round { RESTS, PRE, STANDING };

enum { PEERS_MAX = 64, SEAL_TOKEN_NOBODY = 0 };

struct peer {
    member_t member;
    bool gone;
    bool granted; /* in this round */
    bool refused;
    usec_t seen_at; /* it answered something sent then */
};

struct election {
    struct replica *replica;
    struct rng *rng;
    usec_t timeout;

    member_t leader;
    uint64_t leader_epoch;
    usec_t heard_at;
    usec_t deadline; /* stand, or try again */

    enum round round;
    uint64_t epoch;      /* of this round */
    uint64_t epoch_seen; /* highest promise met anywhere */
    bool transfer;       /* this round: the leader asked for it */

    usec_t led_since;
    member_t transfer_to;
    usec_t transfer_until;
    bool transfer_told;

    struct peer peers[PEERS_MAX]; /* known so far; voters are looked up in the replica */
    size_t peers_count;
};

/* ---- effects ---- */

void election_effects_clear(struct election_effects *fx) {
    fx->count = 0;
}

void election_effects_free(struct election_effects *fx) {
    free(fx->items);
    *fx = (struct election_effects){0};
}

static struct election_effect *effect_add(struct election_effects *fx, enum election_effect_type type) {
    xgrow(&fx->items, &fx->capacity, fx->count + 1, sizeof *fx->items);
    struct election_effect *f = &fx->items[fx->count++];
    memset(f, 0, sizeof *f);
    f->type = type;
    return f;
}

static void say(struct election_effects *fx, enum election_effect_type type, uint64_t epoch,
                const char *why) {
    struct election_effect *f = effect_add(fx, type);
    f->stands.epoch = epoch;
    f->stands.why = why;
}

static void answer(struct election *e, struct election_effects *fx, enum election_effect_type type,
                   member_t to, uint64_t epoch, bool granted, uint64_t promise) {
    effect_add(fx, type)->answer = (struct election_answer){
        .epoch = epoch, .from = replica_self(e->replica), .to = to, .granted = granted, .promise = promise};
}

static void ask(struct election *e, struct election_effects *fx, enum election_effect_type type,
                member_t to) {
    effect_add(fx, type)->ask = (struct election_ask){.epoch = e->epoch,
                                                      .from = replica_self(e->replica),
                                                      .to = to,
                                                      .last_epoch = replica_last_epoch(e->replica),
                                                      .last_index = replica_last_index(e->replica),
                                                      .transfer = e->transfer};
}

/* ---- peers ---- */

static struct peer *peer_of(struct election *e, member_t member) {
    for (size_t i = 0; i < e->peers_count; i++) {
        if (e->peers[i].member == member)
            return &e->peers[i];
    }
    /* full: take the place of one that is no voter */
    size_t at = e->peers_count < PEERS_MAX ? e->peers_count++ : 0;
    for (size_t i = 0; e->peers_count == PEERS_MAX && i < PEERS_MAX; i++) {
        if (!replica_set_has(replica_voters(e->replica), e->peers[i].member))
            at = i;
    }
    e->peers[at] = (struct peer){.member = member};
    return &e->peers[at];
}

static bool peer_gone(const struct election *e, member_t member) {
    for (size_t i = 0; i < e->peers_count; i++) {
        if (e->peers[i].member == member)
            return e->peers[i].gone;
    }
    return false;
}

/* Position among the voters that are left, by identity. */
static usec_t rank(const struct election *e) {
    const struct replica_set *voters = replica_voters(e->replica);
    usec_t below = 0;
    for (uint32_t i = 0; i < voters->count; i++) {
        member_t v = voters->members[i];
        below += v < replica_self(e->replica) && v != e->leader && !peer_gone(e, v);
    }
    return below;
}

/* ---- time ---- */

static usec_t grain(usec_t t) {
    return (t + ELECTION_GRAIN_US - 1) / ELECTION_GRAIN_US * ELECTION_GRAIN_US;
}

static usec_t drawn(struct election *e) {
    return e->timeout + (usec_t)rng_below(e->rng, (uint64_t)e->timeout);
}

static void rest(struct election *e, usec_t now) {
    e->round = RESTS;
    e->transfer = false;
    e->deadline = grain(now + drawn(e));
}

struct election *election_new(struct replica *r, struct rng *rng, usec_t timeout, usec_t now) {
    struct election *e = xcalloc(1, sizeof *e);
    e->replica = r;
    e->rng = rng;
    e->timeout = timeout ? timeout : ELECTION_TIMEOUT_US;
    e->heard_at = now - 2 * e->timeout;
    rest(e, now);
    return e;
}

void election_free(struct election *e) {
    free(e);
}

/* ---- questions ---- */

bool election_leading(const struct election *e) {
    return replica_leading(e->replica);
}

bool election_voter(const struct election *e) {
    return replica_set_has(replica_voters(e->replica), replica_self(e->replica));
}

member_t election_leader(const struct election *e) {
    return election_leading(e) ? replica_self(e->replica) : e->leader;
}

uint64_t election_epoch(const struct election *e) {
    return election_leading(e) ? replica_epoch(e->replica) : e->leader_epoch;
}

static bool quorum_seen(const struct election *e, usec_t since) {
    const struct replica_set *voters = replica_voters(e->replica);
    uint32_t seen = replica_set_has(voters, replica_self(e->replica));
    for (size_t i = 0; i < e->peers_count; i++)
        seen += e->peers[i].seen_at >= since && replica_set_has(voters, e->peers[i].member);
    return seen * 2 > voters->count;
}

bool election_proposable(const struct election *e) {
    return election_leading(e) && e->transfer_to == 0;
}

/* A leader that is alive, as far as this voter knows: others are not voted for. */
static bool leader_lives(const struct election *e, usec_t now) {
    if (election_leading(e))
        return quorum_seen(e, now - ELECTION_QUORUM_US) || now - e->led_since < ELECTION_QUORUM_US;
    return e->leader != 0 && e->leader != replica_self(e->replica) && !peer_gone(e, e->leader) &&
           now - e->heard_at < e->timeout;
}

static bool log_reaches(const struct election *e, const struct election_ask *m) {
    if (MUTATED(votes_for_any_log))
        return true;
    uint64_t epoch = replica_last_epoch(e->replica);
    if (m->last_epoch != epoch)
        return m->last_epoch > epoch;
    return m->last_index >= replica_last_index(e->replica);
}

/* ---- standing ---- */

static uint64_t next_epoch(const struct election *e) {
    uint64_t highest = replica_promise(e->replica);
    if (e->epoch_seen > highest)
        highest = e->epoch_seen;
    return highest + 1;
}

static bool round_won(const struct election *e) {
    const struct replica_set *voters = replica_voters(e->replica);
    uint32_t granted = 0;
    for (size_t i = 0; i < e->peers_count; i++)
        granted += e->peers[i].granted && replica_set_has(voters, e->peers[i].member);
    return granted * 2 > voters->count;
}

/* Refused by so many that it cannot be won any more. */
static bool round_lost(const struct election *e) {
    const struct replica_set *voters = replica_voters(e->replica);
    uint32_t refused = 0;
    for (size_t i = 0; i < e->peers_count; i++)
        refused += e->peers[i].refused && replica_set_has(voters, e->peers[i].member);
    return refused * 2 >= voters->count;
}

static void round_open(struct election *e, enum round round, usec_t now, struct election_effects *fx) {
    const struct replica_set *voters = replica_voters(e->replica);
    e->round = round;
    e->epoch = next_epoch(e);
    e->deadline = grain(now + (round == PRE ? e->timeout / 2 : drawn(e)));
    for (size_t i = 0; i < e->peers_count; i++)
        e->peers[i].granted = e->peers[i].refused = false;
    for (uint32_t i = 0; i < voters->count; i++) {
        if (voters->members[i] != replica_self(e->replica))
            ask(e, fx, round == PRE ? ELECTION_SEND_PRE_VOTE : ELECTION_SEND_VOTE, voters->members[i]);
    }
}

static void stand(struct election *e, const char *why, usec_t now, struct replica_effects *rfx,
                  struct election_effects *fx) {
    round_open(e, STANDING, now, fx);
    say(fx, ELECTION_STANDS, e->epoch, why);
    /* the own vote counts like any other: once it is durable (election_sealed) */
    struct replica_seal own = {.token = replica_self(e->replica),
                               .to = replica_self(e->replica),
                               .epoch = e->epoch,
                               .candidate = replica_self(e->replica)};
    replica_on_seal(e->replica, &own, now, rfx);
}

static bool may_stand(const struct election *e) {
    return election_voter(e) && replica_counts(e->replica) && !election_leading(e);
}

static void pre_stand(struct election *e, usec_t now, struct replica_effects *rfx,
                      struct election_effects *fx) {
    round_open(e, PRE, now, fx);
    peer_of(e, replica_self(e->replica))->granted = true;
    if (round_won(e))
        stand(e, "only voter", now, rfx, fx);
}

static void lead(struct election *e, usec_t now, struct replica_effects *rfx) {
    struct replica_record won = {.version = e->epoch,
                                 .epoch = e->epoch,
                                 .leader = replica_self(e->replica),
                                 .current = *replica_voters(e->replica),
                                 .last_epoch = replica_last_epoch(e->replica),
                                 .last_index = replica_last_index(e->replica)};
    e->led_since = now;
    e->transfer_to = 0;
    e->leader = replica_self(e->replica);
    e->leader_epoch = e->epoch;
    e->heard_at = now;
    for (size_t i = 0; i < e->peers_count; i++)
        e->peers[i].seen_at = 0;
    rest(e, now);
    replica_on_record(e->replica, &won, now, rfx);
}

/* The core stops leading when it promises higher; to nobody but itself, so that
 * whoever is elected meanwhile in that very epoch is still followed. */
static void step_down(struct election *e, const char *why, usec_t now, struct replica_effects *rfx,
                      struct election_effects *fx) {
    struct replica_seal higher = {.token = SEAL_TOKEN_NOBODY,
                                  .to = replica_self(e->replica),
                                  .epoch = replica_promise(e->replica) + 1,
                                  .candidate = replica_self(e->replica)};
    say(fx, ELECTION_STEPS_DOWN, replica_epoch(e->replica), why);
    e->leader = 0;
    e->transfer_to = 0;
    replica_on_seal(e->replica, &higher, now, rfx);
    rest(e, now);
}

/* ---- what is heard ---- */

void election_heard(struct election *e, member_t from, uint64_t epoch, usec_t now) {
    peer_of(e, from)->gone = false;
    if (epoch < replica_promise(e->replica) || epoch < e->leader_epoch || from == replica_self(e->replica))
        return;
    e->leader = from;
    e->leader_epoch = epoch;
    e->heard_at = now;
    if (e->round != STANDING || epoch >= e->epoch)
        rest(e, now);
}

void election_seen(struct election *e, member_t from, usec_t sent_at) {
    struct peer *p = peer_of(e, from);
    p->gone = false;
    if (sent_at > p->seen_at)
        p->seen_at = sent_at;
}

void election_gone(struct election *e, member_t peer, usec_t now) {
    struct peer *p = peer_of(e, peer);
    if (p->gone)
        return;
    p->gone = true;
    p->seen_at = 0;
    if (peer == e->leader && !election_leading(e) && e->round == RESTS)
        e->deadline = now + rank(e) * ELECTION_RANK_US;
}

void election_back(struct election *e, member_t peer) {
    peer_of(e, peer)->gone = false;
}

void election_on_pre_vote(struct election *e, const struct election_ask *m, usec_t now,
                          struct election_effects *fx) {
    uint64_t promise = replica_promise(e->replica);
    bool granted = m->epoch > promise && log_reaches(e, m) && replica_counts(e->replica) &&
                   (m->transfer || e->leader == m->from || !leader_lives(e, now));
    answer(e, fx, ELECTION_SEND_PRE_VOTED, m->from, m->epoch, granted, promise);
}

/* Nobody gave what was asked for: again soon if the leader is known to be gone,
 * else after the next timeout. */
static void round_failed(struct election *e, usec_t now) {
    bool lead_gone = e->leader == 0 || peer_gone(e, e->leader);
    rest(e, now);
    if (lead_gone)
        e->deadline = grain(now + ELECTION_RETRY_US + (usec_t)rng_below(e->rng, 2 * ELECTION_RETRY_US));
}

static bool round_answer(struct election *e, const struct election_answer *m, enum round round) {
    if (m->promise > e->epoch_seen)
        e->epoch_seen = m->promise;
    if (e->round != round || m->epoch != e->epoch)
        return false;
    struct peer *p = peer_of(e, m->from);
    p->granted = m->granted;
    p->refused = !m->granted;
    return true;
}

void election_on_pre_voted(struct election *e, const struct election_answer *m, usec_t now,
                           struct replica_effects *rfx, struct election_effects *fx) {
    if (!round_answer(e, m, PRE))
        return;
    if (round_won(e) && may_stand(e))
        stand(e, peer_gone(e, e->leader) ? "the leader is gone" : "the leader is silent", now, rfx, fx);
    else if (round_lost(e))
        round_failed(e, now);
}

void election_on_vote(struct election *e, const struct election_ask *m, usec_t now,
                      struct replica_effects *rfx, struct election_effects *fx) {
    bool welcome = log_reaches(e, m) && replica_counts(e->replica) &&
                   (m->transfer || e->leader == m->from || !leader_lives(e, now));
    if (!welcome) {
        answer(e, fx, ELECTION_SEND_VOTED, m->from, m->epoch, false, replica_promise(e->replica));
        return;
    }
    struct replica_seal seal = {
        .token = m->from, .to = replica_self(e->replica), .epoch = m->epoch, .candidate = m->from};
    replica_on_seal(e->replica, &seal, now, rfx);
    if (e->round == RESTS && !election_leading(e))
        e->deadline = grain(now + drawn(e)); /* give the one voted for its time */
}

void election_on_voted(struct election *e, const struct election_answer *m, usec_t now,
                       struct replica_effects *rfx, struct election_effects *fx) {
    (void)fx;
    if (!round_answer(e, m, STANDING))
        return;
    if (round_won(e) && replica_promise(e->replica) == e->epoch)
        lead(e, now, rfx);
    else if (round_lost(e))
        round_failed(e, now);
}

void election_sealed(struct election *e, const struct replica_sealed *m, usec_t now,
                     struct replica_effects *rfx, struct election_effects *fx) {
    bool granted = m->granted && !m->damaged;
    struct election_answer a = {
        .epoch = m->epoch, .from = m->from, .to = m->token, .granted = granted, .promise = m->promise};
    if (m->token == SEAL_TOKEN_NOBODY)
        return;
    if (m->token == replica_self(e->replica))
        election_on_voted(e, &a, now, rfx, fx);
    else
        effect_add(fx, ELECTION_SEND_VOTED)->answer = a;
}

void election_stand(struct election *e, usec_t now, struct replica_effects *rfx,
                    struct election_effects *fx) {
    if (may_stand(e))
        stand(e, "the cluster forms", now, rfx, fx);
}

void election_superseded(struct election *e, uint64_t promise, usec_t now, struct replica_effects *rfx,
                         struct election_effects *fx) {
    if (promise > e->epoch_seen)
        e->epoch_seen = promise;
    if (!election_leading(e) || promise <= replica_epoch(e->replica) || !replica_counts(e->replica))
        return;
    e->transfer_to = 0;
    e->transfer = true; /* the others just heard this leader: they may vote all the same */
    stand(e, "a voter has promised a newer epoch", now, rfx, fx);
}

/* ---- transfer ---- */

static member_t furthest(const struct election *e) {
    const struct replica_set *voters = replica_voters(e->replica);
    member_t best = 0;
    for (uint32_t i = 0; i < voters->count; i++) {
        member_t v = voters->members[i];
        if (v == replica_self(e->replica) || peer_gone(e, v))
            continue;
        if (best == 0 || replica_match(e->replica, v) > replica_match(e->replica, best))
            best = v;
    }
    return best;
}

static void transfer_go_on(struct election *e, struct election_effects *fx) {
    if (e->transfer_told || replica_match(e->replica, e->transfer_to) < replica_last_index(e->replica))
        return;
    e->transfer_told = true;
    e->epoch = replica_epoch(e->replica);
    ask(e, fx, ELECTION_SEND_TIMEOUT_NOW, e->transfer_to);
}

enum err election_transfer(struct election *e, member_t to, usec_t now, struct election_effects *fx) {
    if (!election_leading(e))
        return ERR_NOT_LEADER;
    if (to == 0)
        to = furthest(e);
    if (to == 0 || to == replica_self(e->replica) || !replica_set_has(replica_voters(e->replica), to))
        return ERR_NOT_FOUND;
    e->transfer_to = to;
    e->transfer_until = now + ELECTION_TRANSFER_US;
    e->transfer_told = false;
    transfer_go_on(e, fx);
    return ERR_OK;
}

void election_on_timeout_now(struct election *e, const struct election_ask *m, usec_t now,
                             struct replica_effects *rfx, struct election_effects *fx) {
    if (m->from != e->leader || m->epoch != e->leader_epoch || !may_stand(e))
        return;
    e->transfer = true;
    stand(e, "the leader passes on", now, rfx, fx);
}

/* ---- time ---- */

usec_t election_deadline(const struct election *e) {
    if (election_leading(e)) {
        usec_t check = e->led_since + ELECTION_QUORUM_US;
        usec_t heard = e->heard_at + ELECTION_HEARTBEAT_US_MAX;
        usec_t next = check > heard ? check : heard;
        return e->transfer_to ? e->heard_at + ELECTION_GRAIN_US : next;
    }
    return election_voter(e) ? e->deadline : USEC_NEVER;
}

static void tick_leading(struct election *e, usec_t now, struct replica_effects *rfx,
                         struct election_effects *fx) {
    e->heard_at = now;
    if (e->transfer_to && now >= e->transfer_until)
        e->transfer_to = 0;
    if (e->transfer_to)
        transfer_go_on(e, fx);
    if (now - e->led_since >= ELECTION_QUORUM_US && !quorum_seen(e, now - ELECTION_QUORUM_US))
        step_down(e, "no majority answers", now, rfx, fx);
}

void election_tick(struct election *e, usec_t now, struct replica_effects *rfx, struct election_effects *fx) {
    if (election_leading(e)) {
        tick_leading(e, now, rfx, fx);
        return;
    }
    if (now < e->deadline)
        return;
    if (!may_stand(e))
        rest(e, now);
    else
        pre_stand(e, now, rfx, fx);
}

/* ---- voters ---- */

static const struct election_candidate *candidate_of(member_t m, const struct election_candidate *all,
                                                     size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (all[i].member == m)
            return &all[i];
    }
    return NULL;
}

static void set_without(struct replica_set *s, uint32_t at) {
    s->count--;
    for (uint32_t i = at; i < s->count; i++)
        s->members[i] = s->members[i + 1];
    s->members[s->count] = 0;
}

/* Were it the set from now on, it could go on: the others' disks may be lost, and a
 * majority that is away for good can never be changed back. */
static bool majority_alive(const struct replica_set *s, const struct election_candidate *all, size_t count) {
    uint32_t alive = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct election_candidate *c = candidate_of(s->members[i], all, count);
        alive += c && c->alive;
    }
    return (alive * 2 > s->count) || MUTATED(voters_without_majority);
}

static bool taken_out(const struct replica_set *now, uint32_t at, const struct election_candidate *all,
                      size_t count, struct replica_set *out) {
    *out = *now;
    if (at >= now->count)
        return false;
    set_without(out, at);
    return majority_alive(out, all, count);
}

static bool added(const struct replica_set *now, const struct election_candidate *all, size_t count,
                  struct replica_set *out) {
    for (size_t i = 0; i < count && now->count < REPLICA_SET_MAX; i++) {
        if (!all[i].alive || all[i].replace || all[i].left || replica_set_has(now, all[i].member))
            continue;
        *out = *now;
        out->members[out->count++] = all[i].member;
        return majority_alive(out, all, count);
    }
    return false;
}

/* The wanted number: odd, of the nodes that are in. */
static uint32_t voters_wanted(const struct election_candidate *all, size_t count) {
    uint32_t in = 0;
    for (size_t i = 0; i < count; i++)
        in += !all[i].left;
    in = in < ELECTION_VOTERS_MAX ? in : ELECTION_VOTERS_MAX;
    return in - (in > 0 && in % 2 == 0);
}

bool election_next_voters(const struct replica_set *now, const struct election_candidate *all, size_t count,
                          struct replica_set *out) {
    uint32_t wanted = voters_wanted(all, count), good = 0, gone = 0;
    uint32_t bad = REPLICA_SET_MAX, worst = REPLICA_SET_MAX;
    size_t worst_at = 0;
    for (uint32_t i = 0; i < now->count; i++) {
        const struct election_candidate *c = candidate_of(now->members[i], all, count);
        if (c && !c->left && !c->replace) {
            good++;
            worst = (size_t)(c - all) >= worst_at ? i : worst;
            worst_at = (size_t)(c - all) >= worst_at ? (size_t)(c - all) : worst_at;
        } else if (c && !c->left) {
            bad = i;
        } else {
            gone++;
        }
    }
    /* its disk is no more: if it were counted still, its successor's loss would be the
     * second of one node */
    for (uint32_t i = now->count; gone && good && i-- > 0;) {
        const struct election_candidate *c = candidate_of(now->members[i], all, count);
        if ((!c || c->left) && taken_out(now, i, all, count, out))
            return true;
    }
    if (good < wanted)
        return added(now, all, count, out);
    if (now->count <= 1)
        return false;
    return taken_out(now,
                     bad < REPLICA_SET_MAX ? bad
                     : good > wanted       ? worst
                                           : REPLICA_SET_MAX,
                     all, count, out);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata group's election: Raft's (Ongaro, "Consensus: Bridging Theory and
 * Practice", 2014, chapters 3, 4.2.3, 6.2, 9.6: pre-vote, check-quorum,
 * leadership transfer) on top of one struct replica with config_in_log.
 *
 * Votes are seals with a candidate: the promise (and to whom) is written by the
 * core before the answer leaves. A candidate with a majority makes the record
 * (epoch = term, leader = self, voters, own log end) and gives it to its replica,
 * which leads from then on. Everything else of Raft is the core's.
 *
 * Happy path of a failover: a peer's connection is reset and its port refuses
 * (election_gone): if it led, each survivor asks for pre-votes after its rank
 * times 20 ms; a majority of pre-votes, then of votes; LEADING comes out of the
 * replica. Silence takes 150-300 ms instead.
 *
 * Pure, one thread; `now` is CLOCK_BOOTTIME. Effects of the replica and of the
 * election are two lists: both are to be carried out after each call.
 *
 * The owner
 *  - sends a heartbeat to every other voter while election_leading(), at least
 *    every ELECTION_HEARTBEAT_US_MAX, and passes answers to election_seen();
 *  - passes every heartbeat that names a leading epoch to election_heard(), and
 *    every append before it goes to the replica;
 *  - passes the replica's SEND_SEALED effects to election_sealed() (they become
 *    SEND_VOTED), and tells LEADING/STOPPED apart itself.
 */
#ifndef MAILROOM_CLUSTER_ELECTION_H
#define MAILROOM_CLUSTER_ELECTION_H

#include "base/rng.h"
#include "replica/replica.h"

enum {
    ELECTION_TIMEOUT_US = 150000,      /* T: a timeout is drawn from T .. 2T */
    ELECTION_HEARTBEAT_US_MAX = 50000, /* of a leader */
    ELECTION_GRAIN_US = 5000,          /* deadlines are rounded up to this */
    ELECTION_RANK_US = 20000,          /* survivors of a reset and refusal stand rank * this apart */
    ELECTION_RETRY_US = 20000,         /* pre-votes refused although the leader is gone: again after this */
    ELECTION_QUORUM_US = 400000,       /* a leader that heard no majority for this long steps down */
    ELECTION_TRANSFER_US = 200000,     /* a transfer that has not succeeded by then is called off */
    ELECTION_VOTERS_MAX = 5
};

/* PreVote, PreVoted, Vote, Voted, TimeoutNow of proto/peer.proto. */
struct election_ask {
    uint64_t epoch;
    member_t from, to;
    uint64_t last_epoch, last_index;
    bool transfer; /* told by the leader to stand */
};
struct election_answer {
    uint64_t epoch;
    member_t from, to;
    bool granted;
    uint64_t promise;
};

#define ELECTION_EFFECTS(X)                                                                                  \
    X(SEND_PRE_VOTE)                                                                                         \
    X(SEND_PRE_VOTED)                                                                                        \
    X(SEND_VOTE)                                                                                             \
    X(SEND_VOTED)                                                                                            \
    X(SEND_TIMEOUT_NOW)                                                                                      \
    X(STANDS)     /* for people: epoch, and why */                                                           \
    X(STEPS_DOWN) /* for people */

enum election_effect_type {
#define X(name) ELECTION_##name,
    ELECTION_EFFECTS(X)
#undef X
};

struct election_effect {
    enum election_effect_type type;
    union {
        struct election_ask ask;       /* SEND_PRE_VOTE, SEND_VOTE, SEND_TIMEOUT_NOW */
        struct election_answer answer; /* SEND_PRE_VOTED, SEND_VOTED */
        struct {
            uint64_t epoch;
            const char *why; /* static */
        } stands;
    };
};

/* At most what one call makes: cleared by the owner after each. */
struct election_effects {
    struct election_effect *items;
    size_t count, capacity;
};
void election_effects_clear(struct election_effects *fx);
void election_effects_free(struct election_effects *fx);

struct election;

/* Borrows replica and rng. `timeout` 0: ELECTION_TIMEOUT_US. */
struct election *election_new(struct replica *r, struct rng *rng, usec_t timeout, usec_t now);
void election_free(struct election *e);

/* ---- events; rfx takes what the replica wants done, fx what the election does ---- */

/* A frame of the leader of `epoch` arrived. */
void election_heard(struct election *e, member_t from, uint64_t epoch, usec_t now);
/* A voter answered something this leader sent at sent_at. */
void election_seen(struct election *e, member_t from, usec_t sent_at);
/* Peer's connection was reset and its port refuses. */
void election_gone(struct election *e, member_t peer, usec_t now);
void election_back(struct election *e, member_t peer);

void election_on_pre_vote(struct election *e, const struct election_ask *m, usec_t now,
                          struct election_effects *fx);
void election_on_pre_voted(struct election *e, const struct election_answer *m, usec_t now,
                           struct replica_effects *rfx, struct election_effects *fx);
void election_on_vote(struct election *e, const struct election_ask *m, usec_t now,
                      struct replica_effects *rfx, struct election_effects *fx);
void election_on_voted(struct election *e, const struct election_answer *m, usec_t now,
                       struct replica_effects *rfx, struct election_effects *fx);
void election_on_timeout_now(struct election *e, const struct election_ask *m, usec_t now,
                             struct replica_effects *rfx, struct election_effects *fx);
/* A SEND_SEALED of the replica: a vote that is now durable, own ones included. */
void election_sealed(struct election *e, const struct replica_sealed *m, usec_t now,
                     struct replica_effects *rfx, struct election_effects *fx);
/* REPORT_SUPERSEDED of the replica: a voter has promised this epoch to somebody
 * who did not win. The leader stands again above it, at once. */
void election_superseded(struct election *e, uint64_t promise, usec_t now, struct replica_effects *rfx,
                         struct election_effects *fx);
/* A forming cluster's founder: stand now, without waiting. */
void election_stand(struct election *e, usec_t now, struct replica_effects *rfx, struct election_effects *fx);
/* Pass leadership on: no proposals from here on (election_proposable() is false)
 * until it has worked or ELECTION_TRANSFER_US have passed. 0: to whoever is
 * furthest. ERR_NOT_LEADER; ERR_NOT_FOUND: nobody to take it. */
enum err election_transfer(struct election *e, member_t to, usec_t now, struct election_effects *fx);

/* When election_tick wants to be called. */
usec_t election_deadline(const struct election *e);
void election_tick(struct election *e, usec_t now, struct replica_effects *rfx, struct election_effects *fx);

/* ---- questions ---- */

bool election_leading(const struct election *e);
/* Leading, and heard by a majority lately: may act as the controller. */
bool election_proposable(const struct election *e);
member_t election_leader(const struct election *e); /* as last heard; 0: not known */
uint64_t election_epoch(const struct election *e);  /* of that leader */
bool election_voter(const struct election *e);      /* self */

/*
 * Voters, one change at a time (leader only). Given who may vote (members of
 * nodes that are in, best first) and which of them are alive, or dead past
 * replace_after: the next set to propose as ENTRY_CONFIG; false: it is right as
 * it is. The wanted number is odd and at most ELECTION_VOTERS_MAX. A voter that is
 * no candidate (its node has another disk now) goes before another is added; one
 * that is only dead stays until its replacement is in, for it may come back. No set
 * is proposed of which a majority is not alive: who is away may be away for good.
 */
struct election_candidate {
    member_t member;
    bool alive;   /* counts for a majority; may be added */
    bool replace; /* dead past replace_after: may be taken out */
    bool left;    /* its node was removed: it votes until it is taken out, and no more */
};
bool election_next_voters(const struct replica_set *now, const struct election_candidate *all, size_t count,
                          struct replica_set *out);

#endif

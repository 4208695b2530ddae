// SPDX-License-Identifier: Apache-2.0
/*
 * A small world in virtual time: members that hold copies (real struct replica)
 * of partitions, messages that take WORLD_TRIP_US, syncs that take WORLD_SYNC_US.
 * A member that is killed keeps what it had written, as after kill -9.
 */
#ifndef MAILROOM_TESTS_CLUSTER_WORLD_H
#define MAILROOM_TESTS_CLUSTER_WORLD_H

#include "base/rng.h"
#include "replica/replica.h"

enum { WORLD_TRIP_US = 200, WORLD_SYNC_US = 300, WORLD_GRAIN_US = 1000, WORLD_MEMBERS_MAX = 32 };

struct world;

struct copy {
    uint64_t partition;
    struct replica *r;
    struct entry *entries; /* with references on their bodies */
    size_t entries_count, entries_capacity;
    uint64_t promise;
    member_t candidate;
    uint64_t applied;
    bool doubtful; /* lost its power since it was whole */
    struct host *host;
    struct copy *next;
};

struct host {
    member_t member;
    bool alive;
    uint64_t life; /* events of an earlier life are void */
    struct copy *copies;
    struct world *world;
};

struct world_hooks {
    /* What the world does not carry out itself: SEND_SEALED, LEADING, ACTIVE, STOPPED, REPORT_*, APPLY. */
    void (*effect)(void *ctx, struct copy *c, const struct replica_effect *e);
    void (*append)(void *ctx, struct copy *c,
                   const struct replica_append *m); /* before the replica sees it */
    void (*tick)(void *ctx);                        /* every WORLD_GRAIN_US */
};

typedef void world_call(void *ctx, void *argument);

struct world *world_new(const struct world_hooks *hooks, void *ctx, bool config_in_log, uint64_t seed);
void world_free(struct world *w);
usec_t world_now(const struct world *w);
struct rng *world_rng(struct world *w);

struct host *world_host(struct world *w, member_t m); /* made when it is new */
struct copy *world_copy(struct host *h, uint64_t partition);
struct copy *world_copy_make(struct host *h, uint64_t partition);
void world_drop(struct copy *c); /* data gone, promise stays */
void world_kill(struct world *w, member_t m);
/* Between kill and start: the machine's power went, each copy's log is a little shorter. */
void world_power_lost(struct world *w, member_t m, uint64_t entries);
void world_start(struct world *w, member_t m); /* copies recover from what they had written */
void world_cut(struct world *w, member_t a, member_t b, bool cut);
bool world_cut_off(const struct world *w, member_t a, member_t b);

/* Carries out and clears the effects of a call to c's replica. */
void world_carry(struct copy *c, struct replica_effects *fx);
/* Calls back after `delay`, unless `to` has died meanwhile (0: nobody's). `size`
 * bytes of argument are copied. */
void world_later(struct world *w, usec_t delay, member_t to, world_call *call, const void *argument,
                 size_t size);
void world_run(struct world *w, usec_t span);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The leading controller's brain: decides each partition's epoch, leader and
 * replica set (DESIGN section 6: seal, planned moves, changing the replica set;
 * section 7: failover, rebuilding, evening out). Pure: what happened goes in,
 * what is to be done comes out. It holds nothing that must survive: a new
 * leading controller starts again from the applied records.
 *
 * Life of a failover: control_member(gone) -> one SEND_SEAL for each replica of
 * each partition it led (consecutive ones to a member go in one frame) ->
 * control_on_sealed from a majority -> PROPOSE with all new records of the turn
 * in one command -> control_applied -> SEND_RECORD to every replica ->
 * REPORT_LED.
 *
 * One operation a partition at a time. Every wait has a deadline: seals are sent
 * again, planned moves are called off, failovers go on until they succeed.
 *
 * Everything is decided from applied metadata; an answer counts only for the
 * token, the epoch and the record version it was asked with.
 *
 * Thread: one. Borrows metadata and detector; both are read only.
 */
#ifndef MAILROOM_CLUSTER_CONTROL_H
#define MAILROOM_CLUSTER_CONTROL_H

#include "base/err.h"
#include "cluster/detector.h"
#include "cluster/metadata.h"
#include "cluster/placement.h"

enum {
    CONTROL_SEAL_RETRY_US = 100000,    /* an unanswered seal is sent again */
    CONTROL_SEAL_LINGER_US = 20000,    /* a majority has answered: wait this long for the others */
    CONTROL_POWER_LINGER_US = 3000000, /* and this long where a majority has lost its power: one that
                                          starts later may have more */
    CONTROL_PLANNED_US = 2000000,      /* a planned move not sealed by then is called off */
    CONTROL_HOLD_US = 50000,           /* publishes held for a planned move */
    CONTROL_LED_US = 1000000,          /* record told, no LED: told again */
    CONTROL_LED_TRIES_MAX = 3,         /* told this often: sealed again */
    CONTROL_LED_SLOW_MAX = 8,          /* each round of that takes longer, up to this factor */
    CONTROL_LEARN_US = 600000000,      /* a learner that has not caught up by then is given up */
    CONTROL_DROP_RETRY_US = 2000000,
    CONTROL_PLAN_US = 500000,           /* between two looks at placement */
    CONTROL_COOL_US = 5000000,          /* a partition just moved (or called off) stays put */
    CONTROL_SETTLE_US = 3000000,        /* a new leading controller evens nothing out before */
    CONTROL_PROPOSE_US = 2000000,       /* a proposal nobody answered is taken for lost */
    CONTROL_SEALS_MAX = 4096,           /* partitions sealed at once; further ones wait their turn */
    CONTROL_SWEEP_US = 200000,          /* what has no operation is looked at this often */
    CONTROL_MOVES_MAX = 32,             /* planned leader moves under way */
    CONTROL_CHANGES_MAX = 8,            /* set changes under way: bounds what catching up costs */
    CONTROL_RECOVER_US = 5000000,       /* sealing in vain this long: an operator may accept loss */
    CONTROL_CRASH_FORGET_US = 600000000 /* led this long without a crash: the count starts anew */
};

/* As enum ReportKind of proto/peer.proto. */
enum control_report_kind {
    CONTROL_ACTIVATED,
    CONTROL_SUPERSEDED,
    CONTROL_CANNOT,
    CONTROL_CAUGHT_UP,
    CONTROL_DAMAGED,
    CONTROL_MENDED,
    CONTROL_LED,
    CONTROL_HELD,
    CONTROL_DROPPED,
    CONTROL_CRASHED
};

struct control_report {
    uint64_t partition;
    enum control_report_kind kind;
    member_t from;
    uint64_t epoch; /* or promise */
    member_t peer;  /* CAUGHT_UP: the learner; HELD: the target */
    uint32_t crashes;
};

#define CONTROL_EFFECTS(X)                                                                                   \
    X(SEND_SEAL)   /* seal, to member */                                                                     \
    X(SEND_RECORD) /* the partition's applied record, to member */                                           \
    X(SEND_HOLD)   /* to member (leader): hold publishes until target has all */                             \
    X(SEND_DROP)   /* to member: drop data at or below epoch */                                              \
    X(PROPOSE)     /* command: into the metadata log; answer with control_proposed */                        \
    X(SAY)         /* text: a line for the log */

enum control_effect_type {
#define X(name) CONTROL_##name,
    CONTROL_EFFECTS(X)
#undef X
};

enum { CONTROL_TEXT_BYTES = 200 };

struct control_effect {
    enum control_effect_type type;
    member_t member;
    uint64_t partition;
    union {
        struct replica_seal seal;
        struct {
            member_t target;
            usec_t at_most;
        } hold;
        struct {
            uint64_t epoch;
            bool removed;
        } drop;
        struct {
            struct body *command; /* a reference; effects_clear drops it */
            uint64_t tag;
        } propose;
        char text[CONTROL_TEXT_BYTES];
    };
};

struct control_effects {
    struct control_effect *items;
    size_t count, capacity;
};
void control_effects_clear(struct control_effects *fx);
void control_effects_free(struct control_effects *fx);

struct control_options {
    usec_t rebuild_grace; /* a dead node's replicas are built elsewhere after this */
    usec_t lease;         /* 0: REPLICA_LEASE_US */
    usec_t cool;          /* 0: CONTROL_COOL_US */
    usec_t settle;        /* 0: CONTROL_SETTLE_US */
    uint64_t seed;        /* breaks ties in placement */
};

struct control;

struct control *control_new(const struct control_options *o, const struct metadata *m,
                            const struct detector *d);
void control_free(struct control *c);

/* ---- leadership of the metadata group ---- */

/* This controller leads `term` and its metadata is current (replica ACTIVE). The
 * owner tells all shards (Lead); they report anew what holds: LED for each epoch
 * that is active, CANNOT, SUPERSEDED, ACTIVATED, DAMAGED, CAUGHT_UP. */
void control_start(struct control *c, uint64_t term, usec_t now, struct control_effects *fx);
/* It leads no more: everything under way is forgotten. */
void control_stop(struct control *c);
bool control_running(const struct control *c);

/* ---- events; ignored while not running ---- */

void control_applied(struct control *c, const struct metadata_changes *changes, usec_t now,
                     struct control_effects *fx);
/* Answer to PROPOSE: applied with this code (control_applied() was called with
 * its changes before), or not proposed (ERR_BUSY, ERR_NOT_LEADER). */
void control_proposed(struct control *c, uint64_t tag, enum err code, usec_t now, struct control_effects *fx);
/* The detector's view of a node changed: where replicas may be placed, and what
 * must be rebuilt, is looked at again. */
void control_node_changed(struct control *c);
/* The detector's view of a member changed, or its link came up (up again: what
 * was sent before is lost). */
void control_member(struct control *c, member_t member, enum detector_health health, usec_t now,
                    struct control_effects *fx);
/* unknown: the shard has not been told of this partition yet. */
void control_on_sealed(struct control *c, uint64_t partition, const struct replica_sealed *m, bool unknown,
                       usec_t now, struct control_effects *fx);
void control_on_report(struct control *c, const struct control_report *r, usec_t now,
                       struct control_effects *fx);
/* Measured load of a shard (breaks ties). */
void control_load(struct control *c, member_t member, uint64_t load);
/* Once a turn, after the events: emits the turn's proposals, starts what waited. */
void control_pump(struct control *c, usec_t now, struct control_effects *fx);
usec_t control_deadline(const struct control *c);
void control_tick(struct control *c, usec_t now, struct control_effects *fx);

/* ---- requests ---- */

/* Make a request from a client or another controller a command to propose: fills
 * in what only the leading controller may decide (placement). ERR_UNAVAILABLE:
 * no node to place it on; ERR_INVALID. The command is changed in place. */
enum err control_prepare(struct control *c, struct command *request, struct err_detail *detail);
/* mailbox recover: partitions of this mailbox without a majority go on from the
 * copy on this node alone. ERR_NOT_FOUND, ERR_UNSAFE (it has a majority). */
enum err control_recover(struct control *c, const char *mailbox, const char *node, usec_t now,
                         struct control_effects *fx, struct err_detail *detail);
/* Lead somewhere else, e.g. before a shard restarts: moves every leadership of
 * the member away. Returns how many it still leads. */
size_t control_vacate(struct control *c, member_t member, usec_t now, struct control_effects *fx);

/* ---- questions ---- */

enum partition_state {
    PARTITION_OK,
    PARTITION_ELECTING,
    PARTITION_ACTIVATING,
    PARTITION_NO_MAJORITY,
    PARTITION_QUARANTINED,
    PARTITION_DAMAGED
};
/* "ok", "electing", "activating", "no-majority", "quarantined", "damaged". */
const char *partition_state_name(enum partition_state s);
/* As any controller sees it (a follower knows the record and who is alive). */
enum partition_state partition_state(const struct metadata_partition *p, const struct detector *d);

/* Operations under way, for status and tests. */
struct control_counts {
    size_t seals, moves, changes, waiting;
};
struct control_counts control_counts(const struct control *c);

#endif

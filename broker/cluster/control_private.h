// SPDX-License-Identifier: Apache-2.0
/* The control's own layout; only control*.c see it. */
#ifndef MAILROOM_CLUSTER_CONTROL_PRIVATE_H
#define MAILROOM_CLUSTER_CONTROL_PRIVATE_H

#include <uthash.h>
#include <utlist.h>

#include "cluster/control.h"

enum op_kind {
    OP_SEAL,   /* a new epoch is needed: leader gone, cannot, superseded, mended */
    OP_MOVE,   /* lead from another member of the set */
    OP_CHANGE, /* another set */
    OP_RECOVER /* go on from one copy, accepting loss */
};

enum op_stage {
    STAGE_HOLD,  /* MOVE: until the target has all */
    STAGE_LEARN, /* CHANGE: until the newcomers have all */
    STAGE_SEAL,  /* asked; until a majority has answered */
    STAGE_COMMIT /* proposed; until applied */
};

enum { ASKED_MAX = 2 * REPLICA_SET_MAX + 1 };

struct asked {
    member_t member;
    bool sent;
    bool granted;
    bool damaged;
    bool doubtful; /* granted; its log may have lost its end (replica.h) */
    bool told;     /* it did not know the partition and was told of it */
    uint64_t last_epoch, last_index;
};

struct op {
    struct watch *watch;
    enum op_kind kind;
    enum op_stage stage;
    uint64_t base_version;
    uint64_t number; /* the new epoch */
    uint64_t token;
    uint64_t tag; /* of the proposal it waits for; 0: not yet emitted */
    usec_t started_at;
    usec_t deadline;           /* of the stage: send again, or give up */
    usec_t enough_at;          /* enough have answered; 0: not yet */
    usec_t give_up_at;         /* USEC_NEVER: goes on until it succeeds */
    member_t target;           /* MOVE, RECOVER */
    struct replica_set set;    /* CHANGE */
    struct replica_set caught; /* CHANGE: learners that caught up */
    const char *why;
    struct asked asked[ASKED_MAX];
    uint32_t asked_count;
    struct op *prev, *next;
};

/* What is known of a partition beyond its record. */
struct watch {
    uint64_t partition;
    uint64_t version; /* of the record last seen */
    uint64_t epoch;
    member_t leader;    /* counted in leaders[] */
    uint64_t led_epoch; /* LED was reported for it */
    usec_t epoch_at;    /* when the record's epoch was applied here */
    usec_t led_at;
    usec_t led_due; /* no LED by then: tell again */
    uint32_t led_tries, led_rounds;
    uint64_t promise_seen;
    uint64_t cannot_epoch;
    bool mended;  /* a copy is whole again: a new epoch is due */
    bool blocked; /* needs a seal, has no majority */
    bool queued;  /* waits for room */
    usec_t cool_until;
    usec_t asked_at; /* ACTIVATED, LEARNERS or CRASHES proposed then; 0 */
    struct replica_set damaged;
    struct op *op;
    bool stirred;              /* in the list of those the sweep looks at */
    struct watch *prev, *next; /* queue */
    struct watch *stir_prev, *stir_next;
    UT_hash_handle hh;
};

struct load {
    member_t member;
    uint64_t value;
    UT_hash_handle hh;
};

struct control {
    struct control_options options;
    const struct metadata *m;
    const struct detector *d;
    bool running;
    uint64_t term;
    usec_t started_at;
    uint64_t next_token, next_tag;

    struct watch *watches;
    struct op *ops;
    size_t ops_count, moves, changes;
    struct watch *queue;
    struct watch *stirred; /* all that need something, or may soon */
    size_t queue_count;
    struct load *loads;
    uint32_t leaders[1025]; /* by node id: counts what is chosen but not yet applied too */

    struct record_change *ready; /* this turn's */
    size_t ready_count, ready_capacity;
    struct drop_done *dropped;
    size_t dropped_count, dropped_capacity;

    usec_t sweep_at, plan_at, drops_at;
    bool plan_wanted;
    size_t unled; /* partitions of a failover not yet led again, for the log */
    usec_t trouble_at;
    size_t trouble_count;
    uint32_t said; /* lines this turn */
};

/* ---- control_effects.c ---- */
struct control_effect *control_effect_add(struct control_effects *fx, enum control_effect_type type,
                                          member_t member, uint64_t partition);
void control_say(struct control *c, struct control_effects *fx, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Encodes, and frees nothing of the command. Returns its tag. */
uint64_t control_propose(struct control *c, const struct command *command, struct control_effects *fx);
/* "orders/0" */
const char *control_name(const struct control *c, const struct metadata_partition *p,
                         char out[NAME_BYTES_MAX + 16]);
const char *control_node(const struct control *c, member_t member);

/* ---- control.c ---- */
const struct metadata_partition *control_partition(const struct control *c, const struct watch *w);
bool control_usable(const struct control *c, member_t member);                 /* may be asked */
bool control_majority(const struct control *c, const struct replica_set *set); /* usable */
bool control_led(const struct control *c, const struct watch *w, const struct metadata_partition *p);
void control_review(struct control *c, struct watch *w, usec_t now, struct control_effects *fx);
void control_send_record(const struct metadata_partition *p, struct control_effects *fx);
struct op *op_begin(struct control *c, struct watch *w, enum op_kind kind, const char *why, usec_t now);
void op_end(struct control *c, struct op *op);

/* ---- control_seal.c ---- */
void seal_start(struct control *c, struct op *op, usec_t now, struct control_effects *fx);
void seal_tick(struct control *c, struct op *op, usec_t now, struct control_effects *fx);
/* A member can be asked now, or cannot any more. */
void seal_member(struct control *c, struct op *op, member_t member, usec_t now, struct control_effects *fx);
void seal_answer(struct control *c, struct op *op, const struct replica_sealed *m, bool unknown, usec_t now,
                 struct control_effects *fx);
bool seal_possible(const struct control *c, const struct replica_record *r);

/* ---- control_change.c ---- */
void control_lead_counted(struct control *c, struct watch *w, member_t leader);
/* After members moved between nodes, or became nobody's. */
void control_leads_recount(struct control *c);
/* What waits for a member that is nobody's now would wait in vain. */
void change_nodes_changed(struct control *c, usec_t now, struct control_effects *fx);
bool move_start(struct control *c, struct watch *w, member_t to, const char *why, usec_t now,
                struct control_effects *fx);
bool change_start(struct control *c, struct watch *w, const struct replica_set *set, const char *why,
                  usec_t now, struct control_effects *fx);
void change_applied(struct control *c, struct op *op, const struct replica_record *r, usec_t now,
                    struct control_effects *fx);
void change_caught_up(struct control *c, struct op *op, member_t peer, usec_t now,
                      struct control_effects *fx);
void change_give_up(struct control *c, struct op *op, const char *why, usec_t now,
                    struct control_effects *fx);
void change_propose_learners(struct control *c, struct watch *w, const struct replica_set *learners,
                             usec_t now, struct control_effects *fx);
member_t change_best(struct control *c, const struct replica_record *r, member_t not );
void control_plan(struct control *c, usec_t now, struct control_effects *fx);
void control_send_drops(struct control *c, usec_t now, struct control_effects *fx);
void control_view(struct control *c, struct placement_view *v, usec_t now); /* free v->nodes */

#endif

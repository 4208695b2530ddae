// SPDX-License-Identifier: Apache-2.0
/*
 * The tree of children: who is to be started, asked, killed and restarted, and
 * when. Pure: events and the time go in, effects come out; supervisor.c does
 * them. Meaning as in OTP (restart, strategy, intensity and period, order), and
 * readiness, back-off, watchdog and obituaries beyond it.
 *
 * A child's life is a table of state x event (tree.c). What it should be and
 * what it is are two things: tree_settle drives one to the other.
 */
#ifndef MAILROOM_SUPERVISOR_TREE_H
#define MAILROOM_SUPERVISOR_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/units.h"

enum restart {
    RESTART_PERMANENT, /* always */
    RESTART_TRANSIENT, /* after a signal or an exit code other than 0 */
    RESTART_TEMPORARY  /* never */
};

enum strategy {
    STRATEGY_ONE_FOR_ONE,  /* restart the one that died */
    STRATEGY_REST_FOR_ONE, /* and all that were started after it */
    STRATEGY_ONE_FOR_ALL   /* and all */
};

enum {
    TREE_CHILDREN_MAX = CONFIG_SHARDS_MAX + 3, /* controller, gateway, admin */
    TREE_EFFECTS_MAX = TREE_CHILDREN_MAX * 8,
    TREE_CRASHES_MAX = 16, /* partitions remembered a child */
    /* Restarts that end the tree: base + each shard's share, within as many
     * seconds. A shard's share is above what quarantining one partition takes. */
    TREE_RESTARTS_BASE = 10,
    TREE_RESTARTS_PER_SHARD = 4,
    TREE_RESTARTS_MAX = TREE_RESTARTS_BASE + TREE_RESTARTS_PER_SHARD * CONFIG_SHARDS_MAX
};

#define TREE_PERIOD_PER_RESTART (1 * USEC_S)
#define TREE_BACKOFF_FIRST      (20 * USEC_MS)
#define TREE_BACKOFF_MOST       (500 * USEC_MS)
/* A child that was ready for so long starts over with the first back-off. */
#define TREE_BACKOFF_FORGET (10 * USEC_S)
/* A crash of a partition is no longer "in a row" after so long. */
#define TREE_CRASH_FORGET (600 * USEC_S)
/* From SIGABRT to SIGKILL. */
#define TREE_ABORT_GRACE (1 * USEC_S)

struct child_spec {
    const char *role;
    unsigned index;
    unsigned rank; /* equal ranks start together, once all of lower rank are ready or overdue */
    enum restart restart;
    usec_t start_timeout; /* from start, or the last beat, to readiness */
    usec_t stop_timeout;  /* from being asked to SIGKILL */
};

struct tree_spec {
    const struct child_spec *children; /* in start order, ranks ascending; outlives the tree */
    unsigned count;
    enum strategy strategy;
    unsigned restarts_max; /* more of them within period end the tree */
    usec_t period;
    usec_t watchdog;
};

#define CHILD_STATES(X)                                                                                      \
    X(DOWN, "restarting")   /* waits for its turn or its back-off */                                         \
    X(STARTING, "starting") /* runs, not ready yet */                                                        \
    X(READY, "ready")                                                                                        \
    X(STOPPING, "stopping") /* asked */                                                                      \
    X(ABORTING, "aborting") /* SIGABRT sent */                                                               \
    X(KILLED, "killed")     /* SIGKILL sent */                                                               \
    X(RETIRED, "stopped")   /* said "do not restart me" */                                                   \
    X(FINISHED, "finished") /* transient or temporary, done */

enum child_state {
#define X(name, text) CHILD_##name,
    CHILD_STATES(X)
#undef X
        CHILD_STATES_COUNT
};
const char *child_state_text(enum child_state state);

enum death_cause {
    DEATH_BY_ITSELF, /* or by somebody else's signal */
    DEATH_ASKED,
    DEATH_NOT_STOPPED, /* asked, then killed */
    DEATH_NOT_READY,   /* not ready in time */
    DEATH_WATCHDOG,
    DEATH_NOT_STARTED /* fork or exec failed */
};
const char *death_cause_text(enum death_cause cause);

/* How a process ended, as waitid says. */
struct child_exit {
    bool signalled;
    int code;           /* the signal, or the exit code */
    uint64_t partition; /* what it was working on, 0 = nothing */
    bool not_started;
};

struct obituary {
    struct child_exit exit;
    enum death_cause cause;
    uint32_t instance;
    usec_t uptime;
    unsigned in_period; /* restarts of the whole tree in the period, this one included */
    unsigned crashes;   /* of that partition in a row, 0 = not attributed */
};

enum tree_effect_kind {
    TREE_SPAWN = 1, /* start child as `instance` */
    TREE_ASK,       /* send it STOP */
    TREE_SIGNAL,    /* send it `signal` */
    TREE_ANNOUNCE,  /* it is ready: tell the others */
    TREE_BURY,      /* it is gone: tell the others, keep the obituary */
    TREE_GIVE_UP,   /* too many restarts: all are being stopped */
    TREE_END        /* all are gone: exit with `code` */
};

struct tree_effect {
    enum tree_effect_kind kind;
    unsigned child;
    uint32_t instance;
    int signal;
    int code;
    struct obituary obituary;
};

struct crash_note {
    uint64_t partition; /* 0 = free */
    unsigned count;
    usec_t last;
};

/* Fields are tree.c's own except where a reader is named. */
struct tree_child {
    enum child_state state; /* board, tests */
    enum death_cause cause;
    bool ordered;      /* starts in its turn: first start, group restarts */
    bool regroup;      /* must go down before anybody starts */
    uint32_t instance; /* supervisor, board */
    unsigned restarts; /* board */
    unsigned failures; /* back-off's exponent */
    uint64_t beat;
    usec_t started_at;
    usec_t ready_at;                             /* 0 = not yet */
    usec_t turn_at;                              /* when its turn in the order came; USEC_NEVER = not yet */
    usec_t start_at;                             /* CHILD_DOWN: not before */
    usec_t deadline;                             /* of the state; USEC_NEVER = none */
    struct crash_note crashes[TREE_CRASHES_MAX]; /* supervisor */
};

enum tree_phase { TREE_RUNNING, TREE_STOPPING, TREE_ENDED };

struct tree {
    struct tree_spec spec;
    enum tree_phase phase;
    int exit_code;
    uint32_t instances; /* handed out so far */
    usec_t ticked_at;
    usec_t still; /* a gap between ticks above it: the supervisor stood still itself */
    unsigned restarts;
    usec_t restart_times[TREE_RESTARTS_MAX];
    struct tree_child children[TREE_CHILDREN_MAX];
    struct tree_effect effects[TREE_EFFECTS_MAX];
    unsigned effects_count;
    unsigned effects_taken;
};

/* still: see struct tree. The first children are wanted at once: effects wait. */
void tree_open(struct tree *t, const struct tree_spec *spec, usec_t still, usec_t now);
/* Events. Those that do not fit the child's state change nothing. */
void tree_ready(struct tree *t, unsigned child, usec_t now);
void tree_exited(struct tree *t, unsigned child, const struct child_exit *exit, usec_t now);
void tree_beat(struct tree *t, unsigned child, uint64_t turns, usec_t now);
void tree_tick(struct tree *t, usec_t now);
/* Stop all in reverse order, then TREE_END with code. */
void tree_stop(struct tree *t, int code, usec_t now);
void tree_forgive(struct tree *t, unsigned child, uint64_t partition);

/* When tree_tick is due at the latest (beats are the caller's to poll). */
usec_t tree_deadline(const struct tree *t);
/* Take the next effect; false when there is none. Drain after each event. */
bool tree_effect(struct tree *t, struct tree_effect *out);
bool tree_alive(const struct tree *t, unsigned child);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Happy path: tree_open wants all children; each rank is spawned once the ranks
 * below are ready; tree_stop asks them rank by rank in reverse, and the last
 * exit ends the tree.
 *
 * Failures: a death is buried; unless it was asked for it counts as a restart,
 * waits its back-off, and its strategy says who goes down with it (regroup).
 * Too many in the period turn into tree_stop with exit code 1.
 */
#include "supervisor/tree.h"

#include <signal.h>
#include <string.h>

#include "base/check.h"
#include "supervisor/child.h"

_Static_assert((int)TREE_RESTARTS_PER_SHARD > (int)CHILD_CRASHES_QUARANTINE,
               "every shard can quarantine a partition before the tree ends");
_Static_assert(2 * TREE_BACKOFF_MOST <= TREE_PERIOD_PER_RESTART,
               "a child that dies at every start ends the tree in spite of its back-off");

enum event { EVENT_START, EVENT_READY, EVENT_BEAT, EVENT_STOP, EVENT_LATE, EVENT_EXIT, EVENTS_COUNT };

struct step {
    struct tree *t;
    struct tree_child *c;
    const struct child_spec *spec;
    unsigned index;
    usec_t now;
    const struct child_exit *exit; /* EVENT_EXIT */
};

typedef void (*handler)(struct step *s);

static struct tree_effect *put_effect(struct tree *t, enum tree_effect_kind kind, unsigned child) {
    CHECK(t->effects_count < TREE_EFFECTS_MAX);
    struct tree_effect *e = &t->effects[t->effects_count++];
    *e = (struct tree_effect){.kind = kind, .child = child};
    return e;
}

static bool running(enum child_state s) {
    return s == CHILD_STARTING || s == CHILD_READY || s == CHILD_STOPPING || s == CHILD_ABORTING ||
           s == CHILD_KILLED;
}

bool tree_alive(const struct tree *t, unsigned child) {
    return running(t->children[child].state);
}

/* ---- what happens to a child ---- */

static void enter(struct step *s, enum child_state state, usec_t deadline) {
    s->c->state = state;
    s->c->deadline = deadline;
}

static void child_spawn(struct step *s) {
    struct tree_child *c = s->c;
    c->instance = ++s->t->instances;
    c->cause = DEATH_BY_ITSELF;
    c->beat = 0;
    c->started_at = s->now;
    c->ready_at = 0;
    if (c->ordered && c->turn_at == USEC_NEVER)
        c->turn_at = s->now;
    enter(s, CHILD_STARTING, s->now + s->spec->start_timeout);
    put_effect(s->t, TREE_SPAWN, s->index)->instance = c->instance;
}

static void child_up(struct step *s) {
    s->c->ready_at = s->now;
    s->c->ordered = false;
    enter(s, CHILD_READY, s->now + s->t->spec.watchdog);
    put_effect(s->t, TREE_ANNOUNCE, s->index)->instance = s->c->instance;
}

static void child_extend(struct step *s) {
    s->c->deadline = s->now + (s->c->state == CHILD_READY ? s->t->spec.watchdog : s->spec->start_timeout);
}

static void child_ask(struct step *s) {
    s->c->cause = DEATH_ASKED;
    enter(s, CHILD_STOPPING, s->now + s->spec->stop_timeout);
    put_effect(s->t, TREE_ASK, s->index);
}

/* A stopped process stays stopped under SIGABRT alone. */
static void child_abort(struct step *s) {
    s->c->cause = s->c->state == CHILD_READY ? DEATH_WATCHDOG : DEATH_NOT_READY;
    enter(s, CHILD_ABORTING, s->now + TREE_ABORT_GRACE);
    put_effect(s->t, TREE_SIGNAL, s->index)->signal = SIGABRT;
    put_effect(s->t, TREE_SIGNAL, s->index)->signal = SIGCONT;
}

static void child_kill(struct step *s) {
    if (s->c->cause == DEATH_ASKED)
        s->c->cause = DEATH_NOT_STOPPED;
    enter(s, CHILD_KILLED, USEC_NEVER);
    put_effect(s->t, TREE_SIGNAL, s->index)->signal = SIGKILL;
}

/* ---- death ---- */

/* Is it the code's fault? Not a kill from outside, not an exit with a reason. */
static bool is_crash(const struct tree_child *c, const struct child_exit *exit) {
    static const int signals[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP};
    if (exit->partition == 0 || !exit->signalled || c->cause == DEATH_ASKED || c->cause == DEATH_NOT_STOPPED)
        return false;
    if (c->cause == DEATH_WATCHDOG || c->cause == DEATH_NOT_READY)
        return true;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (exit->code == signals[i])
            return true;
    return false;
}

/* The partition's note, else a free one, else the one that is longest ago. */
static struct crash_note *find_note(struct tree_child *c, uint64_t partition, usec_t now) {
    struct crash_note *oldest = &c->crashes[0];
    for (unsigned i = 0; i < TREE_CRASHES_MAX; i++) {
        struct crash_note *n = &c->crashes[i];
        if (n->partition && now - n->last > TREE_CRASH_FORGET && n->count < CHILD_CRASHES_QUARANTINE)
            *n = (struct crash_note){0};
    }
    for (unsigned i = 0; i < TREE_CRASHES_MAX; i++) {
        struct crash_note *n = &c->crashes[i];
        if (n->partition == partition)
            return n;
        if (n->partition == 0 || (oldest->partition && n->last < oldest->last))
            oldest = n;
    }
    return oldest;
}

static unsigned note_crash(struct step *s) {
    if (!is_crash(s->c, s->exit))
        return 0;
    struct crash_note *n = find_note(s->c, s->exit->partition, s->now);
    if (n->partition != s->exit->partition)
        *n = (struct crash_note){.partition = s->exit->partition};
    n->last = s->now;
    return ++n->count;
}

static unsigned restarts_since(const struct tree *t, usec_t since) {
    unsigned kept = t->restarts < t->spec.restarts_max ? t->restarts : t->spec.restarts_max, n = 0;
    for (unsigned i = 0; i < kept; i++)
        n += t->restart_times[i] > since;
    return n;
}

/* Counts one more; the number within the period, this one included. */
static unsigned note_restart(struct tree *t, usec_t now) {
    unsigned before = restarts_since(t, now - t->spec.period);
    if (t->spec.restarts_max)
        t->restart_times[t->restarts % t->spec.restarts_max] = now;
    t->restarts++;
    return before + 1;
}

static void back_off(struct step *s) {
    struct tree_child *c = s->c;
    if (c->ready_at && s->now - c->ready_at >= TREE_BACKOFF_FORGET)
        c->failures = 0;
    usec_t wait = TREE_BACKOFF_FIRST << c->failures;
    if (wait < TREE_BACKOFF_MOST)
        c->failures++;
    c->start_at = s->now + (wait < TREE_BACKOFF_MOST ? wait : TREE_BACKOFF_MOST);
}

/* Who goes down with it, and starts again in order. */
static void regroup(struct step *s) {
    unsigned first = s->t->spec.strategy == STRATEGY_ONE_FOR_ALL ? 0 : s->index + 1;
    if (s->t->spec.strategy == STRATEGY_ONE_FOR_ONE)
        return;
    s->c->ordered = true;
    s->c->turn_at = USEC_NEVER;
    for (unsigned i = first; i < s->t->spec.count; i++)
        if (running(s->t->children[i].state))
            s->t->children[i].regroup = true;
}

static void begin_stop(struct tree *t, int code) {
    t->phase = TREE_STOPPING;
    t->exit_code = code;
}

static void restart_later(struct step *s, struct obituary *o) {
    s->c->restarts++;
    o->in_period = note_restart(s->t, s->now);
    back_off(s);
    regroup(s);
    if (o->in_period > s->t->spec.restarts_max) {
        begin_stop(s->t, 1);
        put_effect(s->t, TREE_GIVE_UP, s->index);
    }
}

static bool wants_restart(const struct step *s) {
    bool failed = s->exit->signalled || s->exit->code != 0;
    return s->spec->restart == RESTART_PERMANENT || (s->spec->restart == RESTART_TRANSIENT && failed);
}

static void child_bury(struct step *s) {
    struct tree_child *c = s->c;
    bool asked = c->cause == DEATH_ASKED || c->cause == DEATH_NOT_STOPPED;
    struct tree_effect *e = put_effect(s->t, TREE_BURY, s->index);
    if (s->exit->not_started)
        c->cause = DEATH_NOT_STARTED;
    e->instance = c->instance;
    e->obituary = (struct obituary){.exit = *s->exit,
                                    .cause = c->cause,
                                    .instance = c->instance,
                                    .uptime = s->now - c->started_at,
                                    .crashes = note_crash(s)};
    enter(s, CHILD_DOWN, USEC_NEVER);
    if (asked) {
        c->ordered = true;
        c->turn_at = USEC_NEVER;
        c->start_at = s->now;
    } else if (!s->exit->signalled && s->exit->code == CHILD_EXIT_OPERATOR)
        c->state = CHILD_RETIRED;
    else if (!wants_restart(s))
        c->state = CHILD_FINISHED;
    else if (s->t->phase == TREE_RUNNING)
        restart_later(s, &e->obituary);
}

static const handler table[CHILD_STATES_COUNT][EVENTS_COUNT] = {
    [CHILD_DOWN] = {[EVENT_START] = child_spawn},
    [CHILD_STARTING] = {[EVENT_READY] = child_up,
                        [EVENT_BEAT] = child_extend,
                        [EVENT_STOP] = child_ask,
                        [EVENT_LATE] = child_abort,
                        [EVENT_EXIT] = child_bury},
    [CHILD_READY] = {[EVENT_BEAT] = child_extend,
                     [EVENT_STOP] = child_ask,
                     [EVENT_LATE] = child_abort,
                     [EVENT_EXIT] = child_bury},
    [CHILD_STOPPING] = {[EVENT_LATE] = child_kill, [EVENT_EXIT] = child_bury},
    [CHILD_ABORTING] = {[EVENT_LATE] = child_kill, [EVENT_EXIT] = child_bury},
    [CHILD_KILLED] = {[EVENT_EXIT] = child_bury},
    [CHILD_RETIRED] = {0},
    [CHILD_FINISHED] = {0},
};

static void dispatch(struct tree *t, unsigned child, enum event event, const struct child_exit *exit,
                     usec_t now) {
    CHECK(child < t->spec.count);
    struct step s = {t, &t->children[child], &t->spec.children[child], child, now, exit};
    handler h = table[s.c->state][event];
    if (h)
        h(&s);
}

/* ---- from what is to what should be ---- */

static unsigned rank_of(const struct tree *t, unsigned child) {
    return t->spec.children[child].rank;
}

/* Ask the last rank of those that are to go down; false when all are gone. */
static bool stop_last_rank(struct tree *t, bool only_regroup, usec_t now) {
    unsigned last = 0;
    bool any = false;
    for (unsigned i = 0; i < t->spec.count; i++)
        if (tree_alive(t, i) && (!only_regroup || t->children[i].regroup)) {
            last = rank_of(t, i);
            any = true;
        }
    for (unsigned i = 0; any && i < t->spec.count; i++)
        if (rank_of(t, i) == last && (!only_regroup || t->children[i].regroup))
            dispatch(t, i, EVENT_STOP, NULL, now);
    return any;
}

/* Need those behind it still wait for this child? */
static bool holds_up(const struct tree *t, unsigned child, usec_t now) {
    const struct tree_child *c = &t->children[child];
    if (c->state == CHILD_READY || c->state == CHILD_RETIRED || c->state == CHILD_FINISHED)
        return false;
    return c->turn_at == USEC_NEVER || now - c->turn_at < t->spec.children[child].start_timeout;
}

static bool may_start(const struct tree *t, unsigned child, usec_t now) {
    const struct tree_child *c = &t->children[child];
    if (c->state != CHILD_DOWN || c->start_at > now)
        return false;
    for (unsigned i = 0; c->ordered && i < child; i++)
        if (rank_of(t, i) < rank_of(t, child) && holds_up(t, i, now))
            return false;
    return true;
}

static void start_those_due(struct tree *t, usec_t now) {
    for (unsigned i = 0; i < t->spec.count; i++)
        t->children[i].regroup = false;
    for (unsigned i = 0; i < t->spec.count; i++)
        if (may_start(t, i, now))
            dispatch(t, i, EVENT_START, NULL, now);
}

static void end(struct tree *t, int code) {
    t->phase = TREE_ENDED;
    put_effect(t, TREE_END, 0)->code = code;
}

/* Nothing runs and nothing will: an operator must look, or all are done. */
static bool is_over(const struct tree *t, int *code) {
    *code = 0;
    for (unsigned i = 0; i < t->spec.count; i++) {
        enum child_state s = t->children[i].state;
        if (s != CHILD_RETIRED && s != CHILD_FINISHED)
            return false;
        if (s == CHILD_RETIRED)
            *code = CHILD_EXIT_OPERATOR;
    }
    return true;
}

static void tree_settle(struct tree *t, usec_t now) {
    int code;
    if (t->phase == TREE_STOPPING && !stop_last_rank(t, false, now))
        end(t, t->exit_code);
    if (t->phase == TREE_RUNNING && !stop_last_rank(t, true, now))
        start_those_due(t, now);
    if (t->phase == TREE_RUNNING && is_over(t, &code))
        end(t, code);
}

/* ---- events ---- */

void tree_open(struct tree *t, const struct tree_spec *spec, usec_t still, usec_t now) {
    CHECK(spec->count <= TREE_CHILDREN_MAX && spec->restarts_max <= TREE_RESTARTS_MAX);
    *t = (struct tree){.spec = *spec, .still = still, .ticked_at = now};
    for (unsigned i = 0; i < spec->count; i++) {
        CHECK(i == 0 || spec->children[i - 1].rank <= spec->children[i].rank);
        t->children[i] = (struct tree_child){
            .ordered = true, .start_at = now, .deadline = USEC_NEVER, .turn_at = USEC_NEVER};
    }
    tree_settle(t, now);
}

void tree_ready(struct tree *t, unsigned child, usec_t now) {
    dispatch(t, child, EVENT_READY, NULL, now);
    tree_settle(t, now);
}

void tree_exited(struct tree *t, unsigned child, const struct child_exit *exit, usec_t now) {
    dispatch(t, child, EVENT_EXIT, exit, now);
    tree_settle(t, now);
}

void tree_beat(struct tree *t, unsigned child, uint64_t turns, usec_t now) {
    if (t->children[child].beat == turns)
        return;
    t->children[child].beat = turns;
    dispatch(t, child, EVENT_BEAT, NULL, now);
}

/* Who slept cannot judge who was late: everybody gets the time it slept. */
static void forgive_gap(struct tree *t, usec_t gap) {
    for (unsigned i = 0; i < t->spec.count; i++) {
        struct tree_child *c = &t->children[i];
        if (c->deadline != USEC_NEVER)
            c->deadline += gap;
        if (c->turn_at != USEC_NEVER)
            c->turn_at += gap;
    }
}

void tree_tick(struct tree *t, usec_t now) {
    usec_t gap = now - t->ticked_at;
    t->ticked_at = now;
    if (gap > t->still)
        forgive_gap(t, gap);
    for (unsigned i = 0; i < t->spec.count; i++)
        if (t->children[i].deadline <= now)
            dispatch(t, i, EVENT_LATE, NULL, now);
    tree_settle(t, now);
}

void tree_stop(struct tree *t, int code, usec_t now) {
    if (t->phase == TREE_RUNNING)
        begin_stop(t, code);
    tree_settle(t, now);
}

void tree_forgive(struct tree *t, unsigned child, uint64_t partition) {
    for (unsigned i = 0; i < TREE_CRASHES_MAX; i++)
        if (t->children[child].crashes[i].partition == partition)
            t->children[child].crashes[i] = (struct crash_note){0};
}

usec_t tree_deadline(const struct tree *t) {
    usec_t first = USEC_NEVER;
    for (unsigned i = 0; i < t->spec.count; i++) {
        const struct tree_child *c = &t->children[i];
        if (c->deadline < first)
            first = c->deadline;
        if (c->state == CHILD_DOWN && t->phase == TREE_RUNNING && c->start_at > t->ticked_at &&
            c->start_at < first)
            first = c->start_at;
    }
    return first;
}

bool tree_effect(struct tree *t, struct tree_effect *out) {
    if (t->effects_taken == t->effects_count) {
        t->effects_taken = t->effects_count = 0;
        return false;
    }
    *out = t->effects[t->effects_taken++];
    return true;
}

const char *child_state_text(enum child_state state) {
    static const char *const texts[] = {
#define X(name, text) text,
        CHILD_STATES(X)
#undef X
    };
    return (unsigned)state < CHILD_STATES_COUNT ? texts[state] : "unknown";
}

const char *death_cause_text(enum death_cause cause) {
    static const char *const texts[] = {
        [DEATH_BY_ITSELF] = "by itself",
        [DEATH_ASKED] = "asked to stop",
        [DEATH_NOT_STOPPED] = "did not stop in time",
        [DEATH_NOT_READY] = "not ready in time",
        [DEATH_WATCHDOG] = "stood still",
        [DEATH_NOT_STARTED] = "could not be started",
    };
    return (unsigned)cause < sizeof texts / sizeof texts[0] ? texts[cause] : "unknown";
}

// SPDX-License-Identifier: Apache-2.0
/* The tree as stories: events with a clock of our own, and the trace of what it
 * wants done. "[  20] spawn b/0 #2" = at 20 ms, start b/0 as instance 2. */
#include "supervisor/tree.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/child.h"

#define WATCHDOG (2 * USEC_S)

static const struct child_spec three[] = {
    {"a", 0, 0, RESTART_PERMANENT, 10 * USEC_S, 1 * USEC_S},
    {"b", 0, 1, RESTART_PERMANENT, 10 * USEC_S, 1 * USEC_S},
    {"c", 0, 2, RESTART_PERMANENT, 10 * USEC_S, 1 * USEC_S},
};

static struct tree tree;
static usec_t now;
static char trace[16384];

static void say(const char *format, ...) {
    size_t n = strlen(trace);
    va_list args;
    va_start(args, format);
    vsnprintf(trace + n, sizeof trace - n, format, args);
    va_end(args);
}

static const char *cause_and_end(const struct obituary *o) {
    static char text[128];
    snprintf(text, sizeof text, "%s %d, %s", o->exit.signalled ? "signal" : "code", o->exit.code,
             death_cause_text(o->cause));
    if (o->crashes)
        snprintf(text + strlen(text), sizeof text - strlen(text), ", partition %d crash %u",
                 (int)o->exit.partition, o->crashes);
    return text;
}

static void note(const struct tree_effect *e) {
    const struct child_spec *c = &tree.spec.children[e->child];
    say("[%6d] ", (int)(now / USEC_MS));
    if (e->kind == TREE_SPAWN)
        say("spawn %s/%u #%u\n", c->role, c->index, e->instance);
    else if (e->kind == TREE_ASK)
        say("ask %s/%u\n", c->role, c->index);
    else if (e->kind == TREE_SIGNAL)
        say("SIG%s %s/%u\n", sigabbrev_np(e->signal), c->role, c->index);
    else if (e->kind == TREE_ANNOUNCE)
        say("announce %s/%u\n", c->role, c->index);
    else if (e->kind == TREE_BURY)
        say("bury %s/%u: %s\n", c->role, c->index, cause_and_end(&e->obituary));
    else if (e->kind == TREE_GIVE_UP)
        say("give up\n");
    else
        say("end %d\n", e->code);
}

static void drain(void) {
    struct tree_effect e;
    while (tree_effect(&tree, &e))
        note(&e);
}

static void begin(const struct child_spec *children, unsigned count, enum strategy strategy,
                  unsigned restarts_max) {
    now = 0;
    trace[0] = 0;
    tree_open(&tree,
              &(struct tree_spec){children, count, strategy, restarts_max, restarts_max * USEC_S, WATCHDOG},
              500 * USEC_MS, now);
    drain();
}

/* Let time pass in ticks of 100 ms; those in `beating` turn their loops. */
static void pass(usec_t time, unsigned beating) {
    static uint64_t turns;
    for (usec_t end = now + time; now < end;) {
        now += end - now < 100 * USEC_MS ? end - now : 100 * USEC_MS;
        turns++;
        for (unsigned i = 0; i < tree.spec.count; i++)
            if (beating & 1u << i)
                tree_beat(&tree, i, turns, now);
        tree_tick(&tree, now);
        drain();
    }
}

static void ready(unsigned child) {
    tree_ready(&tree, child, now);
    drain();
}

static void dies(unsigned child, int signal, uint64_t partition) {
    tree_exited(&tree, child, &(struct child_exit){.signalled = true, .code = signal, .partition = partition},
                now);
    drain();
}

static void exits(unsigned child, int code) {
    tree_exited(&tree, child, &(struct child_exit){.code = code}, now);
    drain();
}

static void stop(void) {
    tree_stop(&tree, 0, now);
    drain();
}

#define EXPECT_TRACE(expected)                                                                               \
    do {                                                                                                     \
        cr_assert(strcmp(trace, expected) == 0, "got:\n%s\nexpected:\n%s", trace, expected);                 \
        trace[0] = 0;                                                                                        \
    } while (0)

static void begin_ready(enum strategy strategy) {
    begin(three, 3, strategy, 10);
    for (unsigned i = 0; i < 3; i++)
        ready(i);
    trace[0] = 0;
}

Test(tree, starts_in_order_and_stops_in_reverse) {
    begin(three, 3, STRATEGY_ONE_FOR_ONE, 10);
    pass(200 * USEC_MS, 0);
    ready(0);
    ready(1);
    ready(1);
    ready(2);
    EXPECT_TRACE("[     0] spawn a/0 #1\n"
                 "[   200] announce a/0\n"
                 "[   200] spawn b/0 #2\n"
                 "[   200] announce b/0\n"
                 "[   200] spawn c/0 #3\n"
                 "[   200] announce c/0\n");
    stop();
    exits(2, 0);
    stop();
    pass(100 * USEC_MS, 0);
    exits(1, 0);
    exits(0, 0);
    EXPECT_TRACE("[   200] ask c/0\n"
                 "[   200] bury c/0: code 0, asked to stop\n"
                 "[   200] ask b/0\n"
                 "[   300] bury b/0: code 0, asked to stop\n"
                 "[   300] ask a/0\n"
                 "[   300] bury a/0: code 0, asked to stop\n"
                 "[   300] end 0\n");
}

Test(tree, equal_ranks_start_and_stop_together) {
    static const struct child_spec specs[] = {
        {"a", 0, 0, RESTART_PERMANENT, USEC_S, USEC_S},
        {"s", 0, 1, RESTART_PERMANENT, USEC_S, USEC_S},
        {"s", 1, 1, RESTART_PERMANENT, USEC_S, USEC_S},
        {"z", 0, 2, RESTART_PERMANENT, USEC_S, USEC_S},
    };
    begin(specs, 4, STRATEGY_ONE_FOR_ONE, 10);
    ready(0);
    ready(2);
    EXPECT_TRACE("[     0] spawn a/0 #1\n"
                 "[     0] announce a/0\n"
                 "[     0] spawn s/0 #2\n"
                 "[     0] spawn s/1 #3\n"
                 "[     0] announce s/1\n");
    stop();
    EXPECT_TRACE("[     0] ask s/0\n"
                 "[     0] ask s/1\n");
}

Test(tree, a_death_is_one_death) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    dies(1, SIGSEGV, 0);
    pass(20 * USEC_MS, 7);
    ready(1);
    EXPECT_TRACE("[     0] bury b/0: signal 11, by itself\n"
                 "[    20] spawn b/0 #4\n"
                 "[    20] announce b/0\n");
}

Test(tree, the_rest_goes_down_in_reverse_and_comes_back_in_order) {
    begin_ready(STRATEGY_REST_FOR_ONE);
    dies(1, SIGKILL, 0);
    exits(2, 0);
    pass(20 * USEC_MS, 7);
    ready(1);
    EXPECT_TRACE("[     0] bury b/0: signal 9, by itself\n"
                 "[     0] ask c/0\n"
                 "[     0] bury c/0: code 0, asked to stop\n"
                 "[    20] spawn b/0 #4\n"
                 "[    20] announce b/0\n"
                 "[    20] spawn c/0 #5\n");
}

Test(tree, all_go_down_with_one) {
    begin_ready(STRATEGY_ONE_FOR_ALL);
    dies(1, SIGKILL, 0);
    exits(2, 0);
    exits(0, 0);
    ready(0);
    pass(20 * USEC_MS, 7);
    ready(1);
    EXPECT_TRACE("[     0] bury b/0: signal 9, by itself\n"
                 "[     0] ask c/0\n"
                 "[     0] bury c/0: code 0, asked to stop\n"
                 "[     0] ask a/0\n"
                 "[     0] bury a/0: code 0, asked to stop\n"
                 "[     0] spawn a/0 #4\n"
                 "[     0] announce a/0\n"
                 "[    20] spawn b/0 #5\n"
                 "[    20] announce b/0\n"
                 "[    20] spawn c/0 #6\n");
}

Test(tree, transient_temporary_and_operator) {
    static const struct child_spec specs[] = {
        {"t", 0, 0, RESTART_TRANSIENT, USEC_S, USEC_S},
        {"t", 1, 0, RESTART_TRANSIENT, USEC_S, USEC_S},
        {"o", 0, 0, RESTART_TEMPORARY, USEC_S, USEC_S},
        {"p", 0, 0, RESTART_PERMANENT, USEC_S, USEC_S},
    };
    begin(specs, 4, STRATEGY_ONE_FOR_ONE, 10);
    trace[0] = 0;
    exits(0, 0);
    exits(1, 1);
    dies(2, SIGSEGV, 0);
    exits(3, CHILD_EXIT_OPERATOR);
    pass(100 * USEC_MS, 0);
    exits(1, 0);
    EXPECT_TRACE("[     0] bury t/0: code 0, by itself\n"
                 "[     0] bury t/1: code 1, by itself\n"
                 "[     0] bury o/0: signal 11, by itself\n"
                 "[     0] bury p/0: code 78, by itself\n"
                 "[   100] spawn t/1 #5\n"
                 "[   100] bury t/1: code 0, by itself\n"
                 "[   100] end 78\n");
    cr_assert_eq(tree.children[3].state, CHILD_RETIRED);
}

Test(tree, back_off_doubles_to_its_limit_and_is_forgotten) {
    static const int waits[] = {20, 40, 80, 160, 320, 500, 500};
    static const struct child_spec one[] = {{"a", 0, 0, RESTART_PERMANENT, USEC_S, USEC_S}};
    begin(one, 1, STRATEGY_ONE_FOR_ONE, 100);
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        usec_t died = now;
        exits(0, 1);
        cr_assert_eq(tree_deadline(&tree), died + waits[i] * USEC_MS, "death %zu", i);
        pass(waits[i] * USEC_MS - 1, 0);
        cr_assert_eq(tree.children[0].state, CHILD_DOWN);
        pass(1, 0);
        cr_assert_eq(tree.children[0].state, CHILD_STARTING);
    }
    ready(0);
    pass(TREE_BACKOFF_FORGET, 1);
    exits(0, 1);
    cr_assert_eq(tree.children[0].start_at, now + TREE_BACKOFF_FIRST);
}

Test(tree, too_many_restarts_end_it_in_order) {
    begin(three, 3, STRATEGY_ONE_FOR_ONE, 2);
    ready(0);
    ready(1);
    for (int i = 0; i < 2; i++) {
        exits(1, 1);
        pass(100 * USEC_MS, 7);
    }
    trace[0] = 0;
    exits(1, 1);
    exits(2, 0);
    exits(0, 0);
    EXPECT_TRACE("[   200] bury b/0: code 1, by itself\n"
                 "[   200] give up\n"
                 "[   200] ask c/0\n"
                 "[   200] bury c/0: code 0, asked to stop\n"
                 "[   200] ask a/0\n"
                 "[   200] bury a/0: code 0, asked to stop\n"
                 "[   200] end 1\n");
}

Test(tree, restarts_spread_over_time_do_not_end_it) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    tree.spec.restarts_max = 2;
    tree.spec.period = 2 * USEC_S;
    for (int i = 0; i < 20; i++) {
        exits(1, 1);
        pass(1100 * USEC_MS, 7);
        ready(1);
    }
    cr_assert_eq(tree.phase, TREE_RUNNING);
    cr_assert_eq(tree.children[1].restarts, 20);
}

Test(tree, a_loop_that_stands_still_is_aborted_then_killed) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    pass(WATCHDOG - 1, 1 | 4);
    EXPECT_TRACE("");
    pass(1, 1 | 4);
    pass(TREE_ABORT_GRACE, 1 | 4);
    dies(1, SIGKILL, 0);
    EXPECT_TRACE("[  2000] SIGABRT b/0\n"
                 "[  2000] SIGCONT b/0\n"
                 "[  3000] SIGKILL b/0\n"
                 "[  3000] bury b/0: signal 9, stood still\n");
}

Test(tree, a_supervisor_that_stood_still_blames_nobody) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    pass(100 * USEC_MS, 7);
    now += 60 * USEC_S;
    tree_tick(&tree, now);
    drain();
    pass(WATCHDOG - 200 * USEC_MS, 0);
    EXPECT_TRACE("");
    pass(100 * USEC_MS, 0);
    pass(100 * USEC_MS, 0);
    cr_assert_str_neq(trace, "", "but goes on judging afterwards");
}

Test(tree, who_does_not_get_ready_is_replaced_and_holds_nobody_up_for_ever) {
    begin(three, 2, STRATEGY_ONE_FOR_ONE, 10);
    pass(10 * USEC_S, 0);
    dies(0, SIGABRT, 0);
    EXPECT_TRACE("[     0] spawn a/0 #1\n"
                 "[ 10000] SIGABRT a/0\n"
                 "[ 10000] SIGCONT a/0\n"
                 "[ 10000] spawn b/0 #2\n"
                 "[ 10000] bury a/0: signal 6, not ready in time\n");
}

Test(tree, a_long_recovery_that_beats_is_let_be) {
    begin(three, 2, STRATEGY_ONE_FOR_ONE, 10);
    pass(9 * USEC_S, 1);
    EXPECT_TRACE("[     0] spawn a/0 #1\n");
    pass(60 * USEC_S, 1);
    ready(0);
    EXPECT_TRACE("[ 10000] spawn b/0 #2\n"
                 "[ 20000] SIGABRT b/0\n"
                 "[ 20000] SIGCONT b/0\n"
                 "[ 21000] SIGKILL b/0\n"
                 "[ 69000] announce a/0\n");
}

Test(tree, who_ignores_the_stop_is_killed) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    stop();
    pass(USEC_S, 7);
    dies(2, SIGKILL, 0);
    EXPECT_TRACE("[     0] ask c/0\n"
                 "[  1000] SIGKILL c/0\n"
                 "[  1000] bury c/0: signal 9, did not stop in time\n"
                 "[  1000] ask b/0\n");
}

Test(tree, stopping_starts_nobody) {
    begin(three, 3, STRATEGY_ONE_FOR_ONE, 10);
    ready(0);
    exits(1, 1);
    trace[0] = 0;
    stop();
    pass(500 * USEC_MS, 1);
    exits(0, 1);
    EXPECT_TRACE("[     0] ask a/0\n"
                 "[   500] bury a/0: code 1, asked to stop\n"
                 "[   500] end 0\n");
}

Test(tree, crashes_are_put_down_to_the_partition) {
    static const struct {
        int signal;
        uint64_t partition;
        unsigned count; /* of that partition afterwards */
    } rows[] = {
        {SIGSEGV, 7, 1}, {SIGABRT, 7, 2}, {SIGKILL, 7, 2 /* a kill from outside is nobody's fault */},
        {SIGBUS, 9, 1},  {SIGSEGV, 0, 0}, {SIGFPE, 7, 3},
    };
    begin_ready(STRATEGY_ONE_FOR_ONE);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        dies(1, rows[i].signal, rows[i].partition);
        unsigned count = 0;
        for (unsigned n = 0; n < TREE_CRASHES_MAX; n++)
            if (rows[i].partition && tree.children[1].crashes[n].partition == rows[i].partition)
                count = tree.children[1].crashes[n].count;
        cr_assert_eq(count, rows[i].count, "row %zu", i);
        pass(USEC_S, 7);
    }
    tree_forgive(&tree, 1, 7);
    dies(1, SIGSEGV, 7);
    cr_assert_not_null(strstr(trace, "[  6000] bury b/0: signal 11, by itself, partition 7 crash 1"), "%s",
                       trace);
}

Test(tree, a_hang_is_put_down_to_the_partition_too) {
    begin_ready(STRATEGY_ONE_FOR_ONE);
    pass(WATCHDOG + TREE_ABORT_GRACE, 1 | 4);
    trace[0] = 0;
    dies(1, SIGKILL, 5);
    EXPECT_TRACE("[  3000] bury b/0: signal 9, stood still, partition 5 crash 1\n");
}

Test(tree, more_partitions_than_notes_keep_the_newest) {
    begin(three, 1, STRATEGY_ONE_FOR_ONE, TREE_RESTARTS_MAX);
    for (unsigned p = 1; p <= TREE_CRASHES_MAX + 4; p++) {
        dies(0, SIGSEGV, p);
        pass(USEC_S, 0);
    }
    bool first = false, last = false;
    for (unsigned n = 0; n < TREE_CRASHES_MAX; n++) {
        first |= tree.children[0].crashes[n].partition == 1;
        last |= tree.children[0].crashes[n].partition == TREE_CRASHES_MAX + 4;
    }
    cr_assert(!first);
    cr_assert(last);
}

/* Whatever comes in whatever order: never two processes for one child, nobody
 * left at the end, and the effects always fit. */
Test(tree, random_events_keep_the_books) {
    for (unsigned seed = 1; seed <= 300; seed++) {
        bool alive[3] = {0}, asked_to_end = false, ended = false;
        srand(seed);
        now = 0;
        tree_open(&tree, &(struct tree_spec){three, 3, seed % 3, 20, 20 * USEC_S, WATCHDOG}, 500 * USEC_MS,
                  now);
        for (int i = 0; i < 3000 && !ended; i++) {
            unsigned c = (unsigned)rand() % 3;
            struct tree_effect e;
            now += rand() % 300 * USEC_MS;
            if (rand() % 3 == 0)
                tree_ready(&tree, c, now);
            if (alive[c] && rand() % (i > 2500 ? 2 : 6) == 0) {
                alive[c] = false;
                tree_exited(&tree, c, &(struct child_exit){.signalled = rand() % 2, .code = rand() % 20},
                            now);
            }
            if (i == 2500)
                tree_stop(&tree, 0, now);
            tree_tick(&tree, now);
            while (tree_effect(&tree, &e)) {
                cr_assert(!ended, "nothing after the end");
                if (e.kind == TREE_SPAWN) {
                    cr_assert(!alive[e.child] && !asked_to_end);
                    alive[e.child] = true;
                }
                ended |= e.kind == TREE_END;
            }
            asked_to_end |= i == 2500;
            for (unsigned n = 0; n < 3; n++)
                cr_assert_eq(alive[n], tree_alive(&tree, n));
        }
        cr_assert(ended, "seed %u", seed);
        cr_assert(!alive[0] && !alive[1] && !alive[2]);
    }
}

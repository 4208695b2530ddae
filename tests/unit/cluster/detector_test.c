// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "cluster/detector.h"

#define MS(n) ((usec_t)(n)*USEC_MS)

struct story {
    struct detector *d;
    struct detector_changes changes;
    char told[1024];
};

static void setup(struct story *s) {
    memset(s, 0, sizeof *s);
    s->d = detector_new(MS(600), MS(100), 0);
    for (uint32_t node = 1; node <= 2; node++) {
        for (int index = -1; index < 1; index++) {
            detector_watch(s->d, node, index, node * 10 + (uint32_t)(index + 1), 0);
            detector_heard(s->d, node, index, 0, &s->changes);
        }
    }
    detector_changes_clear(&s->changes);
}

static void teardown(struct story *s) {
    detector_free(s->d);
    detector_changes_free(&s->changes);
}

/* "[ 600] n1 up -> suspect" for nodes, n1/c and n1/0 for processes. */
static void tell(struct story *s, usec_t now) {
    for (size_t i = 0; i < s->changes.count; i++) {
        const struct detector_change *c = &s->changes.items[i];
        const char *process = c->is_node ? "" : c->index < 0 ? "/c" : "/0";
        snprintf(s->told + strlen(s->told), sizeof s->told - strlen(s->told), "[%4lld] n%u%s %s -> %s\n",
                 (long long)(now / USEC_MS), c->node, process, detector_health_name(c->from),
                 detector_health_name(c->to));
    }
    detector_changes_clear(&s->changes);
}

static void run(struct story *s, usec_t from, usec_t to, uint32_t loud) {
    for (usec_t now = from; now <= to; now += MS(100)) {
        if (loud) {
            detector_heard(s->d, loud, DETECTOR_CONTROLLER, now, &s->changes);
            detector_heard(s->d, loud, 0, now, &s->changes);
        }
        detector_tick(s->d, now, &s->changes);
        tell(s, now);
    }
}

Test(detector, silence_is_suspected_then_dead) {
    struct story s;
    setup(&s);
    run(&s, MS(100), MS(1000), 1);
    cr_expect_str_eq(s.told, "[ 600] n2/c up -> suspect\n"
                             "[ 600] n2/0 up -> suspect\n"
                             "[ 600] n2 up -> suspect\n"
                             "[ 900] n2/c suspect -> dead\n"
                             "[ 900] n2/0 suspect -> dead\n"
                             "[ 900] n2 suspect -> dead\n");
    cr_expect_eq(detector_dead_since(s.d, 2), MS(900));
    cr_expect_eq(detector_dead_since(s.d, 1), USEC_NEVER);
    teardown(&s);
}

Test(detector, reset_and_refused_is_gone_at_once) {
    struct story s;
    setup(&s);
    detector_gone(s.d, 2, 0, MS(10), &s.changes);
    tell(&s, MS(10));
    detector_gone(s.d, 2, DETECTOR_CONTROLLER, MS(11), &s.changes);
    tell(&s, MS(11));
    cr_expect_str_eq(s.told, "[  10] n2/0 up -> gone\n"
                             "[  11] n2/c up -> gone\n"
                             "[  11] n2 up -> dead\n");
    cr_expect_eq(detector_member(s.d, 21), DETECTOR_GONE);
    cr_expect_eq(detector_member(s.d, 11), DETECTOR_UP);
    teardown(&s);
}

Test(detector, a_controller_that_is_back_within_a_second_moves_nothing) {
    struct story s;
    setup(&s);
    detector_gone(s.d, 2, DETECTOR_CONTROLLER, MS(50), &s.changes);
    detector_changes_clear(&s.changes);
    for (usec_t now = MS(100); now <= MS(900); now += MS(100)) {
        detector_heard(s.d, 2, 0, now, &s.changes);
        detector_heard(s.d, 1, 0, now, &s.changes);
        detector_heard(s.d, 1, -1, now, &s.changes);
        detector_tick(s.d, now, &s.changes);
    }
    detector_heard(s.d, 2, DETECTOR_CONTROLLER, MS(950), &s.changes);
    tell(&s, MS(950));
    cr_expect_str_eq(s.told, "[ 950] n2/c gone -> up\n");
    teardown(&s);
}

Test(detector, a_controller_that_stays_away_makes_its_node_suspect_not_dead) {
    struct story s;
    setup(&s);
    detector_gone(s.d, 2, DETECTOR_CONTROLLER, MS(50), &s.changes);
    for (usec_t now = MS(100); now <= MS(3000); now += MS(100)) {
        detector_heard(s.d, 2, 0, now, &s.changes);
        detector_tick(s.d, now, &s.changes);
    }
    cr_expect_eq(detector_node(s.d, 2), DETECTOR_SUSPECT);
    cr_expect_eq(detector_member(s.d, 21), DETECTOR_UP, "its shard serves on");
    teardown(&s);
}

Test(detector, who_stood_still_itself_does_not_judge_the_others_for_it) {
    struct story s;
    setup(&s);
    run(&s, MS(100), MS(300), 0);
    detector_tick(s.d, MS(2300), &s.changes); /* two seconds in a debugger */
    tell(&s, MS(2300));
    cr_expect_str_eq(s.told, "");
    run(&s, MS(2400), MS(2500), 0);
    cr_expect_str_eq(s.told, "[2500] n1/c up -> suspect\n"
                             "[2500] n1/0 up -> suspect\n"
                             "[2500] n2/c up -> suspect\n"
                             "[2500] n2/0 up -> suspect\n"
                             "[2500] n1 up -> suspect\n"
                             "[2500] n2 up -> suspect\n");
    teardown(&s);
}

Test(detector, what_was_never_heard_is_dead_in_the_end) {
    struct detector *d = detector_new(MS(600), MS(100), 0);
    struct detector_changes changes = {0};
    detector_watch(d, 1, 0, 5, 0);
    for (usec_t now = MS(100); now < MS(900); now += MS(100))
        detector_tick(d, now, &changes);
    cr_expect_eq(detector_member(d, 5), DETECTOR_UNKNOWN);
    detector_tick(d, MS(900), &changes);
    cr_expect_eq(detector_member(d, 5), DETECTOR_DEAD);
    cr_expect_eq(detector_node(d, 1), DETECTOR_DEAD);
    detector_changes_free(&changes);
    detector_free(d);
}

Test(detector, a_wiped_disk_is_another_member) {
    struct story s;
    setup(&s);
    detector_watch(s.d, 2, 0, 777, MS(10));
    cr_expect_eq(detector_member(s.d, 21), DETECTOR_UNKNOWN);
    cr_expect_eq(detector_member(s.d, 777), DETECTOR_UP);
    teardown(&s);
}

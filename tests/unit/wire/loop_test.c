// SPDX-License-Identifier: Apache-2.0
/* The loop alone: posts, timers, watches, deferred work, the turn's budget. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "wire/loop_private.h"

/* --- posts ---------------------------------------------------------------- */

enum { POSTERS = 4, POSTS = 20000 };

struct post {
    struct loop_event event;
    unsigned poster;
    unsigned number;
};

static struct {
    struct loop *loop;
    unsigned next[POSTERS];
    unsigned total;
    bool in_order;
} inbox;

static void on_post(struct loop_event *event) {
    struct post *post = container_of(event, struct post, event);
    inbox.in_order = inbox.in_order && post->number == inbox.next[post->poster];
    inbox.next[post->poster]++;
    if (++inbox.total == POSTERS * POSTS)
        loop_stop(inbox.loop);
    free(post);
}

static void *poster_main(void *arg) {
    for (unsigned i = 0; i < POSTS; i++) {
        struct post *post = xcalloc(1, sizeof *post);
        post->event.fire = on_post;
        post->poster = (unsigned)(uintptr_t)arg;
        post->number = i;
        loop_post(inbox.loop, &post->event);
    }
    return NULL;
}

Test(loop, posts_of_several_threads_all_arrive_each_in_its_order) {
    inbox.loop = loop_new(NULL);
    inbox.in_order = true;
    pthread_t threads[POSTERS];
    for (uintptr_t i = 0; i < POSTERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, poster_main, (void *)i), 0);
    loop_run(inbox.loop);
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(inbox.total, POSTERS * POSTS);
    cr_assert(inbox.in_order);
    cr_assert_lt(loop_stats(inbox.loop)->turns, (uint64_t)POSTERS * POSTS, "a turn takes all there is");
    loop_free(inbox.loop);
}

/* An event that hands out as many body bytes as a turn may. */
static struct loop *budget_loop;
static unsigned budget_fired;

static void on_budget(struct loop_event *event) {
    budget_fired++;
    loop_charge(budget_loop, LOOP_TURN_BYTES_MAX / 2);
}

Test(loop, a_turn_is_bounded_by_bytes_and_the_rest_comes_next) {
    budget_loop = loop_new(NULL);
    struct loop_event events[5];
    for (int i = 0; i < 5; i++) {
        events[i].fire = on_budget;
        loop_post(budget_loop, &events[i]);
    }
    static const unsigned expected[] = {2, 4, 5};
    for (int i = 0; i < 3; i++) {
        loop_turn(budget_loop, USEC_S);
        cr_assert_eq(budget_fired, expected[i]);
    }
    loop_free(budget_loop);
}

/* --- timers --------------------------------------------------------------- */

struct alarm {
    struct loop_timer timer;
    struct loop *loop;
    usec_t wanted;
    usec_t fired;
    struct alarm *stops; /* another one it stops when it fires */
};

static usec_t last_fired;

static void on_alarm(struct loop_timer *timer) {
    struct alarm *alarm = container_of(timer, struct alarm, timer);
    alarm->fired = loop_now(alarm->loop);
    cr_assert_geq(alarm->wanted, last_fired, "earlier ones first");
    last_fired = alarm->wanted;
    if (alarm->stops)
        loop_timer_stop(alarm->loop, &alarm->stops->timer);
}

Test(loop, timers_fire_in_order_none_early_and_stopped_ones_never) {
    enum { ALARMS = 500 };
    static struct alarm alarms[ALARMS];
    struct loop *loop = loop_new(NULL);
    usec_t start = loop_now(loop);
    for (int i = 0; i < ALARMS; i++) {
        alarms[i].loop = loop;
        alarms[i].timer.fire = on_alarm;
        loop_timer_start(loop, &alarms[i].timer, start + USEC_S); /* moved below */
    }
    for (int i = 0; i < ALARMS; i++) {
        alarms[i].wanted = start + 1000 + (usec_t)loop_random(loop, 50000);
        loop_timer_start(loop, &alarms[i].timer, alarms[i].wanted);
    }
    for (int i = 0; i < ALARMS; i += 3)
        loop_timer_stop(loop, &alarms[i].timer);
    while (loop->timers)
        loop_turn(loop, USEC_S);
    for (int i = 0; i < ALARMS; i++) {
        cr_assert_eq(alarms[i].fired != 0, i % 3 != 0);
        cr_assert(i % 3 == 0 || alarms[i].fired >= alarms[i].wanted);
    }
    loop_free(loop);
}

Test(loop, a_timer_may_stop_one_that_is_due_in_the_same_turn) {
    struct loop *loop = loop_new(NULL);
    struct alarm second = {.timer.fire = on_alarm, .loop = loop, .wanted = loop_now(loop) + 2};
    struct alarm first = {
        .timer.fire = on_alarm, .loop = loop, .wanted = loop_now(loop) + 1, .stops = &second};
    loop_timer_start(loop, &second.timer, second.wanted);
    loop_timer_start(loop, &first.timer, first.wanted);
    usleep(2000);
    loop_turn(loop, 0);
    cr_assert(first.fired);
    cr_assert_not(second.fired);
    loop_free(loop);
}

static void on_again(struct loop_timer *timer) {
    struct alarm *alarm = container_of(timer, struct alarm, timer);
    alarm->fired++;
    loop_timer_start(alarm->loop, timer, loop_now(alarm->loop));
}

Test(loop, a_timer_that_restarts_itself_fires_once_a_turn) {
    struct loop *loop = loop_new(NULL);
    struct alarm alarm = {.timer.fire = on_again, .loop = loop};
    loop_timer_start(loop, &alarm.timer, 0);
    loop_turn(loop, USEC_S);
    loop_turn(loop, USEC_S);
    cr_assert_eq(alarm.fired, 2);
    loop_timer_stop(loop, &alarm.timer);
    loop_free(loop);
}

/* What arrived while the loop stood still is heard before the timer judges. */
static bool heard_before_judged;
static bool judged;

static void on_heartbeat(struct loop_event *event) {
    heard_before_judged = !judged;
}
static void on_judge(struct loop_timer *timer) {
    judged = true;
}

Test(loop, after_a_stall_events_come_before_timers_and_lateness_is_told) {
    struct loop *loop = loop_new(NULL);
    struct loop_timer judge = {.fire = on_judge};
    struct loop_event heartbeat = {.fire = on_heartbeat};
    loop_timer_start(loop, &judge, loop_now(loop) + 1000);
    usleep(30000);
    loop_post(loop, &heartbeat);
    loop_turn(loop, USEC_S);
    cr_assert(heard_before_judged && judged);
    cr_assert_geq(loop_late(loop), 25000);
    cr_assert_geq(loop_stats(loop)->late_usec_max, 25000u);
    loop_turn(loop, 0);
    cr_assert_eq(loop_late(loop), 0);
    loop_free(loop);
}

/* --- watches and deferred work -------------------------------------------- */

struct piped {
    struct loop_watch watch;
    struct loop *loop;
    unsigned fired;
};

static void on_piped(struct loop_watch *watch, short ready) {
    struct piped *piped = container_of(watch, struct piped, watch);
    char byte;
    cr_assert(ready & POLLIN);
    cr_assert_eq(read(watch->fd, &byte, 1), 1);
    piped->fired++;
    if (byte == 'q')
        loop_watch_stop(piped->loop, watch);
}

Test(loop, a_watched_descriptor_fires_until_it_is_stopped) {
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    struct loop *loop = loop_new(NULL);
    struct piped piped = {.watch = {.fd = fds[0], .events = POLLIN, .fire = on_piped}, .loop = loop};
    loop_watch_start(loop, &piped.watch);
    loop_turn(loop, 0);
    cr_assert_eq(piped.fired, 0);
    cr_assert_eq(write(fds[1], "aqz", 3), 3);
    for (int i = 0; i < 5; i++)
        loop_turn(loop, 0);
    cr_assert_eq(piped.fired, 2, "stopped by the q");
    loop_free(loop);
    close(fds[0]);
    close(fds[1]);
}

struct later {
    struct loop_deferred deferred;
    struct loop *loop;
    unsigned fired;
    unsigned again;
};

static void on_later(struct loop_deferred *deferred) {
    struct later *later = container_of(deferred, struct later, deferred);
    later->fired++;
    if (later->again) {
        later->again--;
        loop_defer(later->loop, deferred);
    }
}

static void on_turn(void *ctx, struct loop *loop) {
    struct later *later = ctx;
    cr_assert_eq(later->fired, 0, "deferred work comes after the turn's own");
    loop_defer(loop, &later->deferred);
    loop_defer(loop, &later->deferred);
}

Test(loop, deferred_work_runs_once_at_the_end_of_the_turn) {
    struct later later = {.deferred.fire = on_later, .again = 2};
    struct later cancelled[3] = {
        {.deferred.fire = on_later}, {.deferred.fire = on_later}, {.deferred.fire = on_later}};
    struct loop *loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = &later});
    later.loop = loop;
    for (int i = 0; i < 3; i++)
        loop_defer(loop, &cancelled[i].deferred);
    loop_defer_cancel(loop, &cancelled[2].deferred);
    loop_defer_cancel(loop, &cancelled[0].deferred);
    loop_turn(loop, 0);
    cr_assert_eq(later.fired, 3);
    cr_assert_eq(cancelled[0].fired + cancelled[2].fired, 0);
    cr_assert_eq(cancelled[1].fired, 1);
    loop_free(loop);
}

static void *stopper_main(void *arg) {
    usleep(20000);
    loop_stop(arg);
    return NULL;
}

Test(loop, stop_from_another_thread_wakes_a_sleeping_loop) {
    struct loop *loop = loop_new(NULL);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, stopper_main, loop), 0);
    loop_run(loop);
    pthread_join(thread, NULL);
    loop_stop(loop);
    loop_run(loop); /* stopped beforehand: returns */
    loop_free(loop);
}

/* --- the arena ------------------------------------------------------------ */

Test(arena, gives_distinct_aligned_memory_and_refuses_past_its_bound) {
    struct arena arena = {0};
    uint8_t *last = NULL;
    for (size_t i = 1; i < 3000; i++) {
        uint8_t *p = arena_alloc(&arena, i);
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % 16, 0);
        memset(p, (int)i, i);
        if (last)
            cr_assert_eq(last[0], (uint8_t)(i - 1));
        last = p;
    }
    cr_assert_null(arena_alloc(&arena, ARENA_BYTES_MAX));
    arena_reset(&arena);
    cr_assert_leq(arena.total, ARENA_KEPT_BYTES_MAX);
    cr_assert_not_null(arena_alloc(&arena, 10));
    arena_free(&arena);
}

// SPDX-License-Identifier: Apache-2.0
#include "wire/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "wire/loop_private.h"
#include "wire/timers.h"

enum {
    RECEIVE_POOL_BYTES = 128 * 1024, /* a link's receive buffer while it is busy */
    RECEIVE_POOL_SPARE_MAX = 32,
    SEND_POOL_BYTES = 32 * 1024, /* headers and small bodies that wait to be sent */
    SEND_POOL_SPARE_MAX = 64
};

static usec_t clock_read(clockid_t id) {
    struct timespec t;
    CHECK(clock_gettime(id, &t) == 0);
    return (usec_t)t.tv_sec * USEC_S + t.tv_nsec / 1000;
}

usec_t clock_now(void) {
    return clock_read(CLOCK_BOOTTIME);
}

static void clocks_read(struct loop *loop) {
    loop->now = clock_now();
    loop->wall = clock_read(CLOCK_REALTIME);
}

void loop_block_signals(void) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&set, faults[i]);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

struct loop *loop_new(const struct loop_options *options) {
    struct loop *loop = xcalloc(1, sizeof *loop);
    if (options)
        loop->options = *options;
    loop->stats = loop->options.stats ? loop->options.stats : &loop->own_stats;
    loop->inbox_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(loop->inbox_fd >= 0);
    loop->receive_pool = (struct pool){.size = RECEIVE_POOL_BYTES, .spare_max = RECEIVE_POOL_SPARE_MAX};
    loop->send_pool = (struct pool){.size = SEND_POOL_BYTES, .spare_max = SEND_POOL_SPARE_MAX};
    CHECK(getrandom(&loop->rng.state, sizeof loop->rng.state, 0) == sizeof loop->rng.state);
    clocks_read(loop);
    return loop;
}

void loop_free(struct loop *loop) {
    if (!loop)
        return;
    CHECK(loop->attached == 0);
    CHECK(!loop->first && !atomic_load(&loop->inbox));
    close(loop->inbox_fd);
    pool_free(&loop->receive_pool);
    pool_free(&loop->send_pool);
    arena_free(&loop->arena);
    free(loop->heap);
    free(loop->watches);
    free(loop->polled);
    free(loop);
}

/* --- the inbox ------------------------------------------------------------ */

static void inbox_wake(struct loop *loop) {
    uint64_t one = 1;
    while (write(loop->inbox_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void loop_post(struct loop *loop, struct loop_event *event) {
    struct loop_event *head = atomic_load_explicit(&loop->inbox, memory_order_relaxed);
    do
        event->next = head;
    while (!atomic_compare_exchange_weak_explicit(&loop->inbox, &head, event, memory_order_acq_rel,
                                                  memory_order_relaxed));
    if (!head) /* whoever finds it empty wakes the loop; the others ride along */
        inbox_wake(loop);
}

void loop_stop(struct loop *loop) {
    atomic_store(&loop->stopped, true);
    inbox_wake(loop);
}

/* The whole stack, reversed, behind what is left of the last turn. */
static void inbox_take(struct loop *loop) {
    struct loop_event *event = atomic_exchange_explicit(&loop->inbox, NULL, memory_order_acq_rel);
    struct loop_event *newest = event;
    struct loop_event *oldest = NULL;
    while (event) {
        struct loop_event *next = event->next;
        event->next = oldest;
        oldest = event;
        event = next;
    }
    if (!oldest)
        return;
    if (loop->last)
        loop->last->next = oldest;
    else
        loop->first = oldest;
    loop->last = newest;
}

static void inbox_fire(struct loop *loop) {
    inbox_take(loop);
    while (loop->first && loop->turn_bytes < LOOP_TURN_BYTES_MAX) {
        struct loop_event *event = loop->first;
        loop->first = event->next;
        if (!loop->first)
            loop->last = NULL;
        loop->stats->events++;
        event->fire(event);
    }
}

/* --- watched descriptors -------------------------------------------------- */

void loop_watch_start(struct loop *loop, struct loop_watch *watch) {
    CHECK(!watch->active);
    watch->active = true;
    xgrow(&loop->watches, &loop->watch_capacity, loop->watch_count + 1, sizeof *loop->watches);
    loop->watches[loop->watch_count++] = watch;
}

void loop_watch_stop(struct loop *loop, struct loop_watch *watch) {
    if (!watch->active)
        return;
    watch->active = false;
    for (size_t i = 0; i < loop->watch_count; i++)
        if (loop->watches[i] == watch)
            loop->watches[i] = NULL; /* squeezed out before the next wait */
}

static size_t watches_prepare(struct loop *loop) {
    size_t count = 0;
    for (size_t i = 0; i < loop->watch_count; i++)
        if (loop->watches[i])
            loop->watches[count++] = loop->watches[i];
    loop->watch_count = count;
    xgrow(&loop->polled, &loop->polled_capacity, count + 1, sizeof *loop->polled);
    loop->polled[0] = (struct pollfd){.fd = loop->inbox_fd, .events = POLLIN};
    for (size_t i = 0; i < count; i++)
        loop->polled[i + 1] = (struct pollfd){.fd = loop->watches[i]->fd, .events = loop->watches[i]->events};
    return count;
}

static void watches_fire(struct loop *loop, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (loop->watches[i] && loop->polled[i + 1].revents)
            loop->watches[i]->fire(loop->watches[i], loop->polled[i + 1].revents);
}

/* --- deferred work -------------------------------------------------------- */

void loop_defer(struct loop *loop, struct loop_deferred *deferred) {
    if (deferred->queued)
        return;
    deferred->queued = true;
    deferred->next = NULL;
    if (loop->deferred_last)
        loop->deferred_last->next = deferred;
    else
        loop->deferred_first = deferred;
    loop->deferred_last = deferred;
}

void loop_defer_cancel(struct loop *loop, struct loop_deferred *deferred) {
    if (!deferred->queued)
        return;
    deferred->queued = false;
    struct loop_deferred *before = NULL;
    struct loop_deferred *at = loop->deferred_first;
    while (at != deferred) {
        before = at;
        at = at->next;
    }
    if (before)
        before->next = deferred->next;
    else
        loop->deferred_first = deferred->next;
    if (loop->deferred_last == deferred)
        loop->deferred_last = before;
}

static void deferred_fire(struct loop *loop) {
    while (loop->deferred_first) {
        struct loop_deferred *deferred = loop->deferred_first;
        loop->deferred_first = deferred->next;
        if (!loop->deferred_first)
            loop->deferred_last = NULL;
        deferred->queued = false;
        deferred->fire(deferred);
    }
}

/* --- turns ---------------------------------------------------------------- */

/* How long this turn may wait: not at all while taken events are left over. */
static usec_t wait_of(const struct loop *loop, usec_t most) {
    if (loop->first || loop->deferred_first || atomic_load(&loop->stopped))
        return 0;
    usec_t next = timers_next(loop);
    if (next == USEC_NEVER)
        return most;
    usec_t left = next - clock_now();
    if (left < 0)
        left = 0;
    return left < most ? left : most;
}

static void wait_for(struct loop *loop, size_t watches, usec_t wait) {
    struct timespec t = {.tv_sec = wait / USEC_S, .tv_nsec = wait % USEC_S * 1000};
    int ready = ppoll(loop->polled, watches + 1, wait == USEC_NEVER ? NULL : &t, NULL);
    CHECK(ready >= 0 || errno == EINTR);
    if (ready <= 0) {
        for (size_t i = 0; i <= watches; i++)
            loop->polled[i].revents = 0;
        return;
    }
    uint64_t ignored;
    if (loop->polled[0].revents)
        while (read(loop->inbox_fd, &ignored, sizeof ignored) < 0 && errno == EINTR) {
        }
}

static void wake(struct loop *loop) {
    usec_t next = timers_next(loop);
    clocks_read(loop);
    loop->late = next < loop->now ? loop->now - next : 0;
    if ((uint64_t)loop->late > loop->stats->late_usec_max)
        loop->stats->late_usec_max = (uint64_t)loop->late;
    loop->turn_bytes = 0;
}

static void turn_count(struct loop *loop) {
    uint64_t took = (uint64_t)(clock_now() - loop->now);
    if (took > loop->stats->turn_usec_max)
        loop->stats->turn_usec_max = took;
    loop->stats->turns++;
}

void loop_turn(struct loop *loop, usec_t wait) {
    size_t watches = watches_prepare(loop);
    wait_for(loop, watches, wait_of(loop, wait));
    wake(loop);
    watches_fire(loop, watches);
    inbox_fire(loop);
    timers_fire(loop, loop->now);
    if (loop->options.turn)
        loop->options.turn(loop->options.ctx, loop);
    deferred_fire(loop);
    turn_count(loop);
}

void loop_run(struct loop *loop) {
    while (!atomic_load(&loop->stopped))
        loop_turn(loop, USEC_NEVER);
    atomic_store(&loop->stopped, false);
}

bool loop_drain(struct loop *loop, usec_t timeout) {
    usec_t deadline = clock_now() + timeout;
    while (loop->attached) {
        usec_t left = deadline - clock_now();
        if (left <= 0)
            return false;
        loop_turn(loop, left);
    }
    return true;
}

usec_t loop_now(const struct loop *loop) {
    return loop->now;
}

usec_t loop_wall(const struct loop *loop) {
    return loop->wall;
}

usec_t loop_late(const struct loop *loop) {
    return loop->late;
}

uint64_t loop_random(struct loop *loop, uint64_t below) {
    return rng_below(&loop->rng, below);
}

const struct loop_stats *loop_stats(const struct loop *loop) {
    return loop->stats;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A role's loop: one thread, one inbox.
 *
 * A turn, in this order:
 *   1. wait until something is there (or the next timer is due);
 *   2. watched descriptors;
 *   3. events posted by other threads, in the order of their posts, until the
 *      turn's budget of body bytes is used up (the rest waits for the next turn);
 *   4. timers that are due. They come after the events so that a loop that stood
 *      still hears what arrived meanwhile before it judges who was silent;
 *   5. the role's `turn` callback: write, send and answer once for all of it;
 *   6. deferred work: links send what was queued, closed links are reported.
 *
 * Thread: everything here belongs to the loop's thread (the one that calls
 * loop_run or loop_turn), except loop_post and loop_stop, which any thread may
 * call. Handlers never run inside one another.
 *
 * Time is CLOCK_BOOTTIME in usec, read once a turn.
 */
#ifndef MAILROOM_WIRE_LOOP_H
#define MAILROOM_WIRE_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

struct loop;

/* Bodies a turn hands out before it goes on to write and answer. One event may
 * pass it (a whole frame is delivered), none is begun after it. */
#define LOOP_TURN_BYTES_MAX (4 * MIB)

/* An event: embedded in what it is about. After the post it belongs to the loop
 * until `fire` is called; it must not be posted again before. */
struct loop_event {
    struct loop_event *next;
    void (*fire)(struct loop_event *event); /* on the loop's thread */
};

/* A timer: embedded, zeroed at first. Fires once for each start. */
struct loop_timer {
    usec_t at;
    size_t slot; /* place in the loop's heap, from 1; 0 = not started */
    void (*fire)(struct loop_timer *timer);
};

/* A descriptor to watch. `events` and `ready` are those of poll(2). */
struct loop_watch {
    int fd;
    short events;
    bool active; /* the loop's */
    void (*fire)(struct loop_watch *watch, short ready);
};

/* Work for the end of this turn (step 6); embedded, zeroed at first. */
struct loop_deferred {
    struct loop_deferred *next;
    bool queued;
    void (*fire)(struct loop_deferred *deferred);
};

/* Plain counters, written by the loop's thread only; a reader elsewhere sees
 * each number whole but not all of one moment. */
struct loop_stats {
    uint64_t turns;
    uint64_t events;
    uint64_t turn_usec_max; /* longest turn, without the wait */
    uint64_t late_usec_max; /* see loop_late */
    uint64_t links_opened;
    uint64_t links_closed;
    uint64_t links; /* that exist now, those being torn down included */
    uint64_t frames_in;
    uint64_t frames_out;
    uint64_t bytes_in; /* on the wire */
    uint64_t bytes_out;
    uint64_t recvs; /* completed receive and send operations */
    uint64_t sends;
    uint64_t refused_frames; /* oversized or malformed */
};

struct loop_options {
    void (*turn)(void *ctx, struct loop *loop); /* step 5; NULL: none */
    void *ctx;
    struct loop_stats *stats; /* where to count, e.g. shared memory; NULL: in the loop */
};

/* Block all signals but those of faults in the calling thread, to be called
 * before the first link, listener or thread: the threads made later inherit it.
 * A host program that uses the client library decides for itself. */
void loop_block_signals(void);

/* Ends the process when the system has no descriptor or memory left. options
 * are copied; NULL allowed. */
struct loop *loop_new(const struct loop_options *options);
/* No link, listener, keep or started timer may be left (see loop_drain). */
void loop_free(struct loop *loop);

/* Turns until loop_stop. */
void loop_run(struct loop *loop);
/* From any thread or handler: loop_run returns after the turn under way (at
 * once if it is called before loop_run). */
void loop_stop(struct loop *loop);
/* One turn that waits at most wait usec (0: not at all). For owners that have a
 * loop of their own and for tests. */
void loop_turn(struct loop *loop, usec_t wait);
/* Turns until no link and no listener is left or `timeout` usec have passed:
 * true if none is left. Close them first. */
bool loop_drain(struct loop *loop, usec_t timeout);

/* From any thread. Never blocks, takes no lock. */
void loop_post(struct loop *loop, struct loop_event *event);

/* Start or move a timer; one in the past fires in the next turn at the earliest. */
void loop_timer_start(struct loop *loop, struct loop_timer *timer, usec_t at);
void loop_timer_stop(struct loop *loop, struct loop_timer *timer);
static inline bool loop_timer_started(const struct loop_timer *timer) {
    return timer->slot != 0;
}

void loop_watch_start(struct loop *loop, struct loop_watch *watch);
void loop_watch_stop(struct loop *loop, struct loop_watch *watch);

/* Queue once for the end of this turn; queued already: nothing happens. */
void loop_defer(struct loop *loop, struct loop_deferred *deferred);
void loop_defer_cancel(struct loop *loop, struct loop_deferred *deferred);

usec_t loop_now(const struct loop *loop);
/* usec since 1970, read together with loop_now. */
usec_t loop_wall(const struct loop *loop);
/* How much later than its earliest timer this turn began: 0 when in time. Large
 * when the process was stopped, starved or had a long turn; who judges others
 * by deadlines adds it to them. */
usec_t loop_late(const struct loop *loop);
/* A number in [0, below) for jitter; not for secrets. */
uint64_t loop_random(struct loop *loop, uint64_t below);
const struct loop_stats *loop_stats(const struct loop *loop);

/* CLOCK_BOOTTIME, now and uncached, for who has no loop at hand. */
usec_t clock_now(void);

#endif

// SPDX-License-Identifier: Apache-2.0
/* The loop's inside, for link, listener and keep. */
#ifndef MAILROOM_WIRE_LOOP_PRIVATE_H
#define MAILROOM_WIRE_LOOP_PRIVATE_H

#include <poll.h>
#include <stdatomic.h>

#include "base/rng.h"
#include "wire/arena.h"
#include "wire/loop.h"
#include "wire/pool.h"

struct loop {
    struct loop_options options;
    struct loop_stats *stats;
    struct loop_stats own_stats;

    _Atomic(struct loop_event *) inbox; /* stack, newest first */
    int inbox_fd;
    atomic_bool stopped;
    struct loop_event *first; /* taken, not yet fired; oldest first */
    struct loop_event *last;

    struct loop_timer **heap; /* heap[1] is the earliest; heap[0] unused */
    size_t timers;
    size_t heap_capacity;

    struct loop_watch **watches; /* watches[i] belongs to polled[i + 1]; NULL: stopped */
    struct pollfd *polled;       /* polled[0] is the inbox */
    size_t watch_count;
    size_t watch_capacity;
    size_t polled_capacity;

    struct loop_deferred *deferred_first;
    struct loop_deferred *deferred_last;

    usec_t now;
    usec_t wall;
    usec_t late;
    size_t turn_bytes; /* bodies handed out in this turn */
    size_t attached;   /* links and listeners that exist */
    struct rng rng;
    struct arena arena; /* decoded headers; reset after each frame */
    struct pool receive_pool;
    struct pool send_pool;
};

/* Count body bytes handed out against the turn's budget. */
static inline void loop_charge(struct loop *loop, size_t bytes) {
    loop->turn_bytes += bytes;
}

#define container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#endif

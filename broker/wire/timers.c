// SPDX-License-Identifier: Apache-2.0
#include "wire/timers.h"

#include "base/check.h"
#include "base/xalloc.h"
#include "wire/loop_private.h"

static void place(struct loop *loop, struct loop_timer *timer, size_t slot) {
    loop->heap[slot] = timer;
    timer->slot = slot;
}

static void sift_up(struct loop *loop, struct loop_timer *timer, size_t slot) {
    while (slot > 1 && loop->heap[slot / 2]->at > timer->at) {
        place(loop, loop->heap[slot / 2], slot);
        slot /= 2;
    }
    place(loop, timer, slot);
}

static void sift_down(struct loop *loop, struct loop_timer *timer, size_t slot) {
    for (;;) {
        size_t child = slot * 2;
        if (child > loop->timers)
            break;
        if (child < loop->timers && loop->heap[child + 1]->at < loop->heap[child]->at)
            child++;
        if (loop->heap[child]->at >= timer->at)
            break;
        place(loop, loop->heap[child], slot);
        slot = child;
    }
    place(loop, timer, slot);
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, usec_t at) {
    loop_timer_stop(loop, timer);
    if (at <= loop->now)
        at = loop->now + 1;
    timer->at = at;
    xgrow(&loop->heap, &loop->heap_capacity, loop->timers + 2, sizeof *loop->heap);
    sift_up(loop, timer, ++loop->timers);
}

void loop_timer_stop(struct loop *loop, struct loop_timer *timer) {
    size_t slot = timer->slot;
    if (!slot)
        return;
    CHECK(slot <= loop->timers && loop->heap[slot] == timer);
    timer->slot = 0;
    struct loop_timer *moved = loop->heap[loop->timers--];
    if (moved == timer)
        return;
    if (slot > 1 && loop->heap[slot / 2]->at > moved->at)
        sift_up(loop, moved, slot);
    else
        sift_down(loop, moved, slot);
}

usec_t timers_next(const struct loop *loop) {
    return loop->timers ? loop->heap[1]->at : USEC_NEVER;
}

void timers_fire(struct loop *loop, usec_t now) {
    while (loop->timers && loop->heap[1]->at <= now) {
        struct loop_timer *timer = loop->heap[1];
        loop_timer_stop(loop, timer);
        timer->fire(timer);
    }
}

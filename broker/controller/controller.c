// SPDX-License-Identifier: Apache-2.0
/*
 * The controller's loop. What happens to it: frames of controllers, shards and
 * its gateway, the journal's completions, the supervisor's word on processes,
 * and the clock. Each is given to the core (core.h), which calls back (host.c);
 * once a turn the journal is flushed and one frame a shard is sent.
 */
#include "controller/controller.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "controller/controller_private.h"

#define CONTROLLER_OF(timer, field)                                                                          \
    ((struct controller *)((char *)(timer)-offsetof(struct controller, field)))

static void tick_sooner(struct controller *c);

static void on_turn(void *ctx, struct loop *loop) {
    struct controller *c = ctx;
    (void)loop;
    child_beat(c->child);
    core_turn(&c->core);
    status_map_turn(c);
    counters_add(COUNTER_loop_turns, 1);
    tick_sooner(c);
}

/* ---- clocks ---- */

static void on_beat(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, beat_timer);
    loop_timer_start(c->loop, timer, loop_now(c->loop) + child_beat_interval(c->child));
}

/* What this turn did may be due before the tick that is set: a commit that no
 * append carries on is told REPLICA_IDLE_US later, and whoever created a mailbox
 * waits for it. */
static void tick_sooner(struct controller *c) {
    usec_t at = core_deadline(&c->core);
    if (loop_timer_started(&c->tick_timer) && at < c->tick_timer.at)
        loop_timer_start(c->loop, &c->tick_timer, at);
}

static void on_tick(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, tick_timer);
    core_tick(&c->core);
    loop_timer_start(c->loop, timer, core_deadline(&c->core));
}

static void on_heartbeat(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, heartbeat_timer);
    core_beat(&c->core);
    loop_timer_start(c->loop, timer, loop_now(c->loop) + core_beat_interval(&c->core));
}

static void start_timers(struct controller *c) {
    usec_t now = loop_now(c->loop);
    c->beat_timer.fire = on_beat;
    c->tick_timer.fire = on_tick;
    c->heartbeat_timer.fire = on_heartbeat;
    loop_timer_start(c->loop, &c->beat_timer, now);
    loop_timer_start(c->loop, &c->tick_timer, now);
    loop_timer_start(c->loop, &c->heartbeat_timer, now);
}

/* ---- the supervisor ---- */

static void on_stopped(struct loop_timer *timer) {
    loop_stop(CONTROLLER_OF(timer, stop_timer)->loop);
}

/* Pass the metadata group's leadership on before going, so that nobody waits for
 * a timer. */
static void begin_stop(struct controller *c) {
    if (c->stopping)
        return;
    c->stopping = true;
    usec_t wait = core_stop(&c->core);
    c->stop_timer.fire = on_stopped;
    loop_timer_start(c->loop, &c->stop_timer, loop_now(c->loop) + wait);
}

static const char *own_url(const char *path, char *out, size_t size) {
    snprintf(out, size, "ipc://%s", path);
    return out;
}

static void on_child(struct loop_watch *watch, short ready) {
    struct controller *c = CONTROLLER_OF(watch, child_watch);
    struct child_event e;
    char url[CONFIG_PATH_BYTES_MAX];
    (void)ready;
    while (child_next(c->child, &e)) {
        bool shard = strcmp(e.peer.role, "shard") == 0;
        if (e.kind == CHILD_EVENT_STOP)
            begin_stop(c);
        else if (shard && e.kind == CHILD_EVENT_PEER_UP)
            shard_links_dial(c, shards_own_up(&c->core, e.peer.index), own_url(e.peer.path, url, sizeof url));
        else if (shard && e.kind == CHILD_EVENT_PEER_DOWN)
            shards_own_gone(&c->core, e.peer.index);
    }
}

/* ---- life ---- */

static bool start(struct controller *c, struct err_detail *detail) {
    if (!host_open(c, detail) || !links_listen(c, detail))
        return false;
    c->child_watch = (struct loop_watch){.fd = child_fd(c->child), .events = POLLIN, .fire = on_child};
    loop_watch_start(c->loop, &c->child_watch);
    start_timers(c);
    return true;
}

static void stop(struct controller *c) {
    loop_watch_stop(c->loop, &c->child_watch);
    struct loop_timer *timers[] = {&c->beat_timer, &c->tick_timer, &c->heartbeat_timer, &c->stop_timer};
    for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
        loop_timer_stop(c->loop, timers[i]);
    core_hang_up(&c->core);
    shard_links_leave(c);
    links_hang_up(c);
    loop_drain(c->loop, CONTROLLER_STOP_US);
    host_close(c);
}

int controller_main(struct child *child) {
    struct err_detail detail = {0};
    struct controller c = {.child = child, .config = child_config(child), .next_link = 1};
    loop_block_signals();
    c.loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = &c});
    if (!start(&c, &detail)) {
        log_error("controller cannot start: %s", detail.text);
        return detail.code == ERR_VERSION || detail.code == ERR_INVALID ? CHILD_EXIT_OPERATOR : 1;
    }
    child_ready(child);
    loop_run(c.loop);
    stop(&c);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The controller's loop. What happens to it: frames of controllers, shards and
 * its gateway, the journal's completions, the supervisor's word on processes,
 * and the clock. Each is given to the pure part it belongs to (replica, election,
 * detector, control); group_run() carries out what comes of it; once a turn the
 * journal is flushed and one frame a shard is sent.
 */
#include "controller/controller.h"

#include <poll.h>
#include <stdlib.h>
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
    group_turn(&c->core);
    shards_send_turn(c);
    status_map_turn(c);
    peers_heartbeat(c, true);
    counters_add(COUNTER_loop_turns, 1);
    tick_sooner(c);
}

/* ---- clocks ---- */

static void on_beat(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, beat_timer);
    loop_timer_start(c->loop, timer, loop_now(c->loop) + child_beat_interval(c->child));
}

static usec_t soonest(struct controller *c, usec_t now) {
    usec_t at = now + c->config->heartbeat;
    usec_t others[] = {election_deadline(c->core.election), replica_deadline(c->core.replica),
                       c->core.leads ? control_deadline(c->core.control) : USEC_NEVER,
                       detector_deadline(c->core.detector)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        at = others[i] < at ? others[i] : at;
    return at > now + ELECTION_GRAIN_US ? at : now + ELECTION_GRAIN_US;
}

/* What this turn did may be due before the tick that is set: a commit that no
 * append carries on is told REPLICA_IDLE_US later, and whoever created a mailbox
 * waits for it. */
static void tick_sooner(struct controller *c) {
    usec_t at = soonest(c, loop_now(c->loop));
    if (loop_timer_started(&c->tick_timer) && at < c->tick_timer.at)
        loop_timer_start(c->loop, &c->tick_timer, at);
}

static void on_tick(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, tick_timer);
    usec_t now = loop_now(c->loop);
    peers_hear_self(c);
    detector_tick(c->core.detector, now, &c->core.detected);
    group_detected(&c->core);
    election_tick(c->core.election, now, &c->core.replica_effects, &c->core.election_effects);
    replica_tick(c->core.replica, now, &c->core.replica_effects);
    if (c->core.leads)
        control_tick(c->core.control, now, &c->core.control_effects);
    group_run(&c->core);
    forming_check(c);
    requests_tick(c);
    if (journal_in_flight(c->core.journal) == 0)
        journal_prove(c->core.journal); /* idle: let a torn tail and damage be told apart */
    loop_timer_start(c->loop, timer, soonest(c, now));
}

static usec_t heartbeat_interval(const struct controller *c) {
    usec_t half = c->config->heartbeat / 2;
    return half < ELECTION_HEARTBEAT_US_MAX ? half : ELECTION_HEARTBEAT_US_MAX;
}

static void on_heartbeat(struct loop_timer *timer) {
    struct controller *c = CONTROLLER_OF(timer, heartbeat_timer);
    peers_heartbeat(c, false);
    shards_ping(c);
    loop_timer_start(c->loop, timer, loop_now(c->loop) + heartbeat_interval(c));
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
    usec_t wait = 0;
    if (election_leading(c->core.election) &&
        election_transfer(c->core.election, 0, loop_now(c->loop), &c->core.election_effects) == ERR_OK) {
        group_run(&c->core);
        wait = ELECTION_TRANSFER_US;
    }
    c->stop_timer.fire = on_stopped;
    loop_timer_start(c->loop, &c->stop_timer, loop_now(c->loop) + wait);
}

static void on_child(struct loop_watch *watch, short ready) {
    struct controller *c = CONTROLLER_OF(watch, child_watch);
    struct child_event e;
    (void)ready;
    while (child_next(c->child, &e)) {
        bool shard = strcmp(e.peer.role, "shard") == 0;
        if (e.kind == CHILD_EVENT_STOP)
            begin_stop(c);
        else if (shard && e.kind == CHILD_EVENT_PEER_UP)
            shards_own_up(c, e.peer.index, e.peer.path);
        else if (shard && e.kind == CHILD_EVENT_PEER_DOWN)
            shards_own_gone(c, e.peer.index);
    }
}

/* ---- life ---- */

static bool start(struct controller *c, struct err_detail *detail) {
    if (!host_open(c, detail) || !controller_listen(c, detail))
        return false;
    c->child_watch = (struct loop_watch){.fd = child_fd(c->child), .events = POLLIN, .fire = on_child};
    loop_watch_start(c->loop, &c->child_watch);
    forming_start(c);
    peers_refresh(c);
    shards_refresh(c);
    start_timers(c);
    return true;
}

static void stop(struct controller *c) {
    loop_watch_stop(c->loop, &c->child_watch);
    struct loop_timer *timers[] = {&c->beat_timer, &c->tick_timer, &c->heartbeat_timer, &c->stop_timer};
    for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
        loop_timer_stop(c->loop, timers[i]);
    requests_close(c);
    controller_leave_shards(c);
    controller_hang_up(c);
    loop_drain(c->loop, CONTROLLER_STOP_US);
    host_close(c);
}

int controller_main(struct child *child) {
    struct err_detail detail = {0};
    struct controller c = {.child = child, .config = child_config(child), .next_link = 1, .next_request = 1};
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

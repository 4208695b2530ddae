// SPDX-License-Identifier: Apache-2.0
/* The process: the loop, the supervisor's words, the gateway. */
#include <poll.h>

#include "base/log.h"
#include "gateway/gateway.h"
#include "supervisor/child.h"
#include "wire/loop.h"

#define MAIN_DRAIN_US (1 * USEC_S)

struct process {
    struct child *child;
    struct loop *loop;
    struct gateway *gateway;
    struct loop_watch watch;
    struct loop_timer beat;
};

static void on_turn(void *ctx, struct loop *loop) {
    struct process *p = ctx;
    child_beat(p->child);
    if (p->gateway)
        gateway_turn(p->gateway);
}

static void on_child_event(struct process *p, const struct child_event *e) {
    switch (e->kind) {
    case CHILD_EVENT_STOP:
        gateway_stop(p->gateway);
        break;
    case CHILD_EVENT_PEER_UP:
        gateway_peer_up(p->gateway, e->peer.role, e->peer.index, e->peer.path);
        break;
    case CHILD_EVENT_PEER_DOWN:
        gateway_peer_down(p->gateway, e->peer.role, e->peer.index, e->peer.path);
        break;
    }
}

static void on_child(struct loop_watch *watch, short ready) {
    struct process *p = (struct process *)((char *)watch - offsetof(struct process, watch));
    struct child_event e;
    while (child_next(p->child, &e))
        on_child_event(p, &e);
}

static void on_beat(struct loop_timer *timer) {
    struct process *p = (struct process *)((char *)timer - offsetof(struct process, beat));
    loop_timer_start(p->loop, timer, loop_now(p->loop) + child_beat_interval(p->child));
}

static void on_stopped(void *ctx) {
    struct process *p = ctx;
    loop_stop(p->loop);
}

static void stop(struct process *p) {
    loop_timer_stop(p->loop, &p->beat);
    loop_watch_stop(p->loop, &p->watch);
    gateway_free(p->gateway);
    p->gateway = NULL;
    loop_drain(p->loop, MAIN_DRAIN_US);
}

int gateway_main(struct child *child) {
    struct err_detail detail = {0};
    struct process p = {.child = child};
    loop_block_signals();
    p.loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = &p});
    p.gateway = gateway_new(&(struct gateway_options){.loop = p.loop,
                                                      .config = child_config(child),
                                                      .instance = child_instance(child),
                                                      .stopped = on_stopped,
                                                      .ctx = &p},
                            &detail);
    if (!p.gateway) {
        log_error("gateway cannot start: %s", detail.text);
        return 1;
    }
    p.watch = (struct loop_watch){.fd = child_fd(child), .events = POLLIN, .fire = on_child};
    loop_watch_start(p.loop, &p.watch);
    p.beat.fire = on_beat;
    loop_timer_start(p.loop, &p.beat, loop_now(p.loop));
    child_ready(child);
    loop_run(p.loop);
    stop(&p);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The shard's loop. Happy path of a turn: frames come in and are given to the
 * shard of core/ (links.c -> gateway_frames.c, peer_frames.c, order_frames.c),
 * which steps its partitions; what it says meanwhile is put into this turn's
 * frames. Then, once for all of it, on_turn(): shard_turn() pumps each touched
 * partition and hands the turn to the journal, and one frame a peer and gateway
 * goes out. Completions of the journal come back as events (disk.c).
 */
#include "shard/shard.h"

#include <poll.h>
#include <stdlib.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/process.h"

/* ---- the shard's host ---- */

static usec_t now(void *host) {
    return loop_now(((struct process *)host)->loop);
}

static usec_t wall(void *host) {
    return loop_wall(((struct process *)host)->loop);
}

static void working_on(void *host, uint64_t partition) {
    child_working_on(((struct process *)host)->child, partition);
}

static void say(void *host, bool error, const char *text) {
    (void)host;
    if (error)
        log_error("%s", text);
    else
        log_info("%s", text);
}

struct hosted_timer {
    struct loop_timer timer; /* first */
    struct hosted *hosted;
};

static void on_partition_timer(struct loop_timer *timer) {
    shard_tick(((struct hosted_timer *)timer)->hosted);
}

static void set_timer(void *host, struct hosted *h, usec_t at) {
    struct loop *loop = ((struct process *)host)->loop;
    struct hosted_timer *t = h->user;
    if (!t) {
        t = h->user = xcalloc(1, sizeof *t);
        t->timer.fire = on_partition_timer;
        t->hosted = h;
    }
    if (at == USEC_NEVER)
        loop_timer_stop(loop, &t->timer);
    else
        loop_timer_start(loop, &t->timer, at);
}

static struct shard_calls calls = {
    .now = now, .wall = wall, .working_on = working_on, .say = say, .timer = set_timer, .read = reader_give};

/* ---- the turn ---- */

static void on_turn(void *ctx, struct loop *loop) {
    struct process *p = ctx;
    (void)loop;
    child_beat(p->child);
    shard_turn(&p->shard);
    peer_frames_send_turn(p);
    links_send_turn(p);
    counters_add(COUNTER_loop_turns, 1);
}

/* ---- periodic work ---- */

#define PROCESS_OF(timer, field) ((struct process *)((char *)(timer)-offsetof(struct process, field)))

static void on_beat(struct loop_timer *timer) {
    struct process *p = PROCESS_OF(timer, beat_timer);
    loop_timer_start(p->loop, timer, loop_now(p->loop) + child_beat_interval(p->child));
}

static void on_confirm(struct loop_timer *timer) {
    struct process *p = PROCESS_OF(timer, confirm_timer);
    peers_confirm(&p->shard);
    loop_timer_start(p->loop, timer, loop_now(p->loop) + SHARD_CONFIRM_US);
}

static void on_load(struct loop_timer *timer) {
    struct process *p = PROCESS_OF(timer, load_timer);
    service_loads(&p->shard);
    orders_load(&p->shard);
    loop_timer_start(p->loop, timer, loop_now(p->loop) + SHARD_LOAD_US);
}

static void on_reclaim(struct loop_timer *timer) {
    struct process *p = PROCESS_OF(timer, reclaim_timer);
    storage_reclaim(&p->shard);
    disk_statistics(p);
    loop_timer_start(p->loop, timer, loop_now(p->loop) + SHARD_RECLAIM_US);
}

static void start_timers(struct process *p) {
    usec_t now = loop_now(p->loop);
    p->beat_timer.fire = on_beat;
    p->confirm_timer.fire = on_confirm;
    p->load_timer.fire = on_load;
    p->reclaim_timer.fire = on_reclaim;
    loop_timer_start(p->loop, &p->beat_timer, now);
    loop_timer_start(p->loop, &p->confirm_timer, now + SHARD_CONFIRM_US);
    loop_timer_start(p->loop, &p->load_timer, now + SHARD_LOAD_US);
    loop_timer_start(p->loop, &p->reclaim_timer, now + SHARD_RECLAIM_US);
}

static void stop_timers(struct process *p) {
    loop_timer_stop(p->loop, &p->beat_timer);
    loop_timer_stop(p->loop, &p->confirm_timer);
    loop_timer_stop(p->loop, &p->load_timer);
    loop_timer_stop(p->loop, &p->reclaim_timer);
    loop_timer_stop(p->loop, &p->stop_timer);
    for (struct hosted *h = p->shard.hosted; h; h = h->hh.next)
        if (h->user)
            loop_timer_stop(p->loop, &((struct hosted_timer *)h->user)->timer);
}

/* ---- what the supervisor says ---- */

static void on_stop_deadline(struct loop_timer *timer) {
    loop_stop(PROCESS_OF(timer, stop_timer)->loop);
}

/* Asked to stop: the turn under way is flushed; receipts that wait for it go out. */
static void begin_stop(struct process *p) {
    if (p->stopping)
        return;
    p->stopping = true;
    p->stop_timer.fire = on_stop_deadline;
    usec_t wait = journal_in_flight(p->shard.journal) ? PROCESS_STOP_US : 0;
    loop_timer_start(p->loop, &p->stop_timer, loop_now(p->loop) + wait);
}

static void on_child(struct loop_watch *watch, short ready) {
    struct process *p = PROCESS_OF(watch, child_watch);
    struct child_event e;
    (void)ready;
    while (child_next(p->child, &e))
        if (e.kind == CHILD_EVENT_STOP)
            begin_stop(p);
}

/* ---- life ---- */

static bool start(struct process *p, struct err_detail *detail) {
    peer_frames_calls(&calls);
    order_frames_calls(&calls);
    gateway_frames_calls(&calls);
    p->shard.calls = &calls;
    p->shard.host = p;
    p->shard.failure_timeout = p->config->timeout;
    p->shard.next_request = 1;
    if (!disk_open(p, detail) || !links_open(p, detail))
        return false;
    p->reader = reader_start(p);
    p->child_watch = (struct loop_watch){.fd = child_fd(p->child), .events = POLLIN, .fire = on_child};
    loop_watch_start(p->loop, &p->child_watch);
    start_timers(p);
    return true;
}

static void stop(struct process *p) {
    reader_stop(p->reader);
    loop_watch_stop(p->loop, &p->child_watch);
    stop_timers(p);
    peer_frames_close(p);
    links_close(p);
    letters_gateway_down(&p->shard);
    loop_drain(p->loop, PROCESS_STOP_US);
    disk_close(p);
    for (struct hosted *h = p->shard.hosted; h; h = h->hh.next)
        free(h->user);
    shard_free(&p->shard);
}

int shard_main(struct child *child) {
    struct err_detail detail = {0};
    struct process p = {.child = child, .config = child_config(child), .next_link_id = 1};
    loop_block_signals();
    p.loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = &p});
    if (!start(&p, &detail)) {
        log_error("shard cannot start: %s", detail.text);
        return detail.code == ERR_VERSION || detail.code == ERR_INVALID ? CHILD_EXIT_OPERATOR : 1;
    }
    child_ready(child);
    loop_run(p.loop);
    stop(&p);
    return 0;
}

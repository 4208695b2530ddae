// SPDX-License-Identifier: Apache-2.0
/*
 * The shard's loop. Happy path of a turn: frames come in and are given to their
 * partitions (links.c -> service.c, peers.c, orders.c), which step and queue;
 * then, once for all of it, on_turn(): pump each touched partition, write its
 * records into the journal's turn, hand the turn over, and send one frame a peer
 * and gateway. Completions of the journal come back as events (storage.c).
 */
#include "shard/shard.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"

struct hosted *shard_find(struct shard *s, uint64_t partition) {
    struct hosted *h;
    HASH_FIND(hh, s->hosted, &partition, sizeof partition, h);
    return h;
}

void shard_touch(struct hosted *h) {
    struct shard *s = h->shard;
    if (h->dirty)
        return;
    h->dirty = true;
    h->next_dirty = NULL;
    if (s->dirty_last)
        s->dirty_last->next_dirty = h;
    else
        s->dirty_first = h;
    s->dirty_last = h;
}

/* ---- the partition's host ---- */

static void on_replica_effect(void *host, struct partition *p, const struct replica_effect *e) {
    struct hosted *h = p->user;
    (void)host;
    shard_touch(h);
    switch (e->type) {
    case REPLICA_WRITE:
    case REPLICA_TRUNCATE:
    case REPLICA_PROMISE:
    case REPLICA_STAGE:
    case REPLICA_UNSTAGE:
    case REPLICA_MARK_DAMAGED:
    case REPLICA_MARK_WHOLE:
        storage_write(h, e);
        break;
    case REPLICA_LEADING:
        peers_leading(h);
        break;
    case REPLICA_FETCH:
        reader_fetch(h, e->fetch.from, e->fetch.to, e->fetch.reader);
        break;
    case REPLICA_SEND_APPEND:
        peers_append(h, &e->append);
        break;
    case REPLICA_SEND_APPENDED:
        peers_appended(h, &e->appended);
        break;
    case REPLICA_SEND_SEALED:
        orders_sealed(h, &e->sealed);
        break;
    case REPLICA_SEND_PIECE:
        peers_piece(h, &e->piece);
        break;
    case REPLICA_SEND_PIECED:
        peers_pieced(h, &e->pieced);
        break;
    case REPLICA_REPORT_ACTIVATED:
        orders_report(h, MR__REPORT_KIND__REPORT_ACTIVATED, e->epoch, 0);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        orders_report(h, MR__REPORT_KIND__REPORT_SUPERSEDED, e->promise.epoch, 0);
        break;
    case REPLICA_REPORT_CANNOT:
        orders_report(h, MR__REPORT_KIND__REPORT_CANNOT, e->epoch, 0);
        break;
    case REPLICA_REPORT_CAUGHT_UP:
        orders_report(h, MR__REPORT_KIND__REPORT_CAUGHT_UP, h->record.epoch, e->peer);
        break;
    case REPLICA_REPORT_DAMAGED:
        orders_report(h, MR__REPORT_KIND__REPORT_DAMAGED, h->record.epoch, 0);
        break;
    case REPLICA_REPORT_MENDED:
        orders_report(h, MR__REPORT_KIND__REPORT_MENDED, h->record.epoch, 0);
        break;
    default:
        CHECK(!"a replica's effect that the partition carries out itself");
    }
}

static void on_mailbox_effect(void *host, struct partition *p, const struct mailbox_effect *e) {
    struct hosted *h = p->user;
    (void)host;
    shard_touch(h);
    if (e->type == MAILBOX_DEAD_BATCH)
        journal_mark_dead(h->shard->journal, h->id, e->index);
    else
        service_effect(h, e);
}

static void on_checkpoint(void *host, struct partition *p, const struct partition_checkpoint *c) {
    (void)host;
    shard_touch(p->user);
    storage_checkpoint(p->user, c);
}

static size_t on_led(void *host, struct partition *p, uint64_t epoch, uint64_t *gateways, size_t max) {
    (void)host;
    counters_add(COUNTER_partitions_led, 1);
    return service_led(p->user, epoch, gateways, max);
}

static void on_not_leading(void *host, struct partition *p) {
    (void)host;
    counters_sub(COUNTER_partitions_led, 1);
    service_not_leading(p->user);
}

static void on_held(void *host, struct partition *p) {
    struct hosted *h = p->user;
    (void)host;
    orders_report(h, MR__REPORT_KIND__REPORT_HELD, h->record.epoch, p->hold_target);
}

static const struct partition_host host_calls = {
    .replica_effect = on_replica_effect,
    .mailbox_effect = on_mailbox_effect,
    .checkpoint = on_checkpoint,
    .led = on_led,
    .not_leading = on_not_leading,
    .held = on_held,
};

const struct partition_host *shard_host(void) {
    return &host_calls;
}

/* ---- timers of partitions ---- */

static void on_partition_timer(struct loop_timer *timer) {
    struct hosted *h = (struct hosted *)((char *)timer - offsetof(struct hosted, timer));
    child_working_on(h->shard->child, h->id);
    shard_touch(h);
    partition_tick(h->partition, loop_now(h->shard->loop));
    child_working_on(h->shard->child, 0);
}

static void set_timer(struct hosted *h) {
    usec_t at = partition_deadline(h->partition);
    h->timer.fire = on_partition_timer;
    if (at == USEC_NEVER)
        loop_timer_stop(h->shard->loop, &h->timer);
    else
        loop_timer_start(h->shard->loop, &h->timer, at);
}

/* ---- the turn ---- */

/* Pump every touched partition; pumping one may touch others. What was touched
 * is remembered in s->turned for the steps behind. */
static void pump_partitions(struct shard *s) {
    usec_t now = loop_now(s->loop);
    bool full = journal_full(s->journal);
    s->turned_count = 0;
    while (s->dirty_first) {
        struct hosted *h = s->dirty_first;
        s->dirty_first = h->next_dirty;
        if (!s->dirty_first)
            s->dirty_last = NULL;
        if (h->partition) {
            child_working_on(s->child, h->id);
            h->partition->disk_full = full;
            partition_time(h->partition, now, loop_wall(s->loop));
            orders_wishes(h);
            partition_pump(h->partition, now);
            child_working_on(s->child, 0);
        }
        h->dirty = false;
        xgrow(&s->turned, &s->turned_capacity, s->turned_count + 1, sizeof *s->turned);
        s->turned[s->turned_count++] = h;
    }
}

static void time_commits(struct hosted *h, usec_t now) {
    if (!h->sample_index || replica_commit(h->partition->replica) < h->sample_index)
        return;
    h->commit_us += (now - h->sample_at - h->commit_us) / 8;
    h->sample_index = 0;
}

static void on_turn(void *ctx, struct loop *loop) {
    struct shard *s = ctx;
    child_beat(s->child);
    pump_partitions(s);
    storage_flush(s);
    for (size_t i = 0; i < s->turned_count; i++) {
        if (!s->turned[i]->partition)
            continue;
        time_commits(s->turned[i], loop_now(loop));
        set_timer(s->turned[i]);
    }
    s->turned_count = 0;
    peers_send_turn(s);
    links_send_turn(s);
    counters_add(COUNTER_loop_turns, 1);
}

/* ---- periodic work ---- */

#define SHARD_OF(timer, field) ((struct shard *)((char *)(timer)-offsetof(struct shard, field)))

static void on_beat(struct loop_timer *timer) {
    struct shard *s = SHARD_OF(timer, beat_timer);
    loop_timer_start(s->loop, timer, loop_now(s->loop) + child_beat_interval(s->child));
}

static void on_confirm(struct loop_timer *timer) {
    struct shard *s = SHARD_OF(timer, confirm_timer);
    peers_confirm(s);
    loop_timer_start(s->loop, timer, loop_now(s->loop) + SHARD_CONFIRM_US);
}

static void on_load(struct loop_timer *timer) {
    struct shard *s = SHARD_OF(timer, load_timer);
    service_loads(s);
    orders_load(s);
    loop_timer_start(s->loop, timer, loop_now(s->loop) + SHARD_LOAD_US);
}

static void on_reclaim(struct loop_timer *timer) {
    struct shard *s = SHARD_OF(timer, reclaim_timer);
    storage_reclaim(s);
    loop_timer_start(s->loop, timer, loop_now(s->loop) + SHARD_RECLAIM_US);
}

static void start_timers(struct shard *s) {
    usec_t now = loop_now(s->loop);
    s->beat_timer.fire = on_beat;
    s->confirm_timer.fire = on_confirm;
    s->load_timer.fire = on_load;
    s->reclaim_timer.fire = on_reclaim;
    loop_timer_start(s->loop, &s->beat_timer, now);
    loop_timer_start(s->loop, &s->confirm_timer, now + SHARD_CONFIRM_US);
    loop_timer_start(s->loop, &s->load_timer, now + SHARD_LOAD_US);
    loop_timer_start(s->loop, &s->reclaim_timer, now + SHARD_RECLAIM_US);
}

static void stop_timers(struct shard *s) {
    loop_timer_stop(s->loop, &s->beat_timer);
    loop_timer_stop(s->loop, &s->confirm_timer);
    loop_timer_stop(s->loop, &s->load_timer);
    loop_timer_stop(s->loop, &s->reclaim_timer);
    loop_timer_stop(s->loop, &s->stop_timer);
    for (struct hosted *h = s->hosted; h; h = h->hh.next)
        loop_timer_stop(s->loop, &h->timer);
}

/* ---- what the supervisor says ---- */

static void on_stop_deadline(struct loop_timer *timer) {
    loop_stop(SHARD_OF(timer, stop_timer)->loop);
}

/* Asked to stop: the turn under way is flushed; receipts that wait for it go out. */
static void begin_stop(struct shard *s) {
    if (s->stopping)
        return;
    s->stopping = true;
    s->stop_timer.fire = on_stop_deadline;
    usec_t wait = journal_in_flight(s->journal) ? SHARD_STOP_US : 0;
    loop_timer_start(s->loop, &s->stop_timer, loop_now(s->loop) + wait);
}

static void on_child(struct loop_watch *watch, short ready) {
    struct shard *s = SHARD_OF(watch, child_watch);
    struct child_event e;
    (void)ready;
    while (child_next(s->child, &e))
        if (e.kind == CHILD_EVENT_STOP)
            begin_stop(s);
}

/* ---- life ---- */

static void free_hosted(struct shard *s) {
    struct hosted *h, *next;
    HASH_ITER(hh, s->hosted, h, next) {
        HASH_DEL(s->hosted, h);
        deliver_forget(h);
        partition_free(h->partition);
        free(h->staged);
        free(h->wishes);
        free(h);
    }
    free(s->turned);
}

static bool start(struct shard *s, struct err_detail *detail) {
    if (!storage_open(s, detail) || !links_open(s, detail))
        return false;
    s->reader = reader_start(s);
    s->child_watch = (struct loop_watch){.fd = child_fd(s->child), .events = POLLIN, .fire = on_child};
    loop_watch_start(s->loop, &s->child_watch);
    start_timers(s);
    return true;
}

static void stop(struct shard *s) {
    if (s->reader)
        reader_stop(s->reader);
    loop_watch_stop(s->loop, &s->child_watch);
    stop_timers(s);
    peers_close(s);
    links_close(s);
    service_close(s);
    loop_drain(s->loop, SHARD_STOP_US);
    storage_close(s);
    free_hosted(s);
}

int shard_main(struct child *child) {
    struct err_detail detail = {0};
    struct shard s = {.child = child, .config = child_config(child), .next_link_id = 1, .next_request = 1};
    loop_block_signals();
    s.loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = &s});
    if (!start(&s, &detail)) {
        log_error("shard cannot start: %s", detail.text);
        return detail.code == ERR_VERSION || detail.code == ERR_INVALID ? CHILD_EXIT_OPERATOR : 1;
    }
    child_ready(child);
    loop_run(s.loop);
    stop(&s);
    return 0;
}

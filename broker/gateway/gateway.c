// SPDX-License-Identifier: Apache-2.0
/*
 * The gateway's turn: frames came in and were handled (sessions.c, shards.c,
 * controller.c); then, once for all of it, gateway_turn(): publishes to leaders,
 * credit to partitions, answers to sessions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"
#include "proto/batch.h"

enum { GATEWAY_FRAME_BYTES_MIN = 1048576 };

uint64_t gateway_next_number(struct gateway *g) {
    return ++g->last_number;
}

void gateway_identity(const struct gateway *g, Mr__Identity *out) {
    mr__identity__init(out);
    out->cluster = (char *)(uintptr_t)g->config->cluster;
    out->cluster_id = g->cluster_id;
    out->node = (char *)(uintptr_t)g->config->node;
    out->role = (char *)"gateway";
    out->instance = g->options.instance;
}

/* ---- the turn ---- */

void gateway_turn(struct gateway *g) {
    publishing_turn(g);
    consuming_turn(g);
    sessions_answer_turn(g);
}

/* ---- leaders ---- */

void gateway_leader_lost(struct gateway *g, struct map_partition *p) {
    publishes_lost(&g->publishes, p->id);
    consuming_lost(g, p);
    inquiries_lost(g, p);
}

void gateway_leader_found(struct gateway *g, struct map_partition *p) {
    if (!shards_leader(g, p))
        return;
    publishes_leader(&g->publishes, p->id);
    consuming_leader(g, p);
    inquiries_leader(g, p);
}

void gateway_mailbox_gone(struct gateway *g, struct map_mailbox *box) {
    consuming_mailbox_gone(g, box);
    for (size_t i = 0; i < box->partition_count; i++)
        if (box->partitions[i])
            publishing_refuse_all(g, box->partitions[i], ERR_NOT_FOUND, "the mailbox was deleted");
}

/* ---- time ---- */

static void count_wire(const struct gateway *g) {
    const struct loop_stats *s = loop_stats(g->loop);
    counters_set(COUNTER_frames_in, s->frames_in);
    counters_set(COUNTER_frames_out, s->frames_out);
    counters_set(COUNTER_bytes_in, s->bytes_in);
    counters_set(COUNTER_bytes_out, s->bytes_out);
    counters_set(COUNTER_loop_turns, s->turns);
    counters_set(COUNTER_loop_turn_max, s->turn_usec_max);
    counters_set(COUNTER_memory, g->publishes.bytes + g->parked_bytes + g->queued);
}

static void on_tick(struct loop_timer *timer) {
    struct gateway *g = (struct gateway *)((char *)timer - offsetof(struct gateway, tick_timer));
    usec_t now = loop_now(g->loop);
    publishing_tick(g);
    inquiries_tick(g);
    controller_tick(g);
    sessions_retry_parked(g, false);
    sessions_tell_loads(g);
    if (now >= g->next_retry) {
        g->next_retry = now + GATEWAY_RETRY_US;
        consuming_retry(g);
    }
    if (now >= g->next_scan) {
        g->next_scan = now + GATEWAY_SCAN_US;
        sessions_scan(g);
        shards_scan(g);
        controller_scan(g);
        count_wire(g);
    }
    loop_timer_start(g->loop, timer, now + GATEWAY_TICK_US);
}

/* ---- life ---- */

static size_t at_least(size_t value, size_t least) {
    return value > least ? value : least;
}

/* Half of the gateway's memory is for publishes, the rest for deliveries and for
 * what is being received. */
static void set_limits(struct gateway *g) {
    const struct config *c = g->config;
    size_t memory = c->memory_bytes_max / GATEWAY_MEMORY_SHARE;
    g->message_bytes_max = c->message_bytes_max;
    g->batch_bytes_max = at_least(c->message_bytes_max + BATCH_HEADER_BYTES + GATEWAY_FRAME_SLACK_BYTES,
                                  GATEWAY_FRAME_BYTES_MIN);
    g->publish_bytes = at_least(memory / 2, 2 * g->batch_bytes_max);
    g->window_bytes = at_least(g->publish_bytes / GATEWAY_WINDOW_SHARE, g->batch_bytes_max);
    g->lent_bytes = at_least(memory / 8, g->batch_bytes_max);
    g->queue_bytes = at_least(memory / 4, g->batch_bytes_max);
    g->partial_bytes = at_least(memory / 8, 2 * g->batch_bytes_max);
    consumers_init(&g->consumers, g->lent_bytes);
}

static void client_url(const struct gateway *g, char *out, size_t size) {
    const struct config_address *a = &g->config->listen_client;
    if (g->options.client_url)
        snprintf(out, size, "%s", g->options.client_url);
    else
        snprintf(out, size, strchr(a->host, ':') ? "tcp://[%s]:%u" : "tcp://%s:%u", a->host, a->port);
}

static void on_stopped(struct loop_timer *timer);

struct gateway *gateway_new(const struct gateway_options *options, struct err_detail *detail) {
    struct gateway *g = xcalloc(1, sizeof *g);
    char url[CONFIG_HOST_BYTES_MAX + 32];
    g->options = *options;
    g->loop = options->loop;
    g->config = options->config;
    set_limits(g);
    client_url(g, url, sizeof url);
    if (!sessions_open(g, url, detail)) {
        free(g);
        return NULL;
    }
    g->tick_timer.fire = on_tick;
    g->retry_timer.fire = on_publish_retry;
    g->stop_timer.fire = on_stopped;
    loop_timer_start(g->loop, &g->tick_timer, loop_now(g->loop) + GATEWAY_TICK_US);
    return g;
}

void gateway_free(struct gateway *g) {
    loop_timer_stop(g->loop, &g->tick_timer);
    loop_timer_stop(g->loop, &g->retry_timer);
    loop_timer_stop(g->loop, &g->stop_timer);
    sessions_close(g);
    shards_close(g);
    controller_close(g);
    publishes_free(&g->publishes);
    settles_free(&g->settles);
    consumers_free(&g->consumers);
    map_free(&g->map);
    CHECK(!g->requests && !g->inquiries && !g->parked);
    free(g);
}

const char *gateway_url(const struct gateway *g) {
    return g->url;
}

void gateway_peer_up(struct gateway *g, const char *role, unsigned index, const char *path) {
    if (strcmp(role, "controller") == 0)
        controller_up(g, path);
    else if (strcmp(role, "shard") == 0)
        shards_local_up(g, index, path);
}

void gateway_peer_down(struct gateway *g, const char *role, unsigned index, const char *path) {
    if (strcmp(role, "controller") == 0)
        controller_down(g, path);
    else if (strcmp(role, "shard") == 0)
        shards_local_down(g, index, path);
}

static void on_stopped(struct loop_timer *timer) {
    struct gateway *g = (struct gateway *)((char *)timer - offsetof(struct gateway, stop_timer));
    if (g->stopped)
        return;
    g->stopped = true;
    if (g->options.stopped)
        g->options.stopped(g->options.ctx);
}

/* Sessions go elsewhere by themselves; receipts under way still reach them. */
void gateway_stop(struct gateway *g) {
    if (g->stopping)
        return;
    g->stopping = true;
    listener_close(g->listener);
    g->listener = NULL;
    sessions_goaway(g, "this node stops");
    usec_t wait = g->sessions ? GATEWAY_FAREWELL_US : 0;
    loop_timer_start(g->loop, &g->stop_timer, loop_now(g->loop) + wait);
}

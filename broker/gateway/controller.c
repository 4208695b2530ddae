// SPDX-License-Identifier: Apache-2.0
/*
 * The link to this node's controller: the map comes from there, administration
 * goes there. A request waits for the link inside its own deadline, and is asked
 * again when the link broke before the answer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"

/* ---- administration ---- */

static void request_free(struct gateway *g, struct request *r) {
    struct session *s = sessions_find(g, r->session);
    if (s)
        s->requests--;
    HASH_DEL(g->requests, r);
    mr__request__free_unpacked(r->message, NULL);
    free(r);
}

static void request_send(struct gateway *g, struct request *r) {
    if (r->sent || !g->controller_link || !link_is_open(g->controller_link))
        return;
    r->message->request = r->number;
    r->message->deadline_us = r->deadline - loop_now(g->loop);
    r->sent = frame_send_request(g->controller_link, r->message, NULL, 0) == ERR_OK;
}

static Mr__Request *copy_of(const Mr__Request *message) {
    size_t size = mr__request__get_packed_size(message);
    uint8_t *packed = xmalloc(size + 1);
    mr__request__pack(message, packed);
    Mr__Request *copy = mr__request__unpack(NULL, size, packed);
    free(packed);
    return copy;
}

void controller_forward(struct session *s, const Mr__Request *message, usec_t deadline) {
    struct gateway *g = s->gateway;
    struct request *r = xcalloc(1, sizeof *r);
    r->number = gateway_next_number(g);
    r->session = s->number;
    r->client_request = message->request;
    r->deadline = deadline;
    r->message = copy_of(message);
    s->requests++;
    HASH_ADD(hh, g->requests, number, sizeof r->number, r);
    request_send(g, r);
}

/* Deleted by the first sending, whose answer was lost: what was asked is so. */
static bool done_before(const struct request *r, const Mr__Response *m) {
    Mr__Request__WhatCase what = r->message->what_case;
    bool deletes = what == MR__REQUEST__WHAT_MAILBOX_DELETE || what == MR__REQUEST__WHAT_SUBSCRIPTION_DELETE;
    return deletes && r->sent_before && m->code == ERR_NOT_FOUND;
}

static void on_response(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    Mr__Response *m = (Mr__Response *)(uintptr_t)header; /* ours until this returns */
    struct request *r;
    HASH_FIND(hh, g->requests, &m->request, sizeof m->request, r);
    if (!r)
        return; /* its time is up, or its session gone */
    struct session *s = sessions_find(g, r->session);
    if (done_before(r, m)) {
        m->code = ERR_OK;
        m->text = (char *)"";
    }
    m->request = r->client_request;
    if (s && frame_send_response(s->link, m, NULL, 0) == ERR_TOO_LARGE)
        request_answer(g, r->session, r->client_request, ERR_TOO_LARGE,
                       "the answer is larger than this client takes");
    request_free(g, r);
}

void controller_tick(struct gateway *g) {
    struct request *r, *tmp;
    usec_t now = loop_now(g->loop);
    HASH_ITER(hh, g->requests, r, tmp) {
        if (r->deadline > now)
            continue;
        request_answer(g, r->session, r->client_request, ERR_TIMEOUT,
                       r->sent || r->sent_before
                           ? "the controller did not answer in time, may have been applied"
                           : "the controller could not be reached in time");
        request_free(g, r);
    }
}

void controller_forget_session(struct gateway *g, const struct session *s) {
    struct request *r, *tmp;
    HASH_ITER(hh, g->requests, r, tmp) {
        if (r->session == s->number)
            request_free(g, r);
    }
}

/* ---- the map ---- */

static void take_partition(struct gateway *g, struct map_mailbox *box, const Mr__MapPartition *in) {
    struct map_partition_news news = {.id = in->id,
                                      .number = in->number,
                                      .leader = in->leader,
                                      .epoch = in->epoch,
                                      .state = in->state,
                                      .replicas = in->replicas ? in->replicas->members : NULL,
                                      .replica_count = in->replicas ? in->replicas->n_members : 0};
    struct map_partition *p = map_find_partition(&g->map, in->id);
    bool moves = p && p->epoch < in->epoch;
    if (moves)
        gateway_leader_lost(g, p);
    map_partition_put(&g->map, box, &news);
    p = map_find_partition(&g->map, in->id);
    /* attaches, resends what is held: nothing where all is in order */
    if (p && p->mailbox)
        gateway_leader_found(g, p);
}

static void take_mailbox(struct gateway *g, const Mr__MapMailbox *in) {
    struct mailbox_settings settings;
    struct map_mailbox *box = map_find_id(&g->map, in->id);
    if (in->removed) {
        if (box) {
            gateway_mailbox_gone(g, box);
            map_remove(&g->map, box);
        }
        return;
    }
    box = settings_of_message(in->settings, &settings) ? map_mailbox_put(&g->map, in->id, in->name, &settings)
                                                       : NULL;
    if (!box) {
        log_error("map: mailbox '%s' (%llu) makes no sense", in->name, (unsigned long long)in->id);
        return;
    }
    map_subscriptions_clear(box);
    for (size_t i = 0; i < in->n_subscriptions; i++)
        map_subscription_put(box, in->subscriptions[i]->name);
    for (size_t i = 0; i < in->n_partitions; i++)
        take_partition(g, box, in->partitions[i]);
    consuming_check_subscriptions(g, box);
}

static void take_node(struct gateway *g, const Mr__MapNode *in) {
    map_node_put(&g->map, in->name, in->state, in->client_address);
    for (size_t i = 0; i < in->n_shards; i++) {
        const Mr__MemberAddress *a = in->shards[i];
        map_shard_put(&g->map, a->member, *a->node ? a->node : in->name, a->index, a->address, a->alive);
    }
}

static void mailbox_gone(void *ctx, struct map_mailbox *box) {
    gateway_mailbox_gone(ctx, box);
}

/* A controller that has just started may be behind what this gateway has heard:
 * it catches up, and its later maps say all that is newer. */
static bool is_behind(const struct gateway *g, const Mr__Map *m) {
    bool same = m->cluster_id == 0 || g->cluster_id == 0 || m->cluster_id == g->cluster_id;
    return g->map.known && same && m->version < g->map.version;
}

static void on_map(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    const Mr__Map *m = header;
    bool first = !g->map.known;
    for (size_t i = 0; i < m->n_nodes; i++)
        take_node(g, m->nodes[i]);
    shards_follow_map(g);
    if (is_behind(g, m))
        return;
    if (m->complete)
        map_begin(&g->map);
    for (size_t i = 0; i < m->n_mailboxes; i++)
        take_mailbox(g, m->mailboxes[i]);
    if (m->complete)
        map_end(&g->map, mailbox_gone, g);
    g->map.version = m->version;
    g->cluster_id = m->cluster_id ? m->cluster_id : g->cluster_id;
    if (first && g->map.known)
        sessions_map_known(g);
    sessions_retry_parked(g, true);
}

/* ---- the link ---- */

static void on_welcome(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    struct request *r, *tmp;
    if (hello_welcomed(link, &ours, header, &agreed) != ERR_OK)
        return;
    keep_settled(g->controller);
    g->controller_link = link;
    counters_add(COUNTER_links, 1);
    HASH_ITER(hh, g->requests, r, tmp) {
        request_send(g, r);
    }
}

static void on_fail(void *ctx, struct link *link, const void *header, struct body *body) {
    const Mr__Fail *m = header;
    log_warn("controller: %s (%s)", m->text, err_name((int)m->code));
}

static void on_ping(void *ctx, struct link *link, const void *header, struct body *body) {
    const Mr__Ping *m = header;
    Mr__Pong pong = MR__PONG__INIT;
    pong.sent_at = m->sent_at;
    frame_send_pong(link, &pong, NULL, 0);
}

static const frame_handler from_stranger[FRAME_TYPES] = {
    [FRAME_WELCOME] = on_welcome,
    [FRAME_FAIL] = on_fail,
    [FRAME_PING] = on_ping,
};

static const frame_handler from_controller[FRAME_TYPES] = {
    [FRAME_FAIL] = on_fail,
    [FRAME_PING] = on_ping,
    [FRAME_MAP] = on_map,
    [FRAME_RESPONSE] = on_response,
};

static void on_up(void *ctx, struct keep *keep, struct link *link) {
    struct gateway *g = ctx;
    struct hello ours = hello_ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    gateway_identity(g, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)g->config->node;
    g->controller_greeted_at = loop_now(g->loop);
    hello_send(link, &ours, &m);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct gateway *g = ctx;
    frame_dispatch(g->controller_link ? from_controller : from_stranger, g, link, frame);
}

static void went_down(struct gateway *g) {
    struct request *r, *tmp;
    g->controller_greeted_at = 0;
    if (!g->controller_link)
        return;
    g->controller_link = NULL;
    counters_sub(COUNTER_links, 1);
    HASH_ITER(hh, g->requests, r, tmp) {
        r->sent_before |= r->sent;
        r->sent = false;
    }
}

static void on_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    if (was_up && end->cause == LINK_END_PROTOCOL)
        log_warn("link to the controller ended: %s", end->text);
    went_down(ctx);
}

static const struct keep_handlers keep_handlers = {.up = on_up, .frame = on_frame, .down = on_down};

void controller_up(struct gateway *g, const char *path) {
    struct err_detail detail;
    struct keep_options options = {
        .handlers = &keep_handlers,
        .ctx = g,
        .link = {.frame_bytes = FRAME_BYTES_DEFAULT, .header_bytes = FRAME_HEADER_BYTES_MAX}};
    char url[LINK_PEER_BYTES];
    controller_close(g);
    snprintf(url, sizeof url, "ipc://%s", path);
    g->controller = keep_new(g->loop, url, &options, &detail);
    if (!g->controller)
        log_error("controller at %s: %s", url, detail.text);
}

void controller_down(struct gateway *g, const char *path) {
    char url[LINK_PEER_BYTES];
    snprintf(url, sizeof url, "ipc://%s", path);
    if (g->controller && strcmp(keep_url(g->controller), url) == 0)
        controller_close(g);
}

void controller_scan(struct gateway *g) {
    struct link *link = g->controller ? keep_link(g->controller) : NULL;
    usec_t now = loop_now(g->loop) - loop_late(g->loop);
    if (link && !g->controller_link && g->controller_greeted_at &&
        now - g->controller_greeted_at > HELLO_TIMEOUT_USEC)
        link_close(link, ERR_TIMEOUT, "no WELCOME in time");
}

void controller_close(struct gateway *g) {
    if (!g->controller)
        return;
    went_down(g);
    keep_free(g->controller);
    g->controller = NULL;
}

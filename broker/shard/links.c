// SPDX-License-Identifier: Apache-2.0
/*
 * Listeners (tcp for other nodes, ipc for this one), the hello of every link,
 * and who is at its other end: gateways (service.c), shards (peers.c) or
 * controllers (orders.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"
#include "wire/hello.h"

enum { IPC_MODE = 0600 };

struct link_options links_options(void) {
    return (struct link_options){.frame_bytes = FRAME_BYTES_DEFAULT,
                                 .header_bytes = FRAME_HEADER_BYTES_MAX,
                                 .queued_bytes = SHARD_LINK_QUEUED_BYTES};
}

static struct hello ours(void) {
    struct hello h = hello_ours();
    h.frame_bytes_max = FRAME_BYTES_DEFAULT;
    return h;
}

static void identify(struct shard *s, Mr__Identity *out) {
    mr__identity__init(out);
    out->cluster = (char *)(uintptr_t)s->config->cluster;
    out->node = (char *)(uintptr_t)s->config->node;
    out->role = (char *)"shard";
    out->index = child_index(s->child);
    out->instance = child_instance(s->child);
    out->member = s->self;
    out->starts = s->starts;
}

/* ---- the list ---- */

static void on_hello_late(struct loop_timer *timer) {
    struct shard_link *l = (struct shard_link *)((char *)timer - offsetof(struct shard_link, hello_timer));
    link_close(l->link, ERR_TIMEOUT, "no hello in time");
}

struct shard_link *links_add(struct shard *s, struct link *link, enum link_kind kind) {
    struct shard_link *l = xcalloc(1, sizeof *l);
    *l = (struct shard_link){.shard = s, .link = link, .kind = kind, .id = s->next_link_id++};
    l->hello_timer.fire = on_hello_late;
    l->next = s->links;
    if (s->links)
        s->links->previous = l;
    s->links = l;
    loop_timer_start(s->loop, &l->hello_timer, loop_now(s->loop) + HELLO_TIMEOUT_USEC);
    counters_add(COUNTER_links, 1);
    return l;
}

void links_remove(struct shard_link *l) {
    struct shard *s = l->shard;
    loop_timer_stop(s->loop, &l->hello_timer);
    if (l->previous)
        l->previous->next = l->next;
    else
        s->links = l->next;
    if (l->next)
        l->next->previous = l->previous;
    for (size_t i = 0; i < l->sealeds_count; i++)
        free(l->sealeds[i]);
    free(l->sealeds);
    free(l);
    counters_sub(COUNTER_links, 1);
}

struct shard_link *links_gateway(struct shard *s, uint64_t id) {
    LINKS_EACH(s, l)
    if (l->id == id && l->kind == LINK_GATEWAY)
        return l;
    return NULL;
}

/* ---- links that come in ---- */

static bool take_role(struct shard_link *l, const Mr__Identity *who) {
    if (strcmp(who->role, "gateway") == 0) {
        l->kind = LINK_GATEWAY;
        service_up(l);
    } else if (strcmp(who->role, "controller") == 0) {
        l->kind = LINK_CONTROLLER;
    } else if (strcmp(who->role, "shard") == 0 && who->member) {
        peers_up(l, who->member);
    } else {
        return false;
    }
    return true;
}

static void on_hello(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Hello *m = frame_read_hello(l->link, frame);
    if (!m)
        return;
    if (!m->identity || strcmp(m->identity->cluster, s->config->cluster) != 0) {
        link_refuse(l->link, ERR_DENIED, "hello of cluster '%s', this shard is of '%s'",
                    m->identity ? m->identity->cluster : "", s->config->cluster);
        return;
    }
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity;
    struct hello_agreed agreed;
    struct hello offer = ours();
    identify(s, &identity);
    welcome.identity = &identity;
    l->own_node = strcmp(m->identity->node, s->config->node) == 0;
    if (hello_answer(l->link, &offer, m, &welcome, &agreed) != ERR_OK)
        return;
    loop_timer_stop(s->loop, &l->hello_timer);
    if (!take_role(l, m->identity))
        link_refuse(l->link, ERR_PROTOCOL, "hello of role '%s', expected gateway, controller or shard",
                    m->identity->role);
}

static void on_ping(struct shard_link *l, const struct frame *frame) {
    Mr__Ping *m = frame_read_ping(l->link, frame);
    Mr__Pong pong = MR__PONG__INIT;
    if (!m)
        return;
    pong.sent_at = m->sent_at;
    link_send(l->link, FRAME_PONG, &pong.base, NULL, 0);
}

static void pass_on(struct shard_link *l, const struct frame *frame) {
    if (frame->type == FRAME_PING && l->kind != LINK_NEW) {
        on_ping(l, frame);
        return;
    }
    switch (l->kind) {
    case LINK_GATEWAY:
        service_frame(l, frame);
        break;
    case LINK_CONTROLLER:
        orders_frame(l, frame);
        break;
    case LINK_PEER:
        peers_frame(l, frame);
        break;
    case LINK_NEW:
        if (frame->type == FRAME_HELLO)
            on_hello(l, frame);
        else
            link_refuse(l->link, ERR_PROTOCOL, "frame type %u before hello", frame->type);
    }
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    (void)link;
    pass_on(ctx, frame);
}

static void ended(struct shard_link *l) {
    if (l->kind == LINK_GATEWAY)
        service_down(l);
    if (l->kind == LINK_PEER)
        peers_down(l);
    links_remove(l);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct shard_link *l = ctx;
    if (end->cause == LINK_END_PROTOCOL || end->cause == LINK_END_OVERFLOW)
        log_warn("link from %s ended: %s", link_peer(link), end->text);
    ended(l);
}

static const struct link_handlers accepted_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct shard_link *l = links_add(ctx, link, LINK_NEW);
    (void)listener;
    link_attach(link, &accepted_handlers, l);
}

static const struct listener_handlers listener_calls = {.accepted = on_accepted};

bool links_open(struct shard *s, struct err_detail *detail) {
    char url[CONFIG_HOST_BYTES_MAX + 64];
    struct listener_options options = {.handlers = &listener_calls, .ctx = s, .link = links_options()};
    const char *bracket = strchr(s->config->listen_cluster.host, ':') ? "[" : "";
    snprintf(url, sizeof url, "tcp://%s%s%s:%u", bracket, s->config->listen_cluster.host, *bracket ? "]" : "",
             s->config->listen_cluster.port + 1 + child_index(s->child));
    s->tcp = listener_open(s->loop, url, &options, detail);
    if (!s->tcp)
        return false;
    snprintf(url, sizeof url, "ipc://%s", child_own_path(s->child));
    options.ipc_mode = IPC_MODE;
    s->ipc = listener_open(s->loop, url, &options, detail);
    return s->ipc != NULL;
}

void links_close(struct shard *s) {
    if (s->tcp)
        listener_close(s->tcp);
    if (s->ipc)
        listener_close(s->ipc);
    LINKS_EACH(s, l)
    link_close(l->link, ERR_CLOSED, "the shard stops");
}

void links_send_turn(struct shard *s) {
    LINKS_EACH(s, l) {
        if (l->kind == LINK_GATEWAY)
            service_send_turn(l);
        if (l->kind == LINK_CONTROLLER)
            orders_send_turn(l);
    }
}

/* ---- links to peers that this side dials ---- */

void links_greet(struct shard *s, struct link *link, struct peer *peer) {
    struct hello offer = ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    identify(s, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)s->config->node;
    peer->greeting = links_add(s, link, LINK_NEW);
    hello_send(link, &offer, &m);
}

static void on_welcome(struct peer *peer, const struct frame *frame) {
    struct shard_link *l = peer->greeting;
    struct hello offer = ours();
    struct hello_agreed agreed;
    Mr__Welcome *m = frame_read_welcome(l->link, frame);
    if (!m || hello_welcomed(l->link, &offer, m, &agreed) != ERR_OK)
        return;
    loop_timer_stop(l->shard->loop, &l->hello_timer);
    if (!m->identity || m->identity->member != peer->member) {
        /* another disk behind that address: the metadata will say so */
        link_close(l->link, ERR_STALE, "another identity than the metadata names");
        return;
    }
    keep_settled(peer->keep);
    peers_up(l, peer->member);
}

void links_peer_frame(struct peer *peer, struct link *link, const struct frame *frame) {
    struct shard_link *l = peer->greeting;
    if (!l || l->link != link)
        return;
    if (l->kind == LINK_PEER)
        peers_frame(l, frame);
    else if (frame->type == FRAME_WELCOME)
        on_welcome(peer, frame);
    else if (frame->type != FRAME_FAIL)
        link_refuse(link, ERR_PROTOCOL, "frame type %u instead of WELCOME", frame->type);
}

void links_peer_down(struct peer *peer) {
    struct shard_link *l = peer->greeting;
    peer->greeting = NULL;
    if (l)
        ended(l);
}

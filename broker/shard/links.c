// SPDX-License-Identifier: Apache-2.0
/*
 * Listeners (tcp for other nodes, ipc for this one), the hello of every link,
 * and who is at its other end: gateways (gateway_frames.c), shards
 * (peer_frames.c) or controllers (order_frames.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/process.h"
#include "wire/hello.h"

enum { IPC_MODE = 0600 };

struct link_options links_options(void) {
    return (struct link_options){.frame_bytes = FRAME_BYTES_DEFAULT,
                                 .header_bytes = FRAME_HEADER_BYTES_MAX,
                                 .queued_bytes = PROCESS_LINK_QUEUED_BYTES};
}

static struct hello ours(void) {
    struct hello h = hello_ours();
    h.frame_bytes_max = FRAME_BYTES_DEFAULT;
    return h;
}

static void identify(struct process *p, Mr__Identity *out) {
    mr__identity__init(out);
    out->cluster = (char *)(uintptr_t)p->config->cluster;
    out->node = (char *)(uintptr_t)p->config->node;
    out->role = (char *)"shard";
    out->index = child_index(p->child);
    out->instance = child_instance(p->child);
    out->member = p->shard.self;
    out->starts = p->shard.starts;
}

/* ---- the list ---- */

static void on_hello_late(struct loop_timer *timer) {
    struct process_link *l =
        (struct process_link *)((char *)timer - offsetof(struct process_link, hello_timer));
    link_close(l->link, ERR_TIMEOUT, "no hello in time");
}

static struct process_link *add(struct process *p, struct link *link) {
    struct process_link *l = xcalloc(1, sizeof *l);
    *l = (struct process_link){
        .shard = {.kind = LINK_NEW, .id = p->next_link_id++}, .process = p, .link = link};
    l->hello_timer.fire = on_hello_late;
    shard_link_add(&p->shard, &l->shard);
    loop_timer_start(p->loop, &l->hello_timer, loop_now(p->loop) + HELLO_TIMEOUT_USEC);
    counters_add(COUNTER_links, 1);
    return l;
}

static void ended(struct process_link *l) {
    if (l->shard.kind == LINK_GATEWAY)
        service_down(&l->shard);
    if (l->shard.kind == LINK_PEER)
        peers_down(&l->shard);
    loop_timer_stop(l->process->loop, &l->hello_timer);
    shard_link_remove(&l->shard);
    free(l->told);
    gateway_frames_free(l);
    order_frames_free(l);
    free(l);
    counters_sub(COUNTER_links, 1);
}

/* ---- links that come in ---- */

static bool take_role(struct process_link *l, const Mr__Identity *who) {
    if (strcmp(who->role, "gateway") == 0) {
        l->shard.kind = LINK_GATEWAY;
        service_up(&l->shard);
    } else if (strcmp(who->role, "controller") == 0) {
        l->shard.kind = LINK_CONTROLLER;
    } else if (strcmp(who->role, "shard") == 0 && who->member) {
        peer_frames_up(l, who->member);
    } else {
        return false;
    }
    return true;
}

static void on_hello(struct process_link *l, const struct frame *frame) {
    struct process *p = l->process;
    Mr__Hello *m = frame_read_hello(l->link, frame);
    if (!m)
        return;
    if (!m->identity || strcmp(m->identity->cluster, p->config->cluster) != 0) {
        link_refuse(l->link, ERR_DENIED, "hello of cluster '%s', this shard is of '%s'",
                    m->identity ? m->identity->cluster : "", p->config->cluster);
        return;
    }
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity;
    struct hello_agreed agreed;
    struct hello offer = ours();
    identify(p, &identity);
    welcome.identity = &identity;
    l->shard.own_node = strcmp(m->identity->node, p->config->node) == 0;
    if (hello_answer(l->link, &offer, m, &welcome, &agreed) != ERR_OK)
        return;
    loop_timer_stop(p->loop, &l->hello_timer);
    if (!take_role(l, m->identity))
        link_refuse(l->link, ERR_PROTOCOL, "hello of role '%s', expected gateway, controller or shard",
                    m->identity->role);
}

static void on_ping(struct process_link *l, const struct frame *frame) {
    Mr__Ping *m = frame_read_ping(l->link, frame);
    Mr__Pong pong = MR__PONG__INIT;
    if (!m)
        return;
    pong.sent_at = m->sent_at;
    link_send(l->link, FRAME_PONG, &pong.base, NULL, 0);
}

static void pass_on(struct process_link *l, const struct frame *frame) {
    if (frame->type == FRAME_PING && l->shard.kind != LINK_NEW) {
        on_ping(l, frame);
        return;
    }
    switch (l->shard.kind) {
    case LINK_GATEWAY:
        gateway_frames_read(l, frame);
        break;
    case LINK_CONTROLLER:
        order_frames_read(l, frame);
        break;
    case LINK_PEER:
        peer_frames_read(l, frame);
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

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct process_link *l = ctx;
    if (end->cause == LINK_END_PROTOCOL || end->cause == LINK_END_OVERFLOW)
        log_warn("link from %s ended: %s", link_peer(link), end->text);
    ended(l);
}

static const struct link_handlers accepted_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct process_link *l = add(ctx, link);
    (void)listener;
    link_attach(link, &accepted_handlers, l);
}

static const struct listener_handlers listener_calls = {.accepted = on_accepted};

bool links_open(struct process *p, struct err_detail *detail) {
    char url[CONFIG_HOST_BYTES_MAX + 64];
    struct listener_options options = {.handlers = &listener_calls, .ctx = p, .link = links_options()};
    const char *bracket = strchr(p->config->listen_cluster.host, ':') ? "[" : "";
    snprintf(url, sizeof url, "tcp://%s%s%s:%u", bracket, p->config->listen_cluster.host, *bracket ? "]" : "",
             p->config->listen_cluster.port + 1 + child_index(p->child));
    p->tcp = listener_open(p->loop, url, &options, detail);
    if (!p->tcp)
        return false;
    snprintf(url, sizeof url, "ipc://%s", child_own_path(p->child));
    options.ipc_mode = IPC_MODE;
    p->ipc = listener_open(p->loop, url, &options, detail);
    return p->ipc != NULL;
}

void links_close(struct process *p) {
    if (p->tcp)
        listener_close(p->tcp);
    if (p->ipc)
        listener_close(p->ipc);
    LINKS_EACH(&p->shard, l)
    link_close(process_link_of(l)->link, ERR_CLOSED, "the shard stops");
}

void links_send_turn(struct process *p) {
    LINKS_EACH(&p->shard, l) {
        told_send(process_link_of(l));
        if (l->kind == LINK_GATEWAY)
            gateway_frames_send_turn(process_link_of(l));
        if (l->kind == LINK_CONTROLLER)
            order_frames_send_turn(process_link_of(l));
    }
}

/* ---- links to peers that this side dials ---- */

void links_greet(struct process_peer *peer, struct link *link) {
    struct process *p = peer->process;
    struct hello offer = ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    identify(p, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)p->config->node;
    peer->greeting = add(p, link);
    hello_send(link, &offer, &m);
}

static void on_welcome(struct process_peer *peer, const struct frame *frame) {
    struct process_link *l = peer->greeting;
    struct hello offer = ours();
    struct hello_agreed agreed;
    Mr__Welcome *m = frame_read_welcome(l->link, frame);
    if (!m || hello_welcomed(l->link, &offer, m, &agreed) != ERR_OK)
        return;
    loop_timer_stop(l->process->loop, &l->hello_timer);
    if (!m->identity || m->identity->member != peer->peer.member) {
        /* another disk behind that address: the metadata will say so */
        link_close(l->link, ERR_STALE, "another identity than the metadata names");
        return;
    }
    keep_settled(peer->keep);
    peer_frames_up(l, peer->peer.member);
}

void links_peer_frame(struct process_peer *peer, struct link *link, const struct frame *frame) {
    struct process_link *l = peer->greeting;
    if (!l || l->link != link)
        return;
    if (l->shard.kind == LINK_PEER)
        peer_frames_read(l, frame);
    else if (frame->type == FRAME_WELCOME)
        on_welcome(peer, frame);
    else if (frame->type != FRAME_FAIL)
        link_refuse(link, ERR_PROTOCOL, "frame type %u instead of WELCOME", frame->type);
}

void links_peer_down(struct process_peer *peer) {
    struct process_link *l = peer->greeting;
    peer->greeting = NULL;
    if (l)
        ended(l);
}

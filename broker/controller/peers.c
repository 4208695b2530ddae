// SPDX-License-Identifier: Apache-2.0
/*
 * Listeners, the hello of every link, the other controllers and heartbeats.
 *
 * Controllers dial each other both ways, so that each sees a reset and a refused
 * port for itself (a dead process is known within milliseconds); frames go on the
 * newest link. A node that joins dials whoever cluster.join names until it is in
 * the metadata.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/settings.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"
#include "wire/hello.h"

enum { IPC_MODE = 0600 };

struct link_options controller_link_options(void) {
    return (struct link_options){.frame_bytes = FRAME_BYTES_DEFAULT,
                                 .header_bytes = FRAME_HEADER_BYTES_MAX,
                                 .queued_bytes = CONTROLLER_LINK_QUEUED_BYTES};
}

static struct hello ours(void) {
    struct hello h = hello_ours();
    h.frame_bytes_max = FRAME_BYTES_DEFAULT;
    return h;
}

void links_identify(struct controller *c, Mr__Identity *out) {
    mr__identity__init(out);
    out->cluster = (char *)(uintptr_t)c->config->cluster;
    out->cluster_id = metadata_cluster_id(c->core.metadata);
    out->node = (char *)(uintptr_t)c->config->node;
    out->role = (char *)"controller";
    out->instance = child_instance(c->child);
    out->member = c->core.self;
    out->starts = c->core.starts;
}

/* ---- the table of controllers ---- */

struct peer *peers_named(struct controller *c, const char *name) {
    PEERS_EACH(c, p)
    if (strcmp(p->name, name) == 0)
        return p;
    return NULL;
}

struct peer *peers_member(struct controller *c, member_t m) {
    PEERS_EACH(c, p)
    if (m && p->member == m)
        return p;
    return NULL;
}

void peers_send(struct controller *c, member_t to, uint16_t type, const ProtobufCMessage *m,
                struct body **bodies, size_t count) {
    struct peer *p = peers_member(c, to);
    if (p && p->link)
        link_send(p->link->link, type, m, bodies, count);
}

static struct peer *peer_add(struct controller *c, const char *name) {
    struct peer *p = peers_named(c, name);
    if (p)
        return p;
    p = xcalloc(1, sizeof *p);
    p->controller = c;
    snprintf(p->name, sizeof p->name, "%s", name);
    p->next = c->peers;
    c->peers = p;
    return p;
}

/* ---- links ---- */

static void on_hello_late(struct loop_timer *timer) {
    struct peer_link *l = (struct peer_link *)((char *)timer - offsetof(struct peer_link, hello_timer));
    link_close(l->link, ERR_TIMEOUT, "no hello in time");
}

static struct peer_link *link_add(struct controller *c, struct link *link) {
    struct peer_link *l = xcalloc(1, sizeof *l);
    *l = (struct peer_link){.controller = c, .link = link, .id = c->next_link++};
    l->hello_timer.fire = on_hello_late;
    l->next = c->links;
    if (c->links)
        c->links->previous = l;
    c->links = l;
    loop_timer_start(c->loop, &l->hello_timer, loop_now(c->loop) + HELLO_TIMEOUT_USEC);
    return l;
}

static void link_remove(struct peer_link *l) {
    loop_timer_stop(l->controller->loop, &l->hello_timer);
    if (l->previous)
        l->previous->next = l->next;
    else
        l->controller->links = l->next;
    if (l->next)
        l->next->previous = l->previous;
    free(l);
}

static uint32_t node_of(struct controller *c, const struct peer *p) {
    const struct metadata_node *n = metadata_node_named(c->core.metadata, p->name);
    return n ? n->id : 0;
}

static void heard(struct peer_link *l) {
    struct controller *c = l->controller;
    uint32_t node = l->peer ? node_of(c, l->peer) : 0;
    if (node)
        detector_heard(c->core.detector, node, DETECTOR_CONTROLLER, loop_now(c->loop), &c->core.detected);
    if (c->core.detected.count)
        group_detected(&c->core);
}

static void controller_up(struct peer_link *l, const Mr__Identity *who) {
    struct controller *c = l->controller;
    l->kind = LINK_CONTROLLER;
    l->peer = peer_add(c, who->node);
    l->peer->member = who->member;
    l->peer->link = l;
    heard(l);
    group_peer_up(&c->core, who->member);
    forming_peer_up(c, l);
}

static struct peer_link *other_link(const struct peer_link *gone) {
    LINKS_EACH(gone->controller, l)
    if (l != gone && l->peer == gone->peer && l->kind == LINK_CONTROLLER)
        return l;
    return NULL;
}

static void link_ended(struct peer_link *l) {
    struct controller *c = l->controller;
    struct peer *p = l->peer;
    if (p && p->link == l) {
        p->link = other_link(l);
        if (p->link)
            group_peer_up(&c->core, p->member); /* what was in flight on the other is gone */
        else
            group_peer_down(&c->core, p->member, false);
    }
    link_remove(l);
}

static bool cluster_fits(struct peer_link *l, const Mr__Identity *who) {
    struct controller *c = l->controller;
    uint64_t own = metadata_cluster_id(c->core.metadata);
    if (!who || strcmp(who->cluster, c->config->cluster) != 0) {
        link_refuse(l->link, ERR_DENIED, "hello of cluster '%s', this node is of '%s'",
                    who ? who->cluster : "", c->config->cluster);
        return false;
    }
    if (own && who->cluster_id && who->cluster_id != own) {
        link_refuse(l->link, ERR_DENIED, "node %s belongs to another cluster of the same name", who->node);
        return false;
    }
    return true;
}

static void on_hello(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    Mr__Hello *m = frame_read_hello(l->link, frame);
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity;
    struct hello_agreed agreed;
    struct hello offer = ours();
    if (!m || !cluster_fits(l, m->identity))
        return;
    links_identify(c, &identity);
    welcome.identity = &identity;
    if (hello_answer(l->link, &offer, m, &welcome, &agreed) != ERR_OK)
        return;
    loop_timer_stop(c->loop, &l->hello_timer);
    if (strcmp(m->identity->role, "controller") == 0 && m->identity->member &&
        m->identity->member != c->core.self) {
        controller_up(l, m->identity);
    } else if (strcmp(m->identity->role, "gateway") == 0 && strcmp(m->identity->node, c->config->node) == 0) {
        l->kind = LINK_GATEWAY;
        status_map(l);
    } else {
        link_refuse(l->link, ERR_PROTOCOL,
                    "hello of role '%s' of node %s: expected a controller or this node's gateway",
                    m->identity->role, m->identity->node);
    }
}

static void on_welcome(struct peer_link *l, const struct frame *frame) {
    Mr__Welcome *m = frame_read_welcome(l->link, frame);
    struct hello_agreed agreed;
    struct hello offer = ours();
    if (!m || !cluster_fits(l, m->identity) || hello_welcomed(l->link, &offer, m, &agreed) != ERR_OK)
        return;
    loop_timer_stop(l->controller->loop, &l->hello_timer);
    if (m->identity->member == l->controller->core.self)
        link_close(l->link, ERR_INVALID, "this address is this node's own");
    else
        controller_up(l, m->identity);
}

/* ---- heartbeats ---- */

void heartbeat_clear(Mr__Heartbeat *m) {
    for (size_t i = 0; i < m->n_processes; i++)
        free(m->processes[i]);
    for (size_t i = 0; i < m->n_shards; i++)
        free(m->shards[i]);
    free(m->processes);
    free(m->shards);
}

static void fill_processes(const struct board_view *board, Mr__Heartbeat *m) {
    m->processes = xcalloc(board->processes_count, sizeof *m->processes);
    for (uint32_t i = 0; i < board->processes_count; i++) {
        const struct board_process *b = &board->processes[i];
        Mr__ProcessState *p = xmalloc(sizeof *p);
        mr__process_state__init(p);
        p->role = (char *)(uintptr_t)b->role;
        p->index = b->index;
        p->pid = b->pid;
        p->state = (char *)(uintptr_t)b->state;
        p->restarts = b->restarts;
        p->instance = b->instance;
        p->version = (char *)(uintptr_t)b->version;
        m->processes[m->n_processes++] = p;
    }
}

/* Strings point into `board`, which must live as long as the message. */
static struct board_view own_board;

void heartbeat_fill(struct controller *c, Mr__Heartbeat *m) {
    mr__heartbeat__init(m);
    m->node = (char *)(uintptr_t)c->config->node;
    m->sequence = ++c->heartbeat_sequence;
    m->sent_at = loop_now(c->loop);
    m->applied = metadata_index(c->core.metadata);
    m->client_address = (char *)(uintptr_t)c->config->listen_client.text;
    m->admin_address = (char *)(uintptr_t)c->config->listen_admin.text;
    m->term = election_leading(c->core.election) ? replica_epoch(c->core.replica) : 0;
    if (child_board(c->child, &own_board))
        fill_processes(&own_board, m);
    m->shards = xcalloc(c->config->shards, sizeof *m->shards);
    SHARDS_EACH(c, s) {
        if (!s->own || m->n_shards == c->config->shards)
            continue;
        Mr__ShardLoad *load = xmalloc(sizeof *load);
        mr__shard_load__init(load);
        load->member = s->member;
        load->leaders = s->leaders;
        load->backlog_messages = s->backlog;
        m->shards[m->n_shards++] = load;
    }
}

/* To all at each interval; out of turn when newly applied metadata lets somebody
 * who waits for it go on (requests.c). */
void peers_heartbeat(struct controller *c, bool only_if_applied) {
    if (only_if_applied && metadata_index(c->core.metadata) == c->applied_sent)
        return;
    c->applied_sent = metadata_index(c->core.metadata);
    Mr__Heartbeat m;
    heartbeat_fill(c, &m);
    PEERS_EACH(c, p) {
        if (!p->link)
            continue;
        link_send(p->link->link, FRAME_HEARTBEAT, &m.base, NULL, 0);
        counters_add(COUNTER_heartbeats_out, 1);
    }
    heartbeat_clear(&m);
}

static void keep_heartbeat(struct peer *p, const struct frame *frame) {
    if (p->heartbeat)
        mr__heartbeat__free_unpacked(p->heartbeat, NULL);
    p->heartbeat = mr__heartbeat__unpack(NULL, frame->header_size, frame->header);
}

static void on_heartbeat(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    Mr__Heartbeat *m = frame_read_heartbeat(l->link, frame);
    Mr__HeartbeatSeen seen = MR__HEARTBEAT_SEEN__INIT;
    if (!m)
        return;
    keep_heartbeat(l->peer, frame);
    l->peer->applied = m->applied;
    counters_add(COUNTER_heartbeats_in, 1);
    if (m->term)
        election_heard(c->core.election, l->peer->member, m->term, loop_now(c->loop));
    for (size_t i = 0; c->core.leads && i < m->n_shards; i++)
        control_load(c->core.control, m->shards[i]->member, m->shards[i]->backlog_messages);
    seen.sequence = m->sequence;
    seen.sent_at = m->sent_at;
    link_send(l->link, FRAME_HEARTBEAT_SEEN, &seen.base, NULL, 0);
    requests_go(c);
    requests_tick(c);
}

static void on_heartbeat_seen(struct peer_link *l, const struct frame *frame) {
    Mr__HeartbeatSeen *m = frame_read_heartbeat_seen(l->link, frame);
    if (m)
        election_seen(l->controller->core.election, l->peer->member, m->sent_at);
}

/* ---- frames ---- */

static void controller_frame(struct peer_link *l, const struct frame *frame) {
    heard(l);
    if (frame->type == FRAME_HEARTBEAT)
        on_heartbeat(l, frame);
    else if (frame->type == FRAME_HEARTBEAT_SEEN)
        on_heartbeat_seen(l, frame);
    else if (!group_frame(l, frame) && !forming_frame(l, frame) && !requests_frame(l, frame))
        link_refuse(l->link, ERR_PROTOCOL, "frame type %s: not one a controller sends to a controller",
                    frame_name(frame->type));
}

static void pass_on(struct peer_link *l, const struct frame *frame) {
    if (l->kind == LINK_CONTROLLER)
        controller_frame(l, frame);
    else if (l->kind == LINK_GATEWAY)
        requests_gateway(l, frame);
    else if (frame->type == FRAME_HELLO && !l->dialled)
        on_hello(l, frame);
    else if (frame->type == FRAME_WELCOME && l->dialled)
        on_welcome(l, frame);
    else if (frame->type != FRAME_FAIL)
        link_refuse(l->link, ERR_PROTOCOL, "frame type %s instead of a hello", frame_name(frame->type));
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    (void)link;
    pass_on(ctx, frame);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    if (end->cause == LINK_END_PROTOCOL || end->cause == LINK_END_OVERFLOW)
        log_warn("link from %s ended: %s", link_peer(link), end->text);
    link_ended(ctx);
}

static const struct link_handlers accepted_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    (void)listener;
    link_attach(link, &accepted_handlers, link_add(ctx, link));
}

static const struct listener_handlers listener_calls = {.accepted = on_accepted};

bool controller_listen(struct controller *c, struct err_detail *detail) {
    char url[CONFIG_HOST_BYTES_MAX + 64];
    struct listener_options options = {
        .handlers = &listener_calls, .ctx = c, .link = controller_link_options()};
    snprintf(url, sizeof url, "tcp://%s", c->config->listen_cluster.text);
    c->tcp = listener_open(c->loop, url, &options, detail);
    if (!c->tcp)
        return false;
    snprintf(url, sizeof url, "ipc://%s", child_own_path(c->child));
    options.ipc_mode = IPC_MODE;
    c->ipc = listener_open(c->loop, url, &options, detail);
    return c->ipc != NULL;
}

/* ---- dialled links ---- */

static struct peer_link *dialled_link(struct controller *c, const struct link *link) {
    LINKS_EACH(c, l)
    if (l->link == link)
        return l;
    return NULL;
}

static void on_keep_up(void *ctx, struct keep *keep, struct link *link) {
    struct peer *p = ctx;
    struct controller *c = p->controller;
    struct peer_link *l = link_add(c, link);
    struct hello offer = ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    l->dialled = true;
    l->dial_peer = p;
    links_identify(c, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)c->config->node;
    hello_send(link, &offer, &m);
    keep_settled(keep);
}

static void on_keep_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct peer *p = ctx;
    struct peer_link *l = dialled_link(p->controller, link);
    if (l)
        pass_on(l, frame);
}

/* Reset, and now refused: the process is gone. */
static void peer_refused(struct peer *p) {
    struct controller *c = p->controller;
    uint32_t node = node_of(c, p);
    if (p->link)
        return;
    if (node) {
        detector_gone(c->core.detector, node, DETECTOR_CONTROLLER, loop_now(c->loop), &c->core.detected);
        group_detected(&c->core);
    }
    if (p->member)
        group_peer_down(&c->core, p->member, true);
}

static void on_keep_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct peer *p = ctx;
    struct controller *c = p->controller;
    (void)keep;
    if (was_up) {
        LINKS_EACH(c, l)
        if (l->dialled && l->dial_peer == p)
            link_ended(l);
    } else if (end->cause == LINK_END_REFUSED) {
        peer_refused(p);
    }
}

static const struct keep_handlers keep_calls = {
    .up = on_keep_up, .frame = on_keep_frame, .down = on_keep_down};

static void dial(struct peer *p) {
    char url[NODE_ADDRESS_BYTES_MAX + 8];
    struct err_detail detail;
    struct keep_options options = {
        .handlers = &keep_calls, .ctx = p, .link = controller_link_options(), .retry_max = 200 * USEC_MS};
    snprintf(url, sizeof url, "tcp://%s", p->address);
    if (p->keep)
        keep_redirect(p->keep, url, NULL);
    else if (!(p->keep = keep_new(p->controller->loop, url, &options, &detail)))
        log_error("node %s: %s", p->name, detail.text);
}

void peers_know(struct controller *c, const char *name, const char *address) {
    if (strcmp(name, c->config->node) == 0)
        return;
    struct peer *p = peer_add(c, name);
    if (strcmp(p->address, address) == 0)
        return;
    snprintf(p->address, sizeof p->address, "%s", address);
    dial(p);
}

static void watch_node(struct controller *c, const struct metadata_node *n) {
    struct peer *p;
    if (n->state == NODE_LEFT) {
        detector_forget_node(c->core.detector, n->id);
        return;
    }
    peers_know(c, n->info.name, n->info.cluster_address);
    detector_watch(c->core.detector, n->id, DETECTOR_CONTROLLER, n->info.controller, loop_now(c->loop));
    for (uint32_t i = 0; i < n->info.shards_count; i++)
        detector_watch(c->core.detector, n->id, (int)i, n->info.shards[i], loop_now(c->loop));
    if ((p = peers_named(c, n->info.name)) && p->link)
        heard(p->link);
}

void peers_hear_self(struct controller *c) {
    const struct metadata_node *own = metadata_node_named(c->core.metadata, c->config->node);
    if (own)
        detector_heard(c->core.detector, own->id, DETECTOR_CONTROLLER, loop_now(c->loop), &c->core.detected);
}

/* Everybody the metadata knows, or the configuration while there is none. */
void peers_refresh(struct controller *c) {
    for (size_t i = 0; !metadata_cluster_id(c->core.metadata) && i < c->config->initial_count; i++)
        peers_know(c, c->config->initial[i].name, c->config->initial[i].address.text);
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        watch_node(c, metadata_node_at(c->core.metadata, i));
    peers_hear_self(c);
}

void controller_hang_up(struct controller *c) {
    if (c->tcp)
        listener_close(c->tcp);
    if (c->ipc)
        listener_close(c->ipc);
    for (struct peer *p = c->peers, *next; p; p = next) {
        next = p->next;
        if (p->keep)
            keep_free(p->keep);
        p->link = NULL;
        p->keep = NULL;
    }
    LINKS_EACH(c, l) {
        if (l->dialled)
            link_remove(l); /* keep_free ended it; no handler comes any more */
        else
            link_close(l->link, ERR_CLOSED, "the controller stops");
    }
}

void peers_unknow(struct controller *c, const char *name) {
    struct peer *p = peers_named(c, name);
    if (!p || !p->keep)
        return;
    LINKS_EACH(c, l)
    if (l->dialled && l->dial_peer == p)
        link_ended(l);
    keep_free(p->keep);
    p->keep = NULL;
}

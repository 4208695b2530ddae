// SPDX-License-Identifier: Apache-2.0
/*
 * Listeners, the hello of every link, links of controllers, heartbeats.
 *
 * Controllers dial each other both ways, so that each sees a reset and a refused
 * port for itself (a dead process is known within milliseconds); frames go on the
 * newest link.
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

/* ---- the process's side of controllers ---- */

struct remote *links_remote(struct controller *c, struct peer *p) {
    if (!p->user) {
        struct remote *r = xcalloc(1, sizeof *r);
        *r = (struct remote){.controller = c, .peer = p};
        p->user = r;
    }
    return p->user;
}

struct peer_link *links_by_id(struct controller *c, uint64_t id) {
    LINKS_EACH(c, l)
    if (l->id == id)
        return l;
    return NULL;
}

void links_send(struct controller *c, member_t to, uint16_t type, const ProtobufCMessage *m,
                struct body **bodies, size_t count) {
    struct peer *p = controllers_member(&c->core, to);
    if (p && p->up)
        link_send(links_remote(c, p)->link->link, type, m, bodies, count);
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

static void controller_up(struct peer_link *l, const Mr__Identity *who) {
    struct controller *c = l->controller;
    struct peer *p = controllers_add(&c->core, who->node);
    l->kind = LINK_CONTROLLER;
    l->remote = links_remote(c, p);
    l->remote->link = l;
    controllers_up(&c->core, p, who->member);
}

static struct peer_link *other_link(const struct peer_link *gone) {
    LINKS_EACH(gone->controller, l)
    if (l != gone && l->remote == gone->remote && l->kind == LINK_CONTROLLER)
        return l;
    return NULL;
}

static void link_ended(struct peer_link *l) {
    struct controller *c = l->controller;
    struct remote *r = l->remote;
    uint64_t id = l->id;
    if (r && r->link == l) {
        r->link = other_link(l);
        if (r->link)
            controllers_relinked(&c->core, r->peer);
        else
            controllers_down(&c->core, r->peer);
    }
    link_remove(l);
    requests_link_gone(&c->core, id);
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

void heartbeat_fill(struct controller *c, const struct beat *b, Mr__Heartbeat *m) {
    mr__heartbeat__init(m);
    m->node = (char *)(uintptr_t)c->config->node;
    m->sequence = ++c->heartbeat_sequence;
    m->sent_at = b->sent_at;
    m->applied = b->applied;
    m->client_address = (char *)(uintptr_t)c->config->listen_client.text;
    m->admin_address = (char *)(uintptr_t)c->config->listen_admin.text;
    m->term = b->term;
    if (child_board(c->child, &own_board))
        fill_processes(&own_board, m);
    m->shards = xcalloc(c->config->shards, sizeof *m->shards);
    CORE_SHARDS_EACH(&c->core, s) {
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

void links_heartbeat(struct controller *c, const struct beat *b) {
    Mr__Heartbeat m;
    heartbeat_fill(c, b, &m);
    CORE_PEERS_EACH(&c->core, p) {
        if (!p->up)
            continue;
        link_send(links_remote(c, p)->link->link, FRAME_HEARTBEAT, &m.base, NULL, 0);
        counters_add(COUNTER_heartbeats_out, 1);
    }
    heartbeat_clear(&m);
}

static void keep_heartbeat(struct remote *r, const struct frame *frame) {
    if (r->heartbeat)
        mr__heartbeat__free_unpacked(r->heartbeat, NULL);
    r->heartbeat = mr__heartbeat__unpack(NULL, frame->header_size, frame->header);
}

static void on_heartbeat(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    Mr__Heartbeat *m = frame_read_heartbeat(l->link, frame);
    Mr__HeartbeatSeen seen = MR__HEARTBEAT_SEEN__INIT;
    if (!m)
        return;
    keep_heartbeat(l->remote, frame);
    counters_add(COUNTER_heartbeats_in, 1);
    for (size_t i = 0; i < m->n_shards; i++)
        controllers_on_load(&c->core, m->shards[i]->member, m->shards[i]->backlog_messages);
    seen.sequence = m->sequence;
    seen.sent_at = m->sent_at;
    link_send(l->link, FRAME_HEARTBEAT_SEEN, &seen.base, NULL, 0);
    controllers_on_beat(&c->core, l->remote->peer, &(struct beat){.applied = m->applied, .term = m->term});
}

static void on_heartbeat_seen(struct peer_link *l, const struct frame *frame) {
    Mr__HeartbeatSeen *m = frame_read_heartbeat_seen(l->link, frame);
    if (m)
        controllers_on_beat_seen(&l->controller->core, l->remote->peer, m->sent_at);
}

/* ---- frames ---- */

static void controller_frame(struct peer_link *l, const struct frame *frame) {
    controllers_heard(&l->controller->core, l->remote->peer);
    if (frame->type == FRAME_HEARTBEAT)
        on_heartbeat(l, frame);
    else if (frame->type == FRAME_HEARTBEAT_SEEN)
        on_heartbeat_seen(l, frame);
    else if (!group_frame(l, frame) && !introductions_frame(l, frame) && !admin_frame(l, frame))
        link_refuse(l->link, ERR_PROTOCOL, "frame type %s: not one a controller sends to a controller",
                    frame_name(frame->type));
}

static void pass_on(struct peer_link *l, const struct frame *frame) {
    if (l->kind == LINK_CONTROLLER)
        controller_frame(l, frame);
    else if (l->kind == LINK_GATEWAY)
        admin_gateway(l, frame);
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

bool links_listen(struct controller *c, struct err_detail *detail) {
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
    struct remote *r = ctx;
    struct controller *c = r->controller;
    struct peer_link *l = link_add(c, link);
    struct hello offer = ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    l->dialled = true;
    l->dialled_as = r;
    links_identify(c, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)c->config->node;
    hello_send(link, &offer, &m);
    keep_settled(keep);
}

static void on_keep_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct remote *r = ctx;
    struct peer_link *l = dialled_link(r->controller, link);
    if (l)
        pass_on(l, frame);
}

static void end_dialled(struct remote *r) {
    LINKS_EACH(r->controller, l)
    if (l->dialled && l->dialled_as == r)
        link_ended(l);
}

static void on_keep_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct remote *r = ctx;
    (void)keep;
    if (was_up)
        end_dialled(r);
    else if (end->cause == LINK_END_REFUSED)
        controllers_refused(&r->controller->core, r->peer);
}

static const struct keep_handlers keep_calls = {
    .up = on_keep_up, .frame = on_keep_frame, .down = on_keep_down};

void links_dial(struct controller *c, struct peer *p) {
    char url[NODE_ADDRESS_BYTES_MAX + 8];
    struct err_detail detail;
    struct remote *r = links_remote(c, p);
    struct keep_options options = {
        .handlers = &keep_calls, .ctx = r, .link = controller_link_options(), .retry_max = 200 * USEC_MS};
    snprintf(url, sizeof url, "tcp://%s", p->address);
    if (r->keep)
        keep_redirect(r->keep, url, NULL);
    else if (!(r->keep = keep_new(c->loop, url, &options, &detail)))
        log_error("node %s: %s", p->name, detail.text);
}

void links_stop_dialling(struct controller *c, struct peer *p) {
    struct remote *r = links_remote(c, p);
    if (!r->keep)
        return;
    end_dialled(r);
    keep_free(r->keep);
    r->keep = NULL;
}

void links_hang_up(struct controller *c) {
    if (c->tcp)
        listener_close(c->tcp);
    if (c->ipc)
        listener_close(c->ipc);
    CORE_PEERS_EACH(&c->core, p) {
        struct remote *r = links_remote(c, p);
        if (r->keep)
            keep_free(r->keep);
        if (r->heartbeat)
            mr__heartbeat__free_unpacked(r->heartbeat, NULL);
        *r = (struct remote){.controller = c, .peer = p};
        p->up = false;
    }
    LINKS_EACH(c, l) {
        if (l->dialled)
            link_remove(l); /* keep_free ended it; no handler comes any more */
        else
            link_close(l->link, ERR_CLOSED, "the controller stops");
    }
}

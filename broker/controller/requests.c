// SPDX-License-Identifier: Apache-2.0
/*
 * Administration: requests of this node's gateway, and proposals that other
 * controllers pass on, until they are answered.
 *
 * A request waits until somebody leads the metadata group, is proposed here or
 * passed on to the leader, and asked again when the leader goes. What changes the
 * metadata is idempotent enough for that: created twice is created once. The
 * leading controller answers a change when every live node has applied it (or
 * after CONTROLLER_VISIBLE_US), so that what is created here can be used there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"

#define REQUEST_TIMEOUT_DEFAULT_US (10 * USEC_S)

static struct peer_link *link_of(struct controller *c, uint64_t id) {
    LINKS_EACH(c, l)
    if (l->id == id)
        return l;
    return NULL;
}

static void unlink_request(struct controller *c, struct request *r) {
    for (struct request **at = &c->requests; *at; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    body_drop(r->command);
    free(r);
}

static void answer(struct controller *c, struct request *r, enum err code, const char *text) {
    struct peer_link *l = link_of(c, r->link);
    if (l && r->from == FROM_GATEWAY) {
        status_respond(l, r->number, code, text);
    } else if (l && r->from == FROM_CONTROLLER) {
        Mr__Proposed m = MR__PROPOSED__INIT;
        m.request = r->number;
        m.code = code;
        m.text = (char *)(uintptr_t)text;
        m.index = r->visible_index;
        link_send(l->link, FRAME_PROPOSED, &m.base, NULL, 0);
    } else if (r->from == FROM_SELF && code != ERR_OK) {
        log_warn("a change of a node was refused: %s", text[0] ? text : err_text(code));
    }
    unlink_request(c, r);
}

/* ---- here, at the leading controller ---- */

static void recover_here(struct controller *c, struct request *r) {
    struct err_detail detail = {0};
    enum err err = control_recover(c->core.control, r->recover_mailbox, r->recover_node, loop_now(c->loop),
                                   &c->core.control_effects, &detail);
    answer(c, r, err, err == ERR_OK ? "" : detail.text);
}

static void propose_here(struct controller *c, struct request *r) {
    struct command command;
    struct err_detail detail = {0};
    if (!r->command) {
        recover_here(c, r);
        return;
    }
    if (!command_decode(r->command->data, r->command->size, &command)) {
        answer(c, r, ERR_INVALID, "a command this release does not know");
        return;
    }
    enum err err = control_prepare(c->core.control, &command, &detail);
    struct encoder e = {0};
    if (err == ERR_OK)
        command_encode(&command, &e);
    command_free(&command);
    if (err != ERR_OK) {
        answer(c, r, err, detail.text);
        return;
    }
    struct body *body = encoder_body(&e);
    err = group_propose(&c->core, body, &r->index);
    body_drop(body);
    r->proposed = err == ERR_OK;
}

/* ---- there ---- */

static void pass_on(struct controller *c, struct request *r) {
    struct peer *p = peers_member(c, election_leader(c->core.election));
    if (!p || !p->link || r->from == FROM_CONTROLLER)
        return; /* a proposal is passed on once: its asker asks the next leader */
    Mr__Propose m = MR__PROPOSE__INIT;
    m.request = r->own_number = c->next_request++;
    m.deadline_us = r->deadline - loop_now(c->loop);
    if (r->command)
        m.command = (ProtobufCBinaryData){r->command->size, r->command->data};
    m.recover_mailbox = r->recover_mailbox;
    m.recover_node = r->recover_node;
    r->forwarded = link_send(p->link->link, FRAME_PROPOSE, &m.base, NULL, 0) == ERR_OK;
    r->forwarded_to = p->link->id;
}

static void go(struct controller *c, struct request *r) {
    if (r->proposed || r->applied || r->forwarded)
        return;
    if (c->core.leads && election_proposable(c->core.election))
        propose_here(c, r);
    else if (r->from == FROM_CONTROLLER)
        answer(c, r, ERR_NOT_LEADER, "not the leading controller");
    else
        pass_on(c, r);
}

void requests_go(struct controller *c) {
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        go(c, r);
    }
    group_run(&c->core);
}

static struct request *add(struct controller *c, enum request_from from, uint64_t link, uint64_t number,
                           int64_t deadline) {
    struct request *r = xcalloc(1, sizeof *r);
    if (deadline <= 0)
        deadline = REQUEST_TIMEOUT_DEFAULT_US;
    *r = (struct request){
        .from = from, .link = link, .number = number, .deadline = loop_now(c->loop) + deadline};
    struct request **at = &c->requests;
    while (*at)
        at = &(*at)->next;
    *at = r;
    return r;
}

static bool full(struct controller *c) {
    unsigned n = 0;
    for (struct request *r = c->requests; r; r = r->next)
        n++;
    return n >= CONTROLLER_REQUESTS_MAX;
}

/* ---- a command's life after it was proposed ---- */

static bool visible(struct controller *c, const struct request *r) {
    if (metadata_index(c->core.metadata) < r->visible_index)
        return false;
    PEERS_EACH(c, p)
    if (p->link && metadata_node_named(c->core.metadata, p->name) && p->applied < r->visible_index)
        return false;
    return true;
}

static void answer_visible(struct controller *c) {
    usec_t now = loop_now(c->loop);
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        if (r->applied && (r->result.code != ERR_OK || now >= r->visible_by || visible(c, r)))
            answer(c, r, r->result.code, r->result.text);
    }
}

void requests_applied(struct controller *c, uint64_t index, const struct metadata_result *result) {
    for (struct request *r = c->requests; r; r = r->next) {
        if (!r->proposed || r->applied || r->index != index)
            continue;
        r->applied = true;
        r->result = *result;
        r->visible_index = index;
        r->visible_by = loop_now(c->loop) + CONTROLLER_VISIBLE_US;
    }
    answer_visible(c);
}

void requests_lost(struct controller *c) {
    for (struct request *r = c->requests; r; r = r->next)
        r->proposed = r->proposed && r->applied;
}

static void expire(struct controller *c) {
    usec_t now = loop_now(c->loop);
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        if (r->forwarded && !link_of(c, r->forwarded_to))
            r->forwarded = false; /* the leader it was passed to is gone */
        if (now >= r->deadline)
            answer(c, r, ERR_TIMEOUT,
                   metadata_cluster_id(c->core.metadata)
                       ? "no controller led the metadata group in time"
                       : "the cluster has not formed: not all nodes of `initial` are there");
    }
}

void requests_tick(struct controller *c) {
    answer_visible(c);
    expire(c);
    requests_go(c);
}

static void on_proposed(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    Mr__Proposed *m = frame_read_proposed(l->link, frame);
    for (struct request *r = c->requests; m && r; r = r->next) {
        if (!r->forwarded || r->own_number != m->request)
            continue;
        if (m->code == ERR_NOT_LEADER) {
            r->forwarded = false;
            return;
        }
        r->applied = true;
        r->result.code = m->code;
        snprintf(r->result.text, sizeof r->result.text, "%s", m->text);
        r->visible_index = m->index;
        r->visible_by = loop_now(c->loop) + CONTROLLER_VISIBLE_US;
        break;
    }
    answer_visible(c);
}

static void on_propose(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    Mr__Propose *m = frame_read_propose(l->link, frame);
    if (!m)
        return;
    struct request *r = add(c, FROM_CONTROLLER, l->id, m->request, m->deadline_us);
    if (m->command.len)
        r->command = body_copy(m->command.data, m->command.len);
    snprintf(r->recover_mailbox, sizeof r->recover_mailbox, "%s", m->recover_mailbox);
    snprintf(r->recover_node, sizeof r->recover_node, "%s", m->recover_node);
    go(c, r);
    group_run(&c->core);
}

bool requests_frame(struct peer_link *l, const struct frame *frame) {
    if (frame->type == FRAME_PROPOSE)
        on_propose(l, frame);
    else if (frame->type == FRAME_PROPOSED)
        on_proposed(l, frame);
    else
        return false;
    return true;
}

/* ---- changes of nodes ---- */

static bool under_way(struct controller *c, const struct body *command) {
    for (struct request *r = c->requests; r; r = r->next)
        if (r->from == FROM_SELF && r->command && r->command->size == command->size &&
            memcmp(r->command->data, command->data, command->size) == 0)
            return true;
    return false;
}

void requests_node_set(struct controller *c, const struct node_info *info) {
    struct command command = {.type = COMMAND_NODE_SET, .node = *info};
    struct encoder e = {0};
    command_encode(&command, &e);
    struct body *body = encoder_body(&e);
    if (!under_way(c, body)) {
        struct request *r = add(c, FROM_SELF, 0, 0, 0);
        r->command = body_keep(body);
        go(c, r);
        group_run(&c->core);
    }
    body_drop(body);
}

/* ---- the gateway's requests ---- */

static void settings_of(const Mr__Settings *in, struct mailbox_settings *out) {
    settings_default(out);
    if (!in)
        return;
    out->partitions = in->partitions;
    out->replicas = in->replicas;
    out->durability = in->durability;
    out->route = in->route;
    out->dispatch = in->dispatch;
    out->overflow = in->overflow;
    out->no_default = in->no_default;
    out->max_messages = in->max_messages;
    out->max_bytes = in->max_bytes;
    out->ttl = in->ttl_us;
    out->max_deliveries = in->max_deliveries;
    snprintf(out->dead_letter, sizeof out->dead_letter, "%s", in->dead_letter);
    out->ack_timeout = in->ack_timeout_us;
    out->retain_time = in->retain_us;
    out->retain_bytes = in->retain_bytes;
}

static bool settings_known(const Mr__Settings *s) {
    return !s || (s->durability <= DURABILITY_NONE && s->route <= ROUTE_KEY &&
                  s->dispatch <= DISPATCH_EXCLUSIVE && s->overflow <= OVERFLOW_DROP_OLDEST &&
                  s->ttl_us >= 0 && s->ack_timeout_us >= 0 && s->retain_us >= 0);
}

static bool name_fits(const char *name, char *out) {
    if (strlen(name) > NAME_BYTES_MAX)
        return false;
    name_copy(out, name);
    return true;
}

/* False: not a command, or one whose fields make no sense; *detail says which. */
static bool command_of(const Mr__Request *m, struct command *out, struct err_detail *detail) {
    bool fits = true;
    err_set(detail, ERR_INVALID, "a name of more than %d bytes, or a setting out of range", NAME_BYTES_MAX);
    switch (m->what_case) {
    case MR__REQUEST__WHAT_MAILBOX_CREATE:
        out->type = COMMAND_MAILBOX_CREATE;
        fits = name_fits(m->mailbox_create->name, out->mailbox_create.name) &&
               settings_known(m->mailbox_create->settings);
        settings_of(m->mailbox_create->settings, &out->mailbox_create.settings);
        break;
    case MR__REQUEST__WHAT_MAILBOX_UPDATE:
        out->type = COMMAND_MAILBOX_UPDATE;
        fits = name_fits(m->mailbox_update->name, out->mailbox_update.name) &&
               settings_known(m->mailbox_update->settings);
        out->mailbox_update.fields = m->mailbox_update->fields;
        settings_of(m->mailbox_update->settings, &out->mailbox_update.settings);
        break;
    case MR__REQUEST__WHAT_MAILBOX_DELETE:
        out->type = COMMAND_MAILBOX_DELETE;
        fits = name_fits(m->mailbox_delete->name, out->mailbox.name);
        break;
    case MR__REQUEST__WHAT_SUBSCRIPTION_CREATE:
        out->type = COMMAND_SUBSCRIPTION_CREATE;
        fits = name_fits(m->subscription_create->mailbox, out->subscription.mailbox) &&
               name_fits(m->subscription_create->name, out->subscription.name);
        out->subscription.from = m->subscription_create->from;
        out->subscription.value = m->subscription_create->value;
        break;
    case MR__REQUEST__WHAT_SUBSCRIPTION_DELETE:
        out->type = COMMAND_SUBSCRIPTION_DELETE;
        fits = name_fits(m->subscription_delete->mailbox, out->subscription.mailbox) &&
               name_fits(m->subscription_delete->name, out->subscription.name);
        break;
    default:
        err_set(detail, ERR_INVALID, "a request this release does not know");
        return false;
    }
    return fits;
}

static void on_change(struct peer_link *l, const Mr__Request *m) {
    struct controller *c = l->controller;
    struct command command = {0};
    struct err_detail detail;
    if (!command_of(m, &command, &detail)) {
        status_respond(l, m->request, detail.code, detail.text);
        return;
    }
    struct encoder e = {0};
    command_encode(&command, &e);
    struct request *r = add(c, FROM_GATEWAY, l->id, m->request, m->deadline_us);
    r->command = encoder_body(&e);
    go(c, r);
    group_run(&c->core);
}

static void on_recover(struct peer_link *l, const Mr__Request *m) {
    struct controller *c = l->controller;
    struct request *r = add(c, FROM_GATEWAY, l->id, m->request, m->deadline_us);
    snprintf(r->recover_mailbox, sizeof r->recover_mailbox, "%s", m->mailbox_recover->name);
    snprintf(r->recover_node, sizeof r->recover_node, "%s", m->mailbox_recover->node);
    go(c, r);
    group_run(&c->core);
}

static void on_request(struct peer_link *l, const Mr__Request *m) {
    if (full(l->controller)) {
        status_respond(l, m->request, ERR_BUSY, "too many administration requests under way");
        return;
    }
    switch (m->what_case) {
    case MR__REQUEST__WHAT_CLUSTER_STATUS:
        status_cluster(l, m->request);
        break;
    case MR__REQUEST__WHAT_MAILBOX_LIST:
        status_mailboxes(l, m->request);
        break;
    case MR__REQUEST__WHAT_SUBSCRIPTION_LIST:
        status_subscriptions(l, m->request, m->subscription_list->name);
        break;
    case MR__REQUEST__WHAT_MAILBOX_RECOVER:
        on_recover(l, m);
        break;
    default:
        on_change(l, m);
    }
}

void requests_gateway(struct peer_link *l, const struct frame *frame) {
    Mr__Request *m = frame->type == FRAME_REQUEST ? frame_read_request(l->link, frame) : NULL;
    if (m)
        on_request(l, m);
    else
        link_refuse(l->link, ERR_PROTOCOL, "frame type %s: a gateway sends a controller only REQUEST",
                    frame_name(frame->type));
}

void requests_close(struct controller *c) {
    while (c->requests)
        answer(c, c->requests, ERR_UNAVAILABLE, "this node's controller stops");
}

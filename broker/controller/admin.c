// SPDX-License-Identifier: Apache-2.0
/*
 * Administration's frames: requests of this node's gateway, and those that
 * controllers pass on to the leading one. Their life in between: requests.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/body.h"
#include "base/settings.h"
#include "controller/controller_private.h"

/* ---- between controllers ---- */

uint64_t admin_pass_on(struct controller *c, struct peer *p, const struct request *r, usec_t deadline) {
    struct peer_link *l = links_remote(c, p)->link;
    Mr__Propose m = MR__PROPOSE__INIT;
    m.request = r->own_number;
    m.deadline_us = deadline;
    if (r->command)
        m.command = (ProtobufCBinaryData){r->command->size, r->command->data};
    m.recover_mailbox = (char *)(uintptr_t)r->recover_mailbox;
    m.recover_node = (char *)(uintptr_t)r->recover_node;
    return link_send(l->link, FRAME_PROPOSE, &m.base, NULL, 0) == ERR_OK ? l->id : 0;
}

void admin_answer(struct controller *c, const struct request *r, enum err code, const char *text) {
    struct peer_link *l = links_by_id(c, r->link);
    if (l && r->from == FROM_GATEWAY) {
        status_respond(l, r->number, code, text);
    } else if (l && r->from == FROM_CONTROLLER) {
        Mr__Proposed m = MR__PROPOSED__INIT;
        m.request = r->number;
        m.code = code;
        m.text = (char *)(uintptr_t)text;
        m.index = r->visible_index;
        link_send(l->link, FRAME_PROPOSED, &m.base, NULL, 0);
    }
}

static void on_proposed(struct peer_link *l, const struct frame *frame) {
    Mr__Proposed *m = frame_read_proposed(l->link, frame);
    if (m)
        requests_answered(&l->controller->core, m->request, m->code, m->text, m->index);
}

static void on_propose(struct peer_link *l, const struct frame *frame) {
    struct core *c = &l->controller->core;
    Mr__Propose *m = frame_read_propose(l->link, frame);
    if (!m)
        return;
    if (!m->command.len) {
        requests_recover(c, FROM_CONTROLLER, l->id, m->request, m->recover_mailbox, m->recover_node,
                         m->deadline_us);
        return;
    }
    struct body *command = body_copy(m->command.data, m->command.len);
    requests_change(c, FROM_CONTROLLER, l->id, m->request, command, m->deadline_us);
    body_drop(command);
}

bool admin_frame(struct peer_link *l, const struct frame *frame) {
    if (frame->type == FRAME_PROPOSE)
        on_propose(l, frame);
    else if (frame->type == FRAME_PROPOSED)
        on_proposed(l, frame);
    else
        return false;
    return true;
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
    struct command command = {0};
    struct err_detail detail;
    if (!command_of(m, &command, &detail)) {
        status_respond(l, m->request, detail.code, detail.text);
        return;
    }
    struct encoder e = {0};
    command_encode(&command, &e);
    struct body *body = encoder_body(&e);
    requests_change(&l->controller->core, FROM_GATEWAY, l->id, m->request, body, m->deadline_us);
    body_drop(body);
}

static void on_recover(struct peer_link *l, const Mr__Request *m) {
    requests_recover(&l->controller->core, FROM_GATEWAY, l->id, m->request, m->mailbox_recover->name,
                     m->mailbox_recover->node, m->deadline_us);
}

static void on_request(struct peer_link *l, const Mr__Request *m) {
    if (!requests_room(&l->controller->core)) {
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

void admin_gateway(struct peer_link *l, const struct frame *frame) {
    Mr__Request *m = frame->type == FRAME_REQUEST ? frame_read_request(l->link, frame) : NULL;
    if (m)
        on_request(l, m);
    else
        link_refuse(l->link, ERR_PROTOCOL, "frame type %s: a gateway sends a controller only REQUEST",
                    frame_name(frame->type));
}

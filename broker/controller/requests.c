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
#include "base/xalloc.h"
#include "controller/core_private.h"

#define REQUEST_TIMEOUT_DEFAULT_US (10 * USEC_S)

static void unlink_request(struct core *c, struct request *r) {
    for (struct request **at = &c->requests; *at; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    body_drop(r->command);
    free(r);
}

static void answer(struct core *c, struct request *r, enum err code, const char *text) {
    c->host->answer(c->host_context, r, code, text);
    if (r->from == FROM_SELF && code != ERR_OK)
        core_say(c, LOG_WARN, "a change of a node was refused: %s", text[0] ? text : err_text(code));
    unlink_request(c, r);
}

/* ---- here, at the leading controller ---- */

static void recover_here(struct core *c, struct request *r) {
    struct err_detail detail = {0};
    enum err err = control_recover(c->control, r->recover_mailbox, r->recover_node, core_now(c),
                                   &c->control_effects, &detail);
    answer(c, r, err, err == ERR_OK ? "" : detail.text);
}

static void propose_here(struct core *c, struct request *r) {
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
    enum err err = control_prepare(c->control, &command, &detail);
    struct encoder e = {0};
    if (err == ERR_OK)
        command_encode(&command, &e);
    command_free(&command);
    if (err != ERR_OK) {
        answer(c, r, err, detail.text);
        return;
    }
    struct body *body = encoder_body(&e);
    err = group_propose(c, body, &r->index);
    body_drop(body);
    r->proposed = err == ERR_OK;
}

/* ---- there ---- */

static void pass_on(struct core *c, struct request *r) {
    struct peer *p = controllers_member(c, election_leader(c->election));
    if (!p || !p->up || r->from == FROM_CONTROLLER)
        return; /* a proposal is passed on once: its asker asks the next leader */
    r->own_number = c->next_request++;
    r->forwarded_to = c->host->pass_on(c->host_context, p, r, r->deadline - core_now(c));
    r->forwarded = r->forwarded_to != 0;
}

static void go(struct core *c, struct request *r) {
    if (r->proposed || r->applied || r->forwarded || core_now(c) >= r->deadline)
        return; /* too late: this process may have stood still (expire) */
    if (c->leads && election_proposable(c->election))
        propose_here(c, r);
    else if (r->from == FROM_CONTROLLER)
        answer(c, r, ERR_NOT_LEADER, "not the leading controller");
    else
        pass_on(c, r);
}

void requests_go(struct core *c) {
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        go(c, r);
    }
    group_run(c);
}

static struct request *add(struct core *c, enum request_from from, uint64_t link, uint64_t number,
                           int64_t deadline) {
    struct request *r = xcalloc(1, sizeof *r);
    if (deadline <= 0)
        deadline = REQUEST_TIMEOUT_DEFAULT_US;
    *r = (struct request){.from = from, .link = link, .number = number, .deadline = core_now(c) + deadline};
    struct request **at = &c->requests;
    while (*at)
        at = &(*at)->next;
    *at = r;
    return r;
}

bool requests_room(const struct core *c) {
    unsigned n = 0;
    for (const struct request *r = c->requests; r; r = r->next)
        n++;
    return n < CORE_REQUESTS_MAX;
}

void requests_change(struct core *c, enum request_from from, uint64_t link, uint64_t number,
                     struct body *command, usec_t deadline) {
    struct request *r = add(c, from, link, number, deadline);
    r->command = body_keep(command);
    go(c, r);
    group_run(c);
}

void requests_recover(struct core *c, enum request_from from, uint64_t link, uint64_t number,
                      const char *mailbox, const char *node, usec_t deadline) {
    struct request *r = add(c, from, link, number, deadline);
    snprintf(r->recover_mailbox, sizeof r->recover_mailbox, "%s", mailbox);
    snprintf(r->recover_node, sizeof r->recover_node, "%s", node);
    go(c, r);
    group_run(c);
}

/* ---- a command's life after it was proposed ---- */

static bool visible(struct core *c, const struct request *r) {
    if (metadata_index(c->metadata) < r->visible_index)
        return false;
    CORE_PEERS_EACH(c, p)
    if (p->up && metadata_node_named(c->metadata, p->name) && p->applied < r->visible_index)
        return false;
    return true;
}

static void answer_visible(struct core *c) {
    usec_t now = core_now(c);
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        if (r->applied && (r->result.code != ERR_OK || now >= r->visible_by || visible(c, r)))
            answer(c, r, r->result.code, r->result.text);
    }
}

void requests_applied(struct core *c, uint64_t index, const struct metadata_result *result) {
    for (struct request *r = c->requests; r; r = r->next) {
        if (!r->proposed || r->applied || r->index != index)
            continue;
        r->applied = true;
        r->result = *result;
        r->visible_index = index;
        r->visible_by = core_now(c) + CORE_VISIBLE_US;
    }
    answer_visible(c);
}

void requests_lost(struct core *c) {
    for (struct request *r = c->requests; r; r = r->next)
        r->proposed = r->proposed && r->applied;
}

static void expire(struct core *c) {
    usec_t now = core_now(c);
    for (struct request *r = c->requests, *next; r; r = next) {
        next = r->next;
        if (now >= r->deadline)
            answer(c, r, ERR_TIMEOUT,
                   metadata_cluster_id(c->metadata)
                       ? "no controller led the metadata group in time"
                       : "the cluster has not formed: not all nodes of `initial` are there");
    }
}

void requests_tick(struct core *c) {
    answer_visible(c);
    expire(c);
    requests_go(c);
}

void requests_link_gone(struct core *c, uint64_t link) {
    for (struct request *r = c->requests; r; r = r->next)
        if (r->forwarded && r->forwarded_to == link)
            r->forwarded = false; /* asked again by the next tick */
}

void requests_answered(struct core *c, uint64_t own_number, enum err code, const char *text, uint64_t index) {
    for (struct request *r = c->requests; r; r = r->next) {
        if (!r->forwarded || r->own_number != own_number)
            continue;
        if (code == ERR_NOT_LEADER) {
            r->forwarded = false;
            return;
        }
        r->applied = true;
        r->result.code = code;
        snprintf(r->result.text, sizeof r->result.text, "%s", text);
        r->visible_index = index;
        r->visible_by = core_now(c) + CORE_VISIBLE_US;
        break;
    }
    answer_visible(c);
}

/* ---- changes of nodes ---- */

static bool under_way(struct core *c, const struct body *command) {
    for (struct request *r = c->requests; r; r = r->next)
        if (r->from == FROM_SELF && r->command && r->command->size == command->size &&
            memcmp(r->command->data, command->data, command->size) == 0)
            return true;
    return false;
}

void requests_node_set(struct core *c, const struct node_info *info) {
    struct command command = {.type = COMMAND_NODE_SET, .node = *info};
    struct encoder e = {0};
    command_encode(&command, &e);
    struct body *body = encoder_body(&e);
    if (!under_way(c, body))
        requests_change(c, FROM_SELF, 0, 0, body, 0);
    body_drop(body);
}

void requests_close(struct core *c) {
    while (c->requests)
        answer(c, c->requests, ERR_UNAVAILABLE, "this node's controller stops");
}

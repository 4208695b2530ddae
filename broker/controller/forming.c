// SPDX-License-Identifier: Apache-2.0
/*
 * How a cluster begins, and how a node comes to one.
 *
 * Each controller introduces itself on every link: who it is, its shards'
 * identities, whether its folder is empty. A cluster forms once: when every node
 * of `initial` says "empty", the founder (the lowest name) becomes the only voter
 * of the metadata group, commits the cluster's id and the nodes' identities, and
 * adds the others as voters one at a time (group_voters). Afterwards an empty
 * folder is a newcomer: its introduction is committed as a change of its node.
 *
 * A node with cluster.join introduces itself to whom it names, and is committed
 * as a new node by whoever leads.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/body.h"
#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"

void forming_own_node(struct controller *c, struct node_info *out) {
    *out = (struct node_info){
        .controller = c->core.self, .starts = c->core.starts, .shards_count = c->config->shards};
    snprintf(out->name, sizeof out->name, "%s", c->config->node);
    snprintf(out->cluster_address, sizeof out->cluster_address, "%s", c->config->listen_cluster.text);
    snprintf(out->client_address, sizeof out->client_address, "%s", c->config->listen_client.text);
    snprintf(out->admin_address, sizeof out->admin_address, "%s", c->config->listen_admin.text);
    SHARDS_EACH(c, s)
    if (s->own && s->index < NODE_SHARDS_MAX)
        out->shards[s->index] = s->member;
}

/* ---- introductions ---- */

static void introduce(struct controller *c, struct peer_link *l) {
    struct node_info own;
    Mr__Introduce m = MR__INTRODUCE__INIT;
    forming_own_node(c, &own);
    m.node = own.name;
    m.controller = own.controller;
    m.shards = own.shards;
    m.n_shards = own.shards_count;
    m.empty = c->core.empty;
    m.cluster_address = own.cluster_address;
    m.client_address = own.client_address;
    m.admin_address = own.admin_address;
    m.cluster_id = metadata_cluster_id(c->core.metadata);
    m.join = c->config->join_count > 0;
    m.starts = c->core.starts;
    link_send(l->link, FRAME_INTRODUCE, &m.base, NULL, 0);
}

void forming_peer_up(struct controller *c, struct peer_link *l) {
    if (shards_own_known(c))
        introduce(c, l);
}

static void introduce_all(struct controller *c) {
    PEERS_EACH(c, p)
    if (p->link)
        introduce(c, p->link);
}

static bool node_of(const Mr__Introduce *m, struct node_info *out) {
    *out = (struct node_info){.controller = m->controller, .starts = m->starts};
    if (m->n_shards > NODE_SHARDS_MAX || m->n_shards == 0 || !m->controller)
        return false;
    out->shards_count = (uint32_t)m->n_shards;
    for (size_t i = 0; i < m->n_shards; i++)
        out->shards[i] = m->shards[i];
    snprintf(out->name, sizeof out->name, "%s", m->node);
    snprintf(out->cluster_address, sizeof out->cluster_address, "%s", m->cluster_address);
    snprintf(out->client_address, sizeof out->client_address, "%s", m->client_address);
    snprintf(out->admin_address, sizeof out->admin_address, "%s", m->admin_address);
    return true;
}

static bool same_node(const struct node_info *a, const struct node_info *b) {
    bool same = a->controller == b->controller && a->shards_count == b->shards_count &&
                strcmp(a->cluster_address, b->cluster_address) == 0 &&
                strcmp(a->client_address, b->client_address) == 0 &&
                strcmp(a->admin_address, b->admin_address) == 0;
    for (uint32_t i = 0; same && i < a->shards_count; i++)
        same = a->shards[i] == b->shards[i];
    return same;
}

/* The leading controller: is what this node says of itself committed? */
static void commit_node(struct controller *c, const struct node_info *info, bool joins) {
    const struct metadata_node *known = metadata_node_named(c->core.metadata, info->name);
    if (!c->core.leads || !metadata_cluster_id(c->core.metadata))
        return;
    if (known && same_node(&known->info, info))
        return;
    if (!known && !joins)
        return; /* neither a node of ours nor one that asks to be */
    log_info("node %s %s", info->name, known ? "comes back with another identity or address" : "joins");
    requests_node_set(c, info);
}

static void consider(struct controller *c, const Mr__Introduce *m) {
    struct node_info info;
    if (node_of(m, &info))
        commit_node(c, &info, m->join);
}

static void on_introduce(struct peer_link *l, const struct frame *frame) {
    struct peer *p = l->peer;
    Mr__Introduce *m = frame_read_introduce(l->link, frame);
    if (!m)
        return;
    if (p->introduction)
        mr__introduce__free_unpacked(p->introduction, NULL);
    p->introduction = mr__introduce__unpack(NULL, frame->header_size, frame->header);
    consider(l->controller, m);
    forming_check(l->controller);
}

bool forming_frame(struct peer_link *l, const struct frame *frame) {
    if (frame->type != FRAME_INTRODUCE)
        return false;
    on_introduce(l, frame);
    return true;
}

/* ---- forming ---- */

static const char *founder_name(const struct controller *c) {
    const char *lowest = c->config->initial[0].name;
    for (size_t i = 1; i < c->config->initial_count; i++)
        if (strcmp(c->config->initial[i].name, lowest) < 0)
            lowest = c->config->initial[i].name;
    return lowest;
}

/* Everybody is there and has an empty folder. */
static bool all_empty(struct controller *c) {
    for (size_t i = 0; i < c->config->initial_count; i++) {
        const char *name = c->config->initial[i].name;
        struct peer *p = peers_named(c, name);
        if (strcmp(name, c->config->node) == 0)
            continue;
        if (!p || !p->link || !p->introduction || !p->introduction->empty || p->introduction->cluster_id)
            return false;
    }
    return true;
}

static bool everybody_introduced(struct controller *c, struct command *form) {
    form->form.nodes = xcalloc(c->config->initial_count, sizeof *form->form.nodes);
    for (size_t i = 0; i < c->config->initial_count; i++) {
        const char *name = c->config->initial[i].name;
        struct peer *p = peers_named(c, name);
        struct node_info *out = &form->form.nodes[form->form.count++];
        if (strcmp(name, c->config->node) == 0)
            forming_own_node(c, out);
        else if (!p || !p->introduction || !node_of(p->introduction, out))
            return false;
    }
    return true;
}

/* Leads a group that is not a cluster yet: commit its id and first nodes. */
static void propose_form(struct controller *c) {
    struct command form = {.type = COMMAND_FORM};
    uint64_t index;
    if (c->formed_proposed || !everybody_introduced(c, &form)) {
        command_free(&form);
        return;
    }
    snprintf(form.form.cluster, sizeof form.form.cluster, "%s", c->config->cluster);
    CHECK(getrandom(&form.form.cluster_id, sizeof form.form.cluster_id, 0) ==
          (ssize_t)sizeof form.form.cluster_id);
    form.form.cluster_id |= 1;
    struct encoder e = {0};
    command_encode(&form, &e);
    struct body *body = encoder_body(&e);
    c->formed_proposed = group_propose(&c->core, body, &index) == ERR_OK;
    body_drop(body);
    command_free(&form);
}

static void leave_joins(struct controller *c) {
    for (size_t i = 0; i < c->config->join_count; i++)
        peers_unknow(c, c->config->join[i].text);
}

void forming_check(struct controller *c) {
    bool formed = metadata_cluster_id(c->core.metadata) != 0;
    if (!shards_own_known(c))
        return;
    if (!c->introduced) {
        c->introduced = true;
        introduce_all(c);
    }
    if (formed && metadata_node_named(c->core.metadata, c->config->node))
        leave_joins(c);
    if (formed && c->core.leads) {
        struct node_info own;
        forming_own_node(c, &own);
        commit_node(c, &own, false);
        PEERS_EACH(c, p)
        if (p->introduction && p->link)
            consider(c, p->introduction);
    } else if (!formed && c->core.leads) {
        propose_form(c);
    } else if (!formed && c->core.empty && c->config->initial_count && !c->stopping &&
               strcmp(founder_name(c), c->config->node) == 0 && all_empty(c)) {
        group_found(&c->core);
    }
}

void forming_start(struct controller *c) {
    for (size_t i = 0; i < c->config->join_count; i++)
        if (!metadata_node_named(c->core.metadata, c->config->node))
            peers_know(c, c->config->join[i].text, c->config->join[i].text);
}

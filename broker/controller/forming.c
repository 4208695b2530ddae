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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "controller/core_private.h"

void forming_own_node(const struct core *c, struct node_info *out) {
    *out = (struct node_info){.controller = c->self, .starts = c->starts, .shards_count = c->config->shards};
    snprintf(out->name, sizeof out->name, "%s", c->config->node);
    snprintf(out->cluster_address, sizeof out->cluster_address, "%s", c->config->listen_cluster.text);
    snprintf(out->client_address, sizeof out->client_address, "%s", c->config->listen_client.text);
    snprintf(out->admin_address, sizeof out->admin_address, "%s", c->config->listen_admin.text);
    CORE_SHARDS_EACH(c, s)
    if (s->own && s->index < NODE_SHARDS_MAX)
        out->shards[s->index] = s->member;
}

/* ---- introductions ---- */

static void introduce(struct core *c, struct peer *p) {
    struct introduction own = {
        .empty = c->empty, .join = c->config->join_count > 0, .cluster_id = metadata_cluster_id(c->metadata)};
    forming_own_node(c, &own.node);
    c->host->introduce(c->host_context, p, &own);
}

void forming_peer_up(struct core *c, struct peer *p) {
    if (shards_own_known(c))
        introduce(c, p);
}

static void introduce_all(struct core *c) {
    CORE_PEERS_EACH(c, p)
    if (p->up)
        introduce(c, p);
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
static void commit_node(struct core *c, const struct node_info *info, bool joins) {
    const struct metadata_node *known = metadata_node_named(c->metadata, info->name);
    if (!c->leads || !metadata_cluster_id(c->metadata))
        return;
    if (known && same_node(&known->info, info))
        return;
    if (!known && !joins)
        return; /* neither a node of ours nor one that asks to be */
    core_say(c, LOG_INFO, "node %s %s", info->name,
             known ? "comes back with another identity or address" : "joins");
    requests_node_set(c, info);
}

static bool sensible(const struct node_info *info) {
    return info->controller && info->shards_count > 0 && info->shards_count <= NODE_SHARDS_MAX;
}

static void consider(struct core *c, const struct introduction *in) {
    if (sensible(&in->node))
        commit_node(c, &in->node, in->join);
}

void controllers_on_introduction(struct core *c, struct peer *p, const struct introduction *in) {
    p->introduction = *in;
    p->introduced = true;
    consider(c, in);
    forming_check(c);
}

/* ---- forming ---- */

const char *forming_founder(const struct core *c) {
    const char *lowest = c->config->initial_count ? c->config->initial[0].name : "";
    for (size_t i = 1; i < c->config->initial_count; i++)
        if (strcmp(c->config->initial[i].name, lowest) < 0)
            lowest = c->config->initial[i].name;
    return lowest;
}

/* Everybody is there and has an empty folder. */
static bool all_empty(struct core *c) {
    for (size_t i = 0; i < c->config->initial_count; i++) {
        const char *name = c->config->initial[i].name;
        const struct peer *p = controllers_named(c, name);
        if (strcmp(name, c->config->node) == 0)
            continue;
        if (!p || !p->up || !p->introduced || !p->introduction.empty || p->introduction.cluster_id)
            return false;
    }
    return true;
}

static bool everybody_introduced(struct core *c, struct command *form) {
    form->form.nodes = xcalloc(c->config->initial_count, sizeof *form->form.nodes);
    for (size_t i = 0; i < c->config->initial_count; i++) {
        const char *name = c->config->initial[i].name;
        const struct peer *p = controllers_named(c, name);
        struct node_info *out = &form->form.nodes[form->form.count++];
        if (strcmp(name, c->config->node) == 0)
            forming_own_node(c, out);
        else if (p && p->introduced && sensible(&p->introduction.node))
            *out = p->introduction.node;
        else
            return false;
    }
    return true;
}

/* Leads a group that is not a cluster yet: commit its id and first nodes. */
static void propose_form(struct core *c) {
    struct command form = {.type = COMMAND_FORM};
    uint64_t index;
    if (c->form_proposed || !everybody_introduced(c, &form)) {
        command_free(&form);
        return;
    }
    snprintf(form.form.cluster, sizeof form.form.cluster, "%s", c->config->cluster);
    form.form.cluster_id = rng_next(&c->rng) | 1;
    struct encoder e = {0};
    command_encode(&form, &e);
    struct body *body = encoder_body(&e);
    c->form_proposed = group_propose(c, body, &index) == ERR_OK;
    body_drop(body);
    command_free(&form);
}

static void leave_joins(struct core *c) {
    for (size_t i = 0; i < c->config->join_count; i++)
        controllers_unknow(c, c->config->join[i].text);
}

void forming_check(struct core *c) {
    bool formed = metadata_cluster_id(c->metadata) != 0;
    if (!shards_own_known(c))
        return;
    if (!c->introduced) {
        c->introduced = true;
        introduce_all(c);
    }
    if (formed && metadata_node_named(c->metadata, c->config->node))
        leave_joins(c);
    if (formed && c->leads) {
        struct node_info own;
        forming_own_node(c, &own);
        commit_node(c, &own, false);
        CORE_PEERS_EACH(c, p)
        if (p->introduced && p->up)
            consider(c, &p->introduction);
    } else if (!formed && c->leads) {
        propose_form(c);
    } else if (!formed && c->empty && c->config->initial_count && !c->stopping &&
               strcmp(forming_founder(c), c->config->node) == 0 && all_empty(c)) {
        group_found(c);
    }
}

void forming_start(struct core *c) {
    for (size_t i = 0; i < c->config->join_count; i++)
        if (!metadata_node_named(c->metadata, c->config->node))
            controllers_know(c, c->config->join[i].text, c->config->join[i].text);
}

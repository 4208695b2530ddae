// SPDX-License-Identifier: Apache-2.0
/*
 * Other controllers: who is known by name, where it listens, whether a link to it
 * is up, and what its heartbeats say. A node that joins dials whoever cluster.join
 * names until it is in the metadata.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "controller/core_private.h"

/* ---- the table ---- */

struct peer *controllers_named(struct core *c, const char *name) {
    CORE_PEERS_EACH(c, p)
    if (strcmp(p->name, name) == 0)
        return p;
    return NULL;
}

struct peer *controllers_member(struct core *c, member_t m) {
    CORE_PEERS_EACH(c, p)
    if (m && p->member == m)
        return p;
    return NULL;
}

struct peer *controllers_add(struct core *c, const char *name) {
    struct peer *p = controllers_named(c, name);
    if (p)
        return p;
    p = xcalloc(1, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", name);
    p->next = c->peers;
    c->peers = p;
    return p;
}

void controllers_know(struct core *c, const char *name, const char *address) {
    if (strcmp(name, c->config->node) == 0)
        return;
    struct peer *p = controllers_add(c, name);
    if (strcmp(p->address, address) == 0)
        return;
    snprintf(p->address, sizeof p->address, "%s", address);
    c->host->dial(c->host_context, p);
}

void controllers_unknow(struct core *c, const char *name) {
    struct peer *p = controllers_named(c, name);
    if (!p || !p->address[0])
        return;
    p->address[0] = 0;
    c->host->hang_up(c->host_context, p);
}

/* ---- alive ---- */

static uint32_t node_of(const struct core *c, const char *name) {
    const struct metadata_node *n = metadata_node_named(c->metadata, name);
    return n ? n->id : 0;
}

void controllers_heard(struct core *c, struct peer *p) {
    uint32_t node = node_of(c, p->name);
    if (node)
        detector_heard(c->detector, node, DETECTOR_CONTROLLER, core_now(c), &c->detected);
    if (c->detected.count)
        group_detected(c);
}

/* No link leads to this process itself. */
void controllers_hear_self(struct core *c) {
    uint32_t own = node_of(c, c->config->node);
    if (own)
        detector_heard(c->detector, own, DETECTOR_CONTROLLER, core_now(c), &c->detected);
}

static void watch_node(struct core *c, const struct metadata_node *n) {
    struct peer *p;
    if (n->state == NODE_LEFT) {
        detector_forget_node(c->detector, n->id);
        return;
    }
    controllers_know(c, n->info.name, n->info.cluster_address);
    detector_watch(c->detector, n->id, DETECTOR_CONTROLLER, n->info.controller, core_now(c));
    for (uint32_t i = 0; i < n->info.shards_count; i++)
        detector_watch(c->detector, n->id, (int)i, n->info.shards[i], core_now(c));
    if ((p = controllers_named(c, n->info.name)) && p->up)
        controllers_heard(c, p);
}

/* Everybody the metadata knows, or the configuration while there is none. */
void controllers_refresh(struct core *c) {
    for (size_t i = 0; !metadata_cluster_id(c->metadata) && i < c->config->initial_count; i++)
        controllers_know(c, c->config->initial[i].name, c->config->initial[i].address.text);
    for (size_t i = 0; i < metadata_nodes_count(c->metadata); i++)
        watch_node(c, metadata_node_at(c->metadata, i));
    controllers_hear_self(c);
}

/* ---- links ---- */

void controllers_up(struct core *c, struct peer *p, member_t member) {
    p->member = member;
    p->up = true;
    controllers_heard(c, p);
    group_peer_up(c, member);
    forming_peer_up(c, p);
}

void controllers_relinked(struct core *c, struct peer *p) {
    group_peer_up(c, p->member);
}

void controllers_down(struct core *c, struct peer *p) {
    p->up = false;
    group_peer_down(c, p->member, false);
}

void controllers_refused(struct core *c, struct peer *p) {
    uint32_t node = node_of(c, p->name);
    if (p->up)
        return;
    if (node) {
        detector_gone(c->detector, node, DETECTOR_CONTROLLER, core_now(c), &c->detected);
        group_detected(c);
    }
    if (p->member)
        group_peer_down(c, p->member, true);
}

void controllers_close(struct core *c) {
    while (c->peers) {
        struct peer *p = c->peers;
        c->peers = p->next;
        free(p);
    }
}

/* ---- what they say ---- */

struct beat controllers_beat(const struct core *c) {
    return (struct beat){.sent_at = core_now(c),
                         .applied = metadata_index(c->metadata),
                         .term = election_leading(c->election) ? replica_epoch(c->replica) : 0};
}

void controllers_on_beat(struct core *c, struct peer *p, const struct beat *b) {
    p->applied = b->applied;
    if (b->term)
        election_heard(c->election, p->member, b->term, core_now(c));
    requests_go(c);
    requests_tick(c);
}

void controllers_on_beat_seen(struct core *c, struct peer *p, usec_t sent_at) {
    election_seen(c->election, p->member, sent_at);
}

void controllers_on_load(struct core *c, member_t shard, uint64_t backlog) {
    if (c->leads)
        control_load(c->control, shard, backlog);
}

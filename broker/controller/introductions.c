// SPDX-License-Identifier: Apache-2.0
/*
 * Introductions as frames (what they are for: forming.c).
 */
#include <stdio.h>

#include "controller/controller_private.h"

void introductions_send(struct controller *c, struct peer *p, const struct introduction *own) {
    struct node_info node = own->node;
    Mr__Introduce m = MR__INTRODUCE__INIT;
    m.node = node.name;
    m.controller = node.controller;
    m.shards = node.shards;
    m.n_shards = node.shards_count;
    m.empty = own->empty;
    m.cluster_address = node.cluster_address;
    m.client_address = node.client_address;
    m.admin_address = node.admin_address;
    m.cluster_id = own->cluster_id;
    m.join = own->join;
    m.starts = node.starts;
    link_send(links_remote(c, p)->link->link, FRAME_INTRODUCE, &m.base, NULL, 0);
}

/* One that makes no sense stays without shards: the core takes no node from it. */
static void node_of(const Mr__Introduce *m, struct node_info *out) {
    *out = (struct node_info){.controller = m->controller, .starts = m->starts};
    if (m->n_shards <= NODE_SHARDS_MAX)
        out->shards_count = (uint32_t)m->n_shards;
    for (size_t i = 0; i < out->shards_count; i++)
        out->shards[i] = m->shards[i];
    snprintf(out->name, sizeof out->name, "%s", m->node);
    snprintf(out->cluster_address, sizeof out->cluster_address, "%s", m->cluster_address);
    snprintf(out->client_address, sizeof out->client_address, "%s", m->client_address);
    snprintf(out->admin_address, sizeof out->admin_address, "%s", m->admin_address);
}

bool introductions_frame(struct peer_link *l, const struct frame *frame) {
    if (frame->type != FRAME_INTRODUCE)
        return false;
    Mr__Introduce *m = frame_read_introduce(l->link, frame);
    if (!m)
        return true;
    struct introduction in = {.empty = m->empty, .join = m->join, .cluster_id = m->cluster_id};
    node_of(m, &in.node);
    controllers_on_introduction(&l->controller->core, l->remote->peer, &in);
    return true;
}

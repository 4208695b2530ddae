// SPDX-License-Identifier: Apache-2.0
/*
 * What this node's gateway is told: the map of nodes, mailboxes and leaders
 * (everything first, then differences), and answers that local metadata gives.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"

enum { MAP_MAILBOXES_A_FRAME = 256 };

void status_respond(struct peer_link *l, uint64_t request, enum err code, const char *text) {
    Mr__Response m = MR__RESPONSE__INIT;
    m.request = request;
    m.code = code;
    m.text = (char *)(uintptr_t)(text ? text : "");
    link_send(l->link, FRAME_RESPONSE, &m.base, NULL, 0);
}

static const char *state_of_node(struct controller *c, const struct metadata_node *n) {
    if (n->state == NODE_LEFT)
        return "left";
    if (strcmp(n->info.name, c->config->node) != 0 && detector_node(c->core.detector, n->id) != DETECTOR_UP)
        return detector_node_word(detector_node(c->core.detector, n->id));
    return n->state == NODE_DRAINING ? "draining" : "alive";
}

static Mr__Settings *settings_message(const struct mailbox_settings *s) {
    Mr__Settings *m = xmalloc(sizeof *m);
    mr__settings__init(m);
    m->partitions = s->partitions;
    m->replicas = s->replicas;
    m->durability = s->durability;
    m->route = s->route;
    m->dispatch = s->dispatch;
    m->overflow = s->overflow;
    m->no_default = s->no_default;
    m->max_messages = s->max_messages;
    m->max_bytes = s->max_bytes;
    m->ttl_us = s->ttl;
    m->max_deliveries = s->max_deliveries;
    m->dead_letter = (char *)(uintptr_t)s->dead_letter;
    m->ack_timeout_us = s->ack_timeout;
    m->retain_us = s->retain_time;
    m->retain_bytes = s->retain_bytes;
    return m;
}

/* ---- the map: nodes ---- */

static Mr__MapNode *map_node(struct controller *c, const struct metadata_node *n) {
    Mr__MapNode *m = xmalloc(sizeof *m);
    mr__map_node__init(m);
    m->name = (char *)(uintptr_t)n->info.name;
    m->state = (char *)(uintptr_t)state_of_node(c, n);
    m->client_address = (char *)(uintptr_t)n->info.client_address;
    m->shards = xcalloc(n->info.shards_count, sizeof *m->shards);
    for (uint32_t i = 0; i < n->info.shards_count; i++) {
        char address[NODE_ADDRESS_BYTES_MAX + 16];
        if (!shards_address(n, i, address, sizeof address))
            continue;
        Mr__MemberAddress *a = xmalloc(sizeof *a);
        mr__member_address__init(a);
        a->member = n->info.shards[i];
        a->node = (char *)(uintptr_t)n->info.name;
        a->index = i;
        a->address = xstrdup(address);
        a->alive = detector_usable(detector_process(c->core.detector, n->id, (int)i));
        m->shards[m->n_shards++] = a;
    }
    return m;
}

static void free_map_node(Mr__MapNode *m) {
    for (size_t i = 0; i < m->n_shards; i++) {
        free(m->shards[i]->address);
        free(m->shards[i]);
    }
    free(m->shards);
    free(m);
}

static void add_nodes(struct controller *c, Mr__Map *map) {
    map->nodes = xcalloc(metadata_nodes_count(c->core.metadata), sizeof *map->nodes);
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        map->nodes[map->n_nodes++] = map_node(c, metadata_node_at(c->core.metadata, i));
}

/* ---- the map: mailboxes ---- */

static Mr__MapPartition *map_partition(struct controller *c, uint64_t id) {
    const struct metadata_partition *p = metadata_partition(c->core.metadata, id);
    Mr__MapPartition *m = xmalloc(sizeof *m);
    mr__map_partition__init(m);
    m->id = p->id;
    m->number = p->number;
    m->leader = p->record.leader;
    m->epoch = p->record.epoch;
    m->state = (char *)(uintptr_t)partition_state_name(partition_state(p, c->core.detector));
    m->replicas = xmalloc(sizeof *m->replicas);
    mr__set__init(m->replicas);
    m->replicas->members = (uint64_t *)(uintptr_t)p->record.current.members;
    m->replicas->n_members = p->record.current.count;
    return m;
}

static Mr__MapMailbox *map_mailbox(struct controller *c, uint64_t id) {
    const struct metadata_mailbox *b = metadata_mailbox(c->core.metadata, id);
    Mr__MapMailbox *m = xmalloc(sizeof *m);
    mr__map_mailbox__init(m);
    m->id = id;
    m->removed = !b;
    if (!b)
        return m;
    m->name = (char *)(uintptr_t)b->name;
    m->settings = settings_message(&b->settings);
    m->partitions = xcalloc(b->partitions_count, sizeof *m->partitions);
    for (uint32_t i = 0; i < b->partitions_count; i++)
        m->partitions[m->n_partitions++] = map_partition(c, b->partitions[i]);
    m->subscriptions = xcalloc(b->subscriptions_count, sizeof *m->subscriptions);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        Mr__SubscriptionRecord *s = xmalloc(sizeof *s);
        mr__subscription_record__init(s);
        s->name = b->subscriptions[i].name;
        s->from = b->subscriptions[i].from;
        s->value = b->subscriptions[i].value;
        m->subscriptions[m->n_subscriptions++] = s;
    }
    return m;
}

static void free_map_mailbox(Mr__MapMailbox *m) {
    for (size_t i = 0; i < m->n_partitions; i++) {
        free(m->partitions[i]->replicas);
        free(m->partitions[i]);
    }
    for (size_t i = 0; i < m->n_subscriptions; i++)
        free(m->subscriptions[i]);
    free(m->partitions);
    free(m->subscriptions);
    free(m->settings);
    free(m);
}

static void send_map(struct peer_link *l, bool complete, bool nodes, const uint64_t *mailboxes,
                     size_t count) {
    struct controller *c = l->controller;
    Mr__Map m = MR__MAP__INIT;
    m.complete = complete;
    m.cluster = (char *)(uintptr_t)c->config->cluster;
    m.cluster_id = metadata_cluster_id(c->core.metadata);
    m.node = (char *)(uintptr_t)c->config->node;
    m.version = metadata_index(c->core.metadata);
    if (nodes)
        add_nodes(c, &m);
    m.mailboxes = xcalloc(count, sizeof *m.mailboxes);
    for (size_t i = 0; i < count; i++)
        m.mailboxes[m.n_mailboxes++] = map_mailbox(c, mailboxes[i]);
    link_send(l->link, FRAME_MAP, &m.base, NULL, 0);
    for (size_t i = 0; i < m.n_mailboxes; i++)
        free_map_mailbox(m.mailboxes[i]);
    for (size_t i = 0; i < m.n_nodes; i++)
        free_map_node(m.nodes[i]);
    free(m.mailboxes);
    free(m.nodes);
}

/* Everything: the first frame says so, further mailboxes follow as differences. */
void status_map(struct peer_link *l) {
    struct controller *c = l->controller;
    uint64_t ids[MAP_MAILBOXES_A_FRAME];
    const struct metadata_mailbox *b = NULL;
    bool complete = true;
    do {
        size_t count = 0;
        while (count < MAP_MAILBOXES_A_FRAME && (b = metadata_mailbox_next(c->core.metadata, b ? b->id : 0)))
            ids[count++] = b->id;
        send_map(l, complete, complete, ids, count);
        complete = false;
    } while (b);
}

static bool listed(const uint64_t *ids, size_t count, uint64_t id) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

void status_map_changed(struct controller *c, const struct metadata_changes *changes) {
    uint64_t *ids = xcalloc(changes->mailboxes_count + changes->partitions_count, sizeof *ids);
    size_t count = 0;
    for (size_t i = 0; i < changes->mailboxes_count; i++)
        if (!listed(ids, count, changes->mailboxes[i]))
            ids[count++] = changes->mailboxes[i];
    for (size_t i = 0; i < changes->partitions_count; i++) {
        const struct metadata_partition *p = metadata_partition(c->core.metadata, changes->partitions[i]);
        if (p && !listed(ids, count, p->mailbox))
            ids[count++] = p->mailbox;
    }
    LINKS_EACH(c, l) {
        if (l->kind != LINK_GATEWAY)
            continue;
        if (changes->everything)
            status_map(l);
        else if (count || changes->nodes_count)
            send_map(l, false, changes->nodes_count > 0, ids, count);
    }
    free(ids);
}

/* Nodes seen differently since the last turn. Partition states follow from them,
 * but who asks for one asks the metadata (status, show), not the map. */
void status_map_turn(struct controller *c) {
    unsigned alive = 0;
    if (!c->map_changed)
        return;
    c->map_changed = false;
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        alive += strcmp(state_of_node(c, metadata_node_at(c->core.metadata, i)), "alive") == 0;
    counters_set(COUNTER_nodes_alive, alive);
    LINKS_EACH(c, l)
    if (l->kind == LINK_GATEWAY)
        send_map(l, false, true, NULL, 0);
}

/* ---- cluster status ---- */

static void count_partitions(struct controller *c, Mr__ClusterStatus *out, Mr__NodeStatus **nodes) {
    const struct metadata_partition *p = NULL;
    int shard;
    while ((p = metadata_partition_next(c->core.metadata, p ? p->id : 0))) {
        enum partition_state state = partition_state(p, c->core.detector);
        const struct metadata_mailbox *b = metadata_mailbox(c->core.metadata, p->mailbox);
        uint32_t alive = 0;
        out->partitions++;
        out->quarantined += state == PARTITION_QUARANTINED;
        bool led = detector_usable(detector_member(c->core.detector, p->record.leader));
        out->without_leader += !led || state == PARTITION_ELECTING || state == PARTITION_NO_MAJORITY;
        for (uint32_t i = 0; i < p->record.current.count; i++) {
            const struct metadata_node *n =
                metadata_node_of(c->core.metadata, p->record.current.members[i], &shard);
            alive += detector_usable(detector_member(c->core.detector, p->record.current.members[i]));
            for (size_t k = 0; n && k < out->n_nodes; k++)
                nodes[k]->replicas += strcmp(nodes[k]->name, n->info.name) == 0;
        }
        out->under_replicated += !b || alive < metadata_replicas(c->core.metadata, &b->settings);
        const struct metadata_node *n = metadata_node_of(c->core.metadata, p->record.leader, &shard);
        for (size_t k = 0; led && n && k < out->n_nodes; k++)
            nodes[k]->leaders += strcmp(nodes[k]->name, n->info.name) == 0;
    }
}

static char *role_text(const char *role, unsigned index) {
    char text[CHILD_ROLE_BYTES + 16];
    snprintf(text, sizeof text, strcmp(role, "shard") == 0 ? "%s/%u" : "%s", role, index);
    return xstrdup(text);
}

static void add_processes(Mr__NodeStatus *out, const Mr__Heartbeat *heartbeat) {
    out->processes = xcalloc(heartbeat->n_processes, sizeof *out->processes);
    for (size_t i = 0; i < heartbeat->n_processes; i++) {
        const Mr__ProcessState *p = heartbeat->processes[i];
        Mr__ProcessStatus *s = xmalloc(sizeof *s);
        mr__process_status__init(s);
        s->role = role_text(p->role, p->index);
        s->pid = p->pid;
        s->state = p->state;
        s->restarts = p->restarts;
        s->version = p->version;
        out->processes[out->n_processes++] = s;
    }
}

static Mr__NodeStatus *node_status(struct controller *c, const struct metadata_node *n,
                                   const Mr__Heartbeat *own) {
    Mr__NodeStatus *m = xmalloc(sizeof *m);
    struct peer *p = controllers_named(&c->core, n->info.name);
    bool is_own = strcmp(n->info.name, c->config->node) == 0;
    const Mr__Heartbeat *heartbeat = is_own ? own : p ? links_remote(c, p)->heartbeat : NULL;
    mr__node_status__init(m);
    m->name = (char *)(uintptr_t)n->info.name;
    m->state = (char *)(uintptr_t)state_of_node(c, n);
    m->address = (char *)(uintptr_t)n->info.client_address;
    /* what a dead node last said of its processes is not so any more */
    if (heartbeat && (is_own || detector_node(c->core.detector, n->id) != DETECTOR_DEAD))
        add_processes(m, heartbeat);
    return m;
}

static void free_nodes(Mr__NodeStatus **nodes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < nodes[i]->n_processes; k++) {
            free(nodes[i]->processes[k]->role);
            free(nodes[i]->processes[k]);
        }
        free(nodes[i]->processes);
        free(nodes[i]);
    }
    free(nodes);
}

static const char *controller_name(struct controller *c) {
    struct peer *p = controllers_member(&c->core, election_leader(c->core.election));
    if (c->core.leads)
        return c->config->node;
    return p && p->up ? p->name : "";
}

void status_cluster(struct peer_link *l, uint64_t request) {
    struct controller *c = l->controller;
    Mr__Response m = MR__RESPONSE__INIT;
    Mr__ClusterStatus status = MR__CLUSTER_STATUS__INIT;
    Mr__Heartbeat own;
    struct beat beat = controllers_beat(&c->core);
    heartbeat_fill(c, &beat, &own);
    status.cluster = (char *)(uintptr_t)c->config->cluster;
    status.controller = (char *)(uintptr_t)controller_name(c);
    status.nodes = xcalloc(metadata_nodes_count(c->core.metadata), sizeof *status.nodes);
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        status.nodes[status.n_nodes++] = node_status(c, metadata_node_at(c->core.metadata, i), &own);
    count_partitions(c, &status, status.nodes);
    m.request = request;
    m.what_case = MR__RESPONSE__WHAT_CLUSTER_STATUS;
    m.cluster_status = &status;
    link_send(l->link, FRAME_RESPONSE, &m.base, NULL, 0);
    free_nodes(status.nodes, status.n_nodes);
    heartbeat_clear(&own);
}

/* ---- lists ---- */

void status_mailboxes(struct peer_link *l, uint64_t request) {
    struct controller *c = l->controller;
    Mr__Response m = MR__RESPONSE__INIT;
    Mr__MailboxList list = MR__MAILBOX_LIST__INIT;
    const struct metadata_mailbox *b = NULL;
    list.mailboxes = xcalloc(metadata_mailboxes_count(c->core.metadata), sizeof *list.mailboxes);
    while ((b = metadata_mailbox_next(c->core.metadata, b ? b->id : 0))) {
        Mr__MailboxBrief *brief = xmalloc(sizeof *brief);
        mr__mailbox_brief__init(brief);
        brief->id = b->id;
        brief->name = (char *)(uintptr_t)b->name;
        brief->settings = settings_message(&b->settings);
        list.mailboxes[list.n_mailboxes++] = brief;
    }
    m.request = request;
    m.what_case = MR__RESPONSE__WHAT_MAILBOX_LIST;
    m.mailbox_list = &list;
    link_send(l->link, FRAME_RESPONSE, &m.base, NULL, 0);
    for (size_t i = 0; i < list.n_mailboxes; i++) {
        free(list.mailboxes[i]->settings);
        free(list.mailboxes[i]);
    }
    free(list.mailboxes);
}

void status_subscriptions(struct peer_link *l, uint64_t request, const char *mailbox) {
    struct controller *c = l->controller;
    const struct metadata_mailbox *b = metadata_mailbox_named(c->core.metadata, mailbox);
    Mr__Response m = MR__RESPONSE__INIT;
    Mr__SubscriptionList list = MR__SUBSCRIPTION_LIST__INIT;
    if (!b) {
        char text[ERR_DETAIL_BYTES];
        snprintf(text, sizeof text, "no mailbox '%.128s'", mailbox);
        status_respond(l, request, ERR_NOT_FOUND, text);
        return;
    }
    list.subscriptions = xcalloc(b->subscriptions_count, sizeof *list.subscriptions);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        Mr__SubscriptionBrief *brief = xmalloc(sizeof *brief);
        mr__subscription_brief__init(brief);
        brief->name = b->subscriptions[i].name;
        brief->from = b->subscriptions[i].from;
        brief->value = b->subscriptions[i].value;
        list.subscriptions[list.n_subscriptions++] = brief;
    }
    m.request = request;
    m.what_case = MR__RESPONSE__WHAT_SUBSCRIPTION_LIST;
    m.subscription_list = &list;
    link_send(l->link, FRAME_RESPONSE, &m.base, NULL, 0);
    for (size_t i = 0; i < list.n_subscriptions; i++)
        free(list.subscriptions[i]);
    free(list.subscriptions);
}

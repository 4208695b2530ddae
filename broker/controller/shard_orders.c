// SPDX-License-Identifier: Apache-2.0
/*
 * What the core orders of shards, as frames: records and members out of the
 * metadata, seals, holds, drops.
 */
#include <stdlib.h>

#include "base/xalloc.h"
#include "controller/controller_private.h"

static struct link *link_of(const struct shard_peer *s) {
    const struct shard_link *l = s->user;
    return l->link;
}

/* ---- records ---- */

static ProtobufCBinaryData settings_bytes(const struct mailbox_settings *settings) {
    struct encoder e = {0};
    settings_encode(settings, &e);
    return (ProtobufCBinaryData){e.size, e.data};
}

static Mr__Set *set_of(const struct replica_set *set) {
    Mr__Set *m = xmalloc(sizeof *m);
    mr__set__init(m);
    m->n_members = set->count;
    m->members = xcalloc(set->count, sizeof *m->members);
    for (uint32_t i = 0; i < set->count; i++)
        m->members[i] = set->members[i];
    return m;
}

static void add_subscriptions(Mr__PartitionRecord *m, const struct metadata_mailbox *b) {
    m->subscriptions = xcalloc(b->subscriptions_count, sizeof *m->subscriptions);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        Mr__SubscriptionRecord *s = xmalloc(sizeof *s);
        mr__subscription_record__init(s);
        s->name = b->subscriptions[i].name;
        s->from = b->subscriptions[i].from;
        s->value = b->subscriptions[i].value;
        m->subscriptions[m->n_subscriptions++] = s;
    }
}

static void fill_record(const struct replica_record *r, Mr__PartitionRecord *m) {
    m->version = r->version;
    m->epoch = r->epoch;
    m->leader = r->leader;
    m->activating = r->activating;
    m->current = set_of(&r->current);
    m->previous = set_of(&r->previous);
    m->learners = set_of(&r->learners);
    m->last_epoch = r->last_epoch;
    m->last_index = r->last_index;
    m->wait_lease = r->wait_lease;
}

static Mr__PartitionRecord *record_of(struct controller *c, uint64_t partition) {
    const struct metadata_partition *p = metadata_partition(c->core.metadata, partition);
    const struct metadata_mailbox *b = p ? metadata_mailbox(c->core.metadata, p->mailbox) : NULL;
    Mr__PartitionRecord *m = xmalloc(sizeof *m);
    mr__partition_record__init(m);
    m->partition = partition;
    m->removed = !b;
    if (!b)
        return m;
    m->mailbox = (char *)(uintptr_t)b->name;
    m->mailbox_id = b->id;
    m->number = p->number;
    m->crashes = p->crashes;
    m->dead_letter_partitions = metadata_dead_letter_partitions(c->core.metadata, b);
    m->settings = settings_bytes(&b->settings);
    fill_record(&p->record, m);
    add_subscriptions(m, b);
    return m;
}

static void free_set(Mr__Set *set) {
    if (set)
        free(set->members);
    free(set);
}

static void free_record(Mr__PartitionRecord *m) {
    for (size_t i = 0; i < m->n_subscriptions; i++)
        free(m->subscriptions[i]);
    free(m->subscriptions);
    free(m->settings.data);
    free_set(m->current);
    free_set(m->previous);
    free_set(m->learners);
    free(m);
}

static void send_records(struct controller *c, struct shard_peer *s, const struct shard_order *o) {
    Mr__Records m = MR__RECORDS__INIT;
    m.term = o->term;
    m.complete = o->records.complete;
    m.records = xcalloc(o->records.count, sizeof *m.records);
    for (size_t i = 0; i < o->records.count; i++)
        m.records[m.n_records++] = record_of(c, o->records.partitions[i]);
    link_send(link_of(s), FRAME_RECORDS, &m.base, NULL, 0);
    for (size_t i = 0; i < m.n_records; i++)
        free_record(m.records[i]);
    free(m.records);
}

/* ---- members ---- */

static void add_member(Mr__Members *m, const struct metadata_node *n, uint32_t index, bool alive) {
    char address[NODE_ADDRESS_BYTES_MAX + 16];
    if (!shards_address(n, index, address, sizeof address))
        return;
    Mr__MemberAddress *a = xmalloc(sizeof *a);
    mr__member_address__init(a);
    a->member = n->info.shards[index];
    a->node = (char *)(uintptr_t)n->info.name;
    a->index = index;
    a->address = xstrdup(address);
    a->alive = alive;
    m->members[m->n_members++] = a;
}

static void send_members(struct controller *c, struct shard_peer *s) {
    const struct metadata *metadata = c->core.metadata;
    Mr__Members m = MR__MEMBERS__INIT;
    m.members = xcalloc(metadata_nodes_count(metadata) * NODE_SHARDS_MAX, sizeof *m.members);
    for (size_t i = 0; i < metadata_nodes_count(metadata); i++) {
        const struct metadata_node *n = metadata_node_at(metadata, i);
        for (uint32_t k = 0; n->state != NODE_LEFT && k < n->info.shards_count; k++)
            add_member(&m, n, k, detector_node(c->core.detector, n->id) == DETECTOR_UP);
    }
    link_send(link_of(s), FRAME_MEMBERS, &m.base, NULL, 0);
    for (size_t i = 0; i < m.n_members; i++) {
        free(m.members[i]->address);
        free(m.members[i]);
    }
    free(m.members);
}

/* ---- the leading controller's ---- */

static void send_seals(struct shard_peer *s, const struct shard_order *o) {
    Mr__Seals m = MR__SEALS__INIT;
    Mr__Seal *seals = xcalloc(o->seals.count, sizeof *seals);
    m.seals = xcalloc(o->seals.count, sizeof *m.seals);
    for (size_t i = 0; i < o->seals.count; i++) {
        const struct shard_seal *item = &o->seals.items[i];
        mr__seal__init(&seals[i]);
        seals[i].partition = item->partition;
        seals[i].token = item->seal.token;
        seals[i].to = item->seal.to;
        seals[i].epoch = item->seal.epoch;
        m.seals[m.n_seals++] = &seals[i];
    }
    link_send(link_of(s), FRAME_SEALS, &m.base, NULL, 0);
    free(m.seals);
    free(seals);
}

static void send_lead(struct shard_peer *s, const struct shard_order *o) {
    Mr__Lead m = MR__LEAD__INIT;
    m.term = o->term;
    link_send(link_of(s), FRAME_LEAD, &m.base, NULL, 0);
}

static void send_hold(struct shard_peer *s, const struct shard_order *o) {
    Mr__Hold m = MR__HOLD__INIT;
    m.partition = o->partition;
    m.target = o->hold.target;
    m.at_most_us = o->hold.at_most;
    link_send(link_of(s), FRAME_HOLD, &m.base, NULL, 0);
}

static void send_drop(struct shard_peer *s, const struct shard_order *o) {
    Mr__DropReplica m = MR__DROP_REPLICA__INIT;
    m.partition = o->partition;
    m.epoch = o->epoch;
    link_send(link_of(s), FRAME_DROP_REPLICA, &m.base, NULL, 0);
}

static void send_ping(struct shard_peer *s, const struct shard_order *o) {
    Mr__Ping m = MR__PING__INIT;
    m.sent_at = o->sent_at;
    link_send(link_of(s), FRAME_PING, &m.base, NULL, 0);
}

void shard_orders_send(struct controller *c, struct shard_peer *s, const struct shard_order *o) {
    switch (o->type) {
    case SHARD_MEMBERS:
        send_members(c, s);
        break;
    case SHARD_RECORDS:
        send_records(c, s, o);
        break;
    case SHARD_LEAD:
        send_lead(s, o);
        break;
    case SHARD_SEALS:
        send_seals(s, o);
        break;
    case SHARD_HOLD:
        send_hold(s, o);
        break;
    case SHARD_DROP:
        send_drop(s, o);
        break;
    case SHARD_PING:
        send_ping(s, o);
    }
}

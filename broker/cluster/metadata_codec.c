// SPDX-License-Identifier: Apache-2.0
/*
 * The checkpoint: format, index, cluster, nodes, mailboxes with their partitions,
 * drops; the order is that of ids, so equal states are equal bytes.
 *
 * To change it: bump METADATA_FORMAT, keep the old reader, add a fixture to
 * tests/data.
 */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "cluster/metadata_private.h"

static void mailbox_encode(const struct metadata_mailbox *b, struct encoder *e) {
    encode_varint(e, b->id);
    encode_string(e, b->name);
    settings_encode(&b->settings, e);
    encode_varint(e, b->partitions_count);
    for (uint32_t i = 0; i < b->partitions_count; i++)
        encode_varint(e, b->partitions[i]);
    encode_varint(e, b->subscriptions_count);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        encode_string(e, b->subscriptions[i].name);
        encode_varint(e, b->subscriptions[i].from);
        encode_varint(e, b->subscriptions[i].value);
    }
}

static void partition_encode(const struct metadata_partition *p, struct encoder *e) {
    encode_varint(e, p->id);
    encode_varint(e, p->mailbox);
    encode_varint(e, p->number);
    encode_varint(e, p->crashes);
    encode_varint(e, p->crash_epoch);
    replica_record_encode(&p->record, e);
}

void metadata_encode(const struct metadata *m, struct encoder *e) {
    encode_u8(e, METADATA_FORMAT);
    encode_varint(e, m->index);
    encode_string(e, m->cluster);
    encode_u64(e, m->cluster_id);
    encode_varint(e, m->next_mailbox);
    encode_varint(e, m->next_partition);
    encode_varint(e, m->nodes_count);
    for (size_t i = 0; i < m->nodes_count; i++) {
        encode_u8(e, (uint8_t)m->nodes[i].state);
        node_info_encode(&m->nodes[i].info, e);
    }
    encode_varint(e, m->partitions_count);
    for (size_t i = 0; i < m->partitions_count; i++)
        partition_encode(m->partitions[i], e);
    encode_varint(e, m->mailboxes_count);
    for (size_t i = 0; i < m->mailboxes_count; i++)
        mailbox_encode(&m->mailboxes[i]->mailbox, e);
    encode_varint(e, m->drops_count);
    for (size_t i = 0; i < m->drops_count; i++) {
        encode_varint(e, m->drops[i].partition);
        encode_u64(e, m->drops[i].member);
        encode_varint(e, m->drops[i].epoch);
        encode_u8(e, m->drops[i].removed);
    }
}

static bool restore_nodes(struct metadata *m, struct decoder *d) {
    uint64_t count = decode_varint(d);
    if (count > METADATA_NODES_MAX)
        return false;
    for (uint64_t i = 0; i < count; i++) {
        xgrow(&m->nodes, &m->nodes_capacity, m->nodes_count + 1, sizeof *m->nodes);
        struct metadata_node *n = &m->nodes[m->nodes_count];
        *n = (struct metadata_node){.id = m->next_node};
        uint8_t state = decode_u8(d);
        if (state > NODE_LEFT || !node_info_decode(d, &n->info))
            return false;
        n->state = state;
        m->next_node++;
        m->nodes_count++;
    }
    metadata_index_members(m);
    return true;
}

static bool restore_partitions(struct metadata *m, struct decoder *d) {
    uint64_t count = decode_varint(d), last = 0;
    for (uint64_t i = 0; i < count && !d->failed; i++) {
        struct metadata_partition p = {.id = decode_varint(d)};
        p.mailbox = decode_varint(d);
        p.number = (uint32_t)decode_varint(d);
        p.crashes = (uint32_t)decode_varint(d);
        p.crash_epoch = decode_varint(d);
        if (!replica_record_decode(d, &p.record) || p.id <= last || p.id >= m->next_partition)
            return false;
        last = p.id;
        struct metadata_partition *kept = xmalloc(sizeof *kept);
        *kept = p;
        metadata_insert_partition(m, kept);
    }
    return !d->failed;
}

static bool restore_mailbox(struct metadata *m, struct decoder *d, struct metadata_mailbox *b) {
    b->id = decode_varint(d);
    decode_string(d, b->name, sizeof b->name);
    if (!settings_decode(d, &b->settings))
        return false;
    uint64_t partitions = decode_varint(d);
    if (partitions > MAILBOX_PARTITIONS_MAX)
        return false;
    b->partitions_count = (uint32_t)partitions;
    b->partitions = xcalloc(partitions + 1, sizeof *b->partitions);
    for (uint32_t i = 0; i < b->partitions_count; i++) {
        b->partitions[i] = decode_varint(d);
        if (!metadata_partition(m, b->partitions[i]))
            return false;
    }
    uint64_t subscriptions = decode_varint(d);
    if (subscriptions > METADATA_SUBSCRIPTIONS_MAX)
        return false;
    b->subscriptions_count = (uint32_t)subscriptions;
    b->subscriptions = xcalloc(subscriptions + 1, sizeof *b->subscriptions);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        decode_string(d, b->subscriptions[i].name, sizeof b->subscriptions[i].name);
        b->subscriptions[i].from = (uint32_t)decode_varint(d);
        b->subscriptions[i].value = decode_varint(d);
    }
    return !d->failed && b->id < m->next_mailbox;
}

static bool restore_mailboxes(struct metadata *m, struct decoder *d) {
    uint64_t count = decode_varint(d), last = 0;
    for (uint64_t i = 0; i < count && !d->failed; i++) {
        struct mailbox_slot *slot = xcalloc(1, sizeof *slot);
        if (!restore_mailbox(m, d, &slot->mailbox) || slot->mailbox.id <= last ||
            metadata_slot_named(m, slot->mailbox.name)) {
            free(slot->mailbox.partitions);
            free(slot->mailbox.subscriptions);
            free(slot);
            return false;
        }
        last = slot->mailbox.id;
        metadata_insert_mailbox(m, slot);
    }
    return !d->failed;
}

static bool restore_drops(struct metadata *m, struct decoder *d) {
    uint64_t count = decode_varint(d);
    for (uint64_t i = 0; i < count && !d->failed; i++) {
        struct metadata_drop drop = {.partition = decode_varint(d)};
        drop.member = decode_u64(d);
        drop.epoch = decode_varint(d);
        drop.removed = decode_u8(d) != 0;
        metadata_drop_insert(m, &drop);
    }
    return !d->failed;
}

static bool restore_all(struct metadata *m, struct decoder *d) {
    if (decode_u8(d) != METADATA_FORMAT)
        return false;
    m->index = decode_varint(d);
    decode_string(d, m->cluster, sizeof m->cluster);
    m->cluster_id = decode_u64(d);
    m->next_mailbox = decode_varint(d);
    m->next_partition = decode_varint(d);
    return !d->failed && restore_nodes(m, d) && restore_partitions(m, d) && restore_mailboxes(m, d) &&
           restore_drops(m, d);
}

bool metadata_restore(struct metadata *m, struct decoder *d, struct metadata_changes *changes) {
    metadata_clear(m);
    changes->everything = true;
    if (restore_all(m, d))
        return true;
    metadata_clear(m);
    return false;
}

// SPDX-License-Identifier: Apache-2.0
/* The metadata's own layout; only metadata*.c see it. */
#ifndef MAILROOM_CLUSTER_METADATA_PRIVATE_H
#define MAILROOM_CLUSTER_METADATA_PRIVATE_H

#include <uthash.h>

#include "cluster/metadata.h"

enum { METADATA_FORMAT = 1, METADATA_NODES_MAX = 1024 /* LEFT ones included */ };

struct mailbox_slot {
    struct metadata_mailbox mailbox;
    UT_hash_handle hh; /* by name */
};

/* Where a member lives. */
struct member_slot {
    member_t member;
    size_t node; /* position in nodes */
    int shard;
    UT_hash_handle hh;
};

/* How many mailboxes name this one as their dead-letter mailbox. */
struct dead_letter_slot {
    char name[NAME_BYTES_MAX + 1];
    uint32_t users;
    UT_hash_handle hh;
};

struct metadata {
    uint64_t index;
    char cluster[NODE_NAME_BYTES_MAX + 1];
    uint64_t cluster_id;

    struct metadata_node *nodes; /* by id */
    size_t nodes_count, nodes_capacity;
    uint32_t next_node;
    struct member_slot *members;

    struct mailbox_slot **mailboxes; /* by id */
    size_t mailboxes_count, mailboxes_capacity;
    uint64_t next_mailbox;
    struct mailbox_slot *names;
    struct dead_letter_slot *dead_letters;

    struct metadata_partition **partitions; /* by id */
    size_t partitions_count, partitions_capacity;
    uint64_t next_partition;

    struct metadata_drop *drops; /* by (partition, member) */
    size_t drops_count, drops_capacity;
};

void metadata_clear(struct metadata *m);
struct mailbox_slot *metadata_slot_named(const struct metadata *m, const char *name);
struct metadata_partition *metadata_partition_mutable(const struct metadata *m, uint64_t id);
/* Append (its id is above all others); takes ownership of the slot. */
void metadata_insert_mailbox(struct metadata *m, struct mailbox_slot *slot);
void metadata_insert_partition(struct metadata *m, struct metadata_partition *p);
void metadata_remove_mailbox(struct metadata *m, struct mailbox_slot *slot);
void metadata_remove_partition(struct metadata *m, uint64_t id);
void metadata_index_members(struct metadata *m); /* after nodes changed */
void metadata_dead_letter_count(struct metadata *m, const char *name, int by);
void metadata_drop_insert(struct metadata *m, const struct metadata_drop *d);
bool metadata_drop_remove(struct metadata *m, uint64_t partition, member_t member);

void metadata_changed_node(struct metadata_changes *c, uint32_t id);
void metadata_changed_mailbox(struct metadata_changes *c, uint64_t id);
void metadata_changed_partition(struct metadata_changes *c, uint64_t id);
void metadata_changed_drop(struct metadata_changes *c, const struct metadata_drop *d);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata state machine: nodes, mailboxes, partitions. Every controller
 * applies the same commands (cluster/command.h) in the same order and holds the
 * same state; two of them that have applied the same index encode to the same
 * bytes.
 *
 * Pure: no clock, no random source. One thread. What apply changed is named by
 * ids, so that differences are sent on, not everything.
 *
 * Pointers handed out are borrowed until the next apply or restore.
 */
#ifndef MAILROOM_CLUSTER_METADATA_H
#define MAILROOM_CLUSTER_METADATA_H

#include "base/err.h"
#include "cluster/command.h"

enum {
    METADATA_MAILBOXES_MAX = 200000,
    METADATA_PARTITIONS_MAX = 400000,
    METADATA_SUBSCRIPTIONS_MAX = 1024, /* of one mailbox */
    METADATA_CRASHES_MAX = 3,          /* attributed crashes: quarantined from here on */
    METADATA_RECORD_EPOCH_FIRST = 1,   /* of a partition's first record */
    METADATA_DEAD_LETTER_DEPTH_MAX = 64
};

struct metadata;

struct metadata_node {
    uint32_t id; /* from 1, never reused */
    struct node_info info;
    enum node_state state;
};

struct metadata_subscription {
    char name[NAME_BYTES_MAX + 1];
    uint32_t from;
    uint64_t value;
};

struct metadata_mailbox {
    uint64_t id; /* from 1, never reused */
    char name[NAME_BYTES_MAX + 1];
    struct mailbox_settings settings; /* replicas: wanted */
    uint32_t partitions_count;
    uint64_t *partitions; /* ids by number */
    uint32_t subscriptions_count;
    struct metadata_subscription *subscriptions; /* by name */
};

struct metadata_partition {
    uint64_t id; /* from 1 (0 is the metadata group), never reused */
    uint64_t mailbox;
    uint32_t number;
    struct replica_record record;
    uint32_t crashes;     /* attributed, in a row */
    uint64_t crash_epoch; /* of the newest one */
};

/* Data that a member still has to drop: it left the set, or the mailbox is gone. */
struct metadata_drop {
    uint64_t partition;
    member_t member;
    uint64_t epoch;
    bool removed; /* the mailbox is deleted */
};

/* What one apply (or several) changed. Ids may stand in it twice. */
struct metadata_changes {
    bool everything; /* restored from a checkpoint */
    uint32_t *nodes;
    size_t nodes_count, nodes_capacity;
    uint64_t *mailboxes; /* created, changed and deleted (no longer found) ones */
    size_t mailboxes_count, mailboxes_capacity;
    uint64_t *partitions; /* changed and deleted ones */
    size_t partitions_count, partitions_capacity;
    struct metadata_drop *drops; /* new ones */
    size_t drops_count, drops_capacity;
};
void metadata_changes_clear(struct metadata_changes *c); /* keeps the memory */
void metadata_changes_free(struct metadata_changes *c);

/* What applying a command answers. */
struct metadata_result {
    enum err code;
    char text[ERR_DETAIL_BYTES]; /* for people; "" with ERR_OK */
    uint64_t id;                 /* MAILBOX_CREATE: the mailbox's id */
    uint32_t stale;              /* RECORDS: how many changes were refused */
};

struct metadata *metadata_new(void);
void metadata_free(struct metadata *m);

/*
 * Apply one committed command; index is its entry's, above the one before.
 * A refused command changes nothing but the applied index:
 *   ERR_INVALID    malformed, bad name or value, a dead-letter cycle
 *   ERR_EXISTS     a mailbox with other settings; the text names the first
 *   ERR_NOT_FOUND  mailbox, subscription, node, partition
 *   ERR_FULL       a limit above
 *   ERR_STALE      computed from a record that is no longer current
 *   ERR_UNSAFE     would lose data or a majority
 * RECORDS applies those changes that are current and counts the others in
 * `stale`; code is ERR_STALE when none was.
 */
void metadata_apply(struct metadata *m, uint64_t index, const void *command, size_t size,
                    struct metadata_result *result, struct metadata_changes *changes);
/* Entries that are no command (EPOCH, CONFIG) only move the index. */
void metadata_skip(struct metadata *m, uint64_t index);
uint64_t metadata_index(const struct metadata *m);

/* The whole state; restore replaces everything (false: malformed, then empty). */
void metadata_encode(const struct metadata *m, struct encoder *e);
bool metadata_restore(struct metadata *m, struct decoder *d, struct metadata_changes *changes);

/* ---- questions ---- */

const char *metadata_cluster(const struct metadata *m); /* "" until formed */
uint64_t metadata_cluster_id(const struct metadata *m); /* 0 until formed */

size_t metadata_nodes_count(const struct metadata *m);
const struct metadata_node *metadata_node_at(const struct metadata *m, size_t i); /* by id, LEFT included */
const struct metadata_node *metadata_node(const struct metadata *m, uint32_t id);
const struct metadata_node *metadata_node_named(const struct metadata *m, const char *name);
/* The node a shard's or controller's member lives on; *shard is its index, -1
 * for a controller. NULL: nobody's (a disk that is gone). */
const struct metadata_node *metadata_node_of(const struct metadata *m, member_t member, int *shard);
/* Nodes that are not LEFT; of those, not DRAINING. */
size_t metadata_nodes_in(const struct metadata *m);
size_t metadata_nodes_usable(const struct metadata *m);

size_t metadata_mailboxes_count(const struct metadata *m);
const struct metadata_mailbox *metadata_mailbox(const struct metadata *m, uint64_t id);
const struct metadata_mailbox *metadata_mailbox_named(const struct metadata *m, const char *name);
/* Walk by id: start with 0; NULL at the end. */
const struct metadata_mailbox *metadata_mailbox_next(const struct metadata *m, uint64_t after);

size_t metadata_partitions_count(const struct metadata *m);
const struct metadata_partition *metadata_partition(const struct metadata *m, uint64_t id);
const struct metadata_partition *metadata_partition_next(const struct metadata *m, uint64_t after);
bool metadata_quarantined(const struct metadata_partition *p);
/* Is the member in any of the record's sets (current, previous, learners)? */
bool metadata_holds(const struct replica_record *r, member_t member);

/* Drops not yet done, by (partition, member). */
size_t metadata_drops_count(const struct metadata *m);
const struct metadata_drop *metadata_drop_at(const struct metadata *m, size_t i);
const struct metadata_drop *metadata_drop_find(const struct metadata *m, uint64_t partition, member_t member);

/* Replicas a partition of this mailbox is to have now: min(wanted, usable
 * nodes), 1 while the cluster has fewer than three nodes. */
uint32_t metadata_replicas(const struct metadata *m, const struct mailbox_settings *s);
/* Partitions of the mailbox's dead-letter mailbox; 0: none, or it does not exist. */
uint32_t metadata_dead_letter_partitions(const struct metadata *m, const struct metadata_mailbox *b);

#endif

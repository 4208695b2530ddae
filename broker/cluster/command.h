// SPDX-License-Identifier: Apache-2.0
/*
 * Commands of the metadata group: what is proposed, stored as ENTRY_COMMAND and
 * applied by every controller (cluster/metadata.h). The numbers are stored in
 * journals: never renumber, only append.
 *
 * To change a command: give it a new number, keep the old reader.
 *
 * A struct command owns its arrays; command_free gives them up.
 */
#ifndef MAILROOM_CLUSTER_COMMAND_H
#define MAILROOM_CLUSTER_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"
#include "base/settings.h"
#include "replica/replica.h"

#define COMMAND_LIST(X)                                                                                      \
    X(FORM, 1)       /* the cluster exists: its name, id and first nodes */                                  \
    X(NODE_SET, 2)   /* a node joins, or says something new of itself */                                     \
    X(NODE_STATE, 3) /* drain, resume, remove */                                                             \
    X(MAILBOX_CREATE, 4)                                                                                     \
    X(MAILBOX_UPDATE, 5)                                                                                     \
    X(MAILBOX_DELETE, 6)                                                                                     \
    X(SUBSCRIPTION_CREATE, 7)                                                                                \
    X(SUBSCRIPTION_DELETE, 8)                                                                                \
    X(RECORDS, 9)    /* partitions' new epochs, each from a version of its record */                         \
    X(ACTIVATED, 10) /* both majorities store the epoch's record: S alone */                                 \
    X(LEARNERS, 11)  /* who is fed without counting */                                                       \
    X(CRASHES, 12)   /* attributed crashes of a partition */                                                 \
    X(RELEASE, 13)   /* of a mailbox: forget the crashes */                                                  \
    X(DROPPED, 14)   /* members have dropped data they were told to drop */

enum command_type {
#define X(name, number) COMMAND_##name = (number),
    COMMAND_LIST(X)
#undef X
};
/* "mailbox-create"; "unknown" for others. */
const char *command_name(enum command_type type);

enum {
    NODE_NAME_BYTES_MAX = 64,
    NODE_ADDRESS_BYTES_MAX = 264,
    NODE_SHARDS_MAX = 64,
    CLUSTER_NODES_MAX = 128,
    COMMAND_RECORDS_MAX = 1024 /* record changes in one command */
};

enum node_state { NODE_ALIVE, NODE_DRAINING, NODE_LEFT };

/* What a node says of itself, as it is committed. */
struct node_info {
    char name[NODE_NAME_BYTES_MAX + 1];
    char zone[NODE_NAME_BYTES_MAX + 1]; /* "": none */
    char cluster_address[NODE_ADDRESS_BYTES_MAX + 1];
    char client_address[NODE_ADDRESS_BYTES_MAX + 1];
    char admin_address[NODE_ADDRESS_BYTES_MAX + 1];
    member_t controller; /* journal identity of its controller */
    uint64_t starts;     /* of that journal: a lower one later is a disk rolled back */
    uint32_t shards_count;
    member_t shards[NODE_SHARDS_MAX]; /* by index */
};

/* Bits of MAILBOX_UPDATE: as enum UpdateField of proto/client.proto. */
enum settings_field {
    SETTINGS_MAX_MESSAGES = 1,
    SETTINGS_MAX_BYTES = 2,
    SETTINGS_TTL = 4,
    SETTINGS_MAX_DELIVERIES = 8,
    SETTINGS_DEAD_LETTER = 16,
    SETTINGS_ACK_TIMEOUT = 32,
    SETTINGS_OVERFLOW = 64,
    SETTINGS_RETAIN = 128
};

/* One partition's first replicas; the leader is one of them. */
struct placing {
    struct replica_set set;
    member_t leader;
};

/* record.epoch must be above the current one; record.version is ignored: the
 * applied record gets base_version + 1. Applied only if base_version is still
 * the partition's version. */
struct record_change {
    uint64_t partition;
    uint64_t base_version;
    struct replica_record record;
    bool lossy; /* mailbox recover --accept-loss: the set may be any */
};

struct drop_done {
    uint64_t partition;
    member_t member;
};

struct command {
    enum command_type type;
    union {
        struct {
            char cluster[NODE_NAME_BYTES_MAX + 1];
            uint64_t cluster_id;
            uint32_t count;
            struct node_info *nodes;
        } form;
        struct node_info node; /* NODE_SET */
        struct {
            char name[NODE_NAME_BYTES_MAX + 1];
            enum node_state state;
        } node_state;
        struct {
            char name[NAME_BYTES_MAX + 1];
            struct mailbox_settings settings;
            uint32_t count; /* 0 in a request: the leading controller fills it in */
            struct placing *placing;
        } mailbox_create;
        struct {
            char name[NAME_BYTES_MAX + 1];
            uint32_t fields; /* enum settings_field */
            struct mailbox_settings settings;
        } mailbox_update;
        struct {
            char name[NAME_BYTES_MAX + 1];
        } mailbox; /* MAILBOX_DELETE, RELEASE */
        struct {
            char mailbox[NAME_BYTES_MAX + 1];
            char name[NAME_BYTES_MAX + 1];
            uint32_t from; /* enum subscription_from */
            uint64_t value;
        } subscription; /* SUBSCRIPTION_CREATE, SUBSCRIPTION_DELETE */
        struct {
            uint32_t count;
            struct record_change *changes;
        } records;
        struct {
            uint64_t partition;
            uint64_t base_version;
            uint64_t epoch;              /* ACTIVATED: the epoch that reported so */
            struct replica_set learners; /* LEARNERS */
        } partition;
        struct {
            uint64_t partition;
            uint64_t epoch; /* it was in when it crashed: one crash is counted once */
            uint32_t crashes;
        } crashes;
        struct {
            uint32_t count;
            struct drop_done *done;
        } dropped;
    };
};

void command_encode(const struct command *c, struct encoder *e);
/* False: malformed, or a number this release does not know; *out is empty then. */
bool command_decode(const void *data, size_t size, struct command *out);
void command_free(struct command *c);

/* Shared with the checkpoint's codec. */
void node_info_encode(const struct node_info *n, struct encoder *e);
bool node_info_decode(struct decoder *d, struct node_info *out);
void replica_record_encode(const struct replica_record *r, struct encoder *e);
bool replica_record_decode(struct decoder *d, struct replica_record *out);

#endif

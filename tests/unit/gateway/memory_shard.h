// SPDX-License-Identifier: Apache-2.0
/* A shard without journal and replicas: the mailbox core behind a listener. A
 * partition's state outlives its leader, as if it were replicated: another shard
 * may take it over. */
#ifndef MAILROOM_TESTS_UNIT_GATEWAY_MEMORY_SHARD_H
#define MAILROOM_TESTS_UNIT_GATEWAY_MEMORY_SHARD_H

#include "mailbox/mailbox.h"
#include "wire/frames.h"
#include "wire/listener.h"
#include "wire/loop.h"

struct memory_shard;

struct memory_partition {
    uint64_t id;
    uint32_t number;
    struct mailbox *mailbox;
    struct mailbox_effects effects;
    uint64_t index; /* of the last entry */
    uint64_t epoch;
    struct body **batches; /* by index */
    size_t batches_capacity;
    struct memory_shard *leader; /* NULL: none */
};

struct memory_shard {
    struct loop *loop;
    struct listener *listener;
    struct link *link; /* the gateway's, NULL: none */
    bool greeted;
    uint64_t link_id;
    uint64_t member;
    struct memory_partition *partitions; /* all there are, led here or not */
    size_t count;
    Mr__Receipt *receipts; /* this turn's */
    size_t receipts_count, receipts_capacity;
};

void memory_partition_open(struct memory_partition *p, uint64_t id, uint32_t number,
                           const struct mailbox_settings *settings);
void memory_partition_close(struct memory_partition *p);

void memory_shard_listen(struct memory_shard *s, const char *url);
/* The process is gone: listener and link at once, its partitions without leader. */
void memory_shard_die(struct memory_shard *s);
/* The link to the gateway breaks, with what is on it; the process lives. */
void memory_shard_cut(struct memory_shard *s);
/* Lead it in the next epoch. */
void memory_shard_lead(struct memory_shard *s, struct memory_partition *p);
/* At the end of each turn of the loop. */
void memory_shard_turn(struct memory_shard *s);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the simulated shard share. The names are those of
 * broker/shard/shard_private.h: what is simulated is what runs. */
#ifndef MAILROOM_SIM_SHARD_H
#define MAILROOM_SIM_SHARD_H

#include "sim.h"

enum {
    SHARD_CONFIRM_US = 50000,
    SHARD_LOAD_US = 200000,
    SHARD_RECLAIM_US = 100000,
    SHARD_RECLAIM_STEPS = 8,
    SHARD_FETCH_BYTES = 1048576,
    SHARD_FETCH_ENTRIES = 1024,
    SHARD_CACHED_READS = 4,
    DAMAGE_START_SHIFT = 24
};

struct staged {
    uint64_t index, epoch;
};

struct waiting_run {
    struct mailbox_effect effect;
    char subscription[SIM_NAME_BYTES];
};

struct read_batch {
    uint64_t index;
    struct body *body;
};

struct hosted {
    uint64_t id;
    struct process *process;
    struct shard *shard;
    struct partition *partition;
    struct replica_record record;
    struct mailbox_settings settings;
    struct wish wishes[SIM_SUBSCRIPTIONS_MAX + 1];
    size_t wishes_count;
    char name[SIM_NAME_BYTES];
    uint32_t number, dead_letter_partitions;
    int seal_from; /* the controller that asked last */
    uint64_t seal_link;
    bool dirty;
    uint64_t flushed_mark, checkpoint_pending;
    struct staged *staged;
    size_t staged_count, staged_capacity;
    struct waiting_run *runs; /* a queue */
    size_t runs_count, runs_capacity;
    bool reading;
    struct read_batch cached[SHARD_CACHED_READS];
    unsigned cached_next;
    bool wishes_due;
};

struct fence {
    uint64_t partition, promise;
};

struct peer {
    struct fence *fences; /* by partition, sorted */
    size_t fenced_count, fenced_capacity;
};

struct flush_item {
    uint64_t partition, mark, checkpoint;
};

struct flush {
    uint64_t ticket;
    struct flush_item *items;
    size_t count, capacity;
    struct flush *next;
};

struct forward {
    uint64_t request, partition, intent, after;
    struct producer_id producer;
    char target[SIM_NAME_BYTES];
    uint32_t target_partition;
    uint64_t batch_index, base_offset, offset;
    bool reading;
    struct forward *next;
};

struct shard {
    struct process *process;
    struct hosted **hosted; /* sorted by partition's id */
    size_t hosted_count, hosted_capacity;
    struct peer *peers; /* by process's id */
    bool *leads;        /* by process's id: controllers that lead, as they said */
    uint64_t controller_term, next_request;
    struct flush *flushes, *flushes_last;
    struct forward *forwards;
    usec_t confirm_at, load_at, reclaim_at;
};

#define HOSTED_EACH(s, h)                                                                                    \
    for (size_t h##_i = 0; h##_i < (s)->hosted_count; h##_i++)                                               \
        for (struct hosted *h = (s)->hosted[h##_i]; h; h = NULL)

void shard_touch(struct hosted *h);
struct hosted *shard_find(struct shard *s, uint64_t partition);
const struct partition_host *shard_host(void);
void shard_report(struct hosted *h, enum control_report_kind kind, uint64_t epoch, member_t peer);

bool storage_partition(struct hosted *h);
void storage_write(struct hosted *h, const struct replica_effect *e);
void storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c);
void storage_flush(struct shard *s);
void storage_reclaim(struct shard *s);
void storage_synced(struct shard *s, uint64_t ticket);
void reader_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who);
void reader_batch(struct hosted *h, uint64_t index);

void orders_wishes(struct hosted *h);
void orders_message(struct shard *s, int from, struct message *m);
void service_message(struct shard *s, int from, struct message *m);
void service_effect(struct hosted *h, const struct mailbox_effect *e);
size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max);
void service_not_leading(struct hosted *h);
void service_up(struct shard *s, int gateway);
void service_down(struct shard *s, int gateway, uint64_t link);
void deliver_read(struct hosted *h, uint64_t index, struct body *body);
void deliver_forget(struct hosted *h);
void letters_forget(struct hosted *h);

#endif

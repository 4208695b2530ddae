// SPDX-License-Identifier: Apache-2.0
/* The simulated host of a shard: the shard itself is the broker's (shard/core). */
#ifndef MAILROOM_SIM_SHARD_H
#define MAILROOM_SIM_SHARD_H

#include "shard/core/core.h"
#include "sim.h"

struct sim_link {
    struct shard_link shard; /* first */
    int other;               /* process's id */
};

struct due_tick { /* of a partition's timer */
    usec_t at;
    uint64_t partition;
};

struct sim_shard {
    struct shard shard; /* first */
    struct process *process;
    struct sim_link *links; /* by the other's process id */
    usec_t confirm_at, load_at, reclaim_at;
    struct due_tick *due; /* a heap */
    size_t due_count, due_capacity;
};

static inline struct sim_shard *shard_host_of(const struct process *p) {
    return (struct sim_shard *)p->shard;
}

/* ---- shard_messages.c ---- */
extern const struct shard_calls shard_message_calls;
void shard_from_peer(struct sim_link *l, struct message *m);
void shard_from_controller(struct sim_link *l, struct message *m);
void shard_from_gateway(struct sim_link *l, struct message *m);

/* ---- shard.c: the host's part of the calls ---- */
usec_t shard_host_now(void *host);
usec_t shard_host_wall(void *host);
void shard_host_working_on(void *host, uint64_t partition);
void shard_host_say(void *host, bool error, const char *text);
void shard_host_timer(void *host, struct hosted *h, usec_t at);
void shard_host_read(void *host, struct read_job *job);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the simulated controller share; the names are those of
 * broker/controller. */
#ifndef MAILROOM_SIM_CONTROLLER_H
#define MAILROOM_SIM_CONTROLLER_H

#include "controller/core.h"
#include "sim.h"

enum {
    CONTROLLER_CHECKPOINT_ENTRIES = 256, /* fewer than the broker's: so that it happens */
    CONTROLLER_HEARTBEAT_US = 50000
};

struct introduction {
    bool known;
    struct node_info node;
    bool empty, joins;
    uint64_t cluster_id;
};

struct due { /* partitions, some named more than once */
    uint64_t *partitions;
    size_t count, capacity;
};

struct controller {
    struct process *process;
    struct core core;
    bool formed_proposed, led;
    struct introduction *introductions; /* by node */
    usec_t heartbeat_at, tick_at;
    member_t *shards_known; /* by process: links to shards that have been taken up */
    struct due *due;        /* by process: this turn's records */
};

#endif

// SPDX-License-Identifier: Apache-2.0
/* The simulated controller: a host of the broker's own core. */
#ifndef MAILROOM_SIM_CONTROLLER_H
#define MAILROOM_SIM_CONTROLLER_H

#include "controller/core.h"
#include "sim.h"

enum {
    CONTROLLER_CHECKPOINT_ENTRIES = 256, /* fewer than the broker's: so that it happens */
    CONTROLLER_HEARTBEAT_US = 100000,
    CONTROLLER_REQUEST_US = 100000 /* an administration request has so long, then it is asked anew */
};

struct controller {
    struct process *process;
    struct core core;
    struct config config;
    struct peer **peers;        /* by node, once known */
    struct shard_peer **shards; /* by process, once known */
    usec_t beat_at, tick_at;
    uint64_t next_request;
};

#endif

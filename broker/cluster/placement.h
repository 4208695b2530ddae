// SPDX-License-Identifier: Apache-2.0
/*
 * Where replicas and leaders go. Target: leaders and replicas per node differ by
 * at most 1 or 10 %, whichever is more; zones (where named) hold one replica of
 * a partition each while there are enough of them.
 *
 * A plan is a short list of steps, each of which brings the cluster strictly
 * nearer to even (a potential falls, so that plans end and never swing); a
 * difference inside the target moves nothing. What is already under way counts
 * as done. The caller bounds how many steps are taken at once.
 *
 * Pure: a view in, steps out. One thread.
 */
#ifndef MAILROOM_CLUSTER_PLACEMENT_H
#define MAILROOM_CLUSTER_PLACEMENT_H

#include "base/units.h"
#include "cluster/metadata.h"

enum {
    PLACEMENT_SPREAD_MIN = 1,      /* difference that is even enough */
    PLACEMENT_SPREAD_PERCENT = 10, /* or this share of the mean */
    PLACEMENT_STEPS_MAX = 256
};

/* A node as placement sees it. */
struct placement_node {
    uint32_t id;
    bool usable;   /* new replicas and leaders may go here: alive, not draining or left */
    bool lost;     /* replicas here are to be built elsewhere: left, draining, dead past the grace */
    uint64_t load; /* measured, any unit; breaks ties between equal counts */
    uint32_t shards_count;
    member_t shards[NODE_SHARDS_MAX];
    bool shard_up[NODE_SHARDS_MAX];
    char zone[NODE_NAME_BYTES_MAX + 1];
    /* filled by placement_view_fill */
    uint32_t leaders, replicas;
    uint32_t shard_leaders[NODE_SHARDS_MAX], shard_replicas[NODE_SHARDS_MAX];
};

struct placement_view {
    struct placement_node *nodes;
    size_t count;
    uint64_t seed; /* breaks the remaining ties: the same seed, the same answer */
};

/* Count leaders and replicas from the metadata. Members that no node has count
 * for nobody. A set that is changing counts as it is to be. */
void placement_view_fill(struct placement_view *v, const struct metadata *m);
/* Count what is under way: one more (by = 1) or fewer (-1) on the member's node. */
void placement_count_replica(struct placement_view *v, const struct metadata *m, member_t member, int by);
void placement_count_leader(struct placement_view *v, const struct metadata *m, member_t member, int by);

/* First replicas of `count` new partitions, spread; the view counts them.
 * ERR_UNAVAILABLE: fewer than one usable shard. With fewer usable nodes than
 * replicas the sets are smaller. */
enum err placement_new(struct placement_view *v, uint32_t count, uint32_t replicas, struct placing *out);

enum placement_step_type {
    PLACEMENT_LEAD, /* move leadership to `to`, a member of the set */
    PLACEMENT_SET   /* change the set to `set`: grow, shrink, rebuild or move a replica */
};
struct placement_step {
    enum placement_step_type type;
    uint64_t partition;
    member_t to;
    struct replica_set set;
    bool urgent; /* restores replicas that are lost, rather than evening out */
};

/* May this partition be touched now? (No operation under way, led, not
 * quarantined, all members of its set up where that matters.) */
typedef bool placement_may(void *ctx, const struct metadata_partition *p);

/* The next steps, most urgent first; at most max (<= PLACEMENT_STEPS_MAX), one a
 * partition. The view is changed as if they were done. */
size_t placement_plan(struct placement_view *v, const struct metadata *m, placement_may *may, void *ctx,
                      struct placement_step *out, size_t max);

/* The largest difference that counts as even for this mean. */
uint32_t placement_slack(uint64_t total, size_t nodes);

#endif

// SPDX-License-Identifier: Apache-2.0
/* The control over real replicas: what it decides is carried out by the code that
 * will carry it out, in virtual time; the metadata group is a delay. */
#ifndef MAILROOM_TESTS_CLUSTER_CONTROL_STORY_H
#define MAILROOM_TESTS_CLUSTER_CONTROL_STORY_H

#include "cluster/control.h"
#include "world.h"

#define MS(n) ((usec_t)(n)*USEC_MS)

enum {
    PROPOSE_US = 600,
    NODES_MAX = 6,
    PARTITIONS_MAX = 200,
    EPOCHS_MAX = 200,
    INDEX_MAX = 4000,
    GRACE_MS = 2000
};

struct oracle {
    member_t leader_of[EPOCHS_MAX];
    uint16_t committed[INDEX_MAX]; /* epoch of each applied index */
    uint64_t furthest;             /* highest applied by a leader: receipted */
    uint64_t led_epoch;            /* newest ACTIVE */
    usec_t led_at;
};

struct story {
    struct world *world;
    struct metadata *m;
    struct detector *d;
    struct control *control;
    unsigned nodes, shards;
    unsigned disk[NODES_MAX + 1]; /* how often a node's was replaced */
    bool mute;                    /* the controller reaches nobody: what it sends is lost */
    struct oracle oracle[PARTITIONS_MAX];
    bool turn_due;
    member_t ignorant; /* says of every partition that it does not know it */
    unsigned proposals, record_proposals, seals;
    uint64_t epoch_lead; /* of control_start */
};

struct order {
    struct control_effect effect;
    struct replica_record record;
};

/* Around each call to the control. */
void report(struct story *s, struct control_report r);
void do_seal(struct story *s, struct host *h, const struct control_effect *e);
void do_record(struct story *s, struct host *h, const struct order *o);
void hear_all(struct story *s);
void node_joins(struct story *s);
void lead_metadata(struct story *s);
struct story *tell(unsigned nodes, uint64_t seed);
void end(struct story *s);
void propose_command(struct story *s, const struct command *c);
void create(struct story *s, const char *name, uint32_t partitions, uint32_t replicas);
void publish_all(struct story *s);
const struct replica_record *record(const struct story *s, uint64_t partition);
bool led(const struct story *s, uint64_t partition);
void expect_all_led(const struct story *s, const char *when);
void kill_node(struct story *s, unsigned n, bool seen);
void start_node(struct story *s, unsigned n);
/* Dies unseen and is back at once with another disk, so with other members. */
void wipe_node(struct story *s, unsigned n);
member_t member_on(const struct story *s, unsigned n, unsigned shard); /* as of its disk now */
/* Killed, and `entries` of each log are lost. */
void power_off(struct story *s, unsigned n, uint64_t entries);
unsigned leaders_on(const struct story *s, unsigned n);
unsigned replicas_on(const struct story *s, unsigned n);
void create_many(struct story *s, unsigned count);
void control_call_begin(struct control_effects *fx);
void end_call(struct story *s, struct control_effects *fx);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the simulated controller share; the names are those of
 * broker/controller. */
#ifndef MAILROOM_SIM_CONTROLLER_H
#define MAILROOM_SIM_CONTROLLER_H

#include "sim.h"

enum {
    GROUP_PARTITION = 0,
    CONTROLLER_CHECKPOINT_ENTRIES = 256, /* fewer than the broker's: so that it happens */
    CONTROLLER_HEARTBEAT_US = 50000,
    CONTROLLER_FETCH_ENTRIES = 1024
};
#define VOTES_PARTITION UINT64_MAX

struct control_proposal {
    uint64_t index, tag;
    struct control_proposal *next;
};

struct group_flush {
    uint64_t ticket, mark, checkpoint;
    struct group_flush *next;
};

struct introduction {
    bool known;
    struct node_info node;
    bool empty;
    uint64_t cluster_id;
};

struct due { /* partitions, some named more than once */
    uint64_t *partitions;
    size_t count, capacity;
};

struct controller {
    struct process *process;
    struct rng rng;
    bool empty;
    uint64_t votes_index;
    struct replica *replica;
    struct replica_effects replica_effects;
    struct election *election;
    struct election_effects election_effects;
    struct metadata *metadata;
    struct metadata_changes changes;
    struct detector *detector;
    struct detector_changes detected;
    struct control *control;
    struct control_effects control_effects;
    bool running, leads, formed_proposed;
    uint64_t flushed_mark, checkpoint_base, checkpoint_pending;
    struct group_flush *flushes, *flushes_last;
    struct control_proposal *proposals, *proposals_last;
    struct introduction *introductions; /* by node */
    usec_t heartbeat_at, tick_at;
    member_t *shards_known; /* by process: links to shards that have been taken up */
    struct due *due;        /* by process: this turn's records */
};

/* group.c */
void group_open(struct controller *c);
void group_run(struct controller *c);
void group_turn(struct controller *c);
void group_found(struct controller *c);
void group_learners(struct controller *c);
void group_detected(struct controller *c);
void group_synced(struct controller *c, uint64_t ticket);
enum err group_propose(struct controller *c, struct body *command, uint64_t *index);
bool group_message(struct controller *c, struct message *m);
void group_peer_up(struct controller *c, member_t m);
void group_peer_down(struct controller *c, member_t m, bool gone);
void group_free(struct controller *c);

/* group_journal.c */
void group_flush_turn(struct controller *c);
void group_write_vote(struct controller *c, uint64_t epoch, member_t candidate);
void group_checkpoint(struct controller *c);
void group_reclaim(struct controller *c);
void group_fetch(struct controller *c, uint64_t from, uint64_t to, member_t reader);

/* controller.c: other controllers, shards, forming */
int peers_member(struct controller *c, member_t m);
void peers_refresh(struct controller *c);
void shards_changed(struct controller *c, const struct metadata_changes *changes);
void shards_lead(struct controller *c);
void shards_record(struct controller *c, member_t to, uint64_t partition);
void shards_send(struct controller *c, member_t to, struct message *m);
void forming_check(struct controller *c);

#endif

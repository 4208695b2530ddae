// SPDX-License-Identifier: Apache-2.0
/*
 * A small world for replicas: a network that holds each message until told, and
 * a journal a node that forgets what was not synced. Nothing happens by itself
 * but what a test (or the random walk) asks for, so each run is its own trace.
 *
 * Each node has a state machine that folds every applied entry into a digest.
 * The oracle is told of each APPLY and LEADING and fails the test when two nodes
 * disagree, an epoch has two leaders, or something committed changes.
 */
#ifndef TESTS_REPLICA_HARNESS_H
#define TESTS_REPLICA_HARNESS_H

#include "base/body.h"
#include "base/codec.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "replica/replica.h"

enum { NODES_MAX = 6, LIVE_ENTRIES = 4, READ_ENTRIES = 3, LOG_MAX = 8192 };

/* What the journal knows after replaying records. */
struct disk {
    uint64_t promise;
    member_t candidate;
    uint64_t base_index, base_epoch;
    struct body *checkpoint;
    struct entry *entries; /* above the base */
    size_t count, capacity;
    struct entry *live; /* batches at or below the base */
    size_t live_count, live_capacity;
    struct entry *staged;
    size_t staged_count, staged_capacity;
    bool damaged;
    bool doubtful;
};

enum record_type {
    R_WRITE,
    R_TRUNCATE,
    R_PROMISE,
    R_DAMAGED,
    R_WHOLE,
    R_STAGE,
    R_UNSTAGE,
    R_CHECKPOINT,
    R_INSTALL
};

struct record {
    enum record_type type;
    struct entry entry;
    uint64_t number; /* index, epoch, damage or base */
    uint64_t epoch;
    member_t candidate;
    struct body *state;
    uint64_t *live;
    size_t live_count;
    uint64_t mark;
};

/* disk.c */
void entry_push(struct entry **items, size_t *count, size_t *capacity, const struct entry *e);
void entries_cut(struct entry *items, size_t *count, size_t keep);
void disk_free(struct disk *d);
struct disk disk_copy(const struct disk *d);
const struct entry *disk_find(const struct disk *d, uint64_t index);
void replay(struct disk *d, const struct record *r);
void record_free(struct record *r);

struct machine {
    uint64_t applied;
    uint64_t digest;
    uint64_t live[LIVE_ENTRIES]; /* indexes of the newest batches, 0: none */
};

struct fetch {
    uint64_t from, to;
    member_t reader;
};

struct node {
    member_t id;
    bool alive;
    uint64_t starts;
    struct replica *r; /* NULL when not alive */
    struct machine machine;
    struct record *journal;
    size_t count, capacity;
    size_t synced;     /* records that survive anything */
    struct disk floor; /* what stands below the records */
    struct disk disk;  /* the floor and a replay of all records */
    struct fetch *fetches;
    size_t fetches_count, fetches_capacity;
    member_t *snapshots; /* asked for, not given */
    size_t snapshots_count, snapshots_capacity;
    uint64_t own_checkpoint, own_checkpoint_mark; /* written, told when synced */
    uint64_t unreadable;                          /* FETCH of this index fails */
    bool manual_sync;                             /* only sync_node() syncs */
    bool deaf;                                    /* reseal() does not tell it */
    bool manual_reads;                            /* only read_node() answers FETCH and SNAPSHOT */
    unsigned seen[64];                            /* effects by type since it started */
    unsigned seen_ever[64];
    uint64_t superseded;          /* newest REPORT_SUPERSEDED */
    uint64_t activated;           /* newest REPORT_ACTIVATED */
    struct replica_record record; /* newest it was told */
};

struct harness {
    struct node nodes[NODES_MAX];
    size_t count;
    struct replica_options options; /* for each; self is set */
    usec_t now;
    struct replica_effect *messages; /* in flight, oldest first */
    size_t messages_count, messages_capacity;
    bool cut[NODES_MAX][NODES_MAX]; /* [from][to]: dropped when sent */
    struct replica_sealed *sealed;  /* answers that reached the controller */
    size_t sealed_count, sealed_capacity;
    /* the oracle */
    uint64_t committed_epoch[LOG_MAX];
    uint64_t committed_digest[LOG_MAX];
    uint64_t committed;
    member_t leader_of[LOG_MAX];
    bool epoch_used[LOG_MAX]; /* something of it was sent, or committed */
};

struct harness *harness_new(size_t count, const struct replica_options *options);
void harness_free(struct harness *h);
struct node *node_of(struct harness *h, member_t id);

/* ---- events ---- */

void tell_record(struct harness *h, member_t id, const struct replica_record *record);
enum err propose(struct harness *h, member_t id, const char *text);
void pump(struct harness *h, member_t id);
void tick(struct harness *h, member_t id);
void find_damage(struct harness *h, member_t id, uint64_t index); /* a read of it fails */
void sync_node(struct harness *h, member_t id);
void read_node(struct harness *h, member_t id); /* answers the oldest FETCH, else SNAPSHOT */
/* Writes a checkpoint of its own at the applied index. */
void checkpoint(struct harness *h, member_t id);
/* Keeps `keep` records behind the synced ones (at most all there are). */
void crash(struct harness *h, member_t id, size_t keep);
void restart(struct harness *h, member_t id);
/* Cuts the disk of a node that is not alive to `entries` readable entries behind
 * its checkpoint, or takes that away too. */
void damage(struct harness *h, member_t id, size_t entries, bool checkpoint_lost);
/* The machine of a node that is not alive lost its power: `entries` of its log are left. */
void power_lost(struct harness *h, member_t id, size_t entries);
void seal(struct harness *h, member_t id, uint64_t epoch, member_t candidate);
bool longer(const struct replica_sealed *a, const struct replica_sealed *b);

/* Delivers message i (0: the oldest); keep: a duplicate stays in flight. */
void deliver(struct harness *h, size_t i, bool keep);
void lose(struct harness *h, size_t i);
/* First message of the type from and to (0: anybody); SIZE_MAX: none. */
size_t find_message(const struct harness *h, enum replica_effect_type type, member_t from, member_t to);
/* Delivers, syncs, reads and pumps until nothing is left to do. */
void settle(struct harness *h);
/* Time passes: ticks that came due, and what follows from them. */
void pass(struct harness *h, usec_t span);
void isolate(struct harness *h, member_t id, bool cut);

/* ---- shorthands ---- */

struct replica_set set_of(size_t count, const member_t *members);
#define SET(...) set_of(sizeof((member_t[]){__VA_ARGS__}) / sizeof(member_t), (member_t[]){__VA_ARGS__})
/* Epoch 1, led by member 1, tells everyone and settles. */
struct replica_record first_epoch(struct harness *h, struct replica_set set);
/* What a controller does: seals those that answer, picks the longest log of
 * `among`, and tells everyone alive. `next` comes with its sets and version - 1;
 * epoch, leader and last are filled in. False: nobody can lead. */
bool reseal(struct harness *h, struct replica_record *record, struct replica_set among);
uint64_t last_of(struct harness *h, member_t id);
uint64_t commit_of(struct harness *h, member_t id);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What the journal keeps in memory: where each entry of each partition is, and
 * what each segment holds. Pure: no file, no lock. Owner's thread.
 *
 * A slot is a reference to a segment; `refs` and `live` of the segments follow
 * the slots. Nothing here is about durability, but for two tickets: a segment's
 * `release` (its last reference went in that turn) and a partition's `ticket`
 * (its newest checkpoint or drop was written in that turn).
 */
#ifndef MAILROOM_JOURNAL_STATE_H
#define MAILROOM_JOURNAL_STATE_H

#include <uthash.h>

#include "base/body.h"
#include "journal/format.h"
#include "journal/journal.h"

enum { SLOT_DEAD = 1 };

/* 24 bytes: a backlog of many small batches costs that much each. */
struct slot {
    uint32_t segment; /* 0: the bytes are lost */
    uint32_t offset;
    uint32_t bytes;
    uint8_t type;
    uint8_t flags;
    uint64_t epoch;
};

struct live_slot {
    uint64_t index;
    struct slot slot;
};

struct live_list { /* ascending by index */
    struct live_slot *items;
    size_t count, capacity;
};

struct partition {
    uint64_t id;
    uint64_t promise;
    uint64_t boot;
    uint64_t base_index;
    uint64_t base_epoch;
    struct slot *entries; /* [first .. first+count): index base+1 .. last */
    size_t first, count, capacity;
    struct live_list live;
    struct live_list staged;
    struct slot checkpoint; /* its record; segment 0: none. epoch: base epoch */
    struct position reset;  /* of the newest checkpoint or drop; 0: none */
    uint64_t ticket;        /* the turn it was written in; 0: before the start */
    struct position reject; /* replay: a checkpoint here or later has a bad body */
    bool reached;           /* replay: is past `reset` */
    bool dropped, damaged, promise_lost, aside, forgotten;
    uint64_t damaged_from;
    uint32_t noted;   /* the last segment whose partitions name this one */
    uint32_t holders; /* how many segments' partitions name it */
    UT_hash_handle hh;
};

struct segment {
    uint32_t number;
    uint32_t bytes; /* data_bytes of its header */
    uint32_t end;   /* of what counts in it */
    uint64_t live;  /* bytes of batches that are not dead */
    uint64_t held;  /* bytes of all that is referenced */
    uint32_t refs;
    uint64_t release;     /* ticket in which the last reference went */
    bool sealed;          /* its records can be read back from its seal */
    bool tried;           /* copying it forward was not worth it: judged by `held` now */
    uint64_t *partitions; /* those with a record that states something */
    size_t partitions_count, partitions_capacity;
};

struct state {
    struct partition *partitions; /* uthash by id */
    struct segment **segments;    /* ascending by number; the last is the head */
    size_t segments_count, segments_capacity;
    struct segment *recent; /* what segment_find found last */
    uint64_t ticket;        /* of the turn being built */
    uint8_t batch_type;
};

void state_free(struct state *s);

/* ---- segments ---- */

struct segment *segment_add(struct state *s, uint32_t number, uint32_t bytes, uint32_t end);
struct segment *segment_find(struct state *s, uint32_t number);
struct segment *segment_head(const struct state *s);
/* Out of the list, holding nothing any more; the caller frees it with segment_free. */
struct segment *segment_take(struct state *s, uint32_t number);
void segment_free(struct segment *g);
void segment_note(struct segment *g, struct partition *p);

/* ---- partitions ---- */

struct partition *partition_find(const struct state *s, uint64_t id);
/* Made if it is not there. */
struct partition *partition_get(struct state *s, uint64_t id);
void partition_delete(struct state *s, struct partition *p);
/* As if never heard of, but for `reject`. Holds no slots yet. */
void partition_clear(struct partition *p);
uint64_t partition_last(const struct partition *p);
uint64_t partition_last_epoch(const struct partition *p);
/* Behind the base or live below it; NULL: not held. */
struct slot *partition_slot(const struct partition *p, uint64_t index);
struct live_slot *live_find(const struct live_list *l, uint64_t index);
/* In its place; an item with the same index is replaced (its slot is returned in
 * *old, else old->segment is 0). */
void live_put(struct live_list *l, uint64_t index, const struct slot *slot, struct slot *old);

/* Slots that count: a reference more, one less, another place, dead. */
void slot_hold(struct state *s, const struct slot *slot);
void slot_release(struct state *s, const struct slot *slot);
void slot_move(struct state *s, struct slot *slot, uint32_t segment, uint32_t offset);
void slot_kill(struct state *s, struct slot *slot);

void partition_append(struct state *s, struct partition *p, const struct slot *slot);
void partition_truncate(struct state *s, struct partition *p, uint64_t after_index);
void partition_stage(struct state *s, struct partition *p, uint64_t index, const struct slot *slot);
void partition_forget_staged(struct state *s, struct partition *p);
/* All data gone; promise stays. */
void partition_drop(struct state *s, struct partition *p, uint64_t promise);
void partition_damage(struct partition *p, uint64_t from_index, bool promise_lost);
void partition_mend(struct partition *p);

/* The live batches a checkpoint names, resolved to slots. False: one is not held. */
bool partition_resolve(const struct partition *p, const struct journal_checkpoint *c, struct live_list *out);
/* Take the checkpoint's place: `live` is handed over. */
void partition_rebase(struct state *s, struct partition *p, const struct journal_checkpoint *c,
                      struct live_list *live);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * One partition on one shard: a replica (replica/replica.h) joined with a
 * mailbox state machine (mailbox/mailbox.h). Pure in the same sense as both: the
 * shard's loop and the simulator drive this very code.
 *
 * An event is given straight to the part it belongs to, with the partition's own
 * effect lists; then partition_run() carries both lists out until they are quiet:
 *
 *     replica_on_append(p->replica, &m, now, &p->replica_effects);
 *     partition_run(p, now);
 *
 * What joins the two parts is done here (committed entries are applied, proposals
 * appended, leadership passed on, checkpoints made); everything else goes to the
 * host, in order, by its two effect calls.
 */
#ifndef MAILROOM_SHARD_PARTITION_H
#define MAILROOM_SHARD_PARTITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mailbox/mailbox.h"
#include "replica/replica.h"

struct partition;

enum {
    PARTITION_HELD_PUBLISHES_MAX = 4096, /* kept during a planned move; more go on as usual */
    PARTITION_HOLD_US_MAX = 50000,       /* a planned move holds publishes no longer */
    PARTITION_CHECKPOINT_ENTRIES = 65536 /* a checkpoint of its own after so many entries */
};

struct partition_checkpoint {
    uint64_t base_index;
    uint64_t base_epoch;
    struct body *state;   /* replica's part, then the mailbox's; a reference to keep if needed */
    const uint64_t *live; /* log indexes of batches at or below the base, ascending */
    size_t live_count;
    bool install; /* a leader's checkpoint that takes the place of the log */
};

/* What a host must do. `host` is the partition's host_context. */
struct partition_host {
    /* WRITE, TRUNCATE, PROMISE, STAGE, UNSTAGE, MARK_*, FETCH, SEND_*, REPORT_*; LEADING: tell
     * it of peers whose links are down (replica_peer_down). */
    void (*replica_effect)(void *host, struct partition *p, const struct replica_effect *e);
    /* RECEIPT, REFUSED, DELIVER, SETTLED, READY, CREDIT_BACK, DETACHED, DEAD_LETTER, DEAD_BATCH. */
    void (*mailbox_effect)(void *host, struct partition *p, const struct mailbox_effect *e);
    /* Write a checkpoint into the journal's turn; partition_checkpointed() when synced
     * (not for install: replica_stored tells that one). */
    void (*checkpoint)(void *host, struct partition *p, const struct partition_checkpoint *c);
    /* The partition's state is current and it leads: tell gateways (Led). Fills the
     * gateways alive, at most max; returns how many. */
    size_t (*led)(void *host, struct partition *p, uint64_t epoch, uint64_t *gateways, size_t max);
    void (*not_leading)(void *host, struct partition *p);
    /* A planned move's target has all (see partition_hold). */
    void (*held)(void *host, struct partition *p);
};

struct partition_options {
    uint64_t id;
    uint32_t number;     /* within its mailbox */
    const char *mailbox; /* copied */
    struct mailbox_settings settings;
    member_t self;
    usec_t failure_timeout;
    size_t append_entries; /* replica_options */
    const struct partition_host *host;
    void *host_context;
};

struct held_publish {
    struct mailbox_origin origin;
    struct body *body;
};

struct partition {
    uint64_t id;
    uint32_t number;
    char name[NAME_BYTES_MAX + 1];
    struct mailbox_settings settings;
    struct replica *replica;
    struct mailbox *mailbox;
    struct replica_effects replica_effects;
    struct mailbox_effects mailbox_effects;
    const struct partition_host *host;
    void *host_context;
    usec_t failure_timeout;
    usec_t wall_offset;       /* wall clock minus boottime, as of the last partition_time */
    int64_t epoch_stamp;      /* log time when this epoch began .. */
    usec_t epoch_start;       /* .. at this boottime */
    uint64_t applied;         /* by the mailbox; the core may be ahead while its effects are carried out */
    uint64_t checkpoint_base; /* newest durable or under way */
    usec_t allowed_until;
    member_t hold_target; /* planned move under way */
    usec_t hold_until;
    bool hold_reported;
    struct held_publish *held;
    size_t held_count, held_capacity;
    bool disk_full; /* the host's word: refuse publishes */
    bool running;   /* inside partition_run */
    void *user;     /* the host's own */
};

/* state: from the journal; mailbox_state: the mailbox's part of the checkpoint,
 * NULL without one. NULL: that part is malformed (the copy is damaged). */
struct partition *partition_new(const struct partition_options *options, const struct replica_state *state,
                                struct decoder *mailbox_state);
void partition_free(struct partition *p);

/* Wall clock as the loop knows it; the leader's log time starts from it. */
void partition_time(struct partition *p, usec_t now, usec_t wall);
/* Log time now: never goes back within the partition. */
int64_t partition_stamp(const struct partition *p, usec_t now);

/* Carry out what the last event caused. */
void partition_run(struct partition *p, usec_t now);
/* Once a turn for a partition that had an event: packs settlements, emits appends. */
void partition_pump(struct partition *p, usec_t now);
/* Timers of both parts. */
usec_t partition_deadline(const struct partition *p);
void partition_tick(struct partition *p, usec_t now);

/* A publish from a gateway; body is checked (batch_check), and nobody else holds
 * it. Takes a reference. Held during a planned move. */
void partition_publish(struct partition *p, struct mailbox_origin origin, struct body *body, usec_t now);
/* Planned move: hold publishes until target has all or until `until`. */
void partition_hold(struct partition *p, member_t target, usec_t until, usec_t now);

/* Make a checkpoint now (journal's wish, or many entries); false: nothing new to sum up. */
bool partition_checkpoint(struct partition *p);
void partition_checkpointed(struct partition *p, uint64_t base_index);

#endif

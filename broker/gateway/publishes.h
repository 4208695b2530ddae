// SPDX-License-Identifier: Apache-2.0
/*
 * Publishes without a receipt: one queue a partition, in the order they came.
 *
 *   add -> HELD -> send -> SENT -> answered (gone)
 *            ^               |
 *            '--- hold <-----'   its leader is gone, or takes nothing just now
 *
 * A held publish is sent again with all held ones behind it, in the original
 * order; the leader knows by (producer, sequence) what it has already. So a
 * failover is a delay for the publisher, not an error.
 *
 * Pure: no socket, no clock. The owner of a publish (a session, or a shard's
 * dead letter) is a number that is never used twice.
 */
#ifndef MAILROOM_GATEWAY_PUBLISHES_H
#define MAILROOM_GATEWAY_PUBLISHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uthash.h>

#include "base/body.h"
#include "base/err.h"
#include "base/units.h"

/* Clients give up after 10 min; a leader forgets nothing that is younger. */
#define PUBLISHES_DEADLINE_US (600 * USEC_S)
/* A leader that answered busy or not leader is asked again after this, unless
 * news of a leader comes first. */
#define PUBLISHES_RETRY_MIN_US (10 * USEC_MS)
#define PUBLISHES_RETRY_MAX_US (200 * USEC_MS)

struct publish_queue;

struct publish {
    uint64_t number; /* the gateway's request number; grows */
    uint64_t owner;
    uint64_t request; /* the owner's number */
    struct publish_queue *queue;
    struct body *body; /* a reference */
    usec_t deadline;
    bool held;                   /* waits to be sent (again) */
    bool was_sent;               /* at least once: the outcome is unknown without an answer */
    struct publish *next, *prev; /* in the queue, by number */
    struct publish *next_owned, *prev_owned;
    struct publish *next_aged, *prev_aged; /* all, by deadline */
    UT_hash_handle hh;
};

struct publish_queue {
    uint64_t partition; /* id in the cluster */
    struct publish *first;
    struct publish *first_held; /* earliest held one; NULL: none */
    size_t count;
    usec_t retry_at;   /* held ones wait for this; 0: for a leader, or nothing */
    usec_t retry_next; /* the wait after it */
    bool pending;      /* in the list of queues to send */
    struct publish_queue *next_pending;
    UT_hash_handle hh;
};

struct publish_owner {
    uint64_t number;
    struct publish *first;
    size_t bytes; /* of unanswered bodies */
    UT_hash_handle hh;
};

struct publishes {
    struct publish *by_number;
    struct publish_queue *queues;
    struct publish_owner *owners;
    struct publish *oldest;
    struct publish_queue *pending; /* queues with new work since publishes_next_pending */
    uint64_t last_number;
    size_t count;
    size_t bytes;
};

void publishes_free(struct publishes *t);

/* Take a publish; a reference to body is kept. It is held, its queue pending. */
struct publish *publishes_add(struct publishes *t, uint64_t owner, uint64_t request, uint64_t partition,
                              struct body *body, usec_t now);
/* The oldest of a partition, or NULL. */
struct publish *publishes_first(const struct publishes *t, uint64_t partition);
struct publish *publishes_find(struct publishes *t, uint64_t number);
/* Receipted: forget it; its leader takes publishes. */
void publishes_receipted(struct publishes *t, struct publish *p);
/* Refused or given up: forget it. */
void publishes_remove(struct publishes *t, struct publish *p);
/* The owner is gone, with all it has here. */
void publishes_forget(struct publishes *t, uint64_t owner);
size_t publishes_owner_bytes(const struct publishes *t, uint64_t owner);

/* Queues that may have something to send, each once; NULL: no more. */
struct publish_queue *publishes_next_pending(struct publishes *t);
/* Send what is held, oldest first. `send` false: not taken, the rest stays held. */
void publishes_send(struct publishes *t, struct publish_queue *q,
                    bool (*send)(void *ctx, const struct publish *p), void *ctx);

/* The leader refused p for a reason that passes: keep it and those behind it.
 * True: kept, to be sent again at queue->retry_at. False: tell the publisher. */
bool publishes_refused(struct publishes *t, struct publish *p, enum err code, usec_t now);
/* The link to the leader is gone: what was sent may be lost, all is held. */
void publishes_lost(struct publishes *t, uint64_t partition);
/* There is a leader (again): what is held goes at once. */
void publishes_leader(struct publishes *t, uint64_t partition);
/* Queues whose retry is due become pending. Answers when the next one is. */
usec_t publishes_tick(struct publishes *t, usec_t now);
/* How long it has waited. */
usec_t publish_age(const struct publish *p, usec_t now);
/* The oldest one whose deadline has passed, or NULL. */
struct publish *publishes_expired(const struct publishes *t, usec_t now);

#endif

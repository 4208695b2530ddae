// SPDX-License-Identifier: Apache-2.0
/*
 * One partition of a mailbox as a state machine over its replicated log:
 * subscriptions, dispatch, leases, settlement, deduplication, limits, dead
 * letters. DESIGN sections 4 (once, delivery, settlement) and 6 (what is in the
 * log, leases and tokens, dead letters).
 *
 * Two halves in one object:
 * - the replicated half follows from mailbox_apply() alone, so every replica has
 *   the same: offsets, settled ranges, delivery numbers, attempts, delays,
 *   producers, counters. mailbox_checkpoint() writes it, mailbox_restore() reads it.
 * - the leader's half (consumers, credit, leases, ready order, the overlay for
 *   proposals not yet committed) exists between mailbox_lead() and mailbox_unlead().
 *
 * Pure: an event a call, effects out, in order; `now` is CLOCK_BOOTTIME, `stamp`
 * is the log's time (wall clock that never goes back), both passed in. One thread.
 *
 * Offsets count messages of the partition from 0. A message's delivery number is
 * the count of its committed RETURN entries; a token is (epoch, delivery number).
 */
#ifndef MAILROOM_MAILBOX_MAILBOX_H
#define MAILROOM_MAILBOX_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/entry.h"
#include "base/err.h"
#include "base/settings.h"
#include "base/units.h"
#include "proto/batch.h"

enum {
    MAILBOX_PRODUCERS_MAX = 65536,       /* remembered per partition */
    MAILBOX_PRODUCER_IDLE_S = 3600,      /* forgotten by a log entry after this */
    MAILBOX_PRODUCER_EVICT_IDLE_S = 600, /* when full: those idle this long go first */
    MAILBOX_SUBSCRIPTIONS_MAX = 256,
    MAILBOX_OLD_NAMES = 64, /* names of removed subscriptions kept for effects under way */
    MAILBOX_CONSUMERS_MAX = 16384,
    MAILBOX_RUN_MESSAGES_MAX = 1024, /* messages in one delivery */
    MAILBOX_RUN_BYTES_MAX = 1048576,
    MAILBOX_LOST_GRACE_US = 1000000, /* leases stay this long after an unclean loss */
    MAILBOX_UNCOMMITTED_MAX = 65536, /* proposals in flight; publishes past it are BUSY */
    MAILBOX_WAITERS_MAX = 65536,     /* repeated requests that wait for a commit; past it BUSY or UNKNOWN */
    MAILBOX_PARKED_MAX = 65536,    /* by key: messages a subscription sets aside while their key is blocked */
    MAILBOX_DEAD_LETTERS_MAX = 64, /* dead letters on their way at once */
    MAILBOX_CREDIT_LINGER_US = 5000,  /* unused credit is given back when nothing came for this long */
    MAILBOX_READY_AGAIN_US = 1000000, /* READY is said again while messages wait for credit */
};

struct mailbox;

/* Who asked; echoed in RECEIPT, REFUSED, SETTLED. Opaque to the mailbox. */
struct mailbox_origin {
    uint64_t link;    /* the gateway's link */
    uint64_t request; /* its own number */
};

/* 128 bits drawn by the client; survives reconnections. */
struct consumer_id {
    uint8_t bytes[16];
};

enum settle_kind { SETTLE_ACK, SETTLE_NACK, SETTLE_REJECT, SETTLE_EXTEND, SETTLE_RELEASE };
enum settle_result {
    SETTLE_DONE,
    SETTLE_ALREADY,
    SETTLE_TOO_LATE,
    SETTLE_UNKNOWN /* not leading: ask again */
};

/* One result for a whole item. Messages of it that differ: TOO_LATE if one was too
 * late (the others are settled all the same), else DONE if one was done now. A
 * message that was expired, dropped or purged reads ALREADY. */
struct mailbox_settlement {
    enum settle_kind kind;
    uint64_t first_offset;
    uint32_t count; /* consecutive offsets with one token */
    uint64_t epoch; /* the token */
    uint32_t delivery_number;
    usec_t delay; /* NACK: not before this; EXTEND: new lease from now */
};

struct mailbox_hold { /* a delivery that a consumer still holds, presented to a new leader */
    uint64_t first_offset;
    uint32_t count;
    uint64_t epoch;
    uint32_t delivery_number;
};

/* ---- effects ---- */

#define MAILBOX_EFFECTS(X)                                                                                   \
    X(PROPOSE)     /* type, body: append to the log; answered by apply (FIFO) or by unlead */                \
    X(RECEIPT)     /* publish committed (or a duplicate of a committed one) */                               \
    X(REFUSED)     /* publish not taken: code, text, last sequence taken */                                  \
    X(DELIVER)     /* a run to a consumer */                                                                 \
    X(SETTLED)     /* answer to one settlement request, in its order of items */                             \
    X(READY)       /* a subscription has messages its consumers at this gateway lack credit for */           \
    X(CREDIT_BACK) /* consumer, credit: unused credit given back */                                          \
    X(DETACHED)    /* consumer: the subscription is gone, or another took its place (exclusive) */           \
    X(DEAD_LETTER) /* publish this message to the target as producer, sequence; then dead_lettered() */      \
    X(DEAD_BATCH)  /* index: no subscription needs this batch any more; the journal may drop it */

enum mailbox_effect_type {
#define X(name) MAILBOX_##name,
    MAILBOX_EFFECTS(X)
#undef X
};

struct mailbox_effect {
    enum mailbox_effect_type type;
    union {
        struct {
            uint8_t type;      /* enum entry_type */
            struct body *body; /* a reference, owned by the effects */
        } propose;
        struct {
            struct mailbox_origin origin;
            struct producer_id producer;
            uint64_t sequence;
            uint64_t base_offset; /* UINT64_MAX when a duplicate's is no longer known */
            bool duplicate;
        } receipt;
        struct {
            struct mailbox_origin origin;
            struct producer_id producer;
            uint64_t sequence;
            enum err code;
            uint64_t last;    /* OUT_OF_ORDER: go on from here */
            const char *text; /* static, or valid until the next call */
        } refused;
        struct {
            struct consumer_id consumer;
            uint64_t gateway;         /* as given to mailbox_attach */
            const char *subscription; /* valid until MAILBOX_OLD_NAMES more subscriptions have gone */
            uint64_t batch_index;     /* log index of the batch that holds the run */
            uint64_t base_offset;     /* of the batch */
            uint64_t first_offset;    /* of the run */
            uint32_t count;
            uint64_t epoch; /* the token */
            uint32_t delivery_number;
            uint32_t attempt;  /* 1 = first; released deliveries count none */
            int64_t stamp;     /* of the batch */
            struct body *body; /* the batch, if at hand (a reference, owned by the effects); NULL: read */
                               /* batch_index from cache or journal. Durability none: always set */
        } deliver;
        struct {
            struct mailbox_origin origin;
            size_t count;
            enum settle_result *results; /* owned by the effects */
        } settled;
        struct {
            uint64_t gateway;
            const char *subscription;
            uint64_t messages; /* how many wait */
        } ready;
        struct {
            struct consumer_id consumer;
            uint64_t gateway;
            const char *subscription;
            uint32_t credit;
        } credit_back;
        struct {
            struct consumer_id consumer;
            uint64_t gateway;
            const char *subscription;
            enum err reason;
        } detached;
        struct {
            uint64_t intent; /* log index of the DYING entry: dead_lettered() names it; the sequence */
            uint64_t after;  /* sequence of the intent before it to the same target, 0: none */
            struct producer_id producer; /* made of partition and subscription; never expires */
            char target[NAME_BYTES_MAX + 1];
            uint32_t target_partition;
            const char *subscription;
            uint64_t batch_index;
            uint64_t base_offset;
            uint64_t offset;
            uint32_t attempts;
            const char *reason; /* "rejected", "max-deliveries" */
            struct body *body;  /* as in deliver */
        } dead_letter;
        uint64_t index; /* DEAD_BATCH */
    };
};

struct mailbox_effects {
    struct mailbox_effect *items;
    size_t count;
    size_t capacity;
};
void mailbox_effects_clear(struct mailbox_effects *fx); /* drops references, keeps the memory */
void mailbox_effects_free(struct mailbox_effects *fx);

/* ---- life ---- */

struct mailbox_options {
    const char *name;                 /* of the mailbox; copied */
    uint64_t id;                      /* the partition's id in the cluster */
    uint32_t partition;               /* 0 .. settings.partitions-1 */
    struct mailbox_settings settings; /* as of creation; later ones come by SETTINGS entries */
};

/* Has the subscription "default" from offset 0, unless settings.no_default. With
 * no subscription at all a batch is dead once committed, unless retention keeps it. */
struct mailbox *mailbox_new(const struct mailbox_options *options);
void mailbox_free(struct mailbox *m);

/* ---- the replicated half ---- */

/* One committed entry, in order. Entries of types it does not know (EPOCH) only
 * move the applied index. The body is read, kept by reference where needed. */
void mailbox_apply(struct mailbox *m, const struct entry *entry, usec_t now, struct mailbox_effects *fx);
/* The state after the last applied entry, as bytes; and back (into a fresh
 * mailbox). False: malformed, nothing is kept. */
void mailbox_checkpoint(const struct mailbox *m, struct encoder *e);
bool mailbox_restore(struct mailbox *m, struct decoder *d);
/* Log indexes of batches still needed, ascending; malloc'ed, the caller frees. */
uint64_t *mailbox_live(const struct mailbox *m, size_t *count);
bool mailbox_batch_live(const struct mailbox *m, uint64_t index);
/* Log index of the batch that holds the offset; 0: it is not there any more, or yet. */
uint64_t mailbox_batch_index(const struct mailbox *m, uint64_t offset);
uint64_t mailbox_next_offset(const struct mailbox *m);
int64_t mailbox_last_stamp(const struct mailbox *m);

/* ---- the leader's half ---- */

/* Leads `epoch`; everything of earlier epochs in the log is applied (the replica
 * core's ACTIVE). stamp: log time now. gateways: those alive, which must present
 * what their consumers hold (mailbox_presented) before anything an earlier epoch
 * may have delivered is delivered again, or until failure_timeout has passed.
 * may_deliver_from: see mailbox_allow. */
void mailbox_lead(struct mailbox *m, uint64_t epoch, const uint64_t *gateways, size_t gateways_count,
                  usec_t failure_timeout, usec_t now, int64_t stamp, struct mailbox_effects *fx);
/* Leads no more: volatile state goes, publishes in flight are REFUSED with
 * NOT_LEADER, settlements in flight answered UNKNOWN, consumers forgotten. */
void mailbox_unlead(struct mailbox *m, struct mailbox_effects *fx);
bool mailbox_leading(const struct mailbox *m);
/* Attached, over all subscriptions. */
size_t mailbox_consumers(const struct mailbox *m);
/* Deliver and settle only until then (the leader's lease; USEC_NEVER: always).
 * Called whenever it moves; deliveries that waited go out. */
void mailbox_allow(struct mailbox *m, usec_t until, usec_t now, struct mailbox_effects *fx);

/* A publish, from a gateway. header is the batch's; body the batch, checked
 * (batch_check) by the caller; the mailbox stamps it (batch_stamp) and proposes
 * it, so nobody else may hold it. A reference is taken. stamp: log time now.
 * Effects: PROPOSE and later RECEIPT; or REFUSED (OUT_OF_ORDER, FORGOTTEN, FULL,
 * BUSY, NOT_LEADER, DISK_FULL when `disk_full`). */
void mailbox_publish(struct mailbox *m, struct mailbox_origin origin, struct body *body, usec_t now,
                     int64_t stamp, bool disk_full, struct mailbox_effects *fx);

/* The publish path never proposes more than it is asked to: an owner whose log
 * takes no more must not call mailbox_publish (answer BUSY itself), because a
 * PROPOSE cannot be refused. */

/* A consumer of `subscription` at `gateway`; the same id again: reconnection,
 * it keeps what it holds. credit: messages lent now (0 is usual).
 * ERR_NOT_FOUND: no such subscription; ERR_NOT_LEADER; ERR_BUSY: too many. */
enum err mailbox_attach(struct mailbox *m, const struct consumer_id *consumer, uint64_t gateway,
                        const char *subscription, const char *client, uint32_t credit, usec_t now,
                        struct mailbox_effects *fx);
/* clean: it gave everything back, leases are released at once (count no attempt
 * when `release`); else its leases stay MAILBOX_LOST_GRACE_US, then come back. */
void mailbox_detach(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                    bool clean, usec_t now, struct mailbox_effects *fx);
/* A gateway is gone with all its consumers (unclean). */
void mailbox_gateway_lost(struct mailbox *m, uint64_t gateway, usec_t now, struct mailbox_effects *fx);
void mailbox_credit(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                    uint32_t more, usec_t now, struct mailbox_effects *fx);
/* Is the consumer at this gateway? What another one still says of it (a Detach or
 * Lend that was under way when it moved) is void. */
bool mailbox_at_gateway(const struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                        uint64_t gateway);
/* A consumer that has come again names all it holds: a delivery of this epoch
 * that it does not name was lost on its way and comes back, no attempt counted.
 * After mailbox_attach without credit, before mailbox_hold. */
void mailbox_still_held(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                        const struct mailbox_hold *held, size_t count, usec_t now,
                        struct mailbox_effects *fx);
/* The same, dispatched by the next mailbox_pump: with all credit that a turn brings,
 * so that whoever's comes first does not get everything. */
void mailbox_lend(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                  uint32_t more, usec_t now, struct mailbox_effects *fx);
/* What a consumer holds from earlier epochs, before mailbox_presented. */
void mailbox_hold(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                  const struct mailbox_hold *held, size_t count, usec_t now, struct mailbox_effects *fx);
/* The gateway has presented all its consumers. */
void mailbox_presented(struct mailbox *m, uint64_t gateway, usec_t now, struct mailbox_effects *fx);
/* Unknown consumers may settle too (a token of an earlier epoch is enough).
 * Settle; answered by one SETTLED after commit (at once when nothing is to be logged). */
void mailbox_settle(struct mailbox *m, struct mailbox_origin origin, const struct consumer_id *consumer,
                    const char *subscription, const struct mailbox_settlement *items, size_t count,
                    usec_t now, int64_t stamp, struct mailbox_effects *fx);
/* A DELIVER effect whose bytes are at hand only now: is any of it still leased so?
 * If its time has run out in the queue there is nothing to deliver any more. */
bool mailbox_delivery_stands(const struct mailbox *m, const struct mailbox_effect *deliver);
/* How many partitions the dead-letter mailbox has now (0: not known): the next dead
 * letters go to partition (our number mod that), so that those of a partition stay in
 * order. What is dying already goes where its intent says. */
void mailbox_dead_letter_partitions(struct mailbox *m, uint32_t partitions);
/* The dead letter of `intent` is receipted at its target (ERR_OK), or refused
 * (then it stays dying, is tried again later, and the reason shows). */
void mailbox_dead_lettered(struct mailbox *m, uint64_t intent, enum err code, usec_t now,
                           struct mailbox_effects *fx);

/* Subscriptions and settings come from the metadata; the leader logs them.
 * from: where it starts. Idempotent. */
enum subscription_from { FROM_NEW, FROM_FIRST, FROM_OFFSET, FROM_TIME };
void mailbox_subscribe(struct mailbox *m, const char *subscription, enum subscription_from from,
                       uint64_t value, struct mailbox_effects *fx);
void mailbox_unsubscribe(struct mailbox *m, const char *subscription, struct mailbox_effects *fx);
/* Limits hold from this call on, the rest from its commit. */
void mailbox_settings(struct mailbox *m, const struct mailbox_settings *settings, struct mailbox_effects *fx);
/* Everything unsettled now is purged, leased and dying messages included; what is
 * retained so far is let go. */
void mailbox_purge(struct mailbox *m, struct mailbox_effects *fx);

/* End of a turn: packs this turn's settlements and returns into entries. */
bool mailbox_dirty(const struct mailbox *m);
void mailbox_pump(struct mailbox *m, usec_t now, int64_t stamp, struct mailbox_effects *fx);
/* Leases that run out, delays that come due, ttl, retention, idle producers. */
usec_t mailbox_deadline(const struct mailbox *m);
void mailbox_tick(struct mailbox *m, usec_t now, int64_t stamp, struct mailbox_effects *fx);

/* ---- questions (mailbox show) ---- */

struct subscription_stats {
    const char *name;
    const char *reason; /* why nothing moves: "no-consumer", "no-credit", "key-blocked", or "" */
    uint64_t published; /* since its start */
    uint64_t ready, leased, delayed, dying;
    uint64_t acked, dead, expired, dropped, purged;
    size_t consumers;
    const char *dying_reason; /* why the oldest dead letter does not move: an err_name, or "" */
};
struct consumer_stats {
    struct consumer_id id;
    const char *client;
    uint32_t credit;
    uint64_t leased, delivered;
};
struct mailbox_stats {
    uint64_t messages; /* unsettled in some subscription */
    uint64_t bytes;
    uint64_t next_offset;
    uint64_t first_offset; /* oldest still stored */
    size_t subscriptions;
};
void mailbox_stats(const struct mailbox *m, struct mailbox_stats *out);
/* i in 0 .. subscriptions-1, then consumers of it; false past the end. On a
 * replica that does not lead, leased reads 0 and those messages count as ready. */
bool mailbox_subscription_stats(const struct mailbox *m, size_t i, struct subscription_stats *out);
bool mailbox_consumer_stats(const struct mailbox *m, size_t subscription, size_t i,
                            struct consumer_stats *out);

#endif

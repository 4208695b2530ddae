// SPDX-License-Identifier: Apache-2.0
/*
 * Consumers of this gateway's sessions, and their credit.
 *
 * Credit is the consumer's: how many unsettled deliveries it may have. It lends
 * it to partitions that announced messages; a partition delivers against what
 * it was lent, or gives it back when it has no use for it. At any time
 *
 *     lent (at partitions) + held (delivered, not settled) <= credit
 *
 * but for what a client holds that was presented above its credit: then nothing
 * is lent until enough is settled.
 *
 *   partition announces N   -> want = N; it announces only once until it has had
 *                              enough, so it wants more as long as all it was lent
 *                              is used up: twice as much each time
 *   consumers_pump          -> free credit over wanting partitions, at least 1
 *                              each in turn, as lend effects
 *   delivered               -> lent becomes held
 *   credit back             -> free again; the partition wants no more
 *   settled                 -> free again, lent where something is wanted
 *
 * Lent bytes are bounded too: credit counts messages, so what is lent is kept
 * below a number of bytes by the size of the messages seen so far.
 *
 * A partition takes part while it is attached: its leader has answered Attach
 * in this epoch over this link. Before and after it has nothing of the credit.
 *
 * Pure: no socket, no clock.
 */
#ifndef MAILROOM_GATEWAY_CONSUMERS_H
#define MAILROOM_GATEWAY_CONSUMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uthash.h>

#include "base/settings.h"
#include "base/units.h"
#include "gateway/holds.h"

enum {
    CONSUMER_ID_BYTES = 16,
    CONSUMER_CLIENT_BYTES = 64,
    CONSUMER_CREDIT_MAX = 1000000,       /* messages */
    CONSUMERS_PARTS_MAX = 1 << 20,       /* sum over consumers of their mailboxes' partitions */
    CONSUMER_MESSAGE_BYTES_GUESS = 65536 /* size of a message before one was seen */
};
#define CONSUMER_LENT_BYTES_MAX (8 * MIB)

enum part_state {
    PART_IDLE,      /* no leader that knows it */
    PART_ATTACHING, /* Attach sent */
    PART_ATTACHED
};

struct consumer;

/* A consumer at one partition. */
struct part {
    struct consumer *consumer;
    uint32_t number;
    enum part_state state;
    uint64_t epoch; /* attached in it */
    uint32_t lent;
    uint64_t want;  /* messages still to be lent for */
    uint32_t burst; /* of the last wish; 0: it has had enough since it announced */
    struct holds holds;
    struct part *next_wanting;
    bool wanting; /* in the consumer's ring */
};

/* Consumers of one subscription at this gateway. */
struct group {
    uint64_t mailbox; /* id */
    char subscription[NAME_BYTES_MAX + 1];
    uint32_t partitions;
    struct consumer *consumers;
    struct group *next_of_mailbox;
};

struct consumer_key {
    uint8_t id[CONSUMER_ID_BYTES];
    const struct group *group;
};

struct consumer {
    struct consumer_key key;
    uint64_t number; /* never used twice: for who must not hold a pointer */
    struct group *group;
    uint64_t session; /* whose it is; number */
    uint32_t handle;  /* its name in that session */
    char client[CONSUMER_CLIENT_BYTES + 1];
    uint32_t credit;
    uint64_t held;
    uint64_t lent;
    uint32_t message_bytes; /* mean of late, at least 1 */
    bool paused;            /* its session has enough to send */
    struct part *parts;     /* group->partitions */
    uint32_t parts_open;    /* not PART_IDLE */
    struct part *wanting_first, *wanting_last;
    struct consumer *next, *prev;                 /* in the group */
    struct consumer *next_pending, *prev_pending; /* to be pumped */
    bool pending;
    UT_hash_handle hh;
    UT_hash_handle hh_number;
    UT_hash_handle hh_handle; /* in its session's table, kept by the session */
};

/* Groups of one mailbox. */
struct group_list {
    uint64_t mailbox;
    struct group *first;
    UT_hash_handle hh;
};

struct consumers {
    struct consumer *by_key;
    struct consumer *by_number;
    struct group_list *mailboxes;
    struct consumer *pending;
    uint64_t last_number;
    size_t count;
    size_t parts;
    uint64_t lent_bytes;     /* estimate of what is lent */
    uint64_t lent_bytes_max; /* of all; set by the owner */
};

void consumers_init(struct consumers *t, uint64_t lent_bytes_max);
void consumers_free(struct consumers *t);

struct group *consumers_group(const struct consumers *t, uint64_t mailbox, const char *subscription);
/* First group of a mailbox; the others follow by next_of_mailbox. */
struct group *consumers_groups(const struct consumers *t, uint64_t mailbox);
struct consumer *consumers_find(const struct consumers *t, const struct group *group,
                                const uint8_t id[CONSUMER_ID_BYTES]);
struct consumer *consumers_numbered(const struct consumers *t, uint64_t number);

/* A consumer with nothing held and nothing attached. NULL: past
 * CONSUMERS_PARTS_MAX. `client` is cut to CONSUMER_CLIENT_BYTES. */
struct consumer *consumers_add(struct consumers *t, uint64_t mailbox, const char *subscription,
                               uint32_t partitions, const uint8_t id[CONSUMER_ID_BYTES], const char *client,
                               uint32_t credit);
void consumers_remove(struct consumers *t, struct consumer *c);

/* What the client said it holds. */
void consumer_present(struct consumers *t, struct consumer *c, uint32_t partition, const struct hold *range);
/* The same consumer comes again and says what it holds of a partition: that is
 * what is held from now on. What it no longer has is put into *lost (the
 * caller's; zeroed before): to be released. */
void consumer_present_again(struct consumers *t, struct consumer *c, uint32_t partition,
                            struct holds *presented, struct holds *lost);
/* More credit, or another amount in all (CONSUMER_CREDIT_MAX at most). */
void consumer_credit(struct consumers *t, struct consumer *c, uint32_t credit);
void consumer_pause(struct consumers *t, struct consumer *c, bool paused);

/* Attach was sent; lent is reset, as the leader knows of none. */
void consumer_attaching(struct consumers *t, struct consumer *c, uint32_t partition, uint64_t epoch);
void consumer_attached(struct consumers *t, struct consumer *c, uint32_t partition);
/* Its leader, or the way there, is gone. What is held stays held. */
void consumer_idle(struct consumers *t, struct consumer *c, uint32_t partition);
/* A partition announced messages for the group's consumers here. */
void consumers_ready(struct consumers *t, struct group *group, uint32_t partition, uint64_t messages);
/* A run arrived: lent becomes held. False: the consumer may not have it (not
 * attached in that epoch); nothing changed. */
bool consumer_delivered(struct consumers *t, struct consumer *c, uint32_t partition, const struct hold *run,
                        size_t bytes);
void consumer_credit_back(struct consumers *t, struct consumer *c, uint32_t partition, uint32_t credit);
/* A settlement that ends the delivery was answered. Answers how many were held. */
uint64_t consumer_settled(struct consumers *t, struct consumer *c, uint32_t partition,
                          const struct hold *range);

/* Lend what is free; each effect is one Lend frame. */
void consumers_pump(struct consumers *t, void (*lend)(void *ctx, const struct part *part, uint32_t more),
                    void *ctx);

#endif

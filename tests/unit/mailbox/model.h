// SPDX-License-Identifier: Apache-2.0
/*
 * What must be true of a mailbox, one message at a time: a slow, plain reading of
 * the committed log, and of what consumers have been given. The random test holds
 * the mailbox against it.
 */
#ifndef MAILROOM_TESTS_MAILBOX_MODEL_H
#define MAILROOM_TESTS_MAILBOX_MODEL_H

#include "base/entry.h"
#include "mailbox/mailbox.h"

enum {
    MODEL_MESSAGES_MAX = 20000,
    MODEL_SUBSCRIPTIONS_MAX = 8,
    MODEL_BATCHES_MAX = 8000,
    MODEL_PRODUCERS = 4
};

enum { MODEL_LEAVING = -2 }; /* holder: somebody who is settling it and was not presented */

enum model_state { M_OPEN, M_ACKED, M_DEAD, M_EXPIRED, M_DROPPED, M_PURGED, M_ABSENT, M_STATES };

struct model_message {
    enum model_state state;
    bool dying;
    uint32_t number, attempts;
    int64_t due;
    /* what the leader has given away; gone with it */
    int holder;            /* consumer, -1: nobody */
    uint64_t holder_epoch; /* its token's */
};

struct model_subscription {
    char name[NAME_BYTES_MAX + 1];
    uint64_t id;
    bool gone;
    uint64_t born; /* epoch */
    uint64_t start;
    struct model_message messages[MODEL_MESSAGES_MAX];
};

struct model_batch {
    uint64_t index, base, count, sequence;
    uint8_t producer;
    int64_t stamp;
    bool dead; /* said to be dead by the leader or a follower */
};

struct model_dying {
    uint64_t intent, offset;
    struct model_subscription *subscription;
};

struct model {
    struct mailbox_settings settings;
    struct model_subscription *subscriptions[MODEL_SUBSCRIPTIONS_MAX];
    size_t subscriptions_count;
    uint64_t next_subscription;
    struct model_batch batches[MODEL_BATCHES_MAX];
    size_t batches_count;
    uint32_t *keys; /* number of each message's key */
    struct model_dying dying[MODEL_MESSAGES_MAX];
    size_t dying_count;
    uint64_t next_offset;
};

/* Every kind of mailbox, by seed. */
void model_settings(struct mailbox_settings *s, uint64_t seed);
struct model *model_new(const struct mailbox_settings *settings);
void model_free(struct model *m);
struct model_subscription *model_find(struct model *m, const char *name); /* NULL: none, or gone */
/* One committed entry. Fails the test if it breaks a rule (stored twice, ..). */
void model_apply(struct model *m, const struct entry *e);
void model_new_leader(struct model *m); /* nobody holds anything */
/* A delivery to this consumer: of what is open, due, held by nobody, under the
 * right token, and in order. The consumer holds it from now on. */
void model_deliver(struct model *m, const struct mailbox_effect *e, int consumer, int64_t stamp);
/* Each dead letter is stored once at the target, those not dead at most once. */
void model_check_letters(struct model *m, const uint8_t *stored);
/* Each offset of a subscription is in one state: settled, leased, come back, delayed,
 * set aside, dying. */
void model_check_states(const struct mailbox *replica);
/* The replica's counters and live batches are the model's. */
void model_check(struct model *m, const struct mailbox *replica, bool retention);
struct model_batch *model_batch_at(struct model *m, uint64_t offset);

#endif

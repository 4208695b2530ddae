// SPDX-License-Identifier: Apache-2.0
/* What the checker keeps; shared by check.c and check_end.c. */
#ifndef MAILROOM_SIM_CHECK_H
#define MAILROOM_SIM_CHECK_H

#include "clients.h"

enum { GENERATIONS_MAX = 256, STATE_EVERY = 64, DROP_REASON_PURGED = 3 /* as the mailbox's log has it */ };

struct written { /* an entry that some replica has stored */
    uint64_t epoch;
    uint32_t crc;
};

struct slot { /* one index of one partition */
    struct written *written;
    size_t written_count, written_capacity;
    bool committed;
    uint64_t epoch;
    uint32_t crc, state;
};

struct origin { /* one offset: who published it */
    uint32_t publisher, generation, number;
    uint64_t sequence, index;
    bool letter;
    uint8_t key; /* its first byte */
};

struct history { /* of an offset in a subscription, as consumers saw it */
    bool sent, delivered, done;
    int done_by;
    uint64_t done_epoch;
    uint32_t done_number, number;
    uint64_t epoch; /* of the newest delivery */
    int consumer;
};

struct sequences {         /* of one producer in one partition: offset by sequence, plus one */
    uint64_t *base, *ever; /* ever: what was lost (losses.c), too */
    size_t capacity, ever_capacity;
    uint64_t last;
};

struct epoch_leader {
    uint64_t epoch;
    int process;
    bool taken;
};

struct letter {
    struct producer_id producer;
    uint64_t sequence;
};

struct begun { /* a subscription, and where the log ended then */
    char name[SIM_NAME_BYTES];
    uint64_t offset;
    bool purged; /* since then */
};

struct loss { /* a majority's power went, and the epoch began without what stood behind */
    uint64_t index, epoch, offset;
};

struct log {
    struct loss *losses;
    size_t losses_count, losses_capacity;
    struct begun begun[2 * SIM_SUBSCRIPTIONS_MAX];
    size_t begun_count;
    struct slot *slots; /* by index */
    size_t slots_capacity;
    uint64_t applied;      /* highest index applied anywhere */
    uint64_t active_epoch; /* highest that came to be */
    struct origin *offsets;
    size_t offsets_capacity;
    uint64_t next_offset;
    uint64_t purged_below;       /* what is purged need not come */
    struct sequences *sequences; /* [SIM_PUBLISHERS_MAX][GENERATIONS_MAX], once there is one */
    struct history *histories[SIM_SUBSCRIPTIONS_MAX];
    size_t histories_capacity[SIM_SUBSCRIPTIONS_MAX];
    struct epoch_leader *leaders;
    size_t leaders_count, leaders_capacity;
    uint64_t acting_epoch; /* highest that has delivered */
    struct letter *letters;
    size_t letters_count, letters_capacity;
    uint64_t sent_below[SIM_SUBSCRIPTIONS_MAX][UINT8_MAX + 1]; /* by key: what was sent for the first time */
};

struct checker {
    struct replica_set voters; /* of the metadata group, as committed last */
    struct sim *sim;
    struct log *logs; /* by partition's id */
};

struct log *check_log(struct sim *s, uint64_t partition);
struct history *check_history(struct log *l, int subscription, uint64_t offset);
/* Where the log ended when this subscription began; NULL: it has not. */
struct begun *check_begun(struct log *l, const char *name);

/* ---- losses.c ---- */

/* Stood behind what is left, or was written there by somebody who had not heard of it. */
bool losses_entry(const struct log *l, uint64_t index, uint64_t epoch);
bool losses_offset(const struct log *l, uint64_t offset, uint64_t epoch);
/* What stands behind index was committed and is lost; `epoch` begins without. */
void losses_cut(struct sim *s, struct log *l, uint64_t partition, uint64_t index, uint64_t epoch);

#endif

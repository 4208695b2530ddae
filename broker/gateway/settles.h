// SPDX-License-Identifier: Apache-2.0
/*
 * Settlements on their way. One request of a client has items of several
 * partitions: each partition's items go to its leader as one part, the answers
 * are put together in the order of the client's items.
 *
 *   begin -> parts HELD -> sent -> answered -> ... all parts: the request is done
 *               ^            |
 *               '- unknown, or the leader is gone
 *
 * Pure: no socket, no clock.
 */
#ifndef MAILROOM_GATEWAY_SETTLES_H
#define MAILROOM_GATEWAY_SETTLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uthash.h>

#include "base/units.h"
#include "gateway/consumers.h"

/* Values of frames; the shard's are in mailbox/mailbox.h. */
enum settlement_kind {
    SETTLEMENT_ACK,
    SETTLEMENT_NACK,
    SETTLEMENT_REJECT,
    SETTLEMENT_EXTEND,
    SETTLEMENT_RELEASE
};
enum settlement_result { SETTLEMENT_DONE, SETTLEMENT_ALREADY, SETTLEMENT_TOO_LATE, SETTLEMENT_UNKNOWN };

enum { SETTLES_OWNER_ITEMS_MAX = 262144 /* a session may have under way */ };

struct settlement {
    uint32_t kind;
    uint32_t partition; /* number in the mailbox */
    struct hold range;  /* offsets and token */
    usec_t delay;
};

struct settle;

/* The items of one partition that are not answered yet. */
struct settle_part {
    uint64_t number; /* the gateway's request number; grows */
    struct settle *settle;
    uint32_t partition;
    bool sent;
    size_t count;
    uint32_t *items;                 /* indexes into settle->items */
    struct settle_part *next, *prev; /* of the request */
    UT_hash_handle hh;
};

/* Who settles. It may be gone when the answer comes, and its requests still go
 * to new leaders. */
struct settle_consumer {
    uint64_t number;
    uint8_t id[CONSUMER_ID_BYTES];
    char subscription[NAME_BYTES_MAX + 1];
};

struct settle {
    uint64_t owner;   /* session number */
    uint64_t request; /* the client's */
    struct settle_consumer consumer;
    uint64_t mailbox;
    size_t count;
    struct settlement *items;
    uint8_t *results;
    struct settle_part *parts;  /* unanswered; NULL: done */
    struct settle *next, *prev; /* all, in the order they came */
};

struct settles {
    struct settle_part *by_number;
    struct settle *all;
    uint64_t last_number;
    size_t items; /* of all */
};

void settles_free(struct settles *t);

/* Copies items; partitions[] of the items must be valid. Parts are held: send
 * them. With count 0 the request is done at once. */
struct settle *settles_begin(struct settles *t, uint64_t owner, uint64_t request,
                             const struct settle_consumer *consumer, uint64_t mailbox,
                             const struct settlement *items, size_t count);
struct settle_part *settles_find(const struct settles *t, uint64_t number);

/* A leader answered a part: one result an item. Each item with a final answer is
 * reported to `settled`; unknown ones stay, held, to be asked again. False: the
 * number of results is wrong, nothing changed. True: if the part's request is
 * done (parts == NULL), answer the client and call settles_remove. The part may
 * be gone after. */
bool settles_answer(struct settles *t, struct settle_part *part, const uint8_t *results, size_t count,
                    void (*settled)(void *ctx, const struct settle *s, const struct settlement *item,
                                    enum settlement_result result),
                    void *ctx);
void settles_remove(struct settles *t, struct settle *s);
/* The session is gone. */
void settles_forget(struct settles *t, uint64_t owner);
/* The way to a partition's leader is gone: its parts are held again. */
void settles_lost(struct settles *t, uint64_t mailbox, uint32_t partition);
/* Held parts of a partition, oldest first; `send` false: not taken, stop. */
void settles_send(struct settles *t, uint64_t mailbox, uint32_t partition,
                  bool (*send)(void *ctx, const struct settle_part *part), void *ctx);

/* Does this kind end the delivery once it is done? */
static inline bool settlement_ends(uint32_t kind) {
    return kind != SETTLEMENT_EXTEND;
}

#endif

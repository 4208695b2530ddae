// SPDX-License-Identifier: Apache-2.0
/*
 * One entry of a replicated log, and the types of entries, written once.
 *
 * The numbers are stored in journals: never renumber, only append. `replica/`
 * interprets EPOCH and CONFIG, `mailbox/` the partition's types, `cluster/`
 * COMMAND; the journal stores the number without looking at it.
 */
#ifndef MAILROOM_BASE_ENTRY_H
#define MAILROOM_BASE_ENTRY_H

#include <stdint.h>

struct body;

#define ENTRY_LIST(X)                                                                          \
    X(EPOCH, 1)         /* first entry of a leader's epoch */                                  \
    X(CONFIG, 2)        /* voters of the metadata group from here on */                        \
    X(COMMAND, 3)       /* metadata command */                                                 \
    X(BATCH, 10)        /* proto/batch.h */                                                    \
    X(SETTLE, 11)       /* acks and final rejects, packed per turn */                          \
    X(RETURN, 12)       /* deliveries that came back: released, nacked, lost, lease expired */ \
    X(DROP, 13)         /* expired, dropped by overflow or retention, purged */                \
    X(SUBSCRIBE, 14)    /* a subscription starts here, or ends */                              \
    X(PRODUCER_DROP, 15)/* producers forgotten */                                              \
    X(DYING, 16)        /* intent: dead letter to mailbox and partition */                     \
    X(DEAD, 17)         /* the dead letter is stored there, or dropped */                      \
    X(SETTINGS, 18)     /* the mailbox's settings from here on */

enum entry_type {
#define X(name, number) ENTRY_##name = (number),
    ENTRY_LIST(X)
#undef X
};

struct entry {
    uint64_t index; /* from 1, without gaps */
    uint64_t epoch;
    uint8_t type;      /* enum entry_type */
    struct body *body; /* a reference; who holds it is said where an entry is passed */
};

#endif

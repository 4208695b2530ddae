// SPDX-License-Identifier: Apache-2.0
/*
 * A gateway for the library's tests, in the test's process: a loop on a thread
 * of its own, a listener, one mailbox of a few partitions. By itself it behaves
 * (stores, receipts, settles); a story changes that through its script.
 *
 * Everything in struct fake is guarded by its lock. Hooks run on its thread
 * with the lock held.
 */
#ifndef MAILROOM_TESTS_CLIENT_FAKE_H
#define MAILROOM_TESTS_CLIENT_FAKE_H

#include <pthread.h>
#include <stdbool.h>

#include "base/body.h"
#include "client/include/mailroom.h"
#include "proto/batch.h"
#include "wire/frames.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum { FAKE_PARTITIONS_MAX = 16, FAKE_SEEN_MAX = 65536, FAKE_MAILBOX_ID = 77 };

struct fake;

struct fake_publish { /* one Publish frame, as it came */
    unsigned session;
    uint64_t request;
    uint32_t partition;
    struct batch_header head;
    struct body *body;
    bool taken; /* stored just now: neither refused nor a duplicate */
};

struct fake_settle {
    unsigned session;
    uint64_t request;
    uint32_t consumer;
    int kind;
    uint64_t first_offset;
    uint32_t count;
    int64_t delay_us;
};

struct fake_held {
    uint64_t first_offset;
    uint32_t count;
};

struct fake {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    struct loop *loop;
    struct listener *listener;
    char address[128]; /* for mr_client_options.servers */

    /* the script */
    uint32_t partitions, route;
    uint64_t mailbox_id, window, message_max;
    bool missing;                    /* the mailbox: NOT_FOUND */
    bool mute;                       /* takes Publish frames and answers none */
    int swallow;                     /* receipts that get lost; what they are about is stored */
    bool deaf;                       /* answers no hello */
    int refuse_code, refuse_times;   /* next publishes */
    uint64_t forget;                 /* producers: as if dropped */
    int settle_result;               /* of each item */
    int settle_mute;                 /* Settle frames not to be answered */
    int request_code, request_times; /* next requests: refused so */
    bool request_mute;
    char *addresses[4]; /* in Welcome */
    size_t addresses_count;
    void (*on_hello)(struct fake *f, struct link *link); /* instead of Welcome */
    int64_t ack_timeout_us;
    uint64_t loads[FAKE_PARTITIONS_MAX];
    size_t loads_count;

    /* what was seen */
    unsigned sessions, lookups, subscribes, unsubscribes, requests, pings;
    struct link *link;     /* the newest session's, NULL: none */
    struct link *links[8]; /* by session */
    struct fake_publish published[FAKE_SEEN_MAX];
    size_t published_count;
    struct fake_settle settles[FAKE_SEEN_MAX];
    size_t settles_count;
    struct fake_held held[64]; /* of the last Subscribe */
    size_t held_count;
    uint8_t consumer_id[16];
    uint32_t consumer;
    uint32_t credit;
    int last_request;                     /* what_case */
    uint64_t last[FAKE_PARTITIONS_MAX];   /* sequence taken last */
    uint64_t offset[FAKE_PARTITIONS_MAX]; /* next */
    uint64_t stored, duplicates;          /* messages */
};

struct fake *fake_new(void);
/* Ends it; the client may be open still. */
void fake_free(struct fake *f);

void fake_lock(struct fake *f);
void fake_unlock(struct fake *f);
/* On its thread, with the lock; returns when done. */
void fake_do(struct fake *f, void (*what)(struct fake *f, void *arg), void *arg);
void fake_hang_up(struct fake *f);
void fake_goaway(struct fake *f);
/* A run of `count` messages "m<offset>" to the last subscribed consumer. */
struct fake_delivery {
    uint64_t first_offset;
    uint32_t count;
    uint32_t number;     /* delivery number */
    uint32_t wrong_crc;  /* added */
    uint32_t more_count; /* added to the announced one */
    uint32_t cut;        /* bytes taken off */
};
void fake_deliver(struct fake *f, const struct fake_delivery *d);
void fake_consumer_end(struct fake *f, int code, const char *text);

/* Wait, at most 10 s, until the condition over `f` holds. */
#define FAKE_WAIT(f, condition)                                                                              \
    do {                                                                                                     \
        usec_t fake_until = clock_now() + 10 * USEC_S;                                                       \
        fake_lock(f);                                                                                        \
        while (!(condition) && fake_wait(f, fake_until)) {                                                   \
        }                                                                                                    \
        bool fake_held_ = (condition);                                                                       \
        fake_unlock(f);                                                                                      \
        cr_assert(fake_held_, "waited in vain for: %s", #condition);                                         \
    } while (0)
bool fake_wait(struct fake *f, usec_t until);

/* A client of it; NULL name. Asserts. */
mr_client *fake_client(struct fake *f, int64_t timeout_ms);
mr_publication text(const char *payload);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A mailbox with its log, for tests: proposals become entries, committed entries
 * are applied by the leader and by a follower, and what the leader answers is
 * written down as text, one line an effect, so that a test reads as a story.
 */
#ifndef MAILROOM_TESTS_MAILBOX_WORLD_H
#define MAILROOM_TESTS_MAILBOX_WORLD_H

#include "base/body.h"
#include "mailbox/mailbox.h"

struct world {
    struct mailbox *leader, *follower;
    struct mailbox_settings settings;
    uint32_t partition; /* its number */
    struct mailbox_effects fx;
    struct entry *log; /* index i+1 at i */
    size_t log_count, log_capacity, committed;
    uint64_t epoch;
    usec_t now;     /* log time is now + WORLD_STAMP */
    bool hold;      /* commit only when told */
    bool keys;      /* messages get keys k0, k1, k2, k0 .. */
    size_t payload; /* bytes of each message */
    char *trace;
    size_t trace_size, trace_capacity;
};

#define WORLD_STAMP ((int64_t)1000000000)

struct mailbox_settings world_settings(void); /* defaults */
/* Leads epoch 1 with no gateways to wait for, allowed to deliver. */
void world_open(struct world *w, const struct mailbox_settings *settings);
void world_close(struct world *w); /* checks that the follower agrees and that a restore is equal */

/* Handles effects: traces them, appends proposals, commits unless `hold`. */
void world_run(struct world *w);
void world_commit(struct world *w, size_t entries); /* at most so many */
void world_turn(struct world *w);                   /* pump and run */
void world_wait(struct world *w, usec_t time);      /* time passes, timers run */

void world_publish(struct world *w, char producer, uint64_t sequence, uint64_t after, unsigned count);
void world_put(struct world *w, unsigned count); /* a batch of producer 'p', in order */
struct consumer_id world_consumer(char name);
void world_attach(struct world *w, char consumer, uint32_t credit); /* at gateway 1, to "default" */
void world_credit(struct world *w, char consumer, uint32_t credit);
void world_settle(struct world *w, char consumer, enum settle_kind kind, uint64_t first, uint32_t count,
                  uint32_t number);
void world_settle_with(struct world *w, char consumer, struct mailbox_settlement item);
void world_ack(struct world *w, char consumer, uint64_t first, uint32_t count);
/* Another leader, over the same log, in the next epoch. */
void world_fail_over(struct world *w, const uint64_t *gateways, size_t count);
struct subscription_stats world_stats(struct world *w); /* of "default" */
/* The trace since the last call must be this. */
void world_expect_at(struct world *w, const char *text, const char *file, int line);
#define EXPECT(w, text) world_expect_at(w, text, __FILE__, __LINE__)
/* The trace without the lines that start with one of these words ("ready", ..). */
void world_forget(struct world *w);

#endif

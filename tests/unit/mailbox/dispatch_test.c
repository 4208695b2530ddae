// SPDX-License-Identifier: Apache-2.0
/* Who gets what. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "world.h"

static struct mailbox_settings dispatched(enum dispatch d) {
    struct mailbox_settings s = world_settings();
    s.dispatch = d;
    return s;
}

static uint64_t delivered(struct world *w, size_t consumer) {
    struct consumer_stats c;
    cr_assert(mailbox_consumer_stats(w->leader, 0, consumer, &c));
    return c.delivered;
}

Test(dispatch, round_robin_is_fair_whatever_the_batches) {
    struct world w = {0};
    world_open(&w, NULL);
    for (char c = 'A'; c <= 'C'; c++)
        world_attach(&w, c, 100000);
    for (unsigned i = 0; i < 200; i++)
        world_put(&w, i % 3 == 0 ? 1 : i % 3 == 1 ? 97 : 10);
    uint64_t sum = mailbox_next_offset(w.leader);
    for (size_t i = 0; i < 3; i++) {
        cr_expect(ge(u64, delivered(&w, i), sum / 3 * 95 / 100));
        cr_expect(le(u64, delivered(&w, i), sum / 3 * 105 / 100));
    }
    world_close(&w);
}

Test(dispatch, round_robin_is_fair_over_few_messages) {
    struct world w = {0};
    world_open(&w, NULL);
    world_put(&w, 300);
    for (char c = 'A'; c <= 'C'; c++)
        world_attach(&w, c, 0);
    for (int round = 0; round < 10; round++)
        for (char c = 'A'; c <= 'C'; c++)
            world_credit(&w, c, 10);
    for (size_t i = 0; i < 3; i++)
        cr_expect(eq(u64, delivered(&w, i), 100));
    world_close(&w);
}

/* The consumer's oldest messages, at most so many. */
static void ack_some(struct world *w, char consumer, uint64_t *next, unsigned count) {
    uint64_t end = mailbox_next_offset(w->leader);
    while (*next < end && count > 0) {
        world_forget(w);
        world_ack(w, consumer, (*next)++, 1);
        count -= strstr(w->trace, "settled done") != NULL;
    }
}

Test(dispatch, least_loaded_gives_the_faster_more) {
    struct world w = {0};
    struct mailbox_settings s = dispatched(DISPATCH_LEAST_LOADED);
    world_open(&w, &s);
    world_attach(&w, 'A', 1000000);
    world_attach(&w, 'B', 1000000);
    uint64_t next[2] = {0, 0};
    for (int tick = 0; tick < 500; tick++) { /* every 10 ms 6 messages come; A can do 5, B one */
        world_put(&w, 6);
        w.now += 10000;
        ack_some(&w, 'A', &next[0], 5);
        ack_some(&w, 'B', &next[1], 1);
    }
    cr_expect(ge(u64, delivered(&w, 0), 3 * delivered(&w, 1)));
    cr_expect(le(u64, delivered(&w, 0), 8 * delivered(&w, 1)));
    world_close(&w);
}

Test(dispatch, exclusive_gives_all_to_the_first_and_then_to_the_next) {
    struct world w = {0};
    struct mailbox_settings s = dispatched(DISPATCH_EXCLUSIVE);
    world_open(&w, &s);
    world_attach(&w, 'A', 3);
    world_attach(&w, 'B', 10);
    EXPECT(&w, "B gives back 10\n");
    world_publish(&w, 'p', 1, 0, 5);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0-2\nready 1: 2\n");
    struct consumer_id a = world_consumer('A');
    mailbox_detach(w.leader, &a, "default", true, w.now, &w.fx);
    world_run(&w);
    EXPECT(&w, "");
    world_turn(&w);
    EXPECT(&w, "ready 1: 5\n");
    world_credit(&w, 'B', 10);
    EXPECT(&w, "B gets 0-2 #1 attempt 1\nB gets 3-4\n");
    world_close(&w);
}

Test(dispatch, exclusive_does_not_overtake_what_is_delayed) {
    struct world w = {0};
    struct mailbox_settings s = dispatched(DISPATCH_EXCLUSIVE);
    world_open(&w, &s);
    world_attach(&w, 'A', 2);
    world_publish(&w, 'p', 1, 0, 4);
    world_settle_with(
        &w, 'A', (struct mailbox_settlement){.kind = SETTLE_NACK, .count = 1, .epoch = 1, .delay = USEC_MS});
    world_forget(&w);
    world_credit(&w, 'A', 9);
    EXPECT(&w, "");
    world_wait(&w, USEC_MS);
    EXPECT(&w, "A gets 0 #1 attempt 2\nA gets 2-3\n");
    world_close(&w);
}

Test(dispatch, a_key_stays_with_its_consumer) {
    struct world w = {.keys = true};
    struct mailbox_settings s = dispatched(DISPATCH_KEY);
    world_open(&w, &s);
    world_attach(&w, 'A', 1);
    world_attach(&w, 'B', 2);
    world_publish(&w, 'p', 1, 0, 7); /* keys 0 1 2 0 1 2 0 */
    EXPECT(&w, "receipt p/1 at 0\nA gets 0\nB gets 1-2\nready 1: 4\n");
    world_credit(&w, 'A', 10);
    EXPECT(&w, "A gets 3\nA gets 6\n");
    world_credit(&w, 'B', 1);
    EXPECT(&w, "B gets 4\n");
    world_close(&w);
}

Test(dispatch, a_key_moves_when_nothing_of_it_is_held) {
    struct world w = {.keys = true};
    struct mailbox_settings s = dispatched(DISPATCH_KEY);
    world_open(&w, &s);
    world_attach(&w, 'A', 1);
    world_publish(&w, 'p', 1, 0, 1);
    world_publish(&w, 'p', 2, 1, 1);
    world_attach(&w, 'B', 5);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0\nreceipt p/2 at 1\nready 1: 1\n");
    world_ack(&w, 'A', 0, 1);
    EXPECT(&w, "dead batch 1\nsettled done\nB gets 1\n");
    world_close(&w);
}

Test(dispatch, a_delayed_message_blocks_its_key_only) {
    struct world w = {.keys = true};
    struct mailbox_settings s = dispatched(DISPATCH_KEY);
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 6); /* keys 0 1 2 0 1 2 */
    world_attach(&w, 'A', 1);
    world_settle_with(
        &w, 'A', (struct mailbox_settlement){.kind = SETTLE_NACK, .count = 1, .epoch = 1, .delay = USEC_S});
    world_forget(&w);
    world_credit(&w, 'A', 10);
    EXPECT(&w, "A gets 1-2\nA gets 4-5\n");
    struct subscription_stats stats = world_stats(&w);
    cr_expect(eq(str, (char *)stats.reason, "key-blocked"));
    world_wait(&w, USEC_S);
    world_forget(&w);
    world_credit(&w, 'A', 10);
    EXPECT(&w, "A gets 0 #1 attempt 2\nA gets 3\n");
    world_close(&w);
}

Test(dispatch, messages_without_a_key_go_to_anybody) {
    struct world w = {0};
    struct mailbox_settings s = dispatched(DISPATCH_KEY);
    world_open(&w, &s);
    world_attach(&w, 'A', 5);
    world_attach(&w, 'B', 5);
    world_publish(&w, 'p', 1, 0, 10);
    cr_expect(eq(u64, delivered(&w, 0), 5));
    cr_expect(eq(u64, delivered(&w, 1), 5));
    world_close(&w);
}

Test(dispatch, runs_are_bounded_in_messages_and_bytes) {
    struct world w = {0};
    world_open(&w, NULL);
    world_attach(&w, 'A', 10000);
    world_publish(&w, 'p', 1, 0, 2500);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0-1023\nA gets 1024-2047\nA gets 2048-2499\n");
    w.payload = 400000;
    world_publish(&w, 'p', 2, 1, 5);
    EXPECT(&w, "receipt p/2 at 2500\nA gets 2500-2501\nA gets 2502-2503\nA gets 2504\n");
    world_close(&w);
}

Test(dispatch, unused_credit_goes_back_and_ready_is_said_again) {
    struct world w = {0};
    world_open(&w, NULL);
    world_attach(&w, 'A', 5);
    world_publish(&w, 'p', 1, 0, 2);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0-1\n");
    world_wait(&w, 2 * MAILBOX_CREDIT_LINGER_US);
    EXPECT(&w, "A gives back 3\n");
    world_publish(&w, 'p', 2, 1, 2);
    world_publish(&w, 'p', 3, 2, 2);
    EXPECT(&w, "receipt p/2 at 2\nready 1: 2\nreceipt p/3 at 4\n");
    world_credit(&w, 'A', 4);
    EXPECT(&w, "A gets 2-3\nA gets 4-5\n");
    world_close(&w);
}

Test(dispatch, ready_is_repeated_while_messages_wait) {
    struct world w = {0};
    world_open(&w, NULL);
    world_attach(&w, 'A', 1);
    world_publish(&w, 'p', 1, 0, 2);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0\nready 1: 1\n");
    world_wait(&w, MAILBOX_READY_AGAIN_US);
    EXPECT(&w, "ready 1: 1\n");
    world_credit(&w, 'A', 2);
    world_wait(&w, 2 * MAILBOX_READY_AGAIN_US);
    EXPECT(&w, "A gets 1\nA gives back 1\n");
    world_close(&w);
}

Test(dispatch, why_nothing_moves_is_said) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 2);
    cr_expect(eq(str, (char *)world_stats(&w).reason, "no-consumer"));
    world_attach(&w, 'A', 0);
    cr_expect(eq(str, (char *)world_stats(&w).reason, "no-credit"));
    world_credit(&w, 'A', 2);
    cr_expect(eq(str, (char *)world_stats(&w).reason, ""));
    world_close(&w);
}

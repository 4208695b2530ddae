// SPDX-License-Identifier: Apache-2.0
/* Limits, time to live, retention, purge, subscriptions, durability none. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "world.h"

Test(limits, reject_refuses_what_does_not_fit_whole) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.max_messages = 10;
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 8);
    world_publish(&w, 'p', 2, 1, 3);
    world_publish(&w, 'p', 2, 1, 2);
    EXPECT(&w, "receipt p/1 at 0\nrefused p/2 FULL\nreceipt p/2 at 8\n");
    world_attach(&w, 'A', 3);
    world_ack(&w, 'A', 0, 3);
    world_forget(&w);
    world_publish(&w, 'p', 3, 2, 3);
    world_publish(&w, 'p', 4, 3, 1);
    EXPECT(&w, "receipt p/3 at 10\nrefused p/4 FULL\n");
    world_close(&w);
}

Test(limits, what_is_in_flight_counts) {
    struct world w = {.hold = true};
    struct mailbox_settings s = world_settings();
    s.max_messages = 10;
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 10);
    world_publish(&w, 'q', 1, 0, 1);
    EXPECT(&w, "refused q/1 FULL\n");
    world_commit(&w, 9);
    world_close(&w);
}

Test(limits, a_limit_in_bytes) {
    struct world w = {.payload = 1000};
    struct mailbox_settings s = world_settings();
    s.max_bytes = 2500;
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 1);
    world_publish(&w, 'p', 2, 1, 1);
    world_publish(&w, 'p', 3, 2, 1);
    EXPECT(&w, "receipt p/1 at 0\nreceipt p/2 at 1\nrefused p/3 FULL\n");
    world_close(&w);
}

Test(limits, drop_oldest_makes_room) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.max_messages = 10;
    s.overflow = OVERFLOW_DROP_OLDEST;
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 8);
    world_publish(&w, 'p', 2, 1, 6);
    world_publish(&w, 'p', 3, 2, 11);
    EXPECT(&w, "receipt p/1 at 0\nreceipt p/2 at 8\nrefused p/3 FULL\n");
    cr_expect(eq(u64, world_stats(&w).dropped, 4));
    world_attach(&w, 'A', 99);
    EXPECT(&w, "A gets 4-7\nA gets 8-13\n");
    world_publish(&w, 'p', 3, 2, 10);
    EXPECT(&w, "dead batch 1\ndead batch 3\nreceipt p/3 at 14\nA gets 14-23\n");
    world_ack(&w, 'A', 4, 4);
    EXPECT(&w, "settled already\n");
    world_close(&w);
}

Test(limits, drop_oldest_before_anything_is_committed) {
    struct world w = {.hold = true};
    struct mailbox_settings s = world_settings();
    s.max_messages = 10;
    s.overflow = OVERFLOW_DROP_OLDEST;
    world_open(&w, &s);
    for (uint64_t i = 1; i <= 9; i++)
        world_publish(&w, 'p', i, i - 1, 4);
    w.hold = false;
    world_run(&w);
    cr_expect(le(u64, world_stats(&w).ready, 10));
    cr_expect(ge(u64, world_stats(&w).ready, 4));
    world_close(&w);
}

Test(limits, a_limit_is_split_over_partitions) {
    struct mailbox_settings s = world_settings();
    s.partitions = 4;
    s.max_messages = 10;
    struct world w = {0};
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 4);
    world_publish(&w, 'p', 1, 0, 3);
    EXPECT(&w, "refused p/1 FULL\nreceipt p/1 at 0\n");
    world_close(&w);
}

Test(limits, old_messages_expire_but_not_in_a_consumers_hands) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.ttl = 5 * USEC_S;
    world_open(&w, &s);
    world_attach(&w, 'A', 1);
    world_publish(&w, 'p', 1, 0, 3);
    world_wait(&w, 4 * USEC_S);
    world_publish(&w, 'p', 2, 1, 1);
    world_forget(&w);
    world_wait(&w, 2 * USEC_S);
    cr_expect(eq(u64, world_stats(&w).expired, 2));
    cr_expect(eq(u64, world_stats(&w).leased, 1));
    world_forget(&w);
    world_settle(&w, 'A', SETTLE_NACK, 0, 1, 0);
    world_wait(&w, 0);
    cr_expect(eq(u64, world_stats(&w).expired, 3));
    world_credit(&w, 'A', 9);
    EXPECT(&w, "settled done\ndead batch 1\nready 1: 1\nA gets 3\n");
    world_close(&w);
}

Test(limits, settled_batches_are_retained_for_a_while_and_replayed) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.retain_time = 10 * USEC_S;
    world_open(&w, &s);
    world_attach(&w, 'A', 100);
    world_publish(&w, 'p', 1, 0, 3);
    world_ack(&w, 'A', 0, 3);
    world_wait(&w, 5 * USEC_S);
    world_publish(&w, 'p', 2, 1, 3);
    world_forget(&w);
    mailbox_subscribe(w.leader, "audit", FROM_FIRST, 0, &w.fx);
    mailbox_subscribe(w.leader, "late", FROM_OFFSET, 2, &w.fx);
    mailbox_subscribe(w.leader, "time", FROM_TIME, (uint64_t)(w.now + WORLD_STAMP), &w.fx);
    world_run(&w);
    struct subscription_stats stats;
    cr_assert(mailbox_subscription_stats(w.leader, 1, &stats));
    cr_expect(eq(u64, stats.ready, 6));
    cr_assert(mailbox_subscription_stats(w.leader, 2, &stats));
    cr_expect(eq(u64, stats.ready, 4));
    cr_assert(mailbox_subscription_stats(w.leader, 3, &stats));
    cr_expect(eq(u64, stats.ready, 3));
    struct consumer_id b = world_consumer('B');
    mailbox_attach(w.leader, &b, 1, "audit", "", 100, w.now, &w.fx);
    world_run(&w);
    EXPECT(&w, "B gets 0-2 of audit\nB gets 3-5 of audit\n");
    mailbox_unsubscribe(w.leader, "audit", &w.fx);
    mailbox_unsubscribe(w.leader, "late", &w.fx);
    world_run(&w);
    EXPECT(&w, "B detached from 1: NOT_FOUND\n");
    cr_expect(mailbox_batch_live(w.leader, 1));
    world_wait(&w, 6 * USEC_S);
    cr_expect(not(mailbox_batch_live(w.leader, 1)));
    cr_expect(eq(u64, world_stats(&w).ready, 3));
    world_close(&w);
}

Test(limits, settled_batches_are_retained_up_to_a_size) {
    struct world w = {.payload = 1000};
    struct mailbox_settings s = world_settings();
    s.retain_bytes = 2500;
    world_open(&w, &s);
    world_attach(&w, 'A', 100);
    for (uint64_t i = 1; i <= 4; i++) {
        world_publish(&w, 'p', i, i - 1, 1);
        world_ack(&w, 'A', i - 1, 1);
        world_wait(&w, 0);
    }
    size_t live;
    uint64_t *indexes = mailbox_live(w.leader, &live);
    cr_expect(eq(sz, live, 2));
    free(indexes);
    world_close(&w);
}

Test(limits, a_batch_in_the_middle_dies_alone) {
    struct world w = {0};
    world_open(&w, NULL);
    world_attach(&w, 'A', 100);
    for (uint64_t i = 1; i <= 3; i++)
        world_publish(&w, 'p', i, i - 1, 2);
    world_forget(&w);
    world_ack(&w, 'A', 2, 2);
    EXPECT(&w, "dead batch 2\nsettled done\n");
    cr_expect(not(mailbox_batch_live(w.leader, 2)));
    cr_expect(mailbox_batch_live(w.leader, 1));
    world_close(&w);
}

Test(limits, a_batch_lives_until_every_subscription_has_settled_it) {
    struct world w = {0};
    world_open(&w, NULL);
    mailbox_subscribe(w.leader, "audit", FROM_NEW, 0, &w.fx);
    world_run(&w);
    world_attach(&w, 'A', 100);
    struct consumer_id b = world_consumer('B');
    mailbox_attach(w.leader, &b, 1, "audit", "", 100, w.now, &w.fx);
    world_publish(&w, 'p', 1, 0, 2);
    world_ack(&w, 'A', 0, 2);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0-1\nB gets 0-1 of audit\nsettled done\n");
    mailbox_unsubscribe(w.leader, "audit", &w.fx);
    world_run(&w);
    EXPECT(&w, "B detached from 1: NOT_FOUND\ndead batch 2\n");
    world_close(&w);
}

Test(limits, without_a_subscription_nothing_is_kept) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.no_default = true;
    world_open(&w, &s);
    world_publish(&w, 'p', 1, 0, 2);
    EXPECT(&w, "dead batch 1\nreceipt p/1 at 0\n");
    world_close(&w);
}

Test(limits, a_purge_takes_everything_leased_or_not) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 4);
    world_attach(&w, 'A', 2);
    world_forget(&w);
    mailbox_purge(w.leader, &w.fx);
    world_run(&w);
    world_ack(&w, 'A', 0, 2);
    EXPECT(&w, "dead batch 1\nsettled already\n");
    cr_expect(eq(u64, world_stats(&w).purged, 4));
    cr_expect(eq(u64, world_stats(&w).ready, 0));
    world_close(&w);
}

Test(limits, new_settings_hold_from_their_entry_on) {
    struct world w = {0};
    world_open(&w, NULL);
    struct mailbox_settings s = world_settings();
    s.max_messages = 2;
    s.dispatch = DISPATCH_EXCLUSIVE; /* fixed at creation: not taken */
    mailbox_settings(w.leader, &s, &w.fx);
    world_run(&w);
    world_publish(&w, 'p', 1, 0, 3);
    EXPECT(&w, "refused p/1 FULL\n");
    world_fail_over(&w, NULL, 0);
    world_publish(&w, 'p', 1, 0, 3);
    EXPECT(&w, "refused p/1 FULL\n");
    world_close(&w);
}

Test(limits, a_full_disk_refuses_publishes_only) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 1);
    world_attach(&w, 'A', 1);
    struct batch_builder b = {0};
    struct producer_id id = {{'q'}};
    batch_add(&b, NULL, 0, NULL, 0, "x", 1);
    batch_finish(&b, &id, 1, 0, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    mailbox_publish(w.leader, (struct mailbox_origin){0}, body, w.now, w.now + WORLD_STAMP, true, &w.fx);
    body_drop(body);
    batch_builder_free(&b);
    world_run(&w);
    world_ack(&w, 'A', 0, 1);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0\nrefused q/1 DISK_FULL\ndead batch 1\nsettled done\n");
    world_close(&w);
}

Test(limits, durability_none_logs_nothing) {
    struct world w = {.hold = true};
    struct mailbox_settings s = world_settings();
    s.durability = DURABILITY_NONE;
    world_open(&w, &s);
    world_attach(&w, 'A', 2);
    world_publish(&w, 'p', 1, 0, 3);
    world_publish(&w, 'p', 1, 0, 3);
    EXPECT(&w, "receipt p/1 at 0\nA gets 0-1\nready 1: 1\nreceipt p/1 at 0 again\n");
    world_ack(&w, 'A', 0, 1);
    world_settle(&w, 'A', SETTLE_NACK, 1, 1, 0);
    world_credit(&w, 'A', 2);
    EXPECT(&w, "settled done\nsettled done\nA gets 1 #1 attempt 2\nA gets 2\n");
    cr_expect(eq(sz, w.log_count, 0));
    world_fail_over(&w, NULL, 0);
    cr_expect(eq(u64, world_stats(&w).published, 0));
    world_close(&w);
}

Test(limits, settings_taken_back_before_their_commit) {
    struct world w = {.hold = true};
    world_open(&w, NULL);
    struct mailbox_settings few = world_settings(), many = world_settings();
    few.max_messages = 2;
    mailbox_settings(w.leader, &few, &w.fx);
    world_run(&w);
    mailbox_settings(w.leader, &many, &w.fx);
    world_run(&w);
    world_publish(&w, 'p', 1, 0, 3);
    world_commit(&w, 9);
    world_publish(&w, 'p', 2, 1, 3);
    world_commit(&w, 9);
    EXPECT(&w, "receipt p/1 at 0\nreceipt p/2 at 3\n");
    world_close(&w);
}

Test(limits, new_limits_hold_before_their_commit) {
    struct world w = {.hold = true};
    world_open(&w, NULL);
    struct mailbox_settings s = world_settings();
    s.max_messages = 2;
    mailbox_settings(w.leader, &s, &w.fx);
    world_publish(&w, 'p', 1, 0, 3);
    world_commit(&w, 9);
    EXPECT(&w, "refused p/1 FULL\n");
    world_close(&w);
}

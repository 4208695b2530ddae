// SPDX-License-Identifier: Apache-2.0
/* Leases, settlement, returns, and what a new leader makes of them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "world.h"

static const uint64_t gateways[] = {1, 2};

/* A holds 0 .. count-1. */
static void open_leased(struct world *w, const struct mailbox_settings *settings, unsigned count) {
    world_open(w, settings);
    world_publish(w, 'p', 1, 0, count);
    world_attach(w, 'A', count);
    world_forget(w);
}

Test(settle, an_ack_is_answered_when_it_is_committed) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    w.hold = true;
    world_ack(&w, 'A', 0, 2);
    world_ack(&w, 'A', 1, 1); /* again, while the first is in flight */
    EXPECT(&w, "");
    world_commit(&w, 9);
    EXPECT(&w, "settled done\nsettled already\n");
    world_close(&w);
}

Test(settle, a_nack_comes_back_as_the_next_attempt_after_its_commit) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_credit(&w, 'A', 10);
    w.hold = true;
    world_settle(&w, 'A', SETTLE_NACK, 1, 1, 0);
    world_ack(&w, 'A', 1, 1); /* too late: the return is in flight */
    EXPECT(&w, "");
    world_commit(&w, 9);
    EXPECT(&w, "settled done\nsettled too-late\nA gets 1 #1 attempt 2\n");
    w.hold = false;
    world_ack(&w, 'A', 1, 1);
    world_settle(&w, 'A', SETTLE_ACK, 1, 1, 1);
    EXPECT(&w, "settled too-late\nsettled done\n");
    world_close(&w);
}

Test(settle, what_is_released_counts_no_attempt) {
    struct world w = {0};
    open_leased(&w, NULL, 2);
    world_settle(&w, 'A', SETTLE_RELEASE, 0, 2, 0);
    world_credit(&w, 'A', 2);
    EXPECT(&w, "settled done\nready 1: 2\nA gets 0-1 #1 attempt 1\n");
    world_close(&w);
}

Test(settle, returned_messages_go_before_first_deliveries_in_order) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_publish(&w, 'p', 2, 1, 2);
    world_settle(&w, 'A', SETTLE_RELEASE, 2, 1, 0);
    world_settle(&w, 'A', SETTLE_NACK, 0, 1, 0);
    world_forget(&w);
    world_credit(&w, 'A', 3);
    EXPECT(&w, "A gets 0 #1 attempt 2\nA gets 2 #1 attempt 1\nA gets 3\n");
    world_close(&w);
}

Test(settle, a_delay_is_waited_for) {
    struct world w = {0};
    open_leased(&w, NULL, 1);
    world_settle_with(
        &w, 'A',
        (struct mailbox_settlement){.kind = SETTLE_NACK, .count = 1, .epoch = 1, .delay = 5 * USEC_S});
    cr_expect(eq(u64, world_stats(&w).delayed, 1));
    world_wait(&w, 4999999);
    EXPECT(&w, "settled done\n");
    world_wait(&w, 1);
    EXPECT(&w, "ready 1: 1\n");
    cr_expect(eq(u64, world_stats(&w).delayed, 0));
    world_close(&w);
}

Test(settle, a_new_leader_keeps_a_delay) {
    struct world w = {0};
    open_leased(&w, NULL, 1);
    world_settle_with(
        &w, 'A',
        (struct mailbox_settlement){.kind = SETTLE_NACK, .count = 1, .epoch = 1, .delay = 5 * USEC_S});
    world_wait(&w, USEC_S);
    world_fail_over(&w, NULL, 0);
    world_attach(&w, 'A', 0);
    world_forget(&w);
    cr_expect(eq(u64, world_stats(&w).delayed, 1));
    world_wait(&w, 3999999);
    EXPECT(&w, "");
    world_wait(&w, 1);
    EXPECT(&w, "ready 1: 1\n");
    world_close(&w);
}

/* 0 came back with a delay, was delivered again to A under number 1, and is delayed
 * for the next leader, whose clock is 3 s behind. */
static void open_behind(struct world *w, const struct mailbox_settings *settings) {
    open_leased(w, settings, 1);
    w->now += 5 * USEC_S;
    world_settle_with(
        w, 'A', (struct mailbox_settlement){.kind = SETTLE_NACK, .count = 1, .epoch = 1, .delay = USEC_S});
    world_wait(w, USEC_S);
    world_credit(w, 'A', 1);
    w->now -= 3 * USEC_S;
    world_fail_over(w, gateways, 2);
    cr_expect(eq(u64, world_stats(w).delayed, 1));
    world_forget(w);
}

static void settle_inherited(struct world *w, enum settle_kind kind) {
    world_settle_with(
        w, 'A', (struct mailbox_settlement){.kind = kind, .count = 1, .epoch = 1, .delivery_number = 1});
}

Test(settle, what_seems_delayed_may_be_settled_by_who_had_it) {
    static const enum settle_kind kinds[] = {SETTLE_ACK, SETTLE_NACK, SETTLE_REJECT, SETTLE_RELEASE};
    for (size_t i = 0; i < 4; i++) {
        struct world w = {0};
        open_behind(&w, NULL);
        w.hold = true;
        settle_inherited(&w, kinds[i]);
        struct subscription_stats t = world_stats(&w);
        cr_expect(eq(u64, t.leased, 1));
        cr_expect(zero(u64, t.delayed));
        mailbox_presented(w.leader, 1, w.now, &w.fx);
        mailbox_presented(w.leader, 2, w.now, &w.fx);
        world_attach(&w, 'B', 1);
        world_wait(&w, 4 * USEC_S);
        world_forget(&w);
        world_credit(&w, 'B', 1);
        EXPECT(&w, "");
        world_commit(&w, 9);
        bool again = kinds[i] == SETTLE_NACK || kinds[i] == SETTLE_RELEASE;
        const char *got = kinds[i] == SETTLE_NACK ? "settled done\nB gets 0 #2 attempt 3\n"
                          : again                 ? "settled done\nB gets 0 #2 attempt 2\n"
                                                  : "dead batch 1\nsettled done\n";
        EXPECT(&w, got);
        world_close(&w);
    }
}

Test(settle, what_seemed_delayed_comes_back_before_it_is_delivered_again) {
    static const enum dispatch ways[] = {DISPATCH_ROUND_ROBIN, DISPATCH_EXCLUSIVE, DISPATCH_KEY};
    for (size_t i = 0; i < 3; i++) {
        struct world w = {.keys = true};
        struct mailbox_settings s = world_settings();
        s.dispatch = ways[i];
        open_behind(&w, &s);
        world_wait(&w, USEC_S); /* the gateways are given up */
        world_attach(&w, 'B', 0);
        world_wait(&w, 2 * USEC_S);
        cr_expect(zero(u64, world_stats(&w).delayed));
        settle_inherited(&w, SETTLE_ACK);
        world_forget(&w);
        world_credit(&w, 'B', 1);
        EXPECT(&w, "B gets 0 #2 attempt 2\n");
        settle_inherited(&w, SETTLE_ACK);
        EXPECT(&w, "settled too-late\n");
        world_close(&w);
    }
}

Test(settle, a_lease_runs_out_unless_extended) {
    struct world w = {0};
    open_leased(&w, NULL, 4);
    world_wait(&w, 20 * USEC_S);
    world_settle(&w, 'A', SETTLE_EXTEND, 1, 2, 0);
    EXPECT(&w, "settled done\n");
    world_credit(&w, 'A', 9);
    world_wait(&w, 10 * USEC_S);
    EXPECT(&w, "A gives back 9\nready 1: 2\n");
    world_credit(&w, 'A', 9);
    EXPECT(&w, "A gets 0 #1 attempt 2\nA gets 3 #1 attempt 2\n");
    world_ack(&w, 'A', 0, 1);
    world_ack(&w, 'A', 1, 2);
    EXPECT(&w, "settled too-late\nsettled done\n");
    world_close(&w);
}

Test(settle, a_clean_detach_releases_at_once) {
    struct world w = {0};
    open_leased(&w, NULL, 4);
    world_attach(&w, 'B', 4);
    struct consumer_id a = world_consumer('A');
    mailbox_detach(w.leader, &a, "default", true, w.now, &w.fx);
    world_turn(&w);
    EXPECT(&w, "B gets 0-3 #1 attempt 1\n");
    world_close(&w);
}

Test(settle, after_an_unclean_loss_leases_stay_for_the_grace) {
    struct world w = {0};
    open_leased(&w, NULL, 4);
    world_attach(&w, 'B', 0);
    struct consumer_id a = world_consumer('A');
    mailbox_detach(w.leader, &a, "default", false, w.now, &w.fx);
    world_wait(&w, MAILBOX_LOST_GRACE_US - 1);
    EXPECT(&w, "");
    world_wait(&w, 1);
    EXPECT(&w, "ready 1: 4\n");
    world_credit(&w, 'B', 4);
    EXPECT(&w, "B gets 0-3 #1 attempt 2\n");
    world_close(&w);
}

Test(settle, a_consumer_that_reconnects_in_time_keeps_what_it_holds) {
    struct world w = {0};
    open_leased(&w, NULL, 4);
    struct consumer_id a = world_consumer('A');
    mailbox_gateway_lost(w.leader, 1, w.now, &w.fx);
    world_wait(&w, USEC_S / 2);
    mailbox_attach(w.leader, &a, 2, "default", "client", 0, w.now, &w.fx);
    world_wait(&w, 5 * USEC_S);
    world_ack(&w, 'A', 0, 4);
    EXPECT(&w, "dead batch 1\nsettled done\n");
    world_close(&w);
}

Test(settle, the_same_consumer_elsewhere_detaches_the_old_session) {
    struct world w = {0};
    open_leased(&w, NULL, 1);
    struct consumer_id a = world_consumer('A');
    mailbox_attach(w.leader, &a, 2, "default", "client", 0, w.now, &w.fx);
    world_run(&w);
    EXPECT(&w, "A detached from 1: EXISTS\n");
    world_close(&w);
}

Test(settle, nothing_is_settled_by_somebody_else_or_by_a_made_up_token) {
    struct world w = {0};
    open_leased(&w, NULL, 2);
    world_attach(&w, 'B', 0);
    world_ack(&w, 'B', 0, 2);
    world_settle(&w, 'A', SETTLE_ACK, 0, 2, 1);
    world_ack(&w, 'A', 1, 5);
    world_settle_with(&w, 'A', (struct mailbox_settlement){.kind = SETTLE_ACK, .count = 2, .epoch = 9});
    EXPECT(&w, "settled too-late\nsettled too-late\nsettled too-late\nsettled too-late\n");
    world_ack(&w, 'A', 0, 2);
    EXPECT(&w, "dead batch 1\nsettled done\n");
    world_close(&w);
}

Test(settle, without_the_leaders_lease_nothing_is_delivered_or_settled) {
    struct world w = {0};
    open_leased(&w, NULL, 2);
    mailbox_allow(w.leader, w.now, w.now, &w.fx);
    world_put(&w, 1);
    world_forget(&w);
    world_credit(&w, 'A', 1);
    world_ack(&w, 'A', 0, 1);
    EXPECT(&w, "settled unknown\n");
    mailbox_allow(w.leader, w.now + 200000, w.now, &w.fx);
    world_run(&w);
    EXPECT(&w, "A gets 2\n");
    world_close(&w);
}

/* ---- leader changes ---- */

Test(settle, a_new_leader_waits_for_what_consumers_hold) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_fail_over(&w, gateways, 2);
    world_attach(&w, 'A', 10);
    world_attach(&w, 'B', 10);
    struct consumer_id a = world_consumer('A');
    struct mailbox_hold held = {.first_offset = 0, .count = 2, .epoch = 1};
    mailbox_hold(w.leader, &a, "default", &held, 1, w.now, &w.fx);
    mailbox_presented(w.leader, 1, w.now, &w.fx);
    world_turn(&w);
    EXPECT(&w, "");
    mailbox_presented(w.leader, 2, w.now, &w.fx);
    world_turn(&w);
    EXPECT(&w, "A gets 2 #1 attempt 1\n");
    world_settle_with(&w, 'A', (struct mailbox_settlement){.kind = SETTLE_ACK, .count = 2, .epoch = 1});
    EXPECT(&w, "settled done\n");
    world_close(&w);
}

Test(settle, what_was_not_presented_is_delivered_again_and_its_old_token_is_too_late) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_fail_over(&w, gateways, 2);
    world_attach(&w, 'B', 10);
    world_wait(&w, 600000 - 6000);
    world_credit(&w, 'B', 10);
    world_wait(&w, 6000);
    EXPECT(&w, "B gives back 10\nB gives back 10\nready 1: 3\n");
    world_settle_with(&w, 'A', (struct mailbox_settlement){.kind = SETTLE_ACK, .count = 3, .epoch = 1});
    EXPECT(&w, "settled too-late\n");
    world_close(&w);
}

Test(settle, a_token_of_an_earlier_epoch_is_good_until_redelivery) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_fail_over(&w, gateways, 2);
    world_settle_with(&w, 'A', (struct mailbox_settlement){.kind = SETTLE_ACK, .count = 2, .epoch = 1});
    world_settle_with(
        &w, 'A', (struct mailbox_settlement){.kind = SETTLE_NACK, .first_offset = 2, .count = 1, .epoch = 1});
    EXPECT(&w, "settled done\nsettled done\n");
    world_attach(&w, 'B', 10);
    EXPECT(&w, "B gets 2 #1 attempt 2\n");
    world_close(&w);
}

Test(settle, what_is_new_in_the_epoch_does_not_wait) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_fail_over(&w, gateways, 2);
    world_attach(&w, 'B', 10);
    world_publish(&w, 'p', 2, 1, 2);
    EXPECT(&w, "receipt p/2 at 3\nB gets 3-4\n");
    world_close(&w);
}

Test(settle, exclusive_keeps_the_order_even_then) {
    struct world w = {0};
    struct mailbox_settings s = world_settings();
    s.dispatch = DISPATCH_EXCLUSIVE;
    open_leased(&w, &s, 3);
    world_fail_over(&w, gateways, 1);
    world_attach(&w, 'B', 10);
    world_publish(&w, 'p', 2, 1, 2);
    EXPECT(&w, "receipt p/2 at 3\n");
    mailbox_presented(w.leader, 1, w.now, &w.fx);
    world_turn(&w);
    EXPECT(&w, "B gets 0-2 #1 attempt 1\nB gets 3-4\n");
    world_close(&w);
}

Test(settle, a_lost_gateway_has_nothing_to_present) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    world_fail_over(&w, gateways, 2);
    world_attach(&w, 'B', 10);
    mailbox_presented(w.leader, 1, w.now, &w.fx);
    mailbox_gateway_lost(w.leader, 2, w.now, &w.fx);
    world_turn(&w);
    EXPECT(&w, "B gets 0-2 #1 attempt 1\n");
    world_close(&w);
}

Test(settle, settlements_in_flight_at_a_leader_change_are_unknown) {
    struct world w = {0};
    open_leased(&w, NULL, 3);
    w.hold = true;
    world_ack(&w, 'A', 0, 1);
    struct consumer_id a = world_consumer('A');
    struct mailbox_settlement item = {.kind = SETTLE_ACK, .first_offset = 1, .count = 1, .epoch = 1};
    mailbox_settle(w.leader, (struct mailbox_origin){0}, &a, "default", &item, 1, w.now, w.now + WORLD_STAMP,
                   &w.fx);
    world_fail_over(&w, NULL, 0);
    EXPECT(&w, "settled unknown\nsettled unknown\n");
    w.hold = false;
    world_turn(&w);
    cr_expect(eq(u64, world_stats(&w).acked, 0));
    world_close(&w);
}

/* A has come again and says what it still holds of this epoch. */
static void comes_again(struct world *w, uint64_t gateway, const struct mailbox_hold *held, size_t count) {
    struct consumer_id a = world_consumer('A');
    cr_assert(mailbox_attach(w->leader, &a, gateway, "default", "client", 0, w->now, &w->fx) == ERR_OK);
    mailbox_still_held(w->leader, &a, "default", held, count, w->now, &w->fx);
    mailbox_hold(w->leader, &a, "default", held, count, w->now, &w->fx);
    world_turn(w);
    world_forget(w);
}

Test(settle, what_was_lost_on_its_way_comes_back_at_once_and_counts_no_attempt) {
    struct world w = {0};
    open_leased(&w, NULL, 6);
    mailbox_gateway_lost(w.leader, 1, w.now, &w.fx);
    const struct mailbox_hold held[] = {{.first_offset = 0, .count = 2, .epoch = 1},
                                        {.first_offset = 3, .count = 1, .epoch = 1},
                                        {.first_offset = 4, .count = 1, .epoch = 1, .delivery_number = 7}};
    comes_again(&w, 2, held, 3);
    cr_assert(world_stats(&w).leased == 3);
    world_credit(&w, 'A', 10);
    EXPECT(&w, "A gets 2 #1 attempt 1\nA gets 4-5 #1 attempt 1\n");
    world_ack(&w, 'A', 0, 2);
    EXPECT(&w, "settled done\n");
    world_close(&w);
}

Test(settle, a_gateway_that_a_consumer_has_left_has_no_say) {
    struct world w = {0};
    struct consumer_id a = world_consumer('A');
    open_leased(&w, NULL, 2);
    cr_assert(mailbox_at_gateway(w.leader, &a, "default", 1));
    const struct mailbox_hold held[] = {{.first_offset = 0, .count = 2, .epoch = 1}};
    comes_again(&w, 2, held, 1);
    cr_assert(not(mailbox_at_gateway(w.leader, &a, "default", 1)));
    cr_assert(mailbox_at_gateway(w.leader, &a, "default", 2));
    world_close(&w);
}

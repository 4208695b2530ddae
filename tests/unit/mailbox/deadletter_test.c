// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "world.h"

static void open_leased(struct world *w, uint32_t max_deliveries, const char *target, unsigned count) {
    struct mailbox_settings s = world_settings();
    s.max_deliveries = max_deliveries;
    strcpy(s.dead_letter, target);
    world_open(w, &s);
    world_publish(w, 'p', 1, 0, count);
    world_attach(w, 'A', count);
    world_forget(w);
}

static void dead_lettered(struct world *w, uint64_t intent, enum err code) {
    mailbox_dead_lettered(w->leader, intent, code, w->now, &w->fx);
    world_turn(w);
}

Test(deadletter, a_rejected_message_goes_to_the_target_and_is_then_dead) {
    struct world w = {0};
    open_leased(&w, 0, "dlq", 2);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 1, 0);
    EXPECT(&w, "dead letter 0 to dlq, intent 2 after 0, attempts 1, rejected\nsettled done\n");
    cr_expect(eq(u64, world_stats(&w).dying, 1));
    dead_lettered(&w, 2, ERR_OK);
    cr_expect(eq(u64, world_stats(&w).dead, 1));
    cr_expect(eq(u64, world_stats(&w).dying, 0));
    world_ack(&w, 'A', 0, 2);
    EXPECT(&w, "dead batch 1\nsettled done\n");
    world_close(&w);
}

/* What is dying goes on to where its intent says. */
Test(deadletter, the_targets_partitions_share_the_letters_of_the_sources) {
    struct world w = {.partition = 5};
    open_leased(&w, 0, "dlq", 3);
    mailbox_dead_letter_partitions(w.leader, 3);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 1, 0);
    EXPECT(&w, "dead letter 0 to dlq/2, intent 2 after 0, attempts 1, rejected\nsettled done\n");
    mailbox_dead_letter_partitions(w.leader, 4);
    world_settle(&w, 'A', SETTLE_REJECT, 1, 1, 0);
    EXPECT(&w, "dead letter 1 to dlq/1, intent 3 after 0, attempts 1, rejected\nsettled done\n");
    dead_lettered(&w, 2, ERR_UNAVAILABLE);
    world_forget(&w);
    world_wait(&w, 200000);
    EXPECT(&w, "dead letter 0 to dlq/2, intent 2 after 0, attempts 1, rejected\n");
    world_close(&w);
}

Test(deadletter, the_last_attempt_that_comes_back_dies) {
    struct world w = {0};
    open_leased(&w, 2, "dlq", 1);
    world_settle(&w, 'A', SETTLE_NACK, 0, 1, 0);
    world_credit(&w, 'A', 1);
    world_forget(&w);
    world_wait(&w, 30 * USEC_S);
    EXPECT(&w, "dead letter 0 to dlq, intent 3 after 0, attempts 2, max-deliveries\n");
    world_close(&w);
}

Test(deadletter, releases_do_not_count) {
    struct world w = {0};
    open_leased(&w, 1, "dlq", 1);
    for (uint32_t i = 0; i < 5; i++) {
        world_settle(&w, 'A', SETTLE_RELEASE, 0, 1, i);
        world_credit(&w, 'A', 1);
    }
    cr_expect(eq(u64, world_stats(&w).leased, 1));
    cr_expect(eq(u64, world_stats(&w).dying, 0));
    world_close(&w);
}

Test(deadletter, without_a_target_it_is_counted_as_dropped) {
    struct world w = {0};
    open_leased(&w, 1, "", 2);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 1, 0);
    world_settle(&w, 'A', SETTLE_NACK, 1, 1, 0);
    EXPECT(&w, "settled done\ndead batch 1\nsettled done\n");
    cr_expect(eq(u64, world_stats(&w).dropped, 2));
    world_close(&w);
}

Test(deadletter, refused_it_stays_dying_and_is_tried_again_in_order) {
    struct world w = {0};
    open_leased(&w, 0, "dlq", 2);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 2, 0);
    EXPECT(&w, "dead letter 0 to dlq, intent 2 after 0, attempts 1, rejected\n"
               "dead letter 1 to dlq, intent 3 after 2, attempts 1, rejected\nsettled done\n");
    dead_lettered(&w, 2, ERR_NOT_FOUND);
    dead_lettered(&w, 3, ERR_OUT_OF_ORDER);
    cr_expect(eq(str, (char *)world_stats(&w).dying_reason, "NOT_FOUND"));
    world_wait(&w, 99999);
    EXPECT(&w, "");
    world_wait(&w, 1);
    EXPECT(&w, "dead letter 0 to dlq, intent 2 after 0, attempts 1, rejected\n"
               "dead letter 1 to dlq, intent 3 after 2, attempts 1, rejected\n");
    dead_lettered(&w, 2, ERR_OK);
    dead_lettered(&w, 3, ERR_OK);
    EXPECT(&w, "dead batch 1\n");
    cr_expect(eq(str, (char *)world_stats(&w).dying_reason, ""));
    world_close(&w);
}

Test(deadletter, a_new_leader_sends_it_again_under_the_same_sequence) {
    struct world w = {0};
    open_leased(&w, 0, "dlq", 1);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 1, 0);
    world_forget(&w);
    world_fail_over(&w, NULL, 0);
    EXPECT(&w, "dead letter 0 to dlq, intent 2 after 0, attempts 1, rejected\n");
    world_settle_with(&w, 'A', (struct mailbox_settlement){.kind = SETTLE_REJECT, .count = 1, .epoch = 1});
    EXPECT(&w, "settled already\n");
    dead_lettered(&w, 2, ERR_OK);
    EXPECT(&w, "dead batch 1\n");
    world_close(&w);
}

Test(deadletter, so_many_are_on_their_way_at_once) {
    struct world w = {0};
    open_leased(&w, 0, "dlq", 100);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 100, 0);
    world_forget(&w);
    for (uint64_t i = 2; i < 2 + MAILBOX_DEAD_LETTERS_MAX; i++)
        dead_lettered(&w, i, ERR_OK);
    for (uint64_t i = 2 + MAILBOX_DEAD_LETTERS_MAX; i < 102; i++)
        dead_lettered(&w, i, ERR_OK);
    cr_expect(eq(u64, world_stats(&w).dead, 100));
    world_close(&w);
}

Test(deadletter, a_purge_takes_the_dying_too) {
    struct world w = {0};
    open_leased(&w, 0, "dlq", 1);
    world_settle(&w, 'A', SETTLE_REJECT, 0, 1, 0);
    mailbox_purge(w.leader, &w.fx);
    world_run(&w);
    dead_lettered(&w, 2, ERR_OK);
    cr_expect(eq(u64, world_stats(&w).purged, 1));
    cr_expect(eq(u64, world_stats(&w).dead, 0));
    world_close(&w);
}

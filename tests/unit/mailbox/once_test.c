// SPDX-License-Identifier: Apache-2.0
/* A publish that is retried is stored once. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "world.h"

Test(once, a_retry_is_receipted_again_and_not_stored) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 3);
    world_publish(&w, 'p', 1, 0, 3);
    EXPECT(&w, "receipt p/1 at 0\nreceipt p/1 at 0 again\n");
    cr_expect(eq(u64, mailbox_next_offset(w.leader), 3));
    world_close(&w);
}

Test(once, a_retry_of_an_uncommitted_batch_waits_for_the_last_taken) {
    struct world w = {.hold = true};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 1);
    world_publish(&w, 'p', 2, 1, 1);
    world_publish(&w, 'p', 1, 0, 1);
    EXPECT(&w, "");
    world_commit(&w, 1);
    EXPECT(&w, "receipt p/1 at 0\n");
    world_commit(&w, 1);
    EXPECT(&w, "receipt p/2 at 1\nreceipt p/1 again\n");
    world_close(&w);
}

Test(once, a_gap_is_refused_with_the_last_sequence_taken) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 1);
    world_publish(&w, 'p', 3, 2, 1);
    world_publish(&w, 'p', 5, 1, 1); /* 2 .. 4 were abandoned */
    world_publish(&w, 'p', 2, 1, 1); /* so this is late */
    EXPECT(&w, "receipt p/1 at 0\nrefused p/3 OUT_OF_ORDER last 1\nreceipt p/5 at 1\nreceipt p/2 again\n");
    world_close(&w);
}

Test(once, an_unknown_producer_that_says_it_is_known_is_refused) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 7, 6, 1);
    world_publish(&w, 'p', 7, 0, 1);
    EXPECT(&w, "refused p/7 FORGOTTEN\nreceipt p/7 at 0\n");
    world_close(&w);
}

Test(once, an_idle_producer_is_forgotten_by_an_entry_after_an_hour) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 1);
    world_wait(&w, 1800 * USEC_S);
    world_publish(&w, 'q', 1, 0, 1);
    world_forget(&w);
    world_wait(&w, 1801 * USEC_S);
    world_publish(&w, 'p', 2, 1, 1);
    world_publish(&w, 'q', 2, 1, 1);
    EXPECT(&w, "refused p/2 FORGOTTEN\nreceipt q/2 at 2\n");
    world_close(&w);
}

Test(once, what_was_in_flight_at_a_leader_change_is_refused_and_taken_anew) {
    struct world w = {.hold = true};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 1);
    world_publish(&w, 'p', 2, 1, 1);
    world_commit(&w, 1);
    world_publish(&w, 'p', 2, 1, 1);
    world_fail_over(&w, NULL, 0);
    EXPECT(&w, "receipt p/1 at 0\nrefused p/2 NOT_LEADER\nrefused p/2 NOT_LEADER\n");
    w.hold = false;
    world_publish(&w, 'p', 2, 1, 1);
    world_publish(&w, 'p', 1, 0, 1);
    EXPECT(&w, "receipt p/2 at 1\nreceipt p/1 again\n");
    world_close(&w);
}

static void publish_as(struct world *w, uint64_t producer) {
    struct batch_builder b = {0};
    struct producer_id id = {{0}};
    memcpy(id.bytes + 1, &producer, sizeof producer);
    batch_add(&b, NULL, 0, NULL, 0, "x", 1);
    batch_finish(&b, &id, 1, 0, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    mailbox_publish(w->leader, (struct mailbox_origin){0}, body, w->now, w->now + WORLD_STAMP, false, &w->fx);
    body_drop(body);
    batch_builder_free(&b);
    world_run(w);
}

Test(once, the_table_is_bounded_and_the_idle_make_room) {
    struct world w = {0};
    world_open(&w, NULL);
    for (uint64_t i = 0; i < MAILBOX_PRODUCERS_MAX; i++)
        publish_as(&w, i);
    world_forget(&w);
    world_publish(&w, 'n', 1, 0, 1);
    EXPECT(&w, "refused n/1 BUSY\n");
    world_wait(&w, 601 * USEC_S);
    world_publish(&w, 'n', 1, 0, 1);
    EXPECT(&w, "receipt n/1 at 65536\n");
    world_close(&w);
}

Test(once, a_producer_of_dead_letters_is_never_forgotten) {
    struct world w = {0};
    world_open(&w, NULL);
    struct batch_builder b = {0};
    struct producer_id id = {{'d'}};
    batch_add(&b, NULL, 0, NULL, 0, "x", 1);
    batch_finish(&b, &id, 5, 0, 0, BATCH_FLAG_DEAD_LETTER);
    struct body *body = body_copy(b.data, b.size);
    mailbox_publish(w.leader, (struct mailbox_origin){0}, body, w.now, w.now + WORLD_STAMP, false, &w.fx);
    body_drop(body);
    batch_builder_free(&b);
    world_run(&w);
    world_wait(&w, 7200 * USEC_S);
    world_publish(&w, 'd', 5, 0, 1);
    EXPECT(&w, "receipt d/5 at 0\nreceipt d/5 at 0 again\n");
    world_close(&w);
}

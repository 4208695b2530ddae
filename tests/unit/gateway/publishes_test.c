// SPDX-License-Identifier: Apache-2.0
#include "gateway/publishes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proto/batch.h"

enum { P1 = 71, P2 = 72, ALICE = 1, BOB = 2 };

static struct publishes table;
static char trace[1024];
static int room; /* sends taken before the link is full */

static bool send_one(void *ctx, const struct publish *p) {
    if (room == 0)
        return false;
    room--;
    size_t at = strlen(trace);
    snprintf(trace + at, sizeof trace - at, "%llu/%llu ", (unsigned long long)p->queue->partition,
             (unsigned long long)p->request);
    return true;
}

static const char *turn(int sends) {
    struct publish_queue *q;
    trace[0] = 0;
    room = sends;
    while ((q = publishes_next_pending(&table)))
        publishes_send(&table, q, send_one, NULL);
    return trace;
}

static struct publish *publish(uint64_t owner, uint64_t request, uint64_t partition) {
    struct batch_builder b = {0};
    struct producer_id id = {{(uint8_t)owner}};
    cr_assert_eq(batch_add(&b, NULL, 0, NULL, 0, "x", 1), ERR_OK);
    batch_finish(&b, &id, request, request - 1, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    struct publish *p = publishes_add(&table, owner, request, partition, body, 0);
    body_drop(body);
    return p;
}

static void receipted(struct publish *p) {
    publishes_receipted(&table, p);
}

Test(publishes, each_is_sent_once_and_found_by_its_number) {
    struct publish *a = publish(ALICE, 1, P1);
    cr_assert_str_eq(turn(9), "71/1 ");
    struct publish *b = publish(ALICE, 2, P1);
    cr_assert_str_eq(turn(9), "71/2 ");
    cr_assert_str_eq(turn(9), "");
    cr_assert_eq(publishes_find(&table, a->number), a);
    uint64_t number = b->number;
    receipted(b);
    cr_assert_null(publishes_find(&table, number));
    receipted(a);
    cr_assert_eq(table.count + table.bytes, 0);
    publishes_free(&table);
}

Test(publishes, a_lost_leader_gets_none_and_the_next_one_all_in_their_order) {
    publish(ALICE, 1, P1);
    publish(BOB, 1, P1);
    cr_assert_str_eq(turn(9), "71/1 71/1 ");
    publish(ALICE, 2, P1);
    publish(ALICE, 7, P2);
    publishes_lost(&table, P1);
    cr_assert_str_eq(turn(0), "");
    publish(BOB, 2, P1);
    publishes_leader(&table, P1);
    publishes_leader(&table, P2);
    turn(9);
    cr_assert(strstr(trace, "71/1 71/1 71/2 71/2 "), "%s", trace);
    cr_assert(strstr(trace, "72/7 "));
    publishes_free(&table);
}

Test(publishes, a_full_link_takes_the_rest_later) {
    for (uint64_t i = 1; i <= 4; i++)
        publish(ALICE, i, P1);
    cr_assert_str_eq(turn(2), "71/1 71/2 ");
    publishes_leader(&table, P1);
    cr_assert_str_eq(turn(9), "71/3 71/4 ");
    publishes_free(&table);
}

Test(publishes, busy_waits_and_takes_those_behind_it_along) {
    struct publish *a = publish(ALICE, 1, P1), *b = publish(ALICE, 2, P1), *other = publish(BOB, 5, P1);
    turn(9);
    cr_assert(publishes_refused(&table, a, ERR_BUSY, 1000));
    cr_assert(publishes_refused(&table, b, ERR_OUT_OF_ORDER, 1000), "the gap is the gateway's");
    cr_assert_not(publishes_refused(&table, other, ERR_OUT_OF_ORDER, 1000), "this one is its client's");
    cr_assert_not(publishes_refused(&table, other, ERR_FULL, 1000));
    publish(ALICE, 3, P1);
    cr_assert_str_eq(turn(9), "", "the newcomer does not overtake");
    usec_t due = publishes_tick(&table, 1000);
    cr_assert_eq(due, 1000 + PUBLISHES_RETRY_MIN_US);
    cr_assert_eq(publishes_tick(&table, due), USEC_NEVER);
    cr_assert_str_eq(turn(9), "71/1 71/2 71/3 ");
    /* refused again: it waits longer, until a receipt */
    publishes_refused(&table, a, ERR_NOT_LEADER, due);
    cr_assert_eq(publishes_tick(&table, due), due + 2 * PUBLISHES_RETRY_MIN_US);
    publishes_leader(&table, P1);
    cr_assert_str_eq(turn(9), "71/1 ", "news of a leader end the wait");
    publishes_free(&table);
}

Test(publishes, a_closed_session_is_forgotten_and_leaves_the_others) {
    publish(ALICE, 1, P1);
    struct publish *b = publish(BOB, 1, P1);
    publish(ALICE, 1, P2);
    size_t each = b->body->size;
    cr_assert_eq(publishes_owner_bytes(&table, ALICE), 2 * each);
    publishes_forget(&table, ALICE);
    cr_assert_eq(publishes_owner_bytes(&table, ALICE), 0);
    cr_assert_eq(table.count, 1);
    cr_assert_eq(table.bytes, each);
    cr_assert_str_eq(turn(9), "71/1 ");
    publishes_free(&table);
}

Test(publishes, the_oldest_expires_first) {
    struct publish *a = publish(ALICE, 1, P1);
    cr_assert_null(publishes_expired(&table, PUBLISHES_DEADLINE_US - 1));
    cr_assert_eq(publishes_expired(&table, PUBLISHES_DEADLINE_US), a);
    publishes_free(&table);
}

// SPDX-License-Identifier: Apache-2.0
#include "gateway/settles.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

enum { BOX = 9, SESSION = 1, CONSUMER = 4 };

static struct settles table;
static uint64_t sent[16];
static size_t sent_count;
static char trace[512];

static bool send_one(void *ctx, const struct settle_part *part) {
    sent[sent_count++] = part->number;
    return true;
}

static void settled(void *ctx, const struct settle *s, const struct settlement *item,
                    enum settlement_result result) {
    size_t at = strlen(trace);
    snprintf(trace + at, sizeof trace - at, "%u:%llu=%d ", item->partition,
             (unsigned long long)item->range.first, (int)result);
}

static struct settlement item(uint32_t partition, uint64_t first) {
    return (struct settlement){
        .kind = SETTLEMENT_ACK, .partition = partition, .range = {.first = first, .count = 1, .epoch = 1}};
}

static struct settle *begin(void) {
    struct settlement items[] = {item(0, 10), item(2, 20), item(0, 11), item(2, 21), item(0, 12)};
    memset(sent, 0, sizeof sent);
    sent_count = 0;
    trace[0] = 0;
    static const struct settle_consumer consumer = {.number = CONSUMER, .subscription = "default"};
    return settles_begin(&table, SESSION, 77, &consumer, BOX, items, 5);
}

static void send_all(void) {
    sent_count = 0;
    for (uint32_t p = 0; p < 3; p++)
        settles_send(&table, BOX, p, send_one, NULL);
}

Test(settles, answers_come_together_in_the_order_of_the_items) {
    struct settle *s = begin();
    send_all();
    cr_assert_eq(sent_count, 2, "one part a partition");
    struct settle_part *second = settles_find(&table, sent[1]);
    cr_assert_eq(second->count, 2);
    const uint8_t two[] = {SETTLEMENT_ALREADY, SETTLEMENT_TOO_LATE};
    cr_assert(settles_answer(&table, second, two, 2, settled, NULL));
    cr_assert_not_null(s->parts);
    const uint8_t three[] = {SETTLEMENT_DONE, SETTLEMENT_TOO_LATE, SETTLEMENT_DONE};
    cr_assert(settles_answer(&table, settles_find(&table, sent[0]), three, 3, settled, NULL));
    cr_assert_null(s->parts);
    const uint8_t expected[] = {SETTLEMENT_DONE, SETTLEMENT_ALREADY, SETTLEMENT_TOO_LATE, SETTLEMENT_TOO_LATE,
                                SETTLEMENT_DONE};
    cr_assert_arr_eq(s->results, expected, 5);
    cr_assert_str_eq(trace, "2:20=1 2:21=2 0:10=0 0:11=2 0:12=0 ");
    settles_remove(&table, s);
    cr_assert_eq(table.items, 0);
}

Test(settles, unknown_items_are_asked_again_and_only_those) {
    struct settle *s = begin();
    send_all();
    const uint8_t results[] = {SETTLEMENT_DONE, SETTLEMENT_UNKNOWN, SETTLEMENT_DONE};
    settles_answer(&table, settles_find(&table, sent[0]), results, 3, settled, NULL);
    uint64_t number = sent[0];
    send_all();
    cr_assert_eq(sent_count, 1, "the other part is under way");
    cr_assert_eq(sent[0], number);
    struct settle_part *left = settles_find(&table, number);
    cr_assert_eq(left->count, 1);
    cr_assert_eq(s->items[left->items[0]].range.first, 11);
    settles_free(&table);
}

Test(settles, a_lost_leader_is_asked_again) {
    begin();
    send_all();
    send_all();
    cr_assert_eq(sent_count, 0);
    settles_lost(&table, BOX, 2);
    settles_lost(&table, BOX + 1, 0);
    send_all();
    cr_assert_eq(sent_count, 1);
    cr_assert_eq(settles_find(&table, sent[0])->partition, 2);
    settles_free(&table);
}

Test(settles, a_wrong_number_of_results_changes_nothing) {
    begin();
    send_all();
    const uint8_t results[] = {SETTLEMENT_DONE, SETTLEMENT_DONE};
    cr_assert_not(settles_answer(&table, settles_find(&table, sent[0]), results, 2, settled, NULL));
    cr_assert_str_eq(trace, "");
    settles_free(&table);
}

Test(settles, a_closed_session_is_forgotten) {
    begin();
    settles_forget(&table, SESSION);
    cr_assert_null(table.all);
    cr_assert_null(table.by_number);
}

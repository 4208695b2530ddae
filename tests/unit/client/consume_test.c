// SPDX-License-Identifier: Apache-2.0
/* Stories of consuming against a scripted gateway. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "fake.h"

static mr_consumer *join(mr_client *client, uint32_t credit) {
    mr_consumer_options o = {.struct_size = sizeof o, .credit = credit};
    mr_consumer *k;
    mr_error error;
    cr_assert(mr_consumer_open(client, "orders", &o, 5000, &k, &error) == MR_OK, "%s", error.text);
    return k;
}

static mr_message *next(mr_consumer *k) {
    mr_message *m;
    mr_error error;
    cr_assert(mr_consumer_next(k, 5000, &m, &error) == MR_OK, "%s", error.text);
    return m;
}

static void expect_payload(mr_message *m, const char *expected) {
    size_t size;
    const char *payload = mr_message_payload(m, &size);
    cr_assert(size == strlen(expected) && memcmp(payload, expected, size) == 0, "%.*s, expected %s",
              (int)size, payload, expected);
}

Test(consume, a_message_has_all_its_fields) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 10);
    cr_assert(f->credit == 10);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 40, .count = 3});
    mr_message *m = next(k);
    size_t size, name_size;
    const char *name;
    const void *value;
    expect_payload(m, "m40");
    cr_assert(mr_message_offset(m) == 40 && mr_message_partition(m) == 0 && mr_message_attempt(m) == 1);
    cr_assert(mr_message_time_us(m) == 1234567 && strcmp(mr_message_mailbox(m), "orders") == 0);
    cr_assert(memcmp(mr_message_key(m, &size), "key", 3) == 0 && size == 3);
    cr_assert(mr_message_headers(m) == 1);
    cr_assert(mr_message_header(m, 0, &name, &name_size, &value, &size) == 0 && name_size == 1 &&
              *name == 'n');
    cr_assert(mr_message_header(m, 1, &name, &name_size, &value, &size) == -1);
    cr_assert(mr_message_header_get(m, "n", &size) && size == 3 && !mr_message_header_get(m, "x", &size));
    mr_error error;
    cr_assert(mr_settle(m, MR_ACK, 0, 5000, &error) == MR_OK, "%s", error.text);
    cr_assert(mr_settle(m, MR_ACK, 0, 5000, &error) == MR_ESETTLED);
    mr_message_free(m);
    cr_assert(mr_consumer_close(k, 5000, &error) == MR_OK, "%s", error.text);
    cr_assert(f->unsubscribes == 1);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, acks_in_a_row_are_one_settlement) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 1000);
    f->settle_mute = 1;
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 500});
    for (int i = 0; i < 500; i++) {
        mr_message *m = next(k);
        cr_assert(mr_ack(m) == MR_OK);
        mr_message_free(m);
        if (i == 0)
            FAKE_WAIT(f, f->settles_count == 1); /* is not answered: the rest is packed meanwhile */
    }
    fake_hang_up(f);
    FAKE_WAIT(f, f->settles_count >= 2 && f->subscribes == 2);
    cr_assert(mr_consumer_flush(k, 5000, NULL) == MR_OK);
    uint32_t acked = 0;
    for (size_t i = 1; i < f->settles_count; i++)
        acked += f->settles[i].count;
    cr_assert(acked == 500 && f->settles_count <= 4, "%u in %zu items", acked, f->settles_count);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, held_deliveries_are_presented_again) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    uint8_t id[16];
    memcpy(id, f->consumer_id, 16);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 10, .count = 4});
    fake_deliver(f, &(struct fake_delivery){.first_offset = 30, .count = 2});
    mr_message *a = next(k), *b = next(k), *c = next(k);
    cr_assert(mr_settle(b, MR_ACK, 0, 5000, NULL) ==
              MR_OK); /* 11 is done; 10 and 12 in hand, 13, 30, 31 wait */
    fake_hang_up(f);
    FAKE_WAIT(f, f->subscribes == 2);
    cr_assert(memcmp(id, f->consumer_id, 16) == 0, "the consumer keeps its id");
    cr_assert(f->held_count == 3);
    cr_assert(f->held[0].first_offset == 10 && f->held[0].count == 1);
    cr_assert(f->held[1].first_offset == 12 && f->held[1].count == 2);
    cr_assert(f->held[2].first_offset == 30 && f->held[2].count == 2);
    mr_message *d = next(k); /* what waited is handed out still, once */
    expect_payload(d, "m13");
    cr_assert(mr_settle(d, MR_NACK, 250, 5000, NULL) == MR_OK);
    struct fake_settle *last = &f->settles[f->settles_count - 1];
    cr_assert(last->kind == MR_NACK && last->delay_us == 250000 && last->session == 2);
    mr_message_free(a);
    mr_message_free(b);
    mr_message_free(c);
    mr_message_free(d);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

static atomic_int answers, answer;

static void on_answer(void *ctx, int result, const mr_error *error) {
    atomic_store(&answer, result);
    atomic_fetch_add(&answers, 1);
}

Test(consume, an_unanswered_settlement_goes_again_until_answered) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    f->settle_mute = 2;
    fake_deliver(f, &(struct fake_delivery){.first_offset = 7, .count = 1});
    mr_message *m = next(k);
    cr_assert(mr_settle_async(m, MR_REJECT, 0, on_answer, NULL, NULL) == MR_OK);
    FAKE_WAIT(f, f->settles_count == 1);
    fake_hang_up(f);
    FAKE_WAIT(f, f->settles_count == 2);
    cr_assert(f->held_count == 1, "what is being settled is held");
    fake_hang_up(f);
    FAKE_WAIT(f, atomic_load(&answers) == 1);
    cr_assert(f->settles_count == 3 && answer == MR_SETTLE_DONE);
    for (int i = 0; i < 3; i++)
        cr_assert(f->settles[i].kind == MR_REJECT && f->settles[i].first_offset == 7);
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

static void answer_with(struct fake *f, int result) {
    fake_lock(f);
    f->settle_result = result;
    fake_unlock(f);
}

Test(consume, answers_are_told_apart) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 4});
    static const int expected[] = {MR_OK, MR_ESETTLED, MR_ETOOLATE};
    mr_message *m;
    for (int i = 0; i < 3; i++) {
        answer_with(f, i);
        m = next(k);
        cr_assert(mr_settle(m, MR_ACK, 0, 5000, NULL) == expected[i]);
        mr_message_free(m);
    }
    answer_with(f, 3); /* "not leading: ask again" */
    m = next(k);
    cr_assert(mr_settle(m, MR_ACK, 0, 300, NULL) == MR_EUNKNOWN);
    fake_lock(f);
    size_t asked = f->settles_count - 3;
    fake_unlock(f);
    cr_assert(asked > 1 && asked < 60, "asked %zu times in 300 ms", asked);
    answer_with(f, 0);
    cr_assert(mr_consumer_flush(k, 5000, NULL) == MR_OK);
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, extend_leaves_the_message_to_be_settled) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 1});
    mr_message *m = next(k);
    cr_assert(mr_settle(m, MR_EXTEND, 60000, 5000, NULL) == MR_OK);
    cr_assert(mr_settle(m, MR_EXTEND, 60000, 5000, NULL) == MR_OK);
    cr_assert(mr_settle(m, MR_ACK, 0, 5000, NULL) == MR_OK);
    cr_assert(mr_settle(m, MR_EXTEND, 60000, 5000, NULL) == MR_ESETTLED);
    cr_assert(f->settles_count == 3 && f->settles[0].delay_us == 60000000 && f->settles[2].kind == MR_ACK);
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, a_message_freed_unsettled_is_released) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 3, .count = 1});
    mr_message_free(next(k));
    FAKE_WAIT(f, f->settles_count == 1);
    cr_assert(f->settles[0].kind == MR_RELEASE && f->settles[0].first_offset == 3);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, a_delivery_that_waited_past_its_lease_is_not_handed_out) {
    struct fake *f = fake_new();
    f->ack_timeout_us = 100 * USEC_MS;
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 2});
    mr_message *m = next(k), *none;
    usec_t until = clock_now() + 200 * USEC_MS;
    fake_lock(f);
    while (fake_wait(f, until)) {
    }
    fake_unlock(f);
    cr_assert(mr_consumer_next(k, 0, &none, NULL) == MR_ETIMEOUT);
    FAKE_WAIT(f, f->settles_count == 1);
    cr_assert(f->settles[0].kind == MR_RELEASE && f->settles[0].first_offset == 1);
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, the_descriptor_says_when_there_is_something) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    struct pollfd p = {.fd = mr_consumer_fd(k), .events = POLLIN};
    cr_assert(p.fd >= 0 && poll(&p, 1, 0) == 0);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 2});
    cr_assert(poll(&p, 1, 5000) == 1);
    mr_message *m;
    cr_assert(mr_consumer_next(k, 0, &m, NULL) == MR_OK);
    mr_message_free(m);
    cr_assert(poll(&p, 1, 0) == 1, "one is left");
    cr_assert(mr_consumer_next(k, 0, &m, NULL) == MR_OK);
    mr_message_free(m);
    cr_assert(poll(&p, 1, 0) == 0);
    fake_consumer_end(f, MR_ENOTFOUND, "deleted");
    cr_assert(poll(&p, 1, 5000) == 1, "the end is news too");
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

static atomic_int handled;

static void handle(void *ctx, mr_consumer *k, mr_message *m) {
    mr_error error;
    cr_assert(mr_settle(m, MR_ACK, 0, 5000, &error) == MR_OK, "may wait here: %s", error.text);
    mr_message_free(m);
    cr_assert(mr_consumer_close(k, 0, NULL) == MR_EUSAGE);
    atomic_fetch_add(&handled, 1);
}

Test(consume, by_callback) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer_options o = {.struct_size = sizeof o, .consume = handle};
    mr_consumer *k;
    cr_assert(mr_consumer_open(client, "orders", &o, 5000, &k, NULL) == MR_OK);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 20});
    FAKE_WAIT(f, atomic_load(&handled) == 20);
    cr_assert(mr_consumer_close(k, 5000, NULL) == MR_OK);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, the_cluster_ends_a_consumer_or_only_interrupts_it) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    mr_message *m;
    mr_error error;
    fake_consumer_end(f, MR_EUNAVAILABLE, "the leader has gone");
    FAKE_WAIT(f, f->subscribes == 2);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 1});
    mr_message_free(next(k));
    fake_consumer_end(f, MR_ENOTFOUND, "the mailbox was deleted");
    cr_assert(mr_consumer_next(k, 5000, &m, &error) == MR_ENOTFOUND && strstr(error.text, "deleted"));
    mr_consumer_close(k, 1000, NULL);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, a_missing_subscription_is_told) {
    struct fake *f = fake_new();
    f->missing = true;
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k;
    mr_error error;
    cr_assert(mr_consumer_open(client, "orders", NULL, 5000, &k, &error) == MR_ENOTFOUND, "%s", error.text);
    cr_assert(!k);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(consume, messages_outlive_their_consumer_and_client) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 100);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 3});
    mr_message *a = next(k), *b = next(k);
    cr_assert(mr_consumer_close(k, 5000, NULL) == MR_OK);
    cr_assert(mr_ack(a) == MR_ECANCELLED);
    mr_message_free(a);
    mr_client_close(client, 5000, NULL);
    expect_payload(b, "m1");
    cr_assert(mr_ack(b) == MR_ECANCELLED);
    mr_message_free(b);
    fake_free(f);
}

/* --- a gateway that lies ---------------------------------------------------- */

struct lie {
    const char *name;
    struct fake_delivery delivery;
};

Test(hostile, deliveries_that_are_wrong_end_the_session_not_the_program) {
    static const struct lie lies[] = {
        {"wrong crc", {.count = 3, .wrong_crc = 1}},
        {"more messages than bytes", {.count = 3, .more_count = 1}},
        {"impossible count", {.count = 3, .more_count = 4000000000u}},
        {"fewer messages than bytes", {.count = 3, .more_count = (uint32_t)-1}},
        {"no messages", {.count = 3, .more_count = (uint32_t)-3}},
        {"cut", {.count = 3, .cut = 1}},
        {"past the credit", {.count = 3000}},
    };
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_consumer *k = join(client, 10);
    unsigned sessions = 1;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        fake_deliver(f, &lies[i].delivery);
        sessions++;
        FAKE_WAIT(f, f->sessions == sessions && f->subscribes == sessions && f->link);
        cr_assert(f->held_count == 0, "%s: nothing of it is taken", lies[i].name);
    }
    fake_deliver(f, &(struct fake_delivery){.first_offset = 5, .count = 1});
    mr_message *m = next(k);
    expect_payload(m, "m5");
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

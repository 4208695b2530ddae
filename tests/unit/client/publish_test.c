// SPDX-License-Identifier: Apache-2.0
/* Stories of publishing against a scripted gateway. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "fake.h"

struct outcomes {
    atomic_int ok, failed, code, duplicates;
    atomic_uint partitions; /* bits */
};

static void on_outcome(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    struct outcomes *o = ctx;
    cr_assert((receipt == NULL) != (error == NULL));
    if (receipt) {
        atomic_fetch_or(&o->partitions, 1u << receipt->partition);
        atomic_fetch_add(&o->duplicates, receipt->duplicate);
        atomic_fetch_add(&o->ok, 1);
    } else {
        atomic_store(&o->code, error->code);
        atomic_fetch_add(&o->failed, 1);
    }
}

static void publish_numbered(mr_client *client, struct outcomes *o, int first, int count,
                             int64_t timeout_ms) {
    for (int i = first; i < first + count; i++) {
        char payload[32];
        mr_error error;
        snprintf(payload, sizeof payload, "%d", i);
        mr_publication p = text(payload);
        int code = mr_publish_async(client, "orders", &p, timeout_ms, 0, on_outcome, o, &error);
        cr_assert(code == MR_OK, "%s", error.text);
    }
}

/* Payloads of what the fake took, in the order it took them, must count up. */
static void expect_in_order(struct fake *f, int count) {
    int next = 0;
    for (size_t i = 0; i < f->published_count; i++) {
        struct fake_publish *p = &f->published[i];
        if (!p->taken)
            continue;
        struct batch_cursor cursor = batch_messages(p->body->data, p->body->size);
        struct batch_message m;
        while (batch_next(&cursor, &m)) {
            char payload[32];
            snprintf(payload, sizeof payload, "%d", next++);
            cr_assert(m.payload.size == strlen(payload) &&
                          memcmp(m.payload.data, payload, m.payload.size) == 0,
                      "message %d is %.*s", next - 1, (int)m.payload.size, m.payload.data);
        }
    }
    cr_assert(next == count, "%d messages, expected %d", next, count);
}

Test(publish, synchronous_gets_its_receipt) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_receipt r;
    mr_error error;
    mr_publication p = text("hello");
    for (uint64_t i = 0; i < 3; i++) {
        cr_assert(mr_publish(client, "orders", &p, MR_TIMEOUT_DEFAULT, &r, &error) == MR_OK, "%s",
                  error.text);
        cr_assert(r.partition == 0 && r.offset == i && !r.duplicate);
    }
    cr_assert(f->lookups == 1 && f->published_count == 3);
    cr_assert(f->published[0].head.after == 0 && f->published[0].head.sequence == 1);
    cr_assert(f->published[2].head.after == 2 && f->published[2].head.sequence == 3);
    cr_assert(mr_client_close(client, 5000, &error) == MR_OK, "%s", error.text);
    fake_free(f);
}

Test(publish, packs_while_the_batch_before_is_in_flight) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 5000);
    struct outcomes o = {0};
    publish_numbered(client, &o, 0, 1, 5000);
    FAKE_WAIT(f, f->published_count == 1);
    publish_numbered(client, &o, 1, 500, 5000);
    fake_lock(f);
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f); /* the unanswered one comes again, then the rest in one */
    cr_assert(mr_client_flush(client, 5000, NULL) == MR_OK);
    cr_assert(o.ok == 501 && o.failed == 0);
    cr_assert(f->published_count == 3, "%zu batches", f->published_count);
    cr_assert(f->published[2].head.count == 500);
    expect_in_order(f, 501);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, large_load_flies_in_several_batches) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 5000);
    struct outcomes o = {0};
    char *big = malloc(40 * 1024);
    memset(big, 'x', 40 * 1024);
    mr_publication p = {.struct_size = sizeof p, .payload = big, .payload_size = 40 * 1024};
    for (int i = 0; i < 20; i++)
        cr_assert(mr_publish_async(client, "orders", &p, 5000, 0, on_outcome, &o, NULL) == MR_OK);
    FAKE_WAIT(f, f->published_count >= 3); /* without a single receipt */
    cr_assert(f->published[1].head.after == f->published[0].head.sequence);
    cr_assert(f->published[2].head.after == f->published[1].head.sequence);
    f->mute = false;
    fake_hang_up(f);
    cr_assert(mr_client_flush(client, 5000, NULL) == MR_OK);
    cr_assert(o.ok == 20 && f->stored == 20);
    free(big);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, comes_again_with_identical_bytes_after_a_disconnect) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    publish_numbered(client, &o, 0, 5, 10000);
    FAKE_WAIT(f, f->published_count == 1);
    fake_hang_up(f);
    FAKE_WAIT(f, f->published_count == 2);
    fake_lock(f);
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f);
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    struct fake_publish *first = &f->published[0];
    for (int i = 1; i < 3; i++) {
        struct fake_publish *again = &f->published[i];
        cr_assert(again->session != first->session && again->request == first->request);
        cr_assert(again->partition == first->partition && again->body->size == first->body->size);
        cr_assert(memcmp(again->body->data, first->body->data, first->body->size) == 0);
    }
    cr_assert(f->lookups == 3, "%u look-ups: one a session", f->lookups);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_receipt_lost_with_the_connection_is_a_duplicate_not_a_second_message) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    publish_numbered(client, &o, 0, 1, 10000);
    cr_assert(mr_client_flush(client, 5000, NULL) == MR_OK);
    fake_lock(f);
    f->mute = true; /* stored, but nobody hears of it */
    fake_unlock(f);
    publish_numbered(client, &o, 1, 1, 10000);
    FAKE_WAIT(f, f->published_count == 2);
    fake_lock(f);
    f->last[0] = f->published[1].head.sequence;
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f);
    cr_assert(mr_client_flush(client, 5000, NULL) == MR_OK);
    cr_assert(o.ok == 2 && o.duplicates == 1 && f->duplicates == 1);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, waits_through_a_change_of_leaders) {
    static const int codes[] = {MR_ENOTLEADER, MR_EUNAVAILABLE, MR_EBUSY, MR_EUNKNOWN, MR_ETIMEOUT};
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        fake_lock(f);
        f->refuse_code = codes[i];
        f->refuse_times = 4;
        fake_unlock(f);
        mr_error error;
        mr_publication p = text("again and again");
        cr_assert(mr_publish(client, "orders", &p, 10000, NULL, &error) == MR_OK, "%s", error.text);
    }
    cr_assert(f->stored == 5);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, order_survives_a_refusal_in_the_middle) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    for (int round = 0; round < 20; round++) {
        fake_lock(f);
        f->refuse_code = MR_ENOTLEADER;
        f->refuse_times = 2; /* what is behind them is out of order then */
        fake_unlock(f);
        publish_numbered(client, &o, round * 400, 400, 10000);
    }
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    cr_assert(o.ok == 8000 && f->stored == 8000 && f->duplicates == 0);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

/* Everything at once, by chance: nothing is lost, doubled or out of order. */
Test(publish, weathers_a_storm) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 30000);
    struct outcomes o = {0};
    struct rng rng = {20260131};
    int sent = 0;
    for (int round = 0; round < 150; round++) {
        int count = (int)rng_below(&rng, 300);
        publish_numbered(client, &o, sent, count, 30000);
        sent += count;
        fake_lock(f);
        switch (rng_below(&rng, 5)) {
        case 0:
            f->refuse_code = MR_ENOTLEADER;
            f->refuse_times = (int)rng_below(&rng, 6);
            break;
        case 1:
            f->swallow = (int)rng_below(&rng, 4);
            break;
        case 2:
            f->mute = true;
            break;
        default:
            break;
        }
        fake_unlock(f);
        if (rng_below(&rng, 3) > 0)
            continue;
        fake_lock(f);
        f->mute = false;
        fake_unlock(f);
        fake_hang_up(f);
    }
    fake_lock(f);
    f->mute = false;
    f->swallow = 0;
    fake_unlock(f);
    fake_hang_up(f);
    mr_error error;
    cr_assert(mr_client_flush(client, 25000, &error) == MR_OK, "%s", error.text);
    cr_assert(o.ok == sent && o.failed == 0 && f->stored == (uint64_t)sent, "%d of %d, %llu stored", o.ok,
              sent, (unsigned long long)f->stored);
    expect_in_order(f, sent);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

struct code_row {
    int code, expected;
};

Test(publish, refusals_reach_the_program_at_once) {
    static const struct code_row rows[] = {{MR_EFULL, MR_EFULL},
                                           {MR_EDISKFULL, MR_EDISKFULL},
                                           {MR_ETOOLARGE, MR_ETOOLARGE},
                                           {MR_EQUARANTINED, MR_EQUARANTINED},
                                           {MR_EDENIED, MR_EDENIED},
                                           {MR_EINVALID, MR_EINVALID},
                                           {9999, 9999}};
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_lock(f);
        f->refuse_code = rows[i].code;
        f->refuse_times = 1;
        fake_unlock(f);
        mr_error error;
        mr_publication p = text("no");
        usec_t before = clock_now();
        int code = mr_publish(client, "orders", &p, 10000, NULL, &error);
        cr_assert(code == rows[i].expected && error.code == code, "%d for %d", code, rows[i].code);
        cr_assert(strcmp(error.text, "refused by the script") == 0);
        cr_assert(clock_now() - before < 5 * USEC_S);
        /* the next one must not depend on the one refused */
        cr_assert(mr_publish(client, "orders", &p, 10000, NULL, &error) == MR_OK, "%s", error.text);
    }
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_deadline_that_passes_unsent_is_a_timeout) {
    struct fake *f = fake_new();
    f->deaf = true;
    mr_client *client = fake_client(f, 5000);
    mr_error error;
    mr_publication p = text("x");
    usec_t before = clock_now();
    cr_assert(mr_publish(client, "orders", &p, 300, NULL, &error) == MR_ETIMEOUT, "%s", error.text);
    cr_assert(error.advice == MR_RETRYABLE);
    cr_assert(clock_now() - before < 3 * USEC_S);
    fake_lock(f);
    f->deaf = false;
    fake_unlock(f);
    cr_assert(mr_publish(client, "orders", &p, 10000, NULL, &error) == MR_OK, "%s", error.text);
    cr_assert(f->stored == 1, "what was reported as not stored must not be stored");
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_deadline_that_passes_unanswered_is_unknown_and_abandoned) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 5000);
    mr_error error;
    mr_publication p = text("x");
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    cr_assert(mr_publish(client, "orders", &p, 1000, NULL, &error) == MR_EUNKNOWN, "%s", error.text);
    cr_assert(error.advice == MR_MAYBE);
    fake_lock(f);
    f->mute = false; /* it never arrived: last is still 0 */
    fake_unlock(f);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK, "%s", error.text);
    struct fake_publish *next = &f->published[f->published_count - 1];
    cr_assert(next->head.sequence == 2 && next->head.after == 0, "after skips the abandoned one");
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, what_flies_behind_an_abandoned_batch_is_stored) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    char *big = calloc(1, 200 * 1024);
    mr_publication p = {.struct_size = sizeof p, .payload = big, .payload_size = 200 * 1024};
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    cr_assert(mr_publish_async(client, "orders", &p, 1000, 0, on_outcome, &o, NULL) == MR_OK);
    cr_assert(mr_publish_async(client, "orders", &p, 10000, 0, on_outcome, &o, NULL) == MR_OK);
    FAKE_WAIT(f, f->published_count == 2);
    FAKE_WAIT(f, atomic_load(&o.failed) == 1);
    fake_lock(f);
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f); /* only the second comes again; its `after` points to what was given up */
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    cr_assert(o.ok == 1 && o.code == MR_EUNKNOWN && f->stored == 1);
    free(big);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_forgotten_producer_begins_anew) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    mr_error error;
    mr_publication p = text("x");
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK);
    fake_lock(f);
    f->forget = 1;
    f->last[0] = 0;
    fake_unlock(f);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK, "%s", error.text);
    struct fake_publish *again = &f->published[f->published_count - 1];
    cr_assert(again->head.after == 0 && again->head.sequence == 2);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, keeps_to_the_sessions_window) {
    struct fake *f = fake_new();
    f->mute = true;
    f->window = 150 * 1024;
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    char *big = calloc(1, 60 * 1024);
    mr_publication p = {.struct_size = sizeof p, .payload = big, .payload_size = 60 * 1024};
    for (int i = 0; i < 12; i++)
        cr_assert(mr_publish_async(client, "orders", &p, 10000, 0, on_outcome, &o, NULL) == MR_OK);
    FAKE_WAIT(f, f->published_count >= 1);
    cr_assert(mr_client_flush(client, 300, NULL) == MR_ETIMEOUT);
    size_t bytes = 0;
    for (size_t i = 0; i < f->published_count; i++)
        bytes += f->published[i].body->size;
    cr_assert(bytes <= f->window, "%zu bytes unreceipted", bytes);
    fake_lock(f);
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f);
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    cr_assert(o.ok == 12);
    free(big);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, the_buffer_is_bounded) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client_options options = {
        .struct_size = sizeof options, .servers = f->address, .buffer_bytes = 100000};
    mr_client *client;
    mr_error error;
    cr_assert(mr_client_open(&options, &client, &error) == MR_OK);
    char block[10000] = "";
    mr_publication p = {.struct_size = sizeof p, .payload = block, .payload_size = sizeof block};
    int taken = 0;
    while (taken < 100 &&
           mr_publish_async(client, "orders", &p, 5000, MR_NO_WAIT, NULL, NULL, &error) == MR_OK)
        taken++;
    cr_assert(taken == 9 && error.code == MR_EBUSY, "%d taken", taken);
    cr_assert(mr_publish_async(client, "orders", &p, 200, 0, NULL, NULL, &error) == MR_ETIMEOUT);
    fake_lock(f);
    f->mute = false;
    fake_unlock(f);
    fake_hang_up(f);
    cr_assert(mr_publish_async(client, "orders", &p, 5000, 0, NULL, NULL, &error) == MR_OK, "%s", error.text);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, splits_to_the_announced_limit) {
    struct fake *f = fake_new();
    f->message_max = 1000;
    f->deaf = true; /* packed before the limit is known */
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    char block[900] = "";
    mr_publication p = {.struct_size = sizeof p, .payload = block, .payload_size = 300};
    for (int i = 0; i < 40; i++)
        cr_assert(mr_publish_async(client, "orders", &p, 10000, 0, on_outcome, &o, NULL) == MR_OK);
    char large[2000] = "";
    p.payload = large;
    p.payload_size = sizeof large;
    cr_assert(mr_publish_async(client, "orders", &p, 10000, 0, on_outcome, &o, NULL) == MR_OK);
    fake_lock(f);
    f->deaf = false;
    fake_unlock(f);
    fake_hang_up(f);
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    cr_assert(o.ok == 40 && o.failed == 1 && o.code == MR_ETOOLARGE);
    for (size_t i = 0; i < f->published_count; i++)
        cr_assert(f->published[i].body->size <= 1000);
    mr_error error;
    cr_assert(mr_publish(client, "orders", &p, 1000, NULL, &error) == MR_ETOOLARGE, "%s", error.text);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_missing_mailbox_is_told) {
    struct fake *f = fake_new();
    f->missing = true;
    mr_client *client = fake_client(f, 10000);
    mr_error error;
    mr_publication p = text("x");
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_ENOTFOUND, "%s", error.text);
    fake_lock(f);
    f->missing = false;
    fake_unlock(f);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK, "asked again: %s", error.text);
    cr_assert(mr_publish(client, "no such name", &p, 5000, NULL, &error) == MR_EINVALID);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(publish, a_mailbox_made_anew_has_new_sequences) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 10000);
    mr_error error;
    mr_publication p = text("x");
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK);
    fake_lock(f);
    f->mailbox_id = 78;
    f->partitions = 3;
    f->last[0] = 0;
    fake_unlock(f);
    fake_hang_up(f);
    FAKE_WAIT(f, f->sessions == 2);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK, "%s", error.text);
    struct fake_publish *last = &f->published[f->published_count - 1];
    cr_assert(last->head.sequence == 1 && last->head.after == 0);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

/* --- routes ----------------------------------------------------------------- */

Test(route, round_robin_takes_the_partitions_in_turn) {
    struct fake *f = fake_new();
    f->partitions = 4;
    mr_client *client = fake_client(f, 10000);
    mr_publication p = text("x");
    for (int i = 0; i < 12; i++)
        cr_assert(mr_publish(client, "orders", &p, 5000, NULL, NULL) == MR_OK);
    for (int i = 0; i < 4; i++)
        cr_assert(f->offset[i] == 3, "partition %d has %llu", i, (unsigned long long)f->offset[i]);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(route, a_key_always_takes_its_partition) {
    struct fake *f = fake_new();
    f->partitions = 8;
    f->route = MR_ROUTE_KEY;
    mr_client *client = fake_client(f, 10000);
    struct outcomes o = {0};
    for (int i = 0; i < 400; i++) { /* the first ones before the route is known */
        char key[8];
        snprintf(key, sizeof key, "k%d", i % 20);
        mr_publication p = text("x");
        p.key = key;
        p.key_size = strlen(key);
        cr_assert(mr_publish_async(client, "orders", &p, 10000, 0, on_outcome, &o, NULL) == MR_OK);
    }
    cr_assert(mr_client_flush(client, 10000, NULL) == MR_OK);
    cr_assert(o.ok == 400 && f->stored == 400);
    for (size_t i = 0; i < f->published_count; i++) {
        struct batch_cursor cursor = batch_messages(f->published[i].body->data, f->published[i].body->size);
        struct batch_message m;
        while (batch_next(&cursor, &m))
            cr_assert(batch_key_hash(m.key.data, m.key.size) % 8 == f->published[i].partition);
    }
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(route, least_loaded_keeps_away_from_a_loaded_partition) {
    struct fake *f = fake_new();
    f->partitions = 4;
    f->route = MR_ROUTE_LEAST_LOADED;
    f->loads_count = 4;
    f->loads[2] = 1000000;
    mr_client *client = fake_client(f, 10000);
    mr_publication p = text("x");
    for (int i = 0; i < 60; i++)
        cr_assert(mr_publish(client, "orders", &p, 5000, NULL, NULL) == MR_OK);
    cr_assert(f->offset[2] < 12, "%llu of 60 to the loaded one", (unsigned long long)f->offset[2]);
    cr_assert(f->offset[0] && f->offset[1] && f->offset[3]);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

// SPDX-License-Identifier: Apache-2.0
/* Which consumer gets a message: round-robin, least-loaded, by key, exclusive. */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster.h"

enum { MESSAGES = 3000, KEYS = 50, SHARE = MESSAGES / 3, SLACK = SHARE / 20, IDLE_MS = 500 };

static struct cluster *c;
static mr_client *client;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 3});
    client = cluster_client(c, 0);
}

static void end(void) {
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

static mr_consumer *attach(const char *mailbox, uint32_t credit) {
    mr_consumer *consumer;
    mr_error error;
    mr_consumer_options options = {.struct_size = sizeof options, .credit = credit};
    cr_assert_eq(mr_consumer_open(client, mailbox, &options, CLUSTER_WAIT_MS, &consumer, &error), MR_OK, "%s",
                 error.text);
    return consumer;
}

static void count_publication(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    (void)receipt;
    if (!error)
        __atomic_add_fetch((int *)ctx, 1, __ATOMIC_RELAXED);
}

static void publish_all(const char *mailbox, bool keys) {
    char text[32], key[32];
    int receipted = 0;
    mr_error error;
    for (int i = 0; i < MESSAGES; i++) {
        mr_publication m = {.struct_size = sizeof m, .payload = text, .key = keys ? key : NULL};
        m.payload_size = (size_t)snprintf(text, sizeof text, "%d", i);
        m.key_size = keys ? (size_t)snprintf(key, sizeof key, "key-%d", i % KEYS) : 0;
        cr_assert_eq(
            mr_publish_async(client, mailbox, &m, CLUSTER_WAIT_MS, 0, count_publication, &receipted, &error),
            MR_OK, "%s", error.text);
    }
    cr_assert_eq(mr_client_flush(client, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(receipted, MESSAGES);
}

/* The next message of a consumer, or NULL when none is at hand now. */
static mr_message *poll_one(mr_consumer *consumer) {
    mr_message *m;
    mr_error error;
    int code = mr_consumer_next(consumer, 0, &m, &error);
    cr_assert(code == MR_OK || code == MR_ETIMEOUT, "%s", error.text);
    return code == MR_OK ? m : NULL;
}

/* Take and ack whatever comes to any of the consumers until `total` have come. */
static void drain(mr_consumer **consumers, int n, int *counts, int total) {
    int64_t stop = clock_ms() + CLUSTER_WAIT_MS;
    int got = 0;
    while (got < total) {
        bool any = false;
        for (int i = 0; i < n; i++) {
            mr_message *m = poll_one(consumers[i]);
            if (!m)
                continue;
            any = true;
            counts[i]++;
            got++;
            cr_assert_eq(mr_ack(m), MR_OK);
        }
        cr_assert_lt(clock_ms(), stop, "%d of %d messages came", got, total);
        struct pollfd fds[8];
        for (int i = 0; i < n; i++)
            fds[i] = (struct pollfd){.fd = mr_consumer_fd(consumers[i]), .events = POLLIN};
        if (!any)
            poll(fds, (nfds_t)n, 100);
    }
}

static void close_all(mr_consumer **consumers, int n) {
    for (int i = 0; i < n; i++) {
        mr_consumer_flush(consumers[i], CLUSTER_WAIT_MS, NULL);
        mr_consumer_close(consumers[i], CLUSTER_WAIT_MS, NULL);
    }
}

static void check_acked(const char *mailbox) {
    struct totals t = conserved(client, mailbox, "default");
    cr_assert_eq(t.published, MESSAGES);
    cr_assert_eq(t.acked, MESSAGES);
}

static void round_robin(mr_settings *s) {
    s->dispatch = MR_DISPATCH_ROUND_ROBIN;
}
static void least_loaded(mr_settings *s) {
    s->dispatch = MR_DISPATCH_LEAST_LOADED;
}
static void by_key(mr_settings *s) {
    s->dispatch = MR_DISPATCH_KEY;
}
static void exclusive(mr_settings *s) {
    s->dispatch = MR_DISPATCH_EXCLUSIVE;
}

Test(dispatch, round_robin_is_even, .init = begin, .fini = end) {
    create_mailbox(client, "rr", settings_of(round_robin));
    mr_consumer *consumers[3];
    int counts[3] = {0};
    for (int i = 0; i < 3; i++)
        consumers[i] = attach("rr", 100);
    publish_all("rr", false);
    drain(consumers, 3, counts, MESSAGES);
    fprintf(stderr, "round-robin: %d %d %d\n", counts[0], counts[1], counts[2]);
    for (int i = 0; i < 3; i++)
        cr_assert(abs(counts[i] - SHARE) <= SLACK, "consumer %d got %d of %d", i, counts[i], MESSAGES);
    close_all(consumers, 3);
    check_acked("rr");
}

Test(dispatch, least_loaded_passes_by_who_stands_still, .init = begin, .fini = end) {
    enum { CREDIT = 50 };
    create_mailbox(client, "ll", settings_of(least_loaded));
    mr_consumer *still = attach("ll", CREDIT), *busy = attach("ll", CREDIT);
    publish_all("ll", false);
    mr_message *held[MESSAGES];
    int held_count = 0, count = 0;
    int64_t last = clock_ms();
    while (clock_ms() - last < IDLE_MS) {
        mr_message *m = poll_one(busy);
        if (m) {
            cr_assert_eq(mr_ack(m), MR_OK);
            count++;
            last = clock_ms();
        }
        if ((m = poll_one(still))) {
            held[held_count++] = m;
            last = clock_ms();
        }
    }
    fprintf(stderr, "least-loaded: %d to the busy one, %d to the one that stands still\n", count, held_count);
    cr_assert_leq(held_count, CREDIT);
    cr_assert_eq(count + held_count, MESSAGES);
    struct totals t = conserved(client, "ll", "default");
    cr_assert_eq(t.leased, (uint64_t)held_count);
    for (int i = 0; i < held_count; i++)
        cr_assert_eq(mr_ack(held[i]), MR_OK);
    close_all((mr_consumer *[]){still, busy}, 2);
    check_acked("ll");
}

/* Which consumer holds unsettled messages of a key, and its last number. */
struct key_state {
    int holder, held, last;
};

static int key_of(const mr_message *m) {
    size_t size;
    const char *key = mr_message_key(m, &size);
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)size, key);
    return atoi(text + strlen("key-"));
}

static int number_of(const mr_message *m) {
    size_t size;
    const char *payload = mr_message_payload(m, &size);
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)size, payload);
    return atoi(text);
}

static void take_keyed(struct key_state *k, int consumer, mr_message *m) {
    int number = number_of(m);
    cr_assert(k->held == 0 || k->holder == consumer, "a key is held by consumer %d and given to %d",
              k->holder, consumer);
    cr_assert_gt(number, k->last, "message %d of a key came after %d", number, k->last);
    *k = (struct key_state){consumer, k->held + 1, number};
}

Test(dispatch, a_key_stays_with_one_consumer_in_order, .init = begin, .fini = end) {
    enum { HOLD = 20 };
    struct key_state keys[KEYS];
    mr_consumer *consumers[3];
    mr_message *held[3][HOLD];
    int held_count[3] = {0}, got = 0;
    for (int i = 0; i < KEYS; i++)
        keys[i] = (struct key_state){-1, 0, -1};
    create_mailbox(client, "key", settings_of(by_key));
    for (int i = 0; i < 3; i++)
        consumers[i] = attach("key", HOLD);
    publish_all("key", true);
    int64_t stop = clock_ms() + CLUSTER_WAIT_MS;
    /* each consumer keeps some before it acks them, so that keys are held */
    while (got < MESSAGES) {
        cr_assert_lt(clock_ms(), stop, "%d of %d came", got, MESSAGES);
        for (int i = 0; i < 3; i++) {
            mr_message *m = poll_one(consumers[i]);
            if (m) {
                take_keyed(&keys[key_of(m)], i, m);
                held[i][held_count[i]++] = m;
                got++;
            }
            if (held_count[i] < HOLD && m)
                continue;
            mr_error error;
            for (int k = 0; k < held_count[i]; k++) {
                int key = key_of(held[i][k]);
                cr_assert_eq(mr_settle(held[i][k], MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_OK, "%s",
                             error.text);
                keys[key].held--;
            }
            held_count[i] = 0;
        }
    }
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < held_count[i]; k++)
            cr_assert_eq(mr_ack(held[i][k]), MR_OK);
    close_all(consumers, 3);
    check_acked("key");
}

Test(dispatch, exclusive_has_one_consumer_and_a_successor, .init = begin, .fini = end) {
    create_mailbox(client, "only", settings_of(exclusive));
    mr_consumer *first = attach("only", 100), *second = attach("only", 100);
    publish_all("only", false);
    int next = 0;
    mr_error error;
    while (next < MESSAGES / 2) {
        mr_message *m;
        cr_assert_eq(mr_consumer_next(first, CLUSTER_WAIT_MS, &m, &error), MR_OK, "%s", error.text);
        cr_assert_eq(number_of(m), next++, "in order");
        cr_assert_eq(mr_ack(m), MR_OK);
        cr_assert_null(poll_one(second), "a second consumer got a message");
    }
    cr_assert_eq(mr_consumer_flush(first, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(mr_consumer_close(first, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    while (next < MESSAGES) {
        mr_message *m;
        cr_assert_eq(mr_consumer_next(second, CLUSTER_WAIT_MS, &m, &error), MR_OK,
                     "the next one takes over: %s", error.text);
        cr_assert_eq(number_of(m), next++, "in order");
        cr_assert_eq(mr_ack(m), MR_OK);
    }
    close_all(&second, 1);
    check_acked("only");
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The client library, a gateway and the mailbox core, over real links: what is
 * published is delivered once and settled, whatever the leaders do meanwhile.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "client/include/mailroom.h"
#include "gateway/gateway_private.h"
#include "memory_shard.h"
#include "world.h"

#define TROUBLE_USEC (15 * USEC_MS)

enum { PARTITIONS = 2, MESSAGES = 100000, CREDIT = 500 };

/* The broker's side, on a thread of its own. */
struct node {
    struct world *world; /* gateway and controller */
    struct memory_partition partitions[PARTITIONS];
    struct memory_shard shards[2];
    pthread_t thread;
    char server[LINK_PEER_BYTES];
    atomic_bool done;
    void (*trouble)(struct node *n); /* every TROUBLE_USEC; NULL: never */
    usec_t next_trouble;
    unsigned troubles;
};

static void turn_shards(struct node *n) {
    for (size_t i = 0; i < 2; i++)
        memory_shard_turn(&n->shards[i]);
}

/* Shard i dies, comes back empty-handed, and the other one leads. */
static void move(struct node *n) {
    struct memory_shard *from = n->partitions[0].leader, *to = from == n->shards ? from + 1 : from - 1;
    char url[LINK_PEER_BYTES];
    snprintf(url, sizeof url, "%s", listener_url(from->listener));
    memory_shard_die(from);
    for (size_t i = 0; i < PARTITIONS; i++)
        memory_shard_lead(to, &n->partitions[i]);
    loop_turn(n->world->loop, 0);
    memory_shard_listen(from, url);
}

/* The leader and the gateway lose each other for a moment, with what is on the way. */
static void cut(struct node *n) {
    memory_shard_cut(n->partitions[0].leader);
}

/* Every client has to come again; seldom, as it waits longer each time. */
static void close_sessions(struct node *n) {
    struct session *s, *tmp;
    if (n->troubles % 100 != 5)
        return;
    HASH_ITER(hh, n->world->gateway->sessions, s, tmp) {
        if (s->greeted)
            link_close(s->link, ERR_UNAVAILABLE, "come again");
    }
}

static void *broker(void *arg) {
    struct node *n = arg;
    struct loop *loop = n->world->loop;
    while (!atomic_load(&n->done)) {
        loop_turn(loop, 1 * USEC_MS);
        turn_shards(n);
        loop_turn(loop, 0);
        if (n->trouble && loop_now(loop) >= n->next_trouble && n->shards[0].greeted && n->shards[1].greeted) {
            n->next_trouble = loop_now(loop) + TROUBLE_USEC;
            n->troubles++;
            n->trouble(n);
        }
    }
    return NULL;
}

static void start(struct node *n, void (*trouble)(struct node *n)) {
    struct mailbox_settings settings;
    settings_default(&settings);
    settings.partitions = PARTITIONS;
    memset(n, 0, sizeof *n);
    n->trouble = trouble;
    n->world = world_new();
    for (uint32_t i = 0; i < PARTITIONS; i++)
        memory_partition_open(&n->partitions[i], WORLD_P0 + i, i, &settings);
    for (unsigned i = 0; i < 2; i++) {
        char url[WORLD_PATH_BYTES + 8];
        snprintf(url, sizeof url, i ? "tcp://127.0.0.1:0" : "ipc://%s", n->world->shards[0].path);
        n->shards[i] = (struct memory_shard){
            .loop = n->world->loop, .member = 11 + i, .partitions = n->partitions, .count = PARTITIONS};
        memory_shard_listen(&n->shards[i], url);
    }
    n->world->shards[1].listener = n->shards[1].listener; /* its address goes into the map */
    char url[WORLD_PATH_BYTES + 8];
    snprintf(url, sizeof url, "ipc://%s", n->world->controller.path);
    end_listen(&n->world->controller, url);
    gateway_peer_up(n->world->gateway, "controller", 0, n->world->controller.path);
    gateway_peer_up(n->world->gateway, "shard", 0, n->world->shards[0].path);
    UNTIL(n->world->loop, n->world->controller.connected);
    send_map(n->world, true, 1, 11);
    UNTIL(n->world->loop, n->shards[0].greeted && n->shards[1].greeted);
    n->world->shards[1].listener = NULL;
    for (size_t i = 0; i < PARTITIONS; i++)
        memory_shard_lead(&n->shards[0], &n->partitions[i]);
    snprintf(n->server, sizeof n->server, "%s", gateway_url(n->world->gateway) + strlen("tcp://"));
    n->next_trouble = loop_now(n->world->loop) + TROUBLE_USEC;
    cr_assert_eq(pthread_create(&n->thread, NULL, broker, n), 0);
}

static void stop(struct node *n) {
    atomic_store(&n->done, true);
    pthread_join(n->thread, NULL);
    for (size_t i = 0; i < 2; i++) {
        memory_shard_die(&n->shards[i]);
        free(n->shards[i].receipts);
    }
    world_free(n->world);
}

/* ---- clients ---- */

static mr_client *connect_to(const struct node *n) {
    mr_client_options options = {.struct_size = sizeof options, .servers = n->server, .timeout_ms = 30000};
    mr_client *c;
    mr_error error;
    cr_assert_eq(mr_client_open(&options, &c, &error), MR_OK, "%s", error.text);
    return c;
}

static void published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    atomic_uint *failed = ctx;
    if (!receipt)
        atomic_fetch_add(failed, 1);
}

static void publish_all(mr_client *c, atomic_uint *failed) {
    mr_error error;
    for (unsigned i = 0; i < MESSAGES; i++) {
        char text[32];
        snprintf(text, sizeof text, "%u", i);
        mr_publication m = {.struct_size = sizeof m, .payload = text, .payload_size = strlen(text)};
        cr_assert_eq(mr_publish_async(c, "orders", &m, 30000, 0, published, failed, &error), MR_OK, "%s",
                     error.text);
    }
}

struct seen {
    unsigned char times[MESSAGES];
    unsigned distinct;
    unsigned twice;
    unsigned again; /* attempt > 1 */
};

static void note(struct seen *s, const mr_message *m) {
    size_t size;
    const void *payload = mr_message_payload(m, &size);
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)size, (const char *)payload);
    unsigned i = (unsigned)strtoul(text, NULL, 10);
    cr_assert_lt(i, MESSAGES);
    s->distinct += s->times[i] == 0;
    s->twice += s->times[i] > 0;
    s->times[i]++;
    s->again += mr_message_attempt(m) > 1;
}

static void consume_all(mr_client *c, struct seen *seen) {
    mr_consumer_options options = {.struct_size = sizeof options, .credit = CREDIT};
    mr_consumer *k;
    mr_error error;
    cr_assert_eq(mr_consumer_open(c, "orders", &options, 30000, &k, &error), MR_OK, "%s", error.text);
    while (seen->distinct < MESSAGES) {
        mr_message *m;
        int rc = mr_consumer_next(k, 20000, &m, &error);
        cr_assert_eq(rc, MR_OK, "after %u: %s", seen->distinct, error.text);
        note(seen, m);
        cr_assert_eq(mr_ack(m), MR_OK);
        mr_message_free(m);
    }
    cr_assert_eq(mr_consumer_flush(k, 20000, &error), MR_OK, "%s", error.text);
    cr_assert_eq(mr_consumer_close(k, 20000, &error), MR_OK, "%s", error.text);
}

static void check_settled(const struct node *n) {
    uint64_t acked = 0, left = 0;
    for (size_t i = 0; i < PARTITIONS; i++) {
        struct subscription_stats s;
        cr_assert(mailbox_subscription_stats(n->partitions[i].mailbox, 0, &s));
        acked += s.acked;
        left += s.ready + s.leased + s.delayed;
    }
    cr_assert_eq(acked, MESSAGES);
    cr_assert_eq(left, 0);
}

static void flow(void (*trouble)(struct node *n)) {
    struct node n;
    struct seen *seen = xcalloc(1, sizeof *seen);
    atomic_uint failed = 0;
    mr_error error;
    start(&n, trouble);
    mr_client *publisher = connect_to(&n), *consumer = connect_to(&n);
    publish_all(publisher, &failed);
    consume_all(consumer, seen);
    cr_assert_eq(mr_client_flush(publisher, 20000, &error), MR_OK, "%s", error.text);
    cr_assert_eq(mr_client_close(publisher, 5000, &error), MR_OK, "%s", error.text);
    cr_assert_eq(mr_client_close(consumer, 5000, &error), MR_OK, "%s", error.text);
    cr_assert_eq(failed, 0);
    cr_assert_eq(seen->twice, 0, "%u came twice", seen->twice);
    if (trouble)
        cr_assert_gt(n.troubles, 0);
    stop(&n);
    check_settled(&n);
    for (size_t i = 0; i < PARTITIONS; i++)
        memory_partition_close(&n.partitions[i]);
    free(seen);
}

Test(flow, all_that_is_published_is_delivered_once_and_settled) {
    flow(NULL);
}

Test(flow, leaders_die_and_nothing_is_lost_nor_comes_twice) {
    flow(move);
}

Test(flow, links_to_leaders_break_and_what_was_on_them_comes_again_at_once) {
    flow(cut);
}

Test(flow, sessions_break_and_consumers_keep_what_they_hold) {
    flow(close_sessions);
}

// SPDX-License-Identifier: Apache-2.0
/* Large messages, many mailboxes, many consumers, and memory that stays bounded. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "say.h"

enum { MEMORY_MIB = 128, MESSAGE_MIB = 8, MAILBOXES = 1000, CONSUMERS = 200 };

static struct cluster *c;
static mr_client *client;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 3});
    client = cluster_client(c, 0);
}

static void begin_tight(void) {
    c = cluster_start(
        &(struct cluster_options){.nodes = 3, .extra = "limits: { message: 1MiB, memory: 128MiB }\n"});
    client = cluster_client(c, 0);
}

static void end(void) {
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

/* MiB of private and shared pages that are in use, less the file's. */
static long resident_mib(pid_t pid) {
    char path[64], line[256];
    long kib = 0, one;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    cr_assert(f, "process %d is gone", pid);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %ld", &one) == 1 || sscanf(line, "RssShmem: %ld", &one) == 1)
            kib += one;
    fclose(f);
    return kib / 1024;
}

static long report_memory(const char *when) {
    static const char *const roles[] = {"controller", "gateway", "shard/0", "admin"};
    long most = 0;
    fprintf(stderr, "%s:", when);
    for (int n = 0; n < c->nodes_count; n++) {
        long all = 0;
        if (!c->nodes[n].pid)
            continue;
        fprintf(stderr, "  %s", c->nodes[n].name);
        for (int i = 0; i < 4; i++) {
            long mib = resident_mib(node_process(c, n, roles[i]));
            fprintf(stderr, " %s %ld", roles[i], mib);
            all += mib;
        }
        most = all > most ? all : most;
    }
    fprintf(stderr, " MiB\n");
    return most;
}

static int publish_size(size_t size, mr_error *error) {
    uint8_t *payload = malloc(size);
    for (size_t i = 0; i < size; i++)
        payload[i] = (uint8_t)(i * 2654435761u >> 13);
    mr_publication m = {.struct_size = sizeof m, .payload = payload, .payload_size = size};
    int code = mr_publish(client, "a", &m, CLUSTER_WAIT_MS, NULL, error);
    free(payload);
    return code;
}

static void expect_size(mr_consumer *consumer, size_t size) {
    mr_message *m;
    mr_error error;
    size_t got;
    cr_assert_eq(mr_consumer_next(consumer, CLUSTER_WAIT_MS, &m, &error), MR_OK, "%s", error.text);
    const uint8_t *payload = mr_message_payload(m, &got);
    cr_assert_eq(got, size);
    for (size_t i = 0; i < size; i++)
        if (payload[i] != (uint8_t)(i * 2654435761u >> 13))
            cr_assert(false, "byte %zu of %zu differs", i, size);
    cr_assert_eq(mr_settle(m, MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    mr_message_free(m);
}

Test(sizes, messages_up_to_the_limit_and_not_a_byte_more, .init = begin, .fini = end) {
    const size_t limit = (size_t)MESSAGE_MIB << 20, sizes[] = {0, 1, 65535, 1 << 20, limit - 1, limit};
    mr_error error;
    create_mailbox(client, "a", settings_of(NULL));
    mr_consumer *consumer;
    cr_assert_eq(mr_consumer_open(client, "a", NULL, CLUSTER_WAIT_MS, &consumer, &error), MR_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        cr_assert_eq(publish_size(sizes[i], &error), MR_OK, "%zu bytes: %s", sizes[i], error.text);
        expect_size(consumer, sizes[i]);
    }
    cr_assert_eq(publish_size(limit + 1, &error), MR_ETOOLARGE, "one byte more: %s", error.text);
    cr_assert(error.text[0]);
    fprintf(stderr, "one byte more: %s\n", error.text);
    cr_assert_eq(publish_size(4 * limit, &error), MR_ETOOLARGE, "four times: %s", error.text);
    for (int i = 0; i < 12; i++)
        cr_assert_eq(publish_size(limit, &error), MR_OK, "%s", error.text);
    for (int i = 0; i < 12; i++)
        expect_size(consumer, limit);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
}

Test(sizes, a_thousand_mailboxes, .init = begin, .fini = end) {
    char name[32];
    int64_t start = clock_ms();
    for (int i = 0; i < MAILBOXES; i++) {
        snprintf(name, sizeof name, "m%d", i);
        create_mailbox(client, name, settings_of(NULL));
    }
    fprintf(stderr, "%d mailboxes created in %lld ms\n", MAILBOXES, (long long)(clock_ms() - start));
    start = clock_ms();
    for (int i = 0; i < MAILBOXES; i += 50) {
        snprintf(name, sizeof name, "m%d", i);
        publish_text(client, name, "x");
    }
    fprintf(stderr, "20 of them published to in %lld ms\n", (long long)(clock_ms() - start));
    struct on_nodes on = {c, client, 3};
    cluster_wait(c, "leaders and replicas to be even", even, &on);
    node_kill(c, 2, SIGKILL);
    on.alive = 2;
    int64_t took = cluster_wait(c, "all mailboxes to be led after a death", all_led, &on);
    fprintf(stderr, "all led again %lld ms after a death\n", (long long)took);
    report_memory("a thousand mailboxes");
}

Test(sizes, two_hundred_consumers, .init = begin, .fini = end) {
    enum { EACH = 20, COUNT = CONSUMERS * EACH };
    static mr_consumer *consumers[CONSUMERS];
    mr_client *clients[10];
    mr_error error;
    create_mailbox(client, "a", settings_of(NULL));
    for (int i = 0; i < 10; i++)
        clients[i] = cluster_client(c, i % 3);
    for (int i = 0; i < CONSUMERS; i++) {
        mr_consumer_options o = {.struct_size = sizeof o, .credit = EACH};
        cr_assert_eq(mr_consumer_open(clients[i % 10], "a", &o, CLUSTER_WAIT_MS, &consumers[i], &error),
                     MR_OK, "consumer %d: %s", i, error.text);
    }
    SAYS(c, 0, "mailroom publish a x --count %d", COUNT);
    int most = 0, least = COUNT, all = 0;
    for (int i = 0; i < CONSUMERS; i++) {
        mr_message *m;
        int got = 0;
        for (; got < EACH && mr_consumer_next(consumers[i], 5000, &m, &error) == MR_OK; got++) {
            mr_ack(m);
            mr_message_free(m);
        }
        all += got;
        most = got > most ? got : most;
        least = got < least ? got : least;
    }
    cr_assert_eq(all, COUNT);
    fprintf(stderr, "%d consumers: %d to %d each\n", CONSUMERS, least, most);
    for (int i = 0; i < CONSUMERS; i++)
        cr_assert_eq(mr_consumer_close(consumers[i], CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(conserved(client, "a", "default").acked, COUNT);
    for (int i = 0; i < 10; i++)
        mr_client_close(clients[i], CLUSTER_WAIT_MS, NULL);
}

Test(sizes, a_consumer_that_never_reads_stops_nobody, .init = begin_tight, .fini = end) {
    enum { COUNT = 400, BYTES = 500000 };
    SAYS(c, 0, "mailroom mailbox create a && mailroom mailbox create b");
    SAYS(c, 0, "head -c %d /dev/urandom > body", BYTES);
    SAYS(c, 0, "mailroom --timeout 60s publish a --file body --count %d", COUNT);
    /* A thousand credits, and the process stands still as soon as it has the first. */
    pid_t pid = say_begin(c, "mailroom consume a --credit 1000 --no-ack > taken & pid=$!; "
                             "until [ -s taken ]; do sleep 0.05; done; kill -STOP $pid; "
                             "sleep 20; kill -KILL $pid");
    SAYS(c, 0, "until [ -s taken ]; do sleep 0.05; done; sleep 1");
    SAYS(c, 0, "mailroom publish b --count 1000 x && mailroom consume b --count 1000 | wc -l");
    cr_assert_eq(atoi(said()), 1000);
    long mib = report_memory("one never reads 200 MB");
    cr_assert_leq(mib, MEMORY_MIB, "a node takes %ld MiB", mib);
    kill(-pid, SIGTERM);
    kill(pid, SIGKILL);
    say_end(c, pid);
}

Test(sizes, a_flood_without_consumers_stays_in_memory_limits, .init = begin_tight, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --partitions 3");
    SAYS(c, 0, "head -c 100000 /dev/urandom > body");
    SAYS(c, 0, "for i in 1 2 3; do mailroom --timeout 60s publish a --file body --count 1500 & done; wait");
    long mib = report_memory("450 MB published, none consumed");
    cr_assert_leq(mib, MEMORY_MIB, "a node takes %ld MiB", mib);
    SAYS(c, 0,
         "mailroom --json --timeout 60s bench publish a --size 100 --count 300000 --window 10000 "
         "--publishers 4");
    cr_assert_eq(said_number("failed"), 0);
    mib = report_memory("and 300,000 small ones");
    cr_assert_leq(mib, MEMORY_MIB, "a node takes %ld MiB", mib);
    SAYS(c, 0, "mailroom --timeout 60s consume a --count 4500 --credit 100 > /dev/null");
    conserved(client, "a", "default");
}

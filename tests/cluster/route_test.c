// SPDX-License-Identifier: Apache-2.0
/* Which partition a message goes to: even by round-robin; less to the partition
 * of a slowed node by load. */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster.h"

enum { PARTITIONS = 4, MESSAGES = 4000, SLOW_RUN_MS = 5, SLOW_STOP_MS = 95, PAYLOAD = 256 };

static void four(mr_settings *s) {
    s->partitions = PARTITIONS;
    s->route = MR_ROUTE_ROUND_ROBIN;
}

static void four_least_loaded(mr_settings *s) {
    s->partitions = PARTITIONS;
    s->route = MR_ROUTE_LEAST_LOADED;
    s->replicas = 1; /* so that a partition's speed is its own node's */
}

struct shape {
    uint64_t published[PARTITIONS];
    char leader[PARTITIONS][16];
};

static struct shape shape_of(mr_client *client, const char *mailbox) {
    const mr_mailbox_info *info;
    mr_error error;
    struct shape s = {0};
    cr_assert_eq(mr_mailbox_show(client, mailbox, CLUSTER_WAIT_MS, &info, &error), MR_OK, "%s", error.text);
    cr_assert_eq(info->partitions_count, PARTITIONS);
    for (int i = 0; i < PARTITIONS; i++) {
        s.published[i] = info->partitions[i]->subscriptions[0]->published;
        snprintf(s.leader[i], sizeof s.leader[i], "%s", info->partitions[i]->leader);
    }
    mr_info_free(info);
    return s;
}

static void publish_one_by_one(mr_client *client, const char *mailbox, int count) {
    char payload[PAYLOAD + 1] = {0};
    memset(payload, 'x', PAYLOAD);
    for (int i = 0; i < count; i++)
        publish_text(client, mailbox, payload);
}

Test(route, round_robin_is_even) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    mr_client *client = cluster_client(c, 0);
    create_mailbox(client, "rr", settings_of(four));
    publish_one_by_one(client, "rr", MESSAGES / 10);
    struct shape s = shape_of(client, "rr");
    for (int i = 0; i < PARTITIONS; i++)
        cr_assert_eq(s.published[i], MESSAGES / 10 / PARTITIONS, "partition %d has %llu", i,
                     (unsigned long long)s.published[i]);
    conserved(client, "rr", "default");
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

/* A process that lets another run only a part of the time, until it is killed. */
static pid_t slow_down(pid_t target) {
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        kill(target, SIGSTOP);
        poll(NULL, 0, SLOW_STOP_MS);
        kill(target, SIGCONT);
        poll(NULL, 0, SLOW_RUN_MS);
    }
}

static void count_receipt(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    uint64_t *counts = ctx;
    cr_assert(!error, "%s", error ? error->text : "");
    __atomic_add_fetch(&counts[receipt->partition], 1, __ATOMIC_RELAXED);
}

Test(route, least_loaded_sends_less_to_a_slow_node) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    mr_client *client = cluster_client(c, 0);
    create_mailbox(client, "ll", settings_of(four_least_loaded));
    struct shape before = shape_of(client, "ll");
    int slow = -1;
    for (int i = 0; i < PARTITIONS && slow < 0; i++)
        if (strcmp(before.leader[i], "n1") != 0)
            slow = i;
    cr_assert_geq(slow, 0, "all partitions are led by one node");
    int node = node_index(c, before.leader[slow]);
    pid_t shard = node_process(c, node, "shard/0");
    pid_t brake = slow_down(shard);
    uint64_t counts[PARTITIONS] = {0};
    char payload[PAYLOAD] = {0};
    mr_error error;
    for (int i = 0; i < MESSAGES; i++) {
        mr_publication m = {.struct_size = sizeof m, .payload = payload, .payload_size = sizeof payload};
        cr_assert_eq(mr_publish_async(client, "ll", &m, CLUSTER_WAIT_MS, 0, count_receipt, counts, &error),
                     MR_OK, "%s", error.text);
        if (i % 10 == 9)
            poll(NULL, 0, 1); /* a stream of messages, not one lump */
    }
    cr_assert_eq(mr_client_flush(client, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    kill(brake, SIGKILL);
    waitpid(brake, NULL, 0);
    kill(shard, SIGCONT);
    uint64_t slow_share = 0, slow_partitions = 0, fast_share = 0, fast_partitions = 0;
    for (int i = 0; i < PARTITIONS; i++) {
        bool is_slow = strcmp(before.leader[i], before.leader[slow]) == 0;
        *(is_slow ? &slow_share : &fast_share) += counts[i];
        ++*(is_slow ? &slow_partitions : &fast_partitions);
    }
    fprintf(stderr, "least-loaded: %llu a partition on the slow node, %llu on the others\n",
            (unsigned long long)(slow_share / slow_partitions),
            (unsigned long long)(fast_share / fast_partitions));
    cr_assert_lt(slow_share / slow_partitions * 2, fast_share / fast_partitions);
    cr_assert_eq(conserved(client, "ll", "default").published, MESSAGES);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

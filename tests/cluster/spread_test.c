// SPDX-License-Identifier: Apache-2.0
/* Leaders and replicas: spread evenly, led again after a death, even again by
 * themselves when a node returns or joins. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cluster.h"

enum { MAILBOXES = 60, LED_AGAIN_MS = 2000 };

static void create_all(mr_client *client) {
    char name[32];
    for (int i = 0; i < MAILBOXES; i++) {
        snprintf(name, sizeof name, "box-%d", i);
        create_mailbox(client, name, settings_of(NULL));
        publish_text(client, name, name);
    }
}

struct box {
    mr_client *client;
    char name[32];
};

static bool is_ready(void *ctx) {
    struct box *b = ctx;
    return conserved(b->client, b->name, "default").ready == 1;
}

/* What an earlier epoch may have handed out counts as leased until every gateway
 * has said what its consumers hold: then each message is ready, once. */
static void check_all(struct cluster *c, mr_client *client) {
    struct box b = {.client = client};
    for (int i = 0; i < MAILBOXES; i++) {
        snprintf(b.name, sizeof b.name, "box-%d", i);
        cluster_wait(c, "the one message of a mailbox to be ready again", is_ready, &b);
        struct totals t = conserved(client, b.name, "default");
        cr_assert_eq(t.published, 1, "%s: published %llu", b.name, (unsigned long long)t.published);
    }
}

struct gone {
    struct on_nodes on;
    const char *node;
};

/* Led by others: no partition without a leader, and none led by the dead. */
static bool led_by_others(void *ctx) {
    struct gone *g = ctx;
    const mr_cluster_info *info = NULL;
    mr_error error;
    if (mr_cluster_status(g->on.client, 2000, &info, &error) != MR_OK)
        return false;
    bool led = info->without_leader == 0;
    for (size_t i = 0; i < info->nodes_count; i++)
        if (strcmp(info->nodes[i]->name, g->node) == 0)
            led &= info->nodes[i]->leaders == 0;
    mr_info_free(info);
    return led;
}

Test(spread, evens_out_after_a_death_a_return_and_a_join) {
    struct cluster *c =
        cluster_start(&(struct cluster_options){.nodes = 3, .extra = "failure: { rebuild_grace: 2s }\n"});
    mr_client *client = cluster_client(c, 0);
    struct on_nodes on = {c, client, 3};
    create_all(client);
    int64_t ms = cluster_wait(c, "60 mailboxes spread evenly over three nodes", even, &on);
    fprintf(stderr, "even over three nodes after %lld ms\n", (long long)ms);

    node_kill(c, 2, SIGKILL);
    struct gone gone = {on, "n3"};
    ms = cluster_wait(c, "all led by the two that are left", led_by_others, &gone);
    fprintf(stderr, "one node killed: all 60 led again after %lld ms\n", (long long)ms);
    cr_assert_leq(ms, LED_AGAIN_MS);
    check_all(c, client);

    node_start(c, 2);
    ms = cluster_wait(c, "even again after the node's return", even, &on);
    fprintf(stderr, "node returned: even again after %lld ms\n", (long long)ms);
    check_all(c, client);

    node_join(c);
    on.alive = 4;
    ms = cluster_wait(c, "a fourth node has its share", even, &on);
    fprintf(stderr, "fourth node joined: even again after %lld ms\n", (long long)ms);
    check_all(c, client);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

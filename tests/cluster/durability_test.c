// SPDX-License-Identifier: Apache-2.0
/* What a receipt is worth: written, none, one copy, and the way out when a
 * majority of the disks is gone. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "say.h"

static struct cluster *c;
static mr_client *client;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 3});
    client = cluster_client(c, -1);
}

static void begin_one(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 1});
    client = cluster_client(c, 0);
}

static void end(void) {
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

static int leader_of(const char *mailbox) {
    shown(c, mailbox, "partitions.0.partition");
    return node_index(c, said_text("partitions.0.leader"));
}

Test(durability, written_survives_the_death_of_every_process, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --durability written && mailroom publish a --count 1000 x");
    for (int i = 0; i < 3; i++)
        node_kill(c, i, SIGKILL);
    for (int i = 0; i < 3; i++)
        node_start(c, i);
    cluster_wait_alive(c);
    SAYS(c, 0, "mailroom --timeout 30s consume a --count 1000 --wait 20s | wc -l");
    cr_assert_eq(atoi(said()), 1000);
    cr_assert_eq(conserved(client, "a", "default").published, 1000);
}

Test(durability, none_delivers_at_most_once_and_a_settlement_releases, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --durability none && mailroom publish a --count 1000 x");
    SAYS(c, 0, "mailroom consume a --count 400 | wc -l");
    struct totals t = conserved(client, "a", "default");
    cr_assert_eq(t.acked, 400);
    cr_assert_eq(t.ready, 600);
    cr_assert_eq(t.messages, 600);
    SAYS(c, 0, "mailroom --json consume a --no-ack --count 600 --credit 600 --wait 5s | wc -l");
    cr_assert_eq(atoi(said()), 600);
    node_kill(c, leader_of("a"), SIGKILL);
    SAYS(c, 0,
         "mailroom --timeout 20s publish a after && mailroom --timeout 20s consume a --count 1 --wait 10s");
    SAID("after\n");
    t = conserved(client, "a", "default");
    cr_assert_eq(t.ready, 0, "%llu from the dead leader's memory", (unsigned long long)t.ready);
}

Test(durability, a_stream_to_none_goes_on_over_a_death, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --durability none");
    pid_t bench = say_begin(c, "exec mailroom --json --timeout 10s bench both a --count 20000 --rate 5000 "
                               "--size 100 --window 500 > load");
    while (conserved(client, "a", "default").acked < 2000) {
    }
    node_kill(c, leader_of("a"), SIGKILL);
    say_end(c, bench);
    SAYS(c, 0, "cat load");
    int64_t receipted = said_number("receipted"), delivered = said_number("delivered"),
            failed = said_number("failed");
    cr_assert_eq(receipted + failed, 20000);
    cr_assert_eq(said_number("duplicates"), 0, "none is at most once");
    cr_assert_gt(delivered, 15000, "delivered %lld", (long long)delivered);
    fprintf(stderr, "none: %lld receipted, %lld delivered, %lld failed over a leader's death\n",
            (long long)receipted, (long long)delivered, (long long)failed);
}

Test(durability, one_node_alone_keeps_everything, .init = begin_one, .fini = end) {
    SAYS(c, 0,
         "mailroom mailbox create a && mailroom publish a --count 1000 x && mailroom consume a --count 300 | "
         "wc -l");
    cr_assert_eq(shown(c, "a", "replicas"), 3, "the wanted number is kept");
    cr_assert(!said_has("partitions.0.replicas.1"));
    node_kill(c, 0, SIGKILL);
    node_start(c, 0);
    cluster_wait_alive(c);
    SAYS(c, 0, "mailroom --timeout 30s consume a --count 700 --wait 10s | wc -l");
    cr_assert_eq(atoi(said()), 700);
    node_kill(c, 0, SIGTERM);
    node_start(c, 0);
    cluster_wait_alive(c);
    cr_assert_eq(conserved(client, "a", "default").acked, 1000);
}

Test(durability, one_copy_waits_for_its_node, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --replicas 1 && mailroom publish a --count 100 x");
    int leader = leader_of("a");
    cr_assert(!said_has("partitions.0.replicas.1"));
    node_kill(c, leader, SIGKILL);
    SAYS(c, 3, "mailroom --timeout 2s publish a x");
    node_start(c, leader);
    SAYS(c, 0,
         "mailroom --timeout 30s publish a y && mailroom --timeout 30s consume a --count 101 --wait 10s "
         "| wc -l");
    cr_assert_geq(atoi(said()), 101);
}

static bool mailbox_moves(void *ctx) {
    return say(c, "mailroom --timeout 3s publish %s again", (const char *)ctx) == 0;
}

static bool has_lost_its_majority(void *ctx) {
    return say(c, "mailroom --json mailbox show a") == 0 &&
           strcmp(said_text("partitions.0.state"), "no-majority") == 0;
}

/* Two of three data folders of a mailbox are gone, the metadata's majority is
 * not: five nodes, the mailbox on three of them. */
Test(durability, recover_goes_on_with_what_one_node_has, .fini = end) {
    c = cluster_start(&(struct cluster_options){.nodes = 5, .extra = "failure: { replace_after: 600s }\n"});
    client = cluster_client(c, -1);
    SAYS(c, 0,
         "mailroom mailbox create a && mailroom publish a --count 500 x && mailroom --json mailbox show a");
    int holders[3];
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "partitions.0.replicas.%d", i);
        holders[i] = node_index(c, said_text(path));
    }
    for (int i = 1; i < 3; i++) {
        node_kill(c, holders[i], SIGKILL);
        SAYS(c, 0, "rm -rf '%s'", c->nodes[holders[i]].data);
    }
    SAYS(c, 3, "mailroom --timeout 2s publish a lost");
    for (int i = 1; i < 3; i++)
        node_start(c, holders[i]); /* come back as newcomers */
    cluster_wait(c, "the mailbox to say that it has no majority", has_lost_its_majority, NULL);
    SAYS(c, 1, "mailroom --timeout 2s mailbox recover a --from nobody --accept-loss");
    SAYS(c, 2, "mailroom mailbox recover a --from %s", c->nodes[holders[0]].name);
    SAYS(c, 0, "mailroom --timeout 20s mailbox recover a --from %s --accept-loss", c->nodes[holders[0]].name);
    cluster_wait(c, "the mailbox to move again", mailbox_moves, "a");
    SAYS(c, 0, "mailroom --timeout 20s consume a --count 501 --wait 10s | grep -c x");
    cr_assert_eq(atoi(said()), 500, "the survivor had all that was receipted");
}

// SPDX-License-Identifier: Apache-2.0
/* Leadership moves while consumers hold deliveries: those that are alive see no
 * redelivery, and what they hold they can still settle. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cluster.h"

enum { MESSAGES = 200, HELD = 100 };

static int leader_of(struct cluster *c, mr_client *client, const char *mailbox) {
    const mr_mailbox_info *info;
    mr_error error;
    cr_assert_eq(mr_mailbox_show(client, mailbox, CLUSTER_WAIT_MS, &info, &error), MR_OK, "%s", error.text);
    int i = node_index(c, info->partitions[0]->leader);
    mr_info_free(info);
    return i;
}

static mr_message *next(mr_consumer *consumer) {
    mr_message *m;
    mr_error error;
    cr_assert_eq(mr_consumer_next(consumer, CLUSTER_WAIT_MS, &m, &error), MR_OK, "%s", error.text);
    return m;
}

Test(move, live_consumers_see_no_redelivery) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    mr_client *client = cluster_client(c, 0);
    create_mailbox(client, "moving", settings_of(NULL));
    int leader = leader_of(c, client, "moving");
    int other = (leader + 1) % 3;
    mr_client *reader = cluster_client(c, other);
    char text[32];
    for (int i = 0; i < MESSAGES; i++) {
        snprintf(text, sizeof text, "%d", i);
        publish_text(reader, "moving", text);
    }
    mr_consumer *consumer;
    mr_error error;
    mr_consumer_options options = {.struct_size = sizeof options, .credit = HELD};
    cr_assert_eq(mr_consumer_open(reader, "moving", &options, CLUSTER_WAIT_MS, &consumer, &error), MR_OK,
                 "%s", error.text);
    mr_message *held[HELD];
    for (int i = 0; i < HELD; i++) {
        held[i] = next(consumer);
        cr_assert_eq(mr_message_offset(held[i]), (uint64_t)i);
    }
    int64_t start = clock_ms();
    node_kill(c, leader, SIGKILL);
    for (int i = 0; i < HELD; i++)
        cr_assert_eq(mr_settle(held[i], MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_OK,
                     "message %d, held over the move: %s", i, error.text);
    fprintf(stderr, "held deliveries settled %lld ms after the leader was killed\n",
            (long long)(clock_ms() - start));
    for (int i = HELD; i < MESSAGES; i++) {
        mr_message *m = next(consumer);
        cr_assert_eq(mr_message_offset(m), (uint64_t)i, "offset %llu instead of %d: a redelivery",
                     (unsigned long long)mr_message_offset(m), i);
        cr_assert_eq(mr_message_attempt(m), 1);
        cr_assert_eq(mr_ack(m), MR_OK);
    }
    cr_assert_eq(mr_consumer_flush(consumer, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    struct totals t = conserved(reader, "moving", "default");
    cr_assert_eq(t.published, MESSAGES);
    cr_assert_eq(t.acked, MESSAGES);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
    mr_client_close(reader, CLUSTER_WAIT_MS, NULL);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    node_start(c, leader);
    cluster_wait_alive(c);
    cluster_end(c);
}

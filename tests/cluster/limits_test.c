// SPDX-License-Identifier: Apache-2.0
/* Limits, age, retention, subscriptions and dead letters, from the command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "say.h"

static struct cluster *c;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 1});
}

static void end(void) {
    cluster_end(c);
}

Test(limits, a_full_mailbox_refuses_until_there_is_room, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --max-messages 5 && mailroom publish a 1 2 3 4 5");
    SAYS(c, 1, "mailroom --json --timeout 2s publish a 6");
    cr_assert_str_eq(said_text("error.code"), "FULL");
    SAYS(c, 0, "mailroom consume a --count 2 && mailroom publish a 6 7");
    SAYS(c, 1, "mailroom --timeout 2s publish a 8");
    SAYS(c, 0, "mailroom mailbox update a --max-messages 6 && mailroom publish a 8");
    cr_assert_eq(counted(c, "a", "published"), 8);
    SAYS(c, 0, "mailroom mailbox create half --max-messages 4");
    SAYS(c, 1, "mailroom --json publish half 1 2 3 4 5 6 7 8");
    cr_assert_eq(said_number("receipted"), 4, "%s", said());
    cr_assert_eq(said_number("failed"), 4);
    SAYS(c, 0, "mailroom consume half --count 4");
    SAID("1\n2\n3\n4\n");
    SAYS(c, 0, "mailroom mailbox create b --max-bytes 10KiB");
    SAYS(c, 1, "head -c 20000 /dev/zero | mailroom --timeout 2s publish b");
    SAYS(c, 0, "head -c 9000 /dev/zero | mailroom publish b");
    SAYS(c, 1, "head -c 9000 /dev/zero | mailroom --timeout 2s publish b");
    SAYS(c, 0, "mailroom mailbox create d --max-messages 8 --partitions 2");
    SAYS(c, 0, "mailroom publish d 1 2 3 4 5 6 7 8");
    SAYS(c, 1, "mailroom --timeout 2s publish d 9");
}

Test(limits, drop_oldest_makes_room_and_counts, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --max-messages 5 --overflow drop-oldest");
    SAYS(c, 0, "for i in 1 2 3 4 5 6 7 8; do mailroom publish a $i || exit 1; done");
    cr_assert_eq(counted(c, "a", "dropped"), 3);
    SAYS(c, 0, "mailroom consume a --wait 500ms");
    SAID("4\n5\n6\n7\n8\n");
    /* Batches of many are split on the way, and keep their order. */
    SAYS(c, 0, "seq 1 500 | mailroom --json publish a --lines");
    cr_assert_eq(said_number("receipted"), 500);
    SAYS(c, 0, "mailroom consume a --wait 500ms");
    SAID("496\n497\n498\n499\n500\n");
    SAYS(c, 0, "mailroom mailbox create b --max-bytes 20KiB --overflow drop-oldest");
    SAYS(c, 0, "for i in 1 2 3 4; do head -c 9000 /dev/zero | mailroom publish b || exit 1; done");
    cr_assert_eq(counted(c, "b", "ready"), 2);
}

static bool three_expired(void *ctx) {
    return counted(c, ctx, "expired") == 3;
}

Test(limits, what_is_too_old_expires_and_is_counted, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --ttl 700ms && mailroom publish a 1 2 3");
    cluster_wait(c, "three messages to expire", three_expired, "a");
    SAYS(c, 0, "mailroom consume a --wait 200ms");
    SAID("");
    cr_assert_eq(shown(c, "a", "partitions.0.messages"), 0);
    SAYS(c, 0, "mailroom mailbox create b && mailroom publish b 1 2 3");
    /* All of it is too old by the new setting, and nothing younger comes. */
    SAYS(c, 0, "sleep 0.5 && mailroom mailbox update b --ttl 300ms");
    cluster_wait(c, "an update of ttl to reach what is there", three_expired, "b");
}

Test(limits, retained_messages_are_replayed, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --retain 1h && mailroom publish a 0 1 2");
    SAYS(c, 0,
         "mailroom consume a --count 3 && sleep 1.1 && date -u +%%Y-%%m-%%dT%%H:%%M:%%SZ > now && sleep 0.1");
    SAYS(c, 0, "mailroom publish a 3 4 && mailroom consume a --count 2");
    SAYS(c, 0,
         "mailroom subscription create a first --from first && "
         "mailroom consume a --subscription first --wait 500ms");
    SAID("0\n1\n2\n3\n4\n");
    SAYS(c, 0,
         "mailroom subscription create a two --from 2 && "
         "mailroom consume a --subscription two --wait 500ms");
    SAID("2\n3\n4\n");
    SAYS(c, 0,
         "mailroom subscription create a time --from $(cat now) && "
         "mailroom consume a --subscription time --wait 500ms");
    SAID("3\n4\n");
    SAYS(c, 0,
         "mailroom subscription create a new && mailroom publish a 5 && "
         "mailroom consume a --subscription new --wait 500ms");
    SAID("5\n");
    SAYS(c, 0, "mailroom --json subscription list a");
    cr_assert(said_has("subscriptions.4") && !said_has("subscriptions.5"), "%s", said());
    said_members("subscriptions.0", "name from value");
    SAYS(c, 2, "mailroom subscription create a bad --from yesterday");
    SAYS(c, 0,
         "mailroom subscription create a far --from 1000 && mailroom publish a 6 && "
         "mailroom --json subscription list a");
    SAYS(c, 0, "mailroom subscription delete a first");
    SAYS(c, 1, "mailroom consume a --subscription first --wait 500ms");
    SAYS(c, 1, "mailroom subscription delete a first");
    SAYS(c, 0,
         "mailroom subscription create a first --from first && "
         "mailroom consume a --subscription first --wait 500ms");
    SAID("0\n1\n2\n3\n4\n5\n6\n");
}

static bool ten_or_fewer_kept(void *ctx) {
    (void)ctx;
    say(c, "mailroom subscription create a probe --from first >/dev/null && "
           "mailroom consume a --subscription probe --wait 300ms | wc -l; "
           "mailroom subscription delete a probe");
    return atoi(said()) <= 12;
}

Test(limits, retention_by_size_lets_go_of_the_oldest, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --retain 100KiB");
    SAYS(c, 0,
         "for i in $(seq 20); do head -c 10000 /dev/urandom | base64 -w 0 | head -c 10000 | "
         "mailroom publish a || exit 1; done");
    SAYS(c, 0, "mailroom consume a --count 20 | wc -l");
    cluster_wait(c, "what is past 100 KiB to go", ten_or_fewer_kept, NULL);
    cr_assert_geq(atoi(said()), 8, "%s", said());
}

Test(limits, each_subscription_gets_every_message, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --no-default");
    SAYS(c, 0, "for s in s1 s2 s3; do mailroom subscription create a $s || exit 1; done");
    SAYS(c, 0, "mailroom publish a --count 50 x");
    for (int i = 1; i <= 3; i++) {
        SAYS(c, 0, "mailroom consume a --subscription s%d --wait 500ms | wc -l", i);
        cr_assert_eq(atoi(said()), 50);
        char path[64];
        snprintf(path, sizeof path, "partitions.0.subscriptions.%d.acked", i - 1);
        cr_assert_eq(shown(c, "a", path), 50);
    }
    cr_assert_eq(shown(c, "a", "partitions.0.messages"), 0);
}

Test(limits, dead_letter_cycles_are_refused, .init = begin, .fini = end) {
    SAYS(c, 1, "mailroom mailbox create a --dead-letter a");
    SAYS(c, 0,
         "mailroom mailbox create a && mailroom mailbox create b --dead-letter a && "
         "mailroom mailbox create d --dead-letter b");
    SAYS(c, 1, "mailroom mailbox update a --dead-letter a");
    SAYS(c, 1, "mailroom mailbox update a --dead-letter d");
    ERRORS("leads back");
    SAYS(c, 0, "mailroom mailbox update d --dead-letter ''");
    SAYS(c, 0, "mailroom mailbox update a --dead-letter d");
}

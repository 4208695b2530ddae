// SPDX-License-Identifier: Apache-2.0
/* The command line as the design fixes it: words, shapes, exit codes. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "say.h"

static struct cluster *c;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 1});
}

static void begin_three(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 3});
}

static void end(void) {
    cluster_end(c);
}

Test(commands, a_mailbox_lives_and_is_shown, .init = begin_three, .fini = end) {
    SAYS(c, 0,
         "mailroom --json mailbox create a --partitions 2 --durability written --route key "
         "--dispatch key --max-messages 1000 --max-bytes 1MiB --overflow drop-oldest --ttl 1h "
         "--max-deliveries 5 --ack-timeout 5s --retain 1d");
    SAID("{\"created\":\"a\"}\n");
    SAYS(c, 0, "mailroom --json mailbox show a");
    said_members("", "name partitions replicas durability route dispatch overflow max_messages max_bytes "
                     "ttl_ms max_deliveries dead_letter ack_timeout_ms retain_ms retain_bytes no_default");
    said_members("partitions.1", "partition leader replicas epoch state messages bytes subscriptions");
    said_members(
        "partitions.1.subscriptions.0",
        "name reason published ready leased delayed dying acked dead expired dropped purged consumers");
    cr_assert_eq(said_number("replicas"), 3);
    cr_assert_str_eq(said_text("durability"), "written");
    cr_assert_str_eq(said_text("route"), "key");
    cr_assert_str_eq(said_text("dispatch"), "key");
    cr_assert_str_eq(said_text("overflow"), "drop-oldest");
    cr_assert_eq(said_number("max_bytes"), 1 << 20);
    cr_assert_eq(said_number("ttl_ms"), 3600000);
    cr_assert_eq(said_number("max_deliveries"), 5);
    cr_assert_eq(said_number("ack_timeout_ms"), 5000);
    cr_assert_eq(said_number("retain_ms"), 86400000);
    cr_assert_str_eq(said_text("partitions.0.state"), "ok");
    cr_assert(said_has("partitions.0.replicas.2"));
    SAYS(c, 0, "mailroom mailbox create b --no-default && mailroom --json mailbox show b");
    cr_assert(!said_has("partitions.0.subscriptions.0"));
    SAYS(c, 0, "mailroom --json mailbox list");
    cr_assert_str_eq(said_text("mailboxes.0.name"), "a");
    cr_assert_str_eq(said_text("mailboxes.1.name"), "b");
    SAYS(c, 0, "mailroom mailbox delete a && mailroom mailbox delete b && mailroom --json mailbox list");
    SAID("{\"mailboxes\":[]}\n");
    SAYS(c, 1, "mailroom mailbox show a");
    ERRORS("'a' not found");
    SAYS(c, 1, "mailroom mailbox delete a");
}

Test(commands, create_again_and_update, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --ttl 1h");
    SAYS(c, 0, "mailroom mailbox create a --ttl 60m");
    SAYS(c, 1, "mailroom --json mailbox create a --ttl 2h");
    said_members("error", "code text retryable");
    cr_assert_str_eq(said_text("error.code"), "EXISTS");
    ERRORS("ttl");
    SAYS(c, 0, "mailroom mailbox create dead");
    SAYS(c, 0,
         "mailroom mailbox update a --ttl 2h --max-messages 7 --max-bytes 5KiB --max-deliveries 3 "
         "--dead-letter dead --ack-timeout 9s --overflow drop-oldest --retain 2MiB");
    SAYS(c, 0, "mailroom --json mailbox show a");
    cr_assert_eq(said_number("ttl_ms"), 7200000);
    cr_assert_eq(said_number("max_messages"), 7);
    cr_assert_eq(said_number("max_bytes"), 5120);
    cr_assert_eq(said_number("max_deliveries"), 3);
    cr_assert_str_eq(said_text("dead_letter"), "dead");
    cr_assert_eq(said_number("ack_timeout_ms"), 9000);
    cr_assert_str_eq(said_text("overflow"), "drop-oldest");
    cr_assert_eq(said_number("retain_bytes"), 2 << 20);
    SAYS(c, 0, "mailroom mailbox update a --ttl 3h && mailroom --json mailbox show a");
    cr_assert_eq(said_number("max_messages"), 7, "what is not named stays");
    SAYS(c, 2, "mailroom mailbox update a --partitions 4");
    SAYS(c, 2, "mailroom mailbox update a");
    SAYS(c, 1, "mailroom mailbox update nowhere --ttl 1s");
}

Test(commands, names_are_checked, .init = begin, .fini = end) {
    SAYS(c, 2, "mailroom mailbox create ''");
    SAYS(c, 2, "mailroom mailbox create a/b");
    SAYS(c, 2, "mailroom mailbox create $(printf 'x%%.0s' $(seq 129))");
    SAYS(c, 0, "mailroom mailbox create $(printf 'x%%.0s' $(seq 128))");
    SAYS(c, 0, "mailroom mailbox create A-z_0.9");
    SAYS(c, 2, "mailroom subscription create A-z_0.9 'a b'");
    SAYS(c, 2, "mailroom --json mailbox create 'a b'");
    cr_assert(!said_has("error.retryable") || strcmp(said_text("error.code"), "USAGE") == 0);
}

Test(commands, what_was_deleted_does_not_come_back, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --retain 1h && mailroom publish a old1 old2");
    SAYS(c, 0, "mailroom subscription create a s --from first");
    SAYS(c, 0, "mailroom mailbox delete a && mailroom mailbox create a && mailroom publish a new");
    SAYS(c, 0, "mailroom --json consume a --wait 500ms");
    cr_assert_str_eq(said_text("body"), "new");
    cr_assert_eq(said_number("offset"), 0);
    SAYS(c, 1, "mailroom consume a --subscription s --wait 500ms");
}

Test(commands, purge_counts_and_empties, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a && mailroom publish a x --count 100");
    SAYS(c, 0, "mailroom mailbox purge a");
    cr_assert_eq(counted(c, "a", "purged"), 100);
    cr_assert_eq(counted(c, "a", "ready"), 0);
    cr_assert_eq(shown(c, "a", "partitions.0.messages"), 0);
    SAYS(c, 0, "mailroom publish a after && mailroom consume a --count 1 --wait 5s");
    SAID("after\n");
}

Test(commands, publish_takes_text_lines_and_files, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a");
    SAYS(c, 0, "mailroom --json publish a one 'two words' ''");
    SAID("{\"published\":3,\"receipted\":3,\"failed\":0}\n");
    SAYS(c, 0, "mailroom consume a --count 3");
    SAID("one\ntwo words\n\n");
    SAYS(c, 0, "printf 'a\\n\\nb\\n\\n' | mailroom --json publish a --lines");
    cr_assert_eq(said_number("published"), 4);
    SAYS(c, 0, "printf 'c\\r\\nlast' | mailroom publish a --lines && mailroom consume a --count 6");
    SAID("a\n\nb\n\nc\r\nlast\n");
    SAYS(c, 0, "printf '' | mailroom --json publish a --lines");
    cr_assert_eq(said_number("published"), 0);
    SAYS(c, 0, "printf 'whole\\ntext\\n' > f && mailroom publish a --file f && mailroom consume a --count 1");
    SAID("whole\ntext\n\n");
    SAYS(c, 0,
         "printf '1\\n2\\n' > f && mailroom publish a --lines --file f && mailroom consume a --count 2");
    SAID("1\n2\n");
    SAYS(c, 0, "printf '' | mailroom publish a && mailroom --json consume a --count 1");
    cr_assert_str_eq(said_text("body"), "");
    SAYS(c, 0, "mailroom --json publish a x --count 250 && mailroom consume a --count 250 | sort | uniq -c");
    cr_assert(strstr(said(), "250 x"), "%s", said());
    SAYS(c, 1, "mailroom publish a --file nothing-there");
    SAYS(c, 1, "mailroom --json publish nowhere x");
    cr_assert_eq(said_number("failed"), 1);
    ERRORS("nowhere");
}

Test(commands, consume_prints_json, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a");
    SAYS(c, 0, "mailroom publish a hello --key k1 --header color=red --header empty=");
    SAYS(c, 0, "printf '\\377\\000x' | mailroom publish a");
    SAYS(c, 0, "mailroom consume a --count 2 --format json --credit 1 > both; head -n 1 both");
    said_members("", "mailbox partition offset key headers body attempt time");
    cr_assert_str_eq(said_text("mailbox"), "a");
    cr_assert_eq(said_number("partition"), 0);
    cr_assert_str_eq(said_text("key"), "k1");
    cr_assert_str_eq(said_text("headers.color"), "red");
    cr_assert_str_eq(said_text("headers.empty"), "");
    cr_assert_str_eq(said_text("body"), "hello");
    cr_assert_eq(said_number("attempt"), 1);
    cr_assert_eq(strlen(said_text("time")), strlen("2026-01-31T12:00:00.000000Z"));
    SAYS(c, 0, "tail -n 1 both");
    said_members("", "mailbox partition offset key headers body_base64 attempt time");
    cr_assert_str_eq(said_text("body_base64"), "/wB4");
    cr_assert_eq(said_number("offset"), 1);
}

Test(commands, consume_ends_as_it_was_asked_to, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a && mailroom publish a 1 2 3 4 5");
    SAYS(c, 0, "mailroom consume a --no-ack --wait 300ms");
    SAID("1\n2\n3\n4\n5\n");
    SAYS(c, 0, "mailroom consume a --count 2");
    SAID("1\n2\n");
    SAYS(c, 3, "mailroom --json consume a --count 9 --wait 300ms > all; code=$?; tail -n 1 all; exit $code");
    cr_assert_str_eq(said_text("error.code"), "TIMEOUT");
    SAYS(c, 0, "mailroom consume a --wait 100ms");
    SAID("");
    cr_assert_eq(counted(c, "a", "acked"), 5);
    SAYS(c, 1, "mailroom consume a --subscription other --wait 1s");
    SAYS(c, 1, "mailroom consume nowhere --wait 1s");
}

static bool ten_leased(void *ctx) {
    (void)ctx;
    return counted(c, "a", "leased") == 10;
}

static void expect_all_first_attempts(int count) {
    SAYS(c, 0, "mailroom --json consume a --count %d --wait 5s | grep -c '\"attempt\":1,'", count);
    cr_assert_eq(said_number(""), count, "attempts were counted: %s", said());
}

Test(commands, an_interrupted_consumer_gives_back_what_it_did_not_print, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a && mailroom publish a --count 10 x");
    pid_t pid = say_begin(c, "exec mailroom consume a --no-ack --credit 10");
    cluster_wait(c, "the consumer to hold all", ten_leased, NULL);
    said_members("partitions.0.subscriptions.0.consumers.0", "id client credit leased delivered");
    kill(pid, SIGINT);
    cr_assert_eq(say_end(c, pid), 0);
    cr_assert_eq(counted(c, "a", "ready"), 10, "given back when it ended");
    expect_all_first_attempts(10);
}

Test(commands, a_closed_pipe_gives_back_what_was_not_read, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a && mailroom publish a --count 10 x");
    SAYS(c, 0, "mailroom consume a --credit 1 | head -n 3");
    SAID("x\nx\nx\n");
    int64_t acked = counted(c, "a", "acked");
    cr_assert(acked >= 3 && acked <= 5, "%lld acked, a pipe's reader took 3", (long long)acked);
    cr_assert_eq(counted(c, "a", "leased"), 0);
    expect_all_first_attempts((int)(10 - acked));
}

Test(commands, bench_prints_one_object, .init = begin, .fini = end) {
    SAYS(c, 0, "mailroom --json bench both b --count 1000 --size 64 --verify --partitions 2");
    said_members("", "published receipted failed delivered lost duplicates seconds msgs_per_s mb_per_s "
                     "p50_us p99_us p999_us max_us");
    cr_assert_eq(said_number("delivered"), 1000);
    cr_assert_eq(said_number("lost") + said_number("duplicates"), 0);
    SAYS(c, 0, "mailroom --json bench publish b --count 100 --size 64 --window 1 --rate 1000");
    SAYS(c, 0, "mailroom --json bench consume b --count 100");
    SAYS(c, 2, "mailroom bench sideways b");
}

Test(commands, servers_and_timeouts, .init = begin, .fini = end) {
    int port = c->nodes[0].client_port;
    SAYS(c, 0, "mailroom --server 127.0.0.1:1,127.0.0.1:%d mailbox create a", port);
    SAYS(c, 0, "MAILROOM_SERVER=127.0.0.1:%d mailroom mailbox list", port);
    SAYS(c, 0, "MAILROOM_SERVER=127.0.0.1:1 mailroom --server 127.0.0.1:%d mailbox list", port);
    int64_t start = clock_ms();
    SAYS(c, 3, "mailroom --json --timeout 300ms --server 127.0.0.1:1 publish a x");
    cr_assert_eq(said_number("failed"), 1);
    SAYS(c, 3, "mailroom --json --timeout 300ms --server 127.0.0.1:1 mailbox list");
    said_members("error", "code text retryable");
    cr_assert_str_eq(said_text("error.code"), "TIMEOUT");
    cr_assert_lt(clock_ms() - start, 10000);
    /* The timeout is of each message, not of the run. */
    SAYS(c, 0, "(for i in 1 2 3; do echo $i; sleep 0.6; done) | mailroom --timeout 1s publish a --lines");
    SAYS(c, 0, "mailroom --timeout 1s consume a --count 3");
    SAID("1\n2\n3\n");
    SAYS(c, 2, "mailroom --server nonsense mailbox list");
    SAYS(c, 2, "mailroom consume a --count 0");
    SAYS(c, 2, "mailroom consume");
    SAYS(c, 2, "mailroom");
    SAYS(c, 0, "mailroom publish --help");
}

Test(commands, the_cluster_shows_its_nodes, .init = begin_three, .fini = end) {
    SAYS(c, 0, "mailroom mailbox create a --partitions 4 && mailroom --json cluster status");
    said_members("", "cluster controller nodes partitions");
    said_members("nodes.0", "name state address leaders replicas processes");
    said_members("nodes.0.processes.0", "role pid state restarts version");
    said_members("partitions", "total without_leader under_replicated quarantined");
    cr_assert_str_eq(said_text("cluster"), "test");
    cr_assert_eq(said_number("partitions.total"), 4);
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "nodes.%d.replicas", i);
        cr_assert_eq(said_number(path), 4);
        snprintf(path, sizeof path, "nodes.%d.processes.3.state", i);
        cr_assert_str_eq(said_text(path), "ready");
    }
}

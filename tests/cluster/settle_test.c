// SPDX-License-Identifier: Apache-2.0
/* Consumers that die, answer too late, or give up. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster.h"

enum { MESSAGES = 100, DELIVERIES = 3 };

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

static mr_consumer *attach(mr_client *with, const char *mailbox, uint32_t credit) {
    mr_consumer *consumer;
    mr_error error;
    mr_consumer_options options = {.struct_size = sizeof options, .credit = credit};
    cr_assert_eq(mr_consumer_open(with, mailbox, &options, CLUSTER_WAIT_MS, &consumer, &error), MR_OK, "%s",
                 error.text);
    return consumer;
}

static mr_message *next(mr_consumer *consumer) {
    mr_message *m;
    mr_error error;
    cr_assert_eq(mr_consumer_next(consumer, CLUSTER_WAIT_MS, &m, &error), MR_OK, "%s", error.text);
    return m;
}

static void publish_numbers(const char *mailbox) {
    char text[32];
    for (int i = 0; i < MESSAGES; i++) {
        snprintf(text, sizeof text, "%d", i);
        publish_text(client, mailbox, text);
    }
}

/* A process that takes `count` messages, says so on its standard output, and
 * waits to be killed. (Another program: nng does not survive a fork.) */
static pid_t start_holder(const char *mailbox, int count, int say) {
    char number[16];
    snprintf(number, sizeof number, "%d", count);
    const char *servers = cluster_servers(c, 1);
    pid_t pid = fork();
    if (pid)
        return pid;
    dup2(say, STDOUT_FILENO);
    execl(getenv("HOLDER"), "holder", servers, mailbox, number, (char *)NULL);
    _exit(127);
}

Test(settle, a_dead_consumers_messages_go_to_others, .init = begin, .fini = end) {
    int said[2];
    char byte;
    create_mailbox(client, "work", settings_of(NULL));
    publish_numbers("work");
    cr_assert_eq(pipe(said), 0);
    pid_t pid = start_holder("work", MESSAGES / 2, said[1]);
    cr_assert_eq(read(said[0], &byte, 1), 1);
    cr_assert_eq(conserved(client, "work", "default").leased, MESSAGES / 2);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    mr_consumer *consumer = attach(client, "work", MESSAGES);
    bool seen[MESSAGES] = {false};
    int again = 0;
    for (int i = 0; i < MESSAGES; i++) {
        mr_message *m = next(consumer);
        uint64_t offset = mr_message_offset(m);
        cr_assert(offset < MESSAGES && !seen[offset]);
        seen[offset] = true;
        again += mr_message_attempt(m) > 1;
        cr_assert_eq(mr_ack(m), MR_OK);
    }
    cr_assert_eq(again, MESSAGES / 2, "%d came a second time", again);
    cr_assert_eq(mr_consumer_flush(consumer, CLUSTER_WAIT_MS, NULL), MR_OK);
    cr_assert_eq(conserved(client, "work", "default").acked, MESSAGES);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
}

static void short_lease(mr_settings *s) {
    s->ack_timeout_ms = 300;
}

Test(settle, an_ack_with_an_old_token_is_refused_and_says_so, .init = begin, .fini = end) {
    create_mailbox(client, "late", settings_of(short_lease));
    publish_text(client, "late", "slow work");
    mr_consumer *slow = attach(client, "late", 1);
    mr_message *first = next(slow);
    mr_consumer *other = attach(client, "late", 1);
    mr_message *second = next(other); /* the lease ran out */
    mr_error error;
    cr_assert_eq(mr_message_attempt(second), 2);
    cr_assert_eq(mr_settle(first, MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_ETOOLATE, "got: %s", error.text);
    cr_assert_eq(mr_settle(second, MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(conserved(client, "late", "default").acked, 1);
    mr_consumer_close(slow, CLUSTER_WAIT_MS, NULL);
    mr_consumer_close(other, CLUSTER_WAIT_MS, NULL);
}

static void with_dead_letters(mr_settings *s) {
    s->max_deliveries = DELIVERIES;
    snprintf(s->dead_letter, sizeof s->dead_letter, "dead");
}

static bool one_dead(void *ctx) {
    (void)ctx;
    return conserved(client, "risky", "default").dead == 1;
}

Test(settle, after_the_last_delivery_it_is_a_dead_letter_once, .init = begin, .fini = end) {
    create_mailbox(client, "dead", settings_of(NULL));
    create_mailbox(client, "risky", settings_of(with_dead_letters));
    publish_text(client, "risky", "poison");
    mr_consumer *consumer = attach(client, "risky", 1);
    mr_error error;
    for (uint32_t i = 1; i <= DELIVERIES; i++) {
        mr_message *m = next(consumer);
        cr_assert_eq(mr_message_attempt(m), i);
        cr_assert_eq(mr_settle(m, MR_NACK, 0, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    }
    cluster_wait(c, "the message to be dead", one_dead, NULL);
    mr_consumer *undertaker = attach(client, "dead", 10);
    mr_message *letter = next(undertaker);
    size_t size;
    const char *payload = mr_message_payload(letter, &size);
    cr_assert(size == 6 && memcmp(payload, "poison", 6) == 0);
    const char *reason = mr_message_header_get(letter, "mailroom-dead-reason", &size);
    cr_assert(reason && size == strlen("max-deliveries") && memcmp(reason, "max-deliveries", size) == 0,
              "its reason: %.*s", (int)size, reason ? reason : "");
    cr_assert_eq(mr_ack(letter), MR_OK);
    cr_assert_eq(mr_consumer_flush(undertaker, CLUSTER_WAIT_MS, NULL), MR_OK);
    struct totals dead = conserved(client, "dead", "default");
    cr_assert_eq(dead.published, 1, "stored once, not %llu times", (unsigned long long)dead.published);
    cr_assert_eq(conserved(client, "risky", "default").published, 1);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
    mr_consumer_close(undertaker, CLUSTER_WAIT_MS, NULL);
}

Test(settle, a_nack_with_a_delay_comes_back_after_it, .init = begin, .fini = end) {
    enum { DELAY_MS = 700 };
    create_mailbox(client, "later", settings_of(NULL));
    publish_text(client, "later", "again");
    mr_consumer *consumer = attach(client, "later", 1);
    mr_error error;
    mr_message *m = next(consumer);
    int64_t start = clock_ms();
    cr_assert_eq(mr_settle(m, MR_NACK, DELAY_MS, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(conserved(client, "later", "default").delayed, 1);
    m = next(consumer);
    cr_assert_geq(clock_ms() - start, DELAY_MS);
    cr_assert_eq(mr_settle(m, MR_ACK, 0, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(conserved(client, "later", "default").acked, 1);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
}

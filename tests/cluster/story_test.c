// SPDX-License-Identifier: Apache-2.0
/* The main job: a real text goes through the cluster while nodes die. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster.h"

enum { LINES = 20000, KILL_AFTER = 5000, SECOND_LOT = 3000 };

struct text {
    char **lines;
    size_t count;
    char path[256];
};

/* The project's own sources, the first `count` lines of them, in a file. */
static struct text real_text(struct cluster *c, size_t count) {
    struct text t = {.lines = calloc(count, sizeof *t.lines)};
    char command[1024], *line = NULL;
    size_t size = 0;
    ssize_t got;
    snprintf(t.path, sizeof t.path, "%s/text", c->folder);
    snprintf(command, sizeof command,
             "cd '%s' && find broker client proto tests -name '*.[ch]' | sort | xargs cat 2>/dev/null",
             getenv("MAILROOM_SOURCE"));
    FILE *in = popen(command, "r"), *out = fopen(t.path, "w");
    cr_assert(in && out);
    while (t.count < count && (got = getline(&line, &size, in)) > 0) {
        fwrite(line, 1, (size_t)got, out);
        line[got - 1] = 0;
        t.lines[t.count++] = strdup(line);
    }
    cr_assert_eq(t.count, count, "the sources have only %zu lines", t.count);
    free(line);
    fclose(out);
    pclose(in);
    return t;
}

static pid_t publish_file(struct cluster *c, int node, const char *mailbox, const char *path) {
    pid_t pid = fork();
    if (pid == 0) {
        char servers[512];
        snprintf(servers, sizeof servers, "%s", cluster_servers(c, node));
        if (!freopen(path, "r", stdin))
            _exit(126);
        execl(getenv("MAILROOM"), "mailroom", "--server", servers, "--timeout", "30s", "publish", mailbox,
              "--lines", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int leader_of(struct cluster *c, mr_client *client, const char *mailbox) {
    const mr_mailbox_info *info;
    mr_error error;
    cr_assert_eq(mr_mailbox_show(client, mailbox, CLUSTER_WAIT_MS, &info, &error), MR_OK, "%s", error.text);
    int i = node_index(c, info->partitions[0]->leader);
    mr_info_free(info);
    return i;
}

static mr_consumer *open_consumer(mr_client *client, const char *mailbox, uint32_t credit) {
    mr_consumer *consumer;
    mr_error error;
    mr_consumer_options options = {.struct_size = sizeof options, .credit = credit};
    cr_assert_eq(mr_consumer_open(client, mailbox, &options, CLUSTER_WAIT_MS, &consumer, &error), MR_OK, "%s",
                 error.text);
    return consumer;
}

/* Takes and acks message i; it must be line i of the text. */
static void take_line(mr_consumer *consumer, const struct text *t, size_t i) {
    mr_message *m;
    mr_error error;
    size_t size;
    int code = mr_consumer_next(consumer, CLUSTER_WAIT_MS, &m, &error);
    cr_assert_eq(code, MR_OK, "line %zu of %zu: %s", i, t->count, error.text);
    const char *payload = mr_message_payload(m, &size);
    cr_assert(size == strlen(t->lines[i]) && memcmp(payload, t->lines[i], size) == 0,
              "line %zu: offset %llu, attempt %u: '%.*s', expected '%s'", i,
              (unsigned long long)mr_message_offset(m), mr_message_attempt(m), (int)size, payload,
              t->lines[i]);
    cr_assert_eq(mr_ack(m), MR_OK);
}

static void nothing_left(mr_consumer *consumer) {
    mr_message *m;
    mr_error error;
    cr_assert_eq(mr_consumer_flush(consumer, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    cr_assert_eq(mr_consumer_next(consumer, 500, &m, &error), MR_ETIMEOUT,
                 "a message more than was published");
}

static void expect_exit(pid_t pid, int expected) {
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == expected, "publish: status %x, expected exit %d",
              status, expected);
}

Test(story, survives_the_death_of_the_leading_node) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    struct text t = real_text(c, LINES);
    mr_client *client = cluster_client(c, 0);
    create_mailbox(client, "story", settings_of(NULL));
    int leader = leader_of(c, client, "story");
    mr_client *reader = cluster_client(c, (leader + 2) % 3);
    mr_consumer *consumer = open_consumer(reader, "story", 1000);
    pid_t publisher = publish_file(c, (leader + 1) % 3, "story", t.path);
    for (size_t i = 0; i < KILL_AFTER; i++)
        take_line(consumer, &t, i);
    int64_t killed = clock_ms();
    node_kill(c, leader, SIGKILL);
    take_line(consumer, &t, KILL_AFTER);
    fprintf(stderr, "kill -9 of the leading node to the next delivery: %lld ms\n",
            (long long)(clock_ms() - killed));
    for (size_t i = KILL_AFTER + 1; i < LINES; i++)
        take_line(consumer, &t, i);
    expect_exit(publisher, 0);
    nothing_left(consumer);
    struct totals sum = conserved(reader, "story", "default");
    cr_assert_eq(sum.published, LINES);
    cr_assert_eq(sum.acked, LINES);
    cr_assert_eq(mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL), MR_OK);
    mr_client_close(reader, CLUSTER_WAIT_MS, NULL);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    node_start(c, leader);
    cluster_wait_alive(c);
    cluster_end(c);
}

Test(story, survives_the_death_of_every_node_at_once) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    struct text t = real_text(c, SECOND_LOT);
    mr_client *client = cluster_client(c, 0);
    create_mailbox(client, "night", settings_of(NULL));
    expect_exit(publish_file(c, 1, "night", t.path), 0);
    mr_consumer *consumer = open_consumer(client, "night", 100);
    for (size_t i = 0; i < SECOND_LOT / 2; i++)
        take_line(consumer, &t, i);
    mr_error error;
    cr_assert_eq(mr_consumer_flush(consumer, CLUSTER_WAIT_MS, &error), MR_OK, "%s", error.text);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    for (int i = 0; i < 3; i++)
        kill(c->nodes[i].pid, SIGKILL);
    for (int i = 0; i < 3; i++)
        node_kill(c, i, SIGKILL);
    for (int i = 0; i < 3; i++)
        node_start(c, i);
    client = cluster_client(c, 2);
    struct on_nodes on = {c, client, 3};
    int64_t ms = cluster_wait(c, "all led after all were killed", all_led, &on);
    fprintf(stderr, "all three nodes killed, started, led again after %lld ms\n", (long long)ms);
    struct totals sum = conserved(client, "night", "default");
    cr_assert_eq(sum.published, SECOND_LOT, "published %llu", (unsigned long long)sum.published);
    cr_assert_eq(sum.acked, SECOND_LOT / 2, "settled messages stay settled");
    consumer = open_consumer(client, "night", 1000);
    for (size_t i = SECOND_LOT / 2; i < SECOND_LOT; i++)
        take_line(consumer, &t, i);
    nothing_left(consumer);
    cr_assert_eq(conserved(client, "night", "default").acked, SECOND_LOT);
    mr_consumer_close(consumer, CLUSTER_WAIT_MS, NULL);
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

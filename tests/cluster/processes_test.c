// SPDX-License-Identifier: Apache-2.0
/*
 * Single processes of a node die under load, and a node is asked to stop: the
 * others go on, the dead one is restarted and has its obituary, nothing is lost.
 */
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
    SAYS(c, 0, "mailroom mailbox create a --partitions 6");
}

static void end(void) {
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

static bool log_says(const struct cluster_node *n, const char *word) {
    char text[256], path[600];
    snprintf(path, sizeof path, "grep -c -- '%s' '%s'", word, n->log_path);
    FILE *f = popen(path, "r");
    bool found = fgets(text, sizeof text, f) && atoi(text) > 0;
    pclose(f);
    return found;
}

struct process {
    const char *role;
    int number; /* in the status' list */
    int signal;
};

/* The process of node n1 is another one, ready, with one more restart. */
static bool is_back(void *ctx) {
    const struct process *p = ctx;
    char path[128];
    if (say(c, "mailroom --json cluster status") != 0)
        return false;
    snprintf(path, sizeof path, "nodes.0.processes.%d.state", p->number);
    if (!said_has(path) || strcmp(said_text(path), "ready") != 0)
        return false;
    snprintf(path, sizeof path, "nodes.0.processes.%d.restarts", p->number);
    return said_number(path) == 1;
}

/* While bench publishes and consumes through every node, the process dies. */
static void kill_under_load(const struct process *p) {
    pid_t bench = say_begin(c, "exec mailroom --json --timeout 30s bench both a --count 30000 --rate 6000 "
                               "--size 200 --window 1000 --publishers 2 --consumers 2 --verify > load");
    struct totals before;
    do
        before = conserved(client, "a", "default");
    while (before.acked < 3000);
    pid_t pid = node_process(c, 0, p->role), others[4];
    const char *const roles[] = {"controller", "gateway", "shard/0", "admin"};
    for (int i = 0; i < 4; i++)
        others[i] = node_process(c, 0, roles[i]);
    cr_assert_eq(kill(pid, p->signal), 0);
    int64_t took = cluster_wait(c, "the process to be back", is_back, (void *)(uintptr_t)p);
    fprintf(stderr, "%s is back within %lld ms\n", p->role, (long long)took);
    cr_assert_eq(say_end(c, bench), 0, "bench: exit");
    SAYS(c, 0, "cat load");
    cr_assert_eq(said_number("receipted"), 30000);
    cr_assert_eq(said_number("failed"), 0);
    cr_assert_eq(said_number("lost"), 0);
    fprintf(stderr, "  duplicates %lld, longest %lld us\n", (long long)said_number("duplicates"),
            (long long)said_number("max_us"));
    for (int i = 0; i < 4; i++)
        if (strcmp(roles[i], p->role) != 0)
            cr_assert_eq(node_process(c, 0, roles[i]), others[i], "%s died too", roles[i]);
    cr_assert(log_says(&c->nodes[0], p->signal == SIGSEGV ? "SIGSEGV\\|Segmentation\\|signal 11"
                                                          : "SIGKILL\\|Killed\\|signal 9"),
              "no obituary in the log");
    conserved(client, "a", "default");
}

Test(processes, a_shard_dies, .init = begin, .fini = end) {
    kill_under_load(&(struct process){"shard/0", 2, SIGSEGV});
}

Test(processes, a_gateway_dies, .init = begin, .fini = end) {
    kill_under_load(&(struct process){"gateway", 1, SIGKILL});
}

Test(processes, a_controller_dies, .init = begin, .fini = end) {
    kill_under_load(&(struct process){"controller", 0, SIGSEGV});
}

Test(processes, an_admin_dies, .init = begin, .fini = end) {
    kill_under_load(&(struct process){"admin", 3, SIGKILL});
}

Test(processes, a_node_that_is_asked_to_stop_fails_no_call, .init = begin, .fini = end) {
    pid_t bench = say_begin(c, "exec mailroom --json --timeout 30s bench both a --count 30000 --rate 6000 "
                               "--size 200 --window 1000 --publishers 3 --consumers 3 --verify > load");
    while (conserved(client, "a", "default").acked < 3000) {
    }
    int64_t start = clock_ms();
    node_kill(c, 0, SIGTERM); /* must exit 0 */
    fprintf(stderr, "stopped within %lld ms\n", (long long)(clock_ms() - start));
    cr_assert_eq(say_end(c, bench), 0, "bench: exit");
    SAYS(c, 0, "cat load");
    cr_assert_eq(said_number("receipted"), 30000);
    cr_assert_eq(said_number("lost"), 0);
    cr_assert_eq(said_number("duplicates"), 0);
    fprintf(stderr, "  longest %lld us\n", (long long)said_number("max_us"));
    node_start(c, 0);
    cluster_wait_alive(c);
    conserved(client, "a", "default");
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Real nodes for the cluster tests: processes of mailroomd on free loopback
 * ports, with data in a temporary folder, killed with real signals.
 *
 * Every wait is for an event and ends the test with what was waited for after
 * CLUSTER_WAIT_MS. Nothing outlives the test: nodes die with it (they are asked
 * to, and told by the kernel), folders go when it passes.
 */
#ifndef MAILROOM_TESTS_CLUSTER_H
#define MAILROOM_TESTS_CLUSTER_H

#include <mailroom.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { CLUSTER_NODES_MAX = 5, CLUSTER_WAIT_MS = 30000 };

struct cluster_node {
    char name[16];
    int client_port, cluster_port, admin_port;
    pid_t pid; /* 0: not running */
    int log;   /* its standard error, read by cluster_wait */
    bool joins;
    char config[256], data[256], log_path[256];
};

struct cluster {
    char folder[128];
    int shards;
    int count;       /* nodes of `initial` */
    int nodes_count; /* joined ones included */
    struct cluster_node nodes[CLUSTER_NODES_MAX];
};

struct cluster_options {
    int nodes;
    int shards;        /* each; 0: 1 */
    const char *extra; /* more lines of configuration; NULL */
};

/* Writes configurations, starts all nodes, waits until every one is alive. */
struct cluster *cluster_start(const struct cluster_options *options);
/* Stops all (SIGTERM, must exit 0) and removes the folder. */
void cluster_end(struct cluster *c);
void node_start(struct cluster *c, int i);
/* Every node sees every node alive. */
void cluster_wait_alive(struct cluster *c);
/* signal and wait for the exit; every process of the node is gone after it. */
void node_kill(struct cluster *c, int i, int signal);
/* A further node that joins through node 0. Returns its index. */
int node_join(struct cluster *c);
/* Index of the node with that name, or -1. */
int node_index(const struct cluster *c, const char *name);
/* The process of a role ("shard/0") of node i, by the cluster's own status. */
pid_t node_process(struct cluster *c, int i, const char *role);

/* "127.0.0.1:P" of node i, or of all nodes separated by commas (i < 0). Static. */
const char *cluster_servers(const struct cluster *c, int i);
mr_client *cluster_client(struct cluster *c, int i);

/* Waits until condition(ctx) holds; `what` names it when it does not in time.
 * Returns the milliseconds it took. */
int64_t cluster_wait(struct cluster *c, const char *what, bool (*condition)(void *ctx), void *ctx);
int64_t clock_ms(void);

/* Conditions. */
struct on_nodes {
    struct cluster *cluster;
    mr_client *client;
    int alive;
};
bool nodes_alive(void *on_nodes);    /* exactly `alive` nodes are alive */
bool all_led(void *on_nodes);        /* and no partition is without a leader */
bool all_replicated(void *on_nodes); /* and none is under-replicated */
bool even(void *on_nodes);           /* and leaders and replicas differ by at most 1 or 10 % */

/* The command line: exit code; output and errors are malloc'ed (may be NULL
 * pointers). arguments end with NULL; input NULL: none. */
int mailroom_run(struct cluster *c, int node, const char *input, char **output, char **errors,
                 const char *const *arguments);
#define mailroom(c, node, output, ...)                                                                       \
    mailroom_run(c, node, NULL, output, NULL, (const char *const[]){__VA_ARGS__, NULL})

/* DESIGN section 11, "conserved", from `mailbox show`, for every partition and
 * subscription; and the sums over partitions of a subscription. */
struct totals {
    uint64_t published, ready, leased, delayed, dying, acked, dead, expired, dropped, purged;
    uint64_t messages;
};
struct totals conserved(mr_client *client, const char *mailbox, const char *subscription);

void publish_text(mr_client *client, const char *mailbox, const char *text);
void create_mailbox(mr_client *client, const char *name, mr_settings settings);
mr_settings settings_of(void (*change)(mr_settings *));

#endif

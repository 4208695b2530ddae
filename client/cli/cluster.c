// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>

#include "client/cli/cli.h"

static json_t *node_json(const mr_node_info *n) {
    json_t *processes = json_array();
    for (size_t i = 0; i < n->processes_count; i++) {
        const mr_process_info *p = n->processes[i];
        json_array_append_new(processes, json_pack("{s:s, s:I, s:s, s:I, s:s}", "role", p->role, "pid",
                                                   (json_int_t)p->pid, "state", p->state, "restarts",
                                                   (json_int_t)p->restarts, "version", p->version));
    }
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "name", n->name, "state", n->state, "address",
                     n->address, "leaders", (json_int_t)n->leaders, "replicas", (json_int_t)n->replicas,
                     "processes", processes);
}

static int status_json(const mr_cluster_info *c) {
    json_t *nodes = json_array();
    for (size_t i = 0; i < c->nodes_count; i++)
        json_array_append_new(nodes, node_json(c->nodes[i]));
    return json_print(json_pack("{s:s, s:s, s:o, s:{s:I, s:I, s:I, s:I}}", "cluster", c->cluster,
                                "controller", c->controller, "nodes", nodes, "partitions", "total",
                                (json_int_t)c->partitions, "without_leader", (json_int_t)c->without_leader,
                                "under_replicated", (json_int_t)c->under_replicated, "quarantined",
                                (json_int_t)c->quarantined));
}

static int status_text(const mr_cluster_info *c) {
    printf("cluster %s, controller %s\n", c->cluster, c->controller[0] ? c->controller : "none");
    printf("partitions: %" PRIu64 ", without leader %" PRIu64 ", under-replicated %" PRIu64
           ", quarantined %" PRIu64 "\n",
           c->partitions, c->without_leader, c->under_replicated, c->quarantined);
    for (size_t i = 0; i < c->nodes_count; i++) {
        const mr_node_info *n = c->nodes[i];
        printf("%-12s %-9s %-21s leads %u, holds %u\n", n->name, n->state, n->address, n->leaders,
               n->replicas);
        for (size_t k = 0; k < n->processes_count; k++) {
            const mr_process_info *p = n->processes[k];
            printf("  %-12s pid %-8d %-10s restarts %u, %s\n", p->role, p->pid, p->state, p->restarts,
                   p->version);
        }
    }
    return EXIT_DONE;
}

static int status(struct cli *cli, char **argv) {
    const struct arg none[] = {{.kind = ARG_END}};
    struct positionals p;
    int code = args_parse(cli, none, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 0, 0, "none");
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code != EXIT_DONE)
        return code;
    const mr_cluster_info *info;
    mr_error error;
    if (mr_cluster_status(cli->client, MR_TIMEOUT_DEFAULT, &info, &error) != MR_OK)
        return cli_fail(cli, &error);
    code = cli->json ? status_json(info) : status_text(info);
    mr_info_free(info);
    return code;
}

const struct command command_cluster_status = {
    "cluster status", "", "show nodes, processes and partitions of the cluster\n", status};

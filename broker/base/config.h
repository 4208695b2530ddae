// SPDX-License-Identifier: Apache-2.0
/*
 * The configuration file: one YAML mapping, read once at start. Every error
 * names file, line, what was wrong and what was expected.
 *
 *   key             type                    default
 *   node            name                    required
 *   data            path                    required
 *   run             path                    <data>/run
 *   upgrade_from    path                    folder of the running binary ("" here)
 *   listen.client   host:port               127.0.0.1:7400
 *   listen.cluster  host:port               127.0.0.1:7410; shard i listens on port + 1 + i
 *   listen.admin    host:port               127.0.0.1:7480
 *   shards          auto, 1 .. 64           auto (0 here; settled against the data folder)
 *   cluster.name    name                    required
 *   cluster.initial mapping name: host:port one of the two, not both
 *   cluster.join    list of host:port
 *   failure.*       durations               see config_defaults
 *   limits.*        sizes                   see config_defaults
 *   insecure        true, false             false: loopback addresses only
 *
 * A name is [A-Za-z0-9._-]{1,64}. Pure: no file is opened, nothing is looked up.
 */
#ifndef MAILROOM_BASE_CONFIG_H
#define MAILROOM_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

enum {
    CONFIG_NAME_BYTES_MAX = 64,
    CONFIG_PATH_BYTES_MAX = 1024,
    CONFIG_HOST_BYTES_MAX = 255,
    CONFIG_SHARDS_MAX = 64,
    CONFIG_SHARDS_AUTO_MAX = 16,
    CONFIG_NODES_MAX = 128,
    CONFIG_FILE_BYTES_MAX = 1 << 20,
    CONFIG_IPC_PATH_BYTES_MAX = 107, /* sun_path is 108 bytes with its NUL */
    /* "/controller-0.4294967295.sock" */
    CONFIG_IPC_NAME_BYTES_MAX = 29
};

struct config_address {
    char text[CONFIG_HOST_BYTES_MAX + 9]; /* as written: "127.0.0.1:7400", "[::1]:7400" */
    char host[CONFIG_HOST_BYTES_MAX + 1]; /* without brackets */
    uint16_t port;
};

struct config_node {
    char name[CONFIG_NAME_BYTES_MAX + 1];
    struct config_address address; /* its listen.cluster */
};

struct config {
    char node[CONFIG_NAME_BYTES_MAX + 1];
    char data[CONFIG_PATH_BYTES_MAX + 1];
    char run[CONFIG_PATH_BYTES_MAX + 1];
    char upgrade_from[CONFIG_PATH_BYTES_MAX + 1]; /* "" = the running binary's folder */
    struct config_address listen_client;
    struct config_address listen_cluster;
    struct config_address listen_admin;
    unsigned shards; /* 0 = auto; never 0 in what a child sees */
    char cluster[CONFIG_NAME_BYTES_MAX + 1];
    struct config_node *initial; /* owned; NULL with join */
    size_t initial_count;
    struct config_address *join; /* owned; NULL with initial */
    size_t join_count;
    usec_t heartbeat;
    usec_t timeout;
    usec_t replace_after;
    usec_t rebuild_grace;
    usec_t watchdog;
    uint64_t message_bytes_max;
    uint64_t memory_bytes_max; /* of the whole node */
    uint64_t segment_bytes;    /* of a journal segment */
    bool insecure;
};

/* Read `size` bytes of YAML. file_name is only for error texts. ERR_OK: *out is
 * filled, the caller gives it to config_free. ERR_INVALID: *detail holds
 * "file:line: what was wrong, what was expected"; *out is empty. */
enum err config_parse(const char *file_name, const void *text, size_t size, struct config *out,
                      struct err_detail *detail);
void config_free(struct config *config);

/* Do the ports of this node stay apart if it runs `shards` shards? config_parse
 * has asked this already when the file says how many. ERR_INVALID with a text
 * without file and line. */
enum err config_check_ports(const struct config *config, unsigned shards, struct err_detail *detail);

#endif

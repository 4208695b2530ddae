// SPDX-License-Identifier: Apache-2.0
/*
 * The supervisor's process part: it does what the tree (tree.h) wants, in one
 * thread, and reads nothing but its children's control channels and shared
 * memory. No nng, no protobuf, no byte from a network.
 */
#ifndef MAILROOM_SUPERVISOR_SUPERVISOR_H
#define MAILROOM_SUPERVISOR_SUPERVISOR_H

#include <stddef.h>

#include "base/config.h"
#include "supervisor/tree.h"

struct supervisor_options {
    const struct config *config; /* shards settled */
    const char *file;            /* the configuration's name */
    const void *text;            /* and bytes: each child parses these very ones */
    size_t text_size;
    const struct child_spec *children; /* as in struct tree_spec */
    unsigned children_count;
    enum strategy strategy;
    unsigned restarts_max;
    usec_t period;
    int lock; /* descriptor children hold too, or -1 */
};

/* Run until SIGTERM, SIGINT or SIGHUP (0), until children restart too often (1),
 * or until all want an operator (CHILD_EXIT_OPERATOR). Returns the exit code;
 * no child is left then. The calling process must have one thread. */
int supervisor_run(const struct supervisor_options *options);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A node before its children run: its folders, the lock that keeps a second
 * mailroomd off its data, how many shards it has, and its tree.
 *
 * Files in the data folder that are the supervisor's:
 *   lock     flock'ed while any process of the node lives; holds the pid
 *   shards   the number of shards, written once, never changed after
 */
#ifndef MAILROOM_SUPERVISOR_NODE_H
#define MAILROOM_SUPERVISOR_NODE_H

#include "base/config.h"
#include "base/err.h"
#include "supervisor/tree.h"

enum { NODE_LOCK_WAIT_MS = 5000 };

/* Make the data and run folders, take the lock (*lock, the caller's to close),
 * settle config->shards. Waits up to NODE_LOCK_WAIT_MS for the dying processes
 * of a supervisor that was killed. ERR_BUSY: another mailroomd runs on it.
 * ERR_INVALID: shards or ports do not fit the folder. ERR_IO: the rest. */
enum err node_open(struct config *config, int *lock, struct err_detail *detail);

/* The node's children into out[TREE_CHILDREN_MAX]; returns how many. */
unsigned node_children(const struct config *config, struct child_spec *out);
/* How many restarts in that many seconds end the node. */
unsigned node_restarts_max(const struct config *config);

#endif

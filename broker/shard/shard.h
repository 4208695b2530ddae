// SPDX-License-Identifier: Apache-2.0
/* The shard's process: partitions with their journal, replication and dispatch;
 * no client bytes. README.md in this folder tells the life of a message here. */
#ifndef MAILROOM_SHARD_SHARD_H
#define MAILROOM_SHARD_SHARD_H

struct child;

/* Runs until the supervisor says stop; returns the exit code. */
int shard_main(struct child *child);

#endif

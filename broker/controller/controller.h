// SPDX-License-Identifier: Apache-2.0
/* The controller's process: membership, heartbeats, the metadata group, and,
 * while it leads that group, every decision on partitions. README.md in this
 * folder tells the life of a failure here. */
#ifndef MAILROOM_CONTROLLER_CONTROLLER_H
#define MAILROOM_CONTROLLER_CONTROLLER_H

struct child;

/* Runs until the supervisor says stop; returns the exit code. */
int controller_main(struct child *child);

#endif

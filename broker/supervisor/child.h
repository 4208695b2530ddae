// SPDX-License-Identifier: Apache-2.0
/*
 * A child's side of the supervisor: what each role's process is told, and what
 * it tells. One struct child a process; all calls on the loop's thread.
 *
 * A role is `int shard_main(struct child *child)`; its return value is the exit
 * code. The loop of a role:
 *
 *     open own sockets at child_own_path(), recover (child_beat while at it)
 *     child_ready(child)
 *     forever: poll child_fd() and the role's own descriptors, at most
 *              child_beat_interval() long
 *              child_beat(child)
 *              while (child_next(child, &event)) on_child_event(...)
 *     on CHILD_EVENT_STOP: finish in order and return 0 within the deadline
 *
 * Children ignore SIGINT, SIGTERM and SIGHUP (they reach the supervisor, which
 * asks the children in order) and die with the supervisor.
 */
#ifndef MAILROOM_SUPERVISOR_CHILD_H
#define MAILROOM_SUPERVISOR_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/config.h"
#include "base/units.h"

struct child;
struct board_view;

enum {
    CHILD_ROLE_BYTES = 16,
    CHILD_PATH_BYTES = 108,
    /* Exit codes with a meaning for the supervisor; others mean "restart me". */
    CHILD_EXIT_OPERATOR = 78, /* do not restart me, an operator must look */
    /* A partition that crashed its shard so often in a row is quarantined. */
    CHILD_CRASHES_QUARANTINE = 3
};

/* Another process of this node, while it is ready. */
struct child_peer {
    char role[CHILD_ROLE_BYTES];
    unsigned index;
    uint32_t instance; /* grows with each start of any child of this supervisor */
    pid_t pid;
    char path[CHILD_PATH_BYTES]; /* its ipc socket, unique to the instance */
};

enum child_event_kind {
    CHILD_EVENT_STOP = 1, /* asked to stop: finish and return */
    CHILD_EVENT_PEER_UP,  /* also for those that were ready before this child started */
    CHILD_EVENT_PEER_DOWN /* that instance's process is gone, not merely silent */
};

struct child_event {
    enum child_event_kind kind;
    struct child_peer peer; /* PEER_UP, PEER_DOWN */
};

/* For main: take over what the supervisor left in the inherited descriptors.
 * Never returns NULL: a process without a supervisor exits with a message. */
struct child *child_open(const char *role, unsigned index);
void child_close(struct child *child);

/* Becomes readable when child_next has something; level-triggered. */
int child_fd(const struct child *child);
/* False when there is nothing more now. A supervisor that is gone ends the process. */
bool child_next(struct child *child, struct child_event *out);

/* This instance serves. Once. */
void child_ready(struct child *child);
/* The loop has turned; any thread of a long recovery may call it too. A child
 * that has not for failure.watchdog is aborted and restarted. */
void child_beat(struct child *child);
/* How long a loop may wait at most between two beats. */
usec_t child_beat_interval(const struct child *child);

/* Crash attribution: the partition the next instructions work on; 0 = none. */
void child_working_on(struct child *child, uint64_t partition);
/* How many times in a row this shard's predecessors died while working on it.
 * From CHILD_CRASHES_QUARANTINE on the shard quarantines the partition. */
unsigned child_crashes(const struct child *child, uint64_t partition);
/* Walk all of them: start with *position = 0; false at the end. */
bool child_next_crash(const struct child *child, unsigned *position, uint64_t *partition, unsigned *count);
/* An operator released the partition: forget its crashes. */
void child_forgive(struct child *child, uint64_t partition);

const char *child_role(const struct child *child);
unsigned child_index(const struct child *child);
uint32_t child_instance(const struct child *child);
/* Where this instance listens for its node's other processes. */
const char *child_own_path(const struct child *child);
/* The configuration all processes of this supervisor's life see; shards is the
 * settled number. Lives as long as the child. */
const struct config *child_config(const struct child *child);

/* Ready peers in no order: start with *position = 0; NULL at the end. Valid
 * until the next child_next. */
const struct child_peer *child_next_peer(const struct child *child, unsigned *position);
const struct child_peer *child_find_peer(const struct child *child, const char *role, unsigned index);
/* A process's counters for counters_next (base/counters.h): COUNTERS_SEGMENT_BYTES
 * of mapped memory, or NULL if there is no such ready peer. One's own role and
 * index give one's own. Valid until the next child_next. */
const void *child_counters_of(const struct child *child, const char *role, unsigned index);
/* All processes' states and the last deaths (supervisor/board.h). False if the
 * supervisor was writing all the time: ask again. */
bool child_board(const struct child *child, struct board_view *out);

#endif

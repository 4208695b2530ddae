// SPDX-License-Identifier: Apache-2.0
/*
 * The failure detector: who is alive, per process and per node.
 *
 * A process is
 *   UP       its link is up and it was heard within the failure timeout
 *   SUSPECT  silent for longer than that; "unknown" is not "dead"
 *   DEAD     silent for one and a half failure timeouts
 *   GONE     reset and refused, or its supervisor said so: at once
 * and a node is
 *   ALIVE    its controller is up, or (for up to DETECTOR_CONTROLLER_GRACE_US
 *            without it) one of its shards is
 *   SUSPECT  its controller is away longer than that while shards live, or
 *            silent for the failure timeout
 *   DEAD     all its processes are gone or dead
 *
 * A late own wake-up (this process stood still) extends the deadlines by the
 * time that was lost: what was not read is not silence of the others.
 *
 * Pure; one thread; `now` is CLOCK_BOOTTIME. Changes come out of tick and the
 * events as a list in the order they happened.
 */
#ifndef MAILROOM_CLUSTER_DETECTOR_H
#define MAILROOM_CLUSTER_DETECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"
#include "replica/replica.h"

enum {
    DETECTOR_CONTROLLER = -1,               /* process index of a node's controller */
    DETECTOR_CONTROLLER_GRACE_US = 1000000, /* a controller may be away this long */
    DETECTOR_PROCESSES_MAX = 128 * 65
};

enum detector_health { DETECTOR_UNKNOWN, DETECTOR_UP, DETECTOR_SUSPECT, DETECTOR_DEAD, DETECTOR_GONE };
/* "up"; nodes: "alive", "suspect", "dead". */
const char *detector_health_name(enum detector_health h);
const char *detector_node_word(enum detector_health h);

struct detector_change {
    bool is_node;
    uint32_t node;
    int index;       /* process: shard index, or DETECTOR_CONTROLLER */
    member_t member; /* process */
    enum detector_health from, to;
    usec_t silent; /* how long it had not been heard */
};

struct detector_changes {
    struct detector_change *items;
    size_t count, capacity;
};
void detector_changes_clear(struct detector_changes *c);
void detector_changes_free(struct detector_changes *c);

struct detector;

/* timeout: of failure; heartbeat: how often everybody is heard. */
struct detector *detector_new(usec_t timeout, usec_t heartbeat, usec_t now);
void detector_free(struct detector *d);

/* A process to watch (again: its member, after it changed). It starts UNKNOWN and
 * turns DEAD if nothing is heard of it for one and a half timeouts. */
void detector_watch(struct detector *d, uint32_t node, int index, member_t member, usec_t now);
void detector_forget_node(struct detector *d, uint32_t node);

/* Any frame from the process. */
void detector_heard(struct detector *d, uint32_t node, int index, usec_t now, struct detector_changes *out);
/* Its link was reset and a dial was refused, or its supervisor says it is gone. */
void detector_gone(struct detector *d, uint32_t node, int index, usec_t now, struct detector_changes *out);
/* To be called at least every heartbeat. */
void detector_tick(struct detector *d, usec_t now, struct detector_changes *out);
usec_t detector_deadline(const struct detector *d);

enum detector_health detector_node(const struct detector *d, uint32_t node);
enum detector_health detector_process(const struct detector *d, uint32_t node, int index);
/* By member: UNKNOWN if nobody has it. */
enum detector_health detector_member(const struct detector *d, member_t member);
/* Since when a node is DEAD; USEC_NEVER while it is not. */
usec_t detector_dead_since(const struct detector *d, uint32_t node);

/* May lead and be asked: up, or only suspected. */
static inline bool detector_usable(enum detector_health h) {
    return h == DETECTOR_UP || h == DETECTOR_SUSPECT;
}

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A whole role (shard, controller) in this process: its main function on a
 * thread of its own with a supervisor that is not there (supervisor/child.h is
 * implemented here), links in memory (nng_memory.c) and its folder in a memory
 * file system. The target is every other process it talks to.
 */
#ifndef MAILROOM_TESTS_FUZZ_ROLE_H
#define MAILROOM_TESTS_FUZZ_ROLE_H

#include "fuzz.h"
#include "proto/frames.h"
#include "wire/frames.h"

struct child;
struct loop;
struct link;

enum { ROLE_ENDS = 4 };

/* The role's own identity is drawn at random: in frames this stands for it. */
#define ROLE_SELF 0x5e1f5e1f5e1f5e1full

/* Somebody at the other end of a link to the role. */
struct role_end {
    const char *role, *node; /* in its hello */
    unsigned index;
    uint64_t member;
    const char *url; /* which of the role's listeners it dials; NULL: its node's own */
    bool listens;    /* a shard of the controller's own node: the role dials it */
    struct role *of;
    struct link *link; /* NULL: not connected */
    bool welcome;
    bool known;       /* was welcomed once */
    uint64_t answers; /* to what role_settle asks */
};

struct role {
    const char *name;
    int (*main)(struct child *child);
    void (*begin)(struct role *r); /* once all are connected for the first time */
    bool asks;                     /* role_settle asks by a Request on end 0, not by a Ping on each */
    struct role_end ends[ROLE_ENDS];
    size_t ends_count;
    struct loop *loop; /* of the ends */
    struct listener *listener;
    uint64_t self; /* its identity, from its Welcome */
    unsigned inputs;
};

/* One input: frames as role_put makes them, to a role that has seen some before. */
void role_input(struct role *r, const uint8_t *data, size_t size);

/* Sends one frame from an end, if it is connected. */
void role_send(struct role *r, unsigned end, uint16_t type, const ProtobufCMessage *m, const void *body,
               size_t body_size);
/* Returns when the role has handled what was sent; ends whose links it refused are cut off. */
void role_settle(struct role *r);

/* For seeds: the same format. */
struct encoder;
void role_put(struct encoder *e, unsigned end, uint16_t type, const ProtobufCMessage *m, const void *body,
              size_t body_size);

#endif

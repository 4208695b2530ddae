// SPDX-License-Identifier: Apache-2.0
/* A gateway with real links in one loop: a controller, shards and clients that
 * do what the test says. */
#ifndef MAILROOM_TESTS_UNIT_GATEWAY_WORLD_H
#define MAILROOM_TESTS_UNIT_GATEWAY_WORLD_H

#include <criterion/criterion.h>

#include "base/body.h"
#include "gateway/gateway.h"
#include "wire/frames.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum { WORLD_SHARDS = 2, WORLD_PATH_BYTES = 96, WORLD_MAILBOX = 5, WORLD_P0 = 50, WORLD_P1 = 51 };

struct arrived {
    uint16_t type;
    void *message; /* unpacked */
    struct body *body;
    struct arrived *next;
};

/* The other end of one link of the gateway. */
struct end {
    struct world *world;
    struct link *link;            /* NULL: not connected */
    unsigned connected;           /* times */
    struct arrived *first, *last; /* not taken yet */
    void *taken;                  /* last message of end_expect */
    struct body *taken_body;
    uint16_t taken_type;
    /* a listening end */
    struct listener *listener;
    char path[WORLD_PATH_BYTES];
    const char *role;
    unsigned index;
    uint64_t member;
    bool closed;
};

struct world {
    struct loop *loop;
    struct config config;
    struct gateway *gateway;
    struct end controller;
    struct end shards[WORLD_SHARDS]; /* members 11, 12; 0 of this node, 1 of node n2 over tcp */
    struct end clients[4];
    bool stopped;
};

struct world *world_new(void);
void world_free(struct world *w);
/* Controller and shards up, the map sent: mailbox "orders" with two partitions,
 * both led by shard 0 in epoch 1, and it says so. */
struct world *world_ready(void);

void end_listen(struct end *e, const char *url);
/* The process dies: its listener and link are gone. */
void end_die(struct end *e);
struct end *client(struct world *w, unsigned n); /* dialled and welcomed */
struct end *client_dial(struct world *w, unsigned n);

/* The next frame of that type, others before it are thrown away; waits. The
 * message is valid until the next call. */
void *end_expect(struct end *e, uint16_t type);
/* What has come, in order: "SHARD_PUBLISH ATTACH"; forgets it. */
const char *end_heard(struct end *e);
void settle_down(struct world *w); /* turns until nothing moves */

void send_led(struct end *shard, uint64_t partition, uint64_t epoch);
void send_not_leading(struct end *shard, uint64_t partition);
void send_map(struct world *w, bool complete, uint64_t epoch, uint64_t leader);
struct body *batch_of(unsigned producer, uint64_t sequence, const char *text);

#define UNTIL(loop, condition)                                                                               \
    do {                                                                                                     \
        usec_t until_deadline = clock_now() + 10 * USEC_S;                                                   \
        while (!(condition)) {                                                                               \
            cr_assert(clock_now() < until_deadline, "did not come true: %s", #condition);                    \
            loop_turn((loop), 20 * USEC_MS);                                                                 \
        }                                                                                                    \
    } while (0)

#endif

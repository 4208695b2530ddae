// SPDX-License-Identifier: Apache-2.0
/*
 * The gateway: client sessions, their limits, and the way to the shards that
 * lead partitions. README.md tells the life of a publish and of a delivery.
 */
#ifndef MAILROOM_GATEWAY_GATEWAY_H
#define MAILROOM_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "base/units.h"

struct child;
struct gateway;
struct loop;

/* The process. Its exit code. */
int gateway_main(struct child *child);

/* ---- the same without a supervisor: for gateway_main and for tests ---- */

struct gateway_options {
    struct loop *loop;           /* not owned; call gateway_turn as its `turn` */
    const struct config *config; /* must outlive the gateway */
    uint32_t instance;           /* grows with each start */
    const char *client_url;      /* where to listen; NULL: as the configuration says */
    void (*stopped)(void *ctx);  /* gateway_stop is done */
    void *ctx;
};

/* NULL and *detail if it cannot listen. Copies options. */
struct gateway *gateway_new(const struct gateway_options *options, struct err_detail *detail);
/* Closes everything; links end in the loop's next turns (loop_drain). */
void gateway_free(struct gateway *g);
/* The url with the port it has. */
const char *gateway_url(const struct gateway *g);
/* End of the loop's turn: what was gathered is sent, once for all of it. */
void gateway_turn(struct gateway *g);
/* A process of this node ("controller", "shard") is there or gone. */
void gateway_peer_up(struct gateway *g, const char *role, unsigned index, const char *path);
void gateway_peer_down(struct gateway *g, const char *role, unsigned index, const char *path);
/* No more sessions; those there are told to go elsewhere. `stopped` when all
 * are gone, or their time is up. */
void gateway_stop(struct gateway *g);

#endif

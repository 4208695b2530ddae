// SPDX-License-Identifier: Apache-2.0
/*
 * Where things are: mailbox by name, its partitions, which shard leads each, and
 * where the shards listen. Two sources:
 *
 * - the map from this node's controller: what the metadata say;
 * - the shards themselves: "I lead these now", "I lead these no more". They are
 *   earlier by a round through the metadata.
 *
 * The higher epoch is right. Within one epoch the leader never changes; what a
 * shard says of itself stands above what the map says of it. Nothing is asked of
 * a leader before it has said so: the metadata name it before it leads.
 *
 * Pure: no socket, no clock. Pointers to mailboxes and partitions stay valid
 * until map_remove / map_clear.
 */
#ifndef MAILROOM_GATEWAY_MAP_H
#define MAILROOM_GATEWAY_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uthash.h>

#include "base/config.h"
#include "base/settings.h"
#include "base/units.h"

/* Waits below this are left to the leaders' own words. */
#define MAP_SLOW_US (5 * USEC_MS)

enum {
    MAP_STATE_BYTES = 24,   /* "no-majority" */
    MAP_ADDRESS_BYTES = 280 /* host:port */
};

struct map_mailbox;

struct map_partition {
    uint64_t id; /* in the cluster, never used twice */
    uint32_t number;
    struct map_mailbox *mailbox; /* NULL: a shard leads it, the controller has not named it yet */
    uint64_t epoch;              /* highest heard of */
    uint64_t leader;             /* member; 0: none known in this epoch */
    bool led;                    /* said by the shard itself, over a link that still stands */
    char state[MAP_STATE_BYTES];
    uint64_t *replicas; /* members */
    size_t replica_count;
    uint64_t wait_us;     /* load: a new message's expected wait, as its leader says */
    uint64_t measured_us; /* as this gateway sees it; 0 below MAP_SLOW_US */
    bool measured;        /* since the last map_cool */
    struct map_partition *next_slow, *prev_slow;
    UT_hash_handle hh;
};

struct map_subscription {
    char name[NAME_BYTES_MAX + 1];
};

struct map_mailbox {
    uint64_t id;
    char name[NAME_BYTES_MAX + 1];
    struct mailbox_settings settings;
    size_t partition_count;
    struct map_partition **partitions; /* by number; never NULL inside */
    size_t subscription_count;
    struct map_subscription *subscriptions;
    uint64_t loads_version; /* moves with each change of a load */
    bool stale;             /* not named yet by the complete map that is coming in */
    UT_hash_handle hh_id;
    UT_hash_handle hh_name;
};

/* A shard process. */
struct map_shard {
    uint64_t member; /* journal identity */
    char node[CONFIG_NAME_BYTES_MAX + 1];
    uint32_t index;
    char address[MAP_ADDRESS_BYTES]; /* of its cluster link */
    bool alive;
    UT_hash_handle hh;
};

struct map_node {
    char name[CONFIG_NAME_BYTES_MAX + 1];
    char state[MAP_STATE_BYTES];
    char client_address[MAP_ADDRESS_BYTES];
    UT_hash_handle hh;
};

struct map {
    bool known; /* a complete map was taken */
    uint64_t version;
    struct map_mailbox *by_id;
    struct map_mailbox *by_name;
    struct map_partition *partitions;
    struct map_shard *shards;   /* by member */
    struct map_node *nodes;     /* by name */
    struct map_partition *slow; /* those with measured_us */
};

void map_free(struct map *m);

/* ---- from the controller ---- */

struct map_partition_news {
    uint64_t id;
    uint32_t number;
    uint64_t leader;
    uint64_t epoch;
    const char *state;
    const uint64_t *replicas;
    size_t replica_count;
};

/* A complete map begins: what it does not name until map_end is gone. */
void map_begin(struct map *m);
/* `removed` is called for each mailbox before it goes. */
void map_end(struct map *m, void (*removed)(void *ctx, struct map_mailbox *box), void *ctx);
void map_node_put(struct map *m, const char *name, const char *state, const char *client_address);
/* A known member whose node or index differs, or one that took another's place, replaces it. */
void map_shard_put(struct map *m, uint64_t member, const char *node, uint32_t index, const char *address,
                   bool alive);
/* The mailbox, made or changed; its partitions and subscriptions follow. NULL:
 * the name or number of partitions is none (nothing changed). */
struct map_mailbox *map_mailbox_put(struct map *m, uint64_t id, const char *name,
                                    const struct mailbox_settings *settings);
/* True: its leader (or epoch) is another now. False also for a bad number. */
bool map_partition_put(struct map *m, struct map_mailbox *box, const struct map_partition_news *news);
void map_subscriptions_clear(struct map_mailbox *box);
void map_subscription_put(struct map_mailbox *box, const char *name);
void map_remove(struct map *m, struct map_mailbox *box);

/* ---- from the shards ---- */

/* member leads it in epoch. NULL: that is older than what is known. */
struct map_partition *map_led(struct map *m, uint64_t partition, uint64_t epoch, uint64_t member);
/* True: it was the leader known. */
bool map_not_leading(struct map *m, uint64_t partition, uint64_t member);
void map_load(struct map *m, uint64_t partition, uint64_t wait_us);

/* ---- from this gateway's own publishes ---- */

/* A leader that stands still says nothing of its load; its publishes' waits do.
 * A receipt came after `wait`, or one is waited for as long: the longest counts. */
void map_measure(struct map *m, uint64_t partition, usec_t wait);
/* Every 20 ms: what was not as long since is forgotten bit by bit, by half in
 * about half a second, so that it is tried again. */
void map_cool(struct map *m);
/* The greater of what is said and what is measured. */
uint64_t map_partition_load(const struct map_partition *p);

/* ---- questions ---- */

struct map_mailbox *map_find(const struct map *m, const char *name);
struct map_mailbox *map_find_id(const struct map *m, uint64_t id);
struct map_partition *map_find_partition(const struct map *m, uint64_t id);
const struct map_shard *map_find_shard(const struct map *m, uint64_t member);
/* Does every partition have its place (the map names all of them)? */
bool map_mailbox_whole(const struct map_mailbox *box);
bool map_has_subscription(const struct map_mailbox *box, const char *name);

#endif

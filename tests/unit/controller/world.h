// SPDX-License-Identifier: Apache-2.0
/*
 * A few controllers' cores over a tiny world: journals on disks in memory, links
 * that are a queue, one shard a node that does nothing. Time goes on by hand.
 */
#ifndef MAILROOM_TEST_CONTROLLER_WORLD_H
#define MAILROOM_TEST_CONTROLLER_WORLD_H

#include "controller/core.h"
#include "mem_disk.h"

enum { HOSTS_MAX = 4, MAILS_MAX = 4096, ANSWERS_MAX = 16, WORLD_STEP_US = 5000 };

struct world;

struct answer {
    uint64_t number;
    enum err code;
    char text[200];
};

struct host {
    struct world *world;
    int index;
    bool up;
    struct core core;
    struct config config;
    struct config_node initial[HOSTS_MAX];
    struct mem_disk *disk;
    struct journal *journal;
    uint64_t ticket;
    usec_t beat_at, tick_at;
    struct answer answers[ANSWERS_MAX];
    unsigned answers_count;
    unsigned passed_on;          /* requests, to others */
    uint64_t records, completes; /* ordered of shards */
};

struct mail;

struct world {
    usec_t now;
    int count;
    struct host hosts[HOSTS_MAX];
    bool cut[HOSTS_MAX]; /* no link leads to it or from it */
    struct mail *mails;
    size_t first, last;
};

/* `count` nodes n1, n2, .. of one `initial` list; none of them is up. */
struct world *world_new(int count);
void world_free(struct world *w);
/* Starts the controller, over its disk; its links come up. */
void world_start(struct world *w, int host);
/* Its only shard answers, with this identity. */
void world_shard(struct world *w, int host, member_t member);
/* Dies: links end and are refused. */
void world_kill(struct world *w, int host);
/* Until nothing is on its way; then on by so much. */
void world_run(struct world *w, usec_t how_long);
/* All of them, with shards 1001, 1002, .., until the cluster has formed. */
void world_form(struct world *w);
struct host *world_leader(struct world *w); /* NULL: nobody */
bool world_formed(const struct host *h);
/* An administration request of h's gateway; its answer comes into h->answers. */
void world_request(struct host *h, uint64_t number, const struct command *command, usec_t deadline);

#endif

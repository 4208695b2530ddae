// SPDX-License-Identifier: Apache-2.0
#include "gateway/map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/check.h"
#include "base/xalloc.h"

/* ---- questions ---- */

struct map_mailbox *map_find(const struct map *m, const char *name) {
    struct map_mailbox *box;
    HASH_FIND(hh_name, m->by_name, name, strlen(name), box);
    return box;
}

struct map_mailbox *map_find_id(const struct map *m, uint64_t id) {
    struct map_mailbox *box;
    HASH_FIND(hh_id, m->by_id, &id, sizeof id, box);
    return box;
}

struct map_partition *map_find_partition(const struct map *m, uint64_t id) {
    struct map_partition *p;
    HASH_FIND(hh, m->partitions, &id, sizeof id, p);
    return p;
}

const struct map_shard *map_find_shard(const struct map *m, uint64_t member) {
    struct map_shard *s;
    HASH_FIND(hh, m->shards, &member, sizeof member, s);
    return s;
}

bool map_mailbox_whole(const struct map_mailbox *box) {
    for (size_t i = 0; i < box->partition_count; i++)
        if (!box->partitions[i])
            return false;
    return true;
}

bool map_has_subscription(const struct map_mailbox *box, const char *name) {
    for (size_t i = 0; i < box->subscription_count; i++)
        if (strcmp(box->subscriptions[i].name, name) == 0)
            return true;
    return false;
}

/* ---- nodes and shards ---- */

static void copy_text(char *to, size_t capacity, const char *from) {
    snprintf(to, capacity, "%s", from ? from : "");
}

void map_node_put(struct map *m, const char *name, const char *state, const char *client_address) {
    struct map_node *n;
    HASH_FIND_STR(m->nodes, name, n);
    if (!n) {
        if (strlen(name) > CONFIG_NAME_BYTES_MAX)
            return;
        n = xcalloc(1, sizeof *n);
        copy_text(n->name, sizeof n->name, name);
        HASH_ADD_STR(m->nodes, name, n);
    }
    copy_text(n->state, sizeof n->state, state);
    copy_text(n->client_address, sizeof n->client_address, client_address);
}

/* A shard whose disk was replaced comes with another identity: the old one goes. */
static void shard_supersede(struct map *m, uint64_t member, const char *node, uint32_t index) {
    struct map_shard *s, *tmp;
    HASH_ITER(hh, m->shards, s, tmp) {
        if (s->member == member || s->index != index || strcmp(s->node, node) != 0)
            continue;
        HASH_DEL(m->shards, s);
        free(s);
    }
}

void map_shard_put(struct map *m, uint64_t member, const char *node, uint32_t index, const char *address,
                   bool alive) {
    if (member == 0)
        return;
    shard_supersede(m, member, node, index);
    struct map_shard *s;
    HASH_FIND(hh, m->shards, &member, sizeof member, s);
    if (!s) {
        s = xcalloc(1, sizeof *s);
        s->member = member;
        HASH_ADD(hh, m->shards, member, sizeof s->member, s);
    }
    copy_text(s->node, sizeof s->node, node);
    s->index = index;
    copy_text(s->address, sizeof s->address, address);
    s->alive = alive;
}

/* ---- partitions ---- */

static struct map_partition *partition_of(struct map *m, uint64_t id) {
    struct map_partition *p = map_find_partition(m, id);
    if (p)
        return p;
    p = xcalloc(1, sizeof *p);
    p->id = id;
    HASH_ADD(hh, m->partitions, id, sizeof p->id, p);
    return p;
}

static void partition_free(struct map *m, struct map_partition *p) {
    if (p->measured_us)
        DL_DELETE2(m->slow, p, prev_slow, next_slow);
    HASH_DEL(m->partitions, p);
    free(p->replicas);
    free(p);
}

/* In the epoch of what is known, the map names a leader only if none was known;
 * "no more" of a shard stays (leader 0, led). */
static bool partition_learn(struct map_partition *p, uint64_t epoch, uint64_t leader) {
    if (epoch < p->epoch || (epoch == p->epoch && (p->led || p->leader == leader)))
        return false;
    p->epoch = epoch;
    p->leader = leader;
    p->led = false;
    return true;
}

bool map_partition_put(struct map *m, struct map_mailbox *box, const struct map_partition_news *news) {
    if (news->number >= box->partition_count || news->id == 0)
        return false;
    struct map_partition *p = partition_of(m, news->id);
    struct map_partition *before = box->partitions[news->number];
    if ((p->mailbox && p->mailbox != box) || (before && before != p))
        return false;
    p->mailbox = box;
    p->number = news->number;
    box->partitions[news->number] = p;
    copy_text(p->state, sizeof p->state, news->state);
    p->replicas = xrealloc(p->replicas, (news->replica_count + 1) * sizeof *p->replicas);
    for (size_t i = 0; i < news->replica_count; i++)
        p->replicas[i] = news->replicas[i];
    p->replica_count = news->replica_count;
    return partition_learn(p, news->epoch, news->leader);
}

struct map_partition *map_led(struct map *m, uint64_t partition, uint64_t epoch, uint64_t member) {
    struct map_partition *p = partition_of(m, partition);
    if (epoch < p->epoch)
        return NULL;
    p->epoch = epoch;
    p->leader = member;
    p->led = true;
    return p;
}

bool map_not_leading(struct map *m, uint64_t partition, uint64_t member) {
    struct map_partition *p = map_find_partition(m, partition);
    if (!p || p->leader != member || member == 0)
        return false;
    p->leader = 0;
    p->led = true;
    return true;
}

void map_load(struct map *m, uint64_t partition, uint64_t wait_us) {
    struct map_partition *p = map_find_partition(m, partition);
    if (!p || !p->mailbox || p->wait_us == wait_us)
        return;
    p->wait_us = wait_us;
    p->mailbox->loads_version++;
}

/* ---- loads ---- */

uint64_t map_partition_load(const struct map_partition *p) {
    return p->measured_us > p->wait_us ? p->measured_us : p->wait_us;
}

static void set_measured(struct map *m, struct map_partition *p, uint64_t wait) {
    uint64_t before = map_partition_load(p);
    if (wait < MAP_SLOW_US)
        wait = 0;
    if (wait && !p->measured_us)
        DL_APPEND2(m->slow, p, prev_slow, next_slow);
    if (!wait && p->measured_us)
        DL_DELETE2(m->slow, p, prev_slow, next_slow);
    p->measured_us = wait;
    if (p->mailbox && map_partition_load(p) != before)
        p->mailbox->loads_version++;
}

void map_measure(struct map *m, uint64_t partition, usec_t wait) {
    struct map_partition *p = map_find_partition(m, partition);
    if (!p || wait < MAP_SLOW_US || (uint64_t)wait < p->measured_us)
        return;
    p->measured = true;
    set_measured(m, p, (uint64_t)wait);
}

void map_cool(struct map *m) {
    struct map_partition *p, *tmp;
    DL_FOREACH_SAFE2(m->slow, p, tmp, next_slow) {
        if (!p->measured)
            set_measured(m, p, p->measured_us - p->measured_us / 40);
        p->measured = false;
    }
}

/* ---- mailboxes ---- */

struct map_mailbox *map_mailbox_put(struct map *m, uint64_t id, const char *name,
                                    const struct mailbox_settings *settings) {
    struct map_mailbox *box = map_find_id(m, id);
    if (!name_valid(name) || settings->partitions == 0 || settings->partitions > MAILBOX_PARTITIONS_MAX)
        return NULL;
    if (box && (box->partition_count != settings->partitions || strcmp(box->name, name) != 0))
        return NULL; /* neither ever changes for an id */
    if (!box) {
        box = xcalloc(1, sizeof *box);
        box->id = id;
        copy_text(box->name, sizeof box->name, name);
        box->partition_count = settings->partitions;
        box->partitions = xcalloc(box->partition_count, sizeof *box->partitions);
        HASH_ADD(hh_id, m->by_id, id, sizeof box->id, box);
        /* one of that name that was deleted and made again: the new one has it */
        struct map_mailbox *old = map_find(m, name);
        if (old)
            HASH_DELETE(hh_name, m->by_name, old);
        HASH_ADD_KEYPTR(hh_name, m->by_name, box->name, strlen(box->name), box);
    }
    box->settings = *settings;
    box->stale = false;
    return box;
}

void map_subscriptions_clear(struct map_mailbox *box) {
    box->subscription_count = 0;
}

void map_subscription_put(struct map_mailbox *box, const char *name) {
    size_t n = box->subscription_count++;
    box->subscriptions = xrealloc(box->subscriptions, (n + 1) * sizeof *box->subscriptions);
    copy_text(box->subscriptions[n].name, sizeof box->subscriptions[n].name, name);
}

void map_remove(struct map *m, struct map_mailbox *box) {
    for (size_t i = 0; i < box->partition_count; i++)
        if (box->partitions[i])
            partition_free(m, box->partitions[i]);
    HASH_DELETE(hh_id, m->by_id, box);
    if (map_find(m, box->name) == box)
        HASH_DELETE(hh_name, m->by_name, box);
    free(box->partitions);
    free(box->subscriptions);
    free(box);
}

void map_begin(struct map *m) {
    struct map_mailbox *box, *tmp;
    HASH_ITER(hh_id, m->by_id, box, tmp) {
        box->stale = true;
    }
}

void map_end(struct map *m, void (*removed)(void *ctx, struct map_mailbox *box), void *ctx) {
    struct map_mailbox *box, *tmp;
    HASH_ITER(hh_id, m->by_id, box, tmp) {
        if (!box->stale)
            continue;
        removed(ctx, box);
        map_remove(m, box);
    }
    m->known = true;
}

void map_free(struct map *m) {
    struct map_mailbox *box, *tmp;
    struct map_partition *p, *tmp_p;
    struct map_shard *s, *tmp_s;
    struct map_node *n, *tmp_n;
    HASH_ITER(hh_id, m->by_id, box, tmp) {
        map_remove(m, box);
    }
    HASH_ITER(hh, m->partitions, p, tmp_p) {
        partition_free(m, p);
    }
    HASH_ITER(hh, m->shards, s, tmp_s) {
        HASH_DEL(m->shards, s);
        free(s);
    }
    HASH_ITER(hh, m->nodes, n, tmp_n) {
        HASH_DEL(m->nodes, n);
        free(n);
    }
    memset(m, 0, sizeof *m);
}

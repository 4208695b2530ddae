// SPDX-License-Identifier: Apache-2.0
/*
 * Links to shards: of this node over ipc (the supervisor says where), of other
 * nodes over tcp (the map says where). Each is kept; its shard is known by the
 * identity it says welcome with, because that is what the map calls a leader.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"

struct shard_link *shards_leader(const struct gateway *g, const struct map_partition *p) {
    struct shard_link *l;
    if (p->leader == 0 || !p->led)
        return NULL;
    HASH_FIND(hh, g->by_member, &p->leader, sizeof p->leader, l);
    return l && link_is_open(l->link) ? l : NULL;
}

struct shard_link *shards_owner(const struct gateway *g, uint64_t owner) {
    struct shard_link *l;
    DL_FOREACH(g->shards, l) {
        if (l->owner == owner && l->link)
            return l;
    }
    return NULL;
}

static struct shard_link *find(const struct gateway *g, const char *node, unsigned index) {
    struct shard_link *l;
    DL_FOREACH(g->shards, l) {
        if (l->index == index && strcmp(l->node, node) == 0)
            return l;
    }
    return NULL;
}

/* ---- up and down ---- */

static void lose_led(struct gateway *g, uint64_t member) {
    struct map_partition *p, *tmp;
    HASH_ITER(hh, g->map.partitions, p, tmp) {
        if (p->leader != member)
            continue;
        p->led = false;
        gateway_leader_lost(g, p);
    }
}

static void went_down(struct shard_link *l) {
    struct gateway *g = l->gateway;
    l->greeted_at = 0;
    if (!l->link)
        return;
    l->link = NULL;
    l->down_since = loop_now(g->loop);
    HASH_DEL(g->by_member, l);
    counters_sub(COUNTER_links, 1);
    publishes_forget(&g->publishes, l->owner);
    lose_led(g, l->member);
}

static void came_up(struct shard_link *l, struct link *link, uint64_t member) {
    struct gateway *g = l->gateway;
    struct shard_link *other;
    HASH_FIND(hh, g->by_member, &member, sizeof member, other);
    if (other) {
        /* the same disk behind two addresses: the newer one has it */
        struct link *old = other->link;
        went_down(other);
        link_close(old, ERR_CLOSED, "a newer link took its place");
    }
    l->link = link;
    l->member = member;
    l->owner = gateway_next_number(g);
    HASH_ADD(hh, g->by_member, member, sizeof l->member, l);
    counters_add(COUNTER_links, 1);
    /* what it leads it says in Led, first of all */
}

/* ---- frames ---- */

static void on_welcome(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__Welcome *m = header;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    if (hello_welcomed(link, &ours, m, &agreed) != ERR_OK)
        return;
    if (!m->identity || m->identity->member == 0 || strcmp(m->identity->role, "shard") != 0) {
        link_close(link, ERR_PROTOCOL, "the other end is no shard");
        return;
    }
    keep_settled(l->keep);
    came_up(l, link, m->identity->member);
}

static void on_fail(void *ctx, struct link *link, const void *header, struct body *body) {
    const struct shard_link *l = ctx;
    const Mr__Fail *m = header;
    log_warn("shard %s/%u: %s (%s)", l->node, l->index, m->text, err_name((int)m->code));
}

static void on_ping(void *ctx, struct link *link, const void *header, struct body *body) {
    const Mr__Ping *m = header;
    Mr__Pong pong = MR__PONG__INIT;
    pong.sent_at = m->sent_at;
    frame_send_pong(link, &pong, NULL, 0);
}

static void on_goaway(void *ctx, struct link *link, const void *header, struct body *body) {
    /* its leaderships are moving: NotLeading and the map say where to */
}

static void present(struct shard_link *l, const Mr__Led *led) {
    Mr__Presented m = MR__PRESENTED__INIT;
    m.leading = led->leading;
    m.n_leading = led->n_leading;
    frame_send_presented(l->link, &m, NULL, 0);
}

static void on_led(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    struct gateway *g = l->gateway;
    const Mr__Led *m = header;
    for (size_t i = 0; i < m->n_leading; i++) {
        uint64_t id = m->leading[i]->partition;
        struct map_partition *known = map_find_partition(&g->map, id);
        uint64_t epoch = m->leading[i]->epoch;
        if (known && (known->epoch < epoch || (known->epoch == epoch && known->leader != l->member)))
            gateway_leader_lost(g, known);
        struct map_partition *p = map_led(&g->map, id, epoch, l->member);
        if (p)
            gateway_leader_found(g, p);
    }
    present(l, m);
}

static void on_not_leading(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__NotLeading *m = header;
    for (size_t i = 0; i < m->n_partitions; i++)
        if (map_not_leading(&l->gateway->map, m->partitions[i], l->member))
            gateway_leader_lost(l->gateway, map_find_partition(&l->gateway->map, m->partitions[i]));
}

static void on_partition_loads(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__PartitionLoads *m = header;
    for (size_t i = 0; i < m->n_loads; i++)
        map_load(&l->gateway->map, m->loads[i]->partition, m->loads[i]->wait_us);
}

static const frame_handler from_stranger[FRAME_TYPES] = {
    [FRAME_WELCOME] = on_welcome,
    [FRAME_FAIL] = on_fail,
    [FRAME_PING] = on_ping,
};

static const frame_handler from_shard[FRAME_TYPES] = {
    [FRAME_FAIL] = on_fail,
    [FRAME_PING] = on_ping,
    [FRAME_GOAWAY] = on_goaway,
    [FRAME_SHARD_RECEIPTS] = on_shard_receipts,
    [FRAME_ATTACHED] = on_attached,
    [FRAME_DETACHED] = on_detached,
    [FRAME_CREDIT_BACK] = on_credit_back,
    [FRAME_READY] = on_ready,
    [FRAME_SHARD_DELIVERY] = on_shard_delivery,
    [FRAME_SHARD_SETTLED] = on_shard_settled,
    [FRAME_LED] = on_led,
    [FRAME_NOT_LEADING] = on_not_leading,
    [FRAME_PARTITION_LOADS] = on_partition_loads,
    [FRAME_PARTITION_SHOWN] = on_partition_shown,
    [FRAME_PARTITION_PURGED] = on_partition_purged,
    [FRAME_FORWARD_PUBLISH] = on_forward_publish,
};

/* ---- the kept link ---- */

static void on_up(void *ctx, struct keep *keep, struct link *link) {
    struct shard_link *l = ctx;
    struct hello ours = hello_ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    gateway_identity(l->gateway, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)l->gateway->config->node;
    l->greeted_at = loop_now(l->gateway->loop);
    hello_send(link, &ours, &m);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct shard_link *l = ctx;
    if (l->link && l->link != link)
        return;
    frame_dispatch(l->link ? from_shard : from_stranger, l, link, frame);
}

static void on_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct shard_link *l = ctx;
    if (was_up && end->cause == LINK_END_PROTOCOL)
        log_warn("link to shard %s/%u ended: %s", l->node, l->index, end->text);
    went_down(l);
}

static const struct keep_handlers keep_handlers = {.up = on_up, .frame = on_frame, .down = on_down};

static void dial(struct shard_link *l, const char *url) {
    struct err_detail detail;
    struct keep_options options = {
        .handlers = &keep_handlers,
        .ctx = l,
        .silent = KEEP_SILENT_USEC,
        .asks = true,
        .link = {.frame_bytes = FRAME_BYTES_DEFAULT,
                 .header_bytes = FRAME_HEADER_BYTES_MAX,
                 .queued_bytes = l->gateway->publish_bytes + LINK_QUEUED_BYTES_DEFAULT}};
    l->keep = keep_new(l->gateway->loop, url, &options, &detail);
    if (!l->keep)
        log_error("shard %s/%u: %s", l->node, l->index, detail.text);
}

static struct shard_link *add(struct gateway *g, const char *node, unsigned index, bool local) {
    struct shard_link *l = xcalloc(1, sizeof *l);
    l->gateway = g;
    snprintf(l->node, sizeof l->node, "%s", node);
    l->index = index;
    l->local = local;
    l->down_since = loop_now(g->loop);
    DL_APPEND(g->shards, l);
    return l;
}

static void hang_up(struct shard_link *l) {
    went_down(l);
    if (l->keep)
        keep_free(l->keep);
    l->keep = NULL;
}

static void point_at(struct shard_link *l, const char *url) {
    if (!l->keep)
        dial(l, url);
    else if (strcmp(keep_url(l->keep), url) != 0)
        keep_redirect(l->keep, url, NULL);
}

void shards_local_up(struct gateway *g, unsigned index, const char *path) {
    struct shard_link *l = find(g, g->config->node, index);
    char url[LINK_PEER_BYTES];
    if (!l)
        l = add(g, g->config->node, index, true);
    snprintf(url, sizeof url, "ipc://%s", path);
    if (l->keep && strcmp(keep_url(l->keep), url) != 0)
        hang_up(l); /* another process is there now */
    point_at(l, url);
    if (l->keep)
        keep_hurry(l->keep);
}

void shards_local_down(struct gateway *g, unsigned index, const char *path) {
    struct shard_link *l = find(g, g->config->node, index);
    char url[LINK_PEER_BYTES];
    snprintf(url, sizeof url, "ipc://%s", path);
    if (l && l->keep && strcmp(keep_url(l->keep), url) == 0)
        hang_up(l);
}

/* ---- those the map names ---- */

static void follow(struct gateway *g, const struct map_shard *s) {
    char url[MAP_ADDRESS_BYTES + 8];
    struct shard_link *l = find(g, s->node, s->index);
    if (strcmp(s->node, g->config->node) == 0 || s->address[0] == 0)
        return;
    if (!l)
        l = add(g, s->node, s->index, false);
    snprintf(url, sizeof url, "tcp://%s", s->address);
    point_at(l, url);
}

static bool named(const struct gateway *g, const struct shard_link *l) {
    for (const struct map_shard *s = g->map.shards; s; s = s->hh.next)
        if (s->index == l->index && strcmp(s->node, l->node) == 0)
            return true;
    return false;
}

static void remove_link(struct gateway *g, struct shard_link *l) {
    hang_up(l);
    DL_DELETE(g->shards, l);
    free(l);
}

void shards_follow_map(struct gateway *g) {
    struct shard_link *l, *tmp;
    for (const struct map_shard *s = g->map.shards; s; s = s->hh.next)
        follow(g, s);
    DL_FOREACH_SAFE(g->shards, l, tmp) {
        if (!l->local && !named(g, l))
            remove_link(g, l);
    }
}

/* A leader the cluster holds on to, and no way to it from here. */
static const struct shard_link *out_of_reach(const struct gateway *g, usec_t now) {
    for (const struct map_partition *p = g->map.partitions; p; p = p->hh.next) {
        if (p->leader == 0 || p->led)
            continue;
        const struct map_shard *s = map_find_shard(&g->map, p->leader);
        const struct shard_link *l = s ? find(g, s->node, s->index) : NULL;
        if (l && !l->link && now - l->down_since > GATEWAY_CUT_US)
            return l;
    }
    return NULL;
}

/* Another node's gateway may have a way: the library goes there, and comes back
 * here if it must. */
static void send_away(struct gateway *g, usec_t now) {
    char why[ERR_DETAIL_BYTES];
    const struct shard_link *l = g->stopping || now < g->next_away ? NULL : out_of_reach(g, now);
    if (!l || !g->sessions)
        return;
    g->next_away = now + GATEWAY_AWAY_EVERY_US;
    snprintf(why, sizeof why, "shard %s/%u is out of this node's reach", l->node, l->index);
    log_warn("%s: clients are sent to other nodes", why);
    sessions_goaway(g, why);
}

void shards_scan(struct gateway *g) {
    struct shard_link *l;
    usec_t now = loop_now(g->loop) - loop_late(g->loop);
    DL_FOREACH(g->shards, l) {
        struct link *link = l->keep ? keep_link(l->keep) : NULL;
        if (link && !l->link && l->greeted_at && now - l->greeted_at > HELLO_TIMEOUT_USEC)
            link_close(link, ERR_TIMEOUT, "no WELCOME in time");
    }
    send_away(g, now);
}

void shards_close(struct gateway *g) {
    struct shard_link *l, *tmp;
    DL_FOREACH_SAFE(g->shards, l, tmp)
    remove_link(g, l);
}

// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"

enum event_kind { EVENT_MESSAGE, EVENT_STORED, EVENT_CALL };

struct event {
    enum event_kind kind;
    usec_t at;
    uint64_t order;
    member_t from, to;
    uint64_t life;
    uint64_t partition;
    struct replica_effect effect;
    uint64_t mark;
    world_call *call;
    void *argument;
};

struct world {
    struct world_hooks hooks;
    void *ctx;
    bool config_in_log;
    struct rng rng;
    usec_t now, tick_at;
    uint64_t order;
    struct event **events; /* heap: earliest first */
    size_t count, capacity;
    struct host hosts[WORLD_MEMBERS_MAX];
    size_t hosts_count;
    bool cut[WORLD_MEMBERS_MAX][WORLD_MEMBERS_MAX];
};

struct world *world_new(const struct world_hooks *hooks, void *ctx, bool config_in_log, uint64_t seed) {
    struct world *w = xcalloc(1, sizeof *w);
    w->hooks = *hooks;
    w->ctx = ctx;
    w->config_in_log = config_in_log;
    w->rng.state = seed;
    w->now = USEC_S;
    w->tick_at = w->now;
    return w;
}

usec_t world_now(const struct world *w) {
    return w->now;
}

struct rng *world_rng(struct world *w) {
    return &w->rng;
}

/* ---- the heap of events ---- */

static bool before(const struct event *a, const struct event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void event_add(struct world *w, struct event *e) {
    xgrow(&w->events, &w->capacity, w->count + 1, sizeof *w->events);
    e->order = ++w->order;
    size_t at = w->count++;
    for (; at > 0 && before(e, w->events[(at - 1) / 2]); at = (at - 1) / 2)
        w->events[at] = w->events[(at - 1) / 2];
    w->events[at] = e;
}

static struct event *event_take(struct world *w) {
    struct event *first = w->events[0], *last = w->events[--w->count];
    size_t at = 0;
    for (size_t child = 1; child < w->count; child = 2 * at + 1) {
        if (child + 1 < w->count && before(w->events[child + 1], w->events[child]))
            child++;
        if (!before(w->events[child], last))
            break;
        w->events[at] = w->events[child];
        at = child;
    }
    w->events[at] = last;
    return first;
}

static void event_free(struct event *e) {
    struct replica_effects one = {.items = &e->effect, .count = e->kind == EVENT_MESSAGE, .capacity = 1};
    replica_effects_clear(&one);
    free(e->argument);
    free(e);
}

/* ---- hosts and copies ---- */

struct host *world_host(struct world *w, member_t m) {
    for (size_t i = 0; i < w->hosts_count; i++) {
        if (w->hosts[i].member == m)
            return &w->hosts[i];
    }
    cr_assert_lt(w->hosts_count, WORLD_MEMBERS_MAX);
    struct host *h = &w->hosts[w->hosts_count++];
    *h = (struct host){.member = m, .alive = true, .world = w};
    return h;
}

static void copy_open(struct copy *c) {
    struct replica_options options = {
        .self = c->host->member, .synced = true, .config_in_log = c->host->world->config_in_log};
    struct replica_state state = {.promise = c->promise,
                                  .candidate = c->candidate,
                                  .entries = c->entries,
                                  .entries_count = c->entries_count,
                                  .doubtful = c->doubtful,
                                  .damage = c->host->life << 20};
    c->applied = 0;
    c->r = replica_new(&options, &state);
}

struct copy *world_copy(struct host *h, uint64_t partition) {
    for (struct copy *c = h->copies; c; c = c->next) {
        if (c->partition == partition)
            return c;
    }
    return NULL;
}

struct copy *world_copy_make(struct host *h, uint64_t partition) {
    struct copy *c = world_copy(h, partition);
    if (c)
        return c;
    c = xcalloc(1, sizeof *c);
    c->partition = partition;
    c->host = h;
    c->next = h->copies;
    h->copies = c;
    copy_open(c);
    return c;
}

static void entries_cut(struct copy *c, uint64_t keep) {
    while (c->entries_count > keep)
        body_drop(c->entries[--c->entries_count].body);
}

void world_drop(struct copy *c) {
    c->promise = replica_promise(c->r) > c->promise ? replica_promise(c->r) : c->promise;
    replica_free(c->r);
    entries_cut(c, 0);
    copy_open(c);
}

static void peers_told(struct world *w, member_t m, bool up) {
    struct replica_effects fx = {0};
    for (size_t i = 0; i < w->hosts_count; i++) {
        struct host *h = &w->hosts[i];
        for (struct copy *c = h->copies; h->alive && h->member != m && c; c = c->next) {
            if (up)
                replica_peer_up(c->r, m, w->now, &fx);
            else
                replica_peer_down(c->r, m, w->now, &fx);
            world_carry(c, &fx);
        }
    }
    replica_effects_free(&fx);
}

void world_kill(struct world *w, member_t m) {
    struct host *h = world_host(w, m);
    cr_assert(h->alive);
    h->alive = false;
    h->life++;
    for (struct copy *c = h->copies; c; c = c->next) {
        replica_free(c->r);
        c->r = NULL;
    }
    peers_told(w, m, false);
}

void world_power_lost(struct world *w, member_t m, uint64_t entries) {
    struct host *h = world_host(w, m);
    cr_assert_not(h->alive);
    for (struct copy *c = h->copies; c; c = c->next) {
        for (size_t i = 0; i < c->entries_count; i++) /* what an entry implies is synced */
            c->promise = c->entries[i].epoch > c->promise ? c->entries[i].epoch : c->promise;
        c->doubtful = c->entries_count > 0;
        for (; entries && c->entries_count && c->entries[c->entries_count - 1].type != ENTRY_EPOCH; entries--)
            entries_cut(c, c->entries_count - 1);
    }
}

void world_start(struct world *w, member_t m) {
    struct host *h = world_host(w, m);
    cr_assert(!h->alive);
    h->alive = true;
    for (struct copy *c = h->copies; c; c = c->next)
        copy_open(c);
    peers_told(w, m, true);
}

static size_t position(const struct world *w, member_t m) {
    for (size_t i = 0; i < w->hosts_count; i++) {
        if (w->hosts[i].member == m)
            return i;
    }
    cr_assert_fail("no member %lu", m);
    return 0;
}

void world_cut(struct world *w, member_t a, member_t b, bool cut) {
    size_t x = position(w, a), y = position(w, b);
    w->cut[x][y] = w->cut[y][x] = cut;
}

bool world_cut_off(const struct world *w, member_t a, member_t b) {
    return w->cut[position(w, a)][position(w, b)];
}

void world_free(struct world *w) {
    while (w->count)
        event_free(event_take(w));
    for (size_t i = 0; i < w->hosts_count; i++) {
        while (w->hosts[i].copies) {
            struct copy *c = w->hosts[i].copies;
            w->hosts[i].copies = c->next;
            if (c->r)
                replica_free(c->r);
            entries_cut(c, 0);
            free(c->entries);
            free(c);
        }
    }
    free(w->events);
    free(w);
}

/* ---- effects ---- */

static void keep_entry(struct copy *c, const struct entry *e) {
    cr_assert_eq(e->index, c->entries_count + 1);
    xgrow(&c->entries, &c->entries_capacity, c->entries_count + 1, sizeof *c->entries);
    c->entries[c->entries_count++] = *e;
    body_keep(e->body);
}

static void message(struct copy *c, struct replica_effect *e, member_t to) {
    struct world *w = c->host->world;
    struct event *v = xcalloc(1, sizeof *v);
    *v = (struct event){.kind = EVENT_MESSAGE,
                        .at = w->now + WORLD_TRIP_US,
                        .from = c->host->member,
                        .to = to,
                        .life = world_host(w, to)->life,
                        .partition = c->partition,
                        .effect = *e};
    e->type = REPLICA_REPORT_DAMAGED; /* moved: nothing in it to clear */
    if (world_cut_off(w, v->from, to))
        event_free(v);
    else
        event_add(w, v);
}

static bool journals(enum replica_effect_type type) {
    return type == REPLICA_WRITE || type == REPLICA_TRUNCATE || type == REPLICA_PROMISE ||
           type == REPLICA_MARK_DAMAGED || type == REPLICA_MARK_WHOLE;
}

static void do_fetch(struct copy *c, const struct replica_effect *e) {
    struct replica_effects fx = {0};
    replica_fetched(c->r, e->fetch.reader, e->fetch.from, c->entries + e->fetch.from - 1,
                    e->fetch.to - e->fetch.from + 1, false, c->host->world->now, &fx);
    world_carry(c, &fx);
    replica_effects_free(&fx);
}

static void do_effect(struct copy *c, struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_WRITE:
        keep_entry(c, &e->entry);
        break;
    case REPLICA_TRUNCATE:
        entries_cut(c, e->index);
        break;
    case REPLICA_PROMISE:
        c->promise = e->promise.epoch;
        c->candidate = e->promise.candidate;
        break;
    case REPLICA_FETCH:
        do_fetch(c, e);
        break;
    case REPLICA_SEND_APPEND:
        message(c, e, e->append.to);
        break;
    case REPLICA_SEND_APPENDED:
        message(c, e, e->appended.to);
        break;
    case REPLICA_APPLY:
        c->applied = e->entry.index;
        c->host->world->hooks.effect(c->host->world->ctx, c, e);
        break;
    case REPLICA_MARK_WHOLE:
        c->doubtful = false;
        break;
    case REPLICA_MARK_DAMAGED:
        break;
    default:
        c->host->world->hooks.effect(c->host->world->ctx, c, e);
    }
}

void world_carry(struct copy *c, struct replica_effects *fx) {
    struct world *w = c->host->world;
    struct replica_effects mine = *fx; /* a hook may fill *fx again */
    uint64_t life = c->host->life;
    bool journal = false;
    *fx = (struct replica_effects){0};
    for (size_t i = 0; i < mine.count; i++) {
        journal |= journals(mine.items[i].type);
        do_effect(c, &mine.items[i]);
    }
    replica_effects_free(&mine);
    if (!c->host->alive || life != c->host->life || !journal)
        return;
    struct event *v = xcalloc(1, sizeof *v);
    *v = (struct event){.kind = EVENT_STORED,
                        .at = w->now + WORLD_SYNC_US,
                        .to = c->host->member,
                        .life = life,
                        .partition = c->partition,
                        .mark = replica_mark(c->r)};
    event_add(w, v);
}

void world_later(struct world *w, usec_t delay, member_t to, world_call *call, const void *argument,
                 size_t size) {
    struct event *v = xcalloc(1, sizeof *v);
    *v = (struct event){.kind = EVENT_CALL, .at = w->now + delay, .to = to, .call = call};
    v->life = to ? world_host(w, to)->life : 0;
    v->argument = xmalloc(size + 1);
    memcpy(v->argument, argument, size);
    event_add(w, v);
}

/* ---- time ---- */

static void pump(struct copy *c, struct replica_effects *fx) {
    if (replica_dirty(c->r)) {
        replica_pump(c->r, c->host->world->now, fx);
        world_carry(c, fx);
    }
}

static void deliver(struct world *w, struct copy *c, struct event *v) {
    struct replica_effects fx = {0};
    if (v->kind == EVENT_STORED) {
        replica_stored(c->r, v->mark, true, w->now, &fx);
    } else if (v->effect.type == REPLICA_SEND_APPEND) {
        if (w->hooks.append)
            w->hooks.append(w->ctx, c, &v->effect.append);
        replica_on_append(c->r, &v->effect.append, w->now, &fx);
    } else {
        replica_on_appended(c->r, &v->effect.appended, w->now, &fx);
    }
    world_carry(c, &fx);
    pump(c, &fx);
    replica_effects_free(&fx);
}

static void happen(struct world *w, struct event *v) {
    struct host *h = v->to ? world_host(w, v->to) : NULL;
    if (h && (!h->alive || h->life != v->life))
        return;
    if (v->kind == EVENT_CALL) {
        v->call(w->ctx, v->argument);
        return;
    }
    struct copy *c = world_copy(h, v->partition);
    if (c)
        deliver(w, c, v);
}

static void tick(struct world *w) {
    struct replica_effects fx = {0};
    for (size_t i = 0; i < w->hosts_count; i++) {
        for (struct copy *c = w->hosts[i].copies; w->hosts[i].alive && c; c = c->next) {
            if (replica_deadline(c->r) <= w->now) {
                replica_tick(c->r, w->now, &fx);
                world_carry(c, &fx);
            }
            pump(c, &fx);
        }
    }
    replica_effects_free(&fx);
    if (w->hooks.tick)
        w->hooks.tick(w->ctx);
}

void world_run(struct world *w, usec_t span) {
    usec_t until = w->now + span;
    for (;;) {
        usec_t next = w->count && w->events[0]->at < w->tick_at ? w->events[0]->at : w->tick_at;
        if (next > until)
            break;
        w->now = next;
        if (w->count && w->events[0]->at == next) {
            struct event *v = event_take(w);
            happen(w, v);
            event_free(v);
        } else {
            w->tick_at += WORLD_GRAIN_US;
            tick(w);
        }
    }
    w->now = until;
}

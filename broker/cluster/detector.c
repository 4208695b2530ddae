// SPDX-License-Identifier: Apache-2.0
#include "cluster/detector.h"

#include <stdlib.h>
#include <string.h>

#include <uthash.h>

#include "base/check.h"
#include "base/xalloc.h"

struct process {
    struct {
        uint32_t node;
        int index;
    } key;
    member_t member;
    enum detector_health health;
    usec_t heard_at;
    UT_hash_handle hh;
    UT_hash_handle by_member;
};

struct node {
    uint32_t id;
    enum detector_health health;
    usec_t alone_since; /* its controller is away since; USEC_NEVER */
    usec_t dead_since;
    bool changed; /* a process of it did, since the node was judged */
    UT_hash_handle hh;
};

struct detector {
    usec_t timeout;
    usec_t heartbeat;
    usec_t ticked_at;
    struct process *processes;
    struct process *members;
    struct node *nodes;
};

const char *detector_health_name(enum detector_health h) {
    static const char *const names[] = {"unknown", "up", "suspect", "dead", "gone"};
    return names[h];
}

const char *detector_node_word(enum detector_health h) {
    return h == DETECTOR_UP ? "alive" : h == DETECTOR_DEAD || h == DETECTOR_GONE ? "dead" : "suspect";
}

void detector_changes_clear(struct detector_changes *c) {
    c->count = 0;
}

void detector_changes_free(struct detector_changes *c) {
    free(c->items);
    *c = (struct detector_changes){0};
}

static void changed(struct detector_changes *out, const struct detector_change *change) {
    xgrow(&out->items, &out->capacity, out->count + 1, sizeof *out->items);
    out->items[out->count++] = *change;
}

/* ---- tables ---- */

struct detector *detector_new(usec_t timeout, usec_t heartbeat, usec_t now) {
    struct detector *d = xcalloc(1, sizeof *d);
    d->timeout = timeout;
    d->heartbeat = heartbeat;
    d->ticked_at = now;
    return d;
}

static void process_free(struct detector *d, struct process *p) {
    HASH_DEL(d->processes, p);
    if (p->member)
        HASH_DELETE(by_member, d->members, p);
    free(p);
}

void detector_free(struct detector *d) {
    if (!d)
        return;
    struct process *p, *next;
    HASH_ITER(hh, d->processes, p, next)
    process_free(d, p);
    struct node *n, *following;
    HASH_ITER(hh, d->nodes, n, following) {
        HASH_DEL(d->nodes, n);
        free(n);
    }
    free(d);
}

static struct process *process_find(const struct detector *d, uint32_t node, int index) {
    struct process *p, key = {0};
    key.key.node = node;
    key.key.index = index;
    HASH_FIND(hh, d->processes, &key.key, sizeof key.key, p);
    return p;
}

static struct process *process_of(const struct detector *d, member_t member) {
    struct process *p;
    HASH_FIND(by_member, d->members, &member, sizeof member, p);
    return p;
}

static struct node *node_find(const struct detector *d, uint32_t id) {
    struct node *n;
    HASH_FIND(hh, d->nodes, &id, sizeof id, n);
    return n;
}

static struct node *node_make(struct detector *d, uint32_t id) {
    struct node *n = node_find(d, id);
    if (!n) {
        n = xcalloc(1, sizeof *n);
        *n = (struct node){.id = id, .alone_since = USEC_NEVER, .dead_since = USEC_NEVER};
        HASH_ADD(hh, d->nodes, id, sizeof n->id, n);
    }
    return n;
}

/* A member that moved to another process (a copied folder, a wiped disk) counts
 * for the one that was told last. */
static void process_rename(struct detector *d, struct process *p, member_t member) {
    if (p->member == member)
        return;
    if (p->member)
        HASH_DELETE(by_member, d->members, p);
    struct process *other = process_of(d, member);
    if (other) {
        HASH_DELETE(by_member, d->members, other);
        other->member = 0;
    }
    p->member = member;
    if (member)
        HASH_ADD(by_member, d->members, member, sizeof p->member, p);
}

void detector_watch(struct detector *d, uint32_t node, int index, member_t member, usec_t now) {
    struct process *p = process_find(d, node, index);
    if (!p) {
        CHECK(HASH_COUNT(d->processes) < DETECTOR_PROCESSES_MAX);
        p = xcalloc(1, sizeof *p);
        p->key.node = node;
        p->key.index = index;
        p->heard_at = now;
        HASH_ADD(hh, d->processes, key, sizeof p->key, p);
        node_make(d, node)->changed = true;
    }
    process_rename(d, p, member);
}

void detector_forget_node(struct detector *d, uint32_t id) {
    struct process *p, *next;
    HASH_ITER(hh, d->processes, p, next) {
        if (p->key.node == id)
            process_free(d, p);
    }
    struct node *n = node_find(d, id);
    if (n) {
        HASH_DEL(d->nodes, n);
        free(n);
    }
}

/* ---- judging ---- */

static void process_turn(struct detector *d, struct process *p, enum detector_health to, usec_t now,
                         struct detector_changes *out) {
    if (p->health == to)
        return;
    changed(out, &(struct detector_change){.node = p->key.node,
                                           .index = p->key.index,
                                           .member = p->member,
                                           .from = p->health,
                                           .to = to,
                                           .silent = now - p->heard_at});
    p->health = to;
    node_make(d, p->key.node)->changed = true;
}

struct tally {
    bool any_up, any_suspect, any_unknown;
    enum detector_health controller;
    usec_t heard_at;
};

static struct tally node_tally(const struct detector *d, uint32_t id) {
    struct tally t = {.controller = DETECTOR_UNKNOWN};
    for (struct process *p = d->processes; p; p = p->hh.next) {
        if (p->key.node != id)
            continue;
        t.any_up |= p->health == DETECTOR_UP;
        t.any_suspect |= p->health == DETECTOR_SUSPECT;
        t.any_unknown |= p->health == DETECTOR_UNKNOWN;
        if (p->key.index == DETECTOR_CONTROLLER)
            t.controller = p->health;
        if (p->heard_at > t.heard_at)
            t.heard_at = p->heard_at;
    }
    return t;
}

static enum detector_health node_health(const struct node *n, const struct tally *t, usec_t now) {
    if (t->controller == DETECTOR_UP)
        return DETECTOR_UP;
    if (t->any_up)
        return n->alone_since != USEC_NEVER && now - n->alone_since >= DETECTOR_CONTROLLER_GRACE_US
                   ? DETECTOR_SUSPECT
                   : DETECTOR_UP;
    if (t->any_suspect)
        return DETECTOR_SUSPECT;
    return t->any_unknown ? DETECTOR_UNKNOWN : DETECTOR_DEAD;
}

static void node_judge(struct detector *d, struct node *n, usec_t now, struct detector_changes *out) {
    struct tally t = node_tally(d, n->id);
    n->changed = false;
    if (t.controller == DETECTOR_UP)
        n->alone_since = USEC_NEVER;
    else if (n->alone_since == USEC_NEVER)
        n->alone_since = now;
    enum detector_health to = node_health(n, &t, now);
    if (to == n->health)
        return;
    n->dead_since = to == DETECTOR_DEAD ? now : USEC_NEVER;
    changed(out,
            &(struct detector_change){
                .is_node = true, .node = n->id, .from = n->health, .to = to, .silent = now - t.heard_at});
    n->health = to;
}

void detector_heard(struct detector *d, uint32_t node, int index, usec_t now, struct detector_changes *out) {
    struct process *p = process_find(d, node, index);
    if (!p)
        return;
    p->heard_at = now;
    if (p->health == DETECTOR_UP)
        return;
    process_turn(d, p, DETECTOR_UP, now, out);
    node_judge(d, node_find(d, node), now, out);
}

void detector_gone(struct detector *d, uint32_t node, int index, usec_t now, struct detector_changes *out) {
    struct process *p = process_find(d, node, index);
    if (!p || p->health == DETECTOR_GONE)
        return;
    process_turn(d, p, DETECTOR_GONE, now, out);
    node_judge(d, node_find(d, node), now, out);
}

/* This process stood still: nobody was read meanwhile. */
static void forgive(struct detector *d, usec_t now) {
    usec_t late = now - d->ticked_at - d->heartbeat;
    if (late < d->heartbeat)
        return;
    for (struct process *p = d->processes; p; p = p->hh.next)
        p->heard_at += late;
}

void detector_tick(struct detector *d, usec_t now, struct detector_changes *out) {
    forgive(d, now);
    d->ticked_at = now;
    for (struct process *p = d->processes; p; p = p->hh.next) {
        usec_t silent = now - p->heard_at;
        if (p->health == DETECTOR_GONE || p->health == DETECTOR_DEAD)
            continue;
        if (silent >= d->timeout + d->timeout / 2)
            process_turn(d, p, DETECTOR_DEAD, now, out);
        else if (silent >= d->timeout && p->health == DETECTOR_UP)
            process_turn(d, p, DETECTOR_SUSPECT, now, out);
    }
    for (struct node *n = d->nodes; n; n = n->hh.next) {
        if (n->changed || (n->alone_since != USEC_NEVER && n->health == DETECTOR_UP))
            node_judge(d, n, now, out);
    }
}

usec_t detector_deadline(const struct detector *d) {
    return d->ticked_at + d->heartbeat;
}

/* ---- questions ---- */

enum detector_health detector_node(const struct detector *d, uint32_t id) {
    const struct node *n = node_find(d, id);
    return n ? n->health : DETECTOR_UNKNOWN;
}

enum detector_health detector_process(const struct detector *d, uint32_t node, int index) {
    const struct process *p = process_find(d, node, index);
    return p ? p->health : DETECTOR_UNKNOWN;
}

enum detector_health detector_member(const struct detector *d, member_t member) {
    const struct process *p = process_of(d, member);
    return p ? p->health : DETECTOR_UNKNOWN;
}

usec_t detector_dead_since(const struct detector *d, uint32_t id) {
    const struct node *n = node_find(d, id);
    return n ? n->dead_since : USEC_NEVER;
}

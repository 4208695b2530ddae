// SPDX-License-Identifier: Apache-2.0
#include "gateway/publishes.h"

#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "proto/batch.h"

static struct publish_queue *queue_find(const struct publishes *t, uint64_t partition) {
    struct publish_queue *q;
    HASH_FIND(hh, t->queues, &partition, sizeof partition, q);
    return q;
}

static struct publish_queue *queue_of(struct publishes *t, uint64_t partition) {
    struct publish_queue *q = queue_find(t, partition);
    if (q)
        return q;
    q = xcalloc(1, sizeof *q);
    q->partition = partition;
    HASH_ADD(hh, t->queues, partition, sizeof q->partition, q);
    return q;
}

static struct publish_owner *owner_find(const struct publishes *t, uint64_t number) {
    struct publish_owner *o;
    HASH_FIND(hh, t->owners, &number, sizeof number, o);
    return o;
}

static struct publish_owner *owner_of(struct publishes *t, uint64_t number) {
    struct publish_owner *o = owner_find(t, number);
    if (o)
        return o;
    o = xcalloc(1, sizeof *o);
    o->number = number;
    HASH_ADD(hh, t->owners, number, sizeof o->number, o);
    return o;
}

static void queue_pend(struct publishes *t, struct publish_queue *q) {
    if (q->pending)
        return;
    q->pending = true;
    q->next_pending = t->pending;
    t->pending = q;
}

static void queue_hold(struct publish_queue *q, struct publish *p) {
    p->held = true;
    if (!q->first_held || p->number < q->first_held->number)
        q->first_held = p;
}

/* An empty queue goes, unless it still stands in the list of pending ones. */
static void queue_reap(struct publishes *t, struct publish_queue *q) {
    if (q->count > 0 || q->pending)
        return;
    HASH_DEL(t->queues, q);
    free(q);
}

struct publish *publishes_add(struct publishes *t, uint64_t owner, uint64_t request, uint64_t partition,
                              struct body *body, usec_t now) {
    struct publish *p = xcalloc(1, sizeof *p);
    struct publish_owner *o = owner_of(t, owner);
    struct publish_queue *q = queue_of(t, partition);
    p->number = ++t->last_number;
    p->owner = owner;
    p->request = request;
    p->queue = q;
    p->body = body_keep(body);
    p->deadline = now + PUBLISHES_DEADLINE_US;
    HASH_ADD(hh, t->by_number, number, sizeof p->number, p);
    DL_APPEND2(q->first, p, prev, next);
    q->count++;
    DL_APPEND2(o->first, p, prev_owned, next_owned);
    o->bytes += body->size;
    DL_APPEND2(t->oldest, p, prev_aged, next_aged);
    t->count++;
    t->bytes += body->size;
    queue_hold(q, p);
    /* one that waits for its retry takes the newcomer along then */
    if (q->retry_at == 0)
        queue_pend(t, q);
    return p;
}

struct publish *publishes_first(const struct publishes *t, uint64_t partition) {
    const struct publish_queue *q = queue_find(t, partition);
    return q ? q->first : NULL;
}

struct publish *publishes_find(struct publishes *t, uint64_t number) {
    struct publish *p;
    HASH_FIND(hh, t->by_number, &number, sizeof number, p);
    return p;
}

static struct publish *next_held(struct publish *p) {
    while (p && !p->held)
        p = p->next;
    return p;
}

void publishes_remove(struct publishes *t, struct publish *p) {
    struct publish_queue *q = p->queue;
    struct publish_owner *o = owner_find(t, p->owner);
    CHECK(o && o->bytes >= p->body->size && t->count > 0);
    if (q->first_held == p)
        q->first_held = next_held(p->next);
    HASH_DEL(t->by_number, p);
    DL_DELETE2(q->first, p, prev, next);
    q->count--;
    DL_DELETE2(o->first, p, prev_owned, next_owned);
    o->bytes -= p->body->size;
    DL_DELETE2(t->oldest, p, prev_aged, next_aged);
    t->count--;
    t->bytes -= p->body->size;
    if (!o->first) {
        HASH_DEL(t->owners, o);
        free(o);
    }
    queue_reap(t, q);
    body_drop(p->body);
    free(p);
}

void publishes_receipted(struct publishes *t, struct publish *p) {
    p->queue->retry_next = 0;
    publishes_remove(t, p);
}

void publishes_forget(struct publishes *t, uint64_t owner) {
    struct publish_owner *o;
    while ((o = owner_find(t, owner)))
        publishes_remove(t, o->first);
}

size_t publishes_owner_bytes(const struct publishes *t, uint64_t owner) {
    const struct publish_owner *o = owner_find(t, owner);
    return o ? o->bytes : 0;
}

struct publish_queue *publishes_next_pending(struct publishes *t) {
    while (t->pending) {
        struct publish_queue *q = t->pending;
        t->pending = q->next_pending;
        q->pending = false;
        if (q->count > 0)
            return q;
        queue_reap(t, q);
    }
    return NULL;
}

void publishes_send(struct publishes *t, struct publish_queue *q,
                    bool (*send)(void *ctx, const struct publish *p), void *ctx) {
    struct publish *p = q->first_held;
    while (p && send(ctx, p)) {
        p->held = false;
        p->was_sent = true;
        p = next_held(p->next);
    }
    q->first_held = p;
    q->retry_at = 0;
}

static bool same_producer(const struct publish *a, const struct publish *b) {
    struct batch_header x, y;
    batch_read_header(a->body->data, &x);
    batch_read_header(b->body->data, &y);
    return memcmp(&x.producer, &y.producer, sizeof x.producer) == 0;
}

/* An earlier batch of its producer is still here, so it was refused and is to be
 * sent again: then the gap is the gateway's own. */
static bool behind_another(const struct publish *p) {
    for (const struct publish *at = p->queue->first; at != p; at = at->next)
        if (same_producer(at, p))
            return true;
    return false;
}

static bool passes(const struct publish *p, enum err code) {
    switch (code) {
    case ERR_NOT_LEADER:
    case ERR_UNAVAILABLE:
    case ERR_BUSY:
        return true;
    case ERR_OUT_OF_ORDER:
        return behind_another(p);
    default:
        return false;
    }
}

bool publishes_refused(struct publishes *t, struct publish *p, enum err code, usec_t now) {
    struct publish_queue *q = p->queue;
    if (!passes(p, code))
        return false;
    queue_hold(q, p);
    if (q->retry_at == 0) {
        usec_t wait = q->retry_next ? q->retry_next : PUBLISHES_RETRY_MIN_US;
        q->retry_at = now + wait;
        q->retry_next = 2 * wait < PUBLISHES_RETRY_MAX_US ? 2 * wait : PUBLISHES_RETRY_MAX_US;
    }
    return true;
}

void publishes_lost(struct publishes *t, uint64_t partition) {
    struct publish_queue *q = queue_find(t, partition);
    if (!q)
        return;
    for (struct publish *p = q->first; p; p = p->next)
        queue_hold(q, p);
    q->retry_at = 0;
}

void publishes_leader(struct publishes *t, uint64_t partition) {
    struct publish_queue *q = queue_find(t, partition);
    if (!q)
        return;
    q->retry_at = 0;
    q->retry_next = 0;
    if (q->first_held)
        queue_pend(t, q);
}

usec_t publishes_tick(struct publishes *t, usec_t now) {
    struct publish_queue *q, *tmp;
    usec_t next = USEC_NEVER;
    HASH_ITER(hh, t->queues, q, tmp) {
        if (q->retry_at == 0)
            continue;
        if (q->retry_at <= now) {
            q->retry_at = 0;
            queue_pend(t, q);
        } else if (q->retry_at < next) {
            next = q->retry_at;
        }
    }
    return next;
}

usec_t publish_age(const struct publish *p, usec_t now) {
    return now - (p->deadline - PUBLISHES_DEADLINE_US);
}

struct publish *publishes_expired(const struct publishes *t, usec_t now) {
    return t->oldest && t->oldest->deadline <= now ? t->oldest : NULL;
}

void publishes_free(struct publishes *t) {
    while (t->oldest)
        publishes_remove(t, t->oldest);
    while (publishes_next_pending(t)) {
    }
    memset(t, 0, sizeof *t);
}

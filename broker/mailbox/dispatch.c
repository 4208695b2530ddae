// SPDX-License-Identifier: Apache-2.0
/*
 * Who gets what is ready. What came back goes first, in offset order; then first
 * deliveries by a cursor. A run goes to the consumer that is next in turn: the one
 * served least (round robin counts messages), or with the least work before it
 * (least-loaded), or the first attached (exclusive). By key: keys.c.
 */
#include <utlist.h>

#include "mailbox/state.h"

enum {
    QUANTUM_MAX = 256,          /* messages to one consumer before the next gets its turn */
    QUANTUM_SHARE = 32,         /* and at most this part of what each has had: fair within 1/32 */
    ANNOUNCE_GATEWAYS_MAX = 64, /* past it some hear READY twice */
    LAG_MAX = QUANTUM_MAX       /* how much a consumer that lacked credit catches up on others */
};

void dispatch_touch(struct subscription *s) {
    s->dirty = true;
}

uint64_t subscription_ready(const struct subscription *s) {
    return subscription_unsettled(s) - s->leases.total - s->delayed.total - s->dying;
}

/* ---- turns ---- */

void consumer_requeue(struct consumer *c) {
    struct subscription *s = c->subscription;
    if (!consumer_eligible(c)) {
        heap_remove(&s->eligible, &c->turn);
        return;
    }
    if (!c->turn.place && c->served < s->served - LAG_MAX)
        c->served = s->served - LAG_MAX;
    bool by_load = s->mailbox->settings.dispatch == DISPATCH_LEAST_LOADED;
    heap_put(&s->eligible, &c->turn, by_load ? (int64_t)(c->unsettled + 1) * c->service_ns : c->served);
}

struct consumer *dispatch_pick(struct subscription *s) {
    struct heap_node *n = heap_first(&s->eligible);
    return n ? OWNER_OF(n, struct consumer, turn) : NULL;
}

uint32_t dispatch_quantum(const struct subscription *s) {
    int64_t n = (int64_t)s->eligible.count;
    if (n <= 1)
        return UINT32_MAX;
    int64_t quantum = s->served_total / (n * QUANTUM_SHARE);
    return quantum < 1 ? 1 : quantum > QUANTUM_MAX ? QUANTUM_MAX : (uint32_t)quantum;
}

uint32_t run_messages_max(const struct batch_record *b) {
    uint32_t each = (b->bytes - BATCH_HEADER_BYTES) / b->count + 1;
    uint32_t fit = MAILBOX_RUN_BYTES_MAX / each;
    return fit < 1 ? 1 : fit > MAILBOX_RUN_MESSAGES_MAX ? MAILBOX_RUN_MESSAGES_MAX : fit;
}

static struct body *body_at_hand(const struct mailbox *m, const struct batch_record *b) {
    if (b->body)
        return body_keep(b->body);
    return m->fresh && m->fresh_index == b->index ? body_keep(m->fresh) : NULL;
}

void deliver(struct mailbox *m, struct subscription *s, struct consumer *c, struct batch_record *b,
             uint64_t first, uint32_t count, struct mark mark, struct mailbox_effects *fx) {
    struct mailbox_effect *e = effect_add(fx, MAILBOX_DELIVER);
    e->deliver.consumer = c->id;
    e->deliver.gateway = c->gateway;
    e->deliver.subscription = s->name;
    e->deliver.batch_index = b->index;
    e->deliver.base_offset = b->base;
    e->deliver.first_offset = first;
    e->deliver.count = count;
    e->deliver.epoch = m->epoch;
    e->deliver.delivery_number = mark.number;
    e->deliver.attempt = mark.attempts + 1;
    e->deliver.stamp = b->stamp;
    e->deliver.body = body_at_hand(m, b);
    lease_grant(m, s, c, first, first + count, m->epoch, mark.number);
    s->served = c->served;
    s->served_total += count;
    s->delivered_at = m->now;
    c->served += count;
    c->delivered += count;
    c->credit -= count;
    consumer_requeue(c);
}

/* ---- what is next ---- */

struct next {
    uint64_t first, stop;
    struct mark mark;
    struct batch_record *batch;
    bool back;
};

bool dispatch_fresh(struct subscription *s, uint64_t *first, uint64_t *stop, struct batch_record **b) {
    struct mailbox *m = s->mailbox;
    if (!ranges_gap(&s->settled, &s->cursor, m->next_offset, stop))
        return false;
    *first = s->cursor;
    *b = batches_at(&m->batches, *first);
    CHECK(*b);
    if (*stop > batch_end(*b))
        *stop = batch_end(*b);
    return true;
}

static bool next_back(struct subscription *s, struct next *n) {
    const struct range *r = ranges_from(&s->back, 0);
    if (!r)
        return false;
    n->back = true;
    n->first = r->first;
    n->stop = mark_run(s, r->first, r->end, &n->mark);
    n->batch = batches_at(&s->mailbox->batches, r->first);
    CHECK(n->batch);
    if (n->stop > batch_end(n->batch))
        n->stop = batch_end(n->batch);
    return true;
}

/* Exclusive: nothing overtakes what is delayed. */
static bool keep_order(const struct subscription *s, struct next *n) {
    if (s->mailbox->settings.dispatch != DISPATCH_EXCLUSIVE)
        return true;
    const struct range *delayed = ranges_from(&s->delayed, 0);
    if (delayed && delayed->first <= n->first)
        return false;
    if (delayed && delayed->first < n->stop)
        n->stop = delayed->first;
    return true;
}

static bool next_of(struct subscription *s, struct next *n) {
    *n = (struct next){0};
    if (!next_back(s, n) && !dispatch_fresh(s, &n->first, &n->stop, &n->batch))
        return false;
    return keep_order(s, n);
}

static uint32_t least(uint64_t a, uint32_t b) {
    return a < b ? (uint32_t)a : b;
}

static void deliver_next(struct mailbox *m, struct subscription *s, struct consumer *c, const struct next *n,
                         struct mailbox_effects *fx) {
    uint32_t count = least(n->stop - n->first, run_messages_max(n->batch));
    count = least(least(count, c->credit), dispatch_quantum(s));
    if (n->back)
        ranges_clear(&s->back, n->first, n->first + count);
    else
        s->cursor += count;
    deliver(m, s, c, n->batch, n->first, count, n->mark, fx);
}

static enum wait_reason dispatch_runs(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    struct next n;
    while (next_of(s, &n)) {
        if (limits_expired(m, n.batch)) {
            limits_expire_soon(m);
            return WAIT_NOTHING;
        }
        struct consumer *c = dispatch_pick(s);
        if (!c)
            return s->attached ? WAIT_CREDIT : WAIT_CONSUMER;
        deliver_next(m, s, c, &n, fx);
    }
    return WAIT_NOTHING;
}

/* ---- telling the gateways ---- */

void dispatch_announce(struct subscription *s, uint64_t gateway, struct mailbox_effects *fx) {
    struct mailbox_effect *e = effect_add(fx, MAILBOX_READY);
    e->ready.gateway = gateway;
    e->ready.subscription = s->name;
    e->ready.messages = subscription_ready(s);
}

/* Each gateway once, as long as they are not very many. */
static bool announced_before(uint64_t *seen, size_t *count, uint64_t gateway) {
    for (size_t i = 0; i < *count; i++)
        if (seen[i] == gateway)
            return true;
    if (*count < ANNOUNCE_GATEWAYS_MAX)
        seen[(*count)++] = gateway;
    return false;
}

void dispatch_announce_all(struct subscription *s, struct mailbox_effects *fx) {
    uint64_t seen[ANNOUNCE_GATEWAYS_MAX];
    size_t count = 0;
    struct consumer *c;
    DL_FOREACH(s->attached, c) {
        if (!c->lost && !announced_before(seen, &count, c->gateway))
            dispatch_announce(s, c->gateway, fx);
        c->announced = true;
        if (s->mailbox->settings.dispatch == DISPATCH_EXCLUSIVE)
            return;
    }
}

/* Consumers that are not served may hold what earlier epochs gave them. */
static bool others_hold(const struct subscription *s) {
    struct consumer *c;
    DL_FOREACH(s->attached, c)
    if (c != s->attached && c->unsettled)
        return true;
    return false;
}

/* Ordered dispatch stands still while something may come back in front. */
static bool order_waits(const struct mailbox *m, struct subscription *s) {
    s->handover &= s->leases.total > 0;
    if (m->settings.dispatch == DISPATCH_EXCLUSIVE)
        return m->limbo || (!MUTATED(return_overtaken) && (s->returning || s->handover || others_hold(s)));
    return m->settings.dispatch == DISPATCH_KEY && (m->limbo || s->returning_nobodys);
}

static void dispatch_one(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    s->dirty = false;
    if (order_waits(m, s))
        s->reason = WAIT_NOTHING;
    else
        s->reason = keys_used(m) ? keys_dispatch(m, s, fx) : dispatch_runs(m, s, fx);
    bool waiting = s->reason == WAIT_CREDIT;
    if (waiting && !s->waiting)
        dispatch_announce_all(s, fx);
    s->waiting = waiting;
    usec_t at = m->now + (waiting || s->parked ? MAILBOX_READY_AGAIN_US : MAILBOX_CREDIT_LINGER_US);
    if ((waiting || s->eligible.count) && (!s->linger_timer.place || s->linger_timer.key > at))
        heap_put(&m->timers, &s->linger_timer, at);
}

void dispatch_all(struct mailbox *m, struct mailbox_effects *fx) {
    if (!m->leading || m->now >= m->allowed)
        return;
    for (size_t i = 0; i < m->subscriptions_count; i++)
        if (m->subscriptions[i]->dirty)
            dispatch_one(m, m->subscriptions[i], fx);
}

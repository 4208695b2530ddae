// SPDX-License-Identifier: Apache-2.0
/*
 * Consumers of a subscription: attachment, credit, loss; and what a new leader
 * has to learn about deliveries of earlier epochs before it delivers them again.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

enum {
    SERVICE_SMOOTH = 8,          /* weight of the past against one measurement */
    SERVICE_NS_MAX = 1000000000, /* a message that took longer counts as this */
    SERVICE_NS_DEFAULT = 1000000
};

struct consumer *consumer_find(const struct subscription *s, const struct consumer_id *id) {
    struct consumer *c;
    HASH_FIND(hh, s->consumers, id->bytes, sizeof id->bytes, c);
    return c;
}

bool consumer_eligible(const struct consumer *c) {
    const struct subscription *s = c->subscription;
    if (c->credit == 0 || c->lost)
        return false;
    return s->mailbox->settings.dispatch != DISPATCH_EXCLUSIVE || s->attached == c ||
           (MUTATED(exclusive_forgotten) && s->back.total);
}

void consumer_work_done(struct consumer *c, uint64_t messages, usec_t now) {
    int64_t ns = (now - c->service_since) * 1000 / (int64_t)messages;
    if (ns < 1)
        ns = 1;
    if (ns > SERVICE_NS_MAX)
        ns = SERVICE_NS_MAX;
    c->service_ns = c->service_ns ? c->service_ns + (ns - c->service_ns) / SERVICE_SMOOTH : ns;
    c->service_since = now;
    consumer_requeue(c);
}

static void fair_anew(struct subscription *s) {
    s->served_total = 0;
}

static struct consumer *consumer_make(struct mailbox *m, struct subscription *s, const struct consumer_id *id,
                                      const char *client) {
    struct consumer *c = xcalloc(1, sizeof *c);
    c->id = *id;
    c->subscription = s;
    c->timer.kind = TIMER_CONSUMER;
    c->client = xstrdup(client ? client : "");
    c->served = s->served;
    c->service_ns = SERVICE_NS_DEFAULT;
    HASH_ADD(hh, s->consumers, id, sizeof c->id, c);
    DL_APPEND(s->attached, c);
    m->consumers++;
    fair_anew(s);
    return c;
}

/* Its leases are nobody's from now on; those of them that are still LEASED must
 * have been returned before, or the whole subscription goes. */
void consumer_free(struct mailbox *m, struct consumer *c) {
    struct subscription *s = c->subscription;
    struct lease *l, *next;
    DL_FOREACH_SAFE(c->leases, l, next) {
        DL_DELETE(c->leases, l);
        l->consumer = NULL;
    }
    keys_disown(c);
    heap_remove(&s->eligible, &c->turn);
    heap_remove(&m->timers, &c->timer);
    HASH_DELETE(hh, s->consumers, c);
    DL_DELETE(s->attached, c);
    m->consumers--;
    free(c->client);
    free(c);
}

/* The next in line of an exclusive subscription. */
static void succeed(struct mailbox *m, struct subscription *s) {
    fair_anew(s);
    if (m->settings.dispatch == DISPATCH_EXCLUSIVE) {
        s->waiting = false;
        if (s->attached)
            consumer_requeue(s->attached);
    }
    dispatch_touch(s);
}

/* What it holds comes back; then it goes. */
static void consumer_remove(struct mailbox *m, struct consumer *c, bool attempt, struct mailbox_effects *fx) {
    struct subscription *s = c->subscription;
    struct lease *l;
    s->handover |= s->attached == c || c->leases;
    while ((l = c->leases)) {
        lease_return(m, l, attempt, fx);
        if (c->leases == l) { /* still there: returning or settling */
            DL_DELETE(c->leases, l);
            l->consumer = NULL;
        }
    }
    consumer_free(m, c);
    succeed(m, s);
}

static void credit_back(struct consumer *c, struct mailbox_effects *fx) {
    struct mailbox_effect *e = effect_add(fx, MAILBOX_CREDIT_BACK);
    e->credit_back.consumer = c->id;
    e->credit_back.gateway = c->gateway;
    e->credit_back.subscription = c->subscription->name;
    e->credit_back.credit = c->credit;
    c->credit = 0;
    consumer_requeue(c);
}

static void credit_add(struct consumer *c, uint32_t more, struct mailbox_effects *fx) {
    struct subscription *s = c->subscription;
    c->credit = more > UINT32_MAX - c->credit ? UINT32_MAX : c->credit + more;
    c->announced = false;
    if (c->credit && !consumer_eligible(c)) { /* exclusive, and another is served */
        credit_back(c, fx);
        return;
    }
    consumer_requeue(c);
    dispatch_touch(s);
}

void on_linger(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    usec_t idle_at = s->delivered_at + MAILBOX_CREDIT_LINGER_US;
    if (idle_at > m->now) {
        heap_put(&m->timers, &s->linger_timer, idle_at);
        return;
    }
    struct consumer *c;
    DL_FOREACH(s->attached, c)
    if (c->credit)
        credit_back(c, fx);
    if (s->waiting || (s->parked && s->attached)) {
        dispatch_announce_all(s, fx);
        heap_put(&m->timers, &s->linger_timer, m->now + MAILBOX_READY_AGAIN_US);
    }
}

/* ---- events ---- */

static void reattach(struct mailbox *m, struct consumer *c, uint64_t gateway, struct mailbox_effects *fx) {
    if (c->gateway != gateway && !c->lost) {
        struct mailbox_effect *e = effect_add(fx, MAILBOX_DETACHED);
        e->detached.consumer = c->id;
        e->detached.gateway = c->gateway;
        e->detached.subscription = c->subscription->name;
        e->detached.reason = ERR_EXISTS;
    }
    c->lost = false;
    c->credit = 0; /* what the lost session had lent is void */
    heap_remove(&m->timers, &c->timer);
}

enum err mailbox_attach(struct mailbox *m, const struct consumer_id *consumer, uint64_t gateway,
                        const char *subscription, const char *client, uint32_t credit, usec_t now,
                        struct mailbox_effects *fx) {
    if (!m->leading)
        return ERR_NOT_LEADER;
    m->now = now;
    struct subscription *s = subscription_find(m, subscription);
    if (!s)
        return ERR_NOT_FOUND;
    struct consumer *c = consumer_find(s, consumer);
    if (!c && m->consumers >= MAILBOX_CONSUMERS_MAX)
        return ERR_BUSY;
    if (c)
        reattach(m, c, gateway, fx);
    else
        c = consumer_make(m, s, consumer, client);
    c->gateway = gateway;
    credit_add(c, credit, fx);
    bool waiting = s->waiting;
    dispatch_all(m, fx);
    if (waiting && s->waiting && (m->settings.dispatch != DISPATCH_EXCLUSIVE || s->attached == c))
        dispatch_announce(s, gateway, fx);
    return ERR_OK;
}

void consumer_lost(struct mailbox *m, struct consumer *c) {
    if (c->lost)
        return;
    c->lost = true;
    c->credit = 0;
    consumer_requeue(c);
    heap_put(&m->timers, &c->timer, m->now + MAILBOX_LOST_GRACE_US);
}

void mailbox_detach(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                    bool clean, usec_t now, struct mailbox_effects *fx) {
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    struct consumer *c = s ? consumer_find(s, consumer) : NULL;
    if (!c)
        return;
    m->now = now;
    if (clean)
        consumer_remove(m, c, false, fx);
    else
        consumer_lost(m, c);
    dispatch_all(m, fx);
}

void on_grace_over(struct mailbox *m, struct consumer *c, struct mailbox_effects *fx) {
    consumer_remove(m, c, true, fx);
}

void mailbox_gateway_lost(struct mailbox *m, uint64_t gateway, usec_t now, struct mailbox_effects *fx) {
    if (!m->leading)
        return;
    m->now = now;
    for (size_t i = 0; i < m->subscriptions_count; i++) {
        struct consumer *c;
        DL_FOREACH(m->subscriptions[i]->attached, c)
        if (c->gateway == gateway)
            consumer_lost(m, c);
    }
    limbo_forget(m, gateway, fx);
    dispatch_all(m, fx);
}

void mailbox_lend(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                  uint32_t more, usec_t now, struct mailbox_effects *fx) {
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    struct consumer *c = s ? consumer_find(s, consumer) : NULL;
    if (!c || c->lost)
        return;
    m->now = now;
    m->lent = true;
    credit_add(c, more, fx);
}

void mailbox_credit(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                    uint32_t more, usec_t now, struct mailbox_effects *fx) {
    mailbox_lend(m, consumer, subscription, more, now, fx);
    dispatch_all(m, fx);
}

/* ---- limbo: what earlier epochs may have delivered ---- */

/* [first, end) has one mark and no span; is it what the consumer says it holds? */
static bool hold_stands(const struct mailbox *m, const struct subscription *s, const struct mark *mark,
                        const struct mailbox_hold *held) {
    return !mark->intent && mark->number == held->delivery_number && held->epoch < m->epoch &&
           held->epoch >= s->born;
}

static void hold_range(struct mailbox *m, struct subscription *s, struct consumer *c,
                       const struct mailbox_hold *held, uint64_t first, uint64_t end) {
    struct mark mark;
    for (uint64_t at = first, stop; at < end; at = stop) {
        stop = mark_run(s, at, end, &mark);
        if (!hold_stands(m, s, &mark, held))
            continue;
        for (uint64_t free_at = at, free_end; ranges_gap(&s->leases, &free_at, stop, &free_end);
             free_at = free_end) {
            lease_grant(m, s, c, free_at, free_end, held->epoch, held->delivery_number);
            back_clear(s, free_at, free_end);
        }
    }
}

void consumer_holds(struct mailbox *m, struct subscription *s, struct consumer *c,
                    const struct mailbox_hold *held) {
    uint64_t most = s->inherited;
    if (m->settings.durability == DURABILITY_NONE || held->first_offset >= most)
        return;
    uint64_t end = held->count < most - held->first_offset ? held->first_offset + held->count : most, stop;
    for (uint64_t at = held->first_offset; ranges_gap(&s->settled, &at, end, &stop); at = stop)
        hold_range(m, s, c, held, at, stop);
}

/* Exclusive: who holds something was the one to be served. */
static void come_first(struct mailbox *m, struct consumer *c, struct mailbox_effects *fx) {
    struct subscription *s = c->subscription;
    struct consumer *before = s->attached;
    if (m->settings.dispatch != DISPATCH_EXCLUSIVE || before == c)
        return;
    DL_DELETE(s->attached, c);
    DL_PREPEND(s->attached, c);
    if (before->credit)
        credit_back(before, fx);
    consumer_requeue(before);
    consumer_requeue(c);
    dispatch_touch(s);
}

void mailbox_hold(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                  const struct mailbox_hold *held, size_t count, usec_t now, struct mailbox_effects *fx) {
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    struct consumer *c = s ? consumer_find(s, consumer) : NULL;
    if (!c)
        return;
    m->now = now;
    for (size_t i = 0; i < count; i++)
        consumer_holds(m, s, c, &held[i]);
    if (c->unsettled && s->attached->unsettled == 0)
        come_first(m, c, fx);
    dispatch_all(m, fx);
}

/* The stretch from `at` in one state; true if nothing is known of it but that it is unsettled. */
static bool unheld(const struct subscription *s, uint64_t at, uint64_t end, uint64_t *stop) {
    const struct ranges *maps[] = {&s->settled, &s->leases, &s->back, &s->delayed};
    struct mark mark;
    bool unknown = true;
    *stop = mark_run(s, at, end, &mark);
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        const struct range *r = ranges_from(maps[i], at);
        uint64_t edge = !r ? *stop : r->first <= at ? r->end : r->first;
        if (r && r->first <= at)
            unknown = false;
        if (edge < *stop)
            *stop = edge;
    }
    return unknown && !mark.intent;
}

static void return_unheld(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    for (uint64_t at = s->start, stop; at < s->inherited; at = stop)
        if (unheld(s, at, s->inherited, &stop))
            deliveries_return(m, s, at, stop, false, 0, NULL, fx);
}

/* Nobody else will say that he holds something: what was not presented comes back
 * by a committed return, which makes the tokens of earlier epochs old. */
void limbo_end(struct mailbox *m, struct mailbox_effects *fx) {
    m->limbo = false;
    heap_remove(&m->timers, &m->limbo_timer);
    for (size_t i = 0; i < m->subscriptions_count; i++) {
        return_unheld(m, m->subscriptions[i], fx);
        on_delay_due(m, m->subscriptions[i], fx);
    }
    if (m->settings.ttl)
        limits_expire_soon(m);
}

void limbo_forget(struct mailbox *m, uint64_t gateway, struct mailbox_effects *fx) {
    if (!m->limbo)
        return;
    for (size_t i = 0; i < m->gateways_count; i++)
        if (m->gateways[i] == gateway)
            m->gateways[i--] = m->gateways[--m->gateways_count];
    if (m->gateways_count == 0)
        limbo_end(m, fx);
}

void mailbox_presented(struct mailbox *m, uint64_t gateway, usec_t now, struct mailbox_effects *fx) {
    if (!m->leading)
        return;
    m->now = now;
    limbo_forget(m, gateway, fx);
    dispatch_all(m, fx);
}

/* ---- a consumer that comes again ---- */

bool mailbox_at_gateway(const struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                        uint64_t gateway) {
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    const struct consumer *c = s ? consumer_find(s, consumer) : NULL;
    return c && c->gateway == gateway;
}

/* Is offset `at` of the lease named? *stop: how far that answer reaches. */
static bool named(const struct lease *l, const struct mailbox_hold *held, size_t count, uint64_t at,
                  uint64_t *stop) {
    *stop = l->end;
    for (size_t i = 0; i < count; i++) {
        const struct mailbox_hold *h = &held[i];
        uint64_t end = h->first_offset + h->count;
        if (h->epoch != l->epoch || h->delivery_number != l->number || end <= at)
            continue;
        if (h->first_offset <= at) {
            *stop = end < l->end ? end : l->end;
            return true;
        }
        if (h->first_offset < *stop)
            *stop = h->first_offset;
    }
    return false;
}

/* What is still leased of [at, end) comes back. */
static void return_lost(struct mailbox *m, struct lease *l, uint64_t at, uint64_t end,
                        struct mailbox_effects *fx) {
    struct subscription *s = l->subscription;
    const struct range *r;
    for (uint64_t stop; at < end && (r = ranges_from(&s->leases, at)) && r->first < end; at = stop) {
        uint64_t from = r->first > at ? r->first : at;
        stop = r->end < end ? r->end : end;
        if (span_lease(r) == l && span_state(r) == SPAN_LEASED)
            deliveries_return(m, s, from, stop, false, 0, NULL, fx);
    }
}

void mailbox_still_held(struct mailbox *m, const struct consumer_id *consumer, const char *subscription,
                        const struct mailbox_hold *held, size_t count, usec_t now,
                        struct mailbox_effects *fx) {
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    struct consumer *c = s ? consumer_find(s, consumer) : NULL;
    struct lease *l;
    if (!c)
        return;
    m->now = now;
    DL_FOREACH(c->leases, l) {
        for (uint64_t at = l->first, stop; at < l->end; at = stop)
            if (!named(l, held, count, at, &stop))
                return_lost(m, l, at, stop, fx);
    }
    dispatch_all(m, fx);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Subscriptions come and go by SUBSCRIBE entries: u8 1 (begin) or 0 (end), the
 * name; begin: u8 enum subscription_from, varint value.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

struct subscription *subscription_find(const struct mailbox *m, const char *name) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        if (strcmp(m->subscriptions[i]->name, name) == 0)
            return m->subscriptions[i];
    return NULL;
}

struct subscription *subscription_by_id(const struct mailbox *m, uint64_t id) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        if (m->subscriptions[i]->id == id)
            return m->subscriptions[i];
    return NULL;
}

struct subscription *subscription_make(struct mailbox *m, const char *name, uint64_t id) {
    struct subscription *s = xcalloc(1, sizeof *s);
    s->name = xstrdup(name);
    s->id = id;
    s->mailbox = m;
    s->delay_timer.kind = TIMER_DELAY;
    s->linger_timer.kind = TIMER_LINGER;
    xgrow(&m->subscriptions, &m->subscriptions_capacity, m->subscriptions_count + 1,
          sizeof(struct subscription *));
    m->subscriptions[m->subscriptions_count++] = s;
    return s;
}

/* The name outlives the subscription for a while: effects point at it. */
static void keep_name(struct mailbox *m, char *name) {
    free(m->old_names[m->old_names_next]);
    m->old_names[m->old_names_next] = name;
    m->old_names_next = (m->old_names_next + 1) % MAILBOX_OLD_NAMES;
}

void subscription_free(struct mailbox *m, struct subscription *s) {
    subscription_unlead(m, s);
    ranges_free(&s->settled);
    ranges_free(&s->marks);
    keep_name(m, s->name);
    free(s);
}

void subscription_lead(struct mailbox *m, struct subscription *s) {
    s->inherited = m->lead_offset;
    s->cursor = m->lead_offset > s->start ? m->lead_offset : s->start;
    struct mark mark;
    for (uint64_t at = s->start, stop; s->delayed_marks && at < m->next_offset; at = stop) {
        const struct range *r = ranges_from(&s->marks, at);
        if (!r)
            break;
        mark = mark_of(r);
        stop = r->end;
        if (mark.intent || mark.due <= log_time(m))
            continue;
        keys_wait(s, r->first, stop);
        delay_add(m, s, r->first, stop, mark.due, true);
    }
    dispatch_touch(s);
}

void subscription_unlead(struct mailbox *m, struct subscription *s) {
    struct consumer *c, *next;
    lease_clear(m, s, 0, UINT64_MAX);
    HASH_ITER(hh, s->consumers, c, next)
    consumer_free(m, c);
    keys_free(s);
    ranges_free(&s->leases);
    ranges_free(&s->back);
    ranges_free(&s->delayed);
    free(s->delays);
    s->delays = NULL;
    s->delays_count = s->delays_capacity = s->delays_limit = 0;
    heap_free(&s->eligible);
    heap_remove(&m->timers, &s->delay_timer);
    heap_remove(&m->timers, &s->linger_timer);
    s->returning = s->returning_nobodys = s->cursor = s->inherited = s->parked = 0;
    s->served = s->served_total = 0;
    s->dirty = s->waiting = s->handover = false;
    s->reason = WAIT_NOTHING;
}

/* ---- beginning ---- */

static uint64_t start_of(const struct mailbox *m, enum subscription_from from, uint64_t value) {
    const struct batch_record *r = batches_from(&m->batches, 0);
    if (from == FROM_OFFSET)
        return value < m->next_offset ? value : m->next_offset;
    if (from == FROM_TIME)
        while (r && r->stamp < (int64_t)value)
            r = batches_next(&m->batches, r);
    return from == FROM_NEW || !r ? m->next_offset : r->base;
}

/* What is no longer stored above the start counts as settled, not as published. */
static void mark_absent(struct mailbox *m, struct subscription *s) {
    uint64_t at = s->start;
    for (struct batch_record *r = batches_from(&m->batches, at); r; r = batches_next(&m->batches, r)) {
        if (r->base > at) {
            s->absent += r->base - at;
            ranges_add(&s->settled, at, r->base);
        }
        at = batch_end(r);
    }
    if (at < m->next_offset) {
        s->absent += m->next_offset - at;
        ranges_add(&s->settled, at, m->next_offset);
    }
}

static void begin(struct mailbox *m, const char *name, enum subscription_from from, uint64_t value,
                  uint64_t epoch, struct mailbox_effects *fx) {
    if (subscription_find(m, name))
        return;
    struct subscription *s = subscription_make(m, name, m->next_subscription++);
    s->born = epoch;
    s->start = start_of(m, from, value);
    ranges_add(&s->settled, 0, s->start);
    mark_absent(m, s);
    s->cursor = s->start;
    batches_recount(m, fx);
    limits_arm(m);
}

/* ---- the end ---- */

static void detach_all(struct subscription *s, struct mailbox_effects *fx) {
    struct consumer *c;
    DL_FOREACH(s->attached, c) {
        struct mailbox_effect *e = effect_add(fx, MAILBOX_DETACHED);
        e->detached.consumer = c->id;
        e->detached.gateway = c->gateway;
        e->detached.subscription = s->name;
        e->detached.reason = ERR_NOT_FOUND;
    }
}

static void forget_dying(struct mailbox *m, const struct subscription *s) {
    struct dying *d, *next;
    DL_FOREACH_SAFE(m->dying, d, next)
    if (d->subscription == s)
        dying_forget(m, d->intent);
}

static void end(struct mailbox *m, const char *name, struct mailbox_effects *fx) {
    struct subscription *s = subscription_find(m, name);
    if (!s)
        return;
    detach_all(s, fx);
    forget_dying(m, s);
    size_t i = 0;
    while (m->subscriptions[i] != s)
        i++;
    m->subscriptions_count--;
    memmove(&m->subscriptions[i], &m->subscriptions[i + 1],
            (m->subscriptions_count - i) * sizeof(struct subscription *));
    subscription_free(m, s);
    batches_recount(m, fx);
}

void apply_subscribe(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    char name[NAME_BYTES_MAX + 1];
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    bool begins = decode_u8(&d) == 1;
    decode_string(&d, name, sizeof name);
    enum subscription_from from = begins ? decode_u8(&d) : FROM_NEW;
    uint64_t value = begins ? decode_varint(&d) : 0;
    CHECK(!d.failed && decoder_left(&d) == 0 && from <= FROM_TIME);
    if (begins)
        begin(m, name, from, value, e->epoch, fx);
    else
        end(m, name, fx);
}

static void propose_subscribe(struct mailbox *m, struct encoder *e, struct mailbox_effects *fx) {
    m->subscribing++;
    propose(m, (struct proposal){.type = ENTRY_SUBSCRIBE}, encoder_body(e), fx);
    dispatch_all(m, fx);
}

void mailbox_subscribe(struct mailbox *m, const char *subscription, enum subscription_from from,
                       uint64_t value, struct mailbox_effects *fx) {
    if (!m->leading || !name_valid(subscription) || subscription_find(m, subscription) ||
        m->subscriptions_count + m->subscribing >= MAILBOX_SUBSCRIPTIONS_MAX)
        return;
    struct encoder e = {0};
    encode_u8(&e, 1);
    encode_string(&e, subscription);
    encode_u8(&e, (uint8_t)from);
    encode_varint(&e, value);
    propose_subscribe(m, &e, fx);
}

void mailbox_unsubscribe(struct mailbox *m, const char *subscription, struct mailbox_effects *fx) {
    if (!m->leading || (!subscription_find(m, subscription) && !m->subscribing))
        return;
    struct encoder e = {0};
    encode_u8(&e, 0);
    encode_string(&e, subscription);
    propose_subscribe(m, &e, fx);
}

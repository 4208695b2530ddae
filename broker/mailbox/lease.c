// SPDX-License-Identifier: Apache-2.0
/*
 * Leases: who holds what, until when. A lease is one run as it was delivered; the
 * subscription's span map says for each offset which lease it belongs to and
 * whether it is leased, settling or returning (an entry about it is in flight).
 */
#include <stdlib.h>
#include <utlist.h>

#include "mailbox/state.h"

enum { DELAYS_MIN = 64 };

int64_t log_time(const struct mailbox *m) {
    return m->now + m->stamp_offset;
}

struct lease *span_lease(const struct range *r) {
    return (struct lease *)(uintptr_t)r->value.a;
}

enum span_state span_state(const struct range *r) {
    return (enum span_state)r->value.b;
}

static void span_set(struct subscription *s, uint64_t first, uint64_t end, struct lease *l,
                     enum span_state state) {
    ranges_set(&s->leases, first, end, (struct range_value){(uintptr_t)l, state, 0});
}

static struct lease *lease_new(struct subscription *s, struct consumer *c, uint64_t first, uint64_t end) {
    struct lease *l = xcalloc(1, sizeof *l);
    l->timer.kind = TIMER_LEASE;
    l->subscription = s;
    l->consumer = c;
    l->first = first;
    l->end = end;
    l->live = end - first;
    if (c)
        DL_APPEND(c->leases, l);
    return l;
}

void lease_free(struct mailbox *m, struct lease *l) {
    heap_remove(&m->timers, &l->timer);
    if (l->consumer)
        DL_DELETE(l->consumer->leases, l);
    free(l);
}

struct lease *lease_grant(struct mailbox *m, struct subscription *s, struct consumer *c, uint64_t first,
                          uint64_t end, uint64_t epoch, uint32_t number) {
    struct lease *l = lease_new(s, c, first, end);
    l->epoch = epoch;
    l->number = number;
    heap_put(&m->timers, &l->timer, time_after(m->now, m->settings.ack_timeout));
    span_set(s, first, end, l, SPAN_LEASED);
    if (c->unsettled == 0)
        c->service_since = m->now;
    c->unsettled += end - first;
    keys_leased(s, c, first, end);
    return l;
}

/* One span of [first, end) leaves SPAN_LEASED. */
static void span_move(struct subscription *s, struct lease *l, uint64_t first, uint64_t end,
                      enum span_state state) {
    if (l->consumer) {
        l->consumer->unsettled -= end - first;
        consumer_requeue(l->consumer);
    }
    if (state == SPAN_RETURNING) {
        s->returning += end - first;
        keys_wait(s, first, end);
        keys_unleased(s, first, end);
    }
    span_set(s, first, end, l, state);
}

static void span_nobodys(struct subscription *s, uint64_t first, uint64_t end, enum span_state state) {
    struct lease *l = lease_new(s, NULL, first, end);
    l->nobodys = true;
    back_clear(s, first, end); /* settled by who had it of an earlier epoch, while it seems delayed */
    if (state == SPAN_RETURNING) {
        s->returning += end - first;
        s->returning_nobodys += end - first;
    }
    span_set(s, first, end, l, state);
}

void lease_move(struct subscription *s, uint64_t first, uint64_t end, enum span_state state) {
    for (uint64_t at = first, stop; at < end; at = stop) {
        const struct range *r = ranges_from(&s->leases, at);
        if (!r || r->first > at) {
            stop = r && r->first < end ? r->first : end;
            span_nobodys(s, at, stop, state);
        } else {
            stop = r->end < end ? r->end : end;
            CHECK(span_state(r) == SPAN_LEASED);
            span_move(s, span_lease(r), at, stop, state);
        }
    }
}

/* Takes a stretch of one span out; true if its key counted it as waiting. */
static bool span_remove(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end) {
    const struct range *r = ranges_at(&s->leases, first);
    struct lease *l = span_lease(r);
    enum span_state state = span_state(r);
    uint64_t n = end - first;
    ranges_clear(&s->leases, first, end);
    if (state == SPAN_RETURNING)
        s->returning -= n;
    else if (!l->nobodys)
        keys_unleased(s, first, end);
    if (state == SPAN_RETURNING && l->nobodys)
        s->returning_nobodys -= n;
    if (state == SPAN_LEASED) {
        l->consumer->unsettled -= n;
        consumer_requeue(l->consumer);
    }
    bool waiting = state == SPAN_RETURNING && !l->nobodys;
    l->live -= n;
    if (l->live == 0)
        lease_free(m, l);
    return waiting;
}

void lease_clear(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end) {
    const struct range *r;
    for (uint64_t at = first, stop; (r = ranges_from(&s->leases, at)) && r->first < end; at = stop) {
        uint64_t from = r->first > at ? r->first : at;
        stop = r->end < end ? r->end : end;
        if (span_remove(m, s, from, stop))
            keys_unwait(s, from, stop);
    }
}

void lease_extend(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, usec_t until) {
    struct lease *l = span_lease(ranges_at(&s->leases, first));
    if (l->live == end - first) {
        heap_put(&m->timers, &l->timer, until);
        return;
    }
    struct lease *piece = lease_new(s, l->consumer, first, end);
    piece->epoch = l->epoch;
    piece->number = l->number;
    l->live -= end - first;
    heap_put(&m->timers, &piece->timer, until);
    span_set(s, first, end, piece, SPAN_LEASED);
}

void lease_return(struct mailbox *m, struct lease *l, bool attempt, struct mailbox_effects *fx) {
    struct subscription *s = l->subscription;
    const struct range *r;
    heap_remove(&m->timers, &l->timer);
    for (uint64_t at = l->first, end = l->end, stop; at < end; at = stop) {
        r = ranges_from(&s->leases, at);
        if (!r || r->first >= end)
            return;
        uint64_t from = r->first > at ? r->first : at;
        stop = r->end;
        if (span_lease(r) == l && span_state(r) == SPAN_LEASED)
            deliveries_return(m, s, from, stop < end ? stop : end, attempt, 0, NULL, fx);
    }
}

void deliveries_return(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, bool attempt,
                       int64_t due, const struct ask *ask, struct mailbox_effects *fx) {
    struct mark mark;
    for (uint64_t at = first, stop; at < end; at = stop) {
        stop = mark_run(s, at, end, &mark);
        uint32_t most = m->settings.max_deliveries;
        if (attempt && most && mark.attempts + 1 >= most) {
            dying_propose(m, s, at, stop, DYING_MAX_DELIVERIES, ask, fx);
            continue;
        }
        lease_move(s, at, stop, SPAN_RETURNING);
        turn_add(&m->returns, s->id, at, stop, attempt, due);
        waiter_settle(m, &m->returns.waiters, ask, SETTLE_DONE);
    }
}

/* ---- what came back ---- */

static void delay_up(struct subscription *s, size_t at) {
    for (; at && s->delays[(at - 1) / 2].due > s->delays[at].due; at = (at - 1) / 2) {
        struct delay swap = s->delays[at];
        s->delays[at] = s->delays[(at - 1) / 2];
        s->delays[(at - 1) / 2] = swap;
    }
}

static struct delay delay_pop(struct subscription *s) {
    struct delay top = s->delays[0], last = s->delays[--s->delays_count];
    size_t at = 0;
    for (size_t child = 1; child < s->delays_count; child = at * 2 + 1) {
        if (child + 1 < s->delays_count && s->delays[child + 1].due < s->delays[child].due)
            child++;
        if (s->delays[child].due >= last.due)
            break;
        s->delays[at] = s->delays[child];
        at = child;
    }
    s->delays[at] = last;
    return top;
}

static void delay_arm(struct mailbox *m, struct subscription *s) {
    if (s->delays_count)
        heap_put(&m->timers, &s->delay_timer, s->delays[0].due - m->stamp_offset);
}

/* Whether anything of it is still delayed: messages settled meanwhile are not. */
static bool delay_stands(const struct subscription *s, const struct delay *d) {
    const struct range *r;
    for (uint64_t at = d->first; (r = ranges_from(&s->delayed, at)) && r->first < d->end; at = r->end)
        if ((int64_t)r->value.b == d->due)
            return true;
    return false;
}

/* Stale entries leave when they may be half of all. */
static void delays_compact(struct subscription *s) {
    size_t count = s->delays_count;
    s->delays_count = 0;
    for (size_t i = 0; i < count; i++)
        if (delay_stands(s, &s->delays[i])) {
            s->delays[s->delays_count] = s->delays[i];
            delay_up(s, s->delays_count++);
        }
    s->delays_limit = s->delays_count * 2 > DELAYS_MIN ? s->delays_count * 2 : DELAYS_MIN;
}

void delay_add(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, int64_t due,
               bool inherited) {
    ranges_set(&s->delayed, first, end, (struct range_value){inherited, (uint64_t)due, 0});
    if (s->delays_count >= s->delays_limit)
        delays_compact(s);
    xgrow(&s->delays, &s->delays_capacity, s->delays_count + 1, sizeof *s->delays);
    s->delays[s->delays_count] = (struct delay){due, first, end};
    delay_up(s, s->delays_count++);
    delay_arm(m, s);
}

static void back_add(struct subscription *s, uint64_t first, uint64_t end, bool counted) {
    ranges_set(&s->back, first, end, (struct range_value){counted && keys_used(s->mailbox), 0, 0});
}

/* What of one delay is still delayed until then may go. An earlier leader, whose
 * clock was ahead, may have delivered it already: then it comes back first by a
 * committed return, which makes such a token too late. */
static void delay_over(struct mailbox *m, struct subscription *s, struct delay d,
                       struct mailbox_effects *fx) {
    const struct range *r;
    for (uint64_t at = d.first, stop; (r = ranges_from(&s->delayed, at)) && r->first < d.end; at = stop) {
        struct range found = *r;
        uint64_t from = found.first > at ? found.first : at;
        stop = found.end < d.end ? found.end : d.end;
        if ((int64_t)found.value.b != d.due)
            continue;
        if (found.value.a) {
            deliveries_return(m, s, from, stop, false, 0, NULL, fx);
            continue;
        }
        ranges_clear(&s->delayed, from, stop);
        back_add(s, from, stop, true);
    }
}

void on_delay_due(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    if (m->limbo) /* an earlier leader's clock may have been ahead: limbo_end looks again */
        return;
    while (s->delays_count && s->delays[0].due <= log_time(m))
        delay_over(m, s, delay_pop(s), fx);
    delay_arm(m, s);
    dispatch_touch(s);
}

static void unwait(struct subscription *s, const struct ranges *map, uint64_t first, uint64_t end, bool all) {
    const struct range *r;
    if (!keys_used(s->mailbox))
        return;
    for (uint64_t at = first; (r = ranges_from(map, at)) && r->first < end; at = r->end)
        if (all || r->value.a)
            keys_unwait(s, r->first > at ? r->first : at, r->end < end ? r->end : end);
}

void back_clear(struct subscription *s, uint64_t first, uint64_t end) {
    unwait(s, &s->back, first, end, false);
    unwait(s, &s->delayed, first, end, true);
    ranges_clear(&s->back, first, end);
    ranges_clear(&s->delayed, first, end);
}

void deliveries_back(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, int64_t due) {
    if (!m->leading)
        return;
    for (uint64_t at = first, stop; at < end; at = stop) {
        const struct range *r = ranges_from(&s->leases, at);
        bool covered = r && r->first <= at;
        stop = covered ? r->end : r ? r->first : end;
        stop = stop < end ? stop : end;
        bool counted = covered && span_remove(m, s, at, stop);
        back_clear(s, at, stop);
        if (due > log_time(m)) {
            if (!counted)
                keys_wait(s, at, stop);
            delay_add(m, s, at, stop, due, false);
        } else {
            back_add(s, at, stop, counted);
        }
    }
}

bool mailbox_delivery_stands(const struct mailbox *m, const struct mailbox_effect *e) {
    const struct subscription *s = m->leading ? subscription_find(m, e->deliver.subscription) : NULL;
    uint64_t at = e->deliver.first_offset, end = at + e->deliver.count;
    const struct range *r;
    for (; s && (r = ranges_from(&s->leases, at)) && r->first < end; at = r->end) {
        const struct lease *l = span_state(r) == SPAN_LEASED ? span_lease(r) : NULL;
        if (l && l->consumer && l->epoch == e->deliver.epoch && l->number == e->deliver.delivery_number &&
            memcmp(&l->consumer->id, &e->deliver.consumer, sizeof l->consumer->id) == 0)
            return true;
    }
    return false;
}

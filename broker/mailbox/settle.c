// SPDX-License-Identifier: Apache-2.0
/*
 * Settlement requests, and the entries they become. A request is cut into
 * stretches of messages in one state; what needs an entry is answered when that
 * entry is committed, the rest at once; SETTLED goes out when all is answered.
 */
#include <stdlib.h>
#include <string.h>

#include "mailbox/state.h"

struct settling { /* one item under way */
    struct mailbox *m;
    struct subscription *s;
    struct consumer *c; /* NULL: not attached */
    const struct consumer_id *id;
    const struct mailbox_settlement *item;
    struct ask ask;
    struct mailbox_effects *fx;
};

static void answer(const struct settling *g, enum settle_result result) {
    request_respond(g->ask.request, g->ask.item, result);
}

/* ---- a stretch with a current token ---- */

static void on_ack(const struct settling *g, uint64_t first, uint64_t end) {
    lease_move(g->s, first, end, SPAN_SETTLING);
    turn_add(&g->m->settles, g->s->id, first, end, SETTLED_ACK, 0);
    waiter_settle(g->m, &g->m->settles.waiters, &g->ask, SETTLE_DONE);
}

static void on_nack(const struct settling *g, uint64_t first, uint64_t end) {
    usec_t delay = g->item->delay;
    int64_t now = log_time(g->m);
    int64_t due = delay <= 0 ? 0 : time_after(now, delay);
    deliveries_return(g->m, g->s, first, end, true, due, &g->ask, g->fx);
}

static void on_reject(const struct settling *g, uint64_t first, uint64_t end) {
    dying_propose(g->m, g->s, first, end, DYING_REJECTED, &g->ask, g->fx);
}

static void on_release(const struct settling *g, uint64_t first, uint64_t end) {
    deliveries_return(g->m, g->s, first, end, false, 0, &g->ask, g->fx);
}

/* A message that an earlier epoch delivered becomes a lease of who extends it. */
static void on_extend(const struct settling *g, uint64_t first, uint64_t end) {
    if (!ranges_has(&g->s->leases, first)) {
        struct mailbox_hold held = {first, (uint32_t)(end - first), g->item->epoch, g->item->delivery_number};
        if (g->c)
            consumer_holds(g->m, g->s, g->c, &held);
        if (!ranges_has(&g->s->leases, first)) {
            answer(g, SETTLE_TOO_LATE);
            return;
        }
    }
    usec_t delay = g->item->delay > 0 ? g->item->delay : g->m->settings.ack_timeout, now = g->m->now;
    lease_extend(g->m, g->s, first, end, time_after(now, delay));
    answer(g, SETTLE_DONE);
}

static void settle_current(const struct settling *g, uint64_t first, uint64_t end) {
    static void (*const handlers[])(const struct settling *, uint64_t, uint64_t) = {
        [SETTLE_ACK] = on_ack,       [SETTLE_NACK] = on_nack,       [SETTLE_REJECT] = on_reject,
        [SETTLE_EXTEND] = on_extend, [SETTLE_RELEASE] = on_release,
    };
    if (g->c && g->item->kind != SETTLE_EXTEND && ranges_has(&g->s->leases, first))
        consumer_work_done(g->c, end - first, g->m->now);
    handlers[g->item->kind](g, first, end);
}

/* ---- whose is it? ---- */

/* An entry about these messages is in flight: answered when it commits. */
static void settle_wait(const struct settling *g, enum span_state state) {
    struct mailbox *m = g->m;
    bool settling = state == SPAN_SETTLING;
    struct turn_list *turn = settling ? &m->settles : &m->returns;
    struct proposal *last = proposal_last(m);
    if (m->waiters >= MAILBOX_WAITERS_MAX || (!turn->count && !last)) {
        answer(g, SETTLE_UNKNOWN);
        return;
    }
    waiter_settle(m, turn->count ? &turn->waiters : &last->waiters, &g->ask,
                  settling ? SETTLE_ALREADY : SETTLE_TOO_LATE);
}

static bool lease_is(const struct settling *g, const struct lease *l) {
    return (l->epoch == g->item->epoch || MUTATED(old_token_taken)) && l->consumer &&
           memcmp(&l->consumer->id, g->id, sizeof *g->id) == 0;
}

static void settle_span(const struct settling *g, const struct range *span, uint64_t first, uint64_t end) {
    if (span_state(span) != SPAN_LEASED)
        settle_wait(g, span_state(span));
    else if (lease_is(g, span_lease(span)))
        settle_current(g, first, end);
    else
        answer(g, SETTLE_TOO_LATE);
}

/* Delivered by an earlier epoch and not again since. */
static bool inherited(const struct settling *g, uint64_t first) {
    return g->item->epoch < g->m->epoch && g->item->epoch >= g->s->born && first < g->s->inherited &&
           g->m->settings.durability != DURABILITY_NONE && !ranges_has(&g->s->back, first);
}

/* Handles the stretch from `at` in one state; returns its end. */
static uint64_t settle_stretch(const struct settling *g, uint64_t at, uint64_t end) {
    uint64_t stop = end;
    if (!ranges_gap(&g->s->settled, &(uint64_t){at}, at + 1, &(uint64_t){0})) {
        answer(g, SETTLE_ALREADY);
        stop = ranges_at(&g->s->settled, at)->end;
        return stop < end ? stop : end;
    }
    const struct range *settled = ranges_from(&g->s->settled, at);
    if (settled && settled->first < stop)
        stop = settled->first;
    struct mark mark;
    stop = mark_run(g->s, at, stop, &mark);
    if (mark.intent || (mark.number != g->item->delivery_number && !MUTATED(old_token_taken))) {
        answer(g, mark.intent ? SETTLE_ALREADY : SETTLE_TOO_LATE);
        return stop;
    }
    const struct range *span = ranges_from(&g->s->leases, at);
    bool covered = span && span->first <= at;
    uint64_t edge = covered ? span->end : span ? span->first : stop;
    stop = edge < stop ? edge : stop;
    if (covered)
        settle_span(g, span, at, stop);
    else if (inherited(g, at)) {
        if (stop > g->s->inherited)
            stop = g->s->inherited;
        settle_current(g, at, stop);
    } else
        answer(g, g->item->epoch > g->m->epoch ? SETTLE_UNKNOWN : SETTLE_TOO_LATE);
    return stop;
}

static void settle_item(const struct settling *g) {
    uint64_t first = g->item->first_offset, next = g->m->next_offset;
    if (first >= next || g->item->count == 0 || g->item->count > next - first ||
        g->item->kind > SETTLE_RELEASE) {
        answer(g, SETTLE_TOO_LATE);
        return;
    }
    for (uint64_t at = first, end = first + g->item->count; at < end;)
        at = settle_stretch(g, at, end);
}

void mailbox_settle(struct mailbox *m, struct mailbox_origin origin, const struct consumer_id *consumer,
                    const char *subscription, const struct mailbox_settlement *items, size_t count,
                    usec_t now, int64_t stamp, struct mailbox_effects *fx) {
    struct request *q = xcalloc(1, sizeof *q + count * sizeof *q->results);
    *q = (struct request){.origin = origin, .count = count, .remaining = 1};
    struct subscription *s = m->leading ? subscription_find(m, subscription) : NULL;
    bool may = m->leading && now < m->allowed;
    m->now = now;
    if (m->leading)
        m->stamp_offset = stamp - now;
    for (size_t i = 0; i < count; i++) {
        q->results[i] = SETTLE_ALREADY;
        if (!may || !s) {
            q->results[i] = may ? SETTLE_TOO_LATE : SETTLE_UNKNOWN;
            continue;
        }
        struct settling g = {m, s, consumer_find(s, consumer), consumer, &items[i], {q, i}, fx};
        settle_item(&g);
    }
    request_release(q, fx);
}

/* ---- committed ---- */

void apply_settle(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    struct turn_range r = {0};
    for (uint64_t n = decode_varint(&d); n > 0; n--) {
        turn_read(&d, false, &r);
        struct subscription *s = subscription_by_id(m, r.subscription);
        if (!s)
            continue;
        uint64_t settled = offsets_settle(m, s, r.first, r.end, fx);
        *(r.kind == SETTLED_ACK ? &s->acked : &s->dropped) += settled;
    }
    CHECK(!d.failed && decoder_left(&d) == 0);
}

void apply_return(struct mailbox *m, const struct entry *e) {
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    struct turn_range r = {0};
    for (uint64_t n = decode_varint(&d); n > 0; n--) {
        turn_read(&d, true, &r);
        struct subscription *s = subscription_by_id(m, r.subscription);
        if (s)
            offsets_return(m, s, &r);
    }
    CHECK(!d.failed && decoder_left(&d) == 0);
}

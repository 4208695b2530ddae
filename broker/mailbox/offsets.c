// SPDX-License-Identifier: Apache-2.0
/*
 * What replicas agree on about one subscription: which offsets are settled, and
 * the marks (delivery number, attempts, due time, intent) of unsettled messages
 * that came back or are dying. Everything else unsettled was never returned.
 */
#include "mailbox/state.h"

struct mark mark_of(const struct range *r) {
    return (struct mark){.number = (uint32_t)r->value.a,
                         .attempts = (uint32_t)(r->value.a >> 32),
                         .due = (int64_t)r->value.b,
                         .intent = r->value.c};
}

struct mark mark_at(const struct subscription *s, uint64_t offset) {
    const struct range *r = ranges_at(&s->marks, offset);
    return r ? mark_of(r) : (struct mark){0};
}

uint64_t mark_run(const struct subscription *s, uint64_t offset, uint64_t end, struct mark *mark) {
    const struct range *r = ranges_from(&s->marks, offset);
    if (r && r->first <= offset) {
        *mark = mark_of(r);
        return r->end < end ? r->end : end;
    }
    *mark = (struct mark){0};
    return r && r->first < end ? r->first : end;
}

static void marks_count(struct subscription *s, uint64_t first, uint64_t end, struct mark mark, bool more) {
    uint64_t n = end - first, *counter = mark.intent ? &s->dying : mark.due ? &s->delayed_marks : NULL;
    if (counter)
        *counter += more ? n : -n;
}

static void mark_clear(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end) {
    struct mark mark;
    for (uint64_t at = first, stop; at < end; at = stop) {
        stop = mark_run(s, at, end, &mark);
        marks_count(s, at, stop, mark, false);
        if (mark.intent)
            dying_forget(m, mark.intent);
    }
    ranges_clear(&s->marks, first, end);
}

void mark_set(struct subscription *s, uint64_t first, uint64_t end, struct mark mark) {
    struct mark old;
    for (uint64_t at = first, stop; at < end; at = stop) {
        stop = mark_run(s, at, end, &old);
        marks_count(s, at, stop, old, false);
    }
    marks_count(s, first, end, mark, true);
    struct range_value value = {mark.number | (uint64_t)mark.attempts << 32, (uint64_t)mark.due, mark.intent};
    ranges_set(&s->marks, first, end, value);
}

static void settle_stretch(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                           struct mailbox_effects *fx) {
    lease_clear(m, s, first, end);
    back_clear(s, first, end);
    mark_clear(m, s, first, end);
    ranges_add(&s->settled, first, end);
    batches_settled(m, first, end, fx);
}

uint64_t offsets_settle(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                        struct mailbox_effects *fx) {
    uint64_t sum = 0, stop;
    if (end > m->next_offset)
        end = m->next_offset;
    for (uint64_t at = first; ranges_gap(&s->settled, &at, end, &stop); at = stop) {
        settle_stretch(m, s, at, stop, fx);
        sum += stop - at;
    }
    if (sum)
        dispatch_touch(s);
    return sum;
}

/* [first, end) is unsettled. */
static void return_stretch(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                           const struct turn_range *r) {
    struct mark mark;
    for (uint64_t at = first, stop; at < end; at = stop) {
        stop = mark_run(s, at, end, &mark);
        if (mark.intent)
            continue;
        mark.number++;
        mark.attempts += r->kind;
        mark.due = r->due;
        mark_set(s, at, stop, mark);
        deliveries_back(m, s, at, stop, r->due);
    }
}

void offsets_return(struct mailbox *m, struct subscription *s, const struct turn_range *r) {
    uint64_t end = r->end < m->next_offset ? r->end : m->next_offset, stop;
    for (uint64_t at = r->first; ranges_gap(&s->settled, &at, end, &stop); at = stop)
        return_stretch(m, s, at, stop, r);
    dispatch_touch(s);
}

uint64_t subscription_settled(const struct subscription *s) {
    return s->settled.total - s->start - s->absent;
}

uint64_t subscription_published(const struct subscription *s) {
    return s->mailbox->next_offset - s->start - s->absent;
}

uint64_t subscription_unsettled(const struct subscription *s) {
    return subscription_published(s) - subscription_settled(s);
}

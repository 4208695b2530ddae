// SPDX-License-Identifier: Apache-2.0
/*
 * What a turn settles and takes back, packed into one SETTLE and one RETURN entry.
 *
 * Their bytes: varint count, then for each range: u8 head = kind, | 0x80 if it
 * goes on with the subscription, kind and due time of the range before; else
 * varint subscription, and in a RETURN varint due; then varint first (counted from
 * the end of the range before if it goes on), varint length.
 */
#include <stdlib.h>

#include "mailbox/state.h"

enum { TURN_GOES_ON = 0x80, TURN_RANGES_MAX = 16384 /* in one entry */ };

void turn_add(struct turn_list *t, uint64_t subscription, uint64_t first, uint64_t end, uint8_t kind,
              int64_t due) {
    struct turn_range *last = t->count ? &t->items[t->count - 1] : NULL;
    if (last && last->subscription == subscription && last->end == first && last->kind == kind &&
        last->due == due) {
        last->end = end;
        return;
    }
    xgrow(&t->items, &t->capacity, t->count + 1, sizeof *t->items);
    t->items[t->count++] = (struct turn_range){subscription, first, end, kind, due};
}

static int sign(uint64_t a, uint64_t b) {
    return a < b ? -1 : a > b;
}

static int by_group(const void *x, const void *y) {
    const struct turn_range *a = x, *b = y;
    int c = sign(a->subscription, b->subscription);
    if (!c)
        c = sign(a->kind, b->kind);
    if (!c)
        c = sign((uint64_t)a->due, (uint64_t)b->due);
    return c ? c : sign(a->first, b->first);
}

static bool same_group(const struct turn_range *a, const struct turn_range *b) {
    return a->subscription == b->subscription && a->kind == b->kind && a->due == b->due;
}

/* Sorted; neighbours become one. */
static void turn_merge(struct turn_list *t) {
    qsort(t->items, t->count, sizeof *t->items, by_group);
    size_t kept = 0;
    for (size_t i = 1; i < t->count; i++) {
        struct turn_range *last = &t->items[kept], *next = &t->items[i];
        if (same_group(last, next) && last->end == next->first)
            last->end = next->end;
        else
            t->items[++kept] = *next;
    }
    t->count = kept + 1;
}

static void range_encode(struct encoder *e, const struct turn_range *before, const struct turn_range *r,
                         bool with_due) {
    bool goes_on = before && same_group(before, r);
    encode_u8(e, (uint8_t)(r->kind | (goes_on ? TURN_GOES_ON : 0)));
    if (!goes_on)
        encode_varint(e, r->subscription);
    if (!goes_on && with_due)
        encode_varint(e, (uint64_t)r->due);
    encode_varint(e, goes_on ? r->first - before->end : r->first);
    encode_varint(e, r->end - r->first);
}

static struct body *ranges_encode(const struct turn_range *items, size_t count, bool with_due) {
    struct encoder e = {0};
    encode_varint(&e, count);
    for (size_t i = 0; i < count; i++)
        range_encode(&e, i ? &items[i - 1] : NULL, &items[i], with_due);
    return encoder_body(&e);
}

/* The list is taken first: with durability none its entry is applied at once. */
static void turn_propose(struct mailbox *m, struct turn_list *list, uint8_t type,
                         struct mailbox_effects *fx) {
    if (list->count == 0)
        return;
    struct turn_list t = *list;
    *list = (struct turn_list){0};
    turn_merge(&t);
    for (size_t at = 0, count; at < t.count; at += count) {
        count = t.count - at < TURN_RANGES_MAX ? t.count - at : TURN_RANGES_MAX;
        struct proposal p = {.type = type, .waiters = at + count == t.count ? t.waiters : NULL};
        propose(m, p, ranges_encode(&t.items[at], count, type == ENTRY_RETURN), fx);
    }
    free(t.items);
}

static void deads_propose(struct mailbox *m, struct mailbox_effects *fx) {
    if (m->deads_count == 0)
        return;
    struct encoder e = {0};
    for (size_t i = 0; i < m->deads_count; i++)
        encode_varint(&e, m->deads[i]);
    m->deads_count = 0;
    propose(m, (struct proposal){.type = ENTRY_DEAD}, encoder_body(&e), fx);
}

void turn_pack(struct mailbox *m, struct mailbox_effects *fx) {
    turn_propose(m, &m->settles, ENTRY_SETTLE, fx);
    turn_propose(m, &m->returns, ENTRY_RETURN, fx);
    deads_propose(m, fx);
}

static void list_abandon(struct mailbox *m, struct turn_list *t, struct mailbox_effects *fx) {
    waiters_answer(m, t->waiters, false, NULL, fx);
    free(t->items);
    *t = (struct turn_list){0};
}

void turn_abandon(struct mailbox *m, struct mailbox_effects *fx) {
    list_abandon(m, &m->settles, fx);
    list_abandon(m, &m->returns, fx);
    free(m->deads);
    m->deads = NULL;
    m->deads_count = m->deads_capacity = 0;
}

void turn_read(struct decoder *d, bool with_due, struct turn_range *r) {
    uint8_t head = decode_u8(d);
    bool goes_on = head & TURN_GOES_ON;
    r->kind = head & (TURN_GOES_ON - 1);
    if (!goes_on) {
        r->subscription = decode_varint(d);
        r->due = with_due ? (int64_t)decode_varint(d) : 0;
        r->end = 0;
    }
    uint64_t skip = decode_varint(d), length = decode_varint(d);
    CHECK(!d->failed && r->kind <= 1 && skip <= UINT64_MAX - r->end && length <= UINT64_MAX - r->end - skip);
    r->first = r->end + skip;
    r->end = r->first + length;
}

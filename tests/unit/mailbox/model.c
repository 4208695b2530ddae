// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "mailbox/state.h"

static struct model_subscription *subscription_add(struct model *m, const char *name, uint64_t start) {
    cr_assert(lt(sz, m->subscriptions_count, MODEL_SUBSCRIPTIONS_MAX));
    struct model_subscription *s = xcalloc(1, sizeof *s);
    strcpy(s->name, name);
    s->id = m->next_subscription++;
    s->start = start;
    for (size_t i = 0; i < MODEL_MESSAGES_MAX; i++)
        s->messages[i].holder = -1;
    m->subscriptions[m->subscriptions_count++] = s;
    return s;
}

void model_settings(struct mailbox_settings *s, uint64_t seed) {
    settings_default(s);
    s->dispatch = (enum dispatch)(seed % 4);
    s->ack_timeout = 5 * USEC_S;
    if (seed / 4 % 2)
        s->max_deliveries = 3;
    if (seed / 8 % 2)
        strcpy(s->dead_letter, "dlq");
    if (seed / 16 % 4 == 1)
        s->max_messages = 100;
    if (seed / 16 % 4 == 2) {
        s->max_messages = 100;
        s->overflow = OVERFLOW_DROP_OLDEST;
    }
    if (seed / 64 % 3 == 1)
        s->ttl = 4 * USEC_S;
    if (seed / 64 % 3 == 2)
        s->retain_time = 3 * USEC_S;
    if (seed / 128 % 3 == 2)
        s->retain_bytes = 5000;
}

struct model *model_new(const struct mailbox_settings *settings) {
    struct model *m = xcalloc(1, sizeof *m);
    m->settings = *settings;
    m->next_subscription = 1;
    m->keys = xcalloc(MODEL_MESSAGES_MAX, sizeof *m->keys);
    if (!settings->no_default)
        subscription_add(m, "default", 0);
    return m;
}

void model_free(struct model *m) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        free(m->subscriptions[i]);
    free(m->keys);
    free(m);
}

struct model_subscription *model_find(struct model *m, const char *name) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        if (!m->subscriptions[i]->gone && strcmp(m->subscriptions[i]->name, name) == 0)
            return m->subscriptions[i];
    return NULL;
}

static struct model_subscription *by_id(struct model *m, uint64_t id) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        if (!m->subscriptions[i]->gone && m->subscriptions[i]->id == id)
            return m->subscriptions[i];
    return NULL;
}

struct model_batch *model_batch_at(struct model *m, uint64_t offset) {
    for (size_t i = m->batches_count; i-- > 0;)
        if (m->batches[i].base <= offset)
            return &m->batches[i];
    return NULL;
}

/* ---- entries ---- */

static void read_batch(struct model *m, const struct entry *e) {
    struct batch_header h;
    batch_read_header(e->body->data, &h);
    cr_assert(eq(u64, h.base_offset, m->next_offset));
    cr_assert(le(u64, m->next_offset + h.count, MODEL_MESSAGES_MAX));
    cr_assert(lt(sz, m->batches_count, MODEL_BATCHES_MAX));
    for (size_t i = 0; i < m->batches_count; i++)
        if (m->batches[i].producer == h.producer.bytes[0])
            cr_assert(lt(u64, m->batches[i].sequence, h.sequence), "stored twice, or out of order");
    m->batches[m->batches_count++] = (struct model_batch){.index = e->index,
                                                          .base = h.base_offset,
                                                          .count = h.count,
                                                          .sequence = h.sequence,
                                                          .producer = h.producer.bytes[0],
                                                          .stamp = h.stamp};
    struct batch_cursor c = batch_messages(e->body->data, e->body->size);
    struct batch_message message;
    for (uint64_t o = h.base_offset; batch_next(&c, &message); o++)
        m->keys[o] = message.key.size ? (uint32_t)message.key.data[0] : 0;
    m->next_offset += h.count;
}

static void settle(struct model *m, struct model_subscription *s, uint64_t first, uint64_t end,
                   enum model_state state) {
    for (uint64_t o = first; o < end && o < m->next_offset; o++) {
        struct model_message *g = &s->messages[o];
        if (o < s->start || g->state != M_OPEN)
            continue;
        g->state = state;
        g->dying = false;
        g->holder = -1;
    }
}

static void read_settle(struct model *m, struct decoder *d) {
    struct turn_range r = {0};
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        turn_read(d, false, &r);
        struct model_subscription *s = by_id(m, r.subscription);
        if (s)
            settle(m, s, r.first, r.end, r.kind == SETTLED_ACK ? M_ACKED : M_DROPPED);
    }
}

static void read_return(struct model *m, struct decoder *d) {
    struct turn_range r = {0};
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        turn_read(d, true, &r);
        struct model_subscription *s = by_id(m, r.subscription);
        for (uint64_t o = r.first; s && o < r.end && o < m->next_offset; o++) {
            struct model_message *g = &s->messages[o];
            if (o < s->start || g->state != M_OPEN || g->dying)
                continue;
            g->number++;
            g->attempts += r.kind;
            g->due = r.due;
            g->holder = -1;
        }
    }
}

static void read_drop(struct model *m, struct decoder *d) {
    static const enum model_state states[] = {
        [DROP_EXPIRED] = M_EXPIRED, [DROP_OVERFLOW] = M_DROPPED, [DROP_PURGED] = M_PURGED};
    uint8_t reason = decode_u8(d);
    decode_varint(d);
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        uint64_t id = decode_varint(d), first = decode_varint(d), length = decode_varint(d);
        for (size_t i = 0; i < m->subscriptions_count; i++)
            if (!m->subscriptions[i]->gone && (id == 0 || m->subscriptions[i]->id == id))
                settle(m, m->subscriptions[i], first, first + length, states[reason]);
    }
}

static void read_subscribe(struct model *m, const struct entry *e, struct decoder *d) {
    char name[NAME_BYTES_MAX + 1];
    bool begins = decode_u8(d);
    decode_string(d, name, sizeof name);
    struct model_subscription *s = model_find(m, name);
    if (!begins && s)
        s->gone = true;
    if (!begins || s)
        return;
    enum subscription_from from = decode_u8(d);
    cr_assert(from == FROM_NEW || from == FROM_FIRST);
    uint64_t start = m->next_offset;
    for (size_t i = 0; from == FROM_FIRST && i < m->batches_count && start == m->next_offset; i++)
        if (!m->batches[i].dead)
            start = m->batches[i].base;
    s = subscription_add(m, name, start);
    s->born = e->epoch;
    for (size_t i = 0; i < m->batches_count; i++)
        for (uint64_t o = m->batches[i].base;
             m->batches[i].dead && o < m->batches[i].base + m->batches[i].count; o++)
            s->messages[o].state = M_ABSENT;
}

static void read_dying(struct model *m, const struct entry *e, struct decoder *d) {
    struct model_subscription *s = by_id(m, decode_varint(d));
    uint64_t offset = decode_varint(d);
    if (!s || s->messages[offset].state != M_OPEN || s->messages[offset].dying)
        return;
    s->messages[offset].dying = true;
    s->messages[offset].holder = -1;
    m->dying[m->dying_count++] = (struct model_dying){e->index, offset, s};
}

static void read_dead(struct model *m, struct decoder *d) {
    while (decoder_left(d)) {
        uint64_t intent = decode_varint(d);
        for (size_t i = 0; i < m->dying_count; i++)
            if (m->dying[i].intent == intent && !m->dying[i].subscription->gone)
                settle(m, m->dying[i].subscription, m->dying[i].offset, m->dying[i].offset + 1, M_DEAD);
    }
}

void model_apply(struct model *m, const struct entry *e) {
    struct decoder d = decoder_of(e->body ? e->body->data : NULL, e->body ? e->body->size : 0);
    if (e->type == ENTRY_BATCH)
        read_batch(m, e);
    else if (e->type == ENTRY_SETTLE)
        read_settle(m, &d);
    else if (e->type == ENTRY_RETURN)
        read_return(m, &d);
    else if (e->type == ENTRY_DROP)
        read_drop(m, &d);
    else if (e->type == ENTRY_SUBSCRIBE)
        read_subscribe(m, e, &d);
    else if (e->type == ENTRY_DYING)
        read_dying(m, e, &d);
    else if (e->type == ENTRY_DEAD)
        read_dead(m, &d);
    cr_assert(not(d.failed));
}

void model_new_leader(struct model *m) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        for (uint64_t o = 0; o < m->next_offset; o++)
            m->subscriptions[i]->messages[o].holder = -1;
}

/* ---- checks ---- */

static void check_counters(struct model *m, struct model_subscription *s,
                           const struct subscription_stats *t) {
    uint64_t n[M_STATES] = {0}, dying = 0;
    for (uint64_t o = s->start; o < m->next_offset; o++) {
        n[s->messages[o].state]++;
        dying += s->messages[o].dying;
    }
    cr_assert(eq(u64, t->published, m->next_offset - s->start - n[M_ABSENT]));
    cr_assert(eq(u64, t->ready + t->leased + t->delayed + t->dying, n[M_OPEN]));
    cr_assert(eq(u64, t->dying, dying));
    cr_assert(eq(u64, t->acked, n[M_ACKED]));
    cr_assert(eq(u64, t->dead, n[M_DEAD]));
    cr_assert(eq(u64, t->expired, n[M_EXPIRED]));
    cr_assert(eq(u64, t->dropped, n[M_DROPPED]));
    cr_assert(eq(u64, t->purged, n[M_PURGED]));
}

static bool batch_wanted(struct model *m, const struct model_batch *b) {
    for (size_t i = 0; i < m->subscriptions_count; i++)
        for (uint64_t o = b->base; !m->subscriptions[i]->gone && o < b->base + b->count; o++)
            if (o >= m->subscriptions[i]->start && m->subscriptions[i]->messages[o].state == M_OPEN)
                return true;
    return false;
}

static void check_apart(const struct ranges *x, const struct ranges *y, const char *what) {
    const struct range *r;
    for (uint64_t at = 0; (r = ranges_from(x, at)); at = r->end)
        cr_assert(zero(u64, ranges_covered(y, r->first, r->end)), "offsets %d to %d are %s", (int)r->first,
                  (int)r->end, what);
}

/* Set aside: neither leased nor to come back, though it may be settled. */
static void check_parked(const struct subscription *s) {
    for (const struct key_state *k = s->keys; k; k = k->hh.next)
        for (size_t i = 0; i < k->parked.count; i++) {
            uint64_t offset = k->parked.items[k->parked.head + i];
            bool leased = ranges_has(&s->leases, offset);
            bool back = ranges_has(&s->back, offset) || ranges_has(&s->delayed, offset);
            cr_assert(not(leased), "offset %d is set aside and leased", (int)offset);
            cr_assert(not(back), "offset %d is set aside and comes back", (int)offset);
        }
}

static void check_dying(const struct subscription *s) {
    const struct ranges *maps[] = {&s->settled, &s->leases, &s->back, &s->delayed};
    const struct range *r;
    for (uint64_t at = 0; (r = ranges_from(&s->marks, at)); at = r->end)
        for (size_t i = 0; mark_of(r).intent && i < 4; i++)
            cr_assert(zero(u64, ranges_covered(maps[i], r->first, r->end)), "dying and more");
}

void model_check_states(const struct mailbox *replica) {
    for (size_t i = 0; i < replica->subscriptions_count; i++) {
        const struct subscription *s = replica->subscriptions[i];
        check_apart(&s->settled, &s->leases, "settled and leased");
        check_apart(&s->settled, &s->marks, "settled and marked");
        check_apart(&s->settled, &s->back, "settled and come back");
        check_apart(&s->settled, &s->delayed, "settled and delayed");
        check_apart(&s->leases, &s->back, "leased and come back");
        check_apart(&s->leases, &s->delayed, "leased and delayed");
        check_apart(&s->back, &s->delayed, "come back and delayed");
        check_parked(s);
        check_dying(s);
    }
}

void model_check(struct model *m, const struct mailbox *replica, bool retention) {
    struct subscription_stats t;
    size_t i = 0;
    for (; mailbox_subscription_stats(replica, i, &t); i++) {
        struct model_subscription *s = model_find(m, t.name);
        cr_assert(ne(ptr, s, NULL));
        check_counters(m, s, &t);
    }
    for (size_t b = 0; b < m->batches_count; b++) {
        bool live = mailbox_batch_live(replica, m->batches[b].index),
             wanted = batch_wanted(m, &m->batches[b]);
        cr_assert(live || !wanted, "batch %zu is gone and still wanted", b);
        cr_assert(retention || live == wanted, "batch %zu stays and nobody wants it", b);
    }
}

static void check_order(struct model *m, struct model_subscription *s, uint64_t offset, int consumer) {
    bool by_key = m->settings.dispatch == DISPATCH_KEY;
    if (!by_key && m->settings.dispatch != DISPATCH_EXCLUSIVE)
        return;
    if (by_key && m->keys[offset] == 0)
        return;
    for (uint64_t o = s->start; o < offset; o++) {
        struct model_message *g = &s->messages[o];
        if (g->state != M_OPEN || g->dying || (by_key && m->keys[o] != m->keys[offset]))
            continue;
        cr_assert(g->holder != -1, "offset %d overtakes %d", (int)offset, (int)o);
        cr_assert(g->holder == consumer || g->holder == MODEL_LEAVING, "offset %d to another than %d",
                  (int)offset, (int)o);
    }
}

void model_deliver(struct model *m, const struct mailbox_effect *e, int consumer, int64_t stamp) {
    struct model_subscription *s = model_find(m, e->deliver.subscription);
    cr_assert(ne(ptr, s, NULL));
    for (uint64_t o = e->deliver.first_offset; o < e->deliver.first_offset + e->deliver.count; o++) {
        struct model_message *g = &s->messages[o];
        struct model_batch *b = model_batch_at(m, o);
        cr_assert(g->state == M_OPEN && !g->dying && o >= s->start, "offset %d is settled", (int)o);
        cr_assert(g->holder == -1, "offset %d is held by %d", (int)o, g->holder);
        cr_assert(g->due <= stamp, "offset %d is delayed", (int)o);
        cr_assert(eq(u64, g->number, e->deliver.delivery_number));
        cr_assert(eq(u64, g->attempts + 1, e->deliver.attempt));
        cr_assert(eq(u64, b->index, e->deliver.batch_index));
        cr_assert(eq(u64, b->base, e->deliver.base_offset));
        check_order(m, s, o, consumer);
        g->holder = consumer;
        g->holder_epoch = e->deliver.epoch;
    }
}

void model_check_letters(struct model *m, const uint8_t *stored) {
    for (size_t i = 0; i < m->dying_count; i++) {
        struct model_dying *d = &m->dying[i];
        cr_assert(stored[d->intent] <= 1, "dead letter %d stored twice", (int)d->intent);
        if (d->subscription->messages[d->offset].state == M_DEAD)
            cr_assert(stored[d->intent] == 1, "dead letter %d lost", (int)d->intent);
    }
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The replicated half as bytes. Same log, same bytes, on every replica and after
 * any number of restores: everything stands in an order that follows from the log.
 *
 * u8 version, settings, position (applied, next offset, last stamp, forget below,
 * next subscription), batches, producers (idle, then pinned), subscriptions (with
 * settled ranges and marks), dying. A change of the format: a new version number,
 * and the reader of the old one stays.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

enum { CHECKPOINT_VERSION = 1, KEYS_NONE = 0, KEYS_ONE = 1, KEYS_EACH = 2 };

/* ---- writing ---- */

static void batch_write(const struct batch_record *r, uint64_t *index, uint64_t *end, int64_t *stamp,
                        struct encoder *e) {
    encode_varint(e, r->index - *index);
    encode_varint(e, r->base - *end);
    encode_varint(e, (uint64_t)r->stamp - (uint64_t)*stamp);
    encode_varint(e, r->count);
    encode_varint(e, r->bytes);
    encode_u8(e, !r->keys ? KEYS_NONE : r->one_key ? KEYS_ONE : KEYS_EACH);
    uint32_t keys = !r->keys ? 0 : r->one_key ? 1 : r->count;
    for (uint32_t i = 0; i < keys; i++)
        encode_u32(e, r->keys[i]);
    *index = r->index;
    *end = batch_end(r);
    *stamp = r->stamp;
}

static void batches_write(const struct mailbox *m, struct encoder *e) {
    uint64_t index = 0, end = 0;
    int64_t stamp = 0;
    encode_varint(e, m->batches.count - m->batches.dead);
    for (const struct batch_record *r = batches_from(&m->batches, 0); r; r = batches_next(&m->batches, r))
        batch_write(r, &index, &end, &stamp, e);
}

static void producers_write(const struct producer *list, struct encoder *e) {
    const struct producer *p;
    size_t count;
    if (MUTATED(producers_not_in_checkpoint))
        list = NULL;
    DL_COUNT(list, p, count);
    encode_varint(e, count);
    DL_FOREACH(list, p) {
        encode_raw(e, p->id.bytes, sizeof p->id.bytes);
        encode_varint(e, p->last);
        encode_varint(e, p->last_base);
        encode_varint(e, (uint64_t)p->stamp);
    }
}

static void ranges_write(const struct ranges *s, bool with_mark, struct encoder *e) {
    uint64_t end = 0;
    encode_varint(e, ranges_count(s));
    for (const struct range *r = ranges_from(s, 0); r; r = ranges_from(s, end)) {
        encode_varint(e, r->first - end);
        encode_varint(e, r->end - r->first);
        if (with_mark) {
            encode_varint(e, r->value.a);
            encode_varint(e, r->value.b);
            encode_varint(e, r->value.c);
        }
        end = r->end;
    }
}

static uint64_t *const *counters_of(struct subscription *s, uint64_t *out[5]) {
    out[0] = &s->acked;
    out[1] = &s->dead;
    out[2] = &s->expired;
    out[3] = &s->dropped;
    out[4] = &s->purged;
    return out;
}

/* For a mutation: an acked message whose batch is still stored. UINT64_MAX: none. */
static uint64_t unsettle_one(struct subscription *s) {
    const struct batches *all = &s->mailbox->batches;
    for (const struct batch_record *r = batches_from(all, s->start); r && s->acked;
         r = batches_next(all, r)) {
        if (!ranges_has(&s->settled, batch_end(r) - 1))
            continue;
        ranges_clear(&s->settled, batch_end(r) - 1, batch_end(r));
        s->acked--;
        return batch_end(r) - 1;
    }
    return UINT64_MAX;
}

static void settle_one(struct subscription *s, uint64_t offset) {
    ranges_add(&s->settled, offset, offset + 1);
    s->acked++;
}

static void subscription_write(struct subscription *s, struct encoder *e) {
    uint64_t *counters[5];
    counters_of(s, counters);
    uint64_t lost = MUTATED(settled_not_in_checkpoint) ? unsettle_one(s) : UINT64_MAX;
    encode_string(e, s->name);
    encode_varint(e, s->id);
    encode_varint(e, s->born);
    encode_varint(e, s->start);
    encode_varint(e, s->absent);
    for (size_t i = 0; i < 5; i++)
        encode_varint(e, *counters[i]);
    ranges_write(&s->settled, false, e);
    ranges_write(MUTATED(marks_not_in_checkpoint) ? &(struct ranges){0} : &s->marks, true, e);
    if (lost != UINT64_MAX)
        settle_one(s, lost);
}

static void dying_write(const struct mailbox *m, struct encoder *e) {
    const struct dying *d;
    encode_varint(e, HASH_COUNT(m->dying_by_intent));
    DL_FOREACH(m->dying, d) {
        encode_varint(e, d->intent);
        encode_varint(e, d->subscription->id);
        encode_varint(e, d->offset);
        encode_varint(e, d->attempts);
        encode_u8(e, d->reason);
        encode_string(e, d->target);
        encode_varint(e, d->target_partition);
    }
}

void mailbox_checkpoint(const struct mailbox *m, struct encoder *e) {
    encode_u8(e, CHECKPOINT_VERSION);
    settings_encode(&m->settings, e);
    encode_varint(e, m->applied);
    encode_varint(e, m->next_offset);
    encode_varint(e, (uint64_t)m->last_stamp);
    encode_varint(e, m->forget_below);
    encode_varint(e, m->next_subscription);
    batches_write(m, e);
    producers_write(m->idle_producers, e);
    producers_write(m->pinned_producers, e);
    encode_varint(e, m->subscriptions_count);
    for (size_t i = 0; i < m->subscriptions_count; i++)
        subscription_write(m->subscriptions[i], e);
    dying_write(m, e);
}

/* ---- reading: false at the first thing that cannot be ---- */

static bool keys_read(struct decoder *d, struct batch_record *r) {
    uint8_t form = decode_u8(d);
    uint32_t keys = form == KEYS_ONE ? 1 : form == KEYS_EACH ? r->count : 0;
    if (d->failed || form > KEYS_EACH || decoder_left(d) / 4 < keys)
        return false;
    if (keys == 0)
        return true;
    r->one_key = form == KEYS_ONE;
    r->keys = xmalloc(keys * sizeof *r->keys);
    for (uint32_t i = 0; i < keys; i++)
        r->keys[i] = decode_u32(d);
    return true;
}

static bool batch_read(struct mailbox *m, struct decoder *d, uint64_t *index, uint64_t *end, int64_t *stamp) {
    uint64_t step = decode_varint(d), gap = decode_varint(d), later = decode_varint(d);
    uint64_t count = decode_varint(d), bytes = decode_varint(d);
    if (d->failed || step == 0 || step > UINT64_MAX - *index || gap > m->next_offset - *end || count == 0 ||
        count > BATCH_MESSAGES_MAX || count > m->next_offset - *end - gap || bytes > UINT32_MAX ||
        bytes < BATCH_HEADER_BYTES)
        return false;
    struct batch_record *r = batches_push(&m->batches);
    r->index = *index += step;
    r->base = *end + gap;
    r->stamp = *stamp = (int64_t)((uint64_t)*stamp + later);
    r->count = (uint32_t)count;
    r->bytes = (uint32_t)bytes;
    m->stored_bytes += bytes;
    *end = batch_end(r);
    return keys_read(d, r) && (r->keys != NULL) == keys_used(m);
}

static bool batches_read(struct mailbox *m, struct decoder *d) {
    uint64_t index = 0, end = 0;
    int64_t stamp = 0;
    for (uint64_t n = decode_varint(d); n > 0; n--)
        if (!batch_read(m, d, &index, &end, &stamp))
            return false;
    return !d->failed && stamp <= m->last_stamp && index <= m->applied;
}

static bool producers_read(struct mailbox *m, struct decoder *d, bool pinned) {
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        struct producer_id id;
        const uint8_t *bytes = decode_raw(d, sizeof id.bytes);
        uint64_t last = decode_varint(d), base = decode_varint(d), stamp = decode_varint(d);
        if (d->failed)
            return false;
        memcpy(id.bytes, bytes, sizeof id.bytes);
        if (producer_find(m, &id))
            return false;
        struct producer *p = producer_make(m, &id);
        p->pinned = pinned;
        p->last = p->taken = last;
        p->last_base = base;
        p->stamp = (int64_t)stamp;
        producer_append(m, p);
    }
    return !d->failed;
}

static bool range_read(struct decoder *d, uint64_t limit, uint64_t *end, uint64_t *first) {
    uint64_t gap = decode_varint(d), length = decode_varint(d);
    if (d->failed || gap > limit - *end || length == 0 || length > limit - *end - gap)
        return false;
    *first = *end + gap;
    *end = *first + length;
    return true;
}

static bool settled_read(struct subscription *s, struct decoder *d, uint64_t limit) {
    uint64_t end = 0, first;
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        if (!range_read(d, limit, &end, &first))
            return false;
        ranges_add(&s->settled, first, end);
    }
    return !d->failed && ranges_covered(&s->settled, 0, s->start) == s->start;
}

static bool marks_read(struct subscription *s, struct decoder *d, uint64_t limit) {
    uint64_t end = 0, first;
    for (uint64_t n = decode_varint(d); n > 0; n--) {
        if (!range_read(d, limit, &end, &first) || ranges_covered(&s->settled, first, end))
            return false;
        struct range r = {.value = {decode_varint(d), decode_varint(d), decode_varint(d)}};
        mark_set(s, first, end, mark_of(&r));
    }
    return !d->failed;
}

/* What is unsettled must be stored. */
static bool unsettled_stored(const struct mailbox *m, const struct subscription *s) {
    uint64_t at = 0, stop;
    for (; ranges_gap(&s->settled, &at, m->next_offset, &stop); at = stop)
        for (uint64_t from = at; from < stop;) {
            const struct batch_record *r = batches_at(&m->batches, from);
            if (!r)
                return false;
            from = batch_end(r);
        }
    return true;
}

static bool subscription_read(struct mailbox *m, struct decoder *d) {
    char name[NAME_BYTES_MAX + 1];
    uint64_t *counters[5], sum = 0;
    decode_string(d, name, sizeof name);
    uint64_t id = decode_varint(d), born = decode_varint(d), start = decode_varint(d),
             absent = decode_varint(d);
    if (d->failed || id == 0 || id >= m->next_subscription || subscription_find(m, name) ||
        start > m->next_offset || subscription_by_id(m, id))
        return false;
    struct subscription *s = subscription_make(m, name, id);
    counters_of(s, counters);
    s->born = born;
    s->start = start;
    s->absent = absent;
    for (size_t i = 0; i < 5; i++)
        sum += *counters[i] = decode_varint(d);
    return settled_read(s, d, m->next_offset) && absent <= s->settled.total - start &&
           subscription_settled(s) == sum && marks_read(s, d, m->next_offset) && unsettled_stored(m, s);
}

static bool dying_read(struct mailbox *m, struct decoder *d) {
    uint64_t intent = decode_varint(d);
    struct subscription *s = subscription_by_id(m, decode_varint(d));
    uint64_t offset = decode_varint(d), attempts = decode_varint(d);
    uint8_t reason = decode_u8(d);
    char target[NAME_BYTES_MAX + 1];
    decode_string(d, target, sizeof target);
    uint64_t partition = decode_varint(d);
    if (d->failed || !s || intent == 0 || mark_at(s, offset).intent != intent || reason < DYING_REJECTED ||
        reason > DYING_REASON_MAX || (m->dying && m->dying->prev->intent >= intent))
        return false;
    struct dying *made = dying_make(m, intent);
    made->subscription = s;
    made->offset = offset;
    made->attempts = (uint32_t)attempts;
    made->reason = reason;
    memcpy(made->target, target, sizeof target);
    made->target_partition = (uint32_t)partition;
    return true;
}

static bool dyings_read(struct mailbox *m, struct decoder *d) {
    uint64_t marked = 0, count = decode_varint(d);
    for (uint64_t n = count; n > 0; n--)
        if (!dying_read(m, d))
            return false;
    for (size_t i = 0; i < m->subscriptions_count; i++)
        marked += m->subscriptions[i]->dying;
    return !d->failed && marked == count;
}

static bool subscriptions_read(struct mailbox *m, struct decoder *d) {
    uint64_t count = decode_varint(d);
    if (count > MAILBOX_SUBSCRIPTIONS_MAX)
        return false;
    for (uint64_t n = count; n > 0; n--)
        if (!subscription_read(m, d))
            return false;
    return !d->failed;
}

static bool state_read(struct mailbox *m, struct decoder *d) {
    if (decode_u8(d) != CHECKPOINT_VERSION || !settings_decode(d, &m->settings))
        return false;
    m->applied = decode_varint(d);
    m->next_offset = decode_varint(d);
    m->last_stamp = (int64_t)decode_varint(d);
    m->forget_below = decode_varint(d);
    m->next_subscription = decode_varint(d);
    return !d->failed && batches_read(m, d) && producers_read(m, d, false) && producers_read(m, d, true) &&
           subscriptions_read(m, d) && dyings_read(m, d);
}

bool mailbox_restore(struct mailbox *m, struct decoder *d) {
    CHECK(!m->leading && m->applied == 0);
    state_clear(m);
    if (state_read(m, d)) {
        batches_sum(m);
        return true;
    }
    state_reset(m);
    return false;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Limits, time to live, retention, purge: decided by the leader, done by DROP
 * entries: u8 enum drop_reason, varint offset below which retention lets go (0:
 * as it was), varint count, then for each: varint subscription (0: all), varint
 * first, varint length.
 */
#include "mailbox/state.h"

enum { LIMITS_EXPIRE_PACE_US = 10000 };

/* ---- shares ---- */

/* This partition's part of a limit of the whole mailbox; 0: no limit. */
static uint64_t share(const struct mailbox *m, uint64_t limit) {
    uint64_t parts = m->settings.partitions ? m->settings.partitions : 1;
    uint64_t part = limit / parts + (m->partition < limit % parts);
    return limit && part == 0 ? 1 : part;
}

static uint64_t over(uint64_t have, uint64_t more, uint64_t limit) {
    return limit && have + more > limit ? have + more - limit : 0;
}

static usec_t due_at(const struct mailbox *m, int64_t stamp, usec_t age) {
    int64_t due = time_after(stamp, age);
    return due == INT64_MAX ? USEC_NEVER : due - m->stamp_offset;
}

/* ---- drop entries ---- */

static void drop_header(struct encoder *e, enum drop_reason reason, uint64_t forget_below, size_t count) {
    encode_u8(e, (uint8_t)reason);
    encode_varint(e, forget_below);
    encode_varint(e, count);
}

static void drop_range(struct encoder *e, uint64_t subscription, uint64_t first, uint64_t end) {
    encode_varint(e, subscription);
    encode_varint(e, first);
    encode_varint(e, end - first);
}

static uint64_t *drop_counter(struct subscription *s, enum drop_reason reason) {
    return reason == DROP_EXPIRED ? &s->expired : reason == DROP_OVERFLOW ? &s->dropped : &s->purged;
}

static void drop_settle(struct mailbox *m, struct subscription *s, enum drop_reason reason, uint64_t first,
                        uint64_t end, struct mailbox_effects *fx) {
    *drop_counter(s, reason) += offsets_settle(m, s, first, end, fx);
}

void apply_drop(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    enum drop_reason reason = decode_u8(&d);
    uint64_t forget_below = decode_varint(&d);
    CHECK(!d.failed && reason >= DROP_EXPIRED && reason <= DROP_REASON_MAX);
    for (uint64_t n = decode_varint(&d); n > 0; n--) {
        uint64_t id = decode_varint(&d), first = decode_varint(&d), length = decode_varint(&d);
        CHECK(!d.failed && length <= UINT64_MAX - first);
        for (size_t i = 0; i < m->subscriptions_count; i++)
            if (id == 0 || m->subscriptions[i]->id == id)
                drop_settle(m, m->subscriptions[i], reason, first, first + length, fx);
    }
    CHECK(!d.failed && decoder_left(&d) == 0);
    if (forget_below > m->forget_below) {
        m->forget_below = forget_below;
        batches_release(m, fx);
    }
}

/* ---- overflow ---- */

/* The end of the first `messages` unsettled ones of a batch, from `at` on. */
static uint64_t end_of(const struct mailbox *m, const struct batch_record *b, uint64_t at,
                       uint64_t messages) {
    uint64_t low = at, high = batch_end(b);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (batches_unsettled(m, at, middle) < messages)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* How far from the oldest on messages must go; what that frees is taken off the needs. */
static uint64_t overflow_end(struct mailbox *m, uint64_t messages, uint64_t bytes) {
    uint64_t end = m->overflow_below;
    struct batch_record *b = batches_from(&m->batches, end);
    for (; b && (messages || bytes); b = batches_next(&m->batches, b)) {
        uint64_t from = b->base > end ? b->base : end;
        uint64_t here = batches_unsettled(m, from, batch_end(b));
        if (bytes == 0 && here > messages) {
            end = end_of(m, b, from, messages);
            m->overflow_messages += messages;
            return end;
        }
        end = batch_end(b);
        m->overflow_messages += here;
        m->overflow_bytes += here ? b->bytes : 0;
        messages -= here < messages ? here : messages;
        bytes -= here && b->bytes < bytes ? b->bytes : here ? bytes : 0;
    }
    return messages || bytes ? m->proposed_offset : end; /* what is in flight too */
}

static void overflow_drop(struct mailbox *m, uint64_t messages, uint64_t bytes, struct mailbox_effects *fx) {
    uint64_t messages_before = m->overflow_messages, bytes_before = m->overflow_bytes;
    uint64_t first = m->overflow_below, end = overflow_end(m, messages, bytes);
    if (end <= first)
        return;
    struct encoder e = {0};
    drop_header(&e, DROP_OVERFLOW, 0, 1);
    drop_range(&e, 0, first, end);
    m->overflow_below = end;
    struct proposal p = {.type = ENTRY_DROP,
                         .count = (uint32_t)(m->overflow_messages - messages_before),
                         .bytes = m->overflow_bytes - bytes_before};
    propose(m, p, encoder_body(&e), fx);
}

bool limits_room(struct mailbox *m, uint32_t count, uint32_t bytes, struct mailbox_effects *fx) {
    uint64_t most = share(m, m->wanted.max_messages), most_bytes = share(m, m->wanted.max_bytes);
    uint64_t have = m->messages + m->proposed_messages, have_bytes = m->bytes + m->proposed_bytes;
    have -= m->overflow_messages < have ? m->overflow_messages : have;
    have_bytes -= m->overflow_bytes < have_bytes ? m->overflow_bytes : have_bytes;
    uint64_t too_many = over(have, count, most), too_large = over(have_bytes, bytes, most_bytes);
    if (!too_many && !too_large)
        return true;
    if (m->wanted.overflow == OVERFLOW_REJECT || over(0, count, most) || over(0, bytes, most_bytes))
        return false;
    overflow_drop(m, too_many, too_large, fx);
    return true;
}

void limits_drop_committed(struct mailbox *m, const struct proposal *p) {
    m->overflow_messages -= p->count;
    m->overflow_bytes -= p->bytes;
    if (p->sequence == DROP_EXPIRED) {
        m->expiring = false;
        limits_arm(m);
    }
}

/* ---- time to live ---- */

bool limits_expired(const struct mailbox *m, const struct batch_record *b) {
    return m->settings.ttl && b && b->stamp <= time_before(log_time(m), m->settings.ttl);
}

/* Not too often: each look walks over what is leased. */
static void look_at(struct mailbox *m, usec_t at) {
    usec_t soonest = time_after(m->expired_at, LIMITS_EXPIRE_PACE_US);
    heap_put(&m->timers, &m->ttl_timer, at > soonest ? at : soonest);
}

void limits_expire_soon(struct mailbox *m) {
    if (!m->expiring && !m->limbo)
        look_at(m, m->now);
}

/* First batch younger than the time to live. */
static const struct batch_record *first_fresh(const struct mailbox *m) {
    return batches_younger(&m->batches, time_before(log_time(m), m->settings.ttl));
}

/* The stretch from `at` in one state; true if it is neither settled, leased nor dying. */
static bool idle_stretch(const struct subscription *s, uint64_t at, uint64_t end, uint64_t *stop) {
    const struct ranges *maps[] = {&s->settled, &s->leases};
    struct mark mark;
    bool idle = true;
    *stop = mark_run(s, at, end, &mark);
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        const struct range *r = ranges_from(maps[i], at);
        if (!r)
            continue;
        idle &= r->first > at;
        uint64_t edge = r->first > at ? r->first : r->end;
        *stop = edge < *stop ? edge : *stop;
    }
    return idle && !mark.intent;
}

static size_t expire_ranges(struct subscription *s, uint64_t end, struct encoder *e) {
    size_t count = 0;
    for (uint64_t at = s->start, stop; at < end; at = stop)
        if (idle_stretch(s, at, end, &stop)) {
            drop_range(e, s->id, at, stop);
            count++;
        }
    return count;
}

void on_ttl(struct mailbox *m, struct mailbox_effects *fx) {
    if (!m->settings.ttl)
        return;
    if (m->expiring) { /* what is under way may be by another time to live */
        look_at(m, time_after(m->now, LIMITS_EXPIRE_PACE_US));
        return;
    }
    if (m->limbo) /* consumers may hold what seems to be idle; limbo_end looks again */
        return;
    m->expired_at = m->now;
    const struct batch_record *b = first_fresh(m);
    uint64_t end = b ? b->base : m->next_offset;
    struct encoder ranges = {0}, e = {0};
    size_t count = 0;
    for (size_t i = 0; i < m->subscriptions_count; i++)
        count += expire_ranges(m->subscriptions[i], end, &ranges);
    if (count) {
        drop_header(&e, DROP_EXPIRED, 0, count);
        encode_raw(&e, ranges.data, ranges.size);
        m->expiring = true;
        propose(m, (struct proposal){.type = ENTRY_DROP, .sequence = DROP_EXPIRED}, encoder_body(&e), fx);
    }
    encoder_free(&ranges);
    limits_arm(m);
}

/* ---- retention ---- */

static uint64_t retention_time_end(const struct mailbox *m, const struct batch_record **first_kept) {
    uint64_t end = 0;
    const struct batch_record *b = batches_from(&m->batches, m->retained_below);
    for (; b && b->stamp <= time_before(log_time(m), m->settings.retain_time);
         b = batches_next(&m->batches, b))
        end = batch_end(b);
    *first_kept = b;
    return end;
}

static uint64_t retention_bytes_end(const struct mailbox *m) {
    uint64_t retained = m->stored_bytes - m->bytes, end = 0;
    const struct batch_record *b = batches_from(&m->batches, 0);
    for (; b && retained > m->settings.retain_bytes; b = batches_next(&m->batches, b)) {
        if (b->unsettled)
            continue;
        retained -= b->bytes;
        end = batch_end(b);
    }
    return end;
}

void on_retention(struct mailbox *m, struct mailbox_effects *fx) {
    uint64_t end = 0, by_bytes = 0;
    const struct batch_record *kept = NULL;
    if (m->retained_below < m->forget_below)
        m->retained_below = m->forget_below;
    if (m->settings.retain_time)
        end = retention_time_end(m, &kept);
    if (m->settings.retain_bytes)
        by_bytes = retention_bytes_end(m);
    end = by_bytes > end ? by_bytes : end;
    if (end > m->retained_below) {
        struct encoder e = {0};
        drop_header(&e, DROP_RETENTION, end, 0);
        m->retained_below = end;
        propose(m, (struct proposal){.type = ENTRY_DROP}, encoder_body(&e), fx);
    }
    if (kept)
        heap_put(&m->timers, &m->retention_timer, due_at(m, kept->stamp, m->settings.retain_time));
}

/* ---- timers ---- */

static void arm_ttl(struct mailbox *m) {
    if (!m->settings.ttl || m->ttl_timer.place)
        return;
    const struct batch_record *b = first_fresh(m);
    if (b)
        look_at(m, due_at(m, b->stamp, m->settings.ttl));
}

static void arm_retention(struct mailbox *m) {
    const struct batch_record *b = batches_from(&m->batches, m->retained_below);
    if (m->settings.retain_bytes && m->stored_bytes - m->bytes > m->settings.retain_bytes)
        heap_put(&m->timers, &m->retention_timer, m->now);
    else if (m->settings.retain_time && b && !m->retention_timer.place)
        heap_put(&m->timers, &m->retention_timer, due_at(m, b->stamp, m->settings.retain_time));
}

void limits_arm(struct mailbox *m) {
    if (!m->leading)
        return;
    arm_ttl(m);
    arm_retention(m);
}

/* ---- purge, settings ---- */

void mailbox_purge(struct mailbox *m, struct mailbox_effects *fx) {
    if (!m->leading || m->proposed_offset == 0)
        return;
    struct encoder e = {0};
    drop_header(&e, DROP_PURGED, m->proposed_offset, 1);
    drop_range(&e, 0, 0, m->proposed_offset);
    propose(m, (struct proposal){.type = ENTRY_DROP}, encoder_body(&e), fx);
    dispatch_all(m, fx);
}

/* What a mailbox is made with stays: partitions, durability, dispatch, default. */
void apply_settings(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    struct mailbox_settings s;
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    CHECK(settings_decode(&d, &s));
    s.partitions = m->settings.partitions;
    s.durability = m->settings.durability;
    s.dispatch = m->settings.dispatch;
    s.no_default = m->settings.no_default;
    m->settings = s;
    heap_remove(&m->timers, &m->ttl_timer);
    heap_remove(&m->timers, &m->retention_timer);
    batches_release(m, fx);
    limits_arm(m);
    if (m->leading && limits_expired(m, batches_from(&m->batches, 0))) /* all may be too old at once */
        look_at(m, m->now);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Dead letters: DYING (varint subscription, varint offset, u8 enum dying_reason,
 * target, varint target partition) is the intent, its log index the sequence under
 * which the leader has it published at the target; DEAD (varint intents) says that
 * it is stored there. Intents go out in order; `after` names the one before to the
 * same target while that is still on its way, so none is taken for a duplicate of
 * a later one. After a refusal all wait, then start again from the oldest.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

enum { BACKOFF_FIRST_US = 100000, BACKOFF_MAX_US = 10000000 };

static const char *const reason_names[] = {
    [DYING_REJECTED] = "rejected", [DYING_MAX_DELIVERIES] = "max-deliveries"};

const char *dying_reason_name(uint8_t reason) {
    return reason_names[reason];
}

static struct dying *dying_find(struct mailbox *m, uint64_t intent) {
    struct dying *d;
    HASH_FIND(hh, m->dying_by_intent, &intent, sizeof intent, d);
    return d;
}

struct dying *dying_make(struct mailbox *m, uint64_t intent) {
    struct dying *d = xcalloc(1, sizeof *d);
    d->intent = intent;
    HASH_ADD(hh, m->dying_by_intent, intent, sizeof d->intent, d);
    DL_APPEND(m->dying, d);
    return d;
}

void dying_forget(struct mailbox *m, uint64_t intent) {
    struct dying *d = dying_find(m, intent);
    if (!d)
        return;
    if (d->sent)
        m->dead_letters_sent--;
    HASH_DELETE(hh, m->dying_by_intent, d);
    DL_DELETE(m->dying, d);
    free(d);
}

/* ---- intents ---- */

static void propose_one(struct mailbox *m, struct subscription *s, uint64_t offset, enum dying_reason reason,
                        const struct ask *ask, struct mailbox_effects *fx) {
    struct encoder e = {0};
    encode_varint(&e, s->id);
    encode_varint(&e, offset);
    encode_u8(&e, (uint8_t)reason);
    encode_string(&e, m->settings.dead_letter);
    encode_varint(&e, m->dead_letter_partitions ? m->partition % m->dead_letter_partitions : 0);
    struct proposal p = {.type = ENTRY_DYING};
    waiter_settle(m, &p.waiters, ask, SETTLE_DONE);
    propose(m, p, encoder_body(&e), fx);
}

void dying_propose(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                   enum dying_reason reason, const struct ask *ask, struct mailbox_effects *fx) {
    lease_move(s, first, end, SPAN_SETTLING);
    if (!m->settings.dead_letter[0]) {
        turn_add(&m->settles, s->id, first, end, SETTLED_DROPPED, 0);
        waiter_settle(m, &m->settles.waiters, ask, SETTLE_DONE);
        return;
    }
    for (uint64_t at = first; at < end; at++)
        propose_one(m, s, at, reason, ask, fx);
}

void apply_dying(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    struct dying read = {0};
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    uint64_t id = decode_varint(&d), offset = decode_varint(&d);
    read.reason = decode_u8(&d);
    decode_string(&d, read.target, sizeof read.target);
    read.target_partition = (uint32_t)decode_varint(&d);
    CHECK(!d.failed && read.reason >= DYING_REJECTED && read.reason <= DYING_REASON_MAX);
    struct subscription *s = subscription_by_id(m, id);
    struct mark mark = s ? mark_at(s, offset) : (struct mark){0};
    if (!s || offset >= m->next_offset || ranges_has(&s->settled, offset) || mark.intent)
        return;
    struct dying *made = dying_make(m, e->index);
    made->subscription = s;
    made->offset = offset;
    made->attempts = mark.attempts + 1;
    made->reason = read.reason;
    memcpy(made->target, read.target, sizeof made->target);
    made->target_partition = read.target_partition;
    lease_clear(m, s, offset, offset + 1);
    back_clear(s, offset, offset + 1);
    mark.intent = e->index;
    mark.due = 0;
    mark_set(s, offset, offset + 1, mark);
    dispatch_touch(s);
    dying_send(m, fx);
}

/* ---- sending ---- */

static uint64_t dying_after(const struct mailbox *m, const struct dying *d) {
    for (const struct dying *p = d; p != m->dying;) {
        p = p->prev;
        if (p->subscription == d->subscription && p->target_partition == d->target_partition &&
            strcmp(p->target, d->target) == 0)
            return p->intent;
    }
    return 0;
}

/* The partition and the subscription, so that it is the same for every leader. */
static struct producer_id dying_producer(const struct mailbox *m, const struct subscription *s) {
    struct producer_id id;
    put_u64(id.bytes, m->id);
    put_u64(id.bytes + 8, s->id);
    return id;
}

static void dying_emit(struct mailbox *m, struct dying *d, struct mailbox_effects *fx) {
    const struct batch_record *b = batches_at(&m->batches, d->offset);
    CHECK(b);
    struct mailbox_effect *e = effect_add(fx, MAILBOX_DEAD_LETTER);
    e->dead_letter.intent = d->intent;
    e->dead_letter.after = dying_after(m, d);
    e->dead_letter.producer = dying_producer(m, d->subscription);
    memcpy(e->dead_letter.target, d->target, sizeof d->target);
    e->dead_letter.target_partition = d->target_partition;
    e->dead_letter.subscription = d->subscription->name;
    e->dead_letter.batch_index = b->index;
    e->dead_letter.base_offset = b->base;
    e->dead_letter.offset = d->offset;
    e->dead_letter.attempts = d->attempts;
    e->dead_letter.reason = dying_reason_name(d->reason);
    e->dead_letter.body = b->body ? body_keep(b->body) : NULL;
    d->sent = true;
    m->dead_letters_sent++;
}

void dying_send(struct mailbox *m, struct mailbox_effects *fx) {
    if (!m->leading || m->dead_letter_timer.place)
        return;
    for (struct dying *d = m->dying; d && m->dead_letters_sent < MAILBOX_DEAD_LETTERS_MAX; d = d->next)
        if (!d->sent && !d->stored)
            dying_emit(m, d, fx);
}

void dying_lead(struct mailbox *m) {
    struct dying *d;
    DL_FOREACH(m->dying, d)
    d->sent = d->stored = false;
    m->dead_letters_sent = 0;
    m->dead_letter_backoff = BACKOFF_FIRST_US;
    m->dead_letter_error = ERR_OK;
}

static void dying_refused(struct mailbox *m, enum err code) {
    if (code != ERR_OUT_OF_ORDER || m->dead_letter_error == ERR_OK)
        m->dead_letter_error = code;
    if (m->dead_letter_timer.place)
        return;
    heap_put(&m->timers, &m->dead_letter_timer, m->now + m->dead_letter_backoff);
    m->dead_letter_backoff *= 2;
    if (m->dead_letter_backoff > BACKOFF_MAX_US)
        m->dead_letter_backoff = BACKOFF_MAX_US;
}

void mailbox_dead_letter_partitions(struct mailbox *m, uint32_t partitions) {
    m->dead_letter_partitions = partitions;
}

void mailbox_dead_lettered(struct mailbox *m, uint64_t intent, enum err code, usec_t now,
                           struct mailbox_effects *fx) {
    struct dying *d = m->leading ? dying_find(m, intent) : NULL;
    if (!d || !d->sent)
        return;
    m->now = now;
    d->sent = false;
    m->dead_letters_sent--;
    if (code != ERR_OK) {
        dying_refused(m, code);
        return;
    }
    d->stored = true;
    m->dead_letter_error = ERR_OK;
    m->dead_letter_backoff = BACKOFF_FIRST_US;
    xgrow(&m->deads, &m->deads_capacity, m->deads_count + 1, sizeof *m->deads);
    m->deads[m->deads_count++] = intent;
    dying_send(m, fx);
}

void apply_dead(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    CHECK(e->body);
    struct decoder d = decoder_of(e->body->data, e->body->size);
    while (decoder_left(&d)) {
        struct dying *found = dying_find(m, decode_varint(&d));
        if (!found)
            continue;
        struct subscription *s = found->subscription;
        s->dead += offsets_settle(m, s, found->offset, found->offset + 1, fx);
    }
    CHECK(!d.failed);
}

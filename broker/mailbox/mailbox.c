// SPDX-License-Identifier: Apache-2.0
/*
 * A mailbox's life: the committed entries, leading and leaving it, time.
 */
#include "mailbox/mailbox.h"

#include <stdlib.h>
#include <string.h>

#include "mailbox/state.h"

static struct mailbox *mailbox_empty(void) {
    struct mailbox *m = xcalloc(1, sizeof *m);
    m->limbo_timer.kind = TIMER_LIMBO;
    m->ttl_timer.kind = TIMER_TTL;
    m->retention_timer.kind = TIMER_RETENTION;
    m->producers_timer.kind = TIMER_PRODUCERS;
    m->dead_letter_timer.kind = TIMER_DEAD_LETTERS;
    return m;
}

struct mailbox *mailbox_new(const struct mailbox_options *options) {
    struct mailbox *m = mailbox_empty();
    m->name = xstrdup(options->name);
    m->id = options->id;
    m->partition = options->partition;
    m->creation = options->settings;
    state_reset(m);
    return m;
}

/* Everything but what mailbox_new was told. */
void state_clear(struct mailbox *m) {
    while (m->dying)
        dying_forget(m, m->dying->intent);
    while (m->subscriptions_count)
        subscription_free(m, m->subscriptions[--m->subscriptions_count]);
    free(m->subscriptions);
    m->subscriptions = NULL;
    m->subscriptions_capacity = 0;
    batches_free(&m->batches);
    producers_free(m);
    m->next_offset = m->forget_below = m->applied = 0;
    m->last_stamp = 0;
    m->messages = m->bytes = m->stored_bytes = 0;
    m->next_subscription = 1;
}

/* As mailbox_new made it. */
void state_reset(struct mailbox *m) {
    state_clear(m);
    m->settings = m->creation;
    if (!m->settings.no_default)
        subscription_make(m, "default", m->next_subscription++);
}

void mailbox_free(struct mailbox *m) {
    if (!m)
        return;
    struct mailbox_effects fx = {0};
    mailbox_unlead(m, &fx);
    mailbox_effects_free(&fx);
    state_clear(m);
    for (size_t i = 0; i < MAILBOX_OLD_NAMES; i++)
        free(m->old_names[i]);
    heap_free(&m->timers);
    free(m->name);
    free(m);
}

/* ---- committed entries ---- */

static void entry_run(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    switch (e->type) {
    case ENTRY_BATCH:
        apply_batch(m, e, fx);
        break;
    case ENTRY_SETTLE:
        apply_settle(m, e, fx);
        break;
    case ENTRY_RETURN:
        apply_return(m, e);
        break;
    case ENTRY_DROP:
        apply_drop(m, e, fx);
        break;
    case ENTRY_SUBSCRIBE:
        apply_subscribe(m, e, fx);
        break;
    case ENTRY_PRODUCER_DROP:
        apply_producer_drop(m, e);
        break;
    case ENTRY_DYING:
        apply_dying(m, e, fx);
        break;
    case ENTRY_DEAD:
        apply_dead(m, e, fx);
        break;
    case ENTRY_SETTINGS:
        apply_settings(m, e, fx);
        break;
    default:
        break;
    }
}

static bool is_ours(uint8_t type) {
    return type >= ENTRY_BATCH && type <= ENTRY_SETTINGS;
}

void entry_apply(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx) {
    bool answers = m->leading && e->epoch == m->epoch && is_ours(e->type);
    struct proposal p;
    if (answers)
        p = proposal_pop(m, e->type);
    entry_run(m, e, fx);
    if (answers)
        proposal_committed(m, &p, fx);
}

void mailbox_apply(struct mailbox *m, const struct entry *entry, usec_t now, struct mailbox_effects *fx) {
    CHECK(entry->index > m->applied);
    m->now = now;
    m->applied = entry->index;
    m->fresh = entry->type == ENTRY_BATCH ? entry->body : NULL;
    m->fresh_index = entry->index;
    entry_apply(m, entry, fx);
    dispatch_all(m, fx);
    m->fresh = NULL;
}

/* ---- leading ---- */

static void limbo_begin(struct mailbox *m, const uint64_t *gateways, size_t count, usec_t failure_timeout,
                        struct mailbox_effects *fx) {
    m->lead_offset = m->next_offset;
    m->gateways = xmalloc(count * sizeof *gateways);
    if (count)
        memcpy(m->gateways, gateways, count * sizeof *gateways);
    m->gateways_count = count;
    m->limbo = true;
    heap_put(&m->timers, &m->limbo_timer, m->now + failure_timeout);
    for (size_t i = 0; i < m->subscriptions_count; i++)
        subscription_lead(m, m->subscriptions[i]);
    if (count == 0 || MUTATED(inherited_at_once))
        limbo_end(m, fx);
}

void mailbox_lead(struct mailbox *m, uint64_t epoch, const uint64_t *gateways, size_t gateways_count,
                  usec_t failure_timeout, usec_t now, int64_t stamp, struct mailbox_effects *fx) {
    if (m->leading)
        mailbox_unlead(m, fx);
    m->leading = true;
    m->epoch = epoch;
    m->allowed = m->expired_at = INT64_MIN;
    m->now = now;
    m->stamp_offset = stamp - now;
    m->wanted = m->settings;
    m->proposed_offset = m->next_offset;
    m->proposed_stamp = m->last_stamp;
    limbo_begin(m, gateways, gateways_count, failure_timeout, fx);
    producers_arm(m);
    limits_arm(m);
    dying_lead(m);
    dying_send(m, fx);
}

void mailbox_unlead(struct mailbox *m, struct mailbox_effects *fx) {
    if (!m->leading)
        return;
    m->leading = false;
    turn_abandon(m, fx);
    proposals_abandon(m, fx);
    for (size_t i = 0; i < m->subscriptions_count; i++)
        subscription_unlead(m, m->subscriptions[i]);
    producers_forget_overlay(m);
    free(m->gateways);
    m->gateways = NULL;
    m->gateways_count = m->subscribing = m->dead_letters_sent = 0;
    m->limbo = false;
    m->proposed_offset = m->proposed_messages = m->proposed_bytes = 0;
    m->overflow_below = m->overflow_messages = m->overflow_bytes = 0;
    m->retained_below = 0;
    m->expiring = false;
    while (m->timers.count)
        heap_remove(&m->timers, heap_first(&m->timers));
    if (m->settings.durability == DURABILITY_NONE) { /* the messages were this leader's alone */
        uint64_t applied = m->applied;
        state_reset(m);
        m->applied = applied;
    }
}

size_t mailbox_consumers(const struct mailbox *m) {
    return m->consumers;
}

bool mailbox_leading(const struct mailbox *m) {
    return m->leading;
}

void mailbox_allow(struct mailbox *m, usec_t until, usec_t now, struct mailbox_effects *fx) {
    m->now = now;
    m->allowed = until;
    dispatch_all(m, fx);
}

/* ---- turns and time ---- */

bool mailbox_dirty(const struct mailbox *m) {
    return m->settles.count || m->returns.count || m->deads_count || m->lent;
}

void mailbox_pump(struct mailbox *m, usec_t now, int64_t stamp, struct mailbox_effects *fx) {
    if (!m->leading)
        return;
    m->now = now;
    m->stamp_offset = stamp - now;
    m->lent = false;
    turn_pack(m, fx);
    dispatch_all(m, fx);
}

usec_t mailbox_deadline(const struct mailbox *m) {
    const struct heap_node *n = heap_first(&m->timers);
    return n ? n->key : USEC_NEVER;
}

static void timer_run(struct mailbox *m, struct heap_node *n, struct mailbox_effects *fx) {
    switch ((enum timer_kind)n->kind) {
    case TIMER_LEASE:
        lease_return(m, OWNER_OF(n, struct lease, timer), true, fx);
        break;
    case TIMER_CONSUMER:
        on_grace_over(m, OWNER_OF(n, struct consumer, timer), fx);
        break;
    case TIMER_DELAY:
        on_delay_due(m, OWNER_OF(n, struct subscription, delay_timer), fx);
        break;
    case TIMER_LINGER:
        on_linger(m, OWNER_OF(n, struct subscription, linger_timer), fx);
        break;
    case TIMER_LIMBO:
        limbo_end(m, fx);
        break;
    case TIMER_TTL:
        on_ttl(m, fx);
        break;
    case TIMER_RETENTION:
        on_retention(m, fx);
        break;
    case TIMER_PRODUCERS:
        producers_expire(m, fx);
        break;
    case TIMER_DEAD_LETTERS:
        dying_send(m, fx);
        break;
    }
}

void mailbox_tick(struct mailbox *m, usec_t now, int64_t stamp, struct mailbox_effects *fx) {
    if (!m->leading)
        return;
    m->now = now;
    m->stamp_offset = stamp - now;
    struct heap_node *n;
    while ((n = heap_first(&m->timers)) && n->key <= now) {
        heap_remove(&m->timers, n);
        timer_run(m, n, fx);
    }
    dispatch_all(m, fx);
}

/* ---- settings ---- */

void mailbox_settings(struct mailbox *m, const struct mailbox_settings *settings,
                      struct mailbox_effects *fx) {
    if (!m->leading || settings_equal(&m->wanted, settings))
        return;
    m->wanted = *settings;
    struct encoder e = {0};
    settings_encode(settings, &e);
    propose(m, (struct proposal){.type = ENTRY_SETTINGS}, encoder_body(&e), fx);
}

uint64_t mailbox_next_offset(const struct mailbox *m) {
    return m->next_offset;
}

int64_t mailbox_last_stamp(const struct mailbox *m) {
    return m->last_stamp;
}

// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <utlist.h>

#include "mailbox/state.h"

uint64_t *mailbox_live(const struct mailbox *m, size_t *count) {
    uint64_t *out = xmalloc((m->batches.count - m->batches.dead) * sizeof *out);
    size_t n = 0;
    for (const struct batch_record *r = batches_from(&m->batches, 0); r; r = batches_next(&m->batches, r))
        out[n++] = r->index;
    *count = n;
    return out;
}

bool mailbox_batch_live(const struct mailbox *m, uint64_t index) {
    const struct batches *b = &m->batches;
    size_t low = b->head, high = b->head + b->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (b->items[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low < b->head + b->count && b->items[low].index == index && !b->items[low].dead;
}

uint64_t mailbox_batch_index(const struct mailbox *m, uint64_t offset) {
    const struct batch_record *b = batches_at(&m->batches, offset);
    return b && offset - b->base < b->count ? b->index : 0;
}

void mailbox_stats(const struct mailbox *m, struct mailbox_stats *out) {
    const struct batch_record *oldest = batches_from(&m->batches, 0);
    *out = (struct mailbox_stats){.messages = m->messages,
                                  .bytes = m->bytes,
                                  .next_offset = m->next_offset,
                                  .first_offset = oldest ? oldest->base : m->next_offset,
                                  .subscriptions = m->subscriptions_count};
}

static const char *reason_of(const struct subscription *s, uint64_t ready) {
    static const char *const names[] = {[WAIT_NOTHING] = "",
                                        [WAIT_CONSUMER] = "no-consumer",
                                        [WAIT_CREDIT] = "no-credit",
                                        [WAIT_KEY] = "key-blocked"};
    return ready && s->mailbox->leading ? names[s->reason] : "";
}

/* The invariant "conserved" (DESIGN section 11), from counters kept apart. */
static void check_conserved(const struct subscription *s) {
    uint64_t gone = s->acked + s->dead + s->expired + s->dropped + s->purged;
    CHECK(gone == subscription_settled(s));
    CHECK(subscription_settled(s) <= subscription_published(s));
    CHECK(s->leases.total + s->delayed.total + s->dying <= subscription_unsettled(s));
    CHECK(s->dying + s->delayed_marks <= s->marks.total);
}

bool mailbox_subscription_stats(const struct mailbox *m, size_t i, struct subscription_stats *out) {
    if (i >= m->subscriptions_count)
        return false;
    const struct subscription *s = m->subscriptions[i];
    check_conserved(s);
    uint64_t delayed = m->leading ? s->delayed.total : s->delayed_marks;
    uint64_t ready = subscription_unsettled(s) - s->leases.total - delayed - s->dying;
    bool stuck = m->dying && m->dying->subscription == s && m->dead_letter_error != ERR_OK;
    *out = (struct subscription_stats){.name = s->name,
                                       .reason = reason_of(s, ready),
                                       .published = subscription_published(s),
                                       .ready = ready,
                                       .leased = s->leases.total,
                                       .delayed = delayed,
                                       .dying = s->dying,
                                       .acked = s->acked,
                                       .dead = s->dead,
                                       .expired = s->expired,
                                       .dropped = s->dropped,
                                       .purged = s->purged,
                                       .consumers = HASH_COUNT(s->consumers),
                                       .dying_reason = stuck ? err_name(m->dead_letter_error) : ""};
    return true;
}

bool mailbox_consumer_stats(const struct mailbox *m, size_t subscription, size_t i,
                            struct consumer_stats *out) {
    if (subscription >= m->subscriptions_count)
        return false;
    const struct consumer *c;
    DL_FOREACH(m->subscriptions[subscription]->attached, c) {
        if (i-- > 0)
            continue;
        *out = (struct consumer_stats){.id = c->id,
                                       .client = c->client,
                                       .credit = c->credit,
                                       .leased = c->unsettled,
                                       .delivered = c->delivered};
        return true;
    }
    return false;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Publishing: deduplication against what is committed and what is in flight
 * (DESIGN section 4, Once), limits, and the proposal.
 */
#include "mailbox/state.h"

struct publish {
    struct mailbox *m;
    struct mailbox_origin origin;
    struct batch_header h;
    struct mailbox_effects *fx;
};

static void publish_refuse(const struct publish *p, enum err code, uint64_t last, const char *text) {
    refuse(p->origin, &p->h.producer, p->h.sequence, code, last, text, p->fx);
}

/* Already taken: its receipt goes out with the last one taken. */
static void publish_again(const struct publish *p, struct producer *from) {
    if (from->in_flight == 0)
        receipt_duplicate(from, p->origin, p->h.sequence, p->fx);
    else if (p->m->waiters >= MAILBOX_WAITERS_MAX)
        publish_refuse(p, ERR_BUSY, 0, "too many repeated requests wait");
    else
        waiter_publish(p->m, from, p->origin, p->h.sequence);
}

/* May it be taken, going by its producer? If not, it is answered. */
static bool publish_in_order(const struct publish *p, struct producer *from) {
    if (!from) {
        if (p->h.after > 0)
            publish_refuse(p, ERR_FORGOTTEN, 0, NULL);
        return p->h.after == 0;
    }
    if (from->dropping) {
        publish_refuse(p, ERR_BUSY, 0, "the producer is being forgotten");
        return false;
    }
    if (p->h.sequence <= from->taken && !MUTATED(duplicates_taken)) {
        publish_again(p, from);
        return false;
    }
    if (p->h.after > from->taken && !MUTATED(gaps_taken)) {
        publish_refuse(p, ERR_OUT_OF_ORDER, from->taken, NULL);
        return false;
    }
    return true;
}

static bool publish_fits(const struct publish *p, const struct producer *from, bool disk_full) {
    struct mailbox *m = p->m;
    if (disk_full)
        publish_refuse(p, ERR_DISK_FULL, 0, NULL);
    else if (m->proposals.count >= MAILBOX_UNCOMMITTED_MAX)
        publish_refuse(p, ERR_BUSY, 0, "too many batches in flight");
    else if (!from && !producers_room(m, p->fx))
        publish_refuse(p, ERR_BUSY, 0, "too many producers");
    else if (!limits_room(m, p->h.count, p->h.size, p->fx))
        publish_refuse(p, ERR_FULL, 0, NULL);
    else
        return true;
    return false;
}

static void publish_take(const struct publish *p, struct producer *from, struct body *body, int64_t stamp) {
    struct mailbox *m = p->m;
    if (stamp < m->proposed_stamp)
        stamp = m->proposed_stamp;
    m->proposed_stamp = stamp;
    batch_stamp(body->data, m->proposed_offset, m->epoch, stamp);
    m->proposed_offset += p->h.count;
    m->proposed_messages += p->h.count;
    m->proposed_bytes += p->h.size;
    from->taken = p->h.sequence;
    from->in_flight++;
    struct proposal proposal = {.type = ENTRY_BATCH,
                                .producer = from,
                                .origin = p->origin,
                                .sequence = p->h.sequence,
                                .count = p->h.count,
                                .bytes = p->h.size};
    propose(m, proposal, body_keep(body), p->fx);
}

void mailbox_publish(struct mailbox *m, struct mailbox_origin origin, struct body *body, usec_t now,
                     int64_t stamp, bool disk_full, struct mailbox_effects *fx) {
    struct publish p = {.m = m, .origin = origin, .fx = fx};
    batch_read_header(body->data, &p.h);
    if (!m->leading) {
        publish_refuse(&p, ERR_NOT_LEADER, 0, NULL);
        return;
    }
    m->now = now;
    m->stamp_offset = stamp - now;
    struct producer *from = producer_find(m, &p.h.producer);
    if (!publish_in_order(&p, from) || !publish_fits(&p, from, disk_full))
        return;
    if (!from)
        from = producer_make(m, &p.h.producer);
    publish_take(&p, from, body, stamp);
    dispatch_all(m, fx);
}

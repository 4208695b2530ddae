// SPDX-License-Identifier: Apache-2.0
/*
 * What the leader has proposed and not yet seen committed, and who waits for it.
 * Entries of its own epoch come back through mailbox_apply in the same order.
 */
#include <stdlib.h>

#include "mailbox/state.h"

enum { PROPOSALS_MIN = 16 };

static void ring_grow(struct proposals *q) {
    size_t capacity = q->capacity ? q->capacity * 2 : PROPOSALS_MIN;
    struct proposal *items = xmalloc(capacity * sizeof *items);
    for (size_t i = 0; i < q->count; i++)
        items[i] = q->items[(q->head + i) % q->capacity];
    free(q->items);
    q->items = items;
    q->head = 0;
    q->capacity = capacity;
}

static struct proposal *proposal_at(struct proposals *q, size_t i) {
    return &q->items[(q->head + i) % q->capacity];
}

struct proposal *proposal_last(struct mailbox *m) {
    return m->proposals.count ? proposal_at(&m->proposals, m->proposals.count - 1) : NULL;
}

void propose(struct mailbox *m, struct proposal p, struct body *body, struct mailbox_effects *fx) {
    struct proposals *q = &m->proposals;
    if (q->count == q->capacity)
        ring_grow(q);
    if (p.producer)
        p.producer->taken_proposal = q->popped + q->count;
    *proposal_at(q, q->count++) = p;
    if (m->settings.durability == DURABILITY_NONE) {
        struct entry e = {.index = ++m->local_index, .epoch = m->epoch, .type = p.type, .body = body};
        entry_apply(m, &e, fx);
        body_drop(body);
        return;
    }
    struct mailbox_effect *effect = effect_add(fx, MAILBOX_PROPOSE);
    effect->propose.type = p.type;
    effect->propose.body = body;
}

/* ---- waiters ---- */

static struct waiter *waiter_add(struct mailbox *m, struct waiter **list) {
    struct waiter *w = xcalloc(1, sizeof *w);
    w->next = *list;
    *list = w;
    m->waiters++;
    return w;
}

void waiter_publish(struct mailbox *m, struct producer *p, struct mailbox_origin origin, uint64_t sequence) {
    struct proposal *q = proposal_at(&m->proposals, p->taken_proposal - m->proposals.popped);
    struct waiter *w = waiter_add(m, &q->waiters);
    w->origin = origin;
    w->sequence = sequence;
}

void waiter_settle(struct mailbox *m, struct waiter **list, const struct ask *ask,
                   enum settle_result result) {
    if (!ask)
        return;
    struct waiter *w = waiter_add(m, list);
    w->request = ask->request;
    w->item = ask->item;
    w->result = result;
    ask->request->remaining++;
}

/* The worst of what its messages met; UNKNOWN > TOO_LATE > DONE > ALREADY. */
void request_respond(struct request *q, size_t item, enum settle_result result) {
    static const int weight[] = {
        [SETTLE_ALREADY] = 0, [SETTLE_DONE] = 1, [SETTLE_TOO_LATE] = 2, [SETTLE_UNKNOWN] = 3};
    if (weight[result] > weight[q->results[item]])
        q->results[item] = result;
}

void request_release(struct request *q, struct mailbox_effects *fx) {
    if (--q->remaining)
        return;
    struct mailbox_effect *e = effect_add(fx, MAILBOX_SETTLED);
    e->settled.origin = q->origin;
    e->settled.count = q->count;
    e->settled.results = xmalloc(q->count * sizeof *q->results);
    for (size_t i = 0; i < q->count; i++)
        e->settled.results[i] = q->results[i];
    free(q);
}

static void receipt(const struct producer *p, struct mailbox_origin origin, uint64_t sequence, uint64_t base,
                    bool duplicate, struct mailbox_effects *fx) {
    struct mailbox_effect *e = effect_add(fx, MAILBOX_RECEIPT);
    e->receipt.origin = origin;
    e->receipt.producer = p->id;
    e->receipt.sequence = sequence;
    e->receipt.base_offset = base;
    e->receipt.duplicate = duplicate;
}

void receipt_duplicate(const struct producer *p, struct mailbox_origin origin, uint64_t sequence,
                       struct mailbox_effects *fx) {
    receipt(p, origin, sequence, sequence == p->last ? p->last_base : UINT64_MAX, true, fx);
}

void refuse(struct mailbox_origin origin, const struct producer_id *id, uint64_t sequence, enum err code,
            uint64_t last, const char *text, struct mailbox_effects *fx) {
    struct mailbox_effect *e = effect_add(fx, MAILBOX_REFUSED);
    e->refused.origin = origin;
    e->refused.producer = *id;
    e->refused.sequence = sequence;
    e->refused.code = code;
    e->refused.last = last;
    e->refused.text = text ? text : err_text(code);
}

static void waiter_answer(struct waiter *w, bool committed, const struct producer *p,
                          struct mailbox_effects *fx) {
    if (w->request) {
        request_respond(w->request, w->item, committed ? w->result : SETTLE_UNKNOWN);
        request_release(w->request, fx);
    } else if (committed) {
        receipt_duplicate(p, w->origin, w->sequence, fx);
    } else {
        refuse(w->origin, &p->id, w->sequence, ERR_NOT_LEADER, 0, NULL, fx);
    }
}

/* Oldest first: they were put in front. */
static struct waiter *reversed(struct waiter *list) {
    struct waiter *out = NULL;
    while (list) {
        struct waiter *next = list->next;
        list->next = out;
        out = list;
        list = next;
    }
    return out;
}

void waiters_answer(struct mailbox *m, struct waiter *list, bool committed, const struct producer *producer,
                    struct mailbox_effects *fx) {
    for (struct waiter *w = reversed(list), *next; w; w = next) {
        next = w->next;
        waiter_answer(w, committed, producer, fx);
        m->waiters--;
        free(w);
    }
}

/* ---- the end of a proposal ---- */

void proposal_committed(struct mailbox *m, const struct proposal *p, struct mailbox_effects *fx) {
    if (p->type == ENTRY_SUBSCRIBE)
        m->subscribing--;
    if (p->type == ENTRY_DROP)
        limits_drop_committed(m, p);
    if (p->producer) {
        struct producer *from = p->producer;
        from->in_flight--;
        m->proposed_messages -= p->count;
        m->proposed_bytes -= p->bytes;
        receipt(from, p->origin, p->sequence, from->last_base, false, fx);
    }
    waiters_answer(m, p->waiters, true, p->producer, fx);
}

struct proposal proposal_pop(struct mailbox *m, uint8_t type) {
    struct proposals *q = &m->proposals;
    CHECK(q->count > 0);
    struct proposal p = *proposal_at(q, 0);
    CHECK(p.type == type);
    q->head = (q->head + 1) % q->capacity;
    q->count--;
    q->popped++;
    return p;
}

void proposals_abandon(struct mailbox *m, struct mailbox_effects *fx) {
    while (m->proposals.count) {
        struct proposal p = proposal_pop(m, proposal_at(&m->proposals, 0)->type);
        if (p.producer)
            refuse(p.origin, &p.producer->id, p.sequence, ERR_NOT_LEADER, 0, NULL, fx);
        waiters_answer(m, p.waiters, false, p.producer, fx);
    }
    free(m->proposals.items);
    m->proposals = (struct proposals){0};
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Who has published, and how far: the replicated half of deduplication. Known
 * producers stand in a list by their last batch's time, so the idle are at its
 * head; those that publish dead letters stand in another and are never forgotten.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

enum { PRODUCERS_DROP_MAX = 1024 }; /* in one entry */

struct producer *producer_find(struct mailbox *m, const struct producer_id *id) {
    struct producer *p;
    HASH_FIND(hh, m->producers, id->bytes, sizeof id->bytes, p);
    return p;
}

struct producer *producer_make(struct mailbox *m, const struct producer_id *id) {
    struct producer *p = xcalloc(1, sizeof *p);
    p->id = *id;
    HASH_ADD(hh, m->producers, id, sizeof p->id, p);
    return p;
}

static void unlist(struct mailbox *m, struct producer *p) {
    if (p->pinned)
        DL_DELETE(m->pinned_producers, p);
    else
        DL_DELETE(m->idle_producers, p);
}

void producer_append(struct mailbox *m, struct producer *p) {
    if (!p->known)
        m->producers_known++;
    p->known = true;
    if (p->pinned)
        DL_APPEND(m->pinned_producers, p);
    else
        DL_APPEND(m->idle_producers, p);
}

void producer_committed(struct mailbox *m, const struct batch_header *h) {
    struct producer *p = producer_find(m, &h->producer);
    if (!p)
        p = producer_make(m, &h->producer);
    if (p->known)
        unlist(m, p);
    p->pinned |= (h->flags & BATCH_FLAG_DEAD_LETTER) != 0;
    p->last = h->sequence;
    p->last_base = h->base_offset;
    p->stamp = h->stamp;
    if (p->taken < p->last)
        p->taken = p->last;
    producer_append(m, p);
    producers_arm(m);
}

static void producer_free(struct mailbox *m, struct producer *p) {
    if (p->known) {
        unlist(m, p);
        m->producers_known--;
    }
    HASH_DELETE(hh, m->producers, p);
    free(p);
}

/* Forget those idle since `before`, longest first, up to PRODUCERS_DROP_MAX. */
static size_t drop_idle(struct mailbox *m, int64_t before, struct mailbox_effects *fx) {
    struct encoder e = {0};
    size_t count = 0;
    struct producer *p;
    DL_FOREACH(m->idle_producers, p) {
        if (p->stamp > before || count == PRODUCERS_DROP_MAX)
            break;
        if (p->dropping || p->in_flight)
            continue;
        p->dropping = true;
        encode_raw(&e, p->id.bytes, sizeof p->id.bytes);
        count++;
    }
    m->producers_dropping += count;
    if (count)
        propose(m, (struct proposal){.type = ENTRY_PRODUCER_DROP}, encoder_body(&e), fx);
    encoder_free(&e);
    return count;
}

bool producers_room(struct mailbox *m, struct mailbox_effects *fx) {
    for (int tries = 0; tries < 2; tries++) {
        if (HASH_COUNT(m->producers) - m->producers_dropping < MAILBOX_PRODUCERS_MAX)
            return true;
        drop_idle(m, log_time(m) - MAILBOX_PRODUCER_EVICT_IDLE_S * USEC_S, fx);
    }
    return false;
}

void producers_arm(struct mailbox *m) {
    struct producer *p = m->idle_producers;
    if (m->leading && p && !m->producers_timer.place)
        heap_put(&m->timers, &m->producers_timer,
                 p->stamp + MAILBOX_PRODUCER_IDLE_S * USEC_S - m->stamp_offset);
}

void producers_expire(struct mailbox *m, struct mailbox_effects *fx) {
    drop_idle(m, log_time(m) - MAILBOX_PRODUCER_IDLE_S * USEC_S, fx);
    /* Those still there are in a drop under way or in use: look again later. */
    struct producer *p = m->idle_producers;
    if (!p)
        return;
    usec_t at = p->stamp + MAILBOX_PRODUCER_IDLE_S * USEC_S - m->stamp_offset;
    heap_put(&m->timers, &m->producers_timer, at > m->now ? at : m->now + USEC_S);
}

void apply_producer_drop(struct mailbox *m, const struct entry *e) {
    CHECK(e->body && e->body->size % sizeof(struct producer_id) == 0);
    for (size_t at = 0; at < e->body->size; at += sizeof(struct producer_id)) {
        struct producer_id id;
        memcpy(id.bytes, e->body->data + at, sizeof id.bytes);
        struct producer *p = producer_find(m, &id);
        if (!p || !p->known)
            continue;
        if (p->dropping)
            m->producers_dropping--;
        producer_free(m, p);
    }
}

void producers_forget_overlay(struct mailbox *m) {
    struct producer *p, *next;
    HASH_ITER(hh, m->producers, p, next) {
        p->taken = p->last;
        p->in_flight = 0;
        p->dropping = false;
        if (!p->known)
            producer_free(m, p);
    }
    m->producers_dropping = 0;
}

void producers_free(struct mailbox *m) {
    struct producer *p, *next;
    HASH_ITER(hh, m->producers, p, next)
    producer_free(m, p);
}

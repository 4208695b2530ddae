// SPDX-License-Identifier: Apache-2.0
/*
 * Runs to consumers. The bytes come from the replica's cache, from the few
 * batches read last, or from the reader; while a read is under way the
 * partition's later runs wait behind it, so that order is kept.
 */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

static void keep_read(struct hosted *h, uint64_t index, struct body *body) {
    struct read_batch *slot = &h->cached[h->cached_next++ % SHARD_CACHED_READS];
    body_drop(slot->body);
    *slot = (struct read_batch){index, body_keep(body)};
}

struct body *deliver_body(struct hosted *h, uint64_t index) {
    struct body *body = replica_cached(h->partition->replica, index);
    for (unsigned i = 0; !body && i < SHARD_CACHED_READS; i++)
        if (h->cached[i].body && h->cached[i].index == index)
            body = h->cached[i].body;
    return body;
}

static void send_run(struct hosted *h, const struct mailbox_effect *e, struct body *batch) {
    struct shard_link *l = service_gateway(h->shard, e->deliver.gateway);
    size_t offset, bytes;
    if (!l)
        return; /* its loss comes back through mailbox_gateway_lost */
    CHECK(batch_slice(batch->data, batch->size, (uint32_t)(e->deliver.first_offset - e->deliver.base_offset),
                      e->deliver.count, &offset, &bytes));
    struct body *run = body_slice(batch, offset, bytes);
    h->shard->calls->deliver(l, h, e, run);
    body_drop(run);
    counters_add(COUNTER_deliveries, e->deliver.count);
    if (e->deliver.attempt > 1)
        counters_add(COUNTER_redeliveries, e->deliver.count);
}

/* The ring of runs that wait. Bounded by credit: each was paid for with it. */
static void push_run(struct hosted *h, const struct mailbox_effect *e) {
    if (h->runs_count == h->runs_capacity) {
        size_t capacity = h->runs_capacity ? h->runs_capacity * 2 : 16;
        struct waiting_run *runs = xcalloc(capacity, sizeof *runs);
        for (size_t i = 0; i < h->runs_count; i++)
            runs[i] = h->runs[(h->runs_head + i) % h->runs_capacity];
        free(h->runs);
        h->runs = runs;
        h->runs_head = 0;
        h->runs_capacity = capacity;
    }
    struct waiting_run *w = &h->runs[(h->runs_head + h->runs_count++) % h->runs_capacity];
    w->effect = *e;
    name_copy(w->subscription, e->deliver.subscription);
    body_keep(e->deliver.body);
}

static struct body *body_of(struct hosted *h, const struct mailbox_effect *e) {
    return e->deliver.body ? e->deliver.body : deliver_body(h, e->deliver.batch_index);
}

/* The run was paid for with credit, and nothing of it is left to deliver. */
static void give_back(struct hosted *h, const struct waiting_run *w) {
    const struct mailbox_effect *e = &w->effect;
    struct shard_link *l = service_gateway(h->shard, e->deliver.gateway);
    if (l)
        h->shard->calls->credit_back(l, h->id,
                                     &(struct mailbox_effect){.type = MAILBOX_CREDIT_BACK,
                                                              .credit_back = {.consumer = e->deliver.consumer,
                                                                              .gateway = e->deliver.gateway,
                                                                              .subscription = w->subscription,
                                                                              .credit = e->deliver.count}});
}

static void pop_run(struct hosted *h) {
    body_drop(h->runs[h->runs_head].effect.deliver.body);
    h->runs_head = (h->runs_head + 1) % h->runs_capacity;
    h->runs_count--;
}

/* A lease counts from when it was given: one that ran out behind slow reads is not
 * sent, nor read for. Otherwise a disk slower than the ack timeout would deliver all
 * too late, again and again. */
static void send_waiting(struct hosted *h) {
    while (h->runs_count > 0) {
        struct waiting_run *w = &h->runs[h->runs_head];
        w->effect.deliver.subscription = w->subscription;
        if (!mailbox_delivery_stands(h->partition->mailbox, &w->effect)) {
            give_back(h, w);
            pop_run(h);
            continue;
        }
        struct body *batch = body_of(h, &w->effect);
        if (!batch) {
            if (!h->reading) {
                h->reading = true;
                read_batch(h, w->effect.deliver.batch_index);
            }
            return;
        }
        send_run(h, &w->effect, batch);
        pop_run(h);
    }
}

void deliver_run(struct hosted *h, const struct mailbox_effect *e) {
    struct body *batch = h->runs_count == 0 ? body_of(h, e) : NULL;
    if (batch) {
        send_run(h, e, batch);
        return;
    }
    push_run(h, e);
    send_waiting(h);
}

/* A batch that cannot be read: its leases run out and come back; by then the
 * partition is marked damaged and another replica leads. One that was settled
 * meanwhile is not missed. */
static void drop_runs(struct hosted *h, uint64_t index, bool settled) {
    while (h->runs_count > 0 && h->runs[h->runs_head].effect.deliver.batch_index == index) {
        if (settled)
            give_back(h, &h->runs[h->runs_head]);
        pop_run(h);
    }
}

void deliver_read(struct hosted *h, uint64_t index, struct body *body) {
    h->reading = false;
    if (body)
        keep_read(h, index, body);
    else
        drop_runs(h, index, !mailbox_batch_live(h->partition->mailbox, index));
    letters_read(h, index, body);
    send_waiting(h);
}

void deliver_forget(struct hosted *h) {
    while (h->runs_count > 0)
        drop_runs(h, h->runs[h->runs_head].effect.deliver.batch_index, false);
    free(h->runs);
    h->runs = NULL;
    h->runs_head = h->runs_capacity = 0;
    for (unsigned i = 0; i < SHARD_CACHED_READS; i++)
        body_drop(h->cached[i].body);
    memset(h->cached, 0, sizeof h->cached);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What gateways ask of a shard and are answered: publish, attach, lend, settle,
 * present, purge; and leadership, of which they are told. A gateway is known to
 * the mailboxes by its link's id.
 */
#include <stdlib.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

struct shard_link *service_gateway(struct shard *s, uint64_t id) {
    LINKS_EACH(s, l)
    if (l->id == id && l->kind == LINK_GATEWAY)
        return l;
    return NULL;
}

struct hosted *service_leader(struct shard *s, uint64_t partition) {
    struct hosted *h = shard_find(s, partition);
    return h && h->partition && mailbox_leading(h->partition->mailbox) ? h : NULL;
}

/* ---- publish ---- */

static void time_publish(struct hosted *h, usec_t now) {
    if (h->sample_index)
        return;
    h->sample_index = replica_last_index(h->partition->replica);
    h->sample_at = now;
}

static void refuse(struct shard_link *l, uint64_t partition, uint64_t request, enum err code,
                   const char *text) {
    l->shard->calls->refused(l, partition, request, code, text, 0);
}

void service_on_publish(struct shard_link *l, uint64_t partition, uint64_t request, struct body *body) {
    struct shard *s = l->shard;
    struct err_detail detail;
    struct hosted *h = service_leader(s, partition);
    if (!h) {
        struct hosted *known = shard_find(s, partition);
        bool quarantined = known && known->quarantined;
        refuse(l, partition, request, quarantined ? ERR_QUARANTINED : ERR_NOT_LEADER, NULL);
        return;
    }
    if (batch_check(body->data, body->size, &detail) != ERR_OK) {
        refuse(l, partition, request, detail.code, detail.text);
        return;
    }
    usec_t now = shard_now(s);
    shard_working_on(s, h->id);
    shard_touch(h);
    partition_time(h->partition, now, s->calls->wall(s->host));
    partition_publish(h->partition, (struct mailbox_origin){l->id, request}, body, now);
    time_publish(h, now);
    shard_working_on(s, 0);
    counters_add(COUNTER_publishes, 1);
}

/* ---- consumers ---- */

/* Durability written: an epoch may begin from less than was committed, and give the
 * offsets of what was lost to other messages. A token from before such a message was
 * in the log does not speak of it: it is made one that matches nothing. */
enum { NO_DELIVERY = UINT32_MAX };

static bool before_the_message(const struct hosted *h, uint64_t epoch, uint64_t first, uint32_t count) {
    const struct replica *r = h->partition->replica;
    if (epoch >= replica_epoch(r) || count == 0)
        return false;
    uint64_t index = mailbox_batch_index(h->partition->mailbox, first + count - 1);
    return index && replica_epoch_at(r, index) > epoch;
}

static struct mailbox_hold *holds_of(const struct hosted *h, const struct mailbox_hold *held, size_t count) {
    struct mailbox_hold *out = xcalloc(count, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        out[i] = held[i];
        if (before_the_message(h, held[i].epoch, held[i].first_offset, held[i].count))
            out[i].delivery_number = NO_DELIVERY;
    }
    return out;
}

static struct mailbox_settlement *items_of(const struct hosted *h, const struct mailbox_settlement *items,
                                           size_t count) {
    struct mailbox_settlement *out = xcalloc(count, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        out[i] = items[i];
        if (before_the_message(h, items[i].epoch, items[i].first_offset, items[i].count))
            out[i].delivery_number = NO_DELIVERY;
    }
    return out;
}

void service_on_attach(struct shard_link *l, const struct shard_attach *m) {
    struct shard *s = l->shard;
    struct hosted *h = service_leader(s, m->partition);
    usec_t now = shard_now(s);
    enum err err = ERR_NOT_LEADER;
    if (h) {
        shard_touch(h);
        err = mailbox_attach(h->partition->mailbox, &m->consumer, l->id, m->subscription, m->client, 0, now,
                             &h->partition->mailbox_effects);
    }
    s->calls->attached(l, m, err);
    if (err != ERR_OK)
        return;
    struct mailbox *box = h->partition->mailbox;
    struct mailbox_effects *fx = &h->partition->mailbox_effects;
    struct mailbox_hold *held = holds_of(h, m->held, m->held_count);
    mailbox_still_held(box, &m->consumer, m->subscription, held, m->held_count, now, fx);
    mailbox_hold(box, &m->consumer, m->subscription, held, m->held_count, now, fx);
    free(held);
    if (m->credit)
        mailbox_credit(box, &m->consumer, m->subscription, m->credit, now, fx);
    partition_run(h->partition, now);
}

/* The partition that is led here and has this consumer at this gateway. NULL: it
 * has come again at another gateway meanwhile, and what this one says is void. */
static struct hosted *leader_of_consumer(struct shard_link *l, uint64_t partition,
                                         const struct consumer_id *consumer, const char *subscription) {
    struct hosted *h = service_leader(l->shard, partition);
    return h && mailbox_at_gateway(h->partition->mailbox, consumer, subscription, l->id) ? h : NULL;
}

void service_on_detach(struct shard_link *l, uint64_t partition, const struct consumer_id *consumer,
                       const char *subscription, bool clean) {
    struct hosted *h = leader_of_consumer(l, partition, consumer, subscription);
    if (!h)
        return;
    shard_touch(h);
    mailbox_detach(h->partition->mailbox, consumer, subscription, clean, shard_now(l->shard),
                   &h->partition->mailbox_effects);
    partition_run(h->partition, shard_now(l->shard));
}

void service_on_lend(struct shard_link *l, uint64_t partition, const struct consumer_id *consumer,
                     const char *subscription, uint32_t more) {
    struct hosted *h = leader_of_consumer(l, partition, consumer, subscription);
    if (!h)
        return;
    shard_touch(h);
    mailbox_lend(h->partition->mailbox, consumer, subscription, more, shard_now(l->shard),
                 &h->partition->mailbox_effects);
    partition_run(h->partition, shard_now(l->shard));
}

void service_on_settle(struct shard_link *l, uint64_t partition, uint64_t request,
                       const struct consumer_id *consumer, const char *subscription,
                       const struct mailbox_settlement *items, size_t count) {
    struct hosted *h = service_leader(l->shard, partition);
    usec_t now = shard_now(l->shard);
    if (!h)
        return; /* the gateway asks the new leader: it keeps what is not answered */
    shard_touch(h);
    struct mailbox_settlement *own = NULL;
    if (h->settings.durability == DURABILITY_WRITTEN)
        items = own = items_of(h, items, count);
    mailbox_settle(h->partition->mailbox, (struct mailbox_origin){l->id, request}, consumer, subscription,
                   items, count, now, partition_stamp(h->partition, now), &h->partition->mailbox_effects);
    free(own);
    partition_run(h->partition, now);
}

void service_on_presented(struct shard_link *l, uint64_t partition, uint64_t epoch) {
    struct hosted *h = service_leader(l->shard, partition);
    if (!h || replica_epoch(h->partition->replica) != epoch)
        return;
    shard_touch(h);
    mailbox_presented(h->partition->mailbox, l->id, shard_now(l->shard), &h->partition->mailbox_effects);
    partition_run(h->partition, shard_now(l->shard));
}

bool service_on_purge(struct shard_link *l, uint64_t partition) {
    struct hosted *h = service_leader(l->shard, partition);
    if (!h)
        return false;
    shard_touch(h);
    mailbox_purge(h->partition->mailbox, &h->partition->mailbox_effects);
    partition_run(h->partition, shard_now(l->shard));
    return true;
}

/* ---- the mailbox's effects ---- */

/* Which gateway an effect is for. */
static uint64_t gateway_of(const struct mailbox_effect *e) {
    switch (e->type) {
    case MAILBOX_RECEIPT:
        return e->receipt.origin.link;
    case MAILBOX_REFUSED:
        return e->refused.origin.link;
    case MAILBOX_SETTLED:
        return e->settled.origin.link;
    case MAILBOX_READY:
        return e->ready.gateway;
    case MAILBOX_CREDIT_BACK:
        return e->credit_back.gateway;
    case MAILBOX_DETACHED:
        return e->detached.gateway;
    default:
        CHECK(!"a mailbox's effect that the partition carries out itself");
    }
}

static void tell_gateway(struct hosted *h, const struct mailbox_effect *e) {
    const struct shard_calls *calls = h->shard->calls;
    struct shard_link *l = service_gateway(h->shard, gateway_of(e));
    if (!l)
        return;
    if (e->type == MAILBOX_RECEIPT)
        calls->receipt(l, h->id, e);
    else if (e->type == MAILBOX_REFUSED)
        calls->refused(l, h->id, e->refused.origin.request, e->refused.code, e->refused.text,
                       e->refused.last);
    else if (e->type == MAILBOX_SETTLED)
        calls->settled(l, h->id, e);
    else if (e->type == MAILBOX_READY)
        calls->ready(l, h->id, e);
    else if (e->type == MAILBOX_CREDIT_BACK)
        calls->credit_back(l, h->id, e);
    else
        calls->detached(l, h->id, e);
}

void service_effect(struct hosted *h, const struct mailbox_effect *e) {
    if (e->type == MAILBOX_DELIVER)
        deliver_run(h, e);
    else if (e->type == MAILBOX_DEAD_LETTER)
        letters_send(h, e);
    else
        tell_gateway(h, e);
}

/* ---- leadership ---- */

size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max) {
    size_t n = 0;
    LINKS_EACH(h->shard, l) {
        if (l->kind != LINK_GATEWAY || n == max)
            continue;
        gateways[n++] = l->id;
        h->shard->calls->led(l, h->id, epoch);
    }
    orders_report(h, CONTROL_LED, epoch, 0);
    /* the mailbox learns what the metadata wants once it leads: at the turn's end */
    h->wishes_due = true;
    h->wishes_told = 0;
    return n;
}

void service_not_leading(struct hosted *h) {
    deliver_forget(h);
    letters_forget(h);
    h->sample_index = 0;
    LINKS_EACH(h->shard, l)
    if (l->kind == LINK_GATEWAY)
        h->shard->calls->not_leading(l, h->id);
}

void service_up(struct shard_link *l) {
    for (struct hosted *h = l->shard->hosted; h; h = h->hh.next)
        if (h->partition && mailbox_leading(h->partition->mailbox))
            l->shard->calls->led(l, h->id, replica_epoch(h->partition->replica));
}

void service_down(struct shard_link *l) {
    struct shard *s = l->shard;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        shard_touch(h);
        mailbox_gateway_lost(h->partition->mailbox, l->id, shard_now(s), &h->partition->mailbox_effects);
        partition_run(h->partition, shard_now(s));
    }
    if (l->own_node)
        letters_gateway_down(s);
}

/* ---- loads ---- */

/* What a publisher has to expect here: the commit's time, and what is piled up
 * before it at the speed it is worked off. */
static uint64_t expected_wait(struct hosted *h, uint64_t backlog, usec_t now) {
    usec_t commit = h->commit_us;
    if (h->sample_index && now - h->sample_at > commit)
        commit = now - h->sample_at;
    return (uint64_t)commit + backlog / 16;
}

void service_loads(struct shard *s) {
    usec_t now = shard_now(s);
    size_t count = 0;
    struct partition_load *loads = xcalloc(HASH_COUNT(s->hosted), sizeof *loads);
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        struct mailbox_stats stats;
        mailbox_stats(h->partition->mailbox, &stats);
        uint64_t wait = expected_wait(h, stats.messages, now);
        uint64_t change = wait > h->load_sent ? wait - h->load_sent : h->load_sent - wait;
        if (change * 8 <= h->load_sent && change < 1000)
            continue;
        h->load_sent = wait;
        loads[count++] = (struct partition_load){h->id, stats.messages, wait};
    }
    LINKS_EACH(s, l)
    if (count && l->kind == LINK_GATEWAY)
        s->calls->loads(l, loads, count);
    free(loads);
}

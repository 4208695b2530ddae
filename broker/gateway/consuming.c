// SPDX-License-Identifier: Apache-2.0
/*
 * Consumers between sessions and leaders. Happy path: on_subscribe adds the
 * consumer and attaches it to each partition's leader; on_ready notes where
 * messages wait; consuming_turn lends credit there; on_shard_delivery passes the
 * run on; on_settle splits the client's settlements over the leaders;
 * on_shard_settled gives the credit back and answers.
 *
 * When leadership moves, the new leader is presented what is held (Attach with
 * held) and asked again what is unsettled, before it is told Presented.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/counters.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"

static ProtobufCBinaryData id_bytes(const uint8_t id[CONSUMER_ID_BYTES]) {
    return (ProtobufCBinaryData){CONSUMER_ID_BYTES, (uint8_t *)(uintptr_t)id};
}

static struct consumer *by_handle(const struct session *s, uint32_t handle) {
    struct consumer *c;
    HASH_FIND(hh_handle, s->consumers, &handle, sizeof handle, c);
    return c;
}

/* The consumer a shard names, or NULL. */
static struct consumer *by_names(struct gateway *g, const struct map_partition *p,
                                 const ProtobufCBinaryData *id, const char *subscription) {
    if (!p || !p->mailbox || id->len != CONSUMER_ID_BYTES)
        return NULL;
    const struct group *group = consumers_group(&g->consumers, p->mailbox->id, subscription);
    return group ? consumers_find(&g->consumers, group, id->data) : NULL;
}

static bool leads(const struct shard_link *l, const struct map_partition *p) {
    return p && p->leader != 0 && p->leader == l->member;
}

/* ---- attach and detach ---- */

static void held_to_message(const struct part *part, const struct hold *h, Mr__Held *out) {
    mr__held__init(out);
    out->partition = part->number;
    out->first_offset = h->first;
    out->count = h->count;
    out->epoch = h->epoch;
    out->delivery_number = h->number;
}

static void attach(struct gateway *g, struct consumer *c, const struct map_partition *p,
                   struct shard_link *l) {
    struct part *part = &c->parts[p->number];
    Mr__Attach m = MR__ATTACH__INIT;
    size_t n = part->holds.count;
    Mr__Held *held = xcalloc(n + 1, sizeof *held);
    m.held = xcalloc(n + 1, sizeof *m.held);
    for (size_t i = 0; i < n; i++) {
        held_to_message(part, holds_at(&part->holds, i), &held[i]);
        m.held[m.n_held++] = &held[i];
    }
    m.partition = p->id;
    m.consumer_id = id_bytes(c->key.id);
    m.subscription = c->group->subscription;
    m.client = c->client;
    if (frame_send_attach(l->link, &m, NULL, 0) == ERR_OK)
        consumer_attaching(&g->consumers, c, p->number, p->epoch);
    free(m.held);
    free(held);
}

static void detach(struct gateway *g, struct consumer *c, bool clean) {
    const struct map_mailbox *box = map_find_id(&g->map, c->group->mailbox);
    Mr__Detach m = MR__DETACH__INIT;
    m.consumer_id = id_bytes(c->key.id);
    m.subscription = c->group->subscription;
    m.clean = clean;
    for (size_t i = 0; box && i < box->partition_count; i++) {
        struct map_partition *p = box->partitions[i];
        struct shard_link *l = p && c->parts[i].state != PART_IDLE ? shards_leader(g, p) : NULL;
        if (!l)
            continue;
        m.partition = p->id;
        frame_send_detach(l->link, &m, NULL, 0);
    }
}

/* Not at all, or in another epoch. */
static bool unattached(const struct part *part, const struct map_partition *p) {
    return part->state == PART_IDLE || part->epoch != p->epoch;
}

static void attach_all(struct gateway *g, const struct map_partition *p, struct shard_link *l) {
    for (struct group *group = consumers_groups(&g->consumers, p->mailbox->id); group;
         group = group->next_of_mailbox) {
        struct consumer *c;
        DL_FOREACH(group->consumers, c) {
            if (unattached(&c->parts[p->number], p))
                attach(g, c, p, l);
        }
    }
}

static void attach_everywhere(struct gateway *g, struct consumer *c, const struct map_mailbox *box) {
    for (size_t i = 0; i < box->partition_count; i++) {
        const struct map_partition *p = box->partitions[i];
        struct shard_link *l = p && unattached(&c->parts[i], p) ? shards_leader(g, p) : NULL;
        if (l)
            attach(g, c, p, l);
    }
}

void on_attached(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    struct gateway *g = l->gateway;
    const Mr__Attached *m = header;
    const struct map_partition *p = map_find_partition(&g->map, m->partition);
    struct consumer *c = by_names(g, p, &m->consumer_id, m->subscription);
    if (!c || !leads(l, p))
        return;
    if (m->code == ERR_OK)
        consumer_attached(&g->consumers, c, p->number);
    else
        /* it does not lead yet, or does not know the subscription yet: Led, the
         * retry or the map end that */
        consumer_idle(&g->consumers, c, p->number);
}

/* ---- the end of a consumer ---- */

static void tell_end(struct gateway *g, const struct consumer *c, enum err code, const char *text) {
    struct session *s = sessions_find(g, c->session);
    Mr__ConsumerEnd m = MR__CONSUMER_END__INIT;
    if (!s)
        return;
    m.consumer = c->handle;
    m.code = code;
    m.text = (char *)(uintptr_t)text;
    frame_send_consumer_end(s->link, &m, NULL, 0);
}

static void leave_session(struct gateway *g, struct consumer *c) {
    struct session *s = sessions_find(g, c->session);
    if (s)
        HASH_DELETE(hh_handle, s->consumers, c);
}

static void end_consumer(struct gateway *g, struct consumer *c, bool clean, enum err code, const char *text) {
    detach(g, c, clean);
    tell_end(g, c, code, text);
    leave_session(g, c);
    consumers_remove(&g->consumers, c);
    counters_sub(COUNTER_consumers, 1);
}

void on_unsubscribe(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Unsubscribe *m = header;
    struct consumer *c = by_handle(s, m->consumer);
    if (c)
        end_consumer(s->gateway, c, true, ERR_OK, "");
}

void on_detached(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__Detached *m = header;
    const struct map_partition *p = map_find_partition(&l->gateway->map, m->partition);
    struct consumer *c = by_names(l->gateway, p, &m->consumer_id, m->subscription);
    if (!c || !leads(l, p) || c->parts[p->number].state != PART_ATTACHED)
        return;
    consumer_idle(&l->gateway->consumers, c, p->number);
    end_consumer(l->gateway, c, true, m->code ? (enum err)m->code : ERR_CLOSED, err_text((int)m->code));
}

void consuming_session_gone(struct session *s) {
    struct consumer *c, *tmp;
    HASH_ITER(hh_handle, s->consumers, c, tmp) {
        detach(s->gateway, c, false);
        HASH_DELETE(hh_handle, s->consumers, c);
        consumers_remove(&s->gateway->consumers, c);
        counters_sub(COUNTER_consumers, 1);
    }
}

static void end_group(struct gateway *g, struct group *group, enum err code, const char *text) {
    struct consumer *c, *tmp;
    DL_FOREACH_SAFE(group->consumers, c, tmp) {
        bool last = group->consumers == c && !c->next;
        end_consumer(g, c, true, code, text);
        if (last)
            return; /* the group went with it */
    }
}

void consuming_check_subscriptions(struct gateway *g, const struct map_mailbox *box) {
    struct group *group = consumers_groups(&g->consumers, box->id);
    while (group) {
        struct group *next = group->next_of_mailbox;
        if (!map_has_subscription(box, group->subscription))
            end_group(g, group, ERR_NOT_FOUND, "the subscription was deleted");
        group = next;
    }
}

/* ---- subscribe ---- */

static bool hold_of(const Mr__Held *in, const struct map_mailbox *box, struct hold *out) {
    *out = (struct hold){
        .first = in->first_offset, .count = in->count, .epoch = in->epoch, .number = in->delivery_number};
    return in->partition < box->partition_count && in->count > 0 &&
           in->first_offset <= UINT64_MAX - in->count;
}

/* False: an item out of range. */
static bool check_held(const Mr__Subscribe *m, const struct map_mailbox *box) {
    struct hold h;
    for (size_t i = 0; i < m->n_held; i++)
        if (!hold_of(m->held[i], box, &h))
            return false;
    return true;
}

static void release(struct shard_link *l, uint64_t partition, const ProtobufCBinaryData *id,
                    const char *subscription, const struct hold *range) {
    Mr__ShardSettle m = MR__SHARD_SETTLE__INIT;
    Mr__Settlement item = MR__SETTLEMENT__INIT, *items[] = {&item};
    if (!l || !l->link)
        return;
    item.kind = SETTLEMENT_RELEASE;
    item.first_offset = range->first;
    item.count = range->count;
    item.epoch = range->epoch;
    item.delivery_number = range->number;
    m.partition = partition; /* request 0: nobody waits for the answer */
    m.consumer_id = *id;
    m.subscription = (char *)(uintptr_t)subscription;
    m.items = items;
    m.n_items = 1;
    frame_send_shard_settle(l->link, &m, NULL, 0);
}

/* It comes again while its old session still stands here: what was on the way
 * to that session and is not held now goes back. */
static void present_again(struct gateway *g, struct consumer *c, const Mr__Subscribe *m,
                          const struct map_mailbox *box) {
    ProtobufCBinaryData id = id_bytes(c->key.id);
    for (uint32_t n = 0; n < box->partition_count; n++) {
        const struct map_partition *p = box->partitions[n];
        struct holds presented = {0}, lost = {0};
        struct hold h;
        for (size_t i = 0; i < m->n_held; i++)
            if (m->held[i]->partition == n && hold_of(m->held[i], box, &h))
                holds_add(&presented, &h);
        consumer_present_again(&g->consumers, c, n, &presented, &lost);
        for (size_t i = 0; i < lost.count; i++)
            release(shards_leader(g, p), p->id, &id, c->group->subscription, holds_at(&lost, i));
        holds_free(&lost);
    }
}

static struct consumer *take_over(struct session *s, struct consumer *c, const Mr__Subscribe *m,
                                  const struct map_mailbox *box) {
    struct gateway *g = s->gateway;
    if (c->session != s->number)
        tell_end(g, c, ERR_CLOSED, "the consumer has come again in another session");
    leave_session(g, c);
    present_again(g, c, m, box);
    consumer_credit(&g->consumers, c, m->credit);
    return c;
}

static struct consumer *add_consumer(struct session *s, const Mr__Subscribe *m,
                                     const struct map_mailbox *box) {
    struct gateway *g = s->gateway;
    struct consumer *c =
        consumers_add(&g->consumers, box->id, m->subscription, (uint32_t)box->partition_count,
                      m->consumer_id.data, *m->client ? m->client : s->name, m->credit);
    struct hold h;
    for (size_t i = 0; c && i < m->n_held; i++)
        if (hold_of(m->held[i], box, &h))
            consumer_present(&g->consumers, c, m->held[i]->partition, &h);
    if (c)
        counters_add(COUNTER_consumers, 1);
    return c;
}

static struct consumer *find_again(struct gateway *g, const Mr__Subscribe *m, const struct map_mailbox *box) {
    const struct group *group = consumers_group(&g->consumers, box->id, m->subscription);
    return group ? consumers_find(&g->consumers, group, m->consumer_id.data) : NULL;
}

static void subscribe(struct session *s, const Mr__Subscribe *m, const struct map_mailbox *box) {
    struct gateway *g = s->gateway;
    struct consumer *c = find_again(g, m, box);
    c = c ? take_over(s, c, m, box) : add_consumer(s, m, box);
    if (!c) {
        frame_send_failure(s->link, m->request, ERR_BUSY, "as many consumers as the gateway takes");
        return;
    }
    c->session = s->number;
    c->handle = m->consumer;
    HASH_ADD(hh_handle, s->consumers, handle, sizeof c->handle, c);
    consumer_pause(&g->consumers, c, s->paused);
    Mr__Subscribed answer = MR__SUBSCRIBED__INIT;
    answer.request = m->request;
    answer.consumer = m->consumer;
    answer.mailbox_id = box->id;
    answer.partitions = (uint32_t)box->partition_count;
    answer.ack_timeout_us = box->settings.ack_timeout;
    frame_send_subscribed(s->link, &answer, NULL, 0);
    attach_everywhere(g, c, box);
}

/* The map may be a moment behind a create that its client saw done. */
static void not_found(struct session *s, const Mr__Subscribe *m, const struct map_mailbox *box) {
    char text[ERR_DETAIL_BYTES];
    if (session_park(s, NULL))
        return;
    if (!box)
        snprintf(text, sizeof text, "mailbox '%.128s' not found", m->mailbox);
    else
        snprintf(text, sizeof text, "mailbox '%.100s' has no subscription '%.100s'", m->mailbox,
                 m->subscription);
    frame_send_failure(s->link, m->request, s->gateway->map.known ? ERR_NOT_FOUND : ERR_UNAVAILABLE, text);
}

void on_subscribe(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Subscribe *m = header;
    const struct map_mailbox *box = map_find(&s->gateway->map, m->mailbox);
    if (m->consumer_id.len != CONSUMER_ID_BYTES || by_handle(s, m->consumer)) {
        link_refuse(link, ERR_PROTOCOL, "SUBSCRIBE: expected a consumer id of %d bytes and an unused handle",
                    CONSUMER_ID_BYTES);
        return;
    }
    if (!box || !map_mailbox_whole(box) || !map_has_subscription(box, m->subscription)) {
        not_found(s, m, box);
        return;
    }
    if (!check_held(m, box))
        frame_send_failure(link, m->request, ERR_INVALID, "a held range is none of this mailbox");
    else if (HASH_CNT(hh_handle, s->consumers) >= SESSION_CONSUMERS_MAX)
        frame_send_failure(link, m->request, ERR_BUSY, "as many consumers as a session may have");
    else
        subscribe(s, m, box);
}

void on_credit(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Credit *m = header;
    struct consumer *c = by_handle(s, m->consumer);
    if (!c)
        return; /* it has ended, the client is being told */
    uint64_t credit = (uint64_t)c->credit + m->more;
    consumer_credit(&s->gateway->consumers, c, credit < UINT32_MAX ? (uint32_t)credit : UINT32_MAX);
}

/* ---- lending ---- */

void on_ready(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__Ready *m = header;
    const struct map_partition *p = map_find_partition(&l->gateway->map, m->partition);
    if (!leads(l, p) || !p->mailbox)
        return;
    struct group *group = consumers_group(&l->gateway->consumers, p->mailbox->id, m->subscription);
    if (group)
        consumers_ready(&l->gateway->consumers, group, p->number, m->messages);
}

void on_credit_back(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__CreditBack *m = header;
    const struct map_partition *p = map_find_partition(&l->gateway->map, m->partition);
    struct consumer *c = by_names(l->gateway, p, &m->consumer_id, m->subscription);
    if (c && leads(l, p))
        consumer_credit_back(&l->gateway->consumers, c, p->number, m->credit);
}

static void lend(void *ctx, const struct part *part, uint32_t more) {
    struct gateway *g = ctx;
    const struct group *group = part->consumer->group;
    const struct map_mailbox *box = map_find_id(&g->map, group->mailbox);
    const struct map_partition *p = box ? box->partitions[part->number] : NULL;
    struct shard_link *l = p ? shards_leader(g, p) : NULL;
    Mr__Lend m = MR__LEND__INIT;
    if (!l)
        return; /* gateway_leader_lost takes what was lent back */
    m.partition = p->id;
    m.consumer_id = id_bytes(part->consumer->key.id);
    m.subscription = (char *)(uintptr_t)group->subscription;
    m.more = more;
    frame_send_lend(l->link, &m, NULL, 0);
}

void consuming_turn(struct gateway *g) {
    consumers_pump(&g->consumers, lend, g);
}

void consuming_pause(struct session *s, bool paused) {
    struct consumer *c, *tmp;
    HASH_ITER(hh_handle, s->consumers, c, tmp) {
        consumer_pause(&s->gateway->consumers, c, paused);
    }
}

/* ---- deliveries ---- */

static void pass_on(struct gateway *g, struct consumer *c, struct session *s, Mr__Delivery *d,
                    struct body *body) {
    d->consumer = c->handle;
    if (d->crc == 0)
        d->crc = crc32c(0, body->data, body->size);
    enum err e = frame_send_delivery(s->link, d, &body, 1);
    counters_add(COUNTER_deliveries, d->count);
    if (e == ERR_TOO_LARGE)
        end_consumer(g, c, false, ERR_TOO_LARGE, "a message is larger than the frames this client takes");
    else
        session_queue(s);
}

void on_shard_delivery(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    struct gateway *g = l->gateway;
    const Mr__ShardDelivery *m = header;
    Mr__Delivery *d = m->delivery;
    struct map_partition *p = map_find_partition(&g->map, m->partition);
    if (!d || !body || d->count == 0 || d->first_offset > UINT64_MAX - d->count) {
        link_refuse(link, ERR_PROTOCOL, "SHARD_DELIVERY without a run");
        return;
    }
    struct hold run = {
        .first = d->first_offset, .count = d->count, .epoch = d->epoch, .number = d->delivery_number};
    struct consumer *c = leads(l, p) ? by_names(g, p, &m->consumer_id, m->subscription) : NULL;
    struct session *s = c ? sessions_find(g, c->session) : NULL;
    if (!s || !consumer_delivered(&g->consumers, c, p->number, &run, body->size)) {
        /* the consumer went, or this leader was left, while it was on the way */
        release(l, m->partition, &m->consumer_id, m->subscription, &run);
        return;
    }
    d->partition = p->number;
    pass_on(g, c, s, d, body);
}

/* ---- settlements ---- */

static bool settlement_of(const Mr__Settlement *in, const struct map_mailbox *box, struct settlement *out) {
    *out = (struct settlement){.kind = in->kind,
                               .partition = in->partition,
                               .range = {.first = in->first_offset,
                                         .count = in->count,
                                         .epoch = in->epoch,
                                         .number = in->delivery_number},
                               .delay = in->delay_us};
    return in->kind <= SETTLEMENT_RELEASE && in->partition < box->partition_count && in->count > 0 &&
           in->delay_us >= 0 && in->first_offset <= UINT64_MAX - in->count;
}

static bool send_part(void *ctx, const struct settle_part *part) {
    struct gateway *g = ctx;
    const struct settle *s = part->settle;
    const struct map_mailbox *box = map_find_id(&g->map, s->mailbox);
    const struct map_partition *p = box ? box->partitions[part->partition] : NULL;
    struct shard_link *l = p ? shards_leader(g, p) : NULL;
    if (!l)
        return false;
    Mr__ShardSettle m = MR__SHARD_SETTLE__INIT;
    Mr__Settlement *items = xcalloc(part->count, sizeof *items);
    m.items = xcalloc(part->count, sizeof *m.items);
    for (size_t i = 0; i < part->count; i++) {
        const struct settlement *from = &s->items[part->items[i]];
        mr__settlement__init(&items[i]);
        items[i].kind = from->kind;
        items[i].partition = from->partition;
        items[i].first_offset = from->range.first;
        items[i].count = from->range.count;
        items[i].epoch = from->range.epoch;
        items[i].delivery_number = from->range.number;
        items[i].delay_us = from->delay;
        m.items[m.n_items++] = &items[i];
    }
    m.request = part->number;
    m.partition = p->id;
    m.consumer_id = id_bytes(s->consumer.id);
    m.subscription = (char *)(uintptr_t)s->consumer.subscription;
    enum err e = frame_send_shard_settle(l->link, &m, NULL, 0);
    free(m.items);
    free(items);
    return e == ERR_OK;
}

static void answer_settle(struct gateway *g, struct settle *done) {
    struct session *s = sessions_find(g, done->owner);
    if (s) {
        Mr__Settled m = MR__SETTLED__INIT;
        m.request = done->request;
        m.results = (ProtobufCBinaryData){done->count, done->results};
        s->settle_items -= done->count;
        frame_send_settled(s->link, &m, NULL, 0);
    }
    settles_remove(&g->settles, done);
}

static void begin_settle(struct session *s, const Mr__Settle *m, struct consumer *c,
                         const struct settlement *items) {
    struct gateway *g = s->gateway;
    struct settle_consumer who = {.number = c->number};
    memcpy(who.id, c->key.id, sizeof who.id);
    strcpy(who.subscription, c->group->subscription);
    struct settle *settle =
        settles_begin(&g->settles, s->number, m->request, &who, c->group->mailbox, items, m->n_items);
    struct settle_part *part;
    s->settle_items += m->n_items;
    DL_FOREACH(settle->parts, part) {
        part->sent = send_part(g, part);
    }
    if (!settle->parts)
        answer_settle(g, settle);
}

void on_settle(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Settle *m = header;
    struct consumer *c = by_handle(s, m->consumer);
    const struct map_mailbox *box = c ? map_find_id(&s->gateway->map, c->group->mailbox) : NULL;
    if (!box) {
        frame_send_failure(link, m->request, ERR_NOT_FOUND, "the consumer has ended");
        return;
    }
    if (s->settle_items + m->n_items > SETTLES_OWNER_ITEMS_MAX || m->n_items > SESSION_SETTLE_ITEMS_MAX) {
        frame_send_failure(link, m->request, ERR_BUSY, "as many settlements under way as a session may have");
        return;
    }
    struct settlement *items = xcalloc(m->n_items + 1, sizeof *items);
    bool valid = true;
    for (size_t i = 0; i < m->n_items; i++)
        valid &= settlement_of(m->items[i], box, &items[i]);
    if (valid)
        begin_settle(s, m, c, items);
    else
        link_refuse(link, ERR_PROTOCOL, "SETTLE: an item out of range");
    free(items);
}

static void settled(void *ctx, const struct settle *s, const struct settlement *item,
                    enum settlement_result result) {
    struct gateway *g = ctx;
    struct consumer *c = consumers_numbered(&g->consumers, s->consumer.number);
    if (result == SETTLEMENT_TOO_LATE)
        counters_add(COUNTER_settlements_late, item->range.count);
    if (!settlement_ends(item->kind))
        return;
    counters_add(COUNTER_settlements, item->range.count);
    if (c)
        consumer_settled(&g->consumers, c, item->partition, &item->range);
}

void on_shard_settled(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    struct gateway *g = l->gateway;
    const Mr__ShardSettled *m = header;
    struct settle_part *part = settles_find(&g->settles, m->request);
    if (!part)
        return; /* nobody waits for it */
    struct settle *s = part->settle;
    if (!settles_answer(&g->settles, part, m->results.data, m->results.len, settled, g)) {
        link_refuse(link, ERR_PROTOCOL, "SHARD_SETTLED: another number of results than items");
        return;
    }
    if (!s->parts)
        answer_settle(g, s);
}

void consuming_mailbox_gone(struct gateway *g, const struct map_mailbox *box) {
    struct group *group;
    struct settle *s, *tmp;
    while ((group = consumers_groups(&g->consumers, box->id)))
        end_group(g, group, ERR_NOT_FOUND, "the mailbox was deleted");
    DL_FOREACH_SAFE(g->settles.all, s, tmp) {
        if (s->mailbox == box->id)
            answer_settle(g, s); /* what is left reads unknown */
    }
}

/* ---- leaders coming and going ---- */

void consuming_leader(struct gateway *g, struct map_partition *p) {
    struct shard_link *l = p->mailbox ? shards_leader(g, p) : NULL;
    if (!l)
        return;
    attach_all(g, p, l);
    settles_send(&g->settles, p->mailbox->id, p->number, send_part, g);
}

void consuming_lost(struct gateway *g, struct map_partition *p) {
    if (!p->mailbox)
        return;
    for (struct group *group = consumers_groups(&g->consumers, p->mailbox->id); group;
         group = group->next_of_mailbox) {
        struct consumer *c;
        DL_FOREACH(group->consumers, c) {
            consumer_idle(&g->consumers, c, p->number);
        }
    }
    settles_lost(&g->settles, p->mailbox->id, p->number);
}

void consuming_retry(struct gateway *g) {
    struct consumer *c, *tmp;
    HASH_ITER(hh, g->consumers.by_key, c, tmp) {
        const struct map_mailbox *box = map_find_id(&g->map, c->group->mailbox);
        if (box && c->parts_open < c->group->partitions)
            attach_everywhere(g, c, box);
    }
    struct settle *s;
    DL_FOREACH(g->settles.all, s) {
        struct settle_part *part;
        DL_FOREACH(s->parts, part) {
            if (!part->sent)
                part->sent = send_part(g, part);
        }
    }
}

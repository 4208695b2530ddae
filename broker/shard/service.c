// SPDX-License-Identifier: Apache-2.0
/*
 * What gateways ask of a shard and are answered: publish, attach, lend, settle,
 * present, show, purge. A gateway is known to the mailboxes by its link's id.
 */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"

enum { CONSUMER_ID_BYTES = sizeof(struct consumer_id), SETTLE_ITEMS_MAX = 65536 };

static bool consumer_of(const ProtobufCBinaryData *b, struct consumer_id *out) {
    if (b->len != CONSUMER_ID_BYTES)
        return false;
    memcpy(out->bytes, b->data, CONSUMER_ID_BYTES);
    return true;
}

static ProtobufCBinaryData bytes_of(const struct consumer_id *id) {
    return (ProtobufCBinaryData){CONSUMER_ID_BYTES, (uint8_t *)(uintptr_t)id->bytes};
}

/* ---- answers that are packed per turn ---- */

static void add_receipt(struct shard_link *l, uint64_t request, uint64_t base_offset, bool duplicate) {
    Mr__Receipt *r = xmalloc(sizeof *r);
    mr__receipt__init(r);
    r->request = request;
    r->base_offset = base_offset;
    r->duplicate = duplicate;
    xgrow(&l->receipts, &l->receipts_capacity, l->receipts_count + 1, sizeof *l->receipts);
    l->receipts[l->receipts_count++] = r;
    counters_add(COUNTER_receipts, 1);
}

static void add_refused(struct shard_link *l, uint64_t request, enum err code, const char *text,
                        uint64_t last) {
    Mr__Refused *r = xmalloc(sizeof *r);
    mr__refused__init(r);
    r->request = request;
    r->code = code;
    r->text = xstrdup(text ? text : err_text(code));
    r->last = last;
    xgrow(&l->refused, &l->refused_capacity, l->refused_count + 1, sizeof *l->refused);
    l->refused[l->refused_count++] = r;
    counters_add(COUNTER_publishes_refused, 1);
}

static void clear_answers(struct shard_link *l) {
    for (size_t i = 0; i < l->receipts_count; i++)
        free(l->receipts[i]);
    for (size_t i = 0; i < l->refused_count; i++) {
        free(l->refused[i]->text);
        free(l->refused[i]);
    }
    l->receipts_count = l->refused_count = 0;
}

void service_send_turn(struct shard_link *l) {
    if (l->receipts_count == 0 && l->refused_count == 0)
        return;
    Mr__ShardReceipts m = MR__SHARD_RECEIPTS__INIT;
    m.receipts = l->receipts;
    m.n_receipts = l->receipts_count;
    m.refused = l->refused;
    m.n_refused = l->refused_count;
    link_send(l->link, FRAME_SHARD_RECEIPTS, &m.base, NULL, 0);
    clear_answers(l);
}

/* ---- publish ---- */

/* The partition of a request if it is led here, or NULL. */
static struct hosted *led(struct shard *s, uint64_t partition) {
    struct hosted *h = shard_find(s, partition);
    return h && h->partition && mailbox_leading(h->partition->mailbox) ? h : NULL;
}

static void time_publish(struct hosted *h, usec_t now) {
    if (h->sample_index)
        return;
    h->sample_index = replica_last_index(h->partition->replica);
    h->sample_at = now;
}

static void on_shard_publish(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__ShardPublish *m = frame_decode(s->loop, &mr__shard_publish__descriptor, frame);
    if (!m || !frame->body) {
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_PUBLISH: malformed header or no body");
        return;
    }
    struct err_detail detail;
    struct hosted *h = led(s, m->partition);
    if (!h) {
        struct hosted *known = shard_find(s, m->partition);
        bool quarantined = known && known->quarantined;
        add_refused(l, m->request, quarantined ? ERR_QUARANTINED : ERR_NOT_LEADER, NULL, 0);
        return;
    }
    if (batch_check(frame->body->data, frame->body->size, &detail) != ERR_OK) {
        add_refused(l, m->request, detail.code, detail.text, 0);
        return;
    }
    usec_t now = loop_now(s->loop);
    child_working_on(s->child, h->id);
    shard_touch(h);
    partition_time(h->partition, now, loop_wall(s->loop));
    partition_publish(h->partition, (struct mailbox_origin){l->id, m->request}, frame->body, now);
    time_publish(h, now);
    child_working_on(s->child, 0);
    counters_add(COUNTER_publishes, 1);
}

/* ---- consumers ---- */

static void answer_attached(struct shard_link *l, const Mr__Attach *m, enum err code) {
    Mr__Attached a = MR__ATTACHED__INIT;
    a.partition = m->partition;
    a.consumer_id = m->consumer_id;
    a.subscription = m->subscription;
    a.code = code;
    a.text = (char *)(uintptr_t)(code == ERR_OK ? "" : err_text(code));
    link_send(l->link, FRAME_ATTACHED, &a.base, NULL, 0);
}

static void hold(struct hosted *h, const struct consumer_id *id, const Mr__Attach *m, usec_t now) {
    struct mailbox_hold *held = xcalloc(m->n_held + 1, sizeof *held);
    for (size_t i = 0; i < m->n_held; i++)
        held[i] = (struct mailbox_hold){.first_offset = m->held[i]->first_offset,
                                        .count = m->held[i]->count,
                                        .epoch = m->held[i]->epoch,
                                        .delivery_number = m->held[i]->delivery_number};
    mailbox_still_held(h->partition->mailbox, id, m->subscription, held, m->n_held, now,
                       &h->partition->mailbox_effects);
    mailbox_hold(h->partition->mailbox, id, m->subscription, held, m->n_held, now,
                 &h->partition->mailbox_effects);
    free(held);
}

static void on_attach(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Attach *m = frame_decode(s->loop, &mr__attach__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id)) {
        link_refuse(l->link, ERR_PROTOCOL, "ATTACH: malformed header, or a consumer id that is not 16 bytes");
        return;
    }
    struct hosted *h = led(s, m->partition);
    usec_t now = loop_now(s->loop);
    enum err err = ERR_NOT_LEADER;
    if (h) {
        shard_touch(h);
        err = mailbox_attach(h->partition->mailbox, &id, l->id, m->subscription, m->client, 0, now,
                             &h->partition->mailbox_effects);
    }
    answer_attached(l, m, err);
    if (err != ERR_OK)
        return;
    hold(h, &id, m, now);
    if (m->credit)
        mailbox_credit(h->partition->mailbox, &id, m->subscription, m->credit, now,
                       &h->partition->mailbox_effects);
    partition_run(h->partition, now);
}

static void on_detach(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Detach *m = frame_decode(s->loop, &mr__detach__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id)) {
        link_refuse(l->link, ERR_PROTOCOL, "DETACH: malformed header");
        return;
    }
    struct hosted *h = led(s, m->partition);
    if (!h || !mailbox_at_gateway(h->partition->mailbox, &id, m->subscription, l->id))
        return; /* it has come again at another gateway meanwhile */
    shard_touch(h);
    mailbox_detach(h->partition->mailbox, &id, m->subscription, m->clean, loop_now(s->loop),
                   &h->partition->mailbox_effects);
    partition_run(h->partition, loop_now(s->loop));
}

static void on_lend(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Lend *m = frame_decode(s->loop, &mr__lend__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id)) {
        link_refuse(l->link, ERR_PROTOCOL, "LEND: malformed header");
        return;
    }
    struct hosted *h = led(s, m->partition);
    if (!h || !mailbox_at_gateway(h->partition->mailbox, &id, m->subscription, l->id))
        return; /* it has come again at another gateway meanwhile */
    shard_touch(h);
    mailbox_lend(h->partition->mailbox, &id, m->subscription, m->more, loop_now(s->loop),
                 &h->partition->mailbox_effects);
    partition_run(h->partition, loop_now(s->loop));
}

static bool settlement_of(const Mr__Settlement *in, struct mailbox_settlement *out) {
    *out = (struct mailbox_settlement){.kind = in->kind,
                                       .first_offset = in->first_offset,
                                       .count = in->count,
                                       .epoch = in->epoch,
                                       .delivery_number = in->delivery_number,
                                       .delay = in->delay_us};
    return in->kind <= SETTLE_RELEASE && in->count > 0 && in->delay_us >= 0 &&
           in->first_offset <= UINT64_MAX - in->count;
}

static void on_shard_settle(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__ShardSettle *m = frame_decode(s->loop, &mr__shard_settle__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id) || m->n_items > SETTLE_ITEMS_MAX) {
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_SETTLE: malformed header");
        return;
    }
    struct hosted *h = led(s, m->partition);
    if (!h)
        return; /* the gateway asks the new leader: it keeps what is not answered */
    struct mailbox_settlement *items = xcalloc(m->n_items, sizeof *items);
    bool valid = true;
    for (size_t i = 0; i < m->n_items; i++)
        valid &= settlement_of(m->items[i], &items[i]);
    if (valid) {
        usec_t now = loop_now(s->loop);
        shard_touch(h);
        mailbox_settle(h->partition->mailbox, (struct mailbox_origin){l->id, m->request}, &id,
                       m->subscription, items, m->n_items, now, partition_stamp(h->partition, now),
                       &h->partition->mailbox_effects);
        partition_run(h->partition, now);
    } else {
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_SETTLE: an item out of range");
    }
    free(items);
}

static void on_presented(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Presented *m = frame_decode(s->loop, &mr__presented__descriptor, frame);
    for (size_t i = 0; m && i < m->n_leading; i++) {
        struct hosted *h = led(s, m->leading[i]->partition);
        if (!h || replica_epoch(h->partition->replica) != m->leading[i]->epoch)
            continue;
        shard_touch(h);
        mailbox_presented(h->partition->mailbox, l->id, loop_now(s->loop), &h->partition->mailbox_effects);
        partition_run(h->partition, loop_now(s->loop));
    }
}

/* ---- show and purge ---- */

static void free_show(Mr__PartitionShow *show) {
    for (size_t i = 0; i < show->n_subscriptions; i++) {
        Mr__SubscriptionShow *sub = show->subscriptions[i];
        for (size_t k = 0; k < sub->n_consumers; k++) {
            free(sub->consumers[k]->id.data);
            free(sub->consumers[k]);
        }
        free(sub->consumers);
        free(sub);
    }
    free(show->subscriptions);
}

static Mr__ConsumerShow *show_consumer(const struct consumer_stats *stats) {
    Mr__ConsumerShow *c = xmalloc(sizeof *c);
    mr__consumer_show__init(c);
    c->id.len = CONSUMER_ID_BYTES;
    c->id.data = xmalloc(CONSUMER_ID_BYTES);
    memcpy(c->id.data, stats->id.bytes, CONSUMER_ID_BYTES);
    c->client = (char *)(uintptr_t)stats->client;
    c->credit = stats->credit;
    c->leased = stats->leased;
    c->delivered = stats->delivered;
    return c;
}

static Mr__SubscriptionShow *show_subscription(const struct mailbox *m, size_t i) {
    struct subscription_stats stats;
    if (!mailbox_subscription_stats(m, i, &stats))
        return NULL;
    Mr__SubscriptionShow *out = xmalloc(sizeof *out);
    mr__subscription_show__init(out);
    out->name = (char *)(uintptr_t)stats.name;
    out->reason = (char *)(uintptr_t)stats.reason;
    out->published = stats.published;
    out->ready = stats.ready;
    out->leased = stats.leased;
    out->delayed = stats.delayed;
    out->dying = stats.dying;
    out->acked = stats.acked;
    out->dead = stats.dead;
    out->expired = stats.expired;
    out->dropped = stats.dropped;
    out->purged = stats.purged;
    out->consumers = xcalloc(stats.consumers, sizeof *out->consumers);
    struct consumer_stats consumer;
    while (out->n_consumers < stats.consumers && mailbox_consumer_stats(m, i, out->n_consumers, &consumer))
        out->consumers[out->n_consumers++] = show_consumer(&consumer);
    return out;
}

static const char *state_of(const struct hosted *h) {
    if (h->quarantined)
        return "quarantined";
    if (replica_damaged(h->partition->replica))
        return "damaged";
    return h->record.activating ? "activating" : "ok";
}

static void on_show_partition(struct shard_link *l, const struct frame *frame) {
    Mr__ShowPartition *m = frame_decode(l->shard->loop, &mr__show_partition__descriptor, frame);
    if (!m) {
        link_refuse(l->link, ERR_PROTOCOL, "SHOW_PARTITION: malformed header");
        return;
    }
    struct hosted *h = led(l->shard, m->partition);
    Mr__PartitionShown shown = MR__PARTITION_SHOWN__INIT;
    Mr__PartitionShow show = MR__PARTITION_SHOW__INIT;
    shown.request = m->request;
    shown.partition = m->partition;
    shown.code = h ? ERR_OK : ERR_NOT_LEADER;
    if (h) {
        struct mailbox_stats stats;
        mailbox_stats(h->partition->mailbox, &stats);
        shown.show = &show;
        show.partition = h->number;
        show.epoch = replica_epoch(h->partition->replica);
        show.state = (char *)(uintptr_t)state_of(h);
        show.messages = stats.messages;
        show.bytes = stats.bytes;
        show.subscriptions = xcalloc(stats.subscriptions, sizeof *show.subscriptions);
        Mr__SubscriptionShow *sub;
        while (show.n_subscriptions < stats.subscriptions &&
               (sub = show_subscription(h->partition->mailbox, show.n_subscriptions)))
            show.subscriptions[show.n_subscriptions++] = sub;
    }
    link_send(l->link, FRAME_PARTITION_SHOWN, &shown.base, NULL, 0);
    free_show(&show);
}

static void on_purge_partition(struct shard_link *l, const struct frame *frame) {
    Mr__PurgePartition *m = frame_decode(l->shard->loop, &mr__purge_partition__descriptor, frame);
    if (!m) {
        link_refuse(l->link, ERR_PROTOCOL, "PURGE_PARTITION: malformed header");
        return;
    }
    struct hosted *h = led(l->shard, m->partition);
    Mr__PartitionPurged purged = MR__PARTITION_PURGED__INIT;
    purged.request = m->request;
    purged.partition = m->partition;
    purged.code = h ? ERR_OK : ERR_NOT_LEADER;
    if (h) {
        shard_touch(h);
        mailbox_purge(h->partition->mailbox, &h->partition->mailbox_effects);
        partition_run(h->partition, loop_now(l->shard->loop));
    }
    link_send(l->link, FRAME_PARTITION_PURGED, &purged.base, NULL, 0);
}

static void on_forwarded(struct shard_link *l, const struct frame *frame) {
    Mr__Forwarded *m = frame_decode(l->shard->loop, &mr__forwarded__descriptor, frame);
    if (m)
        letters_forwarded(l->shard, m);
}

void service_frame(struct shard_link *l, const struct frame *frame) {
    switch (frame->type) {
    case FRAME_SHARD_PUBLISH:
        on_shard_publish(l, frame);
        break;
    case FRAME_ATTACH:
        on_attach(l, frame);
        break;
    case FRAME_DETACH:
        on_detach(l, frame);
        break;
    case FRAME_LEND:
        on_lend(l, frame);
        break;
    case FRAME_SHARD_SETTLE:
        on_shard_settle(l, frame);
        break;
    case FRAME_PRESENTED:
        on_presented(l, frame);
        break;
    case FRAME_SHOW_PARTITION:
        on_show_partition(l, frame);
        break;
    case FRAME_PURGE_PARTITION:
        on_purge_partition(l, frame);
        break;
    case FRAME_FORWARDED:
        on_forwarded(l, frame);
        break;
    default:
        link_refuse(l->link, ERR_PROTOCOL, "frame type %u: not one a gateway sends to a shard", frame->type);
    }
}

/* ---- the mailbox's effects ---- */

static void send_settled(struct hosted *h, const struct mailbox_effect *e) {
    struct shard_link *l = links_gateway(h->shard, e->settled.origin.link);
    if (!l)
        return;
    uint8_t results[1024];
    uint8_t *bytes = e->settled.count <= sizeof results ? results : xmalloc(e->settled.count);
    for (size_t i = 0; i < e->settled.count; i++) {
        /* not answered by this leader: the gateway asks the next one */
        bytes[i] = (uint8_t)e->settled.results[i];
        counters_add(
            e->settled.results[i] == SETTLE_TOO_LATE ? COUNTER_settlements_late : COUNTER_settlements, 1);
    }
    Mr__ShardSettled m = MR__SHARD_SETTLED__INIT;
    m.request = e->settled.origin.request;
    m.partition = h->id;
    m.results = (ProtobufCBinaryData){e->settled.count, bytes};
    link_send(l->link, FRAME_SHARD_SETTLED, &m.base, NULL, 0);
    if (bytes != results)
        free(bytes);
}

static void send_ready(struct hosted *h, const struct mailbox_effect *e) {
    struct shard_link *l = links_gateway(h->shard, e->ready.gateway);
    Mr__Ready m = MR__READY__INIT;
    m.partition = h->id;
    m.subscription = (char *)(uintptr_t)e->ready.subscription;
    m.messages = e->ready.messages;
    if (l)
        link_send(l->link, FRAME_READY, &m.base, NULL, 0);
}

static void send_credit_back(struct hosted *h, const struct mailbox_effect *e) {
    struct shard_link *l = links_gateway(h->shard, e->credit_back.gateway);
    Mr__CreditBack m = MR__CREDIT_BACK__INIT;
    m.partition = h->id;
    m.consumer_id = bytes_of(&e->credit_back.consumer);
    m.subscription = (char *)(uintptr_t)e->credit_back.subscription;
    m.credit = e->credit_back.credit;
    if (l)
        link_send(l->link, FRAME_CREDIT_BACK, &m.base, NULL, 0);
}

static void send_detached(struct hosted *h, const struct mailbox_effect *e) {
    struct shard_link *l = links_gateway(h->shard, e->detached.gateway);
    Mr__Detached m = MR__DETACHED__INIT;
    m.partition = h->id;
    m.consumer_id = bytes_of(&e->detached.consumer);
    m.subscription = (char *)(uintptr_t)e->detached.subscription;
    m.code = e->detached.reason;
    if (l)
        link_send(l->link, FRAME_DETACHED, &m.base, NULL, 0);
}

void service_effect(struct hosted *h, const struct mailbox_effect *e) {
    struct shard_link *l;
    switch (e->type) {
    case MAILBOX_RECEIPT:
        if ((l = links_gateway(h->shard, e->receipt.origin.link)))
            add_receipt(l, e->receipt.origin.request, e->receipt.base_offset, e->receipt.duplicate);
        break;
    case MAILBOX_REFUSED:
        if ((l = links_gateway(h->shard, e->refused.origin.link)))
            add_refused(l, e->refused.origin.request, e->refused.code, e->refused.text, e->refused.last);
        break;
    case MAILBOX_DELIVER:
        deliver_run(h, e);
        break;
    case MAILBOX_SETTLED:
        send_settled(h, e);
        break;
    case MAILBOX_READY:
        send_ready(h, e);
        break;
    case MAILBOX_CREDIT_BACK:
        send_credit_back(h, e);
        break;
    case MAILBOX_DETACHED:
        send_detached(h, e);
        break;
    case MAILBOX_DEAD_LETTER:
        letters_send(h, e);
        break;
    default:
        CHECK(!"a mailbox's effect that the partition carries out itself");
    }
}

/* ---- leadership ---- */

static void send_led(struct shard_link *l, struct hosted *h, uint64_t epoch) {
    Mr__Led m = MR__LED__INIT;
    Mr__Leading leading = MR__LEADING__INIT;
    Mr__Leading *list[] = {&leading};
    leading.partition = h->id;
    leading.epoch = epoch;
    m.leading = list;
    m.n_leading = 1;
    link_send(l->link, FRAME_LED, &m.base, NULL, 0);
}

size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max) {
    size_t n = 0;
    LINKS_EACH(h->shard, l) {
        if (l->kind != LINK_GATEWAY || n == max)
            continue;
        gateways[n++] = l->id;
        send_led(l, h, epoch);
    }
    orders_report(h, MR__REPORT_KIND__REPORT_LED, epoch, 0);
    /* the mailbox learns what the metadata wants once it leads: at the turn's end */
    h->wishes_due = true;
    return n;
}

void service_not_leading(struct hosted *h) {
    Mr__NotLeading m = MR__NOT_LEADING__INIT;
    m.partitions = &h->id;
    m.n_partitions = 1;
    deliver_forget(h);
    letters_forget(h);
    h->sample_index = 0;
    LINKS_EACH(h->shard, l)
    if (l->kind == LINK_GATEWAY)
        link_send(l->link, FRAME_NOT_LEADING, &m.base, NULL, 0);
}

void service_up(struct shard_link *l) {
    for (struct hosted *h = l->shard->hosted; h; h = h->hh.next)
        if (h->partition && mailbox_leading(h->partition->mailbox))
            send_led(l, h, replica_epoch(h->partition->replica));
}

void service_down(struct shard_link *l) {
    struct shard *s = l->shard;
    clear_answers(l);
    free(l->receipts);
    free(l->refused);
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        shard_touch(h);
        mailbox_gateway_lost(h->partition->mailbox, l->id, loop_now(s->loop), &h->partition->mailbox_effects);
        partition_run(h->partition, loop_now(s->loop));
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
    usec_t now = loop_now(s->loop);
    size_t count = 0, room = HASH_COUNT(s->hosted);
    Mr__PartitionLoad *loads = xcalloc(room, sizeof *loads);
    Mr__PartitionLoad **list = xcalloc(room, sizeof *list);
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
        mr__partition_load__init(&loads[count]);
        loads[count].partition = h->id;
        loads[count].backlog = stats.messages;
        loads[count].wait_us = wait;
        list[count] = &loads[count];
        count++;
    }
    Mr__PartitionLoads m = MR__PARTITION_LOADS__INIT;
    m.loads = list;
    m.n_loads = count;
    LINKS_EACH(s, l)
    if (count && l->kind == LINK_GATEWAY)
        link_send(l->link, FRAME_PARTITION_LOADS, &m.base, NULL, 0);
    free(list);
    free(loads);
}

void service_close(struct shard *s) {
    letters_gateway_down(s);
}

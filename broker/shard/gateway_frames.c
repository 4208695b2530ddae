// SPDX-License-Identifier: Apache-2.0
/* Frames of gateways, as what they ask (core/service.c) and are answered; publish
 * answers are packed per turn. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/counters.h"
#include "base/crc.h"
#include "base/xalloc.h"
#include "shard/process.h"

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

static void receipt(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    struct process_link *l = process_link_of(to);
    Mr__Receipt *r = xmalloc(sizeof *r);
    (void)partition;
    mr__receipt__init(r);
    r->request = e->receipt.origin.request;
    r->base_offset = e->receipt.base_offset;
    r->duplicate = e->receipt.duplicate;
    xgrow(&l->receipts, &l->receipts_capacity, l->receipts_count + 1, sizeof *l->receipts);
    l->receipts[l->receipts_count++] = r;
    counters_add(COUNTER_receipts, 1);
}

static void refused(struct shard_link *to, uint64_t partition, uint64_t request, enum err code,
                    const char *text, uint64_t last) {
    struct process_link *l = process_link_of(to);
    Mr__Refused *r = xmalloc(sizeof *r);
    (void)partition;
    mr__refused__init(r);
    r->request = request;
    r->code = code;
    r->text = xstrdup(text ? text : err_text(code));
    r->last = last;
    xgrow(&l->refused, &l->refused_capacity, l->refused_count + 1, sizeof *l->refused);
    l->refused[l->refused_count++] = r;
    counters_add(COUNTER_publishes_refused, 1);
}

static void clear_answers(struct process_link *l) {
    for (size_t i = 0; i < l->receipts_count; i++)
        free(l->receipts[i]);
    for (size_t i = 0; i < l->refused_count; i++) {
        free(l->refused[i]->text);
        free(l->refused[i]);
    }
    l->receipts_count = l->refused_count = 0;
}

void gateway_frames_send_turn(struct process_link *l) {
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

void gateway_frames_free(struct process_link *l) {
    clear_answers(l);
    free(l->receipts);
    free(l->refused);
}

/* ---- in ---- */

static void on_shard_publish(struct process_link *l, const struct frame *frame) {
    Mr__ShardPublish *m = frame_decode(l->process->loop, &mr__shard_publish__descriptor, frame);
    if (!m || !frame->body)
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_PUBLISH: malformed header or no body");
    else
        service_on_publish(&l->shard, m->partition, m->request, frame->body);
}

static void on_attach(struct process_link *l, const struct frame *frame) {
    Mr__Attach *m = frame_decode(l->process->loop, &mr__attach__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id)) {
        link_refuse(l->link, ERR_PROTOCOL, "ATTACH: malformed header, or a consumer id that is not 16 bytes");
        return;
    }
    struct mailbox_hold *held = xcalloc(m->n_held + 1, sizeof *held);
    for (size_t i = 0; i < m->n_held; i++)
        held[i] = (struct mailbox_hold){.first_offset = m->held[i]->first_offset,
                                        .count = m->held[i]->count,
                                        .epoch = m->held[i]->epoch,
                                        .delivery_number = m->held[i]->delivery_number};
    service_on_attach(&l->shard, &(struct shard_attach){.partition = m->partition,
                                                        .consumer = id,
                                                        .subscription = m->subscription,
                                                        .client = m->client,
                                                        .credit = m->credit,
                                                        .held = held,
                                                        .held_count = m->n_held});
    free(held);
}

static void on_detach(struct process_link *l, const struct frame *frame) {
    Mr__Detach *m = frame_decode(l->process->loop, &mr__detach__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id))
        link_refuse(l->link, ERR_PROTOCOL, "DETACH: malformed header");
    else
        service_on_detach(&l->shard, m->partition, &id, m->subscription, m->clean);
}

static void on_lend(struct process_link *l, const struct frame *frame) {
    Mr__Lend *m = frame_decode(l->process->loop, &mr__lend__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id))
        link_refuse(l->link, ERR_PROTOCOL, "LEND: malformed header");
    else
        service_on_lend(&l->shard, m->partition, &id, m->subscription, m->more);
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

static void on_shard_settle(struct process_link *l, const struct frame *frame) {
    Mr__ShardSettle *m = frame_decode(l->process->loop, &mr__shard_settle__descriptor, frame);
    struct consumer_id id;
    if (!m || !consumer_of(&m->consumer_id, &id) || m->n_items > SETTLE_ITEMS_MAX) {
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_SETTLE: malformed header");
        return;
    }
    struct mailbox_settlement *items = xcalloc(m->n_items, sizeof *items);
    bool valid = true;
    for (size_t i = 0; i < m->n_items; i++)
        valid &= settlement_of(m->items[i], &items[i]);
    if (valid)
        service_on_settle(&l->shard, m->partition, m->request, &id, m->subscription, items, m->n_items);
    else
        link_refuse(l->link, ERR_PROTOCOL, "SHARD_SETTLE: an item out of range");
    free(items);
}

static void on_presented(struct process_link *l, const struct frame *frame) {
    Mr__Presented *m = frame_decode(l->process->loop, &mr__presented__descriptor, frame);
    for (size_t i = 0; m && i < m->n_leading; i++)
        service_on_presented(&l->shard, m->leading[i]->partition, m->leading[i]->epoch);
}

static void on_purge_partition(struct process_link *l, const struct frame *frame) {
    Mr__PurgePartition *m = frame_decode(l->process->loop, &mr__purge_partition__descriptor, frame);
    if (!m) {
        link_refuse(l->link, ERR_PROTOCOL, "PURGE_PARTITION: malformed header");
        return;
    }
    Mr__PartitionPurged purged = MR__PARTITION_PURGED__INIT;
    purged.request = m->request;
    purged.partition = m->partition;
    purged.code = service_on_purge(&l->shard, m->partition) ? ERR_OK : ERR_NOT_LEADER;
    link_send(process_link_out(&l->shard), FRAME_PARTITION_PURGED, &purged.base, NULL, 0);
}

static void on_forwarded(struct process_link *l, const struct frame *frame) {
    Mr__Forwarded *m = frame_decode(l->process->loop, &mr__forwarded__descriptor, frame);
    if (m)
        letters_forwarded(&l->process->shard, m->request, m->code);
}

void gateway_frames_read(struct process_link *l, const struct frame *frame) {
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
        show_partition(l, frame);
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

/* ---- out ---- */

static void attached(struct shard_link *to, const struct shard_attach *what, enum err code) {
    Mr__Attached a = MR__ATTACHED__INIT;
    a.partition = what->partition;
    a.consumer_id = bytes_of(&what->consumer);
    a.subscription = (char *)(uintptr_t)what->subscription;
    a.code = code;
    a.text = (char *)(uintptr_t)(code == ERR_OK ? "" : err_text(code));
    link_send(process_link_out(to), FRAME_ATTACHED, &a.base, NULL, 0);
}

static void settled(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
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
    m.partition = partition;
    m.results = (ProtobufCBinaryData){e->settled.count, bytes};
    link_send(process_link_out(to), FRAME_SHARD_SETTLED, &m.base, NULL, 0);
    if (bytes != results)
        free(bytes);
}

static void ready(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    Mr__Ready m = MR__READY__INIT;
    m.partition = partition;
    m.subscription = (char *)(uintptr_t)e->ready.subscription;
    m.messages = e->ready.messages;
    link_send(process_link_out(to), FRAME_READY, &m.base, NULL, 0);
}

static void credit_back(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    Mr__CreditBack m = MR__CREDIT_BACK__INIT;
    m.partition = partition;
    m.consumer_id = bytes_of(&e->credit_back.consumer);
    m.subscription = (char *)(uintptr_t)e->credit_back.subscription;
    m.credit = e->credit_back.credit;
    link_send(process_link_out(to), FRAME_CREDIT_BACK, &m.base, NULL, 0);
}

static void detached(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    Mr__Detached m = MR__DETACHED__INIT;
    m.partition = partition;
    m.consumer_id = bytes_of(&e->detached.consumer);
    m.subscription = (char *)(uintptr_t)e->detached.subscription;
    m.code = e->detached.reason;
    link_send(process_link_out(to), FRAME_DETACHED, &m.base, NULL, 0);
}

static void deliver(struct shard_link *to, const struct hosted *h, const struct mailbox_effect *e,
                    struct body *run) {
    Mr__Delivery d = MR__DELIVERY__INIT;
    Mr__ShardDelivery m = MR__SHARD_DELIVERY__INIT;
    m.partition = h->id;
    m.consumer_id = bytes_of(&e->deliver.consumer);
    m.subscription = (char *)(uintptr_t)e->deliver.subscription;
    m.delivery = &d;
    d.partition = h->number;
    d.first_offset = e->deliver.first_offset;
    d.count = e->deliver.count;
    d.epoch = e->deliver.epoch;
    d.delivery_number = e->deliver.delivery_number;
    d.attempt = e->deliver.attempt;
    d.stamp = e->deliver.stamp;
    d.crc = crc32c(0, run->data, run->size);
    link_send(process_link_out(to), FRAME_SHARD_DELIVERY, &m.base, &run, 1);
}

static void led(struct shard_link *to, uint64_t partition, uint64_t epoch) {
    told_add(process_link_of(to), TOLD_LED, &(struct told){.partition = partition, .number = epoch});
}

static void not_leading(struct shard_link *to, uint64_t partition) {
    told_add(process_link_of(to), TOLD_NOT_LEADING, &(struct told){.partition = partition});
}

static void loads(struct shard_link *to, const struct partition_load *in, size_t count) {
    Mr__PartitionLoad *messages = xcalloc(count, sizeof *messages);
    Mr__PartitionLoad **list = xcalloc(count, sizeof *list);
    Mr__PartitionLoads m = MR__PARTITION_LOADS__INIT;
    for (size_t i = 0; i < count; i++) {
        mr__partition_load__init(&messages[i]);
        messages[i].partition = in[i].partition;
        messages[i].backlog = in[i].backlog;
        messages[i].wait_us = in[i].wait_us;
        list[i] = &messages[i];
    }
    m.loads = list;
    m.n_loads = count;
    link_send(process_link_out(to), FRAME_PARTITION_LOADS, &m.base, NULL, 0);
    free(list);
    free(messages);
}

static void letter(struct shard_link *to, const struct shard_letter *in) {
    Mr__ForwardPublish m = MR__FORWARD_PUBLISH__INIT;
    struct body *batch = in->batch;
    m.request = in->request;
    m.mailbox = (char *)(uintptr_t)in->mailbox;
    m.partition = in->number;
    link_send(process_link_out(to), FRAME_FORWARD_PUBLISH, &m.base, &batch, 1);
}

void gateway_frames_calls(struct shard_calls *calls) {
    calls->receipt = receipt;
    calls->refused = refused;
    calls->attached = attached;
    calls->settled = settled;
    calls->ready = ready;
    calls->credit_back = credit_back;
    calls->detached = detached;
    calls->deliver = deliver;
    calls->led = led;
    calls->not_leading = not_leading;
    calls->loads = loads;
    calls->letter = letter;
}

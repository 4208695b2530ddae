// SPDX-License-Identifier: Apache-2.0
#include "memory_shard.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/body.h"
#include "base/crc.h"
#include "base/xalloc.h"
#include "wire/hello.h"

void memory_partition_open(struct memory_partition *p, uint64_t id, uint32_t number,
                           const struct mailbox_settings *settings) {
    struct mailbox_options options = {.name = "orders", .id = id, .partition = number, .settings = *settings};
    memset(p, 0, sizeof *p);
    p->id = id;
    p->number = number;
    p->mailbox = mailbox_new(&options);
}

void memory_partition_close(struct memory_partition *p) {
    for (size_t i = 0; i < p->batches_capacity; i++)
        body_drop(p->batches[i]);
    free(p->batches);
    mailbox_effects_free(&p->effects);
    mailbox_free(p->mailbox);
}

/* ---- effects ---- */

static void keep_batch(struct memory_partition *p, struct body *body) {
    size_t before = p->batches_capacity;
    xgrow(&p->batches, &p->batches_capacity, p->index + 1, sizeof *p->batches);
    memset(p->batches + before, 0, (p->batches_capacity - before) * sizeof *p->batches);
    p->batches[p->index] = body_keep(body);
}

/* The log: what is proposed is committed. */
static void commit(struct memory_shard *s, struct memory_partition *p, uint8_t type, struct body *body) {
    struct entry entry = {.index = ++p->index, .epoch = p->epoch, .type = type, .body = body};
    if (type == ENTRY_BATCH)
        keep_batch(p, body);
    mailbox_apply(p->mailbox, &entry, loop_now(s->loop), &p->effects);
}

static void receipt(struct memory_shard *s, const struct mailbox_effect *e) {
    xgrow(&s->receipts, &s->receipts_capacity, s->receipts_count + 1, sizeof *s->receipts);
    Mr__Receipt *r = &s->receipts[s->receipts_count++];
    mr__receipt__init(r);
    r->request = e->receipt.origin.request;
    r->base_offset = e->receipt.base_offset;
    r->duplicate = e->receipt.duplicate;
}

static void refused(struct memory_shard *s, const struct mailbox_effect *e) {
    Mr__ShardReceipts m = MR__SHARD_RECEIPTS__INIT;
    Mr__Refused r = MR__REFUSED__INIT, *list[] = {&r};
    r.request = e->refused.origin.request;
    r.code = e->refused.code;
    r.text = (char *)(uintptr_t)(e->refused.text ? e->refused.text : "");
    r.last = e->refused.last;
    m.refused = list;
    m.n_refused = 1;
    frame_send_shard_receipts(s->link, &m, NULL, 0);
}

static void deliver(struct memory_shard *s, struct memory_partition *p, const struct mailbox_effect *e) {
    struct body *batch = p->batches[e->deliver.batch_index];
    size_t offset, bytes;
    uint32_t first = (uint32_t)(e->deliver.first_offset - e->deliver.base_offset);
    cr_assert(batch_slice(batch->data, batch->size, first, e->deliver.count, &offset, &bytes));
    struct body *run = body_slice(batch, offset, bytes);
    Mr__ShardDelivery m = MR__SHARD_DELIVERY__INIT;
    Mr__Delivery d = MR__DELIVERY__INIT;
    m.partition = p->id;
    m.consumer_id = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)e->deliver.consumer.bytes};
    m.subscription = (char *)(uintptr_t)e->deliver.subscription;
    m.delivery = &d;
    d.first_offset = e->deliver.first_offset;
    d.count = e->deliver.count;
    d.epoch = e->deliver.epoch;
    d.delivery_number = e->deliver.delivery_number;
    d.attempt = e->deliver.attempt;
    d.stamp = e->deliver.stamp;
    d.crc = crc32c(0, run->data, run->size);
    frame_send_shard_delivery(s->link, &m, &run, 1);
    body_drop(run);
}

static void settled(struct memory_shard *s, struct memory_partition *p, const struct mailbox_effect *e) {
    Mr__ShardSettled m = MR__SHARD_SETTLED__INIT;
    uint8_t *results = xmalloc(e->settled.count + 1);
    for (size_t i = 0; i < e->settled.count; i++)
        results[i] = (uint8_t)e->settled.results[i];
    m.request = e->settled.origin.request;
    m.partition = p->id;
    m.results = (ProtobufCBinaryData){e->settled.count, results};
    frame_send_shard_settled(s->link, &m, NULL, 0);
    free(results);
}

static void ready(struct memory_shard *s, struct memory_partition *p, const struct mailbox_effect *e) {
    Mr__Ready m = MR__READY__INIT;
    m.partition = p->id;
    m.subscription = (char *)(uintptr_t)e->ready.subscription;
    m.messages = e->ready.messages;
    frame_send_ready(s->link, &m, NULL, 0);
}

static void credit_back(struct memory_shard *s, struct memory_partition *p, const struct mailbox_effect *e) {
    Mr__CreditBack m = MR__CREDIT_BACK__INIT;
    m.partition = p->id;
    m.consumer_id = (ProtobufCBinaryData){16, (uint8_t *)(uintptr_t)e->credit_back.consumer.bytes};
    m.subscription = (char *)(uintptr_t)e->credit_back.subscription;
    m.credit = e->credit_back.credit;
    frame_send_credit_back(s->link, &m, NULL, 0);
}

static void effect(struct memory_shard *s, struct memory_partition *p, const struct mailbox_effect *e) {
    bool heard = s->link && s->greeted;
    if (e->type == MAILBOX_PROPOSE)
        commit(s, p, e->propose.type, e->propose.body);
    else if (e->type == MAILBOX_RECEIPT && heard)
        receipt(s, e);
    else if (e->type == MAILBOX_REFUSED && heard)
        refused(s, e);
    else if (e->type == MAILBOX_DELIVER && heard)
        deliver(s, p, e);
    else if (e->type == MAILBOX_SETTLED && heard)
        settled(s, p, e);
    else if (e->type == MAILBOX_READY && heard)
        ready(s, p, e);
    else if (e->type == MAILBOX_CREDIT_BACK && heard)
        credit_back(s, p, e);
}

static void run(struct memory_shard *s, struct memory_partition *p) {
    for (size_t i = 0; i < p->effects.count; i++) {
        struct mailbox_effect e = p->effects.items[i]; /* more may come while it is carried out */
        effect(s, p, &e);
    }
    mailbox_effects_clear(&p->effects);
}

/* ---- leading ---- */

static void say_led(struct memory_shard *s, const struct memory_partition *p) {
    Mr__Led m = MR__LED__INIT;
    Mr__Leading leading = MR__LEADING__INIT, *list[] = {&leading};
    leading.partition = p->id;
    leading.epoch = p->epoch;
    m.leading = list;
    m.n_leading = 1;
    frame_send_led(s->link, &m, NULL, 0);
}

void memory_shard_lead(struct memory_shard *s, struct memory_partition *p) {
    usec_t now = loop_now(s->loop);
    size_t gateways = s->link && s->greeted ? 1 : 0;
    cr_assert_null(p->leader);
    p->leader = s;
    p->epoch++;
    mailbox_lead(p->mailbox, p->epoch, &s->link_id, gateways, 600 * USEC_MS, now, loop_wall(s->loop),
                 &p->effects);
    mailbox_allow(p->mailbox, USEC_NEVER, now, &p->effects);
    run(s, p);
    if (gateways)
        say_led(s, p);
}

static struct memory_partition *led(struct memory_shard *s, uint64_t id) {
    for (size_t i = 0; i < s->count; i++)
        if (s->partitions[i].id == id && s->partitions[i].leader == s)
            return &s->partitions[i];
    return NULL;
}

/* ---- frames ---- */

static void on_shard_publish(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__ShardPublish *m = header;
    struct memory_partition *p = led(s, m->partition);
    struct mailbox_effect refusal = {.type = MAILBOX_REFUSED};
    cr_assert_eq(batch_check(body->data, body->size, NULL), ERR_OK);
    refusal.refused.origin.request = m->request;
    refusal.refused.code = ERR_NOT_LEADER;
    if (!p) {
        refused(s, &refusal);
        return;
    }
    mailbox_publish(p->mailbox, (struct mailbox_origin){s->link_id, m->request}, body, loop_now(s->loop),
                    loop_wall(s->loop), false, &p->effects);
    run(s, p);
}

static const struct consumer_id *id_of(const ProtobufCBinaryData *b) {
    cr_assert_eq(b->len, 16);
    return (const struct consumer_id *)(const void *)b->data;
}

static void on_attach(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__Attach *m = header;
    struct memory_partition *p = led(s, m->partition);
    Mr__Attached answer = MR__ATTACHED__INIT;
    enum err e = ERR_NOT_LEADER;
    if (p)
        e = mailbox_attach(p->mailbox, id_of(&m->consumer_id), s->link_id, m->subscription, m->client,
                           m->credit, loop_now(s->loop), &p->effects);
    answer.partition = m->partition;
    answer.consumer_id = m->consumer_id;
    answer.subscription = m->subscription;
    answer.code = e;
    frame_send_attached(link, &answer, NULL, 0);
    if (e)
        return;
    struct mailbox_hold *held = xcalloc(m->n_held + 1, sizeof *held);
    for (size_t i = 0; i < m->n_held; i++)
        held[i] = (struct mailbox_hold){m->held[i]->first_offset, m->held[i]->count, m->held[i]->epoch,
                                        m->held[i]->delivery_number};
    mailbox_still_held(p->mailbox, id_of(&m->consumer_id), m->subscription, held, m->n_held,
                       loop_now(s->loop), &p->effects);
    mailbox_hold(p->mailbox, id_of(&m->consumer_id), m->subscription, held, m->n_held, loop_now(s->loop),
                 &p->effects);
    free(held);
    run(s, p);
}

static void on_detach(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__Detach *m = header;
    struct memory_partition *p = led(s, m->partition);
    if (!p || !mailbox_at_gateway(p->mailbox, id_of(&m->consumer_id), m->subscription, s->link_id))
        return;
    mailbox_detach(p->mailbox, id_of(&m->consumer_id), m->subscription, m->clean, loop_now(s->loop),
                   &p->effects);
    run(s, p);
}

static void on_lend(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__Lend *m = header;
    struct memory_partition *p = led(s, m->partition);
    if (!p || !mailbox_at_gateway(p->mailbox, id_of(&m->consumer_id), m->subscription, s->link_id))
        return;
    mailbox_credit(p->mailbox, id_of(&m->consumer_id), m->subscription, m->more, loop_now(s->loop),
                   &p->effects);
    run(s, p);
}

static void on_shard_settle(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__ShardSettle *m = header;
    struct memory_partition *p = led(s, m->partition);
    if (!p)
        return;
    struct mailbox_settlement *items = xcalloc(m->n_items + 1, sizeof *items);
    for (size_t i = 0; i < m->n_items; i++)
        items[i] = (struct mailbox_settlement){.kind = m->items[i]->kind,
                                               .first_offset = m->items[i]->first_offset,
                                               .count = m->items[i]->count,
                                               .epoch = m->items[i]->epoch,
                                               .delivery_number = m->items[i]->delivery_number,
                                               .delay = m->items[i]->delay_us};
    mailbox_settle(p->mailbox, (struct mailbox_origin){s->link_id, m->request}, id_of(&m->consumer_id),
                   m->subscription, items, m->n_items, loop_now(s->loop), loop_wall(s->loop), &p->effects);
    free(items);
    run(s, p);
}

static void on_presented(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    const Mr__Presented *m = header;
    for (size_t i = 0; i < m->n_leading; i++) {
        struct memory_partition *p = led(s, m->leading[i]->partition);
        if (!p || p->epoch != m->leading[i]->epoch)
            continue;
        mailbox_presented(p->mailbox, s->link_id, loop_now(s->loop), &p->effects);
        run(s, p);
    }
}

static void on_hello(void *ctx, struct link *link, const void *header, struct body *body) {
    struct memory_shard *s = ctx;
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity = MR__IDENTITY__INIT;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    identity.role = (char *)"shard";
    identity.member = s->member;
    welcome.identity = &identity;
    cr_assert_eq(hello_answer(link, &ours, header, &welcome, &agreed), ERR_OK);
    s->greeted = true;
    for (size_t i = 0; i < s->count; i++)
        if (s->partitions[i].leader == s)
            say_led(s, &s->partitions[i]);
}

static const frame_handler from_gateway[FRAME_TYPES] = {
    [FRAME_HELLO] = on_hello,         [FRAME_SHARD_PUBLISH] = on_shard_publish,
    [FRAME_ATTACH] = on_attach,       [FRAME_DETACH] = on_detach,
    [FRAME_LEND] = on_lend,           [FRAME_SHARD_SETTLE] = on_shard_settle,
    [FRAME_PRESENTED] = on_presented,
};

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    frame_dispatch(from_gateway, ctx, link, frame);
}

static void lose_gateway(struct memory_shard *s) {
    s->link = NULL;
    s->greeted = false;
    s->receipts_count = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct memory_partition *p = &s->partitions[i];
        if (p->leader != s)
            continue;
        mailbox_gateway_lost(p->mailbox, s->link_id, loop_now(s->loop), &p->effects);
        run(s, p);
    }
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct memory_shard *s = ctx;
    if (s->link == link)
        lose_gateway(s);
}

static const struct link_handlers link_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct memory_shard *s = ctx;
    s->link = link;
    s->link_id++;
    link_attach(link, &link_handlers, s);
}

static const struct listener_handlers accepts = {.accepted = on_accepted};

void memory_shard_listen(struct memory_shard *s, const char *url) {
    struct err_detail detail;
    struct listener_options options = {.handlers = &accepts, .ctx = s};
    s->listener = listener_open(s->loop, url, &options, &detail);
    cr_assert(s->listener, "%s", detail.text);
}

void memory_shard_cut(struct memory_shard *s) {
    if (!s->link)
        return;
    link_kill(s->link);
    lose_gateway(s);
}

void memory_shard_die(struct memory_shard *s) {
    listener_close(s->listener);
    if (s->link)
        link_kill(s->link);
    s->listener = NULL;
    s->link = NULL;
    s->greeted = false;
    s->receipts_count = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct memory_partition *p = &s->partitions[i];
        if (p->leader != s)
            continue;
        mailbox_unlead(p->mailbox, &p->effects);
        run(s, p);
        p->leader = NULL;
    }
}

void memory_shard_turn(struct memory_shard *s) {
    usec_t now = loop_now(s->loop);
    for (size_t i = 0; i < s->count; i++) {
        struct memory_partition *p = &s->partitions[i];
        if (p->leader != s)
            continue;
        if (mailbox_deadline(p->mailbox) <= now)
            mailbox_tick(p->mailbox, now, loop_wall(s->loop), &p->effects);
        run(s, p);
        while (mailbox_dirty(p->mailbox)) {
            mailbox_pump(p->mailbox, now, loop_wall(s->loop), &p->effects);
            run(s, p);
        }
    }
    if (s->receipts_count == 0 || !s->link)
        return;
    Mr__ShardReceipts m = MR__SHARD_RECEIPTS__INIT;
    m.receipts = xcalloc(s->receipts_count, sizeof *m.receipts);
    for (; m.n_receipts < s->receipts_count; m.n_receipts++)
        m.receipts[m.n_receipts] = &s->receipts[m.n_receipts];
    frame_send_shard_receipts(s->link, &m, NULL, 0);
    free(m.receipts);
    s->receipts_count = 0;
}

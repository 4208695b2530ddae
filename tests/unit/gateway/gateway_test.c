// SPDX-License-Identifier: Apache-2.0
#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/crc.h"
#include "gateway/settles.h"
#include "proto/batch.h"
#include "world.h"

static void publish(struct end *c, uint64_t request, uint32_t partition, uint64_t sequence,
                    const char *text) {
    Mr__Publish m = MR__PUBLISH__INIT;
    struct body *body = batch_of(1, sequence, text);
    m.request = request;
    m.mailbox_id = WORLD_MAILBOX;
    m.partition = partition;
    frame_send_publish(c->link, &m, &body, 1);
    body_drop(body);
}

static uint64_t last_sequence(const struct end *shard) {
    struct batch_header h;
    batch_read_header(shard->taken_body->data, &h);
    return h.sequence;
}

static void receipt(struct end *shard, uint64_t request, uint64_t offset) {
    Mr__ShardReceipts m = MR__SHARD_RECEIPTS__INIT;
    Mr__Receipt r = MR__RECEIPT__INIT, *list[] = {&r};
    r.request = request;
    r.base_offset = offset;
    m.receipts = list;
    m.n_receipts = 1;
    frame_send_shard_receipts(shard->link, &m, NULL, 0);
}

static void refuse(struct end *shard, uint64_t request, enum err code) {
    Mr__ShardReceipts m = MR__SHARD_RECEIPTS__INIT;
    Mr__Refused r = MR__REFUSED__INIT, *list[] = {&r};
    r.request = request;
    r.code = code;
    r.text = (char *)"because";
    m.refused = list;
    m.n_refused = 1;
    frame_send_shard_receipts(shard->link, &m, NULL, 0);
}

static uint64_t next_publish(struct end *shard, uint64_t sequence) {
    Mr__ShardPublish *m = end_expect(shard, FRAME_SHARD_PUBLISH);
    cr_assert_eq(last_sequence(shard), sequence);
    return m->request;
}

/* ---- sessions ---- */

Test(gateway, a_lookup_is_answered_and_an_unknown_name_refused) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    Mr__Lookup look = MR__LOOKUP__INIT;
    look.request = 3;
    look.mailbox = (char *)"orders";
    frame_send_lookup(c->link, &look, NULL, 0);
    Mr__MailboxInfo *info = end_expect(c, FRAME_MAILBOX_INFO);
    cr_assert_eq(info->request, 3);
    cr_assert_eq(info->mailbox_id, WORLD_MAILBOX);
    cr_assert_eq(info->partitions, 2);
    look.mailbox = (char *)"nowhere";
    frame_send_lookup(c->link, &look, NULL, 0);
    Mr__Fail *fail = end_expect(c, FRAME_FAIL);
    cr_assert_eq(fail->code, ERR_NOT_FOUND);
    cr_assert(strstr(fail->text, "nowhere"));
    world_free(w);
}

Test(gateway, hello_waits_for_the_first_map) {
    struct world *w = world_new();
    struct end *c = client_dial(w, 0);
    settle_down(w);
    cr_assert_str_eq(end_heard(c), "");
    char url[WORLD_PATH_BYTES + 8];
    snprintf(url, sizeof url, "ipc://%s", w->controller.path);
    end_listen(&w->controller, url);
    gateway_peer_up(w->gateway, "controller", 0, w->controller.path);
    UNTIL(w->loop, w->controller.connected);
    send_map(w, true, 1, 11);
    Mr__Welcome *welcome = end_expect(c, FRAME_WELCOME);
    cr_assert_eq(welcome->message_bytes_max, 1 << 20);
    cr_assert_gt(welcome->window_bytes, 1 << 20);
    cr_assert_eq(welcome->n_addresses, 2);
    world_free(w);
}

Test(gateway, an_older_map_takes_nothing_away) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    Mr__Map m = MR__MAP__INIT;
    m.complete = true;
    m.version = 1; /* of 7 */
    frame_send_map(w->controller.link, &m, NULL, 0);
    settle_down(w);
    publish(c, 1, 0, 1, "x");
    next_publish(&w->shards[0], 1);
    world_free(w);
}

Test(gateway, a_broken_rule_ends_that_session_only) {
    struct world *w = world_ready();
    struct end *good = client(w, 0), *bad = client(w, 1);
    Mr__Credit credit = MR__CREDIT__INIT;
    frame_send_credit(bad->link, &credit, NULL, 0); /* of no consumer: passes */
    Mr__Led led = MR__LED__INIT;
    frame_send_led(bad->link, &led, NULL, 0);
    Mr__Fail *fail = end_expect(bad, FRAME_FAIL);
    cr_assert_eq(fail->code, ERR_PROTOCOL);
    UNTIL(w->loop, bad->closed);
    publish(good, 1, 0, 1, "still here");
    next_publish(&w->shards[0], 1);
    world_free(w);
}

Test(gateway, a_stop_says_goaway_and_waits_for_sessions) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    publish(c, 1, 0, 1, "late");
    uint64_t request = next_publish(&w->shards[0], 1);
    gateway_stop(w->gateway);
    end_expect(c, FRAME_GOAWAY);
    receipt(&w->shards[0], request, 0);
    end_expect(c, FRAME_RECEIPTS);
    cr_assert_not(w->stopped);
    link_close(c->link, ERR_OK, "");
    UNTIL(w->loop, w->stopped);
    world_free(w);
}

/* ---- publishing ---- */

Test(gateway, a_publish_goes_to_its_leader_unchanged_and_comes_back_as_a_receipt) {
    struct world *w = world_ready();
    struct end *c = client(w, 0), *shard = &w->shards[0];
    struct body *sent = batch_of(1, 1, "hello");
    publish(c, 77, 1, 1, "hello");
    Mr__ShardPublish *m = end_expect(shard, FRAME_SHARD_PUBLISH);
    cr_assert_eq(m->partition, WORLD_P1);
    cr_assert_eq(shard->taken_body->size, sent->size);
    cr_assert_arr_eq(shard->taken_body->data, sent->data, sent->size);
    receipt(shard, m->request, 9);
    Mr__Receipts *r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->n_receipts, 1);
    cr_assert_eq(r->receipts[0]->request, 77);
    cr_assert_eq(r->receipts[0]->base_offset, 9);
    body_drop(sent);
    world_free(w);
}

Test(gateway, refusals_reach_the_client_with_their_reason) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    publish(c, 1, 0, 1, "x");
    refuse(&w->shards[0], next_publish(&w->shards[0], 1), ERR_FULL);
    Mr__Receipts *r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->n_refused, 1);
    cr_assert_eq(r->refused[0]->code, ERR_FULL);
    cr_assert_str_eq(r->refused[0]->text, "because");
    Mr__Publish m = MR__PUBLISH__INIT;
    struct body *junk = body_copy("junk", 4);
    m.request = 2;
    m.mailbox_id = WORLD_MAILBOX;
    frame_send_publish(c->link, &m, &junk, 1);
    r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->refused[0]->code, ERR_INVALID);
    body_drop(junk);
    publish(c, 3, 9, 1, "no such partition");
    r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->refused[0]->request, 3);
    cr_assert_str_eq(end_heard(&w->shards[0]), "");
    world_free(w);
}

Test(gateway, a_dead_leaders_publishes_go_to_the_next_in_their_order) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    for (uint64_t i = 1; i <= 3; i++)
        publish(c, i, 0, i, "x");
    for (uint64_t i = 1; i <= 3; i++)
        next_publish(&w->shards[0], i);
    end_die(&w->shards[0]);
    publish(c, 4, 0, 4, "x");
    settle_down(w);
    cr_assert_str_eq(end_heard(&w->shards[1]), "");
    send_map(w, false, 2, 12); /* not yet: the metadata names it before it leads */
    settle_down(w);
    cr_assert_str_eq(end_heard(&w->shards[1]), "");
    send_led(&w->shards[1], WORLD_P0, 2);
    for (uint64_t i = 1; i <= 4; i++)
        receipt(&w->shards[1], next_publish(&w->shards[1], i), i - 1);
    for (uint64_t got = 0; got < 4;) {
        Mr__Receipts *r = end_expect(c, FRAME_RECEIPTS);
        cr_assert_eq(r->receipts[0]->request, got + 1);
        got += r->n_receipts;
    }
    world_free(w);
}

Test(gateway, a_leader_that_is_not_yet_one_is_asked_again) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    publish(c, 1, 0, 1, "x");
    publish(c, 2, 0, 2, "x");
    uint64_t first = next_publish(&w->shards[0], 1), second = next_publish(&w->shards[0], 2);
    refuse(&w->shards[0], first, ERR_NOT_LEADER);
    refuse(&w->shards[0], second, ERR_OUT_OF_ORDER);
    cr_assert_eq(next_publish(&w->shards[0], 1), first);
    cr_assert_eq(next_publish(&w->shards[0], 2), second);
    cr_assert_str_eq(end_heard(c), "");
    world_free(w);
}

Test(gateway, more_than_the_window_is_refused) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    enum { BIG = 900000 };
    char *text = malloc(BIG + 1);
    memset(text, 'x', BIG);
    text[BIG] = 0;
    unsigned taken = 0;
    for (uint64_t i = 1; i <= 10; i++)
        publish(c, i, 0, i, text);
    Mr__Receipts *r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->refused[0]->code, ERR_BUSY);
    settle_down(w);
    for (const char *at = end_heard(&w->shards[0]); (at = strstr(at, "SHARD_PUBLISH")); at++)
        taken++;
    cr_assert_eq(taken, 1, "a 64 MiB node's window is a largest batch");
    free(text);
    world_free(w);
}

Test(gateway, a_dead_letter_is_routed_by_name) {
    struct world *w = world_ready();
    struct end *shard = &w->shards[0];
    Mr__ForwardPublish m = MR__FORWARD_PUBLISH__INIT;
    struct body *body = batch_of(9, 4, "dead");
    m.request = 5;
    m.mailbox = (char *)"orders";
    m.partition = 1;
    frame_send_forward_publish(shard->link, &m, &body, 1);
    Mr__ShardPublish *p = end_expect(shard, FRAME_SHARD_PUBLISH);
    cr_assert_eq(p->partition, WORLD_P1);
    receipt(shard, p->request, 0);
    Mr__Forwarded *f = end_expect(shard, FRAME_FORWARDED);
    cr_assert_eq(f->request, 5);
    cr_assert_eq(f->code, ERR_OK);
    m.mailbox = (char *)"nowhere";
    frame_send_forward_publish(shard->link, &m, &body, 1);
    f = end_expect(shard, FRAME_FORWARDED);
    cr_assert_eq(f->code, ERR_NOT_FOUND);
    body_drop(body);
    world_free(w);
}

/* ---- consuming ---- */

static uint8_t consumer_id[16] = {1, 2, 3};

static void subscribe(struct end *c, uint32_t handle, uint32_t credit, const Mr__Held *held) {
    Mr__Subscribe m = MR__SUBSCRIBE__INIT;
    Mr__Held copy, *list[] = {&copy};
    m.request = 1;
    m.consumer = handle;
    m.consumer_id = (ProtobufCBinaryData){16, consumer_id};
    m.mailbox = (char *)"orders";
    m.subscription = (char *)"default";
    m.credit = credit;
    if (held) {
        copy = *held;
        m.held = list;
        m.n_held = 1;
    }
    frame_send_subscribe(c->link, &m, NULL, 0);
}

static Mr__Attach *attached(struct end *shard) {
    Mr__Attach *a = end_expect(shard, FRAME_ATTACH);
    Mr__Attached m = MR__ATTACHED__INIT;
    m.partition = a->partition;
    m.consumer_id = a->consumer_id;
    m.subscription = a->subscription;
    frame_send_attached(shard->link, &m, NULL, 0);
    return a;
}

static void ready(struct end *shard, uint64_t partition, uint64_t messages) {
    Mr__Ready m = MR__READY__INIT;
    m.partition = partition;
    m.subscription = (char *)"default";
    m.messages = messages;
    frame_send_ready(shard->link, &m, NULL, 0);
}

static void deliver(struct end *shard, uint64_t partition, uint64_t first, uint32_t count, uint64_t epoch) {
    Mr__ShardDelivery m = MR__SHARD_DELIVERY__INIT;
    Mr__Delivery d = MR__DELIVERY__INIT;
    struct body *run = body_copy("run of messages", 15);
    m.partition = partition;
    m.consumer_id = (ProtobufCBinaryData){16, consumer_id};
    m.subscription = (char *)"default";
    m.delivery = &d;
    d.first_offset = first;
    d.count = count;
    d.epoch = epoch;
    d.attempt = 1;
    frame_send_shard_delivery(shard->link, &m, &run, 1);
    body_drop(run);
}

static void ack(struct end *c, uint64_t request, uint32_t partition, uint64_t first, uint32_t count,
                uint64_t epoch) {
    Mr__Settle m = MR__SETTLE__INIT;
    Mr__Settlement item = MR__SETTLEMENT__INIT, *list[] = {&item};
    m.request = request;
    m.consumer = 7;
    item.kind = SETTLEMENT_ACK;
    item.partition = partition;
    item.first_offset = first;
    item.count = count;
    item.epoch = epoch;
    m.items = list;
    m.n_items = 1;
    frame_send_settle(c->link, &m, NULL, 0);
}

static void settled(struct end *shard, uint64_t request, enum settlement_result result) {
    Mr__ShardSettled m = MR__SHARD_SETTLED__INIT;
    uint8_t byte = (uint8_t)result;
    m.request = request;
    m.results = (ProtobufCBinaryData){1, &byte};
    frame_send_shard_settled(shard->link, &m, NULL, 0);
}

/* A consumer with handle 7, attached to both partitions at shard 0. */
static struct end *consumer(struct world *w, uint32_t credit) {
    struct end *c = client(w, 0);
    subscribe(c, 7, credit, NULL);
    Mr__Subscribed *s = end_expect(c, FRAME_SUBSCRIBED);
    cr_assert_eq(s->consumer, 7);
    cr_assert_eq(s->partitions, 2);
    attached(&w->shards[0]);
    attached(&w->shards[0]);
    settle_down(w);
    return c;
}

Test(gateway, credit_is_lent_delivered_settled_and_lent_again) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 4), *shard = &w->shards[0];
    ready(shard, WORLD_P0, 100);
    Mr__Lend *lend = end_expect(shard, FRAME_LEND);
    cr_assert_eq(lend->more, 4);
    cr_assert_eq(lend->partition, WORLD_P0);
    deliver(shard, WORLD_P0, 10, 4, 1);
    Mr__Delivery *d = end_expect(c, FRAME_DELIVERY);
    cr_assert_eq(d->consumer, 7);
    cr_assert_eq(d->partition, 0);
    cr_assert_eq(d->first_offset, 10);
    cr_assert_eq(d->crc, crc32c(0, "run of messages", 15));
    cr_assert_eq(c->taken_body->size, 15);
    settle_down(w);
    cr_assert_str_eq(end_heard(shard), "", "nothing is free");
    ack(c, 31, 0, 10, 2, 1);
    Mr__ShardSettle *s = end_expect(shard, FRAME_SHARD_SETTLE);
    cr_assert_eq(s->items[0]->first_offset, 10);
    cr_assert_eq(s->items[0]->count, 2);
    settled(shard, s->request, SETTLEMENT_DONE);
    Mr__Settled *answer = end_expect(c, FRAME_SETTLED);
    cr_assert_eq(answer->request, 31);
    cr_assert_eq(answer->results.data[0], SETTLEMENT_DONE);
    lend = end_expect(shard, FRAME_LEND);
    cr_assert_eq(lend->more, 2);
    world_free(w);
}

Test(gateway, a_new_leader_is_presented_what_is_held_and_asked_what_is_unsettled) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 10), *old = &w->shards[0], *next = &w->shards[1];
    ready(old, WORLD_P0, 100);
    end_expect(old, FRAME_LEND);
    deliver(old, WORLD_P0, 0, 6, 1);
    end_expect(c, FRAME_DELIVERY);
    ack(c, 31, 0, 0, 2, 1);
    end_expect(old, FRAME_SHARD_SETTLE);
    end_die(old);
    settle_down(w);
    send_led(next, WORLD_P0, 2);
    Mr__Attach *a = attached(next);
    cr_assert_eq(a->partition, WORLD_P0);
    cr_assert_eq(a->n_held, 1);
    cr_assert_eq(a->held[0]->first_offset, 0);
    cr_assert_eq(a->held[0]->count, 6, "unanswered settlements are still held");
    cr_assert_eq(a->held[0]->epoch, 1);
    Mr__ShardSettle *s = end_expect(next, FRAME_SHARD_SETTLE);
    uint64_t request = s->request;
    Mr__Presented *p = end_expect(next, FRAME_PRESENTED);
    cr_assert_eq(p->leading[0]->epoch, 2);
    settled(next, request, SETTLEMENT_DONE);
    end_expect(c, FRAME_SETTLED);
    ready(next, WORLD_P0, 100);
    Mr__Lend *lend = end_expect(next, FRAME_LEND);
    cr_assert_eq(lend->more, 6, "ten less the four that are held");
    world_free(w);
}

Test(gateway, a_gateway_without_consumers_presents_that) {
    struct world *w = world_ready();
    send_led(&w->shards[1], WORLD_P0, 5);
    Mr__Presented *p = end_expect(&w->shards[1], FRAME_PRESENTED);
    cr_assert_eq(p->leading[0]->partition, WORLD_P0);
    world_free(w);
}

Test(gateway, a_delivery_of_a_deposed_leader_is_not_passed_on) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 10), *old = &w->shards[0], *next = &w->shards[1];
    ready(old, WORLD_P0, 100);
    end_expect(old, FRAME_LEND);
    send_led(next, WORLD_P0, 2);
    attached(next);
    settle_down(w);
    end_heard(c);
    deliver(old, WORLD_P0, 0, 3, 1);
    Mr__ShardSettle *s = end_expect(old, FRAME_SHARD_SETTLE);
    cr_assert_eq(s->items[0]->kind, SETTLEMENT_RELEASE);
    settle_down(w);
    cr_assert_str_eq(end_heard(c), "");
    world_free(w);
}

Test(gateway, unknown_settlements_are_asked_again) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 10), *shard = &w->shards[0];
    ack(c, 31, 1, 0, 2, 1);
    Mr__ShardSettle *s = end_expect(shard, FRAME_SHARD_SETTLE);
    uint64_t request = s->request;
    settled(shard, request, SETTLEMENT_UNKNOWN);
    s = end_expect(shard, FRAME_SHARD_SETTLE);
    cr_assert_eq(s->request, request);
    settled(shard, request, SETTLEMENT_TOO_LATE);
    Mr__Settled *answer = end_expect(c, FRAME_SETTLED);
    cr_assert_eq(answer->results.data[0], SETTLEMENT_TOO_LATE);
    world_free(w);
}

Test(gateway, a_lost_session_detaches_not_in_order_an_unsubscribe_in_order) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 10);
    link_kill(c->link);
    c->link = NULL;
    Mr__Detach *d = end_expect(&w->shards[0], FRAME_DETACH);
    cr_assert_not(d->clean);
    c = client(w, 1);
    Mr__Held held = MR__HELD__INIT;
    held.first_offset = 3;
    held.count = 2;
    held.epoch = 1;
    subscribe(c, 7, 10, &held);
    end_expect(c, FRAME_SUBSCRIBED);
    Mr__Attach *a = attached(&w->shards[0]);
    cr_assert_eq(a->n_held, 1);
    cr_assert_eq(a->held[0]->first_offset, 3);
    Mr__Unsubscribe m = MR__UNSUBSCRIBE__INIT;
    m.consumer = 7;
    frame_send_unsubscribe(c->link, &m, NULL, 0);
    d = end_expect(&w->shards[0], FRAME_DETACH);
    cr_assert(d->clean);
    Mr__ConsumerEnd *over = end_expect(c, FRAME_CONSUMER_END);
    cr_assert_eq(over->code, ERR_OK);
    world_free(w);
}

Test(gateway, a_consumer_that_comes_again_takes_over_and_what_it_missed_goes_back) {
    struct world *w = world_ready();
    struct end *old = consumer(w, 10), *shard = &w->shards[0];
    ready(shard, WORLD_P0, 100);
    end_expect(shard, FRAME_LEND);
    deliver(shard, WORLD_P0, 0, 5, 1);
    end_expect(old, FRAME_DELIVERY);
    struct end *c = client(w, 1);
    Mr__Held held = MR__HELD__INIT;
    held.count = 2;
    held.epoch = 1;
    subscribe(c, 8, 10, &held);
    end_expect(c, FRAME_SUBSCRIBED);
    end_expect(old, FRAME_CONSUMER_END);
    Mr__ShardSettle *s = end_expect(shard, FRAME_SHARD_SETTLE);
    cr_assert_eq(s->items[0]->kind, SETTLEMENT_RELEASE);
    cr_assert_eq(s->items[0]->first_offset, 2);
    cr_assert_eq(s->items[0]->count, 3);
    deliver(shard, WORLD_P0, 5, 1, 1);
    Mr__Delivery *d = end_expect(c, FRAME_DELIVERY);
    cr_assert_eq(d->consumer, 8);
    world_free(w);
}

Test(gateway, a_deleted_mailbox_ends_its_consumers) {
    struct world *w = world_ready();
    struct end *c = consumer(w, 10);
    publish(c, 4, 0, 1, "x");
    next_publish(&w->shards[0], 1);
    Mr__Map m = MR__MAP__INIT;
    Mr__MapMailbox box = MR__MAP_MAILBOX__INIT, *boxes[] = {&box};
    box.id = WORLD_MAILBOX;
    box.removed = true;
    m.version = 8;
    m.mailboxes = boxes;
    m.n_mailboxes = 1;
    frame_send_map(w->controller.link, &m, NULL, 0);
    Mr__ConsumerEnd *over = end_expect(c, FRAME_CONSUMER_END);
    cr_assert_eq(over->code, ERR_NOT_FOUND);
    Mr__Receipts *r = end_expect(c, FRAME_RECEIPTS);
    cr_assert_eq(r->refused[0]->code, ERR_NOT_FOUND);
    world_free(w);
}

/* ---- administration ---- */

Test(gateway, requests_go_to_the_controller_and_survive_its_restart) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    Mr__Request m = MR__REQUEST__INIT;
    Mr__MailboxName name = MR__MAILBOX_NAME__INIT;
    name.name = (char *)"orders";
    m.request = 12;
    m.deadline_us = 5 * USEC_S;
    m.what_case = MR__REQUEST__WHAT_MAILBOX_DELETE;
    m.mailbox_delete = &name;
    frame_send_request(c->link, &m, NULL, 0);
    Mr__Request *r = end_expect(&w->controller, FRAME_REQUEST);
    cr_assert_str_eq(r->mailbox_delete->name, "orders");
    cr_assert_gt(r->deadline_us, 0);
    end_die(&w->controller);
    settle_down(w);
    char url[WORLD_PATH_BYTES + 8];
    snprintf(url, sizeof url, "ipc://%s", w->controller.path);
    end_listen(&w->controller, url);
    r = end_expect(&w->controller, FRAME_REQUEST);
    Mr__Response answer = MR__RESPONSE__INIT;
    answer.request = r->request;
    answer.code = ERR_NOT_FOUND;
    frame_send_response(w->controller.link, &answer, NULL, 0);
    Mr__Response *got = end_expect(c, FRAME_RESPONSE);
    cr_assert_eq(got->request, 12);
    cr_assert_eq(got->code, ERR_OK, "deleted by the first sending");
    world_free(w);
}

Test(gateway, nobody_answers_in_time) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    Mr__Request m = MR__REQUEST__INIT;
    Mr__Empty empty = MR__EMPTY__INIT;
    m.request = 12;
    m.deadline_us = 100 * USEC_MS;
    m.what_case = MR__REQUEST__WHAT_CLUSTER_STATUS;
    m.cluster_status = &empty;
    frame_send_request(c->link, &m, NULL, 0);
    Mr__Response *got = end_expect(c, FRAME_RESPONSE);
    cr_assert_eq(got->code, ERR_TIMEOUT);
    world_free(w);
}

static void ask(struct end *c, bool purge) {
    Mr__Request m = MR__REQUEST__INIT;
    Mr__MailboxName name = MR__MAILBOX_NAME__INIT;
    name.name = (char *)"orders";
    m.request = 12;
    m.deadline_us = 5 * USEC_S;
    m.what_case = purge ? MR__REQUEST__WHAT_MAILBOX_PURGE : MR__REQUEST__WHAT_MAILBOX_SHOW;
    if (purge)
        m.mailbox_purge = &name;
    else
        m.mailbox_show = &name;
    frame_send_request(c->link, &m, NULL, 0);
}

Test(gateway, a_show_joins_what_leaders_say_with_the_map) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    send_not_leading(&w->shards[0], WORLD_P1);
    settle_down(w);
    ask(c, false);
    Mr__ShowPartition *asked = end_expect(&w->shards[0], FRAME_SHOW_PARTITION);
    cr_assert_eq(asked->partition, WORLD_P0);
    Mr__PartitionShown shown = MR__PARTITION_SHOWN__INIT;
    Mr__PartitionShow show = MR__PARTITION_SHOW__INIT;
    shown.request = asked->request;
    shown.partition = WORLD_P0;
    shown.show = &show;
    show.state = (char *)"ok";
    show.messages = 42;
    show.epoch = 1;
    frame_send_partition_shown(w->shards[0].link, &shown, NULL, 0);
    Mr__Response *got = end_expect(c, FRAME_RESPONSE);
    cr_assert_eq(got->code, ERR_OK);
    cr_assert_eq(got->what_case, MR__RESPONSE__WHAT_MAILBOX_SHOW);
    Mr__MailboxShow *box = got->mailbox_show;
    cr_assert_str_eq(box->name, "orders");
    cr_assert_eq(box->n_partitions, 2);
    cr_assert_eq(box->partitions[0]->messages, 42);
    cr_assert_str_eq(box->partitions[0]->leader, "n1");
    cr_assert_str_eq(box->partitions[0]->replicas[1], "n2");
    cr_assert_str_eq(box->partitions[1]->leader, "");
    cr_assert_eq(box->partitions[1]->n_subscriptions, 0);
    world_free(w);
}

Test(gateway, a_purge_waits_for_every_leader) {
    struct world *w = world_ready();
    struct end *c = client(w, 0);
    ask(c, true);
    for (int i = 0; i < 2; i++) {
        Mr__PurgePartition *asked = end_expect(&w->shards[0], FRAME_PURGE_PARTITION);
        Mr__PartitionPurged m = MR__PARTITION_PURGED__INIT;
        m.request = asked->request;
        m.partition = asked->partition;
        m.code = i == 0 ? ERR_OK : ERR_NOT_LEADER;
        frame_send_partition_purged(w->shards[0].link, &m, NULL, 0);
    }
    send_led(&w->shards[1], WORLD_P1, 2);
    Mr__PurgePartition *asked = end_expect(&w->shards[1], FRAME_PURGE_PARTITION);
    cr_assert_eq(asked->partition, WORLD_P1);
    Mr__PartitionPurged m = MR__PARTITION_PURGED__INIT;
    m.request = asked->request;
    m.partition = asked->partition;
    frame_send_partition_purged(w->shards[1].link, &m, NULL, 0);
    Mr__Response *got = end_expect(c, FRAME_RESPONSE);
    cr_assert_eq(got->code, ERR_OK);
    world_free(w);
}

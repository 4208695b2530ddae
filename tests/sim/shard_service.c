// SPDX-License-Identifier: Apache-2.0
/* What gateways ask of a simulated shard, and runs and dead letters on their way
 * out: mirrors broker/shard/service.c, deliver.c and letters.c. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "shard.h"

static struct hosted *led(struct shard *s, uint64_t partition) {
    struct hosted *h = shard_find(s, partition);
    return h && h->partition && mailbox_leading(h->partition->mailbox) ? h : NULL;
}

static void refuse(struct process *p, int to, uint64_t partition, uint64_t request, enum err code,
                   uint64_t last) {
    struct message *m = message_new(M_REFUSED, partition);
    m->answer_publish.request = request;
    m->answer_publish.code = code;
    m->answer_publish.last = last;
    network_send(p, to, m);
}

static void on_publish(struct shard *s, int from, struct message *m) {
    struct process *p = s->process;
    struct hosted *h = led(s, m->partition);
    usec_t now = process_now(p);
    if (!h) {
        refuse(p, from, m->partition, m->publish.request, ERR_NOT_LEADER, 0);
        return;
    }
    CHECK(batch_check(m->publish.body->data, m->publish.body->size, NULL) == ERR_OK);
    shard_touch(h);
    partition_time(h->partition, now, process_wall(p));
    partition_publish(h->partition, (struct mailbox_origin){p->ends[from].instance, m->publish.request},
                      m->publish.body, now);
}

static void on_attach(struct shard *s, int from, struct message *m) {
    struct process *p = s->process;
    struct hosted *h = led(s, m->partition);
    usec_t now = process_now(p);
    enum err err = ERR_NOT_LEADER;
    if (h) {
        shard_touch(h);
        err = mailbox_attach(h->partition->mailbox, &m->consumer.consumer, p->ends[from].instance,
                             m->consumer.subscription, "sim", m->consumer.credit, now,
                             &h->partition->mailbox_effects);
    }
    struct message *answer = message_new(M_ATTACHED, m->partition);
    answer->consumer.consumer = m->consumer.consumer;
    answer->consumer.code = err;
    network_send(p, from, answer);
    if (err != ERR_OK)
        return;
    if (m->consumer.held_count)
        mailbox_hold(h->partition->mailbox, &m->consumer.consumer, m->consumer.subscription, m->consumer.held,
                     m->consumer.held_count, now, &h->partition->mailbox_effects);
    partition_run(h->partition, now);
}

static void on_settle(struct hosted *h, int from, struct message *m) {
    struct process *p = h->process;
    usec_t now = process_now(p);
    mailbox_settle(h->partition->mailbox, (struct mailbox_origin){p->ends[from].instance, m->settle.request},
                   &m->settle.consumer, m->settle.subscription, m->settle.items, m->settle.count, now,
                   partition_stamp(h->partition, now), &h->partition->mailbox_effects);
}

/* ---- dead letters ---- */

static void unlink_forward(struct shard *s, struct forward *f) {
    for (struct forward **at = &s->forwards; *at; at = &(*at)->next) {
        if (*at == f) {
            *at = f->next;
            break;
        }
    }
    free(f);
}

static void letter_answer(struct shard *s, struct forward *f, enum err code) {
    struct hosted *h = led(s, f->partition);
    uint64_t intent = f->intent;
    unlink_forward(s, f);
    if (!h)
        return;
    shard_touch(h);
    mailbox_dead_lettered(h->partition->mailbox, intent, code, process_now(s->process),
                          &h->partition->mailbox_effects);
    partition_run(h->partition, process_now(s->process));
    if (code == ERR_OK)
        sim_count(s->process->sim, RARE_dead_letters);
}

static bool find_message(const struct forward *f, const struct body *batch, struct batch_message *out) {
    struct batch_cursor cursor = batch_messages(batch->data, batch->size);
    for (uint64_t i = f->base_offset; i <= f->offset; i++)
        if (!batch_next(&cursor, out))
            return false;
    return true;
}

static void send_letter(struct hosted *h, struct forward *f, struct body *batch) {
    struct process *p = h->process;
    struct batch_message found;
    int gateway = sim_gateway(p->sim, p->node)->id;
    if (!p->ends[gateway].up || !find_message(f, batch, &found)) {
        letter_answer(h->shard, f, ERR_UNAVAILABLE);
        return;
    }
    struct batch_builder b = {0};
    CHECK(batch_add(&b, found.key.data, found.key.size, NULL, 0, found.payload.data, found.payload.size) ==
          ERR_OK);
    batch_finish(&b, &f->producer, f->intent, f->after, process_wall(p), BATCH_FLAG_DEAD_LETTER);
    struct message *m = message_new(M_FORWARD, h->id);
    m->forward.request = f->request;
    strcpy(m->forward.mailbox, f->target);
    m->forward.number = f->target_partition;
    m->forward.body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    network_send(p, gateway, m);
}

static struct body *body_at_hand(struct hosted *h, uint64_t index) {
    struct body *body = replica_cached(h->partition->replica, index);
    for (unsigned i = 0; !body && i < SHARD_CACHED_READS; i++)
        if (h->cached[i].body && h->cached[i].index == index)
            body = h->cached[i].body;
    return body;
}

static void letters_send(struct hosted *h, const struct mailbox_effect *e) {
    struct shard *s = h->shard;
    struct forward *f = xcalloc(1, sizeof *f);
    *f = (struct forward){.request = s->next_request++,
                          .partition = h->id,
                          .intent = e->dead_letter.intent,
                          .after = e->dead_letter.after,
                          .producer = e->dead_letter.producer,
                          .target_partition = e->dead_letter.target_partition,
                          .batch_index = e->dead_letter.batch_index,
                          .base_offset = e->dead_letter.base_offset,
                          .offset = e->dead_letter.offset,
                          .next = s->forwards};
    strcpy(f->target, e->dead_letter.target);
    s->forwards = f;
    struct body *batch = body_at_hand(h, f->batch_index);
    if (batch) {
        send_letter(h, f, batch);
    } else {
        f->reading = true;
        reader_batch(h, f->batch_index);
    }
}

static void letters_read(struct hosted *h, uint64_t index, struct body *body) {
    for (struct forward *f = h->shard->forwards, *next; f; f = next) {
        next = f->next;
        if (!f->reading || f->partition != h->id || f->batch_index != index)
            continue;
        f->reading = false;
        if (body)
            send_letter(h, f, body);
        else
            letter_answer(h->shard, f, ERR_DAMAGED);
    }
}

static void letters_forwarded(struct shard *s, const struct message *m) {
    for (struct forward *f = s->forwards; f; f = f->next) {
        if (f->request == m->forward.request) {
            letter_answer(s, f, m->forward.code);
            return;
        }
    }
}

static void letters_gateway_down(struct shard *s) {
    for (struct forward *f = s->forwards, *next; f; f = next) {
        next = f->next;
        if (!f->reading)
            letter_answer(s, f, ERR_UNAVAILABLE);
    }
}

void letters_forget(struct hosted *h) {
    for (struct forward *f = h->shard->forwards, *next; f; f = next) {
        next = f->next;
        if (f->partition == h->id)
            unlink_forward(h->shard, f);
    }
}

/* ---- requests ---- */

static void on_led_request(struct hosted *h, int from, struct message *m) {
    struct mailbox *box = h->partition->mailbox;
    struct mailbox_effects *fx = &h->partition->mailbox_effects;
    struct process *p = h->process;
    usec_t now = process_now(p);
    shard_touch(h);
    if (m->type == M_DETACH)
        mailbox_detach(box, &m->consumer.consumer, m->consumer.subscription, m->consumer.clean, now, fx);
    else if (m->type == M_LEND)
        mailbox_credit(box, &m->consumer.consumer, m->consumer.subscription, m->consumer.credit, now, fx);
    else if (m->type == M_SETTLE)
        on_settle(h, from, m);
    else if (m->type == M_PRESENTED && m->led.epoch == replica_epoch(h->partition->replica))
        mailbox_presented(box, p->ends[from].instance, now, fx);
    else if (m->type == M_PURGE)
        mailbox_purge(box, fx);
    partition_run(h->partition, now);
}

void service_message(struct shard *s, int from, struct message *m) {
    struct hosted *h = led(s, m->partition);
    if (m->type == M_PUBLISH)
        on_publish(s, from, m);
    else if (m->type == M_ATTACH)
        on_attach(s, from, m);
    else if (m->type == M_FORWARDED)
        letters_forwarded(s, m);
    else if (h)
        on_led_request(h, from, m);
}

/* ---- runs to consumers ---- */

static void send_run(struct hosted *h, const struct mailbox_effect *e, struct body *batch) {
    struct process *p = h->process;
    int to = network_by_instance(p, e->deliver.gateway);
    size_t offset, bytes;
    CHECK(batch_slice(batch->data, batch->size, (uint32_t)(e->deliver.first_offset - e->deliver.base_offset),
                      e->deliver.count, &offset, &bytes));
    if (to < 0)
        return;
    struct message *m = message_new(M_DELIVERY, h->id);
    m->delivery.consumer = e->deliver.consumer;
    strcpy(m->delivery.subscription, e->deliver.subscription);
    m->delivery.first_offset = e->deliver.first_offset;
    m->delivery.count = e->deliver.count;
    m->delivery.epoch = e->deliver.epoch;
    m->delivery.delivery_number = e->deliver.delivery_number;
    m->delivery.attempt = e->deliver.attempt;
    m->delivery.run = body_copy(batch->data + offset, bytes);
    if (e->deliver.attempt > 1)
        sim_count(p->sim, RARE_redeliveries);
    network_send(p, to, m);
}

static struct body *body_of(struct hosted *h, const struct mailbox_effect *e) {
    return e->deliver.body ? e->deliver.body : body_at_hand(h, e->deliver.batch_index);
}

static void take_first(struct hosted *h) {
    body_drop(h->runs[0].effect.deliver.body);
    memmove(h->runs, h->runs + 1, --h->runs_count * sizeof *h->runs);
}

static void send_waiting(struct hosted *h) {
    while (h->runs_count > 0) {
        struct waiting_run *w = &h->runs[0];
        struct body *batch = body_of(h, &w->effect);
        if (!batch) {
            if (!h->reading) {
                h->reading = true;
                reader_batch(h, w->effect.deliver.batch_index);
            }
            return;
        }
        w->effect.deliver.subscription = w->subscription;
        send_run(h, &w->effect, batch);
        take_first(h);
    }
}

static void deliver_run(struct hosted *h, const struct mailbox_effect *e) {
    struct body *batch = h->runs_count == 0 ? body_of(h, e) : NULL;
    checker_deliver(h->process, h->id, e);
    if (batch) {
        send_run(h, e, batch);
        return;
    }
    xgrow(&h->runs, &h->runs_capacity, h->runs_count + 1, sizeof *h->runs);
    struct waiting_run *w = &h->runs[h->runs_count++];
    w->effect = *e;
    strcpy(w->subscription, e->deliver.subscription);
    body_keep(e->deliver.body);
    send_waiting(h);
}

static void drop_unreadable(struct hosted *h, uint64_t index) {
    while (h->runs_count > 0 && h->runs[0].effect.deliver.batch_index == index)
        take_first(h);
}

void deliver_read(struct hosted *h, uint64_t index, struct body *body) {
    h->reading = false;
    if (body) {
        struct read_batch *slot = &h->cached[h->cached_next++ % SHARD_CACHED_READS];
        body_drop(slot->body);
        *slot = (struct read_batch){index, body_keep(body)};
    } else {
        drop_unreadable(h, index);
    }
    letters_read(h, index, body);
    send_waiting(h);
}

void deliver_forget(struct hosted *h) {
    while (h->runs_count > 0)
        take_first(h);
    free(h->runs);
    h->runs = NULL;
    h->runs_capacity = 0;
    for (unsigned i = 0; i < SHARD_CACHED_READS; i++)
        body_drop(h->cached[i].body);
    memset(h->cached, 0, sizeof h->cached);
}

/* ---- the mailbox's effects ---- */

static void on_receipt(struct hosted *h, const struct mailbox_effect *e) {
    int to = network_by_instance(h->process, e->receipt.origin.link);
    struct message *m = message_new(M_RECEIPT, h->id);
    m->answer_publish.request = e->receipt.origin.request;
    m->answer_publish.base_offset = e->receipt.base_offset;
    m->answer_publish.duplicate = e->receipt.duplicate;
    if (e->receipt.duplicate)
        sim_count(h->process->sim, RARE_duplicates);
    if (to >= 0)
        network_send(h->process, to, m);
    else
        message_free(m);
}

static void on_settled(struct hosted *h, const struct mailbox_effect *e) {
    int to = network_by_instance(h->process, e->settled.origin.link);
    if (to < 0)
        return;
    struct message *m = message_new(M_SETTLED, h->id);
    m->settle.request = e->settled.origin.request;
    m->settle.count = (uint32_t)e->settled.count;
    CHECK(e->settled.count <= MESSAGE_ITEMS_MAX);
    for (size_t i = 0; i < e->settled.count; i++)
        m->settle.results[i] = (uint8_t)e->settled.results[i];
    network_send(h->process, to, m);
}

static void tell_gateway(struct hosted *h, uint64_t gateway, enum message_type type,
                         const struct consumer_id *consumer, const char *subscription, uint64_t number) {
    int to = network_by_instance(h->process, gateway);
    if (to < 0)
        return;
    struct message *m = message_new(type, h->id);
    if (consumer)
        m->consumer.consumer = *consumer;
    strcpy(m->consumer.subscription, subscription);
    m->consumer.messages = number;
    m->consumer.credit = (uint32_t)number;
    m->consumer.code = (enum err)number;
    network_send(h->process, to, m);
}

void service_effect(struct hosted *h, const struct mailbox_effect *e) {
    int to;
    switch (e->type) {
    case MAILBOX_RECEIPT:
        on_receipt(h, e);
        break;
    case MAILBOX_REFUSED:
        if ((to = network_by_instance(h->process, e->refused.origin.link)) >= 0)
            refuse(h->process, to, h->id, e->refused.origin.request, e->refused.code, e->refused.last);
        break;
    case MAILBOX_DELIVER:
        deliver_run(h, e);
        break;
    case MAILBOX_SETTLED:
        on_settled(h, e);
        break;
    case MAILBOX_READY:
        tell_gateway(h, e->ready.gateway, M_READY, NULL, e->ready.subscription, e->ready.messages);
        break;
    case MAILBOX_CREDIT_BACK:
        tell_gateway(h, e->credit_back.gateway, M_CREDIT_BACK, &e->credit_back.consumer,
                     e->credit_back.subscription, e->credit_back.credit);
        break;
    case MAILBOX_DETACHED:
        tell_gateway(h, e->detached.gateway, M_DETACHED, &e->detached.consumer, e->detached.subscription,
                     e->detached.reason);
        break;
    case MAILBOX_DEAD_LETTER:
        letters_send(h, e);
        break;
    default:
        CHECK(!"a mailbox's effect that the partition carries out itself");
    }
}

/* ---- leadership ---- */

static void send_led(struct hosted *h, int to, uint64_t epoch) {
    struct message *m = message_new(M_LED, h->id);
    m->led.epoch = epoch;
    network_send(h->process, to, m);
}

size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max) {
    struct process *p = h->process;
    size_t n = 0;
    for (int i = 0; i < p->sim->processes_count; i++) {
        if (p->sim->processes[i].kind != PROCESS_GATEWAY || !p->ends[i].up || n == max)
            continue;
        gateways[n++] = p->ends[i].instance;
        send_led(h, i, epoch);
    }
    shard_report(h, CONTROL_LED, epoch, 0);
    h->wishes_due = true;
    return n;
}

void service_not_leading(struct hosted *h) {
    struct process *p = h->process;
    deliver_forget(h);
    letters_forget(h);
    for (int i = 0; i < p->sim->processes_count; i++)
        if (p->sim->processes[i].kind == PROCESS_GATEWAY)
            network_send(p, i, message_new(M_NOT_LEADING, h->id));
}

void service_up(struct shard *s, int gateway) {
    HOSTED_EACH(s, h)
    if (h->partition && mailbox_leading(h->partition->mailbox))
        send_led(h, gateway, replica_epoch(h->partition->replica));
}

void service_down(struct shard *s, int gateway, uint64_t link) {
    struct process *p = s->process;
    HOSTED_EACH(s, h) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        shard_touch(h);
        mailbox_gateway_lost(h->partition->mailbox, link, process_now(p), &h->partition->mailbox_effects);
        partition_run(h->partition, process_now(p));
    }
    if (p->sim->processes[gateway].node == p->node)
        letters_gateway_down(s);
}

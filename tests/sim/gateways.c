// SPDX-License-Identifier: Apache-2.0
/* The simulated gateway: it learns leaders from LED, lends the credit of its
 * consumers, presents what they hold, and passes dead letters on. */
#include "clients.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

/* ---- gateways ---- */

void gateway_start(struct process *p) {
    struct gateway *g = xcalloc(1, sizeof *g);
    g->process = p;
    for (int i = 0; i <= SIM_PARTITIONS_MAX; i++)
        g->leader[i] = -1;
    p->gateway = g;
}

void gateway_free(struct process *p) {
    free(p->gateway);
    p->gateway = NULL;
}

static void forwarded(struct process *p, int slot, enum err code) {
    struct message *answer = message_new(M_FORWARDED, 0);
    answer->forward.request = p->gateway->forwards[slot].request;
    answer->forward.code = code;
    p->gateway->forwards[slot].used = false;
    network_send(p, p->gateway->forwards[slot].from, answer);
}

/* Whoever was to take it will not answer: the mailbox asks again. */
static void forwards_lost(struct process *p, uint64_t partition) {
    for (int i = 0; i < FORWARDS_MAX; i++)
        if (p->gateway->forwards[i].used && p->gateway->forwards[i].partition == partition)
            forwarded(p, i, ERR_UNAVAILABLE);
}

static void on_led(struct process *p, int from, const struct message *m) {
    struct sim *s = p->sim;
    struct gateway *g = p->gateway;
    if (m->led.epoch < g->epoch[m->partition])
        return;
    if (g->leader[m->partition] != from)
        forwards_lost(p, m->partition);
    g->leader[m->partition] = from;
    g->epoch[m->partition] = m->led.epoch;
    for (int i = 0; i < s->clients->consumers_count; i++) {
        struct consumer *c = &s->clients->consumers[i];
        if (c->alive && c->gateway == p->id &&
            consumer_is_of(s, c, m->partition, clients_box(s, c->box)->subscriptions[c->subscription]))
            consumer_present(s, c, m->partition, p, from);
    }
    struct message *presented = message_new(M_PRESENTED, m->partition);
    presented->led.epoch = m->led.epoch;
    network_send(p, from, presented);
}

static void leader_lost(struct process *p, uint64_t partition, int from) {
    struct sim *s = p->sim;
    if (p->gateway->leader[partition] != from)
        return;
    p->gateway->leader[partition] = -1;
    forwards_lost(p, partition);
    for (int i = 0; i < s->clients->consumers_count; i++) {
        struct consumer *c = &s->clients->consumers[i];
        if (c->gateway != p->id)
            continue;
        c->attached[partition] = false;
        c->lent[partition] = 0;
        c->ready[partition] = 0;
    }
}

static void on_forward(struct process *p, int from, struct message *m) {
    struct sim *s = p->sim;
    struct message *answer = message_new(M_FORWARDED, m->partition);
    answer->forward.request = m->forward.request;
    answer->forward.code = ERR_UNAVAILABLE;
    for (int i = 0; i < s->clients->boxes_count; i++) {
        struct box *b = clients_box(s, i);
        uint64_t partition = (uint64_t)b->first_partition + m->forward.number;
        if (strcmp(b->name, m->forward.mailbox) != 0 || !b->first_partition ||
            m->forward.number >= b->settings.partitions)
            continue;
        int leader = p->gateway->leader[partition];
        int slot = 0;
        while (slot < FORWARDS_MAX && p->gateway->forwards[slot].used)
            slot++;
        if (leader < 0 || slot == FORWARDS_MAX)
            break;
        p->gateway->forwards[slot].used = true;
        p->gateway->forwards[slot].number = ++p->gateway->forwards_made;
        p->gateway->forwards[slot].request = m->forward.request;
        p->gateway->forwards[slot].partition = partition;
        p->gateway->forwards[slot].from = from;
        struct message *out = message_new(M_PUBLISH, partition);
        out->publish.request = FORWARD_MARK | p->gateway->forwards_made << FORWARD_SLOT_BITS | (uint64_t)slot;
        out->publish.body = body_copy(m->forward.body->data, m->forward.body->size);
        network_send(p, leader, out);
        message_free(answer);
        return;
    }
    network_send(p, from, answer);
}

/* A late answer may be for the letter that had the slot before. */
static void forward_answered(struct process *p, const struct message *m) {
    int slot = (int)(m->answer_publish.request & (FORWARDS_MAX - 1));
    uint64_t number = (m->answer_publish.request & ~FORWARD_MARK) >> FORWARD_SLOT_BITS;
    if (p->gateway->forwards[slot].used && p->gateway->forwards[slot].number == number)
        forwarded(p, slot, m->type == M_RECEIPT ? ERR_OK : m->answer_publish.code);
}

static void on_consumer_message(struct process *p, int from, const struct message *m) {
    struct sim *s = p->sim;
    if (p->gateway->leader[m->partition] != from)
        return; /* it led before: what it says is old */
    struct consumer *c = clients_consumer(s, &m->consumer.consumer);
    if (m->type == M_READY) {
        struct box *b = clients_box_of(s, m->partition);
        for (int i = 0; b && i < s->clients->consumers_count; i++) {
            struct consumer *k = &s->clients->consumers[i];
            if (!k->alive || k->gateway != p->id || clients_box(s, k->box) != b ||
                strcmp(b->subscriptions[k->subscription], m->consumer.subscription) != 0)
                continue;
            k->ready[m->partition] = k->burst[m->partition] = m->consumer.messages;
            consumer_lend(s, k, m->partition);
        }
        return;
    }
    if (!c || c->gateway != p->id || /* of a leader that was: it is not attached there any more */
        from != p->gateway->leader[m->partition] ||
        (m->type != M_ATTACHED && !consumer_is_of(s, c, m->partition, m->consumer.subscription)))
        return;
    if (m->type == M_CREDIT_BACK) {
        uint32_t back = m->consumer.credit;
        c->lent[m->partition] -= back < c->lent[m->partition] ? back : c->lent[m->partition];
        c->ready[m->partition] = c->burst[m->partition] = 0;
    } else if (m->type == M_DETACHED || m->consumer.code != ERR_OK) {
        c->attached[m->partition] = false;
        c->lent[m->partition] = 0;
        c->attach_at = s->now + sim_between(&s->work, 5 * USEC_MS, 50 * USEC_MS);
    }
}

/* A partition that no client here uses (large.c): the map would name its leader. */
static void unused(struct process *p, int from, const struct message *m) {
    if (m->type != M_LED)
        return;
    struct message *presented = message_new(M_PRESENTED, m->partition);
    presented->led.epoch = m->led.epoch;
    network_send(p, from, presented);
}

void gateway_message(struct process *p, int from, struct message *m) {
    if (m->partition > SIM_PARTITIONS_MAX) {
        unused(p, from, m);
        return;
    }
    switch (m->type) {
    case M_LED:
        on_led(p, from, m);
        break;
    case M_NOT_LEADING:
        leader_lost(p, m->partition, from);
        break;
    case M_RECEIPT:
    case M_REFUSED:
        if (m->answer_publish.request >= FORWARD_MARK)
            forward_answered(p, m);
        else
            publisher_answer(p->sim, m);
        break;
    case M_DELIVERY:
        consumer_delivery(p->sim, p, m);
        break;
    case M_SETTLED:
        consumer_settled(p->sim, m);
        break;
    case M_FORWARD:
        on_forward(p, from, m);
        break;
    default:
        on_consumer_message(p, from, m);
    }
}

void gateway_link_up(struct process *p, int other) {
    (void)p;
    (void)other; /* the shard says what it leads */
}

void gateway_link_down(struct process *p, int other) {
    for (int i = 1; i <= SIM_PARTITIONS_MAX; i++)
        leader_lost(p, (uint64_t)i, other);
    for (int i = 0; i < FORWARDS_MAX; i++)
        if (p->gateway->forwards[i].used)
            forwarded(p, i, ERR_UNAVAILABLE);
}

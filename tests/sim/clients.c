// SPDX-License-Identifier: Apache-2.0
/*
 * Publishers and consumers as the client library plays them, and the gateways
 * between them and the shards, simplified: a gateway learns leaders from LED,
 * lends consumers' credit to partitions that announce ready messages, presents
 * what they hold to a new leader, and keeps settlements until they are answered.
 * A client whose gateway dies goes to another one.
 */
#include "clients.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

enum {
    PUBLISH_TIMEOUT_US = 1500000,
    SETTLE_TIMEOUT_US = 1000000,
    RETRY_US_MAX = 60000,
    TICK_US = 5000,
    LEND_MAX = 12
};

/* ---- payloads ---- */

static uint8_t filler(const struct stamp *s, uint32_t at) {
    uint64_t x =
        (s->sequence * 31 + s->number) * 0x9E3779B97F4A7C15u + s->publisher + (uint64_t)at * 0x2545F491u;
    return (uint8_t)(x >> 32);
}

void payload_fill(const struct stamp *s, uint8_t *out) {
    memset(out, 0, PAYLOAD_HEAD_BYTES);
    memcpy(out, s, sizeof *s);
    for (uint32_t i = PAYLOAD_HEAD_BYTES; i < s->size; i++)
        out[i] = filler(s, i);
}

bool payload_check(const uint8_t *data, size_t size, struct stamp *out) {
    if (size < PAYLOAD_HEAD_BYTES)
        return false;
    memcpy(out, data, sizeof *out);
    bool same = out->size == size;
    for (uint32_t i = PAYLOAD_HEAD_BYTES; same && i < out->size; i++)
        same = data[i] == filler(out, i);
    return same;
}

/* ---- who is who ---- */

struct box *clients_box_of(struct sim *s, uint64_t partition) {
    for (int i = 0; i < s->clients->boxes_count; i++) {
        struct box *b = &s->clients->boxes[i];
        if (partition >= (uint64_t)b->first_partition &&
            partition < (uint64_t)b->first_partition + b->settings.partitions)
            return b;
    }
    return NULL;
}

struct consumer *clients_consumer(struct sim *s, const struct consumer_id *id) {
    for (int i = 0; i < s->clients->consumers_count; i++)
        if (memcmp(&s->clients->consumers[i].id, id, sizeof *id) == 0)
            return &s->clients->consumers[i];
    return NULL;
}

int clients_subscription(const struct box *b, const char *name) {
    for (int i = 0; i < b->subscriptions_count; i++)
        if (strcmp(b->subscriptions[i], name) == 0)
            return i;
    return -1;
}

static struct box *box(struct sim *s, int i) {
    return &s->clients->boxes[i];
}

static struct process *gateway_up(struct sim *s, int id) {
    struct process *p = &s->processes[id];
    return p->up && p->frozen_until <= s->now ? p : NULL;
}

/* Another gateway than the one that is gone, or the same when it is back. */
static void move(struct sim *s, int *gateway) {
    int node = (int)rng_below(&s->work, (uint64_t)s->nodes_count);
    struct process *p = sim_gateway(s, node);
    if (p->up)
        *gateway = p->id;
}

/* ---- publishing ---- */

static uint64_t request_of(const struct publisher *p, int lane, uint64_t sequence) {
    return (uint64_t)p->index << 56 | (uint64_t)p->lanes[lane].generation << 48 | (uint64_t)lane << 40 |
           sequence;
}

static uint64_t partition_of(struct sim *s, const struct publisher *p, int lane) {
    return (uint64_t)box(s, p->box)->first_partition + (uint64_t)lane;
}

void publisher_new_producer(struct sim *s, struct publisher *p, int lane) {
    for (size_t i = 0; i < sizeof p->producers[lane].bytes; i++)
        p->producers[lane].bytes[i] = (uint8_t)rng_next(&s->work);
    p->lanes[lane].generation++;
    p->lanes[lane].next_sequence = 1;
    p->lanes[lane].after = 0;
}

static void make_batch(struct sim *s, struct publisher *p, int lane) {
    struct lane *l = &p->lanes[lane];
    struct batch *b = &l->window[l->count++];
    struct batch_builder builder = {0};
    uint8_t payload[2048];
    *b = (struct batch){.sequence = l->next_sequence++, .after = l->after, .made_at = s->now};
    b->count = 1 + (uint32_t)rng_below(&s->work, BATCH_MESSAGES_SIM_MAX);
    for (uint32_t i = 0; i < b->count; i++) {
        uint32_t room = sim_chance(&s->work, 500) ? sizeof payload - PAYLOAD_HEAD_BYTES : 100;
        struct stamp stamp = {.publisher = (uint32_t)p->index,
                              .generation = l->generation,
                              .partition = (uint32_t)partition_of(s, p, lane),
                              .number = i,
                              .sequence = b->sequence,
                              .size = PAYLOAD_HEAD_BYTES + (uint32_t)rng_below(&s->work, room)};
        char key[4] = {(char)('a' + rng_below(&s->work, 8))};
        payload_fill(&stamp, payload);
        CHECK(batch_add(&builder, key, 1, NULL, 0, payload, stamp.size) == ERR_OK);
    }
    batch_finish(&builder, &p->producers[lane], b->sequence, b->after, s->now + SIM_WALL_START, 0);
    b->body = body_copy(builder.data, builder.size);
    batch_builder_free(&builder);
    l->after = b->sequence;
    p->made++;
    s->result.published += b->count;
}

static bool send_batch(struct sim *s, struct publisher *p, int lane, struct batch *b) {
    struct process *g = gateway_up(s, p->gateway);
    uint64_t partition = partition_of(s, p, lane);
    int leader = g ? g->gateway->leader[partition] : -1;
    if (leader < 0 || !g->ends[leader].up)
        return false;
    struct message *m = message_new(M_PUBLISH, partition);
    m->publish.request = request_of(p, lane, b->sequence);
    m->publish.body = body_copy(b->body->data, b->body->size);
    network_send(g, leader, m);
    b->state = BATCH_SENT;
    b->sent_at = s->now;
    return true;
}

/* In order, from the first that is not on its way. */
static void send_lane(struct sim *s, struct publisher *p, int lane) {
    struct lane *l = &p->lanes[lane];
    bool rest = false;
    if (s->now < l->retry_at)
        return;
    for (int i = 0; i < l->count; i++) {
        struct batch *b = &l->window[i];
        if (b->state == BATCH_SENT && s->now - b->sent_at > PUBLISH_TIMEOUT_US)
            b->state = BATCH_UNSENT;
        rest |= b->state == BATCH_UNSENT;
        if (rest && !send_batch(s, p, lane, b)) {
            b->state = BATCH_UNSENT;
            l->retry_at = s->now + (usec_t)rng_below(&s->work, RETRY_US_MAX);
            return;
        }
    }
}

static void forget_batch(struct lane *l, int i) {
    body_drop(l->window[i].body);
    memmove(&l->window[i], &l->window[i + 1], (size_t)(l->count - i - 1) * sizeof l->window[i]);
    l->count--;
}

/* Given up, outcome unknown; only the last one made, so that no other names it. */
static void abandon_sometimes(struct sim *s, struct publisher *p, int lane) {
    struct lane *l = &p->lanes[lane];
    if (!l->count || !sim_chance(&s->work, 3))
        return;
    struct batch *b = &l->window[l->count - 1];
    if (s->now - b->made_at < 200 * USEC_MS)
        return;
    l->after = b->after;
    sim_count(s, RARE_abandoned);
    forget_batch(l, l->count - 1);
}

void publisher_tick(struct sim *s, struct event *e) {
    struct publisher *p = &s->clients->publishers[e->a];
    struct box *b = box(s, p->box);
    struct event *again =
        sim_at(s, s->now + sim_between(&s->work, p->interval / 2, p->interval), publisher_tick);
    again->a = e->a;
    if (!s->processes[p->gateway].up)
        move(s, &p->gateway);
    if (!b->created)
        return;
    int lanes = (int)b->settings.partitions;
    for (int i = 0; i < lanes; i++) {
        abandon_sometimes(s, p, i);
        send_lane(s, p, i);
    }
    if (s->stopping)
        return;
    int lane = p->next_lane++ % lanes;
    if (p->lanes[lane].count < WINDOW_MAX) {
        make_batch(s, p, lane);
        send_lane(s, p, lane);
    }
}

static int find_batch(struct lane *l, uint64_t sequence) {
    for (int i = 0; i < l->count; i++)
        if (l->window[i].sequence == sequence)
            return i;
    return -1;
}

static void resend_from(struct lane *l, uint64_t sequence) {
    for (int i = 0; i < l->count; i++)
        if (l->window[i].sequence >= sequence)
            l->window[i].state = BATCH_UNSENT;
}

static void start_over(struct sim *s, struct publisher *p, int lane) {
    while (p->lanes[lane].count)
        forget_batch(&p->lanes[lane], 0);
    publisher_new_producer(s, p, lane);
}

static void on_refused(struct sim *s, struct publisher *p, int lane, uint64_t sequence,
                       const struct message *m) {
    struct lane *l = &p->lanes[lane];
    l->retry_at = s->now + (usec_t)rng_below(&s->work, RETRY_US_MAX);
    switch (m->answer_publish.code) {
    case ERR_OUT_OF_ORDER:
        sim_count(s, RARE_out_of_order);
        resend_from(l, m->answer_publish.last + 1);
        l->retry_at = 0;
        break;
    case ERR_FORGOTTEN:
        sim_count(s, RARE_forgotten);
        start_over(s, p, lane);
        break;
    case ERR_FULL:
    case ERR_DISK_FULL:
        sim_count(s, RARE_refused_full);
        resend_from(l, sequence);
        break;
    default:
        if (err_advice(m->answer_publish.code) != ERR_ADVICE_RETRY)
            sim_violation(s, "live", "publish to p%d refused for good: %s", (int)m->partition,
                          err_text(m->answer_publish.code));
        resend_from(l, sequence);
    }
}

static void on_publish_answer(struct sim *s, const struct message *m) {
    uint64_t request = m->answer_publish.request, sequence = request & (((uint64_t)1 << 40) - 1);
    struct publisher *p = &s->clients->publishers[request >> 56];
    int lane = (int)(request >> 40 & 0xff);
    unsigned generation = (unsigned)(request >> 48 & 0xff);
    struct lane *l = &p->lanes[lane];
    if (m->type == M_RECEIPT) {
        checker_receipt(s, m->partition, p->index, generation, sequence, m->answer_publish.base_offset);
    }
    int i = generation == l->generation ? find_batch(l, sequence) : -1;
    if (i < 0)
        return;
    if (m->type == M_RECEIPT) {
        s->result.receipted += l->window[i].count;
        forget_batch(l, i);
    } else {
        on_refused(s, p, lane, sequence, m);
    }
}

/* ---- consuming ---- */

static struct message *consumer_message(struct sim *s, const struct consumer *c, enum message_type type,
                                        uint64_t partition) {
    struct message *m = message_new(type, partition);
    m->consumer.consumer = c->id;
    strcpy(m->consumer.subscription, box(s, c->box)->subscriptions[c->subscription]);
    return m;
}

static void present(struct sim *s, struct consumer *c, uint64_t partition, struct process *g, int leader) {
    struct message *m = consumer_message(s, c, M_ATTACH, partition);
    for (int i = 0; i < c->held_count; i++) {
        struct held *h = &c->held[i];
        if (h->partition != partition)
            continue;
        m->consumer.held[m->consumer.held_count++] = (struct mailbox_hold){
            .first_offset = h->offset, .count = 1, .epoch = h->epoch, .delivery_number = h->number};
        h->sent_at = 0; /* what was settled and not answered is asked anew */
    }
    c->lent[partition] = 0;
    c->ready[partition] = 0;
    network_send(g, leader, m);
    c->attached[partition] = true;
}

static uint32_t free_credit(const struct sim *s, const struct consumer *c) {
    uint32_t used = (uint32_t)c->held_count, credit = s->stopping ? SIM_HELD_MAX - 8 : c->credit;
    for (int i = 0; i <= SIM_PARTITIONS_MAX; i++)
        used += c->lent[i];
    return used < credit ? credit - used : 0;
}

static void lend(struct sim *s, struct consumer *c, uint64_t partition) {
    struct process *g = gateway_up(s, c->gateway);
    uint32_t more = free_credit(s, c);
    int leader = g ? g->gateway->leader[partition] : -1;
    if (leader < 0 || !more || !c->ready[partition] || !c->attached[partition])
        return;
    more = more < LEND_MAX ? more : LEND_MAX;
    more = more < c->ready[partition] ? more : (uint32_t)c->ready[partition];
    struct message *m = consumer_message(s, c, M_LEND, partition);
    m->consumer.credit = more;
    c->lent[partition] += more;
    c->ready[partition] -= more;
    network_send(g, leader, m);
}

static void lend_all(struct sim *s, struct consumer *c) {
    struct box *b = box(s, c->box);
    for (uint32_t i = 0; i < b->settings.partitions; i++)
        lend(s, c, (uint64_t)b->first_partition + i);
}

static void decide(struct sim *s, struct consumer *c, struct held *h) {
    unsigned dice = (unsigned)rng_below(&s->work, 100);
    h->kind = dice < 86 || s->calm ? SETTLE_ACK
              : dice < 91          ? SETTLE_NACK
              : dice < 94          ? SETTLE_RELEASE
              : dice < 97          ? SETTLE_REJECT
                                   : SETTLE_EXTEND;
    if (h->kind == SETTLE_REJECT && !box(s, c->box)->settings.dead_letter[0])
        h->kind = SETTLE_NACK;
    h->delay = h->kind == SETTLE_NACK     ? sim_between(&s->work, 0, 200 * USEC_MS)
               : h->kind == SETTLE_EXTEND ? 500 * USEC_MS
                                          : 0;
    h->state = SETTLING;
    h->sent_at = 0;
    h->request = ++s->clients->next_request;
}

static void send_settle(struct sim *s, struct consumer *c, struct held *h) {
    struct process *g = gateway_up(s, c->gateway);
    int leader = g ? g->gateway->leader[h->partition] : -1;
    if (leader < 0 || !g->ends[leader].up)
        return;
    struct message *m = message_new(M_SETTLE, h->partition);
    m->settle.request = h->request;
    m->settle.consumer = c->id;
    strcpy(m->settle.subscription, box(s, c->box)->subscriptions[c->subscription]);
    m->settle.count = 1;
    m->settle.items[0] = (struct mailbox_settlement){.kind = h->kind,
                                                     .first_offset = h->offset,
                                                     .count = 1,
                                                     .epoch = h->epoch,
                                                     .delivery_number = h->number,
                                                     .delay = h->delay};
    h->sent_at = s->now;
    network_send(g, leader, m);
}

static void forget_held(struct consumer *c, int i) {
    memmove(&c->held[i], &c->held[i + 1], (size_t)(c->held_count - i - 1) * sizeof c->held[i]);
    c->held_count--;
}

static void on_settled(struct sim *s, const struct message *m) {
    for (int k = 0; k < s->clients->consumers_count; k++) {
        struct consumer *c = &s->clients->consumers[k];
        for (int i = 0; i < c->held_count; i++) {
            struct held *h = &c->held[i];
            if (h->state != SETTLING || h->request != m->settle.request || h->partition != m->partition)
                continue;
            enum settle_result result = (enum settle_result)m->settle.results[0];
            if (result == SETTLE_UNKNOWN) {
                h->sent_at = 0;
                return;
            }
            struct mailbox_settlement item = {
                .kind = h->kind, .epoch = h->epoch, .delivery_number = h->number};
            checker_settle_result(s, h->partition, c->subscription, c->index, h->offset, &item, result);
            s->result.settled++;
            if (h->kind == SETTLE_EXTEND && result == SETTLE_DONE) {
                h->state = HELD;
                h->act_at = s->now + 100 * USEC_MS;
                return;
            }
            forget_held(c, i);
            lend_all(s, c);
            return;
        }
    }
}

static void take_message(struct sim *s, struct consumer *c, const struct message *m, uint64_t offset) {
    for (int i = 0; i < c->held_count; i++) /* again: it has come back to the same consumer */
        if (c->held[i].partition == m->partition && c->held[i].offset == offset) {
            forget_held(c, i);
            break;
        }
    CHECK(c->held_count < SIM_HELD_MAX);
    struct held *h = &c->held[c->held_count++];
    usec_t think = sim_between(&s->work, 100, s->stopping ? USEC_MS : c->think_max);
    if (!s->calm && sim_chance(&s->work, c->lazy))
        think = 20 * USEC_S;
    *h = (struct held){.partition = m->partition,
                       .offset = offset,
                       .epoch = m->delivery.epoch,
                       .number = m->delivery.delivery_number,
                       .act_at = s->now + think};
}

static void on_delivery(struct sim *s, struct process *g, const struct message *m) {
    struct consumer *c = clients_consumer(s, &m->delivery.consumer);
    if (!c || !c->alive || c->gateway != g->id)
        return;
    checker_got(s, m->partition, c->subscription, c->index, m);
    uint32_t count = m->delivery.count;
    c->lent[m->partition] -= count < c->lent[m->partition] ? count : c->lent[m->partition];
    if (!c->ready[m->partition] && c->lent[m->partition] <= c->burst[m->partition] / 2)
        c->ready[m->partition] = c->burst[m->partition] *= 2; /* it used up what it asked for */
    for (uint32_t i = 0; i < count; i++)
        take_message(s, c, m, m->delivery.first_offset + i);
    s->result.delivered += count;
}

static void attach_missing(struct sim *s, struct consumer *c) {
    struct process *g = gateway_up(s, c->gateway);
    struct box *b = box(s, c->box);
    if (!g || !b->created || s->now < c->attach_at)
        return;
    for (uint32_t i = 0; i < b->settings.partitions; i++) {
        uint64_t partition = (uint64_t)b->first_partition + i;
        int leader = g->gateway->leader[partition];
        if (!c->attached[partition] && leader >= 0 && g->ends[leader].up)
            present(s, c, partition, g, leader);
    }
}

static void leave_gateway(struct consumer *c) {
    memset(c->attached, 0, sizeof c->attached);
    memset(c->lent, 0, sizeof c->lent);
    memset(c->ready, 0, sizeof c->ready);
}

void consumer_tick(struct sim *s, struct event *e) {
    struct consumer *c = &s->clients->consumers[e->a];
    struct event *again = sim_at(s, s->now + sim_between(&s->work, TICK_US / 2, TICK_US), consumer_tick);
    again->a = e->a;
    if (!c->alive)
        return;
    if (!s->processes[c->gateway].up) {
        leave_gateway(c);
        move(s, &c->gateway);
    }
    if (!gateway_up(s, c->gateway))
        return;
    attach_missing(s, c);
    for (int i = 0; i < c->held_count; i++) {
        struct held *h = &c->held[i];
        if (h->state == HELD && (s->now >= h->act_at || (s->calm && h->act_at > s->now + USEC_S)))
            decide(s, c, h);
        if (h->state == SETTLING && (!h->sent_at || s->now - h->sent_at > SETTLE_TIMEOUT_US))
            send_settle(s, c, h);
    }
    lend_all(s, c);
}

static void on_born_again(struct sim *s, struct event *e) {
    struct consumer *c = &s->clients->consumers[e->a];
    c->alive = true;
    for (size_t i = 0; i < sizeof c->id.bytes; i++)
        c->id.bytes[i] = (uint8_t)rng_next(&s->work);
    c->held_count = 0;
    leave_gateway(c);
    move(s, &c->gateway);
}

void clients_kill_consumer(struct sim *s) {
    struct consumer *c = &s->clients->consumers[rng_below(&s->rng, (uint64_t)s->clients->consumers_count)];
    struct process *g = gateway_up(s, c->gateway);
    bool clean = sim_chance(&s->rng, 3000);
    if (!c->alive || !g)
        return;
    sim_count(s, FAULT_consumer_death);
    sim_trace(s, "consumer %d %s", c->index, clean ? "leaves" : "dies");
    for (int i = 1; i <= SIM_PARTITIONS_MAX; i++) {
        int leader = g->gateway->leader[i];
        if (!c->attached[i] || leader < 0)
            continue;
        struct message *m = consumer_message(s, c, M_DETACH, (uint64_t)i);
        m->consumer.clean = clean;
        network_send(g, leader, m);
    }
    c->alive = false;
    struct event *e = sim_at(s, s->now + sim_between(&s->rng, 10 * USEC_MS, 2 * USEC_S), on_born_again);
    e->a = (uint64_t)c->index;
}

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

static void on_led(struct process *p, int from, const struct message *m) {
    struct sim *s = p->sim;
    struct gateway *g = p->gateway;
    if (m->led.epoch < g->epoch[m->partition])
        return;
    g->leader[m->partition] = from;
    g->epoch[m->partition] = m->led.epoch;
    for (int i = 0; i < s->clients->consumers_count; i++) {
        struct consumer *c = &s->clients->consumers[i];
        if (c->alive && c->gateway == p->id && clients_box_of(s, m->partition) == box(s, c->box))
            present(s, c, m->partition, p, from);
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
        struct box *b = box(s, i);
        uint64_t partition = (uint64_t)b->first_partition + m->forward.number;
        if (strcmp(b->name, m->forward.mailbox) != 0)
            continue;
        int leader = p->gateway->leader[partition];
        int slot = 0;
        while (slot < 64 && p->gateway->forwards[slot].used)
            slot++;
        if (leader < 0 || slot == 64)
            break;
        p->gateway->forwards[slot].used = true;
        p->gateway->forwards[slot].request = m->forward.request;
        p->gateway->forwards[slot].partition = partition;
        p->gateway->forwards[slot].from = from;
        struct message *out = message_new(M_PUBLISH, partition);
        out->publish.request = (uint64_t)255 << 56 | (uint64_t)slot;
        out->publish.body = body_copy(m->forward.body->data, m->forward.body->size);
        network_send(p, leader, out);
        message_free(answer);
        return;
    }
    network_send(p, from, answer);
}

static void forwarded(struct process *p, int slot, enum err code) {
    struct message *answer = message_new(M_FORWARDED, 0);
    answer->forward.request = p->gateway->forwards[slot].request;
    answer->forward.code = code;
    p->gateway->forwards[slot].used = false;
    network_send(p, p->gateway->forwards[slot].from, answer);
}

static void on_consumer_message(struct process *p, const struct message *m) {
    struct sim *s = p->sim;
    struct consumer *c = clients_consumer(s, &m->consumer.consumer);
    if (m->type == M_READY) {
        struct box *b = clients_box_of(s, m->partition);
        for (int i = 0; b && i < s->clients->consumers_count; i++) {
            struct consumer *k = &s->clients->consumers[i];
            if (!k->alive || k->gateway != p->id || box(s, k->box) != b ||
                strcmp(b->subscriptions[k->subscription], m->consumer.subscription) != 0)
                continue;
            k->ready[m->partition] = k->burst[m->partition] = m->consumer.messages;
            lend(s, k, m->partition);
        }
        return;
    }
    if (!c || c->gateway != p->id)
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

void gateway_message(struct process *p, int from, struct message *m) {
    switch (m->type) {
    case M_LED:
        on_led(p, from, m);
        break;
    case M_NOT_LEADING:
        leader_lost(p, m->partition, from);
        break;
    case M_RECEIPT:
    case M_REFUSED:
        if (m->answer_publish.request >> 56 == 255)
            forwarded(p, (int)(m->answer_publish.request & 63),
                      m->type == M_RECEIPT ? ERR_OK : m->answer_publish.code);
        else
            on_publish_answer(p->sim, m);
        break;
    case M_DELIVERY:
        on_delivery(p->sim, p, m);
        break;
    case M_SETTLED:
        on_settled(p->sim, m);
        break;
    case M_FORWARD:
        on_forward(p, from, m);
        break;
    default:
        on_consumer_message(p, m);
    }
}

void gateway_link_up(struct process *p, int other) {
    (void)p;
    (void)other; /* the shard says what it leads */
}

void gateway_link_down(struct process *p, int other) {
    for (int i = 1; i <= SIM_PARTITIONS_MAX; i++)
        leader_lost(p, (uint64_t)i, other);
    for (int i = 0; i < 64; i++)
        if (p->gateway->forwards[i].used)
            forwarded(p, i, ERR_UNAVAILABLE);
}

bool clients_done(struct sim *s, char *why, size_t size) {
    for (int i = 0; i < s->clients->boxes_count; i++)
        if (!box(s, i)->created) {
            snprintf(why, size, "mailbox %s was never made", box(s, i)->name);
            return false;
        }
    for (int i = 0; i < s->clients->publishers_count; i++) {
        struct publisher *p = &s->clients->publishers[i];
        for (int k = 0; k < SIM_PARTITIONS_MAX; k++)
            if (p->lanes[k].count) {
                snprintf(why, size, "publisher %d waits for the receipt of p%d sequence %llu", i,
                         (int)partition_of(s, p, k), (unsigned long long)p->lanes[k].window[0].sequence);
                return false;
            }
    }
    for (int i = 0; i < s->clients->consumers_count; i++)
        if (s->clients->consumers[i].held_count) {
            struct consumer *c = &s->clients->consumers[i];
            struct held *h = &c->held[0];
            struct process *g = gateway_up(s, c->gateway);
            snprintf(
                why, size, "consumer %d still holds p%d offset %llu: %s, %s, asked %lld ms ago, leader %s", i,
                (int)h->partition, (unsigned long long)h->offset, h->state == HELD ? "held" : "settling",
                c->alive ? "alive" : "gone", (long long)(h->sent_at ? (s->now - h->sent_at) / USEC_MS : -1),
                g && g->gateway->leader[h->partition] >= 0
                    ? s->processes[g->gateway->leader[h->partition]].name
                    : "unknown");
            return false;
        }
    return true;
}

void clients_free(struct sim *s) {
    for (int i = 0; i < s->clients->publishers_count; i++)
        for (int k = 0; k < SIM_PARTITIONS_MAX; k++)
            while (s->clients->publishers[i].lanes[k].count)
                forget_batch(&s->clients->publishers[i].lanes[k], 0);
    free(s->clients);
}

// SPDX-License-Identifier: Apache-2.0
/* Consumers as the client library plays them: they ack, nack, release, reject,
 * extend or sit on what they get, die and come back. */
#include "clients.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

enum { SETTLE_TIMEOUT_US = 1000000, TICK_US = 5000, LEND_MAX = 12 };

/* ---- consuming ---- */

static struct message *consumer_message(struct sim *s, const struct consumer *c, enum message_type type,
                                        uint64_t partition) {
    struct message *m = message_new(type, partition);
    m->consumer.consumer = c->id;
    strcpy(m->consumer.subscription, clients_box(s, c->box)->subscriptions[c->subscription]);
    return m;
}

void consumer_present(struct sim *s, struct consumer *c, uint64_t partition, struct process *g, int leader) {
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

void consumer_lend(struct sim *s, struct consumer *c, uint64_t partition) {
    struct process *g = clients_gateway_up(s, c->gateway);
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
    struct box *b = clients_box(s, c->box);
    for (uint32_t i = 0; b->first_partition && i < b->settings.partitions; i++)
        consumer_lend(s, c, (uint64_t)b->first_partition + i);
}

/* The link this consumer's gateway has to the partition's leader, whole at both ends; 0: none. */
static uint64_t link_to_leader(struct sim *s, const struct consumer *c, uint64_t partition) {
    struct process *g = clients_gateway_up(s, c->gateway);
    int leader = g ? g->gateway->leader[partition] : -1;
    return leader >= 0 && g->ends[leader].up ? network_whole(g, leader) : 0;
}

static void decide(struct sim *s, struct consumer *c, struct held *h) {
    unsigned dice = (unsigned)rng_below(&s->work, 100);
    h->kind = dice < 86 || s->calm ? SETTLE_ACK
              : dice < 91          ? SETTLE_NACK
              : dice < 94          ? SETTLE_RELEASE
              : dice < 97          ? SETTLE_REJECT
                                   : SETTLE_EXTEND;
    if (h->kind == SETTLE_REJECT && !clients_box(s, c->box)->settings.dead_letter[0])
        h->kind = SETTLE_NACK;
    h->delay = h->kind == SETTLE_NACK     ? sim_between(&s->work, 0, 200 * USEC_MS)
               : h->kind == SETTLE_EXTEND ? 500 * USEC_MS
                                          : 0;
    h->state = SETTLING;
    h->leased_until = 0; /* an extension may shorten it */
    h->sent_at = 0;
    h->request = ++s->clients->next_request;
}

static void send_settle(struct sim *s, struct consumer *c, struct held *h) {
    struct process *g = clients_gateway_up(s, c->gateway);
    int leader = g ? g->gateway->leader[h->partition] : -1;
    if (leader < 0 || !g->ends[leader].up)
        return;
    struct message *m = message_new(M_SETTLE, h->partition);
    m->settle.request = h->request;
    m->settle.consumer = c->id;
    strcpy(m->settle.subscription, clients_box(s, c->box)->subscriptions[c->subscription]);
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

void consumer_settled(struct sim *s, const struct message *m) {
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

/* Exclusive: one consumer has messages at a time; by key: for each key. Judged where
 * it is certain: the same leader gave both, and the first one's lease cannot have
 * ended: it has not answered, its time has not come, its link is the one it came by. */
static void judge_sharing(struct sim *s, const struct consumer *c, const struct message *m, char key) {
    const struct box *b = clients_box(s, c->box);
    if (!b->exact || (b->settings.dispatch != DISPATCH_EXCLUSIVE && b->settings.dispatch != DISPATCH_KEY))
        return;
    for (int k = 0; k < s->clients->consumers_count; k++) {
        struct consumer *o = &s->clients->consumers[k];
        if (o == c || !o->alive || o->box != c->box || o->subscription != c->subscription)
            continue;
        for (int i = 0; i < o->held_count; i++) {
            struct held *h = &o->held[i];
            if (h->partition != m->partition || h->epoch != m->delivery.epoch || h->state != HELD ||
                h->leased_at >= m->delivery.sent_at || h->leased_until <= m->delivery.sent_at ||
                h->link != link_to_leader(s, o, h->partition) ||
                h->offset < checker_purged_below(s, h->partition))
                continue;
            if (b->settings.dispatch == DISPATCH_EXCLUSIVE || h->key == key)
                sim_violation(s, "order",
                              "p%d: consumers %d (offset %llu) and %d (from offset %llu) are at work at once",
                              (int)m->partition, o->index, (unsigned long long)h->offset, c->index,
                              (unsigned long long)m->delivery.first_offset);
        }
    }
}

static void take_message(struct sim *s, struct consumer *c, const struct message *m, uint64_t offset,
                         char key) {
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
                       .act_at = s->now + think,
                       .key = key,
                       .leased_at = m->delivery.sent_at,
                       .leased_until = m->delivery.sent_at + clients_box(s, c->box)->settings.ack_timeout / 4,
                       .link = link_to_leader(s, c, m->partition)};
}

bool consumer_is_of(struct sim *s, const struct consumer *c, uint64_t partition, const char *subscription) {
    struct box *b = clients_box(s, c->box);
    return clients_box_of(s, partition) == b && b->there[c->subscription] &&
           strcmp(b->subscriptions[c->subscription], subscription) == 0;
}

void consumer_delivery(struct sim *s, struct process *g, const struct message *m) {
    struct consumer *c = clients_consumer(s, &m->delivery.consumer);
    if (!c || !c->alive || c->gateway != g->id ||
        !consumer_is_of(s, c, m->partition, m->delivery.subscription))
        return;
    checker_got(s, m->partition, c->subscription, c->index, m);
    uint32_t count = m->delivery.count;
    c->lent[m->partition] -= count < c->lent[m->partition] ? count : c->lent[m->partition];
    if (!c->ready[m->partition] && c->lent[m->partition] <= c->burst[m->partition] / 2)
        c->ready[m->partition] = c->burst[m->partition] *= 2; /* it used up what it asked for */
    struct batch_cursor cursor = batch_run(m->delivery.run->data, m->delivery.run->size);
    struct batch_message in;
    for (uint32_t i = 0; i < count && batch_next(&cursor, &in); i++) {
        char key = in.key.size ? *(const char *)in.key.data : 0;
        judge_sharing(s, c, m, key);
        take_message(s, c, m, m->delivery.first_offset + i, key);
    }
    s->result.delivered += count;
}

static void attach_missing(struct sim *s, struct consumer *c) {
    struct process *g = clients_gateway_up(s, c->gateway);
    struct box *b = clients_box(s, c->box);
    if (!g || !b->created || !b->there[c->subscription] || s->now < c->attach_at)
        return;
    for (uint32_t i = 0; i < b->settings.partitions; i++) {
        uint64_t partition = (uint64_t)b->first_partition + i;
        int leader = g->gateway->leader[partition];
        if (!c->attached[partition] && leader >= 0 && g->ends[leader].up)
            consumer_present(s, c, partition, g, leader);
    }
}

static void leave_gateway(struct consumer *c) {
    memset(c->attached, 0, sizeof c->attached);
    memset(c->lent, 0, sizeof c->lent);
    memset(c->ready, 0, sizeof c->ready);
}

void consumer_forget(struct consumer *c) {
    c->held_count = 0;
    leave_gateway(c);
}

void consumer_tick(struct sim *s, struct event *e) {
    struct consumer *c = &s->clients->consumers[e->a];
    struct event *again = sim_at(s, s->now + sim_between(&s->work, TICK_US / 2, TICK_US), consumer_tick);
    again->a = e->a;
    if (!c->alive)
        return;
    if (!s->processes[c->gateway].up) {
        leave_gateway(c);
        clients_move(s, &c->gateway);
    }
    if (!clients_gateway_up(s, c->gateway))
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
    if (s->swarm.theme != THEME_late_fence) /* there each gateway keeps its own */
        clients_move(s, &c->gateway);
}

void clients_kill_consumer(struct sim *s) {
    struct consumer *c = &s->clients->consumers[rng_below(&s->rng, (uint64_t)s->clients->consumers_count)];
    struct process *g = clients_gateway_up(s, c->gateway);
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
    struct event *e =
        sim_at(s,
               s->now + sim_between(&s->rng, 10 * USEC_MS,
                                    s->swarm.theme == THEME_leases || s->swarm.theme == THEME_late_fence
                                        ? 200 * USEC_MS
                                        : 2 * USEC_S),
               on_born_again);
    e->a = (uint64_t)c->index;
}

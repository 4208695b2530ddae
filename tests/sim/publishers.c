// SPDX-License-Identifier: Apache-2.0
/* Publishers as the client library plays them: a lane each partition, batches with
 * sequences and `after`, sent again until receipted, refused or given up. */
#include "clients.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

enum { PUBLISH_TIMEOUT_US = 1500000, RETRY_US_MAX = 60000 };

/* ---- publishing ---- */

static uint64_t request_of(const struct publisher *p, int lane, uint64_t sequence) {
    return (uint64_t)p->index << 56 | (uint64_t)p->lanes[lane].generation << 48 | (uint64_t)lane << 40 |
           sequence;
}

uint64_t publisher_partition(struct sim *s, const struct publisher *p, int lane) {
    return (uint64_t)clients_box(s, p->box)->first_partition + (uint64_t)lane;
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
        uint32_t room = sim_chance(&s->work, s->swarm.large) ? sizeof payload - PAYLOAD_HEAD_BYTES : 100;
        struct stamp stamp = {.publisher = (uint32_t)p->index,
                              .generation = l->generation,
                              .partition = (uint32_t)publisher_partition(s, p, lane),
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
    struct process *g = clients_gateway_up(s, p->gateway);
    uint64_t partition = publisher_partition(s, p, lane);
    int leader = g ? g->gateway->leader[partition] : -1;
    if (leader < 0 || !g->ends[leader].up)
        return false;
    struct message *m = message_new(M_PUBLISH, partition);
    b->epoch = b->epoch ? b->epoch : g->gateway->epoch[partition];
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

void publisher_forget(struct lane *l, int i) {
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
    publisher_forget(l, l->count - 1);
}

void publisher_tick(struct sim *s, struct event *e) {
    struct publisher *p = &s->clients->publishers[e->a];
    struct box *b = clients_box(s, p->box);
    struct event *again =
        sim_at(s, s->now + sim_between(&s->work, p->interval / 2, p->interval), publisher_tick);
    again->a = e->a;
    if (!s->processes[p->gateway].up)
        clients_move(s, &p->gateway);
    if (!b->created)
        return;
    int lanes = (int)b->settings.partitions;
    for (int i = 0; i < lanes && !s->quiet; i++) {
        abandon_sometimes(s, p, i);
        send_lane(s, p, i);
    }
    if (s->stopping || s->quiet)
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
        publisher_forget(&p->lanes[lane], 0);
    publisher_new_producer(s, p, lane);
}

void publisher_start_over(struct sim *s, struct publisher *p) {
    for (uint32_t k = 0; k < clients_box(s, p->box)->settings.partitions; k++)
        start_over(s, p, (int)k);
}

static void on_refused(struct sim *s, struct publisher *p, int lane, uint64_t sequence,
                       const struct message *m) {
    struct lane *l = &p->lanes[lane];
    l->retry_at = s->now + (usec_t)rng_below(&s->work, RETRY_US_MAX);
    switch (m->answer_publish.code) {
    case ERR_OUT_OF_ORDER:
        sim_count(s, RARE_out_of_order);
        if (l->count && m->answer_publish.last < l->window[0].after) { /* it had receipts for more */
            sim_trace(s, "publisher %d had receipts for what is lost", p->index);
            start_over(s, p, lane);
            break;
        }
        resend_from(l, m->answer_publish.last + 1);
        l->retry_at = 0;
        break;
    case ERR_FORGOTTEN:
        sim_count(s, RARE_forgotten);
        start_over(s, p, lane);
        break;
    case ERR_FULL:
    case ERR_DISK_FULL:
        sim_count(s, m->answer_publish.code == ERR_FULL ? RARE_refused_full : RARE_refused_disk_full);
        resend_from(l, sequence);
        break;
    default:
        if (err_advice(m->answer_publish.code) != ERR_ADVICE_RETRY)
            sim_violation(s, "live", "publish to p%d refused for good: %s", (int)m->partition,
                          err_text(m->answer_publish.code));
        resend_from(l, sequence);
    }
}

/* That the gateway knows is led. */
static uint64_t epoch_of(struct sim *s, const struct publisher *p, uint64_t partition) {
    const struct process *g = &s->processes[p->gateway];
    return g->up ? g->gateway->epoch[partition] : 0;
}

/* After so long a publisher gives up what has no answer. */
void publisher_give_up(struct sim *s, struct publisher *p) {
    for (uint32_t k = 0; k < clients_box(s, p->box)->settings.partitions; k++)
        if (p->lanes[k].count)
            start_over(s, p, (int)k);
}

void publisher_answer(struct sim *s, const struct message *m) {
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
        if (m->answer_publish.duplicate && l->window[i].epoch < epoch_of(s, p, m->partition))
            sim_count(s, RARE_duplicates_after_move);
        publisher_forget(l, i);
    } else {
        on_refused(s, p, lane, sequence, m);
    }
}

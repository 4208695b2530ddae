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
        if (b->first_partition && partition >= (uint64_t)b->first_partition &&
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

struct box *clients_box(struct sim *s, int i) {
    return &s->clients->boxes[i];
}

struct process *clients_gateway_up(struct sim *s, int id) {
    struct process *p = &s->processes[id];
    return p->up && p->frozen_until <= s->now ? p : NULL;
}

void clients_move(struct sim *s, int *gateway) {
    int node = (int)rng_below(&s->work, (uint64_t)s->nodes_count);
    struct process *p = sim_gateway(s, node);
    if (p->up)
        *gateway = p->id;
}

bool clients_done(struct sim *s, char *why, size_t size) {
    if (!life_settled(s, why, size))
        return false;
    for (int i = 0; i < s->clients->publishers_count; i++) {
        struct publisher *p = &s->clients->publishers[i];
        for (int k = 0; k < SIM_PARTITIONS_MAX; k++)
            if (p->lanes[k].count) {
                snprintf(why, size, "publisher %d waits for the receipt of p%d sequence %llu", i,
                         (int)publisher_partition(s, p, k),
                         (unsigned long long)p->lanes[k].window[0].sequence);
                return false;
            }
    }
    for (int i = 0; i < s->clients->consumers_count; i++)
        if (s->clients->consumers[i].held_count) {
            struct consumer *c = &s->clients->consumers[i];
            struct held *h = &c->held[0];
            struct process *g = clients_gateway_up(s, c->gateway);
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
                publisher_forget(&s->clients->publishers[i].lanes[k], 0);
    free(s->clients);
}

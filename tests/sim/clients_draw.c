// SPDX-License-Identifier: Apache-2.0
/* The mailboxes, publishers and consumers of a seed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "clients.h"

static struct box *box(struct sim *s, int i) {
    return &s->clients->boxes[i];
}

/* ---- the seed's mailboxes and clients ---- */

static const char *const subscription_names[] = {"default", "audit", "other"};

static unsigned theme(struct sim *s, unsigned usual, unsigned clients) {
    return s->swarm.theme == THEME_clients ? clients : usual;
}

/* A leader delivers only to who comes anew. */
static bool few_at_each(const struct sim *s) {
    return s->swarm.theme == THEME_leases || s->swarm.theme == THEME_late_fence;
}

/* Consumers that fall behind, so that a leader has something to deliver. */
static bool slow(struct sim *s) {
    return s->swarm.theme == THEME_leaders || few_at_each(s);
}

/* Each partition has its share of a limit; what is larger is refused for ever. The
 * client library splits such batches, the publishers here do not. */
static uint64_t room(const struct box *b) {
    uint64_t least = (uint64_t)b->settings.partitions * BATCH_MESSAGES_SIM_MAX;
    return least > 10 ? least : 10;
}

/* Where the others' dead letters go, limits, expiry. */
static void draw_policy(struct sim *s, struct box *b, int i) {
    if (s->clients->letters && i == 0) {
        b->letters = true;
        b->subscriptions_count = 1;
        b->settings.max_deliveries = 0;
    } else if (s->clients->letters && sim_chance(&s->work, 7000)) {
        strcpy(b->settings.dead_letter, "box0");
        b->settings.max_deliveries = 1 + (uint32_t)rng_below(&s->work, 6);
    } else if (sim_chance(&s->work, theme(s, 1500, 4000))) {
        b->settings.max_messages = room(b) + rng_below(&s->work, s->swarm.theme == THEME_big ? 400 : 60);
        b->settings.overflow = (enum overflow)rng_below(&s->work, 2);
        b->exact = b->settings.overflow == OVERFLOW_REJECT;
    } else if (sim_chance(&s->work, theme(s, 1000, 3000))) {
        b->settings.ttl = sim_between(&s->work, 200 * USEC_MS, 5 * USEC_S);
        b->exact = false;
    }
}

static void draw_box(struct sim *s, int i) {
    struct box *b = box(s, i);
    snprintf(b->name, sizeof b->name, "box%d", i);
    settings_default(&b->settings);
    b->settings.partitions = 1 + (uint32_t)rng_below(&s->work, (uint64_t)s->swarm.partitions_max);
    b->settings.replicas = sim_chance(&s->work, 8000) ? 3 : sim_chance(&s->work, 5000) ? 5 : 1;
    if (s->swarm.theme == THEME_sets && sim_chance(&s->work, 4000))
        b->settings.replicas = 1;
    if (s->swarm.victim >= 0 && b->settings.replicas == 1)
        b->settings.replicas = 3; /* its only disk may be the one that is harmed */
    b->settings.dispatch = (enum dispatch)rng_below(&s->work, 4);
    b->settings.ack_timeout = sim_between(&s->work, s->swarm.outage_max / 8, s->swarm.outage_max / 2);
    b->settings.max_deliveries = sim_chance(&s->work, 3000) ? 20 : 0;
    b->exact = true;
    b->subscriptions_count = sim_chance(&s->work, 3000) ? 2 : 1;
    draw_policy(s, b, i);
    /* where a disk is harmed for good, what it held may be what the others had lost */
    if (!s->clients->letters && s->swarm.victim < 0 && sim_chance(&s->work, 4000)) {
        b->settings.durability = DURABILITY_WRITTEN;
        s->swarm.sync_max = sim_between(&s->work, 10 * USEC_MS, 45 * USEC_MS); /* more to lose */
    }
    if (s->swarm.theme > THEME_big) { /* directed: as most are */
        b->settings.replicas = 3;
        b->settings.durability = DURABILITY_SYNCED;
        if (few_at_each(s)) /* no key stands in the way */
            b->settings.dispatch = DISPATCH_ROUND_ROBIN;
    }
    if (b->settings.max_deliveries) /* lost on the way counts too: some die unseen */
        b->exact = false;
    b->wanted = true;
    for (int k = 0; k < b->subscriptions_count; k++)
        b->wished[k] = true;
    if (s->swarm.mean[FAULT_subscribe] && !b->letters)
        b->subscriptions_count = SIM_SUBSCRIPTIONS_MAX;
    for (int k = 0; k < b->subscriptions_count; k++) {
        strcpy(b->subscriptions[k], subscription_names[k]);
        b->from[k] = FROM_FIRST;
    }
}

static void draw_publisher(struct sim *s, int i, int boxes) {
    struct publisher *p = &s->clients->publishers[i];
    p->index = i;
    p->box = i < boxes ? i : (int)rng_below(&s->work, (uint64_t)boxes);
    if (box(s, p->box)->letters)
        p->box = 1;
    p->gateway = sim_gateway(s, (int)rng_below(&s->work, (uint64_t)s->nodes_count))->id;
    p->interval = sim_between(&s->work, s->swarm.publish_min, s->swarm.publish_max);
    for (uint32_t k = 0; k < box(s, p->box)->settings.partitions; k++)
        publisher_new_producer(s, p, (int)k);
}

static void draw_consumer(struct sim *s, int i, int box_index, int subscription) {
    struct consumer *c = &s->clients->consumers[i];
    c->index = i;
    c->box = box_index;
    c->subscription = subscription;
    c->alive = true;
    c->gateway = sim_gateway(s, (int)rng_below(&s->work, (uint64_t)s->nodes_count))->id;
    if (few_at_each(s))
        c->gateway = sim_gateway(s, i % s->nodes_count)->id;
    c->credit = 1 + (uint32_t)rng_below(&s->work, few_at_each(s) ? 4 : 40);
    c->think_max = sim_between(&s->work, USEC_MS, slow(s) ? 400 * USEC_MS : 40 * USEC_MS);
    c->lazy = sim_chance(&s->work, theme(s, 3000, 6000)) ? theme(s, 60, 200) : 0;
    for (size_t k = 0; k < sizeof c->id.bytes; k++)
        c->id.bytes[k] = (uint8_t)rng_next(&s->work);
}

static int consumers_of(struct sim *s) {
    if (few_at_each(s))
        return s->nodes_count; /* one at each gateway */
    return (slow(s) ? 2 : 1) + (int)rng_below(&s->work, 2);
}

void clients_make(struct sim *s) {
    struct clients *c = xcalloc(1, sizeof *c);
    s->clients = c;
    c->boxes_count = 1 + (int)rng_below(&s->work, (uint64_t)s->swarm.boxes_max);
    c->letters = c->boxes_count > 1 && sim_chance(&s->work, theme(s, 4000, 7000));
    for (int i = 0; i < c->boxes_count; i++)
        draw_box(s, i);
    c->publishers_count = c->boxes_count + (int)rng_below(&s->work, (uint64_t)s->swarm.publishers_more + 1);
    for (int i = 0; i < c->publishers_count; i++)
        draw_publisher(s, i, c->boxes_count);
    for (int i = 0; i < c->boxes_count; i++)
        for (int k = 0; k < box(s, i)->subscriptions_count; k++)
            for (int n = consumers_of(s); n > 0 && c->consumers_count < SIM_CONSUMERS_MAX; n--)
                draw_consumer(s, c->consumers_count++, i, k);
}

void clients_start(struct sim *s) {
    life_start(s);
    for (int i = 0; i < s->clients->publishers_count; i++)
        sim_at(s, s->now, publisher_tick)->a = (uint64_t)i;
    for (int i = 0; i < s->clients->consumers_count; i++)
        sim_at(s, s->now, consumer_tick)->a = (uint64_t)i;
}

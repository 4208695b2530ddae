// SPDX-License-Identifier: Apache-2.0
/*
 * Durability none: what would be an entry is applied within the call that decides
 * it. Random operations, to see that no call trips over what it changes itself;
 * every message is delivered under one live token, and in the end all is settled.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/rng.h"
#include "mailbox/mailbox.h"

enum { CONSUMERS = 3, HELD_MAX = 4096, STEPS = 3000 };

struct held {
    int consumer;
    uint64_t offset;
    uint32_t number;
};

struct none {
    struct rng rng;
    struct mailbox *m;
    struct mailbox_effects fx;
    usec_t now;
    uint64_t sequence;
    struct held held[HELD_MAX];
    size_t held_count;
    uint64_t letters[HELD_MAX];
    size_t letters_count;
};

static struct consumer_id name_of(int i) {
    return (struct consumer_id){{(uint8_t)(1 + i)}};
}

static void hold(struct none *n, const struct mailbox_effect *e) {
    cr_assert(ne(ptr, e->deliver.body, NULL), "the only copy");
    for (uint32_t i = 0; i < e->deliver.count; i++) {
        uint64_t offset = e->deliver.first_offset + i;
        for (size_t h = 0; h < n->held_count; h++)
            if (n->held[h].offset == offset) { /* the one before is over */
                cr_assert(lt(u32, n->held[h].number, e->deliver.delivery_number));
                n->held[h--] = n->held[--n->held_count];
            }
        cr_assert(lt(sz, n->held_count, HELD_MAX));
        n->held[n->held_count++] =
            (struct held){e->deliver.consumer.bytes[0] - 1, offset, e->deliver.delivery_number};
    }
}

static void take(struct none *n) {
    struct mailbox_effects fx = n->fx;
    n->fx = (struct mailbox_effects){0};
    for (size_t i = 0; i < fx.count; i++) {
        cr_assert(fx.items[i].type != MAILBOX_PROPOSE, "nothing is logged");
        if (fx.items[i].type == MAILBOX_DELIVER)
            hold(n, &fx.items[i]);
        if (fx.items[i].type == MAILBOX_DEAD_LETTER)
            n->letters[n->letters_count++ % HELD_MAX] = fx.items[i].dead_letter.intent;
    }
    mailbox_effects_free(&fx);
    struct subscription_stats s;
    cr_assert(mailbox_subscription_stats(n->m, 0, &s));
    cr_assert(
        eq(u64, s.published,
           s.ready + s.leased + s.delayed + s.dying + s.acked + s.dead + s.expired + s.dropped + s.purged));
}

static void publish(struct none *n) {
    struct batch_builder b = {0};
    struct producer_id id = {{'p'}};
    for (uint64_t i = 1 + rng_below(&n->rng, 12); i > 0; i--) {
        char key = (char)('a' + rng_below(&n->rng, 4));
        batch_add(&b, &key, key != 'd', NULL, 0, "x", 1);
    }
    n->sequence++;
    batch_finish(&b, &id, n->sequence, 0, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    mailbox_publish(n->m, (struct mailbox_origin){0}, body, n->now, n->now, false, &n->fx);
    body_drop(body);
    batch_builder_free(&b);
}

static void settle(struct none *n, enum settle_kind kind) {
    if (n->held_count == 0)
        return;
    size_t i = rng_below(&n->rng, n->held_count);
    struct held h = n->held[i];
    if (kind != SETTLE_EXTEND)
        n->held[i] = n->held[--n->held_count];
    struct consumer_id id = name_of(h.consumer);
    struct mailbox_settlement item = {.kind = kind,
                                      .first_offset = h.offset,
                                      .count = 1,
                                      .epoch = 5,
                                      .delivery_number = h.number,
                                      .delay = 1000};
    mailbox_settle(n->m, (struct mailbox_origin){0}, &id, "default", &item, 1, n->now, n->now, &n->fx);
}

static void attach(struct none *n, int i) {
    struct consumer_id id = name_of(i);
    cr_assert(eq(int, mailbox_attach(n->m, &id, 1, "default", "", 0, n->now, &n->fx), ERR_OK));
    mailbox_credit(n->m, &id, "default", 1 + (uint32_t)rng_below(&n->rng, 20), n->now, &n->fx);
}

static void letter(struct none *n, enum err code) {
    if (n->letters_count)
        mailbox_dead_lettered(n->m, n->letters[rng_below(&n->rng, n->letters_count % HELD_MAX)], code, n->now,
                              &n->fx);
}

static void step(struct none *n) {
    struct consumer_id id = name_of((int)rng_below(&n->rng, CONSUMERS));
    uint64_t r = rng_below(&n->rng, 100);
    if (r < 25)
        publish(n);
    else if (r < 45)
        attach(n, id.bytes[0] - 1);
    else if (r < 80)
        settle(n, (enum settle_kind)rng_below(&n->rng, 5));
    else if (r < 83)
        mailbox_detach(n->m, &id, "default", rng_below(&n->rng, 2), n->now, &n->fx);
    else if (r < 84)
        mailbox_purge(n->m, &n->fx);
    else if (r < 90)
        letter(n, rng_below(&n->rng, 3) ? ERR_OK : ERR_FULL);
    else {
        n->now += (usec_t)rng_below(&n->rng, r < 98 ? 10000 : 2000000);
        mailbox_tick(n->m, n->now, n->now, &n->fx);
    }
    take(n);
    mailbox_pump(n->m, n->now, n->now, &n->fx);
    take(n);
}

static bool drained(struct none *n) {
    struct subscription_stats s;
    cr_assert(mailbox_subscription_stats(n->m, 0, &s));
    return s.ready + s.leased + s.delayed + s.dying == 0;
}

static void drain(struct none *n) {
    for (int i = 1; i < CONSUMERS; i++) {
        struct consumer_id id = name_of(i);
        mailbox_detach(n->m, &id, "default", true, n->now, &n->fx);
    }
    for (int round = 0; round < 20000 && !drained(n); round++) {
        attach(n, 0);
        take(n);
        settle(n, SETTLE_ACK);
        mailbox_pump(n->m, n->now, n->now, &n->fx);
        for (size_t i = 0; i < n->letters_count && i < HELD_MAX; i++)
            mailbox_dead_lettered(n->m, n->letters[i], ERR_OK, n->now, &n->fx);
        mailbox_pump(n->m, n->now, n->now, &n->fx);
        n->now += 5000;
        mailbox_tick(n->m, n->now, n->now, &n->fx);
        take(n);
    }
    cr_assert(drained(n));
}

static void run(uint64_t seed) {
    struct none *n = calloc(1, sizeof *n);
    struct mailbox_settings s;
    settings_default(&s);
    s.durability = DURABILITY_NONE;
    s.dispatch = (enum dispatch)(seed % 4);
    s.ack_timeout = USEC_S;
    s.max_deliveries = seed / 4 % 2 ? 2 : 0;
    strcpy(s.dead_letter, seed / 8 % 2 ? "dlq" : "");
    s.max_messages = seed / 16 % 2 ? 60 : 0;
    s.overflow = OVERFLOW_DROP_OLDEST;
    s.ttl = seed / 32 % 2 ? USEC_S : 0;
    s.retain_time = seed / 64 % 2 ? USEC_S : 0;
    n->rng = (struct rng){seed};
    n->m = mailbox_new(&(struct mailbox_options){.name = "m", .id = 1, .settings = s});
    n->now = 1;
    mailbox_lead(n->m, 5, NULL, 0, 1, n->now, n->now, &n->fx);
    mailbox_allow(n->m, USEC_NEVER, n->now, &n->fx);
    for (int i = 0; i < STEPS; i++)
        step(n);
    drain(n);
    mailbox_free(n->m);
    mailbox_effects_free(&n->fx);
    free(n);
}

Test(none, random_operations) {
    for (uint64_t seed = 1; seed <= 128; seed++)
        run(seed);
}

// SPDX-License-Identifier: Apache-2.0
#include "gateway/consumers.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"

enum { BOX = 3, PARTITIONS = 4, CONSUMERS = 3, SMALL = 100 };

static struct consumers table;
static char trace[1024];

static const uint8_t *id(unsigned n) {
    static uint8_t bytes[CONSUMER_ID_BYTES];
    memset(bytes, 0, sizeof bytes);
    bytes[0] = (uint8_t)n;
    return bytes;
}

static void lend_trace(void *ctx, const struct part *part, uint32_t more) {
    size_t at = strlen(trace);
    snprintf(trace + at, sizeof trace - at, "c%u p%u +%u, ", part->consumer->key.id[0], part->number, more);
}

static const char *pump(void) {
    trace[0] = 0;
    consumers_pump(&table, lend_trace, NULL);
    return trace;
}

static struct consumer *consumer(unsigned n, uint32_t credit) {
    struct consumer *c = consumers_add(&table, BOX, "default", PARTITIONS, id(n), "test", credit);
    cr_assert_not_null(c);
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        consumer_attaching(&table, c, p, 1);
        consumer_attached(&table, c, p);
    }
    /* sizes are known, so that bytes do not limit */
    struct hold one = {.first = 1000000, .count = 1, .epoch = 1};
    cr_assert(consumer_delivered(&table, c, 0, &one, SMALL));
    consumer_settled(&table, c, 0, &one);
    return c;
}

static void begin(void) {
    consumers_init(&table, 1 << 30);
}

static void end(void) {
    consumers_free(&table);
    cr_assert_eq(table.lent_bytes, 0);
    cr_assert_eq(table.parts, 0);
    cr_assert_null(table.mailboxes);
}

TestSuite(consumers, .init = begin, .fini = end);

static struct group *group(void) {
    return consumers_group(&table, BOX, "default");
}

static struct hold run(uint64_t first, uint32_t count) {
    return (struct hold){.first = first, .count = count, .epoch = 1};
}

Test(consumers, nothing_is_lent_unasked_and_no_more_than_asked) {
    consumer(1, 100);
    cr_assert_str_eq(pump(), "");
    consumers_ready(&table, group(), 2, 7);
    cr_assert_str_eq(pump(), "c1 p2 +7, ");
    cr_assert_str_eq(pump(), "");
}

Test(consumers, credit_is_spread_over_announcing_partitions) {
    consumer(1, 100);
    consumers_ready(&table, group(), 0, 1000);
    consumers_ready(&table, group(), 1, 10);
    consumers_ready(&table, group(), 3, 1000);
    cr_assert_str_eq(pump(), "c1 p0 +33, c1 p1 +10, c1 p3 +57, ");
}

Test(consumers, one_credit_goes_around) {
    struct consumer *c = consumer(1, 1);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        consumers_ready(&table, group(), p, 50);
    char order[64] = "";
    for (uint64_t i = 0; i < 6; i++) {
        strcat(order, pump());
        uint32_t p = (uint32_t)(trace[4] - '0');
        struct hold one = run(i, 1);
        cr_assert(consumer_delivered(&table, c, p, &one, SMALL));
        cr_assert_str_eq(pump(), "", "what is held counts");
        consumer_settled(&table, c, p, &one);
    }
    cr_assert_str_eq(order, "c1 p0 +1, c1 p1 +1, c1 p2 +1, c1 p3 +1, c1 p0 +1, c1 p1 +1, ");
}

Test(consumers, settlements_are_lent_again_in_pieces) {
    struct consumer *c = consumer(1, 80);
    consumers_ready(&table, group(), 0, 100000);
    cr_assert_str_eq(pump(), "c1 p0 +80, ");
    struct hold half = run(0, 40);
    cr_assert(consumer_delivered(&table, c, 0, &half, 40 * SMALL));
    for (uint64_t i = 0; i < 9; i++) {
        struct hold one = run(i, 1);
        consumer_settled(&table, c, 0, &one);
        cr_assert_str_eq(pump(), "", "not a frame for each");
    }
    struct hold tenth = run(9, 1);
    consumer_settled(&table, c, 0, &tenth);
    cr_assert_str_eq(pump(), "c1 p0 +10, ");
}

Test(consumers, an_announcement_holds_until_credit_comes_back) {
    struct consumer *c = consumer(1, 100);
    consumers_ready(&table, group(), 0, 1);
    cr_assert_str_eq(pump(), "c1 p0 +1, ");
    struct hold one = run(0, 1), two = run(1, 2), three = run(3, 3);
    consumer_delivered(&table, c, 0, &one, SMALL);
    cr_assert_str_eq(pump(), "c1 p0 +2, ", "it may still wait: it does not announce again");
    consumer_delivered(&table, c, 0, &two, 2 * SMALL);
    cr_assert_str_eq(pump(), "c1 p0 +4, ");
    consumer_delivered(&table, c, 0, &three, 3 * SMALL);
    pump();
    consumer_credit_back(&table, c, 0, c->parts[0].lent);
    cr_assert_str_eq(pump(), "", "it has had enough");
    consumers_ready(&table, group(), 0, 5);
    cr_assert_str_eq(pump(), "c1 p0 +5, ");
}

Test(consumers, what_comes_back_is_lent_where_messages_wait) {
    struct consumer *c = consumer(1, 10);
    consumers_ready(&table, group(), 0, 10);
    cr_assert_str_eq(pump(), "c1 p0 +10, ");
    consumers_ready(&table, group(), 1, 10);
    cr_assert_str_eq(pump(), "");
    consumer_credit_back(&table, c, 0, 10);
    cr_assert_str_eq(pump(), "c1 p1 +10, ");
}

Test(consumers, a_new_leader_begins_without_credit_and_holds_stay) {
    struct consumer *c = consumer(1, 10);
    consumers_ready(&table, group(), 0, 10);
    pump();
    struct hold three = run(0, 3);
    consumer_delivered(&table, c, 0, &three, 3 * SMALL);
    cr_assert_eq(c->lent, 7);
    consumer_idle(&table, c, 0);
    cr_assert_eq(c->lent, 0);
    cr_assert_eq(c->held, 3);
    struct hold late = run(3, 1);
    cr_assert_not(consumer_delivered(&table, c, 0, &late, SMALL), "not attached");
    consumer_attaching(&table, c, 0, 2);
    consumer_attached(&table, c, 0);
    cr_assert_not(consumer_delivered(&table, c, 0, &late, SMALL), "of the epoch before");
    consumers_ready(&table, group(), 0, 100);
    cr_assert_str_eq(pump(), "c1 p0 +7, ");
}

Test(consumers, every_consumer_of_the_subscription_is_asked) {
    consumer(1, 5);
    consumer(2, 5);
    consumers_ready(&table, group(), 0, 1);
    pump();
    cr_assert(strstr(trace, "c1 p0 +1, ") && strstr(trace, "c2 p0 +1, "), "%s", trace);
}

Test(consumers, unknown_sizes_are_lent_with_care) {
    struct consumer *c = consumers_add(&table, BOX, "default", PARTITIONS, id(1), "test", 100000);
    consumer_attaching(&table, c, 0, 1);
    consumer_attached(&table, c, 0);
    consumers_ready(&table, group(), 0, 100000);
    pump();
    cr_assert_leq(c->lent * CONSUMER_MESSAGE_BYTES_GUESS, CONSUMER_LENT_BYTES_MAX);
    struct hold big = run(0, 1);
    consumer_delivered(&table, c, 0, &big, 4 * MIB);
    uint32_t lent = (uint32_t)c->lent;
    consumer_credit_back(&table, c, 0, lent);
    consumers_ready(&table, group(), 0, 100000);
    pump();
    cr_assert_leq(c->lent, 2, "large messages, few of them");
    cr_assert_geq(c->lent, 1);
}

Test(consumers, a_paused_consumer_gets_nothing) {
    struct consumer *c = consumer(1, 5);
    consumer_pause(&table, c, true);
    consumers_ready(&table, group(), 0, 5);
    cr_assert_str_eq(pump(), "");
    consumer_pause(&table, c, false);
    cr_assert_str_eq(pump(), "c1 p0 +5, ");
}

Test(consumers, who_comes_again_holds_what_it_says) {
    struct consumer *c = consumer(1, 100);
    struct hold ten = run(0, 10), kept = run(2, 3), unheard = run(50, 1);
    struct holds presented = {0}, lost = {0};
    cr_assert(consumer_delivered(&table, c, 1, &ten, 10 * SMALL));
    holds_add(&presented, &kept);
    holds_add(&presented, &unheard);
    consumer_present_again(&table, c, 1, &presented, &lost);
    cr_assert_eq(c->held, 4);
    cr_assert_eq(holds_total(&lost), 7);
    cr_assert_eq(holds_at(&lost, 0)->count, 2);
    cr_assert_eq(holds_at(&lost, 1)->first, 5);
    holds_free(&lost);
}

Test(consumers, presented_holds_count_against_the_credit) {
    struct consumer *c = consumer(1, 10);
    struct hold old = {.first = 5, .count = 8, .epoch = 1};
    consumer_present(&table, c, 1, &old);
    consumers_ready(&table, group(), 0, 100);
    cr_assert_str_eq(pump(), "c1 p0 +2, ");
}

/* ---- a world of partitions that deliver what they were lent ---- */

struct leader {
    bool waiting; /* it has announced, and announces no more while it waits */
    uint64_t backlog;
    uint64_t next;
    uint32_t credit[CONSUMERS];
};

static struct leader leaders[PARTITIONS];

static void lend_world(void *ctx, const struct part *part, uint32_t more) {
    leaders[part->number].credit[part->consumer->key.id[0]] += more;
}

static void check(struct consumer *const *all) {
    for (size_t i = 0; i < CONSUMERS; i++) {
        uint64_t lent = 0, held = 0;
        for (uint32_t p = 0; p < PARTITIONS; p++) {
            cr_assert_eq(all[i]->parts[p].lent, leaders[p].credit[i], "both sides count the same");
            lent += leaders[p].credit[i];
            held += holds_total(&all[i]->parts[p].holds);
        }
        cr_assert_eq(all[i]->lent, lent);
        cr_assert_eq(all[i]->held, held);
        cr_assert_leq(lent + held, all[i]->credit);
    }
}

/* A leader uses some of its credit, or gives back, or announces. */
static uint64_t leader_acts(struct rng *r, struct consumer *const *all, uint32_t p, uint64_t delivered) {
    struct leader *l = &leaders[p];
    for (size_t i = 0; i < CONSUMERS; i++) {
        if (l->credit[i] == 0)
            continue;
        if (l->backlog == 0) {
            consumer_credit_back(&table, all[i], p, l->credit[i]);
            l->credit[i] = 0;
            continue;
        }
        if (rng_below(r, 4) == 0)
            continue; /* not this one now */
        uint64_t most = l->credit[i] < l->backlog ? l->credit[i] : l->backlog;
        struct hold x = run(l->next, 1 + (uint32_t)rng_below(r, most));
        cr_assert(consumer_delivered(&table, all[i], p, &x, x.count * SMALL));
        l->credit[i] -= x.count;
        l->backlog -= x.count;
        l->next += x.count;
        delivered += x.count;
    }
    uint32_t credit = 0;
    for (size_t i = 0; i < CONSUMERS; i++)
        credit += l->credit[i];
    bool waiting = l->backlog > 0 && credit == 0;
    if (waiting && !l->waiting)
        consumers_ready(&table, group(), p, l->backlog);
    l->waiting = waiting;
    return delivered;
}

static void settle_some(struct rng *r, struct consumer *c) {
    struct part *part = &c->parts[rng_below(r, PARTITIONS)];
    if (part->holds.count == 0)
        return;
    struct hold x = *holds_at(&part->holds, rng_below(r, part->holds.count));
    x.first += rng_below(r, x.count);
    x.count = 1;
    cr_assert_eq(consumer_settled(&table, c, part->number, &x), 1);
}

Test(consumers, lending_keeps_within_credit_and_never_stalls) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct rng r = {seed};
        struct consumer *all[CONSUMERS];
        uint64_t published = 0, delivered = 0;
        memset(leaders, 0, sizeof leaders);
        for (unsigned i = 0; i < CONSUMERS; i++)
            all[i] = consumer(i, 1 + (uint32_t)rng_below(&r, 20));
        for (int step = 0; step < 4000; step++) {
            uint32_t p = (uint32_t)rng_below(&r, PARTITIONS);
            if (step < 2000 && rng_below(&r, 3) == 0) {
                uint64_t more = 1 + rng_below(&r, 5);
                leaders[p].backlog += more;
                published += more;
            }
            delivered = leader_acts(&r, all, p, delivered);
            settle_some(&r, all[rng_below(&r, CONSUMERS)]);
            if (rng_below(&r, 2))
                consumers_pump(&table, lend_world, NULL);
            check(all);
        }
        for (int step = 0; delivered < published && step < 200000; step++) {
            delivered = leader_acts(&r, all, (uint32_t)step % PARTITIONS, delivered);
            settle_some(&r, all[step % CONSUMERS]);
            consumers_pump(&table, lend_world, NULL);
            check(all);
        }
        cr_assert_eq(delivered, published, "seed %llu", (unsigned long long)seed);
        for (unsigned i = 0; i < CONSUMERS; i++)
            consumers_remove(&table, all[i]);
    }
}

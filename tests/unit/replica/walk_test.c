// SPDX-License-Identifier: Apache-2.0
/*
 * Random walks: three to five replicas, two controllers that may act on stale
 * reads, every message lost, doubled or late, crashes that cut unsynced records,
 * damaged disks, changing sets. The harness' oracle holds throughout: same index,
 * same entry; what was applied anywhere stays; an epoch has one leader and is
 * taken once. In the end everything heals and must commit something new.
 *
 * The controllers obey DESIGN section 6; MAILROOM_WALK_SEEDS runs more seeds,
 * MAILROOM_WALK_FIRST begins elsewhere.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

enum { SEEDS = 500, STEPS = 20000, CONTROLLERS = 2, ORDERS_MAX = 64, HISTORY = 4 };

struct attempt { /* one controller's seal */
    bool open;
    uint64_t version; /* of the record it reads */
    uint64_t epoch;
    struct replica_record base;
    struct replica_sealed answers[NODES_MAX];
    size_t count;
};

struct order {
    member_t to;
    uint64_t epoch;
};

struct walk {
    struct harness *h;
    struct rng rng;
    struct replica_record meta;
    struct replica_record history[HISTORY]; /* told late */
    struct attempt attempts[CONTROLLERS];
    struct order orders[ORDERS_MAX]; /* seals in flight */
    size_t orders_count;
    unsigned values;
};

static uint64_t below(struct walk *w, uint64_t n) {
    return rng_below(&w->rng, n);
}

static struct node *some_node(struct walk *w) {
    return &w->h->nodes[below(w, w->h->count)];
}

static struct node *some_alive(struct walk *w) {
    struct node *n = some_node(w);
    return n->alive ? n : NULL;
}

/* ---- the controllers ---- */

static void set_add(struct replica_set *set, member_t m) {
    if (m && !replica_set_has(set, m))
        set->members[set->count++] = m;
}

static struct replica_set members_of(const struct replica_record *r) {
    struct replica_set all = r->current;
    for (uint32_t i = 0; r->activating && i < r->previous.count; i++)
        set_add(&all, r->previous.members[i]);
    return all;
}

static void seal_begin(struct walk *w, struct attempt *a) {
    struct replica_set all = members_of(&w->meta);
    if (a->open && a->version == w->meta.version && below(w, 3))
        return; /* it waits for its answers */
    *a = (struct attempt){
        .open = true, .version = w->meta.version, .base = w->meta, .epoch = w->meta.epoch + 1};
    for (size_t i = 0; i < w->h->count; i++) /* the promises it has heard of, some of them */
        if (w->h->nodes[i].alive && below(w, 2) && replica_promise(w->h->nodes[i].r) >= a->epoch)
            a->epoch = replica_promise(w->h->nodes[i].r) + 1;
    for (uint32_t i = 0; i < all.count && w->orders_count < ORDERS_MAX; i++)
        w->orders[w->orders_count++] = (struct order){.to = all.members[i], .epoch = a->epoch};
}

static void seal_arrives(struct walk *w) {
    if (!w->orders_count)
        return;
    size_t i = below(w, w->orders_count);
    struct order o = w->orders[i];
    if (below(w, 8))
        w->orders[i] = w->orders[--w->orders_count];
    if (node_of(w->h, o.to)->alive && below(w, 8))
        seal(w->h, o.to, o.epoch, 0);
}

static void add_answer(struct attempt *a, const struct replica_sealed *m) {
    if (!a->open || m->epoch != a->epoch || !m->granted || m->damaged)
        return;
    for (size_t i = 0; i < a->count; i++)
        if (a->answers[i].from == m->from)
            return;
    a->answers[a->count++] = *m;
}

static void answers_arrive(struct walk *w) {
    for (size_t i = 0; i < w->h->sealed_count; i++)
        for (size_t k = 0; k < CONTROLLERS; k++)
            if (below(w, 16))
                add_answer(&w->attempts[k], &w->h->sealed[i]);
    w->h->sealed_count = 0;
}

/* The longest log among the answers from `set`; NULL without a majority of it. */
static const struct replica_sealed *best_of(const struct attempt *a, const struct replica_set *set) {
    const struct replica_sealed *best = NULL;
    uint32_t count = 0;
    for (size_t i = 0; i < a->count; i++) {
        if (!replica_set_has(set, a->answers[i].from))
            continue;
        count++;
        if (!best || longer(&a->answers[i], best))
            best = &a->answers[i];
    }
    return 2 * count > set->count ? best : NULL;
}

static struct replica_set some_set(struct walk *w) {
    struct replica_set set = {0};
    if (below(w, 2)) { /* one comes or goes */
        set = w->meta.current;
        member_t m = some_node(w)->id;
        if (!replica_set_has(&set, m))
            set_add(&set, m);
        else if (set.count > 1)
            set.members[below(w, set.count)] = set.members[set.count - 1], set.count--;
        return set;
    }
    uint64_t count = 1 + below(w, w->h->count < 5 ? 3 : 5);
    for (uint64_t i = 0; i < count; i++)
        set_add(&set, some_node(w)->id);
    return set;
}

/* A majority of the set, without the victim, has a whole disk. */
static bool harmless(const struct walk *w, const struct replica_set *set, member_t victim) {
    uint32_t whole = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        const struct node *n = &w->h->nodes[set->members[i] - 1];
        whole += n->id != victim && !n->disk.damaged;
    }
    return 2 * whole > set->count;
}

/* What follows from the answers, or false. */
static bool next_record(struct walk *w, const struct attempt *a, struct replica_record *out) {
    const struct replica_record *base = &a->base;
    const struct replica_sealed *best = best_of(a, &base->current);
    *out = *base;
    if (base->activating) {
        const struct replica_sealed *other = best_of(a, &base->previous);
        if (best && other) {
            best = longer(other, best) ? other : best;
        } else if (other) { /* back to P */
            best = other;
            out->activating = false;
            out->current = base->previous;
            out->previous = (struct replica_set){0};
        } else
            return false;
    } else if (best && !below(w, 3)) {
        struct replica_set next = some_set(w);
        if (!replica_set_equal(&next, &base->current) && (harmless(w, &next, 0) || !below(w, 8))) {
            out->activating = true;
            out->previous = base->current;
            out->current = next;
        }
    }
    if (!best)
        return false;
    out->epoch = a->epoch;
    out->leader = best->from;
    out->last_epoch = best->last_epoch;
    out->last_index = best->last_index;
    return true;
}

static void apply_record(struct walk *w, const struct replica_record *r) {
    memmove(w->history + 1, w->history, (HISTORY - 1) * sizeof *w->history);
    w->history[0] = w->meta;
    w->meta = *r;
    w->meta.version++;
}

/* Refused unless the record it was computed from is still the current one. */
static void seal_commit(struct walk *w, struct attempt *a) {
    struct replica_record next;
    if (!a->open || !next_record(w, a, &next))
        return;
    a->open = false;
    if (a->version == w->meta.version && next.epoch > w->meta.epoch)
        apply_record(w, &next);
}

static void activate(struct walk *w, const struct node *n) {
    if (!w->meta.activating || n->activated != w->meta.epoch)
        return;
    struct replica_record next = w->meta;
    next.activating = false;
    next.previous = (struct replica_set){0};
    apply_record(w, &next);
}

static void feed_learner(struct walk *w) {
    struct replica_record next = w->meta;
    next.learners = some_set(w);
    apply_record(w, &next);
}

static void tell(struct walk *w, struct node *n) {
    const struct replica_record *r = below(w, 4) ? &w->meta : &w->history[below(w, HISTORY)];
    if (r->version)
        tell_record(w->h, n->id, r);
}

/* ---- faults ---- */

static bool may_damage(const struct walk *w, member_t victim) {
    return harmless(w, &w->meta.current, victim) &&
           (!w->meta.activating || harmless(w, &w->meta.previous, victim));
}

static void crash_some(struct walk *w) {
    struct node *n = some_alive(w);
    if (!n)
        return;
    size_t unsynced = n->count - n->synced;
    crash(w->h, n->id, below(w, unsynced + 1));
    if (!below(w, 12) && may_damage(w, n->id))
        damage(w->h, n->id, below(w, n->disk.count + 1), !below(w, 4));
}

static void spoil_some(struct walk *w) {
    struct node *n = some_alive(w);
    if (n && n->disk.count && !replica_damaged(n->r) && may_damage(w, n->id) && !n->unreadable)
        n->unreadable = n->disk.entries[below(w, n->disk.count)].index;
}

static void restart_some(struct walk *w) {
    for (size_t i = 0; i < w->h->count; i++)
        if (!w->h->nodes[i].alive && below(w, 2))
            restart(w->h, i + 1);
}

/* ---- ordinary life ---- */

static void propose_some(struct walk *w) {
    struct node *n = some_alive(w);
    char text[16];
    if (!n || !replica_leading(n->r) || w->values > 1000)
        return;
    snprintf(text, sizeof text, "v%u", w->values++);
    cr_assert_eq(propose(w->h, n->id, text), ERR_OK);
}

static void message(struct walk *w) {
    if (!w->h->messages_count)
        return;
    size_t near = w->h->messages_count < 4 ? w->h->messages_count : 4;
    size_t i = below(w, 3) ? below(w, near) : below(w, w->h->messages_count);
    uint64_t fate = below(w, 20);
    if (fate == 0 || w->h->messages_count > 200)
        lose(w->h, i);
    else
        deliver(w->h, i, fate == 1);
}

static void time_passes(struct walk *w) {
    w->h->now += (usec_t)below(w, 3 * REPLICA_RETRY_US);
    if (!below(w, 3))
        restart_some(w);
    for (size_t i = 0; i < w->h->count; i++) {
        struct node *n = &w->h->nodes[i];
        if (n->alive && replica_deadline(n->r) <= w->h->now)
            tick(w->h, n->id);
    }
}

static void work(struct walk *w, struct node *n, uint64_t what) {
    if (what < 9)
        sync_node(w->h, n->id);
    else if (what < 18)
        pump(w->h, n->id);
    else if (what < 26)
        read_node(w->h, n->id);
    else if (what < 30)
        tell(w, n);
    else if (what < 33)
        activate(w, n);
    else if (!below(w, 16))
        checkpoint(w->h, n->id);
}

/* Some of the nodes do the same. */
static void on_nodes(struct walk *w) {
    uint64_t what = below(w, 34);
    for (size_t i = 0; i < w->h->count; i++)
        if (w->h->nodes[i].alive && below(w, 3))
            work(w, &w->h->nodes[i], what);
}

static bool leads_now(const struct walk *w) {
    const struct node *n = &w->h->nodes[w->meta.leader - 1];
    return n->alive && replica_leading(n->r) && replica_epoch(n->r) == w->meta.epoch;
}

/* What the controllers do. In calm times they let a leader that leads be, and
 * come to an end where none does. */
static void control(struct walk *w, bool storm) {
    uint64_t what = below(w, 20);
    if (!storm && leads_now(w)) {
        w->orders_count = 0;
        w->attempts[0].open = w->attempts[1].open = false;
        if (what == 0 && !below(w, 4))
            feed_learner(w);
        else if (what == 1 && !below(w, 4))
            seal_begin(w, &w->attempts[0]); /* a planned move */
    } else if (what < 3) {
        if (!storm)
            w->orders_count = 0;
        seal_begin(w, &w->attempts[storm ? below(w, CONTROLLERS) : 0]);
    } else if (what < 13)
        seal_arrives(w);
    else {
        answers_arrive(w);
        seal_commit(w, &w->attempts[storm ? below(w, CONTROLLERS) : 0]);
    }
}

static void fault(struct walk *w, uint64_t what) {
    if (what < 4)
        crash_some(w);
    else if (what < 9)
        restart_some(w);
    else if (!below(w, 8))
        spoil_some(w);
}

/* Calm: mostly ordinary life; stormy: everything at once. */
static void step(struct walk *w, bool storm) {
    uint64_t what = below(w, storm ? 120 : 100);
    if (what < 40)
        message(w);
    else if (what < 75)
        on_nodes(w);
    else if (what < 86)
        propose_some(w);
    else if (what < 89)
        time_passes(w);
    else if (what < 99)
        control(w, storm);
    else if (what < 100)
        fault(w, below(w, 4) ? 5 : 0);
    else if (what < 115)
        control(w, storm);
    else
        fault(w, below(w, 10));
}

/* ---- healing ---- */

static void heal(struct walk *w) {
    while (w->h->messages_count)
        lose(w->h, 0);
    w->orders_count = 0;
    for (size_t i = 0; i < w->h->count; i++) {
        w->h->nodes[i].unreadable = 0;
        if (!w->h->nodes[i].alive)
            restart(w->h, i + 1);
    }
}

static void tell_all(struct walk *w) {
    for (size_t i = 0; i < w->h->count; i++)
        tell_record(w->h, i + 1, &w->meta);
    pass(w->h, 2 * USEC_S);
}

/* A controller that does its work: seals until a leader has everything. */
static bool one_round(struct walk *w) {
    tell_all(w);
    struct node *n = node_of(w->h, w->meta.leader);
    activate(w, n);
    tell_all(w);
    bool settled = leads_now(w) && !w->meta.activating && n->superseded <= w->meta.epoch;
    if (settled && replica_commit(n->r) == replica_last_index(n->r))
        return true;
    struct attempt *a = &w->attempts[0];
    struct replica_set all = members_of(&w->meta);
    *a = (struct attempt){
        .open = true, .version = w->meta.version, .base = w->meta, .epoch = w->meta.epoch + 1};
    for (size_t i = 0; i < w->h->count; i++)
        if (replica_promise(w->h->nodes[i].r) >= a->epoch)
            a->epoch = replica_promise(w->h->nodes[i].r) + 1;
    w->h->sealed_count = 0;
    for (uint32_t i = 0; i < all.count; i++)
        seal(w->h, all.members[i], a->epoch, 0);
    settle(w->h);
    for (size_t i = 0; i < w->h->sealed_count; i++)
        add_answer(a, &w->h->sealed[i]);
    seal_commit(w, a);
    return false;
}

static bool healthy(const struct walk *w) {
    return harmless(w, &w->meta.current, 0) && (!w->meta.activating || harmless(w, &w->meta.previous, 0));
}

static void everything_works_again(struct walk *w, uint64_t seed) {
    heal(w);
    for (int i = 0; i < 40; i++)
        if (one_round(w))
            break;
    if (!healthy(w))
        return; /* more was damaged than a majority can mend: an operator's case */
    cr_assert(leads_now(w), "seed %lu: nobody leads", seed);
    uint64_t before = w->h->committed;
    cr_assert_eq(propose(w->h, w->meta.leader, "last"), ERR_OK);
    pass(w->h, 10 * USEC_S);
    cr_assert_eq(w->h->committed, before + 1, "seed %lu: nothing commits", seed);
    for (uint32_t i = 0; i < w->meta.current.count; i++) {
        const struct node *n = node_of(w->h, w->meta.current.members[i]);
        cr_assert_eq(n->machine.applied, w->h->committed, "seed %lu: node %lu lags", seed, n->id);
        cr_assert_not(replica_damaged(n->r), "seed %lu: node %lu stays damaged", seed, n->id);
    }
}

static uint64_t number_from(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

/* What the walks have been through, to see that they go everywhere. */
static uint64_t totals[64], committed_total;

static void count_up(const struct harness *h) {
    committed_total += h->committed;
    for (size_t i = 0; i < h->count; i++)
        for (size_t t = 0; t < 64; t++)
            totals[t] += h->nodes[i].seen_ever[t];
}

static void walk(uint64_t seed) {
    struct walk w = {.rng = {.state = seed}};
    struct replica_options options = {.synced = true, .cache_bytes = below(&w, 3) ? 1 : 0};
    w.h = harness_new(3 + below(&w, 3), &options);
    uint64_t voters = 1 + 2 * below(&w, w.h->count == 5 ? 3 : 2);
    w.meta = (struct replica_record){.version = 1, .epoch = 1, .leader = 1};
    for (uint64_t i = 0; i < voters; i++)
        set_add(&w.meta.current, i + 1);
    for (size_t i = 0; i < w.h->count; i++)
        tell_record(w.h, i + 1, &w.meta);
    bool storm = false;
    for (int i = 0; i < STEPS; i++) {
        storm = i % 64 ? storm : below(&w, 3) == 0;
        step(&w, storm);
    }
    everything_works_again(&w, seed);
    count_up(w.h);
    harness_free(w.h);
}

Test(walk, nothing_committed_is_ever_lost, .timeout = 300) {
    uint64_t first = number_from("MAILROOM_WALK_FIRST", 1), seeds = number_from("MAILROOM_WALK_SEEDS", SEEDS);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        if (getenv("MAILROOM_WALK_TELL"))
            fprintf(stderr, "seed %lu\n", seed);
        walk(seed);
    }
    static const enum replica_effect_type each[] = {
        REPLICA_TRUNCATE,          REPLICA_INSTALLED,       REPLICA_UNSTAGE,          REPLICA_STOPPED,
        REPLICA_MARK_WHOLE,        REPLICA_FETCH,           REPLICA_REPORT_ACTIVATED, REPLICA_REPORT_CANNOT,
        REPLICA_REPORT_SUPERSEDED, REPLICA_REPORT_CAUGHT_UP};
    if (getenv("MAILROOM_WALK_TELL"))
        for (int t = 0; t <= REPLICA_REPORT_MENDED; t++)
            fprintf(stderr, "%-18s %8.2f a walk\n", replica_effect_name(t),
                    (double)totals[t] / (double)seeds);
    cr_assert_geq(committed_total, 10 * seeds);
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
        cr_assert_geq(totals[each[i]], seeds / 20, "%s hardly ever happens", replica_effect_name(each[i]));
}

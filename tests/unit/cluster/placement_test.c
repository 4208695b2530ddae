// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/xalloc.h"
#include "cluster/placement.h"
#include "fixture.h"

enum { SHARDS = 2 };

static struct placement_view view_of(const struct metadata *m, uint32_t dead, bool lost) {
    struct placement_view v = {.seed = 7, .count = metadata_nodes_count(m)};
    v.nodes = xcalloc(v.count, sizeof *v.nodes);
    for (size_t i = 0; i < v.count; i++) {
        const struct metadata_node *n = metadata_node_at(m, i);
        v.nodes[i].id = n->id;
        v.nodes[i].usable = n->id != dead && n->state == NODE_ALIVE;
        v.nodes[i].lost = (n->id == dead && lost) || n->state != NODE_ALIVE;
        v.nodes[i].shards_count = n->info.shards_count;
        strcpy(v.nodes[i].zone, n->info.zone);
        for (uint32_t s = 0; s < n->info.shards_count; s++) {
            v.nodes[i].shards[s] = n->info.shards[s];
            v.nodes[i].shard_up[s] = n->id != dead;
        }
    }
    placement_view_fill(&v, m);
    return v;
}

static struct metadata *cluster_of(unsigned nodes, unsigned mailboxes, uint32_t replicas) {
    struct metadata *m = metadata_new();
    fixture_form(m, nodes, SHARDS);
    struct placement_view v = view_of(m, 0, false);
    for (unsigned i = 0; i < mailboxes; i++) {
        struct placing p;
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        cr_assert_eq(placement_new(&v, 1, replicas, &p), ERR_OK);
        cr_assert_eq(fixture_create(m, name, NULL, &p, 1).code, ERR_OK);
    }
    free(v.nodes);
    return m;
}

struct counts {
    uint32_t leaders_min, leaders_max, replicas_min, replicas_max;
};

static struct counts counts_of(const struct metadata *m, uint32_t without) {
    struct placement_view v = view_of(m, without, false);
    struct counts c = {UINT32_MAX, 0, UINT32_MAX, 0};
    for (size_t i = 0; i < v.count; i++) {
        const struct placement_node *n = &v.nodes[i];
        if (!n->usable)
            continue;
        c.leaders_min = n->leaders < c.leaders_min ? n->leaders : c.leaders_min;
        c.leaders_max = n->leaders > c.leaders_max ? n->leaders : c.leaders_max;
        c.replicas_min = n->replicas < c.replicas_min ? n->replicas : c.replicas_min;
        c.replicas_max = n->replicas > c.replicas_max ? n->replicas : c.replicas_max;
    }
    free(v.nodes);
    return c;
}

static bool may_all(void *ctx, const struct metadata_partition *p) {
    return true;
}

/* Carry a step out as if everything went well. */
static void take(struct metadata *m, const struct placement_step *s) {
    const struct metadata_partition *p = metadata_partition(m, s->partition);
    struct record_change c = {
        .partition = p->id, .base_version = p->record.version, .record = p->record, .lossy = true};
    c.record.epoch++;
    if (s->type == PLACEMENT_LEAD) {
        cr_assert(replica_set_has(&p->record.current, s->to));
        c.record.leader = s->to;
    } else {
        c.record.current = s->set;
        if (!replica_set_has(&s->set, c.record.leader))
            c.record.leader = s->set.members[0];
    }
    struct command command = {.type = COMMAND_RECORDS, .records = {.count = 1, .changes = &c}};
    cr_assert_eq(fixture_apply(m, &command, NULL).code, ERR_OK);
}

/* Plans until there is nothing to do; returns the steps taken. */
static unsigned settle(struct metadata *m, uint32_t dead, bool lost) {
    unsigned taken = 0;
    for (int round = 0; round < 1000; round++) {
        struct placement_view v = view_of(m, dead, lost);
        struct placement_step steps[8];
        size_t n = placement_plan(&v, m, may_all, NULL, steps, 8);
        free(v.nodes);
        if (n == 0)
            return taken;
        for (size_t i = 0; i < n; i++)
            take(m, &steps[i]);
        taken += (unsigned)n;
    }
    cr_assert_fail("the plan never ends");
    return taken;
}

static void expect_sets_sound(const struct metadata *m, uint32_t size) {
    for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
         p = metadata_partition_next(m, p->id)) {
        uint32_t nodes[REPLICA_SET_MAX];
        cr_assert_eq(p->record.current.count, size);
        for (uint32_t i = 0; i < size; i++) {
            nodes[i] = metadata_node_of(m, p->record.current.members[i], &(int){0})->id;
            for (uint32_t j = 0; j < i; j++)
                cr_assert_neq(nodes[i], nodes[j], "two replicas on one node");
        }
    }
}

Test(placement, sixty_mailboxes_on_three_nodes_are_even) {
    struct metadata *m = cluster_of(3, 60, 3);
    struct counts c = counts_of(m, 0);
    cr_expect_eq(c.leaders_min, 20);
    cr_expect_eq(c.leaders_max, 20);
    cr_expect_eq(c.replicas_min, 60);
    expect_sets_sound(m, 3);
    cr_expect_eq(settle(m, 0, false), 0, "nothing to even out");
    metadata_free(m);
}

Test(placement, even_over_five_nodes_and_over_the_shards_of_a_node) {
    struct metadata *m = cluster_of(5, 50, 3);
    struct counts c = counts_of(m, 0);
    cr_expect_leq(c.leaders_max - c.leaders_min, placement_slack(50, 5));
    cr_expect_leq(c.replicas_max - c.replicas_min, placement_slack(150, 5));
    struct placement_view v = view_of(m, 0, false);
    for (size_t i = 0; i < v.count; i++)
        cr_expect_leq(abs((int)v.nodes[i].shard_replicas[0] - (int)v.nodes[i].shard_replicas[1]), 1);
    free(v.nodes);
    metadata_free(m);
}

/* Leaders of n1 go to the least loaded survivor each; then n1 comes back. */
static void fail_over(struct metadata *m, uint32_t dead) {
    struct placement_view v = view_of(m, dead, false);
    for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
         p = metadata_partition_next(m, p->id)) {
        if (metadata_node_of(m, p->record.leader, &(int){0})->id != dead)
            continue;
        struct placement_step s = {.type = PLACEMENT_LEAD, .partition = p->id};
        uint32_t least = UINT32_MAX;
        for (uint32_t i = 0; i < p->record.current.count; i++) {
            uint32_t id = metadata_node_of(m, p->record.current.members[i], &(int){0})->id;
            if (id != dead && v.nodes[id - 1].leaders < least) {
                least = v.nodes[id - 1].leaders;
                s.to = p->record.current.members[i];
            }
        }
        placement_count_leader(&v, m, s.to, 1);
        take(m, &s);
    }
    free(v.nodes);
}

Test(placement, a_node_dies_and_returns_and_its_share_of_leaders_comes_back) {
    struct metadata *m = cluster_of(3, 60, 3);
    fail_over(m, 1);
    cr_expect_eq(settle(m, 1, false), 0,
                 "two nodes of thirty each are even; nothing is rebuilt in the grace");
    unsigned moves = settle(m, 0, false);
    struct counts c = counts_of(m, 0);
    cr_expect_leq(c.leaders_max - c.leaders_min, placement_slack(60, 3));
    cr_expect_leq(moves, 20, "no more than its share: %u", moves);
    cr_expect_geq(moves, 18);
    expect_sets_sound(m, 3);
    metadata_free(m);
}

Test(placement, with_three_nodes_a_dead_one_cannot_be_replaced_and_no_set_shrinks) {
    struct metadata *m = cluster_of(3, 10, 3);
    fail_over(m, 2);
    cr_expect_eq(settle(m, 2, true), 0);
    expect_sets_sound(m, 3);
    metadata_free(m);
}

Test(placement, a_dead_node_is_rebuilt_on_the_others_evenly) {
    struct metadata *m = cluster_of(5, 50, 3);
    struct counts before = counts_of(m, 0);
    fail_over(m, 3);
    unsigned steps = settle(m, 3, true);
    struct counts c = counts_of(m, 3);
    cr_expect_leq(c.replicas_max - c.replicas_min, placement_slack(150, 4));
    cr_expect_leq(c.leaders_max - c.leaders_min, placement_slack(50, 4));
    cr_expect_leq(steps, before.replicas_max + 15, "one a lost replica, and some leaders: %u", steps);
    expect_sets_sound(m, 3);
    metadata_free(m);
}

Test(placement, a_fourth_node_takes_its_share_with_few_moves) {
    struct metadata *m = cluster_of(3, 60, 3);
    fixture_node_set(m, 4, SHARDS);
    unsigned steps = settle(m, 0, false);
    struct counts c = counts_of(m, 0);
    cr_expect_leq(c.replicas_max - c.replicas_min, placement_slack(180, 4));
    cr_expect_leq(c.leaders_max - c.leaders_min, placement_slack(60, 4));
    cr_expect_leq(steps, 45 + 20, "45 replicas and 15 leaders are its share: %u", steps);
    expect_sets_sound(m, 3);
    metadata_free(m);
}

Test(placement, sets_grow_when_the_cluster_reaches_three_nodes) {
    struct metadata *m = metadata_new();
    fixture_form(m, 1, SHARDS);
    const unsigned one[] = {1};
    struct placing p = fixture_placing(1, one);
    fixture_create(m, "orders", NULL, &p, 1);
    fixture_node_set(m, 2, SHARDS);
    cr_expect_eq(settle(m, 0, false), 0);
    fixture_node_set(m, 3, SHARDS);
    settle(m, 0, false);
    expect_sets_sound(m, 3);
    metadata_free(m);
}

Test(placement, replicas_spread_over_zones) {
    struct metadata *m = metadata_new();
    fixture_form(m, 6, 1);
    for (unsigned i = 1; i <= 6; i++) {
        struct command c = {.type = COMMAND_NODE_SET, .node = fixture_node(i, 1)};
        strcpy(c.node.zone, i <= 2 ? "a" : i <= 4 ? "b" : "c");
        fixture_apply(m, &c, NULL);
    }
    struct placement_view v = view_of(m, 0, false);
    for (int i = 0; i < 30; i++) {
        struct placing p;
        char zones[4] = "";
        placement_new(&v, 1, 3, &p);
        for (uint32_t k = 0; k < p.set.count; k++)
            zones[k] = metadata_node_of(m, p.set.members[k], &(int){0})->info.zone[0];
        cr_expect(strchr(zones, 'a') && strchr(zones, 'b') && strchr(zones, 'c'), "%s", zones);
    }
    free(v.nodes);
    metadata_free(m);
}

/* Whatever the start: the plan ends, stays bounded, and what it leaves is even. */
Test(placement, random_clusters_settle) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct rng r = {seed};
        unsigned nodes = 3 + (unsigned)rng_below(&r, 6), mailboxes = 1 + (unsigned)rng_below(&r, 80);
        struct metadata *m = cluster_of(nodes, mailboxes, 3);
        for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
             p = metadata_partition_next(m, p->id)) {
            struct placement_step s = {.type = PLACEMENT_LEAD, .partition = p->id};
            s.to = p->record.current.members[rng_below(&r, p->record.current.count)];
            take(m, &s);
        }
        unsigned more = (unsigned)rng_below(&r, 3);
        for (unsigned i = 0; i < more; i++)
            fixture_node_set(m, nodes + i + 1, SHARDS);
        unsigned steps = settle(m, 0, false);
        struct counts c = counts_of(m, 0);
        size_t all = nodes + more;
        cr_assert_leq(c.replicas_max - c.replicas_min, placement_slack(mailboxes * 3, all), "seed %llu",
                      (unsigned long long)seed);
        cr_assert_leq(c.leaders_max - c.leaders_min, placement_slack(mailboxes, all), "seed %llu",
                      (unsigned long long)seed);
        cr_assert_leq(steps, 4 * mailboxes + 8, "seed %llu", (unsigned long long)seed);
        metadata_free(m);
    }
}

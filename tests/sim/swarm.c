// SPDX-License-Identifier: Apache-2.0
/*
 * What a seed plays with. Swarm testing (Groce et al. 2012): each draws which
 * faults are on and how often they come, so that rare combinations get their seeds
 * too. Most worlds are small, short and dense in faults, since most that can go
 * wrong goes wrong between few; some are big and long.
 */
#include <string.h>

#include "sim.h"

enum {
    BIG_OF_10000 = 200,      /* seeds that are bigger and longer */
    LIKELY = 7000,           /* a kind of fault in a seed of its theme, of 10000 */
    SELDOM_DIVISOR = 3,      /* in a seed of another theme: that much seldomer on */
    DIRECTED_OF_10000 = 200, /* seeds that follow a script */
    SMALL_PACE = 6,          /* small worlds: that much more often */
    THEMED_PACE = 2          /* kinds of the theme: once more that much */
};

#define IN(name) (1u << THEME_##name)

struct kind {
    enum sim_count what;
    unsigned of_10000; /* mixed worlds where it is on */
    usec_t low, high;  /* mean time between two, in a big world */
    unsigned themes;   /* that are about it */
};

static const struct kind kinds[] = {
    {FAULT_kill_shard, 4500, USEC_S, 20 * USEC_S,
     IN(processes) | IN(disks) | IN(segments) | IN(leaders) | IN(sets) | IN(damage)},
    {FAULT_kill_controller, 4000, USEC_S, 20 * USEC_S, IN(processes) | IN(elections)},
    {FAULT_kill_gateway, 3000, 2 * USEC_S, 20 * USEC_S, IN(processes) | IN(clients) | IN(leases)},
    {FAULT_kill_node, 3000, 2 * USEC_S, 20 * USEC_S, IN(processes)},
    {FAULT_power_off, 3500, 2 * USEC_S, 20 * USEC_S, IN(processes) | IN(members) | IN(leaders) | IN(damage)},
    {FAULT_freeze, 3500, USEC_S, 20 * USEC_S, IN(clocks) | IN(elections)},
    {FAULT_link_reset, 3500, 100 * USEC_MS, 10 * USEC_S, IN(network)},
    {FAULT_cut_one_way, 3000, USEC_S, 20 * USEC_S, IN(network) | IN(elections)},
    {FAULT_cut_both, 3000, USEC_S, 20 * USEC_S, IN(network) | IN(elections) | IN(segments)},
    {FAULT_cut_shards, 1500, USEC_S, 20 * USEC_S, IN(leaders) | IN(sets) | IN(damage)},
    {FAULT_cut_orders, 1500, 2 * USEC_S, 20 * USEC_S, IN(leaders) | IN(sets)},
    {FAULT_cut_clients, 1500, 2 * USEC_S, 20 * USEC_S, IN(leaders) | IN(clients)},
    {FAULT_island, 1000, 4 * USEC_S, 12 * USEC_S, IN(leases)},
    {FAULT_kill_leader, 1500, USEC_S, 20 * USEC_S, IN(members) | IN(leaders) | IN(sets) | IN(damage)},
    {FAULT_isolate, 2500, 2 * USEC_S, 20 * USEC_S, IN(elections) | IN(segments) | IN(leaders)},
    {FAULT_flap, 2000, 3 * USEC_S, 20 * USEC_S, IN(network)},
    {FAULT_slow_disk, 3000, USEC_S, USEC_S, IN(disks)},
    {FAULT_disk_error, 1500, 3 * USEC_S, 20 * USEC_S, IN(disks)},
    {FAULT_disk_full, 1000, 4 * USEC_S, 20 * USEC_S, IN(disks) | IN(segments)},
    {FAULT_bit_flip, 1500, 2 * USEC_S, 10 * USEC_S, IN(disks) | IN(damage)},
    {FAULT_wipe, 1500, 5 * USEC_S, 20 * USEC_S, IN(disks) | IN(members)},
    {FAULT_clock_jump, 2500, USEC_S, 20 * USEC_S, IN(clocks)},
    {FAULT_consumer_death, 4000, 500 * USEC_MS, 10 * USEC_S, IN(clients) | IN(leases)},
    {FAULT_drain, 2000, 3 * USEC_S, 20 * USEC_S, IN(members) | IN(sets)},
    {FAULT_forming_death, 1000, USEC_S, USEC_S, IN(members) | IN(processes)},
    {FAULT_join, 1000, 4 * USEC_S, 10 * USEC_S, IN(members)},
    {FAULT_remove, 1000, 3 * USEC_S, 10 * USEC_S, IN(members)},
    {FAULT_suspend, 300, 10 * USEC_S, 20 * USEC_S, IN(clocks)},
    {FAULT_mailbox_delete, 1500, 4 * USEC_S, 20 * USEC_S, IN(mailboxes)},
    {FAULT_mailbox_update, 2000, 2 * USEC_S, 10 * USEC_S, IN(mailboxes)},
    {FAULT_purge, 1500, 2 * USEC_S, 10 * USEC_S, IN(mailboxes)},
    {FAULT_subscribe, 2000, 2 * USEC_S, 6 * USEC_S, IN(mailboxes)},
    {FAULT_unsubscribe, 5000, 2 * USEC_S, 10 * USEC_S, IN(mailboxes)},
};

static const char *const themes[] = {
#define X(name) #name,
    SIM_THEMES(X)
#undef X
};

static int forced = -1; /* theme of every seed; -1: drawn */

bool swarm_force(const char *theme) {
    for (int i = 0; i < THEMES; i++)
        if (strcmp(theme, themes[i]) == 0)
            forced = i;
    return forced >= 0;
}

const char *swarm_theme(const struct sim *s) {
    return themes[s->swarm.theme];
}

static usec_t between(struct sim *s, usec_t low, usec_t high) {
    return sim_between(&s->rng, low, high);
}

usec_t swarm_rate(struct sim *s, usec_t low, usec_t high) {
    /* the logarithm is even: often and seldom get the same share */
    usec_t at = low;
    while (at * 2 < high && sim_chance(&s->rng, 6500))
        at *= 2;
    return at + (usec_t)rng_below(&s->rng, (uint64_t)at);
}

static void draw_rates(struct sim *s) {
    struct swarm *w = &s->swarm;
    bool any = w->theme == THEME_mixed || w->theme == THEME_big;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct kind *k = &kinds[i];
        bool themed = k->themes & 1u << w->theme;
        unsigned chance = any ? k->of_10000 : themed ? LIKELY : k->of_10000 / SELDOM_DIVISOR;
        usec_t pace = (w->theme == THEME_big ? 1 : SMALL_PACE) * (themed ? THEMED_PACE : 1);
        if (sim_chance(&s->rng, chance))
            w->mean[k->what] = swarm_rate(s, k->low / pace, k->high / pace);
    }
    if (s->nodes_count < 4) /* three stay, and form */
        w->mean[FAULT_join] = w->mean[FAULT_remove] = 0;
    if (w->theme ==
        THEME_leases) { /* a leader delivers only to who comes anew: what is settled is not answered */
        w->mean[FAULT_consumer_death] = between(s, 30 * USEC_MS, 150 * USEC_MS);
        w->mean[FAULT_island] = between(s, 500 * USEC_MS, 2 * USEC_S);
        w->busy += 2 * USEC_S;
    }
    if (w->mean[FAULT_bit_flip] || w->mean[FAULT_wipe])
        w->victim = (int)rng_below(&s->rng, (uint64_t)s->nodes_count);
    if (w->victim >= 0 && s->nodes_count < 4) /* a drain leaves sets of two: one harmed disk is too many */
        w->mean[FAULT_drain] = 0;
    w->clocks_differ = sim_chance(&s->rng, 7000);
    if (sim_chance(&s->rng, w->theme == THEME_network || w->theme == THEME_leaders ? LIKELY : 2000)) {
        w->lost = (unsigned)rng_below(&s->rng, 300);
        w->twice = (unsigned)rng_below(&s->rng, 300);
        w->late = (unsigned)rng_below(&s->rng, 300);
    }
}

/* Of the network and the disks. */
static void draw_speed(struct sim *s) {
    struct swarm *w = &s->swarm;
    w->delay_min = between(s, 30, 500);
    w->delay_max = w->delay_min + between(s, 50, 3000);
    w->slow_percent = sim_chance(&s->rng, 3000) ? 1 + (unsigned)rng_below(&s->rng, 5) : 0;
    w->slow_max = between(s, 5 * USEC_MS, 300 * USEC_MS);
    w->sync_min = between(s, 50, 500);
    w->sync_max = w->sync_min + between(s, 100, 8000);
    if ((w->theme == THEME_leaders || w->theme == THEME_sets) && sim_chance(&s->rng, 4000)) /* much is lost */
        w->sync_max += between(s, 20 * USEC_MS, 200 * USEC_MS);
}

static void draw_small(struct sim *s) {
    struct swarm *w = &s->swarm;
    bool more = w->theme == THEME_members || w->theme == THEME_sets || sim_chance(&s->rng, 1500);
    s->nodes_count = 3 + (more ? (int)rng_below(&s->rng, 3) : 0);
    s->shards_per_node = sim_chance(&s->rng, 1500) ? 2 : 1;
    s->rebuild_grace = between(s, 300 * USEC_MS, 2 * USEC_S);
    w->busy = swarm_rate(s, 1500 * USEC_MS, 6 * USEC_S);
    w->outage_max = between(s, 800 * USEC_MS, 3 * USEC_S);
    w->cool = between(s, 300 * USEC_MS, 2 * USEC_S);
    w->settle = between(s, 200 * USEC_MS, USEC_S);
    w->boxes_max = 2;
    w->partitions_max = 2;
    w->publishers_more = 1;
    w->publish_min = 15 * USEC_MS;
    w->publish_max = 120 * USEC_MS;
    if (w->theme == THEME_leaders || w->theme == THEME_sets || w->theme == THEME_leases) {
        w->boxes_max = 1;
        w->publish_min = 8 * USEC_MS;
        w->publish_max = 40 * USEC_MS;
    }
}

void swarm_big(struct swarm *w) {
    w->theme = THEME_big;
    w->outage_max = 8 * USEC_S;
    w->boxes_max = 4;
    w->partitions_max = 4;
    w->publishers_more = 3;
    w->publish_min = 4 * USEC_MS;
    w->publish_max = 80 * USEC_MS;
    w->large = 500;
}

static void draw_big(struct sim *s) {
    struct swarm *w = &s->swarm;
    swarm_big(w);
    s->nodes_count = 3 + (int)rng_below(&s->rng, 3);
    s->shards_per_node = 1 + (int)rng_below(&s->rng, SIM_SHARDS_MAX);
    s->rebuild_grace = between(s, 2 * USEC_S, 10 * USEC_S);
    w->busy = between(s, 8 * USEC_S, 30 * USEC_S);
}

/* One partition of three copies, much published, and no faults but the script's. */
static void draw_directed(struct sim *s) {
    struct swarm *w = &s->swarm;
    s->nodes_count = w->theme == THEME_two_sets ? 4 : 3;
    s->shards_per_node = 1;
    s->rebuild_grace = 10 * USEC_S;
    w->busy = between(s, 4 * USEC_S, 6 * USEC_S);
    w->boxes_max = w->partitions_max = 1;
    w->publishers_more = 1;
    w->publish_min = 2 * USEC_MS;
    w->publish_max = 15 * USEC_MS;
    w->append_entries = 1;
    if (w->theme == THEME_late_fence) { /* there is always something to deliver */
        w->publish_min = USEC_MS;
        w->publish_max = 4 * USEC_MS;
        w->mean[FAULT_consumer_death] = between(s, 20 * USEC_MS, 100 * USEC_MS);
    }
}

/* Seldom, and by the seed alone: the others' draws stay as they are. */
static bool directed(const struct sim *s) {
    struct rng own = {s->seed ^ 0x9E6C63D0876A9A47u};
    return sim_chance(&own, DIRECTED_OF_10000);
}

void swarm_draw(struct sim *s) {
    struct swarm *w = &s->swarm;
    *w = (struct swarm){.victim = -1};
    w->theme = sim_chance(&s->rng, BIG_OF_10000) ? THEME_big : (enum theme)rng_below(&s->rng, THEME_big);
    if (directed(s))
        w->theme = (enum theme)(THEME_big + 1 + rng_below(&s->rng, THEMES - THEME_big - 1));
    if (forced >= 0)
        w->theme = (enum theme)forced;
    if (w->theme == THEME_big)
        draw_big(s);
    else
        draw_small(s);
    s->segment_bytes =
        32768u << rng_below(&s->rng, w->theme == THEME_segments || w->theme == THEME_damage ? 1 : 4);
    s->failure_timeout = 600 * USEC_MS;
    w->large = w->theme == THEME_segments ? 5000 : 500;
    if (w->theme == THEME_leaders || sim_chance(&s->rng, 1000))
        w->append_entries = 1 + rng_below(&s->rng, 3);
    draw_speed(s);
    if (w->theme > THEME_big)
        draw_directed(s);
    else
        draw_rates(s);
}

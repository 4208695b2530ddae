// SPDX-License-Identifier: Apache-2.0
/* The faults, each at the rate that swarm.c has drawn, and how they are healed. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "clients.h"
#include "controller.h"
#include "scripts.h"

enum {
    SUSPEND_LULL_US = 100000,
    DRAIN_SLOW_US = 10000000, /* so late a drain may still be committed */
    BRIEF_OF_10000 = 4000,    /* leaders that die soon, in worlds about leaders */
    BRIEF_US_MAX = 10000,     /* and four syncs */
    ROOM_LOOKS = 400,
    ROOM_LOOK_US = 500
};

static struct rng *dice(struct sim *s) {
    return &s->rng;
}

/* ---- each kind ---- */

static struct process *some_process(struct sim *s, enum process_kind kind) {
    int node = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    if (kind == PROCESS_SHARD)
        return sim_shard(s, node, (int)rng_below(dice(s), (uint64_t)s->shards_per_node));
    return kind == PROCESS_CONTROLLER ? sim_controller(s, node) : sim_gateway(s, node);
}

static void kill_some(struct sim *s, enum process_kind kind) {
    process_kill(some_process(s, kind), "killed");
}

static void do_kill_shard(struct sim *s) {
    kill_some(s, PROCESS_SHARD);
}
static void do_kill_controller(struct sim *s) {
    struct process *leading = sim_leading_controller(s);
    if (leading && sim_chance(dice(s), 5000))
        process_kill(leading, "killed");
    else
        kill_some(s, PROCESS_CONTROLLER);
}
static void do_kill_gateway(struct sim *s) {
    kill_some(s, PROCESS_GATEWAY);
}
static void do_kill_node(struct sim *s) {
    node_kill(s, (int)rng_below(dice(s), (uint64_t)s->nodes_count));
}
/* Only when a majority goes at once may those lose something. */
static bool written(const struct sim *s) {
    for (int i = 0; i < s->clients->boxes_count; i++)
        if (s->clients->boxes[i].settings.durability == DURABILITY_WRITTEN)
            return true;
    return false;
}

static bool many_sync(const struct sim *s) {
    int shards = 0, syncing = 0;
    for (int i = 0; i < s->processes_count; i++) {
        shards += s->processes[i].kind == PROCESS_SHARD && s->processes[i].up;
        syncing += s->processes[i].kind == PROCESS_SHARD && s->processes[i].up && s->processes[i].syncing;
    }
    return syncing * 2 > shards;
}

/* The whole room; where something is written only, rather while most write. */
static void on_room(struct sim *s, struct event *e) {
    if (s->calm)
        return;
    if (e->a && !many_sync(s)) {
        sim_at(s, s->now + ROOM_LOOK_US, on_room)->a = e->a - 1;
        return;
    }
    for (int i = 0; i < s->nodes_count; i++)
        node_power_off(s, i, sim_between(dice(s), 100 * USEC_MS, s->swarm.outage_max / 2));
}

static void do_power_off(struct sim *s) {
    bool more = written(s);
    if (sim_chance(dice(s), more ? 5000 : 500)) {
        sim_at(s, s->now, on_room)->a = more ? ROOM_LOOKS : 0;
        return;
    }
    node_power_off(s, (int)rng_below(dice(s), (uint64_t)s->nodes_count),
                   sim_between(dice(s), 100 * USEC_MS, s->swarm.outage_max));
}

static void do_freeze(struct sim *s) {
    struct process *p = &s->processes[rng_below(dice(s), (uint64_t)s->processes_count)];
    process_freeze(p, swarm_rate(s, 10 * USEC_MS, s->swarm.outage_max / 2));
}
static void do_link_reset(struct sim *s) {
    struct process *a = &s->processes[rng_below(dice(s), (uint64_t)s->processes_count)];
    struct process *b = &s->processes[rng_below(dice(s), (uint64_t)s->processes_count)];
    if (a != b)
        network_reset(s, a, b);
}

static const char *const cut_names[] = {"links", "links of the shards", "links of controllers and shards",
                                        "links of gateways"};

static void on_heal(struct sim *s, struct event *e) {
    int from = (int)(e->a & 0xffff), what = (int)(e->a >> 16);
    sim_trace(s, "the %s %s -> %s are good again", cut_names[what], s->nodes[from].name, s->nodes[e->b].name);
    network_cut(s, (enum sim_cut)what, from, (int)e->b, false);
}

static void cut_some(struct sim *s, enum sim_cut what, int from, int to, usec_t how_long) {
    if (from == to || s->cut[what][from][to])
        return;
    sim_trace(s, "the %s %s -> %s are cut for %lld ms", cut_names[what], s->nodes[from].name,
              s->nodes[to].name, (long long)(how_long / USEC_MS));
    network_cut(s, what, from, to, true);
    struct event *e = sim_at(s, s->now + how_long, on_heal);
    e->a = (uint64_t)from | (uint64_t)what << 16;
    e->b = (uint64_t)to;
}

static void cut(struct sim *s, int from, int to, usec_t how_long) {
    cut_some(s, CUT_ALL, from, to, how_long);
}

static usec_t cut_time(struct sim *s) {
    return swarm_rate(s, 50 * USEC_MS, s->swarm.outage_max);
}

static void do_cut_one_way(struct sim *s) {
    cut(s, (int)rng_below(dice(s), (uint64_t)s->nodes_count),
        (int)rng_below(dice(s), (uint64_t)s->nodes_count), cut_time(s));
}
static void do_cut_both(struct sim *s) {
    int a = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    int b = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    usec_t how_long = cut_time(s);
    cut(s, a, b, how_long);
    cut(s, b, a, how_long);
}
static void do_isolate(struct sim *s) {
    int a = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    usec_t how_long = cut_time(s);
    for (int b = 0; b < s->nodes_count; b++) {
        cut(s, a, b, how_long);
        cut(s, b, a, how_long);
    }
}

static void cut_both_ways(struct sim *s, enum sim_cut what, int a, int b, usec_t how_long) {
    if (how_long) {
        cut_some(s, what, a, b, how_long);
        cut_some(s, what, b, a, how_long);
    }
}

/* One way or both, to one node or to all. */
static void cut_kind(struct sim *s, enum sim_cut what) {
    int a = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    int only = sim_chance(dice(s), 5000) ? (int)rng_below(dice(s), (uint64_t)s->nodes_count) : -1;
    bool out = sim_chance(dice(s), 8000), in = !out || sim_chance(dice(s), 7000);
    usec_t how_long = swarm_rate(s, 10 * USEC_MS, s->swarm.outage_max);
    for (int b = 0; b < s->nodes_count; b++) {
        if (only >= 0 && b != only)
            continue;
        if (out)
            cut_some(s, what, a, b, how_long);
        if (in)
            cut_some(s, what, b, a, how_long);
    }
}
static void do_cut_shards(struct sim *s) {
    cut_kind(s, CUT_SHARDS);
}
static void do_cut_orders(struct sim *s) {
    cut_kind(s, CUT_ORDERS);
}

static void do_cut_clients(struct sim *s) {
    cut_kind(s, CUT_CLIENTS);
}

static bool leads_any(struct process *p) {
    for (uint64_t id = 1; id <= p->sim->partitions_max; id++) {
        struct partition *at = shard_partition(p, id);
        if (at && replica_leading(at->replica))
            return true;
    }
    return false;
}
static void do_kill_leader(struct sim *s) {
    int first = (int)rng_below(dice(s), (uint64_t)s->processes_count);
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[(first + i) % s->processes_count];
        if (p->kind == PROCESS_SHARD && p->up && leads_any(p)) {
            process_kill(p, "killed");
            return;
        }
    }
}

/* A leader that controllers and most gateways no longer reach, nor some of the other
 * shards; those come back one by one. */
static void do_island(struct sim *s) {
    int first = (int)rng_below(dice(s), (uint64_t)s->processes_count);
    usec_t longer = sim_between(dice(s), USEC_S, 2 * USEC_S + s->swarm.outage_max);
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[(first + i) % s->processes_count];
        if (p->kind != PROCESS_SHARD || !p->up || !leads_any(p))
            continue;
        for (int b = 0; b < s->nodes_count; b++) {
            usec_t alone = sim_chance(dice(s), 7000) ? sim_between(dice(s), 500 * USEC_MS, longer) : 0;
            cut_both_ways(s, CUT_SHARDS, p->node, b, alone);
            cut_both_ways(s, CUT_ORDERS, p->node, b, longer);
            cut_both_ways(s, CUT_CLIENTS, p->node, b, longer);
        }
        return;
    }
}

/* Short leaderships (Raft's figure 8): some leaders die while their first entries are
 * under way. */
static void on_brief(struct sim *s, struct event *e) {
    if (s->calm)
        return;
    sim_count(s, FAULT_kill_leader);
    process_kill(e->process, "killed soon after it began to lead");
}

void faults_new_leader(struct process *p) {
    struct sim *s = p->sim;
    if (!s->calm && s->swarm.theme == THEME_leaders && sim_chance(dice(s), BRIEF_OF_10000))
        sim_at_process(p, s->now + sim_between(dice(s), 0, BRIEF_US_MAX + 4 * s->swarm.sync_max), on_brief);
}

static void on_flap(struct sim *s, struct event *e) {
    int a = (int)(e->a & 0xff), b = (int)(e->a >> 8);
    if (s->calm)
        return;
    usec_t how_long = sim_between(dice(s), 50 * USEC_MS, 500 * USEC_MS);
    cut(s, a, b, how_long);
    cut(s, b, a, how_long);
    if (e->b == 0)
        return;
    struct event *next =
        sim_at(s, s->now + how_long + sim_between(dice(s), 10 * USEC_MS, 500 * USEC_MS), on_flap);
    next->a = e->a;
    next->b = e->b - 1;
}

static void do_flap(struct sim *s) {
    uint64_t a = rng_below(dice(s), (uint64_t)s->nodes_count);
    struct event *e = sim_at(s, s->now, on_flap);
    e->a = a | (a + 1) % (uint64_t)s->nodes_count << 8;
    e->b = 8;
}

static void do_disk_error(struct sim *s) {
    struct process *p = some_process(s, sim_chance(dice(s), 7000) ? PROCESS_SHARD : PROCESS_CONTROLLER);
    if (p->up)
        mem_disk_fail_after(p->disk, (int)sim_between(dice(s), 1, 10));
}

static void on_space(struct sim *s, struct event *e) {
    struct process *p = e->ptr;
    sim_trace(s, "%s has space again", p->name);
    mem_disk_limit(p->disk, UINT64_MAX / 2);
}

static void do_disk_full(struct sim *s) {
    struct process *p = some_process(s, PROCESS_SHARD);
    uint64_t room = (uint64_t)sim_between(dice(s), 0, 8) * s->segment_bytes;
    sim_trace(s, "%s has %llu bytes of disk left", p->name, (unsigned long long)room);
    mem_disk_limit(p->disk, mem_disk_used(p->disk) + room);
    sim_at(s, s->now + swarm_rate(s, s->swarm.outage_max / 8, s->swarm.outage_max), on_space)->ptr = p;
}

static void do_clock_jump(struct sim *s) {
    struct node *n = &s->nodes[rng_below(dice(s), (uint64_t)s->nodes_count)];
    usec_t by = swarm_rate(s, USEC_MS, 3600 * USEC_S) * (sim_chance(dice(s), 5000) ? 1 : -1);
    sim_trace(s, "%s wall clock jumps by %lld ms", n->name, (long long)(by / USEC_MS));
    n->wall_offset += by;
}

/* Sets are smaller while nodes are drained or gone: what is lost with a disk must
 * leave a majority of each, or nobody could go on without an operator. */
static bool majority_without(struct sim *s, const struct replica_set *set, int node) {
    uint32_t others = 0;
    for (uint32_t i = 0; i < set->count; i++)
        for (int k = 0; k < s->processes_count; k++)
            others += s->processes[k].kind == PROCESS_SHARD && s->processes[k].node != node &&
                      s->processes[k].self == set->members[i];
    return others * 2 > set->count;
}

static bool may_harm(struct sim *s, int node) {
    if (checker_voters(s) < 3) /* while the group grows: of two none can be spared */
        return false;
    struct process *c = sim_leading_controller(s);
    const struct metadata_partition *p = NULL;
    if (!c)
        return false;
    const struct metadata *m = controller_metadata(c);
    while ((p = metadata_partition_next(m, p ? p->id : 0)))
        if (!majority_without(s, &p->record.current, node) ||
            (p->record.activating && !majority_without(s, &p->record.previous, node)))
            return false;
    return true;
}

static void do_bit_flip(struct sim *s) {
    if (!may_harm(s, s->swarm.victim))
        return;
    struct process *p =
        sim_chance(dice(s), 7500)
            ? sim_shard(s, s->swarm.victim, (int)rng_below(dice(s), (uint64_t)s->shards_per_node))
            : sim_controller(s, s->swarm.victim);
    if (!flips_one(p))
        return;
    sim_count(s, FAULT_bit_flip);
    if (s->swarm.theme == THEME_damage && sim_chance(dice(s), 5000))
        process_kill(p, "killed, to find it");
}

/* While the cluster forms, its data is on one disk; and a mailbox that is being made
 * may have its one copy there. */
static bool formed_well(struct sim *s) {
    struct process *p = sim_leading_controller(s);
    const struct replica *r = p ? p->controller->core.replica : NULL;
    return r && replica_voters(r)->count >= 3 && replica_last_index(r) == replica_applied(r);
}

static void do_wipe(struct sim *s) {
    if (!formed_well(s))
        return;
    int node = s->swarm.victim;
    if (!may_harm(s, node))
        return;
    bool all = sim_chance(dice(s), 5000);
    int index = (int)rng_below(dice(s), (uint64_t)s->shards_per_node);
    sim_count(s, FAULT_wipe);
    sim_trace(s, "%s disk wiped", all ? s->nodes[node].name : sim_shard(s, node, index)->name);
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[i];
        if (p->node != node || !p->disk || (!all && p != sim_shard(s, node, index)))
            continue;
        process_kill(p, "its disk is replaced");
        mem_disk_wipe(p->disk);
    }
}

/* Again and again, until it is so: nobody may lead just now. Once calm looked at to the
 * end: what was asked of a controller may be committed long after. */
static void on_resume(struct sim *s, struct event *e) {
    struct process *p = sim_leading_controller(s);
    const struct metadata_node *n =
        p ? metadata_node_named(controller_metadata(p), s->nodes[e->a].name) : NULL;
    bool late = s->now > (usec_t)e->b && !s->calm; /* it may be drained for another reason */
    if (!late && (!n || n->state == NODE_DRAINING))
        members_set_state(s, (int)e->a, NODE_ALIVE);
    struct event *again = sim_at(s, s->now + 200 * USEC_MS, on_resume);
    again->a = e->a;
    again->b = e->b;
}

void faults_drain(struct sim *s, int node, usec_t how_long) {
    sim_count(s, FAULT_drain);
    sim_trace(s, "%s is drained", s->nodes[node].name);
    members_set_state(s, node, NODE_DRAINING);
    usec_t at = s->now + how_long;
    struct event *e = sim_at(s, at, on_resume);
    e->a = (uint64_t)node;
    e->b = (uint64_t)(at + DRAIN_SLOW_US);
}

static void do_drain(struct sim *s) {
    int node = (int)rng_below(dice(s), (uint64_t)s->nodes_count);
    faults_drain(s, node, sim_between(dice(s), 200 * USEC_MS, s->swarm.outage_max));
}

void faults_cut_orders(struct sim *s, int node, usec_t how_long) {
    sim_count(s, FAULT_cut_orders);
    for (int i = 0; i < s->nodes_count; i++)
        cut_some(s, CUT_ORDERS, i, node, how_long);
}

static bool any_frozen(const struct sim *s) {
    for (int i = 0; i < s->processes_count; i++)
        if (s->processes[i].frozen_until > s->now)
            return true;
    return false;
}

/* All hosts stood still, as machines do whose host is suspended: their clocks have
 * gone on. */
static void on_resumed(struct sim *s, struct event *e) {
    (void)e;
    if (s->calm || any_frozen(s)) {
        s->quiet = !s->calm;
        if (!s->calm)
            sim_at(s, s->now + SUSPEND_LULL_US, on_resumed);
        return;
    }
    usec_t by = sim_chance(dice(s), 5000) ? sim_between(dice(s), USEC_S, 20 * USEC_S)
                                          : sim_between(dice(s), 600 * USEC_S, 2 * 3600 * USEC_S);
    sim_trace(s, "the cluster was suspended for %lld ms", (long long)(by / USEC_MS));
    for (int i = 0; i < s->nodes_count; i++) {
        s->nodes[i].boot_offset += by;
        s->nodes[i].wall_offset += by;
    }
    for (int i = 0; i < s->processes_count; i++)
        process_touch(&s->processes[i]);
    for (int i = 0; i < s->clients->publishers_count; i++)
        publisher_give_up(s, &s->clients->publishers[i]);
    s->quiet = false;
}

/* Nothing that was published before may arrive after: a producer may be forgotten
 * then, and its client has given up (DESIGN section 4). */
static void do_suspend(struct sim *s) {
    if (s->quiet)
        return;
    s->quiet = true;
    for (int i = 0; i < s->processes_count; i++)
        for (int k = 0; k < s->processes_count; k++)
            if (s->processes[i].kind == PROCESS_GATEWAY && s->processes[k].kind == PROCESS_SHARD)
                network_reset(s, &s->processes[i], &s->processes[k]);
    sim_at(s, s->now + SUSPEND_LULL_US, on_resumed);
}

static void do_consumer_death(struct sim *s) {
    clients_kill_consumer(s);
}

static void (*const kinds[SIM_COUNTS])(struct sim *) = {
    [FAULT_kill_shard] = do_kill_shard,
    [FAULT_kill_controller] = do_kill_controller,
    [FAULT_kill_gateway] = do_kill_gateway,
    [FAULT_kill_node] = do_kill_node,
    [FAULT_power_off] = do_power_off,
    [FAULT_freeze] = do_freeze,
    [FAULT_link_reset] = do_link_reset,
    [FAULT_cut_one_way] = do_cut_one_way,
    [FAULT_cut_both] = do_cut_both,
    [FAULT_cut_shards] = do_cut_shards,
    [FAULT_cut_orders] = do_cut_orders,
    [FAULT_cut_clients] = do_cut_clients,
    [FAULT_island] = do_island,
    [FAULT_kill_leader] = do_kill_leader,
    [FAULT_isolate] = do_isolate,
    [FAULT_flap] = do_flap,
    [FAULT_disk_error] = do_disk_error,
    [FAULT_disk_full] = do_disk_full,
    [FAULT_bit_flip] = do_bit_flip,
    [FAULT_wipe] = do_wipe,
    [FAULT_clock_jump] = do_clock_jump,
    [FAULT_consumer_death] = do_consumer_death,
    [FAULT_drain] = do_drain,
    [FAULT_join] = members_join,
    [FAULT_remove] = members_remove,
    [FAULT_suspend] = do_suspend,
    [FAULT_mailbox_delete] = life_delete,
    [FAULT_mailbox_update] = life_update,
    [FAULT_purge] = life_purge,
    [FAULT_subscribe] = life_subscribe,
    [FAULT_unsubscribe] = life_unsubscribe,
};

/* Counted where they happen. */
static bool counts_itself(enum sim_count what) {
    return what == FAULT_disk_error || what == FAULT_consumer_death || what == FAULT_bit_flip ||
           what == FAULT_wipe || what == FAULT_drain || what >= FAULT_forming_death;
}

static void on_fault(struct sim *s, struct event *e) {
    enum sim_count what = (enum sim_count)e->a;
    if (s->calm)
        return;
    sim_at(s, s->now + sim_between(dice(s), 0, 2 * s->swarm.mean[what]), on_fault)->a = what;
    if (!counts_itself(what))
        sim_count(s, what);
    kinds[what](s);
}

void faults_start(struct sim *s) {
    for (int i = 0; i < SIM_COUNTS; i++)
        if (s->swarm.mean[i] && kinds[i])
            sim_at(s, s->now + sim_between(dice(s), 0, 2 * s->swarm.mean[i]), on_fault)->a = (uint64_t)i;
    scripts_start(s);
}

/* Who stands still goes on when its time comes: what waits in its inbox has its place
 * behind that, and would be overtaken. */
void faults_stop(struct sim *s) {
    sim_trace(s, "calm");
    if (s->swarm.mean[FAULT_join])
        members_join(s);
    s->calm = true;
    scripts_stop(s);
    s->quiet = false;
    network_heal(s);
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[i];
        if (p->disk) {
            mem_disk_limit(p->disk, UINT64_MAX / 2);
            mem_disk_fail_after(p->disk, 0);
        }
    }
}

/* ---- is the cluster whole again? ---- */

static bool partition_whole(struct sim *s, const struct metadata *m, const struct metadata_partition *p,
                            char *why, size_t size) {
    const struct metadata_mailbox *b = metadata_mailbox(m, p->mailbox);
    if (p->record.activating || p->record.current.count < metadata_replicas(m, &b->settings)) {
        snprintf(why, size, "p%d epoch %llu: %u replicas%s", (int)p->id, (unsigned long long)p->record.epoch,
                 p->record.current.count, p->record.activating ? ", activating" : "");
        return false;
    }
    for (int i = 0; i < s->processes_count; i++) {
        struct process *q = &s->processes[i];
        struct partition *copy = q->kind == PROCESS_SHARD && q->up ? shard_partition(q, p->id) : NULL;
        if (copy && replica_set_has(&p->record.current, q->self) && !replica_counts(copy->replica)) {
            snprintf(why, size, "p%d on %s is %s", (int)p->id, q->name,
                     replica_damaged(copy->replica) ? "damaged" : "installing");
            return false;
        }
    }
    return true;
}

bool faults_settled(struct sim *s, char *why, size_t size) {
    struct process *c = sim_leading_controller(s);
    const struct metadata_partition *p = NULL;
    if (!c) {
        snprintf(why, size, "no controller leads");
        return false;
    }
    const struct metadata *m = controller_metadata(c);
    while ((p = metadata_partition_next(m, p ? p->id : 0)))
        if (!partition_whole(s, m, p, why, size))
            return false;
    if (!members_settled(s, why, size))
        return false;
    if (metadata_drops_count(m)) {
        const struct metadata_drop *d = metadata_drop_at(m, 0);
        snprintf(why, size, "%zu drops are not done (first: p%d)", metadata_drops_count(m),
                 (int)d->partition);
        return false;
    }
    return true;
}

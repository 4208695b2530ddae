// SPDX-License-Identifier: Apache-2.0
/* One seed: build the world, let it run with faults, let it calm down, judge. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "clients.h"
#include "kept.h"

enum { FORM_US_MAX = 30000000, DRAIN_US_MAX = 120000000, LOOK_US = 100000 };

void sim_give_up(struct sim *s) {
    *s->out = s->result;
    s->out->simulated = s->now;
    sim_failed();
}

static void add_process(struct sim *s, enum process_kind kind, int node, int index) {
    struct process *p = &s->processes[s->processes_count];
    struct end *ends = p->ends;
    *p = (struct process){
        .sim = s, .id = s->processes_count++, .kind = kind, .node = node, .index = index, .ends = ends};
    p->timer_at = USEC_NEVER;
    if (kind == PROCESS_SHARD)
        snprintf(p->name, sizeof p->name, "n%d/s%d", node + 1, index);
    else
        snprintf(p->name, sizeof p->name, "n%d%s", node + 1, kind == PROCESS_GATEWAY ? "/gw" : "");
    if (kind != PROCESS_GATEWAY)
        p->disk = mem_disk_new();
}

static void build(struct sim *s) {
    swarm_draw(s);
    world_make(s, s->nodes_count, s->shards_per_node, SIM_PARTITIONS_MAX);
    sim_people(s);
}

void sim_people(struct sim *s) {
    for (int i = 0; i < s->nodes_count; i++) {
        struct node *n = &s->nodes[i];
        snprintf(n->name, sizeof n->name, "n%d", i + 1);
        n->on = true;
        if (s->swarm.clocks_differ) {
            n->boot_offset = (usec_t)rng_below(&s->rng, 100 * USEC_S);
            n->wall_offset = sim_between(&s->rng, -10 * USEC_S, 10 * USEC_S);
        }
    }
    for (int i = 0; i < s->nodes_count; i++) {
        add_process(s, PROCESS_CONTROLLER, i, 0);
        for (int k = 0; k < s->shards_per_node; k++)
            add_process(s, PROCESS_SHARD, i, k);
        add_process(s, PROCESS_GATEWAY, i, 0);
    }
    s->checker = checker_new(s);
}

static void trace_setup(struct sim *s) {
    static const char *const names[] = {
#define X(name) #name,
        SIM_FAULTS(X) SIM_RARE(X)
#undef X
    };
    sim_trace(s, "%s: %d nodes of %d shards, segments of %u KiB, faults for %lld ms", swarm_theme(s),
              s->nodes_count, s->shards_per_node, s->segment_bytes / 1024,
              (long long)(s->swarm.busy / USEC_MS));
    for (int i = 0; i < SIM_COUNTS; i++)
        if (s->swarm.mean[i])
            sim_trace(s, "  %s every %lld ms", names[i], (long long)(s->swarm.mean[i] / USEC_MS));
    for (int i = 0; i < s->clients->boxes_count; i++) {
        struct box *b = &s->clients->boxes[i];
        sim_trace(s, "  %s: %u partitions %u replicas, dispatch %s, %s", b->name, b->settings.partitions,
                  b->settings.replicas, dispatch_name(b->settings.dispatch),
                  durability_name(b->settings.durability));
    }
}

void sim_until(struct sim *s, usec_t until) {
    while (s->now < until && s->heap_count && s->heap[0].at <= until)
        sim_step(s);
    s->now = until;
}

void sim_begin(struct sim *s) {
    for (int i = 0; i < s->processes_count; i++)
        if (s->nodes[s->processes[i].node].on)
            process_start(&s->processes[i]);
    network_start(s);
    while (!sim_leading_controller(s) ||
           !metadata_cluster_id(controller_metadata(sim_leading_controller(s)))) {
        if (s->now > FORM_US_MAX)
            sim_violation(s, "live", "the cluster does not form");
        sim_until(s, s->now + LOOK_US);
    }
    sim_trace(s, "formed");
}

/* Faults have stopped: everything must come to rest. */
void sim_drain(struct sim *s) {
    char why[200] = "";
    usec_t until = s->now + DRAIN_US_MAX;
    while (s->now < until) {
        sim_until(s, s->now + LOOK_US);
        if (clients_done(s, why, sizeof why) && faults_settled(s, why, sizeof why) &&
            checker_receipted_all_delivered(s, why, sizeof why))
            return;
    }
    sim_violation(s, "live", "not at rest after %d s without faults: %s", (int)(DRAIN_US_MAX / USEC_S), why);
}

void sim_end(struct sim *s) {
    s->result.simulated = s->now;
    *s->out = s->result;
    for (size_t i = 0; i < s->heap_count; i++)
        if (s->heap[i].drop)
            s->heap[i].drop(&s->heap[i]);
    s->heap_count = 0;
    for (int i = 0; i < s->processes_count; i++)
        process_end_for_good(&s->processes[i]);
    network_free(s);
    branches_free(s);
    clients_free(s);
    checker_free(s->checker);
    power_free(s);
    kept_free(s);
    free(s->script);
    world_free(s);
    free(s->heap);
    free(s);
}

struct sim *sim_new(uint64_t seed, bool trace, struct sim_result *out) {
    struct sim *s = xcalloc(1, sizeof *s);
    *s = (struct sim){.seed = seed, .tracing = trace, .out = out};
    struct rng seeds = {seed}; /* mixed: neighbours must not see the same numbers shifted */
    s->rng.state = rng_next(&seeds);
    s->work.state = rng_next(&seeds) ^ 0xD1342543DE82EF95u;
    s->result.seed = seed;
    return s;
}

void sim_run(uint64_t seed, bool trace, struct sim_result *out) {
    struct sim *s = sim_new(seed, trace, out);
    build(s);
    branches_make(s);
    clients_make(s);
    trace_setup(s);
    members_form(s);
    sim_begin(s);
    clients_start(s);
    s->faulty = true;
    faults_start(s);
    usec_t calm_at = s->now + s->swarm.busy;
    sim_until(s, calm_at);
    faults_stop(s);
    sim_until(s, s->now + (s->swarm.theme == THEME_big ? 2 * USEC_S : 300 * USEC_MS));
    s->stopping = true;
    sim_drain(s);
    checker_letters(s);
    branches_end(s);
    sim_trace(s, "at rest, trace %016llx", (unsigned long long)s->result.trace);
    sim_end(s);
}

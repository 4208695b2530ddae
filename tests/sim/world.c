// SPDX-License-Identifier: Apache-2.0
/* Time and processes: the queue of events, crash and restart, freeze and wake,
 * and the executor that runs journals' jobs in virtual time. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "scripts.h"
#include "sim.h"

enum {
    TURN_US_MAX = 150,      /* from an event to the end of the loop's turn */
    RESTART_US_MIN = 20000, /* the supervisor's back-off and the start */
    RESTART_US_MAX = 400000,
    FREEZE_SLACK_US = 100
};

/* ---- the world's room ---- */

void world_make(struct sim *s, int nodes, int shards_per_node, uint64_t partitions) {
    size_t processes = (size_t)nodes * ((size_t)shards_per_node + 2);
    s->nodes_count = nodes;
    s->shards_per_node = shards_per_node;
    s->partitions_max = partitions;
    s->nodes = xcalloc((size_t)nodes, sizeof *s->nodes);
    for (int k = 0; k < CUTS; k++) {
        s->cut[k] = xcalloc((size_t)nodes, sizeof *s->cut[k]);
        for (int i = 0; i < nodes; i++)
            s->cut[k][i] = xcalloc((size_t)nodes, sizeof *s->cut[k][i]);
    }
    s->processes = xcalloc(processes, sizeof *s->processes);
    s->pairs = xcalloc(processes, sizeof *s->pairs);
    for (size_t i = 0; i < processes; i++) {
        s->pairs[i] = xcalloc(i + 1, sizeof *s->pairs[i]);
        s->processes[i].ends = xcalloc(processes, sizeof *s->processes[i].ends);
    }
}

void world_free(struct sim *s) {
    for (int i = 0; i < s->processes_count; i++) {
        free(s->pairs[i]);
        free(s->processes[i].ends);
        free(s->processes[i].packed);
    }
    for (int k = 0; k < CUTS; k++) {
        for (int i = 0; i < s->nodes_count; i++)
            free(s->cut[k][i]);
        free(s->cut[k]);
    }
    free(s->pairs);
    free(s->processes);
    free(s->nodes);
}

/* ---- the trace ---- */

void sim_mix(struct sim *s, uint64_t v) {
    s->result.trace = (s->result.trace ^ v) * 0x9E3779B97F4A7C15u;
    s->result.trace ^= s->result.trace >> 29;
}

void sim_count(struct sim *s, enum sim_count what) {
    s->result.counts[what]++;
    sim_mix(s, what);
}

void sim_trace(struct sim *s, const char *format, ...) {
    if (!s->tracing)
        return;
    va_list args;
    printf("[%6lld.%03lld] ", (long long)(s->now / USEC_MS), (long long)(s->now % USEC_MS));
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void sim_violation(struct sim *s, const char *invariant, const char *format, ...) {
    char text[sizeof s->result.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(s->result.text, sizeof s->result.text, "%s: %.300s (at %lld ms)", invariant, text,
             (long long)(s->now / USEC_MS));
    s->result.failed = true;
    sim_trace(s, "VIOLATED %s", s->result.text);
    sim_give_up(s);
}

usec_t sim_between(struct rng *r, usec_t low, usec_t high) {
    return high <= low ? low : low + (usec_t)rng_below(r, (uint64_t)(high - low + 1));
}

bool sim_chance(struct rng *r, unsigned of_10000) {
    return of_10000 && rng_below(r, 10000) < of_10000;
}

/* ---- events: a heap by (time, number) ---- */

static bool before(const struct event *a, const struct event *b) {
    return a->at != b->at ? a->at < b->at : a->number < b->number;
}

static struct event *sift_up(struct sim *s, size_t i) {
    struct event e = s->heap[i];
    for (; i > 0 && before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
    return &s->heap[i];
}

static void sift_down(struct sim *s, size_t i) {
    struct event e = s->heap[i];
    for (size_t child; (child = 2 * i + 1) < s->heap_count; i = child) {
        if (child + 1 < s->heap_count && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &e))
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = e;
}

/* The pointer is good until the next event is made: fill it in at once. Its time
 * and number must stay. */
static struct event *push(struct sim *s, struct event e) {
    xgrow(&s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *s->heap);
    s->heap[s->heap_count++] = e;
    return sift_up(s, s->heap_count - 1);
}

struct event *sim_at(struct sim *s, usec_t at, void (*fire)(struct sim *, struct event *)) {
    return push(s, (struct event){.at = at < s->now ? s->now : at, .number = ++s->next_event, .fire = fire});
}

struct event *sim_at_process(struct process *p, usec_t at, void (*fire)(struct sim *, struct event *)) {
    struct event *e = sim_at(p->sim, at, fire);
    e->process = p;
    e->incarnation = p->incarnation;
    return e;
}

static struct event pop(struct sim *s) {
    struct event e = s->heap[0];
    s->heap[0] = s->heap[--s->heap_count];
    if (s->heap_count)
        sift_down(s, 0);
    return e;
}

bool sim_step(struct sim *s) {
    if (!s->heap_count)
        return false;
    struct event e = pop(s);
    struct process *p = e.process;
    CHECK(e.at >= s->now);
    s->now = e.at;
    if (p && (!p->up || p->incarnation != e.incarnation)) {
        if (e.drop)
            e.drop(&e);
        return true;
    }
    if (p && p->frozen_until > s->now) { /* it waits in the inbox, in its order */
        e.at = p->frozen_until;
        e.number = ++s->next_event;
        push(s, e);
        return true;
    }
    s->result.events++;
    sim_mix(s, (uint64_t)e.at);
    sim_mix(s, e.number + (p ? (uint64_t)p->id << 40 : 0));
    checker_running(p);
    if (s->on_event)
        s->on_event(s, p, &e);
    else
        e.fire(s, &e);
    return true;
}

/* ---- clocks, turns, timers ---- */

usec_t process_now(const struct process *p) {
    return p->sim->now + p->sim->nodes[p->node].boot_offset;
}

usec_t process_wall(const struct process *p) {
    return p->sim->now + SIM_WALL_START + p->sim->nodes[p->node].wall_offset;
}

static void on_turn(struct sim *s, struct event *e) {
    struct process *p = e->process;
    (void)s;
    p->turn_due = false;
    if (p->kind == PROCESS_SHARD)
        shard_on_turn(p);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_turn(p);
    network_turned(p);
}

void process_touch(struct process *p) {
    if (p->turn_due || p->kind == PROCESS_GATEWAY)
        return;
    p->turn_due = true;
    sim_at_process(p, p->sim->now + sim_between(&p->sim->rng, 1, TURN_US_MAX), on_turn);
}

static void on_timer(struct sim *s, struct event *e) {
    struct process *p = e->process;
    (void)s;
    if (e->a != p->timer)
        return; /* another one has taken its place */
    p->timer_at = USEC_NEVER;
    if (p->kind == PROCESS_SHARD)
        shard_timer(p);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_timer(p);
}

void process_wake(struct process *p, usec_t at) {
    usec_t when = at - p->sim->nodes[p->node].boot_offset;
    if (at == USEC_NEVER || when >= p->timer_at)
        return;
    p->timer_at = when < p->sim->now ? p->sim->now : when;
    struct event *e = sim_at_process(p, p->timer_at, on_timer);
    e->a = ++p->timer;
}

/* ---- who is who ---- */

/* They lie node by node: controller, shards, gateway. */
static struct process *find(struct sim *s, enum process_kind kind, int node, int at) {
    struct process *p = &s->processes[node * (s->shards_per_node + 2) + at];
    CHECK(p->kind == kind && p->node == node);
    return p;
}

struct process *sim_controller(struct sim *s, int node) {
    return find(s, PROCESS_CONTROLLER, node, 0);
}
struct process *sim_shard(struct sim *s, int node, int index) {
    CHECK(index < s->shards_per_node);
    return find(s, PROCESS_SHARD, node, 1 + index);
}
struct process *sim_gateway(struct sim *s, int node) {
    return find(s, PROCESS_GATEWAY, node, 1 + s->shards_per_node);
}

struct process *sim_leading_controller(struct sim *s) {
    for (int i = 0; i < s->nodes_count; i++) {
        struct process *p = sim_controller(s, i);
        if (p->up && p->frozen_until <= s->now && controller_leads(p))
            return p;
    }
    return NULL;
}

/* ---- the journal's executor ---- */

static void start_jobs(struct process *p);

static void synced(struct process *p) {
    uint64_t ticket = p->synced_ticket;
    p->synced_posted = false;
    if (p->kind == PROCESS_SHARD)
        shard_synced(p, ticket);
    else
        controller_synced(p, ticket);
    process_touch(p);
}

static void on_disk_synced(struct sim *s, struct event *e) {
    struct process *p = e->process;
    (void)s;
    mem_disk_sync_deferred(p->disk);
    p->syncing = false;
    p->syncs_done = p->syncs_begun;
    if (p->queued)
        start_jobs(p);
    if (p->synced_posted)
        synced(p);
}

/* Written now; the sync goes on until e->a. What follows the sync (seals of segments,
 * spares, removals) is early by so much, and nobody's answer depends on it. */
static void on_disk_written(struct sim *s, struct event *e) {
    struct process *p = e->process;
    struct journal_job *jobs = p->running;
    p->running = NULL;
    mem_disk_defer(p->disk, true);
    journal_run(jobs);
    mem_disk_defer(p->disk, false);
    if (p->storage_failed) {
        sim_count(s, FAULT_disk_error);
        power_lost(s, p);
        process_kill(p, "storage failed");
        p->disk_failures++;
        mem_disk_crash(p->disk, &s->rng); /* after a failed sync the page cache proves nothing */
        return;
    }
    p->syncing = true;
    sim_at_process(p, (usec_t)e->a, on_disk_synced);
    if (p->written_posted && p->kind == PROCESS_SHARD) {
        shard_written(p, p->written_ticket);
        process_touch(p);
    }
    p->written_posted = false;
}

static void start_jobs(struct process *p) {
    struct swarm *w = &p->sim->swarm;
    usec_t takes = sim_between(&p->sim->rng, w->sync_min, w->sync_max);
    if (!p->sim->calm && w->mean[FAULT_slow_disk] && sim_chance(&p->sim->rng, 20)) {
        takes += sim_between(&p->sim->rng, 20 * USEC_MS, 600 * USEC_MS);
        sim_count(p->sim, FAULT_slow_disk);
    }
    p->running = p->queued;
    p->queued = NULL;
    p->syncs_begun++;
    usec_t writes = (usec_t)rng_below(&p->sim->rng, (uint64_t)takes);
    sim_at_process(p, p->sim->now + writes, on_disk_written)->a = (uint64_t)(p->sim->now + takes);
}

void process_execute(void *executor, struct journal_job *job) {
    struct process *p = executor;
    p->queued = journal_job_link(p->queued, job);
    if (!p->running && !p->syncing)
        start_jobs(p);
}

void process_completed(void *ctx, uint64_t ticket) {
    struct process *p = ctx;
    p->synced_ticket = ticket;
    p->synced_posted = true;
    mem_disk_defer(p->disk, false); /* only this sync: what follows is none that anybody waits for */
}

void process_written(void *ctx, uint64_t ticket) {
    struct process *p = ctx;
    p->written_ticket = ticket;
    p->written_posted = true;
}

uint64_t process_boot(const struct process *p) {
    return (p->sim->nodes[p->node].boots + 1) << 32 | (p->disk_failures + 1);
}

void process_fatal(void *ctx, const char *text) {
    struct process *p = ctx;
    sim_trace(p->sim, "%s storage: %s", p->name, text);
    p->storage_failed = true;
}

bool process_open_journal(struct process *p, uint8_t batch_type) {
    struct journal_recovered recovered;
    struct err_detail detail = {0};
    p->queued = p->running = NULL;
    p->synced_posted = p->written_posted = p->storage_failed = p->syncing = false;
    uint64_t random = rng_next(&p->sim->rng) | 1;
    enum err err = journal_open(&(struct journal_options){.disk = mem_disk_disk(p->disk),
                                                          .folder = "j",
                                                          .segment_bytes = p->sim->segment_bytes,
                                                          .reserve_bytes = 4 * p->sim->segment_bytes,
                                                          .batch_type = batch_type,
                                                          .random = random,
                                                          .completed = process_completed,
                                                          .written = process_written,
                                                          .fatal = process_fatal,
                                                          .ctx = p,
                                                          .execute = process_execute,
                                                          .executor = p},
                                &p->journal, &recovered, &detail);
    if (err != ERR_OK) {
        sim_trace(p->sim, "%s journal cannot be opened: %s", p->name, detail.text);
        p->journal = NULL;
        return false;
    }
    p->self = recovered.identity;
    p->starts = recovered.start;
    sim_trace(p->sim, "%s journal: start %llu, %zu partitions, %zu segments, %llu bytes cut%s%s%s", p->name,
              (unsigned long long)recovered.start, recovered.partitions, recovered.segments,
              (unsigned long long)recovered.torn_bytes, recovered.created ? ", new" : "",
              recovered.lost ? ", LOST" : "", recovered.damaged ? ", DAMAGED" : "");
    return true;
}

/* What was under way stays on the disk up to where it had come. */
static void stop_jobs(struct process *p, bool power) {
    struct journal_job *jobs = p->running ? p->running : p->queued;
    if (p->running)
        jobs = journal_job_link(p->running, p->queued);
    p->running = p->queued = NULL;
    if (jobs && sim_chance(&p->sim->rng, 6000)) {
        struct journal_job *rest = journal_job_unlink(jobs);
        mem_disk_fail_after(p->disk, (int)sim_between(&p->sim->rng, 1, 4));
        journal_run(jobs);
        mem_disk_fail_after(p->disk, 0);
        if (power)
            sim_count(p->sim, FAULT_torn_write);
        jobs = rest;
    }
    while (jobs) {
        struct journal_job *rest = journal_job_unlink(jobs);
        journal_job_forget(jobs);
        jobs = rest;
    }
}

/* ---- life ---- */

static void free_self(struct process *p) {
    if (p->kind == PROCESS_SHARD)
        shard_stop(p);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_free(p);
    else
        gateway_free(p);
}

static void on_restart(struct sim *s, struct event *e) {
    struct process *p = e->ptr;
    if (e->a != p->restart)
        return; /* another one has taken its place */
    p->restarting = false;
    if (s->nodes[p->node].on && !p->up)
        process_start(p);
}

static void restart_in(struct process *p, usec_t wait) {
    p->restarting = true;
    struct event *e = sim_at(p->sim, p->sim->now + wait, on_restart);
    e->ptr = p;
    e->a = ++p->restart;
}

static void restart_later(struct process *p) {
    if (!p->restarting)
        restart_in(p, sim_between(&p->sim->rng, RESTART_US_MIN, RESTART_US_MAX));
}

void process_start(struct process *p) {
    p->incarnation++;
    p->up = true;
    p->frozen_until = 0;
    p->turn_due = false;
    p->timer_at = USEC_NEVER;
    memset(p->ends, 0, (size_t)p->sim->processes_count * sizeof *p->ends);
    if (p->disk) /* an error does not outlive its process */
        mem_disk_fail_after(p->disk, 0);
    if (p->kind != PROCESS_GATEWAY &&
        !process_open_journal(p, p->kind == PROCESS_SHARD ? ENTRY_BATCH : UINT8_MAX)) {
        p->up = false;
        restart_later(p);
        return;
    }
    sim_trace(p->sim, "%s started", p->name);
    if (p->kind == PROCESS_SHARD)
        shard_start(p);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_start(p);
    else
        gateway_start(p);
    network_process_up(p);
}

static void end(struct process *p, bool power) {
    if (p->journal) {
        stop_jobs(p, power);
        free_self(p);
        journal_abandon(p->journal);
        p->journal = NULL;
    } else {
        free_self(p);
    }
    p->up = false;
    p->incarnation++;
    p->timer_at = USEC_NEVER;
    network_process_down(p, power);
}

static void kill_for(struct process *p, const char *why, usec_t how_long) {
    if (!p->up)
        return;
    sim_trace(p->sim, "%s dies: %s", p->name, why);
    end(p, false);
    if (how_long)
        restart_in(p, how_long);
    else
        restart_later(p);
    struct process *own = sim_controller(p->sim, p->node);
    if (p->kind == PROCESS_SHARD && own->up)
        controller_own_gone(own, p->index);
}

void process_kill(struct process *p, const char *why) {
    kill_for(p, why, 0);
}

void process_kill_for(struct process *p, const char *why, usec_t how_long) {
    sim_count(p->sim, FAULT_kill_shard);
    kill_for(p, why, how_long);
}

void process_revive(struct process *p) {
    if (!p->up && p->restarting)
        restart_in(p, sim_between(&p->sim->rng, 0, RESTART_US_MIN));
}

void process_freeze(struct process *p, usec_t how_long) {
    if (!p->up || p->frozen_until > p->sim->now)
        return;
    sim_trace(p->sim, "%s stands still for %lld ms", p->name, (long long)(how_long / USEC_MS));
    p->frozen_until = p->sim->now + how_long + FREEZE_SLACK_US;
}

static void on_power_on(struct sim *s, struct event *e) {
    int node = (int)e->a;
    if (s->nodes[node].on)
        return;
    s->nodes[node].on = true;
    s->nodes[node].boot_offset = -s->now + (usec_t)rng_below(&s->rng, 30 * USEC_S); /* booted just now */
    sim_trace(s, "%s power on", s->nodes[node].name);
    for (int i = 0; i < s->processes_count; i++)
        if (s->processes[i].node == node && !s->processes[i].up)
            restart_later(&s->processes[i]);
}

void node_power_off(struct sim *s, int node, usec_t how_long) {
    if (!s->nodes[node].on)
        return;
    sim_trace(s, "%s power off for %lld ms", s->nodes[node].name, (long long)(how_long / USEC_MS));
    for (int i = 0; i < s->processes_count; i++)
        if (s->processes[i].node == node)
            power_lost(s, &s->processes[i]);
    s->nodes[node].on = false;
    s->nodes[node].boots++;
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[i];
        if (p->node != node)
            continue;
        if (p->up)
            end(p, true);
        if (p->disk)
            mem_disk_crash(p->disk, &s->rng);
    }
    struct event *e = sim_at(s, s->now + how_long, on_power_on);
    e->a = (uint64_t)node;
}

/* The supervisor dies, and its children with it. */
void node_kill(struct sim *s, int node) {
    sim_trace(s, "%s dies", s->nodes[node].name);
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[i];
        if (p->node != node || !p->up)
            continue;
        end(p, false);
        restart_later(p);
    }
}

void process_end_for_good(struct process *p) {
    if (p->up)
        end(p, false);
    if (p->disk)
        mem_disk_free(p->disk);
}

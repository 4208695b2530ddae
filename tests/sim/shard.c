// SPDX-License-Identifier: Apache-2.0
/* The simulated host of the broker's shard (shard/core): its clocks, timers, links
 * and cold reads in virtual time, and what the checker watches of it. */
#include "shard.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "kept.h"

#define HOSTED_EACH(s, h) for (struct hosted *h = (s)->hosted; h; h = h->hh.next)

static struct process *process_of(const struct hosted *h) {
    return ((struct sim_shard *)h->shard)->process;
}

/* Where it was found last, by the mailbox's address: a guess, proven each time. */
enum { GUESS_BITS = 20 };
static uint64_t guesses[1 << GUESS_BITS];

static uint64_t *guess_of(const struct mailbox *m) {
    return &guesses[(uintptr_t)m * 0x9E3779B97F4A7C15u >> (64 - GUESS_BITS)];
}

struct partition *__real_partition_new(const struct partition_options *options,
                                       const struct replica_state *state, struct decoder *mailbox_state);
struct partition *__wrap_partition_new(const struct partition_options *options,
                                       const struct replica_state *state, struct decoder *mailbox_state);
struct partition *__wrap_partition_new(const struct partition_options *options,
                                       const struct replica_state *state, struct decoder *mailbox_state) {
    struct partition *p = __real_partition_new(options, state, mailbox_state);
    if (p)
        *guess_of(p->mailbox) = p->id;
    return p;
}

struct partition *shard_partition_of(struct process *p, const struct mailbox *m) {
    uint64_t *guess = guess_of(m);
    struct hosted *guessed = shard_find(p->shard, *guess);
    if (guessed && guessed->partition && guessed->partition->mailbox == m)
        return guessed->partition;
    HOSTED_EACH(p->shard, h) {
        if (h->partition && h->partition->mailbox == m) {
            *guess = h->id;
            return h->partition;
        }
    }
    return NULL;
}

struct partition *shard_partition(struct process *p, uint64_t id) {
    struct hosted *h = shard_find(p->shard, id);
    return h ? h->partition : NULL;
}

const struct replica_record *shard_record(struct process *p, uint64_t id) {
    struct hosted *h = shard_find(p->shard, id);
    return h ? &h->record : NULL;
}

/* ---- what the checker watches: calls within the shard, wrapped by the linker ---- */

void __real_partition_pump(struct partition *p, usec_t now);
void __wrap_partition_pump(struct partition *p, usec_t now);
void __wrap_partition_pump(struct partition *p, usec_t now) {
    __real_partition_pump(p, now);
    checker_turn(process_of(p->user), p);
}

void __real_partition_tick(struct partition *p, usec_t now);
void __wrap_partition_tick(struct partition *p, usec_t now);
void __wrap_partition_tick(struct partition *p, usec_t now) {
    if (now >= p->hold_until)
        sim_count(process_of(p->user)->sim, RARE_holds_timed_out);
    __real_partition_tick(p, now);
}

static void watch_write(struct process *p, struct hosted *h, const struct replica_effect *e) {
    if (e->type == REPLICA_WRITE) {
        checker_write(p, h->id, &e->entry);
    } else if (e->type == REPLICA_TRUNCATE) {
        sim_count(p->sim, RARE_truncations);
        kept_cut(p, h->id, e->index);
        sim_trace(p->sim, "%s p%d truncates above %llu", p->name, (int)h->id, (unsigned long long)e->index);
    } else if (e->type == REPLICA_MARK_DAMAGED) {
        sim_count(p->sim, RARE_damaged);
        sim_trace(p->sim, "%s p%d is damaged from %llu", p->name, (int)h->id,
                  (unsigned long long)e->damage.from);
    } else if (e->type == REPLICA_MARK_WHOLE && replica_leading(h->partition->replica)) {
        sim_count(p->sim, RARE_chosen_doubtful);
    } else if (e->type == REPLICA_MARK_WHOLE && replica_doubtful(h->partition->replica)) {
        sim_count(p->sim, RARE_rejoined);
    }
}

bool __real_storage_partition(struct shard *s, struct hosted *h);
bool __wrap_storage_partition(struct shard *s, struct hosted *h);
bool __wrap_storage_partition(struct shard *s, struct hosted *h) {
    kept_opened(process_of(h), h->id);
    bool opened = __real_storage_partition(s, h);
    if (opened && replica_doubtful(h->partition->replica))
        sim_count(process_of(h)->sim, RARE_doubtful);
    return opened;
}

void __real_storage_write(struct hosted *h, const struct replica_effect *e);
void __wrap_storage_write(struct hosted *h, const struct replica_effect *e);
void __wrap_storage_write(struct hosted *h, const struct replica_effect *e) {
    watch_write(process_of(h), h, e);
    __real_storage_write(h, e);
}

void __real_storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c);
void __wrap_storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c);
void __wrap_storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c) {
    struct process *p = process_of(h);
    if (c->install) {
        kept_installs(p, h->id);
        sim_count(p->sim, RARE_checkpoints_installed);
        sim_trace(p->sim, "%s p%d installs the checkpoint at %llu", p->name, (int)h->id,
                  (unsigned long long)c->base_index);
    }
    __real_storage_checkpoint(h, c);
}

void __real_peers_leading(struct hosted *h);
void __wrap_peers_leading(struct hosted *h);
void __wrap_peers_leading(struct hosted *h) {
    checker_leading(process_of(h), h->id, replica_epoch(h->partition->replica));
    __real_peers_leading(h);
}

size_t __real_service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max);
size_t __wrap_service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max);
size_t __wrap_service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max) {
    checker_active(process_of(h), h->id, epoch, replica_applied(h->partition->replica));
    size_t count = __real_service_led(h, epoch, gateways, max);
    kept_led(process_of(h), h->id, epoch, gateways, count);
    return count;
}

void __real_deliver_run(struct hosted *h, const struct mailbox_effect *e);
void __wrap_deliver_run(struct hosted *h, const struct mailbox_effect *e);
void __wrap_deliver_run(struct hosted *h, const struct mailbox_effect *e) {
    checker_deliver(process_of(h), h->id, e);
    __real_deliver_run(h, e);
}

/* ---- the host ---- */

usec_t shard_host_now(void *host) {
    return process_now(((struct sim_shard *)host)->process);
}

usec_t shard_host_wall(void *host) {
    return process_wall(((struct sim_shard *)host)->process);
}

void shard_host_working_on(void *host, uint64_t partition) {
    (void)host;
    (void)partition;
}

void shard_host_say(void *host, bool error, const char *text) {
    struct process *p = ((struct sim_shard *)host)->process;
    (void)error;
    sim_trace(p->sim, "%s %s", p->name, text);
}

/* ---- timers of partitions: a heap by (time, partition) ---- */

static bool due_before(const struct due_tick *a, const struct due_tick *b) {
    return a->at != b->at ? a->at < b->at : a->partition < b->partition;
}

static void due_push(struct sim_shard *s, struct due_tick what) {
    xgrow(&s->due, &s->due_capacity, s->due_count + 1, sizeof *s->due);
    size_t i = s->due_count++;
    for (; i > 0 && due_before(&what, &s->due[(i - 1) / 2]); i = (i - 1) / 2)
        s->due[i] = s->due[(i - 1) / 2];
    s->due[i] = what;
}

static struct due_tick due_pop(struct sim_shard *s) {
    struct due_tick first = s->due[0], last = s->due[--s->due_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->due_count; i = child) {
        if (child + 1 < s->due_count && due_before(&s->due[child + 1], &s->due[child]))
            child++;
        if (!due_before(&s->due[child], &last))
            break;
        s->due[i] = s->due[child];
    }
    if (s->due_count)
        s->due[i] = last;
    return first;
}

/* One that was put off stays in the heap, and is looked at when its time comes. */
void shard_host_timer(void *host, struct hosted *h, usec_t at) {
    uintptr_t *pushed = (uintptr_t *)&h->user; /* the earliest of its own in the heap, 0: none */
    if (at == USEC_NEVER || (*pushed && *pushed <= (uintptr_t)at))
        return;
    *pushed = (uintptr_t)at;
    due_push(host, (struct due_tick){at, h->id});
}

/* Cold reads: asked for now, answered a moment later. */

static void drop_read(struct event *e) {
    read_free(e->ptr);
}

static void on_read(struct sim *sim, struct event *e) {
    struct read_job *job = e->ptr;
    sim_count(sim, RARE_cold_reads);
    read_execute(job);
    read_fire(job);
    process_touch(e->process);
}

void shard_host_read(void *host, struct read_job *job) {
    struct process *p = ((struct sim_shard *)host)->process;
    struct event *e = sim_at_process(p, p->sim->now + sim_between(&p->sim->rng, 50, 3000), on_read);
    e->ptr = job;
    e->drop = drop_read;
}

/* ---- links ---- */

void shard_message(struct process *p, int from, struct message *m) {
    struct sim_link *l = &shard_host_of(p)->links[from];
    if (l->shard.kind == LINK_PEER)
        shard_from_peer(l, m);
    else if (l->shard.kind == LINK_CONTROLLER)
        shard_from_controller(l, m);
    else
        shard_from_gateway(l, m);
}

static struct peer *peer_of(struct shard *s, member_t member) {
    struct peer *peer = peers_find(s, member);
    if (!peer) {
        peer = xcalloc(1, sizeof *peer);
        peer->member = member;
        peers_add(s, peer);
    }
    return peer;
}

void shard_link_up(struct process *p, int other) {
    struct shard *s = p->shard;
    struct process *to = &p->sim->processes[other];
    struct sim_link *l = &shard_host_of(p)->links[other];
    *l = (struct sim_link){.shard.id = p->ends[other].instance, .other = other};
    l->shard.own_node = to->node == p->node;
    shard_link_add(s, &l->shard);
    if (to->kind == PROCESS_SHARD) {
        peers_up(&l->shard, peer_of(s, p->ends[other].member));
    } else if (to->kind == PROCESS_GATEWAY) {
        l->shard.kind = LINK_GATEWAY;
        service_up(&l->shard);
    } else {
        l->shard.kind = LINK_CONTROLLER;
    }
}

void shard_link_down(struct process *p, int other, const struct end *was) {
    struct shard_link *l = &shard_host_of(p)->links[other].shard;
    CHECK(l->id == was->instance);
    if (l->kind == LINK_PEER)
        peers_down(l);
    else if (l->kind == LINK_GATEWAY)
        service_down(l);
    shard_link_remove(l);
    l->kind = LINK_NEW;
}

/* ---- turns and timers ---- */

static usec_t soonest(struct sim_shard *host) {
    usec_t at = host->confirm_at < host->reclaim_at ? host->confirm_at : host->reclaim_at;
    at = host->load_at < at ? host->load_at : at;
    return host->due_count && host->due[0].at < at ? host->due[0].at : at;
}

void shard_on_turn(struct process *p) {
    shard_turn(p->shard); /* wakes for what it touched: shard_host_timer */
}

static void reclaim(struct process *p) {
    struct journal_statistics before, after;
    journal_statistics(p->journal, &before);
    storage_reclaim(p->shard);
    journal_statistics(p->journal, &after);
    for (uint64_t i = before.reclaimed; i < after.reclaimed; i++)
        sim_count(p->sim, RARE_reclaimed_segments);
}

static void tick_due(struct sim_shard *host, usec_t now) {
    while (host->due_count && host->due[0].at <= now) {
        struct due_tick d = due_pop(host);
        struct hosted *h = shard_find(&host->shard, d.partition);
        if (!h || (uintptr_t)h->user != (uintptr_t)d.at)
            continue; /* an earlier one took its place */
        h->user = NULL;
        usec_t deadline = h->partition ? partition_deadline(h->partition) : USEC_NEVER;
        if (deadline <= now)
            shard_tick(h);
        else
            shard_host_timer(host, h, deadline);
    }
}

void shard_timer(struct process *p) {
    struct sim_shard *host = shard_host_of(p);
    struct shard *s = p->shard;
    usec_t now = process_now(p);
    if (now >= host->confirm_at) {
        peers_confirm(s);
        host->confirm_at = now + SHARD_CONFIRM_US;
    }
    if (now >= host->reclaim_at) {
        reclaim(p);
        host->reclaim_at = now + SHARD_RECLAIM_US;
    }
    if (now >= host->load_at) {
        service_loads(s);
        orders_load(s);
        host->load_at = now + SHARD_LOAD_US;
    }
    tick_due(host, now);
    process_touch(p);
    process_wake(p, soonest(host));
}

void shard_synced(struct process *p, uint64_t ticket) {
    storage_synced(p->shard, ticket);
}

void shard_written(struct process *p, uint64_t ticket) {
    storage_written(p->shard, ticket);
}

/* ---- life ---- */

void shard_start(struct process *p) {
    struct sim_shard *host = xcalloc(1, sizeof *host);
    usec_t now = process_now(p);
    host->process = p;
    host->shard = (struct shard){.calls = &shard_message_calls,
                                 .host = host,
                                 .journal = p->journal,
                                 .self = p->self,
                                 .starts = p->starts,
                                 .boot = process_boot(p),
                                 .failure_timeout = p->sim->failure_timeout,
                                 .append_entries = p->sim->swarm.append_entries,
                                 .next_request = 1};
    host->links = xcalloc((size_t)p->sim->processes_count, sizeof *host->links);
    host->confirm_at = now + SHARD_CONFIRM_US;
    host->reclaim_at = now + SHARD_RECLAIM_US;
    host->load_at = now + SHARD_LOAD_US;
    p->shard = &host->shard;
    process_touch(p);
    process_wake(p, soonest(host));
}

void shard_stop(struct process *p) {
    struct sim_shard *host = shard_host_of(p);
    struct peer *peer, *next;
    shard_free(p->shard);
    HASH_ITER(hh, host->shard.peers, peer, next) {
        peers_remove(&host->shard, peer);
        free(peer);
    }
    free(host->due);
    free(host->links);
    free(host);
    p->shard = NULL;
}

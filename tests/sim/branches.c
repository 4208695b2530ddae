// SPDX-License-Identifier: Apache-2.0
/* Rare branches, seen from outside: by the messages that arrive, by the entries
 * that are applied, and in the end by the counters. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "cluster/metadata.h"
#include "sim.h"

struct told { /* to one process: a checkpoint on its way */
    uint64_t base_index;
    bool open;
    uint64_t promise; /* highest that a shard told it */
};

struct branches {
    struct replica_record *records; /* newest seen, by partition */
    struct told *told;              /* by process and partition */
};

void branches_make(struct sim *s) {
    struct branches *b = xcalloc(1, sizeof *b);
    size_t partitions = (size_t)s->partitions_max + 1;
    b->records = xcalloc(partitions, sizeof *b->records);
    b->told = xcalloc(partitions * (size_t)s->processes_count, sizeof *b->told);
    s->branches = b;
}

void branches_free(struct sim *s) {
    if (!s->branches)
        return;
    free(s->branches->records);
    free(s->branches->told);
    free(s->branches);
}

static void on_sealed(struct sim *s, const struct replica_sealed *m) {
    if (m->damaged)
        sim_count(s, RARE_seals_damaged);
    else if (!m->granted)
        sim_count(s, RARE_seals_refused);
}

/* An epoch that was activating and never was: the next is for the set before it
 * again, or for both sets once more. */
static void on_abandoned(struct sim *s, const struct replica_record *was, const struct replica_record *is) {
    if (!is->activating && replica_set_equal(&is->current, &was->previous))
        sim_count(s, RARE_activations_undone);
    else if (is->activating)
        sim_count(s, RARE_activations_retried);
}

static void on_record(struct sim *s, uint64_t partition, const struct replica_record *is) {
    struct replica_record *was = &s->branches->records[partition];
    if (is->version <= was->version)
        return;
    bool next = is->version == was->version + 1 && is->epoch > was->epoch;
    if (next && was->activating)
        on_abandoned(s, was, is);
    if (next && is->leader != was->leader)
        sim_count(s, is->wait_lease ? RARE_leases_waited : RARE_leases_skipped);
    if (next && is->wait_lease && was->wait_lease)
        sim_count(s, RARE_leases_carried);
    *was = *is;
}

static void on_piece(struct sim *s, int to, uint64_t partition, const struct replica_piece *m) {
    struct told *g = &s->branches->told[(uint64_t)to * (s->partitions_max + 1) + partition];
    if (m->number == 0 && g->open && g->base_index != m->base_index)
        sim_count(s, RARE_checkpoints_abandoned);
    g->base_index = m->base_index;
    g->open = !m->last;
}

static void on_fenced(struct sim *s, int to, uint64_t partition, uint64_t promise) {
    struct told *g = &s->branches->told[(uint64_t)to * (s->partitions_max + 1) + partition];
    if (promise == g->promise)
        sim_count(s, RARE_promises_repeated);
    if (promise > g->promise)
        g->promise = promise;
}

void branches_message(struct sim *s, int to, const struct message *m) {
    if (!s->branches)
        return;
    if (m->type == M_SEALED && !m->sealed.unknown)
        on_sealed(s, &m->sealed.sealed);
    else if (m->type == M_RECORD && !m->record.removed)
        on_record(s, m->partition, &m->record.record);
    else if (m->type == M_PIECE)
        on_piece(s, to, m->partition, &m->piece);
    else if (m->type == M_PIECED && m->pieced.refused)
        sim_count(s, RARE_checkpoints_abandoned);
    else if (m->type == M_FENCED)
        on_fenced(s, to, m->partition, m->promise);
    else if (m->type == M_PRE_VOTED && !m->answer.granted)
        sim_count(s, RARE_pre_votes_refused);
}

void branches_entry(struct sim *s, const struct entry *e) {
    if (e->type == ENTRY_PRODUCER_DROP)
        sim_count(s, RARE_producers_dropped);
}

static void count_subscription(struct sim *s, const struct subscription_stats *t) {
    if (t->expired)
        sim_count(s, RARE_expired);
    if (t->dropped)
        sim_count(s, RARE_overflowed);
}

void branches_end(struct sim *s) {
    struct subscription_stats t;
    for (uint64_t id = 1; id <= s->partitions_max; id++) {
        for (int i = 0; i < s->processes_count; i++) {
            struct process *p = &s->processes[i];
            struct partition *copy = p->kind == PROCESS_SHARD && p->up ? shard_partition(p, id) : NULL;
            if (!copy || !mailbox_leading(copy->mailbox))
                continue;
            for (size_t k = 0; mailbox_subscription_stats(copy->mailbox, k, &t); k++)
                count_subscription(s, &t);
        }
    }
}

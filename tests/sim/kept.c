// SPDX-License-Identifier: Apache-2.0
/*
 * What a shard has answered for it keeps: after a restart a copy still has the promises
 * it gave and the entries that it said are stored, or knows that it is damaged; it
 * never cuts what it has applied. And what an earlier leader delivered goes to nobody
 * before the gateways have said what their consumers hold, or their time is over.
 */
#include <stdlib.h>

#include "base/xalloc.h"
#include "check.h"
#include "clients.h"
#include "kept.h"

enum { GATEWAYS_MAX = 8 }; /* of a small world */

struct answered {  /* by a process for a partition */
    member_t self; /* another one after its disk was replaced */
    uint64_t promise, last;
    uint64_t installed; /* by this sync at the earliest: the checkpoint that it took last */
};

struct inherited { /* by the newest leader of a partition */
    uint64_t epoch, offset;
    usec_t until;
    uint64_t gateways[GATEWAYS_MAX]; /* links; 0: has presented */
    size_t count;
};

struct kept {
    struct answered *answered;   /* [processes][partitions_max + 1] */
    struct inherited *inherited; /* [partitions_max + 1] */
};

static struct kept *kept(struct sim *s) {
    if (!s->kept) {
        s->kept = xcalloc(1, sizeof *s->kept);
        s->kept->answered =
            xcalloc((size_t)s->processes_count * (s->partitions_max + 1), sizeof *s->kept->answered);
        s->kept->inherited = xcalloc(s->partitions_max + 1, sizeof *s->kept->inherited);
    }
    return s->kept;
}

static struct answered *answered(struct process *p, uint64_t partition) {
    struct answered *a = &kept(p->sim)->answered[(size_t)p->id * (p->sim->partitions_max + 1) + partition];
    if (a->self != p->self)
        *a = (struct answered){.self = p->self};
    return a;
}

static bool synced(struct sim *s, uint64_t partition) {
    const struct box *b = clients_box_of(s, partition);
    return b && b->settings.durability == DURABILITY_SYNCED;
}

static bool watched(const struct process *p) {
    return p->kind == PROCESS_SHARD && p->sim->branches;
}

static void stored(struct process *p, uint64_t partition, uint64_t last) {
    struct answered *a = answered(p, partition);
    if (last > a->last && synced(p->sim, partition))
        a->last = last;
}

void kept_answer(struct process *p, const struct message *m) {
    if (!watched(p))
        return;
    if (m->type == M_SEALED && !m->sealed.unknown && m->sealed.sealed.granted) {
        struct answered *a = answered(p, m->partition);
        if (m->sealed.sealed.epoch > a->promise)
            a->promise = m->sealed.sealed.epoch;
    } else if (m->type == M_APPENDED && m->appended.status == REPLICA_APPEND_STORED) {
        stored(p, m->partition, m->appended.verified);
    } else if (m->type == M_PIECED && m->pieced.done) {
        if (p->syncs_done < answered(p, m->partition)->installed)
            sim_violation(p->sim, "durable",
                          "p%d: %s says that it has the checkpoint at %llu, not yet synced",
                          (int)m->partition, p->name, (unsigned long long)m->pieced.base_index);
        stored(p, m->partition, m->pieced.base_index);
    }
}

void kept_opened(struct process *p, uint64_t partition) {
    struct journal_partition jp = {0};
    if (!watched(p))
        return;
    struct answered *a = answered(p, partition);
    bool known = journal_get(p->journal, partition, &jp);
    if (jp.damaged || (!known && journal_suspect(p->journal, partition)))
        return;
    if (jp.promise < a->promise)
        sim_violation(p->sim, "fenced", "p%d: %s promised epoch %llu, and knows of %llu only", (int)partition,
                      p->name, (unsigned long long)a->promise, (unsigned long long)jp.promise);
    a->installed = 0;
    if (jp.dropped)
        a->last = 0;
    else if (jp.last_index < a->last)
        sim_violation(p->sim, "durable", "p%d: %s said that it has stored %llu, and has %llu", (int)partition,
                      p->name, (unsigned long long)a->last, (unsigned long long)jp.last_index);
}

void kept_cut(struct process *p, uint64_t partition, uint64_t index) {
    if (!watched(p))
        return;
    struct answered *a = answered(p, partition);
    const struct partition *at = shard_partition(p, partition);
    if (a->last > index)
        a->last = index;
    if (at && at->applied > index && !replica_damaged(at->replica))
        sim_violation(p->sim, "durable", "p%d: %s cuts above %llu, and has applied %llu", (int)partition,
                      p->name, (unsigned long long)index, (unsigned long long)at->applied);
}

/* All anew: a checkpoint takes the place of its log. */
void kept_installs(struct process *p, uint64_t partition) {
    if (!watched(p))
        return;
    answered(p, partition)->last = 0;
    answered(p, partition)->installed = p->syncs_begun + 1;
}

/* ---- what a new leader inherits ---- */

void kept_led(struct process *p, uint64_t partition, uint64_t epoch, const uint64_t *gateways, size_t count) {
    if (!watched(p))
        return;
    struct inherited *i = &kept(p->sim)->inherited[partition];
    *i = (struct inherited){.epoch = epoch,
                            .offset = checker_next_offset(p->sim, partition),
                            .until = p->sim->now + p->sim->failure_timeout};
    for (; i->count < count && i->count < GATEWAYS_MAX; i->count++)
        i->gateways[i->count] = gateways[i->count];
}

void kept_presented(struct process *p, uint64_t partition, uint64_t epoch, uint64_t link) {
    if (!watched(p))
        return;
    struct inherited *i = &kept(p->sim)->inherited[partition];
    for (size_t k = 0; k < i->count && i->epoch == epoch; k++)
        if (i->gateways[k] == link)
            i->gateways[k] = 0;
}

/* Who got it last is alive, has it still and will ack it. */
static bool works_on(struct sim *s, const struct history *h, uint64_t partition, uint64_t offset) {
    const struct consumer *c = &s->clients->consumers[h->consumer];
    for (int i = 0; c->alive && i < c->held_count; i++)
        if (c->held[i].partition == partition && c->held[i].offset == offset && c->held[i].epoch == h->epoch)
            return c->held[i].kind == SETTLE_ACK;
    return false;
}

void kept_delivers(struct process *p, uint64_t partition, int subscription, uint64_t offset, uint64_t epoch) {
    if (!watched(p))
        return;
    const struct inherited *i = &kept(p->sim)->inherited[partition];
    const struct history *h = check_history(check_log(p->sim, partition), subscription, offset);
    if (i->epoch != epoch || offset >= i->offset || p->sim->now >= i->until || !h->delivered || h->done ||
        h->epoch >= epoch)
        return;
    for (size_t k = 0; k < i->count; k++)
        if (i->gateways[k] &&
            network_by_instance(p, i->gateways[k]) == p->sim->clients->consumers[h->consumer].gateway &&
            works_on(p->sim, h, partition, offset))
            sim_violation(
                p->sim, "fenced",
                "p%d: %s delivers offset %llu, which consumer %d has of epoch %llu, and its gateway "
                "has not said so yet",
                (int)partition, p->name, (unsigned long long)offset, h->consumer,
                (unsigned long long)h->epoch);
}

void kept_free(struct sim *s) {
    if (!s->kept)
        return;
    free(s->kept->answered);
    free(s->kept->inherited);
    free(s->kept);
}

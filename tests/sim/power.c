// SPDX-License-Identifier: Apache-2.0
/*
 * Durability written: which copies have lost what they had not synced (their node's
 * power, or their disk, failed) and are not whole again. Only while a majority of a
 * partition's set is in that case may what was committed be lost (check.c). Kept from
 * outside: by what was done to the nodes, not by what the copies say of themselves,
 * but for that they are whole again.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "clients.h"

struct power {
    bool *shaky; /* [processes][partitions_max + 1] */
    struct replica_record *records;
    bool *lost; /* by partition: a majority was shaky at once, and no epoch began since */
};

static bool *shaky(struct sim *s, int process, uint64_t partition) {
    return &s->power->shaky[(size_t)process * (s->partitions_max + 1) + partition];
}

static const struct replica_record *known(struct process *p, uint64_t partition) {
    if (!p->up || p->kind == PROCESS_GATEWAY)
        return NULL;
    if (p->kind == PROCESS_SHARD)
        return shard_record(p, partition);
    const struct metadata_partition *m = metadata_partition(controller_metadata(p), partition);
    return m ? &m->record : NULL;
}

static const struct replica_record *newest(struct sim *s, uint64_t partition) {
    struct replica_record *best = &s->power->records[partition];
    for (int i = 0; i < s->processes_count; i++) {
        const struct replica_record *r = known(&s->processes[i], partition);
        if (r && r->version > best->version)
            *best = *r;
    }
    return best;
}

static bool majority_shaky(struct sim *s, uint64_t partition, const struct replica_set *set) {
    uint32_t count = 0;
    for (int i = 0; i < s->processes_count; i++)
        count += s->processes[i].kind == PROCESS_SHARD && replica_set_has(set, s->processes[i].self) &&
                 *shaky(s, i, partition);
    return count * 2 > set->count && set->count;
}

static bool any_majority_shaky(struct sim *s, uint64_t partition) {
    const struct replica_record *r = newest(s, partition);
    return majority_shaky(s, partition, &r->current) || majority_shaky(s, partition, &r->previous);
}

static void begin(struct sim *s) {
    s->power = xcalloc(1, sizeof *s->power);
    s->power->shaky = xcalloc((size_t)s->processes_count * (s->partitions_max + 1), sizeof(bool));
    s->power->records = xcalloc(s->partitions_max + 1, sizeof(struct replica_record));
    s->power->lost = xcalloc(s->partitions_max + 1, sizeof(bool));
}

/* As far as the clients know the mailbox: one that is just being made may be. */
static bool written(struct sim *s, uint64_t partition) {
    const struct box *b = clients_box_of(s, partition);
    return !b || b->settings.durability == DURABILITY_WRITTEN;
}

/* Before the processes end: they know the newest records. */
void power_lost(struct sim *s, struct process *p) {
    for (uint64_t k = 1; p->kind == PROCESS_SHARD && k <= s->partitions_max; k++) {
        if (!written(s, k))
            continue;
        if (!s->power)
            begin(s);
        newest(s, k);
        *shaky(s, p->id, k) = true;
        if (!s->power->lost[k] && any_majority_shaky(s, k))
            s->power->lost[k] = true;
    }
}

void power_whole(struct process *p, uint64_t partition) {
    if (p->sim->power)
        *shaky(p->sim, p->id, partition) = false;
}

bool power_may_lose(struct sim *s, uint64_t partition) {
    return s->power && written(s, partition) &&
           (s->power->lost[partition] || any_majority_shaky(s, partition));
}

/* An epoch has begun: what it has is not lost by what was before. Its record is kept:
 * when the power goes, all who know it may be dead already. */
void power_settled(struct sim *s, uint64_t partition) {
    if (!partition)
        return;
    if (!s->power)
        begin(s);
    newest(s, partition);
    s->power->lost[partition] = any_majority_shaky(s, partition);
}

void power_free(struct sim *s) {
    if (!s->power)
        return;
    free(s->power->shaky);
    free(s->power->records);
    free(s->power->lost);
    free(s->power);
}

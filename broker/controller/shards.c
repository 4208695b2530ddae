// SPDX-License-Identifier: Apache-2.0
/*
 * All shards of the cluster. Every controller keeps links to them, so that whoever
 * leads next can seal at once; only the leading one seals. The own shards get the
 * map of members and their records from here whoever leads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "controller/core_private.h"

struct shard_peer *shards_member(struct core *c, member_t m) {
    CORE_SHARDS_EACH(c, s)
    if (m && s->member == m)
        return s;
    return NULL;
}

struct shard_peer *shards_find(struct core *c, uint32_t node, unsigned index, bool own) {
    CORE_SHARDS_EACH(c, s)
    if (s->index == index && (own ? s->own : s->node == node && !s->own))
        return s;
    return NULL;
}

static struct shard_peer *add(struct core *c, uint32_t node, unsigned index, bool own) {
    struct shard_peer *s = shards_find(c, node, index, own);
    if (s)
        return s;
    s = xcalloc(1, sizeof *s);
    *s = (struct shard_peer){.node = node, .index = index, .own = own, .next = c->shards};
    c->shards = s;
    return s;
}

bool shards_own_known(const struct core *c) {
    unsigned known = 0;
    CORE_SHARDS_EACH(c, s)
    known += s->own && s->member;
    return known == c->config->shards;
}

static void order(struct core *c, struct shard_peer *s, const struct shard_order *o) {
    c->host->order(c->host_context, s, o);
}

/* ---- records ---- */

static void send_records(struct core *c, struct shard_peer *s, const uint64_t *partitions, size_t count,
                         bool complete) {
    size_t at = 0;
    do {
        size_t n = count - at < CORE_RECORDS_AN_ORDER ? count - at : CORE_RECORDS_AN_ORDER;
        order(c, s,
              &(struct shard_order){.type = SHARD_RECORDS,
                                    .term = c->leads ? replica_epoch(c->replica) : 0,
                                    .records = {.partitions = count ? partitions + at : NULL,
                                                .count = n,
                                                .complete = complete && at + n == count}});
        at += n;
    } while (at < count);
}

static bool concerns(const struct core *c, const struct shard_peer *s, const struct metadata_partition *p) {
    return metadata_holds(&p->record, s->member) || metadata_drop_find(c->metadata, p->id, s->member);
}

/* Everything this shard holds, or is to drop because its mailbox is gone. */
static void send_everything(struct core *c, struct shard_peer *s) {
    uint64_t *list = NULL;
    size_t count = 0, capacity = 0;
    const struct metadata_partition *p = NULL;
    while ((p = metadata_partition_next(c->metadata, p ? p->id : 0))) {
        if (!concerns(c, s, p))
            continue;
        xgrow(&list, &capacity, count + 1, sizeof *list);
        list[count++] = p->id;
    }
    send_records(c, s, list, count, s->own);
    free(list);
}

/* At the end of the turn, once: see shards_turn. */
static void record_due(struct shard_peer *s, uint64_t partition) {
    xgrow(&s->records, &s->records_capacity, s->records_count + 1, sizeof *s->records);
    s->records[s->records_count++] = partition;
}

/* ---- what changed, to own shards ---- */

static void send_members(struct core *c, struct shard_peer *s) {
    order(c, s, &(struct shard_order){.type = SHARD_MEMBERS});
}

static void changed(struct core *c, struct shard_peer *s, const struct metadata_changes *changes) {
    for (size_t i = 0; i < changes->partitions_count; i++) {
        const struct metadata_partition *p = metadata_partition(c->metadata, changes->partitions[i]);
        if (!p || concerns(c, s, p))
            record_due(s, changes->partitions[i]);
    }
    for (size_t i = 0; i < changes->mailboxes_count; i++) {
        const struct metadata_mailbox *b = metadata_mailbox(c->metadata, changes->mailboxes[i]);
        for (uint32_t k = 0; b && k < b->partitions_count; k++)
            if (concerns(c, s, metadata_partition(c->metadata, b->partitions[k])))
                record_due(s, b->partitions[k]);
    }
}

void shards_changed(struct core *c, const struct metadata_changes *changes) {
    CORE_SHARDS_EACH(c, s) {
        if (!s->own || !s->up)
            continue;
        if (changes->everything || changes->nodes_count)
            send_members(c, s);
        if (changes->everything)
            send_everything(c, s);
        else
            changed(c, s, changes);
    }
}

static void send_lead(struct core *c, struct shard_peer *s) {
    order(c, s, &(struct shard_order){.type = SHARD_LEAD, .term = replica_epoch(c->replica)});
}

/* Its own controller is there and tells it of every record. */
static bool told_by_own(const struct core *c, const struct shard_peer *s) {
    return s->own || detector_process(c->detector, s->node, DETECTOR_CONTROLLER) == DETECTOR_UP;
}

/* All records to all shards would keep a new leader from its heartbeats in a large
 * cluster: only those hear them that nobody else tells. What is not led nevertheless
 * is found and told by control. */
void shards_lead(struct core *c) {
    CORE_SHARDS_EACH(c, s) {
        if (!s->up)
            continue;
        send_lead(c, s);
        if (!told_by_own(c, s))
            send_everything(c, s);
    }
}

/* ---- the leading controller's orders ---- */

void shards_order(struct core *c, const struct control_effect *e) {
    struct shard_peer *s = shards_member(c, e->member);
    if (!s || !s->up)
        return; /* control asks again */
    if (e->type == CONTROL_SEND_RECORD) {
        record_due(s, e->partition);
    } else if (e->type == CONTROL_SEND_SEAL) {
        xgrow(&s->seals, &s->seals_capacity, s->seals_count + 1, sizeof *s->seals);
        s->seals[s->seals_count++] = (struct shard_seal){.partition = e->partition, .seal = e->seal};
    } else if (e->type == CONTROL_SEND_HOLD) {
        order(c, s,
              &(struct shard_order){.type = SHARD_HOLD,
                                    .partition = e->partition,
                                    .hold = {.target = e->hold.target, .at_most = e->hold.at_most}});
    } else if (e->type == CONTROL_SEND_DROP) {
        order(c, s,
              &(struct shard_order){.type = SHARD_DROP, .partition = e->partition, .epoch = e->drop.epoch});
    }
}

static int by_id(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void send_due_records(struct core *c, struct shard_peer *s) {
    size_t kept = 0;
    qsort(s->records, s->records_count, sizeof *s->records, by_id);
    for (size_t i = 0; i < s->records_count; i++)
        if (kept == 0 || s->records[i] != s->records[kept - 1])
            s->records[kept++] = s->records[i];
    send_records(c, s, s->records, kept, false);
}

/* Records first: a seal of a partition the shard has not been told of says nothing. */
void shards_turn(struct core *c) {
    CORE_SHARDS_EACH(c, s) {
        if (s->records_count && s->up)
            send_due_records(c, s);
        if (s->seals_count && s->up)
            order(c, s,
                  &(struct shard_order){.type = SHARD_SEALS,
                                        .seals = {.items = s->seals, .count = s->seals_count}});
        s->records_count = s->seals_count = 0;
    }
}

/* ---- what shards say ---- */

void shards_on_sealed(struct core *c, uint64_t partition, const struct replica_sealed *m, bool unknown) {
    if (c->leads)
        control_on_sealed(c->control, partition, m, unknown, core_now(c), &c->control_effects);
}

void shards_on_report(struct core *c, const struct control_report *m) {
    if (c->leads)
        control_on_report(c->control, m, core_now(c), &c->control_effects);
}

void shards_on_load(struct core *c, struct shard_peer *s, uint32_t leaders, uint64_t backlog) {
    s->leaders = leaders;
    s->backlog = backlog;
    if (c->leads)
        control_load(c->control, s->member, backlog);
}

/* ---- alive ---- */

static uint32_t node_of(const struct core *c, const struct shard_peer *s) {
    const struct metadata_node *own = metadata_node_named(c->metadata, c->config->node);
    return s->own ? (own ? own->id : 0) : s->node;
}

void shards_heard(struct core *c, struct shard_peer *s) {
    uint32_t node = node_of(c, s);
    if (node)
        detector_heard(c->detector, node, (int)s->index, core_now(c), &c->detected);
    if (c->detected.count)
        group_detected(c);
}

void shards_refused(struct core *c, struct shard_peer *s) {
    uint32_t node = node_of(c, s);
    if (node)
        detector_gone(c->detector, node, (int)s->index, core_now(c), &c->detected);
    group_detected(c);
}

void shards_own_gone(struct core *c, unsigned index) {
    struct shard_peer *s = shards_find(c, 0, index, true);
    if (s)
        shards_refused(c, s);
}

/* ---- links ---- */

struct shard_peer *shards_own_up(struct core *c, unsigned index) {
    return add(c, 0, index, true);
}

bool shards_up(struct core *c, struct shard_peer *s, member_t member) {
    if (!s->own && s->member != member)
        return false;
    if (s->member != member)
        c->introduced = false; /* new, or with another disk: the others are to know (forming_check) */
    s->member = member;
    s->up = true;
    shards_heard(c, s);
    if (s->own)
        send_members(c, s);
    if (s->own || c->leads)
        send_everything(c, s);
    if (c->leads) {
        send_lead(c, s);
        control_member(c->control, s->member, DETECTOR_UP, core_now(c), &c->control_effects);
        group_run(c);
    }
    forming_check(c);
    return true;
}

void shards_down(struct core *c, struct shard_peer *s) {
    (void)c;
    s->up = false;
}

bool shards_address(const struct metadata_node *n, uint32_t index, char *out, size_t size) {
    const char *colon = strrchr(n->info.cluster_address, ':');
    if (!colon)
        return false;
    snprintf(out, size, "%.*s:%d", (int)(colon - n->info.cluster_address), n->info.cluster_address,
             atoi(colon + 1) + 1 + (int)index);
    return true;
}

static void refresh_node(struct core *c, const struct metadata_node *n) {
    char address[NODE_ADDRESS_BYTES_MAX + 16];
    if (strcmp(n->info.name, c->config->node) == 0 || n->state == NODE_LEFT)
        return;
    for (uint32_t i = 0; i < n->info.shards_count; i++) {
        if (!shards_address(n, i, address, sizeof address))
            continue;
        struct shard_peer *s = add(c, n->id, i, false);
        if (s->member != n->info.shards[i] && s->up) { /* its identity has changed */
            s->up = false;
            c->host->close_shard(c->host_context, s);
        }
        s->member = n->info.shards[i];
        c->host->dial_shard(c->host_context, s, address);
    }
}

void shards_refresh(struct core *c) {
    for (size_t i = 0; i < metadata_nodes_count(c->metadata); i++)
        refresh_node(c, metadata_node_at(c->metadata, i));
    CORE_SHARDS_EACH(c, s)
    if (s->own && s->up)
        shards_heard(c, s);
}

void shards_forget(struct core *c) {
    while (c->shards) {
        struct shard_peer *s = c->shards;
        c->shards = s->next;
        free(s->seals);
        free(s->records);
        free(s);
    }
}

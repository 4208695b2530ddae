// SPDX-License-Identifier: Apache-2.0
#include "cluster/metadata.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "cluster/metadata_private.h"

struct metadata *metadata_new(void) {
    struct metadata *m = xcalloc(1, sizeof *m);
    metadata_clear(m);
    return m;
}

static void mailbox_slot_free(struct mailbox_slot *s) {
    free(s->mailbox.partitions);
    free(s->mailbox.subscriptions);
    free(s);
}

static void members_clear(struct metadata *m) {
    struct member_slot *s, *next;
    HASH_ITER(hh, m->members, s, next) {
        HASH_DEL(m->members, s);
        free(s);
    }
}

static void dead_letters_clear(struct metadata *m) {
    struct dead_letter_slot *s, *next;
    HASH_ITER(hh, m->dead_letters, s, next) {
        HASH_DEL(m->dead_letters, s);
        free(s);
    }
}

void metadata_clear(struct metadata *m) {
    HASH_CLEAR(hh, m->names);
    for (size_t i = 0; i < m->mailboxes_count; i++)
        mailbox_slot_free(m->mailboxes[i]);
    for (size_t i = 0; i < m->partitions_count; i++)
        free(m->partitions[i]);
    members_clear(m);
    dead_letters_clear(m);
    free(m->nodes);
    free(m->mailboxes);
    free(m->partitions);
    free(m->drops);
    *m = (struct metadata){.next_node = 1, .next_mailbox = 1, .next_partition = 1};
}

void metadata_free(struct metadata *m) {
    if (!m)
        return;
    metadata_clear(m);
    free(m);
}

/* ---- changes ---- */

void metadata_changes_clear(struct metadata_changes *c) {
    c->everything = false;
    c->nodes_count = c->mailboxes_count = c->partitions_count = c->drops_count = 0;
}

void metadata_changes_free(struct metadata_changes *c) {
    free(c->nodes);
    free(c->mailboxes);
    free(c->partitions);
    free(c->drops);
    *c = (struct metadata_changes){0};
}

void metadata_changed_node(struct metadata_changes *c, uint32_t id) {
    xgrow(&c->nodes, &c->nodes_capacity, c->nodes_count + 1, sizeof *c->nodes);
    c->nodes[c->nodes_count++] = id;
}

void metadata_changed_mailbox(struct metadata_changes *c, uint64_t id) {
    xgrow(&c->mailboxes, &c->mailboxes_capacity, c->mailboxes_count + 1, sizeof *c->mailboxes);
    c->mailboxes[c->mailboxes_count++] = id;
}

void metadata_changed_partition(struct metadata_changes *c, uint64_t id) {
    xgrow(&c->partitions, &c->partitions_capacity, c->partitions_count + 1, sizeof *c->partitions);
    c->partitions[c->partitions_count++] = id;
}

void metadata_changed_drop(struct metadata_changes *c, const struct metadata_drop *d) {
    xgrow(&c->drops, &c->drops_capacity, c->drops_count + 1, sizeof *c->drops);
    c->drops[c->drops_count++] = *d;
}

/* ---- tables ---- */

struct mailbox_slot *metadata_slot_named(const struct metadata *m, const char *name) {
    struct mailbox_slot *s;
    HASH_FIND_STR(m->names, name, s);
    return s;
}

/* First position whose id is >= id. */
static size_t mailbox_at(const struct metadata *m, uint64_t id) {
    size_t low = 0, high = m->mailboxes_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (m->mailboxes[middle]->mailbox.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t partition_at(const struct metadata *m, uint64_t id) {
    size_t low = 0, high = m->partitions_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (m->partitions[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void metadata_insert_mailbox(struct metadata *m, struct mailbox_slot *slot) {
    CHECK(m->mailboxes_count == 0 || m->mailboxes[m->mailboxes_count - 1]->mailbox.id < slot->mailbox.id);
    xgrow(&m->mailboxes, &m->mailboxes_capacity, m->mailboxes_count + 1, sizeof(void *));
    m->mailboxes[m->mailboxes_count++] = slot;
    HASH_ADD_STR(m->names, mailbox.name, slot);
    metadata_dead_letter_count(m, slot->mailbox.settings.dead_letter, 1);
}

void metadata_insert_partition(struct metadata *m, struct metadata_partition *p) {
    CHECK(m->partitions_count == 0 || m->partitions[m->partitions_count - 1]->id < p->id);
    xgrow(&m->partitions, &m->partitions_capacity, m->partitions_count + 1, sizeof(void *));
    m->partitions[m->partitions_count++] = p;
}

void metadata_remove_mailbox(struct metadata *m, struct mailbox_slot *slot) {
    size_t at = mailbox_at(m, slot->mailbox.id);
    metadata_dead_letter_count(m, slot->mailbox.settings.dead_letter, -1);
    HASH_DEL(m->names, slot);
    m->mailboxes_count--;
    memmove(m->mailboxes + at, m->mailboxes + at + 1, (m->mailboxes_count - at) * sizeof(void *));
    mailbox_slot_free(slot);
}

void metadata_remove_partition(struct metadata *m, uint64_t id) {
    size_t at = partition_at(m, id);
    free(m->partitions[at]);
    m->partitions_count--;
    memmove(m->partitions + at, m->partitions + at + 1, (m->partitions_count - at) * sizeof(void *));
}

static void member_add(struct metadata *m, member_t member, size_t node, int shard) {
    struct member_slot *s;
    HASH_FIND(hh, m->members, &member, sizeof member, s);
    if (member == 0 || s)
        return;
    s = xcalloc(1, sizeof *s);
    *s = (struct member_slot){.member = member, .node = node, .shard = shard};
    HASH_ADD(hh, m->members, member, sizeof s->member, s);
}

void metadata_index_members(struct metadata *m) {
    members_clear(m);
    for (size_t i = 0; i < m->nodes_count; i++) {
        const struct metadata_node *n = &m->nodes[i];
        if (n->state == NODE_LEFT)
            continue;
        member_add(m, n->info.controller, i, -1);
        for (uint32_t s = 0; s < n->info.shards_count; s++)
            member_add(m, n->info.shards[s], i, (int)s);
    }
}

void metadata_dead_letter_count(struct metadata *m, const char *name, int by) {
    if (name[0] == 0)
        return;
    struct dead_letter_slot *s;
    HASH_FIND_STR(m->dead_letters, name, s);
    if (!s) {
        s = xcalloc(1, sizeof *s);
        strcpy(s->name, name);
        HASH_ADD_STR(m->dead_letters, name, s);
    }
    s->users += (uint32_t)by;
    if (s->users == 0) {
        HASH_DEL(m->dead_letters, s);
        free(s);
    }
}

static int drop_compare(const struct metadata_drop *d, uint64_t partition, member_t member) {
    if (d->partition != partition)
        return d->partition < partition ? -1 : 1;
    return d->member < member ? -1 : d->member > member;
}

static size_t drop_at(const struct metadata *m, uint64_t partition, member_t member) {
    size_t low = 0, high = m->drops_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (drop_compare(&m->drops[middle], partition, member) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void metadata_drop_insert(struct metadata *m, const struct metadata_drop *d) {
    size_t at = drop_at(m, d->partition, d->member);
    if (at == m->drops_count || drop_compare(&m->drops[at], d->partition, d->member) != 0) {
        xgrow(&m->drops, &m->drops_capacity, m->drops_count + 1, sizeof *m->drops);
        memmove(m->drops + at + 1, m->drops + at, (m->drops_count - at) * sizeof *m->drops);
        m->drops_count++;
    }
    m->drops[at] = *d;
}

bool metadata_drop_remove(struct metadata *m, uint64_t partition, member_t member) {
    size_t at = drop_at(m, partition, member);
    if (at == m->drops_count || drop_compare(&m->drops[at], partition, member) != 0)
        return false;
    m->drops_count--;
    memmove(m->drops + at, m->drops + at + 1, (m->drops_count - at) * sizeof *m->drops);
    return true;
}

/* ---- questions ---- */

uint64_t metadata_index(const struct metadata *m) {
    return m->index;
}

const char *metadata_cluster(const struct metadata *m) {
    return m->cluster;
}

uint64_t metadata_cluster_id(const struct metadata *m) {
    return m->cluster_id;
}

size_t metadata_nodes_count(const struct metadata *m) {
    return m->nodes_count;
}

const struct metadata_node *metadata_node_at(const struct metadata *m, size_t i) {
    return &m->nodes[i];
}

const struct metadata_node *metadata_node(const struct metadata *m, uint32_t id) {
    /* ids are given in order and nodes are never removed */
    return id >= 1 && id <= m->nodes_count ? &m->nodes[id - 1] : NULL;
}

const struct metadata_node *metadata_node_named(const struct metadata *m, const char *name) {
    for (size_t i = 0; i < m->nodes_count; i++) {
        if (strcmp(m->nodes[i].info.name, name) == 0)
            return &m->nodes[i];
    }
    return NULL;
}

const struct metadata_node *metadata_node_of(const struct metadata *m, member_t member, int *shard) {
    struct member_slot *s;
    HASH_FIND(hh, m->members, &member, sizeof member, s);
    if (!s)
        return NULL;
    if (shard)
        *shard = s->shard;
    return &m->nodes[s->node];
}

size_t metadata_nodes_in(const struct metadata *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->nodes_count; i++)
        n += m->nodes[i].state != NODE_LEFT;
    return n;
}

size_t metadata_nodes_usable(const struct metadata *m) {
    size_t n = 0;
    for (size_t i = 0; i < m->nodes_count; i++)
        n += m->nodes[i].state == NODE_ALIVE;
    return n;
}

size_t metadata_mailboxes_count(const struct metadata *m) {
    return m->mailboxes_count;
}

const struct metadata_mailbox *metadata_mailbox(const struct metadata *m, uint64_t id) {
    size_t at = mailbox_at(m, id);
    return at < m->mailboxes_count && m->mailboxes[at]->mailbox.id == id ? &m->mailboxes[at]->mailbox : NULL;
}

const struct metadata_mailbox *metadata_mailbox_named(const struct metadata *m, const char *name) {
    struct mailbox_slot *s = metadata_slot_named(m, name);
    return s ? &s->mailbox : NULL;
}

const struct metadata_mailbox *metadata_mailbox_next(const struct metadata *m, uint64_t after) {
    size_t at = mailbox_at(m, after + 1);
    return at < m->mailboxes_count ? &m->mailboxes[at]->mailbox : NULL;
}

size_t metadata_partitions_count(const struct metadata *m) {
    return m->partitions_count;
}

struct metadata_partition *metadata_partition_mutable(const struct metadata *m, uint64_t id) {
    size_t at = partition_at(m, id);
    return at < m->partitions_count && m->partitions[at]->id == id ? m->partitions[at] : NULL;
}

const struct metadata_partition *metadata_partition(const struct metadata *m, uint64_t id) {
    return metadata_partition_mutable(m, id);
}

const struct metadata_partition *metadata_partition_next(const struct metadata *m, uint64_t after) {
    size_t at = partition_at(m, after + 1);
    return at < m->partitions_count ? m->partitions[at] : NULL;
}

bool metadata_quarantined(const struct metadata_partition *p) {
    return p->crashes >= METADATA_CRASHES_MAX;
}

bool metadata_holds(const struct replica_record *r, member_t member) {
    return replica_set_has(&r->current, member) || replica_set_has(&r->previous, member) ||
           replica_set_has(&r->learners, member);
}

size_t metadata_drops_count(const struct metadata *m) {
    return m->drops_count;
}

const struct metadata_drop *metadata_drop_at(const struct metadata *m, size_t i) {
    return &m->drops[i];
}

const struct metadata_drop *metadata_drop_find(const struct metadata *m, uint64_t partition,
                                               member_t member) {
    size_t at = drop_at(m, partition, member);
    return at < m->drops_count && drop_compare(&m->drops[at], partition, member) == 0 ? &m->drops[at] : NULL;
}

uint32_t metadata_replicas(const struct metadata *m, const struct mailbox_settings *s) {
    size_t usable = metadata_nodes_usable(m);
    if (metadata_nodes_in(m) < 3 || usable == 0)
        return 1;
    return s->replicas < usable ? s->replicas : (uint32_t)usable;
}

uint32_t metadata_dead_letter_partitions(const struct metadata *m, const struct metadata_mailbox *b) {
    if (b->settings.dead_letter[0] == 0)
        return 0;
    const struct metadata_mailbox *target = metadata_mailbox_named(m, b->settings.dead_letter);
    return target ? target->partitions_count : 0;
}

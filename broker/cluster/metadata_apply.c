// SPDX-License-Identifier: Apache-2.0
/* What each command does. A command is checked whole before it changes anything. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "cluster/metadata_private.h"

/* A deleted partition's epochs end here: no seal under way can have promised more. */
#define REMOVED_EPOCH_MARGIN ((uint64_t)1 << 32)

/* Subscriptions begin at the first message: FROM_FIRST of mailbox/mailbox.h. */
enum { SUBSCRIBE_FROM_FIRST = 1 };

struct apply {
    struct metadata *m;
    struct metadata_result *result;
    struct metadata_changes *changes;
};

static void refuse(struct apply *a, enum err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct apply *a, enum err code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    a->result->code = code;
    vsnprintf(a->result->text, sizeof a->result->text, format, args);
    va_end(args);
}

/* ---- nodes ---- */

static bool node_valid(struct apply *a, const struct node_info *n) {
    if (!name_valid(n->name) || strlen(n->name) > NODE_NAME_BYTES_MAX)
        refuse(a, ERR_INVALID, "node name: expected 1 to %d of [A-Za-z0-9._-]", NODE_NAME_BYTES_MAX);
    else if (n->controller == 0 || n->shards_count == 0)
        refuse(a, ERR_INVALID, "node %s: expected a controller and at least one shard", n->name);
    return a->result->code == ERR_OK;
}

/* A member belongs to one node: the same identity twice is a copied data folder. */
static bool node_members_free(struct apply *a, const struct node_info *n) {
    for (int s = -1; s < (int)n->shards_count; s++) {
        member_t member = s < 0 ? n->controller : n->shards[s];
        const struct metadata_node *holder = metadata_node_of(a->m, member, NULL);
        if (holder && strcmp(holder->info.name, n->name) != 0) {
            refuse(a, ERR_EXISTS, "node %s: its data folder is a copy of that of node %s", n->name,
                   holder->info.name);
            return false;
        }
    }
    return true;
}

static void node_put(struct apply *a, const struct node_info *info) {
    struct metadata *m = a->m;
    struct metadata_node *n = (struct metadata_node *)metadata_node_named(m, info->name);
    if (!n) {
        xgrow(&m->nodes, &m->nodes_capacity, m->nodes_count + 1, sizeof *m->nodes);
        n = &m->nodes[m->nodes_count++];
        *n = (struct metadata_node){.id = m->next_node++};
    }
    n->info = *info;
    if (n->state == NODE_LEFT)
        n->state = NODE_ALIVE;
    metadata_index_members(m);
    metadata_changed_node(a->changes, n->id);
}

static void apply_form(struct apply *a, const struct command *c) {
    if (a->m->cluster_id) {
        refuse(a, ERR_EXISTS, "the cluster %s has formed", a->m->cluster);
        return;
    }
    if (!name_valid(c->form.cluster) || c->form.cluster_id == 0 || c->form.count == 0)
        refuse(a, ERR_INVALID, "expected a name, an id and at least one node");
    for (uint32_t i = 0; i < c->form.count && a->result->code == ERR_OK; i++)
        node_valid(a, &c->form.nodes[i]);
    if (a->result->code != ERR_OK)
        return;
    strcpy(a->m->cluster, c->form.cluster);
    a->m->cluster_id = c->form.cluster_id;
    for (uint32_t i = 0; i < c->form.count; i++)
        node_put(a, &c->form.nodes[i]);
}

static void apply_node_set(struct apply *a, const struct command *c) {
    if (!node_valid(a, &c->node) || !node_members_free(a, &c->node))
        return;
    const struct metadata_node *n = metadata_node_named(a->m, c->node.name);
    if (!n && (a->m->nodes_count >= METADATA_NODES_MAX || metadata_nodes_in(a->m) >= CLUSTER_NODES_MAX))
        refuse(a, ERR_FULL, "a cluster has at most %d nodes", CLUSTER_NODES_MAX);
    else
        node_put(a, &c->node);
}

/* A node that still holds replicas may not leave. */
static uint64_t node_holds(const struct metadata *m, const struct metadata_node *n) {
    uint64_t held = 0;
    for (size_t i = 0; i < m->partitions_count; i++) {
        for (uint32_t s = 0; s < n->info.shards_count; s++)
            held += metadata_holds(&m->partitions[i]->record, n->info.shards[s]);
    }
    return held;
}

static void apply_node_state(struct apply *a, const struct command *c) {
    struct metadata_node *n = (struct metadata_node *)metadata_node_named(a->m, c->node_state.name);
    if (!n || n->state == NODE_LEFT) {
        refuse(a, ERR_NOT_FOUND, "no node %s", c->node_state.name);
        return;
    }
    uint64_t held = c->node_state.state == NODE_LEFT ? node_holds(a->m, n) : 0;
    if (held) {
        refuse(a, ERR_UNSAFE, "node %s holds %llu replicas: drain it first", n->info.name,
               (unsigned long long)held);
        return;
    }
    n->state = c->node_state.state;
    metadata_index_members(a->m);
    metadata_changed_node(a->changes, n->id);
}

/* ---- mailboxes ---- */

/* The partitions' records carry settings, subscriptions and the dead-letter
 * mailbox's size: a change of those is a new version of the record. */
static void touch_mailbox(struct apply *a, const struct metadata_mailbox *b) {
    metadata_changed_mailbox(a->changes, b->id);
    for (uint32_t i = 0; i < b->partitions_count; i++) {
        metadata_partition_mutable(a->m, b->partitions[i])->record.version++;
        metadata_changed_partition(a->changes, b->partitions[i]);
    }
}

/* Those that name this mailbox as their dead-letter mailbox learn of its size. */
static void touch_dead_letter_users(struct apply *a, const char *name) {
    struct dead_letter_slot *s;
    HASH_FIND_STR(a->m->dead_letters, name, s);
    for (size_t i = 0; s && i < a->m->mailboxes_count; i++) {
        if (strcmp(a->m->mailboxes[i]->mailbox.settings.dead_letter, name) == 0)
            touch_mailbox(a, &a->m->mailboxes[i]->mailbox);
    }
}

static bool dead_letter_valid(struct apply *a, const char *name, const char *target) {
    if (target[0] == 0)
        return true;
    if (!name_valid(target)) {
        refuse(a, ERR_INVALID, "dead-letter: expected a mailbox name");
        return false;
    }
    for (int depth = 0; target[0]; depth++) {
        if (strcmp(target, name) == 0 || depth > METADATA_DEAD_LETTER_DEPTH_MAX) {
            refuse(a, ERR_INVALID, "dead-letter %s: leads back to %s", target, name);
            return false;
        }
        const struct metadata_mailbox *next = metadata_mailbox_named(a->m, target);
        target = next ? next->settings.dead_letter : "";
    }
    return true;
}

static bool settings_valid(struct apply *a, const char *name, const struct mailbox_settings *s) {
    if (!name_valid(name))
        refuse(a, ERR_INVALID, "mailbox name: expected 1 to %d of [A-Za-z0-9._-]", NAME_BYTES_MAX);
    else if (s->partitions < 1 || s->partitions > MAILBOX_PARTITIONS_MAX)
        refuse(a, ERR_INVALID, "partitions: expected 1 to %d", MAILBOX_PARTITIONS_MAX);
    else if (s->replicas < 1 || s->replicas > MAILBOX_REPLICAS_MAX)
        refuse(a, ERR_INVALID, "replicas: expected 1 to %d", MAILBOX_REPLICAS_MAX);
    else if (s->ack_timeout <= 0)
        refuse(a, ERR_INVALID, "ack-timeout: expected more than 0");
    else if (s->ttl < 0 || s->retain_time < 0)
        refuse(a, ERR_INVALID, "ttl, retain: expected a time not below 0");
    return a->result->code == ERR_OK && dead_letter_valid(a, name, s->dead_letter);
}

static const char *settings_difference(const struct mailbox_settings *a, const struct mailbox_settings *b) {
#define DIFFERS(field, word)                                                                                 \
    if (a->field != b->field)                                                                                \
        return word;
    DIFFERS(partitions, "partitions")
    DIFFERS(replicas, "replicas")
    DIFFERS(durability, "durability")
    DIFFERS(route, "route")
    DIFFERS(dispatch, "dispatch")
    DIFFERS(overflow, "overflow")
    DIFFERS(no_default, "no-default")
    DIFFERS(max_messages, "max-messages")
    DIFFERS(max_bytes, "max-bytes")
    DIFFERS(ttl, "ttl")
    DIFFERS(max_deliveries, "max-deliveries")
    DIFFERS(ack_timeout, "ack-timeout")
    DIFFERS(retain_time, "retain")
    DIFFERS(retain_bytes, "retain")
#undef DIFFERS
    return strcmp(a->dead_letter, b->dead_letter) ? "dead-letter" : NULL;
}

static bool placing_valid(struct apply *a, const struct command *c) {
    bool ok = c->mailbox_create.count == c->mailbox_create.settings.partitions;
    for (uint32_t i = 0; i < c->mailbox_create.count && ok; i++) {
        const struct placing *p = &c->mailbox_create.placing[i];
        ok = p->set.count > 0 && replica_set_has(&p->set, p->leader);
        for (uint32_t k = 0; k < p->set.count && ok; k++)
            ok = metadata_node_of(a->m, p->set.members[k], NULL) != NULL;
    }
    if (!ok)
        refuse(a, ERR_STALE, "its placement names shards that are not there");
    return ok;
}

static bool mailbox_new(struct apply *a, const struct command *c) {
    const char *name = c->mailbox_create.name;
    const struct mailbox_settings *s = &c->mailbox_create.settings;
    const struct mailbox_slot *slot = metadata_slot_named(a->m, name);
    const char *differs = slot ? settings_difference(&slot->mailbox.settings, s) : NULL;
    if (slot && differs)
        refuse(a, ERR_EXISTS, "mailbox %s exists with another %s", name, differs);
    if (slot)
        a->result->id = slot->mailbox.id;
    if (slot || !settings_valid(a, name, s))
        return false;
    if (a->m->mailboxes_count >= METADATA_MAILBOXES_MAX ||
        a->m->partitions_count + s->partitions > METADATA_PARTITIONS_MAX) {
        refuse(a, ERR_FULL, "a cluster has at most %d mailboxes and %d partitions", METADATA_MAILBOXES_MAX,
               METADATA_PARTITIONS_MAX);
        return false;
    }
    return placing_valid(a, c);
}

static uint64_t partition_create(struct apply *a, uint64_t mailbox, uint32_t number,
                                 const struct placing *at) {
    struct metadata_partition *p = xcalloc(1, sizeof *p);
    p->id = a->m->next_partition++;
    p->mailbox = mailbox;
    p->number = number;
    p->record.version = 1;
    p->record.epoch = METADATA_RECORD_EPOCH_FIRST;
    p->record.leader = at->leader;
    p->record.current = at->set;
    metadata_insert_partition(a->m, p);
    metadata_changed_partition(a->changes, p->id);
    return p->id;
}

static void apply_mailbox_create(struct apply *a, const struct command *c) {
    if (!mailbox_new(a, c))
        return;
    struct mailbox_slot *slot = xcalloc(1, sizeof *slot);
    struct metadata_mailbox *b = &slot->mailbox;
    b->id = a->m->next_mailbox++;
    strcpy(b->name, c->mailbox_create.name);
    b->settings = c->mailbox_create.settings;
    b->partitions_count = b->settings.partitions;
    b->partitions = xcalloc(b->partitions_count, sizeof *b->partitions);
    for (uint32_t i = 0; i < b->partitions_count; i++)
        b->partitions[i] = partition_create(a, b->id, i, &c->mailbox_create.placing[i]);
    if (!b->settings.no_default) {
        b->subscriptions = xcalloc(1, sizeof *b->subscriptions);
        b->subscriptions_count = 1;
        strcpy(b->subscriptions[0].name, "default");
        b->subscriptions[0].from = SUBSCRIBE_FROM_FIRST;
    }
    metadata_insert_mailbox(a->m, slot);
    a->result->id = b->id;
    metadata_changed_mailbox(a->changes, b->id);
    touch_dead_letter_users(a, b->name);
}

static struct mailbox_slot *mailbox_wanted(struct apply *a, const char *name) {
    struct mailbox_slot *slot = metadata_slot_named(a->m, name);
    if (!slot)
        refuse(a, ERR_NOT_FOUND, "no mailbox %s", name);
    return slot;
}

static void settings_merge(struct mailbox_settings *to, const struct mailbox_settings *from,
                           uint32_t fields) {
    if (fields & SETTINGS_MAX_MESSAGES)
        to->max_messages = from->max_messages;
    if (fields & SETTINGS_MAX_BYTES)
        to->max_bytes = from->max_bytes;
    if (fields & SETTINGS_TTL)
        to->ttl = from->ttl;
    if (fields & SETTINGS_MAX_DELIVERIES)
        to->max_deliveries = from->max_deliveries;
    if (fields & SETTINGS_DEAD_LETTER)
        memcpy(to->dead_letter, from->dead_letter, sizeof to->dead_letter);
    if (fields & SETTINGS_ACK_TIMEOUT)
        to->ack_timeout = from->ack_timeout;
    if (fields & SETTINGS_OVERFLOW)
        to->overflow = from->overflow;
    if (fields & SETTINGS_RETAIN) {
        to->retain_time = from->retain_time;
        to->retain_bytes = from->retain_bytes;
    }
}

static void apply_mailbox_update(struct apply *a, const struct command *c) {
    struct mailbox_slot *slot = mailbox_wanted(a, c->mailbox_update.name);
    if (!slot)
        return;
    struct metadata_mailbox *b = &slot->mailbox;
    struct mailbox_settings merged = b->settings;
    settings_merge(&merged, &c->mailbox_update.settings, c->mailbox_update.fields);
    if (!settings_valid(a, b->name, &merged) || settings_equal(&merged, &b->settings))
        return;
    metadata_dead_letter_count(a->m, b->settings.dead_letter, -1);
    metadata_dead_letter_count(a->m, merged.dead_letter, 1);
    b->settings = merged;
    touch_mailbox(a, b);
}

static void drop_add(struct apply *a, uint64_t partition, member_t member, uint64_t epoch, bool removed) {
    struct metadata_drop d = {.partition = partition, .member = member, .epoch = epoch, .removed = removed};
    metadata_drop_insert(a->m, &d);
    metadata_changed_drop(a->changes, &d);
}

/* Members of `set` that the record no longer holds are to drop their data. */
static void drop_leavers(struct apply *a, const struct metadata_partition *p, const struct replica_set *set) {
    for (uint32_t i = 0; i < set->count; i++) {
        bool early = MUTATED(leavers_drop_early) && !replica_set_has(&p->record.current, set->members[i]);
        if (!metadata_holds(&p->record, set->members[i]) || early)
            drop_add(a, p->id, set->members[i], p->record.epoch, false);
    }
}

static void partition_delete(struct apply *a, uint64_t id) {
    struct metadata_partition *p = metadata_partition_mutable(a->m, id);
    const struct replica_set *sets[] = {&p->record.current, &p->record.previous, &p->record.learners};
    for (size_t k = 0; k < 3; k++) {
        for (uint32_t i = 0; i < sets[k]->count; i++)
            drop_add(a, id, sets[k]->members[i], p->record.epoch + REMOVED_EPOCH_MARGIN, true);
    }
    metadata_changed_partition(a->changes, id);
    metadata_remove_partition(a->m, id);
}

static void apply_mailbox_delete(struct apply *a, const struct command *c) {
    struct mailbox_slot *slot = mailbox_wanted(a, c->mailbox.name);
    if (!slot)
        return;
    for (uint32_t i = 0; i < slot->mailbox.partitions_count; i++)
        partition_delete(a, slot->mailbox.partitions[i]);
    metadata_changed_mailbox(a->changes, slot->mailbox.id);
    metadata_remove_mailbox(a->m, slot);
    touch_dead_letter_users(a, c->mailbox.name);
}

static void apply_release(struct apply *a, const struct command *c) {
    struct mailbox_slot *slot = mailbox_wanted(a, c->mailbox.name);
    if (!slot)
        return;
    for (uint32_t i = 0; i < slot->mailbox.partitions_count; i++)
        metadata_partition_mutable(a->m, slot->mailbox.partitions[i])->crashes = 0;
    touch_mailbox(a, &slot->mailbox);
}

/* ---- subscriptions ---- */

static size_t subscription_at(const struct metadata_mailbox *b, const char *name, bool *found) {
    size_t i = 0;
    while (i < b->subscriptions_count && strcmp(b->subscriptions[i].name, name) < 0)
        i++;
    *found = i < b->subscriptions_count && strcmp(b->subscriptions[i].name, name) == 0;
    return i;
}

static void apply_subscription_create(struct apply *a, const struct command *c) {
    struct mailbox_slot *slot = mailbox_wanted(a, c->subscription.mailbox);
    if (!slot)
        return;
    struct metadata_mailbox *b = &slot->mailbox;
    bool found;
    size_t at = subscription_at(b, c->subscription.name, &found);
    if (found) {
        const struct metadata_subscription *s = &b->subscriptions[at];
        if (s->from != c->subscription.from || s->value != c->subscription.value)
            refuse(a, ERR_EXISTS, "subscription %s exists with another --from", s->name);
        return;
    }
    if (!name_valid(c->subscription.name))
        refuse(a, ERR_INVALID, "subscription name: expected 1 to %d of [A-Za-z0-9._-]", NAME_BYTES_MAX);
    else if (b->subscriptions_count >= METADATA_SUBSCRIPTIONS_MAX)
        refuse(a, ERR_FULL, "a mailbox has at most %d subscriptions", METADATA_SUBSCRIPTIONS_MAX);
    if (a->result->code != ERR_OK)
        return;
    b->subscriptions = xrealloc(b->subscriptions, (b->subscriptions_count + 1) * sizeof *b->subscriptions);
    struct metadata_subscription *s = &b->subscriptions[at];
    memmove(s + 1, s, (b->subscriptions_count - at) * sizeof *s);
    b->subscriptions_count++;
    *s = (struct metadata_subscription){.from = c->subscription.from, .value = c->subscription.value};
    strcpy(s->name, c->subscription.name);
    touch_mailbox(a, b);
}

static void apply_subscription_delete(struct apply *a, const struct command *c) {
    struct mailbox_slot *slot = mailbox_wanted(a, c->subscription.mailbox);
    if (!slot)
        return;
    struct metadata_mailbox *b = &slot->mailbox;
    bool found;
    size_t at = subscription_at(b, c->subscription.name, &found);
    if (!found) {
        refuse(a, ERR_NOT_FOUND, "mailbox %s has no subscription %s", b->name, c->subscription.name);
        return;
    }
    b->subscriptions_count--;
    struct metadata_subscription *s = &b->subscriptions[at];
    memmove(s, s + 1, (b->subscriptions_count - at) * sizeof *s);
    touch_mailbox(a, b);
}

/* ---- partitions ---- */

/* Section 6: the sets a new epoch may have. */
static bool sets_allowed(const struct replica_record *was, const struct replica_record *next) {
    const struct replica_set *p = &was->previous, *s = &was->current;
    if (was->activating && next->activating)
        return replica_set_equal(&next->previous, p) && replica_set_equal(&next->current, s);
    if (was->activating)
        return replica_set_equal(&next->current, p) && next->previous.count == 0;
    if (next->activating)
        return replica_set_equal(&next->previous, s) && next->current.count > 0;
    return replica_set_equal(&next->current, s) && next->previous.count == 0;
}

static bool change_current(const struct metadata_partition *p, const struct record_change *c) {
    return p && (p->record.version == c->base_version || MUTATED(record_swap_unchecked)) &&
           c->record.epoch > p->record.epoch && c->record.current.count > 0 &&
           (c->lossy || MUTATED(record_swap_unchecked) || sets_allowed(&p->record, &c->record)) &&
           (replica_set_has(&c->record.current, c->record.leader) ||
            replica_set_has(&c->record.previous, c->record.leader));
}

static void record_put(struct apply *a, struct metadata_partition *p, const struct replica_record *next) {
    struct replica_record was = p->record;
    p->record = *next;
    p->record.version = was.version + 1;
    drop_leavers(a, p, &was.current);
    drop_leavers(a, p, &was.previous);
    drop_leavers(a, p, &was.learners);
    metadata_changed_partition(a->changes, p->id);
}

static void apply_records(struct apply *a, const struct command *c) {
    for (uint32_t i = 0; i < c->records.count; i++) {
        const struct record_change *change = &c->records.changes[i];
        struct metadata_partition *p = metadata_partition_mutable(a->m, change->partition);
        if (change_current(p, change))
            record_put(a, p, &change->record);
        else
            a->result->stale++;
    }
    if (a->result->stale == c->records.count)
        refuse(a, ERR_STALE, "computed from records that are no longer current");
}

static struct metadata_partition *partition_current(struct apply *a, const struct command *c) {
    struct metadata_partition *p = metadata_partition_mutable(a->m, c->partition.partition);
    if (!p)
        refuse(a, ERR_NOT_FOUND, "no such partition");
    else if (p->record.version != c->partition.base_version)
        refuse(a, ERR_STALE, "computed from a record that is no longer current");
    return a->result->code == ERR_OK ? p : NULL;
}

static void apply_activated(struct apply *a, const struct command *c) {
    struct metadata_partition *p = partition_current(a, c);
    if (!p)
        return;
    if (!p->record.activating || p->record.epoch != c->partition.epoch) {
        refuse(a, ERR_STALE, "the epoch is not activating");
        return;
    }
    struct replica_record next = p->record;
    next.activating = false;
    next.previous.count = 0;
    next.learners.count = 0;
    memset(&next.previous, 0, sizeof next.previous);
    memset(&next.learners, 0, sizeof next.learners);
    record_put(a, p, &next);
}

static void apply_learners(struct apply *a, const struct command *c) {
    struct metadata_partition *p = partition_current(a, c);
    if (!p)
        return;
    for (uint32_t i = 0; i < c->partition.learners.count; i++) {
        /* what is still to be dropped may not be written to meanwhile */
        if (metadata_drop_find(a->m, p->id, c->partition.learners.members[i])) {
            refuse(a, ERR_BUSY, "its old data is not yet dropped there");
            return;
        }
    }
    struct replica_record next = p->record;
    next.learners = c->partition.learners;
    record_put(a, p, &next);
}

static void apply_crashes(struct apply *a, const struct command *c) {
    struct metadata_partition *p = metadata_partition_mutable(a->m, c->crashes.partition);
    if (!p) {
        refuse(a, ERR_NOT_FOUND, "no such partition");
        return;
    }
    uint32_t was = p->crashes;
    if (c->crashes.crashes == 0) {
        p->crashes = 0;
    } else if (c->crashes.epoch > p->crash_epoch) { /* another crash, of another epoch */
        p->crashes = p->crashes + 1 > c->crashes.crashes ? p->crashes + 1 : c->crashes.crashes;
        p->crash_epoch = c->crashes.epoch;
    } else if (c->crashes.crashes > p->crashes) {
        p->crashes = c->crashes.crashes;
    }
    if (p->crashes != was) {
        p->record.version++;
        metadata_changed_partition(a->changes, p->id);
    }
}

static void apply_dropped(struct apply *a, const struct command *c) {
    for (uint32_t i = 0; i < c->dropped.count; i++)
        metadata_drop_remove(a->m, c->dropped.done[i].partition, c->dropped.done[i].member);
}

static void (*const appliers[])(struct apply *a, const struct command *c) = {
    [COMMAND_FORM] = apply_form,
    [COMMAND_NODE_SET] = apply_node_set,
    [COMMAND_NODE_STATE] = apply_node_state,
    [COMMAND_MAILBOX_CREATE] = apply_mailbox_create,
    [COMMAND_MAILBOX_UPDATE] = apply_mailbox_update,
    [COMMAND_MAILBOX_DELETE] = apply_mailbox_delete,
    [COMMAND_SUBSCRIPTION_CREATE] = apply_subscription_create,
    [COMMAND_SUBSCRIPTION_DELETE] = apply_subscription_delete,
    [COMMAND_RECORDS] = apply_records,
    [COMMAND_ACTIVATED] = apply_activated,
    [COMMAND_LEARNERS] = apply_learners,
    [COMMAND_CRASHES] = apply_crashes,
    [COMMAND_RELEASE] = apply_release,
    [COMMAND_DROPPED] = apply_dropped,
};

void metadata_skip(struct metadata *m, uint64_t index) {
    CHECK(index > m->index);
    m->index = index;
}

void metadata_apply(struct metadata *m, uint64_t index, const void *command, size_t size,
                    struct metadata_result *result, struct metadata_changes *changes) {
    struct apply a = {.m = m, .result = result, .changes = changes};
    struct command c;
    metadata_skip(m, index);
    memset(result, 0, sizeof *result);
    if (!command_decode(command, size, &c)) {
        refuse(&a, ERR_INVALID, "a command this release cannot read");
        return;
    }
    appliers[c.type](&a, &c);
    command_free(&c);
}

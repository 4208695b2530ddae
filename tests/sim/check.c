// SPDX-License-Identifier: Apache-2.0
/*
 * The invariants of DESIGN section 11, judged from outside: a global record of
 * what was committed, and the clients' own histories. The broker's counters are
 * used for "conserved" only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/crc.h"
#include "base/xalloc.h"
#include "check.h"
#include "kept.h"

struct log *check_log(struct sim *s, uint64_t partition) {
    CHECK(partition <= s->partitions_max);
    return &s->checker->logs[partition];
}

static void *at_least(void *items_pointer, size_t *capacity, uint64_t index, size_t each) {
    size_t before = *capacity;
    void **items = items_pointer;
    if (index >= before) {
        xgrow(items_pointer, capacity, index + 1, each);
        memset((char *)*items + before * each, 0, (*capacity - before) * each);
    }
    return (char *)*items + index * each;
}

static struct sequences *sequences_of(struct log *l, unsigned publisher, unsigned generation) {
    if (!l->sequences)
        l->sequences = xcalloc((size_t)SIM_PUBLISHERS_MAX * GENERATIONS_MAX, sizeof *l->sequences);
    return &l->sequences[publisher * GENERATIONS_MAX + generation];
}

static struct slot *slot_of(struct log *l, uint64_t index) {
    return at_least(&l->slots, &l->slots_capacity, index, sizeof *l->slots);
}

static uint32_t crc_of(const struct entry *e) {
    uint8_t type = e->type;
    uint32_t crc = crc32c(0, &type, 1);
    return e->body ? crc32c(crc, e->body->data, e->body->size) : crc;
}

/* ---- agreement ---- */

void checker_write(struct process *p, uint64_t partition, const struct entry *e) {
    struct slot *slot = slot_of(check_log(p->sim, partition), e->index);
    uint32_t crc = crc_of(e);
    for (size_t i = 0; i < slot->written_count; i++) {
        if (slot->written[i].epoch != e->epoch)
            continue;
        if (slot->written[i].crc != crc)
            sim_violation(p->sim, "agreement",
                          "p%d index %llu epoch %llu has two contents; %s writes the second", (int)partition,
                          (unsigned long long)e->index, (unsigned long long)e->epoch, p->name);
        return;
    }
    xgrow(&slot->written, &slot->written_capacity, slot->written_count + 1, sizeof *slot->written);
    slot->written[slot->written_count++] = (struct written){e->epoch, crc};
}

/* ---- once, order, honest: what is committed ---- */

static struct origin *offset_of(struct log *l, uint64_t offset) {
    return at_least(&l->offsets, &l->offsets_capacity, offset, sizeof *l->offsets);
}

static void commit_letter(struct sim *s, struct log *l, const struct batch_header *h) {
    for (size_t i = 0; i < l->letters_count; i++)
        if (l->letters[i].sequence == h->sequence &&
            memcmp(&l->letters[i].producer, &h->producer, sizeof h->producer) == 0)
            sim_violation(s, "once", "a dead letter is stored twice (intent %llu)",
                          (unsigned long long)h->sequence);
    xgrow(&l->letters, &l->letters_capacity, l->letters_count + 1, sizeof *l->letters);
    l->letters[l->letters_count++] = (struct letter){h->producer, h->sequence};
}

static void commit_sequence(struct sim *s, struct log *l, uint64_t partition, const struct batch_header *h,
                            const struct stamp *stamp) {
    CHECK(stamp->publisher < SIM_PUBLISHERS_MAX && stamp->generation < GENERATIONS_MAX);
    struct sequences *q = sequences_of(l, stamp->publisher, stamp->generation);
    uint64_t *base = at_least(&q->base, &q->capacity, h->sequence, sizeof *q->base);
    if (*base)
        sim_violation(s, "once", "p%d: publisher %u sequence %llu is stored at offsets %llu and %llu",
                      (int)partition, stamp->publisher, (unsigned long long)h->sequence,
                      (unsigned long long)(*base - 1), (unsigned long long)h->base_offset);
    if (h->sequence < q->last)
        sim_violation(s, "order", "p%d: publisher %u sequence %llu is stored behind %llu", (int)partition,
                      stamp->publisher, (unsigned long long)h->sequence, (unsigned long long)q->last);
    *base = h->base_offset + 1;
    *(uint64_t *)at_least(&q->ever, &q->ever_capacity, h->sequence, sizeof *q->ever) = *base;
    q->last = h->sequence;
}

static void commit_batch(struct sim *s, struct log *l, uint64_t partition, const struct entry *e) {
    struct batch_header h;
    struct batch_message m;
    struct stamp stamp;
    batch_read_header(e->body->data, &h);
    if (h.base_offset != l->next_offset)
        sim_violation(s, "agreement", "p%d index %llu begins at offset %llu, expected %llu", (int)partition,
                      (unsigned long long)e->index, (unsigned long long)h.base_offset,
                      (unsigned long long)l->next_offset);
    struct batch_cursor cursor = batch_messages(e->body->data, e->body->size);
    bool letter = h.flags & BATCH_FLAG_DEAD_LETTER;
    for (uint32_t i = 0; batch_next(&cursor, &m); i++) {
        if (!payload_check((const uint8_t *)m.payload.data, m.payload.size, &stamp))
            sim_violation(s, "honest", "p%d index %llu message %u is not as published", (int)partition,
                          (unsigned long long)e->index, i);
        *offset_of(l, h.base_offset + i) = (struct origin){stamp.publisher,
                                                           stamp.generation,
                                                           stamp.number,
                                                           stamp.sequence,
                                                           e->index,
                                                           letter,
                                                           m.key.size ? *(const uint8_t *)m.key.data : 0};
    }
    l->next_offset += h.count;
    if (letter)
        commit_letter(s, l, &h);
    else
        commit_sequence(s, l, partition, &h, &stamp);
}

struct begun *check_begun(struct log *l, const char *name) {
    for (size_t i = 0; i < l->begun_count; i++)
        if (strcmp(l->begun[i].name, name) == 0)
            return &l->begun[i];
    return NULL;
}

static void commit_subscribe(struct log *l, const struct entry *e) {
    struct decoder d = decoder_of(e->body->data, e->body->size);
    char name[SIM_NAME_BYTES];
    bool begins = decode_u8(&d) == 1;
    decode_string(&d, name, sizeof name);
    struct begun *b = check_begun(l, name);
    CHECK(!d.failed);
    if (begins && !b) {
        CHECK(l->begun_count < sizeof l->begun / sizeof l->begun[0]);
        b = &l->begun[l->begun_count++];
        strcpy(b->name, name);
        b->offset = l->next_offset;
        b->purged = false;
    } else if (begins && l->losses_count) {
        b->offset = l->next_offset;
    } else if (!begins && b) {
        *b = l->begun[--l->begun_count];
    }
}

static void commit_drop(struct sim *s, struct log *l, const struct entry *e) {
    if (e->body->data[0] != DROP_REASON_PURGED)
        return;
    sim_count(s, RARE_purged);
    l->purged_below = l->next_offset;
    for (size_t i = 0; i < l->begun_count; i++)
        l->begun[i].purged = true;
}

/* One at a time: two majorities that follow each other share a member. */
static void commit_voters(struct sim *s, const struct entry *e) {
    struct checker *c = s->checker;
    struct replica_set next;
    uint32_t gone = 0, new = 0;
    CHECK(replica_config_decode(e->body, &next));
    for (uint32_t i = 0; i < c->voters.count; i++)
        gone += !replica_set_has(&next, c->voters.members[i]);
    for (uint32_t i = 0; i < next.count; i++)
        new += !replica_set_has(&c->voters, next.members[i]);
    if (c->voters.count && gone + new > 1)
        sim_violation(s, "agreement", "entry %llu changes %u voters of the metadata group at once",
                      (unsigned long long)e->index, gone + new);
    c->voters = next;
    if (s->faulty) /* those of forming are not rare */
        sim_count(s, RARE_voter_changes);
}

uint32_t checker_voters(const struct sim *s) {
    return s->checker->voters.count;
}

void checker_apply(struct process *p, uint64_t partition, const struct entry *e) {
    branches_entry(p->sim, e);
    struct log *l = check_log(p->sim, partition);
    uint32_t crc = crc_of(e);
    if (losses_entry(l, e->index, e->epoch))
        return;
    struct slot *slot = slot_of(l, e->index);
    if (slot->committed && slot->epoch < e->epoch && e->type == ENTRY_EPOCH && partition &&
        power_may_lose(p->sim, partition))
        losses_cut(p->sim, l, partition, e->index - 1, e->epoch);
    if (slot->committed) {
        if (slot->epoch != e->epoch || slot->crc != crc)
            sim_violation(p->sim, "agreement",
                          "p%d index %llu was committed in epoch %llu, %s applies another of epoch %llu",
                          (int)partition, (unsigned long long)e->index, (unsigned long long)slot->epoch,
                          p->name, (unsigned long long)e->epoch);
        return;
    }
    if (e->index != l->applied + 1)
        sim_violation(p->sim, "agreement", "p%d: %s applies index %llu, committed so far %llu",
                      (int)partition, p->name, (unsigned long long)e->index, (unsigned long long)l->applied);
    slot->committed = true;
    slot->epoch = e->epoch;
    slot->crc = crc;
    l->applied = e->index;
    if (e->type == ENTRY_BATCH && partition)
        commit_batch(p->sim, l, partition, e);
    if (e->type == ENTRY_CONFIG && !partition)
        commit_voters(p->sim, e);
    if (e->type == ENTRY_DROP && partition)
        commit_drop(p->sim, l, e);
    if (e->type == ENTRY_SUBSCRIBE && partition)
        commit_subscribe(l, e);
}

/* All replicas that have applied the same index hold the same state. */
void checker_state(struct process *p, uint64_t partition, uint64_t index, struct encoder *e) {
    struct slot *slot = slot_of(check_log(p->sim, partition), index);
    uint32_t crc = crc32c(1, e->data, e->size) | 1;
    if (slot->state && slot->state != crc)
        sim_violation(p->sim, "agreement", "p%d: %s has another state than others after index %llu",
                      (int)partition, p->name, (unsigned long long)index);
    slot->state = crc;
}

/* ---- a wrapped call: partition.c applies to its mailbox by itself ---- */

static struct process *running;

void checker_running(struct process *p) {
    running = p;
}

void __real_mailbox_apply(struct mailbox *m, const struct entry *entry, usec_t now,
                          struct mailbox_effects *fx);
void __wrap_mailbox_apply(struct mailbox *m, const struct entry *entry, usec_t now,
                          struct mailbox_effects *fx);

void __wrap_mailbox_apply(struct mailbox *m, const struct entry *entry, usec_t now,
                          struct mailbox_effects *fx) {
    struct process *p = running;
    struct partition *partition = p ? shard_partition_of(p, m) : NULL;
    CHECK(partition);
    checker_apply(p, partition->id, entry);
    __real_mailbox_apply(m, entry, now, fx);
    if (entry->index % STATE_EVERY == 0 &&
        !losses_entry(check_log(p->sim, partition->id), entry->index, entry->epoch)) {
        struct encoder e = {0};
        mailbox_checkpoint(m, &e);
        checker_state(p, partition->id, entry->index, &e);
        encoder_free(&e);
    }
}

/* ---- one leader ---- */

static struct epoch_leader *leader_of(struct log *l, uint64_t epoch) {
    for (size_t i = 0; i < l->leaders_count; i++)
        if (l->leaders[i].epoch == epoch)
            return &l->leaders[i];
    return NULL;
}

/* An epoch is taken once its record is synced; before, nothing of it is seen by
 * anybody, and a process that dies then may begin it anew. */
void checker_leading(struct process *p, uint64_t partition, uint64_t epoch) {
    struct log *l = check_log(p->sim, partition);
    struct epoch_leader *e = leader_of(l, epoch);
    if (e && (e->taken || e->process != p->id))
        sim_violation(p->sim, "one leader", "p%d epoch %llu is led by %s and by %s%s", (int)partition,
                      (unsigned long long)epoch, p->sim->processes[e->process].name, p->name,
                      e->process == p->id ? " again" : "");
    if (!e) {
        xgrow(&l->leaders, &l->leaders_capacity, l->leaders_count + 1, sizeof *l->leaders);
        e = &l->leaders[l->leaders_count++];
    }
    *e = (struct epoch_leader){epoch, p->id, false};
    sim_count(p->sim, RARE_leader_changes);
    sim_trace(p->sim, "%s p%d leads epoch %llu", p->name, (int)partition, (unsigned long long)epoch);
    if (p->kind == PROCESS_SHARD)
        faults_new_leader(p);
}

/* Something of the epoch leaves its leader. */
void checker_sends(struct process *p, uint64_t partition, uint64_t epoch) {
    struct epoch_leader *e = leader_of(check_log(p->sim, partition), epoch);
    if (!e || e->process != p->id)
        sim_violation(p->sim, "one leader", "p%d: %s sends entries of epoch %llu, which it does not lead",
                      (int)partition, p->name, (unsigned long long)epoch);
    e->taken = true;
}

void checker_active(struct process *p, uint64_t partition, uint64_t epoch, uint64_t applied) {
    struct log *l = check_log(p->sim, partition);
    sim_trace(p->sim, "%s p%d active in epoch %llu at index %llu", p->name, (int)partition,
              (unsigned long long)epoch, (unsigned long long)applied);
    checker_sends(p, partition, epoch);
    if (epoch < l->active_epoch)
        return; /* deposed, it hears late that its first entry is stored: what was committed since is newer */
    l->active_epoch = epoch;
    if (applied < l->applied)
        sim_violation(p->sim, "durable", "p%d: %s leads epoch %llu with %llu applied, committed is %llu",
                      (int)partition, p->name, (unsigned long long)epoch, (unsigned long long)applied,
                      (unsigned long long)l->applied);
    power_settled(p->sim, partition);
}

/* ---- who may deliver ---- */

/* A settlement may be answered late: it was committed, and nobody else changes it. */
static void acts(struct process *p, uint64_t partition, uint64_t epoch) {
    struct log *l = check_log(p->sim, partition);
    if (epoch < l->acting_epoch)
        sim_violation(p->sim, "fenced", "p%d: %s delivers in epoch %llu after epoch %llu has", (int)partition,
                      p->name, (unsigned long long)epoch, (unsigned long long)l->acting_epoch);
    l->acting_epoch = epoch;
}

/* Exclusive: one consumer at a time holds anything. */
static void check_exclusive(struct process *p, uint64_t partition, const struct mailbox_effect *e) {
    const struct partition *at = shard_partition(p, partition);
    struct subscription_stats t;
    struct consumer_stats c;
    if (at->settings.dispatch != DISPATCH_EXCLUSIVE || !mailbox_leading(at->mailbox))
        return;
    for (size_t i = 0; mailbox_subscription_stats(at->mailbox, i, &t); i++)
        for (size_t k = 0;
             strcmp(t.name, e->deliver.subscription) == 0 && mailbox_consumer_stats(at->mailbox, i, k, &c);
             k++)
            if (c.leased && memcmp(&c.id, &e->deliver.consumer, sizeof c.id) != 0)
                sim_violation(p->sim, "order",
                              "p%d %s: %s delivers offset %llu to one consumer while another holds %llu",
                              (int)partition, t.name, p->name, (unsigned long long)e->deliver.first_offset,
                              (unsigned long long)c.leased);
}

struct history *check_history(struct log *l, int subscription, uint64_t offset) {
    return at_least(&l->histories[subscription], &l->histories_capacity[subscription], offset,
                    sizeof(struct history));
}

/* Exclusive, and each key by key: the first time, messages go out in their order. */
static void sent_one(struct process *p, uint64_t partition, const struct box *b, int k, uint64_t offset) {
    struct log *l = check_log(p->sim, partition);
    struct history *h = check_history(l, k, offset);
    bool by_key = b->settings.dispatch == DISPATCH_KEY;
    uint64_t *below = &l->sent_below[k][by_key ? offset_of(l, offset)->key : 0];
    if (h->sent)
        return;
    h->sent = true;
    if (offset < *below)
        sim_violation(p->sim, "order", "p%d %s: %s sends offset %llu for the first time after %llu",
                      (int)partition, b->subscriptions[k], p->name, (unsigned long long)offset,
                      (unsigned long long)(*below - 1));
    *below = offset + 1;
}

static void sent(struct process *p, uint64_t partition, const struct mailbox_effect *e) {
    const struct box *b = clients_box_of(p->sim, partition);
    int k = b ? clients_subscription(b, e->deliver.subscription) : -1;
    for (uint32_t i = 0; k >= 0 && i < e->deliver.count; i++)
        kept_delivers(p, partition, k, e->deliver.first_offset + i, e->deliver.epoch);
    if (k < 0 || (b->settings.dispatch != DISPATCH_EXCLUSIVE && b->settings.dispatch != DISPATCH_KEY))
        return;
    for (uint32_t i = 0; i < e->deliver.count; i++)
        sent_one(p, partition, b, k, e->deliver.first_offset + i);
}

void checker_deliver(struct process *p, uint64_t partition, const struct mailbox_effect *e) {
    struct log *l = check_log(p->sim, partition);
    acts(p, partition, e->deliver.epoch);
    check_exclusive(p, partition, e);
    if (e->deliver.first_offset + e->deliver.count > l->next_offset &&
        !losses_offset(l, e->deliver.first_offset + e->deliver.count, e->deliver.epoch))
        sim_violation(p->sim, "honest", "p%d: %s delivers offset %llu, which is not committed",
                      (int)partition, p->name, (unsigned long long)e->deliver.first_offset);
    sent(p, partition, e);
}

/* ---- conserved ---- */

static void check_conserved(struct process *p, struct partition *partition) {
    struct subscription_stats t;
    for (size_t i = 0; mailbox_subscription_stats(partition->mailbox, i, &t); i++) {
        uint64_t sum =
            t.ready + t.leased + t.delayed + t.dying + t.acked + t.dead + t.expired + t.dropped + t.purged;
        if (t.published != sum)
            sim_violation(
                p->sim, "conserved",
                "p%d %s on %s: published %llu, but ready %llu leased %llu delayed %llu dying %llu "
                "acked %llu dead %llu expired %llu dropped %llu purged %llu",
                (int)partition->id, t.name, p->name, (unsigned long long)t.published,
                (unsigned long long)t.ready, (unsigned long long)t.leased, (unsigned long long)t.delayed,
                (unsigned long long)t.dying, (unsigned long long)t.acked, (unsigned long long)t.dead,
                (unsigned long long)t.expired, (unsigned long long)t.dropped, (unsigned long long)t.purged);
        if (strcmp(t.name, "default") == 0 && t.published != mailbox_next_offset(partition->mailbox))
            sim_violation(p->sim, "conserved", "p%d on %s: published %llu of %llu", (int)partition->id,
                          p->name, (unsigned long long)t.published,
                          (unsigned long long)mailbox_next_offset(partition->mailbox));
    }
}

void checker_turn(struct process *p, struct partition *partition) {
    if (!replica_damaged(partition->replica))
        power_whole(p, partition->id);
    if (p->sim->result.events % 4 == 0)
        check_conserved(p, partition);
}

/* ---- the clients' histories ---- */

void checker_receipt(struct sim *s, uint64_t partition, int publisher, unsigned generation, uint64_t sequence,
                     uint64_t base_offset) {
    struct log *l = check_log(s, partition);
    CHECK(generation < GENERATIONS_MAX);
    struct sequences *q = sequences_of(l, (unsigned)publisher, generation);
    uint64_t base = sequence < q->capacity ? q->base[sequence] : 0;
    if (l->losses_count && sequence < q->ever_capacity && q->ever[sequence] && base_offset + 1 != base)
        return; /* on a lost branch */
    if (!base)
        sim_violation(s, "durable",
                      "p%d: publisher %d has a receipt for sequence %llu, which is not committed",
                      (int)partition, publisher, (unsigned long long)sequence);
    if (base_offset != UINT64_MAX && base_offset != base - 1)
        sim_violation(s, "once", "p%d: the receipt for sequence %llu says offset %llu, it is at %llu",
                      (int)partition, (unsigned long long)sequence, (unsigned long long)base_offset,
                      (unsigned long long)(base - 1));
}

static void got_one(struct sim *s, uint64_t partition, int subscription, int consumer, uint64_t offset,
                    const struct message *m, const struct batch_message *in) {
    struct log *l = check_log(s, partition);
    struct origin *o = offset_of(l, offset);
    if (losses_offset(l, offset, m->delivery.epoch))
        return; /* was on its way */
    struct history *h = check_history(l, subscription, offset);
    struct stamp stamp;
    if (!payload_check((const uint8_t *)in->payload.data, in->payload.size, &stamp) ||
        offset >= l->next_offset || stamp.publisher != o->publisher || stamp.generation != o->generation ||
        stamp.sequence != o->sequence || stamp.number != o->number)
        sim_violation(s, "honest", "p%d offset %llu was delivered with other bytes than published",
                      (int)partition, (unsigned long long)offset);
    if (h->done && m->delivery.delivery_number > h->done_number)
        sim_violation(s, "fenced", "p%d offset %llu was acked by delivery %u and is delivered as %u",
                      (int)partition, (unsigned long long)offset, h->done_number,
                      m->delivery.delivery_number);
    if (h->delivered && h->epoch == m->delivery.epoch && h->number == m->delivery.delivery_number &&
        h->consumer != consumer)
        sim_violation(s, "fenced", "p%d offset %llu has two live leases in epoch %llu: consumers %d and %d",
                      (int)partition, (unsigned long long)offset, (unsigned long long)h->epoch, h->consumer,
                      consumer);
    h->delivered = true;
    h->epoch = m->delivery.epoch;
    h->number = m->delivery.delivery_number;
    h->consumer = consumer;
}

void checker_got(struct sim *s, uint64_t partition, int subscription, int consumer, const struct message *m) {
    struct batch_cursor cursor = batch_run(m->delivery.run->data, m->delivery.run->size);
    struct batch_message in;
    uint32_t i = 0;
    for (; i < m->delivery.count && batch_next(&cursor, &in); i++)
        got_one(s, partition, subscription, consumer, m->delivery.first_offset + i, m, &in);
    if (i != m->delivery.count)
        sim_violation(s, "honest", "p%d: a delivery of %u messages holds %u", (int)partition,
                      m->delivery.count, i);
}

void checker_settle_result(struct sim *s, uint64_t partition, int subscription, int consumer, uint64_t offset,
                           const struct mailbox_settlement *item, enum settle_result result) {
    struct history *h = check_history(check_log(s, partition), subscription, offset);
    if (result == SETTLE_TOO_LATE)
        sim_count(s, RARE_too_late);
    if (result == SETTLE_ALREADY)
        sim_count(s, RARE_already);
    if (item->kind != SETTLE_ACK || result != SETTLE_DONE ||
        losses_offset(check_log(s, partition), offset, item->epoch))
        return;
    if (h->done && (h->done_by != consumer || h->done_number != item->delivery_number))
        sim_violation(s, "fenced",
                      "p%d offset %llu: acked by consumer %d (delivery %u) and by %d (delivery %u)",
                      (int)partition, (unsigned long long)offset, h->done_by, h->done_number, consumer,
                      item->delivery_number);
    if (h->number > item->delivery_number)
        sim_violation(s, "fenced", "p%d offset %llu: ack of delivery %u is done after delivery %u",
                      (int)partition, (unsigned long long)offset, item->delivery_number, h->number);
    h->done = true;
    h->done_by = consumer;
    h->done_number = item->delivery_number;
}

uint64_t checker_purged_below(struct sim *s, uint64_t partition) {
    return check_log(s, partition)->purged_below;
}

uint64_t checker_next_offset(struct sim *s, uint64_t partition) {
    return check_log(s, partition)->next_offset;
}

/* ---- life ---- */

struct checker *checker_new(struct sim *s) {
    struct checker *c = xcalloc(1, sizeof *c);
    c->sim = s;
    c->logs = xcalloc(s->partitions_max + 1, sizeof *c->logs);
    return c;
}

void checker_free(struct checker *c) {
    for (uint64_t i = 0; i <= c->sim->partitions_max; i++) {
        struct log *l = &c->logs[i];
        for (size_t k = 0; k < l->slots_capacity; k++)
            free(l->slots[k].written);
        for (int k = 0; l->sequences && k < SIM_PUBLISHERS_MAX * GENERATIONS_MAX; k++) {
            free(l->sequences[k].base);
            free(l->sequences[k].ever);
        }
        free(l->losses);
        free(l->sequences);
        for (int k = 0; k < SIM_SUBSCRIPTIONS_MAX; k++)
            free(l->histories[k]);
        free(l->slots);
        free(l->offsets);
        free(l->leaders);
        free(l->letters);
    }
    free(c->logs);
    free(c);
}

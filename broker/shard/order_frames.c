// SPDX-License-Identifier: Apache-2.0
/* Frames of controllers, as what they ask (core/orders.c) and are told. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/process.h"

/* ---- in ---- */

static bool record_of(const Mr__PartitionRecord *m, struct replica_record *out) {
    *out = (struct replica_record){.version = m->version,
                                   .epoch = m->epoch,
                                   .leader = m->leader,
                                   .activating = m->activating,
                                   .last_epoch = m->last_epoch,
                                   .last_index = m->last_index,
                                   .wait_lease = m->wait_lease};
    return replication_read_set(m->current, &out->current) &&
           replication_read_set(m->previous, &out->previous) &&
           replication_read_set(m->learners, &out->learners);
}

static bool settings_of(const Mr__PartitionRecord *m, struct mailbox_settings *out) {
    struct decoder d = decoder_of(m->settings.data, m->settings.len);
    return settings_decode(&d, out);
}

static struct subscription_wish *wishes_of(const Mr__PartitionRecord *m) {
    struct subscription_wish *wishes = xcalloc(m->n_subscriptions, sizeof *wishes);
    for (size_t i = 0; i < m->n_subscriptions; i++) {
        name_copy(wishes[i].name, m->subscriptions[i]->name);
        wishes[i].from = m->subscriptions[i]->from;
        wishes[i].value = m->subscriptions[i]->value;
    }
    return wishes;
}

/* Of this process and of those that hosted it before. */
static unsigned crashes_of(struct process *p, const Mr__PartitionRecord *m) {
    unsigned own = shard_find(&p->shard, m->partition) ? 0 : child_crashes(p->child, m->partition);
    return own > m->crashes ? own : m->crashes;
}

static void on_record(struct process *p, const Mr__PartitionRecord *m) {
    struct shard_record r = {.partition = m->partition,
                             .removed = m->removed,
                             .mailbox = m->mailbox,
                             .number = m->number,
                             .dead_letter_partitions = m->dead_letter_partitions,
                             .wishes_count = m->n_subscriptions};
    bool good = record_of(m, &r.record);
    if (!m->removed && (!good || !settings_of(m, &r.settings))) {
        log_error("record of partition %" PRIu64 " cannot be read; ignored", m->partition);
        return;
    }
    r.wishes = wishes_of(m);
    r.crashes = crashes_of(p, m);
    r.quarantine = r.crashes >= CHILD_CRASHES_QUARANTINE;
    orders_on_record(&p->shard, &r);
    free(r.wishes);
}

static void on_records(struct process_link *l, const struct frame *frame) {
    Mr__Records *m = frame_read_records(l->link, frame);
    for (size_t i = 0; m && i < m->n_records; i++)
        on_record(l->process, m->records[i]);
    if (m && m->complete)
        orders_on_complete(&l->process->shard);
}

static void on_seals(struct process_link *l, const struct frame *frame) {
    Mr__Seals *m = frame_read_seals(l->link, frame);
    for (size_t i = 0; m && i < m->n_seals; i++) {
        const Mr__Seal *seal = m->seals[i];
        orders_on_seal(
            &l->shard, seal->partition,
            &(struct replica_seal){
                .token = seal->token, .to = seal->to, .epoch = seal->epoch, .candidate = seal->candidate});
    }
}

static void on_members(struct process_link *l, const struct frame *frame) {
    Mr__Members *m = frame_read_members(l->link, frame);
    if (m)
        peer_frames_members(l->process, m);
}

static void on_lead(struct process_link *l, const struct frame *frame) {
    Mr__Lead *m = frame_read_lead(l->link, frame);
    if (m)
        orders_on_lead(&l->shard, m->term);
}

static void on_drop_replica(struct process_link *l, const struct frame *frame) {
    Mr__DropReplica *m = frame_read_drop_replica(l->link, frame);
    if (m)
        orders_on_drop(&l->shard, m->partition, m->epoch);
}

static void on_hold(struct process_link *l, const struct frame *frame) {
    Mr__Hold *m = frame_read_hold(l->link, frame);
    if (m)
        orders_on_hold(&l->process->shard, m->partition, m->target, m->at_most_us);
}

void order_frames_read(struct process_link *l, const struct frame *frame) {
    switch (frame->type) {
    case FRAME_RECORDS:
        on_records(l, frame);
        break;
    case FRAME_MEMBERS:
        on_members(l, frame);
        break;
    case FRAME_LEAD:
        on_lead(l, frame);
        break;
    case FRAME_SEALS:
        on_seals(l, frame);
        break;
    case FRAME_DROP_REPLICA:
        on_drop_replica(l, frame);
        break;
    case FRAME_HOLD:
        on_hold(l, frame);
        break;
    default:
        link_refuse(l->link, ERR_PROTOCOL, "frame type %u: not one a controller sends to a shard",
                    frame->type);
    }
}

/* ---- out ---- */

static void sealed(struct shard_link *to, uint64_t partition, const struct replica_sealed *a, bool unknown) {
    struct process_link *l = process_link_of(to);
    Mr__Sealed *m = xmalloc(sizeof *m);
    mr__sealed__init(m);
    xgrow(&l->sealeds, &l->sealeds_capacity, l->sealeds_count + 1, sizeof *l->sealeds);
    l->sealeds[l->sealeds_count++] = m;
    m->partition = partition;
    m->token = a->token;
    m->from = a->from;
    m->epoch = a->epoch;
    m->granted = a->granted;
    m->promise = a->promise;
    m->last_epoch = a->last_epoch;
    m->last_index = a->last_index;
    m->commit = a->commit;
    m->damaged = a->damaged;
    m->doubtful = a->doubtful;
    m->was_leading = a->was_leading;
    m->unknown = unknown;
}

static void clear_sealeds(struct process_link *l) {
    for (size_t i = 0; i < l->sealeds_count; i++)
        free(l->sealeds[i]);
    l->sealeds_count = 0;
}

void order_frames_send_turn(struct process_link *l) {
    if (l->sealeds_count == 0)
        return;
    Mr__Sealeds m = MR__SEALEDS__INIT;
    m.sealeds = l->sealeds;
    m.n_sealeds = l->sealeds_count;
    link_send(l->link, FRAME_SEALEDS, &m.base, NULL, 0);
    clear_sealeds(l);
}

void order_frames_free(struct process_link *l) {
    clear_sealeds(l);
    free(l->sealeds);
}

static void reports(struct shard_link *to, const struct control_report *in, size_t count) {
    for (size_t i = 0; i < count; i++)
        told_add(process_link_of(to), TOLD_REPORTS, &(struct told){.report = in[i]});
}

static void load(struct shard_link *to, const struct shard_load *in) {
    Mr__ShardLoad m = MR__SHARD_LOAD__INIT;
    m.member = to->shard->self;
    m.free_disk_bytes = in->free_disk_bytes;
    m.leaders = in->leaders;
    m.backlog_messages = in->backlog_messages;
    link_send(process_link_out(to), FRAME_SHARD_LOAD, &m.base, NULL, 0);
}

void order_frames_calls(struct shard_calls *calls) {
    calls->sealed = sealed;
    calls->reports = reports;
    calls->load = load;
}

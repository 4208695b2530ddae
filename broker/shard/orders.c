// SPDX-License-Identifier: Apache-2.0
/*
 * Controllers: what they say (records, members, seals, drops, planned moves) and
 * what they are told (seal answers, reports, load). Reports go to the one that
 * leads the metadata group, as far as it has said so on its link; else to all.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"

enum { REPORTS_A_FRAME = 1024 };

/* ---- records ---- */

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

static void keep_wishes(struct hosted *h, const Mr__PartitionRecord *m) {
    free(h->wishes);
    h->wishes = xcalloc(m->n_subscriptions, sizeof *h->wishes);
    h->wishes_count = m->n_subscriptions;
    for (size_t i = 0; i < m->n_subscriptions; i++) {
        name_copy(h->wishes[i].name, m->subscriptions[i]->name);
        h->wishes[i].from = m->subscriptions[i]->from;
        h->wishes[i].value = m->subscriptions[i]->value;
    }
    h->wishes_due = true;
}

static bool wished(const struct hosted *h, const char *name) {
    for (size_t i = 0; i < h->wishes_count; i++)
        if (strcmp(h->wishes[i].name, name) == 0)
            return true;
    return false;
}

/* Bring the mailbox in line with the metadata, once it leads. Every call below
 * does nothing where it is so already. */
void orders_wishes(struct hosted *h) {
    if (!h->wishes_due || !h->partition || !mailbox_leading(h->partition->mailbox))
        return;
    struct mailbox *m = h->partition->mailbox;
    struct mailbox_effects *fx = &h->partition->mailbox_effects;
    h->wishes_due = false;
    mailbox_settings(m, &h->settings, fx);
    mailbox_dead_letter_partitions(m, h->dead_letter_partitions);
    for (size_t i = 0; i < h->wishes_count; i++)
        mailbox_subscribe(m, h->wishes[i].name, h->wishes[i].from, h->wishes[i].value, fx);
    struct subscription_stats stats;
    for (size_t i = 0; mailbox_subscription_stats(m, i, &stats); i++)
        if (!wished(h, stats.name))
            mailbox_unsubscribe(m, stats.name, fx);
    partition_run(h->partition, loop_now(h->shard->loop));
}

/* A leader may be outside of the new set until it has handed over; back from a
 * restart in between it has to say that it cannot lead. */
static bool member_of(const struct replica_record *r, member_t m) {
    return r->leader == m || replica_set_has(&r->current, m) || replica_set_has(&r->previous, m) ||
           replica_set_has(&r->learners, m);
}

static void quarantine(struct hosted *h, unsigned crashes) {
    h->quarantined = true;
    log_error("partition %" PRIu64
              " (%s/%u) is quarantined: this shard died %u times in a row while working on it",
              h->id, h->name, h->number, crashes);
}

static struct hosted *add_hosted(struct shard *s, const Mr__PartitionRecord *m,
                                 const struct mailbox_settings *settings) {
    struct hosted *h = xcalloc(1, sizeof *h);
    h->id = m->partition;
    h->shard = s;
    h->number = m->number;
    h->settings = *settings;
    name_copy(h->name, m->mailbox);
    HASH_ADD(hh, s->hosted, id, sizeof h->id, h);
    unsigned crashes = child_crashes(s->child, h->id);
    if (crashes < m->crashes)
        crashes = m->crashes;
    if (crashes >= CHILD_CRASHES_QUARANTINE) {
        quarantine(h, crashes);
        orders_report(h, MR__REPORT_KIND__REPORT_CRASHED, crashes, 0);
        return h;
    }
    child_working_on(s->child, h->id);
    storage_partition(s, h);
    child_working_on(s->child, 0);
    return h;
}

/* peer links that came up before this partition was known */
static void connect(struct hosted *h) {
    struct shard *s = h->shard;
    for (struct peer *p = s->peers; p; p = p->hh.next)
        if (p->link)
            replica_peer_up(h->partition->replica, p->member, loop_now(s->loop),
                            &h->partition->replica_effects);
}

void orders_forget(struct hosted *h) {
    struct shard *s = h->shard;
    if (h->partition && mailbox_leading(h->partition->mailbox))
        service_not_leading(h);
    loop_timer_stop(s->loop, &h->timer);
    deliver_forget(h);
    letters_forget(h);
    partition_free(h->partition);
    h->partition = NULL;
}

/* The data goes; the promise stays as a tombstone. */
static void drop(struct hosted *h, uint64_t epoch) {
    struct shard *s = h->shard;
    uint64_t promise = h->partition ? replica_promise(h->partition->replica) : 0;
    orders_forget(h);
    journal_write_drop(s->journal, h->id, promise > epoch ? promise : epoch);
    log_info("partition %" PRIu64 " (%s/%u) dropped at epoch %" PRIu64, h->id, h->name, h->number, epoch);
    orders_report(h, MR__REPORT_KIND__REPORT_DROPPED, epoch, 0);
}

static void on_record(struct shard *s, const Mr__PartitionRecord *m) {
    struct replica_record record;
    struct mailbox_settings settings;
    struct hosted *h = shard_find(s, m->partition);
    if (m->removed) {
        if (h && h->partition) {
            drop(h, m->epoch + 1);
            journal_forget(s->journal, m->partition); /* ids are never used twice */
        }
        return;
    }
    if (!record_of(m, &record) || !settings_of(m, &settings)) {
        log_error("record of partition %" PRIu64 " cannot be read; ignored", m->partition);
        return;
    }
    if (!h && !member_of(&record, s->self))
        return;
    bool fresh = !h || (!h->partition && !h->quarantined && member_of(&record, s->self));
    if (!h)
        h = add_hosted(s, m, &settings);
    else if (fresh)
        storage_partition(s, h);
    if (record.version < h->record.version)
        return;
    bool again = record.version == h->record.version;
    h->record = record;
    h->settings = settings;
    h->dead_letter_partitions = m->dead_letter_partitions;
    keep_wishes(h, m);
    if (!h->partition)
        return;
    child_working_on(s->child, h->id);
    shard_touch(h);
    if (fresh)
        connect(h);
    replica_on_record(h->partition->replica, &record, loop_now(s->loop), &h->partition->replica_effects);
    partition_run(h->partition, loop_now(s->loop));
    if (again && mailbox_leading(h->partition->mailbox)) /* told again: it has not heard so */
        orders_report(h, MR__REPORT_KIND__REPORT_LED, replica_epoch(h->partition->replica), 0);
    child_working_on(s->child, 0);
}

static void set_aside(void *ctx, const struct journal_partition *jp) {
    struct shard *s = ctx;
    if (!shard_find(s, jp->id) && !jp->dropped)
        journal_set_aside(s->journal, jp->id, true);
}

static void on_records(struct shard_link *l, const struct frame *frame) {
    Mr__Records *m = frame_read_records(l->link, frame);
    for (size_t i = 0; m && i < m->n_records; i++)
        on_record(l->shard, m->records[i]);
    if (m && m->complete)
        journal_each(l->shard->journal, set_aside, l->shard);
}

static void on_members(struct shard_link *l, const struct frame *frame) {
    Mr__Members *m = frame_read_members(l->link, frame);
    if (m)
        peers_members(l->shard, m);
}

static void add_led(Mr__Reports *m, struct hosted *h) {
    Mr__Report *r = xmalloc(sizeof *r);
    mr__report__init(r);
    r->partition = h->id;
    r->kind = MR__REPORT_KIND__REPORT_LED;
    r->from = h->shard->self;
    r->epoch = replica_epoch(h->partition->replica);
    m->reports[m->n_reports++] = r;
}

static void send_reports(struct shard_link *l, Mr__Reports *m) {
    if (m->n_reports)
        link_send(l->link, FRAME_REPORTS, &m->base, NULL, 0);
    for (size_t i = 0; i < m->n_reports; i++)
        free(m->reports[i]);
    m->n_reports = 0;
}

/* A controller that has just begun to lead knows of no epoch that it is led. */
static void report_all_led(struct shard_link *l) {
    Mr__Report *list[REPORTS_A_FRAME];
    Mr__Reports m = MR__REPORTS__INIT;
    m.reports = list;
    for (struct hosted *h = l->shard->hosted; h; h = h->hh.next) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        add_led(&m, h);
        if (m.n_reports == REPORTS_A_FRAME)
            send_reports(l, &m);
    }
    send_reports(l, &m);
}

static void on_lead(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Lead *m = frame_read_lead(l->link, frame);
    if (!m || m->term < s->controller_term)
        return;
    s->controller_term = m->term;
    LINKS_EACH(s, other)
    other->leads = other == l;
    report_all_led(l);
}

/* ---- seals ---- */

static Mr__Sealed *add_sealed(struct shard_link *l) {
    Mr__Sealed *m = xmalloc(sizeof *m);
    mr__sealed__init(m);
    xgrow(&l->sealeds, &l->sealeds_capacity, l->sealeds_count + 1, sizeof *l->sealeds);
    l->sealeds[l->sealeds_count++] = m;
    return m;
}

static void step_seal(struct shard_link *l, const Mr__Seal *m) {
    struct shard *s = l->shard;
    struct hosted *h = shard_find(s, m->partition);
    struct journal_partition jp;
    if (m->to != s->self)
        return;
    if (!h || !h->partition) {
        /* known to the journal but not yet to us: the record is on its way, the
         * controller asks again */
        if (journal_get(s->journal, m->partition, &jp) && !jp.dropped && !(h && h->quarantined))
            return;
        Mr__Sealed *answer = add_sealed(l);
        answer->partition = m->partition;
        answer->token = m->token;
        answer->from = s->self;
        answer->epoch = m->epoch;
        answer->unknown = true;
        return;
    }
    child_working_on(s->child, h->id);
    shard_touch(h);
    h->seal_link = l->id;
    struct replica_seal seal = {.token = m->token, .to = m->to, .epoch = m->epoch, .candidate = m->candidate};
    bool led = replica_leading(h->partition->replica);
    replica_on_seal(h->partition->replica, &seal, loop_now(s->loop), &h->partition->replica_effects);
    partition_run(h->partition, loop_now(s->loop));
    if (!led && replica_promise(h->partition->replica) > h->record.epoch)
        peers_fence(h);
    child_working_on(s->child, 0);
    counters_add(COUNTER_seals, 1);
}

static void on_seals(struct shard_link *l, const struct frame *frame) {
    Mr__Seals *m = frame_read_seals(l->link, frame);
    for (size_t i = 0; m && i < m->n_seals; i++)
        step_seal(l, m->seals[i]);
}

void orders_sealed(struct hosted *h, const struct replica_sealed *a) {
    struct shard_link *to = NULL;
    LINKS_EACH(h->shard, l)
    if (l->id == h->seal_link)
        to = l;
    if (!to || to->kind != LINK_CONTROLLER)
        return; /* gone: the next controller asks again */
    Mr__Sealed *m = add_sealed(to);
    m->partition = h->id;
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
}

void orders_send_turn(struct shard_link *l) {
    if (l->sealeds_count == 0)
        return;
    Mr__Sealeds m = MR__SEALEDS__INIT;
    m.sealeds = l->sealeds;
    m.n_sealeds = l->sealeds_count;
    link_send(l->link, FRAME_SEALEDS, &m.base, NULL, 0);
    for (size_t i = 0; i < l->sealeds_count; i++)
        free(l->sealeds[i]);
    l->sealeds_count = 0;
}

/* ---- drops and planned moves ---- */

/* Not opened since the last start, because no record names this shard: what the
 * journal has of it goes. Dropped before: it says so again. */
static void drop_unhosted(struct shard_link *l, const Mr__DropReplica *m) {
    struct shard *s = l->shard;
    struct journal_partition jp = {0};
    Mr__Report r = MR__REPORT__INIT, *list[] = {&r};
    Mr__Reports reports = MR__REPORTS__INIT;
    bool known = journal_get(s->journal, m->partition, &jp) && !jp.dropped;
    if (known && jp.promise > m->epoch)
        return; /* it has promised higher: the newer controller decides */
    if (known) {
        journal_write_drop(s->journal, m->partition, m->epoch);
        log_info("partition %" PRIu64 " dropped at epoch %" PRIu64 ", not opened since the start",
                 m->partition, m->epoch);
    }
    r.partition = m->partition;
    r.kind = MR__REPORT_KIND__REPORT_DROPPED;
    r.from = s->self;
    r.epoch = m->epoch;
    reports.reports = list;
    reports.n_reports = 1;
    link_send(l->link, FRAME_REPORTS, &reports.base, NULL, 0);
}

static void on_drop_replica(struct shard_link *l, const struct frame *frame) {
    Mr__DropReplica *m = frame_read_drop_replica(l->link, frame);
    struct hosted *h = m ? shard_find(l->shard, m->partition) : NULL;
    if (!m)
        return;
    if (!h || !h->partition) {
        drop_unhosted(l, m);
        return;
    }
    if (replica_promise(h->partition->replica) > m->epoch) {
        orders_report(h, MR__REPORT_KIND__REPORT_SUPERSEDED, replica_promise(h->partition->replica), 0);
        return;
    }
    drop(h, m->epoch);
}

static void on_hold(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Hold *m = frame_read_hold(l->link, frame);
    struct hosted *h = m ? shard_find(s, m->partition) : NULL;
    if (!h || !h->partition)
        return;
    shard_touch(h);
    partition_hold(h->partition, m->target, loop_now(s->loop) + m->at_most_us, loop_now(s->loop));
}

void orders_frame(struct shard_link *l, const struct frame *frame) {
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

/* ---- reports ---- */

static bool leader_known(struct shard *s) {
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && l->leads)
        return true;
    return false;
}

void orders_report(struct hosted *h, Mr__ReportKind kind, uint64_t epoch, member_t peer) {
    struct shard *s = h->shard;
    Mr__Reports m = MR__REPORTS__INIT;
    Mr__Report r = MR__REPORT__INIT;
    Mr__Report *list[] = {&r};
    bool known = leader_known(s);
    r.partition = h->id;
    r.kind = kind;
    r.from = s->self;
    r.epoch = epoch;
    r.peer = peer;
    r.crashes = kind == MR__REPORT_KIND__REPORT_CRASHED ? (uint32_t)epoch : 0;
    m.reports = list;
    m.n_reports = 1;
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && (l->leads || !known))
        link_send(l->link, FRAME_REPORTS, &m.base, NULL, 0);
}

void orders_load(struct shard *s) {
    Mr__ShardLoad m = MR__SHARD_LOAD__INIT;
    m.member = s->self;
    m.free_disk_bytes = journal_space(s->journal);
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        struct mailbox_stats stats;
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        mailbox_stats(h->partition->mailbox, &stats);
        m.leaders++;
        m.backlog_messages += stats.messages;
    }
    if (m.leaders == s->load_leaders && m.backlog_messages == s->load_backlog)
        return;
    s->load_leaders = m.leaders;
    s->load_backlog = m.backlog_messages;
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && l->own_node)
        link_send(l->link, FRAME_SHARD_LOAD, &m.base, NULL, 0);
}

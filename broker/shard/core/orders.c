// SPDX-License-Identifier: Apache-2.0
/*
 * Controllers: what they say (records, seals, drops, planned moves) and what they
 * are told (seal answers, reports, load). Reports go to the one that leads the
 * metadata group, as far as it has said so on its link; else to all.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

/* ---- records ---- */

static void keep_wishes(struct hosted *h, struct shard_record *m) {
    free(h->wishes);
    h->wishes = m->wishes;
    h->wishes_count = m->wishes_count;
    m->wishes = NULL;
    h->wishes_due = true;
}

static bool wished(const struct hosted *h, const char *name) {
    for (size_t i = 0; i < h->wishes_count; i++)
        if (strcmp(h->wishes[i].name, name) == 0)
            return true;
    return false;
}

/* Bring the mailbox in line with the metadata, once it leads. Every call below
 * does nothing where it is so already. As the mailbox sees it: so what it was told
 * before must be applied first, or a subscription that was deleted before its
 * creation was committed would stay for good. */
void orders_wishes(struct hosted *h) {
    if (!h->wishes_due || !h->partition || !mailbox_leading(h->partition->mailbox))
        return;
    struct mailbox *m = h->partition->mailbox;
    struct mailbox_effects *fx = &h->partition->mailbox_effects;
    if (h->partition->applied < h->wishes_told)
        return; /* applying it touches the partition */
    h->wishes_due = false;
    mailbox_settings(m, &h->settings, fx);
    mailbox_dead_letter_partitions(m, h->dead_letter_partitions);
    for (size_t i = 0; i < h->wishes_count; i++)
        mailbox_subscribe(m, h->wishes[i].name, h->wishes[i].from, h->wishes[i].value, fx);
    struct subscription_stats stats;
    for (size_t i = 0; mailbox_subscription_stats(m, i, &stats); i++)
        if (!wished(h, stats.name))
            mailbox_unsubscribe(m, stats.name, fx);
    partition_run(h->partition, shard_now(h->shard));
    h->wishes_told = replica_last_index(h->partition->replica);
}

/* A leader may be outside of the new set until it has handed over; back from a
 * restart in between it has to say that it cannot lead. */
static bool member_of(const struct replica_record *r, member_t m) {
    return r->leader == m || replica_set_has(&r->current, m) || replica_set_has(&r->previous, m) ||
           replica_set_has(&r->learners, m);
}

static void quarantine(struct hosted *h, unsigned crashes) {
    h->quarantined = true;
    shard_say(h->shard, true,
              "partition %" PRIu64
              " (%s/%u) is quarantined: this shard died %u times in a row while working on it",
              h->id, h->name, h->number, crashes);
}

static struct hosted *add_hosted(struct shard *s, const struct shard_record *m) {
    struct hosted *h = xcalloc(1, sizeof *h);
    h->id = m->partition;
    h->shard = s;
    h->number = m->number;
    h->settings = m->settings;
    name_copy(h->name, m->mailbox);
    HASH_ADD(hh, s->hosted, id, sizeof h->id, h);
    if (m->quarantine) {
        quarantine(h, m->crashes);
        orders_report(h, CONTROL_CRASHED, m->crashes, 0);
        return h;
    }
    shard_working_on(s, h->id);
    storage_partition(s, h);
    shard_working_on(s, 0);
    return h;
}

static void forget(struct hosted *h) {
    struct shard *s = h->shard;
    if (h->partition && mailbox_leading(h->partition->mailbox))
        service_not_leading(h);
    s->calls->timer(s->host, h, USEC_NEVER);
    deliver_forget(h);
    letters_forget(h);
    partition_free(h->partition);
    h->partition = NULL;
    h->reading = false;
    h->staged_count = 0;
    h->checkpoint_pending = 0;
}

/* The data goes; the promise stays as a tombstone. */
static void drop(struct hosted *h, uint64_t epoch) {
    struct shard *s = h->shard;
    uint64_t promise = h->partition ? replica_promise(h->partition->replica) : 0;
    forget(h);
    journal_write_drop(s->journal, h->id, promise > epoch ? promise : epoch);
    shard_say(s, false, "partition %" PRIu64 " (%s/%u) dropped at epoch %" PRIu64, h->id, h->name, h->number,
              epoch);
    orders_report(h, CONTROL_DROPPED, epoch, 0);
}

static void on_removed(struct shard *s, const struct shard_record *m) {
    struct hosted *h = shard_find(s, m->partition);
    if (h && h->partition) {
        drop(h, (m->record.epoch > h->record.epoch ? m->record.epoch : h->record.epoch) + 1);
        journal_forget(s->journal, m->partition);
    }
    if (h)
        h->removed = true;
}

static void take_record(struct hosted *h, struct shard_record *m, bool fresh) {
    struct shard *s = h->shard;
    bool again = m->record.version == h->record.version;
    h->record = m->record;
    h->settings = m->settings;
    h->dead_letter_partitions = m->dead_letter_partitions;
    keep_wishes(h, m);
    if (!h->partition)
        return;
    shard_working_on(s, h->id);
    shard_touch(h);
    if (fresh)
        peers_connect(h);
    replica_on_record(h->partition->replica, &h->record, shard_now(s), &h->partition->replica_effects);
    partition_run(h->partition, shard_now(s));
    if (again && mailbox_leading(h->partition->mailbox)) /* told again: it has not heard so */
        orders_report(h, CONTROL_LED, replica_epoch(h->partition->replica), 0);
    shard_working_on(s, 0);
}

void orders_on_record(struct shard *s, struct shard_record *m) {
    struct hosted *h = shard_find(s, m->partition);
    if (m->removed) {
        on_removed(s, m);
        return;
    }
    bool member = member_of(&m->record, s->self);
    if (h ? h->removed : !member) /* removed: another controller's map may be behind */
        return;
    bool fresh = !h || (!h->partition && !h->quarantined && member);
    if (!h)
        h = add_hosted(s, m);
    else if (fresh)
        storage_partition(s, h);
    if (m->record.version >= h->record.version)
        take_record(h, m, fresh);
}

static void set_aside(void *ctx, const struct journal_partition *jp) {
    struct shard *s = ctx;
    if (!shard_find(s, jp->id) && !jp->dropped)
        journal_set_aside(s->journal, jp->id, true);
}

void orders_on_complete(struct shard *s) {
    journal_each(s->journal, set_aside, s);
}

/* A controller that has just begun to lead knows of no epoch that it is led. */
static void report_all_led(struct shard_link *l) {
    struct shard *s = l->shard;
    struct control_report *list = xcalloc(SHARD_REPORTS_MAX, sizeof *list);
    size_t count = 0;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        list[count++] = (struct control_report){.partition = h->id,
                                                .kind = CONTROL_LED,
                                                .from = s->self,
                                                .epoch = replica_epoch(h->partition->replica)};
        if (count == SHARD_REPORTS_MAX) {
            s->calls->reports(l, list, count);
            count = 0;
        }
    }
    if (count)
        s->calls->reports(l, list, count);
    free(list);
}

void orders_on_lead(struct shard_link *l, uint64_t term) {
    struct shard *s = l->shard;
    if (term < s->controller_term)
        return;
    s->controller_term = term;
    LINKS_EACH(s, other)
    other->leads = other == l;
    report_all_led(l);
}

/* ---- seals ---- */

static void answer_unknown(struct shard_link *l, uint64_t partition, const struct replica_seal *m) {
    struct replica_sealed answer = {.token = m->token, .from = l->shard->self, .epoch = m->epoch};
    l->shard->calls->sealed(l, partition, &answer, true);
}

void orders_on_seal(struct shard_link *l, uint64_t partition, const struct replica_seal *m) {
    struct shard *s = l->shard;
    struct hosted *h = shard_find(s, partition);
    struct journal_partition jp;
    if (m->to != s->self)
        return;
    if (!h || !h->partition) {
        /* known to the journal but not yet to us: the record is on its way, the
         * controller asks again */
        if (!journal_get(s->journal, partition, &jp) || jp.dropped || (h && h->quarantined))
            answer_unknown(l, partition, m);
        return;
    }
    shard_working_on(s, h->id);
    shard_touch(h);
    h->seal_link = l->id;
    bool led = replica_leading(h->partition->replica);
    replica_on_seal(h->partition->replica, m, shard_now(s), &h->partition->replica_effects);
    partition_run(h->partition, shard_now(s));
    if (!led && replica_promise(h->partition->replica) > h->record.epoch)
        peers_fence(h);
    shard_working_on(s, 0);
    counters_add(COUNTER_seals, 1);
}

void orders_sealed(struct hosted *h, const struct replica_sealed *m) {
    LINKS_EACH(h->shard, l)
    if (l->id == h->seal_link && l->kind == LINK_CONTROLLER)
        h->shard->calls->sealed(l, h->id, m, false);
    /* gone: the next controller asks again */
}

/* ---- drops and planned moves ---- */

/* Not opened since the last start, because no record names this shard: what the
 * journal has of it goes. Dropped before: it says so again. */
static void drop_unhosted(struct shard_link *l, uint64_t partition, uint64_t epoch) {
    struct shard *s = l->shard;
    struct journal_partition jp = {0};
    bool known = journal_get(s->journal, partition, &jp) && !jp.dropped;
    bool higher = known && jp.promise > epoch; /* it has promised higher: a drop must be above that */
    if (known && !higher) {
        journal_write_drop(s->journal, partition, epoch);
        shard_say(s, false, "partition %" PRIu64 " dropped at epoch %" PRIu64 ", not opened since the start",
                  partition, epoch);
    }
    s->calls->reports(l,
                      &(struct control_report){.partition = partition,
                                               .kind = higher ? CONTROL_SUPERSEDED : CONTROL_DROPPED,
                                               .from = s->self,
                                               .epoch = higher ? jp.promise : epoch},
                      1);
}

void orders_on_drop(struct shard_link *l, uint64_t partition, uint64_t epoch) {
    struct hosted *h = shard_find(l->shard, partition);
    if (!h || !h->partition) {
        drop_unhosted(l, partition, epoch);
        return;
    }
    if (replica_promise(h->partition->replica) > epoch) {
        orders_report(h, CONTROL_SUPERSEDED, replica_promise(h->partition->replica), 0);
        return;
    }
    drop(h, epoch);
}

void orders_on_hold(struct shard *s, uint64_t partition, member_t target, usec_t at_most) {
    struct hosted *h = shard_find(s, partition);
    if (!h || !h->partition)
        return;
    shard_touch(h);
    partition_hold(h->partition, target, shard_now(s) + at_most, shard_now(s));
}

/* ---- reports ---- */

static bool leader_known(struct shard *s) {
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && l->leads)
        return true;
    return false;
}

void orders_report(struct hosted *h, enum control_report_kind kind, uint64_t epoch, member_t peer) {
    struct shard *s = h->shard;
    bool known = leader_known(s);
    struct control_report r = {.partition = h->id,
                               .kind = kind,
                               .from = s->self,
                               .epoch = epoch,
                               .peer = peer,
                               .crashes = kind == CONTROL_CRASHED ? (uint32_t)epoch : 0};
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && (l->leads || !known))
        s->calls->reports(l, &r, 1);
}

void orders_load(struct shard *s) {
    struct shard_load load = {.free_disk_bytes = journal_space(s->journal)};
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        struct mailbox_stats stats;
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        mailbox_stats(h->partition->mailbox, &stats);
        load.leaders++;
        load.backlog_messages += stats.messages;
    }
    if (load.leaders == s->load_told.leaders && load.backlog_messages == s->load_told.backlog_messages)
        return;
    s->load_told = load;
    LINKS_EACH(s, l)
    if (l->kind == LINK_CONTROLLER && l->own_node)
        s->calls->load(l, &load);
}

// SPDX-License-Identifier: Apache-2.0
/* The simulated shard: mirrors broker/shard's loop (shard.c), its peers (peers.c)
 * and what controllers ask of it (orders.c). */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "shard.h"

/* Where it is among the hosted, or would be. */
static size_t place(const struct shard *s, uint64_t partition) {
    size_t low = 0, high = s->hosted_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->hosted[middle]->id < partition)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct hosted *shard_find(struct shard *s, uint64_t partition) {
    size_t at = place(s, partition);
    return at < s->hosted_count && s->hosted[at]->id == partition ? s->hosted[at] : NULL;
}

void shard_touch(struct hosted *h) {
    h->dirty = true;
    process_touch(h->process);
}

struct partition *shard_partition_of(struct process *p, const struct mailbox *m) {
    HOSTED_EACH(p->shard, h)
    if (h->partition && h->partition->mailbox == m)
        return h->partition;
    return NULL;
}

struct partition *shard_partition(struct process *p, uint64_t id) {
    struct hosted *h = shard_find(p->shard, id);
    return h ? h->partition : NULL;
}

const struct replica_record *shard_record(struct process *p, uint64_t id) {
    struct hosted *h = shard_find(p->shard, id);
    return h ? &h->record : NULL;
}

/* ---- peers ---- */

static void send_to_member(struct hosted *h, member_t to, const struct message *m) {
    int at = network_by_member(h->process, to);
    if (at >= 0)
        network_send(h->process, at, message_copy(m));
}

/* What has been promised goes to all shards at once, before any further confirmation:
 * whoever leads an older epoch, known to this replica or not, counts it no more. */
static void fence(struct hosted *h) {
    struct process *p = h->process;
    for (int i = 0; i < p->sim->processes_count; i++) {
        if (p->sim->processes[i].kind != PROCESS_SHARD)
            continue;
        if (MUTATED(fences_known_leader) && p->ends[i].member != h->record.leader)
            continue;
        struct message *m = message_new(M_FENCED, h->id);
        m->promise = replica_promise(h->partition->replica);
        network_send(p, i, m);
    }
}

struct fencing {
    struct process *process;
    int to;
};

static void fence_one(void *ctx, const struct journal_partition *jp) {
    struct fencing *f = ctx;
    if (jp->promise <= METADATA_RECORD_EPOCH_FIRST || jp->id > f->process->sim->partitions_max)
        return;
    struct message *m = message_new(M_FENCED, jp->id);
    m->promise = jp->promise;
    network_send(f->process, f->to, m);
}

static size_t fence_place(const struct peer *p, uint64_t partition) {
    size_t low = 0, high = p->fenced_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (p->fences[middle].partition < partition)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint64_t fence_of(const struct peer *p, uint64_t partition) {
    size_t at = fence_place(p, partition);
    return at < p->fenced_count && p->fences[at].partition == partition ? p->fences[at].promise : 0;
}

static void fence_add(struct peer *p, uint64_t partition, uint64_t promise) {
    size_t at = fence_place(p, partition);
    if (at == p->fenced_count || p->fences[at].partition != partition) {
        xgrow(&p->fences, &p->fenced_capacity, p->fenced_count + 1, sizeof *p->fences);
        memmove(&p->fences[at + 1], &p->fences[at], (p->fenced_count++ - at) * sizeof *p->fences);
    }
    p->fences[at] = (struct fence){partition, promise};
}

static bool in_sets(const struct hosted *h, member_t m) {
    return replica_set_has(&h->record.current, m) || replica_set_has(&h->record.previous, m);
}

static bool wants_lease(const struct hosted *h) {
    struct subscription_stats stats;
    if (!h->partition || !mailbox_leading(h->partition->mailbox))
        return false;
    for (size_t i = 0; mailbox_subscription_stats(h->partition->mailbox, i, &stats); i++)
        if (stats.consumers)
            return true;
    return false;
}

static void confirm_peers(struct shard *s) {
    struct process *p = s->process;
    for (int i = 0; i < p->sim->processes_count; i++) {
        bool wanted = false;
        if (!p->ends[i].up || p->sim->processes[i].kind != PROCESS_SHARD)
            continue;
        HOSTED_EACH(s, h)
        wanted |= wants_lease(h) && in_sets(h, p->ends[i].member);
        if (!wanted)
            continue;
        struct message *m = message_new(M_CONFIRM, 0);
        m->beat.sent_at = process_now(p);
        network_send(p, i, m);
    }
}

static void on_confirmed(struct shard *s, int from, const struct message *m) {
    struct process *p = s->process;
    member_t member = p->ends[from].member;
    HOSTED_EACH(s, h) {
        if (!h->partition || !replica_leading(h->partition->replica) || !in_sets(h, member))
            continue;
        if (fence_of(&s->peers[from], h->id) > replica_epoch(h->partition->replica) &&
            !MUTATED(fences_ignored))
            continue;
        replica_confirm(h->partition->replica, member, m->beat.sent_at);
        shard_touch(h);
        partition_run(h->partition, process_now(p));
    }
}

static void on_replica_message(struct hosted *h, const struct message *m) {
    struct replica *r = h->partition->replica;
    struct replica_effects *fx = &h->partition->replica_effects;
    usec_t now = process_now(h->process);
    member_t self = h->process->self;
    shard_touch(h);
    if (m->type == M_APPEND && m->append.to == self)
        replica_on_append(r, &m->append, now, fx);
    else if (m->type == M_APPENDED && m->appended.to == self)
        replica_on_appended(r, &m->appended, now, fx);
    else if (m->type == M_PIECE && m->piece.to == self)
        replica_on_piece(r, &m->piece, now, fx);
    else if (m->type == M_PIECED && m->pieced.to == self)
        replica_on_pieced(r, &m->pieced, now, fx);
    partition_run(h->partition, now);
}

static void peer_message(struct shard *s, int from, struct message *m) {
    if (m->type == M_CONFIRM) {
        struct message *answer = message_new(M_CONFIRMED, 0);
        answer->beat.sent_at = m->beat.sent_at;
        network_send(s->process, from, answer);
    } else if (m->type == M_CONFIRMED) {
        on_confirmed(s, from, m);
    } else if (m->type == M_FENCED) {
        fence_add(&s->peers[from], m->partition, m->promise);
    } else {
        struct hosted *h = shard_find(s, m->partition);
        if (h && h->partition)
            on_replica_message(h, m);
    }
}

static void peer_up(struct shard *s, int other) {
    struct process *p = s->process;
    member_t member = p->ends[other].member;
    s->peers[other].fenced_count = 0;
    /* from the journal: partitions not opened yet count too */
    if (!MUTATED(fences_not_repeated))
        journal_each(p->journal, fence_one, &(struct fencing){p, other});
    HOSTED_EACH(s, h) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_up(h->partition->replica, member, process_now(p), &h->partition->replica_effects);
        partition_run(h->partition, process_now(p));
    }
}

static void peer_down(struct shard *s, member_t member) {
    HOSTED_EACH(s, h) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_down(h->partition->replica, member, process_now(s->process),
                          &h->partition->replica_effects);
        partition_run(h->partition, process_now(s->process));
    }
}

static void tell_down(struct hosted *h, const struct replica_set *set) {
    for (size_t i = 0; i < set->count; i++)
        if (set->members[i] != h->process->self && network_by_member(h->process, set->members[i]) < 0)
            replica_peer_down(h->partition->replica, set->members[i], process_now(h->process),
                              &h->partition->replica_effects);
}

static void peers_leading(struct hosted *h) {
    tell_down(h, &h->record.current);
    tell_down(h, &h->record.previous);
    tell_down(h, &h->record.learners);
}

/* ---- the partition's host ---- */

static void on_send(struct hosted *h, const struct replica_effect *e) {
    struct message m = {.partition = h->id};
    switch (e->type) {
    case REPLICA_SEND_APPEND:
        m.type = M_APPEND;
        m.append = e->append;
        checker_sends(h->process, h->id, m.append.epoch);
        send_to_member(h, m.append.to, &m);
        break;
    case REPLICA_SEND_APPENDED:
        m.type = M_APPENDED;
        m.appended = e->appended;
        send_to_member(h, m.appended.to, &m);
        break;
    case REPLICA_SEND_PIECE:
        m.type = M_PIECE;
        m.piece = e->piece;
        if (m.piece.number == 0)
            sim_count(h->process->sim, RARE_checkpoints_sent);
        send_to_member(h, m.piece.to, &m);
        break;
    case REPLICA_SEND_PIECED:
        m.type = M_PIECED;
        m.pieced = e->pieced;
        send_to_member(h, m.pieced.to, &m);
        break;
    default:
        CHECK(!"not a message to a replica");
    }
}

static void on_sealed(struct hosted *h, const struct replica_effect *e) {
    struct process *p = h->process;
    if (h->seal_from < 0 || p->ends[h->seal_from].instance != h->seal_link)
        return;
    struct message *m = message_new(M_SEALED, h->id);
    m->sealed.sealed = e->sealed;
    sim_count(p->sim, RARE_seals);
    network_send(p, h->seal_from, m);
}

static bool is_report(enum replica_effect_type type) {
    return type >= REPLICA_REPORT_ACTIVATED;
}

static void on_report_effect(struct hosted *h, const struct replica_effect *e) {
    struct sim *s = h->process->sim;
    uint64_t epoch = h->record.epoch;
    switch (e->type) {
    case REPLICA_REPORT_ACTIVATED:
        sim_count(s, RARE_activated);
        shard_report(h, CONTROL_ACTIVATED, e->epoch, 0);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        sim_count(s, RARE_superseded);
        shard_report(h, CONTROL_SUPERSEDED, e->promise.epoch, 0);
        break;
    case REPLICA_REPORT_CANNOT:
        sim_count(s, RARE_cannot_lead);
        shard_report(h, CONTROL_CANNOT, e->epoch, 0);
        break;
    case REPLICA_REPORT_CAUGHT_UP:
        sim_count(s, RARE_caught_up);
        shard_report(h, CONTROL_CAUGHT_UP, epoch, e->peer);
        break;
    case REPLICA_REPORT_DAMAGED:
        shard_report(h, CONTROL_DAMAGED, epoch, 0);
        break;
    default:
        sim_count(s, RARE_mended);
        shard_report(h, CONTROL_MENDED, epoch, 0);
    }
}

static void on_replica_effect(void *host, struct partition *p, const struct replica_effect *e) {
    struct hosted *h = p->user;
    (void)host;
    shard_touch(h);
    switch (e->type) {
    case REPLICA_WRITE:
    case REPLICA_TRUNCATE:
    case REPLICA_PROMISE:
    case REPLICA_STAGE:
    case REPLICA_UNSTAGE:
    case REPLICA_MARK_DAMAGED:
    case REPLICA_MARK_WHOLE:
        storage_write(h, e);
        break;
    case REPLICA_LEADING:
        checker_leading(h->process, h->id, e->epoch);
        peers_leading(h);
        break;
    case REPLICA_FETCH:
        reader_fetch(h, e->fetch.from, e->fetch.to, e->fetch.reader);
        break;
    case REPLICA_SEND_SEALED:
        on_sealed(h, e);
        break;
    default:
        if (is_report(e->type))
            on_report_effect(h, e);
        else
            on_send(h, e);
    }
}

static void on_mailbox_effect(void *host, struct partition *p, const struct mailbox_effect *e) {
    struct hosted *h = p->user;
    (void)host;
    shard_touch(h);
    if (e->type == MAILBOX_DEAD_BATCH)
        journal_mark_dead(h->process->journal, h->id, e->index);
    else
        service_effect(h, e);
}

static void on_checkpoint(void *host, struct partition *p, const struct partition_checkpoint *c) {
    (void)host;
    shard_touch(p->user);
    storage_checkpoint(p->user, c);
}

static size_t on_led(void *host, struct partition *p, uint64_t epoch, uint64_t *gateways, size_t max) {
    struct hosted *h = p->user;
    (void)host;
    checker_active(h->process, h->id, epoch, replica_applied(p->replica));
    return service_led(h, epoch, gateways, max);
}

static void on_not_leading(void *host, struct partition *p) {
    (void)host;
    service_not_leading(p->user);
}

static void on_held(void *host, struct partition *p) {
    struct hosted *h = p->user;
    (void)host;
    sim_count(h->process->sim, RARE_planned_holds);
    shard_report(h, CONTROL_HELD, h->record.epoch, p->hold_target);
}

static const struct partition_host host_calls = {
    .replica_effect = on_replica_effect,
    .mailbox_effect = on_mailbox_effect,
    .checkpoint = on_checkpoint,
    .led = on_led,
    .not_leading = on_not_leading,
    .held = on_held,
};

const struct partition_host *shard_host(void) {
    return &host_calls;
}

/* ---- reports ---- */

static const char *const report_names[] = {"activated", "superseded", "cannot", "caught up", "damaged",
                                           "mended",    "led",        "held",   "dropped",   "crashed"};

void shard_report(struct hosted *h, enum control_report_kind kind, uint64_t epoch, member_t peer) {
    struct shard *s = h->shard;
    struct process *p = h->process;
    bool known = false;
    sim_trace(p->sim, "%s p%d reports %s, epoch %llu", p->name, (int)h->id, report_names[kind],
              (unsigned long long)epoch);
    for (int i = 0; i < p->sim->processes_count; i++)
        known |= s->leads[i] && p->ends[i].up;
    for (int i = 0; i < p->sim->processes_count; i++) {
        if (p->sim->processes[i].kind != PROCESS_CONTROLLER || (known && !s->leads[i]))
            continue;
        struct message *m = message_new(M_REPORT, h->id);
        m->report = (struct control_report){
            .partition = h->id, .kind = kind, .from = p->self, .epoch = epoch, .peer = peer};
        network_send(p, i, m);
    }
}

/* ---- what controllers say ---- */

static bool wished(const struct hosted *h, const char *name) {
    for (size_t i = 0; i < h->wishes_count; i++)
        if (strcmp(h->wishes[i].name, name) == 0)
            return true;
    return false;
}

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
    partition_run(h->partition, process_now(h->process));
}

/* A leader may be outside of the new set until it has handed over; back from a
 * restart in between it has to say that it cannot lead. */
static bool member_of(const struct replica_record *r, member_t m) {
    return r->leader == m || replica_set_has(&r->current, m) || replica_set_has(&r->previous, m) ||
           replica_set_has(&r->learners, m);
}

static struct hosted *add_hosted(struct shard *s, const struct message *m) {
    struct hosted *h = xcalloc(1, sizeof *h);
    CHECK(m->partition <= s->process->sim->partitions_max);
    h->id = m->partition;
    h->shard = s;
    h->process = s->process;
    h->number = m->record.number;
    h->settings = m->record.settings;
    h->seal_from = -1;
    strcpy(h->name, m->record.mailbox);
    size_t at = place(s, h->id);
    xgrow(&s->hosted, &s->hosted_capacity, s->hosted_count + 1, sizeof *s->hosted);
    memmove(&s->hosted[at + 1], &s->hosted[at], (s->hosted_count++ - at) * sizeof *s->hosted);
    s->hosted[at] = h;
    storage_partition(h);
    return h;
}

static void connect_peers(struct hosted *h) {
    struct process *p = h->process;
    for (int i = 0; i < p->sim->processes_count; i++)
        if (p->ends[i].up && p->sim->processes[i].kind == PROCESS_SHARD)
            replica_peer_up(h->partition->replica, p->ends[i].member, process_now(p),
                            &h->partition->replica_effects);
}

static void forget(struct hosted *h) {
    if (h->partition && mailbox_leading(h->partition->mailbox))
        service_not_leading(h);
    deliver_forget(h);
    letters_forget(h);
    partition_free(h->partition);
    h->partition = NULL;
}

static void drop(struct hosted *h, uint64_t epoch) {
    uint64_t promise = h->partition ? replica_promise(h->partition->replica) : 0;
    sim_count(h->process->sim, RARE_dropped_replicas);
    sim_trace(h->process->sim, "%s p%d dropped at epoch %llu", h->process->name, (int)h->id,
              (unsigned long long)epoch);
    forget(h);
    journal_write_drop(h->process->journal, h->id, promise > epoch ? promise : epoch);
    process_touch(h->process);
    shard_report(h, CONTROL_DROPPED, epoch, 0);
}

static void take_record(struct hosted *h, const struct message *m, bool fresh) {
    h->record = m->record.record;
    h->settings = m->record.settings;
    h->dead_letter_partitions = m->record.dead_letter_partitions;
    memcpy(h->wishes, m->record.wishes, sizeof h->wishes);
    h->wishes_count = m->record.wishes_count;
    h->wishes_due = true;
    if (!h->partition)
        return;
    shard_touch(h);
    if (fresh)
        connect_peers(h);
    replica_on_record(h->partition->replica, &h->record, process_now(h->process),
                      &h->partition->replica_effects);
    partition_run(h->partition, process_now(h->process));
}

static void on_record(struct shard *s, const struct message *m) {
    struct hosted *h = shard_find(s, m->partition);
    bool member = member_of(&m->record.record, s->process->self);
    if (m->record.removed) {
        if (h && h->partition) {
            drop(h, m->record.record.epoch + 1);
            journal_forget(s->process->journal, m->partition);
        }
        return;
    }
    if (!h && !member)
        return;
    bool fresh = !h || (!h->partition && member);
    if (!h)
        h = add_hosted(s, m);
    else if (fresh)
        storage_partition(h);
    if (m->record.record.version < h->record.version)
        return;
    bool again = m->record.record.version == h->record.version;
    take_record(h, m, fresh);
    if (again && h->partition && mailbox_leading(h->partition->mailbox)) /* told again: it has not heard so */
        shard_report(h, CONTROL_LED, replica_epoch(h->partition->replica), 0);
}

static void on_seal(struct shard *s, int from, const struct message *m) {
    struct hosted *h = shard_find(s, m->partition);
    struct process *p = s->process;
    struct journal_partition jp;
    if (m->seal.to != p->self)
        return;
    if (!h || !h->partition) {
        if (journal_get(p->journal, m->partition, &jp) && !jp.dropped)
            return;
        struct message *answer = message_new(M_SEALED, m->partition);
        answer->sealed.unknown = true;
        answer->sealed.sealed =
            (struct replica_sealed){.token = m->seal.token, .from = p->self, .epoch = m->seal.epoch};
        network_send(p, from, answer);
        return;
    }
    shard_touch(h);
    h->seal_from = from;
    h->seal_link = p->ends[from].instance;
    bool led = replica_leading(h->partition->replica);
    replica_on_seal(h->partition->replica, &m->seal, process_now(p), &h->partition->replica_effects);
    partition_run(h->partition, process_now(p));
    if (!led && replica_promise(h->partition->replica) > h->record.epoch)
        fence(h);
}

static void report_to(struct shard *s, int to, uint64_t partition, enum control_report_kind kind,
                      uint64_t epoch) {
    struct message *m = message_new(M_REPORT, partition);
    m->report = (struct control_report){
        .partition = partition, .kind = kind, .from = s->process->self, .epoch = epoch};
    network_send(s->process, to, m);
}

static void drop_unhosted(struct shard *s, int from, const struct message *m) {
    struct journal_partition jp = {0};
    bool known = journal_get(s->process->journal, m->partition, &jp) && !jp.dropped;
    if (known && jp.promise > m->drop.epoch)
        return;
    if (known)
        journal_write_drop(s->process->journal, m->partition, m->drop.epoch);
    report_to(s, from, m->partition, CONTROL_DROPPED, m->drop.epoch);
}

static void on_lead(struct shard *s, int from, const struct message *m) {
    if (m->beat.term < s->controller_term)
        return;
    s->controller_term = m->beat.term;
    for (int i = 0; i < s->process->sim->processes_count; i++)
        s->leads[i] = i == from;
    HOSTED_EACH(s, h)
    if (h->partition && mailbox_leading(h->partition->mailbox))
        report_to(s, from, h->id, CONTROL_LED, replica_epoch(h->partition->replica));
}

static void on_drop(struct shard *s, int from, const struct message *m) {
    struct hosted *h = shard_find(s, m->partition);
    if (!h || !h->partition) {
        drop_unhosted(s, from, m);
        return;
    }
    uint64_t promise = replica_promise(h->partition->replica);
    if (promise > m->drop.epoch)
        shard_report(h, CONTROL_SUPERSEDED, promise, 0);
    else
        drop(h, m->drop.epoch);
}

static void set_aside(void *ctx, const struct journal_partition *jp) {
    struct shard *s = ctx;
    if (!shard_find(s, jp->id) && !jp->dropped)
        journal_set_aside(s->process->journal, jp->id, true);
}

void orders_message(struct shard *s, int from, struct message *m) {
    struct process *p = s->process;
    struct hosted *h = shard_find(s, m->partition);
    if (m->type == M_RECORD) {
        on_record(s, m);
    } else if (m->type == M_COMPLETE) {
        journal_each(p->journal, set_aside, s);
    } else if (m->type == M_SEAL) {
        on_seal(s, from, m);
    } else if (m->type == M_DROP) {
        on_drop(s, from, m);
    } else if (m->type == M_HOLD && h && h->partition) {
        shard_touch(h);
        partition_hold(h->partition, m->hold.target, process_now(p) + m->hold.at_most, process_now(p));
    } else if (m->type == M_LEAD) {
        on_lead(s, from, m);
    } else if (m->type == M_PING) {
        network_send(p, from, message_new(M_PONG, 0));
    }
}

/* ---- the loop ---- */

void shard_message(struct process *p, int from, struct message *m) {
    enum process_kind kind = p->sim->processes[from].kind;
    if (kind == PROCESS_SHARD)
        peer_message(p->shard, from, m);
    else if (kind == PROCESS_CONTROLLER)
        orders_message(p->shard, from, m);
    else
        service_message(p->shard, from, m);
}

void shard_link_up(struct process *p, int other) {
    enum process_kind kind = p->sim->processes[other].kind;
    if (kind == PROCESS_SHARD)
        peer_up(p->shard, other);
    else if (kind == PROCESS_GATEWAY)
        service_up(p->shard, other);
    else
        p->shard->leads[other] = false;
}

void shard_link_down(struct process *p, int other, const struct end *was) {
    enum process_kind kind = p->sim->processes[other].kind;
    if (kind == PROCESS_SHARD)
        peer_down(p->shard, was->member);
    else if (kind == PROCESS_GATEWAY)
        service_down(p->shard, other, was->instance);
    else
        p->shard->leads[other] = false;
}

static void pump(struct hosted *h, bool full) {
    usec_t now = process_now(h->process);
    h->dirty = false;
    if (!h->partition)
        return;
    h->partition->disk_full = full;
    partition_time(h->partition, now, process_wall(h->process));
    orders_wishes(h);
    partition_pump(h->partition, now);
}

static bool pump_dirty(struct shard *s) {
    bool any = false;
    bool full = journal_full(s->process->journal);
    HOSTED_EACH(s, h) {
        if (!h->dirty)
            continue;
        any = true;
        pump(h, full);
        if (h->partition)
            checker_turn(h->process, h->partition);
    }
    return any;
}

static usec_t soonest(struct shard *s) {
    usec_t at = s->confirm_at < s->reclaim_at ? s->confirm_at : s->reclaim_at;
    at = s->load_at < at ? s->load_at : at;
    HOSTED_EACH(s, h) {
        usec_t deadline = h->partition ? partition_deadline(h->partition) : USEC_NEVER;
        at = deadline < at ? deadline : at;
    }
    return at;
}

void shard_turn(struct process *p) {
    while (pump_dirty(p->shard))
        ;
    storage_flush(p->shard);
    process_wake(p, soonest(p->shard));
}

static void tell_load(struct shard *s) {
    struct process *p = s->process;
    uint64_t backlog = 0;
    HOSTED_EACH(s, h) {
        struct mailbox_stats stats;
        if (!h->partition || !mailbox_leading(h->partition->mailbox))
            continue;
        mailbox_stats(h->partition->mailbox, &stats);
        backlog += stats.messages;
    }
    struct message *m = message_new(M_LOAD, 0);
    m->beat.load[0] = backlog;
    network_send(p, sim_controller(p->sim, p->node)->id, m);
}

void shard_timer(struct process *p) {
    struct shard *s = p->shard;
    usec_t now = process_now(p);
    if (now >= s->confirm_at) {
        confirm_peers(s);
        s->confirm_at = now + SHARD_CONFIRM_US;
    }
    if (now >= s->reclaim_at) {
        storage_reclaim(s);
        s->reclaim_at = now + SHARD_RECLAIM_US;
    }
    if (now >= s->load_at) {
        tell_load(s);
        s->load_at = now + SHARD_LOAD_US;
    }
    HOSTED_EACH(s, h) {
        if (!h->partition || partition_deadline(h->partition) > now)
            continue;
        shard_touch(h);
        partition_tick(h->partition, now);
    }
    process_touch(p);
}

void shard_synced(struct process *p, uint64_t ticket) {
    storage_synced(p->shard, ticket);
}

void shard_start(struct process *p) {
    struct shard *s = xcalloc(1, sizeof *s);
    usec_t now = process_now(p);
    s->process = p;
    s->peers = xcalloc((size_t)p->sim->processes_count, sizeof *s->peers);
    s->leads = xcalloc((size_t)p->sim->processes_count, sizeof *s->leads);
    s->next_request = 1;
    s->confirm_at = now + SHARD_CONFIRM_US;
    s->reclaim_at = now + SHARD_RECLAIM_US;
    s->load_at = now + SHARD_LOAD_US;
    p->shard = s;
    process_touch(p);
}

void shard_free(struct process *p) {
    struct shard *s = p->shard;
    HOSTED_EACH(s, h) {
        deliver_forget(h);
        letters_forget(h);
        partition_free(h->partition);
        free(h->staged);
        free(h);
    }
    while (s->flushes) {
        struct flush *next = s->flushes->next;
        free(s->flushes->items);
        free(s->flushes);
        s->flushes = next;
    }
    for (int i = 0; i < p->sim->processes_count; i++)
        free(s->peers[i].fences);
    free(s->peers);
    free(s->leads);
    free(s->hosted);
    free(s);
    p->shard = NULL;
}

// SPDX-License-Identifier: Apache-2.0
/* The simulator's messages as what the broker's shard is asked and says: what the
 * broker's *_frames.c do with frames. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "kept.h"
#include "shard.h"

static struct process *process_of(const struct shard_link *l) {
    return ((struct sim_shard *)l->shard)->process;
}

static void send_to(struct shard_link *to, struct message *m) {
    network_send(process_of(to), ((struct sim_link *)to)->other, m);
}

/* ---- shards ---- */

void shard_from_peer(struct sim_link *link, struct message *m) {
    struct shard_link *l = &link->shard;
    if (m->type == M_APPEND)
        peers_on_append(l, m->partition, &m->append);
    else if (m->type == M_APPENDED)
        peers_on_appended(l, m->partition, &m->appended);
    else if (m->type == M_PIECE)
        peers_on_piece(l, m->partition, &m->piece);
    else if (m->type == M_PIECED)
        peers_on_pieced(l, m->partition, &m->pieced);
    else if (m->type == M_CONFIRM)
        peers_on_confirm(l, m->beat.sent_at);
    else if (m->type == M_CONFIRMED)
        peers_on_confirmed(l, m->beat.sent_at);
    else if (m->type == M_FENCED)
        peers_on_fenced(l, m->partition, m->promise);
}

static void append(struct peer *to, uint64_t partition, const struct replica_append *a) {
    struct message m = {.type = M_APPEND, .partition = partition, .append = *a};
    checker_sends(process_of(to->link), partition, a->epoch);
    send_to(to->link, message_copy(&m));
}

static void appended(struct peer *to, uint64_t partition, const struct replica_appended *a) {
    struct message *m = message_new(M_APPENDED, partition);
    m->appended = *a;
    send_to(to->link, m);
}

static void piece(struct peer *to, uint64_t partition, const struct replica_piece *a) {
    struct message m = {.type = M_PIECE, .partition = partition, .piece = *a};
    if (a->number == 0)
        sim_count(process_of(to->link)->sim, RARE_checkpoints_sent);
    send_to(to->link, message_copy(&m));
}

static void pieced(struct peer *to, uint64_t partition, const struct replica_pieced *a) {
    struct message *m = message_new(M_PIECED, partition);
    m->pieced = *a;
    send_to(to->link, m);
}

static void confirm(struct peer *to, usec_t sent_at) {
    struct message *m = message_new(M_CONFIRM, 0);
    m->beat.sent_at = sent_at;
    send_to(to->link, m);
}

static void confirmed(struct shard_link *to, usec_t sent_at) {
    struct message *m = message_new(M_CONFIRMED, 0);
    m->beat.sent_at = sent_at;
    send_to(to, m);
}

static void fenced(struct peer *to, const struct fence_told *fences, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct message *m = message_new(M_FENCED, fences[i].partition);
        m->promise = fences[i].promise;
        send_to(to->link, m);
    }
}

/* ---- controllers ---- */

static void on_record(struct shard *s, const struct message *m) {
    struct shard_record r = {.partition = m->partition,
                             .removed = m->record.removed,
                             .record = m->record.record,
                             .settings = m->record.settings,
                             .mailbox = m->record.mailbox,
                             .number = m->record.number,
                             .dead_letter_partitions = m->record.dead_letter_partitions,
                             .wishes = xcalloc(m->record.wishes_count, sizeof *r.wishes),
                             .wishes_count = m->record.wishes_count};
    for (size_t i = 0; i < r.wishes_count; i++) {
        name_copy(r.wishes[i].name, m->record.wishes[i].name);
        r.wishes[i].from = m->record.wishes[i].from;
        r.wishes[i].value = m->record.wishes[i].value;
    }
    orders_on_record(s, &r);
    free(r.wishes);
}

void shard_from_controller(struct sim_link *link, struct message *m) {
    struct shard_link *l = &link->shard;
    if (m->type == M_RECORD)
        on_record(l->shard, m);
    else if (m->type == M_COMPLETE)
        orders_on_complete(l->shard);
    else if (m->type == M_SEAL)
        orders_on_seal(l, m->partition, &m->seal);
    else if (m->type == M_DROP)
        orders_on_drop(l, m->partition, m->drop.epoch);
    else if (m->type == M_HOLD)
        orders_on_hold(l->shard, m->partition, m->hold.target, m->hold.at_most);
    else if (m->type == M_LEAD)
        orders_on_lead(l, m->beat.term);
    else if (m->type == M_PING)
        send_to(l, message_new(M_PONG, 0));
}

static void sealed(struct shard_link *to, uint64_t partition, const struct replica_sealed *a, bool unknown) {
    struct message *m = message_new(M_SEALED, partition);
    m->sealed.sealed = *a;
    m->sealed.unknown = unknown;
    if (!unknown)
        sim_count(process_of(to)->sim, RARE_seals);
    send_to(to, m);
}

static const char *const report_names[] = {"activated", "superseded", "cannot", "caught up", "damaged",
                                           "mended",    "led",        "held",   "dropped",   "crashed"};

static void count_report(struct sim *s, enum control_report_kind kind) {
    static const int counted[] = {
        [CONTROL_ACTIVATED] = RARE_activated,     [CONTROL_SUPERSEDED] = RARE_superseded,
        [CONTROL_CANNOT] = RARE_cannot_lead,      [CONTROL_CAUGHT_UP] = RARE_caught_up,
        [CONTROL_MENDED] = RARE_mended,           [CONTROL_HELD] = RARE_planned_holds,
        [CONTROL_DROPPED] = RARE_dropped_replicas};
    if ((size_t)kind < sizeof counted / sizeof *counted && counted[kind])
        sim_count(s, (enum sim_count)counted[kind]);
}

static void reports(struct shard_link *to, const struct control_report *list, size_t count) {
    struct process *p = process_of(to);
    for (size_t i = 0; i < count; i++) {
        struct message *m = message_new(M_REPORT, list[i].partition);
        m->report = list[i];
        sim_trace(p->sim, "%s p%d reports %s, epoch %llu", p->name, (int)list[i].partition,
                  report_names[list[i].kind], (unsigned long long)list[i].epoch);
        count_report(p->sim, list[i].kind);
        send_to(to, m);
    }
}

static void load(struct shard_link *to, const struct shard_load *in) {
    struct message *m = message_new(M_LOAD, 0);
    m->beat.load[0] = in->backlog_messages;
    send_to(to, m);
}

/* ---- gateways ---- */

static void on_attach(struct shard_link *l, const struct message *m) {
    service_on_attach(l, &(struct shard_attach){.partition = m->partition,
                                                .consumer = m->consumer.consumer,
                                                .subscription = m->consumer.subscription,
                                                .client = "sim",
                                                .credit = m->consumer.credit,
                                                .held = m->consumer.held,
                                                .held_count = m->consumer.held_count});
}

void shard_from_gateway(struct sim_link *link, struct message *m) {
    struct shard_link *l = &link->shard;
    if (m->type == M_PUBLISH) {
        service_on_publish(l, m->partition, m->publish.request, m->publish.body);
    } else if (m->type == M_ATTACH) {
        on_attach(l, m);
    } else if (m->type == M_DETACH) {
        service_on_detach(l, m->partition, &m->consumer.consumer, m->consumer.subscription,
                          m->consumer.clean);
    } else if (m->type == M_LEND) {
        service_on_lend(l, m->partition, &m->consumer.consumer, m->consumer.subscription, m->consumer.credit);
    } else if (m->type == M_SETTLE) {
        service_on_settle(l, m->partition, m->settle.request, &m->settle.consumer, m->settle.subscription,
                          m->settle.items, m->settle.count);
    } else if (m->type == M_PRESENTED) {
        kept_presented(((struct sim_shard *)l->shard)->process, m->partition, m->led.epoch, l->id);
        service_on_presented(l, m->partition, m->led.epoch);
    } else if (m->type == M_PURGE) {
        service_on_purge(l, m->partition);
    } else if (m->type == M_FORWARDED) {
        if (m->forward.code == ERR_OK)
            sim_count(process_of(l)->sim, RARE_dead_letters);
        letters_forwarded(l->shard, m->forward.request, m->forward.code);
    }
}

static void receipt(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    struct message *m = message_new(M_RECEIPT, partition);
    m->answer_publish.request = e->receipt.origin.request;
    m->answer_publish.base_offset = e->receipt.base_offset;
    m->answer_publish.duplicate = e->receipt.duplicate;
    if (e->receipt.duplicate)
        sim_count(process_of(to)->sim, RARE_duplicates);
    send_to(to, m);
}

static void refused(struct shard_link *to, uint64_t partition, uint64_t request, enum err code,
                    const char *text, uint64_t last) {
    struct message *m = message_new(M_REFUSED, partition);
    (void)text;
    CHECK(code != ERR_DAMAGED && code != ERR_INVALID); /* clients here make no malformed batch */
    m->answer_publish.request = request;
    m->answer_publish.code = code;
    m->answer_publish.last = last;
    send_to(to, m);
}

static void attached(struct shard_link *to, const struct shard_attach *what, enum err code) {
    struct message *m = message_new(M_ATTACHED, what->partition);
    m->consumer.consumer = what->consumer;
    m->consumer.code = code;
    send_to(to, m);
}

static void settled(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    struct message *m = message_new(M_SETTLED, partition);
    m->settle.request = e->settled.origin.request;
    m->settle.count = (uint32_t)e->settled.count;
    CHECK(e->settled.count <= MESSAGE_ITEMS_MAX);
    for (size_t i = 0; i < e->settled.count; i++)
        m->settle.results[i] = (uint8_t)e->settled.results[i];
    send_to(to, m);
}

static void tell(struct shard_link *to, enum message_type type, uint64_t partition,
                 const struct consumer_id *consumer, const char *subscription, uint64_t number) {
    struct message *m = message_new(type, partition);
    if (consumer)
        m->consumer.consumer = *consumer;
    strcpy(m->consumer.subscription, subscription);
    m->consumer.messages = number;
    m->consumer.credit = (uint32_t)number;
    m->consumer.code = (enum err)number;
    send_to(to, m);
}

static void ready(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    tell(to, M_READY, partition, NULL, e->ready.subscription, e->ready.messages);
}

static void credit_back(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    tell(to, M_CREDIT_BACK, partition, &e->credit_back.consumer, e->credit_back.subscription,
         e->credit_back.credit);
}

static void detached(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e) {
    tell(to, M_DETACHED, partition, &e->detached.consumer, e->detached.subscription, e->detached.reason);
}

static void deliver(struct shard_link *to, const struct hosted *h, const struct mailbox_effect *e,
                    struct body *run) {
    struct message *m = message_new(M_DELIVERY, h->id);
    m->delivery.consumer = e->deliver.consumer;
    strcpy(m->delivery.subscription, e->deliver.subscription);
    m->delivery.first_offset = e->deliver.first_offset;
    m->delivery.count = e->deliver.count;
    m->delivery.epoch = e->deliver.epoch;
    m->delivery.delivery_number = e->deliver.delivery_number;
    m->delivery.attempt = e->deliver.attempt;
    m->delivery.sent_at = process_now(process_of(to));
    m->delivery.run = body_copy(run->data, run->size);
    if (e->deliver.attempt > 1)
        sim_count(process_of(to)->sim, RARE_redeliveries);
    send_to(to, m);
}

static void led(struct shard_link *to, uint64_t partition, uint64_t epoch) {
    struct message *m = message_new(M_LED, partition);
    m->led.epoch = epoch;
    send_to(to, m);
}

static void not_leading(struct shard_link *to, uint64_t partition) {
    send_to(to, message_new(M_NOT_LEADING, partition));
}

static void loads(struct shard_link *to, const struct partition_load *list, size_t count) {
    (void)to; /* publishers here do not choose by load */
    (void)list;
    (void)count;
}

static void letter(struct shard_link *to, const struct shard_letter *in) {
    struct message *m = message_new(M_FORWARD, 0);
    m->forward.request = in->request;
    strcpy(m->forward.mailbox, in->mailbox);
    m->forward.number = in->number;
    m->forward.body = body_copy(in->batch->data, in->batch->size);
    send_to(to, m);
}

const struct shard_calls shard_message_calls = {.now = shard_host_now,
                                                .wall = shard_host_wall,
                                                .working_on = shard_host_working_on,
                                                .say = shard_host_say,
                                                .timer = shard_host_timer,
                                                .read = shard_host_read,
                                                .append = append,
                                                .appended = appended,
                                                .piece = piece,
                                                .pieced = pieced,
                                                .confirm = confirm,
                                                .confirmed = confirmed,
                                                .fenced = fenced,
                                                .sealed = sealed,
                                                .reports = reports,
                                                .load = load,
                                                .receipt = receipt,
                                                .refused = refused,
                                                .attached = attached,
                                                .settled = settled,
                                                .ready = ready,
                                                .credit_back = credit_back,
                                                .detached = detached,
                                                .deliver = deliver,
                                                .led = led,
                                                .not_leading = not_leading,
                                                .loads = loads,
                                                .letter = letter};

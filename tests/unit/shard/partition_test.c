// SPDX-License-Identifier: Apache-2.0
/*
 * Partitions over a tiny world: real replica and mailbox cores, a journal that
 * is an array, a network that is a queue. What they answer is written down as
 * text, so that a test reads as a story.
 */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "shard/core/partition.h"

enum { HOSTS = 3, ENTRIES_MAX = 256, MESSAGES_MAX = 256, READS_MAX = 16, TEXT_MAX = 8192 };
#define WALL ((usec_t)1700000000 * USEC_S)

struct world;

struct host {
    struct world *world;
    member_t id;
    struct partition *p;
    usec_t wall; /* minus now */
    /* the journal */
    struct entry entries[ENTRIES_MAX]; /* index i at i, live ones too */
    uint64_t base, base_epoch, last, promise;
    struct body *checkpoint;
    uint64_t written_checkpoint;
    bool slow; /* syncs only when told */
    struct {
        uint64_t from, to;
        member_t reader;
    } reads[READS_MAX];
    size_t reads_count;
    bool led;
    uint64_t deliver_batch; /* of the newest delivery */
    struct mailbox_settlement delivered;
};

struct world {
    struct host hosts[HOSTS];
    usec_t now;
    struct mailbox_settings settings;
    struct replica_effect messages[MESSAGES_MAX];
    size_t messages_count;
    struct replica_sealed sealed;
    struct replica_record record;
    bool cut[HOSTS + 1];
    char text[TEXT_MAX];
    size_t text_size;
};

__attribute__((format(printf, 2, 3))) static void say(struct world *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int size = vsnprintf(w->text + w->text_size, TEXT_MAX - w->text_size, format, args);
    va_end(args);
    cr_assert_lt(w->text_size + (size_t)size, (size_t)TEXT_MAX);
    w->text_size += (size_t)size;
}

static void expect(struct world *w, const char *text) {
    cr_assert_str_eq(w->text, text);
    w->text_size = 0;
    w->text[0] = 0;
}

/* ---- what a host does ---- */

static void keep_entry(struct host *h, const struct entry *e) {
    cr_assert_lt(e->index, (uint64_t)ENTRIES_MAX);
    body_drop(h->entries[e->index].body);
    h->entries[e->index] = *e;
    body_keep(e->body);
}

static void send(struct host *h, const struct replica_effect *e, member_t to) {
    struct world *w = h->world;
    if (w->cut[h->id] || w->cut[to])
        return;
    cr_assert_lt(w->messages_count, (size_t)MESSAGES_MAX);
    struct replica_effect *copy = &w->messages[w->messages_count++];
    *copy = *e;
    if (e->type == REPLICA_SEND_APPEND) {
        copy->append.entries = xcalloc(e->append.count, sizeof *e->append.entries);
        for (size_t i = 0; i < e->append.count; i++) {
            copy->append.entries[i] = e->append.entries[i];
            body_keep(e->append.entries[i].body);
        }
    } else if (e->type == REPLICA_SEND_PIECE)
        body_keep(e->piece.is_batch ? e->piece.batch.body : e->piece.state);
}

static void on_replica_effect(void *host, struct partition *p, const struct replica_effect *e) {
    struct host *h = host;
    cr_assert(h->p == NULL || h->p == p);
    switch (e->type) {
    case REPLICA_WRITE:
        keep_entry(h, &e->entry);
        h->last = e->entry.index;
        break;
    case REPLICA_STAGE:
        keep_entry(h, &e->entry);
        break;
    case REPLICA_TRUNCATE:
        h->last = e->index;
        break;
    case REPLICA_PROMISE:
        h->promise = e->promise.epoch;
        break;
    case REPLICA_FETCH:
        cr_assert_lt(h->reads_count, (size_t)READS_MAX);
        h->reads[h->reads_count].from = e->fetch.from;
        h->reads[h->reads_count].to = e->fetch.to;
        h->reads[h->reads_count++].reader = e->fetch.reader;
        break;
    case REPLICA_SEND_APPEND:
        send(h, e, e->append.to);
        break;
    case REPLICA_SEND_APPENDED:
        send(h, e, e->appended.to);
        break;
    case REPLICA_SEND_PIECE:
        send(h, e, e->piece.to);
        break;
    case REPLICA_SEND_PIECED:
        send(h, e, e->pieced.to);
        break;
    case REPLICA_SEND_SEALED:
        h->world->sealed = e->sealed;
        break;
    default:
        break;
    }
}

static void on_mailbox_effect(void *host, struct partition *p, const struct mailbox_effect *e) {
    struct host *h = host;
    struct world *w = h->world;
    switch (e->type) {
    case MAILBOX_RECEIPT:
        say(w, "%lu receipt %lu at %lu%s\n", h->id, e->receipt.sequence, e->receipt.base_offset,
            e->receipt.duplicate ? " again" : "");
        break;
    case MAILBOX_REFUSED:
        say(w, "%lu refused %lu %s\n", h->id, e->refused.sequence, err_name(e->refused.code));
        break;
    case MAILBOX_DELIVER:
        say(w, "%lu deliver %lu+%u attempt %u\n", h->id, e->deliver.first_offset, e->deliver.count,
            e->deliver.attempt);
        h->deliver_batch = e->deliver.batch_index;
        h->delivered = (struct mailbox_settlement){.kind = SETTLE_ACK,
                                                   .first_offset = e->deliver.first_offset,
                                                   .count = e->deliver.count,
                                                   .epoch = e->deliver.epoch,
                                                   .delivery_number = e->deliver.delivery_number};
        break;
    case MAILBOX_SETTLED:
        say(w, "%lu settled %s\n", h->id, e->settled.results[0] == SETTLE_DONE ? "done" : "otherwise");
        break;
    default:
        break;
    }
}

static void on_checkpoint(void *host, struct partition *p, const struct partition_checkpoint *c) {
    struct host *h = host;
    body_drop(h->checkpoint);
    h->checkpoint = body_keep(c->state);
    h->base = c->base_index;
    h->base_epoch = c->base_epoch;
    for (size_t i = 0; i < c->live_count; i++)
        cr_assert(h->entries[c->live[i]].body, "live batch %lu is not there", c->live[i]);
    if (c->install)
        h->last = c->base_index;
    else
        h->written_checkpoint = c->base_index;
}

static size_t on_led(void *host, struct partition *p, uint64_t epoch, uint64_t *gateways, size_t max) {
    struct host *h = host;
    h->led = true;
    return 0;
}

static void on_not_leading(void *host, struct partition *p) {
    struct host *h = host;
    if (h->led)
        say(h->world, "%lu leads no more\n", h->id);
    h->led = false;
}

static void on_held(void *host, struct partition *p) {
    struct host *h = host;
    say(h->world, "%lu held\n", h->id);
}

static const struct partition_host calls = {
    .replica_effect = on_replica_effect,
    .mailbox_effect = on_mailbox_effect,
    .checkpoint = on_checkpoint,
    .led = on_led,
    .not_leading = on_not_leading,
    .held = on_held,
};

/* ---- life ---- */

static void start(struct host *h) {
    struct replica_state state = {0};
    struct decoder d;
    bool summed = h->checkpoint != NULL;
    if (summed) {
        d = decoder_of(h->checkpoint->data, h->checkpoint->size);
        cr_assert(replica_decode(&d, &state));
    }
    if (h->promise > state.promise)
        state.promise = h->promise;
    struct entry entries[ENTRIES_MAX];
    for (uint64_t i = h->base + 1; i <= h->last; i++) {
        entries[state.entries_count] = h->entries[i];
        entries[state.entries_count++].body = NULL;
    }
    state.entries = entries;
    struct partition *p = partition_new(&(struct partition_options){.id = 7,
                                                                    .mailbox = "orders",
                                                                    .settings = h->world->settings,
                                                                    .self = h->id,
                                                                    .failure_timeout = 600 * USEC_MS,
                                                                    .host = &calls,
                                                                    .host_context = h},
                                        &state, summed ? &d : NULL);
    cr_assert(p);
    free((void *)(uintptr_t)state.epochs);
    h->p = p;
    partition_time(p, h->world->now, h->world->now + h->wall);
}

static void stop(struct host *h) {
    partition_free(h->p);
    h->p = NULL;
    h->led = false;
    h->reads_count = 0;
    h->written_checkpoint = 0;
}

static void drop_message(struct replica_effect *m) {
    struct replica_effects one = {.items = m, .count = 1};
    replica_effects_clear(&one);
}

static void close_world(struct world *w) {
    for (size_t i = 0; i < w->messages_count; i++)
        drop_message(&w->messages[i]);
    for (size_t i = 0; i < HOSTS; i++) {
        stop(&w->hosts[i]);
        body_drop(w->hosts[i].checkpoint);
        for (size_t k = 0; k < ENTRIES_MAX; k++)
            body_drop(w->hosts[i].entries[k].body);
    }
    free(w);
}

/* ---- the loop ---- */

static struct host *at(struct world *w, member_t id) {
    return &w->hosts[id - 1];
}

static void deliver_first(struct world *w) {
    struct replica_effect m = w->messages[0];
    memmove(w->messages, w->messages + 1, --w->messages_count * sizeof m);
    member_t to = m.type == REPLICA_SEND_APPEND     ? m.append.to
                  : m.type == REPLICA_SEND_APPENDED ? m.appended.to
                  : m.type == REPLICA_SEND_PIECE    ? m.piece.to
                                                    : m.pieced.to;
    struct partition *p = at(w, to)->p;
    w->now++;
    if (p) {
        if (m.type == REPLICA_SEND_APPEND)
            replica_on_append(p->replica, &m.append, w->now, &p->replica_effects);
        else if (m.type == REPLICA_SEND_APPENDED)
            replica_on_appended(p->replica, &m.appended, w->now, &p->replica_effects);
        else if (m.type == REPLICA_SEND_PIECE)
            replica_on_piece(p->replica, &m.piece, w->now, &p->replica_effects);
        else
            replica_on_pieced(p->replica, &m.pieced, w->now, &p->replica_effects);
        partition_run(p, w->now);
    }
    drop_message(&m);
}

static void sync_host(struct host *h) {
    usec_t now = h->world->now;
    replica_stored(h->p->replica, replica_mark(h->p->replica), true, now, &h->p->replica_effects);
    if (h->written_checkpoint)
        partition_checkpointed(h->p, h->written_checkpoint);
    h->written_checkpoint = 0;
    partition_run(h->p, now);
}

static void read_host(struct host *h) {
    uint64_t from = h->reads[0].from, to = h->reads[0].to;
    member_t reader = h->reads[0].reader;
    memmove(h->reads, h->reads + 1, --h->reads_count * sizeof h->reads[0]);
    replica_fetched(h->p->replica, reader, from, &h->entries[from], (size_t)(to - from + 1), false,
                    h->world->now, &h->p->replica_effects);
    partition_run(h->p, h->world->now);
}

static void settle(struct world *w) {
    for (int turns = 0; turns < 40 || w->messages_count; turns++) {
        cr_assert_lt(turns, 10000);
        if (w->messages_count)
            deliver_first(w);
        for (size_t i = 0; i < HOSTS; i++) {
            struct host *h = &w->hosts[i];
            if (!h->p)
                continue;
            partition_pump(h->p, w->now);
            if (!h->slow)
                sync_host(h);
            if (h->reads_count)
                read_host(h);
        }
    }
}

static void pass(struct world *w, usec_t span) {
    usec_t end = w->now + span;
    while (w->now < end) {
        settle(w);
        usec_t next = end;
        for (size_t i = 0; i < HOSTS; i++)
            if (w->hosts[i].p && partition_deadline(w->hosts[i].p) < next)
                next = partition_deadline(w->hosts[i].p);
        w->now = next > w->now ? next : w->now + 1;
        for (size_t i = 0; i < HOSTS; i++)
            if (w->hosts[i].p)
                partition_tick(w->hosts[i].p, w->now);
    }
    settle(w);
}

static void tell(struct world *w) {
    for (size_t i = 0; i < HOSTS; i++) {
        struct partition *p = w->hosts[i].p;
        if (!p || w->cut[i + 1])
            continue;
        replica_on_record(p->replica, &w->record, w->now, &p->replica_effects);
        partition_run(p, w->now);
    }
    settle(w);
}

static struct world *open_world(uint32_t replicas) {
    struct world *w = xcalloc(1, sizeof *w);
    settings_default(&w->settings);
    w->now = USEC_S;
    for (size_t i = 0; i < HOSTS; i++) {
        w->hosts[i] = (struct host){.world = w, .id = i + 1, .wall = WALL};
        start(&w->hosts[i]);
    }
    w->record = (struct replica_record){.version = 1, .epoch = 1, .leader = 1};
    for (uint32_t i = 0; i < replicas; i++)
        w->record.current.members[w->record.current.count++] = i + 1;
    tell(w);
    pass(w, 2 * USEC_S);
    return w;
}

/* Seals the two named and lets the first lead. */
static void move_to(struct world *w, member_t to, member_t other) {
    uint64_t epoch = w->record.epoch + 1;
    member_t both[2] = {other, to};
    for (size_t i = 0; i < 2; i++) {
        struct partition *p = at(w, both[i])->p;
        struct replica_seal seal = {.to = both[i], .epoch = epoch};
        replica_on_seal(p->replica, &seal, w->now, &p->replica_effects);
        partition_run(p, w->now);
        settle(w);
    }
    cr_assert_eq(w->sealed.from, to);
    cr_assert(w->sealed.granted);
    w->record.version++;
    w->record.epoch = epoch;
    w->record.leader = to;
    w->record.last_epoch = w->sealed.last_epoch;
    w->record.last_index = w->sealed.last_index;
    tell(w);
}

/* ---- clients ---- */

static struct body *batch_of(uint64_t sequence, size_t bytes) {
    struct batch_builder b = {0};
    struct producer_id id = {{'p'}};
    uint8_t *payload = xcalloc(1, bytes + 1);
    cr_assert_eq(batch_add(&b, NULL, 0, NULL, 0, payload, bytes), ERR_OK);
    batch_finish(&b, &id, sequence, sequence - 1, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    free(payload);
    batch_builder_free(&b);
    return body;
}

static void publish(struct world *w, member_t at_host, uint64_t sequence) {
    struct body *body = batch_of(sequence, 3);
    partition_publish(at(w, at_host)->p, (struct mailbox_origin){1, sequence}, body, w->now);
    body_drop(body);
}

static const struct consumer_id consumer = {{'c'}};

static void attach(struct world *w, member_t at_host) {
    struct partition *p = at(w, at_host)->p;
    cr_assert_eq(mailbox_attach(p->mailbox, &consumer, 1, "default", "test", 10, w->now, &p->mailbox_effects),
                 ERR_OK);
    partition_run(p, w->now);
}

/* What a link's confirmations do, also for an idle partition. */
static void confirm(struct world *w, member_t leader) {
    struct partition *p = at(w, leader)->p;
    for (member_t m = 1; m <= HOSTS; m++)
        if (m != leader && !w->cut[m])
            replica_confirm(p->replica, m, w->now);
    partition_run(p, w->now);
}

static struct subscription_stats stats(struct world *w, member_t at_host) {
    struct subscription_stats s;
    cr_assert(mailbox_subscription_stats(at(w, at_host)->p->mailbox, 0, &s));
    return s;
}

/* ---- stories ---- */

Test(partition, a_receipt_follows_the_commit) {
    struct world *w = open_world(3);
    at(w, 2)->slow = at(w, 3)->slow = true;
    publish(w, 1, 1);
    settle(w);
    expect(w, "");
    at(w, 2)->slow = false;
    settle(w);
    expect(w, "1 receipt 1 at 0\n");
    publish(w, 1, 1);
    publish(w, 1, 2);
    settle(w);
    expect(w, "1 receipt 1 at 0 again\n1 receipt 2 at 1\n");
    close_world(w);
}

Test(partition, delivers_within_the_lease_and_settles) {
    struct world *w = open_world(3);
    publish(w, 1, 1);
    settle(w);
    attach(w, 1);
    settle(w);
    expect(w, "1 receipt 1 at 0\n1 deliver 0+1 attempt 1\n");
    struct host *h = at(w, 1);
    mailbox_settle(h->p->mailbox, (struct mailbox_origin){1, 9}, &consumer, "default", &h->delivered, 1,
                   w->now, partition_stamp(h->p, w->now), &h->p->mailbox_effects);
    partition_run(h->p, w->now);
    pass(w, 100 * USEC_MS);
    expect(w, "1 settled done\n");
    for (member_t m = 1; m <= 3; m++) {
        cr_assert_eq(stats(w, m).acked, 1, "on %lu", m);
        cr_assert_eq(stats(w, m).published, 1);
    }
    close_world(w);
}

Test(partition, without_a_majority_nothing_is_delivered) {
    struct world *w = open_world(3);
    publish(w, 1, 1);
    settle(w);
    w->cut[1] = true;
    pass(w, 2 * USEC_S);
    w->text_size = 0, w->text[0] = 0;
    attach(w, 1);
    pass(w, USEC_S);
    expect(w, "");
    w->cut[1] = false;
    confirm(w, 1);
    expect(w, "1 deliver 0+1 attempt 1\n");
    close_world(w);
}

Test(partition, another_leads_with_all_that_was_receipted) {
    struct world *w = open_world(3);
    publish(w, 1, 1);
    settle(w);
    expect(w, "1 receipt 1 at 0\n");
    w->cut[1] = true;
    publish(w, 1, 2); /* reaches nobody */
    move_to(w, 2, 3);
    expect(w, "");
    w->cut[1] = false;
    tell(w);
    expect(w, "1 leads no more\n1 refused 2 NOT_LEADER\n");
    publish(w, 2, 1);
    publish(w, 2, 2);
    pass(w, 2 * USEC_S);
    attach(w, 2);
    confirm(w, 2);
    settle(w);
    cr_assert(strstr(w->text, "2 receipt 1 at 0 again\n2 receipt 2 at 1\n"));
    cr_assert(strstr(w->text, "2 deliver "));
    close_world(w);
}

static int64_t stamp_of(const struct host *h, uint64_t index) {
    struct batch_header header;
    batch_read_header(h->entries[index].body->data, &header);
    return header.stamp;
}

Test(partition, log_time_never_goes_back_and_offsets_go_on) {
    struct world *w = open_world(3);
    publish(w, 1, 1);
    settle(w);
    uint64_t first = at(w, 1)->last;
    cr_assert_geq(stamp_of(at(w, 1), first), WALL);
    at(w, 2)->wall = WALL - 3600 * USEC_S;
    partition_time(at(w, 2)->p, w->now, w->now + at(w, 2)->wall);
    pass(w, USEC_S);
    move_to(w, 2, 3);
    publish(w, 2, 2);
    settle(w);
    cr_assert_geq(stamp_of(at(w, 2), at(w, 2)->last), stamp_of(at(w, 2), first));
    struct batch_header header;
    batch_read_header(at(w, 2)->entries[at(w, 2)->last].body->data, &header);
    cr_assert_eq(header.base_offset, 1);
    cr_assert_eq(header.epoch, 2);
    close_world(w);
}

Test(partition, a_restart_goes_on_from_the_checkpoint) {
    struct world *w = open_world(3);
    for (uint64_t i = 1; i <= 5; i++)
        publish(w, 1, i);
    pass(w, USEC_S);
    struct host *h = at(w, 3);
    cr_assert(partition_checkpoint(h->p));
    cr_assert_not(partition_checkpoint(h->p), "nothing new to sum up");
    settle(w);
    cr_assert_gt(h->base, 5);
    stop(h);
    start(h);
    cr_assert_eq(stats(w, 3).published, 5);
    publish(w, 1, 6);
    pass(w, 3 * USEC_S);
    cr_assert_eq(stats(w, 3).published, 6);
    cr_assert_eq(stats(w, 3).ready, 6);
    close_world(w);
}

Test(partition, a_peer_that_was_left_behind_gets_the_mailbox_whole) {
    struct world *w = open_world(3);
    w->cut[3] = true;
    for (uint64_t i = 1; i <= 5; i++)
        publish(w, 1, i);
    settle(w);
    cr_assert(partition_checkpoint(at(w, 1)->p));
    settle(w);
    stop(at(w, 1)); /* its cache is gone */
    start(at(w, 1));
    stop(at(w, 3));
    start(at(w, 3));
    move_to(w, 1, 2);
    w->cut[3] = false;
    pass(w, 3 * USEC_S);
    cr_assert_gt(replica_base(at(w, 3)->p->replica), 5);
    cr_assert_eq(stats(w, 3).published, 5);
    move_to(w, 3, 2);
    pass(w, 2 * USEC_S);
    w->text_size = 0, w->text[0] = 0;
    attach(w, 3);
    publish(w, 3, 5);
    publish(w, 3, 6);
    settle(w);
    cr_assert(strstr(w->text, "3 deliver 0+1"));
    cr_assert(strstr(w->text, "3 receipt 5 at 4 again\n"));
    cr_assert(strstr(w->text, "3 receipt 6 at 5\n"));
    close_world(w);
}

Test(partition, a_planned_move_holds_publishes_until_the_target_has_all) {
    struct world *w = open_world(3);
    at(w, 2)->slow = true;
    publish(w, 1, 1);
    settle(w);
    expect(w, "1 receipt 1 at 0\n");
    partition_hold(at(w, 1)->p, 2, w->now + USEC_S, w->now);
    publish(w, 1, 2);
    settle(w);
    expect(w, "");
    at(w, 2)->slow = false;
    settle(w);
    expect(w, "1 held\n");
    pass(w, PARTITION_HOLD_US_MAX); /* nobody moved: publishing goes on */
    expect(w, "1 receipt 2 at 1\n");
    partition_hold(at(w, 1)->p, 2, w->now + USEC_S, w->now);
    publish(w, 1, 3);
    settle(w);
    expect(w, "1 held\n");
    move_to(w, 2, 1);
    expect(w, "1 refused 3 NOT_LEADER\n1 leads no more\n");
    close_world(w);
}

Test(partition, what_waits_for_a_majority_is_bounded) {
    struct world *w = open_world(3);
    w->cut[1] = true;
    struct body *body = NULL;
    uint64_t sequence = 0;
    while (replica_room(at(w, 1)->p->replica)) {
        body = batch_of(++sequence, 8 * MIB);
        partition_publish(at(w, 1)->p, (struct mailbox_origin){1, sequence}, body, w->now);
        body_drop(body);
        cr_assert_lt(sequence, 20);
    }
    expect(w, "");
    publish(w, 1, sequence + 1);
    char line[64];
    snprintf(line, sizeof line, "1 refused %lu BUSY\n", sequence + 1);
    expect(w, line);
    close_world(w);
}

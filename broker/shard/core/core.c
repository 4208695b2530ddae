// SPDX-License-Identifier: Apache-2.0
/*
 * The turn: pump each touched partition, write its records into the journal's
 * turn, hand the turn over. And what a partition's effects lead to.
 */
#include "shard/core/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"

enum { SAY_BYTES_MAX = 512 };

void shard_say(struct shard *s, bool error, const char *format, ...) {
    char text[SAY_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    s->calls->say(s->host, error, text);
}

struct hosted *shard_find(struct shard *s, uint64_t partition) {
    struct hosted *h;
    HASH_FIND(hh, s->hosted, &partition, sizeof partition, h);
    return h;
}

void shard_touch(struct hosted *h) {
    struct shard *s = h->shard;
    if (h->dirty)
        return;
    h->dirty = true;
    h->next_dirty = NULL;
    if (s->dirty_last)
        s->dirty_last->next_dirty = h;
    else
        s->dirty_first = h;
    s->dirty_last = h;
}

/* ---- links ---- */

void shard_link_add(struct shard *s, struct shard_link *l) {
    l->shard = s;
    l->previous = NULL;
    l->next = s->links;
    if (s->links)
        s->links->previous = l;
    s->links = l;
}

void shard_link_remove(struct shard_link *l) {
    if (l->previous)
        l->previous->next = l->next;
    else
        l->shard->links = l->next;
    if (l->next)
        l->next->previous = l->previous;
}

/* ---- the partition's host ---- */

static void on_report_effect(struct hosted *h, const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_REPORT_ACTIVATED:
        orders_report(h, CONTROL_ACTIVATED, e->epoch, 0);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        orders_report(h, CONTROL_SUPERSEDED, e->promise.epoch, 0);
        break;
    case REPLICA_REPORT_CANNOT:
        orders_report(h, CONTROL_CANNOT, e->epoch, 0);
        break;
    case REPLICA_REPORT_CAUGHT_UP:
        orders_report(h, CONTROL_CAUGHT_UP, h->record.epoch, e->peer);
        break;
    case REPLICA_REPORT_DAMAGED:
        orders_report(h, CONTROL_DAMAGED, h->record.epoch, 0);
        break;
    case REPLICA_REPORT_MENDED:
        orders_report(h, CONTROL_MENDED, h->record.epoch, 0);
        break;
    default:
        CHECK(!"a replica's effect that the partition carries out itself");
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
        peers_leading(h);
        break;
    case REPLICA_FETCH:
        read_fetch(h, e->fetch.from, e->fetch.to, e->fetch.reader);
        break;
    case REPLICA_SEND_APPEND:
    case REPLICA_SEND_APPENDED:
    case REPLICA_SEND_PIECE:
    case REPLICA_SEND_PIECED:
        peers_tell(h, e);
        break;
    case REPLICA_SEND_SEALED:
        orders_sealed(h, &e->sealed);
        break;
    default:
        on_report_effect(h, e);
    }
}

static void on_mailbox_effect(void *host, struct partition *p, const struct mailbox_effect *e) {
    struct hosted *h = p->user;
    (void)host;
    shard_touch(h);
    if (e->type == MAILBOX_DEAD_BATCH)
        journal_mark_dead(h->shard->journal, h->id, e->index);
    else
        service_effect(h, e);
}

static void on_checkpoint(void *host, struct partition *p, const struct partition_checkpoint *c) {
    (void)host;
    shard_touch(p->user);
    storage_checkpoint(p->user, c);
}

static size_t on_led(void *host, struct partition *p, uint64_t epoch, uint64_t *gateways, size_t max) {
    (void)host;
    counters_add(COUNTER_partitions_led, 1);
    return service_led(p->user, epoch, gateways, max);
}

static void on_not_leading(void *host, struct partition *p) {
    (void)host;
    counters_sub(COUNTER_partitions_led, 1);
    service_not_leading(p->user);
}

static void on_held(void *host, struct partition *p) {
    struct hosted *h = p->user;
    (void)host;
    orders_report(h, CONTROL_HELD, h->record.epoch, p->hold_target);
}

static const struct partition_host host_calls = {
    .replica_effect = on_replica_effect,
    .mailbox_effect = on_mailbox_effect,
    .checkpoint = on_checkpoint,
    .led = on_led,
    .not_leading = on_not_leading,
    .held = on_held,
};

const struct partition_host *shard_partition_host(void) {
    return &host_calls;
}

/* ---- the turn ---- */

void shard_tick(struct hosted *h) {
    if (!h->partition)
        return;
    shard_working_on(h->shard, h->id);
    shard_touch(h);
    partition_tick(h->partition, shard_now(h->shard));
    shard_working_on(h->shard, 0);
}

/* Pump every touched partition; pumping one may touch others. What was touched
 * is remembered in s->turned for the steps behind. */
static void pump_partitions(struct shard *s, usec_t now) {
    usec_t wall = s->calls->wall(s->host);
    bool full = journal_full(s->journal);
    s->turned_count = 0;
    while (s->dirty_first) {
        struct hosted *h = s->dirty_first;
        s->dirty_first = h->next_dirty;
        if (!s->dirty_first)
            s->dirty_last = NULL;
        if (h->partition) {
            shard_working_on(s, h->id);
            h->partition->disk_full = full;
            partition_time(h->partition, now, wall);
            orders_wishes(h);
            partition_pump(h->partition, now);
            shard_working_on(s, 0);
        }
        h->dirty = false;
        xgrow(&s->turned, &s->turned_capacity, s->turned_count + 1, sizeof *s->turned);
        s->turned[s->turned_count++] = h;
    }
}

static void time_commits(struct hosted *h, usec_t now) {
    if (!h->sample_index || replica_commit(h->partition->replica) < h->sample_index)
        return;
    h->commit_us += (now - h->sample_at - h->commit_us) / 8;
    h->sample_index = 0;
}

void shard_turn(struct shard *s) {
    usec_t now = shard_now(s);
    pump_partitions(s, now);
    storage_flush(s);
    for (size_t i = 0; i < s->turned_count; i++) {
        struct hosted *h = s->turned[i];
        if (!h->partition)
            continue;
        time_commits(h, now);
        s->calls->timer(s->host, h, partition_deadline(h->partition));
    }
    s->turned_count = 0;
}

void shard_free(struct shard *s) {
    struct hosted *h, *next;
    HASH_ITER(hh, s->hosted, h, next) {
        HASH_DEL(s->hosted, h);
        deliver_forget(h);
        letters_forget(h);
        partition_free(h->partition);
        free(h->staged);
        free(h->wishes);
        free(h);
    }
    free(s->turned);
    storage_free(s);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Publishes on their way. Happy path: on_publish takes the client's batch into
 * the table, publishing_turn sends it to the partition's leader, on_shard_receipts
 * turns the answer into the client's, sent with all others of the turn.
 * Failures: publishes.h.
 */
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "base/counters.h"
#include "gateway/gateway_private.h"
#include "proto/batch.h"

/* Where the batch's fixed header has them (proto/batch.h). */
enum { BATCH_SIZE_AT = 24, BATCH_MAGIC_AT = 32, BATCH_FLAGS_AT = 35 };

static void refuse(struct session *s, uint64_t request, enum err code, const char *text, uint64_t last) {
    struct answer *a = session_answer(s, request);
    a->code = code;
    a->last = last;
    snprintf(a->text, sizeof a->text, "%s", text && *text ? text : err_text(code));
    counters_add(COUNTER_publishes_refused, 1);
}

/* The whole batch is checked at the shard; here only that it is one, whole. */
static const char *wrong_with(const struct body *body) {
    if (!body || body->size < BATCH_HEADER_BYTES)
        return "publish without a whole batch";
    if (get_u16(body->data + BATCH_MAGIC_AT) != BATCH_MAGIC)
        return "publish with a body that is no batch";
    if (get_u32(body->data + BATCH_SIZE_AT) != body->size)
        return "batch of another size than it says";
    return NULL;
}

/* NULL: there is room. */
static const char *no_room(const struct session *s, size_t size, enum err *code) {
    const struct gateway *g = s->gateway;
    *code = ERR_NO_MEMORY;
    if (g->publishes.bytes + g->parked_bytes + size > g->publish_bytes)
        return "the gateway holds as many unreceipted bytes as it may";
    *code = ERR_BUSY;
    if (publishes_owner_bytes(&g->publishes, s->number) + s->parked_bytes + size > g->window_bytes)
        return "more unreceipted bytes than the session's window";
    return NULL;
}

void on_publish(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    struct gateway *g = s->gateway;
    const Mr__Publish *m = header;
    enum err code = ERR_INVALID;
    const char *wrong = wrong_with(body);
    /* such a producer is never forgotten: only shards may make one */
    if (!wrong && body->data[BATCH_FLAGS_AT] & BATCH_FLAG_DEAD_LETTER)
        wrong = "a client's batch with the flag of dead letters";
    if (!wrong && body->size > g->batch_bytes_max) {
        code = ERR_TOO_LARGE;
        wrong = "batch larger than the gateway takes";
    }
    if (!wrong)
        wrong = no_room(s, body->size, &code);
    if (wrong) {
        refuse(s, m->request, code, wrong, 0);
        return;
    }
    struct map_mailbox *box = map_find_id(&g->map, m->mailbox_id);
    struct map_partition *p =
        box && m->partition < box->partition_count ? box->partitions[m->partition] : NULL;
    if (!p) {
        if (!box || m->partition < box->partition_count)
            if (session_park(s, body))
                return;
        refuse(s, m->request, s->final && g->map.known ? ERR_NOT_FOUND : ERR_UNAVAILABLE,
               "no such mailbox or partition", 0);
        return;
    }
    publishes_add(&g->publishes, s->number, m->request, p->id, body, loop_now(g->loop));
    counters_add(COUNTER_publishes, 1);
}

/* ---- to the leaders ---- */

static bool send_one(void *ctx, const struct publish *p) {
    struct shard_link *l = ctx;
    Mr__ShardPublish m = MR__SHARD_PUBLISH__INIT;
    struct body *body = p->body;
    m.request = p->number;
    m.partition = p->queue->partition;
    return l->link && frame_send_shard_publish(l->link, &m, &body, 1) == ERR_OK;
}

void publishing_turn(struct gateway *g) {
    struct publish_queue *q;
    while ((q = publishes_next_pending(&g->publishes))) {
        const struct map_partition *p = map_find_partition(&g->map, q->partition);
        struct shard_link *l = p ? shards_leader(g, p) : NULL;
        if (l)
            publishes_send(&g->publishes, q, send_one, l);
    }
}

/* ---- answers ---- */

static void forwarded(struct gateway *g, const struct publish *p, enum err code, const char *text) {
    struct shard_link *l = shards_owner(g, p->owner);
    Mr__Forwarded m = MR__FORWARDED__INIT;
    if (!l || !l->link)
        return;
    m.request = p->request;
    m.code = code;
    m.text = (char *)(uintptr_t)(text ? text : "");
    frame_send_forwarded(l->link, &m, NULL, 0);
}

static void receipted(struct gateway *g, const Mr__Receipt *r) {
    struct publish *p = publishes_find(&g->publishes, r->request);
    if (!p)
        return; /* its session is gone, or an earlier sending was answered */
    struct session *s = sessions_find(g, p->owner);
    if (s) {
        struct answer *a = session_answer(s, p->request);
        a->base_offset = r->base_offset;
        a->duplicate = r->duplicate;
        counters_add(COUNTER_receipts, 1);
    } else {
        forwarded(g, p, ERR_OK, "");
    }
    map_measure(&g->map, p->queue->partition, publish_age(p, loop_now(g->loop)));
    publishes_receipted(&g->publishes, p);
}

static void give_up(struct gateway *g, struct publish *p, enum err code, const char *text, uint64_t last) {
    struct session *s = sessions_find(g, p->owner);
    if (s)
        refuse(s, p->request, code, text, last);
    else
        forwarded(g, p, code, text);
    publishes_remove(&g->publishes, p);
}

static void refused(struct gateway *g, const Mr__Refused *r) {
    struct publish *p = publishes_find(&g->publishes, r->request);
    if (!p)
        return;
    if (!publishes_refused(&g->publishes, p, (enum err)r->code, loop_now(g->loop))) {
        give_up(g, p, (enum err)r->code, r->text, r->last);
        return;
    }
    usec_t at = p->queue->retry_at;
    if (at && (!loop_timer_started(&g->retry_timer) || at < g->retry_timer.at))
        loop_timer_start(g->loop, &g->retry_timer, at);
}

void on_shard_receipts(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    const Mr__ShardReceipts *m = header;
    for (size_t i = 0; i < m->n_receipts; i++)
        receipted(l->gateway, m->receipts[i]);
    for (size_t i = 0; i < m->n_refused; i++)
        refused(l->gateway, m->refused[i]);
}

void on_publish_retry(struct loop_timer *timer) {
    struct gateway *g = (struct gateway *)((char *)timer - offsetof(struct gateway, retry_timer));
    usec_t next = publishes_tick(&g->publishes, loop_now(g->loop));
    if (next != USEC_NEVER)
        loop_timer_start(g->loop, timer, next);
}

/* What the oldest of each partition has waited so far. */
static void measure_waits(struct gateway *g) {
    map_cool(&g->map);
    for (const struct publish_queue *q = g->publishes.queues; q; q = q->hh.next)
        if (q->first)
            map_measure(&g->map, q->partition, publish_age(q->first, loop_now(g->loop)));
}

void publishing_tick(struct gateway *g) {
    struct publish *p;
    measure_waits(g);
    while ((p = publishes_expired(&g->publishes, loop_now(g->loop)))) {
        bool sent = p->was_sent;
        give_up(g, p, sent ? ERR_UNKNOWN : ERR_TIMEOUT,
                sent ? "no receipt in time, may have been applied" : "the partition had no leader in time",
                0);
    }
}

void publishing_refuse_all(struct gateway *g, const struct map_partition *p, enum err code,
                           const char *text) {
    struct publish *first;
    while ((first = publishes_first(&g->publishes, p->id)))
        give_up(g, first, code, text, 0);
}

/* ---- a dead letter of a shard of this node ---- */

static void forward_refuse(struct shard_link *l, uint64_t request, enum err code, const char *text) {
    struct publish fake = {.owner = l->owner, .request = request};
    forwarded(l->gateway, &fake, code, text);
}

void on_forward_publish(void *ctx, struct link *link, const void *header, struct body *body) {
    struct shard_link *l = ctx;
    struct gateway *g = l->gateway;
    const Mr__ForwardPublish *m = header;
    const char *wrong = wrong_with(body);
    struct map_mailbox *box = map_find(&g->map, m->mailbox);
    /* the target may have been made anew with fewer */
    uint32_t number = box && box->partition_count ? m->partition % box->partition_count : 0;
    if (wrong)
        forward_refuse(l, m->request, ERR_INVALID, wrong);
    else if (!g->map.known)
        forward_refuse(l, m->request, ERR_UNAVAILABLE, "the gateway has no map yet");
    else if (!box || number >= box->partition_count || !box->partitions[number])
        forward_refuse(l, m->request, ERR_NOT_FOUND, "no such dead-letter mailbox");
    else if (g->publishes.bytes + body->size > g->publish_bytes)
        forward_refuse(l, m->request, ERR_NO_MEMORY, "the gateway holds as many unreceipted bytes as it may");
    else
        publishes_add(&g->publishes, l->owner, m->request, box->partitions[number]->id, body,
                      loop_now(g->loop));
}

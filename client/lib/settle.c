// SPDX-License-Identifier: Apache-2.0
/*
 * Settlements: packed while the ones before are in flight, sent again until
 * answered, across connections.
 */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "client/lib/client.h"

#define SETTLE_PAUSE_MIN_USEC (5 * USEC_MS)
#define SETTLE_PAUSE_MAX_USEC (200 * USEC_MS)

enum {
    SETTLE_FRAMES_MAX = 4,
    SETTLE_STEP_ITEMS = 64,        /* with n frames in flight, the next has n times as many */
    SETTLE_FRAME_ITEMS_MAX = 2048, /* about 40 bytes each */
    SETTLE_PENDING_SLACK = 1024,   /* items beyond the credit: extensions */
    SETTLE_RESULT_AGAIN = 3        /* not leading: ask again */
};

/* --- taking ----------------------------------------------------------------- */

static bool settle_merges(const struct settlement *last, const mr_message *m, int kind, usec_t delay) {
    return last->run == m->run && last->kind == kind && last->delay == delay && !last->settled &&
           last->first + last->count == m->index && kind != MR_EXTEND;
}

static void settle_push(mr_consumer *k, const struct settlement *item) {
    xgrow(&k->pending, &k->pending_capacity, k->pending_count + 1, sizeof *k->pending);
    k->pending[k->pending_count++] = *item;
}

static bool settle_ready(const mr_consumer *k) {
    return k->pending_count && k->frames_count < SETTLE_FRAMES_MAX &&
           k->pending_count >= (size_t)k->frames_count * SETTLE_STEP_ITEMS;
}

int settle_add(mr_message *m, int kind, usec_t delay, mr_settled settled, void *ctx, mr_error *error) {
    struct run *r = m->run;
    mr_consumer *k = r->consumer;
    if (k->state == CONSUMER_ENDED || k->orphan)
        return error_set(error, MR_ECANCELLED, "its consumer is closed");
    if (m->state != MESSAGE_HANDED)
        return error_set(error, MR_ESETTLED, "this delivery was settled before");
    if (kind == MR_EXTEND) {
        if (k->pending_count > (size_t)k->credit + SETTLE_PENDING_SLACK)
            return error_set(error, MR_EBUSY, "%zu settlements are waiting to be sent", k->pending_count);
        r->busy++;
    } else {
        m->state = MESSAGE_SETTLING;
        k->held -= k->held > 0;
    }
    struct settlement *last = k->pending_count ? &k->pending[k->pending_count - 1] : NULL;
    if (last && !settled && settle_merges(last, m, kind, delay))
        last->count++;
    else
        settle_push(k, &(struct settlement){r, m->index, 1, kind, delay, settled, ctx});
    if (!k->dirty && settle_ready(k)) {
        consumer_dirty(k);
        client_kick(k->client);
    }
    return MR_OK;
}

static int settle_check(const mr_message *m, int kind, int64_t delay_ms, mr_error *error) {
    if (!m)
        return error_set(error, MR_EUSAGE, "message is NULL");
    if (kind < MR_ACK || kind > MR_RELEASE)
        return error_set(error, MR_EINVALID, "settlement kind %d, expected MR_ACK to MR_RELEASE", kind);
    if (delay_ms < 0 || delay_ms > INT64_MAX / USEC_MS)
        return error_set(error, MR_EINVALID, "delay of %lld ms, expected 0 or more", (long long)delay_ms);
    return MR_OK;
}

int mr_settle_async(mr_message *m, int kind, int64_t delay_ms, mr_settled settled, void *ctx,
                    mr_error *error) {
    error_clear(error);
    int code = settle_check(m, kind, delay_ms, error);
    if (code != MR_OK)
        return code;
    mr_client *c = m->run->consumer->client;
    code = client_check(c, error);
    if (code != MR_OK)
        return code;
    client_lock(c);
    code = settle_add(m, kind, delay_ms * USEC_MS, settled, ctx, error);
    client_unlock(c);
    return code;
}

static void on_settle_answered(void *ctx, int result, const mr_error *error) {
    struct waiter *w = ctx;
    w->result = result;
    if (error)
        w->error = *error;
    waiter_done(w);
}

static int settle_outcome(const struct waiter *w, mr_error *error) {
    switch (w->result) {
    case MR_SETTLE_DONE:
        return MR_OK;
    case MR_SETTLE_ALREADY:
        return error_set(error, MR_ESETTLED, "already settled");
    case MR_SETTLE_TOO_LATE:
        return error_set(error, MR_ETOOLATE, "too late: the lease has passed to another delivery");
    default:
        return error_set(error, w->error.code, "%s", w->error.text);
    }
}

int mr_settle(mr_message *m, int kind, int64_t delay_ms, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    int code = settle_check(m, kind, delay_ms, error);
    if (code != MR_OK)
        return code;
    mr_client *c = m->run->consumer->client;
    usec_t deadline;
    code = client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    struct waiter *w = waiter_new();
    code = mr_settle_async(m, kind, delay_ms, on_settle_answered, w, error);
    if (code != MR_OK)
        waiter_drop(w);
    else if (waiter_wait(w, deadline))
        code = settle_outcome(w, error);
    else
        code = error_set(error, MR_EUNKNOWN, "no answer in time; the settlement goes on being sent");
    waiter_drop(w);
    return code;
}

int mr_ack(mr_message *m) {
    return mr_settle_async(m, MR_ACK, 0, NULL, NULL, NULL);
}

int mr_nack(mr_message *m, int64_t delay_ms) {
    return mr_settle_async(m, MR_NACK, delay_ms, NULL, NULL, NULL);
}

int mr_reject(mr_message *m) {
    return mr_settle_async(m, MR_REJECT, 0, NULL, NULL, NULL);
}

int mr_extend(mr_message *m, int64_t lease_ms) {
    return mr_settle_async(m, MR_EXTEND, lease_ms, NULL, NULL, NULL);
}

int mr_release(mr_message *m) {
    return mr_settle_async(m, MR_RELEASE, 0, NULL, NULL, NULL);
}

/* --- sending ---------------------------------------------------------------- */

static void settle_fill(Mr__Settlement *out, const struct settlement *item) {
    mr__settlement__init(out);
    out->kind = (uint32_t)item->kind;
    out->partition = item->run->partition;
    out->first_offset = item->run->first_offset + item->first;
    out->count = item->count;
    out->epoch = item->run->epoch;
    out->delivery_number = item->run->delivery_number;
    out->delay_us = item->delay;
}

static void settle_send(const struct settle_frame *f) {
    Mr__Settlement *items = xcalloc(f->count, sizeof *items);
    Mr__Settlement **list = xcalloc(f->count, sizeof *list);
    for (size_t i = 0; i < f->count; i++) {
        settle_fill(&items[i], &f->items[i]);
        list[i] = &items[i];
    }
    Mr__Settle m = MR__SETTLE__INIT;
    m.request = f->request;
    m.consumer = f->consumer->handle;
    m.n_items = f->count;
    m.items = list;
    frame_send_settle(f->consumer->client->session->link, &m, NULL, 0);
    free(list);
    free(items);
}

static void settle_fly(mr_consumer *k) {
    mr_client *c = k->client;
    size_t n = k->pending_count < SETTLE_FRAME_ITEMS_MAX ? k->pending_count : SETTLE_FRAME_ITEMS_MAX;
    struct settle_frame *f = xcalloc(1, sizeof *f + n * sizeof f->items[0]);
    f->consumer = k;
    f->request = client_request(c);
    f->count = n;
    memcpy(f->items, k->pending, n * sizeof f->items[0]);
    k->pending_count -= n;
    memmove(k->pending, k->pending + n, k->pending_count * sizeof *k->pending);
    DL_APPEND(k->frames, f);
    k->frames_count++;
    HASH_ADD(hh, c->settles, request, sizeof f->request, f);
    settle_send(f);
}

void settle_pump(mr_consumer *k, usec_t now) {
    if (k->settle_at > now) {
        client_wake(k->client, k->settle_at);
        return;
    }
    k->settle_at = 0;
    while (settle_ready(k))
        settle_fly(k);
}

bool settle_idle(const mr_consumer *k) {
    return !k->pending_count && !k->frames;
}

static void settle_land(struct settle_frame *f) {
    DL_DELETE(f->consumer->frames, f);
    f->consumer->frames_count--;
    HASH_DEL(f->consumer->client->settles, f);
}

/* Not answered: its items go to the front again, in their order. */
static void settle_return(struct settle_frame *f) {
    mr_consumer *k = f->consumer;
    settle_land(f);
    xgrow(&k->pending, &k->pending_capacity, k->pending_count + f->count, sizeof *k->pending);
    memmove(k->pending + f->count, k->pending, k->pending_count * sizeof *k->pending);
    memcpy(k->pending, f->items, f->count * sizeof f->items[0]);
    k->pending_count += f->count;
    free(f);
}

void settle_lost(mr_consumer *k) {
    while (k->frames)
        settle_return(k->frames->prev); /* the last one first */
    k->settle_at = k->settle_backoff = 0;
}

/* --- answers ---------------------------------------------------------------- */

static void settled_push(mr_client *c, const struct settlement *item, int result, const mr_error *error) {
    if (!item->settled)
        return;
    struct settled *s = xcalloc(1, sizeof *s);
    s->settled = item->settled;
    s->ctx = item->ctx;
    s->result = result;
    if (error)
        s->error = *error;
    if (c->settled_last)
        c->settled_last->next = s;
    else
        c->settled_first = s;
    c->settled_last = s;
    c->completing++;
}

void settled_call(mr_client *c) {
    client_lock(c);
    struct settled *s = c->settled_first, *next;
    c->settled_first = c->settled_last = NULL;
    client_unlock(c);
    if (!s)
        return;
    uint32_t count = 0;
    for (; s; s = next, count++) {
        next = s->next;
        s->settled(s->ctx, s->result, s->result < 0 ? &s->error : NULL);
        free(s);
    }
    client_lock(c);
    c->completing -= count;
    pthread_cond_broadcast(&c->changed);
    client_unlock(c);
}

static void item_done(mr_client *c, const struct settlement *item, int result, const mr_error *error) {
    struct run *r = item->run;
    settled_push(c, item, result, error);
    bool last = false;
    if (item->kind == MR_EXTEND)
        last = run_less(r);
    else
        for (uint32_t i = 0; i < item->count; i++)
            last = message_settled(&r->messages[item->first + i]);
    if (last)
        run_free(r);
}

void settle_cancel(mr_consumer *k, int code, const char *text) {
    mr_error error;
    error_set(&error, code, "%s", text);
    while (k->frames)
        settle_return(k->frames->prev);
    for (size_t i = 0; i < k->pending_count; i++)
        item_done(k->client, &k->pending[i], -1, &error);
    k->pending_count = 0;
    client_kick(k->client);
}

static bool results_valid(const struct settle_frame *f, const ProtobufCBinaryData *results) {
    if (results->len != f->count)
        return false;
    for (size_t i = 0; i < results->len; i++)
        if (results->data[i] > SETTLE_RESULT_AGAIN)
            return false;
    return true;
}

static void settle_ask_again(mr_consumer *k) {
    usec_t now = loop_now(k->client->loop);
    k->settle_at =
        now + backoff_next(k->client, &k->settle_backoff, SETTLE_PAUSE_MIN_USEC, SETTLE_PAUSE_MAX_USEC);
    client_wake(k->client, k->settle_at);
}

static void settle_answered(struct settle_frame *f, const uint8_t *results) {
    mr_consumer *k = f->consumer;
    bool again = false;
    settle_land(f);
    for (size_t i = 0; i < f->count; i++) {
        if (results[i] == SETTLE_RESULT_AGAIN) {
            settle_push(k, &f->items[i]);
            again = true;
        } else {
            item_done(k->client, &f->items[i], results[i], NULL);
        }
    }
    free(f);
    if (again)
        settle_ask_again(k);
    else
        k->settle_backoff = 0;
    consumer_dirty(k);
    if (settle_idle(k))
        pthread_cond_broadcast(&k->changed);
}

void on_settled(struct session *s, const Mr__Settled *m) {
    struct settle_frame *f;
    HASH_FIND(hh, s->client->settles, &m->request, sizeof m->request, f);
    if (!f)
        return;
    if (!results_valid(f, &m->results)) {
        session_refuse(s, "SETTLED with %zu results, expected %zu known ones", m->results.len, f->count);
        return;
    }
    settle_answered(f, m->results.data);
}

bool settle_failed(mr_client *c, uint64_t request) {
    struct settle_frame *f;
    HASH_FIND(hh, c->settles, &request, sizeof request, f);
    if (!f)
        return false;
    mr_consumer *k = f->consumer;
    settle_return(f);
    settle_ask_again(k);
    return true;
}

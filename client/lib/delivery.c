// SPDX-License-Identifier: Apache-2.0
/*
 * Deliveries: a run of messages comes in, is checked whole, and waits to be
 * handed out; each message then lives until it is settled and freed.
 *
 *   QUEUED --handed out--> HANDED --settled by the program--> SETTLING --answered--> SETTLED
 */
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

/* A cluster that sends more than twice the credit (it counts expired leases as
 * given back, we may still hold them) and this much does not keep its word. */
enum { DELIVERY_SLACK_MESSAGES = 1024 };

static bool run_parse(struct run *r) {
    struct batch_cursor cursor = batch_run(r->body->data, r->body->size);
    for (uint32_t i = 0; i < r->count; i++) {
        mr_message *m = &r->messages[i];
        m->run = r;
        m->index = i;
        if (!batch_next(&cursor, &m->view))
            return false;
    }
    return cursor.at == cursor.end;
}

static struct run *run_new(mr_consumer *k, const Mr__Delivery *m, struct body *body) {
    struct run *r = xcalloc(1, sizeof *r + m->count * sizeof r->messages[0]);
    r->consumer = k;
    r->body = body_keep(body);
    r->partition = m->partition;
    r->count = r->busy = m->count;
    r->delivery_number = m->delivery_number;
    r->attempt = m->attempt;
    r->first_offset = m->first_offset;
    r->epoch = m->epoch;
    r->stamp = m->stamp;
    r->received = loop_now(k->client->loop);
    atomic_fetch_add(&k->refs, 1);
    return r;
}

void run_free(struct run *r) {
    body_drop(r->body);
    consumer_drop(r->consumer);
    free(r);
}

static const char *delivery_wrong(const mr_consumer *k, const Mr__Delivery *m, const struct body *body) {
    if (!body || m->count == 0 || m->count > body->size / BATCH_MESSAGE_OVERHEAD_BYTES)
        return "a count that its bytes cannot hold";
    if ((uint64_t)k->held + m->count > 2 * (uint64_t)k->credit + DELIVERY_SLACK_MESSAGES)
        return "more than the credit allows";
    if (m->crc != crc32c(0, body->data, body->size))
        return "a checksum that does not match";
    return NULL;
}

void on_delivery(struct session *s, const Mr__Delivery *m, struct body *body) {
    mr_consumer *k;
    HASH_FIND(hh, s->client->consumers, &m->consumer, sizeof m->consumer, k);
    if (!k || (k->state != CONSUMER_READY && k->state != CONSUMER_ASKED))
        return; /* leaving: what is unsettled is released with it */
    const char *wrong = delivery_wrong(k, m, body);
    if (wrong) {
        session_refuse(s, "DELIVERY of %u messages with %s", m->count, wrong);
        return;
    }
    struct run *r = run_new(k, m, body);
    if (!run_parse(r)) {
        run_free(r);
        session_refuse(s, "DELIVERY of %u messages, expected them to fill its %zu bytes", m->count,
                       body->size);
        return;
    }
    DL_APPEND(k->runs, r);
    DL_APPEND2(k->queue, r, queue_prev, queue_next);
    k->held += r->count;
    consumer_notify(k);
}

/* A delivery that waited here past its lease has gone to somebody else. */
static void run_stale(mr_consumer *k, struct run *r) {
    while (r->next_index < r->count) {
        mr_message *m = &r->messages[r->next_index++];
        m->state = MESSAGE_HANDED;
        m->freed = true;
        settle_add(m, MR_RELEASE, 0, NULL, NULL, NULL);
    }
    DL_DELETE2(k->queue, r, queue_prev, queue_next);
}

mr_message *run_pop(mr_consumer *k, usec_t now) {
    while (k->queue && k->lease > 0 && now - k->queue->received >= k->lease)
        run_stale(k, k->queue);
    struct run *r = k->queue;
    if (!r)
        return NULL;
    mr_message *m = &r->messages[r->next_index++];
    m->state = MESSAGE_HANDED;
    if (r->next_index == r->count)
        DL_DELETE2(k->queue, r, queue_prev, queue_next);
    return m;
}

bool run_less(struct run *r) {
    if (--r->busy)
        return false;
    DL_DELETE(r->consumer->runs, r);
    return true;
}

bool message_settled(mr_message *m) {
    m->state = MESSAGE_SETTLED;
    return m->freed && run_less(m->run);
}

static void run_detach(struct run *r) {
    if (r->next_index < r->count)
        DL_DELETE2(r->consumer->queue, r, queue_prev, queue_next);
    for (uint32_t i = r->next_index; i < r->count; i++)
        r->messages[i].freed = true; /* never handed out */
    r->next_index = r->count;
    uint32_t gone = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        mr_message *m = &r->messages[i];
        if (m->freed && m->state != MESSAGE_SETTLED)
            gone++;
        m->state = MESSAGE_SETTLED;
    }
    if (gone < r->busy) {
        r->busy -= gone;
        return;
    }
    r->busy = 1;
    run_less(r);
    run_free(r);
}

void runs_detach(mr_consumer *k) {
    struct run *r, *next;
    DL_FOREACH_SAFE(k->runs, r, next)
    run_detach(r);
    k->held = 0;
}

static size_t held_ranges(const mr_consumer *k, Mr__Held *out) {
    size_t n = 0;
    const struct run *r;
    DL_FOREACH(k->runs, r) {
        bool inside = false;
        for (uint32_t i = 0; i < r->count; i++) {
            bool held = r->messages[i].state != MESSAGE_SETTLED;
            if (held && !inside && out) {
                mr__held__init(&out[n]);
                out[n].partition = r->partition;
                out[n].first_offset = r->first_offset + i;
                out[n].epoch = r->epoch;
                out[n].delivery_number = r->delivery_number;
            }
            n += held && !inside;
            if (held && out)
                out[n - 1].count++;
            inside = held;
        }
    }
    return n;
}

Mr__Held **runs_held(const mr_consumer *k, size_t *count) {
    *count = held_ranges(k, NULL);
    Mr__Held **list = xcalloc(*count + 1, sizeof *list + sizeof **list);
    Mr__Held *items = (Mr__Held *)(void *)(list + *count + 1);
    held_ranges(k, items);
    for (size_t i = 0; i < *count; i++)
        list[i] = &items[i];
    return list;
}

/* --- what the program sees -------------------------------------------------- */

const char *mr_message_mailbox(const mr_message *m) {
    return m->run->consumer->mailbox;
}

uint32_t mr_message_partition(const mr_message *m) {
    return m->run->partition;
}

uint64_t mr_message_offset(const mr_message *m) {
    return m->run->first_offset + m->index;
}

const void *mr_message_key(const mr_message *m, size_t *size) {
    *size = m->view.key.size;
    return m->view.key.data;
}

const void *mr_message_payload(const mr_message *m, size_t *size) {
    *size = m->view.payload.size;
    return m->view.payload.data;
}

uint32_t mr_message_attempt(const mr_message *m) {
    return m->run->attempt;
}

int64_t mr_message_time_us(const mr_message *m) {
    return m->run->stamp;
}

size_t mr_message_headers(const mr_message *m) {
    return m->view.headers;
}

int mr_message_header(const mr_message *m, size_t i, const char **name, size_t *name_size, const void **value,
                      size_t *value_size) {
    if (i >= m->view.headers)
        return -1;
    const uint8_t *at = m->view.headers_start;
    struct batch_string n, v;
    do
        batch_header_next(&at, &n, &v);
    while (i--);
    *name = n.data;
    *name_size = n.size;
    *value = v.data;
    *value_size = v.size;
    return 0;
}

const void *mr_message_header_get(const mr_message *m, const char *name, size_t *value_size) {
    const uint8_t *at = m->view.headers_start;
    size_t size = strlen(name);
    for (unsigned i = 0; i < m->view.headers; i++) {
        struct batch_string n, v;
        batch_header_next(&at, &n, &v);
        if (n.size == size && memcmp(n.data, name, size) == 0) {
            *value_size = v.size;
            return v.data;
        }
    }
    return NULL;
}

void mr_message_free(mr_message *m) {
    if (!m)
        return;
    struct run *r = m->run;
    mr_client *c = r->consumer->client;
    if (client_check(c, NULL) != MR_OK)
        return;
    client_lock(c);
    m->freed = true;
    bool last = false;
    if (m->state == MESSAGE_HANDED)
        settle_add(m, MR_RELEASE, 0, NULL, NULL, NULL);
    else if (m->state == MESSAGE_SETTLED)
        last = run_less(r);
    client_unlock(c);
    if (last)
        run_free(r);
}

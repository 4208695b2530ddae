// SPDX-License-Identifier: Apache-2.0
/*
 * Dead letters on their way. The mailbox has committed the intent; here the
 * message is packed into a batch of its own, under the producer that stands for
 * (partition, subscription), and handed to this node's gateway, which routes it.
 * What is lost on the way the mailbox asks for again; the producer and sequence
 * make that harmless.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

enum { LETTER_HEADERS = 6, NUMBER_BYTES = 24 };

struct forward {
    uint64_t request;
    uint64_t partition;
    uint64_t intent;
    uint64_t after;
    struct producer_id producer;
    char target[NAME_BYTES_MAX + 1];
    uint32_t target_partition;
    char subscription[NAME_BYTES_MAX + 1];
    char reason[NAME_BYTES_MAX + 1];
    uint64_t batch_index;
    uint64_t base_offset;
    uint64_t offset;
    uint32_t attempts;
    bool reading;
    struct forward *next;
};

static void unlink_forward(struct shard *s, struct forward *f) {
    for (struct forward **at = &s->forwards; *at; at = &(*at)->next) {
        if (*at == f) {
            *at = f->next;
            break;
        }
    }
    free(f);
}

static void answer(struct shard *s, struct forward *f, enum err code) {
    struct hosted *h = shard_find(s, f->partition);
    uint64_t intent = f->intent;
    unlink_forward(s, f);
    if (!h || !h->partition || !mailbox_leading(h->partition->mailbox))
        return;
    shard_touch(h);
    mailbox_dead_lettered(h->partition->mailbox, intent, code, shard_now(s), &h->partition->mailbox_effects);
    partition_run(h->partition, shard_now(s));
    if (code == ERR_OK)
        counters_add(COUNTER_dead_letters, 1);
}

static struct shard_link *own_gateway(struct shard *s) {
    LINKS_EACH(s, l)
    if (l->kind == LINK_GATEWAY && l->own_node)
        return l;
    return NULL;
}

static struct batch_field field(const char *name, const char *value) {
    return (struct batch_field){name, strlen(name), value, strlen(value)};
}

/* The message's own headers first, as many as leave room for ours. */
static size_t copy_headers(const struct batch_message *m, struct batch_field *out) {
    const uint8_t *at = m->headers_start;
    size_t n = 0;
    for (unsigned i = 0; i < m->headers && n < BATCH_HEADERS_MAX - LETTER_HEADERS; i++) {
        struct batch_string name, value;
        batch_header_next(&at, &name, &value);
        out[n++] = (struct batch_field){name.data, name.size, value.data, value.size};
    }
    return n;
}

static bool find_message(const struct forward *f, const struct body *batch, struct batch_message *out) {
    struct batch_cursor cursor = batch_messages(batch->data, batch->size);
    for (uint64_t i = f->base_offset; i <= f->offset; i++)
        if (!batch_next(&cursor, out))
            return false;
    return true;
}

static struct body *pack(const struct hosted *h, const struct forward *f, const struct batch_message *m,
                         usec_t wall) {
    struct batch_field headers[BATCH_HEADERS_MAX];
    char partition[NUMBER_BYTES], offset[NUMBER_BYTES], attempts[NUMBER_BYTES];
    size_t n = copy_headers(m, headers);
    snprintf(partition, sizeof partition, "%u", h->number);
    snprintf(offset, sizeof offset, "%llu", (unsigned long long)f->offset);
    snprintf(attempts, sizeof attempts, "%u", f->attempts);
    headers[n++] = field("mailroom-dead-reason", f->reason);
    headers[n++] = field("mailroom-dead-mailbox", h->name);
    headers[n++] = field("mailroom-dead-partition", partition);
    headers[n++] = field("mailroom-dead-offset", offset);
    headers[n++] = field("mailroom-dead-subscription", f->subscription);
    headers[n++] = field("mailroom-dead-attempts", attempts);
    struct batch_builder b = {0};
    enum err err = batch_add(&b, m->key.data, m->key.size, headers, n, m->payload.data, m->payload.size);
    CHECK(err == ERR_OK); /* it fitted a batch before, and room was left for ours */
    batch_finish(&b, &f->producer, f->intent, f->after, wall, BATCH_FLAG_DEAD_LETTER);
    struct body *body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    return body;
}

static void send_letter(struct hosted *h, struct forward *f, struct body *batch) {
    struct shard *s = h->shard;
    struct shard_link *l = own_gateway(s);
    struct batch_message m;
    if (!l || !find_message(f, batch, &m)) {
        answer(s, f, ERR_UNAVAILABLE);
        return;
    }
    struct body *body = pack(h, f, &m, s->calls->wall(s->host));
    s->calls->letter(
        l, &(struct shard_letter){
               .request = f->request, .mailbox = f->target, .number = f->target_partition, .batch = body});
    body_drop(body);
}

void letters_send(struct hosted *h, const struct mailbox_effect *e) {
    struct shard *s = h->shard;
    struct forward *f = xcalloc(1, sizeof *f);
    *f = (struct forward){.request = s->next_request++,
                          .partition = h->id,
                          .intent = e->dead_letter.intent,
                          .after = e->dead_letter.after,
                          .producer = e->dead_letter.producer,
                          .target_partition = e->dead_letter.target_partition,
                          .batch_index = e->dead_letter.batch_index,
                          .base_offset = e->dead_letter.base_offset,
                          .offset = e->dead_letter.offset,
                          .attempts = e->dead_letter.attempts};
    name_copy(f->target, e->dead_letter.target);
    name_copy(f->subscription, e->dead_letter.subscription);
    name_copy(f->reason, e->dead_letter.reason);
    f->next = s->forwards;
    s->forwards = f;
    struct body *batch = deliver_body(h, f->batch_index);
    if (batch) {
        send_letter(h, f, batch);
    } else {
        f->reading = true;
        read_batch(h, f->batch_index);
    }
}

void letters_read(struct hosted *h, uint64_t index, struct body *body) {
    struct shard *s = h->shard;
    for (struct forward *f = s->forwards, *next; f; f = next) {
        next = f->next;
        if (!f->reading || f->partition != h->id || f->batch_index != index)
            continue;
        f->reading = false;
        if (body)
            send_letter(h, f, body);
        else
            answer(s, f, ERR_DAMAGED);
    }
}

void letters_forwarded(struct shard *s, uint64_t request, enum err code) {
    for (struct forward *f = s->forwards; f; f = f->next) {
        if (f->request == request) {
            answer(s, f, code);
            return;
        }
    }
}

/* Asked for again by the mailboxes, after a back-off. */
void letters_gateway_down(struct shard *s) {
    for (struct forward *f = s->forwards, *next; f; f = next) {
        next = f->next;
        if (!f->reading)
            answer(s, f, ERR_UNAVAILABLE);
    }
}

void letters_forget(struct hosted *h) {
    struct shard *s = h->shard;
    for (struct forward *f = s->forwards, *next; f; f = next) {
        next = f->next;
        if (f->partition == h->id)
            unlink_forward(s, f);
    }
}

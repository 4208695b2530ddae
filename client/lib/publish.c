// SPDX-License-Identifier: Apache-2.0
/*
 * Taking messages: the calling thread copies each one into the batch that is
 * being filled, and the client's thread sends that (sender.c). And completing
 * them: by receipt, refusal, or deadline.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/settings.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

#define PUBLISH_BATCH_BYTES (256 * KIB) /* a batch of several messages is not made larger */

enum { PUBLISH_ENTRY_BYTES = sizeof(struct entry) };

/* --- batches ---------------------------------------------------------------- */

struct batch *batch_new(struct mailbox *m) {
    struct batch *b = xcalloc(1, sizeof *b);
    b->mailbox = m;
    b->earliest = USEC_NEVER;
    DL_APPEND2(m->client->batches, b, all_prev, all_next);
    return b;
}

static void batch_entry(struct batch *b, const struct entry *e, size_t bytes) {
    xgrow(&b->entries, &b->entries_capacity, b->built.count, sizeof *b->entries);
    b->entries[b->built.count - 1] = *e;
    b->open++;
    b->buffered += bytes + PUBLISH_ENTRY_BYTES;
    if (e->deadline < b->earliest)
        b->earliest = e->deadline;
}

void batch_take(struct batch *b, const struct batch_message *m, const struct entry *e) {
    struct batch_builder *to = &b->built;
    if (to->size == 0)
        to->size = BATCH_HEADER_BYTES;
    xgrow(&to->data, &to->capacity, to->size + m->bytes, 1);
    memcpy(to->data + to->size, m->start, m->bytes);
    to->size += m->bytes;
    to->count++;
    batch_entry(b, e, m->bytes);
}

static void batch_free(struct batch *b) {
    if (b->body)
        body_drop(b->body); /* frees the built bytes */
    else
        batch_builder_free(&b->built);
    free(b->entries);
    free(b);
}

/* Out of every list; the bytes stay. */
static void batch_detach(struct batch *b) {
    struct mailbox *m = b->mailbox;
    if (b->partition)
        partition_remove(b);
    else if (b->lane)
        lane_remove(b);
    DL_DELETE2(m->client->batches, b, all_prev, all_next);
}

void batch_discard(struct batch *b) {
    batch_detach(b);
    batch_free(b);
}

static void done_push(mr_client *c, struct batch *b) {
    b->state = BATCH_DONE;
    c->completing++;
    DL_APPEND(c->done, b);
    if (!pthread_equal(pthread_self(), c->thread))
        client_kick(c);
}

void batch_complete(struct batch *b, const mr_receipt *receipt, int code, const char *text) {
    mr_client *c = b->mailbox->client;
    batch_detach(b);
    if (receipt)
        b->receipt = *receipt;
    error_set(&b->error, code, "%s", text);
    done_push(c, b);
}

static void batch_call(const struct batch *b) {
    for (uint32_t i = 0; i < b->built.count; i++) {
        const struct entry *e = &b->entries[i];
        if (!e->deadline || !e->published)
            continue;
        mr_receipt receipt = b->receipt;
        if (receipt.offset != UINT64_MAX)
            receipt.offset += i;
        if (b->error.code == MR_OK)
            e->published(e->ctx, &receipt, NULL);
        else
            e->published(e->ctx, NULL, &b->error);
    }
}

void batch_free_done(mr_client *c) {
    client_lock(c);
    struct batch *list = c->done, *b, *next;
    c->done = NULL;
    client_unlock(c);
    if (!list)
        return;
    size_t bytes = 0;
    uint32_t count = 0;
    DL_FOREACH_SAFE(list, b, next) {
        batch_call(b);
        bytes += b->buffered;
        count++;
        batch_free(b);
    }
    client_lock(c);
    c->buffered -= bytes;
    c->completing -= count;
    pthread_cond_broadcast(&c->changed);
    client_unlock(c);
}

/* --- deadlines -------------------------------------------------------------- */

static void late_error(const struct batch *b, mr_error *error) {
    const mr_client *c = b->mailbox->client;
    const char *why = c->trouble[0]              ? c->trouble
                      : b->refusal.code          ? b->refusal.text
                      : b->mailbox->refusal.code ? b->mailbox->refusal.text
                                                 : "no answer";
    if (b->body)
        error_set(error, MR_EUNKNOWN, "sent, but nobody answered in time (%s): it may be stored", why);
    else
        error_set(error, MR_ETIMEOUT, "nobody took it in time: %s", why);
}

/* Those entries that are due, moved to a done batch of their own. */
static void batch_expire(struct batch *b, usec_t now) {
    struct batch *late = xcalloc(1, sizeof *late);
    late->mailbox = b->mailbox;
    late_error(b, &late->error);
    late->entries = xcalloc(b->open, sizeof *late->entries);
    b->earliest = USEC_NEVER;
    for (uint32_t i = 0; i < b->built.count; i++) {
        struct entry *e = &b->entries[i];
        if (e->deadline && e->deadline <= now) {
            late->entries[late->built.count++] = *e;
            e->deadline = 0;
            b->open--;
        } else if (e->deadline && e->deadline < b->earliest) {
            b->earliest = e->deadline;
        }
    }
    done_push(b->mailbox->client, late);
}

/* What was reported as not stored must not be sent: build the batch anew. */
static void batch_compact(struct batch *b) {
    struct batch_builder old = b->built;
    struct entry *entries = b->entries;
    mr_client *c = b->mailbox->client;
    struct batch_cursor cursor = batch_messages(old.data, old.size);
    struct batch_message m;
    c->buffered -= b->buffered;
    b->built = (struct batch_builder){0};
    b->entries = NULL;
    b->entries_capacity = b->buffered = b->open = 0;
    for (uint32_t i = 0; batch_next(&cursor, &m); i++)
        if (entries[i].deadline)
            batch_take(b, &m, &entries[i]);
    c->buffered += b->buffered;
    batch_builder_free(&old);
    free(entries);
}

void batch_sweep(mr_client *c, usec_t now) {
    struct batch *b, *next;
    DL_FOREACH_SAFE2(c->batches, b, next, all_next) {
        if (b->earliest <= now) {
            batch_expire(b, now);
            if (b->open == 0) {
                c->buffered -= b->buffered;
                mailbox_dirty(b->mailbox);
                batch_discard(b);
                continue;
            }
            if (!b->body)
                batch_compact(b);
        }
        client_wake(c, b->earliest);
    }
}

void publish_fail_all(mr_client *c, int code, const char *text) {
    struct batch *b, *next;
    DL_FOREACH_SAFE2(c->batches, b, next, all_next)
    batch_complete(b, NULL, b->body ? MR_EUNKNOWN : code, text);
}

/* --- taking ----------------------------------------------------------------- */

static int header_check(const mr_header *h, size_t i, struct batch_field *out, mr_error *error) {
    size_t name_size = h->name ? strlen(h->name) : 0;
    if (name_size == 0 || name_size > UINT16_MAX)
        return error_set(error, MR_EINVALID, "header %zu: name of %zu bytes, expected 1 to %d", i, name_size,
                         UINT16_MAX);
    if (h->value_size > UINT16_MAX)
        return error_set(error, MR_ETOOLARGE, "header %zu: value of %zu bytes, expected at most %d", i,
                         h->value_size, UINT16_MAX);
    *out = (struct batch_field){h->name, name_size, h->value, h->value_size};
    return MR_OK;
}

static int publication_check(const mr_publication *p, struct batch_field *fields, mr_error *error) {
    if (p->key_size > MR_KEY_BYTES_MAX)
        return error_set(error, MR_ETOOLARGE, "key of %zu bytes, expected at most %d", p->key_size,
                         MR_KEY_BYTES_MAX);
    if (p->headers_count > MR_HEADERS_MAX)
        return error_set(error, MR_ETOOLARGE, "%zu headers, expected at most %d", p->headers_count,
                         MR_HEADERS_MAX);
    for (size_t i = 0; i < p->headers_count; i++) {
        int code = header_check(&p->headers[i], i, &fields[i], error);
        if (code != MR_OK)
            return code;
    }
    return MR_OK;
}

static struct mailbox *mailbox_find(mr_client *c, const char *name, mr_error *error) {
    struct mailbox *m;
    HASH_FIND_STR(c->mailboxes, name, m);
    if (m)
        return m;
    if (!name_valid(name)) {
        error_set(error, MR_EINVALID, "mailbox name '%.140s', expected 1 to 128 of A-Z a-z 0-9 . _ -", name);
        return NULL;
    }
    if (HASH_COUNT(c->mailboxes) >= CLIENT_MAILBOXES_MAX) {
        error_set(error, MR_EBUSY, "more than %d mailboxes in one client", CLIENT_MAILBOXES_MAX);
        return NULL;
    }
    m = xcalloc(1, sizeof *m);
    m->client = c;
    m->name = xstrdup(name);
    HASH_ADD_KEYPTR(hh, c->mailboxes, m->name, strlen(m->name), m);
    return m;
}

/* Room for `bytes` in the buffer, waited for. One message always fits. */
static int room_wait(mr_client *c, size_t bytes, unsigned flags, usec_t deadline, mr_error *error) {
    bool wait = !(flags & MR_NO_WAIT) && !pthread_equal(pthread_self(), c->thread);
    while (c->buffered && c->buffered + bytes > c->buffer_max && !c->stopping) {
        if (!wait)
            return error_set(error, MR_EBUSY, "%zu bytes unreceipted, %zu allowed", c->buffered,
                             c->buffer_max);
        if (!steady_wait(&c->changed, &c->lock, deadline))
            return error_set(error, MR_ETIMEOUT, "no room in the client's buffer in time: %s",
                             c->trouble[0] ? c->trouble : "receipts are slow");
    }
    if (c->stopping)
        return error_set(error, MR_ECANCELLED, "the client is being closed");
    return MR_OK;
}

static struct lane *lane_of(struct mailbox *m, const mr_publication *p) {
    if (!m->partitions || m->route != ROUTE_KEY || !p->key_size)
        return &m->any;
    return &m->partitions[batch_key_hash(p->key, p->key_size) % m->partitions_count].lane;
}

struct batch *lane_room(struct mailbox *m, struct lane *lane, size_t bytes) {
    struct batch *b = lane->batches ? lane->batches->prev : NULL;
    if (b && b->built.size + bytes <= PUBLISH_BATCH_BYTES && b->built.count < BATCH_MESSAGES_MAX)
        return b;
    b = batch_new(m);
    lane_push(m, lane, b, false);
    return b;
}

static int publish_take(mr_client *c, const char *mailbox, const mr_publication *p,
                        const struct batch_field *fields, const struct entry *e, mr_error *error) {
    struct mailbox *m = mailbox_find(c, mailbox, error);
    if (!m)
        return error ? error->code : MR_EINVALID;
    size_t bytes = batch_message_bytes(p->key_size, fields, p->headers_count, p->payload_size);
    struct lane *lane = lane_of(m, p);
    struct batch *b = lane_room(m, lane, bytes);
    CHECK(batch_add(&b->built, p->key, p->key_size, fields, p->headers_count, p->payload, p->payload_size) ==
          ERR_OK);
    size_t before = b->buffered;
    batch_entry(b, e, bytes);
    c->buffered += b->buffered - before;
    if (!m->dirty && lane_ready(m, lane)) {
        mailbox_dirty(m);
        client_kick(c);
    }
    client_wake(c, e->deadline);
    return MR_OK;
}

static size_t message_limit(const mr_client *c) {
    size_t limit = session_is_open(c) ? c->session->message_bytes : FRAME_BYTES_DEFAULT;
    return limit < UINT32_MAX / 4 ? limit : UINT32_MAX / 4;
}

static int publish(mr_client *c, const char *mailbox, const mr_publication *message, usec_t deadline,
                   unsigned flags, mr_published published, void *ctx, mr_error *error) {
    mr_publication p;
    struct batch_field fields[MR_HEADERS_MAX];
    options_copy(&p, sizeof p, message);
    int code = publication_check(&p, fields, error);
    if (code != MR_OK)
        return code;
    usec_t latest = clock_now() + CLIENT_PUBLISH_MS_MAX * USEC_MS;
    struct entry e = {published, ctx, deadline < latest ? deadline : latest};
    mr_error own;
    client_lock(c);
    if (p.payload_size > message_limit(c))
        code = error_set(error, MR_ETOOLARGE, "message of %zu bytes, the cluster takes at most %zu",
                         p.payload_size, message_limit(c));
    else
        code = room_wait(c, p.payload_size + PUBLISH_ENTRY_BYTES, flags, e.deadline, error);
    if (code == MR_OK)
        code = publish_take(c, mailbox, &p, fields, &e, error ? error : &own);
    client_unlock(c);
    return code;
}

int mr_publish_async(mr_client *c, const char *mailbox, const mr_publication *message, int64_t timeout_ms,
                     unsigned flags, mr_published published, void *ctx, mr_error *error) {
    error_clear(error);
    usec_t deadline;
    int code = client_check(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    return publish(c, mailbox, message, deadline, flags, published, ctx, error);
}

static void on_published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    struct waiter *w = ctx;
    if (receipt)
        w->receipt = *receipt;
    else
        w->error = *error;
    waiter_done(w);
}

int mr_publish(mr_client *c, const char *mailbox, const mr_publication *message, int64_t timeout_ms,
               mr_receipt *receipt, mr_error *error) {
    error_clear(error);
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    struct waiter *w = waiter_new();
    code = publish(c, mailbox, message, deadline, 0, on_published, w, error);
    if (code != MR_OK) {
        waiter_drop(w);
        waiter_drop(w);
        return code;
    }
    if (!waiter_wait(w, deadline + CLIENT_GRACE_USEC))
        code = error_set(error, MR_EUNKNOWN, "sent, but the client's thread stands still: it may be stored");
    else if ((code = w->error.code) == MR_OK && receipt)
        *receipt = w->receipt;
    else if (code != MR_OK && error)
        *error = w->error;
    waiter_drop(w);
    return code;
}

int mr_client_flush(mr_client *c, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    client_lock(c);
    while ((c->batches || c->completing) && steady_wait(&c->changed, &c->lock, deadline)) {
    }
    if (c->batches || c->completing)
        code = error_set(error, MR_ETIMEOUT, "publishes are unanswered: %s",
                         c->trouble[0] ? c->trouble : "no answer");
    client_unlock(c);
    return code;
}

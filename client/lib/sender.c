// SPDX-License-Identifier: Apache-2.0
/*
 * From lanes to partitions to the link.
 *
 * Happy path: a batch is taken from its lane, gets its partition, sequence and
 * `after`, flies, and is receipted. While batches fly, the next one is filled:
 * with n of them in flight it goes when it has n times SENDER_STEP_BYTES (at
 * most SENDER_GOOD_BYTES); with none at once. So idle costs no delay, and load
 * makes large batches and several in flight.
 *
 * What a leader did not take is sent again, unchanged and in order, after a
 * pause that doubles. Only a batch that the leader has just said it did not take
 * (OUT_OF_ORDER, FORGOTTEN) may have its `after` set anew: when the batch it
 * pointed to was given up meanwhile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/settings.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

#define SENDER_STEP_BYTES            (16 * KIB)
#define SENDER_GOOD_BYTES            (64 * KIB)
#define SENDER_FRESH_USEC            (200 * USEC_MS) /* then others are preferred to its partition */
#define SENDER_PAUSE_MIN_USEC        (2 * USEC_MS)
#define SENDER_PAUSE_MAX_USEC        (100 * USEC_MS)
#define SENDER_LOOKUP_PAUSE_MIN_USEC (10 * USEC_MS)
#define SENDER_LOOKUP_PAUSE_MAX_USEC (200 * USEC_MS)
/* A producer that was idle for longer may have been forgotten (a leader under
 * pressure forgets those idle for 10 min): its next batch points to none before
 * it. Nothing of it is in flight, so nothing can come twice. */
#define SENDER_REMEMBERED_USEC (300 * USEC_S)

enum { SENDER_MAILBOX_FLYING_MAX = 32, SENDER_PARTITION_FLYING_MAX = 16 };

/* --- lanes ------------------------------------------------------------------ */

void lane_push(struct mailbox *m, struct lane *lane, struct batch *b, bool first) {
    if (!lane->batches)
        DL_APPEND(m->lanes, lane);
    if (first)
        DL_PREPEND(lane->batches, b);
    else
        DL_APPEND(lane->batches, b);
    b->lane = lane;
}

void lane_remove(struct batch *b) {
    struct lane *lane = b->lane;
    DL_DELETE(lane->batches, b);
    b->lane = NULL;
    if (!lane->batches)
        DL_DELETE(b->mailbox->lanes, lane);
}

static bool large_enough(const struct lane *lane, uint32_t flying) {
    size_t least = flying * SENDER_STEP_BYTES;
    const struct batch *b = lane->batches;
    return b->next || b->built.size >= (least < SENDER_GOOD_BYTES ? least : SENDER_GOOD_BYTES);
}

bool lane_ready(const struct mailbox *m, const struct lane *lane) {
    if (m->state != MAILBOX_KNOWN)
        return m->state == MAILBOX_STALE;
    if (!lane->batches)
        return false;
    const struct partition *p = lane->partition;
    if (p && (p->retry_at || p->again))
        return false;
    uint32_t flying = p ? p->queued : m->fresh_count;
    if (flying >= (p ? SENDER_PARTITION_FLYING_MAX : SENDER_MAILBOX_FLYING_MAX))
        return false;
    return large_enough(lane, flying);
}

void mailbox_dirty(struct mailbox *m) {
    if (m->dirty)
        return;
    m->dirty = true;
    m->dirty_next = m->client->dirty;
    m->client->dirty = m;
}

/* --- a batch's flight ------------------------------------------------------- */

static void body_release(struct body *body) {
    free(body->data);
    free(body);
}

/* The builder's bytes become a body, for good. */
static void batch_seal(struct batch *b) {
    batch_finish(&b->built, &b->mailbox->client->producer, b->sequence, b->after, b->published, 0);
    b->body = xmalloc(sizeof *b->body);
    *b->body =
        (struct body){.data = b->built.data, .size = b->built.size, .release = body_release, .refs = 1};
}

/* Another `after`, in a copy: the link may hold the old bytes still. */
static void batch_relink(struct batch *b, uint64_t after) {
    uint8_t *copy = xmalloc(b->built.size);
    memcpy(copy, b->built.data, b->built.size);
    body_drop(b->body);
    b->built.data = copy;
    b->built.capacity = b->built.size;
    b->after = after;
    batch_seal(b);
}

static void batch_unfresh(struct batch *b) {
    DL_DELETE2(b->mailbox->fresh, b, fresh_prev, fresh_next);
    b->mailbox->fresh_count--;
    b->fresh = false;
}

static void batch_land(struct batch *b) {
    if (b->state != BATCH_FLYING)
        return;
    b->mailbox->client->unreceipted -= b->body->size;
    if (b->fresh)
        batch_unfresh(b);
    else
        b->partition->slow--;
}

static void batch_again(struct batch *b) {
    if (b->state == BATCH_AGAIN)
        return;
    batch_land(b);
    b->state = BATCH_AGAIN;
    b->partition->again++;
    b->mailbox->again++;
}

static void batch_unagain(struct batch *b) {
    if (b->state != BATCH_AGAIN)
        return;
    b->partition->again--;
    b->mailbox->again--;
}

void partition_remove(struct batch *b) {
    struct partition *p = b->partition;
    batch_land(b);
    batch_unagain(b);
    b->state = BATCH_DONE;
    DL_DELETE(p->queue, b);
    HASH_DEL(b->mailbox->client->requests, b);
    p->queued--;
    p->bytes -= b->body->size;
    mailbox_dirty(b->mailbox);
}

static void batch_fly(struct batch *b, usec_t now) {
    mr_client *c = b->mailbox->client;
    Mr__Publish m = MR__PUBLISH__INIT;
    m.request = b->request;
    m.mailbox_id = b->mailbox->id;
    m.partition = b->partition->number;
    enum err e = frame_send_publish(c->session->link, &m, &b->body, 1);
    if (e == ERR_TOO_LARGE) {
        batch_complete(b, NULL, MR_ETOOLARGE, "larger than this gateway takes");
        return;
    }
    batch_unagain(b); /* not taken by the link: the session ends, and it goes in the next one */
    b->state = BATCH_FLYING;
    b->sent_at = now;
    if (!b->first_sent)
        b->first_sent = now;
    b->fresh = true;
    DL_APPEND2(b->mailbox->fresh, b, fresh_prev, fresh_next);
    b->mailbox->fresh_count++;
    c->unreceipted += b->body->size;
}

static bool window_open(const mr_client *c, size_t bytes) {
    return c->unreceipted == 0 || c->unreceipted + bytes <= c->session->window;
}

static void batch_place(struct batch *b, struct partition *p, usec_t now) {
    mr_client *c = b->mailbox->client;
    lane_remove(b);
    bool remembered = p->queue || now - p->used < SENDER_REMEMBERED_USEC;
    b->after = p->queue ? p->queue->prev->sequence : remembered ? p->good : 0;
    b->sequence = ++p->sequence;
    b->partition = p;
    b->request = client_request(c);
    b->published = loop_wall(c->loop);
    batch_seal(b);
    DL_APPEND(p->queue, b);
    HASH_ADD(hh, c->requests, request, sizeof b->request, b);
    p->queued++;
    p->bytes += b->body->size;
    batch_fly(b, now);
}

/* --- limits ----------------------------------------------------------------- */

/* The later half into a batch of its own, behind it. */
static void batch_split(struct batch *b) {
    struct mailbox *m = b->mailbox;
    struct lane *lane = b->lane;
    struct batch *halves[2] = {batch_new(m), batch_new(m)};
    struct batch_cursor cursor = batch_messages(b->built.data, b->built.size);
    struct batch_message view;
    for (uint32_t i = 0; batch_next(&cursor, &view); i++)
        batch_take(halves[i >= b->built.count / 2], &view, &b->entries[i]);
    halves[0]->part = halves[1]->part = b->part;
    batch_discard(b);
    lane_push(m, lane, halves[1], true);
    lane_push(m, lane, halves[0], true);
}

/* True if the lane's first batch may be sent as it is. */
static bool batch_fits(struct batch *b) {
    const struct session *s = b->mailbox->client->session;
    if (b->built.count > 1) {
        if (b->built.size <= s->batch_bytes)
            return true;
        batch_split(b);
        return false;
    }
    if (b->built.size - BATCH_HEADER_BYTES - BATCH_MESSAGE_OVERHEAD_BYTES <= s->message_bytes)
        return true;
    batch_complete(b, NULL, MR_ETOOLARGE, "message larger than the cluster's limit");
    return false;
}

/* --- no room for so many ---------------------------------------------------- */

/* The leader had no room for all of its messages: it did not take the batch, nor
 * any behind it, for each points to the one before. */
static bool is_oversized(const struct batch *b) {
    return b->refusal.code == ERR_FULL && b->built.count > 1;
}

/* From the partition to the front of the lane, the first `most` messages in a
 * batch of their own. Messages that were given up meanwhile stay behind. */
static void batch_give_back(struct batch *b, struct lane *lane, uint32_t most) {
    struct mailbox *m = b->mailbox;
    struct batch *parts[2] = {batch_new(m), batch_new(m)};
    struct batch_cursor cursor = batch_messages(b->built.data, b->built.size);
    struct batch_message view;
    uint32_t taken = 0;
    for (uint32_t i = 0; batch_next(&cursor, &view); i++)
        if (b->entries[i].deadline)
            batch_take(parts[taken++ >= most], &view, &b->entries[i]);
    parts[0]->buffered += b->buffered - parts[0]->buffered - parts[1]->buffered;
    for (int i = 1; i >= 0; i--) {
        parts[i]->part = b->part || is_oversized(b);
        if (parts[i]->built.count)
            lane_push(m, lane, parts[i], true);
        else
            batch_discard(parts[i]);
    }
    batch_discard(b);
}

/* b in halves, and all behind it, so that they stay in order; once nothing of
 * them is in flight. */
static void partition_give_back(struct partition *p, struct batch *b) {
    struct lane *lane = p->mailbox->route == ROUTE_KEY ? &p->lane : &p->mailbox->any;
    for (struct batch *other = b; other; other = other->next)
        if (other->state != BATCH_AGAIN)
            return;
    while (p->queue->prev != b)
        batch_give_back(p->queue->prev, lane, UINT32_MAX);
    batch_give_back(b, lane, (b->open + 1) / 2);
}

/* No room for one message: none for the rest of the batch it was in. */
static void parts_refuse(struct batch *b, const char *text) {
    struct mailbox *m = b->mailbox;
    struct lane *lane = m->route == ROUTE_KEY ? &b->partition->lane : &m->any;
    while (lane->batches && lane->batches->part)
        batch_complete(lane->batches, NULL, MR_EFULL, text);
}

/* --- the pump --------------------------------------------------------------- */

/* False: stopped by the window. */
static bool lane_pump(struct mailbox *m, struct lane *lane, usec_t now) {
    while (lane_ready(m, lane)) {
        struct batch *b = lane->batches;
        if (!batch_fits(b))
            continue;
        if (!window_open(m->client, b->built.size))
            return false;
        struct partition *p = lane->partition ? lane->partition : route_choose(m);
        if (!p)
            return true;
        batch_place(b, p, now);
    }
    return true;
}

static bool partition_resend(struct partition *p, usec_t now) {
    struct batch *b, *next;
    DL_FOREACH_SAFE(p->queue, b, next) {
        if (b->state != BATCH_AGAIN)
            continue;
        if (is_oversized(b)) {
            partition_give_back(p, b);
            return true;
        }
        if (!window_open(p->mailbox->client, b->body->size))
            return false;
        batch_fly(b, now);
    }
    return true;
}

static bool mailbox_resend(struct mailbox *m, usec_t now) {
    for (uint32_t i = 0; i < m->partitions_count && m->again; i++) {
        struct partition *p = &m->partitions[i];
        if (p->again && !p->retry_at && !partition_resend(p, now))
            return false;
    }
    return true;
}

static void mailbox_ask(struct mailbox *m) {
    if (m->state == MAILBOX_ASKED || m->retry_at || (!m->lanes && !m->again))
        return;
    mr_client *c = m->client;
    Mr__Lookup ask = MR__LOOKUP__INIT;
    ask.request = m->request = client_request(c);
    ask.mailbox = m->name;
    m->state = MAILBOX_ASKED;
    frame_send_lookup(c->session->link, &ask, NULL, 0);
}

static void mailbox_pump(struct mailbox *m, usec_t now) {
    if (m->state != MAILBOX_KNOWN) {
        mailbox_ask(m);
        return;
    }
    bool open = mailbox_resend(m, now);
    struct lane *lane, *next;
    DL_FOREACH_SAFE(m->lanes, lane, next)
    open = open && lane_pump(m, lane, now);
    if (!open)
        mailbox_dirty(m);
    if (m->lanes && m->fresh)
        client_wake(m->client, m->fresh->sent_at + SENDER_FRESH_USEC);
}

void sender_pump(mr_client *c, usec_t now) {
    struct mailbox *m = c->dirty, *next;
    c->dirty = NULL;
    for (; m; m = next) {
        next = m->dirty_next;
        m->dirty = false;
        mailbox_pump(m, now);
    }
}

/* --- time ------------------------------------------------------------------- */

static void mailbox_age(struct mailbox *m, usec_t now) {
    while (m->fresh && m->fresh->sent_at + SENDER_FRESH_USEC <= now) {
        m->fresh->partition->slow++;
        batch_unfresh(m->fresh);
        mailbox_dirty(m);
    }
    if (m->fresh && m->lanes)
        client_wake(m->client, m->fresh->sent_at + SENDER_FRESH_USEC);
}

/* True if the time has come; else asks to be looked at then. */
static bool due(mr_client *c, usec_t *at, usec_t now) {
    if (!*at)
        return false;
    if (*at > now) {
        client_wake(c, *at);
        return false;
    }
    *at = 0;
    return true;
}

void sender_tick(mr_client *c, usec_t now) {
    struct mailbox *m, *next;
    HASH_ITER(hh, c->mailboxes, m, next) {
        mailbox_age(m, now);
        if (due(c, &m->retry_at, now))
            mailbox_dirty(m);
        for (uint32_t i = 0; i < m->partitions_count; i++)
            if (due(c, &m->partitions[i].retry_at, now))
                mailbox_dirty(m);
    }
}

static void partition_pause(struct partition *p) {
    mr_client *c = p->mailbox->client;
    if (p->retry_at)
        return;
    p->retry_at =
        loop_now(c->loop) + backoff_next(c, &p->backoff, SENDER_PAUSE_MIN_USEC, SENDER_PAUSE_MAX_USEC);
    client_wake(c, p->retry_at);
}

void sender_lost(mr_client *c) {
    struct batch *b, *next_batch;
    HASH_ITER(hh, c->requests, b, next_batch)
    batch_again(b);
    struct mailbox *m, *next;
    HASH_ITER(hh, c->mailboxes, m, next) {
        m->state = MAILBOX_STALE;
        m->retry_at = 0;
        for (uint32_t i = 0; i < m->partitions_count; i++)
            m->partitions[i].retry_at = m->partitions[i].backoff = 0;
        mailbox_dirty(m);
    }
}

/* --- answers to Lookup ------------------------------------------------------ */

static void mailbox_forget(struct mailbox *m) {
    HASH_DELETE(hh_id, m->client->mailboxes_by_id, m);
    free(m->partitions);
    m->partitions = NULL;
    m->partitions_count = 0;
    m->id = 0;
}

/* What was sent to the partitions there were is lost from sight; what was not
 * sent is routed anew. */
static void mailbox_replaced(struct mailbox *m) {
    for (uint32_t i = 0; i < m->partitions_count; i++) {
        struct partition *p = &m->partitions[i];
        struct batch *b, *next;
        DL_FOREACH_SAFE(p->queue, b, next)
        batch_complete(b, NULL, MR_EUNKNOWN, "the mailbox was deleted and made anew meanwhile");
        DL_FOREACH_SAFE(p->lane.batches, b, next) {
            lane_remove(b);
            lane_push(m, &m->any, b, false);
        }
    }
    mailbox_forget(m);
}

static void mailbox_learn(struct mailbox *m, const Mr__MailboxInfo *info) {
    m->id = info->mailbox_id;
    HASH_ADD(hh_id, m->client->mailboxes_by_id, id, sizeof m->id, m);
    m->partitions_count = info->partitions;
    m->partitions = xcalloc(info->partitions, sizeof *m->partitions);
    m->turn = (uint32_t)loop_random(m->client->loop, info->partitions);
    for (uint32_t i = 0; i < info->partitions; i++) {
        struct partition *p = &m->partitions[i];
        p->mailbox = m;
        p->number = i;
        p->lane.partition = p;
    }
}

static void mailbox_loads(struct mailbox *m, const uint64_t *loads, size_t count) {
    for (size_t i = 0; i < count && i < m->partitions_count; i++)
        m->partitions[i].load = loads[i];
}

static bool mailbox_is(const struct mailbox *m, const Mr__MailboxInfo *info) {
    return m->id == info->mailbox_id && m->partitions_count == info->partitions;
}

void on_mailbox_info(struct session *s, const Mr__MailboxInfo *info) {
    mr_client *c = s->client;
    if (info->partitions < 1 || info->partitions > MAILBOX_PARTITIONS_MAX || !info->mailbox_id) {
        session_refuse(s, "MAILBOX_INFO: %u partitions, expected 1 to %d", info->partitions,
                       MAILBOX_PARTITIONS_MAX);
        return;
    }
    struct mailbox *m, *other;
    HASH_FIND_STR(c->mailboxes, info->name, m);
    if (!m || m->state != MAILBOX_ASKED || m->request != info->request)
        return;
    HASH_FIND(hh_id, c->mailboxes_by_id, &info->mailbox_id, sizeof info->mailbox_id, other);
    if (other && other != m) {
        session_refuse(s, "MAILBOX_INFO: %.60s and %.60s have one id", m->name, other->name);
        return;
    }
    if (m->id && !mailbox_is(m, info))
        mailbox_replaced(m);
    if (!m->id)
        mailbox_learn(m, info);
    m->route = (int)info->route;
    m->state = MAILBOX_KNOWN;
    m->backoff = 0;
    m->refusal.code = ERR_OK;
    mailbox_loads(m, info->loads, info->n_loads);
    if (m->route == ROUTE_KEY)
        route_by_key(m);
    mailbox_dirty(m);
}

void on_loads(struct session *s, const Mr__Loads *loads) {
    struct mailbox *m;
    HASH_FIND(hh_id, s->client->mailboxes_by_id, &loads->mailbox_id, sizeof loads->mailbox_id, m);
    if (m)
        mailbox_loads(m, loads->loads, loads->n_loads);
}

static void mailbox_refused(struct mailbox *m, int code, const char *text) {
    struct batch *b, *next;
    DL_FOREACH_SAFE2(m->client->batches, b, next, all_next)
    if (b->mailbox == m)
        batch_complete(b, NULL, b->body ? MR_EUNKNOWN : code, text);
}

bool lookup_failed(mr_client *c, uint64_t request, int code, const char *text) {
    struct mailbox *m, *next;
    HASH_ITER(hh, c->mailboxes, m, next)
    if (m->state == MAILBOX_ASKED && m->request == request)
        break;
    if (!m)
        return false;
    m->state = MAILBOX_STALE;
    err_set(&m->refusal, (enum err)code, "%s", text);
    if (!code_is_passing(code)) {
        mailbox_refused(m, code, text);
        return true;
    }
    m->retry_at = loop_now(c->loop) +
                  backoff_next(c, &m->backoff, SENDER_LOOKUP_PAUSE_MIN_USEC, SENDER_LOOKUP_PAUSE_MAX_USEC);
    client_wake(c, m->retry_at);
    return true;
}

void mailbox_free(struct mailbox *m) {
    free(m->partitions);
    free(m->name);
    free(m);
}

/* --- answers to Publish ----------------------------------------------------- */

static void on_receipt(mr_client *c, const Mr__Receipt *r) {
    struct batch *b;
    HASH_FIND(hh, c->requests, &r->request, sizeof r->request, b);
    if (!b)
        return; /* given up, or answered twice */
    struct partition *p = b->partition;
    if (b->sequence > p->good)
        p->good = b->sequence;
    p->used = loop_now(c->loop);
    p->backoff = 0;
    if (p->retry_at) { /* it leads again: the rest need not wait */
        p->retry_at = p->used;
        client_wake(c, p->used);
    }
    mr_receipt receipt = {p->number, r->base_offset, r->duplicate};
    batch_complete(b, &receipt, MR_OK, "");
}

/* Behind `taken` nothing is at the leader: let each point to the one before it
 * that is still wanted. */
static void partition_relink(struct partition *p, uint64_t taken, uint64_t upto) {
    uint64_t before = taken;
    struct batch *b;
    DL_FOREACH(p->queue, b) {
        if (b->sequence > upto)
            break;
        if (b->sequence > taken) {
            batch_again(b);
            if (b->after > before)
                batch_relink(b, before);
            before = b->sequence;
        }
    }
}

static void on_forgotten(struct batch *b, const char *text) {
    struct partition *p = b->partition;
    usec_t age = loop_now(b->mailbox->client->loop) - b->first_sent;
    if (age >= SENDER_REMEMBERED_USEC) {
        batch_complete(b, NULL, MR_EFORGOTTEN, text);
        return;
    }
    /* First sent too recently to have been taken and forgotten: it was not taken. */
    p->good = 0;
    partition_relink(p, 0, b->sequence);
    partition_pause(p);
}

static void on_refused(mr_client *c, const Mr__Refused *r) {
    struct batch *b;
    HASH_FIND(hh, c->requests, &r->request, sizeof r->request, b);
    if (!b || b->state != BATCH_FLYING)
        return;
    struct partition *p = b->partition;
    err_set(&b->refusal, (enum err)r->code, "%s", r->text);
    if (r->code == ERR_OUT_OF_ORDER) {
        partition_relink(p, r->last, b->sequence);
        partition_pause(p);
    } else if (r->code == ERR_FORGOTTEN) {
        on_forgotten(b, r->text);
    } else if (is_oversized(b)) {
        batch_again(b);
        mailbox_dirty(b->mailbox);
    } else if (code_is_passing((int)r->code) || r->code == ERR_UNKNOWN) {
        batch_again(b);
        partition_pause(p);
    } else {
        if (r->code == ERR_NOT_FOUND)
            b->mailbox->state = MAILBOX_STALE;
        if (r->code == ERR_FULL && b->part)
            parts_refuse(b, r->text);
        batch_complete(b, NULL, r->code ? (int)r->code : MR_EPROTOCOL, r->text);
    }
}

void on_receipts(struct session *s, const Mr__Receipts *m) {
    for (size_t i = 0; i < m->n_receipts; i++)
        on_receipt(s->client, m->receipts[i]);
    for (size_t i = 0; i < m->n_refused; i++)
        on_refused(s->client, m->refused[i]);
}

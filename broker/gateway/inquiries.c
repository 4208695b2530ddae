// SPDX-License-Identifier: Apache-2.0
/*
 * Administration. Most requests go to the controller (controller.c). A show and
 * a purge are asked of the partitions' leaders: each is asked as soon as there
 * is one, again when it moved before it answered, and the answers are put
 * together with what the map says.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counters.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"

void request_answer(struct gateway *g, uint64_t session, uint64_t request, enum err code, const char *text) {
    struct session *s = sessions_find(g, session);
    Mr__Response m = MR__RESPONSE__INIT;
    if (!s)
        return;
    m.request = request;
    m.code = code;
    m.text = (char *)(uintptr_t)text;
    frame_send_response(s->link, &m, NULL, 0);
}

static void inquiry_free(struct gateway *g, struct inquiry *q) {
    struct session *s = sessions_find(g, q->session);
    if (s)
        s->requests--;
    for (size_t i = 0; i < q->count; i++)
        if (q->parts[i].show)
            mr__partition_show__free_unpacked(q->parts[i].show, NULL);
    HASH_DEL(g->inquiries, q);
    free(q->parts);
    free(q);
}

/* ---- asking ---- */

static void ask(struct gateway *g, struct inquiry *q, const struct map_partition *p) {
    struct inquiry_part *part = &q->parts[p->number];
    struct shard_link *l = part->state == INQUIRY_WAITING ? shards_leader(g, p) : NULL;
    enum err e;
    if (!l)
        return;
    if (q->kind == INQUIRY_SHOW) {
        Mr__ShowPartition m = MR__SHOW_PARTITION__INIT;
        m.request = q->number;
        m.partition = p->id;
        e = frame_send_show_partition(l->link, &m, NULL, 0);
    } else {
        Mr__PurgePartition m = MR__PURGE_PARTITION__INIT;
        m.request = q->number;
        m.partition = p->id;
        e = frame_send_purge_partition(l->link, &m, NULL, 0);
    }
    if (e == ERR_OK)
        part->state = INQUIRY_ASKED;
}

static void ask_all(struct gateway *g, struct inquiry *q, const struct map_mailbox *box) {
    for (size_t i = 0; i < box->partition_count; i++)
        ask(g, q, box->partitions[i]);
}

static void begin(struct session *s, const Mr__Request *m, enum inquiry_kind kind,
                  const struct map_mailbox *box, usec_t deadline) {
    struct gateway *g = s->gateway;
    struct inquiry *q = xcalloc(1, sizeof *q);
    usec_t patience = loop_now(g->loop) + SHOW_PATIENCE_US;
    q->kind = kind;
    q->number = gateway_next_number(g);
    q->session = s->number;
    q->client_request = m->request;
    q->mailbox = box->id;
    q->deadline = kind == INQUIRY_SHOW && patience < deadline ? patience : deadline;
    q->count = q->left = box->partition_count;
    q->parts = xcalloc(q->count, sizeof *q->parts);
    s->requests++;
    HASH_ADD(hh, g->inquiries, number, sizeof q->number, q);
    ask_all(g, q, box);
}

static void on_inquiry(struct session *s, const Mr__Request *m, enum inquiry_kind kind, const char *name,
                       usec_t deadline) {
    struct gateway *g = s->gateway;
    const struct map_mailbox *box = map_find(&g->map, name);
    char text[ERR_DETAIL_BYTES];
    if (box && map_mailbox_whole(box)) {
        begin(s, m, kind, box, deadline);
        return;
    }
    if (session_park(s, NULL))
        return;
    bool known = g->map.known && !box;
    snprintf(text, sizeof text, "mailbox '%.128s' %s", name,
             known ? "not found" : "is not known to this node yet");
    request_answer(g, s->number, m->request, known ? ERR_NOT_FOUND : ERR_UNAVAILABLE, text);
}

void on_request(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Request *m = header;
    usec_t left = m->deadline_us > 0 ? m->deadline_us : REQUEST_DEADLINE_US;
    usec_t deadline =
        loop_now(s->gateway->loop) + (left < REQUEST_DEADLINE_MAX_US ? left : REQUEST_DEADLINE_MAX_US);
    if (s->requests >= SESSION_REQUESTS_MAX)
        request_answer(s->gateway, s->number, m->request, ERR_BUSY, "as many requests as a session may have");
    else if (m->what_case == MR__REQUEST__WHAT_MAILBOX_SHOW)
        on_inquiry(s, m, INQUIRY_SHOW, m->mailbox_show->name, deadline);
    else if (m->what_case == MR__REQUEST__WHAT_MAILBOX_PURGE)
        on_inquiry(s, m, INQUIRY_PURGE, m->mailbox_purge->name, deadline);
    else if (m->what_case == MR__REQUEST__WHAT__NOT_SET)
        request_answer(s->gateway, s->number, m->request, ERR_INVALID,
                       "a request this release does not know");
    else
        controller_forward(s, m, deadline);
}

/* ---- answering ---- */

/* Node names of a partition's replicas; strings point into the map. */
static void add_replicas(const struct gateway *g, const struct map_partition *p, Mr__PartitionShow *out) {
    out->replicas = xcalloc(p->replica_count + 1, sizeof *out->replicas);
    for (size_t i = 0; i < p->replica_count; i++) {
        const struct map_shard *s = map_find_shard(&g->map, p->replicas[i]);
        out->replicas[out->n_replicas++] = (char *)(uintptr_t)(s ? s->node : "");
    }
}

/* A leader that was cut off or left alone does not know it: the map does. */
static bool says_more(const struct map_partition *p, const char *shown) {
    return strcmp(shown, "ok") == 0 &&
           (strcmp(p->state, "no-majority") == 0 || strcmp(p->state, "quarantined") == 0);
}

/* What the leader said, as far as it did, and what the map knows. */
static void merge(const struct gateway *g, const struct map_partition *p, const Mr__PartitionShow *shown,
                  Mr__PartitionShow *out) {
    mr__partition_show__init(out);
    if (shown)
        *out = *shown;
    const struct map_shard *leader = map_find_shard(&g->map, p->leader);
    out->partition = p->number;
    out->leader = (char *)(uintptr_t)(leader ? leader->node : "");
    if (!shown)
        out->epoch = p->epoch;
    if (!shown || says_more(p, shown->state))
        out->state = (char *)(uintptr_t)p->state;
    add_replicas(g, p, out);
}

static void answer_show(struct gateway *g, struct inquiry *q, const struct map_mailbox *box) {
    struct session *s = sessions_find(g, q->session);
    Mr__Response m = MR__RESPONSE__INIT;
    Mr__MailboxShow show = MR__MAILBOX_SHOW__INIT;
    Mr__Settings settings;
    Mr__PartitionShow *parts = xcalloc(q->count, sizeof *parts);
    settings_to_message(&box->settings, &settings);
    m.request = q->client_request;
    m.what_case = MR__RESPONSE__WHAT_MAILBOX_SHOW;
    m.mailbox_show = &show;
    show.name = (char *)(uintptr_t)box->name;
    show.settings = &settings;
    show.partitions = xcalloc(q->count, sizeof *show.partitions);
    for (size_t i = 0; i < q->count; i++) {
        merge(g, box->partitions[i], q->parts[i].show, &parts[i]);
        show.partitions[show.n_partitions++] = &parts[i];
    }
    if (s && frame_send_response(s->link, &m, NULL, 0) == ERR_TOO_LARGE)
        request_answer(g, q->session, q->client_request, ERR_TOO_LARGE,
                       "the answer is larger than this client takes");
    for (size_t i = 0; i < q->count; i++)
        free(parts[i].replicas);
    free(show.partitions);
    free(parts);
}

static void answer_purge(struct gateway *g, const struct inquiry *q) {
    char text[ERR_DETAIL_BYTES];
    snprintf(text, sizeof text, "%zu of %zu partitions were purged in time, the others have no leader",
             q->count - q->left, q->count);
    request_answer(g, q->session, q->client_request, q->left ? ERR_TIMEOUT : ERR_OK, q->left ? text : "");
}

static void finish(struct gateway *g, struct inquiry *q) {
    const struct map_mailbox *box = map_find_id(&g->map, q->mailbox);
    if (!box)
        request_answer(g, q->session, q->client_request, ERR_NOT_FOUND, "the mailbox was deleted");
    else if (q->kind == INQUIRY_SHOW)
        answer_show(g, q, box);
    else
        answer_purge(g, q);
    inquiry_free(g, q);
}

/* The part of an inquiry that a shard answers, or NULL. */
static struct inquiry_part *answered(struct gateway *g, uint64_t number, uint64_t partition,
                                     struct inquiry **out) {
    const struct map_partition *p = map_find_partition(&g->map, partition);
    struct inquiry *q;
    HASH_FIND(hh, g->inquiries, &number, sizeof number, q);
    if (!q || !p || !p->mailbox || p->mailbox->id != q->mailbox || q->parts[p->number].state == INQUIRY_DONE)
        return NULL;
    *out = q;
    return &q->parts[p->number];
}

static Mr__PartitionShow *copy_of(const Mr__PartitionShow *show) {
    size_t size = mr__partition_show__get_packed_size(show);
    uint8_t *packed = xmalloc(size + 1);
    mr__partition_show__pack(show, packed);
    Mr__PartitionShow *copy = mr__partition_show__unpack(NULL, size, packed);
    free(packed);
    return copy;
}

static void part_done(struct gateway *g, struct inquiry *q, struct inquiry_part *part) {
    part->state = INQUIRY_DONE;
    if (--q->left == 0)
        finish(g, q);
}

void on_partition_shown(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ((struct shard_link *)ctx)->gateway;
    const Mr__PartitionShown *m = header;
    struct inquiry *q;
    struct inquiry_part *part = answered(g, m->request, m->partition, &q);
    if (!part)
        return;
    if (m->code != ERR_OK || !m->show) {
        part->state = INQUIRY_WAITING; /* the tick asks again */
        return;
    }
    part->show = copy_of(m->show);
    part_done(g, q, part);
}

void on_partition_purged(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ((struct shard_link *)ctx)->gateway;
    const Mr__PartitionPurged *m = header;
    struct inquiry *q;
    struct inquiry_part *part = answered(g, m->request, m->partition, &q);
    if (!part)
        return;
    if (m->code == ERR_OK) {
        part_done(g, q, part);
    } else if (err_advice((int)m->code) == ERR_ADVICE_RETRY) {
        part->state = INQUIRY_WAITING;
    } else {
        request_answer(g, q->session, q->client_request, (enum err)m->code, m->text);
        inquiry_free(g, q);
    }
}

/* ---- leaders and time ---- */

void inquiries_leader(struct gateway *g, const struct map_partition *p) {
    struct inquiry *q, *tmp;
    HASH_ITER(hh, g->inquiries, q, tmp) {
        if (p->mailbox && q->mailbox == p->mailbox->id)
            ask(g, q, p);
    }
}

void inquiries_lost(struct gateway *g, const struct map_partition *p) {
    struct inquiry *q, *tmp;
    HASH_ITER(hh, g->inquiries, q, tmp) {
        if (p->mailbox && q->mailbox == p->mailbox->id && q->parts[p->number].state == INQUIRY_ASKED)
            q->parts[p->number].state = INQUIRY_WAITING;
    }
}

void inquiries_tick(struct gateway *g) {
    struct inquiry *q, *tmp;
    usec_t now = loop_now(g->loop);
    HASH_ITER(hh, g->inquiries, q, tmp) {
        const struct map_mailbox *box = map_find_id(&g->map, q->mailbox);
        if (!box || q->deadline <= now)
            finish(g, q);
        else
            ask_all(g, q, box);
    }
}

void inquiries_forget_session(struct gateway *g, const struct session *s) {
    struct inquiry *q, *tmp;
    HASH_ITER(hh, g->inquiries, q, tmp) {
        if (q->session == s->number)
            inquiry_free(g, q);
    }
}

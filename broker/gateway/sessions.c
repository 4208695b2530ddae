// SPDX-License-Identifier: Apache-2.0
/*
 * Client sessions: hello, limits, look-ups, the turn's answers, and their end.
 * A malformed frame or a broken rule ends its session with a Fail that says
 * why, and nothing else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/counters.h"
#include "base/xalloc.h"
#include "gateway/gateway_private.h"

struct session *sessions_find(const struct gateway *g, uint64_t number) {
    struct session *s;
    HASH_FIND(hh, g->sessions, &number, sizeof number, s);
    return s;
}

/* ---- hello ---- */

/* Clients of other nodes may be sent there: addresses of those that live. */
static size_t node_addresses(const struct gateway *g, char **out, size_t max) {
    size_t n = 0;
    for (struct map_node *node = g->map.nodes; node && n < max; node = node->hh.next)
        if (node->client_address[0] && strcmp(node->state, "left") != 0)
            out[n++] = node->client_address;
    return n;
}

static void welcome(struct session *s, const Mr__Hello *hello) {
    struct gateway *g = s->gateway;
    Mr__Welcome m = MR__WELCOME__INIT;
    Mr__Identity identity;
    char *addresses[CONFIG_NODES_MAX];
    struct hello_agreed agreed;
    struct hello ours = hello_ours();
    ours.frame_bytes_max = g->batch_bytes_max + GATEWAY_FRAME_SLACK_BYTES;
    gateway_identity(g, &identity);
    m.identity = &identity;
    m.message_bytes_max = g->message_bytes_max;
    m.window_bytes = g->window_bytes;
    m.addresses = addresses;
    m.n_addresses = node_addresses(g, addresses, CONFIG_NODES_MAX);
    if (hello_answer(s->link, &ours, hello, &m, &agreed) != ERR_OK)
        return;
    snprintf(s->name, sizeof s->name, "%s", hello->name);
    s->greeted = true;
    if (g->stopping) {
        Mr__Goaway away = MR__GOAWAY__INIT;
        away.text = (char *)"this node stops";
        frame_send_goaway(s->link, &away, NULL, 0);
    }
}

/* Before the first map nothing could be answered: the hello waits for it. */
static void on_hello(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    if (s->hello) {
        link_refuse(link, ERR_PROTOCOL, "a second HELLO");
        return;
    }
    if (s->gateway->map.known) {
        welcome(s, header);
        return;
    }
    const ProtobufCMessage *message = header;
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = xmalloc(size ? size : 1);
    protobuf_c_message_pack(message, packed);
    s->hello = mr__hello__unpack(NULL, size, packed);
    free(packed);
    if (!s->hello)
        link_close(link, ERR_NO_MEMORY, "out of memory");
}

static void welcome_waiting(struct session *s) {
    Mr__Hello *hello = s->hello;
    s->hello = NULL;
    welcome(s, hello);
    mr__hello__free_unpacked(hello, NULL);
}

void sessions_map_known(struct gateway *g) {
    struct session *s, *tmp;
    HASH_ITER(hh, g->sessions, s, tmp) {
        if (s->hello)
            welcome_waiting(s);
    }
}

static void on_ping(void *ctx, struct link *link, const void *header, struct body *body) {
    const Mr__Ping *m = header;
    Mr__Pong pong = MR__PONG__INIT;
    pong.sent_at = m->sent_at;
    frame_send_pong(link, &pong, NULL, 0);
}

static void on_pong(void *ctx, struct link *link, const void *header, struct body *body) {
    /* that it came is what counts: link_heard */
}

/* ---- look-ups ---- */

static struct lookup *lookup_of(struct session *s, uint64_t mailbox) {
    for (size_t i = 0; i < s->lookup_count; i++)
        if (s->lookups[i].mailbox == mailbox)
            return &s->lookups[i];
    if (s->lookup_count == SESSION_LOOKUPS_MAX) {
        /* the oldest is told no more: its publisher still routes, by what it knows */
        memmove(s->lookups, s->lookups + 1, --s->lookup_count * sizeof *s->lookups);
    }
    xgrow(&s->lookups, &s->lookup_capacity, s->lookup_count + 1, sizeof *s->lookups);
    s->lookups[s->lookup_count] = (struct lookup){.mailbox = mailbox};
    return &s->lookups[s->lookup_count++];
}

/* malloc'ed; one a partition */
static uint64_t *loads_of(const struct map_mailbox *box) {
    uint64_t *loads = xcalloc(box->partition_count, sizeof *loads);
    for (size_t i = 0; i < box->partition_count; i++)
        loads[i] = box->partitions[i] ? map_partition_load(box->partitions[i]) : 0;
    return loads;
}

static void on_lookup(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Lookup *m = header;
    struct map_mailbox *box = map_find(&s->gateway->map, m->mailbox);
    if (!box || !map_mailbox_whole(box)) {
        if (session_park(s, NULL))
            return;
        bool known = s->gateway->map.known && !box;
        char text[ERR_DETAIL_BYTES];
        snprintf(text, sizeof text, "mailbox '%.128s': %s", m->mailbox,
                 known ? "not found" : "not known to this node yet");
        frame_send_failure(link, m->request, known ? ERR_NOT_FOUND : ERR_UNAVAILABLE, text);
        return;
    }
    Mr__MailboxInfo info = MR__MAILBOX_INFO__INIT;
    info.request = m->request;
    info.mailbox_id = box->id;
    info.name = box->name;
    info.partitions = (uint32_t)box->partition_count;
    info.route = box->settings.route;
    info.dispatch = box->settings.dispatch;
    info.durability = box->settings.durability;
    info.loads = loads_of(box);
    info.n_loads = box->partition_count;
    lookup_of(s, box->id)->version = box->loads_version;
    frame_send_mailbox_info(link, &info, NULL, 0);
    free(info.loads);
}

static void tell_loads(struct session *s) {
    for (size_t i = 0; i < s->lookup_count; i++) {
        struct map_mailbox *box = map_find_id(&s->gateway->map, s->lookups[i].mailbox);
        if (!box || box->loads_version == s->lookups[i].version)
            continue;
        Mr__Loads m = MR__LOADS__INIT;
        m.mailbox_id = box->id;
        m.loads = loads_of(box);
        m.n_loads = box->partition_count;
        frame_send_loads(s->link, &m, NULL, 0);
        free(m.loads);
        s->lookups[i].version = box->loads_version;
    }
}

void sessions_tell_loads(struct gateway *g) {
    struct session *s, *tmp;
    HASH_ITER(hh, g->sessions, s, tmp) {
        if (s->lookup_count > 0 && link_queued_bytes(s->link) < GATEWAY_QUEUE_PAUSE_BYTES)
            tell_loads(s);
    }
}

/* ---- answers to publishes ---- */

struct answer *session_answer(struct session *s, uint64_t request) {
    struct gateway *g = s->gateway;
    if (!s->answering) {
        s->answering = true;
        s->next_answering = g->answering;
        g->answering = s;
    }
    xgrow(&s->answers, &s->answer_capacity, s->answer_count + 1, sizeof *s->answers);
    struct answer *a = &s->answers[s->answer_count++];
    a->request = request;
    a->base_offset = a->last = 0;
    a->duplicate = false;
    a->code = ERR_OK;
    a->text[0] = 0;
    return a;
}

static void receipt_to_message(const struct answer *a, Mr__Receipt *out) {
    mr__receipt__init(out);
    out->request = a->request;
    out->base_offset = a->base_offset;
    out->duplicate = a->duplicate;
}

static void refused_to_message(struct answer *a, Mr__Refused *out) {
    mr__refused__init(out);
    out->request = a->request;
    out->code = a->code;
    out->text = a->text;
    out->last = a->last;
}

static void send_answers(struct session *s) {
    Mr__Receipts m = MR__RECEIPTS__INIT;
    size_t n = s->answer_count;
    Mr__Receipt *receipts = xcalloc(n, sizeof *receipts);
    Mr__Refused *refused = xcalloc(n, sizeof *refused);
    m.receipts = xcalloc(n, sizeof *m.receipts);
    m.refused = xcalloc(n, sizeof *m.refused);
    for (size_t i = 0; i < n; i++) {
        struct answer *a = &s->answers[i];
        if (a->code == ERR_OK) {
            receipt_to_message(a, &receipts[m.n_receipts]);
            m.receipts[m.n_receipts] = &receipts[m.n_receipts];
            m.n_receipts++;
        } else {
            refused_to_message(a, &refused[m.n_refused]);
            m.refused[m.n_refused] = &refused[m.n_refused];
            m.n_refused++;
        }
    }
    frame_send_receipts(s->link, &m, NULL, 0);
    free(m.receipts);
    free(m.refused);
    free(receipts);
    free(refused);
    s->answer_count = 0;
}

void sessions_answer_turn(struct gateway *g) {
    while (g->answering) {
        struct session *s = g->answering;
        g->answering = s->next_answering;
        s->answering = false;
        send_answers(s);
    }
}

/* ---- frames that wait for the map ---- */

bool session_park(struct session *s, struct body *body) {
    struct gateway *g = s->gateway;
    if (s->final || !s->frame || s->parked >= SESSION_PARKED_MAX)
        return false;
    struct parked *p = xcalloc(1, sizeof *p);
    p->session = s;
    p->type = s->frame->type;
    p->header = body_copy(s->frame->header, s->frame->header_size);
    p->body = body_keep(body);
    p->deadline = loop_now(g->loop) + (g->map.known ? SESSION_PARKED_US : SESSION_MAP_WAIT_US);
    if (s->park_until)
        p->deadline = s->park_until;
    s->parked++;
    s->parked_bytes += body ? body->size : 0;
    g->parked_bytes += body ? body->size : 0;
    DL_APPEND(g->parked, p);
    return true;
}

static void unpark(struct gateway *g, struct parked *p) {
    DL_DELETE(g->parked, p);
    p->session->parked--;
    p->session->parked_bytes -= p->body ? p->body->size : 0;
    g->parked_bytes -= p->body ? p->body->size : 0;
    body_drop(p->header);
    body_drop(p->body);
    free(p);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame);

/* Handled as if it came now; what still does not know it parks it again. */
static void retry_parked(struct gateway *g, struct parked *p, bool final) {
    struct session *s = p->session;
    struct body *header = body_keep(p->header), *body = body_keep(p->body);
    struct frame frame = {.type = p->type, .header = header->data, .header_size = header->size, .body = body};
    s->park_until = p->deadline;
    unpark(g, p);
    if (link_is_open(s->link)) {
        s->final = final;
        on_frame(s, s->link, &frame);
        s->final = false;
    }
    s->park_until = 0;
    body_drop(header);
    body_drop(body);
}

void sessions_retry_parked(struct gateway *g, bool map_changed) {
    usec_t now = loop_now(g->loop);
    size_t n = 0;
    struct parked *p;
    DL_COUNT(g->parked, p, n);
    /* those parked again go behind the last of these */
    while (n-- > 0 && g->parked) {
        p = g->parked;
        bool final = p->deadline <= now;
        if (final || map_changed) {
            retry_parked(g, p, final);
        } else {
            DL_DELETE(g->parked, p);
            DL_APPEND(g->parked, p);
        }
    }
}

/* ---- frames ---- */

static const frame_handler from_stranger[FRAME_TYPES] = {
    [FRAME_HELLO] = on_hello,
    [FRAME_PING] = on_ping,
    [FRAME_PONG] = on_pong,
};

static const frame_handler from_client[FRAME_TYPES] = {
    [FRAME_PING] = on_ping,       [FRAME_PONG] = on_pong,           [FRAME_LOOKUP] = on_lookup,
    [FRAME_PUBLISH] = on_publish, [FRAME_SUBSCRIBE] = on_subscribe, [FRAME_UNSUBSCRIBE] = on_unsubscribe,
    [FRAME_CREDIT] = on_credit,   [FRAME_SETTLE] = on_settle,       [FRAME_REQUEST] = on_request,
};

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct session *s = ctx;
    s->frame = frame;
    frame_dispatch(s->greeted ? from_client : from_stranger, s, link, frame);
    s->frame = NULL;
}

/* Slow readers share what may wait: each may have a little, and more while there
 * is room for all. */
void session_queue(struct session *s) {
    struct gateway *g = s->gateway;
    size_t queued = link_queued_bytes(s->link);
    g->queued = g->queued - s->queued + queued;
    s->queued = queued;
    size_t most = g->queued > g->queue_bytes ? GATEWAY_QUEUE_SMALL_BYTES : GATEWAY_QUEUE_PAUSE_BYTES;
    bool pause = queued > most || (s->paused && queued > 0);
    if (pause != s->paused) {
        s->paused = pause;
        consuming_pause(s, pause);
    }
}

static void on_drained(void *ctx, struct link *link) {
    session_queue(ctx);
}

/* ---- coming and going ---- */

static void forget_parked(struct session *s) {
    struct parked *p, *tmp;
    DL_FOREACH_SAFE(s->gateway->parked, p, tmp) {
        if (p->session == s)
            unpark(s->gateway, p);
    }
}

static void forget_answers(struct session *s) {
    if (s->answering)
        LL_DELETE2(s->gateway->answering, s, next_answering);
    free(s->answers);
}

static void session_free(struct session *s) {
    struct gateway *g = s->gateway;
    forget_parked(s);
    forget_answers(s);
    publishes_forget(&g->publishes, s->number);
    settles_forget(&g->settles, s->number);
    consuming_session_gone(s);
    controller_forget_session(g, s);
    inquiries_forget_session(g, s);
    if (s->hello)
        mr__hello__free_unpacked(s->hello, NULL);
    g->queued -= s->queued;
    HASH_DEL(g->sessions, s);
    free(s->lookups);
    free(s);
    counters_sub(COUNTER_sessions, 1);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct session *s = ctx;
    struct gateway *g = s->gateway;
    if (end->cause == LINK_END_PROTOCOL || end->cause == LINK_END_OVERFLOW)
        counters_add(COUNTER_sessions_refused, 1);
    session_free(s);
    if (g->stopping && !g->sessions)
        loop_timer_start(g->loop, &g->stop_timer, loop_now(g->loop));
}

static const struct link_handlers session_handlers = {
    .frame = on_frame, .closed = on_closed, .drained = on_drained, .refusing = frame_say_why};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct gateway *g = ctx;
    if (HASH_COUNT(g->sessions) >= GATEWAY_SESSIONS_MAX) {
        counters_add(COUNTER_sessions_refused, 1);
        frame_send_failure(link, 0, ERR_BUSY, "as many sessions as the gateway takes");
        link_close(link, ERR_BUSY, "as many sessions as the gateway takes");
        return;
    }
    struct session *s = xcalloc(1, sizeof *s);
    s->gateway = g;
    s->link = link;
    s->number = gateway_next_number(g);
    s->opened = loop_now(g->loop);
    HASH_ADD(hh, g->sessions, number, sizeof s->number, s);
    link_attach(link, &session_handlers, s);
    counters_add(COUNTER_sessions, 1);
    counters_add(COUNTER_sessions_opened, 1);
}

static void end_session(struct session *s, enum err code, const char *text) {
    frame_send_failure(s->link, 0, code, text);
    link_close(s->link, code, text);
}

static void scan_one(struct session *s, usec_t now) {
    usec_t quiet = now - link_heard(s->link);
    Mr__Ping ping = MR__PING__INIT;
    if (!link_is_open(s->link))
        return;
    if (!s->greeted && now - s->opened > HELLO_TIMEOUT_USEC) {
        end_session(s, ERR_TIMEOUT, "no HELLO in time");
    } else if (s->hello && now - s->opened > SESSION_MAP_WAIT_US) {
        welcome_waiting(s);
    } else if (s->greeted && quiet > SESSION_SILENCE_US) {
        end_session(s, ERR_TIMEOUT, "nothing heard for too long");
    } else if (s->greeted && quiet > SESSION_PING_US && now - s->pinged > SESSION_PING_US) {
        s->pinged = ping.sent_at = now;
        frame_send_ping(s->link, &ping, NULL, 0);
    }
}

/* Frames that are begun and not ended hold memory: the largest go when all
 * together hold too much. */
static void shed_partial(struct gateway *g, size_t total) {
    while (total > g->partial_bytes) {
        struct session *s, *tmp, *largest = NULL;
        HASH_ITER(hh, g->sessions, s, tmp) {
            if (link_is_open(s->link) &&
                (!largest || link_partial_bytes(s->link) > link_partial_bytes(largest->link)))
                largest = s;
        }
        if (!largest || link_partial_bytes(largest->link) == 0)
            return;
        total -= link_partial_bytes(largest->link);
        end_session(largest, ERR_NO_MEMORY,
                    "too many unfinished frames at this gateway, this is the largest");
    }
}

void sessions_scan(struct gateway *g) {
    struct session *s, *tmp;
    size_t partial = 0;
    /* who woke late judges nobody by it */
    usec_t now = loop_now(g->loop) - loop_late(g->loop);
    HASH_ITER(hh, g->sessions, s, tmp) {
        scan_one(s, now);
        if (link_is_open(s->link))
            partial += link_partial_bytes(s->link);
    }
    shed_partial(g, partial);
}

void sessions_goaway(struct gateway *g, const char *why) {
    struct session *s, *tmp;
    Mr__Goaway m = MR__GOAWAY__INIT;
    m.text = (char *)(uintptr_t)why;
    HASH_ITER(hh, g->sessions, s, tmp) {
        if (s->greeted)
            frame_send_goaway(s->link, &m, NULL, 0);
        else
            link_close(s->link, ERR_CLOSED, why);
    }
}

static const struct link_handlers no_handlers;
static const struct listener_handlers listener_handlers = {.accepted = on_accepted};

bool sessions_open(struct gateway *g, const char *url, struct err_detail *detail) {
    size_t frame_bytes = g->batch_bytes_max + GATEWAY_FRAME_SLACK_BYTES;
    struct listener_options options = {
        .handlers = &listener_handlers,
        .ctx = g,
        .link = {.frame_bytes = frame_bytes, .header_bytes = SESSION_HEADER_BYTES_MAX}};
    if (options.link.header_bytes > frame_bytes)
        options.link.header_bytes = frame_bytes;
    g->listener = listener_open(g->loop, url, &options, detail);
    if (g->listener)
        snprintf(g->url, sizeof g->url, "%s", listener_url(g->listener));
    return g->listener != NULL;
}

void sessions_close(struct gateway *g) {
    struct session *s, *tmp;
    if (g->listener)
        listener_close(g->listener);
    g->listener = NULL;
    HASH_ITER(hh, g->sessions, s, tmp) {
        struct link *link = s->link;
        session_free(s);
        link_attach(link, &no_handlers, NULL);
        link_close(link, ERR_CLOSED, "this node stops");
    }
}

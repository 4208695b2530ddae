// SPDX-License-Identifier: Apache-2.0
/*
 * The session: one connection to one gateway.
 *
 *   dial -> Hello -> Welcome: open. What is unanswered is sent again: mailboxes
 *   are looked up anew, consumers subscribe with what they hold, batches,
 *   settlements and requests follow, with the numbers they had.
 *
 * A GOAWAY opens the next session first; when that is open the old one is let
 * go and the same happens. A peer that is silent past SESSION_SILENT_USEC, or
 * breaks the protocol, is left.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "client/lib/client.h"
#include "wire/hello.h"

#define SESSION_PING_USEC         (500 * USEC_MS)  /* of silence, then ask */
#define SESSION_SILENT_USEC       (1500 * USEC_MS) /* of silence, then leave */
#define SESSION_HELLO_USEC        (2 * USEC_S)     /* from the dial to Welcome */
#define SESSION_LASTED_USEC       (1 * USEC_S)     /* open as long: the next dial goes out at once */
#define SESSION_BATCH_BYTES       (256 * KIB)      /* largest batch of several messages */
#define SESSION_FRAME_SLACK_BYTES 4096             /* of a frame: head and header */
#define SESSION_WINDOW_DEFAULT    (16 * MIB)

bool session_is_open(const mr_client *c) {
    return c->session && c->session->state == SESSION_OPEN;
}

static void trouble(mr_client *c, const char *address, const char *text) {
    snprintf(c->trouble, sizeof c->trouble, "%.60s: %.90s", address, text);
}

/* --- what comes in --------------------------------------------------------- */

static size_t within(uint64_t announced, size_t fallback, size_t most) {
    size_t n = announced ? (size_t)announced : fallback;
    return n < most ? n : most;
}

static void session_limits(struct session *s, const Mr__Welcome *m, const struct hello_agreed *agreed) {
    s->frame_bytes = agreed->send_bytes_max;
    s->message_bytes =
        within(m->message_bytes_max, s->frame_bytes, s->frame_bytes - SESSION_FRAME_SLACK_BYTES);
    s->batch_bytes = within(s->message_bytes, SESSION_BATCH_BYTES, SESSION_BATCH_BYTES);
    s->window = within(m->window_bytes, SESSION_WINDOW_DEFAULT, SIZE_MAX);
    if (s->batch_bytes > s->window)
        s->batch_bytes = s->window;
}

/* Everything that was on its way in the session before has to go again. */
static void session_moved(mr_client *c) {
    sender_lost(c);
    consumers_lost(c);
    calls_lost(c);
}

static void session_adopt(struct session *s) {
    mr_client *c = s->client;
    struct session *old = c->session;
    c->session = s;
    c->next = NULL;
    c->ever_open = true;
    c->trouble[0] = 0;
    connector_opened(&c->connector);
    session_moved(c);
    if (old) {
        link_kill(old->link);
        free(old);
    }
    client_wake(c, 0);
    pthread_cond_broadcast(&c->changed);
}

static void on_welcome(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Welcome *m = header;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    if (s->state != SESSION_HELLO) {
        session_refuse(s, "WELCOME twice");
        return;
    }
    if (hello_welcomed(link, &ours, m, &agreed) != ERR_OK)
        return;
    session_limits(s, m, &agreed);
    s->state = SESSION_OPEN;
    s->since = loop_now(s->client->loop);
    connector_learn(&s->client->connector, m->addresses, m->n_addresses);
    session_adopt(s);
}

/* A session that is refused for good, before there ever was one: waiting would
 * not help, so what waits is told. */
static void session_denied(struct session *s, int code, const char *text) {
    mr_client *c = s->client;
    trouble(c, s->address, text);
    if (c->ever_open || err_advice(code) != ERR_ADVICE_FATAL)
        return;
    publish_fail_all(c, code, text);
    calls_fail_all(c, code, text);
    consumers_cut(c, code, text);
}

static void on_fail(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    mr_client *c = s->client;
    const Mr__Fail *m = header;
    int code = m->code ? (int)m->code : MR_EPROTOCOL;
    if (m->request == 0) {
        session_denied(s, code, m->text);
        link_close(link, ERR_CLOSED, m->text);
        return;
    }
    if (s != c->session)
        return;
    if (!lookup_failed(c, m->request, code, m->text) && !subscribe_failed(c, m->request, code, m->text))
        settle_failed(c, m->request);
}

static void on_goaway(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    const Mr__Goaway *m = header;
    s->going = true;
    trouble(s->client, s->address, m->text);
    connector_away(&s->client->connector);
    client_wake(s->client, 0);
}

static void on_ping(void *ctx, struct link *link, const void *header, struct body *body) {
    const Mr__Ping *m = header;
    Mr__Pong pong = MR__PONG__INIT;
    pong.sent_at = m->sent_at;
    frame_send_pong(link, &pong, NULL, 0);
}

static void on_pong(void *ctx, struct link *link, const void *header, struct body *body) {
}

#define FORWARD(function, type)                                                                              \
    static void take_##function(void *ctx, struct link *link, const void *header, struct body *body) {       \
        const type *m = header;                                                                              \
        function(ctx, m);                                                                                    \
    }
FORWARD(on_mailbox_info, Mr__MailboxInfo)
FORWARD(on_loads, Mr__Loads)
FORWARD(on_receipts, Mr__Receipts)
FORWARD(on_subscribed, Mr__Subscribed)
FORWARD(on_settled, Mr__Settled)
FORWARD(on_consumer_end, Mr__ConsumerEnd)
FORWARD(on_response, Mr__Response)

static void take_delivery(void *ctx, struct link *link, const void *header, struct body *body) {
    on_delivery(ctx, header, body);
}

static const frame_handler before_welcome[FRAME_TYPES] = {
    [FRAME_WELCOME] = on_welcome, [FRAME_FAIL] = on_fail,     [FRAME_PING] = on_ping,
    [FRAME_PONG] = on_pong,       [FRAME_GOAWAY] = on_goaway,
};

static const frame_handler in_session[FRAME_TYPES] = {
    [FRAME_FAIL] = on_fail,
    [FRAME_GOAWAY] = on_goaway,
    [FRAME_PING] = on_ping,
    [FRAME_PONG] = on_pong,
    [FRAME_MAILBOX_INFO] = take_on_mailbox_info,
    [FRAME_LOADS] = take_on_loads,
    [FRAME_RECEIPTS] = take_on_receipts,
    [FRAME_SUBSCRIBED] = take_on_subscribed,
    [FRAME_DELIVERY] = take_delivery,
    [FRAME_SETTLED] = take_on_settled,
    [FRAME_CONSUMER_END] = take_on_consumer_end,
    [FRAME_RESPONSE] = take_on_response,
};

/* --- the link's handlers: here the lock is taken --------------------------- */

static void on_opened(void *ctx, struct link *link) {
    struct session *s = ctx;
    client_lock(s->client);
    struct hello ours = hello_ours();
    Mr__Hello m = MR__HELLO__INIT;
    m.product = "mailroom " MR_VERSION;
    m.name = s->client->name;
    s->state = SESSION_HELLO;
    hello_send(link, &ours, &m);
    client_unlock(s->client);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct session *s = ctx;
    mr_client *c = s->client;
    client_lock(c);
    frame_dispatch(s->state == SESSION_OPEN ? in_session : before_welcome, s, link, frame);
    client_unlock(c);
}

static void session_gone(struct session *s, const char *text) {
    mr_client *c = s->client;
    usec_t now = loop_now(c->loop);
    if (!c->trouble[0] || text)
        trouble(c, s->address, text);
    if (s == c->session) {
        c->session = NULL;
        session_moved(c);
        connector_lost(c, now - s->since > SESSION_LASTED_USEC, now);
    } else {
        c->next = NULL;
        connector_failed(c, now);
    }
    free(s);
    client_wake(c, 0);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct session *s = ctx;
    mr_client *c = s->client;
    client_lock(c);
    session_gone(s, end->text);
    /* The turn is over already: have another one. */
    client_kick(c);
    client_unlock(c);
}

static const struct link_handlers handlers = {.opened = on_opened, .frame = on_frame, .closed = on_closed};

void session_refuse(struct session *s, const char *format, ...) {
    char text[ERR_DETAIL_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    link_refuse(s->link, ERR_PROTOCOL, "%s", text);
}

/* --- time ------------------------------------------------------------------ */

static void session_dial(mr_client *c, usec_t now) {
    const char *url = connector_next(c, now);
    if (!url)
        return;
    struct session *s = xcalloc(1, sizeof *s);
    s->client = c;
    s->since = now;
    snprintf(s->address, sizeof s->address, "%s", url);
    struct link_options options = {.handlers = &handlers,
                                   .ctx = s,
                                   .frame_bytes = FRAME_BYTES_DEFAULT,
                                   .header_bytes = FRAME_HEADER_BYTES_MAX,
                                   .dial_timeout = SESSION_HELLO_USEC};
    options.queued_bytes = 4 * c->buffer_max + 64 * MIB; /* kept far below by window and buffer */
    struct err_detail detail;
    s->link = link_dial(c->loop, url, &options, &detail);
    if (s->link) {
        c->next = s;
        client_wake(c, now + SESSION_HELLO_USEC + 1);
        return;
    }
    trouble(c, url, detail.text);
    free(s);
    connector_failed(c, now);
}

/* Take a session down whose peer does not speak. */
static void session_leave(struct session *s, const char *text) {
    link_kill(s->link);
    session_gone(s, text);
}

static void session_watch(struct session *s, usec_t now) {
    usec_t heard = link_heard(s->link);
    usec_t quiet = heard > s->pinged ? heard : s->pinged;
    if (now - heard > SESSION_SILENT_USEC + loop_late(s->client->loop)) {
        session_leave(s, "silent for too long");
        return;
    }
    if (now - quiet >= SESSION_PING_USEC) {
        Mr__Ping ping = MR__PING__INIT;
        ping.sent_at = now;
        frame_send_ping(s->link, &ping, NULL, 0);
        s->pinged = quiet = now;
    }
    client_wake(s->client, quiet + SESSION_PING_USEC);
}

void session_tick(mr_client *c, usec_t now) {
    if (c->session)
        session_watch(c->session, now);
    if (c->next && now - c->next->since > SESSION_HELLO_USEC + loop_late(c->loop))
        session_leave(c->next, "no answer to hello in time");
    if (c->next) {
        client_wake(c, c->next->since + SESSION_HELLO_USEC + 1);
        return;
    }
    if (!c->session || c->session->going)
        session_dial(c, now);
}

static const struct link_handlers no_handlers;

void session_end(mr_client *c) {
    struct session *both[] = {c->session, c->next};
    c->session = c->next = NULL;
    for (int i = 0; i < 2; i++) {
        if (!both[i])
            continue;
        /* one that is ending already could take longer than the client waits for it */
        if (both[i]->state == SESSION_OPEN && link_is_open(both[i]->link)) {
            link_attach(both[i]->link, &no_handlers, NULL);
            link_close(both[i]->link, ERR_OK, "bye");
        } else {
            link_kill(both[i]->link);
        }
        free(both[i]);
    }
}

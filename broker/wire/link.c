// SPDX-License-Identifier: Apache-2.0
/*
 * Lifecycle of a link.
 *
 *   dialing --connected--> open --link_close--> closing --written--> dead
 *      '------refused, timeout------.----peer gone, error----.--------^
 *
 * dead: the stream is closed, which completes what is in flight; the end is
 * reported at the end of the turn; freed when both has happened.
 */
#include "wire/link.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "wire/link_private.h"

static const struct link_handlers no_handlers;

const char *link_cause_name(enum link_cause cause) {
    static const char *const names[] = {
        [LINK_END_LOCAL] = "closed here", [LINK_END_PEER] = "closed by peer",
        [LINK_END_REFUSED] = "refused",   [LINK_END_TIMEOUT] = "timed out",
        [LINK_END_PROTOCOL] = "protocol", [LINK_END_OVERFLOW] = "overflow",
        [LINK_END_FAILED] = "failed",
    };
    return names[cause];
}

/* --- making --------------------------------------------------------------- */

static void set_defaults(struct link_options *o) {
    if (!o->handlers)
        o->handlers = &no_handlers;
    if (!o->frame_bytes)
        o->frame_bytes = LINK_FRAME_BYTES_DEFAULT;
    if (!o->header_bytes)
        o->header_bytes = LINK_HEADER_BYTES_DEFAULT;
    if (!o->queued_bytes)
        o->queued_bytes = LINK_QUEUED_BYTES_DEFAULT;
    if (!o->dial_timeout)
        o->dial_timeout = LINK_DIAL_USEC_DEFAULT;
    if (!o->close_timeout)
        o->close_timeout = LINK_CLOSE_USEC_DEFAULT;
}

/* nng's threads: nothing but the post, which must come last. */
static void on_recv_done(void *arg) {
    struct link *link = arg;
    loop_post(link->loop, &link->received);
}

static void on_send_done(void *arg) {
    struct link *link = arg;
    loop_post(link->loop, &link->sent);
}

static nng_aio *aio_new(void (*done)(void *), struct link *link) {
    nng_aio *aio;
    CHECK(nng_aio_alloc(&aio, done, link) == 0);
    nng_aio_set_timeout(aio, NNG_DURATION_INFINITE); /* deadlines are the loop's */
    return aio;
}

static void on_deferred(struct loop_deferred *deferred);
static void on_deadline(struct loop_timer *timer);

static struct link *link_make(struct loop *loop, const struct link_options *options) {
    struct link *link = xcalloc(1, sizeof *link);
    link->loop = loop;
    if (options)
        link->options = *options;
    set_defaults(&link->options);
    link->send_bytes = LINK_FRAME_BYTES_DEFAULT;
    link->received.fire = on_link_received;
    link->sent.fire = on_link_sent;
    link->deferred.fire = on_deferred;
    link->deadline.fire = on_deadline;
    link->rx.heard = loop_now(loop);
    link->recv_aio = aio_new(on_recv_done, link);
    link->send_aio = aio_new(on_send_done, link);
    loop->attached++;
    loop->stats->links++;
    return link;
}

static void name_ipc_peer(struct link *link) {
    uint64_t pid = 0, uid = 0;
    nng_stream_get_uint64(link->stream, NNG_OPT_IPC_PEER_PID, &pid);
    nng_stream_get_uint64(link->stream, NNG_OPT_IPC_PEER_UID, &uid);
    snprintf(link->peer, sizeof link->peer, "pid %llu uid %llu", (unsigned long long)pid,
             (unsigned long long)uid);
}

/* False while it has no peer: nng's dial can succeed before the connection does. */
static bool name_peer(struct link *link) {
    nng_sockaddr sa;
    char text[INET6_ADDRSTRLEN] = "";
    int rv = nng_stream_get_addr(link->stream, NNG_OPT_REMADDR, &sa);
    if (rv != 0)
        return rv == NNG_ENOTSUP;
    if (sa.s_family == NNG_AF_INET) {
        inet_ntop(AF_INET, &sa.s_in.sa_addr, text, sizeof text);
        snprintf(link->peer, sizeof link->peer, "%s:%u", text, ntohs(sa.s_in.sa_port));
    } else if (sa.s_family == NNG_AF_INET6) {
        inet_ntop(AF_INET6, sa.s_in6.sa_addr, text, sizeof text);
        snprintf(link->peer, sizeof link->peer, "[%s]:%u", text, ntohs(sa.s_in6.sa_port));
    } else if (sa.s_family == NNG_AF_IPC || sa.s_family == NNG_AF_ABSTRACT) {
        name_ipc_peer(link);
    }
    return true;
}

static void become_open(struct link *link) {
    link->state = LINK_OPEN;
    link->loop->stats->links_opened++;
    nng_stream_set_bool(link->stream, NNG_OPT_TCP_NODELAY, true); /* not for ipc, which has no such delay */
}

struct link *link_adopt(struct loop *loop, nng_stream *stream, const struct link_options *options) {
    struct link *link = link_make(loop, options);
    link->stream = stream;
    name_peer(link);
    become_open(link);
    return link;
}

/* --- dialling ---------------------------------------------------------------
 *
 * nng looks at a connection that is under way through a poller that may report a
 * stale hang-up, and takes "no error yet" for "connected". So a stream without a
 * peer is watched until it has one, fails (then it is dialled again, to learn
 * how) or the time is over.
 */

static void dialer_drop(struct link *link) {
    if (!link->dialer)
        return;
    nng_stream_dialer_close(link->dialer);
    nng_stream_dialer_free(link->dialer);
    link->dialer = NULL;
}

static void dial_post(struct link *link) {
    link->tx.in_flight = true;
    nng_stream_dialer_dial(link->dialer, link->send_aio);
}

/* Look again soon: at a stream without a peer, or at an ipc listener whose
 * queue was full. */
static void dial_later(struct link *link) {
    usec_t next = loop_now(link->loop) + LINK_DIAL_AGAIN_USEC;
    loop_timer_start(link->loop, &link->deadline, next < link->dial_until ? next : link->dial_until);
}

void link_connected(struct link *link) {
    loop_timer_stop(link->loop, &link->deadline);
    dialer_drop(link);
    link->sent.fire = on_link_sent;
    name_peer(link);
    become_open(link);
    if (link->options.handlers->opened)
        link->options.handlers->opened(link->options.ctx, link);
    loop_defer(link->loop, &link->deferred);
}

void link_not_connected(struct link *link) {
    nng_stream_close(link->stream);
    nng_stream_free(link->stream);
    link->stream = NULL;
    dial_later(link);
}

/* The send aio carries the dial. */
static void on_dialled(struct loop_event *event) {
    struct link *link = container_of(event, struct link, sent);
    int rv = nng_aio_result(link->send_aio);
    link->tx.in_flight = false;
    if (rv == 0)
        link->stream = nng_aio_get_output(link->send_aio, 0);
    if (link->state == LINK_DEAD) { /* too late: the stream is ours all the same */
        if (link->stream)
            nng_stream_close(link->stream);
        link_settle(link);
    } else if (rv == NNG_EAGAIN) {
        dial_later(link);
    } else if (rv != 0) {
        link_die(link, wire_cause(rv), wire_code(rv), nng_strerror(rv));
    } else if (name_peer(link)) {
        link_connected(link);
        if (link->state != LINK_DEAD)
            link_rx_post(link);
    } else {
        link_rx_post(link);
        dial_later(link);
    }
}

static void on_dial_deadline(struct link *link) {
    if (loop_now(link->loop) >= link->dial_until) {
        link_die(link, LINK_END_TIMEOUT, ERR_TIMEOUT, "no answer to the dial in time");
    } else if (!link->stream) {
        loop_timer_start(link->loop, &link->deadline, link->dial_until);
        dial_post(link);
    } else if (name_peer(link)) {
        link_connected(link);
    } else {
        dial_later(link);
    }
}

struct link *link_dial(struct loop *loop, const char *url, const struct link_options *options,
                       struct err_detail *detail) {
    nng_stream_dialer *dialer;
    int rv = nng_stream_dialer_alloc(&dialer, url);
    if (rv != 0) {
        err_set(detail, ERR_INVALID, "cannot dial %s: %s", url, nng_strerror(rv));
        return NULL;
    }
    struct link *link = link_make(loop, options);
    link->state = LINK_DIALING;
    link->dialer = dialer;
    link->flat = strncmp(url, "tls+", 4) == 0;
    snprintf(link->peer, sizeof link->peer, "%s", url);
    nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_NODELAY, true);
    link->sent.fire = on_dialled;
    link->dial_until = loop_now(loop) + link->options.dial_timeout;
    loop_timer_start(loop, &link->deadline, link->dial_until);
    dial_post(link);
    return link;
}

/* --- ending --------------------------------------------------------------- */

void link_arm(struct link *link, usec_t after) {
    loop_timer_start(link->loop, &link->deadline, loop_now(link->loop) + after);
}

static void set_end(struct link *link, enum link_cause cause, enum err code, const char *text) {
    if (link->end_cause)
        return;
    link->end_cause = cause;
    err_set(&link->end, code, "%s", text);
}

struct link_end link_end_of(const struct link *link) {
    return (struct link_end){.cause = link->end_cause, .code = link->end.code, .text = link->end.text};
}

void link_die(struct link *link, enum link_cause cause, enum err code, const char *text) {
    if (link->state == LINK_DEAD)
        return;
    set_end(link, cause, code, text);
    link->loop->stats->links_closed += link->state != LINK_DIALING;
    link->state = LINK_DEAD;
    loop_timer_stop(link->loop, &link->deadline);
    if (link->stream)
        nng_stream_close(link->stream);
    if (link->dialer)
        nng_stream_dialer_close(link->dialer);
    loop_defer(link->loop, &link->deferred);
}

static void link_free(struct link *link) {
    struct loop *loop = link->loop;
    loop_timer_stop(loop, &link->deadline);
    loop_defer_cancel(loop, &link->deferred);
    nng_aio_free(link->recv_aio);
    nng_aio_free(link->send_aio);
    dialer_drop(link);
    if (link->stream)
        nng_stream_free(link->stream);
    link_rx_free(link);
    link_tx_free(link);
    loop->attached--;
    loop->stats->links--;
    free(link);
}

void link_settle(struct link *link) {
    if (link->state == LINK_DEAD && link->reported && !link->rx.in_flight && !link->tx.in_flight)
        link_free(link);
}

/* End of a turn: report a dead link, write a living one's queue. */
static void on_deferred(struct loop_deferred *deferred) {
    struct link *link = container_of(deferred, struct link, deferred);
    if (link->state != LINK_DEAD) {
        link_tx_flush(link);
        return;
    }
    if (!link->reported) {
        link->reported = true;
        struct link_end end = link_end_of(link);
        if (link->options.handlers->closed)
            link->options.handlers->closed(link->options.ctx, link, &end);
        link->options.handlers = &no_handlers;
    }
    link_settle(link);
}

/* The close took too long. Who closed it hears that frames were lost. */
static void die_unsent(struct link *link) {
    if (link->end_cause == LINK_END_LOCAL)
        link->end_cause = 0;
    link_die(link, LINK_END_LOCAL, ERR_TIMEOUT, "closed with frames unsent: the peer does not read");
}

static void on_deadline(struct loop_timer *timer) {
    struct link *link = container_of(timer, struct link, deadline);
    if (link->state == LINK_DIALING)
        on_dial_deadline(link);
    else if (link->rx.ending || link->tx.failed)
        link_die(link, LINK_END_PEER, ERR_CLOSED, "connection lost");
    else
        die_unsent(link);
}

/* Stop taking frames, write the queue, then die. */
static void begin_close(struct link *link) {
    if (link->state == LINK_DIALING) {
        link_die(link, link->end_cause, link->end.code, link->end.text);
        return;
    }
    link->state = LINK_CLOSING;
    link_arm(link, link->lingers ? LINK_LINGER_USEC : link->options.close_timeout);
    loop_defer(link->loop, &link->deferred);
}

void link_close(struct link *link, enum err code, const char *text) {
    if (link->state == LINK_CLOSING || link->state == LINK_DEAD)
        return;
    set_end(link, LINK_END_LOCAL, code, text);
    begin_close(link);
}

void link_refuse(struct link *link, enum err code, const char *format, ...) {
    if (link->state == LINK_CLOSING || link->state == LINK_DEAD)
        return;
    char text[ERR_DETAIL_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    set_end(link, LINK_END_PROTOCOL, code, text);
    struct link_end end = link_end_of(link);
    if (link->options.handlers->refusing)
        link->options.handlers->refusing(link->options.ctx, link, &end);
    if (link->state != LINK_OPEN)
        return;
    link->lingers = link->tx.count > 0;
    begin_close(link);
}

void link_kill(struct link *link) {
    link->options.handlers = &no_handlers;
    link_die(link, LINK_END_LOCAL, ERR_OK, "killed");
}

/* --- asking --------------------------------------------------------------- */

void link_attach(struct link *link, const struct link_handlers *handlers, void *ctx) {
    link->options.handlers = handlers ? handlers : &no_handlers;
    link->options.ctx = ctx;
}

void *link_ctx(const struct link *link) {
    return link->options.ctx;
}

struct loop *link_loop(const struct link *link) {
    return link->loop;
}

const char *link_peer(const struct link *link) {
    return link->peer;
}

bool link_is_open(const struct link *link) {
    return link->state == LINK_OPEN && !link->tx.failed;
}

usec_t link_heard(const struct link *link) {
    return link->rx.heard;
}

void link_limit(struct link *link, size_t receive_bytes, size_t send_bytes) {
    if (receive_bytes)
        link->options.frame_bytes = receive_bytes;
    if (send_bytes)
        link->send_bytes = send_bytes;
}

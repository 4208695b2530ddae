// SPDX-License-Identifier: Apache-2.0
#include "wire/listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "wire/link_private.h"

/*
 * Accepts are submitted again by nng's thread, so that a crowd that knocks does
 * not wait for the loop's turns (the kernel's queue is 128 long, and who finds
 * it full comes back a second later). The streams go to the loop as events of
 * their own, the accept's own event only when it has failed. So when the last
 * accept's event is there, after a close, no stream is behind it.
 */
struct accept {
    struct listener *listener;
    nng_aio *aio;
    struct loop_event failed;
    bool in_flight; /* as the loop sees it: until `failed` */
};

struct arrival {
    struct loop_event event;
    struct listener *listener;
    nng_stream *stream;
};

struct listener {
    struct loop *loop;
    struct listener_options options;
    nng_stream_listener *stream;
    struct accept accepts[LISTENER_ACCEPTS];
    struct loop_timer retry;
    struct loop_deferred deferred;
    uint64_t failures;
    bool closing;
    bool flat;
    char url[LINK_PEER_BYTES];
};

static void accept_post(struct accept *accept) {
    accept->in_flight = true;
    nng_stream_listener_accept(accept->listener->stream, accept->aio);
}

static void on_retry(struct loop_timer *timer) {
    struct listener *listener = container_of(timer, struct listener, retry);
    for (int i = 0; i < LISTENER_ACCEPTS; i++)
        if (!listener->accepts[i].in_flight)
            accept_post(&listener->accepts[i]);
}

static void listener_free(struct listener *listener) {
    for (int i = 0; i < LISTENER_ACCEPTS; i++)
        nng_aio_free(listener->accepts[i].aio);
    nng_stream_listener_free(listener->stream);
    loop_timer_stop(listener->loop, &listener->retry);
    loop_defer_cancel(listener->loop, &listener->deferred);
    listener->loop->attached--;
    free(listener);
}

static void on_deferred(struct loop_deferred *deferred) {
    struct listener *listener = container_of(deferred, struct listener, deferred);
    for (int i = 0; i < LISTENER_ACCEPTS; i++)
        if (listener->accepts[i].in_flight)
            return;
    if (listener->options.handlers && listener->options.handlers->closed)
        listener->options.handlers->closed(listener->options.ctx, listener);
    listener_free(listener);
}

static void take_stream(struct listener *listener, nng_stream *stream) {
    struct link *link = link_adopt(listener->loop, stream, &listener->options.link);
    link->flat = listener->flat;
    if (listener->options.handlers && listener->options.handlers->accepted)
        listener->options.handlers->accepted(listener->options.ctx, listener, link);
    if (link->state == LINK_OPEN || link->state == LINK_CLOSING)
        link_rx_post(link);
}

static void on_arrived(struct loop_event *event) {
    struct arrival *arrival = container_of(event, struct arrival, event);
    if (arrival->listener->closing)
        nng_stream_free(arrival->stream);
    else
        take_stream(arrival->listener, arrival->stream);
    free(arrival);
}

static void on_accept_failed(struct loop_event *event) {
    struct accept *accept = container_of(event, struct accept, failed);
    struct listener *listener = accept->listener;
    accept->in_flight = false;
    if (listener->closing) {
        loop_defer(listener->loop, &listener->deferred);
        return;
    }
    listener->failures++;
    if (!loop_timer_started(&listener->retry))
        loop_timer_start(listener->loop, &listener->retry, loop_now(listener->loop) + LISTENER_RETRY_USEC);
}

/* nng's thread. What is submitted or posted last may run at once elsewhere. */
static void on_accept_done(void *arg) {
    struct accept *accept = arg;
    struct listener *listener = accept->listener;
    if (nng_aio_result(accept->aio) != 0) {
        loop_post(listener->loop, &accept->failed);
        return;
    }
    struct arrival *arrival = xmalloc(sizeof *arrival);
    *arrival = (struct arrival){.event.fire = on_arrived, .listener = listener};
    arrival->stream = nng_aio_get_output(accept->aio, 0);
    loop_post(listener->loop, &arrival->event);
    nng_stream_listener_accept(listener->stream, accept->aio);
}

static enum err listen_code(int rv) {
    if (rv == NNG_EADDRINUSE)
        return ERR_BUSY;
    enum err code = wire_code(rv);
    return code == ERR_CLOSED ? ERR_IO : code;
}

static nng_stream_listener *bind_stream(const char *url, const struct listener_options *options,
                                        struct err_detail *detail) {
    nng_stream_listener *stream;
    int rv = nng_stream_listener_alloc(&stream, url);
    if (rv != 0) {
        err_set(detail, ERR_INVALID, "cannot listen on %s: %s", url, nng_strerror(rv));
        return NULL;
    }
    nng_stream_listener_set_bool(stream, NNG_OPT_TCP_NODELAY, true);
    if (options->ipc_mode)
        nng_stream_listener_set_int(stream, NNG_OPT_IPC_PERMISSIONS, options->ipc_mode);
    rv = nng_stream_listener_listen(stream);
    if (rv == 0)
        return stream;
    err_set(detail, listen_code(rv), "cannot listen on %s: %s", url, nng_strerror(rv));
    nng_stream_listener_free(stream);
    return NULL;
}

/* With port 0, put in the port the system chose. */
static void name_url(struct listener *listener, const char *url) {
    snprintf(listener->url, sizeof listener->url, "%s", url);
    char *colon = strrchr(listener->url, ':');
    int port;
    if (strncmp(url, "ipc", 3) == 0 || !colon || strcmp(colon, ":0") != 0)
        return;
    if (nng_stream_listener_get_int(listener->stream, NNG_OPT_TCP_BOUND_PORT, &port) == 0)
        snprintf(colon + 1, sizeof listener->url - (size_t)(colon + 1 - listener->url), "%d", port);
}

struct listener *listener_open(struct loop *loop, const char *url, const struct listener_options *options,
                               struct err_detail *detail) {
    nng_stream_listener *stream = bind_stream(url, options, detail);
    if (!stream)
        return NULL;
    struct listener *listener = xcalloc(1, sizeof *listener);
    listener->loop = loop;
    listener->options = *options;
    listener->stream = stream;
    listener->flat = strncmp(url, "tls+", 4) == 0;
    listener->retry.fire = on_retry;
    listener->deferred.fire = on_deferred;
    name_url(listener, url);
    loop->attached++;
    for (int i = 0; i < LISTENER_ACCEPTS; i++) {
        struct accept *accept = &listener->accepts[i];
        accept->listener = listener;
        accept->failed.fire = on_accept_failed;
        CHECK(nng_aio_alloc(&accept->aio, on_accept_done, accept) == 0);
        nng_aio_set_timeout(accept->aio, NNG_DURATION_INFINITE);
        accept_post(accept);
    }
    return listener;
}

const char *listener_url(const struct listener *listener) {
    return listener->url;
}

uint64_t listener_failures(const struct listener *listener) {
    return listener->failures;
}

void listener_close(struct listener *listener) {
    if (listener->closing)
        return;
    listener->closing = true;
    loop_timer_stop(listener->loop, &listener->retry);
    nng_stream_listener_close(listener->stream);
    loop_defer(listener->loop, &listener->deferred);
}

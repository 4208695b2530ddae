// SPDX-License-Identifier: Apache-2.0
/*
 * nng's byte streams in the memory of one process: what broker/wire uses of
 * them, without threads, sockets and waiting. Linked in front of the library,
 * it makes a target of whole roles with real links fast, and the same input
 * does the same again.
 *
 * Everything completes at once, or when the other end does its part; callbacks
 * run in the call that completes them (they only post events). A stream takes
 * all that is sent: the wire bounds what it has under way.
 */
#pragma GCC visibility push(default) /* the client library is a shared one and has to find these */
#include <nng/nng.h>
#pragma GCC visibility pop
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

enum { IOV_MAX = 8, URL_BYTES = 128, ACCEPTS_MAX = 64, BACKLOG_MAX = 256, FIRST_PORT = 20000 };

struct nng_aio {
    void (*done)(void *);
    void *arg;
    int result;
    size_t count;
    void *output;
    nng_iov iov[IOV_MAX];
    unsigned iovs;
};

struct nng_stream {
    nng_stream *peer; /* NULL: freed */
    uint8_t *bytes;   /* came in, not read: [start, end) */
    size_t start, end, capacity;
    nng_aio *reading;
    bool closed;
};

struct nng_stream_listener {
    char url[URL_BYTES];
    int port;
    nng_aio *accepts[ACCEPTS_MAX];
    unsigned accepts_count;
    nng_stream *backlog[BACKLOG_MAX];
    unsigned backlog_count;
    bool listening;
    nng_stream_listener *next;
};

struct nng_stream_dialer {
    char url[URL_BYTES];
};

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; /* a target may have several loops */
static nng_stream_listener *listeners;
static int last_port = FIRST_PORT;

static void lock(void) {
    pthread_mutex_lock(&mutex);
}

static void unlock(void) {
    pthread_mutex_unlock(&mutex);
}

/* ---- operations ---- */

int nng_aio_alloc(nng_aio **out, void (*done)(void *), void *arg) {
    *out = xcalloc(1, sizeof **out);
    (*out)->done = done;
    (*out)->arg = arg;
    return 0;
}

void nng_aio_free(nng_aio *aio) {
    lock();
    free(aio);
    unlock();
}

void nng_aio_set_timeout(nng_aio *aio, nng_duration timeout) {
}

int nng_aio_set_iov(nng_aio *aio, unsigned count, const nng_iov *iov) {
    if (count > IOV_MAX)
        return NNG_EINVAL;
    memcpy(aio->iov, iov, count * sizeof *iov);
    aio->iovs = count;
    return 0;
}

int nng_aio_result(nng_aio *aio) {
    return aio->result;
}

size_t nng_aio_count(nng_aio *aio) {
    return aio->count;
}

void *nng_aio_get_output(nng_aio *aio, unsigned index) {
    return aio->output;
}

static void finish(nng_aio *aio, int result, size_t count, void *output) {
    aio->result = result;
    aio->count = count;
    aio->output = output;
    aio->done(aio->arg);
}

/* ---- streams ---- */

static void pair(nng_stream *out[2]) {
    for (int i = 0; i < 2; i++)
        out[i] = xcalloc(1, sizeof *out[i]);
    out[0]->peer = out[1];
    out[1]->peer = out[0];
}

static void append(nng_stream *s, const void *bytes, size_t size) {
    if (s->start == s->end)
        s->start = s->end = 0;
    if (s->end + size > s->capacity) {
        s->capacity = (s->end + size) * 2;
        s->bytes = xrealloc(s->bytes, s->capacity);
    }
    memcpy(s->bytes + s->end, bytes, size);
    s->end += size;
}

static size_t shift(nng_stream *s, const nng_aio *aio) {
    size_t count = 0;
    for (unsigned i = 0; i < aio->iovs && s->start < s->end; i++) {
        size_t part = s->end - s->start;
        if (part > aio->iov[i].iov_len)
            part = aio->iov[i].iov_len;
        memcpy(aio->iov[i].iov_buf, s->bytes + s->start, part);
        s->start += part;
        count += part;
    }
    return count;
}

/* Completes a receive if there is something, or will never be. */
static void serve(nng_stream *s) {
    nng_aio *aio = s->reading;
    bool over = s->closed || !s->peer || s->peer->closed;
    if (!aio || (s->start == s->end && !over))
        return;
    s->reading = NULL;
    if (s->closed)
        finish(aio, NNG_ECLOSED, 0, NULL);
    else if (s->start < s->end)
        finish(aio, 0, shift(s, aio), NULL);
    else
        finish(aio, NNG_ECONNSHUT, 0, NULL);
}

void nng_stream_recv(nng_stream *s, nng_aio *aio) {
    lock();
    s->reading = aio;
    serve(s);
    unlock();
}

void nng_stream_send(nng_stream *s, nng_aio *aio) {
    lock();
    size_t count = 0;
    bool over = s->closed || !s->peer || s->peer->closed;
    for (unsigned i = 0; i < aio->iovs && !over; i++) {
        append(s->peer, aio->iov[i].iov_buf, aio->iov[i].iov_len);
        count += aio->iov[i].iov_len;
    }
    finish(aio, over ? NNG_ECONNRESET : 0, count, NULL);
    if (!over)
        serve(s->peer);
    unlock();
}

void nng_stream_close(nng_stream *s) {
    lock();
    if (!s->closed) {
        s->closed = true;
        serve(s);
        if (s->peer)
            serve(s->peer);
    }
    unlock();
}

void nng_stream_free(nng_stream *s) {
    if (!s)
        return;
    lock();
    nng_stream_close(s);
    if (s->peer)
        s->peer->peer = NULL;
    free(s->bytes);
    free(s);
    unlock();
}

int nng_stream_get_addr(nng_stream *s, const char *name, nng_sockaddr *address) {
    return NNG_ENOTSUP;
}

int nng_stream_get_uint64(nng_stream *s, const char *name, uint64_t *value) {
    return NNG_ENOTSUP;
}

int nng_stream_set_bool(nng_stream *s, const char *name, bool value) {
    return 0;
}

/* ---- listeners ---- */

static nng_stream_listener *find(const char *url) {
    for (nng_stream_listener *l = listeners; l; l = l->next)
        if (l->listening && strcmp(l->url, url) == 0)
            return l;
    return NULL;
}

int nng_stream_listener_alloc(nng_stream_listener **out, const char *url) {
    if (!strstr(url, "://"))
        return NNG_EADDRINVAL;
    *out = xcalloc(1, sizeof **out);
    snprintf((*out)->url, URL_BYTES, "%s", url);
    lock();
    (*out)->next = listeners;
    listeners = *out;
    unlock();
    return 0;
}

int nng_stream_listener_listen(nng_stream_listener *l) {
    lock();
    size_t size = strlen(l->url);
    if (strncmp(l->url, "tcp", 3) == 0 && size > 2 && strcmp(l->url + size - 2, ":0") == 0)
        snprintf(l->url + size - 1, URL_BYTES - size, "%d", l->port = ++last_port);
    int result = find(l->url) ? NNG_EADDRINUSE : 0;
    l->listening = result == 0;
    unlock();
    return result;
}

static void arrive(nng_stream_listener *l) {
    while (l->accepts_count && l->backlog_count) {
        nng_aio *aio = l->accepts[--l->accepts_count];
        nng_stream *s = l->backlog[0];
        memmove(l->backlog, l->backlog + 1, --l->backlog_count * sizeof(nng_stream *));
        finish(aio, 0, 0, s);
    }
}

void nng_stream_listener_accept(nng_stream_listener *l, nng_aio *aio) {
    lock();
    if (!l->listening || l->accepts_count == ACCEPTS_MAX) {
        finish(aio, NNG_ECLOSED, 0, NULL);
    } else {
        l->accepts[l->accepts_count++] = aio;
        arrive(l);
    }
    unlock();
}

void nng_stream_listener_close(nng_stream_listener *l) {
    lock();
    l->listening = false;
    while (l->accepts_count)
        finish(l->accepts[--l->accepts_count], NNG_ECLOSED, 0, NULL);
    while (l->backlog_count)
        nng_stream_free(l->backlog[--l->backlog_count]);
    unlock();
}

void nng_stream_listener_free(nng_stream_listener *l) {
    lock();
    nng_stream_listener_close(l);
    for (nng_stream_listener **at = &listeners; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
    free(l);
    unlock();
}

int nng_stream_listener_get_int(nng_stream_listener *l, const char *name, int *value) {
    *value = l->port;
    return 0;
}

int nng_stream_listener_set_int(nng_stream_listener *l, const char *name, int value) {
    return 0;
}

int nng_stream_listener_set_bool(nng_stream_listener *l, const char *name, bool value) {
    return 0;
}

/* ---- dialers ---- */

int nng_stream_dialer_alloc(nng_stream_dialer **out, const char *url) {
    if (!strstr(url, "://"))
        return NNG_EADDRINVAL;
    *out = xcalloc(1, sizeof **out);
    snprintf((*out)->url, URL_BYTES, "%s", url);
    return 0;
}

void nng_stream_dialer_dial(nng_stream_dialer *d, nng_aio *aio) {
    lock();
    nng_stream *ends[2];
    nng_stream_listener *l = find(d->url);
    if (!l || l->backlog_count == BACKLOG_MAX) {
        finish(aio, NNG_ECONNREFUSED, 0, NULL);
    } else {
        pair(ends);
        l->backlog[l->backlog_count++] = ends[1];
        finish(aio, 0, 0, ends[0]);
        arrive(l);
    }
    unlock();
}

int nng_stream_dialer_set_bool(nng_stream_dialer *d, const char *name, bool value) {
    return 0;
}

void nng_stream_dialer_close(nng_stream_dialer *d) {
}

void nng_stream_dialer_free(nng_stream_dialer *d) {
    free(d);
}

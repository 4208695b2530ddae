// SPDX-License-Identifier: Apache-2.0
/*
 * Administration: one request, one response. A request is sent again, with its
 * number, through lost connections and passing refusals until its deadline;
 * those that must not be applied twice are not.
 */
#include <stdlib.h>
#include <string.h>

#include "base/settings.h"
#include "base/xalloc.h"
#include "client/lib/admin.h"

#define CALL_PAUSE_MIN_USEC (20 * USEC_MS)
#define CALL_PAUSE_MAX_USEC (500 * USEC_MS)

/* --- on the client's thread ------------------------------------------------- */

static void call_complete(mr_client *c, struct call *call, int code, const char *text) {
    HASH_DEL(c->calls, call);
    error_set(&call->waiter->error, code, "%s", text);
    waiter_done(call->waiter);
    free(call->packed);
    free(call);
    pthread_cond_broadcast(&c->changed);
}

static void call_send(mr_client *c, struct call *call, usec_t now) {
    Mr__Request head = MR__REQUEST__INIT;
    head.request = call->request;
    head.deadline_us = call->deadline - now;
    /* Encoded messages put one behind the other are one message. */
    size_t head_size = mr__request__get_packed_size(&head);
    uint8_t *bytes = xmalloc(head_size + call->packed_size);
    mr__request__pack(&head, bytes);
    memcpy(bytes + head_size, call->packed, call->packed_size);
    enum err e =
        link_send_raw(c->session->link, FRAME_REQUEST, bytes, head_size + call->packed_size, NULL, 0);
    free(bytes);
    if (e == ERR_TOO_LARGE)
        call_complete(c, call, MR_ETOOLARGE, "request larger than this gateway takes");
    else
        call->flying = e == ERR_OK;
}

void calls_pump(mr_client *c, usec_t now) {
    struct call *call, *next;
    HASH_ITER(hh, c->calls, call, next)
    if (!call->flying && !call->retry_at)
        call_send(c, call, now);
}

static void call_late(mr_client *c, struct call *call) {
    const char *why = c->trouble[0] ? c->trouble : call->refusal.code ? call->refusal.text : "no answer";
    char text[MR_ERROR_TEXT_BYTES];
    bool maybe = call->changes && (call->flying || call->again);
    snprintf(text, sizeof text, "nobody answered in time%s: %.200s", maybe ? ", it may have been done" : "",
             why);
    call_complete(c, call, maybe ? MR_EUNKNOWN : MR_ETIMEOUT, text);
}

void calls_tick(mr_client *c, usec_t now) {
    struct call *call, *next;
    HASH_ITER(hh, c->calls, call, next) {
        if (call->deadline <= now) {
            call_late(c, call);
            continue;
        }
        client_wake(c, call->deadline);
        if (call->retry_at > now)
            client_wake(c, call->retry_at);
        else
            call->retry_at = 0;
    }
}

void calls_lost(mr_client *c) {
    struct call *call, *next;
    HASH_ITER(hh, c->calls, call, next) {
        call->again |= call->flying;
        if (call->flying && call->once)
            call_complete(c, call, MR_EUNKNOWN,
                          "the connection was lost before the answer: it may have been done");
        else
            call->flying = false;
    }
}

void calls_fail_all(mr_client *c, int code, const char *text) {
    struct call *call, *next;
    HASH_ITER(hh, c->calls, call, next)
    call_complete(c, call, call->changes && (call->flying || call->again) ? MR_EUNKNOWN : code, text);
}

static void call_pause(mr_client *c, struct call *call, const Mr__Response *m) {
    err_set(&call->refusal, (enum err)m->code, "%s", m->text);
    call->flying = false;
    call->again |= m->code != ERR_NOT_LEADER && m->code != ERR_UNAVAILABLE;
    call->retry_at =
        loop_now(c->loop) + backoff_next(c, &call->backoff, CALL_PAUSE_MIN_USEC, CALL_PAUSE_MAX_USEC);
    client_wake(c, call->retry_at);
}

void on_response(struct session *s, const Mr__Response *m) {
    mr_client *c = s->client;
    struct call *call;
    HASH_FIND(hh, c->calls, &m->request, sizeof m->request, call);
    if (!call)
        return;
    if (code_is_passing((int)m->code) && !call->once) {
        call_pause(c, call, m);
        return;
    }
    bool had_been_done = call->again && m->code && call->gone_ok == (int)m->code;
    if (m->code == 0) {
        call->waiter->answer_size = mr__response__get_packed_size(m);
        call->waiter->answer = xmalloc(call->waiter->answer_size);
        mr__response__pack(m, call->waiter->answer);
    }
    call_complete(c, call, had_been_done ? MR_OK : (int)m->code, m->text);
}

/* --- on the caller's -------------------------------------------------------- */

static struct call *call_new(const Mr__Request *request, const struct call_kind *kind, usec_t deadline) {
    struct call *call = xcalloc(1, sizeof *call);
    call->packed_size = mr__request__get_packed_size(request);
    call->packed = xmalloc(call->packed_size);
    mr__request__pack(request, call->packed);
    call->changes = kind->changes;
    call->once = kind->once;
    call->gone_ok = kind->gone_ok;
    call->deadline = deadline;
    call->waiter = waiter_new();
    return call;
}

static void call_free(struct call *call) {
    waiter_drop(call->waiter);
    waiter_drop(call->waiter);
    free(call->packed);
    free(call);
}

static int call_start(mr_client *c, struct call *call, mr_error *error) {
    int code = MR_OK;
    client_lock(c);
    if (c->stopping) {
        code = error_set(error, MR_ECANCELLED, "the client is being closed");
    } else if (HASH_COUNT(c->calls) >= CLIENT_CALLS_MAX) {
        code = error_set(error, MR_EBUSY, "more than %d requests at a time", CLIENT_CALLS_MAX);
    } else {
        call->request = client_request(c);
        HASH_ADD(hh, c->calls, request, sizeof call->request, call);
        client_wake(c, call->deadline);
        client_kick(c);
    }
    client_unlock(c);
    return code;
}

static int call_outcome(const struct waiter *w, Mr__Response **response, mr_error *error) {
    if (w->error.code != MR_OK)
        return error_set(error, w->error.code, "%s",
                         w->error.text[0] ? w->error.text : err_text(w->error.code));
    if (!response)
        return MR_OK;
    *response = w->answer ? mr__response__unpack(NULL, w->answer_size, w->answer) : NULL;
    return *response ? MR_OK : error_set(error, MR_EPROTOCOL, "a response that cannot be read");
}

int call_run(mr_client *c, const Mr__Request *request, const struct call_kind *kind, int64_t timeout_ms,
             Mr__Response **response, mr_error *error) {
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    struct call *call = call_new(request, kind, deadline);
    struct waiter *w = call->waiter;
    code = call_start(c, call, error);
    if (code != MR_OK) {
        call_free(call);
        return code;
    }
    if (waiter_wait(w, deadline + CLIENT_GRACE_USEC))
        code = call_outcome(w, response, error);
    else
        code = error_set(error, MR_EUNKNOWN, "the client's thread stands still: it may have been done");
    waiter_drop(w);
    return code;
}

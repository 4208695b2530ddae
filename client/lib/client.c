// SPDX-License-Identifier: Apache-2.0
/*
 * Opening and closing, the client's thread, and its turn:
 *
 *   frames of the session, kicks of calling threads, timers   (with the lock)
 *   client_turn: what became sendable is sent                 (with the lock)
 *   callbacks of what was answered                            (without)
 */
#include "client/lib/client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/xalloc.h"

/* Room for links to say goodbye and for the thread to end, past the deadline. */
#define CLIENT_DRAIN_USEC (200 * USEC_MS)

/* The process nng's threads run in; 0 before the first client. */
static atomic_int library_pid;

int client_check(mr_client *c, mr_error *error) {
    if (!c)
        return error_set(error, MR_EUSAGE, "client is NULL");
    if (c->pid != getpid())
        return error_set(error, MR_EFORKED, "used after fork without exec: open a client after exec");
    return MR_OK;
}

int client_check_wait(mr_client *c, mr_error *error) {
    int code = client_check(c, error);
    if (code == MR_OK && pthread_equal(pthread_self(), c->thread))
        return error_set(error, MR_EUSAGE, "a call that waits, in a callback on the client's thread");
    return code;
}

void client_lock(mr_client *c) {
    pthread_mutex_lock(&c->lock);
}

void client_unlock(mr_client *c) {
    pthread_mutex_unlock(&c->lock);
}

void client_keep(mr_client *c) {
    atomic_fetch_add(&c->refs, 1);
}

static void mailboxes_free(mr_client *c) {
    struct mailbox *m, *next;
    HASH_CLEAR(hh_id, c->mailboxes_by_id);
    HASH_ITER(hh, c->mailboxes, m, next) {
        HASH_DEL(c->mailboxes, m);
        mailbox_free(m);
    }
}

void client_drop(mr_client *c) {
    if (atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    mailboxes_free(c);
    connector_free(&c->connector);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void client_kick(mr_client *c) {
    if (c->kicked || c->stopped)
        return;
    c->kicked = true;
    loop_post(c->loop, &c->kick);
}

void client_wake(mr_client *c, usec_t at) {
    if (at >= c->wake_at)
        return;
    c->wake_at = at;
    if (!pthread_equal(pthread_self(), c->thread))
        client_kick(c);
}

uint64_t client_request(mr_client *c) {
    return ++c->request;
}

usec_t backoff_next(mr_client *c, usec_t *backoff, usec_t least, usec_t most) {
    *backoff = *backoff < least ? least : *backoff * 2 > most ? most : *backoff * 2;
    return *backoff / 2 + (usec_t)loop_random(c->loop, (uint64_t)*backoff / 2 + 1);
}

/* --- the thread ------------------------------------------------------------ */

static void on_kick(struct loop_event *event) {
    mr_client *c = (mr_client *)(void *)((char *)event - offsetof(mr_client, kick));
    client_lock(c);
    c->kicked = false;
    client_unlock(c);
}

static void on_timer(struct loop_timer *timer) {
    (void)timer; /* the turn does it */
}

/* Everything that waits for a time: each part says when it wants to be asked again. */
static void client_tick(mr_client *c, usec_t now) {
    c->wake_at = USEC_NEVER;
    session_tick(c, now);
    batch_sweep(c, now);
    sender_tick(c, now);
    consumers_tick(c, now);
    calls_tick(c, now);
}

static void client_turn(void *ctx, struct loop *loop) {
    mr_client *c = ctx;
    client_lock(c);
    if (c->ended) {
        client_unlock(c);
        return;
    }
    usec_t now = loop_now(loop);
    if (now >= c->wake_at)
        client_tick(c, now);
    if (session_is_open(c)) {
        sender_pump(c, now);
        calls_pump(c, now);
    }
    consumers_pump(c, now);
    if (c->timer.at != c->wake_at || !loop_timer_started(&c->timer))
        loop_timer_start(loop, &c->timer, c->wake_at);
    client_unlock(c);
    batch_free_done(c);
    settled_call(c);
}

static void client_stopped(mr_client *c) {
    client_lock(c);
    c->stopped = true;
    pthread_cond_broadcast(&c->changed);
    client_unlock(c);
}

static void *client_thread(void *arg) {
    mr_client *c = arg;
    loop_run(c->loop);
    client_lock(c);
    c->ended = true;
    session_end(c);
    connector_forget(&c->connector);
    client_unlock(c);
    loop_timer_stop(c->loop, &c->timer);
    batch_free_done(c);
    settled_call(c);
    client_lock(c);
    consumers_forget(c);
    client_unlock(c);
    loop_turn(c->loop, 0); /* events posted by then still point here */
    if (loop_drain(c->loop, CLIENT_DRAIN_USEC))
        loop_free(c->loop); /* else a thread of nng still has a part of it: left to the process's end */
    client_stopped(c);
    client_drop(c);
    return NULL;
}

/* All signals are the program's: ours and nng's threads, which inherit the
 * mask, take none. nng starts with the first loop. */
static int thread_start(mr_client *c) {
    sigset_t before;
    signals_block(&before);
    struct loop_options options = {.turn = client_turn, .ctx = c};
    c->loop = loop_new(&options);
    client_keep(c);
    int rc = thread_spawn(client_thread, c, &c->thread);
    if (rc != 0) {
        loop_free(c->loop);
        client_drop(c);
    }
    signals_restore(&before);
    return rc;
}

/* --- open ------------------------------------------------------------------ */

static bool library_owned(void) {
    int expected = 0;
    int pid = (int)getpid();
    return atomic_compare_exchange_strong(&library_pid, &expected, pid) || expected == pid;
}

static int client_set(mr_client *c, const mr_client_options *o, mr_error *error) {
    if (o->timeout_ms < 0)
        return error_set(error, MR_EINVALID, "timeout_ms %lld, expected 0 or more", (long long)o->timeout_ms);
    c->timeout = (o->timeout_ms ? o->timeout_ms : CLIENT_TIMEOUT_MS_DEFAULT) * USEC_MS;
    c->buffer_max = o->buffer_bytes ? o->buffer_bytes : CLIENT_BUFFER_BYTES_DEFAULT;
    if (o->name)
        snprintf(c->name, sizeof c->name, "%s", o->name);
    else
        snprintf(c->name, sizeof c->name, "%s-%d", program_invocation_short_name, (int)getpid());
    const char *servers = o->servers ? o->servers : getenv("MAILROOM_SERVER");
    if (!servers || !*servers)
        servers = "127.0.0.1:7400";
    return connector_init(&c->connector, servers, error);
}

static mr_client *client_new(void) {
    mr_client *c = xcalloc(1, sizeof *c);
    atomic_init(&c->refs, 1);
    c->pid = getpid();
    CHECK(pthread_mutex_init(&c->lock, NULL) == 0);
    steady_cond_init(&c->changed);
    c->kick.fire = on_kick;
    c->timer.fire = on_timer;
    c->wake_at = USEC_NEVER;
    snprintf(c->trouble, sizeof c->trouble, "not connected yet");
    return c;
}

int mr_client_open(const mr_client_options *options, mr_client **client, mr_error *error) {
    error_clear(error);
    *client = NULL;
    if (!library_owned())
        return error_set(error, MR_EFORKED,
                         "the library was in use before the fork: open a client after exec");
    mr_client_options o;
    options_copy(&o, sizeof o, options);
    mr_client *c = client_new();
    int code = client_set(c, &o, error);
    if (code == MR_OK &&
        getrandom(c->producer.bytes, sizeof c->producer.bytes, 0) != sizeof c->producer.bytes)
        code = error_set(error, MR_EIO, "no random numbers: %s", strerror(errno));
    if (code == MR_OK) {
        client_lock(c); /* until c->thread is set */
        c->wake_at = 0;
        int rc = thread_start(c);
        if (rc == 0) {
            c->kicked = true;
            loop_post(c->loop, &c->kick);
        }
        client_unlock(c);
        if (rc != 0)
            code = error_set(error, MR_EIO, "no thread: %s", strerror(rc));
    }
    if (code != MR_OK)
        client_drop(c);
    else
        *client = c;
    return code;
}

int mr_client_wait(mr_client *c, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    client_lock(c);
    while (!session_is_open(c) && steady_wait(&c->changed, &c->lock, deadline)) {
    }
    if (!session_is_open(c))
        code = error_set(error, MR_ETIMEOUT, "nobody answered in time: %s", c->trouble);
    client_unlock(c);
    return code;
}

/* --- close ----------------------------------------------------------------- */

static bool client_idle(const mr_client *c) {
    return !c->batches && !c->completing && consumers_ended(c) && !c->calls;
}

static void client_cancel(mr_client *c) {
    publish_fail_all(c, MR_ECANCELLED, "the client was closed");
    calls_fail_all(c, MR_ECANCELLED, "the client was closed");
    consumers_cut(c, MR_ECANCELLED, "the client was closed");
    consumers_close(c);
}

static bool wait_until_stopped(mr_client *c, usec_t deadline) {
    while (!c->stopped && steady_wait(&c->changed, &c->lock, deadline)) {
    }
    return c->stopped;
}

int mr_client_close(mr_client *c, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    if (!c)
        return MR_OK;
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code != MR_OK)
        return code;
    if (deadline_of(c, timeout_ms, &deadline, NULL) != MR_OK)
        deadline = clock_now();
    client_lock(c);
    c->stopping = true;
    consumers_leave(c);
    client_wake(c, 0);
    while (!client_idle(c) && steady_wait(&c->changed, &c->lock, deadline)) {
    }
    bool idle = client_idle(c);
    client_cancel(c);
    loop_stop(c->loop);
    bool stopped = wait_until_stopped(c, clock_now() + CLIENT_GRACE_USEC);
    client_unlock(c);
    if (stopped)
        pthread_join(c->thread, NULL);
    else
        pthread_detach(c->thread); /* it stands in a callback; what it uses lives until it returns */
    client_drop(c);
    return idle ? MR_OK
                : error_set(error, MR_EUNKNOWN, "closed with answers outstanding: %s", err_text(MR_EUNKNOWN));
}

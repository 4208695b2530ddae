// SPDX-License-Identifier: Apache-2.0
/*
 * Consumers: subscribing, again after each reconnection with what is held, and
 * leaving in good order: settlements are answered first, then Unsubscribe.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/check.h"
#include "base/settings.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

#define CONSUMER_PAUSE_MIN_USEC (10 * USEC_MS)
#define CONSUMER_PAUSE_MAX_USEC (200 * USEC_MS)

enum { CONSUMER_CREDIT_DEFAULT = 100, CONSUMER_CREDIT_MAX = 1000000, CONSUMER_THREAD_WAIT_MS = 1000 };

void consumer_drop(mr_consumer *k) {
    if (atomic_fetch_sub(&k->refs, 1) > 1)
        return;
    mr_client *c = k->client;
    if (k->fd >= 0)
        close(k->fd);
    pthread_cond_destroy(&k->changed);
    free(k->pending);
    free(k->mailbox);
    free(k->subscription);
    free(k);
    client_drop(c);
}

void consumer_dirty(mr_consumer *k) {
    if (k->dirty || k->state == CONSUMER_ENDED)
        return;
    k->dirty = true;
    k->dirty_next = k->client->consumers_dirty;
    k->client->consumers_dirty = k;
    atomic_fetch_add(&k->refs, 1);
}

/* --- readiness -------------------------------------------------------------- */

static bool readable(const mr_consumer *k) {
    return k->queue || k->leaving || k->state == CONSUMER_ENDED;
}

static void fd_update(mr_consumer *k) {
    if (k->fd < 0 || k->fd_set == readable(k))
        return;
    uint64_t n = 1;
    k->fd_set = !k->fd_set;
    ssize_t rc = k->fd_set ? write(k->fd, &n, sizeof n) : read(k->fd, &n, sizeof n);
    CHECK(rc == sizeof n);
}

void consumer_notify(mr_consumer *k) {
    pthread_cond_broadcast(&k->changed);
    fd_update(k);
}

int mr_consumer_fd(mr_consumer *k) {
    if (!k || client_check(k->client, NULL) != MR_OK)
        return -1;
    client_lock(k->client);
    if (k->fd < 0) {
        k->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        k->fd_set = false;
        fd_update(k);
    }
    int fd = k->fd;
    client_unlock(k->client);
    return fd;
}

/* --- the end ---------------------------------------------------------------- */

static void consumer_remove(mr_consumer *k) {
    HASH_DEL(k->client->consumers, k);
    consumer_drop(k);
}

/* The caller holds a reference of k's. */
static void consumer_end(mr_consumer *k, int code, const char *text) {
    if (k->state == CONSUMER_ENDED)
        return;
    settle_cancel(k, MR_ECANCELLED, text);
    runs_detach(k);
    k->state = CONSUMER_ENDED;
    error_set(&k->end, code, "%s", text);
    consumer_notify(k);
    pthread_cond_broadcast(&k->client->changed);
    if (k->orphan)
        consumer_remove(k);
}

bool consumers_ended(const mr_client *c) {
    for (const mr_consumer *k = c->consumers; k; k = k->hh.next)
        if (k->state != CONSUMER_ENDED)
            return false;
    return true;
}

static void consumer_leave(mr_consumer *k) {
    k->leaving = true;
    consumer_notify(k);
    consumer_dirty(k);
}

void consumers_leave(mr_client *c) {
    for (mr_consumer *k = c->consumers; k; k = k->hh.next)
        consumer_leave(k);
}

void consumers_cut(mr_client *c, int code, const char *text) {
    mr_consumer *k, *next;
    HASH_ITER(hh, c->consumers, k, next) {
        atomic_fetch_add(&k->refs, 1);
        consumer_end(k, code, text);
        consumer_drop(k);
    }
}

void consumers_close(mr_client *c) {
    mr_consumer *k, *next;
    HASH_ITER(hh, c->consumers, k, next) {
        bool handle = !k->orphan;
        k->orphan = true;
        consumer_remove(k);
        if (handle)
            consumer_drop(k);
    }
}

/* --- subscribing ------------------------------------------------------------ */

static void subscribe(mr_consumer *k) {
    mr_client *c = k->client;
    Mr__Subscribe m = MR__SUBSCRIBE__INIT;
    m.request = k->request = client_request(c);
    m.consumer = k->handle;
    m.consumer_id.data = k->id;
    m.consumer_id.len = sizeof k->id;
    m.mailbox = k->mailbox;
    m.subscription = k->subscription;
    m.credit = k->credit;
    m.client = c->name;
    m.held = runs_held(k, &m.n_held);
    k->state = CONSUMER_ASKED;
    frame_send_subscribe(c->session->link, &m, NULL, 0);
    free(m.held);
}

static void unsubscribe(mr_consumer *k) {
    Mr__Unsubscribe m = MR__UNSUBSCRIBE__INIT;
    m.consumer = k->handle;
    k->state = CONSUMER_LEFT;
    frame_send_unsubscribe(k->client->session->link, &m, NULL, 0);
}

static void consumer_pump(mr_consumer *k, usec_t now) {
    bool through = k->leaving && settle_idle(k);
    if (k->state == CONSUMER_STALE && through) {
        consumer_end(k, MR_ECANCELLED, "the consumer was closed");
    } else if (!session_is_open(k->client)) {
        return; /* all are looked at again when there is one */
    } else if (k->state == CONSUMER_STALE && !k->retry_at) {
        subscribe(k);
    } else if (k->state == CONSUMER_READY) {
        settle_pump(k, now);
        if (through)
            unsubscribe(k);
    }
}

void consumers_pump(mr_client *c, usec_t now) {
    mr_consumer *k = c->consumers_dirty, *next;
    c->consumers_dirty = NULL;
    for (; k; k = next) {
        next = k->dirty_next;
        k->dirty = false;
        consumer_pump(k, now);
        consumer_drop(k);
    }
}

void consumers_forget(mr_client *c) {
    mr_consumer *k = c->consumers_dirty, *next;
    c->consumers_dirty = NULL;
    for (; k; k = next) {
        next = k->dirty_next;
        consumer_drop(k);
    }
}

void consumers_tick(mr_client *c, usec_t now) {
    for (mr_consumer *k = c->consumers; k; k = k->hh.next) {
        if (k->retry_at && k->retry_at > now)
            client_wake(c, k->retry_at);
        else
            k->retry_at = 0;
        if (k->settle_at > now)
            client_wake(c, k->settle_at);
        consumer_dirty(k);
    }
}

void consumers_lost(mr_client *c) {
    mr_consumer *k, *next;
    HASH_ITER(hh, c->consumers, k, next) {
        settle_lost(k);
        k->retry_at = 0;
        if (k->state == CONSUMER_LEFT) {
            atomic_fetch_add(&k->refs, 1);
            consumer_end(k, MR_ECANCELLED, "the consumer was closed");
            consumer_drop(k);
        } else if (k->state != CONSUMER_ENDED) {
            k->state = CONSUMER_STALE;
        }
    }
}

static void consumer_pause(mr_consumer *k, int code, const char *text) {
    mr_client *c = k->client;
    settle_lost(k);
    k->state = CONSUMER_STALE;
    err_set(&k->refusal, (enum err)code, "%s", text);
    k->retry_at =
        loop_now(c->loop) + backoff_next(c, &k->backoff, CONSUMER_PAUSE_MIN_USEC, CONSUMER_PAUSE_MAX_USEC);
    client_wake(c, k->retry_at);
}

static mr_consumer *consumer_find(mr_client *c, uint32_t handle) {
    mr_consumer *k;
    HASH_FIND(hh, c->consumers, &handle, sizeof handle, k);
    return k;
}

void on_subscribed(struct session *s, const Mr__Subscribed *m) {
    mr_consumer *k = consumer_find(s->client, m->consumer);
    if (!k || k->state != CONSUMER_ASKED || k->request != m->request)
        return;
    k->state = CONSUMER_READY;
    k->opened = true;
    k->lease = m->ack_timeout_us;
    k->backoff = 0;
    consumer_notify(k);
    consumer_dirty(k);
}

/* Refused, or ended by the cluster: again later, or for good. */
static void consumer_refused(mr_consumer *k, int code, const char *text) {
    if (code_is_passing(code) && k->state != CONSUMER_LEFT) {
        consumer_pause(k, code, text);
        return;
    }
    atomic_fetch_add(&k->refs, 1);
    if (k->state == CONSUMER_LEFT || code == MR_OK)
        consumer_end(k, MR_ECANCELLED, "the consumer was closed");
    else
        consumer_end(k, code, text);
    consumer_drop(k);
}

bool subscribe_failed(mr_client *c, uint64_t request, int code, const char *text) {
    for (mr_consumer *k = c->consumers; k; k = k->hh.next) {
        if (k->state != CONSUMER_ASKED || k->request != request)
            continue;
        consumer_refused(k, code, text);
        return true;
    }
    return false;
}

void on_consumer_end(struct session *s, const Mr__ConsumerEnd *m) {
    mr_consumer *k = consumer_find(s->client, m->consumer);
    if (k && k->state != CONSUMER_STALE && k->state != CONSUMER_ENDED)
        consumer_refused(k, (int)m->code, m->text);
}

/* --- the program's side ----------------------------------------------------- */

static int consumer_check(mr_client *c, const char *mailbox, const mr_consumer_options *o, mr_error *error) {
    if (!mailbox || !name_valid(mailbox))
        return error_set(error, MR_EINVALID, "mailbox name '%.140s', expected 1 to 128 of A-Z a-z 0-9 . _ -",
                         mailbox ? mailbox : "");
    if (o->subscription && !name_valid(o->subscription))
        return error_set(error, MR_EINVALID,
                         "subscription name '%.140s', expected 1 to 128 of A-Z a-z 0-9 . _ -",
                         o->subscription);
    if (o->credit > CONSUMER_CREDIT_MAX)
        return error_set(error, MR_EINVALID, "credit %u, expected at most %d", o->credit,
                         CONSUMER_CREDIT_MAX);
    return MR_OK;
}

static mr_consumer *consumer_new(mr_client *c, const char *mailbox, const mr_consumer_options *o) {
    mr_consumer *k = xcalloc(1, sizeof *k);
    client_keep(c);
    k->client = c;
    atomic_init(&k->refs, 3); /* handle, client.consumers, mr_consumer_open */
    k->mailbox = xstrdup(mailbox);
    k->subscription = xstrdup(o->subscription ? o->subscription : "default");
    k->credit = o->credit ? o->credit : CONSUMER_CREDIT_DEFAULT;
    k->consume = o->consume;
    k->ctx = o->ctx;
    k->fd = -1;
    k->handle = ++c->handles;
    steady_cond_init(&k->changed);
    HASH_ADD(hh, c->consumers, handle, sizeof k->handle, k);
    consumer_dirty(k);
    client_kick(c);
    return k;
}

static void *consumer_thread(void *arg) {
    mr_consumer *k = arg;
    mr_message *m;
    for (;;) {
        int code = mr_consumer_next(k, CONSUMER_THREAD_WAIT_MS, &m, NULL);
        if (code == MR_OK)
            k->consume(k->ctx, k, m);
        else if (code != MR_ETIMEOUT)
            break;
    }
    mr_client *c = k->client;
    client_lock(c);
    k->running = false;
    pthread_cond_broadcast(&k->changed);
    client_unlock(c);
    consumer_drop(k);
    return NULL;
}

static int consumer_start(mr_consumer *k, mr_error *error) {
    atomic_fetch_add(&k->refs, 1);
    k->running = true;
    int rc = thread_spawn(consumer_thread, k, &k->thread);
    if (rc == 0) {
        pthread_detach(k->thread);
        return MR_OK;
    }
    k->running = false;
    atomic_fetch_sub(&k->refs, 1);
    return error_set(error, MR_EIO, "no thread: %s", strerror(rc));
}

/* Forget a consumer that did not come to be: it leaves by itself. */
static void consumer_abandon(mr_consumer *k) {
    consumer_leave(k);
    k->orphan = true;
    if (k->state == CONSUMER_ENDED)
        consumer_remove(k);
    client_kick(k->client);
}

static int consumer_wait_open(mr_consumer *k, usec_t deadline, mr_error *error) {
    mr_client *c = k->client;
    while (!k->opened && k->state != CONSUMER_ENDED && !k->leaving &&
           steady_wait(&k->changed, &c->lock, deadline)) {
    }
    if (k->opened)
        return MR_OK;
    if (k->state == CONSUMER_ENDED)
        return error_set(error, k->end.code, "%s", k->end.text);
    if (k->leaving)
        return error_set(error, MR_ECANCELLED, "the client is being closed");
    return error_set(error, MR_ETIMEOUT, "nobody answered in time: %s",
                     c->trouble[0]     ? c->trouble
                     : k->refusal.code ? k->refusal.text
                                       : "no answer");
}

int mr_consumer_open(mr_client *c, const char *mailbox, const mr_consumer_options *options,
                     int64_t timeout_ms, mr_consumer **consumer, mr_error *error) {
    error_clear(error);
    *consumer = NULL;
    mr_consumer_options o;
    options_copy(&o, sizeof o, options);
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK)
        code = consumer_check(c, mailbox, &o, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    uint8_t id[16];
    if (code == MR_OK && getrandom(id, sizeof id, 0) != sizeof id)
        code = error_set(error, MR_EIO, "no random numbers: %s", strerror(errno));
    if (code != MR_OK)
        return code;
    client_lock(c);
    if (c->stopping) {
        client_unlock(c);
        return error_set(error, MR_ECANCELLED, "the client is being closed");
    }
    mr_consumer *k = consumer_new(c, mailbox, &o);
    memcpy(k->id, id, sizeof id);
    code = consumer_wait_open(k, deadline, error);
    if (code == MR_OK && k->consume)
        code = consumer_start(k, error);
    bool closed = k->orphan; /* by mr_client_close */
    if (code == MR_OK)
        *consumer = k;
    else if (!closed)
        consumer_abandon(k);
    client_unlock(c);
    if (code != MR_OK && !closed)
        consumer_drop(k);
    consumer_drop(k);
    return code;
}

static int next_locked(mr_consumer *k, usec_t deadline, mr_message **message, mr_error *error) {
    for (;;) {
        if (k->state == CONSUMER_ENDED)
            return error_set(error, k->end.code, "%s", k->end.text);
        if (k->leaving)
            return error_set(error, MR_ECANCELLED, "the consumer is being closed");
        *message = run_pop(k, clock_now());
        if (*message)
            return MR_OK;
        if (!steady_wait(&k->changed, &k->client->lock, deadline))
            return error_set(error, MR_ETIMEOUT, "no message came in time");
    }
}

int mr_consumer_next(mr_consumer *k, int64_t timeout_ms, mr_message **message, mr_error *error) {
    error_clear(error);
    *message = NULL;
    if (!k)
        return error_set(error, MR_EUSAGE, "consumer is NULL");
    mr_client *c = k->client;
    usec_t deadline;
    int code = timeout_ms == 0 ? client_check(c, error) : client_check_wait(c, error);
    if (code == MR_OK)
        code = deadline_of(c, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    client_lock(c);
    atomic_fetch_add(&k->refs, 1);
    code = next_locked(k, deadline, message, error);
    fd_update(k);
    client_unlock(c);
    consumer_drop(k);
    return code;
}

int mr_consumer_flush(mr_consumer *k, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    if (!k)
        return error_set(error, MR_EUSAGE, "consumer is NULL");
    usec_t deadline;
    int code = client_check_wait(k->client, error);
    if (code == MR_OK)
        code = deadline_of(k->client, timeout_ms, &deadline, error);
    if (code != MR_OK)
        return code;
    client_lock(k->client);
    while (!settle_idle(k) && steady_wait(&k->changed, &k->client->lock, deadline)) {
    }
    if (!settle_idle(k))
        code = error_set(error, MR_ETIMEOUT, "settlements are unanswered; they go on being sent");
    client_unlock(k->client);
    return code;
}

static void wait_until_left(mr_consumer *k, usec_t deadline) {
    while ((k->state != CONSUMER_ENDED || k->running) &&
           steady_wait(&k->changed, &k->client->lock, deadline)) {
    }
}

int mr_consumer_close(mr_consumer *k, int64_t timeout_ms, mr_error *error) {
    error_clear(error);
    if (!k)
        return MR_OK;
    mr_client *c = k->client;
    usec_t deadline;
    int code = client_check_wait(c, error);
    if (code == MR_OK && k->running && pthread_equal(pthread_self(), k->thread))
        code = error_set(error, MR_EUSAGE, "a consumer is not closed in its own callback");
    if (code != MR_OK)
        return code;
    if (deadline_of(c, timeout_ms, &deadline, NULL) != MR_OK)
        deadline = clock_now();
    client_lock(c);
    consumer_leave(k);
    client_kick(c);
    wait_until_left(k, deadline);
    if (!settle_idle(k)) {
        code = error_set(error, MR_EUNKNOWN, "settlements are unanswered: their messages may come again");
        settle_cancel(k, MR_EUNKNOWN, "the consumer was closed before the answer");
    }
    consumer_abandon(k);
    client_unlock(c);
    consumer_drop(k);
    return code;
}

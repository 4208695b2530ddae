// SPDX-License-Identifier: Apache-2.0
/*
 * Which address comes next: the configured ones in turn from a random one on,
 * then those the cluster named in its Welcome. After each has failed once there
 * is a jittered pause that doubles.
 *
 * Names are resolved on a thread of their own, because getaddrinfo can stand for
 * a minute: that thread holds nothing of the client but a job, which the client
 * lets go of when it closes.
 */
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

#define CONNECT_PAUSE_MIN_USEC (20 * USEC_MS)
#define CONNECT_PAUSE_MAX_USEC (1 * USEC_S)
#define RESOLVE_USEC           (3 * USEC_S) /* then the next address is tried */

enum { FOUND_MAX = sizeof((struct connector *)0)->found / ADDRESS_BYTES_MAX };

struct resolve { /* shared by the client and the resolving thread */
    pthread_mutex_t lock;
    int refs;
    struct loop *loop; /* NULL: the client is no longer interested */
    struct loop_event done;
    mr_client *client;
    usec_t started;
    char host[ADDRESS_BYTES_MAX];
    char port[8];
    char found[FOUND_MAX][ADDRESS_BYTES_MAX];
    size_t found_count;
};

/* --- addresses as text ------------------------------------------------------ */

static bool port_valid(const char *port) {
    size_t digits = strspn(port, "0123456789");
    return digits > 0 && digits <= 5 && !port[digits] && atoi(port) >= 1 && atoi(port) <= 65535;
}

/* "host:port" or "[v6]:port" into its parts. */
static bool address_split(const char *address, char host[ADDRESS_BYTES_MAX], char port[8]) {
    const char *colon = strrchr(address, ':');
    if (!colon || strlen(address) >= ADDRESS_BYTES_MAX || !port_valid(colon + 1))
        return false;
    size_t size = (size_t)(colon - address);
    if (size >= 2 && address[0] == '[' && address[size - 1] == ']') {
        address++;
        size -= 2;
    } else if (memchr(address, ':', size)) {
        return false;
    }
    if (size == 0)
        return false;
    memcpy(host, address, size);
    host[size] = 0;
    snprintf(port, 8, "%s", colon + 1);
    return true;
}

static bool is_ipc(const char *address) {
    return strncmp(address, "ipc://", 6) == 0 && address[6] && strlen(address) < ADDRESS_BYTES_MAX;
}

static bool address_valid(const char *address) {
    char host[ADDRESS_BYTES_MAX], port[8];
    return is_ipc(address) || address_split(address, host, port);
}

static int address_add(struct connector *k, const char *address, mr_error *error) {
    if (!address_valid(address))
        return error_set(error, MR_EINVALID, "server address '%s', expected HOST:PORT", address);
    if (k->count == CLIENT_ADDRESSES_MAX)
        return error_set(error, MR_EINVALID, "more than %d server addresses", CLIENT_ADDRESSES_MAX);
    k->addresses[k->count++] = xstrdup(address);
    return MR_OK;
}

int connector_init(struct connector *k, const char *servers, mr_error *error) {
    char *copy = xstrdup(servers), *rest = copy, *one;
    int code = MR_OK;
    while (code == MR_OK && (one = strsep(&rest, ",")))
        code = address_add(k, one, error);
    free(copy);
    k->configured = k->count;
    k->at = SIZE_MAX; /* a random one comes first */
    return code;
}

static void resolve_drop(struct resolve *r);

void connector_free(struct connector *k) {
    for (size_t i = 0; i < k->count; i++)
        free(k->addresses[i]);
    k->count = 0;
}

static bool address_known(const struct connector *k, const char *address) {
    for (size_t i = 0; i < k->count; i++)
        if (strcmp(k->addresses[i], address) == 0)
            return true;
    return false;
}

/* What the cluster named the time before is replaced. */
void connector_learn(struct connector *k, char *const *addresses, size_t count) {
    while (k->count > k->configured)
        free(k->addresses[--k->count]);
    for (size_t i = 0; i < count && k->count < CLIENT_ADDRESSES_MAX; i++)
        if (address_valid(addresses[i]) && !address_known(k, addresses[i]))
            k->addresses[k->count++] = xstrdup(addresses[i]);
    if (k->at != SIZE_MAX && k->at >= k->count)
        k->at = 0;
}

/* --- resolving -------------------------------------------------------------- */

static void found_add(char found[][ADDRESS_BYTES_MAX], size_t *count, const struct addrinfo *a) {
    char host[64], port[8];
    if (*count == FOUND_MAX || getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, port, sizeof port,
                                           NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    snprintf(found[(*count)++], ADDRESS_BYTES_MAX, strchr(host, ':') ? "tcp://[%s]:%s" : "tcp://%s:%s", host,
             port);
}

static size_t look_up(const char *host, const char *port, int flags, char found[][ADDRESS_BYTES_MAX]) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV}, *all = NULL;
    size_t count = 0;
    if (getaddrinfo(host, port, &hints, &all) != 0)
        return 0;
    for (const struct addrinfo *a = all; a; a = a->ai_next)
        found_add(found, &count, a);
    freeaddrinfo(all);
    return count;
}

static void resolve_drop(struct resolve *r) {
    pthread_mutex_lock(&r->lock);
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (last) {
        pthread_mutex_destroy(&r->lock);
        free(r);
    }
}

static void *resolve_thread(void *arg) {
    struct resolve *r = arg;
    size_t count = look_up(r->host, r->port, 0, r->found);
    pthread_mutex_lock(&r->lock);
    r->found_count = count;
    bool wanted = r->loop;
    if (wanted)
        loop_post(r->loop, &r->done); /* the reference goes along */
    pthread_mutex_unlock(&r->lock);
    if (!wanted)
        resolve_drop(r);
    return NULL;
}

static void on_resolved(struct loop_event *event) {
    struct resolve *r = (struct resolve *)(void *)((char *)event - offsetof(struct resolve, done));
    mr_client *c = r->client;
    struct connector *k = &c->connector;
    client_lock(c);
    if (k->resolve == r) {
        k->resolve = NULL;
        memcpy(k->found, r->found, sizeof k->found);
        k->found_count = r->found_count;
        k->found_at = 0;
        if (!k->found_count) {
            snprintf(c->trouble, sizeof c->trouble, "%.100s: name not found", r->host);
            connector_failed(c, loop_now(c->loop));
        }
        client_wake(c, 0);
        resolve_drop(r);
    }
    client_unlock(c);
    resolve_drop(r);
}

static bool resolve_spawn(struct resolve *r) {
    pthread_t thread;
    if (thread_spawn(resolve_thread, r, &thread) != 0)
        return false;
    pthread_detach(thread);
    return true;
}

static bool resolve_start(mr_client *c, const char *host, const char *port, usec_t now) {
    struct resolve *r = xcalloc(1, sizeof *r);
    CHECK(pthread_mutex_init(&r->lock, NULL) == 0);
    r->refs = 2;
    r->loop = c->loop;
    r->client = c;
    r->done.fire = on_resolved;
    r->started = now;
    snprintf(r->host, sizeof r->host, "%s", host);
    snprintf(r->port, sizeof r->port, "%s", port);
    c->connector.resolve = r;
    if (resolve_spawn(r))
        return true;
    c->connector.resolve = NULL;
    free(r);
    return false;
}

void connector_forget(struct connector *k) {
    struct resolve *r = k->resolve;
    if (!r)
        return;
    k->resolve = NULL;
    pthread_mutex_lock(&r->lock);
    r->loop = NULL;
    pthread_mutex_unlock(&r->lock);
    resolve_drop(r);
}

/* --- the next one ----------------------------------------------------------- */

static void connector_wait(mr_client *c, usec_t now) {
    struct connector *k = &c->connector;
    k->tried = 0;
    k->dial_at = now + backoff_next(c, &k->backoff, CONNECT_PAUSE_MIN_USEC, CONNECT_PAUSE_MAX_USEC);
}

void connector_failed(mr_client *c, usec_t now) {
    struct connector *k = &c->connector;
    if (k->found_at < k->found_count)
        return; /* another address of the same name */
    k->at = (k->at + 1) % k->count;
    if (++k->tried >= k->count)
        connector_wait(c, now);
}

void connector_opened(struct connector *k) {
    k->tried = 0;
}

void connector_lost(mr_client *c, bool lasted, usec_t now) {
    struct connector *k = &c->connector;
    k->found_at = k->found_count;
    k->at = (k->at + 1) % k->count;
    k->dial_at = now;
    if (lasted)
        k->backoff = 0;
    else
        connector_wait(c, now);
}

void connector_away(struct connector *k) {
    k->found_at = k->found_count;
    k->at = (k->at + 1) % k->count;
    k->dial_at = 0;
}

/* Fills in what the address at hand stands for; false: not known (yet). */
static bool connector_look_up(mr_client *c, usec_t now) {
    struct connector *k = &c->connector;
    const char *address = k->addresses[k->at];
    char host[ADDRESS_BYTES_MAX], port[8];
    k->found_at = k->found_count = 0;
    if (is_ipc(address)) {
        snprintf(k->found[k->found_count++], ADDRESS_BYTES_MAX, "%s", address);
        return true;
    }
    CHECK(address_split(address, host, port));
    k->found_count = look_up(host, port, AI_NUMERICHOST, k->found);
    if (k->found_count)
        return true;
    if (!resolve_start(c, host, port, now))
        connector_wait(c, now);
    return false;
}

static void resolve_overdue(mr_client *c, usec_t now) {
    struct connector *k = &c->connector;
    if (now - k->resolve->started < RESOLVE_USEC) {
        client_wake(c, k->resolve->started + RESOLVE_USEC);
        return;
    }
    snprintf(c->trouble, sizeof c->trouble, "%.100s: name look-up takes too long", k->resolve->host);
    connector_forget(k);
    connector_failed(c, now);
    client_wake(c, now);
}

const char *connector_next(mr_client *c, usec_t now) {
    struct connector *k = &c->connector;
    if (k->at == SIZE_MAX)
        k->at = loop_random(c->loop, k->configured);
    if (k->resolve) {
        resolve_overdue(c, now);
        return NULL;
    }
    if (now < k->dial_at) {
        client_wake(c, k->dial_at);
        return NULL;
    }
    if (k->found_at >= k->found_count && !connector_look_up(c, now)) {
        client_wake(c, k->resolve ? now + RESOLVE_USEC : k->dial_at);
        return NULL;
    }
    return k->found[k->found_at++];
}

// SPDX-License-Identifier: Apache-2.0
#include "admin/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

struct http {
    struct MHD_Daemon *daemon;
    http_handler handler;
    void *ctx;
};

static const char plain[] = "text/plain; charset=utf-8";

static enum MHD_Result answer_with(struct MHD_Connection *connection, struct http_answer *a) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(a->body.size, a->body.data, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, a->type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    enum MHD_Result result = MHD_queue_response(connection, a->status, response);
    MHD_destroy_response(response);
    return result;
}

/* libmicrohttpd calls at the request's head, for each piece of its body, and when
 * it is whole. */
static enum MHD_Result on_access(void *ctx, struct MHD_Connection *connection, const char *path,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_size, void **state) {
    static int head_seen;
    struct http *h = ctx;
    struct http_answer a = {.status = MHD_HTTP_OK, .type = plain};
    if (*state == NULL) {
        *state = &head_seen;
        return MHD_YES;
    }
    if (*upload_size > 0) {
        *upload_size = 0; /* read and thrown away */
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        a.status = MHD_HTTP_METHOD_NOT_ALLOWED;
        text_add(&a.body, "%s is not allowed, expected GET\n", method);
    } else if (!h->handler(h->ctx, path, &a)) {
        a.status = MHD_HTTP_NOT_FOUND;
        text_add(&a.body, "no such page\n");
    }
    enum MHD_Result result = answer_with(connection, &a);
    text_free(&a.body);
    return result;
}

static struct addrinfo *resolve(const struct config_address *address, struct err_detail *detail) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char port[8];
    snprintf(port, sizeof port, "%u", address->port);
    int e = getaddrinfo(address->host, port, &hints, &found);
    if (e)
        err_set(detail, ERR_INVALID, "listen.admin %s: %s", address->text, gai_strerror(e));
    return e ? NULL : found;
}

struct http *http_open(const struct config_address *address, http_handler handler, void *ctx,
                       struct err_detail *detail) {
    struct addrinfo *found = resolve(address, detail);
    if (!found)
        return NULL;
    struct http *h = xcalloc(1, sizeof *h);
    h->handler = handler;
    h->ctx = ctx;
    unsigned flags = MHD_USE_EPOLL | (found->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_access, h, MHD_OPTION_SOCK_ADDR, found->ai_addr,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS_MAX,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_BYTES_MAX,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_S, MHD_OPTION_END);
    freeaddrinfo(found);
    if (h->daemon)
        return h;
    err_set(detail, ERR_IO, "cannot listen at %s: %s", address->text, strerror(errno));
    free(h);
    return NULL;
}

void http_close(struct http *h) {
    MHD_stop_daemon(h->daemon);
    free(h);
}

int http_fd(const struct http *h) {
    return MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
}

usec_t http_wait(const struct http *h) {
    MHD_UNSIGNED_LONG_LONG ms;
    return MHD_get_timeout(h->daemon, &ms) == MHD_YES ? (usec_t)ms * USEC_MS : USEC_NEVER;
}

void http_turn(struct http *h) {
    MHD_run(h->daemon);
}

uint16_t http_port(const struct http *h) {
    return MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A small HTTP server on the caller's thread: GET and HEAD, an answer a request,
 * over libmicrohttpd.
 */
#ifndef MAILROOM_ADMIN_HTTP_H
#define MAILROOM_ADMIN_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "admin/text.h"
#include "base/config.h"
#include "base/err.h"
#include "base/units.h"

struct http;

enum {
    HTTP_CONNECTIONS_MAX = 64,
    HTTP_CONNECTION_BYTES_MAX = 32768, /* request line and headers */
    HTTP_IDLE_S = 15                   /* a connection that says nothing is closed after */
};

struct http_answer {
    unsigned status;  /* 200 */
    const char *type; /* "text/plain; charset=utf-8" */
    struct text body;
};

/* Fill in *answer (status 200, text/plain at first). False: no such path. */
typedef bool (*http_handler)(void *ctx, const char *path, struct http_answer *answer);

/* NULL and *detail when the address cannot be bound. */
struct http *http_open(const struct config_address *address, http_handler handler, void *ctx,
                       struct err_detail *detail);
void http_close(struct http *h);
/* Readable when http_turn has something to do. */
int http_fd(const struct http *h);
/* At the latest after this long http_turn wants to be called. */
usec_t http_wait(const struct http *h);
void http_turn(struct http *h);
/* The port it really has. */
uint16_t http_port(const struct http *h);

#endif

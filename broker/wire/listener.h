// SPDX-License-Identifier: Apache-2.0
/*
 * A listener: links that come in. Same urls as link.h; "tcp://127.0.0.1:0"
 * takes any free port, listener_url says which.
 *
 * An ipc path is unlinked when the listener closes, even if a successor has
 * bound it meanwhile: use one path for each process instance.
 *
 * Out of descriptors: the listener stays, tries again every
 * LISTENER_RETRY_USEC, and counts it.
 *
 * Thread: the loop's.
 */
#ifndef MAILROOM_WIRE_LISTENER_H
#define MAILROOM_WIRE_LISTENER_H

#include "wire/link.h"

struct listener;

#define LISTENER_RETRY_USEC (100 * USEC_MS)

enum { LISTENER_ACCEPTS = 16 /* accepts under way at a time */ };

struct listener_handlers {
    /* A link has come in; it is open. Give it handlers and a context of its own
     * with link_attach (it has those of the options), or link_kill it. Its
     * frames come after this returns. */
    void (*accepted)(void *ctx, struct listener *listener, struct link *link);
    /* After listener_close, when nothing is under way any more; the listener is
     * freed after it returns. NULL allowed. */
    void (*closed)(void *ctx, struct listener *listener);
};

struct listener_options {
    const struct listener_handlers *handlers;
    void *ctx;
    struct link_options link; /* of accepted links */
    int ipc_mode;             /* permissions of an ipc path, e.g. 0600; 0: as umask says */
};

/* NULL and *detail when url is malformed (ERR_INVALID) or cannot be bound
 * (ERR_BUSY: in use; ERR_DENIED; ERR_IO). Copies options. */
struct listener *listener_open(struct loop *loop, const char *url, const struct listener_options *options,
                               struct err_detail *detail);
/* The url with the port it really has. Valid as long as the listener. */
const char *listener_url(const struct listener *listener);
/* Accepts that failed so far (descriptors, memory). */
uint64_t listener_failures(const struct listener *listener);
/* Stop listening. Links that are open stay; ones accepted while it closes are
 * closed. The pointer is dead once `closed` was called (at once without one). */
void listener_close(struct listener *listener);

#endif

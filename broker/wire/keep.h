// SPDX-License-Identifier: Apache-2.0
/*
 * A link that is kept: dialled, and dialled again whenever it ends, with a
 * back-off that doubles from retry_min to retry_max and is jittered so that many
 * do not knock at once. One dial at a time.
 *
 * The first dial after a link that had settled (keep_settled) goes out at once:
 * so the owner learns within milliseconds of a reset whether the port refuses
 * (the process is gone) or answers.
 *
 * A connection can be dead without anybody saying so (a cable, a firewall): TCP
 * goes on sending into it for minutes, and wakes up late once the way is clear.
 * So a settled link from which nothing is heard for `silent` is ended
 * (LINK_END_TIMEOUT) and dialled anew.
 *
 * Thread: the loop's.
 */
#ifndef MAILROOM_WIRE_KEEP_H
#define MAILROOM_WIRE_KEEP_H

#include "wire/link.h"

struct keep;

#define KEEP_RETRY_MIN_USEC_DEFAULT (20 * USEC_MS)
#define KEEP_RETRY_MAX_USEC_DEFAULT (1 * USEC_S)
/* What owners give as `silent`. Longer than the failure timeout's default: the
 * controllers' judgement comes first. */
#define KEEP_SILENT_USEC (1500 * USEC_MS)

/* All may be NULL. */
struct keep_handlers {
    void (*up)(void *ctx, struct keep *keep, struct link *link);
    void (*frame)(void *ctx, struct link *link, const struct frame *frame);
    void (*drained)(void *ctx, struct link *link);
    /* A link that was up has ended (was_up), or a dial has failed: end->cause
     * tells refused from timed out. The next dial is scheduled; keep_redirect
     * and keep_free are allowed here. */
    void (*down)(void *ctx, struct keep *keep, const struct link_end *end, bool was_up);
};

struct keep_options {
    const struct keep_handlers *handlers; /* must outlive the keep */
    void *ctx;
    struct link_options link; /* its handlers and ctx are not used */
    usec_t retry_min;
    usec_t retry_max;
    usec_t silent; /* 0: never ended for its silence */
    bool asks;     /* sends PING in a silence (the peer answers it): else the protocol's own
                      frames must come more often than `silent`. PONG is not handed on. */
};

/* Starts dialling. NULL and *detail if url is malformed. Copies options. */
struct keep *keep_new(struct loop *loop, const char *url, const struct keep_options *options,
                      struct err_detail *detail);
/* The link while it is up, else NULL. */
struct link *keep_link(const struct keep *keep);
void *keep_ctx(const struct keep *keep);
const char *keep_url(const struct keep *keep);
/* Dials that failed since a link was last up. */
unsigned keep_failures(const struct keep *keep);
/* The link does what it is for (hello answered): the back-off starts anew, and
 * silence is judged from now on. */
void keep_settled(struct keep *keep);
/* Dial without waiting for the back-off. */
void keep_hurry(struct keep *keep);
/* Another address from the next dial on. A link that is up stays. ERR_INVALID
 * when url is malformed, nothing changed. */
enum err keep_redirect(struct keep *keep, const char *url, struct err_detail *detail);
/* End the link that is up, as link_close does (what is queued is written), and
 * dial no more. No handler is called from here on; the pointer is dead. */
void keep_free(struct keep *keep);

#endif

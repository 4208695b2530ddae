// SPDX-License-Identifier: Apache-2.0
/*
 * A link: one connection that carries frames both ways, over nng byte streams
 * (tcp://host:port, ipc://path, tls+tcp://host:port). Client and server side
 * are alike once it is open; see listener.h for links that come in and keep.h
 * for one that is dialled again whenever it ends.
 *
 * Thread: the loop's, for every call and every handler.
 *
 * Life: link_dial -> opened -> frame ... -> closed. `closed` is called exactly
 * once, at the end of a turn, never from inside a call to the link; the link is
 * freed after it returns and must not be touched any more. link_kill ends a
 * link without any further handler.
 *
 * Nothing is dropped silently: a frame that link_send took is written to the
 * kernel in order, or the link ends and says so. "Written" is not "received":
 * receipts are the protocol's.
 */
#ifndef MAILROOM_WIRE_LINK_H
#define MAILROOM_WIRE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"
#include "wire/frame.h"

struct link;
struct loop;

/* What a link uses where its options say 0. */
#define LINK_FRAME_BYTES_DEFAULT  ((size_t)FRAME_BYTES_DEFAULT)    /* header + body, both ways */
#define LINK_HEADER_BYTES_DEFAULT ((size_t)FRAME_HEADER_BYTES_MAX) /* of it, header */
#define LINK_QUEUED_BYTES_DEFAULT (64 * MIB)
#define LINK_DIAL_USEC_DEFAULT    (2 * USEC_S)
#define LINK_CLOSE_USEC_DEFAULT   (1 * USEC_S)

enum {
    LINK_PEER_BYTES = 128,         /* a peer's address as text */
    LINK_COALESCE_BYTES_MAX = 1023 /* bodies up to this are copied next to their header */
};

/* Why a link ended. */
enum link_cause {
    LINK_END_LOCAL = 1, /* link_close by this side */
    LINK_END_PEER,      /* the peer closed it, or its process died */
    LINK_END_REFUSED,   /* nobody listens there: the process is gone */
    LINK_END_TIMEOUT,   /* no answer to a dial in time: nothing is known */
    LINK_END_PROTOCOL,  /* the peer sent a frame that is malformed or too large */
    LINK_END_OVERFLOW,  /* the queue passed its hard bound */
    LINK_END_FAILED     /* anything else: the text says it */
};

struct link_end {
    enum link_cause cause;
    enum err code;
    const char *text; /* valid until the handler returns */
};

/* All may be NULL. ctx is the link's. */
struct link_handlers {
    /* A dialled link is connected. */
    void (*opened)(void *ctx, struct link *link);
    void (*frame)(void *ctx, struct link *link, const struct frame *frame);
    void (*closed)(void *ctx, struct link *link, const struct link_end *end);
    /* All that was queued has gone to the kernel. */
    void (*drained)(void *ctx, struct link *link);
    /* The peer broke the frame rules and the link is about to end for it: a
     * last frame that says so may be sent here. */
    void (*refusing)(void *ctx, struct link *link, const struct link_end *end);
};

struct link_options {
    const struct link_handlers *handlers; /* must outlive the link */
    void *ctx;
    size_t frame_bytes;   /* largest frame taken (header + body) */
    size_t header_bytes;  /* largest header taken */
    size_t queued_bytes;  /* hard bound of what waits to be sent; flow control keeps below it */
    usec_t dial_timeout;  /* until opened */
    usec_t close_timeout; /* for what is queued when link_close is called */
};

const char *link_cause_name(enum link_cause cause);

/* Dial url; one attempt. Frames may be sent at once: they wait until it is
 * open. NULL and *detail (ERR_INVALID) when url is not one. Copies options. */
struct link *link_dial(struct loop *loop, const char *url, const struct link_options *options,
                       struct err_detail *detail);

/* Other handlers from now on. */
void link_attach(struct link *link, const struct link_handlers *handlers, void *ctx);
void *link_ctx(const struct link *link);
struct loop *link_loop(const struct link *link);
/* "127.0.0.1:7400", "pid 1234 uid 0" for ipc, the url while it is dialled. */
const char *link_peer(const struct link *link);
/* Open, and taking frames. */
bool link_is_open(const struct link *link);

/* What the two sides agreed on at hello: largest frame taken from the peer, and
 * largest sent to it. 0 leaves a limit as it is. */
void link_limit(struct link *link, size_t receive_bytes, size_t send_bytes);

/* Queue one frame: header may be NULL (0 bytes), bodies are kept (one reference
 * each) until they are written; NULL among them is skipped. Never blocks.
 *   ERR_CLOSED     the link is closing or has ended; nothing queued
 *   ERR_TOO_LARGE  past the peer's limit; nothing queued
 *   ERR_FULL       past the hard bound: nothing queued, and the link ends */
enum err link_send(struct link *link, uint16_t type, const struct ProtobufCMessage *header,
                   struct body *const *bodies, size_t count);
/* The same with a header that is encoded already (passed on as it came). */
enum err link_send_raw(struct link *link, uint16_t type, const void *header, size_t header_size,
                       struct body *const *bodies, size_t count);
/* Bytes taken by link_send and not yet in the kernel. */
size_t link_queued_bytes(const struct link *link);
/* Bytes received of frames that are not complete yet. */
size_t link_partial_bytes(const struct link *link);
/* loop_now when bytes last came in. */
usec_t link_heard(const struct link *link);

/* End it once what is queued is written, at the latest after close_timeout. No
 * `frame` is called from now on; `closed` is, with LINK_END_LOCAL, code and
 * text (copied). No effect on a link that is ending. */
void link_close(struct link *link, enum err code, const char *text);
/* End it for a peer that broke the protocol: as link_close, with
 * LINK_END_PROTOCOL; what the peer still sends is read and thrown away until it
 * hangs up, so that the last frame sent reaches it. */
void link_refuse(struct link *link, enum err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* End it at once, unsent frames with it. No handler is called any more; the
 * pointer is dead. */
void link_kill(struct link *link);

#endif

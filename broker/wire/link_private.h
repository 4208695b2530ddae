// SPDX-License-Identifier: Apache-2.0
/*
 * A link's inside: link.c holds the lifecycle, link_rx.c what comes in,
 * link_tx.c what goes out.
 *
 * nng runs completion callbacks on its own threads: they only post the link's
 * event. Everything else happens on the loop's thread, so nothing here is
 * locked. A link is freed when no operation is in flight and its end has been
 * reported.
 */
#ifndef MAILROOM_WIRE_LINK_PRIVATE_H
#define MAILROOM_WIRE_LINK_PRIVATE_H

#include <nng/nng.h>

#include "wire/link.h"
#include "wire/loop_private.h"

enum {
    RX_IDLE_BYTES = 4096,          /* receive buffer of a link at rest */
    RX_DIRECT_BYTES_MIN = 16384,   /* missing from a body: receive straight into it */
    RX_TAIL_BYTES_MIN = 1024,      /* room behind a body that is received directly */
    RX_BUSY_BUFFERS_MAX = 64,      /* large receive buffers of one loop before links share */
    TX_VECTOR_MAX = 8,             /* nng's limit of buffers an operation */
    TX_FLAT_BYTES = 16384,         /* TLS takes one buffer of one record at a time */
    LINK_DIAL_AGAIN_USEC = 2000,   /* to look again at a dial that is not decided */
    LINK_LAST_WORDS_USEC = 200000, /* to read what a dead peer sent before it died */
    LINK_LINGER_USEC = 500000      /* for a refused peer to take the last frame and hang up */
};

enum link_state { LINK_DIALING, LINK_OPEN, LINK_CLOSING, LINK_DEAD };

struct link_rx {
    uint8_t *data; /* the buffer; the frame being parsed begins at data[start] */
    size_t capacity;
    size_t start;
    size_t end;
    struct body *body; /* being received into directly; its frame's head and header stand at start */
    size_t body_have;
    size_t posted; /* room offered to the receive under way */
    usec_t heard;
    bool in_flight;
    bool ending; /* the peer is gone, what is left is being read */
};

struct tx_buffer {
    unsigned refs;
    size_t fill;
    uint8_t data[];
};

/* A run of bytes to send, in a buffer or a body: one of the two is held. */
struct tx_chunk {
    const uint8_t *data;
    size_t size;
    struct tx_buffer *buffer;
    struct body *body;
};

struct link_tx {
    struct tx_chunk *chunks; /* chunks[first .. first+count) wait, oldest first */
    size_t first;
    size_t count;
    size_t capacity;
    struct tx_buffer *open; /* where headers and small bodies go next */
    uint8_t *flat;          /* TLS: the bytes being sent */
    size_t queued;
    bool in_flight;
    bool failed;
};

struct link {
    struct loop *loop;
    struct link_options options;
    size_t send_bytes; /* largest frame the peer takes */
    enum link_state state;
    bool flat;     /* TLS: one buffer a send */
    bool lingers;  /* refused: wait for the peer to hang up */
    bool reported; /* `closed` was called */
    nng_stream *stream;
    nng_stream_dialer *dialer; /* while dialling; the send aio carries the dial */
    nng_aio *recv_aio;
    nng_aio *send_aio;
    struct loop_event received;
    struct loop_event sent;
    struct loop_deferred deferred;
    usec_t dial_until;
    struct loop_timer deadline; /* of the dial, the close, the linger, the last words */
    struct link_rx rx;
    struct link_tx tx;
    enum link_cause end_cause; /* 0 = none yet */
    struct err_detail end;
    char peer[LINK_PEER_BYTES];
};

/* link.c */
/* An open link over stream (owned from now on). Receiving starts with
 * link_rx_post. */
struct link *link_adopt(struct loop *loop, nng_stream *stream, const struct link_options *options);
/* A dialled stream turned out to be connected, or not (it is dialled again). */
void link_connected(struct link *link);
void link_not_connected(struct link *link);
/* End now: the first reason given stays. Reported at the end of the turn. */
void link_die(struct link *link, enum link_cause cause, enum err code, const char *text);
/* Free it if nothing is in flight and the end was reported. */
void link_settle(struct link *link);
void link_arm(struct link *link, usec_t after);
struct link_end link_end_of(const struct link *link);

/* link_rx.c */
void link_rx_post(struct link *link);
void link_rx_free(struct link *link);
void on_link_received(struct loop_event *event);

/* link_tx.c */
void link_tx_flush(struct link *link);
void link_tx_free(struct link *link);
void on_link_sent(struct loop_event *event);

/* nng_error.c: how an nng error number reads here. */
enum link_cause wire_cause(int nng_error);
enum err wire_code(int nng_error);

#endif

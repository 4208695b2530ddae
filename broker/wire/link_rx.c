// SPDX-License-Identifier: Apache-2.0
/*
 * What comes in. A link at rest holds a small buffer; one that fills it gets a
 * large one from the loop's pool until it is quiet again. Frames are parsed from
 * the buffer and their bodies copied out, unless much of a body is still to
 * come: then the body is allocated and the rest is received straight into it,
 * with the buffer behind it for what follows, so that it is not copied again.
 *
 * A receive is always posted while the link lives: without one nng does not
 * notice that the peer is gone.
 *
 * The peer's end: nng reports a reset before it has read what was sent ahead of
 * it, and leaves that in the kernel. So after the first error the link receives
 * on until the second, at most LINK_LAST_WORDS_USEC.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/codec.h"
#include "base/xalloc.h"
#include "wire/link_private.h"

struct head {
    uint32_t length;
    uint16_t type;
    uint16_t reserved;
    uint32_t header_size;
};

static size_t frame_bytes(const struct head *h) {
    return FRAME_LENGTH_BYTES + (size_t)h->length;
}

static size_t prefix_bytes(const struct head *h) {
    return FRAME_PREFIX_BYTES + (size_t)h->header_size;
}

static struct head head_at(const uint8_t *p) {
    return (struct head){get_u32(p), get_u16(p + 4), get_u16(p + 6), get_u32(p + 8)};
}

/* --- the buffer ----------------------------------------------------------- */

static void buffer_give(struct link *link, uint8_t *data, size_t capacity) {
    if (data && capacity == link->loop->receive_pool.size)
        pool_give(&link->loop->receive_pool, data);
    else
        free(data);
}

static void buffer_resize(struct link *link, size_t capacity) {
    struct link_rx *rx = &link->rx;
    struct pool *pool = &link->loop->receive_pool;
    uint8_t *data = capacity == pool->size ? pool_take(pool) : xmalloc(capacity);
    size_t kept = rx->end - rx->start;
    if (kept)
        memcpy(data, rx->data + rx->start, kept);
    buffer_give(link, rx->data, rx->capacity);
    rx->data = data;
    rx->capacity = capacity;
    rx->start = 0;
    rx->end = kept;
}

/* Room for `need` bytes from start on. */
static void buffer_fit(struct link *link, size_t need) {
    struct link_rx *rx = &link->rx;
    size_t pooled = link->loop->receive_pool.size;
    if (need > rx->capacity) {
        buffer_resize(link, need <= pooled ? pooled : need);
    } else if (need > rx->capacity - rx->start) {
        memmove(rx->data, rx->data + rx->start, rx->end - rx->start);
        rx->end -= rx->start;
        rx->start = 0;
    }
}

/* Before a receive without a body under way: a large buffer for a link that
 * filled its own, a small one for one that is quiet. */
static void buffer_choose(struct link *link, size_t received) {
    struct link_rx *rx = &link->rx;
    struct pool *pool = &link->loop->receive_pool;
    if (rx->start == rx->end) {
        rx->start = rx->end = 0;
        bool quiet = received < RX_IDLE_BYTES || pool->out > RX_BUSY_BUFFERS_MAX;
        if (rx->capacity > RX_IDLE_BYTES && quiet)
            buffer_resize(link, RX_IDLE_BYTES);
    }
    if (rx->capacity < pool->size && received && received == rx->posted && pool->out < RX_BUSY_BUFFERS_MAX)
        buffer_resize(link, pool->size);
    if (!rx->data)
        buffer_resize(link, RX_IDLE_BYTES);
    if (rx->capacity == rx->end)
        buffer_fit(link, rx->start ? rx->capacity : rx->capacity + RX_IDLE_BYTES);
}

/* --- receiving ------------------------------------------------------------ */

static void post(struct link *link, nng_iov *iov, unsigned count) {
    link->rx.posted = 0;
    for (unsigned i = 0; i < count; i++)
        link->rx.posted += iov[i].iov_len;
    CHECK(nng_aio_set_iov(link->recv_aio, count, iov) == 0);
    link->rx.in_flight = true;
    nng_stream_recv(link->stream, link->recv_aio);
}

static void post_buffer(struct link *link) {
    struct link_rx *rx = &link->rx;
    nng_iov iov = {.iov_buf = rx->data + rx->end, .iov_len = rx->capacity - rx->end};
    post(link, &iov, 1);
}

/* Into the body first, then a little into the buffer: with a stream of large
 * bodies each of them is received in place. */
static void post_body(struct link *link) {
    struct link_rx *rx = &link->rx;
    size_t room = rx->capacity - rx->end;
    if (room > RX_IDLE_BYTES)
        room = RX_IDLE_BYTES;
    nng_iov iov[2] = {{.iov_buf = rx->body->data + rx->body_have, .iov_len = rx->body->size - rx->body_have},
                      {.iov_buf = rx->data + rx->end, .iov_len = room}};
    post(link, iov, room ? 2 : 1);
}

static void post_next(struct link *link, size_t received) {
    if (link->rx.body) {
        post_body(link);
        return;
    }
    buffer_choose(link, received);
    post_buffer(link);
}

void link_rx_post(struct link *link) {
    post_next(link, 0);
}

void link_rx_free(struct link *link) {
    body_drop(link->rx.body);
    buffer_give(link, link->rx.data, link->rx.capacity);
}

size_t link_partial_bytes(const struct link *link) {
    return link->rx.end - link->rx.start + link->rx.body_have;
}

/* --- frames --------------------------------------------------------------- */

static bool head_refused(struct link *link, const struct head *h) {
    const struct link_options *o = &link->options;
    enum err code = ERR_PROTOCOL;
    char text[96];
    size_t content = (size_t)h->length - FRAME_REST_BYTES;
    if (h->length < FRAME_REST_BYTES || h->header_size > content)
        snprintf(text, sizeof text, "malformed frame: length %u, header %u", h->length, h->header_size);
    else if (h->type == 0 || h->reserved != 0)
        snprintf(text, sizeof text, "malformed frame: type %u, reserved %u", h->type, h->reserved);
    else if (content > o->frame_bytes && (code = ERR_TOO_LARGE))
        snprintf(text, sizeof text, "frame of %zu bytes: at most %zu are taken", content, o->frame_bytes);
    else if (h->header_size > o->header_bytes && (code = ERR_TOO_LARGE))
        snprintf(text, sizeof text, "frame header of %u bytes: at most %zu are taken", h->header_size,
                 o->header_bytes);
    else
        return false;
    link->loop->stats->refused_frames++;
    link_refuse(link, code, "%s", text);
    return true;
}

/* Hands over the frame at start; its body is dropped after. */
static void deliver(struct link *link, const struct head *h, struct body *body) {
    struct frame frame = {.type = h->type,
                          .header = link->rx.data + link->rx.start + FRAME_PREFIX_BYTES,
                          .header_size = h->header_size,
                          .body = body};
    link->loop->stats->frames_in++;
    loop_charge(link->loop, body ? body->size : 0);
    if (link->options.handlers->frame)
        link->options.handlers->frame(link->options.ctx, link, &frame);
    arena_reset(&link->loop->arena);
    body_drop(body);
}

static void begin_body(struct link *link, const struct head *h, size_t have) {
    struct link_rx *rx = &link->rx;
    buffer_fit(link, prefix_bytes(h) + RX_TAIL_BYTES_MIN);
    rx->body = body_new(frame_bytes(h) - prefix_bytes(h));
    rx->body_have = have - prefix_bytes(h);
    memcpy(rx->body->data, rx->data + rx->start + prefix_bytes(h), rx->body_have);
    rx->end = rx->start + prefix_bytes(h);
}

/* One frame out of the buffer: false when more bytes are needed for it. */
static bool take_frame(struct link *link) {
    struct link_rx *rx = &link->rx;
    size_t have = rx->end - rx->start;
    if (have < FRAME_PREFIX_BYTES) {
        buffer_fit(link, FRAME_PREFIX_BYTES);
        return false;
    }
    struct head h = head_at(rx->data + rx->start);
    if (head_refused(link, &h))
        return false;
    size_t prefix = prefix_bytes(&h), whole = frame_bytes(&h);
    if (have >= whole) {
        deliver(link, &h, whole > prefix ? body_copy(rx->data + rx->start + prefix, whole - prefix) : NULL);
        rx->start += whole;
        return true;
    }
    if (have >= prefix && (whole - have >= RX_DIRECT_BYTES_MIN || whole > link->loop->receive_pool.size))
        begin_body(link, &h, have);
    else
        buffer_fit(link, have < prefix ? prefix : whole);
    return false;
}

/* The body under way is complete; the buffer holds its prefix, then what follows. */
static void end_body(struct link *link) {
    struct link_rx *rx = &link->rx;
    struct head h = head_at(rx->data + rx->start);
    struct body *body = rx->body;
    rx->body = NULL;
    rx->body_have = 0;
    deliver(link, &h, body);
    rx->start += prefix_bytes(&h);
}

static void take(struct link *link, size_t count) {
    struct link_rx *rx = &link->rx;
    if (rx->body) {
        size_t missing = rx->body->size - rx->body_have;
        size_t into = count < missing ? count : missing;
        rx->body_have += into;
        count -= into;
        rx->end += count;
        if (into < missing)
            return;
        end_body(link);
    } else {
        rx->end += count;
    }
    while (link->state == LINK_OPEN && take_frame(link)) {
    }
}

/* A closing link takes no more frames: what still comes is thrown away. */
static void discard(struct link *link) {
    struct link_rx *rx = &link->rx;
    body_drop(rx->body);
    rx->body = NULL;
    rx->body_have = 0;
    rx->start = rx->end = 0;
}

/* --- the end of the stream ------------------------------------------------ */

static void on_recv_error(struct link *link, int rv) {
    enum link_cause cause = wire_cause(rv);
    bool gone = cause == LINK_END_PEER;
    if (link->rx.ending || !gone || link->flat) {
        bool cut = gone && link_partial_bytes(link) > 0;
        link_die(link, cause, wire_code(rv), cut ? "connection lost inside a frame" : nng_strerror(rv));
        return;
    }
    link->rx.ending = true;
    link_arm(link, LINK_LAST_WORDS_USEC);
    post_next(link, 0);
}

void on_link_received(struct loop_event *event) {
    struct link *link = container_of(event, struct link, received);
    int rv = nng_aio_result(link->recv_aio);
    size_t count = nng_aio_count(link->recv_aio);
    link->rx.in_flight = false;
    if (link->state == LINK_DEAD) {
        link_settle(link);
        return;
    }
    if (link->state == LINK_DIALING) {
        if (rv != 0 || count == 0) {
            link_not_connected(link);
            return;
        }
        link_connected(link);
    }
    if (rv != 0 || count == 0) {
        on_recv_error(link, rv ? rv : NNG_ECONNSHUT);
        return;
    }
    link->loop->stats->recvs++;
    link->loop->stats->bytes_in += count;
    link->rx.heard = loop_now(link->loop);
    if (link->state == LINK_OPEN)
        take(link, count);
    if (link->state == LINK_CLOSING)
        discard(link);
    if (link->state != LINK_DEAD)
        post_next(link, count);
}

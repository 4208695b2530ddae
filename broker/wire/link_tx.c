// SPDX-License-Identifier: Apache-2.0
/*
 * What goes out. link_send appends to a queue of runs of bytes: headers and
 * small bodies side by side in a buffer, large bodies by reference. At the end
 * of the turn the queue is handed to nng, up to eight runs an operation; what
 * was not taken (sends are partial) goes with the next. One send is in flight at
 * a time.
 *
 * When a send fails the link does not end at once: what the peer said before it
 * went (a reason, a goodbye) is still to be read, see link_rx.c.
 */
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/codec.h"
#include "base/xalloc.h"
#include "wire/link_private.h"

/* --- the queue ------------------------------------------------------------ */

static void buffer_drop(struct link *link, struct tx_buffer *buffer) {
    if (buffer && --buffer->refs == 0)
        pool_give(&link->loop->send_pool, buffer);
}

static void chunk_drop(struct link *link, struct tx_chunk *chunk) {
    buffer_drop(link, chunk->buffer);
    body_drop(chunk->body);
}

static void chunk_push(struct link *link, struct tx_chunk chunk) {
    struct link_tx *tx = &link->tx;
    if (tx->first > 0 && tx->first + tx->count == tx->capacity) {
        memmove(tx->chunks, tx->chunks + tx->first, tx->count * sizeof *tx->chunks);
        tx->first = 0;
    }
    xgrow(&tx->chunks, &tx->capacity, tx->first + tx->count + 1, sizeof *tx->chunks);
    tx->chunks[tx->first + tx->count++] = chunk;
    tx->queued += chunk.size;
}

static void body_push(struct link *link, struct body *body) {
    chunk_push(link, (struct tx_chunk){.data = body->data, .size = body->size, .body = body_keep(body)});
}

static size_t open_capacity(const struct link *link) {
    return link->loop->send_pool.size - sizeof(struct tx_buffer);
}

static struct tx_buffer *open_buffer(struct link *link, size_t size) {
    struct link_tx *tx = &link->tx;
    if (tx->open && open_capacity(link) - tx->open->fill >= size)
        return tx->open;
    buffer_drop(link, tx->open);
    tx->open = pool_take(&link->loop->send_pool);
    *tx->open = (struct tx_buffer){.refs = 1};
    return tx->open;
}

/* `size` bytes at the queue's end, to be filled in by the caller. */
static uint8_t *room_push(struct link *link, size_t size) {
    struct link_tx *tx = &link->tx;
    if (size > open_capacity(link)) {
        struct body *body = body_new(size);
        body_push(link, body);
        body_drop(body);
        return body->data;
    }
    struct tx_buffer *buffer = open_buffer(link, size);
    uint8_t *room = buffer->data + buffer->fill;
    buffer->fill += size;
    struct tx_chunk *last = tx->count ? &tx->chunks[tx->first + tx->count - 1] : NULL;
    if (last && last->buffer == buffer && last->data + last->size == room) {
        last->size += size;
        tx->queued += size;
    } else {
        buffer->refs++;
        chunk_push(link, (struct tx_chunk){.data = room, .size = size, .buffer = buffer});
    }
    return room;
}

/* `count` bytes have gone. */
static void consume(struct link *link, size_t count) {
    struct link_tx *tx = &link->tx;
    CHECK(count <= tx->queued);
    tx->queued -= count;
    while (count) {
        struct tx_chunk *chunk = &tx->chunks[tx->first];
        if (count < chunk->size) {
            chunk->data += count;
            chunk->size -= count;
            return;
        }
        count -= chunk->size;
        chunk_drop(link, chunk);
        tx->first++;
        tx->count--;
    }
}

/* Nothing waits: an idle link holds no buffers. */
static void release_all(struct link *link) {
    struct link_tx *tx = &link->tx;
    for (size_t i = 0; i < tx->count; i++)
        chunk_drop(link, &tx->chunks[tx->first + i]);
    buffer_drop(link, tx->open);
    free(tx->chunks);
    free(tx->flat);
    *tx = (struct link_tx){.failed = tx->failed};
}

void link_tx_free(struct link *link) {
    release_all(link);
}

size_t link_queued_bytes(const struct link *link) {
    return link->tx.queued;
}

/* --- link_send ------------------------------------------------------------ */

static size_t bodies_bytes(struct body *const *bodies, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += bodies[i] ? bodies[i]->size : 0;
    return sum;
}

/* Whether a frame of that content may be queued now. */
static enum err admit(struct link *link, size_t header_size, size_t content) {
    if ((link->state != LINK_OPEN && link->state != LINK_DIALING) || link->tx.failed)
        return ERR_CLOSED;
    if (content > link->send_bytes || content > UINT32_MAX - FRAME_REST_BYTES ||
        header_size > LINK_HEADER_BYTES_DEFAULT)
        return ERR_TOO_LARGE;
    if (link->tx.queued + FRAME_PREFIX_BYTES + content > link->options.queued_bytes) {
        link_die(link, LINK_END_OVERFLOW, ERR_FULL, "the peer does not read: send queue past its bound");
        return ERR_FULL;
    }
    return ERR_OK;
}

static uint8_t *push_head(struct link *link, uint16_t type, size_t header_size, size_t content) {
    uint8_t *p = room_push(link, FRAME_PREFIX_BYTES + header_size);
    put_u32(p, (uint32_t)(FRAME_REST_BYTES + content));
    put_u16(p + 4, type);
    put_u16(p + 6, 0);
    put_u32(p + 8, (uint32_t)header_size);
    return p + FRAME_PREFIX_BYTES;
}

static void push_bodies(struct link *link, struct body *const *bodies, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct body *body = bodies[i];
        if (!body || !body->size)
            continue;
        if (body->size <= LINK_COALESCE_BYTES_MAX)
            memcpy(room_push(link, body->size), body->data, body->size);
        else
            body_push(link, body);
    }
    link->loop->stats->frames_out++;
    loop_defer(link->loop, &link->deferred);
}

enum err link_send(struct link *link, uint16_t type, const struct ProtobufCMessage *header,
                   struct body *const *bodies, size_t count) {
    size_t header_size = header ? protobuf_c_message_get_packed_size(header) : 0;
    size_t content = header_size + bodies_bytes(bodies, count);
    enum err e = admit(link, header_size, content);
    if (e)
        return e;
    uint8_t *room = push_head(link, type, header_size, content);
    if (header)
        CHECK(protobuf_c_message_pack(header, room) == header_size);
    push_bodies(link, bodies, count);
    return ERR_OK;
}

enum err link_send_raw(struct link *link, uint16_t type, const void *header, size_t header_size,
                       struct body *const *bodies, size_t count) {
    size_t content = header_size + bodies_bytes(bodies, count);
    enum err e = admit(link, header_size, content);
    if (e)
        return e;
    uint8_t *room = push_head(link, type, header_size, content);
    if (header_size)
        memcpy(room, header, header_size);
    push_bodies(link, bodies, count);
    return ERR_OK;
}

/* --- sending -------------------------------------------------------------- */

static unsigned gather(struct link *link, nng_iov iov[TX_VECTOR_MAX]) {
    struct link_tx *tx = &link->tx;
    unsigned n = 0;
    for (; n < TX_VECTOR_MAX && n < tx->count; n++) {
        const struct tx_chunk *chunk = &tx->chunks[tx->first + n];
        iov[n] = (nng_iov){.iov_buf = (void *)(uintptr_t)chunk->data, .iov_len = chunk->size};
    }
    return n;
}

/* TLS looks at one buffer only, and makes a record of each send. */
static unsigned gather_flat(struct link *link, nng_iov iov[TX_VECTOR_MAX]) {
    struct link_tx *tx = &link->tx;
    if (!tx->flat)
        tx->flat = xmalloc(TX_FLAT_BYTES);
    size_t fill = 0;
    for (size_t i = 0; i < tx->count && fill < TX_FLAT_BYTES; i++) {
        const struct tx_chunk *chunk = &tx->chunks[tx->first + i];
        size_t part = chunk->size < TX_FLAT_BYTES - fill ? chunk->size : TX_FLAT_BYTES - fill;
        memcpy(tx->flat + fill, chunk->data, part);
        fill += part;
    }
    iov[0] = (nng_iov){.iov_buf = tx->flat, .iov_len = fill};
    return 1;
}

/* The queue is empty. */
static void written(struct link *link) {
    if (link->state == LINK_CLOSING) {
        if (!link->lingers)
            link_die(link, LINK_END_LOCAL, ERR_OK, "");
        return;
    }
    release_all(link);
    if (link->options.handlers->drained)
        link->options.handlers->drained(link->options.ctx, link);
}

void link_tx_flush(struct link *link) {
    struct link_tx *tx = &link->tx;
    if (tx->in_flight || tx->failed || !link->stream)
        return;
    if (!tx->count) {
        if (link->state == LINK_CLOSING)
            written(link);
        return;
    }
    nng_iov iov[TX_VECTOR_MAX];
    unsigned n = link->flat ? gather_flat(link, iov) : gather(link, iov);
    CHECK(nng_aio_set_iov(link->send_aio, n, iov) == 0);
    tx->in_flight = true;
    nng_stream_send(link->stream, link->send_aio);
}

static void on_send_error(struct link *link, int rv) {
    if (link->state == LINK_CLOSING) {
        link_die(link, wire_cause(rv), wire_code(rv), nng_strerror(rv));
        return;
    }
    link->tx.failed = true;
    release_all(link);
    link_arm(link, LINK_LAST_WORDS_USEC);
}

void on_link_sent(struct loop_event *event) {
    struct link *link = container_of(event, struct link, sent);
    int rv = nng_aio_result(link->send_aio);
    link->tx.in_flight = false;
    if (link->state == LINK_DEAD) {
        link_settle(link);
        return;
    }
    if (rv != 0) {
        on_send_error(link, rv);
        return;
    }
    size_t count = nng_aio_count(link->send_aio);
    link->loop->stats->sends++;
    link->loop->stats->bytes_out += count;
    consume(link, count);
    if (link->tx.count)
        loop_defer(link->loop, &link->deferred);
    else
        written(link);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/codec.h"

#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"

enum { VARINT_BYTES_MAX = 10 };

void encoder_free(struct encoder *e) {
    free(e->data);
    *e = (struct encoder){0};
}

void encoder_reserve(struct encoder *e, size_t more) {
    xgrow(&e->data, &e->capacity, e->size + more, 1);
}

struct body *encoder_body(struct encoder *e) {
    struct body *b = body_copy(e->data, e->size);
    encoder_free(e);
    return b;
}

static uint8_t *claim(struct encoder *e, size_t size) {
    encoder_reserve(e, size);
    uint8_t *at = e->data + e->size;
    e->size += size;
    return at;
}

void encode_u8(struct encoder *e, uint8_t v) {
    *claim(e, 1) = v;
}

void encode_u16(struct encoder *e, uint16_t v) {
    put_u16(claim(e, 2), v);
}

void encode_u32(struct encoder *e, uint32_t v) {
    put_u32(claim(e, 4), v);
}

void encode_u64(struct encoder *e, uint64_t v) {
    put_u64(claim(e, 8), v);
}

void encode_varint(struct encoder *e, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        encode_u8(e, (uint8_t)(v | 0x80));
    encode_u8(e, (uint8_t)v);
}

void encode_raw(struct encoder *e, const void *data, size_t size) {
    if (size)
        memcpy(claim(e, size), data, size);
}

void encode_bytes(struct encoder *e, const void *data, size_t size) {
    encode_varint(e, size);
    encode_raw(e, data, size);
}

void encode_string(struct encoder *e, const char *text) {
    encode_bytes(e, text, strlen(text));
}

struct decoder decoder_of(const void *data, size_t size) {
    return (struct decoder){.data = data, .size = size};
}

size_t decoder_left(const struct decoder *d) {
    return d->failed ? 0 : d->size - d->position;
}

const uint8_t *decode_raw(struct decoder *d, size_t size) {
    if (d->failed || size > d->size - d->position) {
        d->failed = true;
        return NULL;
    }
    const uint8_t *at = d->data + d->position;
    d->position += size;
    return at;
}

uint8_t decode_u8(struct decoder *d) {
    const uint8_t *p = decode_raw(d, 1);
    return p ? *p : 0;
}

uint16_t decode_u16(struct decoder *d) {
    const uint8_t *p = decode_raw(d, 2);
    return p ? get_u16(p) : 0;
}

uint32_t decode_u32(struct decoder *d) {
    const uint8_t *p = decode_raw(d, 4);
    return p ? get_u32(p) : 0;
}

uint64_t decode_u64(struct decoder *d) {
    const uint8_t *p = decode_raw(d, 8);
    return p ? get_u64(p) : 0;
}

uint64_t decode_varint(struct decoder *d) {
    uint64_t v = 0;
    for (int i = 0; i < VARINT_BYTES_MAX; i++) {
        uint8_t byte = decode_u8(d);
        if (i == VARINT_BYTES_MAX - 1 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (!(byte & 0x80))
            return d->failed ? 0 : v;
    }
    d->failed = true;
    return 0;
}

const uint8_t *decode_bytes(struct decoder *d, size_t *size) {
    uint64_t n = decode_varint(d);
    *size = 0;
    if (d->failed || n > d->size - d->position) {
        d->failed = true;
        return NULL;
    }
    *size = (size_t)n;
    return decode_raw(d, (size_t)n);
}

void decode_string(struct decoder *d, char *out, size_t capacity) {
    size_t size;
    const uint8_t *p = decode_bytes(d, &size);
    out[0] = 0;
    if (!p || size >= capacity || (size && memchr(p, 0, size))) {
        d->failed = true;
        return;
    }
    if (size)
        memcpy(out, p, size);
    out[size] = 0;
}

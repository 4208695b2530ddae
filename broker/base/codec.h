// SPDX-License-Identifier: Apache-2.0
/*
 * Little-endian encoding into a growing buffer and bounded decoding from one:
 * the codec of everything the pure core stores (checkpoints, settlements,
 * metadata commands). Frames between processes use protobuf (wire/).
 *
 * A reader never runs past its end: a short read sets `failed`, returns zero,
 * and everything after it is zero too; check `failed` once at the end.
 */
#ifndef MAILROOM_BASE_CODEC_H
#define MAILROOM_BASE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct body;

struct encoder {
    uint8_t *data; /* owned; encoder_free or encoder_body gives it up */
    size_t size;
    size_t capacity;
};

struct decoder {
    const uint8_t *data;
    size_t size;
    size_t position;
    bool failed;
};

void encoder_free(struct encoder *e);
void encoder_reserve(struct encoder *e, size_t more);
/* The bytes as a body (one reference, caller's); the encoder is empty after. */
struct body *encoder_body(struct encoder *e);

void encode_u8(struct encoder *e, uint8_t v);
void encode_u16(struct encoder *e, uint16_t v);
void encode_u32(struct encoder *e, uint32_t v);
void encode_u64(struct encoder *e, uint64_t v);
/* LEB128, 1 to 10 bytes. */
void encode_varint(struct encoder *e, uint64_t v);
void encode_raw(struct encoder *e, const void *data, size_t size);
/* varint length, then bytes. */
void encode_bytes(struct encoder *e, const void *data, size_t size);
void encode_string(struct encoder *e, const char *text);

struct decoder decoder_of(const void *data, size_t size);
size_t decoder_left(const struct decoder *d);
uint8_t decode_u8(struct decoder *d);
uint16_t decode_u16(struct decoder *d);
uint32_t decode_u32(struct decoder *d);
uint64_t decode_u64(struct decoder *d);
uint64_t decode_varint(struct decoder *d);
/* A pointer into the decoder's bytes, NULL on a short read. */
const uint8_t *decode_raw(struct decoder *d, size_t size);
const uint8_t *decode_bytes(struct decoder *d, size_t *size);
/* Copies at most capacity-1 bytes and a NUL; a longer string or one with a NUL
 * inside fails the decoder. */
void decode_string(struct decoder *d, char *out, size_t capacity);

/* In place, for fixed layouts (batch and record headers). */
static inline void put_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put_u32(uint8_t *p, uint32_t v) {
    put_u16(p, (uint16_t)v);
    put_u16(p + 2, (uint16_t)(v >> 16));
}
static inline void put_u64(uint8_t *p, uint64_t v) {
    put_u32(p, (uint32_t)v);
    put_u32(p + 4, (uint32_t)(v >> 32));
}
static inline uint16_t get_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)get_u16(p) | (uint32_t)get_u16(p + 2) << 16;
}
static inline uint64_t get_u64(const uint8_t *p) {
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

#endif

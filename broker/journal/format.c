// SPDX-License-Identifier: Apache-2.0
#include "journal/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/xalloc.h"

static const char segment_magic[8] = "MRJOURNL";

uint32_t segment_seed(uint64_t identity, uint32_t number) {
    uint8_t bytes[12];
    put_u64(bytes, identity);
    put_u32(bytes + 8, number);
    return crc32c(0, bytes, sizeof bytes);
}

void segment_header_encode(uint8_t out[SEGMENT_HEADER_BYTES], const struct segment_header *h) {
    memset(out, 0, SEGMENT_HEADER_BYTES);
    memcpy(out, segment_magic, sizeof segment_magic);
    put_u32(out + 8, FORMAT_VERSION);
    put_u32(out + 12, h->number);
    put_u32(out + 16, h->data_bytes);
    put_u32(out + 20, h->previous);
    put_u64(out + 24, h->identity);
    put_u64(out + 32, h->start);
    out[40] = h->origin;
    put_u64(out + 44, h->suspect);
    put_u32(out + 60, crc32c(0, out, 60));
}

enum header_verdict segment_header_decode(const uint8_t in[SEGMENT_HEADER_BYTES],
                                          struct segment_header *out) {
    if (memcmp(in, segment_magic, sizeof segment_magic) != 0 || get_u32(in + 60) != crc32c(0, in, 60))
        return HEADER_BAD;
    if (get_u32(in + 8) != FORMAT_VERSION)
        return HEADER_NEWER;
    *out = (struct segment_header){.number = get_u32(in + 12),
                                   .data_bytes = get_u32(in + 16),
                                   .previous = get_u32(in + 20),
                                   .identity = get_u64(in + 24),
                                   .start = get_u64(in + 32),
                                   .origin = in[40],
                                   .suspect = get_u64(in + 44)};
    return HEADER_OK;
}

static uint32_t record_crc(const uint8_t header[RECORD_HEADER_BYTES], uint32_t seed, uint32_t offset) {
    uint8_t place[4];
    put_u32(place, offset);
    return crc32c(crc32c(seed, place, sizeof place), header + 4, RECORD_HEADER_BYTES - 4);
}

void record_encode(uint8_t out[RECORD_HEADER_BYTES], uint32_t seed, uint32_t offset, const struct record *r) {
    out[4] = r->kind;
    out[5] = r->type;
    out[6] = r->flags;
    out[7] = RECORD_MAGIC;
    put_u64(out + 8, r->partition);
    put_u64(out + 16, r->epoch);
    put_u64(out + 24, r->index);
    put_u32(out + 32, r->bytes);
    put_u32(out + 36, r->body_crc);
    put_u32(out, record_crc(out, seed, offset));
}

bool record_decode(const uint8_t in[RECORD_HEADER_BYTES], uint32_t seed, uint32_t offset,
                   struct record *out) {
    if (in[7] != RECORD_MAGIC || get_u32(in) != record_crc(in, seed, offset))
        return false;
    *out = (struct record){.kind = in[4],
                           .type = in[5],
                           .flags = in[6],
                           .partition = get_u64(in + 8),
                           .epoch = get_u64(in + 16),
                           .index = get_u64(in + 24),
                           .bytes = get_u32(in + 32),
                           .body_crc = get_u32(in + 36)};
    return out->bytes <= RECORD_BODY_BYTES_MAX;
}

bool record_states(uint8_t kind) {
    switch (kind) {
    case RECORD_ENTRY:
    case RECORD_PROMISE:
    case RECORD_TRUNCATE:
    case RECORD_CHECKPOINT:
    case RECORD_DROP:
    case RECORD_DAMAGE:
        return true;
    default:
        return false;
    }
}

uint64_t summary_bit(uint64_t partition) {
    /* the golden ratio spreads ids that count up over all 64 bits */
    return (uint64_t)1 << ((partition * 0x9E3779B97F4A7C15u) >> 58);
}

/* ---- the checkpoint's prefix ---- */

static void encode_live(struct encoder *e, const struct checkpoint_prefix *p) {
    uint64_t last = 0;
    encode_varint(e, p->live_count);
    for (size_t i = 0; i < p->live_count; i++) {
        const struct checkpoint_run *run = &p->live[i];
        CHECK(run->count > 0 && run->first > last);
        encode_varint(e, run->first - last);
        encode_varint(e, run->count - 1);
        encode_varint(e, run->epoch);
        last = run->first + run->count - 1;
    }
}

static void encode_tail(struct encoder *e, uint64_t base_index, const struct checkpoint_prefix *p) {
    uint64_t first = base_index;
    encode_varint(e, p->last_index - base_index);
    encode_varint(e, p->tail_count);
    for (size_t i = 0; i < p->tail_count; i++) {
        encode_varint(e, p->tail[i].first - first);
        encode_varint(e, p->tail[i].epoch);
        first = p->tail[i].first;
    }
}

void checkpoint_encode(struct encoder *e, uint64_t base_index, const struct checkpoint_prefix *p) {
    size_t start = e->size;
    encode_u32(e, 0);
    encode_u64(e, p->promise);
    encode_u8(e, (uint8_t)((p->damaged ? 1 : 0) | (p->promise_lost ? 2 : 0)));
    encode_u64(e, p->damaged_from);
    encode_live(e, p);
    encode_tail(e, base_index, p);
    put_u32(e->data + start, (uint32_t)(e->size - start));
}

/* A run takes at least three bytes (live) or two (tail): a count above what is
 * left is nonsense and must not be allocated. */
static struct checkpoint_run *runs_new(struct decoder *d, uint64_t count, size_t least) {
    if (count > decoder_left(d) / least)
        d->failed = true;
    return d->failed || count == 0 ? NULL : xcalloc((size_t)count, sizeof(struct checkpoint_run));
}

static void decode_live(struct decoder *d, struct checkpoint_prefix *out) {
    uint64_t count = decode_varint(d), last = 0;
    out->live = runs_new(d, count, 3);
    for (uint64_t i = 0; !d->failed && i < count; i++) {
        struct checkpoint_run *run = &out->live[i];
        run->first = last + decode_varint(d);
        run->count = decode_varint(d) + 1;
        run->epoch = decode_varint(d);
        last = run->first + run->count - 1;
        out->live_count++;
    }
}

static void decode_tail(struct decoder *d, uint64_t base_index, struct checkpoint_prefix *out) {
    out->last_index = base_index + decode_varint(d);
    uint64_t count = decode_varint(d), first = base_index;
    out->tail = runs_new(d, count, 2);
    for (uint64_t i = 0; !d->failed && i < count; i++) {
        out->tail[i].first = first + decode_varint(d);
        out->tail[i].epoch = decode_varint(d);
        first = out->tail[i].first;
        out->tail_count++;
    }
}

bool checkpoint_decode(const void *data, size_t size, uint64_t base_index, struct checkpoint_prefix *out) {
    *out = (struct checkpoint_prefix){0};
    struct decoder d = decoder_of(data, size);
    out->size = decode_u32(&d);
    if (d.failed || out->size > size || out->size < 4)
        return false;
    d.size = out->size;
    out->promise = decode_u64(&d);
    uint8_t flags = decode_u8(&d);
    out->damaged = flags & 1;
    out->promise_lost = flags & 2;
    out->damaged_from = decode_u64(&d);
    decode_live(&d, out);
    decode_tail(&d, base_index, out);
    return !d.failed && decoder_left(&d) == 0;
}

void checkpoint_prefix_free(struct checkpoint_prefix *p) {
    free(p->live);
    free(p->tail);
    p->live = p->tail = NULL;
}

/* ---- the seal ---- */

void seal_add(struct encoder *index, const struct record *r) {
    encode_u8(index, r->kind);
    encode_u8(index, r->type);
    encode_u8(index, r->flags);
    encode_varint(index, r->partition);
    encode_varint(index, r->epoch);
    encode_varint(index, r->index);
    encode_varint(index, r->bytes);
}

static uint32_t seal_crc(const uint8_t header[SEAL_HEADER_BYTES], uint32_t seed, const void *index,
                         size_t bytes) {
    return crc32c(crc32c(seed, header, 16), index, bytes);
}

void seal_header_encode(uint8_t out[SEAL_HEADER_BYTES], uint32_t seed, uint32_t count, uint32_t end,
                        const struct encoder *index) {
    put_u32(out, SEAL_MAGIC);
    put_u32(out + 4, count);
    put_u32(out + 8, end);
    put_u32(out + 12, (uint32_t)index->size);
    put_u32(out + 16, seal_crc(out, seed, index->data, index->size));
}

bool seal_header_decode(const uint8_t in[SEAL_HEADER_BYTES], struct seal *out) {
    *out = (struct seal){
        .count = get_u32(in + 4), .end = get_u32(in + 8), .bytes = get_u32(in + 12), .crc = get_u32(in + 16)};
    return get_u32(in) == SEAL_MAGIC;
}

bool seal_check(const uint8_t header[SEAL_HEADER_BYTES], uint32_t seed, const struct seal *s,
                const void *index) {
    return s->crc == seal_crc(header, seed, index, s->bytes);
}

bool seal_next(struct decoder *d, struct record *out) {
    *out = (struct record){0};
    out->kind = decode_u8(d);
    out->type = decode_u8(d);
    out->flags = decode_u8(d);
    out->partition = decode_varint(d);
    out->epoch = decode_varint(d);
    out->index = decode_varint(d);
    uint64_t bytes = decode_varint(d);
    out->bytes = (uint32_t)bytes;
    return !d->failed && bytes <= RECORD_BODY_BYTES_MAX;
}

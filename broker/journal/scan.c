// SPDX-License-Identifier: Apache-2.0
#include "journal/scan.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/xalloc.h"

static void add(struct scan *s, const struct record *r, uint32_t offset, uint32_t end, uint8_t what) {
    xgrow(&s->items, &s->capacity, s->count + 1, sizeof *s->items);
    s->items[s->count++] = (struct scan_item){.record = *r, .offset = offset, .end = end, .what = what};
    s->end = end;
    if (what != SCAN_RECORD)
        s->whole = false;
}

/* The next right header at or behind `at`, or size. */
static size_t next_header(const uint8_t *data, size_t size, uint32_t seed, size_t at) {
    struct record r;
    for (; at + RECORD_HEADER_BYTES <= size; at += RECORD_ALIGN_BYTES)
        if (data[at + 7] == RECORD_MAGIC && record_decode(data + at, seed, (uint32_t)at, &r))
            return at;
    return size;
}

static bool body_right(const uint8_t *data, size_t size, uint32_t seed, size_t at, const struct record *r) {
    if (r->bytes > size - at - RECORD_HEADER_BYTES)
        return false;
    return crc32c(seed, data + at + RECORD_HEADER_BYTES, r->bytes) == r->body_crc;
}

void scan_bytes(const uint8_t *data, size_t size, uint32_t seed, uint32_t from, struct scan *out) {
    *out = (struct scan){.end = from, .whole = true};
    for (size_t at = from;;) {
        size_t found = next_header(data, size, seed, at);
        if (found >= size)
            return;
        if (found > at)
            add(out, &(struct record){0}, (uint32_t)at, (uint32_t)found, SCAN_GAP);
        struct record r;
        record_decode(data + found, seed, (uint32_t)found, &r);
        bool right = body_right(data, size, seed, found, &r);
        size_t end = found + record_space(r.bytes);
        end = end < size ? end : size;
        add(out, &r, (uint32_t)found, (uint32_t)end, right ? SCAN_RECORD : SCAN_BAD_BODY);
        at = end;
    }
}

enum err scan_segment(struct store *s, uint64_t identity, uint32_t number, uint32_t size, struct scan *out) {
    uint8_t *data = xmalloc(size);
    size_t got = 0;
    *out = (struct scan){0};
    enum err e = store_read(s, number, 0, data, size, &got);
    if (e == ERR_OK)
        scan_bytes(data, got, segment_seed(identity, number), SEGMENT_HEADER_BYTES, out);
    free(data);
    return e;
}

static bool decode_index(const uint8_t *index, const struct seal *seal, struct scan *out) {
    struct decoder d = decoder_of(index, seal->bytes);
    uint64_t at = SEGMENT_HEADER_BYTES;
    *out = (struct scan){.end = SEGMENT_HEADER_BYTES, .whole = true};
    for (uint32_t i = 0; i < seal->count; i++) {
        struct record r;
        if (!seal_next(&d, &r) || at + record_space(r.bytes) > seal->end)
            return false;
        add(out, &r, (uint32_t)at, (uint32_t)(at + record_space(r.bytes)), SCAN_RECORD);
        at = out->end;
    }
    return decoder_left(&d) == 0 && out->end == seal->end;
}

bool scan_seal(struct store *s, uint64_t identity, uint32_t number, uint32_t data_bytes, uint32_t end,
               struct scan *out) {
    uint8_t header[SEAL_HEADER_BYTES];
    struct seal seal;
    size_t got = 0;
    *out = (struct scan){0};
    if (store_read(s, number, data_bytes, header, sizeof header, &got) != ERR_OK || got < sizeof header)
        return false;
    /* an index takes less room than what it is of */
    if (!seal_header_decode(header, &seal) || seal.bytes > data_bytes || seal.end > data_bytes ||
        seal.end < end)
        return false;
    uint8_t *index = xmalloc(seal.bytes + 1);
    bool good = store_read(s, number, data_bytes + sizeof header, index, seal.bytes, &got) == ERR_OK &&
                got == seal.bytes && seal_check(header, segment_seed(identity, number), &seal, index) &&
                decode_index(index, &seal, out);
    free(index);
    if (!good)
        scan_free(out);
    return good;
}

void scan_free(struct scan *s) {
    free(s->items);
    *s = (struct scan){0};
}

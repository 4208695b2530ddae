// SPDX-License-Identifier: Apache-2.0
#include "proto/batch.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/codec.h"
#include "base/crc.h"
#include "base/xalloc.h"

/* Where the fields stand; the table is in batch.h. */
enum {
    AT_BASE_OFFSET = 0,
    AT_EPOCH = 8,
    AT_STAMP = 16,
    AT_SIZE = 24,
    AT_CRC = 28,
    AT_MAGIC = 32,
    AT_VERSION = 34,
    AT_FLAGS = 35,
    AT_COUNT = 36,
    AT_PRODUCER = 40,
    AT_SEQUENCE = 56,
    AT_AFTER = 64,
    AT_PUBLISHED = 72,
    MESSAGE_FIXED_BYTES = BATCH_MESSAGE_OVERHEAD_BYTES,
    FIELD_FIXED_BYTES = 4
};

_Static_assert((int)AT_PUBLISHED + 8 == (int)BATCH_HEADER_BYTES, "the header's last field ends it");
_Static_assert((int)AT_MAGIC == (int)BATCH_LEADER_BYTES, "the checksum starts behind the leader's bytes");

void batch_read_header(const void *data, struct batch_header *out) {
    const uint8_t *p = data;
    out->base_offset = get_u64(p + AT_BASE_OFFSET);
    out->epoch = get_u64(p + AT_EPOCH);
    out->stamp = (int64_t)get_u64(p + AT_STAMP);
    out->size = get_u32(p + AT_SIZE);
    out->crc = get_u32(p + AT_CRC);
    out->flags = p[AT_FLAGS];
    out->count = get_u32(p + AT_COUNT);
    memcpy(out->producer.bytes, p + AT_PRODUCER, sizeof out->producer.bytes);
    out->sequence = get_u64(p + AT_SEQUENCE);
    out->after = get_u64(p + AT_AFTER);
    out->published = (int64_t)get_u64(p + AT_PUBLISHED);
}

/* One message's fields; false if they do not fit in `left` bytes at p. */
static bool read_message(const uint8_t *p, size_t left, struct batch_message *out) {
    if (left < MESSAGE_FIXED_BYTES)
        return false;
    size_t size = get_u32(p);
    if (size < MESSAGE_FIXED_BYTES - 4 || size > left - 4)
        return false;
    const uint8_t *at = p + MESSAGE_FIXED_BYTES, *end = p + 4 + size;
    size_t key_size = get_u16(p + 5);
    out->start = p;
    out->bytes = 4 + size;
    out->headers = get_u16(p + 7);
    if (key_size > (size_t)(end - at))
        return false;
    out->key = (struct batch_string){(const char *)at, key_size};
    at += key_size;
    out->headers_start = at;
    for (unsigned i = 0; i < out->headers; i++) {
        if ((size_t)(end - at) < FIELD_FIXED_BYTES)
            return false;
        size_t field = (size_t)get_u16(at) + get_u16(at + 2);
        if (get_u16(at) == 0 || field > (size_t)(end - at) - FIELD_FIXED_BYTES)
            return false;
        at += FIELD_FIXED_BYTES + field;
    }
    out->payload = (struct batch_string){(const char *)at, (size_t)(end - at)};
    return true;
}

static enum err check_messages(const void *data, size_t size, uint32_t count, struct err_detail *detail) {
    struct batch_cursor cursor = batch_messages(data, size);
    struct batch_message m;
    uint32_t seen = 0;
    while (batch_next(&cursor, &m)) {
        if (m.key.size > BATCH_KEY_BYTES_MAX || m.headers > BATCH_HEADERS_MAX)
            return err_set(detail, ERR_INVALID,
                           "batch: message %u: key of %zu bytes and %u headers, expected at most %d and %d", seen,
                           m.key.size, m.headers, BATCH_KEY_BYTES_MAX, BATCH_HEADERS_MAX);
        seen++;
    }
    if (cursor.at != cursor.end)
        return err_set(detail, ERR_INVALID, "batch: message %u is malformed", seen);
    if (seen != count)
        return err_set(detail, ERR_INVALID, "batch: %u messages found, header says %u", seen, count);
    return ERR_OK;
}

enum err batch_check(const void *data, size_t size, struct err_detail *detail) {
    const uint8_t *p = data;
    if (size < BATCH_HEADER_BYTES)
        return err_set(detail, ERR_INVALID, "batch: %zu bytes, expected at least %d", size, BATCH_HEADER_BYTES);
    if (get_u16(p + AT_MAGIC) != BATCH_MAGIC)
        return err_set(detail, ERR_INVALID, "batch: magic %04x, expected %04x", get_u16(p + AT_MAGIC), BATCH_MAGIC);
    if (p[AT_VERSION] != BATCH_VERSION)
        return err_set(detail, ERR_INVALID, "batch: version %u, expected %d", p[AT_VERSION], BATCH_VERSION);
    struct batch_header h;
    batch_read_header(data, &h);
    if (h.size != size)
        return err_set(detail, ERR_INVALID, "batch: %zu bytes, header says %u", size, h.size);
    if (h.crc != crc32c(0, p + BATCH_LEADER_BYTES, size - BATCH_LEADER_BYTES))
        return err_set(detail, ERR_INVALID, "batch: checksum does not match its bytes");
    if (h.count == 0 || h.count > BATCH_MESSAGES_MAX)
        return err_set(detail, ERR_INVALID, "batch: %u messages, expected 1 to %d", h.count, BATCH_MESSAGES_MAX);
    if (h.sequence <= h.after)
        return err_set(detail, ERR_INVALID, "batch: sequence %llu not above after %llu", (unsigned long long)h.sequence,
                       (unsigned long long)h.after);
    return check_messages(data, size, h.count, detail);
}

void batch_stamp(void *data, uint64_t base_offset, uint64_t epoch, int64_t stamp) {
    uint8_t *p = data;
    put_u64(p + AT_BASE_OFFSET, base_offset);
    put_u64(p + AT_EPOCH, epoch);
    put_u64(p + AT_STAMP, (uint64_t)stamp);
}

struct batch_cursor batch_messages(const void *data, size_t size) {
    const uint8_t *p = data;
    return (struct batch_cursor){p + (size < BATCH_HEADER_BYTES ? size : BATCH_HEADER_BYTES), p + size};
}

struct batch_cursor batch_run(const void *run, size_t size) {
    const uint8_t *p = run;
    return (struct batch_cursor){p, p + size};
}

bool batch_next(struct batch_cursor *cursor, struct batch_message *out) {
    if (cursor->at == cursor->end || !read_message(cursor->at, (size_t)(cursor->end - cursor->at), out))
        return false;
    cursor->at += out->bytes;
    return true;
}

void batch_header_next(const uint8_t **at, struct batch_string *name, struct batch_string *value) {
    const uint8_t *p = *at;
    *name = (struct batch_string){(const char *)p + FIELD_FIXED_BYTES, get_u16(p)};
    *value = (struct batch_string){name->data + name->size, get_u16(p + 2)};
    *at = p + FIELD_FIXED_BYTES + name->size + value->size;
}

static bool skip(struct batch_cursor *cursor, uint32_t count) {
    struct batch_message m;
    for (; count > 0; count--)
        if (!batch_next(cursor, &m))
            return false;
    return true;
}

bool batch_slice(const void *data, size_t size, uint32_t first, uint32_t count, size_t *offset, size_t *bytes) {
    struct batch_cursor cursor = batch_messages(data, size);
    if (!skip(&cursor, first))
        return false;
    const uint8_t *start = cursor.at;
    if (!skip(&cursor, count))
        return false;
    *offset = (size_t)(start - (const uint8_t *)data);
    *bytes = (size_t)(cursor.at - start);
    return true;
}

size_t batch_message_bytes(size_t key_size, const struct batch_field *headers, size_t headers_count,
                           size_t payload_size) {
    size_t n = MESSAGE_FIXED_BYTES + key_size + payload_size;
    for (size_t i = 0; i < headers_count; i++)
        n += FIELD_FIXED_BYTES + headers[i].name_size + headers[i].value_size;
    return n;
}

static bool fields_fit(const struct batch_field *headers, size_t count) {
    if (count > BATCH_HEADERS_MAX)
        return false;
    for (size_t i = 0; i < count; i++)
        if (headers[i].name_size == 0 || headers[i].name_size > UINT16_MAX || headers[i].value_size > UINT16_MAX)
            return false;
    return true;
}

static uint8_t *put_bytes(uint8_t *p, const void *data, size_t size) {
    if (size)
        memcpy(p, data, size);
    return p + size;
}

enum err batch_add(struct batch_builder *b, const void *key, size_t key_size, const struct batch_field *headers,
                   size_t headers_count, const void *payload, size_t payload_size) {
    if (key_size > BATCH_KEY_BYTES_MAX || !fields_fit(headers, headers_count) || b->count == BATCH_MESSAGES_MAX ||
        payload_size > UINT32_MAX / 2)
        return ERR_TOO_LARGE;
    size_t bytes = batch_message_bytes(key_size, headers, headers_count, payload_size);
    if (b->size == 0)
        b->size = BATCH_HEADER_BYTES;
    xgrow(&b->data, &b->capacity, b->size + bytes, 1);
    uint8_t *p = b->data + b->size;
    put_u32(p, (uint32_t)(bytes - 4));
    p[4] = 0;
    put_u16(p + 5, (uint16_t)key_size);
    put_u16(p + 7, (uint16_t)headers_count);
    p = put_bytes(p + MESSAGE_FIXED_BYTES, key, key_size);
    for (size_t i = 0; i < headers_count; i++) {
        put_u16(p, (uint16_t)headers[i].name_size);
        put_u16(p + 2, (uint16_t)headers[i].value_size);
        p = put_bytes(p + FIELD_FIXED_BYTES, headers[i].name, headers[i].name_size);
        p = put_bytes(p, headers[i].value, headers[i].value_size);
    }
    put_bytes(p, payload, payload_size);
    b->size += bytes;
    b->count++;
    return ERR_OK;
}

void batch_finish(struct batch_builder *b, const struct producer_id *producer, uint64_t sequence, uint64_t after,
                  int64_t published, uint8_t flags) {
    uint8_t *p = b->data;
    memset(p, 0, BATCH_HEADER_BYTES);
    put_u32(p + AT_SIZE, (uint32_t)b->size);
    put_u16(p + AT_MAGIC, BATCH_MAGIC);
    p[AT_VERSION] = BATCH_VERSION;
    p[AT_FLAGS] = flags;
    put_u32(p + AT_COUNT, b->count);
    memcpy(p + AT_PRODUCER, producer->bytes, sizeof producer->bytes);
    put_u64(p + AT_SEQUENCE, sequence);
    put_u64(p + AT_AFTER, after);
    put_u64(p + AT_PUBLISHED, (uint64_t)published);
    put_u32(p + AT_CRC, crc32c(0, p + BATCH_LEADER_BYTES, b->size - BATCH_LEADER_BYTES));
}

void batch_builder_free(struct batch_builder *b) {
    free(b->data);
    *b = (struct batch_builder){0};
}

uint64_t batch_key_hash(const void *key, size_t size) {
    return XXH64(key, size, 0);
}

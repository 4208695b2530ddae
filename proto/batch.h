// SPDX-License-Identifier: Apache-2.0
/*
 * The batch: messages packed by the client library, then stored, replicated
 * and read as one piece; a broker never re-encodes it.
 *
 * Bytes (little-endian). The first 32 bytes are the leader's: outside the
 * checksum, set in place without touching the rest.
 *
 *   at  size  field
 *    0    8   base_offset    offset of the first message in the partition
 *    8    8   epoch          of the leader that appended it
 *   16    8   stamp          usec, the leader's log time (never goes back)
 *   24    4   size           bytes of the whole batch, header included
 *   28    4   crc            CRC-32C over bytes 32 .. size
 *   32    2   magic          0x4d42 ("BM")
 *   34    1   version        BATCH_VERSION
 *   35    1   flags          BATCH_DEAD_LETTER or 0
 *   36    4   count          messages, 1 .. BATCH_MESSAGES_MAX
 *   40   16   producer       random bits drawn by the client
 *   56    8   sequence       of this batch, per (producer, partition), from 1
 *   64    8   after          last sequence before it that was not abandoned
 *   72    8   published      usec since 1970 by the publisher's clock
 *   80        messages
 *
 * A message:
 *   u32 size (of what follows), u8 flags (0), u16 key size, u16 headers count,
 *   key, headers (u16 name size, u16 value size, name, value), payload (rest).
 *
 * Valid: magic, version known; size equals the bytes at hand; CRC right; count
 * messages fill it exactly; sequence > after; names not empty. batch_check says
 * which rule a batch breaks. `size` and `crc` are written by the client; they
 * stand in the first 32 bytes because the checksum cannot cover itself.
 *
 * To change the format: bump BATCH_VERSION, keep the old reader, add a fixture
 * to tests/data.
 */
#ifndef MAILROOM_PROTO_BATCH_H
#define MAILROOM_PROTO_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    BATCH_HEADER_BYTES = 80,
    BATCH_LEADER_BYTES = 32, /* base_offset .. crc: outside the checksum */
    BATCH_VERSION = 1,
    BATCH_MAGIC = 0x4d42,
    BATCH_MESSAGES_MAX = 65536,
    BATCH_KEY_BYTES_MAX = 1024,
    BATCH_HEADERS_MAX = 64,
    BATCH_MESSAGE_OVERHEAD_BYTES = 9,
    BATCH_FLAG_DEAD_LETTER = 1
};

struct producer_id {
    uint8_t bytes[16];
};

struct batch_header {
    uint64_t base_offset;
    uint64_t epoch;
    int64_t stamp;
    uint32_t size;
    uint32_t crc;
    uint8_t flags;
    uint32_t count;
    struct producer_id producer;
    uint64_t sequence;
    uint64_t after;
    int64_t published;
};

struct batch_string {
    const char *data; /* into the batch; not NUL-terminated */
    size_t size;
};

struct batch_message {
    const uint8_t *start; /* the message's bytes, its size field included */
    size_t bytes;
    struct batch_string key;
    uint16_t headers; /* count; read with batch_header_next */
    const uint8_t *headers_start;
    struct batch_string payload;
};

/* A position in the messages of a batch or of a delivered run. */
struct batch_cursor {
    const uint8_t *at;
    const uint8_t *end;
};

/* The header's fields; size must be >= BATCH_HEADER_BYTES. Checks nothing. */
void batch_read_header(const void *data, struct batch_header *out);
/* All rules of the table above. ERR_INVALID with the rule in *detail. */
enum err batch_check(const void *data, size_t size, struct err_detail *detail);
/* The leader's three fields, in place. */
void batch_stamp(void *data, uint64_t base_offset, uint64_t epoch, int64_t stamp);

/* Walk the messages: false at the end or at malformed bytes (cursor->at is then
 * not at cursor->end). */
struct batch_cursor batch_messages(const void *data, size_t size);
struct batch_cursor batch_run(const void *run, size_t size);
bool batch_next(struct batch_cursor *cursor, struct batch_message *out);
/* Headers of one message: start with *at = message->headers_start. */
void batch_header_next(const uint8_t **at, struct batch_string *name, struct batch_string *value);
/* Bytes [*offset, *offset + *size) of the batch that hold messages first ..
 * first+count-1 (0-based). False if there are not as many. */
bool batch_slice(const void *data, size_t size, uint32_t first, uint32_t count, size_t *offset,
                 size_t *bytes);

/* Building, on the client: start, add messages, finish. The buffer grows. */
struct batch_builder {
    uint8_t *data;
    size_t size;
    size_t capacity;
    uint32_t count;
};
struct batch_field {
    const char *name;
    size_t name_size;
    const char *value;
    size_t value_size;
};
/* Bytes the message would add. */
size_t batch_message_bytes(size_t key_size, const struct batch_field *headers, size_t headers_count,
                           size_t payload_size);
/* Key at most BATCH_KEY_BYTES_MAX, headers at most BATCH_HEADERS_MAX with names
 * and values under 64 KiB: ERR_TOO_LARGE else, nothing changed. */
enum err batch_add(struct batch_builder *b, const void *key, size_t key_size,
                   const struct batch_field *headers, size_t headers_count, const void *payload,
                   size_t payload_size);
/* Write the header and checksum; the builder's bytes are then a valid batch.
 * May be called again with other values (a batch not yet sent). */
void batch_finish(struct batch_builder *b, const struct producer_id *producer, uint64_t sequence,
                  uint64_t after, int64_t published, uint8_t flags);
void batch_builder_free(struct batch_builder *b);

/* The key's hash: xxHash64, seed 0 (route by key: hash mod P; dispatch by key). */
uint64_t batch_key_hash(const void *key, size_t size);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The journal's bytes and what makes them valid. Little-endian throughout.
 *
 * A segment file "%08x.seg":
 *
 *        0   segment header, 64 bytes
 *       64   records, back to back, each padded with zeros to 8 bytes
 *      end   zeros, or an older file's bytes (their seed differs)
 *   data_bytes   the seal: an index of the records, once the segment is full
 *
 * Segment header:
 *
 *   at  size  field
 *    0    8   magic "MRJOURNL"
 *    8    4   version        FORMAT_VERSION
 *   12    4   number         as in the file's name
 *   16    4   data_bytes     where the seal stands
 *   20    4   previous       the segment before it, 0: none
 *   24    8   identity       of the journal
 *   32    8   start          how often the journal had been opened
 *   40    1   origin         enum segment_origin
 *   41    3   zeros
 *   44    8   suspect        summary of partitions that may have been lost wholly
 *   52    8   zeros
 *   60    4   crc            CRC-32C over bytes 0 .. 60
 *
 * Record header, 40 bytes, at an offset divisible by 8:
 *
 *    0    4   crc            over the offset (u32), then bytes 4 .. 40, seeded
 *    4    1   kind           enum record_kind
 *    5    1   type           an entry's, the caller's own
 *    6    1   flags
 *    7    1   magic          RECORD_MAGIC
 *    8    8   partition
 *   16    8   epoch
 *   24    8   index
 *   32    4   bytes          of the body
 *   36    4   body_crc       over the body, seeded
 *
 * The seed of a segment is the CRC-32C of identity (u64) and number (u32), so
 * that bytes of another file, or of another use of the same one, never pass.
 *
 *   kind        partition   epoch       index           body
 *   FLUSH       summary     its number  proven          -
 *   SEGMENTS    0           0           0               (u32 number, u32 end)*
 *   ENTRY       id          its epoch   its index       the entry
 *   PROMISE     id          promise     boot            -
 *   TRUNCATE    id          0           after           -
 *   CHECKPOINT  id          base epoch  base index      prefix, opaque bytes
 *   DROP        id          promise     0               -
 *   STAGED      id          its epoch   its index       the batch
 *   MOVED       id          its epoch   its index       as the record it is a copy of
 *   DAMAGE      id          0           from            - (flag: the promise may be lost)
 *   REMOVED     0           0           segment         -
 *
 * Each write opens with a FLUSH: its number (they count up by one), the position
 * proven synced by then, and a summary of the partitions in it: bit summary_bit
 * of each. A record is valid if its header's CRC is right and its body's; a
 * record whose header is right shows where the next one starts even if its body
 * is bad. A segment counts once its SEGMENTS record is there: at the start of
 * one that follows a full one (ORIGIN_ROTATION), behind the rewritten records in
 * one that was begun by recovery (ORIGIN_RECOVERY); it names the older segments
 * in use, each with the end of what counts in it.
 *
 * A PROMISE's boot names the boot of the machine under which the log was last said
 * to be whole; 0: not said. A checkpoint is followed by one, if that is known.
 *
 * Checkpoint prefix: u32 its size (this field included), u64 promise, u8 flags
 * (1 damaged, 2 promise lost), u64 damaged from, varint count of live runs, each
 * (varint first index less the last of the run before, varint count less 1,
 * varint epoch), varint last index less base, varint count of epoch runs behind
 * the base, each (varint first index less the first of the run before or the
 * base, varint epoch).
 *
 * Seal: u32 SEAL_MAGIC, u32 count, u32 end, u32 bytes, u32 crc over those 16 and
 * the index, seeded; then the index: per record kind, type, flags, varints
 * partition, epoch, index, bytes. Offsets follow from the sizes. A seal is a
 * short cut: if it is bad the segment is scanned.
 *
 * To change any of this: bump FORMAT_VERSION, keep the old reader, add a fixture
 * to tests/unit/journal. A file with a higher version is refused, not touched.
 */
#ifndef MAILROOM_JOURNAL_FORMAT_H
#define MAILROOM_JOURNAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"

enum {
    FORMAT_VERSION = 1,
    SEGMENT_HEADER_BYTES = 64,
    RECORD_HEADER_BYTES = 40,
    RECORD_ALIGN_BYTES = 8,
    RECORD_MAGIC = 0x4a,
    SEAL_HEADER_BYTES = 20,
    SEAL_MAGIC = 0x4c41454a,
    DAMAGE_FLAG_PROMISE_LOST = 1
};

/* A body above this could not be told from nonsense, and no caller needs it. */
#define RECORD_BODY_BYTES_MAX ((uint32_t)512 << 20)

/* Written once: kinds, their numbers on disk. Only append. */
#define RECORD_KINDS(X)                                                                                      \
    X(FLUSH, 1)                                                                                              \
    X(SEGMENTS, 2)                                                                                           \
    X(ENTRY, 3)                                                                                              \
    X(PROMISE, 4)                                                                                            \
    X(TRUNCATE, 5)                                                                                           \
    X(CHECKPOINT, 6)                                                                                         \
    X(DROP, 7)                                                                                               \
    X(STAGED, 8)                                                                                             \
    X(MOVED, 9)                                                                                              \
    X(DAMAGE, 10)                                                                                            \
    X(REMOVED, 11)

enum record_kind {
    RECORD_NONE = 0,
#define X(name, number) RECORD_##name = (number),
    RECORD_KINDS(X)
#undef X
        RECORD_KINDS_END
};

enum segment_origin { ORIGIN_ROTATION = 1, ORIGIN_RECOVERY = 2 };

/* A place in the journal; compares by segment, then offset. */
struct position {
    uint32_t segment;
    uint32_t offset;
};

static inline uint64_t position_value(struct position p) {
    return (uint64_t)p.segment << 32 | p.offset;
}
static inline struct position position_of(uint64_t value) {
    return (struct position){(uint32_t)(value >> 32), (uint32_t)value};
}
static inline bool position_before(struct position a, struct position b) {
    return position_value(a) < position_value(b);
}

struct segment_header {
    uint32_t number;
    uint32_t data_bytes;
    uint32_t previous;
    uint64_t identity;
    uint64_t start;
    uint8_t origin;
    uint64_t suspect;
};

struct record {
    uint8_t kind;
    uint8_t type;
    uint8_t flags;
    uint64_t partition;
    uint64_t epoch;
    uint64_t index;
    uint32_t bytes;
    uint32_t body_crc;
};

uint32_t segment_seed(uint64_t identity, uint32_t number);
void segment_header_encode(uint8_t out[SEGMENT_HEADER_BYTES], const struct segment_header *h);

enum header_verdict { HEADER_OK, HEADER_BAD, HEADER_NEWER };
enum header_verdict segment_header_decode(const uint8_t in[SEGMENT_HEADER_BYTES], struct segment_header *out);

void record_encode(uint8_t out[RECORD_HEADER_BYTES], uint32_t seed, uint32_t offset, const struct record *r);
/* False: not a record of this segment at this offset. */
bool record_decode(const uint8_t in[RECORD_HEADER_BYTES], uint32_t seed, uint32_t offset, struct record *out);
/* Header, body and padding. */
static inline uint64_t record_space(uint64_t body_bytes) {
    return RECORD_HEADER_BYTES +
           ((body_bytes + RECORD_ALIGN_BYTES - 1) & ~(uint64_t)(RECORD_ALIGN_BYTES - 1));
}
/* Whether the kind says something about a partition by itself: a segment with
 * one goes only when a newer checkpoint covers it. Copies (MOVED, STAGED) do not. */
bool record_states(uint8_t kind);
/* One bit of 64 for a partition. */
uint64_t summary_bit(uint64_t partition);

/* ---- the checkpoint's prefix ---- */

struct checkpoint_run {
    uint64_t first;
    uint64_t count; /* of live runs; epoch runs go on to the next or the last index */
    uint64_t epoch;
};

struct checkpoint_prefix {
    uint32_t size;
    uint64_t promise;
    bool damaged;
    bool promise_lost;
    uint64_t damaged_from;
    struct checkpoint_run *live; /* owned by the caller */
    size_t live_count;
    uint64_t last_index;
    struct checkpoint_run *tail;
    size_t tail_count;
};

void checkpoint_encode(struct encoder *e, uint64_t base_index, const struct checkpoint_prefix *p);
/* Allocates the runs; free with checkpoint_prefix_free (also on failure). */
bool checkpoint_decode(const void *data, size_t size, uint64_t base_index, struct checkpoint_prefix *out);
void checkpoint_prefix_free(struct checkpoint_prefix *p);

/* ---- the seal ---- */

void seal_add(struct encoder *index, const struct record *r);
void seal_header_encode(uint8_t out[SEAL_HEADER_BYTES], uint32_t seed, uint32_t count, uint32_t end,
                        const struct encoder *index);
struct seal {
    uint32_t count;
    uint32_t end;
    uint32_t bytes;
    uint32_t crc;
};
/* False: no seal there. The index's CRC is checked by seal_check. */
bool seal_header_decode(const uint8_t in[SEAL_HEADER_BYTES], struct seal *out);
bool seal_check(const uint8_t header[SEAL_HEADER_BYTES], uint32_t seed, const struct seal *s,
                const void *index);
/* The next record of the index; false at a malformed one. */
bool seal_next(struct decoder *d, struct record *out);

#endif

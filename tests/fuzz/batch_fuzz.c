// SPDX-License-Identifier: Apache-2.0
/* A batch from the wire: whatever batch_check lets pass must be walked, sliced
 * and counted without a surprise; whatever it refuses must be walked safely. */
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/crc.h"
#include "base/xalloc.h"
#include "fuzz.h"
#include "proto/batch.h"

enum { SIZE_AT = 24, CRC_AT = 28, SLICE_STEPS = 8 };

static volatile uint64_t sink;

static uint32_t walk(struct batch_cursor cursor, const uint8_t *start, const uint8_t *end) {
    struct batch_message m;
    struct batch_string name, value;
    uint32_t count = 0;
    for (; batch_next(&cursor, &m); count++) {
        EXPECT(m.start >= start && m.start + m.bytes <= end);
        EXPECT((const uint8_t *)m.payload.data + m.payload.size <= m.start + m.bytes);
        const uint8_t *at = m.headers_start;
        for (uint16_t i = 0; i < m.headers; i++) {
            batch_header_next(&at, &name, &value);
            sink = name.size + value.size;
        }
        sink = batch_key_hash(m.key.data, m.key.size);
        if (m.payload.size)
            sink = (uint8_t)m.payload.data[m.payload.size - 1];
    }
    return count;
}

static void slices(const uint8_t *batch, size_t size, uint32_t count, struct fuzz_input *in) {
    for (int i = 0; i < SLICE_STEPS; i++) {
        uint32_t first = (uint32_t)fuzz_take(in, 2), n = (uint32_t)fuzz_take(in, 2);
        size_t at, bytes;
        bool there = batch_slice(batch, size, first, n, &at, &bytes);
        EXPECT(!there || (at <= size && bytes <= size - at && (uint64_t)first + n <= count));
        if (there)
            EXPECT(walk(batch_run(batch + at, bytes), batch, batch + size) == n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    bool mend = fuzz_take(&in, 1) & 1;
    uint8_t *batch = xmalloc(in.size + 1);
    size_t bytes = in.size;
    memcpy(batch, in.data, bytes);
    if (mend && bytes >= BATCH_HEADER_BYTES) { /* else only the checksum would be tested */
        put_u32(batch + SIZE_AT, (uint32_t)bytes);
        put_u32(batch + CRC_AT, crc32c(0, batch + BATCH_LEADER_BYTES, bytes - BATCH_LEADER_BYTES));
    }
    if (batch_check(batch, bytes, NULL) == ERR_OK) {
        struct batch_header h;
        batch_read_header(batch, &h);
        EXPECT(h.size == bytes && h.sequence > h.after && h.count >= 1);
        EXPECT(walk(batch_messages(batch, bytes), batch, batch + bytes) == h.count);
        slices(batch, bytes, h.count, &in);
        batch_stamp(batch, 7, 8, 9);
        EXPECT(batch_check(batch, bytes, NULL) == ERR_OK);
    }
    walk(batch_run(batch, bytes), batch, batch + bytes);
    free(batch);
    return 0;
}

void fuzz_seeds(void) {
    struct batch_builder b = {0};
    struct producer_id id = {{1, 2, 3}};
    struct batch_field field = {"name", 4, "value", 5};
    for (int i = 0; i < 3; i++) {
        batch_add(&b, "key", (size_t)i, &field, (size_t)i / 2, "payload", 7);
        batch_finish(&b, &id, 5, 4, 1000, 0);
        uint8_t *out = xmalloc(b.size + 1);
        out[0] = 1;
        memcpy(out + 1, b.data, b.size);
        fuzz_seed(out, b.size + 1);
        free(out);
    }
    batch_builder_free(&b);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/counters.h"

#include <string.h>

enum { COUNTERS_MAGIC = 0x3143524d };

struct header {
    uint32_t magic;
    uint32_t version;
    uint32_t rows;
    uint32_t row_bytes;
    uint32_t rows_at;
};

_Static_assert(sizeof(struct header) <= COUNTERS_BLOCK_AT, "the header ends before the process's block");
_Static_assert(COUNTERS_BLOCK_AT + COUNTERS_BLOCK_BYTES <= COUNTERS_ROWS_AT,
               "the block ends before the rows");
_Static_assert(COUNTERS_ROWS_AT + COUNTERS_COUNT * sizeof(struct counters_row) <= COUNTERS_SEGMENT_BYTES,
               "all counters fit the segment");
#define X(name, type, unit, help)                                                                            \
    _Static_assert(sizeof #name <= COUNTERS_NAME_BYTES && sizeof unit <= COUNTERS_UNIT_BYTES &&              \
                       sizeof help <= COUNTERS_HELP_BYTES,                                                   \
                   "the texts of " #name " fit a row");
COUNTERS(X)
#undef X

static struct counters_row own_rows[COUNTERS_COUNT] = {
#define X(name, type, unit, help) {0, COUNTER_TYPE_##type, 0, #name, unit, help},
    COUNTERS(X)
#undef X
};

struct counters_row *counters_rows = own_rows;

void counters_open(void *segment) {
    struct header *h = segment;
    struct counters_row *rows = (struct counters_row *)((char *)segment + COUNTERS_ROWS_AT);
    memcpy(rows, counters_rows, sizeof own_rows);
    h->version = COUNTERS_VERSION;
    h->rows = COUNTERS_COUNT;
    h->row_bytes = sizeof *rows;
    h->rows_at = COUNTERS_ROWS_AT;
    counters_rows = rows;
    __atomic_store_n(&h->magic, COUNTERS_MAGIC, __ATOMIC_RELEASE);
}

static void copy_text(char *out, const char *in, size_t size) {
    memcpy(out, in, size);
    out[size - 1] = 0;
}

/* The header as read once: its writer may change it under our eyes. */
static bool read_header(const void *segment, size_t size, struct header *h) {
    const uint32_t *magic = segment;
    if (size < sizeof *h || __atomic_load_n(magic, __ATOMIC_ACQUIRE) != COUNTERS_MAGIC)
        return false;
    memcpy(h, segment, sizeof *h);
    uint64_t end = h->rows_at + (uint64_t)h->rows * h->row_bytes;
    return h->version == COUNTERS_VERSION && h->row_bytes >= sizeof(struct counters_row) &&
           h->row_bytes % 8 == 0 && h->rows_at % 8 == 0 && end <= size;
}

bool counters_next(const void *segment, size_t size, size_t *position, struct counters_sample *out) {
    struct header h;
    if (!read_header(segment, size, &h) || *position >= h.rows)
        return false;
    const char *at = (const char *)segment + h.rows_at + *position * h.row_bytes;
    const struct counters_row *row = (const struct counters_row *)(const void *)at;
    out->value = __atomic_load_n(&row->value, __ATOMIC_RELAXED);
    out->type = row->type == COUNTER_TYPE_GAUGE ? COUNTER_TYPE_GAUGE : COUNTER_TYPE_COUNTER;
    copy_text(out->name, row->name, sizeof out->name);
    copy_text(out->unit, row->unit, sizeof out->unit);
    copy_text(out->help, row->help, sizeof out->help);
    ++*position;
    return true;
}

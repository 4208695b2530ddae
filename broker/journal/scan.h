// SPDX-License-Identifier: Apache-2.0
/*
 * A segment's records: from its bytes, or from its seal.
 *
 * A scan goes on behind bad bytes: a header that is wrong is a gap up to the
 * next header that is right. What that means (a torn tail, damage) is for
 * recovery to say.
 */
#ifndef MAILROOM_JOURNAL_SCAN_H
#define MAILROOM_JOURNAL_SCAN_H

#include "journal/format.h"
#include "journal/store.h"

enum scan_what {
    SCAN_RECORD,   /* header and body right */
    SCAN_BAD_BODY, /* header right, body not (or cut off by the file's end) */
    SCAN_GAP       /* no header that is right from offset to end */
};

struct scan_item {
    struct record record;
    uint32_t offset;
    uint32_t end; /* where the next one starts */
    uint8_t what;
};

struct scan {
    struct scan_item *items;
    size_t count, capacity;
    uint32_t end; /* behind the last item */
    bool whole;   /* every item is a SCAN_RECORD */
};

/* Pure: the records in data[from .. size), with their bodies checked. Behind the
 * last right header nothing is reported. */
void scan_bytes(const uint8_t *data, size_t size, uint32_t seed, uint32_t from, struct scan *out);
/* The same for a file: its first `size` bytes. ERR_IO, ERR_STALE. */
enum err scan_segment(struct store *s, uint64_t identity, uint32_t number, uint32_t size, struct scan *out);
/* From its seal at data_bytes, which must reach to `end`. Bodies are not looked
 * at. False: no good seal. */
bool scan_seal(struct store *s, uint64_t identity, uint32_t number, uint32_t data_bytes, uint32_t end,
               struct scan *out);
void scan_free(struct scan *s);

#endif

// SPDX-License-Identifier: Apache-2.0
/* A journal whose files were spoiled: recovery finds a way through, twice the
 * same, and what it gives out is what was written or an error. Spoiled headers
 * get a right checksum now and then, so that nonsense passes the outer gates. */
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/crc.h"
#include "fuzz.h"
#include "journal/format.h"
#include "rig.h"

enum { SPOILS_MAX = 12, PARTITIONS = 4 };

static struct mem_disk *image; /* a journal in good order */

/* A record was replaced by one whose checksums are right, as no disk does: what
 * stood behind it may be found on one way (the segment's list) and not on
 * another (its records, one after the other). */
static bool forged;

static void checkpoint(struct rig *r, uint64_t partition, uint64_t base, uint64_t epoch) {
    struct journal_live live = {.index = base - 1};
    struct journal_checkpoint c = {.base_index = base,
                                   .base_epoch = epoch,
                                   .live = &live,
                                   .live_count = 1,
                                   .body = rig_body(1, 2, 3, 50)};
    EXPECT(journal_write_checkpoint(r->journal, partition, &c) == ERR_OK);
    body_drop(c.body);
}

static struct mem_disk *make_image(void) {
    struct rig r;
    rig_new(&r);
    EXPECT(rig_open(&r) == ERR_OK);
    for (uint64_t i = 1; i <= 30; i++) {
        for (uint64_t p = 1; p <= PARTITIONS; p++)
            rig_entry(&r, p, i / 10 + 1, i, 20 * p);
        if (i % 3 == 0)
            rig_sync(&r);
        if (i == 15)
            rig_reopen(&r);
        if (i == 20)
            checkpoint(&r, 1, 18, 2);
    }
    journal_write_truncate(r.journal, 2, 28);
    journal_write_promise(r.journal, 3, 9);
    journal_write_drop(r.journal, 4, 12);
    rig_sync(&r);
    rig_close(&r);
    struct mem_disk *disk = r.disk;
    mem_disk_settle(disk);
    return disk;
}

static void mend_record(const char *name, uint8_t *file, size_t size, size_t at) {
    struct segment_header h;
    if (size < SEGMENT_HEADER_BYTES || at % RECORD_ALIGN_BYTES || at + RECORD_HEADER_BYTES > size ||
        segment_header_decode(file, &h) != HEADER_OK)
        return;
    uint32_t seed = segment_seed(h.identity, h.number);
    struct record r = {.kind = file[at + 4],
                       .type = file[at + 5],
                       .flags = file[at + 6],
                       .partition = get_u64(file + at + 8),
                       .epoch = get_u64(file + at + 16),
                       .index = get_u64(file + at + 24),
                       .bytes = get_u32(file + at + 32)};
    r.bytes %= 512;
    if (at + record_space(r.bytes) > size)
        return;
    r.body_crc = crc32c(seed, file + at + RECORD_HEADER_BYTES, r.bytes);
    forged = true;
    record_encode(file + at, seed, (uint32_t)at, &r);
}

static void mend_header(uint8_t *file, size_t size) {
    if (size >= SEGMENT_HEADER_BYTES)
        put_u32(file + 60, crc32c(0, file, 60));
}

static void spoil(struct mem_disk *disk, struct fuzz_input *in) {
    size_t count = mem_disk_count(disk), size, given;
    if (count == 0)
        return;
    uint8_t how = (uint8_t)fuzz_take(in, 1);
    const char *name = mem_disk_name(disk, fuzz_take(in, 1) % count);
    uint8_t *file = mem_disk_bytes(disk, name, &size);
    size_t at = fuzz_take(in, 2) % (size ? size : 1);
    if (how % 16 == 0) {
        mem_disk_truncate(disk, name, at);
        return;
    }
    if (how % 16 == 1) {
        mem_disk_delete(disk, name);
        return;
    }
    const uint8_t *bytes = fuzz_bytes(in, fuzz_take(in, 1) % 64, &given);
    if (how & 16)
        at &= ~(size_t)(RECORD_ALIGN_BYTES - 1);
    size_t record = at;
    if (how & 32) /* a field of the record's header */
        at += how >> 6;
    if (given > size - (at < size ? at : size))
        given = size - (at < size ? at : size);
    if (given)
        memcpy(file + at, bytes, given);
    if (how & 16)
        mend_record(name, file, size, record);
    if (at < SEGMENT_HEADER_BYTES && how & 32)
        mend_header(file, size);
}

static void read_entry(struct rig *r, uint64_t partition, uint64_t index) {
    struct journal_location at;
    struct body *body;
    if (journal_locate(r->journal, partition, index, &at) != ERR_OK)
        return;
    if (journal_read(r->journal, &at, &body) == ERR_OK)
        body_drop(body);
}

static void look(void *ctx, const struct journal_partition *p) {
    struct rig *r = ctx;
    struct body *body;
    struct journal_live *live = calloc(p->live + 1, sizeof *live);
    size_t n = journal_live(r->journal, p->id, live, p->live);
    for (size_t i = 0; i < n; i++)
        read_entry(r, p->id, live[i].index);
    free(live);
    EXPECT(p->last_index >= p->base_index);
    for (uint64_t i = p->base_index + 1; i <= p->last_index && i <= p->base_index + 64; i++)
        read_entry(r, p->id, i);
    if (journal_read_checkpoint(r->journal, p->id, &body) == ERR_OK)
        body_drop(body);
}

static size_t partitions_known(struct rig *r) {
    journal_each(r->journal, look, r);
    return r->recovered.partitions;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    struct rig r;
    if (!image)
        image = make_image();
    rig_on(&r, mem_disk_copy(image));
    forged = false;
    for (int i = 0; i < SPOILS_MAX && in.size > 0; i++)
        spoil(r.disk, &in);
    enum err e = rig_open(&r);
    EXPECT(e == ERR_OK || e == ERR_VERSION);
    if (e == ERR_OK) {
        size_t known = partitions_known(&r);
        rig_entry(&r, 77, 5, 1, 30);
        rig_sync(&r);
        EXPECT(rig_has(&r, 77, 5, 1, 30));
        rig_close(&r);
        EXPECT(rig_open(&r) == ERR_OK);
        EXPECT(rig_has(&r, 77, 5, 1, 30));
        size_t again = partitions_known(&r);
        EXPECT(forged || again == known + 1);
    }
    rig_free(&r);
    return 0;
}

void fuzz_seeds(void) {
    static const uint8_t seeds[][16] = {{48, 0, 64, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8},
                                        {0, 1, 200, 3},
                                        {1, 2, 0, 0},
                                        {18, 1, 0, 2, 30, 3, 0, 0, 0x4a, 2},
                                        {34, 0, 0, 0, 4, 9, 9, 9, 9},
                                        {1, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 2, 61, 254, 0, 51}};
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++)
        fuzz_seed(seeds[i], sizeof seeds[i]);
}

// SPDX-License-Identifier: Apache-2.0
/* The bytes on disk: each layout against bytes put together by hand, and a whole
 * journal of version 1 as it was written once, which must stay readable. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "fixture_v1.h"
#include "journal/format.h"
#include "journal/scan.h"
#include "rig.h"

Test(format, record_header_bytes) {
    struct record r = {.kind = RECORD_ENTRY,
                       .type = 7,
                       .flags = 1,
                       .partition = 0x1122334455667788,
                       .epoch = 0x0102030405060708,
                       .index = 0x1112131415161718,
                       .bytes = 0x10203040,
                       .body_crc = 0xa1a2a3a4};
    static const uint8_t want[36] = {3,    7,    1,    'J',  0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
                                     8,    7,    6,    5,    4,    3,    2,    1,    0x18, 0x17, 0x16, 0x15,
                                     0x14, 0x13, 0x12, 0x11, 0x40, 0x30, 0x20, 0x10, 0xa4, 0xa3, 0xa2, 0xa1};
    uint8_t got[RECORD_HEADER_BYTES], crc_of[40];
    record_encode(got, 0x5eed, 4096, &r);
    cr_assert_arr_eq(got + 4, want, sizeof want);
    /* the CRC goes over the offset and the rest, from the seed on */
    memcpy(crc_of, "\x00\x10\x00\x00", 4);
    memcpy(crc_of + 4, want, sizeof want);
    cr_assert_eq(get_u32(got), crc32c(0x5eed, crc_of, sizeof crc_of));
}

Test(format, a_record_passes_only_in_its_place) {
    uint8_t bytes[RECORD_HEADER_BYTES];
    struct record r = {.kind = RECORD_PROMISE, .partition = 1, .epoch = 2}, out;
    uint32_t seed = segment_seed(77, 5);
    record_encode(bytes, seed, 64, &r);
    cr_assert(record_decode(bytes, seed, 64, &out));
    cr_assert(out.kind == RECORD_PROMISE && out.partition == 1 && out.epoch == 2);
    cr_assert_not(record_decode(bytes, seed, 72, &out), "another offset");
    cr_assert_not(record_decode(bytes, segment_seed(77, 6), 64, &out), "another segment");
    cr_assert_not(record_decode(bytes, segment_seed(78, 5), 64, &out), "another journal");
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_not(record_decode(bytes, seed, 64, &out), "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

Test(format, segment_header) {
    uint8_t bytes[SEGMENT_HEADER_BYTES];
    struct segment_header h = {9, 65536, 8, 0xabcdef, 12, ORIGIN_RECOVERY, 0xff00}, out;
    segment_header_encode(bytes, &h);
    cr_assert_arr_eq(bytes, "MRJOURNL\x01\0\0\0\x09\0\0\0\0\0\x01\0\x08\0\0\0", 24);
    cr_assert_eq(segment_header_decode(bytes, &out), HEADER_OK);
    cr_assert(out.number == 9 && out.data_bytes == 65536 && out.previous == 8 && out.identity == 0xabcdef &&
              out.start == 12 && out.origin == ORIGIN_RECOVERY && out.suspect == 0xff00);
    bytes[30] ^= 1;
    cr_assert_eq(segment_header_decode(bytes, &out), HEADER_BAD);
    bytes[30] ^= 1;
    put_u32(bytes + 8, FORMAT_VERSION + 1);
    put_u32(bytes + 60, crc32c(0, bytes, 60));
    cr_assert_eq(segment_header_decode(bytes, &out), HEADER_NEWER);
}

Test(format, checkpoint_prefix) {
    struct checkpoint_run live[] = {{3, 1, 1}, {5, 4, 1}, {9, 2, 6}}, tail[] = {{21, 0, 6}, {30, 0, 8}};
    struct checkpoint_prefix p = {.promise = 9,
                                  .damaged = true,
                                  .damaged_from = 4,
                                  .live = live,
                                  .live_count = 3,
                                  .last_index = 33,
                                  .tail = tail,
                                  .tail_count = 2},
                             out;
    struct encoder e = {0};
    checkpoint_encode(&e, 20, &p);
    cr_assert(checkpoint_decode(e.data, e.size, 20, &out));
    cr_assert(out.size == e.size && out.promise == 9 && out.damaged && !out.promise_lost &&
              out.damaged_from == 4);
    cr_assert(out.live_count == 3 && out.tail_count == 2 && out.last_index == 33);
    for (size_t i = 0; i < 3; i++)
        cr_assert(out.live[i].first == live[i].first && out.live[i].count == live[i].count &&
                  out.live[i].epoch == live[i].epoch);
    cr_assert(out.tail[1].first == 30 && out.tail[1].epoch == 8);
    checkpoint_prefix_free(&out);
    for (size_t size = 0; size < e.size; size++) {
        put_u32(e.data, (uint32_t)size);
        cr_assert_not(checkpoint_decode(e.data, size, 20, &out), "cut to %zu", size);
        checkpoint_prefix_free(&out);
    }
    encoder_free(&e);
}

Test(format, a_scan_goes_on_behind_bad_bytes) {
    uint8_t data[1024] = {0};
    uint32_t seed = segment_seed(1, 1);
    struct record r = {.kind = RECORD_ENTRY, .partition = 1, .epoch = 1, .bytes = 11};
    r.body_crc = crc32c(seed, "hello world", 11);
    for (uint32_t at = 64; at < 64 + 4 * 56; at += 56) {
        r.index++;
        record_encode(data + at, seed, at, &r);
        memcpy(data + at + 40, "hello world", 11);
    }
    data[64 + 56 + 45] ^= 1;     /* the second's body */
    data[64 + 2 * 56 + 20] ^= 1; /* the third's header */
    struct scan s;
    scan_bytes(data, sizeof data, seed, 64, &s);
    cr_assert_eq(s.count, 4);
    cr_assert_eq(s.items[0].what, SCAN_RECORD);
    cr_assert_eq(s.items[1].what, SCAN_BAD_BODY);
    cr_assert_eq(s.items[1].record.index, 2);
    cr_assert_eq(s.items[2].what, SCAN_GAP);
    cr_assert(s.items[2].offset == 64 + 2 * 56 && s.items[2].end == 64 + 3 * 56);
    cr_assert_eq(s.items[3].record.index, 4);
    cr_assert_eq(s.end, 64 + 4 * 56);
    scan_free(&s);
}

static void check_fixture(struct rig *r) {
    struct journal_partition p;
    struct body *body;
    cr_assert_eq(r->recovered.identity, 0x0123456789abcdef);
    cr_assert(journal_get(r->journal, 5, &p));
    cr_assert(p.promise == 4 && p.base_index == 2 && p.base_epoch == 1 && p.last_index == 3 &&
              p.last_epoch == 2);
    cr_assert(p.live == 1 && !p.damaged && !p.dropped);
    cr_assert(rig_has(r, 5, 1, 1, 20) && rig_has(r, 5, 2, 3, 30));
    cr_assert_eq(journal_read_checkpoint(r->journal, 5, &body), ERR_OK);
    cr_assert(body->size == 6 && memcmp(body->data, "opaque", 6) == 0);
    body_drop(body);
    cr_assert(journal_get(r->journal, 6, &p) && p.dropped && p.promise == 8);
    cr_assert(journal_get(r->journal, 7, &p) && p.damaged && p.damaged_from == 3);
}

/* How the fixture was written. */
static void write_fixture(struct rig *r) {
    struct journal_live live = {.index = 1};
    struct body *opaque = body_copy("opaque", 6);
    struct journal_checkpoint c = {
        .base_index = 2, .base_epoch = 1, .live = &live, .live_count = 1, .body = opaque};
    rig_entry(r, 5, 1, 1, 20);
    rig_entry(r, 5, 1, 2, 25);
    rig_sync(r);
    journal_write_checkpoint(r->journal, 5, &c);
    body_drop(opaque);
    rig_entry(r, 5, 2, 3, 10);
    journal_write_truncate(r->journal, 5, 2);
    rig_entry(r, 5, 2, 3, 30);
    journal_write_promise(r->journal, 5, 4);
    journal_write_drop(r->journal, 6, 8);
    rig_entry(r, 7, 1, 1, 0);
    journal_write_damage(r->journal, 7, 3);
    rig_sync(r);
    journal_prove(r->journal);
    rig_sync(r);
}

Test(format, what_version_1_wrote_is_read) {
    struct rig r;
    uint8_t segment[4096] = {0};
    rig_new(&r);
    memcpy(segment, fixture_v1_segment, sizeof fixture_v1_segment);
    mem_disk_put(r.disk, "00000001.seg", segment, sizeof segment);
    mem_disk_put(r.disk, "identity", fixture_v1_identity, sizeof fixture_v1_identity);
    cr_assert_eq(rig_open(&r), ERR_OK);
    check_fixture(&r);
    cr_assert_eq(r.recovered.start, 2);
    rig_free(&r);
}

/* JOURNAL_FIXTURE=1 prints it, to be kept when FORMAT_VERSION goes up. */
static void print(const char *name, const uint8_t *data, size_t size) {
    printf("static const uint8_t %s[] = {", name);
    for (size_t i = 0; i < size; i++)
        printf("%s0x%02x,", i % 16 ? " " : "\n    ", data[i]);
    printf("\n};\n");
}

Test(format, what_is_written_is_version_1) {
    struct rig r;
    size_t size;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    write_fixture(&r);
    check_fixture(&r);
    const uint8_t *segment = mem_disk_bytes(r.disk, "00000001.seg", &size);
    while (size > 0 && segment[size - 1] == 0)
        size--;
    if (getenv("JOURNAL_FIXTURE")) {
        print("fixture_v1_segment", segment, size);
        const uint8_t *identity = mem_disk_bytes(r.disk, "identity", &size);
        print("fixture_v1_identity", identity, size);
    } else {
        cr_assert_eq(size, sizeof fixture_v1_segment);
        cr_assert_arr_eq(segment, fixture_v1_segment, size);
    }
    rig_free(&r);
}

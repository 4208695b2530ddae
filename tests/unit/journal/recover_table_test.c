// SPDX-License-Identifier: Apache-2.0
/* Each case matches exactly one row; and each row's case, met on a disk. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/crc.h"
#include "journal/format.h"
#include "journal/recover_table.h"
#include "rig.h"

static bool is(int row, int given) {
    return row == ANY || row == given;
}

Test(recover_table, each_folder_matches_one_row) {
    for (int a = 0; a < FOLDER_IDENTITIES; a++) {
        for (int b = 0; b < FOLDER_SEGMENTS; b++) {
            int rows = 0;
            for (size_t i = 0; i < folder_rows_count; i++)
                rows += is(folder_rows[i].identity, a) && is(folder_rows[i].segments, b);
            cr_assert_eq(rows, 1, "identity %d, segments %d: %d rows", a, b, rows);
        }
    }
}

Test(recover_table, each_file_matches_one_row) {
    for (int a = 0; a < FILE_PLACES; a++) {
        for (int b = 0; b < FILE_STATES; b++) {
            int rows = 0;
            for (size_t i = 0; i < file_rows_count; i++)
                rows += is(file_rows[i].place, a) && is(file_rows[i].state, b);
            cr_assert_eq(rows, 1, "place %d, state %d: %d rows", a, b, rows);
        }
    }
}

Test(recover_table, all_bytes_match_one_row) {
    for (int a = 0; a < BYTES_PLACES; a++) {
        for (int b = 0; b < BYTES_FOUND; b++) {
            int rows = 0;
            for (size_t i = 0; i < bytes_rows_count; i++)
                rows += is(bytes_rows[i].place, a) && is(bytes_rows[i].found, b);
            cr_assert_eq(rows, 1, "place %d, found %d: %d rows", a, b, rows);
        }
    }
}

/* Nothing proven is ever cut, and nothing unproven is ever damage. */
Test(recover_table, proven_bytes_are_never_cut) {
    for (int found = 0; found < BYTES_FOUND; found++) {
        cr_assert_neq(bytes_decide(BYTES_PROVEN, found), BYTES_CUT);
        enum bytes_action torn = bytes_decide(BYTES_UNPROVEN, found);
        cr_assert(torn == BYTES_CUT || torn == BYTES_KEEP);
    }
}

/* ---- rows, met on a disk ---- */

static void fill(struct rig *r, uint64_t partition, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i <= to; i++) {
        rig_entry(r, partition, 1, i, 900);
        rig_sync(r);
    }
}

static void prove(struct rig *r) {
    journal_prove(r->journal);
    rig_sync(r);
}

static bool damaged(struct rig *r, uint64_t partition, uint64_t *from) {
    struct journal_partition p = {0};
    cr_assert(journal_get(r->journal, partition, &p));
    *from = p.damaged_from;
    return p.damaged;
}

static void start(struct rig *r) {
    rig_new(r);
    cr_assert_eq(rig_open(r), ERR_OK);
}

static void spoil(struct rig *r, uint32_t segment, size_t from, size_t to) {
    char name[32];
    size_t size;
    snprintf(name, sizeof name, "%08x.seg", segment);
    uint8_t *bytes = mem_disk_bytes(r->disk, name, &size);
    cr_assert(bytes && to <= size);
    memset(bytes + from, 0xee, to - from);
}

Test(recovery, an_empty_folder_is_a_new_journal) {
    struct rig r;
    start(&r);
    cr_assert(r.recovered.created && !r.recovered.lost && r.recovered.start == 1);
    cr_assert_eq(r.recovered.identity, 0x0123456789abcdef);
    r.options.random = 99;
    for (uint64_t n = 2; n < 6; n++) {
        rig_reopen(&r);
        cr_assert(!r.recovered.created && r.recovered.start == n);
        cr_assert_eq(r.recovered.identity, 0x0123456789abcdef);
    }
    rig_free(&r);
}

Test(recovery, a_second_process_is_kept_out) {
    struct rig r, other;
    start(&r);
    rig_on(&other, r.disk);
    cr_assert_eq(rig_open(&other), ERR_BUSY);
    rig_free(&r);
}

Test(recovery, all_segments_gone_is_a_loss_and_a_new_identity) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 2);
    rig_close(&r);
    mem_disk_delete(r.disk, "00000001.seg");
    r.options.random = 4711;
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert(r.recovered.lost && !r.recovered.created && r.recovered.identity == 4711);
    rig_reopen(&r);
    cr_assert(!r.recovered.lost && r.recovered.identity == 4711);
    rig_free(&r);
}

Test(recovery, the_identity_file_is_written_again) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 3);
    rig_close(&r);
    mem_disk_delete(r.disk, "identity");
    r.options.random = 4711;
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert(r.recovered.identity == 0x0123456789abcdef && !r.recovered.damaged);
    size_t size;
    cr_assert(mem_disk_bytes(r.disk, "identity", &size));
    rig_free(&r);
}

Test(recovery, a_missing_segment_in_the_middle) {
    struct rig r;
    uint64_t from;
    start(&r);
    fill(&r, 1, 1, 12);
    prove(&r);
    struct journal_location at;
    cr_assert_eq(journal_locate(r.journal, 1, 6, &at), ERR_OK);
    rig_close(&r);
    char name[32];
    snprintf(name, sizeof name, "%08x.seg", at.segment);
    mem_disk_delete(r.disk, name);
    for (int round = 0; round < 3; round++) { /* it stays known */
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert(damaged(&r, 1, &from) && from <= 6);
        cr_assert(rig_has(&r, 1, 1, 1, 900) && rig_has(&r, 1, 1, 12, 900));
        cr_assert_eq(journal_locate(r.journal, 1, 6, &at), ERR_DAMAGED);
        rig_close(&r);
    }
    rig_free(&r);
}

/* The segment with the last proven position is gone, its follower is not. */
Test(recovery, a_missing_head) {
    struct rig r;
    struct journal_location at = {0}, last = {0};
    uint64_t from, i = 0;
    start(&r);
    do { /* the turn that begins a segment proves a position in the one before */
        last = at;
        rig_entry(&r, 1, 1, ++i, 900);
        rig_sync(&r);
        cr_assert_eq(journal_locate(r.journal, 1, i, &at), ERR_OK);
    } while (i < 6 || at.segment == last.segment);
    rig_close(&r);
    char name[32];
    snprintf(name, sizeof name, "%08x.seg", last.segment);
    mem_disk_delete(r.disk, name);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert(damaged(&r, 1, &from) && from < i);
        cr_assert(rig_has(&r, 1, 1, 1, 900) && rig_has(&r, 1, 1, i, 900));
        rig_close(&r);
    }
    rig_free(&r);
}

Test(recovery, another_journals_file_is_set_aside) {
    struct rig r, other;
    size_t size;
    start(&other);
    fill(&other, 9, 1, 2);
    rig_close(&other);
    start(&r);
    r.options.random = 4711;
    rig_close(&r);
    mem_disk_free(r.disk);
    r.disk = mem_disk_new();
    r.options.disk = mem_disk_disk(r.disk);
    cr_assert_eq(rig_open(&r), ERR_OK);
    fill(&r, 1, 1, 3);
    rig_close(&r);
    const uint8_t *bytes = mem_disk_bytes(other.disk, "00000001.seg", &size);
    mem_disk_put(r.disk, "00000777.seg", bytes, size);
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert_eq(r.recovered.files_aside, 1);
    cr_assert(!r.recovered.damaged && rig_has(&r, 1, 1, 3, 900));
    struct journal_partition p;
    cr_assert_not(journal_get(r.journal, 9, &p));
    rig_free(&r);
    rig_free(&other);
}

/* An older file's bytes under a newer number: nothing in them passes. */
Test(recovery, an_old_files_bytes_never_pass) {
    struct rig r;
    size_t size;
    start(&r);
    fill(&r, 1, 1, 8);
    prove(&r);
    rig_close(&r);
    const uint8_t *bytes = mem_disk_bytes(r.disk, "00000001.seg", &size);
    struct body *copy = body_copy(bytes, size);
    memset(copy->data, 0, SEGMENT_HEADER_BYTES); /* its own header would say so */
    mem_disk_put(r.disk, "00000099.seg", copy->data, size);
    body_drop(copy);
    cr_assert_eq(rig_open(&r), ERR_OK);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 1, &p) && p.last_index == 8 && !p.damaged);
    rig_free(&r);
}

Test(recovery, a_bad_segment_header_costs_nothing_else) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 9);
    prove(&r);
    rig_close(&r);
    spoil(&r, 1, 0, SEGMENT_HEADER_BYTES);
    cr_assert_eq(rig_open(&r), ERR_OK);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 1, &p) && !p.damaged && p.last_index == 9);
    for (uint64_t i = 1; i <= 9; i++)
        cr_assert(rig_has(&r, 1, 1, i, 900));
    rig_free(&r);
}

Test(recovery, a_bad_seal_is_scanned_around) {
    struct rig r;
    size_t size;
    start(&r);
    fill(&r, 1, 1, 9);
    prove(&r);
    rig_close(&r);
    mem_disk_bytes(r.disk, "00000001.seg", &size);
    cr_assert_gt(size, 4096, "not sealed");
    spoil(&r, 1, 4096, size);
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert_not(r.recovered.damaged);
    for (uint64_t i = 1; i <= 9; i++)
        cr_assert(rig_has(&r, 1, 1, i, 900));
    rig_free(&r);
}

/* With a good seal the records are not looked at: a bad header is found where it
 * is read, and is nobody else's. */
Test(recovery, a_seal_says_whose_bad_header_it_was) {
    struct rig r;
    uint64_t from;
    struct journal_location at;
    struct body *body;
    start(&r);
    fill(&r, 1, 1, 2);
    fill(&r, 2, 1, 9);
    prove(&r);
    cr_assert_eq(journal_locate(r.journal, 1, 2, &at), ERR_OK);
    rig_close(&r);
    spoil(&r, at.segment, at.offset, at.offset + RECORD_HEADER_BYTES);
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert(!damaged(&r, 1, &from) && !damaged(&r, 2, &from));
    cr_assert_eq(journal_locate(r.journal, 1, 2, &at), ERR_OK);
    cr_assert_eq(journal_read(r.journal, &at, &body), ERR_DAMAGED);
    journal_write_damage(r.journal, 1, 2);
    rig_reopen(&r);
    cr_assert(damaged(&r, 1, &from) && from == 2);
    cr_assert(!damaged(&r, 2, &from));
    rig_free(&r);
}

Test(recovery, a_bad_checkpoint_falls_back_to_the_one_before) {
    struct rig r;
    uint64_t from;
    start(&r);
    fill(&r, 1, 1, 2);
    for (int i = 0; i < 2; i++) {
        struct body *body = body_copy(i ? "second" : "first ", 6);
        struct journal_checkpoint c = {.base_index = (uint64_t)i + 1, .base_epoch = 1, .body = body};
        cr_assert_eq(journal_write_checkpoint(r.journal, 1, &c), ERR_OK);
        body_drop(body);
        rig_sync(&r);
    }
    prove(&r);
    rig_close(&r);
    size_t size;
    uint8_t *bytes = mem_disk_bytes(r.disk, "00000001.seg", &size);
    uint8_t *second = memmem(bytes, size, "second", 6);
    cr_assert_not_null(second);
    *second ^= 1;
    cr_assert_eq(rig_open(&r), ERR_OK);
    struct journal_partition p;
    struct body *body;
    cr_assert(damaged(&r, 1, &from) && journal_get(r.journal, 1, &p) && p.promise_lost && p.base_index == 1);
    cr_assert_eq(journal_read_checkpoint(r.journal, 1, &body), ERR_OK);
    cr_assert_arr_eq(body->data, "first ", 6);
    body_drop(body);
    rig_free(&r);
}

/* Crash after crash while recovering: the same is recovered each time. */
Test(recovery, interrupted_at_each_write) {
    for (int after = 1; after < 40; after++) {
        struct rig r;
        struct rng rng = {.state = (uint64_t)after};
        start(&r);
        fill(&r, 1, 1, 7);
        rig_entry(&r, 1, 1, 8, 300);
        rig_sync(&r); /* synced, not proven */
        rig_close(&r);
        mem_disk_settle(r.disk);
        mem_disk_fail_after(r.disk, after);
        enum err e = rig_open(&r);
        if (e == ERR_OK)
            rig_close(&r);
        else
            cr_assert_eq(e, ERR_IO);
        mem_disk_crash(r.disk, &rng);
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert_not(r.recovered.damaged, "after %d", after);
        for (uint64_t i = 1; i <= 8; i++)
            cr_assert(rig_has(&r, 1, 1, i, i == 8 ? 300 : 900), "after %d: entry %d", after, (int)i);
        rig_free(&r);
    }
}

/* Died while creating the journal, at each write. */
Test(recovery, creation_interrupted_at_each_write) {
    for (int after = 1; after < 12; after++) {
        struct rig r;
        struct rng rng = {.state = (uint64_t)after};
        rig_new(&r);
        mem_disk_fail_after(r.disk, after);
        enum err e = rig_open(&r);
        if (e == ERR_OK)
            rig_close(&r);
        mem_disk_crash(r.disk, &rng);
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert(!r.recovered.lost && !r.recovered.damaged && r.recovered.files_aside == 0, "after %d",
                  after);
        rig_free(&r);
    }
}

Test(recovery, a_newer_release_is_refused) {
    struct rig r;
    size_t size;
    start(&r);
    fill(&r, 1, 1, 1);
    rig_close(&r);
    uint8_t *bytes = mem_disk_bytes(r.disk, "00000001.seg", &size);
    bytes[8] = FORMAT_VERSION + 1;

    put_u32(bytes + 60, crc32c(0, bytes, 60));
    cr_assert_eq(rig_open(&r), ERR_VERSION);
    bytes[8] = FORMAT_VERSION;
    put_u32(bytes + 60, crc32c(0, bytes, 60));
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert(rig_has(&r, 1, 1, 1, 900), "nothing was touched");
    rig_free(&r);
}

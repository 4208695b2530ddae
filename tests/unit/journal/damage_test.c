// SPDX-License-Identifier: Apache-2.0
/*
 * A small journal, spoilt at every byte: each file cut to each length, each byte
 * turned over, each file gone. Whatever was proven must be there unchanged, or
 * be reported. Nothing else may ever appear.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "journal/format.h"
#include "rig.h"

enum { A = 1, B = 2, C = 3 };

struct known {
    uint64_t partition, epoch, index;
    size_t size;
};

/* Two segments and more; a checkpoint, a truncate, a promise, a live batch. */
static const struct known entries[] = {
    {A, 1, 2, 300}, {A, 2, 4, 900}, {A, 2, 5, 20}, {A, 2, 6, 0},   {A, 3, 7, 600},
    {B, 1, 1, 500}, {B, 4, 2, 800}, {B, 4, 3, 64}, {B, 5, 4, 700},
};
static const size_t entries_count = sizeof entries / sizeof *entries;

static void checkpoint_a(struct rig *r) {
    struct journal_live live = {.index = 2, .epoch = 1};
    struct body *body = body_copy("summed up", 9);
    struct journal_checkpoint c = {
        .base_index = 3, .base_epoch = 2, .live = &live, .live_count = 1, .body = body};
    cr_assert_eq(journal_write_checkpoint(r->journal, A, &c), ERR_OK);
    body_drop(body);
}

static void write_story(struct rig *r) {
    rig_entry(r, A, 1, 1, 100);
    rig_entry(r, A, 1, 2, 300);
    rig_entry(r, B, 1, 1, 500);
    rig_sync(r);
    rig_entry(r, A, 1, 3, 700);
    rig_sync(r);
    journal_write_truncate(r->journal, A, 2);
    rig_entry(r, A, 2, 3, 30);
    rig_entry(r, A, 2, 4, 900);
    rig_entry(r, B, 4, 2, 800);
    rig_sync(r);
    checkpoint_a(r);
    rig_entry(r, A, 2, 5, 20);
    rig_sync(r);
    rig_entry(r, A, 2, 6, 0);
    journal_write_promise(r->journal, C, 9);
    rig_sync(r);
    rig_entry(r, B, 4, 3, 64);
    rig_entry(r, A, 3, 7, 600);
    rig_sync(r);
    rig_entry(r, B, 5, 4, 700);
    rig_sync(r);
    journal_prove(r->journal);
    rig_sync(r);
}

static struct mem_disk *make(bool reopened) {
    struct rig r;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    write_story(&r);
    if (reopened)
        rig_reopen(&r);
    rig_close(&r);
    mem_disk_settle(r.disk);
    return r.disk;
}

struct verdict {
    bool intact; /* everything there, nothing reported */
};

static bool trusted(const struct rig *r, uint64_t partition, uint64_t index) {
    struct journal_partition p;
    if (r->recovered.lost || journal_suspect(r->journal, partition))
        return false; /* reported */
    cr_assert(journal_get(r->journal, partition, &p), "partition %d has vanished", (int)partition);
    return !p.damaged || p.damaged_from > index;
}

static bool promise_trusted(const struct rig *r, uint64_t partition) {
    struct journal_partition p;
    return trusted(r, partition, 0) && (!journal_get(r->journal, partition, &p) || !p.promise_lost);
}

static void check_entry(struct rig *r, const struct known *e, bool *intact) {
    struct journal_location at;
    struct body *body;
    enum err found = journal_locate(r->journal, e->partition, e->index, &at);
    bool trust = trusted(r, e->partition, e->index);
    enum err read = found == ERR_OK ? journal_read(r->journal, &at, &body) : found;
    *intact &= trust && read == ERR_OK;
    if (read != ERR_OK) {
        /* a bad body in a sealed segment shows when it is read */
        bool reported = !trust || (found == ERR_OK && read == ERR_DAMAGED);
        cr_assert(reported, "%d/%d is gone silently", (int)e->partition, (int)e->index);
        return;
    }
    body_drop(body);
    if (at.epoch == e->epoch)
        cr_assert(rig_has(r, e->partition, e->epoch, e->index, e->size));
    else
        cr_assert(!trust, "another epoch's entry");
}

static void check_promises(struct rig *r, bool *intact) {
    static const uint64_t promises[][2] = {{A, 3}, {B, 5}, {C, 9}};
    for (size_t i = 0; i < 3; i++) {
        struct journal_partition p = {0};
        journal_get(r->journal, promises[i][0], &p);
        bool trust = promise_trusted(r, promises[i][0]);
        *intact &= trust;
        cr_assert(!trust || p.promise == promises[i][1], "promise of %d", (int)promises[i][0]);
    }
}

/* Open the spoilt disk; twice, since what was found must stay known. */
static bool check(struct mem_disk *disk, const char *what, size_t at) {
    struct rig r;
    bool intact = true;
    rig_on(&r, disk);
    for (int round = 0; round < 2; round++) {
        bool before = intact;
        intact = true;
        cr_assert_eq(rig_open(&r), ERR_OK, "%s at %zu", what, at);
        for (size_t i = 0; i < entries_count; i++)
            check_entry(&r, &entries[i], &intact);
        check_promises(&r, &intact);
        if (round == 1 && !r.recovered.created)
            cr_assert(before == intact, "%s at %zu: known only once", what, at);
        rig_close(&r);
    }
    rig_free(&r);
    return intact;
}

static bool is_segment(const char *name) {
    return strstr(name, ".seg") != NULL;
}

static void spoil_each_byte(bool reopened, uint8_t mask, size_t stride) {
    struct mem_disk *good = make(reopened);
    size_t reported = 0, harmless = 0;
    for (size_t f = 0; f < mem_disk_count(good); f++) {
        const char *name = mem_disk_name(good, f);
        size_t size;
        const uint8_t *was = mem_disk_bytes(good, name, &size);
        for (size_t at = 0; at < size; at += stride) {
            if (is_segment(name) && was[at] == 0 && at > 128 && at % 16)
                continue; /* most of the zeros are room not yet used */
            struct mem_disk *bad = mem_disk_copy(good);
            mem_disk_bytes(bad, name, &size)[at] ^= mask;
            if (check(bad, name, at))
                harmless++;
            else
                reported++;
        }
    }
    /* the bodies and headers alone are some 5000 bytes */
    cr_assert(reported > 3000 / stride, "%zu reported, %zu harmless", reported, harmless);
    mem_disk_free(good);
}

Test(damage, each_byte_turned_over) {
    spoil_each_byte(false, 0xff, 1);
}

Test(damage, bytes_turned_over_after_a_restart) {
    spoil_each_byte(true, 0x01, 3);
}

static void cut_each_file(bool reopened) {
    struct mem_disk *good = make(reopened);
    for (size_t f = 0; f < mem_disk_count(good); f++) {
        const char *name = mem_disk_name(good, f);
        size_t size;
        mem_disk_bytes(good, name, &size);
        for (size_t at = 0; at < size; at++) {
            if (at > 128 && at % 8 > 1 && at % 8 < 7)
                continue; /* records begin at multiples of 8: on it and beside it */
            struct mem_disk *bad = mem_disk_copy(good);
            mem_disk_truncate(bad, name, at);
            check(bad, name, at);
        }
    }
    mem_disk_free(good);
}

Test(damage, each_file_cut) {
    cut_each_file(false);
}

Test(damage, each_file_cut_after_a_restart) {
    cut_each_file(true);
}

Test(damage, each_file_gone) {
    for (int reopened = 0; reopened < 2; reopened++) {
        struct mem_disk *good = make(reopened);
        for (size_t f = 0; f < mem_disk_count(good); f++) {
            const char *name = mem_disk_name(good, f);
            struct mem_disk *bad = mem_disk_copy(good);
            mem_disk_delete(bad, name);
            bool intact = check(bad, name, 0);
            cr_assert(is_segment(name) ? !intact : intact, "%s", name);
        }
        mem_disk_free(good);
    }
}

/* The last flush is not proven: bad bytes in it are a torn tail. */
Test(damage, a_torn_tail_is_cut) {
    struct rig r;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    rig_entry(&r, A, 1, 1, 50);
    rig_sync(&r);
    rig_entry(&r, A, 1, 2, 100);
    rig_entry(&r, A, 1, 3, 100);
    rig_sync(&r);
    struct journal_location at;
    cr_assert_eq(journal_locate(r.journal, A, 3, &at), ERR_OK);
    rig_close(&r);
    char name[32];
    size_t size;
    snprintf(name, sizeof name, "%08x.seg", at.segment);
    mem_disk_bytes(r.disk, name, &size)[at.offset + 60] ^= 1;
    cr_assert_eq(rig_open(&r), ERR_OK);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, A, &p));
    cr_assert_eq(p.last_index, 2);
    cr_assert(!p.damaged && !r.recovered.damaged);
    cr_assert_eq(r.recovered.torn_bytes, RECORD_HEADER_BYTES + 104);
    cr_assert(rig_has(&r, A, 1, 1, 50) && rig_has(&r, A, 1, 2, 100));
    rig_free(&r);
}

/* A bad header tells nobody's name, but the flush knows who was in it. */
Test(damage, a_bad_header_damages_the_partitions_of_its_flush) {
    struct rig r;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    rig_entry(&r, A, 1, 1, 50);
    rig_sync(&r);
    rig_entry(&r, B, 1, 1, 50);
    rig_sync(&r);
    rig_entry(&r, A, 1, 2, 50);
    rig_sync(&r);
    journal_prove(r.journal);
    rig_sync(&r);
    struct journal_location at;
    cr_assert_eq(journal_locate(r.journal, B, 1, &at), ERR_OK);
    rig_close(&r);
    char name[32];
    size_t size;
    snprintf(name, sizeof name, "%08x.seg", at.segment);
    mem_disk_bytes(r.disk, name, &size)[at.offset + 10] ^= 1;
    cr_assert_eq(rig_open(&r), ERR_OK);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, A, &p) && !p.damaged);
    cr_assert(!journal_get(r.journal, B, &p));
    cr_assert(journal_suspect(r.journal, B));
    cr_assert(r.recovered.damaged);
    rig_free(&r);
}

/* Damage ends when the owner says so, and stays ended. */
Test(damage, is_kept_until_mended) {
    struct rig r;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    rig_entry(&r, A, 1, 1, 50);
    rig_entry(&r, A, 1, 2, 50);
    journal_write_damage(r.journal, A, 2);
    rig_reopen(&r);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, A, &p) && p.damaged && p.damaged_from == 2 && !p.promise_lost);
    journal_write_truncate(r.journal, A, 1);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, A, &p) && p.damaged && p.last_index == 1);
    rig_entry(&r, A, 1, 2, 60);
    journal_write_mended(r.journal, A);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, A, &p) && !p.damaged && p.last_index == 2);
    cr_assert(rig_has(&r, A, 1, 2, 60));
    rig_free(&r);
}

/* The boot under which a log was last whole: through restarts, checkpoints and reclaim;
 * never newer than what the log has. */
Test(boot, is_kept_until_dropped) {
    struct rig r;
    struct journal_partition p;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    rig_entry(&r, A, 1, 1, 50);
    rig_sync(&r);
    cr_assert(journal_get(r.journal, A, &p) && p.boot == 0, "never told");
    journal_write_boot(r.journal, A, 77);
    rig_abandon(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    cr_assert(journal_get(r.journal, A, &p) && p.boot == 0, "never synced");
    journal_write_boot(r.journal, A, UINT64_MAX);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, A, &p) && p.boot == UINT64_MAX && p.promise == 1);
    journal_write_checkpoint(r.journal, A, &(struct journal_checkpoint){.base_index = 1, .base_epoch = 1});
    for (uint64_t i = 2; i < 40; i++)
        rig_entry(&r, A, 1, i, 900);
    rig_sync(&r);
    journal_write_checkpoint(r.journal, A, &(struct journal_checkpoint){.base_index = 39, .base_epoch = 1});
    rig_reclaim(&r, NULL, NULL);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, A, &p) && p.boot == UINT64_MAX && p.last_index == 39);
    journal_write_drop(r.journal, A, 2);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, A, &p) && p.boot == 0 && p.promise == 2);
    rig_free(&r);
}

/* How often it was opened stays ahead of all that was said before: what was found
 * damaged is told apart by it, and a disk that was rolled back is known by it. */
static void start_grows(size_t spoilt_from_newest) {
    struct rig r;
    rig_new(&r);
    cr_assert_eq(rig_open(&r), ERR_OK);
    for (uint64_t i = 1; i <= 3; i++) {
        rig_entry(&r, A, 1, i, 50);
        rig_sync(&r);
        journal_prove(r.journal);
        rig_reopen(&r);
    }
    for (int round = 0; round < 4; round++) {
        uint64_t was = r.recovered.start;
        size_t spoilt = 0, size;
        rig_close(&r);
        for (size_t f = mem_disk_count(r.disk); f-- > 0 && spoilt < spoilt_from_newest;)
            if (is_segment(mem_disk_name(r.disk, f))) {
                mem_disk_bytes(r.disk, mem_disk_name(r.disk, f), &size)[33] ^= 1;
                spoilt++;
            }
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert(spoilt && !r.recovered.lost);
        cr_assert(r.recovered.start > was, "%d behind %d", (int)r.recovered.start, (int)was);
    }
    rig_free(&r);
}

Test(damage, starts_are_counted_on_from_a_bad_header) {
    start_grows(1);
}

Test(damage, starts_are_counted_on_if_all_headers_are_bad) {
    start_grows(100);
}

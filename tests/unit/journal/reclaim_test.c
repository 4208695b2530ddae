// SPDX-License-Identifier: Apache-2.0
/* Space: what goes, what stays, and that each step can be the last before a
 * restart. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "rig.h"

static void start(struct rig *r) {
    rig_new(r);
    cr_assert_eq(rig_open(r), ERR_OK);
}

static void fill(struct rig *r, uint64_t partition, uint64_t from, uint64_t to) {
    for (uint64_t i = from; i <= to; i++)
        rig_entry(r, partition, 1, i, 900);
    rig_sync(r);
}

static void checkpoint(struct rig *r, uint64_t partition, uint64_t base, const uint64_t *live, size_t count) {
    struct journal_live items[64];
    for (size_t i = 0; i < count; i++)
        items[i] = (struct journal_live){live[i], 0};
    struct body *body = body_copy("state", 5);
    struct journal_checkpoint c = {
        .base_index = base, .base_epoch = 1, .live = items, .live_count = count, .body = body};
    cr_assert_eq(journal_write_checkpoint(r->journal, partition, &c), ERR_OK);
    body_drop(body);
}

static uint64_t segments(struct rig *r) {
    struct journal_statistics s;
    journal_statistics(r->journal, &s);
    return s.segments;
}

Test(reclaim, dead_segments_go_whole) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 40);
    uint64_t before = segments(&r);
    cr_assert_eq(journal_reclaim(r.journal), JOURNAL_IDLE, "all is live");
    checkpoint(&r, 1, 40, NULL, 0);
    rig_sync(&r);
    rig_reclaim(&r, NULL, NULL);
    cr_assert(before >= 10 && segments(&r) <= 2, "%d -> %d", (int)before, (int)segments(&r));
    struct journal_statistics s;
    journal_statistics(r.journal, &s);
    cr_assert_eq(s.moved_bytes, 0);
    cr_assert_eq(s.live_bytes, 0);
    rig_reopen(&r);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 1, &p) && p.base_index == 40 && p.last_index == 40 && !p.damaged);
    rig_free(&r);
}

/* Nothing goes before the checkpoint that makes it dead is synced. */
Test(reclaim, waits_for_the_checkpoints_sync) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 12);
    checkpoint(&r, 1, 12, NULL, 0);
    for (int i = 0; i < 5; i++)
        cr_assert_neq(journal_reclaim(r.journal), JOURNAL_WORKED);
    journal_flush(r.journal);
    cr_assert_neq(journal_reclaim(r.journal), JOURNAL_WORKED, "flushed, not synced");
    rig_run(&r);
    cr_assert_eq(journal_reclaim(r.journal), JOURNAL_WORKED);
    rig_free(&r);
}

/* One unsettled message does not pin gigabytes: it is copied forward. */
Test(reclaim, a_mostly_dead_segment_is_copied_forward) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 40);
    for (uint64_t i = 1; i <= 40; i++)
        if (i != 7 && i != 23)
            journal_mark_dead(r.journal, 1, i);
    checkpoint(&r, 1, 40, (uint64_t[]){7, 23}, 2);
    rig_sync(&r);
    cr_assert_gt(rig_reclaim(&r, NULL, NULL), 0);
    cr_assert_leq(segments(&r), 3);
    cr_assert(rig_has(&r, 1, 1, 7, 900) && rig_has(&r, 1, 1, 23, 900));
    rig_reopen(&r);
    cr_assert(rig_has(&r, 1, 1, 7, 900) && rig_has(&r, 1, 1, 23, 900));
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 1, &p) && p.last_index == 40 && p.live == 2,
              "a moved record moves no end");
    rig_free(&r);
}

struct owner {
    struct rig *rig;
    uint64_t asked[8];
    size_t count;
};

static void on_asked(void *ctx, uint64_t partition) {
    struct owner *o = ctx;
    o->asked[o->count++] = partition;
}

Test(reclaim, asks_those_who_keep_the_segment) {
    struct rig r;
    start(&r);
    struct owner o = {.rig = &r};
    journal_write_promise(r.journal, 3, 5); /* idle ever after */
    fill(&r, 2, 1, 2);
    fill(&r, 1, 1, 20);
    checkpoint(&r, 1, 20, NULL, 0);
    journal_mark_dead(r.journal, 2, 1);
    journal_mark_dead(r.journal, 2, 2);
    rig_sync(&r);
    while (journal_reclaim(r.journal) == JOURNAL_WORKED)
        rig_sync(&r);
    cr_assert_eq(journal_needs_checkpoint(r.journal, on_asked, &o), 2);
    cr_assert(o.asked[0] + o.asked[1] == 5, "2 and 3");
    journal_carry(r.journal, 3);
    checkpoint(&r, 2, 2, NULL, 0);
    cr_assert_eq(journal_reclaim(r.journal), JOURNAL_WAITS);
    rig_reclaim(&r, NULL, NULL);
    cr_assert_leq(segments(&r), 2);
    rig_reopen(&r);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 3, &p) && p.promise == 5, "a promise outlives its segment");
    rig_free(&r);
}

/* A restart, clean or not, after each single step. */
Test(reclaim, each_step_may_be_the_last) {
    for (int power = 0; power < 2; power++) {
        struct rig r;
        struct rng rng = {.state = 7};
        uint64_t live[] = {3, 11, 19, 27};
        start(&r);
        fill(&r, 1, 1, 30);
        fill(&r, 2, 1, 3);
        checkpoint(&r, 1, 30, live, 4);
        rig_sync(&r);
        for (int i = 1; i <= 30; i++)
            if (i % 8 != 3)
                journal_mark_dead(r.journal, 1, (uint64_t)i);
        for (int step = 0; step < 60; step++) {
            if (journal_reclaim(r.journal) == JOURNAL_WAITS)
                journal_carry(r.journal, 1), journal_carry(r.journal, 2);
            journal_flush(r.journal);
            if (step % 3)
                rig_run(&r);
            rig_abandon(&r);
            if (power)
                mem_disk_crash(r.disk, &rng);
            cr_assert_eq(rig_open(&r), ERR_OK);
            cr_assert_not(r.recovered.damaged, "step %d", step);
            for (int i = 0; i < 4; i++)
                cr_assert(rig_has(&r, 1, 1, live[i], 900), "step %d: live %d", step, i);
            for (uint64_t i = 1; i <= 3; i++)
                cr_assert(rig_has(&r, 2, 1, i, 900), "step %d", step);
        }
        rig_free(&r);
    }
}

Test(reclaim, over_the_space_target_the_oldest_goes) {
    struct rig r;
    rig_new(&r);
    r.options.space_target = 24 * 1024;
    cr_assert_eq(rig_open(&r), ERR_OK);
    /* half of each segment lives: not mostly dead, but too much is used */
    uint64_t live[20];
    fill(&r, 1, 1, 40);
    for (uint64_t i = 0; i < 20; i++)
        live[i] = 2 * i + 1;
    checkpoint(&r, 1, 40, live, 20);
    rig_sync(&r);
    uint64_t before = segments(&r);
    rig_reclaim(&r, NULL, NULL);
    cr_assert(segments(&r) * 4096 <= 24 * 1024 + 8192 && segments(&r) < before);
    for (int i = 0; i < 20; i++)
        cr_assert(rig_has(&r, 1, 1, live[i], 900));
    rig_free(&r);
}

Test(reclaim, a_tombstone_outlives_its_segment_until_forgotten) {
    struct rig r;
    struct journal_partition p;
    start(&r);
    fill(&r, 5, 1, 2);
    journal_write_drop(r.journal, 5, 6);
    for (int round = 0; round < 3; round++) {
        fill(&r, 1, (uint64_t)round * 20 + 1, (uint64_t)round * 20 + 20);
        checkpoint(&r, 1, (uint64_t)round * 20 + 20, NULL, 0);
        rig_reclaim(&r, NULL, NULL);
        rig_reopen(&r);
        cr_assert(journal_get(r.journal, 5, &p) && p.dropped && p.promise == 6);
    }
    journal_forget(r.journal, 5);
    fill(&r, 1, 61, 80);
    checkpoint(&r, 1, 80, NULL, 0);
    rig_reclaim(&r, NULL, NULL);
    rig_reopen(&r);
    cr_assert_not(journal_get(r.journal, 5, &p));
    rig_free(&r);
}

static void on_asked_of_an_owner(void *ctx, uint64_t partition) {
    cr_assert_eq(partition, 1, "nobody owns %d", (int)partition);
    journal_carry(((struct rig *)ctx)->journal, partition);
}

Test(reclaim, what_is_set_aside_is_carried_without_asking) {
    struct rig r;
    struct journal_partition p;
    start(&r);
    fill(&r, 9, 1, 1);
    journal_set_aside(r.journal, 9, true);
    for (int round = 0; round < 3; round++) {
        fill(&r, 1, (uint64_t)round * 20 + 1, (uint64_t)round * 20 + 20);
        checkpoint(&r, 1, (uint64_t)round * 20 + 20, NULL, 0);
        rig_reclaim(&r, on_asked_of_an_owner, &r);
    }
    cr_assert_leq(segments(&r), 3);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, 9, &p) && p.last_index == 1 && rig_has(&r, 9, 1, 1, 900));
    rig_free(&r);
}

/* A record whose bytes went bad is found when it is to be moved. */
Test(reclaim, damage_met_while_copying_is_told) {
    struct rig r;
    struct journal_location at;
    struct journal_partition p;
    char name[32];
    size_t size;
    start(&r);
    fill(&r, 1, 1, 20);
    for (uint64_t i = 1; i <= 20; i++)
        if (i != 4)
            journal_mark_dead(r.journal, 1, i);
    checkpoint(&r, 1, 20, (uint64_t[]){4}, 1);
    rig_sync(&r);
    cr_assert_eq(journal_locate(r.journal, 1, 4, &at), ERR_OK);
    snprintf(name, sizeof name, "%08x.seg", at.segment);
    mem_disk_bytes(r.disk, name, &size)[at.offset + 100] ^= 1;
    rig_reclaim(&r, NULL, NULL);
    cr_assert(journal_get(r.journal, 1, &p) && p.damaged && p.damaged_from == 4);
    cr_assert_eq(journal_locate(r.journal, 1, 4, &at), ERR_DAMAGED);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, 1, &p) && p.damaged && p.damaged_from == 4);
    rig_free(&r);
}

static void spoil_header(struct rig *r, uint64_t partition, uint64_t index) {
    struct journal_location at;
    char name[32];
    size_t size;
    cr_assert_eq(journal_locate(r->journal, partition, index, &at), ERR_OK);
    snprintf(name, sizeof name, "%08x.seg", at.segment);
    uint8_t *bytes = mem_disk_bytes(r->disk, name, &size);
    bytes[at.offset + 9] ^= 1;
    if (size > 4096)
        bytes[4096 + 30] ^= 1; /* and its seal: nothing says where the record was */
}

Test(reclaim, a_record_that_is_not_met_any_more_is_told) {
    struct rig r;
    struct journal_partition p;
    start(&r);
    fill(&r, 1, 1, 20);
    for (uint64_t i = 1; i <= 20; i++)
        if (i != 4)
            journal_mark_dead(r.journal, 1, i);
    checkpoint(&r, 1, 20, (uint64_t[]){4}, 1);
    rig_sync(&r);
    spoil_header(&r, 1, 4);
    rig_reclaim(&r, NULL, NULL);
    cr_assert(journal_get(r.journal, 1, &p) && p.damaged && p.damaged_from == 4);
    cr_assert_leq(segments(&r), 2);
    rig_free(&r);
}

/* Entries no checkpoint can sum up (nobody owns them) fill whole segments: there
 * is nothing to gain by copying them. */
Test(reclaim, what_is_all_needed_is_left_where_it_is) {
    struct rig r;
    struct journal_statistics s;
    start(&r);
    for (uint64_t i = 1; i <= 40; i++) {
        struct body *b = rig_body(9, 1, i, 900);
        journal_write_entry(r.journal, 9, 1, i, TYPE_SETTLEMENT, b);
        body_drop(b);
        rig_sync(&r);
    }
    journal_set_aside(r.journal, 9, true);
    rig_reclaim(&r, NULL, NULL);
    journal_statistics(r.journal, &s);
    cr_assert(s.moved_bytes < 4096, "%d bytes moved", (int)s.moved_bytes);
    rig_reopen(&r);
    for (uint64_t i = 1; i <= 40; i++)
        cr_assert(rig_has(&r, 9, 1, i, 900));
    rig_free(&r);
}

Test(reclaim, a_damaged_tombstone_stays_damaged) {
    struct rig r;
    struct journal_partition p;
    start(&r);
    journal_write_drop(r.journal, 5, 6);
    journal_write_damage(r.journal, 5, 1);
    fill(&r, 1, 1, 20);
    checkpoint(&r, 1, 20, NULL, 0);
    rig_reclaim(&r, NULL, NULL);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, 5, &p) && p.dropped && p.damaged && p.promise == 6);
    rig_free(&r);
}

/* A leader's checkpoint in pieces: the old state until the last one is synced. */
Test(checkpoint, installing_is_one_step) {
    for (int synced = 0; synced < 2; synced++) {
        struct rig r;
        struct journal_partition p;
        start(&r);
        fill(&r, 1, 1, 5);
        for (uint64_t i = 10; i <= 12; i++) {
            struct body *b = rig_body(1, 3, i, 400);
            journal_write_staged(r.journal, 1, 3, i, TYPE_BATCH, b);
            body_drop(b);
        }
        rig_sync(&r);
        cr_assert(journal_get(r.journal, 1, &p) && p.last_index == 5, "staged ones are not in the log");
        struct journal_live live[] = {{10, 3}, {12, 3}};
        struct journal_checkpoint c = {
            .base_index = 20, .base_epoch = 3, .live = live, .live_count = 2, .install = true};
        cr_assert_eq(journal_write_checkpoint(r.journal, 1, &c), ERR_OK);
        if (synced)
            rig_sync(&r);
        rig_abandon(&r);
        cr_assert_eq(rig_open(&r), ERR_OK);
        cr_assert(journal_get(r.journal, 1, &p) && !p.damaged);
        cr_assert_eq(p.last_index, synced ? 20 : 5);
        cr_assert_eq(rig_has(&r, 1, 3, 12, 400), synced);
        cr_assert_eq(rig_has(&r, 1, 1, 5, 900), !synced);
        rig_free(&r);
    }
}

/* A copy that takes a checkpoint goes on making its own, of what its log has: the same
 * batches are there twice then, and each is carried by itself. */
Test(checkpoint, its_own_names_nothing_staged) {
    struct rig r;
    struct journal_partition p;
    static const uint64_t live[] = {2};
    start(&r);
    fill(&r, 1, 1, 1);
    rig_entry(&r, 1, 1, 2, 100);
    fill(&r, 1, 3, 6);
    struct body *b = rig_body(1, 1, 2, 100);
    journal_write_staged(r.journal, 1, 1, 2, TYPE_BATCH, b);
    body_drop(b);
    fill(&r, 1, 7, 20);
    checkpoint(&r, 1, 20, live, 1);
    fill(&r, 1, 21, 40);
    checkpoint(&r, 1, 40, live, 1);
    rig_sync(&r);
    journal_prove(r.journal);
    rig_sync(&r);
    rig_reclaim(&r, NULL, NULL);
    cr_assert(journal_get(r.journal, 1, &p) && !p.damaged, "lost what was there twice");
    journal_forget_staged(r.journal, 1);
    rig_reclaim(&r, NULL, NULL);
    cr_assert(rig_has(&r, 1, 1, 2, 100));
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, 1, &p) && !p.damaged);
    cr_assert(rig_has(&r, 1, 1, 2, 100));
    rig_free(&r);
}

Test(checkpoint, staged_ones_can_be_let_go) {
    struct rig r;
    start(&r);
    for (uint64_t i = 1; i <= 20; i++) {
        struct body *b = rig_body(1, 3, i, 900);
        journal_write_staged(r.journal, 1, 3, i, TYPE_BATCH, b);
        body_drop(b);
    }
    fill(&r, 2, 1, 2);
    rig_reclaim(&r, NULL, NULL);
    cr_assert_geq(segments(&r), 5, "they are held");
    journal_forget_staged(r.journal, 1);
    rig_sync(&r);
    rig_reclaim(&r, NULL, NULL);
    cr_assert_leq(segments(&r), 2);
    struct journal_live live = {20, 3};
    struct journal_checkpoint c = {
        .base_index = 20, .base_epoch = 3, .live = &live, .live_count = 1, .install = true};
    cr_assert_eq(journal_write_checkpoint(r.journal, 1, &c), ERR_NOT_FOUND);
    rig_free(&r);
}

static void check_body(struct rig *r, const char *want) {
    struct body *body;
    cr_assert_eq(journal_read_checkpoint(r->journal, 1, &body), ERR_OK);
    cr_assert(body->size == strlen(want) && memcmp(body->data, want, body->size) == 0);
    body_drop(body);
}

Test(checkpoint, its_body_can_be_read_at_any_time) {
    struct rig r;
    struct body *body;
    start(&r);
    fill(&r, 1, 1, 2);
    cr_assert_eq(journal_read_checkpoint(r.journal, 1, &body), ERR_NOT_FOUND);
    checkpoint(&r, 1, 2, NULL, 0);
    check_body(&r, "state");
    journal_flush(r.journal);
    check_body(&r, "state");
    rig_run(&r);
    check_body(&r, "state");
    journal_carry(r.journal, 1);
    check_body(&r, "state");
    rig_reopen(&r);
    check_body(&r, "state");
    rig_free(&r);
}

Test(checkpoint, naming_what_is_not_held_changes_nothing) {
    struct rig r;
    struct journal_partition p;
    start(&r);
    fill(&r, 1, 1, 5);
    struct journal_live live[] = {{2, 1}, {3, 9}};
    struct journal_checkpoint c = {.base_index = 4, .base_epoch = 1, .live = live, .live_count = 2};
    cr_assert_eq(journal_write_checkpoint(r.journal, 1, &c), ERR_NOT_FOUND, "3 is of epoch 1");
    cr_assert(journal_get(r.journal, 1, &p) && p.base_index == 0 && p.last_index == 5);
    rig_free(&r);
}

Test(log, truncated_and_written_again) {
    struct rig r;
    start(&r);
    fill(&r, 1, 1, 6);
    journal_write_truncate(r.journal, 1, 3);
    rig_reopen(&r);
    struct journal_partition p;
    cr_assert(journal_get(r.journal, 1, &p) && p.last_index == 3 && p.promise == 1);
    rig_entry(&r, 1, 4, 4, 40);
    rig_entry(&r, 1, 4, 5, 50);
    journal_write_truncate(r.journal, 1, 4);
    rig_entry(&r, 1, 7, 5, 55);
    rig_reopen(&r);
    cr_assert(journal_get(r.journal, 1, &p) && p.last_index == 5 && p.last_epoch == 7 && p.promise == 7);
    cr_assert(rig_has(&r, 1, 1, 3, 900) && rig_has(&r, 1, 4, 4, 40) && rig_has(&r, 1, 7, 5, 55));
    rig_free(&r);
}

static void collect(void *ctx, const struct journal_partition *p) {
    struct owner *o = ctx;
    o->asked[o->count++] = p->id;
}

Test(log, partitions_are_told_in_order) {
    struct rig r;
    static const uint64_t ids[] = {7, 1, UINT64_MAX, 3};
    struct owner o = {.rig = &r};
    start(&r);
    for (int i = 0; i < 4; i++)
        rig_entry(&r, ids[i], 1, 1, 10);
    rig_reopen(&r);
    journal_each(r.journal, collect, &o);
    cr_assert(o.count == 4 && o.asked[0] == 1 && o.asked[1] == 3 && o.asked[2] == 7 &&
              o.asked[3] == UINT64_MAX);
    rig_free(&r);
}

/* A record larger than a segment gets a segment of its own size. */
Test(log, large_and_small) {
    struct rig r;
    static const size_t sizes[] = {0, 1, 7, 8, 9, 511, 512, 513, 4000, 4096, 20000, 100000, 3};
    start(&r);
    for (uint64_t i = 1; i <= 13; i++)
        rig_entry(&r, 1, 1, i, sizes[i - 1]);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 1; i <= 13; i++)
            cr_assert(rig_has(&r, 1, 1, i, sizes[i - 1]), "%d", (int)sizes[i - 1]);
        rig_reopen(&r);
    }
    rig_free(&r);
}

Test(log, what_is_in_flight_can_be_read) {
    struct rig r;
    start(&r);
    rig_entry(&r, 1, 1, 1, 900);
    rig_entry(&r, 1, 1, 2, 0);
    cr_assert(rig_has(&r, 1, 1, 1, 900) && rig_has(&r, 1, 1, 2, 0), "in the open turn");
    journal_flush(r.journal);
    cr_assert(rig_has(&r, 1, 1, 1, 900) && rig_has(&r, 1, 1, 2, 0), "flushed");
    rig_run(&r);
    cr_assert(rig_has(&r, 1, 1, 1, 900) && rig_has(&r, 1, 1, 2, 0), "synced");
    cr_assert_eq(journal_in_flight(r.journal), 0);
    rig_free(&r);
}

Test(log, flushes_beyond_the_limit_wait_inside) {
    struct rig r;
    start(&r);
    uint64_t last = 0;
    for (uint64_t i = 1; i <= JOURNAL_TURNS_IN_FLIGHT_MAX + 20; i++) {
        rig_entry(&r, 1, 1, i, 20);
        last = journal_flush(r.journal);
    }
    cr_assert_eq(last, JOURNAL_TURNS_IN_FLIGHT_MAX + 1, "the turns over the limit are one");
    rig_run(&r);
    cr_assert_eq(journal_synced(r.journal), last);
    cr_assert_eq(journal_flush(r.journal), last, "nothing to flush");
    rig_free(&r);
}

/* ---- the disk ---- */

Test(disk, nearly_full_is_told_before_it_is_full) {
    struct rig r;
    start(&r);
    cr_assert_not(journal_full(r.journal));
    mem_disk_limit(r.disk, 200 * 1024);
    uint64_t i = 0;
    while (!journal_full(r.journal)) {
        rig_entry(&r, 1, 1, ++i, 900);
        rig_sync(&r);
        cr_assert_lt(i, 400);
    }
    cr_assert(journal_space(r.journal) < 65536 && journal_space(r.journal) > 40 * 1024);
    /* what is kept back is enough to sum up and to give back */
    checkpoint(&r, 1, i, NULL, 0);
    rig_sync(&r);
    rig_reclaim(&r, NULL, NULL);
    rig_sync(&r);
    cr_assert_not(journal_full(r.journal));
    cr_assert_eq(r.failures, 0);
    rig_free(&r);
}

/* Nothing is written while publishes are refused: no flush would notice. */
Test(disk, space_made_by_others_is_noticed_without_a_flush) {
    struct rig r;
    start(&r);
    mem_disk_limit(r.disk, 200 * 1024);
    for (uint64_t i = 1; !journal_full(r.journal); i++) {
        cr_assert_lt(i, 400);
        rig_entry(&r, 1, 1, i, 900);
        rig_sync(&r);
    }
    cr_assert_eq(journal_reclaim(r.journal), JOURNAL_IDLE, "all is live");
    rig_run(&r);
    cr_assert(journal_full(r.journal), "as before");
    mem_disk_limit(r.disk, 2000 * 1024);
    cr_assert_eq(journal_reclaim(r.journal), JOURNAL_IDLE);
    rig_run(&r);
    cr_assert_not(journal_full(r.journal));
    rig_free(&r);
}

Test(disk, a_failed_write_or_sync_completes_nothing) {
    for (int after = 1; after <= 3; after++) {
        struct rig r;
        start(&r);
        rig_entry(&r, 1, 1, 1, 900);
        mem_disk_fail_after(r.disk, after);
        for (uint64_t i = 2; i < 6; i++) {
            rig_entry(&r, 1, 1, i, 900);
            rig_sync(&r);
        }
        cr_assert_eq(r.failures, 1, "told once");
        cr_assert_leq(journal_synced(r.journal), (uint64_t)after / 2);
        rig_free(&r);
    }
}

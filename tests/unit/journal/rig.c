// SPDX-License-Identifier: Apache-2.0
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static void on_completed(void *ctx, uint64_t ticket) {
    struct rig *r = ctx;
    CHECK(ticket > r->done);
    r->done = ticket;
}

static void on_fatal(void *ctx, const char *text) {
    ((struct rig *)ctx)->failures++;
}

static void on_job(void *executor, struct journal_job *job) {
    struct rig *r = executor;
    r->jobs = journal_job_link(r->jobs, job);
}

void rig_on(struct rig *r, struct mem_disk *disk) {
    *r = (struct rig){.disk = disk};
    r->options = (struct journal_options){.disk = mem_disk_disk(disk),
                                          .folder = "j",
                                          .segment_bytes = 4096,
                                          .reserve_bytes = 65536,
                                          .batch_type = TYPE_BATCH,
                                          .random = 0x0123456789abcdef,
                                          .completed = on_completed,
                                          .fatal = on_fatal,
                                          .ctx = r,
                                          .execute = on_job,
                                          .executor = r};
}

void rig_new(struct rig *r) {
    rig_on(r, mem_disk_new());
}

enum err rig_open(struct rig *r) {
    struct err_detail detail;
    r->done = 0;
    r->failures = 0;
    return journal_open(&r->options, &r->journal, &r->recovered, &detail);
}

void rig_run(struct rig *r) {
    while (r->jobs) {
        struct journal_job *jobs = r->jobs;
        r->jobs = NULL;
        journal_run(jobs);
        if (r->done > journal_synced(r->journal))
            journal_completed(r->journal, r->done);
    }
}

void rig_sync(struct rig *r) {
    journal_flush(r->journal);
    rig_run(r);
}

void rig_close(struct rig *r) {
    rig_run(r);
    journal_close(r->journal);
    r->journal = NULL;
}

void rig_abandon(struct rig *r) {
    while (r->jobs) {
        /* a turn's job is gone with its turn: one at a time, next first */
        struct journal_job *job = r->jobs;
        r->jobs = journal_job_unlink(job);
        journal_job_forget(job);
    }
    journal_abandon(r->journal);
    r->journal = NULL;
}

void rig_free(struct rig *r) {
    if (r->journal)
        rig_abandon(r);
    mem_disk_free(r->disk);
}

void rig_reopen(struct rig *r) {
    rig_sync(r);
    rig_close(r);
    CHECK(rig_open(r) == ERR_OK);
}

static void carry(void *ctx, uint64_t partition) {
    journal_carry(((struct rig *)ctx)->journal, partition);
}

int rig_reclaim(struct rig *r, void (*each)(void *ctx, uint64_t partition), void *ctx) {
    for (int steps = 0;; steps++) {
        enum journal_progress p = journal_reclaim(r->journal);
        if (p == JOURNAL_IDLE)
            return steps;
        CHECK(steps < 10000);
        if (p == JOURNAL_WAITS)
            journal_needs_checkpoint(r->journal, each ? each : carry, each ? ctx : r);
        rig_sync(r);
    }
}

struct body *rig_body(uint64_t partition, uint64_t epoch, uint64_t index, size_t size) {
    struct rng rng = {.state = partition * 1000003 + epoch * 10007 + index * 31 + size};
    struct body *b = body_new(size);
    for (size_t i = 0; i < size; i++)
        b->data[i] = (uint8_t)rng_next(&rng);
    return b;
}

void rig_entry(struct rig *r, uint64_t partition, uint64_t epoch, uint64_t index, size_t size) {
    struct body *b = rig_body(partition, epoch, index, size);
    journal_write_entry(r->journal, partition, epoch, index, TYPE_BATCH, b);
    body_drop(b);
}

bool rig_has(struct rig *r, uint64_t partition, uint64_t epoch, uint64_t index, size_t size) {
    struct journal_location at;
    struct body *got;
    if (journal_locate(r->journal, partition, index, &at) != ERR_OK)
        return false;
    if (journal_read(r->journal, &at, &got) != ERR_OK)
        return false;
    struct body *want = rig_body(partition, epoch, index, size);
    bool same = at.epoch == epoch && got->size == size && memcmp(got->data, want->data, size) == 0;
    body_drop(want);
    body_drop(got);
    return same;
}

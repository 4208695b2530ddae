// SPDX-License-Identifier: Apache-2.0
/* A journal on a disk in memory, whose jobs are run when the test says so. */
#ifndef MAILROOM_TEST_RIG_H
#define MAILROOM_TEST_RIG_H

#include "journal/journal.h"
#include "mem_disk.h"

enum { TYPE_BATCH = 1, TYPE_SETTLEMENT = 2 };

struct rig {
    struct mem_disk *disk;
    struct journal *journal;
    struct journal_job *jobs; /* handed out, not run */
    uint64_t done;            /* highest ticket completed on the journal's side */
    int failures;             /* calls of the fatal hook */
    struct journal_recovered recovered;
    struct journal_options options;
};

/* A fresh disk; segments of 4 KiB unless changed in r->options before rig_open. */
void rig_new(struct rig *r);
void rig_on(struct rig *r, struct mem_disk *disk);
enum err rig_open(struct rig *r);
/* Close cleanly (all jobs run), or as a crash (those not run are forgotten). */
void rig_close(struct rig *r);
void rig_abandon(struct rig *r);
void rig_free(struct rig *r);
/* Run what is queued; tell the journal what was completed. */
void rig_run(struct rig *r);
void rig_sync(struct rig *r); /* flush, then run */
void rig_reopen(struct rig *r);
/* Reclaim until idle, carrying or checkpointing what is asked for with `each`;
 * NULL: journal_carry. Returns the number of steps. */
int rig_reclaim(struct rig *r, void (*each)(void *ctx, uint64_t partition), void *ctx);

/* Bytes that follow from the numbers, so that any body can be checked. */
struct body *rig_body(uint64_t partition, uint64_t epoch, uint64_t index, size_t size);
void rig_entry(struct rig *r, uint64_t partition, uint64_t epoch, uint64_t index, size_t size);
/* The entry is there with that epoch and those bytes. */
bool rig_has(struct rig *r, uint64_t partition, uint64_t epoch, uint64_t index, size_t size);

#endif

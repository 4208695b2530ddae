// SPDX-License-Identifier: Apache-2.0
/*
 * What the journal's thread does. A turn is one write (per segment) and one
 * sync; turns that are queued share the sync. Housekeeping (sealing, filling the
 * spare, removing) goes in steps between the turns and holds no answer up.
 *
 * A turn's job belongs to the turn: once completed() was called for its ticket
 * it must not be touched. Housekeeping jobs are freed by who runs them.
 */
#ifndef MAILROOM_JOURNAL_JOB_H
#define MAILROOM_JOURNAL_JOB_H

#include "journal/journal.h"
#include "journal/store.h"

enum job_kind { JOB_TURN, JOB_SEAL, JOB_FILL, JOB_REMOVE, JOB_MEASURE };

struct job_write {
    uint32_t segment;
    uint32_t begin_bytes; /* not 0: the segment's file is to be made first */
    uint32_t offset;
    const struct iovec *pieces;
    size_t count;
};

/* Where completions go; shared by the jobs of a journal. */
struct job_hooks {
    void (*completed)(void *ctx, uint64_t ticket);
    void (*written)(void *ctx, uint64_t ticket);
    void *ctx;
};

struct journal_job {
    struct journal_job *next;
    struct store *store;
    const struct job_hooks *hooks;
    enum job_kind kind;
    uint64_t ticket; /* JOB_TURN */
    struct job_write *writes;
    size_t writes_count;
    uint32_t segment; /* JOB_SEAL, JOB_REMOVE */
    uint32_t offset;  /* JOB_SEAL: where; data is owned */
    uint8_t *data;
    size_t size;
};

/* Write all turns of the list, sync, call the hooks. False: the disk failed. */
bool job_run_turns(struct journal_job *list);
/* One step of housekeeping: true while more is to do, else the job is freed. */
bool job_step(struct journal_job *job);

struct journal_job *job_seal(struct store *s, uint32_t segment, uint32_t offset, uint8_t *data, size_t size);
struct journal_job *job_fill(struct store *s);
struct journal_job *job_remove(struct store *s, uint32_t segment);
struct journal_job *job_measure(struct store *s);

#endif

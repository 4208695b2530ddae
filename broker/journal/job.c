// SPDX-License-Identifier: Apache-2.0
#include "journal/job.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"

/* A turn's writes are in the order of the segments, and so are the turns: each
 * segment is synced once, when the writes have left it. */
static bool write_turn(struct journal_job *job, uint32_t *dirty) {
    for (size_t i = 0; i < job->writes_count; i++) {
        const struct job_write *w = &job->writes[i];
        if (*dirty && *dirty != w->segment && store_sync(job->store, *dirty) != 0)
            return false;
        *dirty = 0;
        if (w->begin_bytes && store_begin(job->store, w->segment, w->begin_bytes) != 0)
            return false;
        if (store_write(job->store, w->segment, w->offset, w->pieces, w->count) != 0)
            return false;
        *dirty = w->segment;
    }
    if (job->hooks->written)
        job->hooks->written(job->hooks->ctx, job->ticket);
    return true;
}

bool job_run_turns(struct journal_job *list) {
    uint32_t dirty = 0;
    struct journal_job *last = NULL;
    for (struct journal_job *job = list; job; job = job->next) {
        if (job->kind != JOB_TURN)
            continue;
        if (!write_turn(job, &dirty))
            return false;
        last = job;
    }
    if (!last)
        return !list || !store_failed(list->store);
    struct store *store = last->store;
    if (dirty && !MUTATED(completed_before_sync) && store_sync(store, dirty) != 0)
        return false;
    store_measure(store);
    last->hooks->completed(last->hooks->ctx, last->ticket);
    return true;
}

static bool seal(struct journal_job *job) {
    struct iovec piece = {job->data, job->size};
    if (store_write(job->store, job->segment, job->offset, &piece, 1) == 0)
        store_sync(job->store, job->segment);
    return false;
}

bool job_step(struct journal_job *job) {
    bool more = false;
    CHECK(job->kind != JOB_TURN);
    if (job->kind == JOB_SEAL)
        more = seal(job);
    else if (job->kind == JOB_FILL)
        more = store_fill_step(job->store);
    else if (job->kind == JOB_REMOVE)
        store_remove(job->store, job->segment);
    if (!more) {
        store_measure(job->store);
        journal_job_forget(job);
    }
    return more;
}

void journal_run(struct journal_job *job) {
    struct journal_job *chores = NULL, **end = &chores;
    /* apart first: completed() gives the turns back to the owner */
    struct journal_job *turns = NULL, **turns_end = &turns;
    while (job) {
        struct journal_job ***to = job->kind == JOB_TURN ? &turns_end : &end;
        struct journal_job *next = job->next;
        job->next = NULL;
        **to = job;
        *to = &job->next;
        job = next;
    }
    job_run_turns(turns);
    while (chores) {
        struct journal_job *next = chores->next;
        while (job_step(chores)) {
        }
        chores = next;
    }
}

struct journal_job *journal_job_link(struct journal_job *a, struct journal_job *b) {
    if (!a)
        return b;
    struct journal_job *last = a;
    while (last->next)
        last = last->next;
    last->next = b;
    return a;
}

struct journal_job *journal_job_unlink(struct journal_job *job) {
    struct journal_job *rest = job->next;
    job->next = NULL;
    return rest;
}

void journal_job_forget(struct journal_job *job) {
    if (job->kind == JOB_TURN)
        return; /* its turn's */
    free(job->data);
    free(job);
}

static struct journal_job *chore(struct store *s, enum job_kind kind, uint32_t segment) {
    struct journal_job *job = xmalloc(sizeof *job);
    *job = (struct journal_job){.store = s, .kind = kind, .segment = segment};
    return job;
}

struct journal_job *job_seal(struct store *s, uint32_t segment, uint32_t offset, uint8_t *data, size_t size) {
    struct journal_job *job = chore(s, JOB_SEAL, segment);
    job->offset = offset;
    job->data = data;
    job->size = size;
    return job;
}

struct journal_job *job_fill(struct store *s) {
    return chore(s, JOB_FILL, 0);
}

struct journal_job *job_remove(struct store *s, uint32_t segment) {
    return chore(s, JOB_REMOVE, segment);
}

struct journal_job *job_measure(struct store *s) {
    return chore(s, JOB_MEASURE, 0);
}

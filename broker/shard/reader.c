// SPDX-License-Identifier: Apache-2.0
/*
 * Cold reads: batches for delivery, entries for lagging peers and for applying
 * after a restart, read from the journal on one thread and posted back.
 *
 * A job is made on the loop (which locates the entries), read on the thread,
 * fired on the loop (which looks the partition up anew: it may be gone).
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/body.h"
#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"

struct read_job {
    struct loop_event event;
    struct read_job *next;
    struct shard *shard;
    uint64_t partition;
    bool is_batch; /* for delivery; else for the replica's fetch */
    member_t who;
    uint64_t from, to;
    struct journal_location *at;
    struct body **bodies;
    enum err *errs;
    size_t count;
};

struct reader {
    struct shard *shard;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct read_job *first, *last;
    size_t waiting; /* loop's: jobs not yet fired */
    bool stopping;
};

static struct read_job *take(struct reader *r) {
    pthread_mutex_lock(&r->lock);
    while (!r->first && !r->stopping)
        pthread_cond_wait(&r->wake, &r->lock);
    struct read_job *job = r->stopping ? NULL : r->first;
    if (job) {
        r->first = job->next;
        if (!r->first)
            r->last = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    return job;
}

static void *run(void *arg) {
    struct reader *r = arg;
    struct read_job *job;
    while ((job = take(r))) {
        for (size_t i = 0; i < job->count; i++)
            job->errs[i] = journal_read(r->shard->journal, &job->at[i], &job->bodies[i]);
        loop_post(r->shard->loop, &job->event);
    }
    return NULL;
}

static void give(struct reader *r, struct read_job *job) {
    r->waiting++;
    pthread_mutex_lock(&r->lock);
    if (r->last)
        r->last->next = job;
    else
        r->first = job;
    r->last = job;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

static void free_job(struct read_job *job) {
    for (size_t i = 0; i < job->count; i++)
        body_drop(job->bodies[i]);
    free(job->at);
    free(job->bodies);
    free(job->errs);
    free(job);
}

size_t reader_waiting(const struct reader *r) {
    return r->waiting;
}

static void log_unreadable(struct hosted *h, uint64_t index) {
    log_error("partition %llu (%s/%u): entry %llu cannot be read from the journal", (unsigned long long)h->id,
              h->name, h->number, (unsigned long long)index);
}

static void fire_batch(struct hosted *h, struct read_job *job) {
    struct body *body = job->errs[0] == ERR_OK ? job->bodies[0] : NULL;
    if (job->errs[0] == ERR_STALE) { /* moved while it was read: locate it again */
        reader_batch(h, job->from);
        return;
    }
    if (!body) {
        log_unreadable(h, job->from);
        replica_unreadable(h->partition->replica, job->from, loop_now(h->shard->loop),
                           &h->partition->replica_effects);
    }
    deliver_read(h, job->from, body);
}

static void fire_fetch(struct hosted *h, struct read_job *job) {
    struct entry *entries = xcalloc(job->count, sizeof *entries);
    size_t good = 0;
    while (good < job->count && job->errs[good] == ERR_OK) {
        const struct journal_location *at = &job->at[good];
        entries[good] = (struct entry){
            .index = at->index, .epoch = at->epoch, .type = at->type, .body = job->bodies[good]};
        good++;
    }
    if (good == 0 && job->count > 0 && job->errs[0] == ERR_STALE) {
        reader_fetch(h, job->from, job->to, job->who);
    } else {
        bool unreadable = good == 0 && job->count > 0 && job->errs[0] != ERR_NOT_FOUND;
        if (unreadable)
            log_unreadable(h, job->from);
        replica_fetched(h->partition->replica, job->who, job->from, entries, good, unreadable,
                        loop_now(h->shard->loop), &h->partition->replica_effects);
        partition_run(h->partition, loop_now(h->shard->loop));
    }
    free(entries);
}

static void on_read(struct loop_event *event) {
    struct read_job *job = (struct read_job *)event;
    struct shard *s = job->shard;
    struct hosted *h = shard_find(s, job->partition);
    s->reader->waiting--;
    if (h && h->partition) {
        child_working_on(s->child, h->id);
        shard_touch(h);
        if (job->is_batch)
            fire_batch(h, job);
        else
            fire_fetch(h, job);
        child_working_on(s->child, 0);
    }
    free_job(job);
}

static struct read_job *new_job(struct hosted *h, uint64_t from, uint64_t to, size_t room) {
    struct read_job *job = xcalloc(1, sizeof *job);
    *job = (struct read_job){
        .event.fire = on_read, .shard = h->shard, .partition = h->id, .from = from, .to = to};
    job->at = xcalloc(room, sizeof *job->at);
    job->bodies = xcalloc(room, sizeof *job->bodies);
    job->errs = xcalloc(room, sizeof *job->errs);
    return job;
}

void reader_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who) {
    size_t room = to - from + 1 < SHARD_FETCH_ENTRIES ? (size_t)(to - from + 1) : SHARD_FETCH_ENTRIES;
    struct read_job *job = new_job(h, from, to, room);
    job->who = who;
    size_t bytes = 0;
    while (job->count < room && (job->count == 0 || bytes < SHARD_FETCH_BYTES)) {
        struct journal_location *at = &job->at[job->count];
        if (journal_locate(h->shard->journal, h->id, from + job->count, at) != ERR_OK)
            break;
        bytes += at->bytes;
        job->count++;
    }
    give(h->shard->reader, job);
}

void reader_batch(struct hosted *h, uint64_t index) {
    struct read_job *job = new_job(h, index, index, 1);
    job->is_batch = true;
    job->count = 1;
    enum err err = journal_locate(h->shard->journal, h->id, index, &job->at[0]);
    if (err != ERR_OK) {
        /* known to the mailbox, lost in the journal: damage that recovery has reported */
        log_error("partition %llu: batch %llu is not in the journal: %s", (unsigned long long)h->id,
                  (unsigned long long)index, err_text(err));
        free_job(job);
        replica_unreadable(h->partition->replica, index, loop_now(h->shard->loop),
                           &h->partition->replica_effects);
        deliver_read(h, index, NULL);
        return;
    }
    give(h->shard->reader, job);
}

struct reader *reader_start(struct shard *s) {
    struct reader *r = xcalloc(1, sizeof *r);
    r->shard = s;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    CHECK(pthread_create(&r->thread, NULL, run, r) == 0);
    return r;
}

void reader_stop(struct reader *r) {
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    while (r->first) {
        struct read_job *job = r->first;
        r->first = job->next;
        free_job(job);
    }
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->wake);
    r->shard->reader = NULL;
    free(r);
}

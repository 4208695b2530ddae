// SPDX-License-Identifier: Apache-2.0
/*
 * Cold reads: batches for delivery, entries for lagging peers and for applying
 * after a restart. A job is made here (which locates the entries), read wherever
 * the host does that, and fired here (which looks the partition up anew: it may
 * be gone).
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

static void say_unreadable(struct hosted *h, uint64_t index) {
    shard_say(h->shard, true,
              "partition %" PRIu64 " (%s/%u): entry %" PRIu64 " cannot be read from the journal", h->id,
              h->name, h->number, index);
}

/* All of it was settled, and a checkpoint let it go, since the delivery was decided:
 * nobody misses it. What is live and cannot be had is damage. */
static bool let_go(const struct hosted *h, uint64_t index) {
    return !mailbox_batch_live(h->partition->mailbox, index);
}

static void fire_batch(struct hosted *h, struct read_job *job) {
    struct body *body = job->errs[0] == ERR_OK ? job->bodies[0] : NULL;
    if (job->errs[0] == ERR_STALE) { /* moved while it was read: locate it again */
        read_batch(h, job->from);
        return;
    }
    if (!body && !let_go(h, job->from)) {
        say_unreadable(h, job->from);
        replica_unreadable(h->partition->replica, job->from, shard_now(h->shard),
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
        read_fetch(h, job->from, job->to, job->who);
    } else {
        bool unreadable = good == 0 && job->count > 0 && job->errs[0] != ERR_NOT_FOUND;
        if (unreadable)
            say_unreadable(h, job->from);
        replica_fetched(h->partition->replica, job->who, job->from, entries, good, unreadable,
                        shard_now(h->shard), &h->partition->replica_effects);
        partition_run(h->partition, shard_now(h->shard));
    }
    free(entries);
}

void read_execute(struct read_job *job) {
    for (size_t i = 0; i < job->count; i++) {
        job->errs[i] = journal_read(job->shard->journal, &job->at[i], &job->bodies[i]);
        job->at[i].in_flight = NULL;
    }
}

void read_fire(struct read_job *job) {
    struct shard *s = job->shard;
    struct hosted *h = shard_find(s, job->partition);
    if (h && h->partition && h->opened == job->opened) {
        shard_working_on(s, h->id);
        shard_touch(h);
        if (job->is_batch)
            fire_batch(h, job);
        else
            fire_fetch(h, job);
        shard_working_on(s, 0);
    }
    read_free(job);
}

void read_free(struct read_job *job) {
    for (size_t i = 0; i < job->count; i++) {
        body_drop(job->bodies[i]);
        body_drop(job->at[i].in_flight);
    }
    free(job->at);
    free(job->bodies);
    free(job->errs);
    free(job);
}

static struct read_job *new_job(struct hosted *h, uint64_t from, uint64_t to, size_t room) {
    struct read_job *job = xcalloc(1, sizeof *job);
    *job =
        (struct read_job){.shard = h->shard, .partition = h->id, .opened = h->opened, .from = from, .to = to};
    job->at = xcalloc(room, sizeof *job->at);
    job->bodies = xcalloc(room, sizeof *job->bodies);
    job->errs = xcalloc(room, sizeof *job->errs);
    return job;
}

void read_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who) {
    struct shard *s = h->shard;
    size_t room = to - from + 1 < SHARD_FETCH_ENTRIES ? (size_t)(to - from + 1) : SHARD_FETCH_ENTRIES;
    struct read_job *job = new_job(h, from, to, room);
    job->who = who;
    size_t bytes = 0;
    while (job->count < room && (job->count == 0 || bytes < SHARD_FETCH_BYTES)) {
        struct journal_location *at = &job->at[job->count];
        if (journal_locate(s->journal, h->id, from + job->count, at) != ERR_OK)
            break;
        bytes += at->bytes;
        job->count++;
    }
    s->calls->read(s->host, job);
}

void read_batch(struct hosted *h, uint64_t index) {
    struct shard *s = h->shard;
    struct read_job *job = new_job(h, index, index, 1);
    job->is_batch = true;
    enum err err = journal_locate(s->journal, h->id, index, &job->at[0]);
    if (err != ERR_OK) {
        read_free(job);
        if (let_go(h, index)) {
            deliver_read(h, index, NULL);
            return;
        }
        /* known to the mailbox, lost in the journal: damage that recovery has reported */
        shard_say(s, true, "partition %" PRIu64 ": batch %" PRIu64 " is not in the journal: %s", h->id, index,
                  err_text(err));
        replica_unreadable(h->partition->replica, index, shard_now(s), &h->partition->replica_effects);
        deliver_read(h, index, NULL);
        return;
    }
    job->count = 1;
    s->calls->read(s->host, job);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The owner, the commit thread and readers, all at once on real files: reads go
 * on while segments are reclaimed and their files used again. A plain program,
 * so that it can be run under ThreadSanitizer.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "rig.h"

enum { BATCHES = 600, READERS = 2, BODY_BYTES = 3000 };

struct shared {
    struct journal *journal;
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    uint64_t ticket;                             /* under the mutex */
    struct journal_location places[BATCHES + 1]; /* under the mutex; bytes 0: none */
    bool done;                                   /* under the mutex */
    int reads, stale;                            /* under the mutex */
};

static void on_completed(void *ctx, uint64_t ticket) {
    struct shared *s = ctx;
    pthread_mutex_lock(&s->mutex);
    s->ticket = ticket;
    pthread_cond_signal(&s->arrived);
    pthread_mutex_unlock(&s->mutex);
}

static void wait_for(struct shared *s, uint64_t ticket) {
    pthread_mutex_lock(&s->mutex);
    while (s->ticket < ticket)
        pthread_cond_wait(&s->arrived, &s->mutex);
    uint64_t arrived = s->ticket;
    pthread_mutex_unlock(&s->mutex);
    journal_completed(s->journal, arrived);
}

static void write_batch(struct shared *s, uint64_t index) {
    struct body *b = rig_body(1, 1, index, BODY_BYTES);
    journal_write_entry(s->journal, 1, 1, index, TYPE_BATCH, b);
    body_drop(b);
}

static bool same(struct body *got, uint64_t index) {
    struct body *want = rig_body(1, 1, index, BODY_BYTES);
    bool equal = got->size == want->size && memcmp(got->data, want->data, got->size) == 0;
    body_drop(want);
    return equal;
}

static bool pick(struct shared *s, struct rng *rng, struct journal_location *out) {
    pthread_mutex_lock(&s->mutex);
    *out = s->places[1 + rng_below(rng, BATCHES)];
    bool done = s->done;
    pthread_mutex_unlock(&s->mutex);
    return !done;
}

static void *reader(void *arg) {
    struct shared *s = arg;
    struct rng rng = {.state = (uint64_t)(uintptr_t)&rng};
    struct journal_location at;
    while (pick(s, &rng, &at)) {
        struct body *body;
        if (!at.bytes)
            continue;
        enum err e = journal_read(s->journal, &at, &body);
        CHECK(e == ERR_OK || e == ERR_STALE);
        if (e == ERR_OK) {
            CHECK(same(body, at.index));
            body_drop(body);
        }
        pthread_mutex_lock(&s->mutex);
        s->reads += e == ERR_OK;
        s->stale += e == ERR_STALE;
        pthread_mutex_unlock(&s->mutex);
    }
    return NULL;
}

static void publish_place(struct shared *s, uint64_t index) {
    struct journal_location at;
    if (journal_locate(s->journal, 1, index, &at) != ERR_OK)
        return;
    if (at.in_flight) { /* readers get only what is on disk */
        body_drop(at.in_flight);
        return;
    }
    pthread_mutex_lock(&s->mutex);
    s->places[index] = at;
    pthread_mutex_unlock(&s->mutex);
}

/* Every sixteenth batch stays. */
static void sum_up(struct shared *s, uint64_t base) {
    struct journal_live live[BATCHES];
    struct journal_checkpoint c = {.base_index = base, .base_epoch = 1, .live = live};
    for (uint64_t i = 1; i <= base; i++) {
        if (i % 16 == 0)
            live[c.live_count++] = (struct journal_live){i, 1};
        else
            journal_mark_dead(s->journal, 1, i);
    }
    CHECK(journal_write_checkpoint(s->journal, 1, &c) == ERR_OK);
}

static void own(struct shared *s) {
    for (uint64_t i = 1; i <= BATCHES; i++) {
        write_batch(s, i);
        if (i % 100 == 0)
            sum_up(s, i);
        if (journal_reclaim(s->journal) == JOURNAL_WAITS && i % 7 == 0)
            journal_carry(s->journal, 1);
        wait_for(s, journal_flush(s->journal));
        publish_place(s, i);
    }
}

static void open_in(struct shared *s, const char *folder) {
    struct journal_options options = {.folder = folder,
                                      .segment_bytes = 256 * 1024,
                                      .batch_type = TYPE_BATCH,
                                      .random = 42,
                                      .completed = on_completed,
                                      .ctx = s};
    CHECK(journal_open(&options, &s->journal, NULL, NULL) == ERR_OK);
}

static uint64_t reclaimed(struct shared *s) {
    struct journal_statistics statistics;
    journal_statistics(s->journal, &statistics);
    return statistics.reclaimed;
}

static void check_all(struct shared *s) {
    for (uint64_t i = 16; i <= BATCHES; i += 16) {
        struct journal_location at;
        struct body *body;
        CHECK(journal_locate(s->journal, 1, i, &at) == ERR_OK);
        CHECK(journal_read(s->journal, &at, &body) == ERR_OK && same(body, i));
        body_drop(body);
    }
}

int main(void) {
    static struct shared s;
    char folder[] = "/tmp/mailroom-journal-XXXXXX", command[64];
    pthread_t readers[READERS];
    CHECK(mkdtemp(folder));
    pthread_mutex_init(&s.mutex, NULL);
    pthread_cond_init(&s.arrived, NULL);
    open_in(&s, folder);
    for (int i = 0; i < READERS; i++)
        CHECK(pthread_create(&readers[i], NULL, reader, &s) == 0);
    own(&s);
    pthread_mutex_lock(&s.mutex);
    s.done = true;
    pthread_mutex_unlock(&s.mutex);
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    printf("%d segments gone, %d reads, %d stale\n", (int)reclaimed(&s), s.reads, s.stale);
    CHECK(reclaimed(&s) > 0 && s.reads > 0);
    journal_close(s.journal);
    s.ticket = 0;
    open_in(&s, folder);
    check_all(&s);
    journal_close(s.journal);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0;
}

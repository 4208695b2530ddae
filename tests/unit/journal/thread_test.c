// SPDX-License-Identifier: Apache-2.0
/* The journal on real files with its own thread: completions, the lock, the end.
 * journal_stress.c is for ThreadSanitizer, which does not bear criterion. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "rig.h"

enum { BATCHES = 600 };

struct owner {
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    uint64_t ticket, written; /* under the mutex */
    struct journal *journal;
    struct journal_options options;
    char folder[64];
};

static void on_completed(void *ctx, uint64_t ticket) {
    struct owner *o = ctx;
    pthread_mutex_lock(&o->mutex);
    cr_assert(ticket > o->ticket && o->written >= ticket, "written before synced");
    o->ticket = ticket;
    pthread_cond_signal(&o->arrived);
    pthread_mutex_unlock(&o->mutex);
}

static void on_written(void *ctx, uint64_t ticket) {
    struct owner *o = ctx;
    pthread_mutex_lock(&o->mutex);
    o->written = ticket;
    pthread_mutex_unlock(&o->mutex);
}

static void open_in(struct owner *o) {
    struct journal_recovered recovered;
    struct err_detail detail = {0};
    o->ticket = o->written = 0;
    cr_assert_eq(journal_open(&o->options, &o->journal, &recovered, &detail), ERR_OK, "%s", detail.text);
}

static void start(struct owner *o) {
    *o = (struct owner){.folder = "/tmp/mailroom-journal-XXXXXX"};
    pthread_mutex_init(&o->mutex, NULL);
    pthread_cond_init(&o->arrived, NULL);
    cr_assert_not_null(mkdtemp(o->folder));
    o->options = (struct journal_options){.folder = o->folder,
                                          .segment_bytes = 256 * 1024,
                                          .batch_type = TYPE_BATCH,
                                          .random = 42,
                                          .completed = on_completed,
                                          .written = on_written,
                                          .ctx = o};
    open_in(o);
}

static void finish(struct owner *o) {
    char command[128];
    journal_close(o->journal);
    snprintf(command, sizeof command, "rm -rf '%s'", o->folder);
    cr_assert_eq(system(command), 0);
}

static void wait_for(struct owner *o, uint64_t ticket) {
    pthread_mutex_lock(&o->mutex);
    while (o->ticket < ticket)
        pthread_cond_wait(&o->arrived, &o->mutex);
    uint64_t arrived = o->ticket;
    pthread_mutex_unlock(&o->mutex);
    journal_completed(o->journal, arrived);
}

static void write_batch(struct owner *o, uint64_t partition, uint64_t index) {
    struct body *b = rig_body(partition, 1, index, 3000);
    journal_write_entry(o->journal, partition, 1, index, TYPE_BATCH, b);
    body_drop(b);
}

static bool same(struct body *got, uint64_t partition, uint64_t index) {
    struct body *want = rig_body(partition, 1, index, 3000);
    bool equal = got->size == want->size && memcmp(got->data, want->data, got->size) == 0;
    body_drop(want);
    return equal;
}

Test(thread, turns_are_completed_in_order_and_stay) {
    struct owner o;
    start(&o);
    uint64_t ticket = 0;
    for (uint64_t i = 1; i <= BATCHES; i++) {
        write_batch(&o, 1, i);
        ticket = journal_flush(o.journal);
        if (i % 40 == 0)
            wait_for(&o, ticket);
    }
    wait_for(&o, ticket);
    journal_close(o.journal);
    open_in(&o);
    struct journal_partition p;
    cr_assert(journal_get(o.journal, 1, &p) && p.last_index == BATCHES && !p.damaged);
    for (uint64_t i = 1; i <= BATCHES; i++) {
        struct journal_location at;
        struct body *body;
        cr_assert_eq(journal_locate(o.journal, 1, i, &at), ERR_OK);
        cr_assert_eq(journal_read(o.journal, &at, &body), ERR_OK);
        cr_assert(same(body, 1, i));
        body_drop(body);
    }
    finish(&o);
}

/* Closing waits for what was flushed. */
Test(thread, close_completes_what_was_flushed) {
    struct owner o;
    start(&o);
    for (uint64_t i = 1; i <= 50; i++) {
        write_batch(&o, 1, i);
        journal_flush(o.journal);
    }
    journal_close(o.journal);
    cr_assert_eq(o.ticket, 50);
    open_in(&o);
    struct journal_partition p;
    cr_assert(journal_get(o.journal, 1, &p) && p.last_index == 50);
    finish(&o);
}

Test(thread, a_second_process_is_kept_out) {
    struct owner o;
    start(&o);
    pid_t child = fork();
    if (child == 0) {
        struct journal *other;
        _exit(journal_open(&o.options, &other, NULL, NULL) == ERR_BUSY ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    finish(&o);
}

/* The default answer to a disk that fails is the end, with its exit code. */
Test(thread, a_failed_disk_ends_the_process) {
    pid_t child = fork();
    if (child == 0) {
        struct owner o;
        struct mem_disk *disk = mem_disk_new();
        log_open("test", "journal", LOG_ERROR + 1);
        start(&o);
        journal_close(o.journal);
        o.options.disk = mem_disk_disk(disk);
        open_in(&o);
        write_batch(&o, 1, 1);
        mem_disk_fail_after(disk, 1);
        wait_for(&o, journal_flush(o.journal));
        _exit(0);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == JOURNAL_EXIT_STORAGE);
}

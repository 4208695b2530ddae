// SPDX-License-Identifier: Apache-2.0
/*
 * How fast turns become durable: bench_journal [FOLDER [SECONDS [DEPTH]]]
 * Batches of 25 KiB, one a turn, DEPTH turns in flight (default 1, then 16).
 * Not a test.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "journal/journal.h"

enum { BATCH_BYTES = 25 * 1024, SAMPLES_MAX = 1 << 20, KEEP = 512 };

struct bench {
    pthread_mutex_t mutex;
    pthread_cond_t arrived;
    uint64_t ticket; /* under the mutex */
    struct journal *journal;
    uint64_t index;
    double *latency; /* milliseconds */
    double sent[1024];
    size_t samples;
};

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_completed(void *ctx, uint64_t ticket) {
    struct bench *b = ctx;
    pthread_mutex_lock(&b->mutex);
    b->ticket = ticket;
    pthread_cond_signal(&b->arrived);
    pthread_mutex_unlock(&b->mutex);
}

static void checkpoint(struct bench *b) {
    struct journal_checkpoint c = {.base_index = b->index, .base_epoch = 1};
    journal_write_checkpoint(b->journal, 1, &c);
}

static void send(struct bench *b, struct body *body) {
    journal_write_entry(b->journal, 1, 1, ++b->index, 1, body);
    journal_mark_dead(b->journal, 1, b->index);
    if (b->index % KEEP == 0)
        checkpoint(b);
    journal_reclaim(b->journal);
    uint64_t ticket = journal_flush(b->journal);
    b->sent[ticket % 1024] = seconds();
}

static void take(struct bench *b, uint64_t until) {
    pthread_mutex_lock(&b->mutex);
    while (b->ticket < until)
        pthread_cond_wait(&b->arrived, &b->mutex);
    uint64_t ticket = b->ticket;
    pthread_mutex_unlock(&b->mutex);
    double now = seconds();
    for (uint64_t t = journal_synced(b->journal) + 1; t <= ticket && b->samples < SAMPLES_MAX; t++)
        b->latency[b->samples++] = (now - b->sent[t % 1024]) * 1e3;
    journal_completed(b->journal, ticket);
}

static int ascending(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static void run(struct bench *b, uint64_t depth, double for_seconds) {
    struct body *body = body_new(BATCH_BYTES);
    memset(body->data, 7, body->size);
    double start = seconds();
    uint64_t last = journal_synced(b->journal), first = last;
    b->samples = 0;
    while (seconds() - start < for_seconds) {
        send(b, body);
        last++;
        if (last >= depth)
            take(b, last - depth + 1);
    }
    take(b, last);
    double took = seconds() - start;
    qsort(b->latency, b->samples, sizeof *b->latency, ascending);
    printf("{\"depth\":%d,\"batch_bytes\":%d,\"turns_per_s\":%.0f,\"mb_per_s\":%.1f,\"p50_ms\":%.3f,"
           "\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
           (int)depth, BATCH_BYTES, (double)(last - first) / took,
           (double)(last - first) * BATCH_BYTES / took / 1e6, b->latency[b->samples / 2],
           b->latency[b->samples * 99 / 100], b->latency[b->samples - 1]);
    body_drop(body);
}

int main(int argc, char **argv) {
    static struct bench b;
    struct journal_recovered recovered;
    struct err_detail detail = {0};
    char folder[] = "/tmp/bench-journal-XXXXXX", command[64] = "";
    if (argc < 2 && !mkdtemp(folder))
        return 1;
    pthread_mutex_init(&b.mutex, NULL);
    pthread_cond_init(&b.arrived, NULL);
    b.latency = calloc(SAMPLES_MAX, sizeof *b.latency);
    struct journal_options options = {.folder = argc > 1 ? argv[1] : folder,
                                      .batch_type = 1,
                                      .random = 1,
                                      .completed = on_completed,
                                      .ctx = &b};
    if (journal_open(&options, &b.journal, &recovered, &detail) != ERR_OK) {
        fprintf(stderr, "%s\n", detail.text);
        return 1;
    }
    struct journal_partition p = {0};
    journal_get(b.journal, 1, &p);
    b.index = p.last_index;
    double for_seconds = argc > 2 ? atof(argv[2]) : 3;
    if (argc > 3) {
        run(&b, (uint64_t)atoi(argv[3]), for_seconds);
    } else {
        run(&b, 1, for_seconds);
        run(&b, 16, for_seconds);
    }
    journal_close(b.journal);
    free(b.latency);
    if (argc < 2)
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return command[0] && system(command) != 0;
}

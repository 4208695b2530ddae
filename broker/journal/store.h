// SPDX-License-Identifier: Apache-2.0
/*
 * The segment files of one journal: names, handles, the spare. The only place
 * that calls the disk.
 *
 * Threads: while the journal is open, store_read and store_free_bytes may be
 * called on any thread, everything else on the journal's thread only (at open
 * and close, when that does not run, on the owner's). A file that goes while a
 * reader is in it stays open until the reader is out, and is not recycled.
 *
 * The first failed call latches: store_failed is true and writes do nothing.
 */
#ifndef MAILROOM_JOURNAL_STORE_H
#define MAILROOM_JOURNAL_STORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "journal/disk.h"

enum {
    STORE_PATH_BYTES_MAX = 4096,
    STORE_FILL_STEP_BYTES_MIN = 256 << 10, /* short: a turn may wait for a step */
    STORE_FILL_STEP_BYTES_MAX = 4 << 20
};

struct store_file {
    uint32_t number;
    uint64_t bytes; /* where its seal goes; the file has at least that */
    struct disk_file *file;
    int users; /* under the mutex */
    bool gone; /* under the mutex */
};

struct store {
    struct disk *disk;
    char *folder;
    struct disk_lock *lock;
    uint32_t segment_bytes;
    void (*fatal)(void *ctx, const char *text);
    void *ctx;
    pthread_mutex_t mutex;
    struct store_file **files; /* under the mutex */
    size_t count, capacity;
    struct disk_file *spare; /* being filled, or full */
    uint64_t spare_filled;
    uint64_t written; /* since the last step of filling */
    _Atomic uint64_t free_bytes;
    _Atomic bool measuring; /* a job that measures is on its way */
    _Atomic bool failed;
};

/* Folder made and locked, no file touched. ERR_BUSY, ERR_IO. */
enum err store_open(struct store *s, struct disk *disk, const char *folder, struct err_detail *detail);
void store_close(struct store *s);
/* Report through the hook, once; returns error. 0 passes through. */
int store_fail(struct store *s, int error, const char *what, const char *name);
bool store_failed(const struct store *s);

void store_name(uint32_t number, char out[32]);
/* The segment's number; 0 if the name is not a segment's. */
uint32_t store_name_parse(const char *name);
void store_path(const struct store *s, const char *name, char out[STORE_PATH_BYTES_MAX]);

/* Take over an open file; `bytes` as in struct store_file. */
void store_add(struct store *s, uint32_t number, struct disk_file *file, uint64_t bytes);
/* A spare left by the last run. */
void store_add_spare(struct store *s, struct disk_file *file);

/* A file for the segment, durable under its name: the spare if it fits. */
int store_begin(struct store *s, uint32_t number, uint32_t bytes);
int store_write(struct store *s, uint32_t number, uint64_t offset, const struct iovec *pieces, size_t count);
int store_sync(struct store *s, uint32_t number);
/* Name gone; the file becomes the spare if there is none and it fits. */
int store_remove(struct store *s, uint32_t number);
/* Close it; the name is somebody else's matter. */
void store_forget(struct store *s, uint32_t number);
/* Fill the spare by one step; true while more is to do. A step is twice what was
 * written since the last one, so that the spare is full when it is needed. A full
 * disk is no failure here: there is just no spare. */
bool store_fill_step(struct store *s);
void store_measure(struct store *s);

/* ERR_STALE: no such segment (any more). ERR_IO. *got less only at the end. */
enum err store_read(struct store *s, uint32_t number, uint64_t offset, void *data, size_t size, size_t *got);

#endif

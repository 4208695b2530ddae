// SPDX-License-Identifier: Apache-2.0
#include "journal/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

static const char spare_name[] = "spare";

enum err store_open(struct store *s, struct disk *disk, const char *folder, struct err_detail *detail) {
    s->disk = disk;
    s->folder = xstrdup(folder);
    pthread_mutex_init(&s->mutex, NULL);
    int error = strlen(folder) + 64 > STORE_PATH_BYTES_MAX ? ENAMETOOLONG : disk->make_folder(disk, folder);
    if (!error)
        error = disk->lock(disk, folder, &s->lock);
    if (error == EWOULDBLOCK)
        return err_set(detail, ERR_BUSY, "%s: open in another process", folder);
    if (error)
        return err_set(detail, ERR_IO, "%s: %s", folder, strerror(error));
    store_measure(s);
    return ERR_OK;
}

static void file_close(struct store *s, struct store_file *f) {
    s->disk->close(s->disk, f->file);
    free(f);
}

void store_close(struct store *s) {
    for (size_t i = 0; i < s->count; i++) {
        CHECK(s->files[i]->users == 0);
        file_close(s, s->files[i]);
    }
    if (s->spare)
        s->disk->close(s->disk, s->spare);
    if (s->lock)
        s->disk->unlock(s->disk, s->lock);
    free(s->files);
    free(s->folder);
    pthread_mutex_destroy(&s->mutex);
}

int store_fail(struct store *s, int error, const char *what, const char *name) {
    if (error == 0 || atomic_exchange(&s->failed, true))
        return error;
    char text[ERR_DETAIL_BYTES];
    snprintf(text, sizeof text, "journal: %s %.100s/%s: %s", what, s->folder, name, strerror(error));
    if (s->fatal)
        s->fatal(s->ctx, text);
    return error;
}

bool store_failed(const struct store *s) {
    return atomic_load(&s->failed);
}

void store_name(uint32_t number, char out[32]) {
    snprintf(out, 32, "%08x.seg", number);
}

uint32_t store_name_parse(const char *name) {
    char again[32];
    char *end;
    unsigned long number = strtoul(name, &end, 16);
    if (number == 0 || number > UINT32_MAX)
        return 0;
    store_name((uint32_t)number, again);
    return strcmp(name, again) == 0 ? (uint32_t)number : 0;
}

void store_path(const struct store *s, const char *name, char out[STORE_PATH_BYTES_MAX]) {
    int n = snprintf(out, STORE_PATH_BYTES_MAX, "%s/%s", s->folder, name);
    CHECK(n > 0 && n < STORE_PATH_BYTES_MAX);
}

static void segment_path(const struct store *s, uint32_t number, char out[STORE_PATH_BYTES_MAX]) {
    char name[32];
    store_name(number, name);
    store_path(s, name, out);
}

/* ---- handles ---- */

static size_t find(const struct store *s, uint32_t number) {
    size_t i = 0;
    while (i < s->count && s->files[i]->number != number)
        i++;
    return i;
}

static struct store_file *file_hold(struct store *s, uint32_t number) {
    pthread_mutex_lock(&s->mutex);
    size_t i = find(s, number);
    struct store_file *f = i < s->count ? s->files[i] : NULL;
    if (f)
        f->users++;
    pthread_mutex_unlock(&s->mutex);
    return f;
}

static void file_release(struct store *s, struct store_file *f) {
    pthread_mutex_lock(&s->mutex);
    bool last = --f->users == 0 && f->gone;
    pthread_mutex_unlock(&s->mutex);
    if (last)
        file_close(s, f);
}

void store_add(struct store *s, uint32_t number, struct disk_file *file, uint64_t bytes) {
    struct store_file *f = xmalloc(sizeof *f);
    *f = (struct store_file){.number = number, .bytes = bytes, .file = file};
    pthread_mutex_lock(&s->mutex);
    xgrow(&s->files, &s->capacity, s->count + 1, sizeof *s->files);
    s->files[s->count++] = f;
    pthread_mutex_unlock(&s->mutex);
}

void store_add_spare(struct store *s, struct disk_file *file) {
    CHECK(!s->spare);
    s->spare = file;
    s->spare_filled = s->segment_bytes;
}

/* ---- the spare ---- */

static int fill(struct store *s, uint64_t bytes) {
    uint64_t end = s->spare_filled + bytes;
    end = end < s->segment_bytes ? end : s->segment_bytes;
    size_t size = (size_t)(end - s->spare_filled);
    void *zeros = xcalloc(1, size);
    struct iovec piece = {zeros, size};
    int error = s->disk->write(s->disk, s->spare, s->spare_filled, &piece, 1);
    free(zeros);
    if (!error)
        error = s->disk->sync(s->disk, s->spare);
    s->spare_filled = end;
    return error;
}

static void spare_drop(struct store *s) {
    char path[STORE_PATH_BYTES_MAX];
    store_path(s, spare_name, path);
    s->disk->close(s->disk, s->spare);
    s->disk->remove(s->disk, path);
    s->spare = NULL;
}

static uint64_t step_bytes(struct store *s) {
    uint64_t step = 2 * s->written;
    s->written = 0;
    if (step < STORE_FILL_STEP_BYTES_MIN)
        return STORE_FILL_STEP_BYTES_MIN;
    return step < STORE_FILL_STEP_BYTES_MAX ? step : STORE_FILL_STEP_BYTES_MAX;
}

bool store_fill_step(struct store *s) {
    char path[STORE_PATH_BYTES_MAX];
    if (store_failed(s))
        return false;
    if (!s->spare) {
        store_path(s, spare_name, path);
        s->disk->remove(s->disk, path);
        s->spare_filled = 0;
        if (s->disk->create(s->disk, path, 0, &s->spare) != 0) {
            s->spare = NULL;
            return false;
        }
    }
    if (s->spare_filled < s->segment_bytes && fill(s, step_bytes(s)) != 0) {
        spare_drop(s);
        return false;
    }
    return s->spare_filled < s->segment_bytes;
}

static int take_spare(struct store *s, const char *to, struct disk_file **out) {
    char path[STORE_PATH_BYTES_MAX];
    store_path(s, spare_name, path);
    while (s->spare_filled < s->segment_bytes) {
        int error = fill(s, STORE_FILL_STEP_BYTES_MAX);
        if (error)
            return error;
    }
    *out = s->spare;
    s->spare = NULL;
    return s->disk->rename(s->disk, path, to);
}

/* Whole before it has its name: a segment file that is short has lost bytes. */
static int create_whole(struct store *s, const char *to, uint64_t bytes, struct disk_file **out) {
    char path[STORE_PATH_BYTES_MAX];
    store_path(s, "begin", path);
    s->disk->remove(s->disk, path); /* of a crash */
    int error = s->disk->create(s->disk, path, bytes, out);
    return error ? error : s->disk->rename(s->disk, path, to);
}

int store_begin(struct store *s, uint32_t number, uint32_t bytes) {
    char path[STORE_PATH_BYTES_MAX], name[32];
    struct disk_file *file = NULL;
    int error;
    if (store_failed(s))
        return EIO;
    store_name(number, name);
    segment_path(s, number, path);
    if (s->spare && bytes == s->segment_bytes)
        error = take_spare(s, path, &file);
    else
        error = create_whole(s, path, bytes, &file);
    if (!error)
        error = s->disk->sync_folder(s->disk, s->folder);
    if (file)
        store_add(s, number, file, bytes);
    return store_fail(s, error, "create", name);
}

/* ---- bytes ---- */

int store_write(struct store *s, uint32_t number, uint64_t offset, const struct iovec *pieces, size_t count) {
    char name[32];
    if (store_failed(s))
        return EIO;
    store_name(number, name);
    struct store_file *f = file_hold(s, number);
    CHECK(f);
    int error = s->disk->write(s->disk, f->file, offset, pieces, count);
    for (size_t i = 0; i < count; i++)
        s->written += pieces[i].iov_len;
    file_release(s, f);
    return store_fail(s, error, "write", name);
}

int store_sync(struct store *s, uint32_t number) {
    char name[32];
    if (store_failed(s))
        return EIO;
    store_name(number, name);
    struct store_file *f = file_hold(s, number);
    CHECK(f);
    int error = s->disk->sync(s->disk, f->file);
    file_release(s, f);
    return store_fail(s, error, "sync", name);
}

/* Out of the table; NULL if it was missing when the journal was opened. */
static struct store_file *take(struct store *s, uint32_t number, bool *idle) {
    pthread_mutex_lock(&s->mutex);
    size_t i = find(s, number);
    struct store_file *f = i < s->count ? s->files[i] : NULL;
    if (f) {
        s->files[i] = s->files[--s->count];
        *idle = f->users == 0;
        f->gone = true;
    }
    pthread_mutex_unlock(&s->mutex);
    return f;
}

int store_remove(struct store *s, uint32_t number) {
    char path[STORE_PATH_BYTES_MAX], spare[STORE_PATH_BYTES_MAX];
    bool idle = false;
    if (store_failed(s))
        return EIO;
    segment_path(s, number, path);
    store_path(s, spare_name, spare);
    struct store_file *f = take(s, number, &idle);
    if (!f)
        return 0;
    if (idle && !s->spare && f->bytes == s->segment_bytes && s->disk->rename(s->disk, path, spare) == 0) {
        store_add_spare(s, f->file);
        free(f);
        return 0;
    }
    /* A name that stays or comes back is in no list: recovery removes it. */
    s->disk->remove(s->disk, path);
    if (idle)
        file_close(s, f);
    return 0;
}

void store_forget(struct store *s, uint32_t number) {
    bool idle = false;
    struct store_file *f = take(s, number, &idle);
    if (f && idle)
        file_close(s, f);
}

void store_measure(struct store *s) {
    uint64_t bytes;
    if (s->disk->free_bytes(s->disk, s->folder, &bytes) == 0)
        atomic_store(&s->free_bytes, bytes);
    atomic_store(&s->measuring, false);
}

enum err store_read(struct store *s, uint32_t number, uint64_t offset, void *data, size_t size, size_t *got) {
    struct store_file *f = file_hold(s, number);
    if (!f)
        return ERR_STALE;
    int error = s->disk->read(s->disk, f->file, offset, data, size, got);
    file_release(s, f);
    return error ? ERR_IO : ERR_OK;
}

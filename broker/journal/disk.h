// SPDX-License-Identifier: Apache-2.0
/*
 * What the journal needs of a disk. disk_posix.c is the real one; the simulator
 * and the tests bring their own, with torn and lost unsynced writes.
 *
 * All functions return 0 or an errno. Paths are relative to the process, as
 * given in the journal's options. A file handle may be used by several threads:
 * read() runs beside write() and sync(); write() and sync() of one file come
 * from one thread at a time.
 *
 * Durability: bytes written count only after sync() of their file returned 0; a
 * created, renamed or removed name only after sync_folder() returned 0.
 */
#ifndef MAILROOM_JOURNAL_DISK_H
#define MAILROOM_JOURNAL_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk;
struct disk_file; /* opaque, the disk's own */
struct disk_lock; /* opaque, the disk's own */

typedef void (*disk_each)(void *ctx, const char *name, uint64_t bytes);

struct disk {
    /* Create the folder unless it exists (its parent exists), durably. */
    int (*make_folder)(struct disk *d, const char *folder);
    /* Keep every other process out of the folder. EWOULDBLOCK: one is in. */
    int (*lock)(struct disk *d, const char *folder, struct disk_lock **out);
    void (*unlock)(struct disk *d, struct disk_lock *lock);
    /* Each regular file in the folder: its name and size. Any order. */
    int (*list)(struct disk *d, const char *folder, disk_each each, void *ctx);
    /* A new file of `bytes` zeros, written (not only reserved) and synced, so
     * that later writes change no metadata. EEXIST if there is one. */
    int (*create)(struct disk *d, const char *path, uint64_t bytes, struct disk_file **out);
    int (*open)(struct disk *d, const char *path, struct disk_file **out, uint64_t *bytes);
    void (*close)(struct disk *d, struct disk_file *f);
    /* Up to `size` bytes; *got is less only at the end of the file. */
    int (*read)(struct disk *d, struct disk_file *f, uint64_t offset, void *data, size_t size, size_t *got);
    /* All bytes of the pieces, back to back; grows the file where needed. */
    int (*write)(struct disk *d, struct disk_file *f, uint64_t offset, const struct iovec *pieces,
                 size_t count);
    int (*sync)(struct disk *d, struct disk_file *f);
    int (*sync_folder)(struct disk *d, const char *folder);
    int (*rename)(struct disk *d, const char *from, const char *to); /* replaces `to` */
    int (*remove)(struct disk *d, const char *path);
    /* Bytes the process may still use on the folder's file system. */
    int (*free_bytes)(struct disk *d, const char *folder, uint64_t *out);
};

/* The real one; static, nothing to free. */
struct disk *disk_posix(void);

#endif

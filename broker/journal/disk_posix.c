// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "journal/disk.h"

enum { PIECES_MAX = 512, ZERO_BYTES = 1 << 20 };

struct disk_file {
    int fd;
};

struct disk_lock {
    int fd;
};

static int sync_path(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    return error;
}

/* The folder's name in its parent must be durable too. */
static int sync_parent(const char *path) {
    char parent[PATH_MAX];
    if (snprintf(parent, sizeof parent, "%s", path) >= (int)sizeof parent)
        return ENAMETOOLONG;
    size_t n = strlen(parent);
    while (n > 1 && parent[n - 1] == '/')
        parent[--n] = '\0';
    char *slash = strrchr(parent, '/');
    if (!slash)
        return sync_path(".");
    slash[slash == parent ? 1 : 0] = '\0';
    return sync_path(parent);
}

static int posix_make_folder(struct disk *d, const char *folder) {
    if (mkdir(folder, 0700) != 0)
        return errno == EEXIST ? 0 : errno;
    return sync_parent(folder);
}

static int posix_lock(struct disk *d, const char *folder, struct disk_lock **out) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int error = errno;
        close(fd);
        return error;
    }
    *out = xmalloc(sizeof **out);
    (*out)->fd = fd;
    return 0;
}

static void posix_unlock(struct disk *d, struct disk_lock *lock) {
    close(lock->fd);
    free(lock);
}

static int posix_list(struct disk *d, const char *folder, disk_each each, void *ctx) {
    DIR *dir = opendir(folder);
    if (!dir)
        return errno;
    int error = 0;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (!e) {
            error = errno;
            break;
        }
        struct stat st;
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            each(ctx, e->d_name, (uint64_t)st.st_size);
    }
    closedir(dir);
    return error;
}

static struct disk_file *file_new(int fd) {
    struct disk_file *f = xmalloc(sizeof *f);
    f->fd = fd;
    return f;
}

static int write_all(int fd, uint64_t offset, const struct iovec *given, size_t count) {
    struct iovec pieces[PIECES_MAX];
    while (count > 0) {
        size_t n = count < PIECES_MAX ? count : PIECES_MAX;
        memcpy(pieces, given, n * sizeof *pieces);
        size_t at = 0;
        while (at < n) {
            ssize_t wrote = pwritev(fd, pieces + at, (int)(n - at), (off_t)offset);
            if (wrote < 0 && errno == EINTR)
                continue;
            if (wrote < 0)
                return errno;
            offset += (uint64_t)wrote;
            size_t left = (size_t)wrote;
            while (at < n && left >= pieces[at].iov_len)
                left -= pieces[at++].iov_len;
            if (at < n) {
                pieces[at].iov_base = (char *)pieces[at].iov_base + left;
                pieces[at].iov_len -= left;
            }
        }
        given += n;
        count -= n;
    }
    return 0;
}

static int fill_zeros(int fd, uint64_t bytes) {
    char *zeros = xcalloc(1, ZERO_BYTES);
    int error = 0;
    for (uint64_t at = 0; !error && at < bytes; at += ZERO_BYTES) {
        uint64_t n = bytes - at < ZERO_BYTES ? bytes - at : ZERO_BYTES;
        struct iovec piece = {zeros, (size_t)n};
        error = write_all(fd, at, &piece, 1);
    }
    free(zeros);
    if (!error && fsync(fd) != 0)
        error = errno;
    return error;
}

static int posix_create(struct disk *d, const char *path, uint64_t bytes, struct disk_file **out) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int error = fill_zeros(fd, bytes);
    if (error) {
        close(fd);
        unlink(path);
        return error;
    }
    *out = file_new(fd);
    return 0;
}

static int posix_open(struct disk *d, const char *path, struct disk_file **out, uint64_t *bytes) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int error = errno;
        close(fd);
        return error;
    }
    *bytes = (uint64_t)st.st_size;
    *out = file_new(fd);
    return 0;
}

static void posix_close(struct disk *d, struct disk_file *f) {
    close(f->fd);
    free(f);
}

static int posix_read(struct disk *d, struct disk_file *f, uint64_t offset, void *data, size_t size,
                      size_t *got) {
    *got = 0;
    while (*got < size) {
        ssize_t n = pread(f->fd, (char *)data + *got, size - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return 0;
        *got += (size_t)n;
    }
    return 0;
}

static int posix_write(struct disk *d, struct disk_file *f, uint64_t offset, const struct iovec *pieces,
                       size_t count) {
    return write_all(f->fd, offset, pieces, count);
}

static int posix_sync(struct disk *d, struct disk_file *f) {
    return fdatasync(f->fd) == 0 ? 0 : errno;
}

static int posix_sync_folder(struct disk *d, const char *folder) {
    return sync_path(folder);
}

static int posix_rename(struct disk *d, const char *from, const char *to) {
    return rename(from, to) == 0 ? 0 : errno;
}

static int posix_remove(struct disk *d, const char *path) {
    return unlink(path) == 0 ? 0 : errno;
}

static int posix_free_bytes(struct disk *d, const char *folder, uint64_t *out) {
    struct statvfs s;
    if (statvfs(folder, &s) != 0)
        return errno;
    *out = (uint64_t)s.f_bavail * s.f_frsize;
    return 0;
}

struct disk *disk_posix(void) {
    static struct disk disk = {.make_folder = posix_make_folder,
                               .lock = posix_lock,
                               .unlock = posix_unlock,
                               .list = posix_list,
                               .create = posix_create,
                               .open = posix_open,
                               .close = posix_close,
                               .read = posix_read,
                               .write = posix_write,
                               .sync = posix_sync,
                               .sync_folder = posix_sync_folder,
                               .rename = posix_rename,
                               .remove = posix_remove,
                               .free_bytes = posix_free_bytes};
    return &disk;
}

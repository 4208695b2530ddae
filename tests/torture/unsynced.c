// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded into a node: remembers what a power failure would take. Before
 * bytes of a file change, the old ones go to an undo log; when the file is
 * synced, the log is emptied. The same for names and their folder. The run
 * undoes what is left after killing the node (powerloss.py).
 *
 *   TORTURE_DATA   the folder that is watched (below it)
 *   TORTURE_UNDO   where logs go
 *   TORTURE_GRAVES where removed files rest, on the file system of the data
 *
 * u-INODE: entries {magic, offset, size, file's size before} and the old bytes;
 *          a mark {magic, log bytes} says that the bytes of the log before that
 *          position are synced
 * d-HASH:  lines "create PATH", "rename FROM TO", "unlink PATH GRAVE", "over FROM TO GRAVE";
 *          removed files rest in graves until their folder is synced
 */
#undef _FILE_OFFSET_BITS /* both names of each function are replaced */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT     __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { ENTRY_MAGIC = 0x55d01, SYNCED_MAGIC = 0x55d02, PATH_BYTES = 1200 };

struct entry {
    uint64_t magic, offset, size, size_before;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t graves;

static const char *data(void) {
    return getenv("TORTURE_DATA");
}

static bool watched(const char *path) {
    const char *d = data(), *dot = strrchr(path, '.');
    size_t n = d ? strlen(d) : 0;
    return d && getenv("TORTURE_UNDO") && strncmp(path, d, n) == 0 && path[n] == '/' &&
           !strstr(path, "/run/") && !(dot && strcmp(dot, ".sock") == 0) && strcmp(path + n, "/lock") != 0;
}

static bool path_of(int fd, char path[PATH_BYTES]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_BYTES - 1);
    if (n <= 0)
        return false;
    path[n] = 0;
    return true;
}

static void die(const char *what) {
    dprintf(STDERR_FILENO, "unsynced: %s: %s\n", what, strerror(errno));
    _exit(99);
}

/* ---- bytes ---- */

static int log_of(int fd, struct stat *st) {
    char path[PATH_BYTES];
    if (!data() || fstat(fd, st) != 0 || !S_ISREG(st->st_mode) || !path_of(fd, path) || !watched(path))
        return -1;
    snprintf(path, sizeof path, "%s/u-%llu", getenv("TORTURE_UNDO"), (unsigned long long)st->st_ino);
    int log = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        die(path);
    return log;
}

static void remember(int fd, uint64_t offset, uint64_t size) {
    struct stat st;
    int saved = errno;
    int log = log_of(fd, &st);
    if (log < 0)
        return;
    uint64_t end = (uint64_t)st.st_size;
    uint64_t old = offset >= end ? 0 : offset + size > end ? end - offset : size;
    struct entry e = {ENTRY_MAGIC, offset, old, end};
    char *bytes = malloc(old ? old : 1);
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int reader = old ? REAL(open)(self, O_RDONLY | O_CLOEXEC) : -1;
    if (old && pread(reader, bytes, old, (off_t)offset) != (ssize_t)old)
        die("read");
    if (old)
        close(reader);
    struct iovec v[] = {{&e, sizeof e}, {bytes, old}};
    if (REAL(writev)(log, v, 2) != (ssize_t)(sizeof e + old))
        die("undo log");
    free(bytes);
    close(log);
    errno = saved;
}

EXPORT ssize_t pwritev(int fd, const struct iovec *v, int n, off_t offset) {
    uint64_t size = 0;
    for (int i = 0; i < n; i++)
        size += v[i].iov_len;
    remember(fd, (uint64_t)offset, size);
    return REAL(pwritev)(fd, v, n, offset);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t offset) {
    return pwritev(fd, v, n, offset);
}

EXPORT ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    remember(fd, (uint64_t)offset, size);
    return REAL(pwrite)(fd, bytes, size, offset);
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    return pwrite(fd, bytes, size, offset);
}

EXPORT ssize_t write(int fd, const void *bytes, size_t size) {
    off_t at = fd > 2 && data() ? lseek(fd, 0, SEEK_CUR) : -1;
    if (at >= 0)
        remember(fd, (uint64_t)at, size);
    return REAL(write)(fd, bytes, size);
}

/* ---- names ---- */

static void folder_of(const char *path, char folder[PATH_BYTES]) {
    snprintf(folder, PATH_BYTES, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = 0;
}

static unsigned long hash(const char *folder) {
    unsigned long h = 5381;
    for (const char *c = folder; *c; c++)
        if (*c != '/' || (c[1] && c[1] != '/'))
            h = h * 33 + (unsigned char)*c;
    return h;
}

__attribute__((format(printf, 2, 3))) static void log_name(const char *path, const char *format, ...) {
    char folder[PATH_BYTES], name[PATH_BYTES], line[3 * PATH_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    folder_of(path, folder);
    snprintf(name, sizeof name, "%s/d-%lx", getenv("TORTURE_UNDO"), hash(folder));
    int log = REAL(open)(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || REAL(write)(log, line, (size_t)n) != n)
        die(name);
    close(log);
}

static void grave_for(const char *path, char grave[PATH_BYTES]) {
    char folder[PATH_BYTES];
    folder_of(path, folder);
    snprintf(grave, PATH_BYTES, "%s/g-%lx-%d-%llu", getenv("TORTURE_GRAVES"), hash(folder), getpid(),
             (unsigned long long)++graves);
}

static int bury(const char *path, const char *grave) {
    return REAL(rename)(path, grave);
}

EXPORT int unlink(const char *path) {
    if (!watched(path) || access(path, F_OK) != 0)
        return REAL(unlink)(path);
    char grave[PATH_BYTES];
    pthread_mutex_lock(&mutex);
    grave_for(path, grave);
    log_name(path, "unlink %s %s\n", path, grave);
    int result = bury(path, grave);
    pthread_mutex_unlock(&mutex);
    return result;
}

EXPORT int rename(const char *from, const char *to) {
    if (!watched(to))
        return REAL(rename)(from, to);
    char grave[PATH_BYTES];
    pthread_mutex_lock(&mutex);
    if (access(to, F_OK) == 0) {
        grave_for(to, grave);
        log_name(to, "over %s %s %s\n", from, to, grave);
        if (link(to, grave) != 0)
            die("link");
    } else {
        log_name(to, "rename %s %s\n", from, to);
    }
    int result = REAL(rename)(from, to);
    pthread_mutex_unlock(&mutex);
    return result;
}

static int do_open(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    bool creates = flags & O_CREAT && watched(path) && access(path, F_OK) != 0;
    int fd = real(path, flags, mode);
    if (fd >= 0 && creates) {
        pthread_mutex_lock(&mutex);
        log_name(path, "create %s\n", path);
        pthread_mutex_unlock(&mutex);
    }
    return fd;
}

EXPORT int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(args, int) : 0;
    va_end(args);
    return do_open(REAL(open), path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(args, int) : 0;
    va_end(args);
    return do_open(REAL(open), path, flags, mode);
}

/* ---- syncs ---- */

static void forget_names(const char *folder) {
    char name[PATH_BYTES + 300], prefix[64];
    snprintf(prefix, sizeof prefix, "g-%lx-", hash(folder));
    pthread_mutex_lock(&mutex);
    snprintf(name, sizeof name, "%s/d-%lx", getenv("TORTURE_UNDO"), hash(folder));
    if (truncate(name, 0) != 0 && errno != ENOENT)
        die("truncate");
    DIR *dir = opendir(getenv("TORTURE_GRAVES"));
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0) {
            snprintf(name, sizeof name, "%s/%s", getenv("TORTURE_GRAVES"), e->d_name);
            REAL(unlink)(name);
        }
    if (dir)
        closedir(dir);
    pthread_mutex_unlock(&mutex);
}

static bool told_to_fail(void) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/fail-sync", getenv("TORTURE_UNDO"));
    return REAL(unlink)(path) == 0;
}

/* Real syncs are not needed: only the machine's power failing would show them. */
static int sync_fd(int fd) {
    struct stat st;
    char path[PATH_BYTES];
    if (data() && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && path_of(fd, path)) {
        if (watched(path) || strcmp(path, data()) == 0)
            forget_names(path);
        return 0;
    }
    int log = log_of(fd, &st);
    if (log < 0)
        return REAL(fdatasync)(fd);
    struct stat before, after;
    fstat(log, &before);
    if (told_to_fail()) {
        close(log);
        errno = EIO;
        return -1;
    }
    usleep(300 + (useconds_t)(rand() % 1500)); /* the time a disk takes: writes go on meanwhile */
    fstat(log, &after);
    struct entry e = {SYNCED_MAGIC, (uint64_t)before.st_size, 0, 0};
    if (before.st_size == after.st_size ? ftruncate(log, 0) != 0 : REAL(write)(log, &e, sizeof e) != sizeof e)
        die("undo log");
    close(log);
    return 0;
}

EXPORT int fsync(int fd) {
    return sync_fd(fd);
}

EXPORT int fdatasync(int fd) {
    return sync_fd(fd);
}

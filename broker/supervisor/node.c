// SPDX-License-Identifier: Apache-2.0
#include "supervisor/node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NODE_FOLDER_MODE = 0700, NODE_FILE_MODE = 0600, NODE_LOCK_RETRY_MS = 20 };

#define FAILED(detail, what, path) err_set((detail), ERR_IO, "%s %.150s: %s", (what), (path), strerror(errno))

/* mkdir -p */
static enum err make_folder(const char *path, struct err_detail *detail) {
    char part[CONFIG_PATH_BYTES_MAX + 1];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(part, NODE_FOLDER_MODE) != 0 && errno != EEXIST)
            return FAILED(detail, "cannot make folder", part);
        *slash = '/';
    }
    struct stat st;
    if (mkdir(part, NODE_FOLDER_MODE) != 0 && errno != EEXIST)
        return FAILED(detail, "cannot make folder", part);
    if (stat(part, &st) != 0)
        return FAILED(detail, "cannot use folder", part);
    if (!S_ISDIR(st.st_mode))
        return err_set(detail, ERR_IO, "%.150s is no folder", part);
    if (access(part, R_OK | W_OK | X_OK) != 0)
        return FAILED(detail, "cannot use folder", part);
    return ERR_OK;
}

static pid_t holder_of(int fd) {
    char text[32] = "";
    if (pread(fd, text, sizeof text - 1, 0) <= 0)
        return 0;
    return (pid_t)strtol(text, NULL, 10);
}

/* Another process's exit is no event here: it is asked for, a bounded time long. */
static bool lock_soon(int fd) {
    for (int waited = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; waited += NODE_LOCK_RETRY_MS) {
        pid_t holder = holder_of(fd);
        bool dying = holder > 0 && kill(holder, 0) != 0 && errno == ESRCH;
        if (!dying || waited >= NODE_LOCK_WAIT_MS)
            return false;
        poll(NULL, 0, NODE_LOCK_RETRY_MS);
    }
    return true;
}

static enum err take_lock(const char *data, int *lock, struct err_detail *detail) {
    char path[CONFIG_PATH_BYTES_MAX + 8], text[32];
    snprintf(path, sizeof path, "%s/lock", data);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, NODE_FILE_MODE);
    if (fd < 0)
        return FAILED(detail, "cannot open", path);
    if (!lock_soon(fd)) {
        enum err e = err_set(detail, ERR_BUSY, "data folder %.150s is in use by another mailroomd (pid %d)",
                             data, holder_of(fd));
        close(fd);
        return e;
    }
    int n = snprintf(text, sizeof text, "%d\n", getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        enum err e = FAILED(detail, "cannot write", path);
        close(fd);
        return e;
    }
    *lock = fd;
    return ERR_OK;
}

/* Sockets of processes that are gone: the lock says that none is alive. */
static void sweep_sockets(const char *run) {
    DIR *dir = opendir(run);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot && strcmp(dot, ".sock") == 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

/* ---- shards ---- */

static unsigned cores(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > CONFIG_SHARDS_AUTO_MAX ? CONFIG_SHARDS_AUTO_MAX : (unsigned)n;
}

/* ERR_NOT_FOUND: a new data folder. */
static enum err read_shards(const char *path, unsigned *shards, struct err_detail *detail) {
    char text[16] = "", *end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : FAILED(detail, "cannot read", path);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    long number = strtol(text, &end, 10);
    if (n <= 0 || number < 1 || number > CONFIG_SHARDS_MAX || strcmp(end, "\n") != 0)
        return err_set(detail, ERR_IO, "%.150s is damaged, expected a number of 1 to %d", path,
                       CONFIG_SHARDS_MAX);
    *shards = (unsigned)number;
    return ERR_OK;
}

static bool sync_folder(const char *folder) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool done = fsync(fd) == 0;
    close(fd);
    return done;
}

/* Whole or not at all: written beside, synced, renamed. */
static enum err write_shards(const char *folder, const char *path, unsigned shards,
                             struct err_detail *detail) {
    char beside[CONFIG_PATH_BYTES_MAX + 16], text[16];
    snprintf(beside, sizeof beside, "%.*s.new", CONFIG_PATH_BYTES_MAX + 8, path);
    int n = snprintf(text, sizeof text, "%u\n", shards);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, NODE_FILE_MODE);
    if (fd < 0)
        return FAILED(detail, "cannot write", beside);
    bool done = write(fd, text, (size_t)n) == n && fsync(fd) == 0;
    close(fd);
    if (!done || rename(beside, path) != 0 || !sync_folder(folder))
        return FAILED(detail, "cannot write", path);
    return ERR_OK;
}

static enum err settle_shards(struct config *config, struct err_detail *detail) {
    char path[CONFIG_PATH_BYTES_MAX + 8];
    unsigned kept = 0;
    snprintf(path, sizeof path, "%s/shards", config->data);
    enum err e = read_shards(path, &kept, detail);
    if (e && e != ERR_NOT_FOUND)
        return e;
    if (e == ERR_OK && config->shards && config->shards != kept)
        return err_set(detail, ERR_INVALID, "shards: %u, but the data folder has %u; expected %u or auto",
                       config->shards, kept, kept);
    if (e == ERR_OK || !config->shards)
        config->shards = e == ERR_OK ? kept : cores();
    enum err ports = config_check_ports(config, config->shards, detail);
    if (ports || e == ERR_OK)
        return ports;
    return write_shards(config->data, path, config->shards, detail);
}

enum err node_open(struct config *config, int *lock, struct err_detail *detail) {
    enum err e = make_folder(config->data, detail);
    if (!e)
        e = make_folder(config->run, detail);
    if (!e)
        e = take_lock(config->data, lock, detail);
    if (e)
        return e;
    e = settle_shards(config, detail);
    if (e) {
        close(*lock);
        *lock = -1;
        return e;
    }
    sweep_sockets(config->run);
    return ERR_OK;
}

/* ---- the tree ---- */

/* In start order. The controller passes its leadership on when asked to stop, a
 * shard its partitions' leaderships: they get the longest. */
static const struct child_spec kinds[] = {
    {"controller", 0, 0, RESTART_PERMANENT, 60 * USEC_S, 5 * USEC_S},
    {"gateway", 0, 1, RESTART_PERMANENT, 60 * USEC_S, 5 * USEC_S},
    {"shard", 0, 2, RESTART_PERMANENT, 60 * USEC_S, 10 * USEC_S},
    {"admin", 0, 3, RESTART_PERMANENT, 60 * USEC_S, 2 * USEC_S},
};

unsigned node_children(const struct config *config, struct child_spec *out) {
    unsigned count = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        unsigned times = strcmp(kinds[k].role, "shard") == 0 ? config->shards : 1;
        for (unsigned i = 0; i < times; i++) {
            out[count] = kinds[k];
            out[count++].index = i;
        }
    }
    return count;
}

unsigned node_restarts_max(const struct config *config) {
    return TREE_RESTARTS_BASE + TREE_RESTARTS_PER_SHARD * config->shards;
}

// SPDX-License-Identifier: Apache-2.0
#include "supervisor/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "supervisor/control.h"

enum { SPAWN_EXIT_EXEC = 127, SPAWN_FD_ABOVE = 64 };

int spawn_open_binary(void) {
    return open("/proc/self/exe", O_PATH | O_CLOEXEC);
}

int spawn_memory(const char *name, size_t size) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Two steps: a source may stand where another's place is. */
static bool place_descriptors(const struct spawn *s) {
    int from[CONTROL_FDS_END - CONTROL_FD] = {s->control, s->config, s->counters, s->board, s->lock};
    for (int i = 0; i < CONTROL_FDS_END - CONTROL_FD; i++)
        if (from[i] >= 0 && (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, SPAWN_FD_ABOVE)) < 0)
            return false;
    for (int i = 0; i < CONTROL_FDS_END - CONTROL_FD; i++) {
        int to = CONTROL_FD + i;
        if (from[i] >= 0 ? dup2(from[i], to) < 0 : (close(to) != 0 && errno != EBADF))
            return false;
    }
    return true;
}

static void default_signals(void) {
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become(const struct spawn *s, pid_t supervisor) {
    char index[16];
    snprintf(index, sizeof index, "%u", s->index);
    char *const arguments[] = {"mailroomd", "--role", (char *)(uintptr_t)s->role, "--index", index, NULL};
    int binary = fcntl(s->binary, F_DUPFD_CLOEXEC, SPAWN_FD_ABOVE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor)
        _exit(SPAWN_EXIT_EXEC);
    if (binary >= 0 && place_descriptors(s)) {
        default_signals();
        fexecve(binary, arguments, environ);
    }
    dprintf(STDERR_FILENO, "mailroomd: cannot start %s: %s\n", s->role, strerror(errno));
    _exit(SPAWN_EXIT_EXEC);
}

pid_t spawn_child(const struct spawn *s) {
    pid_t supervisor = getpid();
    pid_t pid = fork();
    if (pid == 0)
        become(s, supervisor);
    return pid;
}

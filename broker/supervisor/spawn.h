// SPDX-License-Identifier: Apache-2.0
/* One child process: fork and exec of the running binary with what it inherits.
 * Called on the supervisor's main thread only: the parent-death signal is tied
 * to the thread that forked. */
#ifndef MAILROOM_SUPERVISOR_SPAWN_H
#define MAILROOM_SUPERVISOR_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

struct spawn {
    int binary; /* descriptor of the binary to run */
    const char *role;
    unsigned index;
    /* handed over, -1 = none; see CONTROL_FD_* */
    int control;
    int config;
    int counters;
    int board;
    int lock;
};

/* The pid, or -1 with errno. The child has an empty signal mask, default
 * handlers, and dies with the caller. A failing exec shows as exit code 127. */
pid_t spawn_child(const struct spawn *s);

/* A descriptor of the running binary: an upgrade of the file changes nothing. */
int spawn_open_binary(void);

/* A sealed (fixed size) shared memory of size zero bytes; -1 with errno. */
int spawn_memory(const char *name, size_t size);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The board: what the supervisor knows of its children, in memory that all of
 * them may read: each process's state and the last deaths. One writer, the
 * supervisor; a sequence number that is odd while it writes lets readers see
 * whole boards only (a seqlock), without ever waiting for each other.
 */
#ifndef MAILROOM_SUPERVISOR_BOARD_H
#define MAILROOM_SUPERVISOR_BOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "supervisor/child.h"
#include "supervisor/process_block.h"
#include "supervisor/tree.h"

enum { BOARD_VERSION = 1, BOARD_DEATHS_MAX = 64, BOARD_CAUSE_BYTES = 48, BOARD_STATE_BYTES = 16 };

struct board_process {
    char role[CHILD_ROLE_BYTES];
    uint32_t index;
    uint32_t instance;
    int32_t pid; /* 0 = not running */
    uint32_t restarts;
    int64_t started;               /* usec since 1970 */
    char state[BOARD_STATE_BYTES]; /* CHILD_STATES' text */
    char version[PROCESS_VERSION_BYTES];
};

struct board_death {
    char role[CHILD_ROLE_BYTES];
    uint32_t index;
    uint32_t instance;
    int32_t pid;
    int32_t signal;    /* 0 = it exited */
    int32_t exit_code; /* when signal is 0 */
    uint32_t in_period;
    int64_t at;         /* usec since 1970 */
    int64_t uptime;     /* usec */
    uint64_t partition; /* it was working on, 0 = none */
    uint32_t crashes;   /* of that partition in a row */
    uint32_t reserved;
    char cause[BOARD_CAUSE_BYTES];
    char last_words[PROCESS_WORDS_BYTES];
};

/* A copy of the board. */
struct board_view {
    uint32_t version;
    uint32_t processes_count;
    uint64_t deaths_total;
    struct board_process processes[TREE_CHILDREN_MAX];
    struct board_death deaths[BOARD_DEATHS_MAX]; /* number n stands at n % BOARD_DEATHS_MAX */
};

struct board {
    uint32_t magic;
    uint32_t sequence;
    struct board_view view;
};

/* Writer: start changing, change board->view, stop. */
struct board_view *board_write(struct board *b);
void board_written(struct board *b);
/* Adds the number deaths_total; between board_write and board_written. */
struct board_death *board_add_death(struct board_view *v);

/* Reader: false if no whole board was to be had (bounded tries). */
bool board_read(const struct board *b, struct board_view *out);
/* The n-th of the kept deaths, oldest first; NULL past the last. */
const struct board_death *board_death(const struct board_view *v, unsigned n);

#endif

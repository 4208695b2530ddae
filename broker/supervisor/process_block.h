// SPDX-License-Identifier: Apache-2.0
/* What a child says of itself in shared memory, at COUNTERS_BLOCK_AT of its
 * counters segment: the supervisor reads it also when the child hangs or has
 * died. Only grows at its end (two releases share it over an upgrade). */
#ifndef MAILROOM_SUPERVISOR_PROCESS_BLOCK_H
#define MAILROOM_SUPERVISOR_PROCESS_BLOCK_H

#include <stdint.h>

#include "base/counters.h"

enum { PROCESS_WORDS_BYTES = 256, PROCESS_VERSION_BYTES = 32 };

struct process_block {
    uint64_t turns;                       /* child_beat */
    uint64_t working_on;                  /* child_working_on */
    char last_words[PROCESS_WORDS_BYTES]; /* its last log_error, may be torn */
    char version[PROCESS_VERSION_BYTES];  /* of its binary */
};

_Static_assert(sizeof(struct process_block) <= COUNTERS_BLOCK_BYTES, "the block fits its place");

static inline struct process_block *process_block_of(void *segment) {
    return (struct process_block *)(void *)((char *)segment + COUNTERS_BLOCK_AT);
}

#endif

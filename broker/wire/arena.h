// SPDX-License-Identifier: Apache-2.0
/* Memory for one decoded header: given out in order, taken back all at once, so
 * that decoding costs no malloc a field. One thread. */
#ifndef MAILROOM_WIRE_ARENA_H
#define MAILROOM_WIRE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

#define ARENA_KEPT_BYTES_MAX (64 * KIB) /* what a reset keeps for the next header */
#define ARENA_BYTES_MAX      (64 * MIB) /* of one header decoded: more fails the decode */

struct arena_block {
    struct arena_block *next;
    size_t size;
    size_t used;
    _Alignas(16) uint8_t data[];
};

struct arena {
    struct arena_block *first; /* newest first */
    size_t total;
};

/* 16-byte aligned. NULL past ARENA_BYTES_MAX. */
void *arena_alloc(struct arena *a, size_t size);
/* Everything given out is invalid after. */
void arena_reset(struct arena *a);
void arena_free(struct arena *a);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "wire/arena.h"

#include <stdlib.h>

#include "base/xalloc.h"

enum { ARENA_FIRST_BYTES = 4096, ARENA_ALIGN_BYTES = 16 };

static struct arena_block *block_add(struct arena *a, size_t size) {
    struct arena_block *block = xmalloc(sizeof *block + size);
    block->next = a->first;
    block->size = size;
    block->used = 0;
    a->first = block;
    a->total += size;
    return block;
}

void *arena_alloc(struct arena *a, size_t size) {
    if (size > ARENA_BYTES_MAX)
        return NULL;
    size = (size + ARENA_ALIGN_BYTES - 1) & ~(size_t)(ARENA_ALIGN_BYTES - 1);
    struct arena_block *block = a->first;
    if (!block || block->size - block->used < size) {
        size_t next = a->total ? a->total : ARENA_FIRST_BYTES; /* doubles the total */
        if (next < size)
            next = size;
        if (a->total + next > ARENA_BYTES_MAX)
            return NULL;
        block = block_add(a, next);
    }
    void *p = block->data + block->used;
    block->used += size;
    return p;
}

void arena_reset(struct arena *a) {
    struct arena_block *block = a->first;
    if (block && !block->next && block->size <= ARENA_KEPT_BYTES_MAX) {
        block->used = 0;
        return;
    }
    size_t total = a->total;
    arena_free(a);
    if (total)
        block_add(a, total < ARENA_KEPT_BYTES_MAX ? total : ARENA_KEPT_BYTES_MAX);
}

void arena_free(struct arena *a) {
    while (a->first) {
        struct arena_block *block = a->first;
        a->first = block->next;
        free(block);
    }
    a->total = 0;
}

// SPDX-License-Identifier: Apache-2.0
/* Spare buffers of one size, kept for the next who needs one. One thread. */
#ifndef MAILROOM_WIRE_POOL_H
#define MAILROOM_WIRE_POOL_H

#include <stddef.h>

struct pool_spare;

struct pool {
    size_t size;      /* bytes of each */
    size_t spare_max; /* kept at most */
    size_t spare_count;
    size_t out; /* given out now */
    struct pool_spare *spare;
};

void *pool_take(struct pool *p);
void pool_give(struct pool *p, void *buffer);
/* Frees the spare ones. */
void pool_free(struct pool *p);

#endif

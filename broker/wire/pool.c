// SPDX-License-Identifier: Apache-2.0
#include "wire/pool.h"

#include <stdlib.h>

#include "base/xalloc.h"

struct pool_spare {
    struct pool_spare *next;
};

void *pool_take(struct pool *p) {
    p->out++;
    struct pool_spare *spare = p->spare;
    if (!spare)
        return xmalloc(p->size);
    p->spare = spare->next;
    p->spare_count--;
    return spare;
}

void pool_give(struct pool *p, void *buffer) {
    p->out--;
    if (p->spare_count >= p->spare_max) {
        free(buffer);
        return;
    }
    struct pool_spare *spare = buffer;
    spare->next = p->spare;
    p->spare = spare;
    p->spare_count++;
}

void pool_free(struct pool *p) {
    while (p->spare) {
        struct pool_spare *spare = p->spare;
        p->spare = spare->next;
        free(spare);
    }
    p->spare_count = 0;
}

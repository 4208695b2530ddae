// SPDX-License-Identifier: Apache-2.0
#include "supervisor/board.h"

#include <string.h>

enum { BOARD_MAGIC = 0x3142524d, BOARD_TRIES_MAX = 64 };

struct board_view *board_write(struct board *b) {
    b->magic = BOARD_MAGIC;
    b->view.version = BOARD_VERSION;
    __atomic_store_n(&b->sequence, b->sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return &b->view;
}

void board_written(struct board *b) {
    __atomic_store_n(&b->sequence, b->sequence + 1, __ATOMIC_RELEASE);
}

struct board_death *board_add_death(struct board_view *v) {
    struct board_death *d = &v->deaths[v->deaths_total++ % BOARD_DEATHS_MAX];
    *d = (struct board_death){0};
    return d;
}

/* Texts end and counts are in bounds whatever was written there. */
static void make_safe(struct board_view *v) {
    if (v->processes_count > TREE_CHILDREN_MAX)
        v->processes_count = TREE_CHILDREN_MAX;
    for (unsigned i = 0; i < v->processes_count; i++) {
        struct board_process *p = &v->processes[i];
        p->role[sizeof p->role - 1] = p->state[sizeof p->state - 1] = p->version[sizeof p->version - 1] = 0;
    }
    for (unsigned i = 0; i < BOARD_DEATHS_MAX; i++) {
        struct board_death *d = &v->deaths[i];
        d->role[sizeof d->role - 1] = d->cause[sizeof d->cause - 1] =
            d->last_words[sizeof d->last_words - 1] = 0;
    }
}

bool board_read(const struct board *b, struct board_view *out) {
    for (int i = 0; i < BOARD_TRIES_MAX; i++) {
        uint32_t before = __atomic_load_n(&b->sequence, __ATOMIC_ACQUIRE);
        memcpy(out, &b->view, sizeof *out);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before % 2 || before != __atomic_load_n(&b->sequence, __ATOMIC_RELAXED))
            continue;
        make_safe(out);
        return before > 0 && b->magic == BOARD_MAGIC && out->version == BOARD_VERSION;
    }
    return false;
}

const struct board_death *board_death(const struct board_view *v, unsigned n) {
    uint64_t kept = v->deaths_total < BOARD_DEATHS_MAX ? v->deaths_total : BOARD_DEATHS_MAX;
    return n < kept ? &v->deaths[(v->deaths_total - kept + n) % BOARD_DEATHS_MAX] : NULL;
}

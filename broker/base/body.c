// SPDX-License-Identifier: Apache-2.0
#include "base/body.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

/* The bytes stand right behind the struct: one allocation a body. */
static void release_inline(struct body *b) {
    free(b);
}

static void release_slice(struct body *b) {
    body_drop(b->owner);
    free(b);
}

struct body *body_new(size_t size) {
    struct body *b = xmalloc(sizeof *b + size);
    *b = (struct body){.data = (uint8_t *)(b + 1), .size = size, .release = release_inline, .refs = 1};
    return b;
}

struct body *body_copy(const void *data, size_t size) {
    struct body *b = body_new(size);
    if (size)
        memcpy(b->data, data, size);
    return b;
}

struct body *body_slice(struct body *parent, size_t offset, size_t size) {
    CHECK(offset <= parent->size && size <= parent->size - offset);
    struct body *b = xmalloc(sizeof *b);
    *b = (struct body){
        .data = parent->data + offset, .size = size, .release = release_slice, .owner = body_keep(parent), .refs = 1};
    return b;
}

struct body *body_keep(struct body *b) {
    if (b)
        __atomic_add_fetch(&b->refs, 1, __ATOMIC_RELAXED);
    return b;
}

void body_drop(struct body *b) {
    if (!b)
        return;
    int left = __atomic_sub_fetch(&b->refs, 1, __ATOMIC_ACQ_REL);
    CHECK(left >= 0);
    if (left == 0)
        b->release(b);
}

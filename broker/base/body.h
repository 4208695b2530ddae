// SPDX-License-Identifier: Apache-2.0
/*
 * A body: immutable bytes with a reference count and a release call. One
 * received body goes to the journal, to followers and to consumers without
 * being copied: each holder keeps a reference.
 *
 * Thread: references may be taken and dropped on any thread (the count is
 * atomic); the bytes are read-only once a second holder exists.
 */
#ifndef MAILROOM_BASE_BODY_H
#define MAILROOM_BASE_BODY_H

#include <stddef.h>
#include <stdint.h>

struct body {
    uint8_t *data;
    size_t size;                    /* bytes */
    void (*release)(struct body *); /* called once, by the last body_drop */
    void *owner;                    /* the releaser's own; a body_slice's parent */
    int refs;                       /* touched only through body_keep and body_drop */
};

/* A fresh body of size bytes (uninitialised), one reference held by the caller.
 * Never NULL: out of memory ends the process. */
struct body *body_new(size_t size);
/* The same with a copy of size bytes at data. */
struct body *body_copy(const void *data, size_t size);
/* A window into parent, which it keeps alive. offset + size within parent. */
struct body *body_slice(struct body *parent, size_t offset, size_t size);

/* One more reference; returns b. NULL is passed through. */
struct body *body_keep(struct body *b);
/* One reference less; the last one releases. NULL is allowed. */
void body_drop(struct body *b);

#endif

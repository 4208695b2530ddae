// SPDX-License-Identifier: Apache-2.0
/* A binary min-heap of nodes that live inside their owners, so that a node can
 * be moved or taken out by itself: all timers of a mailbox; the consumers of a
 * subscription that may be served next. Equal keys: any order. */
#ifndef MAILROOM_MAILBOX_HEAP_H
#define MAILROOM_MAILBOX_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
    int64_t key;
    size_t place; /* from 1; 0: in no heap */
    uint8_t kind; /* the owner's: what the node is part of */
};

struct heap {
    struct heap_node **items;
    size_t count, capacity;
};

void heap_put(struct heap *h, struct heap_node *n, int64_t key); /* or moves it */
void heap_remove(struct heap *h, struct heap_node *n);           /* also if it is in none */
struct heap_node *heap_first(const struct heap *h);              /* NULL: empty */
void heap_free(struct heap *h);                                  /* the array; owners keep their nodes */

#endif

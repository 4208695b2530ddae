// SPDX-License-Identifier: Apache-2.0
#include "mailbox/heap.h"

#include <stdlib.h>

#include "base/xalloc.h"

static void put_at(struct heap *h, size_t place, struct heap_node *n) {
    h->items[place - 1] = n;
    n->place = place;
}

static void sift_up(struct heap *h, struct heap_node *n) {
    size_t at = n->place;
    while (at > 1 && h->items[at / 2 - 1]->key > n->key) {
        put_at(h, at, h->items[at / 2 - 1]);
        at /= 2;
    }
    put_at(h, at, n);
}

static void sift_down(struct heap *h, struct heap_node *n) {
    size_t at = n->place;
    for (;;) {
        size_t child = at * 2;
        if (child > h->count)
            break;
        if (child < h->count && h->items[child]->key < h->items[child - 1]->key)
            child++;
        if (h->items[child - 1]->key >= n->key)
            break;
        put_at(h, at, h->items[child - 1]);
        at = child;
    }
    put_at(h, at, n);
}

void heap_put(struct heap *h, struct heap_node *n, int64_t key) {
    if (!n->place) {
        xgrow(&h->items, &h->capacity, h->count + 1, sizeof(struct heap_node *));
        put_at(h, ++h->count, n);
    }
    n->key = key;
    sift_up(h, n);
    sift_down(h, n);
}

void heap_remove(struct heap *h, struct heap_node *n) {
    if (!n->place)
        return;
    size_t at = n->place;
    struct heap_node *last = h->items[--h->count];
    n->place = 0;
    if (last == n)
        return;
    put_at(h, at, last);
    sift_up(h, last);
    sift_down(h, last);
}

struct heap_node *heap_first(const struct heap *h) {
    return h->count ? h->items[0] : NULL;
}

void heap_free(struct heap *h) {
    free(h->items);
    *h = (struct heap){0};
}

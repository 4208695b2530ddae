// SPDX-License-Identifier: Apache-2.0
#include "base/xalloc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

void *xmalloc(size_t size) {
    void *p = malloc(size ? size : 1);
    CHECK(p);
    return p;
}

void *xcalloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    CHECK(p);
    return p;
}

void *xrealloc(void *old, size_t size) {
    void *p = realloc(old, size ? size : 1);
    CHECK(p);
    return p;
}

char *xstrdup(const char *s) {
    char *p = strdup(s);
    CHECK(p);
    return p;
}

void xgrow(void *items_pointer, size_t *capacity, size_t need, size_t each) {
    if (need <= *capacity)
        return;
    size_t next = *capacity < 8 ? 8 : *capacity * 2;
    if (next < need)
        next = need;
    CHECK(next <= SIZE_MAX / each);
    void *items;
    memcpy(&items, items_pointer, sizeof items);
    items = xrealloc(items, next * each);
    memcpy(items_pointer, &items, sizeof items);
    *capacity = next;
}

// SPDX-License-Identifier: Apache-2.0
/* Allocation that ends the process when memory is out: a node that cannot
 * allocate is restarted by its supervisor, never half-working. */
#ifndef MAILROOM_BASE_XALLOC_H
#define MAILROOM_BASE_XALLOC_H

#include <stddef.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);

/* Grow *items (element size `each`) so that it holds at least `need`; the
 * capacity at least doubles. For arrays kept as pointer + count + capacity. */
void xgrow(void *items_pointer, size_t *capacity, size_t need, size_t each);

#endif

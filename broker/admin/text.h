// SPDX-License-Identifier: Apache-2.0
/* Text that grows while it is written. */
#ifndef MAILROOM_ADMIN_TEXT_H
#define MAILROOM_ADMIN_TEXT_H

#include <stddef.h>

/* Zeroed = empty. data is NUL-terminated once something was added. */
struct text {
    char *data;
    size_t size; /* without the NUL */
    size_t capacity;
};

void text_add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_free(struct text *t);

#endif

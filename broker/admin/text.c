// SPDX-License-Identifier: Apache-2.0
#include "admin/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"

void text_add(struct text *t, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int n = vsnprintf(NULL, 0, format, arguments);
    CHECK(n >= 0);
    xgrow(&t->data, &t->capacity, t->size + (size_t)n + 1, 1);
    vsnprintf(t->data + t->size, (size_t)n + 1, format, again);
    t->size += (size_t)n;
    va_end(again);
    va_end(arguments);
}

void text_free(struct text *t) {
    free(t->data);
    *t = (struct text){0};
}

// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct err_row {
    const char *name;
    const char *text;
    enum err_advice advice;
};

static const struct err_row rows[] = {
#define X(name, number, advice, text) [number] = {#name, text, ERR_ADVICE_##advice},
    ERR_LIST(X)
#undef X
};

static const struct err_row unknown = {"ERROR", "error", ERR_ADVICE_FATAL};

static const struct err_row *row_of(int code) {
    if (code < 0 || (size_t)code >= sizeof rows / sizeof rows[0] || !rows[code].name)
        return &unknown;
    return &rows[code];
}

const char *err_name(int code) {
    return row_of(code)->name;
}

const char *err_text(int code) {
    return row_of(code)->text;
}

enum err_advice err_advice(int code) {
    return row_of(code)->advice;
}

enum err err_set(struct err_detail *detail, enum err code, const char *format, ...) {
    if (!detail)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(detail->text, sizeof detail->text, format, args);
    va_end(args);
    detail->code = code;
    return code;
}

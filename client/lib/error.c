// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client/lib/client.h"

const char *mr_version(void) {
    return MR_VERSION;
}

const char *mr_error_name(int code) {
    return err_name(code);
}

const char *mr_error_text(int code) {
    return err_text(code);
}

int mr_error_advice(int code) {
    switch (err_advice(code)) {
    case ERR_ADVICE_RETRY:
        return MR_RETRYABLE;
    case ERR_ADVICE_MAYBE:
        return MR_MAYBE;
    default:
        return MR_FATAL;
    }
}

void error_clear(mr_error *error) {
    if (!error)
        return;
    error->code = MR_OK;
    error->advice = MR_FATAL;
    error->text[0] = 0;
}

int error_set(mr_error *error, int code, const char *format, ...) {
    if (!error)
        return code;
    error->code = code;
    error->advice = mr_error_advice(code);
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return code;
}

int error_from(mr_error *error, const struct err_detail *detail) {
    return error_set(error, detail->code, "%s", detail->text);
}

void options_copy(void *out, size_t size, const void *in) {
    memset(out, 0, size);
    size_t given = 0;
    if (in)
        memcpy(&given, in, sizeof given); /* struct_size stands first */
    if (given)
        memcpy(out, in, given < size ? given : size);
}

int deadline_of(mr_client *c, int64_t timeout_ms, usec_t *deadline, mr_error *error) {
    if (timeout_ms < MR_TIMEOUT_DEFAULT)
        return error_set(error, MR_EINVALID, "timeout of %lld ms, expected 0 or more, or MR_TIMEOUT_DEFAULT",
                         (long long)timeout_ms);
    usec_t now = clock_now();
    usec_t span = timeout_ms == MR_TIMEOUT_DEFAULT            ? c->timeout
                  : timeout_ms > (USEC_NEVER - now) / USEC_MS ? USEC_NEVER - now
                                                              : timeout_ms * USEC_MS;
    *deadline = now + span;
    return MR_OK;
}

/* Waits that end with some code are gone through by asking again: nothing was
 * applied, and what stands in the way passes by itself. Limits that are reached
 * and partitions an operator has to look at are told at once. */
bool code_is_passing(int code) {
    switch (code) {
    case ERR_TIMEOUT:
    case ERR_UNAVAILABLE:
    case ERR_NOT_LEADER:
    case ERR_BUSY:
    case ERR_DAMAGED:
    case ERR_CLOSED:
    case ERR_NO_MEMORY:
    case ERR_STALE:
        return true;
    default:
        return false;
    }
}

// SPDX-License-Identifier: Apache-2.0
/* Assertions that stay on in release builds: a broken invariant aborts the
 * process, its supervisor writes the obituary and starts it anew. */
#ifndef MAILROOM_BASE_CHECK_H
#define MAILROOM_BASE_CHECK_H

_Noreturn void check_failed(const char *expression, const char *file, int line, const char *function);

#define CHECK(expression) ((expression) ? (void)0 : check_failed(#expression, __FILE__, __LINE__, __func__))

#endif

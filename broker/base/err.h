// SPDX-License-Identifier: Apache-2.0
/*
 * Error codes, written once. The numbers travel in frames and are the numbers
 * of MR_E* in mailroom.h (tests/unit/err_test.c keeps the two lists equal):
 * never renumber, only append.
 *
 * Advice says what a client may do: RETRY = the same request may be sent again,
 * FATAL = the same request fails again, MAYBE = it may have been applied.
 */
#ifndef MAILROOM_BASE_ERR_H
#define MAILROOM_BASE_ERR_H

#include <stdbool.h>

#define ERR_LIST(X)                                                                                 \
    X(OK, 0, FATAL, "ok")                                                                           \
    X(INVALID, 1, FATAL, "invalid request")                                                         \
    X(NOT_FOUND, 2, FATAL, "not found")                                                             \
    X(EXISTS, 3, FATAL, "exists with other settings")                                               \
    X(FULL, 4, RETRY, "mailbox at its limit")                                                       \
    X(TOO_LARGE, 5, FATAL, "larger than the limit")                                                 \
    X(TIMEOUT, 6, RETRY, "nobody answered in time")                                                 \
    X(UNAVAILABLE, 7, RETRY, "temporarily unavailable")                                             \
    X(NOT_LEADER, 8, RETRY, "not the leader")                                                       \
    X(OUT_OF_ORDER, 9, RETRY, "sequence out of order")                                              \
    X(FORGOTTEN, 10, MAYBE, "producer forgotten, may have been applied")                            \
    X(TOO_LATE, 11, FATAL, "too late: the lease has passed to another delivery")                    \
    X(BUSY, 12, RETRY, "busy")                                                                      \
    X(DISK_FULL, 13, RETRY, "disk nearly full")                                                     \
    X(DAMAGED, 14, RETRY, "damaged")                                                                \
    X(QUARANTINED, 15, RETRY, "quarantined")                                                        \
    X(CLOSED, 16, RETRY, "connection closed")                                                       \
    X(PROTOCOL, 17, FATAL, "protocol violation")                                                    \
    X(DENIED, 18, FATAL, "not allowed")                                                             \
    X(NO_MEMORY, 19, RETRY, "memory limit reached")                                                 \
    X(IO, 20, FATAL, "input/output error")                                                          \
    X(UNKNOWN, 21, MAYBE, "outcome unknown, may have been applied")                                 \
    X(USAGE, 22, FATAL, "wrong usage")                                                              \
    X(FORKED, 23, FATAL, "used after fork without exec")                                            \
    X(SETTLED, 24, FATAL, "already settled")                                                        \
    X(STALE, 25, RETRY, "computed from a record that is no longer current")                         \
    X(CANCELLED, 26, FATAL, "cancelled")                                                            \
    X(UNSAFE, 27, FATAL, "refused: would lose data or a majority")                                  \
    X(VERSION, 28, FATAL, "no protocol version in common")

enum err_advice { ERR_ADVICE_FATAL, ERR_ADVICE_RETRY, ERR_ADVICE_MAYBE };

enum err {
#define X(name, number, advice, text) ERR_##name = (number),
    ERR_LIST(X)
#undef X
};

/* The code's name ("FULL"), its text and advice. Any number is allowed: an
 * unknown one (a newer peer's) reads "error" and is FATAL. Static strings. */
const char *err_name(int code);
const char *err_text(int code);
enum err_advice err_advice(int code);

/* A code with what was wrong and what was expected, for people. The text is
 * cut, never overrun. */
enum { ERR_DETAIL_BYTES = 256 };

struct err_detail {
    enum err code;
    char text[ERR_DETAIL_BYTES];
};

/* Fill *detail (may be NULL) and return code, so that a caller can write
 * `return err_set(d, ERR_INVALID, "partition %u: expected 1 to %u", n, max)`. */
enum err err_set(struct err_detail *detail, enum err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif

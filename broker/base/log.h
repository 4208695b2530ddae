// SPDX-License-Identifier: Apache-2.0
/*
 * Log lines on standard error: `2026-01-31T12:00:00.123Z n1 shard/0 warn text`.
 * One write(2) a line, so that lines of several processes do not mix.
 * Not for the pure folders: they say what they have to say in effects.
 *
 * Nobody waits for a log: a line that standard error cannot take at once (a pipe
 * that is not read) is dropped, and the next one that goes out says how many.
 * Any thread may write; log_open and log_last_words come before other threads.
 */
#ifndef MAILROOM_BASE_LOG_H
#define MAILROOM_BASE_LOG_H

#include <stddef.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Who speaks, e.g. "n1" and "shard/0". Copied. Lines below level are not written. */
void log_open(const char *node, const char *role, enum log_level level);
/* Keep the text of the last error in buffer too (cut, always terminated), for an
 * obituary. The buffer must live as long as the process; NULL ends it. */
void log_last_words(char *buffer, size_t size);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif

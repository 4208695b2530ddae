// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_BYTES_MAX = 2048, LOG_NAME_BYTES_MAX = 64 };

static char log_node[LOG_NAME_BYTES_MAX] = "-";
static char log_role[LOG_NAME_BYTES_MAX] = "-";
static enum log_level log_lowest = LOG_INFO;
static char *last_words;
static size_t last_words_size;
static unsigned dropped; /* lines since the last one that went out */
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_open(const char *node, const char *role, enum log_level level) {
    snprintf(log_node, sizeof log_node, "%s", node);
    snprintf(log_role, sizeof log_role, "%s", role);
    log_lowest = level;
}

void log_last_words(char *buffer, size_t size) {
    last_words = buffer;
    last_words_size = size;
}

static size_t put_head(char line[LOG_LINE_BYTES_MAX], enum log_level level) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, LOG_LINE_BYTES_MAX, "%Y-%m-%dT%H:%M:%S", &utc);
    return n + (size_t)snprintf(line + n, LOG_LINE_BYTES_MAX - n, ".%03ldZ %s %s %s ", now.tv_nsec / 1000000,
                                log_node, log_role, level_names[level]);
}

/* A pipe that says POLLOUT takes a line of this size whole. */
static bool takes_a_line(void) {
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && p.revents & POLLOUT;
}

static void put_line(const char *line, size_t size) {
    if (!takes_a_line()) {
        __atomic_add_fetch(&dropped, 1, __ATOMIC_RELAXED);
        return;
    }
    char lost[LOG_LINE_BYTES_MAX];
    unsigned n = __atomic_exchange_n(&dropped, 0, __ATOMIC_RELAXED);
    size_t at = n ? put_head(lost, LOG_WARN) : 0;
    if (n)
        at += (size_t)snprintf(lost + at, sizeof lost - at, "%u log lines dropped: nobody read them\n", n);
    /* nowhere to report a log that cannot be written */
    if ((at && write(STDERR_FILENO, lost, at) < 0) || write(STDERR_FILENO, line, size) < 0)
        return;
}

void log_write(enum log_level level, const char *format, ...) {
    if (level < log_lowest)
        return;
    char line[LOG_LINE_BYTES_MAX];
    size_t n = put_head(line, level), head = n;
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + n, sizeof line - n - 1, format, args);
    va_end(args);
    n += more < 0 ? 0 : (size_t)more;
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    line[n] = 0;
    if (level == LOG_ERROR && last_words)
        snprintf(last_words, last_words_size, "%s", line + head);
    line[n++] = '\n';
    put_line(line, n);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_BYTES_MAX = 2048, LOG_NAME_BYTES_MAX = 64 };

static char log_node[LOG_NAME_BYTES_MAX] = "-";
static char log_role[LOG_NAME_BYTES_MAX] = "-";
static enum log_level log_lowest = LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_open(const char *node, const char *role, enum log_level level) {
    snprintf(log_node, sizeof log_node, "%s", node);
    snprintf(log_role, sizeof log_role, "%s", role);
    log_lowest = level;
}

void log_write(enum log_level level, const char *format, ...) {
    if (level < log_lowest)
        return;
    char line[LOG_LINE_BYTES_MAX];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s %s %s ", now.tv_nsec / 1000000, log_node, log_role,
                          level_names[level]);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + n, sizeof line - n - 1, format, args);
    va_end(args);
    n += more < 0 ? 0 : (size_t)more;
    if (n > sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    /* nowhere to report a log that cannot be written */
    if (write(STDERR_FILENO, line, n) < 0)
        return;
}

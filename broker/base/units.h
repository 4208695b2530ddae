// SPDX-License-Identifier: Apache-2.0
/*
 * Units. Time is an int64_t count of microseconds, type usec_t. `now` is
 * CLOCK_BOOTTIME, passed in; `wall` is microseconds since 1970, passed in.
 * The text forms are those of the command line and the configuration.
 */
#ifndef MAILROOM_BASE_UNITS_H
#define MAILROOM_BASE_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int64_t usec_t;

#define USEC_MS ((usec_t)1000)
#define USEC_S ((usec_t)1000000)
#define USEC_NEVER INT64_MAX

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * 1024)
#define GIB ((size_t)1024 * 1024 * 1024)

/* "100ms", "2s", "5m", "1h", "7d": a number and a unit, nothing else. False if
 * text is not one, or overflows; *out unchanged then. */
bool duration_parse(const char *text, usec_t *out);
/* "64KiB", "8MiB", "1GiB", or bytes without a unit. */
bool size_parse(const char *text, uint64_t *out);
/* The shortest exact form; out holds at least 32 bytes. Returns out. */
char *duration_format(usec_t t, char out[32]);
char *size_format(uint64_t bytes, char out[32]);

#endif

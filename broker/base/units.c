// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit durations[] = {
    {"d", 86400000000}, {"h", 3600000000}, {"m", 60000000}, {"s", 1000000}, {"ms", 1000}, {"us", 1}, {NULL, 0}};
static const struct unit sizes[] = {{"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20},
                                    {"KiB", 1ull << 10}, {"", 1},             {NULL, 0}};

static bool number_with_unit(const char *text, const struct unit *units, uint64_t max, uint64_t *out) {
    uint64_t n = 0;
    const char *p = text;
    if (!text || !isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return false;
    for (; units->name; units++) {
        if (strcmp(units->name, p) != 0)
            continue;
        if (__builtin_mul_overflow(n, units->factor, &n) || n > max)
            return false;
        *out = n;
        return true;
    }
    return false;
}

bool duration_parse(const char *text, usec_t *out) {
    uint64_t n;
    if (!number_with_unit(text, durations, INT64_MAX - 1, &n))
        return false;
    *out = (usec_t)n;
    return true;
}

bool size_parse(const char *text, uint64_t *out) {
    return number_with_unit(text, sizes, UINT64_MAX, out);
}

static char *format_with_unit(uint64_t n, const struct unit *units, char *out) {
    while (units[1].name && (n % units->factor != 0 || n == 0))
        units++;
    snprintf(out, 32, "%llu%s", (unsigned long long)(n / units->factor), units->name);
    return out;
}

char *duration_format(usec_t t, char out[32]) {
    if (t == 0)
        return strcpy(out, "0s");
    return format_with_unit((uint64_t)t, durations, out);
}

char *size_format(uint64_t bytes, char out[32]) {
    return format_with_unit(bytes, sizes, out);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/units.h"

#include <criterion/criterion.h>

Test(units, durations) {
    static const struct {
        const char *text;
        usec_t value; /* -1 = refused */
    } rows[] = {
        {"100ms", 100000},
        {"2s", 2000000},
        {"5m", 300000000},
        {"1h", 3600000000},
        {"7d", 604800000000},
        {"7us", 7},
        {"0s", 0},
        {"", -1},
        {"5", -1},
        {"s", -1},
        {"-1s", -1},
        {"+1s", -1},
        {" 1s", -1},
        {"1s ", -1},
        {"1 s", -1},
        {"1.5s", -1},
        {"1S", -1},
        {"1ks", -1},
        {"1sm", -1},
        {"18446744073709551616s", -1},
        {"9223372036854775807us", -1},
        {"106751992d", -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        usec_t t = -7;
        cr_assert_eq(duration_parse(rows[i].text, &t), rows[i].value >= 0, "%s", rows[i].text);
        cr_assert_eq(t, rows[i].value >= 0 ? rows[i].value : -7, "%s", rows[i].text);
    }
    usec_t t;
    cr_assert(!duration_parse(NULL, &t));
}

Test(units, sizes) {
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } rows[] = {
        {"0", true, 0},
        {"17", true, 17},
        {"64KiB", true, 65536},
        {"8MiB", true, 8388608},
        {"1GiB", true, 1 << 30},
        {"18446744073709551615", true, UINT64_MAX},
        {"17179869184GiB", false, 0},
        {"8MB", false, 0},
        {"8mib", false, 0},
        {"MiB", false, 0},
        {"1.5MiB", false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t n = 99;
        cr_assert_eq(size_parse(rows[i].text, &n), rows[i].good, "%s", rows[i].text);
        cr_assert_eq(n, rows[i].good ? rows[i].value : 99, "%s", rows[i].text);
    }
}

Test(units, the_shortest_exact_form) {
    char out[32];
    cr_assert_str_eq(duration_format(90 * USEC_S, out), "90s");
    cr_assert_str_eq(duration_format(120 * USEC_S, out), "2m");
    cr_assert_str_eq(duration_format(1500, out), "1500us");
    cr_assert_str_eq(duration_format(0, out), "0s");
    cr_assert_str_eq(size_format(8 * MIB, out), "8MiB");
    cr_assert_str_eq(size_format(1025, out), "1025");
    cr_assert_str_eq(size_format(0, out), "0");
}

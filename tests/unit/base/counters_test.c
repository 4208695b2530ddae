// SPDX-License-Identifier: Apache-2.0
#include "base/counters.h"

#include <criterion/criterion.h>
#include <string.h>

static _Alignas(4096) unsigned char segment[COUNTERS_SEGMENT_BYTES];

static bool find(const char *name, struct counters_sample *out) {
    for (size_t at = 0; counters_next(segment, sizeof segment, &at, out);)
        if (strcmp(out->name, name) == 0)
            return true;
    return false;
}

Test(counters, a_reader_sees_what_was_counted_also_before_the_segment_came) {
    struct counters_sample s;
    counters_add(COUNTER_frames_in, 2);
    counters_open(segment);
    counters_add(COUNTER_frames_in, 3);
    counters_set(COUNTER_sessions, 9);
    counters_sub(COUNTER_sessions, 1);
    cr_assert(find("frames_in", &s));
    cr_assert_eq(s.value, 5);
    cr_assert_eq(s.type, COUNTER_TYPE_COUNTER);
    cr_assert_str_eq(s.unit, "frames");
    cr_assert(find("sessions", &s));
    cr_assert_eq(s.value, 8);
    cr_assert_eq(s.type, COUNTER_TYPE_GAUGE);
    cr_assert_eq(counters_get(COUNTER_sessions), 8);
}

Test(counters, all_are_listed_once) {
    struct counters_sample s;
    size_t at = 0, seen = 0;
    counters_open(segment);
    while (counters_next(segment, sizeof segment, &at, &s)) {
        seen++;
        cr_assert(s.name[0] && s.unit[0] && s.help[0]);
    }
    cr_assert_eq(seen, COUNTERS_COUNT);
}

Test(counters, bytes_that_are_no_segment_list_nothing) {
    struct counters_sample s;
    size_t at = 0;
    cr_assert(!counters_next(segment, sizeof segment, &at, &s), "never written");
    counters_open(segment);
    cr_assert(!counters_next(segment, 8, &at, &s), "cut in the header");
    cr_assert(!counters_next(segment, COUNTERS_ROWS_AT + 100, &at, &s), "cut in the rows");
    uint32_t words[5];
    memcpy(words, segment, sizeof words);
    words[2] = UINT32_MAX;
    memcpy(segment, words, sizeof words);
    cr_assert(!counters_next(segment, sizeof segment, &at, &s), "more rows than bytes");
}

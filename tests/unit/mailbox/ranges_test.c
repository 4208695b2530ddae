// SPDX-License-Identifier: Apache-2.0
#include "mailbox/ranges.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/rng.h"

enum { SPACE = 2000 };

/* Against one byte an offset. */
Test(ranges, agree_with_a_plain_array) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rng rng = {seed};
        struct ranges s = {0};
        static uint8_t plain[SPACE];
        memset(plain, 0, sizeof plain);
        for (int step = 0; step < 3000; step++) {
            uint64_t first = rng_below(&rng, SPACE), end = first + rng_below(&rng, seed % 2 ? 8 : 60);
            uint8_t value = (uint8_t)rng_below(&rng, 4);
            end = end > SPACE ? SPACE : end;
            if (value == 0)
                ranges_clear(&s, first, end);
            else
                ranges_set(&s, first, end, (struct range_value){value, 0, 0});
            memset(plain + first, value, end - first);
        }
        uint64_t total = 0, runs = 0;
        for (uint64_t at = 0; at < SPACE; at++) {
            const struct range *r = ranges_at(&s, at);
            cr_assert(eq(u64, plain[at], r ? r->value.a : 0));
            total += plain[at] != 0;
            runs += plain[at] && (at == 0 || plain[at - 1] != plain[at]);
        }
        cr_assert(eq(u64, s.total, total));
        cr_assert(eq(sz, ranges_count(&s), runs), "equal neighbours must be one range");
        ranges_free(&s);
    }
}

Test(ranges, gaps_and_cover) {
    struct ranges s = {0};
    ranges_add(&s, 2, 4);
    ranges_add(&s, 6, 7);
    uint64_t at = 0, stop, sum = 0;
    for (; ranges_gap(&s, &at, 10, &stop); at = stop)
        sum = sum * 100 + at * 10 + stop;
    cr_expect(eq(u64, sum, 2 * 10000 + 46 * 100 + 80)); /* [0,2) [4,6) [7,10) */
    cr_expect(eq(u64, ranges_covered(&s, 3, 100), 2));
    ranges_free(&s);
}

// SPDX-License-Identifier: Apache-2.0
#include "gateway/holds.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/rng.h"

static struct hold range(uint64_t first, uint32_t count, uint64_t epoch, uint32_t number) {
    return (struct hold){.first = first, .count = count, .epoch = epoch, .number = number};
}

Test(holds, neighbours_of_one_token_are_one_range) {
    struct holds h = {0};
    struct hold a = range(10, 5, 3, 0), b = range(20, 5, 3, 0), c = range(15, 5, 3, 0),
                other = range(25, 5, 4, 0);
    cr_assert_eq(holds_add(&h, &a), 5);
    cr_assert_eq(holds_add(&h, &b), 5);
    cr_assert_eq(h.count, 2);
    cr_assert_eq(holds_add(&h, &c), 5);
    cr_assert_eq(h.count, 1);
    cr_assert_eq(holds_add(&h, &other), 5);
    cr_assert_eq(h.count, 2, "another token is another range");
    cr_assert_eq(holds_at(&h, 0)->first, 10);
    cr_assert_eq(holds_at(&h, 0)->count, 15);
    holds_free(&h);
}

Test(holds, a_token_takes_only_its_own) {
    struct holds h = {0};
    struct hold first = range(0, 10, 1, 0), again = range(3, 1, 1, 1), cut = range(3, 1, 1, 0);
    holds_add(&h, &first);
    holds_add(&h, &again);
    cr_assert_eq(holds_total(&h), 11, "the old delivery is still in hand");
    cr_assert_eq(holds_take(&h, &cut), 1);
    cr_assert_eq(holds_take(&h, &cut), 0, "only once");
    cr_assert_eq(h.count, 3);
    cr_assert_eq(holds_take(&h, &again), 1);
    cr_assert_eq(holds_total(&h), 9);
    holds_free(&h);
}

enum { OFFSETS = 200, TOKENS = 3 };

/* Against one bit an offset and token. */
Test(holds, random_operations_agree_with_a_bitmap) {
    struct rng r = {7};
    struct holds h = {0};
    bool bits[TOKENS][OFFSETS] = {0};
    for (int step = 0; step < 50000; step++) {
        uint32_t token = (uint32_t)rng_below(&r, TOKENS);
        uint64_t first = rng_below(&r, OFFSETS - 1);
        uint32_t count = 1 + (uint32_t)rng_below(&r, OFFSETS - first);
        struct hold x = range(first, count > 20 ? 20 : count, 5, token);
        bool add = rng_below(&r, 2);
        uint64_t expected = 0, total = 0;
        for (uint64_t i = x.first; i < x.first + x.count; i++) {
            expected += bits[token][i] != add;
            bits[token][i] = add;
        }
        cr_assert_eq(add ? holds_add(&h, &x) : holds_take(&h, &x), expected, "step %d", step);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t i = 0; i < OFFSETS; i++)
                total += bits[t][i];
        cr_assert_eq(holds_total(&h), total);
        for (size_t i = 0; i < h.count; i++)
            for (uint64_t o = 0; o < holds_at(&h, i)->count; o++)
                cr_assert(bits[holds_at(&h, i)->number][holds_at(&h, i)->first + o]);
    }
    holds_free(&h);
}

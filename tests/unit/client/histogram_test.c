// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>

#include "client/cli/histogram.h"

static struct histogram h, other;

Test(histogram, quantiles_are_right_to_one_percent) {
    for (int64_t v = 1; v <= 1000000; v++)
        histogram_record(&h, v);
    static const double shares[] = {0.5, 0.9, 0.99, 0.999};
    for (int i = 0; i < 4; i++) {
        double exact = shares[i] * 1e6, got = (double)histogram_quantile(&h, shares[i]);
        cr_assert(got >= exact && got <= exact * 1.01, "%f: %f", shares[i], got);
    }
    cr_assert(histogram_quantile(&h, 1.0) == 1000000 && h.max == 1000000);
}

Test(histogram, small_values_are_exact_and_odd_ones_harmless) {
    cr_assert(histogram_quantile(&h, 0.5) == 0);
    histogram_record(&h, -5);
    histogram_record(&h, 7);
    histogram_record(&h, INT64_MAX);
    cr_assert(histogram_quantile(&h, 0) == 0 && histogram_quantile(&h, 0.5) == 7);
    cr_assert(histogram_quantile(&h, 0.999) == h.max);
}

Test(histogram, merge_adds) {
    for (int i = 0; i < 100; i++) {
        histogram_record(&h, 10);
        histogram_record(&other, 20);
    }
    histogram_merge(&h, &other);
    cr_assert(h.count == 200 && h.max == 20);
    cr_assert(histogram_quantile(&h, 0.25) == 10 && histogram_quantile(&h, 0.75) == 20);
}

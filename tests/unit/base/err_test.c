// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <criterion/criterion.h>
#include <string.h>

Test(err, texts_and_advice) {
    cr_assert_str_eq(err_name(ERR_FULL), "FULL");
    cr_assert_str_eq(err_text(ERR_TOO_LATE), "too late: the lease has passed to another delivery");
    cr_assert_eq(err_advice(ERR_FULL), ERR_ADVICE_RETRY);
    cr_assert_eq(err_advice(ERR_UNKNOWN), ERR_ADVICE_MAYBE);
    cr_assert_eq(err_advice(ERR_DENIED), ERR_ADVICE_FATAL);
}

Test(err, a_number_of_a_newer_release_is_harmless) {
    static const int numbers[] = {-1, 29, 100000, -2147483647};
    for (size_t i = 0; i < 4; i++) {
        cr_assert_str_eq(err_text(numbers[i]), "error");
        cr_assert_eq(err_advice(numbers[i]), ERR_ADVICE_FATAL);
    }
}

Test(err, details_are_cut_not_overrun) {
    char longer[2 * ERR_DETAIL_BYTES];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    struct err_detail d;
    cr_assert_eq(err_set(&d, ERR_FULL, "%s", longer), ERR_FULL);
    cr_assert_eq(strlen(d.text), ERR_DETAIL_BYTES - 1);
    cr_assert_eq(d.code, ERR_FULL);
    cr_assert_eq(err_set(NULL, ERR_BUSY, "unseen"), ERR_BUSY);
}

// SPDX-License-Identifier: Apache-2.0
#include "base/body.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

static int released;

static void count_release(struct body *b) {
    released++;
}

Test(body, released_once_by_the_last_holder) {
    struct body b = {.release = count_release, .refs = 1};
    cr_assert_eq(body_keep(&b), &b);
    body_drop(&b);
    cr_assert_eq(released, 0);
    body_drop(&b);
    cr_assert_eq(released, 1);
    cr_assert_null(body_keep(NULL));
    body_drop(NULL);
}

Test(body, a_slice_keeps_its_parent) {
    struct body *b = body_copy("hello world", 11);
    struct body *slice = body_slice(b, 6, 5);
    body_drop(b);
    cr_assert_eq(memcmp(slice->data, "world", 5), 0);
    body_drop(slice);
}

Test(body, a_slice_outside_of_its_parent_is_a_bug, .signal = SIGABRT) {
    body_slice(body_new(4), 2, 3);
}

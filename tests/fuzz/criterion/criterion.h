// SPDX-License-Identifier: Apache-2.0
/* What the worlds of the unit tests use of criterion, without its main(). */
#ifndef MAILROOM_TESTS_FUZZ_CRITERION_H
#define MAILROOM_TESTS_FUZZ_CRITERION_H

#include <string.h>

#include "fuzz.h"

#define cr_assert(condition, ...)   EXPECT(condition)
#define cr_assert_eq(a, b, ...)     EXPECT((a) == (b))
#define cr_assert_str_eq(a, b, ...) EXPECT(strcmp((a), (b)) == 0)

#endif

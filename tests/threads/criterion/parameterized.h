// SPDX-License-Identifier: Apache-2.0
#ifndef MAILROOM_TESTS_THREADS_PARAMETERIZED_H
#define MAILROOM_TESTS_THREADS_PARAMETERIZED_H

#include <criterion/criterion.h>

#define cr_make_param_array(type, array, length)                                                             \
    (struct small_parameters) {                                                                              \
        sizeof(type), (array), (length)                                                                      \
    }
#define ParameterizedTestParameters(suite_, name_)                                                           \
    static struct small_parameters suite_##_##name_##_parameters(void)
#define ParameterizedTest(parameter, suite_, name_, ...)                                                     \
    static void suite_##_##name_##_run(parameter);                                                           \
    SMALL_ROW(suite_##_##name_##_row, .suite = #suite_, .name = #name_,                                      \
              .run_with = (void (*)(void *))suite_##_##name_##_run,                                          \
              .parameters = suite_##_##name_##_parameters, ##__VA_ARGS__)                                    \
    static void suite_##_##name_##_run(parameter)

#endif

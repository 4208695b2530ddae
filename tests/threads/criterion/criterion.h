// SPDX-License-Identifier: Apache-2.0
/*
 * A stand-in for criterion under ThreadSanitizer, whose address space layout
 * criterion 2.4 does not survive. The same tests compile against it; each runs
 * in a process of its own, one after the other. Only what our tests use.
 */
#ifndef MAILROOM_TESTS_THREADS_CRITERION_H
#define MAILROOM_TESTS_THREADS_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_EXIT_SKIPPED = 77 };

struct small_parameters {
    size_t size;
    void *array;
    size_t length;
};

struct small_test {
    const char *suite;
    const char *name; /* NULL: the row is a suite's options */
    void (*run)(void);
    void (*run_with)(void *parameter); /* instead of run: once for each of parameters */
    struct small_parameters (*parameters)(void);
    struct small_test *next;
    void (*init)(void);
    void (*fini)(void);
    int signal;
    int exit_code;
    double timeout;
    bool disabled;
    const char *description;
};

void small_add(struct small_test *row);
/* The message, if any, starts with a literal. */
_Noreturn void small_fail(const char *file, int line, const char *expression, const char *format, ...);
void small_note(const char *file, int line, const char *expression, const char *format, ...);

#define SMALL_ROW(row, ...)                                                                                  \
    static struct small_test row = {__VA_ARGS__};                                                            \
    __attribute__((constructor)) static void row##_add(void) {                                               \
        small_add(&row);                                                                                     \
    }
#define Test(suite_, name_, ...)                                                                             \
    static void suite_##_##name_##_run(void);                                                                \
    SMALL_ROW(suite_##_##name_##_row, .suite = #suite_, .name = #name_, .run = suite_##_##name_##_run,       \
              ##__VA_ARGS__)                                                                                 \
    static void suite_##_##name_##_run(void)
#define TestSuite(suite_, ...)                                                                               \
    SMALL_ROW(suite_##_options_row, .suite = #suite_, ##__VA_ARGS__)                                         \
    struct small_test

#define cr_assert(c, ...)   ((c) ? (void)0 : small_fail(__FILE__, __LINE__, #c, "" __VA_ARGS__))
#define cr_expect(c, ...)   ((c) ? (void)0 : small_note(__FILE__, __LINE__, #c, "" __VA_ARGS__))
#define cr_assert_fail(...) small_fail(__FILE__, __LINE__, "fail", "" __VA_ARGS__)
#define cr_expect_fail(...) small_note(__FILE__, __LINE__, "fail", "" __VA_ARGS__)
#define cr_fatal(...)       cr_assert_fail(__VA_ARGS__)
#define cr_skip_test(...)   exit(SMALL_EXIT_SKIPPED)

#define cr_assert_not(a, ...)           cr_assert(!(a), ##__VA_ARGS__)
#define cr_assert_eq(a, b, ...)         cr_assert((a) == (b), ##__VA_ARGS__)
#define cr_assert_neq(a, b, ...)        cr_assert((a) != (b), ##__VA_ARGS__)
#define cr_assert_lt(a, b, ...)         cr_assert((a) < (b), ##__VA_ARGS__)
#define cr_assert_gt(a, b, ...)         cr_assert((a) > (b), ##__VA_ARGS__)
#define cr_assert_leq(a, b, ...)        cr_assert((a) <= (b), ##__VA_ARGS__)
#define cr_assert_geq(a, b, ...)        cr_assert((a) >= (b), ##__VA_ARGS__)
#define cr_assert_null(a, ...)          cr_assert((a) == NULL, ##__VA_ARGS__)
#define cr_assert_not_null(a, ...)      cr_assert((a) != NULL, ##__VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)     cr_assert(strcmp((a), (b)) == 0, ##__VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)    cr_assert(strcmp((a), (b)) != 0, ##__VA_ARGS__)
#define cr_assert_str_empty(a, ...)     cr_assert((a)[0] == 0, ##__VA_ARGS__)
#define cr_assert_str_not_empty(a, ...) cr_assert((a)[0] != 0, ##__VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)  cr_assert(memcmp((a), (b), (n)) == 0, ##__VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) cr_assert(memcmp((a), (b), (n)) != 0, ##__VA_ARGS__)

#define cr_expect_not(a, ...)           cr_expect(!(a), ##__VA_ARGS__)
#define cr_expect_eq(a, b, ...)         cr_expect((a) == (b), ##__VA_ARGS__)
#define cr_expect_neq(a, b, ...)        cr_expect((a) != (b), ##__VA_ARGS__)
#define cr_expect_lt(a, b, ...)         cr_expect((a) < (b), ##__VA_ARGS__)
#define cr_expect_gt(a, b, ...)         cr_expect((a) > (b), ##__VA_ARGS__)
#define cr_expect_leq(a, b, ...)        cr_expect((a) <= (b), ##__VA_ARGS__)
#define cr_expect_geq(a, b, ...)        cr_expect((a) >= (b), ##__VA_ARGS__)
#define cr_expect_null(a, ...)          cr_expect((a) == NULL, ##__VA_ARGS__)
#define cr_expect_not_null(a, ...)      cr_expect((a) != NULL, ##__VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)     cr_expect(strcmp((a), (b)) == 0, ##__VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)    cr_expect(strcmp((a), (b)) != 0, ##__VA_ARGS__)
#define cr_expect_str_empty(a, ...)     cr_expect((a)[0] == 0, ##__VA_ARGS__)
#define cr_expect_str_not_empty(a, ...) cr_expect((a)[0] != 0, ##__VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)  cr_expect(memcmp((a), (b), (n)) == 0, ##__VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...) cr_expect(memcmp((a), (b), (n)) != 0, ##__VA_ARGS__)

#endif

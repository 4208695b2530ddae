// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct small_test *rows;
static int notes; /* failed expectations of the running test, any thread */

void small_add(struct small_test *row) {
    row->next = rows;
    rows = row;
}

static void print(const char *file, int line, const char *expression, const char *format, va_list args) {
    fprintf(stderr, "%s:%d: failed: %s ", file, line, expression);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void small_fail(const char *file, int line, const char *expression, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print(file, line, expression, format, args);
    va_end(args);
    _exit(1);
}

void small_note(const char *file, int line, const char *expression, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print(file, line, expression, format, args);
    va_end(args);
    __atomic_add_fetch(&notes, 1, __ATOMIC_RELAXED);
}

static const struct small_test *options_of(const char *suite) {
    static const struct small_test none;
    for (const struct small_test *r = rows; r; r = r->next)
        if (!r->name && strcmp(r->suite, suite) == 0)
            return r;
    return &none;
}

/* exit, not _exit: ThreadSanitizer reports at exit. */
static void run_here(const struct small_test *t, void *parameter) {
    const struct small_test *suite = options_of(t->suite);
    void (*init)(void) = t->init ? t->init : suite->init;
    void (*fini)(void) = t->fini ? t->fini : suite->fini;
    if (init)
        init();
    if (t->run_with)
        t->run_with(parameter);
    else
        t->run();
    if (fini)
        fini();
    exit(notes ? 1 : 0);
}

static bool passes_with(const struct small_test *t, void *parameter) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        run_here(t, parameter);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return false;
    if (t->signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == t->signal;
    return WIFEXITED(status) &&
           (WEXITSTATUS(status) == t->exit_code || WEXITSTATUS(status) == SMALL_EXIT_SKIPPED);
}

static bool passes(const struct small_test *t) {
    if (!t->parameters)
        return passes_with(t, NULL);
    struct small_parameters p = t->parameters();
    for (size_t i = 0; i < p.length; i++)
        if (!passes_with(t, (char *)p.array + i * p.size))
            return false;
    return true;
}

int main(void) {
    int run = 0, failed = 0;
    for (const struct small_test *t = rows; t; t = t->next) {
        if (!t->name || t->disabled)
            continue;
        run++;
        if (passes(t))
            continue;
        failed++;
        fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
    }
    fprintf(stderr, "tested %d, failing %d\n", run, failed);
    return failed || !run;
}

// SPDX-License-Identifier: Apache-2.0
/* The supervisor with real processes and real signals (helper.c). Each test
 * waits for what the processes say, never for time to pass. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 20000, ARGUMENTS_MAX = 16 };

static char folder[64];
static char file[96];
static pid_t supervisor;
static FILE *words; /* what all processes say; its end: none is left */
static int control; /* standard input of all */

static void write_config(const char *node) {
    FILE *f = fopen(file, "w");
    fprintf(f,
            "node: %s\ndata: %s/data\nshards: 2\nfailure: {watchdog: 1s}\n"
            "cluster: {name: c, initial: {%s: 127.0.0.1:7410}}\n",
            node, folder, node);
    fclose(f);
}

static void make_folder(void) {
    snprintf(folder, sizeof folder, "/tmp/mr-sup-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/m.yaml", folder);
    write_config("n1");
}

static void remove_folder(void) {
    static const char *const names[] = {"m.yaml", "data/lock", "data/shards", "data/run", "data", ""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    struct stat st;
    cr_expect(stat(folder, &st) != 0, "nothing is left in %s", folder);
}

static void launch(int in, int out, const char *const *arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind */
    dup2(in, 0);
    dup2(out, 1);
    execv(getenv("HELPER"), (char *const *)(uintptr_t)arguments);
    _exit(127);
}

/* Start the helper: restarts allowed, strategy, roles..., NULL. */
static void start(const char *restarts, ...) {
    const char *arguments[ARGUMENTS_MAX] = {"helper", file, restarts, "0"};
    int in[2], out[2], n = 4;
    va_list roles;
    va_start(roles, restarts);
    while ((arguments[n] = va_arg(roles, const char *)))
        n++;
    va_end(roles);
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    supervisor = fork();
    if (supervisor == 0)
        launch(in[0], out[1], arguments);
    close(in[0]);
    close(out[1]);
    control = in[1];
    words = fdopen(out[0], "r");
    setvbuf(words, NULL, _IONBF, 0);
}

static bool next_word(char *line, size_t size) {
    struct pollfd p = {.fd = fileno(words), .events = POLLIN};
    cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nothing was said in time");
    return fgets(line, (int)size, words) != NULL;
}

/* Read on until a line has the part in it; that line, static. */
static const char *hear(const char *part) {
    static char line[512];
    char all[8192] = "";
    while (next_word(line, sizeof line)) {
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s", line);
        if (strstr(line, part))
            return line;
    }
    cr_assert_fail("'%s' was never said, but:\n%s", part, all);
    return NULL;
}

static pid_t hear_ready(const char *part) {
    const char *line = hear(part), *pid = strstr(line, " pid ");
    cr_assert_not_null(pid, "%s", line);
    return (pid_t)atoi(pid + 5);
}

/* All have gone: nobody holds standard output any more. */
static void hear_the_end(void) {
    char line[512];
    while (next_word(line, sizeof line))
        ;
}

static int exit_code(void) {
    int status;
    cr_assert_eq(waitpid(supervisor, &status, 0), supervisor);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void expect_clean_stop(void) {
    kill(supervisor, SIGTERM);
    hear_the_end();
    cr_assert_eq(exit_code(), 0);
}

TestSuite(supervisor, .init = make_folder, .fini = remove_folder, .timeout = 60);

Test(supervisor, starts_in_order_introduces_all_and_stops_in_reverse) {
    start("5", "ready/0", "slow", "ready/1", NULL);
    hear("ready/0 ready");
    hear("slow/0 waits");
    cr_assert_eq(write(control, "x", 1), 1);
    const char *line = hear("/0 ready pid");
    cr_assert_not_null(strstr(line, "slow/0 ready pid"), "ready/1 came before slow was ready: %s", line);
    hear("ready/1 ready pid");
    hear("ready/1 hears slow/0 up, instance 2 at slow-0.2.sock, turns seen");
    kill(supervisor, SIGTERM);
    hear("ready/1 asked to stop");
    hear("slow/0 asked to stop");
    hear("ready/0 asked to stop");
    hear_the_end();
    cr_assert_eq(exit_code(), 0);
}

Test(supervisor, those_up_before_learn_of_those_after) {
    start("5", "ready/0", "ready/1", NULL);
    hear("ready/0 hears ready/1 up, instance 2 at ready-1.2.sock, turns seen");
    expect_clean_stop();
}

Test(supervisor, a_killed_child_comes_back_as_another_instance) {
    start("5", "ready/0", "ready/1", NULL);
    pid_t pid = hear_ready("ready/1 ready");
    hear("ready/0 hears ready/1 up");
    kill(pid, SIGKILL);
    hear("ready/0 hears ready/1 down, instance 2");
    hear("ready/0 death of ready/1: signal 9, code 0, by itself");
    hear("ready/0 hears ready/1 up, instance 3 at ready-1.3.sock");
    expect_clean_stop();
}

Test(supervisor, a_partition_that_crashes_its_process_is_named_to_it) {
    start("9", "ready", "crash", NULL);
    hear("crash/0 quarantines 42 after 3");
    hear("crash/0 death of crash/0: signal 6, code 0, by itself, partition 42, words 'about to crash on 42'");
    expect_clean_stop();
}

Test(supervisor, a_hanging_loop_is_aborted) {
    start("5", "hang", "ready", NULL);
    hear("hang/0 ready and hangs");
    hear("ready/0 death of hang/0: signal 6, code 0, stood still");
    hear("ready/0 hears hang/0 up, instance 3");
    expect_clean_stop();
}

Test(supervisor, a_stopped_process_is_replaced) {
    start("5", "ready/0", "ready/1", NULL);
    pid_t pid = hear_ready("ready/1 ready");
    hear("ready/0 hears ready/1 up");
    kill(pid, SIGSTOP);
    hear("ready/0 death of ready/1: signal 6, code 0, stood still");
    hear("ready/0 hears ready/1 up, instance 3");
    expect_clean_stop();
}

Test(supervisor, nobody_restarts_who_wants_an_operator) {
    start("5", "operator", "ready", NULL);
    hear("operator/0 wants an operator");
    hear("ready/0 ready");
    expect_clean_stop();
}

Test(supervisor, all_wanting_an_operator_end_it_with_78) {
    start("5", "operator", NULL);
    hear_the_end();
    cr_assert_eq(exit_code(), 78);
}

Test(supervisor, too_many_restarts_end_it_with_1) {
    start("3", "ready", "fail", NULL);
    hear("ready/0 asked to stop");
    hear_the_end();
    cr_assert_eq(exit_code(), 1);
}

Test(supervisor, who_does_not_stop_is_killed) {
    start("5", "stubborn", NULL);
    hear("stubborn/0 ready");
    kill(supervisor, SIGINT);
    hear("stubborn/0 asked to stop");
    hear_the_end();
    cr_assert_eq(exit_code(), 0);
}

/* Also one whose loop hangs and does not see the closed channel. */
Test(supervisor, children_die_with_a_killed_supervisor) {
    start("5", "hang", "ready", NULL);
    hear("ready/0 hears hang/0 up");
    kill(supervisor, SIGKILL);
    hear_the_end();
    cr_assert_eq(exit_code(), 1000 + SIGKILL);
}

Test(supervisor, signals_of_a_terminal_do_not_end_children_on_their_own) {
    start("5", "ready", NULL);
    pid_t pid = hear_ready("ready/0 ready");
    kill(pid, SIGINT);
    kill(pid, SIGTERM);
    kill(pid, SIGHUP);
    kill(supervisor, SIGTERM);
    hear("ready/0 asked to stop");
    hear_the_end();
    cr_assert_eq(exit_code(), 0);
}

Test(supervisor, a_restarted_child_sees_the_very_same_configuration) {
    start("5", "ready", NULL);
    pid_t pid = hear_ready("ready/0 ready");
    write_config("n9");
    kill(pid, SIGKILL);
    cr_assert_not_null(strstr(hear("ready/0 ready"), "instance 2 node n1 shards 2"));
    expect_clean_stop();
}

Test(supervisor, a_second_one_on_the_same_data_is_refused) {
    start("5", "ready", NULL);
    hear("ready/0 ready");
    pid_t first = supervisor;
    FILE *first_words = words;
    start("5", "ready", NULL);
    hear_the_end();
    cr_assert_eq(exit_code(), 2);
    fclose(words);
    supervisor = first;
    words = first_words;
    expect_clean_stop();
}

Test(supervisor, it_starts_again_at_once_after_a_kill) {
    start("5", "ready", "stubborn", NULL);
    hear("ready/0 hears stubborn/0 up");
    kill(supervisor, SIGKILL);
    cr_assert_eq(exit_code(), 1000 + SIGKILL);
    start("5", "ready", NULL);
    hear("ready/0 ready");
    expect_clean_stop();
}

Test(supervisor, a_role_by_hand_is_refused) {
    pid_t pid = fork();
    if (pid == 0) {
        execl(getenv("HELPER"), "helper", "--role", "ready", "--index", "0", NULL);
        _exit(127);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status));
    cr_assert_eq(WEXITSTATUS(status), 2);
}

// SPDX-License-Identifier: Apache-2.0
/* Bad configuration and arguments: a clear error, the right exit code, and
 * nothing touched. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster.h"

static int run(const char *command, char *output, size_t size) {
    char line[1024];
    snprintf(line, sizeof line, "%s 2>&1", command);
    FILE *f = popen(line, "r");
    size_t got = fread(output, 1, size - 1, f);
    output[got] = 0;
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(const char *what, const char *command, int code, const char *const *words) {
    char output[4096];
    int got = run(command, output, sizeof output);
    cr_expect_eq(got, code, "%s: exit %d, expected %d: %s", what, got, code, output);
    for (int i = 0; words[i]; i++)
        cr_expect(strstr(output, words[i]), "%s: '%s' is missing in: %s", what, words[i], output);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

Test(errors, a_wrong_configuration_names_file_line_and_expectation) {
    char path[] = "/tmp/mailroom-config-XXXXXX", command[512];
    int fd = mkstemp(path);
    const char *text =
        "node: n1\ndata: /tmp/never-made\ncluster: { name: c, initial: { n1: 127.0.0.1:7410 } }\n"
        "failure:\n  heartbeat: soon\n";
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    snprintf(command, sizeof command, "%s --check-config %s", getenv("MAILROOMD"), path);
    expect("a wrong value", command, 2, WORDS(path, ":5", "heartbeat", "soon"));
    snprintf(command, sizeof command, "%s --config %s", getenv("MAILROOMD"), path);
    expect("the same at start", command, 2, WORDS(path, ":5", "heartbeat"));
    cr_assert_neq(access("/tmp/never-made", F_OK), 0, "the data folder was made");
    unlink(path);
}

static void expect_usage(const char *arguments, int code, const char *const *words) {
    char command[512];
    snprintf(command, sizeof command, "%s %s", getenv("MAILROOM"), arguments);
    expect(arguments, command, code, words);
}

Test(errors, wrong_arguments_name_the_argument_and_what_is_expected) {
    expect_usage("fly", 2, WORDS("fly"));
    expect_usage("mailbox create", 2, WORDS("NAME"));
    expect_usage("mailbox create 'a b'", 2, WORDS("a b"));
    expect_usage("mailbox create x --partitions many", 2, WORDS("--partitions", "many"));
    expect_usage("mailbox create x --durability often", 2, WORDS("--durability", "often", "synced"));
    expect_usage("--timeout soon mailbox list", 2, WORDS("--timeout", "soon"));
    expect_usage("--server 127.0.0.1:1 --timeout 300ms mailbox list", 3, WORDS("127.0.0.1:1"));
}

Test(errors, a_refusal_names_its_reason) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 1});
    char *errors;
    const char *unknown[] = {"mailbox", "show", "nowhere", NULL};
    cr_expect_eq(mailroom_run(c, 0, NULL, NULL, &errors, unknown), 1);
    cr_expect(strstr(errors, "nowhere"), "%s", errors);
    free(errors);
    cr_expect_eq(mailroom(c, 0, NULL, "mailbox", "create", "here"), 0);
    cr_expect_eq(mailroom(c, 0, NULL, "mailbox", "create", "here"), 0, "the same settings again");
    const char *other[] = {"mailbox", "create", "here", "--partitions", "2", NULL};
    cr_expect_eq(mailroom_run(c, 0, NULL, NULL, &errors, other), 1);
    cr_expect(strstr(errors, "here"), "%s", errors);
    free(errors);
    const char *no_subscription[] = {"consume", "here", "--subscription", "none", "--wait", "1s", NULL};
    cr_expect_eq(mailroom_run(c, 0, NULL, NULL, &errors, no_subscription), 1);
    cr_expect(strstr(errors, "none"), "%s", errors);
    free(errors);
    cluster_end(c);
}

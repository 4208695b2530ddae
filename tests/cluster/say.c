// SPDX-License-Identifier: Apache-2.0
#include "say.h"

#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAY_SLOW_MS = 2000 }; /* then the time is reported */

static char line[8192];
static char *output, *errors;
static json_t *value;

static void set_path(void) {
    char all[4096], tool[1024];
    snprintf(tool, sizeof tool, "%s", getenv("MAILROOM"));
    snprintf(all, sizeof all, "%s:%s", dirname(tool), getenv("PATH"));
    setenv("PATH", all, 1);
}

static int file_of(const struct cluster *c, const char *name, int flags) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", c->folder, name);
    return open(path, flags, 0600);
}

static void exec_shell(const struct cluster *c, bool kept) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* a tool that shows that it hangs is killed with its pipe */
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    int flags = O_WRONLY | O_CREAT | O_TRUNC;
    dup2(kept ? file_of(c, "said", flags) : open("/dev/null", O_WRONLY), STDOUT_FILENO);
    dup2(kept ? file_of(c, "said.errors", flags) : open("/dev/null", O_WRONLY), STDERR_FILENO);
    setenv("MAILROOM_SERVER", cluster_servers(c, -1), 1);
    set_path();
    signal(SIGPIPE, SIG_DFL);
    chdir(c->folder);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static pid_t begin(struct cluster *c, bool kept) {
    pid_t pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0)
        exec_shell(c, kept);
    return pid;
}

pid_t say_begin(struct cluster *c, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    return begin(c, false);
}

int say_end(struct cluster *c, pid_t pid) {
    int status;
    int64_t end = clock_ms() + 2 * CLUSTER_WAIT_MS;
    (void)c;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_ms() > end) {
            kill(-pid, SIGKILL);
            cr_assert(false, "does not end: %s", line);
        }
        poll(NULL, 0, 1);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char *read_file(const struct cluster *c, const char *name) {
    int fd = file_of(c, name, O_RDONLY);
    size_t size = 0, room = 4096;
    char *text = malloc(room);
    ssize_t got;
    while (fd >= 0 && (got = read(fd, text + size, room - size - 1)) > 0)
        if ((size += (size_t)got) + 1 >= room)
            text = realloc(text, room *= 2);
    text[size] = 0;
    close(fd);
    return text;
}

int say(struct cluster *c, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    int64_t start = clock_ms();
    int code = say_end(c, begin(c, true));
    if (clock_ms() - start > SAY_SLOW_MS)
        fprintf(stderr, "%lld ms: %s\n", (long long)(clock_ms() - start), line);
    free(output);
    free(errors);
    json_decref(value);
    value = NULL;
    output = read_file(c, "said");
    errors = read_file(c, "said.errors");
    return code;
}

const char *said(void) {
    return output ? output : "";
}

const char *said_errors(void) {
    return errors ? errors : "";
}

static json_t *find(const char *path) {
    char copy[256], *rest = copy, *name;
    json_error_t error;
    if (!value)
        value = json_loads(said(), JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, &error);
    cr_assert(value, "%s: not JSON (%s): %.1000s", line, error.text, said());
    snprintf(copy, sizeof copy, "%s", path);
    json_t *at = value;
    while (at && (name = strsep(&rest, ".")))
        if (*name)
            at = json_is_array(at) ? json_array_get(at, (size_t)atoi(name)) : json_object_get(at, name);
    return at;
}

bool said_has(const char *path) {
    return find(path);
}

int64_t said_number(const char *path) {
    json_t *at = find(path);
    cr_assert(json_is_integer(at), "no number %s in: %.2000s", path, said());
    return json_integer_value(at);
}

const char *said_text(const char *path) {
    json_t *at = find(path);
    cr_assert(json_is_string(at), "no text %s in: %.2000s", path, said());
    return json_string_value(at);
}

void said_members(const char *path, const char *names) {
    char all[2048] = "";
    const char *name;
    json_t *one, *at = find(path);
    cr_assert(json_is_object(at), "no object '%s' in: %.2000s", path, said());
    json_object_foreach(at, name, one) {
        strncat(all, all[0] ? " " : "", sizeof all - strlen(all) - 1);
        strncat(all, name, sizeof all - strlen(all) - 1);
    }
    cr_assert_str_eq(all, names, "members of '%s' are: %s", path, all);
}

int64_t shown(struct cluster *c, const char *mailbox, const char *path) {
    SAYS(c, 0, "mailroom --json mailbox show %s", mailbox);
    return said_number(path);
}

int64_t counted(struct cluster *c, const char *mailbox, const char *counter) {
    char path[128];
    snprintf(path, sizeof path, "partitions.0.subscriptions.0.%s", counter);
    return shown(c, mailbox, path);
}

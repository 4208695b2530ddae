// SPDX-License-Identifier: Apache-2.0
/* The command line tool as users meet it: arguments, output, exit codes. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake.h"

enum { ARGS_MAX = 32, TEXT_MAX = 65536 };

struct ran {
    int code;
    char out[TEXT_MAX], err[TEXT_MAX];
};

struct child {
    pid_t pid;
    int in, out, err;
};

static void redirect(int fd, int to) {
    dup2(fd, to);
    close(fd);
}

/* Standard output goes to `to`, or to a pipe if that is -1. */
static struct child start_to(const char *server, const char *line, int to) {
    char copy[1024], *argv[ARGS_MAX] = {MAILROOM_BINARY}, *rest = copy, *word;
    size_t n = 1;
    snprintf(copy, sizeof copy, "%s", line);
    while ((word = strsep(&rest, " ")))
        if (*word)
            argv[n++] = strcmp(word, "''") == 0 ? "" : word;
    int in[2], out[2], err[2];
    cr_assert(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
    if (to >= 0)
        dup3(to, out[1], O_CLOEXEC);
    struct child c = {fork(), in[1], out[0], err[0]};
    if (c.pid == 0) {
        redirect(in[0], 0);
        redirect(out[1], 1);
        redirect(err[1], 2);
        setenv("MAILROOM_SERVER", server, 1);
        execv(MAILROOM_BINARY, argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    return c;
}

static struct child start(const char *server, const char *line) {
    return start_to(server, line, -1);
}

static void slurp(int fd, char *text) {
    size_t have = 0;
    ssize_t n;
    while (have < TEXT_MAX - 1 && (n = read(fd, text + have, TEXT_MAX - 1 - have)) > 0)
        have += (size_t)n;
    text[have] = 0;
    close(fd);
}

static struct ran *finish(struct child c) {
    static struct ran r;
    int status;
    if (c.out >= 0)
        slurp(c.out, r.out);
    slurp(c.err, r.err);
    cr_assert(waitpid(c.pid, &status, 0) == c.pid);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return &r;
}

static struct ran *run_with(const char *server, const char *input, const char *line) {
    struct child c = start(server, line);
    cr_assert(write(c.in, input, strlen(input)) == (ssize_t)strlen(input));
    close(c.in);
    return finish(c);
}

static struct ran *run(struct fake *f, const char *line) {
    return run_with(f ? f->address : "127.0.0.1:1", "", line);
}

static void expect(const struct ran *r, int code, const char *out, const char *err) {
    cr_assert(r->code == code, "exit %d, expected %d; %s%s", r->code, code, r->out, r->err);
    cr_assert(!out || strcmp(r->out, out) == 0, "printed '%s', expected '%s'", r->out, out);
    cr_assert(!err || strstr(r->err, err), "said '%s', expected '%s' in it", r->err, err);
}

struct usage_row {
    const char *line, *names, *expects;
};

Test(cli, wrong_usage_names_the_argument_and_what_was_expected) {
    static const struct usage_row rows[] = {
        {"", "COMMAND", "missing"},
        {"frobnicate", "frobnicate", "unknown command"},
        {"mailbox", "mailbox", "incomplete"},
        {"mailbox frob", "frob", "unknown command"},
        {"mailbox create", "arguments", "expected NAME"},
        {"mailbox create a b", "b", "expected NAME"},
        {"mailbox create a/b", "NAME", "expected 1 to 128"},
        {"mailbox create a --partitions 0", "--partitions", "1 to 1024"},
        {"mailbox create a --partitions 1025", "--partitions", "1 to 1024"},
        {"mailbox create a --partitions -1", "--partitions", "1 to 1024"},
        {"mailbox create a --partitions", "--partitions", "nothing follows"},
        {"mailbox create a --replicas x", "--replicas", "1 to 7"},
        {"mailbox create a --durability safe", "--durability", "synced, written or none"},
        {"mailbox create a --route random", "--route", "round-robin, least-loaded or key"},
        {"mailbox create a --dispatch all", "--dispatch", "exclusive"},
        {"mailbox create a --overflow drop", "--overflow", "drop-oldest"},
        {"mailbox create a --max-bytes 1GB", "--max-bytes", "GiB"},
        {"mailbox create a --ttl 5", "--ttl", "ms, s, m, h or d"},
        {"mailbox create a --retain soon", "--retain", "duration (1h) or a size"},
        {"mailbox create a --dead-letter a/b", "--dead-letter", "expected 1 to 128"},
        {"mailbox create a --no-default=1", "--no-default", "expected no value"},
        {"mailbox create a --colour red", "--colour", "unknown option"},
        {"mailbox update a", "options", "at least one"},
        {"mailbox update a --partitions 3", "--partitions", "fixed"},
        {"mailbox recover a --accept-loss", "--from", "node"},
        {"mailbox recover a --from n1", "--accept-loss", "lost"},
        {"mailbox list a", "a", "unexpected"},
        {"subscription create a", "arguments", "MAILBOX NAME"},
        {"subscription create a b --from later", "--from", "new, first, an offset or a time"},
        {"publish", "arguments", "NAME [TEXT...]"},
        {"publish q --header novalue", "--header", "K=V"},
        {"publish q --count 0 x", "--count", "from 1"},
        {"publish q x --lines", "--lines", "TEXT"},
        {"publish q --lines --count 2", "--count", "--lines"},
        {"publish q x --file f", "--file", "TEXT"},
        {"consume", "arguments", "NAME"},
        {"consume q --wait 5", "--wait", "ms, s, m, h or d"},
        {"consume q --credit 0", "--credit", "1 to 1000000"},
        {"consume q --format xml", "--format", "raw or json"},
        {"consume q --subscription a/b", "--subscription", "expected 1 to 128"},
        {"cluster status now", "now", "unexpected"},
        {"bench all q", "all", "publish, consume or both"},
        {"bench both q --verify --size 8", "--verify", "--size"},
        {"bench publish q --publishers 1000", "--publishers", "1 to 256"},
        {"--timeout fast mailbox list", "--timeout", "ms, s, m, h or d"},
        {"--server nowhere mailbox list", "--server", "HOST:PORT"},
        {"--what mailbox list", "--what", "unknown option"},
        {"--timeout", "--timeout", "nothing follows"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ran *r = run(NULL, rows[i].line);
        cr_assert(r->code == 2, "'%s': exit %d", rows[i].line, r->code);
        cr_assert(strstr(r->err, rows[i].names) && strstr(r->err, rows[i].expects), "'%s': said '%s'",
                  rows[i].line, r->err);
        cr_assert(r->out[0] == 0, "'%s' printed '%s'", rows[i].line, r->out);
    }
}

Test(cli, every_command_has_help) {
    static const char *const commands[] = {"mailbox create",
                                           "mailbox list",
                                           "mailbox show",
                                           "mailbox update",
                                           "mailbox purge",
                                           "mailbox delete",
                                           "mailbox recover",
                                           "subscription list",
                                           "subscription create",
                                           "subscription delete",
                                           "publish",
                                           "consume",
                                           "cluster status",
                                           "bench"};
    struct ran *r = run(NULL, "--help");
    char all[TEXT_MAX];
    expect(r, 0, NULL, "");
    snprintf(all, sizeof all, "%s", r->out);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char line[64], title[64];
        snprintf(line, sizeof line, "%s --help", commands[i]);
        snprintf(title, sizeof title, "mailroom %s ", commands[i]);
        expect(r = run(NULL, line), 0, NULL, "");
        cr_assert(strncmp(r->out, title, strlen(title)) == 0, "%s", r->out);
        cr_assert(strstr(all, commands[i]), "%s is not in --help", commands[i]);
    }
    expect(run(NULL, "--version"), 0, "mailroom 0.1.0\n", "");
}

Test(cli, nobody_answers_is_3) {
    static const char *const lines[] = {"--timeout 200ms mailbox list", "--timeout 200ms cluster status",
                                        "--timeout 200ms publish q hi", "--timeout 200ms consume q",
                                        "publish q hi --timeout 200ms"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        expect(run(NULL, lines[i]), 3, "", "refused");
    struct ran *r = run(NULL, "--timeout 200ms --json mailbox list");
    json_t *all = json_loads(r->out, 0, NULL);
    const char *code, *said;
    int retryable;
    cr_assert(r->code == 3 && json_unpack(all, "{s:{s:s, s:s, s:b}}", "error", "code", &code, "text", &said,
                                          "retryable", &retryable) == 0,
              "%s", r->out);
    cr_assert(strcmp(code, "TIMEOUT") == 0 && retryable);
    json_decref(all);
}

/* --- publish ----------------------------------------------------------------- */

static void expect_payloads(struct fake *f, const char *const *expected, size_t count) {
    size_t n = 0;
    for (size_t i = 0; i < f->published_count; i++) {
        struct batch_cursor cursor = batch_messages(f->published[i].body->data, f->published[i].body->size);
        struct batch_message m;
        for (; batch_next(&cursor, &m); n++)
            cr_assert(n < count && m.payload.size == strlen(expected[n]) &&
                          memcmp(m.payload.data, expected[n], m.payload.size) == 0,
                      "message %zu is '%.*s'", n, (int)m.payload.size, m.payload.data);
    }
    cr_assert(n == count, "%zu messages, expected %zu", n, count);
}

Test(cli, publish_takes_texts_lines_or_the_whole_input) {
    struct fake *f = fake_new();
    expect(run(f, "publish q one two ''"), 0, "", "");
    expect(run_with(f->address, "a\n\nlast", "publish q --lines"), 0, "", "");
    expect(run_with(f->address, "whole\ninput\n", "publish q"), 0, "", "");
    expect(run(f, "publish q --count 2 again"), 0, "", "");
    expect(run(f, "publish q -- --text"), 0, "", "");
    expect(run(f, "publish q --lines"), 0, "", "");
    expect_payloads(f,
                    (const char *const[]){"one", "two", "", "a", "", "last", "whole\ninput\n", "again",
                                          "again", "--text"},
                    10);
    fake_free(f);
}

Test(cli, publish_sends_key_and_headers) {
    struct fake *f = fake_new();
    expect(run(f, "publish q --key k1 --header a=1 --header b=x=y hi"), 0, "", "");
    struct batch_cursor cursor = batch_messages(f->published[0].body->data, f->published[0].body->size);
    struct batch_message m;
    struct batch_string name, value;
    cr_assert(batch_next(&cursor, &m) && m.headers == 2 && m.key.size == 2 &&
              memcmp(m.key.data, "k1", 2) == 0);
    const uint8_t *at = m.headers_start;
    batch_header_next(&at, &name, &value);
    batch_header_next(&at, &name, &value);
    cr_assert(name.size == 1 && *name.data == 'b' && value.size == 3 && memcmp(value.data, "x=y", 3) == 0);
    fake_free(f);
}

Test(cli, publish_tells_refused_from_unknown) {
    struct fake *f = fake_new();
    expect(run(f, "--json publish q a b c"), 0, "{\"published\":3,\"receipted\":3,\"failed\":0}\n", "");
    f->refuse_code = MR_EFULL;
    f->refuse_times = 100;
    struct ran *r = run(f, "--json publish q a");
    expect(r, 1, NULL, "refused by the script");
    cr_assert(strncmp(r->out, "{\"published\":1,\"receipted\":0,\"failed\":1,\"error\":{\"code\":\"FULL\"",
                      60) == 0,
              "%s", r->out);
    f->refuse_times = 0;
    f->mute = true;
    expect(run(f, "--timeout 2s publish q a"), 3, "", "may be stored");
    f->missing = true;
    expect(run(f, "publish q a"), 1, "", "not found");
    expect(run(f, "publish q --file /nonexistent"), 1, "", "/nonexistent");
    fake_free(f);
}

/* --- consume ----------------------------------------------------------------- */

/* Settled kinds of offsets, as the fake saw them last. */
static int kind_of(struct fake *f, uint64_t offset) {
    int kind = -1;
    for (size_t i = 0; i < f->settles_count; i++)
        if (offset >= f->settles[i].first_offset && offset < f->settles[i].first_offset + f->settles[i].count)
            kind = f->settles[i].kind;
    return kind;
}

Test(cli, consume_prints_acks_and_ends) {
    struct fake *f = fake_new();
    struct child c = start(f->address, "consume q --count 2");
    FAKE_WAIT(f, f->subscribes == 1);
    cr_assert(f->credit == 2, "no more is fetched than wanted");
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 2});
    expect(finish(c), 0, "m0\nm1\n", "");
    cr_assert(kind_of(f, 0) == MR_ACK && kind_of(f, 1) == MR_ACK && f->unsubscribes == 1);
    fake_free(f);
}

Test(cli, consume_json_has_the_fields) {
    struct fake *f = fake_new();
    struct child c = start(f->address, "consume q --count 1 --format json");
    FAKE_WAIT(f, f->subscribes == 1);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 4, .count = 1});
    expect(finish(c), 0,
           "{\"mailbox\":\"q\",\"partition\":0,\"offset\":4,\"key\":\"key\",\"headers\":{\"n\":\"m4\"},"
           "\"body\":\"m4\","
           "\"attempt\":1,\"time\":\"1970-01-01T00:00:01.234567Z\"}\n",
           "");
    fake_free(f);
}

Test(cli, consume_waits_as_long_as_it_is_told) {
    struct fake *f = fake_new();
    expect(run(f, "consume q --wait 200ms"), 0, "", "");
    expect(run(f, "consume q --wait 200ms --count 1"), 3, "", "0 of 1");
    f->missing = true;
    expect(run(f, "consume q --wait 200ms"), 1, "", "not found");
    fake_free(f);
}

Test(cli, consume_no_ack_releases_at_the_end) {
    struct fake *f = fake_new();
    struct child c = start(f->address, "consume q --count 2 --no-ack");
    FAKE_WAIT(f, f->subscribes == 1);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 2});
    expect(finish(c), 0, "m0\nm1\n", "");
    cr_assert(kind_of(f, 0) == MR_RELEASE && kind_of(f, 1) == MR_RELEASE);
    fake_free(f);
}

Test(cli, consume_releases_what_nobody_reads) {
    struct fake *f = fake_new();
    struct child c = start(f->address, "consume q");
    FAKE_WAIT(f, f->subscribes == 1);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 1});
    char first[8] = "";
    cr_assert(read(c.out, first, sizeof first) == 3 && strcmp(first, "m0\n") == 0);
    FAKE_WAIT(f, kind_of(f, 0) == MR_ACK);
    close(c.out);
    c.out = -1;
    struct ran *r = finish(c); /* sees the closed pipe though nothing comes */
    cr_assert(r->code == 0 && f->unsubscribes == 1);
    fake_free(f);
}

Test(cli, consume_does_not_ack_what_could_not_be_written) {
    struct fake *f = fake_new();
    struct child c = start_to(f->address, "consume q --count 3", open("/dev/full", O_WRONLY | O_CLOEXEC));
    FAKE_WAIT(f, f->subscribes == 1);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 3});
    expect(finish(c), 1, NULL, "No space left");
    for (uint64_t i = 0; i < 3; i++)
        cr_assert(kind_of(f, i) != MR_ACK, "offset %llu", (unsigned long long)i);
    cr_assert(f->unsubscribes == 1);
    fake_free(f);
}

Test(cli, consume_leaves_in_good_order_when_interrupted) {
    static const int signals[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 2; i++) {
        struct fake *f = fake_new();
        struct child c = start(f->address, "consume q");
        FAKE_WAIT(f, f->subscribes == 1);
        fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 3});
        FAKE_WAIT(f, kind_of(f, 2) == MR_ACK);
        kill(c.pid, signals[i]);
        expect(finish(c), 0, "m0\nm1\nm2\n", "");
        cr_assert(f->unsubscribes == 1);
        fake_free(f);
    }
}

/* --- the rest ---------------------------------------------------------------- */

Test(cli, administration_maps_codes_to_exits) {
    struct fake *f = fake_new();
    expect(run(f, "mailbox create q"), 0, "", "");
    expect(run(f, "--json mailbox create q"), 0, "{\"created\":\"q\"}\n", "");
    expect(run(f, "mailbox list --json"), 0, "{\"mailboxes\":[]}\n", "");
    static const int codes[] = {MR_EEXISTS, MR_ENOTFOUND, MR_EINVALID, MR_EUNSAFE};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        f->request_code = codes[i];
        f->request_times = 1;
        expect(run(f, "mailbox delete q"), 1, "", "refused by the script");
    }
    f->request_mute = true;
    expect(run(f, "--timeout 2s mailbox purge q"), 3, "", "may have been done");
    fake_free(f);
}

Test(cli, bench_prints_one_object) {
    struct fake *f = fake_new();
    struct ran *r = run(f, "bench publish q --count 2000 --size 64 --partitions 1");
    expect(r, 0, NULL, "");
    json_t *all = json_loads(r->out, 0, NULL);
    json_int_t published, receipted, failed, p50, max;
    double seconds, rate;
    cr_assert(json_unpack(all, "{s:I, s:I, s:I, s:F, s:F, s:I, s:I}", "published", &published, "receipted",
                          &receipted, "failed", &failed, "seconds", &seconds, "msgs_per_s", &rate, "p50_us",
                          &p50, "max_us", &max) == 0,
              "%s", r->out);
    cr_assert(published == 2000 && receipted == 2000 && failed == 0 && seconds > 0 && rate > 0 && p50 <= max);
    cr_assert(json_object_size(all) == 13, "%s", r->out);
    json_decref(all);
    fake_free(f);
}

// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "base/xalloc.h"
#include "client/cli/cli.h"

enum { PUBLISH_HEADERS_MAX = MR_HEADERS_MAX };
/* Messages on their way: more would wait longer than their deadline. */
#define PUBLISH_WINDOW_BYTES    (8 * MIB)
#define PUBLISH_INPUT_BYTES_MAX (1 * GIB) /* of one message; the cluster's limit is below */

struct publish {
    struct cli *cli;
    const char *mailbox, *file, *key;
    mr_header headers[PUBLISH_HEADERS_MAX];
    size_t headers_count;
    bool lines;
    uint64_t count;
    uint64_t published;
    pthread_mutex_t lock; /* what follows: the callbacks count */
    uint64_t receipted, refused, unknown;
    mr_error first;       /* failure */
    atomic_bool hopeless; /* it would fail for every message */
};

static bool take_header(void *out, const char *value) {
    struct publish *p = out;
    const char *equals = strchr(value, '=');
    if (!equals || equals == value || p->headers_count == PUBLISH_HEADERS_MAX)
        return false;
    char *name = strndup(value, (size_t)(equals - value)); /* see headers_free */
    p->headers[p->headers_count++] = (mr_header){name, equals + 1, strlen(equals + 1)};
    return true;
}

static void failed(struct publish *p, const mr_error *error) {
    pthread_mutex_lock(&p->lock);
    if (!p->refused && !p->unknown)
        p->first = *error;
    if (exit_code_of(error->code) == EXIT_NO_ANSWER)
        p->unknown++;
    else
        p->refused++;
    pthread_mutex_unlock(&p->lock);
    if (error->code == MR_ENOTFOUND || error->code == MR_EDENIED || error->code == MR_EVERSION)
        atomic_store(&p->hopeless, true);
}

static void on_published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    struct publish *p = ctx;
    if (error) {
        failed(p, error);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->receipted++;
    pthread_mutex_unlock(&p->lock);
}

static void publish_one(struct publish *p, const char *payload, size_t size) {
    mr_publication m = {.struct_size = sizeof m,
                        .payload = payload,
                        .payload_size = size,
                        .key = p->key,
                        .key_size = p->key ? strlen(p->key) : 0,
                        .headers = p->headers,
                        .headers_count = p->headers_count};
    mr_error error;
    p->published++;
    if (mr_publish_async(p->cli->client, p->mailbox, &m, MR_TIMEOUT_DEFAULT, 0, on_published, p, &error) !=
        MR_OK)
        failed(p, &error);
}

static void publish_times(struct publish *p, const char *payload, size_t size) {
    for (uint64_t i = 0; i < p->count && !atomic_load(&p->hopeless); i++)
        publish_one(p, payload, size);
}

static int publish_lines(struct publish *p, FILE *in) {
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while (!atomic_load(&p->hopeless) && (size = getline(&line, &room, in)) >= 0)
        publish_one(p, line, (size_t)size - (size > 0 && line[size - 1] == '\n'));
    free(line);
    return ferror(in) ? -1 : 0;
}

static int publish_whole(struct publish *p, FILE *in) {
    char *data = NULL;
    size_t size = 0, room = 0, n;
    do {
        xgrow(&data, &room, size + 65536, 1);
        size += n = fread(data + size, 1, room - size, in);
    } while (n > 0 && size < PUBLISH_INPUT_BYTES_MAX);
    if (!ferror(in))
        publish_times(p, data, size);
    free(data);
    return ferror(in) ? -1 : 0;
}

/* The command's own failure: a file that cannot be read. */
static int input_failed(struct publish *p, const char *name) {
    mr_error error = {.code = MR_EIO};
    snprintf(error.text, sizeof error.text, "%.150s: %s", name, strerror(errno));
    return cli_fail(p->cli, &error);
}

static int publish_input(struct publish *p) {
    FILE *in = p->file ? fopen(p->file, "re") : stdin;
    const char *name = p->file ? p->file : "standard input";
    if (!in)
        return input_failed(p, name);
    int rc = p->lines ? publish_lines(p, in) : publish_whole(p, in);
    int code = rc == 0 ? EXIT_DONE : input_failed(p, name);
    if (p->file)
        fclose(in);
    return code;
}

static int report(struct publish *p) {
    uint64_t bad = p->refused + p->unknown;
    if (p->cli->json) {
        json_t *all = json_pack("{s:I, s:I, s:I}", "published", (json_int_t)p->published, "receipted",
                                (json_int_t)p->receipted, "failed", (json_int_t)bad);
        if (bad)
            json_object_set_new(all, "error", json_error(&p->first));
        json_print(all);
    }
    if (!bad)
        return EXIT_DONE;
    fprintf(stderr, "mailroom publish: %s\n",
            p->first.text[0] ? p->first.text : mr_error_text(p->first.code));
    if (p->published > 1)
        fprintf(stderr, "mailroom publish: %llu of %llu messages failed: %llu refused, %llu unknown\n",
                (unsigned long long)bad, (unsigned long long)p->published, (unsigned long long)p->refused,
                (unsigned long long)p->unknown);
    return p->refused ? EXIT_FAILED : EXIT_NO_ANSWER;
}

static int check(struct publish *p, const struct positionals *args) {
    if (args->count > 1 && (p->file || p->lines))
        return args_wrong(p->cli, p->file ? "--file" : "--lines",
                          "given together with TEXT, expected one of them");
    if (p->lines && p->count != 1)
        return args_wrong(p->cli, "--count", "given together with --lines, expected one of them");
    if (p->key && strlen(p->key) > MR_KEY_BYTES_MAX)
        return args_wrong(p->cli, "--key", "%zu bytes, expected at most %d", strlen(p->key),
                          MR_KEY_BYTES_MAX);
    return args_name(p->cli, "NAME", p->mailbox);
}

static void headers_free(struct publish *p) {
    for (size_t i = 0; i < p->headers_count; i++)
        free((char *)p->headers[i].name);
}

/* Publishes all there is, and waits for the outcomes. */
static int publish_all(struct publish *p, const struct positionals *texts) {
    int code = EXIT_DONE;
    for (size_t i = 1; i < texts->count; i++)
        publish_times(p, texts->items[i], strlen(texts->items[i]));
    if (texts->count == 1)
        code = publish_input(p);
    /* Each message has its deadline: this ends. */
    mr_client_flush(p->cli->client, p->cli->timeout_ms + 2 * CLI_CLOSE_MS, NULL);
    int outcome = report(p);
    return outcome != EXIT_DONE ? outcome : code;
}

static int run(struct cli *cli, char **argv) {
    struct publish p = {.cli = cli, .count = 1, .lock = PTHREAD_MUTEX_INITIALIZER};
    const struct arg args[] = {
        {"--file", ARG_TEXT, &p.file, .expected = "a file's name"},
        {"--lines", ARG_FLAG, &p.lines},
        {"--key", ARG_TEXT, &p.key},
        {"--header", ARG_CUSTOM, &p, .take = take_header, .expected = "K=V, at most 64 times"},
        {"--count", ARG_NUMBER, &p.count, .min = 1},
        {.kind = ARG_END}};
    static struct positionals texts;
    int code = args_parse(cli, args, argv, &texts);
    if (code == EXIT_DONE)
        code = args_count(cli, &texts, 1, CLI_POSITIONALS_MAX, "NAME [TEXT...]");
    if (code == EXIT_DONE) {
        p.mailbox = texts.items[0];
        code = check(&p, &texts);
    }
    if (code == EXIT_DONE)
        code = cli_client(cli, PUBLISH_WINDOW_BYTES);
    if (code == EXIT_DONE)
        code = publish_all(&p, &texts);
    headers_free(&p);
    return code;
}

const struct command command_publish = {
    "publish", "NAME [TEXT...] [--file F] [--lines] [--key K] [--header K=V] [--count N]",
    "publish messages\n"
    "Each TEXT is a message. Without TEXT: standard input, or the file, is one message;\n"
    "with --lines each of its lines is one (the newline taken off).\n"
    "  --file F      read F instead of standard input\n"
    "  --lines       one message a line\n"
    "  --key K       for a mailbox with route or dispatch by key\n"
    "  --header K=V  may be given several times\n"
    "  --count N     publish the same N times\n"
    "Exit code 0: every message is receipted; 1: some were refused; 3: of some it is not\n"
    "known. --json prints {\"published\":N,\"receipted\":N,\"failed\":N}.\n",
    run};

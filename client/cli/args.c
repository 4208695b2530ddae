// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/settings.h"
#include "base/units.h"
#include "client/cli/cli.h"

static const char *prefix(const struct cli *cli) {
    return cli->command ? cli->command->name : "";
}

static void wrong_start(const struct cli *cli) {
    fprintf(stderr, "mailroom%s%s: ", cli->command ? " " : "", prefix(cli));
}

static int wrong_end(const struct cli *cli) {
    fprintf(stderr, "\nTry 'mailroom %s%s--help'.\n", prefix(cli), cli->command ? " " : "");
    return EXIT_USAGE;
}

int args_wrong(const struct cli *cli, const char *name, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    wrong_start(cli);
    fprintf(stderr, "%s: %s", name, text);
    if (cli->json) {
        char all[600];
        snprintf(all, sizeof all, "%.60s: %.512s", name, text);
        json_print(json_pack("{s:{s:s, s:s, s:b}}", "error", "code", "USAGE", "text", all, "retryable", 0));
    }
    return wrong_end(cli);
}

int args_name(const struct cli *cli, const char *what, const char *name) {
    if (name_valid(name))
        return EXIT_DONE;
    return args_wrong(cli, what, "'%.200s' is not a name, expected 1 to 128 of A-Z a-z 0-9 . _ -", name);
}

static bool take_number(const struct arg *a, const char *value) {
    char *end;
    errno = 0;
    uint64_t n = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || n < a->min || (a->max && n > a->max))
        return false;
    *(uint64_t *)a->out = n;
    return true;
}

static bool take_duration(const struct arg *a, const char *value) {
    usec_t t;
    if (!duration_parse(value, &t))
        return false;
    *(int64_t *)a->out = t / USEC_MS;
    return true;
}

static bool take_word(const struct arg *a, const char *value) {
    int v = a->word(value);
    if (v >= 0)
        *(int *)a->out = v;
    return v >= 0;
}

static bool take_value(const struct arg *a, const char *value) {
    switch (a->kind) {
    case ARG_TEXT:
        *(const char **)a->out = value;
        return true;
    case ARG_NUMBER:
        return take_number(a, value);
    case ARG_DURATION:
        return take_duration(a, value);
    case ARG_SIZE:
        return size_parse(value, a->out);
    case ARG_WORD:
        return take_word(a, value);
    default:
        return a->take(a->out, value);
    }
}

static const char *expectation(const struct arg *a) {
    if (a->expected)
        return a->expected;
    switch (a->kind) {
    case ARG_NUMBER:
        return a->min ? "a number from 1" : "a number";
    case ARG_DURATION:
        return "a number with ms, s, m, h or d";
    case ARG_SIZE:
        return "a number of bytes, or one with KiB, MiB or GiB";
    default:
        return "a value";
    }
}

/* `text` is "--name" or "--name=value". */
static const struct arg *arg_find(const struct arg *args, const char *text, const char **value) {
    const char *equals = strchr(text, '=');
    size_t size = equals ? (size_t)(equals - text) : strlen(text);
    for (const struct arg *a = args; a->kind != ARG_END; a++)
        if (strlen(a->name) == size && strncmp(a->name, text, size) == 0) {
            *value = equals ? equals + 1 : NULL;
            return a;
        }
    return NULL;
}

static int arg_take(struct cli *cli, const struct arg *a, const char *value, char ***argv) {
    if (a->kind == ARG_FLAG) {
        if (value)
            return args_wrong(cli, a->name, "'%s' was given, expected no value", value);
        *(bool *)a->out = true;
    } else {
        if (!value)
            value = *++*argv;
        if (!value)
            return args_wrong(cli, a->name, "nothing follows, expected %s", expectation(a));
        if (!take_value(a, value))
            return args_wrong(cli, a->name, "'%.200s', expected %s", value, expectation(a));
    }
    if (a->given)
        *a->given = true;
    return EXIT_DONE;
}

static int positional_take(struct cli *cli, struct positionals *p, char *text) {
    if (p->count == CLI_POSITIONALS_MAX)
        return args_wrong(cli, text, "more than %d arguments", CLI_POSITIONALS_MAX);
    p->items[p->count++] = text;
    return EXIT_DONE;
}

int args_parse(struct cli *cli, const struct arg *args, char **argv, struct positionals *out) {
    const struct arg global[] = {{"--server", ARG_TEXT, &cli->server, .expected = "HOST:PORT[,HOST:PORT...]"},
                                 {"--timeout", ARG_DURATION, &cli->timeout_ms},
                                 {"--json", ARG_FLAG, &cli->json},
                                 {.kind = ARG_END}};
    int code = EXIT_DONE;
    bool options = true;
    out->count = 0;
    for (; *argv && code == EXIT_DONE; argv++) {
        const char *value = NULL;
        if (!options || strncmp(*argv, "--", 2) != 0) {
            code = positional_take(cli, out, *argv);
        } else if (strcmp(*argv, "--") == 0) {
            options = false;
        } else {
            const struct arg *a = arg_find(args, *argv, &value);
            if (!a)
                a = arg_find(global, *argv, &value);
            code = a ? arg_take(cli, a, value, &argv) : args_wrong(cli, *argv, "unknown option");
            if (code == EXIT_DONE && !*argv)
                break;
        }
    }
    return code;
}

int args_count(struct cli *cli, const struct positionals *p, size_t least, size_t most, const char *names) {
    if (p->count > most)
        return args_wrong(cli, p->items[most], "unexpected argument, expected %s", names);
    if (p->count < least)
        return args_wrong(cli, "arguments", "%zu given, expected %s", p->count, names);
    return EXIT_DONE;
}

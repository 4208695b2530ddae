// SPDX-License-Identifier: Apache-2.0
/*
 * The command line tool: a table of commands (main.c), each in a file of its
 * group, over the public library alone.
 *
 * A command parses its arguments with args_parse, opens the client with
 * cli_client, and returns an exit code; failures go through cli_fail, so that
 * they look alike and --json holds everywhere.
 */
#ifndef MAILROOM_CLI_CLI_H
#define MAILROOM_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/include/mailroom.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_ANSWER = 3 };

enum { CLI_TIMEOUT_MS_DEFAULT = 10000, CLI_CLOSE_MS = 2000, CLI_POSITIONALS_MAX = 4096 };

struct command;

struct cli {
    const char *server; /* NULL: the library's default */
    bool json;
    int64_t timeout_ms;
    const struct command *command;
    mr_client *client;
};

struct command {
    const char *name;                         /* "mailbox create" */
    const char *args;                         /* "NAME [--partitions N] ..." */
    const char *help;                         /* first line: summary; then the rest */
    int (*run)(struct cli *cli, char **argv); /* argv: what follows the name, NULL at the end */
};

/* One of each in its file; listed in main.c. */
extern const struct command command_mailbox_create, command_mailbox_update, command_mailbox_list,
    command_mailbox_show, command_mailbox_purge, command_mailbox_delete, command_mailbox_recover,
    command_subscription_create, command_subscription_list, command_subscription_delete, command_publish,
    command_consume, command_cluster_status, command_bench;

/* ---- arguments (args.c) ---- */

enum arg_kind {
    ARG_END,
    ARG_FLAG,     /* bool */
    ARG_TEXT,     /* const char * */
    ARG_NUMBER,   /* uint64_t, between min and max */
    ARG_DURATION, /* int64_t, milliseconds */
    ARG_SIZE,     /* uint64_t, bytes */
    ARG_WORD,     /* int, by `word` */
    ARG_CUSTOM    /* by `take`, may come several times */
};

struct arg {
    const char *name; /* "--partitions" */
    enum arg_kind kind;
    void *out;
    bool *given;                                /* may be NULL */
    const char *expected;                       /* for the message: "1 to 1024" */
    uint64_t min, max;                          /* ARG_NUMBER; max 0: no limit */
    int (*word)(const char *text);              /* -1: not one */
    bool (*take)(void *out, const char *value); /* false: not as expected */
};

struct positionals {
    char *items[CLI_POSITIONALS_MAX];
    size_t count;
};

/* Options anywhere, "--name value" or "--name=value", until "--". The global
 * ones are known too. EXIT_DONE, or EXIT_USAGE after having said what is wrong. */
int args_parse(struct cli *cli, const struct arg *args, char **argv, struct positionals *out);
/* That `count` stand there, called `names` ("NAME TEXT"); EXIT_USAGE else. */
int args_count(struct cli *cli, const struct positionals *p, size_t least, size_t most, const char *names);
/* "--name: <format>"; returns EXIT_USAGE. */
int args_wrong(const struct cli *cli, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A mailbox's, subscription's or node's name: EXIT_USAGE if it is not one. */
int args_name(const struct cli *cli, const char *what, const char *name);

/* ---- output (output.c) ---- */

/* Opens cli->client; an exit code. */
int cli_client(struct cli *cli, size_t buffer_bytes);
/* Another client with the same options. */
int cli_open(struct cli *cli, size_t buffer_bytes, mr_client **client);
void cli_close(struct cli *cli);
/* Says what failed on standard error, and as JSON with --json; the exit code. */
int cli_fail(const struct cli *cli, const mr_error *error);
int exit_code_of(int code);
json_t *json_error(const mr_error *error);
/* One line on standard output; takes the value over. EXIT_DONE or, if it cannot
 * be written, EXIT_FAILED. */
int json_print(json_t *value);
/* Bytes as UTF-8 text under `name`, or base64 under `name`_base64. */
void json_set_bytes(json_t *object, const char *name, const void *data, size_t size);
/* After a success that has nothing to show: {"NAME": value} with --json. */
int cli_done(const struct cli *cli, const char *name, const char *value);
/* Standard output is through: EXIT_FAILED with a word if it could not be written. */
int cli_flush(int code);

/* Settings as options, shared by mailbox create, update and bench (settings.c). */
struct settings_args {
    mr_settings settings;
    const char *dead_letter;
    bool partitions, replicas, durability, route, dispatch, overflow, max_messages, max_bytes, ttl,
        max_deliveries, dead_letter_given, ack_timeout, retain, no_default; /* given */
    uint64_t numbers[3]; /* partitions, replicas, max deliveries as parsed */
};
enum { SETTINGS_ARGS = 14 };
void settings_args_init(struct settings_args *s);
/* Writes SETTINGS_ARGS rows to out. */
void settings_args_table(struct settings_args *s, struct arg *out);
/* Moves what was parsed into s->settings; EXIT_USAGE for names that are none. */
int settings_args_take(struct cli *cli, struct settings_args *s);
bool settings_args_any(const struct settings_args *s);
void json_set_settings(json_t *object, const mr_settings *s);
void print_settings(const mr_settings *s);

#endif

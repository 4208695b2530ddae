// SPDX-License-Identifier: Apache-2.0
/*
 * mailroom: the command line tool.
 *
 * Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 nobody answered in
 * time.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "client/cli/cli.h"

static const struct command *const commands[] = {
    &command_mailbox_create,    &command_mailbox_list,
    &command_mailbox_show,      &command_mailbox_update,
    &command_mailbox_purge,     &command_mailbox_delete,
    &command_mailbox_recover,   &command_subscription_create,
    &command_subscription_list, &command_subscription_delete,
    &command_publish,           &command_consume,
    &command_cluster_status,    &command_bench,
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_summary(const struct command *c) {
    printf("  %-22s %.*s\n", c->name, (int)strcspn(c->help, "\n"), c->help);
}

static int print_help(void) {
    printf("mailroom [--server HOST:PORT[,HOST:PORT...]] [--json] [--timeout DUR] COMMAND\n\n");
    for (size_t i = 0; i < COMMANDS; i++)
        print_summary(commands[i]);
    printf("\n'mailroom COMMAND --help' says the rest.\n\n"
           "  --server   any nodes of the cluster ($MAILROOM_SERVER, else 127.0.0.1:7400)\n"
           "  --json     print JSON, errors too: {\"error\":{\"code\",\"text\",\"retryable\"}}\n"
           "  --timeout  deadline of each request, each published message included (10s)\n\n"
           "DUR is a number with ms, s, m, h or d; SIZE one with KiB, MiB or GiB.\n"
           "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 nobody answered in time.\n");
    return cli_flush(EXIT_DONE);
}

static int print_command_help(const struct command *c) {
    printf("mailroom %s %s\n\n%s", c->name, c->args, c->help);
    return cli_flush(EXIT_DONE);
}

/* How many words of argv name command c: 0 if they do not. */
static size_t matches(const struct command *c, char **argv) {
    const char *name = c->name;
    for (size_t words = 0;; words++) {
        size_t size = strcspn(name, " ");
        if (!argv[words] || strlen(argv[words]) != size || strncmp(argv[words], name, size) != 0)
            return 0;
        if (!name[size])
            return words + 1;
        name += size + 1;
    }
}

static const struct command *find(char **argv, size_t *words) {
    for (size_t i = 0; i < COMMANDS; i++)
        if ((*words = matches(commands[i], argv)))
            return commands[i];
    return NULL;
}

static bool is_group(const char *word) {
    size_t size = strlen(word);
    for (size_t i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i]->name, word, size) == 0 && commands[i]->name[size] == ' ')
            return true;
    return false;
}

static int print_group_help(const char *group) {
    size_t size = strlen(group);
    for (size_t i = 0; i < COMMANDS; i++)
        if (strncmp(commands[i]->name, group, size) == 0 && commands[i]->name[size] == ' ')
            print_summary(commands[i]);
    return cli_flush(EXIT_DONE);
}

/* Before a "--", anything there is data. */
static bool wants_help(char **argv) {
    for (; *argv && strcmp(*argv, "--") != 0; argv++)
        if (strcmp(*argv, "--help") == 0)
            return true;
    return false;
}

/* Options in front of the command; *argv is then at the command. */
static int global_options(struct cli *cli, char ***argv) {
    while (**argv && strncmp(**argv, "--", 2) == 0 && strcmp(**argv, "--help") != 0 &&
           strcmp(**argv, "--version") != 0) {
        bool joined = strchr(**argv, '=') || strcmp(**argv, "--json") == 0;
        char *one[] = {**argv, joined ? NULL : (*argv)[1], NULL};
        const struct arg none[] = {{.kind = ARG_END}};
        struct positionals p;
        int code = args_parse(cli, none, one, &p);
        if (code != EXIT_DONE)
            return code;
        *argv += joined ? 1 : 2;
    }
    return EXIT_DONE;
}

static int unknown(struct cli *cli, char **argv) {
    if (!*argv)
        return args_wrong(cli, "COMMAND", "missing");
    if (is_group(*argv) && argv[1])
        return args_wrong(cli, argv[1], "unknown command of '%s'", *argv);
    return args_wrong(cli, *argv, is_group(*argv) ? "incomplete command" : "unknown command");
}

static int run(struct cli *cli, const struct command *c, char **argv) {
    cli->command = c;
    if (wants_help(argv))
        return print_command_help(c);
    int code = c->run(cli, argv);
    cli_close(cli);
    return cli_flush(code);
}

int main(int argc, char **argv) {
    struct cli cli = {.timeout_ms = CLI_TIMEOUT_MS_DEFAULT};
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of the write */
    argv += argc > 0;
    int code = global_options(&cli, &argv);
    if (code != EXIT_DONE)
        return code;
    size_t words = 0;
    const struct command *c = find(argv, &words);
    if (c)
        return run(&cli, c, argv + words);
    if (*argv && strcmp(*argv, "--version") == 0)
        return printf("mailroom %s\n", mr_version()), cli_flush(EXIT_DONE);
    if (*argv && strcmp(*argv, "--help") == 0)
        return print_help();
    if (*argv && is_group(*argv) && wants_help(argv))
        return print_group_help(*argv);
    return unknown(&cli, argv);
}

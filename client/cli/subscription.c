// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/cli.h"

static const char *const from_names[] = {"new", "first", "offset", "time"};

struct from {
    int from;
    uint64_t value;
};

static bool take_time(struct from *f, const char *value) {
    struct tm tm = {0};
    const char *rest = strptime(value, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest || (strcmp(rest, "Z") != 0 && *rest))
        return false;
    time_t t = timegm(&tm);
    if (t < 0)
        return false;
    f->from = MR_FROM_TIME;
    f->value = (uint64_t)t * 1000000;
    return true;
}

/* new, first, an offset, or a time in UTC. */
static bool take_from(void *out, const char *value) {
    struct from *f = out;
    if (strcmp(value, "new") == 0 || strcmp(value, "first") == 0) {
        f->from = value[0] == 'n' ? MR_FROM_NEW : MR_FROM_FIRST;
        return true;
    }
    char *end;
    errno = 0;
    uint64_t n = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || errno || *end)
        return take_time(f, value);
    f->from = MR_FROM_OFFSET;
    f->value = n;
    return true;
}

static int names_open(struct cli *cli, const struct arg *args, char **argv, struct positionals *p,
                      size_t count) {
    int code = args_parse(cli, args, argv, p);
    if (code == EXIT_DONE)
        code = args_count(cli, p, count, count, count == 2 ? "MAILBOX NAME" : "MAILBOX");
    if (code == EXIT_DONE)
        code = args_name(cli, "MAILBOX", p->items[0]);
    if (code == EXIT_DONE && count == 2)
        code = args_name(cli, "NAME", p->items[1]);
    return code == EXIT_DONE ? cli_client(cli, 0) : code;
}

static int create(struct cli *cli, char **argv) {
    struct from from = {MR_FROM_NEW, 0};
    const struct arg args[] = {{"--from", ARG_CUSTOM, &from, .take = take_from,
                                .expected = "new, first, an offset or a time like 2026-01-31T12:00:00Z"},
                               {.kind = ARG_END}};
    struct positionals p;
    int code = names_open(cli, args, argv, &p, 2);
    if (code != EXIT_DONE)
        return code;
    mr_error error;
    if (mr_subscription_create(cli->client, p.items[0], p.items[1], from.from, from.value, MR_TIMEOUT_DEFAULT,
                               &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "created", p.items[1]);
}

static int delete (struct cli *cli, char **argv) {
    const struct arg none[] = {{.kind = ARG_END}};
    struct positionals p;
    int code = names_open(cli, none, argv, &p, 2);
    if (code != EXIT_DONE)
        return code;
    mr_error error;
    if (mr_subscription_delete(cli->client, p.items[0], p.items[1], MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "deleted", p.items[1]);
}

static const char *from_name(int from) {
    return from >= 0 && from <= MR_FROM_TIME ? from_names[from] : "unknown";
}

static int list_json(const mr_subscription_list *all) {
    json_t *array = json_array();
    for (size_t i = 0; i < all->count; i++) {
        const mr_subscription_info *s = all->subscriptions[i];
        json_array_append_new(array, json_pack("{s:s, s:s, s:I}", "name", s->name, "from", from_name(s->from),
                                               "value", (json_int_t)s->value));
    }
    return json_print(json_pack("{s:o}", "subscriptions", array));
}

static int list_text(const mr_subscription_list *all) {
    for (size_t i = 0; i < all->count; i++) {
        const mr_subscription_info *s = all->subscriptions[i];
        if (s->from == MR_FROM_OFFSET || s->from == MR_FROM_TIME)
            printf("%-24s from %s %" PRIu64 "\n", s->name, from_name(s->from), s->value);
        else
            printf("%-24s from %s\n", s->name, from_name(s->from));
    }
    return EXIT_DONE;
}

static int list(struct cli *cli, char **argv) {
    const struct arg none[] = {{.kind = ARG_END}};
    struct positionals p;
    int code = names_open(cli, none, argv, &p, 1);
    if (code != EXIT_DONE)
        return code;
    const mr_subscription_list *all;
    mr_error error;
    if (mr_subscriptions(cli->client, p.items[0], MR_TIMEOUT_DEFAULT, &all, &error) != MR_OK)
        return cli_fail(cli, &error);
    code = cli->json ? list_json(all) : list_text(all);
    mr_info_free(all);
    return code;
}

const struct command command_subscription_create = {
    "subscription create", "MAILBOX NAME [--from new|first|OFFSET|TIME]",
    "make a subscription: a reader position of its own\n"
    "  --from WHERE          new: what is published from now on (default); first: all that\n"
    "                        is kept; an offset (in each partition); a time in UTC, like\n"
    "                        2026-01-31T12:00:00Z\n",
    create};
const struct command command_subscription_list = {"subscription list", "MAILBOX",
                                                  "list a mailbox's subscriptions\n", list};
const struct command command_subscription_delete = {"subscription delete", "MAILBOX NAME",
                                                    "delete a subscription with its position\n", delete};

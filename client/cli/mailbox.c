// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/cli/cli.h"

/* Arguments are the settings' and a name; then the client. */
static int settings_open(struct cli *cli, char **argv, struct settings_args *s, const char **name) {
    struct arg args[SETTINGS_ARGS + 1] = {0};
    struct positionals p;
    settings_args_init(s);
    settings_args_table(s, args);
    int code = args_parse(cli, args, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 1, 1, "NAME");
    if (code == EXIT_DONE)
        code = args_name(cli, "NAME", *name = p.items[0]);
    if (code == EXIT_DONE)
        code = settings_args_take(cli, s);
    return code;
}

static int create(struct cli *cli, char **argv) {
    struct settings_args s;
    const char *name;
    int code = settings_open(cli, argv, &s, &name);
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code != EXIT_DONE)
        return code;
    mr_error error;
    if (mr_mailbox_create(cli->client, name, &s.settings, MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "created", name);
}

static int update_fixed(struct cli *cli, const struct settings_args *s) {
    const char *fixed = s->partitions   ? "--partitions"
                        : s->replicas   ? "--replicas"
                        : s->durability ? "--durability"
                        : s->route      ? "--route"
                        : s->dispatch   ? "--dispatch"
                        : s->no_default ? "--no-default"
                                        : NULL;
    if (fixed)
        return args_wrong(cli, fixed,
                          "is fixed at creation, expected limits, ttl, ack-timeout, dead-letter or retain");
    if (!settings_args_any(s))
        return args_wrong(cli, "options", "none given, expected at least one setting to change");
    return EXIT_DONE;
}

static unsigned update_fields(const struct settings_args *s) {
    return (s->max_messages ? MR_UPDATE_MAX_MESSAGES : 0) | (s->max_bytes ? MR_UPDATE_MAX_BYTES : 0) |
           (s->ttl ? MR_UPDATE_TTL : 0) | (s->max_deliveries ? MR_UPDATE_MAX_DELIVERIES : 0) |
           (s->dead_letter_given ? MR_UPDATE_DEAD_LETTER : 0) | (s->ack_timeout ? MR_UPDATE_ACK_TIMEOUT : 0) |
           (s->overflow ? MR_UPDATE_OVERFLOW : 0) | (s->retain ? MR_UPDATE_RETAIN : 0);
}

static int update(struct cli *cli, char **argv) {
    struct settings_args s;
    const char *name;
    int code = settings_open(cli, argv, &s, &name);
    if (code == EXIT_DONE)
        code = update_fixed(cli, &s);
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code != EXIT_DONE)
        return code;
    mr_error error;
    if (mr_mailbox_update(cli->client, name, update_fields(&s), &s.settings, MR_TIMEOUT_DEFAULT, &error) !=
        MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "updated", name);
}

/* Commands whose only argument is the mailbox. */
static int name_open(struct cli *cli, char **argv, const char **name) {
    const struct arg none[] = {{.kind = ARG_END}};
    struct positionals p;
    int code = args_parse(cli, none, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 1, 1, "NAME");
    if (code == EXIT_DONE)
        code = args_name(cli, "NAME", *name = p.items[0]);
    return code == EXIT_DONE ? cli_client(cli, 0) : code;
}

static int purge(struct cli *cli, char **argv) {
    const char *name;
    mr_error error;
    int code = name_open(cli, argv, &name);
    if (code != EXIT_DONE)
        return code;
    if (mr_mailbox_purge(cli->client, name, MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "purged", name);
}

static int delete (struct cli *cli, char **argv) {
    const char *name;
    mr_error error;
    int code = name_open(cli, argv, &name);
    if (code != EXIT_DONE)
        return code;
    if (mr_mailbox_delete(cli->client, name, MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "deleted", name);
}

static int recover(struct cli *cli, char **argv) {
    const char *node = NULL;
    bool accept = false;
    const struct arg args[] = {{"--from", ARG_TEXT, &node, .expected = "a node's name"},
                               {"--accept-loss", ARG_FLAG, &accept},
                               {.kind = ARG_END}};
    struct positionals p;
    int code = args_parse(cli, args, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 1, 1, "NAME");
    if (code == EXIT_DONE)
        code = args_name(cli, "NAME", p.items[0]);
    if (code == EXIT_DONE)
        code = node ? args_name(cli, "--from", node)
                    : args_wrong(cli, "--from", "missing, expected a node's name");
    if (code == EXIT_DONE && !accept)
        code = args_wrong(cli, "--accept-loss", "missing: what only other nodes have will be lost");
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code != EXIT_DONE)
        return code;
    mr_error error;
    if (mr_mailbox_recover(cli->client, p.items[0], node, MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        return cli_fail(cli, &error);
    return cli_done(cli, "recovered", p.items[0]);
}

/* --- list ------------------------------------------------------------------- */

static int list_json(const mr_mailbox_list *list) {
    json_t *all = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const mr_mailbox_info *m = list->mailboxes[i];
        json_t *one =
            json_pack("{s:s, s:I}", "name", m->name, "partitions", (json_int_t)m->settings->partitions);
        json_set_settings(one, m->settings);
        json_array_append_new(all, one);
    }
    return json_print(json_pack("{s:o}", "mailboxes", all));
}

static int list_text(const mr_mailbox_list *list) {
    if (list->count)
        printf("%-24s %10s %8s %-10s %-12s %s\n", "NAME", "PARTITIONS", "REPLICAS", "DURABILITY", "ROUTE",
               "DISPATCH");
    for (size_t i = 0; i < list->count; i++) {
        const mr_settings *s = list->mailboxes[i]->settings;
        printf("%-24s %10u %8u %-10s %-12s %s\n", list->mailboxes[i]->name, s->partitions, s->replicas,
               mr_durability_name(s->durability), mr_route_name(s->route), mr_dispatch_name(s->dispatch));
    }
    return EXIT_DONE;
}

static int list(struct cli *cli, char **argv) {
    const struct arg none[] = {{.kind = ARG_END}};
    struct positionals p;
    int code = args_parse(cli, none, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 0, 0, "none");
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code != EXIT_DONE)
        return code;
    const mr_mailbox_list *all;
    mr_error error;
    if (mr_mailboxes(cli->client, MR_TIMEOUT_DEFAULT, &all, &error) != MR_OK)
        return cli_fail(cli, &error);
    code = cli->json ? list_json(all) : list_text(all);
    mr_info_free(all);
    return code;
}

/* --- show ------------------------------------------------------------------- */

static json_t *consumer_json(const mr_consumer_info *k) {
    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "id", k->id, "client", k->client, "credit",
                     (json_int_t)k->credit, "leased", (json_int_t)k->leased, "delivered",
                     (json_int_t)k->delivered);
}

static json_t *subscription_json(const mr_subscription_state *s) {
    json_t *consumers = json_array();
    for (size_t i = 0; i < s->consumers_count; i++)
        json_array_append_new(consumers, consumer_json(s->consumers[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "name", s->name,
                     "reason", s->reason, "published", (json_int_t)s->published, "ready",
                     (json_int_t)s->ready, "leased", (json_int_t)s->leased, "delayed", (json_int_t)s->delayed,
                     "dying", (json_int_t)s->dying, "acked", (json_int_t)s->acked, "dead",
                     (json_int_t)s->dead, "expired", (json_int_t)s->expired, "dropped",
                     (json_int_t)s->dropped, "purged", (json_int_t)s->purged, "consumers", consumers);
}

static json_t *partition_json(const mr_partition_info *p) {
    json_t *replicas = json_array(), *subscriptions = json_array();
    for (size_t i = 0; i < p->replicas_count; i++)
        json_array_append_new(replicas, json_string(p->replicas[i]));
    for (size_t i = 0; i < p->subscriptions_count; i++)
        json_array_append_new(subscriptions, subscription_json(p->subscriptions[i]));
    return json_pack("{s:I, s:s, s:o, s:I, s:s, s:I, s:I, s:o}", "partition", (json_int_t)p->partition,
                     "leader", p->leader, "replicas", replicas, "epoch", (json_int_t)p->epoch, "state",
                     p->state, "messages", (json_int_t)p->messages, "bytes", (json_int_t)p->bytes,
                     "subscriptions", subscriptions);
}

static int show_json(const mr_mailbox_info *m) {
    json_t *partitions = json_array();
    for (size_t i = 0; i < m->partitions_count; i++)
        json_array_append_new(partitions, partition_json(m->partitions[i]));
    json_t *all = json_pack("{s:s, s:o}", "name", m->name, "partitions", partitions);
    json_set_settings(all, m->settings);
    return json_print(all);
}

static void subscription_text(const mr_subscription_state *s) {
    printf("    %s: published %" PRIu64 ", ready %" PRIu64 ", leased %" PRIu64 ", delayed %" PRIu64
           ", dying %" PRIu64 ", acked %" PRIu64 ", dead %" PRIu64 ", expired %" PRIu64 ", dropped %" PRIu64
           ", purged %" PRIu64 "%s%s\n",
           s->name, s->published, s->ready, s->leased, s->delayed, s->dying, s->acked, s->dead, s->expired,
           s->dropped, s->purged, s->reason[0] ? ": " : "", s->reason);
    for (size_t i = 0; i < s->consumers_count; i++) {
        const mr_consumer_info *k = s->consumers[i];
        printf("      consumer %.8s %s: credit %u, leased %" PRIu64 ", delivered %" PRIu64 "\n", k->id,
               k->client, k->credit, k->leased, k->delivered);
    }
}

static int show_text(const mr_mailbox_info *m) {
    printf("%s\n", m->name);
    print_settings(m->settings);
    for (size_t i = 0; i < m->partitions_count; i++) {
        const mr_partition_info *p = m->partitions[i];
        printf("  partition %u: %s, leader %s, replicas", p->partition, p->state,
               p->leader[0] ? p->leader : "none");
        for (size_t r = 0; r < p->replicas_count; r++)
            printf(" %s", p->replicas[r]);
        printf(", epoch %" PRIu64 ", %" PRIu64 " messages, %" PRIu64 " bytes\n", p->epoch, p->messages,
               p->bytes);
        for (size_t s = 0; s < p->subscriptions_count; s++)
            subscription_text(p->subscriptions[s]);
    }
    return EXIT_DONE;
}

static int show(struct cli *cli, char **argv) {
    const char *name;
    mr_error error;
    int code = name_open(cli, argv, &name);
    if (code != EXIT_DONE)
        return code;
    const mr_mailbox_info *info;
    if (mr_mailbox_show(cli->client, name, MR_TIMEOUT_DEFAULT, &info, &error) != MR_OK)
        return cli_fail(cli, &error);
    code = cli->json ? show_json(info) : show_text(info);
    mr_info_free(info);
    return code;
}

/* --- the table -------------------------------------------------------------- */

#define LIMITS_HELP                                                                                          \
    "  --max-messages N      unsettled messages at most (0: no limit)\n"                                     \
    "  --max-bytes SIZE      and bytes (0: no limit)\n"                                                      \
    "  --overflow WORD       at the limit: reject (default) or drop-oldest\n"                                \
    "  --ttl DUR             messages not settled by then expire (0s: never)\n"                              \
    "  --max-deliveries N    attempts, then the dead-letter mailbox (0: no limit)\n"                         \
    "  --dead-letter NAME    where rejected messages go\n"                                                   \
    "  --ack-timeout DUR     a delivery not settled by then is given to another (30s)\n"                     \
    "  --retain DUR|SIZE     keep settled messages as long, or as many bytes\n"

const struct command command_mailbox_create = {
    "mailbox create",
    "NAME [--partitions N] [--replicas N] [--durability synced|written|none]\n"
    "         [--route round-robin|least-loaded|key] [--dispatch round-robin|least-loaded|key|exclusive]\n"
    "         [--max-messages N] [--max-bytes SIZE] [--overflow reject|drop-oldest] [--ttl DUR]\n"
    "         [--max-deliveries N] [--dead-letter NAME] [--ack-timeout DUR] [--retain DUR|SIZE] "
    "[--no-default]",
    "make a mailbox\n"
    "  --partitions N        1 to 1024, fixed (1)\n"
    "  --replicas N          copies wanted (3; fewer while the cluster has fewer nodes)\n"
    "  --durability WORD     a receipt means: synced by a majority (default), written by a\n"
    "                        majority, or none: in memory, at most once\n"
    "  --route WORD          how publishers choose a partition (round-robin)\n"
    "  --dispatch WORD       how consumers share messages (round-robin)\n" LIMITS_HELP
    "  --no-default          without the subscription \"default\"\n"
    "The same settings again are no error; other settings are.\n",
    create};

const struct command command_mailbox_update = {
    "mailbox update",
    "NAME [--max-messages N] [--max-bytes SIZE] [--overflow WORD] [--ttl DUR] [--max-deliveries N]\n"
    "         [--dead-letter NAME] [--ack-timeout DUR] [--retain DUR|SIZE]",
    "change settings of a mailbox\n" LIMITS_HELP "Those not named stay. --dead-letter '' takes it away.\n",
    update};

const struct command command_mailbox_list = {"mailbox list", "", "list the mailboxes\n", list};
const struct command command_mailbox_show = {
    "mailbox show", "NAME",
    "show a mailbox: settings, partitions, subscriptions, consumers\n"
    "Whatever does not move names its reason: no-consumer, no-credit, key-blocked,\n"
    "no-majority, quarantined, damaged, disk-full.\n",
    show};
const struct command command_mailbox_purge = {
    "mailbox purge", "NAME", "throw away all messages that are not settled, leased ones included\n", purge};
const struct command command_mailbox_delete = {"mailbox delete", "NAME",
                                               "delete a mailbox with all its messages\n", delete};
const struct command command_mailbox_recover = {
    "mailbox recover", "NAME --from NODE --accept-loss",
    "last resort: go on with one node's copy\n"
    "For a mailbox that has lost the majority of its replicas for good. What only\n"
    "other nodes had is lost.\n",
    recover};

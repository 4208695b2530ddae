// SPDX-License-Identifier: Apache-2.0
/* A mailbox's settings as options, as JSON and as text. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "client/cli/cli.h"

/* "--retain DUR|SIZE": a bare number is bytes, as everywhere. */
static bool take_retain(void *out, const char *value) {
    mr_settings *s = out;
    usec_t t;
    uint64_t bytes;
    if (duration_parse(value, &t)) {
        s->retain_ms = t / USEC_MS;
        s->retain_bytes = 0;
        return true;
    }
    if (!size_parse(value, &bytes))
        return false;
    s->retain_bytes = bytes;
    s->retain_ms = 0;
    return true;
}

void settings_args_init(struct settings_args *s) {
    memset(s, 0, sizeof *s);
    mr_settings_init(&s->settings);
}

void settings_args_table(struct settings_args *a, struct arg *out) {
    mr_settings *s = &a->settings;
    const struct arg rows[SETTINGS_ARGS] = {
        {"--partitions", ARG_NUMBER, &a->numbers[0], &a->partitions, "1 to 1024", 1, 1024},
        {"--replicas", ARG_NUMBER, &a->numbers[1], &a->replicas, "1 to 7", 1, 7},
        {"--durability", ARG_WORD, &s->durability, &a->durability, "synced, written or none",
         .word = mr_durability_parse},
        {"--route", ARG_WORD, &s->route, &a->route, "round-robin, least-loaded or key",
         .word = mr_route_parse},
        {"--dispatch", ARG_WORD, &s->dispatch, &a->dispatch, "round-robin, least-loaded, key or exclusive",
         .word = mr_dispatch_parse},
        {"--overflow", ARG_WORD, &s->overflow, &a->overflow, "reject or drop-oldest",
         .word = mr_overflow_parse},
        {"--max-messages", ARG_NUMBER, &s->max_messages, &a->max_messages},
        {"--max-bytes", ARG_SIZE, &s->max_bytes, &a->max_bytes},
        {"--ttl", ARG_DURATION, &s->ttl_ms, &a->ttl},
        {"--max-deliveries", ARG_NUMBER, &a->numbers[2], &a->max_deliveries, "0 to 4294967295", 0,
         UINT32_MAX},
        {"--dead-letter", ARG_TEXT, &a->dead_letter, &a->dead_letter_given, "a mailbox's name"},
        {"--ack-timeout", ARG_DURATION, &s->ack_timeout_ms, &a->ack_timeout},
        {"--retain", ARG_CUSTOM, s, &a->retain, "a duration (1h) or a size (1GiB)", .take = take_retain},
        {"--no-default", ARG_FLAG, &a->no_default},
    };
    memcpy(out, rows, sizeof rows);
}

int settings_args_take(struct cli *cli, struct settings_args *a) {
    mr_settings *s = &a->settings;
    if (a->partitions)
        s->partitions = (uint32_t)a->numbers[0];
    if (a->replicas)
        s->replicas = (uint32_t)a->numbers[1];
    if (a->max_deliveries)
        s->max_deliveries = (uint32_t)a->numbers[2];
    s->no_default = a->no_default;
    if (!a->dead_letter || !*a->dead_letter)
        return EXIT_DONE; /* "" takes it away */
    int code = args_name(cli, "--dead-letter", a->dead_letter);
    if (code == EXIT_DONE)
        snprintf(s->dead_letter, sizeof s->dead_letter, "%s", a->dead_letter);
    return code;
}

bool settings_args_any(const struct settings_args *a) {
    return a->partitions || a->replicas || a->durability || a->route || a->dispatch || a->overflow ||
           a->max_messages || a->max_bytes || a->ttl || a->max_deliveries || a->dead_letter_given ||
           a->ack_timeout || a->retain || a->no_default;
}

void json_set_settings(json_t *object, const mr_settings *s) {
    json_t *all =
        json_pack("{s:I, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:b}", "replicas",
                  (json_int_t)s->replicas, "durability", mr_durability_name(s->durability), "route",
                  mr_route_name(s->route), "dispatch", mr_dispatch_name(s->dispatch), "overflow",
                  mr_overflow_name(s->overflow), "max_messages", (json_int_t)s->max_messages, "max_bytes",
                  (json_int_t)s->max_bytes, "ttl_ms", (json_int_t)s->ttl_ms, "max_deliveries",
                  (json_int_t)s->max_deliveries, "dead_letter", s->dead_letter, "ack_timeout_ms",
                  (json_int_t)s->ack_timeout_ms, "retain_ms", (json_int_t)s->retain_ms, "retain_bytes",
                  (json_int_t)s->retain_bytes, "no_default", s->no_default);
    json_object_update(object, all);
    json_decref(all);
}

static void print_duration(const char *name, int64_t ms) {
    char text[32];
    if (ms)
        printf("  %-15s %s\n", name, duration_format(ms * USEC_MS, text));
}

static void print_size(const char *name, uint64_t bytes) {
    char text[32];
    if (bytes)
        printf("  %-15s %s\n", name, size_format(bytes, text));
}

static void print_number(const char *name, uint64_t n) {
    if (n)
        printf("  %-15s %" PRIu64 "\n", name, n);
}

void print_settings(const mr_settings *s) {
    print_number("replicas", s->replicas);
    printf("  %-15s %s\n", "durability", mr_durability_name(s->durability));
    printf("  %-15s %s\n", "route", mr_route_name(s->route));
    printf("  %-15s %s\n", "dispatch", mr_dispatch_name(s->dispatch));
    printf("  %-15s %s\n", "overflow", mr_overflow_name(s->overflow));
    print_number("max-messages", s->max_messages);
    print_size("max-bytes", s->max_bytes);
    print_duration("ttl", s->ttl_ms);
    print_number("max-deliveries", s->max_deliveries);
    if (s->dead_letter[0])
        printf("  %-15s %s\n", "dead-letter", s->dead_letter);
    print_duration("ack-timeout", s->ack_timeout_ms);
    print_duration("retain", s->retain_ms);
    print_size("retain", s->retain_bytes);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Consume: what is printed and has left this process is acked; what is not is
 * released. So a round prints what has come (at most CONSUME_ROUND messages),
 * flushes, and acks.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"
#include "base/xalloc.h"
#include "client/cli/cli.h"

enum {
    CONSUME_ROUND = 256,
    CONSUME_CREDIT_DEFAULT = 100,
    CONSUME_CREDIT_MAX = 1000000,
    FORMAT_RAW = 0,
    FORMAT_JSON = 1
};
#define CONSUME_ROUND_BYTES (1 * MIB)

struct consume {
    struct cli *cli;
    const char *mailbox, *subscription;
    uint64_t count;
    int64_t wait_ms;
    bool wait_given, no_ack;
    uint64_t credit;
    int format;
    mr_consumer *consumer;
    int signals; /* descriptor */
    uint64_t printed;
    mr_message *round[CONSUME_ROUND]; /* printed, not flushed */
    size_t round_count;
    mr_message **kept; /* --no-ack: until the end, or they would come again */
    size_t kept_count, kept_capacity;
    int64_t last_ms; /* when something came last */
    mr_error error;  /* why it ended, MR_OK: nothing wrong */
    bool interrupted, closed_pipe;
};

static int parse_format(const char *word) {
    return strcmp(word, "raw") == 0 ? FORMAT_RAW : strcmp(word, "json") == 0 ? FORMAT_JSON : -1;
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- printing --------------------------------------------------------------- */

static json_t *headers_json(const mr_message *m) {
    json_t *all = json_object();
    const char *name;
    const void *value;
    size_t name_size, value_size;
    for (size_t i = 0; mr_message_header(m, i, &name, &name_size, &value, &value_size) == 0; i++) {
        char text[256];
        snprintf(text, sizeof text, "%.*s", (int)(name_size < 255 ? name_size : 255), name);
        json_set_bytes(all, text, value, value_size);
    }
    return all;
}

static json_t *time_json(int64_t us) {
    char text[64], whole[32];
    time_t s = us / 1000000;
    struct tm tm;
    gmtime_r(&s, &tm);
    strftime(whole, sizeof whole, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof text, "%s.%06dZ", whole, (int)(us % 1000000));
    return json_string(text);
}

static int print_json(const mr_message *m) {
    size_t size;
    json_t *all = json_pack("{s:s, s:I, s:I}", "mailbox", mr_message_mailbox(m), "partition",
                            (json_int_t)mr_message_partition(m), "offset", (json_int_t)mr_message_offset(m));
    const void *key = mr_message_key(m, &size);
    if (size)
        json_set_bytes(all, "key", key, size);
    else
        json_object_set_new(all, "key", json_null());
    json_object_set_new(all, "headers", headers_json(m));
    const void *body = mr_message_payload(m, &size);
    json_set_bytes(all, "body", body, size);
    json_object_set_new(all, "attempt", json_integer((json_int_t)mr_message_attempt(m)));
    json_object_set_new(all, "time", time_json(mr_message_time_us(m)));
    return json_print(all);
}

static int print_raw(const mr_message *m) {
    size_t size;
    const void *body = mr_message_payload(m, &size);
    bool written = fwrite(body, 1, size, stdout) == size && putchar('\n') != EOF;
    return written ? EXIT_DONE : EXIT_FAILED;
}

/* --- a round ---------------------------------------------------------------- */

static void output_broken(struct consume *c) {
    if (errno == EPIPE)
        c->closed_pipe = true;
    else
        c->error.code = MR_EIO;
    snprintf(c->error.text, sizeof c->error.text, "standard output: %s", strerror(errno));
    clearerr(stdout);
}

static void keep(struct consume *c, mr_message *m) {
    xgrow(&c->kept, &c->kept_capacity, c->kept_count + 1, sizeof *c->kept);
    c->kept[c->kept_count++] = m;
}

/* Freed without an ack, a message is released. */
static void round_end(struct consume *c, bool written) {
    for (size_t i = 0; i < c->round_count; i++) {
        mr_message *m = c->round[i];
        if (written)
            c->printed++;
        if (written && c->no_ack) {
            keep(c, m);
            continue;
        }
        if (written)
            mr_ack(m);
        mr_message_free(m);
    }
    c->round_count = 0;
}

static bool enough(const struct consume *c) {
    return c->count && c->printed + c->round_count >= c->count;
}

/* Prints and acks what is there; false: the end, for whatever reason. */
static bool round_run(struct consume *c) {
    size_t bytes = 0, size;
    bool written = true;
    int code = MR_OK;
    while (written && c->round_count < CONSUME_ROUND && bytes < CONSUME_ROUND_BYTES && !enough(c)) {
        mr_message *m;
        code = mr_consumer_next(c->consumer, 0, &m, &c->error);
        if (code != MR_OK)
            break;
        c->round[c->round_count++] = m;
        written = (c->format == FORMAT_JSON ? print_json(m) : print_raw(m)) == EXIT_DONE;
        mr_message_payload(m, &size);
        bytes += size;
    }
    if (code == MR_ETIMEOUT)
        c->error = (mr_error){.code = MR_OK};
    if (c->round_count) {
        written = written && fflush(stdout) == 0;
        if (!written)
            output_broken(c);
        round_end(c, written);
        c->last_ms = now_ms();
    }
    return written && (code == MR_OK || code == MR_ETIMEOUT) && !enough(c);
}

/* --- waiting ---------------------------------------------------------------- */

/* Until there is something to do. False: interrupted, nobody reads, or nothing
 * came for the time given. */
static bool wait_more(struct consume *c) {
    struct pollfd fds[] = {{.fd = mr_consumer_fd(c->consumer), .events = POLLIN},
                           {.fd = c->signals, .events = POLLIN},
                           {.fd = STDOUT_FILENO, .events = 0}}; /* only POLLERR: the reader has gone */
    int64_t left = c->wait_given ? c->last_ms + c->wait_ms - now_ms() : -1;
    if (c->wait_given && left < 0)
        left = 0;
    int n = poll(fds, 3, left > INT32_MAX ? INT32_MAX : (int)left);
    if (n < 0 && errno != EINTR)
        return false;
    if (n > 0 && fds[1].revents)
        c->interrupted = true;
    else if (n > 0 && fds[2].revents & (POLLERR | POLLHUP))
        c->closed_pipe = true;
    else
        return n != 0 || !c->wait_given || now_ms() - c->last_ms < c->wait_ms;
    return false;
}

static int signals_open(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* --- the command ------------------------------------------------------------ */

static int outcome(struct consume *c) {
    bool met = !c->count || c->printed >= c->count;
    if (c->error.code != MR_OK)
        return cli_fail(c->cli, &c->error);
    if (met)
        return EXIT_DONE;
    bool late = !c->interrupted && !c->closed_pipe;
    mr_error error = {.code = late ? MR_ETIMEOUT : MR_ECANCELLED, .advice = MR_RETRYABLE};
    snprintf(error.text, sizeof error.text, "%" PRIu64 " of %" PRIu64 " messages: %s", c->printed, c->count,
             late             ? "nothing more came in time"
             : c->interrupted ? "interrupted"
                              : "nobody reads the output");
    fprintf(stderr, "mailroom consume: %s\n", error.text);
    if (c->cli->json && !c->closed_pipe)
        json_print(json_pack("{s:o}", "error", json_error(&error)));
    return late ? EXIT_NO_ANSWER : EXIT_FAILED;
}

static int leave(struct consume *c) {
    for (size_t i = 0; i < c->kept_count; i++)
        mr_message_free(c->kept[i]);
    free(c->kept);
    mr_error error;
    int code = mr_consumer_close(c->consumer, c->cli->timeout_ms, &error);
    int result = outcome(c);
    if (code != MR_OK && result == EXIT_DONE)
        return cli_fail(c->cli, &error); /* an ack is not confirmed: it may come again */
    return result;
}

static int consume(struct consume *c) {
    mr_consumer_options o = {
        .struct_size = sizeof o, .subscription = c->subscription, .credit = (uint32_t)c->credit};
    c->signals = signals_open();
    int code = cli_client(c->cli, 0);
    if (code != EXIT_DONE)
        return code;
    if (mr_consumer_open(c->cli->client, c->mailbox, &o, MR_TIMEOUT_DEFAULT, &c->consumer, &c->error) !=
        MR_OK)
        return cli_fail(c->cli, &c->error);
    c->last_ms = now_ms();
    while (round_run(c) && wait_more(c)) {
    }
    return leave(c);
}

/* No more is fetched than is wanted: others may want the rest. */
static void fit_credit(struct consume *c, bool given) {
    if (!given)
        c->credit = CONSUME_CREDIT_DEFAULT;
    if (c->count && c->credit > c->count)
        c->credit = c->count;
    if (c->count && c->no_ack && !given)
        c->credit = c->count < CONSUME_CREDIT_MAX ? c->count : CONSUME_CREDIT_MAX;
}

static int run(struct cli *cli, char **argv) {
    static struct consume c;
    bool credit_given = false, format_given = false;
    c = (struct consume){.cli = cli};
    const struct arg args[] = {
        {"--subscription", ARG_TEXT, &c.subscription, .expected = "a subscription's name"},
        {"--count", ARG_NUMBER, &c.count, .min = 1},
        {"--wait", ARG_DURATION, &c.wait_ms, &c.wait_given},
        {"--credit", ARG_NUMBER, &c.credit, &credit_given, "1 to 1000000", 1, CONSUME_CREDIT_MAX},
        {"--format", ARG_WORD, &c.format, &format_given, "raw or json", .word = parse_format},
        {"--no-ack", ARG_FLAG, &c.no_ack},
        {.kind = ARG_END}};
    static struct positionals p;
    int code = args_parse(cli, args, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 1, 1, "NAME");
    if (code == EXIT_DONE)
        code = args_name(cli, "NAME", c.mailbox = p.items[0]);
    if (code == EXIT_DONE && c.subscription)
        code = args_name(cli, "--subscription", c.subscription);
    if (code != EXIT_DONE)
        return code;
    if (cli->json && !format_given)
        c.format = FORMAT_JSON;
    fit_credit(&c, credit_given);
    return consume(&c);
}

const struct command command_consume = {
    "consume", "NAME [--subscription S] [--count N] [--wait DUR] [--credit N] [--format raw|json] [--no-ack]",
    "print messages and ack them\n"
    "Acks what it has printed, releases what it has not, also when it is interrupted or\n"
    "nobody reads its output.\n"
    "  --subscription S  instead of \"default\"\n"
    "  --count N         end after N messages (exit 0)\n"
    "  --wait DUR        end when nothing came for so long (exit 0; 3 before --count is met)\n"
    "  --credit N        messages fetched ahead at most (100)\n"
    "  --format WORD     raw: each message and a newline; json: an object a line with mailbox,\n"
    "                    partition, offset, key, headers, body (body_base64 where it is not\n"
    "                    UTF-8), attempt, time\n"
    "  --no-ack          look only: release all at the end; sees as many as its credit\n",
    run};

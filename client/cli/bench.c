// SPDX-License-Identifier: Apache-2.0
/*
 * bench: publishers and consumers, each a client of its own, and one JSON object
 * at the end.
 *
 * A payload begins with a stamp: magic, run, publisher, number, and the time it
 * was due (CLOCK_BOOTTIME, which all processes of the machine share). By it the
 * consumers tell latency, what is lost and what came twice. With --rate a
 * message's time is the scheduled one, so that a stall is seen whole.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/units.h"
#include "base/xalloc.h"
#include "client/cli/cli.h"
#include "client/cli/histogram.h"

enum {
    BENCH_STAMP_BYTES = 32,
    BENCH_MAGIC = 0x6d726231,
    BENCH_THREADS_MAX = 256,
    BENCH_TICK_MS = 100,  /* how often consumers look whether it is over */
    BENCH_LINGER_MS = 500 /* --verify: waits for what comes twice */
};
#define BENCH_COUNT_MAX    1000000000
#define BENCH_BUFFER_BYTES (64 * MIB)

enum bench_what { BENCH_PUBLISH = 1, BENCH_CONSUME = 2, BENCH_BOTH = 3 };

struct bench {
    struct cli *cli;
    const char *mailbox;
    int what;
    uint64_t size, count, window, rate, publishers, consumers;
    bool verify;
    atomic_uint_fast64_t run; /* random, in each stamp; consume: of the first message, 0: none yet */
    usec_t start;
    atomic_uint_fast8_t *seen; /* --verify: a bit for each number */
    atomic_uint_fast64_t delivered, distinct, duplicates, alien;
    atomic_uint_fast64_t receipted_all;
    atomic_bool published_all;
    pthread_mutex_t lock;
    mr_error first; /* failure */
};

struct publisher {
    struct bench *bench;
    pthread_t thread;
    mr_client *client;
    uint64_t first, count; /* numbers */
    pthread_mutex_t lock;
    pthread_cond_t room;
    uint64_t published, receipted, refused, unknown, flying;
    usec_t ended;
    struct histogram latency;
};

struct consumer {
    struct bench *bench;
    pthread_t thread;
    mr_client *client;
    mr_consumer *consumer;
    usec_t ended; /* last message */
    bool failed;
    struct histogram latency;
};

static usec_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (usec_t)t.tv_sec * USEC_S + t.tv_nsec / 1000;
}

static void note(struct bench *b, const mr_error *error) {
    pthread_mutex_lock(&b->lock);
    if (b->first.code == MR_OK)
        b->first = *error;
    pthread_mutex_unlock(&b->lock);
}

/* --- publishing -------------------------------------------------------------- */

struct shot { /* one message on its way */
    struct publisher *publisher;
    usec_t due;
};

static void on_published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    struct shot *s = ctx;
    struct publisher *p = s->publisher;
    usec_t now = now_us();
    pthread_mutex_lock(&p->lock);
    if (receipt) {
        p->receipted++;
        histogram_record(&p->latency, now - s->due);
    } else if (exit_code_of(error->code) == EXIT_NO_ANSWER) {
        p->unknown++;
    } else {
        p->refused++;
    }
    p->ended = now;
    p->flying--;
    pthread_cond_signal(&p->room);
    pthread_mutex_unlock(&p->lock);
    if (error)
        note(p->bench, error);
    free(s);
}

/* Wait for a point in time, by a timer of the thread's own. */
static void wait_until(usec_t due) {
    static _Thread_local int timer = -1;
    struct itimerspec at = {.it_value = {.tv_sec = due / USEC_S, .tv_nsec = due % USEC_S * 1000}};
    uint64_t expirations;
    if (due <= now_us())
        return;
    if (timer < 0)
        timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);
    if (timer >= 0 && timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL) == 0)
        while (read(timer, &expirations, sizeof expirations) < 0 && errno == EINTR) {
        }
}

/* When message i of this publisher is due: the publishers take turns. */
static usec_t due_of(const struct publisher *p, uint64_t i) {
    const struct bench *b = p->bench;
    if (!b->rate)
        return now_us();
    usec_t due = b->start + (usec_t)((double)i * (double)b->publishers * 1e6 / (double)b->rate);
    wait_until(due);
    return due;
}

static void stamp(const struct publisher *p, uint8_t *payload, uint64_t number, usec_t due) {
    if (p->bench->size < BENCH_STAMP_BYTES)
        return;
    put_u32(payload, BENCH_MAGIC);
    put_u32(payload + 4, 0);
    put_u64(payload + 8, atomic_load(&p->bench->run));
    put_u64(payload + 16, number);
    put_u64(payload + 24, (uint64_t)due);
}

static void wait_for_room(struct publisher *p) {
    pthread_mutex_lock(&p->lock);
    while (p->flying >= p->bench->window)
        pthread_cond_wait(&p->room, &p->lock); /* each has its deadline: this ends */
    p->flying++;
    p->published++;
    pthread_mutex_unlock(&p->lock);
}

static void publish_one(struct publisher *p, uint8_t *payload, uint64_t i) {
    struct bench *b = p->bench;
    struct shot *s = xmalloc(sizeof *s);
    *s = (struct shot){p, due_of(p, i)};
    wait_for_room(p);
    if (!b->rate)
        s->due = now_us();
    stamp(p, payload, p->first + i, s->due);
    mr_publication m = {.struct_size = sizeof m, .payload = payload, .payload_size = b->size};
    mr_error error;
    if (mr_publish_async(p->client, b->mailbox, &m, MR_TIMEOUT_DEFAULT, 0, on_published, s, &error) != MR_OK)
        on_published(s, NULL, &error);
}

static void *publisher_main(void *arg) {
    struct publisher *p = arg;
    uint8_t *payload = xmalloc(p->bench->size);
    memset(payload, 'x', p->bench->size);
    for (uint64_t i = 0; i < p->count; i++)
        publish_one(p, payload, i);
    mr_client_flush(p->client, p->bench->cli->timeout_ms + 2 * CLI_CLOSE_MS, NULL);
    free(payload);
    return NULL;
}

/* --- consuming --------------------------------------------------------------- */

/* The stamp's number if the message is one of this run. */
static bool read_stamp(struct bench *b, const mr_message *m, uint64_t *number, usec_t *due) {
    size_t size;
    const uint8_t *payload = mr_message_payload(m, &size);
    if (size < BENCH_STAMP_BYTES || get_u32(payload) != BENCH_MAGIC)
        return false;
    uint_fast64_t run = get_u64(payload + 8), none = 0;
    bool ours = atomic_load(&b->run) == run || atomic_compare_exchange_strong(&b->run, &none, run);
    *number = get_u64(payload + 16);
    *due = (usec_t)get_u64(payload + 24);
    return ours && *number < b->count;
}

static void check_seen(struct bench *b, uint64_t number) {
    uint8_t bit = (uint8_t)(1u << number % 8);
    if (b->seen && atomic_fetch_or(&b->seen[number / 8], bit) & bit)
        atomic_fetch_add(&b->duplicates, 1);
    else
        atomic_fetch_add(&b->distinct, 1);
}

static void took(struct consumer *k, mr_message *m) {
    struct bench *b = k->bench;
    uint64_t number;
    usec_t due;
    k->ended = now_us();
    atomic_fetch_add(&b->delivered, 1);
    if (read_stamp(b, m, &number, &due)) {
        histogram_record(&k->latency, k->ended - due);
        check_seen(b, number);
    } else {
        atomic_fetch_add(b->size < BENCH_STAMP_BYTES || b->what == BENCH_CONSUME ? &b->distinct : &b->alien,
                         1);
    }
    mr_ack(m);
    mr_message_free(m);
}

/* Whether everything there is to come has come. */
static bool complete(const struct bench *b) {
    if (b->what == BENCH_CONSUME)
        return atomic_load(&b->distinct) >= b->count;
    return atomic_load(&b->published_all) && atomic_load(&b->distinct) >= atomic_load(&b->receipted_all);
}

static void *consumer_main(void *arg) {
    struct consumer *k = arg;
    struct bench *b = k->bench;
    usec_t quiet = now_us();
    for (;;) {
        mr_message *m;
        mr_error error;
        int code = mr_consumer_next(k->consumer, BENCH_TICK_MS, &m, &error);
        if (code == MR_OK) {
            took(k, m);
            quiet = now_us();
            if (b->what == BENCH_CONSUME && !b->verify && complete(b))
                break;
            continue;
        }
        if (code != MR_ETIMEOUT) {
            note(b, &error);
            k->failed = true;
            break;
        }
        usec_t silent = now_us() - quiet;
        bool over = complete(b) && (!b->verify || silent >= BENCH_LINGER_MS * USEC_MS);
        bool nothing = (b->what == BENCH_CONSUME || atomic_load(&b->published_all)) &&
                       silent >= b->cli->timeout_ms * USEC_MS;
        if (over || nothing)
            break;
    }
    return NULL;
}

static int consumer_start(struct bench *b, struct consumer *k) {
    mr_error error;
    k->bench = b;
    int code = cli_open(b->cli, 0, &k->client);
    if (code != EXIT_DONE)
        return code;
    mr_consumer_options o = {.struct_size = sizeof o, .credit = 1000};
    if (mr_consumer_open(k->client, b->mailbox, &o, MR_TIMEOUT_DEFAULT, &k->consumer, &error) != MR_OK)
        return cli_fail(b->cli, &error);
    pthread_create(&k->thread, NULL, consumer_main, k);
    return EXIT_DONE;
}

/* --- the run ----------------------------------------------------------------- */

static int publisher_open(struct bench *b, struct publisher *p, uint64_t i) {
    p->bench = b;
    p->first = b->count * i / b->publishers;
    p->count = b->count * (i + 1) / b->publishers - p->first;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->room, NULL);
    int code = cli_open(b->cli, BENCH_BUFFER_BYTES, &p->client);
    mr_error error;
    if (code == EXIT_DONE && mr_client_wait(p->client, MR_TIMEOUT_DEFAULT, &error) != MR_OK)
        code = cli_fail(b->cli, &error);
    return code;
}

static int publish_all(struct bench *b, struct publisher *publishers) {
    for (uint64_t i = 0; i < b->publishers; i++) {
        int code = publisher_open(b, &publishers[i], i);
        if (code != EXIT_DONE)
            return code;
    }
    b->start = now_us();
    for (uint64_t i = 0; i < b->publishers; i++)
        pthread_create(&publishers[i].thread, NULL, publisher_main, &publishers[i]);
    for (uint64_t i = 0; i < b->publishers; i++) {
        pthread_join(publishers[i].thread, NULL);
        atomic_fetch_add(&b->receipted_all, publishers[i].receipted);
    }
    return EXIT_DONE;
}

struct totals {
    uint64_t published, receipted, refused, unknown, lost;
    usec_t ended;
    struct histogram latency;
};

static void totals_take(struct bench *b, struct totals *t, const struct publisher *publishers,
                        const struct consumer *consumers) {
    t->ended = b->start;
    for (uint64_t i = 0; b->what & BENCH_PUBLISH && i < b->publishers; i++) {
        const struct publisher *p = &publishers[i];
        t->published += p->published;
        t->receipted += p->receipted;
        t->refused += p->refused;
        t->unknown += p->unknown;
        if (b->what == BENCH_PUBLISH)
            histogram_merge(&t->latency, &p->latency);
        t->ended = p->ended > t->ended ? p->ended : t->ended;
    }
    for (uint64_t i = 0; b->what & BENCH_CONSUME && i < b->consumers; i++) {
        histogram_merge(&t->latency, &consumers[i].latency);
        t->ended = consumers[i].ended > t->ended ? consumers[i].ended : t->ended;
    }
    uint64_t distinct = atomic_load(&b->distinct);
    uint64_t expected = b->what == BENCH_BOTH ? t->receipted : b->what == BENCH_CONSUME ? b->count : 0;
    t->lost = expected > distinct ? expected - distinct : 0;
}

static json_t *result_json(const struct bench *b, const struct totals *t) {
    double seconds = (double)(t->ended - b->start) / 1e6;
    uint64_t delivered = atomic_load(&b->delivered);
    uint64_t moved = b->what == BENCH_PUBLISH ? t->receipted : delivered;
    double rate = seconds > 0 ? (double)moved / seconds : 0;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "published",
                     (json_int_t)t->published, "receipted", (json_int_t)t->receipted, "failed",
                     (json_int_t)(t->refused + t->unknown), "delivered", (json_int_t)delivered, "lost",
                     (json_int_t)t->lost, "duplicates", (json_int_t)atomic_load(&b->duplicates), "seconds",
                     seconds, "msgs_per_s", rate, "mb_per_s", rate * (double)b->size / 1e6, "p50_us",
                     (json_int_t)histogram_quantile(&t->latency, 0.5), "p99_us",
                     (json_int_t)histogram_quantile(&t->latency, 0.99), "p999_us",
                     (json_int_t)histogram_quantile(&t->latency, 0.999), "max_us",
                     (json_int_t)t->latency.max);
}

static int report(struct bench *b, const struct totals *t) {
    json_t *all = result_json(b, t);
    uint64_t duplicates = b->verify ? atomic_load(&b->duplicates) : 0;
    bool lost = t->lost && (b->verify || b->what == BENCH_CONSUME);
    int code = t->refused || lost || duplicates ? EXIT_FAILED : t->unknown ? EXIT_NO_ANSWER : EXIT_DONE;
    if (b->first.code != MR_OK) {
        code = code ? code : exit_code_of(b->first.code);
        fprintf(stderr, "mailroom bench: %s\n", b->first.text);
        if (b->cli->json)
            json_object_set_new(all, "error", json_error(&b->first));
    }
    if (t->lost || duplicates)
        fprintf(stderr, "mailroom bench: %" PRIu64 " lost, %" PRIu64 " duplicates\n", t->lost, duplicates);
    json_print(all);
    return code;
}

static int bench_run(struct bench *b) {
    struct publisher *publishers = xcalloc(b->publishers, sizeof *publishers);
    struct consumer *consumers = xcalloc(b->consumers, sizeof *consumers);
    int code = EXIT_DONE;
    uint64_t started = 0;
    b->start = now_us();
    while (code == EXIT_DONE && b->what & BENCH_CONSUME && started < b->consumers) {
        code = consumer_start(b, &consumers[started]);
        started += code == EXIT_DONE;
    }
    if (code == EXIT_DONE && b->what & BENCH_PUBLISH)
        code = publish_all(b, publishers);
    atomic_store(&b->published_all, true);
    for (uint64_t i = 0; i < started; i++)
        pthread_join(consumers[i].thread, NULL);
    for (uint64_t i = 0; i < b->consumers; i++) {
        mr_consumer_close(consumers[i].consumer, b->cli->timeout_ms, NULL);
        mr_client_close(consumers[i].client, CLI_CLOSE_MS, NULL);
    }
    for (uint64_t i = 0; i < b->publishers; i++)
        mr_client_close(publishers[i].client, CLI_CLOSE_MS, NULL);
    if (code == EXIT_DONE) {
        struct totals *t = xcalloc(1, sizeof *t);
        totals_take(b, t, publishers, consumers);
        code = report(b, t);
        free(t);
    }
    free(publishers);
    free(consumers);
    return code;
}

/* --- the command ------------------------------------------------------------- */

/* The mailbox is made if it is not there; its options must fit if it is. */
static int mailbox_ready(struct bench *b, struct settings_args *s) {
    mr_client *client = b->cli->client;
    mr_error error;
    int code = MR_ENOTFOUND;
    if (!settings_args_any(s)) {
        const mr_mailbox_info *info;
        code = mr_mailbox_show(client, b->mailbox, MR_TIMEOUT_DEFAULT, &info, &error);
        if (code == MR_OK)
            mr_info_free(info);
    }
    if (code == MR_ENOTFOUND)
        code = mr_mailbox_create(client, b->mailbox, &s->settings, MR_TIMEOUT_DEFAULT, &error);
    return code == MR_OK ? EXIT_DONE : cli_fail(b->cli, &error);
}

static int what_of(const char *word) {
    return strcmp(word, "publish") == 0   ? BENCH_PUBLISH
           : strcmp(word, "consume") == 0 ? BENCH_CONSUME
           : strcmp(word, "both") == 0    ? BENCH_BOTH
                                          : 0;
}

static int bench_check(struct bench *b, const struct positionals *p) {
    b->what = what_of(p->items[0]);
    b->mailbox = p->items[1];
    if (!b->what)
        return args_wrong(b->cli, p->items[0], "unknown, expected publish, consume or both");
    if (b->verify && b->size < BENCH_STAMP_BYTES)
        return args_wrong(b->cli, "--verify", "needs --size of at least %d", BENCH_STAMP_BYTES);
    return args_name(b->cli, "NAME", b->mailbox);
}

static int run(struct cli *cli, char **argv) {
    struct bench b = {.cli = cli,
                      .size = 256,
                      .count = 100000,
                      .window = 1000,
                      .publishers = 1,
                      .consumers = 1,
                      .lock = PTHREAD_MUTEX_INITIALIZER};
    struct settings_args s;
    const struct arg own[] = {
        {"--size", ARG_SIZE, &b.size},
        {"--count", ARG_NUMBER, &b.count, NULL, "1 to 1000000000", 1, BENCH_COUNT_MAX},
        {"--window", ARG_NUMBER, &b.window, .min = 1},
        {"--rate", ARG_NUMBER, &b.rate, .min = 1},
        {"--publishers", ARG_NUMBER, &b.publishers, NULL, "1 to 256", 1, BENCH_THREADS_MAX},
        {"--consumers", ARG_NUMBER, &b.consumers, NULL, "1 to 256", 1, BENCH_THREADS_MAX},
        {"--verify", ARG_FLAG, &b.verify},
    };
    enum { OWN = sizeof own / sizeof *own };
    struct arg args[OWN + SETTINGS_ARGS + 1] = {0};
    static struct positionals p;
    settings_args_init(&s);
    memcpy(args, own, sizeof own);
    settings_args_table(&s, args + OWN);
    int code = args_parse(cli, args, argv, &p);
    if (code == EXIT_DONE)
        code = args_count(cli, &p, 2, 2, "publish|consume|both NAME");
    if (code == EXIT_DONE)
        code = bench_check(&b, &p);
    if (code == EXIT_DONE)
        code = settings_args_take(cli, &s);
    if (code == EXIT_DONE)
        code = cli_client(cli, 0);
    if (code == EXIT_DONE)
        code = mailbox_ready(&b, &s);
    if (code != EXIT_DONE)
        return code;
    uint64_t drawn = 0;
    if (b.what & BENCH_PUBLISH)
        atomic_store(&b.run,
                     getrandom(&drawn, sizeof drawn, 0) == sizeof drawn ? drawn | 1 : (uint64_t)now_us());
    if (b.verify)
        b.seen = xcalloc(b.count / 8 + 1, sizeof *b.seen);
    code = bench_run(&b);
    free(b.seen);
    return code;
}

const struct command command_bench = {
    "bench",
    "publish|consume|both NAME [--size N] [--count N] [--window N] [--rate N] [--publishers N]\n"
    "         [--consumers N] [--verify] [options of 'mailbox create']",
    "measure throughput and latency\n"
    "On an existing mailbox, or one it makes. Prints one JSON object: published,\n"
    "receipted, failed, delivered, lost, duplicates, seconds, msgs_per_s, mb_per_s,\n"
    "p50_us, p99_us, p999_us, max_us. Latency is from submission to the receipt\n"
    "(publish) or to the delivery (consume, both).\n"
    "  --size N        bytes a message (256)\n"
    "  --count N       messages in all (100000)\n"
    "  --window N      unreceipted messages a publisher at most (1000); 1: one by one\n"
    "  --rate N        messages a second in all; latency then counts from the time a\n"
    "                  message was due, so that a stall is seen whole\n"
    "  --publishers N  each a client of its own (1)\n"
    "  --consumers N   each a client of its own (1)\n"
    "  --verify        tell by the payloads' numbers what was lost or came twice (exit 1)\n",
    run};

// SPDX-License-Identifier: Apache-2.0
/*
 * Load for the torture run, one process a publisher or consumer, so that each
 * can be killed. Everything that is promised is written down, a line each:
 *
 *   publisher  R SEQ PARTITION OFFSET DUPLICATE SUBMITTED ANSWERED   receipted
 *              U SEQ CODE SUBMITTED ANSWERED   unknown: may be stored
 *              F SEQ CODE SUBMITTED ANSWERED   failed: is not stored
 *              E SUBMITTED COMPLETED           last line of an orderly end
 *   consumer   D PUBLISHER SEQ PARTITION OFFSET ATTEMPT TIME KEY   held from now on (KEY -: none)
 *              S PUBLISHER SEQ KIND DELIVERED TIME   held no longer: settled (KIND 9: freed); DELIVERED
 *                                              is the TIME of its D line
 *              A PUBLISHER SEQ PARTITION OFFSET KIND RESULT TIME DELIVERED   the answer (-1: none)
 *              B TEXT                          bytes that nobody published
 *              X CODE TIME                     the consumer was ended, opens anew
 *   both       H WHAT MS                       a call that took longer than it may
 *
 * Times are microseconds of the machine's monotonic clock.
 *
 * usage: workload publish SERVERS MAILBOX ID LOG MESSAGES_PER_S KEYS
 *        workload consume SERVERS MAILBOX ID LOG CREDIT SUBSCRIPTION ORIGIN REJECTS
 *
 * KEYS: each message has one of as many keys (0: none). ORIGIN: the mailbox it
 * was published to (another one for dead letters). REJECTS: of 100 messages.
 */
#include <fcntl.h>
#include <mailroom.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PUBLISH_MS = 20000,
    NEXT_MS = 500,
    CLOSE_MS = 15000,
    FLUSH_MS = PUBLISH_MS + 5000,
    LATE_MS = 2000, /* past a deadline, on a busy machine */
    PAYLOAD_BYTES_MAX = 256 << 10,
    LINE_BYTES_MAX = 256,
    KEY_BYTES_MAX = 48,
    HELD_MAX = 256,  /* more than any credit */
    KIND_FREED = 9,  /* beside MR_ACK, ... */
    EXTEND_MS = 5000 /* the mailboxes' ack-timeout */
};

static int log_fd;
static atomic_bool stopping;
static atomic_ullong submitted, completed;

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* One write, so that a kill leaves whole lines. */
__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    char line[LINE_BYTES_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (write(log_fd, line, (size_t)n) != n)
        _exit(4);
}

static void judge_time(const char *what, int64_t start_us, int64_t allowed_ms) {
    int64_t ms = (now_us() - start_us) / 1000;
    if (ms > allowed_ms + LATE_MS)
        note("H %s %lld\n", what, (long long)ms);
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* ---- messages: their bytes follow from publisher and number ---- */

static size_t payload_size(uint64_t id, uint64_t seq) {
    uint64_t r = mix(id << 40 ^ seq);
    if (r % 500 == 0)
        return PAYLOAD_BYTES_MAX - (r >> 32) % 1000;
    return 40 + (r >> 32) % (r % 10 == 0 ? 8000 : 600);
}

/* "-" without keys. Each publisher has keys of its own, so that order shows. */
static void key_fill(char out[KEY_BYTES_MAX], uint64_t id, uint64_t seq, uint64_t keys) {
    if (keys)
        snprintf(out, KEY_BYTES_MAX, "k%llu.%llu", (unsigned long long)id,
                 (unsigned long long)(mix(id * 77 + seq) % keys));
    else
        strcpy(out, "-");
}

static size_t payload_fill(char *out, const char *mailbox, uint64_t id, uint64_t seq, const char *key) {
    size_t size = payload_size(id, seq);
    int head =
        snprintf(out, 220, "%s %llu %llu %s ", mailbox, (unsigned long long)id, (unsigned long long)seq, key);
    for (size_t i = (size_t)head; i < size; i++)
        out[i] = (char)('a' + mix(id * 31 + seq + i / 8 * 977) % 26);
    return size > (size_t)head ? size : (size_t)head;
}

/* ---- publisher ---- */

struct sent {
    uint64_t seq;
    int64_t start;
};

static void on_published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    struct sent *s = ctx;
    unsigned long long seq = s->seq;
    long long start = s->start, now = now_us();
    judge_time("publish", start, PUBLISH_MS);
    if (receipt)
        note("R %llu %u %llu %d %lld %lld\n", seq, receipt->partition, (unsigned long long)receipt->offset,
             receipt->duplicate, start, now);
    else
        note("%c %llu %s %lld %lld\n", error->advice == MR_MAYBE ? 'U' : 'F', seq, mr_error_name(error->code),
             start, now);
    atomic_fetch_add(&completed, 1);
    free(s);
}

static void publish_one(mr_client *client, const char *mailbox, uint64_t id, uint64_t seq, uint64_t keys,
                        char *buffer) {
    mr_error error;
    char key[KEY_BYTES_MAX];
    struct sent *s = malloc(sizeof *s);
    *s = (struct sent){seq, now_us()};
    key_fill(key, id, seq, keys);
    mr_publication m = {.struct_size = sizeof m, .payload = buffer, .key = key};
    m.key_size = keys ? strlen(key) : 0;
    m.payload_size = payload_fill(buffer, mailbox, id, seq, key);
    int64_t start = s->start;
    int code = mr_publish_async(client, mailbox, &m, PUBLISH_MS, 0, on_published, s, &error);
    judge_time("publish_async", start, PUBLISH_MS);
    if (code == MR_OK) {
        atomic_fetch_add(&submitted, 1);
        return;
    }
    free(s);
    note("F %llu %s %lld %lld\n", (unsigned long long)seq, mr_error_name(code), (long long)start,
         (long long)now_us());
}

static void wait_until(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int publish(mr_client *client, const char *mailbox, uint64_t id, int rate, uint64_t keys) {
    char *buffer = malloc(PAYLOAD_BYTES_MAX + 256);
    int64_t next = now_us();
    for (uint64_t seq = 1; !stopping; seq++) {
        publish_one(client, mailbox, id, seq, keys, buffer);
        next += 1000000 / rate;
        if (next < now_us() - 1000000) /* stood still: does not make up for it in one blow */
            next = now_us();
        wait_until(next);
    }
    int64_t start = now_us();
    int code = mr_client_flush(client, FLUSH_MS, NULL);
    judge_time("flush", start, FLUSH_MS);
    start = now_us();
    mr_client_close(client, CLOSE_MS, NULL);
    judge_time("close", start, CLOSE_MS);
    note("E %llu %llu\n", atomic_load(&submitted), atomic_load(&completed));
    free(buffer);
    return code == MR_OK ? 0 : 3;
}

/* ---- consumer ---- */

struct settled {
    uint64_t id, seq, offset;
    uint32_t partition;
    int kind;
    int64_t delivered;
};

struct held {
    mr_message *m;
    struct settled s;
    int64_t due;       /* when it is settled */
    int64_t extend_at; /* 0: not */
};

struct consuming {
    mr_client *client;
    mr_consumer *consumer;
    const char *mailbox, *subscription, *origin;
    uint32_t credit;
    uint64_t rejects;
    char *buffer;
    struct held held[HELD_MAX];
    size_t held_count;
};

static void on_settled(void *ctx, int result, const mr_error *error) {
    struct settled *s = ctx;
    note("A %llu %llu %u %llu %d %d %lld %lld\n", (unsigned long long)s->id, (unsigned long long)s->seq,
         s->partition, (unsigned long long)s->offset, s->kind, result, (long long)now_us(),
         (long long)s->delivered);
    free(s);
}

static void settle(struct held *h) {
    struct settled *s = malloc(sizeof *s);
    *s = h->s;
    note("S %llu %llu %d %lld %lld\n", (unsigned long long)s->id, (unsigned long long)s->seq, s->kind,
         (long long)s->delivered, (long long)now_us());
    int64_t delay_ms = s->kind == MR_NACK ? (int64_t)(mix((uint64_t)s->delivered) >> 32) % 300 : 0;
    if (s->kind == KIND_FREED || mr_settle_async(h->m, s->kind, delay_ms, on_settled, s, NULL) != MR_OK)
        free(s);
    mr_message_free(h->m);
}

/* Most are settled at once, some later, a few after their lease has run out. */
static int64_t hold_us(uint64_t r, uint32_t credit) {
    uint64_t lot = r % 1000, more = r >> 32;
    if (lot < (credit > 1 ? 800 : 980)) /* one at a time: it could not keep up */
        return 0;
    if (lot < 990)
        return 1000 + (int64_t)(more % 200000);
    return lot < 998 || credit == 1 ? (int64_t)(more % 1500000) : 6000000;
}

static int kind_of(uint64_t r, uint64_t rejects) {
    uint64_t lot = r % 100;
    if (lot < rejects)
        return MR_REJECT;
    lot = (r >> 16) % 100;
    return lot < 2 ? MR_NACK : lot < 3 ? MR_RELEASE : lot < 4 ? KIND_FREED : MR_ACK;
}

static void hold(struct consuming *c, mr_message *m, struct settled s) {
    uint64_t r = mix((uint64_t)now_us());
    s.kind = kind_of(mix(r + 1), c->rejects);
    struct held h = {.m = m, .s = s, .due = s.delivered + hold_us(r, c->credit)};
    if (h.due - s.delivered > EXTEND_MS * 1000 && r >> 63)
        h.extend_at = s.delivered + EXTEND_MS * 500;
    if (h.due == s.delivered || c->held_count == HELD_MAX)
        settle(&h);
    else
        c->held[c->held_count++] = h;
}

/* Settles what is due. Returns in how many milliseconds the next one is. */
static int64_t settle_due(struct consuming *c) {
    int64_t now = now_us(), next = now + NEXT_MS * 1000;
    for (size_t i = 0; i < c->held_count;) {
        struct held *h = &c->held[i];
        if (h->extend_at && h->extend_at <= now) {
            mr_extend(h->m, EXTEND_MS);
            h->extend_at = 0;
        }
        if (h->due > now) {
            next = h->due < next ? h->due : next;
            i++;
            continue;
        }
        settle(h);
        *h = c->held[--c->held_count];
    }
    return (next - now) / 1000 + 1;
}

static void let_go(struct consuming *c) {
    for (size_t i = 0; i < c->held_count; i++) {
        c->held[i].s.kind = KIND_FREED;
        settle(&c->held[i]);
    }
    c->held_count = 0;
}

static bool key_is(const mr_message *m, const char *key) {
    size_t size;
    const char *is = mr_message_key(m, &size);
    return strcmp(key, "-") == 0 ? size == 0 : size == strlen(key) && memcmp(is, key, size) == 0;
}

static void on_message(struct consuming *c, mr_message *m) {
    unsigned long long id, seq;
    char name[129], key[KEY_BYTES_MAX], head[200];
    size_t size;
    const char *payload = mr_message_payload(m, &size);
    snprintf(head, sizeof head, "%.*s", size < 199 ? (int)size : 199, payload);
    if (sscanf(head, "%128s %llu %llu %47s ", name, &id, &seq, key) != 4 || strcmp(name, c->origin) != 0 ||
        !key_is(m, key) || payload_fill(c->buffer, name, id, seq, key) != size ||
        memcmp(c->buffer, payload, size) != 0) {
        note("B %u %llu %.100s\n", mr_message_partition(m), (unsigned long long)mr_message_offset(m), head);
        mr_ack(m);
        mr_message_free(m);
        return;
    }
    struct settled s = {id, seq, mr_message_offset(m), mr_message_partition(m), 0, now_us()};
    note("D %llu %llu %u %llu %u %lld %s\n", id, seq, s.partition, (unsigned long long)s.offset,
         mr_message_attempt(m), (long long)s.delivered, key);
    hold(c, m, s);
}

static void join(struct consuming *c) {
    mr_consumer_options options = {
        .struct_size = sizeof options, .credit = c->credit, .subscription = c->subscription};
    c->consumer = NULL;
    while (!stopping) {
        int64_t start = now_us();
        int code = mr_consumer_open(c->client, c->mailbox, &options, NEXT_MS * 10, &c->consumer, NULL);
        judge_time("consumer_open", start, NEXT_MS * 10);
        if (code == MR_OK)
            return;
        note("X %s %lld\n", mr_error_name(code), (long long)now_us());
        wait_until(now_us() + 100000);
    }
}

static int consume(struct consuming *c) {
    c->buffer = malloc(PAYLOAD_BYTES_MAX + 256);
    join(c);
    while (!stopping) {
        mr_message *m;
        int64_t wait_ms = settle_due(c), start = now_us();
        int code = mr_consumer_next(c->consumer, wait_ms, &m, NULL);
        judge_time("next", start, wait_ms);
        if (code == MR_OK) {
            on_message(c, m);
        } else if (code != MR_ETIMEOUT) {
            let_go(c);
            note("X %s %lld\n", mr_error_name(code), (long long)now_us());
            mr_consumer_close(c->consumer, 1000, NULL);
            join(c);
        }
    }
    let_go(c);
    int64_t start = now_us();
    mr_consumer_close(c->consumer, CLOSE_MS, NULL);
    mr_client_close(c->client, CLOSE_MS, NULL);
    judge_time("close", start, 2 * CLOSE_MS);
    free(c->buffer);
    return 0;
}

static void on_term(int number) {
    stopping = true;
}

int main(int argc, char **argv) {
    mr_client *client;
    mr_error error;
    bool publishes = argc == 8 && strcmp(argv[1], "publish") == 0;
    if (!publishes && argc != 10)
        return 2;
    log_fd = open(argv[5], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    signal(SIGTERM, on_term);
    mr_client_options options = {.struct_size = sizeof options, .servers = argv[2], .timeout_ms = PUBLISH_MS};
    if (log_fd < 0 || mr_client_open(&options, &client, &error) != MR_OK)
        return 3;
    if (publishes)
        return publish(client, argv[3], strtoull(argv[4], NULL, 10), atoi(argv[6]),
                       strtoull(argv[7], NULL, 10));
    struct consuming c = {.client = client,
                          .mailbox = argv[3],
                          .credit = (uint32_t)atoi(argv[6]),
                          .subscription = argv[7],
                          .origin = argv[8],
                          .rejects = strtoull(argv[9], NULL, 10)};
    return consume(&c);
}

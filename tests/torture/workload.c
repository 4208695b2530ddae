// SPDX-License-Identifier: Apache-2.0
/*
 * Load for the torture run, one process a publisher or consumer, so that each
 * can be killed. Everything that is promised is written down, a line each:
 *
 *   publisher  R SEQ PARTITION OFFSET DUPLICATE SUBMITTED ANSWERED   receipted
 *              U SEQ CODE SUBMITTED ANSWERED   unknown: may be stored
 *              F SEQ CODE SUBMITTED ANSWERED   failed: is not stored
 *              E SUBMITTED COMPLETED           last line of an orderly end
 *   consumer   D PUBLISHER SEQ PARTITION OFFSET ATTEMPT TIME   before it is settled
 *              A PUBLISHER SEQ PARTITION OFFSET KIND RESULT TIME   the answer (-1: none)
 *              B TEXT                          bytes that nobody published
 *              X CODE TIME                     the consumer was ended, opens anew
 *   both       H WHAT MS                       a call that took longer than it may
 *
 * Times are microseconds of the machine's monotonic clock.
 *
 * usage: workload publish SERVERS MAILBOX ID MESSAGES_PER_S LOG
 *        workload consume SERVERS MAILBOX ID CREDIT LOG
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
    LINE_BYTES_MAX = 256
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

static size_t payload_fill(char *out, const char *mailbox, uint64_t id, uint64_t seq) {
    size_t size = payload_size(id, seq);
    int head = snprintf(out, 160, "%s %llu %llu ", mailbox, (unsigned long long)id, (unsigned long long)seq);
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

static void publish_one(mr_client *client, const char *mailbox, uint64_t id, uint64_t seq, char *buffer) {
    mr_error error;
    struct sent *s = malloc(sizeof *s);
    *s = (struct sent){seq, now_us()};
    mr_publication m = {.struct_size = sizeof m, .payload = buffer};
    m.payload_size = payload_fill(buffer, mailbox, id, seq);
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

static int publish(mr_client *client, const char *mailbox, uint64_t id, int rate) {
    char *buffer = malloc(PAYLOAD_BYTES_MAX + 256);
    int64_t next = now_us();
    for (uint64_t seq = 1; !stopping; seq++) {
        publish_one(client, mailbox, id, seq, buffer);
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
};

static void on_settled(void *ctx, int result, const mr_error *error) {
    struct settled *s = ctx;
    note("A %llu %llu %u %llu %d %d %lld\n", (unsigned long long)s->id, (unsigned long long)s->seq,
         s->partition, (unsigned long long)s->offset, s->kind, result, (long long)now_us());
    free(s);
}

static void settle(mr_message *m, struct settled as) {
    struct settled *s = malloc(sizeof *s);
    uint64_t r = mix((uint64_t)now_us());
    *s = as;
    s->kind = r % 100 < 2 ? MR_NACK : r % 100 < 3 ? MR_RELEASE : r % 100 < 4 ? MR_REJECT : MR_ACK;
    if (s->kind == MR_REJECT) /* no dead letters here: given back by freeing it */
        free(s);
    else if (mr_settle_async(m, s->kind, s->kind == MR_NACK ? (int64_t)(r >> 32) % 300 : 0, on_settled, s,
                             NULL) != MR_OK)
        free(s);
    mr_message_free(m);
}

static void on_message(mr_message *m, const char *mailbox, char *buffer) {
    unsigned long long id, seq;
    char name[129];
    size_t size;
    const char *payload = mr_message_payload(m, &size);
    char head[200];
    snprintf(head, sizeof head, "%.*s", size < 199 ? (int)size : 199, payload);
    if (sscanf(head, "%128s %llu %llu ", name, &id, &seq) != 3 || strcmp(name, mailbox) != 0 ||
        payload_fill(buffer, mailbox, id, seq) != size || memcmp(buffer, payload, size) != 0) {
        note("B %u %llu %.100s\n", mr_message_partition(m), (unsigned long long)mr_message_offset(m), head);
        mr_ack(m);
        mr_message_free(m);
        return;
    }
    struct settled s = {id, seq, mr_message_offset(m), mr_message_partition(m), 0};
    note("D %llu %llu %u %llu %u %lld\n", id, seq, s.partition, (unsigned long long)s.offset,
         mr_message_attempt(m), (long long)now_us());
    settle(m, s);
}

static mr_consumer *join(mr_client *client, const char *mailbox, uint32_t credit) {
    mr_consumer_options options = {.struct_size = sizeof options, .credit = credit};
    mr_consumer *consumer = NULL;
    while (!stopping) {
        int64_t start = now_us();
        int code = mr_consumer_open(client, mailbox, &options, NEXT_MS * 10, &consumer, NULL);
        judge_time("consumer_open", start, NEXT_MS * 10);
        if (code == MR_OK)
            return consumer;
        note("X %s %lld\n", mr_error_name(code), (long long)now_us());
        wait_until(now_us() + 100000);
    }
    return NULL;
}

static int consume(mr_client *client, const char *mailbox, uint32_t credit) {
    char *buffer = malloc(PAYLOAD_BYTES_MAX + 256);
    mr_consumer *consumer = join(client, mailbox, credit);
    while (!stopping) {
        mr_message *m;
        int64_t start = now_us();
        int code = mr_consumer_next(consumer, NEXT_MS, &m, NULL);
        judge_time("next", start, NEXT_MS);
        if (code == MR_OK) {
            on_message(m, mailbox, buffer);
        } else if (code != MR_ETIMEOUT) {
            note("X %s %lld\n", mr_error_name(code), (long long)now_us());
            mr_consumer_close(consumer, 1000, NULL);
            consumer = join(client, mailbox, credit);
        }
    }
    int64_t start = now_us();
    mr_consumer_close(consumer, CLOSE_MS, NULL);
    mr_client_close(client, CLOSE_MS, NULL);
    judge_time("close", start, 2 * CLOSE_MS);
    free(buffer);
    return 0;
}

static void on_term(int number) {
    stopping = true;
}

int main(int argc, char **argv) {
    mr_client *client;
    mr_error error;
    if (argc != 7)
        return 2;
    log_fd = open(argv[6], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    signal(SIGTERM, on_term);
    mr_client_options options = {.struct_size = sizeof options, .servers = argv[2], .timeout_ms = PUBLISH_MS};
    if (log_fd < 0 || mr_client_open(&options, &client, &error) != MR_OK)
        return 3;
    if (strcmp(argv[1], "publish") == 0)
        return publish(client, argv[3], strtoull(argv[4], NULL, 10), atoi(argv[5]));
    return consume(client, argv[3], (uint32_t)atoi(argv[5]));
}

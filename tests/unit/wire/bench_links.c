// SPDX-License-Identifier: Apache-2.0
/*
 * What a link costs: a source and a sink process over loopback. Not a test.
 *
 *   bench_links [tcp|ipc]
 *
 * Prints the round trip of one small frame (median and 99 %), then for 64 KiB and
 * 256 B frames: MB/s, frames/s, CPU usec a frame of source and sink.
 * The source keeps a window of bytes queued, topped up as the queue drains.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum { FRAME_DATA = 1, FRAME_END = 2, FRAME_ECHO = 3, ROUNDS = 20000, WINDOW_BYTES = 4 << 20 };

static double cpu_usec(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

/* --- the sink: counts, echoes, tells its CPU time --------------------------- */

struct sink {
    struct loop *loop;
    double cpu;
};

static void sink_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct sink *sink = ctx;
    if (frame->type == FRAME_ECHO) {
        link_send_raw(link, FRAME_ECHO, frame->header, frame->header_size, &frame->body, 1);
    } else if (frame->type == FRAME_END) {
        double used = cpu_usec() - sink->cpu;
        sink->cpu += used;
        link_send_raw(link, FRAME_END, &used, sizeof used, NULL, 0);
    }
}
static void sink_closed(void *ctx, struct link *link, const struct link_end *end) {
    loop_stop(((struct sink *)ctx)->loop);
}
static const struct link_handlers sink_handlers = {.frame = sink_frame, .closed = sink_closed};

static void sink_accepted(void *ctx, struct listener *listener, struct link *link) {
    link_attach(link, &sink_handlers, ctx);
    ((struct sink *)ctx)->cpu = cpu_usec();
}
static const struct listener_handlers sink_listener = {.accepted = sink_accepted};

static void sink_main(const char *scheme, int url_fd) {
    struct sink sink = {.loop = loop_new(NULL)};
    char url[64];
    snprintf(url, sizeof url, strcmp(scheme, "ipc") ? "tcp://127.0.0.1:0" : "ipc:///tmp/bench-links-%d",
             getpid());
    struct listener_options options = {.handlers = &sink_listener, .ctx = &sink};
    struct listener *listener = listener_open(sink.loop, url, &options, NULL);
    const char *bound = listener_url(listener);
    if (write(url_fd, bound, strlen(bound) + 1) < 0)
        _exit(1);
    loop_run(sink.loop);
    listener_close(listener);
    loop_drain(sink.loop, USEC_S);
    _exit(0);
}

/* --- the source ------------------------------------------------------------- */

struct source {
    struct loop *loop;
    struct link *link;
    struct body *body;
    uint64_t left;
    bool ended;
    double sink_cpu;
    usec_t sent_at;
    unsigned round;
    usec_t trips[ROUNDS];
};

static void top_up(struct source *s) {
    while (s->left && link_queued_bytes(s->link) < WINDOW_BYTES) {
        link_send_raw(s->link, FRAME_DATA, "0123456789", 10, &s->body, 1);
        if (--s->left == 0)
            link_send_raw(s->link, FRAME_END, NULL, 0, NULL, 0);
    }
}
static void ping(struct source *s) {
    s->sent_at = clock_now();
    link_send_raw(s->link, FRAME_ECHO, "0123456789", 10, &s->body, 1);
}
static void source_turn(void *ctx, struct loop *loop) {
    struct source *s = ctx;
    if (s->link && s->left)
        top_up(s);
}
static void source_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct source *s = ctx;
    if (frame->type == FRAME_END) {
        memcpy(&s->sink_cpu, frame->header, sizeof s->sink_cpu);
        s->ended = true;
        return;
    }
    s->trips[s->round++] = clock_now() - s->sent_at;
    if (s->round < ROUNDS)
        ping(s);
}
static void source_opened(void *ctx, struct link *link) {
    ((struct source *)ctx)->link = link;
}
static const struct link_handlers source_handlers = {.frame = source_frame, .opened = source_opened};

static void stream(struct source *s, size_t size, uint64_t frames) {
    s->body = body_new(size);
    memset(s->body->data, 'x', size);
    s->left = frames;
    s->ended = false;
    double cpu = cpu_usec();
    usec_t start = clock_now();
    while (!s->ended)
        loop_turn(s->loop, s->left ? 0 : USEC_S);
    double seconds = (double)(clock_now() - start) / 1e6, n = (double)frames;
    printf("%6zu B frames: %7.0f MB/s %9.0f frames/s  CPU us/frame source %6.2f sink %6.2f\n", size,
           n * (double)size / 1e6 / seconds, n / seconds, (cpu_usec() - cpu) / n, s->sink_cpu / n);
    body_drop(s->body);
}

static int by_time(const void *a, const void *b) {
    usec_t x = *(const usec_t *)a, y = *(const usec_t *)b;
    return (x > y) - (x < y);
}

static void round_trips(struct source *s) {
    s->body = body_new(256);
    memset(s->body->data, 'x', 256);
    ping(s);
    while (s->round < ROUNDS)
        loop_turn(s->loop, USEC_S);
    qsort(s->trips, ROUNDS, sizeof s->trips[0], by_time);
    printf("   256 B round trip: median %lld us, 99 %% %lld us\n", (long long)s->trips[ROUNDS / 2],
           (long long)s->trips[ROUNDS * 99 / 100]);
    body_drop(s->body);
}

int main(int argc, char **argv) {
    const char *scheme = argc > 1 ? argv[1] : "tcp";
    int fds[2];
    if (pipe(fds) != 0)
        return 1;
    pid_t pid = fork();
    if (pid == 0)
        sink_main(scheme, fds[1]);
    char url[128];
    if (read(fds[0], url, sizeof url) <= 0)
        return 1;
    struct source *s = xcalloc(1, sizeof *s);
    s->loop = loop_new(&(struct loop_options){.turn = source_turn, .ctx = s});
    struct link_options options = {.handlers = &source_handlers, .ctx = s};
    struct link *link = link_dial(s->loop, url, &options, NULL);
    while (!s->link)
        loop_turn(s->loop, USEC_S);
    printf("%s\n", url);
    round_trips(s); /* first: bulk spreads the threads over the cores, which costs wake-ups */
    stream(s, 64 * 1024, 100000);
    stream(s, 256, 5000000);
    link_kill(link);
    loop_drain(s->loop, USEC_S);
    loop_free(s->loop);
    free(s);
    waitpid(pid, NULL, 0);
    return 0;
}

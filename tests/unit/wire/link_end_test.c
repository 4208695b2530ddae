// SPDX-License-Identifier: Apache-2.0
/* How links end: refused, silent, killed, malformed, closed with frames under way. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/codec.h"
#include "pair.h"
#include "wire/loop_private.h"

static const char *const schemes[] = {"tcp", "ipc"};
static int scheme_indexes[] = {0, 1};

/* --- dialling ------------------------------------------------------------- */

struct dialled {
    struct loop *loop;
    struct side side;
};

static void dial_and_wait(struct dialled *d, const char *url, usec_t timeout) {
    d->loop = loop_new(NULL);
    struct link_options options = {.handlers = &side_handlers, .ctx = &d->side, .dial_timeout = timeout};
    struct link *link = link_dial(d->loop, url, &options, NULL);
    cr_assert_not_null(link);
    cr_assert_eq(link_send(link, 1, NULL, NULL, 0), ERR_OK, "queued while dialling");
    UNTIL(d->loop, d->side.closed == 1 || d->side.opened);
    cr_assert_eq(d->side.opened, 0);
    cr_assert(loop_drain(d->loop, 5 * USEC_S));
    loop_free(d->loop);
}

/* A url where nobody listens any more. */
static const char *dead_url(const char *scheme, char out[LINK_PEER_BYTES]) {
    struct pair *p = pair_listen(scheme, NULL);
    strcpy(out, listener_url(p->listener));
    pair_free(p);
    return out;
}

ParameterizedTestParameters(link_end, nobody_listens_is_refused_at_once) {
    return cr_make_param_array(int, scheme_indexes, 2);
}

ParameterizedTest(int *scheme, link_end, nobody_listens_is_refused_at_once) {
    static struct dialled d;
    char url[LINK_PEER_BYTES];
    dead_url(schemes[*scheme], url);
    usec_t start = clock_now();
    dial_and_wait(&d, url, 5 * USEC_S);
    cr_assert_eq(d.side.cause, LINK_END_REFUSED, "%s", d.side.text);
    cr_assert_lt(clock_now() - start, 2 * USEC_S);
}

/* A listener whose queue is full does not answer: the kernel drops the SYN. */
static int deaf_listener(char url[LINK_PEER_BYTES], int *filler) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof sa;
    cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    cr_assert_eq(listen(fd, 0), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&sa, &size), 0);
    snprintf(url, LINK_PEER_BYTES, "tcp://127.0.0.1:%u", ntohs(sa.sin_port));
    *filler = raw_connect(url);
    struct pollfd queued = {.fd = fd, .events = POLLIN};
    cr_assert_eq(poll(&queued, 1, 5000), 1, "the filler stands in the queue");
    return fd;
}

Test(link_end, no_answer_is_a_timeout_not_a_refusal) {
    static struct dialled d;
    char url[LINK_PEER_BYTES];
    int filler;
    int fd = deaf_listener(url, &filler);
    usec_t start = clock_now();
    dial_and_wait(&d, url, 300 * USEC_MS);
    cr_assert_eq(d.side.cause, LINK_END_TIMEOUT, "%s", d.side.text);
    cr_assert_eq(d.side.code, ERR_TIMEOUT);
    cr_assert_geq(clock_now() - start, 300 * USEC_MS);
    close(filler);
    close(fd);
}

Test(link_end, a_malformed_url_is_refused_with_a_reason) {
    struct loop *loop = loop_new(NULL);
    struct err_detail detail = {0};
    cr_assert_null(link_dial(loop, "gopher://x", NULL, &detail));
    cr_assert_eq(detail.code, ERR_INVALID);
    cr_assert_neq(detail.text[0], 0);
    cr_assert_null(listener_open(loop, "tcp://127.0.0.1:notaport", &(struct listener_options){0}, &detail));
    loop_free(loop);
}

Test(link_end, a_port_in_use_is_busy) {
    struct pair *p = pair_listen("tcp", NULL);
    struct err_detail detail = {0};
    cr_assert_null(listener_open(p->loop, listener_url(p->listener), &(struct listener_options){0}, &detail));
    cr_assert_eq(detail.code, ERR_BUSY, "%s", detail.text);
    pair_free(p);
}

Test(link_end, killing_a_link_that_dials_leaves_nothing_behind) {
    char url[LINK_PEER_BYTES];
    int filler;
    int fd = deaf_listener(url, &filler);
    static struct side side;
    struct loop *loop = loop_new(NULL);
    link_kill(link_dial(loop, url, &(struct link_options){.handlers = &side_handlers, .ctx = &side}, NULL));
    cr_assert(loop_drain(loop, 5 * USEC_S));
    cr_assert_eq(side.closed, 0, "no handler after a kill");
    loop_free(loop);
    close(filler);
    close(fd);
}

/* --- closing -------------------------------------------------------------- */

ParameterizedTestParameters(link_end, what_was_sent_before_a_close_arrives) {
    return cr_make_param_array(int, scheme_indexes, 2);
}

ParameterizedTest(int *scheme, link_end, what_was_sent_before_a_close_arrives) {
    for (int round = 0; round < 20; round++) {
        struct pair *p = pair_new(schemes[*scheme], NULL, NULL);
        struct body *body = pattern_body(40000, 1);
        for (int i = 0; i < 50; i++)
            cr_assert_eq(link_send(p->client.link, 1, NULL, &body, 1), ERR_OK);
        body_drop(body);
        cr_assert_eq(link_send(p->client.link, 2, NULL, NULL, 0), ERR_OK);
        link_close(p->client.link, ERR_OK, "goodbye");
        cr_assert_eq(link_send(p->client.link, 3, NULL, NULL, 0), ERR_CLOSED);
        UNTIL(p->loop, p->client.closed && p->server.closed);
        cr_assert_eq(p->client.cause, LINK_END_LOCAL);
        cr_assert_str_eq(p->client.text, "goodbye");
        cr_assert_eq(p->server.cause, LINK_END_PEER);
        cr_assert_eq(p->server.frames, 51, "round %d: %zu of 51 frames arrived", round, p->server.frames);
        pair_free(p);
    }
}

/* A reset right behind the last frame: nng reports the reset and leaves the
 * frame in the kernel. One core, so that nng finds both at once. */
Test(link_end, last_words_of_a_peer_that_resets_are_heard) {
    uint8_t bytes[12] = {8, 0, 0, 0, 7};
    struct linger reset = {.l_onoff = 1};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);
    for (unsigned round = 1; round <= 100; round++) {
        struct pair *p = pair_listen("tcp", NULL);
        int fd = raw_connect(listener_url(p->listener));
        UNTIL(p->loop, p->accepted == 1);
        loop_turn(p->loop, 0);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        raw_write(fd, bytes, sizeof bytes);
        close(fd);
        UNTIL(p->loop, p->server.closed == 1);
        cr_assert_eq(p->server.frames, 1, "round %u: lost", round);
        cr_assert_eq(p->server.cause, LINK_END_PEER);
        pair_free(p);
    }
}

Test(link_end, a_close_that_cannot_be_written_ends_at_its_deadline) {
    struct pair *p = pair_listen("tcp", &(struct link_options){.close_timeout = 200 * USEC_MS});
    int fd = raw_connect(listener_url(p->listener));
    UNTIL(p->loop, p->accepted == 1);
    struct body *body = pattern_body(12 * MIB, 1);
    cr_assert_eq(link_send(p->server.link, 1, NULL, &body, 1), ERR_OK);
    body_drop(body);
    usec_t start = loop_now(p->loop);
    link_close(p->server.link, ERR_OK, "bye");
    UNTIL(p->loop, p->server.closed);
    cr_assert_geq(clock_now() - start, 200 * USEC_MS);
    cr_assert_eq(p->server.code, ERR_TIMEOUT, "%s", p->server.text);
    close(fd);
    pair_free(p);
}

Test(link_end, everything_torn_down_with_frames_in_flight) {
    for (int round = 0; round < 30; round++) {
        struct pair *p = pair_new(schemes[round % 2], NULL, NULL);
        struct body *body = pattern_body(3 * MIB, 1);
        for (int i = 0; i < 4; i++) {
            cr_assert_eq(link_send(p->client.link, 1, NULL, &body, 1), ERR_OK);
            cr_assert_eq(link_send(p->server.link, 1, NULL, &body, 1), ERR_OK);
        }
        body_drop(body);
        for (int i = 0; i < round % 6; i++)
            loop_turn(p->loop, 1000);
        pair_free(p);
    }
}

Test(link_end, a_listener_out_of_descriptors_recovers) {
    struct pair *p = pair_listen("tcp", NULL);
    int hoard[64], count = 0;
    struct rlimit few, before;
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = 64;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (count < 64 && (hoard[count] = dup(0)) >= 0)
        count++;
    close(hoard[--count]); /* one, for this side */
    int fd = raw_connect(listener_url(p->listener));
    UNTIL(p->loop, listener_failures(p->listener) > 0);
    cr_assert_eq(p->accepted, 0);
    while (count)
        close(hoard[--count]);
    UNTIL(p->loop, p->accepted == 1);
    setrlimit(RLIMIT_NOFILE, &before);
    close(fd);
    pair_free(p);
}

Test(link_end, links_outlive_their_listener) {
    struct pair *p = pair_new("tcp", NULL, NULL);
    listener_close(p->listener);
    UNTIL(p->loop, p->listener_closed == 1);
    cr_assert_eq(link_send(p->client.link, 4, NULL, NULL, 0), ERR_OK);
    UNTIL(p->loop, p->server.frames == 1);
    link_kill(p->client.link);
    p->client.link = NULL;
    UNTIL(p->loop, p->server.closed == 1);
    cr_assert_eq(p->client.closed, 0);
    cr_assert(loop_drain(p->loop, 5 * USEC_S));
    loop_free(p->loop);
    free(p);
}

/* --- a peer's process dies ------------------------------------------------ */

struct peer_process {
    pid_t pid;
    int url_fd;
};

static void peer_main(int url_fd) {
    char url[LINK_PEER_BYTES] = "";
    if (read(url_fd, url, sizeof url) <= 0)
        _exit(1);
    int fd = raw_connect(url);
    static const uint8_t whole_frame_and_a_part[20] = {8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 100};
    raw_write(fd, whole_frame_and_a_part, sizeof whole_frame_and_a_part);
    pause();
    _exit(0);
}

/* Forked before nng has threads; it connects once it is told where. */
static struct peer_process peer_start(void) {
    int fds[2];
    cr_assert_eq(pipe(fds), 0);
    struct peer_process peer = {.pid = fork(), .url_fd = fds[1]};
    if (peer.pid == 0)
        peer_main(fds[0]);
    close(fds[0]);
    return peer;
}

Test(link_end, a_killed_peer_is_noticed_at_once) {
    struct peer_process peer = peer_start();
    struct pair *p = pair_listen("tcp", NULL);
    const char *url = listener_url(p->listener);
    cr_assert_gt(write(peer.url_fd, url, strlen(url) + 1), 0);
    UNTIL(p->loop, p->server.frames == 1);
    cr_assert_eq(p->server.heard[0].type, 5);
    cr_assert_eq(link_partial_bytes(p->server.link), 8);
    kill(peer.pid, SIGKILL);
    usec_t killed = clock_now();
    UNTIL(p->loop, p->server.closed == 1);
    cr_assert_lt(clock_now() - killed, 100 * USEC_MS);
    cr_assert_eq(p->server.cause, LINK_END_PEER);
    waitpid(peer.pid, NULL, 0);
    close(peer.url_fd);
    pair_free(p);
}

/* --- frames that break the rules ------------------------------------------ */

struct bad_frame {
    const char *what;
    uint32_t length;
    uint16_t type;
    uint16_t reserved;
    uint32_t header;
    enum err code;
};

static const struct bad_frame bad_frames[] = {
    {"length below the head's rest", 7, 1, 0, 0, ERR_PROTOCOL},
    {"header longer than the frame", 20, 1, 0, 13, ERR_PROTOCOL},
    {"header longer than anything", 20, 1, 0, 0xffffffff, ERR_PROTOCOL},
    {"type 0", 8, 0, 0, 0, ERR_PROTOCOL},
    {"reserved not 0", 8, 1, 1, 0, ERR_PROTOCOL},
    {"one byte past the frame limit", 8 + 5001, 1, 0, 0, ERR_TOO_LARGE},
    {"as large as can be said", 0xffffffff, 1, 0, 0, ERR_TOO_LARGE},
    {"one byte past the header limit", 8 + 301, 1, 0, 301, ERR_TOO_LARGE},
    {"another protocol", 0x20544547, 0x202f, 0x5448, 0x312f5054, ERR_PROTOCOL},
};

static struct pair *bad_pair(int *fd) {
    struct pair *p = pair_listen("tcp", &(struct link_options){.frame_bytes = 5000, .header_bytes = 300});
    *fd = raw_connect(listener_url(p->listener));
    UNTIL(p->loop, p->accepted == 1);
    return p;
}

static void write_head(int fd, const struct bad_frame *bad) {
    uint8_t head[12];
    put_u32(head, bad->length);
    put_u16(head + 4, bad->type);
    put_u16(head + 6, bad->reserved);
    put_u32(head + 8, bad->header);
    raw_write(fd, head, sizeof head);
}

Test(link_end, malformed_and_oversized_frames_end_the_link_unread) {
    for (size_t i = 0; i < sizeof bad_frames / sizeof bad_frames[0]; i++) {
        int fd;
        struct pair *p = bad_pair(&fd);
        write_head(fd, &bad_frames[i]);
        UNTIL(p->loop, p->server.closed == 1);
        cr_assert_eq(p->server.cause, LINK_END_PROTOCOL, "%s", bad_frames[i].what);
        cr_assert_eq(p->server.code, bad_frames[i].code, "%s: %s", bad_frames[i].what, p->server.text);
        cr_assert_eq(p->server.frames, 0);
        cr_assert_eq(p->server.refusing, 1);
        cr_assert_neq(p->server.text[0], 0);
        cr_assert_eq(loop_stats(p->loop)->refused_frames, 1);
        close(fd);
        pair_free(p);
    }
}

Test(link_end, frames_at_the_limits_are_taken) {
    int fd;
    struct pair *p = bad_pair(&fd);
    static const uint8_t content[5000];
    write_head(fd, &(struct bad_frame){.length = 8 + 5000, .type = 0xffff, .header = 300});
    raw_write(fd, content, 5000);
    UNTIL(p->loop, p->server.frames == 1);
    cr_assert_eq(p->server.heard[0].header_size, 300);
    cr_assert_eq(p->server.bytes, 4700);
    close(fd);
    pair_free(p);
}

/* The peer goes on sending; the reason reaches it all the same. */
Test(link_end, a_refused_peer_gets_the_last_frame) {
    int fd;
    struct pair *p = bad_pair(&fd);
    p->server.farewell = 99;
    write_head(fd, &bad_frames[5]);
    static const uint8_t flood[200000];
    raw_write(fd, flood, sizeof flood);
    usec_t start = clock_now();
    uint8_t head[12] = {0};
    size_t got = 0;
    while (got < sizeof head) {
        loop_turn(p->loop, 1000);
        ssize_t n = recv(fd, head + got, sizeof head - got, MSG_DONTWAIT);
        cr_assert(n > 0 || errno == EAGAIN);
        got += n > 0 ? (size_t)n : 0;
        cr_assert_lt(clock_now() - start, 5 * USEC_S);
    }
    cr_assert_eq(get_u16(head + 4), 99);
    cr_assert_eq(p->server.closed, 0, "waits for the peer to hang up");
    close(fd);
    UNTIL(p->loop, p->server.closed == 1);
    cr_assert_eq(p->server.code, ERR_TOO_LARGE);
    pair_free(p);
}

Test(link_end, a_refused_peer_that_stays_is_cut_off) {
    int fd;
    struct pair *p = bad_pair(&fd);
    p->server.farewell = 99;
    write_head(fd, &bad_frames[0]);
    UNTIL(p->loop, p->server.closed == 1);
    cr_assert_eq(p->server.cause, LINK_END_PROTOCOL);
    close(fd);
    pair_free(p);
}

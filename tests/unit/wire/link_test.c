// SPDX-License-Identifier: Apache-2.0
/* Frames over real loopback sockets. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "pair.h"
#include "wire/loop_private.h"

static const char *const schemes[] = {"tcp", "ipc"};
static int scheme_indexes[] = {0, 1};

/* --- sizes ---------------------------------------------------------------- */

static const size_t sizes[] = {0,      1,      11,      12,          1023,        1024,  4084,
                               4085,   4096,   16383,   16384,       65535,       65536, 131060,
                               131072, 131084, 1000000, 4 * 1048576, 8 * 1048576, 0,     7};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void send_sizes(struct link *link, uint32_t seed) {
    for (uint32_t i = 0; i < SIZES; i++) {
        struct body *body = pattern_body(sizes[i], seed + i);
        uint8_t header[64];
        memset(header, (int)(seed + i), sizeof header);
        cr_assert_eq(link_send_raw(link, (uint16_t)(i + 1), header, i, &body, 1), ERR_OK);
        body_drop(body);
    }
}

static void check_sizes(const struct side *side, uint32_t seed) {
    cr_assert_eq(side->frames, SIZES);
    for (uint32_t i = 0; i < SIZES; i++) {
        const struct heard *heard = &side->heard[i];
        cr_assert_eq(heard->type, i + 1);
        cr_assert_eq(heard->header_size, i);
        cr_assert_eq(heard->first, i ? (uint8_t)(seed + i) : 0);
        cr_assert(pattern_matches(heard->body, sizes[i], seed + i), "frame %u of %zu bytes", i, sizes[i]);
    }
}

ParameterizedTestParameters(link, frames_of_all_sizes_both_ways) {
    return cr_make_param_array(int, scheme_indexes, 2);
}

ParameterizedTest(int *scheme, link, frames_of_all_sizes_both_ways) {
    struct pair *p = pair_new(schemes[*scheme], NULL, NULL);
    p->client.keep_bodies = p->server.keep_bodies = true;
    send_sizes(p->client.link, 100);
    send_sizes(p->server.link, 7000);
    UNTIL(p->loop, p->client.frames >= SIZES && p->server.frames >= SIZES);
    check_sizes(&p->server, 100);
    check_sizes(&p->client, 7000);
    UNTIL(p->loop, p->client.drained && p->server.drained);
    cr_assert_eq(link_queued_bytes(p->client.link), 0);
    cr_assert_eq(link_partial_bytes(p->server.link), 0);
    pair_free(p);
}

/* Random sizes and headers larger than the small buffer, in one burst. */
Test(link, random_frames_keep_order_and_bytes) {
    enum { FRAMES = 3000 };
    static size_t want[FRAMES];
    struct rng rng = {.state = 42};
    struct pair *p = pair_new("tcp", &(struct link_options){.queued_bytes = GIB}, NULL);
    p->server.keep_bodies = true;
    uint8_t *header = xcalloc(1, 20000);
    for (uint32_t i = 0; i < FRAMES; i++) {
        want[i] = rng_below(&rng, (uint64_t)1 << rng_below(&rng, 17));
        size_t header_size = i % 50 == 0 ? rng_below(&rng, 20000) : rng_below(&rng, 40);
        struct body *body = pattern_body(want[i], i);
        cr_assert_eq(link_send_raw(p->client.link, (uint16_t)(i + 1), header, header_size, &body, 1), ERR_OK);
        body_drop(body);
        if (i % 100 == 0)
            loop_turn(p->loop, 0);
    }
    UNTIL(p->loop, p->server.frames == FRAMES);
    for (uint32_t i = 0; i < FRAMES; i++) {
        cr_assert_eq(p->server.heard[i].type, (uint16_t)(i + 1));
        cr_assert(pattern_matches(p->server.heard[i].body, want[i], i));
    }
    free(header);
    pair_free(p);
}

Test(link, several_bodies_make_one_frame) {
    struct pair *p = pair_new("tcp", NULL, NULL);
    p->server.keep_bodies = true;
    struct body *whole = pattern_body(70000, 3);
    struct body *parts[] = {body_slice(whole, 0, 10), NULL, body_slice(whole, 10, 60000),
                            body_slice(whole, 60010, 0), body_slice(whole, 60010, 9990)};
    cr_assert_eq(link_send(p->client.link, 9, NULL, parts, 5), ERR_OK);
    for (int i = 0; i < 5; i++)
        body_drop(parts[i]);
    body_drop(whole);
    UNTIL(p->loop, p->server.frames == 1);
    cr_assert(pattern_matches(p->server.heard[0].body, 70000, 3));
    pair_free(p);
}

/* Frames cut at every byte by the network. */
Test(link, a_frame_may_come_byte_by_byte) {
    struct pair *p = pair_listen("tcp", NULL);
    p->server.keep_bodies = true;
    int fd = raw_connect(listener_url(p->listener));
    UNTIL(p->loop, p->accepted == 1);
    uint8_t frame[12 + 5 + 30] = {0};
    put_u32(frame, 8 + 5 + 30);
    put_u16(frame + 4, 77);
    put_u32(frame + 8, 5);
    struct body *body = pattern_body(30, 1);
    memcpy(frame + 17, body->data, 30);
    body_drop(body);
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof frame; i++) {
            raw_write(fd, frame + i, 1);
            loop_turn(p->loop, 200);
        }
    UNTIL(p->loop, p->server.frames == 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(p->server.heard[i].type, 77);
        cr_assert(pattern_matches(p->server.heard[i].body, 30, 1));
    }
    close(fd);
    UNTIL(p->loop, p->server.closed == 1);
    cr_assert_eq(p->server.cause, LINK_END_PEER);
    pair_free(p);
}

/* --- a peer that reads slowly --------------------------------------------- */

Test(link, a_slow_reader_gets_every_byte_and_the_queue_is_told) {
    struct pair *p = pair_listen("tcp", NULL);
    int fd = raw_connect(listener_url(p->listener));
    UNTIL(p->loop, p->accepted == 1);
    struct body *body = pattern_body(8 * MIB, 5);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(link_send(p->server.link, 3, NULL, &body, 1), ERR_OK);
    body_drop(body);
    loop_turn(p->loop, 0);
    UNTIL(p->loop, link_queued_bytes(p->server.link) < 24 * MIB);
    cr_assert_gt(link_queued_bytes(p->server.link), 0, "more than the kernel takes");
    size_t total = 0, whole = 3 * (8 * MIB + FRAME_PREFIX_BYTES);
    uint8_t *got = xmalloc(whole);
    while (total < whole) {
        ssize_t n = read(fd, got + total, 150000 < whole - total ? 150000 : whole - total);
        cr_assert_gt(n, 0);
        total += (size_t)n;
        loop_turn(p->loop, 500);
    }
    UNTIL(p->loop, p->server.drained == 1);
    struct body *expected = pattern_body(8 * MIB, 5);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(memcmp(got + (size_t)i * (8 * MIB + 12) + 12, expected->data, 8 * MIB), 0);
    body_drop(expected);
    free(got);
    close(fd);
    UNTIL(p->loop, p->server.closed);
    pair_free(p);
}

Test(link, past_the_hard_bound_the_link_ends_and_says_so) {
    struct pair *p = pair_new("tcp", NULL, &(struct link_options){.queued_bytes = 100 * 1000});
    struct body *body = pattern_body(60000, 1);
    cr_assert_eq(link_send(p->server.link, 1, NULL, &body, 1), ERR_OK);
    cr_assert_eq(link_send(p->server.link, 2, NULL, &body, 1), ERR_FULL);
    cr_assert_eq(link_send(p->server.link, 3, NULL, &body, 1), ERR_CLOSED);
    cr_assert_eq(p->server.closed, 0, "never from inside a call");
    body_drop(body);
    UNTIL(p->loop, p->server.closed && p->client.closed);
    cr_assert_eq(p->server.cause, LINK_END_OVERFLOW);
    cr_assert_eq(p->server.code, ERR_FULL);
    cr_assert_eq(p->client.cause, LINK_END_PEER);
    pair_free(p);
}

Test(link, a_frame_past_the_peers_limit_is_not_queued) {
    struct pair *p = pair_new("tcp", NULL, NULL);
    link_limit(p->client.link, 0, 1000);
    struct body *body = pattern_body(1001, 1);
    cr_assert_eq(link_send(p->client.link, 1, NULL, &body, 1), ERR_TOO_LARGE);
    body_drop(body);
    cr_assert_eq(link_queued_bytes(p->client.link), 0);
    cr_assert(link_is_open(p->client.link));
    cr_assert_eq(link_send(p->client.link, 2, NULL, NULL, 0), ERR_OK);
    UNTIL(p->loop, p->server.frames == 1);
    pair_free(p);
}

/* --- many links ----------------------------------------------------------- */

enum { MANY = 2000 };

struct crowd {
    struct listener *listener;
    struct side *client; /* one for all: counts */
    struct link *links[MANY];
    unsigned accepted, opened, answered, closed;
};

static void crowd_echo(void *ctx, struct link *link, const struct frame *frame) {
    cr_assert_eq(link_send_raw(link, frame->type, frame->header, frame->header_size, &frame->body, 1),
                 ERR_OK);
}
static const struct link_handlers crowd_server = {.frame = crowd_echo};

static void crowd_accepted(void *ctx, struct listener *listener, struct link *link) {
    ((struct crowd *)ctx)->accepted++;
    link_attach(link, &crowd_server, ctx);
}
static void crowd_opened(void *ctx, struct link *link) {
    ((struct crowd *)ctx)->opened++;
}
static void crowd_answer(void *ctx, struct link *link, const struct frame *frame) {
    ((struct crowd *)ctx)->answered++;
}
static void crowd_closed(void *ctx, struct link *link, const struct link_end *end) {
    ((struct crowd *)ctx)->closed++;
}
static const struct link_handlers crowd_client = {
    .opened = crowd_opened, .frame = crowd_answer, .closed = crowd_closed};
static const struct listener_handlers crowd_listener = {.accepted = crowd_accepted};

ParameterizedTestParameters(link, two_thousand_links) {
    return cr_make_param_array(int, scheme_indexes, 2);
}

ParameterizedTest(int *scheme, link, two_thousand_links) {
    static struct crowd crowd;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < 2 * MANY + 200)
        cr_skip_test("needs %d descriptors", 2 * MANY + 200);
    char url[LINK_PEER_BYTES];
    struct loop *loop = loop_new(NULL);
    crowd.listener =
        listener_open(loop, fresh_url(schemes[*scheme], url),
                      &(struct listener_options){.handlers = &crowd_listener, .ctx = &crowd}, NULL);
    cr_assert_not_null(crowd.listener);
    struct link_options options = {.handlers = &crowd_client, .ctx = &crowd, .dial_timeout = 10 * USEC_S};
    for (int i = 0; i < MANY; i++) {
        crowd.links[i] = link_dial(loop, listener_url(crowd.listener), &options, NULL);
        if (i % 100 == 99)
            UNTIL(loop, crowd.opened == (unsigned)i + 1);
    }
    UNTIL(loop, crowd.accepted == MANY);
    struct body *body = pattern_body(3000, 1);
    for (unsigned round = 1; round <= 3; round++) {
        for (int i = 0; i < MANY; i++)
            cr_assert_eq(link_send(crowd.links[i], 5, NULL, &body, 1), ERR_OK);
        UNTIL(loop, crowd.answered == round * MANY);
    }
    body_drop(body);
    for (int i = 0; i < MANY; i++)
        link_close(crowd.links[i], ERR_OK, "done");
    UNTIL(loop, crowd.closed == MANY);
    listener_close(crowd.listener);
    cr_assert(loop_drain(loop, 10 * USEC_S));
    loop_free(loop);
}

// SPDX-License-Identifier: Apache-2.0
/* A kept link: comes up, goes down, is dialled again, gives up cleanly. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "pair.h"
#include "wire/frames.h"
#include "wire/keep.h"

struct keeper {
    unsigned up, down, was_up, refused, frames;
    struct link *link;
    enum link_cause cause;
    const char *redirect; /* where to go at the next down */
    bool free;            /* the keep, at the next down */
    bool settles;
};

static void keeper_up(void *ctx, struct keep *keep, struct link *link) {
    struct keeper *k = ctx;
    k->up++;
    cr_assert_eq(keep_link(keep), link);
    if (k->settles)
        keep_settled(keep);
    cr_assert_eq(link_send(link, 1, NULL, NULL, 0), ERR_OK);
}

static void keeper_frame(void *ctx, struct link *link, const struct frame *frame) {
    ((struct keeper *)ctx)->frames++;
}

static void keeper_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct keeper *k = ctx;
    k->down++;
    k->was_up += was_up;
    k->refused += end->cause == LINK_END_REFUSED;
    k->cause = end->cause;
    cr_assert_null(keep_link(keep));
    if (k->redirect)
        cr_assert_eq(keep_redirect(keep, k->redirect, NULL), ERR_OK);
    if (k->free)
        keep_free(keep);
}

static const struct keep_handlers keeper_handlers = {
    .up = keeper_up, .frame = keeper_frame, .down = keeper_down};

static struct keep *keeper_start(struct loop *loop, struct keeper *k, const char *url) {
    struct keep_options options = {.handlers = &keeper_handlers, .ctx = k, .retry_max = 100 * USEC_MS};
    struct keep *keep = keep_new(loop, url, &options, NULL);
    cr_assert_not_null(keep);
    return keep;
}

Test(keep, comes_up_again_when_the_link_is_lost) {
    struct pair *p = pair_listen("tcp", NULL);
    struct keeper k = {.settles = true};
    struct keep *keep = keeper_start(p->loop, &k, listener_url(p->listener));
    for (unsigned round = 1; round <= 5; round++) {
        UNTIL(p->loop, k.up == round && p->server.frames == round);
        cr_assert_eq(link_send(p->server.link, 2, NULL, NULL, 0), ERR_OK);
        UNTIL(p->loop, k.frames == round);
        link_kill(p->server.link);
        p->server.link = NULL;
    }
    UNTIL(p->loop, k.was_up == 5);
    cr_assert_eq(k.cause, LINK_END_PEER);
    keep_free(keep);
    pair_free(p);
}

Test(keep, tells_refused_at_once_and_comes_up_with_the_listener) {
    struct pair *p = pair_listen("tcp", NULL);
    struct keeper k = {.settles = true};
    struct keep *keep = keeper_start(p->loop, &k, listener_url(p->listener));
    UNTIL(p->loop, k.up == 1 && p->server.opened == 1);
    char url[LINK_PEER_BYTES];
    strcpy(url, listener_url(p->listener));
    listener_close(p->listener);
    UNTIL(p->loop, p->listener_closed == 1);
    usec_t gone = clock_now();
    link_kill(p->server.link);
    p->server.link = NULL;
    UNTIL(p->loop, k.refused >= 1);
    cr_assert_lt(clock_now() - gone, 2 * USEC_S, "not by a timeout");
    UNTIL(p->loop, k.refused >= 4);
    cr_assert_eq(keep_failures(keep), k.refused);
    struct pair *successor = pair_listen("tcp", NULL);
    cr_assert_eq(keep_redirect(keep, listener_url(successor->listener), NULL), ERR_OK);
    keep_hurry(keep);
    usec_t deadline = clock_now() + 5 * USEC_S;
    while (k.up < 2 && clock_now() < deadline) {
        loop_turn(p->loop, USEC_MS);
        loop_turn(successor->loop, USEC_MS);
    }
    cr_assert_eq(k.up, 2);
    cr_assert_eq(keep_failures(keep), 0);
    keep_free(keep);
    cr_assert(loop_drain(p->loop, 5 * USEC_S));
    loop_free(p->loop);
    free(p);
    pair_free(successor);
}

Test(keep, backs_off_from_a_peer_that_accepts_and_hangs_up) {
    struct pair *p = pair_listen("tcp", NULL);
    struct keeper k = {0};
    struct keep *keep = keeper_start(p->loop, &k, listener_url(p->listener));
    usec_t end = clock_now() + 500 * USEC_MS;
    while (clock_now() < end) {
        loop_turn(p->loop, 5 * USEC_MS);
        if (p->server.link) {
            link_kill(p->server.link);
            p->server.link = NULL;
        }
    }
    cr_assert_gt(k.up, 2);
    cr_assert_lt(k.up, 30, "dialled %u times in half a second", k.up);
    keep_free(keep);
    pair_free(p);
}

Test(keep, may_be_freed_by_its_own_handler) {
    struct pair *p = pair_listen("ipc", NULL);
    struct keeper k = {.free = true};
    keeper_start(p->loop, &k, "ipc:///tmp/mailroom-wire-nobody");
    UNTIL(p->loop, k.down == 1);
    cr_assert_eq(k.cause, LINK_END_REFUSED);
    pair_free(p);
}

Test(keep, a_malformed_url_is_refused) {
    struct loop *loop = loop_new(NULL);
    struct err_detail detail;
    cr_assert_null(keep_new(loop, "nothing", &(struct keep_options){0}, &detail));
    cr_assert_eq(detail.code, ERR_INVALID);
    loop_free(loop);
}

Test(keep, a_silent_link_is_asked_then_ended_and_dialled_anew) {
    struct pair *p = pair_listen("tcp", NULL);
    struct keeper k = {.settles = true};
    struct keep_options options = {
        .handlers = &keeper_handlers, .ctx = &k, .silent = 120 * USEC_MS, .asks = true};
    struct keep *keep = keep_new(p->loop, listener_url(p->listener), &options, NULL);
    UNTIL(p->loop, k.up == 2);
    cr_assert_eq(k.cause, LINK_END_TIMEOUT);
    cr_assert_eq(k.was_up, 1);
    cr_assert_geq(p->server.frames, 2, "its first frame, and a PING");
    keep_free(keep);
    pair_free(p);
}

static void answer(void *ctx, struct link *link, const struct frame *frame) {
    link_send(link, FRAME_PONG, NULL, NULL, 0);
}

static void on_answering(void *ctx, struct listener *listener, struct link *link) {
    static const struct link_handlers answers = {.frame = answer};
    link_attach(link, &answers, NULL);
}

Test(keep, a_link_that_answers_stays) {
    static const struct listener_handlers handlers = {.accepted = on_answering};
    struct loop *loop = loop_new(NULL);
    char url[LINK_PEER_BYTES];
    struct listener *listener =
        listener_open(loop, fresh_url("tcp", url), &(struct listener_options){.handlers = &handlers}, NULL);
    struct keeper k = {.settles = true};
    struct keep_options options = {
        .handlers = &keeper_handlers, .ctx = &k, .silent = 700 * USEC_MS, .asks = true};
    struct keep *keep = keep_new(loop, listener_url(listener), &options, NULL);
    usec_t end = clock_now() + 2 * USEC_S;
    UNTIL(loop, clock_now() > end);
    cr_assert_eq(k.down, 0);
    cr_assert_eq(k.frames, 0, "PONG is not handed on");
    keep_free(keep);
    listener_close(listener);
    cr_assert(loop_drain(loop, 5 * USEC_S));
    loop_free(loop);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Several loops in several threads of one process (as two users of the client
 * library in one program would have), that dial one another, send, close and
 * kill links at random, while other threads post to them. A plain program, not
 * criterion, so that it also runs under the thread sanitizer.
 *
 *   wire_stress [seed]        exit 0: every frame in order, nothing left over
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/body.h"
#include "base/check.h"
#include "base/codec.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "wire/keep.h"
#include "wire/listener.h"
#include "wire/loop_private.h"

enum { LOOPS = 3, KEEPS = 6, POSTS = 3000 };
#define STRESS_USEC (1500 * USEC_MS)

struct user;

/* An outgoing link: counts its frames from 0 each time it comes up. */
struct sender {
    struct user *user;
    struct keep *keep;
    uint64_t next;
};

/* An incoming link: checks that count. */
struct receiver {
    struct user *user;
    uint64_t next;
};

struct user {
    pthread_t thread;
    struct loop *loop;
    struct listener *listener;
    struct rng rng;
    struct sender senders[KEEPS];
    struct loop_timer tick;
    uint64_t posts, frames, ups;
    usec_t end;
    bool stopping;
};

static struct user users[LOOPS];
static char urls[LOOPS][LINK_PEER_BYTES];

/* --- incoming --------------------------------------------------------------- */

static void receiver_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct receiver *r = ctx;
    CHECK(frame->header_size == 8 && get_u64(frame->header) == r->next);
    CHECK(!frame->body || frame->body->data[frame->body->size - 1] == (uint8_t)r->next);
    r->next++;
    r->user->frames++;
    if (rng_below(&r->user->rng, 3000) == 0)
        link_close(link, ERR_OK, "at random");
}
static void receiver_closed(void *ctx, struct link *link, const struct link_end *end) {
    free(ctx);
}
static const struct link_handlers receiver_handlers = {.frame = receiver_frame, .closed = receiver_closed};

static void accepted(void *ctx, struct listener *listener, struct link *link) {
    struct user *user = ctx;
    if (rng_below(&user->rng, 20) == 0) {
        link_kill(link);
        return;
    }
    struct receiver *r = xcalloc(1, sizeof *r);
    r->user = user;
    link_attach(link, &receiver_handlers, r);
}
static const struct listener_handlers accepting = {.accepted = accepted};

/* --- outgoing --------------------------------------------------------------- */

static void sender_up(void *ctx, struct keep *keep, struct link *link) {
    struct sender *s = ctx;
    s->next = 0;
    s->user->ups++;
    keep_settled(keep);
}
static const struct keep_handlers sender_handlers = {.up = sender_up};

static void send_some(struct sender *s) {
    struct link *link = keep_link(s->keep);
    for (int i = 0; link && i < 20 && link_queued_bytes(link) < MIB; i++) {
        uint64_t size = rng_below(&s->user->rng, (uint64_t)1 << rng_below(&s->user->rng, 19));
        struct body *body = body_new(size);
        if (size)
            body->data[size - 1] = (uint8_t)s->next;
        uint8_t header[8];
        put_u64(header, s->next);
        s->next += link_send_raw(link, 1, header, sizeof header, &body, 1) == ERR_OK;
        body_drop(body);
    }
}

static void stop(struct user *user) {
    user->stopping = true;
    for (int i = 0; i < KEEPS; i++)
        keep_free(user->senders[i].keep);
    loop_stop(user->loop);
}

static void on_tick(struct loop_timer *timer) {
    struct user *user = container_of(timer, struct user, tick);
    if (loop_now(user->loop) >= user->end) {
        stop(user);
        return;
    }
    for (int i = 0; i < KEEPS; i++)
        send_some(&user->senders[i]);
    loop_timer_start(user->loop, timer, loop_now(user->loop) + 1000);
}

/* --- posts from elsewhere --------------------------------------------------- */

struct posted {
    struct loop_event event;
    struct user *user;
};

static void on_posted(struct loop_event *event) {
    struct posted *posted = container_of(event, struct posted, event);
    posted->user->posts++;
    free(posted);
}

static void *poster_main(void *arg) {
    for (int i = 0; i < POSTS; i++) {
        struct posted *posted = xcalloc(1, sizeof *posted);
        posted->event.fire = on_posted;
        posted->user = &users[i % LOOPS];
        loop_post(posted->user->loop, &posted->event);
        if (i % 50 == 0)
            usleep(1000);
    }
    return NULL;
}

/* --- a user ----------------------------------------------------------------- */

static void *user_main(void *arg) {
    struct user *user = arg;
    struct keep_options options = {.handlers = &sender_handlers, .link.close_timeout = 50 * USEC_MS};
    for (int i = 0; i < KEEPS; i++) {
        struct sender *s = &user->senders[i];
        s->user = user;
        options.ctx = s;
        s->keep = keep_new(user->loop, urls[i % LOOPS], &options, NULL);
        CHECK(s->keep);
    }
    user->tick.fire = on_tick;
    user->end = loop_now(user->loop) + STRESS_USEC;
    loop_timer_start(user->loop, &user->tick, 0);
    loop_run(user->loop);
    listener_close(user->listener);
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    for (int i = 0; i < LOOPS; i++) {
        users[i].loop = loop_new(NULL);
        users[i].rng.state = seed * LOOPS + (uint64_t)i;
        char url[LINK_PEER_BYTES];
        snprintf(url, sizeof url, i ? "tcp://127.0.0.1:0" : "ipc:///tmp/mailroom-stress-%d", getpid());
        struct listener_options options = {.handlers = &accepting, .ctx = &users[i]};
        users[i].listener = listener_open(users[i].loop, url, &options, NULL);
        CHECK(users[i].listener);
        strcpy(urls[i], listener_url(users[i].listener));
    }
    pthread_t posters[2];
    for (int i = 0; i < LOOPS; i++)
        CHECK(pthread_create(&users[i].thread, NULL, user_main, &users[i]) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&posters[i], NULL, poster_main, NULL) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(posters[i], NULL);
    for (int i = 0; i < LOOPS; i++)
        pthread_join(users[i].thread, NULL);
    uint64_t posts = 0, frames = 0, ups = 0;
    /* the links that came in end when their senders' loops are drained: by turns */
    usec_t deadline = clock_now() + 10 * USEC_S;
    bool left = true;
    while (left && clock_now() < deadline) {
        left = false;
        for (int i = 0; i < LOOPS; i++)
            left |= !loop_drain(users[i].loop, 5 * USEC_MS);
    }
    CHECK(!left);
    for (int i = 0; i < LOOPS; i++) {
        loop_turn(users[i].loop, 0);
        posts += users[i].posts;
        frames += users[i].frames;
        ups += users[i].ups;
        loop_free(users[i].loop);
    }
    printf("%llu frames over %llu links, %llu posts\n", (unsigned long long)frames, (unsigned long long)ups,
           (unsigned long long)posts);
    CHECK(posts == 2 * POSTS && frames > 1000 && ups >= LOOPS);
    return 0;
}

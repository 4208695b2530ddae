// SPDX-License-Identifier: Apache-2.0
#include "wire/keep.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "wire/frames.h"
#include "wire/link_private.h"

struct keep {
    struct loop *loop;
    struct keep_options options;
    char *url;
    struct link *link; /* dialling or up */
    bool up;
    unsigned failures;
    usec_t backoff; /* next wait, before jitter; 0: dial at once */
    struct loop_timer retry;
    struct loop_timer watch; /* runs while a settled link is judged by its silence */
};

enum { KEEP_LOOKS = 6 /* at a link within `silent`; it is asked when quiet for two of them */ };

static const struct keep_handlers no_handlers;
static const struct link_handlers link_handlers;

static enum err dial(struct keep *keep, struct err_detail *detail) {
    struct link_options options = keep->options.link;
    options.handlers = &link_handlers;
    options.ctx = keep;
    keep->link = link_dial(keep->loop, keep->url, &options, detail);
    return keep->link ? ERR_OK : ERR_INVALID;
}

static void on_retry(struct loop_timer *timer) {
    struct keep *keep = container_of(timer, struct keep, retry);
    struct err_detail detail;
    CHECK(dial(keep, &detail) == ERR_OK); /* keep_new and keep_redirect tried the url */
}

/* Half of the back-off is certain, half is chance. */
static void schedule(struct keep *keep) {
    usec_t wait = 0;
    if (keep->backoff)
        wait = keep->backoff / 2 + (usec_t)loop_random(keep->loop, (uint64_t)keep->backoff / 2 + 1);
    usec_t next = keep->backoff ? keep->backoff * 2 : keep->options.retry_min;
    keep->backoff = next < keep->options.retry_max ? next : keep->options.retry_max;
    loop_timer_start(keep->loop, &keep->retry, loop_now(keep->loop) + wait);
}

/* --- the link's events ---------------------------------------------------- */

static void on_opened(void *ctx, struct link *link) {
    struct keep *keep = ctx;
    keep->up = true;
    keep->failures = 0;
    if (keep->options.handlers->up)
        keep->options.handlers->up(keep->options.ctx, keep, link);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct keep *keep = ctx;
    if (keep->options.asks && frame->type == FRAME_PONG)
        return; /* that it came is what counts: link_heard */
    if (keep->options.handlers->frame)
        keep->options.handlers->frame(keep->options.ctx, link, frame);
}

static void on_drained(void *ctx, struct link *link) {
    struct keep *keep = ctx;
    if (keep->options.handlers->drained)
        keep->options.handlers->drained(keep->options.ctx, link);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct keep *keep = ctx;
    bool was_up = keep->up;
    loop_timer_stop(keep->loop, &keep->watch);
    keep->link = NULL;
    keep->up = false;
    keep->failures += !was_up;
    schedule(keep);
    if (keep->options.handlers->down)
        keep->options.handlers->down(keep->options.ctx, keep, end, was_up);
}

static const struct link_handlers link_handlers = {.opened = on_opened,
                                                   .frame = on_frame,
                                                   .drained = on_drained,
                                                   .closed = on_closed,
                                                   .refusing = frame_say_why};

/* --- silence -------------------------------------------------------------- */

static void look_again(struct keep *keep) {
    loop_timer_start(keep->loop, &keep->watch, loop_now(keep->loop) + keep->options.silent / KEEP_LOOKS);
}

static void give_up(struct keep *keep) {
    struct link_end end = {LINK_END_TIMEOUT, ERR_TIMEOUT, "silent for too long"};
    struct link *link = keep->link;
    link_kill(link);
    on_closed(keep, link, &end);
}

/* Events come before timers in a turn, and who woke late judges nobody by it. */
static void on_watch(struct loop_timer *timer) {
    struct keep *keep = container_of(timer, struct keep, watch);
    usec_t silence = loop_now(keep->loop) - loop_late(keep->loop) - link_heard(keep->link);
    if (silence > keep->options.silent) {
        give_up(keep);
        return;
    }
    if (keep->options.asks && silence > keep->options.silent / KEEP_LOOKS * 2) {
        Mr__Ping ping = MR__PING__INIT;
        ping.sent_at = loop_now(keep->loop);
        frame_send_ping(keep->link, &ping, NULL, 0);
    }
    look_again(keep);
}

/* --- the owner's calls ---------------------------------------------------- */

struct keep *keep_new(struct loop *loop, const char *url, const struct keep_options *options,
                      struct err_detail *detail) {
    struct keep *keep = xcalloc(1, sizeof *keep);
    keep->loop = loop;
    keep->options = *options;
    if (!keep->options.handlers)
        keep->options.handlers = &no_handlers;
    if (!keep->options.retry_min)
        keep->options.retry_min = KEEP_RETRY_MIN_USEC_DEFAULT;
    if (!keep->options.retry_max)
        keep->options.retry_max = KEEP_RETRY_MAX_USEC_DEFAULT;
    keep->backoff = keep->options.retry_min;
    keep->retry.fire = on_retry;
    keep->watch.fire = on_watch;
    keep->url = xstrdup(url);
    if (dial(keep, detail) != ERR_OK) {
        free(keep->url);
        free(keep);
        return NULL;
    }
    return keep;
}

struct link *keep_link(const struct keep *keep) {
    return keep->up ? keep->link : NULL;
}

void *keep_ctx(const struct keep *keep) {
    return keep->options.ctx;
}

const char *keep_url(const struct keep *keep) {
    return keep->url;
}

unsigned keep_failures(const struct keep *keep) {
    return keep->failures;
}

void keep_settled(struct keep *keep) {
    keep->backoff = 0;
    if (keep->options.silent && keep->up)
        look_again(keep);
}

void keep_hurry(struct keep *keep) {
    if (loop_timer_started(&keep->retry))
        loop_timer_start(keep->loop, &keep->retry, loop_now(keep->loop));
}

enum err keep_redirect(struct keep *keep, const char *url, struct err_detail *detail) {
    nng_stream_dialer *dialer;
    int rv = nng_stream_dialer_alloc(&dialer, url);
    if (rv != 0)
        return err_set(detail, ERR_INVALID, "cannot dial %s: %s", url, nng_strerror(rv));
    nng_stream_dialer_free(dialer);
    free(keep->url);
    keep->url = xstrdup(url);
    return ERR_OK;
}

void keep_free(struct keep *keep) {
    if (!keep)
        return;
    loop_timer_stop(keep->loop, &keep->retry);
    loop_timer_stop(keep->loop, &keep->watch);
    if (keep->link) {
        struct link *link = keep->link;
        link_attach(link, NULL, NULL);
        link_close(link, ERR_CLOSED, "closed by its owner");
    }
    free(keep->url);
    free(keep);
}

// SPDX-License-Identifier: Apache-2.0
#include "pair.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/xalloc.h"

static void side_opened(void *ctx, struct link *link) {
    struct side *side = ctx;
    side->link = link;
    side->opened++;
}

static void side_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct side *side = ctx;
    cr_assert(link == side->link);
    struct heard *heard = &side->heard[side->frames++ % SIDE_FRAMES_MAX];
    *heard = (struct heard){.type = frame->type, .header_size = frame->header_size};
    heard->first = frame->header_size ? frame->header[0] : 0;
    side->bytes += frame->body ? frame->body->size : 0;
    if (side->keep_bodies)
        heard->body = body_keep(frame->body);
}

static void side_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct side *side = ctx;
    side->link = NULL;
    side->closed++;
    side->cause = end->cause;
    side->code = end->code;
    snprintf(side->text, sizeof side->text, "%s", end->text);
}

static void side_drained(void *ctx, struct link *link) {
    struct side *side = ctx;
    side->drained++;
}

static void side_refusing(void *ctx, struct link *link, const struct link_end *end) {
    struct side *side = ctx;
    side->refusing++;
    if (side->farewell)
        cr_assert_eq(link_send(link, side->farewell, NULL, NULL, 0), ERR_OK);
}

const struct link_handlers side_handlers = {.opened = side_opened,
                                            .frame = side_frame,
                                            .closed = side_closed,
                                            .drained = side_drained,
                                            .refusing = side_refusing};

static void pair_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct pair *p = ctx;
    p->accepted++;
    p->server.link = link;
    p->server.opened++;
    link_attach(link, &side_handlers, &p->server);
}

static void pair_listener_closed(void *ctx, struct listener *listener) {
    struct pair *p = ctx;
    p->listener_closed++;
}

static const struct listener_handlers pair_listener = {.accepted = pair_accepted,
                                                       .closed = pair_listener_closed};

const char *fresh_url(const char *scheme, char out[LINK_PEER_BYTES]) {
    static atomic_int count;
    if (strcmp(scheme, "ipc") == 0)
        snprintf(out, LINK_PEER_BYTES, "ipc:///tmp/mailroom-wire-%d-%d", (int)getpid(), ++count);
    else
        snprintf(out, LINK_PEER_BYTES, "%s://127.0.0.1:0", scheme);
    return out;
}

struct pair *pair_listen(const char *scheme, const struct link_options *server) {
    struct pair *p = xcalloc(1, sizeof *p);
    p->loop = loop_new(NULL);
    struct listener_options options = {.handlers = &pair_listener, .ctx = p};
    if (server)
        options.link = *server;
    char url[LINK_PEER_BYTES];
    struct err_detail detail;
    p->listener = listener_open(p->loop, fresh_url(scheme, url), &options, &detail);
    cr_assert_not_null(p->listener, "%s", detail.text);
    return p;
}

struct pair *pair_new(const char *scheme, const struct link_options *client,
                      const struct link_options *server) {
    struct pair *p = pair_listen(scheme, server);
    struct link_options options = {0};
    if (client)
        options = *client;
    options.handlers = &side_handlers;
    options.ctx = &p->client;
    p->client.link = link_dial(p->loop, listener_url(p->listener), &options, NULL);
    cr_assert_not_null(p->client.link);
    UNTIL(p->loop, p->client.opened && p->server.opened);
    return p;
}

static void side_clear(struct side *side) {
    for (size_t i = 0; i < SIDE_FRAMES_MAX; i++)
        body_drop(side->heard[i].body);
}

void pair_free(struct pair *p) {
    if (p->client.link)
        link_kill(p->client.link);
    if (p->server.link)
        link_kill(p->server.link);
    listener_close(p->listener);
    cr_assert(loop_drain(p->loop, 10 * USEC_S), "links or listener left over");
    cr_assert_eq(p->listener_closed, 1);
    cr_assert_eq(loop_stats(p->loop)->links, 0);
    side_clear(&p->client);
    side_clear(&p->server);
    loop_free(p->loop);
    free(p);
}

struct body *pattern_body(size_t size, uint32_t seed) {
    struct body *body = body_new(size);
    struct rng rng = {.state = seed};
    for (size_t i = 0; i < size; i++) {
        if (i % 64 == 0)
            body->data[i] = (uint8_t)rng_next(&rng);
        else
            body->data[i] = (uint8_t)(i + seed);
    }
    return body;
}

bool pattern_matches(const struct body *body, size_t size, uint32_t seed) {
    if (size == 0)
        return body == NULL;
    if (!body || body->size != size)
        return false;
    struct body *expected = pattern_body(size, seed);
    bool same = memcmp(expected->data, body->data, size) == 0;
    body_drop(expected);
    return same;
}

int raw_connect(const char *url) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool ipc = strncmp(url, "ipc://", 6) == 0;
    if (ipc)
        snprintf(un.sun_path, sizeof un.sun_path, "%s", url + 6);
    else
        in.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
    int fd = socket(ipc ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0);
    cr_assert_eq(ipc ? connect(fd, (struct sockaddr *)&un, sizeof un)
                     : connect(fd, (struct sockaddr *)&in, sizeof in),
                 0);
    return fd;
}

void raw_write(int fd, const void *data, size_t size) {
    cr_assert_eq(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

// SPDX-License-Identifier: Apache-2.0
/* Two ends of a connection in one loop, and what each has heard. */
#ifndef MAILROOM_TESTS_UNIT_WIRE_PAIR_H
#define MAILROOM_TESTS_UNIT_WIRE_PAIR_H

#include "base/body.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum { SIDE_FRAMES_MAX = 4096 };

struct heard {
    uint16_t type;
    size_t header_size;
    uint8_t first; /* of the header */
    struct body *body;
};

/* One end of a link. */
struct side {
    struct link *link; /* NULL once it has ended */
    unsigned opened;
    unsigned closed;
    unsigned drained;
    unsigned refusing;
    enum link_cause cause;
    enum err code;
    char text[256];
    size_t frames;
    size_t bytes;                        /* bodies */
    struct heard heard[SIDE_FRAMES_MAX]; /* frames[i] at i % SIDE_FRAMES_MAX */
    bool keep_bodies;
    uint16_t farewell; /* sent when the peer is refused; 0: nothing */
};

extern const struct link_handlers side_handlers;

struct pair {
    struct loop *loop;
    struct listener *listener;
    struct side client;
    struct side server; /* the last accepted */
    unsigned accepted;
    unsigned listener_closed;
};

/* A listener on `scheme` ("tcp", "ipc"), a client link to it, both open.
 * Options may be NULL: defaults. */
struct pair *pair_new(const char *scheme, const struct link_options *client,
                      const struct link_options *server);
/* Without dialling. */
struct pair *pair_listen(const char *scheme, const struct link_options *server);
/* Ends everything and checks that nothing is left. */
void pair_free(struct pair *p);

/* Turn the loop until the condition holds; fails the test after 10 s. */
#define UNTIL(loop, condition)                                                                               \
    do {                                                                                                     \
        usec_t until_deadline = clock_now() + 10 * USEC_S;                                                   \
        while (!(condition)) {                                                                               \
            cr_assert(clock_now() < until_deadline, "did not come true: %s", #condition);                    \
            loop_turn((loop), 20 * USEC_MS);                                                                 \
        }                                                                                                    \
    } while (0)

/* A url nobody else uses: "tcp://127.0.0.1:0" or a fresh ipc path. */
const char *fresh_url(const char *scheme, char out[LINK_PEER_BYTES]);
/* size bytes that depend on seed. */
struct body *pattern_body(size_t size, uint32_t seed);
bool pattern_matches(const struct body *body, size_t size, uint32_t seed);
/* A plain blocking socket connected to a tcp:// or ipc:// url. */
int raw_connect(const char *url);
void raw_write(int fd, const void *data, size_t size);

#endif

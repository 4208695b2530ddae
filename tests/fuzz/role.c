// SPDX-License-Identifier: Apache-2.0
#include "role.h"

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/body.h"
#include "base/codec.h"
#include "base/config.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "supervisor/board.h"
#include "supervisor/child.h"
#include "wire/hello.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum {
    FRAMES_MAX = 16,
    PART_BYTES_MAX = 1024,
    WAIT_S = 10,
    FOLDERS = 16,
    LIVES = 1000,     /* inputs for a process */
    ANSWER_US = 20000 /* patience with a link that may have been refused */
};
#define SHARD_PATH "/fuzz/shard.sock"

struct child {
    struct role *role;
    struct config config;
    int stop_fd;
    atomic_bool stops, shard_up; /* events not taken yet */
    char folder[64], path[CHILD_PATH_BYTES];
    pthread_t thread;
};

static struct child child;
static unsigned starts;

/* ---- the supervisor's side ---- */

int child_fd(const struct child *c) {
    return c->stop_fd;
}

bool child_next(struct child *c, struct child_event *out) {
    uint64_t ignored;
    if (read(c->stop_fd, &ignored, sizeof ignored) < 0) /* several events may have come as one */
        ignored = 0;
    if (atomic_exchange(&c->shard_up, false)) {
        *out =
            (struct child_event){.kind = CHILD_EVENT_PEER_UP, .peer = {.role = "shard", .instance = starts}};
        snprintf(out->peer.path, sizeof out->peer.path, "%s", SHARD_PATH);
        return true;
    }
    *out = (struct child_event){.kind = CHILD_EVENT_STOP};
    return atomic_exchange(&c->stops, false);
}

void child_ready(struct child *c) {
}

void child_beat(struct child *c) {
}

usec_t child_beat_interval(const struct child *c) {
    return USEC_S / 2;
}

void child_working_on(struct child *c, uint64_t partition) {
}

unsigned child_crashes(const struct child *c, uint64_t partition) {
    return 0;
}

bool child_next_crash(const struct child *c, unsigned *position, uint64_t *partition, unsigned *count) {
    return false;
}

void child_forgive(struct child *c, uint64_t partition) {
}

const char *child_role(const struct child *c) {
    return c->role->name;
}

unsigned child_index(const struct child *c) {
    return 0;
}

uint32_t child_instance(const struct child *c) {
    return starts;
}

const char *child_own_path(const struct child *c) {
    return c->path;
}

const struct config *child_config(const struct child *c) {
    return &c->config;
}

const struct child_peer *child_next_peer(const struct child *c, unsigned *position) {
    return NULL;
}

const struct child_peer *child_find_peer(const struct child *c, const char *role, unsigned index) {
    return NULL;
}

const void *child_counters_of(const struct child *c, const char *role, unsigned index) {
    return NULL;
}

bool child_board(const struct child *c, struct board_view *out) {
    return false;
}

/* ---- its life ---- */

/* A role ends with its process, which takes its loop and who it knows along. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:loop_new\nleak:peer_add\n";
}

static int unlink_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    return remove(path);
}

static void *run(void *arg) {
    EXPECT(child.role->main(&child) == 0);
    return NULL;
}

static void tell(atomic_bool *event) {
    uint64_t one = 1;
    atomic_store(event, true);
    EXPECT(write(child.stop_fd, &one, sizeof one) == sizeof one);
}

static void folder_fresh(void) {
    snprintf(child.folder, sizeof child.folder, "/dev/shm/mailroom-fuzz-%d", getpid());
    nftw(child.folder, unlink_one, FOLDERS, FTW_DEPTH | FTW_PHYS);
    EXPECT(mkdir(child.folder, 0700) == 0);
}

static void folder_remove(void) {
    nftw(child.folder, unlink_one, FOLDERS, FTW_DEPTH | FTW_PHYS);
}

static void listen_as_shard(struct role *r);

static void start(struct role *r) {
    char text[512];
    struct err_detail detail = {0};
    folder_fresh();
    if (!starts++) {
        atexit(folder_remove);
        log_open("n1", r->name, LOG_ERROR); /* what it refuses is no news here */
    }
    child.role = r;
    snprintf(child.path, sizeof child.path, "%s/%s.sock", child.folder, r->name);
    int n = snprintf(text, sizeof text,
                     "node: n1\ndata: %s\nshards: 1\n"
                     "cluster: { name: test, initial: { n1: 127.0.0.1:7410 } }\n"
                     "limits: { message: 1MiB, memory: 256MiB, segment: 4MiB }\n",
                     child.folder);
    EXPECT(config_parse("f.yaml", text, (size_t)n, &child.config, &detail) == ERR_OK);
    child.config.shards = 1;
    child.stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (size_t i = 0; i < r->ends_count; i++) {
        r->ends[i].of = r;
        r->ends[i].known = false;
    }
    r->loop = loop_new(NULL);
    listen_as_shard(r);
    EXPECT(pthread_create(&child.thread, NULL, run, NULL) == 0);
}

static void stop(struct role *r) {
    for (size_t i = 0; i < r->ends_count; i++) {
        if (r->ends[i].link)
            link_kill(r->ends[i].link);
        r->ends[i].link = NULL;
    }
    if (r->listener)
        listener_close(r->listener);
    r->listener = NULL;
    tell(&child.stops);
    pthread_join(child.thread, NULL);
    EXPECT(loop_drain(r->loop, WAIT_S * USEC_S));
    loop_free(r->loop);
    r->loop = NULL;
    close(child.stop_fd);
    config_free(&child.config);
}

/* ---- the ends ---- */

static void welcome_back(struct role_end *e, const struct frame *frame) {
    Mr__Hello *hello = frame_read_hello(e->link, frame);
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity = MR__IDENTITY__INIT;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    identity.cluster = (char *)"test";
    identity.node = (char *)(uintptr_t)e->node;
    identity.role = (char *)(uintptr_t)e->role;
    identity.member = e->member;
    identity.starts = 1;
    welcome.identity = &identity;
    EXPECT(hello && hello_answer(e->link, &ours, hello, &welcome, &agreed) == ERR_OK);
    e->welcome = true;
}

static void on_welcome(struct role_end *e, const struct frame *frame) {
    Mr__Welcome *m = frame_read_welcome(e->link, frame);
    e->welcome = true;
    if (m && m->identity)
        e->of->self = m->identity->member;
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct role_end *e = ctx;
    Mr__Pong pong = MR__PONG__INIT;
    if (frame->type == FRAME_HELLO)
        welcome_back(e, frame);
    else if (frame->type == FRAME_WELCOME)
        on_welcome(e, frame);
    else if (frame->type == FRAME_PING)
        frame_send_pong(link, &pong, NULL, 0);
    else if (frame->type == (e->of->asks ? FRAME_RESPONSE : FRAME_PONG))
        e->answers++;
}

static void on_closed(void *ctx, struct link *link, const struct link_end *why) {
    struct role_end *e = ctx;
    if (e->link == link)
        e->link = NULL;
}

static const struct link_handlers handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct role *r = ctx;
    for (size_t i = 0; i < r->ends_count; i++)
        if (r->ends[i].listens) {
            r->ends[i].link = link;
            r->ends[i].welcome = false;
            link_attach(link, &handlers, &r->ends[i]);
        }
}

static void listen_as_shard(struct role *r) {
    static const struct listener_handlers calls = {.accepted = on_accepted};
    struct listener_options options = {.handlers = &calls, .ctx = r};
    struct err_detail detail;
    for (size_t i = 0; i < r->ends_count; i++)
        if (r->ends[i].listens) {
            r->listener = listener_open(r->loop, "ipc://" SHARD_PATH, &options, &detail);
            EXPECT(r->listener);
            tell(&child.shard_up);
        }
}

static void dial(struct role *r, struct role_end *e) {
    struct link_options options = {.handlers = &handlers, .ctx = e};
    struct hello ours = hello_ours();
    struct err_detail detail;
    Mr__Hello hello = MR__HELLO__INIT;
    Mr__Identity identity = MR__IDENTITY__INIT;
    char url[CHILD_PATH_BYTES + 8];
    snprintf(url, sizeof url, "ipc://%s", child.path);
    e->welcome = false;
    e->link = link_dial(r->loop, e->url ? e->url : url, &options, &detail);
    EXPECT(e->link);
    identity.cluster = (char *)"test";
    identity.node = (char *)(uintptr_t)e->node;
    identity.role = (char *)(uintptr_t)e->role;
    identity.index = e->index;
    identity.member = e->member;
    hello.identity = &identity;
    hello_send(e->link, &ours, &hello);
}

/* Everybody connected and welcomed; who was thrown out comes again. Who is
 * dialled by the role is waited for once: the role takes its time. */
static void connect_all(struct role *r) {
    usec_t until = clock_now() + WAIT_S * USEC_S;
    for (size_t i = 0; i < r->ends_count; i++) {
        struct role_end *e = &r->ends[i];
        while ((!e->link || !e->welcome) && !(e->listens && e->known)) {
            EXPECT(clock_now() < until);
            if (!e->link && !e->listens)
                dial(r, e);
            loop_turn(r->loop, USEC_MS);
        }
        e->known = true;
    }
}

/* ---- frames ---- */

/* Where the input has ROLE_SELF the role's identity is meant. */
static uint8_t *with_self(const struct role *r, const uint8_t *header, size_t size) {
    static const uint64_t self = ROLE_SELF;
    uint8_t *out = xmalloc(size + 1), *at = out;
    memcpy(out, header, size);
    while ((at = memmem(at, size - (size_t)(at - out), &self, sizeof self))) {
        memcpy(at, &r->self, sizeof r->self);
        at += sizeof self;
    }
    return out;
}

static void send_raw(struct role *r, struct role_end *e, uint16_t type, const uint8_t *header,
                     size_t header_size, const void *bytes, size_t size) {
    if (!e->link || !e->welcome)
        return;
    struct body *body = size ? body_copy(bytes, size) : NULL;
    uint8_t *mine = with_self(r, header, header_size);
    link_send_raw(e->link, type, mine, header_size, &body, body ? 1 : 0);
    free(mine);
    body_drop(body);
}

void role_send(struct role *r, unsigned end, uint16_t type, const ProtobufCMessage *m, const void *body,
               size_t body_size) {
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = xmalloc(size + 1);
    protobuf_c_message_pack(m, packed);
    send_raw(r, &r->ends[end], type, packed, size, body, body_size);
    free(packed);
}

static void send_frames(struct role *r, struct fuzz_input *in) {
    for (int i = 0; i < FRAMES_MAX && in->size > 0; i++) {
        struct role_end *e = &r->ends[fuzz_take(in, 1) % r->ends_count];
        uint16_t type = (uint16_t)(fuzz_take(in, 1) % FRAME_TYPES);
        size_t header_size, body_size;
        const uint8_t *header = fuzz_bytes(in, fuzz_take(in, 2) % PART_BYTES_MAX, &header_size);
        const uint8_t *bytes = fuzz_bytes(in, fuzz_take(in, 2) % PART_BYTES_MAX, &body_size);
        if (type)
            send_raw(r, e, type, header, header_size, bytes, body_size);
    }
}

static void ask(struct role *r, struct role_end *e) {
    Mr__Ping ping = MR__PING__INIT;
    Mr__Request request = MR__REQUEST__INIT;
    Mr__Empty nothing = MR__EMPTY__INIT;
    request.request = UINT64_MAX;
    request.deadline_us = USEC_S;
    request.what_case = MR__REQUEST__WHAT_MAILBOX_LIST;
    request.mailbox_list = &nothing;
    if (r->asks)
        frame_send_request(e->link, &request, NULL, 0);
    else
        frame_send_ping(e->link, &ping, NULL, 0);
}

/* The answer comes behind what was sent before the question. A link that was
 * refused for what came over it lingers and answers nothing: it is given up,
 * and its end connects anew. */
void role_settle(struct role *r) {
    usec_t until = clock_now() + ANSWER_US;
    size_t count = r->asks ? 1 : r->ends_count;
    uint64_t wanted[ROLE_ENDS];
    for (size_t i = 0; i < count; i++) {
        wanted[i] = r->ends[i].answers + 1;
        if (r->ends[i].link)
            ask(r, &r->ends[i]);
    }
    for (size_t i = 0; i < count; i++) {
        struct role_end *e = &r->ends[i];
        while (e->link && e->answers < wanted[i] && clock_now() < until)
            loop_turn(r->loop, USEC_MS);
        if (!e->link || e->answers >= wanted[i])
            continue;
        link_kill(e->link);
        e->link = NULL;
    }
}

static void stop_at_exit(void) {
    if (child.role->loop)
        stop(child.role);
}

void role_input(struct role *r, const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    if (r->loop && ++r->inputs % LIVES == 0)
        stop(r);
    bool fresh = !r->loop;
    if (fresh)
        start(r);
    if (starts == 1 && fresh)
        atexit(stop_at_exit);
    connect_all(r);
    if (fresh && r->begin) {
        r->begin(r);
        role_settle(r);
        connect_all(r);
    }
    send_frames(r, &in);
    role_settle(r);
}

void role_put(struct encoder *e, unsigned end, uint16_t type, const ProtobufCMessage *m, const void *body,
              size_t body_size) {
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = xmalloc(size + 1);
    protobuf_c_message_pack(m, packed);
    encode_u8(e, (uint8_t)end);
    encode_u8(e, (uint8_t)type);
    encode_u16(e, (uint16_t)size);
    encode_raw(e, packed, size);
    encode_u16(e, (uint16_t)body_size);
    encode_raw(e, body, body_size);
    free(packed);
}

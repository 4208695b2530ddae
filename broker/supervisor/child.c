// SPDX-License-Identifier: Apache-2.0
#include "supervisor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "supervisor/board.h"
#include "supervisor/control.h"

enum {
    CHILD_HELLO_WAIT_MS = 10000,
    CHILD_SEND_WAIT_MS = 1000,
    CHILD_EXIT_USAGE = 2,
    CHILD_BEATS_A_WATCHDOG = 4
};

struct known_peer {
    bool up;
    struct child_peer peer;
    void *counters; /* mapped, or NULL */
};

struct child {
    struct control_hello hello;
    struct config config;
    void *segment;
    struct process_block *block;
    const struct board *board;
    bool ready;
    struct known_peer peers[TREE_CHILDREN_MAX];
};

static _Noreturn void refuse(const char *why) {
    log_error("cannot start as a child: %s", why);
    exit(CHILD_EXIT_USAGE);
}

static void *map(int fd, size_t size, int protection) {
    struct stat st;
    if (fstat(fd, &st) != 0 || st.st_size < (off_t)size)
        return NULL;
    void *p = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* ---- opening ---- */

/* Signals of a terminal or an init system go to the supervisor, which asks. */
static void settle_signals(void) {
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        signal(ignored[i], SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void take_descriptors(void) {
    for (int fd = CONTROL_FD; fd < CONTROL_FDS_END; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 && fd != CONTROL_FD_LOCK)
            refuse("roles are started by the supervisor (mailroomd --config FILE) only");
}

static void take_hello(struct child *c, const char *role, unsigned index) {
    struct control_message m;
    struct pollfd p = {.fd = CONTROL_FD, .events = POLLIN};
    int attached = -1;
    if (poll(&p, 1, CHILD_HELLO_WAIT_MS) != 1 || control_receive(CONTROL_FD, &m, &attached) != CONTROL_DONE ||
        m.kind != CONTROL_HELLO)
        refuse("no hello from the supervisor");
    c->hello = m.hello;
    if (strcmp(c->hello.role, role) != 0 || c->hello.index != index)
        refuse("the supervisor named another role");
}

/* The signal is set before the check: a supervisor that died in between is seen. */
static void tie_to_supervisor(const struct child *c) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != c->hello.supervisor)
        refuse("the supervisor is gone");
}

static void open_segments(struct child *c) {
    c->segment = map(CONTROL_FD_COUNTERS, COUNTERS_SEGMENT_BYTES, PROT_READ | PROT_WRITE);
    c->board = map(CONTROL_FD_BOARD, sizeof *c->board, PROT_READ);
    if (!c->segment || !c->board)
        refuse("shared memory cannot be mapped");
    c->block = process_block_of(c->segment);
    snprintf(c->block->version, sizeof c->block->version, "%s", MAILROOM_VERSION);
    counters_open(c->segment);
    log_last_words(c->block->last_words, sizeof c->block->last_words);
}

static void open_config(struct child *c) {
    struct stat st;
    struct err_detail d = {0};
    if (fstat(CONTROL_FD_CONFIG, &st) != 0 || st.st_size > CONFIG_FILE_BYTES_MAX)
        refuse("no configuration");
    char *text = xmalloc((size_t)st.st_size);
    if (pread(CONTROL_FD_CONFIG, text, (size_t)st.st_size, 0) != st.st_size)
        refuse("the configuration cannot be read");
    if (config_parse(c->hello.file, text, (size_t)st.st_size, &c->config, &d))
        refuse(d.text);
    free(text);
    c->config.shards = c->hello.shards;
}

static void name_process(const struct child *c) {
    char full[CHILD_ROLE_BYTES + 16], thread[16];
    bool numbered = strcmp(c->hello.role, "shard") == 0;
    snprintf(full, sizeof full, numbered ? "%s/%u" : "%s", c->hello.role, c->hello.index);
    snprintf(thread, sizeof thread, "mr-%.12s", full);
    log_open(c->config.node, full, LOG_INFO);
    prctl(PR_SET_NAME, thread);
}

static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

struct child *child_open(const char *role, unsigned index) {
    struct child *c = xcalloc(1, sizeof *c);
    log_open("-", role, LOG_INFO);
    settle_signals();
    take_descriptors();
    take_hello(c, role, index);
    tie_to_supervisor(c);
    open_segments(c);
    open_config(c);
    name_process(c);
    raise_descriptor_limit();
    return c;
}

/* Segment and board stay mapped: counters and last words may come until the end. */
void child_close(struct child *child) {
    for (unsigned i = 0; i < TREE_CHILDREN_MAX; i++)
        if (child->peers[i].counters)
            munmap(child->peers[i].counters, COUNTERS_SEGMENT_BYTES);
    config_free(&child->config);
    free(child);
}

/* ---- told by the supervisor ---- */

int child_fd(const struct child *child) {
    return CONTROL_FD;
}

/* Where the peer stands in c->peers, TREE_CHILDREN_MAX if it is not up. */
static unsigned find_peer(const struct child *c, const char *role, unsigned index) {
    unsigned i = 0;
    while (i < TREE_CHILDREN_MAX &&
           !(c->peers[i].up && c->peers[i].peer.index == index && strcmp(c->peers[i].peer.role, role) == 0))
        i++;
    return i;
}

static void forget_peer(struct known_peer *k) {
    if (k->counters)
        munmap(k->counters, COUNTERS_SEGMENT_BYTES);
    *k = (struct known_peer){0};
}

static struct child_peer peer_of(const struct control_peer *from) {
    struct child_peer p = {.index = from->index, .instance = from->instance, .pid = from->pid};
    snprintf(p.role, sizeof p.role, "%.*s", (int)sizeof from->role, from->role);
    snprintf(p.path, sizeof p.path, "%.*s", CHILD_PATH_BYTES - 1, from->path);
    return p;
}

static void on_peer_up(struct child *c, const struct child_peer *peer, int counters_fd) {
    unsigned i = find_peer(c, peer->role, peer->index);
    if (i < TREE_CHILDREN_MAX)
        forget_peer(&c->peers[i]);
    for (i = 0; i < TREE_CHILDREN_MAX && c->peers[i].up;)
        i++;
    CHECK(i < TREE_CHILDREN_MAX);
    c->peers[i] = (struct known_peer){.up = true, .peer = *peer};
    if (counters_fd >= 0)
        c->peers[i].counters = map(counters_fd, COUNTERS_SEGMENT_BYTES, PROT_READ);
}

static void on_peer_down(struct child *c, const struct child_peer *peer) {
    unsigned i = find_peer(c, peer->role, peer->index);
    if (i < TREE_CHILDREN_MAX && c->peers[i].peer.instance == peer->instance)
        forget_peer(&c->peers[i]);
}

/* False for a kind this release does not know. */
static bool take_message(struct child *c, const struct control_message *m, int attached,
                         struct child_event *out) {
    *out = (struct child_event){0};
    if (m->kind == CONTROL_PEER_UP || m->kind == CONTROL_PEER_DOWN)
        out->peer = peer_of(&m->peer);
    switch (m->kind) {
    case CONTROL_STOP:
        out->kind = CHILD_EVENT_STOP;
        return true;
    case CONTROL_PEER_UP:
        out->kind = CHILD_EVENT_PEER_UP;
        on_peer_up(c, &out->peer, attached);
        return true;
    case CONTROL_PEER_DOWN:
        out->kind = CHILD_EVENT_PEER_DOWN;
        on_peer_down(c, &out->peer);
        return true;
    default:
        return false;
    }
}

bool child_next(struct child *child, struct child_event *out) {
    struct control_message m;
    int attached = -1;
    for (;;) {
        enum control_result r = control_receive(CONTROL_FD, &m, &attached);
        if (r == CONTROL_AGAIN)
            return false;
        if (r == CONTROL_GONE) {
            log_error("the supervisor is gone");
            _exit(1);
        }
        bool known = take_message(child, &m, attached, out);
        if (attached >= 0)
            close(attached);
        if (known)
            return true;
    }
}

/* ---- told to the supervisor ---- */

static void tell(struct control_message *m, enum control_kind kind, uint32_t size) {
    if (control_send(CONTROL_FD, m, kind, size, -1) != CONTROL_AGAIN)
        return;
    struct pollfd p = {.fd = CONTROL_FD, .events = POLLOUT};
    if (poll(&p, 1, CHILD_SEND_WAIT_MS) != 1 || control_send(CONTROL_FD, m, kind, size, -1) == CONTROL_AGAIN)
        log_warn("the supervisor does not take messages");
}

void child_ready(struct child *child) {
    struct control_message m = {0};
    CHECK(!child->ready);
    child->ready = true;
    child_beat(child);
    tell(&m, CONTROL_READY, 0);
}

void child_beat(struct child *child) {
    __atomic_fetch_add(&child->block->turns, 1, __ATOMIC_RELAXED);
}

usec_t child_beat_interval(const struct child *child) {
    return child->config.watchdog / CHILD_BEATS_A_WATCHDOG;
}

void child_working_on(struct child *child, uint64_t partition) {
    __atomic_store_n(&child->block->working_on, partition, __ATOMIC_RELAXED);
}

bool child_next_crash(const struct child *child, unsigned *position, uint64_t *partition, unsigned *count) {
    while (*position < TREE_CRASHES_MAX) {
        const struct control_crash *crash = &child->hello.crashes[(*position)++];
        *partition = crash->partition;
        *count = crash->count;
        if (crash->partition)
            return true;
    }
    return false;
}

unsigned child_crashes(const struct child *child, uint64_t partition) {
    uint64_t p;
    unsigned position = 0, count;
    while (child_next_crash(child, &position, &p, &count))
        if (p == partition)
            return count;
    return 0;
}

void child_forgive(struct child *child, uint64_t partition) {
    struct control_message m = {.partition = partition};
    for (unsigned i = 0; i < TREE_CRASHES_MAX; i++)
        if (child->hello.crashes[i].partition == partition)
            child->hello.crashes[i] = (struct control_crash){0};
    tell(&m, CONTROL_FORGIVE, sizeof m.partition);
}

/* ---- known to the child ---- */

const char *child_role(const struct child *child) {
    return child->hello.role;
}

unsigned child_index(const struct child *child) {
    return child->hello.index;
}

uint32_t child_instance(const struct child *child) {
    return child->hello.instance;
}

const char *child_own_path(const struct child *child) {
    return child->hello.path;
}

const struct config *child_config(const struct child *child) {
    return &child->config;
}

const struct child_peer *child_next_peer(const struct child *child, unsigned *position) {
    while (*position < TREE_CHILDREN_MAX) {
        const struct known_peer *k = &child->peers[(*position)++];
        if (k->up)
            return &k->peer;
    }
    return NULL;
}

const struct child_peer *child_find_peer(const struct child *child, const char *role, unsigned index) {
    unsigned i = find_peer(child, role, index);
    return i < TREE_CHILDREN_MAX ? &child->peers[i].peer : NULL;
}

const void *child_counters_of(const struct child *child, const char *role, unsigned index) {
    if (child->hello.index == index && strcmp(child->hello.role, role) == 0)
        return child->segment;
    unsigned i = find_peer(child, role, index);
    return i < TREE_CHILDREN_MAX ? child->peers[i].counters : NULL;
}

bool child_board(const struct child *child, struct board_view *out) {
    return board_read(child->board, out);
}

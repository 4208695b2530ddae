// SPDX-License-Identifier: Apache-2.0
/*
 * One turn: wait; hear the children (READY, beats), take in signals and deaths,
 * let the tree judge the time, then do its effects and tell every child what
 * has changed among its peers.
 *
 * What a child is told of its peers is a difference between two states (told
 * and announced), sent when its channel takes it: no queue, and nothing lost.
 */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "supervisor/board.h"
#include "supervisor/control.h"
#include "supervisor/spawn.h"

enum { SUPERVISOR_TICKS_A_WATCHDOG = 4, SUPERVISOR_EXIT_FAILED = 1 };
#define SUPERVISOR_TICK_MOST (100 * USEC_MS)

struct process {
    pid_t pid;      /* 0 = none */
    int control;    /* -1 = none, or the child has closed it */
    int segment_fd; /* -1 = none */
    void *segment;
    bool blocked;                     /* its channel is full: wait for POLLOUT */
    bool stop_pending;                /* STOP did not fit yet */
    uint32_t announced;               /* instance its peers are to know, 0 = none */
    uint32_t told[TREE_CHILDREN_MAX]; /* instance of each peer it knows */
};

struct supervisor {
    const struct supervisor_options *o;
    struct tree tree;
    struct process processes[TREE_CHILDREN_MAX];
    struct board *board;
    int board_fd;
    int config_fd;
    int binary;
    int signals;
    usec_t tick;
    bool ended;
    int exit_code;
};

static usec_t clock_usec(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (usec_t)t.tv_sec * USEC_S + t.tv_nsec / 1000;
}

static usec_t now_usec(void) {
    return clock_usec(CLOCK_BOOTTIME);
}

static const struct child_spec *spec_of(const struct supervisor *s, unsigned i) {
    return &s->o->children[i];
}

static void child_path(const struct supervisor *s, unsigned i, uint32_t instance, char *out, size_t size) {
    snprintf(out, size, "%.*s/%s-%u.%u.sock", CONFIG_IPC_PATH_BYTES_MAX - CONFIG_IPC_NAME_BYTES_MAX,
             s->o->config->run, spec_of(s, i)->role, spec_of(s, i)->index, instance);
}

/* ---- the board ---- */

static void show_process(struct supervisor *s, unsigned i) {
    struct board_process *p = &board_write(s->board)->processes[i];
    const struct tree_child *c = &s->tree.children[i];
    snprintf(p->role, sizeof p->role, "%s", spec_of(s, i)->role);
    snprintf(p->state, sizeof p->state, "%s", child_state_text(c->state));
    if (s->processes[i].segment)
        memcpy(p->version, process_block_of(s->processes[i].segment)->version, sizeof p->version);
    p->version[sizeof p->version - 1] = 0;
    p->index = spec_of(s, i)->index;
    p->instance = c->instance;
    p->pid = s->processes[i].pid;
    p->restarts = c->restarts;
    if (c->state == CHILD_STARTING)
        p->started = clock_usec(CLOCK_REALTIME);
    board_written(s->board);
}

static void show_all(struct supervisor *s) {
    board_write(s->board)->processes_count = s->o->children_count;
    board_written(s->board);
    for (unsigned i = 0; i < s->o->children_count; i++)
        show_process(s, i);
}

/* ---- talking to children ---- */

/* True if it went out; a full channel is tried again on POLLOUT. */
static bool send_to(struct process *p, struct control_message *m, enum control_kind kind, uint32_t size,
                    int fd) {
    if (p->control < 0)
        return false;
    enum control_result r = control_send(p->control, m, kind, size, fd);
    p->blocked = r == CONTROL_AGAIN;
    return r == CONTROL_DONE;
}

static void send_stop(struct process *p) {
    struct control_message m = {0};
    p->stop_pending = !send_to(p, &m, CONTROL_STOP, 0, -1);
}

static bool tell_peer(struct supervisor *s, struct process *to, unsigned peer, enum control_kind kind,
                      uint32_t instance) {
    struct control_message m = {0};
    const struct process *p = &s->processes[peer];
    snprintf(m.peer.role, sizeof m.peer.role, "%s", spec_of(s, peer)->role);
    m.peer.index = spec_of(s, peer)->index;
    m.peer.instance = instance;
    m.peer.pid = kind == CONTROL_PEER_UP ? p->pid : 0;
    child_path(s, peer, instance, m.peer.path, sizeof m.peer.path);
    return send_to(to, &m, kind, sizeof m.peer, kind == CONTROL_PEER_UP ? p->segment_fd : -1);
}

/* False when the channel takes no more now. */
static bool sync_peer(struct supervisor *s, struct process *to, unsigned peer) {
    uint32_t is = s->processes[peer].announced;
    if (to->told[peer] == is)
        return true;
    if (to->told[peer] && !tell_peer(s, to, peer, CONTROL_PEER_DOWN, to->told[peer]))
        return false;
    to->told[peer] = 0;
    if (is && !tell_peer(s, to, peer, CONTROL_PEER_UP, is))
        return false;
    to->told[peer] = is;
    return true;
}

static void sync_peers(struct supervisor *s) {
    for (unsigned i = 0; i < s->o->children_count; i++) {
        struct process *p = &s->processes[i];
        if (p->control < 0 || p->blocked)
            continue;
        if (p->stop_pending)
            send_stop(p);
        for (unsigned j = 0; j < s->o->children_count && !p->blocked; j++)
            if (j != i && !sync_peer(s, p, j))
                break;
    }
}

static void hear(struct supervisor *s, unsigned i) {
    struct process *p = &s->processes[i];
    struct control_message m;
    int attached = -1;
    while (p->control >= 0) {
        enum control_result r = control_receive(p->control, &m, &attached);
        if (r == CONTROL_AGAIN)
            return;
        if (r == CONTROL_GONE) {
            close(p->control);
            p->control = -1;
            return;
        }
        if (attached >= 0)
            close(attached);
        if (m.kind == CONTROL_READY)
            tree_ready(&s->tree, i, now_usec());
        if (m.kind == CONTROL_FORGIVE)
            tree_forgive(&s->tree, i, m.partition);
    }
}

/* ---- starting ---- */

static void say_hello(struct supervisor *s, unsigned i, uint32_t instance) {
    struct control_message m = {0};
    struct control_hello *h = &m.hello;
    h->supervisor = getpid();
    h->instance = instance;
    h->shards = s->o->config->shards;
    h->index = spec_of(s, i)->index;
    snprintf(h->role, sizeof h->role, "%s", spec_of(s, i)->role);
    snprintf(h->file, sizeof h->file, "%s", s->o->file);
    child_path(s, i, instance, h->path, sizeof h->path);
    for (unsigned n = 0; n < TREE_CRASHES_MAX; n++) {
        const struct crash_note *note = &s->tree.children[i].crashes[n];
        h->crashes[n] = (struct control_crash){.partition = note->partition, .count = note->count};
    }
    send_to(&s->processes[i], &m, CONTROL_HELLO, sizeof m.hello, -1);
}

static void let_go(struct process *p) {
    if (p->control >= 0)
        close(p->control);
    if (p->segment)
        munmap(p->segment, COUNTERS_SEGMENT_BYTES);
    if (p->segment_fd >= 0)
        close(p->segment_fd);
    *p = (struct process){.control = -1, .segment_fd = -1};
}

static bool open_process(struct process *p, int *child_end) {
    int ends[2];
    *p = (struct process){.control = -1, .segment_fd = -1};
    p->segment_fd = spawn_memory("mailroom-counters", COUNTERS_SEGMENT_BYTES);
    if (p->segment_fd < 0 || !control_pair(ends))
        return false;
    p->control = ends[0];
    *child_end = ends[1];
    void *m = mmap(NULL, COUNTERS_SEGMENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->segment_fd, 0);
    p->segment = m == MAP_FAILED ? NULL : m;
    return p->segment != NULL;
}

static void start(struct supervisor *s, unsigned i, uint32_t instance) {
    struct process *p = &s->processes[i];
    int child_end = -1;
    bool open = open_process(p, &child_end);
    if (open) {
        say_hello(s, i, instance);
        p->pid = spawn_child(&(struct spawn){.binary = s->binary,
                                             .role = spec_of(s, i)->role,
                                             .index = spec_of(s, i)->index,
                                             .control = child_end,
                                             .config = s->config_fd,
                                             .counters = p->segment_fd,
                                             .board = s->board_fd,
                                             .lock = s->o->lock});
    }
    if (!open || p->pid < 0) {
        log_error("%s/%u cannot be started: %s", spec_of(s, i)->role, spec_of(s, i)->index, strerror(errno));
        p->pid = 0;
        tree_exited(&s->tree, i, &(struct child_exit){.code = SUPERVISOR_EXIT_FAILED, .not_started = true},
                    now_usec());
    }
    if (child_end >= 0)
        close(child_end);
}

/* ---- dying ---- */

static void write_obituary(struct supervisor *s, unsigned i, const struct obituary *o) {
    struct board_death *d = board_add_death(board_write(s->board));
    const struct process *p = &s->processes[i];
    snprintf(d->role, sizeof d->role, "%s", spec_of(s, i)->role);
    d->index = spec_of(s, i)->index;
    d->instance = o->instance;
    d->pid = p->pid;
    d->signal = o->exit.signalled ? o->exit.code : 0;
    d->exit_code = o->exit.signalled ? 0 : o->exit.code;
    d->in_period = o->in_period;
    d->at = clock_usec(CLOCK_REALTIME);
    d->uptime = o->uptime;
    d->partition = o->exit.partition;
    d->crashes = o->crashes;
    snprintf(d->cause, sizeof d->cause, "%s", death_cause_text(o->cause));
    if (p->segment)
        memcpy(d->last_words, process_block_of(p->segment)->last_words, sizeof d->last_words - 1);
    board_written(s->board);
}

/* "shard/0 (pid 17, instance 4) died: signal 6 (Aborted), stood still, after 3.2 s ..." */
static void log_obituary(const struct supervisor *s, unsigned i, const struct obituary *o) {
    const struct process *p = &s->processes[i];
    char how[64], work[64] = "", count[64] = "", words[PROCESS_WORDS_BYTES] = "";
    if (o->exit.signalled)
        snprintf(how, sizeof how, "signal %d (%s)", o->exit.code, strsignal(o->exit.code));
    else
        snprintf(how, sizeof how, "exit code %d", o->exit.code);
    if (o->crashes)
        snprintf(work, sizeof work, ", on partition %llu %u times in a row",
                 (unsigned long long)o->exit.partition, o->crashes);
    if (o->in_period)
        snprintf(count, sizeof count, ", restart %u of at most %u", o->in_period, s->o->restarts_max);
    if (p->segment)
        memcpy(words, process_block_of(p->segment)->last_words, sizeof words - 1);
    bool expected = o->cause == DEATH_ASKED && !o->exit.signalled && o->exit.code == 0;
    log_write(expected ? LOG_INFO : LOG_WARN,
              "%s/%u (pid %d, instance %u) ended: %s, %s, after %.3f s%s%s%s%s", spec_of(s, i)->role,
              spec_of(s, i)->index, p->pid, o->instance, how, death_cause_text(o->cause),
              (double)o->uptime / (double)USEC_S, work, count, words[0] ? ", last words: " : "", words);
    if (!o->exit.signalled && o->exit.code == CHILD_EXIT_OPERATOR)
        log_error("%s/%u is not started again: an operator must look", spec_of(s, i)->role,
                  spec_of(s, i)->index);
}

static void bury(struct supervisor *s, unsigned i, const struct obituary *o) {
    char path[CHILD_PATH_BYTES];
    write_obituary(s, i, o);
    log_obituary(s, i, o);
    child_path(s, i, o->instance, path, sizeof path);
    unlink(path);
    let_go(&s->processes[i]);
}

/* Its words first: what it said before it died. */
static void reap(struct supervisor *s, unsigned i) {
    struct process *p = &s->processes[i];
    siginfo_t info = {0};
    if (!p->pid || waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0)
        return;
    hear(s, i);
    struct child_exit exit = {.signalled = info.si_code != CLD_EXITED, .code = info.si_status};
    exit.partition = __atomic_load_n(&process_block_of(p->segment)->working_on, __ATOMIC_RELAXED);
    tree_exited(&s->tree, i, &exit, now_usec());
}

/* ---- effects ---- */

static void do_effect(struct supervisor *s, const struct tree_effect *e) {
    struct process *p = &s->processes[e->child];
    switch (e->kind) {
    case TREE_SPAWN:
        start(s, e->child, e->instance);
        break;
    case TREE_ASK:
        send_stop(p);
        break;
    case TREE_SIGNAL:
        if (p->pid)
            kill(p->pid, e->signal);
        break;
    case TREE_ANNOUNCE:
        p->announced = e->instance;
        break;
    case TREE_BURY:
        bury(s, e->child, &e->obituary);
        break;
    case TREE_GIVE_UP:
        log_error("more than %u restarts in %lld s: this node ends", s->o->restarts_max,
                  (long long)(s->o->period / USEC_S));
        break;
    case TREE_END:
        s->ended = true;
        s->exit_code = e->code;
        break;
    }
}

static void do_effects(struct supervisor *s) {
    struct tree_effect e;
    bool any = false;
    while (tree_effect(&s->tree, &e)) {
        do_effect(s, &e);
        any = true;
    }
    if (any)
        show_all(s);
    sync_peers(s);
}

/* ---- the loop ---- */

static void on_signals(struct supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        log_info("%s: stopping", strsignal((int)info.ssi_signo));
        tree_stop(&s->tree, 0, now_usec());
    }
    for (unsigned i = 0; i < s->o->children_count; i++)
        reap(s, i);
}

static int wait_ms(const struct supervisor *s) {
    usec_t left = tree_deadline(&s->tree);
    left = left == USEC_NEVER ? s->tick : left - now_usec();
    left = left < 0 ? 0 : left > s->tick ? s->tick : left;
    return (int)((left + USEC_MS - 1) / USEC_MS);
}

static void wait_and_hear(struct supervisor *s) {
    struct pollfd polled[1 + TREE_CHILDREN_MAX] = {{.fd = s->signals, .events = POLLIN}};
    unsigned count = s->o->children_count;
    for (unsigned i = 0; i < count; i++)
        polled[1 + i] = (struct pollfd){.fd = s->processes[i].control,
                                        .events = s->processes[i].blocked ? POLLIN | POLLOUT : POLLIN};
    if (poll(polled, 1 + count, wait_ms(s)) < 0)
        CHECK(errno == EINTR);
    for (unsigned i = 0; i < count; i++) {
        if (polled[1 + i].revents & POLLOUT)
            s->processes[i].blocked = false;
        if (polled[1 + i].revents)
            hear(s, i);
    }
    for (unsigned i = 0; i < count; i++)
        if (s->processes[i].segment)
            tree_beat(&s->tree, i,
                      __atomic_load_n(&process_block_of(s->processes[i].segment)->turns, __ATOMIC_RELAXED),
                      now_usec());
}

static void turn(struct supervisor *s) {
    wait_and_hear(s);
    on_signals(s);
    tree_tick(&s->tree, now_usec());
    do_effects(s);
}

/* ---- opening ---- */

static int open_signals(void) {
    sigset_t set;
    struct sigaction hangup;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
        sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int open_config(const void *text, size_t size) {
    int fd = memfd_create("mailroom-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (pwrite(fd, text, size, 0) == (ssize_t)size &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    close(fd);
    return -1;
}

static bool open_board(struct supervisor *s) {
    s->board_fd = spawn_memory("mailroom-board", sizeof *s->board);
    if (s->board_fd < 0)
        return false;
    void *m = mmap(NULL, sizeof *s->board, PROT_READ | PROT_WRITE, MAP_SHARED, s->board_fd, 0);
    s->board = m == MAP_FAILED ? NULL : m;
    return s->board != NULL;
}

static bool supervisor_open(struct supervisor *s, const struct supervisor_options *o) {
    *s = (struct supervisor){.o = o, .board_fd = -1, .config_fd = -1, .binary = -1, .signals = -1};
    for (unsigned i = 0; i < TREE_CHILDREN_MAX; i++)
        s->processes[i] = (struct process){.control = -1, .segment_fd = -1};
    s->tick = o->config->watchdog / SUPERVISOR_TICKS_A_WATCHDOG;
    if (s->tick > SUPERVISOR_TICK_MOST)
        s->tick = SUPERVISOR_TICK_MOST;
    s->signals = open_signals();
    s->binary = spawn_open_binary();
    s->config_fd = open_config(o->text, o->text_size);
    return s->signals >= 0 && s->binary >= 0 && s->config_fd >= 0 && open_board(s);
}

static void supervisor_close(struct supervisor *s) {
    const int descriptors[] = {s->signals, s->binary, s->config_fd, s->board_fd};
    for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    if (s->board)
        munmap(s->board, sizeof *s->board);
    free(s);
}

int supervisor_run(const struct supervisor_options *o) {
    struct supervisor *s = xmalloc(sizeof *s);
    int code = SUPERVISOR_EXIT_FAILED;
    if (supervisor_open(s, o)) {
        struct tree_spec spec = {.children = o->children,
                                 .count = o->children_count,
                                 .strategy = o->strategy,
                                 .restarts_max = o->restarts_max,
                                 .period = o->period,
                                 .watchdog = o->config->watchdog};
        tree_open(&s->tree, &spec, 2 * s->tick, now_usec());
        do_effects(s);
        while (!s->ended)
            turn(s);
        code = s->exit_code;
    } else
        log_error("the supervisor cannot start: %s", strerror(errno));
    supervisor_close(s);
    return code;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A small node for supervisor_test: real processes whose roles behave or not.
 *
 *     supervisor_helper FILE RESTARTS STRATEGY ROLE[/INDEX]...
 *
 * supervises the roles in that order (a rank each) under the configuration in
 * FILE. Each role says on standard output what happens to it, a line each.
 */
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "supervisor/board.h"
#include "supervisor/child.h"
#include "supervisor/node.h"
#include "supervisor/supervisor.h"

enum { PARTITION = 42 };

static struct child *self;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...) {
    char line[512];
    int n = snprintf(line, sizeof line, "%s/%u ", child_role(self), child_index(self));
    va_list args;
    va_start(args, format);
    n += vsnprintf(line + n, sizeof line - (size_t)n, format, args);
    va_end(args);
    line[n++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        exit(3);
}

/* A counter of the peer's, read from its memory; -1 if it cannot be. */
static long turns_of(const char *role, unsigned index) {
    const void *segment = child_counters_of(self, role, index);
    struct counters_sample s;
    for (size_t at = 0; segment && counters_next(segment, COUNTERS_SEGMENT_BYTES, &at, &s);)
        if (strcmp(s.name, "loop_turns") == 0)
            return (long)s.value;
    return -1;
}

static void tell_deaths(void) {
    static struct board_view view;
    const struct board_death *d;
    if (!child_board(self, &view))
        say("no board");
    for (unsigned i = 0; (d = board_death(&view, i)); i++)
        say("death of %s/%u: signal %d, code %d, %s, partition %d, words '%s'", d->role, d->index, d->signal,
            d->exit_code, d->cause, (int)d->partition, d->last_words);
}

static void on_event(const struct child_event *e) {
    const struct child_peer *p = &e->peer;
    if (e->kind == CHILD_EVENT_PEER_UP) {
        say("hears %s/%u up, instance %u at %s, turns %s", p->role, p->index, p->instance,
            strrchr(p->path, '/') + 1, turns_of(p->role, p->index) > 0 ? "seen" : "unseen");
    } else if (e->kind == CHILD_EVENT_PEER_DOWN) {
        say("hears %s/%u down, instance %u", p->role, p->index, p->instance);
        tell_deaths();
    }
}

/* The well-behaved loop. */
static int serve(bool obey) {
    struct pollfd p = {.fd = child_fd(self), .events = POLLIN};
    struct child_event e;
    for (;;) {
        child_beat(self);
        counters_add(COUNTER_loop_turns, 1);
        poll(&p, 1, (int)(child_beat_interval(self) / USEC_MS));
        while (child_next(self, &e)) {
            if (e.kind == CHILD_EVENT_STOP)
                say("asked to stop");
            if (e.kind == CHILD_EVENT_STOP && obey)
                return 0;
            on_event(&e);
        }
    }
}

static int up_and_serve(bool obey) {
    counters_add(COUNTER_loop_turns, 1);
    say("ready pid %d instance %u node %s shards %u at %s", getpid(), child_instance(self),
        child_config(self)->node, child_config(self)->shards, strrchr(child_own_path(self), '/') + 1);
    child_ready(self);
    return serve(obey);
}

static int ready_main(void) {
    return up_and_serve(true);
}

static int stubborn_main(void) {
    return up_and_serve(false);
}

static int crash_main(void) {
    if (child_crashes(self, PARTITION) >= CHILD_CRASHES_QUARANTINE) {
        say("quarantines %d after %u", PARTITION, child_crashes(self, PARTITION));
        child_forgive(self, PARTITION);
        tell_deaths();
        return up_and_serve(true);
    }
    child_ready(self);
    child_working_on(self, PARTITION);
    log_error("about to crash on %d", PARTITION);
    abort();
}

static int hang_main(void) {
    if (child_instance(self) > 1)
        return up_and_serve(true);
    say("ready and hangs");
    child_ready(self);
    for (;;)
        pause();
}

/* Ready once a byte comes. */
static int slow_main(void) {
    char byte;
    say("waits");
    return read(STDIN_FILENO, &byte, 1) == 1 ? up_and_serve(true) : 4;
}

static int operator_main(void) {
    say("wants an operator");
    return CHILD_EXIT_OPERATOR;
}

static int fail_main(void) {
    return 1;
}

static const struct role {
    const char *name;
    int (*main)(void);
} roles[] = {{"ready", ready_main}, {"stubborn", stubborn_main}, {"crash", crash_main}, {"hang", hang_main},
             {"slow", slow_main},   {"operator", operator_main}, {"fail", fail_main},   {0}};

static int run_role(const char *name, unsigned index) {
    const struct role *r = roles;
    while (r->name && strcmp(r->name, name) != 0)
        r++;
    self = child_open(name, index);
    int code = r->name ? r->main() : 5;
    child_close(self);
    return code;
}

static unsigned read_plan(char **arguments, struct child_spec *out) {
    unsigned n = 0;
    for (; arguments[n]; n++) {
        char *slash = strchr(arguments[n], '/');
        unsigned index = slash ? (unsigned)atoi(slash + 1) : 0;
        if (slash)
            *slash = 0;
        out[n] = (struct child_spec){arguments[n], index, n, RESTART_PERMANENT, 20 * USEC_S, 500 * USEC_MS};
    }
    return n;
}

static char *read_all(const char *file, size_t *size) {
    FILE *f = fopen(file, "re");
    char *text = xmalloc(4096);
    *size = f ? fread(text, 1, 4096, f) : 0;
    if (f)
        fclose(f);
    return text;
}

int main(int count, char **arguments) {
    if (count == 5 && strcmp(arguments[1], "--role") == 0)
        return run_role(arguments[2], (unsigned)atoi(arguments[4]));
    struct child_spec children[TREE_CHILDREN_MAX];
    struct config c;
    struct err_detail d = {0};
    size_t size;
    int lock = -1;
    char *text = read_all(arguments[1], &size);
    if (config_parse(arguments[1], text, size, &c, &d) || node_open(&c, &lock, &d)) {
        fprintf(stderr, "%s\n", d.text);
        config_free(&c);
        free(text);
        return 2;
    }
    struct supervisor_options o = {.config = &c,
                                   .file = arguments[1],
                                   .text = text,
                                   .text_size = size,
                                   .children = children,
                                   .children_count = read_plan(arguments + 4, children),
                                   .strategy = (enum strategy)atoi(arguments[3]),
                                   .restarts_max = (unsigned)atoi(arguments[2]),
                                   .period = 60 * USEC_S,
                                   .lock = lock};
    int code = supervisor_run(&o);
    config_free(&c);
    free(text);
    return code;
}

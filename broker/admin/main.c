// SPDX-License-Identifier: Apache-2.0
/* The process: poll the supervisor and the HTTP server. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "admin/admin.h"
#include "admin/http.h"
#include "admin/metrics.h"
#include "base/log.h"
#include "supervisor/board.h"
#include "supervisor/child.h"

struct admin {
    struct child *child;
    struct board_view board;
};

static bool is_ready(const struct board_process *p) {
    return strcmp(p->state, child_state_text(CHILD_READY)) == 0;
}

static void ready_page(struct admin *a, struct http_answer *out) {
    bool ready = child_board(a->child, &a->board);
    for (uint32_t i = 0; i < a->board.processes_count; i++) {
        const struct board_process *p = &a->board.processes[i];
        if (is_ready(p))
            continue;
        ready = false;
        text_add(&out->body, "%s/%u is %s\n", p->role, p->index, p->state);
    }
    if (ready)
        text_add(&out->body, "ready\n");
    else
        out->status = 503;
}

static void metrics_page(struct admin *a, struct http_answer *out) {
    struct metrics_source sources[TREE_CHILDREN_MAX];
    struct metrics_process processes[TREE_CHILDREN_MAX];
    size_t n = 0;
    child_board(a->child, &a->board);
    for (; n < a->board.processes_count && n < TREE_CHILDREN_MAX; n++) {
        const struct board_process *p = &a->board.processes[n];
        sources[n] =
            (struct metrics_source){p->role, p->index, child_counters_of(a->child, p->role, p->index)};
        processes[n] = (struct metrics_process){p->role, p->index, is_ready(p), p->restarts};
    }
    out->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_processes(&out->body, processes, n);
    metrics_counters(&out->body, sources, n);
}

static bool on_page(void *ctx, const char *path, struct http_answer *out) {
    struct admin *a = ctx;
    if (strcmp(path, "/healthz") == 0)
        text_add(&out->body, "ok\n");
    else if (strcmp(path, "/readyz") == 0)
        ready_page(a, out);
    else if (strcmp(path, "/metrics") == 0)
        metrics_page(a, out);
    else
        return false;
    return true;
}

/* False: asked to stop. Who came and went the board says. */
static bool hear(struct child *child) {
    struct child_event e;
    bool stop = false;
    while (child_next(child, &e))
        stop |= e.kind == CHILD_EVENT_STOP;
    return !stop;
}

static int timeout_ms(struct child *child, const struct http *h) {
    usec_t wait = http_wait(h), beat = child_beat_interval(child);
    return (int)((wait < beat ? wait : beat) / USEC_MS);
}

int admin_main(struct child *child) {
    static struct admin a; /* the board is large */
    struct err_detail detail = {0};
    struct http *h = http_open(&child_config(child)->listen_admin, on_page, &a, &detail);
    a.child = child;
    if (!h) {
        log_error("admin cannot start: %s", detail.text);
        return 1;
    }
    child_ready(child);
    struct pollfd fds[] = {{.fd = child_fd(child), .events = POLLIN}, {.fd = http_fd(h), .events = POLLIN}};
    while (hear(child)) {
        child_beat(child);
        poll(fds, 2, timeout_ms(child, h));
        http_turn(h);
    }
    http_close(h);
    return 0;
}

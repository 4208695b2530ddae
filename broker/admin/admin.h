// SPDX-License-Identifier: Apache-2.0
/*
 * The admin process: HTTP for people's tools, of this node only.
 *
 *   GET /healthz   200 "ok": the node's processes are supervised and this one answers
 *   GET /readyz    200 "ready", or 503 and a line for each process that is not
 *   GET /metrics   all processes' counters, Prometheus text format 0.0.4
 *
 * It asks no process: states come from the supervisor's board, counters from
 * shared memory, so it answers also while a process hangs.
 */
#ifndef MAILROOM_ADMIN_ADMIN_H
#define MAILROOM_ADMIN_ADMIN_H

struct child;

int admin_main(struct child *child);

#endif

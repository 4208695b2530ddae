// SPDX-License-Identifier: Apache-2.0
/*
 * Counters of several processes as Prometheus text: each metric once with HELP
 * and TYPE, one line a process. A counter `receipts` reads
 *
 *   # HELP mailroom_receipts_total receipts sent to publishers (batches)
 *   # TYPE mailroom_receipts_total counter
 *   mailroom_receipts_total{role="gateway",index="0"} 12
 *
 * Pure: segments in, text out.
 */
#ifndef MAILROOM_ADMIN_METRICS_H
#define MAILROOM_ADMIN_METRICS_H

#include "admin/text.h"

/* A process's segment (base/counters.h), or NULL: it has none now. */
struct metrics_source {
    const char *role;
    unsigned index;
    const void *segment;
};

/* A process's state, for mailroom_process_up and _restarts_total. */
struct metrics_process {
    const char *role;
    unsigned index;
    int ready;
    unsigned restarts;
};

/* Segments of other releases are read too: metrics are matched by name. */
void metrics_counters(struct text *out, const struct metrics_source *sources, size_t count);
void metrics_processes(struct text *out, const struct metrics_process *processes, size_t count);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "admin/metrics.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/counters.h"

/* A copy of this process's counters as they are now. */
static void *segment_now(void *own) {
    void *copy = malloc(COUNTERS_SEGMENT_BYTES);
    memcpy(copy, own, COUNTERS_SEGMENT_BYTES);
    return copy;
}

Test(metrics, each_metric_is_told_once_with_a_line_for_each_process) {
    void *own = aligned_alloc(4096, COUNTERS_SEGMENT_BYTES);
    memset(own, 0, COUNTERS_SEGMENT_BYTES);
    counters_open(own);
    counters_add(COUNTER_receipts, 12);
    counters_set(COUNTER_sessions, 3);
    void *gateway = segment_now(own);
    counters_add(COUNTER_receipts, 30);
    void *shard = segment_now(own);
    struct metrics_source sources[] = {{"controller", 0, NULL}, {"gateway", 0, gateway}, {"shard", 1, shard}};
    struct text t = {0};
    metrics_counters(&t, sources, 3);
    const char *at = strstr(t.data, "# HELP mailroom_receipts_total ");
    cr_assert(at, "%s", t.data);
    cr_assert_null(strstr(at + 1, "# HELP mailroom_receipts_total "));
    cr_assert(strstr(at, "(batches)\n# TYPE mailroom_receipts_total counter\n"
                         "mailroom_receipts_total{role=\"gateway\",index=\"0\"} 12\n"
                         "mailroom_receipts_total{role=\"shard\",index=\"1\"} 42\n"));
    cr_assert(strstr(t.data,
                     "# TYPE mailroom_sessions gauge\nmailroom_sessions{role=\"gateway\",index=\"0\"} 3\n"));
    text_free(&t);
    free(gateway);
    free(shard);
}

Test(metrics, states_of_processes) {
    struct metrics_process processes[] = {{"gateway", 0, 1, 0}, {"shard", 1, 0, 4}};
    struct text t = {0};
    metrics_processes(&t, processes, 2);
    cr_assert(strstr(t.data, "mailroom_process_up{role=\"gateway\",index=\"0\"} 1\n"
                             "mailroom_process_up{role=\"shard\",index=\"1\"} 0\n"));
    cr_assert(strstr(t.data, "mailroom_process_restarts_total{role=\"shard\",index=\"1\"} 4\n"));
    text_free(&t);
}

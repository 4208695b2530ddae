// SPDX-License-Identifier: Apache-2.0
#include "admin/metrics.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/counters.h"

static bool find(const void *segment, const char *name, struct counters_sample *out) {
    size_t position = 0;
    while (segment && counters_next(segment, COUNTERS_SEGMENT_BYTES, &position, out))
        if (strcmp(out->name, name) == 0)
            return true;
    return false;
}

static const char *suffix(const struct counters_sample *s) {
    return s->type == COUNTER_TYPE_COUNTER ? "_total" : "";
}

/* sources[first] is the first that has it. */
static void add_metric(struct text *out, const struct metrics_source *sources, size_t first, size_t count,
                       const struct counters_sample *metric) {
    text_add(out, "# HELP mailroom_%s%s %s (%s)\n# TYPE mailroom_%s%s %s\n", metric->name, suffix(metric),
             metric->help, metric->unit, metric->name, suffix(metric),
             metric->type == COUNTER_TYPE_COUNTER ? "counter" : "gauge");
    for (size_t i = first; i < count; i++) {
        struct counters_sample s;
        if (find(sources[i].segment, metric->name, &s))
            text_add(out, "mailroom_%s%s{role=\"%s\",index=\"%u\"} %" PRIu64 "\n", metric->name,
                     suffix(metric), sources[i].role, sources[i].index, s.value);
    }
}

void metrics_counters(struct text *out, const struct metrics_source *sources, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct counters_sample s, before;
        size_t position = 0;
        while (sources[i].segment &&
               counters_next(sources[i].segment, COUNTERS_SEGMENT_BYTES, &position, &s)) {
            bool told = false;
            for (size_t k = 0; k < i && !told; k++)
                told = find(sources[k].segment, s.name, &before);
            if (!told)
                add_metric(out, sources, i, count, &s);
        }
    }
}

void metrics_processes(struct text *out, const struct metrics_process *processes, size_t count) {
    text_add(out, "# HELP mailroom_process_up 1 while the process is ready\n"
                  "# TYPE mailroom_process_up gauge\n");
    for (size_t i = 0; i < count; i++)
        text_add(out, "mailroom_process_up{role=\"%s\",index=\"%u\"} %d\n", processes[i].role,
                 processes[i].index, processes[i].ready);
    text_add(out, "# HELP mailroom_process_restarts_total restarts of the process by its supervisor\n"
                  "# TYPE mailroom_process_restarts_total counter\n");
    for (size_t i = 0; i < count; i++)
        text_add(out, "mailroom_process_restarts_total{role=\"%s\",index=\"%u\"} %u\n", processes[i].role,
                 processes[i].index, processes[i].restarts);
}

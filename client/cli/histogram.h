// SPDX-License-Identifier: Apache-2.0
/*
 * Latencies in microseconds, in buckets whose width grows with the value: each
 * power of two is cut into HISTOGRAM_STEPS, so a quantile is right to under 1 %.
 * One thread each; add them up at the end.
 */
#ifndef MAILROOM_CLI_HISTOGRAM_H
#define MAILROOM_CLI_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 128, HISTOGRAM_BUCKETS = 58 * HISTOGRAM_STEPS };

struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t count;
    uint64_t max;
};

void histogram_record(struct histogram *h, int64_t usec); /* below 0 counts as 0 */
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The value that `share` (0 to 1) of the recorded ones do not pass; 0 if none. */
uint64_t histogram_quantile(const struct histogram *h, double share);

#endif

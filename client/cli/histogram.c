// SPDX-License-Identifier: Apache-2.0
#include "client/cli/histogram.h"

/* Values below HISTOGRAM_STEPS have a bucket each; above, the highest 8 bits
 * choose it. */
static unsigned bucket_of(uint64_t v) {
    if (v < HISTOGRAM_STEPS)
        return (unsigned)v;
    unsigned shift = 63 - (unsigned)__builtin_clzll(v) - 7;
    unsigned bucket = (shift + 1) * HISTOGRAM_STEPS + (unsigned)((v >> shift) - HISTOGRAM_STEPS);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The largest value of a bucket. */
static uint64_t bucket_end(unsigned bucket) {
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    return ((uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS + 1) << shift) - 1;
}

void histogram_record(struct histogram *h, int64_t usec) {
    uint64_t v = usec < 0 ? 0 : (uint64_t)usec;
    h->buckets[bucket_of(v)]++;
    h->count++;
    if (v > h->max)
        h->max = v;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->count += from->count;
    if (from->max > into->max)
        into->max = from->max;
}

uint64_t histogram_quantile(const struct histogram *h, double share) {
    uint64_t rank = (uint64_t)(share * (double)h->count), seen = 0;
    if (rank >= h->count && h->count)
        rank = h->count - 1;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > rank)
            return bucket_end(i) < h->max ? bucket_end(i) : h->max;
    }
    return 0;
}

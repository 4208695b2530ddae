// SPDX-License-Identifier: Apache-2.0
/*
 * What one consumer holds of one partition: ranges of offsets, each with the
 * token (epoch, delivery number) it was delivered under. Neighbours with one
 * token are kept as one range, so a consumer that settles in order costs one
 * range, whatever its credit.
 *
 * Ranges of one token never overlap. Ranges of different tokens may: a message
 * whose lease ran out comes again under a new token while the old delivery is
 * still in the application's hands.
 */
#ifndef MAILROOM_GATEWAY_HOLDS_H
#define MAILROOM_GATEWAY_HOLDS_H

#include <stddef.h>
#include <stdint.h>

struct hold {
    uint64_t first; /* offset */
    uint64_t epoch; /* the token */
    uint32_t number;
    uint32_t count;
};

/* Zeroed = empty. items[start .. start+count) in the order epoch, number, first. */
struct holds {
    struct hold *items;
    size_t start;
    size_t count;
    size_t capacity;
};

/* Both answer how many messages changed: those not held before, those held.
 * range->count > 0 and its offsets do not wrap. */
uint64_t holds_add(struct holds *h, const struct hold *range);
uint64_t holds_take(struct holds *h, const struct hold *range);
/* Messages held. */
uint64_t holds_total(const struct holds *h);
static inline const struct hold *holds_at(const struct holds *h, size_t i) {
    return &h->items[h->start + i];
}
void holds_free(struct holds *h);

#endif

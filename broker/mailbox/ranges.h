// SPDX-License-Identifier: Apache-2.0
/*
 * An ordered map from disjoint ranges of offsets to a small value: settled sets,
 * returned messages, leases. State is kept per range, so a million messages in
 * the same state cost one range. Adjacent ranges of equal value are one, always:
 * equal content has one form (checkpoints are compared byte by byte).
 *
 * A two-level sorted array: found by binary search, an insert moves at most one
 * chunk. Pointers to ranges are valid until the next change of the map.
 */
#ifndef MAILROOM_MAILBOX_RANGES_H
#define MAILROOM_MAILBOX_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range_value {
    uint64_t a, b, c;
};

struct range {
    uint64_t first, end; /* [first, end) */
    struct range_value value;
};

struct range_chunk {
    struct range *items;
    uint32_t count, capacity;
};

struct ranges { /* all zero: empty */
    struct range_chunk *chunks;
    size_t count, capacity;
    uint64_t total; /* offsets covered */
};

void ranges_free(struct ranges *s); /* empty after, usable again */
/* The first range that ends above `offset`: the one that covers it, or the next; NULL: none. */
const struct range *ranges_from(const struct ranges *s, uint64_t offset);
/* The one that covers `offset`, or NULL. */
const struct range *ranges_at(const struct ranges *s, uint64_t offset);
bool ranges_has(const struct ranges *s, uint64_t offset);
/* [first, end) has `value` from now on, whatever it had. Empty: nothing. */
void ranges_set(struct ranges *s, uint64_t first, uint64_t end, struct range_value value);
void ranges_add(struct ranges *s, uint64_t first, uint64_t end); /* with a value of zeros */
/* [first, end) is covered no more. */
void ranges_clear(struct ranges *s, uint64_t first, uint64_t end);
/* How many offsets of [first, end) are covered. */
uint64_t ranges_covered(const struct ranges *s, uint64_t first, uint64_t end);
/* The next stretch at or above *at and below `end` that is not covered: false if
 * none. Loop: for (at = first; ranges_gap(s, &at, end, &stop); at = stop). */
bool ranges_gap(const struct ranges *s, uint64_t *at, uint64_t end, uint64_t *stop);
size_t ranges_count(const struct ranges *s);

#endif

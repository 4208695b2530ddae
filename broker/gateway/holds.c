// SPDX-License-Identifier: Apache-2.0
#include "gateway/holds.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

static uint64_t hold_end(const struct hold *r) {
    return r->first + r->count;
}

static bool same_token(const struct hold *a, const struct hold *b) {
    return a->epoch == b->epoch && a->number == b->number;
}

/* a stands before b. */
static bool hold_before(const struct hold *a, const struct hold *b) {
    if (a->epoch != b->epoch)
        return a->epoch < b->epoch;
    if (a->number != b->number)
        return a->number < b->number;
    return a->first < b->first;
}

/* The first place whose range does not stand before key. */
static size_t hold_find(const struct holds *h, const struct hold *key) {
    size_t low = 0, high = h->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (hold_before(holds_at(h, middle), key))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void hold_insert(struct holds *h, size_t at, const struct hold *range) {
    if (h->start > 0 && h->start + h->count == h->capacity) {
        memmove(h->items, h->items + h->start, h->count * sizeof *h->items);
        h->start = 0;
    }
    xgrow(&h->items, &h->capacity, h->start + h->count + 1, sizeof *h->items);
    struct hold *place = h->items + h->start + at;
    memmove(place + 1, place, (h->count - at) * sizeof *place);
    *place = *range;
    h->count++;
}

static void hold_remove(struct holds *h, size_t at, size_t n) {
    struct hold *place = h->items + h->start + at;
    if (at == 0)
        h->start += n;
    else
        memmove(place, place + n, (h->count - at - n) * sizeof *place);
    h->count -= n;
    if (h->count == 0)
        h->start = 0;
}

/* Cut [first, end) out of the range at `at`; true if the range itself is gone. */
static bool hold_cut(struct holds *h, size_t at, uint64_t first, uint64_t end) {
    struct hold *r = &h->items[h->start + at];
    uint64_t r_end = hold_end(r);
    if (first <= r->first && end >= r_end)
        return true;
    if (first > r->first && end < r_end) {
        struct hold right = *r;
        right.first = end;
        right.count = (uint32_t)(r_end - end);
        r->count = (uint32_t)(first - r->first);
        hold_insert(h, at + 1, &right);
    } else if (first <= r->first) {
        r->first = end;
        r->count = (uint32_t)(r_end - end);
    } else {
        r->count = (uint32_t)(first - r->first);
    }
    return false;
}

uint64_t holds_take(struct holds *h, const struct hold *range) {
    uint64_t end = hold_end(range), taken = 0;
    CHECK(range->count > 0 && end > range->first);
    size_t at = hold_find(h, range);
    if (at > 0 && same_token(holds_at(h, at - 1), range) && hold_end(holds_at(h, at - 1)) > range->first)
        at--;
    size_t gone_at = at, gone = 0;
    while (at < h->count && same_token(holds_at(h, at), range) && holds_at(h, at)->first < end) {
        const struct hold *r = holds_at(h, at);
        uint64_t from = r->first > range->first ? r->first : range->first;
        uint64_t to = hold_end(r) < end ? hold_end(r) : end;
        taken += to - from;
        if (!hold_cut(h, at, range->first, end)) {
            if (gone == 0)
                gone_at = at + 1;
        } else {
            gone++;
        }
        at++;
    }
    if (gone > 0)
        hold_remove(h, gone_at, gone);
    return taken;
}

/* Join the range at `at` with its right neighbour where they touch. */
static void hold_join(struct holds *h, size_t at) {
    if (at + 1 >= h->count)
        return;
    struct hold *left = &h->items[h->start + at];
    const struct hold *right = left + 1;
    if (!same_token(left, right) || hold_end(left) != right->first ||
        (uint64_t)left->count + right->count > UINT32_MAX)
        return;
    left->count += right->count;
    hold_remove(h, at + 1, 1);
}

uint64_t holds_add(struct holds *h, const struct hold *range) {
    uint64_t known = holds_take(h, range);
    size_t at = hold_find(h, range);
    hold_insert(h, at, range);
    hold_join(h, at);
    if (at > 0)
        hold_join(h, at - 1);
    return range->count - known;
}

uint64_t holds_total(const struct holds *h) {
    uint64_t total = 0;
    for (size_t i = 0; i < h->count; i++)
        total += holds_at(h, i)->count;
    return total;
}

void holds_free(struct holds *h) {
    free(h->items);
    memset(h, 0, sizeof *h);
}

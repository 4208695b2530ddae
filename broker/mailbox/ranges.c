// SPDX-License-Identifier: Apache-2.0
#include "mailbox/ranges.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

enum { RANGES_CHUNK_MAX = 128, RANGES_CHUNK_MIN = 4 };

struct place { /* a position: chunk and item; chunk == count: the end */
    size_t chunk;
    uint32_t item;
};

void ranges_free(struct ranges *s) {
    for (size_t i = 0; i < s->count; i++)
        free(s->chunks[i].items);
    free(s->chunks);
    *s = (struct ranges){0};
}

/* The first range with end > offset. */
static struct place place_of(const struct ranges *s, uint64_t offset) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct range_chunk *c = &s->chunks[middle];
        if (c->items[c->count - 1].end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    struct place p = {low, 0};
    if (low == s->count)
        return p;
    const struct range_chunk *c = &s->chunks[low];
    uint32_t from = 0, to = c->count;
    while (from < to) {
        uint32_t middle = (from + to) / 2;
        if (c->items[middle].end > offset)
            to = middle;
        else
            from = middle + 1;
    }
    p.item = from;
    return p;
}

static struct range *range_of(const struct ranges *s, struct place p) {
    return p.chunk < s->count ? &s->chunks[p.chunk].items[p.item] : NULL;
}

static void chunk_reserve(struct range_chunk *c, uint32_t need) {
    if (need <= c->capacity)
        return;
    uint32_t capacity = c->capacity ? c->capacity * 2 : RANGES_CHUNK_MIN;
    c->items = xrealloc(c->items, capacity * sizeof *c->items);
    c->capacity = capacity;
}

static void chunk_insert(struct ranges *s, size_t at) {
    xgrow(&s->chunks, &s->capacity, s->count + 1, sizeof *s->chunks);
    memmove(&s->chunks[at + 1], &s->chunks[at], (s->count - at) * sizeof *s->chunks);
    s->chunks[at] = (struct range_chunk){0};
    s->count++;
}

static void chunk_remove(struct ranges *s, size_t at) {
    free(s->chunks[at].items);
    s->count--;
    memmove(&s->chunks[at], &s->chunks[at + 1], (s->count - at) * sizeof *s->chunks);
}

/* The upper half goes to a chunk of its own behind it. */
static void chunk_split(struct ranges *s, size_t at) {
    chunk_insert(s, at + 1);
    struct range_chunk *low = &s->chunks[at], *high = &s->chunks[at + 1];
    uint32_t keep = low->count / 2;
    uint32_t move = low->count - keep;
    high->items = xmalloc(RANGES_CHUNK_MAX * sizeof *high->items);
    high->capacity = RANGES_CHUNK_MAX;
    memcpy(high->items, &low->items[keep], move * sizeof *high->items);
    high->count = move;
    low->count = keep;
}

static void insert_at(struct ranges *s, struct place p, struct range r) {
    if (s->count == 0)
        chunk_insert(s, 0);
    if (p.chunk == s->count)
        p = (struct place){s->count - 1, s->chunks[s->count - 1].count};
    if (s->chunks[p.chunk].count == RANGES_CHUNK_MAX) {
        chunk_split(s, p.chunk);
        uint32_t low = s->chunks[p.chunk].count;
        if (p.item > low)
            p = (struct place){p.chunk + 1, p.item - low};
    }
    struct range_chunk *c = &s->chunks[p.chunk];
    chunk_reserve(c, c->count + 1);
    memmove(&c->items[p.item + 1], &c->items[p.item], (c->count - p.item) * sizeof *c->items);
    c->items[p.item] = r;
    c->count++;
    s->total += r.end - r.first;
}

static void remove_at(struct ranges *s, struct place p) {
    struct range_chunk *c = &s->chunks[p.chunk];
    s->total -= c->items[p.item].end - c->items[p.item].first;
    c->count--;
    memmove(&c->items[p.item], &c->items[p.item + 1], (c->count - p.item) * sizeof *c->items);
    if (c->count == 0)
        chunk_remove(s, p.chunk);
}

const struct range *ranges_from(const struct ranges *s, uint64_t offset) {
    return range_of(s, place_of(s, offset));
}

const struct range *ranges_at(const struct ranges *s, uint64_t offset) {
    const struct range *r = ranges_from(s, offset);
    return r && r->first <= offset ? r : NULL;
}

bool ranges_has(const struct ranges *s, uint64_t offset) {
    return ranges_at(s, offset) != NULL;
}

void ranges_clear(struct ranges *s, uint64_t first, uint64_t end) {
    while (first < end) {
        struct place p = place_of(s, first);
        struct range *r = range_of(s, p);
        if (!r || r->first >= end)
            return;
        struct range old = *r;
        if (old.first >= first && old.end <= end) {
            remove_at(s, p);
        } else if (old.first < first && old.end > end) {
            r->end = first;
            s->total -= old.end - first;
            insert_at(s, (struct place){p.chunk, p.item + 1}, (struct range){end, old.end, old.value});
        } else if (old.first < first) {
            r->end = first;
            s->total -= old.end - first;
        } else {
            r->first = end;
            s->total -= end - old.first;
        }
    }
}

static bool value_equal(struct range_value x, struct range_value y) {
    return x.a == y.a && x.b == y.b && x.c == y.c;
}

void ranges_set(struct ranges *s, uint64_t first, uint64_t end, struct range_value value) {
    if (first >= end)
        return;
    ranges_clear(s, first, end);
    struct place after = place_of(s, end);
    struct range *r = range_of(s, after);
    if (r && r->first == end && value_equal(r->value, value)) {
        end = r->end;
        remove_at(s, after);
    }
    if (first > 0) {
        struct place before = place_of(s, first - 1);
        r = range_of(s, before);
        if (r && r->end == first && value_equal(r->value, value)) {
            s->total += end - first;
            r->end = end;
            return;
        }
    }
    insert_at(s, place_of(s, first), (struct range){first, end, value});
}

void ranges_add(struct ranges *s, uint64_t first, uint64_t end) {
    ranges_set(s, first, end, (struct range_value){0});
}

uint64_t ranges_covered(const struct ranges *s, uint64_t first, uint64_t end) {
    uint64_t sum = 0;
    const struct range *r;
    for (uint64_t at = first; at < end && (r = ranges_from(s, at)) && r->first < end; at = r->end) {
        uint64_t low = r->first > at ? r->first : at, high = r->end < end ? r->end : end;
        sum += high - low;
    }
    return sum;
}

bool ranges_gap(const struct ranges *s, uint64_t *at, uint64_t end, uint64_t *stop) {
    const struct range *r = ranges_from(s, *at);
    while (r && r->first <= *at) {
        *at = r->end;
        r = ranges_from(s, *at);
    }
    if (*at >= end)
        return false;
    *stop = r && r->first < end ? r->first : end;
    return true;
}

size_t ranges_count(const struct ranges *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++)
        n += s->chunks[i].count;
    return n;
}

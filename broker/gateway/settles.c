// SPDX-License-Identifier: Apache-2.0
#include "gateway/settles.h"

#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/check.h"
#include "base/xalloc.h"

static void part_remove(struct settles *t, struct settle_part *part) {
    HASH_DEL(t->by_number, part);
    DL_DELETE(part->settle->parts, part);
    free(part->items);
    free(part);
}

/* A request of one partition is the rule: its part is found at the head. */
static struct settle_part *part_of(struct settles *t, struct settle *s, uint32_t partition) {
    struct settle_part *part;
    DL_FOREACH(s->parts, part) {
        if (part->partition == partition)
            return part;
    }
    part = xcalloc(1, sizeof *part);
    part->number = ++t->last_number;
    part->settle = s;
    part->partition = partition;
    HASH_ADD(hh, t->by_number, number, sizeof part->number, part);
    DL_APPEND(s->parts, part);
    return part;
}

static void part_add(struct settle_part *part, uint32_t index) {
    /* grows by doubling at powers of two: no capacity to keep */
    if ((part->count & (part->count - 1)) == 0)
        part->items = xrealloc(part->items, (part->count ? 2 * part->count : 1) * sizeof *part->items);
    part->items[part->count++] = index;
}

struct settle *settles_begin(struct settles *t, uint64_t owner, uint64_t request,
                             const struct settle_consumer *consumer, uint64_t mailbox,
                             const struct settlement *items, size_t count) {
    struct settle *s = xcalloc(1, sizeof *s);
    s->owner = owner;
    s->request = request;
    s->consumer = *consumer;
    s->mailbox = mailbox;
    s->count = count;
    s->items = xcalloc(count ? count : 1, sizeof *s->items);
    s->results = xmalloc(count ? count : 1);
    memset(s->results, SETTLEMENT_UNKNOWN, count);
    for (size_t i = 0; i < count; i++) {
        s->items[i] = items[i];
        part_add(part_of(t, s, items[i].partition), (uint32_t)i);
    }
    DL_APPEND(t->all, s);
    t->items += count;
    return s;
}

struct settle_part *settles_find(const struct settles *t, uint64_t number) {
    struct settle_part *part;
    HASH_FIND(hh, t->by_number, &number, sizeof number, part);
    return part;
}

bool settles_answer(struct settles *t, struct settle_part *part, const uint8_t *results, size_t count,
                    void (*settled)(void *ctx, const struct settle *s, const struct settlement *item,
                                    enum settlement_result result),
                    void *ctx) {
    struct settle *s = part->settle;
    size_t left = 0;
    if (count != part->count)
        return false;
    for (size_t i = 0; i < count; i++) {
        uint32_t index = part->items[i];
        if (results[i] >= SETTLEMENT_UNKNOWN) {
            part->items[left++] = index;
            continue;
        }
        s->results[index] = results[i];
        settled(ctx, s, &s->items[index], (enum settlement_result)results[i]);
    }
    part->count = left;
    part->sent = false;
    if (left == 0)
        part_remove(t, part);
    return true;
}

void settles_remove(struct settles *t, struct settle *s) {
    while (s->parts)
        part_remove(t, s->parts);
    DL_DELETE(t->all, s);
    t->items -= s->count;
    free(s->items);
    free(s->results);
    free(s);
}

void settles_forget(struct settles *t, uint64_t owner) {
    struct settle *s, *tmp;
    DL_FOREACH_SAFE(t->all, s, tmp) {
        if (s->owner == owner)
            settles_remove(t, s);
    }
}

void settles_lost(struct settles *t, uint64_t mailbox, uint32_t partition) {
    struct settle *s;
    struct settle_part *part;
    DL_FOREACH(t->all, s) {
        if (s->mailbox != mailbox)
            continue;
        DL_FOREACH(s->parts, part) {
            if (part->partition == partition)
                part->sent = false;
        }
    }
}

void settles_send(struct settles *t, uint64_t mailbox, uint32_t partition,
                  bool (*send)(void *ctx, const struct settle_part *part), void *ctx) {
    struct settle *s;
    struct settle_part *part;
    DL_FOREACH(t->all, s) {
        if (s->mailbox != mailbox)
            continue;
        DL_FOREACH(s->parts, part) {
            if (part->partition != partition || part->sent)
                continue;
            if (!send(ctx, part))
                return;
            part->sent = true;
        }
    }
}

void settles_free(struct settles *t) {
    while (t->all)
        settles_remove(t, t->all);
}

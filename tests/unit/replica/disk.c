// SPDX-License-Identifier: Apache-2.0
/* What a journal knows: a replay of its records. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

void entry_push(struct entry **items, size_t *count, size_t *capacity, const struct entry *e) {
    xgrow(items, capacity, *count + 1, sizeof **items);
    (*items)[(*count)++] = *e;
    body_keep(e->body);
}

void entries_cut(struct entry *items, size_t *count, size_t keep) {
    while (*count > keep)
        body_drop(items[--*count].body);
}

void disk_free(struct disk *d) {
    entries_cut(d->entries, &d->count, 0);
    entries_cut(d->live, &d->live_count, 0);
    entries_cut(d->staged, &d->staged_count, 0);
    free(d->entries);
    free(d->live);
    free(d->staged);
    body_drop(d->checkpoint);
    *d = (struct disk){0};
}

struct disk disk_copy(const struct disk *d) {
    struct disk copy = {.promise = d->promise,
                        .candidate = d->candidate,
                        .base_index = d->base_index,
                        .base_epoch = d->base_epoch,
                        .checkpoint = body_keep(d->checkpoint),
                        .damaged = d->damaged,
                        .doubtful = d->doubtful};
    for (size_t i = 0; i < d->count; i++)
        entry_push(&copy.entries, &copy.count, &copy.capacity, &d->entries[i]);
    for (size_t i = 0; i < d->live_count; i++)
        entry_push(&copy.live, &copy.live_count, &copy.live_capacity, &d->live[i]);
    return copy;
}

static const struct entry *find_entry(const struct entry *items, size_t count, uint64_t index) {
    for (size_t i = count; i-- > 0;)
        if (items[i].index == index)
            return &items[i];
    return NULL;
}

const struct entry *disk_find(const struct disk *d, uint64_t index) {
    const struct entry *e = find_entry(d->entries, d->count, index);
    return e ? e : find_entry(d->live, d->live_count, index);
}

static void set_checkpoint(struct disk *d, const struct record *r) {
    body_drop(d->checkpoint);
    d->checkpoint = body_keep(r->state);
    d->base_index = r->number;
    d->base_epoch = r->epoch;
}

static void replay_checkpoint(struct disk *d, const struct record *r) {
    struct entry *live = NULL;
    size_t count = 0, capacity = 0;
    for (size_t i = 0; i < r->live_count; i++) {
        const struct entry *e = disk_find(d, r->live[i]);
        cr_assert(e, "live batch %lu is not stored", r->live[i]);
        entry_push(&live, &count, &capacity, e);
    }
    entries_cut(d->live, &d->live_count, 0);
    free(d->live);
    d->live = live;
    d->live_count = count;
    d->live_capacity = capacity;
    size_t kept = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (d->entries[i].index > r->number)
            d->entries[kept++] = d->entries[i];
        else
            body_drop(d->entries[i].body);
    }
    d->count = kept;
    set_checkpoint(d, r);
}

static void replay_install(struct disk *d, const struct record *r) {
    entries_cut(d->entries, &d->count, 0);
    entries_cut(d->live, &d->live_count, 0);
    for (size_t i = 0; i < r->live_count; i++) {
        const struct entry *e = find_entry(d->staged, d->staged_count, r->live[i]);
        cr_assert(e, "live batch %lu was not staged", r->live[i]);
        entry_push(&d->live, &d->live_count, &d->live_capacity, e);
    }
    entries_cut(d->staged, &d->staged_count, 0);
    set_checkpoint(d, r);
}

void replay(struct disk *d, const struct record *r) {
    switch (r->type) {
    case R_WRITE:
        cr_assert_eq(r->entry.index, d->base_index + d->count + 1, "a gap in the journal");
        entry_push(&d->entries, &d->count, &d->capacity, &r->entry);
        break;
    case R_TRUNCATE:
        cr_assert_geq(r->number, d->base_index);
        entries_cut(d->entries, &d->count, r->number - d->base_index);
        break;
    case R_PROMISE:
        cr_assert_geq(r->number, d->promise, "a promise taken back");
        d->promise = r->number;
        d->candidate = r->candidate;
        break;
    case R_DAMAGED:
        d->damaged = true;
        break;
    case R_WHOLE:
        d->damaged = d->doubtful = false;
        break;
    case R_STAGE:
        entry_push(&d->staged, &d->staged_count, &d->staged_capacity, &r->entry);
        break;
    case R_UNSTAGE:
        entries_cut(d->staged, &d->staged_count, 0);
        break;
    case R_CHECKPOINT:
        replay_checkpoint(d, r);
        break;
    case R_INSTALL:
        replay_install(d, r);
        break;
    }
}

void record_free(struct record *r) {
    body_drop(r->entry.body);
    body_drop(r->state);
    free(r->live);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Dispatch by key: a key's messages go in order to one consumer at a time, and
 * stay with it while one of them is leased or delayed.
 *
 * A key has a state only while it has messages leased, coming back (waiting) or
 * set aside (parked). A message is parked when its key's owner lacks credit, or
 * when a lower message of the key is coming back; later ones of that key then
 * queue behind it, and other keys go on. Messages without a key go to anybody.
 */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "mailbox/state.h"

bool keys_used(const struct mailbox *m) {
    return m->settings.dispatch == DISPATCH_KEY;
}

/* ---- ordered offsets ---- */

static void offsets_compact(struct offsets *o) {
    if (o->head && o->head + o->count == o->capacity) {
        memmove(o->items, o->items + o->head, o->count * sizeof *o->items);
        o->head = 0;
    }
    xgrow(&o->items, &o->capacity, o->head + o->count + 1, sizeof *o->items);
}

static size_t offsets_place(const struct offsets *o, uint64_t offset) {
    size_t low = 0, high = o->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (o->items[o->head + middle] < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void offsets_insert(struct offsets *o, uint64_t offset) {
    offsets_compact(o);
    size_t at = offsets_place(o, offset);
    uint64_t *p = o->items + o->head + at;
    memmove(p + 1, p, (o->count - at) * sizeof *p);
    *p = offset;
    o->count++;
}

static void offsets_remove(struct offsets *o, uint64_t offset) {
    size_t at = offsets_place(o, offset);
    uint64_t *p = o->items + o->head + at;
    CHECK(at < o->count && *p == offset);
    o->count--;
    if (at == 0)
        o->head = o->count ? o->head + 1 : 0;
    else
        memmove(p, p + 1, (o->count - at) * sizeof *p);
}

static uint64_t offsets_first(const struct offsets *o) {
    return o->items[o->head];
}

/* ---- keys ---- */

static struct key_state *key_find(const struct subscription *s, uint32_t hash) {
    struct key_state *k;
    HASH_FIND(hh, s->keys, &hash, sizeof hash, k);
    return k;
}

static struct key_state *key_get(struct subscription *s, uint32_t hash) {
    struct key_state *k = key_find(s, hash);
    if (k)
        return k;
    k = xcalloc(1, sizeof *k);
    k->hash = hash;
    HASH_ADD(hh, s->keys, hash, sizeof k->hash, k);
    return k;
}

static struct key_state **parked_list(struct subscription *s, const struct key_state *k) {
    return k->owner ? &k->owner->parked_keys : &s->parked_keys;
}

static void key_unlist(struct subscription *s, struct key_state *k) {
    if (k->parked.count)
        DL_DELETE2(*parked_list(s, k), k, parked_prev, parked_next);
}

static void key_list(struct subscription *s, struct key_state *k) {
    if (k->parked.count)
        DL_APPEND2(*parked_list(s, k), k, parked_prev, parked_next);
}

static void key_own(struct subscription *s, struct key_state *k, struct consumer *owner) {
    if (k->owner == owner)
        return;
    key_unlist(s, k);
    if (k->owner)
        DL_DELETE(k->owner->keys, k);
    k->owner = owner;
    if (owner)
        DL_APPEND(owner->keys, k);
    key_list(s, k);
}

static void key_free(struct subscription *s, struct key_state *k) {
    HASH_DELETE(hh, s->keys, k);
    free(k->waiting.items);
    free(k->parked.items);
    free(k);
}

/* Nothing of it leased or coming back: anybody's; nothing at all: forgotten. */
static void key_settle(struct subscription *s, struct key_state *k) {
    if (k->leased || k->waiting.count)
        return;
    key_own(s, k, NULL);
    if (k->parked.count == 0)
        key_free(s, k);
}

static void key_park(struct subscription *s, struct key_state *k, uint64_t offset) {
    bool first = k->parked.count == 0;
    offsets_insert(&k->parked, offset);
    if (first)
        key_list(s, k);
    s->parked++;
}

static void key_unpark(struct subscription *s, struct key_state *k) {
    uint64_t offset = offsets_first(&k->parked);
    if (k->parked.count == 1)
        key_unlist(s, k);
    offsets_remove(&k->parked, offset);
    s->parked--;
}

/* Something lower is coming back, or what a gone consumer settled is not committed. */
static bool key_blocks(const struct key_state *k, uint64_t offset) {
    if (k->leased && (k->contested || !k->owner))
        return true;
    return k->waiting.count && offsets_first(&k->waiting) < offset;
}

static uint32_t key_of(const struct subscription *s, uint64_t offset) {
    const struct batch_record *b = batches_at(&s->mailbox->batches, offset);
    CHECK(b);
    return batch_key(b, offset);
}

/* ---- what leases and returns tell ---- */

void keys_leased(struct subscription *s, struct consumer *c, uint64_t first, uint64_t end) {
    if (!keys_used(s->mailbox))
        return;
    for (uint64_t at = first; at < end; at++) {
        uint32_t hash = key_of(s, at);
        if (!hash)
            continue;
        struct key_state *k = key_get(s, hash);
        k->leased++;
        if (!k->owner)
            key_own(s, k, c);
        k->contested |= k->owner != c;
    }
}

void keys_unleased(struct subscription *s, uint64_t first, uint64_t end) {
    if (!keys_used(s->mailbox))
        return;
    for (uint64_t at = first; at < end; at++) {
        uint32_t hash = key_of(s, at);
        if (!hash)
            continue;
        struct key_state *k = key_find(s, hash);
        if (--k->leased == 0)
            k->contested = false;
        key_settle(s, k);
    }
    dispatch_touch(s);
}

void keys_wait(struct subscription *s, uint64_t first, uint64_t end) {
    if (!keys_used(s->mailbox))
        return;
    for (uint64_t at = first; at < end; at++) {
        uint32_t hash = key_of(s, at);
        if (hash)
            offsets_insert(&key_get(s, hash)->waiting, at);
    }
}

void keys_unwait(struct subscription *s, uint64_t first, uint64_t end) {
    if (!keys_used(s->mailbox))
        return;
    for (uint64_t at = first; at < end; at++) {
        uint32_t hash = key_of(s, at);
        if (!hash)
            continue;
        struct key_state *k = key_find(s, hash);
        offsets_remove(&k->waiting, at);
        key_settle(s, k);
    }
    dispatch_touch(s);
}

void keys_disown(struct consumer *c) {
    while (c->keys) {
        struct key_state *k = c->keys;
        key_own(c->subscription, k, NULL);
        key_settle(c->subscription, k);
    }
}

void keys_free(struct subscription *s) {
    struct key_state *k, *next;
    HASH_ITER(hh, s->keys, k, next)
    key_free(s, k);
    s->parked_keys = NULL;
    s->parked = 0;
}

/* ---- dispatch ---- */

struct run { /* a delivery being put together */
    struct mailbox *m;
    struct subscription *s;
    struct mailbox_effects *fx;
    struct consumer *consumer;
    struct batch_record *batch;
    uint64_t first;
    uint32_t count;
    struct mark mark;
};

static void run_flush(struct run *run) {
    if (run->count)
        deliver(run->m, run->s, run->consumer, run->batch, run->first, run->count, run->mark, run->fx);
    run->count = 0;
    run->consumer = NULL;
}

static bool has_credit(const struct run *run, const struct consumer *c) {
    return !c->lost && c->credit > (run->consumer == c ? run->count : 0);
}

static bool run_goes_on(const struct run *run, const struct consumer *c, uint64_t offset, struct mark mark) {
    return run->count && run->consumer == c && offset == run->first + run->count &&
           offset < batch_end(run->batch) && run->count < run_messages_max(run->batch) &&
           mark.number == run->mark.number && mark.attempts == run->mark.attempts;
}

static void run_add(struct run *run, struct consumer *c, uint64_t offset) {
    struct mark mark = mark_at(run->s, offset);
    if (!run_goes_on(run, c, offset, mark)) {
        run_flush(run);
        run->consumer = c;
        run->batch = batches_at(&run->m->batches, offset);
        run->first = offset;
        run->mark = mark;
    }
    run->count++;
}

/* Whose turn it is for a message that belongs to nobody. Runs go on while there is
 * only one consumer to serve. */
static struct consumer *anybody(struct run *run) {
    if (run->consumer && run->s->eligible.count == 1 && dispatch_pick(run->s) == run->consumer &&
        has_credit(run, run->consumer))
        return run->consumer;
    run_flush(run);
    return dispatch_pick(run->s);
}

static void ask_owner(struct run *run, struct consumer *owner) {
    if (owner->announced || owner->lost)
        return;
    owner->announced = true;
    dispatch_announce(run->s, owner->gateway, run->fx);
}

/* Who may have this message now; NULL: it has to wait. */
static struct consumer *key_taker(struct run *run, uint32_t hash, uint64_t offset) {
    struct key_state *k = hash ? key_find(run->s, hash) : NULL;
    if (hash && (!k || !k->owner) && run->count && run->s->eligible.count > 1) {
        run_flush(run); /* the run may own this key */
        k = key_find(run->s, hash);
    }
    if (!k)
        return anybody(run);
    if (key_blocks(k, offset))
        return NULL;
    if (!k->owner)
        return anybody(run);
    if (has_credit(run, k->owner))
        return k->owner;
    ask_owner(run, k->owner);
    return NULL;
}

/* A message that was not parked: delivered or parked; false: has no key, and nobody has credit. */
static bool place(struct run *run, uint64_t offset) {
    uint32_t hash = key_of(run->s, offset);
    struct key_state *k = hash ? key_find(run->s, hash) : NULL;
    bool queue = k && k->parked.count && offsets_first(&k->parked) < offset;
    struct consumer *c = queue ? NULL : key_taker(run, hash, offset);
    if (c)
        run_add(run, c, offset);
    else if (hash)
        key_park(run->s, key_get(run->s, hash), offset);
    else
        return false;
    return true;
}

/* Parked messages that were settled meanwhile are found here. */
static bool next_parked(struct subscription *s, struct key_state *k, uint64_t *offset) {
    while (k->parked.count) {
        *offset = offsets_first(&k->parked);
        if (!ranges_has(&s->settled, *offset))
            return true;
        key_unpark(s, k);
    }
    return false;
}

/* Those below `limit`. */
static void serve_parked(struct run *run, struct key_state *k, uint64_t limit) {
    uint64_t offset;
    while (next_parked(run->s, k, &offset)) {
        if (limits_expired(run->m, batches_at(&run->m->batches, offset))) {
            limits_expire_soon(run->m);
            return;
        }
        struct consumer *c = offset < limit ? key_taker(run, k->hash, offset) : NULL;
        if (!c)
            return;
        key_unpark(run->s, k);
        run_add(run, c, offset);
        run_flush(run); /* the key is its owner's from here on */
    }
    key_settle(run->s, k);
}

/* Of one owner, or of nobody. */
static void serve_list(struct run *run, struct key_state *list, const struct consumer *owner,
                       uint64_t limit) {
    struct key_state *k, *next;
    for (k = list; k && (owner ? has_credit(run, owner) : dispatch_pick(run->s) != NULL); k = next) {
        next = k->parked_next;
        serve_parked(run, k, limit);
    }
}

/* What is parked and does not come after something that has come back. */
static void serve_all(struct run *run) {
    struct subscription *s = run->s;
    const struct range *back = ranges_from(&s->back, 0);
    uint64_t limit = back ? back->first : UINT64_MAX;
    struct consumer *c;
    if (s->parked == 0)
        return;
    serve_list(run, s->parked_keys, NULL, limit);
    DL_FOREACH(s->attached, c)
    if (c->credit && !c->lost)
        serve_list(run, c->parked_keys, c, limit);
}

static enum wait_reason nobody(const struct subscription *s) {
    return s->attached ? WAIT_CREDIT : WAIT_CONSUMER;
}

/* May this one be placed now? WAIT_NOTHING: yes. */
static enum wait_reason place_one(struct run *run, uint64_t offset) {
    struct subscription *s = run->s;
    if (limits_expired(run->m, batches_at(&run->m->batches, offset))) {
        limits_expire_soon(run->m);
        return WAIT_KEY;
    }
    if (run->consumer && !has_credit(run, run->consumer))
        run_flush(run);
    return dispatch_pick(s) && place(run, offset) ? WAIT_NOTHING : nobody(s);
}

/* In the order of offsets; what is counted as waiting is so until it is placed. */
static enum wait_reason place_back(struct run *run) {
    struct subscription *s = run->s;
    const struct range *r;
    while ((r = ranges_from(&s->back, 0))) {
        uint64_t offset = r->first;
        bool counted = r->value.a;
        enum wait_reason reason = place_one(run, offset);
        if (reason != WAIT_NOTHING)
            return reason;
        ranges_clear(&s->back, offset, offset + 1);
        if (counted)
            keys_unwait(s, offset, offset + 1);
    }
    return WAIT_NOTHING;
}

static enum wait_reason place_fresh(struct run *run) {
    struct subscription *s = run->s;
    struct batch_record *b;
    uint64_t offset, stop;
    while (s->parked < MAILBOX_PARKED_MAX && dispatch_fresh(s, &offset, &stop, &b)) {
        enum wait_reason reason = place_one(run, offset);
        if (reason != WAIT_NOTHING)
            return reason;
        s->cursor = offset + 1;
    }
    return WAIT_NOTHING;
}

enum wait_reason keys_dispatch(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx) {
    struct run run = {.m = m, .s = s, .fx = fx};
    serve_all(&run);
    enum wait_reason reason = place_back(&run);
    if (reason == WAIT_NOTHING) {
        serve_all(&run);
        reason = place_fresh(&run);
    }
    run_flush(&run);
    if (reason != WAIT_CREDIT && reason != WAIT_CONSUMER && s->parked)
        reason = s->eligible.count ? WAIT_KEY : nobody(s);
    return reason == WAIT_KEY && s->parked == 0 ? WAIT_NOTHING : reason;
}

// SPDX-License-Identifier: Apache-2.0
/* From the commit index to the state machine: APPLY for each committed entry, in
 * order; what the cache no longer holds is fetched, one FETCH at a time. */
#include "replica/core.h"

void commit_to(struct replica *r, uint64_t index, struct replica_effects *fx) {
    if (index <= r->commit)
        return;
    CHECK(index <= r->log.last_index);
    uint64_t from = r->commit;
    r->commit = index;
    log_commit_moved(r, from);
    r->dirty = r->dirty || r->leading;
    apply_committed(r, fx);
}

static void apply(struct replica *r, const struct entry *entry, struct replica_effects *fx) {
    CHECK(entry->index == r->applied + 1 && entry->index <= r->commit);
    struct replica_effect *e = fx_push(fx, REPLICA_APPLY);
    e->entry = *entry;
    body_keep(entry->body);
    r->applied++;
    if (r->leading && !r->active && r->applied >= r->epoch_index) {
        r->active = true;
        fx_epoch(fx, REPLICA_ACTIVE, r->epoch);
    }
}

static void fetch(struct replica *r, struct replica_effects *fx) {
    uint64_t from = r->applied + 1;
    uint64_t to = r->commit < r->log.cache_from - 1 ? r->commit : r->log.cache_from - 1;
    if (to - from >= REPLICA_APPEND_ENTRIES_MAX)
        to = from + REPLICA_APPEND_ENTRIES_MAX - 1;
    r->fetch_from = from;
    r->fetch_void = false;
    struct replica_effect *e = fx_push(fx, REPLICA_FETCH);
    e->fetch.from = from;
    e->fetch.to = to;
}

void apply_committed(struct replica *r, struct replica_effects *fx) {
    /* A damaged copy may know of commits it no longer has. */
    while (!r->fetch_from && r->applied < r->commit && r->applied < r->log.last_index) {
        const struct slot *slot = log_slot(&r->log, r->applied + 1);
        if (!slot) {
            fetch(r, fx);
            return;
        }
        struct entry entry = slot_entry(slot, r->applied + 1);
        apply(r, &entry, fx);
    }
    log_trim(r);
}

static void apply_fetched(struct replica *r, const struct entry *entries, size_t count,
                          struct replica_effects *fx) {
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = &entries[i];
        if (entry->index == r->applied + 1 && entry->index <= r->commit &&
            log_epoch_at(&r->log, entry->index) == entry->epoch)
            apply(r, entry, fx);
    }
}

/* A journal that no longer holds what was never cut nor put in a checkpoint is
 * as bad as one that cannot read it. */
static void apply_answer(struct replica *r, const struct entry *entries, size_t count,
                         struct replica_effects *fx) {
    uint64_t from = r->fetch_from;
    bool in_vain = r->fetch_void;
    r->fetch_from = 0;
    apply_fetched(r, entries, count, fx);
    if (r->applied < from && !in_vain)
        damage_found(r, from, fx);
    else
        apply_committed(r, fx);
}

/* Gone although nothing says that it may be: behind the base, also behind that of a
 * checkpoint which is on its way to the disk (the journal lets go at once), or a live
 * batch that a fresh checkpoint names again. */
static bool lost(const struct replica *r, struct peer *p, uint64_t from) {
    if (p->mode != PEER_GIVE)
        return from > r->log.base_index && from > r->log.written_base && from <= r->log.last_index;
    bool again = p->gone == from;
    p->gone = from;
    return again;
}

void replica_fetched(struct replica *r, member_t reader, uint64_t from, const struct entry *entries,
                     size_t count, bool unreadable, usec_t now, struct replica_effects *fx) {
    if (reader == 0) {
        if (from == r->fetch_from)
            apply_answer(r, entries, count, fx);
        return;
    }
    struct peer *p = r->leading ? lead_peer(r, reader) : NULL;
    if (!p || p->fetch_from != from)
        return;
    p->fetch_from = 0;
    if (count == 0 && (unreadable || lost(r, p, from)))
        damage_found(r, from, fx);
    else
        peer_fetched(r, p, entries, count, now, fx);
}

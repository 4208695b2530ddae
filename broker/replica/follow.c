// SPDX-License-Identifier: Apache-2.0
/*
 * Following: a leader's append is checked against the own log, stored, and
 * answered with the last index verified against it.
 *
 * Happy path: on_append -> follow -> store -> (the journal syncs) ->
 * follow_stored -> SEND_APPENDED. What goes wrong: an older epoch is refused; a
 * previous (index, epoch) that is not ours is answered with a hint; a conflict is
 * cut, never at or below the commit index. An append that ends before our log
 * does cuts nothing.
 */
#include "replica/core.h"

static uint64_t committed_here(const struct replica *r) {
    /* A damaged copy may know of commits it no longer has. */
    return r->commit < r->log.last_index ? r->commit : r->log.last_index;
}

void follow_forget(struct replica *r) {
    r->verified = r->answered = 0;
    r->owes = false;
    r->echo = 0;
    r->mend_to = 0;
}

bool follow(struct replica *r, uint64_t epoch, member_t leader, struct replica_effects *fx) {
    CHECK(epoch >= r->promise || MUTATED(promise_ignored));
    if (r->leading)
        lead_stop(r, fx);
    if (epoch > r->follow_epoch) {
        if (r->take.open && !r->take.installing)
            take_abandon(r, fx);
        follow_forget(r);
        r->follow_epoch = epoch;
        r->follow_leader = leader;
        r->ceded = false;
        if (epoch > r->epoch)
            r->epoch = epoch;
    }
    if (epoch <= r->promise)
        return false;
    r->promise = epoch;
    r->candidate = r->config_in_log ? leader : 0;
    return true;
}

/* ---- answers ---- */

static struct replica_appended *answer(struct replica *r, member_t to, uint64_t epoch,
                                       enum replica_append_status status, struct replica_effects *fx) {
    struct replica_appended *a = &fx_push(fx, REPLICA_SEND_APPENDED)->appended;
    *a = (struct replica_appended){.from = r->self,
                                   .to = to,
                                   .epoch = epoch,
                                   .status = status,
                                   .promise = r->promise,
                                   .damaged = r->damaged,
                                   .damage = r->damage};
    return a;
}

static void answer_mismatch(struct replica *r, const struct replica_append *m, struct replica_effects *fx) {
    uint64_t hint = r->log.last_index;
    if (m->prev_index <= hint) {
        hint = log_epoch_first(&r->log, m->prev_index) - 1;
        if (hint < committed_here(r))
            hint = committed_here(r);
    }
    struct replica_appended *a = answer(r, m->from, m->epoch, REPLICA_APPEND_MISMATCH, fx);
    a->verified = hint;
    a->sent_at = m->sent_at;
}

/* Found while nothing is asked (a read for applying, or for a copy): an idle leader
 * would count this copy for ever. Old answers tell nothing new (sent_at 0) but the
 * damage; said again until the leader names what it must get back to. */
void follow_damaged(struct replica *r, struct replica_effects *fx) {
    if (!r->damage_marked || r->synced_mark < r->damage_mark || r->mend_to || r->take.open ||
        r->follow_leader == 0 || r->follow_epoch != r->promise)
        return;
    answer(r, r->follow_leader, r->follow_epoch, REPLICA_APPEND_MISMATCH, fx)->verified = r->log.last_index;
}

/* The answer that waits: said as far as it is stored, as soon as that is more
 * than was said, and once in full for each append. */
void follow_stored(struct replica *r, struct replica_effects *fx) {
    if (!r->owes || r->synced_mark < r->promise_mark)
        return;
    uint64_t stored = r->verified < r->log.stored && !MUTATED(own_log_answered) ? r->verified : r->log.stored;
    if (MUTATED(stored_before_sync))
        stored = r->verified;
    if (stored < r->verified && stored <= r->answered)
        return;
    r->owes = stored < r->verified;
    r->answered = stored;
    struct replica_appended *a = answer(r, r->follow_leader, r->follow_epoch, REPLICA_APPEND_STORED, fx);
    a->verified = stored;
    a->sent_at = r->echo;
}

/* ---- storing ---- */

static bool well_formed(const struct replica_append *m) {
    uint64_t epoch = m->prev_epoch;
    for (size_t i = 0; i < m->count; i++) {
        const struct entry *entry = &m->entries[i];
        if (entry->index != m->prev_index + 1 + i || entry->epoch < epoch || entry->epoch > m->epoch)
            return false;
        if (!entry->body && entry->type != ENTRY_EPOCH)
            return false;
        epoch = entry->epoch;
    }
    return epoch <= m->epoch;
}

/* Everything committed agrees, so only what lies above has to be compared. */
static bool previous_matches(const struct replica *r, const struct replica_append *m) {
    if (m->prev_index <= committed_here(r) ||
        (MUTATED(previous_ignored) && m->prev_index <= r->log.last_index))
        return true;
    return m->prev_index <= r->log.last_index && log_epoch_at(&r->log, m->prev_index) == m->prev_epoch;
}

/* Durability written: a majority lost its power at once, and the log went on from what
 * was left of it (replica.h). So not all that was committed here is part of it. */
static bool overruled(const struct replica *r, const struct replica_append *m) {
    uint64_t committed = committed_here(r);
    uint64_t known = log_epoch_at(&r->log, m->prev_index);
    if (r->synced || m->prev_index > committed)
        return false;
    if (known && known != m->prev_epoch)
        return true;
    for (size_t i = 0; i < m->count && m->entries[i].index <= committed; i++) {
        known = log_epoch_at(&r->log, m->entries[i].index);
        if (known && known != m->entries[i].epoch)
            return true;
    }
    return false;
}

/* The first entry of m that the log does not have; count: it has all. */
static size_t first_new(const struct replica *r, const struct replica_append *m) {
    uint64_t committed = committed_here(r);
    size_t i = 0;
    for (; i < m->count && !MUTATED(cut_agreeing); i++) {
        const struct entry *entry = &m->entries[i];
        if (entry->index <= committed) {
            CHECK(log_epoch_at(&r->log, entry->index) == entry->epoch);
            continue;
        }
        if (entry->index > r->log.last_index || log_epoch_at(&r->log, entry->index) != entry->epoch)
            break;
    }
    return i;
}

/* `due`: the epoch is not promised durably yet. An entry of that epoch does it,
 * unless something is cut: then the promise must not hang on an entry. */
static void store(struct replica *r, const struct replica_append *m, bool due, struct replica_effects *fx) {
    size_t i = first_new(r, m);
    bool cuts = i < m->count && m->entries[i].index <= r->log.last_index;
    bool implied = i < m->count && m->entries[m->count - 1].epoch == m->epoch && !cuts;
    if (due && !implied)
        promise_write(r, fx);
    if (cuts) {
        CHECK(m->entries[i].index > r->verified || MUTATED(cut_agreeing));
        promise_record(r, fx);
        log_truncate(r, m->entries[i].index - 1, fx);
    }
    for (; i < m->count; i++)
        log_append(r, &m->entries[i], fx);
    if (due && implied)
        r->promise_mark = r->mark;
    if (MUTATED(shorter_frame_cuts) && m->prev_index + m->count < r->log.last_index)
        log_truncate(r, m->prev_index + m->count, fx);
}

static void accept(struct replica *r, const struct replica_append *m, bool due, struct replica_effects *fx) {
    store(r, m, due, fx);
    if (m->prev_index + m->count > r->verified)
        r->verified = m->prev_index + m->count;
    if (m->sent_at > r->echo)
        r->echo = m->sent_at;
    r->owes = true;
    if (m->prev_index > r->answered) /* that much alone is no news to the leader */
        r->answered = m->prev_index;
    damage_mending(r, m);
    uint64_t known = MUTATED(commit_unverified) ? r->log.last_index : r->verified;
    uint64_t commit = m->commit < known ? m->commit : known;
    commit_to(r, commit, fx);
}

void replica_on_append(struct replica *r, const struct replica_append *m, usec_t now,
                       struct replica_effects *fx) {
    damage_mark_due(r, fx);
    bool ours = m->to == r->self && m->from != r->self && !(r->leading && m->epoch == r->epoch);
    if (!ours || r->take.installing || !well_formed(m))
        return;
    if (r->damaged && r->synced_mark < r->damage_mark)
        return; /* it would say "damaged" before that is sure to be remembered; the leader asks again */
    if (m->epoch < r->promise && !MUTATED(promise_ignored)) {
        answer(r, m->from, m->epoch, REPLICA_APPEND_REFUSED, fx)->sent_at = m->sent_at;
        return;
    }
    bool due = follow(r, m->epoch, m->from, fx);
    if (overruled(r, m)) {
        damage_overruled(r, fx); /* records the promise */
        return;
    }
    if (previous_matches(r, m)) {
        accept(r, m, due, fx);
        damage_stored(r, now, fx);
        follow_stored(r, fx);
        return;
    }
    if (due)
        promise_write(r, fx);
    answer_mismatch(r, m, fx);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Damaged copies. The mark goes to the journal first, so that a crash in the
 * middle of mending never makes a short log look healthy; only then is a leader
 * told. Each damage has a number: a leader's answer names the report it answers,
 * and an answer to an earlier one heals nothing.
 */
#include "replica/core.h"

/* Nothing but the promise is left: an empty checkpoint takes the place of all. */
static void forget_everything(struct replica *r, struct replica_effects *fx) {
    struct encoder e = {0};
    log_reset(r, &(struct replica_state){.config = *log_voters(r)});
    core_encode(r, 0, &e);
    fx_journal(r, fx, REPLICA_INSTALL)->install.state = encoder_body(&e);
}

static void mark_write(struct replica *r, uint64_t from, bool everything, struct replica_effects *fx) {
    struct replica_effect *e = fx_journal(r, fx, REPLICA_MARK_DAMAGED);
    e->damage.number = r->damage;
    e->damage.from = from;
    e->damage.everything = everything;
    r->damage_mark = r->mark;
}

static void mark(struct replica *r, uint64_t from, struct replica_effects *fx) {
    bool everything = from <= r->log.base_index || from <= r->log.written_base || r->log.last_index == 0;
    r->damage++;
    r->doubtful = r->whole_written = false;
    r->mend_to = 0;
    r->damage_marked = true;
    r->damage_mark = r->mark;
    if (!MUTATED(damage_unmarked))
        mark_write(r, from, everything, fx);
    if (r->promise)
        promise_record(r, fx);
    r->report_at = 0; /* at the next tick, which is due at once */
    if (everything)
        forget_everything(r, fx);
}

/* What stands behind the readable end is cut in the journal too: it must not be
 * found again behind what mending writes. */
void damage_mark_due(struct replica *r, struct replica_effects *fx) {
    if (!r->damaged || r->damage_marked)
        return;
    if (r->doubtful) { /* nothing to write: the journal names another boot until MARK_WHOLE */
        r->damage++;
        r->damage_marked = true;
        return;
    }
    mark(r, r->log.last_index + 1, fx);
    if (r->log.last_index)
        fx_journal(r, fx, REPLICA_TRUNCATE)->index = r->log.last_index;
}

void damage_found(struct replica *r, uint64_t index, struct replica_effects *fx) {
    if (r->take.installing)
        return; /* what it has is being replaced as a whole */
    if (r->leading)
        lead_stop(r, fx);
    r->damaged = true;
    r->owes = false;
    mark(r, index, fx);
    if (index <= r->log.last_index)
        log_truncate(r, index - 1, fx);
    r->verified = r->verified < r->log.last_index ? r->verified : r->log.last_index;
}

void damage_overruled(struct replica *r, struct replica_effects *fx) {
    struct encoder e = {0};
    if (r->take.open)
        take_abandon(r, fx);
    r->damaged = true;
    r->owes = false;
    mark(r, 0, fx);
    r->commit = r->applied = r->verified = r->answered = 0;
    core_encode(r, 0, &e);
    fx_push(fx, REPLICA_INSTALLED)->install.state = encoder_body(&e);
}

void damage_chosen(struct replica *r, struct replica_effects *fx) {
    if (!r->doubtful)
        return;
    fx_journal(r, fx, REPLICA_MARK_WHOLE);
    r->damaged = r->doubtful = r->whole_written = false;
    r->mend_to = 0;
}

void replica_unreadable(struct replica *r, uint64_t index, usec_t now, struct replica_effects *fx) {
    damage_mark_due(r, fx);
    if (index <= r->log.last_index)
        damage_found(r, index, fx);
}

void damage_mending(struct replica *r, const struct replica_append *m) {
    if (!r->damaged || m->damage != r->damage || m->mend_to == 0)
        return;
    r->mend_to = m->mend_to;
}

void damage_stored(struct replica *r, usec_t now, struct replica_effects *fx) {
    if (!r->damaged)
        return;
    bool there =
        r->mend_to && ((r->verified >= r->mend_to && r->log.stored >= r->mend_to) || MUTATED(mended_early));
    if (there && !r->whole_written) {
        fx_journal(r, fx, REPLICA_MARK_WHOLE);
        r->whole_written = true;
        r->whole_mark = r->mark;
    }
    if (!r->whole_written || r->synced_mark < r->whole_mark)
        return;
    if (!r->doubtful)
        fx_push(fx, REPLICA_REPORT_MENDED);
    r->damaged = r->doubtful = r->whole_written = false;
    r->mend_to = 0;
    r->owes = r->follow_epoch == r->promise; /* tell the leader */
}

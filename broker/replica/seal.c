// SPDX-License-Identifier: Apache-2.0
/*
 * Promises. A seal asks to refuse every epoch below the new one; the answer says
 * where the log ends, and is given when the promise and everything before it is
 * synced. A promise stands in a record of its own, or is implied by a stored
 * entry's epoch.
 */
#include <string.h>

#include "replica/core.h"

void promise_write(struct replica *r, struct replica_effects *fx) {
    if (MUTATED(promise_not_kept))
        return;
    struct replica_effect *e = fx_journal(r, fx, REPLICA_PROMISE);
    e->promise.epoch = r->promise;
    e->promise.candidate = r->candidate;
    r->promise_mark = r->mark;
    r->promise_recorded = r->promise;
}

void promise_record(struct replica *r, struct replica_effects *fx) {
    if (r->promise_recorded < r->promise)
        promise_write(r, fx);
}

static struct replica_sealed *answer(struct replica *r, uint64_t token, uint64_t epoch,
                                     struct replica_effects *fx) {
    struct replica_sealed *a = &fx_push(fx, REPLICA_SEND_SEALED)->sealed;
    *a = (struct replica_sealed){.token = token,
                                 .from = r->self,
                                 .epoch = epoch,
                                 .promise = r->promise,
                                 .last_epoch = r->log.last_epoch,
                                 .last_index = r->log.last_index,
                                 .commit = r->commit,
                                 .damaged = broken(r),
                                 .doubtful = r->doubtful,
                                 .was_leading = r->ceded};
    return a;
}

/* An epoch that has entries is taken; a group that elects promises each epoch to
 * one candidate only. */
static bool refuses(const struct replica *r, uint64_t epoch, member_t candidate) {
    if ((epoch < r->promise && !MUTATED(seal_below_promise)) || epoch <= r->log.last_epoch)
        return true;
    return epoch == r->promise && r->config_in_log && candidate != r->candidate && !MUTATED(two_votes);
}

static void pending_push(struct replica *r, uint64_t token, uint64_t epoch) {
    if (r->seals_count == REPLICA_SEALS_PENDING_MAX)
        memmove(r->seals, r->seals + 1, --r->seals_count * sizeof *r->seals);
    r->seals[r->seals_count++] = (struct pending_seal){.token = token, .epoch = epoch, .mark = r->mark};
}

/* Who leads hears of its successor by a record soon; if not, the asker is gone or
 * deposed: whoever leads the metadata now has to know that nobody leads here. */
static void cede(struct replica *r, usec_t now, struct replica_effects *fx) {
    lead_stop(r, fx);
    r->ceded = true;
    if (r->config_in_log)
        return;
    r->cannot = true;
    r->report_at = now + REPLICA_RETRY_US;
}

static void promise(struct replica *r, uint64_t epoch, member_t candidate, usec_t now,
                    struct replica_effects *fx) {
    if (r->leading)
        cede(r, now, fx);
    if (r->take.open && !r->take.installing)
        take_abandon(r, fx);
    r->owes = false;
    r->promise = epoch;
    r->candidate = candidate;
    promise_write(r, fx);
}

void replica_on_seal(struct replica *r, const struct replica_seal *m, usec_t now,
                     struct replica_effects *fx) {
    damage_mark_due(r, fx);
    if (m->to != r->self)
        return;
    if ((broken(r) && !MUTATED(damaged_counts)) || refuses(r, m->epoch, m->candidate)) {
        answer(r, m->token, m->epoch, fx);
        return;
    }
    if (m->epoch > r->promise || MUTATED(seal_below_promise))
        promise(r, m->epoch, m->candidate, now, fx);
    pending_push(r, m->token, m->epoch);
    seal_stored(r, fx);
}

void seal_stored(struct replica *r, struct replica_effects *fx) {
    size_t kept = 0;
    for (size_t i = 0; i < r->seals_count; i++) {
        struct pending_seal *seal = &r->seals[i];
        if (seal->mark > r->synced_mark && !MUTATED(sealed_before_sync)) {
            r->seals[kept++] = *seal;
            continue;
        }
        bool granted = (!broken(r) || MUTATED(damaged_counts)) && seal->epoch == r->promise &&
                       seal->epoch > r->log.last_epoch;
        answer(r, seal->token, seal->epoch, fx)->granted = granted;
    }
    r->seals_count = kept;
}

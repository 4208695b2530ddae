// SPDX-License-Identifier: Apache-2.0
/*
 * Taking a checkpoint: batches are staged in the journal as they come, the state
 * is gathered in memory; with the last piece INSTALL puts both in place of
 * checkpoint and log, in one record. Until that is synced the old state stands,
 * also across a crash; after it the owner's state machine is restored.
 *
 * A log that already has the checkpoint's (index, epoch) needs none: installing
 * it would throw away what it has answered for.
 */
#include <stdlib.h>
#include <string.h>

#include "replica/core.h"

void take_free(struct take *t) {
    encoder_free(&t->state);
    free(t->live);
    body_drop(t->checkpoint);
    free((void *)t->decoded.epochs);
    *t = (struct take){0};
}

void take_abandon(struct replica *r, struct replica_effects *fx) {
    CHECK(!r->take.installing);
    take_free(&r->take);
    fx_push(fx, REPLICA_UNSTAGE);
}

static struct replica_pieced *answer(struct replica *r, const struct replica_piece *m,
                                     struct replica_effects *fx) {
    struct replica_pieced *a = &fx_push(fx, REPLICA_SEND_PIECED)->pieced;
    *a = (struct replica_pieced){.from = r->self,
                                 .to = m->from,
                                 .epoch = m->epoch,
                                 .base_index = m->base_index,
                                 .promise = r->promise};
    return a;
}

static void answer_progress(struct replica *r, uint64_t below, struct replica_effects *fx) {
    const struct take *t = &r->take;
    struct replica_piece m = {.from = t->from, .epoch = t->epoch, .base_index = t->base_index};
    answer(r, &m, fx)->number = below - 1;
}

static bool has(const struct replica *r, uint64_t index, uint64_t epoch) {
    return index <= r->log.stored && index && replica_epoch_at(r, index) == epoch;
}

static bool same(const struct take *t, const struct replica_piece *m) {
    return t->open && t->from == m->from && t->epoch == m->epoch && t->base_index == m->base_index &&
           t->base_epoch == m->base_epoch;
}

static void open(struct replica *r, const struct replica_piece *m, struct replica_effects *fx) {
    if (r->take.open)
        take_abandon(r, fx);
    if (MUTATED(checkpoint_not_atomic) && r->log.last_index > r->log.base_index)
        log_truncate(r, r->log.base_index, fx);
    r->take = (struct take){.open = true,
                            .from = m->from,
                            .epoch = m->epoch,
                            .base_index = m->base_index,
                            .base_epoch = m->base_epoch};
}

/* ---- pieces ---- */

static bool add_batch(struct replica *r, const struct replica_piece *m, struct replica_effects *fx) {
    struct take *t = &r->take;
    uint64_t newest = t->live_count ? t->live[t->live_count - 1] : 0;
    if (!m->batch.body || m->batch.index <= newest || m->batch.index > t->base_index)
        return false;
    xgrow(&t->live, &t->live_capacity, t->live_count + 1, sizeof *t->live);
    t->live[t->live_count++] = m->batch.index;
    struct replica_effect *e = fx_journal(r, fx, REPLICA_STAGE);
    e->entry = m->batch;
    body_keep(e->entry.body);
    t->mark = r->mark;
    return true;
}

static bool add_state(struct take *t, const struct body *state) {
    if (!state || t->live_count || t->state.size + state->size > REPLICA_STATE_BYTES_MAX)
        return false;
    encode_raw(&t->state, state->data, state->size);
    return true;
}

/* The core's part again with our own promise, then the state machine's bytes. */
static bool assemble(struct replica *r) {
    struct take *t = &r->take;
    struct decoder d = decoder_of(t->state.data, t->state.size);
    if (!replica_decode(&d, &t->decoded) || t->decoded.base_index != t->base_index ||
        t->decoded.base_epoch != t->base_epoch)
        return false;
    struct encoder e = {0};
    t->decoded.promise = r->promise;
    t->decoded.candidate = r->candidate;
    state_encode(&t->decoded, &e);
    encode_raw(&e, d.data + d.position, decoder_left(&d));
    t->checkpoint = encoder_body(&e);
    encoder_free(&t->state);
    return true;
}

static void fill(const struct take *t, struct replica_effect *e) {
    e->install.base_index = t->base_index;
    e->install.base_epoch = t->base_epoch;
    e->install.state = body_keep(t->checkpoint);
    e->install.live = xmalloc((t->live_count ? t->live_count : 1) * sizeof *t->live);
    if (t->live_count)
        memcpy(e->install.live, t->live, t->live_count * sizeof *t->live);
    e->install.live_count = t->live_count;
}

static void install(struct replica *r, struct replica_effects *fx) {
    fill(&r->take, fx_journal(r, fx, REPLICA_INSTALL));
    r->take.installing = true;
    r->take.mark = r->mark;
}

static void add(struct replica *r, const struct replica_piece *m, struct replica_effects *fx) {
    struct take *t = &r->take;
    bool good = m->is_batch ? add_batch(r, m, fx) : add_state(t, m->state);
    t->next++;
    if (good && m->last) {
        good = assemble(r);
        if (good)
            install(r, fx);
    }
    if (good)
        return;
    take_abandon(r, fx);
    answer(r, m, fx)->refused = true;
}

void replica_on_piece(struct replica *r, const struct replica_piece *m, usec_t now,
                      struct replica_effects *fx) {
    struct take *t = &r->take;
    damage_mark_due(r, fx);
    bool ours = m->to == r->self && m->from != r->self && !(r->leading && m->epoch == r->epoch);
    if (!ours || t->installing || (r->damaged && r->synced_mark < r->damage_mark))
        return;
    if (m->epoch < r->promise) {
        answer(r, m, fx)->refused = true;
        return;
    }
    if (follow(r, m->epoch, m->from, fx))
        promise_write(r, fx);
    if (has(r, m->base_index, m->base_epoch)) {
        answer(r, m, fx)->done = true;
        return;
    }
    if (m->number == 0 && !same(t, m))
        open(r, m, fx);
    if (!same(t, m))
        answer(r, m, fx)->refused = true;
    else if (m->number == t->next)
        add(r, m, fx);
    else if (t->told)
        answer_progress(r, t->told, fx);
    take_stored(r, fx);
}

/* ---- stored ---- */

static void tell_progress(struct replica *r, struct replica_effects *fx) {
    struct take *t = &r->take;
    if (t->ack && t->ack_mark <= r->written_mark) {
        answer_progress(r, t->told = t->ack, fx);
        t->ack = 0;
    }
    if (!t->ack && t->next > t->told && t->mark <= r->written_mark)
        answer_progress(r, t->told = t->next, fx);
    if (!t->ack && t->next > t->told) {
        t->ack = t->next;
        t->ack_mark = t->mark;
    }
}

static void installed(struct replica *r, struct replica_effects *fx) {
    struct take *t = &r->take;
    log_reset(r, &t->decoded);
    r->commit = r->applied = t->base_index;
    r->verified = t->epoch == r->follow_epoch ? t->base_index : 0;
    r->answered = 0;
    fill(t, fx_push(fx, REPLICA_INSTALLED));
    struct replica_piece m = {.from = t->from, .epoch = t->epoch, .base_index = t->base_index};
    answer(r, &m, fx)->done = true;
    take_free(t);
}

void take_stored(struct replica *r, struct replica_effects *fx) {
    struct take *t = &r->take;
    if (t->installing && (t->mark <= r->synced_mark || MUTATED(checkpoint_before_sync)))
        installed(r, fx);
    else if (t->open && !t->installing)
        tell_progress(r, fx);
}

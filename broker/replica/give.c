// SPDX-License-Identifier: Apache-2.0
/*
 * Giving a peer a checkpoint: its state in pieces, then each live batch as a
 * piece, at most REPLICA_WINDOW_BYTES_MAX not yet stored. Pieces are numbered, so
 * after a loss it goes on from the last one that is there; a peer that lost what
 * it had (a restart) says so and gets a fresh one.
 */
#include <stdlib.h>
#include <string.h>

#include "replica/core.h"

void give_free(struct give *g) {
    body_drop(g->state);
    free(g->live);
    *g = (struct give){0};
}

void give_start(struct peer *p, struct replica_effects *fx) {
    give_free(&p->give);
    p->mode = PEER_GIVE;
    p->waiting = false;
    p->sent_count = p->sent_bytes = 0;
    p->retry_at = p->notice_at = USEC_NEVER;
    p->give.asked = true;
    fx_push(fx, REPLICA_SNAPSHOT)->peer = p->id;
}

void replica_snapshot(struct replica *r, member_t peer, uint64_t base_index, struct body *state,
                      const uint64_t *live, size_t live_count, usec_t now, struct replica_effects *fx) {
    struct peer *p = r->leading ? lead_peer(r, peer) : NULL;
    if (!p || p->mode != PEER_GIVE || !p->give.asked)
        return;
    CHECK(base_index <= r->applied && base_index >= r->log.base_index);
    struct give *g = &p->give;
    struct encoder e = {0};
    core_encode(r, base_index, &e);
    encode_raw(&e, state->data, state->size);
    g->asked = false;
    g->base_index = base_index;
    g->base_epoch = replica_epoch_at(r, base_index);
    g->state = encoder_body(&e);
    g->states = (g->state->size + REPLICA_PIECE_BYTES_MAX - 1) / REPLICA_PIECE_BYTES_MAX;
    g->live = xmalloc((live_count ? live_count : 1) * sizeof *g->live);
    if (live_count)
        memcpy(g->live, live, live_count * sizeof *g->live);
    g->live_count = live_count;
    r->dirty = true;
}

static uint64_t total(const struct give *g) {
    return g->states + g->live_count;
}

static struct replica_piece *send(struct replica *r, struct peer *p, size_t bytes, usec_t now,
                                  struct replica_effects *fx) {
    struct give *g = &p->give;
    struct replica_piece *m = &fx_push(fx, REPLICA_SEND_PIECE)->piece;
    *m = (struct replica_piece){.from = r->self,
                                .to = p->id,
                                .epoch = r->epoch,
                                .base_index = g->base_index,
                                .base_epoch = g->base_epoch,
                                .number = g->next,
                                .last = g->next + 1 == total(g)};
    peer_sent(p, g->next++, bytes);
    p->retry_at = now + REPLICA_RETRY_US;
    return m;
}

static void send_state(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    struct give *g = &p->give;
    size_t at = g->next * REPLICA_PIECE_BYTES_MAX;
    size_t size = g->state->size - at;
    if (size > REPLICA_PIECE_BYTES_MAX)
        size = REPLICA_PIECE_BYTES_MAX;
    send(r, p, size, now, fx)->state = body_slice(g->state, at, size);
}

static void send_batch(struct replica *r, struct peer *p, const struct entry *entry, usec_t now,
                       struct replica_effects *fx) {
    struct replica_piece *m = send(r, p, body_cost(entry->body), now, fx);
    m->is_batch = true;
    m->batch = *entry;
    body_keep(entry->body);
}

/* The index of the next piece's batch; 0: that piece is state. */
static uint64_t next_live(const struct give *g) {
    return g->next < g->states ? 0 : g->live[g->next - g->states];
}

/* A run of consecutive live indexes at once. */
static void fetch(struct replica *r, struct peer *p, struct replica_effects *fx) {
    const struct give *g = &p->give;
    uint64_t i = g->next - g->states, from = g->live[i], to = from;
    while (++i < g->live_count && g->live[i] == to + 1 && to - from + 1 < REPLICA_APPEND_ENTRIES_MAX)
        to++;
    peer_fetch(p, from, to, fx);
}

void give_pump(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    struct give *g = &p->give;
    while (!g->asked && g->next < total(g) && p->sent_bytes < REPLICA_WINDOW_BYTES_MAX && !p->fetch_from) {
        uint64_t index = next_live(g);
        const struct slot *slot = index ? log_slot(&r->log, index) : NULL;
        if (!index)
            send_state(r, p, now, fx);
        else if (slot)
            send_batch(r, p, &(struct entry){index, slot->epoch, slot->type, slot->body}, now, fx);
        else
            fetch(r, p, fx);
    }
}

/* A batch that is gone was settled everywhere since: a fresh checkpoint does not
 * name it any more. */
void give_fetched(struct replica *r, struct peer *p, const struct entry *entries, size_t count, usec_t now,
                  struct replica_effects *fx) {
    struct give *g = &p->give;
    if (g->asked || !p->up)
        return;
    if (count == 0) {
        give_start(p, fx);
        return;
    }
    for (size_t i = 0; i < count && g->next < total(g); i++)
        if (entries[i].index == next_live(g))
            send_batch(r, p, &entries[i], now, fx);
}

/* A probe follows at once: a damaged peer is told how far it has to get. */
static void given(struct replica *r, struct peer *p) {
    if (p->give.base_index > p->match)
        p->match = p->give.base_index;
    peer_probe(r, p, p->match + 1);
}

static void progress(struct peer *p, uint64_t number, usec_t now) {
    struct give *g = &p->give;
    if (number >= total(g) || number < g->done)
        return;
    g->done = number + 1;
    if (g->next < g->done)
        g->next = g->done;
    peer_arrived(p, number);
    p->retry_at = now + REPLICA_RETRY_US;
}

void replica_on_pieced(struct replica *r, const struct replica_pieced *m, usec_t now,
                       struct replica_effects *fx) {
    struct peer *p = r->leading && m->to == r->self && m->epoch == r->epoch ? lead_peer(r, m->from) : NULL;
    if (!p || p->mode != PEER_GIVE || p->give.asked || p->give.base_index != m->base_index)
        return;
    r->dirty = true;
    if (m->done) {
        given(r, p);
        return;
    }
    if (!m->refused) {
        progress(p, m->number, now);
        return;
    }
    if (m->promise > r->epoch)
        fx_push(fx, REPLICA_REPORT_SUPERSEDED)->promise.epoch = m->promise;
    /* A moment later, so that a peer that cannot take it is not flooded. */
    peer_probe(r, p, p->next);
    p->waiting = true;
    p->retry_at = now + REPLICA_RETRY_US;
}

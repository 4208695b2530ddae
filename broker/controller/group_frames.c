// SPDX-License-Identifier: Apache-2.0
/*
 * Frames of the metadata group, in and out: replication and votes.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/group_private.h"

void group_send_append(struct controller *c, const struct replica_append *a) {
    Mr__Append *m = replication_append(GROUP_PARTITION, a);
    Mr__Appends frame = MR__APPENDS__INIT;
    frame.appends = &m;
    frame.n_appends = 1;
    struct body **bodies = xcalloc(a->count, sizeof *bodies);
    for (size_t i = 0; i < a->count; i++)
        bodies[i] = a->entries[i].body;
    peers_send(c, a->to, FRAME_APPENDS, &frame.base, bodies, a->count);
    free(bodies);
    replication_append_free(m);
}

void group_send_appended(struct controller *c, const struct replica_appended *a) {
    Mr__Appended m, *list[] = {&m};
    Mr__Appendeds frame = MR__APPENDEDS__INIT;
    replication_appended(GROUP_PARTITION, a, &m);
    frame.appendeds = list;
    frame.n_appendeds = 1;
    peers_send(c, a->to, FRAME_APPENDEDS, &frame.base, NULL, 0);
}

void group_send_piece(struct controller *c, const struct replica_piece *a) {
    Mr__Piece m;
    struct body *body = replication_piece_body(a);
    replication_piece(GROUP_PARTITION, a, &m);
    peers_send(c, a->to, FRAME_PIECE, &m.base, &body, body ? 1 : 0);
}

void group_send_pieced(struct controller *c, const struct replica_pieced *a) {
    Mr__Pieced m;
    replication_pieced(GROUP_PARTITION, a, &m);
    peers_send(c, a->to, FRAME_PIECED, &m.base, NULL, 0);
}

#define ASK(kind, KIND, lower)                                                                               \
    void group_send_##lower(struct controller *c, const struct election_ask *a) {                            \
        Mr__##kind m = MR__##KIND##__INIT;                                                                   \
        m.epoch = a->epoch;                                                                                  \
        m.from = a->from;                                                                                    \
        m.to = a->to;                                                                                        \
        m.last_epoch = a->last_epoch;                                                                        \
        m.last_index = a->last_index;                                                                        \
        peers_send(c, a->to, FRAME_##KIND, &m.base, NULL, 0);                                                \
    }
#define ANSWER(kind, KIND, lower)                                                                            \
    void group_send_##lower(struct controller *c, const struct election_answer *a) {                         \
        Mr__##kind m = MR__##KIND##__INIT;                                                                   \
        m.epoch = a->epoch;                                                                                  \
        m.from = a->from;                                                                                    \
        m.to = a->to;                                                                                        \
        m.granted = a->granted;                                                                              \
        m.promise = a->promise;                                                                              \
        peers_send(c, a->to, FRAME_##KIND, &m.base, NULL, 0);                                                \
    }
ASK(PreVote, PRE_VOTE, pre_vote)
ANSWER(PreVoted, PRE_VOTED, pre_voted)
ANSWER(Voted, VOTED, voted)

void group_send_vote(struct controller *c, const struct election_ask *a) {
    Mr__Vote m = MR__VOTE__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    m.last_epoch = a->last_epoch;
    m.last_index = a->last_index;
    m.transfer = a->transfer;
    peers_send(c, a->to, FRAME_VOTE, &m.base, NULL, 0);
}

void group_send_timeout_now(struct controller *c, const struct election_ask *a) {
    Mr__TimeoutNow m = MR__TIMEOUT_NOW__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    peers_send(c, a->to, FRAME_TIMEOUT_NOW, &m.base, NULL, 0);
}

/* ---- frames of the group ---- */

static void on_appends(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Appends *m = frame_read_appends(l->link, frame);
    size_t at = 0;
    for (size_t i = 0; m && i < m->n_appends; i++) {
        struct replica_append a;
        bool good = replication_read_append(m->appends[i], frame->body, &at, &a);
        if (good && a.to == c->self) {
            election_heard(c->election, a.from, a.epoch, loop_now(c->loop));
            replica_on_append(c->replica, &a, loop_now(c->loop), &c->replica_effects);
        }
        replication_entries_free(&a);
        if (!good)
            link_refuse(l->link, ERR_PROTOCOL, "APPENDS: the entries' sizes do not fit the body");
    }
    requests_go(c);
}

static void on_appendeds(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Appendeds *m = frame_read_appendeds(l->link, frame);
    struct replica_appended a;
    for (size_t i = 0; m && i < m->n_appendeds; i++)
        if (replication_read_appended(m->appendeds[i], &a) && a.to == c->self) {
            election_seen(c->election, a.from, a.sent_at);
            replica_on_appended(c->replica, &a, loop_now(c->loop), &c->replica_effects);
        }
}

static void on_piece(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Piece *m = frame_read_piece(l->link, frame);
    struct replica_piece a;
    if (!m || m->to != c->self)
        return;
    replication_read_piece(m, frame->body, &a);
    election_heard(c->election, a.from, a.epoch, loop_now(c->loop));
    replica_on_piece(c->replica, &a, loop_now(c->loop), &c->replica_effects);
}

static void on_pieced(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Pieced *m = frame_read_pieced(l->link, frame);
    struct replica_pieced a;
    if (!m || m->to != c->self)
        return;
    replication_read_pieced(m, &a);
    replica_on_pieced(c->replica, &a, loop_now(c->loop), &c->replica_effects);
}

#define READ_ASK(m)                                                                                          \
    &(struct election_ask) {                                                                                 \
        .epoch = m->epoch, .from = m->from, .to = m->to, .last_epoch = m->last_epoch,                        \
        .last_index = m->last_index                                                                          \
    }
#define READ_ANSWER(m)                                                                                       \
    &(struct election_answer) {                                                                              \
        .epoch = m->epoch, .from = m->from, .to = m->to, .granted = m->granted, .promise = m->promise        \
    }

static void on_votes(struct controller *c, struct peer_link *l, const struct frame *frame) {
    usec_t now = loop_now(c->loop);
    if (frame->type == FRAME_PRE_VOTE) {
        Mr__PreVote *m = frame_read_pre_vote(l->link, frame);
        if (m)
            election_on_pre_vote(c->election, READ_ASK(m), now, &c->election_effects);
    } else if (frame->type == FRAME_PRE_VOTED) {
        Mr__PreVoted *m = frame_read_pre_voted(l->link, frame);
        if (m)
            election_on_pre_voted(c->election, READ_ANSWER(m), now, &c->replica_effects,
                                  &c->election_effects);
    } else if (frame->type == FRAME_VOTE) {
        Mr__Vote *m = frame_read_vote(l->link, frame);
        if (!m)
            return;
        struct election_ask ask = *READ_ASK(m);
        ask.transfer = m->transfer;
        election_on_vote(c->election, &ask, now, &c->replica_effects, &c->election_effects);
    } else if (frame->type == FRAME_VOTED) {
        Mr__Voted *m = frame_read_voted(l->link, frame);
        if (m)
            election_on_voted(c->election, READ_ANSWER(m), now, &c->replica_effects, &c->election_effects);
    } else {
        Mr__TimeoutNow *m = frame_read_timeout_now(l->link, frame);
        if (m)
            election_on_timeout_now(c->election,
                                    &(struct election_ask){.epoch = m->epoch, .from = m->from, .to = m->to},
                                    now, &c->replica_effects, &c->election_effects);
    }
}

bool group_frame(struct peer_link *l, const struct frame *frame) {
    struct controller *c = l->controller;
    switch (frame->type) {
    case FRAME_APPENDS:
        on_appends(c, l, frame);
        break;
    case FRAME_APPENDEDS:
        on_appendeds(c, l, frame);
        break;
    case FRAME_PIECE:
        on_piece(c, l, frame);
        break;
    case FRAME_PIECED:
        on_pieced(c, l, frame);
        break;
    case FRAME_PRE_VOTE:
    case FRAME_PRE_VOTED:
    case FRAME_VOTE:
    case FRAME_VOTED:
    case FRAME_TIMEOUT_NOW:
        on_votes(c, l, frame);
        break;
    default:
        return false;
    }
    group_run(c);
    return true;
}

void group_peer_up(struct controller *c, member_t m) {
    election_back(c->election, m);
    replica_peer_up(c->replica, m, loop_now(c->loop), &c->replica_effects);
    group_run(c);
}

void group_peer_down(struct controller *c, member_t m, bool gone) {
    replica_peer_down(c->replica, m, loop_now(c->loop), &c->replica_effects);
    if (gone)
        election_gone(c->election, m, loop_now(c->loop));
    group_run(c);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Frames of the metadata group, in and out: replication and votes.
 */
#include <stdlib.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"

static void send_append(struct controller *c, const struct replica_append *a) {
    Mr__Append *m = replication_append(GROUP_PARTITION, a);
    Mr__Appends frame = MR__APPENDS__INIT;
    frame.appends = &m;
    frame.n_appends = 1;
    struct body **bodies = xcalloc(a->count, sizeof *bodies);
    for (size_t i = 0; i < a->count; i++)
        bodies[i] = a->entries[i].body;
    links_send(c, a->to, FRAME_APPENDS, &frame.base, bodies, a->count);
    free(bodies);
    replication_append_free(m);
}

static void send_appended(struct controller *c, const struct replica_appended *a) {
    Mr__Appended m, *list[] = {&m};
    Mr__Appendeds frame = MR__APPENDEDS__INIT;
    replication_appended(GROUP_PARTITION, a, &m);
    frame.appendeds = list;
    frame.n_appendeds = 1;
    links_send(c, a->to, FRAME_APPENDEDS, &frame.base, NULL, 0);
}

static void send_piece(struct controller *c, const struct replica_piece *a) {
    Mr__Piece m;
    struct body *body = replication_piece_body(a);
    replication_piece(GROUP_PARTITION, a, &m);
    links_send(c, a->to, FRAME_PIECE, &m.base, &body, body ? 1 : 0);
}

static void send_pieced(struct controller *c, const struct replica_pieced *a) {
    Mr__Pieced m;
    replication_pieced(GROUP_PARTITION, a, &m);
    links_send(c, a->to, FRAME_PIECED, &m.base, NULL, 0);
}

#define ASK(kind, KIND, lower)                                                                               \
    static void send_##lower(struct controller *c, const struct election_ask *a) {                           \
        Mr__##kind m = MR__##KIND##__INIT;                                                                   \
        m.epoch = a->epoch;                                                                                  \
        m.from = a->from;                                                                                    \
        m.to = a->to;                                                                                        \
        m.last_epoch = a->last_epoch;                                                                        \
        m.last_index = a->last_index;                                                                        \
        links_send(c, a->to, FRAME_##KIND, &m.base, NULL, 0);                                                \
    }
#define ANSWER(kind, KIND, lower)                                                                            \
    static void send_##lower(struct controller *c, const struct election_answer *a) {                        \
        Mr__##kind m = MR__##KIND##__INIT;                                                                   \
        m.epoch = a->epoch;                                                                                  \
        m.from = a->from;                                                                                    \
        m.to = a->to;                                                                                        \
        m.granted = a->granted;                                                                              \
        m.promise = a->promise;                                                                              \
        links_send(c, a->to, FRAME_##KIND, &m.base, NULL, 0);                                                \
    }
ASK(PreVote, PRE_VOTE, pre_vote)
ANSWER(PreVoted, PRE_VOTED, pre_voted)
ANSWER(Voted, VOTED, voted)

static void send_vote(struct controller *c, const struct election_ask *a) {
    Mr__Vote m = MR__VOTE__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    m.last_epoch = a->last_epoch;
    m.last_index = a->last_index;
    m.transfer = a->transfer;
    links_send(c, a->to, FRAME_VOTE, &m.base, NULL, 0);
}

static void send_timeout_now(struct controller *c, const struct election_ask *a) {
    Mr__TimeoutNow m = MR__TIMEOUT_NOW__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    links_send(c, a->to, FRAME_TIMEOUT_NOW, &m.base, NULL, 0);
}

void group_send(struct controller *c, const struct replica_effect *e) {
    if (e->type == REPLICA_SEND_APPEND)
        send_append(c, &e->append);
    else if (e->type == REPLICA_SEND_APPENDED)
        send_appended(c, &e->appended);
    else if (e->type == REPLICA_SEND_PIECE)
        send_piece(c, &e->piece);
    else if (e->type == REPLICA_SEND_PIECED)
        send_pieced(c, &e->pieced);
}

void group_send_election(struct controller *c, const struct election_effect *e) {
    if (e->type == ELECTION_SEND_PRE_VOTE)
        send_pre_vote(c, &e->ask);
    else if (e->type == ELECTION_SEND_PRE_VOTED)
        send_pre_voted(c, &e->answer);
    else if (e->type == ELECTION_SEND_VOTE)
        send_vote(c, &e->ask);
    else if (e->type == ELECTION_SEND_VOTED)
        send_voted(c, &e->answer);
    else if (e->type == ELECTION_SEND_TIMEOUT_NOW)
        send_timeout_now(c, &e->ask);
}

/* ---- frames of the group ---- */

static void on_appends(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Appends *m = frame_read_appends(l->link, frame);
    size_t at = 0;
    for (size_t i = 0; m && i < m->n_appends; i++) {
        struct replica_append a;
        bool good = replication_read_append(m->appends[i], frame->body, &at, &a);
        if (good)
            group_on_append(&c->core, &a);
        replication_entries_free(&a);
        if (!good)
            link_refuse(l->link, ERR_PROTOCOL, "APPENDS: the entries' sizes do not fit the body");
    }
    requests_go(&c->core);
}

static void on_appendeds(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Appendeds *m = frame_read_appendeds(l->link, frame);
    struct replica_appended a;
    for (size_t i = 0; m && i < m->n_appendeds; i++)
        if (replication_read_appended(m->appendeds[i], &a))
            group_on_appended(&c->core, &a);
}

static void on_piece(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Piece *m = frame_read_piece(l->link, frame);
    struct replica_piece a;
    if (!m)
        return;
    replication_read_piece(m, frame->body, &a);
    group_on_piece(&c->core, &a);
}

static void on_pieced(struct controller *c, struct peer_link *l, const struct frame *frame) {
    Mr__Pieced *m = frame_read_pieced(l->link, frame);
    struct replica_pieced a;
    if (!m)
        return;
    replication_read_pieced(m, &a);
    group_on_pieced(&c->core, &a);
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
    if (frame->type == FRAME_PRE_VOTE) {
        Mr__PreVote *m = frame_read_pre_vote(l->link, frame);
        if (m)
            group_on_pre_vote(&c->core, READ_ASK(m));
    } else if (frame->type == FRAME_PRE_VOTED) {
        Mr__PreVoted *m = frame_read_pre_voted(l->link, frame);
        if (m)
            group_on_pre_voted(&c->core, READ_ANSWER(m));
    } else if (frame->type == FRAME_VOTE) {
        Mr__Vote *m = frame_read_vote(l->link, frame);
        if (!m)
            return;
        struct election_ask ask = *READ_ASK(m);
        ask.transfer = m->transfer;
        group_on_vote(&c->core, &ask);
    } else if (frame->type == FRAME_VOTED) {
        Mr__Voted *m = frame_read_voted(l->link, frame);
        if (m)
            group_on_voted(&c->core, READ_ANSWER(m));
    } else {
        Mr__TimeoutNow *m = frame_read_timeout_now(l->link, frame);
        if (m)
            group_on_timeout_now(&c->core,
                                 &(struct election_ask){.epoch = m->epoch, .from = m->from, .to = m->to});
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
    group_run(&c->core);
    return true;
}

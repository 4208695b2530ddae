// SPDX-License-Identifier: Apache-2.0
/*
 * Frames of other shards: one a peer and turn with the appends of all partitions.
 * And the table of shards (Members from the controller): the one with the lower
 * identity dials.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/process.h"

/* ---- out: what a turn has for a peer ---- */

static void send_appends(struct process_peer *p) {
    if (p->appends_count == 0)
        return;
    Mr__Appends m = MR__APPENDS__INIT;
    m.appends = p->appends;
    m.n_appends = p->appends_count;
    if (p->peer.link)
        link_send(process_peer_link(&p->peer), FRAME_APPENDS, &m.base, p->bodies, p->bodies_count);
    for (size_t i = 0; i < p->appends_count; i++)
        replication_append_free(p->appends[i]);
    for (size_t i = 0; i < p->bodies_count; i++)
        body_drop(p->bodies[i]);
    p->appends_count = p->bodies_count = p->body_bytes = 0;
}

static void append(struct peer *to, uint64_t partition, const struct replica_append *a) {
    struct process_peer *p = process_peer_of(to);
    xgrow(&p->appends, &p->appends_capacity, p->appends_count + 1, sizeof *p->appends);
    p->appends[p->appends_count++] = replication_append(partition, a);
    xgrow(&p->bodies, &p->bodies_capacity, p->bodies_count + a->count, sizeof *p->bodies);
    for (size_t i = 0; i < a->count; i++) {
        if (!a->entries[i].body)
            continue;
        p->bodies[p->bodies_count++] = body_keep(a->entries[i].body);
        p->body_bytes += a->entries[i].body->size;
    }
    if (p->body_bytes >= PROCESS_FRAME_BYTES)
        send_appends(p);
}

static void appended(struct peer *to, uint64_t partition, const struct replica_appended *a) {
    struct process_peer *p = process_peer_of(to);
    Mr__Appended *m = xmalloc(sizeof *m);
    replication_appended(partition, a, m);
    xgrow(&p->appendeds, &p->appendeds_capacity, p->appendeds_count + 1, sizeof *p->appendeds);
    p->appendeds[p->appendeds_count++] = m;
}

static void send_appendeds(struct process_peer *p) {
    if (p->appendeds_count == 0)
        return;
    Mr__Appendeds m = MR__APPENDEDS__INIT;
    m.appendeds = p->appendeds;
    m.n_appendeds = p->appendeds_count;
    if (p->peer.link)
        link_send(process_peer_link(&p->peer), FRAME_APPENDEDS, &m.base, NULL, 0);
    for (size_t i = 0; i < p->appendeds_count; i++)
        free(p->appendeds[i]);
    p->appendeds_count = 0;
}

static void piece(struct peer *to, uint64_t partition, const struct replica_piece *a) {
    Mr__Piece m;
    replication_piece(partition, a, &m);
    struct body *body = replication_piece_body(a);
    link_send(process_peer_link(to), FRAME_PIECE, &m.base, &body, body ? 1 : 0);
}

static void pieced(struct peer *to, uint64_t partition, const struct replica_pieced *a) {
    Mr__Pieced m;
    replication_pieced(partition, a, &m);
    link_send(process_peer_link(to), FRAME_PIECED, &m.base, NULL, 0);
}

static void confirm(struct peer *to, usec_t sent_at) {
    Mr__Confirm m = MR__CONFIRM__INIT;
    m.sent_at = sent_at;
    link_send(process_peer_link(to), FRAME_CONFIRM, &m.base, NULL, 0);
}

static void confirmed(struct shard_link *to, usec_t sent_at) {
    Mr__Confirmed m = MR__CONFIRMED__INIT;
    m.sent_at = sent_at;
    link_send(process_link_out(to), FRAME_CONFIRMED, &m.base, NULL, 0);
}

static void fenced(struct peer *to, const struct fence_told *fences, size_t count) {
    for (size_t i = 0; i < count; i++)
        told_add(process_link_of(to->link), TOLD_FENCED,
                 &(struct told){.partition = fences[i].partition, .number = fences[i].promise});
}

void peer_frames_calls(struct shard_calls *calls) {
    calls->append = append;
    calls->appended = appended;
    calls->piece = piece;
    calls->pieced = pieced;
    calls->confirm = confirm;
    calls->confirmed = confirmed;
    calls->fenced = fenced;
}

void peer_frames_send_turn(struct process *p) {
    for (struct peer *peer = p->shard.peers; peer; peer = peer->hh.next) {
        send_appends(process_peer_of(peer));
        send_appendeds(process_peer_of(peer));
    }
}

/* ---- in ---- */

static void on_appends(struct process_link *l, const struct frame *frame) {
    Mr__Appends *m = frame_decode(l->process->loop, &mr__appends__descriptor, frame);
    size_t at = 0;
    bool good = m != NULL;
    for (size_t i = 0; good && i < m->n_appends; i++) {
        struct replica_append a;
        good = replication_read_append(m->appends[i], frame->body, &at, &a);
        if (good)
            peers_on_append(&l->shard, m->appends[i]->partition, &a);
        replication_entries_free(&a);
    }
    if (!good || at != (frame->body ? frame->body->size : 0))
        link_refuse(l->link, ERR_PROTOCOL, "APPENDS: the entries' sizes do not fill the body");
}

static void on_appendeds(struct process_link *l, const struct frame *frame) {
    Mr__Appendeds *m = frame_decode(l->process->loop, &mr__appendeds__descriptor, frame);
    for (size_t i = 0; m && i < m->n_appendeds; i++) {
        struct replica_appended in;
        if (replication_read_appended(m->appendeds[i], &in))
            peers_on_appended(&l->shard, m->appendeds[i]->partition, &in);
    }
}

static void on_piece(struct process_link *l, const struct frame *frame) {
    Mr__Piece *m = frame_decode(l->process->loop, &mr__piece__descriptor, frame);
    struct replica_piece in;
    if (!m)
        return;
    replication_read_piece(m, frame->body, &in);
    peers_on_piece(&l->shard, m->partition, &in);
}

static void on_pieced(struct process_link *l, const struct frame *frame) {
    Mr__Pieced *m = frame_decode(l->process->loop, &mr__pieced__descriptor, frame);
    struct replica_pieced in;
    if (!m)
        return;
    replication_read_pieced(m, &in);
    peers_on_pieced(&l->shard, m->partition, &in);
}

static void on_confirm(struct process_link *l, const struct frame *frame) {
    Mr__Confirm *m = frame_decode(l->process->loop, &mr__confirm__descriptor, frame);
    if (m)
        peers_on_confirm(&l->shard, m->sent_at);
}

static void on_confirmed(struct process_link *l, const struct frame *frame) {
    Mr__Confirmed *m = frame_decode(l->process->loop, &mr__confirmed__descriptor, frame);
    if (m)
        peers_on_confirmed(&l->shard, m->sent_at);
}

static void on_fenced(struct process_link *l, const struct frame *frame) {
    Mr__Fenced *m = frame_decode(l->process->loop, &mr__fenced__descriptor, frame);
    for (size_t i = 0; m && i < m->n_fences; i++)
        peers_on_fenced(&l->shard, m->fences[i]->partition, m->fences[i]->promise);
}

void peer_frames_read(struct process_link *l, const struct frame *frame) {
    switch (frame->type) {
    case FRAME_APPENDS:
        on_appends(l, frame);
        break;
    case FRAME_APPENDEDS:
        on_appendeds(l, frame);
        break;
    case FRAME_PIECE:
        on_piece(l, frame);
        break;
    case FRAME_PIECED:
        on_pieced(l, frame);
        break;
    case FRAME_CONFIRM:
        on_confirm(l, frame);
        break;
    case FRAME_CONFIRMED:
        on_confirmed(l, frame);
        break;
    case FRAME_FENCED:
        on_fenced(l, frame);
        break;
    default:
        link_refuse(l->link, ERR_PROTOCOL, "frame type %u: not one a shard sends to a shard", frame->type);
    }
}

/* ---- links coming and going ---- */

void peer_frames_up(struct process_link *l, member_t member) {
    struct peer *p = peers_find(&l->process->shard, member);
    if (!p) {
        /* it knows of us before we of it: Members is on its way, it dials again */
        link_close(l->link, ERR_UNAVAILABLE, "this shard does not know yours yet");
        return;
    }
    if (p->link && p->link != &l->shard)
        link_close(process_peer_link(p), ERR_CLOSED, "a newer link took its place");
    peers_up(&l->shard, p);
}

static void on_keep_up(void *ctx, struct keep *keep, struct link *link) {
    (void)keep;
    links_greet(ctx, link);
}

static void on_keep_frame(void *ctx, struct link *link, const struct frame *frame) {
    links_peer_frame(ctx, link, frame);
}

static void on_keep_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    (void)keep;
    (void)end;
    if (was_up)
        links_peer_down(ctx);
}

static const struct keep_handlers keep_calls = {
    .up = on_keep_up, .frame = on_keep_frame, .down = on_keep_down};

static void dial(struct process_peer *p) {
    struct keep_options options = {
        .handlers = &keep_calls, .ctx = p, .link = links_options(), .silent = KEEP_SILENT_USEC, .asks = true};
    struct err_detail detail;
    p->keep = keep_new(p->process->loop, p->url, &options, &detail);
    if (!p->keep)
        log_error("shard at %s: %s", p->url, detail.text);
}

static void add_peer(struct process *process, const Mr__MemberAddress *m) {
    struct shard *s = &process->shard;
    char url[sizeof((struct process_peer *)0)->url];
    snprintf(url, sizeof url, "tcp://%s", m->address);
    struct process_peer *p = process_peer_of(peers_find(s, m->member));
    if (!p) {
        p = xcalloc(1, sizeof *p);
        p->peer.member = m->member;
        p->process = process;
        peers_add(s, &p->peer);
    }
    bool moved = strcmp(p->url, url) != 0;
    memcpy(p->url, url, sizeof url);
    if (s->self > p->peer.member)
        return; /* it dials */
    if (!p->keep)
        dial(p);
    else if (moved)
        keep_redirect(p->keep, p->url, NULL);
}

void peer_frames_members(struct process *p, const Mr__Members *m) {
    for (size_t i = 0; i < m->n_members; i++)
        if (m->members[i]->member && m->members[i]->member != p->shard.self)
            add_peer(p, m->members[i]);
}

void peer_frames_close(struct process *process) {
    struct peer *peer, *next;
    HASH_ITER(hh, process->shard.peers, peer, next) {
        struct process_peer *p = process_peer_of(peer);
        peers_remove(&process->shard, peer);
        peer->link = NULL;
        send_appends(p);
        send_appendeds(p);
        if (p->keep)
            keep_free(p->keep);
        free(p->appends);
        free(p->bodies);
        free(p->appendeds);
        free(p);
    }
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Other shards: who they are (Members from the controller), one link a pair, one
 * frame a peer and turn with the appends of all partitions, the link's lease
 * confirmations. The shard with the lower identity dials.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "shard/shard_private.h"

enum { PEERS_FENCES_A_FRAME = 512, FIRST_EPOCH = 1 };

struct peer *peers_find(struct shard *s, member_t member) {
    struct peer *p;
    HASH_FIND(hh, s->peers, &member, sizeof member, p);
    return p;
}

/* ---- out: what a turn has for a peer ---- */

static void send_appends(struct peer *p) {
    if (p->appends_count == 0)
        return;
    Mr__Appends m = MR__APPENDS__INIT;
    m.appends = p->appends;
    m.n_appends = p->appends_count;
    if (p->link)
        link_send(p->link, FRAME_APPENDS, &m.base, p->bodies, p->bodies_count);
    for (size_t i = 0; i < p->appends_count; i++)
        replication_append_free(p->appends[i]);
    for (size_t i = 0; i < p->bodies_count; i++)
        body_drop(p->bodies[i]);
    p->appends_count = p->bodies_count = p->body_bytes = 0;
}

void peers_append(struct hosted *h, const struct replica_append *a) {
    struct peer *p = peers_find(h->shard, a->to);
    if (!p || !p->link)
        return; /* peer_up starts anew */
    xgrow(&p->appends, &p->appends_capacity, p->appends_count + 1, sizeof *p->appends);
    p->appends[p->appends_count++] = replication_append(h->id, a);
    xgrow(&p->bodies, &p->bodies_capacity, p->bodies_count + a->count, sizeof *p->bodies);
    for (size_t i = 0; i < a->count; i++) {
        if (!a->entries[i].body)
            continue;
        p->bodies[p->bodies_count++] = body_keep(a->entries[i].body);
        p->body_bytes += a->entries[i].body->size;
    }
    if (p->body_bytes >= SHARD_FRAME_BYTES)
        send_appends(p);
}

void peers_appended(struct hosted *h, const struct replica_appended *a) {
    struct peer *p = peers_find(h->shard, a->to);
    if (!p || !p->link)
        return;
    Mr__Appended *m = xmalloc(sizeof *m);
    replication_appended(h->id, a, m);
    xgrow(&p->appendeds, &p->appendeds_capacity, p->appendeds_count + 1, sizeof *p->appendeds);
    p->appendeds[p->appendeds_count++] = m;
}

static void send_appendeds(struct peer *p) {
    if (p->appendeds_count == 0)
        return;
    Mr__Appendeds m = MR__APPENDEDS__INIT;
    m.appendeds = p->appendeds;
    m.n_appendeds = p->appendeds_count;
    if (p->link)
        link_send(p->link, FRAME_APPENDEDS, &m.base, NULL, 0);
    for (size_t i = 0; i < p->appendeds_count; i++)
        free(p->appendeds[i]);
    p->appendeds_count = 0;
}

void peers_piece(struct hosted *h, const struct replica_piece *a) {
    struct peer *p = peers_find(h->shard, a->to);
    if (!p || !p->link)
        return;
    Mr__Piece m;
    replication_piece(h->id, a, &m);
    struct body *body = replication_piece_body(a);
    link_send(p->link, FRAME_PIECE, &m.base, &body, body ? 1 : 0);
}

void peers_pieced(struct hosted *h, const struct replica_pieced *a) {
    struct peer *p = peers_find(h->shard, a->to);
    if (!p || !p->link)
        return;
    Mr__Pieced m;
    replication_pieced(h->id, a, &m);
    link_send(p->link, FRAME_PIECED, &m.base, NULL, 0);
}

void peers_send_turn(struct shard *s) {
    for (struct peer *p = s->peers; p; p = p->hh.next) {
        send_appends(p);
        send_appendeds(p);
    }
}

/* ---- leases: the link's confirmation ---- */

/* What the peer has promised, as told on this link. */
static uint64_t fence_of(const struct peer *p, uint64_t partition) {
    struct fence *f;
    HASH_FIND(hh, p->fences, &partition, sizeof partition, f);
    return f ? f->promise : 0;
}

static void fence_add(struct peer *p, uint64_t partition, uint64_t promise) {
    struct fence *f;
    HASH_FIND(hh, p->fences, &partition, sizeof partition, f);
    if (!f) {
        f = xcalloc(1, sizeof *f);
        f->partition = partition;
        HASH_ADD(hh, p->fences, partition, sizeof f->partition, f);
    }
    f->promise = promise;
}

static void fences_clear(struct peer *p) {
    struct fence *f, *next;
    HASH_ITER(hh, p->fences, f, next) {
        HASH_DEL(p->fences, f);
        free(f);
    }
}

static bool in_sets(const struct hosted *h, member_t m) {
    return replica_set_has(&h->record.current, m) || replica_set_has(&h->record.previous, m);
}

static bool wants_lease(const struct hosted *h) {
    struct subscription_stats stats;
    if (!h->partition || !mailbox_leading(h->partition->mailbox))
        return false;
    for (size_t i = 0; mailbox_subscription_stats(h->partition->mailbox, i, &stats); i++)
        if (stats.consumers)
            return true;
    return false;
}

void peers_confirm(struct shard *s) {
    for (struct peer *p = s->peers; p; p = p->hh.next)
        p->confirming = false;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!wants_lease(h))
            continue;
        for (struct peer *p = s->peers; p; p = p->hh.next)
            p->confirming |= in_sets(h, p->member);
    }
    Mr__Confirm m = MR__CONFIRM__INIT;
    m.sent_at = loop_now(s->loop);
    for (struct peer *p = s->peers; p; p = p->hh.next)
        if (p->confirming && p->link)
            link_send(p->link, FRAME_CONFIRM, &m.base, NULL, 0);
}

static void on_confirm(struct shard_link *l, const struct frame *frame) {
    Mr__Confirm *m = frame_decode(l->shard->loop, &mr__confirm__descriptor, frame);
    Mr__Confirmed answer = MR__CONFIRMED__INIT;
    if (!m)
        return;
    answer.sent_at = m->sent_at;
    link_send(l->link, FRAME_CONFIRMED, &answer.base, NULL, 0);
}

static void on_confirmed(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Confirmed *m = frame_decode(s->loop, &mr__confirmed__descriptor, frame);
    for (struct hosted *h = s->hosted; m && h; h = h->hh.next) {
        if (!h->partition || !replica_leading(h->partition->replica) || !in_sets(h, l->peer->member))
            continue;
        if (l->peer->fences && fence_of(l->peer, h->id) > replica_epoch(h->partition->replica))
            continue;
        replica_confirm(h->partition->replica, l->peer->member, m->sent_at);
        shard_touch(h);
        partition_run(h->partition, loop_now(s->loop));
    }
}

/* Promises on their way to one peer, or (link NULL) to all. */
struct fencing {
    struct shard *shard;
    struct link *link;
    Mr__Fence fences[PEERS_FENCES_A_FRAME];
    Mr__Fence *list[PEERS_FENCES_A_FRAME];
    size_t count;
};

static void send_fences(struct fencing *f) {
    Mr__Fenced m = MR__FENCED__INIT;
    m.fences = f->list;
    m.n_fences = f->count;
    for (struct peer *p = f->shard->peers; p && f->count; p = p->hh.next)
        if (p->link && (!f->link || p->link == f->link))
            link_send(p->link, FRAME_FENCED, &m.base, NULL, 0);
    f->count = 0;
}

static void add_fence(struct fencing *f, uint64_t partition, uint64_t promise) {
    Mr__Fence *fence = &f->fences[f->count];
    mr__fence__init(fence);
    fence->partition = partition;
    fence->promise = promise;
    f->list[f->count++] = fence;
    if (f->count == PEERS_FENCES_A_FRAME)
        send_fences(f);
}

/* This replica has promised higher than its leader's epoch. All shards are told, at
 * once and before any further confirmation: this replica's record may be older than
 * the one by which somebody leads. */
void peers_fence(struct hosted *h) {
    struct fencing f = {.shard = h->shard};
    add_fence(&f, h->id, replica_promise(h->partition->replica));
    send_fences(&f);
}

static void fence_promised(void *ctx, const struct journal_partition *jp) {
    if (jp->promise > FIRST_EPOCH) /* nobody leads an older one */
        add_fence(ctx, jp->id, jp->promise);
}

/* A new link confirms nothing that was promised away before, by an earlier process or
 * of partitions not opened yet: so the journal is asked, not the replicas. */
static void fence_all(struct shard *s, struct link *link) {
    struct fencing f = {.shard = s, .link = link};
    journal_each(s->journal, fence_promised, &f);
    send_fences(&f);
}

static void on_fenced(struct shard_link *l, const struct frame *frame) {
    Mr__Fenced *m = frame_decode(l->shard->loop, &mr__fenced__descriptor, frame);
    for (size_t i = 0; m && i < m->n_fences; i++)
        fence_add(l->peer, m->fences[i]->partition, m->fences[i]->promise);
}

/* ---- in ---- */

static bool step_append(struct shard *s, const Mr__Append *m, struct body *frame, size_t *at) {
    struct replica_append a;
    bool good = replication_read_append(m, frame, at, &a);
    struct hosted *h = shard_find(s, m->partition);
    if (good && h && h->partition && m->to == s->self) {
        child_working_on(s->child, h->id);
        shard_touch(h);
        replica_on_append(h->partition->replica, &a, loop_now(s->loop), &h->partition->replica_effects);
        partition_run(h->partition, loop_now(s->loop));
        child_working_on(s->child, 0);
    }
    replication_entries_free(&a);
    return good;
}

static void on_appends(struct shard_link *l, const struct frame *frame) {
    Mr__Appends *m = frame_decode(l->shard->loop, &mr__appends__descriptor, frame);
    size_t at = 0;
    bool good = m != NULL;
    for (size_t i = 0; good && i < m->n_appends; i++)
        good = step_append(l->shard, m->appends[i], frame->body, &at);
    if (!good || at != (frame->body ? frame->body->size : 0))
        link_refuse(l->link, ERR_PROTOCOL, "APPENDS: the entries' sizes do not fill the body");
}

static void on_appendeds(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Appendeds *m = frame_decode(s->loop, &mr__appendeds__descriptor, frame);
    for (size_t i = 0; m && i < m->n_appendeds; i++) {
        struct replica_appended in;
        struct hosted *h = shard_find(s, m->appendeds[i]->partition);
        if (!replication_read_appended(m->appendeds[i], &in) || !h || !h->partition || in.to != s->self)
            continue;
        shard_touch(h);
        replica_on_appended(h->partition->replica, &in, loop_now(s->loop), &h->partition->replica_effects);
        partition_run(h->partition, loop_now(s->loop));
    }
}

static void on_piece(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Piece *m = frame_decode(s->loop, &mr__piece__descriptor, frame);
    struct hosted *h = m ? shard_find(s, m->partition) : NULL;
    if (!h || !h->partition || m->to != s->self)
        return;
    struct replica_piece in;
    replication_read_piece(m, frame->body, &in);
    shard_touch(h);
    replica_on_piece(h->partition->replica, &in, loop_now(s->loop), &h->partition->replica_effects);
    partition_run(h->partition, loop_now(s->loop));
}

static void on_pieced(struct shard_link *l, const struct frame *frame) {
    struct shard *s = l->shard;
    Mr__Pieced *m = frame_decode(s->loop, &mr__pieced__descriptor, frame);
    struct hosted *h = m ? shard_find(s, m->partition) : NULL;
    if (!h || !h->partition || m->to != s->self)
        return;
    struct replica_pieced in;
    replication_read_pieced(m, &in);
    shard_touch(h);
    replica_on_pieced(h->partition->replica, &in, loop_now(s->loop), &h->partition->replica_effects);
    partition_run(h->partition, loop_now(s->loop));
}

void peers_frame(struct shard_link *l, const struct frame *frame) {
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

void peers_up(struct shard_link *l, member_t member) {
    struct shard *s = l->shard;
    struct peer *p = peers_find(s, member);
    if (!p) {
        /* it knows of us before we of it: Members is on its way, it dials again */
        link_close(l->link, ERR_UNAVAILABLE, "this shard does not know yours yet");
        return;
    }
    if (p->link && p->link != l->link)
        link_close(p->link, ERR_CLOSED, "a newer link took its place");
    l->kind = LINK_PEER;
    l->peer = p;
    p->link = l->link;
    fences_clear(p);
    fence_all(s, p->link);
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_up(h->partition->replica, member, loop_now(s->loop), &h->partition->replica_effects);
        partition_run(h->partition, loop_now(s->loop));
    }
}

static void tell_down(struct hosted *h, const struct replica_set *set) {
    struct shard *s = h->shard;
    for (size_t i = 0; i < set->count; i++) {
        struct peer *p = peers_find(s, set->members[i]);
        if (set->members[i] != s->self && (!p || !p->link))
            replica_peer_down(h->partition->replica, set->members[i], loop_now(s->loop),
                              &h->partition->replica_effects);
    }
}

void peers_leading(struct hosted *h) {
    tell_down(h, &h->record.current);
    tell_down(h, &h->record.previous);
    tell_down(h, &h->record.learners);
}

void peers_down(struct shard_link *l) {
    struct shard *s = l->shard;
    struct peer *p = l->peer;
    if (p->link != l->link)
        return; /* replaced already */
    p->link = NULL;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_down(h->partition->replica, p->member, loop_now(s->loop),
                          &h->partition->replica_effects);
        partition_run(h->partition, loop_now(s->loop));
    }
}

/* ---- the table of members ---- */

static void on_keep_up(void *ctx, struct keep *keep, struct link *link) {
    struct peer *p = ctx;
    (void)keep;
    links_greet(p->shard, link, p);
}

static void on_keep_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct peer *p = ctx;
    links_peer_frame(p, link, frame);
}

static void on_keep_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct peer *p = ctx;
    (void)keep;
    (void)end;
    if (was_up)
        links_peer_down(p);
}

static const struct keep_handlers keep_calls = {
    .up = on_keep_up, .frame = on_keep_frame, .down = on_keep_down};

static void dial(struct peer *p) {
    struct keep_options options = {
        .handlers = &keep_calls, .ctx = p, .link = links_options(), .silent = KEEP_SILENT_USEC, .asks = true};
    struct err_detail detail;
    p->keep = keep_new(p->shard->loop, p->url, &options, &detail);
    if (!p->keep)
        log_error("shard at %s: %s", p->url, detail.text);
}

static void add_peer(struct shard *s, const Mr__MemberAddress *m) {
    char url[sizeof((struct peer *)0)->url];
    snprintf(url, sizeof url, "tcp://%s", m->address);
    struct peer *p = peers_find(s, m->member);
    if (!p) {
        p = xcalloc(1, sizeof *p);
        p->member = m->member;
        p->shard = s;
        HASH_ADD(hh, s->peers, member, sizeof p->member, p);
    }
    p->alive = m->alive;
    bool moved = strcmp(p->url, url) != 0;
    memcpy(p->url, url, sizeof url);
    if (s->self > p->member)
        return; /* it dials */
    if (!p->keep)
        dial(p);
    else if (moved)
        keep_redirect(p->keep, p->url, NULL);
}

void peers_members(struct shard *s, const Mr__Members *m) {
    for (size_t i = 0; i < m->n_members; i++)
        if (m->members[i]->member && m->members[i]->member != s->self)
            add_peer(s, m->members[i]);
}

void peers_close(struct shard *s) {
    struct peer *p, *next;
    HASH_ITER(hh, s->peers, p, next) {
        HASH_DEL(s->peers, p);
        p->link = NULL;
        send_appends(p);
        send_appendeds(p);
        if (p->keep)
            keep_free(p->keep);
        free(p->appends);
        free(p->bodies);
        free(p->appendeds);
        fences_clear(p);
        free(p);
    }
}

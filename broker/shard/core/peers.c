// SPDX-License-Identifier: Apache-2.0
/*
 * Other shards: one link a pair, on it the appends and answers of all partitions,
 * the link's lease confirmations, and fences: what a replica has promised away
 * and the confirmations cover no more.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "shard/core/core.h"

enum { FIRST_EPOCH = 1 };

struct peer *peers_find(struct shard *s, member_t member) {
    struct peer *p;
    HASH_FIND(hh, s->peers, &member, sizeof member, p);
    return p;
}

/* ---- out ---- */

static member_t receiver_of(const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_SEND_APPEND:
        return e->append.to;
    case REPLICA_SEND_APPENDED:
        return e->appended.to;
    case REPLICA_SEND_PIECE:
        return e->piece.to;
    case REPLICA_SEND_PIECED:
        return e->pieced.to;
    default:
        CHECK(!"not a message to a replica");
    }
}

void peers_tell(struct hosted *h, const struct replica_effect *e) {
    const struct shard_calls *calls = h->shard->calls;
    struct peer *p = peers_find(h->shard, receiver_of(e));
    if (!p || !p->link)
        return; /* peers_up starts anew */
    if (e->type == REPLICA_SEND_APPEND)
        calls->append(p, h->id, &e->append);
    else if (e->type == REPLICA_SEND_APPENDED)
        calls->appended(p, h->id, &e->appended);
    else if (e->type == REPLICA_SEND_PIECE)
        calls->piece(p, h->id, &e->piece);
    else
        calls->pieced(p, h->id, &e->pieced);
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
    return h->partition && mailbox_consumers(h->partition->mailbox) > 0 &&
           mailbox_leading(h->partition->mailbox);
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
    for (struct peer *p = s->peers; p; p = p->hh.next)
        if (p->confirming && p->link)
            s->calls->confirm(p, shard_now(s));
}

void peers_on_confirm(struct shard_link *l, usec_t sent_at) {
    l->shard->calls->confirmed(l, sent_at);
}

void peers_on_confirmed(struct shard_link *l, usec_t sent_at) {
    struct shard *s = l->shard;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition || !replica_leading(h->partition->replica) || !in_sets(h, l->peer->member))
            continue;
        if (l->peer->fences && fence_of(l->peer, h->id) > replica_epoch(h->partition->replica) &&
            !MUTATED(fences_ignored))
            continue;
        replica_confirm(h->partition->replica, l->peer->member, sent_at);
        shard_touch(h);
        partition_run(h->partition, shard_now(s));
    }
}

/* Promises on their way to one peer, or (to NULL) to all. */
struct fencing {
    struct shard *shard;
    struct peer *to;
    struct fence_told fences[SHARD_FENCES_MAX];
    size_t count;
};

static void send_fences(struct fencing *f) {
    for (struct peer *p = f->shard->peers; p && f->count; p = p->hh.next)
        if (p->link && (!f->to || p == f->to))
            f->shard->calls->fenced(p, f->fences, f->count);
    f->count = 0;
}

static void add_fence(struct fencing *f, uint64_t partition, uint64_t promise) {
    f->fences[f->count++] = (struct fence_told){partition, promise};
    if (f->count == SHARD_FENCES_MAX)
        send_fences(f);
}

/* This replica has promised higher than its leader's epoch. All shards are told, at
 * once and before any further confirmation: this replica's record may be older than
 * the one by which somebody leads. */
void peers_fence(struct hosted *h) {
    struct fencing f = {.shard = h->shard};
    if (MUTATED(fences_not_told))
        return;
    add_fence(&f, h->id, replica_promise(h->partition->replica));
    send_fences(&f);
}

static void fence_promised(void *ctx, const struct journal_partition *jp) {
    if (jp->promise > FIRST_EPOCH) /* nobody leads an older one */
        add_fence(ctx, jp->id, jp->promise);
}

/* A new link confirms nothing that was promised away before, by an earlier process or
 * of partitions not opened yet: so the journal is asked, not the replicas. */
static void fence_all(struct shard *s, struct peer *p) {
    struct fencing f = {.shard = s, .to = p};
    journal_each(s->journal, fence_promised, &f);
    send_fences(&f);
}

void peers_on_fenced(struct shard_link *l, uint64_t partition, uint64_t promise) {
    fence_add(l->peer, partition, promise);
}

/* ---- in ---- */

/* The partition a message is for; NULL: not here, or for who was here before. */
static struct hosted *receiver(struct shard *s, uint64_t partition, member_t to) {
    struct hosted *h = shard_find(s, partition);
    if (!h || !h->partition || to != s->self)
        return NULL;
    shard_working_on(s, h->id);
    shard_touch(h);
    return h;
}

static void received(struct hosted *h, usec_t now) {
    partition_run(h->partition, now);
    shard_working_on(h->shard, 0);
}

void peers_on_append(struct shard_link *l, uint64_t partition, const struct replica_append *m) {
    struct hosted *h = receiver(l->shard, partition, m->to);
    usec_t now = shard_now(l->shard);
    if (!h)
        return;
    replica_on_append(h->partition->replica, m, now, &h->partition->replica_effects);
    received(h, now);
}

void peers_on_appended(struct shard_link *l, uint64_t partition, const struct replica_appended *m) {
    struct hosted *h = receiver(l->shard, partition, m->to);
    usec_t now = shard_now(l->shard);
    if (!h)
        return;
    replica_on_appended(h->partition->replica, m, now, &h->partition->replica_effects);
    received(h, now);
}

void peers_on_piece(struct shard_link *l, uint64_t partition, const struct replica_piece *m) {
    struct hosted *h = receiver(l->shard, partition, m->to);
    usec_t now = shard_now(l->shard);
    if (!h)
        return;
    replica_on_piece(h->partition->replica, m, now, &h->partition->replica_effects);
    received(h, now);
}

void peers_on_pieced(struct shard_link *l, uint64_t partition, const struct replica_pieced *m) {
    struct hosted *h = receiver(l->shard, partition, m->to);
    usec_t now = shard_now(l->shard);
    if (!h)
        return;
    replica_on_pieced(h->partition->replica, m, now, &h->partition->replica_effects);
    received(h, now);
}

/* ---- links coming and going ---- */

void peers_add(struct shard *s, struct peer *p) {
    HASH_ADD(hh, s->peers, member, sizeof p->member, p);
}

void peers_remove(struct shard *s, struct peer *p) {
    HASH_DEL(s->peers, p);
    fences_clear(p);
}

void peers_up(struct shard_link *l, struct peer *p) {
    struct shard *s = l->shard;
    l->kind = LINK_PEER;
    l->peer = p;
    p->link = l;
    fences_clear(p);
    if (!MUTATED(fences_not_repeated))
        fence_all(s, p);
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_up(h->partition->replica, p->member, shard_now(s), &h->partition->replica_effects);
        partition_run(h->partition, shard_now(s));
    }
}

/* Links that came up before this partition was known. */
void peers_connect(struct hosted *h) {
    struct shard *s = h->shard;
    for (struct peer *p = s->peers; p; p = p->hh.next)
        if (p->link)
            replica_peer_up(h->partition->replica, p->member, shard_now(s), &h->partition->replica_effects);
}

static void tell_down(struct hosted *h, const struct replica_set *set) {
    struct shard *s = h->shard;
    for (size_t i = 0; i < set->count; i++) {
        struct peer *p = peers_find(s, set->members[i]);
        if (set->members[i] != s->self && (!p || !p->link))
            replica_peer_down(h->partition->replica, set->members[i], shard_now(s),
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
    if (p->link != l)
        return; /* replaced already */
    p->link = NULL;
    for (struct hosted *h = s->hosted; h; h = h->hh.next) {
        if (!h->partition)
            continue;
        shard_touch(h);
        replica_peer_down(h->partition->replica, p->member, shard_now(s), &h->partition->replica_effects);
        partition_run(h->partition, shard_now(s));
    }
}

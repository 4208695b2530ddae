// SPDX-License-Identifier: Apache-2.0
/*
 * Feeding one peer. PROBE: one append at a time until the logs agree, with
 * entries only when that is likely (the epoch's own). STREAM: appends in flight
 * up to REPLICA_WINDOW_BYTES_MAX, from the cache, else one FETCH at a time. A
 * peer that needs what is at or below the base is given a checkpoint (give.c).
 * Whatever is out and unanswered for REPLICA_RETRY_US is probed again.
 */
#include <stdlib.h>
#include <string.h>

#include "replica/core.h"

void peer_init(const struct replica *r, struct peer *p, member_t id) {
    *p = (struct peer){.id = id,
                       .up = true,
                       .next = r->epoch_index,
                       .retry_at = USEC_NEVER,
                       .notice_at = USEC_NEVER,
                       .report_at = USEC_NEVER};
}

void peer_free(struct peer *p) {
    give_free(&p->give);
    free(p->sent);
    p->sent = NULL;
}

void peer_probe(struct replica *r, struct peer *p, uint64_t next) {
    give_free(&p->give);
    p->mode = PEER_PROBE;
    p->waiting = false;
    p->next = next <= r->log.last_index ? next : r->log.last_index + 1;
    p->sent_count = p->sent_bytes = 0;
    p->retry_at = p->notice_at = USEC_NEVER;
}

/* ---- in flight ---- */

void peer_sent(struct peer *p, uint64_t last, size_t bytes) {
    xgrow(&p->sent, &p->sent_capacity, p->sent_count + 1, sizeof *p->sent);
    p->sent[p->sent_count++] = (struct sent){.last = last, .bytes = bytes};
    p->sent_bytes += bytes;
}

void peer_arrived(struct peer *p, uint64_t upto) {
    size_t i = 0;
    while (i < p->sent_count && p->sent[i].last <= upto)
        p->sent_bytes -= p->sent[i++].bytes;
    p->sent_count -= i;
    if (i && p->sent_count)
        memmove(p->sent, p->sent + i, p->sent_count * sizeof *p->sent);
}

/* ---- sending ---- */

static void fill(struct replica_append *m, const struct entry *entries, size_t count) {
    m->entries = xmalloc((count ? count : 1) * sizeof *m->entries);
    m->count = count;
    for (size_t i = 0; i < count; i++) {
        m->entries[i] = entries[i];
        body_keep(entries[i].body);
    }
}

/* Entries from p->next on (none: a probe, or a commit index). */
static void send(struct replica *r, struct peer *p, const struct entry *entries, size_t count, size_t bytes,
                 usec_t now, struct replica_effects *fx) {
    uint64_t prev = p->next - 1;
    struct replica_append *m = &fx_push(fx, REPLICA_SEND_APPEND)->append;
    *m = (struct replica_append){.from = r->self,
                                 .to = p->id,
                                 .epoch = r->epoch,
                                 .prev_index = prev,
                                 .prev_epoch = log_epoch_at(&r->log, prev),
                                 .commit = r->commit,
                                 .damage = p->damaged ? p->damage : 0,
                                 .mend_to = p->damaged ? p->mend_to : 0,
                                 .sent_at = now};
    fill(m, entries, count);
    if (r->commit > p->commit_sent) {
        p->commit_sent = r->commit;
        p->commit_sent_at = now;
    }
    p->retry_at = now + REPLICA_RETRY_US;
    p->notice_at = USEC_NEVER;
    if (p->mode == PEER_PROBE) {
        p->waiting = true;
        p->probe_at = now;
    } else if (count) {
        p->next += count;
        peer_sent(p, p->next - 1, bytes);
    }
}

/* As many entries from the cache as one append takes. */
static void send_cached(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    struct entry entries[REPLICA_APPEND_CACHED_MAX];
    size_t count = 0, bytes = 0;
    const struct slot *slot;
    while (count < r->append_entries && (slot = log_slot(&r->log, p->next + count))) {
        size_t cost = body_cost(slot->body);
        if (count && bytes + cost > REPLICA_APPEND_BYTES_MAX)
            break;
        entries[count] = slot_entry(slot, p->next + count);
        bytes += cost;
        count++;
    }
    send(r, p, entries, count, bytes, now, fx);
}

static void send_empty(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    send(r, p, NULL, 0, 0, now, fx);
}

void peer_fetch(struct peer *p, uint64_t from, uint64_t to, struct replica_effects *fx) {
    p->fetch_from = from;
    struct replica_effect *e = fx_push(fx, REPLICA_FETCH);
    e->fetch.from = from;
    e->fetch.to = to;
    e->fetch.reader = p->id;
}

static void fetch_next(struct replica *r, struct peer *p, struct replica_effects *fx) {
    uint64_t to = r->log.cache_from - 1;
    if (to - p->next >= REPLICA_APPEND_ENTRIES_MAX)
        to = p->next + REPLICA_APPEND_ENTRIES_MAX - 1;
    peer_fetch(p, p->next, to, fx);
}

/* The answer may be stale: the log may have been cut since, or the peer is
 * probed elsewhere. Then the next pump asks again. */
void peer_fetched(struct replica *r, struct peer *p, const struct entry *entries, size_t count, usec_t now,
                  struct replica_effects *fx) {
    r->dirty = true;
    if (p->mode == PEER_GIVE) {
        give_fetched(r, p, entries, count, now, fx);
        return;
    }
    if (p->mode == PEER_STREAM && count == 0 && p->next > r->log.base_index) {
        /* summed up by a checkpoint on its way to the disk: once it is there, it is given */
        peer_probe(r, p, p->next);
        p->waiting = true;
        p->retry_at = now + REPLICA_IDLE_US;
        return;
    }
    if (p->mode != PEER_STREAM || !p->up || count == 0 || entries[0].index != p->next)
        return;
    size_t good = 0, bytes = 0;
    while (good < count && entries[good].index <= r->log.last_index &&
           log_epoch_at(&r->log, entries[good].index) == entries[good].epoch)
        bytes += body_cost(entries[good++].body);
    if (good)
        send(r, p, entries, good, bytes, now, fx);
}

/* ---- the turn ---- */

static bool can_feed(const struct log *log, uint64_t next) {
    bool prev_known = next == 1 || log_epoch_at(log, next - 1);
    return prev_known && (next > log->base_index || next >= log->cache_from);
}

static void pump_probe(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    if (p->next >= r->epoch_index && log_slot(&r->log, p->next))
        send_cached(r, p, now, fx);
    else
        send_empty(r, p, now, fx);
}

static void pump_notice(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    bool due = p->next > r->log.last_index && p->sent_count == 0 && p->retry_at == USEC_NEVER &&
               p->commit_told < r->commit;
    if (!due)
        p->notice_at = USEC_NEVER;
    else if (p->notice_at == USEC_NEVER)
        p->notice_at = now + REPLICA_IDLE_US;
    if (p->notice_at <= now)
        send_empty(r, p, now, fx);
}

static void pump_stream(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    while (p->next <= r->log.last_index && p->sent_bytes < REPLICA_WINDOW_BYTES_MAX && !p->fetch_from) {
        if (log_slot(&r->log, p->next))
            send_cached(r, p, now, fx);
        else
            fetch_next(r, p, fx);
    }
    pump_notice(r, p, now, fx);
}

void peer_pump(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx) {
    if (!p->up || (p->mode == PEER_PROBE && p->waiting))
        return;
    if (p->mode != PEER_GIVE && !can_feed(&r->log, p->next))
        give_start(p, fx);
    if (p->mode == PEER_PROBE)
        pump_probe(r, p, now, fx);
    else if (p->mode == PEER_STREAM)
        pump_stream(r, p, now, fx);
    else
        give_pump(r, p, now, fx);
}

usec_t peer_deadline(const struct peer *p) {
    usec_t at = p->report_at;
    if (p->up && p->retry_at < at)
        at = p->retry_at;
    if (p->up && p->notice_at < at)
        at = p->notice_at;
    return at;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What a replica knows of its log: where each epoch begins (so the epoch of any
 * index is known without its entry), the voters' history (metadata group), and
 * the bodies of the newest entries in a ring. An entry leaves the ring oldest
 * first, when it is stored and applied and the ring is over its bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "replica/core.h"

size_t body_cost(const struct body *body) {
    return REPLICA_ENTRY_COST_BYTES + (body ? body->size : 0);
}

/* ---- the ring ---- */

static struct slot *ring_at(const struct log *log, size_t i) {
    return &log->ring[(log->ring_head + i) & (log->ring_capacity - 1)];
}

static void ring_grow(struct log *log) {
    size_t capacity = log->ring_capacity ? log->ring_capacity * 2 : 16;
    struct slot *ring = xmalloc(capacity * sizeof *ring);
    for (size_t i = 0; i < log->ring_count; i++)
        ring[i] = *ring_at(log, i);
    free(log->ring);
    log->ring = ring;
    log->ring_head = 0;
    log->ring_capacity = capacity;
}

static void ring_push(struct log *log, const struct slot *slot) {
    if (log->ring_count == log->ring_capacity)
        ring_grow(log);
    *ring_at(log, log->ring_count++) = *slot;
    log->cache_bytes += body_cost(slot->body);
}

static void ring_drop_first(struct log *log) {
    struct slot *slot = ring_at(log, 0);
    log->cache_bytes -= body_cost(slot->body);
    body_drop(slot->body);
    log->ring_head = (log->ring_head + 1) & (log->ring_capacity - 1);
    log->ring_count--;
    log->cache_from++;
}

static void ring_drop_last(struct log *log) {
    struct slot *slot = ring_at(log, --log->ring_count);
    log->cache_bytes -= body_cost(slot->body);
    body_drop(slot->body);
}

struct slot *log_slot(const struct log *log, uint64_t index) {
    if (index < log->cache_from || index > log->last_index)
        return NULL;
    return ring_at(log, index - log->cache_from);
}

/* ---- epochs ---- */

static void epoch_begin(struct log *log, uint64_t epoch, uint64_t first_index) {
    xgrow(&log->epochs, &log->epochs_capacity, log->epochs_count + 1, sizeof *log->epochs);
    log->epochs[log->epochs_count++] =
        (struct replica_epoch_start){.epoch = epoch, .first_index = first_index};
}

/* The last start at or below index; NULL: before the first known. */
static const struct replica_epoch_start *epoch_of(const struct log *log, uint64_t index) {
    size_t low = 0, high = log->epochs_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (log->epochs[middle].first_index <= index)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &log->epochs[low - 1] : NULL;
}

uint64_t log_epoch_at(const struct log *log, uint64_t index) {
    if (index == 0 || index > log->last_index)
        return 0;
    const struct replica_epoch_start *start = epoch_of(log, index);
    return start ? start->epoch : 0;
}

uint64_t log_epoch_first(const struct log *log, uint64_t index) {
    const struct replica_epoch_start *start = epoch_of(log, index);
    return start ? start->first_index : 1;
}

/* ---- voters ---- */

static void config_push(struct log *log, uint64_t index, const struct replica_set *voters) {
    xgrow(&log->configs, &log->configs_capacity, log->configs_count + 1, sizeof *log->configs);
    log->configs[log->configs_count++] = (struct config_at){.index = index, .voters = *voters};
}

static void config_entry(struct replica *r, const struct entry *entry) {
    struct replica_set voters;
    if (!r->config_in_log || entry->type != ENTRY_CONFIG)
        return;
    CHECK(entry->body && replica_config_decode(entry->body, &voters));
    config_push(&r->log, entry->index, &voters);
}

const struct replica_set *log_voters(const struct replica *r) {
    static const struct replica_set nobody;
    const struct log *log = &r->log;
    return log->configs_count ? &log->configs[log->configs_count - 1].voters : &nobody;
}

/* ---- beginning ---- */

static void begin(struct replica *r, const struct replica_state *state) {
    struct log *log = &r->log;
    log->base_index = log->last_index = state->base_index;
    log->base_epoch = log->last_epoch = state->base_epoch;
    log->written_base = state->base_index;
    log->epochs_count = log->configs_count = 0;
    for (size_t i = 0; i < state->epochs_count; i++)
        epoch_begin(log, state->epochs[i].epoch, state->epochs[i].first_index);
    if (r->config_in_log && state->config.count)
        config_push(log, 0, &state->config);
    log->cache_from = log->last_index + 1;
}

/* Recovered entries are on the disk; those whose bodies came along up to the
 * end of the list go into the ring. */
void log_init(struct replica *r, const struct replica_state *state) {
    struct log *log = &r->log;
    begin(r, state);
    for (size_t i = 0; i < state->entries_count; i++) {
        const struct entry *entry = &state->entries[i];
        CHECK(entry->index == log->last_index + 1 && entry->epoch >= log->last_epoch);
        if (entry->epoch > log->last_epoch)
            epoch_begin(log, entry->epoch, entry->index);
        log->last_index = entry->index;
        log->last_epoch = entry->epoch;
        config_entry(r, entry);
        bool has_body = entry->body || entry->type == ENTRY_EPOCH;
        while (!has_body && log->ring_count)
            ring_drop_first(log);
        if (!has_body) {
            log->cache_from = entry->index + 1;
            continue;
        }
        ring_push(log, &(struct slot){entry->epoch, 0, body_keep(entry->body), entry->type});
    }
    log->written = log->stored = log->last_index;
    log->uncommitted_bytes = log->cache_bytes;
}

void log_reset(struct replica *r, const struct replica_state *state) {
    struct log *log = &r->log;
    while (log->ring_count)
        ring_drop_last(log);
    begin(r, state);
    r->fetch_void = true;
    log->written = log->stored = log->last_index;
    log->uncommitted_bytes = 0;
}

void log_free(struct log *log) {
    while (log->ring_count)
        ring_drop_last(log);
    free(log->ring);
    free(log->epochs);
    free(log->configs);
}

/* ---- the end moves ---- */

void log_append(struct replica *r, const struct entry *entry, struct replica_effects *fx) {
    struct log *log = &r->log;
    CHECK(entry->index == log->last_index + 1 && entry->epoch >= log->last_epoch);
    if (entry->epoch > log->last_epoch)
        epoch_begin(log, entry->epoch, entry->index);
    log->last_index = entry->index;
    log->last_epoch = entry->epoch;
    struct replica_effect *e = fx_journal(r, fx, REPLICA_WRITE);
    e->entry = *entry;
    body_keep(entry->body);
    ring_push(log, &(struct slot){entry->epoch, r->mark, body_keep(entry->body), entry->type});
    if (entry->index > r->commit)
        log->uncommitted_bytes += body_cost(entry->body);
    config_entry(r, entry);
}

static void forget_above(struct replica *r, uint64_t last_kept) {
    struct log *log = &r->log;
    while (log->ring_count && log->last_index > last_kept) {
        if (log->last_index > r->commit)
            log->uncommitted_bytes -= body_cost(ring_at(log, log->ring_count - 1)->body);
        ring_drop_last(log);
        log->last_index--;
    }
    while (log->epochs_count && log->epochs[log->epochs_count - 1].first_index > last_kept)
        log->epochs_count--;
    while (log->configs_count && log->configs[log->configs_count - 1].index > last_kept)
        log->configs_count--;
}

void log_truncate(struct replica *r, uint64_t last_kept, struct replica_effects *fx) {
    struct log *log = &r->log;
    CHECK(last_kept >= log->base_index && last_kept < log->last_index);
    forget_above(r, last_kept);
    r->fetch_void = true;
    log->last_index = last_kept;
    log->last_epoch = last_kept == log->base_index ? log->base_epoch : log_epoch_at(log, last_kept);
    if (log->cache_from > last_kept + 1)
        log->cache_from = last_kept + 1;
    if (log->written > last_kept)
        log->written = last_kept;
    if (log->stored > last_kept)
        log->stored = last_kept;
    fx_journal(r, fx, REPLICA_TRUNCATE)->index = last_kept;
}

/* ---- stored, committed, applied ---- */

static bool is_stored(const struct replica *r, const struct slot *slot) {
    bool sync = r->synced || slot->type == ENTRY_EPOCH || slot->type == ENTRY_CONFIG;
    return slot->mark <= (sync ? r->synced_mark : r->written_mark);
}

void log_advance(struct replica *r) {
    struct log *log = &r->log;
    const struct slot *slot;
    while ((slot = log_slot(log, log->written + 1)) && slot->mark <= r->written_mark)
        log->written++;
    while ((slot = log_slot(log, log->stored + 1)) && is_stored(r, slot))
        log->stored++;
    log_trim(r);
}

void log_commit_moved(struct replica *r, uint64_t from) {
    struct log *log = &r->log;
    uint64_t index = from + 1 > log->cache_from ? from + 1 : log->cache_from;
    for (; index <= r->commit && index <= log->last_index; index++)
        log->uncommitted_bytes -= body_cost(log_slot(log, index)->body);
}

/* Entries that are applied go first; a reader that is far behind (apply after a
 * restart) does not pin more than REPLICA_UNCOMMITTED_BYTES_MAX: it fetches. */
void log_trim(struct replica *r) {
    struct log *log = &r->log;
    uint64_t stored = log->stored < log->written ? log->stored : log->written;
    while (log->ring_count && log->cache_bytes > r->cache_limit && log->cache_from <= stored &&
           log->cache_from <= r->commit &&
           (log->cache_from <= r->applied || log->cache_bytes > REPLICA_UNCOMMITTED_BYTES_MAX))
        ring_drop_first(log);
}

// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct record *journal(struct node *n, enum record_type type) {
    xgrow(&n->journal, &n->capacity, n->count + 1, sizeof *n->journal);
    struct record *r = &n->journal[n->count++];
    *r = (struct record){.type = type, .mark = replica_mark(n->r)};
    return r;
}

static void journal_entry(struct node *n, enum record_type type, const struct entry *e) {
    struct record *r = journal(n, type);
    r->entry = *e;
    body_keep(e->body);
    replay(&n->disk, r);
}

/* ---- the machine and the oracle ---- */

static uint64_t fold(uint64_t digest, const struct entry *e) {
    uint64_t x = digest ^ e->epoch * 31 ^ e->type * 1009;
    for (size_t i = 0; e->body && i < e->body->size; i++)
        x = (x ^ e->body->data[i]) * 0x100000001b3u;
    return x * 0x9E3779B97F4A7C15u + e->index;
}

static void apply(struct harness *h, struct node *n, const struct entry *e) {
    struct machine *m = &n->machine;
    cr_assert_eq(e->index, m->applied + 1, "applied out of order");
    cr_assert(e->body || e->type == ENTRY_EPOCH);
    h->epoch_used[e->epoch] = true;
    m->applied = e->index;
    m->digest = fold(m->digest, e);
    if (e->type == ENTRY_BATCH) {
        memmove(m->live, m->live + 1, sizeof m->live - sizeof m->live[0]);
        m->live[LIVE_ENTRIES - 1] = e->index;
    }
    cr_assert_lt(e->index, LOG_MAX);
    if (e->index > h->committed) {
        cr_assert_eq(e->index, h->committed + 1);
        h->committed = e->index;
        h->committed_epoch[e->index] = e->epoch;
        h->committed_digest[e->index] = m->digest;
    }
    cr_assert_eq(h->committed_epoch[e->index], e->epoch, "committed entry %lu changed", e->index);
    cr_assert_eq(h->committed_digest[e->index], m->digest, "agreement at %lu", e->index);
}

static void leads(struct harness *h, struct node *n, uint64_t epoch) {
    cr_assert_lt(epoch, LOG_MAX);
    /* Once more is harmless only when the first time left no trace: not even its record on the disk. */
    cr_assert(h->leader_of[epoch] == 0 || h->leader_of[epoch] == n->id, "epoch %lu has two leaders", epoch);
    cr_assert_not(h->epoch_used[epoch], "epoch %lu taken twice", epoch);
    h->leader_of[epoch] = n->id;
}

static void machine_encode(const struct machine *m, struct encoder *e) {
    encode_u64(e, m->applied);
    encode_u64(e, m->digest);
    for (size_t i = 0; i < LIVE_ENTRIES; i++)
        encode_u64(e, m->live[i]);
}

/* Both parts of a checkpoint; the core's goes to *state. */
static void checkpoint_decode(const struct body *b, struct replica_state *state, struct machine *m) {
    struct decoder d = decoder_of(b->data, b->size);
    cr_assert(replica_decode(&d, state));
    *m = (struct machine){0};
    if (decoder_left(&d) == 0) /* everything was lost */
        return;
    m->applied = decode_u64(&d);
    m->digest = decode_u64(&d);
    for (size_t i = 0; i < LIVE_ENTRIES; i++)
        m->live[i] = decode_u64(&d);
    cr_assert(!d.failed && decoder_left(&d) == 0 && m->applied == state->base_index);
}

static size_t live_of(const struct machine *m, uint64_t out[LIVE_ENTRIES]) {
    size_t count = 0;
    for (size_t i = 0; i < LIVE_ENTRIES; i++)
        if (m->live[i])
            out[count++] = m->live[i];
    return count;
}

static void installed(struct harness *h, struct node *n, const struct replica_effect *e) {
    struct replica_state state;
    checkpoint_decode(e->install.state, &state, &n->machine);
    free((void *)state.epochs);
    cr_assert_leq(n->machine.applied, h->committed);
    cr_assert_eq(n->machine.digest, h->committed_digest[n->machine.applied], "another's state");
}

/* ---- effects ---- */

static void send(struct harness *h, struct replica_effect *e, member_t from, member_t to) {
    if (from <= h->count && to <= h->count && h->cut[from - 1][to - 1])
        return;
    xgrow(&h->messages, &h->messages_capacity, h->messages_count + 1, sizeof *h->messages);
    h->messages[h->messages_count++] = *e;
    e->type = REPLICA_REPORT_MENDED; /* moved: nothing to drop any more */
}

static void do_install(struct node *n, const struct replica_effect *e) {
    struct record *r = journal(n, R_INSTALL);
    r->number = e->install.base_index;
    r->epoch = e->install.base_epoch;
    r->state = body_keep(e->install.state);
    r->live_count = e->install.live_count;
    r->live = xmalloc((r->live_count + 1) * sizeof *r->live);
    if (r->live_count)
        memcpy(r->live, e->install.live, r->live_count * sizeof *r->live);
    replay(&n->disk, r);
}

static void do_numbered(struct node *n, enum record_type type, uint64_t number, member_t candidate) {
    struct record *r = journal(n, type);
    r->number = number;
    r->candidate = candidate;
    replay(&n->disk, r);
}

/* False: not one for the journal. */
static bool do_journal(struct node *n, struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_WRITE:
        journal_entry(n, R_WRITE, &e->entry);
        break;
    case REPLICA_STAGE:
        journal_entry(n, R_STAGE, &e->entry);
        break;
    case REPLICA_UNSTAGE:
        do_numbered(n, R_UNSTAGE, 0, 0);
        break;
    case REPLICA_TRUNCATE:
        do_numbered(n, R_TRUNCATE, e->index, 0);
        break;
    case REPLICA_PROMISE:
        do_numbered(n, R_PROMISE, e->promise.epoch, e->promise.candidate);
        break;
    case REPLICA_MARK_DAMAGED:
        do_numbered(n, R_DAMAGED, e->damage.number, 0);
        n->unreadable = 0;
        break;
    case REPLICA_MARK_WHOLE:
        do_numbered(n, R_WHOLE, 0, 0);
        break;
    case REPLICA_INSTALL:
        do_install(n, e);
        break;
    default:
        return false;
    }
    return true;
}

static void do_effect(struct harness *h, struct node *n, struct replica_effect *e) {
    n->seen[e->type]++;
    n->seen_ever[e->type]++;
    if (do_journal(n, e))
        return;
    switch (e->type) {
    case REPLICA_INSTALLED:
        installed(h, n, e);
        break;
    case REPLICA_APPLY:
        apply(h, n, &e->entry);
        break;
    case REPLICA_FETCH:
        xgrow(&n->fetches, &n->fetches_capacity, n->fetches_count + 1, sizeof *n->fetches);
        n->fetches[n->fetches_count++] = (struct fetch){e->fetch.from, e->fetch.to, e->fetch.reader};
        break;
    case REPLICA_SNAPSHOT:
        xgrow(&n->snapshots, &n->snapshots_capacity, n->snapshots_count + 1, sizeof *n->snapshots);
        n->snapshots[n->snapshots_count++] = e->peer;
        break;
    case REPLICA_SEND_APPEND:
        h->epoch_used[e->append.epoch] = true;
        send(h, e, e->append.from, e->append.to);
        break;
    case REPLICA_SEND_APPENDED:
        send(h, e, e->appended.from, e->appended.to);
        break;
    case REPLICA_SEND_PIECE:
        send(h, e, e->piece.from, e->piece.to);
        break;
    case REPLICA_SEND_PIECED:
        send(h, e, e->pieced.from, e->pieced.to);
        break;
    case REPLICA_SEND_SEALED:
        xgrow(&h->sealed, &h->sealed_capacity, h->sealed_count + 1, sizeof *h->sealed);
        h->sealed[h->sealed_count++] = e->sealed;
        break;
    case REPLICA_LEADING:
        leads(h, n, e->epoch);
        break;
    case REPLICA_REPORT_ACTIVATED:
        if (e->epoch > n->activated)
            n->activated = e->epoch;
        break;
    case REPLICA_REPORT_SUPERSEDED:
        if (e->promise.epoch > n->superseded)
            n->superseded = e->promise.epoch;
        break;
    default:
        break;
    }
}

static void carry_out(struct harness *h, struct node *n, struct replica_effects *fx) {
    for (size_t i = 0; i < fx->count; i++)
        do_effect(h, n, &fx->items[i]);
    replica_effects_free(fx);
}

/* ---- life ---- */

static void start(struct harness *h, struct node *n) {
    struct replica_state state = {0};
    struct disk *d = &n->disk;
    n->machine = (struct machine){0};
    memset(n->seen, 0, sizeof n->seen);
    if (d->checkpoint)
        checkpoint_decode(d->checkpoint, &state, &n->machine);
    if (d->promise >= state.promise) {
        state.promise = d->promise;
        state.candidate = d->candidate;
    }
    struct entry *entries = xmalloc((d->count + 1) * sizeof *entries);
    for (size_t i = 0; i < d->count; i++) {
        entries[i] = d->entries[i];
        if (entries[i].type != ENTRY_CONFIG)
            entries[i].body = NULL;
    }
    state.entries = entries;
    state.entries_count = d->count;
    state.damaged = d->damaged;
    state.doubtful = d->doubtful;
    state.damage = ++n->starts << 20;
    struct replica_options options = h->options;
    options.self = n->id;
    n->r = replica_new(&options, &state);
    n->alive = true;
    free(entries);
    free((void *)state.epochs);
}

struct harness *harness_new(size_t count, const struct replica_options *options) {
    struct harness *h = xcalloc(1, sizeof *h);
    h->count = count;
    h->options = *options;
    h->now = USEC_S;
    for (size_t i = 0; i < count; i++) {
        h->nodes[i].id = i + 1;
        start(h, &h->nodes[i]);
    }
    return h;
}

static void node_stop(struct node *n) {
    replica_free(n->r);
    n->r = NULL;
    n->alive = false;
    n->fetches_count = n->snapshots_count = 0;
    n->own_checkpoint = 0;
}

void harness_free(struct harness *h) {
    while (h->messages_count)
        lose(h, 0);
    for (size_t i = 0; i < h->count; i++) {
        struct node *n = &h->nodes[i];
        node_stop(n);
        for (size_t k = 0; k < n->count; k++)
            record_free(&n->journal[k]);
        disk_free(&n->disk);
        disk_free(&n->floor);
        free(n->journal);
        free(n->fetches);
        free(n->snapshots);
    }
    free(h->messages);
    free(h->sealed);
    free(h);
}

struct node *node_of(struct harness *h, member_t id) {
    cr_assert(id >= 1 && id <= h->count);
    return &h->nodes[id - 1];
}

void crash(struct harness *h, member_t id, size_t keep) {
    struct node *n = node_of(h, id);
    node_stop(n);
    while (n->count > n->synced + keep)
        record_free(&n->journal[--n->count]);
    n->synced = n->count;
    disk_free(&n->disk);
    n->disk = disk_copy(&n->floor);
    for (size_t i = 0; i < n->count; i++)
        replay(&n->disk, &n->journal[i]);
    entries_cut(n->disk.staged, &n->disk.staged_count, 0);
    for (size_t i = 0; i < h->count; i++) /* its links are gone */
        if (h->nodes[i].alive) {
            struct replica_effects fx = {0};
            replica_peer_down(h->nodes[i].r, id, h->now, &fx);
            carry_out(h, &h->nodes[i], &fx);
        }
}

void restart(struct harness *h, member_t id) {
    start(h, node_of(h, id));
    for (size_t i = 0; i < h->count; i++)
        if (h->nodes[i].alive && h->nodes[i].id != id) {
            struct replica_effects fx = {0};
            replica_peer_up(h->nodes[i].r, id, h->now, &fx);
            carry_out(h, &h->nodes[i], &fx);
        }
}

static void cut_disk(struct node *n, size_t entries, bool checkpoint_lost) {
    struct disk *d = &n->disk;
    cr_assert(!n->alive);
    for (size_t i = 0; i < d->count; i++) /* what the entries implied is known from elsewhere */
        if (d->entries[i].epoch > d->promise) {
            d->promise = d->entries[i].epoch;
            d->candidate = 0;
        }
    entries_cut(d->entries, &d->count, entries < d->count ? entries : d->count);
    if (checkpoint_lost) {
        entries_cut(d->entries, &d->count, 0);
        entries_cut(d->live, &d->live_count, 0);
        body_drop(d->checkpoint);
        d->checkpoint = NULL;
        d->base_index = d->base_epoch = 0;
    }
}

/* From now on the journal begins with what is on the disk. */
static void begin_anew(struct node *n) {
    while (n->count)
        record_free(&n->journal[--n->count]);
    n->synced = 0;
    disk_free(&n->floor);
    n->floor = disk_copy(&n->disk);
}

void damage(struct harness *h, member_t id, size_t entries, bool checkpoint_lost) {
    struct node *n = node_of(h, id);
    cut_disk(n, entries, checkpoint_lost);
    n->disk.damaged = true;
    begin_anew(n);
}

void power_lost(struct harness *h, member_t id, size_t entries) {
    struct node *n = node_of(h, id);
    cut_disk(n, entries, false);
    n->disk.doubtful = true;
    begin_anew(n);
}

/* ---- events ---- */

void tell_record(struct harness *h, member_t id, const struct replica_record *record) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    if (record->version > n->record.version)
        n->record = *record;
    replica_on_record(n->r, record, h->now, &fx);
    carry_out(h, n, &fx);
}

enum err propose(struct harness *h, member_t id, const char *text) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    struct body *body = body_copy(text, strlen(text));
    uint64_t index;
    enum err e = replica_propose(n->r, ENTRY_BATCH, body, h->now, &index, &fx);
    body_drop(body);
    carry_out(h, n, &fx);
    return e;
}

void pump(struct harness *h, member_t id) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    replica_pump(n->r, h->now, &fx);
    carry_out(h, n, &fx);
}

void tick(struct harness *h, member_t id) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    replica_tick(n->r, h->now, &fx);
    carry_out(h, n, &fx);
}

void find_damage(struct harness *h, member_t id, uint64_t index) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    replica_unreadable(n->r, index, h->now, &fx);
    carry_out(h, n, &fx);
}

void sync_node(struct harness *h, member_t id) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    n->synced = n->count;
    replica_stored(n->r, replica_mark(n->r), true, h->now, &fx);
    carry_out(h, n, &fx);
    if (n->own_checkpoint) {
        replica_checkpointed(n->r, n->own_checkpoint);
        n->own_checkpoint = 0;
    }
}

void checkpoint(struct harness *h, member_t id) {
    struct node *n = node_of(h, id);
    struct encoder e = {0};
    if (n->machine.applied <= n->disk.base_index || !replica_counts(n->r) || n->own_checkpoint)
        return;
    struct record *r = journal(n, R_CHECKPOINT);
    r->number = n->machine.applied;
    r->epoch = replica_epoch_at(n->r, r->number);
    r->live = xmalloc(LIVE_ENTRIES * sizeof *r->live);
    r->live_count = live_of(&n->machine, r->live);
    replica_encode(n->r, r->number, &e);
    machine_encode(&n->machine, &e);
    r->state = encoder_body(&e);
    replay(&n->disk, r);
    n->own_checkpoint = r->number;
}

static void answer_fetch(struct harness *h, struct node *n, struct fetch f) {
    struct replica_effects fx = {0};
    struct entry found[READ_ENTRIES];
    size_t count = 0, bytes = 0;
    while (count < READ_ENTRIES && bytes < REPLICA_APPEND_BYTES_MAX && f.from + count <= f.to &&
           f.from + count != n->unreadable) {
        const struct entry *e = disk_find(&n->disk, f.from + count);
        if (!e)
            break;
        found[count++] = *e;
        bytes += e->body ? e->body->size : 0;
    }
    replica_fetched(n->r, f.reader, f.from, found, count, n->unreadable && f.from == n->unreadable, h->now,
                    &fx);
    carry_out(h, n, &fx);
}

static void answer_snapshot(struct harness *h, struct node *n, member_t peer) {
    struct replica_effects fx = {0};
    uint64_t live[LIVE_ENTRIES];
    struct encoder e = {0};
    machine_encode(&n->machine, &e);
    struct body *state = encoder_body(&e);
    replica_snapshot(n->r, peer, n->machine.applied, state, live, live_of(&n->machine, live), h->now, &fx);
    body_drop(state);
    carry_out(h, n, &fx);
}

void read_node(struct harness *h, member_t id) {
    struct node *n = node_of(h, id);
    if (n->fetches_count) {
        struct fetch f = n->fetches[0];
        memmove(n->fetches, n->fetches + 1, --n->fetches_count * sizeof f);
        answer_fetch(h, n, f);
    } else if (n->snapshots_count) {
        member_t peer = n->snapshots[0];
        memmove(n->snapshots, n->snapshots + 1, --n->snapshots_count * sizeof peer);
        answer_snapshot(h, n, peer);
    }
}

void seal(struct harness *h, member_t id, uint64_t epoch, member_t candidate) {
    struct node *n = node_of(h, id);
    struct replica_effects fx = {0};
    struct replica_seal m = {.token = epoch, .to = id, .epoch = epoch, .candidate = candidate};
    replica_on_seal(n->r, &m, h->now, &fx);
    carry_out(h, n, &fx);
}

/* ---- the network ---- */

static member_t message_to(const struct replica_effect *e) {
    return e->type == REPLICA_SEND_APPEND     ? e->append.to
           : e->type == REPLICA_SEND_APPENDED ? e->appended.to
           : e->type == REPLICA_SEND_PIECE    ? e->piece.to
                                              : e->pieced.to;
}

static member_t message_from(const struct replica_effect *e) {
    return e->type == REPLICA_SEND_APPEND     ? e->append.from
           : e->type == REPLICA_SEND_APPENDED ? e->appended.from
           : e->type == REPLICA_SEND_PIECE    ? e->piece.from
                                              : e->pieced.from;
}

size_t find_message(const struct harness *h, enum replica_effect_type type, member_t from, member_t to) {
    for (size_t i = 0; i < h->messages_count; i++) {
        const struct replica_effect *e = &h->messages[i];
        if (e->type == type && (!from || message_from(e) == from) && (!to || message_to(e) == to))
            return i;
    }
    return SIZE_MAX;
}

static void take_out(struct harness *h, size_t i) {
    memmove(h->messages + i, h->messages + i + 1, (--h->messages_count - i) * sizeof *h->messages);
}

void lose(struct harness *h, size_t i) {
    cr_assert_lt(i, h->messages_count);
    struct replica_effects one = {.items = &h->messages[i], .count = 1};
    replica_effects_clear(&one);
    take_out(h, i);
}

static void hand_over(struct harness *h, struct node *n, const struct replica_effect *e) {
    struct replica_effects fx = {0};
    if (e->type == REPLICA_SEND_APPEND)
        replica_on_append(n->r, &e->append, h->now, &fx);
    else if (e->type == REPLICA_SEND_APPENDED)
        replica_on_appended(n->r, &e->appended, h->now, &fx);
    else if (e->type == REPLICA_SEND_PIECE)
        replica_on_piece(n->r, &e->piece, h->now, &fx);
    else
        replica_on_pieced(n->r, &e->pieced, h->now, &fx);
    carry_out(h, n, &fx);
}

void deliver(struct harness *h, size_t i, bool keep) {
    cr_assert_lt(i, h->messages_count);
    struct replica_effect e = h->messages[i];
    struct replica_effects one = {.items = &e, .count = 1};
    struct node *n = node_of(h, message_to(&e));
    if (!keep)
        take_out(h, i);
    h->now++;
    if (n->alive)
        hand_over(h, n, &e);
    if (!keep)
        replica_effects_clear(&one);
}

static bool turn(struct harness *h, struct node *n) {
    bool busy = false;
    if (!n->manual_sync && (n->synced < n->count || n->own_checkpoint)) {
        sync_node(h, n->id);
        busy = true;
    }
    if (!n->manual_reads && (n->fetches_count || n->snapshots_count)) {
        read_node(h, n->id);
        busy = true;
    }
    if (replica_dirty(n->r)) {
        size_t before = h->messages_count;
        pump(h, n->id);
        busy = busy || h->messages_count > before;
    }
    return busy;
}

void settle(struct harness *h) {
    bool busy = true;
    for (unsigned turns = 0; busy; turns++) {
        cr_assert_lt(turns, 100000u, "it never comes to rest");
        busy = h->messages_count > 0;
        if (busy)
            deliver(h, 0, false);
        for (size_t i = 0; i < h->count; i++)
            if (h->nodes[i].alive)
                busy = turn(h, &h->nodes[i]) || busy;
    }
}

void pass(struct harness *h, usec_t span) {
    usec_t end = h->now + span;
    for (;;) {
        settle(h);
        usec_t next = end;
        struct node *due = NULL;
        for (size_t i = 0; i < h->count; i++) {
            struct node *n = &h->nodes[i];
            usec_t at = n->alive ? replica_deadline(n->r) : USEC_NEVER;
            if (at < next) {
                next = at;
                due = n;
            }
        }
        if (next > h->now)
            h->now = next;
        if (!due)
            return;
        tick(h, due->id);
    }
}

void isolate(struct harness *h, member_t id, bool cut) {
    for (size_t i = 0; i < h->count; i++)
        h->cut[i][id - 1] = h->cut[id - 1][i] = cut;
}

/* ---- shorthands ---- */

struct replica_set set_of(size_t count, const member_t *members) {
    struct replica_set set = {.count = (uint32_t)count};
    memcpy(set.members, members, count * sizeof *members);
    return set;
}

struct replica_record first_epoch(struct harness *h, struct replica_set set) {
    struct replica_record record = {.version = 1, .epoch = 1, .leader = set.members[0], .current = set};
    for (size_t i = 0; i < h->count; i++)
        tell_record(h, h->nodes[i].id, &record);
    settle(h);
    return record;
}

bool longer(const struct replica_sealed *a, const struct replica_sealed *b) {
    return a->last_epoch != b->last_epoch ? a->last_epoch > b->last_epoch : a->last_index > b->last_index;
}

bool reseal(struct harness *h, struct replica_record *record, struct replica_set among) {
    uint64_t epoch = record->epoch + 1;
    for (uint32_t i = 0; i < among.count; i++)
        if (node_of(h, among.members[i])->alive && replica_promise(node_of(h, among.members[i])->r) >= epoch)
            epoch = replica_promise(node_of(h, among.members[i])->r) + 1;
    h->sealed_count = 0;
    for (uint32_t i = 0; i < among.count; i++)
        if (node_of(h, among.members[i])->alive)
            seal(h, among.members[i], epoch, 0);
    settle(h);
    const struct replica_sealed *best = NULL;
    for (size_t i = 0; i < h->sealed_count; i++)
        if (h->sealed[i].granted && (!best || longer(&h->sealed[i], best)))
            best = &h->sealed[i];
    if (!best)
        return false;
    record->version++;
    record->epoch = epoch;
    record->leader = best->from;
    record->last_epoch = best->last_epoch;
    record->last_index = best->last_index;
    for (size_t i = 0; i < h->count; i++)
        if (h->nodes[i].alive && !h->nodes[i].deaf)
            tell_record(h, h->nodes[i].id, record);
    settle(h);
    return true;
}

uint64_t last_of(struct harness *h, member_t id) {
    return replica_last_index(node_of(h, id)->r);
}

uint64_t commit_of(struct harness *h, member_t id) {
    return replica_commit(node_of(h, id)->r);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata group's copy on this node: journal, replica, election, metadata
 * and, while it leads, control. group_run() carries out the effects of all of
 * them until they are quiet.
 *
 * Votes: a PROMISE names to whom it was given; that is kept in a log of its own
 * in the same journal (VOTES_PARTITION), an entry a vote, newest counts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/body.h"
#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"

enum { DAMAGE_START_SHIFT = 24, FETCH_ENTRIES_MAX = 1024, CANDIDATES_MAX = CLUSTER_NODES_MAX };
#define FETCH_BYTES_MAX ((size_t)1 << 20)

/* ---- journal ---- */

static void on_synced_thread(void *ctx, uint64_t ticket) {
    struct controller *c = ctx;
    __atomic_store_n(&c->synced_ticket, ticket, __ATOMIC_RELEASE);
    if (!__atomic_exchange_n(&c->synced_posted, 1, __ATOMIC_ACQ_REL))
        loop_post(c->loop, &c->synced_event);
}

static void on_synced(struct loop_event *event) {
    struct controller *c = (struct controller *)((char *)event - offsetof(struct controller, synced_event));
    __atomic_store_n(&c->synced_posted, 0, __ATOMIC_RELEASE);
    uint64_t ticket = __atomic_load_n(&c->synced_ticket, __ATOMIC_ACQUIRE);
    journal_completed(c->journal, ticket);
    while (c->flushes && c->flushes->ticket <= ticket) {
        struct group_flush *f = c->flushes;
        c->flushes = f->next;
        if (!c->flushes)
            c->flushes_last = NULL;
        replica_stored(c->replica, f->mark, true, loop_now(c->loop), &c->replica_effects);
        if (f->checkpoint)
            replica_checkpointed(c->replica, f->checkpoint);
        free(f);
        counters_add(COUNTER_journal_syncs, 1);
    }
    group_run(c);
}

static void flush(struct controller *c) {
    uint64_t mark = replica_mark(c->replica);
    uint64_t ticket = journal_flush(c->journal);
    if (mark == c->flushed_mark && !c->checkpoint_pending)
        return;
    struct group_flush *f = xcalloc(1, sizeof *f);
    *f = (struct group_flush){.ticket = ticket, .mark = mark, .checkpoint = c->checkpoint_pending};
    c->flushed_mark = mark;
    c->checkpoint_pending = 0;
    if (c->flushes_last)
        c->flushes_last->next = f;
    else
        c->flushes = f;
    c->flushes_last = f;
}

static void write_vote(struct controller *c, uint64_t epoch, member_t candidate) {
    journal_write_promise(c->journal, GROUP_PARTITION, epoch);
    struct encoder e = {0};
    encode_u64(&e, epoch);
    encode_u64(&e, candidate);
    struct body *body = encoder_body(&e);
    journal_write_entry(c->journal, VOTES_PARTITION, 1, ++c->votes_index, ENTRY_COMMAND, body);
    body_drop(body);
}

static bool parse_vote(struct body *body, uint64_t *epoch, member_t *candidate) {
    struct decoder d = decoder_of(body->data, body->size);
    *epoch = decode_u64(&d);
    *candidate = decode_u64(&d);
    return !d.failed;
}

/* The newest vote: the last entry of its log, or what its checkpoint says. */
static void read_vote(struct controller *c, struct replica_state *state) {
    struct journal_partition jp;
    struct journal_location at;
    struct body *body = NULL;
    uint64_t epoch;
    member_t candidate;
    if (!journal_get(c->journal, VOTES_PARTITION, &jp))
        return;
    c->votes_index = jp.last_index;
    if (jp.last_index > jp.base_index) {
        if (journal_locate(c->journal, VOTES_PARTITION, jp.last_index, &at) == ERR_OK)
            journal_read(c->journal, &at, &body);
    } else if (jp.checkpointed) {
        journal_read_checkpoint(c->journal, VOTES_PARTITION, &body);
    }
    /* a promise above the newest vote was given to nobody: the epoch of an append */
    if (body && parse_vote(body, &epoch, &candidate) && epoch >= state->promise) {
        state->promise = epoch;
        state->candidate = candidate;
    }
    body_drop(body);
}

static void sum_up_votes(struct controller *c) {
    struct encoder e = {0};
    struct replica_state state = {0};
    read_vote(c, &state);
    encode_u64(&e, state.promise);
    encode_u64(&e, state.candidate);
    struct body *body = encoder_body(&e);
    journal_write_checkpoint(
        c->journal, VOTES_PARTITION,
        &(struct journal_checkpoint){.base_index = c->votes_index, .base_epoch = 1, .body = body});
    body_drop(body);
}

static void checkpoint(struct controller *c) {
    uint64_t base = replica_applied(c->replica);
    if (base <= c->checkpoint_base)
        return;
    struct encoder e = {0};
    replica_encode(c->replica, base, &e);
    metadata_encode(c->metadata, &e);
    struct body *body = encoder_body(&e);
    enum err err = journal_write_checkpoint(
        c->journal, GROUP_PARTITION,
        &(struct journal_checkpoint){
            .base_index = base, .base_epoch = replica_epoch_at(c->replica, base), .body = body});
    body_drop(body);
    if (err == ERR_OK)
        c->checkpoint_base = c->checkpoint_pending = base;
    else
        log_error("metadata: checkpoint at %" PRIu64 ": %s", base, err_text(err));
}

static void needs_checkpoint(void *ctx, uint64_t partition) {
    struct controller *c = ctx;
    uint64_t before = c->checkpoint_base;
    if (partition == VOTES_PARTITION)
        sum_up_votes(c);
    else if (partition == GROUP_PARTITION)
        checkpoint(c);
    if (partition == GROUP_PARTITION && c->checkpoint_base == before)
        journal_carry(c->journal, partition);
}

static void reclaim(struct controller *c) {
    enum journal_progress progress = journal_reclaim(c->journal);
    if (progress == JOURNAL_WAITS)
        journal_needs_checkpoint(c->journal, needs_checkpoint, c);
}

static struct body *read_entry(struct controller *c, uint64_t index, struct entry *out) {
    struct journal_location at;
    struct body *body = NULL;
    if (journal_locate(c->journal, GROUP_PARTITION, index, &at) != ERR_OK ||
        journal_read(c->journal, &at, &body) != ERR_OK)
        return NULL;
    *out = (struct entry){.index = index, .epoch = at.epoch, .type = at.type, .body = body};
    return body;
}

/* Metadata is small: read on the loop. */
static void fetch(struct controller *c, uint64_t from, uint64_t to, member_t reader) {
    struct entry *entries = xcalloc(FETCH_ENTRIES_MAX, sizeof *entries);
    size_t count = 0, bytes = 0;
    while (from + count <= to && count < FETCH_ENTRIES_MAX && bytes < FETCH_BYTES_MAX) {
        struct body *body = read_entry(c, from + count, &entries[count]);
        if (!body)
            break;
        bytes += body->size;
        count++;
    }
    struct journal_location at;
    bool unreadable = count == 0 && journal_locate(c->journal, GROUP_PARTITION, from, &at) == ERR_OK &&
                      (body_drop(at.in_flight), true);
    replica_fetched(c->replica, reader, from, entries, count, unreadable, loop_now(c->loop),
                    &c->replica_effects);
    for (size_t i = 0; i < count; i++)
        body_drop(entries[i].body);
    free(entries);
}

/* ---- the state machine ---- */

static void answer_proposal(struct controller *c, uint64_t index, const struct metadata_result *result) {
    while (c->proposals && c->proposals->index <= index) {
        struct control_proposal *p = c->proposals;
        c->proposals = p->next;
        if (!c->proposals)
            c->proposals_last = NULL;
        if (p->index == index)
            control_proposed(c->control, p->tag, result->code, loop_now(c->loop), &c->control_effects);
        free(p);
    }
    requests_applied(c, index, result);
}

static void changed(struct controller *c) {
    struct metadata_changes *m = &c->changes;
    if (m->everything || m->nodes_count) {
        peers_refresh(c);
        shards_refresh(c);
        group_learners(c);
    }
    shards_changed(c, m);
    status_map_changed(c, m);
    if (c->leads)
        control_applied(c->control, m, loop_now(c->loop), &c->control_effects);
    metadata_changes_clear(m);
}

static void apply(struct controller *c, const struct entry *entry) {
    struct metadata_result result = {0};
    c->empty = false;
    if (entry->type == ENTRY_COMMAND) {
        metadata_apply(c->metadata, entry->index, entry->body->data, entry->body->size, &result, &c->changes);
        counters_add(COUNTER_metadata_commits, 1);
    } else {
        metadata_skip(c->metadata, entry->index);
    }
    changed(c);
    answer_proposal(c, entry->index, &result);
}

static void give_snapshot(struct controller *c, member_t peer) {
    struct encoder e = {0};
    metadata_encode(c->metadata, &e);
    struct body *state = encoder_body(&e);
    replica_snapshot(c->replica, peer, replica_applied(c->replica), state, NULL, 0, loop_now(c->loop),
                     &c->replica_effects);
    body_drop(state);
}

static void install(struct controller *c, const struct replica_effect *e) {
    enum err err = journal_write_checkpoint(c->journal, GROUP_PARTITION,
                                            &(struct journal_checkpoint){.base_index = e->install.base_index,
                                                                         .base_epoch = e->install.base_epoch,
                                                                         .body = e->install.state,
                                                                         .install = true});
    CHECK(err == ERR_OK);
}

static void installed(struct controller *c, const struct replica_effect *e) {
    struct decoder d = decoder_of(e->install.state->data, e->install.state->size);
    struct replica_state head;
    CHECK(replica_decode(&d, &head));
    free((void *)(uintptr_t)head.epochs);
    CHECK(metadata_restore(c->metadata, &d, &c->changes));
    c->checkpoint_base = e->install.base_index;
    c->empty = false;
    changed(c);
}

/* ---- leading ---- */

static void start_leading(struct controller *c, uint64_t epoch) {
    c->leads = true;
    c->formed_proposed = false;
    log_info("leads the metadata group, epoch %" PRIu64, epoch);
    shards_lead(c);
    control_start(c->control, epoch, loop_now(c->loop), &c->control_effects);
    group_learners(c);
    requests_go(c);
    forming_check(c);
}

static void stop_leading(struct controller *c) {
    if (c->leads)
        log_info("leads the metadata group no more");
    c->leads = false;
    control_stop(c->control);
    while (c->proposals) {
        struct control_proposal *p = c->proposals;
        c->proposals = p->next;
        free(p);
    }
    c->proposals_last = NULL;
    requests_lost(c);
}

/* All other controllers are fed; who of them votes, CONFIG entries say. */
void group_learners(struct controller *c) {
    member_t members[CLUSTER_NODES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < metadata_nodes_count(c->metadata) && count < CLUSTER_NODES_MAX; i++) {
        const struct metadata_node *n = metadata_node_at(c->metadata, i);
        if (n->state != NODE_LEFT && n->info.controller != c->self)
            members[count++] = n->info.controller;
    }
    if (replica_leading(c->replica))
        replica_set_learners(c->replica, members, count, &c->replica_effects);
}

/* One voter at a time, once the one before is settled. */
void group_voters(struct controller *c) {
    struct election_candidate all[CANDIDATES_MAX];
    struct replica_set next;
    usec_t now = loop_now(c->loop);
    size_t count = 0;
    if (!c->leads || replica_commit(c->replica) < replica_last_index(c->replica) ||
        !metadata_cluster_id(c->metadata))
        return;
    for (size_t i = 0; i < metadata_nodes_count(c->metadata) && count < CANDIDATES_MAX; i++) {
        const struct metadata_node *n = metadata_node_at(c->metadata, i);
        usec_t since = detector_dead_since(c->detector, n->id);
        bool own = n->info.controller == c->self;
        bool dead = !own && since != USEC_NEVER;
        all[count++] = (struct election_candidate){
            .member = n->info.controller,
            .alive = n->state != NODE_LEFT && (own || detector_node(c->detector, n->id) == DETECTOR_UP),
            .replace = n->state == NODE_LEFT || (dead && now - since >= c->config->replace_after)};
    }
    if (!election_next_voters(replica_voters(c->replica), all, count, &next))
        return;
    struct body *body = replica_config_encode(&next);
    uint64_t index;
    if (replica_propose(c->replica, ENTRY_CONFIG, body, now, &index, &c->replica_effects) == ERR_OK)
        log_info("metadata group: %u voters from entry %" PRIu64 " on", next.count, index);
    body_drop(body);
}

enum err group_propose(struct controller *c, struct body *command, uint64_t *index) {
    if (!c->leads || !election_proposable(c->election))
        return ERR_NOT_LEADER;
    return replica_propose(c->replica, ENTRY_COMMAND, command, loop_now(c->loop), index, &c->replica_effects);
}

static void propose_for_control(struct controller *c, const struct control_effect *e) {
    uint64_t index;
    enum err err = group_propose(c, e->propose.command, &index);
    if (err != ERR_OK) {
        control_proposed(c->control, e->propose.tag, err, loop_now(c->loop), &c->control_effects);
        return;
    }
    struct control_proposal *p = xcalloc(1, sizeof *p);
    *p = (struct control_proposal){.index = index, .tag = e->propose.tag};
    if (c->proposals_last)
        c->proposals_last->next = p;
    else
        c->proposals = p;
    c->proposals_last = p;
}

/* ---- effects ---- */

static void send_append(struct controller *c, const struct replica_append *a) {
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

static void send_appended(struct controller *c, const struct replica_appended *a) {
    Mr__Appended m, *list[] = {&m};
    Mr__Appendeds frame = MR__APPENDEDS__INIT;
    replication_appended(GROUP_PARTITION, a, &m);
    frame.appendeds = list;
    frame.n_appendeds = 1;
    peers_send(c, a->to, FRAME_APPENDEDS, &frame.base, NULL, 0);
}

static void send_piece(struct controller *c, const struct replica_piece *a) {
    Mr__Piece m;
    struct body *body = replication_piece_body(a);
    replication_piece(GROUP_PARTITION, a, &m);
    peers_send(c, a->to, FRAME_PIECE, &m.base, &body, body ? 1 : 0);
}

static void send_pieced(struct controller *c, const struct replica_pieced *a) {
    Mr__Pieced m;
    replication_pieced(GROUP_PARTITION, a, &m);
    peers_send(c, a->to, FRAME_PIECED, &m.base, NULL, 0);
}

static void on_write_effect(struct controller *c, const struct replica_effect *e) {
    struct journal *j = c->journal;
    switch (e->type) {
    case REPLICA_WRITE:
        journal_write_entry(j, GROUP_PARTITION, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        break;
    case REPLICA_TRUNCATE:
        journal_write_truncate(j, GROUP_PARTITION, e->index);
        break;
    case REPLICA_PROMISE:
        write_vote(c, e->promise.epoch, e->promise.candidate);
        break;
    case REPLICA_MARK_DAMAGED:
        journal_write_damage(j, GROUP_PARTITION,
                             e->damage.everything ? 1 : replica_last_index(c->replica) + 1);
        break;
    case REPLICA_MARK_WHOLE:
        journal_write_mended(j, GROUP_PARTITION);
        break;
    case REPLICA_STAGE:
        journal_write_staged(j, GROUP_PARTITION, e->entry.epoch, e->entry.index, e->entry.type,
                             e->entry.body);
        break;
    case REPLICA_UNSTAGE:
        journal_forget_staged(j, GROUP_PARTITION);
        break;
    default:
        break;
    }
}

static void on_leading_effect(struct controller *c, const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_LEADING:
        PEERS_EACH(c, p)
        if (p->member && !p->link)
            replica_peer_down(c->replica, p->member, loop_now(c->loop), &c->replica_effects);
        break;
    case REPLICA_ACTIVE:
        start_leading(c, e->epoch);
        break;
    case REPLICA_STOPPED:
        stop_leading(c);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        election_superseded(c->election, e->promise.epoch, loop_now(c->loop), &c->replica_effects,
                            &c->election_effects);
        break;
    case REPLICA_REPORT_DAMAGED:
        log_error("metadata: this node's copy is damaged; it is mended from the others");
        break;
    case REPLICA_REPORT_MENDED:
        log_info("metadata: this node's copy is whole again");
        break;
    default:
        break; /* REPORT_ACTIVATED, CANNOT, CAUGHT_UP: an election needs none of them */
    }
}

static void on_replica_effect(struct controller *c, const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_APPLY:
        apply(c, &e->entry);
        break;
    case REPLICA_FETCH:
        fetch(c, e->fetch.from, e->fetch.to, e->fetch.reader);
        break;
    case REPLICA_SNAPSHOT:
        give_snapshot(c, e->peer);
        break;
    case REPLICA_INSTALL:
        install(c, e);
        break;
    case REPLICA_INSTALLED:
        installed(c, e);
        break;
    case REPLICA_SEND_APPEND:
        send_append(c, &e->append);
        break;
    case REPLICA_SEND_APPENDED:
        send_appended(c, &e->appended);
        break;
    case REPLICA_SEND_SEALED:
        election_sealed(c->election, &e->sealed, loop_now(c->loop), &c->replica_effects,
                        &c->election_effects);
        break;
    case REPLICA_SEND_PIECE:
        send_piece(c, &e->piece);
        break;
    case REPLICA_SEND_PIECED:
        send_pieced(c, &e->pieced);
        break;
    default:
        on_write_effect(c, e);
        on_leading_effect(c, e);
    }
}

#define ASK(kind, KIND, lower)                                                                               \
    static void send_##lower(struct controller *c, const struct election_ask *a) {                           \
        Mr__##kind m = MR__##KIND##__INIT;                                                                   \
        m.epoch = a->epoch;                                                                                  \
        m.from = a->from;                                                                                    \
        m.to = a->to;                                                                                        \
        m.last_epoch = a->last_epoch;                                                                        \
        m.last_index = a->last_index;                                                                        \
        peers_send(c, a->to, FRAME_##KIND, &m.base, NULL, 0);                                                \
    }
#define ANSWER(kind, KIND, lower)                                                                            \
    static void send_##lower(struct controller *c, const struct election_answer *a) {                        \
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

static void send_vote(struct controller *c, const struct election_ask *a) {
    Mr__Vote m = MR__VOTE__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    m.last_epoch = a->last_epoch;
    m.last_index = a->last_index;
    m.transfer = a->transfer;
    peers_send(c, a->to, FRAME_VOTE, &m.base, NULL, 0);
}

static void send_timeout_now(struct controller *c, const struct election_ask *a) {
    Mr__TimeoutNow m = MR__TIMEOUT_NOW__INIT;
    m.epoch = a->epoch;
    m.from = a->from;
    m.to = a->to;
    peers_send(c, a->to, FRAME_TIMEOUT_NOW, &m.base, NULL, 0);
}

static void on_election_effect(struct controller *c, const struct election_effect *e) {
    switch (e->type) {
    case ELECTION_SEND_PRE_VOTE:
        send_pre_vote(c, &e->ask);
        break;
    case ELECTION_SEND_PRE_VOTED:
        send_pre_voted(c, &e->answer);
        break;
    case ELECTION_SEND_VOTE:
        send_vote(c, &e->ask);
        break;
    case ELECTION_SEND_VOTED:
        send_voted(c, &e->answer);
        break;
    case ELECTION_SEND_TIMEOUT_NOW:
        send_timeout_now(c, &e->ask);
        break;
    case ELECTION_STANDS:
        counters_add(COUNTER_elections, 1);
        log_info("stands for epoch %" PRIu64 " of the metadata group: %s", e->stands.epoch, e->stands.why);
        break;
    case ELECTION_STEPS_DOWN:
        log_info("steps down from epoch %" PRIu64 " of the metadata group: %s", e->stands.epoch,
                 e->stands.why);
    }
}

static void on_control_effect(struct controller *c, const struct control_effect *e) {
    switch (e->type) {
    case CONTROL_SEND_SEAL:
        shards_seal(c, e->member, e->partition, &e->seal);
        break;
    case CONTROL_SEND_RECORD:
        shards_record(c, e->member, e->partition);
        break;
    case CONTROL_SEND_HOLD:
        shards_hold(c, e->member, e->partition, e->hold.target, e->hold.at_most);
        break;
    case CONTROL_SEND_DROP:
        shards_drop(c, e->member, e->partition, e->drop.epoch, e->drop.removed);
        break;
    case CONTROL_PROPOSE:
        propose_for_control(c, e);
        break;
    case CONTROL_SAY:
        log_info("%s", e->text);
    }
}

/* Each list is taken away whole before it is walked: carrying out adds new ones. */
#define RUN(kind)                                                                                            \
    static bool run_##kind(struct controller *c) {                                                           \
        struct kind##_effects fx = c->kind##_effects;                                                        \
        c->kind##_effects = (struct kind##_effects){0};                                                      \
        for (size_t i = 0; i < fx.count; i++)                                                                \
            on_##kind##_effect(c, &fx.items[i]);                                                             \
        bool any = fx.count > 0;                                                                             \
        kind##_effects_clear(&fx);                                                                           \
        kind##_effects_free(&fx);                                                                            \
        return any;                                                                                          \
    }
RUN(replica)
RUN(election)
RUN(control)

void group_run(struct controller *c) {
    if (c->running)
        return;
    c->running = true;
    while (run_replica(c) | run_election(c) | run_control(c))
        ;
    c->running = false;
}

void group_turn(struct controller *c) {
    usec_t now = loop_now(c->loop);
    if (c->leads)
        control_pump(c->control, now, &c->control_effects);
    group_run(c);
    group_voters(c);
    if (replica_dirty(c->replica))
        replica_pump(c->replica, now, &c->replica_effects);
    group_run(c);
    if (replica_applied(c->replica) >= c->checkpoint_base + CONTROLLER_CHECKPOINT_ENTRIES)
        checkpoint(c);
    reclaim(c);
    flush(c);
}

/* What the detector found out, in order, to whom it concerns. */
void group_detected(struct controller *c) {
    struct detector_changes found = c->detected;
    c->detected = (struct detector_changes){0};
    for (size_t i = 0; i < found.count; i++) {
        const struct detector_change *d = &found.items[i];
        const struct metadata_node *n = metadata_node(c->metadata, d->node);
        if (d->is_node) {
            c->map_changed = true;
            log_info("%s %s -> %s, silent for %lld ms", n ? n->info.name : "?", detector_node_word(d->from),
                     detector_node_word(d->to), (long long)(d->silent / USEC_MS));
        } else if (d->index != DETECTOR_CONTROLLER) {
            log_info("%s shard/%d %s -> %s", n ? n->info.name : "?", d->index, detector_health_name(d->from),
                     detector_health_name(d->to));
            c->map_changed = true;
            if (c->leads)
                control_member(c->control, d->member, d->to, loop_now(c->loop), &c->control_effects);
        }
    }
    detector_changes_clear(&found);
    detector_changes_free(&found);
    group_run(c);
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

/* ---- opening ---- */

static bool founder(const struct controller *c) {
    const char *lowest = c->config->initial_count ? c->config->initial[0].name : "";
    for (size_t i = 1; i < c->config->initial_count; i++)
        if (strcmp(c->config->initial[i].name, lowest) < 0)
            lowest = c->config->initial[i].name;
    return strcmp(lowest, c->config->node) == 0;
}

static struct entry *log_of(struct controller *c, const struct journal_partition *jp, size_t *count) {
    uint64_t last = jp->damaged && jp->damaged_from <= jp->last_index ? jp->damaged_from - 1 : jp->last_index;
    struct entry *entries = xcalloc(last > jp->base_index ? last - jp->base_index : 0, sizeof *entries);
    *count = 0;
    for (uint64_t index = jp->base_index + 1; index <= last; index++) {
        if (!read_entry(c, index, &entries[*count]))
            break;
        ++*count;
    }
    return entries;
}

static void make_replica(struct controller *c, bool found) {
    struct journal_partition jp = {.id = GROUP_PARTITION};
    struct replica_state state = {0};
    struct body *body = NULL;
    journal_get(c->journal, GROUP_PARTITION, &jp);
    bool all_lost = jp.damaged && jp.damaged_from <= jp.base_index;
    if (jp.checkpointed && !all_lost &&
        journal_read_checkpoint(c->journal, GROUP_PARTITION, &body) == ERR_OK) {
        struct decoder d = decoder_of(body->data, body->size);
        all_lost = !replica_decode(&d, &state) || !metadata_restore(c->metadata, &d, &c->changes);
    } else if (jp.checkpointed) {
        all_lost = true;
    }
    if (all_lost) {
        state = (struct replica_state){0};
        jp.damaged = true;
        jp.base_index = jp.base_epoch = jp.last_index = 0;
    }
    state.base_index = c->checkpoint_base = jp.base_index;
    state.base_epoch = jp.base_epoch;
    state.damaged = jp.damaged;
    state.damage = c->starts << DAMAGE_START_SHIFT;
    if (jp.promise > state.promise)
        state.promise = jp.promise, state.candidate = 0;
    read_vote(c, &state);
    struct entry *entries = log_of(c, &jp, &state.entries_count);
    state.entries = entries;
    /* a founder that had begun (or begins now) and has no voters in its log yet
     * is its own only voter: see forming.c */
    if (state.config.count == 0 && (found || (founder(c) && state.entries_count > 0)))
        state.config = (struct replica_set){.count = 1, .members = {c->self}};
    c->replica = replica_new(
        &(struct replica_options){.self = c->self, .synced = true, .config_in_log = true}, &state);
    c->flushed_mark = replica_mark(c->replica);
    for (size_t i = 0; i < state.entries_count; i++)
        body_drop(entries[i].body);
    free(entries);
    free((void *)(uintptr_t)state.epochs);
    body_drop(body);
}

void group_found(struct controller *c) {
    CHECK(replica_last_index(c->replica) == 0);
    election_free(c->election);
    replica_free(c->replica);
    make_replica(c, true);
    c->empty = false;
    c->election = election_new(c->replica, &c->rng, 0, loop_now(c->loop));
    log_info("every node of `initial` answers with an empty folder: forming cluster %s", c->config->cluster);
    election_stand(c->election, loop_now(c->loop), &c->replica_effects, &c->election_effects);
    group_run(c);
}

bool group_open(struct controller *c, struct err_detail *detail) {
    char folder[CONFIG_PATH_BYTES_MAX + 32];
    uint64_t random;
    snprintf(folder, sizeof folder, "%s/controller", c->config->data);
    CHECK(getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random);
    c->synced_event.fire = on_synced;
    struct journal_recovered recovered;
    enum err err = journal_open(&(struct journal_options){.folder = folder,
                                                          .segment_bytes = 16 << 20,
                                                          .batch_type = UINT8_MAX,
                                                          .random = random | 1,
                                                          .completed = on_synced_thread,
                                                          .ctx = c},
                                &c->journal, &recovered, detail);
    if (err != ERR_OK)
        return false;
    c->self = recovered.identity;
    c->starts = recovered.start;
    usec_t now = loop_now(c->loop);
    c->metadata = metadata_new();
    c->detector = detector_new(c->config->timeout, c->config->heartbeat, now);
    c->control =
        control_new(&(struct control_options){.rebuild_grace = c->config->rebuild_grace, .seed = random},
                    c->metadata, c->detector);
    make_replica(c, false);
    c->empty = replica_last_index(c->replica) == 0 && replica_promise(c->replica) == 0;
    c->election = election_new(c->replica, &c->rng, 0, now);
    metadata_changes_clear(&c->changes);
    log_info("metadata: %zu nodes, %zu mailboxes, %zu partitions; log ends at %" PRIu64 "%s",
             metadata_nodes_count(c->metadata), metadata_mailboxes_count(c->metadata),
             metadata_partitions_count(c->metadata), replica_last_index(c->replica),
             c->empty ? ", empty" : "");
    return true;
}

void group_close(struct controller *c) {
    stop_leading(c);
    journal_flush(c->journal);
    journal_close(c->journal);
    while (c->flushes) {
        struct group_flush *f = c->flushes;
        c->flushes = f->next;
        free(f);
    }
    election_free(c->election);
    replica_free(c->replica);
    control_free(c->control);
    detector_free(c->detector);
    metadata_free(c->metadata);
    replica_effects_free(&c->replica_effects);
    election_effects_free(&c->election_effects);
    control_effects_free(&c->control_effects);
    metadata_changes_free(&c->changes);
    detector_changes_free(&c->detected);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata group's copy on this node: journal, replica, election, metadata
 * and, while it leads, control. group_run() carries out the effects of all of
 * them until they are quiet.
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

enum { CANDIDATES_MAX = CLUSTER_NODES_MAX };

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

void group_stop_leading(struct controller *c) {
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
        if (n->state == NODE_LEFT) /* no candidate: its vote is taken out, the wanted number sinks */
            continue;
        all[count] =
            (struct election_candidate){.member = n->info.controller,
                                        .alive = own || detector_node(c->detector, n->id) == DETECTOR_UP,
                                        .replace = dead && now - since >= c->config->replace_after};
        if (own && count > 0) { /* the last of the list is taken out first: never the leader */
            struct election_candidate first = all[0];
            all[0] = all[count];
            all[count] = first;
        }
        count++;
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
        group_write_vote(c, e->promise.epoch, e->promise.candidate);
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
        group_stop_leading(c);
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
        group_fetch(c, e->fetch.from, e->fetch.to, e->fetch.reader);
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
        group_send_append(c, &e->append);
        break;
    case REPLICA_SEND_APPENDED:
        group_send_appended(c, &e->appended);
        break;
    case REPLICA_SEND_SEALED:
        election_sealed(c->election, &e->sealed, loop_now(c->loop), &c->replica_effects,
                        &c->election_effects);
        break;
    case REPLICA_SEND_PIECE:
        group_send_piece(c, &e->piece);
        break;
    case REPLICA_SEND_PIECED:
        group_send_pieced(c, &e->pieced);
        break;
    default:
        on_write_effect(c, e);
        on_leading_effect(c, e);
    }
}

static void on_election_effect(struct controller *c, const struct election_effect *e) {
    switch (e->type) {
    case ELECTION_SEND_PRE_VOTE:
        group_send_pre_vote(c, &e->ask);
        break;
    case ELECTION_SEND_PRE_VOTED:
        group_send_pre_voted(c, &e->answer);
        break;
    case ELECTION_SEND_VOTE:
        group_send_vote(c, &e->ask);
        break;
    case ELECTION_SEND_VOTED:
        group_send_voted(c, &e->answer);
        break;
    case ELECTION_SEND_TIMEOUT_NOW:
        group_send_timeout_now(c, &e->ask);
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
    bool any = true;
    while (any) {
        any = run_replica(c);
        any = run_election(c) || any;
        any = run_control(c) || any;
    }
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
        group_checkpoint(c);
    group_reclaim(c);
    group_flush(c);
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

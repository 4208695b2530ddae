// SPDX-License-Identifier: Apache-2.0
/*
 * The metadata group's copy on this node: journal, replica, election, metadata
 * and, while it leads, control. group_run() carries out the effects of all of
 * them until they are quiet.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "controller/core_private.h"

enum { CANDIDATES_MAX = CLUSTER_NODES_MAX };

/* ---- the state machine ---- */

static void answer_proposal(struct core *c, uint64_t index, const struct metadata_result *result) {
    while (c->proposals && c->proposals->index <= index) {
        struct control_proposal *p = c->proposals;
        c->proposals = p->next;
        if (!c->proposals)
            c->proposals_last = NULL;
        if (p->index == index)
            control_proposed(c->control, p->tag, result->code, core_now(c), &c->control_effects);
        free(p);
    }
    requests_applied(c, index, result);
}

/* All other controllers are fed; who of them votes, CONFIG entries say. */
static void set_learners(struct core *c) {
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

static void changed(struct core *c) {
    struct metadata_changes *m = &c->changes;
    if (m->everything || m->nodes_count) {
        controllers_refresh(c);
        shards_refresh(c);
        set_learners(c);
    }
    shards_changed(c, m);
    c->host->changed(c->host_context, m);
    if (c->leads)
        control_applied(c->control, m, core_now(c), &c->control_effects);
    metadata_changes_clear(m);
}

static void apply(struct core *c, const struct entry *entry) {
    struct metadata_result result = {0};
    c->empty = false;
    if (entry->type == ENTRY_COMMAND)
        metadata_apply(c->metadata, entry->index, entry->body->data, entry->body->size, &result, &c->changes);
    else
        metadata_skip(c->metadata, entry->index);
    changed(c);
    answer_proposal(c, entry->index, &result);
}

static void give_snapshot(struct core *c, member_t peer) {
    struct encoder e = {0};
    metadata_encode(c->metadata, &e);
    struct body *state = encoder_body(&e);
    replica_snapshot(c->replica, peer, replica_applied(c->replica), state, NULL, 0, core_now(c),
                     &c->replica_effects);
    body_drop(state);
}

static void install(struct core *c, const struct replica_effect *e) {
    enum err err = journal_write_checkpoint(c->journal, GROUP_PARTITION,
                                            &(struct journal_checkpoint){.base_index = e->install.base_index,
                                                                         .base_epoch = e->install.base_epoch,
                                                                         .body = e->install.state,
                                                                         .install = true});
    CHECK(err == ERR_OK);
}

static void installed(struct core *c, const struct replica_effect *e) {
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

static void start_leading(struct core *c, uint64_t epoch) {
    c->leads = true;
    c->form_proposed = false;
    core_say(c, LOG_INFO, "leads the metadata group, epoch %" PRIu64, epoch);
    shards_lead(c);
    control_start(c->control, epoch, core_now(c), &c->control_effects);
    set_learners(c);
    requests_go(c);
    forming_check(c);
}

void group_stop_leading(struct core *c) {
    if (c->leads)
        core_say(c, LOG_INFO, "leads the metadata group no more");
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

/* That very disk answers. Its node may count as alive for other reasons: its shards are
 * up, or its controller is back with another disk, which is not yet committed. Who has
 * left is judged by nobody any more, and votes until it is taken out. */
static bool voter_alive(struct core *c, const struct metadata_node *n) {
    const struct peer *p = controllers_named(c, n->info.name);
    if (n->info.controller == c->self)
        return true;
    return p && p->up && p->member == n->info.controller &&
           (n->state == NODE_LEFT ||
            detector_process(c->detector, n->id, DETECTOR_CONTROLLER) == DETECTOR_UP);
}

/* One voter at a time, once the one before is settled. */
static void change_voters(struct core *c) {
    struct election_candidate all[CANDIDATES_MAX];
    struct replica_set next;
    usec_t now = core_now(c);
    size_t count = 0;
    if (!c->leads || replica_commit(c->replica) < replica_last_index(c->replica) ||
        !metadata_cluster_id(c->metadata))
        return;
    for (size_t i = 0; i < metadata_nodes_count(c->metadata) && count < CANDIDATES_MAX; i++) {
        const struct metadata_node *n = metadata_node_at(c->metadata, i);
        usec_t since = detector_dead_since(c->detector, n->id);
        bool own = n->info.controller == c->self;
        bool dead = !own && since != USEC_NEVER;
        all[count] = (struct election_candidate){.member = n->info.controller,
                                                 .alive = voter_alive(c, n),
                                                 .replace = dead && now - since >= c->config->replace_after,
                                                 .left = n->state == NODE_LEFT};
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
        core_say(c, LOG_INFO, "metadata group: %u voters from entry %" PRIu64 " on", next.count, index);
    body_drop(body);
}

enum err group_propose(struct core *c, struct body *command, uint64_t *index) {
    if (!c->leads || !election_proposable(c->election))
        return ERR_NOT_LEADER;
    return replica_propose(c->replica, ENTRY_COMMAND, command, core_now(c), index, &c->replica_effects);
}

static void propose_for_control(struct core *c, const struct control_effect *e) {
    uint64_t index;
    enum err err = group_propose(c, e->propose.command, &index);
    if (err != ERR_OK) {
        control_proposed(c->control, e->propose.tag, err, core_now(c), &c->control_effects);
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

static void on_leading_effect(struct core *c, const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_LEADING:
        CORE_PEERS_EACH(c, p)
        if (p->member && !p->up)
            replica_peer_down(c->replica, p->member, core_now(c), &c->replica_effects);
        break;
    case REPLICA_ACTIVE:
        start_leading(c, e->epoch);
        break;
    case REPLICA_STOPPED:
        group_stop_leading(c);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        election_superseded(c->election, e->promise.epoch, core_now(c), &c->replica_effects,
                            &c->election_effects);
        break;
    case REPLICA_REPORT_DAMAGED:
        core_say(c, LOG_ERROR, "metadata: this node's copy is damaged; it is mended from the others");
        break;
    case REPLICA_REPORT_MENDED:
        core_say(c, LOG_INFO, "metadata: this node's copy is whole again");
        break;
    default:
        break; /* REPORT_ACTIVATED, CANNOT, CAUGHT_UP: an election needs none of them */
    }
}

static void on_replica_effect(struct core *c, const struct replica_effect *e) {
    c->host->replica_effect(c->host_context, e);
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
    case REPLICA_SEND_SEALED:
        election_sealed(c->election, &e->sealed, core_now(c), &c->replica_effects, &c->election_effects);
        break;
    case REPLICA_SEND_APPEND:
    case REPLICA_SEND_APPENDED:
    case REPLICA_SEND_PIECE:
    case REPLICA_SEND_PIECED:
        break; /* the host has sent them */
    default:
        group_write(c, e);
        on_leading_effect(c, e);
    }
}

static void on_election_effect(struct core *c, const struct election_effect *e) {
    c->host->election_effect(c->host_context, e);
    if (e->type == ELECTION_STANDS)
        core_say(c, LOG_INFO, "stands for epoch %" PRIu64 " of the metadata group: %s", e->stands.epoch,
                 e->stands.why);
    else if (e->type == ELECTION_STEPS_DOWN)
        core_say(c, LOG_INFO, "steps down from epoch %" PRIu64 " of the metadata group: %s", e->stands.epoch,
                 e->stands.why);
}

static void on_control_effect(struct core *c, const struct control_effect *e) {
    switch (e->type) {
    case CONTROL_SEND_SEAL:
    case CONTROL_SEND_RECORD:
    case CONTROL_SEND_HOLD:
    case CONTROL_SEND_DROP:
        shards_order(c, e);
        break;
    case CONTROL_PROPOSE:
        propose_for_control(c, e);
        break;
    case CONTROL_SAY:
        core_say(c, LOG_INFO, "%s", e->text);
    }
}

/* Each list is taken away whole before it is walked: carrying out adds new ones. */
#define RUN(kind)                                                                                            \
    static bool run_##kind(struct core *c) {                                                                 \
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

void group_run(struct core *c) {
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

void group_turn(struct core *c) {
    usec_t now = core_now(c);
    if (c->leads)
        control_pump(c->control, now, &c->control_effects);
    group_run(c);
    change_voters(c);
    if (replica_dirty(c->replica))
        replica_pump(c->replica, now, &c->replica_effects);
    group_run(c);
    if (replica_applied(c->replica) >= c->checkpoint_base + c->checkpoint_entries)
        group_checkpoint(c);
    group_reclaim(c);
    group_flush(c);
}

/* What the detector found out, in order, to whom it concerns. */
void group_detected(struct core *c) {
    struct detector_changes found = c->detected;
    c->detected = (struct detector_changes){0};
    for (size_t i = 0; i < found.count; i++) {
        const struct detector_change *d = &found.items[i];
        const struct metadata_node *n = metadata_node(c->metadata, d->node);
        if (d->is_node || d->index != DETECTOR_CONTROLLER)
            c->host->judged(c->host_context, d);
        if (d->is_node)
            core_say(c, LOG_INFO, "%s %s -> %s, silent for %lld ms", n ? n->info.name : "?",
                     detector_node_word(d->from), detector_node_word(d->to),
                     (long long)(d->silent / USEC_MS));
        else if (d->index != DETECTOR_CONTROLLER)
            core_say(c, LOG_INFO, "%s shard/%d %s -> %s", n ? n->info.name : "?", d->index,
                     detector_health_name(d->from), detector_health_name(d->to));
        if (c->leads && d->is_node)
            control_node_changed(c->control);
        else if (c->leads && d->index != DETECTOR_CONTROLLER)
            control_member(c->control, d->member, d->to, core_now(c), &c->control_effects);
    }
    detector_changes_clear(&found);
    detector_changes_free(&found);
    group_run(c);
}

/* ---- messages of other controllers ---- */

void group_on_append(struct core *c, const struct replica_append *m) {
    if (m->to != c->self)
        return;
    election_heard(c->election, m->from, m->epoch, core_now(c));
    replica_on_append(c->replica, m, core_now(c), &c->replica_effects);
}

void group_on_appended(struct core *c, const struct replica_appended *m) {
    if (m->to != c->self)
        return;
    election_seen(c->election, m->from, m->sent_at);
    replica_on_appended(c->replica, m, core_now(c), &c->replica_effects);
}

void group_on_piece(struct core *c, const struct replica_piece *m) {
    if (m->to != c->self)
        return;
    election_heard(c->election, m->from, m->epoch, core_now(c));
    replica_on_piece(c->replica, m, core_now(c), &c->replica_effects);
}

void group_on_pieced(struct core *c, const struct replica_pieced *m) {
    if (m->to == c->self)
        replica_on_pieced(c->replica, m, core_now(c), &c->replica_effects);
}

void group_on_pre_vote(struct core *c, const struct election_ask *m) {
    election_on_pre_vote(c->election, m, core_now(c), &c->election_effects);
}

void group_on_pre_voted(struct core *c, const struct election_answer *m) {
    election_on_pre_voted(c->election, m, core_now(c), &c->replica_effects, &c->election_effects);
}

void group_on_vote(struct core *c, const struct election_ask *m) {
    election_on_vote(c->election, m, core_now(c), &c->replica_effects, &c->election_effects);
}

void group_on_voted(struct core *c, const struct election_answer *m) {
    election_on_voted(c->election, m, core_now(c), &c->replica_effects, &c->election_effects);
}

void group_on_timeout_now(struct core *c, const struct election_ask *m) {
    election_on_timeout_now(c->election, m, core_now(c), &c->replica_effects, &c->election_effects);
}

void group_peer_up(struct core *c, member_t m) {
    election_back(c->election, m);
    replica_peer_up(c->replica, m, core_now(c), &c->replica_effects);
    group_run(c);
}

void group_peer_down(struct core *c, member_t m, bool gone) {
    replica_peer_down(c->replica, m, core_now(c), &c->replica_effects);
    if (gone)
        election_gone(c->election, m, core_now(c));
    group_run(c);
}

/* ---- life ---- */

void group_found(struct core *c) {
    CHECK(replica_last_index(c->replica) == 0);
    election_free(c->election);
    replica_free(c->replica);
    group_recover(c, true);
    c->empty = false;
    c->election = election_new(c->replica, &c->rng, 0, core_now(c));
    core_say(c, LOG_INFO, "every node of `initial` answers with an empty folder: forming cluster %s",
             c->config->cluster);
    election_stand(c->election, core_now(c), &c->replica_effects, &c->election_effects);
    group_run(c);
}

void group_open(struct core *c, const struct core_options *options) {
    usec_t now = core_now(c);
    c->metadata = metadata_new();
    c->detector = detector_new(c->config->timeout, c->config->heartbeat, now);
    c->control = control_new(&(struct control_options){.rebuild_grace = c->config->rebuild_grace,
                                                       .cool = options->cool,
                                                       .settle = options->settle,
                                                       .seed = options->control_seed},
                             c->metadata, c->detector);
    group_recover(c, false);
    c->empty = replica_last_index(c->replica) == 0 && replica_promise(c->replica) == 0;
    c->election = election_new(c->replica, &c->rng, 0, now);
    metadata_changes_clear(&c->changes);
    core_say(c, LOG_INFO, "metadata: %zu nodes, %zu mailboxes, %zu partitions; log ends at %" PRIu64 "%s",
             metadata_nodes_count(c->metadata), metadata_mailboxes_count(c->metadata),
             metadata_partitions_count(c->metadata), replica_last_index(c->replica),
             c->empty ? ", empty" : "");
}

void group_close(struct core *c) {
    group_stop_leading(c);
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

// SPDX-License-Identifier: Apache-2.0
/* The simulated controller's copy of the metadata group: mirrors
 * broker/controller/group.c. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "controller.h"

static usec_t now_of(struct controller *c) {
    return process_now(c->process);
}
static struct journal *journal_of(struct controller *c) {
    return c->process->journal;
}

/* ---- the state machine ---- */

static void answer_proposal(struct controller *c, uint64_t index, const struct metadata_result *result) {
    while (c->proposals && c->proposals->index <= index) {
        struct control_proposal *p = c->proposals;
        c->proposals = p->next;
        if (!c->proposals)
            c->proposals_last = NULL;
        if (p->index == index)
            control_proposed(c->control, p->tag, result->code, now_of(c), &c->control_effects);
        free(p);
    }
}

static void changed(struct controller *c) {
    struct metadata_changes *m = &c->changes;
    if (m->everything || m->nodes_count) {
        peers_refresh(c);
        group_learners(c);
    }
    shards_changed(c, m);
    if (c->leads)
        control_applied(c->control, m, now_of(c), &c->control_effects);
    metadata_changes_clear(m);
}

static void apply(struct controller *c, const struct entry *entry) {
    struct metadata_result result = {0};
    c->empty = false;
    checker_apply(c->process, GROUP_PARTITION, entry);
    if (entry->type == ENTRY_COMMAND)
        metadata_apply(c->metadata, entry->index, entry->body->data, entry->body->size, &result, &c->changes);
    else
        metadata_skip(c->metadata, entry->index);
    changed(c);
    answer_proposal(c, entry->index, &result);
}

static void give_snapshot(struct controller *c, member_t peer) {
    struct encoder e = {0};
    metadata_encode(c->metadata, &e);
    struct body *state = encoder_body(&e);
    replica_snapshot(c->replica, peer, replica_applied(c->replica), state, NULL, 0, now_of(c),
                     &c->replica_effects);
    body_drop(state);
}

static void install(struct controller *c, const struct replica_effect *e) {
    sim_count(c->process->sim, RARE_checkpoints_installed);
    enum err err = journal_write_checkpoint(journal_of(c), GROUP_PARTITION,
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
    sim_trace(c->process->sim, "%s leads the metadata group, epoch %llu", c->process->name,
              (unsigned long long)epoch);
    checker_active(c->process, GROUP_PARTITION, epoch, replica_applied(c->replica));
    shards_lead(c);
    control_start(c->control, epoch, now_of(c), &c->control_effects);
    group_learners(c);
    forming_check(c);
}

static void stop_leading(struct controller *c) {
    if (c->leads)
        sim_trace(c->process->sim, "%s leads the metadata group no more", c->process->name);
    c->leads = false;
    control_stop(c->control);
    while (c->proposals) {
        struct control_proposal *p = c->proposals;
        c->proposals = p->next;
        free(p);
    }
    c->proposals_last = NULL;
}

void group_learners(struct controller *c) {
    member_t members[CLUSTER_NODES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < metadata_nodes_count(c->metadata) && count < CLUSTER_NODES_MAX; i++) {
        const struct metadata_node *n = metadata_node_at(c->metadata, i);
        if (n->state != NODE_LEFT && n->info.controller != c->process->self)
            members[count++] = n->info.controller;
    }
    if (replica_leading(c->replica))
        replica_set_learners(c->replica, members, count, &c->replica_effects);
}

static void voters(struct controller *c) {
    struct election_candidate all[CLUSTER_NODES_MAX];
    struct replica_set next;
    usec_t now = now_of(c);
    size_t count = 0;
    if (!c->leads || replica_commit(c->replica) < replica_last_index(c->replica) ||
        !metadata_cluster_id(c->metadata))
        return;
    for (size_t i = 0; i < metadata_nodes_count(c->metadata); i++) {
        const struct metadata_node *n = metadata_node_at(c->metadata, i);
        usec_t since = detector_dead_since(c->detector, n->id);
        bool own = n->info.controller == c->process->self;
        bool dead = !own && since != USEC_NEVER;
        all[count++] = (struct election_candidate){
            .member = n->info.controller,
            .alive = n->state != NODE_LEFT && (own || detector_node(c->detector, n->id) == DETECTOR_UP),
            .replace = n->state == NODE_LEFT || (dead && now - since >= c->process->sim->rebuild_grace)};
    }
    if (!election_next_voters(replica_voters(c->replica), all, count, &next))
        return;
    struct body *body = replica_config_encode(&next);
    uint64_t index;
    if (replica_propose(c->replica, ENTRY_CONFIG, body, now, &index, &c->replica_effects) == ERR_OK)
        sim_trace(c->process->sim, "%s metadata group: %u voters from entry %llu on", c->process->name,
                  next.count, (unsigned long long)index);
    body_drop(body);
}

enum err group_propose(struct controller *c, struct body *command, uint64_t *index) {
    if (!c->leads || !election_proposable(c->election))
        return ERR_NOT_LEADER;
    return replica_propose(c->replica, ENTRY_COMMAND, command, now_of(c), index, &c->replica_effects);
}

static void propose_for_control(struct controller *c, const struct control_effect *e) {
    uint64_t index;
    enum err err = group_propose(c, e->propose.command, &index);
    if (err != ERR_OK) {
        control_proposed(c->control, e->propose.tag, err, now_of(c), &c->control_effects);
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

static void send_to(struct controller *c, member_t to, const struct message *m) {
    int at = peers_member(c, to);
    if (at >= 0)
        network_send(c->process, at, message_copy(m));
}

static void on_write_effect(struct controller *c, const struct replica_effect *e) {
    struct journal *j = journal_of(c);
    switch (e->type) {
    case REPLICA_WRITE:
        checker_write(c->process, GROUP_PARTITION, &e->entry);
        journal_write_entry(j, GROUP_PARTITION, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        break;
    case REPLICA_TRUNCATE:
        sim_count(c->process->sim, RARE_truncations);
        journal_write_truncate(j, GROUP_PARTITION, e->index);
        break;
    case REPLICA_PROMISE:
        group_write_vote(c, e->promise.epoch, e->promise.candidate);
        break;
    case REPLICA_MARK_DAMAGED:
        sim_count(c->process->sim, RARE_damaged);
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

static void tell_down(struct controller *c) {
    for (int i = 0; i < c->process->sim->nodes_count; i++) {
        struct process *other = sim_controller(c->process->sim, i);
        if (other != c->process && !c->process->ends[other->id].up && c->introductions[i].known)
            replica_peer_down(c->replica, c->introductions[i].node.controller, now_of(c),
                              &c->replica_effects);
    }
}

static void on_leading_effect(struct controller *c, const struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_LEADING:
        checker_leading(c->process, GROUP_PARTITION, e->epoch);
        tell_down(c);
        break;
    case REPLICA_ACTIVE:
        start_leading(c, e->epoch);
        break;
    case REPLICA_STOPPED:
        stop_leading(c);
        break;
    case REPLICA_REPORT_SUPERSEDED:
        election_superseded(c->election, e->promise.epoch, now_of(c), &c->replica_effects,
                            &c->election_effects);
        break;
    default:
        break;
    }
}

static void on_send(struct controller *c, const struct replica_effect *e) {
    struct message m = {.partition = GROUP_PARTITION};
    if (e->type == REPLICA_SEND_APPEND) {
        m.type = M_APPEND;
        m.append = e->append;
        checker_sends(c->process, GROUP_PARTITION, m.append.epoch);
        send_to(c, m.append.to, &m);
    } else if (e->type == REPLICA_SEND_APPENDED) {
        m.type = M_APPENDED;
        m.appended = e->appended;
        send_to(c, m.appended.to, &m);
    } else if (e->type == REPLICA_SEND_PIECE) {
        m.type = M_PIECE;
        m.piece = e->piece;
        send_to(c, m.piece.to, &m);
    } else {
        m.type = M_PIECED;
        m.pieced = e->pieced;
        send_to(c, m.pieced.to, &m);
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
    case REPLICA_SEND_APPENDED:
    case REPLICA_SEND_PIECE:
    case REPLICA_SEND_PIECED:
        on_send(c, e);
        break;
    case REPLICA_SEND_SEALED:
        election_sealed(c->election, &e->sealed, now_of(c), &c->replica_effects, &c->election_effects);
        break;
    default:
        on_write_effect(c, e);
        on_leading_effect(c, e);
    }
}

static void on_election_effect(struct controller *c, const struct election_effect *e) {
    static const enum message_type types[] = {[ELECTION_SEND_PRE_VOTE] = M_PRE_VOTE,
                                              [ELECTION_SEND_PRE_VOTED] = M_PRE_VOTED,
                                              [ELECTION_SEND_VOTE] = M_VOTE,
                                              [ELECTION_SEND_VOTED] = M_VOTED,
                                              [ELECTION_SEND_TIMEOUT_NOW] = M_TIMEOUT_NOW};
    struct message m = {0};
    if (e->type == ELECTION_STANDS) {
        sim_count(c->process->sim, RARE_elections);
        sim_trace(c->process->sim, "%s stands for epoch %llu: %s", c->process->name,
                  (unsigned long long)e->stands.epoch, e->stands.why);
        return;
    }
    if (e->type == ELECTION_STEPS_DOWN) {
        sim_trace(c->process->sim, "%s steps down from epoch %llu: %s", c->process->name,
                  (unsigned long long)e->stands.epoch, e->stands.why);
        return;
    }
    m.type = types[e->type];
    if (m.type == M_PRE_VOTED || m.type == M_VOTED) {
        m.answer = e->answer;
        send_to(c, m.answer.to, &m);
    } else {
        m.ask = e->ask;
        send_to(c, m.ask.to, &m);
    }
}

static void on_control_effect(struct controller *c, const struct control_effect *e) {
    struct message *m;
    switch (e->type) {
    case CONTROL_SEND_SEAL:
        m = message_new(M_SEAL, e->partition);
        m->seal = e->seal;
        shards_send(c, e->member, m);
        break;
    case CONTROL_SEND_RECORD:
        shards_record(c, e->member, e->partition);
        break;
    case CONTROL_SEND_HOLD:
        m = message_new(M_HOLD, e->partition);
        m->hold.target = e->hold.target;
        m->hold.at_most = e->hold.at_most;
        shards_send(c, e->member, m);
        break;
    case CONTROL_SEND_DROP:
        m = message_new(M_DROP, e->partition);
        m->drop.epoch = e->drop.epoch;
        shards_send(c, e->member, m);
        break;
    case CONTROL_PROPOSE:
        propose_for_control(c, e);
        break;
    case CONTROL_SAY:
        sim_trace(c->process->sim, "%s: %s", c->process->name, e->text);
    }
}

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
    for (bool any = true; any;) {
        any = run_replica(c);
        any |= run_election(c);
        any |= run_control(c);
    }
    c->running = false;
}

void group_turn(struct controller *c) {
    usec_t now = now_of(c);
    if (c->leads)
        control_pump(c->control, now, &c->control_effects);
    group_run(c);
    voters(c);
    if (replica_dirty(c->replica))
        replica_pump(c->replica, now, &c->replica_effects);
    group_run(c);
    if (replica_applied(c->replica) >= c->checkpoint_base + CONTROLLER_CHECKPOINT_ENTRIES)
        group_checkpoint(c);
    group_reclaim(c);
    group_flush_turn(c);
}

void group_detected(struct controller *c) {
    struct detector_changes found = c->detected;
    c->detected = (struct detector_changes){0};
    for (size_t i = 0; i < found.count; i++) {
        const struct detector_change *d = &found.items[i];
        const struct metadata_node *n = metadata_node(c->metadata, d->node);
        if (d->is_node) {
            sim_trace(c->process->sim, "%s: %s %s -> %s, silent for %lld ms", c->process->name,
                      n ? n->info.name : "?", detector_node_word(d->from), detector_node_word(d->to),
                      (long long)(d->silent / USEC_MS));
        } else if (d->index != DETECTOR_CONTROLLER && c->leads) {
            sim_trace(c->process->sim, "%s: %s/s%d %s -> %s", c->process->name, n ? n->info.name : "?",
                      d->index, detector_health_name(d->from), detector_health_name(d->to));
            control_member(c->control, d->member, d->to, now_of(c), &c->control_effects);
        }
    }
    detector_changes_clear(&found);
    detector_changes_free(&found);
    group_run(c);
}

/* ---- messages of the group ---- */

static bool on_votes(struct controller *c, struct message *m) {
    usec_t now = now_of(c);
    struct election *e = c->election;
    switch (m->type) {
    case M_PRE_VOTE:
        election_on_pre_vote(e, &m->ask, now, &c->election_effects);
        return true;
    case M_PRE_VOTED:
        election_on_pre_voted(e, &m->answer, now, &c->replica_effects, &c->election_effects);
        return true;
    case M_VOTE:
        election_on_vote(e, &m->ask, now, &c->replica_effects, &c->election_effects);
        return true;
    case M_VOTED:
        election_on_voted(e, &m->answer, now, &c->replica_effects, &c->election_effects);
        return true;
    case M_TIMEOUT_NOW:
        election_on_timeout_now(e, &m->ask, now, &c->replica_effects, &c->election_effects);
        return true;
    default:
        return false;
    }
}

bool group_message(struct controller *c, struct message *m) {
    usec_t now = now_of(c);
    member_t self = c->process->self;
    if (m->type == M_APPEND && m->append.to == self) {
        election_heard(c->election, m->append.from, m->append.epoch, now);
        replica_on_append(c->replica, &m->append, now, &c->replica_effects);
    } else if (m->type == M_APPENDED && m->appended.to == self) {
        election_seen(c->election, m->appended.from, m->appended.sent_at);
        replica_on_appended(c->replica, &m->appended, now, &c->replica_effects);
    } else if (m->type == M_PIECE && m->piece.to == self) {
        election_heard(c->election, m->piece.from, m->piece.epoch, now);
        replica_on_piece(c->replica, &m->piece, now, &c->replica_effects);
    } else if (m->type == M_PIECED && m->pieced.to == self) {
        replica_on_pieced(c->replica, &m->pieced, now, &c->replica_effects);
    } else if (!on_votes(c, m)) {
        return false;
    }
    group_run(c);
    return true;
}

void group_peer_up(struct controller *c, member_t m) {
    election_back(c->election, m);
    replica_peer_up(c->replica, m, now_of(c), &c->replica_effects);
    group_run(c);
}

void group_peer_down(struct controller *c, member_t m, bool gone) {
    replica_peer_down(c->replica, m, now_of(c), &c->replica_effects);
    if (gone)
        election_gone(c->election, m, now_of(c));
    group_run(c);
}

void group_free(struct controller *c) {
    stop_leading(c);
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

// SPDX-License-Identifier: Apache-2.0
/* The simulated controller: host of controller/core.h. Its loop, other controllers,
 * shards and forming mirror broker/controller's controller.c, peers.c, shards.c and
 * forming.c. */
#include "controller.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

static struct sim *sim_of(struct controller *c) {
    return c->process->sim;
}

bool controller_leads(const struct process *p) {
    return p->controller->core.leads;
}

bool controller_voter(const struct process *p, member_t m) {
    const struct replica *r = p->controller->core.replica;
    return replica_set_has(replica_voters(r), m) || replica_config_index(r) > replica_commit(r);
}

const struct metadata *controller_metadata(const struct process *p) {
    return p->controller->core.metadata;
}

size_t controller_vacate(struct process *p, member_t m) {
    struct controller *c = p->controller;
    size_t left = control_vacate(c->core.control, m, process_now(p), &c->core.control_effects);
    group_run(&c->core);
    process_touch(p);
    return left;
}

/* ---- who is who ---- */

static int peers_member(struct controller *c, member_t m) {
    int at = network_by_member(c->process, m);
    return at >= 0 && sim_of(c)->processes[at].kind == PROCESS_CONTROLLER ? at : -1;
}

static const struct metadata_node *node_of(struct controller *c, int process) {
    struct sim *s = sim_of(c);
    return metadata_node_named(c->core.metadata, s->nodes[s->processes[process].node].name);
}

static int index_of(struct controller *c, int process) {
    struct process *p = &sim_of(c)->processes[process];
    return p->kind == PROCESS_SHARD ? p->index : DETECTOR_CONTROLLER;
}

static void heard(struct controller *c, int from) {
    const struct metadata_node *n = node_of(c, from);
    if (n)
        detector_heard(c->core.detector, n->id, index_of(c, from), process_now(c->process),
                       &c->core.detected);
    if (c->core.detected.count)
        group_detected(&c->core);
}

static void gone(struct controller *c, int process) {
    const struct metadata_node *n = node_of(c, process);
    if (n)
        detector_gone(c->core.detector, n->id, index_of(c, process), process_now(c->process),
                      &c->core.detected);
    group_detected(&c->core);
}

static bool own_shard(struct controller *c, int process) {
    struct process *p = &sim_of(c)->processes[process];
    return p->kind == PROCESS_SHARD && p->node == c->process->node;
}

/* The shard at the other end of this link, if it is who the metadata says. */
static member_t shard_at(struct controller *c, int process) {
    struct process *p = &sim_of(c)->processes[process];
    struct end *end = &c->process->ends[process];
    const struct metadata_node *n = node_of(c, process);
    if (p->kind != PROCESS_SHARD || !end->up)
        return 0;
    if (p->node == c->process->node)
        return end->member;
    return n && (uint32_t)p->index < n->info.shards_count && n->info.shards[p->index] == end->member
               ? end->member
               : 0;
}

static int shard_of(struct controller *c, member_t m) {
    for (int i = 0; m && i < sim_of(c)->processes_count; i++)
        if (shard_at(c, i) == m)
            return i;
    return -1;
}

static void shards_send(struct controller *c, member_t to, struct message *m) {
    int at = shard_of(c, to);
    if (at >= 0)
        network_send(c->process, at, m);
    else
        message_free(m);
}

static void shard_up(struct controller *c, int shard);
static void forming_check(struct controller *c);

/* No link leads to this process itself: it is heard by beating. */
static void hear_own(struct controller *c) {
    const struct metadata_node *own =
        metadata_node_named(c->core.metadata, sim_of(c)->nodes[c->process->node].name);
    if (own)
        detector_heard(c->core.detector, own->id, DETECTOR_CONTROLLER, process_now(c->process),
                       &c->core.detected);
}

static void watch_node(struct controller *c, const struct metadata_node *n) {
    usec_t now = process_now(c->process);
    if (n->state == NODE_LEFT) {
        detector_forget_node(c->core.detector, n->id);
        return;
    }
    detector_watch(c->core.detector, n->id, DETECTOR_CONTROLLER, n->info.controller, now);
    for (uint32_t i = 0; i < n->info.shards_count; i++)
        detector_watch(c->core.detector, n->id, (int)i, n->info.shards[i], now);
}

static void peers_refresh(struct controller *c) {
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        watch_node(c, metadata_node_at(c->core.metadata, i));
    for (int i = 0; i < sim_of(c)->processes_count; i++) {
        if (shard_at(c, i) && c->shards_known[i] != shard_at(c, i))
            shard_up(c, i); /* its identity is the metadata's at last */
        else if (c->process->ends[i].up)
            heard(c, i);
    }
    hear_own(c);
}

/* ---- records ---- */

static struct message *record_of(struct controller *c, uint64_t partition) {
    const struct metadata_partition *p = metadata_partition(c->core.metadata, partition);
    const struct metadata_mailbox *b = p ? metadata_mailbox(c->core.metadata, p->mailbox) : NULL;
    struct message *m = message_new(M_RECORD, partition);
    m->record.removed = !b;
    if (!b)
        return m;
    m->record.record = p->record;
    m->record.settings = b->settings;
    m->record.number = p->number;
    m->record.dead_letter_partitions = metadata_dead_letter_partitions(c->core.metadata, b);
    snprintf(m->record.mailbox, sizeof m->record.mailbox, "%.*s", SIM_NAME_BYTES - 1, b->name);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        struct wish *w = &m->record.wishes[m->record.wishes_count++];
        CHECK(i <= SIM_SUBSCRIPTIONS_MAX);
        snprintf(w->name, sizeof w->name, "%.*s", SIM_NAME_BYTES - 1, b->subscriptions[i].name);
        w->from = b->subscriptions[i].from;
        w->value = b->subscriptions[i].value;
    }
    return m;
}

static bool concerns(struct controller *c, member_t m, const struct metadata_partition *p) {
    return metadata_holds(&p->record, m) || metadata_drop_find(c->core.metadata, p->id, m);
}

/* At the end of the turn, once. */
static void shards_record(struct controller *c, member_t to, uint64_t partition) {
    int at = shard_of(c, to);
    if (at < 0)
        return;
    struct due *d = &c->due[at];
    xgrow(&d->partitions, &d->capacity, d->count + 1, sizeof *d->partitions);
    d->partitions[d->count++] = partition;
}

static int by_id(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void send_due(struct controller *c) {
    for (int i = 0; i < sim_of(c)->processes_count; i++) {
        struct due *d = &c->due[i];
        if (d->count)
            qsort(d->partitions, d->count, sizeof *d->partitions, by_id);
        for (size_t k = 0; k < d->count; k++)
            if (k == 0 || d->partitions[k] != d->partitions[k - 1])
                network_send(c->process, i, record_of(c, d->partitions[k]));
        d->count = 0;
    }
}

static void send_everything(struct controller *c, int shard) {
    const struct metadata_partition *p = NULL;
    while ((p = metadata_partition_next(c->core.metadata, p ? p->id : 0)))
        if (concerns(c, shard_at(c, shard), p))
            network_send(c->process, shard, record_of(c, p->id));
    if (own_shard(c, shard))
        network_send(c->process, shard, message_new(M_COMPLETE, 0));
}

static void changed_mailbox(struct controller *c, member_t m, uint64_t mailbox) {
    const struct metadata_mailbox *b = metadata_mailbox(c->core.metadata, mailbox);
    for (uint32_t k = 0; b && k < b->partitions_count; k++)
        if (concerns(c, m, metadata_partition(c->core.metadata, b->partitions[k])))
            shards_record(c, m, b->partitions[k]);
}

static void shards_changed(struct controller *c, const struct metadata_changes *changes) {
    for (int i = 0; i < sim_of(c)->processes_count; i++) {
        member_t m = shard_at(c, i);
        if (!m || !own_shard(c, i))
            continue;
        if (changes->everything) {
            send_everything(c, i);
            continue;
        }
        for (size_t k = 0; k < changes->partitions_count; k++) {
            const struct metadata_partition *p = metadata_partition(c->core.metadata, changes->partitions[k]);
            if (!p || concerns(c, m, p))
                shards_record(c, m, changes->partitions[k]);
        }
        for (size_t k = 0; k < changes->mailboxes_count; k++)
            changed_mailbox(c, m, changes->mailboxes[k]);
    }
}

static void send_lead(struct controller *c, int shard) {
    struct message *m = message_new(M_LEAD, 0);
    m->beat.term = replica_epoch(c->core.replica);
    network_send(c->process, shard, m);
}

static void shards_lead(struct controller *c) {
    for (int i = 0; i < sim_of(c)->processes_count; i++) {
        if (!shard_at(c, i))
            continue;
        send_lead(c, i);
        send_everything(c, i);
    }
}

static void shard_up(struct controller *c, int shard) {
    member_t m = shard_at(c, shard);
    if (!m)
        return;
    c->shards_known[shard] = m;
    heard(c, shard);
    if (own_shard(c, shard) || c->core.leads)
        send_everything(c, shard);
    if (c->core.leads) {
        send_lead(c, shard);
        control_member(c->core.control, m, DETECTOR_UP, process_now(c->process), &c->core.control_effects);
        group_run(&c->core);
    }
    forming_check(c);
}

/* ---- forming ---- */

static bool own_node(struct controller *c, struct node_info *out) {
    struct sim *s = sim_of(c);
    *out = (struct node_info){.controller = c->process->self,
                              .starts = c->process->starts,
                              .shards_count = (uint32_t)s->shards_per_node};
    snprintf(out->name, sizeof out->name, "%s", s->nodes[c->process->node].name);
    snprintf(out->cluster_address, sizeof out->cluster_address, "%s:7410", out->name);
    snprintf(out->client_address, sizeof out->client_address, "%s:7400", out->name);
    snprintf(out->admin_address, sizeof out->admin_address, "%s:7480", out->name);
    for (int i = 0; i < s->shards_per_node; i++)
        out->shards[i] = c->process->ends[sim_shard(s, c->process->node, i)->id].member;
    for (int i = 0; i < s->shards_per_node; i++)
        if (!out->shards[i])
            return false;
    return true;
}

static void introduce(struct controller *c, int other) {
    struct message *m = message_new(M_INTRODUCE, 0);
    if (!own_node(c, &m->introduce.node)) {
        message_free(m);
        return;
    }
    m->introduce.empty = c->core.empty;
    m->introduce.joins = sim_of(c)->nodes[c->process->node].joins;
    m->introduce.cluster_id = metadata_cluster_id(c->core.metadata);
    network_send(c->process, other, m);
}

static bool same_node(const struct node_info *a, const struct node_info *b) {
    bool same = a->controller == b->controller && a->shards_count == b->shards_count;
    for (uint32_t i = 0; same && i < a->shards_count; i++)
        same = a->shards[i] == b->shards[i];
    return same;
}

static void propose(struct controller *c, const struct command *command) {
    struct encoder e = {0};
    uint64_t index;
    command_encode(command, &e);
    struct body *body = encoder_body(&e);
    if (group_propose(&c->core, body, &index) == ERR_OK && command->type == COMMAND_FORM)
        c->formed_proposed = true;
    body_drop(body);
    group_run(&c->core);
}

/* The leading controller: is what this node says of itself committed? */
static void commit_node(struct controller *c, const struct node_info *info, bool joins) {
    const struct metadata_node *known = metadata_node_named(c->core.metadata, info->name);
    if (!c->core.leads || !metadata_cluster_id(c->core.metadata) || (!known && !joins) ||
        (known && same_node(&known->info, info)))
        return;
    sim_count(sim_of(c), RARE_newcomers);
    sim_trace(sim_of(c), "%s: node %s %s", c->process->name, info->name,
              known ? "comes back with another identity" : "joins");
    struct command command = {.type = COMMAND_NODE_SET, .node = *info};
    propose(c, &command);
}

static bool all_empty(struct controller *c) {
    for (int i = 0; i < sim_of(c)->nodes_count; i++) {
        if (i == c->process->node || sim_of(c)->nodes[i].joins)
            continue;
        if (!c->process->ends[sim_controller(sim_of(c), i)->id].up || !c->introductions[i].known ||
            !c->introductions[i].empty)
            return false;
    }
    return true;
}

static void propose_form(struct controller *c) {
    struct command form = {.type = COMMAND_FORM};
    struct node_info own;
    if (c->formed_proposed || !own_node(c, &own))
        return;
    for (int i = 0; i < sim_of(c)->nodes_count; i++)
        if (i != c->process->node && !sim_of(c)->nodes[i].joins && !c->introductions[i].known)
            return;
    struct node_info *nodes = xcalloc((size_t)sim_of(c)->nodes_count, sizeof *nodes);
    for (int i = 0; i < sim_of(c)->nodes_count; i++)
        if (!sim_of(c)->nodes[i].joins)
            nodes[form.form.count++] = i == c->process->node ? own : c->introductions[i].node;
    strcpy(form.form.cluster, "sim");
    form.form.cluster_id = rng_next(&sim_of(c)->rng) | 1;
    form.form.nodes = nodes;
    propose(c, &form);
    free(nodes);
}

static void forming_check(struct controller *c) {
    bool formed = metadata_cluster_id(c->core.metadata) != 0;
    struct node_info own;
    if (!own_node(c, &own))
        return;
    if (formed && c->core.leads) {
        commit_node(c, &own, false);
        for (int i = 0; i < sim_of(c)->nodes_count; i++)
            if (i != c->process->node && c->introductions[i].known &&
                c->process->ends[sim_controller(sim_of(c), i)->id].up)
                commit_node(c, &c->introductions[i].node, c->introductions[i].joins);
    } else if (!formed && c->core.leads) {
        propose_form(c);
    } else if (!formed && c->core.empty && c->process->node == 0 && all_empty(c)) {
        group_found(&c->core);
    }
}

/* ---- heartbeats ---- */

static void heartbeat(struct controller *c) {
    struct sim *s = sim_of(c);
    hear_own(c);
    for (int i = 0; i < s->processes_count; i++) {
        if (!c->process->ends[i].up)
            continue;
        bool shard = s->processes[i].kind == PROCESS_SHARD;
        struct message *m = message_new(shard ? M_PING : M_HEARTBEAT, 0);
        m->beat.sent_at = process_now(c->process);
        m->beat.applied = metadata_index(c->core.metadata);
        m->beat.term = election_leading(c->core.election) ? replica_epoch(c->core.replica) : 0;
        network_send(c->process, i, m);
    }
}

static void on_heartbeat(struct controller *c, int from, const struct message *m) {
    struct message *seen = message_new(M_HEARTBEAT_SEEN, 0);
    if (m->beat.term)
        election_heard(c->core.election, c->process->ends[from].member, m->beat.term,
                       process_now(c->process));
    seen->beat.sent_at = m->beat.sent_at;
    network_send(c->process, from, seen);
}

static void on_introduce(struct controller *c, int from, const struct message *m) {
    int node = sim_of(c)->processes[from].node;
    c->introductions[node].known = true;
    c->introductions[node].node = m->introduce.node;
    c->introductions[node].empty = m->introduce.empty;
    c->introductions[node].joins = m->introduce.joins;
    c->introductions[node].cluster_id = m->introduce.cluster_id;
    commit_node(c, &m->introduce.node, m->introduce.joins);
    forming_check(c);
}

/* ---- what the core calls for ---- */

static usec_t now(void *host) {
    return process_now(((struct controller *)host)->process);
}

static void send_to(struct controller *c, member_t to, const struct message *m) {
    int at = peers_member(c, to);
    if (at >= 0)
        network_send(c->process, at, message_copy(m));
}

static void replica_send(struct controller *c, const struct replica_effect *e) {
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
    } else if (e->type == REPLICA_SEND_PIECED) {
        m.type = M_PIECED;
        m.pieced = e->pieced;
        send_to(c, m.pieced.to, &m);
    }
}

static void replica_effect(void *host, const struct replica_effect *e) {
    struct controller *c = host;
    if (e->type == REPLICA_APPLY)
        checker_apply(c->process, GROUP_PARTITION, &e->entry);
    else if (e->type == REPLICA_WRITE)
        checker_write(c->process, GROUP_PARTITION, &e->entry);
    else if (e->type == REPLICA_LEADING)
        checker_leading(c->process, GROUP_PARTITION, e->epoch);
    else if (e->type == REPLICA_ACTIVE)
        checker_active(c->process, GROUP_PARTITION, e->epoch, replica_applied(c->core.replica));
    else if (e->type == REPLICA_TRUNCATE)
        sim_count(c->process->sim, RARE_truncations);
    else if (e->type == REPLICA_MARK_DAMAGED)
        sim_count(c->process->sim, RARE_damaged);
    else if (e->type == REPLICA_INSTALL)
        sim_count(c->process->sim, RARE_checkpoints_installed);
    else
        replica_send(c, e);
}

static void election_effect(void *host, const struct election_effect *e) {
    static const enum message_type types[] = {[ELECTION_SEND_PRE_VOTE] = M_PRE_VOTE,
                                              [ELECTION_SEND_PRE_VOTED] = M_PRE_VOTED,
                                              [ELECTION_SEND_VOTE] = M_VOTE,
                                              [ELECTION_SEND_VOTED] = M_VOTED,
                                              [ELECTION_SEND_TIMEOUT_NOW] = M_TIMEOUT_NOW};
    struct controller *c = host;
    struct message m = {0};
    if (e->type == ELECTION_STANDS)
        sim_count(c->process->sim, RARE_elections);
    if (e->type == ELECTION_STANDS || e->type == ELECTION_STEPS_DOWN)
        return;
    m.type = types[e->type];
    if (m.type == M_PRE_VOTED || m.type == M_VOTED) {
        m.answer = e->answer;
        send_to(c, m.answer.to, &m);
    } else {
        m.ask = e->ask;
        send_to(c, m.ask.to, &m);
    }
}

static void peers_down(void *host) {
    struct controller *c = host;
    for (int i = 0; i < sim_of(c)->nodes_count; i++) {
        struct process *other = sim_controller(sim_of(c), i);
        if (other != c->process && !c->process->ends[other->id].up && c->introductions[i].known)
            replica_peer_down(c->core.replica, c->introductions[i].node.controller, now(c),
                              &c->core.replica_effects);
    }
}

/* Whatever way it has come about, by entries or by a checkpoint. */
static void check_state(struct controller *c, uint64_t index) {
    struct encoder e = {0};
    metadata_encode(c->core.metadata, &e);
    checker_state(c->process, GROUP_PARTITION, index, &e);
    encoder_free(&e);
}

static void changed(void *host, const struct metadata_changes *changes) {
    struct controller *c = host;
    if (changes->everything || changes->nodes_count)
        peers_refresh(c);
    shards_changed(c, changes);
    if (changes->everything && metadata_index(c->core.metadata))
        check_state(c, metadata_index(c->core.metadata));
}

static void applied(void *host, uint64_t index, const struct metadata_result *result) {
    (void)result;
    check_state(host, index);
}

static void leads(void *host) {
    struct controller *c = host;
    c->led = true;
    c->formed_proposed = false;
    shards_lead(c);
}

static void led(void *host) {
    forming_check(host);
}

static void leads_no_more(void *host) {
    struct controller *c = host;
    if (c->led)
        sim_count(c->process->sim, RARE_deposed);
    c->led = false;
}

static void order(void *host, const struct control_effect *e) {
    struct controller *c = host;
    struct message *m;
    if (e->type == CONTROL_SEND_RECORD) {
        shards_record(c, e->member, e->partition);
    } else if (e->type == CONTROL_SEND_SEAL) {
        m = message_new(M_SEAL, e->partition);
        m->seal = e->seal;
        shards_send(c, e->member, m);
    } else if (e->type == CONTROL_SEND_HOLD) {
        m = message_new(M_HOLD, e->partition);
        m->hold.target = e->hold.target;
        m->hold.at_most = e->hold.at_most;
        shards_send(c, e->member, m);
    } else if (e->type == CONTROL_SEND_DROP) {
        m = message_new(M_DROP, e->partition);
        m->drop.epoch = e->drop.epoch;
        shards_send(c, e->member, m);
    }
}

static void judged(void *host, const struct detector_change *change) {
    (void)host, (void)change;
}

static void say(void *host, enum log_level level, const char *text) {
    struct controller *c = host;
    (void)level;
    sim_trace(sim_of(c), "%s: %s", c->process->name, text);
}

static const struct core_host calls = {.now = now,
                                       .replica_effect = replica_effect,
                                       .election_effect = election_effect,
                                       .peers_down = peers_down,
                                       .changed = changed,
                                       .applied = applied,
                                       .leads = leads,
                                       .led = led,
                                       .leads_no_more = leads_no_more,
                                       .order = order,
                                       .judged = judged,
                                       .say = say};

static void group_message(struct controller *c, struct message *m) {
    struct core *core = &c->core;
    switch (m->type) {
    case M_APPEND:
        group_on_append(core, &m->append);
        break;
    case M_APPENDED:
        group_on_appended(core, &m->appended);
        break;
    case M_PIECE:
        group_on_piece(core, &m->piece);
        break;
    case M_PIECED:
        group_on_pieced(core, &m->pieced);
        break;
    case M_PRE_VOTE:
        group_on_pre_vote(core, &m->ask);
        break;
    case M_PRE_VOTED:
        group_on_pre_voted(core, &m->answer);
        break;
    case M_VOTE:
        group_on_vote(core, &m->ask);
        break;
    case M_VOTED:
        group_on_voted(core, &m->answer);
        break;
    case M_TIMEOUT_NOW:
        group_on_timeout_now(core, &m->ask);
        break;
    default:
        break;
    }
}

/* ---- the loop ---- */

static void shard_message_in(struct controller *c, int from, struct message *m) {
    usec_t now = process_now(c->process);
    member_t member = shard_at(c, from);
    if (!member)
        return;
    heard(c, from);
    if (m->type == M_SEALED && c->core.leads)
        control_on_sealed(c->core.control, m->partition, &m->sealed.sealed, m->sealed.unknown, now,
                          &c->core.control_effects);
    else if (m->type == M_REPORT && c->core.leads)
        control_on_report(c->core.control, &m->report, now, &c->core.control_effects);
    else if (m->type == M_LOAD && c->core.leads)
        control_load(c->core.control, member, m->beat.load[0]);
    group_run(&c->core);
}

void controller_message(struct process *p, int from, struct message *m) {
    struct controller *c = p->controller;
    if (p->sim->processes[from].kind == PROCESS_SHARD) {
        shard_message_in(c, from, m);
        return;
    }
    heard(c, from);
    if (m->type == M_HEARTBEAT)
        on_heartbeat(c, from, m);
    else if (m->type == M_HEARTBEAT_SEEN)
        election_seen(c->core.election, p->ends[from].member, m->beat.sent_at);
    else if (m->type == M_INTRODUCE)
        on_introduce(c, from, m);
    else
        group_message(c, m);
    group_run(&c->core);
}

void controller_link_up(struct process *p, int other) {
    struct controller *c = p->controller;
    if (p->sim->processes[other].kind == PROCESS_SHARD) {
        shard_up(c, other);
        for (int i = 0; i < p->sim->nodes_count; i++) /* own shards known at last: say so */
            if (own_shard(c, other) && i != p->node)
                introduce(c, sim_controller(p->sim, i)->id);
        return;
    }
    heard(c, other);
    group_peer_up(&c->core, p->ends[other].member);
    introduce(c, other);
}

void controller_link_down(struct process *p, int other) {
    struct controller *c = p->controller;
    c->shards_known[other] = 0;
    if (p->sim->processes[other].kind == PROCESS_CONTROLLER)
        group_peer_down(&c->core, p->ends[other].member, false);
}

void controller_refused(struct process *p, int other) {
    struct controller *c = p->controller;
    bool shard = p->sim->processes[other].kind == PROCESS_SHARD;
    gone(c, other);
    if (!shard && p->ends[other].member)
        group_peer_down(&c->core, p->ends[other].member, true);
    group_run(&c->core);
}

void controller_own_gone(struct process *p, int shard) {
    gone(p->controller, sim_shard(p->sim, p->node, shard)->id);
    process_touch(p);
}

static usec_t soonest(struct controller *c, usec_t now) {
    usec_t at = now + 2 * CONTROLLER_HEARTBEAT_US;
    usec_t others[] = {election_deadline(c->core.election), replica_deadline(c->core.replica),
                       c->core.leads ? control_deadline(c->core.control) : USEC_NEVER,
                       detector_deadline(c->core.detector)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        at = others[i] < at ? others[i] : at;
    return at > now + ELECTION_GRAIN_US ? at : now + ELECTION_GRAIN_US;
}

void controller_timer(struct process *p) {
    struct controller *c = p->controller;
    usec_t now = process_now(p);
    if (now >= c->heartbeat_at) {
        heartbeat(c);
        c->heartbeat_at = now + CONTROLLER_HEARTBEAT_US;
    }
    if (now >= c->tick_at) {
        detector_tick(c->core.detector, now, &c->core.detected);
        group_detected(&c->core);
        election_tick(c->core.election, now, &c->core.replica_effects, &c->core.election_effects);
        replica_tick(c->core.replica, now, &c->core.replica_effects);
        if (c->core.leads)
            control_tick(c->core.control, now, &c->core.control_effects);
        group_run(&c->core);
        forming_check(c);
        c->tick_at = soonest(c, now);
    }
    process_touch(p);
}

void controller_turn(struct process *p) {
    struct controller *c = p->controller;
    group_turn(&c->core);
    send_due(c);
    process_wake(p, c->heartbeat_at < c->tick_at ? c->heartbeat_at : c->tick_at);
}

void controller_synced(struct process *p, uint64_t ticket) {
    group_synced(&p->controller->core, ticket);
}

void controller_start(struct process *p) {
    struct controller *c = xcalloc(1, sizeof *c);
    p->controller = c;
    c->process = p;
    c->introductions = xcalloc((size_t)p->sim->nodes_count, sizeof *c->introductions);
    c->shards_known = xcalloc((size_t)p->sim->processes_count, sizeof *c->shards_known);
    c->due = xcalloc((size_t)p->sim->processes_count, sizeof *c->due);
    uint64_t election_seed = rng_next(&p->sim->rng), control_seed = rng_next(&p->sim->rng);
    group_open(&c->core, &(struct core_options){.journal = p->journal,
                                                .self = p->self,
                                                .starts = p->starts,
                                                .founder = p->node == 0,
                                                .failure_timeout = p->sim->failure_timeout,
                                                .heartbeat = 2 * CONTROLLER_HEARTBEAT_US,
                                                .rebuild_grace = p->sim->rebuild_grace,
                                                .replace_after = p->sim->rebuild_grace,
                                                .cool = p->sim->swarm.cool,
                                                .settle = p->sim->swarm.settle,
                                                .checkpoint_entries = CONTROLLER_CHECKPOINT_ENTRIES,
                                                .election_seed = election_seed,
                                                .control_seed = control_seed,
                                                .host = &calls,
                                                .host_context = c});
    c->heartbeat_at = c->tick_at = process_now(p);
    peers_refresh(c);
    process_touch(p);
}

void controller_free(struct process *p) {
    struct controller *c = p->controller;
    for (int i = 0; i < p->sim->processes_count; i++)
        free(c->due[i].partitions);
    free(c->due);
    free(c->shards_known);
    free(c->introductions);
    group_close(&c->core);
    free(c);
    p->controller = NULL;
}

/* ---- administration ---- */

enum err controller_request(struct process *p, struct command *command) {
    struct controller *c = p->controller;
    if (!c->core.leads)
        return ERR_NOT_LEADER;
    enum err err = control_prepare(c->core.control, command, NULL);
    if (err == ERR_OK)
        propose(c, command);
    process_touch(p);
    return err;
}

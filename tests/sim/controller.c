// SPDX-License-Identifier: Apache-2.0
/*
 * The simulated controller: the broker's own core (controller/core.h) behind a host
 * that sends messages instead of frames, and has its clocks from the world. It takes
 * the place of broker/controller's process: controller.c, host.c and the files with
 * frames and links.
 */
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

static int node_named(struct sim *s, const char *name) {
    for (int i = 0; i < s->nodes_count; i++)
        if (strcmp(s->nodes[i].name, name) == 0)
            return i;
    return -1;
}

static int process_of(struct controller *c, const struct peer *p) {
    return sim_controller(sim_of(c), node_named(sim_of(c), p->name))->id;
}

static int controller_of(struct controller *c, member_t m) {
    struct peer *p = controllers_member(&c->core, m);
    return p && p->up ? process_of(c, p) : -1;
}

static struct peer *peer_at(struct controller *c, int process) {
    int node = sim_of(c)->processes[process].node;
    if (!c->peers[node])
        c->peers[node] = controllers_add(&c->core, sim_of(c)->nodes[node].name);
    return c->peers[node];
}

/* NULL: the core does not know it. */
static struct shard_peer *shard_at(struct controller *c, int process) {
    struct process *p = &sim_of(c)->processes[process];
    if (c->shards[process])
        return c->shards[process];
    if (p->node == c->process->node)
        return c->shards[process] = shards_own_up(&c->core, (unsigned)p->index);
    const struct metadata_node *n = metadata_node_named(c->core.metadata, sim_of(c)->nodes[p->node].name);
    if (n)
        c->shards[process] = shards_find(&c->core, n->id, (unsigned)p->index, false);
    return c->shards[process];
}

static int process_of_shard(struct controller *c, const struct shard_peer *s) {
    const struct metadata_node *n = s->own ? NULL : metadata_node(c->core.metadata, s->node);
    int node = s->own ? c->process->node : node_named(sim_of(c), n->info.name);
    return sim_shard(sim_of(c), node, (int)s->index)->id;
}

/* ---- what the core calls for: the group ---- */

static usec_t now(void *host) {
    return process_now(((struct controller *)host)->process);
}

static void say(void *host, enum log_level level, const char *text) {
    struct controller *c = host;
    (void)level;
    sim_trace(sim_of(c), "%s: %s", c->process->name, text);
}

static void send_to(struct controller *c, member_t to, const struct message *m) {
    int at = controller_of(c, to);
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
    else if (e->type == REPLICA_STOPPED && c->core.leads)
        sim_count(c->process->sim, RARE_deposed);
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

/* ---- controllers ---- */

static void beat(void *host, const struct beat *b) {
    struct controller *c = host;
    CORE_PEERS_EACH(&c->core, p) {
        if (!p->up)
            continue;
        struct message *m = message_new(M_HEARTBEAT, 0);
        m->beat.sent_at = b->sent_at;
        m->beat.applied = b->applied;
        m->beat.term = b->term;
        network_send(c->process, process_of(c, p), m);
    }
}

/* With every entry, and with a checkpoint that takes the place of all before; seldom where
 * the state is very large. */
enum { STATE_PARTITIONS = 1000 }; /* with fewer: encoded at each entry; else at each second one, and so on */

static void changed(void *host, const struct metadata_changes *changes) {
    struct controller *c = host;
    struct encoder e = {0};
    uint64_t every = 1 + metadata_partitions_count(c->core.metadata) / STATE_PARTITIONS;
    if (!changes->everything && metadata_index(c->core.metadata) % every != 0)
        return;
    metadata_encode(c->core.metadata, &e);
    checker_state(c->process, GROUP_PARTITION, metadata_index(c->core.metadata), &e);
    encoder_free(&e);
}

static void judged(void *host, const struct detector_change *change) {
    (void)host, (void)change;
}

/* Every two processes that may want a link are dialled as it is (network.c). */
static void dial(void *host, struct peer *p) {
    (void)host, (void)p;
}

static void introduce(void *host, struct peer *p, const struct introduction *own) {
    struct controller *c = host;
    struct message *m = message_new(M_INTRODUCE, 0);
    m->introduce.node = own->node;
    m->introduce.empty = own->empty;
    m->introduce.joins = own->join;
    m->introduce.cluster_id = own->cluster_id;
    network_send(c->process, process_of(c, p), m);
}

static uint64_t pass_on(void *host, struct peer *p, const struct request *r, usec_t deadline) {
    struct controller *c = host;
    int to = process_of(c, p);
    struct message *m = message_new(M_PROPOSE, 0);
    m->propose.request = r->own_number;
    m->propose.deadline = deadline;
    m->propose.command = body_copy(r->command->data, r->command->size);
    network_send(c->process, to, m);
    sim_count(sim_of(c), RARE_passed_on);
    return c->process->ends[to].instance;
}

static void answer(void *host, const struct request *r, enum err code, const char *text) {
    struct controller *c = host;
    int to = network_by_instance(c->process, r->link);
    sim_trace(sim_of(c), "%s: request %llu: %s %s", c->process->name, (unsigned long long)r->number,
              err_text(code), text);
    if (r->from != FROM_CONTROLLER || to < 0)
        return;
    struct message *m = message_new(M_PROPOSED, 0);
    m->propose.request = r->number;
    m->propose.code = code;
    m->propose.index = r->visible_index;
    network_send(c->process, to, m);
}

/* ---- shards ---- */

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

static void dial_shard(void *host, struct shard_peer *s, const char *address) {
    (void)host, (void)s, (void)address;
}

static void close_shard(void *host, struct shard_peer *s) {
    (void)host, (void)s; /* its link is offered again with each turn */
}

static void send_records(struct controller *c, int to, const struct shard_order *o) {
    for (size_t i = 0; i < o->records.count; i++)
        network_send(c->process, to, record_of(c, o->records.partitions[i]));
    if (o->records.complete)
        network_send(c->process, to, message_new(M_COMPLETE, 0));
}

static void send_seals(struct controller *c, int to, const struct shard_order *o) {
    for (size_t i = 0; i < o->seals.count; i++) {
        struct message *m = message_new(M_SEAL, o->seals.items[i].partition);
        m->seal = o->seals.items[i].seal;
        network_send(c->process, to, m);
    }
}

static void order(void *host, struct shard_peer *s, const struct shard_order *o) {
    static const enum message_type types[] = {
        [SHARD_LEAD] = M_LEAD, [SHARD_HOLD] = M_HOLD, [SHARD_DROP] = M_DROP, [SHARD_PING] = M_PING};
    struct controller *c = host;
    int to = process_of_shard(c, s);
    if (o->type == SHARD_RECORDS)
        send_records(c, to, o);
    else if (o->type == SHARD_SEALS)
        send_seals(c, to, o);
    if (o->type == SHARD_MEMBERS || o->type == SHARD_RECORDS || o->type == SHARD_SEALS)
        return; /* who the members are, simulated shards know from the world */
    struct message *m = message_new(types[o->type], o->partition);
    if (o->type == SHARD_LEAD) {
        m->beat.term = o->term;
    } else if (o->type == SHARD_HOLD) {
        m->hold.target = o->hold.target;
        m->hold.at_most = o->hold.at_most;
    } else if (o->type == SHARD_DROP) {
        m->drop.epoch = o->epoch;
    } else {
        m->beat.sent_at = o->sent_at;
    }
    network_send(c->process, to, m);
}

static const struct core_host calls = {.now = now,
                                       .say = say,
                                       .replica_effect = replica_effect,
                                       .election_effect = election_effect,
                                       .beat = beat,
                                       .changed = changed,
                                       .judged = judged,
                                       .dial = dial,
                                       .hang_up = dial,
                                       .introduce = introduce,
                                       .dial_shard = dial_shard,
                                       .close_shard = close_shard,
                                       .order = order,
                                       .pass_on = pass_on,
                                       .answer = answer};

/* ---- messages ---- */

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

static void on_heartbeat(struct controller *c, int from, const struct message *m) {
    struct message *seen = message_new(M_HEARTBEAT_SEEN, 0);
    seen->beat.sent_at = m->beat.sent_at;
    network_send(c->process, from, seen);
    controllers_on_beat(&c->core, peer_at(c, from),
                        &(struct beat){.applied = m->beat.applied, .term = m->beat.term});
}

static void on_introduce(struct controller *c, int from, const struct message *m) {
    struct introduction in = {.node = m->introduce.node,
                              .empty = m->introduce.empty,
                              .join = m->introduce.joins,
                              .cluster_id = m->introduce.cluster_id};
    const struct metadata_node *known = metadata_node_named(c->core.metadata, in.node.name);
    if (known && c->core.leads &&
        (known->info.controller != in.node.controller ||
         memcmp(known->info.shards, in.node.shards, sizeof in.node.shards) != 0))
        sim_count(sim_of(c), RARE_newcomers);
    controllers_on_introduction(&c->core, peer_at(c, from), &in);
}

static void on_propose(struct controller *c, int from, const struct message *m) {
    requests_change(&c->core, FROM_CONTROLLER, c->process->ends[from].instance, m->propose.request,
                    m->propose.command, m->propose.deadline);
}

static void controller_message_in(struct controller *c, int from, struct message *m) {
    struct peer *p = peer_at(c, from);
    controllers_heard(&c->core, p);
    if (m->type == M_HEARTBEAT)
        on_heartbeat(c, from, m);
    else if (m->type == M_HEARTBEAT_SEEN)
        controllers_on_beat_seen(&c->core, p, m->beat.sent_at);
    else if (m->type == M_INTRODUCE)
        on_introduce(c, from, m);
    else if (m->type == M_PROPOSE)
        on_propose(c, from, m);
    else if (m->type == M_PROPOSED)
        requests_answered(&c->core, m->propose.request, m->propose.code, "", m->propose.index);
    else
        group_message(c, m);
}

static void shard_message_in(struct controller *c, int from, struct message *m) {
    struct shard_peer *s = shard_at(c, from);
    if (!s || !s->up)
        return;
    shards_heard(&c->core, s);
    if (m->type == M_SEALED)
        shards_on_sealed(&c->core, m->partition, &m->sealed.sealed, m->sealed.unknown);
    else if (m->type == M_REPORT)
        shards_on_report(&c->core, &m->report);
    else if (m->type == M_LOAD)
        shards_on_load(&c->core, s, 0, m->beat.load[0]);
}

void controller_message(struct process *p, int from, struct message *m) {
    struct controller *c = p->controller;
    if (p->sim->processes[from].kind == PROCESS_SHARD)
        shard_message_in(c, from, m);
    else
        controller_message_in(c, from, m);
    group_run(&c->core);
}

/* ---- links ---- */

/* A link to a shard is of use once its identity is the metadata's. */
static void offer(struct controller *c, int other) {
    struct end *end = &c->process->ends[other];
    struct shard_peer *s = end->up ? shard_at(c, other) : NULL;
    if (s && !s->up)
        shards_up(&c->core, s, end->member);
}

static void offer_all(struct controller *c) {
    for (int i = 0; i < sim_of(c)->processes_count; i++)
        if (sim_of(c)->processes[i].kind == PROCESS_SHARD)
            offer(c, i);
}

void controller_link_up(struct process *p, int other) {
    struct controller *c = p->controller;
    if (p->sim->processes[other].kind == PROCESS_SHARD)
        offer(c, other);
    else
        controllers_up(&c->core, peer_at(c, other), p->ends[other].member);
}

void controller_link_down(struct process *p, int other) {
    struct controller *c = p->controller;
    if (p->sim->processes[other].kind == PROCESS_CONTROLLER)
        controllers_down(&c->core, peer_at(c, other));
    else if (shard_at(c, other))
        shards_down(&c->core, shard_at(c, other));
    requests_link_gone(&c->core, p->ends[other].instance);
}

void controller_refused(struct process *p, int other) {
    struct controller *c = p->controller;
    if (p->sim->processes[other].kind == PROCESS_CONTROLLER)
        controllers_refused(&c->core, peer_at(c, other));
    else if (shard_at(c, other))
        shards_refused(&c->core, shard_at(c, other));
}

void controller_own_gone(struct process *p, int shard) {
    shards_own_gone(&p->controller->core, (unsigned)shard);
    process_touch(p);
}

/* ---- the loop ---- */

void controller_timer(struct process *p) {
    struct controller *c = p->controller;
    if (process_now(p) >= c->beat_at) {
        core_beat(&c->core);
        c->beat_at = process_now(p) + core_beat_interval(&c->core);
    }
    if (process_now(p) >= c->tick_at) {
        core_tick(&c->core);
        c->tick_at = core_deadline(&c->core);
    }
    process_touch(p);
}

void controller_turn(struct process *p) {
    struct controller *c = p->controller;
    offer_all(c);
    core_turn(&c->core);
    usec_t sooner = core_deadline(&c->core);
    if (sooner < c->tick_at)
        c->tick_at = sooner;
    process_wake(p, c->beat_at < c->tick_at ? c->beat_at : c->tick_at);
}

void controller_synced(struct process *p, uint64_t ticket) {
    group_synced(&p->controller->core, ticket);
}

/* ---- life ---- */

static void name_address(const struct sim *s, int node, struct config_address *out) {
    snprintf(out->text, sizeof out->text, "%s:7410", s->nodes[node].name);
}

/* Who begins the cluster; a node that comes later is told of one of them. */
static void name_others(struct controller *c) {
    struct sim *s = sim_of(c);
    if (s->nodes[c->process->node].joins) {
        c->config.join = xcalloc(1, sizeof *c->config.join);
        name_address(s, 0, &c->config.join[c->config.join_count++]);
        return;
    }
    c->config.initial = xcalloc((size_t)s->nodes_count, sizeof *c->config.initial);
    for (int i = 0; i < s->nodes_count; i++) {
        struct config_node *n = &c->config.initial[c->config.initial_count];
        if (s->nodes[i].joins)
            continue;
        snprintf(n->name, sizeof n->name, "%s", s->nodes[i].name);
        name_address(s, i, &n->address);
        c->config.initial_count++;
    }
}

static void configure(struct controller *c) {
    struct sim *s = sim_of(c);
    const char *name = s->nodes[c->process->node].name;
    c->config = (struct config){.shards = (unsigned)s->shards_per_node,
                                .cluster = "sim",
                                .heartbeat = CONTROLLER_HEARTBEAT_US,
                                .timeout = s->failure_timeout,
                                .replace_after = s->rebuild_grace,
                                .rebuild_grace = s->rebuild_grace};
    snprintf(c->config.node, sizeof c->config.node, "%s", name);
    name_address(s, c->process->node, &c->config.listen_cluster);
    snprintf(c->config.listen_client.text, sizeof c->config.listen_client.text, "%s:7400", name);
    snprintf(c->config.listen_admin.text, sizeof c->config.listen_admin.text, "%s:7480", name);
    name_others(c);
}

void controller_start(struct process *p) {
    struct controller *c = xcalloc(1, sizeof *c);
    p->controller = c;
    c->process = p;
    c->peers = xcalloc((size_t)p->sim->nodes_count, sizeof *c->peers);
    c->shards = xcalloc((size_t)p->sim->processes_count, sizeof *c->shards);
    configure(c);
    uint64_t election_seed = rng_next(&p->sim->rng), control_seed = rng_next(&p->sim->rng);
    core_open(&c->core, &(struct core_options){.config = &c->config,
                                               .journal = p->journal,
                                               .self = p->self,
                                               .starts = p->starts,
                                               .cool = p->sim->swarm.cool,
                                               .settle = p->sim->swarm.settle,
                                               .checkpoint_entries = p->sim->checkpoint_entries
                                                                         ? p->sim->checkpoint_entries
                                                                         : CONTROLLER_CHECKPOINT_ENTRIES,
                                               .election_seed = election_seed,
                                               .control_seed = control_seed,
                                               .host = &calls,
                                               .host_context = c});
    c->beat_at = c->tick_at = process_now(p);
    process_touch(p);
}

void controller_free(struct process *p) {
    struct controller *c = p->controller;
    core_close(&c->core);
    free(c->config.initial);
    free(c->config.join);
    free(c->shards);
    free(c->peers);
    free(c);
    p->controller = NULL;
}

/* ---- administration ---- */

/* Somebody's gateway asks: any controller may be the one. */
void controller_request(struct process *p, struct command *command) {
    struct process *other =
        sim_controller(p->sim, (int)rng_below(&p->sim->rng, (uint64_t)p->sim->nodes_count));
    struct process *asked = other->up && other->frozen_until <= p->sim->now ? other : p;
    struct controller *c = asked->controller;
    struct encoder e = {0};
    command_encode(command, &e);
    struct body *body = encoder_body(&e);
    requests_change(&c->core, FROM_GATEWAY, 0, ++c->next_request, body, CONTROLLER_REQUEST_US);
    body_drop(body);
    process_touch(asked);
}

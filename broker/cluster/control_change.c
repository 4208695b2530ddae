// SPDX-License-Identifier: Apache-2.0
/*
 * What is planned rather than suffered: leader moves, changes of the set, drops
 * of data that left it, and the requests of operators.
 *
 * A change of the set from P to S: learners (S without P) are proposed; each
 * reports CAUGHT_UP; P is sealed; the activating record is committed (end of the
 * operation); ACTIVATED is reported and committed: S alone; a leader outside of S
 * is moved; P's leavers drop their data. Any failure on the way takes the
 * learners out again and leaves P as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "cluster/control_private.h"

enum { DROPS_A_TURN_MAX = 1024 };

/* ---- who leads how many ---- */

static void count_leader(struct control *c, member_t leader, int by) {
    const struct metadata_node *n = metadata_node_of(c->m, leader, NULL);
    if (n && n->id < 1025 && (by > 0 || c->leaders[n->id] > 0))
        c->leaders[n->id] += (uint32_t)by;
}

void control_lead_counted(struct control *c, struct watch *w, member_t leader) {
    count_leader(c, w->leader, -1);
    count_leader(c, leader, 1);
    w->leader = leader;
}

void control_leads_recount(struct control *c) {
    memset(c->leaders, 0, sizeof c->leaders);
    for (const struct watch *w = c->watches; w; w = w->hh.next)
        count_leader(c, w->leader, 1);
}

/* ---- moving a leader ---- */

bool move_start(struct control *c, struct watch *w, member_t to, const char *why, usec_t now,
                struct control_effects *fx) {
    const struct metadata_partition *p = control_partition(c, w);
    if (w->op || to == 0 || c->moves >= CONTROL_MOVES_MAX || !control_usable(c, to) ||
        !control_majority(c, &p->record.current))
        return false;
    struct op *op = op_begin(c, w, OP_MOVE, why, now);
    op->stage = STAGE_HOLD;
    op->target = to;
    op->base_version = p->record.version;
    op->deadline = now + 2 * CONTROL_HOLD_US;
    struct control_effect *e = control_effect_add(fx, CONTROL_SEND_HOLD, p->record.leader, p->id);
    e->hold.target = to;
    e->hold.at_most = CONTROL_HOLD_US;
    return true;
}

/* The member of the set whose node leads least. */
member_t change_best(struct control *c, const struct replica_record *r, member_t not ) {
    member_t best = 0;
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < r->current.count; i++) {
        member_t m = r->current.members[i];
        const struct metadata_node *n = metadata_node_of(c->m, m, NULL);
        if (m == not || !n || detector_member(c->d, m) != DETECTOR_UP || n->id >= 1025)
            continue;
        if (c->leaders[n->id] < least) {
            least = c->leaders[n->id];
            best = m;
        }
    }
    return best;
}

size_t control_vacate(struct control *c, member_t member, usec_t now, struct control_effects *fx) {
    size_t leads = 0;
    struct watch *w, *next;
    HASH_ITER(hh, c->watches, w, next) {
        const struct metadata_partition *p = control_partition(c, w);
        if (!c->running || p->record.leader != member)
            continue;
        leads++;
        if (!w->op && control_led(c, w, p) && !p->record.activating)
            move_start(c, w, change_best(c, &p->record, member), "its leader is to restart", now, fx);
    }
    return leads;
}

/* ---- changing the set ---- */

void change_propose_learners(struct control *c, struct watch *w, const struct replica_set *learners,
                             usec_t now, struct control_effects *fx) {
    const struct metadata_partition *p = control_partition(c, w);
    struct command command = {
        .type = COMMAND_LEARNERS,
        .partition = {.partition = p->id, .base_version = p->record.version, .learners = *learners}};
    w->asked_at = now;
    control_propose(c, &command, fx);
}

static struct replica_set newcomers(const struct replica_set *set, const struct replica_set *from) {
    struct replica_set out = {0};
    for (uint32_t i = 0; i < set->count; i++) {
        if (!replica_set_has(from, set->members[i]))
            out.members[out.count++] = set->members[i];
    }
    return out;
}

/* What may not take part in a change now. */
static bool change_hindered(const struct control *c, const struct watch *w, const struct replica_set *set) {
    for (uint32_t i = 0; i < set->count; i++) {
        if (!control_usable(c, set->members[i]) || metadata_drop_find(c->m, w->partition, set->members[i]))
            return true;
    }
    return false;
}

/* A leader that stays saves a second move. */
static member_t stays(const struct control *c, const struct replica_record *r,
                      const struct replica_set *set) {
    for (uint32_t i = 0; i < set->count; i++) {
        if (replica_set_has(&r->current, set->members[i]) && control_usable(c, set->members[i]))
            return set->members[i];
    }
    return 0;
}

bool change_start(struct control *c, struct watch *w, const struct replica_set *set, const char *why,
                  usec_t now, struct control_effects *fx) {
    const struct replica_record *r = &control_partition(c, w)->record;
    struct replica_set learners = newcomers(set, &r->current);
    if (w->op || r->activating || r->learners.count || c->changes >= CONTROL_CHANGES_MAX ||
        change_hindered(c, w, &learners) || !control_majority(c, &r->current))
        return false;
    member_t heir = stays(c, r, set);
    if (heir && !replica_set_has(set, r->leader))
        return move_start(c, w, heir, why, now, fx); /* then the change, at the next plan */
    struct op *op = op_begin(c, w, OP_CHANGE, why, now);
    op->set = *set;
    op->base_version = r->version;
    if (learners.count == 0) {
        seal_start(c, op, now, fx);
        return true;
    }
    op->stage = STAGE_LEARN;
    op->deadline = now + CONTROL_PROPOSE_US; /* for the proposal; the learning has its own */
    change_propose_learners(c, w, &learners, now, fx);
    return true;
}

void change_applied(struct control *c, struct op *op, const struct replica_record *r, usec_t now,
                    struct control_effects *fx) {
    op->base_version = r->version;
    if (op->kind != OP_CHANGE || op->stage != STAGE_LEARN)
        return;
    struct replica_set learners = newcomers(&op->set, &r->current);
    if (r->learners.count && !replica_set_equal(&learners, &r->learners)) {
        change_give_up(c, op, "other learners", now, fx);
        return;
    }
    if (r->learners.count) {
        op->deadline = now + CONTROL_LEARN_US;
        return;
    }
    op->deadline = now + CONTROL_PROPOSE_US;
    change_propose_learners(c, op->watch, &learners, now,
                            fx); /* the record moved on: what was proposed is stale */
}

void change_caught_up(struct control *c, struct op *op, member_t peer, usec_t now,
                      struct control_effects *fx) {
    const struct replica_record *r = &control_partition(c, op->watch)->record;
    if (replica_set_has(&op->set, peer) && !replica_set_has(&op->caught, peer))
        op->caught.members[op->caught.count++] = peer;
    struct replica_set learners = newcomers(&op->set, &r->current);
    if (op->caught.count < learners.count)
        return;
    op->give_up_at = now + CONTROL_PLANNED_US;
    seal_start(c, op, now, fx);
}

void change_give_up(struct control *c, struct op *op, const char *why, usec_t now,
                    struct control_effects *fx) {
    struct watch *w = op->watch;
    const struct metadata_partition *p = control_partition(c, w);
    char name[NAME_BYTES_MAX + 16];
    control_say(c, fx, "%s: %s called off: %s", control_name(c, p, name),
                op->kind == OP_MOVE ? "move of its leader" : "change of its replicas", why);
    w->cool_until = now + c->options.cool;
    bool learning = op->kind == OP_CHANGE;
    op_end(c, op);
    if (learning && p->record.learners.count)
        change_propose_learners(c, w, &(struct replica_set){0}, now, fx);
    control_review(c, w, now, fx);
}

/* A disk that was replaced takes its member along: nobody says that it died, and
 * whoever is there now was never asked. */
static bool op_lacks(const struct control *c, const struct op *op) {
    const struct metadata_partition *p = control_partition(c, op->watch);
    bool lacks = !metadata_node_of(c->m, p->record.leader, NULL) ||
                 (op->target && !metadata_node_of(c->m, op->target, NULL));
    for (uint32_t i = 0; !lacks && i < op->set.count; i++)
        lacks = !metadata_node_of(c->m, op->set.members[i], NULL);
    return lacks;
}

void change_nodes_changed(struct control *c, usec_t now, struct control_effects *fx) {
    struct op *op, *next;
    DL_FOREACH_SAFE(c->ops, op, next) {
        if ((op->stage == STAGE_HOLD || op->stage == STAGE_LEARN) && op_lacks(c, op))
            change_give_up(c, op, "a member's disk is another", now, fx);
    }
}

/* ---- drops ---- */

/* The newest epoch the drop may name; 0: not yet. */
static uint64_t drop_epoch(struct control *c, const struct metadata_drop *d) {
    const struct metadata_partition *p = metadata_partition(c->m, d->partition);
    if (d->removed || !p)
        return d->epoch;
    struct watch *w;
    HASH_FIND(hh, c->watches, &d->partition, sizeof d->partition, w);
    const struct replica_record *r = &p->record;
    if (w && MUTATED(leavers_drop_early) && !replica_set_has(&r->current, d->member))
        return r->epoch;
    if (!w || r->activating || !control_led(c, w, p) || !replica_set_has(&r->current, r->leader) ||
        metadata_holds(r, d->member))
        return 0;
    return r->epoch > d->epoch ? r->epoch : d->epoch;
}

void control_send_drops(struct control *c, usec_t now, struct control_effects *fx) {
    size_t sent = 0;
    c->drops_at = now + CONTROL_DROP_RETRY_US;
    for (size_t i = 0; i < metadata_drops_count(c->m) && sent < DROPS_A_TURN_MAX; i++) {
        const struct metadata_drop *d = metadata_drop_at(c->m, i);
        if (!metadata_node_of(c->m, d->member, NULL)) { /* that disk never comes back */
            control_on_report(c,
                              &(struct control_report){
                                  .kind = CONTROL_DROPPED, .partition = d->partition, .from = d->member},
                              now, fx);
            continue;
        }
        uint64_t epoch = control_usable(c, d->member) ? drop_epoch(c, d) : 0;
        if (epoch == 0)
            continue;
        struct control_effect *e = control_effect_add(fx, CONTROL_SEND_DROP, d->member, d->partition);
        e->drop.epoch = epoch;
        e->drop.removed = d->removed;
        sent++;
    }
}

/* ---- placement ---- */

static uint64_t load_of(const struct control *c, member_t member) {
    struct load *l;
    HASH_FIND(hh, c->loads, &member, sizeof member, l);
    return l ? l->value : 0;
}

static void view_node(const struct control *c, const struct metadata_node *n, usec_t now,
                      struct placement_node *out) {
    usec_t dead_since = detector_dead_since(c->d, n->id);
    out->id = n->id;
    out->usable = n->state == NODE_ALIVE && detector_node(c->d, n->id) == DETECTOR_UP;
    out->lost =
        n->state != NODE_ALIVE || (dead_since != USEC_NEVER && now - dead_since >= c->options.rebuild_grace);
    out->shards_count = n->info.shards_count;
    strcpy(out->zone, n->info.zone);
    for (uint32_t s = 0; s < n->info.shards_count; s++) {
        out->shards[s] = n->info.shards[s];
        out->shard_up[s] = detector_member(c->d, n->info.shards[s]) == DETECTOR_UP;
        out->load += load_of(c, n->info.shards[s]);
    }
}

void control_view(struct control *c, struct placement_view *v, usec_t now) {
    v->seed = c->options.seed ^ metadata_index(c->m);
    v->count = metadata_nodes_count(c->m);
    v->nodes = xcalloc(v->count + 1, sizeof *v->nodes);
    for (size_t i = 0; i < v->count; i++)
        view_node(c, metadata_node_at(c->m, i), now, &v->nodes[i]);
    placement_view_fill(v, c->m);
    struct op *op;
    DL_FOREACH(c->ops, op) {
        const struct replica_record *r = &control_partition(c, op->watch)->record;
        if (op->kind == OP_MOVE) {
            placement_count_leader(v, c->m, r->leader, -1);
            placement_count_leader(v, c->m, op->target, 1);
        }
        for (uint32_t k = 0; op->kind == OP_CHANGE && k < r->current.count; k++) {
            if (!replica_set_has(&op->set, r->current.members[k]))
                placement_count_replica(v, c->m, r->current.members[k], -1);
        }
        for (uint32_t k = 0; op->kind == OP_CHANGE && k < op->set.count; k++) {
            if (!replica_set_has(&r->current, op->set.members[k]) &&
                !replica_set_has(&r->learners, op->set.members[k]))
                placement_count_replica(v, c->m, op->set.members[k], 1);
        }
    }
}

struct may {
    struct control *c;
    usec_t now;
};

static bool may_touch(void *ctx, const struct metadata_partition *p) {
    struct may *may = ctx;
    struct watch *w;
    HASH_FIND(hh, may->c->watches, &p->id, sizeof p->id, w);
    return w && !w->op && !w->queued && !w->blocked && may->now >= w->cool_until &&
           control_led(may->c, w, p) && !metadata_quarantined(p) && w->damaged.count == 0 &&
           control_majority(may->c, &p->record.current);
}

/* Something will be due without any event: a grace that runs out, a cooling, a node
 * whose shards are back but not yet its controller (nobody tells of that). */
static bool plan_pending(const struct control *c, usec_t now) {
    for (size_t i = 0; i < metadata_nodes_count(c->m); i++) {
        const struct metadata_node *n = metadata_node_at(c->m, i);
        usec_t dead = detector_dead_since(c->d, n->id);
        if (n->state == NODE_ALIVE && dead == USEC_NEVER && detector_node(c->d, n->id) != DETECTOR_UP)
            return true;
        if (dead != USEC_NEVER && now - dead <= c->options.rebuild_grace + CONTROL_PLAN_US)
            return true;
    }
    for (const struct watch *w = c->watches; w; w = w->hh.next) {
        if (w->op || w->cool_until > now)
            return true;
    }
    return false;
}

static void plan_step(struct control *c, const struct placement_step *s, usec_t now,
                      struct control_effects *fx) {
    struct watch *w;
    HASH_FIND(hh, c->watches, &s->partition, sizeof s->partition, w);
    if (s->type == PLACEMENT_LEAD)
        move_start(c, w, s->to, "evens leaders out", now, fx);
    else
        change_start(c, w, &s->set, s->urgent ? "rebuilds replicas" : "evens replicas out", now, fx);
}

void control_plan(struct control *c, usec_t now, struct control_effects *fx) {
    size_t busy = c->moves + c->changes, room = CONTROL_MOVES_MAX > busy ? CONTROL_MOVES_MAX - busy : 0;
    c->plan_at = now + CONTROL_PLAN_US;
    if (!c->plan_wanted || room == 0)
        return;
    struct placement_view v;
    struct placement_step steps[CONTROL_MOVES_MAX];
    struct may may = {.c = c, .now = now};
    control_view(c, &v, now);
    size_t count = placement_plan(&v, c->m, may_touch, &may, steps, room);
    free(v.nodes);
    for (size_t i = 0; i < count; i++)
        plan_step(c, &steps[i], now, fx);
    c->plan_wanted = count > 0 || plan_pending(c, now);
}

/* ---- requests ---- */

enum err control_prepare(struct control *c, struct command *request, struct err_detail *detail) {
    if (request->type != COMMAND_MAILBOX_CREATE)
        return ERR_OK;
    const struct mailbox_settings *s = &request->mailbox_create.settings;
    if (s->partitions < 1 || s->partitions > MAILBOX_PARTITIONS_MAX)
        return err_set(detail, ERR_INVALID, "partitions: expected 1 to %d", MAILBOX_PARTITIONS_MAX);
    const struct metadata_mailbox *there = metadata_mailbox_named(c->m, request->mailbox_create.name);
    if (there)
        return ERR_OK; /* apply answers: the same, or exists with other settings */
    struct placement_view v;
    control_view(c, &v, c->plan_at);
    free(request->mailbox_create.placing);
    request->mailbox_create.placing = xcalloc(s->partitions, sizeof *request->mailbox_create.placing);
    request->mailbox_create.count = s->partitions;
    enum err err =
        placement_new(&v, s->partitions, metadata_replicas(c->m, s), request->mailbox_create.placing);
    free(v.nodes);
    return err == ERR_OK ? ERR_OK : err_set(detail, err, "no node that could hold it is up");
}

static member_t copy_on(const struct control *c, const struct metadata_partition *p,
                        const struct metadata_node *n) {
    const struct replica_set *sets[] = {&p->record.current, &p->record.previous};
    for (size_t k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < sets[k]->count; i++) {
            if (metadata_node_of(c->m, sets[k]->members[i], NULL) == n)
                return sets[k]->members[i];
        }
    }
    return 0;
}

/* No majority is up; or one is, and its copies have not given an answer that
 * counts for so long (they are damaged). */
static bool recover_needed(const struct control *c, const struct watch *w, const struct metadata_partition *p,
                           usec_t now) {
    if (!seal_possible(c, &p->record))
        return true;
    return w->op && w->op->stage == STAGE_SEAL && now - w->op->started_at >= CONTROL_RECOVER_US;
}

enum err control_recover(struct control *c, const char *mailbox, const char *node, usec_t now,
                         struct control_effects *fx, struct err_detail *detail) {
    const struct metadata_mailbox *b = metadata_mailbox_named(c->m, mailbox);
    const struct metadata_node *n = metadata_node_named(c->m, node);
    size_t started = 0, led = 0;
    if (!c->running)
        return err_set(detail, ERR_NOT_LEADER, "this controller does not lead");
    if (!b || !n)
        return err_set(detail, ERR_NOT_FOUND, b ? "no node %s" : "no mailbox %s", b ? node : mailbox);
    for (uint32_t i = 0; i < b->partitions_count; i++) {
        struct watch *w;
        HASH_FIND(hh, c->watches, &b->partitions[i], sizeof(uint64_t), w);
        const struct metadata_partition *p = metadata_partition(c->m, b->partitions[i]);
        member_t copy = copy_on(c, p, n);
        if (!w || !recover_needed(c, w, p, now)) {
            led++;
            continue;
        }
        if (!copy || !control_usable(c, copy))
            continue;
        if (w->op)
            op_end(c, w->op);
        struct op *op = op_begin(c, w, OP_RECOVER, "recovered by an operator, accepting loss", now);
        op->target = copy;
        seal_start(c, op, now, fx);
        started++;
    }
    if (started)
        return ERR_OK;
    return led ? err_set(detail, ERR_UNSAFE, "mailbox %s is led and has a majority", mailbox)
               : err_set(detail, ERR_NOT_FOUND, "node %s holds no copy of it that could be asked", node);
}

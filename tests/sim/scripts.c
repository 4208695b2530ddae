// SPDX-License-Identifier: Apache-2.0
/*
 * Directed worlds: what a rule of the protocol is there for, and chance brings about
 * too seldom. A script waits for what it can see of the world (who leads, what is
 * written, which message passes), then kills, cuts, or loses messages between replicas,
 * all of which may happen in any world; when, and how long, stays random. Each step has
 * its time; a script whose world went another way ends.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "check.h"
#include "clients.h"
#include "scripts.h"

enum {
    LOOK_MIN_US = 100,
    LOOK_MAX_US = 600,
    STEP_US_MAX = 2500000,
    LONG_US = 20000000,
    PARTITION = 1,
    DEATH_OF_10000 = 500
};

enum sets_variant { NEW_SET_ALONE, SEAL_OF_ONE, ACTIVATED_BY_ONE, SETS_VARIANTS };

struct script {
    int step, variant;
    usec_t step_at, wait;                 /* since when this step; that long after what it waits for */
    struct process *first, *next, *third; /* of the partition's copies, as the script calls them */
    bool (*loses)(struct sim *s, int from, int to, const struct message *m);
    uint64_t index, epoch;
    bool seen, older;
};

/* ---- the world, seen and touched ---- */

static const struct replica *copy_of(struct process *p) {
    struct partition *at = p && p->up ? shard_partition(p, PARTITION) : NULL;
    return at ? at->replica : NULL;
}

static bool leads(struct process *p) {
    const struct replica *r = copy_of(p);
    return r && replica_leading(r);
}

static struct process *leader(struct sim *s) {
    struct process *best = NULL;
    for (int i = 0; i < s->nodes_count; i++) {
        struct process *p = sim_shard(s, i, 0);
        if (leads(p) && (!best || replica_epoch(copy_of(p)) > replica_epoch(copy_of(best))))
            best = p;
    }
    return best;
}

static struct process *other(struct sim *s, const struct process *a, const struct process *b) {
    int first = (int)rng_below(&s->rng, (uint64_t)s->nodes_count);
    for (int i = 0; i < s->nodes_count; i++) {
        struct process *p = sim_shard(s, (first + i) % s->nodes_count, 0);
        if (p != a && p != b && copy_of(p))
            return p;
    }
    return NULL;
}

static const struct replica_record *decided(struct sim *s) {
    struct process *c = sim_leading_controller(s);
    const struct metadata_partition *p = c ? metadata_partition(controller_metadata(c), PARTITION) : NULL;
    return p ? &p->record : NULL;
}

static void go(struct sim *s, int step, usec_t wait_max) {
    struct script *t = s->script;
    sim_trace(s, "script: step %d", step);
    t->step = step;
    t->step_at = s->now;
    t->wait = sim_between(&s->rng, 0, wait_max);
    t->seen = false;
}

/* True once, a while after `what` was first so. */
static bool since(struct sim *s, bool what) {
    struct script *t = s->script;
    if (what && !t->seen) {
        t->seen = true;
        t->wait += s->now;
    }
    return t->seen && s->now >= t->wait;
}

static void kill(struct process *p) {
    process_kill_for(p, "killed by the script", LONG_US);
}

static void end(struct sim *s) {
    struct script *t = s->script;
    sim_trace(s, "script: ends");
    network_heal(s);
    t->loses = NULL;
    t->step = -1;
    for (int i = 0; i < s->nodes_count; i++)
        process_revive(sim_shard(s, i, 0));
}

static struct process *at(struct sim *s, int id) {
    return &s->processes[id];
}

/* The leader's orders come from another node; else the step begins again. */
static bool controlled_elsewhere(struct sim *s, const struct process *l) {
    struct process *c = sim_leading_controller(s);
    if (c && c->node != l->node)
        return true;
    if (c)
        process_kill(c, "killed by the script");
    go(s, 0, 300 * USEC_MS);
    return false;
}

/* ---- figure 8 of the Raft paper ----
 *
 * What `first` alone has stored, `next` knows nothing of and leads; then `first` leads
 * again and gives it to `third`, but no more than that; and `next` comes back. */

static bool all_lost(struct sim *s, int from, int to, const struct message *m) {
    (void)to;
    if (m->type != M_APPEND || m->partition != PARTITION)
        return false;
    if (s->script->step == 2 && at(s, from) != s->script->first)
        s->script->next = at(s, from);
    return true;
}

/* First it is asked where its log agrees; then it is sent what is older, one by one. */
static bool own_lost(struct sim *s, int from, int to, const struct message *m) {
    struct script *t = s->script;
    if (m->type != M_APPEND || m->partition != PARTITION || at(s, from) != t->first || at(s, to) != t->third)
        return false;
    for (size_t i = 0; i < m->append.count; i++)
        t->older |= m->append.entries[i].epoch < m->append.epoch;
    if (!t->older)
        return false;
    for (size_t i = 0; i < m->append.count; i++)
        if (m->append.entries[i].epoch == m->append.epoch)
            return true;
    return false;
}

static void figure8(struct sim *s) {
    struct script *t = s->script;
    const struct replica *r = copy_of(t->first);
    switch (t->step) {
    case 0:
        if (!since(s, leader(s) && replica_commit(copy_of(leader(s))) > 4) || !leader(s))
            return;
        t->first = leader(s);
        t->loses = all_lost;
        t->index = replica_last_index(copy_of(t->first)) + 1;
        go(s, 1, 40 * USEC_MS);
        return;
    case 1:
        if (!since(s, r && replica_last_index(r) >= t->index + 1) || !r)
            return;
        t->index = replica_last_index(r) - 1; /* its own epoch, and certainly unknown to the others */
        t->epoch = replica_epoch_at(r, t->index);
        kill(t->first);
        go(s, 2, 10 * USEC_MS);
        return;
    case 2:
        if (!since(s, t->next))
            return;
        kill(t->next);
        process_revive(t->first);
        t->loses = own_lost;
        t->third = other(s, t->first, t->next);
        go(s, 3, 100 * USEC_MS);
        return;
    case 3:
        r = copy_of(t->third);
        if (!since(s, r && leads(t->first) && replica_last_index(r) >= t->index &&
                          replica_epoch_at(r, t->index) == t->epoch))
            return;
        kill(t->first);
        process_revive(t->next);
        t->loses = NULL;
        go(s, 4, 2 * USEC_S);
        return;
    default:
        if (since(s, true))
            end(s);
    }
}

static void orders_cut(struct sim *s, int node, bool cut) {
    for (int i = 0; i < s->nodes_count; i++) {
        network_cut(s, CUT_ORDERS, node, i, cut);
        network_cut(s, CUT_ORDERS, i, node, cut);
    }
}

/* ---- two sets ----
 *
 * A copy moves (its node is drained), and while both sets count the messages come
 * through to a part only; that part dies. */

static bool between_sets(struct sim *s, int from, int to, const struct message *m) {
    struct process *l = at(s, from), *p = at(s, to);
    if (m->type != M_APPEND || m->partition != PARTITION || !leads(l))
        return false;
    const struct replica_record *r = shard_record(l, PARTITION);
    if (!r->activating || !replica_set_has(&r->previous, l->self))
        return false;
    if (s->script->first != l) /* nobody hears how far it is */
        orders_cut(s, l->node, true);
    s->script->first = l;
    if (!replica_set_has(&r->previous, p->self))
        s->script->next = p;
    return replica_set_has(&r->previous, p->self);
}

/* Only who is to leave gets anything, from when the newcomer is said to have all. */
static bool but_leaver(struct sim *s, int from, int to, const struct message *m) {
    struct script *t = s->script;
    if (m->partition != PARTITION)
        return false;
    if (m->type == M_REPORT && m->report.kind == CONTROL_CAUGHT_UP && !t->index) {
        t->index = 1;
        t->first = at(s, from);
        usec_t how_long = sim_between(&s->rng, 10 * USEC_MS, 80 * USEC_MS);
        for (int i = 0; i < s->nodes_count; i++) /* so much is done meanwhile */
            faults_cut_orders(s, i, how_long);
    }
    return m->type == M_APPEND && t->index && at(s, to) != t->third;
}

static bool activating(struct sim *s) {
    const struct replica_record *r = decided(s);
    return r && r->activating;
}

static void two_sets_wait(struct sim *s) {
    struct script *t = s->script;
    const struct replica *l = copy_of(t->first), *n = copy_of(t->next);
    if (t->variant == NEW_SET_ALONE) {
        if (!since(s, l && n && replica_leading(l) && replica_last_epoch(n) == replica_epoch(l)))
            return;
        kill(t->next);
        orders_cut(s, t->first->node, false);
    } else if (t->variant == SEAL_OF_ONE) {
        if (!t->first || !activating(s))
            return;
        orders_cut(s, t->third->node, true); /* no answer, and it may be alive */
    } else {
        if (!since(s, t->first && activating(s) && leader(s)) || !leader(s))
            return;
        t->first = leader(s);
    }
    if (t->first)
        kill(t->first);
    t->loses = NULL;
    go(s, 2, USEC_S);
    t->wait += USEC_S;
}

static void two_sets(struct sim *s) {
    struct script *t = s->script;
    struct process *l = leader(s);
    switch (t->step) {
    case 0:
        if (!since(s, l && replica_commit(copy_of(l)) > 4) || !l || !(t->third = other(s, l, NULL)))
            return;
        if (!controlled_elsewhere(s, l))
            return;
        t->variant = (int)rng_below(&s->rng, SETS_VARIANTS);
        t->loses = t->variant == NEW_SET_ALONE ? between_sets : but_leaver;
        faults_drain(s, t->third->node, 3 * USEC_S);
        go(s, 1, t->variant == ACTIVATED_BY_ONE ? 400 * USEC_MS : 100 * USEC_MS);
        t->wait += t->variant == ACTIVATED_BY_ONE ? 100 * USEC_MS : 20 * USEC_MS;
        return;
    case 1:
        two_sets_wait(s);
        return;
    default:
        if (since(s, true))
            end(s);
    }
}

/* ---- a late fence ----
 *
 * The leader is alone with some of its consumers, and another one delivers; then it
 * reaches one of the others again, which has promised it away. What it would learn of
 * by the replicas' own messages is lost. */

static bool followers_lost(struct sim *s, int from, int to, const struct message *m) {
    struct script *t = s->script;
    bool first = at(s, from) == t->first || at(s, to) == t->first;
    return first &&
           (m->type == M_APPEND || m->type == M_APPENDED || m->type == M_PIECE || m->type == M_PIECED);
}

static void shards_cut(struct sim *s, int node, int but, bool cut) {
    for (int i = 0; i < s->nodes_count; i++) {
        if (i == but)
            continue;
        network_cut(s, CUT_SHARDS, node, i, cut);
        network_cut(s, CUT_SHARDS, i, node, cut);
    }
}

static void alone(struct sim *s, int node, bool cut) {
    for (int i = 0; i < s->nodes_count; i++) {
        for (int what = CUT_ORDERS; what <= CUT_CLIENTS; what++) {
            network_cut(s, (enum sim_cut)what, node, i, cut);
            network_cut(s, (enum sim_cut)what, i, node, cut);
        }
    }
}

static void late_fence_begin(struct sim *s, struct process *l) {
    struct script *t = s->script;
    if (!controlled_elsewhere(s, l))
        return;
    t->first = l;
    t->third = other(s, l, NULL);
    t->variant = (int)rng_below(&s->rng, 2);
    t->epoch = replica_epoch(copy_of(l));
    t->loses = followers_lost;
    alone(s, l->node, true);
    shards_cut(s, l->node, t->variant ? -1 : t->third->node, true);
    go(s, 1, 100 * USEC_MS);
}

static void late_fence(struct sim *s) {
    struct script *t = s->script;
    struct process *l = leader(s);
    switch (t->step) {
    case 0:
        if (since(s, l && replica_commit(copy_of(l)) > 4) && l && other(s, l, NULL))
            late_fence_begin(s, l);
        return;
    case 1: /* until another one has delivered; what was on its way to the old one is lost */
        if (!since(s, check_log(s, PARTITION)->acting_epoch > t->epoch))
            return;
        if (t->variant) {
            for (int i = 0; i < s->nodes_count; i++)
                if (i != t->first->node)
                    network_reset(s, t->first, sim_shard(s, i, 0));
            shards_cut(s, t->first->node, -1, false);
        }
        go(s, 2, 600 * USEC_MS);
        t->wait += 600 * USEC_MS;
        return;
    default:
        if (sim_chance(&s->rng, DEATH_OF_10000)) /* it delivers to who comes anew */
            clients_kill_consumer(s);
        if (!since(s, true))
            return;
        alone(s, t->first->node, false);
        shards_cut(s, t->first->node, -1, false);
        end(s);
    }
}

/* ---- */

static void (*const plays[THEMES])(struct sim *) = {
    [THEME_figure8] = figure8,
    [THEME_two_sets] = two_sets,
    [THEME_late_fence] = late_fence,
};

static void on_look(struct sim *s, struct event *e) {
    struct script *t = s->script;
    (void)e;
    if (s->calm || t->step < 0)
        return;
    if (s->now - t->step_at > STEP_US_MAX) {
        end(s);
        return;
    }
    plays[s->swarm.theme](s);
    sim_at(s, s->now + sim_between(&s->rng, LOOK_MIN_US, LOOK_MAX_US), on_look);
}

void scripts_start(struct sim *s) {
    if (!plays[s->swarm.theme])
        return;
    s->script = xcalloc(1, sizeof *s->script);
    go(s, 0, 500 * USEC_MS);
    sim_at(s, s->now, on_look);
}

void scripts_stop(struct sim *s) {
    if (s->script && s->script->step >= 0)
        end(s);
}

bool scripts_lose(struct sim *s, int from, int to, const struct message *m) {
    return s->script && s->script->loses && s->script->loses(s, from, to, m);
}

// SPDX-License-Identifier: Apache-2.0
#include "cluster/placement.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

uint32_t placement_slack(uint64_t total, size_t nodes) {
    uint64_t share = nodes ? total * PLACEMENT_SPREAD_PERCENT / 100 / nodes : 0;
    return share > PLACEMENT_SPREAD_MIN ? (uint32_t)share : PLACEMENT_SPREAD_MIN;
}

/* ---- the view ---- */

static struct placement_node *view_node(const struct placement_view *v, uint32_t id) {
    if (id >= 1 && id <= v->count && v->nodes[id - 1].id == id)
        return &v->nodes[id - 1]; /* as the metadata has them */
    for (size_t i = 0; i < v->count; i++) {
        if (v->nodes[i].id == id)
            return &v->nodes[i];
    }
    return NULL;
}

/* Where a member lives in this view; NULL: nowhere. */
static struct placement_node *home(const struct placement_view *v, const struct metadata *m, member_t member,
                                   int *shard) {
    const struct metadata_node *n = metadata_node_of(m, member, shard);
    return n && *shard >= 0 ? view_node(v, n->id) : NULL;
}

void placement_count_replica(struct placement_view *v, const struct metadata *m, member_t member, int by) {
    int shard;
    struct placement_node *n = home(v, m, member, &shard);
    if (n) {
        n->replicas += (uint32_t)by;
        n->shard_replicas[shard] += (uint32_t)by;
    }
}

void placement_count_leader(struct placement_view *v, const struct metadata *m, member_t member, int by) {
    int shard;
    struct placement_node *n = home(v, m, member, &shard);
    if (n) {
        n->leaders += (uint32_t)by;
        n->shard_leaders[shard] += (uint32_t)by;
    }
}

void placement_view_fill(struct placement_view *v, const struct metadata *m) {
    for (size_t i = 0; i < v->count; i++) {
        struct placement_node *n = &v->nodes[i];
        n->leaders = n->replicas = 0;
        memset(n->shard_leaders, 0, sizeof n->shard_leaders);
        memset(n->shard_replicas, 0, sizeof n->shard_replicas);
    }
    for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
         p = metadata_partition_next(m, p->id)) {
        placement_count_leader(v, m, p->record.leader, 1);
        for (uint32_t i = 0; i < p->record.current.count; i++)
            placement_count_replica(v, m, p->record.current.members[i], 1);
        for (uint32_t i = 0; i < p->record.learners.count; i++) {
            if (!replica_set_has(&p->record.current, p->record.learners.members[i]))
                placement_count_replica(v, m, p->record.learners.members[i], 1);
        }
    }
}

/* The last tie-breaker: a mixed hash, so that equal nodes take turns. */
static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t z = (a ^ b * 0x9E3779B97F4A7C15u) + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static int shard_least(const struct placement_node *n) {
    int best = -1;
    for (uint32_t s = 0; s < n->shards_count; s++) {
        if (n->shard_up[s] && (best < 0 || n->shard_replicas[s] < n->shard_replicas[best]))
            best = (int)s;
    }
    return best;
}

/* ---- choosing a node for one more replica ---- */

struct chosen {
    const struct placement_node *nodes[REPLICA_SET_MAX];
    uint32_t count;
};

static bool chosen_has(const struct chosen *c, const struct placement_node *n) {
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->nodes[i] == n)
            return true;
    }
    return false;
}

static bool zone_taken(const struct chosen *c, const struct placement_node *n) {
    for (uint32_t i = 0; i < c->count && n->zone[0]; i++) {
        if (strcmp(c->nodes[i]->zone, n->zone) == 0)
            return true;
    }
    return false;
}

static bool node_better(const struct placement_view *v, const struct chosen *c,
                        const struct placement_node *a, const struct placement_node *b) {
    bool za = zone_taken(c, a), zb = zone_taken(c, b);
    if (za != zb)
        return zb;
    if (a->replicas != b->replicas)
        return a->replicas < b->replicas;
    if (a->leaders != b->leaders)
        return a->leaders < b->leaders;
    if (a->load != b->load)
        return a->load < b->load;
    return mix(v->seed, a->id) < mix(v->seed, b->id);
}

static struct placement_node *node_pick(const struct placement_view *v, const struct chosen *c) {
    struct placement_node *best = NULL;
    for (size_t i = 0; i < v->count; i++) {
        struct placement_node *n = &v->nodes[i];
        if (!n->usable || chosen_has(c, n) || shard_least(n) < 0)
            continue;
        if (!best || node_better(v, c, n, best))
            best = n;
    }
    return best;
}

/* The node that is to lead a new partition: the one that leads least. */
static struct placement_node *leader_pick(const struct placement_view *v) {
    struct placement_node *best = NULL;
    const struct chosen none = {.count = 0};
    for (size_t i = 0; i < v->count; i++) {
        struct placement_node *n = &v->nodes[i];
        if (!n->usable || shard_least(n) < 0)
            continue;
        bool fewer = best && n->leaders < best->leaders;
        if (!best || fewer || (n->leaders == best->leaders && node_better(v, &none, n, best)))
            best = n;
    }
    return best;
}

static void replica_add(struct chosen *c, struct replica_set *set, struct placement_node *n) {
    int shard = shard_least(n);
    n->replicas++;
    n->shard_replicas[shard]++;
    c->nodes[c->count++] = n;
    set->members[set->count++] = n->shards[shard];
}

/* Add replicas until the set has `wanted`, or no node is left. */
static void set_fill(struct placement_view *v, struct chosen *c, struct replica_set *set, uint32_t wanted) {
    while (set->count < wanted && c->count < REPLICA_SET_MAX) {
        struct placement_node *n = node_pick(v, c);
        if (!n)
            return;
        replica_add(c, set, n);
    }
}

enum err placement_new(struct placement_view *v, uint32_t count, uint32_t replicas, struct placing *out) {
    for (uint32_t i = 0; i < count; i++) {
        struct chosen c = {.count = 0};
        out[i] = (struct placing){0};
        v->seed = mix(v->seed, i);
        struct placement_node *leader = leader_pick(v);
        if (!leader)
            return ERR_UNAVAILABLE;
        replica_add(&c, &out[i].set, leader);
        set_fill(v, &c, &out[i].set, replicas < REPLICA_SET_MAX ? replicas : REPLICA_SET_MAX);
        out[i].leader = out[i].set.members[0];
        leader->leaders++;
        for (uint32_t s = 0; s < leader->shards_count; s++)
            leader->shard_leaders[s] += leader->shards[s] == out[i].leader;
    }
    return ERR_OK;
}

/* ---- planning ---- */

struct spread {
    uint32_t least, most;
    bool even;
};

struct plan {
    struct placement_view *v;
    const struct metadata *m;
    struct placement_step *out;
    size_t count, max;
    uint32_t replicas_most; /* that a set can have now */
    /* How even it is: the same until a step is added. */
    struct spread spread;
    size_t spread_at;
    bool spread_known, spread_leaders;
};

static bool planned(const struct plan *p, uint64_t partition) {
    for (size_t i = 0; i < p->count; i++) {
        if (p->out[i].partition == partition)
            return true;
    }
    return false;
}

static struct placement_step *step_add(struct plan *p, enum placement_step_type type, uint64_t partition) {
    CHECK(p->count < p->max);
    struct placement_step *s = &p->out[p->count++];
    *s = (struct placement_step){.type = type, .partition = partition};
    return s;
}

static uint32_t replicas_wanted(const struct plan *plan, const struct metadata_partition *p) {
    uint32_t replicas = metadata_mailbox(plan->m, p->mailbox)->settings.replicas;
    return replicas < plan->replicas_most ? replicas : plan->replicas_most;
}

/* Cheaper than to ask whether it may be touched: most sets are whole. */
static bool repair_due(const struct plan *plan, const struct metadata_partition *p) {
    for (uint32_t i = 0; i < p->record.current.count; i++) {
        int shard;
        const struct placement_node *n = home(plan->v, plan->m, p->record.current.members[i], &shard);
        if (!n || n->lost)
            return true;
    }
    return p->record.current.count < replicas_wanted(plan, p);
}

/* Replicas that are lost are built elsewhere; a set that is smaller than it
 * should be grows. A set never shrinks because somebody died. */
static void plan_repair(struct plan *plan, const struct metadata_partition *p) {
    uint32_t wanted = replicas_wanted(plan, p);
    struct replica_set set = {0};
    struct chosen c = {.count = 0};
    for (uint32_t i = 0; i < p->record.current.count; i++) {
        int shard;
        const struct placement_node *n = home(plan->v, plan->m, p->record.current.members[i], &shard);
        if (!n || n->lost)
            continue;
        c.nodes[c.count++] = n;
        set.members[set.count++] = p->record.current.members[i];
    }
    uint32_t kept = set.count, lost = p->record.current.count - kept;
    if (lost == 0 && kept >= wanted)
        return;
    set_fill(plan->v, &c, &set, wanted > kept ? wanted : kept);
    bool better = lost ? set.count >= p->record.current.count : set.count > kept;
    if (better || (lost && set.count >= wanted)) {
        struct placement_step *s = step_add(plan, PLACEMENT_SET, p->id);
        s->set = set;
        s->urgent = true;
        for (uint32_t i = 0; i < p->record.current.count; i++) {
            if (!replica_set_has(&set, p->record.current.members[i]))
                placement_count_replica(plan->v, plan->m, p->record.current.members[i], -1);
        }
        return;
    }
    for (uint32_t i = kept; i < set.count; i++)
        placement_count_replica(plan->v, plan->m, set.members[i], -1);
}

static struct spread spread_of(const struct placement_view *v, bool leaders) {
    struct spread s = {.least = UINT32_MAX};
    uint64_t total = 0;
    size_t nodes = 0;
    for (size_t i = 0; i < v->count; i++) {
        uint32_t n = leaders ? v->nodes[i].leaders : v->nodes[i].replicas;
        if (!v->nodes[i].usable)
            continue;
        nodes++;
        total += n;
        s.least = n < s.least ? n : s.least;
        s.most = n > s.most ? n : s.most;
    }
    s.even = nodes < 2 || s.most - s.least <= placement_slack(total, nodes);
    return s;
}

static struct spread plan_spread(struct plan *p, bool leaders) {
    if (!p->spread_known || p->spread_at != p->count || p->spread_leaders != leaders) {
        p->spread = spread_of(p->v, leaders);
        p->spread_at = p->count;
        p->spread_leaders = leaders;
        p->spread_known = true;
    }
    return p->spread;
}

/* A move counts if it takes from the fullest or gives to the emptiest, and the
 * two are at least 2 apart: then the sum of squares falls. */
static bool worth(const struct spread *s, uint32_t from, uint32_t to) {
    return from >= to + 2 && (from == s->most || to == s->least);
}

static bool plan_lead(struct plan *plan, const struct metadata_partition *p) {
    int shard;
    struct spread s = plan_spread(plan, true);
    const struct placement_node *from = home(plan->v, plan->m, p->record.leader, &shard);
    if (s.even || !from)
        return false;
    member_t best = 0;
    const struct placement_node *best_node = NULL;
    for (uint32_t i = 0; i < p->record.current.count; i++) {
        const struct placement_node *to = home(plan->v, plan->m, p->record.current.members[i], &shard);
        if (!to || to == from || !to->usable || !to->shard_up[shard] ||
            !worth(&s, from->leaders, to->leaders))
            continue;
        if (!best_node || to->leaders < best_node->leaders ||
            (to->leaders == best_node->leaders && to->load < best_node->load)) {
            best = p->record.current.members[i];
            best_node = to;
        }
    }
    if (!best)
        return false;
    step_add(plan, PLACEMENT_LEAD, p->id)->to = best;
    placement_count_leader(plan->v, plan->m, p->record.leader, -1);
    placement_count_leader(plan->v, plan->m, best, 1);
    return true;
}

/* ---- a chain of leader moves, when no single one helps ---- */

enum { CHAIN_NODES_MAX = 256 };

struct chain {
    struct plan *plan;
    placement_may *may;
    void *ctx;
    struct {
        uint64_t partition; /* led on the row's node, with a member on the column's; 0: none */
        member_t to;
    } edge[CHAIN_NODES_MAX][CHAIN_NODES_MAX];
    size_t from[CHAIN_NODES_MAX]; /* the node before it on the way */
    bool seen[CHAIN_NODES_MAX];
};

static void chain_edges(struct chain *c) {
    const struct placement_view *v = c->plan->v;
    for (const struct metadata_partition *p = metadata_partition_next(c->plan->m, 0); p;
         p = metadata_partition_next(c->plan->m, p->id)) {
        int shard;
        const struct placement_node *from = home(v, c->plan->m, p->record.leader, &shard);
        if (!from || p->record.activating || p->record.learners.count || planned(c->plan, p->id) ||
            !c->may(c->ctx, p))
            continue;
        for (uint32_t i = 0; i < p->record.current.count; i++) {
            const struct placement_node *to = home(v, c->plan->m, p->record.current.members[i], &shard);
            if (to && to != from && to->usable && to->shard_up[shard]) {
                c->edge[from - v->nodes][to - v->nodes].partition = p->id;
                c->edge[from - v->nodes][to - v->nodes].to = p->record.current.members[i];
            }
        }
    }
}

/* Breadth first from a fullest node to one with at least two fewer; its position, or count. */
static size_t chain_search(struct chain *c, size_t start) {
    const struct placement_view *v = c->plan->v;
    size_t queue[CHAIN_NODES_MAX], head = 0, tail = 0;
    memset(c->seen, 0, sizeof c->seen);
    c->seen[start] = true;
    queue[tail++] = start;
    while (head < tail) {
        size_t at = queue[head++];
        if (v->nodes[at].leaders + 2 <= v->nodes[start].leaders)
            return at;
        for (size_t next = 0; next < v->count; next++) {
            if (c->seen[next] || !c->edge[at][next].partition)
                continue;
            c->seen[next] = true;
            c->from[next] = at;
            queue[tail++] = next;
        }
    }
    return v->count;
}

static bool chain_take(struct chain *c, size_t start) {
    struct plan *plan = c->plan;
    size_t end = chain_search(c, start), length = 0;
    if (end == plan->v->count)
        return false;
    for (size_t at = end; at != start; at = c->from[at])
        length++;
    if (plan->count + length > plan->max)
        return false;
    for (size_t at = end; at != start; at = c->from[at]) {
        size_t before = c->from[at];
        const struct metadata_partition *p = metadata_partition(plan->m, c->edge[before][at].partition);
        step_add(plan, PLACEMENT_LEAD, p->id)->to = c->edge[before][at].to;
        placement_count_leader(plan->v, plan->m, p->record.leader, -1);
        placement_count_leader(plan->v, plan->m, c->edge[before][at].to, 1);
    }
    return true;
}

static void plan_chain(struct plan *plan, placement_may *may, void *ctx) {
    struct spread s = plan_spread(plan, true);
    if (s.even || plan->v->count > CHAIN_NODES_MAX)
        return;
    struct chain *c = xcalloc(1, sizeof *c);
    c->plan = plan;
    c->may = may;
    c->ctx = ctx;
    chain_edges(c);
    for (size_t i = 0; i < plan->v->count; i++) {
        const struct placement_node *n = &plan->v->nodes[i];
        if (n->usable && (n->leaders == s.most || s.least + 2 <= n->leaders) && chain_take(c, i))
            break;
    }
    free(c);
}

/* The member to take away: on the fullest node; rather a follower than the leader. */
static bool replica_to_move(const struct plan *plan, const struct metadata_partition *p,
                            const struct spread *s, uint32_t *at, bool leaders_too) {
    for (uint32_t i = 0; i < p->record.current.count; i++) {
        int shard;
        const struct placement_node *n = home(plan->v, plan->m, p->record.current.members[i], &shard);
        bool leads = p->record.current.members[i] == p->record.leader;
        if (n && n->usable && n->replicas == s->most && (leaders_too || !leads)) {
            *at = i;
            return true;
        }
    }
    return false;
}

static bool plan_move(struct plan *plan, const struct metadata_partition *p, bool leaders_too) {
    struct spread s = plan_spread(plan, false);
    uint32_t at;
    if (s.even || !replica_to_move(plan, p, &s, &at, leaders_too))
        return false;
    struct replica_set set = p->record.current;
    struct chosen all = {.count = 0}, others = {.count = 0};
    for (uint32_t i = 0; i < set.count; i++) {
        int shard;
        const struct placement_node *n = home(plan->v, plan->m, set.members[i], &shard);
        if (!n || n->lost)
            return false;
        all.nodes[all.count++] = n;
        if (i != at)
            others.nodes[others.count++] = n;
    }
    struct placement_node *to = node_pick(plan->v, &all);
    if (!to || !worth(&s, s.most, to->replicas))
        return false;
    if (zone_taken(&others, to) && !zone_taken(&others, all.nodes[at]))
        return false;
    placement_count_replica(plan->v, plan->m, set.members[at], -1);
    set.members[at] = to->shards[shard_least(to)];
    placement_count_replica(plan->v, plan->m, set.members[at], 1);
    step_add(plan, PLACEMENT_SET, p->id)->set = set;
    return true;
}

enum pass { PASS_REPAIR, PASS_LEAD, PASS_MOVE_FOLLOWERS, PASS_MOVE_ANY, PASSES };

static bool pass_done(struct plan *plan, enum pass pass) {
    if (plan->count == plan->max)
        return true;
    return pass != PASS_REPAIR && plan_spread(plan, pass == PASS_LEAD).even;
}

size_t placement_plan(struct placement_view *v, const struct metadata *m, placement_may *may, void *ctx,
                      struct placement_step *out, size_t max) {
    struct plan plan = {
        .v = v, .m = m, .out = out, .max = max < PLACEMENT_STEPS_MAX ? max : PLACEMENT_STEPS_MAX};
    plan.replicas_most = metadata_replicas(m, &(struct mailbox_settings){.replicas = UINT32_MAX});
    for (enum pass pass = 0; pass < PASSES; pass++) {
        size_t before = plan.count;
        for (const struct metadata_partition *p = metadata_partition_next(m, 0); p && !pass_done(&plan, pass);
             p = metadata_partition_next(m, p->id)) {
            if (p->record.activating || p->record.learners.count || planned(&plan, p->id) ||
                (pass == PASS_REPAIR && !repair_due(&plan, p)) || !may(ctx, p))
                continue;
            if (pass == PASS_REPAIR)
                plan_repair(&plan, p);
            else if (pass == PASS_LEAD)
                plan_lead(&plan, p);
            else
                plan_move(&plan, p, pass == PASS_MOVE_ANY);
        }
        if (pass == PASS_LEAD && plan.count == before)
            plan_chain(&plan, may, ctx);
    }
    return plan.count;
}

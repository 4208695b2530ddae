// SPDX-License-Identifier: Apache-2.0
/*
 * Links between processes: streams in order, as over tcp. They are dialled and
 * dialled again; a reset loses what is in flight, and the two ends learn of it at
 * different times; behind a cut messages wait until it heals or the link is reset.
 * Messages between replicas may be lost, doubled or late besides: more than a
 * stream does, but the cores say they stand it.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "kept.h"
#include "scripts.h"
#include "sim.h"

enum {
    DIAL_MIN_US = 2000,
    DIAL_MAX_US = 200000,
    DOWN_US_MAX = 4000,      /* from a reset to an end's knowing */
    CUT_TIMEOUT_US = 3000000 /* a stream that gets nothing through is given up */
};

struct held_message {
    struct message *m;
    uint64_t instance;
    struct held_message *next;
};

static struct pair *pair_of(struct sim *s, int a, int b) {
    return a < b ? &s->pairs[b][a] : &s->pairs[a][b];
}

static bool is_cut(const struct sim *s, int from, int to) {
    const struct process *a = &s->processes[from], *b = &s->processes[to];
    bool shards = a->kind == PROCESS_SHARD && b->kind == PROCESS_SHARD;
    bool clients = (a->kind == PROCESS_GATEWAY) != (b->kind == PROCESS_GATEWAY);
    bool orders = a->kind != b->kind && !clients;
    return s->cut[CUT_ALL][a->node][b->node] || (shards && s->cut[CUT_SHARDS][a->node][b->node]) ||
           (orders && s->cut[CUT_ORDERS][a->node][b->node]) ||
           (clients && s->cut[CUT_CLIENTS][a->node][b->node]);
}

static usec_t delay(struct sim *s, int from, int to) {
    struct swarm *w = &s->swarm;
    if (s->processes[from].node == s->processes[to].node)
        return sim_between(&s->rng, 20, 60);
    usec_t d = sim_between(&s->rng, w->delay_min, w->delay_max);
    if (!s->calm && w->slow_percent && sim_chance(&s->rng, w->slow_percent * 100))
        d += sim_between(&s->rng, 0, w->slow_max);
    return d;
}

/* ---- ends ---- */

static void told_up(struct process *p, int other) {
    if (p->kind == PROCESS_SHARD)
        shard_link_up(p, other);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_link_up(p, other);
    else
        gateway_link_up(p, other);
    process_touch(p);
}

static void told_down(struct process *p, int other) {
    struct end was = p->ends[other];
    if (!was.up)
        return;
    p->ends[other].up = false;
    if (p->kind == PROCESS_SHARD)
        shard_link_down(p, other, &was);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_link_down(p, other);
    else
        gateway_link_down(p, other);
    process_touch(p);
}

static void drop_held(struct pair *pair) {
    for (int side = 0; side < 2; side++) {
        while (pair->held[side]) {
            struct held_message *h = pair->held[side];
            pair->held[side] = h->next;
            messages_free(h->m);
            free(h);
        }
        pair->held_last[side] = NULL;
        messages_free(pair->open[side]);
        pair->open[side] = pair->open_last[side] = NULL;
    }
}

static void dial_later(struct sim *s, struct pair *pair, usec_t wait);

static void on_up(struct sim *s, struct event *e) {
    struct process *p = e->process;
    int other = (int)e->a;
    struct pair *pair = pair_of(s, p->id, other);
    if (pair->instance != e->b)
        return;
    told_down(p, other); /* a newer link takes the place of one not yet known dead */
    p->ends[other] = (struct end){.up = true, .instance = e->b, .member = s->processes[other].self};
    told_up(p, other);
}

static void up_later(struct process *p, int other, uint64_t instance, usec_t at) {
    struct event *e = sim_at_process(p, at, on_up);
    e->a = (uint64_t)other;
    e->b = instance;
}

static void on_refused(struct sim *s, struct event *e) {
    struct process *p = e->process;
    (void)s;
    if (p->kind == PROCESS_CONTROLLER && !p->ends[e->a].up)
        controller_refused(p, (int)e->a);
    process_touch(p);
}

static void dial(struct sim *s, struct pair *pair) {
    struct process *a = &s->processes[pair->a], *b = &s->processes[pair->b];
    if (pair->instance || !a->up)
        return;
    usec_t back_off = DIAL_MIN_US << (pair->failures < 8 ? pair->failures : 8);
    if (back_off > DIAL_MAX_US)
        back_off = DIAL_MAX_US;
    pair->failures++;
    usec_t there = delay(s, pair->a, pair->b), back = delay(s, pair->b, pair->a);
    if (!s->nodes[b->node].on || is_cut(s, pair->a, pair->b) || is_cut(s, pair->b, pair->a)) {
        dial_later(s, pair, back_off + 100 * USEC_MS); /* no answer at all */
        return;
    }
    if (!b->up) {
        struct event *e = sim_at_process(a, s->now + there + back, on_refused);
        e->a = (uint64_t)pair->b;
        dial_later(s, pair, there + back + back_off);
        return;
    }
    if (a->frozen_until > s->now) {
        dial_later(s, pair, a->frozen_until - s->now);
        return;
    }
    pair->instance = ++s->next_instance;
    pair->failures = 0;
    pair->last[0] = pair->last[1] = 0;
    up_later(b, pair->a, pair->instance, s->now + there);
    up_later(a, pair->b, pair->instance, s->now + there + back);
    pair->last[0] = s->now + there + back;
    pair->last[1] = s->now + there;
}

static void on_dial(struct sim *s, struct event *e) {
    struct pair *pair = e->ptr;
    pair->dialling = false;
    dial(s, pair);
}

static void dial_later(struct sim *s, struct pair *pair, usec_t wait) {
    if (pair->dialling || !pair->wanted)
        return;
    pair->dialling = true;
    struct event *e = sim_at(s, s->now + wait + (usec_t)rng_below(&s->rng, 1000), on_dial);
    e->ptr = pair;
}

static void on_down(struct sim *s, struct event *e) {
    struct process *p = e->process;
    (void)s;
    if (p->ends[e->a].up && p->ends[e->a].instance == e->b)
        told_down(p, (int)e->a);
}

static void down_later(struct process *p, int other, uint64_t instance, usec_t at) {
    if (!p->up)
        return;
    struct event *e = sim_at_process(p, at, on_down);
    e->a = (uint64_t)other;
    e->b = instance;
}

void network_reset(struct sim *s, struct process *a, struct process *b) {
    struct pair *pair = pair_of(s, a->id, b->id);
    if (!pair->instance)
        return;
    uint64_t instance = pair->instance;
    pair->instance = 0;
    drop_held(pair);
    down_later(a, b->id, instance, s->now + (usec_t)rng_below(&s->rng, DOWN_US_MAX));
    down_later(b, a->id, instance, s->now + (usec_t)rng_below(&s->rng, DOWN_US_MAX));
    dial_later(s, pair, (usec_t)rng_below(&s->rng, DIAL_MIN_US));
}

/* The host is alive: its kernel resets the links. The power is off: nobody does,
 * and the others wait until nothing gets through for long. */
void network_process_down(struct process *p, bool host_gone) {
    struct sim *s = p->sim;
    for (int i = 0; i < s->processes_count; i++) {
        struct pair *pair = pair_of(s, p->id, i);
        struct process *other = &s->processes[i];
        if (i == p->id || !pair->wanted || !pair->instance)
            continue;
        uint64_t instance = pair->instance;
        pair->instance = 0;
        drop_held(pair);
        usec_t knows = host_gone ? sim_between(&s->rng, CUT_TIMEOUT_US / 3, CUT_TIMEOUT_US)
                                 : sim_between(&s->rng, 50, DOWN_US_MAX);
        if (!host_gone && (is_cut(s, p->id, i)))
            knows = CUT_TIMEOUT_US;
        down_later(other, p->id, instance, s->now + knows);
        dial_later(s, pair, knows + (usec_t)rng_below(&s->rng, DIAL_MIN_US));
    }
    p->packed_count = 0;
    memset(p->ends, 0, (size_t)s->processes_count * sizeof *p->ends);
}

/* ---- messages ---- */

static bool of_replicas(enum message_type t) {
    return t <= M_TIMEOUT_NOW || t == M_SEAL || t == M_SEALED || t == M_REPORT;
}

static void drop_message(struct event *e) {
    messages_free(e->ptr);
}

static void take(struct process *p, int from, struct message *m) {
    if (p->kind == PROCESS_SHARD)
        shard_message(p, from, m);
    else if (p->kind == PROCESS_CONTROLLER)
        controller_message(p, from, m);
    else
        gateway_message(p, from, m);
}

static void on_message(struct sim *s, struct event *e) {
    struct process *p = e->process;
    int from = (int)e->a;
    struct message *m = e->ptr;
    bool taken = false;
    p->answering = true;
    while (m) {
        struct message *next = m->next;
        sim_mix(s, (uint64_t)m->type << 32 | m->partition);
        if (p->ends[from].up && p->ends[from].instance == e->b) {
            branches_message(s, p->id, m);
            take(p, from, m);
            taken = true;
        }
        message_free(m);
        m = next;
    }
    p->answering = false;
    if (p->kind == PROCESS_GATEWAY)
        network_turned(p); /* it has no turns: each frame is answered by itself */
    if (taken)
        process_touch(p);
}

static void arrive(struct sim *s, int from, int to, uint64_t instance, struct message *m, usec_t at) {
    struct event *e = sim_at_process(&s->processes[to], at, on_message);
    e->drop = drop_message;
    e->ptr = m;
    e->a = (uint64_t)from;
    e->b = instance;
}

static void hold_back(struct pair *pair, int side, struct message *m, uint64_t instance) {
    struct held_message *h = xcalloc(1, sizeof *h);
    *h = (struct held_message){.m = m, .instance = instance};
    if (pair->held_last[side])
        pair->held_last[side]->next = h;
    else
        pair->held[side] = h;
    pair->held_last[side] = h;
}

static void send_now(struct sim *s, int from, int to, struct pair *pair, struct message *m) {
    int side = to == pair->b;
    usec_t at = s->now + delay(s, from, to);
    bool loose = !s->calm && !m->next && of_replicas(m->type);
    bool lost = scripts_lose(s, from, to, m);
    if (loose && (lost || sim_chance(&s->rng, s->swarm.lost))) {
        sim_count(s, FAULT_message_lost);
        message_free(m);
        return;
    }
    if (loose && sim_chance(&s->rng, s->swarm.twice)) {
        sim_count(s, FAULT_message_twice);
        arrive(s, from, to, pair->instance, message_copy(m), at + sim_between(&s->rng, 0, 50 * USEC_MS));
    }
    if (loose && sim_chance(&s->rng, s->swarm.late)) {
        sim_count(s, FAULT_message_late);
        arrive(s, from, to, pair->instance, m, at + sim_between(&s->rng, 0, 100 * USEC_MS));
        return;
    }
    if (at < pair->last[side])
        at = pair->last[side];
    pair->last[side] = at;
    arrive(s, from, to, pair->instance, m, at);
}

static void send(struct sim *s, int from, int to, struct pair *pair, struct message *m) {
    int side = to == pair->b;
    if (is_cut(s, from, to) || pair->held[side])
        hold_back(pair, side, m, pair->instance);
    else
        send_now(s, from, to, pair, m);
}

static void pack(struct process *from, int to, struct pair *pair, struct message *m) {
    int side = to == pair->b;
    if (pair->open[side]) {
        pair->open_last[side]->next = m;
    } else {
        pair->open[side] = m;
        xgrow(&from->packed, &from->packed_capacity, from->packed_count + 1, sizeof *from->packed);
        from->packed[from->packed_count++] = to;
    }
    pair->open_last[side] = m;
}

static bool link_good(const struct process *from, int to, const struct pair *pair) {
    return from->ends[to].up && pair->instance == from->ends[to].instance && from->sim->processes[to].up;
}

void network_send(struct process *from, int to, struct message *m) {
    struct sim *s = from->sim;
    struct pair *pair = pair_of(s, from->id, to);
    kept_answer(from, m);
    if (!link_good(from, to, pair)) {
        message_free(m);
        return;
    }
    if (s->packing && (from->kind != PROCESS_GATEWAY || from->answering)) {
        pack(from, to, pair, m);
        return;
    }
    s->messages[m->type]++;
    s->frames[m->type]++;
    send(s, from->id, to, pair, m);
}

/* How many of a kind the broker puts into one frame. */
static unsigned a_frame(enum message_type type) {
    switch (type) {
    case M_APPEND:
    case M_APPENDED:
    case M_SEAL:
    case M_SEALED:
        return UINT_MAX;
    case M_FENCED:
    case M_REPORT:
    case M_LED:
    case M_NOT_LEADING:
    case M_PRESENTED:
        return 1024;
    case M_RECORD:
        return 256;
    default:
        return 1;
    }
}

static void count_frames(struct sim *s, const struct message *first) {
    unsigned of_kind[M_TYPES] = {0};
    for (const struct message *m = first; m; m = m->next) {
        s->messages[m->type]++;
        s->frames[m->type] += of_kind[m->type] % a_frame(m->type) == 0;
        of_kind[m->type]++;
    }
}

void network_turned(struct process *p) {
    struct sim *s = p->sim;
    for (size_t i = 0; i < p->packed_count; i++) {
        int to = p->packed[i];
        struct pair *pair = pair_of(s, p->id, to);
        int side = to == pair->b;
        struct message *m = pair->open[side];
        pair->open[side] = pair->open_last[side] = NULL;
        if (!m)
            continue; /* the link has been reset since */
        if (link_good(p, to, pair)) {
            count_frames(s, m);
            send(s, p->id, to, pair, m);
        } else {
            messages_free(m);
        }
    }
    p->packed_count = 0;
}

uint64_t network_whole(const struct process *from, int to) {
    const struct end *there = &from->sim->processes[to].ends[from->id];
    uint64_t instance = from->ends[to].instance;
    return from->ends[to].up && there->up && there->instance == instance ? instance : 0;
}

int network_by_member(const struct process *p, member_t m) {
    for (int i = 0; m && i < p->sim->processes_count; i++)
        if (p->ends[i].up && p->ends[i].member == m)
            return i;
    return -1;
}

int network_by_instance(const struct process *p, uint64_t link) {
    for (int i = 0; link && i < p->sim->processes_count; i++)
        if (p->ends[i].up && p->ends[i].instance == link)
            return i;
    return -1;
}

/* ---- cuts ---- */

static void release(struct sim *s, struct pair *pair) {
    for (int side = 0; side < 2; side++) {
        int to = side ? pair->b : pair->a, from = side ? pair->a : pair->b;
        if (is_cut(s, from, to))
            continue;
        while (pair->held[side]) {
            struct held_message *h = pair->held[side];
            pair->held[side] = h->next;
            if (!pair->held[side])
                pair->held_last[side] = NULL;
            if (h->instance == pair->instance && s->processes[to].up)
                send_now(s, from, to, pair, h->m);
            else
                messages_free(h->m);
            free(h);
        }
    }
}

static void each_pair(struct sim *s, int node_a, int node_b, void (*each)(struct sim *, struct pair *)) {
    for (int a = 0; a < s->processes_count; a++) {
        for (int b = a + 1; b < s->processes_count; b++) {
            int na = s->processes[a].node, nb = s->processes[b].node;
            if (pair_of(s, a, b)->wanted &&
                ((na == node_a && nb == node_b) || (na == node_b && nb == node_a)))
                each(s, pair_of(s, a, b));
        }
    }
}

static void on_cut_long(struct sim *s, struct event *e) {
    struct pair *pair = e->ptr;
    if (pair->instance != e->a || !(is_cut(s, pair->a, pair->b) || is_cut(s, pair->b, pair->a)))
        return;
    network_reset(s, &s->processes[pair->a], &s->processes[pair->b]);
}

static void maybe_reset(struct sim *s, struct pair *pair) {
    if (!pair->instance)
        return;
    struct event *e = sim_at(s, s->now + sim_between(&s->rng, 10 * USEC_MS, CUT_TIMEOUT_US), on_cut_long);
    e->ptr = pair;
    e->a = pair->instance;
}

void network_cut(struct sim *s, enum sim_cut what, int from, int to, bool cut) {
    if (from == to || s->cut[what][from][to] == cut)
        return;
    s->cut[what][from][to] = cut;
    each_pair(s, from, to, cut ? maybe_reset : release);
}

void network_heal(struct sim *s) {
    for (int a = 0; a < s->nodes_count; a++)
        for (int b = 0; b < s->nodes_count; b++)
            for (int what = 0; what < CUTS; what++)
                network_cut(s, (enum sim_cut)what, a, b, false);
}

/* ---- who keeps a link with whom ---- */

static void want(struct sim *s, int dialler, int other) {
    struct pair *pair = pair_of(s, dialler, other);
    pair->wanted = true;
    pair->a = dialler;
    pair->b = other;
    dial_later(s, pair, 0);
}

void network_start(struct sim *s) {
    for (int i = 0; i < s->processes_count; i++) {
        for (int k = 0; k < s->processes_count; k++) {
            struct process *a = &s->processes[i], *b = &s->processes[k];
            bool same = a->kind == b->kind && a->kind != PROCESS_GATEWAY && i < k;
            bool shards = b->kind == PROCESS_SHARD && a->kind != PROCESS_SHARD;
            if (i != k && (same || shards))
                want(s, i, k);
        }
    }
}

void network_process_up(struct process *p) {
    struct sim *s = p->sim;
    for (int i = 0; i < s->processes_count; i++)
        if (i != p->id && pair_of(s, p->id, i)->wanted && !pair_of(s, p->id, i)->instance)
            dial_later(s, pair_of(s, p->id, i), 0);
}

void network_free(struct sim *s) {
    for (int a = 0; a < s->processes_count; a++)
        for (int b = a + 1; b < s->processes_count; b++)
            drop_held(pair_of(s, a, b));
}

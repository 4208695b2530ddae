// SPDX-License-Identifier: Apache-2.0
/* The life of nodes: deaths while the cluster forms, a node that joins later, one
 * that is drained, removed, wiped, and comes again as a newcomer. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "clients.h"

enum {
    ASK_US = 200000,        /* an operator asks again */
    FORMING_US_MAX = 40000, /* most clusters have formed by then */
    FORMING_DEATHS_MAX = 4,
    REMOVE_NODES_MIN = 4 /* three stay: so do three voters */
};

static const struct metadata_node *node_now(struct sim *s, int node) {
    struct process *p = sim_leading_controller(s);
    return p ? metadata_node_named(controller_metadata(p), s->nodes[node].name) : NULL;
}

void members_set_state(struct sim *s, int node, enum node_state state) {
    struct process *p = sim_leading_controller(s);
    struct command command = {.type = COMMAND_NODE_STATE, .node_state = {.state = state}};
    if (!p)
        return;
    strcpy(command.node_state.name, s->nodes[node].name);
    controller_request(p, &command);
}

/* ---- deaths while the cluster forms ---- */

static void on_forming_death(struct sim *s, struct event *e) {
    int node = (int)rng_below(&s->rng, (uint64_t)s->nodes_count);
    (void)e;
    if (!s->nodes[node].on)
        return;
    sim_count(s, FAULT_forming_death);
    switch (rng_below(&s->rng, 3)) {
    case 0:
        process_kill(sim_controller(s, node), "killed");
        break;
    case 1:
        node_kill(s, node);
        break;
    default:
        node_power_off(s, node, sim_between(&s->rng, 10 * USEC_MS, 500 * USEC_MS));
    }
}

void members_form(struct sim *s) {
    if (s->swarm.mean[FAULT_join])
        s->nodes[s->nodes_count - 1].joins = true;
    for (int i = 0; i < s->nodes_count; i++)
        s->nodes[i].on = !s->nodes[i].joins;
    if (!s->swarm.mean[FAULT_forming_death])
        return;
    for (uint64_t n = 1 + rng_below(&s->rng, FORMING_DEATHS_MAX); n > 0; n--)
        sim_at(s, sim_between(&s->rng, 0, FORMING_US_MAX), on_forming_death);
}

/* ---- a node joins ---- */

void members_join(struct sim *s) {
    int node = s->nodes_count - 1;
    if (s->nodes[node].on || s->nodes[node].joined)
        return;
    sim_count(s, FAULT_join);
    sim_trace(s, "%s joins", s->nodes[node].name);
    s->nodes[node].on = s->nodes[node].joined = true;
    for (int i = 0; i < s->processes_count; i++)
        if (s->processes[i].node == node)
            process_start(&s->processes[i]);
}

/* ---- a node is removed, and comes again ---- */

/* Empty, as new hardware under the old name. */
static void come_again(struct sim *s, int node) {
    s->nodes[node].going = false;
    sim_count(s, FAULT_remove);
    sim_trace(s, "%s is removed, and comes again empty", s->nodes[node].name);
    node_power_off(s, node, sim_between(&s->rng, 10 * USEC_MS, s->swarm.outage_max));
    for (int i = 0; i < s->processes_count; i++)
        if (s->processes[i].node == node && s->processes[i].disk)
            mem_disk_wipe(s->processes[i].disk);
}

/* Its vote is given up too: nothing needs its disk any more. */
static bool out(struct sim *s, int node) {
    struct process *p = sim_leading_controller(s);
    return p && !controller_voter(p, sim_controller(s, node)->self);
}

/* Removed under the identity it runs with: nothing but new hardware brings it back. */
static bool shut_out(struct sim *s, int node, const struct metadata_node *n) {
    struct process *own = sim_controller(s, node);
    return n->state == NODE_LEFT && own->up && out(s, node) && n->info.controller == own->self;
}

/* Looked at to the end: what was asked of a leader that is gone may yet be committed,
 * and remove it another time. Once it came again nobody wants it out, drained or not. */
static void on_remove(struct sim *s, struct event *e) {
    int node = (int)e->a;
    bool again = e->b, give_up = s->calm;
    const struct metadata_node *n = node_now(s, node);
    struct event *next = sim_at(s, s->now + ASK_US, on_remove);
    next->a = (uint64_t)node;
    next->b = again;
    if (!n)
        return;
    if (shut_out(s, node, n)) {
        next->b = true;
        come_again(s, node);
    } else if (!again && n->state != NODE_LEFT && !(give_up && n->state == NODE_ALIVE)) {
        members_set_state(s, node, give_up ? NODE_ALIVE : NODE_LEFT);
    }
}

/* Who is asked to go is gone at some time, though it may be alive in between. */
static uint32_t nodes_in(struct sim *s) {
    uint32_t in = 0;
    for (int i = 0; i < s->nodes_count; i++) {
        const struct metadata_node *n = node_now(s, i);
        in += n && n->state == NODE_ALIVE && !s->nodes[i].going;
    }
    return in;
}

void members_remove(struct sim *s) {
    int node = (int)rng_below(&s->rng, (uint64_t)s->nodes_count);
    const struct metadata_node *n = node_now(s, node);
    if (!n || n->state != NODE_ALIVE || nodes_in(s) < REMOVE_NODES_MIN || s->nodes[node].removed)
        return;
    sim_trace(s, "%s shall be removed", s->nodes[node].name);
    s->nodes[node].removed = s->nodes[node].going = true;
    members_set_state(s, node, NODE_DRAINING);
    sim_at(s, s->now + ASK_US, on_remove)->a = (uint64_t)node;
}

bool members_settled(struct sim *s, char *why, size_t size) {
    for (int i = 0; i < s->nodes_count; i++) {
        const struct metadata_node *n = node_now(s, i);
        if (n && n->state == NODE_ALIVE)
            continue;
        snprintf(why, size, "node %s is %s", s->nodes[i].name,
                 !n                      ? "not in"
                 : n->state == NODE_LEFT ? "left"
                                         : "draining");
        return false;
    }
    return true;
}

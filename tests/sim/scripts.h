// SPDX-License-Identifier: Apache-2.0
/* Directed worlds. */
#ifndef MAILROOM_SIM_SCRIPTS_H
#define MAILROOM_SIM_SCRIPTS_H

#include "sim.h"

void scripts_start(struct sim *s);
void scripts_stop(struct sim *s);
/* Is this message between replicas to be lost? Sees all that are sent. */
bool scripts_lose(struct sim *s, int from, int to, const struct message *m);

/* ---- world.c ---- */
void process_kill_for(struct process *p, const char *why, usec_t how_long); /* restarts so late */
void process_revive(struct process *p);                                     /* or now */
/* ---- faults.c ---- */
void faults_drain(struct sim *s, int node, usec_t how_long);      /* and resumed then */
void faults_cut_orders(struct sim *s, int node, usec_t how_long); /* controllers to the node's shards */

#endif

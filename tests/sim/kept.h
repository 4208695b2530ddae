// SPDX-License-Identifier: Apache-2.0
/* A copy keeps what it has answered for; and what a new leader inherits. */
#ifndef MAILROOM_SIM_KEPT_H
#define MAILROOM_SIM_KEPT_H

#include "sim.h"

void kept_answer(struct process *p, const struct message *m); /* is sent */
void kept_opened(struct process *p, uint64_t partition);      /* is about to be */
void kept_cut(struct process *p, uint64_t partition, uint64_t index);
void kept_installs(struct process *p, uint64_t partition);
void kept_led(struct process *p, uint64_t partition, uint64_t epoch, const uint64_t *gateways, size_t count);
void kept_presented(struct process *p, uint64_t partition, uint64_t epoch, uint64_t link);
void kept_delivers(struct process *p, uint64_t partition, int subscription, uint64_t offset, uint64_t epoch);
void kept_free(struct sim *s);

#endif

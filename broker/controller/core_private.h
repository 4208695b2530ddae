// SPDX-License-Identifier: Apache-2.0
/* What the files of the controller's core share. */
#ifndef MAILROOM_CONTROLLER_CORE_PRIVATE_H
#define MAILROOM_CONTROLLER_CORE_PRIVATE_H

#include "controller/core.h"

/* ---- group.c ---- */
void group_stop_leading(struct core *c);

/* ---- group_journal.c ---- */

/* Makes c->replica of what the journal has; found: as the only voter. */
void group_recover(struct core *c, bool found);
void group_flush(struct core *c);
void group_write(struct core *c, const struct replica_effect *e);
void group_checkpoint(struct core *c);
void group_reclaim(struct core *c);
void group_fetch(struct core *c, uint64_t from, uint64_t to, member_t reader);

#endif

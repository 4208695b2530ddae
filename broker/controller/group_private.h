// SPDX-License-Identifier: Apache-2.0
/* What the files of the metadata group share (group.c, group_journal.c,
 * group_frames.c). */
#ifndef MAILROOM_CONTROLLER_GROUP_PRIVATE_H
#define MAILROOM_CONTROLLER_GROUP_PRIVATE_H

#include "controller/controller_private.h"

/* ---- group_journal.c ---- */
void group_flush(struct controller *c);
void group_write_vote(struct controller *c, uint64_t epoch, member_t candidate);
void group_checkpoint(struct controller *c);
void group_reclaim(struct controller *c);
void group_fetch(struct controller *c, uint64_t from, uint64_t to, member_t reader);

/* ---- group_frames.c ---- */
void group_send_append(struct controller *c, const struct replica_append *a);
void group_send_appended(struct controller *c, const struct replica_appended *a);
void group_send_piece(struct controller *c, const struct replica_piece *a);
void group_send_pieced(struct controller *c, const struct replica_pieced *a);
void group_send_pre_vote(struct controller *c, const struct election_ask *a);
void group_send_pre_voted(struct controller *c, const struct election_answer *a);
void group_send_vote(struct controller *c, const struct election_ask *a);
void group_send_voted(struct controller *c, const struct election_answer *a);
void group_send_timeout_now(struct controller *c, const struct election_ask *a);

/* ---- group.c ---- */
void group_stop_leading(struct controller *c);

#endif

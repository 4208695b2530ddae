// SPDX-License-Identifier: Apache-2.0
/* What the files of the controller's core share. */
#ifndef MAILROOM_CONTROLLER_CORE_PRIVATE_H
#define MAILROOM_CONTROLLER_CORE_PRIVATE_H

#include "controller/core.h"

/* ---- core.c ---- */
void core_say(struct core *c, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- group.c ---- */
void group_open(struct core *c, const struct core_options *options);
void group_close(struct core *c);
void group_turn(struct core *c);     /* pump, checkpoint, reclaim, flush */
void group_found(struct core *c);    /* founder of a new cluster: stand as the only voter */
void group_detected(struct core *c); /* carries out what the detector found out */
void group_peer_up(struct core *c, member_t m);
void group_peer_down(struct core *c, member_t m, bool gone); /* gone: its port refuses too */
void group_stop_leading(struct core *c);

/* ---- group_journal.c ---- */

/* Makes c->replica of what the journal has; found: as the only voter. */
void group_recover(struct core *c, bool found);
void group_flush(struct core *c);
void group_write(struct core *c, const struct replica_effect *e);
void group_checkpoint(struct core *c);
void group_reclaim(struct core *c);
void group_fetch(struct core *c, uint64_t from, uint64_t to, member_t reader);

/* ---- controllers.c ---- */
void controllers_refresh(struct core *c);   /* everybody the metadata or the configuration names */
void controllers_hear_self(struct core *c); /* this process is alive: it says so itself */
/* Dial whoever has this name, or an address until its name is known. */
void controllers_know(struct core *c, const char *name, const char *address);
void controllers_unknow(struct core *c, const char *name);
void controllers_close(struct core *c);

/* ---- shards.c ---- */
bool shards_own_known(const struct core *c);
void shards_refresh(struct core *c);
void shards_order(struct core *c, const struct control_effect *e);
void shards_changed(struct core *c, const struct metadata_changes *changes);
void shards_lead(struct core *c);
void shards_turn(struct core *c);
void shards_forget(struct core *c);

/* ---- forming.c ---- */
void forming_start(struct core *c);
void forming_check(struct core *c);
void forming_peer_up(struct core *c, struct peer *p);
const char *forming_founder(const struct core *c); /* the lowest name of `initial`; "": joins */

/* ---- requests.c ---- */
void requests_node_set(struct core *c, const struct node_info *info);
void requests_applied(struct core *c, uint64_t index, const struct metadata_result *result);
void requests_lost(struct core *c); /* leads no more */
void requests_tick(struct core *c);
void requests_close(struct core *c);

#endif

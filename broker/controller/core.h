// SPDX-License-Identifier: Apache-2.0
/*
 * The controller's core: this node's copy of the metadata group (journal,
 * replica, election, metadata) and, while it leads, control. Event in, calls of
 * the host out; no socket, clock, file or thread of its own, so that the
 * controller's process and the simulator run this very code.
 *
 * An event is given straight to the part it belongs to, with the core's own
 * effect lists; group_run() then carries all lists out until they are quiet:
 *
 *     replica_on_append(c->replica, &m, now, &c->replica_effects);
 *     group_run(c);
 *
 * and once at the end of a turn group_turn(): pump, checkpoint, reclaim, flush.
 * One thread. The journal is the host's: it opens it, says which tickets are
 * synced (group_synced), and closes it after group_close().
 */
#ifndef MAILROOM_CONTROLLER_CORE_H
#define MAILROOM_CONTROLLER_CORE_H

#include "base/log.h"
#include "base/rng.h"
#include "cluster/control.h"
#include "cluster/election.h"
#include "journal/journal.h"

enum { GROUP_PARTITION = 0 }; /* the metadata group in the journal */

/* The votes' partition in the journal: to whom each promise was given. */
#define VOTES_PARTITION UINT64_MAX

/* What a host must do; `host` is core_options' host_context. */
struct core_host {
    usec_t (*now)(void *host); /* CLOCK_BOOTTIME; the same throughout one event */
    /* Every effect, before the core carries it out: send SEND_APPEND, SEND_APPENDED,
     * SEND_PIECE and SEND_PIECED to the controller they name (a message to one without a
     * link is dropped); count or check the rest. Must not call the core. */
    void (*replica_effect)(void *host, const struct replica_effect *e);
    /* The same: send all SEND_*. */
    void (*election_effect)(void *host, const struct election_effect *e);
    /* Tell replica_peer_down() of every peer without a link: this copy begins to lead. */
    void (*peers_down)(void *host);
    /* Metadata has changed; control is told after this. */
    void (*changed)(void *host, const struct metadata_changes *changes);
    /* An entry is applied; result is of a command. */
    void (*applied)(void *host, uint64_t index, const struct metadata_result *result);
    /* Active: control is about to start. */
    void (*leads)(void *host);
    /* Active, and control has started: what waited for a leader may go on. */
    void (*led)(void *host);
    void (*leads_no_more)(void *host);
    /* Control's orders to shards: SEND_SEAL, SEND_RECORD, SEND_HOLD, SEND_DROP. */
    void (*order)(void *host, const struct control_effect *e);
    /* A node or a process is judged otherwise than before. */
    void (*judged)(void *host, const struct detector_change *change);
    void (*say)(void *host, enum log_level level, const char *text);
};

struct core_options {
    struct journal *journal; /* kept */
    member_t self;
    uint64_t starts;
    bool founder; /* the first node of `initial`: begins a new cluster as its only voter */
    usec_t failure_timeout, heartbeat;
    usec_t rebuild_grace; /* a shard silent for longer is replaced */
    usec_t replace_after; /* a voter dead for longer is replaced */
    usec_t cool, settle;  /* of placement; 0: see cluster/control.h */
    uint64_t checkpoint_entries;
    uint64_t election_seed, control_seed;
    const struct core_host *host;
    void *host_context;
};

/* A proposal of control's under way. */
struct control_proposal {
    uint64_t index;
    uint64_t tag;
    struct control_proposal *next;
};

/* A flush whose ticket is not synced yet. */
struct group_flush {
    uint64_t ticket;
    uint64_t mark;
    uint64_t checkpoint;
    struct group_flush *next;
};

struct core {
    const struct core_host *host;
    void *host_context;
    struct journal *journal;
    member_t self;
    uint64_t starts;
    bool founder;
    usec_t replace_after;
    uint64_t checkpoint_entries;
    struct rng rng;
    bool empty; /* the journal was new at this start, and nothing has come since */
    uint64_t votes_index;
    struct replica *replica;
    struct replica_effects replica_effects;
    struct election *election;
    struct election_effects election_effects;
    struct metadata *metadata;
    struct metadata_changes changes;
    struct detector *detector;
    struct detector_changes detected;
    struct control *control;
    struct control_effects control_effects;
    bool running; /* inside group_run */
    bool leads;   /* ACTIVE: control runs */
    uint64_t flushed_mark;
    uint64_t checkpoint_base, checkpoint_pending;
    struct group_flush *flushes, *flushes_last;
    struct control_proposal *proposals, *proposals_last;
};

static inline usec_t core_now(const struct core *c) {
    return c->host->now(c->host_context);
}
void core_say(struct core *c, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- group.c: replica, election, metadata, control ---- */

/* *c takes up what the journal has. */
void group_open(struct core *c, const struct core_options *options);
/* Frees what group_open made; flushes nothing. */
void group_close(struct core *c);
void group_run(struct core *c);   /* carry out what the last event caused */
void group_turn(struct core *c);  /* end of a turn: pump, flush */
void group_found(struct core *c); /* founder of a new cluster: stand as the only voter */
/* All turns up to this ticket are on disk. */
void group_synced(struct core *c, uint64_t ticket);
/* A command, encoded. ERR_NOT_LEADER: this copy does not lead. ERR_OK: *index; host's
 * applied() follows, or leads_no_more(). */
enum err group_propose(struct core *c, struct body *command, uint64_t *index);
/* Carries out what the detector found out (c->detected). */
void group_detected(struct core *c);

/* ---- messages of other controllers; then group_run() ---- */
void group_on_append(struct core *c, const struct replica_append *m);
void group_on_appended(struct core *c, const struct replica_appended *m);
void group_on_piece(struct core *c, const struct replica_piece *m);
void group_on_pieced(struct core *c, const struct replica_pieced *m);
void group_on_pre_vote(struct core *c, const struct election_ask *m);
void group_on_pre_voted(struct core *c, const struct election_answer *m);
void group_on_vote(struct core *c, const struct election_ask *m);
void group_on_voted(struct core *c, const struct election_answer *m);
void group_on_timeout_now(struct core *c, const struct election_ask *m);
/* A link to m is up (again): what was in flight is gone. */
void group_peer_up(struct core *c, member_t m);
/* No link to m any more; gone: its port refuses too. */
void group_peer_down(struct core *c, member_t m, bool gone);

#endif

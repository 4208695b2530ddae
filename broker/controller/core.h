// SPDX-License-Identifier: Apache-2.0
/*
 * The controller's core: this node's copy of the metadata group (journal,
 * replica, election, metadata), control while it leads, who is who among
 * controllers and shards, how a cluster forms, and administration's requests
 * until they are answered. Event in, calls of the host out; no socket, clock, file
 * or thread of its own: the controller's process and the simulator run this very
 * code.
 *
 * Events of links, the journal and the clock have functions here; what they cause
 * is carried out before they return, but for what waits for the end of the turn
 * (core_turn): pump, checkpoint, reclaim, flush, records and seals.
 *
 * The host's calls come out of the middle of an event: a host sends or notes what
 * it is told, and calls nothing of the core's that is not a question, but for the
 * end of links that hang_up and close_shard end.
 *
 * One thread. The journal is the host's: it opens it, says which tickets are
 * synced (group_synced), and closes it before core_close().
 */
#ifndef MAILROOM_CONTROLLER_CORE_H
#define MAILROOM_CONTROLLER_CORE_H

#include "base/config.h"
#include "base/log.h"
#include "base/rng.h"
#include "cluster/control.h"
#include "cluster/election.h"
#include "journal/journal.h"

enum {
    GROUP_PARTITION = 0,      /* the metadata group in the journal */
    CORE_VISIBLE_US = 300000, /* a change is answered when all live nodes have it, or after this */
    CORE_REQUESTS_MAX = 4096, /* administration requests under way */
    CORE_RECORDS_AN_ORDER = 256
};

/* The votes' partition in the journal: to whom each promise was given. */
#define VOTES_PARTITION UINT64_MAX

struct core;

/* ---- other controllers ---- */

/* What a controller says of itself on every link to another. */
struct introduction {
    struct node_info node;
    bool empty; /* its folder: it never was in a cluster */
    bool join;  /* it asks to become a node */
    uint64_t cluster_id;
};

/* Another controller, known by name (from the configuration or the metadata). */
struct peer {
    char name[NODE_NAME_BYTES_MAX + NODE_ADDRESS_BYTES_MAX +
              1]; /* cluster.join: its address, until it is known */
    char address[NODE_ADDRESS_BYTES_MAX + 1];
    member_t member; /* as its identity says; 0: not known yet */
    bool up;         /* a link, hello done */
    bool introduced; /* it has said who it is */
    struct introduction introduction;
    uint64_t applied; /* metadata it has applied, by its heartbeats */
    void *user;       /* the host's own */
    struct peer *next;
};

/* What a heartbeat says of the group. */
struct beat {
    usec_t sent_at;
    uint64_t applied;
    uint64_t term; /* 0: does not lead */
};

/* ---- shards ---- */

/* A shard, of any node; this side dials. */
struct shard_peer {
    uint32_t node; /* id in the metadata; 0: own, before the cluster is formed */
    unsigned index;
    bool own;
    member_t member; /* as the metadata has it; own: as its welcome says */
    bool up;         /* a link, and it is who it should be */
    uint32_t leaders;
    uint64_t backlog;
    struct shard_seal *seals; /* this turn's */
    size_t seals_count, seals_capacity;
    uint64_t *records; /* this turn's, by partition */
    size_t records_count, records_capacity;
    void *user; /* the host's own */
    struct shard_peer *next;
};

struct shard_seal {
    uint64_t partition;
    struct replica_seal seal;
};

enum shard_order_type {
    SHARD_MEMBERS, /* own shards: who and where all shards are, from the metadata */
    SHARD_RECORDS,
    SHARD_LEAD,
    SHARD_SEALS,
    SHARD_HOLD,
    SHARD_DROP,
    SHARD_PING
};

struct shard_order {
    enum shard_order_type type;
    uint64_t partition; /* HOLD, DROP */
    uint64_t term;      /* LEAD; RECORDS: 0 if this controller does not lead */
    union {
        struct {
            const uint64_t *partitions; /* from the metadata; one that is not there is removed */
            size_t count;
            bool complete; /* that was everything */
        } records;
        struct {
            const struct shard_seal *items;
            size_t count;
        } seals;
        struct {
            member_t target;
            usec_t at_most;
        } hold;
        uint64_t epoch; /* DROP */
        usec_t sent_at; /* PING */
    };
};

/* ---- administration ---- */

/* A request or a forwarded proposal, until it is answered. */
enum request_from { FROM_GATEWAY, FROM_CONTROLLER, FROM_SELF };
struct request {
    enum request_from from;
    uint64_t link;        /* the host's name of the link it came on */
    uint64_t number;      /* the asker's */
    struct body *command; /* encoded; NULL for recover */
    char recover_mailbox[NAME_BYTES_MAX + 1];
    char recover_node[NODE_NAME_BYTES_MAX + 1];
    uint64_t own_number; /* when forwarded */
    uint64_t index;      /* when proposed here: its log index */
    bool forwarded, proposed;
    uint64_t forwarded_to; /* the host's name of the link */
    bool applied;          /* answered when visible everywhere */
    uint64_t visible_index;
    usec_t visible_by;
    struct metadata_result result;
    usec_t deadline;
    struct request *next;
};

/* ---- the host ---- */

/* What a host must do; `host` is core_options' host_context. */
struct core_host {
    usec_t (*now)(void *host); /* CLOCK_BOOTTIME; the same throughout one event */
    void (*say)(void *host, enum log_level level, const char *text);
    /* Every effect, before the core carries it out: send SEND_APPEND, SEND_APPENDED,
     * SEND_PIECE and SEND_PIECED to the controller they name (a message to one without a
     * link is dropped); count or check the rest. */
    void (*replica_effect)(void *host, const struct replica_effect *e);
    /* The same: send all SEND_*. */
    void (*election_effect)(void *host, const struct election_effect *e);
    /* A heartbeat to every controller that is up. */
    void (*beat)(void *host, const struct beat *b);
    /* Metadata has changed; a node or a process is judged otherwise than before. */
    void (*changed)(void *host, const struct metadata_changes *changes);
    void (*judged)(void *host, const struct detector_change *change);

    /* Keep a link to p->address from now on, instead of where it was; end it for good. */
    void (*dial)(void *host, struct peer *p);
    void (*hang_up)(void *host, struct peer *p);
    void (*introduce)(void *host, struct peer *p, const struct introduction *own);
    /* Keep a link to a shard of another node; end the link there is (it is dialled again). */
    void (*dial_shard)(void *host, struct shard_peer *s, const char *address);
    void (*close_shard)(void *host, struct shard_peer *s);
    void (*order)(void *host, struct shard_peer *s, const struct shard_order *o);

    /* Send the request on as r->own_number, to be proposed there within `deadline`. The
     * host's name of the link; 0: not sent. */
    uint64_t (*pass_on)(void *host, struct peer *p, const struct request *r, usec_t deadline);
    /* r is done: FROM_GATEWAY and FROM_CONTROLLER are told, on r->link if it is still there. */
    void (*answer)(void *host, const struct request *r, enum err code, const char *text);
};

struct core_options {
    const struct config *config; /* kept: this node, `initial`, `join`, times */
    struct journal *journal;     /* kept */
    member_t self;
    uint64_t starts;
    usec_t cool, settle;         /* of placement; 0: see cluster/control.h */
    uint64_t checkpoint_entries; /* a checkpoint after so many */
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
    const struct config *config;
    struct rng rng;
    bool stopping;

    /* the metadata group */
    struct journal *journal;
    member_t self;
    uint64_t starts;
    uint64_t checkpoint_entries;
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

    /* the others */
    bool form_proposed;
    bool introduced;       /* own shards are known, and everybody was told of this node as it is */
    uint64_t applied_sent; /* by the last heartbeats */
    struct peer *peers;
    struct shard_peer *shards;
    struct request *requests;
    uint64_t next_request;
};

#define CORE_PEERS_EACH(c, p)  for (struct peer *p = (c)->peers; p; p = p->next)
#define CORE_SHARDS_EACH(c, s) for (struct shard_peer *s = (c)->shards; s; s = s->next)

static inline usec_t core_now(const struct core *c) {
    return c->host->now(c->host_context);
}

/* ---- core.c: life and the clock ---- */

/* *c takes up what the journal has, and dials whom it knows. */
void core_open(struct core *c, const struct core_options *options);
/* Requests that wait are answered; nothing is proposed or dialled any more. */
void core_hang_up(struct core *c);
/* Frees what is left; the journal is closed already, peers' and shards' users are the host's. */
void core_close(struct core *c);
/* Before going: passes leadership on. 0: nothing to wait for; else how long at most. */
usec_t core_stop(struct core *c);
/* Once at the end of each turn in which there was an event. */
void core_turn(struct core *c);
/* When core_tick wants to be called; what a turn did may make it sooner. */
usec_t core_deadline(const struct core *c);
void core_tick(struct core *c);
/* Every so often: heartbeats to controllers, pings to shards. */
usec_t core_beat_interval(const struct core *c);
void core_beat(struct core *c);

/* ---- group.c: replica, election, metadata, control ---- */

/* All turns up to this ticket are on disk. */
void group_synced(struct core *c, uint64_t ticket);
/* Carries out what the last event caused. */
void group_run(struct core *c);
/* Messages of other controllers; then group_run(). Those for somebody else are ignored. */
void group_on_append(struct core *c, const struct replica_append *m);
void group_on_appended(struct core *c, const struct replica_appended *m);
void group_on_piece(struct core *c, const struct replica_piece *m);
void group_on_pieced(struct core *c, const struct replica_pieced *m);
void group_on_pre_vote(struct core *c, const struct election_ask *m);
void group_on_pre_voted(struct core *c, const struct election_answer *m);
void group_on_vote(struct core *c, const struct election_ask *m);
void group_on_voted(struct core *c, const struct election_answer *m);
void group_on_timeout_now(struct core *c, const struct election_ask *m);
/* A command, encoded. ERR_NOT_LEADER: this copy does not lead. ERR_OK: *index. */
enum err group_propose(struct core *c, struct body *command, uint64_t *index);

/* ---- controllers.c: other controllers ---- */

/* NULL: not known. */
struct peer *controllers_named(struct core *c, const char *name);
struct peer *controllers_member(struct core *c, member_t m);
/* Made if it is not known: a controller may dial before anybody names it. */
struct peer *controllers_add(struct core *c, const char *name);
/* A link with hello done, to or from this controller; also a newer one beside another. */
void controllers_up(struct core *c, struct peer *p, member_t member);
/* What was in flight on the newest link is gone; another one is there. */
void controllers_relinked(struct core *c, struct peer *p);
/* No link any more. */
void controllers_down(struct core *c, struct peer *p);
/* Its port refuses: with no link up, the process is gone. */
void controllers_refused(struct core *c, struct peer *p);
/* Something came from it. */
void controllers_heard(struct core *c, struct peer *p);
/* Of this node: what a heartbeat says now. */
struct beat controllers_beat(const struct core *c);
void controllers_on_beat(struct core *c, struct peer *p, const struct beat *b);
void controllers_on_beat_seen(struct core *c, struct peer *p, usec_t sent_at);
/* A heartbeat's word on a shard of its node. */
void controllers_on_load(struct core *c, member_t shard, uint64_t backlog);
void controllers_on_introduction(struct core *c, struct peer *p, const struct introduction *in);

/* ---- shards.c ---- */

/* Where shard `index` of the node listens: its port behind the controller's. */
bool shards_address(const struct metadata_node *n, uint32_t index, char *out, size_t size);
struct shard_peer *shards_find(struct core *c, uint32_t node, unsigned index, bool own);
struct shard_peer *shards_member(struct core *c, member_t m);
/* An own shard runs: the host dials it. */
struct shard_peer *shards_own_up(struct core *c, unsigned index);
/* The supervisor has seen it die. */
void shards_own_gone(struct core *c, unsigned index);
/* Its answer to this side's hello. false: another identity than the metadata names. */
bool shards_up(struct core *c, struct shard_peer *s, member_t member);
void shards_down(struct core *c, struct shard_peer *s);
void shards_refused(struct core *c, struct shard_peer *s);
void shards_heard(struct core *c, struct shard_peer *s);
/* What shards say; then group_run(). */
void shards_on_sealed(struct core *c, uint64_t partition, const struct replica_sealed *m, bool unknown);
void shards_on_report(struct core *c, const struct control_report *m);
void shards_on_load(struct core *c, struct shard_peer *s, uint32_t leaders, uint64_t backlog);

/* ---- forming.c ---- */

/* What this node says of itself; its shards' identities are 0 until they are known. */
void forming_own_node(const struct core *c, struct node_info *out);

/* ---- requests.c ---- */

/* False: ask later. */
bool requests_room(const struct core *c);
/* A command, encoded (a reference is taken). deadline: time it has; <= 0: ten seconds. */
void requests_change(struct core *c, enum request_from from, uint64_t link, uint64_t number,
                     struct body *command, usec_t deadline);
void requests_recover(struct core *c, enum request_from from, uint64_t link, uint64_t number,
                      const char *mailbox, const char *node, usec_t deadline);
/* What was passed on is answered there. index: metadata that has it. */
void requests_answered(struct core *c, uint64_t own_number, enum err code, const char *text, uint64_t index);
/* A link has ended: what was passed on there is asked again. */
void requests_link_gone(struct core *c, uint64_t link);
/* A leader may be known now: send what waits. */
void requests_go(struct core *c);

#endif

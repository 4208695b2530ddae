// SPDX-License-Identifier: Apache-2.0
/* The insides of struct replica, shared by the files of this folder only. */
#ifndef MAILROOM_REPLICA_CORE_H
#define MAILROOM_REPLICA_CORE_H

#include "base/body.h"
#include "base/check.h"
#include "base/codec.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "replica/replica.h"

/* ---- log.c: where epochs begin, and the bodies of recent entries ---- */

struct slot {
    uint64_t epoch;
    uint64_t mark; /* stored when this mark is */
    struct body *body;
    uint8_t type;
};

struct config_at {
    uint64_t index; /* of the CONFIG entry; the first of the list may be from before the log */
    struct replica_set voters;
};

struct log {
    uint64_t base_index, base_epoch; /* of the checkpoint: at or below it nothing can be fetched */
    uint64_t written_base; /* of a checkpoint that may be in the journal, not yet known to be durable */
    uint64_t last_index, last_epoch;
    uint64_t written; /* entries up to here are written, */
    uint64_t stored;  /* and up to here are as durable as the mailbox promises */
    struct replica_epoch_start *epochs;
    size_t epochs_count, epochs_capacity;
    struct config_at *configs; /* config_in_log: oldest first */
    size_t configs_count, configs_capacity;
    /* The cache: slots of the entries cache_from .. last_index, a ring. */
    struct slot *ring;
    size_t ring_head, ring_count, ring_capacity;
    uint64_t cache_from;
    size_t cache_bytes;
    size_t uncommitted_bytes; /* of cached entries above the commit index */
};

/* ---- a peer, as its leader sees it ---- */

enum peer_mode {
    PEER_PROBE,  /* one append at a time, to find where the logs agree */
    PEER_STREAM, /* appends in flight up to the window */
    PEER_GIVE    /* a checkpoint in pieces */
};

struct sent {
    uint64_t last; /* index, or number of a piece */
    size_t bytes;
};

struct give {
    bool asked; /* SNAPSHOT is out, the answer is not here */
    uint64_t base_index, base_epoch;
    struct body *state;
    uint64_t *live;
    size_t live_count;
    uint64_t states; /* pieces of the state; the batches follow */
    uint64_t next;   /* number of the next piece to send */
    uint64_t done;   /* pieces below this number are there */
};

struct peer {
    member_t id;
    bool learner; /* named by the record: CAUGHT_UP is said again and again */
    bool keep;    /* used while the list is rebuilt */
    bool up;
    bool damaged;
    bool caught_up; /* said once */
    enum peer_mode mode;
    bool waiting;        /* PROBE: one is out */
    uint64_t fetch_from; /* what FETCH asked for; 0: none is out */
    uint64_t gone;       /* a live batch that a FETCH did not find */
    uint64_t match;      /* stored there, in this epoch; 0: not known */
    uint64_t next;
    uint64_t damage; /* number of its last known damage */
    uint64_t mend_to;
    uint64_t commit_sent, commit_told;
    usec_t commit_sent_at;
    usec_t probe_at;   /* when the newest probe was sent */
    usec_t retry_at;   /* something is out: probe again then */
    usec_t notice_at;  /* a commit index no append carried */
    usec_t report_at;  /* CAUGHT_UP again */
    usec_t confirmed;  /* newest sent_at it answered: the lease */
    struct sent *sent; /* in flight, oldest first */
    size_t sent_count, sent_capacity, sent_bytes;
    struct give give;
};

/* ---- follower's side of a checkpoint ---- */

struct take {
    bool open;
    bool installing; /* INSTALL is written, its sync is not here */
    member_t from;
    uint64_t epoch;
    uint64_t base_index, base_epoch;
    uint64_t next;          /* number of the piece wanted */
    uint64_t told;          /* pieces below this number were said to be stored */
    uint64_t ack, ack_mark; /* pieces below ack are stored when ack_mark is written */
    uint64_t mark;          /* of the newest STAGE, or of INSTALL */
    struct encoder state;
    uint64_t *live;
    size_t live_count, live_capacity;
    struct body *checkpoint;      /* installing: what stands in the journal */
    struct replica_state decoded; /* the core's part of it */
};

struct pending_seal {
    uint64_t token;
    uint64_t epoch;
    uint64_t mark;
};

struct replica {
    member_t self;
    bool synced, config_in_log;
    size_t cache_limit;
    size_t append_entries;
    struct log log;

    /* The journal. */
    uint64_t mark, written_mark, synced_mark;

    /* What it has promised. */
    uint64_t promise;
    uint64_t promise_mark;     /* answers of the promised epoch wait for its sync */
    uint64_t promise_recorded; /* by a PROMISE record: survives a truncation */
    member_t candidate;
    bool ceded; /* a seal stopped it, and it has followed nobody since */
    struct pending_seal seals[REPLICA_SEALS_PENDING_MAX];
    size_t seals_count;

    uint64_t commit, applied;
    uint64_t fetch_from; /* for apply: what FETCH asked for; 0: none is out */
    bool fetch_void;     /* the log has changed below it */

    /* Following. */
    uint64_t follow_epoch;
    member_t follow_leader;
    uint64_t verified; /* last index verified in follow_epoch */
    bool owes;         /* an answer waits for its mark */
    uint64_t answered;
    usec_t echo; /* newest sent_at of follow_epoch */
    struct take take;

    /* Damage. */
    bool damaged;
    bool doubtful;      /* damaged in this only, that its end may be missing */
    bool whole_written; /* MARK_WHOLE is in the journal, not yet synced */
    uint64_t damage;
    bool damage_marked;   /* else MARK_DAMAGED is still to be written */
    uint64_t damage_mark; /* a leader may hear of it when this is synced */
    uint64_t whole_mark;
    uint64_t mend_to;

    /* The record, and leading. */
    struct replica_record record;
    bool leading;
    uint64_t epoch;       /* led, or last seen */
    uint64_t epoch_index; /* of the own EPOCH entry */
    bool active;          /* that entry is applied */
    bool activated;       /* both majorities store it */
    bool cannot;          /* named, and cannot */
    usec_t led_since;
    usec_t lease_at; /* the old leader's lease is over: nothing else may happen then; or never */
    usec_t report_at;
    bool dirty;
    struct peer *peers;
    size_t peers_count, peers_capacity;
    member_t *learners; /* replica_set_learners */
    size_t learners_count;
};

/* It neither promises nor leads. */
static inline bool broken(const struct replica *r) {
    return r->damaged && !r->doubtful;
}

/* ---- effects.c ---- */

struct replica_effect *fx_push(struct replica_effects *fx, enum replica_effect_type type);
/* The same for one that goes to the journal: moves the mark. */
struct replica_effect *fx_journal(struct replica *r, struct replica_effects *fx,
                                  enum replica_effect_type type);
void fx_epoch(struct replica_effects *fx, enum replica_effect_type type, uint64_t epoch);

/* ---- log.c ---- */

void log_init(struct replica *r, const struct replica_state *state);
void log_free(struct log *log);
/* Replace everything by a checkpoint's. */
void log_reset(struct replica *r, const struct replica_state *state);
/* Behind the last entry; emits WRITE; takes a reference of the body. */
void log_append(struct replica *r, const struct entry *entry, struct replica_effects *fx);
/* Emits TRUNCATE. */
void log_truncate(struct replica *r, uint64_t last_kept, struct replica_effects *fx);
uint64_t log_epoch_at(const struct log *log, uint64_t index);
/* First index of the epoch that index lies in. */
uint64_t log_epoch_first(const struct log *log, uint64_t index);
/* NULL: not in the cache. */
struct slot *log_slot(const struct log *log, uint64_t index);
static inline struct entry slot_entry(const struct slot *slot, uint64_t index) {
    return (struct entry){.index = index, .epoch = slot->epoch, .type = slot->type, .body = slot->body};
}
size_t body_cost(const struct body *body);
/* Move written and stored to what the marks allow. */
void log_advance(struct replica *r);
void log_commit_moved(struct replica *r, uint64_t from);
void log_trim(struct replica *r);
const struct replica_set *log_voters(const struct replica *r);

/* ---- apply.c ---- */

void commit_to(struct replica *r, uint64_t index, struct replica_effects *fx);
void apply_committed(struct replica *r, struct replica_effects *fx);

/* ---- lead.c ---- */

void lead_stop(struct replica *r, struct replica_effects *fx);
void lead_commit(struct replica *r, usec_t now, struct replica_effects *fx);
/* What the record says of oneself has to be said again. */
void report_again(struct replica *r, usec_t now, struct replica_effects *fx);
struct peer *lead_peer(const struct replica *r, member_t id);
void lead_peers(struct replica *r);
/* The value a majority of the set has reached: value(peer), own for the leader. */
uint64_t set_majority(const struct replica *r, const struct replica_set *set,
                      uint64_t (*value)(const struct peer *peer), uint64_t own);
/* The smaller of both sets' majorities while both are in force. */
uint64_t sets_majority(const struct replica *r, uint64_t (*value)(const struct peer *peer), uint64_t own);

/* ---- peer.c ---- */

void peer_init(const struct replica *r, struct peer *p, member_t id);
void peer_free(struct peer *p);
/* Forget what is in flight and find out anew where the logs agree. */
void peer_probe(struct replica *r, struct peer *p, uint64_t next);
void peer_pump(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx);
void peer_sent(struct peer *p, uint64_t last, size_t bytes);
void peer_arrived(struct peer *p, uint64_t upto);
void peer_fetch(struct peer *p, uint64_t from, uint64_t to, struct replica_effects *fx);
void peer_fetched(struct replica *r, struct peer *p, const struct entry *entries, size_t count, usec_t now,
                  struct replica_effects *fx);
usec_t peer_deadline(const struct peer *p);

/* ---- give.c ---- */

void give_start(struct peer *p, struct replica_effects *fx);
void give_free(struct give *g);
void give_pump(struct replica *r, struct peer *p, usec_t now, struct replica_effects *fx);
void give_fetched(struct replica *r, struct peer *p, const struct entry *entries, size_t count, usec_t now,
                  struct replica_effects *fx);

/* ---- take.c ---- */

void take_abandon(struct replica *r, struct replica_effects *fx);
void take_free(struct take *t);
void take_stored(struct replica *r, struct replica_effects *fx);

/* ---- follow.c ---- */

/* A message of epoch >= promise from its leader: stop leading, promise. True if
 * a PROMISE record is still to be written for it. */
bool follow(struct replica *r, uint64_t epoch, member_t leader, struct replica_effects *fx);
void follow_stored(struct replica *r, struct replica_effects *fx);
void follow_damaged(struct replica *r, struct replica_effects *fx);
void follow_forget(struct replica *r);

/* ---- seal.c ---- */

void promise_write(struct replica *r, struct replica_effects *fx);
/* Before something that an implied promise (an entry's epoch) would not survive. */
void promise_record(struct replica *r, struct replica_effects *fx);
void seal_stored(struct replica *r, struct replica_effects *fx);

/* ---- encode.c ---- */

void core_encode(const struct replica *r, uint64_t base_index, struct encoder *e);
void state_encode(const struct replica_state *state, struct encoder *e);

/* ---- damage.c ---- */

void damage_found(struct replica *r, uint64_t index, struct replica_effects *fx);
/* The mark of a damage that was found at the start, if it is still due. */
void damage_mark_due(struct replica *r, struct replica_effects *fx);
/* A commit it knows of is no part of the log any more: it forgets everything. */
void damage_overruled(struct replica *r, struct replica_effects *fx);
/* A seal has decided that its log is the one that goes on. */
void damage_chosen(struct replica *r, struct replica_effects *fx);
void damage_mending(struct replica *r, const struct replica_append *m);
void damage_stored(struct replica *r, usec_t now, struct replica_effects *fx);

#endif

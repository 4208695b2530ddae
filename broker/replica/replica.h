// SPDX-License-Identifier: Apache-2.0
/*
 * One copy of one replicated log: DESIGN section 6, Raft's log rules (Ongaro &
 * Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014,
 * section 5.3 and 5.4) with epochs that are decided outside: by the controller's
 * seals for a partition, by an election (cluster/election.h) for the metadata
 * group. The same core serves both.
 *
 * Pure: each call is one event; what is to be done comes back as effects, to be
 * carried out in order. No call blocks, none looks at a clock; `now` is
 * CLOCK_BOOTTIME. One thread.
 *
 * Syncing. WRITE, TRUNCATE and PROMISE effects go to the journal in their order.
 * After handing a turn to the journal the owner notes replica_mark(); when that
 * turn is written (or synced) it calls replica_stored() with the mark. The core
 * itself keeps every answer that asserts something (appended, sealed, commit,
 * activated) back until the mark it depends on is stored: a SEND effect may be
 * sent at once. Marks grow with each effect for the journal: WRITE, TRUNCATE,
 * PROMISE, MARK_*, STAGE, INSTALL.
 *
 * Bodies. An EPOCH entry has none (NULL: a record of no bytes); all others do.
 *
 * Turns. Proposals and answers only queue; replica_pump(), once a turn, emits
 * the APPEND sends, so that one frame a peer carries a turn's work.
 */
#ifndef MAILROOM_REPLICA_REPLICA_H
#define MAILROOM_REPLICA_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/entry.h"
#include "base/err.h"
#include "base/units.h"

/* The identity of one journal (64 random bits drawn when its folder is made): a
 * wiped disk is another member. 0 is nobody. */
typedef uint64_t member_t;

enum {
    REPLICA_SET_MAX = 7,                   /* voters of one set */
    REPLICA_APPEND_BYTES_MAX = 1048576,    /* bodies in one append message (one larger entry goes alone) */
    REPLICA_WINDOW_BYTES_MAX = 8388608,    /* bodies sent to a peer and not yet stored */
    REPLICA_CACHE_BYTES_DEFAULT = 4194304, /* bodies of recent entries kept in memory */
    REPLICA_LEASE_US = 200000,             /* who may deliver: confirmed by a majority within this time */
    REPLICA_RETRY_US = 1000000,            /* an append unanswered this long is probed again */
    REPLICA_PIECE_BYTES_MAX = 1048576,     /* one piece of a checkpoint's state */
    REPLICA_IDLE_US = 10000,               /* a commit index no append carried on is told after this long */
    REPLICA_UNCOMMITTED_BYTES_MAX = 67108864, /* proposed and not committed; ERR_BUSY above */
    REPLICA_STATE_BYTES_MAX = 67108864,       /* state of a checkpoint that is being received */
    REPLICA_ENTRY_COST_BYTES = 64,            /* what an entry counts besides its body in the bounds above */
    REPLICA_APPEND_ENTRIES_MAX = 4096,        /* entries in one append, or one FETCH */
    REPLICA_APPEND_CACHED_MAX = 256,          /* entries in one append from the cache */
    REPLICA_SEALS_PENDING_MAX = 8             /* seals waiting for their sync; the oldest asker asks again */
};

struct replica_set {
    uint32_t count;
    member_t members[REPLICA_SET_MAX];
};

bool replica_set_has(const struct replica_set *set, member_t m);
bool replica_set_equal(const struct replica_set *a, const struct replica_set *b);

/* A partition's record as it stands in the metadata, applied. */
struct replica_record {
    uint64_t version; /* grows with each change of the record */
    uint64_t epoch;
    member_t leader;
    bool activating;             /* both sets must store; `previous` is in force too */
    struct replica_set current;  /* S */
    struct replica_set previous; /* P; empty unless activating */
    struct replica_set learners; /* fed, never counted */
    uint64_t last_epoch;         /* what the leader answered the seal with; */
    uint64_t last_index;         /* it leads only if its log ends exactly there */
    bool wait_lease;             /* the old leader did not answer and is not known gone: */
                                 /* deliver only after REPLICA_LEASE_US */
};

struct replica;

struct replica_epoch_start {
    uint64_t epoch;
    uint64_t first_index;
};

/* What the journal (or an installed checkpoint) says about this copy. */
struct replica_state {
    uint64_t promise;    /* highest epoch promised */
    member_t candidate;  /* metadata group: to whom; 0 for partitions */
    uint64_t base_index; /* entries at or below are in the checkpoint only */
    uint64_t base_epoch;
    const struct entry *entries; /* base_index+1 .., bodies may be NULL (then they are fetched); */
                                 /* with config_in_log those of CONFIG entries must be set */
    size_t entries_count;
    const struct replica_epoch_start *epochs; /* epoch starts at or below base, oldest first */
    size_t epochs_count;
    struct replica_set config; /* metadata group: voters as of base_index */
    bool damaged;              /* something at or behind the end given here is unreadable, or the last of */
                               /* MARK_DAMAGED and MARK_WHOLE in the journal is MARK_DAMAGED */
    bool doubtful;             /* all of it can be read, but its end may be missing: see replica_doubts */
    uint64_t damage; /* above the number of each MARK_DAMAGED so far, and growing with each start: */
                     /* the journal's start counter, shifted up by 20 bits, will do */
};

struct replica_options {
    member_t self;
    bool synced;           /* durability synced: data counts when synced; else when written. */
                           /* Promises and EPOCH entries always wait for the sync. */
    bool config_in_log;    /* metadata group: voters come from CONFIG entries, not from a record */
    size_t cache_bytes;    /* 0: REPLICA_CACHE_BYTES_DEFAULT */
    size_t append_entries; /* in one append at most; 0: REPLICA_APPEND_CACHED_MAX */
};

/* ---- messages between replicas (wire form: proto/peer.proto) ---- */

struct replica_append {
    member_t from, to;
    uint64_t epoch;
    uint64_t prev_index, prev_epoch;
    uint64_t commit;
    uint64_t damage;       /* answer to the damage report of this number: */
    uint64_t mend_to;      /* whole again when stored to here; 0: none */
    usec_t sent_at;        /* leader's now, echoed: confirms the lease */
    struct entry *entries; /* contiguous from prev_index+1; bodies referenced */
    size_t count;          /* 0: probe, commit or mend notice */
};

enum replica_append_status {
    REPLICA_APPEND_STORED,   /* `verified` is stored */
    REPLICA_APPEND_MISMATCH, /* prev does not match; `verified` hints where to go on from */
    REPLICA_APPEND_REFUSED   /* promised higher: `promise` */
};

struct replica_appended {
    member_t from, to;
    uint64_t epoch; /* of the append answered */
    enum replica_append_status status;
    uint64_t verified; /* last index verified against this append, and stored */
    uint64_t promise;
    bool damaged;    /* counts for no majority until mended */
    uint64_t damage; /* number of its last damage, also when whole again: tells old answers from new */
    usec_t sent_at;  /* echoed */
};

struct replica_seal {
    uint64_t token; /* the asker's own, echoed */
    member_t to;
    uint64_t epoch;     /* promise to refuse everything below */
    member_t candidate; /* metadata group: who stands; one candidate an epoch. 0 for partitions */
};

struct replica_sealed {
    uint64_t token;
    member_t from;
    uint64_t epoch; /* asked for */
    bool granted;
    uint64_t promise; /* given now, or the higher one given before */
    uint64_t last_epoch, last_index, commit;
    bool damaged;     /* does not count as an answer */
    bool doubtful;    /* the promise counts; the log may have lost its end: see replica_doubts */
    bool was_leading; /* it led until this seal: no lease to wait for */
};

/* A checkpoint for a peer behind the leader's first index, in pieces. Piece 0..
 * carry the state (bytes), then each live batch is a piece of its own. */
struct replica_piece {
    member_t from, to;
    uint64_t epoch;
    uint64_t base_index, base_epoch; /* names the checkpoint */
    uint64_t number;                 /* 0 .. */
    bool last;
    bool is_batch;
    struct entry batch; /* is_batch */
    struct body *state; /* else: next bytes of the encoded state; referenced */
};

struct replica_pieced {
    member_t from, to;
    uint64_t epoch;
    uint64_t base_index;
    uint64_t number; /* pieces up to here are stored */
    bool done;       /* installed and synced */
    bool refused;    /* promised higher, or restarted: start over */
    uint64_t promise;
};

/* ---- effects ---- */

#define REPLICA_EFFECTS(X)                                                                                   \
    X(WRITE)        /* entry: journal, log end moves to it */                                                \
    X(TRUNCATE)     /* index: journal, entries above it are gone */                                          \
    X(PROMISE)      /* promise, candidate: journal */                                                        \
    X(MARK_DAMAGED) /* damage: journal; recovery gives state.damaged until MARK_WHOLE */                     \
    X(MARK_WHOLE)   /* journal: mended, and whole under this boot */                                         \
    X(STAGE)        /* entry: journal as staged batch: the log's end does not move */                        \
    X(UNSTAGE)      /* what was staged is not wanted any more (a restart drops it likewise) */               \
    X(INSTALL)      /* checkpoint received whole: journal writes it with its live list in place of */        \
                    /* checkpoint and log; staged batches of that list become the live ones */               \
    X(INSTALLED)    /* restore the state machine from it now; no bytes behind replica's: it starts empty */  \
    X(APPLY)        /* entry: committed, in order, once */                                                   \
    X(FETCH)        /* from, to, reader: read entries from the journal, then replica_fetched() */            \
    X(SNAPSHOT)     /* peer: give a checkpoint of the state machine with replica_snapshot() */               \
    X(SEND_APPEND)                                                                                           \
    X(SEND_APPENDED)                                                                                         \
    X(SEND_SEALED)                                                                                           \
    X(SEND_PIECE)                                                                                            \
    X(SEND_PIECED)                                                                                           \
    X(LEADING)           /* epoch: leads; EPOCH entry written; publishes may be proposed from now on */      \
    X(ACTIVE)            /* epoch: the EPOCH entry is committed and applied: state is current */             \
    X(STOPPED)           /* epoch: leads no more; uncommitted proposals are anybody's guess */               \
    X(REPORT_ACTIVATED)  /* epoch: both majorities store its EPOCH entry */                                  \
    X(REPORT_SUPERSEDED) /* promise: a higher promise was met: seal above it */                              \
    X(REPORT_CANNOT)     /* epoch: named leader, but cannot lead it: seal again */                           \
    X(REPORT_CAUGHT_UP)  /* peer: a learner has all committed entries */                                     \
    X(REPORT_DAMAGED)                                                                                        \
    X(REPORT_MENDED) /* mending is complete: it counts again */

enum replica_effect_type {
#define X(name) REPLICA_##name,
    REPLICA_EFFECTS(X)
#undef X
};
const char *replica_effect_name(enum replica_effect_type type);

struct replica_effect {
    enum replica_effect_type type;
    union {
        struct entry entry; /* WRITE, STAGE, APPLY; the body is a reference */
        uint64_t index;     /* TRUNCATE: last index kept */
        struct {
            uint64_t epoch;
            member_t candidate;
        } promise; /* PROMISE, REPORT_SUPERSEDED */
        struct {
            uint64_t from, to;
            member_t reader;
        } fetch; /* reader 0: apply */
        struct {
            uint64_t number;
            uint64_t from;   /* first index that cannot be trusted; what follows from it (TRUNCATE, or */
            bool everything; /* INSTALL of an empty checkpoint when everything is lost) comes right behind */
        } damage;            /* MARK_DAMAGED */
        struct {
            uint64_t base_index, base_epoch;
            struct body *state; /* INSTALL, INSTALLED: state is what */
            uint64_t *live;
            size_t live_count;
        } install;                    /* replica_encode and the state machine wrote; */
                                      /* live is owned by the effects */
        member_t peer;                /* SNAPSHOT, REPORT_CAUGHT_UP */
        uint64_t epoch;               /* LEADING, ACTIVE, STOPPED, REPORT_* */
        struct replica_append append; /* entries array: owned by the effects, freed by effects_clear */
        struct replica_appended appended;
        struct replica_sealed sealed;
        struct replica_piece piece;
        struct replica_pieced pieced;
    };
};

/* Filled by the calls below; the owner walks it and clears it. Bodies and arrays
 * in it are references that effects_clear drops: keep what you need longer. */
struct replica_effects {
    struct replica_effect *items;
    size_t count;
    size_t capacity;
};
void replica_effects_clear(struct replica_effects *fx); /* keeps the memory */
void replica_effects_free(struct replica_effects *fx);

/* ---- durability written ----
 *
 * What is written and not synced survives the process and dies with the machine's
 * power. So a copy of a mailbox of durability written that comes back under another
 * boot is doubtful: what it once answered for may be missing at its end, and nobody
 * can tell. It is as a damaged copy (fed, counted by no leader, until it has stored
 * all that a leader named after it said so), with two differences, both safe because
 * promises and EPOCH entries are synced in every durability:
 *  - It promises, and its promise counts: no older epoch can commit past it. What it
 *    says of its log counts as far as it goes: whatever its last entry's epoch began
 *    with stands before it. Who seals needs promises of a majority and logs of so many
 *    whole copies that none of the set's majorities is without one of them; the longest
 *    of all these logs, a doubtful one too, then has all that was committed.
 *  - Only when a majority of the set is doubtful (it lost power at once) can waiting not
 *    help: no majority of whole copies is left. Then the longest log of those that can be
 *    asked leads. Receipts may be lost; what else the cluster promises is kept. A copy
 *    that knows of a commit that the new log does not have forgets all it has, and is
 *    fed anew. */

/* The rule for a copy at its start: does its end count? boot_then: as it was last known
 * to be whole (journal_write_boot), 0: never; boot_now: 0 if it cannot be known. */
bool replica_doubts(bool written, uint64_t boot_then, uint64_t boot_now, uint64_t last_index);

/* ---- life ---- */

struct replica *replica_new(const struct replica_options *options, const struct replica_state *state);
void replica_free(struct replica *r);

/* ---- events ---- */

/* The record as applied in the metadata (partitions), or as won by election.
 * Older versions are ignored. May start, go on, or stop leading. */
void replica_on_record(struct replica *r, const struct replica_record *record, usec_t now,
                       struct replica_effects *fx);
/* Leader: who else is fed without counting (any number; metadata group). */
void replica_set_learners(struct replica *r, const member_t *members, size_t count,
                          struct replica_effects *fx);
/* Leader only: append. Takes a reference of body. *index is set on ERR_OK.
 * ERR_NOT_LEADER; ERR_BUSY: REPLICA_UNCOMMITTED_BYTES_MAX wait for their commit
 * (twice as much for anything but BATCH and COMMAND: what follows from them must
 * find room). */
enum err replica_propose(struct replica *r, uint8_t type, struct body *body, usec_t now, uint64_t *index,
                         struct replica_effects *fx);
/* Everything written with marks <= mark is written / synced. */
void replica_stored(struct replica *r, uint64_t mark, bool synced, usec_t now, struct replica_effects *fx);
uint64_t replica_mark(const struct replica *r);

void replica_on_append(struct replica *r, const struct replica_append *m, usec_t now,
                       struct replica_effects *fx);
void replica_on_appended(struct replica *r, const struct replica_appended *m, usec_t now,
                         struct replica_effects *fx);
void replica_on_seal(struct replica *r, const struct replica_seal *m, usec_t now, struct replica_effects *fx);
void replica_on_piece(struct replica *r, const struct replica_piece *m, usec_t now,
                      struct replica_effects *fx);
void replica_on_pieced(struct replica *r, const struct replica_pieced *m, usec_t now,
                       struct replica_effects *fx);

/* Answer to FETCH (each gets exactly one), `from` and `reader` as asked: entries
 * [from ..], at least one, at most about REPLICA_APPEND_BYTES_MAX of bodies;
 * references are taken. count 0: with `unreadable` the copy is damaged from
 * there, else the journal does not hold it any more (reclaimed meanwhile, or
 * cut off). */
void replica_fetched(struct replica *r, member_t reader, uint64_t from, const struct entry *entries,
                     size_t count, bool unreadable, usec_t now, struct replica_effects *fx);
/* The owner met an unreadable entry while reading for itself (a delivery): the
 * copy is damaged; at or below the base all of it has to come anew. */
void replica_unreadable(struct replica *r, uint64_t index, usec_t now, struct replica_effects *fx);
/* Answer to SNAPSHOT: the state machine's state, the index it has applied, and
 * the indexes of live batches at or below that, ascending. References are taken,
 * the list is copied. What is sent, and what the peer's INSTALL and INSTALLED
 * carry as `state`, is replica_encode(base_index) followed by these bytes: ready
 * to be stored as a checkpoint and to be read back with replica_decode and then
 * the state machine's restore (shard/core/partition.c). */
void replica_snapshot(struct replica *r, member_t peer, uint64_t base_index, struct body *state,
                      const uint64_t *live, size_t live_count, usec_t now, struct replica_effects *fx);
/* A peer's link came up, or went down: what was in flight is gone. While it
 * leads, a peer's link is taken as up until told otherwise: tell it of links
 * that are down after LEADING. */
void replica_peer_up(struct replica *r, member_t peer, usec_t now, struct replica_effects *fx);
void replica_peer_down(struct replica *r, member_t peer, usec_t now, struct replica_effects *fx);
/* The link's confirmation: peer answered something sent at sent_at. Not to be
 * called for a partition the peer has said it promised a newer epoch of. */
void replica_confirm(struct replica *r, member_t peer, usec_t sent_at);
/* The owner has a durable checkpoint of its own at base_index (<= applied):
 * entries at or below it are no longer fetched (those in the cache still serve). */
void replica_checkpointed(struct replica *r, uint64_t base_index);
/* Once a turn, if replica_dirty(): emits the turn's sends. */
bool replica_dirty(const struct replica *r);
void replica_pump(struct replica *r, usec_t now, struct replica_effects *fx);
/* When replica_tick wants to be called (0: at once); USEC_NEVER while nothing is
 * in flight. Reports are repeated each REPLICA_RETRY_US until a newer record
 * makes them void, so the owner may lose one. */
usec_t replica_deadline(const struct replica *r);
void replica_tick(struct replica *r, usec_t now, struct replica_effects *fx);

/* ---- questions ---- */

/* Leader: a BATCH or COMMAND would be taken now. */
bool replica_room(const struct replica *r);
bool replica_leading(const struct replica *r);   /* between LEADING and STOPPED */
uint64_t replica_epoch(const struct replica *r); /* led, or last seen */
uint64_t replica_promise(const struct replica *r);
uint64_t replica_last_index(const struct replica *r);
uint64_t replica_last_epoch(const struct replica *r);
uint64_t replica_commit(const struct replica *r);
uint64_t replica_applied(const struct replica *r);
uint64_t replica_base(const struct replica *r);
uint64_t replica_epoch_at(const struct replica *r, uint64_t index); /* 0: not known */
bool replica_damaged(const struct replica *r);                      /* or doubtful */
bool replica_doubtful(const struct replica *r);
bool replica_counts(const struct replica *r); /* whole: not damaged, not installing */
member_t replica_self(const struct replica *r);
/* Voters in force (metadata group: newest CONFIG in the log). */
const struct replica_set *replica_voters(const struct replica *r);
/* Index of that CONFIG entry; 0: from before the log. A change of voters is
 * proposed only when it is committed, and an entry of the own epoch is. */
uint64_t replica_config_index(const struct replica *r);
/* Leader: a checkpoint is on its way to a peer: what follows it should stay
 * fetchable until it is there, so put a checkpoint of one's own off. */
bool replica_transferring(const struct replica *r);
/* The entry's body if it is in the cache; no reference taken; NULL else. */
struct body *replica_cached(const struct replica *r, uint64_t index);
/* Until when a majority's confirmations let this leader deliver; USEC_NEVER when
 * it is its own majority; 0 when it may not. Counts the wait for the old
 * leader's lease. */
usec_t replica_lease_until(const struct replica *r, usec_t now);
/* Leader: how far a peer has stored (0: unknown), for status and planned moves. */
uint64_t replica_match(const struct replica *r, member_t peer);
/* The core's own part of a checkpoint (promise, base, epoch list, candidate,
 * config), as bytes to stand in front of the state machine's; and back. Encoding is
 * taken as writing: the checkpoint goes to the journal in the same turn. */
struct encoder;
struct decoder;
void replica_encode(struct replica *r, uint64_t base_index, struct encoder *e);
/* Fills everything but entries and damage; epochs is malloc'ed, caller frees. The
 * caller raises promise to what the journal says. False: malformed. */
bool replica_decode(struct decoder *d, struct replica_state *out);
/* The body of a CONFIG entry. */
struct body *replica_config_encode(const struct replica_set *voters);
bool replica_config_decode(const struct body *body, struct replica_set *out);

#endif

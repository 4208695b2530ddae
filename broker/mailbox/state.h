// SPDX-License-Identifier: Apache-2.0
/*
 * Inside of a mailbox, shared by the files of this folder and by nothing else.
 * README.md tells how the parts work together.
 */
#ifndef MAILROOM_MAILBOX_STATE_H
#define MAILROOM_MAILBOX_STATE_H

#include <uthash.h>

#include "base/body.h"
#include "base/check.h"
#include "base/codec.h"
#include "base/mutation.h"
#include "base/xalloc.h"
#include "mailbox/heap.h"
#include "mailbox/mailbox.h"
#include "mailbox/ranges.h"

enum timer_kind {
    TIMER_LEASE,       /* struct lease: it runs out */
    TIMER_CONSUMER,    /* struct consumer: lost, the grace ends */
    TIMER_DELAY,       /* struct subscription: a delay comes due */
    TIMER_LINGER,      /* struct subscription: unused credit goes back */
    TIMER_LIMBO,       /* struct mailbox: gateways that have not presented are given up */
    TIMER_TTL,         /* struct mailbox: a batch expires */
    TIMER_RETENTION,   /* struct mailbox: a settled batch is let go */
    TIMER_PRODUCERS,   /* struct mailbox: the longest idle producer is forgotten */
    TIMER_DEAD_LETTERS /* struct mailbox: refused dead letters are tried again */
};

/* ---- batches ---- */

struct batch_record {
    uint64_t index, base;
    int64_t stamp;
    uint32_t count, bytes;
    uint32_t unsettled; /* messages that some subscription has not settled */
    bool dead;          /* let go; leaves the list at the next sweep */
    bool one_key;       /* keys has one element, for all */
    uint32_t *keys;     /* dispatch by key: a hash for each message, 0: no key; else NULL */
    struct body *body;  /* durability none: the only copy; else NULL */
};

struct batches { /* ascending by index, base and stamp */
    struct batch_record *items;
    size_t head, count, capacity; /* items[head .. head+count) */
    size_t dead;
};

/* ---- producers ---- */

struct producer {
    struct producer_id id;
    UT_hash_handle hh;
    struct producer *prev, *next; /* m->idle_producers or m->pinned_producers, if known */
    /* replicated */
    bool known;         /* has a committed batch */
    bool pinned;        /* publishes dead letters: never forgotten */
    uint64_t last;      /* sequence of the last committed batch */
    uint64_t last_base; /* its base offset */
    int64_t stamp;      /* and its time */
    /* the leader's overlay */
    uint64_t taken;          /* sequence of the last batch proposed or committed */
    uint64_t taken_proposal; /* number of its proposal, while in flight */
    uint32_t in_flight;      /* proposals not yet committed */
    bool dropping;           /* a PRODUCER_DROP with it is in flight */
};

/* ---- proposals in flight ---- */

struct request { /* one settlement request */
    struct mailbox_origin origin;
    size_t count, remaining; /* items; answers that are still to come, and one while it is being read */
    enum settle_result results[];
};

struct ask { /* one item of a request */
    struct request *request;
    size_t item;
};

struct waiter { /* who is told when a proposal commits */
    struct waiter *next;
    struct request *request; /* NULL: a repeated publish */
    size_t item;
    enum settle_result result;
    struct mailbox_origin origin;
    uint64_t sequence;
};

struct proposal {
    uint8_t type;
    struct producer *producer; /* BATCH; the rest too */
    struct mailbox_origin origin;
    uint64_t sequence;
    uint32_t count;
    uint64_t bytes;
    struct waiter *waiters;
};

struct proposals { /* a ring; the owner's log answers in the same order */
    struct proposal *items;
    size_t head, count, capacity;
    uint64_t popped; /* number of items[head] */
};

/* ---- leases and consumers ---- */

enum span_state { SPAN_LEASED = 1, SPAN_SETTLING, SPAN_RETURNING };

struct lease { /* one run as it was delivered; struct subscription's leases point here */
    struct heap_node timer;
    struct subscription *subscription;
    struct consumer *consumer; /* NULL: gone, or nobody (what an earlier epoch may have delivered) */
    struct lease *prev, *next; /* the consumer's */
    uint64_t epoch;
    uint32_t number;
    uint64_t first, end;
    uint64_t live; /* messages of it still in subscription->leases */
    bool nobodys;  /* stands for what an earlier epoch may have delivered */
};

struct offsets { /* ascending */
    uint64_t *items;
    size_t head, count, capacity; /* items[head .. head+count) */
};

struct key_state { /* dispatch by key: a key with messages on their way or set aside */
    uint32_t hash;
    UT_hash_handle hh;
    struct consumer *owner;
    struct key_state *prev, *next; /* the owner's keys */
    struct key_state *parked_prev,
        *parked_next;       /* the owner's, or the subscription's, with parked messages */
    uint64_t leased;        /* messages */
    bool contested;         /* two presented messages of it: it stands still until none is leased */
    struct offsets waiting; /* coming back: return in flight, delayed, or not yet looked at again */
    struct offsets parked;  /* set aside */
};

struct consumer {
    struct consumer_id id;
    UT_hash_handle hh;
    struct consumer *prev, *next; /* in order of attachment */
    struct subscription *subscription;
    struct heap_node turn;  /* in subscription->eligible */
    struct heap_node timer; /* lost: until the grace ends */
    bool lost;
    bool announced; /* by key: READY was said for want of its credit */
    uint64_t gateway;
    char *client;
    uint32_t credit;
    uint64_t unsettled, delivered;
    struct lease *leases;
    int64_t served;       /* messages, for the round robin */
    int64_t service_ns;   /* least-loaded: smoothed time a message takes; 0: not known */
    usec_t service_since; /* the last settlement, or the delivery that ended idleness */
    struct key_state *keys, *parked_keys;
};

struct delay {
    int64_t due; /* log time */
    uint64_t first, end;
};

/* ---- subscriptions ---- */

enum wait_reason { WAIT_NOTHING, WAIT_CONSUMER, WAIT_CREDIT, WAIT_KEY };

struct subscription {
    char *name;
    uint64_t id;
    struct mailbox *mailbox;
    /* replicated */
    uint64_t born;         /* epoch it began in: older tokens are of another subscription of that name */
    uint64_t start;        /* offsets below are none of its business */
    uint64_t absent;       /* messages above start that were gone before it began */
    struct ranges settled; /* includes [0, start) and what is absent */
    struct ranges marks;   /* unsettled messages that came back or are dying; see mark_of */
    uint64_t acked, dead, expired, dropped, purged;
    uint64_t dying;
    uint64_t delayed_marks; /* messages with a due time and not dying */
    /* the leader's */
    struct ranges leases;  /* span_lease, span_state */
    struct ranges back;    /* returned, may be delivered again; value a: its key counts it as waiting */
    struct ranges delayed; /* counted by its key as waiting; value a: inherited, b: due */
    struct delay *delays;  /* a heap by due; entries may be stale */
    size_t delays_count, delays_capacity, delays_limit;
    uint64_t returning;         /* messages in SPAN_RETURNING */
    uint64_t returning_nobodys; /* those of them that an earlier epoch may have delivered */
    uint64_t cursor;            /* first deliveries go on from here */
    uint64_t inherited;         /* an earlier epoch may have delivered what is below */
    struct consumer *consumers; /* hash */
    struct consumer *attached;  /* list */
    struct heap eligible;       /* consumers with credit */
    int64_t served;             /* round robin: how far it has come */
    int64_t served_total;       /* since the members last changed */
    bool handover;              /* exclusive: the last one's settlements and returns are in flight */
    bool dirty, waiting;        /* to be dispatched; READY has been said */
    enum wait_reason reason;
    struct heap_node delay_timer, linger_timer;
    usec_t delivered_at;
    struct key_state *keys;        /* hash */
    struct key_state *parked_keys; /* with parked messages and no owner */
    uint64_t parked;
};

struct dying {
    uint64_t intent;
    UT_hash_handle hh;
    struct dying *prev, *next; /* m->dying, ascending */
    struct subscription *subscription;
    uint64_t offset;
    uint32_t attempts;
    uint8_t reason; /* enum dying_reason */
    char target[NAME_BYTES_MAX + 1];
    uint32_t target_partition;
    bool sent, stored; /* the leader's: on its way; its DEAD entry is proposed */
};

enum dying_reason { DYING_REJECTED = 1, DYING_MAX_DELIVERIES, DYING_REASON_MAX = DYING_MAX_DELIVERIES };

enum drop_reason {
    DROP_EXPIRED = 1,
    DROP_OVERFLOW,
    DROP_PURGED,
    DROP_RETENTION,
    DROP_REASON_MAX = DROP_RETENTION
};

enum settle_how { SETTLED_ACK, SETTLED_DROPPED };

/* What a turn has decided and mailbox_pump packs into entries. */
struct turn_range {
    uint64_t subscription;
    uint64_t first, end;
    uint8_t kind; /* SETTLE: enum settle_how; RETURN: 1 if it counts as an attempt */
    int64_t due;  /* RETURN */
};
struct turn_list {
    struct turn_range *items;
    size_t count, capacity;
    struct waiter *waiters;
};

struct mailbox {
    char *name;
    bool lent; /* credit came since the last pump */
    uint64_t id;
    uint32_t partition;
    struct mailbox_settings settings, creation;
    struct mailbox_settings wanted; /* leading: as the owner said last, committed or not */
    /* replicated */
    uint64_t applied;
    uint64_t next_offset;
    int64_t last_stamp;
    uint64_t forget_below; /* retention and purge have let go of settled batches below */
    struct batches batches;
    uint64_t messages, bytes;   /* unsettled somewhere; bytes of batches with such messages */
    uint64_t stored_bytes;      /* of all batches not dead */
    struct producer *producers; /* hash; the overlay's too */
    struct producer *idle_producers, *pinned_producers; /* known ones; least recent first */
    size_t producers_known;
    struct subscription **subscriptions;
    size_t subscriptions_count, subscriptions_capacity;
    uint64_t next_subscription;
    struct dying *dying, *dying_by_intent;
    /* the leader's */
    bool leading;
    uint64_t epoch;
    usec_t allowed; /* may deliver and settle until then */
    usec_t now;
    int64_t stamp_offset; /* log time minus now */
    uint64_t lead_offset; /* an earlier epoch may have delivered what is below */
    bool limbo;           /* and must not get it again yet */
    uint64_t *gateways;   /* that have still to present */
    size_t gateways_count;
    uint64_t proposed_offset; /* next_offset with what is in flight */
    uint64_t proposed_messages, proposed_bytes;
    uint64_t overflow_below; /* drop-oldest: already being dropped */
    uint64_t overflow_messages, overflow_bytes;
    usec_t expired_at;       /* when expired messages were last looked for */
    bool expiring;           /* a DROP of expired messages is in flight */
    uint64_t retained_below; /* retention has been proposed to let go of what is below */
    int64_t proposed_stamp;
    struct proposals proposals;
    size_t waiters;
    size_t producers_dropping;
    size_t subscribing; /* SUBSCRIBE entries in flight */
    size_t consumers;
    struct turn_list settles, returns;
    uint64_t *deads; /* intents whose DEAD is to be proposed */
    size_t deads_count, deads_capacity;
    struct heap timers;
    struct heap_node limbo_timer, ttl_timer, retention_timer, producers_timer, dead_letter_timer;
    uint32_t dead_letter_partitions;
    size_t dead_letters_sent;
    usec_t dead_letter_backoff;
    enum err dead_letter_error;
    char *old_names[MAILBOX_OLD_NAMES];
    size_t old_names_next;
    struct body *fresh; /* the body of the batch being applied */
    uint64_t fresh_index;
    uint64_t local_index; /* durability none: entries are numbered here */
};

#define OWNER_OF(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

/* Saturating: a point in time and a duration (not below 0). */
static inline int64_t time_after(int64_t at, int64_t duration) {
    return duration <= 0 ? at : at > INT64_MAX - duration ? INT64_MAX : at + duration;
}
/* The time before which an age of at least `age` at `now` lies. */
static inline int64_t time_before(int64_t now, int64_t age) {
    return now < INT64_MIN + age ? INT64_MIN : now - age;
}

/* mailbox.c */
void state_clear(struct mailbox *m);
void state_reset(struct mailbox *m);
void entry_apply(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);

/* effects.c */
struct mailbox_effect *effect_add(struct mailbox_effects *fx, enum mailbox_effect_type type);

/* batches.c */
struct batch_record *batches_at(const struct batches *b, uint64_t offset); /* covers it, not dead; or NULL */
struct batch_record *batches_from(const struct batches *b,
                                  uint64_t offset); /* first not dead that ends above */
struct batch_record *batches_younger(const struct batches *b,
                                     int64_t stamp); /* first not dead with a later one */
struct batch_record *batches_next(const struct batches *b, const struct batch_record *r);
struct batch_record *batches_push(struct batches *b);
void batches_kill(struct batches *b, struct batch_record *r);
void batches_sweep(struct batches *b);
void batches_free(struct batches *b);
uint64_t batch_end(const struct batch_record *r);
uint32_t batch_key(const struct batch_record *r, uint64_t offset);
void batch_read_keys(struct batch_record *r, const struct body *body);
void apply_batch(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);
/* Some subscription has settled [first, end): batches that all have settled. */
void batches_settled(struct mailbox *m, uint64_t first, uint64_t end, struct mailbox_effects *fx);
/* The subscriptions have changed: count anew. */
void batches_recount(struct mailbox *m, struct mailbox_effects *fx);
/* Retention has changed or let go. */
/* Messages of [first, end) that some subscription has not settled. */
uint64_t batches_unsettled(const struct mailbox *m, uint64_t first, uint64_t end);
/* After a restore: the counters that follow from batches and subscriptions. */
void batches_sum(struct mailbox *m);
void batches_release(struct mailbox *m, struct mailbox_effects *fx);

/* offsets.c: the replicated state of one subscription */
struct mark {
    uint32_t number, attempts;
    int64_t due;
    uint64_t intent;
};
struct mark mark_of(const struct range *r);
struct mark mark_at(const struct subscription *s, uint64_t offset);
void mark_set(struct subscription *s, uint64_t first, uint64_t end, struct mark mark);
/* The stretch from `offset` below `end` with one mark (a gap has zeros). */
uint64_t mark_run(const struct subscription *s, uint64_t offset, uint64_t end, struct mark *mark);
/* What is unsettled in [first, end) is settled; returns how many. */
uint64_t offsets_settle(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                        struct mailbox_effects *fx);
void offsets_return(struct mailbox *m, struct subscription *s, const struct turn_range *r);
uint64_t subscription_settled(const struct subscription *s);   /* since its start */
uint64_t subscription_published(const struct subscription *s); /* since its start */
uint64_t subscription_unsettled(const struct subscription *s);

/* producers.c */
struct producer *producer_find(struct mailbox *m, const struct producer_id *id);
struct producer *producer_make(struct mailbox *m, const struct producer_id *id);
void producer_committed(struct mailbox *m, const struct batch_header *h);
bool producers_room(struct mailbox *m, struct mailbox_effects *fx); /* for one more; may propose drops */
void producers_expire(struct mailbox *m, struct mailbox_effects *fx);
void producers_arm(struct mailbox *m);
void producers_forget_overlay(struct mailbox *m);
void producers_free(struct mailbox *m);
void apply_producer_drop(struct mailbox *m, const struct entry *e);
void producer_append(struct mailbox *m, struct producer *p); /* known now, the most recent */

/* proposals.c */
/* Takes the body's reference. Durability none: committed within the call. */
void propose(struct mailbox *m, struct proposal p, struct body *body, struct mailbox_effects *fx);
struct proposal *proposal_last(struct mailbox *m);
struct proposal proposal_pop(struct mailbox *m, uint8_t type);
/* After its entry is applied: answers. */
void proposal_committed(struct mailbox *m, const struct proposal *p, struct mailbox_effects *fx);
void receipt_duplicate(const struct producer *p, struct mailbox_origin origin, uint64_t sequence,
                       struct mailbox_effects *fx);
void refuse(struct mailbox_origin origin, const struct producer_id *id, uint64_t sequence, enum err code,
            uint64_t last, const char *text, struct mailbox_effects *fx);
void proposals_abandon(struct mailbox *m, struct mailbox_effects *fx);
/* Told with the producer's last proposal in flight. */
void waiter_publish(struct mailbox *m, struct producer *p, struct mailbox_origin origin, uint64_t sequence);
/* `ask` is told `result` when the proposal of this list commits. NULL: nobody asks. */
void waiter_settle(struct mailbox *m, struct waiter **list, const struct ask *ask, enum settle_result result);
void waiters_answer(struct mailbox *m, struct waiter *list, bool committed, const struct producer *producer,
                    struct mailbox_effects *fx);
void request_respond(struct request *q, size_t item, enum settle_result result);
void request_release(struct request *q, struct mailbox_effects *fx); /* the last part: SETTLED */

/* subscription.c */
struct subscription *subscription_find(const struct mailbox *m, const char *name);
struct subscription *subscription_by_id(const struct mailbox *m, uint64_t id);
struct subscription *subscription_make(struct mailbox *m, const char *name, uint64_t id);
void subscription_free(struct mailbox *m, struct subscription *s);
void subscription_lead(struct mailbox *m, struct subscription *s);
void subscription_unlead(struct mailbox *m, struct subscription *s);
void apply_subscribe(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);

/* consumers.c */
void consumer_work_done(struct consumer *c, uint64_t messages, usec_t now); /* measures its speed */
struct consumer *consumer_find(const struct subscription *s, const struct consumer_id *id);
void consumer_holds(struct mailbox *m, struct subscription *s, struct consumer *c,
                    const struct mailbox_hold *held);
void on_grace_over(struct mailbox *m, struct consumer *c, struct mailbox_effects *fx);
void consumer_free(struct mailbox *m, struct consumer *c); /* no returns: the leases stay nobody's */
void consumer_lost(struct mailbox *m, struct consumer *c);
void limbo_end(struct mailbox *m, struct mailbox_effects *fx);
void limbo_forget(struct mailbox *m, uint64_t gateway, struct mailbox_effects *fx);
bool consumer_eligible(const struct consumer *c);
void on_linger(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx);

/* lease.c */
struct lease *span_lease(const struct range *r);
enum span_state span_state(const struct range *r);
struct lease *lease_grant(struct mailbox *m, struct subscription *s, struct consumer *c, uint64_t first,
                          uint64_t end, uint64_t epoch, uint32_t number);
/* A settlement or return of [first, end) is under way: spans that are leased
 * change their state, what has no span gets one that is nobody's. */
void lease_move(struct subscription *s, uint64_t first, uint64_t end, enum span_state state);
void lease_extend(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, usec_t until);
/* The spans of [first, end) go. */
void lease_clear(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end);
void lease_free(struct mailbox *m, struct lease *l);
/* Everything of the lease that is neither settling nor returning comes back. */
void lease_return(struct mailbox *m, struct lease *l, bool attempt, struct mailbox_effects *fx);
/* [first, end), in one state and of one lease or of nobody, comes back: a RETURN
 * this turn, or the end of the message if it was the last attempt. */
void deliveries_return(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, bool attempt,
                       int64_t due, const struct ask *ask, struct mailbox_effects *fx);
/* The return of [first, end) is committed: to be delivered again from `due` on. */
void deliveries_back(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, int64_t due);
void back_clear(struct subscription *s, uint64_t first, uint64_t end); /* out of back and delayed */
/* inherited: an earlier epoch may have delivered it. */
void delay_add(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end, int64_t due,
               bool inherited);
void on_delay_due(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx);
int64_t log_time(const struct mailbox *m);

/* dispatch.c */
uint32_t run_messages_max(const struct batch_record *b);
void dispatch_announce(struct subscription *s, uint64_t gateway, struct mailbox_effects *fx);
void dispatch_announce_all(struct subscription *s, struct mailbox_effects *fx);
void dispatch_touch(struct subscription *s);
void dispatch_all(struct mailbox *m, struct mailbox_effects *fx);
uint64_t subscription_ready(const struct subscription *s);
void consumer_requeue(struct consumer *c); /* its place among the eligible, after credit or load changed */
void deliver(struct mailbox *m, struct subscription *s, struct consumer *c, struct batch_record *b,
             uint64_t first, uint32_t count, struct mark mark, struct mailbox_effects *fx);
struct consumer *dispatch_pick(struct subscription *s); /* NULL: nobody has credit */
uint32_t dispatch_quantum(const struct subscription *s);
/* The next message that was never delivered and its batch; false: none. */
bool dispatch_fresh(struct subscription *s, uint64_t *first, uint64_t *stop, struct batch_record **b);

/* keys.c */
bool keys_used(const struct mailbox *m);
void keys_leased(struct subscription *s, struct consumer *c, uint64_t first, uint64_t end);
void keys_unleased(struct subscription *s, uint64_t first, uint64_t end);
void keys_wait(struct subscription *s, uint64_t first, uint64_t end);
void keys_unwait(struct subscription *s, uint64_t first, uint64_t end);
void keys_disown(struct consumer *c);
void keys_free(struct subscription *s);
enum wait_reason keys_dispatch(struct mailbox *m, struct subscription *s, struct mailbox_effects *fx);

/* settle.c, turn.c */
void apply_settle(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);
void apply_return(struct mailbox *m, const struct entry *e);
void turn_add(struct turn_list *t, uint64_t subscription, uint64_t first, uint64_t end, uint8_t kind,
              int64_t due);
void turn_pack(struct mailbox *m, struct mailbox_effects *fx);
void turn_abandon(struct mailbox *m, struct mailbox_effects *fx);
/* The next range of a SETTLE or RETURN entry; *range is the one before. CHECKs the bytes. */
void turn_read(struct decoder *d, bool with_due, struct turn_range *range);

/* deadletter.c */
void apply_dying(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);
const char *dying_reason_name(uint8_t reason);
void apply_dead(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);
/* Proposes the end of [first, end), one state: dying, or dropped without a target. */
void dying_propose(struct mailbox *m, struct subscription *s, uint64_t first, uint64_t end,
                   enum dying_reason reason, const struct ask *ask, struct mailbox_effects *fx);
struct dying *dying_make(struct mailbox *m, uint64_t intent);
void dying_forget(struct mailbox *m, uint64_t intent);
void dying_lead(struct mailbox *m);
void dying_send(struct mailbox *m, struct mailbox_effects *fx);

/* limits.c */
bool limits_room(struct mailbox *m, uint32_t count, uint32_t bytes, struct mailbox_effects *fx);
void limits_arm(struct mailbox *m);
bool limits_expired(const struct mailbox *m, const struct batch_record *b);
void limits_expire_soon(struct mailbox *m); /* dispatch has met an expired message */
void limits_drop_committed(struct mailbox *m, const struct proposal *p);
void on_ttl(struct mailbox *m, struct mailbox_effects *fx);
void on_retention(struct mailbox *m, struct mailbox_effects *fx);
void apply_drop(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);
void apply_settings(struct mailbox *m, const struct entry *e, struct mailbox_effects *fx);

#endif

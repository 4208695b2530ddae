// SPDX-License-Identifier: Apache-2.0
/*
 * The library's inside, shared by its files. README.md tells the life of a
 * message through them.
 *
 * Locking: one mutex a client guards everything here. It is held in every
 * handler of the loop (session.c takes it at the door) and for the copying part
 * of every call; never while the program's callbacks run, and never while
 * waiting. Links and timers are touched on the client's thread alone.
 */
#ifndef MAILROOM_CLIENT_CLIENT_H
#define MAILROOM_CLIENT_CLIENT_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <uthash.h>
#include <utlist.h>

#include "base/body.h"
#include "base/err.h"
#include "base/units.h"
#include "client/include/mailroom.h"
#include "proto/batch.h"
#include "wire/frames.h"
#include "wire/link.h"
#include "wire/loop.h"

enum {
    CLIENT_TIMEOUT_MS_DEFAULT = 10000,
    CLIENT_PUBLISH_MS_MAX = 600000, /* a producer is remembered longer than it retries */
    CLIENT_MAILBOXES_MAX = 16384,   /* names one client may have published to */
    CLIENT_CALLS_MAX = 1024,        /* administration requests under way */
    CLIENT_NAME_BYTES_MAX = 128,
    CLIENT_ADDRESSES_MAX = 64, /* configured and learnt ones */
    ADDRESS_BYTES_MAX = 300,
    TROUBLE_BYTES = 160
};
#define CLIENT_BUFFER_BYTES_DEFAULT (64 * MIB)
/* How much later than its deadline a call gives up on the client's thread (a
 * callback that does not return, a stopped process). */
#define CLIENT_GRACE_USEC (1 * USEC_S)

/* ---- what one caller waits for (waiter.c): freed by the last of the two ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    int refs;
    bool done;
    mr_error error;
    mr_receipt receipt;
    int result;      /* of a settlement */
    uint8_t *answer; /* of a call: encoded Response */
    size_t answer_size;
};
struct waiter *waiter_new(void);
/* True when done; false at the deadline (the caller then only drops it). */
bool waiter_wait(struct waiter *w, usec_t deadline);
void waiter_done(struct waiter *w); /* wakes, and drops the other side's reference */
void waiter_drop(struct waiter *w);
/* A condition on the steady clock; and a wait on it that ends at `deadline`
 * (clock_now's): false then. */
void steady_cond_init(pthread_cond_t *cond);
bool steady_wait(pthread_cond_t *cond, pthread_mutex_t *lock, usec_t deadline);

/* A thread of ours: named, with every signal blocked but those of
 * faults. 0 or an error number. */
int thread_spawn(void *(*run)(void *), void *arg, pthread_t *thread);
/* The same mask for threads that others start (nng's); and back. */
void signals_block(sigset_t *before);
void signals_restore(const sigset_t *before);

/* ---- errors (error.c) ---- */

void error_clear(mr_error *error);
/* Fills *error (may be NULL) and returns code. */
int error_set(mr_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int error_from(mr_error *error, const struct err_detail *detail);
/* A struct of the caller with its own size, into ours: zeroed, then copied. */
void options_copy(void *out, size_t size, const void *in);
/* now + timeout_ms, MR_TIMEOUT_DEFAULT being the client's; MR_EINVALID if negative. */
int deadline_of(mr_client *c, int64_t timeout_ms, usec_t *deadline, mr_error *error);

/* ---- publishing ---- */

struct entry { /* what becomes of one message of a batch */
    mr_published published;
    void *ctx;
    usec_t deadline; /* 0: completed */
};

enum batch_state {
    BATCH_OPEN,   /* in a lane, not sent yet */
    BATCH_FLYING, /* sent in this session, unanswered */
    BATCH_AGAIN,  /* to be sent again, unchanged */
    BATCH_DONE    /* in client.done */
};

struct batch {
    struct batch *prev, *next;             /* in its lane, partition or client.done */
    struct batch *all_prev, *all_next;     /* in client.batches */
    struct batch *fresh_prev, *fresh_next; /* in mailbox.fresh */
    UT_hash_handle hh;                     /* in client.requests, once sent */
    struct mailbox *mailbox;
    struct lane *lane;           /* until it is sent */
    struct partition *partition; /* once sent */
    enum batch_state state;
    bool fresh; /* in flight, and not for long */
    bool part;  /* of a batch for which there was no room */
    struct batch_builder built;
    struct entry *entries;
    size_t entries_capacity;
    uint32_t open;     /* entries not completed */
    size_t buffered;   /* bytes counted in client.buffered */
    usec_t earliest;   /* deadline among the open entries */
    struct body *body; /* once sent: the bytes, never changed from then on */
    uint64_t request;
    uint64_t sequence;
    uint64_t after;
    int64_t published; /* by our wall clock */
    usec_t first_sent;
    usec_t sent_at;
    struct err_detail refusal; /* last one, for the text at the deadline */
    /* once done: */
    mr_receipt receipt;
    mr_error error; /* MR_OK: receipt holds */
};

struct lane {                    /* batches on their way to a partition, or to any */
    struct lane *prev, *next;    /* in mailbox.lanes while there is something in it */
    struct partition *partition; /* NULL: the route chooses when it is sent */
    struct batch *batches;       /* oldest first; the last one is being filled */
};

struct partition {
    struct mailbox *mailbox;
    uint32_t number;
    struct lane lane;     /* route by key */
    struct batch *queue;  /* sent and unanswered, by sequence */
    uint32_t queued;      /* batches in it */
    uint32_t again, slow; /* of these: to be sent again; in flight for long */
    size_t bytes;         /* of it */
    uint64_t sequence;    /* last one given */
    uint64_t good;        /* last one receipted */
    usec_t used;          /* when one was receipted last */
    usec_t retry_at;      /* 0: not waiting */
    usec_t backoff;
    uint64_t load; /* usec of expected wait, as the gateway says */
};

enum mailbox_state { MAILBOX_STALE, MAILBOX_ASKED, MAILBOX_KNOWN };

struct mailbox {
    UT_hash_handle hh;    /* in client.mailboxes, by name */
    UT_hash_handle hh_id; /* in client.mailboxes_by_id, once known */
    struct mailbox *dirty_next;
    bool dirty;
    mr_client *client;
    char *name;
    enum mailbox_state state; /* in this session */
    uint64_t request;         /* of the Lookup */
    usec_t retry_at;
    usec_t backoff;
    struct err_detail refusal;
    uint64_t id; /* 0: never known */
    int route;
    struct partition *partitions;
    uint32_t partitions_count;
    uint32_t turn;       /* round-robin: next partition */
    struct lane any;     /* for the route to choose */
    struct lane *lanes;  /* those with something in them */
    struct batch *fresh; /* in flight and not for long, oldest first */
    uint32_t fresh_count;
    uint32_t again; /* batches to be sent again */
};

/* ---- consuming ---- */

enum message_state { MESSAGE_QUEUED, MESSAGE_HANDED, MESSAGE_SETTLING, MESSAGE_SETTLED };

struct mr_message {
    struct run *run;
    uint32_t index;
    uint8_t state;
    bool freed; /* the program's handle, or never given one */
    struct batch_message view;
};

struct run {                             /* one Delivery; lives until each message is settled and freed */
    struct run *prev, *next;             /* in consumer.runs */
    struct run *queue_prev, *queue_next; /* in consumer.queue while next_index < count */
    mr_consumer *consumer;               /* a reference */
    struct body *body;
    uint32_t partition, count, delivery_number, attempt;
    uint64_t first_offset, epoch;
    int64_t stamp;
    usec_t received;
    uint32_t next_index; /* first message not handed out */
    uint32_t busy;       /* messages not both settled and freed, and extensions under way */
    mr_message messages[];
};

struct settlement { /* consecutive messages of one run, settled alike */
    struct run *run;
    uint32_t first, count;
    int kind;
    usec_t delay;
    mr_settled settled; /* then count is 1 */
    void *ctx;
};

struct settle_frame {                 /* a Settle in flight */
    struct settle_frame *prev, *next; /* in consumer.frames */
    UT_hash_handle hh;                /* in client.settles */
    mr_consumer *consumer;
    uint64_t request;
    size_t count;
    struct settlement items[];
};

enum consumer_state {
    CONSUMER_STALE, /* not subscribed in this session */
    CONSUMER_ASKED, /* Subscribe sent */
    CONSUMER_READY,
    CONSUMER_LEFT, /* Unsubscribe sent */
    CONSUMER_ENDED /* `end` says why; MR_ECANCELLED: closed by the program */
};

struct mr_consumer {
    UT_hash_handle hh; /* in client.consumers, by handle */
    mr_client *client; /* a reference */
    atomic_int refs;   /* handle, client.consumers, own thread, runs, calls inside */
    enum consumer_state state;
    bool opened;  /* was subscribed once */
    bool leaving; /* hand out nothing more, settle, then unsubscribe */
    bool orphan;  /* its handle is closed */
    uint32_t handle;
    uint8_t id[16];
    char *mailbox, *subscription;
    uint32_t credit;
    mr_error end;
    uint64_t request;
    usec_t retry_at;
    usec_t backoff;
    struct err_detail refusal;
    usec_t lease;               /* of the mailbox: ack timeout; 0: unknown */
    struct run *runs;           /* every one with a message not both settled and freed */
    struct run *queue;          /* those with messages to hand out */
    uint32_t held;              /* messages queued or handed out, not being settled */
    struct settlement *pending; /* to be sent */
    size_t pending_count, pending_capacity;
    usec_t settle_at; /* not before: some were answered "ask again"; 0: at once */
    usec_t settle_backoff;
    struct settle_frame *frames; /* in flight, oldest first */
    uint32_t frames_count;
    bool dirty;
    mr_consumer *dirty_next;
    pthread_cond_t changed;
    int fd; /* eventfd, -1: not asked for */
    bool fd_set;
    mr_consume consume;
    void *ctx;
    pthread_t thread;
    bool running; /* the thread, if consume */
};

struct settled { /* an answer on its way to the program's callback */
    struct settled *next;
    mr_settled settled;
    void *ctx;
    int result;
    mr_error error;
};

/* ---- administration ---- */

struct call {
    UT_hash_handle hh; /* in client.calls */
    uint64_t request;
    uint8_t *packed; /* Request without its number and deadline */
    size_t packed_size;
    bool changes; /* not only a question */
    bool once;    /* a change that is not sent a second time */
    bool again;   /* was sent before and lost its answer */
    int gone_ok;  /* code that means done when `again`: it had been applied. 0: none */
    bool flying;
    usec_t deadline;
    usec_t retry_at;
    usec_t backoff;
    struct err_detail refusal;
    struct waiter *waiter;
};

/* ---- session ---- */

enum session_state { SESSION_DIALING, SESSION_HELLO, SESSION_OPEN };

struct session { /* one connection; two while the client moves from one to the next */
    mr_client *client;
    struct link *link;
    enum session_state state;
    usec_t since; /* dialled, or opened */
    usec_t pinged;
    bool going; /* GOAWAY was heard */
    char address[ADDRESS_BYTES_MAX];
    size_t window;        /* unreceipted bytes allowed */
    size_t message_bytes; /* largest message */
    size_t batch_bytes;   /* largest batch of several messages */
    size_t frame_bytes;
};

struct resolve;

struct connector {                         /* which address comes next (connect.c) */
    char *addresses[CLIENT_ADDRESSES_MAX]; /* configured, then learnt */
    size_t count, configured;
    size_t at;                        /* next one to try */
    size_t tried;                     /* since the last wait */
    char found[8][ADDRESS_BYTES_MAX]; /* what the one being tried resolved to */
    size_t found_count, found_at;
    struct resolve *resolve; /* under way */
    usec_t dial_at;
    usec_t backoff;
};

struct mr_client {
    atomic_int refs; /* handle, thread, runs, consumers */
    pid_t pid;
    pthread_mutex_t lock;
    pthread_t thread;
    struct loop *loop;
    char name[CLIENT_NAME_BYTES_MAX];
    usec_t timeout;
    size_t buffer_max;
    struct producer_id producer;
    pthread_cond_t changed; /* room, flushed, connected, stopped: whoever waits looks again */
    bool stopping;          /* closing: nothing new is taken */
    bool stopped;           /* the thread is through */
    bool ever_open;

    struct loop_event kick;
    bool kicked;
    struct loop_timer timer;
    usec_t wake_at; /* earliest time somebody has something to do */
    usec_t pinging;

    struct connector connector;
    struct session *session;     /* open, used */
    struct session *next;        /* being opened */
    char trouble[TROUBLE_BYTES]; /* why there is no session */

    uint64_t request; /* last number given */

    struct mailbox *mailboxes;
    struct mailbox *mailboxes_by_id;
    struct mailbox *dirty;
    struct batch *batches;  /* all but the done ones */
    struct batch *requests; /* those sent, by request */
    struct batch *done;     /* completed, callbacks not yet called */
    size_t buffered;        /* bytes of messages not completed */
    size_t unreceipted;     /* bytes in flight in this session */
    uint32_t completing;    /* batches in done, or whose callbacks are running */
    bool ended;             /* the loop is being left: turns do nothing */

    mr_consumer *consumers;
    mr_consumer *consumers_dirty;
    struct settle_frame *settles;
    uint32_t handles;
    struct settled *settled_first, *settled_last;

    struct call *calls;
};

/* client.c */
int client_check(mr_client *c, mr_error *error);      /* MR_EFORKED, MR_EUSAGE (NULL) */
int client_check_wait(mr_client *c, mr_error *error); /* and MR_EUSAGE on its own thread */
void client_keep(mr_client *c);
void client_drop(mr_client *c);
void client_lock(mr_client *c);
void client_unlock(mr_client *c);
/* Have the thread take a turn. */
void client_kick(mr_client *c);
/* Have the thread look at everything at `at`, if nothing earlier was asked for. */
void client_wake(mr_client *c, usec_t at);
uint64_t client_request(mr_client *c);
/* `least` doubled at each call up to `most`, jittered: usec to wait. */
usec_t backoff_next(mr_client *c, usec_t *backoff, usec_t least, usec_t most);
/* Codes that are waited through inside a deadline. */
bool code_is_passing(int code);

/* session.c */
void session_tick(mr_client *c, usec_t now);
void session_end(mr_client *c); /* closing: say goodbye to all links */
bool session_is_open(const mr_client *c);
/* The peer broke the rules: end the link, connect anew. */
void session_refuse(struct session *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* connect.c */
int connector_init(struct connector *k, const char *servers, mr_error *error);
void connector_free(struct connector *k);
void connector_forget(struct connector *k); /* the look-up under way, if any */
void connector_learn(struct connector *k, char *const *addresses, size_t count);
/* An url to dial now, or NULL: none yet (wait, or being resolved). */
const char *connector_next(mr_client *c, usec_t now);
void connector_failed(mr_client *c, usec_t now);
void connector_away(struct connector *k); /* asked to go elsewhere */
void connector_opened(struct connector *k);
void connector_lost(mr_client *c, bool lasted, usec_t now);

/* publish.c: taking messages, completing them */
void batch_sweep(mr_client *c, usec_t now); /* deadlines */
void batch_complete(struct batch *b, const mr_receipt *receipt, int code, const char *text);
void batch_free_done(mr_client *c); /* callbacks, without the lock */
struct batch *batch_new(struct mailbox *m);
/* Out of every list and freed: its messages have gone elsewhere. */
void batch_discard(struct batch *b);
/* The batch a message of so many bytes goes to, new or being filled. */
struct batch *lane_room(struct mailbox *m, struct lane *lane, size_t bytes);
/* One message, as encoded in another batch. */
void batch_take(struct batch *b, const struct batch_message *m, const struct entry *e);
void lane_push(struct mailbox *m, struct lane *lane, struct batch *b, bool first);
void lane_remove(struct batch *b);
void publish_fail_all(mr_client *c, int code, const char *text);

/* sender.c: lanes to partitions to the link, receipts, refusals */
bool lane_ready(const struct mailbox *m, const struct lane *lane);
void mailbox_dirty(struct mailbox *m);
void sender_pump(mr_client *c, usec_t now);
void sender_tick(mr_client *c, usec_t now);
void sender_lost(mr_client *c);
void partition_remove(struct batch *b); /* from its queue and the requests */
void mailbox_free(struct mailbox *m);
void on_mailbox_info(struct session *s, const Mr__MailboxInfo *info);
void on_loads(struct session *s, const Mr__Loads *loads);
void on_receipts(struct session *s, const Mr__Receipts *receipts);
bool lookup_failed(mr_client *c, uint64_t request, int code, const char *text);

/* route.c */
struct partition *route_choose(struct mailbox *m);
/* Share a lane's batches out by key, once the mailbox turns out to want that. */
void route_by_key(struct mailbox *m);

/* consumer.c */
void consumer_dirty(mr_consumer *k);
void consumers_pump(mr_client *c, usec_t now);
void consumers_forget(mr_client *c); /* those that wait to be pumped */
void consumers_tick(mr_client *c, usec_t now);
void consumers_lost(mr_client *c);
bool consumers_ended(const mr_client *c);
void consumers_leave(mr_client *c); /* the client closes: all of them, in good order */
void consumers_cut(mr_client *c, int code, const char *text); /* now */
void consumers_close(mr_client *c);                           /* the program's handles with them */
void consumer_drop(mr_consumer *k);
void consumer_notify(mr_consumer *k);
void on_subscribed(struct session *s, const Mr__Subscribed *m);
void on_consumer_end(struct session *s, const Mr__ConsumerEnd *m);
bool subscribe_failed(mr_client *c, uint64_t request, int code, const char *text);

/* delivery.c: runs and messages */
void on_delivery(struct session *s, const Mr__Delivery *m, struct body *body);
mr_message *run_pop(mr_consumer *k, usec_t now); /* NULL: none */
/* One reason less to keep the run: true if it was the last, run_free it then
 * (on the client's thread, or without the lock). */
bool run_less(struct run *r);
bool message_settled(mr_message *m);
void run_free(struct run *r);
void runs_detach(mr_consumer *k);                          /* it has ended: nothing of it can be settled */
Mr__Held **runs_held(const mr_consumer *k, size_t *count); /* one free() */

/* settle.c */
int settle_add(mr_message *m, int kind, usec_t delay, mr_settled settled, void *ctx, mr_error *error);
void settle_pump(mr_consumer *k, usec_t now);
void settle_lost(mr_consumer *k);
bool settle_idle(const mr_consumer *k);
void settle_cancel(mr_consumer *k, int code, const char *text);
void settled_call(mr_client *c); /* callbacks, without the lock */
void on_settled(struct session *s, const Mr__Settled *m);
bool settle_failed(mr_client *c, uint64_t request);

/* admin.c */
void calls_pump(mr_client *c, usec_t now);
void calls_tick(mr_client *c, usec_t now);
void calls_lost(mr_client *c);
void calls_fail_all(mr_client *c, int code, const char *text);
void on_response(struct session *s, const Mr__Response *m);

#endif

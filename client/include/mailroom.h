/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailroom.h: publish to and consume from the mailboxes of a mailroom cluster.
 *
 * The whole manual of the library is this file; `man 3 mailroom` is a summary.
 *
 * A first program:
 *
 *     mr_error error;
 *     mr_client *client;
 *     if (mr_client_open(NULL, &client, &error) != MR_OK)
 *         return fprintf(stderr, "%s\n", error.text), 1;
 *     mr_publication hello = {.struct_size = sizeof hello, .payload = "hello", .payload_size = 5};
 *     if (mr_publish(client, "orders", &hello, MR_TIMEOUT_DEFAULT, NULL, &error) != MR_OK)
 *         fprintf(stderr, "%s\n", error.text);
 *     mr_client_close(client, 1000, NULL);
 *
 * Conventions
 *
 * - Functions that can fail return an int: MR_OK (0) or one of MR_E*. The last
 *   argument `mr_error *error` may be NULL; it is filled on failure, and on
 *   success set to MR_OK with an empty text.
 * - Time spans are milliseconds (_ms), points of time microseconds since 1970
 *   (_us). A span of MR_TIMEOUT_DEFAULT means the client's timeout_ms; 0 means
 *   "do not wait". Every call that waits has such a deadline.
 * - Structs that the program fills begin with struct_size = sizeof the struct,
 *   so that a later library may add fields at the end; zero the rest. They are
 *   copied: nothing passed in needs to live longer than the call. NULL is
 *   accepted for an options struct and means all defaults.
 * - Structs that the library hands out are const, are freed by the function
 *   named beside them, and may grow at the end.
 * - Strings are UTF-8 and NUL-terminated; keys, header values and payloads are
 *   bytes with a size.
 *
 * Threads
 *
 * All handles may be used by several threads at once; no other call may be
 * under way on a handle that is being closed or freed, except mr_consumer_next,
 * which then returns MR_ECANCELLED. A client has one thread of its own (and
 * nng's, one set per process), all with every signal blocked but those of
 * faults. Completion callbacks run on that thread, with no lock held: they must
 * not block, they may publish and settle asynchronously, and a call that would
 * wait returns MR_EUSAGE there. The library installs no signal handler and ends
 * no shared state of nng. Memory that runs out ends the process, as does a
 * broken invariant inside the library.
 *
 * After fork without exec every call in the child returns MR_EFORKED and frees
 * nothing: the threads did not come along. The parent is not affected.
 *
 * What is promised
 *
 * - A publish that returned MR_OK is stored as durably as its mailbox promises.
 *   The library sends again through lost connections and changes of leaders
 *   until the deadline; the broker stores it once.
 * - One client's messages to one partition are stored in the order of their
 *   submission, except those that were reported as failed.
 * - A consumed message comes at least once: until it is settled, or its
 *   attempts or time to live are used up.
 */
#ifndef MAILROOM_H
#define MAILROOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MR_API __attribute__((visibility("default")))
#else
#define MR_API
#endif

#define MR_VERSION "0.1.0"

/* The version of the library that is linked, "0.1.0". Static string. */
MR_API const char *mr_version(void);

/* ------------------------------------------------------------------ errors */

/* Numbers are fixed for ever; a newer cluster may send ones not listed here. */
enum {
    MR_OK = 0,
    MR_EINVALID = 1,       /* an argument or request is not valid; the text says which */
    MR_ENOTFOUND = 2,      /* no such mailbox, subscription, node */
    MR_EEXISTS = 3,        /* exists with other settings */
    MR_EFULL = 4,          /* mailbox at its limit */
    MR_ETOOLARGE = 5,      /* larger than the limit */
    MR_ETIMEOUT = 6,       /* nobody answered in time; nothing was applied */
    MR_EUNAVAILABLE = 7,   /* temporarily unavailable */
    MR_ENOTLEADER = 8,     /* (between nodes) */
    MR_EOUTOFORDER = 9,    /* (between library and broker) */
    MR_EFORGOTTEN = 10,    /* producer forgotten, may have been applied */
    MR_ETOOLATE = 11,      /* too late: the lease has passed to another delivery */
    MR_EBUSY = 12,         /* a buffer of the library or the broker is full */
    MR_EDISKFULL = 13,     /* disk nearly full */
    MR_EDAMAGED = 14,      /* damaged */
    MR_EQUARANTINED = 15,  /* partition stands still after crashes; an operator must look */
    MR_ECLOSED = 16,       /* connection closed */
    MR_EPROTOCOL = 17,     /* protocol violation */
    MR_EDENIED = 18,       /* not allowed */
    MR_ENOMEMORY = 19,     /* memory limit reached */
    MR_EIO = 20,           /* input/output error */
    MR_EUNKNOWN = 21,      /* outcome unknown: it may have been applied */
    MR_EUSAGE = 22,        /* a call where it is not allowed */
    MR_EFORKED = 23,       /* used after fork without exec */
    MR_ESETTLED = 24,      /* already settled */
    MR_ESTALE = 25,        /* computed from a record that is no longer current */
    MR_ECANCELLED = 26,    /* handle closed meanwhile */
    MR_EUNSAFE = 27,       /* refused: would lose data or a majority */
    MR_EVERSION = 28       /* no protocol version in common */
};

/* What can be done about it. */
enum {
    MR_FATAL = 0,     /* the same request would fail again */
    MR_RETRYABLE = 1, /* nothing was applied; the same request may succeed later */
    MR_MAYBE = 2      /* it may have been applied: publish again only if twice is harmless */
};

enum { MR_ERROR_TEXT_BYTES = 256 };

typedef struct mr_error {
    int code;                       /* MR_OK or MR_E* */
    int advice;                     /* MR_FATAL, MR_RETRYABLE or MR_MAYBE */
    char text[MR_ERROR_TEXT_BYTES]; /* for people: what was wrong, what was expected */
} mr_error;

/* The code's name without prefix ("FULL") and a short text. Static strings, for
 * any number. */
MR_API const char *mr_error_name(int code);
MR_API const char *mr_error_text(int code);
MR_API int mr_error_advice(int code);

/* ------------------------------------------------------------------ client */

#define MR_TIMEOUT_DEFAULT (-1)

typedef struct mr_client mr_client;

typedef struct mr_client_options {
    size_t struct_size;
    /* "HOST:PORT[,HOST:PORT...]", also "[v6]:PORT" and "ipc://PATH". NULL:
     * $MAILROOM_SERVER, else 127.0.0.1:7400. Several are tried in turn from a
     * random one on, then those the cluster names. */
    const char *servers;
    const char *name;     /* shown in lists of consumers; NULL: "PROGRAM-PID" */
    int64_t timeout_ms;   /* what MR_TIMEOUT_DEFAULT stands for; 0: 10,000 */
    size_t buffer_bytes;  /* unreceipted messages kept at most; 0: 64 MiB */
} mr_client_options;

/* A client that connects in the background: returns without waiting for that.
 *   MR_EINVALID  an option is not valid (addresses are not resolved here)
 *   MR_EFORKED   the library was used before the fork
 *   MR_EIO       no thread, descriptor or random numbers to be had */
MR_API int mr_client_open(const mr_client_options *options, mr_client **client, mr_error *error);

/* Wait until the client is connected.
 *   MR_ETIMEOUT  it is not; the text says what stands in the way */
MR_API int mr_client_wait(mr_client *client, int64_t timeout_ms, mr_error *error);

/* Close: wait for what was published and settled, at most timeout_ms, then give
 * back unsettled deliveries and end every consumer of this client. What is not
 * answered then is completed: MR_ECANCELLED if it was never sent, MR_EUNKNOWN
 * else. Never hangs; client is freed whatever it returns, NULL is allowed.
 * Its consumer handles are gone too; its mr_message handles stay until
 * mr_message_free.
 *   MR_EUNKNOWN  something was left unanswered
 *   MR_EUSAGE    called from a callback; nothing was closed */
MR_API int mr_client_close(mr_client *client, int64_t timeout_ms, mr_error *error);

/* Wait until no asynchronous publish is unanswered.
 *   MR_ETIMEOUT  some are; they go on */
MR_API int mr_client_flush(mr_client *client, int64_t timeout_ms, mr_error *error);

/* ----------------------------------------------------------------- publish */

typedef struct mr_header {
    const char *name; /* 1 to 65,535 bytes */
    const void *value;
    size_t value_size; /* at most 65,535 */
} mr_header;

enum { MR_KEY_BYTES_MAX = 1024, MR_HEADERS_MAX = 64 };

typedef struct mr_publication {
    size_t struct_size;
    const void *payload; /* may be empty */
    size_t payload_size;
    const void *key; /* chooses the partition of a mailbox with route "key"; may be empty */
    size_t key_size; /* at most MR_KEY_BYTES_MAX */
    const mr_header *headers;
    size_t headers_count; /* at most MR_HEADERS_MAX */
} mr_publication;

typedef struct mr_receipt {
    uint32_t partition;
    uint64_t offset;  /* of the message in the partition; UINT64_MAX: no longer known (a duplicate,
                         and more had been stored behind the earlier attempt) */
    int duplicate;    /* 1: an earlier attempt had been stored; it is stored once */
} mr_receipt;

/* Publish and wait for the receipt (may be NULL). timeout_ms at most 600,000.
 *   MR_ENOTFOUND   no such mailbox
 *   MR_EFULL, MR_EDISKFULL, MR_EQUARANTINED   refused now, nothing was stored
 *   MR_ETOOLARGE   past the cluster's message limit
 *   MR_ETIMEOUT    not stored
 *   MR_EUNKNOWN, MR_EFORGOTTEN   sent, and no answer: may be stored */
MR_API int mr_publish(mr_client *client, const char *mailbox, const mr_publication *message,
                      int64_t timeout_ms, mr_receipt *receipt, mr_error *error);

/* Called exactly once for each publish taken: receipt is NULL if it failed,
 * error is NULL if not. Both live until it returns. On the client's thread. */
typedef void (*mr_published)(void *ctx, const mr_receipt *receipt, const mr_error *error);

/* Take a message for publishing and return; `published` (may be NULL) tells the
 * outcome within timeout_ms. Waits, as long, for room when the client's buffer
 * is full; with MR_NO_WAIT, or in a callback, returns MR_EBUSY instead. On
 * failure nothing was taken and `published` is not called. */
enum { MR_NO_WAIT = 1 };
MR_API int mr_publish_async(mr_client *client, const char *mailbox, const mr_publication *message,
                            int64_t timeout_ms, unsigned flags, mr_published published, void *ctx,
                            mr_error *error);

/* ----------------------------------------------------------------- consume */

typedef struct mr_consumer mr_consumer;
typedef struct mr_message mr_message;

/* Handles one message on the consumer's own thread; may block and call
 * everything but mr_consumer_close for this consumer. The message is the
 * handler's: settle and free it, then or later, on any thread. */
typedef void (*mr_consume)(void *ctx, mr_consumer *consumer, mr_message *message);

typedef struct mr_consumer_options {
    size_t struct_size;
    const char *subscription; /* NULL: "default" */
    uint32_t credit;          /* unsettled deliveries held at most, waiting ones included; 0: 100 */
    mr_consume consume;       /* NULL: by mr_consumer_next. Else a thread calls this */
    void *ctx;
} mr_consumer_options;

/* Join a subscription as a consumer; waits until the cluster says yes.
 *   MR_ENOTFOUND   no such mailbox or subscription
 *   MR_ETIMEOUT    no answer; no consumer was made
 *   MR_EDENIED     exclusive and taken, or not allowed */
MR_API int mr_consumer_open(mr_client *client, const char *mailbox, const mr_consumer_options *options,
                            int64_t timeout_ms, mr_consumer **consumer, mr_error *error);

/* The next message; the caller frees it. Lost connections are waited through.
 *   MR_ETIMEOUT    none came in time
 *   MR_ECANCELLED  the consumer is being closed
 *   MR_ENOTFOUND, MR_EDENIED, ...   the cluster ended the consumer: close it */
MR_API int mr_consumer_next(mr_consumer *consumer, int64_t timeout_ms, mr_message **message,
                            mr_error *error);

/* A descriptor that polls readable while mr_consumer_next(consumer, 0, ...)
 * would not return MR_ETIMEOUT. Only to be polled; closed with the consumer.
 * -1: none to be had. */
MR_API int mr_consumer_fd(mr_consumer *consumer);

/* Wait until every settlement made is answered.
 *   MR_ETIMEOUT  some are not; they go on */
MR_API int mr_consumer_flush(mr_consumer *consumer, int64_t timeout_ms, mr_error *error);

/* Leave: settlements made are sent and waited for, deliveries not settled are
 * released (they count no attempt). Never hangs; the consumer is freed whatever
 * it returns, NULL is allowed; messages stay until mr_message_free.
 *   MR_EUNKNOWN  a settlement is unanswered: the message may come again
 *   MR_EUSAGE    called in a callback; nothing was closed */
MR_API int mr_consumer_close(mr_consumer *consumer, int64_t timeout_ms, mr_error *error);

/* Fields of a message; pointers live until mr_message_free. */
MR_API const char *mr_message_mailbox(const mr_message *message);
MR_API uint32_t mr_message_partition(const mr_message *message);
MR_API uint64_t mr_message_offset(const mr_message *message);
MR_API const void *mr_message_key(const mr_message *message, size_t *size);
MR_API const void *mr_message_payload(const mr_message *message, size_t *size);
/* Deliveries of it so far, this one included; released ones do not count. From 1. */
MR_API uint32_t mr_message_attempt(const mr_message *message);
/* When it was stored, by the cluster's clock, usec since 1970. */
MR_API int64_t mr_message_time_us(const mr_message *message);
MR_API size_t mr_message_headers(const mr_message *message);
/* Header i of mr_message_headers. The name is not NUL-terminated.
 * 0, or -1 if there is no such header. */
MR_API int mr_message_header(const mr_message *message, size_t i, const char **name, size_t *name_size,
                             const void **value, size_t *value_size);
/* The value of the first header of that name, or NULL. */
MR_API const void *mr_message_header_get(const mr_message *message, const char *name, size_t *value_size);

/* Free the handle, on any thread. A message that was not settled is released:
 * it is delivered again at once, to this or another consumer. NULL is allowed. */
MR_API void mr_message_free(mr_message *message);

/* How a delivery ends. */
enum {
    MR_ACK = 0,     /* done */
    MR_NACK = 1,    /* deliver again, not before delay_ms have passed; counts an attempt */
    MR_REJECT = 2,  /* give up: to the dead-letter mailbox, if there is one */
    MR_EXTEND = 3,  /* keep it: a new lease of delay_ms (0: the mailbox's ack-timeout) */
    MR_RELEASE = 4  /* give it back untouched; counts no attempt */
};

/* What became of a settlement. */
enum {
    MR_SETTLE_DONE = 0,
    MR_SETTLE_ALREADY = 1, /* was settled before */
    MR_SETTLE_TOO_LATE = 2 /* the lease had passed on: another delivery counts */
};

/* Called exactly once: the result is MR_SETTLE_*, or -1 with *error when the
 * client or consumer was closed before an answer. On the client's thread. */
typedef void (*mr_settled)(void *ctx, int result, const mr_error *error);

/* Settle and return at once: sent again, across connections, until answered.
 * `settled` may be NULL. A message is settled once; EXTEND may be repeated.
 *   MR_ESETTLED    this handle was settled before
 *   MR_ECANCELLED  its consumer is closed */
MR_API int mr_settle_async(mr_message *message, int kind, int64_t delay_ms, mr_settled settled, void *ctx,
                           mr_error *error);

/* Settle and wait for the answer.
 *   MR_ESETTLED, MR_ETOOLATE  the answers "already settled" and "too late"
 *   MR_EUNKNOWN    no answer yet; it goes on being sent
 *   MR_ECANCELLED  as above */
MR_API int mr_settle(mr_message *message, int kind, int64_t delay_ms, int64_t timeout_ms, mr_error *error);

/* mr_settle_async(message, KIND, delay, NULL, NULL, NULL). */
MR_API int mr_ack(mr_message *message);
MR_API int mr_nack(mr_message *message, int64_t delay_ms);
MR_API int mr_reject(mr_message *message);
MR_API int mr_extend(mr_message *message, int64_t lease_ms);
MR_API int mr_release(mr_message *message);

/* ---------------------------------------------------------- administration */
/*
 * All wait for the answer. Errors besides those named: MR_ETIMEOUT nobody
 * answered (a question, or a change that was not sent), MR_EUNKNOWN a change
 * that was sent and not answered, MR_EINVALID with the reason.
 */

enum { MR_SYNCED = 0, MR_WRITTEN = 1, MR_NONE = 2 };                   /* durability */
enum { MR_ROUTE_ROUND_ROBIN = 0, MR_ROUTE_LEAST_LOADED = 1, MR_ROUTE_KEY = 2 };
enum {
    MR_DISPATCH_ROUND_ROBIN = 0,
    MR_DISPATCH_LEAST_LOADED = 1,
    MR_DISPATCH_KEY = 2,
    MR_DISPATCH_EXCLUSIVE = 3
};
enum { MR_OVERFLOW_REJECT = 0, MR_OVERFLOW_DROP_OLDEST = 1 };
enum { MR_NAME_BYTES_MAX = 128 };

typedef struct mr_settings {
    size_t struct_size;
    uint32_t partitions;     /* 1 to 1,024, fixed at creation */
    uint32_t replicas;       /* wanted; fewer while the cluster has fewer nodes */
    int durability;          /* MR_SYNCED, ... */
    int route;               /* MR_ROUTE_* */
    int dispatch;            /* MR_DISPATCH_* */
    int overflow;            /* MR_OVERFLOW_* */
    int no_default;          /* 1: made without the subscription "default" */
    uint32_t max_deliveries; /* 0: no limit */
    uint64_t max_messages;   /* unsettled somewhere, of the whole mailbox; 0: no limit */
    uint64_t max_bytes;      /* 0: no limit */
    int64_t ttl_ms;          /* 0: none */
    int64_t ack_timeout_ms;
    int64_t retain_ms;       /* keep settled messages as long; 0: not */
    uint64_t retain_bytes;   /* or as many bytes; 0: not */
    char dead_letter[MR_NAME_BYTES_MAX + 1]; /* "": none */
} mr_settings;

/* Fills in the defaults (1 partition, 3 replicas, synced, round-robin twice,
 * reject, 30 s) and struct_size = sizeof *settings as compiled. */
#define mr_settings_init(settings) mr_settings_default((settings), sizeof *(settings))
MR_API void mr_settings_default(mr_settings *settings, size_t struct_size);

/* The words of the command line for these numbers; static strings. The parse
 * functions return -1 for an unknown word. */
MR_API const char *mr_durability_name(int durability);
MR_API const char *mr_route_name(int route);
MR_API const char *mr_dispatch_name(int dispatch);
MR_API const char *mr_overflow_name(int overflow);
MR_API int mr_durability_parse(const char *word);
MR_API int mr_route_parse(const char *word);
MR_API int mr_dispatch_parse(const char *word);
MR_API int mr_overflow_parse(const char *word);

/* MR_OK too if it exists with the same settings; MR_EEXISTS with others. */
MR_API int mr_mailbox_create(mr_client *client, const char *mailbox, const mr_settings *settings,
                             int64_t timeout_ms, mr_error *error);

/* Which settings an update changes; bits. */
enum {
    MR_UPDATE_MAX_MESSAGES = 1,
    MR_UPDATE_MAX_BYTES = 2,
    MR_UPDATE_TTL = 4,
    MR_UPDATE_MAX_DELIVERIES = 8,
    MR_UPDATE_DEAD_LETTER = 16,
    MR_UPDATE_ACK_TIMEOUT = 32,
    MR_UPDATE_OVERFLOW = 64,
    MR_UPDATE_RETAIN = 128
};
MR_API int mr_mailbox_update(mr_client *client, const char *mailbox, unsigned fields,
                             const mr_settings *settings, int64_t timeout_ms, mr_error *error);
/* Deleted with all its messages. MR_ENOTFOUND. */
MR_API int mr_mailbox_delete(mr_client *client, const char *mailbox, int64_t timeout_ms, mr_error *error);
/* Everything unsettled now is thrown away, leased messages included. */
MR_API int mr_mailbox_purge(mr_client *client, const char *mailbox, int64_t timeout_ms, mr_error *error);
/* Last resort where no majority can be mended: go on with what node has. What
 * only others had is lost. */
MR_API int mr_mailbox_recover(mr_client *client, const char *mailbox, const char *node, int64_t timeout_ms,
                              mr_error *error);

typedef struct mr_consumer_info {
    const char *id; /* hexadecimal */
    const char *client;
    uint32_t credit;
    uint64_t leased;
    uint64_t delivered;
} mr_consumer_info;

/* published = ready + leased + delayed + dying + acked + dead + expired +
 * dropped + purged, always. */
typedef struct mr_subscription_state {
    const char *name;
    const char *reason; /* why it does not move: "no-consumer", ...; "" if it does */
    uint64_t published, ready, leased, delayed, dying, acked, dead, expired, dropped, purged;
    size_t consumers_count;
    const mr_consumer_info *const *consumers;
} mr_subscription_state;

typedef struct mr_partition_info {
    uint32_t partition;
    const char *leader; /* node; "" without one */
    const char *state;  /* "ok", "electing", "activating", "no-majority", "quarantined", "damaged" */
    uint64_t epoch, messages, bytes;
    size_t replicas_count;
    const char *const *replicas; /* nodes */
    size_t subscriptions_count;
    const mr_subscription_state *const *subscriptions;
} mr_partition_info;

typedef struct mr_mailbox_info {
    const char *name;
    const mr_settings *settings;
    size_t partitions_count; /* 0 in a list */
    const mr_partition_info *const *partitions;
} mr_mailbox_info;

typedef struct mr_mailbox_list {
    size_t count;
    const mr_mailbox_info *const *mailboxes; /* by name */
} mr_mailbox_list;

MR_API int mr_mailbox_show(mr_client *client, const char *mailbox, int64_t timeout_ms,
                           const mr_mailbox_info **info, mr_error *error);
MR_API int mr_mailboxes(mr_client *client, int64_t timeout_ms, const mr_mailbox_list **list,
                        mr_error *error);

/* Where a subscription starts. */
enum { MR_FROM_NEW = 0, MR_FROM_FIRST = 1, MR_FROM_OFFSET = 2, MR_FROM_TIME = 3 };

typedef struct mr_subscription_info {
    const char *name;
    int from;       /* MR_FROM_* */
    uint64_t value; /* offset, or usec since 1970 */
} mr_subscription_info;

typedef struct mr_subscription_list {
    size_t count;
    const mr_subscription_info *const *subscriptions;
} mr_subscription_list;

MR_API int mr_subscription_create(mr_client *client, const char *mailbox, const char *subscription,
                                  int from, uint64_t value, int64_t timeout_ms, mr_error *error);
MR_API int mr_subscription_delete(mr_client *client, const char *mailbox, const char *subscription,
                                  int64_t timeout_ms, mr_error *error);
MR_API int mr_subscriptions(mr_client *client, const char *mailbox, int64_t timeout_ms,
                            const mr_subscription_list **list, mr_error *error);

typedef struct mr_process_info {
    const char *role;  /* "shard/0" */
    const char *state; /* "starting", "ready", "restarting", "stopped" */
    const char *version;
    int32_t pid;
    uint32_t restarts;
} mr_process_info;

typedef struct mr_node_info {
    const char *name;
    const char *state; /* "alive", "suspect", "dead", "draining", "left" */
    const char *address;
    uint32_t leaders, replicas;
    size_t processes_count;
    const mr_process_info *const *processes;
} mr_node_info;

typedef struct mr_cluster_info {
    const char *cluster;
    const char *controller; /* node */
    size_t nodes_count;
    const mr_node_info *const *nodes;
    uint64_t partitions, without_leader, under_replicated, quarantined;
} mr_cluster_info;

MR_API int mr_cluster_status(mr_client *client, int64_t timeout_ms, const mr_cluster_info **info,
                             mr_error *error);

/* Frees what the functions above handed out; NULL is allowed. */
MR_API void mr_info_free(const void *info);

#ifdef __cplusplus
}
#endif
#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the gateway's process share. One loop, one thread. */
#ifndef MAILROOM_GATEWAY_GATEWAY_PRIVATE_H
#define MAILROOM_GATEWAY_GATEWAY_PRIVATE_H

#include <uthash.h>

#include "gateway/consumers.h"
#include "gateway/gateway.h"
#include "gateway/map.h"
#include "gateway/publishes.h"
#include "gateway/settles.h"
#include "wire/frames.h"
#include "wire/hello.h"
#include "wire/keep.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"

enum {
    GATEWAY_SESSIONS_MAX = 20000,
    GATEWAY_MEMORY_SHARE = 4,            /* the gateway's part of the node's memory: one in so many */
    GATEWAY_WINDOW_SHARE = 8,            /* a session's part of that, for unreceipted bytes */
    GATEWAY_FRAME_SLACK_BYTES = 131072,  /* of a frame beyond its one largest message */
    GATEWAY_QUEUE_PAUSE_BYTES = 4194304, /* a session with as much to send is lent no more */
    GATEWAY_QUEUE_SMALL_BYTES = 65536,   /* the same while all sessions together have too much */
    SESSION_HEADER_BYTES_MAX = 1048576,
    SESSION_SETTLE_ITEMS_MAX = 65536, /* in one frame */
    SESSION_LOOKUPS_MAX = 1024,       /* mailboxes whose loads a session is told */
    SESSION_CONSUMERS_MAX = 1024,
    SESSION_REQUESTS_MAX = 256, /* administration under way */
    SESSION_PARKED_MAX = 256    /* frames that wait for the map */
};

#define GATEWAY_TICK_US         (20 * USEC_MS)
#define GATEWAY_RETRY_US        (200 * USEC_MS) /* attach and settle again where no answer led on */
#define GATEWAY_SCAN_US         (1 * USEC_S)    /* look for silent sessions and links */
#define GATEWAY_CUT_US          (500 * USEC_MS) /* a leader out of reach for longer, others may reach it */
#define GATEWAY_AWAY_EVERY_US   (5 * USEC_S)    /* then sessions are sent away, as often */
#define GATEWAY_FAREWELL_US     (3 * USEC_S)    /* after GOAWAY; shorter than the supervisor waits */
#define SESSION_MAP_WAIT_US     (2 * USEC_S)    /* a hello waits so long for the first map */
#define SESSION_PARKED_US       (300 * USEC_MS) /* for the map to learn a name */
#define SESSION_PING_US         (10 * USEC_S)   /* of silence, then ask */
#define SESSION_SILENCE_US      (30 * USEC_S)   /* of silence, then end it */
#define REQUEST_DEADLINE_US     (10 * USEC_S)   /* of one that names none */
#define REQUEST_DEADLINE_MAX_US (600 * USEC_S)
#define SHOW_PATIENCE_US        (1 * USEC_S) /* for partitions that do not answer a show */

struct gateway;

/* A frame that names something the map does not have yet. */
struct parked {
    struct session *session;
    uint16_t type;
    usec_t deadline;
    struct body *header;
    struct body *body; /* may be NULL */
    struct parked *next, *prev;
};

struct lookup {
    uint64_t mailbox;
    uint64_t version; /* of the loads it was told */
};

struct answer {
    uint64_t request;
    uint64_t base_offset;
    uint64_t last;
    bool duplicate;
    enum err code; /* OK: a receipt */
    char text[ERR_DETAIL_BYTES];
};

/* A client's link. */
struct session {
    struct gateway *gateway;
    struct link *link;
    uint64_t number; /* never used twice */
    bool greeted;
    usec_t park_until;         /* a parked frame is tried again: its deadline */
    bool final;                /* a parked frame is tried for the last time */
    const struct frame *frame; /* being handled */
    Mr__Hello *hello;          /* came before the first map; NULL: none */
    char name[CONSUMER_CLIENT_BYTES + 1];
    usec_t opened;
    usec_t pinged;
    bool paused;
    size_t queued;              /* bytes to be sent when last looked at */
    struct consumer *consumers; /* by handle */
    size_t settle_items;
    size_t requests;
    size_t parked;
    size_t parked_bytes;
    struct lookup *lookups;
    size_t lookup_count, lookup_capacity;
    struct answer *answers; /* this turn's */
    size_t answer_count, answer_capacity;
    bool answering;
    struct session *next_answering;
    UT_hash_handle hh;
};

/* A shard, of this node or another. */
struct shard_link {
    struct gateway *gateway;
    char node[CONFIG_NAME_BYTES_MAX + 1];
    unsigned index;
    struct keep *keep;
    struct link *link; /* once it has said welcome */
    usec_t greeted_at; /* hello sent; 0: not connected */
    usec_t down_since; /* without a welcome */
    uint64_t member;
    uint64_t owner; /* of its dead letters' publishes */
    bool local;
    UT_hash_handle hh; /* by member, while up */
    struct shard_link *next, *prev;
};

/* Administration that the controller answers. */
struct request {
    uint64_t number;  /* the gateway's */
    uint64_t session; /* number */
    uint64_t client_request;
    usec_t deadline;
    Mr__Request *message; /* owned */
    bool sent;
    bool sent_before; /* over a link that is gone: may have been done */
    UT_hash_handle hh;
};

/* Administration that the partitions' leaders answer: show and purge. */
enum inquiry_kind { INQUIRY_SHOW, INQUIRY_PURGE };
enum inquiry_state { INQUIRY_WAITING, INQUIRY_ASKED, INQUIRY_DONE };

struct inquiry_part {
    enum inquiry_state state;
    Mr__PartitionShow *show; /* owned */
};

struct inquiry {
    enum inquiry_kind kind;
    uint64_t number;
    uint64_t session;
    uint64_t client_request;
    uint64_t mailbox;
    usec_t deadline;
    size_t count, left;
    struct inquiry_part *parts;
    UT_hash_handle hh;
};

struct gateway {
    struct gateway_options options;
    struct loop *loop;
    const struct config *config;
    struct listener *listener;
    char url[LINK_PEER_BYTES];

    size_t message_bytes_max;
    size_t batch_bytes_max;
    size_t window_bytes; /* of a session */
    /* the gateway's memory, in parts */
    size_t publish_bytes; /* of unreceipted and parked bodies */
    size_t lent_bytes;    /* of deliveries that may be on the way from shards */
    size_t queue_bytes;   /* that wait to be sent to sessions */
    size_t partial_bytes; /* of frames that are not whole yet */
    size_t queued;        /* sum of the sessions' */
    size_t parked_bytes;

    struct map map;
    struct publishes publishes;
    struct consumers consumers;
    struct settles settles;

    uint64_t last_number; /* of sessions, shard links, requests, inquiries */
    struct session *sessions;
    struct session *answering;
    struct parked *parked;
    struct shard_link *shards;
    struct shard_link *by_member;

    struct keep *controller;
    struct link *controller_link; /* once it has said welcome */
    usec_t controller_greeted_at;
    uint64_t cluster_id; /* 0 until the map says it */
    struct request *requests;
    struct inquiry *inquiries;

    struct loop_timer tick_timer, retry_timer, stop_timer;
    usec_t next_retry, next_scan;
    usec_t next_away; /* sessions may be sent away because a leader is out of reach */
    bool stopping;
    bool stopped;
};

/* ---- gateway.c ---- */
uint64_t gateway_next_number(struct gateway *g);
/* Who this is, for Hello; points into g. */
void gateway_identity(const struct gateway *g, Mr__Identity *out);
/* The leader of a partition changed, or the way to it. */
void gateway_leader_lost(struct gateway *g, struct map_partition *p);
void gateway_leader_found(struct gateway *g, struct map_partition *p);
/* The map no longer has it. */
void gateway_mailbox_gone(struct gateway *g, struct map_mailbox *box);

/* ---- sessions.c ---- */
bool sessions_open(struct gateway *g, const char *url, struct err_detail *detail);
void sessions_close(struct gateway *g);
void sessions_goaway(struct gateway *g, const char *why);
struct session *sessions_find(const struct gateway *g, uint64_t number);
/* The first map came: hellos that waited are answered. */
void sessions_map_known(struct gateway *g);
void sessions_scan(struct gateway *g);
/* Answers to publishes, packed at the end of the turn. */
struct answer *session_answer(struct session *s, uint64_t request);
void sessions_answer_turn(struct gateway *g);
void sessions_tell_loads(struct gateway *g);
/* Something was queued for it, or all is sent: pauses its consumers or not. */
void session_queue(struct session *s);
/* Try the frame being handled again when the map has changed. False: it has
 * waited long enough (or too many do): answer it. */
bool session_park(struct session *s, struct body *body);
void sessions_retry_parked(struct gateway *g, bool map_changed);

/* ---- publishing.c ---- */
void on_publish(void *ctx, struct link *link, const void *header, struct body *body);
void on_shard_receipts(void *ctx, struct link *link, const void *header, struct body *body);
void on_forward_publish(void *ctx, struct link *link, const void *header, struct body *body);
void publishing_turn(struct gateway *g);
void publishing_tick(struct gateway *g);
void publishing_refuse_all(struct gateway *g, const struct map_partition *p, enum err code, const char *text);
void on_publish_retry(struct loop_timer *timer);

/* ---- consuming.c ---- */
void on_subscribe(void *ctx, struct link *link, const void *header, struct body *body);
void on_unsubscribe(void *ctx, struct link *link, const void *header, struct body *body);
void on_credit(void *ctx, struct link *link, const void *header, struct body *body);
void on_settle(void *ctx, struct link *link, const void *header, struct body *body);
void on_attached(void *ctx, struct link *link, const void *header, struct body *body);
void on_detached(void *ctx, struct link *link, const void *header, struct body *body);
void on_ready(void *ctx, struct link *link, const void *header, struct body *body);
void on_credit_back(void *ctx, struct link *link, const void *header, struct body *body);
void on_shard_delivery(void *ctx, struct link *link, const void *header, struct body *body);
void on_shard_settled(void *ctx, struct link *link, const void *header, struct body *body);
/* Attach all its consumers that are not, and settle what waits. */
void consuming_leader(struct gateway *g, struct map_partition *p);
void consuming_lost(struct gateway *g, struct map_partition *p);
void consuming_turn(struct gateway *g);
void consuming_retry(struct gateway *g);
/* The session is gone: its consumers with it, not in order. */
void consuming_session_gone(struct session *s);
void consuming_pause(struct session *s, bool paused);
void consuming_mailbox_gone(struct gateway *g, const struct map_mailbox *box);
/* Those whose subscription the mailbox no longer has. */
void consuming_check_subscriptions(struct gateway *g, const struct map_mailbox *box);

/* ---- shards.c ---- */
void shards_local_up(struct gateway *g, unsigned index, const char *path);
void shards_local_down(struct gateway *g, unsigned index, const char *path);
/* Links to all shards the map names. */
void shards_follow_map(struct gateway *g);
void shards_scan(struct gateway *g);
void shards_close(struct gateway *g);
/* The link to a partition's leader; NULL: none known, or not connected. */
struct shard_link *shards_leader(const struct gateway *g, const struct map_partition *p);
struct shard_link *shards_owner(const struct gateway *g, uint64_t owner);

/* ---- controller.c ---- */
void controller_up(struct gateway *g, const char *path);
void controller_down(struct gateway *g, const char *path);
void controller_scan(struct gateway *g);
void controller_close(struct gateway *g);
/* Takes over a copy of the message. */
void controller_forward(struct session *s, const Mr__Request *message, usec_t deadline);
void controller_tick(struct gateway *g);
void controller_forget_session(struct gateway *g, const struct session *s);

/* ---- inquiries.c: show and purge ---- */
void on_request(void *ctx, struct link *link, const void *header, struct body *body);
void on_partition_shown(void *ctx, struct link *link, const void *header, struct body *body);
void on_partition_purged(void *ctx, struct link *link, const void *header, struct body *body);
void inquiries_leader(struct gateway *g, const struct map_partition *p);
void inquiries_lost(struct gateway *g, const struct map_partition *p);
void inquiries_tick(struct gateway *g);
void inquiries_forget_session(struct gateway *g, const struct session *s);
/* Answer a client's Request; the session may be gone. */
void request_answer(struct gateway *g, uint64_t session, uint64_t request, enum err code, const char *text);

/* ---- messages.c: between frames and the gateway's own structs ---- */
bool settings_of_message(const Mr__Settings *in, struct mailbox_settings *out);
/* Strings point into `in`. */
void settings_to_message(const struct mailbox_settings *in, Mr__Settings *out);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the controller's process share. One loop, one thread, except
 * the journal's, which only posts events into the loop. */
#ifndef MAILROOM_CONTROLLER_CONTROLLER_PRIVATE_H
#define MAILROOM_CONTROLLER_CONTROLLER_PRIVATE_H

#include "controller/core.h"
#include "supervisor/board.h"
#include "supervisor/child.h"
#include "wire/frames.h"
#include "wire/keep.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"
#include "wire/replication.h"

enum {
    CONTROLLER_CHECKPOINT_ENTRIES = 4096,
    CONTROLLER_STOP_US = 1000000,
    CONTROLLER_LINK_QUEUED_BYTES = 268435456
};

struct controller;

enum link_kind { LINK_NEW, LINK_CONTROLLER, LINK_GATEWAY };

/* The process's side of a struct peer (its user). */
struct remote {
    struct controller *controller;
    struct peer *peer;
    struct keep *keep;        /* this side dials */
    struct peer_link *link;   /* newest link with hello done */
    Mr__Heartbeat *heartbeat; /* its last, unpacked */
};

/* A link to or from a controller or the own gateway. */
struct peer_link {
    struct controller *controller;
    struct link *link;
    enum link_kind kind;
    struct remote *remote;
    bool dialled;
    struct remote *dialled_as; /* dialled: as whom */
    uint64_t id;
    struct loop_timer hello_timer;
    uint64_t map_version; /* gateway: metadata index sent */
    struct peer_link *next, *previous;
};

/* The process's side of a struct shard_peer (its user). */
struct shard_link {
    struct controller *controller;
    struct shard_peer *shard;
    char url[320];
    struct keep *keep;
    struct link *link; /* up, hello done */
};

struct controller {
    struct child *child;
    const struct config *config;
    struct loop *loop;
    bool stopping;
    struct core core;

    /* the journal's thread to the loop */
    struct loop_event synced_event;
    uint64_t synced_ticket; /* atomic */
    int synced_posted;      /* atomic */

    /* links */
    struct listener *tcp, *ipc;
    struct peer_link *links;
    uint64_t next_link;
    bool map_changed;

    struct loop_watch child_watch;
    struct loop_timer beat_timer, tick_timer, heartbeat_timer, stop_timer;
    uint64_t heartbeat_sequence;
};

#define LINKS_EACH(c, l)                                                                                     \
    for (struct peer_link *l = (c)->links, *l##_next; l && (l##_next = l->next, true); l = l##_next)

/* ---- host.c: the core's host: its journal, its calls ---- */
bool host_open(struct controller *c, struct err_detail *detail);
void host_close(struct controller *c);

/* ---- group_frames.c: the group's messages on the wire ---- */
bool group_frame(struct peer_link *l, const struct frame *frame); /* false: not one of the group's */
void group_send(struct controller *c, const struct replica_effect *e);
void group_send_election(struct controller *c, const struct election_effect *e);

/* ---- links.c: listeners, links of controllers and the gateway, heartbeats ---- */
bool links_listen(struct controller *c, struct err_detail *detail);
void links_hang_up(struct controller *c);
struct link_options controller_link_options(void);
void links_identify(struct controller *c, Mr__Identity *out);
struct peer_link *links_by_id(struct controller *c, uint64_t id);
struct remote *links_remote(struct controller *c, struct peer *p); /* made if there is none yet */
void links_dial(struct controller *c, struct peer *p);
void links_stop_dialling(struct controller *c, struct peer *p);
/* To a controller; without a link to it nothing happens. */
void links_send(struct controller *c, member_t to, uint16_t type, const ProtobufCMessage *m,
                struct body **bodies, size_t count);
void links_heartbeat(struct controller *c, const struct beat *b); /* to all */
void heartbeat_fill(struct controller *c, const struct beat *b, Mr__Heartbeat *m);
void heartbeat_clear(Mr__Heartbeat *m);

/* ---- introductions.c ---- */
void introductions_send(struct controller *c, struct peer *p, const struct introduction *own);
bool introductions_frame(struct peer_link *l, const struct frame *frame); /* false: not one */

/* ---- shard_links.c, shard_orders.c ---- */
void shard_links_dial(struct controller *c, struct shard_peer *s, const char *url);
void shard_links_close(struct controller *c, struct shard_peer *s);
void shard_links_leave(struct controller *c);
void shard_orders_send(struct controller *c, struct shard_peer *s, const struct shard_order *o);

/* ---- admin.c: the gateway's requests, and those passed on between controllers ---- */
void admin_gateway(struct peer_link *l, const struct frame *frame);
bool admin_frame(struct peer_link *l, const struct frame *frame); /* false: not one */
uint64_t admin_pass_on(struct controller *c, struct peer *p, const struct request *r, usec_t deadline);
void admin_answer(struct controller *c, const struct request *r, enum err code, const char *text);

/* ---- status.c: the map for the gateway, answers from local metadata ---- */
void status_map(struct peer_link *l);
void status_map_changed(struct controller *c, const struct metadata_changes *changes);
void status_map_turn(struct controller *c);
void status_cluster(struct peer_link *l, uint64_t request);
void status_mailboxes(struct peer_link *l, uint64_t request);
void status_subscriptions(struct peer_link *l, uint64_t request, const char *mailbox);
void status_respond(struct peer_link *l, uint64_t request, enum err code, const char *text);

#endif

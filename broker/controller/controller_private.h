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
    CONTROLLER_VISIBLE_US = 300000, /* a change is answered when all live nodes have it, or after this */
    CONTROLLER_REQUESTS_MAX = 4096, /* administration requests under way */
    CONTROLLER_RECORDS_A_FRAME = 256,
    CONTROLLER_STOP_US = 1000000,
    CONTROLLER_LINK_QUEUED_BYTES = 268435456
};

struct controller;

enum link_kind { LINK_NEW, LINK_CONTROLLER, LINK_GATEWAY };

/* Another controller, known by name (from the configuration or the metadata). */
struct peer {
    struct controller *controller;
    char name[NODE_NAME_BYTES_MAX + 1];
    char address[NODE_ADDRESS_BYTES_MAX + 1];
    struct keep *keep;      /* this side dials */
    struct peer_link *link; /* newest link with hello done */
    member_t member;        /* as its identity says; 0: not known yet */
    bool introduced;
    Mr__Introduce *introduction; /* its last, unpacked; free with mr__introduce__free_unpacked */
    uint64_t applied;            /* metadata it has applied, by its heartbeats */
    Mr__Heartbeat *heartbeat;    /* its last, unpacked */
    struct peer *next;
};

/* A link to or from a controller or the own gateway. */
struct peer_link {
    struct controller *controller;
    struct link *link;
    enum link_kind kind;
    struct peer *peer;
    bool dialled;
    struct peer *dial_peer; /* dialled: as whom */
    uint64_t id;
    struct loop_timer hello_timer;
    uint64_t map_version; /* gateway: metadata index sent */
    struct peer_link *next, *previous;
};

/* A shard, of any node; this side dials. */
struct shard_peer {
    struct controller *controller;
    uint32_t node; /* id in the metadata; 0: own, before the cluster is formed */
    unsigned index;
    bool own;
    member_t member; /* as the metadata has it; own: as its welcome says */
    char url[320];
    struct keep *keep;
    struct link *link; /* up, hello done */
    uint32_t leaders;
    uint64_t backlog;
    Mr__Seal **seals; /* this turn's */
    size_t seals_count, seals_capacity;
    uint64_t *records; /* this turn's, by partition */
    size_t records_count, records_capacity;
    struct shard_peer *next;
};

/* An administration request or a forwarded proposal, until it is answered. */
enum request_from { FROM_GATEWAY, FROM_CONTROLLER, FROM_SELF };
struct request {
    enum request_from from;
    uint64_t link;        /* id of the link it came on */
    uint64_t number;      /* the asker's */
    struct body *command; /* encoded; NULL for recover */
    char recover_mailbox[NAME_BYTES_MAX + 1];
    char recover_node[NODE_NAME_BYTES_MAX + 1];
    uint64_t own_number; /* when forwarded */
    uint64_t index;      /* when proposed here: its log index */
    bool forwarded, proposed;
    uint64_t forwarded_to; /* id of the link */
    bool applied;          /* answered when visible everywhere */
    uint64_t visible_index;
    usec_t visible_by;
    struct metadata_result result;
    usec_t deadline;
    struct request *next;
};

struct controller {
    struct child *child;
    const struct config *config;
    struct loop *loop;
    bool stopping;

    /* the metadata group */
    struct core core;
    struct loop_event synced_event;
    uint64_t synced_ticket; /* atomic */
    int synced_posted;      /* atomic */
    bool formed_proposed;
    bool introduced; /* own shards are known: everybody has been told of this node */
    struct request *requests;
    uint64_t next_request;

    /* links */
    struct listener *tcp, *ipc;
    struct peer *peers;
    struct peer_link *links;
    struct shard_peer *shards;
    struct keep **joins; /* to the addresses of cluster.join, until formed */
    size_t joins_count;
    uint64_t next_link;
    bool map_changed;

    struct loop_watch child_watch;
    struct loop_timer beat_timer, tick_timer, heartbeat_timer, stop_timer;
    uint64_t heartbeat_sequence;
    usec_t applied_told;
    uint64_t applied_sent;
};

#define LINKS_EACH(c, l)                                                                                     \
    for (struct peer_link *l = (c)->links, *l##_next; l && (l##_next = l->next, true); l = l##_next)
#define SHARDS_EACH(c, s) for (struct shard_peer *s = (c)->shards; s; s = s->next)
#define PEERS_EACH(c, p)  for (struct peer *p = (c)->peers; p; p = p->next)

/* ---- host.c: the core's host: its journal, its calls ---- */
bool host_open(struct controller *c, struct err_detail *detail);
void host_close(struct controller *c);

/* ---- group_frames.c: the group's messages on the wire ---- */
bool group_frame(struct peer_link *l, const struct frame *frame); /* false: not one of the group's */
void group_send(struct controller *c, const struct replica_effect *e);
void group_send_election(struct controller *c, const struct election_effect *e);

/* ---- peers.c: other controllers, heartbeats ---- */
bool controller_listen(struct controller *c, struct err_detail *detail);
void controller_hang_up(struct controller *c);
struct link_options controller_link_options(void);
void links_identify(struct controller *c, Mr__Identity *out);
void peers_refresh(struct controller *c);
void peers_hear_self(struct controller *c); /* this process is alive: it says so itself */
/* Dial whoever has this name, or an address until its name is known. */
void peers_know(struct controller *c, const char *name, const char *address);
void peers_unknow(struct controller *c, const char *name);
struct peer *peers_named(struct controller *c, const char *name);
struct peer *peers_member(struct controller *c, member_t m);
void peers_heartbeat(struct controller *c, bool only_if_applied);
void peers_send(struct controller *c, member_t to, uint16_t type, const ProtobufCMessage *m,
                struct body **bodies, size_t count);
void heartbeat_fill(struct controller *c, Mr__Heartbeat *m);
void heartbeat_clear(Mr__Heartbeat *m);

/* ---- shards.c ---- */
void shards_refresh(struct controller *c);
void controller_leave_shards(struct controller *c);
/* Where shard `index` of the node listens: its port behind the controller's. */
bool shards_address(const struct metadata_node *n, uint32_t index, char *out, size_t size);
struct shard_peer *shards_member(struct controller *c, member_t m);
void shards_own_up(struct controller *c, unsigned index, const char *path);
void shards_own_gone(struct controller *c, unsigned index);
bool shards_own_known(struct controller *c);
void shards_seal(struct controller *c, member_t to, uint64_t partition, const struct replica_seal *seal);
void shards_record(struct controller *c, member_t to, uint64_t partition);
void shards_hold(struct controller *c, member_t to, uint64_t partition, member_t target, usec_t at_most);
void shards_drop(struct controller *c, member_t to, uint64_t partition, uint64_t epoch, bool removed);
void shards_changed(struct controller *c, const struct metadata_changes *changes);
void shards_lead(struct controller *c);
void shards_send_turn(struct controller *c);
void shards_ping(struct controller *c);

/* ---- forming.c: forming a cluster, joining one ---- */
void forming_peer_up(struct controller *c, struct peer_link *l);
bool forming_frame(struct peer_link *l, const struct frame *frame);
void forming_check(struct controller *c);
void forming_own_node(struct controller *c, struct node_info *out);
void forming_start(struct controller *c);

/* ---- requests.c: proposals for gateways and other controllers ---- */
void requests_gateway(struct peer_link *l, const struct frame *frame);
bool requests_frame(struct peer_link *l, const struct frame *frame);
void requests_node_set(struct controller *c, const struct node_info *info);
void requests_applied(struct controller *c, uint64_t index, const struct metadata_result *result);
void requests_lost(struct controller *c); /* leads no more */
void requests_go(struct controller *c);   /* a leader is known: send what waits */
void requests_tick(struct controller *c);
void requests_close(struct controller *c);

/* ---- status.c: the map for the gateway, answers from local metadata ---- */
void status_map(struct peer_link *l);
void status_map_changed(struct controller *c, const struct metadata_changes *changes);
void status_map_turn(struct controller *c);
void status_cluster(struct peer_link *l, uint64_t request);
void status_mailboxes(struct peer_link *l, uint64_t request);
void status_subscriptions(struct peer_link *l, uint64_t request, const char *mailbox);
void status_respond(struct peer_link *l, uint64_t request, enum err code, const char *text);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the files of the shard's process share: one loop around the shard of
 * core/core.h, one thread, except the journal's and the reader's, which only post
 * events into the loop. */
#ifndef MAILROOM_SHARD_PROCESS_H
#define MAILROOM_SHARD_PROCESS_H

#include "shard/core/core.h"
#include "supervisor/child.h"
#include "wire/frames.h"
#include "wire/keep.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"
#include "wire/replication.h"

enum {
    PROCESS_FRAME_BYTES = 4194304, /* a frame to a peer is sent when it has this many body bytes */
    PROCESS_TOLD_MAX = 1024,       /* partitions in one frame of told.c */
    PROCESS_LINK_QUEUED_BYTES = 268435456,
    PROCESS_STOP_US = 2000000 /* for what is in flight when asked to stop */
};

struct process;

/* Another shard. The one with the lower identity dials. */
struct process_peer {
    struct peer peer; /* first */
    struct process *process;
    char url[300];
    struct keep *keep;             /* this side dials */
    struct process_link *greeting; /* dialled, hello not answered yet, or up */
    /* this turn's frame */
    Mr__Append **appends;
    size_t appends_count, appends_capacity;
    struct body **bodies;
    size_t bodies_count, bodies_capacity;
    size_t body_bytes;
    Mr__Appended **appendeds;
    size_t appendeds_count, appendeds_capacity;
};

enum told_kind { TOLD_FENCED, TOLD_LED, TOLD_NOT_LEADING, TOLD_REPORTS };

/* Something about one partition, to be sent together with others (told.c). */
struct told {
    uint64_t partition;
    uint64_t number;              /* FENCED: the promise; LED: the epoch */
    struct control_report report; /* REPORTS */
};

/* A link that came in (or, for peers, went out), with who is at the other end. */
struct process_link {
    struct shard_link shard; /* first */
    struct process *process;
    struct link *link;
    struct loop_timer hello_timer;
    /* gateways: this turn's answers */
    Mr__Receipt **receipts;
    size_t receipts_count, receipts_capacity;
    Mr__Refused **refused;
    size_t refused_count, refused_capacity;
    /* this turn's, of one kind */
    enum told_kind told_kind;
    struct told *told;
    size_t told_count, told_capacity;
    /* controllers: this turn's answers */
    Mr__Sealed **sealeds;
    size_t sealeds_count, sealeds_capacity;
};

struct process {
    struct shard shard;
    struct child *child;
    const struct config *config;
    struct loop *loop;
    bool stopping;

    struct listener *tcp;
    struct listener *ipc;
    struct loop_watch child_watch;
    struct loop_timer beat_timer, confirm_timer, load_timer, reclaim_timer, stop_timer;
    uint64_t next_link_id;

    /* journal thread -> loop */
    struct loop_event synced_event, written_event;
    uint64_t synced_ticket, written_ticket; /* atomic */
    int synced_posted, written_posted;      /* atomic */

    struct reader *reader;
    struct loop_event read_event; /* jobs are done */
};

static inline struct process_link *process_link_of(struct shard_link *l) {
    return (struct process_link *)l;
}
static inline struct process_peer *process_peer_of(struct peer *p) {
    return (struct process_peer *)p;
}

/* ---- told.c: what is said of many partitions goes in one frame ---- */
void told_add(struct process_link *l, enum told_kind kind, const struct told *what);
void told_send(struct process_link *l); /* what there is, if anything */

/* To send something else on: what was said before goes first. */
static inline struct link *process_link_out(struct shard_link *l) {
    told_send(process_link_of(l));
    return process_link_of(l)->link;
}
/* The same of a peer that is up. */
static inline struct link *process_peer_link(const struct peer *p) {
    return process_link_out(p->link);
}

/* ---- disk.c: the journal's files and its thread ---- */
bool disk_open(struct process *p, struct err_detail *detail);
void disk_close(struct process *p);
void disk_statistics(struct process *p);

/* ---- reader.c: cold reads on a thread of their own ---- */
struct reader *reader_start(struct process *p);
void reader_stop(struct reader *r);
void reader_give(void *host, struct read_job *job); /* a shard_call */

/* ---- links.c: listeners, hello, who is who ---- */
bool links_open(struct process *p, struct err_detail *detail);
void links_close(struct process *p);
void links_send_turn(struct process *p);
struct link_options links_options(void);
/* Peers dialled by this side: send the hello, pass frames on, tell of the end. */
void links_greet(struct process_peer *peer, struct link *link);
void links_peer_frame(struct process_peer *peer, struct link *link, const struct frame *frame);
void links_peer_down(struct process_peer *peer);

/* ---- peer_frames.c: frames of other shards, and the table of them ---- */
void peer_frames_members(struct process *p, const Mr__Members *m);
void peer_frames_read(struct process_link *l, const struct frame *frame);
void peer_frames_up(struct process_link *l, member_t member);
void peer_frames_send_turn(struct process *p);
void peer_frames_calls(struct shard_calls *calls);
void peer_frames_close(struct process *p);

/* ---- order_frames.c: frames of controllers ---- */
void order_frames_read(struct process_link *l, const struct frame *frame);
void order_frames_send_turn(struct process_link *l);
void order_frames_calls(struct shard_calls *calls);
void order_frames_free(struct process_link *l);

/* ---- gateway_frames.c: frames of gateways; show.c: what they ask to see ---- */
void gateway_frames_read(struct process_link *l, const struct frame *frame);
void gateway_frames_send_turn(struct process_link *l);
void gateway_frames_calls(struct shard_calls *calls);
void gateway_frames_free(struct process_link *l);
void show_partition(struct process_link *l, const struct frame *frame);

#endif

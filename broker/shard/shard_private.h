// SPDX-License-Identifier: Apache-2.0
/* What the files of the shard's process share. One loop, one thread, except the
 * journal's and the reader's, which only post events into the loop. */
#ifndef MAILROOM_SHARD_SHARD_PRIVATE_H
#define MAILROOM_SHARD_SHARD_PRIVATE_H

#include <uthash.h>

#include "journal/journal.h"
#include "shard/partition.h"
#include "supervisor/child.h"
#include "wire/frames.h"
#include "wire/keep.h"
#include "wire/link.h"
#include "wire/listener.h"
#include "wire/loop.h"
#include "wire/replication.h"

enum {
    SHARD_CONFIRM_US = 50000,    /* lease confirmations to peers, a quarter of the lease */
    SHARD_LOAD_US = 50000,       /* loads to gateways at most this often */
    SHARD_RECLAIM_US = 100000,   /* look for space this often */
    SHARD_RECLAIM_STEPS = 8,     /* steps of at most 1 MiB each time */
    SHARD_FETCH_BYTES = 1048576, /* read at once for a lagging peer or for applying */
    SHARD_FETCH_ENTRIES = 1024,
    SHARD_FRAME_BYTES = 4194304,        /* a frame to a peer is sent when it has this many body bytes */
    SHARD_PEER_QUEUED_BYTES = 67108864, /* no more appends to a peer whose link holds this much */
    SHARD_LINK_QUEUED_BYTES = 268435456,
    SHARD_DELIVERIES_MAX = 65536, /* runs of a partition that wait for a cold read */
    SHARD_CACHED_READS = 4,       /* batches read for delivery and kept, a partition */
    SHARD_STOP_US = 2000000       /* for what is in flight when asked to stop */
};

struct shard;
struct hosted;
struct read_job;

/* Staged batches of a checkpoint under way: the journal wants their epochs named. */
struct staged {
    uint64_t index;
    uint64_t epoch;
};

/* A run that waits for its batch's bytes (deliver.c). */
struct waiting_run {
    struct mailbox_effect effect;          /* DELIVER; its body is a reference */
    char subscription[NAME_BYTES_MAX + 1]; /* the effect's would go with the subscription */
};

struct read_batch {
    uint64_t index;
    struct body *body;
};

struct subscription_wish {
    char name[NAME_BYTES_MAX + 1];
    enum subscription_from from;
    uint64_t value;
};

/* A partition with what the process needs around it. */
struct hosted {
    uint64_t id;
    struct shard *shard;
    struct partition *partition; /* NULL while quarantined */
    struct replica_record record;
    struct mailbox_settings settings;
    struct subscription_wish *wishes; /* subscriptions as the metadata has them */
    size_t wishes_count;
    char name[NAME_BYTES_MAX + 1];
    uint32_t number;
    uint32_t dead_letter_partitions;
    bool quarantined;
    uint64_t seal_link; /* the controller that asked last, by its link's id */

    struct hosted *next_dirty;
    bool dirty;
    struct loop_timer timer;
    uint64_t flushed_mark;       /* replica_mark at the last flush */
    uint64_t checkpoint_pending; /* base of a checkpoint written this turn, 0: none */

    struct staged *staged;
    size_t staged_count, staged_capacity;

    struct waiting_run *runs; /* ring */
    size_t runs_head, runs_count, runs_capacity;
    bool reading;
    struct read_batch cached[SHARD_CACHED_READS];
    unsigned cached_next;

    uint64_t sample_index; /* a publish under way whose commit is timed, 0: none */
    usec_t sample_at;
    usec_t commit_us; /* smoothed */
    uint64_t load_sent;
    bool wishes_due; /* tell the mailbox subscriptions and settings at the end of the turn */
    UT_hash_handle hh;
};

struct fence {
    uint64_t partition;
    uint64_t promise;
    UT_hash_handle hh;
};

/* Another shard. The one with the lower identity dials. */
struct peer {
    member_t member;
    struct shard *shard;
    char url[300];
    bool alive;                  /* as the metadata sees it */
    struct keep *keep;           /* this side dials */
    struct link *link;           /* up, hello done */
    struct shard_link *greeting; /* dialled, hello not answered yet, or up */
    struct fence *fences;        /* by partition: what it has promised */
    bool confirming; /* partitions led here with consumers have it in their set */
    /* this turn's frame */
    Mr__Append **appends;
    size_t appends_count, appends_capacity;
    struct body **bodies;
    size_t bodies_count, bodies_capacity;
    size_t body_bytes;
    Mr__Appended **appendeds;
    size_t appendeds_count, appendeds_capacity;
    UT_hash_handle hh;
};

enum link_kind { LINK_NEW, LINK_PEER, LINK_GATEWAY, LINK_CONTROLLER };

/* A link that came in (or, for peers, went out), with who is at the other end. */
struct shard_link {
    struct shard *shard;
    struct link *link;
    enum link_kind kind;
    uint64_t id; /* gateways: what the mailboxes know it by */
    struct peer *peer;
    bool own_node;
    bool leads; /* controller: leads the metadata group */
    struct loop_timer hello_timer;
    /* gateways: this turn's answers */
    Mr__Receipt **receipts;
    size_t receipts_count, receipts_capacity;
    Mr__Refused **refused;
    size_t refused_count, refused_capacity;
    /* controllers: this turn's answers */
    Mr__Sealed **sealeds;
    size_t sealeds_count, sealeds_capacity;
    struct shard_link *next, *previous;
};

struct flush_item {
    uint64_t partition;
    uint64_t mark;
    uint64_t checkpoint; /* base, 0: none */
};

struct flush {
    uint64_t ticket;
    struct flush_item *items;
    size_t count;
    struct flush *next;
};

struct shard {
    struct child *child;
    const struct config *config;
    struct loop *loop;
    struct journal *journal;
    member_t self;
    uint64_t starts;
    uint64_t boot; /* of the machine; 0: not known */
    bool stopping;

    struct listener *tcp;
    struct listener *ipc;
    struct loop_watch child_watch;
    struct loop_timer beat_timer, confirm_timer, load_timer, reclaim_timer, stop_timer;

    struct hosted *hosted; /* by id */
    struct hosted *dirty_first, *dirty_last;
    struct hosted **turned; /* partitions of the turn under way */
    size_t turned_count, turned_capacity;
    struct peer *peers; /* by member */
    struct shard_link *links;
    uint64_t next_link_id;
    uint64_t controller_term;
    uint64_t next_request; /* to gateways (dead letters) */

    /* journal thread -> loop */
    struct loop_event synced_event, written_event;
    uint64_t synced_ticket, written_ticket; /* atomic */
    int synced_posted, written_posted;      /* atomic */
    struct flush *flushes, *flushes_last;
    struct flush *written_next; /* first flush not yet told as written */

    struct reader *reader;
    struct forward *forwards; /* dead letters under way */
    uint32_t load_leaders;    /* as told last */
    uint64_t load_backlog;
};

/* ---- shard.c ---- */
void shard_touch(struct hosted *h); /* had an event: pump it at the turn's end */
const struct partition_host *shard_host(void);
struct hosted *shard_find(struct shard *s, uint64_t partition);

/* ---- storage.c: the journal, completions, reclaim ---- */
bool storage_open(struct shard *s, struct err_detail *detail);
void storage_close(struct shard *s);
void storage_write(struct hosted *h, const struct replica_effect *e);
void storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c);
void storage_flush(struct shard *s);
void storage_reclaim(struct shard *s);
/* The partition as the journal knows it, or a new one. False: damaged beyond use. */
bool storage_partition(struct shard *s, struct hosted *h);

/* ---- reader.c: cold reads on a thread of their own ---- */
struct reader *reader_start(struct shard *s);
void reader_stop(struct reader *r);
void reader_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who);
void reader_batch(struct hosted *h, uint64_t index);
size_t reader_waiting(const struct reader *r);

/* ---- links.c: listeners, hello, who is who ---- */
bool links_open(struct shard *s, struct err_detail *detail);
void links_close(struct shard *s);
void links_send_turn(struct shard *s);
struct shard_link *links_gateway(struct shard *s, uint64_t id);
struct shard_link *links_add(struct shard *s, struct link *link, enum link_kind kind);
void links_remove(struct shard_link *l);
struct link_options links_options(void);
/* Peers dialled by this side: send the hello, pass frames on, tell of the end. */
void links_greet(struct shard *s, struct link *link, struct peer *peer);
void links_peer_frame(struct peer *peer, struct link *link, const struct frame *frame);
void links_peer_down(struct peer *peer);
#define LINKS_EACH(s, l)                                                                                     \
    for (struct shard_link *l = (s)->links, *l##_next; l && (l##_next = l->next, true); l = l##_next)

/* ---- peers.c: replication with other shards ---- */
void peers_members(struct shard *s, const Mr__Members *m);
void peers_frame(struct shard_link *l, const struct frame *frame);
void peers_up(struct shard_link *l, member_t member);
void peers_down(struct shard_link *l);
void peers_append(struct hosted *h, const struct replica_append *m);
void peers_appended(struct hosted *h, const struct replica_appended *m);
void peers_piece(struct hosted *h, const struct replica_piece *m);
void peers_pieced(struct hosted *h, const struct replica_pieced *m);
void peers_send_turn(struct shard *s);
void peers_confirm(struct shard *s);
void peers_leading(struct hosted *h); /* tell the replica which links are down */
void peers_fence(struct hosted *h);
void peers_close(struct shard *s);
struct peer *peers_find(struct shard *s, member_t member);

/* ---- orders.c: what controllers say, what they are told ---- */
void orders_frame(struct shard_link *l, const struct frame *frame);
void orders_report(struct hosted *h, Mr__ReportKind kind, uint64_t epoch, member_t peer);
void orders_sealed(struct hosted *h, const struct replica_sealed *m);
void orders_send_turn(struct shard_link *l);
void orders_wishes(struct hosted *h);
void orders_load(struct shard *s);
void orders_forget(struct hosted *h);

/* ---- service.c: what gateways ask ---- */
void service_frame(struct shard_link *l, const struct frame *frame);
void service_effect(struct hosted *h, const struct mailbox_effect *e);
size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max);
void service_not_leading(struct hosted *h);
void service_up(struct shard_link *l);
void service_down(struct shard_link *l);
void service_send_turn(struct shard_link *l);
void service_loads(struct shard *s);
void service_close(struct shard *s);

/* ---- deliver.c ---- */
void deliver_run(struct hosted *h, const struct mailbox_effect *e);
void deliver_read(struct hosted *h, uint64_t index, struct body *body);
void deliver_forget(struct hosted *h);
/* The batch's bytes if they are at hand; no reference taken. */
struct body *deliver_body(struct hosted *h, uint64_t index);

/* ---- letters.c: dead letters on their way ---- */
void letters_send(struct hosted *h, const struct mailbox_effect *e);
void letters_read(struct hosted *h, uint64_t index, struct body *body);
void letters_forwarded(struct shard *s, const Mr__Forwarded *m);
void letters_gateway_down(struct shard *s);
void letters_forget(struct hosted *h);

#endif

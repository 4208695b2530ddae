// SPDX-License-Identifier: Apache-2.0
/*
 * A shard without its process: partitions with their journal, what peers,
 * controllers and gateways ask of them and are told. Pure: events come in as
 * calls, what follows goes out by the host's calls (struct shard_calls), time is
 * asked of the host; no socket, file, clock or thread. The broker's process
 * (shard/process.h) and the simulator (tests/sim) are its two hosts.
 *
 * A host gives each event to the function of its sender below, then, once for all
 * that came together, calls shard_turn(): what was touched is pumped, written and
 * handed to the journal; then it sends whatever the calls have put together.
 * Completions of the journal come back through storage_written and storage_synced.
 *
 * Thread: all on the host's loop. Pointers given to a call are good during it.
 */
#ifndef MAILROOM_SHARD_CORE_H
#define MAILROOM_SHARD_CORE_H

#include <uthash.h>

#include "cluster/control.h"
#include "journal/journal.h"
#include "proto/batch.h"
#include "shard/core/partition.h"

enum {
    SHARD_CONFIRM_US = 50000,    /* lease confirmations to peers, a quarter of the lease */
    SHARD_LOAD_US = 50000,       /* loads to gateways at most this often */
    SHARD_RECLAIM_US = 100000,   /* look for space this often */
    SHARD_RECLAIM_STEPS = 8,     /* steps of at most 1 MiB each time */
    SHARD_FETCH_BYTES = 1048576, /* read at once for a lagging peer or for applying */
    SHARD_FETCH_ENTRIES = 1024,
    SHARD_CACHED_READS = 4,   /* batches read for delivery and kept, a partition */
    SHARD_REPORTS_MAX = 1024, /* in one call */
    SHARD_FENCES_MAX = 512    /* in one call */
};

struct shard;
struct hosted;
struct forward;

/* ---- who is at the other end ---- */

enum link_kind { LINK_NEW, LINK_PEER, LINK_GATEWAY, LINK_CONTROLLER };

/* A link that is up; part of the host's own. */
struct shard_link {
    struct shard *shard;
    enum link_kind kind;
    uint64_t id; /* unique within the process: what the mailboxes know a gateway by */
    struct peer *peer;
    bool own_node;
    bool leads; /* controller: leads the metadata group, as it said */
    struct shard_link *next, *previous;
};
#define LINKS_EACH(s, l)                                                                                     \
    for (struct shard_link *l = (s)->links, *l##_next; l && (l##_next = l->next, true); l = l##_next)

struct fence {
    uint64_t partition;
    uint64_t promise;
    UT_hash_handle hh;
};

/* Another shard; part of the host's own. */
struct peer {
    member_t member;
    struct shard_link *link; /* NULL: down */
    struct fence *fences;    /* by partition: what it has promised, as told on this link */
    bool confirming;         /* partitions led here with consumers have it in their set */
    UT_hash_handle hh;
};

/* ---- what is told to hosts ---- */

struct fence_told {
    uint64_t partition;
    uint64_t promise;
};

struct shard_load {
    uint32_t leaders;
    uint64_t backlog_messages;
    uint64_t free_disk_bytes;
};

struct partition_load {
    uint64_t partition;
    uint64_t backlog;
    uint64_t wait_us;
};

struct shard_attach {
    uint64_t partition;
    struct consumer_id consumer;
    const char *subscription;
    const char *client;
    uint32_t credit;
    const struct mailbox_hold *held; /* all it holds of the partition */
    size_t held_count;
};

struct shard_letter {
    uint64_t request; /* for letters_forwarded */
    const char *mailbox;
    uint32_t number; /* partition of it */
    struct body *batch;
};

/* Cold reads. The host calls read_execute() anywhere (journal_read is for any
 * thread), then read_fire() on the loop; or read_free() alone when it ends. */
struct read_job {
    struct shard *shard;
    uint64_t partition;
    uint64_t opened; /* hosted's, then */
    bool is_batch;   /* for delivery; else for the replica's fetch */
    member_t who;
    uint64_t from, to;
    struct journal_location *at;
    struct body **bodies;
    enum err *errs;
    size_t count;
    struct read_job *next; /* the host's */
};

/* What a host does. None fails: what cannot be sent is lost with its link. */
struct shard_calls {
    usec_t (*now)(void *host);  /* CLOCK_BOOTTIME */
    usec_t (*wall)(void *host); /* CLOCK_REALTIME */
    /* Whose fault it is should the process die now; 0: nobody's. */
    void (*working_on)(void *host, uint64_t partition);
    void (*say)(void *host, bool error, const char *text);
    /* shard_tick(h) then; replaces the timer before. USEC_NEVER: not at all. */
    void (*timer)(void *host, struct hosted *h, usec_t at);
    void (*read)(void *host, struct read_job *job); /* takes it */

    /* to another shard */
    void (*append)(struct peer *to, uint64_t partition, const struct replica_append *m);
    void (*appended)(struct peer *to, uint64_t partition, const struct replica_appended *m);
    void (*piece)(struct peer *to, uint64_t partition, const struct replica_piece *m);
    void (*pieced)(struct peer *to, uint64_t partition, const struct replica_pieced *m);
    void (*confirm)(struct peer *to, usec_t sent_at);
    void (*confirmed)(struct shard_link *to, usec_t sent_at); /* never before a fenced() given earlier */
    void (*fenced)(struct peer *to, const struct fence_told *fences, size_t count);

    /* to a controller */
    void (*sealed)(struct shard_link *to, uint64_t partition, const struct replica_sealed *m, bool unknown);
    void (*reports)(struct shard_link *to, const struct control_report *reports, size_t count);
    void (*load)(struct shard_link *to, const struct shard_load *load);

    /* to a gateway */
    void (*receipt)(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e);
    void (*refused)(struct shard_link *to, uint64_t partition, uint64_t request, enum err code,
                    const char *text, uint64_t last);
    void (*attached)(struct shard_link *to, const struct shard_attach *what, enum err code);
    void (*settled)(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e);
    void (*ready)(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e);
    void (*credit_back)(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e);
    void (*detached)(struct shard_link *to, uint64_t partition, const struct mailbox_effect *e);
    void (*deliver)(struct shard_link *to, const struct hosted *h, const struct mailbox_effect *e,
                    struct body *run);
    void (*led)(struct shard_link *to, uint64_t partition, uint64_t epoch);
    void (*not_leading)(struct shard_link *to, uint64_t partition);
    void (*loads)(struct shard_link *to, const struct partition_load *loads, size_t count);
    void (*letter)(struct shard_link *to, const struct shard_letter *letter); /* own node's gateway */
};

/* ---- state ---- */

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

/* A partition with what the shard needs around it. */
struct hosted {
    uint64_t id;
    struct shard *shard;
    struct partition *partition; /* NULL while quarantined, or dropped */
    struct replica_record record;
    struct mailbox_settings settings;
    struct subscription_wish *wishes; /* subscriptions as the metadata has them */
    size_t wishes_count;
    char name[NAME_BYTES_MAX + 1];
    uint32_t number;
    uint32_t dead_letter_partitions;
    bool quarantined;
    uint64_t seal_link; /* the controller that asked last, by its link's id */
    void *user;         /* the host's own */

    struct hosted *next_dirty;
    bool dirty;
    bool removed;                /* its mailbox is deleted; ids are never used twice */
    uint64_t opened;             /* number of this life of the partition: flush_item, read_job */
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
    bool wishes_due;      /* tell the mailbox subscriptions and settings at the end of the turn */
    uint64_t wishes_told; /* log's end behind what was told last */
    UT_hash_handle hh;
};

struct flush_item {
    uint64_t partition;
    uint64_t opened; /* hosted's, then */
    uint64_t mark;
    uint64_t checkpoint; /* base, 0: none */
};

struct flush {
    uint64_t ticket;
    struct flush_item *items;
    size_t count;
    struct flush *next;
};

/* The host sets the first block before anything else. */
struct shard {
    const struct shard_calls *calls;
    void *host;
    struct journal *journal; /* opened by the host, which tells of its completions */
    member_t self;
    uint64_t starts; /* of the journal */
    uint64_t boot;   /* of the machine; 0: not known */
    usec_t failure_timeout;
    size_t append_entries; /* replica_options; 0: as many as fit */
    uint64_t opens;        /* partitions opened so far */

    struct hosted *hosted; /* by id */
    struct hosted *dirty_first, *dirty_last;
    struct hosted **turned; /* partitions of the turn under way */
    size_t turned_count, turned_capacity;
    struct peer *peers; /* by member */
    struct shard_link *links;
    uint64_t controller_term;
    uint64_t next_request; /* to gateways (dead letters) */
    struct flush *flushes, *flushes_last;
    struct flush *written_next; /* first flush not yet told as written */
    struct forward *forwards;   /* dead letters under way */
    struct shard_load load_told;
};

/* ---- core.c: life, turns ---- */
void shard_free(struct shard *s); /* the journal, peers and links are the host's */
void shard_turn(struct shard *s);
void shard_tick(struct hosted *h); /* its timer */
struct hosted *shard_find(struct shard *s, uint64_t partition);
void shard_link_add(struct shard *s, struct shard_link *l);
void shard_link_remove(struct shard_link *l);
/* for the files of this folder */
void shard_touch(struct hosted *h); /* had an event: pump it at the turn's end */
const struct partition_host *shard_partition_host(void);
void shard_say(struct shard *s, bool error, const char *format, ...) __attribute__((format(printf, 3, 4)));
static inline usec_t shard_now(const struct shard *s) {
    return s->calls->now(s->host);
}
static inline void shard_working_on(struct shard *s, uint64_t partition) {
    s->calls->working_on(s->host, partition);
}

/* ---- storage.c: the journal ---- */
void storage_written(struct shard *s, uint64_t ticket); /* all flushes up to this ticket */
void storage_synced(struct shard *s, uint64_t ticket);
void storage_reclaim(struct shard *s); /* each SHARD_RECLAIM_US */
/* for the files of this folder */
void storage_write(struct hosted *h, const struct replica_effect *e);
void storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c);
void storage_flush(struct shard *s);
void storage_free(struct shard *s);
/* The partition as the journal knows it, or a new one. False: damaged beyond use. */
bool storage_partition(struct shard *s, struct hosted *h);

/* ---- reads.c: cold reads ---- */
void read_execute(struct read_job *job);
void read_fire(struct read_job *job); /* frees it */
void read_free(struct read_job *job);
/* for the files of this folder */
void read_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who);
void read_batch(struct hosted *h, uint64_t index);

/* ---- peers.c: other shards ---- */
void peers_add(struct shard *s, struct peer *p); /* its member is set; the host keeps it */
void peers_remove(struct shard *s, struct peer *p);
struct peer *peers_find(struct shard *s, member_t member);
void peers_up(struct shard_link *l, struct peer *p); /* in place of the link before, if any */
void peers_down(struct shard_link *l);
void peers_on_append(struct shard_link *l, uint64_t partition, const struct replica_append *m);
void peers_on_appended(struct shard_link *l, uint64_t partition, const struct replica_appended *m);
void peers_on_piece(struct shard_link *l, uint64_t partition, const struct replica_piece *m);
void peers_on_pieced(struct shard_link *l, uint64_t partition, const struct replica_pieced *m);
void peers_on_confirm(struct shard_link *l, usec_t sent_at);
void peers_on_confirmed(struct shard_link *l, usec_t sent_at);
void peers_on_fenced(struct shard_link *l, uint64_t partition, uint64_t promise);
void peers_confirm(struct shard *s); /* each SHARD_CONFIRM_US */
/* for the files of this folder */
void peers_tell(struct hosted *h, const struct replica_effect *e);
void peers_leading(struct hosted *h); /* tell the replica which links are down */
void peers_fence(struct hosted *h);
void peers_connect(struct hosted *h); /* tell the replica which are up */

/* ---- orders.c: controllers ---- */
struct shard_record {
    uint64_t partition;
    bool removed; /* the mailbox is deleted: only partition and record.epoch count */
    struct replica_record record;
    struct mailbox_settings settings;
    const char *mailbox;
    uint32_t number;
    uint32_t dead_letter_partitions;  /* of the dead-letter mailbox, 0: it does not exist */
    struct subscription_wish *wishes; /* malloc'ed; the shard takes them (sets NULL) if it keeps them */
    size_t wishes_count;
    unsigned crashes; /* while working on it, in a row */
    bool quarantine;  /* too many: not to be opened */
};
void orders_on_record(struct shard *s, struct shard_record *m);
void orders_on_complete(struct shard *s); /* all records were told: what was not named is set aside */
void orders_on_lead(struct shard_link *l, uint64_t term);
void orders_on_seal(struct shard_link *l, uint64_t partition, const struct replica_seal *m);
void orders_on_drop(struct shard_link *l, uint64_t partition, uint64_t epoch);
void orders_on_hold(struct shard *s, uint64_t partition, member_t target, usec_t at_most);
void orders_load(struct shard *s); /* each SHARD_LOAD_US: told when changed */
/* for the files of this folder */
void orders_report(struct hosted *h, enum control_report_kind kind, uint64_t epoch, member_t peer);
void orders_sealed(struct hosted *h, const struct replica_sealed *m);
void orders_wishes(struct hosted *h);

/* ---- service.c: gateways ---- */
/* The partition of a request if it is led here, or NULL. */
struct hosted *service_leader(struct shard *s, uint64_t partition);
void service_up(struct shard_link *l);
void service_down(struct shard_link *l);
/* body: nobody else holds it */
void service_on_publish(struct shard_link *l, uint64_t partition, uint64_t request, struct body *body);
void service_on_attach(struct shard_link *l, const struct shard_attach *m);
void service_on_detach(struct shard_link *l, uint64_t partition, const struct consumer_id *consumer,
                       const char *subscription, bool clean);
void service_on_lend(struct shard_link *l, uint64_t partition, const struct consumer_id *consumer,
                     const char *subscription, uint32_t more);
void service_on_settle(struct shard_link *l, uint64_t partition, uint64_t request,
                       const struct consumer_id *consumer, const char *subscription,
                       const struct mailbox_settlement *items, size_t count);
void service_on_presented(struct shard_link *l, uint64_t partition, uint64_t epoch);
bool service_on_purge(struct shard_link *l, uint64_t partition); /* false: not led here */
void service_loads(struct shard *s);                             /* each SHARD_LOAD_US: told when changed */
/* for the files of this folder */
struct shard_link *service_gateway(struct shard *s, uint64_t id); /* NULL: gone */
void service_effect(struct hosted *h, const struct mailbox_effect *e);
size_t service_led(struct hosted *h, uint64_t epoch, uint64_t *gateways, size_t max);
void service_not_leading(struct hosted *h);

/* ---- deliver.c; for the files of this folder ---- */
void deliver_run(struct hosted *h, const struct mailbox_effect *e);
void deliver_read(struct hosted *h, uint64_t index, struct body *body);
void deliver_forget(struct hosted *h);
/* The batch's bytes if they are at hand; no reference taken. */
struct body *deliver_body(struct hosted *h, uint64_t index);

/* ---- letters.c: dead letters on their way ---- */
void letters_forwarded(struct shard *s, uint64_t request, enum err code);
void letters_gateway_down(struct shard *s);
/* for the files of this folder */
void letters_send(struct hosted *h, const struct mailbox_effect *e);
void letters_read(struct hosted *h, uint64_t index, struct body *body);
void letters_forget(struct hosted *h);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The deterministic simulator: a whole cluster in one thread and in virtual
 * time. The pure cores (replica, mailbox, cluster, the journal over a simulated
 * disk, shard/core, controller/core) are the real ones; small hosts (shard.c,
 * controller.c) stand for the processes, without a rule of their own.
 *
 * All that happens follows from one seed: events are ordered by (time, number),
 * random numbers come from the world's generators only.
 */
#ifndef MAILROOM_SIM_H
#define MAILROOM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/units.h"
#include "cluster/control.h"
#include "cluster/election.h"
#include "journal/journal.h"
#include "mailbox/mailbox.h"
#include "mem_disk.h"
#include "replica/replica.h"
#include "shard/core/partition.h"

enum {
    SIM_SHARDS_MAX = 2, /* of a node */
    SIM_MAILBOXES_MAX = 8,
    SIM_PARTITIONS_MAX = 32, /* that clients use, over all mailboxes; their ids are 1 .. this */
    SIM_SUBSCRIPTIONS_MAX = 3,
    SIM_PUBLISHERS_MAX = 8,
    SIM_CONSUMERS_MAX = 24,
    SIM_HELD_MAX = 64,
    SIM_NAME_BYTES = 24
};

#define SIM_WALL_START ((usec_t)1700000000 * USEC_S)

struct sim;
struct process;
struct shard;
struct controller;
struct gateway;
struct script;
struct kept;

/* ---- counters of what happened: faults by kind, rare branches ---- */

#define SIM_FAULTS(X)                                                                                        \
    X(kill_shard)                                                                                            \
    X(kill_controller)                                                                                       \
    X(kill_gateway)                                                                                          \
    X(kill_node)                                                                                             \
    X(power_off)                                                                                             \
    X(torn_write)                                                                                            \
    X(freeze)                                                                                                \
    X(link_reset)                                                                                            \
    X(cut_one_way)                                                                                           \
    X(cut_both)                                                                                              \
    X(cut_shards)                                                                                            \
    X(cut_orders)                                                                                            \
    X(cut_clients)                                                                                           \
    X(island)                                                                                                \
    X(kill_leader)                                                                                           \
    X(isolate)                                                                                               \
    X(flap)                                                                                                  \
    X(message_lost)                                                                                          \
    X(message_twice)                                                                                         \
    X(message_late)                                                                                          \
    X(slow_disk)                                                                                             \
    X(disk_error)                                                                                            \
    X(disk_full)                                                                                             \
    X(bit_flip)                                                                                              \
    X(wipe)                                                                                                  \
    X(clock_jump)                                                                                            \
    X(consumer_death)                                                                                        \
    X(drain)                                                                                                 \
    X(suspend)                                                                                               \
    X(forming_death)                                                                                         \
    X(join)                                                                                                  \
    X(remove)                                                                                                \
    X(mailbox_delete)                                                                                        \
    X(mailbox_update)                                                                                        \
    X(purge)                                                                                                 \
    X(subscribe)                                                                                             \
    X(unsubscribe)

#define SIM_RARE(X)                                                                                          \
    X(leader_changes)                                                                                        \
    X(elections)                                                                                             \
    X(pre_votes_refused)                                                                                     \
    X(deposed) /* a leader of the metadata group that lives */                                               \
    X(seals)                                                                                                 \
    X(seals_refused) /* promised higher, or the epoch is taken */                                            \
    X(seals_damaged)                                                                                         \
    X(activations_retried) /* an activating epoch gave way to another for both sets */                       \
    X(activations_undone)  /* ... to one for the set before */                                               \
    X(leases_waited)                                                                                         \
    X(leases_skipped)                                                                                        \
    X(leases_carried)    /* the wait of an epoch that did not last */                                        \
    X(promises_repeated) /* to a peer with a new link */                                                     \
    X(superseded)                                                                                            \
    X(activated)                                                                                             \
    X(cannot_lead)                                                                                           \
    X(planned_holds)                                                                                         \
    X(holds_timed_out)                                                                                       \
    X(truncations)                                                                                           \
    X(checkpoints_sent)                                                                                      \
    X(checkpoints_installed)                                                                                 \
    X(checkpoints_abandoned) /* half way */                                                                  \
    X(damaged)                                                                                               \
    X(mended)                                                                                                \
    X(caught_up)                                                                                             \
    X(dropped_replicas)                                                                                      \
    X(cold_reads)                                                                                            \
    X(reclaimed_segments)                                                                                    \
    X(duplicates)                                                                                            \
    X(duplicates_after_move) /* what another leader took */                                                  \
    X(out_of_order)                                                                                          \
    X(forgotten)                                                                                             \
    X(producers_dropped) /* idle for an hour */                                                              \
    X(abandoned)                                                                                             \
    X(refused_full)                                                                                          \
    X(refused_disk_full)                                                                                     \
    X(expired)                                                                                               \
    X(overflowed)                                                                                            \
    X(redeliveries)                                                                                          \
    X(too_late)                                                                                              \
    X(already)                                                                                               \
    X(dead_letters)                                                                                          \
    X(newcomers)                                                                                             \
    X(doubtful)                                                                                              \
    X(rejoined)                                                                                              \
    X(chosen_doubtful)                                                                                       \
    X(commits_lost)                                                                                          \
    X(created_again)                                                                                         \
    X(voter_changes)                                                                                         \
    X(purged)                                                                                                \
    X(passed_on)

enum sim_count {
#define X(name) FAULT_##name,
    SIM_FAULTS(X)
#undef X
#define X(name) RARE_##name,
        SIM_RARE(X)
#undef X
            SIM_COUNTS
};

/* What a seed's run found out; written by the child, read by main. */
struct sim_result {
    uint64_t seed;
    uint64_t trace; /* hash over all that happened: same seed, same number */
    usec_t simulated;
    uint64_t events;
    uint64_t published, receipted, delivered, settled;
    uint64_t counts[SIM_COUNTS];
    bool failed;
    char text[400];
};

/* ---- events ---- */

struct event {
    usec_t at;
    uint64_t number;
    void (*fire)(struct sim *s, struct event *e);
    void (*drop)(struct event *e); /* process gone before it fired; may be NULL */
    struct process *process;       /* NULL: the world's */
    uint64_t incarnation;
    void *ptr;
    uint64_t a, b;
};

/* ---- messages: the cores' structs, deep copies ---- */

enum message_type {
    /* replicas: shards and controllers */
    M_APPEND,
    M_APPENDED,
    M_PIECE,
    M_PIECED,
    M_CONFIRM,
    M_CONFIRMED,
    M_FENCED,
    /* controllers among themselves */
    M_PRE_VOTE,
    M_PRE_VOTED,
    M_VOTE,
    M_VOTED,
    M_TIMEOUT_NOW,
    M_HEARTBEAT,
    M_HEARTBEAT_SEEN,
    M_INTRODUCE,
    M_PROPOSE,
    M_PROPOSED,
    /* controller to shard, and back */
    M_RECORD,
    M_COMPLETE,
    M_LEAD,
    M_SEAL,
    M_DROP,
    M_HOLD,
    M_PING,
    M_PONG,
    M_SEALED,
    M_REPORT,
    M_LOAD,
    /* gateway to shard, and back */
    M_PUBLISH,
    M_RECEIPT,
    M_REFUSED,
    M_ATTACH,
    M_ATTACHED,
    M_DETACH,
    M_LEND,
    M_SETTLE,
    M_SETTLED,
    M_PRESENTED,
    M_LED,
    M_NOT_LEADING,
    M_DELIVERY,
    M_READY,
    M_CREDIT_BACK,
    M_DETACHED,
    M_FORWARD,
    M_FORWARDED,
    M_PURGE,
    M_TYPES
};

struct wish {
    char name[SIM_NAME_BYTES];
    uint32_t from;
    uint64_t value;
};

enum { MESSAGE_HOLDS_MAX = SIM_HELD_MAX, MESSAGE_ITEMS_MAX = 16 };

struct message {
    struct message *next; /* of the same frame */
    enum message_type type;
    uint64_t partition;
    union {
        struct replica_append append; /* entries: owned, bodies referenced */
        struct replica_appended appended;
        struct replica_piece piece;
        struct replica_pieced pieced;
        struct {
            usec_t sent_at;
            uint64_t term, applied, load[SIM_SHARDS_MAX];
            member_t shards[SIM_SHARDS_MAX];
            uint32_t shards_count;
        } beat;           /* CONFIRM, CONFIRMED, HEARTBEAT, HEARTBEAT_SEEN, PING, PONG, LEAD, LOAD */
        uint64_t promise; /* FENCED */
        struct election_ask ask;
        struct election_answer answer;
        struct {
            struct node_info node;
            bool empty, joins;
            uint64_t cluster_id;
        } introduce;
        struct {
            uint64_t request, index;
            usec_t deadline;
            enum err code;
            struct body *command;
        } propose; /* PROPOSE, PROPOSED */
        struct {
            bool removed;
            struct replica_record record;
            struct mailbox_settings settings;
            char mailbox[SIM_NAME_BYTES];
            uint32_t number, dead_letter_partitions;
            struct wish wishes[SIM_SUBSCRIPTIONS_MAX + 1];
            uint32_t wishes_count;
        } record;
        struct replica_seal seal;
        struct {
            struct replica_sealed sealed;
            bool unknown;
        } sealed;
        struct control_report report;
        struct {
            uint64_t epoch;
        } drop;
        struct {
            member_t target;
            usec_t at_most;
        } hold;
        struct {
            uint64_t request;
            struct body *body;
        } publish;
        struct {
            uint64_t request;
            enum err code;
            uint64_t last, base_offset;
            bool duplicate;
        } answer_publish; /* RECEIPT, REFUSED */
        struct {
            struct consumer_id consumer;
            char subscription[SIM_NAME_BYTES];
            uint32_t credit;
            bool clean;
            enum err code;
            uint64_t messages;
            uint32_t held_count;
            struct mailbox_hold held[MESSAGE_HOLDS_MAX];
        } consumer; /* ATTACH, ATTACHED, DETACH, LEND, READY, CREDIT_BACK, DETACHED */
        struct {
            uint64_t request;
            struct consumer_id consumer;
            char subscription[SIM_NAME_BYTES];
            uint32_t count;
            struct mailbox_settlement items[MESSAGE_ITEMS_MAX];
            uint8_t results[MESSAGE_ITEMS_MAX];
        } settle; /* SETTLE, SETTLED */
        struct {
            uint64_t epoch;
        } led; /* LED, NOT_LEADING, PRESENTED */
        struct {
            struct consumer_id consumer;
            char subscription[SIM_NAME_BYTES];
            uint64_t first_offset, epoch;
            uint32_t count, delivery_number, attempt;
            usec_t sent_at; /* by the leader's clock: the lease was there at the latest */
            struct body *run;
        } delivery;
        struct {
            uint64_t request;
            char mailbox[SIM_NAME_BYTES];
            uint32_t number;
            enum err code;
            struct body *body;
        } forward; /* FORWARD, FORWARDED */
    };
};

struct message *message_new(enum message_type type, uint64_t partition);
struct message *message_copy(const struct message *m);
void message_free(struct message *m);
void messages_free(struct message *m); /* and those behind it */
const char *message_name(enum message_type type);

/* ---- processes ---- */

enum process_kind { PROCESS_CONTROLLER, PROCESS_SHARD, PROCESS_GATEWAY };

struct end { /* of a link */
    bool up;
    uint64_t instance; /* of the link; unique */
    member_t member;   /* at the other end, as its hello said */
};

struct process {
    struct sim *sim;
    int id;
    enum process_kind kind;
    int node, index;
    char name[SIM_NAME_BYTES];
    bool up, restarting;
    uint64_t restart;    /* number of the restart event that counts */
    usec_t frozen_until; /* world's time */
    uint64_t incarnation;
    bool turn_due;
    uint64_t timer; /* number of the timer event that counts */
    usec_t timer_at;
    struct end *ends; /* by process's id */
    int *packed;      /* packing: ids of those to whom something goes with this turn */
    size_t packed_count, packed_capacity;
    bool answering; /* a frame */

    /* the journal's executor */
    struct mem_disk *disk;
    struct journal *journal;
    member_t self;
    uint64_t starts;
    struct journal_job *queued, *running;
    bool syncing; /* written, and not yet synced */
    uint64_t synced_ticket, written_ticket, syncs_begun, syncs_done;
    bool synced_posted, written_posted, storage_failed;
    uint64_t disk_failures; /* of storage: what was written and not synced may be lost */

    union {
        struct shard *shard;
        struct controller *controller;
        struct gateway *gateway;
    };
};

struct node {
    char name[SIM_NAME_BYTES];
    bool on;
    bool going;         /* asked to go, and not yet back as a newcomer */
    bool joins, joined; /* not of `initial`: starts later and asks to be taken in */
    bool removed;       /* it was to be, once */
    uint64_t boots;
    usec_t boot_offset; /* CLOCK_BOOTTIME = world's time + this */
    usec_t wall_offset; /* wall clock = world's time + SIM_WALL_START + this */
};

/* A pair of processes that keep a link; a dials. */
struct pair {
    bool wanted;
    int a, b;
    uint64_t instance;
    usec_t last[2]; /* arrival of the last message to a, to b */
    unsigned failures;
    bool dialling;
    struct held_message *held[2], *held_last[2]; /* behind a cut, to a, to b */
    struct message *open[2], *open_last[2];      /* packing: this turn's, to a, to b */
};

/* What a cut between two nodes takes: all, or the links of one kind, so that who is
 * cut off by some is still heard by others. */
enum sim_cut { CUT_ALL, CUT_SHARDS, CUT_ORDERS, CUT_CLIENTS, CUTS };

/* What a seed is about: its kinds of fault come often, the others seldom. So each
 * rare branch gets many seeds. */
#define SIM_THEMES(X)                                                                                        \
    X(mixed)     /* anything */                                                                              \
    X(processes) /* deaths */                                                                                \
    X(disks)     /* errors, full, flipped bits, wiped */                                                     \
    X(members)   /* drains, disks replaced, long outages, moves */                                           \
    X(clocks)    /* jumps, standing still, the whole cluster suspended */                                    \
    X(elections) /* controllers die and are cut off */                                                       \
    X(segments)  /* tiny segments, large payloads: reclaim, checkpoints, old logs */                         \
    X(network)   /* lost, doubled, late, flapping */                                                         \
    X(leases)    /* leaders on an island with some of their consumers */                                     \
    X(damage)    /* one node's disks lie, and the others die */                                              \
    X(leaders)   /* short leaderships, replicas that do not reach each other */                              \
    X(sets)      /* replicas on the move, and neither set whole */                                           \
    X(clients)   /* limits, leases, dead letters */                                                          \
    X(mailboxes) /* made, updated, purged, deleted; subscriptions too */                                     \
    X(big)       /* bigger and longer, anything */                                                           \
    /* directed: scripts.c */                                                                                \
    X(figure8)    /* an entry of an older epoch on a majority (Raft's figure 8) */                           \
    X(two_sets)   /* while both sets count, one of them hears nothing, and the others die */                 \
    X(late_fence) /* a leader that is no more reaches who knows that */

enum theme {
#define X(name) THEME_##name,
    SIM_THEMES(X)
#undef X
        THEMES
};

/* What this seed plays with. Rates are mean times between two; 0: off. */
struct swarm {
    enum theme theme;
    int boxes_max, partitions_max, publishers_more; /* clients_draw.c */
    usec_t publish_min, publish_max;                /* between two batches */
    unsigned large;                                 /* payloads, of 10000 */
    size_t append_entries;                          /* in one append; 0: as usual */
    usec_t outage_max;                              /* of links, power, freezes */
    usec_t cool, settle;                            /* of placement (cluster/control.h) */
    usec_t delay_min, delay_max;                    /* of the network */
    unsigned slow_percent;                          /* messages that take up to slow_max */
    usec_t slow_max;
    usec_t sync_min, sync_max;
    unsigned lost, twice, late; /* replica messages, of 10000 */
    usec_t mean[SIM_COUNTS];    /* by fault */
    usec_t busy;                /* faults until then */
    bool clocks_differ;
    int victim; /* the one node whose disks may be harmed; -1: none */
};

struct sim {
    uint64_t seed;
    struct rng rng;  /* the world: network, disks, faults */
    struct rng work; /* publishers and consumers */
    usec_t now;
    bool tracing;
    bool faulty;   /* the cluster has formed, faults may come */
    bool calm;     /* no more faults: everything must drain */
    bool quiet;    /* publishers send nothing just now */
    bool stopping; /* publishers make nothing new */
    uint64_t next_event, next_instance, next_random;
    struct event *heap;
    size_t heap_count, heap_capacity;
    /* as large as the seed's world: see world_make() */
    struct node *nodes;
    int nodes_count, shards_per_node;
    struct process *processes;
    int processes_count;
    uint64_t partitions_max; /* highest id of a partition there will be */
    struct pair **pairs;     /* [higher][lower], by process's id */
    bool **cut[CUTS];        /* [from][to], by node */
    struct swarm swarm;
    uint32_t segment_bytes;
    uint64_t checkpoint_entries; /* of the metadata group; 0: few, so that it happens */
    usec_t failure_timeout, rebuild_grace;
    /* What a shard or a controller sends leaves with its turn, packed; else each
     * message goes at once and alone. */
    bool packing;
    void (*on_event)(struct sim *s, struct process *p, struct event *e); /* fires it; may be NULL */
    uint64_t messages[M_TYPES], frames[M_TYPES]; /* sent; frames as the broker packs them */
    struct clients *clients;
    struct checker *checker;
    struct branches *branches; /* NULL: not watched */
    struct power *power;       /* NULL: nobody's was lost yet */
    struct kept *kept;         /* NULL: nothing was answered yet */
    struct script *script;     /* NULL: nothing is directed */
    struct sim_result result, *out;
};

/* ---- world.c: time, processes ---- */
/* Room for nodes, their processes and pairs; none of it moves later. */
void world_make(struct sim *s, int nodes, int shards_per_node, uint64_t partitions);
void world_free(struct sim *s);
struct event *sim_at(struct sim *s, usec_t at, void (*fire)(struct sim *, struct event *));
struct event *sim_at_process(struct process *p, usec_t at, void (*fire)(struct sim *, struct event *));
bool sim_step(struct sim *s); /* false: nothing left to happen */
void sim_count(struct sim *s, enum sim_count what);
void sim_mix(struct sim *s, uint64_t v); /* into the trace's hash */
void sim_trace(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void sim_violation(struct sim *s, const char *invariant, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Ends this seed's run (run.c): hands the result over. */
_Noreturn void sim_give_up(struct sim *s);
usec_t sim_between(struct rng *r, usec_t low, usec_t high);
bool sim_chance(struct rng *r, unsigned of_10000);

usec_t process_now(const struct process *p);
usec_t process_wall(const struct process *p);
void process_touch(struct process *p);           /* a turn is due */
void process_wake(struct process *p, usec_t at); /* by its own clock */
void process_start(struct process *p);
void process_kill(struct process *p, const char *why); /* restarts by itself while its node is on */
void process_end_for_good(struct process *p);
void process_freeze(struct process *p, usec_t how_long);
void node_power_off(struct sim *s, int node, usec_t how_long);
void node_kill(struct sim *s, int node);
void process_execute(void *executor, struct journal_job *job); /* journal's hook */
void process_completed(void *ctx, uint64_t ticket);
void process_written(void *ctx, uint64_t ticket);
uint64_t
process_boot(const struct process *p); /* as the machine's boot id: another one after a power failure */
void process_fatal(void *ctx, const char *text);
bool process_open_journal(struct process *p, uint8_t batch_type);

struct process *sim_controller(struct sim *s, int node);
struct process *sim_shard(struct sim *s, int node, int index);
struct process *sim_gateway(struct sim *s, int node);
struct process *sim_leading_controller(struct sim *s);

/* ---- network.c ---- */
void network_start(struct sim *s);
void network_send(struct process *from, int to, struct message *m); /* takes m */
void network_turned(struct process *p);                             /* packing: sends the turn's */
void network_reset(struct sim *s, struct process *a, struct process *b);
void network_process_down(struct process *p, bool host_gone);
void network_cut(struct sim *s, enum sim_cut what, int from, int to, bool cut);
void network_heal(struct sim *s);
void network_process_up(struct process *p);
void network_free(struct sim *s);
/* The link from `from` to `to`, if both ends have it; 0: none. */
uint64_t network_whole(const struct process *from, int to);
int network_by_member(const struct process *p, member_t m);      /* -1: no link */
int network_by_instance(const struct process *p, uint64_t link); /* -1: no link */

/* ---- shard.c ---- */
void shard_start(struct process *p);
void shard_stop(struct process *p);
void shard_message(struct process *p, int from, struct message *m);
void shard_link_up(struct process *p, int other);
void shard_link_down(struct process *p, int other, const struct end *was);
void shard_on_turn(struct process *p);
void shard_timer(struct process *p);
void shard_synced(struct process *p, uint64_t ticket);
void shard_written(struct process *p, uint64_t ticket);
/* Of the process that runs now: whose mailbox is it? NULL: none. */
struct partition *shard_partition_of(struct process *p, const struct mailbox *m);
struct partition *shard_partition(struct process *p, uint64_t id);
const struct replica_record *shard_record(struct process *p, uint64_t id);

/* ---- controller.c ---- */
void controller_start(struct process *p);
void controller_free(struct process *p);
void controller_message(struct process *p, int from, struct message *m);
void controller_link_up(struct process *p, int other);
void controller_link_down(struct process *p, int other);
void controller_refused(struct process *p, int other);
void controller_own_gone(struct process *p, int shard);
void controller_turn(struct process *p);
void controller_timer(struct process *p);
void controller_synced(struct process *p, uint64_t ticket);
bool controller_leads(const struct process *p);
/* A voter of the metadata group, or one that is still to be committed out. */
bool controller_voter(const struct process *p, member_t m);
const struct metadata *controller_metadata(const struct process *p);
/* As an administration request, at some controller; at p, if that one is not there. */
void controller_request(struct process *p, struct command *command);
size_t controller_vacate(struct process *p, member_t m);

/* ---- clients.c: gateways with their publishers and consumers ---- */
void clients_make(struct sim *s);
void clients_start(struct sim *s);
void gateway_start(struct process *p);
void gateway_free(struct process *p);
void gateway_message(struct process *p, int from, struct message *m);
void gateway_link_up(struct process *p, int other);
void gateway_link_down(struct process *p, int other);
bool clients_done(struct sim *s, char *why, size_t size);
void clients_kill_consumer(struct sim *s);
void clients_free(struct sim *s);

/* ---- check.c: what must hold ---- */
struct checker *checker_new(struct sim *s);
void checker_free(struct checker *c);
uint32_t checker_voters(const struct sim *s); /* of the metadata group, as committed last */
/* Whose event it is: the mailbox's apply is wrapped (check.c). */
void checker_running(struct process *p);
void checker_state(struct process *p, uint64_t partition, uint64_t index, struct encoder *e);
void checker_write(struct process *p, uint64_t partition, const struct entry *e);
void checker_apply(struct process *p, uint64_t partition, const struct entry *e);
void checker_leading(struct process *p, uint64_t partition, uint64_t epoch);
void checker_sends(struct process *p, uint64_t partition, uint64_t epoch);
void checker_active(struct process *p, uint64_t partition, uint64_t epoch, uint64_t applied);
void checker_deliver(struct process *p, uint64_t partition, const struct mailbox_effect *e);
void checker_turn(struct process *p, struct partition *partition);
/* From the clients' histories. */
void checker_receipt(struct sim *s, uint64_t partition, int publisher, unsigned generation, uint64_t sequence,
                     uint64_t base_offset);
void checker_got(struct sim *s, uint64_t partition, int subscription, int consumer, const struct message *m);
void checker_settle_result(struct sim *s, uint64_t partition, int subscription, int consumer, uint64_t offset,
                           const struct mailbox_settlement *item, enum settle_result result);
bool checker_receipted_all_delivered(struct sim *s, char *why, size_t size);
void checker_letters(struct sim *s);
void checker_subscription_gone(struct sim *s, uint64_t partition, int subscription);
uint64_t checker_purged_below(struct sim *s, uint64_t partition);
uint64_t checker_next_offset(struct sim *s, uint64_t partition);

/* ---- branches.c: rare ones, seen from outside ---- */
void branches_make(struct sim *s);
void branches_free(struct sim *s);
void branches_message(struct sim *s, int to, const struct message *m); /* arrives */
void branches_entry(struct sim *s, const struct entry *e);             /* is applied */
void branches_end(struct sim *s);

/* ---- swarm.c: nodes, sizes, rates ---- */
void swarm_draw(struct sim *s);
void swarm_big(struct swarm *w); /* clients and outages of a big world */
const char *swarm_theme(const struct sim *s);
bool swarm_force(const char *theme);                       /* of all seeds from now on; false: unknown */
usec_t swarm_rate(struct sim *s, usec_t low, usec_t high); /* often and seldom alike */

/* ---- power.c: durability written ---- */
void power_lost(struct sim *s, struct process *p); /* or its disk's, before it ends */
void power_whole(struct process *p, uint64_t partition);
/* What is committed may be lost: a majority of the partition's set has lost its power. */
bool power_may_lose(struct sim *s, uint64_t partition);
void power_settled(struct sim *s, uint64_t partition);
void power_free(struct sim *s);

/* ---- flips.c ---- */
bool flips_one(struct process *p); /* a bit of its disk turns over; false: none there may */

/* ---- faults.c ---- */
void faults_start(struct sim *s);
void faults_new_leader(struct process *p);                  /* a shard begins to lead something */
void faults_stop(struct sim *s);                            /* heal everything */
bool faults_settled(struct sim *s, char *why, size_t size); /* cluster is whole again */

/* ---- mutation.c ---- */
void sim_mutations_list(void);
/* Break this rule (base/mutation.h), before anything runs; false: unknown, or not in this build. */
bool sim_mutate(const char *name);

/* ---- large.c: one node of many dies ---- */
struct large {
    int nodes;
    uint64_t partitions, seed;
    bool trace;
};
/* Prints what it measured. False: out of bounds; invariants end by sim_failed(). */
bool large_run(const struct large *o, struct sim_result *out);

/* ---- members.c: the life of nodes ---- */
void members_form(struct sim *s); /* before the cluster forms */
void members_join(struct sim *s);
void members_remove(struct sim *s);
void members_set_state(struct sim *s, int node, enum node_state state);
bool members_settled(struct sim *s, char *why, size_t size);

/* ---- run.c ---- */
struct sim *sim_new(uint64_t seed, bool trace, struct sim_result *out);
void sim_people(struct sim *s); /* names of nodes, processes; the checker */
void sim_begin(struct sim *s);  /* all start; until the cluster has formed */
void sim_until(struct sim *s, usec_t until);
void sim_drain(struct sim *s); /* faults have stopped: everything must come to rest */
void sim_end(struct sim *s);   /* hands the result over and frees all */
void sim_run(uint64_t seed, bool trace, struct sim_result *out);
/* main.c: an invariant is broken; *out is filled. */
_Noreturn void sim_failed(void);

#endif

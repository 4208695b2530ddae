// SPDX-License-Identifier: Apache-2.0
/* Mailboxes, publishers and consumers of a seed, and gateways between. */
#ifndef MAILROOM_SIM_CLIENTS_H
#define MAILROOM_SIM_CLIENTS_H

#include "sim.h"

enum { WINDOW_MAX = 6, BATCH_MESSAGES_SIM_MAX = 5, PAYLOAD_HEAD_BYTES = 32 };

/* What a payload begins with: who published it. */
struct stamp {
    uint32_t publisher, generation, partition, number;
    uint64_t sequence;
    uint32_t size;
};

struct box {
    char name[SIM_NAME_BYTES];
    struct mailbox_settings settings;
    int first_partition; /* id of its partition 0; 0: it is not there */
    unsigned lives;      /* how often it was made */
    bool wanted;         /* it shall be there */
    bool created;        /* it is, with its subscriptions: clients may begin */
    bool settled;        /* it was as it shall be, at the last look */
    /* slots for subscriptions; the names are new with each life of one */
    int subscriptions_count;
    unsigned named;
    char subscriptions[SIM_SUBSCRIPTIONS_MAX][SIM_NAME_BYTES];
    bool wished[SIM_SUBSCRIPTIONS_MAX], there[SIM_SUBSCRIPTIONS_MAX];
    uint32_t from[SIM_SUBSCRIPTIONS_MAX]; /* enum subscription_from */
    uint64_t from_value[SIM_SUBSCRIPTIONS_MAX];
    bool exact;   /* nothing is dropped by policy: all must arrive */
    bool letters; /* dead letters come here */
};

enum batch_state { BATCH_UNSENT, BATCH_SENT };

struct batch {
    uint64_t sequence, after;
    enum batch_state state;
    uint32_t count;
    usec_t sent_at, made_at;
    uint64_t epoch; /* led when it was first sent */
    struct body *body;
};

struct lane { /* a publisher's work for one partition */
    unsigned generation;
    uint64_t next_sequence, after;
    struct batch window[WINDOW_MAX];
    int count;
    usec_t retry_at;
};

struct publisher {
    int index, box;
    int gateway; /* process id */
    struct producer_id producers[SIM_PARTITIONS_MAX];
    struct lane lanes[SIM_PARTITIONS_MAX]; /* by partition's number */
    int next_lane;
    usec_t interval;
    uint64_t made;
};

enum held_state { HELD, SETTLING };

struct held {
    uint64_t partition, offset, epoch;
    uint32_t number;
    enum held_state state;
    enum settle_kind kind;
    usec_t delay, act_at, sent_at;
    uint64_t request;
    char key;
    usec_t leased_at, leased_until; /* certainly, unless something happens to its link */
    uint64_t link;
};

struct consumer {
    int index, box, subscription;
    int gateway;
    bool alive;
    struct consumer_id id;
    uint32_t credit;
    uint32_t lent[SIM_PARTITIONS_MAX + 1];
    uint64_t ready[SIM_PARTITIONS_MAX + 1], burst[SIM_PARTITIONS_MAX + 1]; /* wanted; as announced */
    bool attached[SIM_PARTITIONS_MAX + 1];
    struct held held[SIM_HELD_MAX];
    int held_count;
    usec_t think_max;
    usec_t attach_at;
    unsigned lazy; /* of 10000: holds a message until its lease runs out */
};

enum { FORWARD_SLOT_BITS = 6, FORWARDS_MAX = 1 << FORWARD_SLOT_BITS };
#define FORWARD_MARK ((uint64_t)255 << 56) /* requests of dead letters, not of publishers */

struct gateway {
    struct process *process;
    int leader[SIM_PARTITIONS_MAX + 1]; /* process id, -1 */
    uint64_t epoch[SIM_PARTITIONS_MAX + 1];
    struct {
        bool used;
        uint64_t number, request, partition;
        int from;
    } forwards[FORWARDS_MAX];
    uint64_t forwards_made;
};

struct clients {
    struct box boxes[SIM_MAILBOXES_MAX];
    int boxes_count;
    struct publisher publishers[SIM_PUBLISHERS_MAX];
    int publishers_count;
    struct consumer consumers[SIM_CONSUMERS_MAX];
    int consumers_count;
    uint64_t next_request;
    bool letters;       /* box0 takes the others' dead letters */
    bool letters_lost;  /* who sent them may count them no more: purged, deleted */
    uint64_t looked_at; /* index of the newest metadata seen */
};

/* clients.c */
struct box *clients_box(struct sim *s, int i);
struct process *clients_gateway_up(struct sim *s, int id); /* NULL: down or frozen */
/* Another gateway than the one that is gone, or the same when it is back. */
void clients_move(struct sim *s, int *gateway);

/* publishers.c */
uint64_t publisher_partition(struct sim *s, const struct publisher *p, int lane);
void publisher_forget(struct lane *l, int i);
void publisher_answer(struct sim *s, const struct message *m); /* RECEIPT, REFUSED */
void publisher_give_up(struct sim *s, struct publisher *p);    /* what has no receipt yet */
void publisher_start_over(struct sim *s, struct publisher *p); /* its mailbox is gone */
void publisher_new_producer(struct sim *s, struct publisher *p, int lane);
void publisher_tick(struct sim *s, struct event *e);

/* consumers.c */
void consumer_present(struct sim *s, struct consumer *c, uint64_t partition, struct process *g, int leader);
void consumer_lend(struct sim *s, struct consumer *c, uint64_t partition);
void consumer_delivery(struct sim *s, struct process *g, const struct message *m);
void consumer_settled(struct sim *s, const struct message *m);
/* The partition is its mailbox's, the subscription is its own and there. */
bool consumer_is_of(struct sim *s, const struct consumer *c, uint64_t partition, const char *subscription);
void consumer_forget(struct consumer *c); /* all it holds and is attached to */
void consumer_tick(struct sim *s, struct event *e);
struct box *clients_box_of(struct sim *s, uint64_t partition);
struct consumer *clients_consumer(struct sim *s, const struct consumer_id *id);
int clients_subscription(const struct box *b, const char *name);
void payload_fill(const struct stamp *stamp, uint8_t *out);
bool payload_check(const uint8_t *data, size_t size, struct stamp *out);

/* life.c: mailboxes and subscriptions come, change and go */
void life_start(struct sim *s);
bool life_settled(struct sim *s, char *why, size_t size); /* all is as it shall be */
void life_delete(struct sim *s);
void life_update(struct sim *s);
void life_purge(struct sim *s);
void life_subscribe(struct sim *s);
void life_unsubscribe(struct sim *s);

#endif

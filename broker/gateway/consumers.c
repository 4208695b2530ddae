// SPDX-License-Identifier: Apache-2.0
#include "gateway/consumers.h"

#include <stdlib.h>
#include <string.h>

#include <utlist.h>

#include "base/check.h"
#include "base/xalloc.h"

/* Give out credit in pieces of at least this share of the whole, so that a
 * stream of small settlements does not make a Lend frame of each. */
enum { LEND_SHARE = 8 };

void consumers_init(struct consumers *t, uint64_t lent_bytes_max) {
    memset(t, 0, sizeof *t);
    t->lent_bytes_max = lent_bytes_max;
}

/* ---- groups ---- */

static struct group_list *group_list_find(const struct consumers *t, uint64_t mailbox) {
    struct group_list *l;
    HASH_FIND(hh, t->mailboxes, &mailbox, sizeof mailbox, l);
    return l;
}

struct group *consumers_groups(const struct consumers *t, uint64_t mailbox) {
    struct group_list *l = group_list_find(t, mailbox);
    return l ? l->first : NULL;
}

struct group *consumers_group(const struct consumers *t, uint64_t mailbox, const char *subscription) {
    struct group *g = consumers_groups(t, mailbox);
    while (g && strcmp(g->subscription, subscription) != 0)
        g = g->next_of_mailbox;
    return g;
}

static struct group *group_add(struct consumers *t, uint64_t mailbox, const char *subscription,
                               uint32_t partitions) {
    struct group_list *l = group_list_find(t, mailbox);
    if (!l) {
        l = xcalloc(1, sizeof *l);
        l->mailbox = mailbox;
        HASH_ADD(hh, t->mailboxes, mailbox, sizeof l->mailbox, l);
    }
    struct group *g = xcalloc(1, sizeof *g);
    CHECK(strlen(subscription) <= NAME_BYTES_MAX);
    g->mailbox = mailbox;
    strcpy(g->subscription, subscription);
    g->partitions = partitions;
    LL_PREPEND2(l->first, g, next_of_mailbox);
    return g;
}

static void group_remove(struct consumers *t, struct group *g) {
    struct group_list *l = group_list_find(t, g->mailbox);
    LL_DELETE2(l->first, g, next_of_mailbox);
    if (!l->first) {
        HASH_DEL(t->mailboxes, l);
        free(l);
    }
    free(g);
}

/* ---- consumers ---- */

/* Keys are compared as bytes: padding included. */
static struct consumer_key key_of(const struct group *group, const uint8_t id[CONSUMER_ID_BYTES]) {
    struct consumer_key key;
    memset(&key, 0, sizeof key);
    memcpy(key.id, id, CONSUMER_ID_BYTES);
    key.group = group;
    return key;
}

struct consumer *consumers_find(const struct consumers *t, const struct group *group,
                                const uint8_t id[CONSUMER_ID_BYTES]) {
    struct consumer_key key = key_of(group, id);
    struct consumer *c;
    HASH_FIND(hh, t->by_key, &key, sizeof key, c);
    return c;
}

struct consumer *consumers_numbered(const struct consumers *t, uint64_t number) {
    struct consumer *c;
    HASH_FIND(hh_number, t->by_number, &number, sizeof number, c);
    return c;
}

static void pend(struct consumers *t, struct consumer *c) {
    if (c->pending || c->paused || !c->wanting_first)
        return;
    c->pending = true;
    DL_APPEND2(t->pending, c, prev_pending, next_pending);
}

static void unpend(struct consumers *t, struct consumer *c) {
    if (!c->pending)
        return;
    c->pending = false;
    DL_DELETE2(t->pending, c, prev_pending, next_pending);
}

struct consumer *consumers_add(struct consumers *t, uint64_t mailbox, const char *subscription,
                               uint32_t partitions, const uint8_t id[CONSUMER_ID_BYTES], const char *client,
                               uint32_t credit) {
    if (t->parts + partitions > CONSUMERS_PARTS_MAX)
        return NULL;
    struct group *g = consumers_group(t, mailbox, subscription);
    if (!g)
        g = group_add(t, mailbox, subscription, partitions);
    CHECK(g->partitions == partitions && !consumers_find(t, g, id));
    struct consumer *c = xcalloc(1, sizeof *c);
    c->key = key_of(g, id);
    c->number = ++t->last_number;
    c->group = g;
    strncpy(c->client, client, CONSUMER_CLIENT_BYTES);
    c->credit = credit < CONSUMER_CREDIT_MAX ? credit : CONSUMER_CREDIT_MAX;
    c->message_bytes = CONSUMER_MESSAGE_BYTES_GUESS;
    c->parts = xcalloc(partitions, sizeof *c->parts);
    for (uint32_t i = 0; i < partitions; i++) {
        c->parts[i].consumer = c;
        c->parts[i].number = i;
    }
    DL_APPEND(g->consumers, c);
    HASH_ADD(hh, t->by_key, key, sizeof c->key, c);
    HASH_ADD(hh_number, t->by_number, number, sizeof c->number, c);
    t->count++;
    t->parts += partitions;
    return c;
}

/* ---- credit ---- */

static struct part *part_of(struct consumer *c, uint32_t partition) {
    CHECK(partition < c->group->partitions);
    return &c->parts[partition];
}

/* lent moves only here, so that the sums stay right. */
static void set_lent(struct consumers *t, struct part *p, uint32_t lent) {
    struct consumer *c = p->consumer;
    uint64_t before = c->lent * c->message_bytes;
    c->lent = c->lent - p->lent + lent;
    p->lent = lent;
    t->lent_bytes = t->lent_bytes - before + c->lent * c->message_bytes;
}

/* A moving mean over the last runs, so that one odd message does not rule. */
static void learn_size(struct consumers *t, struct consumer *c, uint32_t count, size_t bytes) {
    uint64_t each = bytes / count + 1;
    uint64_t before = c->lent * c->message_bytes;
    if (each > UINT32_MAX)
        each = UINT32_MAX;
    if (each > c->message_bytes || c->message_bytes == CONSUMER_MESSAGE_BYTES_GUESS)
        c->message_bytes = (uint32_t)each;
    else
        c->message_bytes = (uint32_t)((c->message_bytes * 7ull + each) / 8);
    t->lent_bytes = t->lent_bytes - before + c->lent * c->message_bytes;
}

static uint64_t credit_free(const struct consumer *c) {
    uint64_t used = c->lent + c->held;
    return used < c->credit ? c->credit - used : 0;
}

static void want_push(struct consumer *c, struct part *p) {
    if (p->wanting)
        return;
    p->wanting = true;
    p->next_wanting = NULL;
    if (c->wanting_last)
        c->wanting_last->next_wanting = p;
    else
        c->wanting_first = p;
    c->wanting_last = p;
}

static struct part *want_pop(struct consumer *c) {
    struct part *p = c->wanting_first;
    if (!p)
        return NULL;
    c->wanting_first = p->next_wanting;
    if (!c->wanting_first)
        c->wanting_last = NULL;
    p->wanting = false;
    return p;
}

void consumers_remove(struct consumers *t, struct consumer *c) {
    struct group *g = c->group;
    unpend(t, c);
    for (uint32_t i = 0; i < g->partitions; i++) {
        set_lent(t, &c->parts[i], 0);
        holds_free(&c->parts[i].holds);
    }
    HASH_DELETE(hh, t->by_key, c);
    HASH_DELETE(hh_number, t->by_number, c);
    DL_DELETE(g->consumers, c);
    t->count--;
    t->parts -= g->partitions;
    free(c->parts);
    free(c);
    if (!g->consumers)
        group_remove(t, g);
}

void consumers_free(struct consumers *t) {
    struct consumer *c, *tmp;
    HASH_ITER(hh, t->by_key, c, tmp) {
        consumers_remove(t, c);
    }
}

void consumer_present(struct consumers *t, struct consumer *c, uint32_t partition, const struct hold *range) {
    c->held += holds_add(&part_of(c, partition)->holds, range);
}

void consumer_present_again(struct consumers *t, struct consumer *c, uint32_t partition,
                            struct holds *presented, struct holds *lost) {
    struct part *p = part_of(c, partition);
    c->held -= holds_total(&p->holds);
    *lost = p->holds;
    for (size_t i = 0; i < presented->count; i++)
        holds_take(lost, holds_at(presented, i));
    p->holds = *presented;
    memset(presented, 0, sizeof *presented);
    c->held += holds_total(&p->holds);
    pend(t, c);
}

void consumer_credit(struct consumers *t, struct consumer *c, uint32_t credit) {
    c->credit = credit < CONSUMER_CREDIT_MAX ? credit : CONSUMER_CREDIT_MAX;
    pend(t, c);
}

void consumer_pause(struct consumers *t, struct consumer *c, bool paused) {
    c->paused = paused;
    if (paused)
        unpend(t, c);
    else
        pend(t, c);
}

static void part_move(struct consumers *t, struct part *p, enum part_state state) {
    struct consumer *c = p->consumer;
    if (p->state == PART_IDLE && state != PART_IDLE)
        c->parts_open++;
    if (p->state != PART_IDLE && state == PART_IDLE)
        c->parts_open--;
    p->state = state;
    p->want = 0;
    p->burst = 0;
    set_lent(t, p, 0);
    pend(t, c);
}

void consumer_attaching(struct consumers *t, struct consumer *c, uint32_t partition, uint64_t epoch) {
    struct part *p = part_of(c, partition);
    part_move(t, p, PART_ATTACHING);
    p->epoch = epoch;
}

void consumer_attached(struct consumers *t, struct consumer *c, uint32_t partition) {
    struct part *p = part_of(c, partition);
    if (p->state == PART_ATTACHING)
        p->state = PART_ATTACHED;
}

void consumer_idle(struct consumers *t, struct consumer *c, uint32_t partition) {
    part_move(t, part_of(c, partition), PART_IDLE);
}

static void want(struct consumer *c, struct part *p, uint64_t messages) {
    p->want = messages < CONSUMER_CREDIT_MAX ? messages : CONSUMER_CREDIT_MAX;
    p->burst = (uint32_t)p->want;
    want_push(c, p);
}

void consumers_ready(struct consumers *t, struct group *group, uint32_t partition, uint64_t messages) {
    struct consumer *c;
    DL_FOREACH(group->consumers, c) {
        struct part *p = part_of(c, partition);
        if (p->state != PART_ATTACHED || messages == 0)
            continue;
        want(c, p, messages);
        pend(t, c);
    }
}

/* It used up most of what it asked for and did not say that it has enough. */
static void want_more(struct part *p) {
    if (p->burst > 0 && p->want == 0 && p->lent <= p->burst / 2)
        want(p->consumer, p, 2ull * p->burst);
}

bool consumer_delivered(struct consumers *t, struct consumer *c, uint32_t partition, const struct hold *run,
                        size_t bytes) {
    struct part *p = part_of(c, partition);
    if (p->state != PART_ATTACHED || run->epoch != p->epoch)
        return false;
    learn_size(t, c, run->count, bytes);
    set_lent(t, p, p->lent > run->count ? p->lent - run->count : 0);
    c->held += holds_add(&p->holds, run);
    want_more(p);
    pend(t, c);
    return true;
}

void consumer_credit_back(struct consumers *t, struct consumer *c, uint32_t partition, uint32_t credit) {
    struct part *p = part_of(c, partition);
    set_lent(t, p, p->lent > credit ? p->lent - credit : 0);
    p->want = 0;
    p->burst = 0;
    pend(t, c);
}

uint64_t consumer_settled(struct consumers *t, struct consumer *c, uint32_t partition,
                          const struct hold *range) {
    uint64_t freed = holds_take(&part_of(c, partition)->holds, range);
    CHECK(freed <= c->held);
    c->held -= freed;
    pend(t, c);
    return freed;
}

/* ---- lending ---- */

/* Messages that may be lent now beyond what is: credit and bytes allow them. A
 * consumer with nothing lent may always be lent one message, or large messages
 * would never move. */
static uint64_t room(const struct consumers *t, const struct consumer *c) {
    uint64_t free_credit = credit_free(c);
    uint64_t own = CONSUMER_LENT_BYTES_MAX / c->message_bytes;
    uint64_t left = t->lent_bytes < t->lent_bytes_max ? t->lent_bytes_max - t->lent_bytes : 0;
    uint64_t all = left / c->message_bytes;
    uint64_t by_bytes = own > c->lent ? own - c->lent : 0;
    if (all < by_bytes)
        by_bytes = all;
    if (by_bytes == 0 && c->lent == 0)
        by_bytes = 1;
    return free_credit < by_bytes ? free_credit : by_bytes;
}

/* Too little to be worth a frame for a partition that still has some. */
static bool too_small(const struct part *p, uint64_t give) {
    return p->lent > 0 && give < p->want && give * LEND_SHARE < p->consumer->credit;
}

static size_t wanting_count(const struct consumer *c) {
    size_t n = 0;
    for (const struct part *p = c->wanting_first; p; p = p->next_wanting)
        n++;
    return n;
}

/* Once around the wanting partitions. False: nothing was lent. */
static bool lend_round(struct consumers *t, struct consumer *c,
                       void (*lend)(void *ctx, const struct part *part, uint32_t more), void *ctx) {
    bool progress = false;
    for (size_t left = wanting_count(c); left > 0 && room(t, c) > 0; left--) {
        struct part *p = want_pop(c);
        if (p->state != PART_ATTACHED || p->want == 0)
            continue;
        uint64_t share = room(t, c) / left;
        uint64_t give = share > 0 ? share : 1;
        if (give > p->want)
            give = p->want;
        if (!too_small(p, give)) {
            p->want -= give;
            set_lent(t, p, p->lent + (uint32_t)give);
            lend(ctx, p, (uint32_t)give);
            progress = true;
        }
        if (p->want > 0)
            want_push(c, p);
    }
    return progress;
}

void consumers_pump(struct consumers *t, void (*lend)(void *ctx, const struct part *part, uint32_t more),
                    void *ctx) {
    struct consumer *c, *tmp;
    DL_FOREACH_SAFE2(t->pending, c, tmp, next_pending) {
        while (lend_round(t, c, lend, ctx)) {
        }
        /* who waits for others' bytes to come back is asked again next time */
        if (credit_free(c) == 0 || !c->wanting_first || t->lent_bytes < t->lent_bytes_max)
            unpend(t, c);
    }
}

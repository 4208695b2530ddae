// SPDX-License-Identifier: Apache-2.0
/*
 * Random operations by publishers, consumers, gateways, time and leader changes,
 * held against model.h after every committed entry:
 *
 * once       no (producer, sequence) is stored twice; receipts name what is stored
 * order      exclusive and by key: nothing is overtaken
 * fenced     a message that somebody holds is given to nobody else; answers are true
 * conserved  counters are those of the log
 * agreement  replicas and restored copies have equal checkpoints
 * live       when the faults stop, everything is settled
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/rng.h"
#include "base/xalloc.h"
#include "model.h"

enum {
    REPLICAS = 3,
    CONSUMERS = 6,
    GATEWAYS = 2,
    HELD_MAX = 512,
    REQUESTS_MAX = 65536,
    BATCHES_OPEN_MAX = 4,
    STEPS = 1500,
    DRAIN_STEPS = 20000,
    CLOCKS_DIFFER_MAX_US = 4000000,
    NONSENSE = 9 /* link of requests that nobody sensible makes */
};

struct held {
    uint64_t offset, epoch;
    uint32_t number;
};

struct client {
    struct consumer_id id;
    const char *subscription;
    uint64_t gateway;
    bool attached;
    uint64_t credit;
    struct held held[HELD_MAX];
    size_t held_count;
};

struct publisher {
    uint64_t next; /* sequence */
    struct body *open[BATCHES_OPEN_MAX];
    uint64_t first_open; /* sequence of open[0] */
    size_t open_count;
};

struct asked {
    int client;
    uint64_t subscription; /* id: another of the same name may have come */
    struct mailbox_settlement item;
    bool pending;
};

struct sim {
    struct rng rng;
    struct mailbox_settings settings;
    struct model *model;
    struct mailbox *replicas[REPLICAS];
    size_t applied[REPLICAS], leader;
    struct entry *log;
    size_t log_count, log_capacity, committed;
    uint64_t epoch;
    usec_t now, skew; /* log time, but for a constant, is now + skew: leaders' clocks differ */
    struct client clients[CONSUMERS];
    struct publisher publishers[MODEL_PRODUCERS];
    struct asked asked[REQUESTS_MAX];
    size_t asked_count;
    uint64_t presenting; /* bit i: gateway i+1 has not presented */
    struct {
        uint64_t intent, after;
    } letters[1024]; /* dead letters on their way */
    size_t letters_count;
    uint64_t target_last[MODEL_SUBSCRIPTIONS_MAX + 1]; /* the target's dedup, by producer */
    uint8_t *target_stored;                            /* by intent */
    bool quiet;                                        /* no more faults */
    struct mailbox_effects fx;
};

static struct mailbox *lead(struct sim *s) {
    return s->replicas[s->leader];
}

static bool chance(struct sim *s, unsigned percent) {
    return rng_below(&s->rng, 100) < percent;
}

static int64_t stamp(const struct sim *s) {
    return s->now + s->skew + 1000000000;
}

static int client_of(const struct consumer_id *id) {
    return id->bytes[0] - 'A';
}

static struct mailbox *make(const struct sim *s) {
    return mailbox_new(&(struct mailbox_options){.name = "m", .id = 3, .settings = s->settings});
}

/* ---- effects ---- */

static void on_deliver(struct sim *s, const struct mailbox_effect *e) {
    int i = client_of(&e->deliver.consumer);
    struct client *c = &s->clients[i];
    cr_assert(c->attached && c->gateway == e->deliver.gateway, "delivery to nobody");
    cr_assert(c->credit >= e->deliver.count, "credit exceeded");
    c->credit -= e->deliver.count;
    model_deliver(s->model, e, i, stamp(s));
    for (uint64_t o = e->deliver.first_offset; o < e->deliver.first_offset + e->deliver.count; o++) {
        cr_assert(lt(sz, c->held_count, HELD_MAX));
        c->held[c->held_count++] = (struct held){o, s->epoch, e->deliver.delivery_number};
    }
}

static void on_receipt(struct sim *s, const struct mailbox_effect *e) {
    struct publisher *p = &s->publishers[e->receipt.producer.bytes[0] - 'p'];
    bool stored = false;
    for (size_t i = 0; i < s->model->batches_count; i++) {
        struct model_batch *b = &s->model->batches[i];
        if (b->producer != e->receipt.producer.bytes[0] || b->sequence != e->receipt.sequence)
            continue;
        stored = true;
        if (e->receipt.base_offset != UINT64_MAX)
            cr_assert(eq(u64, b->base, e->receipt.base_offset));
    }
    cr_assert(stored, "receipt for what is not stored");
    while (p->open_count && p->first_open <= e->receipt.sequence) {
        body_drop(p->open[0]);
        memmove(p->open, p->open + 1, --p->open_count * sizeof *p->open);
        p->first_open++;
    }
}

static void unhold(struct client *c, uint64_t offset, uint64_t epoch, uint32_t number) {
    for (size_t i = 0; i < c->held_count; i++)
        if (c->held[i].offset == offset && c->held[i].epoch == epoch && c->held[i].number == number)
            c->held[i--] = c->held[--c->held_count];
}

static void check_answer(struct sim *s, const struct asked *a, const struct model_message *g,
                         enum settle_result result) {
    bool over = g->state != M_OPEN || g->dying, newer = g->number != a->item.delivery_number;
    if (result == SETTLE_ALREADY)
        cr_assert(over, "already, but it is open");
    if (result == SETTLE_TOO_LATE && a->item.count == 1)
        cr_assert(over || newer || g->holder != a->client || g->holder_epoch != a->item.epoch,
                  "too late for the current token");
    if (result != SETTLE_DONE)
        return;
    if (a->item.kind == SETTLE_ACK || a->item.kind == SETTLE_REJECT)
        cr_assert(over, "done, but it is open");
    else if (a->item.kind != SETTLE_EXTEND)
        cr_assert(over || newer, "done, but it has not come back");
}

static void on_settled(struct sim *s, const struct mailbox_effect *e) {
    if (e->settled.origin.link == NONSENSE)
        return;
    struct asked *a = &s->asked[e->settled.origin.request];
    struct client *c = &s->clients[a->client];
    struct model_subscription *u = model_find(s->model, c->subscription);
    enum settle_result result = e->settled.results[0];
    if (u && u->id != a->subscription)
        u = NULL;
    cr_assert(a->pending, "answered twice");
    a->pending = false;
    for (uint64_t o = a->item.first_offset; o < a->item.first_offset + a->item.count; o++) {
        if (u && o >= u->start)
            check_answer(s, a, &u->messages[o], result);
        if (u && a->item.kind == SETTLE_EXTEND && result == SETTLE_DONE && u->messages[o].holder == -1) {
            u->messages[o].holder = a->client; /* a lease again, as if it had been presented */
            u->messages[o].holder_epoch = a->item.epoch;
        }
        if (result != SETTLE_UNKNOWN && !(a->item.kind == SETTLE_EXTEND && result == SETTLE_DONE))
            unhold(c, o, a->item.epoch, a->item.delivery_number);
    }
}

static void on_dead_letter(struct sim *s, const struct mailbox_effect *e) {
    cr_assert(lt(sz, s->letters_count, 1024));
    s->letters[s->letters_count].intent = e->dead_letter.intent;
    s->letters[s->letters_count++].after = e->dead_letter.after;
}

static void on_propose(struct sim *s, const struct mailbox_effect *e) {
    xgrow(&s->log, &s->log_capacity, s->log_count + 1, sizeof *s->log);
    s->log[s->log_count] =
        (struct entry){s->log_count + 1, s->epoch, e->propose.type, body_keep(e->propose.body)};
    s->log_count++;
}

static void on_effect(struct sim *s, const struct mailbox_effect *e) {
    struct client *c;
    switch (e->type) {
    case MAILBOX_PROPOSE:
        on_propose(s, e);
        break;
    case MAILBOX_DELIVER:
        on_deliver(s, e);
        break;
    case MAILBOX_RECEIPT:
        on_receipt(s, e);
        break;
    case MAILBOX_SETTLED:
        on_settled(s, e);
        break;
    case MAILBOX_CREDIT_BACK:
        c = &s->clients[client_of(&e->credit_back.consumer)];
        cr_assert(eq(u64, c->credit, e->credit_back.credit));
        c->credit = 0;
        break;
    case MAILBOX_DETACHED:
        c = &s->clients[client_of(&e->detached.consumer)];
        if (c->gateway == e->detached.gateway)
            c->attached = false;
        if (e->detached.reason == ERR_NOT_FOUND)
            c->held_count = 0;
        break;
    case MAILBOX_DEAD_LETTER:
        on_dead_letter(s, e);
        break;
    case MAILBOX_DEAD_BATCH:
        for (size_t i = 0; i < s->model->batches_count; i++)
            if (s->model->batches[i].index == e->index)
                s->model->batches[i].dead = true;
        break;
    default:
        break;
    }
}

static void take(struct sim *s) {
    struct mailbox_effects fx = s->fx;
    s->fx = (struct mailbox_effects){0};
    for (size_t i = 0; i < fx.count; i++)
        on_effect(s, &fx.items[i]);
    mailbox_effects_free(&fx);
}

/* ---- the log ---- */

static void follow(struct sim *s, size_t r, size_t until) {
    struct mailbox_effects unused = {0};
    while (s->applied[r] < until) {
        mailbox_apply(s->replicas[r], &s->log[s->applied[r]++], s->now, &unused);
        mailbox_effects_clear(&unused);
    }
    mailbox_effects_free(&unused);
}

static bool retention(const struct sim *s) {
    return s->settings.retain_time || s->settings.retain_bytes;
}

static void commit(struct sim *s, size_t entries) {
    for (; entries > 0 && s->committed < s->log_count; entries--) {
        const struct entry *e = &s->log[s->committed++];
        model_apply(s->model, e);
        mailbox_apply(lead(s), e, s->now, &s->fx);
        s->applied[s->leader] = s->committed;
        take(s);
        if (s->committed % 16 == 0)
            model_check(s->model, lead(s), retention(s));
    }
}

static struct encoder bytes_of(const struct mailbox *m) {
    struct encoder e = {0};
    mailbox_checkpoint(m, &e);
    return e;
}

static void assert_equal(struct sim *s, const struct mailbox *x, const struct mailbox *y, const char *what) {
    struct encoder a = bytes_of(x), b = bytes_of(y);
    cr_assert(a.size == b.size && memcmp(a.data, b.data, a.size) == 0, "%s: checkpoints differ", what);
    encoder_free(&a);
    encoder_free(&b);
}

/* A follower goes on as a copy restored from its checkpoint. */
static void restart(struct sim *s, size_t r) {
    struct encoder a = bytes_of(s->replicas[r]);
    struct mailbox *copy = make(s);
    struct decoder d = decoder_of(a.data, a.size);
    cr_assert(mailbox_restore(copy, &d));
    assert_equal(s, copy, s->replicas[r], "restored");
    mailbox_free(s->replicas[r]);
    s->replicas[r] = copy;
    encoder_free(&a);
}

/* ---- leader changes ---- */

static void present(struct sim *s, uint64_t gateway) {
    for (int i = 0; i < CONSUMERS; i++) {
        struct client *c = &s->clients[i];
        struct model_subscription *u = model_find(s->model, c->subscription);
        if (c->gateway != gateway || c->attached || !u)
            continue;
        c->attached =
            mailbox_attach(lead(s), &c->id, gateway, c->subscription, "", 0, s->now, &s->fx) == ERR_OK;
        c->credit = 0;
        take(s);
        for (size_t h = 0; c->attached && h < c->held_count; h++) {
            struct mailbox_hold hold = {c->held[h].offset, 1, c->held[h].epoch, c->held[h].number};
            struct model_message *g = &u->messages[hold.first_offset];
            if (g->state == M_OPEN && !g->dying && g->number == hold.delivery_number && g->holder == -1 &&
                hold.epoch < s->epoch && hold.epoch >= u->born && u->born < s->epoch) {
                g->holder = i;
                g->holder_epoch = hold.epoch;
            }
            mailbox_hold(lead(s), &c->id, c->subscription, &hold, 1, s->now, &s->fx);
        }
        take(s);
    }
    s->presenting &= ~(1u << (gateway - 1));
    mailbox_presented(lead(s), gateway, s->now, &s->fx);
    take(s);
}

/* Log time goes on from the last stamp at least, but may lie before the last leader's. */
static void draw_clock(struct sim *s) {
    s->skew = chance(s, 40) ? 0 : (usec_t)rng_below(&s->rng, CLOCKS_DIFFER_MAX_US) - CLOCKS_DIFFER_MAX_US / 2;
    int64_t last = mailbox_last_stamp(lead(s));
    if (stamp(s) < last)
        s->skew += last - stamp(s);
}

static void start_leading(struct sim *s) {
    static const uint64_t gateways[] = {1, 2};
    for (int i = 0; i < CONSUMERS; i++)
        s->clients[i].attached = false;
    s->letters_count = 0;
    s->presenting = 3;
    draw_clock(s);
    model_new_leader(s->model);
    mailbox_lead(lead(s), s->epoch, gateways, GATEWAYS, 600000, s->now, stamp(s), &s->fx);
    mailbox_allow(lead(s), USEC_NEVER, s->now, &s->fx);
    take(s);
}

/* Of what was in flight the new leader has a part; that is committed with it. */
static void fail_over(struct sim *s) {
    mailbox_unlead(lead(s), &s->fx);
    take(s);
    size_t kept = s->committed + rng_below(&s->rng, s->log_count - s->committed + 1);
    while (s->log_count > kept)
        body_drop(s->log[--s->log_count].body);
    for (; s->committed < s->log_count; s->committed++) {
        model_apply(s->model, &s->log[s->committed]);
        mailbox_apply(lead(s), &s->log[s->committed], s->now, &s->fx);
        take(s);
    }
    s->applied[s->leader] = s->committed;
    size_t old = s->leader;
    s->leader = rng_below(&s->rng, REPLICAS);
    follow(s, s->leader, s->committed);
    assert_equal(s, s->replicas[old], lead(s), "leader change");
    if (chance(s, 30))
        restart(s, s->leader);
    s->epoch++;
    start_leading(s);
}

/* ---- clients ---- */

static struct body *batch(struct sim *s, char producer, uint64_t sequence, unsigned count) {
    struct batch_builder b = {0};
    struct producer_id id = {{(uint8_t)producer}};
    for (unsigned i = 0; i < count; i++) {
        char key = (char)('a' + rng_below(&s->rng, 5));
        batch_add(&b, &key, key != 'e', NULL, 0, "x", 1);
    }
    batch_finish(&b, &id, sequence, sequence - 1, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    return body;
}

static void send_batch(struct sim *s, struct body *body) {
    struct body *copy = body_copy(body->data, body->size); /* each arrives in a buffer of its own */
    mailbox_publish(lead(s), (struct mailbox_origin){0}, copy, s->now, stamp(s), false, &s->fx);
    body_drop(copy);
    take(s);
}

static void publish(struct sim *s) {
    unsigned i = (unsigned)rng_below(&s->rng, MODEL_PRODUCERS);
    struct publisher *p = &s->publishers[i];
    if (p->open_count && (p->open_count == BATCHES_OPEN_MAX || s->quiet || chance(s, 25))) {
        uint64_t last = p->first_open + p->open_count - 1;
        uint64_t from = chance(s, 50) ? p->first_open : p->first_open + rng_below(&s->rng, p->open_count);
        for (uint64_t sequence = from; sequence <= last; sequence++)
            if (sequence >= p->first_open && sequence < p->first_open + p->open_count)
                send_batch(s, p->open[sequence - p->first_open]);
        return;
    }
    if (s->quiet || s->model->next_offset > MODEL_MESSAGES_MAX - 4000)
        return;
    if (p->open_count == 0)
        p->first_open = p->next + 1;
    struct body *body =
        batch(s, (char)('p' + i), ++p->next, 1 + (unsigned)rng_below(&s->rng, chance(s, 20) ? 40 : 6));
    p->open[p->open_count++] = body_keep(body);
    send_batch(s, body);
    body_drop(body);
}

static struct client *any_client(struct sim *s) {
    return &s->clients[rng_below(&s->rng, CONSUMERS)];
}

static void lend(struct sim *s, struct client *c, uint32_t more) {
    if (!c->attached || c->held_count + c->credit + more > HELD_MAX / 2)
        return;
    c->credit += more;
    mailbox_credit(lead(s), &c->id, c->subscription, more, s->now, &s->fx);
    take(s);
}

static bool token_equal(const struct held *a, const struct held *b) {
    return a->epoch == b->epoch && a->number == b->number;
}

static void settle(struct sim *s, struct client *c, enum settle_kind kind) {
    if (c->held_count == 0 || s->asked_count == REQUESTS_MAX)
        return;
    size_t at = rng_below(&s->rng, c->held_count);
    struct held h = c->held[at];
    uint32_t count = 1;
    while (at + count < c->held_count && count < 20 && c->held[at + count].offset == h.offset + count &&
           token_equal(&c->held[at + count], &h) && chance(s, 80))
        count++;
    struct asked *a = &s->asked[s->asked_count];
    *a = (struct asked){.client = (int)(c - s->clients), .pending = true};
    a->item = (struct mailbox_settlement){.kind = kind,
                                          .first_offset = h.offset,
                                          .count = count,
                                          .epoch = h.epoch,
                                          .delivery_number = h.number,
                                          .delay = chance(s, 50) ? 0 : (usec_t)rng_below(&s->rng, 3000000)};
    struct model_subscription *u = model_find(s->model, c->subscription);
    a->subscription = u ? u->id : 0;
    for (uint64_t o = h.offset; u && h.epoch < s->epoch && kind != SETTLE_EXTEND && o < h.offset + count; o++)
        if (u->messages[o].holder == -1 && u->messages[o].number == h.number && h.epoch >= u->born &&
            u->born < s->epoch)
            u->messages[o].holder = MODEL_LEAVING;
    mailbox_settle(lead(s), (struct mailbox_origin){0, s->asked_count++}, &c->id, c->subscription, &a->item,
                   1, s->now, stamp(s), &s->fx);
    take(s);
}

/* Made-up tokens, counts past any end, unknown kinds. */
static void nonsense(struct sim *s, const struct client *c) {
    struct mailbox_settlement item = {.kind = (enum settle_kind)rng_below(&s->rng, 7)};
    item.first_offset =
        rng_below(&s->rng, 10) ? rng_below(&s->rng, s->model->next_offset + 10) : rng_next(&s->rng);
    item.count = rng_below(&s->rng, 3) ? (uint32_t)rng_below(&s->rng, 30) : (uint32_t)rng_next(&s->rng);
    item.epoch = s->epoch + rng_below(&s->rng, 2);
    item.delivery_number = (uint32_t)rng_below(&s->rng, 4);
    item.delay =
        item.kind == SETTLE_EXTEND ? (usec_t)rng_next(&s->rng) : (usec_t)rng_below(&s->rng, 2000000) - 500000;
    mailbox_settle(lead(s), (struct mailbox_origin){NONSENSE, 0}, &c->id, c->subscription, &item, 1, s->now,
                   stamp(s), &s->fx);
    take(s);
}

static void detach(struct sim *s, struct client *c) {
    if (!c->attached)
        return;
    c->attached = false;
    bool clean = chance(s, 50);
    mailbox_detach(lead(s), &c->id, c->subscription, clean, s->now, &s->fx);
    if (clean)
        c->held_count = 0;
    take(s);
}

static void attach(struct sim *s, struct client *c) {
    if (c->attached || (s->presenting >> (c->gateway - 1) & 1))
        return;
    if (chance(s, 30) && !s->quiet)
        c->gateway = 1 + rng_below(&s->rng, GATEWAYS);
    c->attached =
        mailbox_attach(lead(s), &c->id, c->gateway, c->subscription, "", 0, s->now, &s->fx) == ERR_OK;
    c->credit = 0;
    take(s);
}

static void answer_letter(struct sim *s) {
    if (s->letters_count == 0)
        return;
    size_t i = rng_below(&s->rng, chance(s, 80) ? 1 : s->letters_count);
    uint64_t intent = s->letters[i].intent, after = s->letters[i].after;
    memmove(&s->letters[i], &s->letters[i + 1], (--s->letters_count - i) * sizeof *s->letters);
    uint64_t producer = 0;
    for (size_t d = 0; d < s->model->dying_count; d++)
        if (s->model->dying[d].intent == intent)
            producer = s->model->dying[d].subscription->id;
    enum err code = ERR_OK;
    uint64_t *last = &s->target_last[producer];
    if (!s->quiet && chance(s, 20)) {
        code = ERR_FULL;
    } else if (intent > *last) {
        if (after > *last) {
            code = ERR_OUT_OF_ORDER;
        } else {
            *last = intent;
            s->target_stored[intent]++;
        }
    }
    mailbox_dead_lettered(lead(s), intent, code, s->now, &s->fx);
    take(s);
}

/* ---- steps ---- */

static void pass_time(struct sim *s, usec_t time) {
    s->now += time;
    mailbox_tick(lead(s), s->now, stamp(s), &s->fx);
    take(s);
}

static void pump(struct sim *s) {
    mailbox_pump(lead(s), s->now, stamp(s), &s->fx);
    take(s);
}

static enum settle_kind any_kind(struct sim *s) {
    uint64_t n = rng_below(&s->rng, 100);
    return n < 60   ? SETTLE_ACK
           : n < 75 ? SETTLE_NACK
           : n < 80 ? SETTLE_REJECT
           : n < 90 ? SETTLE_RELEASE
                    : SETTLE_EXTEND;
}

static void rare(struct sim *s) {
    static const char *const names[] = {"audit", "extra"};
    const char *name = names[rng_below(&s->rng, 2)];
    uint64_t n = rng_below(&s->rng, 100);
    if (n < 35)
        fail_over(s);
    else if (n < 40)
        mailbox_purge(lead(s), &s->fx);
    else if (n < 55 && s->model->subscriptions_count + 2 < MODEL_SUBSCRIPTIONS_MAX)
        mailbox_subscribe(lead(s), name, chance(s, 50) ? FROM_FIRST : FROM_NEW, 0, &s->fx);
    else if (n < 60)
        mailbox_unsubscribe(lead(s), name, &s->fx);
    else if (n < 70) {
        mailbox_gateway_lost(lead(s), 1, s->now, &s->fx);
        for (int i = 0; i < CONSUMERS; i++)
            if (s->clients[i].gateway == 1)
                s->clients[i].attached = false;
        s->presenting &= ~1u;
    } else
        for (size_t r = 0; r < REPLICAS; r++)
            if (r != s->leader)
                restart(s, r);
    take(s);
}

static void step(struct sim *s) {
    struct client *c = any_client(s);
    uint64_t n = rng_below(&s->rng, 1000);
    if (n < 200)
        publish(s);
    else if (n < 350)
        lend(s, c, 1 + (uint32_t)rng_below(&s->rng, 30));
    else if (n < 600)
        settle(s, c, any_kind(s));
    else if (n < 700)
        pump(s);
    else if (n < 850)
        commit(s, 1 + rng_below(&s->rng, 8));
    else if (n < 880)
        pass_time(s, (usec_t)rng_below(&s->rng, 50000));
    else if (n < 890)
        pass_time(s, (usec_t)rng_below(&s->rng, 3000000));
    else if (n < 910)
        attach(s, c);
    else if (n < 920)
        detach(s, c);
    else if (n < 930)
        answer_letter(s);
    else if (n < 940)
        nonsense(s, c);
    else if (n < 970)
        present(s, 1 + rng_below(&s->rng, GATEWAYS));
    else if (n < 985) {
        size_t r = rng_below(&s->rng, REPLICAS);
        if (r != s->leader)
            follow(s, r, s->applied[r] + rng_below(&s->rng, s->committed - s->applied[r] + 1));
    } else
        rare(s);
    if (n % 4 == 0)
        model_check_states(lead(s));
}

/* ---- a run ---- */

static struct sim *sim_open(uint64_t seed) {
    static const char *const subscriptions[] = {"default", "default", "default", "audit", "audit", "extra"};
    struct sim *s = xcalloc(1, sizeof *s);
    s->rng = (struct rng){seed};
    model_settings(&s->settings, seed);
    s->model = model_new(&s->settings);
    s->now = 1000000;
    s->target_stored = xcalloc(1, 1000000);
    for (size_t r = 0; r < REPLICAS; r++)
        s->replicas[r] = make(s);
    for (int i = 0; i < CONSUMERS; i++) {
        s->clients[i].id = (struct consumer_id){{(uint8_t)('A' + i)}};
        s->clients[i].subscription = subscriptions[i];
        s->clients[i].gateway = 1 + (uint64_t)i % GATEWAYS;
    }
    s->epoch = 1;
    start_leading(s);
    return s;
}

static bool all_settled(struct sim *s) {
    for (size_t i = 0; i < MODEL_PRODUCERS; i++)
        if (s->publishers[i].open_count)
            return false;
    for (size_t i = 0; i < s->model->subscriptions_count; i++)
        for (uint64_t o = s->model->subscriptions[i]->start; o < s->model->next_offset; o++)
            if (!s->model->subscriptions[i]->gone && s->model->subscriptions[i]->messages[o].state == M_OPEN)
                return false;
    return true;
}

/* The faults stop: everything stored must be settled in the end. */
static void drain(struct sim *s) {
    s->quiet = true;
    for (int round = 0; round < DRAIN_STEPS; round++) {
        present(s, 1);
        present(s, 2);
        for (int i = 0; i < CONSUMERS; i++) {
            attach(s, &s->clients[i]);
            lend(s, &s->clients[i], 20);
            settle(s, &s->clients[i], SETTLE_ACK);
        }
        publish(s);
        answer_letter(s);
        pump(s);
        commit(s, 100);
        pass_time(s, 20000);
        if (round % 50 == 0 && all_settled(s))
            return;
    }
    cr_assert(false, "still not settled");
}

static void sim_close(struct sim *s) {
    for (size_t r = 0; r < REPLICAS; r++) {
        follow(s, r, s->committed);
        assert_equal(s, s->replicas[r], lead(s), "at the end");
    }
    model_check(s->model, lead(s), retention(s));
    for (size_t r = 0; r < REPLICAS; r++)
        mailbox_free(s->replicas[r]);
    mailbox_effects_free(&s->fx);
    for (size_t i = 0; i < s->log_count; i++)
        body_drop(s->log[i].body);
    for (size_t i = 0; i < MODEL_PRODUCERS; i++)
        while (s->publishers[i].open_count)
            body_drop(s->publishers[i].open[--s->publishers[i].open_count]);
    free(s->log);
    free(s->target_stored);
    model_free(s->model);
    free(s);
}

static void run(uint64_t seed) {
    struct sim *s = sim_open(seed);
    for (int i = 0; i < STEPS; i++)
        step(s);
    drain(s);
    model_check_letters(s->model, s->target_stored);
    sim_close(s);
}

/* SEED=n runs one; FIRST=a SEEDS=b those from a to b. */
Test(random, operations, .timeout = 300) {
    const char *one = getenv("SEED"), *many = getenv("SEEDS");
    uint64_t first = one               ? strtoull(one, NULL, 10)
                     : getenv("FIRST") ? strtoull(getenv("FIRST"), NULL, 10)
                                       : 1,
             last = one    ? first
                    : many ? strtoull(many, NULL, 10)
                           : 400;
    for (uint64_t seed = first; seed <= last; seed++) {
        if (getenv("VERBOSE"))
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        run(seed);
    }
}

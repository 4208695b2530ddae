// SPDX-License-Identifier: Apache-2.0
/*
 * The life of mailboxes while all else goes on: created, changed, purged, deleted
 * and made again under the same name; subscriptions that come and go. An operator
 * says what shall be (struct box: wanted, wished); a look at the applied metadata,
 * every LOOK_US, asks for what is missing and tells the clients what has changed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "clients.h"

enum { LOOK_US = 50000, GONE_US_MAX = 2000000, TRIES = 8 };

/* ---- what is there ---- */

static void new_name(struct box *b, int k) {
    snprintf(b->subscriptions[k], sizeof b->subscriptions[k], "extra%d-%u", k, ++b->named);
}

static void subscription_gone(struct sim *s, struct box *b, int index, int k) {
    sim_trace(s, "%s has no subscription %s any more", b->name, b->subscriptions[k]);
    b->there[k] = false;
    for (int i = 0; i < s->clients->consumers_count; i++) {
        struct consumer *c = &s->clients->consumers[i];
        if (c->box == index && c->subscription == k)
            consumer_forget(c);
    }
    for (uint32_t i = 0; i < b->settings.partitions; i++)
        checker_subscription_gone(s, (uint64_t)b->first_partition + i, k);
    new_name(b, k); /* what is still under way of the old one is told apart by the name */
}

static void born(struct sim *s, struct box *b, const struct metadata_mailbox *there) {
    b->first_partition = (int)there->partitions[0];
    for (uint32_t i = 1; i < there->partitions_count; i++)
        CHECK(there->partitions[i] == there->partitions[0] + i);
    sim_trace(s, "%s is there: %u partitions from p%d", b->name, there->partitions_count, b->first_partition);
    if (b->lives++)
        sim_count(s, RARE_created_again);
}

static void gone(struct sim *s, struct box *b, int index) {
    sim_trace(s, "%s is gone", b->name);
    for (int i = 0; i < s->clients->publishers_count; i++)
        if (s->clients->publishers[i].box == index)
            publisher_start_over(s, &s->clients->publishers[i]);
    for (int i = 0; i < s->clients->consumers_count; i++)
        if (s->clients->consumers[i].box == index)
            consumer_forget(&s->clients->consumers[i]);
    b->first_partition = 0;
    b->created = false;
    memset(b->there, 0, sizeof b->there);
}

/* ---- what shall be ---- */

static void request_mailbox(struct process *p, const struct box *b, enum command_type type) {
    struct command command = {.type = type};
    if (type == COMMAND_MAILBOX_CREATE) {
        strcpy(command.mailbox_create.name, b->name);
        command.mailbox_create.settings = b->settings;
    } else {
        strcpy(command.mailbox.name, b->name);
    }
    controller_request(p, &command);
    if (type == COMMAND_MAILBOX_CREATE)
        free(command.mailbox_create.placing);
}

/* A request that waited long was carried out after the one that undid it. */
static bool delete_forgotten(struct process *p, const struct box *b, const struct metadata_mailbox *there) {
    bool any = false;
    for (uint32_t i = 0; i < there->subscriptions_count; i++) {
        struct command command = {.type = COMMAND_SUBSCRIPTION_DELETE};
        if (clients_subscription(b, there->subscriptions[i].name) >= 0)
            continue;
        any = true;
        strcpy(command.subscription.mailbox, b->name);
        strcpy(command.subscription.name, there->subscriptions[i].name);
        controller_request(p, &command);
    }
    return any;
}

static void request_subscription(struct process *p, const struct box *b, int k, enum command_type type) {
    struct command command = {.type = type};
    strcpy(command.subscription.mailbox, b->name);
    strcpy(command.subscription.name, b->subscriptions[k]);
    if (type == COMMAND_SUBSCRIPTION_CREATE) {
        command.subscription.from = b->from[k];
        command.subscription.value = b->from_value[k];
    }
    controller_request(p, &command);
}

static bool subscribed(const struct metadata_mailbox *b, const char *name) {
    for (uint32_t i = 0; i < b->subscriptions_count; i++)
        if (strcmp(b->subscriptions[i].name, name) == 0)
            return true;
    return false;
}

static void look_at_subscriptions(struct sim *s, struct process *p, int index,
                                  const struct metadata_mailbox *there) {
    struct box *b = clients_box(s, index);
    bool all = true;
    for (int k = 0; k < b->subscriptions_count; k++) {
        bool is = subscribed(there, b->subscriptions[k]);
        if (b->there[k] && !is)
            subscription_gone(s, b, index, k);
        b->there[k] = is;
        all &= is == b->wished[k];
        if (is != b->wished[k])
            request_subscription(p, b, k, is ? COMMAND_SUBSCRIPTION_DELETE : COMMAND_SUBSCRIPTION_CREATE);
    }
    b->created |= all;
    b->settled = !delete_forgotten(p, b, there) && all;
}

static void look_at(struct sim *s, struct process *p, int index) {
    struct box *b = clients_box(s, index);
    const struct metadata_mailbox *there = metadata_mailbox_named(controller_metadata(p), b->name);
    b->settled = false;
    if (b->first_partition && (!there || there->partitions[0] != (uint64_t)b->first_partition))
        gone(s, b, index);
    if (there && !b->first_partition)
        born(s, b, there);
    if (there)
        b->settings = there->settings;
    if (b->wanted && !there)
        request_mailbox(p, b, COMMAND_MAILBOX_CREATE);
    else if (!b->wanted && there)
        request_mailbox(p, b, COMMAND_MAILBOX_DELETE);
    else if (there)
        look_at_subscriptions(s, p, index, there);
}

static void on_look(struct sim *s, struct event *e) {
    struct process *p = sim_leading_controller(s);
    struct clients *c = s->clients;
    (void)e;
    sim_at(s, s->now + LOOK_US, on_look);
    /* one that leads no more and does not know it yet: what it says is old */
    if (!p || metadata_index(controller_metadata(p)) < c->looked_at)
        return;
    c->looked_at = metadata_index(controller_metadata(p));
    for (int i = 0; i < c->boxes_count; i++) {
        clients_box(s, i)->wanted |= s->calm;
        look_at(s, p, i);
    }
}

void life_start(struct sim *s) {
    sim_at(s, s->now, on_look);
}

bool life_settled(struct sim *s, char *why, size_t size) {
    for (int i = 0; i < s->clients->boxes_count; i++) {
        if (clients_box(s, i)->settled)
            continue;
        snprintf(why, size, "mailbox %s is not as it shall be", clients_box(s, i)->name);
        return false;
    }
    return true;
}

/* ---- faults: each counts itself when it does something ---- */

static struct box *some_box(struct sim *s) {
    struct box *b = clients_box(s, (int)rng_below(&s->rng, (uint64_t)s->clients->boxes_count));
    return b->created && b->wanted ? b : NULL;
}

static void on_wanted(struct sim *s, struct event *e) {
    clients_box(s, (int)e->a)->wanted = true;
}

/* Partitions' ids are never used twice: is there room for this box again? */
static bool room_for_again(struct sim *s, const struct box *b) {
    uint64_t ids = b->settings.partitions;
    for (int i = 0; i < s->clients->boxes_count; i++)
        ids += clients_box(s, i)->settings.partitions * (clients_box(s, i)->lives + 1);
    return ids <= SIM_PARTITIONS_MAX;
}

void life_delete(struct sim *s) {
    struct box *b = some_box(s);
    if (!b || !room_for_again(s, b))
        return;
    sim_count(s, FAULT_mailbox_delete);
    sim_trace(s, "%s shall be deleted", b->name);
    b->wanted = false;
    s->clients->letters_lost = true;
    sim_at(s, s->now + sim_between(&s->rng, 0, GONE_US_MAX), on_wanted)->a =
        (uint64_t)(b - s->clients->boxes);
}

static void draw_update(struct sim *s, struct box *b, struct command *c) {
    struct mailbox_settings *to = &c->mailbox_update.settings;
    bool off = sim_chance(&s->rng, 4000);
    switch (rng_below(&s->rng, 5)) {
    case 0:
        c->mailbox_update.fields = SETTINGS_ACK_TIMEOUT;
        to->ack_timeout = sim_between(&s->rng, 300 * USEC_MS, 6 * USEC_S);
        return;
    case 1:
        c->mailbox_update.fields = SETTINGS_TTL;
        to->ttl = off ? 0 : sim_between(&s->rng, 200 * USEC_MS, 5 * USEC_S);
        break;
    case 2:
        c->mailbox_update.fields = SETTINGS_MAX_MESSAGES | SETTINGS_OVERFLOW;
        to->max_messages = off ? 0 : 20 + rng_below(&s->rng, 200);
        to->overflow = (enum overflow)rng_below(&s->rng, 2);
        off |= to->overflow == OVERFLOW_REJECT;
        break;
    case 3:
        c->mailbox_update.fields = SETTINGS_MAX_DELIVERIES;
        to->max_deliveries = off || b->letters ? 0 : 1 + (uint32_t)rng_below(&s->rng, 6);
        break;
    default:
        c->mailbox_update.fields = SETTINGS_RETAIN;
        to->retain_time = off ? 0 : sim_between(&s->rng, 100 * USEC_MS, 5 * USEC_S);
        return;
    }
    b->exact &= off;
    if (!off && c->mailbox_update.fields != SETTINGS_MAX_DELIVERIES) /* expired or dropped while its letter is
                                                                        under way: not counted as dead */
        s->clients->letters_lost = true;
}

void life_update(struct sim *s) {
    struct box *b = some_box(s);
    struct process *p = sim_leading_controller(s);
    struct command c = {.type = COMMAND_MAILBOX_UPDATE};
    if (!b || !p)
        return;
    c.mailbox_update.settings = b->settings;
    strcpy(c.mailbox_update.name, b->name);
    draw_update(s, b, &c);
    sim_count(s, FAULT_mailbox_update);
    sim_trace(s, "%s is updated: fields %u", b->name, c.mailbox_update.fields);
    controller_request(p, &c);
}

void life_purge(struct sim *s) {
    struct box *b = some_box(s);
    struct process *g = sim_gateway(s, (int)rng_below(&s->rng, (uint64_t)s->nodes_count));
    if (!b || !clients_gateway_up(s, g->id))
        return;
    sim_count(s, FAULT_purge);
    sim_trace(s, "%s is purged", b->name);
    s->clients->letters_lost = true;
    for (uint32_t i = 0; i < b->settings.partitions; i++) {
        uint64_t partition = (uint64_t)b->first_partition + i;
        int leader = g->gateway->leader[partition];
        if (leader >= 0)
            network_send(g, leader, message_new(M_PURGE, partition));
    }
}

/* One that is as `wished` says; the default subscription stays. -1: none. */
static int some_subscription(struct sim *s, const struct box *b, bool wished) {
    for (int i = 0; b->subscriptions_count > 1 && i < TRIES; i++) {
        int k = 1 + (int)rng_below(&s->rng, (uint64_t)b->subscriptions_count - 1);
        if (b->wished[k] == wished && b->there[k] == wished)
            return k;
    }
    return -1;
}

void life_subscribe(struct sim *s) {
    struct box *b = some_box(s);
    int k = b ? some_subscription(s, b, false) : -1;
    if (k < 0)
        return;
    uint64_t end = checker_next_offset(s, (uint64_t)b->first_partition);
    sim_count(s, FAULT_subscribe);
    b->from[k] = (uint32_t)rng_below(&s->rng, 3); /* new, first, an offset */
    b->from_value[k] = b->from[k] == FROM_OFFSET ? rng_below(&s->rng, end + 1) : 0;
    b->wished[k] = true;
    sim_trace(s, "%s: subscription %s shall be", b->name, b->subscriptions[k]);
}

void life_unsubscribe(struct sim *s) {
    struct box *b = some_box(s);
    int k = b ? some_subscription(s, b, true) : -1;
    if (k < 0)
        return;
    sim_count(s, FAULT_unsubscribe);
    sim_trace(s, "%s: subscription %s shall go", b->name, b->subscriptions[k]);
    b->wished[k] = false;
    s->clients->letters_lost = true;
}

// SPDX-License-Identifier: Apache-2.0
#include "control_story.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "fixture.h"

/* ---- from the control to the shards ---- */

static void take_effects(struct story *s, struct control_effects *fx);

void control_call_begin(struct control_effects *fx) {
    *fx = (struct control_effects){0};
}

/* The end of a turn: what arrived at the same moment is one. */
static void turn(void *ctx, void *argument) {
    struct story *s = ctx;
    struct control_effects fx = {0};
    s->turn_due = false;
    control_pump(s->control, world_now(s->world), &fx);
    take_effects(s, &fx);
}

void end_call(struct story *s, struct control_effects *fx) {
    take_effects(s, fx);
    if (!s->turn_due)
        world_later(s->world, 0, 0, turn, "", 0);
    s->turn_due = true;
}

struct answer {
    uint64_t partition;
    struct replica_sealed sealed;
    bool unknown;
};

static void answer_arrives(void *ctx, void *argument) {
    struct story *s = ctx;
    const struct answer *a = argument;
    struct control_effects fx;
    control_call_begin(&fx);
    control_on_sealed(s->control, a->partition, &a->sealed, a->unknown, world_now(s->world), &fx);
    end_call(s, &fx);
}

static void report_arrives(void *ctx, void *argument) {
    struct story *s = ctx;
    struct control_effects fx;
    control_call_begin(&fx);
    control_on_report(s->control, argument, world_now(s->world), &fx);
    end_call(s, &fx);
}

void report(struct story *s, struct control_report r) {
    if (!s->mute)
        world_later(s->world, WORLD_TRIP_US, 0, report_arrives, &r, sizeof r);
}

void do_seal(struct story *s, struct host *h, const struct control_effect *e) {
    struct copy *c = world_copy(h, e->partition);
    struct replica_effects fx = {0};
    if (!c || s->ignorant == h->member) {
        struct answer a = {.partition = e->partition, .unknown = true};
        a.sealed = (struct replica_sealed){.token = e->seal.token, .from = h->member, .epoch = e->seal.epoch};
        world_later(s->world, WORLD_TRIP_US, 0, answer_arrives, &a, sizeof a);
        return;
    }
    replica_on_seal(c->r, &e->seal, world_now(s->world), &fx);
    world_carry(c, &fx);
    replica_effects_free(&fx);
}

void do_record(struct story *s, struct host *h, const struct order *o) {
    struct copy *c = world_copy_make(h, o->effect.partition);
    struct replica_effects fx = {0};
    replica_on_record(c->r, &o->record, world_now(s->world), &fx);
    world_carry(c, &fx);
    replica_effects_free(&fx);
}

static void do_hold(void *ctx, void *argument) {
    struct story *s = ctx;
    struct order *o = argument;
    struct copy *c = world_copy(world_host(s->world, o->effect.member), o->effect.partition);
    if (!c || !replica_leading(c->r))
        return;
    if (replica_match(c->r, o->effect.hold.target) == replica_last_index(c->r)) {
        report(s, (struct control_report){.partition = o->effect.partition,
                                          .kind = CONTROL_HELD,
                                          .from = o->effect.member,
                                          .epoch = replica_epoch(c->r),
                                          .peer = o->effect.hold.target});
    } else if ((o->effect.hold.at_most -= MS(1)) > 0) {
        world_later(s->world, MS(1), o->effect.member, do_hold, o, sizeof *o);
    }
}

static void do_drop(struct story *s, struct host *h, const struct control_effect *e) {
    struct copy *c = world_copy(h, e->partition);
    if (c && replica_promise(c->r) > e->drop.epoch)
        return;
    if (c)
        cr_assert_not(replica_leading(c->r), "a leader dropped");
    if (c)
        world_drop(c);
    report(s, (struct control_report){.partition = e->partition, .kind = CONTROL_DROPPED, .from = h->member});
}

static void order_arrives(void *ctx, void *argument) {
    struct story *s = ctx;
    struct order *o = argument;
    struct host *h = world_host(s->world, o->effect.member);
    if (o->effect.type == CONTROL_SEND_SEAL)
        do_seal(s, h, &o->effect);
    else if (o->effect.type == CONTROL_SEND_RECORD)
        do_record(s, h, o);
    else if (o->effect.type == CONTROL_SEND_HOLD)
        do_hold(s, o);
    else
        do_drop(s, h, &o->effect);
}

/* ---- the metadata group, reduced to a delay ---- */

member_t member_on(const struct story *s, unsigned n, unsigned shard) {
    return shard_of(n, shard) + 100 * s->disk[n];
}

static void watch_node(struct story *s, unsigned n) {
    usec_t now = world_now(s->world);
    detector_watch(s->d, n, DETECTOR_CONTROLLER, controller_of(n) + s->disk[n], now);
    for (unsigned i = 0; i < s->shards; i++) {
        world_host(s->world, member_on(s, n, i));
        detector_watch(s->d, n, (int)i, member_on(s, n, i), now);
    }
}

struct proposal {
    struct body *command;
    uint64_t tag;
    struct story *story;
};

static void apply_proposal(void *ctx, void *argument) {
    struct story *s = ctx;
    struct proposal *p = argument;
    struct metadata_changes changes = {0};
    struct metadata_result result;
    struct control_effects fx;
    control_call_begin(&fx);
    metadata_apply(s->m, metadata_index(s->m) + 1, p->command->data, p->command->size, &result, &changes);
    body_drop(p->command);
    for (size_t i = 0; i < changes.nodes_count; i++)
        watch_node(s, changes.nodes[i]);
    control_applied(s->control, &changes, world_now(s->world), &fx);
    control_proposed(s->control, p->tag, result.code, world_now(s->world), &fx);
    metadata_changes_free(&changes);
    end_call(s, &fx);
}

static void take_effects(struct story *s, struct control_effects *fx) {
    for (size_t i = 0; i < fx->count; i++) {
        struct control_effect *e = &fx->items[i];
        struct order o = {.effect = *e};
        const struct metadata_partition *p = metadata_partition(s->m, e->partition);
        if (e->type == CONTROL_SAY) {
            if (getenv("SAY"))
                printf("[%7.1f] %s\n", (double)world_now(s->world) / 1000, e->text);
        } else if (e->type == CONTROL_PROPOSE) {
            struct proposal proposal = {.command = body_keep(e->propose.command), .tag = e->propose.tag};
            s->proposals++;
            s->record_proposals += e->propose.command->data[0] == COMMAND_RECORDS;
            world_later(s->world, PROPOSE_US, 0, apply_proposal, &proposal, sizeof proposal);
        } else if (!s->mute) {
            s->seals += e->type == CONTROL_SEND_SEAL;
            if (p)
                o.record = p->record;
            if (p || e->type == CONTROL_SEND_DROP)
                world_later(s->world, WORLD_TRIP_US, e->member, order_arrives, &o, sizeof o);
        }
    }
    control_effects_free(fx);
}

/* ---- from the shards ---- */

static void applied(struct story *s, struct copy *c, const struct entry *e) {
    struct oracle *o = &s->oracle[c->partition];
    cr_assert_lt(e->index, INDEX_MAX);
    cr_assert(o->committed[e->index] == 0 || o->committed[e->index] == e->epoch,
              "partition %lu: committed entry %lu of epoch %u became one of epoch %lu", c->partition,
              e->index, o->committed[e->index], e->epoch);
    o->committed[e->index] = (uint16_t)e->epoch;
    if (replica_leading(c->r) && e->index > o->furthest)
        o->furthest = e->index;
}

static void leads(struct story *s, struct copy *c, uint64_t epoch) {
    struct oracle *o = &s->oracle[c->partition];
    cr_assert_lt(epoch, EPOCHS_MAX);
    cr_assert_eq(o->leader_of[epoch], 0, "partition %lu: epoch %lu taken twice", c->partition, epoch);
    o->leader_of[epoch] = c->host->member;
}

static void on_effect(void *ctx, struct copy *c, const struct replica_effect *e) {
    struct story *s = ctx;
    struct control_report r = {.partition = c->partition, .from = c->host->member, .epoch = e->epoch};
    struct answer a = {.partition = c->partition};
    switch (e->type) {
    case REPLICA_APPLY:
        applied(s, c, &e->entry);
        return;
    case REPLICA_LEADING:
        leads(s, c, e->epoch);
        return;
    case REPLICA_SEND_SEALED:
        a.sealed = e->sealed;
        if (!s->mute)
            world_later(s->world, WORLD_TRIP_US, 0, answer_arrives, &a, sizeof a);
        return;
    case REPLICA_ACTIVE:
        cr_assert_geq(replica_commit(c->r), s->oracle[c->partition].furthest, "partition %lu: lost",
                      c->partition);
        s->oracle[c->partition].led_epoch = e->epoch;
        s->oracle[c->partition].led_at = world_now(s->world);
        r.kind = CONTROL_LED;
        break;
    case REPLICA_REPORT_ACTIVATED:
        r.kind = CONTROL_ACTIVATED;
        break;
    case REPLICA_REPORT_SUPERSEDED:
        r.kind = CONTROL_SUPERSEDED;
        r.epoch = e->promise.epoch;
        break;
    case REPLICA_REPORT_CANNOT:
        r.kind = CONTROL_CANNOT;
        break;
    case REPLICA_REPORT_CAUGHT_UP:
        r.kind = CONTROL_CAUGHT_UP;
        r.peer = e->peer;
        r.epoch = replica_epoch(c->r);
        break;
    default:
        return;
    }
    report(s, r);
}

/* ---- time and the detector ---- */

static void told_changes(struct story *s, struct detector_changes *changes) {
    struct control_effects fx;
    control_call_begin(&fx);
    for (size_t i = 0; i < changes->count; i++) {
        if (changes->items[i].is_node)
            control_node_changed(s->control);
        else if (changes->items[i].index >= 0)
            control_member(s->control, changes->items[i].member, changes->items[i].to, world_now(s->world),
                           &fx);
    }
    end_call(s, &fx);
    detector_changes_free(changes);
}

void hear_all(struct story *s) {
    struct detector_changes changes = {0};
    usec_t now = world_now(s->world);
    for (unsigned n = 1; n <= s->nodes; n++) {
        bool any = false;
        for (unsigned i = 0; i < s->shards; i++) {
            bool alive = world_host(s->world, member_on(s, n, i))->alive;
            any |= alive;
            if (alive)
                detector_heard(s->d, n, (int)i, now, &changes);
        }
        if (any)
            detector_heard(s->d, n, DETECTOR_CONTROLLER, now, &changes);
    }
    detector_tick(s->d, now, &changes);
    told_changes(s, &changes);
}

static void on_tick(void *ctx) {
    struct story *s = ctx;
    usec_t now = world_now(s->world);
    struct control_effects fx;
    if (now / WORLD_GRAIN_US % 50 == 0)
        hear_all(s);
    control_call_begin(&fx);
    if (control_deadline(s->control) <= now)
        control_tick(s->control, now, &fx);
    end_call(s, &fx);
}

/* ---- the story's own words ---- */

static const struct world_hooks hooks = {.effect = on_effect, .tick = on_tick};

void node_joins(struct story *s) {
    watch_node(s, ++s->nodes);
}

void lead_metadata(struct story *s) {
    struct control_effects fx;
    control_call_begin(&fx);
    control_start(s->control, ++s->epoch_lead, world_now(s->world), &fx);
    end_call(s, &fx);
}

struct story *tell(unsigned nodes, uint64_t seed) {
    struct story *s = xcalloc(1, sizeof *s);
    struct control_options options = {.rebuild_grace = MS(GRACE_MS), .seed = seed};
    s->world = world_new(&hooks, s, false, seed);
    s->m = metadata_new();
    s->d = detector_new(MS(600), MS(100), world_now(s->world));
    s->control = control_new(&options, s->m, s->d);
    s->shards = 1;
    fixture_form(s->m, nodes, s->shards);
    for (unsigned i = 0; i < nodes; i++)
        node_joins(s);
    hear_all(s);
    lead_metadata(s);
    return s;
}

void end(struct story *s) {
    control_free(s->control);
    detector_free(s->d);
    world_free(s->world);
    metadata_free(s->m);
    free(s);
}

void propose_command(struct story *s, const struct command *c) {
    struct encoder e = {0};
    command_encode(c, &e);
    struct proposal p = {.command = encoder_body(&e)};
    world_later(s->world, PROPOSE_US, 0, apply_proposal, &p, sizeof p);
}

void create(struct story *s, const char *name, uint32_t partitions, uint32_t replicas) {
    struct command c = {.type = COMMAND_MAILBOX_CREATE};
    strcpy(c.mailbox_create.name, name);
    settings_default(&c.mailbox_create.settings);
    c.mailbox_create.settings.partitions = partitions;
    c.mailbox_create.settings.replicas = replicas;
    cr_assert_eq(control_prepare(s->control, &c, NULL), ERR_OK);
    propose_command(s, &c);
    command_free(&c);
    world_run(s->world, MS(30));
}

/* Publish through whoever leads; what is applied there is receipted. */
void publish_all(struct story *s) {
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id)) {
        struct host *h = world_host(s->world, p->record.leader);
        struct copy *c = h->alive ? world_copy(h, p->id) : NULL;
        struct replica_effects fx = {0};
        uint64_t index;
        if (!c || !replica_leading(c->r))
            continue;
        struct body *b = body_copy("m", 1);
        replica_propose(c->r, ENTRY_BATCH, b, world_now(s->world), &index, &fx);
        body_drop(b);
        world_carry(c, &fx);
        replica_effects_free(&fx);
    }
}

const struct replica_record *record(const struct story *s, uint64_t partition) {
    return &metadata_partition(s->m, partition)->record;
}

bool led(const struct story *s, uint64_t partition) {
    const struct replica_record *r = record(s, partition);
    struct host *h = world_host(s->world, r->leader);
    struct copy *c = h->alive ? world_copy(h, partition) : NULL;
    return c && replica_leading(c->r) && replica_epoch(c->r) == r->epoch &&
           s->oracle[partition].led_epoch == r->epoch;
}

void expect_all_led(const struct story *s, const char *when) {
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id))
        cr_assert(led(s, p->id), "partition %lu is not led %s", p->id, when);
}

void kill_node(struct story *s, unsigned n, bool seen) {
    struct detector_changes changes = {0};
    for (unsigned i = 0; i < s->shards; i++)
        world_kill(s->world, member_on(s, n, i));
    for (unsigned i = 0; seen && i < s->shards; i++)
        detector_gone(s->d, n, (int)i, world_now(s->world), &changes);
    if (seen)
        detector_gone(s->d, n, DETECTOR_CONTROLLER, world_now(s->world), &changes);
    told_changes(s, &changes);
}

void wipe_node(struct story *s, unsigned n) {
    kill_node(s, n, false);
    s->disk[n]++;
    struct command c = {.type = COMMAND_NODE_SET, .node = fixture_node(n, s->shards)};
    c.node.controller += s->disk[n];
    for (unsigned i = 0; i < s->shards; i++)
        c.node.shards[i] = member_on(s, n, i);
    propose_command(s, &c);
}

void power_off(struct story *s, unsigned n, uint64_t entries) {
    kill_node(s, n, true);
    for (unsigned i = 0; i < s->shards; i++)
        world_power_lost(s->world, member_on(s, n, i), entries);
}

/* A shard that restarts is told its records again by its node's controller. */
void start_node(struct story *s, unsigned n) {
    for (unsigned i = 0; i < s->shards; i++) {
        struct host *h = world_host(s->world, member_on(s, n, i));
        world_start(s->world, h->member);
        for (struct copy *c = h->copies; c; c = c->next) {
            const struct metadata_partition *p = metadata_partition(s->m, c->partition);
            if (p && metadata_holds(&p->record, h->member))
                do_record(s, h, &(struct order){.effect = {.partition = p->id}, .record = p->record});
        }
    }
    hear_all(s);
}

unsigned leaders_on(const struct story *s, unsigned n) {
    unsigned count = 0;
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id))
        count += metadata_node_of(s->m, p->record.leader, &(int){0})->id == n;
    return count;
}

unsigned replicas_on(const struct story *s, unsigned n) {
    unsigned count = 0;
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id)) {
        for (uint32_t i = 0; i < p->record.current.count; i++)
            count += metadata_node_of(s->m, p->record.current.members[i], &(int){0})->id == n;
    }
    return count;
}

void create_many(struct story *s, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        create(s, name, 1, 3);
    }
}

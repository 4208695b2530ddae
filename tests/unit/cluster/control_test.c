// SPDX-License-Identifier: Apache-2.0
/* The control over real replicas: what it decides is carried out by the code that
 * will carry it out, in virtual time. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "cluster/control.h"
#include "fixture.h"
#include "world.h"

#define MS(n) ((usec_t)(n)*USEC_MS)

enum {
    PROPOSE_US = 600,
    NODES_MAX = 6,
    PARTITIONS_MAX = 200,
    EPOCHS_MAX = 200,
    INDEX_MAX = 4000,
    GRACE_MS = 2000
};

struct oracle {
    member_t leader_of[EPOCHS_MAX];
    uint16_t committed[INDEX_MAX]; /* epoch of each applied index */
    uint64_t furthest;             /* highest applied by a leader: receipted */
    uint64_t led_epoch;            /* newest ACTIVE */
    usec_t led_at;
};

struct story {
    struct world *world;
    struct metadata *m;
    struct detector *d;
    struct control *control;
    unsigned nodes, shards;
    bool mute; /* the controller reaches nobody: what it sends is lost */
    struct oracle oracle[PARTITIONS_MAX];
    bool turn_due;
    member_t ignorant; /* says of every partition that it does not know it */
    unsigned proposals, record_proposals, seals;
    uint64_t epoch_lead; /* of control_start */
};

/* ---- from the control to the shards ---- */

struct order {
    struct control_effect effect;
    struct replica_record record;
};

static void take_effects(struct story *s, struct control_effects *fx);

static void control_call_begin(struct control_effects *fx) {
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

static void end_call(struct story *s, struct control_effects *fx) {
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

static void report(struct story *s, struct control_report r) {
    if (!s->mute)
        world_later(s->world, WORLD_TRIP_US, 0, report_arrives, &r, sizeof r);
}

static void do_seal(struct story *s, struct host *h, const struct control_effect *e) {
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

static void do_record(struct story *s, struct host *h, const struct order *o) {
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
        if (!changes->items[i].is_node && changes->items[i].index >= 0)
            control_member(s->control, changes->items[i].member, changes->items[i].to, world_now(s->world),
                           &fx);
    }
    end_call(s, &fx);
    detector_changes_free(changes);
}

static void hear_all(struct story *s) {
    struct detector_changes changes = {0};
    usec_t now = world_now(s->world);
    for (unsigned n = 1; n <= s->nodes; n++) {
        bool any = false;
        for (unsigned i = 0; i < s->shards; i++) {
            bool alive = world_host(s->world, shard_of(n, i))->alive;
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

static void node_joins(struct story *s) {
    unsigned n = ++s->nodes;
    usec_t now = world_now(s->world);
    detector_watch(s->d, n, DETECTOR_CONTROLLER, controller_of(n), now);
    for (unsigned i = 0; i < s->shards; i++) {
        world_host(s->world, shard_of(n, i));
        detector_watch(s->d, n, (int)i, shard_of(n, i), now);
    }
}

static void lead_metadata(struct story *s) {
    struct control_effects fx;
    control_call_begin(&fx);
    control_start(s->control, ++s->epoch_lead, world_now(s->world), &fx);
    end_call(s, &fx);
}

static struct story *tell(unsigned nodes, uint64_t seed) {
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

static void end(struct story *s) {
    control_free(s->control);
    detector_free(s->d);
    world_free(s->world);
    metadata_free(s->m);
    free(s);
}

static void propose_command(struct story *s, const struct command *c) {
    struct encoder e = {0};
    command_encode(c, &e);
    struct proposal p = {.command = encoder_body(&e)};
    world_later(s->world, PROPOSE_US, 0, apply_proposal, &p, sizeof p);
}

static void create(struct story *s, const char *name, uint32_t partitions, uint32_t replicas) {
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
static void publish_all(struct story *s) {
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

static const struct replica_record *record(const struct story *s, uint64_t partition) {
    return &metadata_partition(s->m, partition)->record;
}

static bool led(const struct story *s, uint64_t partition) {
    const struct replica_record *r = record(s, partition);
    struct host *h = world_host(s->world, r->leader);
    struct copy *c = h->alive ? world_copy(h, partition) : NULL;
    return c && replica_leading(c->r) && replica_epoch(c->r) == r->epoch &&
           s->oracle[partition].led_epoch == r->epoch;
}

static void expect_all_led(const struct story *s, const char *when) {
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id))
        cr_assert(led(s, p->id), "partition %lu is not led %s", p->id, when);
}

static void kill_node(struct story *s, unsigned n, bool seen) {
    struct detector_changes changes = {0};
    for (unsigned i = 0; i < s->shards; i++)
        world_kill(s->world, shard_of(n, i));
    for (unsigned i = 0; seen && i < s->shards; i++)
        detector_gone(s->d, n, (int)i, world_now(s->world), &changes);
    if (seen)
        detector_gone(s->d, n, DETECTOR_CONTROLLER, world_now(s->world), &changes);
    told_changes(s, &changes);
}

/* A shard that restarts is told its records again by its node's controller. */
static void start_node(struct story *s, unsigned n) {
    for (unsigned i = 0; i < s->shards; i++) {
        struct host *h = world_host(s->world, shard_of(n, i));
        world_start(s->world, h->member);
        for (struct copy *c = h->copies; c; c = c->next) {
            const struct metadata_partition *p = metadata_partition(s->m, c->partition);
            if (p && metadata_holds(&p->record, h->member))
                do_record(s, h, &(struct order){.effect = {.partition = p->id}, .record = p->record});
        }
    }
    hear_all(s);
}

static unsigned leaders_on(const struct story *s, unsigned n) {
    unsigned count = 0;
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id))
        count += metadata_node_of(s->m, p->record.leader, &(int){0})->id == n;
    return count;
}

static unsigned replicas_on(const struct story *s, unsigned n) {
    unsigned count = 0;
    for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
         p = metadata_partition_next(s->m, p->id)) {
        for (uint32_t i = 0; i < p->record.current.count; i++)
            count += metadata_node_of(s->m, p->record.current.members[i], &(int){0})->id == n;
    }
    return count;
}

static void create_many(struct story *s, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        create(s, name, 1, 3);
    }
}

/* ---- stories ---- */

Test(control, creating_a_mailbox_needs_no_seal) {
    struct story *s = tell(3, 1);
    create(s, "orders", 4, 3);
    expect_all_led(s, "after creation");
    cr_expect_eq(s->seals, 0);
    cr_expect_eq(record(s, 1)->epoch, 1);
    end(s);
}

Test(control, a_node_dies_and_all_its_partitions_are_led_again_within_milliseconds) {
    struct story *s = tell(3, 2);
    create_many(s, 60);
    publish_all(s);
    world_run(s->world, MS(50));
    unsigned proposals = s->record_proposals;
    cr_expect_eq(leaders_on(s, 1), 20);
    kill_node(s, 1, true);
    world_run(s->world, MS(10));
    expect_all_led(s, "10 ms after");
    cr_expect_leq(s->record_proposals - proposals, 3, "batched: %u", s->record_proposals - proposals);
    cr_expect_eq(leaders_on(s, 2), 30, "spread over those that are left");
    cr_expect_not(record(s, 1)->wait_lease, "a process that is gone delivers nothing");
    end(s);
}

Test(control, a_silent_leader_may_still_deliver) {
    struct story *s = tell(3, 3);
    create(s, "orders", 1, 3);
    unsigned n = metadata_node_of(s->m, record(s, 1)->leader, &(int){0})->id;
    kill_node(s, n, false);
    world_run(s->world, MS(800));
    cr_expect_eq(record(s, 1)->epoch, 1, "suspect is not dead");
    world_run(s->world, MS(300));
    expect_all_led(s, "after one and a half timeouts");
    cr_expect(record(s, 1)->wait_lease);
    end(s);
}

Test(control, leaders_even_out_when_the_node_is_back) {
    struct story *s = tell(3, 4);
    create_many(s, 30);
    kill_node(s, 2, true);
    world_run(s->world, USEC_S);
    cr_expect_eq(leaders_on(s, 2), 0);
    start_node(s, 2);
    publish_all(s);
    world_run(s->world, 20 * USEC_S);
    expect_all_led(s, "in the end");
    for (unsigned n = 1; n <= 3; n++) {
        cr_expect_geq(leaders_on(s, n), 9);
        cr_expect_leq(leaders_on(s, n), 11);
        cr_expect_eq(replicas_on(s, n), 30, "nothing was copied within the grace");
    }
    unsigned seals = s->seals;
    world_run(s->world, 20 * USEC_S);
    cr_expect_eq(s->seals, seals, "and stay as they are");
    end(s);
}

Test(control, one_replica_restarts_and_leads_a_new_epoch) {
    struct story *s = tell(1, 5);
    create(s, "orders", 1, 3);
    publish_all(s);
    world_run(s->world, MS(20));
    kill_node(s, 1, true);
    world_run(s->world, USEC_S);
    start_node(s, 1);
    world_run(s->world, MS(50));
    expect_all_led(s, "after its restart");
    cr_expect_eq(record(s, 1)->epoch, 2, "an epoch is taken at most once");
    end(s);
}

Test(control, a_planned_move_picks_its_target) {
    struct story *s = tell(3, 6);
    create(s, "orders", 1, 3);
    member_t was = record(s, 1)->leader;
    struct control_effects fx;
    for (int i = 0; i < 3; i++)
        publish_all(s);
    control_call_begin(&fx);
    cr_expect_eq(control_vacate(s->control, was, world_now(s->world), &fx), 1);
    end_call(s, &fx);
    world_run(s->world, MS(30));
    cr_expect_neq(record(s, 1)->leader, was);
    cr_expect_eq(record(s, 1)->epoch, 2);
    cr_expect_not(record(s, 1)->wait_lease, "the old leader answered");
    expect_all_led(s, "after the move");
    end(s);
}

Test(control, a_dead_nodes_replicas_are_rebuilt_after_the_grace) {
    struct story *s = tell(4, 7);
    create_many(s, 20);
    for (int i = 0; i < 5; i++)
        publish_all(s);
    world_run(s->world, MS(50));
    kill_node(s, 3, true);
    world_run(s->world, MS(GRACE_MS - 500));
    cr_expect_neq(replicas_on(s, 3), 0, "a reboot copies nothing");
    world_run(s->world, 30 * USEC_S);
    expect_all_led(s, "after rebuilding");
    cr_expect_eq(replicas_on(s, 3), 0);
    for (unsigned n = 1; n <= 4; n++) {
        if (n != 3)
            cr_expect_eq(replicas_on(s, n), 20);
    }
    start_node(s, 3);
    world_run(s->world, 60 * USEC_S);
    cr_expect_eq(metadata_drops_count(s->m), 0, "what it held is dropped once it is back");
    expect_all_led(s, "with four again");
    for (unsigned n = 1; n <= 4; n++) {
        cr_expect_geq(replicas_on(s, n), 14);
        cr_expect_leq(replicas_on(s, n), 16);
    }
    end(s);
}

Test(control, a_mailbox_of_one_replica_grows_with_the_cluster) {
    struct story *s = tell(1, 8);
    create(s, "orders", 2, 3);
    for (int i = 0; i < 10; i++)
        publish_all(s);
    world_run(s->world, MS(50));
    for (unsigned n = 2; n <= 3; n++) {
        fixture_node_set(s->m, n, s->shards);
        node_joins(s);
    }
    hear_all(s);
    struct metadata_changes changes = {.nodes = (uint32_t[]){3}, .nodes_count = 1};
    struct control_effects fx;
    control_call_begin(&fx);
    control_applied(s->control, &changes, world_now(s->world), &fx);
    end_call(s, &fx);
    world_run(s->world, 20 * USEC_S);
    expect_all_led(s, "with three nodes");
    cr_expect_eq(record(s, 1)->current.count, 3);
    cr_expect_eq(record(s, 2)->current.count, 3);
    cr_expect_not(record(s, 1)->activating);
    end(s);
}

/* {A} -> {B}: the model's case of a leader that is not in its own set. */
Test(control, one_replica_moves_to_another_node) {
    struct story *s = tell(3, 9);
    create(s, "orders", 1, 1);
    for (int i = 0; i < 10; i++)
        publish_all(s);
    world_run(s->world, MS(20));
    unsigned n = metadata_node_of(s->m, record(s, 1)->leader, &(int){0})->id;
    struct command drain = {.type = COMMAND_NODE_STATE, .node_state = {.state = NODE_DRAINING}};
    snprintf(drain.node_state.name, sizeof drain.node_state.name, "n%u", n);
    propose_command(s, &drain);
    world_run(s->world, 20 * USEC_S);
    cr_expect_eq(replicas_on(s, n), 0);
    cr_expect_eq(record(s, 1)->current.count, 1);
    expect_all_led(s, "on the other node");
    cr_expect_eq(metadata_drops_count(s->m), 0);
    cr_expect_geq(s->oracle[1].furthest, 11);
    end(s);
}

Test(control, a_new_leading_controller_goes_on_from_the_records) {
    for (usec_t after = 0; after < MS(6); after += 300) {
        struct story *s = tell(3, 10);
        create_many(s, 12);
        kill_node(s, 1, true);
        world_run(s->world, after);
        lead_metadata(s); /* another one: what was under way is not known to it */
        world_run(s->world, MS(5000));
        expect_all_led(s, "by the new controller");
        end(s);
    }
}

Test(control, a_promise_given_to_a_controller_that_died_is_sealed_above) {
    struct story *s = tell(3, 11);
    create(s, "orders", 1, 3);
    member_t follower = record(s, 1)->current.members[1];
    if (follower == record(s, 1)->leader)
        follower = record(s, 1)->current.members[0];
    struct control_effect e = {.partition = 1, .seal = {.token = 999999, .to = follower, .epoch = 7}};
    do_seal(s, world_host(s->world, follower), &e);
    world_run(s->world, MS(20));
    for (int i = 0; i < 5; i++) {
        publish_all(s);
        world_run(s->world, MS(100));
    }
    cr_expect_gt(record(s, 1)->epoch, 7);
    expect_all_led(s, "above it");
    end(s);
}

Test(control, without_a_majority_nothing_moves_and_then_goes_on_by_itself) {
    struct story *s = tell(3, 12);
    create_many(s, 9);
    kill_node(s, 1, true);
    kill_node(s, 2, true);
    world_run(s->world, 5 * USEC_S);
    for (uint64_t p = 1; p <= 9; p++)
        cr_expect_eq(partition_state(metadata_partition(s->m, p), s->d), PARTITION_NO_MAJORITY);
    cr_expect_eq(control_counts(s->control).seals, 0, "no operation waits for what cannot be");
    start_node(s, 2);
    world_run(s->world, MS(300));
    expect_all_led(s, "with two of three");
    end(s);
}

Test(control, a_shard_that_knows_nothing_is_not_asked_without_end) {
    struct story *s = tell(3, 21);
    create(s, "orders", 1, 3);
    unsigned leader = metadata_node_of(s->m, record(s, 1)->leader, &(int){0})->id;
    s->ignorant = shard_of(leader % 3 + 1, 0);
    kill_node(s, leader, true);
    world_run(s->world, USEC_S);
    cr_expect_eq(record(s, 1)->epoch, 1, "one of three has answered");
    cr_expect_leq(s->seals, 40, "asked %u times in a second", s->seals);
    s->ignorant = 0;
    world_run(s->world, MS(300));
    expect_all_led(s, "once it knows");
    end(s);
}

Test(control, an_operator_goes_on_from_one_copy_accepting_loss) {
    struct story *s = tell(3, 13);
    create(s, "orders", 1, 3);
    for (int i = 0; i < 5; i++)
        publish_all(s);
    world_run(s->world, MS(20));
    struct err_detail detail;
    struct control_effects fx;
    control_call_begin(&fx);
    cr_expect_eq(control_recover(s->control, "orders", "n3", world_now(s->world), &fx, &detail), ERR_UNSAFE);
    kill_node(s, 1, true);
    kill_node(s, 2, true);
    world_run(s->world, MS(100));
    cr_expect_eq(control_recover(s->control, "orders", "n1", world_now(s->world), &fx, &detail),
                 ERR_NOT_FOUND);
    cr_expect_eq(control_recover(s->control, "orders", "n3", world_now(s->world), &fx, &detail), ERR_OK);
    end_call(s, &fx);
    world_run(s->world, MS(50));
    expect_all_led(s, "alone");
    cr_expect_eq(record(s, 1)->current.count, 1);
    end(s);
}

Test(control, a_partition_that_crashes_its_leaders_is_quarantined_and_released) {
    struct story *s = tell(3, 14);
    create(s, "poison", 1, 3);
    create(s, "other", 1, 3);
    for (int i = 0; i < 3; i++) {
        unsigned n = metadata_node_of(s->m, record(s, 1)->leader, &(int){0})->id;
        uint64_t epoch = record(s, 1)->epoch;
        kill_node(s, n, true);
        report(s, (struct control_report){.partition = 1,
                                          .kind = CONTROL_CRASHED,
                                          .from = shard_of(n, 0),
                                          .epoch = epoch,
                                          .crashes = 1});
        world_run(s->world, MS(50));
        start_node(s, n);
        world_run(s->world, MS(50));
    }
    cr_expect_eq(partition_state(metadata_partition(s->m, 1), s->d), PARTITION_QUARANTINED);
    cr_expect(led(s, 2), "the other mailbox goes on");
    uint64_t epoch = record(s, 1)->epoch;
    world_run(s->world, 5 * USEC_S);
    cr_expect_eq(record(s, 1)->epoch, epoch, "it stands still");
    propose_command(s, &(struct command){.type = COMMAND_RELEASE, .mailbox = {.name = "poison"}});
    world_run(s->world, 10 * USEC_S);
    cr_expect(led(s, 1), "released");
    end(s);
}

Test(control, a_deleted_mailbox_is_dropped_everywhere) {
    struct story *s = tell(3, 15);
    create(s, "orders", 3, 3);
    publish_all(s);
    world_run(s->world, MS(20));
    kill_node(s, 3, true);
    world_run(s->world, MS(100));
    propose_command(s, &(struct command){.type = COMMAND_MAILBOX_DELETE, .mailbox = {.name = "orders"}});
    /* the shards' own business here: stop leading what is gone */
    world_run(s->world, MS(1));
    for (unsigned n = 1; n <= 2; n++) {
        for (struct copy *c = world_host(s->world, shard_of(n, 0))->copies; c; c = c->next)
            world_drop(c);
    }
    world_run(s->world, 5 * USEC_S);
    cr_expect_eq(metadata_drops_count(s->m), 3, "one node is still to be told");
    start_node(s, 3);
    world_run(s->world, 5 * USEC_S);
    cr_expect_eq(metadata_drops_count(s->m), 0);
    end(s);
}

/* Whatever happens: no epoch is taken twice, nothing committed changes or is
 * lost; and when all is well again everything is led. */
Test(control, random_deaths_and_new_controllers) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct story *s = tell(4, seed);
        struct rng r = {seed * 31};
        bool down[5] = {false};
        create(s, "a", 4, 3);
        create(s, "b", 4, 3);
        create(s, "c", 2, 1);
        for (int i = 0; i < 60; i++) {
            unsigned n = 1 + (unsigned)rng_below(&r, 4);
            switch (rng_below(&r, 6)) {
            case 0:
            case 1:
                if (down[n])
                    start_node(s, n);
                else
                    kill_node(s, n, rng_below(&r, 2));
                down[n] = !down[n];
                break;
            case 2:
                lead_metadata(s);
                break;
            case 3:
                s->mute = rng_below(&r, 3) == 0;
                break;
            default:
                publish_all(s);
            }
            world_run(s->world, (usec_t)rng_below(&r, rng_below(&r, 4) ? 4000 : 3000000));
        }
        s->mute = false;
        for (unsigned n = 1; n <= 4; n++) {
            if (down[n])
                start_node(s, n);
        }
        lead_metadata(s);
        world_run(s->world, 90 * USEC_S);
        for (const struct metadata_partition *p = metadata_partition_next(s->m, 0); p;
             p = metadata_partition_next(s->m, p->id))
            cr_assert(led(s, p->id), "seed %lu: partition %lu is not led", seed, p->id);
        cr_assert_eq(metadata_drops_count(s->m), 0, "seed %lu", seed);
        end(s);
    }
}

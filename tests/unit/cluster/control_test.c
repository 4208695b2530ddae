// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "control_story.h"
#include "fixture.h"

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

/* ---- durability written: machines lose their power (replica.h) ---- */

static struct story *three_with_messages(uint64_t seed) {
    struct story *s = tell(3, seed);
    create(s, "orders", 1, 3);
    for (int i = 0; i < 5; i++)
        publish_all(s);
    world_run(s->world, MS(100));
    return s;
}

static unsigned leader_node(const struct story *s) {
    return metadata_node_of(s->m, record(s, 1)->leader, &(int){0})->id;
}

Test(control, a_copy_that_lost_its_power_is_no_part_of_a_majority_of_logs) {
    struct story *s = three_with_messages(21);
    unsigned leader = leader_node(s), other = leader % 3 + 1;
    kill_node(s, leader, true);
    power_off(s, other, 3);
    start_node(s, other);
    world_run(s->world, 5 * USEC_S);
    cr_expect_not(led(s, 1), "what only those two had stored might be lost");
    start_node(s, leader); /* its process had died, no more */
    world_run(s->world, MS(500));
    expect_all_led(s, "with two whole copies");
    cr_expect_geq(replica_commit(world_copy(world_host(s->world, record(s, 1)->leader), 1)->r),
                  s->oracle[1].furthest);
    end(s);
}

/* Of four, two whole copies are a part of each majority; a doubtful one's promise makes three. */
Test(control, an_even_set_needs_fewer_logs_than_promises) {
    struct story *s = tell(4, 22);
    create(s, "orders", 1, 4);
    publish_all(s);
    world_run(s->world, MS(100));
    unsigned leader = leader_node(s), other = leader % 4 + 1;
    kill_node(s, leader, true);
    power_off(s, other, 1);
    start_node(s, other);
    world_run(s->world, MS(500));
    expect_all_led(s, "by two whole copies and one promise more");
    end(s);
}

Test(control, without_a_majority_of_whole_copies_the_longest_log_leads) {
    struct story *s = three_with_messages(23);
    unsigned leader = leader_node(s);
    power_off(s, 1, 1);
    power_off(s, 2, 1);
    power_off(s, 3, 1);
    memset(s->oracle, 0, sizeof s->oracle); /* the last message of each is lost */
    start_node(s, leader);
    start_node(s, leader % 3 + 1);
    world_run(s->world, USEC_S);
    cr_expect_not(led(s, 1), "the third may have more");
    world_run(s->world, 3 * USEC_S);
    expect_all_led(s, "and is not waited for long");
    start_node(s, (leader + 1) % 3 + 1);
    world_run(s->world, 2 * USEC_S);
    for (unsigned n = 1; n <= 3; n++)
        cr_expect_not(replica_damaged(world_copy(world_host(s->world, shard_of(n, 0)), 1)->r));
    end(s);
}

Test(control, all_back_after_a_power_failure_of_all_lead_at_once) {
    struct story *s = three_with_messages(24);
    for (unsigned n = 1; n <= 3; n++)
        power_off(s, n, 0);
    for (unsigned n = 1; n <= 3; n++)
        start_node(s, n);
    world_run(s->world, MS(500));
    expect_all_led(s, "everybody has answered");
    end(s);
}

/* ---- disks that are replaced ---- */

static unsigned node_of(const struct story *s, member_t m) {
    const struct metadata_node *n = metadata_node_of(s->m, m, NULL);
    return n ? n->id : 0;
}

/* Three replicas on four nodes; node 0 of `out` leads, the others follow, the last
 * holds nothing. One follower's node stays away, so a fourth copy is being made on
 * the last; it never has all: nothing of its leader's reaches it. */
static struct story *copying(uint64_t seed, unsigned out[4]) {
    struct story *s = tell(4, seed);
    create(s, "orders", 1, 3);
    unsigned count = 1;
    bool holds[5] = {false};
    out[0] = node_of(s, record(s, 1)->leader);
    for (unsigned i = 0; i < 3; i++) {
        unsigned n = node_of(s, record(s, 1)->current.members[i]);
        holds[n] = true;
        if (n != out[0])
            out[count++] = n;
    }
    for (unsigned n = 1; n <= 4; n++)
        if (!holds[n])
            out[3] = n;
    for (int i = 0; i < 5; i++)
        publish_all(s);
    world_run(s->world, MS(50));
    world_cut(s->world, member_on(s, out[0], 0), member_on(s, out[3], 0), true);
    kill_node(s, out[1], true);
    world_run(s->world, 10 * USEC_S);
    cr_assert_eq(record(s, 1)->learners.count, 1, "a fourth copy is being made");
    start_node(s, out[1]);
    world_run(s->world, MS(100));
    cr_assert_eq(record(s, 1)->learners.count, 1);
    return s;
}

/* Nobody says that a member died whose disk was replaced within the failure timeout. */
Test(control, a_leader_whose_disk_is_replaced_while_a_copy_is_made_is_followed_at_once) {
    unsigned n[4];
    struct story *s = copying(21, n);
    uint64_t epoch = record(s, 1)->epoch;
    wipe_node(s, n[0]);
    world_run(s->world, MS(200));
    cr_expect_gt(record(s, 1)->epoch, epoch);
    expect_all_led(s, "from a copy that is left");
    cr_expect(record(s, 1)->wait_lease, "who had that disk may still deliver");
    world_run(s->world, 20 * USEC_S);
    expect_all_led(s, "in the end");
    cr_expect_eq(record(s, 1)->current.count, 3);
    for (uint32_t i = 0; i < record(s, 1)->current.count; i++)
        cr_expect_neq(node_of(s, record(s, 1)->current.members[i]), 0, "nobody's disk is waited for");
    end(s);
}

Test(control, a_copy_whose_disk_is_replaced_while_it_is_made_is_made_anew) {
    unsigned n[4];
    struct story *s = copying(22, n);
    member_t was = member_on(s, n[3], 0);
    wipe_node(s, n[3]);
    world_run(s->world, 20 * USEC_S);
    expect_all_led(s, "in the end");
    cr_expect_not(replica_set_has(&record(s, 1)->learners, was));
    cr_expect_eq(record(s, 1)->learners.count, 0, "nobody's disk is waited for");
    end(s);
}

Test(control, all_that_a_replaced_disk_led_and_held_moves_whatever_is_under_way) {
    for (usec_t after = 0; after < MS(40); after += 700) {
        struct story *s = tell(4, 23);
        create_many(s, 12);
        publish_all(s);
        kill_node(s, 4, true);
        world_run(s->world, MS(GRACE_MS) + after); /* copies are under way */
        start_node(s, 4);
        wipe_node(s, 2);
        world_run(s->world, MS(500));
        expect_all_led(s, "after the disk of node 2 was replaced");
        world_run(s->world, 30 * USEC_S);
        expect_all_led(s, "in the end");
        for (uint64_t p = 1; p <= 12; p++) {
            cr_expect_eq(record(s, p)->current.count, 3);
            for (uint32_t i = 0; i < record(s, p)->current.count; i++)
                cr_expect_neq(node_of(s, record(s, p)->current.members[i]), 0, "partition %lu, %lld us", p,
                              (long long)after);
        }
        end(s);
    }
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

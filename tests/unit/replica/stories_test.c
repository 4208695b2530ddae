// SPDX-License-Identifier: Apache-2.0
/* The rules of appending, committing, sealing and leading, told as stories. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static const struct replica_options synced = {.synced = true};

static struct harness *three(void) {
    struct harness *h = harness_new(3, &synced);
    first_epoch(h, SET(1, 2, 3));
    return h;
}

/* Everything committed by one is committed by all. */
static void all_agree(struct harness *h) {
    for (size_t i = 0; i < h->count; i++)
        if (h->nodes[i].alive) {
            cr_assert_eq(h->nodes[i].machine.applied, h->committed, "node %zu", i + 1);
            cr_assert_eq(h->nodes[i].machine.digest, h->committed_digest[h->committed]);
        }
}

Test(replica, one_of_one_commits_with_its_own_sync) {
    struct harness *h = harness_new(1, &synced);
    first_epoch(h, SET(1));
    cr_assert_eq(commit_of(h, 1), 1);
    node_of(h, 1)->manual_sync = true;
    cr_assert_eq(propose(h, 1, "a"), ERR_OK);
    settle(h);
    cr_assert_eq(commit_of(h, 1), 1, "nothing is committed before the sync");
    sync_node(h, 1);
    cr_assert_eq(commit_of(h, 1), 2);
    cr_assert_eq(replica_lease_until(node_of(h, 1)->r, h->now), USEC_NEVER);
    harness_free(h);
}

Test(replica, three_commit_what_two_store) {
    struct harness *h = three();
    isolate(h, 3, true);
    propose(h, 1, "a");
    propose(h, 1, "b");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 3);
    cr_assert_eq(last_of(h, 3), 1);
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_eq(h->committed, 3);
    harness_free(h);
}

Test(replica, nothing_of_an_epoch_is_sent_before_its_record_is_synced) {
    struct harness *h = harness_new(3, &synced);
    struct replica_record record = {.version = 1, .epoch = 1, .leader = 1, .current = SET(1, 2, 3)};
    node_of(h, 1)->manual_sync = true;
    tell_record(h, 1, &record);
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(h->messages_count, 0);
    cr_assert_eq(last_of(h, 2), 0);
    sync_node(h, 1);
    settle(h);
    cr_assert_eq(commit_of(h, 1), 2);
    harness_free(h);
}

Test(replica, data_is_sent_in_parallel_with_the_leaders_sync) {
    struct harness *h = three();
    node_of(h, 1)->manual_sync = true;
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 2, "two followers are a majority without the leader's disk");
    harness_free(h);
}

Test(replica, a_follower_answers_only_after_its_sync) {
    struct harness *h = three();
    isolate(h, 3, true);
    node_of(h, 2)->manual_sync = true;
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 1);
    sync_node(h, 2);
    settle(h);
    cr_assert_eq(commit_of(h, 1), 2);
    harness_free(h);
}

Test(replica, idle_partitions_send_nothing) {
    struct harness *h = three();
    propose(h, 1, "a");
    pass(h, USEC_S);
    all_agree(h);
    for (size_t i = 0; i < 3; i++)
        h->nodes[i].seen[REPLICA_SEND_APPEND] = 0;
    pass(h, 60 * USEC_S);
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_SEND_APPEND], 0);
    cr_assert_eq(replica_deadline(node_of(h, 1)->r), USEC_NEVER);
    harness_free(h);
}

Test(replica, proposals_in_flight_are_pipelined) {
    struct harness *h = three();
    isolate(h, 3, true);
    for (int i = 0; i < 5; i++) {
        propose(h, 1, "x");
        pump(h, 1);
    }
    cr_assert_eq(h->messages_count, 5, "five appends are out before the first answer");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 6);
    harness_free(h);
}

Test(replica, appends_that_arrive_in_any_order_or_twice_do_no_harm) {
    struct harness *h = three();
    isolate(h, 3, true);
    for (int i = 0; i < 4; i++) {
        propose(h, 1, "x");
        pump(h, 1);
    }
    deliver(h, 2, true);
    deliver(h, 3, false);
    deliver(h, 0, true);
    pass(h, 3 * USEC_S);
    cr_assert_eq(commit_of(h, 1), 5);
    cr_assert_eq(commit_of(h, 2), 5);
    harness_free(h);
}

/* A frame that ends before the follower's log does says nothing about the rest. */
Test(replica, a_stale_append_does_not_truncate) {
    struct harness *h = three();
    isolate(h, 3, true);
    propose(h, 1, "a");
    pump(h, 1);
    size_t i = find_message(h, REPLICA_SEND_APPEND, 1, 2);
    deliver(h, i, true); /* a copy stays in flight */
    propose(h, 1, "b");
    pump(h, 1);
    deliver(h, h->messages_count - 1, false);
    cr_assert_eq(last_of(h, 2), 3);
    deliver(h, find_message(h, REPLICA_SEND_APPEND, 1, 2), false);
    cr_assert_eq(last_of(h, 2), 3);
    harness_free(h);
}

/* 2 has a tail that the new leader's append says nothing about. */
Test(replica, verified_is_not_the_last_index) {
    struct harness *h = three();
    isolate(h, 3, true);
    h->cut[1][0] = true; /* 1 feeds 2 and hears nothing */
    propose(h, 1, "a");
    propose(h, 1, "b");
    settle(h);
    cr_assert_eq(last_of(h, 2), 3);
    struct node *n = node_of(h, 2);
    struct replica_effects fx = {0};
    struct replica_append m = {.from = 3, .to = 2, .epoch = 2, .prev_index = 1, .prev_epoch = 1, .commit = 3};
    replica_on_append(n->r, &m, h->now, &fx);
    cr_assert_eq(fx.count, 1);
    cr_assert_eq(fx.items[0].type, REPLICA_PROMISE);
    replica_effects_clear(&fx);
    replica_stored(n->r, replica_mark(n->r), true, h->now, &fx);
    cr_assert_eq(fx.count, 1);
    cr_assert_eq(fx.items[0].appended.verified, 1);
    cr_assert_eq(commit_of(h, 2), 1);
    cr_assert_eq(last_of(h, 2), 3);
    replica_effects_free(&fx);
    harness_free(h);
}

Test(replica, a_conflicting_tail_is_cut_and_its_hint_skips_an_epoch) {
    struct harness *h = three();
    struct replica_record record = node_of(h, 1)->record;
    isolate(h, 1, true);
    for (int i = 0; i < 6; i++)
        propose(h, 1, "lost");
    settle(h);
    cr_assert_eq(last_of(h, 1), 7);
    crash(h, 1, 99);
    cr_assert(reseal(h, &record, SET(2, 3)));
    propose(h, record.leader, "kept");
    settle(h);
    restart(h, 1);
    isolate(h, 1, false);
    tell_record(h, 1, &record);
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_eq(h->committed, 3);
    cr_assert_eq(last_of(h, 1), 3);
    cr_assert_gt(node_of(h, 1)->seen[REPLICA_TRUNCATE], 0);
    harness_free(h);
}

/* Figure 8 of the Raft paper: an entry of an older epoch on a majority is not
 * committed by counting, only together with an entry of the leader's own. */
Test(replica, figure_eight) {
    struct harness *h = harness_new(5, &synced);
    struct replica_record record = first_epoch(h, SET(1, 2, 3, 4, 5));
    char *big = xcalloc(1, REPLICA_APPEND_BYTES_MAX + 1); /* goes alone in its append */
    memset(big, 'a', REPLICA_APPEND_BYTES_MAX);
    isolate(h, 3, true), isolate(h, 4, true), isolate(h, 5, true);
    h->cut[1][0] = true;
    propose(h, 1, big); /* stored by 1 and 2 */
    settle(h);
    crash(h, 1, 99), crash(h, 2, 99);
    for (member_t m = 3; m <= 5; m++)
        isolate(h, m, false);
    isolate(h, 3, true), isolate(h, 4, true);
    cr_assert(reseal(h, &record, SET(5))); /* 5 leads (3 and 4 promised too, say) and is heard by nobody */
    propose(h, 5, "b");
    settle(h);
    crash(h, 5, 99);
    restart(h, 1), restart(h, 2);
    isolate(h, 3, false), isolate(h, 2, false);
    isolate(h, 4, true), isolate(h, 5, true);
    h->cut[0][2] = true;
    cr_assert(reseal(h, &record, SET(1, 2, 3)));
    cr_assert_eq(record.leader, 1);
    h->cut[0][2] = false;
    pass(h, 1);
    struct replica_effects fx = {0};
    replica_peer_up(node_of(h, 1)->r, 3, h->now, &fx);
    while (replica_match(node_of(h, 1)->r, 3) < 2) { /* 3 has the old entry, not yet the new record */
        if (replica_dirty(node_of(h, 1)->r))
            pump(h, 1);
        read_node(h, 1); /* it restarted: the entry is on its disk only */
        size_t i = find_message(h, REPLICA_SEND_APPENDED, 3, 1);
        deliver(h, i != SIZE_MAX ? i : find_message(h, REPLICA_SEND_APPEND, 1, 3), false);
        sync_node(h, 3);
    }
    cr_assert_eq(replica_match(node_of(h, 1)->r, 2), 3);
    cr_assert_eq(replica_match(node_of(h, 1)->r, 3), 2);
    cr_assert_eq(commit_of(h, 1), 0, "three of five have it, and it is not committed");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 3);
    free(big);
    harness_free(h);
}

Test(replica, a_seal_stops_the_leader_and_the_longest_log_leads) {
    struct harness *h = three();
    struct replica_record record = node_of(h, 1)->record;
    isolate(h, 3, true);
    propose(h, 1, "a");
    settle(h);
    isolate(h, 3, false);
    cr_assert(reseal(h, &record, SET(2, 3)));
    cr_assert_eq(record.leader, 2);
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_STOPPED], 1);
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_eq(h->committed, 3);
    harness_free(h);
}

Test(replica, a_seal_is_answered_after_the_sync_of_everything_before) {
    struct harness *h = three();
    node_of(h, 1)->manual_sync = true;
    propose(h, 1, "a");
    h->sealed_count = 0;
    seal(h, 1, 5, 0);
    cr_assert_eq(h->sealed_count, 0);
    cr_assert_not(replica_leading(node_of(h, 1)->r), "it stops at once all the same");
    sync_node(h, 1);
    cr_assert_eq(h->sealed_count, 1);
    cr_assert(h->sealed[0].granted && h->sealed[0].was_leading);
    cr_assert_eq(h->sealed[0].last_index, 2);
    seal(h, 1, 5, 0); /* asked again: the answer was lost */
    cr_assert_eq(h->sealed_count, 2);
    cr_assert(h->sealed[1].granted && h->sealed[1].was_leading);
    harness_free(h);
}

Test(replica, a_lower_seal_is_refused_with_the_promise_given) {
    struct harness *h = three();
    seal(h, 2, 7, 0);
    settle(h);
    h->sealed_count = 0;
    seal(h, 2, 6, 0);
    cr_assert_eq(h->sealed_count, 1);
    cr_assert_not(h->sealed[0].granted);
    cr_assert_eq(h->sealed[0].promise, 7);
    harness_free(h);
}

Test(replica, a_promise_survives_a_crash) {
    struct harness *h = three();
    seal(h, 2, 7, 0);
    settle(h);
    crash(h, 2, 0);
    restart(h, 2);
    cr_assert_eq(replica_promise(node_of(h, 2)->r), 7);
    harness_free(h);
}

/* One follower promised higher: the leader says so and goes on with the other. */
Test(replica, a_healthy_leader_goes_on_below_a_higher_promise_and_reports_it) {
    struct harness *h = three();
    seal(h, 2, 7, 0);
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(commit_of(h, 1), 2);
    cr_assert_eq(node_of(h, 1)->superseded, 7);
    harness_free(h);
}

/* The asker may be gone, and nobody else know of the seal. */
Test(replica, a_leader_that_gave_way_reports_it_when_no_successor_is_named) {
    struct harness *h = three();
    seal(h, 1, 7, 0);
    settle(h);
    cr_assert_not(replica_leading(node_of(h, 1)->r));
    pass(h, REPLICA_RETRY_US / 2);
    cr_assert_eq(node_of(h, 1)->superseded, 0, "the record of the next epoch comes mostly at once");
    pass(h, REPLICA_RETRY_US);
    cr_assert_eq(node_of(h, 1)->superseded, 7);
    harness_free(h);
}

Test(replica, a_truncated_promise_is_not_lost) {
    struct harness *h = three();
    struct replica_record record = node_of(h, 1)->record;
    isolate(h, 1, true);
    propose(h, 1, "lost");
    settle(h);
    cr_assert(reseal(h, &record, SET(2, 3)));
    isolate(h, 1, false);
    node_of(h, 1)->manual_sync = true;
    pass(h, 3 * USEC_S); /* 1 cuts "lost" and takes the new epoch's record, unsynced */
    struct node *n = node_of(h, 1);
    for (size_t i = n->synced; i < n->count; i++)
        if (n->journal[i].type == R_TRUNCATE) {
            crash(h, 1, i - n->synced + 1);
            restart(h, 1);
            cr_assert_eq(replica_promise(n->r), record.epoch);
            harness_free(h);
            return;
        }
    cr_assert_fail("nothing was cut");
}

Test(replica, a_leader_that_restarts_does_not_lead_its_epoch_again) {
    for (size_t r = 1; r <= 3; r += 2) {
        struct harness *h = harness_new(r, &synced);
        struct replica_record record = first_epoch(h, r == 1 ? SET(1) : SET(1, 2, 3));
        crash(h, 1, 0);
        restart(h, 1);
        tell_record(h, 1, &record);
        cr_assert_not(replica_leading(node_of(h, 1)->r));
        cr_assert_eq(node_of(h, 1)->seen[REPLICA_REPORT_CANNOT], 1);
        cr_assert(reseal(h, &record, record.current));
        cr_assert_gt(commit_of(h, record.leader), 1);
        harness_free(h);
    }
}

Test(replica, it_leads_only_if_its_log_ends_where_the_record_says) {
    struct harness *h = three();
    propose(h, 1, "a");
    settle(h);
    struct replica_record record = node_of(h, 1)->record;
    record.version = 2, record.epoch = 2, record.leader = 2, record.last_epoch = 1, record.last_index = 1;
    tell_record(h, 2, &record);
    cr_assert_not(replica_leading(node_of(h, 2)->r));
    cr_assert_eq(node_of(h, 2)->seen[REPLICA_REPORT_CANNOT], 1);
    pass(h, 5 * USEC_S);
    cr_assert_geq(node_of(h, 2)->seen[REPLICA_REPORT_CANNOT], 4, "said again until a newer record");
    harness_free(h);
}

Test(replica, an_older_record_is_ignored) {
    struct harness *h = three();
    struct replica_record record = node_of(h, 1)->record, old = record;
    cr_assert(reseal(h, &record, SET(2, 3)));
    old.version = 1;
    tell_record(h, 2, &old);
    cr_assert(replica_leading(node_of(h, record.leader)->r));
    harness_free(h);
}

/* {1} to {2}: both sets store; then 1 leads without counting itself. */
Test(replica, a_set_of_one_moves_to_another_of_one) {
    struct harness *h = harness_new(2, &synced);
    struct replica_record record = first_epoch(h, SET(1));
    propose(h, 1, "a");
    record.version++;
    record.learners = SET(2);
    tell_record(h, 1, &record);
    settle(h);
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_REPORT_CAUGHT_UP], 1);
    record.activating = true;
    record.previous = SET(1), record.current = SET(2), record.learners = (struct replica_set){0};
    node_of(h, 2)->manual_sync = true;
    cr_assert(reseal(h, &record, SET(1)));
    uint64_t before = commit_of(h, 1);
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_REPORT_ACTIVATED], 0);
    propose(h, 1, "b");
    settle(h);
    cr_assert_eq(commit_of(h, 1), before, "a majority of one set is not enough");
    node_of(h, 2)->manual_sync = false;
    settle(h);
    cr_assert_eq(commit_of(h, 1), last_of(h, 1));
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_REPORT_ACTIVATED], 1);
    pass(h, 3 * USEC_S);
    cr_assert_geq(node_of(h, 1)->seen[REPLICA_REPORT_ACTIVATED], 3, "said until the record is active");
    record.version++;
    record.activating = false;
    record.previous = (struct replica_set){0};
    tell_record(h, 1, &record);
    node_of(h, 2)->manual_sync = true;
    before = commit_of(h, 1);
    propose(h, 1, "c");
    settle(h);
    cr_assert_eq(commit_of(h, 1), before, "1 is not of the set: it does not count itself");
    node_of(h, 2)->manual_sync = false;
    settle(h);
    cr_assert_eq(commit_of(h, 1), before + 1);
    harness_free(h);
}

Test(replica, learners_never_count) {
    struct harness *h = harness_new(4, &synced);
    struct replica_record record = first_epoch(h, SET(1, 2, 3));
    record.version++;
    record.learners = SET(4);
    tell_record(h, 1, &record);
    settle(h);
    isolate(h, 2, true), isolate(h, 3, true);
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(last_of(h, 4), 2);
    cr_assert_eq(commit_of(h, 1), 1);
    harness_free(h);
}

Test(replica, the_lease_is_a_majoritys_and_counts_from_sending) {
    struct harness *h = three();
    struct node *n = node_of(h, 1);
    propose(h, 1, "a");
    settle(h);
    usec_t until = replica_lease_until(n->r, h->now);
    cr_assert_gt(until, h->now);
    cr_assert_leq(until, h->now + REPLICA_LEASE_US);
    h->now += REPLICA_LEASE_US;
    cr_assert_eq(replica_lease_until(n->r, h->now), 0);
    replica_confirm(n->r, 2, h->now - 1000);
    cr_assert_eq(replica_lease_until(n->r, h->now), h->now - 1000 + REPLICA_LEASE_US);
    harness_free(h);
}

Test(replica, a_new_leader_waits_for_the_lease_of_one_that_did_not_answer) {
    struct harness *h = three();
    struct replica_record record = node_of(h, 1)->record;
    isolate(h, 1, true);
    node_of(h, 1)->deaf = true;
    record.wait_lease = true;
    cr_assert(reseal(h, &record, SET(2, 3)));
    struct node *n = node_of(h, record.leader);
    cr_assert_eq(replica_lease_until(n->r, h->now), 0);
    pass(h, REPLICA_LEASE_US);
    propose(h, record.leader, "a");
    settle(h);
    cr_assert_gt(replica_lease_until(n->r, h->now), h->now);
    cr_assert_gt(replica_lease_until(node_of(h, 1)->r, 0), 0, "the cut-off one counts by its own clock");
    cr_assert_eq(replica_lease_until(node_of(h, 1)->r, h->now), 0, "and that has run out");
    harness_free(h);
}

/* Durability written: data counts when written, promises and epochs when synced. */
Test(replica, written_counts_data_before_the_sync_and_epochs_only_after) {
    struct harness *h = harness_new(1, &(struct replica_options){.synced = false});
    struct replica_record record = {.version = 1, .epoch = 1, .leader = 1, .current = SET(1)};
    struct node *n = node_of(h, 1);
    struct replica_effects fx = {0};
    n->manual_sync = true;
    tell_record(h, 1, &record);
    replica_stored(n->r, replica_mark(n->r), false, h->now, &fx);
    cr_assert_eq(commit_of(h, 1), 0);
    sync_node(h, 1);
    cr_assert_eq(commit_of(h, 1), 1);
    propose(h, 1, "a");
    replica_stored(n->r, replica_mark(n->r), false, h->now, &fx);
    cr_assert_eq(commit_of(h, 1), 2);
    replica_effects_free(&fx);
    harness_free(h);
}

Test(replica, after_a_restart_committed_entries_are_fetched_and_applied) {
    struct harness *h = three();
    for (int i = 0; i < 10; i++)
        propose(h, 1, "x");
    pass(h, USEC_S);
    crash(h, 2, 0);
    restart(h, 2);
    cr_assert_eq(node_of(h, 2)->machine.applied, 0);
    propose(h, 1, "y");
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_gt(node_of(h, 2)->seen[REPLICA_FETCH], 0);
    harness_free(h);
}

Test(replica, a_lagging_peer_is_served_from_the_journal_when_the_cache_is_small) {
    struct harness *h = harness_new(3, &(struct replica_options){.synced = true, .cache_bytes = 1});
    first_epoch(h, SET(1, 2, 3));
    isolate(h, 3, true);
    for (int i = 0; i < 20; i++) {
        propose(h, 1, "x");
        settle(h);
    }
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_gt(node_of(h, 1)->seen[REPLICA_FETCH], 4);
    harness_free(h);
}

/* ---- the metadata group ---- */

static const struct replica_options elected = {.synced = true, .config_in_log = true};

/* Each begins with the same voters; an election gives a record without sets. */
static struct harness *group(struct replica_set voters) {
    struct harness *h = harness_new(4, &elected);
    struct replica_record record = {.version = 1, .epoch = 1, .leader = 1};
    tell_record(h, 1, &record);
    struct body *config = replica_config_encode(&voters);
    struct replica_effects fx = {0};
    uint64_t index;
    cr_assert_eq(replica_propose(node_of(h, 1)->r, ENTRY_CONFIG, config, h->now, &index, &fx), ERR_OK);
    body_drop(config);
    /* carried out by hand: the harness proposes batches only */
    for (size_t i = 0; i < fx.count; i++)
        cr_assert_eq(fx.items[i].type, REPLICA_WRITE);
    struct node *n = node_of(h, 1);
    struct record r = {.type = R_WRITE, .entry = fx.items[0].entry, .mark = replica_mark(n->r)};
    body_keep(r.entry.body);
    xgrow(&n->journal, &n->capacity, n->count + 1, sizeof r);
    n->journal[n->count++] = r;
    xgrow(&n->disk.entries, &n->disk.capacity, n->disk.count + 1, sizeof r.entry);
    n->disk.entries[n->disk.count++] = r.entry;
    body_keep(r.entry.body);
    replica_effects_free(&fx);
    settle(h);
    pass(h, USEC_S);
    return h;
}

Test(replica, voters_follow_the_log_and_are_found_again_after_a_restart) {
    struct replica_set voters = SET(1, 2, 3);
    struct harness *h = group(voters);
    cr_assert_eq(commit_of(h, 3), 2);
    cr_assert(replica_set_equal(replica_voters(node_of(h, 2)->r), &voters));
    crash(h, 2, 0);
    restart(h, 2);
    cr_assert(replica_set_equal(replica_voters(node_of(h, 2)->r), &voters));
    cr_assert_eq(replica_config_index(node_of(h, 2)->r), 2);
    checkpoint(h, 3);
    settle(h);
    crash(h, 3, 0);
    restart(h, 3);
    cr_assert(replica_set_equal(replica_voters(node_of(h, 3)->r), &voters));
    harness_free(h);
}

Test(replica, one_candidate_an_epoch) {
    struct harness *h = group(SET(1, 2, 3));
    seal(h, 2, 5, 2);
    settle(h);
    h->sealed_count = 0;
    seal(h, 2, 5, 3);
    cr_assert_not(h->sealed[0].granted);
    seal(h, 2, 5, 2);
    cr_assert(h->sealed[1].granted, "the same candidate is granted again");
    crash(h, 2, 0);
    restart(h, 2);
    seal(h, 2, 5, 3);
    cr_assert_not(h->sealed[2].granted, "also after a restart");
    harness_free(h);
}

// SPDX-License-Identifier: Apache-2.0
/* Checkpoints on their way to a peer, damaged copies, and reads from the journal. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static const struct replica_options small = {.synced = true, .cache_bytes = 1};

static void all_agree(struct harness *h) {
    for (size_t i = 0; i < h->count; i++)
        if (h->nodes[i].alive) {
            cr_assert_eq(h->nodes[i].machine.applied, h->committed, "node %zu", i + 1);
            cr_assert_eq(h->nodes[i].machine.digest, h->committed_digest[h->committed]);
        }
}

static void propose_some(struct harness *h, member_t leader, int count) {
    for (int i = 0; i < count; i++) {
        char text[16] = {'x', (char)('a' + i % 26)};
        cr_assert_eq(propose(h, leader, text), ERR_OK);
        settle(h);
    }
}

/* Three nodes; 3 is cut off while the others commit, and the leader sums its log
 * up, so that 3 needs a checkpoint. */
static struct harness *left_behind(void) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 3);
    pass(h, USEC_S);
    isolate(h, 3, true);
    propose_some(h, 1, 12);
    checkpoint(h, 1);
    settle(h);
    cr_assert_eq(replica_base(node_of(h, 1)->r), 16);
    return h;
}

Test(transfer, a_peer_behind_the_first_index_gets_a_checkpoint) {
    struct harness *h = left_behind();
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    all_agree(h);
    cr_assert_eq(node_of(h, 3)->seen[REPLICA_INSTALLED], 1);
    cr_assert_eq(node_of(h, 3)->seen[REPLICA_STAGE], LIVE_ENTRIES);
    cr_assert_eq(replica_base(node_of(h, 3)->r), 16);
    propose_some(h, 1, 2);
    pass(h, USEC_S);
    all_agree(h);
    crash(h, 3, 0);
    restart(h, 3);
    cr_assert_eq(node_of(h, 3)->machine.applied, 16);
    pass(h, 3 * USEC_S);
    propose_some(h, 1, 1);
    pass(h, USEC_S);
    all_agree(h);
    harness_free(h);
}

/* The receiver dies after each number of its records: it comes up with its old
 * state or the new one, and is whole in the end. */
Test(transfer, a_crash_at_each_step_leaves_the_old_state_or_the_new) {
    bool old = false, new = false;
    for (size_t keep = 0; keep < 8; keep++) {
        struct harness *h = left_behind();
        struct node *n = node_of(h, 3);
        n->manual_sync = true;
        isolate(h, 3, false);
        pass(h, 1500 * USEC_MS);
        size_t unsynced = n->count - n->synced;
        crash(h, 3, keep < unsynced ? keep : unsynced);
        n->manual_sync = false;
        restart(h, 3);
        uint64_t base = replica_base(n->r);
        cr_assert(base == 0 || base == 16);
        old = old || base == 0;
        new = new || base == 16;
        pass(h, 5 * USEC_S);
        propose_some(h, 1, 1);
        pass(h, USEC_S);
        all_agree(h);
        harness_free(h);
    }
    cr_assert(old && new);
}

Test(transfer, while_it_installs_it_counts_nowhere_and_seals_wait) {
    struct harness *h = left_behind();
    struct node *n = node_of(h, 3);
    isolate(h, 3, false);
    n->manual_sync = true;
    pass(h, 1500 * USEC_MS);
    cr_assert_eq(n->seen[REPLICA_STAGE], LIVE_ENTRIES);
    cr_assert_not(replica_counts(n->r));
    h->sealed_count = 0;
    seal(h, 3, 9, 0);
    cr_assert_eq(h->sealed_count, 0);
    sync_node(h, 3);
    cr_assert_eq(h->sealed_count, 1);
    cr_assert_eq(h->sealed[0].last_index, n->seen[REPLICA_INSTALLED] ? 16u : 4u);
    harness_free(h);
}

Test(transfer, lost_pieces_are_sent_again) {
    struct harness *h = left_behind();
    isolate(h, 3, false);
    struct replica_effects fx = {0};
    replica_peer_up(node_of(h, 1)->r, 3, h->now, &fx);
    replica_effects_free(&fx);
    for (int lost = 0; lost < 6; lost++) {
        for (int steps = 0; steps < 200; steps++) {
            size_t i = find_message(h, REPLICA_SEND_PIECE, 1, 3);
            if (i != SIZE_MAX && h->messages[i].piece.number % 2 == (unsigned)lost % 2) {
                lose(h, i);
                break;
            }
            if (h->messages_count)
                deliver(h, 0, steps % 3 == 0);
            sync_node(h, 3);
            read_node(h, 1);
            pump(h, 1);
        }
        h->now += 2 * REPLICA_RETRY_US;
        tick(h, 1);
    }
    while (h->messages_count)
        lose(h, 0);
    pass(h, 5 * USEC_S);
    all_agree(h);
    harness_free(h);
}

Test(transfer, a_leader_that_changes_in_the_middle_starts_over) {
    struct harness *h = left_behind();
    struct replica_record record = node_of(h, 1)->record;
    node_of(h, 3)->manual_sync = true;
    isolate(h, 3, false);
    pass(h, 1010 * USEC_MS);
    checkpoint(h, 2);
    settle(h);
    crash(h, 1, 99);
    node_of(h, 3)->manual_sync = false;
    cr_assert(reseal(h, &record, SET(2, 3)));
    cr_assert_eq(record.leader, 2);
    pass(h, 5 * USEC_S);
    all_agree(h);
    harness_free(h);
}

/* A batch settled and reclaimed while the transfer runs: a fresh checkpoint. */
Test(transfer, a_batch_that_is_gone_meanwhile_starts_a_fresh_checkpoint) {
    struct harness *h = left_behind();
    node_of(h, 1)->manual_reads = true;
    isolate(h, 3, false);
    pass(h, 1500 * USEC_MS);
    cr_assert_eq(node_of(h, 1)->snapshots_count, 1);
    read_node(h, 1);
    settle(h);
    cr_assert_eq(node_of(h, 1)->fetches_count, 1);
    cr_assert_leq(node_of(h, 1)->fetches[0].from, 16);
    propose_some(h, 1, 8);
    checkpoint(h, 1);
    settle(h);
    node_of(h, 1)->manual_reads = false;
    pass(h, 5 * USEC_S);
    all_agree(h);
    cr_assert_geq(node_of(h, 1)->seen[REPLICA_SNAPSHOT], 2);
    harness_free(h);
}

Test(transfer, an_unreadable_entry_stops_the_leader_and_damages_its_copy) {
    struct harness *h = left_behind();
    struct replica_record record = node_of(h, 1)->record;
    propose_some(h, 1, 3); /* behind the base: 17 .. 19 */
    node_of(h, 1)->unreadable = 18;
    node_of(h, 1)->manual_reads = false;
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    cr_assert(replica_damaged(node_of(h, 1)->r));
    cr_assert_eq(node_of(h, 1)->seen[REPLICA_STOPPED], 1);
    cr_assert_eq(last_of(h, 1), 17);
    node_of(h, 1)->unreadable = 0;
    h->sealed_count = 0;
    seal(h, 1, 5, 0);
    cr_assert(h->sealed[0].damaged && !h->sealed[0].granted);
    cr_assert(reseal(h, &record, SET(2, 3)));
    pass(h, 5 * USEC_S);
    cr_assert_not(replica_damaged(node_of(h, 1)->r));
    all_agree(h);
    harness_free(h);
}

/* The journal lets go of what a checkpoint sums up when it is written; the core hears of
 * it when it is synced. A peer's read in between finds nothing: that is no damage. */
Test(transfer, a_read_behind_a_checkpoint_that_is_not_yet_synced_is_no_damage) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 3);
    pass(h, USEC_S);
    isolate(h, 3, true);
    propose_some(h, 1, 12);
    node_of(h, 1)->manual_sync = true;
    checkpoint(h, 1);
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    cr_assert_gt(node_of(h, 1)->seen[REPLICA_FETCH], 0);
    cr_assert_not(replica_damaged(node_of(h, 1)->r));
    cr_assert(replica_leading(node_of(h, 1)->r));
    node_of(h, 1)->manual_sync = false;
    pass(h, 3 * USEC_S);
    all_agree(h);
    harness_free(h);
}

/* ---- damage found at a start ---- */

static struct harness *damaged(size_t entries) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 9);
    pass(h, USEC_S);
    crash(h, 3, 0);
    damage(h, 3, entries, false);
    isolate(h, 3, true);
    restart(h, 3);
    return h;
}

Test(damage, a_damaged_copy_says_so_and_does_not_promise) {
    struct harness *h = damaged(4);
    h->sealed_count = 0;
    seal(h, 3, 5, 0);
    cr_assert_eq(h->sealed_count, 1);
    cr_assert(h->sealed[0].damaged && !h->sealed[0].granted);
    harness_free(h);
}

Test(damage, the_mark_is_durable_before_a_leader_hears_of_it) {
    struct harness *h = damaged(4);
    node_of(h, 3)->manual_sync = true;
    isolate(h, 3, false);
    pass(h, 3 * USEC_S);
    cr_assert_eq(node_of(h, 3)->seen[REPLICA_SEND_APPENDED], 0);
    crash(h, 3, 99);
    cr_assert(node_of(h, 3)->disk.damaged);
    harness_free(h);
}

/* It is fed, and does not count: with 2 gone nothing commits. When it has all
 * that the leader named after the report, it counts. */
Test(damage, a_damaged_copy_is_mended_and_counts_again) {
    struct harness *h = damaged(4);
    isolate(h, 2, true);
    uint64_t before = commit_of(h, 1);
    propose_some(h, 1, 1);
    node_of(h, 3)->manual_sync = true;
    isolate(h, 3, false);
    struct node *n = node_of(h, 3);
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(commit_of(h, 1), before, "a damaged copy counts for nothing");
        cr_assert(replica_damaged(n->r));
        pass(h, USEC_S);
        if (n->seen[REPLICA_MARK_WHOLE])
            break;
        sync_node(h, 3);
    }
    cr_assert_eq(n->seen[REPLICA_MARK_WHOLE], 1);
    n->manual_sync = false;
    pass(h, 2 * USEC_S);
    cr_assert_not(replica_damaged(n->r));
    cr_assert_eq(n->seen[REPLICA_REPORT_MENDED], 1);
    cr_assert_eq(commit_of(h, 1), before + 1);
    cr_assert_geq(n->seen[REPLICA_REPORT_DAMAGED], 1);
    harness_free(h);
}

/* Nothing is published and nothing asked: the leader must hear of it all the same. */
Test(damage, found_while_the_leader_is_idle_is_mended_too) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 9);
    pass(h, 5 * USEC_S);
    struct node *n = node_of(h, 3);
    find_damage(h, 3, 5);
    cr_assert(replica_damaged(n->r));
    pass(h, 5 * USEC_S);
    cr_assert_not(replica_damaged(n->r));
    cr_assert_eq(n->seen[REPLICA_REPORT_MENDED], 1);
    all_agree(h);
    harness_free(h);
}

/* In the middle of mending the log is short and looks healthy: the mark says
 * that it is not, also after a crash. */
Test(damage, a_crash_in_the_middle_of_mending_leaves_it_damaged) {
    struct harness *h = damaged(4);
    struct node *n = node_of(h, 3);
    isolate(h, 3, false);
    for (int steps = 0; last_of(h, 3) < 6 && steps < 400; steps++) {
        h->now += steps < 3 ? USEC_S : USEC_MS;
        tick(h, 1);
        size_t i = find_message(h, REPLICA_SEND_APPEND, 1, 3);
        if (i != SIZE_MAX)
            deliver(h, i, false);
        sync_node(h, 3);
        i = find_message(h, REPLICA_SEND_APPENDED, 3, 1);
        if (i != SIZE_MAX)
            deliver(h, i, false);
        read_node(h, 1);
    }
    cr_assert_geq(last_of(h, 3), 6);
    cr_assert_lt(last_of(h, 3), 10);
    crash(h, 3, 99);
    cr_assert(n->disk.damaged);
    restart(h, 3);
    cr_assert(replica_damaged(n->r));
    pass(h, 5 * USEC_S);
    cr_assert_not(replica_damaged(n->r));
    all_agree(h);
    harness_free(h);
}

/* An answer to an earlier report heals nothing. */
Test(damage, an_answer_to_an_earlier_report_does_not_mend) {
    struct harness *h = damaged(4);
    struct node *n = node_of(h, 3);
    struct replica_effects fx = {0};
    sync_node(h, 3);
    pass(h, USEC_MS);
    struct replica_append m = {.from = 1,
                               .to = 3,
                               .epoch = 1,
                               .prev_index = 4,
                               .prev_epoch = 1,
                               .damage = (n->starts - 1) << 20 | 1,
                               .mend_to = 4};
    replica_on_append(n->r, &m, h->now, &fx);
    for (size_t i = 0; i < fx.count; i++)
        cr_assert_neq(fx.items[i].type, REPLICA_MARK_WHOLE);
    replica_effects_free(&fx);
    harness_free(h);
}

Test(damage, a_copy_that_lost_its_checkpoint_gets_everything_anew) {
    struct harness *h = harness_new(3, &small);
    struct replica_record record = first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 9);
    pass(h, USEC_S);
    for (member_t m = 1; m <= 3; m++)
        checkpoint(h, m);
    settle(h);
    propose_some(h, 1, 3);
    pass(h, USEC_S);
    struct replica_effects fx = {0};
    cr_assert(reseal(h, &record, SET(1, 2, 3)));
    pass(h, USEC_S);
    struct node *n = node_of(h, record.leader == 3 ? 2 : 3);
    n->unreadable = 5;
    replica_unreadable(n->r, 5, h->now, &fx);
    cr_assert_eq(fx.items[0].type, REPLICA_MARK_DAMAGED);
    cr_assert(fx.items[0].damage.everything);
    replica_effects_free(&fx);
    /* That was dropped: the process died. On the disk it is as bad. */
    crash(h, n->id, 0);
    damage(h, n->id, 0, true);
    n->unreadable = 0;
    restart(h, n->id);
    pass(h, 5 * USEC_S);
    cr_assert_not(replica_damaged(n->r));
    all_agree(h);
    harness_free(h);
}

Test(damage, everything_lost_is_remembered_as_an_empty_checkpoint) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 9);
    pass(h, USEC_S);
    crash(h, 3, 0);
    damage(h, 3, 0, true);
    isolate(h, 3, true);
    restart(h, 3);
    pass(h, USEC_MS);
    cr_assert_eq(node_of(h, 3)->seen[REPLICA_INSTALL], 1);
    crash(h, 3, 0);
    restart(h, 3);
    cr_assert(replica_damaged(node_of(h, 3)->r));
    cr_assert_eq(replica_promise(node_of(h, 3)->r), 1);
    isolate(h, 3, false);
    pass(h, 5 * USEC_S);
    all_agree(h);
    harness_free(h);
}

/* A late checkpoint below what it has answered for must not take that away. */
Test(transfer, a_log_that_has_the_checkpoints_entry_is_not_replaced) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 9);
    pass(h, USEC_S);
    struct node *n = node_of(h, 3);
    struct replica_effects fx = {0};
    struct replica_piece m = {.from = 1, .to = 3, .epoch = 1, .base_index = 5, .base_epoch = 1};
    m.state = body_copy("x", 1);
    replica_on_piece(n->r, &m, h->now, &fx);
    cr_assert_eq(fx.count, 1);
    cr_assert(fx.items[0].pieced.done);
    cr_assert_eq(last_of(h, 3), 10);
    body_drop(m.state);
    replica_effects_free(&fx);
    harness_free(h);
}

/* What a peer said before its disk was damaged proves nothing about what it has now. */
Test(damage, an_answer_from_before_the_damage_is_not_believed) {
    struct harness *h = harness_new(3, &small);
    first_epoch(h, SET(1, 2, 3));
    pass(h, USEC_S);
    isolate(h, 2, true);
    h->cut[2][0] = true;
    propose(h, 1, "a");
    settle(h);
    cr_assert_eq(last_of(h, 3), 2);
    struct node *leader = node_of(h, 1);
    struct replica_effects fx = {0};
    struct replica_appended report = {.from = 3,
                                      .to = 1,
                                      .epoch = 1,
                                      .status = REPLICA_APPEND_MISMATCH,
                                      .verified = 1,
                                      .damaged = true,
                                      .damage = 9 << 20,
                                      .sent_at = h->now};
    struct replica_appended late = {.from = 3,
                                    .to = 1,
                                    .epoch = 1,
                                    .status = REPLICA_APPEND_STORED,
                                    .verified = 2,
                                    .damage = 8 << 20,
                                    .sent_at = h->now};
    replica_on_appended(leader->r, &report, h->now, &fx);
    replica_on_appended(leader->r, &late, h->now, &fx);
    cr_assert_eq(commit_of(h, 1), 1);
    replica_effects_free(&fx);
    harness_free(h);
}

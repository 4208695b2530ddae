// SPDX-License-Identifier: Apache-2.0
/* Durability written: copies that come back under another boot. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static const struct replica_options written = {.synced = false};

static void propose_some(struct harness *h, member_t leader, int count) {
    for (int i = 0; i < count; i++) {
        char text[16] = {'x', (char)('a' + i % 26)};
        cr_assert_eq(propose(h, leader, text), ERR_OK);
        settle(h);
    }
}

/* 1 leads; 2 has stored all of 6 and has only `entries` left; 3 has seen one entry. */
static struct harness *power_lost_by_2(size_t entries) {
    struct harness *h = harness_new(3, &written);
    first_epoch(h, SET(1, 2, 3));
    isolate(h, 3, true);
    propose_some(h, 1, 5);
    pass(h, USEC_S);
    cr_assert_eq(commit_of(h, 1), 6);
    crash(h, 2, 99);
    power_lost(h, 2, entries);
    restart(h, 2);
    cr_assert(replica_doubtful(node_of(h, 2)->r));
    return h;
}

static const struct replica_sealed *answer_of(const struct harness *h, member_t from) {
    for (size_t i = 0; i < h->sealed_count; i++)
        if (h->sealed[i].from == from)
            return &h->sealed[i];
    cr_assert_fail("no answer of %lu", from);
    return NULL;
}

Test(power, the_rule) {
    cr_assert(replica_doubts(true, 7, 8, 1));
    cr_assert(replica_doubts(true, 0, 8, 1), "never known to be whole");
    cr_assert_not(replica_doubts(true, 8, 8, 1), "its process died, no more");
    cr_assert_not(replica_doubts(false, 7, 8, 1), "synced, or nothing to lose");
    cr_assert_not(replica_doubts(true, 7, 0, 1), "nobody knows the boot");
    cr_assert_not(replica_doubts(true, 7, 8, 0), "it has answered for nothing");
}

Test(power, a_doubtful_copy_promises_and_says_so) {
    struct harness *h = power_lost_by_2(3);
    isolate(h, 1, true);
    h->sealed_count = 0;
    seal(h, 2, 5, 0);
    settle(h);
    const struct replica_sealed *a = answer_of(h, 2);
    cr_assert(a->granted && a->doubtful && !a->damaged);
    cr_assert_eq(a->last_index, 3);
    cr_assert_eq(replica_promise(node_of(h, 2)->r), 5);
    harness_free(h);
}

/* With 3 cut off, 1 and 2 are the majority: until 2 has again what it had, nothing commits. */
Test(power, a_doubtful_copy_is_fed_and_counts_again_when_it_has_all) {
    struct harness *h = power_lost_by_2(3);
    struct node *n = node_of(h, 2);
    n->manual_sync = true;
    uint64_t before = commit_of(h, 1);
    propose_some(h, 1, 1);
    pass(h, USEC_S);
    cr_assert_eq(commit_of(h, 1), before, "it counts for nothing");
    sync_node(h, 2);
    pass(h, 3 * USEC_S);
    cr_assert_eq(commit_of(h, 1), before);
    n->manual_sync = false;
    pass(h, 3 * USEC_S);
    cr_assert_not(replica_damaged(n->r));
    cr_assert_not(n->disk.doubtful, "and it is remembered");
    cr_assert_eq(commit_of(h, 1), before + 1);
    cr_assert_eq(n->seen[REPLICA_REPORT_DAMAGED] + n->seen[REPLICA_REPORT_MENDED], 0, "no seal for that");
    harness_free(h);
}

/* What 2 answered for before its power went must not be taken for what it has. */
Test(power, what_it_had_stored_before_does_not_count) {
    struct harness *h = power_lost_by_2(3);
    cr_assert_eq(replica_match(node_of(h, 1)->r, 2), 6, "as it was before");
    cr_assert_eq(last_of(h, 2), 3);
    isolate(h, 2, true);
    pass(h, 3 * USEC_S);
    isolate(h, 2, false);
    pass(h, 3 * USEC_S);
    cr_assert_eq(replica_match(node_of(h, 1)->r, 2), 6);
    cr_assert_eq(last_of(h, 2), 6);
    cr_assert_eq(node_of(h, 2)->seen[REPLICA_MARK_WHOLE], 1);
    harness_free(h);
}

Test(power, a_restart_in_between_leaves_it_doubtful) {
    struct harness *h = power_lost_by_2(3);
    isolate(h, 1, true);
    crash(h, 2, 99);
    restart(h, 2);
    cr_assert(replica_doubtful(node_of(h, 2)->r));
    harness_free(h);
}

/* All three lost their power: the longest log leads, and is whole from then on. */
Test(power, the_longest_of_doubtful_logs_leads_on) {
    struct harness *h = harness_new(3, &written);
    struct replica_record record = first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 5);
    pass(h, USEC_S);
    for (member_t m = 1; m <= 3; m++)
        crash(h, m, 99);
    for (member_t m = 1; m <= 3; m++)
        power_lost(h, m, (size_t)m + 1);
    for (member_t m = 1; m <= 3; m++)
        restart(h, m);
    h->committed = 4; /* the rest is lost */
    cr_assert(reseal(h, &record, record.current));
    cr_assert_eq(record.leader, 3);
    pass(h, 3 * USEC_S);
    for (member_t m = 1; m <= 3; m++) {
        cr_assert_not(replica_damaged(node_of(h, m)->r), "member %lu", m);
        cr_assert_not(node_of(h, m)->disk.doubtful);
        cr_assert_eq(commit_of(h, m), 5);
    }
    propose_some(h, 3, 2);
    cr_assert_eq(h->committed, 7);
    harness_free(h);
}

/* 2 and 3 went on from less than was committed; 1 had applied it and comes back: it
 * forgets everything, its applied state too, and is fed anew. */
Test(power, a_copy_that_knows_of_lost_commits_starts_over) {
    struct harness *h = harness_new(3, &written);
    struct replica_record record = first_epoch(h, SET(1, 2, 3));
    propose_some(h, 1, 5);
    pass(h, USEC_S);
    cr_assert_eq(node_of(h, 1)->machine.applied, 6);
    isolate(h, 1, true);
    node_of(h, 1)->deaf = true;
    for (member_t m = 2; m <= 3; m++) {
        crash(h, m, 99);
        power_lost(h, m, 3);
        restart(h, m);
    }
    h->committed = 3;
    cr_assert(reseal(h, &record, SET(2, 3)));
    propose_some(h, record.leader, 4);
    pass(h, 3 * USEC_S);
    cr_assert_eq(h->committed, 8);
    cr_assert(replica_leading(node_of(h, 1)->r), "it has not heard of it");
    isolate(h, 1, false);
    pass(h, 5 * USEC_S);
    struct node *n = node_of(h, 1);
    cr_assert_eq(n->seen[REPLICA_MARK_DAMAGED], 1);
    cr_assert_eq(n->seen[REPLICA_STOPPED], 1);
    cr_assert_not(replica_damaged(n->r));
    cr_assert_eq(n->machine.applied, 8);
    cr_assert_eq(n->machine.digest, h->committed_digest[8]);
    harness_free(h);
}

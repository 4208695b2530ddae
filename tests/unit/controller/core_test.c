// SPDX-License-Identifier: Apache-2.0
/* The controller's core by itself: forming, voters, requests, records. */
#include <criterion/criterion.h>
#include <string.h>

#include "world.h"

static struct command mailbox(const char *name) {
    struct command c = {.type = COMMAND_MAILBOX_CREATE};
    strcpy(c.mailbox_create.name, name);
    settings_default(&c.mailbox_create.settings);
    c.mailbox_create.settings.replicas = 1;
    return c;
}

static bool votes(const struct host *h, const struct host *who) {
    return replica_set_has(replica_voters(h->core.replica), who->core.self);
}

/* ---- forming ---- */

Test(controller_core, forms_when_the_last_node_answers_however_late) {
    struct world *w = world_new(3);
    for (int i = 0; i < 2; i++) {
        world_start(w, i);
        world_shard(w, i, 1001 + (member_t)i);
    }
    world_run(w, 5 * USEC_S);
    cr_expect(!world_formed(&w->hosts[0]), "one node of three is missing");
    world_start(w, 2);
    world_run(w, USEC_S);
    cr_expect(!world_formed(&w->hosts[0]), "its shard is not known: it has not introduced itself");
    world_shard(w, 2, 1003);
    world_run(w, 2 * USEC_S);
    for (int i = 0; i < 3; i++) {
        cr_expect(world_formed(&w->hosts[i]), "n%d", i + 1);
        cr_expect_eq(metadata_cluster_id(w->hosts[i].core.metadata),
                     metadata_cluster_id(w->hosts[0].core.metadata));
        cr_expect(votes(&w->hosts[0], &w->hosts[i]), "n%d votes", i + 1);
    }
    world_free(w);
}

/* A folder of another cluster is not empty: nobody forms one with it. */
static void not_with(bool empty, uint64_t cluster_id) {
    struct world *w = world_new(2);
    for (int i = 0; i < 2; i++)
        world_start(w, i);
    world_shard(w, 0, 1001);
    struct core *c = &w->hosts[0].core;
    struct introduction in = {.empty = empty,
                              .cluster_id = cluster_id,
                              .node = {.name = "n2", .controller = w->hosts[1].core.self, .shards_count = 1}};
    in.node.shards[0] = 1002;
    controllers_on_introduction(c, controllers_named(c, "n2"), &in);
    world_run(w, 3 * USEC_S);
    cr_expect(!world_formed(&w->hosts[0]));
    cr_expect(c->empty, "its own folder stays as it was");
    in.empty = true;
    in.cluster_id = 0;
    controllers_on_introduction(c, controllers_named(c, "n2"), &in);
    world_run(w, USEC_S);
    cr_expect(world_formed(&w->hosts[0]), "and with an empty one it does");
    world_free(w);
}

Test(controller_core, does_not_form_with_a_folder_of_another_cluster) {
    not_with(true, 77);
}

Test(controller_core, does_not_form_with_a_folder_that_is_not_empty) {
    not_with(false, 0);
}

Test(controller_core, a_shard_with_another_disk_is_made_known) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    cr_assert_not_null(leader);
    int other = (leader->index + 1) % 3;
    world_shard(w, other, 2222);
    world_run(w, USEC_S);
    const struct metadata_node *n = metadata_node_named(leader->core.metadata, w->hosts[other].config.node);
    cr_expect_eq(n->info.shards[0], 2222);
    world_free(w);
}

/* ---- voters ---- */

Test(controller_core, a_voter_that_stays_dead_is_replaced) {
    struct world *w = world_new(4);
    world_form(w);
    struct host *leader = world_leader(w), *spare = NULL, *dead = NULL;
    cr_assert_not_null(leader);
    cr_assert_eq(replica_voters(leader->core.replica)->count, 3);
    for (int i = 0; i < 4; i++) {
        struct host *h = &w->hosts[i];
        if (!votes(leader, h))
            spare = h;
        else if (h != leader)
            dead = h;
    }
    cr_assert(spare && dead);
    member_t was = dead->core.self;
    world_kill(w, dead->index);
    world_run(w, USEC_S);
    cr_expect(!votes(leader, spare), "it may come back");
    world_run(w, 4 * USEC_S);
    cr_expect(votes(leader, spare));
    cr_expect(!replica_set_has(replica_voters(leader->core.replica), was));
    cr_expect_eq(replica_voters(leader->core.replica)->count, 3);
    world_free(w);
}

/* Its shards live on, so its node counts as alive for a while: as a voter it does not. */
Test(controller_core, a_voter_whose_controller_is_gone_is_not_left_to_be_half_of_two) {
    struct world *w = world_new(4);
    world_form(w);
    struct host *leader = world_leader(w), *spare = NULL, *gone = NULL, *leaves = NULL;
    cr_assert_not_null(leader);
    for (int i = 0; i < 4; i++) {
        struct host *h = &w->hosts[i];
        if (!votes(leader, h))
            spare = h;
        else if (h != leader)
            *(gone ? &leaves : &gone) = h;
    }
    cr_assert(spare && gone && leaves);
    world_kill(w, gone->index);
    world_shard(w, gone->index, 1001 + (member_t)gone->index);
    world_run(w, 100 * USEC_MS);
    uint32_t id = metadata_node_named(leader->core.metadata, gone->config.node)->id;
    cr_assert_eq(detector_node(leader->core.detector, id), DETECTOR_UP);
    struct command command = {.type = COMMAND_NODE_STATE, .node_state = {.state = NODE_LEFT}};
    strcpy(command.node_state.name, leaves->config.node);
    world_request(leader, 1, &command, w->now + USEC_S);
    world_run(w, 2 * USEC_S);
    cr_expect_eq(world_leader(w), leader, "it still has a majority");
    cr_expect(votes(leader, spare));
    cr_expect_not(votes(leader, leaves));
    world_free(w);
}

/* ---- requests ---- */

Test(controller_core, a_request_is_passed_on_to_who_leads) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    struct host *asked = &w->hosts[(leader->index + 1) % 3];
    struct command create = mailbox("m");
    world_request(asked, 5, &create, 0);
    world_run(w, USEC_S);
    cr_assert_eq(asked->answers_count, 1);
    cr_expect_eq(asked->answers[0].number, 5);
    cr_expect_eq(asked->answers[0].code, ERR_OK, "%s", asked->answers[0].text);
    cr_expect_eq(asked->passed_on, 1);
    for (int i = 0; i < 3; i++)
        cr_expect_not_null(metadata_mailbox_named(w->hosts[i].core.metadata, "m"), "n%d", i + 1);
    world_free(w);
}

Test(controller_core, a_request_waits_for_a_leader_and_no_longer_than_its_time) {
    struct world *w = world_new(3);
    world_start(w, 0);
    world_shard(w, 0, 1001);
    struct host *h = &w->hosts[0];
    struct command create = mailbox("m");
    world_request(h, 1, &create, USEC_S);
    world_run(w, 900 * USEC_MS);
    cr_expect_eq(h->answers_count, 0);
    world_run(w, 300 * USEC_MS);
    cr_assert_eq(h->answers_count, 1);
    cr_expect_eq(h->answers[0].code, ERR_TIMEOUT);
    cr_expect_not_null(strstr(h->answers[0].text, "not all nodes of `initial`"), "%s", h->answers[0].text);
    world_free(w);
}

Test(controller_core, a_request_whose_time_is_over_is_not_passed_on) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    struct host *asked = &w->hosts[(leader->index + 1) % 3];
    struct command create = mailbox("late");
    asked->passed_on = 0;
    w->cut[leader->index] = true; /* what is passed on gets lost */
    world_request(asked, 1, &create, 100 * USEC_MS);
    cr_expect_eq(asked->passed_on, 1);
    w->now += USEC_S; /* it stood still */
    requests_link_gone(&asked->core, (uint64_t)leader->index + 1);
    requests_go(&asked->core);
    cr_expect_eq(asked->passed_on, 1);
    world_run(w, 200 * USEC_MS);
    cr_assert_eq(asked->answers_count, 1);
    cr_expect_eq(asked->answers[0].code, ERR_TIMEOUT);
    world_free(w);
}

Test(controller_core, who_does_not_lead_refuses_what_was_passed_on) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    struct host *asked = &w->hosts[(leader->index + 1) % 3];
    struct command create = mailbox("m");
    struct encoder e = {0};
    command_encode(&create, &e);
    struct body *body = encoder_body(&e);
    requests_change(&asked->core, FROM_CONTROLLER, (uint64_t)leader->index + 1, 1, body, 0);
    cr_expect_null(asked->core.requests, "answered at once");
    uint64_t index;
    cr_expect_eq(group_propose(&asked->core, body, &index), ERR_NOT_LEADER);
    body_drop(body);
    world_run(w, USEC_S);
    cr_expect_null(metadata_mailbox_named(leader->core.metadata, "m"));
    world_free(w);
}

/* ---- records ---- */

Test(controller_core, a_record_computed_from_one_that_is_not_current_is_refused) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    struct command create = mailbox("m");
    world_request(leader, 1, &create, 0);
    world_run(w, USEC_S);
    const struct metadata_partition *p = metadata_partition_next(leader->core.metadata, 0);
    cr_assert_not_null(p);
    uint64_t version = p->record.version;
    struct record_change change = {.partition = p->id, .base_version = version + 1, .record = p->record};
    change.record.epoch++;
    struct command records = {.type = COMMAND_RECORDS, .records = {.count = 1, .changes = &change}};
    world_request(leader, 2, &records, 0);
    world_run(w, USEC_S);
    cr_assert_eq(leader->answers_count, 2);
    cr_expect_eq(leader->answers[1].code, ERR_STALE, "%s", leader->answers[1].text);
    p = metadata_partition_next(leader->core.metadata, 0);
    cr_expect_eq(p->record.version, version);
    change.base_version = version;
    world_request(leader, 3, &records, 0);
    world_run(w, USEC_S);
    cr_assert_eq(leader->answers_count, 3);
    cr_expect_eq(leader->answers[2].code, ERR_OK, "from the current one: %s", leader->answers[2].text);
    world_free(w);
}

/* ---- a restart ---- */

Test(controller_core, a_controller_that_starts_again_has_what_was_committed) {
    struct world *w = world_new(3);
    world_form(w);
    struct host *leader = world_leader(w);
    struct host *again = &w->hosts[(leader->index + 1) % 3];
    struct command create = mailbox("m");
    world_request(leader, 1, &create, 0);
    world_run(w, USEC_S);
    world_kill(w, again->index);
    world_start(w, again->index);
    cr_expect(!again->core.empty);
    world_run(w, USEC_S);
    cr_expect_not_null(metadata_mailbox_named(again->core.metadata, "m"));
    cr_expect_eq(again->core.starts, 2);
    world_free(w);
}

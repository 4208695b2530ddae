// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "cluster/metadata.h"
#include "fixture.h"

static const unsigned three[] = {1, 2, 3};

static struct metadata *formed(unsigned nodes) {
    struct metadata *m = metadata_new();
    cr_assert_eq(fixture_form(m, nodes, 2).code, ERR_OK);
    return m;
}

static struct replica_record record_of(const struct metadata *m, uint64_t partition) {
    const struct metadata_partition *p = metadata_partition(m, partition);
    cr_assert_not_null(p);
    return p->record;
}

static enum err change(struct metadata *m, uint64_t partition, uint64_t base, const struct replica_record *r,
                       bool lossy) {
    struct record_change one = {.partition = partition, .base_version = base, .record = *r, .lossy = lossy};
    struct command c = {.type = COMMAND_RECORDS, .records = {.count = 1, .changes = &one}};
    return fixture_apply(m, &c, NULL).code;
}

Test(metadata, forms_once) {
    struct metadata *m = formed(3);
    cr_expect_str_eq(metadata_cluster(m), "demo");
    cr_expect_eq(metadata_cluster_id(m), 77);
    cr_expect_eq(metadata_nodes_count(m), 3);
    cr_expect_eq(fixture_form(m, 3, 2).code, ERR_EXISTS);
    int shard;
    cr_expect_str_eq(metadata_node_of(m, shard_of(2, 1), &shard)->info.name, "n2");
    cr_expect_eq(shard, 1);
    cr_expect_null(metadata_node_of(m, 4242, &shard));
    metadata_free(m);
}

Test(metadata, a_copied_data_folder_is_refused) {
    struct metadata *m = formed(3);
    struct command c = {.type = COMMAND_NODE_SET, .node = fixture_node(4, 2)};
    c.node.shards[1] = shard_of(1, 1);
    cr_expect_eq(fixture_apply(m, &c, NULL).code, ERR_EXISTS);
    metadata_free(m);
}

Test(metadata, creating_a_mailbox_again_is_fine_with_the_same_settings_only) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    struct metadata_result first = fixture_create(m, "orders", NULL, &p, 1);
    cr_assert_eq(first.code, ERR_OK);
    struct metadata_result again = fixture_create(m, "orders", NULL, &p, 1);
    cr_expect_eq(again.code, ERR_OK);
    cr_expect_eq(again.id, first.id);
    struct mailbox_settings other;
    settings_default(&other);
    other.ttl = 5 * USEC_S;
    struct metadata_result refused = fixture_create(m, "orders", &other, &p, 1);
    cr_expect_eq(refused.code, ERR_EXISTS);
    cr_expect_not_null(strstr(refused.text, "ttl"), "%s", refused.text);
    const struct metadata_mailbox *b = metadata_mailbox_named(m, "orders");
    cr_expect_eq(b->subscriptions_count, 1);
    cr_expect_str_eq(b->subscriptions[0].name, "default");
    cr_expect_eq(record_of(m, b->partitions[0]).epoch, 1);
    cr_expect_eq(record_of(m, b->partitions[0]).leader, shard_of(1, 0));
    metadata_free(m);
}

Test(metadata, names_and_limits_are_checked) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    cr_expect_eq(fixture_create(m, "no spaces", NULL, &p, 1).code, ERR_INVALID);
    struct mailbox_settings s;
    settings_default(&s);
    s.replicas = 8;
    cr_expect_eq(fixture_create(m, "many", &s, &p, 1).code, ERR_INVALID);
    p.set.members[1] = 999999; /* nobody's */
    cr_expect_eq(fixture_create(m, "lost", NULL, &p, 1).code, ERR_STALE);
    cr_expect_eq(metadata_mailboxes_count(m), 0);
    cr_expect_eq(metadata_partitions_count(m), 0);
    metadata_free(m);
}

Test(metadata, dead_letters_do_not_go_in_circles) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    struct mailbox_settings s;
    settings_default(&s);
    strcpy(s.dead_letter, "a");
    cr_expect_eq(fixture_create(m, "a", &s, &p, 1).code, ERR_INVALID);
    strcpy(s.dead_letter, "b");
    cr_expect_eq(fixture_create(m, "a", &s, &p, 1).code, ERR_OK, "a target that does not exist yet");
    strcpy(s.dead_letter, "c");
    cr_expect_eq(fixture_create(m, "b", &s, &p, 1).code, ERR_OK);
    strcpy(s.dead_letter, "a");
    cr_expect_eq(fixture_create(m, "c", &s, &p, 1).code, ERR_INVALID, "a -> b -> c -> a");
    cr_expect_eq(fixture_create(m, "c", NULL, &p, 1).code, ERR_OK);
    struct command update = {.type = COMMAND_MAILBOX_UPDATE,
                             .mailbox_update = {.name = "c", .fields = SETTINGS_DEAD_LETTER, .settings = s}};
    cr_expect_eq(fixture_apply(m, &update, NULL).code, ERR_INVALID);
    metadata_free(m);
}

Test(metadata, a_dead_letter_mailbox_that_appears_is_told_to_those_that_name_it) {
    struct metadata *m = formed(3);
    struct placing p[2] = {fixture_placing(3, three), fixture_placing(3, three)};
    struct mailbox_settings s;
    settings_default(&s);
    strcpy(s.dead_letter, "dead");
    fixture_create(m, "orders", &s, p, 1);
    const struct metadata_mailbox *orders = metadata_mailbox_named(m, "orders");
    uint64_t version = record_of(m, orders->partitions[0]).version;
    cr_expect_eq(metadata_dead_letter_partitions(m, orders), 0);
    fixture_create(m, "dead", NULL, p, 2);
    cr_expect_eq(metadata_dead_letter_partitions(m, orders), 2);
    cr_expect_gt(record_of(m, orders->partitions[0]).version, version);
    metadata_free(m);
}

Test(metadata, a_record_computed_from_an_old_one_is_refused) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct replica_record r = record_of(m, 1);
    uint64_t base = r.version;
    r.epoch = 2;
    r.leader = shard_of(2, 0);
    cr_expect_eq(change(m, 1, base, &r, false), ERR_OK);
    r.epoch = 3;
    cr_expect_eq(change(m, 1, base, &r, false), ERR_STALE, "its base is gone");
    r.epoch = 2;
    cr_expect_eq(change(m, 1, base + 1, &r, false), ERR_STALE, "the epoch does not rise");
    r.epoch = 3;
    r.leader = shard_of(1, 1);
    cr_expect_eq(change(m, 1, base + 1, &r, false), ERR_STALE, "the leader is in no set");
    cr_expect_eq(record_of(m, 1).epoch, 2);
    cr_expect_eq(record_of(m, 1).version, base + 1);
    metadata_free(m);
}

/* Section 6: P -> activating(P, S) -> S alone only by the report of that epoch. */
Test(metadata, a_set_changes_through_an_activating_epoch_only) {
    struct metadata *m = formed(4);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct replica_record r = record_of(m, 1), direct = r;
    direct.epoch = 2;
    direct.current.members[2] = shard_of(4, 0);
    cr_expect_eq(change(m, 1, r.version, &direct, false), ERR_STALE, "S without P");
    struct replica_record activating = direct;
    activating.activating = true;
    activating.previous = r.current;
    cr_expect_eq(change(m, 1, r.version, &activating, false), ERR_OK);
    direct.epoch = 3;
    cr_expect_eq(change(m, 1, r.version + 1, &direct, false), ERR_STALE, "S alone without the report");
    cr_expect_eq(metadata_drops_count(m), 0);

    struct command done = {.type = COMMAND_ACTIVATED,
                           .partition = {.partition = 1, .base_version = r.version + 1, .epoch = 1}};
    cr_expect_eq(fixture_apply(m, &done, NULL).code, ERR_STALE, "the report of another epoch");
    done.partition.epoch = 2;
    cr_expect_eq(fixture_apply(m, &done, NULL).code, ERR_OK);
    struct replica_record s = record_of(m, 1);
    cr_expect_not(s.activating);
    cr_expect_eq(s.epoch, 2);
    cr_expect(replica_set_has(&s.current, shard_of(4, 0)));
    cr_assert_eq(metadata_drops_count(m), 1, "who left drops its data");
    cr_expect_eq(metadata_drop_at(m, 0)->member, shard_of(3, 0));
    metadata_free(m);
}

Test(metadata, an_activating_epoch_may_return_to_the_old_set) {
    struct metadata *m = formed(4);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct replica_record r = record_of(m, 1), activating = r, back = r;
    activating.epoch = 2;
    activating.activating = true;
    activating.previous = r.current;
    activating.current.members[2] = shard_of(4, 0);
    cr_assert_eq(change(m, 1, r.version, &activating, false), ERR_OK);
    back.epoch = 3;
    cr_expect_eq(change(m, 1, r.version + 1, &back, false), ERR_OK);
    cr_assert_eq(metadata_drops_count(m), 1);
    cr_expect_eq(metadata_drop_at(m, 0)->member, shard_of(4, 0));
    struct command learn = {.type = COMMAND_LEARNERS,
                            .partition = {.partition = 1,
                                          .base_version = r.version + 2,
                                          .learners = {.count = 1, .members = {shard_of(4, 0)}}}};
    cr_expect_eq(fixture_apply(m, &learn, NULL).code, ERR_BUSY, "not before the old data is dropped");
    struct drop_done done = {.partition = 1, .member = shard_of(4, 0)};
    struct command dropped = {.type = COMMAND_DROPPED, .dropped = {.count = 1, .done = &done}};
    fixture_apply(m, &dropped, NULL);
    cr_expect_eq(fixture_apply(m, &learn, NULL).code, ERR_OK);
    metadata_free(m);
}

Test(metadata, recovering_with_loss_may_take_any_set) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct replica_record r = record_of(m, 1);
    uint64_t base = r.version;
    r.epoch = 5;
    r.current = (struct replica_set){.count = 1, .members = {shard_of(2, 0)}};
    r.leader = shard_of(2, 0);
    cr_expect_eq(change(m, 1, base, &r, false), ERR_STALE);
    cr_expect_eq(change(m, 1, base, &r, true), ERR_OK);
    cr_expect_eq(metadata_drops_count(m), 2);
    metadata_free(m);
}

Test(metadata, a_deleted_mailbox_leaves_drops_and_its_ids_are_never_used_again) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    cr_expect_eq(fixture_delete(m, "orders").code, ERR_OK);
    cr_expect_eq(fixture_delete(m, "orders").code, ERR_NOT_FOUND);
    cr_expect_eq(metadata_partitions_count(m), 0);
    cr_expect_eq(metadata_drops_count(m), 3);
    cr_expect(metadata_drop_at(m, 0)->removed);
    fixture_create(m, "orders", NULL, &p, 1);
    cr_expect_eq(metadata_mailbox_named(m, "orders")->id, 2);
    cr_expect_eq(metadata_mailbox_named(m, "orders")->partitions[0], 2);
    metadata_free(m);
}

Test(metadata, a_crash_counts_once_an_epoch_and_release_forgets) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    for (uint64_t epoch = 1; epoch <= 3; epoch++) {
        struct command c = {.type = COMMAND_CRASHES,
                            .crashes = {.partition = 1, .epoch = epoch, .crashes = 1}};
        cr_expect_not(metadata_quarantined(metadata_partition(m, 1)));
        fixture_apply(m, &c, NULL);
        fixture_apply(m, &c, NULL); /* told twice */
    }
    cr_expect(metadata_quarantined(metadata_partition(m, 1)));
    struct command release = {.type = COMMAND_RELEASE, .mailbox = {.name = "orders"}};
    fixture_apply(m, &release, NULL);
    cr_expect_not(metadata_quarantined(metadata_partition(m, 1)));
    metadata_free(m);
}

Test(metadata, wanted_replicas_are_kept_and_grow_with_the_cluster) {
    struct metadata *m = formed(1);
    struct mailbox_settings s;
    settings_default(&s);
    cr_expect_eq(metadata_replicas(m, &s), 1);
    fixture_node_set(m, 2, 2);
    cr_expect_eq(metadata_replicas(m, &s), 1, "one while there are fewer than three nodes");
    fixture_node_set(m, 3, 2);
    cr_expect_eq(metadata_replicas(m, &s), 3);
    s.replicas = 5;
    cr_expect_eq(metadata_replicas(m, &s), 3);
    metadata_free(m);
}

Test(metadata, a_node_that_holds_replicas_may_not_leave) {
    struct metadata *m = formed(4);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct command leave = {.type = COMMAND_NODE_STATE, .node_state = {.name = "n1", .state = NODE_LEFT}};
    cr_expect_eq(fixture_apply(m, &leave, NULL).code, ERR_UNSAFE);
    strcpy(leave.node_state.name, "n4");
    cr_expect_eq(fixture_apply(m, &leave, NULL).code, ERR_OK);
    cr_expect_null(metadata_node_of(m, shard_of(4, 0), &(int){0}));
    metadata_free(m);
}

/* ---- random commands ---- */

static struct command random_command(struct rng *r, struct metadata *m, struct placing *placing,
                                     struct record_change *change_at) {
    struct command c = {.type = COMMAND_MAILBOX_CREATE};
    char name[16];
    snprintf(name, sizeof name, "m%u", (unsigned)rng_below(r, 12));
    const struct metadata_partition *p = metadata_partition_next(m, rng_below(r, 40));
    switch (rng_below(r, 8)) {
    case 0:
    case 1:
        strcpy(c.mailbox_create.name, name);
        settings_default(&c.mailbox_create.settings);
        snprintf(c.mailbox_create.settings.dead_letter, 16, "m%u", (unsigned)rng_below(r, 12));
        c.mailbox_create.count = 1 + (uint32_t)rng_below(r, 3);
        c.mailbox_create.settings.partitions = c.mailbox_create.count;
        c.mailbox_create.placing = placing;
        break;
    case 2:
        c.type = COMMAND_MAILBOX_DELETE;
        strcpy(c.mailbox.name, name);
        break;
    case 3:
        c.type = rng_below(r, 2) ? COMMAND_SUBSCRIPTION_CREATE : COMMAND_SUBSCRIPTION_DELETE;
        strcpy(c.subscription.mailbox, name);
        snprintf(c.subscription.name, 16, "s%u", (unsigned)rng_below(r, 4));
        break;
    case 4:
        c.type = COMMAND_NODE_SET;
        c.node = fixture_node(1 + (unsigned)rng_below(r, 6), 2);
        break;
    case 5:
        c.type = COMMAND_MAILBOX_UPDATE;
        strcpy(c.mailbox_update.name, name);
        c.mailbox_update.fields = (uint32_t)rng_below(r, 256);
        settings_default(&c.mailbox_update.settings);
        c.mailbox_update.settings.max_messages = rng_below(r, 100);
        break;
    default:
        c.type = COMMAND_RECORDS;
        c.records.changes = change_at;
        c.records.count = p ? 1 : 0;
        if (p) {
            *change_at = (struct record_change){
                .partition = p->id, .base_version = p->record.version - rng_below(r, 2), .record = p->record};
            change_at->record.epoch += rng_below(r, 3);
            change_at->record.leader = p->record.current.members[rng_below(r, p->record.current.count)];
        }
    }
    return c;
}

static void expect_same_bytes(const struct metadata *a, const struct metadata *b, uint64_t seed) {
    struct encoder ea = {0}, eb = {0};
    metadata_encode(a, &ea);
    metadata_encode(b, &eb);
    cr_assert_eq(ea.size, eb.size, "seed %llu", (unsigned long long)seed);
    cr_assert_eq(memcmp(ea.data, eb.data, ea.size), 0, "seed %llu", (unsigned long long)seed);
    encoder_free(&ea);
    encoder_free(&eb);
}

static struct metadata *restored(const struct metadata *m) {
    struct encoder e = {0};
    metadata_encode(m, &e);
    struct decoder d = decoder_of(e.data, e.size);
    struct metadata *copy = metadata_new();
    struct metadata_changes changes = {0};
    cr_assert(metadata_restore(copy, &d, &changes));
    cr_assert(changes.everything);
    metadata_changes_free(&changes);
    encoder_free(&e);
    return copy;
}

/* One machine applies everything; the other is restored from the first one's
 * checkpoint now and then, and goes on from there. */
Test(metadata, equal_commands_make_equal_states_also_over_a_checkpoint) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rng r = {seed};
        struct metadata *a = formed(3), *b = formed(3);
        struct placing placing[3] = {fixture_placing(3, three), fixture_placing(2, three),
                                     fixture_placing(1, three)};
        for (int i = 0; i < 150; i++) {
            struct record_change at;
            struct command c = random_command(&r, a, placing, &at);
            struct metadata_result ra = fixture_apply(a, &c, NULL), rb = fixture_apply(b, &c, NULL);
            cr_assert_eq(ra.code, rb.code);
            cr_assert_str_eq(ra.text, rb.text);
            if (rng_below(&r, 20) == 0) {
                metadata_free(b);
                b = restored(a);
            }
        }
        expect_same_bytes(a, b, seed);
        metadata_free(a);
        metadata_free(b);
    }
}

Test(metadata, a_cut_checkpoint_is_refused_and_leaves_nothing) {
    struct metadata *m = formed(3);
    struct placing p = fixture_placing(3, three);
    fixture_create(m, "orders", NULL, &p, 1);
    struct encoder e = {0};
    metadata_encode(m, &e);
    for (size_t cut = 0; cut < e.size; cut++) {
        struct decoder d = decoder_of(e.data, cut);
        struct metadata_changes changes = {0};
        cr_assert_not(metadata_restore(m, &d, &changes), "cut at %zu", cut);
        cr_assert_eq(metadata_partitions_count(m), 0);
        metadata_changes_free(&changes);
    }
    encoder_free(&e);
    metadata_free(m);
}

Test(metadata, changes_name_what_changed_only) {
    struct metadata *m = formed(3);
    struct placing p[2] = {fixture_placing(3, three), fixture_placing(3, three)};
    fixture_create(m, "orders", NULL, p, 2);
    fixture_create(m, "other", NULL, p, 1);
    struct metadata_changes changes = {0};
    struct command c = {.type = COMMAND_SUBSCRIPTION_CREATE,
                        .subscription = {.mailbox = "orders", .name = "audit", .from = 1}};
    cr_expect_eq(fixture_apply(m, &c, &changes).code, ERR_OK);
    cr_expect_eq(changes.mailboxes_count, 1);
    cr_expect_eq(changes.partitions_count, 2);
    cr_expect_eq(changes.nodes_count, 0);
    metadata_changes_clear(&changes);
    cr_expect_eq(fixture_apply(m, &c, &changes).code, ERR_OK, "again");
    cr_expect_eq(changes.mailboxes_count + changes.partitions_count, 0);
    metadata_changes_free(&changes);
    metadata_free(m);
}

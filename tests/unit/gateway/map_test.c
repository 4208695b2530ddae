// SPDX-License-Identifier: Apache-2.0
#include "gateway/map.h"

#include <criterion/criterion.h>
#include <string.h>

static struct map map;
static char gone[256];

static void removed(void *ctx, struct map_mailbox *box) {
    strcat(gone, box->name);
    strcat(gone, " ");
}

static struct map_mailbox *put(uint64_t id, const char *name, uint32_t partitions) {
    struct mailbox_settings s;
    settings_default(&s);
    s.partitions = partitions;
    return map_mailbox_put(&map, id, name, &s);
}

static bool place(struct map_mailbox *box, uint32_t number, uint64_t epoch, uint64_t leader) {
    uint64_t replicas[] = {11, 12, 13};
    struct map_partition_news news = {box->id * 100 + number, number, leader, epoch, "ok", replicas, 3};
    return map_partition_put(&map, box, &news);
}

Test(map, the_higher_epoch_is_right_whoever_says_it) {
    struct map_mailbox *box = put(1, "orders", 1);
    cr_assert(place(box, 0, 5, 11));
    struct map_partition *p = box->partitions[0];
    cr_assert_not(place(box, 0, 5, 11), "nothing new");
    cr_assert_eq(map_led(&map, 100, 6, 12), p);
    cr_assert_not(place(box, 0, 5, 11), "the map is behind");
    cr_assert_eq(p->leader, 12);
    cr_assert_null(map_led(&map, 100, 5, 11), "a leader of the past");
    cr_assert(place(box, 0, 7, 13));
    cr_assert_eq(p->leader, 13);
    cr_assert_eq(p->replica_count, 3);
    map_free(&map);
}

Test(map, a_leader_that_said_no_more_is_not_asked_in_that_epoch) {
    struct map_mailbox *box = put(1, "orders", 1);
    place(box, 0, 5, 11);
    cr_assert_not(map_not_leading(&map, 100, 12), "it was not the leader");
    cr_assert(map_not_leading(&map, 100, 11));
    cr_assert_eq(box->partitions[0]->leader, 0);
    cr_assert_not(place(box, 0, 5, 11));
    cr_assert_eq(box->partitions[0]->leader, 0);
    cr_assert(place(box, 0, 6, 11));
    cr_assert_eq(box->partitions[0]->leader, 11);
    map_free(&map);
}

Test(map, a_shard_may_lead_before_the_map_names_the_partition) {
    cr_assert_not_null(map_led(&map, 100, 3, 12));
    struct map_mailbox *box = put(1, "orders", 2);
    cr_assert_not(map_mailbox_whole(box));
    cr_assert_not(place(box, 0, 3, 12));
    cr_assert_eq(box->partitions[0]->leader, 12);
    cr_assert(place(box, 1, 1, 11));
    cr_assert(map_mailbox_whole(box));
    map_free(&map);
}

Test(map, a_complete_map_ends_what_it_does_not_name) {
    put(1, "orders", 1);
    put(2, "mails", 1);
    map_begin(&map);
    put(2, "mails", 1);
    gone[0] = 0;
    map_end(&map, removed, NULL);
    cr_assert_str_eq(gone, "orders ");
    cr_assert_null(map_find(&map, "orders"));
    cr_assert_not_null(map_find(&map, "mails"));
    cr_assert(map.known);
    map_free(&map);
}

Test(map, a_mailbox_made_again_under_its_name_is_another) {
    struct map_mailbox *old = put(1, "orders", 1);
    struct map_mailbox *new = put(5, "orders", 3);
    cr_assert_eq(map_find(&map, "orders"), new);
    map_remove(&map, old);
    cr_assert_eq(map_find(&map, "orders"), new);
    cr_assert_null(put(5, "orders", 4), "the number of partitions is fixed");
    cr_assert_null(put(6, "no spaces", 1));
    map_free(&map);
}

Test(map, a_replaced_disk_is_another_member) {
    map_shard_put(&map, 11, "n1", 0, "127.0.0.1:7411", true);
    map_shard_put(&map, 12, "n1", 1, "127.0.0.1:7412", true);
    map_shard_put(&map, 99, "n1", 0, "127.0.0.1:7411", true);
    cr_assert_null(map_find_shard(&map, 11));
    cr_assert_not_null(map_find_shard(&map, 12));
    cr_assert_str_eq(map_find_shard(&map, 99)->address, "127.0.0.1:7411");
    map_free(&map);
}

Test(map, loads_are_told_when_they_change) {
    struct map_mailbox *box = put(1, "orders", 1);
    place(box, 0, 1, 11);
    map_load(&map, 100, 50);
    uint64_t version = box->loads_version;
    map_load(&map, 100, 50);
    cr_assert_eq(box->loads_version, version);
    map_load(&map, 100, 51);
    cr_assert_neq(box->loads_version, version);
    map_load(&map, 12345, 51);
    map_free(&map);
}

Test(map, a_leader_that_stands_still_is_seen_by_its_publishes) {
    struct map_mailbox *box = put(1, "orders", 2);
    place(box, 0, 1, 11);
    place(box, 1, 1, 12);
    map_load(&map, 100, 300);
    map_measure(&map, 100, 2000);
    cr_assert_eq(map_partition_load(box->partitions[0]), 300, "as fast as it says");
    map_measure(&map, 100, 90000);
    uint64_t version = box->loads_version;
    cr_assert_eq(map_partition_load(box->partitions[0]), 90000);
    map_measure(&map, 100, 400);
    cr_assert_eq(map_partition_load(box->partitions[0]), 90000, "one good answer does not make it fast");
    map_cool(&map);
    cr_assert_eq(map_partition_load(box->partitions[0]), 90000, "measured since");
    cr_assert_eq(box->loads_version, version);
    for (int i = 0; i < 28; i++)
        map_cool(&map);
    cr_assert_lt(map_partition_load(box->partitions[0]), 50000);
    cr_assert_neq(box->loads_version, version);
    for (int i = 0; i < 250; i++)
        map_cool(&map);
    cr_assert_eq(map_partition_load(box->partitions[0]), 300, "forgotten");
    cr_assert_eq(map_partition_load(box->partitions[1]), 0);
    cr_assert_null(map.slow);
    map_free(&map);
}

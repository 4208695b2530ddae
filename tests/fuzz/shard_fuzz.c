// SPDX-License-Identifier: Apache-2.0
/* A shard whose gateway, controller or fellow shard sends whatever it likes. It
 * leads one partition and follows in another. */
#include "shard/shard.h"

#include "base/body.h"
#include "base/codec.h"
#include "base/settings.h"
#include "proto/batch.h"
#include "role.h"

enum { GATEWAY, CONTROLLER, PEER, LED = 5, FOLLOWED = 6, MEMBER = 2, OTHER = 3 };

static void begin(struct role *r);

static struct role shard = {
    .name = "shard",
    .main = shard_main,
    .begin = begin,
    .ends_count = 3,
    .ends = {{.role = "gateway", .node = "n1"},
             {.role = "controller", .node = "n1", .member = 9},
             {.role = "shard", .node = "n2", .member = MEMBER, .url = "tcp://127.0.0.1:7411"}},
};

struct records {
    Mr__PartitionRecord led, followed, *list[2];
    Mr__SubscriptionRecord subscription, *subscriptions[1];
    Mr__Set one, three, none;
    uint64_t one_member[1], three_members[3];
    struct encoder settings;
    Mr__Records message;
};

static void record_fill(struct records *r, Mr__PartitionRecord *p, uint64_t id, Mr__Set *set,
                        uint64_t leader) {
    mr__partition_record__init(p);
    p->partition = id;
    p->mailbox = (char *)"orders";
    p->number = (uint32_t)id - LED;
    p->version = 1;
    p->epoch = 1;
    p->leader = leader;
    p->current = set;
    p->previous = &r->none;
    p->learners = &r->none;
    p->settings.data = r->settings.data;
    p->settings.len = r->settings.size;
    p->subscriptions = r->subscriptions;
    p->n_subscriptions = 1;
}

static void records_fill(struct records *r) {
    struct mailbox_settings settings;
    *r = (struct records){.one_member = {ROLE_SELF}, .three_members = {ROLE_SELF, MEMBER, OTHER}};
    settings_default(&settings);
    settings_encode(&settings, &r->settings);
    mr__set__init(&r->one);
    mr__set__init(&r->three);
    mr__set__init(&r->none);
    r->one.members = r->one_member;
    r->one.n_members = 1;
    r->three.members = r->three_members;
    r->three.n_members = 3;
    mr__subscription_record__init(&r->subscription);
    r->subscription.name = (char *)"default";
    r->subscriptions[0] = &r->subscription;
    record_fill(r, &r->led, LED, &r->one, ROLE_SELF);
    record_fill(r, &r->followed, FOLLOWED, &r->three, MEMBER);
    r->list[0] = &r->led;
    r->list[1] = &r->followed;
    mr__records__init(&r->message);
    r->message.term = 1;
    r->message.records = r->list;
    r->message.n_records = 2;
}

static void members_fill(Mr__Members *m, Mr__MemberAddress address[2], Mr__MemberAddress *list[2]) {
    mr__members__init(m);
    for (int i = 0; i < 2; i++) {
        mr__member_address__init(&address[i]);
        address[i].member = i ? MEMBER : ROLE_SELF;
        address[i].node = (char *)(uintptr_t)(i ? "n2" : "n1");
        address[i].address = (char *)(uintptr_t)(i ? "127.0.0.1:7511" : "127.0.0.1:7411");
        address[i].alive = true;
        list[i] = &address[i];
    }
    m->members = list;
    m->n_members = 2;
}

static void begin(struct role *r) {
    Mr__Members members;
    Mr__MemberAddress address[2], *list[2];
    Mr__Lead lead = MR__LEAD__INIT;
    struct records records;
    members_fill(&members, address, list);
    records_fill(&records);
    lead.term = 1;
    role_send(r, CONTROLLER, FRAME_LEAD, &lead.base, NULL, 0);
    role_send(r, CONTROLLER, FRAME_MEMBERS, &members.base, NULL, 0);
    role_send(r, CONTROLLER, FRAME_RECORDS, &records.message.base, NULL, 0);
    encoder_free(&records.settings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    role_input(&shard, data, size);
    return 0;
}

/* ---- seeds ---- */

static void finish(struct encoder *e) {
    fuzz_seed(e->data, e->size);
    encoder_free(e);
}

static void seed_gateway(void) {
    struct encoder e = {0};
    struct batch_builder b = {0};
    struct producer_id id = {{7}};
    Mr__ShardPublish publish = MR__SHARD_PUBLISH__INIT;
    Mr__Attach attach = MR__ATTACH__INIT;
    Mr__Lend lend = MR__LEND__INIT;
    Mr__ShardSettle settle = MR__SHARD_SETTLE__INIT;
    Mr__Detach detach = MR__DETACH__INIT;
    uint8_t consumer[16] = {1};
    ProtobufCBinaryData consumer_id = {sizeof consumer, consumer};
    batch_add(&b, "k", 1, NULL, 0, "text", 4);
    batch_finish(&b, &id, 1, 0, 1000, 0);
    publish.request = 1;
    publish.partition = attach.partition = lend.partition = settle.partition = detach.partition = LED;
    attach.consumer_id = lend.consumer_id = settle.consumer_id = detach.consumer_id = consumer_id;
    attach.subscription = lend.subscription = settle.subscription = detach.subscription = (char *)"default";
    attach.client = (char *)"c";
    attach.credit = lend.more = 5;
    role_put(&e, GATEWAY, FRAME_ATTACH, &attach.base, NULL, 0);
    role_put(&e, GATEWAY, FRAME_SHARD_PUBLISH, &publish.base, b.data, b.size);
    role_put(&e, GATEWAY, FRAME_LEND, &lend.base, NULL, 0);
    role_put(&e, GATEWAY, FRAME_SHARD_SETTLE, &settle.base, NULL, 0);
    role_put(&e, GATEWAY, FRAME_DETACH, &detach.base, NULL, 0);
    finish(&e);
    Mr__ShowPartition show = MR__SHOW_PARTITION__INIT;
    Mr__PurgePartition purge = MR__PURGE_PARTITION__INIT;
    show.partition = purge.partition = LED;
    role_put(&e, GATEWAY, FRAME_SHOW_PARTITION, &show.base, NULL, 0);
    role_put(&e, GATEWAY, FRAME_PURGE_PARTITION, &purge.base, NULL, 0);
    finish(&e);
    batch_builder_free(&b);
}

static void seed_controller(void) {
    struct encoder e = {0};
    struct records r;
    Mr__Seal one = MR__SEAL__INIT, *list = &one;
    Mr__Seals seals = MR__SEALS__INIT;
    Mr__Hold hold = MR__HOLD__INIT;
    Mr__DropReplica drop = MR__DROP_REPLICA__INIT;
    records_fill(&r);
    r.led.epoch = r.led.version = 2;
    one.partition = hold.partition = LED;
    one.to = ROLE_SELF;
    one.epoch = 2;
    seals.seals = &list;
    seals.n_seals = 1;
    hold.target = MEMBER;
    hold.at_most_us = 50000;
    drop.partition = FOLLOWED;
    drop.epoch = 2;
    role_put(&e, CONTROLLER, FRAME_HOLD, &hold.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_SEALS, &seals.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_RECORDS, &r.message.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_DROP_REPLICA, &drop.base, NULL, 0);
    finish(&e);
    encoder_free(&r.settings);
}

static void seed_peer(void) {
    struct encoder e = {0};
    Mr__Append one = MR__APPEND__INIT, *list = &one;
    Mr__Appends appends = MR__APPENDS__INIT;
    Mr__Piece piece = MR__PIECE__INIT;
    Mr__Confirm confirm = MR__CONFIRM__INIT;
    one.partition = piece.partition = FOLLOWED;
    one.from = piece.from = MEMBER;
    one.to = piece.to = ROLE_SELF;
    one.epoch = piece.epoch = 1;
    appends.appends = &list;
    appends.n_appends = 1;
    role_put(&e, PEER, FRAME_APPENDS, &appends.base, NULL, 0);
    role_put(&e, PEER, FRAME_CONFIRM, &confirm.base, NULL, 0);
    role_put(&e, PEER, FRAME_PIECE, &piece.base, "state", 5);
    finish(&e);
}

void fuzz_seeds(void) {
    seed_gateway();
    seed_controller();
    seed_peer();
}

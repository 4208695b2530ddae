// SPDX-License-Identifier: Apache-2.0
/* A controller, leading a cluster of its own node alone, whose gateway (with
 * requests of clients), shard or fellow controller sends whatever it likes. */
#include "controller/controller.h"

#include "base/codec.h"
#include "base/settings.h"
#include "role.h"

enum { GATEWAY, CONTROLLER, SHARD, SHARD_MEMBER = 2, OTHER = 3 };

static struct role controller = {
    .name = "controller",
    .main = controller_main,
    .asks = true,
    .ends_count = 3,
    .ends = {{.role = "gateway", .node = "n1"},
             {.role = "controller", .node = "n2", .member = OTHER, .url = "tcp://127.0.0.1:7410"},
             {.role = "shard", .node = "n1", .member = SHARD_MEMBER, .listens = true}},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    role_input(&controller, data, size);
    return 0;
}

/* ---- seeds ---- */

static void finish(struct encoder *e) {
    fuzz_seed(e->data, e->size);
    encoder_free(e);
}

static void request(struct encoder *e, Mr__Request *m) {
    static uint64_t number;
    m->request = ++number;
    m->deadline_us = 100000;
    role_put(e, GATEWAY, FRAME_REQUEST, &m->base, NULL, 0);
}

static void request_named(struct encoder *e, Mr__Request__WhatCase what) {
    Mr__Request m = MR__REQUEST__INIT;
    Mr__MailboxName name = MR__MAILBOX_NAME__INIT;
    name.name = (char *)"orders";
    m.what_case = what;
    m.mailbox_show = &name; /* all of these share their place */
    request(e, &m);
}

static void seed_requests(void) {
    struct encoder e = {0};
    Mr__Request m = MR__REQUEST__INIT;
    Mr__MailboxCreate create = MR__MAILBOX_CREATE__INIT;
    Mr__Settings settings = MR__SETTINGS__INIT;
    Mr__SubscriptionCreate subscription = MR__SUBSCRIPTION_CREATE__INIT;
    Mr__MailboxRecover recover = MR__MAILBOX_RECOVER__INIT;
    Mr__Empty nothing = MR__EMPTY__INIT;
    settings.partitions = 2;
    settings.replicas = 3;
    settings.ack_timeout_us = 30000000;
    create.name = subscription.mailbox = recover.name = (char *)"orders";
    create.settings = &settings;
    m.what_case = MR__REQUEST__WHAT_MAILBOX_CREATE;
    m.mailbox_create = &create;
    request(&e, &m);
    subscription.name = (char *)"audit";
    m.what_case = MR__REQUEST__WHAT_SUBSCRIPTION_CREATE;
    m.subscription_create = &subscription;
    request(&e, &m);
    request_named(&e, MR__REQUEST__WHAT_MAILBOX_SHOW);
    request_named(&e, MR__REQUEST__WHAT_SUBSCRIPTION_LIST);
    m.what_case = MR__REQUEST__WHAT_CLUSTER_STATUS;
    m.cluster_status = &nothing;
    request(&e, &m);
    finish(&e);
    recover.node = (char *)"n1";
    m.what_case = MR__REQUEST__WHAT_MAILBOX_RECOVER;
    m.mailbox_recover = &recover;
    request(&e, &m);
    request_named(&e, MR__REQUEST__WHAT_MAILBOX_PURGE);
    request_named(&e, MR__REQUEST__WHAT_MAILBOX_DELETE);
    finish(&e);
}

static void seed_shard(void) {
    struct encoder e = {0};
    Mr__Sealed sealed = MR__SEALED__INIT, *sealed_list = &sealed;
    Mr__Sealeds sealeds = MR__SEALEDS__INIT;
    Mr__Report report = MR__REPORT__INIT, *report_list = &report;
    Mr__Reports reports = MR__REPORTS__INIT;
    Mr__ShardLoad load = MR__SHARD_LOAD__INIT;
    sealed.partition = report.partition = 1;
    sealed.from = report.from = SHARD_MEMBER;
    sealed.epoch = report.epoch = 1;
    sealed.granted = true;
    sealeds.sealeds = &sealed_list;
    sealeds.n_sealeds = 1;
    reports.reports = &report_list;
    reports.n_reports = 1;
    role_put(&e, SHARD, FRAME_SEALEDS, &sealeds.base, NULL, 0);
    role_put(&e, SHARD, FRAME_REPORTS, &reports.base, NULL, 0);
    role_put(&e, SHARD, FRAME_SHARD_LOAD, &load.base, NULL, 0);
    finish(&e);
}

static void seed_controller(void) {
    struct encoder e = {0};
    Mr__Heartbeat heartbeat = MR__HEARTBEAT__INIT;
    Mr__PreVote pre_vote = MR__PRE_VOTE__INIT;
    Mr__Vote vote = MR__VOTE__INIT;
    Mr__Voted voted = MR__VOTED__INIT;
    Mr__TimeoutNow now = MR__TIMEOUT_NOW__INIT;
    Mr__Propose propose = MR__PROPOSE__INIT;
    Mr__Introduce introduce = MR__INTRODUCE__INIT;
    Mr__Appends appends = MR__APPENDS__INIT;
    Mr__Append one = MR__APPEND__INIT, *list = &one;
    one.from = OTHER;
    one.to = ROLE_SELF;
    one.epoch = 1;
    appends.appends = &list;
    appends.n_appends = 1;
    role_put(&e, CONTROLLER, FRAME_HEARTBEAT, &heartbeat.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_INTRODUCE, &introduce.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_PROPOSE, &propose.base, "command", 7);
    finish(&e);
    role_put(&e, CONTROLLER, FRAME_PRE_VOTE, &pre_vote.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_VOTE, &vote.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_VOTED, &voted.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_TIMEOUT_NOW, &now.base, NULL, 0);
    role_put(&e, CONTROLLER, FRAME_APPENDS, &appends.base, NULL, 0);
    finish(&e);
}

void fuzz_seeds(void) {
    seed_requests();
    seed_shard();
    seed_controller();
}

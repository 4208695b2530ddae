// SPDX-License-Identifier: Apache-2.0
/*
 * The process as the core's host: opens its journal, passes the journal's
 * completions into the loop, and carries out what the core calls for.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "controller/controller_private.h"

enum { SEGMENT_BYTES = 16 << 20 };

/* ---- the journal's thread ---- */

static void on_synced_thread(void *ctx, uint64_t ticket) {
    struct controller *c = ctx;
    __atomic_store_n(&c->synced_ticket, ticket, __ATOMIC_RELEASE);
    if (!__atomic_exchange_n(&c->synced_posted, 1, __ATOMIC_ACQ_REL))
        loop_post(c->loop, &c->synced_event);
}

static void on_synced(struct loop_event *event) {
    struct controller *c = (struct controller *)((char *)event - offsetof(struct controller, synced_event));
    __atomic_store_n(&c->synced_posted, 0, __ATOMIC_RELEASE);
    counters_add(COUNTER_journal_syncs, 1);
    group_synced(&c->core, __atomic_load_n(&c->synced_ticket, __ATOMIC_ACQUIRE));
}

/* ---- what the core calls for ---- */

static usec_t now(void *host) {
    struct controller *c = host;
    return loop_now(c->loop);
}

static void replica_effect(void *host, const struct replica_effect *e) {
    struct controller *c = host;
    if (e->type == REPLICA_APPLY && e->entry.type == ENTRY_COMMAND)
        counters_add(COUNTER_metadata_commits, 1);
    else
        group_send(c, e);
}

static void election_effect(void *host, const struct election_effect *e) {
    struct controller *c = host;
    if (e->type == ELECTION_STANDS)
        counters_add(COUNTER_elections, 1);
    else
        group_send_election(c, e);
}

static void beat(void *host, const struct beat *b) {
    links_heartbeat(host, b);
}

static void changed(void *host, const struct metadata_changes *changes) {
    status_map_changed(host, changes);
}

static void judged(void *host, const struct detector_change *change) {
    struct controller *c = host;
    (void)change;
    c->map_changed = true;
}

static void say(void *host, enum log_level level, const char *text) {
    (void)host;
    log_write(level, "%s", text);
}

static void dial(void *host, struct peer *p) {
    links_dial(host, p);
}

static void hang_up(void *host, struct peer *p) {
    links_stop_dialling(host, p);
}

static void introduce(void *host, struct peer *p, const struct introduction *own) {
    introductions_send(host, p, own);
}

static void dial_shard(void *host, struct shard_peer *s, const char *address) {
    char url[NODE_ADDRESS_BYTES_MAX + 32];
    snprintf(url, sizeof url, "tcp://%s", address);
    shard_links_dial(host, s, url);
}

static void close_shard(void *host, struct shard_peer *s) {
    shard_links_close(host, s);
}

static void order(void *host, struct shard_peer *s, const struct shard_order *o) {
    shard_orders_send(host, s, o);
}

static uint64_t pass_on(void *host, struct peer *p, const struct request *r, usec_t deadline) {
    return admin_pass_on(host, p, r, deadline);
}

static void answer(void *host, const struct request *r, enum err code, const char *text) {
    admin_answer(host, r, code, text);
}

static const struct core_host calls = {.now = now,
                                       .say = say,
                                       .replica_effect = replica_effect,
                                       .election_effect = election_effect,
                                       .beat = beat,
                                       .changed = changed,
                                       .judged = judged,
                                       .dial = dial,
                                       .hang_up = hang_up,
                                       .introduce = introduce,
                                       .dial_shard = dial_shard,
                                       .close_shard = close_shard,
                                       .order = order,
                                       .pass_on = pass_on,
                                       .answer = answer};

/* ---- life ---- */

static uint64_t draw(void) {
    uint64_t random;
    CHECK(getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random);
    return random;
}

bool host_open(struct controller *c, struct err_detail *detail) {
    char folder[CONFIG_PATH_BYTES_MAX + 32];
    struct journal_recovered recovered;
    struct journal *journal;
    snprintf(folder, sizeof folder, "%s/controller", c->config->data);
    c->synced_event.fire = on_synced;
    enum err err = journal_open(&(struct journal_options){.folder = folder,
                                                          .segment_bytes = SEGMENT_BYTES,
                                                          .batch_type = UINT8_MAX,
                                                          .random = draw() | 1,
                                                          .completed = on_synced_thread,
                                                          .ctx = c},
                                &journal, &recovered, detail);
    if (err != ERR_OK)
        return false;
    core_open(&c->core, &(struct core_options){.config = c->config,
                                               .journal = journal,
                                               .self = recovered.identity,
                                               .starts = recovered.start,
                                               .checkpoint_entries = CONTROLLER_CHECKPOINT_ENTRIES,
                                               .election_seed = draw(),
                                               .control_seed = draw(),
                                               .host = &calls,
                                               .host_context = c});
    return true;
}

void host_close(struct controller *c) {
    journal_flush(c->core.journal);
    journal_close(c->core.journal);
    CORE_PEERS_EACH(&c->core, p)
    free(p->user);
    core_close(&c->core);
}

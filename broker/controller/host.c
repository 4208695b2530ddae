// SPDX-License-Identifier: Apache-2.0
/*
 * The process as the core's host: opens its journal, passes the journal's
 * completions into the loop, and carries out what the core calls for.
 */
#include <stdio.h>
#include <string.h>
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

static void peers_down(void *host) {
    struct controller *c = host;
    PEERS_EACH(c, p)
    if (p->member && !p->link)
        replica_peer_down(c->core.replica, p->member, loop_now(c->loop), &c->core.replica_effects);
}

static void changed(void *host, const struct metadata_changes *changes) {
    struct controller *c = host;
    if (changes->everything || changes->nodes_count) {
        peers_refresh(c);
        shards_refresh(c);
    }
    shards_changed(c, changes);
    status_map_changed(c, changes);
}

static void applied(void *host, uint64_t index, const struct metadata_result *result) {
    requests_applied(host, index, result);
}

static void leads(void *host) {
    struct controller *c = host;
    c->formed_proposed = false;
    shards_lead(c);
}

static void led(void *host) {
    requests_go(host);
    forming_check(host);
}

static void leads_no_more(void *host) {
    requests_lost(host);
}

static void order(void *host, const struct control_effect *e) {
    if (e->type == CONTROL_SEND_SEAL)
        shards_seal(host, e->member, e->partition, &e->seal);
    else if (e->type == CONTROL_SEND_RECORD)
        shards_record(host, e->member, e->partition);
    else if (e->type == CONTROL_SEND_HOLD)
        shards_hold(host, e->member, e->partition, e->hold.target, e->hold.at_most);
    else if (e->type == CONTROL_SEND_DROP)
        shards_drop(host, e->member, e->partition, e->drop.epoch, e->drop.removed);
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

static const struct core_host calls = {.now = now,
                                       .replica_effect = replica_effect,
                                       .election_effect = election_effect,
                                       .peers_down = peers_down,
                                       .changed = changed,
                                       .applied = applied,
                                       .leads = leads,
                                       .led = led,
                                       .leads_no_more = leads_no_more,
                                       .order = order,
                                       .judged = judged,
                                       .say = say};

/* ---- life ---- */

static uint64_t draw(void) {
    uint64_t random;
    CHECK(getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random);
    return random;
}

static bool founder(const struct config *config) {
    const char *lowest = config->initial_count ? config->initial[0].name : "";
    for (size_t i = 1; i < config->initial_count; i++)
        if (strcmp(config->initial[i].name, lowest) < 0)
            lowest = config->initial[i].name;
    return strcmp(lowest, config->node) == 0;
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
    group_open(&c->core, &(struct core_options){.journal = journal,
                                                .self = recovered.identity,
                                                .starts = recovered.start,
                                                .founder = founder(c->config),
                                                .failure_timeout = c->config->timeout,
                                                .heartbeat = c->config->heartbeat,
                                                .rebuild_grace = c->config->rebuild_grace,
                                                .replace_after = c->config->replace_after,
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
    group_close(&c->core);
}

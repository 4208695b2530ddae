// SPDX-License-Identifier: Apache-2.0
/*
 * Links to all shards of the cluster: own ones by ipc (announced by the
 * supervisor), others by tcp at the port behind their controller's. Every
 * controller keeps them, so that whoever leads next can seal at once; only the
 * leading one seals. The own shards get the map of members and their records
 * from here whoever leads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"
#include "wire/hello.h"

struct shard_peer *shards_member(struct controller *c, member_t m) {
    SHARDS_EACH(c, s)
    if (m && s->member == m)
        return s;
    return NULL;
}

static struct shard_peer *find(struct controller *c, uint32_t node, unsigned index, bool own) {
    SHARDS_EACH(c, s)
    if (s->index == index && (own ? s->own : s->node == node && !s->own))
        return s;
    return NULL;
}

static struct shard_peer *add(struct controller *c, unsigned index, bool own) {
    struct shard_peer *s = xcalloc(1, sizeof *s);
    *s = (struct shard_peer){.controller = c, .index = index, .own = own, .next = c->shards};
    c->shards = s;
    return s;
}

bool shards_own_known(struct controller *c) {
    unsigned known = 0;
    SHARDS_EACH(c, s)
    known += s->own && s->member;
    return known == c->config->shards;
}

/* ---- records ---- */

static ProtobufCBinaryData settings_bytes(const struct mailbox_settings *settings) {
    struct encoder e = {0};
    settings_encode(settings, &e);
    return (ProtobufCBinaryData){e.size, e.data};
}

static Mr__Set *set_of(const struct replica_set *set) {
    Mr__Set *m = xmalloc(sizeof *m);
    mr__set__init(m);
    m->n_members = set->count;
    m->members = xcalloc(set->count, sizeof *m->members);
    for (uint32_t i = 0; i < set->count; i++)
        m->members[i] = set->members[i];
    return m;
}

static void add_subscriptions(Mr__PartitionRecord *m, const struct metadata_mailbox *b) {
    m->subscriptions = xcalloc(b->subscriptions_count, sizeof *m->subscriptions);
    for (uint32_t i = 0; i < b->subscriptions_count; i++) {
        Mr__SubscriptionRecord *s = xmalloc(sizeof *s);
        mr__subscription_record__init(s);
        s->name = b->subscriptions[i].name;
        s->from = b->subscriptions[i].from;
        s->value = b->subscriptions[i].value;
        m->subscriptions[m->n_subscriptions++] = s;
    }
}

static void fill_record(const struct replica_record *r, Mr__PartitionRecord *m) {
    m->version = r->version;
    m->epoch = r->epoch;
    m->leader = r->leader;
    m->activating = r->activating;
    m->current = set_of(&r->current);
    m->previous = set_of(&r->previous);
    m->learners = set_of(&r->learners);
    m->last_epoch = r->last_epoch;
    m->last_index = r->last_index;
    m->wait_lease = r->wait_lease;
}

static Mr__PartitionRecord *record_of(struct controller *c, uint64_t partition) {
    const struct metadata_partition *p = metadata_partition(c->core.metadata, partition);
    const struct metadata_mailbox *b = p ? metadata_mailbox(c->core.metadata, p->mailbox) : NULL;
    Mr__PartitionRecord *m = xmalloc(sizeof *m);
    mr__partition_record__init(m);
    m->partition = partition;
    m->removed = !b;
    if (!b)
        return m;
    m->mailbox = (char *)(uintptr_t)b->name;
    m->mailbox_id = b->id;
    m->number = p->number;
    m->crashes = p->crashes;
    m->dead_letter_partitions = metadata_dead_letter_partitions(c->core.metadata, b);
    m->settings = settings_bytes(&b->settings);
    fill_record(&p->record, m);
    add_subscriptions(m, b);
    return m;
}

static void free_set(Mr__Set *set) {
    if (set)
        free(set->members);
    free(set);
}

static void free_record(Mr__PartitionRecord *m) {
    for (size_t i = 0; i < m->n_subscriptions; i++)
        free(m->subscriptions[i]);
    free(m->subscriptions);
    free(m->settings.data);
    free_set(m->current);
    free_set(m->previous);
    free_set(m->learners);
    free(m);
}

static void send_records(struct shard_peer *s, const uint64_t *partitions, size_t count, bool complete) {
    struct controller *c = s->controller;
    Mr__Records m = MR__RECORDS__INIT;
    m.term = c->core.leads ? replica_epoch(c->core.replica) : 0;
    m.complete = complete;
    m.records = xcalloc(count, sizeof *m.records);
    for (size_t i = 0; i < count; i++)
        m.records[m.n_records++] = record_of(c, partitions[i]);
    link_send(s->link, FRAME_RECORDS, &m.base, NULL, 0);
    for (size_t i = 0; i < m.n_records; i++)
        free_record(m.records[i]);
    free(m.records);
}

static void send_in_frames(struct shard_peer *s, const uint64_t *partitions, size_t count, bool complete) {
    size_t at = 0;
    do {
        size_t n = count - at < CONTROLLER_RECORDS_A_FRAME ? count - at : CONTROLLER_RECORDS_A_FRAME;
        send_records(s, partitions + at, n, complete && at + n == count);
        at += n;
    } while (at < count);
}

static bool concerns(const struct controller *c, const struct shard_peer *s,
                     const struct metadata_partition *p) {
    return metadata_holds(&p->record, s->member) || metadata_drop_find(c->core.metadata, p->id, s->member);
}

/* Everything this shard holds, or is to drop because its mailbox is gone. */
static void send_everything(struct shard_peer *s) {
    struct controller *c = s->controller;
    uint64_t *list = NULL;
    size_t count = 0, capacity = 0;
    const struct metadata_partition *p = NULL;
    while ((p = metadata_partition_next(c->core.metadata, p ? p->id : 0))) {
        if (!concerns(c, s, p))
            continue;
        xgrow(&list, &capacity, count + 1, sizeof *list);
        list[count++] = p->id;
    }
    send_in_frames(s, list, count, s->own);
    free(list);
}

void shards_record(struct controller *c, member_t to, uint64_t partition) {
    struct shard_peer *s = shards_member(c, to);
    if (!s || !s->link)
        return;
    for (size_t i = 0; i < s->records_count; i++)
        if (s->records[i] == partition)
            return;
    xgrow(&s->records, &s->records_capacity, s->records_count + 1, sizeof *s->records);
    s->records[s->records_count++] = partition;
}

/* ---- members ---- */

bool shards_address(const struct metadata_node *n, uint32_t index, char *out, size_t size) {
    const char *colon = strrchr(n->info.cluster_address, ':');
    if (!colon)
        return false;
    snprintf(out, size, "%.*s:%d", (int)(colon - n->info.cluster_address), n->info.cluster_address,
             atoi(colon + 1) + 1 + (int)index);
    return true;
}

static void add_member(Mr__Members *m, const struct metadata_node *n, uint32_t index, bool alive) {
    char address[NODE_ADDRESS_BYTES_MAX + 16];
    if (!shards_address(n, index, address, sizeof address))
        return;
    Mr__MemberAddress *a = xmalloc(sizeof *a);
    mr__member_address__init(a);
    a->member = n->info.shards[index];
    a->node = (char *)(uintptr_t)n->info.name;
    a->index = index;
    a->address = xstrdup(address);
    a->alive = alive;
    m->members[m->n_members++] = a;
}

static void send_members(struct shard_peer *s) {
    struct controller *c = s->controller;
    Mr__Members m = MR__MEMBERS__INIT;
    m.members = xcalloc(metadata_nodes_count(c->core.metadata) * NODE_SHARDS_MAX, sizeof *m.members);
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++) {
        const struct metadata_node *n = metadata_node_at(c->core.metadata, i);
        for (uint32_t k = 0; n->state != NODE_LEFT && k < n->info.shards_count; k++)
            add_member(&m, n, k, detector_node(c->core.detector, n->id) == DETECTOR_UP);
    }
    link_send(s->link, FRAME_MEMBERS, &m.base, NULL, 0);
    for (size_t i = 0; i < m.n_members; i++) {
        free(m.members[i]->address);
        free(m.members[i]);
    }
    free(m.members);
}

/* ---- what changed, to own shards ---- */

void shards_changed(struct controller *c, const struct metadata_changes *changes) {
    SHARDS_EACH(c, s) {
        if (!s->own || !s->link || !s->member)
            continue;
        if (changes->everything || changes->nodes_count)
            send_members(s);
        if (changes->everything) {
            send_everything(s);
            continue;
        }
        for (size_t i = 0; i < changes->partitions_count; i++) {
            const struct metadata_partition *p = metadata_partition(c->core.metadata, changes->partitions[i]);
            if (!p || concerns(c, s, p))
                shards_record(c, s->member, changes->partitions[i]);
        }
        for (size_t i = 0; i < changes->mailboxes_count; i++) {
            const struct metadata_mailbox *b = metadata_mailbox(c->core.metadata, changes->mailboxes[i]);
            for (uint32_t k = 0; b && k < b->partitions_count; k++)
                if (concerns(c, s, metadata_partition(c->core.metadata, b->partitions[k])))
                    shards_record(c, s->member, b->partitions[k]);
        }
    }
}

static void send_lead(struct shard_peer *s) {
    Mr__Lead m = MR__LEAD__INIT;
    m.term = replica_epoch(s->controller->core.replica);
    link_send(s->link, FRAME_LEAD, &m.base, NULL, 0);
}

void shards_lead(struct controller *c) {
    SHARDS_EACH(c, s) {
        if (!s->link)
            continue;
        send_lead(s);
        send_everything(s);
    }
}

/* ---- the leading controller's orders ---- */

void shards_seal(struct controller *c, member_t to, uint64_t partition, const struct replica_seal *seal) {
    struct shard_peer *s = shards_member(c, to);
    if (!s || !s->link)
        return; /* control asks again */
    Mr__Seal *m = xmalloc(sizeof *m);
    mr__seal__init(m);
    m->partition = partition;
    m->token = seal->token;
    m->to = seal->to;
    m->epoch = seal->epoch;
    xgrow(&s->seals, &s->seals_capacity, s->seals_count + 1, sizeof *s->seals);
    s->seals[s->seals_count++] = m;
}

void shards_hold(struct controller *c, member_t to, uint64_t partition, member_t target, usec_t at_most) {
    struct shard_peer *s = shards_member(c, to);
    Mr__Hold m = MR__HOLD__INIT;
    m.partition = partition;
    m.target = target;
    m.at_most_us = at_most;
    if (s && s->link)
        link_send(s->link, FRAME_HOLD, &m.base, NULL, 0);
}

void shards_drop(struct controller *c, member_t to, uint64_t partition, uint64_t epoch, bool removed) {
    struct shard_peer *s = shards_member(c, to);
    Mr__DropReplica m = MR__DROP_REPLICA__INIT;
    (void)removed;
    m.partition = partition;
    m.epoch = epoch;
    if (s && s->link)
        link_send(s->link, FRAME_DROP_REPLICA, &m.base, NULL, 0);
}

static void send_seals(struct shard_peer *s) {
    if (s->seals_count == 0)
        return;
    Mr__Seals m = MR__SEALS__INIT;
    m.seals = s->seals;
    m.n_seals = s->seals_count;
    if (s->link)
        link_send(s->link, FRAME_SEALS, &m.base, NULL, 0);
    for (size_t i = 0; i < s->seals_count; i++)
        free(s->seals[i]);
    s->seals_count = 0;
}

/* Records first: a seal of a partition the shard has not been told of says nothing. */
void shards_send_turn(struct controller *c) {
    SHARDS_EACH(c, s) {
        if (s->records_count && s->link)
            send_in_frames(s, s->records, s->records_count, false);
        s->records_count = 0;
        send_seals(s);
    }
}

void shards_ping(struct controller *c) {
    Mr__Ping m = MR__PING__INIT;
    m.sent_at = loop_now(c->loop);
    SHARDS_EACH(c, s)
    if (s->link)
        link_send(s->link, FRAME_PING, &m.base, NULL, 0);
}

/* ---- what shards say ---- */

static void on_sealeds(struct shard_peer *s, struct link *link, const struct frame *frame) {
    struct controller *c = s->controller;
    Mr__Sealeds *m = frame_read_sealeds(link, frame);
    for (size_t i = 0; m && c->core.leads && i < m->n_sealeds; i++) {
        const Mr__Sealed *a = m->sealeds[i];
        struct replica_sealed in = {.token = a->token,
                                    .from = a->from,
                                    .epoch = a->epoch,
                                    .granted = a->granted,
                                    .promise = a->promise,
                                    .last_epoch = a->last_epoch,
                                    .last_index = a->last_index,
                                    .commit = a->commit,
                                    .damaged = a->damaged,
                                    .doubtful = a->doubtful,
                                    .was_leading = a->was_leading};
        control_on_sealed(c->core.control, a->partition, &in, a->unknown, loop_now(c->loop),
                          &c->core.control_effects);
    }
}

static void on_reports(struct shard_peer *s, struct link *link, const struct frame *frame) {
    struct controller *c = s->controller;
    Mr__Reports *m = frame_read_reports(link, frame);
    for (size_t i = 0; m && c->core.leads && i < m->n_reports; i++) {
        const Mr__Report *r = m->reports[i];
        struct control_report in = {.partition = r->partition,
                                    .kind = (enum control_report_kind)r->kind,
                                    .from = r->from,
                                    .epoch = r->epoch,
                                    .peer = r->peer,
                                    .crashes = r->crashes};
        control_on_report(c->core.control, &in, loop_now(c->loop), &c->core.control_effects);
    }
}

static void on_shard_load(struct shard_peer *s, struct link *link, const struct frame *frame) {
    Mr__ShardLoad *m = frame_read_shard_load(link, frame);
    if (!m)
        return;
    s->leaders = m->leaders;
    s->backlog = m->backlog_messages;
    if (s->controller->core.leads)
        control_load(s->controller->core.control, s->member, m->backlog_messages);
}

static uint32_t node_id(const struct shard_peer *s) {
    const struct metadata_node *own =
        metadata_node_named(s->controller->core.metadata, s->controller->config->node);
    return s->own ? (own ? own->id : 0) : s->node;
}

static void heard(struct shard_peer *s) {
    struct controller *c = s->controller;
    uint32_t node = node_id(s);
    if (node)
        detector_heard(c->core.detector, node, (int)s->index, loop_now(c->loop), &c->core.detected);
    if (c->core.detected.count)
        group_detected(&c->core);
}

static void gone(struct shard_peer *s) {
    struct controller *c = s->controller;
    uint32_t node = node_id(s);
    if (node)
        detector_gone(c->core.detector, node, (int)s->index, loop_now(c->loop), &c->core.detected);
    group_detected(&c->core);
}

/* ---- links ---- */

static void greet(void *ctx, struct keep *keep, struct link *link) {
    struct shard_peer *s = ctx;
    struct hello offer = hello_ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    (void)keep;
    offer.frame_bytes_max = FRAME_BYTES_DEFAULT;
    links_identify(s->controller, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)s->controller->config->node;
    hello_send(link, &offer, &m);
}

static void shard_up(struct shard_peer *s, struct link *link) {
    struct controller *c = s->controller;
    s->link = link;
    keep_settled(s->keep);
    heard(s);
    if (s->own)
        send_members(s);
    if (s->own || c->core.leads)
        send_everything(s);
    if (c->core.leads) {
        send_lead(s);
        control_member(c->core.control, s->member, DETECTOR_UP, loop_now(c->loop), &c->core.control_effects);
        group_run(&c->core);
    }
    forming_check(c);
}

static void on_welcome(struct shard_peer *s, struct link *link, const struct frame *frame) {
    struct hello offer = hello_ours();
    struct hello_agreed agreed;
    offer.frame_bytes_max = FRAME_BYTES_DEFAULT;
    Mr__Welcome *m = frame_read_welcome(link, frame);
    if (!m || hello_welcomed(link, &offer, m, &agreed) != ERR_OK)
        return;
    if (!m->identity || !m->identity->member) {
        link_refuse(link, ERR_PROTOCOL, "a shard's welcome without its identity");
        return;
    }
    if (s->own)
        s->member = m->identity->member;
    else if (s->member != m->identity->member) {
        link_close(link, ERR_STALE, "another identity than the metadata names");
        return;
    }
    shard_up(s, link);
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct shard_peer *s = ctx;
    if (!s->link) {
        if (frame->type == FRAME_WELCOME)
            on_welcome(s, link, frame);
        return;
    }
    heard(s);
    switch (frame->type) {
    case FRAME_SEALEDS:
        on_sealeds(s, link, frame);
        break;
    case FRAME_REPORTS:
        on_reports(s, link, frame);
        break;
    case FRAME_SHARD_LOAD:
        on_shard_load(s, link, frame);
        break;
    case FRAME_PONG:
        break;
    default:
        link_refuse(link, ERR_PROTOCOL, "frame type %s: not one a shard sends to a controller",
                    frame_name(frame->type));
    }
    group_run(&s->controller->core);
}

static void on_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct shard_peer *s = ctx;
    (void)keep;
    if (was_up)
        s->link = NULL;
    else if (end->cause == LINK_END_REFUSED)
        gone(s);
}

static const struct keep_handlers keep_calls = {.up = greet, .frame = on_frame, .down = on_down};

static void dial(struct shard_peer *s, const char *url) {
    struct err_detail detail;
    struct keep_options options = {.handlers = &keep_calls,
                                   .ctx = s,
                                   .link = controller_link_options(),
                                   .retry_max = 200 * USEC_MS,
                                   .silent = KEEP_SILENT_USEC + s->controller->config->timeout};
    if (strcmp(s->url, url) == 0 && s->keep)
        return;
    snprintf(s->url, sizeof s->url, "%s", url);
    if (s->keep)
        keep_redirect(s->keep, url, NULL);
    else if (!(s->keep = keep_new(s->controller->loop, url, &options, &detail)))
        log_error("shard at %s: %s", url, detail.text);
    if (s->keep)
        keep_hurry(s->keep);
}

void shards_own_up(struct controller *c, unsigned index, const char *path) {
    char url[sizeof((struct shard_peer *)0)->url];
    struct shard_peer *s = find(c, 0, index, true);
    snprintf(url, sizeof url, "ipc://%s", path);
    if (!s)
        s = add(c, index, true);
    dial(s, url);
}

/* The supervisor has seen it die. */
void shards_own_gone(struct controller *c, unsigned index) {
    struct shard_peer *s = find(c, 0, index, true);
    if (s)
        gone(s);
}

static void refresh_node(struct controller *c, const struct metadata_node *n) {
    char address[NODE_ADDRESS_BYTES_MAX + 16], url[sizeof((struct shard_peer *)0)->url];
    if (strcmp(n->info.name, c->config->node) == 0 || n->state == NODE_LEFT)
        return;
    for (uint32_t i = 0; i < n->info.shards_count; i++) {
        struct shard_peer *s = find(c, n->id, i, false);
        if (!shards_address(n, i, address, sizeof address))
            continue;
        if (!s) {
            s = add(c, i, false);
            s->node = n->id;
        }
        if (s->member != n->info.shards[i] && s->link)
            link_close(s->link, ERR_STALE, "its identity has changed");
        s->member = n->info.shards[i];
        snprintf(url, sizeof url, "tcp://%s", address);
        dial(s, url);
    }
}

void shards_refresh(struct controller *c) {
    for (size_t i = 0; i < metadata_nodes_count(c->core.metadata); i++)
        refresh_node(c, metadata_node_at(c->core.metadata, i));
    SHARDS_EACH(c, s)
    if (s->own && s->link)
        heard(s);
}

void controller_leave_shards(struct controller *c) {
    while (c->shards) {
        struct shard_peer *s = c->shards;
        c->shards = s->next;
        s->link = NULL;
        send_seals(s);
        if (s->keep)
            keep_free(s->keep);
        free(s->seals);
        free(s->records);
        free(s);
    }
}

// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"

enum mail_kind {
    MAIL_REPLICA,
    MAIL_ELECTION,
    MAIL_BEAT,
    MAIL_SEEN,
    MAIL_INTRODUCE,
    MAIL_PROPOSE,
    MAIL_PROPOSED
};

struct mail {
    enum mail_kind kind;
    int from, to;
    struct replica_effect replica; /* bodies are references */
    struct election_effect election;
    struct beat beat;
    struct introduction introduction;
    uint64_t number, index;
    usec_t deadline;
    enum err code;
    struct body *command;
};

/* ---- mail ---- */

static bool linked(const struct world *w, int a, int b) {
    return a != b && w->hosts[a].up && w->hosts[b].up && !w->cut[a] && !w->cut[b];
}

static int host_of(const struct world *w, member_t m) {
    for (int i = 0; i < w->count; i++)
        if (w->hosts[i].up && w->hosts[i].core.self == m)
            return i;
    return -1;
}

static struct mail *post(struct host *from, int to, enum mail_kind kind) {
    struct world *w = from->world;
    CHECK(w->last - w->first < MAILS_MAX);
    struct mail *m = &w->mails[w->last++ % MAILS_MAX];
    *m = (struct mail){.kind = kind, .from = from->index, .to = to};
    return m;
}

static void post_replica(struct host *from, member_t to, const struct replica_effect *e) {
    int at = host_of(from->world, to);
    if (at < 0)
        return;
    struct mail *m = post(from, at, MAIL_REPLICA);
    m->replica = *e;
    if (e->type == REPLICA_SEND_APPEND) {
        struct replica_append *a = &m->replica.append;
        a->entries = xcalloc(a->count + 1, sizeof *a->entries);
        for (size_t i = 0; i < a->count; i++) {
            a->entries[i] = e->append.entries[i];
            body_keep(a->entries[i].body);
        }
    } else if (e->type == REPLICA_SEND_PIECE) {
        body_keep(m->replica.piece.state);
        body_keep(m->replica.piece.batch.body);
    }
}

static void mail_clear(struct mail *m) {
    if (m->kind == MAIL_REPLICA && m->replica.type == REPLICA_SEND_APPEND) {
        for (size_t i = 0; i < m->replica.append.count; i++)
            body_drop(m->replica.append.entries[i].body);
        free(m->replica.append.entries);
    } else if (m->kind == MAIL_REPLICA && m->replica.type == REPLICA_SEND_PIECE) {
        body_drop(m->replica.piece.state);
        body_drop(m->replica.piece.batch.body);
    }
    body_drop(m->command);
}

/* ---- what a core calls for ---- */

static usec_t now(void *host) {
    return ((struct host *)host)->world->now;
}

static void say(void *host, enum log_level level, const char *text) {
    (void)host, (void)level, (void)text;
}

static void replica_effect(void *host, const struct replica_effect *e) {
    if (e->type == REPLICA_SEND_APPEND)
        post_replica(host, e->append.to, e);
    else if (e->type == REPLICA_SEND_APPENDED)
        post_replica(host, e->appended.to, e);
    else if (e->type == REPLICA_SEND_PIECE)
        post_replica(host, e->piece.to, e);
    else if (e->type == REPLICA_SEND_PIECED)
        post_replica(host, e->pieced.to, e);
}

static void election_effect(void *host, const struct election_effect *e) {
    struct host *h = host;
    if (e->type == ELECTION_STANDS || e->type == ELECTION_STEPS_DOWN)
        return;
    bool answer = e->type == ELECTION_SEND_VOTED || e->type == ELECTION_SEND_PRE_VOTED;
    int to = host_of(h->world, answer ? e->answer.to : e->ask.to);
    if (to >= 0)
        post(h, to, MAIL_ELECTION)->election = *e;
}

static int index_of(const struct peer *p) {
    return p->name[1] - '1';
}

static void beat(void *host, const struct beat *b) {
    struct host *h = host;
    CORE_PEERS_EACH(&h->core, p)
    if (p->up)
        post(h, index_of(p), MAIL_BEAT)->beat = *b;
}

static void changed(void *host, const struct metadata_changes *changes) {
    (void)host, (void)changes;
}

static void judged(void *host, const struct detector_change *change) {
    (void)host, (void)change;
}

static void dial(void *host, struct peer *p) {
    (void)host, (void)p;
}

static void introduce(void *host, struct peer *p, const struct introduction *own) {
    post(host, index_of(p), MAIL_INTRODUCE)->introduction = *own;
}

static void dial_shard(void *host, struct shard_peer *s, const char *address) {
    (void)host, (void)s, (void)address;
}

static void close_shard(void *host, struct shard_peer *s) {
    (void)host, (void)s;
}

static void order(void *host, struct shard_peer *s, const struct shard_order *o) {
    struct host *h = host;
    (void)s;
    if (o->type == SHARD_RECORDS) {
        h->records += o->records.count;
        h->completes += o->records.complete;
    }
}

static uint64_t pass_on(void *host, struct peer *p, const struct request *r, usec_t deadline) {
    struct host *h = host;
    struct mail *m = post(h, index_of(p), MAIL_PROPOSE);
    m->number = r->own_number;
    m->deadline = deadline;
    m->command = body_keep(r->command);
    h->passed_on++;
    return (uint64_t)m->to + 1;
}

static void answer(void *host, const struct request *r, enum err code, const char *text) {
    struct host *h = host;
    if (r->from == FROM_CONTROLLER) {
        struct mail *m = post(h, (int)r->link - 1, MAIL_PROPOSED);
        m->number = r->number;
        m->code = code;
        m->index = r->visible_index;
    } else if (r->from == FROM_GATEWAY) {
        CHECK(h->answers_count < ANSWERS_MAX);
        struct answer *a = &h->answers[h->answers_count++];
        *a = (struct answer){.number = r->number, .code = code};
        snprintf(a->text, sizeof a->text, "%s", text);
    }
}

static const struct core_host calls = {.now = now,
                                       .say = say,
                                       .replica_effect = replica_effect,
                                       .election_effect = election_effect,
                                       .beat = beat,
                                       .changed = changed,
                                       .judged = judged,
                                       .dial = dial,
                                       .hang_up = dial,
                                       .introduce = introduce,
                                       .dial_shard = dial_shard,
                                       .close_shard = close_shard,
                                       .order = order,
                                       .pass_on = pass_on,
                                       .answer = answer};

/* ---- delivery ---- */

static void on_replica(struct core *c, const struct replica_effect *e) {
    if (e->type == REPLICA_SEND_APPEND)
        group_on_append(c, &e->append);
    else if (e->type == REPLICA_SEND_APPENDED)
        group_on_appended(c, &e->appended);
    else if (e->type == REPLICA_SEND_PIECE)
        group_on_piece(c, &e->piece);
    else
        group_on_pieced(c, &e->pieced);
}

static void on_election(struct core *c, const struct election_effect *e) {
    if (e->type == ELECTION_SEND_PRE_VOTE)
        group_on_pre_vote(c, &e->ask);
    else if (e->type == ELECTION_SEND_PRE_VOTED)
        group_on_pre_voted(c, &e->answer);
    else if (e->type == ELECTION_SEND_VOTE)
        group_on_vote(c, &e->ask);
    else if (e->type == ELECTION_SEND_VOTED)
        group_on_voted(c, &e->answer);
    else
        group_on_timeout_now(c, &e->ask);
}

static void deliver(struct world *w, struct mail *m) {
    struct host *h = &w->hosts[m->to];
    struct core *c = &h->core;
    struct peer *p = controllers_named(c, w->hosts[m->from].config.node);
    controllers_heard(c, p);
    switch (m->kind) {
    case MAIL_REPLICA:
        on_replica(c, &m->replica);
        break;
    case MAIL_ELECTION:
        on_election(c, &m->election);
        break;
    case MAIL_BEAT:
        post(h, m->from, MAIL_SEEN)->beat = m->beat;
        controllers_on_beat(c, p, &m->beat);
        break;
    case MAIL_SEEN:
        controllers_on_beat_seen(c, p, m->beat.sent_at);
        break;
    case MAIL_INTRODUCE:
        controllers_on_introduction(c, p, &m->introduction);
        break;
    case MAIL_PROPOSE:
        requests_change(c, FROM_CONTROLLER, (uint64_t)m->from + 1, m->number, m->command, m->deadline);
        break;
    case MAIL_PROPOSED:
        requests_answered(c, m->number, m->code, "", m->index);
    }
    group_run(c);
}

static void turn(struct host *h) {
    uint64_t before = h->ticket;
    core_turn(&h->core);
    if (h->ticket != before)
        group_synced(&h->core, h->ticket);
}

static void settle(struct world *w) {
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < w->count; i++)
            if (w->hosts[i].up)
                turn(&w->hosts[i]);
        while (w->first < w->last) {
            struct mail m = w->mails[w->first++ % MAILS_MAX];
            if (linked(w, m.from, m.to))
                deliver(w, &m);
            mail_clear(&m);
            any = true;
        }
    }
}

static void clock_host(struct host *h) {
    CORE_SHARDS_EACH(&h->core, s)
    if (s->up)
        shards_heard(&h->core, s);
    if (h->world->now >= h->beat_at) {
        core_beat(&h->core);
        h->beat_at = h->world->now + core_beat_interval(&h->core);
    }
    if (h->world->now >= h->tick_at) {
        core_tick(&h->core);
        h->tick_at = core_deadline(&h->core);
    }
}

void world_run(struct world *w, usec_t how_long) {
    settle(w);
    for (usec_t until = w->now + how_long; w->now < until;) {
        w->now += WORLD_STEP_US;
        for (int i = 0; i < w->count; i++)
            if (w->hosts[i].up)
                clock_host(&w->hosts[i]);
        settle(w);
    }
}

/* ---- life ---- */

static void execute(void *executor, struct journal_job *job) {
    (void)executor;
    journal_run(job);
}

static void completed(void *ctx, uint64_t ticket) {
    struct host *h = ctx;
    h->ticket = ticket;
}

static void configure(struct world *w, struct host *h) {
    h->config = (struct config){.cluster = "test",
                                .shards = 1,
                                .initial = h->initial,
                                .initial_count = (size_t)w->count,
                                .heartbeat = 100 * USEC_MS,
                                .timeout = 500 * USEC_MS,
                                .replace_after = 2 * USEC_S,
                                .rebuild_grace = 2 * USEC_S};
    snprintf(h->config.node, sizeof h->config.node, "n%d", h->index + 1);
    snprintf(h->config.listen_cluster.text, sizeof h->config.listen_cluster.text, "n%d:7410", h->index + 1);
    for (int i = 0; i < w->count; i++) {
        snprintf(h->initial[i].name, sizeof h->initial[i].name, "n%d", i + 1);
        snprintf(h->initial[i].address.text, sizeof h->initial[i].address.text, "n%d:7410", i + 1);
    }
}

struct world *world_new(int count) {
    struct world *w = xcalloc(1, sizeof *w);
    w->now = USEC_S;
    w->count = count;
    w->mails = xcalloc(MAILS_MAX, sizeof *w->mails);
    for (int i = 0; i < count; i++) {
        struct host *h = &w->hosts[i];
        h->world = w;
        h->index = i;
        h->disk = mem_disk_new();
        configure(w, h);
    }
    return w;
}

static void link_up(struct world *w, int a, int b) {
    struct core *c = &w->hosts[a].core;
    controllers_up(c, controllers_add(c, w->hosts[b].config.node), w->hosts[b].core.self);
}

void world_start(struct world *w, int host) {
    struct host *h = &w->hosts[host];
    struct journal_recovered recovered;
    struct err_detail detail;
    CHECK(journal_open(&(struct journal_options){.disk = mem_disk_disk(h->disk),
                                                 .folder = "j",
                                                 .segment_bytes = MIB,
                                                 .batch_type = UINT8_MAX,
                                                 .random = 100 + (uint64_t)host,
                                                 .completed = completed,
                                                 .ctx = h,
                                                 .execute = execute},
                       &h->journal, &recovered, &detail) == ERR_OK);
    core_open(&h->core, &(struct core_options){.config = &h->config,
                                               .journal = h->journal,
                                               .self = recovered.identity,
                                               .starts = recovered.start,
                                               .checkpoint_entries = 1000,
                                               .election_seed = 7 + (uint64_t)host,
                                               .control_seed = 70 + (uint64_t)host,
                                               .host = &calls,
                                               .host_context = h});
    h->up = true;
    h->beat_at = h->tick_at = w->now;
    for (int i = 0; i < w->count; i++) {
        if (!linked(w, host, i))
            continue;
        link_up(w, host, i);
        link_up(w, i, host);
    }
    settle(w);
}

static void offer_shard(struct world *w, int host, int owner, member_t member) {
    struct core *c = &w->hosts[host].core;
    const struct metadata_node *n = metadata_node_named(c->metadata, w->hosts[owner].config.node);
    struct shard_peer *s = host == owner ? shards_own_up(c, 0) : n ? shards_find(c, n->id, 0, false) : NULL;
    if (s)
        shards_up(c, s, member);
}

void world_shard(struct world *w, int host, member_t member) {
    for (int i = 0; i < w->count; i++)
        if (w->hosts[i].up)
            offer_shard(w, i, host, member);
    settle(w);
}

static void close_host(struct host *h) {
    h->up = false;
    journal_abandon(h->journal);
    core_close(&h->core);
}

void world_kill(struct world *w, int host) {
    settle(w);
    close_host(&w->hosts[host]);
    for (int i = 0; i < w->count; i++) {
        struct core *c = &w->hosts[i].core;
        struct peer *p = w->hosts[i].up ? controllers_named(c, w->hosts[host].config.node) : NULL;
        if (!p || !p->up)
            continue;
        controllers_down(c, p);
        controllers_refused(c, p);
        requests_link_gone(c, (uint64_t)host + 1);
        const struct metadata_node *n = metadata_node_named(c->metadata, p->name);
        struct shard_peer *s = n ? shards_find(c, n->id, 0, false) : NULL;
        if (s) {
            shards_down(c, s);
            shards_refused(c, s);
        }
    }
    settle(w);
}

void world_form(struct world *w) {
    for (int i = 0; i < w->count; i++)
        world_start(w, i);
    for (int i = 0; i < w->count; i++)
        world_shard(w, i, 1001 + (member_t)i);
    for (int tries = 0; tries < 200 && !world_formed(&w->hosts[w->count - 1]); tries++)
        world_run(w, 10 * USEC_MS);
    for (int i = 0; i < w->count; i++)
        world_shard(w, i, 1001 + (member_t)i);
    world_run(w, USEC_S);
}

void world_free(struct world *w) {
    for (int i = 0; i < w->count; i++)
        if (w->hosts[i].up)
            close_host(&w->hosts[i]);
    while (w->first < w->last)
        mail_clear(&w->mails[w->first++ % MAILS_MAX]);
    for (int i = 0; i < w->count; i++)
        mem_disk_free(w->hosts[i].disk);
    free(w->mails);
    free(w);
}

struct host *world_leader(struct world *w) {
    for (int i = 0; i < w->count; i++)
        if (w->hosts[i].up && w->hosts[i].core.leads)
            return &w->hosts[i];
    return NULL;
}

bool world_formed(const struct host *h) {
    return h->up && metadata_cluster_id(h->core.metadata) != 0;
}

void world_request(struct host *h, uint64_t number, const struct command *command, usec_t deadline) {
    struct encoder e = {0};
    command_encode(command, &e);
    struct body *body = encoder_body(&e);
    requests_change(&h->core, FROM_GATEWAY, 99, number, body, deadline);
    body_drop(body);
    settle(h->world);
}

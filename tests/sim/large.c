// SPDX-License-Identifier: Apache-2.0
/*
 * Many nodes, very many partitions, and one node after the other dies: DESIGN
 * section 12. The world's own clients publish to and consume from a sample of the
 * partitions, with all checks; the others are idle, as most are at that size.
 *
 * First a node that leads sample partitions loses its power, then the node of the
 * leading controller. Measured: simulated time from the death until every
 * partition it led is led elsewhere, and what was sent meanwhile.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "clients.h"

enum {
    BULK_PARTITIONS = 1000, /* of each mailbox nobody uses */
    BULK_AT_ONCE = 10,      /* mailboxes */
    BULK_REPLICAS = 3,
    MMAP_BYTES = 262144,
    CREATED_US_MAX = 300000000,
    LED_US_MAX = 120000000, /* given up */
    LOOK_US = 5000,
    AWAY_US = 3000000,  /* a dead node comes back after this */
    BEHIND_MAX = 64,    /* entries that a copy of a partition in use may be behind */
    QUIET_US = 1000000, /* a second without anything: what does being idle cost? */
    SEGMENT_BYTES = 4194304,
    CHECKPOINT_ENTRIES = 4096, /* as the broker's */

    /* the judgement */
    FAILOVER_US_MAX = 4000000, /* from the death to the last partition led: detection, seals, lease */
    FRAMES_A_REPLICA_MAX = 12, /* for each that the dead node held */
    FRAMES_A_PAIR_MAX = 20,    /* for each two nodes: what is said of all partitions at once, in some turns */
    FRAMES_A_REQUEST_MAX = 4   /* for each of the clients' publishes and settlements */
};

struct measure {
    usec_t from;
    uint64_t messages[M_TYPES], frames[M_TYPES], events;
    double cpu;
};

static double cpu_seconds(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* What a process's loop was busy with at one go: a real one would answer nobody meanwhile. */
static struct {
    double longest, all;
    usec_t at;
} busy[3];

static double cpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_event(struct sim *s, struct process *p, struct event *e) {
    double since = cpu_now();
    e->fire(s, e);
    double took = cpu_now() - since;
    if (!p)
        return;
    busy[p->kind].all += took;
    if (took > busy[p->kind].longest) {
        busy[p->kind].longest = took;
        busy[p->kind].at = s->now;
    }
}

static struct measure begin(const struct sim *s) {
    struct measure m = {.from = s->now, .events = s->result.events, .cpu = cpu_seconds()};
    memset(busy, 0, sizeof busy);
    memcpy(m.messages, s->messages, sizeof m.messages);
    memcpy(m.frames, s->frames, sizeof m.frames);
    return m;
}

/* What goes round by the clock, whatever happens. */
static bool periodic(enum message_type t) {
    return t == M_HEARTBEAT || t == M_HEARTBEAT_SEEN || t == M_PING || t == M_PONG || t == M_CONFIRM ||
           t == M_CONFIRMED || t == M_LOAD;
}

/* Of clients, in proportion to their load. */
static bool of_clients(enum message_type t) {
    return t >= M_PUBLISH && t != M_LED && t != M_NOT_LEADING && t != M_PRESENTED;
}

static uint64_t frames_since(const struct sim *s, const struct measure *m) {
    uint64_t sum = 0;
    for (int t = 0; t < M_TYPES; t++)
        if (!periodic(t) && !of_clients(t))
            sum += s->frames[t] - m->frames[t];
    return sum;
}

static void say_measure(const struct sim *s, const struct measure *m) {
    int column = 0;
    for (int t = 0; t < M_TYPES; t++) {
        unsigned long long frames = s->frames[t] - m->frames[t], messages = s->messages[t] - m->messages[t];
        if (frames)
            printf("    %-15s %9llu frames %9llu items%s", message_name(t), frames, messages,
                   ++column % 2 ? "" : "\n");
    }
    printf("%s    %.3f s simulated, %llu events, %.1f s of CPU\n", column % 2 ? "\n" : "",
           (double)(s->now - m->from) / USEC_S, (unsigned long long)(s->result.events - m->events),
           cpu_seconds() - m->cpu);
    static const char *const kinds[] = {"controllers", "shards", "gateways"};
    for (int i = 0; i < 3; i++)
        printf("    CPU of %s %.2f s, the longest turn or message %.2f ms (%lld ms after the begin)\n",
               kinds[i], busy[i].all, busy[i].longest * 1e3, (long long)((busy[i].at - m->from) / USEC_MS));
    fflush(stdout);
}

/* ---- who leads ---- */

static const struct metadata *map(struct sim *s) {
    struct process *p = sim_leading_controller(s);
    return p ? controller_metadata(p) : NULL;
}

/* The shard that the metadata says leads; processes lie node by node. */
static struct process *leader_of(struct sim *s, const struct metadata *m,
                                 const struct metadata_partition *p) {
    int shard = -1;
    const struct metadata_node *n = metadata_node_of(m, p->record.leader, &shard);
    CHECK(n && shard >= 0);
    return sim_shard(s, (int)n->id - 1, shard);
}

static bool led(struct sim *s, const struct metadata *m, uint64_t id) {
    const struct metadata_partition *p = metadata_partition(m, id);
    struct process *at = p ? leader_of(s, m, p) : NULL;
    struct partition *there = at && at->up ? shard_partition(at, id) : NULL;
    return there && mailbox_leading(there->mailbox) && replica_epoch(there->replica) == p->record.epoch;
}

/* ---- making it ---- */

struct large_world {
    struct sim *s;
    const struct large *o;
    uint64_t total; /* sample and bulk */
    bool good;
};

static void draw(struct large_world *w) {
    struct sim *s = w->s;
    struct swarm *x = &s->swarm;
    swarm_big(x);
    s->packing = true;
    s->on_event = on_event;
    s->segment_bytes = SEGMENT_BYTES;
    s->checkpoint_entries = CHECKPOINT_ENTRIES;
    s->failure_timeout = 600 * USEC_MS;
    s->rebuild_grace = 30 * USEC_S;
    x->delay_min = 100;
    x->delay_max = 600;
    x->sync_min = 300;
    x->sync_max = 3000;
    x->victim = 0;  /* no mailbox of one copy: it would wait for its disk */
    s->calm = true; /* no fault but the deaths below */
    world_make(s, w->o->nodes, 1, w->o->partitions + SIM_PARTITIONS_MAX);
    sim_people(s);
    clients_make(s);
}

static uint64_t sample_size(const struct sim *s) {
    uint64_t n = 0;
    for (int i = 0; i < s->clients->boxes_count; i++)
        n += s->clients->boxes[i].settings.partitions;
    return n;
}

static bool sample_made(struct sim *s) {
    for (int i = 0; i < s->clients->boxes_count; i++)
        if (!s->clients->boxes[i].created)
            return false;
    return true;
}

static void give_up_after(struct sim *s, usec_t since, usec_t limit, const char *what) {
    if (s->now - since > limit)
        sim_violation(s, "live", "%s after %d s", what, (int)(limit / USEC_S));
}

static void request_bulk(struct sim *s, uint64_t number, uint32_t partitions) {
    struct process *p = sim_leading_controller(s);
    struct command command = {.type = COMMAND_MAILBOX_CREATE};
    if (!p)
        return;
    snprintf(command.mailbox_create.name, sizeof command.mailbox_create.name, "bulk%llu",
             (unsigned long long)number);
    settings_default(&command.mailbox_create.settings);
    command.mailbox_create.settings.partitions = partitions;
    command.mailbox_create.settings.replicas = BULK_REPLICAS;
    controller_request(p, &command);
    free(command.mailbox_create.placing);
}

static bool made(struct sim *s, uint64_t partitions) {
    const struct metadata *m = map(s);
    return m && metadata_partitions_count(m) >= partitions;
}

static void await_led(struct large_world *w, uint64_t from, uint64_t to) {
    struct sim *s = w->s;
    usec_t since = s->now;
    for (uint64_t id = from; id <= to;) {
        const struct metadata *m = map(s);
        while (m && id <= to && led(s, m, id))
            id++;
        if (id <= to)
            sim_until(s, s->now + LOOK_US);
        give_up_after(s, since, CREATED_US_MAX, "partitions are not led");
    }
}

/* One mailbox after the other; a request that is lost is made again. */
static void make_bulk(struct large_world *w) {
    struct sim *s = w->s;
    uint64_t there = sample_size(s), number = 0;
    while (there < w->total) {
        uint64_t left = w->total - there;
        uint32_t n = left < BULK_PARTITIONS ? (uint32_t)left : BULK_PARTITIONS;
        usec_t since = s->now, asked = s->now - USEC_S;
        while (!made(s, there + n)) {
            if (s->now - asked >= USEC_S) {
                request_bulk(s, number, n);
                asked = s->now;
            }
            sim_until(s, s->now + LOOK_US);
            give_up_after(s, since, 30 * USEC_S, "a mailbox is not made");
        }
        there += n;
        if (++number % BULK_AT_ONCE == 0)
            await_led(w, 1, there);
    }
}

static void make(struct large_world *w) {
    struct sim *s = w->s;
    struct measure m = begin(s);
    sim_begin(s);
    printf("formed\n");
    say_measure(s, &m);
    m = begin(s);
    clients_start(s);
    while (!sample_made(s)) {
        sim_until(s, s->now + LOOK_US);
        give_up_after(s, m.from, CREATED_US_MAX, "the sample is not made");
    }
    w->total = sample_size(s) + w->o->partitions;
    make_bulk(w);
    await_led(w, 1, w->total);
    printf("%llu partitions made and led\n", (unsigned long long)w->total);
    say_measure(s, &m);
    sim_until(s, s->now + 2 * QUIET_US);
    m = begin(s);
    sim_until(s, s->now + QUIET_US);
    printf("a quiet second\n");
    say_measure(s, &m);
}

/* ---- a death ---- */

struct victim {
    int node;
    uint64_t *led; /* what it led */
    size_t led_count, held;
};

static struct victim look_at(struct large_world *w, int node) {
    struct sim *s = w->s;
    const struct metadata *m = map(s);
    member_t member = sim_shard(s, node, 0)->self;
    struct victim v = {.node = node, .led = xcalloc(w->total, sizeof *v.led)};
    for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
         p = metadata_partition_next(m, p->id)) {
        v.held += metadata_holds(&p->record, member);
        if (p->record.leader == member)
            v.led[v.led_count++] = p->id;
    }
    return v;
}

/* A partition is led again once another leads it; what is, is taken from the list. */
static void strike_led(struct sim *s, struct victim *v) {
    const struct metadata *m = map(s);
    size_t kept = 0;
    for (size_t i = 0; m && i < v->led_count; i++)
        if (!led(s, m, v->led[i]))
            v->led[kept++] = v->led[i];
    if (m)
        v->led_count = kept;
}

static void judge(struct large_world *w, const struct measure *m, size_t held) {
    struct sim *s = w->s;
    uint64_t frames = frames_since(s, m);
    uint64_t requests =
        s->frames[M_PUBLISH] + s->frames[M_SETTLE] - m->frames[M_PUBLISH] - m->frames[M_SETTLE];
    uint64_t most = FRAMES_A_REPLICA_MAX * held + FRAMES_A_REQUEST_MAX * requests +
                    FRAMES_A_PAIR_MAX * (uint64_t)s->nodes_count * (uint64_t)s->nodes_count;
    printf("    %llu frames besides heartbeats and the clients' own, at most %llu; %d ms at most\n",
           (unsigned long long)frames, (unsigned long long)most, FAILOVER_US_MAX / 1000);
    if (s->now - m->from > FAILOVER_US_MAX || frames > most) {
        printf("    OUT OF BOUNDS\n");
        w->good = false;
    }
}

/* Has the copy there all that its leader has committed? */
static bool whole(struct sim *s, const struct metadata *m, const struct metadata_partition *p,
                  struct process *at) {
    struct partition *copy = shard_partition(at, p->id), *leader = shard_partition(leader_of(s, m, p), p->id);
    return copy && leader && replica_applied(copy->replica) + BEHIND_MAX >= replica_commit(leader->replica);
}

static bool all_whole(struct sim *s, struct process *at) {
    const struct metadata *m = map(s);
    if (!m || !at->up)
        return false;
    for (const struct metadata_partition *p = metadata_partition_next(m, 0); p;
         p = metadata_partition_next(m, p->id))
        if (metadata_holds(&p->record, at->self) && !whole(s, m, p, at))
            return false;
    return true;
}

/* The node comes back, well before its replicas would be built elsewhere. */
static void await_back(struct large_world *w, int node, usec_t died_at) {
    struct sim *s = w->s;
    struct measure m = begin(s);
    while (s->now < died_at + AWAY_US + USEC_S || !all_whole(s, sim_shard(s, node, 0))) {
        sim_until(s, s->now + 20 * USEC_MS);
        give_up_after(s, died_at, LED_US_MAX, "copies of the node that came back are not whole");
    }
    printf("it is back %lld ms after its death, and every copy there is whole\n",
           (long long)(s->now - died_at) / USEC_MS);
    say_measure(s, &m);
}

static void die(struct large_world *w, int node, const char *which) {
    struct sim *s = w->s;
    struct victim v = look_at(w, node);
    size_t all = v.led_count;
    struct measure m = begin(s);
    usec_t first = 0, half = 0;
    printf("%s, %s, loses its power: it led %zu partitions and held %zu replicas\n", s->nodes[node].name,
           which, v.led_count, v.held);
    uint64_t receipted = s->result.receipted;
    node_power_off(s, node, AWAY_US);
    while (v.led_count) {
        sim_until(s, s->now + LOOK_US);
        strike_led(s, &v);
        first = !first && v.led_count < all ? s->now : first;
        half = !half && v.led_count <= all / 2 ? s->now : half;
        give_up_after(s, m.from, LED_US_MAX, "partitions are without a leader");
    }
    printf("    led again: the first after %lld ms, half after %lld ms, all after %lld ms; %llu receipts "
           "meanwhile\n",
           (long long)(first - m.from) / USEC_MS, (long long)(half - m.from) / USEC_MS,
           (long long)(s->now - m.from) / USEC_MS, (unsigned long long)(s->result.receipted - receipted));
    say_measure(s, &m);
    judge(w, &m, v.held);
    free(v.led);
    await_back(w, node, m.from);
}

/* The node that leads most of the sample, but not the controller's. */
static int worker(struct large_world *w) {
    struct sim *s = w->s;
    const struct metadata *m = map(s);
    int *leads = xcalloc((size_t)s->nodes_count, sizeof *leads), best = -1;
    for (uint64_t id = 1; id <= sample_size(s); id++)
        leads[leader_of(s, m, metadata_partition(m, id))->node]++;
    for (int i = 0; i < s->nodes_count; i++)
        if (i != sim_leading_controller(s)->node && (best < 0 || leads[i] > leads[best]))
            best = i;
    free(leads);
    return best;
}

/* All that was published has to come, with two nodes gone. */
static void finish(struct large_world *w) {
    struct sim *s = w->s;
    char why[200] = "";
    usec_t since = s->now;
    struct measure m = begin(s);
    s->stopping = true;
    while (!clients_done(s, why, sizeof why) || !checker_receipted_all_delivered(s, why, sizeof why)) {
        sim_until(s, s->now + 100 * USEC_MS);
        if (s->now - since > LED_US_MAX)
            sim_violation(s, "live", "not at rest: %s", why);
    }
    checker_letters(s);
    printf("publishers stop: all that was published has been delivered and settled\n");
    say_measure(s, &m);
}

bool large_run(const struct large *o, struct sim_result *out) {
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES); /* zeros of fresh files then take no memory */
    struct large_world w = {.s = sim_new(o->seed, o->trace, out), .o = o, .good = true};
    struct sim *s = w.s;
    draw(&w);
    printf("%d nodes, %llu partitions and a sample of %llu in use, seed %llu\n", o->nodes,
           (unsigned long long)o->partitions, (unsigned long long)sample_size(s),
           (unsigned long long)o->seed);
    make(&w);
    die(&w, worker(&w), "that leads most of the sample");
    sim_until(s, s->now + 2 * USEC_S);
    await_led(&w, 1, w.total);
    die(&w, sim_leading_controller(s)->node, "the leading controller's");
    finish(&w);
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    printf("trace %016llx\n%.1f s simulated, %llu events, %llu messages receipted; %.1f s of CPU, %ld MiB\n",
           (unsigned long long)s->result.trace, (double)s->now / USEC_S, (unsigned long long)s->result.events,
           (unsigned long long)s->result.receipted, cpu_seconds(), r.ru_maxrss / 1024);
    fflush(stdout);
    sim_end(s);
    return w.good;
}

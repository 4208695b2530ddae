// SPDX-License-Identifier: Apache-2.0
/*
 * Random operations against a model. The journal is opened again after clean
 * closes, crashes and power losses; what it then knows must be what the model
 * knew at one point between the last completed flush and the last operation.
 *
 * JOURNAL_SEEDS=n plays more, JOURNAL_SEED=n one, JOURNAL_VERBOSE=1 says which,
 * JOURNAL_OPS=1 what is done.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "rig.h"

enum { PARTITIONS = 5, LOG_MAX = 400, STEPS = 220, SEEDS = 300, SPOILT_BYTES_MAX = 600 };

struct model_entry {
    uint64_t epoch;
    uint32_t size;
    uint8_t type;
    bool there;
};

struct model_partition {
    bool known, dropped, damaged;
    uint64_t promise, base, base_epoch, last;
    struct model_entry log[LOG_MAX]; /* by index; at or below the base: live ones */
    uint64_t body;                   /* what the checkpoint's body says */
    bool checkpointed;
};

struct model {
    struct model_partition p[PARTITIONS];
};

enum op_kind { OP_ENTRY, OP_PROMISE, OP_TRUNCATE, OP_CHECKPOINT, OP_INSTALL, OP_DROP, OP_DAMAGE, OP_MENDED };

struct op {
    enum op_kind kind;
    int partition;
    uint64_t epoch, index, tag;
    uint64_t live[LOG_MAX];
    size_t live_count;
};

struct story {
    struct rig rig;
    struct rng rng;
    struct model safe; /* before ops[0] */
    struct model now;
    struct op *ops;
    uint64_t *op_ticket; /* of the turn each was written in */
    size_t count, capacity, tickets_capacity;
    uint64_t tag;
};

static uint64_t partition_id(int i) {
    return (uint64_t)(i + 1) * 0x100000001;
}

/* Same partition, index and epoch: same bytes. That holds between replicas, and
 * across a crash that lost an entry. */
static struct model_entry entry_of(int partition, uint64_t index, uint64_t epoch) {
    struct rng rng = {.state = (uint64_t)partition * 7919 + index * 104729 + epoch};
    uint8_t type = rng_below(&rng, 3) ? TYPE_BATCH : TYPE_SETTLEMENT;
    return (struct model_entry){epoch, (uint32_t)rng_below(&rng, type == TYPE_BATCH ? 1500 : 40), type, true};
}

static void model_base(struct model_partition *p, const struct op *op) {
    struct model_entry old[LOG_MAX];
    memcpy(old, p->log, sizeof old);
    for (uint64_t i = 1; i <= op->index; i++)
        p->log[i].there = false;
    for (size_t i = 0; i < op->live_count; i++)
        p->log[op->live[i]] = old[op->live[i]];
    p->base = op->index;
    p->base_epoch = op->epoch;
    p->body = op->tag;
    p->checkpointed = true;
    p->dropped = false;
    if (op->epoch > p->promise)
        p->promise = op->epoch;
}

static void model_install(struct model_partition *p, const struct op *op) {
    for (uint64_t i = 0; i < LOG_MAX; i++)
        p->log[i].there = false;
    for (size_t i = 0; i < op->live_count; i++)
        p->log[op->live[i]] = entry_of(op->partition, op->live[i], op->epoch);
    p->last = op->index;
    p->base = op->index;
    p->base_epoch = op->epoch;
    p->body = op->tag;
    p->checkpointed = true;
    p->dropped = false;
    if (op->epoch > p->promise)
        p->promise = op->epoch;
}

static void model_apply(struct model *m, const struct op *op) {
    struct model_partition *p = &m->p[op->partition];
    p->known = true;
    switch (op->kind) {
    case OP_ENTRY:
        p->log[op->index] = entry_of(op->partition, op->index, op->epoch);
        p->last = op->index;
        p->dropped = false;
        if (op->epoch > p->promise)
            p->promise = op->epoch;
        break;
    case OP_PROMISE:
        p->promise = op->epoch;
        break;
    case OP_TRUNCATE:
        for (uint64_t i = op->index + 1; i <= p->last; i++)
            p->log[i].there = false;
        p->last = op->index;
        break;
    case OP_CHECKPOINT:
        model_base(p, op);
        break;
    case OP_INSTALL:
        model_install(p, op);
        break;
    case OP_DROP: {
        uint64_t promise = op->epoch > p->promise ? op->epoch : p->promise;
        *p = (struct model_partition){.known = true, .dropped = true, .promise = promise};
        break;
    }
    case OP_DAMAGE:
        p->damaged = true;
        break;
    case OP_MENDED:
        p->damaged = false;
        break;
    }
}

/* ---- doing it ---- */

static void do_entry(struct story *s, const struct op *op) {
    struct model_entry e = entry_of(op->partition, op->index, op->epoch);
    struct body *b = rig_body(partition_id(op->partition), op->epoch, op->index, e.size);
    journal_write_entry(s->rig.journal, partition_id(op->partition), op->epoch, op->index, e.type, b);
    body_drop(b);
}

static void do_checkpoint(struct story *s, const struct op *op) {
    uint64_t id = partition_id(op->partition);
    struct journal_live live[LOG_MAX];
    struct body *body = body_copy(&op->tag, sizeof op->tag);
    struct journal_checkpoint c = {.base_index = op->index,
                                   .base_epoch = op->epoch,
                                   .live = live,
                                   .live_count = op->live_count,
                                   .body = body,
                                   .install = op->kind == OP_INSTALL};
    for (size_t i = 0; i < op->live_count; i++) {
        live[i] = (struct journal_live){op->live[i], c.install ? op->epoch : 0};
        if (!c.install)
            continue;
        struct body *b =
            rig_body(id, op->epoch, op->live[i], entry_of(op->partition, op->live[i], op->epoch).size);
        journal_write_staged(s->rig.journal, id, op->epoch, op->live[i], TYPE_BATCH, b);
        body_drop(b);
    }
    cr_assert_eq(journal_write_checkpoint(s->rig.journal, id, &c), ERR_OK);
    body_drop(body);
}

static void do_op(struct story *s, const struct op *op) {
    uint64_t id = partition_id(op->partition);
    struct journal *j = s->rig.journal;
    switch (op->kind) {
    case OP_ENTRY:
        do_entry(s, op);
        break;
    case OP_PROMISE:
        journal_write_promise(j, id, op->epoch);
        break;
    case OP_TRUNCATE:
        journal_write_truncate(j, id, op->index);
        break;
    case OP_CHECKPOINT:
    case OP_INSTALL:
        do_checkpoint(s, op);
        break;
    case OP_DROP:
        journal_write_drop(j, id, op->epoch);
        break;
    case OP_DAMAGE:
        journal_write_damage(j, id, op->index);
        break;
    case OP_MENDED:
        journal_write_mended(j, id);
        break;
    }
}

static void commit_op(struct story *s, const struct op *op) {
    xgrow(&s->ops, &s->capacity, s->count + 1, sizeof *s->ops);
    xgrow(&s->op_ticket, &s->tickets_capacity, s->count + 1, sizeof *s->op_ticket);
    if (getenv("JOURNAL_OPS"))
        fprintf(stderr, "op %d p%d index %llu epoch %llu\n", op->kind, op->partition,
                (unsigned long long)op->index, (unsigned long long)op->epoch);
    s->ops[s->count] = *op;
    do_op(s, op);
    model_apply(&s->now, op);
    /* the ticket it gets is that of the next flush */
    s->op_ticket[s->count++] = 0;
}

/* ---- comparing ---- */

static bool same_entry(struct rig *r, uint64_t id, uint64_t index, const struct model_entry *e) {
    struct journal_location at;
    enum err got = journal_locate(r->journal, id, index, &at);
    if (got != ERR_OK)
        return !e->there && got == ERR_NOT_FOUND;
    body_drop(at.in_flight);
    return e->there && at.epoch == e->epoch && at.type == e->type && at.bytes == e->size &&
           rig_has(r, id, e->epoch, index, e->size);
}

static bool same_body(struct rig *r, uint64_t id, const struct model_partition *m) {
    struct body *b;
    if (journal_read_checkpoint(r->journal, id, &b) != ERR_OK)
        return !m->checkpointed;
    /* a carried one may be empty */
    bool same =
        m->checkpointed ? b->size == sizeof m->body && memcmp(b->data, &m->body, b->size) == 0 : b->size == 0;
    body_drop(b);
    return same;
}

static bool same_partition(struct rig *r, int i, const struct model_partition *m) {
    struct journal_partition p;
    uint64_t id = partition_id(i);
    if (!journal_get(r->journal, id, &p))
        return !m->known;
    if (!m->known || p.promise != m->promise || p.last_index != m->last || p.base_index != m->base ||
        p.base_epoch != m->base_epoch || p.dropped != m->dropped || p.damaged != m->damaged || p.promise_lost)
        return false;
    for (uint64_t index = 1; index < LOG_MAX; index++)
        if (!same_entry(r, id, index, &m->log[index]))
            return false;
    return same_body(r, id, m);
}

static bool same(struct rig *r, const struct model *m) {
    for (int i = 0; i < PARTITIONS; i++)
        if (!same_partition(r, i, &m->p[i]))
            return false;
    return true;
}

/* For a person looking at a failed seed. */
static void show_difference(struct rig *r, const struct model *m) {
    for (int i = 0; i < PARTITIONS; i++) {
        struct journal_partition p = {0};
        const struct model_partition *w = &m->p[i];
        if (same_partition(r, i, w))
            continue;
        bool known = journal_get(r->journal, partition_id(i), &p);
        fprintf(
            stderr,
            "partition %d: known %d promise %llu base %llu/%llu last %llu dropped %d damaged %d lost %d\n", i,
            known, (unsigned long long)p.promise, (unsigned long long)p.base_index,
            (unsigned long long)p.base_epoch, (unsigned long long)p.last_index, p.dropped, p.damaged,
            p.promise_lost);
        fprintf(stderr, "      model: known %d promise %llu base %llu/%llu last %llu dropped %d damaged %d\n",
                w->known, (unsigned long long)w->promise, (unsigned long long)w->base,
                (unsigned long long)w->base_epoch, (unsigned long long)w->last, w->dropped, w->damaged);
        for (uint64_t index = 1; index < LOG_MAX; index++)
            if (!same_entry(r, partition_id(i), index, &w->log[index]))
                fprintf(stderr, "      index %llu, in the model: %d epoch %llu size %u\n",
                        (unsigned long long)index, w->log[index].there,
                        (unsigned long long)w->log[index].epoch, w->log[index].size);
    }
}

/* ---- random steps ---- */

static void pick_live(struct story *s, const struct model_partition *p, struct op *op) {
    for (uint64_t i = 1; i <= op->index; i++)
        if (p->log[i].there && p->log[i].type == TYPE_BATCH && rng_below(&s->rng, 3) == 0)
            op->live[op->live_count++] = i;
}

static uint64_t epoch_at(const struct model_partition *p, uint64_t index) {
    return index == p->base ? p->base_epoch : p->log[index].epoch;
}

static bool make_op(struct story *s, struct op *op) {
    *op = (struct op){.partition = (int)rng_below(&s->rng, PARTITIONS), .tag = ++s->tag};
    const struct model_partition *p = &s->now.p[op->partition];
    uint64_t least = p->last == p->base ? p->base_epoch : p->log[p->last].epoch;
    least = least > p->promise ? least : p->promise;
    least += least == 0;
    unsigned n = (unsigned)rng_below(&s->rng, 100);
    if (n < 62) {
        op->kind = OP_ENTRY;
        op->epoch = least + rng_below(&s->rng, 8) / 7;
        op->index = p->last + 1;
        return op->index < LOG_MAX;
    }
    if (n < 72) {
        op->kind = OP_PROMISE;
        op->epoch = p->promise + 1;
    } else if (n < 80) {
        op->kind = OP_TRUNCATE;
        op->index = p->base + rng_below(&s->rng, p->last - p->base + 1);
        return op->index < p->last;
    } else if (n < 92) {
        op->kind = OP_CHECKPOINT;
        op->index = p->base + rng_below(&s->rng, p->last - p->base + 1);
        op->epoch = epoch_at(p, op->index);
        pick_live(s, p, op);
        return op->index > 0;
    } else if (n < 95) {
        op->kind = OP_INSTALL;
        op->epoch = least;
        op->index = 1 + rng_below(&s->rng, LOG_MAX / 2);
        for (uint64_t i = 1; i <= op->index; i += 1 + rng_below(&s->rng, 9))
            if (entry_of(op->partition, i, op->epoch).type == TYPE_BATCH)
                op->live[op->live_count++] = i;
    } else if (n < 97) {
        op->kind = OP_DROP;
        op->epoch = rng_below(&s->rng, 20);
    } else {
        op->kind = p->damaged ? OP_MENDED : OP_DAMAGE;
        op->index = 1;
    }
    return true;
}

static void flush(struct story *s) {
    uint64_t ticket = journal_flush(s->rig.journal);
    for (size_t i = s->count; i-- > 0 && s->op_ticket[i] == 0;)
        s->op_ticket[i] = ticket;
}

/* What is known now is where the next story begins. */
static void settle(struct story *s, size_t ops) {
    for (size_t i = 0; i < ops; i++)
        model_apply(&s->safe, &s->ops[i]);
    s->now = s->safe;
    s->count = 0;
}

static void reopen_cleanly(struct story *s) {
    if (getenv("JOURNAL_OPS"))
        fprintf(stderr, "reopen\n");
    flush(s);
    rig_run(&s->rig);
    rig_close(&s->rig);
    cr_assert_eq(rig_open(&s->rig), ERR_OK);
    settle(s, s->count);
    if (!same(&s->rig, &s->now)) {
        show_difference(&s->rig, &s->now);
        cr_assert_fail("state differs after a clean close");
    }
}

/* The disk stops in the middle of what is queued: some of it is written, not
 * synced, and so torn by the loss of power. */
static void run_partly(struct story *s) {
    flush(s);
    mem_disk_fail_after(s->rig.disk, 1 + (int)rng_below(&s->rng, 8));
    rig_run(&s->rig);
}

/* Recoveries that do not get to their end. */
static void recover_partly(struct story *s) {
    while (rng_below(&s->rng, 3) == 0) {
        mem_disk_fail_after(s->rig.disk, 1 + (int)rng_below(&s->rng, 12));
        if (rig_open(&s->rig) == ERR_OK)
            rig_abandon(&s->rig);
        mem_disk_crash(s->rig.disk, &s->rng);
    }
}

static void crash(struct story *s, bool power) {
    size_t least = 0;
    if (getenv("JOURNAL_OPS"))
        fprintf(stderr, "crash\n");
    if (power && rng_below(&s->rng, 2))
        run_partly(s);
    uint64_t synced = journal_synced(s->rig.journal);
    while (least < s->count && s->op_ticket[least] && s->op_ticket[least] <= synced)
        least++;
    rig_abandon(&s->rig);
    if (power) {
        mem_disk_crash(s->rig.disk, &s->rng);
        recover_partly(s);
    }
    cr_assert_eq(rig_open(&s->rig), ERR_OK);
    struct model *m = xmalloc(sizeof *m);
    *m = s->safe;
    for (size_t k = 0; k <= s->count; k++) {
        if (k >= least && same(&s->rig, m)) {
            settle(s, k);
            free(m);
            return;
        }
        if (k < s->count)
            model_apply(m, &s->ops[k]);
    }
    show_difference(&s->rig, m);
    cr_assert_fail("nothing between op %zu and %zu of %zu matches", least, s->count, s->count);
}

static void owner_checkpoint(void *ctx, uint64_t partition) {
    struct story *s = ctx;
    int i = (int)(partition / 0x100000001) - 1;
    const struct model_partition *p = &s->now.p[i];
    if (p->dropped || p->last == 0 || rng_below(&s->rng, 2)) {
        journal_carry(s->rig.journal, partition);
        return;
    }
    struct op op = {.kind = OP_CHECKPOINT, .partition = i, .tag = ++s->tag, .index = p->last};
    op.epoch = epoch_at(p, op.index);
    pick_live(s, p, &op);
    commit_op(s, &op);
}

static void step(struct story *s) {
    static struct op op; /* large */
    unsigned n = (unsigned)rng_below(&s->rng, 1000);
    if (n < 700) {
        if (make_op(s, &op))
            commit_op(s, &op);
    } else if (n < 820) {
        flush(s);
    } else if (n < 900) {
        rig_run(&s->rig);
    } else if (n < 980) {
        if (journal_reclaim(s->rig.journal) == JOURNAL_WAITS)
            journal_needs_checkpoint(s->rig.journal, owner_checkpoint, s);
    } else if (n < 985) {
        reopen_cleanly(s);
    } else {
        crash(s, n >= 988);
    }
}

static void play(uint64_t seed) {
    if (getenv("JOURNAL_VERBOSE"))
        fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    struct story *s = xcalloc(1, sizeof *s);
    s->rng.state = seed;
    rig_new(&s->rig);
    s->rig.options.space_target = rng_below(&s->rng, 2) * 65536;
    cr_assert_eq(rig_open(&s->rig), ERR_OK);
    for (int i = 0; i < STEPS; i++)
        step(s);
    crash(s, true);
    reopen_cleanly(s);
    rig_free(&s->rig);
    free(s->ops);
    free(s->op_ticket);
    free(s);
}

/* ---- random damage ---- */

/* What is trusted must be right; the rest must be reported. Where nobody can say
 * what was lost (it may have been a promise, a truncate, a checkpoint), what stands
 * before the damage is what was there once. */
static void check_reported(struct rig *r, int i, const struct model_partition *m, uint64_t seed) {
    struct journal_partition p;
    uint64_t id = partition_id(i);
    if (!m->known)
        return;
    if (!journal_get(r->journal, id, &p)) {
        cr_assert(r->recovered.lost || journal_suspect(r->journal, id), "seed %d: partition %d is gone",
                  (int)seed, i);
        return;
    }
    cr_assert(p.promise_lost || p.promise == m->promise, "seed %d: promise of %d", (int)seed, i);
    cr_assert(p.damaged || (p.last_index == m->last && p.base_index == m->base && p.dropped == m->dropped),
              "seed %d: shape of %d", (int)seed, i);
    for (uint64_t index = 1; index < LOG_MAX; index++) {
        struct journal_location at;
        struct body *body;
        bool trusted = !p.damaged || index < p.damaged_from;
        enum err e = journal_locate(r->journal, id, index, &at);
        if (e == ERR_OK)
            e = journal_read(r->journal, &at, &body);
        if (e == ERR_OK) {
            body_drop(body);
            cr_assert(rig_has(r, id, at.epoch, index, entry_of(i, index, at.epoch).size), "seed %d",
                      (int)seed);
        }
        if (!trusted || p.promise_lost || e == ERR_DAMAGED)
            continue;
        bool right =
            e == ERR_OK ? m->log[index].there && at.epoch == m->log[index].epoch : !m->log[index].there;
        cr_assert(right || (p.damaged && e == ERR_OK), "seed %d: %d/%d", (int)seed, i, (int)index);
    }
}

static void spoil(struct story *s) {
    size_t size;
    const char *name = mem_disk_name(s->rig.disk, (size_t)rng_below(&s->rng, mem_disk_count(s->rig.disk)));
    uint8_t *bytes = mem_disk_bytes(s->rig.disk, name, &size);
    size_t from = (size_t)rng_below(&s->rng, size), length = 1 + (size_t)rng_below(&s->rng, SPOILT_BYTES_MAX);
    if (rng_below(&s->rng, 4) == 0)
        length = 1;
    for (size_t at = from; at < size && at < from + length; at++)
        bytes[at] ^= (uint8_t)(1 + rng_below(&s->rng, 255));
}

static void play_damage(uint64_t seed) {
    struct story *s = xcalloc(1, sizeof *s);
    s->rng.state = seed * 77777;
    rig_new(&s->rig);
    cr_assert_eq(rig_open(&s->rig), ERR_OK);
    for (int i = 0; i < STEPS / 2; i++)
        step(s);
    for (int i = 0; i < PARTITIONS; i++)
        if (s->now.p[i].damaged) /* only what is found is of interest */
            commit_op(s, &(struct op){.kind = OP_MENDED, .partition = i});
    flush(s);
    rig_run(&s->rig);
    /* two proofs, further apart than what is spoilt */
    rig_entry(&s->rig, partition_id(PARTITIONS), 1, 1, SPOILT_BYTES_MAX);
    rig_sync(&s->rig);
    journal_prove(s->rig.journal);
    rig_sync(&s->rig);
    rig_close(&s->rig);
    mem_disk_settle(s->rig.disk);
    spoil(s);
    for (int round = 0; round < 2; round++) {
        cr_assert_eq(rig_open(&s->rig), ERR_OK);
        for (int i = 0; i < PARTITIONS; i++)
            check_reported(&s->rig, i, &s->now.p[i], seed);
        rig_close(&s->rig);
    }
    mem_disk_free(s->rig.disk);
    free(s->ops);
    free(s->op_ticket);
    free(s);
}

Test(model, random_damage_is_never_silent) {
    const char *more = getenv("JOURNAL_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++)
        play_damage(seed);
}

Test(model, random_operations_and_crashes) {
    const char *only = getenv("JOURNAL_SEED");
    if (only) {
        play(strtoull(only, NULL, 10));
        return;
    }
    const char *more = getenv("JOURNAL_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++)
        play(seed);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What becomes of an event: it changes what is known of a partition (struct
 * watch) or of the operation under way (struct op); control_review() then says
 * what the partition needs next. Nothing else starts an operation but the plan
 * (control_change.c) and requests.
 */
#include "cluster/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "cluster/control_private.h"

struct control *control_new(const struct control_options *o, const struct metadata *m,
                            const struct detector *d) {
    struct control *c = xcalloc(1, sizeof *c);
    c->options = *o;
    c->options.cool = o->cool ? o->cool : CONTROL_COOL_US;
    c->options.settle = o->settle ? o->settle : CONTROL_SETTLE_US;
    c->m = m;
    c->d = d;
    return c;
}

static void stir(struct control *c, struct watch *w) {
    if (!w->stirred)
        DL_APPEND2(c->stirred, w, stir_prev, stir_next);
    w->stirred = true;
}

static void settle(struct control *c, struct watch *w) {
    if (w->stirred)
        DL_DELETE2(c->stirred, w, stir_prev, stir_next);
    w->stirred = false;
}

static void watch_free(struct control *c, struct watch *w) {
    if (w->op)
        op_end(c, w->op);
    settle(c, w);
    if (w->queued) {
        DL_DELETE(c->queue, w);
        c->queue_count--;
    }
    HASH_DEL(c->watches, w);
    free(w);
}

void control_stop(struct control *c) {
    struct watch *w, *next;
    HASH_ITER(hh, c->watches, w, next)
    watch_free(c, w);
    memset(c->leaders, 0, sizeof c->leaders);
    c->ready_count = c->dropped_count = 0;
    c->trouble_count = c->unled = 0;
    c->running = false;
}

void control_free(struct control *c) {
    if (!c)
        return;
    control_stop(c);
    struct load *l, *next;
    HASH_ITER(hh, c->loads, l, next) {
        HASH_DEL(c->loads, l);
        free(l);
    }
    free(c->ready);
    free(c->dropped);
    free(c);
}

bool control_running(const struct control *c) {
    return c->running;
}

/* ---- questions ---- */

const struct metadata_partition *control_partition(const struct control *c, const struct watch *w) {
    return metadata_partition(c->m, w->partition);
}

bool control_usable(const struct control *c, member_t member) {
    return detector_usable(detector_member(c->d, member));
}

bool control_majority(const struct control *c, const struct replica_set *set) {
    uint32_t usable = 0;
    for (uint32_t i = 0; i < set->count; i++)
        usable += control_usable(c, set->members[i]);
    return usable * 2 > set->count;
}

bool control_led(const struct control *c, const struct watch *w, const struct metadata_partition *p) {
    return w->led_epoch == p->record.epoch;
}

struct control_counts control_counts(const struct control *c) {
    return (struct control_counts){
        .seals = c->ops_count, .moves = c->moves, .changes = c->changes, .waiting = c->queue_count};
}

/* ---- operations ---- */

struct op *op_begin(struct control *c, struct watch *w, enum op_kind kind, const char *why, usec_t now) {
    CHECK(!w->op);
    struct op *op = xcalloc(1, sizeof *op);
    op->watch = w;
    op->kind = kind;
    op->why = why;
    op->started_at = now;
    op->give_up_at = kind == OP_SEAL ? USEC_NEVER : now + CONTROL_PLANNED_US;
    w->op = op;
    DL_APPEND(c->ops, op);
    c->ops_count++;
    c->moves += kind == OP_MOVE;
    c->changes += kind == OP_CHANGE;
    return op;
}

void op_end(struct control *c, struct op *op) {
    struct watch *w = op->watch;
    const struct metadata_partition *p = control_partition(c, w);
    w->op = NULL;
    stir(c, w);
    DL_DELETE(c->ops, op);
    c->ops_count--;
    c->moves -= op->kind == OP_MOVE;
    c->changes -= op->kind == OP_CHANGE;
    if (p)
        control_lead_counted(c, w, p->record.leader);
    free(op);
}

/* ---- review: what does this partition need? ---- */

static void queue_push(struct control *c, struct watch *w) {
    if (w->queued)
        return;
    w->queued = true;
    DL_APPEND(c->queue, w);
    c->queue_count++;
}

static void seal_wanted(struct control *c, struct watch *w, const struct metadata_partition *p,
                        const char *why, usec_t now, struct control_effects *fx) {
    if (!seal_possible(c, &p->record)) {
        w->blocked = true;
        return;
    }
    w->blocked = false;
    if (c->ops_count >= CONTROL_SEALS_MAX) {
        queue_push(c, w);
        return;
    }
    if (c->trouble_count++ == 0)
        c->trouble_at = now;
    seal_start(c, op_begin(c, w, OP_SEAL, why, now), now, fx);
}

static const char *seal_reason(const struct control *c, const struct watch *w,
                               const struct metadata_partition *p) {
    const struct replica_record *r = &p->record;
    enum detector_health h = detector_member(c->d, r->leader);
    if (!metadata_node_of(c->m, r->leader, NULL))
        return "its leader's disk is another";
    if (h == DETECTOR_GONE)
        return "its leader is gone";
    if (h == DETECTOR_DEAD)
        return "its leader is dead";
    if (w->cannot_epoch == r->epoch)
        return "its leader cannot lead";
    if (w->promise_seen > r->epoch)
        return "superseded";
    if (w->mended)
        return "mended";
    if (r->activating && !control_majority(c, &r->current))
        return "the new set has no majority";
    if (!control_led(c, w, p) && w->led_tries >= CONTROL_LED_TRIES_MAX)
        return "not led";
    return NULL;
}

void control_review(struct control *c, struct watch *w, usec_t now, struct control_effects *fx) {
    const struct metadata_partition *p = control_partition(c, w);
    stir(c, w);
    if (w->op || metadata_quarantined(p))
        return;
    const struct replica_record *r = &p->record;
    const char *why = seal_reason(c, w, p);
    if (why) {
        seal_wanted(c, w, p, why, now, fx);
        return;
    }
    w->blocked = false;
    if (!control_led(c, w, p) || r->activating)
        return;
    if (!replica_set_has(&r->current, r->leader)) {
        if (now >= w->cool_until &&
            !move_start(c, w, change_best(c, r, 0), "not in the set any more", now, fx))
            w->cool_until = now + CONTROL_SWEEP_US;
    } else if (r->learners.count && (!w->asked_at || now >= w->asked_at + CONTROL_PROPOSE_US)) {
        /* left over from a controller before: nobody waits for them */
        change_propose_learners(c, w, &(struct replica_set){0}, now, fx);
    }
}

/* ---- leadership ---- */

static struct watch *watch_of(struct control *c, uint64_t partition) {
    struct watch *w;
    HASH_FIND(hh, c->watches, &partition, sizeof partition, w);
    return w;
}

static struct watch *watch_make(struct control *c, const struct metadata_partition *p, usec_t now) {
    struct watch *w = watch_of(c, p->id);
    if (!w) {
        w = xcalloc(1, sizeof *w);
        w->partition = p->id;
        w->version = p->record.version;
        w->epoch = p->record.epoch;
        w->epoch_at = now;
        w->led_due = now + CONTROL_LED_US;
        HASH_ADD(hh, c->watches, partition, sizeof w->partition, w);
        control_lead_counted(c, w, p->record.leader);
    }
    return w;
}

void control_start(struct control *c, uint64_t term, usec_t now, struct control_effects *fx) {
    control_stop(c);
    c->running = true;
    c->term = term;
    c->started_at = now;
    c->sweep_at = c->drops_at = now;
    c->plan_at = now + c->options.settle;
    c->plan_wanted = true;
    for (const struct metadata_partition *p = metadata_partition_next(c->m, 0); p;
         p = metadata_partition_next(c->m, p->id))
        control_review(c, watch_make(c, p, now), now, fx);
}

/* ---- applied metadata ---- */

static void say_epoch(struct control *c, const struct watch *w, const struct metadata_partition *p,
                      usec_t now, struct control_effects *fx) {
    char name[NAME_BYTES_MAX + 16];
    const struct replica_record *r = &p->record;
    if (w->op)
        control_say(c, fx, "%s epoch %llu -> %llu, leader %s%s, %lld us after: %s", control_name(c, p, name),
                    (unsigned long long)w->epoch, (unsigned long long)r->epoch, control_node(c, r->leader),
                    r->activating ? ", activating" : "", (long long)(now - w->op->started_at), w->op->why);
    else
        control_say(c, fx, "%s epoch %llu -> %llu, leader %s", control_name(c, p, name),
                    (unsigned long long)w->epoch, (unsigned long long)r->epoch, control_node(c, r->leader));
}

static void epoch_changed(struct control *c, struct watch *w, const struct metadata_partition *p, usec_t now,
                          struct control_effects *fx) {
    say_epoch(c, w, p, now, fx);
    if (w->op) {
        if (w->op->kind == OP_MOVE || w->op->kind == OP_CHANGE)
            w->cool_until = now + c->options.cool;
        op_end(c, w->op);
    }
    w->epoch = p->record.epoch;
    w->epoch_at = now;
    w->led_due = now + CONTROL_LED_US * (1 + w->led_rounds);
    w->led_tries = 0;
    w->mended = false;
    if (w->leader != p->record.leader)
        control_lead_counted(c, w, p->record.leader);
}

static void partition_changed(struct control *c, uint64_t id, usec_t now, struct control_effects *fx) {
    const struct metadata_partition *p = metadata_partition(c->m, id);
    struct watch *w = watch_of(c, id);
    if (!p) {
        if (w)
            watch_free(c, w);
        return;
    }
    bool fresh = !w;
    w = watch_make(c, p, now);
    if (!fresh && w->version == p->record.version)
        return;
    w->version = p->record.version;
    w->asked_at = 0;
    control_send_record(p, fx);
    if (w->epoch != p->record.epoch)
        epoch_changed(c, w, p, now, fx);
    else if (w->op &&
             w->op->stage == STAGE_COMMIT) /* settings changed meanwhile: what was proposed is stale */
        w->op->base_version = w->version;
    else if (w->op)
        change_applied(c, w->op, &p->record, now, fx);
    control_review(c, w, now, fx);
}

/* Members may have become nobody's, or another node's. */
static void nodes_changed(struct control *c, usec_t now, struct control_effects *fx) {
    struct watch *w, *next;
    control_leads_recount(c);
    change_nodes_changed(c, now, fx);
    HASH_ITER(hh, c->watches, w, next)
    control_review(c, w, now, fx);
}

void control_applied(struct control *c, const struct metadata_changes *changes, usec_t now,
                     struct control_effects *fx) {
    if (!c->running)
        return;
    if (changes->everything) {
        control_start(c, c->term, now, fx);
        return;
    }
    for (size_t i = 0; i < changes->partitions_count; i++)
        partition_changed(c, changes->partitions[i], now, fx);
    if (changes->nodes_count)
        nodes_changed(c, now, fx);
    if (changes->drops_count)
        c->drops_at = now;
    c->plan_wanted |= changes->nodes_count || changes->partitions_count;
}

void control_proposed(struct control *c, uint64_t tag, enum err code, usec_t now,
                      struct control_effects *fx) {
    struct op *op, *next;
    (void)code;
    if (!c->running)
        return;
    DL_FOREACH_SAFE(c->ops, op, next) {
        /* applied and still waiting: this change was refused */
        if (op->stage != STAGE_COMMIT || op->tag != tag)
            continue;
        struct watch *w = op->watch;
        op_end(c, op);
        control_review(c, w, now, fx);
    }
}

/* ---- members ---- */

static void op_member(struct control *c, struct op *op, member_t member, usec_t now,
                      struct control_effects *fx) {
    const struct metadata_partition *p = control_partition(c, op->watch);
    bool usable = control_usable(c, member);
    if (op->stage == STAGE_SEAL) {
        seal_member(c, op, member, now, fx);
        return;
    }
    bool needed = member == p->record.leader || member == op->target || replica_set_has(&op->set, member);
    if (!usable && needed && (op->stage == STAGE_HOLD || op->stage == STAGE_LEARN))
        change_give_up(c, op, "a member of it is gone", now, fx);
}

void control_node_changed(struct control *c) {
    c->plan_wanted = true;
}

void control_member(struct control *c, member_t member, enum detector_health health, usec_t now,
                    struct control_effects *fx) {
    (void)health;
    if (!c->running)
        return;
    struct op *op, *next_op;
    DL_FOREACH_SAFE(c->ops, op, next_op)
    op_member(c, op, member, now, fx);
    bool usable = control_usable(c, member);
    struct watch *w, *next;
    HASH_ITER(hh, c->watches, w, next) {
        if (w->op)
            continue;
        const struct metadata_partition *p = control_partition(c, w);
        if (w->blocked || p->record.leader == member || (p->record.activating && !usable))
            control_review(c, w, now, fx);
    }
    c->plan_wanted = true;
    if (usable)
        c->drops_at = now;
}

/* ---- answers and reports ---- */

void control_on_sealed(struct control *c, uint64_t partition, const struct replica_sealed *m, bool unknown,
                       usec_t now, struct control_effects *fx) {
    struct watch *w = c->running ? watch_of(c, partition) : NULL;
    if (w && w->op)
        seal_answer(c, w->op, m, unknown, now, fx);
    else if (w && m->promise > w->promise_seen)
        w->promise_seen = m->promise;
}

static void on_led(struct control *c, struct watch *w, const struct metadata_partition *p, usec_t now,
                   struct control_effects *fx) {
    if (control_led(c, w, p))
        return;
    w->led_epoch = p->record.epoch;
    w->led_at = now;
    w->led_tries = w->led_rounds = 0;
    control_review(c, w, now, fx);
    if (!replica_set_has(&p->record.current, p->record.leader) || metadata_drops_count(c->m))
        c->drops_at = now;
    c->plan_wanted = true;
}

/* Nobody leads now: what waits for its leader (learners to catch up, a hold) would
 * wait for ever. */
static void on_cannot(struct control *c, struct watch *w, uint64_t epoch, usec_t now,
                      struct control_effects *fx) {
    struct op *op = w->op;
    w->cannot_epoch = epoch;
    if (w->led_epoch == epoch)
        w->led_epoch = 0;
    if (op && (op->stage == STAGE_HOLD || op->stage == STAGE_LEARN))
        change_give_up(c, op, "its leader cannot lead", now, fx);
    control_review(c, w, now, fx);
}

static void on_superseded(struct control *c, struct watch *w, uint64_t promise, usec_t now,
                          struct control_effects *fx) {
    if (promise > w->promise_seen)
        w->promise_seen = promise;
    struct op *op = w->op;
    if (op && op->stage == STAGE_SEAL && promise > op->number)
        seal_start(c, op, now, fx);
    else if (op && (op->stage == STAGE_HOLD || op->stage == STAGE_LEARN))
        change_give_up(c, op, "superseded", now, fx);
    control_review(c, w, now, fx);
}

static void on_activated(struct control *c, struct watch *w, const struct metadata_partition *p, usec_t now,
                         struct control_effects *fx) {
    if (!p->record.activating || w->op || (w->asked_at && now < w->asked_at + CONTROL_PROPOSE_US))
        return;
    struct command command = {
        .type = COMMAND_ACTIVATED,
        .partition = {.partition = p->id, .base_version = p->record.version, .epoch = p->record.epoch}};
    w->asked_at = now;
    control_propose(c, &command, fx);
}

static void damaged_set(struct watch *w, member_t member, bool damaged) {
    struct replica_set *s = &w->damaged;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->members[i] == member && !damaged)
            s->members[i] = s->members[--s->count];
    }
    if (damaged && !replica_set_has(s, member) && s->count < REPLICA_SET_MAX)
        s->members[s->count++] = member;
}

static void on_crashed(struct control *c, const struct metadata_partition *p, const struct control_report *r,
                       struct control_effects *fx) {
    char name[NAME_BYTES_MAX + 16];
    if (r->epoch <= p->crash_epoch && r->crashes <= p->crashes)
        return;
    struct command command = {.type = COMMAND_CRASHES,
                              .crashes = {.partition = p->id, .epoch = r->epoch, .crashes = r->crashes}};
    control_say(c, fx, "%s brought a shard of %s down", control_name(c, p, name), control_node(c, r->from));
    control_propose(c, &command, fx);
}

static void on_dropped(struct control *c, const struct control_report *r) {
    if (!metadata_drop_find(c->m, r->partition, r->from) || c->dropped_count == COMMAND_RECORDS_MAX)
        return; /* told again after CONTROL_DROP_RETRY_US */
    xgrow(&c->dropped, &c->dropped_capacity, c->dropped_count + 1, sizeof *c->dropped);
    c->dropped[c->dropped_count++] = (struct drop_done){.partition = r->partition, .member = r->from};
}

void control_on_report(struct control *c, const struct control_report *r, usec_t now,
                       struct control_effects *fx) {
    if (!c->running)
        return;
    if (r->kind == CONTROL_DROPPED) {
        on_dropped(c, r);
        return;
    }
    struct watch *w = watch_of(c, r->partition);
    if (!w)
        return;
    const struct metadata_partition *p = control_partition(c, w);
    bool now_leads = r->from == p->record.leader && r->epoch == p->record.epoch;
    switch (r->kind) {
    case CONTROL_ACTIVATED:
        if (now_leads)
            on_activated(c, w, p, now, fx);
        break;
    case CONTROL_SUPERSEDED:
        on_superseded(c, w, r->epoch, now, fx);
        break;
    case CONTROL_CANNOT:
        if (now_leads && !metadata_quarantined(p))
            on_cannot(c, w, r->epoch, now, fx);
        break;
    case CONTROL_CAUGHT_UP:
        if (w->op && w->op->stage == STAGE_LEARN && r->from == p->record.leader)
            change_caught_up(c, w->op, r->peer, now, fx);
        break;
    case CONTROL_DAMAGED:
        damaged_set(w, r->from, true);
        if (now_leads && !metadata_quarantined(p)) /* it has stopped, and says nothing else while damaged */
            on_cannot(c, w, r->epoch, now, fx);
        break;
    case CONTROL_MENDED:
        w->mended |= replica_set_has(&w->damaged, r->from);
        damaged_set(w, r->from, false);
        control_review(c, w, now, fx);
        break;
    case CONTROL_LED:
        if (now_leads)
            on_led(c, w, p, now, fx);
        break;
    case CONTROL_HELD:
        if (w->op && w->op->stage == STAGE_HOLD && r->from == p->record.leader)
            seal_start(c, w->op, now, fx);
        break;
    case CONTROL_CRASHED:
        on_crashed(c, p, r, fx);
        break;
    case CONTROL_DROPPED:
        break;
    }
}

void control_load(struct control *c, member_t member, uint64_t value) {
    struct load *l;
    HASH_FIND(hh, c->loads, &member, sizeof member, l);
    if (!l) {
        l = xcalloc(1, sizeof *l);
        l->member = member;
        HASH_ADD(hh, c->loads, member, sizeof l->member, l);
    }
    l->value = value;
}

/* ---- the end of a turn ---- */

static void emit_records(struct control *c, struct control_effects *fx) {
    for (size_t at = 0; at < c->ready_count; at += COMMAND_RECORDS_MAX) {
        size_t n = c->ready_count - at < COMMAND_RECORDS_MAX ? c->ready_count - at : COMMAND_RECORDS_MAX;
        struct command command = {.type = COMMAND_RECORDS,
                                  .records = {.count = (uint32_t)n, .changes = c->ready + at}};
        uint64_t tag = control_propose(c, &command, fx);
        for (size_t i = at; i < at + n; i++) {
            struct watch *w = watch_of(c, c->ready[i].partition);
            if (w && w->op && w->op->stage == STAGE_COMMIT && w->op->tag == 0)
                w->op->tag = tag;
        }
    }
    c->ready_count = 0;
}

static void emit_dropped(struct control *c, struct control_effects *fx) {
    if (c->dropped_count == 0)
        return;
    struct command command = {.type = COMMAND_DROPPED,
                              .dropped = {.count = (uint32_t)c->dropped_count, .done = c->dropped}};
    control_propose(c, &command, fx);
    c->dropped_count = 0;
}

void control_pump(struct control *c, usec_t now, struct control_effects *fx) {
    if (!c->running)
        return;
    while (c->queue && c->ops_count < CONTROL_SEALS_MAX) {
        struct watch *w = c->queue;
        DL_DELETE(c->queue, w);
        c->queue_count--;
        w->queued = false;
        control_review(c, w, now, fx);
    }
    emit_records(c, fx);
    emit_dropped(c, fx);
    if (c->trouble_count && c->ops_count == 0 && c->queue_count == 0) {
        control_say(c, fx, "%zu partitions have new leaders, %lld us after the first seal", c->trouble_count,
                    (long long)(now - c->trouble_at));
        c->trouble_count = 0;
    }
    c->said = 0;
}

/* ---- time ---- */

usec_t control_deadline(const struct control *c) {
    if (!c->running)
        return USEC_NEVER;
    usec_t at = c->sweep_at;
    struct op *op;
    DL_FOREACH(c->ops, op) {
        if (op->deadline < at)
            at = op->deadline;
    }
    return at;
}

static void op_tick(struct control *c, struct op *op, usec_t now, struct control_effects *fx) {
    struct watch *w = op->watch;
    if (op->stage == STAGE_COMMIT) { /* nobody answered: from the start, above it */
        op_end(c, op);
        control_review(c, w, now, fx);
    } else if (op->stage != STAGE_SEAL || now >= op->give_up_at) {
        change_give_up(c, op, "not done in time", now, fx);
    } else {
        seal_tick(c, op, now, fx);
    }
}

/* No word from the leader: tell it again; after some tries seal anew, ever slower. */
static void sweep_unled(struct control *c, struct watch *w, const struct metadata_partition *p, usec_t now,
                        struct control_effects *fx) {
    if (control_led(c, w, p) || now < w->led_due || metadata_quarantined(p))
        return;
    w->led_due = now + CONTROL_LED_US * (1 + w->led_rounds);
    control_effect_add(fx, CONTROL_SEND_RECORD, p->record.leader, p->id);
    if (++w->led_tries >= CONTROL_LED_TRIES_MAX && w->led_rounds < CONTROL_LED_SLOW_MAX)
        w->led_rounds++;
}

static void sweep_crashes(struct control *c, struct watch *w, const struct metadata_partition *p, usec_t now,
                          struct control_effects *fx) {
    if (p->crashes == 0 || metadata_quarantined(p) || !control_led(c, w, p) ||
        now - w->led_at < CONTROL_CRASH_FORGET_US)
        return;
    struct command command = {.type = COMMAND_CRASHES, .crashes = {.partition = p->id}};
    w->led_at = now;
    control_propose(c, &command, fx);
}

/* Nothing will be due here before an event: a change of its record or of a
 * member's health, a report. */
static bool quiet(const struct control *c, const struct watch *w, const struct metadata_partition *p) {
    const struct replica_record *r = &p->record;
    if (w->op || w->queued)
        return false;
    if (metadata_quarantined(p) || w->blocked)
        return true;
    return control_led(c, w, p) && !r->activating && r->learners.count == 0 && p->crashes == 0 &&
           replica_set_has(&r->current, r->leader) && !seal_reason(c, w, p);
}

/* Only those that need something: the cost follows work, not size. */
static void sweep(struct control *c, usec_t now, struct control_effects *fx) {
    struct watch *w, *next;
    DL_FOREACH_SAFE2(c->stirred, w, next, stir_next) {
        const struct metadata_partition *p = control_partition(c, w);
        if (quiet(c, w, p)) {
            settle(c, w);
            continue;
        }
        if (w->op)
            continue;
        sweep_unled(c, w, p, now, fx);
        sweep_crashes(c, w, p, now, fx);
        control_review(c, w, now, fx);
    }
}

void control_tick(struct control *c, usec_t now, struct control_effects *fx) {
    if (!c->running)
        return;
    struct op *op, *next;
    DL_FOREACH_SAFE(c->ops, op, next) {
        if (now >= op->deadline)
            op_tick(c, op, now, fx);
    }
    if (now >= c->sweep_at) {
        c->sweep_at = now + CONTROL_SWEEP_US;
        sweep(c, now, fx);
    }
    if (now >= c->drops_at)
        control_send_drops(c, now, fx);
    if (now >= c->plan_at)
        control_plan(c, now, fx);
}

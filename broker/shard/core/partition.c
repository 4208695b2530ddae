// SPDX-License-Identifier: Apache-2.0
#include "shard/core/partition.h"

#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/mutation.h"
#include "base/xalloc.h"

enum { GATEWAYS_MAX = 1024 };

static struct mailbox *mailbox_of(const struct partition *p) {
    struct mailbox_options o = {.name = p->name, .id = p->id, .partition = p->number};
    /* a replica that opens after an update must not begin with what others met later */
    settings_unchanging(&p->settings, &o.settings);
    return mailbox_new(&o);
}

struct partition *partition_new(const struct partition_options *options, const struct replica_state *state,
                                struct decoder *mailbox_state) {
    struct partition *p = xcalloc(1, sizeof *p);
    p->id = options->id;
    p->number = options->number;
    name_copy(p->name, options->mailbox);
    p->settings = options->settings;
    p->host = options->host;
    p->host_context = options->host_context;
    p->failure_timeout = options->failure_timeout;
    p->checkpoint_base = p->applied = state->base_index;
    p->hold_until = USEC_NEVER;
    p->mailbox = mailbox_of(p);
    /* no bytes: the empty checkpoint of a copy that lost everything (replica/damage.c) */
    if (mailbox_state && decoder_left(mailbox_state) && !mailbox_restore(p->mailbox, mailbox_state)) {
        mailbox_free(p->mailbox);
        free(p);
        return NULL;
    }
    p->replica =
        replica_new(&(struct replica_options){.self = options->self,
                                              .synced = options->settings.durability == DURABILITY_SYNCED,
                                              .append_entries = options->append_entries},
                    state);
    return p;
}

static void drop_held(struct partition *p) {
    for (size_t i = 0; i < p->held_count; i++)
        body_drop(p->held[i].body);
    p->held_count = 0;
}

void partition_free(struct partition *p) {
    if (!p)
        return;
    drop_held(p);
    free(p->held);
    replica_free(p->replica);
    mailbox_free(p->mailbox);
    replica_effects_free(&p->replica_effects);
    mailbox_effects_free(&p->mailbox_effects);
    free(p);
}

void partition_time(struct partition *p, usec_t now, usec_t wall) {
    p->wall_offset = wall - now;
}

int64_t partition_stamp(const struct partition *p, usec_t now) {
    return p->epoch_stamp + (now - p->epoch_start);
}

/* The log's time goes on from the wall clock, or from the last stamp where that is later. */
static void start_log_time(struct partition *p, usec_t now) {
    int64_t last = mailbox_last_stamp(p->mailbox);
    int64_t wall = now + p->wall_offset;
    p->epoch_stamp = wall > last ? wall : last;
    p->epoch_start = now;
}

/* ---- checkpoints ---- */

bool partition_checkpoint(struct partition *p) {
    uint64_t base = MUTATED(checkpoint_ahead) ? replica_last_index(p->replica) : p->applied;
    if (base <= p->checkpoint_base || !replica_counts(p->replica))
        return false;
    size_t live_count;
    uint64_t *live = mailbox_live(p->mailbox, &live_count);
    struct encoder e = {0};
    replica_encode(p->replica, base, &e);
    mailbox_checkpoint(p->mailbox, &e);
    struct body *state = encoder_body(&e);
    p->checkpoint_base = base;
    p->host->checkpoint(p->host_context, p,
                        &(struct partition_checkpoint){.base_index = base,
                                                       .base_epoch = replica_epoch_at(p->replica, base),
                                                       .state = state,
                                                       .live = live,
                                                       .live_count = live_count});
    body_drop(state);
    free(live);
    return true;
}

void partition_checkpointed(struct partition *p, uint64_t base_index) {
    replica_checkpointed(p->replica, base_index);
}

/* A peer needs a checkpoint: the state as applied here, now. */
static void give_snapshot(struct partition *p, member_t peer, usec_t now) {
    struct encoder e = {0};
    mailbox_checkpoint(p->mailbox, &e);
    struct body *state = encoder_body(&e);
    size_t live_count;
    uint64_t *live = mailbox_live(p->mailbox, &live_count);
    replica_snapshot(p->replica, peer, p->applied, state, live, live_count, now, &p->replica_effects);
    replica_pump(p->replica, now, &p->replica_effects); /* no other event may come for long */
    body_drop(state);
    free(live);
}

/* A leader's checkpoint is here whole: into the journal, in place of the log.
 * install.state is replica's part and the mailbox's, ready to be stored. */
static void install(struct partition *p, const struct replica_effect *e) {
    p->host->checkpoint(p->host_context, p,
                        &(struct partition_checkpoint){.base_index = e->install.base_index,
                                                       .base_epoch = e->install.base_epoch,
                                                       .state = e->install.state,
                                                       .live = e->install.live,
                                                       .live_count = e->install.live_count,
                                                       .install = true});
}

static void installed(struct partition *p, const struct replica_effect *e) {
    struct decoder d = decoder_of(e->install.state->data, e->install.state->size);
    struct replica_state head;
    struct mailbox *fresh = mailbox_of(p);
    /* the leader encoded it and the link checked every piece: a bug if it does not read;
     * no bytes behind the head: this copy has to forget all (replica/damage.c) */
    CHECK(replica_decode(&d, &head));
    CHECK(!decoder_left(&d) || mailbox_restore(fresh, &d));
    free((void *)(uintptr_t)head.epochs);
    mailbox_free(p->mailbox);
    p->mailbox = fresh;
    p->checkpoint_base = p->applied = e->install.base_index;
}

/* ---- leadership ---- */

static void lead(struct partition *p, uint64_t epoch, usec_t now) {
    uint64_t gateways[GATEWAYS_MAX];
    start_log_time(p, now);
    size_t count = p->host->led(p->host_context, p, epoch, gateways, GATEWAYS_MAX);
    p->allowed_until = 0;
    mailbox_lead(p->mailbox, epoch, gateways, count, p->failure_timeout, now, partition_stamp(p, now),
                 &p->mailbox_effects);
}

static void refuse(struct partition *p, struct mailbox_origin origin, const struct body *body, enum err code,
                   const char *text) {
    struct batch_header h;
    batch_read_header(body->data, &h);
    struct mailbox_effect e = {
        .type = MAILBOX_REFUSED,
        .refused = {
            .origin = origin, .producer = h.producer, .sequence = h.sequence, .code = code, .text = text}};
    p->host->mailbox_effect(p->host_context, p, &e);
}

static void refuse_held(struct partition *p) {
    for (size_t i = 0; i < p->held_count; i++)
        refuse(p, p->held[i].origin, p->held[i].body, ERR_NOT_LEADER, "leadership moved");
    drop_held(p);
    p->hold_until = USEC_NEVER;
    p->hold_target = 0;
}

static void unlead(struct partition *p) {
    mailbox_unlead(p->mailbox, &p->mailbox_effects);
    refuse_held(p);
    p->host->not_leading(p->host_context, p);
}

/* ---- planned moves ---- */

static void admit(struct partition *p, struct mailbox_origin origin, struct body *body, usec_t now) {
    if (mailbox_leading(p->mailbox) && !replica_room(p->replica)) {
        refuse(p, origin, body, ERR_BUSY, "too many bytes wait for a majority");
        return;
    }
    mailbox_publish(p->mailbox, origin, body, now, partition_stamp(p, now), p->disk_full,
                    &p->mailbox_effects);
    partition_run(p, now);
}

static void release_held(struct partition *p, usec_t now) {
    size_t count = p->held_count;
    struct held_publish *held = p->held;
    p->held = NULL;
    p->held_count = p->held_capacity = 0;
    p->hold_until = USEC_NEVER;
    p->hold_target = 0;
    for (size_t i = 0; i < count; i++) {
        admit(p, held[i].origin, held[i].body, now);
        body_drop(held[i].body);
    }
    free(held);
}

void partition_hold(struct partition *p, member_t target, usec_t until, usec_t now) {
    if (!mailbox_leading(p->mailbox))
        return;
    usec_t latest = now + PARTITION_HOLD_US_MAX;
    p->hold_target = target;
    p->hold_until = until < latest ? until : latest;
    p->hold_reported = false;
    partition_run(p, now);
}

static void check_hold(struct partition *p) {
    if (!p->hold_target || p->hold_reported ||
        replica_match(p->replica, p->hold_target) < replica_last_index(p->replica))
        return;
    p->hold_reported = true;
    p->host->held(p->host_context, p);
}

void partition_publish(struct partition *p, struct mailbox_origin origin, struct body *body, usec_t now) {
    if (p->hold_target && p->held_count < PARTITION_HELD_PUBLISHES_MAX) {
        xgrow(&p->held, &p->held_capacity, p->held_count + 1, sizeof *p->held);
        p->held[p->held_count++] = (struct held_publish){origin, body_keep(body)};
        return;
    }
    admit(p, origin, body, now);
}

/* ---- carrying effects out ---- */

static void on_replica_effect(struct partition *p, const struct replica_effect *e, usec_t now) {
    switch (e->type) {
    case REPLICA_APPLY:
        mailbox_apply(p->mailbox, &e->entry, now, &p->mailbox_effects);
        p->applied = e->entry.index;
        break;
    case REPLICA_ACTIVE:
        lead(p, e->epoch, now);
        break;
    case REPLICA_STOPPED:
        unlead(p);
        break;
    case REPLICA_SNAPSHOT:
        give_snapshot(p, e->peer, now);
        break;
    case REPLICA_INSTALL:
        install(p, e);
        break;
    case REPLICA_INSTALLED:
        installed(p, e);
        break;
    default:
        p->host->replica_effect(p->host_context, p, e);
    }
}

static void on_mailbox_effect(struct partition *p, const struct mailbox_effect *e, usec_t now) {
    if (e->type != MAILBOX_PROPOSE) {
        p->host->mailbox_effect(p->host_context, p, e);
        return;
    }
    uint64_t index;
    /* refused only when it stopped leading: then STOPPED is on its way and unlead
     * answers whoever waits. Never BUSY: admit() asks for room, and the mailbox's
     * own bound keeps what follows from batches below the core's. */
    enum err err =
        replica_propose(p->replica, e->propose.type, e->propose.body, now, &index, &p->replica_effects);
    CHECK(err == ERR_OK || err == ERR_NOT_LEADER);
}

/* Each list is taken away whole before it is walked, because carrying an effect
 * out may add new ones. The memory is given back where none were. */
static bool run_replica(struct partition *p, usec_t now) {
    struct replica_effects fx = p->replica_effects;
    bool any = fx.count > 0;
    p->replica_effects = (struct replica_effects){0};
    for (size_t i = 0; i < fx.count; i++)
        on_replica_effect(p, &fx.items[i], now);
    replica_effects_clear(&fx);
    if (p->replica_effects.items)
        replica_effects_free(&fx);
    else
        p->replica_effects = fx;
    return any;
}

static bool run_mailbox(struct partition *p, usec_t now) {
    struct mailbox_effects fx = p->mailbox_effects;
    bool any = fx.count > 0;
    p->mailbox_effects = (struct mailbox_effects){0};
    for (size_t i = 0; i < fx.count; i++)
        on_mailbox_effect(p, &fx.items[i], now);
    mailbox_effects_clear(&fx);
    if (p->mailbox_effects.items)
        mailbox_effects_free(&fx);
    else
        p->mailbox_effects = fx;
    return any;
}

/* The lease may have moved: let the mailbox know before it is asked to deliver. */
static void renew_lease(struct partition *p, usec_t now) {
    if (!mailbox_leading(p->mailbox))
        return;
    usec_t until = replica_lease_until(p->replica, now);
    if (until == p->allowed_until)
        return;
    p->allowed_until = until;
    mailbox_allow(p->mailbox, until, now, &p->mailbox_effects);
}

void partition_run(struct partition *p, usec_t now) {
    if (p->running)
        return;
    p->running = true;
    do {
        bool any = true;
        while (any) {
            any = run_replica(p, now);
            any = run_mailbox(p, now) || any;
        }
        renew_lease(p, now);
    } while (p->mailbox_effects.count > 0);
    check_hold(p);
    p->running = false;
}

void partition_pump(struct partition *p, usec_t now) {
    if (mailbox_dirty(p->mailbox))
        mailbox_pump(p->mailbox, now, partition_stamp(p, now), &p->mailbox_effects);
    partition_run(p, now);
    if (replica_dirty(p->replica))
        replica_pump(p->replica, now, &p->replica_effects);
    partition_run(p, now);
    if (p->applied >= p->checkpoint_base + PARTITION_CHECKPOINT_ENTRIES && !replica_transferring(p->replica))
        partition_checkpoint(p);
}

usec_t partition_deadline(const struct partition *p) {
    usec_t a = replica_deadline(p->replica), b = mailbox_deadline(p->mailbox);
    usec_t soonest = a < b ? a : b;
    return p->hold_until < soonest ? p->hold_until : soonest;
}

void partition_tick(struct partition *p, usec_t now) {
    if (now >= p->hold_until)
        release_held(p, now);
    replica_tick(p->replica, now, &p->replica_effects);
    mailbox_tick(p->mailbox, now, partition_stamp(p, now), &p->mailbox_effects);
    partition_run(p, now);
}

// SPDX-License-Identifier: Apache-2.0
/* The simulated shard's journal: mirrors broker/shard/storage.c and reader.c. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/check.h"
#include "base/xalloc.h"
#include "shard.h"

static struct journal *journal_of(struct hosted *h) {
    return h->process->journal;
}

/* ---- completions ---- */

static void tell(struct shard *s, const struct flush_item *item) {
    struct hosted *h = shard_find(s, item->partition);
    usec_t now = process_now(s->process);
    if (!h || !h->partition)
        return;
    shard_touch(h);
    if (item->mark)
        replica_stored(h->partition->replica, item->mark, true, now, &h->partition->replica_effects);
    if (item->checkpoint)
        partition_checkpointed(h->partition, item->checkpoint);
    partition_run(h->partition, now);
}

void storage_synced(struct shard *s, uint64_t ticket) {
    journal_completed(s->process->journal, ticket);
    while (s->flushes && s->flushes->ticket <= ticket) {
        struct flush *f = s->flushes;
        s->flushes = f->next;
        if (!s->flushes)
            s->flushes_last = NULL;
        for (size_t i = 0; i < f->count; i++)
            tell(s, &f->items[i]);
        free(f->items);
        free(f);
    }
}

/* ---- writing ---- */

void storage_write(struct hosted *h, const struct replica_effect *e) {
    struct journal *j = journal_of(h);
    struct sim *sim = h->process->sim;
    switch (e->type) {
    case REPLICA_WRITE:
        checker_write(h->process, h->id, &e->entry);
        journal_write_entry(j, h->id, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        break;
    case REPLICA_TRUNCATE:
        sim_count(sim, RARE_truncations);
        sim_trace(sim, "%s p%d truncates above %llu", h->process->name, (int)h->id,
                  (unsigned long long)e->index);
        journal_write_truncate(j, h->id, e->index);
        break;
    case REPLICA_PROMISE:
        journal_write_promise(j, h->id, e->promise.epoch);
        break;
    case REPLICA_STAGE:
        journal_write_staged(j, h->id, e->entry.epoch, e->entry.index, e->entry.type, e->entry.body);
        xgrow(&h->staged, &h->staged_capacity, h->staged_count + 1, sizeof *h->staged);
        h->staged[h->staged_count++] = (struct staged){e->entry.index, e->entry.epoch};
        break;
    case REPLICA_MARK_DAMAGED:
        sim_count(sim, RARE_damaged);
        journal_write_damage(j, h->id,
                             e->damage.everything ? 1 : replica_last_index(h->partition->replica) + 1);
        break;
    case REPLICA_MARK_WHOLE:
        journal_write_mended(j, h->id);
        break;
    case REPLICA_UNSTAGE:
        journal_forget_staged(j, h->id);
        h->staged_count = 0;
        break;
    default:
        CHECK(!"not a write");
    }
}

static uint64_t staged_epoch(const struct hosted *h, uint64_t index) {
    for (size_t i = h->staged_count; i-- > 0;)
        if (h->staged[i].index == index)
            return h->staged[i].epoch;
    return 0;
}

void storage_checkpoint(struct hosted *h, const struct partition_checkpoint *c) {
    struct journal_live *live = xcalloc(c->live_count ? c->live_count : 1, sizeof *live);
    for (size_t i = 0; i < c->live_count; i++)
        live[i] = (struct journal_live){c->live[i], c->install ? staged_epoch(h, c->live[i]) : 0};
    enum err err = journal_write_checkpoint(journal_of(h), h->id,
                                            &(struct journal_checkpoint){.base_index = c->base_index,
                                                                         .base_epoch = c->base_epoch,
                                                                         .live = live,
                                                                         .live_count = c->live_count,
                                                                         .body = c->state,
                                                                         .install = c->install});
    free(live);
    if (c->install) {
        sim_count(h->process->sim, RARE_checkpoints_installed);
        sim_trace(h->process->sim, "%s p%d installs the checkpoint at %llu", h->process->name, (int)h->id,
                  (unsigned long long)c->base_index);
    }
    if (err != ERR_OK) {
        CHECK(err == ERR_TOO_LARGE && !c->install);
        return;
    }
    if (c->install)
        h->staged_count = 0;
    else
        h->checkpoint_pending = c->base_index;
}

void storage_flush(struct shard *s) {
    struct flush *f = xcalloc(1, sizeof *f);
    HOSTED_EACH(s, h) {
        uint64_t mark = h->partition ? replica_mark(h->partition->replica) : 0;
        if (!h->partition || (mark == h->flushed_mark && !h->checkpoint_pending))
            continue;
        xgrow(&f->items, &f->capacity, f->count + 1, sizeof *f->items);
        f->items[f->count++] = (struct flush_item){h->id, mark, h->checkpoint_pending};
        h->flushed_mark = mark;
        h->checkpoint_pending = 0;
    }
    f->ticket = journal_flush(s->process->journal);
    if (f->count == 0) {
        free(f);
        return;
    }
    if (s->flushes_last)
        s->flushes_last->next = f;
    else
        s->flushes = f;
    s->flushes_last = f;
}

/* ---- space ---- */

static void sum_up(void *ctx, uint64_t partition) {
    struct shard *s = ctx;
    struct hosted *h = shard_find(s, partition);
    if (!h || !h->partition || !replica_counts(h->partition->replica) || !partition_checkpoint(h->partition))
        journal_carry(s->process->journal, partition);
}

void storage_reclaim(struct shard *s) {
    struct journal_statistics before, after;
    journal_statistics(s->process->journal, &before);
    for (int i = 0; i < SHARD_RECLAIM_STEPS; i++) {
        enum journal_progress progress = journal_reclaim(s->process->journal);
        if (progress == JOURNAL_WAITS)
            journal_needs_checkpoint(s->process->journal, sum_up, s);
        if (progress != JOURNAL_WORKED)
            break;
    }
    if (journal_in_flight(s->process->journal) == 0)
        journal_prove(s->process->journal);
    journal_statistics(s->process->journal, &after);
    for (uint64_t i = before.reclaimed; i < after.reclaimed; i++)
        sim_count(s->process->sim, RARE_reclaimed_segments);
}

/* ---- recovery ---- */

static struct entry *log_of(struct hosted *h, const struct journal_partition *jp, size_t *count) {
    *count = 0;
    uint64_t last = jp->last_index;
    if (jp->damaged && jp->damaged_from && jp->damaged_from <= last)
        last = jp->damaged_from - 1;
    struct entry *entries =
        xcalloc(last > jp->base_index ? (size_t)(last - jp->base_index) : 1, sizeof *entries);
    for (uint64_t index = jp->base_index + 1; index <= last; index++) {
        struct journal_location at;
        if (journal_locate(journal_of(h), jp->id, index, &at) != ERR_OK)
            break;
        entries[(*count)++] = (struct entry){.index = index, .epoch = at.epoch, .type = at.type};
        body_drop(at.in_flight);
    }
    return entries;
}

static struct body *read_checkpoint(struct hosted *h, const struct journal_partition *jp,
                                    struct replica_state *state, struct decoder *d, bool *lost) {
    struct body *body = NULL;
    *lost = journal_read_checkpoint(journal_of(h), jp->id, &body) != ERR_OK;
    if (*lost)
        return NULL;
    *d = decoder_of(body->data, body->size);
    bool none = body->size == 0 && jp->base_index == 0;
    if (!none && replica_decode(d, state))
        return body;
    *lost = !none;
    body_drop(body);
    return NULL;
}

static struct partition *recover(struct hosted *h, struct journal_partition *jp) {
    struct replica_state state = {0};
    struct body *checkpoint = NULL;
    struct decoder d = {0};
    bool all_lost = jp->damaged && jp->damaged_from <= jp->base_index;
    if (jp->checkpointed && !all_lost)
        checkpoint = read_checkpoint(h, jp, &state, &d, &all_lost);
    if (all_lost) {
        state = (struct replica_state){0};
        jp->damaged = true;
        jp->damaged_from = 1;
        jp->base_index = jp->base_epoch = jp->last_index = 0;
    }
    state.base_index = jp->base_index;
    state.base_epoch = jp->base_epoch;
    state.damaged = jp->damaged;
    state.damage = h->process->starts << DAMAGE_START_SHIFT;
    if (jp->promise > state.promise)
        state.promise = jp->promise;
    struct entry *entries = log_of(h, jp, &state.entries_count);
    state.entries = entries;
    struct partition *p =
        partition_new(&(struct partition_options){.id = h->id,
                                                  .number = h->number,
                                                  .mailbox = h->name,
                                                  .settings = h->settings,
                                                  .self = h->process->self,
                                                  .failure_timeout = h->process->sim->failure_timeout,
                                                  .append_entries = h->process->sim->swarm.append_entries,
                                                  .host = shard_host(),
                                                  .host_context = h->shard},
                      &state, checkpoint ? &d : NULL);
    free(entries);
    free((void *)(uintptr_t)state.epochs);
    body_drop(checkpoint);
    return p;
}

bool storage_partition(struct hosted *h) {
    struct journal_partition jp = {.id = h->id};
    struct process *p = h->process;
    journal_get(p->journal, h->id, &jp);
    if (jp.dropped)
        jp = (struct journal_partition){.id = h->id, .promise = jp.promise};
    h->partition = recover(h, &jp);
    if (!h->partition)
        return false;
    h->partition->user = h;
    journal_set_aside(p->journal, h->id, false);
    partition_time(h->partition, process_now(p), process_wall(p));
    h->flushed_mark = replica_mark(h->partition->replica);
    sim_trace(p->sim, "%s p%d: log %llu .. %llu, promise %llu%s", p->name, (int)h->id,
              (unsigned long long)replica_base(h->partition->replica),
              (unsigned long long)replica_last_index(h->partition->replica),
              (unsigned long long)replica_promise(h->partition->replica),
              replica_damaged(h->partition->replica) ? ", DAMAGED" : "");
    return true;
}

/* ---- cold reads: asked for now, answered a moment later ---- */

struct read_job {
    uint64_t partition, from, to;
    bool is_batch;
    member_t who;
    size_t count;
    struct journal_location at[SHARD_FETCH_ENTRIES];
    struct body *bodies[SHARD_FETCH_ENTRIES];
    enum err errs[SHARD_FETCH_ENTRIES];
};

static void fire_batch(struct hosted *h, struct read_job *job) {
    struct body *body = job->errs[0] == ERR_OK ? job->bodies[0] : NULL;
    if (job->errs[0] == ERR_STALE) {
        reader_batch(h, job->from);
        return;
    }
    if (!body)
        replica_unreadable(h->partition->replica, job->from, process_now(h->process),
                           &h->partition->replica_effects);
    deliver_read(h, job->from, body);
}

static void fire_fetch(struct hosted *h, struct read_job *job) {
    struct entry *entries = xcalloc(job->count + 1, sizeof *entries);
    size_t good = 0;
    for (; good < job->count && job->errs[good] == ERR_OK; good++) {
        const struct journal_location *at = &job->at[good];
        entries[good] = (struct entry){
            .index = at->index, .epoch = at->epoch, .type = at->type, .body = job->bodies[good]};
    }
    if (good == 0 && job->count > 0 && job->errs[0] == ERR_STALE) {
        reader_fetch(h, job->from, job->to, job->who);
    } else {
        bool unreadable = good == 0 && job->count > 0 && job->errs[0] != ERR_NOT_FOUND;
        replica_fetched(h->partition->replica, job->who, job->from, entries, good, unreadable,
                        process_now(h->process), &h->partition->replica_effects);
        partition_run(h->partition, process_now(h->process));
    }
    free(entries);
}

static void free_job(struct read_job *job) {
    for (size_t i = 0; i < job->count; i++) {
        body_drop(job->bodies[i]);
        body_drop(job->at[i].in_flight);
    }
    free(job);
}

static void drop_read(struct event *e) {
    struct read_job *job = e->ptr;
    /* never read: the locations' references are the journal's, which is gone */
    free_job(job);
}

static void on_read(struct sim *sim, struct event *e) {
    struct process *p = e->process;
    struct read_job *job = e->ptr;
    struct hosted *h = shard_find(p->shard, job->partition);
    sim_count(sim, RARE_cold_reads);
    for (size_t i = 0; i < job->count; i++) {
        job->errs[i] = journal_read(p->journal, &job->at[i], &job->bodies[i]);
        job->at[i].in_flight = NULL;
    }
    if (h && h->partition) {
        shard_touch(h);
        if (job->is_batch)
            fire_batch(h, job);
        else
            fire_fetch(h, job);
        partition_run(h->partition, process_now(p));
    }
    free_job(job);
}

static void give(struct hosted *h, struct read_job *job) {
    struct sim *s = h->process->sim;
    struct event *e = sim_at_process(h->process, s->now + sim_between(&s->rng, 50, 3000), on_read);
    e->ptr = job;
    e->drop = drop_read;
}

void reader_fetch(struct hosted *h, uint64_t from, uint64_t to, member_t who) {
    size_t room = to - from + 1 < SHARD_FETCH_ENTRIES ? (size_t)(to - from + 1) : SHARD_FETCH_ENTRIES;
    struct read_job *job = xcalloc(1, sizeof *job);
    size_t bytes = 0;
    job->partition = h->id;
    job->from = from;
    job->to = to;
    job->who = who;
    while (job->count < room && (job->count == 0 || bytes < SHARD_FETCH_BYTES)) {
        struct journal_location *at = &job->at[job->count];
        if (journal_locate(journal_of(h), h->id, from + job->count, at) != ERR_OK)
            break;
        bytes += at->bytes;
        job->count++;
    }
    give(h, job);
}

void reader_batch(struct hosted *h, uint64_t index) {
    struct read_job *job = xcalloc(1, sizeof *job);
    job->partition = h->id;
    job->from = job->to = index;
    job->is_batch = true;
    job->count = 1;
    enum err err = journal_locate(journal_of(h), h->id, index, &job->at[0]);
    if (err == ERR_OK) {
        give(h, job);
        return;
    }
    free(job);
    sim_trace(h->process->sim, "%s p%d batch %llu is not in the journal: %s", h->process->name, (int)h->id,
              (unsigned long long)index, err_text(err));
    replica_unreadable(h->partition->replica, index, process_now(h->process), &h->partition->replica_effects);
    deliver_read(h, index, NULL);
}

// SPDX-License-Identifier: Apache-2.0
#include "journal/journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "journal/internal.h"

static void die(void *ctx, const char *text) {
    log_error("%s", text);
    _exit(JOURNAL_EXIT_STORAGE);
}

/* While opening, a failed disk is an error returned, not the process's end. */
static void opening_failed(void *ctx, const char *text) {
    err_set(ctx, ERR_IO, "%s", text);
}

static void set_up(struct journal *j, const struct journal_options *o) {
    uint32_t bytes = o->segment_bytes ? o->segment_bytes : JOURNAL_SEGMENT_BYTES_DEFAULT;
    CHECK(bytes >= JOURNAL_SEGMENT_BYTES_MIN && bytes <= JOURNAL_SEGMENT_BYTES_MAX && bytes % 8 == 0);
    CHECK(o->completed && o->folder);
    j->reserve_bytes = o->reserve_bytes ? o->reserve_bytes : JOURNAL_RESERVE_BYTES_DEFAULT;
    j->space_target = o->space_target;
    j->execute = o->execute;
    j->executor = o->executor;
    j->hooks = (struct job_hooks){.completed = o->completed, .written = o->written, .ctx = o->ctx};
    j->state.batch_type = o->batch_type;
    j->state.ticket = 1;
    j->writer = (struct writer){
        .store = &j->store, .state = &j->state, .hooks = &j->hooks, .segment_bytes = bytes, .flush = 0};
    j->store.segment_bytes = bytes;
    j->in_flight_end = &j->in_flight;
    j->fill_wanted = true;
}

static void journal_free(struct journal *j) {
    while (j->in_flight) {
        struct turn *next = j->in_flight->next;
        turn_free(j->in_flight);
        j->in_flight = next;
    }
    if (j->writer.turn)
        turn_free(j->writer.turn);
    for (size_t i = 0; i < j->leaving_count; i++)
        segment_free(j->leaving[i].segment);
    free(j->leaving);
    scan_free(&j->copies);
    encoder_free(&j->writer.index);
    state_free(&j->state);
    store_close(&j->store);
    free(j);
}

/* ---- flushing ---- */

void journal_submit(struct journal *j, struct journal_job *job) {
    j->execute(j->executor, job);
}

static void submit_chores(struct journal *j, struct journal_job *chores) {
    if (j->fill_wanted)
        chores = journal_job_link(chores, job_fill(&j->store));
    j->fill_wanted = false;
    while (chores) {
        struct journal_job *next = chores->next;
        chores->next = NULL;
        journal_submit(j, chores);
        chores = next;
    }
}

static void submit_turn(struct journal *j) {
    struct turn *t = writer_close_turn(&j->writer);
    j->flush_wanted = false;
    j->statistics.flushes++;
    j->statistics.written_bytes += t->bytes;
    *j->in_flight_end = t;
    j->in_flight_end = &t->next;
    j->in_flight_count++;
    j->in_flight_bytes += t->bytes;
    j->state.ticket = t->ticket + 1;
    j->writer.turn = turn_new(j->state.ticket);
    struct journal_job *chores = t->chores;
    t->chores = NULL;
    journal_submit(j, &t->job); /* an executor that runs it at once may free t */
    submit_chores(j, chores);
}

static bool anything_to_prove(const struct journal *j) {
    return j->in_flight_count == 0 && position_before(j->writer.told, j->writer.proven);
}

uint64_t journal_flush(struct journal *j) {
    if (j->prove_wanted && anything_to_prove(j))
        writer_touch(&j->writer);
    j->prove_wanted = false;
    if (turn_empty(j->writer.turn))
        return j->state.ticket - 1;
    uint64_t ticket = j->state.ticket;
    if (j->in_flight_count < JOURNAL_TURNS_IN_FLIGHT_MAX)
        submit_turn(j);
    else
        j->flush_wanted = true;
    return ticket;
}

void journal_completed(struct journal *j, uint64_t ticket) {
    while (j->in_flight && j->in_flight->ticket <= ticket) {
        struct turn *t = j->in_flight;
        j->in_flight = t->next;
        if (!j->in_flight)
            j->in_flight_end = &j->in_flight;
        j->in_flight_count--;
        j->in_flight_bytes -= t->bytes;
        j->writer.proven = t->end;
        j->synced = t->ticket;
        if (t->bare)
            j->writer.told = t->end; /* nothing in it that would need a proof */
        turn_free(t);
    }
    if (j->flush_wanted && j->in_flight_count < JOURNAL_TURNS_IN_FLIGHT_MAX)
        submit_turn(j);
}

uint64_t journal_synced(const struct journal *j) {
    return j->synced;
}

uint64_t journal_in_flight(const struct journal *j) {
    return j->in_flight_bytes;
}

void journal_prove(struct journal *j) {
    j->prove_wanted = true;
}

/* ---- open and close ---- */

static void go(struct journal *j, const struct journal_options *o) {
    j->store.fatal = o->fatal ? o->fatal : die;
    j->store.ctx = o->ctx;
    j->writer.turn = turn_new(j->state.ticket);
    if (!j->execute) {
        j->thread = commit_thread_start();
        j->execute = commit_thread_execute;
        j->executor = j->thread;
        submit_chores(j, NULL);
    }
}

enum err journal_open(const struct journal_options *options, struct journal **out,
                      struct journal_recovered *recovered, struct err_detail *detail) {
    struct journal *j = xcalloc(1, sizeof *j);
    struct err_detail own = {0};
    struct journal_recovered nobody;
    *out = NULL;
    set_up(j, options);
    recovered = recovered ? recovered : &nobody;
    *recovered = (struct journal_recovered){0};
    j->store.fatal = opening_failed;
    j->store.ctx = &own;
    enum err e = store_open(&j->store, options->disk ? options->disk : disk_posix(), options->folder, &own);
    if (e == ERR_OK)
        e = recover(&j->writer, options, recovered, &own);
    if (e != ERR_OK) {
        err_set(detail, e, "%s", own.text);
        journal_free(j);
        return e;
    }
    go(j, options);
    *out = j;
    return ERR_OK;
}

void journal_close(struct journal *j) {
    if (j->thread)
        commit_thread_stop(j->thread);
    journal_free(j);
}

void journal_abandon(struct journal *j) {
    CHECK(!j->thread);
    journal_free(j);
}

/* ---- what is known ---- */

static void describe(const struct partition *p, struct journal_partition *out) {
    *out = (struct journal_partition){.id = p->id,
                                      .promise = p->promise,
                                      .boot = p->boot,
                                      .base_index = p->base_index,
                                      .base_epoch = p->base_epoch,
                                      .last_index = partition_last(p),
                                      .last_epoch = partition_last_epoch(p),
                                      .live = p->live.count,
                                      .checkpointed = p->checkpoint.segment != 0,
                                      .dropped = p->dropped,
                                      .damaged = p->damaged,
                                      .promise_lost = p->promise_lost,
                                      .damaged_from = p->damaged_from};
}

bool journal_get(const struct journal *j, uint64_t partition, struct journal_partition *out) {
    const struct partition *p = partition_find(&j->state, partition);
    if (p)
        describe(p, out);
    return p != NULL;
}

bool journal_suspect(const struct journal *j, uint64_t partition) {
    return !partition_find(&j->state, partition) && (j->writer.suspect & summary_bit(partition));
}

static int by_id(const void *a, const void *b) {
    uint64_t x = (*(struct partition *const *)a)->id, y = (*(struct partition *const *)b)->id;
    return x < y ? -1 : x > y;
}

void journal_each(const struct journal *j, void (*each)(void *ctx, const struct journal_partition *p),
                  void *ctx) {
    size_t count = HASH_COUNT(j->state.partitions), n = 0;
    struct partition **all = xcalloc(count + 1, sizeof *all), *p, *next;
    HASH_ITER(hh, j->state.partitions, p, next) {
        all[n++] = p;
    }
    qsort(all, n, sizeof *all, by_id);
    for (size_t i = 0; i < n; i++) {
        struct journal_partition described;
        describe(all[i], &described);
        each(ctx, &described);
    }
    free(all);
}

size_t journal_live(const struct journal *j, uint64_t partition, struct journal_live *out, size_t room) {
    const struct partition *p = partition_find(&j->state, partition);
    size_t n = p ? p->live.count : 0;
    n = n < room ? n : room;
    for (size_t i = 0; i < n; i++)
        out[i] = (struct journal_live){p->live.items[i].index, p->live.items[i].slot.epoch};
    return n;
}

/* ---- reading ---- */

static struct body *in_flight_body(const struct journal *j, struct position at) {
    struct body *b = NULL;
    if (position_before(at, j->writer.proven))
        return NULL;
    for (const struct turn *t = j->in_flight; t && !b; t = t->next)
        b = turn_find(t, at);
    return b ? b : turn_find(j->writer.turn, at);
}

enum err journal_locate(const struct journal *j, uint64_t partition, uint64_t index,
                        struct journal_location *out) {
    const struct partition *p = partition_find(&j->state, partition);
    const struct slot *slot = p ? partition_slot(p, index) : NULL;
    if (!slot)
        return ERR_NOT_FOUND;
    *out = (struct journal_location){.partition = partition,
                                     .index = index,
                                     .epoch = slot->epoch,
                                     .type = slot->type,
                                     .bytes = slot->bytes,
                                     .segment = slot->segment,
                                     .offset = slot->offset};
    if (!slot->segment)
        return ERR_DAMAGED;
    struct position at = {slot->segment, slot->offset};
    if (!position_before(at, j->writer.proven)) {
        struct body *b = in_flight_body(j, at);
        out->in_flight = b ? body_keep(b) : body_new(0); /* only empty ones are not kept */
    }
    return ERR_OK;
}

enum err journal_read_at(struct store *s, uint64_t identity, struct position at, uint32_t bytes,
                         struct record *header, struct body **out) {
    size_t size = RECORD_HEADER_BYTES + (size_t)bytes, got = 0;
    uint32_t seed = segment_seed(identity, at.segment);
    struct body *b = body_new(size);
    enum err e = store_read(s, at.segment, at.offset, b->data, size, &got);
    if (e == ERR_OK &&
        (got < size || !record_decode(b->data, seed, at.offset, header) || header->bytes != bytes ||
         crc32c(seed, b->data + RECORD_HEADER_BYTES, bytes) != header->body_crc))
        e = ERR_DAMAGED;
    if (e != ERR_OK) {
        body_drop(b);
        return e;
    }
    /* one read for both: the body's bytes are a window behind the header */
    b->data += RECORD_HEADER_BYTES;
    b->size = bytes;
    *out = b;
    return ERR_OK;
}

enum err journal_read(struct journal *j, const struct journal_location *location, struct body **out) {
    struct record header;
    if (location->in_flight) {
        *out = location->in_flight;
        return ERR_OK;
    }
    *out = NULL;
    struct position at = {location->segment, location->offset};
    enum err e = journal_read_at(&j->store, j->writer.identity, at, location->bytes, &header, out);
    if (e != ERR_OK)
        return e;
    bool copy = header.kind == RECORD_ENTRY || header.kind == RECORD_MOVED || header.kind == RECORD_STAGED;
    if (copy && header.partition == location->partition && header.index == location->index &&
        header.epoch == location->epoch)
        return ERR_OK;
    body_drop(*out);
    *out = NULL;
    return ERR_DAMAGED;
}

enum err journal_read_checkpoint(struct journal *j, uint64_t partition, struct body **out) {
    const struct partition *p = partition_find(&j->state, partition);
    struct record header;
    struct body *b = NULL;
    *out = NULL;
    if (!p || !p->checkpoint.segment)
        return ERR_NOT_FOUND;
    struct position at = {p->checkpoint.segment, p->checkpoint.offset};
    if (!position_before(at, j->writer.proven)) {
        b = in_flight_body(j, at);
        *out = b ? body_keep(b) : body_new(0);
        return ERR_OK;
    }
    enum err e = journal_read_at(&j->store, j->writer.identity, at, p->checkpoint.bytes, &header, &b);
    if (e != ERR_OK)
        return e;
    uint32_t prefix = get_u32(b->data);
    if (b->size < 4 || prefix > b->size) {
        body_drop(b);
        return ERR_DAMAGED;
    }
    b->data += prefix;
    b->size -= prefix;
    *out = b;
    return ERR_OK;
}

/* ---- space, numbers ---- */

uint64_t journal_space(const struct journal *j) {
    return atomic_load(&j->store.free_bytes);
}

bool journal_full(const struct journal *j) {
    return journal_space(j) < j->reserve_bytes;
}

void journal_statistics(const struct journal *j, struct journal_statistics *out) {
    *out = j->statistics;
    out->segments = j->state.segments_count;
    for (size_t i = 0; i < j->state.segments_count; i++) {
        out->total_bytes += j->state.segments[i]->bytes;
        out->live_bytes += j->state.segments[i]->live;
    }
}

// SPDX-License-Identifier: Apache-2.0
#include "journal/recover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/xalloc.h"

#define FRESH_BYTES_MIN ((uint32_t)1 << 20)

/* ---- replaying ---- */

static bool usable(const struct recover_file *f) {
    return f->state != FILE_MISSING && f->state != FILE_FOREIGN;
}

typedef enum err (*with_scan)(struct recover *r, struct recover_file *f, const struct scan *s);

/* What counts of listed files and the head, in order. */
static enum err each_proven(struct recover *r, with_scan each) {
    for (size_t i = 0; i < r->count; i++) {
        struct recover_file *f = r->files[i];
        if (f->place != PLACE_LISTED && f->place != PLACE_HEAD)
            continue;
        struct scan scan = {0};
        bool borrowed = true;
        enum err e = usable(f) ? recover_load(r, f, &scan, &borrowed) : ERR_OK;
        if (e == ERR_OK)
            e = each(r, f, &scan);
        if (!borrowed)
            scan_free(&scan);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

typedef void (*with_item)(struct recover *r, const struct recover_file *f, const struct scan_item *item);

/* The records behind the proven position, up to the first bad byte. */
static void each_tail(struct recover *r, with_item each) {
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        bool head = f->place == PLACE_HEAD;
        if (!(head || f->place == PLACE_TAIL) || !f->scanned)
            continue;
        uint32_t from = head ? f->end : SEGMENT_HEADER_BYTES, to = recover_unbroken(&f->scan, from);
        for (size_t n = 0; n < f->scan.count; n++)
            if (f->scan.items[n].offset >= from && f->scan.items[n].end <= to)
                each(r, f, &f->scan.items[n]);
    }
}

static enum err survey(struct recover *r, struct recover_file *f, const struct scan *s) {
    replay_survey(&r->replay, f->number, s, SEGMENT_HEADER_BYTES, f->end);
    return ERR_OK;
}

static void survey_item(struct recover *r, const struct recover_file *f, const struct scan_item *item) {
    struct scan one = {.items = (struct scan_item *)(uintptr_t)item, .count = 1, .end = item->end};
    replay_survey(&r->replay, f->number, &one, item->offset, item->end);
}

static enum err find_checkpoints(struct recover *r) {
    for (;;) {
        enum err error;
        replay_restart(&r->replay);
        enum err e = each_proven(r, survey);
        if (e != ERR_OK)
            return e;
        each_tail(r, survey_item);
        if (replay_checkpoints(&r->replay, &error))
            return ERR_OK;
        if (error)
            return err_set(r->detail, ERR_IO, "cannot read a checkpoint");
    }
}

static enum err replay_file(struct recover *r, struct recover_file *f, const struct scan *s) {
    uint32_t bytes = f->header_right        ? f->header.data_bytes
                     : f->size < UINT32_MAX ? (uint32_t)f->size
                                            : UINT32_MAX;
    segment_add(r->writer->state, f->number, bytes, f->end);
    enum file_action action = file_decide(f->place, f->state);
    if (action == FILE_LOST || action == FILE_ASIDE_LOST)
        replay_lost(&r->replay, UINT64_MAX);
    else
        replay_segment(&r->replay, f->number, s, SEGMENT_HEADER_BYTES, f->end);
    if (action == FILE_SCAN_LOST)
        replay_lost(&r->replay, UINT64_MAX);
    if (f->place == PLACE_HEAD && r->list_bad) {
        CHECK(bytes_decide(BYTES_PROVEN, FOUND_BAD_LIST) == BYTES_DAMAGE_FLUSH);
        replay_lost(&r->replay, UINT64_MAX);
    }
    return ERR_OK;
}

/* ---- the fresh segment ---- */

static bool is_rewritten(uint8_t kind) {
    return kind != RECORD_FLUSH && kind != RECORD_SEGMENTS && kind != RECORD_REMOVED;
}

static void count_tail(struct recover *r, const struct recover_file *f, const struct scan_item *item) {
    if (is_rewritten(item->record.kind))
        r->out->rewritten_bytes += item->end - item->offset;
}

static void rewrite(struct recover *r, const struct recover_file *f, const struct scan_item *item) {
    struct position from = {f->number, item->offset};
    size_t got = 0;
    if (!is_rewritten(item->record.kind) || store_failed(r->store))
        return;
    struct body *body = item->record.bytes ? body_new(item->record.bytes) : NULL;
    enum err e = ERR_OK;
    if (body)
        e = store_read(r->store, f->number, item->offset + RECORD_HEADER_BYTES, body->data, body->size, &got);
    bool right =
        !body || (e == ERR_OK && got == body->size &&
                  crc32c(segment_seed(r->identity, f->number), body->data, got) == item->record.body_crc);
    if (right) {
        struct record record = item->record;
        struct position now = writer_add(r->writer, &record, NULL, 0, body);
        replay_record(&r->replay, &record, SCAN_RECORD, from, now);
    } else {
        /* it was right a moment ago: the disk does not hold what it says */
        store_fail(r->store, EIO, "read", "tail");
    }
    body_drop(body);
}

static void write_damage(struct recover *r) {
    struct partition *p, *next;
    HASH_ITER(hh, r->writer->state->partitions, p, next) {
        if (!p->damaged)
            continue;
        struct record record = {.kind = RECORD_DAMAGE,
                                .flags = p->promise_lost ? DAMAGE_FLAG_PROMISE_LOST : 0,
                                .partition = p->id,
                                .index = p->damaged_from};
        writer_add(r->writer, &record, NULL, 0, NULL);
        segment_note(segment_head(r->writer->state), p);
    }
}

static void nothing(void *ctx, uint64_t ticket) {
}

static enum err write_now(struct recover *r) {
    static const struct job_hooks silent = {.completed = nothing};
    struct turn *t = writer_close_turn(r->writer);
    t->job.hooks = &silent;
    bool done = job_run_turns(&t->job);
    turn_free(t);
    return done ? ERR_OK : ERR_IO;
}

static uint32_t fresh_number(const struct recover *r) {
    uint32_t last = r->count ? r->files[r->count - 1]->number : 0;
    return (last > r->proven.segment ? last : r->proven.segment) + 1;
}

static uint32_t fresh_bytes(const struct recover *r) {
    uint32_t least = r->store->segment_bytes < FRESH_BYTES_MIN ? r->store->segment_bytes : FRESH_BYTES_MIN;
    uint64_t partitions = HASH_COUNT(r->writer->state->partitions);
    uint64_t need =
        4096 + r->out->rewritten_bytes + RECORD_HEADER_BYTES * partitions + 8 * (uint64_t)r->count;
    need = (need + 4095) / 4096 * 4096;
    return need > least ? (uint32_t)need : least;
}

/* Files behind the proven position that have lost bytes, or are gone. */
static bool end_lost(const struct recover *r) {
    bool lost = r->end_lost;
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        bool behind = f->place == PLACE_TAIL || f->place == PLACE_BEGUN;
        lost |= behind && r->action == FOLDER_OPEN && file_decide(f->place, f->state) == FILE_ASIDE_LOST;
    }
    return lost;
}

/* What earlier recoveries knew; the fresh segment's header says it again. */
static void learn_suspects(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        if (f->place != PLACE_HEAD && f->place != PLACE_TAIL)
            continue;
        r->replay.suspect |= f->header_right ? f->header.suspect : UINT64_MAX;
    }
}

/* All that is not proven, and what was found damaged, into a fresh segment. */
static enum err write_fresh(struct recover *r) {
    struct writer *w = r->writer;
    each_tail(r, count_tail);
    CHECK(r->out->rewritten_bytes < JOURNAL_SEGMENT_BYTES_MAX / 2);
    uint32_t number = fresh_number(r);
    w->identity = r->identity;
    w->flush = r->flush;
    w->proven = r->proven;
    w->suspect = r->replay.suspect;
    w->turn = turn_new(0);
    writer_begin(w, number, fresh_bytes(r), ORIGIN_RECOVERY);
    each_tail(r, rewrite);
    if (end_lost(r))
        replay_lost(&r->replay, UINT64_MAX);
    replay_finish(&r->replay);
    write_damage(r);
    CHECK(segment_head(w->state)->number == number);
    if (store_failed(r->store)) {
        turn_free(w->turn);
        w->turn = NULL;
        return ERR_IO;
    }
    return write_now(r);
}

/* From here on the fresh segment counts. */
static enum err adopt(struct recover *r) {
    struct writer *w = r->writer;
    w->turn = turn_new(0);
    writer_list(w);
    enum err e = write_now(r);
    const struct segment *head = segment_head(w->state);
    w->proven = w->told = (struct position){head->number, head->end}; /* a list proves what is before it */
    return e;
}

/* ---- afterwards ---- */

static int write_identity(struct recover *r) {
    char new[STORE_PATH_BYTES_MAX], path[STORE_PATH_BYTES_MAX];
    struct disk *d = r->store->disk;
    struct disk_file *f;
    uint8_t bytes[20];
    memcpy(bytes, "MRIDENT1", 8);
    put_u64(bytes + 8, r->identity);
    put_u32(bytes + 16, crc32c(0, bytes, 16));
    store_path(r->store, "identity.new", new);
    store_path(r->store, "identity", path);
    d->remove(d, new);
    int error = d->create(d, new, sizeof bytes, &f);
    if (error)
        return error;
    struct iovec piece = {bytes, sizeof bytes};
    error = d->write(d, f, 0, &piece, 1);
    if (!error)
        error = d->sync(d, f);
    d->close(d, f);
    if (!error)
        error = d->rename(d, new, path);
    return error ? error : d->sync_folder(d, r->store->folder);
}

static void set_aside(struct recover *r, const struct recover_file *f) {
    char name[32], aside[64], from[STORE_PATH_BYTES_MAX], to[STORE_PATH_BYTES_MAX];
    store_name(f->number, name);
    snprintf(aside, sizeof aside, "aside-%016llx-%s", (unsigned long long)r->out->start, name);
    store_path(r->store, name, from);
    store_path(r->store, aside, to);
    store_fail(r->store, r->store->disk->rename(r->store->disk, from, to), "set aside", name);
    store_forget(r->store, f->number);
    r->out->files_aside++;
}

static void tidy(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        switch (file_decide(f->place, f->state)) {
        case FILE_REWRITE:
        case FILE_CUT:
        case FILE_REMOVE:
            store_remove(r->store, f->number);
            break;
        case FILE_ASIDE:
        case FILE_ASIDE_LOST:
        case FILE_ASIDE_CUT:
            set_aside(r, f);
            break;
        default:
            break;
        }
    }
}

/* So that the next start reads its index. Only if nothing in it is bad. */
static void seal_head(struct recover *r) {
    struct recover_file *f = recover_find(r, r->proven.segment);
    struct encoder index = {0};
    uint32_t count = 0, seed = segment_seed(r->identity, r->proven.segment);
    struct scan sealed;
    if (!f || !f->scanned || f->state != FILE_WHOLE)
        return;
    if (scan_seal(r->store, r->identity, f->number, f->header.data_bytes, f->end, &sealed)) {
        scan_free(&sealed);
        return;
    }
    uint32_t at = SEGMENT_HEADER_BYTES;
    for (size_t i = 0; i < f->scan.count && f->scan.items[i].end <= f->end; i++) {
        const struct scan_item *item = &f->scan.items[i];
        if (item->what != SCAN_RECORD || item->offset != at)
            break;
        seal_add(&index, &item->record);
        at = item->end;
        count++;
    }
    uint8_t header[SEAL_HEADER_BYTES];
    seal_header_encode(header, seed, count, f->end, &index);
    struct iovec pieces[2] = {{header, sizeof header}, {index.data, index.size}};
    if (at == f->end && store_write(r->store, f->number, f->header.data_bytes, pieces, 2) == 0)
        store_sync(r->store, f->number);
    encoder_free(&index);
}

static void take_spare(struct recover *r) {
    char path[STORE_PATH_BYTES_MAX];
    struct disk *d = r->store->disk;
    struct disk_file *f;
    uint64_t size;
    if (!r->spare_there || r->store->spare || r->spare_size < r->store->segment_bytes)
        return;
    store_path(r->store, "spare", path);
    if (d->open(d, path, &f, &size) == 0)
        store_add_spare(r->store, f);
}

static void count_torn(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        if (!f->scanned || f->number < r->proven.segment)
            continue;
        bool counts = f->place == PLACE_HEAD || f->place == PLACE_TAIL;
        uint32_t from = f->place == PLACE_HEAD ? f->end : SEGMENT_HEADER_BYTES;
        uint32_t cut = counts ? recover_unbroken(&f->scan, from) : SEGMENT_HEADER_BYTES;
        if (f->scan.end > cut && !(f->place == PLACE_BEGUN && f->header.origin == ORIGIN_RECOVERY))
            r->out->torn_bytes += f->scan.end - cut;
    }
}

/* ---- the whole ---- */

/* A header that cannot be read may have said a later start. Each start begins a
 * segment of its own, so none was ever above the newest segment's number. */
static uint64_t next_start(const struct recover *r) {
    uint64_t start = 0;
    bool unread = false;
    for (size_t i = 0; i < r->count; i++) {
        const struct recover_file *f = r->files[i];
        bool ours = f->header_right && f->state != FILE_FOREIGN;
        unread |= !ours;
        if (ours && f->header.start > start)
            start = f->header.start;
    }
    uint64_t above_all = fresh_number(r);
    return unread && start < above_all ? above_all : start + 1;
}

static void forget_files(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        scan_free(&r->files[i]->scan);
        free(r->files[i]);
    }
    r->count = 0;
}

static void begin_new(struct recover *r) {
    r->out->created = r->action == FOLDER_CREATE;
    r->out->lost = r->action == FOLDER_LOST;
    r->out->damaged = r->out->lost;
    r->identity = r->options->random;
    r->out->start = r->writer->start = 1;
    r->flush = 0;
    r->proven = (struct position){0};
    for (size_t i = 0; i < r->count; i++) {
        r->files[i]->place = PLACE_BEGUN;
        /* what cannot be read may still be of use to somebody */
        r->files[i]->state = r->out->lost ? FILE_FOREIGN : FILE_HEADLESS;
    }
    if (r->out->created) { /* at most the first one, which never counted */
        tidy(r);
        forget_files(r);
    }
}

static enum err restore(struct recover *r) {
    r->out->start = r->writer->start = next_start(r);
    r->replay.identity = r->identity;
    enum err e = find_checkpoints(r);
    if (e == ERR_OK)
        e = each_proven(r, replay_file);
    count_torn(r);
    learn_suspects(r);
    if (end_lost(r))
        r->replay.suspect = UINT64_MAX;
    return e;
}

static enum err finish(struct recover *r) {
    tidy(r);
    if (r->action == FOLDER_OPEN)
        seal_head(r);
    if (!r->identity_known || r->action != FOLDER_OPEN)
        store_fail(r->store, write_identity(r), "write", "identity");
    take_spare(r);
    r->out->identity = r->identity;
    r->out->flush = r->writer->flush;
    r->out->damaged |= r->replay.damaged;
    r->out->partitions = HASH_COUNT(r->writer->state->partitions);
    r->out->segments = r->writer->state->segments_count;
    return store_failed(r->store) ? ERR_IO : ERR_OK;
}

static enum err run(struct recover *r) {
    enum err e = recover_look(r);
    if (e != ERR_OK)
        return e;
    if (r->action == FOLDER_OPEN)
        e = restore(r);
    else
        begin_new(r);
    if (e == ERR_OK)
        e = write_fresh(r);
    if (e == ERR_OK)
        e = adopt(r);
    return e == ERR_OK ? finish(r) : e;
}

enum err recover(struct writer *w, const struct journal_options *options, struct journal_recovered *out,
                 struct err_detail *detail) {
    struct recover r = {.writer = w, .store = w->store, .options = options, .out = out, .detail = detail};
    r.replay = (struct replay){.state = w->state, .store = w->store};
    enum err e = run(&r);
    forget_files(&r);
    free(r.files);
    return e;
}

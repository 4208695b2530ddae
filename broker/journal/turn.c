// SPDX-License-Identifier: Apache-2.0
#include "journal/turn.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/xalloc.h"

struct turn *turn_new(uint64_t ticket) {
    struct turn *t = xcalloc(1, sizeof *t);
    t->ticket = ticket;
    return t;
}

void turn_free(struct turn *t) {
    while (t->blocks) {
        struct turn_block *next = t->blocks->next;
        free(t->blocks);
        t->blocks = next;
    }
    for (size_t i = 0; i < t->kept_count; i++)
        body_drop(t->kept[i].body);
    while (t->chores) { /* never handed out */
        struct journal_job *next = t->chores->next;
        journal_job_forget(t->chores);
        t->chores = next;
    }
    free(t->pieces);
    free(t->chunks);
    free(t->kept);
    free(t->writes);
    free(t);
}

bool turn_empty(const struct turn *t) {
    return t->chunks_count == 0;
}

/* ---- pieces ---- */

static void piece(struct turn *t, void *data, size_t size) {
    size_t first = t->chunks_count ? t->chunks[t->chunks_count - 1].first_piece : 0;
    if (t->pieces_count > first) {
        struct iovec *last = &t->pieces[t->pieces_count - 1];
        if ((char *)last->iov_base + last->iov_len == (char *)data) {
            last->iov_len += size;
            return;
        }
    }
    xgrow(&t->pieces, &t->pieces_capacity, t->pieces_count + 1, sizeof *t->pieces);
    t->pieces[t->pieces_count++] = (struct iovec){data, size};
}

/* Room in the turn's own memory, and a piece of it. */
static uint8_t *room(struct turn *t, size_t size) {
    struct turn_block *b = t->blocks;
    if (!b || b->size - b->used < size) {
        size_t capacity = size > TURN_BLOCK_BYTES ? size : TURN_BLOCK_BYTES;
        b = xmalloc(sizeof *b + capacity);
        *b = (struct turn_block){.next = t->blocks, .size = capacity};
        t->blocks = b;
    }
    uint8_t *data = b->data + b->used;
    b->used += size;
    t->bytes += size;
    piece(t, data, size);
    return data;
}

static void pad(struct turn *t, uint64_t bytes) {
    size_t size = (size_t)(record_space(bytes) - RECORD_HEADER_BYTES - bytes);
    if (size)
        memset(room(t, size), 0, size);
}

/* ---- records ---- */

static struct turn_chunk *open_chunk(const struct writer *w) {
    struct turn *t = w->turn;
    if (t->chunks_count == 0)
        return NULL;
    struct turn_chunk *c = &t->chunks[t->chunks_count - 1];
    return c->segment == segment_head(w->state)->number ? c : NULL;
}

static void index_add(struct writer *w, const struct record *r) {
    seal_add(&w->index, r);
    w->index_count++;
}

/* The FLUSH's number and proof are known when the turn is closed; so in the seal
 * it stands for itself only. */
static void begin_chunk(struct writer *w, uint32_t begin_bytes, const struct segment_header *header) {
    struct turn *t = w->turn;
    struct segment *head = segment_head(w->state);
    xgrow(&t->chunks, &t->chunks_capacity, t->chunks_count + 1, sizeof *t->chunks);
    struct turn_chunk *c = &t->chunks[t->chunks_count++];
    *c = (struct turn_chunk){.segment = head->number,
                             .begin_bytes = begin_bytes,
                             .offset = begin_bytes ? 0 : head->end,
                             .first_piece = t->pieces_count,
                             .seed = w->seed};
    if (header)
        segment_header_encode(room(t, SEGMENT_HEADER_BYTES), header);
    c->flush_offset = head->end;
    c->flush = room(t, RECORD_HEADER_BYTES);
    head->end += RECORD_HEADER_BYTES;
    index_add(w, &(struct record){.kind = RECORD_FLUSH});
}

void writer_begin(struct writer *w, uint32_t number, uint32_t bytes, uint8_t origin) {
    size_t n = w->state->segments_count;
    struct segment_header h = {.number = number,
                               .data_bytes = bytes,
                               .previous = n ? w->state->segments[n - 1]->number : 0,
                               .identity = w->identity,
                               .start = w->start,
                               .origin = origin,
                               .suspect = w->suspect};
    CHECK(number > h.previous);
    segment_add(w->state, number, bytes, SEGMENT_HEADER_BYTES);
    w->seed = segment_seed(w->identity, number);
    w->index.size = 0;
    w->index_count = 0;
    begin_chunk(w, bytes, &h);
}

static struct position put(struct writer *w, struct record *r, const void *prefix, size_t prefix_size,
                           struct body *body) {
    struct turn *t = w->turn;
    struct segment *head = segment_head(w->state);
    struct position at = {head->number, head->end};
    size_t size = body ? body->size : 0;
    uint8_t *header = room(t, RECORD_HEADER_BYTES);
    r->bytes = (uint32_t)(prefix_size + size);
    r->body_crc = crc32c(w->seed, prefix, prefix_size);
    if (prefix_size)
        memcpy(room(t, prefix_size), prefix, prefix_size);
    if (size) {
        r->body_crc = crc32c(r->body_crc, body->data, size);
        if (size <= TURN_COPY_BYTES_MAX) {
            memcpy(room(t, size), body->data, size);
        } else {
            piece(t, body->data, size);
            t->bytes += size;
        }
    }
    pad(t, r->bytes);
    record_encode(header, w->seed, at.offset, r);
    head->end += (uint32_t)record_space(r->bytes);
    index_add(w, r);
    return at;
}

void writer_list(struct writer *w) {
    struct encoder e = {0};
    const struct state *s = w->state;
    for (size_t i = 0; i + 1 < s->segments_count; i++) {
        encode_u32(&e, s->segments[i]->number);
        encode_u32(&e, s->segments[i]->end);
    }
    struct record r = {.kind = RECORD_SEGMENTS};
    if (!open_chunk(w))
        begin_chunk(w, 0, NULL);
    put(w, &r, e.data, e.size, NULL);
    encoder_free(&e);
}

/* ---- segments ---- */

static void chore(struct turn *t, struct journal_job *job) {
    t->chores = journal_job_link(t->chores, job);
}

static struct journal_job *seal_head(struct writer *w) {
    const struct segment *head = segment_head(w->state);
    size_t size = SEAL_HEADER_BYTES + w->index.size;
    uint8_t *data = xmalloc(size);
    seal_header_encode(data, w->seed, w->index_count, head->end, &w->index);
    memcpy(data + SEAL_HEADER_BYTES, w->index.data, w->index.size);
    return job_seal(w->store, head->number, head->bytes, data, size);
}

/* A new segment has room for its list and the record, whatever their size. */
static void rotate(struct writer *w, uint64_t space) {
    const struct segment *head = segment_head(w->state);
    uint64_t list = record_space(8 * w->state->segments_count);
    uint64_t need = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + list + space;
    uint64_t bytes = need > w->segment_bytes ? (need + 4095) / 4096 * 4096 : w->segment_bytes;
    CHECK(bytes <= JOURNAL_SEGMENT_BYTES_MAX && head->number < UINT32_MAX);
    chore(w->turn, seal_head(w));
    writer_begin(w, head->number + 1, (uint32_t)bytes, ORIGIN_ROTATION);
    writer_list(w);
    chore(w->turn, job_fill(w->store));
}

static void make_room(struct writer *w, uint64_t space) {
    struct segment *head = segment_head(w->state);
    uint64_t need = space + (open_chunk(w) ? 0 : RECORD_HEADER_BYTES);
    if (head->end + need > head->bytes)
        rotate(w, space);
    else if (!open_chunk(w))
        begin_chunk(w, 0, NULL);
}

struct position writer_add(struct writer *w, struct record *r, const void *prefix, size_t prefix_size,
                           struct body *body) {
    struct turn *t = w->turn;
    size_t size = prefix_size + (body ? body->size : 0);
    CHECK(size <= RECORD_BODY_BYTES_MAX);
    make_room(w, record_space(size));
    t->bare = false;
    struct position at = put(w, r, prefix, prefix_size, body);
    if (body) {
        xgrow(&t->kept, &t->kept_capacity, t->kept_count + 1, sizeof *t->kept);
        t->kept[t->kept_count++] = (struct turn_kept){at, body_keep(body)};
    }
    t->chunks[t->chunks_count - 1].summary |= summary_bit(r->partition);
    return at;
}

void writer_touch(struct writer *w) {
    if (!turn_empty(w->turn))
        return;
    make_room(w, 0);
    w->turn->bare = true;
}

/* ---- closing ---- */

static void number_flush(struct writer *w, const struct turn_chunk *c) {
    record_encode(c->flush, c->seed, c->flush_offset,
                  &(struct record){.kind = RECORD_FLUSH,
                                   .partition = c->summary,
                                   .epoch = ++w->flush,
                                   .index = position_value(w->proven),
                                   .body_crc = c->seed});
}

struct turn *writer_close_turn(struct writer *w) {
    struct turn *t = w->turn;
    t->writes = xcalloc(t->chunks_count, sizeof *t->writes);
    for (size_t i = 0; i < t->chunks_count; i++) {
        const struct turn_chunk *c = &t->chunks[i];
        size_t end = i + 1 < t->chunks_count ? t->chunks[i + 1].first_piece : t->pieces_count;
        number_flush(w, c);
        t->writes[i] = (struct job_write){.segment = c->segment,
                                          .begin_bytes = c->begin_bytes,
                                          .offset = c->offset,
                                          .pieces = t->pieces + c->first_piece,
                                          .count = end - c->first_piece};
    }
    const struct segment *head = segment_head(w->state);
    t->end = (struct position){head->number, head->end};
    t->job = (struct journal_job){.store = w->store,
                                  .hooks = w->hooks,
                                  .kind = JOB_TURN,
                                  .ticket = t->ticket,
                                  .writes = t->writes,
                                  .writes_count = t->chunks_count};
    w->told = w->proven;
    w->turn = NULL;
    return t;
}

struct body *turn_find(const struct turn *t, struct position at) {
    size_t low = 0, high = t->kept_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (position_before(t->kept[middle].at, at))
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < t->kept_count && position_value(t->kept[low].at) == position_value(at);
    return found ? t->kept[low].body : NULL;
}

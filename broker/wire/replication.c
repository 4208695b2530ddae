// SPDX-License-Identifier: Apache-2.0
#include "wire/replication.h"

#include <stdlib.h>

#include "base/body.h"
#include "base/xalloc.h"

Mr__Append *replication_append(uint64_t partition, const struct replica_append *a) {
    Mr__Append *m = xmalloc(sizeof *m);
    mr__append__init(m);
    m->partition = partition;
    m->from = a->from;
    m->to = a->to;
    m->epoch = a->epoch;
    m->prev_index = a->prev_index;
    m->prev_epoch = a->prev_epoch;
    m->commit = a->commit;
    m->damage = a->damage;
    m->mend_to = a->mend_to;
    m->sent_at = a->sent_at;
    m->n_entries = a->count;
    m->entries = xcalloc(a->count, sizeof *m->entries);
    Mr__EntryHead *heads = a->count ? xcalloc(a->count, sizeof *heads) : NULL;
    for (size_t i = 0; i < a->count; i++) {
        mr__entry_head__init(&heads[i]);
        heads[i].index = a->entries[i].index;
        heads[i].epoch = a->entries[i].epoch;
        heads[i].type = a->entries[i].type;
        heads[i].size = a->entries[i].body ? (uint32_t)a->entries[i].body->size : 0;
        m->entries[i] = &heads[i];
    }
    return m;
}

void replication_append_free(Mr__Append *m) {
    if (m->n_entries)
        free(m->entries[0]); /* the heads are one array */
    free(m->entries);
    free(m);
}

/* A body that makes up most of the frame stays a window into it; a small one is
 * copied, so that it does not pin the whole frame. */
static struct body *cut(struct body *frame, size_t at, size_t size) {
    return size * 2 >= frame->size ? body_slice(frame, at, size) : body_copy(frame->data + at, size);
}

static bool read_entries(const Mr__Append *m, struct body *frame, size_t *at, struct entry *out) {
    for (size_t i = 0; i < m->n_entries; i++) {
        const Mr__EntryHead *head = m->entries[i];
        out[i] = (struct entry){.index = head->index, .epoch = head->epoch, .type = (uint8_t)head->type};
        if (head->index != m->prev_index + 1 + i || head->type > UINT8_MAX)
            return false;
        if (head->size == 0)
            continue;
        if (!frame || *at > frame->size || head->size > frame->size - *at)
            return false;
        out[i].body = cut(frame, *at, head->size);
        *at += head->size;
    }
    return true;
}

bool replication_read_append(const Mr__Append *m, struct body *frame, size_t *at,
                             struct replica_append *out) {
    *out = (struct replica_append){.from = m->from,
                                   .to = m->to,
                                   .epoch = m->epoch,
                                   .prev_index = m->prev_index,
                                   .prev_epoch = m->prev_epoch,
                                   .commit = m->commit,
                                   .damage = m->damage,
                                   .mend_to = m->mend_to,
                                   .sent_at = m->sent_at,
                                   .entries = xcalloc(m->n_entries, sizeof *out->entries),
                                   .count = m->n_entries};
    return read_entries(m, frame, at, out->entries);
}

void replication_entries_free(struct replica_append *a) {
    for (size_t i = 0; i < a->count; i++)
        body_drop(a->entries[i].body);
    free(a->entries);
    a->entries = NULL;
    a->count = 0;
}

void replication_appended(uint64_t partition, const struct replica_appended *a, Mr__Appended *out) {
    mr__appended__init(out);
    out->partition = partition;
    out->from = a->from;
    out->to = a->to;
    out->epoch = a->epoch;
    out->status = a->status;
    out->verified = a->verified;
    out->promise = a->promise;
    out->damaged = a->damaged;
    out->damage = a->damage;
    out->sent_at = a->sent_at;
}

bool replication_read_appended(const Mr__Appended *m, struct replica_appended *out) {
    *out = (struct replica_appended){.from = m->from,
                                     .to = m->to,
                                     .epoch = m->epoch,
                                     .status = m->status,
                                     .verified = m->verified,
                                     .promise = m->promise,
                                     .damaged = m->damaged,
                                     .damage = m->damage,
                                     .sent_at = m->sent_at};
    return m->status <= REPLICA_APPEND_REFUSED;
}

void replication_piece(uint64_t partition, const struct replica_piece *a, Mr__Piece *out) {
    mr__piece__init(out);
    out->partition = partition;
    out->from = a->from;
    out->to = a->to;
    out->epoch = a->epoch;
    out->base_index = a->base_index;
    out->base_epoch = a->base_epoch;
    out->number = a->number;
    out->last = a->last;
    out->is_batch = a->is_batch;
    out->batch_index = a->batch.index;
    out->batch_epoch = a->batch.epoch;
    out->batch_type = a->batch.type;
}

struct body *replication_piece_body(const struct replica_piece *a) {
    return a->is_batch ? a->batch.body : a->state;
}

void replication_read_piece(const Mr__Piece *m, struct body *body, struct replica_piece *out) {
    *out = (struct replica_piece){.from = m->from,
                                  .to = m->to,
                                  .epoch = m->epoch,
                                  .base_index = m->base_index,
                                  .base_epoch = m->base_epoch,
                                  .number = m->number,
                                  .last = m->last,
                                  .is_batch = m->is_batch};
    if (m->is_batch)
        out->batch = (struct entry){m->batch_index, m->batch_epoch, (uint8_t)m->batch_type, body};
    else
        out->state = body;
}

void replication_pieced(uint64_t partition, const struct replica_pieced *a, Mr__Pieced *out) {
    mr__pieced__init(out);
    out->partition = partition;
    out->from = a->from;
    out->to = a->to;
    out->epoch = a->epoch;
    out->base_index = a->base_index;
    out->number = a->number;
    out->done = a->done;
    out->refused = a->refused;
    out->promise = a->promise;
}

void replication_read_pieced(const Mr__Pieced *m, struct replica_pieced *out) {
    *out = (struct replica_pieced){.from = m->from,
                                   .to = m->to,
                                   .epoch = m->epoch,
                                   .base_index = m->base_index,
                                   .number = m->number,
                                   .done = m->done,
                                   .refused = m->refused,
                                   .promise = m->promise};
}

bool replication_read_set(const Mr__Set *in, struct replica_set *out) {
    *out = (struct replica_set){0};
    if (!in)
        return true;
    if (in->n_members > REPLICA_SET_MAX)
        return false;
    for (size_t i = 0; i < in->n_members; i++)
        out->members[out->count++] = in->members[i];
    return true;
}

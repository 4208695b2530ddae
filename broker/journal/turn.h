// SPDX-License-Identifier: Apache-2.0
/*
 * Building a turn: records become pieces of memory to be written back to back,
 * bodies by reference. A turn is one chunk in each segment it touches; a chunk
 * opens with a FLUSH record, and, where it starts a segment, with the segment's
 * header and the list of the older ones.
 */
#ifndef MAILROOM_JOURNAL_TURN_H
#define MAILROOM_JOURNAL_TURN_H

#include "journal/job.h"
#include "journal/state.h"

enum {
    TURN_COPY_BYTES_MAX = 512, /* smaller bodies are copied: cheaper than a piece of their own */
    TURN_BLOCK_BYTES = 16384
};

struct turn_block {
    struct turn_block *next;
    size_t used, size;
    uint8_t data[];
};

struct turn_chunk {
    uint32_t segment;
    uint32_t begin_bytes; /* not 0: starts the segment */
    uint32_t offset;
    size_t first_piece;
    uint8_t *flush; /* its record's header, filled in when the turn is closed */
    uint32_t flush_offset;
    uint32_t seed;
    uint64_t summary;
};

struct turn_kept {
    struct position at;
    struct body *body;
};

struct turn {
    struct turn *next;
    uint64_t ticket;
    struct turn_block *blocks;
    struct iovec *pieces;
    size_t pieces_count, pieces_capacity;
    struct turn_chunk *chunks;
    size_t chunks_count, chunks_capacity;
    struct turn_kept *kept; /* ascending by position */
    size_t kept_count, kept_capacity;
    struct job_write *writes;
    struct journal_job *chores; /* to be run behind it */
    struct position end;
    uint64_t bytes;
    bool bare; /* nothing but a FLUSH */
    struct journal_job job;
};

/* What writes: where the next record goes. */
struct writer {
    struct store *store;
    struct state *state;
    const struct job_hooks *hooks;
    uint64_t identity;
    uint64_t start;
    uint64_t suspect;       /* for the headers */
    uint64_t flush;         /* number of the last flush */
    struct position proven; /* synced, as far as the owner knows */
    struct position told;   /* the highest position a flush has proven */
    uint32_t segment_bytes;
    uint32_t seed;        /* of the head */
    struct encoder index; /* of the head's records, for its seal */
    uint32_t index_count;
    struct turn *turn; /* the open one */
};

/* An open turn with the ticket. */
struct turn *turn_new(uint64_t ticket);
void turn_free(struct turn *t);
bool turn_empty(const struct turn *t);

/* Begin the segment in the open turn; it becomes the head. */
void writer_begin(struct writer *w, uint32_t number, uint32_t bytes, uint8_t origin);
/* The SEGMENTS record: all segments but the head. */
void writer_list(struct writer *w);
/* Add a record; r->bytes and r->body_crc are set here. prefix and body may be
 * NULL; prefix is copied, body kept. Moves to a new segment where needed. */
struct position writer_add(struct writer *w, struct record *r, const void *prefix, size_t prefix_size,
                           struct body *body);
/* A chunk with nothing but its FLUSH, if the turn is empty. */
void writer_touch(struct writer *w);
/* Number the flushes and make the job. The turn is the caller's; w->turn is NULL. */
struct turn *writer_close_turn(struct writer *w);
/* The body of a record written and not yet completed, borrowed; NULL if none. */
struct body *turn_find(const struct turn *t, struct position at);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Records, read back in order, become the state. Two passes over the segments:
 *
 *   1. replay_survey: which partitions there are and where the newest checkpoint
 *      (or drop) of each is. Then replay_checkpoints reads those: they say what
 *      the partition is made of. One with a bad body is rejected, and the survey
 *      done again without it.
 *   2. replay_segment, replay_record: before its newest checkpoint a partition's
 *      records only tell where the bytes of a named (index, epoch) are; behind it
 *      they are applied. So segments may be missing from the middle, once a newer
 *      checkpoint covers what they said.
 *
 * replay_finish: whatever is named and was not found is damage. Only bytes below
 * the proven position come here (or were written anew); so each bad one counts.
 */
#ifndef MAILROOM_JOURNAL_REPLAY_H
#define MAILROOM_JOURNAL_REPLAY_H

#include "journal/scan.h"
#include "journal/state.h"

/* A hole in the log larger than this is not filled with lost entries: the log
 * starts behind it. */
enum { REPLAY_HOLE_MAX = 1 << 16 };

struct replay {
    struct state *state;
    struct store *store;
    uint64_t identity;
    uint64_t suspect; /* summary bits of all flushes that lost a header */
    bool damaged;     /* bad bytes were met */
};

/* Forget what an earlier survey found, but for rejections. */
void replay_restart(struct replay *r);
/* Items in [from, end) of the segment. */
void replay_survey(struct replay *r, uint32_t segment, const struct scan *scan, uint32_t from, uint32_t end);
/* False: at least one was rejected; survey again. */
bool replay_checkpoints(struct replay *r, enum err *error);

/* Apply the items in [from, end); what is missing up to `end` is lost. */
void replay_segment(struct replay *r, uint32_t segment, const struct scan *scan, uint32_t from, uint32_t end);
/* One record found at `from`, its bytes now at `now` (elsewhere if rewritten). */
void replay_record(struct replay *r, const struct record *record, uint8_t what, struct position from,
                   struct position now);
/* Records of unknown partitions (those of the summary) are lost at this point. */
void replay_lost(struct replay *r, uint64_t summary);
void replay_finish(struct replay *r);

#endif

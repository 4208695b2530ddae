// SPDX-License-Identifier: Apache-2.0
/*
 * Opening a journal, good case: the newest segment tells the last position
 * proven synced and lists the older segments; their seals and its own records
 * are replayed; what stands behind the proven position is written anew into a
 * fresh segment and synced; then that one is given its list, and counts.
 *
 * Every other case is in recover_table.c. Until the fresh segment has its list
 * nothing that was there is changed or removed, so a crash in a recovery is
 * followed by the same recovery.
 */
#ifndef MAILROOM_JOURNAL_RECOVER_H
#define MAILROOM_JOURNAL_RECOVER_H

#include "journal/journal.h"
#include "journal/recover_table.h"
#include "journal/replay.h"
#include "journal/turn.h"

/* A segment file, there or listed. */
struct recover_file {
    uint32_t number;
    uint64_t size;
    enum file_state state;
    bool header_right;
    struct segment_header header; /* if right */
    enum file_place place;
    uint32_t end; /* what counts in it ends here: LISTED, HEAD, TAIL */
    bool scanned;
    struct scan scan; /* if scanned */
};

struct recover {
    struct writer *writer;
    struct store *store;
    const struct journal_options *options;
    struct journal_recovered *out;
    struct err_detail *detail;

    struct recover_file **files; /* ascending by number */
    size_t count, capacity;
    uint64_t spare_size;
    bool spare_there;
    bool identity_known;
    uint64_t identity;
    enum folder_action action;
    struct position proven;
    uint64_t flush; /* highest number met */
    bool list_bad;  /* the head's list cannot be read */
    bool end_lost;  /* the last segment is sealed: the one behind it is missing */
    struct replay replay;
};

/* The whole of it; the writer is ready to add records then. ERR_IO, ERR_VERSION. */
enum err recover(struct writer *w, const struct journal_options *options, struct journal_recovered *out,
                 struct err_detail *detail);

/* recover_files.c: look at the folder; decide what each file is; nothing is changed. */
enum err recover_look(struct recover *r);
/* How far right records go on from `from` without a break. */
uint32_t recover_unbroken(const struct scan *s, uint32_t from);
struct recover_file *recover_find(const struct recover *r, uint32_t number);
/* Its records: from its seal where it may be used, else scanned. */
enum err recover_load(struct recover *r, struct recover_file *f, struct scan *out, bool *borrowed);

#endif

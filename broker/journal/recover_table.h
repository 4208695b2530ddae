// SPDX-License-Identifier: Apache-2.0
/*
 * What recovery does in each case: three tables. Each combination of their
 * inputs matches exactly one row (a test goes through all of them).
 */
#ifndef MAILROOM_JOURNAL_RECOVER_TABLE_H
#define MAILROOM_JOURNAL_RECOVER_TABLE_H

#include <stdbool.h>
#include <stddef.h>

enum { ANY = -1 };

/* ---- the folder: is there a journal? ---- */

enum folder_identity { IDENTITY_NONE, IDENTITY_KNOWN, FOLDER_IDENTITIES };
enum folder_segments {
    SEGMENTS_NONE,  /* no segment file */
    SEGMENTS_FIRST, /* only the very first, and it does not count yet */
    SEGMENTS_LOST,  /* some, none of which proves anything */
    SEGMENTS_PROVEN,
    FOLDER_SEGMENTS
};
enum folder_action {
    FOLDER_CREATE, /* new */
    FOLDER_OPEN,
    FOLDER_LOST, /* there was one: set its files aside, begin with a new identity */
};

struct folder_row {
    int identity, segments;
    enum folder_action action;
    const char *why;
};
extern const struct folder_row folder_rows[];
extern const size_t folder_rows_count;
enum folder_action folder_decide(enum folder_identity identity, enum folder_segments segments);

/* ---- a segment file ---- */

enum file_place {
    PLACE_LISTED,   /* before the proven position's segment, named by its list */
    PLACE_HEAD,     /* holds the proven position */
    PLACE_TAIL,     /* follows the head, in a chain of full segments */
    PLACE_BEGUN,    /* behind those: begun by a recovery that did not get to its end, or after a torn tail */
    PLACE_UNLISTED, /* before, in no list: reclaimed */
    FILE_PLACES
};
enum file_state {
    FILE_MISSING,
    FILE_FOREIGN,  /* another journal's */
    FILE_SHORT,    /* shorter than it was made, or than what counts in it */
    FILE_HEADLESS, /* its header is bad */
    FILE_WHOLE,
    FILE_STATES
};
enum file_action {
    FILE_USE,       /* by its seal, or scanned */
    FILE_SCAN,      /* the records that can be read count; what is missing is lost */
    FILE_SCAN_LOST, /* the same; and more may be lost than is known of */
    FILE_LOST,      /* all it held is lost */
    FILE_REWRITE,   /* its records up to the first bad byte are written anew, then it goes */
    FILE_CUT,       /* the tail ends before it; it goes */
    FILE_REMOVE,
    FILE_ASIDE,      /* renamed, kept */
    FILE_ASIDE_LOST, /* the same; and what should be there is lost */
    FILE_ASIDE_CUT,  /* the same; and the tail ends before it */
    FILE_NOTHING
};

struct file_row {
    int place, state;
    enum file_action action;
    const char *why;
};
extern const struct file_row file_rows[];
extern const size_t file_rows_count;
enum file_action file_decide(enum file_place place, enum file_state state);

/* ---- bytes in a segment ---- */

enum bytes_place { BYTES_PROVEN, BYTES_UNPROVEN, BYTES_PLACES };
enum bytes_found {
    FOUND_RECORD,
    FOUND_BAD_ENTRY,      /* header right, body bad */
    FOUND_BAD_COPY,       /* a moved or staged one's body */
    FOUND_BAD_CHECKPOINT, /* its body */
    FOUND_BAD_LIST,       /* the body of a list of segments */
    FOUND_GAP,            /* no right header */
    FOUND_END,            /* no right header up to the end of what counts */
    BYTES_FOUND
};
enum bytes_action {
    BYTES_KEEP,
    BYTES_CUT,               /* torn: what counts ends here */
    BYTES_IGNORE,            /* unless it is the only copy, which shows by itself */
    BYTES_DAMAGE_ENTRY,      /* its partition, from its index on */
    BYTES_DAMAGE_CHECKPOINT, /* its partition, wholly: also a promise may be lost */
    BYTES_DAMAGE_FLUSH       /* every partition that the flush may have held */
};

struct bytes_row {
    int place, found;
    enum bytes_action action;
    const char *why;
};
extern const struct bytes_row bytes_rows[];
extern const size_t bytes_rows_count;
enum bytes_action bytes_decide(enum bytes_place place, enum bytes_found found);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "journal/recover_table.h"

#include "base/check.h"

#define COUNT(rows) (sizeof(rows) / sizeof *(rows))

static bool matches(int row, int given) {
    return row == ANY || row == given;
}

/* The identity file is written once the first segment counts. */
const struct folder_row folder_rows[] = {
    {ANY, SEGMENTS_PROVEN, FOLDER_OPEN, "a journal; its identity stands in every segment too"},
    {IDENTITY_NONE, SEGMENTS_NONE, FOLDER_CREATE, "an empty folder"},
    {IDENTITY_NONE, SEGMENTS_FIRST, FOLDER_CREATE, "died while creating it, nothing was answered"},
    {IDENTITY_NONE, SEGMENTS_LOST, FOLDER_LOST, "segments, none readable"},
    {IDENTITY_KNOWN, SEGMENTS_NONE, FOLDER_LOST, "all segments are missing"},
    {IDENTITY_KNOWN, SEGMENTS_FIRST, FOLDER_LOST, "it counted once"},
    {IDENTITY_KNOWN, SEGMENTS_LOST, FOLDER_LOST, "segments, none readable"},
};
const size_t folder_rows_count = COUNT(folder_rows);

enum folder_action folder_decide(enum folder_identity identity, enum folder_segments segments) {
    for (size_t i = 0; i < folder_rows_count; i++)
        if (matches(folder_rows[i].identity, identity) && matches(folder_rows[i].segments, segments))
            return folder_rows[i].action;
    check_failed("a row for each case", __FILE__, __LINE__, __func__);
}

const struct file_row file_rows[] = {
    {PLACE_LISTED, FILE_MISSING, FILE_LOST, "missing segment in the middle"},
    {PLACE_LISTED, FILE_FOREIGN, FILE_ASIDE_LOST, "another file in its place"},
    {PLACE_LISTED, FILE_SHORT, FILE_SCAN, "the missing end is damage"},
    {PLACE_LISTED, FILE_HEADLESS, FILE_SCAN, "records prove themselves by their seed"},
    {PLACE_LISTED, FILE_WHOLE, FILE_USE, "sealed, or scanned"},
    {PLACE_HEAD, FILE_MISSING, FILE_LOST, "proven by its follower, and gone"},
    {PLACE_HEAD, FILE_FOREIGN, FILE_ASIDE_LOST, "proven by its follower, another file in its place"},
    {PLACE_HEAD, FILE_SHORT, FILE_SCAN_LOST, "how far it was proven is not known"},
    {PLACE_HEAD, FILE_HEADLESS, FILE_SCAN, "records prove themselves by their seed"},
    {PLACE_HEAD, FILE_WHOLE, FILE_USE, "up to the proven position; behind it as the tail"},
    {PLACE_TAIL, FILE_MISSING, FILE_NOTHING, "the tail ends before it"},
    {PLACE_TAIL, FILE_FOREIGN, FILE_ASIDE_CUT, "the tail ends before it"},
    {PLACE_TAIL, FILE_SHORT, FILE_ASIDE_LOST, "files are whole before they are named"},
    {PLACE_TAIL, FILE_HEADLESS, FILE_CUT, "torn in its first bytes, or never used"},
    {PLACE_TAIL, FILE_WHOLE, FILE_REWRITE, "not proven synced"},
    {PLACE_BEGUN, FILE_MISSING, FILE_NOTHING, "no such file"},
    {PLACE_BEGUN, FILE_FOREIGN, FILE_ASIDE, "not ours to delete"},
    {PLACE_BEGUN, FILE_SHORT, FILE_ASIDE_LOST, "files are whole before they are named; it may have counted"},
    {PLACE_BEGUN, FILE_HEADLESS, FILE_REMOVE, "nothing was answered from it"},
    {PLACE_BEGUN, FILE_WHOLE, FILE_REMOVE, "what it holds still stands in the tail"},
    {PLACE_UNLISTED, FILE_MISSING, FILE_NOTHING, "reclaimed"},
    {PLACE_UNLISTED, FILE_FOREIGN, FILE_ASIDE, "not ours to delete"},
    {PLACE_UNLISTED, FILE_SHORT, FILE_REMOVE, "reclaimed, its name came back"},
    {PLACE_UNLISTED, FILE_HEADLESS, FILE_REMOVE, "reclaimed, its name came back"},
    {PLACE_UNLISTED, FILE_WHOLE, FILE_REMOVE, "reclaimed, its name came back"},
};
const size_t file_rows_count = COUNT(file_rows);

enum file_action file_decide(enum file_place place, enum file_state state) {
    for (size_t i = 0; i < file_rows_count; i++)
        if (matches(file_rows[i].place, place) && matches(file_rows[i].state, state))
            return file_rows[i].action;
    check_failed("a row for each case", __FILE__, __LINE__, __func__);
}

const struct bytes_row bytes_rows[] = {
    {ANY, FOUND_RECORD, BYTES_KEEP, "right"},
    {BYTES_UNPROVEN, FOUND_BAD_ENTRY, BYTES_CUT, "torn"},
    {BYTES_UNPROVEN, FOUND_BAD_COPY, BYTES_CUT, "torn"},
    {BYTES_UNPROVEN, FOUND_BAD_CHECKPOINT, BYTES_CUT, "torn"},
    {BYTES_UNPROVEN, FOUND_BAD_LIST, BYTES_CUT, "torn"},
    {BYTES_UNPROVEN, FOUND_GAP, BYTES_CUT, "torn"},
    {BYTES_UNPROVEN, FOUND_END, BYTES_CUT, "the end, or torn"},
    {BYTES_PROVEN, FOUND_BAD_ENTRY, BYTES_DAMAGE_ENTRY, "its header says whose and which it was"},
    {BYTES_PROVEN, FOUND_BAD_COPY, BYTES_IGNORE, "if nothing else has it, replay misses it"},
    {BYTES_PROVEN, FOUND_BAD_CHECKPOINT, BYTES_DAMAGE_CHECKPOINT,
     "it held the promise; an older one is used"},
    {BYTES_PROVEN, FOUND_BAD_LIST, BYTES_DAMAGE_FLUSH, "a missing segment would not show"},
    {BYTES_PROVEN, FOUND_GAP, BYTES_DAMAGE_FLUSH, "nobody can say whose it was"},
    {BYTES_PROVEN, FOUND_END, BYTES_DAMAGE_FLUSH, "nobody can say whose it was"},
};
const size_t bytes_rows_count = COUNT(bytes_rows);

enum bytes_action bytes_decide(enum bytes_place place, enum bytes_found found) {
    for (size_t i = 0; i < bytes_rows_count; i++)
        if (matches(bytes_rows[i].place, place) && matches(bytes_rows[i].found, found))
            return bytes_rows[i].action;
    check_failed("a row for each case", __FILE__, __LINE__, __func__);
}

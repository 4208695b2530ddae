// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/xalloc.h"
#include "journal/recover.h"

enum { IDENTITY_BYTES = 20 };

struct recover_file *recover_find(const struct recover *r, uint32_t number) {
    for (size_t i = 0; i < r->count; i++)
        if (r->files[i]->number == number)
            return r->files[i];
    return NULL;
}

static struct recover_file *file_add(struct recover *r, uint32_t number, uint64_t size) {
    struct recover_file *f = xcalloc(1, sizeof *f);
    *f = (struct recover_file){.number = number, .size = size, .place = PLACE_UNLISTED};
    xgrow(&r->files, &r->capacity, r->count + 1, sizeof *r->files);
    size_t at = r->count++;
    while (at > 0 && r->files[at - 1]->number > number) {
        r->files[at] = r->files[at - 1];
        at--;
    }
    r->files[at] = f;
    return f;
}

static void on_name(void *ctx, const char *name, uint64_t bytes) {
    struct recover *r = ctx;
    uint32_t number = store_name_parse(name);
    if (number)
        file_add(r, number, bytes);
    if (strcmp(name, "spare") == 0) {
        r->spare_there = true;
        r->spare_size = bytes;
    }
}

static enum err io_error(struct recover *r, const char *what, const char *name, int error) {
    return err_set(r->detail, ERR_IO, "%s %.100s/%s: %s", what, r->store->folder, name, strerror(error));
}

/* ---- identity ---- */

static enum err read_identity(struct recover *r) {
    char path[STORE_PATH_BYTES_MAX];
    struct disk *d = r->store->disk;
    struct disk_file *f;
    uint8_t bytes[IDENTITY_BYTES];
    uint64_t size;
    size_t got = 0;
    store_path(r->store, "identity", path);
    if (d->open(d, path, &f, &size) != 0)
        return ERR_OK;
    int error = d->read(d, f, 0, bytes, sizeof bytes, &got);
    d->close(d, f);
    if (error)
        return io_error(r, "read", "identity", error);
    r->identity_known = got == sizeof bytes && memcmp(bytes, "MRIDENT1", 8) == 0 &&
                        get_u32(bytes + 16) == crc32c(0, bytes, 16);
    if (r->identity_known)
        r->identity = get_u64(bytes + 8);
    return ERR_OK;
}

/* Lost, or not yet written: the newest segment says it too. */
static void infer_identity(struct recover *r) {
    for (size_t i = r->count; i-- > 0 && !r->identity;)
        if (r->files[i]->header_right)
            r->identity = r->files[i]->header.identity;
}

/* ---- headers ---- */

static enum err open_file(struct recover *r, struct recover_file *f) {
    char path[STORE_PATH_BYTES_MAX], name[32];
    struct disk *d = r->store->disk;
    struct disk_file *file;
    uint8_t bytes[SEGMENT_HEADER_BYTES];
    size_t got = 0;
    store_name(f->number, name);
    store_path(r->store, name, path);
    int error = d->open(d, path, &file, &f->size);
    if (error)
        return io_error(r, "open", name, error);
    error = d->read(d, file, 0, bytes, sizeof bytes, &got);
    if (error) {
        d->close(d, file);
        return io_error(r, "read", name, error);
    }
    enum header_verdict v = got < sizeof bytes ? HEADER_BAD : segment_header_decode(bytes, &f->header);
    f->header_right = v == HEADER_OK;
    store_add(r->store, f->number, file, f->header_right ? f->header.data_bytes : f->size);
    if (v == HEADER_NEWER)
        return err_set(r->detail, ERR_VERSION, "%s: written by a newer release", name);
    return ERR_OK;
}

static enum file_state state_of(const struct recover *r, const struct recover_file *f) {
    if (!f->header_right)
        return f->size < JOURNAL_SEGMENT_BYTES_MIN ? FILE_SHORT : FILE_HEADLESS;
    if (f->header.identity != r->identity || f->header.number != f->number)
        return FILE_FOREIGN;
    return f->size < f->header.data_bytes ? FILE_SHORT : FILE_WHOLE;
}

static uint32_t scan_size(const struct recover_file *f) {
    uint64_t size = f->header_right && f->header.data_bytes < f->size ? f->header.data_bytes : f->size;
    return size < JOURNAL_SEGMENT_BYTES_MAX ? (uint32_t)size : JOURNAL_SEGMENT_BYTES_MAX;
}

static enum err scan_file(struct recover *r, struct recover_file *f) {
    if (f->scanned)
        return ERR_OK;
    enum err e = scan_segment(r->store, r->identity, f->number, scan_size(f), &f->scan);
    if (e != ERR_OK)
        return err_set(r->detail, ERR_IO, "cannot read segment %08x", f->number);
    f->scanned = true;
    return ERR_OK;
}

enum err recover_load(struct recover *r, struct recover_file *f, struct scan *out, bool *borrowed) {
    *borrowed = false;
    if (!f->scanned && f->state == FILE_WHOLE &&
        scan_seal(r->store, r->identity, f->number, f->header.data_bytes, f->end, out))
        return ERR_OK;
    if (f->scanned) {
        *borrowed = true;
        *out = f->scan;
        return ERR_OK;
    }
    enum err e = scan_segment(r->store, r->identity, f->number, scan_size(f), out);
    return e == ERR_OK ? e : err_set(r->detail, ERR_IO, "cannot read segment %08x", f->number);
}

/* ---- the proven position ---- */

static const struct scan_item *find_list(const struct scan *s) {
    for (size_t i = 0; i < s->count; i++)
        if (s->items[i].what == SCAN_RECORD && s->items[i].record.kind == RECORD_SEGMENTS)
            return &s->items[i];
    return NULL;
}

/* A list that does not stand right behind the first FLUSH is that of a segment
 * begun by recovery, written after what stands before its own FLUSH was synced. */
static bool list_proves(const struct scan_item *list) {
    return list && list->offset > SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES;
}

static void learn_proofs(struct recover *r, const struct recover_file *f) {
    const struct scan_item *list = find_list(&f->scan);
    struct position p = {f->number, 0};
    if (list_proves(list)) {
        p.offset = list->offset - RECORD_HEADER_BYTES;
        if (position_before(r->proven, p))
            r->proven = p;
    }
    for (size_t i = 0; i < f->scan.count; i++) {
        const struct scan_item *item = &f->scan.items[i];
        if (item->what != SCAN_RECORD || item->record.kind != RECORD_FLUSH)
            continue;
        p = position_of(item->record.index);
        if (position_before(r->proven, p))
            r->proven = p;
        if (item->record.epoch > r->flush)
            r->flush = item->record.epoch;
    }
}

/* From the newest down to the one that holds the proven position: proofs in
 * older ones are of lower positions. */
static enum err find_proven(struct recover *r) {
    for (size_t i = r->count; i-- > 0 && r->proven.segment < r->files[i]->number;) {
        if (r->files[i]->state == FILE_FOREIGN)
            continue;
        enum err e = scan_file(r, r->files[i]);
        if (e != ERR_OK)
            return e;
        learn_proofs(r, r->files[i]);
    }
    return ERR_OK;
}

static enum folder_segments folder_state(const struct recover *r) {
    if (r->proven.segment)
        return SEGMENTS_PROVEN;
    if (r->count == 0)
        return SEGMENTS_NONE;
    return r->count == 1 && r->files[0]->number == 1 ? SEGMENTS_FIRST : SEGMENTS_LOST;
}

/* ---- the list of older segments ---- */

static enum err read_list(struct recover *r, const struct recover_file *f, uint8_t **out, size_t *size) {
    const struct scan_item *list = find_list(&f->scan);
    *out = NULL;
    *size = 0;
    if (!list)
        return ERR_OK;
    size_t got = 0;
    uint8_t *body = xmalloc(list->record.bytes + 1);
    if (store_read(r->store, f->number, list->offset + RECORD_HEADER_BYTES, body, list->record.bytes, &got) !=
        ERR_OK) {
        free(body);
        return err_set(r->detail, ERR_IO, "cannot read segment %08x", f->number);
    }
    *out = body;
    *size = got / 8 * 8;
    return ERR_OK;
}

static void name_file(struct recover *r, uint32_t number, uint32_t end) {
    struct recover_file *f = recover_find(r, number);
    if (!f) {
        f = file_add(r, number, 0);
        f->state = FILE_MISSING;
    }
    f->place = PLACE_LISTED;
    f->end = end;
    if (f->state == FILE_WHOLE && f->size < end)
        f->state = FILE_SHORT;
}

/* Nothing says which segments there should be: take all there are. */
static void list_what_is_there(struct recover *r) {
    r->list_bad = true;
    for (size_t i = 0; i < r->count && r->files[i]->number < r->proven.segment; i++) {
        struct recover_file *f = r->files[i];
        struct scan scan;
        bool borrowed;
        if (f->state == FILE_FOREIGN || recover_load(r, f, &scan, &borrowed) != ERR_OK)
            continue;
        f->place = PLACE_LISTED;
        f->end = scan.end;
        if (!borrowed)
            scan_free(&scan);
    }
}

static enum err list_files(struct recover *r) {
    uint8_t *list = NULL;
    size_t size = 0;
    for (size_t i = 0; i < r->count && !list; i++) {
        if (r->files[i]->number < r->proven.segment || !r->files[i]->scanned)
            continue;
        enum err e = read_list(r, r->files[i], &list, &size);
        if (e != ERR_OK)
            return e;
        /* a later segment's list is right as far as it goes, but what was
         * removed since the head's own is not told apart from what was lost */
        r->list_bad |= !list && r->files[i]->number == r->proven.segment;
    }
    if (!list)
        list_what_is_there(r);
    for (size_t at = 0; at < size; at += 8)
        if (get_u32(list + at) < r->proven.segment)
            name_file(r, get_u32(list + at), get_u32(list + at + 4));
    free(list);
    return ERR_OK;
}

/* ---- the tail ---- */

uint32_t recover_unbroken(const struct scan *s, uint32_t from) {
    uint32_t at = from;
    for (size_t i = 0; i < s->count; i++) {
        const struct scan_item *item = &s->items[i];
        if (item->offset < from)
            continue;
        enum bytes_found found = item->what == SCAN_RECORD ? FOUND_RECORD : FOUND_GAP;
        if (item->offset != at || bytes_decide(BYTES_UNPROVEN, found) == BYTES_CUT)
            break;
        at = item->end;
    }
    return at;
}

/* The segment behind f goes on where f ended: by its own list. */
static bool follows(struct recover *r, const struct recover_file *f, uint32_t end,
                    const struct recover_file *next) {
    if (file_decide(PLACE_TAIL, next->state) != FILE_REWRITE || next->header.origin != ORIGIN_ROTATION ||
        next->header.previous != f->number)
        return false;
    uint8_t *list;
    size_t size;
    bool fits = false;
    if (f->state == FILE_MISSING || f->state == FILE_FOREIGN)
        return true;
    if (read_list(r, next, &list, &size) != ERR_OK)
        return false;
    for (size_t at = 0; at < size; at += 8)
        fits |= get_u32(list + at) == f->number && get_u32(list + at + 4) == end;
    free(list);
    return fits;
}

/* A seal is written once the next segment has begun, durably. */
static bool is_sealed(struct recover *r, const struct recover_file *f) {
    struct scan scan;
    if (f->state != FILE_WHOLE ||
        !scan_seal(r->store, r->identity, f->number, f->header.data_bytes, SEGMENT_HEADER_BYTES, &scan))
        return false;
    scan_free(&scan);
    return true;
}

static void find_tail(struct recover *r) {
    struct recover_file *f = recover_find(r, r->proven.segment), *next;
    for (size_t i = 0; i < r->count; i++)
        if (r->files[i]->number > f->number)
            r->files[i]->place = PLACE_BEGUN;
    uint32_t end = f->scanned ? recover_unbroken(&f->scan, r->proven.offset) : r->proven.offset;
    for (;;) {
        next = recover_find(r, f->number + 1);
        if (!next || !next->scanned || !follows(r, f, end, next))
            break;
        f = next;
        end = recover_unbroken(&f->scan, SEGMENT_HEADER_BYTES);
        f->place = PLACE_TAIL;
        f->end = end;
    }
    r->end_lost = is_sealed(r, f) && f == r->files[r->count - 1];
}

static void forget_removed_in(struct recover *r, const struct recover_file *f, uint32_t to) {
    for (size_t i = 0; f->scanned && i < f->scan.count && f->scan.items[i].end <= to; i++) {
        const struct scan_item *item = &f->scan.items[i];
        if (item->what != SCAN_RECORD || item->record.kind != RECORD_REMOVED)
            continue;
        struct recover_file *gone = recover_find(r, (uint32_t)item->record.index);
        if (gone && gone->place == PLACE_LISTED)
            gone->place = PLACE_UNLISTED;
    }
}

static void forget_removed(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        struct recover_file *f = r->files[i];
        if (f->place == PLACE_HEAD && f->scanned)
            forget_removed_in(r, f, recover_unbroken(&f->scan, r->proven.offset));
        else if (f->place == PLACE_TAIL)
            forget_removed_in(r, f, f->end);
    }
}

static enum err place_head(struct recover *r) {
    struct recover_file *head = recover_find(r, r->proven.segment);
    if (!head) {
        head = file_add(r, r->proven.segment, 0);
        head->state = FILE_MISSING;
    }
    head->place = PLACE_HEAD;
    head->end = r->proven.offset;
    if (head->state == FILE_WHOLE && head->size < head->end)
        head->state = FILE_SHORT;
    bool there = head->state != FILE_MISSING && head->state != FILE_FOREIGN;
    return there ? scan_file(r, head) : ERR_OK;
}

static enum err look_at_headers(struct recover *r) {
    for (size_t i = 0; i < r->count; i++) {
        enum err e = open_file(r, r->files[i]);
        if (e != ERR_OK)
            return e;
    }
    if (!r->identity_known)
        infer_identity(r);
    for (size_t i = 0; i < r->count; i++)
        r->files[i]->state = state_of(r, r->files[i]);
    return ERR_OK;
}

enum err recover_look(struct recover *r) {
    struct disk *d = r->store->disk;
    int error = d->list(d, r->store->folder, on_name, r);
    if (error)
        return io_error(r, "list", "", error);
    enum err e = read_identity(r);
    if (e == ERR_OK)
        e = look_at_headers(r);
    if (e == ERR_OK)
        e = find_proven(r);
    if (e != ERR_OK)
        return e;
    r->action = folder_decide(r->identity_known ? IDENTITY_KNOWN : IDENTITY_NONE, folder_state(r));
    if (r->action != FOLDER_OPEN)
        return ERR_OK;
    e = place_head(r);
    if (e == ERR_OK)
        e = list_files(r);
    if (e != ERR_OK)
        return e;
    find_tail(r);
    forget_removed(r);
    return ERR_OK;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Where a disk's bits may turn over: anywhere but in what a journal has not yet
 * proven. A flush is proven by the next one, which says what was synced before it
 * (broker/journal/format.h); until then bad bytes in it read as a torn tail, and are
 * cut (README.md of journal/, "What cannot be seen here"). So a flip there, found
 * after a crash, takes back what was promised or acknowledged: no journal of this
 * format can see it, and no protocol above it bears it. It is the one harm to a disk
 * that is not played here. The proof must be synced itself: else a power loss takes
 * it away, and what it spoke for is unproven again.
 */
#include <stdio.h>

#include "journal/scan.h"
#include "sim.h"

struct flips {
    const struct mem_disk *disk;
    struct position proven;
    char name[64]; /* asked last */
    size_t at;
};

static void learn(struct flips *f, struct position p) {
    if (position_before(f->proven, p))
        f->proven = p;
}

/* As recovery does (recover_files.c); but bytes under a bad header prove nothing here. */
static void learn_segment(struct flips *f, const char *name) {
    size_t size;
    struct segment_header h;
    struct scan scan;
    const uint8_t *bytes = mem_disk_synced(f->disk, name, &size);
    if (!bytes || size < SEGMENT_HEADER_BYTES || segment_header_decode(bytes, &h) != HEADER_OK)
        return;
    size = size < h.data_bytes ? size : h.data_bytes;
    scan_bytes(bytes, size, segment_seed(h.identity, h.number), SEGMENT_HEADER_BYTES, &scan);
    for (size_t i = 0; i < scan.count; i++) {
        const struct scan_item *item = &scan.items[i];
        if (item->what != SCAN_RECORD)
            continue;
        if (item->record.kind == RECORD_FLUSH)
            learn(f, position_of(item->record.index));
        else if (item->record.kind == RECORD_SEGMENTS && h.origin == ORIGIN_RECOVERY)
            learn(f, (struct position){h.number, item->offset - RECORD_HEADER_BYTES});
    }
    scan_free(&scan);
}

static bool may_flip(void *ctx, const char *name, size_t at) {
    struct flips *f = ctx;
    uint32_t number = store_name_parse(name);
    if (number && !position_before((struct position){number, (uint32_t)at}, f->proven))
        return false;
    snprintf(f->name, sizeof f->name, "%s", name);
    f->at = at;
    return true;
}

bool flips_one(struct process *p) {
    struct flips f = {.disk = p->disk};
    for (size_t i = 0; i < mem_disk_count(p->disk); i++)
        if (store_name_parse(mem_disk_name(p->disk, i)))
            learn_segment(&f, mem_disk_name(p->disk, i));
    if (!mem_disk_flip(p->disk, &p->sim->rng, may_flip, &f))
        return false;
    sim_trace(p->sim, "%s disk: a bit flips in %s, byte %zu", p->name, f.name, f.at);
    return true;
}

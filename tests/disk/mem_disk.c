// SPDX-License-Identifier: Apache-2.0
#include "mem_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/xalloc.h"

enum { SECTOR = 512, NAME_MAX_BYTES = 64 };

struct inode {
    uint8_t *data, *synced; /* same capacity */
    size_t size, synced_size, capacity;
    size_t dirty_from, dirty_to;
    unsigned handles;
    bool named; /* scratch of sweep() */
    bool sync_due;
    struct inode *next;
};

struct name {
    char text[NAME_MAX_BYTES];
    struct inode *inode;
};

struct names {
    struct name *items;
    size_t count, capacity;
};

struct change { /* from "": created; to "": removed */
    char from[NAME_MAX_BYTES], to[NAME_MAX_BYTES];
    struct inode *inode;
};

struct disk_file {
    struct inode *inode;
};

struct mem_disk {
    struct disk disk; /* first */
    struct inode *inodes;
    struct names now, synced;
    struct change *changes;
    size_t changes_count, changes_capacity;
    uint64_t limit;
    _Atomic int fail_after; /* set by the test while the journal's thread writes */
    _Atomic bool failing;
    bool locked;
    bool deferring;
};

static struct mem_disk *of(struct disk *d) {
    return (struct mem_disk *)d;
}

static const char *base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- names ---- */

static size_t name_find(const struct names *n, const char *text) {
    size_t i = 0;
    while (i < n->count && strcmp(n->items[i].text, text) != 0)
        i++;
    return i;
}

static void name_set(struct names *n, const char *text, struct inode *inode) {
    size_t i = name_find(n, text);
    if (!inode) {
        if (i < n->count)
            n->items[i] = n->items[--n->count];
        return;
    }
    if (i == n->count) {
        xgrow(&n->items, &n->capacity, n->count + 1, sizeof *n->items);
        n->count++;
        CHECK(strlen(text) < NAME_MAX_BYTES);
        strcpy(n->items[i].text, text);
    }
    n->items[i].inode = inode;
}

static void change_apply(struct names *n, const struct change *c) {
    if (c->from[0])
        name_set(n, c->from, NULL);
    if (c->to[0])
        name_set(n, c->to, c->inode);
}

static void change(struct mem_disk *m, const char *from, const char *to, struct inode *inode) {
    xgrow(&m->changes, &m->changes_capacity, m->changes_count + 1, sizeof *m->changes);
    struct change *c = &m->changes[m->changes_count++];
    memset(c, 0, sizeof *c);
    c->inode = inode;
    strcpy(c->from, from);
    strcpy(c->to, to);
    change_apply(&m->now, c);
}

static void names_copy(struct names *to, const struct names *from) {
    xgrow(&to->items, &to->capacity, from->count + 1, sizeof *to->items);
    memcpy(to->items, from->items, from->count * sizeof *to->items);
    to->count = from->count;
}

/* ---- bytes ---- */

/* Zeros over zeros are not written: space filled ahead of use takes no memory. */
static void put(uint8_t *to, const uint8_t *from, size_t size) {
    enum { STEP = 4096 };
    for (size_t at = 0; at < size; at += STEP) {
        size_t n = size - at < STEP ? size - at : STEP;
        if (memcmp(to + at, from + at, n) != 0)
            memcpy(to + at, from + at, n);
    }
}

static uint8_t *grown(uint8_t *data, size_t size, size_t capacity) {
    uint8_t *more = xcalloc(capacity, 1);
    if (size)
        put(more, data, size);
    free(data);
    return more;
}

static void inode_grow(struct inode *i, size_t size) {
    if (size > i->capacity) {
        size_t capacity = i->capacity ? size + size / 4 : size;
        i->data = grown(i->data, i->capacity, capacity);
        i->synced = grown(i->synced, i->capacity, capacity);
        i->capacity = capacity;
    }
    if (size > i->size)
        i->size = size;
}

static void inode_dirty(struct inode *i, size_t from, size_t to) {
    if (i->dirty_from == i->dirty_to) {
        i->dirty_from = from;
        i->dirty_to = to;
    }
    i->dirty_from = from < i->dirty_from ? from : i->dirty_from;
    i->dirty_to = to > i->dirty_to ? to : i->dirty_to;
}

static void inode_sync(struct inode *i) {
    if (i->dirty_to > i->dirty_from)
        put(i->synced + i->dirty_from, i->data + i->dirty_from, i->dirty_to - i->dirty_from);
    i->synced_size = i->size;
    i->dirty_from = i->dirty_to = 0;
    i->sync_due = false;
}

/* Each sector reached the disk or not; so did the file's new size. */
static void inode_crash(struct inode *i, struct rng *rng) {
    unsigned odds = (unsigned)rng_below(rng, 5); /* of 4: sometimes all, sometimes nothing */
    for (size_t at = i->dirty_from / SECTOR * SECTOR; at < i->dirty_to; at += SECTOR) {
        size_t n = i->size - at < SECTOR ? i->size - at : SECTOR;
        if (rng_below(rng, 4) >= odds)
            memcpy(i->data + at, i->synced + at, n);
    }
    if (i->synced_size < i->size && rng_below(rng, 2)) {
        memset(i->data + i->synced_size, 0, i->size - i->synced_size);
        i->size = i->synced_size;
    }
    i->dirty_from = i->dirty_from / SECTOR * SECTOR;
    if (i->dirty_to > i->size)
        i->dirty_to = i->size;
    if (i->dirty_from > i->dirty_to)
        i->dirty_from = i->dirty_to;
    inode_sync(i);
}

static void inode_free(struct inode *i) {
    free(i->data);
    free(i->synced);
    free(i);
}

/* Files that no name leads to any more, and nobody has open. */
static void sweep(struct mem_disk *m) {
    for (struct inode *i = m->inodes; i; i = i->next)
        i->named = i->handles > 0;
    for (size_t k = 0; k < m->now.count; k++)
        m->now.items[k].inode->named = true;
    for (size_t k = 0; k < m->synced.count; k++)
        m->synced.items[k].inode->named = true;
    for (size_t k = 0; k < m->changes_count; k++)
        if (m->changes[k].inode)
            m->changes[k].inode->named = true;
    for (struct inode **at = &m->inodes; *at;) {
        struct inode *i = *at;
        if (i->named) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        inode_free(i);
    }
}

static bool fails(struct mem_disk *m) {
    if (m->fail_after > 0 && --m->fail_after == 0)
        m->failing = true;
    return m->failing;
}

uint64_t mem_disk_used(const struct mem_disk *m) {
    uint64_t sum = 0;
    for (size_t i = 0; i < m->now.count; i++)
        sum += m->now.items[i].inode->size;
    return sum;
}

/* ---- the vtable ---- */

static int disk_make_folder(struct disk *d, const char *folder) {
    (void)d;
    (void)folder;
    return 0;
}

static int disk_lock(struct disk *d, const char *folder, struct disk_lock **out) {
    (void)folder;
    if (of(d)->locked)
        return EWOULDBLOCK;
    of(d)->locked = true;
    *out = (struct disk_lock *)d;
    return 0;
}

static void disk_unlock(struct disk *d, struct disk_lock *lock) {
    (void)lock;
    of(d)->locked = false;
}

static int disk_list(struct disk *d, const char *folder, disk_each each, void *ctx) {
    struct mem_disk *m = of(d);
    (void)folder;
    for (size_t i = 0; i < m->now.count; i++)
        each(ctx, m->now.items[i].text, m->now.items[i].inode->size);
    return 0;
}

static struct inode *inode_new(struct mem_disk *m) {
    struct inode *i = xcalloc(1, sizeof *i);
    i->next = m->inodes;
    m->inodes = i;
    return i;
}

static struct disk_file *file_new(struct inode *i) {
    struct disk_file *f = xmalloc(sizeof *f);
    f->inode = i;
    i->handles++;
    return f;
}

static int disk_create(struct disk *d, const char *path, uint64_t bytes, struct disk_file **out) {
    struct mem_disk *m = of(d);
    if (name_find(&m->now, base(path)) < m->now.count)
        return EEXIST;
    if (mem_disk_used(m) + bytes > m->limit)
        return ENOSPC;
    struct inode *i = xcalloc(1, sizeof *i);
    i->next = m->inodes;
    m->inodes = i;
    inode_grow(i, bytes);
    i->synced_size = bytes;
    change(m, "", base(path), i);
    *out = file_new(i);
    return 0;
}

static int disk_open(struct disk *d, const char *path, struct disk_file **out, uint64_t *bytes) {
    struct mem_disk *m = of(d);
    size_t n = name_find(&m->now, base(path));
    if (n == m->now.count)
        return ENOENT;
    *bytes = m->now.items[n].inode->size;
    *out = file_new(m->now.items[n].inode);
    return 0;
}

static void disk_close(struct disk *d, struct disk_file *f) {
    (void)d;
    f->inode->handles--;
    free(f);
}

static int disk_read(struct disk *d, struct disk_file *f, uint64_t offset, void *data, size_t size,
                     size_t *got) {
    (void)d;
    size_t there = offset < f->inode->size ? f->inode->size - (size_t)offset : 0;
    *got = size < there ? size : there;
    if (*got)
        memcpy(data, f->inode->data + offset, *got);
    return 0;
}

static int disk_write(struct disk *d, struct disk_file *f, uint64_t offset, const struct iovec *pieces,
                      size_t count) {
    struct mem_disk *m = of(d);
    struct inode *i = f->inode;
    size_t at = (size_t)offset, end = at;
    for (size_t n = 0; n < count; n++)
        end += pieces[n].iov_len;
    if (fails(m))
        return EIO;
    if (end > i->size && mem_disk_used(m) + (end - i->size) > m->limit)
        return ENOSPC;
    inode_grow(i, end);
    inode_dirty(i, at, end);
    for (size_t n = 0; n < count; n++) {
        if (pieces[n].iov_len)
            put(i->data + at, pieces[n].iov_base, pieces[n].iov_len);
        at += pieces[n].iov_len;
    }
    return 0;
}

static int disk_sync(struct disk *d, struct disk_file *f) {
    if (fails(of(d)))
        return EIO;
    f->inode->sync_due = true;
    if (!of(d)->deferring)
        inode_sync(f->inode);
    return 0;
}

static int disk_sync_folder(struct disk *d, const char *folder) {
    struct mem_disk *m = of(d);
    (void)folder;
    if (m->failing)
        return EIO;
    names_copy(&m->synced, &m->now);
    m->changes_count = 0;
    sweep(m);
    return 0;
}

static int disk_rename(struct disk *d, const char *from, const char *to) {
    struct mem_disk *m = of(d);
    size_t n = name_find(&m->now, base(from));
    if (n == m->now.count)
        return ENOENT;
    change(m, base(from), base(to), m->now.items[n].inode);
    return 0;
}

static int disk_remove(struct disk *d, const char *path) {
    struct mem_disk *m = of(d);
    if (name_find(&m->now, base(path)) == m->now.count)
        return ENOENT;
    change(m, base(path), "", NULL);
    return 0;
}

static int disk_free_bytes(struct disk *d, const char *folder, uint64_t *out) {
    struct mem_disk *m = of(d);
    uint64_t used = mem_disk_used(m);
    (void)folder;
    *out = used < m->limit ? m->limit - used : 0;
    return 0;
}

/* ---- for the tests ---- */

struct mem_disk *mem_disk_new(void) {
    struct mem_disk *m = xcalloc(1, sizeof *m);
    m->limit = UINT64_MAX / 2;
    m->disk = (struct disk){.make_folder = disk_make_folder,
                            .lock = disk_lock,
                            .unlock = disk_unlock,
                            .list = disk_list,
                            .create = disk_create,
                            .open = disk_open,
                            .close = disk_close,
                            .read = disk_read,
                            .write = disk_write,
                            .sync = disk_sync,
                            .sync_folder = disk_sync_folder,
                            .rename = disk_rename,
                            .remove = disk_remove,
                            .free_bytes = disk_free_bytes};
    return m;
}

struct disk *mem_disk_disk(struct mem_disk *m) {
    return &m->disk;
}

void mem_disk_crash(struct mem_disk *m, struct rng *rng) {
    size_t kept = (size_t)rng_below(rng, m->changes_count + 1);
    names_copy(&m->now, &m->synced);
    for (size_t i = 0; i < kept; i++)
        change_apply(&m->now, &m->changes[i]);
    names_copy(&m->synced, &m->now);
    m->changes_count = 0;
    for (struct inode *i = m->inodes; i; i = i->next)
        inode_crash(i, rng);
    m->failing = false;
    m->fail_after = 0;
    sweep(m);
}

void mem_disk_defer(struct mem_disk *m, bool on) {
    m->deferring = on;
}

void mem_disk_sync_deferred(struct mem_disk *m) {
    for (struct inode *i = m->inodes; i; i = i->next)
        if (i->sync_due)
            inode_sync(i);
}

void mem_disk_settle(struct mem_disk *m) {
    disk_sync_folder(&m->disk, "");
    for (struct inode *i = m->inodes; i; i = i->next)
        inode_sync(i);
}

void mem_disk_fail_after(struct mem_disk *m, int n) {
    m->failing = false;
    m->fail_after = n;
}

void mem_disk_limit(struct mem_disk *m, uint64_t bytes) {
    m->limit = bytes;
}

void mem_disk_wipe(struct mem_disk *m) {
    m->now.count = m->synced.count = m->changes_count = 0;
    sweep(m);
}

bool mem_disk_flip(struct mem_disk *m, struct rng *rng, mem_disk_may may, void *ctx) {
    if (!m->now.count)
        return false;
    for (int tries = 0; tries < 200; tries++) {
        const struct name *name = &m->now.items[rng_below(rng, m->now.count)];
        struct inode *i = name->inode;
        size_t at = i->size ? (size_t)rng_below(rng, i->size) : 0;
        if (!i->size || !i->data[at] || (at >= i->dirty_from && at < i->dirty_to))
            continue; /* zeros are mostly space not yet used */
        if (!may(ctx, name->text, at))
            continue;
        i->data[at] ^= (uint8_t)(1u << rng_below(rng, 8));
        i->synced[at] = i->data[at];
        return true;
    }
    return false;
}

void mem_disk_free(struct mem_disk *m) {
    while (m->inodes) {
        struct inode *next = m->inodes->next;
        inode_free(m->inodes);
        m->inodes = next;
    }
    free(m->now.items);
    free(m->synced.items);
    free(m->changes);
    free(m);
}

void mem_disk_put(struct mem_disk *m, const char *name, const void *data, size_t size) {
    struct inode *i = inode_new(m);
    inode_grow(i, size);
    if (size)
        memcpy(i->data, data, size);
    inode_dirty(i, 0, size);
    inode_sync(i);
    name_set(&m->now, name, i);
    name_set(&m->synced, name, i);
}

struct mem_disk *mem_disk_copy(const struct mem_disk *m) {
    struct mem_disk *copy = mem_disk_new();
    for (size_t i = 0; i < m->now.count; i++)
        mem_disk_put(copy, m->now.items[i].text, m->now.items[i].inode->data, m->now.items[i].inode->size);
    return copy;
}

size_t mem_disk_count(const struct mem_disk *m) {
    return m->now.count;
}

const char *mem_disk_name(const struct mem_disk *m, size_t i) {
    return m->now.items[i].text;
}

uint8_t *mem_disk_bytes(struct mem_disk *m, const char *name, size_t *size) {
    size_t n = name_find(&m->now, name);
    if (n == m->now.count)
        return NULL;
    *size = m->now.items[n].inode->size;
    return m->now.items[n].inode->data;
}

const uint8_t *mem_disk_synced(const struct mem_disk *m, const char *name, size_t *size) {
    size_t n = name_find(&m->now, name);
    if (n == m->now.count)
        return NULL;
    *size = m->now.items[n].inode->synced_size;
    return m->now.items[n].inode->synced;
}

void mem_disk_truncate(struct mem_disk *m, const char *name, size_t size) {
    size_t n = name_find(&m->now, name);
    CHECK(n < m->now.count && size <= m->now.items[n].inode->size);
    m->now.items[n].inode->size = m->now.items[n].inode->synced_size = size;
}

void mem_disk_delete(struct mem_disk *m, const char *name) {
    name_set(&m->now, name, NULL);
    name_set(&m->synced, name, NULL);
}

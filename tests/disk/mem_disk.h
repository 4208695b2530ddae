// SPDX-License-Identifier: Apache-2.0
/*
 * A disk in memory that loses power, wears out and fills up; the simulator's and
 * the journal tests'. What was written and not synced is, after a power loss,
 * there or not, sector by sector; names made, changed or removed since the last
 * sync of the folder are there up to a random point. One folder. One thread, but
 * for mem_disk_fail_after.
 */
#ifndef MAILROOM_TEST_MEM_DISK_H
#define MAILROOM_TEST_MEM_DISK_H

#include <stdbool.h>

#include "base/rng.h"
#include "journal/disk.h"

struct mem_disk;

struct mem_disk *mem_disk_new(void);
void mem_disk_free(struct mem_disk *m);
struct disk *mem_disk_disk(struct mem_disk *m);
/* Lose power. Handles that are still open lead to what is left. */
void mem_disk_crash(struct mem_disk *m, struct rng *rng);
/* From now on a sync of a file succeeds without reaching the disk yet (true); what was
 * put off so reaches it with mem_disk_sync_deferred, unless the power goes before. */
void mem_disk_defer(struct mem_disk *m, bool on);
void mem_disk_sync_deferred(struct mem_disk *m);
/* All that was written counts as synced. */
void mem_disk_settle(struct mem_disk *m);
/* Bytes all files may have together; more: ENOSPC. */
void mem_disk_limit(struct mem_disk *m, uint64_t bytes);
uint64_t mem_disk_used(const struct mem_disk *m);
/* The n-th write or sync from now on fails with EIO, and all after it; 0: none, also
 * if it fails already. */
void mem_disk_fail_after(struct mem_disk *m, int n);
/* All files are gone, synced or not. */
void mem_disk_wipe(struct mem_disk *m);
typedef bool (*mem_disk_may)(void *ctx, const char *name, size_t at);
/* One bit somewhere in what is written and synced turns over, in the byte `may` said
 * yes of last; false: there is nothing. */
bool mem_disk_flip(struct mem_disk *m, struct rng *rng, mem_disk_may may, void *ctx);

/* A deep copy of all files, as they are now. */
struct mem_disk *mem_disk_copy(const struct mem_disk *m);
size_t mem_disk_count(const struct mem_disk *m);
const char *mem_disk_name(const struct mem_disk *m, size_t i);
/* The bytes of a file, to look at and to spoil; NULL: no such file. */
uint8_t *mem_disk_bytes(struct mem_disk *m, const char *name, size_t *size);
/* Of them what is synced, as a power loss would leave it at worst. NULL: no such file. */
const uint8_t *mem_disk_synced(const struct mem_disk *m, const char *name, size_t *size);
void mem_disk_truncate(struct mem_disk *m, const char *name, size_t size);
void mem_disk_delete(struct mem_disk *m, const char *name);
void mem_disk_put(struct mem_disk *m, const char *name, const void *data, size_t size);

#endif

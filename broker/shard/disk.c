// SPDX-License-Identifier: Apache-2.0
/* The journal's folder and thread: opened and closed, and its completions posted
 * into the loop. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/log.h"
#include "shard/process.h"

static void post(struct process *p, uint64_t *highest, int *posted, struct loop_event *event,
                 uint64_t ticket) {
    __atomic_store_n(highest, ticket, __ATOMIC_RELEASE);
    if (!__atomic_exchange_n(posted, 1, __ATOMIC_ACQ_REL))
        loop_post(p->loop, event);
}

static void on_synced_thread(void *ctx, uint64_t ticket) {
    struct process *p = ctx;
    post(p, &p->synced_ticket, &p->synced_posted, &p->synced_event, ticket);
}

static void on_written_thread(void *ctx, uint64_t ticket) {
    struct process *p = ctx;
    post(p, &p->written_ticket, &p->written_posted, &p->written_event, ticket);
}

static void on_written(struct loop_event *event) {
    struct process *p = (struct process *)((char *)event - offsetof(struct process, written_event));
    __atomic_store_n(&p->written_posted, 0, __ATOMIC_RELEASE);
    storage_written(&p->shard, __atomic_load_n(&p->written_ticket, __ATOMIC_ACQUIRE));
}

static void on_synced(struct loop_event *event) {
    struct process *p = (struct process *)((char *)event - offsetof(struct process, synced_event));
    __atomic_store_n(&p->synced_posted, 0, __ATOMIC_RELEASE);
    storage_synced(&p->shard, __atomic_load_n(&p->synced_ticket, __ATOMIC_ACQUIRE));
}

/* Of the boot's id, which the kernel draws, 64 bits; 0: there is none to read. */
static uint64_t boot_of_machine(void) {
    unsigned long long high = 0;
    unsigned middle = 0, low = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    int fields = f ? fscanf(f, "%8llx-%4x-%4x", &high, &middle, &low) : 0;
    if (f)
        fclose(f);
    if (fields != 3) {
        log_error("the machine's boot id cannot be read: after a power failure, mailboxes of durability "
                  "written may take what is lost for whole");
        return 0;
    }
    return (uint64_t)high << 32 | (uint64_t)middle << 16 | low;
}

bool disk_open(struct process *p, struct err_detail *detail) {
    char folder[CONFIG_PATH_BYTES_MAX + 32];
    snprintf(folder, sizeof folder, "%s/shard-%u", p->config->data, child_index(p->child));
    uint64_t random;
    CHECK(getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random);
    p->synced_event.fire = on_synced;
    p->written_event.fire = on_written;
    struct journal_recovered recovered;
    enum err err = journal_open(&(struct journal_options){.folder = folder,
                                                          .segment_bytes = (uint32_t)p->config->segment_bytes,
                                                          .batch_type = ENTRY_BATCH,
                                                          .random = random | 1,
                                                          .completed = on_synced_thread,
                                                          .written = on_written_thread,
                                                          .ctx = p},
                                &p->shard.journal, &recovered, detail);
    if (err != ERR_OK)
        return false;
    p->shard.self = recovered.identity;
    p->shard.starts = recovered.start;
    p->shard.boot = boot_of_machine();
    log_info("journal %s: %zu partitions, %zu segments, start %" PRIu64 "%s%s", folder, recovered.partitions,
             recovered.segments, recovered.start, recovered.created ? ", new" : "",
             recovered.damaged ? ", DAMAGED" : "");
    return true;
}

void disk_close(struct process *p) {
    if (!p->shard.journal)
        return;
    journal_flush(p->shard.journal);
    journal_close(p->shard.journal);
}

void disk_statistics(struct process *p) {
    struct journal_statistics stats;
    journal_statistics(p->shard.journal, &stats);
    counters_set(COUNTER_journal_segments, stats.segments);
    counters_set(COUNTER_journal_bytes, stats.written_bytes);
    counters_set(COUNTER_journal_bytes_copied, stats.moved_bytes);
    counters_set(COUNTER_disk_free, journal_space(p->shard.journal));
}

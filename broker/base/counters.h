// SPDX-License-Identifier: Apache-2.0
/*
 * Counters of a process, in memory that other processes may map: admin and the
 * tools read them without asking, also while the process hangs.
 *
 * The segment describes itself, so a reader of another release reads it too:
 *
 *   at    size  field
 *   0     4     magic "MRC1", written last
 *   4     4     version, COUNTERS_VERSION
 *   8     4     rows
 *   12    4     bytes of a row
 *   16    4     at which byte the rows start
 *   256         the supervisor's block on the process (supervisor/process_block.h)
 *   4096        rows: value u64, type u32, reserved u32, name[48], unit[16], help[112]
 *
 * Native byte order: a segment never leaves its machine. To change the layout:
 * bump COUNTERS_VERSION and keep reading the old one.
 *
 * Writers: the owning process, any of its threads (relaxed atomics, no locks).
 * Readers: any process; values are never torn, but are not a snapshot together.
 */
#ifndef MAILROOM_BASE_COUNTERS_H
#define MAILROOM_BASE_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, type, unit, help. Add yours at the end of its block. */
#define COUNTERS(X)                                                                                          \
    /* every role */                                                                                         \
    X(loop_turns, COUNTER, "turns", "turns of the process's loop")                                           \
    X(loop_late_wakeups, COUNTER, "wakeups", "turns that began more than a heartbeat late")                  \
    X(loop_turn_max, GAUGE, "microseconds", "longest turn since the start")                                  \
    X(memory, GAUGE, "bytes", "memory held by bodies and queues")                                            \
    /* wire */                                                                                               \
    X(sessions, GAUGE, "sessions", "open client sessions")                                                   \
    X(sessions_opened, COUNTER, "sessions", "client sessions opened")                                        \
    X(sessions_refused, COUNTER, "sessions", "client sessions refused or ended for an error")                \
    X(links, GAUGE, "links", "open links to other processes")                                                \
    X(frames_in, COUNTER, "frames", "frames received")                                                       \
    X(frames_out, COUNTER, "frames", "frames sent")                                                          \
    X(bytes_in, COUNTER, "bytes", "bytes received")                                                          \
    X(bytes_out, COUNTER, "bytes", "bytes sent")                                                             \
    /* gateway and shard */                                                                                  \
    X(publishes, COUNTER, "batches", "batches taken from publishers")                                        \
    X(messages_published, COUNTER, "messages", "messages in them")                                           \
    X(publishes_refused, COUNTER, "batches", "batches refused with a reason")                                \
    X(publishes_duplicate, COUNTER, "batches", "batches that had been stored before")                        \
    X(receipts, COUNTER, "batches", "receipts sent to publishers")                                           \
    X(deliveries, COUNTER, "messages", "messages delivered")                                                 \
    X(redeliveries, COUNTER, "messages", "messages delivered again")                                         \
    X(settlements, COUNTER, "messages", "messages settled")                                                  \
    X(settlements_late, COUNTER, "messages", "settlements that came too late")                               \
    X(consumers, GAUGE, "consumers", "attached consumers")                                                   \
    X(dead_letters, COUNTER, "messages", "messages handed to a dead-letter mailbox")                         \
    X(partitions_led, GAUGE, "partitions", "partitions led by this process")                                 \
    X(partitions_followed, GAUGE, "partitions", "partitions followed by this process")                       \
    X(seals, COUNTER, "seals", "seals answered")                                                             \
    /* journal */                                                                                            \
    X(journal_syncs, COUNTER, "syncs", "syncs of the journal")                                               \
    X(journal_sync_time, COUNTER, "microseconds", "time spent in them")                                      \
    X(journal_records, COUNTER, "records", "records appended to the journal")                                \
    X(journal_bytes, COUNTER, "bytes", "bytes appended to the journal")                                      \
    X(journal_segments, GAUGE, "segments", "segments in the data folder")                                    \
    X(journal_bytes_copied, COUNTER, "bytes", "bytes copied forward to free segments")                       \
    X(disk_free, GAUGE, "bytes", "free space in the data folder")                                            \
    /* controller */                                                                                         \
    X(heartbeats_in, COUNTER, "heartbeats", "heartbeats received")                                           \
    X(heartbeats_out, COUNTER, "heartbeats", "heartbeats sent")                                              \
    X(nodes_alive, GAUGE, "nodes", "nodes that are alive, as seen from here")                                \
    X(elections, COUNTER, "elections", "elections this controller stood in")                                 \
    X(metadata_commits, COUNTER, "entries", "metadata entries applied")                                      \
    X(failovers, COUNTER, "partitions", "leaderships moved because a process died")

enum counter_type { COUNTER_TYPE_COUNTER = 1, COUNTER_TYPE_GAUGE = 2 };

enum counter {
#define X(name, type, unit, help) COUNTER_##name,
    COUNTERS(X)
#undef X
        COUNTERS_COUNT
};

enum {
    COUNTERS_VERSION = 1,
    COUNTERS_SEGMENT_BYTES = 64 * 1024,
    COUNTERS_BLOCK_AT = 256,
    COUNTERS_BLOCK_BYTES = 3840,
    COUNTERS_ROWS_AT = 4096,
    COUNTERS_NAME_BYTES = 48,
    COUNTERS_UNIT_BYTES = 16,
    COUNTERS_HELP_BYTES = 112
};

struct counters_row {
    uint64_t value;
    uint32_t type;
    uint32_t reserved;
    char name[COUNTERS_NAME_BYTES];
    char unit[COUNTERS_UNIT_BYTES];
    char help[COUNTERS_HELP_BYTES];
};

/* Where this process's counters are: private until counters_open. */
extern struct counters_row *counters_rows;

/* Move this process's counters into `segment` (COUNTERS_SEGMENT_BYTES, mapped
 * shared and writable, zeroed); values so far come along. Once, at start, before
 * other threads exist. The mapping must live as long as the process. */
void counters_open(void *segment);

static inline void counters_add(enum counter c, uint64_t n) {
    __atomic_fetch_add(&counters_rows[c].value, n, __ATOMIC_RELAXED);
}
static inline void counters_sub(enum counter c, uint64_t n) {
    __atomic_fetch_sub(&counters_rows[c].value, n, __ATOMIC_RELAXED);
}
static inline void counters_set(enum counter c, uint64_t value) {
    __atomic_store_n(&counters_rows[c].value, value, __ATOMIC_RELAXED);
}
static inline uint64_t counters_get(enum counter c) {
    return __atomic_load_n(&counters_rows[c].value, __ATOMIC_RELAXED);
}

/* One counter of a segment, perhaps another process's or another release's. */
struct counters_sample {
    enum counter_type type;
    uint64_t value;
    char name[COUNTERS_NAME_BYTES];
    char unit[COUNTERS_UNIT_BYTES];
    char help[COUNTERS_HELP_BYTES];
};

/* Walk a mapped segment: start with *position = 0; false at the end, or if the
 * bytes are no segment (never written, another version, out of bounds). */
bool counters_next(const void *segment, size_t size, size_t *position, struct counters_sample *out);

#endif

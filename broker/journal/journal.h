// SPDX-License-Identifier: Apache-2.0
/*
 * The journal: one append-only log on disk for all partitions of a shard (and
 * one for a controller's metadata group). One sync makes a whole turn durable,
 * whatever the number of partitions in it.
 *
 * A turn, as the owner's loop sees it:
 *
 *     journal_write_entry(j, ...);  ...             buffered, nothing touched yet
 *     uint64_t ticket = journal_flush(j);           handed to the journal's thread
 *     ... completed(ctx, ticket) on that thread     post it into the loop
 *     journal_completed(j, ticket);                 now all up to ticket is synced
 *
 * Threads: everything but journal_read() belongs to the owner's thread.
 * journal_read() may be called on any thread. The hooks are called on the
 * journal's thread (or wherever the executor runs journal_run).
 *
 * Errors: a failed write or sync ends the process through the `fatal` hook;
 * no write function returns one. Bodies are kept by reference until their turn
 * is synced; they must not change meanwhile.
 *
 * A partition in the journal is: a promise, a checkpoint (base index and epoch,
 * an opaque body, the live batches at or below the base), the contiguous log of
 * entries behind the base, and whether it is damaged. README.md in this folder
 * tells the life of a flush, recovery and reclaim; format.h the bytes.
 */
#ifndef MAILROOM_JOURNAL_JOURNAL_H
#define MAILROOM_JOURNAL_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/body.h"
#include "base/err.h"
#include "journal/disk.h"

struct journal;
struct journal_job;

#define JOURNAL_SEGMENT_BYTES_DEFAULT ((uint32_t)64 << 20)
#define JOURNAL_SEGMENT_BYTES_MIN     ((uint32_t)4 << 10)
#define JOURNAL_SEGMENT_BYTES_MAX     ((uint32_t)1 << 30)
#define JOURNAL_RESERVE_BYTES_DEFAULT ((uint64_t)256 << 20)

enum {
    JOURNAL_EXIT_STORAGE = 74,       /* exit code of the default fatal hook: sysexits' EX_IOERR */
    JOURNAL_TURNS_IN_FLIGHT_MAX = 64 /* further flushes wait inside the journal */
};

struct journal_options {
    struct disk *disk;      /* kept; NULL: disk_posix() */
    const char *folder;     /* copied; created if missing (its parent exists) */
    uint32_t segment_bytes; /* 0: the default. A record may take at most a segment less 4 KiB */
    uint64_t reserve_bytes; /* 0: the default. journal_full() below this */
    uint64_t space_target;  /* bytes; over it, the oldest segment is copied forward. 0: none */
    uint8_t batch_type;     /* entries of this type hold messages: they take space until marked
                               dead. All others are summed up by a checkpoint. */
    uint64_t random;        /* 64 random bits, used only when the journal is new */

    /* Synced: this ticket and all before it. Called on the journal's thread. */
    void (*completed)(void *ctx, uint64_t ticket);
    /* May be NULL. Handed to the operating system, not yet synced. */
    void (*written)(void *ctx, uint64_t ticket);
    /* The disk failed. Must not return; if it does, nothing is completed any
     * more. NULL: log it and _exit(JOURNAL_EXIT_STORAGE). */
    void (*fatal)(void *ctx, const char *text);
    void *ctx;

    /* NULL: the journal's own commit thread. Otherwise it is given each job, in
     * order, and calls journal_run() for it (for several at once: linked), once,
     * in the same order, on a thread or at a virtual time of its choice. */
    void (*execute)(void *executor, struct journal_job *job);
    void *executor;
};

struct journal_recovered {
    uint64_t identity;        /* of this journal, for ever */
    uint64_t start;           /* how often it was opened, from 1; compare with the metadata's */
    uint64_t flush;           /* number of the last flush */
    bool created;             /* a new, empty journal (an empty folder) */
    bool lost;                /* there was one, nothing of it can be read: a new identity */
    bool damaged;             /* some partition is, or bytes below the proven position were bad */
    size_t partitions;        /* known ones, dropped included */
    size_t segments;          /* in use, the fresh one included */
    size_t files_aside;       /* foreign files, renamed aside-*, never deleted */
    uint64_t torn_bytes;      /* cut behind the proven position */
    uint64_t rewritten_bytes; /* records past it, written anew */
};

/*
 * Recover and open. Reads the segments' indexes and the last segment, writes
 * everything past the last position proven synced anew into a fresh segment and
 * syncs that before it returns. Runs on the caller's thread.
 * ERR_BUSY: another process has it open. ERR_VERSION: written by a newer
 * release. ERR_IO: the disk failed. *detail (may be NULL) says more. On error
 * nothing is open.
 */
enum err journal_open(const struct journal_options *options, struct journal **out,
                      struct journal_recovered *recovered, struct err_detail *detail);
/* Everything flushed has been completed, or is waited for (own thread only: with
 * an `execute` hook the executor must be idle). The unflushed turn is lost. */
void journal_close(struct journal *j);
/* As a crash would: nothing more is written or waited for. Only with `execute`;
 * call journal_job_forget for the jobs that were not run before this. */
void journal_abandon(struct journal *j);

/* ---- what is known of a partition ---- */

struct journal_partition {
    uint64_t id;
    uint64_t promise;    /* highest written: promises, entries' epochs, drops */
    uint64_t boot;       /* as last told by journal_write_boot; 0: never */
    uint64_t base_index; /* the checkpoint's; 0 without one: the log starts at 1 */
    uint64_t base_epoch;
    uint64_t last_index; /* base_index when the log is empty */
    uint64_t last_epoch;
    size_t live;       /* batches at or below the base that the checkpoint names */
    bool checkpointed; /* journal_read_checkpoint gives its body */
    bool dropped;      /* a tombstone: only the promise counts, until it is written again */
    bool damaged;      /* may neither vote nor lead */
    bool promise_lost; /* damaged, and nobody can say what was lost: a promise, too */
    /* First index that cannot be trusted; at or below the base: nothing can. Cut
     * there, the log is one that this partition once had (with promise_lost:
     * perhaps an older one). */
    uint64_t damaged_from;
};

struct journal_live {
    uint64_t index;
    uint64_t epoch;
};

/* False: never heard of. A partition that metadata places here, that is not
 * known, and for which journal_suspect is true may have been lost: a newcomer. */
bool journal_get(const struct journal *j, uint64_t partition, struct journal_partition *out);
bool journal_suspect(const struct journal *j, uint64_t partition);
/* Each known partition, ascending by id. `each` must not write. */
void journal_each(const struct journal *j, void (*each)(void *ctx, const struct journal_partition *p),
                  void *ctx);
/* The live batches at or below the base, ascending; room for p.live of them. */
size_t journal_live(const struct journal *j, uint64_t partition, struct journal_live *out, size_t room);

/* ---- reading ---- */

struct journal_location {
    uint64_t partition;
    uint64_t index;
    uint64_t epoch;
    uint8_t type;
    uint32_t bytes; /* of the body */
    uint32_t segment;
    uint32_t offset;
    struct body *in_flight; /* set while the entry is not yet synced: a reference, handed
                               over by journal_read; body_drop it if you do not read */
};

/* Where an entry is: one behind the base, or a live one at or below it.
 * ERR_NOT_FOUND; ERR_DAMAGED: known, but its bytes are lost (index, epoch are
 * set). Owner's thread. */
enum err journal_locate(const struct journal *j, uint64_t partition, uint64_t index,
                        struct journal_location *out);
/* Its body, one reference, the caller's. Any thread; blocks on the disk.
 * ERR_STALE: moved or reclaimed since it was located: locate again.
 * ERR_DAMAGED: a CRC is wrong: tell the owner's thread, which writes
 * journal_write_damage. ERR_IO: the disk failed. */
enum err journal_read(struct journal *j, const struct journal_location *location, struct body **out);
/* The opaque body of the newest checkpoint. Owner's thread. ERR_NOT_FOUND,
 * ERR_DAMAGED, ERR_IO. */
enum err journal_read_checkpoint(struct journal *j, uint64_t partition, struct body **out);

/* ---- writing: into the turn ---- */

/* The entry last_index + 1 (checked). body may be NULL: empty. */
void journal_write_entry(struct journal *j, uint64_t partition, uint64_t epoch, uint64_t index, uint8_t type,
                         struct body *body);
/* Also done by each entry for its own epoch. Lower than the one given: nothing. */
void journal_write_promise(struct journal *j, uint64_t partition, uint64_t epoch);
/* Under this boot of the machine (any number but 0 that another boot does not have)
 * the log is whole: whatever is written to it from now on is lost by a power failure
 * only, which ends the boot. Stands before what follows in the journal: if that is
 * found again, so is this. Forgotten by a drop. The same again: nothing. */
void journal_write_boot(struct journal *j, uint64_t partition, uint64_t boot);
/* Cut all entries behind after_index, which is >= the base (checked). */
void journal_write_truncate(struct journal *j, uint64_t partition, uint64_t after_index);

struct journal_checkpoint {
    uint64_t base_index; /* not below the base there is */
    uint64_t base_epoch;
    /* Batches at or below the base that are still needed, ascending. Each must be
     * held by the journal: in its log or live; with `install` also staged. epoch 0:
     * whichever it holds; with `install` name it. */
    const struct journal_live *live;
    size_t live_count;
    struct body *body; /* opaque; NULL: empty */
    /* false: sums up the own log; entries behind the base stay.
     * true: a leader's checkpoint takes the place of everything: the log ends at
     * the base, live batches come from the staged ones (or own ones with the same
     * index and epoch), the staged rest is let go. Base may be anything. */
    bool install;
};
/* One record: across a crash either the old state or the new. Damage is kept
 * (journal_write_mended ends it). ERR_NOT_FOUND: a live batch the journal does
 * not hold; nothing changed. ERR_TOO_LARGE: see segment_bytes. */
enum err journal_write_checkpoint(struct journal *j, uint64_t partition, const struct journal_checkpoint *c);
/* A batch of a checkpoint that is being received: stored, but not in the log
 * until an installing checkpoint names it. Forgotten at a restart. */
void journal_write_staged(struct journal *j, uint64_t partition, uint64_t epoch, uint64_t index, uint8_t type,
                          struct body *body);
void journal_forget_staged(struct journal *j, uint64_t partition);
/* Let go of all data; the promise stays as a tombstone (never lowered). */
void journal_write_drop(struct journal *j, uint64_t partition, uint64_t promise);
/* The partition's id will never be used again: its tombstone goes with the last
 * segment that holds anything of it. */
void journal_forget(struct journal *j, uint64_t partition);
/* Damage found by a read; kept across restarts until mended. */
void journal_write_damage(struct journal *j, uint64_t partition, uint64_t from_index);
/* All of it is there again. Repeats the checkpoint (see journal_carry); if that
 * cannot be read the partition stays damaged: install one first. */
void journal_write_mended(struct journal *j, uint64_t partition);

/* ---- flushing ---- */

/* Hand the turn over. Returns its ticket (they count up); the last ticket if the
 * turn is empty. With JOURNAL_TURNS_IN_FLIGHT_MAX on their way the turn stays
 * open, takes more records and goes as soon as one completes. */
uint64_t journal_flush(struct journal *j);
/* Tell the journal that ticket (and all before) arrived at the owner. */
void journal_completed(struct journal *j, uint64_t ticket);
/* Highest ticket completed; bytes written but not yet completed. */
uint64_t journal_synced(const struct journal *j);
uint64_t journal_in_flight(const struct journal *j);
/* Have the next flush written even if it is empty, if anything synced is not yet
 * proven: then a torn tail and damage can be told apart. For an idle moment. */
void journal_prove(struct journal *j);

/* ---- space ---- */

/* All messages of the batch are settled: its bytes need not be kept beyond the
 * next checkpoint. Unknown or not a batch: nothing. Told again after a restart. */
void journal_mark_dead(struct journal *j, uint64_t partition, uint64_t index);
/* The partition is not in the metadata: keep its data, and carry it forward
 * without asking for checkpoints. */
void journal_set_aside(struct journal *j, uint64_t partition, bool aside);

enum journal_progress {
    JOURNAL_IDLE,   /* nothing to reclaim */
    JOURNAL_WORKED, /* a step was made; call again in a later turn */
    JOURNAL_WAITS   /* for a sync, or for checkpoints: see journal_needs_checkpoint */
};
/* One bounded step, between turns: drop a dead segment, or copy at most 1 MiB of
 * a mostly dead one forward (reads the disk). What it writes goes with the next
 * flush. */
enum journal_progress journal_reclaim(struct journal *j);
/* Partitions that keep the segment to be reclaimed next from going: some thousands
 * at most in one call, the rest later. For each write a checkpoint, or
 * journal_carry it. `each` may write. Returns how many. */
size_t journal_needs_checkpoint(struct journal *j, void (*each)(void *ctx, uint64_t partition), void *ctx);
/* Write the checkpoint there is once more (an empty one if there is none), for a
 * partition whose owner cannot sum it up now. */
void journal_carry(struct journal *j, uint64_t partition);

/* Bytes free on the disk as of the last flush (and, while it is full, of the last
 * journal_reclaim); whether that is below the reserve: refuse publishes, go on with
 * settlements. */
uint64_t journal_space(const struct journal *j);
bool journal_full(const struct journal *j);

struct journal_statistics {
    uint64_t segments;
    uint64_t total_bytes; /* of all segment files */
    uint64_t live_bytes;  /* bodies that are still needed */
    uint64_t flushes;
    uint64_t written_bytes;
    uint64_t moved_bytes; /* copied forward */
    uint64_t reclaimed;   /* segments that went */
};
void journal_statistics(const struct journal *j, struct journal_statistics *out);

/* ---- for executors ---- */

/* Run a job (and those linked behind it, see journal_job_link): all writes, one
 * sync, the hooks; then sealing, prefilling and removals. Frees nothing the
 * owner still needs; the job is the journal's again afterwards. */
void journal_run(struct journal_job *job);
/* Append b to the end of a's list; a may be NULL. Returns the head. */
struct journal_job *journal_job_link(struct journal_job *a, struct journal_job *b);
/* Take the first off its list: the rest. */
struct journal_job *journal_job_unlink(struct journal_job *job);
/* Before journal_abandon: give a job back that was not run. */
void journal_job_forget(struct journal_job *job);

#endif

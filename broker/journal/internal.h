// SPDX-License-Identifier: Apache-2.0
/* The journal's own struct: for journal.c, write.c and reclaim.c. */
#ifndef MAILROOM_JOURNAL_INTERNAL_H
#define MAILROOM_JOURNAL_INTERNAL_H

#include "journal/commit_thread.h"
#include "journal/recover.h"

struct leaving { /* its REMOVED record was written in the turn */
    struct segment *segment;
    uint64_t ticket;
};

struct journal {
    struct store store;
    struct state state;
    struct writer writer;
    struct job_hooks hooks;
    void (*execute)(void *executor, struct journal_job *job);
    void *executor;
    struct commit_thread *thread; /* NULL with the owner's executor */
    uint64_t reserve_bytes;
    uint64_t space_target;

    struct turn *in_flight, **in_flight_end; /* oldest first */
    size_t in_flight_count;
    uint64_t in_flight_bytes;
    uint64_t synced; /* ticket */
    bool flush_wanted;
    bool prove_wanted;
    bool fill_wanted;

    uint32_t victim;    /* segment being reclaimed; 0: none */
    struct scan copies; /* its records */
    bool copies_loaded;
    size_t copied;  /* how far in them */
    size_t covered; /* how many of its partitions are known to be covered and synced */
    size_t carried; /* how many were looked at for those without an owner */
    struct leaving *leaving;
    size_t leaving_count, leaving_capacity;
    struct journal_statistics statistics;
};

void journal_submit(struct journal *j, struct journal_job *job);
/* A record that states something about p. */
struct position journal_put(struct journal *j, struct partition *p, struct record *r, const void *prefix,
                            size_t prefix_size, struct body *body);
/* A record's body, its header as expected. Any thread. */
enum err journal_read_at(struct store *s, uint64_t identity, struct position at, uint32_t bytes,
                         struct record *header, struct body **out);
/* The tombstone's record (and what is damaged), the state left as it is. */
void journal_put_drop(struct journal *j, struct partition *p);
/* The checkpoint record of p, base and live list as given. */
enum err journal_put_checkpoint(struct journal *j, struct partition *p, const struct journal_checkpoint *c);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The group commit thread: takes all turns that are queued, has them written and
 * synced together, and does housekeeping in steps between them. It never waits
 * for anything but work; the journal bounds what is queued.
 */
#ifndef MAILROOM_JOURNAL_COMMIT_THREAD_H
#define MAILROOM_JOURNAL_COMMIT_THREAD_H

#include "journal/job.h"

struct commit_thread;

/* Ends the process if no thread can be made. */
struct commit_thread *commit_thread_start(void);
/* Any thread; a journal_options.execute. */
void commit_thread_execute(void *thread, struct journal_job *job);
/* Runs what is queued, then ends. Not on the thread itself. */
void commit_thread_stop(struct commit_thread *t);

#endif

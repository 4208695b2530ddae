// SPDX-License-Identifier: Apache-2.0
#include "journal/commit_thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"

struct queue {
    struct journal_job *first;
    struct journal_job **end;
};

struct commit_thread {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct queue turns;  /* under the mutex */
    struct queue chores; /* under the mutex: their turns may still be queued */
    struct queue ready;  /* the thread's own: the turns before them are done */
    bool stop;           /* under the mutex */
};

static void queue_clear(struct queue *q) {
    q->first = NULL;
    q->end = &q->first;
}

static void queue_add(struct queue *q, struct journal_job *job) {
    job->next = NULL;
    *q->end = job;
    q->end = &job->next;
}

static void queue_append(struct queue *to, struct queue *from) {
    if (!from->first)
        return;
    *to->end = from->first;
    to->end = from->end;
    queue_clear(from);
}

/* One step, so that turns do not wait for the whole. */
static void do_chore(struct queue *ready) {
    struct journal_job *job = ready->first, *next = job->next;
    if (job_step(job))
        return;
    ready->first = next;
    if (!next)
        queue_clear(ready);
}

/* What came in, in order: a chore is ready once the turns that were queued before
 * it are done. */
static struct journal_job *take(struct commit_thread *t) {
    struct journal_job *turns = t->turns.first;
    queue_clear(&t->turns);
    queue_append(&t->ready, &t->chores);
    return turns;
}

static void *commit_main(void *arg) {
    struct commit_thread *t = arg;
    pthread_mutex_lock(&t->mutex);
    for (;;) {
        struct journal_job *turns = take(t);
        if (!turns && !t->ready.first) {
            if (t->stop)
                break;
            pthread_cond_wait(&t->work, &t->mutex);
            continue;
        }
        pthread_mutex_unlock(&t->mutex);
        if (turns)
            job_run_turns(turns);
        if (t->ready.first)
            do_chore(&t->ready);
        pthread_mutex_lock(&t->mutex);
    }
    pthread_mutex_unlock(&t->mutex);
    return NULL;
}

struct commit_thread *commit_thread_start(void) {
    struct commit_thread *t = xcalloc(1, sizeof *t);
    sigset_t all, before;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->work, NULL);
    queue_clear(&t->turns);
    queue_clear(&t->chores);
    queue_clear(&t->ready);
    /* signals belong to the owner's thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    CHECK(pthread_create(&t->thread, NULL, commit_main, t) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t;
}

void commit_thread_execute(void *thread, struct journal_job *job) {
    struct commit_thread *t = thread;
    pthread_mutex_lock(&t->mutex);
    queue_add(job->kind == JOB_TURN ? &t->turns : &t->chores, job);
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->mutex);
}

void commit_thread_stop(struct commit_thread *t) {
    pthread_mutex_lock(&t->mutex);
    t->stop = true;
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->mutex);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

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
    struct queue chores; /* under the mutex */
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

static void do_turns(struct commit_thread *t) {
    struct journal_job *list = t->turns.first;
    queue_clear(&t->turns);
    pthread_mutex_unlock(&t->mutex);
    job_run_turns(list);
    pthread_mutex_lock(&t->mutex);
}

static void queue_return(struct queue *q, struct journal_job *job) {
    job->next = q->first;
    if (!q->first)
        q->end = &job->next;
    q->first = job;
}

/* One step. The job is out of the queue meanwhile: it may be freed, and others
 * may come in behind it. */
static void do_chore(struct commit_thread *t) {
    struct journal_job *job = t->chores.first;
    t->chores.first = job->next;
    if (!job->next)
        queue_clear(&t->chores);
    pthread_mutex_unlock(&t->mutex);
    bool more = job_step(job);
    pthread_mutex_lock(&t->mutex);
    if (more)
        queue_return(&t->chores, job);
}

static void *commit_main(void *arg) {
    struct commit_thread *t = arg;
    pthread_mutex_lock(&t->mutex);
    for (;;) {
        if (t->turns.first)
            do_turns(t);
        if (t->chores.first)
            do_chore(t);
        if (t->turns.first || t->chores.first)
            continue;
        if (t->stop)
            break;
        pthread_cond_wait(&t->work, &t->mutex);
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

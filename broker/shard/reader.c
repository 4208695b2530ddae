// SPDX-License-Identifier: Apache-2.0
/*
 * Cold reads (core/reads.c makes and fires them) on a thread of their own: the
 * disk must not hold the loop up.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "shard/process.h"

struct reader {
    struct process *process;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    struct read_job *first, *last; /* to read */
    struct read_job *done, **done_end;
    bool stopping;
    bool posted; /* process->read_event */
};

static struct read_job *take(struct reader *r) {
    pthread_mutex_lock(&r->lock);
    while (!r->first && !r->stopping)
        pthread_cond_wait(&r->wake, &r->lock);
    struct read_job *job = r->stopping ? NULL : r->first;
    if (job) {
        r->first = job->next;
        if (!r->first)
            r->last = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    return job;
}

static void give_back(struct reader *r, struct read_job *job) {
    job->next = NULL;
    pthread_mutex_lock(&r->lock);
    *r->done_end = job;
    r->done_end = &job->next;
    bool post = !r->posted;
    r->posted = true;
    pthread_mutex_unlock(&r->lock);
    if (post)
        loop_post(r->process->loop, &r->process->read_event);
}

static void *run(void *arg) {
    struct reader *r = arg;
    struct read_job *job;
    while ((job = take(r))) {
        read_execute(job);
        give_back(r, job);
    }
    return NULL;
}

static void on_done(struct loop_event *event) {
    struct process *p = (struct process *)((char *)event - offsetof(struct process, read_event));
    struct reader *r = p->reader;
    if (!r)
        return; /* posted just before it was stopped */
    pthread_mutex_lock(&r->lock);
    struct read_job *job = r->done;
    r->done = NULL;
    r->done_end = &r->done;
    r->posted = false;
    pthread_mutex_unlock(&r->lock);
    while (job) {
        struct read_job *next = job->next;
        read_fire(job);
        job = next;
    }
}

void reader_give(void *host, struct read_job *job) {
    struct reader *r = ((struct process *)host)->reader;
    job->next = NULL;
    pthread_mutex_lock(&r->lock);
    if (r->last)
        r->last->next = job;
    else
        r->first = job;
    r->last = job;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

struct reader *reader_start(struct process *p) {
    struct reader *r = xcalloc(1, sizeof *r);
    r->process = p;
    r->done_end = &r->done;
    p->read_event.fire = on_done;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    CHECK(pthread_create(&r->thread, NULL, run, r) == 0);
    return r;
}

static void free_all(struct read_job *job) {
    while (job) {
        struct read_job *next = job->next;
        read_free(job);
        job = next;
    }
}

void reader_stop(struct reader *r) {
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    free_all(r->first);
    free_all(r->done);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->wake);
    r->process->reader = NULL;
    free(r);
}

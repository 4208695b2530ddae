// SPDX-License-Identifier: Apache-2.0
/* Threads, and what a waiting call shares with the client's: either may let go first. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/xalloc.h"
#include "client/lib/client.h"

void steady_cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(cond, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

/* Deadlines count CLOCK_BOOTTIME, which a condition cannot wait on; the two
 * differ by the time the machine slept, so the rest is measured afresh. */
bool steady_wait(pthread_cond_t *cond, pthread_mutex_t *lock, usec_t deadline) {
    usec_t left = deadline - clock_now();
    if (left <= 0)
        return false;
    if (left > 3600 * USEC_S)
        left = 3600 * USEC_S; /* the caller looks again */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    usec_t until = (usec_t)t.tv_sec * USEC_S + t.tv_nsec / 1000 + left;
    t = (struct timespec){.tv_sec = until / USEC_S, .tv_nsec = until % USEC_S * 1000};
    pthread_cond_timedwait(cond, lock, &t);
    return true;
}

void signals_block(sigset_t *before) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, before);
}

void signals_restore(const sigset_t *before) {
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

int thread_spawn(void *(*run)(void *), void *arg, pthread_t *thread) {
    sigset_t before;
    signals_block(&before);
    int rc = pthread_create(thread, NULL, run, arg);
    signals_restore(&before);
    if (rc == 0)
        pthread_setname_np(*thread, "mailroom");
    return rc;
}

struct waiter *waiter_new(void) {
    struct waiter *w = xcalloc(1, sizeof *w);
    CHECK(pthread_mutex_init(&w->lock, NULL) == 0);
    steady_cond_init(&w->done_cond);
    w->refs = 2;
    return w;
}

static void waiter_unlock_drop(struct waiter *w) {
    bool last = --w->refs == 0;
    pthread_mutex_unlock(&w->lock);
    if (!last)
        return;
    pthread_cond_destroy(&w->done_cond);
    pthread_mutex_destroy(&w->lock);
    free(w->answer);
    free(w);
}

void waiter_drop(struct waiter *w) {
    pthread_mutex_lock(&w->lock);
    waiter_unlock_drop(w);
}

void waiter_done(struct waiter *w) {
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->done_cond);
    waiter_unlock_drop(w);
}

bool waiter_wait(struct waiter *w, usec_t deadline) {
    pthread_mutex_lock(&w->lock);
    while (!w->done && steady_wait(&w->done_cond, &w->lock, deadline)) {
    }
    bool done = w->done;
    pthread_mutex_unlock(&w->lock);
    return done;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * sim [--seeds N] [--minutes M] [--first S] [--jobs J] [--keep-going] [--must-reach]
 * sim --seed N [--trace]
 * sim --large [--nodes N] [--partitions N] [--seed S] [--trace]
 *
 * Children run some seeds each, so that a crash is one seed's. With --seeds and
 * --minutes it stops at whichever comes first. Exit 0: all held; 1: a seed failed
 * (the command that replays it is printed), or with --must-reach a kind of fault or
 * a rare branch was never reached; 2: wrong usage.
 */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

enum {
    JOBS_MAX = 64,
    SEEDS_DEFAULT = 200,
    SHARE_SEEDS = 10,  /* that a child runs before it comes back */
    AGAIN_EVERY = 100, /* of so many seeds one is run twice: the trace must be the same */
    MINUTES_MAX = 100000,
    SEED_SECONDS_MAX = 120,
    LARGE_SECONDS_MAX = 1800,
    FAILURES_SHOWN = 20,
    HEAP_BYTES_KEPT = 1 << 30,
    HEAP_BYTES_STEP = 4 << 20
};

struct options {
    uint64_t first, seeds, seed, partitions;
    bool one, trace, keep_going, large, must_reach;
    int nodes, jobs;
    double minutes;
};

/* What a child and its parent share. */
struct share {
    struct sim_result now, sum; /* of the seed that runs; of those before it */
    uint64_t seed, done;
};

struct job {
    pid_t pid;
    uint64_t next, end; /* seeds left to run */
    struct share *share;
};

static const char *const names[] = {
#define X(name) #name,
    SIM_FAULTS(X) SIM_RARE(X)
#undef X
};

static uint64_t failures;

void sim_failed(void) {
    fflush(stdout);
    _exit(1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void add(struct sim_result *all, const struct sim_result *one) {
    all->simulated += one->simulated;
    all->events += one->events;
    all->published += one->published;
    all->receipted += one->receipted;
    all->delivered += one->delivered;
    all->settled += one->settled;
    for (int i = 0; i < SIM_COUNTS; i++)
        all->counts[i] += one->counts[i];
}

static void *shared(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return p;
}

/* ---- the child: one seed after the other ---- */

static void limit_cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    rlim_t at = (rlim_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + SEED_SECONDS_MAX;
    setrlimit(RLIMIT_CPU, &(struct rlimit){at, RLIM_INFINITY});
}

/* The same seed gives the same trace, also from a heap that looks otherwise. */
static void run_again(struct share *share) {
    static struct sim_result again;
    strcpy(share->now.text, "determinism: a second run fails");
    sim_run(share->seed, false, &again);
    if (again.trace == share->now.trace)
        return;
    snprintf(share->now.text, sizeof share->now.text, "determinism: trace %016llx, then %016llx",
             (unsigned long long)share->now.trace, (unsigned long long)again.trace);
    _exit(1);
}

/* A world is built and torn down in memory that the kernel has given once. */
static void keep_memory(void) {
    mallopt(M_MXFAST, 0);
    mallopt(M_MMAP_THRESHOLD, HEAP_BYTES_KEPT);
    mallopt(M_TRIM_THRESHOLD, HEAP_BYTES_KEPT);
    mallopt(M_TOP_PAD, HEAP_BYTES_STEP);
}

_Noreturn static void child(const struct job *job, bool trace) {
    struct share *share = job->share;
    keep_memory();
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t seed = job->next; seed < job->end; seed++) {
        memset(&share->now, 0, sizeof share->now);
        share->seed = seed;
        limit_cpu();
        sim_run(seed, trace, &share->now);
        if (seed % AGAIN_EVERY == 0 && !trace)
            run_again(share);
        add(&share->sum, &share->now);
        share->done++;
    }
    fflush(stdout);
    _exit(0);
}

static void start(struct job *job, bool trace) {
    memset(job->share, 0, sizeof *job->share);
    fflush(stdout);
    job->pid = fork();
    if (job->pid == 0)
        child(job, trace);
    if (job->pid < 0) {
        perror("fork");
        exit(2);
    }
}

static void say_failed(uint64_t seed, int status, const char *text) {
    if (++failures > FAILURES_SHOWN)
        return;
    printf("seed %llu: %s\n", (unsigned long long)seed,
           WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : text);
    printf("    replay: ./tests/sim/run --seed %llu --trace\n", (unsigned long long)seed);
    fflush(stdout);
}

/* How many seeds it has done; what is left of its share is in job->next .. end. */
static uint64_t finished(struct job *job, int status, struct sim_result *all) {
    struct share *share = job->share;
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    uint64_t done = share->done + (good ? 0 : 1);
    job->pid = 0;
    job->next += done;
    add(all, &share->sum);
    if (!good) {
        add(all, &share->now);
        say_failed(share->seed, status, share->now.text);
    }
    return done;
}

static struct job *by_pid(struct job *jobs, int count, pid_t pid) {
    for (int i = 0; i < count; i++)
        if (jobs[i].pid == pid)
            return &jobs[i];
    return NULL;
}

static void print_counts(const struct sim_result *all, int from, int to, const char *title) {
    int column = 0;
    printf("%s\n", title);
    for (int i = from; i < to; i++) {
        if (!all->counts[i])
            continue;
        printf("  %-22s %9llu%s", names[i], (unsigned long long)all->counts[i], ++column % 3 ? "" : "\n");
    }
    printf(column % 3 ? "\n" : "");
    printf("  never:");
    for (int i = from; i < to; i++)
        if (!all->counts[i])
            printf(" %s", names[i]);
    printf("\n");
}

static void summary(const struct sim_result *all, uint64_t seeds, double took) {
    print_counts(all, 0, RARE_leader_changes, "faults injected");
    print_counts(all, RARE_leader_changes, SIM_COUNTS, "rare branches reached");
    printf(
        "%llu seeds, %llu failed; %.1f hours simulated in %.0f s; %llu messages published, %llu receipted, "
        "%llu delivered, %llu settled; %llu events\n",
        (unsigned long long)seeds, (unsigned long long)failures, (double)all->simulated / 3.6e9, took,
        (unsigned long long)all->published, (unsigned long long)all->receipted,
        (unsigned long long)all->delivered, (unsigned long long)all->settled,
        (unsigned long long)all->events);
}

/* Every kind of fault and every rare branch at least once. */
static bool all_reached(const struct sim_result *all) {
    bool good = true;
    for (int i = 0; i < SIM_COUNTS; i++) {
        if (all->counts[i])
            continue;
        printf("never reached: %s\n", names[i]);
        good = false;
    }
    return good;
}

struct many {
    const struct options *o;
    struct job jobs[JOBS_MAX];
    int busy;
    uint64_t next, end, done;
    double began;
    struct sim_result all;
};

static bool more(const struct many *m) {
    bool in_time = m->o->minutes <= 0 || seconds() - m->began < m->o->minutes * 60;
    return in_time && (failures == 0 || m->o->keep_going);
}

/* The rest of its share, or a new one; false: nothing is left to do. */
static bool feed(struct many *m, struct job *job) {
    if (job->next == job->end && m->next < m->end) {
        job->next = m->next;
        job->end = m->end - m->next < SHARE_SEEDS ? m->end : m->next + SHARE_SEEDS;
        m->next = job->end;
    }
    if (job->next == job->end || !more(m))
        return false;
    start(job, false);
    m->busy++;
    return true;
}

static int run_many(const struct options *o) {
    static struct many m;
    m = (struct many){.o = o, .next = o->first, .began = seconds()};
    m.end = o->seeds > UINT64_MAX - o->first ? UINT64_MAX : o->first + o->seeds;
    for (int i = 0; i < o->jobs; i++) {
        m.jobs[i].share = shared(sizeof *m.jobs[i].share);
        feed(&m, &m.jobs[i]);
    }
    while (m.busy) {
        int status;
        struct job *job = by_pid(m.jobs, o->jobs, wait(&status));
        if (!job)
            continue;
        m.busy--;
        m.done += finished(job, status, &m.all);
        feed(&m, job);
    }
    summary(&m.all, m.done, seconds() - m.began);
    bool reached = !o->must_reach || all_reached(&m.all);
    return failures || !reached ? 1 : 0;
}

static int run_one(const struct options *o) {
    struct sim_result all = {0};
    struct job job = {.next = o->seed, .end = o->seed + 1, .share = shared(sizeof *job.share)};
    int status;
    double began = seconds();
    start(&job, o->trace);
    waitpid(job.pid, &status, 0);
    finished(&job, status, &all);
    printf("trace %016llx\n", (unsigned long long)job.share->now.trace);
    summary(&all, 1, seconds() - began);
    return failures ? 1 : 0;
}

static int run_large(const struct options *o) {
    struct sim_result *result = shared(sizeof *result);
    struct large large = {
        .nodes = o->nodes, .partitions = o->partitions, .seed = o->one ? o->seed : 1, .trace = o->trace};
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        setrlimit(RLIMIT_CPU, &(struct rlimit){LARGE_SECONDS_MAX, LARGE_SECONDS_MAX + 5});
        bool good = large_run(&large, result);
        fflush(stdout);
        _exit(good ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s\n", strsignal(WTERMSIG(status)));
    else if (result->failed)
        printf("%s\n", result->text);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

static int usage(const char *what, const char *value) {
    if (what)
        fprintf(stderr, "sim: %s%s%s\n", what, value ? ": " : "", value ? value : "");
    fprintf(stderr,
            "usage: sim [--seeds N] [--minutes M] [--first S] [--jobs J] [--keep-going] [--must-reach]\n"
            "       sim --seed N [--trace]\n"
            "       sim --large [--nodes N] [--partitions N] [--seed S] [--trace]\n"
            "       sim --mutations | sim --mutation NAME [...]\n");
    return 2;
}

static bool number(const char *text, uint64_t low, uint64_t high, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && errno == 0 && *out >= low && *out <= high;
}

static bool take_int(const char *text, int low, int high, int *out) {
    uint64_t n;
    bool good = number(text, (uint64_t)low, (uint64_t)high, &n);
    *out = good ? (int)n : low;
    return good;
}

static bool take_minutes(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out > 0 && *out <= MINUTES_MAX;
}

/* NULL: taken; else what was expected. */
static const char *take(struct options *o, const char *name, const char *value) {
    bool good;
    if (strcmp(name, "--seeds") == 0)
        good = number(value, 1, UINT64_MAX, &o->seeds);
    else if (strcmp(name, "--first") == 0)
        good = number(value, 0, UINT64_MAX, &o->first);
    else if (strcmp(name, "--minutes") == 0)
        good = take_minutes(value, &o->minutes);
    else if (strcmp(name, "--theme") == 0)
        return swarm_force(value) ? NULL : "no such theme";
    else if (strcmp(name, "--mutation") == 0)
        return sim_mutate(value) ? NULL : "no such mutation, or not built for mutations";
    else if (strcmp(name, "--jobs") == 0)
        good = take_int(value, 1, JOBS_MAX, &o->jobs);
    else if (strcmp(name, "--seed") == 0)
        good = o->one = number(value, 0, UINT64_MAX - 1, &o->seed);
    else if (strcmp(name, "--nodes") == 0)
        good = take_int(value, 3, CLUSTER_NODES_MAX, &o->nodes);
    else if (strcmp(name, "--partitions") == 0)
        good = number(value, 1, UINT32_MAX, &o->partitions);
    else
        return "unknown option";
    return good ? NULL : "not a number in range";
}

static bool take_flag(struct options *o, const char *name) {
    if (strcmp(name, "--trace") == 0)
        return o->trace = true;
    if (strcmp(name, "--large") == 0)
        return o->large = true;
    if (strcmp(name, "--keep-going") == 0)
        return o->keep_going = true;
    if (strcmp(name, "--must-reach") == 0)
        return o->must_reach = true;
    return false;
}

int main(int argc, char **argv) {
    struct options o = {.first = 1, .nodes = 100, .partitions = 100000};
    if (argc == 2 && strcmp(argv[1], "--mutations") == 0) {
        sim_mutations_list();
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        if (take_flag(&o, argv[i]))
            continue;
        const char *wrong =
            i + 1 < argc ? take(&o, argv[i], argv[i + 1]) : "unknown option, or without its value";
        if (wrong)
            return usage(argv[i], wrong);
        i++;
    }
    if (o.one && !o.large && (o.seeds || o.minutes > 0 || o.must_reach))
        return usage("--seed is one seed: not with --seeds, --minutes, --must-reach", NULL);
    if (o.trace && !o.one && !o.large)
        return usage("--trace is of one --seed", NULL);
    if (!o.seeds)
        o.seeds = o.minutes > 0 ? UINT64_MAX : SEEDS_DEFAULT;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!o.jobs)
        o.jobs = cores < 1 ? 1 : cores > JOBS_MAX ? JOBS_MAX : (int)cores;
    return o.large ? run_large(&o) : o.one ? run_one(&o) : run_many(&o);
}

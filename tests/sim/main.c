// SPDX-License-Identifier: Apache-2.0
/*
 * sim [--seeds N] [--first S] [--minutes M] [--jobs J] | --seed N [--trace]
 * sim --large [--nodes N] [--partitions N] [--seed S] [--trace]
 *
 * Each seed runs in a process of its own, so that a crash is one seed's. Exit 0:
 * all held; 1: a seed failed (the command that replays it is printed).
 */
#include <poll.h>
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

enum { JOBS_MAX = 64, SEED_SECONDS_MAX = 120, LARGE_SECONDS_MAX = 1800, FAILURES_SHOWN = 20 };

struct options {
    uint64_t first, seeds, seed;
    bool one, trace, keep_going, large;
    int nodes;
    uint64_t partitions;
    double minutes;
    int jobs;
};

struct job {
    pid_t pid;
    uint64_t seed;
    struct sim_result *result; /* shared with the child */
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

static void child(struct job *job, bool trace) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    setrlimit(RLIMIT_CPU, &(struct rlimit){SEED_SECONDS_MAX, SEED_SECONDS_MAX + 5});
    sim_run(job->seed, trace, job->result);
    fflush(stdout);
    _exit(0);
}

static void start(struct job *job, uint64_t seed, bool trace) {
    memset(job->result, 0, sizeof *job->result);
    job->seed = seed;
    fflush(stdout);
    job->pid = fork();
    if (job->pid == 0)
        child(job, trace);
    if (job->pid < 0) {
        perror("fork");
        exit(2);
    }
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

static void finished(struct job *job, int status, struct sim_result *all) {
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    job->pid = 0;
    add(all, job->result);
    if (good)
        return;
    if (++failures > FAILURES_SHOWN)
        return;
    if (WIFSIGNALED(status))
        printf("seed %llu: %s\n", (unsigned long long)job->seed, strsignal(WTERMSIG(status)));
    else
        printf("seed %llu: %s\n", (unsigned long long)job->seed, job->result->text);
    printf("    replay: ./tests/sim/run --seed %llu --trace\n", (unsigned long long)job->seed);
    fflush(stdout);
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

static int run_many(const struct options *o) {
    struct job jobs[JOBS_MAX];
    struct sim_result all = {0};
    double began = seconds();
    uint64_t next = o->first, end = o->first + o->seeds, done = 0;
    int busy = 0;
    struct sim_result *shared = mmap(NULL, sizeof *shared * (size_t)o->jobs, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < o->jobs; i++)
        jobs[i] = (struct job){.result = &shared[i]};
    for (;;) {
        bool more = o->minutes > 0 ? seconds() - began < o->minutes * 60 : next < end;
        more &= failures == 0 || o->keep_going;
        while (more && busy < o->jobs && (o->minutes > 0 || next < end)) {
            start(by_pid(jobs, o->jobs, 0), next++, false);
            busy++;
        }
        if (!busy)
            break;
        int status;
        struct job *job = by_pid(jobs, o->jobs, wait(&status));
        if (!job)
            continue;
        finished(job, status, &all);
        busy--;
        done++;
    }
    summary(&all, done, seconds() - began);
    return failures ? 1 : 0;
}

static int run_one(const struct options *o) {
    struct sim_result all = {0};
    struct job job = {
        .result = mmap(NULL, sizeof *job.result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
    int status;
    double began = seconds();
    start(&job, o->seed, o->trace);
    waitpid(job.pid, &status, 0);
    printf("trace %016llx\n", (unsigned long long)job.result->trace);
    finished(&job, status, &all);
    summary(&all, 1, seconds() - began);
    return failures ? 1 : 0;
}

static int run_large(const struct options *o) {
    struct sim_result *result =
        mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
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

static int usage(void) {
    fprintf(
        stderr,
        "usage: sim [--seeds N] [--first S] [--minutes M] [--jobs J] [--keep-going] | --seed N [--trace]\n"
        "       sim --large [--nodes N] [--partitions N] [--seed S] [--trace]\n");
    return 2;
}

static bool take(struct options *o, const char *name, const char *value) {
    if (strcmp(name, "--seeds") == 0)
        o->seeds = strtoull(value, NULL, 10);
    else if (strcmp(name, "--first") == 0)
        o->first = strtoull(value, NULL, 10);
    else if (strcmp(name, "--minutes") == 0)
        o->minutes = strtod(value, NULL);
    else if (strcmp(name, "--mutation") == 0)
        return sim_mutate(value);
    else if (strcmp(name, "--jobs") == 0)
        o->jobs = atoi(value);
    else if (strcmp(name, "--seed") == 0)
        o->seed = strtoull(value, NULL, 10), o->one = true;
    else if (strcmp(name, "--nodes") == 0)
        o->nodes = atoi(value);
    else if (strcmp(name, "--partitions") == 0)
        o->partitions = strtoull(value, NULL, 10);
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    struct options o = {.first = 1,
                        .seeds = 200,
                        .nodes = 100,
                        .partitions = 100000,
                        .jobs = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    if (argc == 2 && strcmp(argv[1], "--mutations") == 0) {
        sim_mutations_list();
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0)
            o.trace = true;
        else if (strcmp(argv[i], "--large") == 0)
            o.large = true;
        else if (strcmp(argv[i], "--keep-going") == 0)
            o.keep_going = true;
        else if (i + 1 >= argc || !take(&o, argv[i], argv[i + 1]))
            return usage();
        else
            i++;
    }
    if (o.jobs < 1 || o.jobs > JOBS_MAX)
        o.jobs = 2;
    if (o.large && (o.nodes < 3 || o.nodes > CLUSTER_NODES_MAX || o.partitions < 1))
        return usage();
    return o.large ? run_large(&o) : o.one ? run_one(&o) : run_many(&o);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Lines of shell as a user would type them: "mailroom" is the built tool,
 * MAILROOM_SERVER names the cluster's nodes. What the last line printed is kept
 * and can be asked by JSON path ("partitions.0.subscriptions.0.ready").
 */
#ifndef MAILROOM_TESTS_SAY_H
#define MAILROOM_TESTS_SAY_H

#include <criterion/criterion.h>

#include "cluster.h"

/* Runs the line by sh; its exit code. Ends the test after CLUSTER_WAIT_MS * 2. */
int say(struct cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Starts it and returns; say_end waits for it and returns its exit code. */
pid_t say_begin(struct cluster *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
int say_end(struct cluster *c, pid_t pid);

const char *said(void);        /* standard output of the last line */
const char *said_errors(void); /* standard error */

/* By path in the JSON last said; the test fails if there is no such value. */
int64_t said_number(const char *path);
const char *said_text(const char *path);
bool said_has(const char *path);
/* Names of the object's members in order, by spaces ("" path: the whole). */
void said_members(const char *path, const char *names);
/* Asks `mailbox show --json NAME` and takes a number of it. */
int64_t shown(struct cluster *c, const char *mailbox, const char *path);
/* The first partition's subscription "default". */
int64_t counted(struct cluster *c, const char *mailbox, const char *counter);

#define SAYS(c, code, ...)                                                                                   \
    do {                                                                                                     \
        int got_ = say((c), __VA_ARGS__);                                                                    \
        cr_assert_eq(got_, (code), "exit %d, expected %d\nprinted: %.2000s\nerrors: %.2000s", got_, (code),  \
                     said(), said_errors());                                                                 \
    } while (0)
#define SAID(text)   cr_assert_str_eq(said(), (text))
#define ERRORS(word) cr_assert(strstr(said_errors(), (word)), "'%s' is not in: %s", (word), said_errors())

#endif

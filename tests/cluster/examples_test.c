// SPDX-License-Identifier: Apache-2.0
/* The example programs, as their heads say they are run. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>

#include "say.h"

enum { MESSAGES = 500 };

static bool all_acked(void *ctx) {
    struct cluster *c = ctx;
    return counted(c, "work", "acked") == MESSAGES;
}

Test(examples, publish_and_consume) {
    struct cluster *c = cluster_start(&(struct cluster_options){.nodes = 3});
    SAYS(c, 0, "mailroom mailbox create work");
    SAYS(c, 0, "%s/example-publish work %d", getenv("EXAMPLES"), MESSAGES);
    cr_assert_eq(counted(c, "work", "published"), MESSAGES);
    pid_t consumer = say_begin(c, "exec %s/example-consume work", getenv("EXAMPLES"));
    cluster_wait(c, "the example consumer to have acked everything", all_acked, c);
    kill(consumer, SIGINT);
    cr_assert_eq(say_end(c, consumer), 0, "%s", said_errors());
    cluster_end(c);
}

// SPDX-License-Identifier: Apache-2.0
/* A consumer to be killed: takes COUNT messages of a mailbox, says so with one
 * byte on standard output, and keeps them. usage: holder SERVERS MAILBOX COUNT */
#include <mailroom.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int fail(const char *what, const mr_error *error) {
    fprintf(stderr, "holder: %s: %s\n", what, error->text);
    return 1;
}

int main(int argc, char **argv) {
    mr_client *client;
    mr_consumer *consumer;
    mr_message *message;
    mr_error error;
    if (argc != 4)
        return 2;
    int count = atoi(argv[3]);
    mr_client_options options = {.struct_size = sizeof options, .servers = argv[1]};
    mr_consumer_options consumer_options = {.struct_size = sizeof consumer_options,
                                            .credit = (uint32_t)count};
    if (mr_client_open(&options, &client, &error) != MR_OK)
        return fail("open", &error);
    if (mr_consumer_open(client, argv[2], &consumer_options, 30000, &consumer, &error) != MR_OK)
        return fail("consumer", &error);
    for (int i = 0; i < count; i++)
        if (mr_consumer_next(consumer, 30000, &message, &error) != MR_OK)
            return fail("next", &error);
    if (write(STDOUT_FILENO, "x", 1) != 1)
        return 1;
    for (;;)
        pause();
}

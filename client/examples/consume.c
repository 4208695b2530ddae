// SPDX-License-Identifier: Apache-2.0
/*
 * Consumes a mailbox until interrupted: each message is acked when its work is
 * done; one whose work fails is given back for a second later, and rejected (to
 * the dead-letter mailbox, if there is one) at the third attempt.
 *
 *     consume MAILBOX
 */
#include <mailroom.h>
#include <signal.h>
#include <stdio.h>

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

/* The program's work. */
static int work(const mr_message *message) {
    size_t size;
    const char *payload = mr_message_payload(message, &size);
    return printf("%llu: %.*s\n", (unsigned long long)mr_message_offset(message), (int)size, payload) < 0;
}

static void handle(mr_message *message) {
    if (work(message) == 0)
        mr_ack(message);
    else if (mr_message_attempt(message) < 3)
        mr_nack(message, 1000);
    else
        mr_reject(message);
    mr_message_free(message);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return fprintf(stderr, "usage: consume MAILBOX\n"), 2;
    mr_error error;
    mr_client *client;
    mr_consumer *consumer;
    signal(SIGINT, on_signal); /* the library leaves signals to the program */
    if (mr_client_open(NULL, &client, &error) != MR_OK ||
        mr_consumer_open(client, argv[1], NULL, MR_TIMEOUT_DEFAULT, &consumer, &error) != MR_OK)
        return fprintf(stderr, "%s\n", error.text), 1;
    while (!stop) {
        mr_message *message;
        int code = mr_consumer_next(consumer, 500, &message, &error);
        if (code == MR_OK)
            handle(message);
        else if (code != MR_ETIMEOUT)
            break; /* lost connections are waited through: this is the consumer's end */
    }
    if (!stop)
        fprintf(stderr, "%s\n", error.text);
    mr_consumer_close(consumer, 5000, NULL); /* waits until the acks are confirmed */
    mr_client_close(client, 1000, NULL);
    return stop ? 0 : 1;
}

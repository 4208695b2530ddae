// SPDX-License-Identifier: Apache-2.0
/*
 * Publishes numbered messages without waiting for each: the library packs them
 * into batches, and tells the outcome of every one.
 *
 *     publish MAILBOX COUNT
 */
#include <mailroom.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static atomic_int failures;

/* On the client's thread: must not block. */
static void on_published(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    (void)ctx;
    (void)receipt; /* where it is stored: partition and offset */
    if (!error)
        return;
    atomic_fetch_add(&failures, 1);
    /* MR_RETRYABLE: not stored, may be published again. MR_MAYBE: perhaps stored. */
    fprintf(stderr, "%s%s\n", error->text, error->advice == MR_RETRYABLE ? " (may be tried again)" : "");
}

int main(int argc, char **argv) {
    if (argc != 3)
        return fprintf(stderr, "usage: publish MAILBOX COUNT\n"), 2;
    mr_error error;
    mr_client *client; /* of $MAILROOM_SERVER, or 127.0.0.1:7400 */
    if (mr_client_open(NULL, &client, &error) != MR_OK)
        return fprintf(stderr, "%s\n", error.text), 1;
    for (int i = 0; i < atoi(argv[2]); i++) {
        char payload[32];
        mr_header header = {"content-type", "text/plain", 10};
        mr_publication p = {.struct_size = sizeof p, .payload = payload, .headers = &header, .headers_count = 1};
        p.payload_size = (size_t)snprintf(payload, sizeof payload, "message %d", i);
        /* The payload is copied. Waits only while the client's buffer is full. */
        if (mr_publish_async(client, argv[1], &p, MR_TIMEOUT_DEFAULT, 0, on_published, NULL, &error) != MR_OK)
            return fprintf(stderr, "%s\n", error.text), 1;
    }
    if (mr_client_flush(client, 60000, &error) != MR_OK)
        fprintf(stderr, "%s\n", error.text);
    mr_client_close(client, 1000, NULL);
    return failures ? 1 : 0;
}

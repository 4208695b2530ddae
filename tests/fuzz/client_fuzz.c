// SPDX-License-Identifier: Apache-2.0
/*
 * The client library at a broker that sends whatever it likes behind a hello, a
 * publish and a consumer that went well. It may end the session; it must not
 * break, and its calls come back. Each input has a client of its own.
 */
#include "fake.h"

#include <stdlib.h>

#include "base/codec.h"
#include "base/xalloc.h"
#include "fuzz.h"

enum { FRAMES_MAX = 8, CALL_MS = 20000, AFTERWARDS_MS = 15 };

static struct fake *fake;
static mr_client *client;
static mr_consumer *consumer;

static void send_frames(struct fake *f, void *arg) {
    struct fuzz_input *in = arg;
    for (int i = 0; i < FRAMES_MAX && in->size > 0 && f->link; i++) {
        uint16_t type = (uint16_t)(fuzz_take(in, 1) % FRAME_TYPES);
        size_t header_size, body_size;
        const uint8_t *header = fuzz_bytes(in, fuzz_take(in, 2) % 1024, &header_size);
        const uint8_t *bytes = fuzz_bytes(in, fuzz_take(in, 2) % 1024, &body_size);
        struct body *body = body_size ? body_copy(bytes, body_size) : NULL;
        if (type)
            link_send_raw(f->link, type, header, header_size, &body, body ? 1 : 0);
        body_drop(body);
    }
}

static void forget(struct fake *f, void *arg) {
    for (size_t i = 0; i < f->published_count; i++)
        body_drop(f->published[i].body);
    f->published_count = f->settles_count = 0;
}

static void nothing(void *ctx, const mr_receipt *receipt, const mr_error *error) {
}

static const mr_publication hello = {.struct_size = sizeof hello, .payload = "m", .payload_size = 1};

static void begin(void) {
    if (!fake)
        fake = fake_new();
    client = fake_client(fake, CALL_MS);
    EXPECT(mr_publish(client, "box", &hello, CALL_MS, NULL, NULL) == MR_OK);
    EXPECT(mr_consumer_open(client, "box", NULL, CALL_MS, &consumer, NULL) == MR_OK);
}

static void take_messages(void) {
    mr_message *m;
    for (int code; (code = mr_consumer_next(consumer, 0, &m, NULL)) != MR_ETIMEOUT;) {
        if (code != MR_OK) /* ended by the broker */
            return;
        const char *name;
        const void *value;
        size_t size, value_size;
        for (size_t i = 0; i < mr_message_headers(m); i++)
            mr_message_header(m, i, &name, &size, &value, &value_size);
        mr_message_payload(m, &size);
        mr_ack(m);
        mr_message_free(m);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    begin();
    mr_publish_async(client, "box", &hello, CALL_MS, MR_NO_WAIT, nothing, NULL, NULL);
    fake_do(fake, send_frames, &in);
    /* answered behind those frames, unless the session ended over them */
    mr_publish(client, "box", &hello, AFTERWARDS_MS, NULL, NULL);
    take_messages();
    mr_client_close(client, 0, NULL); /* its consumer too */
    fake_do(fake, forget, NULL);
    return 0;
}

static void seed(uint16_t type, const ProtobufCMessage *m, const void *body, size_t body_size) {
    struct encoder e = {0};
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = xmalloc(size + 1);
    protobuf_c_message_pack(m, packed);
    encode_u8(&e, (uint8_t)type);
    encode_u16(&e, (uint16_t)size);
    encode_raw(&e, packed, size);
    encode_u16(&e, (uint16_t)body_size);
    encode_raw(&e, body, body_size);
    fuzz_seed(e.data, e.size);
    free(packed);
    encoder_free(&e);
}

void fuzz_seeds(void) {
    Mr__Delivery delivery = MR__DELIVERY__INIT;
    delivery.consumer = 1;
    delivery.count = 1;
    seed(FRAME_DELIVERY, &delivery.base, "\5\0\0\0\0\0\0\0\0x", 10);
    Mr__Receipt one = MR__RECEIPT__INIT, *list = &one;
    Mr__Receipts receipts = MR__RECEIPTS__INIT;
    one.request = 1;
    receipts.receipts = &list;
    receipts.n_receipts = 1;
    seed(FRAME_RECEIPTS, &receipts.base, NULL, 0);
    Mr__Settled settled = MR__SETTLED__INIT;
    seed(FRAME_SETTLED, &settled.base, NULL, 0);
    Mr__MailboxInfo info = MR__MAILBOX_INFO__INIT;
    info.request = 1;
    info.name = (char *)"box";
    info.partitions = 3;
    seed(FRAME_MAILBOX_INFO, &info.base, NULL, 0);
    Mr__Goaway away = MR__GOAWAY__INIT;
    seed(FRAME_GOAWAY, &away.base, NULL, 0);
}

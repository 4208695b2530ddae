// SPDX-License-Identifier: Apache-2.0
/* Headers of all frames, as protobuf reads them, and the replication frames on
 * their way into the core. */
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "fuzz.h"
#include "wire/replication.h"

static void appends(const Mr__Appends *m, struct body *body) {
    size_t at = 0;
    for (size_t i = 0; i < m->n_appends; i++) {
        struct replica_append a = {0};
        bool good = replication_read_append(m->appends[i], body, &at, &a);
        EXPECT(at <= (body ? body->size : 0));
        replication_entries_free(&a);
        if (!good)
            return;
    }
}

static void read_as(uint16_t type, void *header, struct body *body) {
    if (type == FRAME_APPENDS)
        appends(header, body);
    if (type == FRAME_APPENDEDS) {
        Mr__Appendeds *m = header;
        struct replica_appended out;
        for (size_t i = 0; i < m->n_appendeds; i++)
            replication_read_appended(m->appendeds[i], &out);
    }
    if (type == FRAME_PIECE) {
        struct replica_piece out;
        replication_read_piece(header, body, &out);
    }
    if (type == FRAME_PIECED) {
        struct replica_pieced out;
        replication_read_pieced(header, &out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    uint16_t type = (uint16_t)(fuzz_take(&in, 1) % FRAME_TYPES);
    const ProtobufCMessageDescriptor *descriptor = frame_descriptor(type);
    size_t header_size;
    const uint8_t *header = fuzz_bytes(&in, fuzz_take(&in, 2), &header_size);
    if (!descriptor)
        return 0;
    ProtobufCMessage *m = protobuf_c_message_unpack(descriptor, NULL, header_size, header);
    if (!m)
        return 0;
    struct body *body = in.size ? body_copy(in.data, in.size) : NULL;
    read_as(type, m, body);
    body_drop(body);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}

static void seed(uint16_t type, const ProtobufCMessage *m, const void *body, size_t body_size) {
    uint8_t out[4096];
    size_t size = protobuf_c_message_pack(m, out + 3);
    out[0] = (uint8_t)type;
    out[1] = (uint8_t)size;
    out[2] = (uint8_t)(size >> 8);
    memcpy(out + 3 + size, body, body_size);
    fuzz_seed(out, 3 + size + body_size);
}

void fuzz_seeds(void) {
    struct body *text = body_copy("entry of ten", 12);
    struct entry entries[] = {{5, 2, 1, text}, {6, 2, 2, NULL}};
    struct replica_append a = {.to = 2, .from = 1, .epoch = 2, .entries = entries, .count = 2};
    Mr__Append *append = replication_append(50, &a), *list[] = {append};
    Mr__Appends appends_message = MR__APPENDS__INIT;
    appends_message.appends = list;
    appends_message.n_appends = 1;
    seed(FRAME_APPENDS, &appends_message.base, text->data, text->size);
    replication_append_free(append);
    body_drop(text);
    Mr__Piece piece = MR__PIECE__INIT;
    piece.partition = 3;
    seed(FRAME_PIECE, &piece.base, "state", 5);
    Mr__Publish publish = MR__PUBLISH__INIT;
    publish.request = 4;
    seed(FRAME_PUBLISH, &publish.base, "batch", 5);
}

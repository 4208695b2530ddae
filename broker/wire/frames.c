// SPDX-License-Identifier: Apache-2.0
#include "wire/frames.h"

#include <assert.h>

struct frame_row {
    const char *name;
    const ProtobufCMessageDescriptor *descriptor;
};

static const struct frame_row rows[FRAME_TYPES] = {
#define X(name, number, message, lower) [FRAME_##name] = {#name, &mr__##lower##__descriptor},
    FRAME_LIST(X)
#undef X
};

#define X(name, number, message, lower) static_assert((number) > 0 && (number) < FRAME_TYPES, #name);
FRAME_LIST(X)
#undef X

const char *frame_name(uint16_t type) {
    return type < FRAME_TYPES && rows[type].name ? rows[type].name : "unknown";
}

const ProtobufCMessageDescriptor *frame_descriptor(uint16_t type) {
    return type < FRAME_TYPES ? rows[type].descriptor : NULL;
}

void *frame_read(struct link *link, const struct frame *frame) {
    const ProtobufCMessageDescriptor *descriptor = frame_descriptor(frame->type);
    void *message = descriptor ? frame_decode(link_loop(link), descriptor, frame) : NULL;
    if (!message)
        link_refuse(link, ERR_PROTOCOL, "frame %s (type %u): header cannot be read", frame_name(frame->type),
                    frame->type);
    return message;
}

void frame_dispatch(const frame_handler table[FRAME_TYPES], void *ctx, struct link *link,
                    const struct frame *frame) {
    frame_handler handler = frame->type < FRAME_TYPES ? table[frame->type] : NULL;
    if (!handler) {
        link_refuse(link, ERR_PROTOCOL, "frame %s (type %u) is not expected here", frame_name(frame->type),
                    frame->type);
        return;
    }
    void *message = frame_read(link, frame);
    if (message)
        handler(ctx, link, message, frame->body);
}

enum err frame_send_failure(struct link *link, uint64_t request, enum err code, const char *text) {
    Mr__Fail fail = MR__FAIL__INIT;
    fail.request = request;
    fail.code = (uint32_t)code;
    fail.text = (char *)(uintptr_t)text;
    return frame_send_fail(link, &fail, NULL, 0);
}

void frame_say_why(void *ctx, struct link *link, const struct link_end *end) {
    frame_send_failure(link, 0, end->code, end->text);
}

// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.h"

#include <protobuf-c/protobuf-c.h>

#include "wire/loop_private.h"

static void *decode_alloc(void *arena, size_t size) {
    return arena_alloc(arena, size);
}

static void decode_free(void *arena, void *p) {
    (void)arena;
    (void)p; /* the reset after the handler takes everything back */
}

void *frame_decode(struct loop *loop, const struct ProtobufCMessageDescriptor *descriptor,
                   const struct frame *frame) {
    ProtobufCAllocator allocator = {
        .alloc = decode_alloc, .free = decode_free, .allocator_data = &loop->arena};
    return protobuf_c_message_unpack(descriptor, &allocator, frame->header_size, frame->header);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A frame on the wire (little-endian):
 *
 *   at  size  field
 *    0    4   length    bytes that follow this field: 8 + header + body
 *    4    2   type      not 0; the list is proto/frames.h
 *    6    2   reserved  0
 *    8    4   header    bytes of the header, at most length - 8
 *   12        header    a protobuf message, which one the type says
 *             body      the rest: raw batches
 *
 * Valid: length >= 8 and within the link's limit, header within its limit and
 * length - 8, type not 0, reserved 0. Anything else ends the link, unread.
 */
#ifndef MAILROOM_WIRE_FRAME_H
#define MAILROOM_WIRE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/frames.h"

struct body;
struct loop;
struct ProtobufCMessage;
struct ProtobufCMessageDescriptor;

enum {
    FRAME_LENGTH_BYTES = 4, /* of the prefix, not counted by `length` */
    FRAME_REST_BYTES = 8    /* of the prefix, counted by `length` */
};

/* A received frame, lent to the handler: header bytes are valid until it
 * returns; body_keep the body to hold it longer. */
struct frame {
    uint16_t type;
    const uint8_t *header; /* encoded; frame_decode reads it */
    size_t header_size;
    struct body *body; /* NULL when the frame has none (0 bytes) */
};

/* The header as the message `descriptor` describes, or NULL if its bytes are
 * not one. It lives in the loop's arena, with all it points to, until the
 * handler returns: copy what is to stay, free nothing. */
void *frame_decode(struct loop *loop, const struct ProtobufCMessageDescriptor *descriptor,
                   const struct frame *frame);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The one door to the frames' generated headers: message types Mr__Publish and
 * so on (the .proto files), frame types FRAME_PUBLISH and so on (proto/frames.h),
 * and for each row of that list
 *
 *   enum err frame_send_publish(link, &header, bodies, count);   as link_send
 *   Mr__Publish *frame_read_publish(link, frame);                or NULL
 *
 * A header that cannot be read refuses the link (link_refuse) and gives NULL:
 * the handler just returns. What was read is valid until the handler returns.
 */
#ifndef MAILROOM_WIRE_FRAMES_H
#define MAILROOM_WIRE_FRAMES_H

#include <protobuf-c/protobuf-c.h>

#include "client.pb-c.h"
#include "common.pb-c.h"
#include "local.pb-c.h"
#include "peer.pb-c.h"

#include "proto/frames.h"
#include "wire/frame.h"
#include "wire/link.h"

/* "PUBLISH"; "unknown" for a number that is not in the list. */
const char *frame_name(uint16_t type);
/* NULL for a number that is not in the list. */
const ProtobufCMessageDescriptor *frame_descriptor(uint16_t type);

/* Reads the frame's header as its type says; NULL after refusing the link. */
void *frame_read(struct link *link, const struct frame *frame);

/*
 * Dispatch by type: a role's table has FRAME_TYPES places, filled with
 * designated initialisers; header is the message of the type, read.
 *
 *   static void on_publish(void *ctx, struct link *link, const void *header, struct body *body)
 *   { const Mr__Publish *publish = header; ... }
 *   static const frame_handler from_client[FRAME_TYPES] = { [FRAME_PUBLISH] = on_publish, ... };
 */
typedef void (*frame_handler)(void *ctx, struct link *link, const void *header, struct body *body);

/* A type without a handler, or a header that cannot be read, refuses the link
 * with an error that names it. */
void frame_dispatch(const frame_handler table[FRAME_TYPES], void *ctx, struct link *link,
                    const struct frame *frame);

/* For link_handlers.refusing: sends a Fail with request 0 that says why. */
void frame_say_why(void *ctx, struct link *link, const struct link_end *end);
/* A Fail that answers `request` (0: it ends the session). */
enum err frame_send_failure(struct link *link, uint64_t request, enum err code, const char *text);

#define X(name, number, message, lower)                                                                      \
    static inline enum err frame_send_##lower(struct link *link, const Mr__##message *header,                \
                                              struct body *const *bodies, size_t count) {                    \
        return link_send(link, FRAME_##name, &header->base, bodies, count);                                  \
    }                                                                                                        \
    static inline Mr__##message *frame_read_##lower(struct link *link, const struct frame *frame) {          \
        return frame->type == FRAME_##name ? frame_read(link, frame) : NULL;                                 \
    }
FRAME_LIST(X)
#undef X

#endif

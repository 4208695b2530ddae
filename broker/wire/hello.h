// SPDX-License-Identifier: Apache-2.0
/*
 * The first frames of every link. Who dialled sends Hello: the protocol versions
 * it speaks, its features, the largest frame it takes, who it is. The other side
 * answers Welcome with the highest version both speak and the features both
 * have, or Fail (ERR_VERSION) and ends the link. So two releases next to each
 * other talk in the older one's words, which is what a rolling upgrade needs.
 *
 * Before the hello a stranger needs no large frames: a listener's link options
 * say HELLO_FRAME_BYTES_MIN, hello_answer raises it to what ours offers.
 *
 * To change the protocol: raise PROTOCOL_VERSION_MAX (proto/frames.h), send the
 * new frames only where the agreed version has them, and leave
 * PROTOCOL_VERSION_MIN alone until no release needs the old ones.
 */
#ifndef MAILROOM_WIRE_HELLO_H
#define MAILROOM_WIRE_HELLO_H

#include "wire/frames.h"

/* What one side offers. */
struct hello {
    uint32_t version_min;
    uint32_t version_max;
    uint64_t features;
    uint64_t frame_bytes_max; /* header + body; at least HELLO_FRAME_BYTES_MIN */
};

/* What both agreed on. */
struct hello_agreed {
    uint32_t version;
    uint64_t features;
    uint64_t send_bytes_max; /* largest frame the peer takes */
};

enum { HELLO_FRAME_BYTES_MIN = 65536 };

#define HELLO_TIMEOUT_USEC (5 * USEC_S) /* to say hello or welcome, kept by the role */

/* What this build speaks. */
struct hello hello_ours(void);

/* Highest common version, common features, the smaller of what can be sent and
 * taken. ERR_VERSION when the ranges do not meet, ERR_INVALID for a nonsensical
 * range or a frame limit below HELLO_FRAME_BYTES_MIN. */
enum err hello_agree(const struct hello *ours, const struct hello *theirs, struct hello_agreed *out,
                     struct err_detail *detail);

/* Dialling side, once opened: *message carries product, name, identity; the
 * rest is filled in from ours. */
enum err hello_send(struct link *link, const struct hello *ours, Mr__Hello *message);
/* Dialling side, on Welcome. On success the link's limits are set; else the
 * link is refused and the code returned. */
enum err hello_welcomed(struct link *link, const struct hello *ours, const Mr__Welcome *message,
                        struct hello_agreed *out);
/* Accepting side, on Hello: answers with *welcome (identity and the client's
 * terms are the caller's, the rest is filled in) and sets the link's limits; or
 * refuses the link (with frame_say_why among its handlers the peer is told) and
 * returns the code. */
enum err hello_answer(struct link *link, const struct hello *ours, const Mr__Hello *message,
                      Mr__Welcome *welcome, struct hello_agreed *out);

#endif

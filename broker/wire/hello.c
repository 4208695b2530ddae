// SPDX-License-Identifier: Apache-2.0
#include "wire/hello.h"

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

struct hello hello_ours(void) {
    return (struct hello){.version_min = PROTOCOL_VERSION_MIN,
                          .version_max = PROTOCOL_VERSION_MAX,
                          .frame_bytes_max = FRAME_BYTES_DEFAULT};
}

enum err hello_agree(const struct hello *ours, const struct hello *theirs, struct hello_agreed *out,
                     struct err_detail *detail) {
    if (theirs->version_min == 0 || theirs->version_min > theirs->version_max)
        return err_set(detail, ERR_INVALID, "protocol versions %u to %u make no range", theirs->version_min,
                       theirs->version_max);
    if (theirs->frame_bytes_max < HELLO_FRAME_BYTES_MIN)
        return err_set(detail, ERR_INVALID, "frame limit %llu: at least %d expected",
                       (unsigned long long)theirs->frame_bytes_max, HELLO_FRAME_BYTES_MIN);
    if (theirs->version_max < ours->version_min || theirs->version_min > ours->version_max)
        return err_set(detail, ERR_VERSION, "peer speaks protocol versions %u to %u, this side %u to %u",
                       theirs->version_min, theirs->version_max, ours->version_min, ours->version_max);
    out->version = (uint32_t)smaller(ours->version_max, theirs->version_max);
    out->features = ours->features & theirs->features;
    out->send_bytes_max = smaller(theirs->frame_bytes_max, UINT32_MAX - FRAME_REST_BYTES);
    return ERR_OK;
}

enum err hello_send(struct link *link, const struct hello *ours, Mr__Hello *message) {
    message->version_min = ours->version_min;
    message->version_max = ours->version_max;
    message->features = ours->features;
    message->frame_bytes_max = ours->frame_bytes_max;
    link_limit(link, ours->frame_bytes_max, 0);
    return frame_send_hello(link, message, NULL, 0);
}

enum err hello_welcomed(struct link *link, const struct hello *ours, const Mr__Welcome *message,
                        struct hello_agreed *out) {
    struct hello theirs = {.version_min = message->version,
                           .version_max = message->version,
                           .features = message->features,
                           .frame_bytes_max = message->frame_bytes_max};
    struct err_detail detail;
    enum err e = hello_agree(ours, &theirs, out, &detail);
    if (e) {
        link_refuse(link, e, "%s", detail.text);
        return e;
    }
    link_limit(link, 0, out->send_bytes_max);
    return ERR_OK;
}

enum err hello_answer(struct link *link, const struct hello *ours, const Mr__Hello *message,
                      Mr__Welcome *welcome, struct hello_agreed *out) {
    struct hello theirs = {.version_min = message->version_min,
                           .version_max = message->version_max,
                           .features = message->features,
                           .frame_bytes_max = message->frame_bytes_max};
    struct err_detail detail;
    enum err e = hello_agree(ours, &theirs, out, &detail);
    if (e) {
        link_refuse(link, e, "%s", detail.text);
        return e;
    }
    welcome->version = out->version;
    welcome->features = out->features;
    welcome->frame_bytes_max = ours->frame_bytes_max;
    link_limit(link, ours->frame_bytes_max, out->send_bytes_max);
    return frame_send_welcome(link, welcome, NULL, 0);
}

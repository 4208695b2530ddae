// SPDX-License-Identifier: Apache-2.0
#include "base/settings.h"

#include <stddef.h>
#include <string.h>

enum { SETTINGS_FORMAT = 1 };

static const char *const durability_names[] = {"synced", "written", "none", NULL};
static const char *const route_names[] = {"round-robin", "least-loaded", "key", NULL};
static const char *const dispatch_names[] = {"round-robin", "least-loaded", "key", "exclusive", NULL};
static const char *const overflow_names[] = {"reject", "drop-oldest", NULL};

void settings_default(struct mailbox_settings *s) {
    *s = (struct mailbox_settings){.partitions = 1, .replicas = 3, .ack_timeout = ACK_TIMEOUT_DEFAULT_US};
}

void settings_unchanging(const struct mailbox_settings *s, struct mailbox_settings *out) {
    settings_default(out);
    out->partitions = s->partitions;
    out->replicas = s->replicas;
    out->durability = s->durability;
    out->route = s->route;
    out->dispatch = s->dispatch;
    out->no_default = s->no_default;
}

bool settings_equal(const struct mailbox_settings *a, const struct mailbox_settings *b) {
    return a->partitions == b->partitions && a->replicas == b->replicas && a->durability == b->durability &&
           a->route == b->route && a->dispatch == b->dispatch && a->overflow == b->overflow &&
           a->no_default == b->no_default && a->max_messages == b->max_messages && a->max_bytes == b->max_bytes &&
           a->ttl == b->ttl && a->max_deliveries == b->max_deliveries &&
           strcmp(a->dead_letter, b->dead_letter) == 0 && a->ack_timeout == b->ack_timeout &&
           a->retain_time == b->retain_time && a->retain_bytes == b->retain_bytes;
}

void settings_encode(const struct mailbox_settings *s, struct encoder *e) {
    encode_u8(e, SETTINGS_FORMAT);
    encode_varint(e, s->partitions);
    encode_varint(e, s->replicas);
    encode_u8(e, (uint8_t)s->durability);
    encode_u8(e, (uint8_t)s->route);
    encode_u8(e, (uint8_t)s->dispatch);
    encode_u8(e, (uint8_t)s->overflow);
    encode_u8(e, s->no_default);
    encode_varint(e, s->max_messages);
    encode_varint(e, s->max_bytes);
    encode_varint(e, (uint64_t)s->ttl);
    encode_varint(e, s->max_deliveries);
    encode_string(e, s->dead_letter);
    encode_varint(e, (uint64_t)s->ack_timeout);
    encode_varint(e, (uint64_t)s->retain_time);
    encode_varint(e, s->retain_bytes);
}

bool settings_decode(struct decoder *d, struct mailbox_settings *out) {
    memset(out, 0, sizeof *out);
    if (decode_u8(d) != SETTINGS_FORMAT)
        return false;
    out->partitions = (uint32_t)decode_varint(d);
    out->replicas = (uint32_t)decode_varint(d);
    out->durability = decode_u8(d);
    out->route = decode_u8(d);
    out->dispatch = decode_u8(d);
    out->overflow = decode_u8(d);
    out->no_default = decode_u8(d) != 0;
    out->max_messages = decode_varint(d);
    out->max_bytes = decode_varint(d);
    out->ttl = (usec_t)decode_varint(d);
    out->max_deliveries = (uint32_t)decode_varint(d);
    decode_string(d, out->dead_letter, sizeof out->dead_letter);
    out->ack_timeout = (usec_t)decode_varint(d);
    out->retain_time = (usec_t)decode_varint(d);
    out->retain_bytes = decode_varint(d);
    return !d->failed && out->durability <= DURABILITY_NONE && out->route <= ROUTE_KEY &&
           out->dispatch <= DISPATCH_EXCLUSIVE && out->overflow <= OVERFLOW_DROP_OLDEST;
}

bool name_valid(const char *name) {
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return n > 0 && n <= NAME_BYTES_MAX && name[n] == 0;
}

void name_copy(char out[NAME_BYTES_MAX + 1], const char *name) {
    size_t size = strnlen(name, NAME_BYTES_MAX);
    memcpy(out, name, size);
    out[size] = 0;
}

static bool word_parse(const char *const *names, const char *text, unsigned *out) {
    for (unsigned i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

#define WORDS(kind)                                            \
    const char *kind##_name(enum kind v) {                     \
        return kind##_names[v];                                \
    }                                                          \
    bool kind##_parse(const char *text, enum kind *out) {      \
        unsigned v;                                            \
        if (!word_parse(kind##_names, text, &v))               \
            return false;                                      \
        *out = (enum kind)v;                                   \
        return true;                                           \
    }

WORDS(durability)
WORDS(route)
WORDS(dispatch)
WORDS(overflow)

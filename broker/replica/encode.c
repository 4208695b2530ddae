// SPDX-License-Identifier: Apache-2.0
/*
 * Bytes of the core's part of a checkpoint:
 *
 *   u8 version, varint promise, u64 candidate, varint base index, varint base
 *   epoch, varint count of epochs, each varint epoch and varint first index
 *   (both ascending), voters.
 *
 * Voters (also the body of a CONFIG entry): u8 count, u64 each, ascending or not,
 * none twice. To change the layout: bump the version, keep the old reader.
 */
#include <stdlib.h>

#include "replica/core.h"

enum { STATE_VERSION = 1, EPOCHS_MAX = 1 << 24 };

static void set_encode(const struct replica_set *set, struct encoder *e) {
    encode_u8(e, (uint8_t)set->count);
    for (uint32_t i = 0; i < set->count; i++)
        encode_u64(e, set->members[i]);
}

static bool set_decode(struct decoder *d, struct replica_set *out) {
    *out = (struct replica_set){0};
    uint32_t count = decode_u8(d);
    if (d->failed || count > REPLICA_SET_MAX)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        member_t m = decode_u64(d);
        if (m == 0 || replica_set_has(out, m))
            return false;
        out->members[out->count++] = m;
    }
    return !d->failed;
}

struct body *replica_config_encode(const struct replica_set *voters) {
    struct encoder e = {0};
    set_encode(voters, &e);
    return encoder_body(&e);
}

bool replica_config_decode(const struct body *body, struct replica_set *out) {
    struct decoder d = decoder_of(body->data, body->size);
    return set_decode(&d, out) && decoder_left(&d) == 0 && out->count > 0;
}

void state_encode(const struct replica_state *state, struct encoder *e) {
    encode_u8(e, STATE_VERSION);
    encode_varint(e, state->promise);
    encode_u64(e, state->candidate);
    encode_varint(e, state->base_index);
    encode_varint(e, state->base_epoch);
    encode_varint(e, state->epochs_count);
    for (size_t i = 0; i < state->epochs_count; i++) {
        encode_varint(e, state->epochs[i].epoch);
        encode_varint(e, state->epochs[i].first_index);
    }
    set_encode(&state->config, e);
}

void core_encode(const struct replica *r, uint64_t base_index, struct encoder *e) {
    const struct log *log = &r->log;
    struct replica_state state = {.promise = r->promise,
                                  .candidate = r->candidate,
                                  .base_index = base_index,
                                  .base_epoch = replica_epoch_at(r, base_index),
                                  .epochs = log->epochs};
    while (state.epochs_count < log->epochs_count &&
           log->epochs[state.epochs_count].first_index <= base_index)
        state.epochs_count++;
    for (size_t i = 0; i < log->configs_count && log->configs[i].index <= base_index; i++)
        state.config = log->configs[i].voters;
    state_encode(&state, e);
}

void replica_encode(struct replica *r, uint64_t base_index, struct encoder *e) {
    core_encode(r, base_index, e);
    if (base_index > r->log.written_base)
        r->log.written_base = base_index;
}

static bool epochs_decode(struct decoder *d, struct replica_epoch_start *epochs, size_t count,
                          uint64_t base_index) {
    for (size_t i = 0; i < count; i++) {
        epochs[i].epoch = decode_varint(d);
        epochs[i].first_index = decode_varint(d);
        bool first = i == 0;
        if (d->failed || epochs[i].first_index == 0 || epochs[i].first_index > base_index ||
            (!first &&
             (epochs[i].epoch <= epochs[i - 1].epoch || epochs[i].first_index <= epochs[i - 1].first_index)))
            return false;
    }
    return true;
}

bool replica_decode(struct decoder *d, struct replica_state *out) {
    struct replica_state state = {0};
    bool known = decode_u8(d) == STATE_VERSION;
    state.promise = decode_varint(d);
    state.candidate = decode_u64(d);
    state.base_index = decode_varint(d);
    state.base_epoch = decode_varint(d);
    uint64_t count = decode_varint(d);
    if (!known || d->failed || count > EPOCHS_MAX || count > decoder_left(d) / 2)
        return false;
    struct replica_epoch_start *epochs = xcalloc(count ? count : 1, sizeof *epochs);
    if (!epochs_decode(d, epochs, count, state.base_index) || !set_decode(d, &state.config) ||
        (count ? epochs[count - 1].epoch : 0) != state.base_epoch) {
        free(epochs);
        return false;
    }
    state.epochs = epochs;
    state.epochs_count = count;
    *out = state;
    return true;
}

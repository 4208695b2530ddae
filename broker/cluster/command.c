// SPDX-License-Identifier: Apache-2.0
#include "cluster/command.h"

#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

const char *command_name(enum command_type type) {
    switch (type) {
#define X(name, number)                                                                                      \
    case COMMAND_##name:                                                                                     \
        return #name;
        COMMAND_LIST(X)
#undef X
    }
    return "unknown";
}

/* ---- parts ---- */

static void set_encode(const struct replica_set *s, struct encoder *e) {
    encode_varint(e, s->count);
    for (uint32_t i = 0; i < s->count; i++)
        encode_u64(e, s->members[i]);
}

static bool set_decode(struct decoder *d, struct replica_set *out) {
    memset(out, 0, sizeof *out);
    uint64_t count = decode_varint(d);
    if (count > REPLICA_SET_MAX)
        return false;
    out->count = (uint32_t)count;
    for (uint32_t i = 0; i < out->count; i++)
        out->members[i] = decode_u64(d);
    return !d->failed;
}

void node_info_encode(const struct node_info *n, struct encoder *e) {
    encode_string(e, n->name);
    encode_string(e, n->zone);
    encode_string(e, n->cluster_address);
    encode_string(e, n->client_address);
    encode_string(e, n->admin_address);
    encode_u64(e, n->controller);
    encode_varint(e, n->starts);
    encode_varint(e, n->shards_count);
    for (uint32_t i = 0; i < n->shards_count; i++)
        encode_u64(e, n->shards[i]);
}

bool node_info_decode(struct decoder *d, struct node_info *out) {
    memset(out, 0, sizeof *out);
    decode_string(d, out->name, sizeof out->name);
    decode_string(d, out->zone, sizeof out->zone);
    decode_string(d, out->cluster_address, sizeof out->cluster_address);
    decode_string(d, out->client_address, sizeof out->client_address);
    decode_string(d, out->admin_address, sizeof out->admin_address);
    out->controller = decode_u64(d);
    out->starts = decode_varint(d);
    uint64_t count = decode_varint(d);
    if (count > NODE_SHARDS_MAX)
        return false;
    out->shards_count = (uint32_t)count;
    for (uint32_t i = 0; i < out->shards_count; i++)
        out->shards[i] = decode_u64(d);
    return !d->failed;
}

void replica_record_encode(const struct replica_record *r, struct encoder *e) {
    encode_varint(e, r->version);
    encode_varint(e, r->epoch);
    encode_u64(e, r->leader);
    encode_u8(e, (uint8_t)(r->activating | r->wait_lease << 1));
    set_encode(&r->current, e);
    set_encode(&r->previous, e);
    set_encode(&r->learners, e);
    encode_varint(e, r->last_epoch);
    encode_varint(e, r->last_index);
}

bool replica_record_decode(struct decoder *d, struct replica_record *out) {
    memset(out, 0, sizeof *out);
    out->version = decode_varint(d);
    out->epoch = decode_varint(d);
    out->leader = decode_u64(d);
    uint8_t flags = decode_u8(d);
    out->activating = flags & 1;
    out->wait_lease = flags & 2;
    if (flags > 3 || !set_decode(d, &out->current) || !set_decode(d, &out->previous) ||
        !set_decode(d, &out->learners))
        return false;
    out->last_epoch = decode_varint(d);
    out->last_index = decode_varint(d);
    return !d->failed;
}

/* An array's length, bounded by what the bytes at hand can hold. */
static bool count_decode(struct decoder *d, size_t each_min, uint32_t max, uint32_t *out) {
    uint64_t count = decode_varint(d);
    if (d->failed || count > max || count * each_min > decoder_left(d))
        return false;
    *out = (uint32_t)count;
    return true;
}

/* ---- one pair a command ---- */

static void encode_form(const struct command *c, struct encoder *e) {
    encode_string(e, c->form.cluster);
    encode_u64(e, c->form.cluster_id);
    encode_varint(e, c->form.count);
    for (uint32_t i = 0; i < c->form.count; i++)
        node_info_encode(&c->form.nodes[i], e);
}

static bool decode_form(struct decoder *d, struct command *c) {
    decode_string(d, c->form.cluster, sizeof c->form.cluster);
    c->form.cluster_id = decode_u64(d);
    uint32_t count;
    if (!count_decode(d, 8, CLUSTER_NODES_MAX, &count))
        return false;
    c->form.nodes = xcalloc(count + 1, sizeof *c->form.nodes);
    for (; c->form.count < count; c->form.count++) {
        if (!node_info_decode(d, &c->form.nodes[c->form.count]))
            return false;
    }
    return true;
}

static void encode_node_set(const struct command *c, struct encoder *e) {
    node_info_encode(&c->node, e);
}

static bool decode_node_set(struct decoder *d, struct command *c) {
    return node_info_decode(d, &c->node);
}

static void encode_node_state(const struct command *c, struct encoder *e) {
    encode_string(e, c->node_state.name);
    encode_u8(e, (uint8_t)c->node_state.state);
}

static bool decode_node_state(struct decoder *d, struct command *c) {
    decode_string(d, c->node_state.name, sizeof c->node_state.name);
    uint8_t state = decode_u8(d);
    c->node_state.state = state;
    return state <= NODE_LEFT;
}

static void encode_mailbox_create(const struct command *c, struct encoder *e) {
    encode_string(e, c->mailbox_create.name);
    settings_encode(&c->mailbox_create.settings, e);
    encode_varint(e, c->mailbox_create.count);
    for (uint32_t i = 0; i < c->mailbox_create.count; i++) {
        set_encode(&c->mailbox_create.placing[i].set, e);
        encode_u64(e, c->mailbox_create.placing[i].leader);
    }
}

static bool decode_mailbox_create(struct decoder *d, struct command *c) {
    decode_string(d, c->mailbox_create.name, sizeof c->mailbox_create.name);
    if (!settings_decode(d, &c->mailbox_create.settings) ||
        !count_decode(d, 9, MAILBOX_PARTITIONS_MAX, &c->mailbox_create.count))
        return false;
    c->mailbox_create.placing = xcalloc(c->mailbox_create.count + 1, sizeof *c->mailbox_create.placing);
    for (uint32_t i = 0; i < c->mailbox_create.count; i++) {
        if (!set_decode(d, &c->mailbox_create.placing[i].set))
            return false;
        c->mailbox_create.placing[i].leader = decode_u64(d);
    }
    return true;
}

static void encode_mailbox_update(const struct command *c, struct encoder *e) {
    encode_string(e, c->mailbox_update.name);
    encode_varint(e, c->mailbox_update.fields);
    settings_encode(&c->mailbox_update.settings, e);
}

static bool decode_mailbox_update(struct decoder *d, struct command *c) {
    decode_string(d, c->mailbox_update.name, sizeof c->mailbox_update.name);
    c->mailbox_update.fields = (uint32_t)decode_varint(d);
    return settings_decode(d, &c->mailbox_update.settings);
}

static void encode_mailbox_name(const struct command *c, struct encoder *e) {
    encode_string(e, c->mailbox.name);
}

static bool decode_mailbox_name(struct decoder *d, struct command *c) {
    decode_string(d, c->mailbox.name, sizeof c->mailbox.name);
    return true;
}

static void encode_subscription(const struct command *c, struct encoder *e) {
    encode_string(e, c->subscription.mailbox);
    encode_string(e, c->subscription.name);
    encode_varint(e, c->subscription.from);
    encode_varint(e, c->subscription.value);
}

static bool decode_subscription(struct decoder *d, struct command *c) {
    decode_string(d, c->subscription.mailbox, sizeof c->subscription.mailbox);
    decode_string(d, c->subscription.name, sizeof c->subscription.name);
    c->subscription.from = (uint32_t)decode_varint(d);
    c->subscription.value = decode_varint(d);
    return true;
}

static void encode_records(const struct command *c, struct encoder *e) {
    encode_varint(e, c->records.count);
    for (uint32_t i = 0; i < c->records.count; i++) {
        const struct record_change *r = &c->records.changes[i];
        encode_varint(e, r->partition);
        encode_varint(e, r->base_version);
        encode_u8(e, r->lossy);
        replica_record_encode(&r->record, e);
    }
}

static bool decode_records(struct decoder *d, struct command *c) {
    if (!count_decode(d, 16, COMMAND_RECORDS_MAX, &c->records.count))
        return false;
    c->records.changes = xcalloc(c->records.count + 1, sizeof *c->records.changes);
    for (uint32_t i = 0; i < c->records.count; i++) {
        struct record_change *r = &c->records.changes[i];
        r->partition = decode_varint(d);
        r->base_version = decode_varint(d);
        r->lossy = decode_u8(d) != 0;
        if (!replica_record_decode(d, &r->record))
            return false;
    }
    return true;
}

static void encode_partition(const struct command *c, struct encoder *e) {
    encode_varint(e, c->partition.partition);
    encode_varint(e, c->partition.base_version);
    encode_varint(e, c->partition.epoch);
    set_encode(&c->partition.learners, e);
}

static bool decode_partition(struct decoder *d, struct command *c) {
    c->partition.partition = decode_varint(d);
    c->partition.base_version = decode_varint(d);
    c->partition.epoch = decode_varint(d);
    return set_decode(d, &c->partition.learners);
}

static void encode_crashes(const struct command *c, struct encoder *e) {
    encode_varint(e, c->crashes.partition);
    encode_varint(e, c->crashes.epoch);
    encode_varint(e, c->crashes.crashes);
}

static bool decode_crashes(struct decoder *d, struct command *c) {
    c->crashes.partition = decode_varint(d);
    c->crashes.epoch = decode_varint(d);
    c->crashes.crashes = (uint32_t)decode_varint(d);
    return true;
}

static void encode_dropped(const struct command *c, struct encoder *e) {
    encode_varint(e, c->dropped.count);
    for (uint32_t i = 0; i < c->dropped.count; i++) {
        encode_varint(e, c->dropped.done[i].partition);
        encode_u64(e, c->dropped.done[i].member);
    }
}

static bool decode_dropped(struct decoder *d, struct command *c) {
    if (!count_decode(d, 9, COMMAND_RECORDS_MAX, &c->dropped.count))
        return false;
    c->dropped.done = xcalloc(c->dropped.count + 1, sizeof *c->dropped.done);
    for (uint32_t i = 0; i < c->dropped.count; i++) {
        c->dropped.done[i].partition = decode_varint(d);
        c->dropped.done[i].member = decode_u64(d);
    }
    return true;
}

static const struct {
    void (*encode)(const struct command *c, struct encoder *e);
    bool (*decode)(struct decoder *d, struct command *c);
} codecs[] = {
    [COMMAND_FORM] = {encode_form, decode_form},
    [COMMAND_NODE_SET] = {encode_node_set, decode_node_set},
    [COMMAND_NODE_STATE] = {encode_node_state, decode_node_state},
    [COMMAND_MAILBOX_CREATE] = {encode_mailbox_create, decode_mailbox_create},
    [COMMAND_MAILBOX_UPDATE] = {encode_mailbox_update, decode_mailbox_update},
    [COMMAND_MAILBOX_DELETE] = {encode_mailbox_name, decode_mailbox_name},
    [COMMAND_SUBSCRIPTION_CREATE] = {encode_subscription, decode_subscription},
    [COMMAND_SUBSCRIPTION_DELETE] = {encode_subscription, decode_subscription},
    [COMMAND_RECORDS] = {encode_records, decode_records},
    [COMMAND_ACTIVATED] = {encode_partition, decode_partition},
    [COMMAND_LEARNERS] = {encode_partition, decode_partition},
    [COMMAND_CRASHES] = {encode_crashes, decode_crashes},
    [COMMAND_RELEASE] = {encode_mailbox_name, decode_mailbox_name},
    [COMMAND_DROPPED] = {encode_dropped, decode_dropped},
};

void command_encode(const struct command *c, struct encoder *e) {
    encode_u8(e, (uint8_t)c->type);
    codecs[c->type].encode(c, e);
}

bool command_decode(const void *data, size_t size, struct command *out) {
    struct decoder d = decoder_of(data, size);
    memset(out, 0, sizeof *out);
    uint8_t type = decode_u8(&d);
    if (type < sizeof codecs / sizeof *codecs && codecs[type].decode) {
        out->type = type;
        if (codecs[type].decode(&d, out) && !d.failed && decoder_left(&d) == 0)
            return true;
    }
    command_free(out);
    return false;
}

void command_free(struct command *c) {
    switch (c->type) {
    case COMMAND_FORM:
        free(c->form.nodes);
        break;
    case COMMAND_MAILBOX_CREATE:
        free(c->mailbox_create.placing);
        break;
    case COMMAND_RECORDS:
        free(c->records.changes);
        break;
    case COMMAND_DROPPED:
        free(c->dropped.done);
        break;
    default:
        break;
    }
    memset(c, 0, sizeof *c);
}

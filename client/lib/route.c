// SPDX-License-Identifier: Apache-2.0
/*
 * Which partition a batch goes to. A partition that is waiting to be sent to
 * again, or has not answered for a while, is passed over as long as there are
 * others: its leader is being replaced.
 */
#include "base/settings.h"
#include "client/lib/client.h"

enum {
    ROUTE_DRAWS_MAX = 4,      /* of two partitions, before all are looked at */
    ROUTE_PARTITION_MAX = 16, /* batches unanswered of one */
    ROUTE_SLOW_MAX = 2,       /* of one that does not answer, when no other is left */
    ROUTE_BYTES_PER_USEC = 64 /* own unreceipted bytes against the loads' expected wait */
};

static bool usable(const struct partition *p) {
    return !p->retry_at && !p->again && !p->slow && p->queued < ROUTE_PARTITION_MAX;
}

static bool bearable(const struct partition *p) {
    return !p->retry_at && !p->again && p->queued < ROUTE_SLOW_MAX;
}

static struct partition *next_in_turn(struct mailbox *m, bool (*good)(const struct partition *)) {
    for (uint32_t i = 0; i < m->partitions_count; i++) {
        struct partition *p = &m->partitions[(m->turn + i) % m->partitions_count];
        if (!good(p))
            continue;
        m->turn = (p->number + 1) % m->partitions_count;
        return p;
    }
    return NULL;
}

static uint64_t wait_at(const struct partition *p) {
    return p->load + p->bytes / ROUTE_BYTES_PER_USEC;
}

/* Power of two choices: the better of two drawn, so that clients with the same
 * table do not all run to the same partition. */
static struct partition *least_loaded(struct mailbox *m) {
    for (int draw = 0; draw < ROUTE_DRAWS_MAX; draw++) {
        struct partition *a = &m->partitions[loop_random(m->client->loop, m->partitions_count)];
        struct partition *b = &m->partitions[loop_random(m->client->loop, m->partitions_count)];
        struct partition *better = wait_at(b) < wait_at(a) ? b : a, *other = better == a ? b : a;
        if (usable(better))
            return better;
        if (usable(other))
            return other;
    }
    return NULL;
}

struct partition *route_choose(struct mailbox *m) {
    struct partition *p = m->route == ROUTE_LEAST_LOADED ? least_loaded(m) : NULL;
    if (!p)
        p = next_in_turn(m, usable);
    return p ? p : next_in_turn(m, bearable);
}

void route_by_key(struct mailbox *m) {
    struct batch *list = m->any.batches, *b, *next;
    if (!list)
        return;
    DL_DELETE(m->lanes, &m->any);
    m->any.batches = NULL;
    DL_FOREACH_SAFE(list, b, next) {
        struct batch_cursor cursor = batch_messages(b->built.data, b->built.size);
        struct batch_message view;
        for (uint32_t i = 0; batch_next(&cursor, &view); i++) {
            struct lane *lane = &m->any;
            if (view.key.size)
                lane =
                    &m->partitions[batch_key_hash(view.key.data, view.key.size) % m->partitions_count].lane;
            batch_take(lane_room(m, lane, view.bytes), &view, &b->entries[i]);
        }
        DL_DELETE(list, b);
        b->lane = NULL;
        batch_discard(b);
    }
}

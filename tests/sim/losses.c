// SPDX-License-Identifier: Apache-2.0
/*
 * Durability written: a majority of a partition's set lost its power, and an epoch
 * began from less than was committed. The checker's record is cut back to what is
 * left; what copies, leaders and messages that have not heard of it still say about
 * the rest is neither held against them nor counted.
 */
#include "base/xalloc.h"
#include "check.h"

bool losses_entry(const struct log *l, uint64_t index, uint64_t epoch) {
    for (size_t i = 0; i < l->losses_count; i++)
        if (index > l->losses[i].index && epoch < l->losses[i].epoch)
            return true;
    return false;
}

bool losses_offset(const struct log *l, uint64_t offset, uint64_t epoch) {
    for (size_t i = 0; i < l->losses_count; i++)
        if (offset >= l->losses[i].offset && epoch < l->losses[i].epoch)
            return true;
    return false;
}

static void cut_sequences(struct sequences *q, uint64_t offset) {
    q->last = 0;
    for (size_t i = 0; i < q->capacity; i++) {
        q->base[i] = q->base[i] > offset ? 0 : q->base[i];
        q->last = q->base[i] ? i : q->last;
    }
}

/* Acks are lost like messages are, and what was delivered may have been lost since. */
static void cut_history(struct history *h, size_t count, uint64_t from) {
    for (size_t i = 0; i < count; i++)
        h[i] = (struct history){
            .sent = h[i].sent && i < from, .delivered = h[i].delivered && i < from, .consumer = -1};
}

void losses_cut(struct sim *s, struct log *l, uint64_t partition, uint64_t index, uint64_t epoch) {
    sim_trace(s, "p%d: lost behind index %llu", (int)partition, (unsigned long long)index);
    sim_count(s, RARE_commits_lost);
    for (uint64_t i = index + 1; i <= l->applied; i++) {
        l->slots[i].committed = false;
        l->slots[i].state = 0;
    }
    l->applied = index;
    while (l->next_offset && l->offsets[l->next_offset - 1].index > index)
        l->next_offset--;
    for (int k = 0; l->sequences && k < SIM_PUBLISHERS_MAX * GENERATIONS_MAX; k++)
        cut_sequences(&l->sequences[k], l->next_offset);
    for (int k = 0; k < SIM_SUBSCRIPTIONS_MAX; k++) {
        cut_history(l->histories[k], l->histories_capacity[k], l->next_offset);
        for (int key = 0; key <= UINT8_MAX; key++)
            if (l->sent_below[k][key] > l->next_offset)
                l->sent_below[k][key] = l->next_offset;
    }
    xgrow(&l->losses, &l->losses_capacity, l->losses_count + 1, sizeof *l->losses);
    l->losses[l->losses_count++] = (struct loss){index, epoch, l->next_offset};
}

// SPDX-License-Identifier: Apache-2.0
/* The end of a seed: what was receipted has come to each subscription, or is counted
 * as what need not; nothing is left that nobody needs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* ---- the end ---- */

static struct partition *led(struct sim *s, uint64_t partition) {
    for (int i = 0; i < s->processes_count; i++) {
        struct process *p = &s->processes[i];
        struct partition *found = p->kind == PROCESS_SHARD && p->up ? shard_partition(p, partition) : NULL;
        if (found && mailbox_leading(found->mailbox))
            return found;
    }
    return NULL;
}

/* What did not come to a subscription, purged or not. Of what was stored already
 * when it began only the number is known that it is to get. */
struct missed {
    uint64_t count, purged, first;
};

static struct missed missed_by(struct log *l, int k, const struct subscription_stats *t) {
    struct begun *b = check_begun(l, t->name);
    uint64_t begun = b ? b->offset : 0, due = t->published - (l->next_offset - begun), came = 0;
    struct missed m = {.first = UINT64_MAX};
    for (uint64_t offset = 0; offset < l->next_offset; offset++) {
        bool delivered = check_history(l, k, offset)->delivered;
        if (offset < begun)
            came += delivered;
        else if (!delivered && offset < l->purged_below)
            m.purged++;
        else if (!delivered)
            m.first = m.count++ ? m.first : offset;
    }
    if (came < due)
        *(b && b->purged ? &m.purged : &m.count) += due - came;
    return m;
}

/* Each message has come, or the subscription counts that it need not: purged, or by
 * policy expired, dropped, dead. Of `exact` mailboxes policy takes nothing unseen. */
static bool subscription_delivered(struct sim *s, const struct box *b, uint64_t partition, int k,
                                   const struct subscription_stats *t, char *why, size_t size) {
    struct missed m = missed_by(check_log(s, partition), k, t);
    uint64_t policy = t->expired + t->dropped + t->dead;
    if (m.count <= (b->exact ? 0 : policy) && m.purged <= t->purged + policy)
        return true;
    snprintf(why, size, "p%d: %llu messages, and %llu purged ones, never came to %s (first: %lld)",
             (int)partition, (unsigned long long)m.count, (unsigned long long)m.purged, t->name,
             (long long)m.first);
    return false;
}

/* What no subscription needs any more is let go, that of deleted ones too. */
static bool released(uint64_t partition, const struct mailbox *m, char *why, size_t size) {
    struct mailbox_stats t;
    mailbox_stats(m, &t);
    if (t.messages)
        snprintf(why, size, "p%d: %llu messages wait, but for no subscription", (int)partition,
                 (unsigned long long)t.messages);
    return t.messages == 0;
}

/* What the leaders still hold, as they count it. */
static bool drained(struct sim *s, const struct box *b, uint64_t partition, char *why, size_t size) {
    struct partition *p = led(s, partition);
    struct subscription_stats t;
    if (!p) {
        snprintf(why, size, "p%d has no leader", (int)partition);
        return false;
    }
    for (size_t i = 0; mailbox_subscription_stats(p->mailbox, i, &t); i++) {
        int k = clients_subscription(b, t.name);
        if (k < 0 || !b->there[k]) {
            snprintf(why, size, "p%d still has the deleted subscription %s", (int)partition, t.name);
            return false;
        }
        if (t.ready + t.leased + t.delayed + t.dying) {
            snprintf(why, size, "p%d %s: ready %llu leased %llu delayed %llu dying %llu%s%s", (int)partition,
                     t.name, (unsigned long long)t.ready, (unsigned long long)t.leased,
                     (unsigned long long)t.delayed, (unsigned long long)t.dying, t.reason[0] ? ", " : "",
                     t.reason);
            return false;
        }
        if (!subscription_delivered(s, b, partition, k, &t, why, size))
            return false;
    }
    return released(partition, p->mailbox, why, size);
}

bool checker_receipted_all_delivered(struct sim *s, char *why, size_t size) {
    for (int i = 0; i < s->clients->boxes_count; i++) {
        struct box *b = &s->clients->boxes[i];
        for (uint32_t k = 0; k < b->settings.partitions; k++) {
            uint64_t partition = (uint64_t)b->first_partition + k;
            if (!drained(s, b, partition, why, size))
                return false;
        }
    }
    return true;
}

/* What the sources counted as dead letters is stored in box0, each once. */
void checker_letters(struct sim *s) {
    uint64_t dead = 0, stored = 0;
    struct subscription_stats t;
    if (!s->clients->letters)
        return;
    for (int i = 0; i < s->clients->boxes_count; i++) {
        struct box *b = &s->clients->boxes[i];
        for (uint32_t k = 0; k < b->settings.partitions; k++) {
            uint64_t partition = (uint64_t)b->first_partition + k;
            struct partition *p = led(s, partition);
            for (size_t n = 0; mailbox_subscription_stats(p->mailbox, n, &t); n++)
                dead += b->settings.dead_letter[0] ? t.dead : 0;
        }
    }
    for (uint64_t i = 0; i <= s->partitions_max; i++)
        stored += s->checker->logs[i].letters_count;
    if (dead > stored || (dead < stored && !s->clients->letters_lost))
        sim_violation(s, "conserved", "%llu dead letters were sent, %llu are stored",
                      (unsigned long long)dead, (unsigned long long)stored);
}

/* Another one will take the slot. */
void checker_subscription_gone(struct sim *s, uint64_t partition, int subscription) {
    struct log *l = check_log(s, partition);
    free(l->histories[subscription]);
    l->histories[subscription] = NULL;
    l->histories_capacity[subscription] = 0;
    memset(l->sent_below[subscription], 0, sizeof l->sent_below[subscription]);
}

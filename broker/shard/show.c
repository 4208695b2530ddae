// SPDX-License-Identifier: Apache-2.0
/* What a partition's leader shows of it: `mailbox show`. */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "shard/process.h"

static void free_show(Mr__PartitionShow *show) {
    for (size_t i = 0; i < show->n_subscriptions; i++) {
        Mr__SubscriptionShow *sub = show->subscriptions[i];
        for (size_t k = 0; k < sub->n_consumers; k++) {
            free(sub->consumers[k]->id.data);
            free(sub->consumers[k]);
        }
        free(sub->consumers);
        free(sub);
    }
    free(show->subscriptions);
}

static Mr__ConsumerShow *show_consumer(const struct consumer_stats *stats) {
    Mr__ConsumerShow *c = xmalloc(sizeof *c);
    mr__consumer_show__init(c);
    c->id.len = sizeof(struct consumer_id);
    c->id.data = xmalloc(sizeof(struct consumer_id));
    memcpy(c->id.data, stats->id.bytes, sizeof(struct consumer_id));
    c->client = (char *)(uintptr_t)stats->client;
    c->credit = stats->credit;
    c->leased = stats->leased;
    c->delivered = stats->delivered;
    return c;
}

static Mr__SubscriptionShow *show_subscription(const struct mailbox *m, size_t i) {
    struct subscription_stats stats;
    if (!mailbox_subscription_stats(m, i, &stats))
        return NULL;
    Mr__SubscriptionShow *out = xmalloc(sizeof *out);
    mr__subscription_show__init(out);
    out->name = (char *)(uintptr_t)stats.name;
    out->reason = (char *)(uintptr_t)stats.reason;
    out->published = stats.published;
    out->ready = stats.ready;
    out->leased = stats.leased;
    out->delayed = stats.delayed;
    out->dying = stats.dying;
    out->acked = stats.acked;
    out->dead = stats.dead;
    out->expired = stats.expired;
    out->dropped = stats.dropped;
    out->purged = stats.purged;
    out->consumers = xcalloc(stats.consumers, sizeof *out->consumers);
    struct consumer_stats consumer;
    while (out->n_consumers < stats.consumers && mailbox_consumer_stats(m, i, out->n_consumers, &consumer))
        out->consumers[out->n_consumers++] = show_consumer(&consumer);
    return out;
}

static const char *state_of(const struct hosted *h) {
    if (h->quarantined)
        return "quarantined";
    if (replica_damaged(h->partition->replica))
        return "damaged";
    return h->record.activating ? "activating" : "ok";
}

void show_partition(struct process_link *l, const struct frame *frame) {
    Mr__ShowPartition *m = frame_decode(l->process->loop, &mr__show_partition__descriptor, frame);
    if (!m) {
        link_refuse(l->link, ERR_PROTOCOL, "SHOW_PARTITION: malformed header");
        return;
    }
    struct hosted *h = service_leader(&l->process->shard, m->partition);
    Mr__PartitionShown shown = MR__PARTITION_SHOWN__INIT;
    Mr__PartitionShow show = MR__PARTITION_SHOW__INIT;
    shown.request = m->request;
    shown.partition = m->partition;
    shown.code = h ? ERR_OK : ERR_NOT_LEADER;
    if (h) {
        struct mailbox_stats stats;
        mailbox_stats(h->partition->mailbox, &stats);
        shown.show = &show;
        show.partition = h->number;
        show.epoch = replica_epoch(h->partition->replica);
        show.state = (char *)(uintptr_t)state_of(h);
        show.messages = stats.messages;
        show.bytes = stats.bytes;
        show.subscriptions = xcalloc(stats.subscriptions, sizeof *show.subscriptions);
        Mr__SubscriptionShow *sub;
        while (show.n_subscriptions < stats.subscriptions &&
               (sub = show_subscription(h->partition->mailbox, show.n_subscriptions)))
            show.subscriptions[show.n_subscriptions++] = sub;
    }
    link_send(process_link_out(&l->shard), FRAME_PARTITION_SHOWN, &shown.base, NULL, 0);
    free_show(&show);
}

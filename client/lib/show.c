// SPDX-License-Identifier: Apache-2.0
/*
 * What the cluster says about itself, as the public structs. Each answer is one
 * `info`: the received message, whose strings are pointed to, and the structs
 * made of it; mr_info_free frees the whole.
 */
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"
#include "client/lib/admin.h"

struct piece {
    struct piece *next;
    _Alignas(16) char bytes[];
};

struct info { /* stands right in front of the public struct */
    Mr__Response *response;
    struct piece *pieces;
    _Alignas(16) char bytes[];
};

static struct info *info_new(Mr__Response *response, size_t size) {
    struct info *info = xcalloc(1, sizeof *info + size);
    info->response = response;
    return info;
}

static void *piece_new(struct info *info, size_t size) {
    struct piece *p = xcalloc(1, sizeof *p + size);
    p->next = info->pieces;
    info->pieces = p;
    return p->bytes;
}

/* An array of pointers to `count` zeroed structs of `each` bytes. */
static void *list_new(struct info *info, size_t count, size_t each) {
    size_t size = (each + 15) / 16 * 16;
    char **list = piece_new(info, count * sizeof *list);
    char *items = piece_new(info, count * size);
    for (size_t i = 0; i < count; i++)
        list[i] = items + i * size;
    return list;
}

void mr_info_free(const void *public) {
    if (!public)
        return;
    struct info *info = (struct info *)(void *)((char *)public - offsetof(struct info, bytes));
    struct piece *p = info->pieces, *next;
    for (; p; p = next) {
        next = p->next;
        free(p);
    }
    mr__response__free_unpacked(info->response, NULL);
    free(info);
}

static int unexpected(Mr__Response *response, mr_error *error) {
    mr__response__free_unpacked(response, NULL);
    return error_set(error, MR_EPROTOCOL, "the answer to another request");
}

/* --- mailboxes -------------------------------------------------------------- */

static const mr_settings *settings_read(struct info *info, const Mr__Settings *in) {
    mr_settings *s = piece_new(info, sizeof *s);
    mr_settings_init(s);
    if (!in)
        return s;
    s->partitions = in->partitions;
    s->replicas = in->replicas;
    s->durability = (int)in->durability;
    s->route = (int)in->route;
    s->dispatch = (int)in->dispatch;
    s->overflow = (int)in->overflow;
    s->no_default = in->no_default;
    s->max_deliveries = in->max_deliveries;
    s->max_messages = in->max_messages;
    s->max_bytes = in->max_bytes;
    s->ttl_ms = in->ttl_us / USEC_MS;
    s->ack_timeout_ms = in->ack_timeout_us / USEC_MS;
    s->retain_ms = in->retain_us / USEC_MS;
    s->retain_bytes = in->retain_bytes;
    snprintf(s->dead_letter, sizeof s->dead_letter, "%s", in->dead_letter);
    return s;
}

static char *hex(struct info *info, const ProtobufCBinaryData *data) {
    char *text = piece_new(info, 2 * data->len + 1);
    for (size_t i = 0; i < data->len; i++)
        sprintf(text + 2 * i, "%02x", data->data[i]);
    return text;
}

static void subscription_read(struct info *info, const Mr__SubscriptionShow *in, mr_subscription_state *s) {
    *s = (mr_subscription_state){.name = in->name,
                                 .reason = in->reason,
                                 .published = in->published,
                                 .ready = in->ready,
                                 .leased = in->leased,
                                 .delayed = in->delayed,
                                 .dying = in->dying,
                                 .acked = in->acked,
                                 .dead = in->dead,
                                 .expired = in->expired,
                                 .dropped = in->dropped,
                                 .purged = in->purged,
                                 .consumers_count = in->n_consumers};
    mr_consumer_info **list = list_new(info, in->n_consumers, sizeof **list);
    for (size_t i = 0; i < in->n_consumers; i++) {
        const Mr__ConsumerShow *k = in->consumers[i];
        *list[i] = (mr_consumer_info){hex(info, &k->id), k->client, k->credit, k->leased, k->delivered};
    }
    s->consumers = (const mr_consumer_info *const *)list;
}

static void partition_read(struct info *info, const Mr__PartitionShow *in, mr_partition_info *p) {
    *p = (mr_partition_info){.partition = in->partition,
                             .leader = in->leader,
                             .state = in->state,
                             .epoch = in->epoch,
                             .messages = in->messages,
                             .bytes = in->bytes,
                             .replicas_count = in->n_replicas,
                             .replicas = (const char *const *)in->replicas,
                             .subscriptions_count = in->n_subscriptions};
    mr_subscription_state **list = list_new(info, in->n_subscriptions, sizeof **list);
    for (size_t i = 0; i < in->n_subscriptions; i++)
        subscription_read(info, in->subscriptions[i], list[i]);
    p->subscriptions = (const mr_subscription_state *const *)list;
}

int info_mailbox(Mr__Response *response, const mr_mailbox_info **out, mr_error *error) {
    if (response->what_case != MR__RESPONSE__WHAT_MAILBOX_SHOW)
        return unexpected(response, error);
    const Mr__MailboxShow *in = response->mailbox_show;
    struct info *info = info_new(response, sizeof(mr_mailbox_info));
    mr_partition_info **list = list_new(info, in->n_partitions, sizeof **list);
    for (size_t i = 0; i < in->n_partitions; i++)
        partition_read(info, in->partitions[i], list[i]);
    mr_mailbox_info *m = (mr_mailbox_info *)(void *)info->bytes;
    *m = (mr_mailbox_info){in->name, settings_read(info, in->settings), in->n_partitions,
                           (const mr_partition_info *const *)list};
    *out = m;
    return MR_OK;
}

static int by_name(const void *a, const void *b) {
    const mr_mailbox_info *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

int info_mailboxes(Mr__Response *response, const mr_mailbox_list **out, mr_error *error) {
    if (response->what_case != MR__RESPONSE__WHAT_MAILBOX_LIST)
        return unexpected(response, error);
    const Mr__MailboxList *in = response->mailbox_list;
    struct info *info = info_new(response, sizeof(mr_mailbox_list));
    mr_mailbox_info **list = list_new(info, in->n_mailboxes, sizeof **list);
    for (size_t i = 0; i < in->n_mailboxes; i++)
        *list[i] = (mr_mailbox_info){.name = in->mailboxes[i]->name,
                                     .settings = settings_read(info, in->mailboxes[i]->settings)};
    if (in->n_mailboxes)
        qsort(list, in->n_mailboxes, sizeof *list, by_name);
    mr_mailbox_list *m = (mr_mailbox_list *)(void *)info->bytes;
    *m = (mr_mailbox_list){in->n_mailboxes, (const mr_mailbox_info *const *)list};
    *out = m;
    return MR_OK;
}

int info_subscriptions(Mr__Response *response, const mr_subscription_list **out, mr_error *error) {
    if (response->what_case != MR__RESPONSE__WHAT_SUBSCRIPTION_LIST)
        return unexpected(response, error);
    const Mr__SubscriptionList *in = response->subscription_list;
    struct info *info = info_new(response, sizeof(mr_subscription_list));
    mr_subscription_info **list = list_new(info, in->n_subscriptions, sizeof **list);
    for (size_t i = 0; i < in->n_subscriptions; i++) {
        const Mr__SubscriptionBrief *s = in->subscriptions[i];
        *list[i] = (mr_subscription_info){s->name, (int)s->from, s->value};
    }
    mr_subscription_list *m = (mr_subscription_list *)(void *)info->bytes;
    *m = (mr_subscription_list){in->n_subscriptions, (const mr_subscription_info *const *)list};
    *out = m;
    return MR_OK;
}

/* --- the cluster ------------------------------------------------------------ */

static void node_read(struct info *info, const Mr__NodeStatus *in, mr_node_info *n) {
    *n = (mr_node_info){.name = in->name,
                        .state = in->state,
                        .address = in->address,
                        .leaders = in->leaders,
                        .replicas = in->replicas,
                        .processes_count = in->n_processes};
    mr_process_info **list = list_new(info, in->n_processes, sizeof **list);
    for (size_t i = 0; i < in->n_processes; i++) {
        const Mr__ProcessStatus *p = in->processes[i];
        *list[i] = (mr_process_info){p->role, p->state, p->version, p->pid, p->restarts};
    }
    n->processes = (const mr_process_info *const *)list;
}

int info_cluster(Mr__Response *response, const mr_cluster_info **out, mr_error *error) {
    if (response->what_case != MR__RESPONSE__WHAT_CLUSTER_STATUS)
        return unexpected(response, error);
    const Mr__ClusterStatus *in = response->cluster_status;
    struct info *info = info_new(response, sizeof(mr_cluster_info));
    mr_node_info **list = list_new(info, in->n_nodes, sizeof **list);
    for (size_t i = 0; i < in->n_nodes; i++)
        node_read(info, in->nodes[i], list[i]);
    mr_cluster_info *m = (mr_cluster_info *)(void *)info->bytes;
    *m = (mr_cluster_info){
        in->cluster,    in->controller,     in->n_nodes,          (const mr_node_info *const *)list,
        in->partitions, in->without_leader, in->under_replicated, in->quarantined};
    *out = m;
    return MR_OK;
}

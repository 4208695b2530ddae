// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "base/settings.h"
#include "client/lib/admin.h"

static const struct call_kind question = {0};

/* --- settings --------------------------------------------------------------- */

void mr_settings_default(mr_settings *out, size_t struct_size) {
    struct mailbox_settings d;
    settings_default(&d);
    mr_settings s = {.partitions = d.partitions,
                     .replicas = d.replicas,
                     .durability = (int)d.durability,
                     .route = (int)d.route,
                     .dispatch = (int)d.dispatch,
                     .overflow = (int)d.overflow,
                     .ack_timeout_ms = d.ack_timeout / USEC_MS};
    memset(out, 0, struct_size);
    memcpy(out, &s, struct_size < sizeof s ? struct_size : sizeof s);
    out->struct_size = struct_size;
}

const char *mr_durability_name(int v) {
    return v >= 0 && v <= MR_NONE ? durability_name((enum durability)v) : "unknown";
}

const char *mr_route_name(int v) {
    return v >= 0 && v <= MR_ROUTE_KEY ? route_name((enum route)v) : "unknown";
}

const char *mr_dispatch_name(int v) {
    return v >= 0 && v <= MR_DISPATCH_EXCLUSIVE ? dispatch_name((enum dispatch)v) : "unknown";
}

const char *mr_overflow_name(int v) {
    return v >= 0 && v <= MR_OVERFLOW_DROP_OLDEST ? overflow_name((enum overflow)v) : "unknown";
}

int mr_durability_parse(const char *word) {
    enum durability v;
    return durability_parse(word, &v) ? (int)v : -1;
}

int mr_route_parse(const char *word) {
    enum route v;
    return route_parse(word, &v) ? (int)v : -1;
}

int mr_dispatch_parse(const char *word) {
    enum dispatch v;
    return dispatch_parse(word, &v) ? (int)v : -1;
}

int mr_overflow_parse(const char *word) {
    enum overflow v;
    return overflow_parse(word, &v) ? (int)v : -1;
}

static bool in_range(int v, int most) {
    return v >= 0 && v <= most;
}

static bool span_valid(int64_t ms) {
    return ms >= 0 && ms <= INT64_MAX / USEC_MS;
}

static int settings_check(const mr_settings *s, mr_error *error) {
    if (s->partitions < 1 || s->partitions > MAILBOX_PARTITIONS_MAX)
        return error_set(error, MR_EINVALID, "%u partitions, expected 1 to %d", s->partitions,
                         MAILBOX_PARTITIONS_MAX);
    if (s->replicas < 1 || s->replicas > MAILBOX_REPLICAS_MAX)
        return error_set(error, MR_EINVALID, "%u replicas, expected 1 to %d", s->replicas,
                         MAILBOX_REPLICAS_MAX);
    if (!in_range(s->durability, MR_NONE) || !in_range(s->route, MR_ROUTE_KEY) ||
        !in_range(s->dispatch, MR_DISPATCH_EXCLUSIVE) || !in_range(s->overflow, MR_OVERFLOW_DROP_OLDEST))
        return error_set(error, MR_EINVALID, "durability %d, route %d, dispatch %d or overflow %d is not one",
                         s->durability, s->route, s->dispatch, s->overflow);
    if (!span_valid(s->ttl_ms) || !span_valid(s->ack_timeout_ms) || !span_valid(s->retain_ms))
        return error_set(error, MR_EINVALID, "a time span is negative or too long");
    if (!memchr(s->dead_letter, 0, sizeof s->dead_letter) ||
        (s->dead_letter[0] && !name_valid(s->dead_letter)))
        return error_set(error, MR_EINVALID,
                         "dead-letter mailbox '%.128s', expected 1 to 128 of A-Z a-z 0-9 . _ -",
                         s->dead_letter);
    return MR_OK;
}

/* The strings stay the caller's. */
static void settings_fill(Mr__Settings *out, mr_settings *s) {
    mr__settings__init(out);
    out->partitions = s->partitions;
    out->replicas = s->replicas;
    out->durability = (uint32_t)s->durability;
    out->route = (uint32_t)s->route;
    out->dispatch = (uint32_t)s->dispatch;
    out->overflow = (uint32_t)s->overflow;
    out->no_default = s->no_default != 0;
    out->max_messages = s->max_messages;
    out->max_bytes = s->max_bytes;
    out->ttl_us = s->ttl_ms * USEC_MS;
    out->max_deliveries = s->max_deliveries;
    out->dead_letter = s->dead_letter;
    out->ack_timeout_us = s->ack_timeout_ms * USEC_MS;
    out->retain_us = s->retain_ms * USEC_MS;
    out->retain_bytes = s->retain_bytes;
}

/* The defaults, where the caller gave no settings or an older struct. */
static void settings_take(mr_settings *out, const mr_settings *in) {
    mr_settings_init(out);
    if (in)
        memcpy(out, in, in->struct_size < sizeof *out ? in->struct_size : sizeof *out);
}

static int name_check(const char *what, const char *name, mr_error *error) {
    if (name && name_valid(name))
        return MR_OK;
    return error_set(error, MR_EINVALID, "%s name '%.140s', expected 1 to 128 of A-Z a-z 0-9 . _ -", what,
                     name ? name : "");
}

/* --- mailboxes -------------------------------------------------------------- */

int mr_mailbox_create(mr_client *c, const char *mailbox, const mr_settings *settings, int64_t timeout_ms,
                      mr_error *error) {
    static const struct call_kind kind = {.changes = true};
    error_clear(error);
    mr_settings s;
    settings_take(&s, settings);
    int code = name_check("mailbox", mailbox, error);
    if (code == MR_OK)
        code = settings_check(&s, error);
    if (code != MR_OK)
        return code;
    Mr__Settings wire;
    settings_fill(&wire, &s);
    Mr__MailboxCreate what = MR__MAILBOX_CREATE__INIT;
    what.name = (char *)mailbox;
    what.settings = &wire;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = MR__REQUEST__WHAT_MAILBOX_CREATE;
    r.mailbox_create = &what;
    return call_run(c, &r, &kind, timeout_ms, NULL, error);
}

int mr_mailbox_update(mr_client *c, const char *mailbox, unsigned fields, const mr_settings *settings,
                      int64_t timeout_ms, mr_error *error) {
    static const struct call_kind kind = {.changes = true};
    error_clear(error);
    mr_settings s;
    settings_take(&s, settings);
    int code = name_check("mailbox", mailbox, error);
    if (code == MR_OK)
        code = settings_check(&s, error);
    if (code != MR_OK)
        return code;
    Mr__Settings wire;
    settings_fill(&wire, &s);
    Mr__MailboxUpdate what = MR__MAILBOX_UPDATE__INIT;
    what.name = (char *)mailbox;
    what.fields = fields;
    what.settings = &wire;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = MR__REQUEST__WHAT_MAILBOX_UPDATE;
    r.mailbox_update = &what;
    return call_run(c, &r, &kind, timeout_ms, NULL, error);
}

/* Requests that name a mailbox and nothing else. */
static int mailbox_request(mr_client *c, Mr__Request__WhatCase what_case, const char *mailbox,
                           const struct call_kind *kind, int64_t timeout_ms, Mr__Response **response,
                           mr_error *error) {
    error_clear(error);
    int code = name_check("mailbox", mailbox, error);
    if (code != MR_OK)
        return code;
    Mr__MailboxName what = MR__MAILBOX_NAME__INIT;
    what.name = (char *)mailbox;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = what_case;
    r.mailbox_show = &what; /* the union's members of this type stand in one place */
    return call_run(c, &r, kind, timeout_ms, response, error);
}

int mr_mailbox_delete(mr_client *c, const char *mailbox, int64_t timeout_ms, mr_error *error) {
    static const struct call_kind kind = {.changes = true, .gone_ok = MR_ENOTFOUND};
    return mailbox_request(c, MR__REQUEST__WHAT_MAILBOX_DELETE, mailbox, &kind, timeout_ms, NULL, error);
}

int mr_mailbox_purge(mr_client *c, const char *mailbox, int64_t timeout_ms, mr_error *error) {
    static const struct call_kind kind = {.changes = true, .once = true};
    return mailbox_request(c, MR__REQUEST__WHAT_MAILBOX_PURGE, mailbox, &kind, timeout_ms, NULL, error);
}

int mr_mailbox_recover(mr_client *c, const char *mailbox, const char *node, int64_t timeout_ms,
                       mr_error *error) {
    static const struct call_kind kind = {.changes = true, .once = true};
    error_clear(error);
    int code = name_check("mailbox", mailbox, error);
    if (code == MR_OK)
        code = name_check("node", node, error);
    if (code != MR_OK)
        return code;
    Mr__MailboxRecover what = MR__MAILBOX_RECOVER__INIT;
    what.name = (char *)mailbox;
    what.node = (char *)node;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = MR__REQUEST__WHAT_MAILBOX_RECOVER;
    r.mailbox_recover = &what;
    return call_run(c, &r, &kind, timeout_ms, NULL, error);
}

int mr_mailbox_show(mr_client *c, const char *mailbox, int64_t timeout_ms, const mr_mailbox_info **info,
                    mr_error *error) {
    Mr__Response *response = NULL;
    *info = NULL;
    int code =
        mailbox_request(c, MR__REQUEST__WHAT_MAILBOX_SHOW, mailbox, &question, timeout_ms, &response, error);
    return code == MR_OK ? info_mailbox(response, info, error) : code;
}

static int empty_request(mr_client *c, Mr__Request__WhatCase what_case, int64_t timeout_ms,
                         Mr__Response **response, mr_error *error) {
    error_clear(error);
    Mr__Empty what = MR__EMPTY__INIT;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = what_case;
    r.mailbox_list = &what;
    return call_run(c, &r, &question, timeout_ms, response, error);
}

int mr_mailboxes(mr_client *c, int64_t timeout_ms, const mr_mailbox_list **list, mr_error *error) {
    Mr__Response *response = NULL;
    *list = NULL;
    int code = empty_request(c, MR__REQUEST__WHAT_MAILBOX_LIST, timeout_ms, &response, error);
    return code == MR_OK ? info_mailboxes(response, list, error) : code;
}

int mr_cluster_status(mr_client *c, int64_t timeout_ms, const mr_cluster_info **info, mr_error *error) {
    Mr__Response *response = NULL;
    *info = NULL;
    int code = empty_request(c, MR__REQUEST__WHAT_CLUSTER_STATUS, timeout_ms, &response, error);
    return code == MR_OK ? info_cluster(response, info, error) : code;
}

/* --- subscriptions ---------------------------------------------------------- */

int mr_subscription_create(mr_client *c, const char *mailbox, const char *subscription, int from,
                           uint64_t value, int64_t timeout_ms, mr_error *error) {
    static const struct call_kind kind = {.changes = true, .gone_ok = MR_EEXISTS};
    error_clear(error);
    int code = name_check("mailbox", mailbox, error);
    if (code == MR_OK)
        code = name_check("subscription", subscription, error);
    if (code == MR_OK && (from < MR_FROM_NEW || from > MR_FROM_TIME))
        code = error_set(error, MR_EINVALID, "from %d, expected MR_FROM_NEW to MR_FROM_TIME", from);
    if (code != MR_OK)
        return code;
    Mr__SubscriptionCreate what = MR__SUBSCRIPTION_CREATE__INIT;
    what.mailbox = (char *)mailbox;
    what.name = (char *)subscription;
    what.from = (uint32_t)from;
    what.value = value;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = MR__REQUEST__WHAT_SUBSCRIPTION_CREATE;
    r.subscription_create = &what;
    return call_run(c, &r, &kind, timeout_ms, NULL, error);
}

int mr_subscription_delete(mr_client *c, const char *mailbox, const char *subscription, int64_t timeout_ms,
                           mr_error *error) {
    static const struct call_kind kind = {.changes = true, .gone_ok = MR_ENOTFOUND};
    error_clear(error);
    int code = name_check("mailbox", mailbox, error);
    if (code == MR_OK)
        code = name_check("subscription", subscription, error);
    if (code != MR_OK)
        return code;
    Mr__SubscriptionName what = MR__SUBSCRIPTION_NAME__INIT;
    what.mailbox = (char *)mailbox;
    what.name = (char *)subscription;
    Mr__Request r = MR__REQUEST__INIT;
    r.what_case = MR__REQUEST__WHAT_SUBSCRIPTION_DELETE;
    r.subscription_delete = &what;
    return call_run(c, &r, &kind, timeout_ms, NULL, error);
}

int mr_subscriptions(mr_client *c, const char *mailbox, int64_t timeout_ms, const mr_subscription_list **list,
                     mr_error *error) {
    Mr__Response *response = NULL;
    *list = NULL;
    int code = mailbox_request(c, MR__REQUEST__WHAT_SUBSCRIPTION_LIST, mailbox, &question, timeout_ms,
                               &response, error);
    return code == MR_OK ? info_subscriptions(response, list, error) : code;
}

// SPDX-License-Identifier: Apache-2.0
/* Requests: admin.c sends them, requests.c builds them, show.c reads answers. */
#ifndef MAILROOM_CLIENT_ADMIN_H
#define MAILROOM_CLIENT_ADMIN_H

#include <stdio.h>

#include "client/lib/client.h"

struct call_kind {
    bool changes; /* without an answer it may have been done */
    bool once;    /* not sent a second time */
    int gone_ok;  /* a repetition's answer that means the first one was done; 0: none */
};

/* response: the answer, freed by the caller with mr__response__free_unpacked;
 * NULL if only the code is of interest. */
int call_run(mr_client *c, const Mr__Request *request, const struct call_kind *kind, int64_t timeout_ms,
             Mr__Response **response, mr_error *error);

/* What mr_info_free frees: takes response over. MR_EPROTOCOL if it is of
 * another kind. */
int info_mailbox(Mr__Response *response, const mr_mailbox_info **out, mr_error *error);
int info_mailboxes(Mr__Response *response, const mr_mailbox_list **out, mr_error *error);
int info_subscriptions(Mr__Response *response, const mr_subscription_list **out, mr_error *error);
int info_cluster(Mr__Response *response, const mr_cluster_info **out, mr_error *error);

#endif

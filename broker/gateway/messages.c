// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "gateway/gateway_private.h"

bool settings_of_message(const Mr__Settings *in, struct mailbox_settings *out) {
    if (!in || strlen(in->dead_letter) > NAME_BYTES_MAX)
        return false;
    *out = (struct mailbox_settings){.partitions = in->partitions,
                                     .replicas = in->replicas,
                                     .durability = (enum durability)in->durability,
                                     .route = (enum route)in->route,
                                     .dispatch = (enum dispatch)in->dispatch,
                                     .overflow = (enum overflow)in->overflow,
                                     .no_default = in->no_default,
                                     .max_messages = in->max_messages,
                                     .max_bytes = in->max_bytes,
                                     .ttl = in->ttl_us,
                                     .max_deliveries = in->max_deliveries,
                                     .ack_timeout = in->ack_timeout_us,
                                     .retain_time = in->retain_us,
                                     .retain_bytes = in->retain_bytes};
    strcpy(out->dead_letter, in->dead_letter);
    return true;
}

void settings_to_message(const struct mailbox_settings *in, Mr__Settings *out) {
    mr__settings__init(out);
    out->partitions = in->partitions;
    out->replicas = in->replicas;
    out->durability = in->durability;
    out->route = in->route;
    out->dispatch = in->dispatch;
    out->overflow = in->overflow;
    out->no_default = in->no_default;
    out->max_messages = in->max_messages;
    out->max_bytes = in->max_bytes;
    out->ttl_us = in->ttl;
    out->max_deliveries = in->max_deliveries;
    out->dead_letter = (char *)(uintptr_t)in->dead_letter;
    out->ack_timeout_us = in->ack_timeout;
    out->retain_us = in->retain_time;
    out->retain_bytes = in->retain_bytes;
}

// SPDX-License-Identifier: Apache-2.0
/* A mailbox's settings, as the command line names them (DESIGN section 10). */
#ifndef MAILROOM_BASE_SETTINGS_H
#define MAILROOM_BASE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/codec.h"
#include "base/err.h"
#include "base/units.h"

enum {
    NAME_BYTES_MAX = 128, /* mailbox, subscription, node names: [A-Za-z0-9._-]{1,128} */
    MAILBOX_PARTITIONS_MAX = 1024,
    MAILBOX_REPLICAS_MAX = 7
};

enum durability { DURABILITY_SYNCED, DURABILITY_WRITTEN, DURABILITY_NONE };
enum route { ROUTE_ROUND_ROBIN, ROUTE_LEAST_LOADED, ROUTE_KEY };
enum dispatch { DISPATCH_ROUND_ROBIN, DISPATCH_LEAST_LOADED, DISPATCH_KEY, DISPATCH_EXCLUSIVE };
enum overflow { OVERFLOW_REJECT, OVERFLOW_DROP_OLDEST };

struct mailbox_settings {
    uint32_t partitions;        /* fixed at creation */
    uint32_t replicas;          /* wanted; fewer while the cluster has fewer nodes */
    enum durability durability;
    enum route route;
    enum dispatch dispatch;
    enum overflow overflow;
    bool no_default;            /* made without the subscription "default" */
    uint64_t max_messages;      /* of the whole mailbox, unsettled somewhere; 0: no limit */
    uint64_t max_bytes;
    usec_t ttl;                 /* 0: none */
    uint32_t max_deliveries;    /* 0: no limit */
    char dead_letter[NAME_BYTES_MAX + 1]; /* "": none */
    usec_t ack_timeout;
    usec_t retain_time;         /* keep settled messages this long; 0: not */
    uint64_t retain_bytes;      /* or this many bytes; 0: not */
};

enum { ACK_TIMEOUT_DEFAULT_US = 30000000 };

void settings_default(struct mailbox_settings *s); /* 1 partition, 3 replicas, synced, round-robin twice, 30 s */
/* What a mailbox keeps as it was made, and the default of all that can be updated:
 * every replica's log begins with these, whenever it is opened; the rest comes by
 * SETTINGS entries. */
void settings_unchanging(const struct mailbox_settings *s, struct mailbox_settings *out);
bool settings_equal(const struct mailbox_settings *a, const struct mailbox_settings *b);
void settings_encode(const struct mailbox_settings *s, struct encoder *e);
bool settings_decode(struct decoder *d, struct mailbox_settings *out);
bool name_valid(const char *name);
/* Copies a name, cut to NAME_BYTES_MAX. */
void name_copy(char out[NAME_BYTES_MAX + 1], const char *name);

/* The words of the command line; false: unknown word. The name functions return
 * static strings. */
const char *durability_name(enum durability v);
const char *route_name(enum route v);
const char *dispatch_name(enum dispatch v);
const char *overflow_name(enum overflow v);
bool durability_parse(const char *text, enum durability *out);
bool route_parse(const char *text, enum route *out);
bool dispatch_parse(const char *text, enum dispatch *out);
bool overflow_parse(const char *text, enum overflow *out);

#endif

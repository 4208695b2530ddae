// SPDX-License-Identifier: Apache-2.0
/* Messages: made, copied whole, freed. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "sim.h"

/* Those that come in crowds take no more room than they need. */
#define UP_TO(member) (offsetof(struct message, member) + sizeof((struct message *)0)->member)
static size_t bytes_of(enum message_type type) {
    switch (type) {
    case M_APPEND:
        return UP_TO(append);
    case M_APPENDED:
        return UP_TO(appended);
    case M_FENCED:
        return UP_TO(promise);
    case M_CONFIRM:
    case M_CONFIRMED:
    case M_HEARTBEAT:
    case M_HEARTBEAT_SEEN:
    case M_PING:
    case M_PONG:
    case M_LOAD:
        return UP_TO(beat);
    case M_RECORD:
        return UP_TO(record);
    case M_SEAL:
        return UP_TO(seal);
    case M_SEALED:
        return UP_TO(sealed);
    case M_REPORT:
        return UP_TO(report);
    case M_LED:
    case M_NOT_LEADING:
    case M_PRESENTED:
        return UP_TO(led);
    default:
        return sizeof(struct message);
    }
}

struct message *message_new(enum message_type type, uint64_t partition) {
    struct message *m = xcalloc(1, bytes_of(type));
    m->type = type;
    m->partition = partition;
    return m;
}

static struct body *copy(const struct body *b) {
    return b ? body_copy(b->data, b->size) : NULL;
}

static void copy_entries(struct message *m) {
    struct entry *from = m->append.entries;
    m->append.entries = xcalloc(m->append.count ? m->append.count : 1, sizeof *from);
    for (size_t i = 0; i < m->append.count; i++) {
        m->append.entries[i] = from[i];
        m->append.entries[i].body = copy(from[i].body);
    }
}

/* Bodies too: what one node does to its bytes no other sees. */
struct message *message_copy(const struct message *from) {
    struct message *m = xmalloc(bytes_of(from->type));
    memcpy(m, from, bytes_of(from->type));
    m->next = NULL;
    switch (m->type) {
    case M_APPEND:
        copy_entries(m);
        break;
    case M_PIECE:
        m->piece.state = copy(from->piece.state);
        m->piece.batch.body = copy(from->piece.batch.body);
        break;
    case M_PROPOSE:
        m->propose.command = copy(from->propose.command);
        break;
    case M_PUBLISH:
        m->publish.body = copy(from->publish.body);
        break;
    case M_DELIVERY:
        m->delivery.run = copy(from->delivery.run);
        break;
    case M_FORWARD:
        m->forward.body = copy(from->forward.body);
        break;
    default:
        break;
    }
    return m;
}

void message_free(struct message *m) {
    switch (m->type) {
    case M_APPEND:
        for (size_t i = 0; i < m->append.count; i++)
            body_drop(m->append.entries[i].body);
        free(m->append.entries);
        break;
    case M_PIECE:
        body_drop(m->piece.state);
        body_drop(m->piece.batch.body);
        break;
    case M_PROPOSE:
        body_drop(m->propose.command);
        break;
    case M_PUBLISH:
        body_drop(m->publish.body);
        break;
    case M_DELIVERY:
        body_drop(m->delivery.run);
        break;
    case M_FORWARD:
        body_drop(m->forward.body);
        break;
    default:
        break;
    }
    free(m);
}

void messages_free(struct message *m) {
    while (m) {
        struct message *next = m->next;
        message_free(m);
        m = next;
    }
}

static const char *const names[M_TYPES] = {
    "append",      "appended",  "piece",     "pieced",    "confirm",     "confirmed", "fenced",
    "pre-vote",    "pre-voted", "vote",      "voted",     "timeout-now", "heartbeat", "heartbeat-seen",
    "introduce",   "propose",   "proposed",  "record",    "complete",    "lead",      "seal",
    "drop",        "hold",      "ping",      "pong",      "sealed",      "report",    "load",
    "publish",     "receipt",   "refused",   "attach",    "attached",    "detach",    "lend",
    "settle",      "settled",   "presented", "led",       "not-leading", "delivery",  "ready",
    "credit-back", "detached",  "forward",   "forwarded", "purge"};

const char *message_name(enum message_type type) {
    return names[type];
}

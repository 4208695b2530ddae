// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "replica/core.h"

const char *replica_effect_name(enum replica_effect_type type) {
    static const char *const names[] = {
#define X(name) #name,
        REPLICA_EFFECTS(X)
#undef X
    };
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "?";
}

struct replica_effect *fx_push(struct replica_effects *fx, enum replica_effect_type type) {
    xgrow(&fx->items, &fx->capacity, fx->count + 1, sizeof *fx->items);
    struct replica_effect *e = &fx->items[fx->count++];
    memset(e, 0, sizeof *e);
    e->type = type;
    return e;
}

struct replica_effect *fx_journal(struct replica *r, struct replica_effects *fx,
                                  enum replica_effect_type type) {
    r->mark++;
    return fx_push(fx, type);
}

void fx_epoch(struct replica_effects *fx, enum replica_effect_type type, uint64_t epoch) {
    fx_push(fx, type)->epoch = epoch;
}

static void drop_append(struct replica_append *m) {
    for (size_t i = 0; i < m->count; i++)
        body_drop(m->entries[i].body);
    free(m->entries);
}

static void drop(struct replica_effect *e) {
    switch (e->type) {
    case REPLICA_WRITE:
    case REPLICA_STAGE:
    case REPLICA_APPLY:
        body_drop(e->entry.body);
        break;
    case REPLICA_SEND_APPEND:
        drop_append(&e->append);
        break;
    case REPLICA_SEND_PIECE:
        body_drop(e->piece.is_batch ? e->piece.batch.body : e->piece.state);
        break;
    case REPLICA_INSTALL:
    case REPLICA_INSTALLED:
        body_drop(e->install.state);
        free(e->install.live);
        break;
    default:
        break;
    }
}

void replica_effects_clear(struct replica_effects *fx) {
    for (size_t i = 0; i < fx->count; i++)
        drop(&fx->items[i]);
    fx->count = 0;
}

void replica_effects_free(struct replica_effects *fx) {
    replica_effects_clear(fx);
    free(fx->items);
    *fx = (struct replica_effects){0};
}

// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/xalloc.h"
#include "cluster/control_private.h"

enum { LINES_A_TURN_MAX = 16 };

struct control_effect *control_effect_add(struct control_effects *fx, enum control_effect_type type,
                                          member_t member, uint64_t partition) {
    xgrow(&fx->items, &fx->capacity, fx->count + 1, sizeof *fx->items);
    struct control_effect *e = &fx->items[fx->count++];
    memset(e, 0, sizeof *e);
    e->type = type;
    e->member = member;
    e->partition = partition;
    return e;
}

void control_effects_clear(struct control_effects *fx) {
    for (size_t i = 0; i < fx->count; i++) {
        if (fx->items[i].type == CONTROL_PROPOSE)
            body_drop(fx->items[i].propose.command);
    }
    fx->count = 0;
}

void control_effects_free(struct control_effects *fx) {
    control_effects_clear(fx);
    free(fx->items);
    *fx = (struct control_effects){0};
}

void control_send_record(const struct metadata_partition *p, struct control_effects *fx) {
    const struct replica_record *r = &p->record;
    const struct replica_set *sets[] = {&r->current, &r->previous, &r->learners};
    member_t told[3 * REPLICA_SET_MAX + 1];
    size_t count = 0;
    told[count++] = r->leader;
    for (size_t k = 0; k < 3; k++) {
        for (uint32_t i = 0; i < sets[k]->count; i++) {
            bool has = false;
            for (size_t j = 0; j < count; j++)
                has |= told[j] == sets[k]->members[i];
            if (!has)
                told[count++] = sets[k]->members[i];
        }
    }
    for (size_t i = 0; i < count; i++)
        control_effect_add(fx, CONTROL_SEND_RECORD, told[i], p->id);
}

void control_say(struct control *c, struct control_effects *fx, const char *format, ...) {
    if (c->said++ >= LINES_A_TURN_MAX)
        return;
    struct control_effect *e = control_effect_add(fx, CONTROL_SAY, 0, 0);
    va_list args;
    va_start(args, format);
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
}

uint64_t control_propose(struct control *c, const struct command *command, struct control_effects *fx) {
    struct encoder e = {0};
    command_encode(command, &e);
    struct control_effect *f = control_effect_add(fx, CONTROL_PROPOSE, 0, 0);
    f->propose.command = encoder_body(&e);
    f->propose.tag = ++c->next_tag;
    return f->propose.tag;
}

const char *control_name(const struct control *c, const struct metadata_partition *p,
                         char out[NAME_BYTES_MAX + 16]) {
    const struct metadata_mailbox *b = metadata_mailbox(c->m, p->mailbox);
    snprintf(out, NAME_BYTES_MAX + 16, "%s/%u", b ? b->name : "?", p->number);
    return out;
}

const char *control_node(const struct control *c, member_t member) {
    const struct metadata_node *n = metadata_node_of(c->m, member, NULL);
    return n ? n->info.name : "nobody";
}

const char *partition_state_name(enum partition_state s) {
    static const char *const names[] = {"ok",          "electing",    "activating",
                                        "no-majority", "quarantined", "damaged"};
    return names[s];
}

static bool set_majority(const struct replica_set *set, const struct detector *d) {
    uint32_t usable = 0;
    for (uint32_t i = 0; i < set->count; i++)
        usable += detector_usable(detector_member(d, set->members[i]));
    return usable * 2 > set->count;
}

enum partition_state partition_state(const struct metadata_partition *p, const struct detector *d) {
    const struct replica_record *r = &p->record;
    if (metadata_quarantined(p))
        return PARTITION_QUARANTINED;
    if (!set_majority(r->activating ? &r->previous : &r->current, d))
        return PARTITION_NO_MAJORITY;
    if (!detector_usable(detector_member(d, r->leader)))
        return PARTITION_ELECTING;
    return r->activating ? PARTITION_ACTIVATING : PARTITION_OK;
}

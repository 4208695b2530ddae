// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "mailbox/state.h"

struct mailbox_effect *effect_add(struct mailbox_effects *fx, enum mailbox_effect_type type) {
    xgrow(&fx->items, &fx->capacity, fx->count + 1, sizeof *fx->items);
    struct mailbox_effect *e = &fx->items[fx->count++];
    *e = (struct mailbox_effect){.type = type};
    return e;
}

static void effect_drop(struct mailbox_effect *e) {
    if (e->type == MAILBOX_PROPOSE)
        body_drop(e->propose.body);
    else if (e->type == MAILBOX_DELIVER)
        body_drop(e->deliver.body);
    else if (e->type == MAILBOX_DEAD_LETTER)
        body_drop(e->dead_letter.body);
    else if (e->type == MAILBOX_SETTLED)
        free(e->settled.results);
}

void mailbox_effects_clear(struct mailbox_effects *fx) {
    for (size_t i = 0; i < fx->count; i++)
        effect_drop(&fx->items[i]);
    fx->count = 0;
}

void mailbox_effects_free(struct mailbox_effects *fx) {
    mailbox_effects_clear(fx);
    free(fx->items);
    *fx = (struct mailbox_effects){0};
}

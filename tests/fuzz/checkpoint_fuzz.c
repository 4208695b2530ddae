// SPDX-License-Identifier: Apache-2.0
/* Checkpoints of a partition, as a leader's pieces or a disk bring them: the
 * replica's part and the mailbox's. */
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "base/codec.h"
#include "base/entry.h"
#include "base/xalloc.h"
#include "fuzz.h"
#include "mailbox/mailbox.h"
#include "proto/batch.h"
#include "replica/replica.h"

static struct mailbox *fresh(void) {
    struct mailbox_options o = {.name = "orders", .id = 5};
    settings_default(&o.settings);
    return mailbox_new(&o);
}

static void check_mailbox(struct fuzz_input *in) {
    struct mailbox *m = fresh();
    struct decoder d = decoder_of(in->data, in->size);
    if (mailbox_restore(m, &d)) {
        struct encoder first = {0}, second = {0};
        struct mailbox *copy = fresh();
        size_t count;
        mailbox_checkpoint(m, &first);
        d = decoder_of(first.data, first.size);
        EXPECT(mailbox_restore(copy, &d));
        mailbox_checkpoint(copy, &second);
        EXPECT(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
        free(mailbox_live(m, &count));
        encoder_free(&first);
        encoder_free(&second);
        mailbox_free(copy);
    }
    mailbox_free(m);
}

static void check_replica(struct fuzz_input *in) {
    struct replica_state state = {0};
    struct decoder d = decoder_of(in->data, in->size);
    replica_decode(&d, &state);
    free((void *)(uintptr_t)state.epochs);
    struct body *body = body_copy(in->data, in->size);
    struct replica_set set;
    replica_config_decode(body, &set);
    body_drop(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    if (fuzz_take(&in, 1) & 1)
        check_mailbox(&in);
    else
        check_replica(&in);
    return 0;
}

/* ---- seeds: a mailbox that has taken some batches ---- */

static void take_effects(struct mailbox *m, struct mailbox_effects *fx, uint64_t *index) {
    for (size_t i = 0; i < fx->count; i++) {
        if (fx->items[i].type != MAILBOX_PROPOSE)
            continue;
        struct entry entry = {.index = ++*index,
                              .epoch = 1,
                              .type = fx->items[i].propose.type,
                              .body = body_keep(fx->items[i].propose.body)};
        struct mailbox_effects more = {0};
        mailbox_apply(m, &entry, 1000, &more);
        body_drop(entry.body);
        mailbox_effects_free(&more);
    }
    mailbox_effects_clear(fx);
}

static void fill(struct mailbox *m) {
    struct mailbox_effects fx = {0};
    uint64_t index = 0;
    struct producer_id id = {{7}};
    mailbox_lead(m, 1, NULL, 0, 1000, 1000, 1000, &fx);
    mailbox_allow(m, USEC_NEVER, 1000, &fx);
    take_effects(m, &fx, &index);
    for (uint64_t sequence = 1; sequence <= 4; sequence++) {
        struct batch_builder b = {0};
        for (int i = 0; i < 3; i++)
            batch_add(&b, "k", 1, NULL, 0, "text", 4);
        batch_finish(&b, &id, sequence, sequence - 1, 5, 0);
        struct body *body = body_copy(b.data, b.size);
        mailbox_publish(m, (struct mailbox_origin){0}, body, 1000, 1000, false, &fx);
        body_drop(body);
        batch_builder_free(&b);
        take_effects(m, &fx, &index);
    }
    mailbox_effects_free(&fx);
}

void fuzz_seeds(void) {
    struct encoder e = {0};
    struct mailbox *m = fresh();
    fill(m);
    encode_u8(&e, 1);
    mailbox_checkpoint(m, &e);
    fuzz_seed(e.data, e.size);
    mailbox_free(m);
    encoder_free(&e);
    struct replica_options options = {.self = 1, .synced = true};
    struct replica_epoch_start start = {0};
    struct replica_state state = {
        .promise = 3, .base_index = 9, .base_epoch = 2, .epochs = &start, .epochs_count = 0};
    struct replica *r = replica_new(&options, &state);
    encode_u8(&e, 0);
    replica_encode(r, 9, &e);
    fuzz_seed(e.data, e.size);
    replica_free(r);
    encoder_free(&e);
}

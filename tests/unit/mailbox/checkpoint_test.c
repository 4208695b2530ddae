// SPDX-License-Identifier: Apache-2.0
/* Checkpoints: what they carry over, and what is no checkpoint. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "world.h"

static struct mailbox *make(const struct mailbox_settings *s) {
    return mailbox_new(&(struct mailbox_options){.name = "orders", .id = 7, .settings = *s});
}

/* Something of everything: settled, returned, delayed, dying, two subscriptions. */
static void fill(struct world *w) {
    struct mailbox_settings s = world_settings();
    s.dispatch = DISPATCH_KEY;
    strcpy(s.dead_letter, "dlq");
    w->keys = true;
    world_open(w, &s);
    mailbox_subscribe(w->leader, "audit", FROM_NEW, 0, &w->fx);
    world_run(w);
    world_attach(w, 'A', 100);
    for (uint64_t i = 1; i <= 6; i++)
        world_publish(w, 'p', i, i - 1, 5);
    world_publish(w, 'q', 1, 0, 1);
    world_ack(w, 'A', 3, 9);
    world_settle(w, 'A', SETTLE_NACK, 1, 1, 0);
    world_settle(w, 'A', SETTLE_REJECT, 2, 1, 0);
    world_settle_with(w, 'A',
                      (struct mailbox_settlement){
                          .kind = SETTLE_NACK, .first_offset = 14, .count = 3, .epoch = 1, .delay = USEC_S});
}

static struct encoder bytes_of(const struct mailbox *m) {
    struct encoder e = {0};
    mailbox_checkpoint(m, &e);
    return e;
}

Test(checkpoint, a_restored_mailbox_leads_as_the_other_would) {
    struct world w = {0};
    fill(&w);
    struct encoder e = bytes_of(w.follower);
    struct mailbox *copy = make(&w.settings);
    struct decoder d = decoder_of(e.data, e.size);
    cr_assert(mailbox_restore(copy, &d));
    encoder_free(&e);
    mailbox_free(w.follower);
    w.follower = copy;
    world_fail_over(&w, NULL, 0);
    world_forget(&w);
    world_attach(&w, 'B', 100);
    /* keys go 0 1 2 0 1 in each batch; 14 to 16, of keys 1, 0 and 1, are delayed */
    EXPECT(&w,
           "B gets 0 #1 attempt 1\nB gets 1 #2 attempt 2\nB gets 12-13 #1 attempt 1\nB gets 17 #1 attempt 1\n"
           "B gets 22 #1 attempt 1\nB gets 27 #1 attempt 1\n");
    world_publish(&w, 'p', 6, 5, 5);
    world_publish(&w, 'p', 8, 7, 5);
    EXPECT(&w, "receipt p/6 at 25 again\nrefused p/8 OUT_OF_ORDER last 6\n");
    world_close(&w);
}

Test(checkpoint, other_bytes_are_refused_or_harmless) {
    struct world w = {0};
    fill(&w);
    struct encoder e = bytes_of(w.leader);
    struct rng rng = {1};
    uint8_t *copy = malloc(e.size);
    unsigned refused = 0;
    for (int i = 0; i < 20000; i++) {
        memcpy(copy, e.data, e.size);
        for (uint64_t n = 1 + rng_below(&rng, 3); n > 0; n--)
            copy[rng_below(&rng, e.size)] = (uint8_t)rng_next(&rng);
        struct mailbox *m = make(&w.settings);
        struct decoder d = decoder_of(copy, rng_below(&rng, 10) ? e.size : rng_below(&rng, e.size));
        struct subscription_stats stats;
        bool good = mailbox_restore(m, &d);
        refused += !good;
        cr_assert(mailbox_subscription_stats(m, 0, &stats) || good);
        if (!good)
            cr_assert(eq(u64, mailbox_next_offset(m), 0));
        mailbox_free(m);
    }
    cr_expect(gt(uint, refused, 5000));
    free(copy);
    encoder_free(&e);
    world_close(&w);
}

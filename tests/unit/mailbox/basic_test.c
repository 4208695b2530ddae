// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "world.h"

Test(mailbox, publish_deliver_ack) {
    struct world w = {0};
    world_open(&w, NULL);
    world_publish(&w, 'p', 1, 0, 10);
    EXPECT(&w, "receipt p/1 at 0\n");
    world_attach(&w, 'A', 0);
    EXPECT(&w, "ready 1: 10\n");
    world_credit(&w, 'A', 4);
    EXPECT(&w, "A gets 0-3\n");
    world_credit(&w, 'A', 100);
    EXPECT(&w, "A gets 4-9\n");
    world_ack(&w, 'A', 0, 10);
    EXPECT(&w, "dead batch 1\nsettled done\n");
    world_ack(&w, 'A', 3, 1);
    EXPECT(&w, "settled already\n");
    struct subscription_stats s = world_stats(&w);
    cr_expect(eq(u64, s.acked, 10));
    cr_expect(eq(u64, s.leased, 0));
    world_close(&w);
}

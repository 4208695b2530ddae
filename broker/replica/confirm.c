// SPDX-License-Identifier: Apache-2.0
/*
 * The lease: a leader delivers while a majority has answered something it sent
 * within REPLICA_LEASE_US. Counted from sending, so the lease has run out before
 * a new leader that waited as long from its seal begins. A damaged peer is in no
 * majority that seals, so it confirms nothing.
 */
#include "replica/core.h"

void replica_confirm(struct replica *r, member_t peer, usec_t sent_at) {
    struct peer *p = r->leading ? lead_peer(r, peer) : NULL;
    if (p && sent_at > p->confirmed)
        p->confirmed = sent_at;
}

static uint64_t confirmed_of(const struct peer *p) {
    return (uint64_t)p->confirmed;
}

usec_t replica_lease_until(const struct replica *r, usec_t now) {
    if (!r->leading ||
        (r->record.wait_lease && !MUTATED(lease_not_waited) && now < r->led_since + REPLICA_LEASE_US))
        return 0;
    uint64_t confirmed = sets_majority(r, confirmed_of, (uint64_t)USEC_NEVER);
    if (confirmed == (uint64_t)USEC_NEVER || MUTATED(lease_unconfirmed))
        return USEC_NEVER;
    usec_t until = (usec_t)confirmed + REPLICA_LEASE_US;
    return confirmed && until > now ? until : 0;
}

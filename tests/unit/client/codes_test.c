// SPDX-License-Identifier: Apache-2.0
/* The public numbers are those of the frames. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/err.h"
#include "base/settings.h"
#include "client/include/mailroom.h"
#include "mailbox/mailbox.h"
#include "proto/batch.h"
#include "wire/frames.h"

/* A code that is not in the public header has no MR_E name here: does not compile. */
enum {
    MR_EOK = MR_OK,
    MR_ENOT_FOUND = MR_ENOTFOUND,
    MR_ETOO_LARGE = MR_ETOOLARGE,
    MR_ENOT_LEADER = MR_ENOTLEADER,
    MR_EOUT_OF_ORDER = MR_EOUTOFORDER,
    MR_ETOO_LATE = MR_ETOOLATE,
    MR_EDISK_FULL = MR_EDISKFULL,
    MR_ENO_MEMORY = MR_ENOMEMORY
};

Test(codes, every_error_code_is_public) {
#define X(name, number, advice, text) cr_assert((int)MR_E##name == (int)ERR_##name, "%s", #name);
    ERR_LIST(X)
#undef X
}

Test(codes, advice_is_the_brokers) {
    cr_assert(mr_error_advice(MR_EFULL) == MR_RETRYABLE);
    cr_assert(mr_error_advice(MR_EUNKNOWN) == MR_MAYBE);
    cr_assert(mr_error_advice(MR_ENOTFOUND) == MR_FATAL);
    cr_assert(mr_error_advice(12345) == MR_FATAL);
    cr_assert(strcmp(mr_error_name(MR_EFULL), "FULL") == 0);
}

Test(codes, words_of_settings_settlements_and_subscriptions) {
    cr_assert((int)MR_NONE == (int)DURABILITY_NONE && (int)MR_WRITTEN == (int)DURABILITY_WRITTEN);
    cr_assert((int)MR_ROUTE_KEY == (int)ROUTE_KEY && (int)MR_ROUTE_LEAST_LOADED == (int)ROUTE_LEAST_LOADED);
    cr_assert((int)MR_DISPATCH_EXCLUSIVE == (int)DISPATCH_EXCLUSIVE &&
              (int)MR_DISPATCH_KEY == (int)DISPATCH_KEY);
    cr_assert((int)MR_OVERFLOW_DROP_OLDEST == (int)OVERFLOW_DROP_OLDEST);
    cr_assert((int)MR_ACK == (int)SETTLE_ACK && (int)MR_NACK == (int)SETTLE_NACK);
    cr_assert((int)MR_REJECT == (int)SETTLE_REJECT && (int)MR_EXTEND == (int)SETTLE_EXTEND);
    cr_assert((int)MR_RELEASE == (int)SETTLE_RELEASE);
    cr_assert((int)MR_SETTLE_DONE == (int)SETTLE_DONE && (int)MR_SETTLE_ALREADY == (int)SETTLE_ALREADY);
    cr_assert((int)MR_SETTLE_TOO_LATE == (int)SETTLE_TOO_LATE && (int)SETTLE_UNKNOWN == 3);
    cr_assert((int)MR_FROM_NEW == (int)FROM_NEW && (int)MR_FROM_FIRST == (int)FROM_FIRST);
    cr_assert((int)MR_FROM_OFFSET == (int)FROM_OFFSET && (int)MR_FROM_TIME == (int)FROM_TIME);
    cr_assert((int)MR_UPDATE_RETAIN == (int)MR__UPDATE_FIELD__UPDATE_RETAIN);
    cr_assert((int)MR_UPDATE_DEAD_LETTER == (int)MR__UPDATE_FIELD__UPDATE_DEAD_LETTER);
    cr_assert((int)MR_KEY_BYTES_MAX == (int)BATCH_KEY_BYTES_MAX &&
              (int)MR_HEADERS_MAX == (int)BATCH_HEADERS_MAX);
    cr_assert((int)MR_NAME_BYTES_MAX == (int)NAME_BYTES_MAX);
}

Test(codes, settings_have_the_brokers_defaults) {
    struct mailbox_settings d;
    mr_settings s;
    settings_default(&d);
    mr_settings_init(&s);
    cr_assert(s.struct_size == sizeof s && s.partitions == d.partitions && s.replicas == d.replicas);
    cr_assert(s.ack_timeout_ms == d.ack_timeout / USEC_MS && s.durability == (int)d.durability);
    cr_assert(mr_dispatch_parse("exclusive") == MR_DISPATCH_EXCLUSIVE && mr_dispatch_parse("x") == -1);
    cr_assert(strcmp(mr_route_name(MR_ROUTE_LEAST_LOADED), "least-loaded") == 0);
}

// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/xalloc.h"

static void trace(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void trace(struct world *w, const char *format, ...) {
    va_list ap;
    xgrow(&w->trace, &w->trace_capacity, w->trace_size + 512, 1);
    va_start(ap, format);
    w->trace_size += (size_t)vsnprintf(w->trace + w->trace_size, 512, format, ap);
    va_end(ap);
}

static const char *const result_names[] = {[SETTLE_DONE] = "done",
                                           [SETTLE_ALREADY] = "already",
                                           [SETTLE_TOO_LATE] = "too-late",
                                           [SETTLE_UNKNOWN] = "unknown"};

static void trace_deliver(struct world *w, const struct mailbox_effect *e) {
    trace(w, "%c gets %llu", e->deliver.consumer.bytes[0], (unsigned long long)e->deliver.first_offset);
    if (e->deliver.count > 1)
        trace(w, "-%llu", (unsigned long long)(e->deliver.first_offset + e->deliver.count - 1));
    if (strcmp(e->deliver.subscription, "default") != 0)
        trace(w, " of %s", e->deliver.subscription);
    if (e->deliver.delivery_number || e->deliver.attempt > 1)
        trace(w, " #%u attempt %u", e->deliver.delivery_number, e->deliver.attempt);
    trace(w, "\n");
}

static void trace_settled(struct world *w, const struct mailbox_effect *e) {
    trace(w, "settled");
    for (size_t i = 0; i < e->settled.count; i++)
        trace(w, " %s", result_names[e->settled.results[i]]);
    trace(w, "\n");
}

static void trace_dead_letter(struct world *w, const struct mailbox_effect *e) {
    trace(w, "dead letter %llu to %s", (unsigned long long)e->dead_letter.offset, e->dead_letter.target);
    if (e->dead_letter.target_partition)
        trace(w, "/%u", e->dead_letter.target_partition);
    trace(w, ", intent %llu after %llu, attempts %u, %s\n", (unsigned long long)e->dead_letter.intent,
          (unsigned long long)e->dead_letter.after, e->dead_letter.attempts, e->dead_letter.reason);
}

static void append(struct world *w, const struct mailbox_effect *e) {
    xgrow(&w->log, &w->log_capacity, w->log_count + 1, sizeof *w->log);
    w->log[w->log_count] = (struct entry){.index = w->log_count + 1,
                                          .epoch = w->epoch,
                                          .type = e->propose.type,
                                          .body = body_keep(e->propose.body)};
    w->log_count++;
}

static void trace_effect(struct world *w, const struct mailbox_effect *e) {
    switch (e->type) {
    case MAILBOX_PROPOSE:
        append(w, e);
        break;
    case MAILBOX_RECEIPT:
        trace(w, "receipt %c/%llu", e->receipt.producer.bytes[0], (unsigned long long)e->receipt.sequence);
        if (e->receipt.base_offset != UINT64_MAX)
            trace(w, " at %llu", (unsigned long long)e->receipt.base_offset);
        trace(w, "%s\n", e->receipt.duplicate ? " again" : "");
        break;
    case MAILBOX_REFUSED:
        trace(w, "refused %c/%llu %s", e->refused.producer.bytes[0], (unsigned long long)e->refused.sequence,
              err_name(e->refused.code));
        if (e->refused.last)
            trace(w, " last %llu", (unsigned long long)e->refused.last);
        trace(w, "\n");
        break;
    case MAILBOX_DELIVER:
        trace_deliver(w, e);
        break;
    case MAILBOX_SETTLED:
        trace_settled(w, e);
        break;
    case MAILBOX_READY:
        trace(w, "ready %llu: %llu\n", (unsigned long long)e->ready.gateway,
              (unsigned long long)e->ready.messages);
        break;
    case MAILBOX_CREDIT_BACK:
        trace(w, "%c gives back %u\n", e->credit_back.consumer.bytes[0], e->credit_back.credit);
        break;
    case MAILBOX_DETACHED:
        trace(w, "%c detached from %llu: %s\n", e->detached.consumer.bytes[0],
              (unsigned long long)e->detached.gateway, err_name(e->detached.reason));
        break;
    case MAILBOX_DEAD_LETTER:
        trace_dead_letter(w, e);
        break;
    case MAILBOX_DEAD_BATCH:
        trace(w, "dead batch %llu\n", (unsigned long long)e->index);
        break;
    }
}

static void take_effects(struct world *w) {
    struct mailbox_effects fx = w->fx;
    w->fx = (struct mailbox_effects){0};
    for (size_t i = 0; i < fx.count; i++)
        trace_effect(w, &fx.items[i]);
    mailbox_effects_free(&fx);
}

static void check_conserved(struct mailbox *m) {
    struct subscription_stats s;
    for (size_t i = 0; mailbox_subscription_stats(m, i, &s); i++)
        cr_assert(eq(u64, s.published,
                     s.ready + s.leased + s.delayed + s.dying + s.acked + s.dead + s.expired + s.dropped +
                         s.purged));
}

void world_commit(struct world *w, size_t entries) {
    struct mailbox_effects unused = {0};
    for (; entries > 0 && w->committed < w->log_count; entries--) {
        size_t i = w->committed++;
        mailbox_apply(w->leader, &w->log[i], w->now, &w->fx);
        mailbox_apply(w->follower, &w->log[i], w->now, &unused);
        mailbox_effects_clear(&unused);
        take_effects(w);
        check_conserved(w->leader);
        check_conserved(w->follower);
    }
    mailbox_effects_free(&unused);
}

void world_run(struct world *w) {
    take_effects(w);
    while (!w->hold && w->committed < w->log_count)
        world_commit(w, 1);
    check_conserved(w->leader);
}

void world_turn(struct world *w) {
    world_run(w);
    mailbox_pump(w->leader, w->now, w->now + WORLD_STAMP, &w->fx);
    world_run(w);
}

void world_wait(struct world *w, usec_t time) {
    usec_t until = w->now + time;
    for (;;) {
        usec_t next = mailbox_deadline(w->leader);
        w->now = next < until ? (next > w->now ? next : w->now) : until;
        mailbox_tick(w->leader, w->now, w->now + WORLD_STAMP, &w->fx);
        world_turn(w);
        if (w->now >= until && mailbox_deadline(w->leader) > until)
            return;
    }
}

struct mailbox_settings world_settings(void) {
    struct mailbox_settings s;
    settings_default(&s);
    return s;
}

static struct mailbox *make(const struct world *w) {
    return mailbox_new(&(struct mailbox_options){
        .name = "orders", .id = 7, .partition = w->partition, .settings = w->settings});
}

void world_open(struct world *w, const struct mailbox_settings *settings) {
    w->settings = settings ? *settings : world_settings();
    w->leader = make(w);
    w->follower = make(w);
    w->epoch = 1;
    w->now = 1000000;
    mailbox_lead(w->leader, w->epoch, NULL, 0, 600000, w->now, w->now + WORLD_STAMP, &w->fx);
    mailbox_allow(w->leader, USEC_NEVER, w->now, &w->fx);
    world_run(w);
}

static struct encoder checkpoint_of(const struct mailbox *m) {
    struct encoder e = {0};
    mailbox_checkpoint(m, &e);
    return e;
}

static void check_equal(struct world *w) {
    struct encoder a = checkpoint_of(w->leader), b = checkpoint_of(w->follower);
    cr_assert(eq(sz, a.size, b.size));
    cr_assert(zero(int, memcmp(a.data, b.data, a.size)));
    struct mailbox *copy = make(w);
    struct decoder d = decoder_of(a.data, a.size);
    cr_assert(mailbox_restore(copy, &d));
    struct encoder c = checkpoint_of(copy);
    cr_assert(eq(sz, a.size, c.size));
    cr_assert(zero(int, memcmp(a.data, c.data, a.size)));
    mailbox_free(copy);
    encoder_free(&a);
    encoder_free(&b);
    encoder_free(&c);
}

void world_close(struct world *w) {
    if (w->settings.durability != DURABILITY_NONE)
        check_equal(w);
    mailbox_free(w->leader);
    mailbox_free(w->follower);
    mailbox_effects_free(&w->fx);
    for (size_t i = 0; i < w->log_count; i++)
        body_drop(w->log[i].body);
    free(w->log);
    free(w->trace);
}

/* ---- clients ---- */

static struct body *batch(struct world *w, char producer, uint64_t sequence, uint64_t after, unsigned count) {
    struct batch_builder b = {0};
    struct producer_id id = {{(uint8_t)producer}};
    uint8_t *payload = xcalloc(1, w->payload + 1);
    for (unsigned i = 0; i < count; i++) {
        char key[8];
        int size = w->keys ? snprintf(key, sizeof key, "k%u", i % 3) : 0;
        batch_add(&b, key, (size_t)size, NULL, 0, payload, w->payload);
    }
    batch_finish(&b, &id, sequence, after, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    free(payload);
    return body;
}

void world_publish(struct world *w, char producer, uint64_t sequence, uint64_t after, unsigned count) {
    struct body *body = batch(w, producer, sequence, after, count);
    mailbox_publish(w->leader, (struct mailbox_origin){1, sequence}, body, w->now, w->now + WORLD_STAMP,
                    false, &w->fx);
    body_drop(body);
    world_run(w);
}

void world_put(struct world *w, unsigned count) {
    static uint64_t sequence;
    sequence++;
    struct body *body = batch(w, (char)('0' + sequence % 10), sequence, 0, count);
    mailbox_publish(w->leader, (struct mailbox_origin){1, sequence}, body, w->now, w->now + WORLD_STAMP,
                    false, &w->fx);
    body_drop(body);
    world_run(w);
}

struct consumer_id world_consumer(char name) {
    return (struct consumer_id){{(uint8_t)name}};
}

void world_attach(struct world *w, char consumer, uint32_t credit) {
    struct consumer_id id = world_consumer(consumer);
    cr_assert(zero(int, mailbox_attach(w->leader, &id, 1, "default", "client", credit, w->now, &w->fx)));
    world_run(w);
}

void world_credit(struct world *w, char consumer, uint32_t credit) {
    struct consumer_id id = world_consumer(consumer);
    mailbox_credit(w->leader, &id, "default", credit, w->now, &w->fx);
    world_run(w);
}

void world_settle_with(struct world *w, char consumer, struct mailbox_settlement item) {
    struct consumer_id id = world_consumer(consumer);
    mailbox_settle(w->leader, (struct mailbox_origin){2, 1}, &id, "default", &item, 1, w->now,
                   w->now + WORLD_STAMP, &w->fx);
    world_turn(w);
}

void world_settle(struct world *w, char consumer, enum settle_kind kind, uint64_t first, uint32_t count,
                  uint32_t number) {
    world_settle_with(w, consumer,
                      (struct mailbox_settlement){.kind = kind,
                                                  .first_offset = first,
                                                  .count = count,
                                                  .epoch = w->epoch,
                                                  .delivery_number = number});
}

void world_ack(struct world *w, char consumer, uint64_t first, uint32_t count) {
    world_settle(w, consumer, SETTLE_ACK, first, count, 0);
}

void world_fail_over(struct world *w, const uint64_t *gateways, size_t count) {
    mailbox_unlead(w->leader, &w->fx);
    take_effects(w);
    while (w->log_count > w->committed) /* the new leader did not have them */
        body_drop(w->log[--w->log_count].body);
    struct mailbox *old = w->leader;
    w->leader = w->follower;
    w->follower = old;
    w->epoch++;
    mailbox_lead(w->leader, w->epoch, gateways, count, 600000, w->now, w->now + WORLD_STAMP, &w->fx);
    mailbox_allow(w->leader, USEC_NEVER, w->now, &w->fx);
    world_turn(w);
}

struct subscription_stats world_stats(struct world *w) {
    struct subscription_stats s;
    cr_assert(mailbox_subscription_stats(w->leader, 0, &s));
    return s;
}

void world_expect_at(struct world *w, const char *text, const char *file, int line) {
    const char *got = w->trace_size ? w->trace : "";
    if (strcmp(got, text) != 0)
        cr_fatal("%s:%d: expected:\n%sgot:\n%s", file, line, text, got);
    w->trace_size = 0;
}

void world_forget(struct world *w) {
    w->trace_size = 0;
}

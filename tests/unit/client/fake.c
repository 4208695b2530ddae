// SPDX-License-Identifier: Apache-2.0
#include "fake.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/crc.h"
#include "base/xalloc.h"
#include "wire/hello.h"

struct session { /* ctx of an accepted link */
    struct fake *fake;
    unsigned number;
};

void fake_lock(struct fake *f) {
    pthread_mutex_lock(&f->lock);
}

void fake_unlock(struct fake *f) {
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

bool fake_wait(struct fake *f, usec_t until) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 50 * 1000000; /* in case what is waited for is the client's */
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&f->changed, &f->lock, &t);
    return clock_now() < until;
}

/* --- handlers --------------------------------------------------------------- */

static void on_hello(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    struct fake *f = s->fake;
    if (f->deaf)
        return;
    if (f->on_hello) {
        f->on_hello(f, link);
        return;
    }
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    Mr__Welcome m = MR__WELCOME__INIT;
    m.message_bytes_max = f->message_max;
    m.window_bytes = f->window;
    m.addresses = f->addresses;
    m.n_addresses = f->addresses_count;
    hello_answer(link, &ours, header, &m, &agreed);
}

static void on_ping(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    Mr__Pong pong = MR__PONG__INIT;
    s->fake->pings++;
    frame_send_pong(link, &pong, NULL, 0);
}

static void on_lookup(void *ctx, struct link *link, const void *header, struct body *body) {
    struct fake *f = ((struct session *)ctx)->fake;
    const Mr__Lookup *m = header;
    f->lookups++;
    if (f->missing) {
        frame_send_failure(link, m->request, ERR_NOT_FOUND, "mailbox 'x': not found");
        return;
    }
    Mr__MailboxInfo info = MR__MAILBOX_INFO__INIT;
    info.request = m->request;
    info.mailbox_id = f->mailbox_id;
    info.name = m->mailbox;
    info.partitions = f->partitions;
    info.route = f->route;
    info.loads = f->loads;
    info.n_loads = f->loads_count;
    frame_send_mailbox_info(link, &info, NULL, 0);
}

static void refuse(struct link *link, uint64_t request, int code, uint64_t last) {
    Mr__Refused refused = MR__REFUSED__INIT, *list = &refused;
    refused.request = request;
    refused.code = (uint32_t)code;
    refused.text = "refused by the script";
    refused.last = last;
    Mr__Receipts m = MR__RECEIPTS__INIT;
    m.refused = &list;
    m.n_refused = 1;
    frame_send_receipts(link, &m, NULL, 0);
}

static void receipt(struct link *link, uint64_t request, uint64_t offset, bool duplicate) {
    Mr__Receipt one = MR__RECEIPT__INIT, *list = &one;
    one.request = request;
    one.base_offset = offset;
    one.duplicate = duplicate;
    Mr__Receipts m = MR__RECEIPTS__INIT;
    m.receipts = &list;
    m.n_receipts = 1;
    frame_send_receipts(link, &m, NULL, 0);
}

/* The leader's rule (DESIGN, "Once"). */
static void take(struct fake *f, struct link *link, const Mr__Publish *m, const struct batch_header *h) {
    uint64_t *last = &f->last[m->partition];
    if (f->refuse_times > 0) {
        f->refuse_times--;
        refuse(link, m->request, f->refuse_code, *last);
    } else if (f->forget && h->after > 0) {
        f->forget--;
        refuse(link, m->request, ERR_FORGOTTEN, 0);
    } else if (h->sequence <= *last) {
        f->duplicates += h->count;
        receipt(link, m->request, 0, true);
    } else if (h->after > *last) {
        refuse(link, m->request, ERR_OUT_OF_ORDER, *last);
    } else {
        *last = h->sequence;
        f->published[f->published_count - 1].taken = true;
        if (f->swallow > 0)
            f->swallow--;
        else
            receipt(link, m->request, f->offset[m->partition], false);
        f->offset[m->partition] += h->count;
        f->stored += h->count;
    }
}

static void on_publish(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    struct fake *f = s->fake;
    const Mr__Publish *m = header;
    struct err_detail detail;
    cr_assert(body && batch_check(body->data, body->size, &detail) == ERR_OK, "a batch that is none");
    cr_assert(m->partition < f->partitions && m->mailbox_id == f->mailbox_id);
    struct fake_publish p = {s->number, m->request, m->partition, {0}, body_keep(body), false};
    batch_read_header(body->data, &p.head);
    cr_assert(f->published_count < FAKE_SEEN_MAX);
    f->published[f->published_count++] = p;
    if (!f->mute)
        take(f, link, m, &p.head);
}

static void on_subscribe(void *ctx, struct link *link, const void *header, struct body *body) {
    struct fake *f = ((struct session *)ctx)->fake;
    const Mr__Subscribe *m = header;
    f->subscribes++;
    if (f->missing) {
        frame_send_failure(link, m->request, ERR_NOT_FOUND, "subscription 'x': not found");
        return;
    }
    f->held_count = m->n_held < 64 ? m->n_held : 64;
    for (size_t i = 0; i < f->held_count; i++)
        f->held[i] = (struct fake_held){m->held[i]->first_offset, m->held[i]->count};
    cr_assert(m->consumer_id.len == 16);
    memcpy(f->consumer_id, m->consumer_id.data, 16);
    f->consumer = m->consumer;
    f->credit = m->credit;
    Mr__Subscribed ok = MR__SUBSCRIBED__INIT;
    ok.request = m->request;
    ok.consumer = m->consumer;
    ok.mailbox_id = f->mailbox_id;
    ok.partitions = f->partitions;
    ok.ack_timeout_us = f->ack_timeout_us;
    frame_send_subscribed(link, &ok, NULL, 0);
}

static void on_unsubscribe(void *ctx, struct link *link, const void *header, struct body *body) {
    struct fake *f = ((struct session *)ctx)->fake;
    const Mr__Unsubscribe *m = header;
    f->unsubscribes++;
    Mr__ConsumerEnd end = MR__CONSUMER_END__INIT;
    end.consumer = m->consumer;
    frame_send_consumer_end(link, &end, NULL, 0);
}

static void on_settle(void *ctx, struct link *link, const void *header, struct body *body) {
    struct session *s = ctx;
    struct fake *f = s->fake;
    const Mr__Settle *m = header;
    for (size_t i = 0; i < m->n_items; i++) {
        const Mr__Settlement *x = m->items[i];
        cr_assert(f->settles_count < FAKE_SEEN_MAX);
        f->settles[f->settles_count++] = (struct fake_settle){
            s->number, m->request, m->consumer, (int)x->kind, x->first_offset, x->count, x->delay_us};
    }
    if (f->settle_mute > 0) {
        f->settle_mute--;
        return;
    }
    uint8_t *results = xmalloc(m->n_items);
    memset(results, f->settle_result, m->n_items);
    Mr__Settled done = MR__SETTLED__INIT;
    done.request = m->request;
    done.results.data = results;
    done.results.len = m->n_items;
    frame_send_settled(link, &done, NULL, 0);
    free(results);
}

static void on_request(void *ctx, struct link *link, const void *header, struct body *body) {
    struct fake *f = ((struct session *)ctx)->fake;
    const Mr__Request *m = header;
    f->requests++;
    f->last_request = (int)m->what_case;
    cr_assert(m->deadline_us > 0);
    if (f->request_mute)
        return;
    Mr__Response r = MR__RESPONSE__INIT;
    Mr__MailboxList none = MR__MAILBOX_LIST__INIT;
    r.request = m->request;
    if (f->request_times > 0) {
        f->request_times--;
        r.code = (uint32_t)f->request_code;
        r.text = "refused by the script";
    } else if (m->what_case == MR__REQUEST__WHAT_MAILBOX_LIST) {
        r.what_case = MR__RESPONSE__WHAT_MAILBOX_LIST;
        r.mailbox_list = &none;
    }
    frame_send_response(link, &r, NULL, 0);
}

static const frame_handler table[FRAME_TYPES] = {
    [FRAME_HELLO] = on_hello,     [FRAME_PING] = on_ping,           [FRAME_LOOKUP] = on_lookup,
    [FRAME_PUBLISH] = on_publish, [FRAME_SUBSCRIBE] = on_subscribe, [FRAME_UNSUBSCRIBE] = on_unsubscribe,
    [FRAME_SETTLE] = on_settle,   [FRAME_REQUEST] = on_request,
};

/* --- links ------------------------------------------------------------------ */

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct session *s = ctx;
    fake_lock(s->fake);
    frame_dispatch(table, s, link, frame);
    fake_unlock(s->fake);
}

static void on_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct session *s = ctx;
    fake_lock(s->fake);
    if (s->fake->link == link)
        s->fake->link = NULL;
    s->fake->links[s->number % 8] = NULL;
    fake_unlock(s->fake);
    free(s);
}

static const struct link_handlers link_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct fake *f = ctx;
    fake_lock(f);
    struct session *s = xcalloc(1, sizeof *s);
    *s = (struct session){f, ++f->sessions};
    f->link = link;
    f->links[s->number % 8] = link;
    link_attach(link, &link_handlers, s);
    fake_unlock(f);
}

static const struct listener_handlers listener_handlers = {.accepted = on_accepted};

static void *fake_thread(void *arg) {
    struct fake *f = arg;
    loop_run(f->loop);
    return NULL;
}

struct fake *fake_new(void) {
    struct fake *f = xcalloc(1, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->partitions = 1;
    f->mailbox_id = FAKE_MAILBOX_ID;
    f->window = 16 * MIB;
    f->message_max = 8 * MIB;
    f->ack_timeout_us = 30 * USEC_S;
    f->loop = loop_new(NULL);
    struct listener_options o = {.handlers = &listener_handlers, .ctx = f, .link.frame_bytes = 32 * MIB};
    struct err_detail detail;
    f->listener = listener_open(f->loop, "tcp://127.0.0.1:0", &o, &detail);
    cr_assert(f->listener, "%s", detail.text);
    snprintf(f->address, sizeof f->address, "%s", listener_url(f->listener) + strlen("tcp://"));
    pthread_create(&f->thread, NULL, fake_thread, f);
    return f;
}

void fake_free(struct fake *f) {
    loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    listener_close(f->listener);
    for (int i = 0; i < 8; i++)
        if (f->links[i])
            link_close(f->links[i], ERR_OK, "");
    cr_assert(loop_drain(f->loop, 5 * USEC_S));
    loop_free(f->loop);
    for (size_t i = 0; i < f->published_count; i++)
        body_drop(f->published[i].body);
    free(f);
}

/* --- from the test ---------------------------------------------------------- */

struct errand {
    struct loop_event event;
    struct fake *fake;
    void (*what)(struct fake *f, void *arg);
    void *arg;
    bool done;
};

static void on_errand(struct loop_event *event) {
    struct errand *e = (struct errand *)(void *)event;
    struct fake *f = e->fake;
    fake_lock(f);
    e->what(f, e->arg);
    e->done = true;
    fake_unlock(f);
}

void fake_do(struct fake *f, void (*what)(struct fake *, void *), void *arg) {
    struct errand e = {.event.fire = on_errand, .fake = f, .what = what, .arg = arg};
    loop_post(f->loop, &e.event);
    FAKE_WAIT(f, e.done);
}

static void hang_up(struct fake *f, void *arg) {
    if (f->link)
        link_close(f->link, ERR_OK, "hung up by the script");
}

void fake_hang_up(struct fake *f) {
    fake_do(f, hang_up, NULL);
}

static void goaway(struct fake *f, void *arg) {
    Mr__Goaway m = MR__GOAWAY__INIT;
    m.text = "upgrade";
    frame_send_goaway(f->link, &m, NULL, 0);
}

void fake_goaway(struct fake *f) {
    fake_do(f, goaway, NULL);
}

static void deliver(struct fake *f, void *arg) {
    const struct fake_delivery *d = arg;
    struct batch_builder b = {0};
    for (uint32_t i = 0; i < d->count; i++) {
        char payload[32];
        int n = snprintf(payload, sizeof payload, "m%llu", (unsigned long long)(d->first_offset + i));
        struct batch_field h = {"n", 1, payload, (size_t)n};
        batch_add(&b, "key", 3, &h, 1, payload, (size_t)n);
    }
    struct body *run = body_copy(b.data + BATCH_HEADER_BYTES, b.size - BATCH_HEADER_BYTES - d->cut);
    Mr__Delivery m = MR__DELIVERY__INIT;
    m.consumer = f->consumer;
    m.first_offset = d->first_offset;
    m.count = d->count + d->more_count;
    m.epoch = 5;
    m.delivery_number = d->number;
    m.attempt = 1;
    m.stamp = 1234567;
    m.crc = crc32c(0, run->data, run->size) + d->wrong_crc;
    frame_send_delivery(f->link, &m, &run, 1);
    body_drop(run);
    batch_builder_free(&b);
}

void fake_deliver(struct fake *f, const struct fake_delivery *d) {
    fake_do(f, deliver, (void *)d);
}

struct ending {
    int code;
    const char *text;
};

static void consumer_end(struct fake *f, void *arg) {
    const struct ending *e = arg;
    Mr__ConsumerEnd m = MR__CONSUMER_END__INIT;
    m.consumer = f->consumer;
    m.code = (uint32_t)e->code;
    m.text = (char *)e->text;
    frame_send_consumer_end(f->link, &m, NULL, 0);
}

void fake_consumer_end(struct fake *f, int code, const char *why) {
    fake_do(f, consumer_end, &(struct ending){code, why});
}

mr_client *fake_client(struct fake *f, int64_t timeout_ms) {
    mr_client_options o = {.struct_size = sizeof o, .servers = f->address, .timeout_ms = timeout_ms};
    mr_client *client;
    mr_error error;
    cr_assert(mr_client_open(&o, &client, &error) == MR_OK, "%s", error.text);
    return client;
}

mr_publication text(const char *payload) {
    return (mr_publication){
        .struct_size = sizeof(mr_publication), .payload = payload, .payload_size = strlen(payload)};
}

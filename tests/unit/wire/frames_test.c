// SPDX-License-Identifier: Apache-2.0
/* Typed frames and the hello, over a real link. */
#include "wire/frames.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/rng.h"
#include "pair.h"
#include "wire/hello.h"

/* --- the list ------------------------------------------------------------- */

Test(frames, every_type_has_its_name_and_message) {
    cr_assert_str_eq(frame_name(FRAME_PUBLISH), "PUBLISH");
    cr_assert_str_eq(frame_descriptor(FRAME_SHARD_LOAD)->name, "mr.ShardLoad");
    cr_assert_str_eq(frame_name(0), "unknown");
    cr_assert_null(frame_descriptor(0));
    cr_assert_str_eq(frame_name(65535), "unknown");
    cr_assert_null(frame_descriptor(65535));
#define X(name, number, message, lower) cr_assert_str_eq(frame_descriptor(number)->short_name, #message);
    FRAME_LIST(X)
#undef X
}

/* --- dispatch ------------------------------------------------------------- */

struct gateway {
    struct link *link;
    unsigned publishes, receipts;
    char mailbox[32];
    struct body *body;
    enum link_cause cause;
    char why[256];
    unsigned closed;
};

static void on_publish(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    const Mr__Publish *publish = header;
    g->publishes++;
    cr_assert_eq(publish->request, 17);
    cr_assert_eq(publish->partition, 3);
    body_drop(g->body);
    g->body = body_keep(body);
    Mr__Receipt receipt = MR__RECEIPT__INIT;
    receipt.request = publish->request;
    receipt.base_offset = 1u << 30;
    Mr__Receipt *list[] = {&receipt};
    Mr__Receipts answer = MR__RECEIPTS__INIT;
    answer.n_receipts = 1;
    answer.receipts = list;
    cr_assert_eq(frame_send_receipts(link, &answer, NULL, 0), ERR_OK);
}

static void on_lookup(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    const Mr__Lookup *lookup = header;
    strcpy(g->mailbox, lookup->mailbox);
}

static const frame_handler gateway_table[FRAME_TYPES] = {
    [FRAME_PUBLISH] = on_publish, [FRAME_LOOKUP] = on_lookup};

static void gateway_frame(void *ctx, struct link *link, const struct frame *frame) {
    frame_dispatch(gateway_table, ctx, link, frame);
}
static void gateway_closed(void *ctx, struct link *link, const struct link_end *end) {
    struct gateway *g = ctx;
    g->closed++;
    g->cause = end->cause;
    strcpy(g->why, end->text);
}
static const struct link_handlers gateway_handlers = {
    .frame = gateway_frame, .closed = gateway_closed, .refusing = frame_say_why};

static void on_receipts(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    const Mr__Receipts *receipts = header;
    cr_assert_eq(receipts->n_receipts, 1);
    cr_assert_eq(receipts->receipts[0]->base_offset, 1u << 30);
    g->receipts++;
}
static void on_fail(void *ctx, struct link *link, const void *header, struct body *body) {
    struct gateway *g = ctx;
    const Mr__Fail *fail = header;
    strcpy(g->why, fail->text);
    link_close(link, fail->code, fail->text);
}
static const frame_handler client_table[FRAME_TYPES] = {
    [FRAME_RECEIPTS] = on_receipts, [FRAME_FAIL] = on_fail};
static void client_frame(void *ctx, struct link *link, const struct frame *frame) {
    frame_dispatch(client_table, ctx, link, frame);
}
static const struct link_handlers client_handlers = {.frame = client_frame, .closed = gateway_closed};

static struct pair *typed_pair(struct gateway *gateway, struct gateway *client) {
    struct pair *p = pair_new("tcp", NULL, NULL);
    gateway->link = p->server.link;
    client->link = p->client.link;
    link_attach(p->server.link, &gateway_handlers, gateway);
    link_attach(p->client.link, &client_handlers, client);
    return p;
}

static void typed_free(struct pair *p, struct gateway *gateway, struct gateway *client) {
    if (gateway->closed)
        p->server.link = NULL;
    if (client->closed)
        p->client.link = NULL;
    body_drop(gateway->body);
    pair_free(p);
}

Test(frames, a_request_reaches_its_handler_and_the_answer_comes_back) {
    struct gateway gateway = {0}, client = {0};
    struct pair *p = typed_pair(&gateway, &client);
    Mr__Publish publish = MR__PUBLISH__INIT;
    publish.request = 17;
    publish.partition = 3;
    struct body *batch = pattern_body(50000, 9);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(frame_send_publish(client.link, &publish, &batch, 1), ERR_OK);
    body_drop(batch);
    Mr__Lookup lookup = MR__LOOKUP__INIT;
    lookup.mailbox = "orders";
    cr_assert_eq(frame_send_lookup(client.link, &lookup, NULL, 0), ERR_OK);
    UNTIL(p->loop, client.receipts == 3 && gateway.mailbox[0]);
    cr_assert_str_eq(gateway.mailbox, "orders");
    cr_assert(pattern_matches(gateway.body, 50000, 9));
    typed_free(p, &gateway, &client);
}

/* The peer is told why, by name, before the link ends. */
static void refused(uint16_t type, const char *header, const char *expected) {
    struct gateway gateway = {0}, client = {0};
    struct pair *p = typed_pair(&gateway, &client);
    cr_assert_eq(link_send_raw(client.link, type, header, strlen(header), NULL, 0), ERR_OK);
    UNTIL(p->loop, gateway.closed && client.closed);
    cr_assert_eq(gateway.cause, LINK_END_PROTOCOL);
    cr_assert(strstr(gateway.why, expected), "%s", gateway.why);
    cr_assert_str_eq(client.why, gateway.why);
    typed_free(p, &gateway, &client);
}

Test(frames, what_a_role_does_not_expect_is_refused_by_name) {
    refused(FRAME_HEARTBEAT, "", "HEARTBEAT");
    refused(999, "", "999");
    refused(FRAME_LOOKUP, "\xff\xff\xff", "LOOKUP");
    refused(FRAME_LOOKUP,
            "\x12\x7f"
            "x",
            "LOOKUP");
}

/* Whatever stands in a header: it is read, or the link is refused. */
static unsigned handled, readable;

static void random_frame(void *ctx, struct link *link, const struct frame *frame) {
    handled++;
    readable += frame_read(link, frame) != NULL;
}
static const struct link_handlers random_handlers = {.frame = random_frame};

static void send_random(struct link *link, struct rng *rng) {
    static const uint8_t likely[] = {0x08, 0x0a, 0x10, 0x12, 0x1a, 0x22, 0x01, 0x02, 0x05, 0x80, 0xff, 0x00};
    uint8_t header[64];
    size_t size = rng_below(rng, (uint64_t)1 << rng_below(rng, 7));
    for (size_t i = 0; i < size; i++)
        header[i] = likely[rng_below(rng, sizeof likely)];
    uint16_t type = 0;
    while (!frame_descriptor(type))
        type = (uint16_t)rng_below(rng, FRAME_TYPES);
    link_send_raw(link, type, header, size, NULL, 0);
}

Test(frames, random_headers_do_no_harm) {
    struct rng rng = {.state = 7};
    for (int round = 0; round < 200; round++) {
        struct pair *p = pair_new("ipc", NULL, NULL);
        link_attach(p->server.link, &random_handlers, NULL);
        for (int i = 0; i < 20; i++)
            send_random(p->client.link, &rng);
        UNTIL(p->loop, p->client.drained || p->client.closed);
        for (int i = 0; i < 5; i++)
            loop_turn(p->loop, 200);
        p->server.link = NULL;
        if (p->client.link)
            link_kill(p->client.link);
        p->client.link = NULL;
        pair_free(p);
    }
    cr_assert_gt(readable, 50);
    cr_assert_gt(handled, readable);
}

/* --- hello ---------------------------------------------------------------- */

struct agreement {
    const char *what;
    struct hello ours, theirs;
    enum err code;
    struct hello_agreed agreed;
};

static const struct agreement agreements[] = {
    {"the same", {1, 1, 0, 1 << 20}, {1, 1, 0, 1 << 21}, ERR_OK, {1, 0, 1 << 21}},
    {"newer peer", {1, 2, 7, 1 << 20}, {2, 5, 13, 1 << 20}, ERR_OK, {2, 5, 1 << 20}},
    {"older peer", {2, 5, 1, 1 << 20}, {1, 3, 3, 1 << 20}, ERR_OK, {3, 1, 1 << 20}},
    {"too old", {3, 5, 0, 1 << 20}, {1, 2, 0, 1 << 20}, ERR_VERSION, {0}},
    {"too new", {1, 2, 0, 1 << 20}, {3, 4, 0, 1 << 20}, ERR_VERSION, {0}},
    {"no range", {1, 2, 0, 1 << 20}, {2, 1, 0, 1 << 20}, ERR_INVALID, {0}},
    {"version 0", {1, 2, 0, 1 << 20}, {0, 2, 0, 1 << 20}, ERR_INVALID, {0}},
    {"frames too small", {1, 2, 0, 1 << 20}, {1, 2, 0, 65535}, ERR_INVALID, {0}},
};

Test(hello, ranges_meet_or_are_refused) {
    for (size_t i = 0; i < sizeof agreements / sizeof agreements[0]; i++) {
        const struct agreement *a = &agreements[i];
        struct hello_agreed out = {0};
        struct err_detail detail = {0};
        cr_assert_eq(hello_agree(&a->ours, &a->theirs, &out, &detail), a->code, "%s", a->what);
        cr_assert_eq(detail.text[0] != 0, a->code != ERR_OK, "%s", a->what);
        cr_assert_eq(out.version, a->agreed.version, "%s", a->what);
        cr_assert_eq(out.features, a->agreed.features, "%s", a->what);
        cr_assert_eq(out.send_bytes_max, a->agreed.send_bytes_max, "%s", a->what);
    }
}

struct greeter {
    struct hello offer;
    enum err code;
    struct hello_agreed agreed;
    unsigned done, closed;
    char node[16];
    struct link *link;
};

static void on_hello(void *ctx, struct link *link, const void *header, struct body *body) {
    struct greeter *g = ctx;
    const Mr__Hello *hello = header;
    strcpy(g->node, hello->identity->node);
    Mr__Welcome welcome = MR__WELCOME__INIT;
    g->code = hello_answer(link, &g->offer, hello, &welcome, &g->agreed);
    g->done++;
}
static void on_welcome(void *ctx, struct link *link, const void *header, struct body *body) {
    struct greeter *g = ctx;
    g->code = hello_welcomed(link, &g->offer, header, &g->agreed);
    g->done++;
}
static void on_told(void *ctx, struct link *link, const void *header, struct body *body) {
    struct greeter *g = ctx;
    const Mr__Fail *fail = header;
    g->code = (enum err)fail->code;
    g->done++;
    link_close(link, g->code, fail->text);
}
static const frame_handler greeter_table[FRAME_TYPES] = {
    [FRAME_HELLO] = on_hello, [FRAME_WELCOME] = on_welcome, [FRAME_FAIL] = on_told};
static void greeter_frame(void *ctx, struct link *link, const struct frame *frame) {
    frame_dispatch(greeter_table, ctx, link, frame);
}
static void greeter_closed(void *ctx, struct link *link, const struct link_end *end) {
    ((struct greeter *)ctx)->closed++;
}
static const struct link_handlers greeter_handlers = {
    .frame = greeter_frame, .closed = greeter_closed, .refusing = frame_say_why};

static void greet(struct greeter *client, struct greeter *server) {
    struct pair *p = pair_new("tcp", NULL, NULL);
    link_attach(p->client.link, &greeter_handlers, client);
    link_attach(p->server.link, &greeter_handlers, server);
    Mr__Identity identity = MR__IDENTITY__INIT;
    identity.node = "n1";
    Mr__Hello hello = MR__HELLO__INIT;
    hello.identity = &identity;
    cr_assert_eq(hello_send(p->client.link, &client->offer, &hello), ERR_OK);
    UNTIL(p->loop, client->done && server->done);
    cr_assert_str_eq(server->node, "n1");
    if (client->code == ERR_OK) { /* the limits of both hold */
        struct body *body = pattern_body(70000, 1);
        cr_assert_eq(link_send(p->server.link, FRAME_PING, NULL, &body, 1), ERR_TOO_LARGE);
        cr_assert_eq(link_send(p->client.link, FRAME_WELCOME, NULL, &body, 1), ERR_OK);
        body_drop(body);
    } else {
        UNTIL(p->loop, client->closed && server->closed);
        p->client.link = p->server.link = NULL;
    }
    pair_free(p);
}

Test(hello, two_releases_agree_over_the_wire) {
    struct greeter client = {.offer = {1, 3, 6, HELLO_FRAME_BYTES_MIN}};
    struct greeter server = {.offer = {2, 9, 3, 1 << 20}};
    greet(&client, &server);
    cr_assert_eq(client.agreed.version, 3);
    cr_assert_eq(server.agreed.version, 3);
    cr_assert_eq(client.agreed.features, 2);
    cr_assert_eq(server.agreed.features, 2);
}

Test(hello, strangers_are_told_why) {
    struct greeter client = {.offer = {1, 1, 0, 1 << 20}};
    struct greeter server = {.offer = {2, 2, 0, 1 << 20}};
    greet(&client, &server);
    cr_assert_eq(client.code, ERR_VERSION);
    cr_assert_eq(server.code, ERR_VERSION);
}

// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/xalloc.h"
#include "proto/batch.h"
#include "wire/hello.h"

static const char yaml[] = "node: n1\n"
                           "data: /tmp/unused\n"
                           "shards: 1\n"
                           "cluster: { name: test, initial: { n1: 127.0.0.1:7410 } }\n"
                           "limits: { message: 1MiB, memory: 64MiB }\n";

/* ---- one end ---- */

static void take_away(struct end *e) {
    if (e->taken)
        protobuf_c_message_free_unpacked(e->taken, NULL);
    body_drop(e->taken_body);
    e->taken = NULL;
    e->taken_body = NULL;
}

static bool shift(struct end *e) {
    struct arrived *a = e->first;
    take_away(e);
    if (!a)
        return false;
    e->first = a->next;
    if (!e->first)
        e->last = NULL;
    e->taken_type = a->type;
    e->taken = a->message;
    e->taken_body = a->body;
    free(a);
    return true;
}

static void greet_back(struct end *e, const struct frame *frame) {
    Mr__Hello *hello = frame_read_hello(e->link, frame);
    Mr__Welcome welcome = MR__WELCOME__INIT;
    Mr__Identity identity = MR__IDENTITY__INIT;
    struct hello ours = hello_ours();
    struct hello_agreed agreed;
    identity.role = (char *)(uintptr_t)e->role;
    identity.index = e->index;
    identity.member = e->member;
    welcome.identity = &identity;
    cr_assert(hello);
    cr_assert_str_eq(hello->identity->role, "gateway");
    cr_assert_str_eq(hello->identity->cluster, "test");
    cr_assert_eq(hello_answer(e->link, &ours, hello, &welcome, &agreed), ERR_OK);
    e->connected++;
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct end *e = ctx;
    if (frame->type == FRAME_HELLO) {
        greet_back(e, frame);
        return;
    }
    if (frame->type == FRAME_LOADS)
        return;
    if (frame->type == FRAME_PING) {
        Mr__Pong pong = MR__PONG__INIT;
        frame_send_pong(link, &pong, NULL, 0);
        return;
    }
    struct arrived *a = xcalloc(1, sizeof *a);
    a->type = frame->type;
    a->message =
        protobuf_c_message_unpack(frame_descriptor(frame->type), NULL, frame->header_size, frame->header);
    a->body = body_keep(frame->body);
    cr_assert(a->message);
    if (e->last)
        e->last->next = a;
    else
        e->first = a;
    e->last = a;
}

static void on_closed(void *ctx, struct link *link, const struct link_end *why) {
    struct end *e = ctx;
    if (e->link == link)
        e->link = NULL;
    e->closed = true;
}

static const struct link_handlers end_handlers = {.frame = on_frame, .closed = on_closed};

static void on_accepted(void *ctx, struct listener *listener, struct link *link) {
    struct end *e = ctx;
    e->link = link;
    link_attach(link, &end_handlers, e);
}

static const struct listener_handlers accepts = {.accepted = on_accepted};

void end_listen(struct end *e, const char *url) {
    struct err_detail detail;
    struct listener_options options = {
        .handlers = &accepts, .ctx = e, .link = {.header_bytes = FRAME_HEADER_BYTES_MAX}};
    e->listener = listener_open(e->world->loop, url, &options, &detail);
    cr_assert(e->listener, "%s", detail.text);
}

void end_die(struct end *e) {
    if (e->listener)
        listener_close(e->listener);
    if (e->link)
        link_kill(e->link);
    e->listener = NULL;
    e->link = NULL;
    while (shift(e)) {
    }
}

void *end_expect(struct end *e, uint16_t type) {
    do {
        UNTIL(e->world->loop, e->first || e->closed);
        cr_assert(e->first, "the link closed before %s", frame_name(type));
        shift(e);
    } while (e->taken_type != type);
    return e->taken;
}

const char *end_heard(struct end *e) {
    static char text[1024];
    text[0] = 0;
    while (shift(e)) {
        if (text[0])
            strcat(text, " ");
        strncat(text, frame_name(e->taken_type), sizeof text - strlen(text) - 2);
    }
    take_away(e);
    return text;
}

void settle_down(struct world *w) {
    usec_t quiet = clock_now() + 60 * USEC_MS; /* longer than a tick of the gateway */
    uint64_t frames = loop_stats(w->loop)->frames_in;
    while (clock_now() < quiet) {
        loop_turn(w->loop, 5 * USEC_MS);
        if (loop_stats(w->loop)->frames_in != frames) {
            frames = loop_stats(w->loop)->frames_in;
            quiet = clock_now() + 60 * USEC_MS;
        }
    }
}

/* ---- the world ---- */

static void on_turn(void *ctx, struct loop *loop) {
    struct world *w = ctx;
    if (w->gateway)
        gateway_turn(w->gateway);
}

static void on_stopped(void *ctx) {
    struct world *w = ctx;
    w->stopped = true;
}

static void unique_path(struct end *e) {
    static unsigned n;
    snprintf(e->path, sizeof e->path, "/tmp/mailroom-gateway-test-%d-%u.sock", getpid(), ++n);
}

static void name_end(struct world *w, struct end *e, const char *role, unsigned index, uint64_t member) {
    e->world = w;
    e->role = role;
    e->index = index;
    e->member = member;
    unique_path(e);
}

struct world *world_new(void) {
    struct world *w = xcalloc(1, sizeof *w);
    struct err_detail detail;
    cr_assert_eq(config_parse("test", yaml, strlen(yaml), &w->config, &detail), ERR_OK, "%s", detail.text);
    w->loop = loop_new(&(struct loop_options){.turn = on_turn, .ctx = w});
    name_end(w, &w->controller, "controller", 0, 0);
    for (unsigned i = 0; i < WORLD_SHARDS; i++)
        name_end(w, &w->shards[i], "shard", 0, 11 + i);
    for (size_t i = 0; i < sizeof w->clients / sizeof w->clients[0]; i++)
        w->clients[i].world = w;
    struct gateway_options options = {.loop = w->loop,
                                      .config = &w->config,
                                      .instance = 1,
                                      .client_url = "tcp://127.0.0.1:0",
                                      .stopped = on_stopped,
                                      .ctx = w};
    w->gateway = gateway_new(&options, &detail);
    cr_assert(w->gateway, "%s", detail.text);
    return w;
}

void world_free(struct world *w) {
    gateway_free(w->gateway);
    w->gateway = NULL;
    end_die(&w->controller);
    for (unsigned i = 0; i < WORLD_SHARDS; i++)
        end_die(&w->shards[i]);
    for (size_t i = 0; i < sizeof w->clients / sizeof w->clients[0]; i++)
        end_die(&w->clients[i]);
    cr_assert(loop_drain(w->loop, 5 * USEC_S));
    loop_free(w->loop);
    config_free(&w->config);
    free(w);
}

static void listen_ipc(struct end *e) {
    char url[WORLD_PATH_BYTES + 8];
    snprintf(url, sizeof url, "ipc://%s", e->path);
    end_listen(e, url);
}

struct world *world_ready(void) {
    struct world *w = world_new();
    listen_ipc(&w->controller);
    listen_ipc(&w->shards[0]);
    end_listen(&w->shards[1], "tcp://127.0.0.1:0");
    gateway_peer_up(w->gateway, "controller", 0, w->controller.path);
    gateway_peer_up(w->gateway, "shard", 0, w->shards[0].path);
    UNTIL(w->loop, w->controller.connected && w->shards[0].connected);
    send_map(w, true, 1, 11);
    UNTIL(w->loop, w->shards[1].connected);
    send_led(&w->shards[0], WORLD_P0, 1);
    send_led(&w->shards[0], WORLD_P1, 1);
    end_expect(&w->shards[0], FRAME_PRESENTED);
    end_expect(&w->shards[0], FRAME_PRESENTED);
    return w;
}

struct end *client_dial(struct world *w, unsigned n) {
    struct end *e = &w->clients[n];
    struct link_options options = {.handlers = &end_handlers, .ctx = e};
    struct hello ours = hello_ours();
    Mr__Hello hello = MR__HELLO__INIT;
    struct err_detail detail;
    e->closed = false;
    e->link = link_dial(w->loop, gateway_url(w->gateway), &options, &detail);
    cr_assert(e->link, "%s", detail.text);
    hello.name = (char *)"test";
    hello_send(e->link, &ours, &hello);
    return e;
}

struct end *client(struct world *w, unsigned n) {
    struct end *e = client_dial(w, n);
    end_expect(e, FRAME_WELCOME);
    return e;
}

/* ---- what shards and the controller say ---- */

void send_led(struct end *shard, uint64_t partition, uint64_t epoch) {
    Mr__Led led = MR__LED__INIT;
    Mr__Leading leading = MR__LEADING__INIT, *list[] = {&leading};
    leading.partition = partition;
    leading.epoch = epoch;
    led.leading = list;
    led.n_leading = 1;
    frame_send_led(shard->link, &led, NULL, 0);
}

void send_not_leading(struct end *shard, uint64_t partition) {
    Mr__NotLeading m = MR__NOT_LEADING__INIT;
    m.partitions = &partition;
    m.n_partitions = 1;
    frame_send_not_leading(shard->link, &m, NULL, 0);
}

static void map_node(const char *name, Mr__MapNode *out, Mr__MemberAddress *shard) {
    mr__map_node__init(out);
    mr__member_address__init(shard);
    out->name = (char *)(uintptr_t)name;
    out->state = (char *)"alive";
    out->client_address = (char *)"127.0.0.1:1";
    shard->node = out->name;
    shard->alive = true;
}

void send_map(struct world *w, bool complete, uint64_t epoch, uint64_t leader) {
    Mr__Map m = MR__MAP__INIT;
    Mr__MapNode nodes[2], *node_list[] = {&nodes[0], &nodes[1]};
    Mr__MemberAddress shards[2], *lists[2][1] = {{&shards[0]}, {&shards[1]}};
    Mr__MapMailbox box = MR__MAP_MAILBOX__INIT, *boxes[] = {&box};
    Mr__MapPartition parts[2], *part_list[] = {&parts[0], &parts[1]};
    Mr__Settings settings = MR__SETTINGS__INIT;
    Mr__SubscriptionRecord sub = MR__SUBSCRIPTION_RECORD__INIT, *subs[] = {&sub};
    Mr__Set set = MR__SET__INIT;
    uint64_t members[] = {11, 12};
    char address[LINK_PEER_BYTES];
    snprintf(address, sizeof address, "%s",
             w->shards[1].listener ? listener_url(w->shards[1].listener) + strlen("tcp://") : "127.0.0.1:1");
    for (unsigned i = 0; i < 2; i++) {
        map_node(i ? "n2" : "n1", &nodes[i], &shards[i]);
        shards[i].member = members[i];
        shards[i].address = i ? address : (char *)"127.0.0.1:1";
        nodes[i].shards = lists[i];
        nodes[i].n_shards = 1;
        mr__map_partition__init(&parts[i]);
        parts[i].id = WORLD_P0 + i;
        parts[i].number = i;
        parts[i].leader = leader;
        parts[i].epoch = epoch;
        parts[i].state = (char *)(leader ? "ok" : "no-majority");
        parts[i].replicas = &set;
    }
    set.members = members;
    set.n_members = 2;
    settings.partitions = 2;
    settings.ack_timeout_us = 30 * USEC_S;
    settings.dead_letter = (char *)"";
    sub.name = (char *)"default";
    box.id = WORLD_MAILBOX;
    box.name = (char *)"orders";
    box.settings = &settings;
    box.partitions = part_list;
    box.n_partitions = 2;
    box.subscriptions = subs;
    box.n_subscriptions = 1;
    m.complete = complete;
    m.version = 7;
    m.cluster = (char *)"test";
    m.node = (char *)"n1";
    m.nodes = node_list;
    m.n_nodes = 2;
    m.mailboxes = boxes;
    m.n_mailboxes = 1;
    frame_send_map(w->controller.link, &m, NULL, 0);
}

struct body *batch_of(unsigned producer, uint64_t sequence, const char *text) {
    struct batch_builder b = {0};
    struct producer_id id = {{(uint8_t)producer}};
    cr_assert_eq(batch_add(&b, NULL, 0, NULL, 0, text, strlen(text)), ERR_OK);
    batch_finish(&b, &id, sequence, sequence - 1, 0, 0);
    struct body *body = body_copy(b.data, b.size);
    batch_builder_free(&b);
    return body;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A gateway whose client, shard or controller sends whatever it likes, over real
 * links. It must refuse or take it; it must not break, and it must go on to
 * welcome the next client.
 *
 * The same gateway takes all inputs: a finding may need more than its last one.
 */
#include <stdlib.h>

#include "base/codec.h"
#include "base/xalloc.h"
#include "fuzz.h"
#include "proto/batch.h"
#include "world.h"

enum { FRAMES_MAX = 16, QUIET_TURNS = 2, LIVES = 2000 /* inputs for one gateway */ };

static struct world *world;
static unsigned inputs;

/* Whose link was refused hangs up, so that the next input has a new one. */
static void forget(struct end *e) {
    bool refused = false;
    while (e->first) {
        struct arrived *a = e->first;
        e->first = a->next;
        refused |= a->type == FRAME_FAIL;
        protobuf_c_message_free_unpacked(a->message, NULL);
        body_drop(a->body);
        free(a);
    }
    e->last = NULL;
    if (refused && e->link) {
        link_kill(e->link);
        e->link = NULL;
    }
}

/* In memory nothing is under way once two turns had no event. */
static void settle_quickly(void) {
    uint64_t before = UINT64_MAX;
    for (int quiet = 0; quiet < QUIET_TURNS; quiet++) {
        loop_turn(world->loop, 0);
        if (loop_stats(world->loop)->events != before)
            quiet = 0;
        before = loop_stats(world->loop)->events;
    }
}

static void send_frames(struct end *e, struct fuzz_input *in) {
    for (int i = 0; i < FRAMES_MAX && in->size > 0 && e->link; i++) {
        uint16_t type = (uint16_t)(fuzz_take(in, 1) % FRAME_TYPES);
        size_t header_size, body_size;
        const uint8_t *header = fuzz_bytes(in, fuzz_take(in, 2) % 1024, &header_size);
        const uint8_t *bytes = fuzz_bytes(in, fuzz_take(in, 2) % 1024, &body_size);
        struct body *body = body_size ? body_copy(bytes, body_size) : NULL;
        if (type)
            link_send_raw(e->link, type, header, header_size, &body, body ? 1 : 0);
        body_drop(body);
    }
}

static void begin(void) {
    if (world && ++inputs % LIVES == 0) {
        world_free(world);
        world = NULL;
    }
    if (!world)
        world = world_ready();
    if (!world->clients[0].link)
        client(world, 0);
    UNTIL(world->loop, world->controller.link && world->shards[0].link && world->shards[1].link);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    uint8_t who = (uint8_t)fuzz_take(&in, 1);
    begin();
    send_frames(who % 8 == 7   ? &world->controller
                : who % 8 == 6 ? &world->shards[0]
                               : &world->clients[0],
                &in);
    settle_quickly();
    forget(&world->clients[0]);
    forget(&world->controller);
    for (int i = 0; i < WORLD_SHARDS; i++)
        forget(&world->shards[i]);
    if (who % 8 >= 6) { /* the map and who leads as they were, for the next */
        world_free(world);
        world = NULL;
    }
    return 0;
}

/* ---- seeds ---- */

static void put(struct encoder *e, uint16_t type, const ProtobufCMessage *m, const struct body *body) {
    size_t size = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = xmalloc(size + 1);
    protobuf_c_message_pack(m, packed);
    encode_u8(e, (uint8_t)type);
    encode_u16(e, (uint16_t)size);
    encode_raw(e, packed, size);
    encode_u16(e, body ? (uint16_t)body->size : 0);
    if (body)
        encode_raw(e, body->data, body->size);
    free(packed);
}

static void finish(struct encoder *e) {
    fuzz_seed(e->data, e->size);
    encoder_free(e);
}

static void seed_publish(void) {
    struct encoder e = {0};
    Mr__Lookup lookup = MR__LOOKUP__INIT;
    Mr__Publish publish = MR__PUBLISH__INIT;
    struct body *batch = batch_of(7, 1, "text");
    lookup.request = 1;
    lookup.mailbox = (char *)"orders";
    publish.request = 2;
    publish.mailbox_id = WORLD_MAILBOX;
    encode_u8(&e, 0);
    put(&e, FRAME_LOOKUP, &lookup.base, NULL);
    put(&e, FRAME_PUBLISH, &publish.base, batch);
    body_drop(batch);
    finish(&e);
}

static void seed_consume(void) {
    struct encoder e = {0};
    Mr__Subscribe subscribe = MR__SUBSCRIBE__INIT;
    Mr__Credit credit = MR__CREDIT__INIT;
    Mr__Settle settle = MR__SETTLE__INIT;
    Mr__Unsubscribe unsubscribe = MR__UNSUBSCRIBE__INIT;
    subscribe.request = 3;
    subscribe.mailbox = (char *)"orders";
    subscribe.subscription = (char *)"default";
    subscribe.credit = 10;
    encode_u8(&e, 0);
    put(&e, FRAME_SUBSCRIBE, &subscribe.base, NULL);
    put(&e, FRAME_CREDIT, &credit.base, NULL);
    put(&e, FRAME_SETTLE, &settle.base, NULL);
    put(&e, FRAME_UNSUBSCRIBE, &unsubscribe.base, NULL);
    finish(&e);
}

void fuzz_seeds(void) {
    seed_publish();
    seed_consume();
    struct encoder e = {0};
    Mr__Led led = MR__LED__INIT;
    encode_u8(&e, 6);
    put(&e, FRAME_LED, &led.base, NULL);
    finish(&e);
}

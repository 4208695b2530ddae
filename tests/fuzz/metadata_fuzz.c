// SPDX-License-Identifier: Apache-2.0
/* Metadata: commands of any bytes are applied or refused, and the state that
 * comes out is the same after a checkpoint; a checkpoint of any bytes is
 * restored or refused. */
#include "cluster/metadata.h"

#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "fuzz.h"

enum { COMMANDS_MAX = 64, COMMAND_BYTES_MAX = 4096 };

static void same_after_restore(const struct metadata *m) {
    struct encoder first = {0}, second = {0};
    struct metadata_changes changes = {0};
    struct metadata *copy = metadata_new();
    metadata_encode(m, &first);
    struct decoder d = decoder_of(first.data, first.size);
    EXPECT(metadata_restore(copy, &d, &changes));
    metadata_encode(copy, &second);
    EXPECT(first.size == second.size && memcmp(first.data, second.data, first.size) == 0);
    encoder_free(&first);
    encoder_free(&second);
    metadata_changes_free(&changes);
    metadata_free(copy);
}

static void apply_all(struct metadata *m, struct fuzz_input *in) {
    struct metadata_changes changes = {0};
    struct metadata_result result;
    size_t size;
    for (int i = 0; i < COMMANDS_MAX && in->size > 0; i++) {
        const uint8_t *bytes = fuzz_bytes(in, fuzz_take(in, 2) % COMMAND_BYTES_MAX, &size);
        metadata_apply(m, metadata_index(m) + 1, bytes, size, &result, &changes);
        metadata_changes_clear(&changes);
    }
    metadata_changes_free(&changes);
}

static void prepare(struct metadata *m) {
    fixture_form(m, 3, 2);
    struct placing placing[] = {fixture_placing(3, (unsigned[]){1, 2, 3}),
                                fixture_placing(3, (unsigned[]){2, 3, 1})};
    fixture_create(m, "orders", NULL, placing, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    struct metadata *m = metadata_new();
    uint8_t mode = (uint8_t)fuzz_take(&in, 1);
    if (mode & 1)
        prepare(m);
    if (mode & 2) {
        struct metadata_changes changes = {0};
        struct decoder d = decoder_of(in.data, in.size);
        metadata_restore(m, &d, &changes);
        metadata_changes_free(&changes);
    } else {
        apply_all(m, &in);
    }
    same_after_restore(m);
    metadata_free(m);
    return 0;
}

static void seed_command(const struct command *c) {
    struct encoder e = {0}, out = {0};
    command_encode(c, &e);
    encode_u8(&out, 1);
    encode_u16(&out, (uint16_t)e.size);
    encode_raw(&out, e.data, e.size);
    fuzz_seed(out.data, out.size);
    encoder_free(&e);
    encoder_free(&out);
}

void fuzz_seeds(void) {
    struct metadata *m = metadata_new();
    struct encoder e = {0};
    prepare(m);
    encode_u8(&e, 2);
    metadata_encode(m, &e);
    fuzz_seed(e.data, e.size);
    encoder_free(&e);
    metadata_free(m);
    struct command c = {.type = COMMAND_MAILBOX_DELETE};
    strcpy(c.mailbox.name, "orders");
    seed_command(&c);
    struct command node = {.type = COMMAND_NODE_SET, .node = fixture_node(4, 3)};
    seed_command(&node);
    struct placing placing = fixture_placing(3, (unsigned[]){3, 2, 1});
    struct command create = {.type = COMMAND_MAILBOX_CREATE};
    strcpy(create.mailbox_create.name, "more");
    settings_default(&create.mailbox_create.settings);
    create.mailbox_create.count = 1;
    create.mailbox_create.placing = &placing;
    seed_command(&create);
}

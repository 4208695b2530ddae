// SPDX-License-Identifier: Apache-2.0
#include "proto/batch.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/crc.h"

static const struct producer_id producer = {.bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static void add(struct batch_builder *b, const char *key, const char *payload) {
    cr_assert_eq(batch_add(b, key, strlen(key), NULL, 0, payload, strlen(payload)), ERR_OK);
}

/* Three messages: "k1"/"one", without key and payload, "k3"/"three" with two headers. */
static struct batch_builder three(void) {
    struct batch_builder b = {0};
    const struct batch_field headers[] = {{"type", 4, "text", 4}, {"empty", 5, "", 0}};
    add(&b, "k1", "one");
    add(&b, "", "");
    cr_assert_eq(batch_add(&b, "k3", 2, headers, 2, "three", 5), ERR_OK);
    batch_finish(&b, &producer, 7, 5, 123456, BATCH_FLAG_DEAD_LETTER);
    return b;
}

static void expect_string(struct batch_string s, const char *text) {
    cr_assert_eq(s.size, strlen(text));
    cr_assert_eq(memcmp(s.data, text, s.size), 0);
}

Test(batch, what_was_built_is_read) {
    struct batch_builder b = three();
    struct batch_header h;
    struct err_detail d = {0};
    cr_assert_eq(batch_check(b.data, b.size, &d), ERR_OK, "%s", d.text);
    batch_read_header(b.data, &h);
    cr_assert_eq(h.size, b.size);
    cr_assert_eq(h.count, 3);
    cr_assert_eq(h.sequence, 7);
    cr_assert_eq(h.after, 5);
    cr_assert_eq(h.published, 123456);
    cr_assert_eq(h.flags, BATCH_FLAG_DEAD_LETTER);
    cr_assert_eq(memcmp(&h.producer, &producer, sizeof producer), 0);
    struct batch_cursor cursor = batch_messages(b.data, b.size);
    struct batch_message m;
    cr_assert(batch_next(&cursor, &m));
    expect_string(m.key, "k1");
    expect_string(m.payload, "one");
    cr_assert(batch_next(&cursor, &m));
    expect_string(m.payload, "");
    cr_assert_eq(m.bytes, BATCH_MESSAGE_OVERHEAD_BYTES);
    cr_assert(batch_next(&cursor, &m));
    struct batch_string name, value;
    const uint8_t *at = m.headers_start;
    cr_assert_eq(m.headers, 2);
    batch_header_next(&at, &name, &value);
    expect_string(name, "type");
    expect_string(value, "text");
    batch_header_next(&at, &name, &value);
    expect_string(name, "empty");
    expect_string(value, "");
    expect_string(m.payload, "three");
    cr_assert(!batch_next(&cursor, &m));
    cr_assert_eq(cursor.at, cursor.end);
    batch_builder_free(&b);
}

Test(batch, the_leader_stamps_without_touching_the_checksum) {
    struct batch_builder b = three();
    struct batch_header h;
    batch_stamp(b.data, 1000, 3, 99);
    cr_assert_eq(batch_check(b.data, b.size, NULL), ERR_OK);
    batch_read_header(b.data, &h);
    cr_assert_eq(h.base_offset, 1000);
    cr_assert_eq(h.epoch, 3);
    cr_assert_eq(h.stamp, 99);
    batch_builder_free(&b);
}

Test(batch, any_flipped_byte_behind_the_leaders_is_found) {
    struct batch_builder b = three();
    for (size_t at = 24; at < b.size; at++) {
        b.data[at] ^= 0x10;
        cr_assert_eq(batch_check(b.data, b.size, NULL), ERR_INVALID, "byte %zu", at);
        b.data[at] ^= 0x10;
    }
    for (size_t size = 0; size < b.size; size++)
        cr_assert_eq(batch_check(b.data, size, NULL), ERR_INVALID, "cut at %zu", size);
    batch_builder_free(&b);
}

/* Rules that a right checksum does not hide: each row breaks one of them. */
Test(batch, broken_rules_are_named) {
    static const struct {
        size_t at;
        uint8_t value;
        const char *text;
    } rows[] = {
        {32, 0, "batch: magic"},
        {34, 2, "batch: version 2, expected 1"},
        {36, 0, "batch: 0 messages, expected 1 to"},
        {36, 2, "batch: 3 messages found, header says 2"},
        {36, 4, "batch: 3 messages found, header says 4"},
        {56, 5, "batch: sequence 5 not above after 5"},
        {80, 200, "batch: message 0 is malformed"},
        {80, 4, "batch: message 0 is malformed"},
        {85, 200, "batch: message 0 is malformed"},
        {87, 1, "batch: message 0 is malformed"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct batch_builder b = three();
        struct err_detail d = {0};
        b.data[rows[i].at] = rows[i].value;
        put_u32(b.data + 28, crc32c(0, b.data + BATCH_LEADER_BYTES, b.size - BATCH_LEADER_BYTES));
        cr_expect_eq(batch_check(b.data, b.size, &d), ERR_INVALID);
        cr_expect(strncmp(d.text, rows[i].text, strlen(rows[i].text)) == 0, "got '%s', expected '%s'", d.text,
                  rows[i].text);
        batch_builder_free(&b);
    }
}

Test(batch, slices_are_whole_messages) {
    struct batch_builder b = three();
    size_t offset, bytes;
    struct batch_message m;
    cr_assert(batch_slice(b.data, b.size, 1, 2, &offset, &bytes));
    struct batch_cursor run = batch_run(b.data + offset, bytes);
    cr_assert(batch_next(&run, &m));
    expect_string(m.payload, "");
    cr_assert(batch_next(&run, &m));
    expect_string(m.payload, "three");
    cr_assert_eq(run.at, run.end);
    cr_assert(batch_slice(b.data, b.size, 3, 0, &offset, &bytes), "an empty run at the end");
    cr_assert_eq(offset, b.size);
    cr_assert_eq(bytes, 0);
    cr_assert(batch_slice(b.data, b.size, 0, 3, &offset, &bytes));
    cr_assert_eq(offset, BATCH_HEADER_BYTES);
    cr_assert_eq(bytes, b.size - BATCH_HEADER_BYTES);
    cr_assert(!batch_slice(b.data, b.size, 1, 3, &offset, &bytes));
    cr_assert(!batch_slice(b.data, b.size, UINT32_MAX, 2, &offset, &bytes), "first + count overflows");
    batch_builder_free(&b);
}

Test(batch, limits_leave_the_builder_as_it_was) {
    struct batch_builder b = three();
    size_t size = b.size;
    static char big[BATCH_KEY_BYTES_MAX + 1];
    static struct batch_field many[BATCH_HEADERS_MAX + 1];
    static char longer[70000];
    const struct batch_field nameless = {"", 0, "v", 1}, too_long = {"n", 1, longer, sizeof longer};
    for (size_t i = 0; i <= BATCH_HEADERS_MAX; i++)
        many[i] = (struct batch_field){"n", 1, "v", 1};
    cr_assert_eq(batch_add(&b, big, sizeof big, NULL, 0, "", 0), ERR_TOO_LARGE);
    cr_assert_eq(batch_add(&b, "", 0, many, BATCH_HEADERS_MAX + 1, "", 0), ERR_TOO_LARGE);
    cr_assert_eq(batch_add(&b, "", 0, &nameless, 1, "", 0), ERR_TOO_LARGE);
    cr_assert_eq(batch_add(&b, "", 0, &too_long, 1, "", 0), ERR_TOO_LARGE);
    cr_assert_eq(b.size, size);
    cr_assert_eq(b.count, 3);
    cr_assert_eq(batch_add(&b, big, sizeof big - 1, many, BATCH_HEADERS_MAX, "", 0), ERR_OK);
    batch_finish(&b, &producer, 1, 0, 0, 0);
    cr_assert_eq(batch_check(b.data, b.size, NULL), ERR_OK);
    batch_builder_free(&b);
}

Test(batch, sizes_are_foretold) {
    struct batch_builder b = three();
    const struct batch_field header = {"name", 4, "value", 5};
    size_t before = b.size;
    cr_assert_eq(batch_add(&b, "key", 3, &header, 1, "payload", 7), ERR_OK);
    cr_assert_eq(b.size - before, batch_message_bytes(3, &header, 1, 7));
    batch_builder_free(&b);
}

Test(batch, key_hash_is_xxhash64_with_seed_0) {
    cr_assert_eq(batch_key_hash("", 0), 0xEF46DB3751D8E999u);
    cr_assert_eq(batch_key_hash("abc", 3), 0x44BC2CF5AD770999u);
}

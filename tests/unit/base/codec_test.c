// SPDX-License-Identifier: Apache-2.0
#include "base/codec.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/body.h"
#include "base/crc.h"

Test(codec, bytes_are_little_endian_and_varints_are_leb128) {
    struct encoder e = {0};
    encode_u16(&e, 0x0102);
    encode_u32(&e, 0x03040506);
    encode_u64(&e, 0x0708090a0b0c0d0e);
    encode_varint(&e, 300);
    encode_string(&e, "ab");
    const uint8_t expected[] = {2,    1, 6, 5, 4,    3, 0x0e, 0x0d, 0x0c, 0x0b,
                                0x0a, 9, 8, 7, 0xac, 2, 2,    'a',  'b'};
    cr_assert_eq(e.size, sizeof expected);
    cr_assert_arr_eq(e.data, expected, sizeof expected);
    encoder_free(&e);
}

Test(codec, what_was_written_is_read) {
    static const uint64_t varints[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
    struct encoder e = {0};
    for (size_t i = 0; i < 8; i++)
        encode_varint(&e, varints[i]);
    encode_u8(&e, 7);
    encode_u64(&e, UINT64_MAX);
    encode_bytes(&e, "", 0);
    encode_bytes(&e, "xyz", 3);
    struct body *b = encoder_body(&e);
    cr_assert_eq(e.size, 0);
    struct decoder d = decoder_of(b->data, b->size);
    for (size_t i = 0; i < 8; i++)
        cr_assert_eq(decode_varint(&d), varints[i]);
    size_t size;
    cr_assert_eq(decode_u8(&d), 7);
    cr_assert_eq(decode_u64(&d), UINT64_MAX);
    cr_assert_not_null(decode_bytes(&d, &size));
    cr_assert_eq(size, 0);
    cr_assert_eq(memcmp(decode_bytes(&d, &size), "xyz", 3), 0);
    cr_assert(!d.failed);
    cr_assert_eq(decoder_left(&d), 0);
    body_drop(b);
}

Test(codec, a_short_read_fails_and_stays_failed) {
    const uint8_t bytes[] = {1, 2, 3};
    struct decoder d = decoder_of(bytes, sizeof bytes);
    cr_assert_eq(decode_u32(&d), 0);
    cr_assert(d.failed);
    cr_assert_eq(decode_u8(&d), 0, "what follows a failure is zero, though a byte is left");
    cr_assert_eq(decoder_left(&d), 0);
}

Test(codec, malformed_input_fails) {
    static const struct {
        const char *why;
        uint8_t bytes[12];
        size_t size;
        bool string;
    } rows[] = {
        {"varint without an end", {0x80, 0x80}, 2, false},
        {"varint above 64 bits", {255, 255, 255, 255, 255, 255, 255, 255, 255, 2}, 10, false},
        {"varint of 11 bytes", {255, 255, 255, 255, 255, 255, 255, 255, 255, 0x81, 0}, 11, false},
        {"string longer than the input", {4, 'a', 'b'}, 3, true},
        {"length near 2^64", {255, 255, 255, 255, 255, 255, 255, 255, 255, 1}, 10, true},
        {"string longer than the buffer", {4, 'a', 'b', 'c', 'd'}, 5, true},
        {"string with a NUL", {2, 'a', 0}, 3, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct decoder d = decoder_of(rows[i].bytes, rows[i].size);
        char out[4] = "?";
        if (rows[i].string) {
            decode_string(&d, out, sizeof out);
            cr_assert_str_empty(out);
        } else
            decode_varint(&d);
        cr_assert(d.failed, "%s", rows[i].why);
    }
}

Test(crc, check_value_of_rfc_3720_and_continuation) {
    cr_assert_eq(crc32c(0, "123456789", 9), 0xE3069283u);
    cr_assert_eq(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
    cr_assert_eq(crc32c(0, "", 0), 0);
}

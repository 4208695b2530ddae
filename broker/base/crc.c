// SPDX-License-Identifier: Apache-2.0
#include "base/crc.h"

#include <isa-l/crc.h>
#include <limits.h>

#include "base/check.h"

uint32_t crc32c(uint32_t crc, const void *data, size_t size) {
    CHECK(size <= INT_MAX);
    /* crc32_iscsi wants the running value without the final inversion */
    return ~crc32_iscsi((unsigned char *)(uintptr_t)data, (int)size, ~crc);
}

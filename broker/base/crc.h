// SPDX-License-Identifier: Apache-2.0
/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), by ISA-L's hardware code. */
#ifndef MAILROOM_BASE_CRC_H
#define MAILROOM_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* crc of `size` bytes continuing from `crc` (0 to start): crc32c(crc32c(0,a),b)
 * is the CRC of a followed by b. crc32c(0, "123456789", 9) = 0xE3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * What fuzz targets share. A target is one file NAME_fuzz.c with libFuzzer's
 * LLVMFuzzerTestOneInput and, for its corpus, fuzz_seeds: valid input to start
 * from, written by the program itself with `NAME_fuzz --seeds FOLDER`, so that
 * it is always of the present format.
 */
#ifndef MAILROOM_TESTS_FUZZ_H
#define MAILROOM_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Each target's own: calls fuzz_seed for each. */
void fuzz_seeds(void);
void fuzz_seed(const void *data, size_t size);

/* An expectation of a target; ends the process, so that libFuzzer keeps the input. */
#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fuzz_failed(#condition, __FILE__, __LINE__);                                                     \
    } while (0)
__attribute__((noreturn)) void fuzz_failed(const char *condition, const char *file, int line);

/* Input as a stream of choices: zeros after its end. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};
uint64_t fuzz_take(struct fuzz_input *in, size_t bytes); /* little-endian, 1 to 8 bytes */
/* At most `most` bytes of what is left. */
const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t most, size_t *size);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;
static int seeds;

void fuzz_seed(const void *data, size_t size) {
    char path[512];
    snprintf(path, sizeof path, "%s/seed-%d", folder, ++seeds);
    FILE *f = fopen(path, "w");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    if (*argc == 3 && strcmp((*argv)[1], "--seeds") == 0) {
        folder = (*argv)[2];
        fuzz_seeds();
        exit(0);
    }
    return 0;
}

void fuzz_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "expected: %s (%s:%d)\n", condition, file, line);
    abort();
}

uint64_t fuzz_take(struct fuzz_input *in, size_t bytes) {
    uint64_t v = 0;
    for (size_t i = 0; i < bytes && in->size > 0; i++) {
        v |= (uint64_t)*in->data++ << (8 * i);
        in->size--;
    }
    return v;
}

const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t most, size_t *size) {
    const uint8_t *at = in->data;
    *size = most < in->size ? most : in->size;
    in->data += *size;
    in->size -= *size;
    return at;
}

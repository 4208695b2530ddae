// SPDX-License-Identifier: Apache-2.0
/* A small seeded generator (SplitMix64, Steele et al. 2014) for the pure core
 * and the simulator: same seed, same numbers. Not for secrets. */
#ifndef MAILROOM_BASE_RNG_H
#define MAILROOM_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r) {
    uint64_t z = (r->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
/* 0 .. below-1; below > 0. */
static inline uint64_t rng_below(struct rng *r, uint64_t below) {
    return rng_next(r) % below;
}

#endif

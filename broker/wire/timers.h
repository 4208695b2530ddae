// SPDX-License-Identifier: Apache-2.0
/* The loop's timers: a binary heap of pointers, each timer knows its slot. */
#ifndef MAILROOM_WIRE_TIMERS_H
#define MAILROOM_WIRE_TIMERS_H

#include "wire/loop.h"

/* The earliest start, USEC_NEVER if none is. */
usec_t timers_next(const struct loop *loop);
/* Fire those due at `now`, earliest first; those started meanwhile wait. */
void timers_fire(struct loop *loop, usec_t now);

#endif

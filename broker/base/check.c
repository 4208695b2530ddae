// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <stdlib.h>

#include "base/log.h"

void check_failed(const char *expression, const char *file, int line, const char *function) {
    log_error("broken invariant: %s (%s:%d, %s)", expression, file, line, function);
    abort();
}

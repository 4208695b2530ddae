// SPDX-License-Identifier: Apache-2.0
#include "wire/link_private.h"

/* NNG_ENOENT: the path of an ipc socket does not exist, so nobody listens. */
enum link_cause wire_cause(int nng_error) {
    switch (nng_error) {
    case NNG_ECONNREFUSED:
    case NNG_ENOENT:
        return LINK_END_REFUSED;
    case NNG_ETIMEDOUT:
        return LINK_END_TIMEOUT;
    case NNG_ECLOSED:
    case NNG_ECONNSHUT:
    case NNG_ECONNRESET:
    case NNG_ECONNABORTED:
        return LINK_END_PEER;
    default:
        return LINK_END_FAILED;
    }
}

enum err wire_code(int nng_error) {
    switch (nng_error) {
    case NNG_ETIMEDOUT:
        return ERR_TIMEOUT;
    case NNG_EPEERAUTH:
    case NNG_ECRYPTO:
    case NNG_EPERM:
        return ERR_DENIED;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
    case NNG_ENOTSUP:
        return ERR_INVALID;
    case NNG_ENOMEM:
    case NNG_ENOFILES:
        return ERR_UNAVAILABLE;
    default:
        return ERR_CLOSED;
    }
}

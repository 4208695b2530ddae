// SPDX-License-Identifier: Apache-2.0
/*
 * The control channel: one SOCK_SEQPACKET pair a child, one struct a packet.
 *
 * supervisor -> child: HELLO (first, once), STOP, PEER_UP (with a descriptor of
 * the peer's counters), PEER_DOWN. child -> supervisor: READY, FORGIVE.
 *
 * Two releases may talk to each other over an upgrade: a reader takes the first
 * `size` bytes of a known kind, reads zero for what an older peer did not send,
 * and skips kinds it does not know. New fields go to the end of their struct.
 */
#ifndef MAILROOM_SUPERVISOR_CONTROL_H
#define MAILROOM_SUPERVISOR_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "supervisor/child.h"
#include "supervisor/tree.h"

/* Where a child finds what it inherits. */
enum {
    CONTROL_FD = 3,
    CONTROL_FD_CONFIG,   /* memfd: the configuration's bytes, sealed */
    CONTROL_FD_COUNTERS, /* memfd: its counters segment */
    CONTROL_FD_BOARD,    /* memfd: the supervisor's board, read-only by custom */
    CONTROL_FD_LOCK,     /* the data folder's lock: held while any process of the node lives */
    CONTROL_FDS_END
};

enum { CONTROL_VERSION = 1, CONTROL_FILE_BYTES = 256 };

enum control_kind {
    CONTROL_HELLO = 1,
    CONTROL_STOP,
    CONTROL_PEER_UP,
    CONTROL_PEER_DOWN,
    CONTROL_READY,
    CONTROL_FORGIVE
};

struct control_crash {
    uint64_t partition;
    uint32_t count;
    uint32_t reserved;
};

struct control_hello {
    int32_t supervisor;
    uint32_t instance;
    uint32_t shards;
    uint32_t reserved;
    char role[CHILD_ROLE_BYTES];
    uint32_t index;
    uint32_t reserved2;
    char path[CHILD_PATH_BYTES + 4];
    char file[CONTROL_FILE_BYTES]; /* the configuration's name, for error texts */
    struct control_crash crashes[TREE_CRASHES_MAX];
};

struct control_peer {
    char role[CHILD_ROLE_BYTES];
    uint32_t index;
    uint32_t instance;
    int32_t pid;
    uint32_t reserved;
    char path[CHILD_PATH_BYTES + 4];
};

struct control_message {
    uint16_t version;
    uint16_t kind;
    uint32_t size; /* bytes of the union that are meant */
    union {
        struct control_hello hello;
        struct control_peer peer;
        uint64_t partition; /* FORGIVE */
    };
};

enum control_result { CONTROL_DONE, CONTROL_AGAIN, CONTROL_GONE };

/* Both ends non-blocking and close-on-exec. False with errno. */
bool control_pair(int ends[2]);
/* Sends kind with size bytes of the union; fd >= 0 travels along (the caller
 * keeps its own). AGAIN: the peer does not read now. GONE: it has closed. */
enum control_result control_send(int fd, struct control_message *m, enum control_kind kind, uint32_t size,
                                 int attached);
/* One packet; *attached is a descriptor (the caller's to close) or -1. A packet
 * that is no message is skipped. */
enum control_result control_receive(int fd, struct control_message *m, int *attached);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "supervisor/control.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = offsetof(struct control_message, hello) };

bool control_pair(int ends[2]) {
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0;
}

union descriptor_space {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static enum control_result result_of_errno(void) {
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? CONTROL_AGAIN : CONTROL_GONE;
}

enum control_result control_send(int fd, struct control_message *m, enum control_kind kind, uint32_t size,
                                 int attached) {
    m->version = CONTROL_VERSION;
    m->kind = (uint16_t)kind;
    m->size = size;
    struct iovec iov = {m, HEAD_BYTES + size};
    union descriptor_space space = {0};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (attached >= 0) {
        h.msg_control = space.bytes;
        h.msg_controllen = sizeof space.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof attached);
        memcpy(CMSG_DATA(c), &attached, sizeof attached);
    }
    return sendmsg(fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? result_of_errno() : CONTROL_DONE;
}

static int take_descriptor(struct msghdr *h) {
    struct cmsghdr *c = CMSG_FIRSTHDR(h);
    int fd = -1;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

enum control_result control_receive(int fd, struct control_message *m, int *attached) {
    for (;;) {
        memset(m, 0, sizeof *m);
        struct iovec iov = {m, sizeof *m};
        union descriptor_space space;
        struct msghdr h = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = space.bytes,
                           .msg_controllen = sizeof space.bytes};
        ssize_t n = recvmsg(fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? result_of_errno() : CONTROL_GONE;
        *attached = take_descriptor(&h);
        if (n >= HEAD_BYTES)
            return CONTROL_DONE;
        if (*attached >= 0)
            close(*attached);
    }
}

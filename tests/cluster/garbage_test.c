// SPDX-License-Identifier: Apache-2.0
/*
 * Strangers on the client port and on the cluster ports: bytes that are no
 * frames. They are told why and shown out; nobody else notices.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "say.h"

enum { HELLO = 1, PUBLISH = 13, UNKNOWN = 127, PREFIX = 12, ANSWER_MAX = 4096, STRANGERS = 200 };

static struct cluster *c;
static mr_client *client;

static void begin(void) {
    c = cluster_start(&(struct cluster_options){.nodes = 3});
    client = cluster_client(c, 0);
    create_mailbox(client, "a", settings_of(NULL));
}

static void end(void) {
    mr_client_close(client, CLUSTER_WAIT_MS, NULL);
    cluster_end(c);
}

static int dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0, "port %d: %s", port,
                 strerror(errno));
    return fd;
}

static size_t frame(uint8_t *out, uint32_t length, uint16_t type, const void *header, size_t size) {
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(length >> 8 * i);
    out[4] = (uint8_t)type;
    out[5] = (uint8_t)(type >> 8);
    out[6] = out[7] = 0;
    for (int i = 0; i < 4; i++)
        out[8 + i] = (uint8_t)((uint32_t)size >> 8 * i);
    if (size)
        memcpy(out + PREFIX, header, size);
    return PREFIX + size;
}

/* All the other side says until it hangs up. */
static size_t hear_out(int fd, uint8_t *answer, const char *what) {
    size_t size = 0;
    int64_t stop = clock_ms() + CLUSTER_WAIT_MS;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = stop - clock_ms();
        cr_assert(left > 0 && poll(&p, 1, (int)left) > 0, "%s: the session is still open", what);
        ssize_t got = read(fd, answer + size, ANSWER_MAX - size);
        if (got <= 0)
            return size;
        size += (size_t)got;
        cr_assert_lt(size, (size_t)ANSWER_MAX, "%s: it talks on", what);
    }
}

static bool says(const uint8_t *answer, size_t size, const char *word) {
    return memmem(answer, size, word, strlen(word)) != NULL;
}

/* version_min, version_max, frame_bytes_max 64 KiB, in protobuf. */
static size_t hello(uint8_t *out, uint8_t min, uint8_t max) {
    const uint8_t header[] = {0x08, min, 0x10, max, 0x20, 0x80, 0x80, 0x04, 0x32, 1, 't'};
    return frame(out, 8 + sizeof header, HELLO, header, sizeof header);
}

struct offence {
    const char *name;
    const char *word; /* of the answer; NULL: no answer is owed */
    bool after_hello;
    size_t size;
    uint8_t bytes[256];
};

static size_t offences(struct offence *o) {
    size_t n = 0;
    o[n] = (struct offence){"garbage", NULL, false, 0, {0}};
    for (size_t i = 0; i < 200; i++)
        o[n].bytes[o[n].size++] = (uint8_t)(i * 37 + 255);
    n++;
    o[n] = (struct offence){"http", NULL, false, 0, {0}};
    o[n].size = (size_t)snprintf((char *)o[n].bytes, 200, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    n++;
    o[n] = (struct offence){"a frame of 4 GiB", "at most", false, 0, {0}};
    o[n].size = frame(o[n].bytes, 0xffffffff, HELLO, NULL, 0);
    n++;
    o[n] = (struct offence){"a frame of 4 GiB after the hello", "at most", true, 0, {0}};
    o[n].size = frame(o[n].bytes, 0xffffffff, PUBLISH, NULL, 0);
    n++;
    o[n] = (struct offence){"an unknown type", "127", true, 0, {0}};
    o[n].size = frame(o[n].bytes, 8, UNKNOWN, NULL, 0);
    n++;
    o[n] = (struct offence){"a length of 0", NULL, true, 0, {0}};
    o[n].size = frame(o[n].bytes, 0, PUBLISH, NULL, 0);
    n++;
    o[n] = (struct offence){"a header that is none", NULL, true, 0, {0}};
    o[n].size = frame(o[n].bytes, 12, PUBLISH, "\xff\xff\xff\xff", 4);
    n++;
    o[n] = (struct offence){"a version nobody speaks", "version", false, 0, {0}};
    o[n].size = hello(o[n].bytes, 90, 99);
    n++;
    o[n] = (struct offence){"a first frame that is no hello", NULL, false, 0, {0}};
    o[n].size = frame(o[n].bytes, 8, PUBLISH, NULL, 0);
    n++;
    return n;
}

static void offend(int port, const struct offence *o, bool answer_owed) {
    uint8_t answer[ANSWER_MAX], first[64];
    char what[128];
    snprintf(what, sizeof what, "%s to port %d", o->name, port);
    int fd = dial(port);
    if (o->after_hello)
        cr_assert_gt(write(fd, first, hello(first, 1, 1)), 0);
    cr_assert_eq(write(fd, o->bytes, o->size), (ssize_t)o->size);
    size_t size = hear_out(fd, answer, what);
    if (answer_owed && o->word)
        cr_assert(says(answer, size, o->word), "%s: '%s' is not in the answer of %zu bytes: %.*s", what,
                  o->word, size, (int)(size > 16 ? size - 16 : 0), (char *)answer + 16);
    close(fd);
}

static int64_t restarts(void) {
    int64_t all = 0;
    SAYS(c, 0, "mailroom --json cluster status");
    for (int n = 0; n < 3; n++)
        for (int p = 0; p < 4; p++) {
            char path[64];
            snprintf(path, sizeof path, "nodes.%d.processes.%d.restarts", n, p);
            all += said_number(path);
        }
    return all;
}

Test(garbage, is_shown_out_and_nobody_else_notices, .init = begin, .fini = end) {
    static struct offence all[16];
    size_t count = offences(all);
    const struct cluster_node *n = &c->nodes[1];
    int ports[] = {n->client_port, n->cluster_port, n->cluster_port + 1};
    for (size_t i = 0; i < count; i++)
        for (int p = 0; p < 3; p++) {
            offend(ports[p], &all[i], p == 0);
            publish_text(client, "a", "meanwhile");
        }
    cr_assert_eq(conserved(client, "a", "default").published, count * 3);
    cr_assert_eq(restarts(), 0, "a process was restarted");
}

/* Many that say half a word and stay: they may not keep others out. */
Test(garbage, half_a_frame_holds_nobody_up, .init = begin, .fini = end) {
    int fds[STRANGERS];
    const struct cluster_node *n = &c->nodes[0];
    int ports[] = {n->client_port, n->cluster_port, n->cluster_port + 1};
    for (int i = 0; i < STRANGERS; i++) {
        uint8_t bytes[64];
        size_t size = hello(bytes, 1, 1);
        fds[i] = dial(ports[i % 3]);
        if (i % 4)
            cr_assert_gt(write(fds[i], bytes, size / 2), 0);
    }
    SAYS(c, 0, "mailroom --server 127.0.0.1:%d publish a x", n->client_port);
    uint8_t answer[ANSWER_MAX];
    int64_t start = clock_ms();
    for (int i = 0; i < STRANGERS; i++) {
        hear_out(fds[i], answer, "half a hello");
        close(fds[i]);
    }
    fprintf(stderr, "strangers were shown out within %lld ms\n", (long long)(clock_ms() - start));
    publish_text(client, "a", "after");
    cr_assert_eq(restarts(), 0, "a process was restarted");
}

Test(garbage, damaged_bytes_inside_a_session_end_it_alone, .init = begin, .fini = end) {
    uint8_t bytes[4096], answer[ANSWER_MAX];
    unsigned seed = 7;
    for (int i = 0; i < 100; i++) {
        int fd = dial(c->nodes[0].client_port + (i % 3 == 0 ? 0 : 1 + i % 3)); /* client, cluster, shard */
        size_t size = hello(bytes, 1, 1);
        uint8_t header[64];
        for (size_t k = 0; k < sizeof header; k++)
            header[k] = (uint8_t)(rand_r(&seed) >> 8);
        for (int f = 0; f < 3; f++)
            size += frame(bytes + size, 8 + sizeof header, (uint16_t)(2 + rand_r(&seed) % 80), header,
                          sizeof header);
        if (write(fd, bytes, size) > 0) {
            shutdown(fd, SHUT_WR);
            hear_out(fd, answer, "random frames");
        }
        close(fd);
    }
    publish_text(client, "a", "after");
    cr_assert_eq(restarts(), 0, "a process was restarted");
}

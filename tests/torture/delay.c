// SPDX-License-Identifier: Apache-2.0
/*
 * Delays packets on their way: takes what comes in at one interface and sends it
 * out at another one later, in order, as a longer, unsteady or narrow line would.
 * What does not fit the queue is dropped, as a router would. On SIGTERM it sends
 * what it holds at once and ends.
 *
 * usage: delay FROM TO DELAY_US JITTER_US BYTES_PER_S   (0: not narrow)
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* With the kernel's own header before each packet: it hands over pieces larger
 * than a frame and without checksum, and takes them back like that. */
enum { PACKET_BYTES_MAX = sizeof(struct virtio_net_hdr) + 65550, QUEUE_PACKETS = 4096 };

struct packet {
    int64_t due_us;
    size_t size;
    uint8_t *bytes;
};

static struct packet queue[QUEUE_PACKETS];
static size_t head, count;
static int64_t delay_us, jitter_us, bytes_per_s, last_due_us, line_free_us;
static int from, to;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static int open_interface(const char *name, int protocol) {
    int on = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons((uint16_t)protocol));
    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_protocol = htons((uint16_t)protocol),
                             .sll_ifindex = (int)if_nametoindex(name)};
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof at) != 0)
        die(name);
    return fd;
}

/* When a packet of that size that comes now reaches the line's other end. */
static int64_t due(size_t size) {
    int64_t start = now_us();
    if (bytes_per_s) {
        start = line_free_us > start ? line_free_us : start;
        line_free_us = start += (int64_t)size * 1000000 / bytes_per_s;
    }
    int64_t at = start + delay_us + (jitter_us ? random() % jitter_us : 0);
    last_due_us = at > last_due_us ? at : last_due_us;
    return last_due_us;
}

static void take(void) {
    static uint8_t buffer[PACKET_BYTES_MAX];
    struct sockaddr_ll sender;
    socklen_t size = sizeof sender;
    ssize_t n = recvfrom(from, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *)&sender, &size);
    if (n <= 0 || sender.sll_pkttype == PACKET_OUTGOING || count == QUEUE_PACKETS)
        return;
    struct packet *p = &queue[(head + count++) % QUEUE_PACKETS];
    *p = (struct packet){due((size_t)n), (size_t)n, malloc((size_t)n)};
    memcpy(p->bytes, buffer, (size_t)n);
}

static void give(bool all) {
    int64_t now = now_us();
    while (count > 0 && (all || queue[head].due_us <= now)) {
        struct packet *p = &queue[head];
        send(to, p->bytes, p->size, 0); /* refused: lost on the way */
        free(p->bytes);
        head = (head + 1) % QUEUE_PACKETS;
        count--;
    }
}

static void arm(int timer) {
    struct itimerspec t = {0};
    if (count > 0) {
        t.it_value.tv_sec = queue[head].due_us / 1000000;
        t.it_value.tv_nsec = queue[head].due_us % 1000000 * 1000 + 1;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL);
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    from = open_interface(argv[1], ETH_P_ALL);
    to = open_interface(argv[2], 0);
    delay_us = atoll(argv[3]);
    jitter_us = atoll(argv[4]);
    bytes_per_s = atoll(argv[5]);
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct pollfd p[] = {
        {from, POLLIN, 0}, {timer, POLLIN, 0}, {signalfd(-1, &term, SFD_CLOEXEC), POLLIN, 0}};
    if (write(STDOUT_FILENO, "ready\n", 6) != 6)
        return 1;
    while (!p[2].revents) {
        arm(timer);
        poll(p, 3, -1);
        if (p[0].revents)
            take();
        give(false);
    }
    give(true);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "admin/http.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool page(void *ctx, const char *path, struct http_answer *answer) {
    if (strcmp(path, "/page") != 0)
        return false;
    text_add(&answer->body, "hello %s\n", (const char *)ctx);
    return true;
}

static struct http *open_any(void) {
    struct config_address address = {.text = "127.0.0.1:0", .host = "127.0.0.1"};
    struct err_detail detail;
    struct http *h = http_open(&address, page, "world", &detail);
    cr_assert(h, "%s", detail.text);
    return h;
}

/* The whole answer to a request, the server turned meanwhile. */
static const char *ask(struct http *h, const char *request) {
    static char answer[4096];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(http_port(h))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    cr_assert_eq(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    size_t got = 0;
    for (int tries = 0; tries < 1000; tries++) {
        struct pollfd fds[] = {{.fd = http_fd(h), .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        poll(fds, 2, 10);
        http_turn(h);
        ssize_t n = recv(fd, answer + got, sizeof answer - 1 - got, MSG_DONTWAIT);
        if (n == 0)
            break;
        if (n > 0)
            got += (size_t)n;
    }
    answer[got] = 0;
    close(fd);
    return answer;
}

Test(http, a_page_is_served_and_others_are_not_found) {
    struct http *h = open_any();
    const char *answer = ask(h, "GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    cr_assert(strstr(answer, "200 OK"), "%s", answer);
    cr_assert(strstr(answer, "\r\n\r\nhello world\n"));
    cr_assert(strstr(ask(h, "GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "404 Not Found"));
    http_close(h);
}

Test(http, only_reading_is_allowed) {
    struct http *h = open_any();
    const char *answer =
        ask(h, "POST /page HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    cr_assert(strstr(answer, "405 Method Not Allowed"), "%s", answer);
    http_close(h);
}

Test(http, a_port_in_use_is_said) {
    struct http *h = open_any();
    struct config_address address = {.text = "127.0.0.1:taken", .host = "127.0.0.1", .port = http_port(h)};
    struct err_detail detail;
    cr_assert_null(http_open(&address, page, NULL, &detail));
    cr_assert(strstr(detail.text, "127.0.0.1:taken"));
    http_close(h);
}

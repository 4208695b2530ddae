// SPDX-License-Identifier: Apache-2.0
/* Connecting, moving, leaving; requests; and gateways that lie. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/codec.h"
#include "fake.h"

static mr_client *client_of(const char *servers, int64_t timeout_ms) {
    mr_client_options o = {.struct_size = sizeof o, .servers = servers, .timeout_ms = timeout_ms};
    mr_client *client;
    mr_error error;
    cr_assert(mr_client_open(&o, &client, &error) == MR_OK, "%s", error.text);
    return client;
}

Test(session, wrong_options_are_told) {
    static const char *const wrong[] = {
        "",        "localhost",   "localhost:", "localhost:0", "localhost:70000",
        ":7400",   "a:7400,,b:1", "::1:7400",   "host:74x0",   "ipc://",
        "h:7400,", "[::1]"};
    for (size_t i = 1; i < sizeof wrong / sizeof *wrong; i++) {
        mr_client_options o = {.struct_size = sizeof o, .servers = wrong[i]};
        mr_client *client;
        mr_error error;
        cr_assert(mr_client_open(&o, &client, &error) == MR_EINVALID, "'%s' was taken", wrong[i]);
        cr_assert(strstr(error.text, "HOST:PORT"), "%s", error.text);
        cr_assert(!client);
    }
}

Test(session, finds_the_address_that_answers) {
    struct fake *f = fake_new();
    char servers[300];
    snprintf(servers, sizeof servers, "127.0.0.1:1,[::1]:1,%s", f->address);
    for (int i = 0; i < 3; i++) {
        mr_client *client = client_of(servers, 10000);
        mr_error error;
        cr_assert(mr_client_wait(client, 10000, &error) == MR_OK, "%s", error.text);
        mr_client_close(client, 1000, NULL);
    }
    fake_free(f);
}

Test(session, resolves_names) {
    struct fake *f = fake_new();
    char servers[300];
    snprintf(servers, sizeof servers, "localhost:%s", strchr(f->address, ':') + 1);
    mr_client *client = client_of(servers, 10000);
    mr_error error;
    cr_assert(mr_client_wait(client, 10000, &error) == MR_OK, "%s", error.text);
    mr_client_close(client, 1000, NULL);
    fake_free(f);
}

Test(session, learns_addresses_from_the_cluster) {
    struct fake *first = fake_new(), *second = fake_new();
    first->addresses[0] = second->address;
    first->addresses_count = 1;
    mr_client *client = client_of(first->address, 10000);
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    fake_free(first); /* dies with its port */
    mr_publication p = text("x");
    mr_error error;
    cr_assert(mr_publish(client, "orders", &p, 10000, NULL, &error) == MR_OK, "%s", error.text);
    cr_assert(second->stored == 1);
    mr_client_close(client, 1000, NULL);
    fake_free(second);
}

Test(session, goaway_opens_the_next_session_before_leaving) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    mr_consumer *k;
    cr_assert(mr_consumer_open(client, "orders", NULL, 5000, &k, NULL) == MR_OK);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, NULL) == MR_OK);
    fake_deliver(f, &(struct fake_delivery){.first_offset = 0, .count = 2});
    mr_message *m;
    cr_assert(mr_consumer_next(k, 5000, &m, NULL) == MR_OK);
    fake_goaway(f);
    FAKE_WAIT(f, f->sessions == 2 && f->subscribes == 2 && !f->links[1]);
    cr_assert(f->held_count == 1 && f->held[0].count == 2);
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, NULL) == MR_OK);
    cr_assert(f->published[1].session == 2 && f->stored == 2);
    mr_message_free(m);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(session, leaves_a_peer_that_says_nothing) {
    struct fake *f = fake_new();
    f->deaf = true;
    mr_client *client = fake_client(f, 5000);
    FAKE_WAIT(f, f->sessions == 2); /* after SESSION_HELLO_USEC */
    mr_error error;
    cr_assert(mr_client_wait(client, 0, &error) == MR_ETIMEOUT && strstr(error.text, "hello"), "%s",
              error.text);
    mr_client_close(client, 1000, NULL);
    fake_free(f);
}

Test(session, asks_a_quiet_peer_whether_it_lives) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    FAKE_WAIT(f, f->pings >= 2);
    cr_assert(f->sessions == 1);
    mr_client_close(client, 1000, NULL);
    fake_free(f);
}

/* --- closing ---------------------------------------------------------------- */

static atomic_int completed;

static void count(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    atomic_fetch_add(&completed, 1);
}

Test(session, closing_never_hangs_and_completes_everything) {
    struct fake *f = fake_new();
    f->mute = true;
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    mr_consumer *k;
    cr_assert(mr_consumer_open(client, "orders", NULL, 5000, &k, NULL) == MR_OK);
    for (int i = 0; i < 10; i++)
        cr_assert(mr_publish_async(client, "orders", &p, 60000, 0, count, NULL, NULL) == MR_OK);
    FAKE_WAIT(f, f->published_count > 0);
    mr_error error;
    usec_t before = clock_now();
    cr_assert(mr_client_close(client, 200, &error) == MR_EUNKNOWN, "%s", error.text);
    cr_assert(clock_now() - before < 3 * USEC_S);
    cr_assert(completed == 10);
    fake_free(f);
}

Test(session, closing_without_a_cluster_is_quick) {
    mr_client *client = client_of("127.0.0.1:1", 5000);
    usec_t before = clock_now();
    cr_assert(mr_client_close(client, 5000, NULL) == MR_OK);
    cr_assert(clock_now() - before < 3 * USEC_S);
}

static atomic_bool in_callback, let_go;

static void stubborn(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    atomic_store(&in_callback, true);
    while (!atomic_load(&let_go)) /* a program that breaks the rule */
        usleep(1000);
}

Test(session, closing_does_not_wait_for_a_callback_that_stays) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    cr_assert(mr_publish_async(client, "orders", &p, 5000, 0, stubborn, NULL, NULL) == MR_OK);
    FAKE_WAIT(f, atomic_load(&in_callback));
    mr_error error;
    usec_t before = clock_now();
    cr_assert(mr_publish(client, "orders", &p, 100, NULL, &error) == MR_EUNKNOWN, "%s", error.text);
    cr_assert(mr_client_close(client, 100, &error) == MR_EUNKNOWN);
    cr_assert(clock_now() - before < 5 * USEC_S);
    atomic_store(&let_go, true);
    fake_free(f);
}

static mr_client *own;
static atomic_int usage;

static void misuse(void *ctx, const mr_receipt *receipt, const mr_error *error) {
    mr_publication p = text("y");
    bool told = mr_publish(own, "orders", &p, 1000, NULL, NULL) == MR_EUSAGE &&
                mr_client_flush(own, 1000, NULL) == MR_EUSAGE &&
                mr_client_close(own, 1000, NULL) == MR_EUSAGE &&
                mr_publish_async(own, "orders", &p, 5000, 0, NULL, NULL, NULL) == MR_OK;
    atomic_store(&usage, told ? 1 : -1);
}

Test(session, calls_that_wait_are_refused_in_callbacks) {
    struct fake *f = fake_new();
    own = fake_client(f, 5000);
    mr_publication p = text("x");
    cr_assert(mr_publish_async(own, "orders", &p, 5000, 0, misuse, NULL, NULL) == MR_OK);
    FAKE_WAIT(f, atomic_load(&usage));
    cr_assert(usage == 1);
    cr_assert(mr_client_close(own, 5000, NULL) == MR_OK);
    cr_assert(f->stored == 2);
    fake_free(f);
}

Test(session, a_forked_child_is_told) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    pid_t child = fork();
    if (child == 0) {
        mr_publication p = text("x");
        mr_client *other;
        mr_consumer *k;
        int ok = mr_publish(client, "orders", &p, 1000, NULL, NULL) == MR_EFORKED &&
                 mr_consumer_open(client, "orders", NULL, 1000, &k, NULL) == MR_EFORKED &&
                 mr_client_open(NULL, &other, NULL) == MR_EFORKED &&
                 mr_client_close(client, 1000, NULL) == MR_EFORKED;
        _exit(ok ? 0 : 1);
    }
    int status;
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    mr_publication p = text("x");
    cr_assert(mr_publish(client, "orders", &p, 5000, NULL, NULL) == MR_OK, "the parent goes on");
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(session, leaves_the_programs_signals_alone) {
    struct sigaction before, after;
    sigaction(SIGPIPE, NULL, &before);
    sigset_t mask_before, mask_after;
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    sigaction(SIGPIPE, NULL, &after);
    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    cr_assert(before.sa_handler == after.sa_handler);
    cr_assert(sigismember(&mask_before, SIGTERM) == sigismember(&mask_after, SIGTERM));
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

/* --- requests --------------------------------------------------------------- */

Test(request, waits_through_a_controller_that_is_being_elected) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_error error;
    f->request_code = MR_EUNAVAILABLE;
    f->request_times = 3;
    cr_assert(mr_mailbox_create(client, "orders", NULL, 5000, &error) == MR_OK, "%s", error.text);
    cr_assert(f->requests == 4);
    f->request_code = MR_EEXISTS;
    f->request_times = 1;
    cr_assert(mr_mailbox_create(client, "orders", NULL, 5000, &error) == MR_EEXISTS, "%s", error.text);
    const mr_mailbox_list *list;
    cr_assert(mr_mailboxes(client, 5000, &list, &error) == MR_OK && list->count == 0, "%s", error.text);
    mr_info_free(list);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(request, without_an_answer_a_question_times_out_and_a_change_is_unknown) {
    struct fake *f = fake_new();
    f->request_mute = true;
    mr_client *client = fake_client(f, 5000);
    mr_error error;
    const mr_mailbox_list *list;
    cr_assert(mr_client_wait(client, 5000, NULL) == MR_OK);
    cr_assert(mr_mailboxes(client, 500, &list, &error) == MR_ETIMEOUT, "%s", error.text);
    cr_assert(mr_mailbox_delete(client, "orders", 500, &error) == MR_EUNKNOWN, "%s", error.text);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

struct request_thread {
    mr_client *client;
    int (*run)(mr_client *, const char *, int64_t, mr_error *);
    int code;
};

static void *request_main(void *arg) {
    struct request_thread *t = arg;
    t->code = t->run(t->client, "orders", 8000, NULL);
    return NULL;
}

/* Runs a request whose first answer is lost with the connection. */
static int lose_answer(struct fake *f, mr_client *client,
                       int (*run)(mr_client *, const char *, int64_t, mr_error *), int second_answer) {
    struct request_thread t = {client, run, -1};
    pthread_t thread;
    fake_lock(f);
    f->request_mute = true;
    unsigned before = f->requests;
    fake_unlock(f);
    pthread_create(&thread, NULL, request_main, &t);
    FAKE_WAIT(f, f->requests == before + 1);
    fake_lock(f);
    f->request_mute = false;
    f->request_code = second_answer;
    f->request_times = second_answer ? 1 : 0;
    fake_unlock(f);
    fake_hang_up(f);
    pthread_join(thread, NULL);
    return t.code;
}

Test(request, a_lost_answer_is_asked_for_again_where_that_is_harmless) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 8000);
    cr_assert(lose_answer(f, client, mr_mailbox_delete, MR_ENOTFOUND) == MR_OK, "it had been deleted");
    cr_assert(lose_answer(f, client, mr_mailbox_purge, 0) == MR_EUNKNOWN, "new messages would go too");
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

/* --- gateways that lie ------------------------------------------------------- */

static void welcome_without_version(struct fake *f, struct link *link) {
    Mr__Welcome m = MR__WELCOME__INIT;
    m.version = 99;
    m.frame_bytes_max = 1 << 20;
    frame_send_welcome(link, &m, NULL, 0);
}

static void welcome_garbage(struct fake *f, struct link *link) {
    link_send_raw(link, FRAME_WELCOME, "\xff\xff\xff\xff\xff", 5, NULL, 0);
}

static void welcome_twice(struct fake *f, struct link *link) {
    Mr__Welcome m = MR__WELCOME__INIT;
    m.version = PROTOCOL_VERSION_MAX;
    m.frame_bytes_max = 1 << 20;
    frame_send_welcome(link, &m, NULL, 0);
    frame_send_welcome(link, &m, NULL, 0);
}

static void unknown_frame(struct fake *f, struct link *link) {
    link_send_raw(link, 9999, "", 0, NULL, 0);
}

static void shards_frame(struct fake *f, struct link *link) {
    Mr__Appends m = MR__APPENDS__INIT;
    frame_send_appends(link, &m, NULL, 0);
}

static void early_receipts(struct fake *f, struct link *link) {
    Mr__Receipts m = MR__RECEIPTS__INIT;
    frame_send_receipts(link, &m, NULL, 0);
}

Test(hostile, a_wrong_welcome_is_left_and_tried_again) {
    static void (*const lies[])(struct fake *, struct link *) = {
        welcome_without_version, welcome_garbage, welcome_twice, unknown_frame, shards_frame, early_receipts};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct fake *f = fake_new();
        f->on_hello = lies[i];
        mr_client *client = fake_client(f, 5000);
        FAKE_WAIT(f, f->sessions >= 3);
        fake_lock(f);
        f->on_hello = NULL;
        fake_unlock(f);
        mr_publication p = text("x");
        mr_error error;
        cr_assert(mr_publish(client, "orders", &p, 10000, NULL, &error) == MR_OK, "lie %zu: %s", i,
                  error.text);
        cr_assert(mr_client_close(client, 5000, NULL) == MR_OK);
        fake_free(f);
    }
}

static void refuse_for_good(struct fake *f, struct link *link) {
    frame_send_failure(link, 0, ERR_VERSION, "version 1, expected 2 to 3");
}

Test(hostile, a_hello_that_is_refused_is_told_at_once) {
    struct fake *f = fake_new();
    f->on_hello = refuse_for_good;
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    mr_error error;
    usec_t before = clock_now();
    cr_assert(mr_publish(client, "orders", &p, 9000, NULL, &error) == MR_EVERSION, "%s", error.text);
    cr_assert(clock_now() - before < 5 * USEC_S && strstr(error.text, "expected 2 to 3"));
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

static void lie_in_answers(struct fake *f, void *arg) {
    Mr__Receipt r = MR__RECEIPT__INIT, *receipts[] = {&r, &r};
    r.request = 999999;
    Mr__Refused x = MR__REFUSED__INIT, *refused[] = {&x};
    x.request = 1; /* a look-up's number, perhaps */
    x.code = MR_EOUTOFORDER;
    x.last = UINT64_MAX;
    Mr__Receipts m = MR__RECEIPTS__INIT;
    m.receipts = receipts;
    m.n_receipts = 2;
    m.refused = refused;
    m.n_refused = 1;
    frame_send_receipts(f->link, &m, NULL, 0);
    Mr__Settled s = MR__SETTLED__INIT;
    s.request = 12345;
    frame_send_settled(f->link, &s, NULL, 0);
    Mr__ConsumerEnd e = MR__CONSUMER_END__INIT;
    e.consumer = 4711;
    frame_send_consumer_end(f->link, &e, NULL, 0);
    uint64_t loads[3] = {1, 2, 3};
    Mr__Loads l = MR__LOADS__INIT;
    l.mailbox_id = f->mailbox_id;
    l.loads = loads;
    l.n_loads = 3;
    frame_send_loads(f->link, &l, NULL, 0);
    Mr__Response response = MR__RESPONSE__INIT;
    response.request = 31;
    frame_send_response(f->link, &response, NULL, 0);
    frame_send_failure(f->link, 77777, ERR_FULL, "never asked");
    struct body *body = body_copy("junk", 4);
    Mr__Delivery d = MR__DELIVERY__INIT;
    d.consumer = 4711;
    d.count = 1;
    frame_send_delivery(f->link, &d, &body, 1);
    body_drop(body);
}

Test(hostile, answers_to_nothing_are_passed_over) {
    struct fake *f = fake_new();
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    mr_error error;
    for (int i = 0; i < 5; i++) {
        cr_assert(mr_publish(client, "orders", &p, 5000, NULL, &error) == MR_OK, "%s", error.text);
        fake_do(f, lie_in_answers, NULL);
    }
    cr_assert(f->sessions == 1 && f->stored == 5);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

Test(hostile, impossible_partitions_are_not_believed) {
    struct fake *f = fake_new();
    f->partitions = 4000000000u;
    mr_client *client = fake_client(f, 5000);
    mr_publication p = text("x");
    mr_error error;
    cr_assert(mr_publish(client, "orders", &p, 3000, NULL, &error) == MR_ETIMEOUT, "%s", error.text);
    cr_assert(strstr(error.text, "MAILBOX_INFO"), "%s", error.text);
    mr_client_close(client, 5000, NULL);
    fake_free(f);
}

/* --- bytes that are not even frames ----------------------------------------- */

struct raw_server {
    int fd;
    uint16_t port;
    const char *bytes;
    size_t size;
    atomic_int accepted;
    pthread_t thread;
};

static void *raw_main(void *arg) {
    struct raw_server *r = arg;
    for (;;) {
        int fd = accept(r->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        atomic_fetch_add(&r->accepted, 1);
        ssize_t n = send(fd, r->bytes, r->size, MSG_NOSIGNAL);
        (void)n;
        char sink[256];
        while (recv(fd, sink, sizeof sink, 0) > 0) {
        }
        close(fd);
    }
}

static void raw_start(struct raw_server *r) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    r->fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(bind(r->fd, (struct sockaddr *)&a, size) == 0 && listen(r->fd, 16) == 0);
    getsockname(r->fd, (struct sockaddr *)&a, &size);
    r->port = ntohs(a.sin_port);
    pthread_create(&r->thread, NULL, raw_main, r);
}

Test(hostile, garbage_bytes_are_an_error_not_a_crash) {
    static const struct {
        const char *bytes;
        size_t size;
    } garbage[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28},
        {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16},
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16},
        {"\x08\0\0\0\x02\0\0\0\xff\xff\xff\x7f", 12},
    };
    for (size_t i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        struct raw_server r = {.bytes = garbage[i].bytes, .size = garbage[i].size};
        raw_start(&r);
        char servers[32];
        snprintf(servers, sizeof servers, "127.0.0.1:%u", r.port);
        mr_client *client = client_of(servers, 5000);
        mr_publication p = text("x");
        mr_error error;
        cr_assert(mr_publish(client, "orders", &p, 1500, NULL, &error) == MR_ETIMEOUT, "%s", error.text);
        cr_assert(atomic_load(&r.accepted) >= 1);
        mr_client_close(client, 100, NULL);
        shutdown(r.fd, SHUT_RDWR);
        close(r.fd);
        pthread_join(r.thread, NULL);
    }
}

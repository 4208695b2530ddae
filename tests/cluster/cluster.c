// SPDX-License-Identifier: Apache-2.0
#include "cluster.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 20, REQUEST_MS = 2000, LOG_TAIL_BYTES = 6000, PORTS_A_NODE = 16, EXIT_MS = 20000 };

int64_t clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- ports ---- */

static bool port_free(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool is_free = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return is_free;
}

static bool block_free(int base) {
    for (int i = 0; i < CLUSTER_NODES_MAX * PORTS_A_NODE; i++)
        if (!port_free(base + i))
            return false;
    return true;
}

/* A block below the range from which the system takes ports for outgoing links. */
static int find_ports(void) {
    int size = CLUSTER_NODES_MAX * PORTS_A_NODE;
    int blocks = (32000 - 10000) / size;
    for (int i = 0; i < blocks; i++) {
        int base = 10000 + (int)((unsigned)(getpid() + i) % (unsigned)blocks) * size;
        if (block_free(base))
            return base;
    }
    cr_assert(false, "no free block of ports");
    return 0;
}

/* ---- configuration ---- */

static void write_config(struct cluster *c, struct cluster_node *n, const char *extra) {
    FILE *f = fopen(n->config, "w");
    cr_assert(f);
    fprintf(f, "node: %s\ndata: %s\n", n->name, n->data);
    fprintf(f, "listen: { client: 127.0.0.1:%d, cluster: 127.0.0.1:%d, admin: 127.0.0.1:%d }\n",
            n->client_port, n->cluster_port, n->admin_port);
    fprintf(f, "shards: %d\n", c->shards);
    fprintf(f, "cluster:\n  name: test\n");
    if (n->joins) {
        fprintf(f, "  join: [ 127.0.0.1:%d ]\n", c->nodes[0].cluster_port);
    } else {
        fprintf(f, "  initial: {");
        for (int i = 0; i < c->count; i++)
            fprintf(f, "%s %s: 127.0.0.1:%d", i ? "," : "", c->nodes[i].name, c->nodes[i].cluster_port);
        fprintf(f, " }\n");
    }
    fprintf(f, "%s", extra ? extra : "");
    fclose(f);
}

static void lay_out(struct cluster *c, int i, int base) {
    struct cluster_node *n = &c->nodes[i];
    snprintf(n->name, sizeof n->name, "n%d", i + 1);
    snprintf(n->config, sizeof n->config, "%s/%s.yaml", c->folder, n->name);
    snprintf(n->data, sizeof n->data, "%s/%s", c->folder, n->name);
    snprintf(n->log_path, sizeof n->log_path, "%s/%s.log", c->folder, n->name);
    n->client_port = base + i * PORTS_A_NODE;
    n->admin_port = n->client_port + 1;
    n->cluster_port = n->client_port + 2;
    n->log = -1;
}

/* ---- processes ---- */

static const char *binary(const char *variable) {
    const char *path = getenv(variable);
    cr_assert(path, "%s is not set: run this by `meson test`", variable);
    return path;
}

static void exec_node(const struct cluster_node *n) {
    int fd = open(n->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(fd, STDERR_FILENO);
    dup2(fd, STDOUT_FILENO);
    execl(binary("MAILROOMD"), "mailroomd", "--config", n->config, (char *)NULL);
    _exit(127);
}

void node_start(struct cluster *c, int i) {
    struct cluster_node *n = &c->nodes[i];
    cr_assert_eq(n->pid, 0, "%s runs already", n->name);
    n->pid = fork();
    cr_assert(n->pid >= 0);
    if (n->pid == 0)
        exec_node(n);
}

static void print_log(const struct cluster_node *n) {
    char tail[LOG_TAIL_BYTES + 1];
    FILE *f = fopen(n->log_path, "r");
    if (!f)
        return;
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fseek(f, size > LOG_TAIL_BYTES ? size - LOG_TAIL_BYTES : 0, SEEK_SET);
    size_t got = fread(tail, 1, LOG_TAIL_BYTES, f);
    tail[got] = 0;
    fprintf(stderr, "---- end of %s ----\n%s\n", n->log_path, tail);
    fclose(f);
}

static void give_up(struct cluster *c, const char *what) {
    for (int i = 0; i < c->nodes_count; i++)
        print_log(&c->nodes[i]);
    cr_assert(false, "not within %d ms: %s (folder %s is kept)", CLUSTER_WAIT_MS, what, c->folder);
}

/* Exit of one process, waited for with a deadline. */
static int wait_exit(struct cluster *c, pid_t pid, const char *what) {
    int status;
    int64_t end = clock_ms() + EXIT_MS;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_ms() > end)
            give_up(c, what);
        poll(NULL, 0, 1);
    }
    return status;
}

static bool group_gone(void *ctx) {
    struct cluster_node *n = ctx;
    return port_free(n->client_port) && port_free(n->cluster_port) && port_free(n->cluster_port + 1);
}

void node_kill(struct cluster *c, int i, int signal_number) {
    struct cluster_node *n = &c->nodes[i];
    cr_assert(n->pid > 0, "%s does not run", n->name);
    kill(n->pid, signal_number);
    int status = wait_exit(c, n->pid, "exit of a node");
    n->pid = 0;
    if (signal_number == SIGTERM)
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: SIGTERM: status %x, expected exit 0",
                  n->name, status);
    cluster_wait(c, "the node's processes to be gone with their supervisor", group_gone, n);
}

/* ---- waiting ---- */

int64_t cluster_wait(struct cluster *c, const char *what, bool (*condition)(void *ctx), void *ctx) {
    int64_t start = clock_ms();
    while (!condition(ctx)) {
        if (clock_ms() - start > CLUSTER_WAIT_MS)
            give_up(c, what);
        poll(NULL, 0, POLL_MS);
    }
    return clock_ms() - start;
}

static const mr_cluster_info *status_of(struct on_nodes *on) {
    const mr_cluster_info *info = NULL;
    mr_error error;
    return mr_cluster_status(on->client, REQUEST_MS, &info, &error) == MR_OK ? info : NULL;
}

static bool alive_count_is(const mr_cluster_info *info, int alive) {
    int n = 0;
    for (size_t i = 0; i < info->nodes_count; i++)
        n += strcmp(info->nodes[i]->state, "alive") == 0;
    return n == alive && info->controller[0];
}

#define STATUS_CONDITION(name, expression)                                                                   \
    bool name(void *ctx) {                                                                                   \
        struct on_nodes *on = ctx;                                                                           \
        const mr_cluster_info *info = status_of(on);                                                         \
        bool holds = info && alive_count_is(info, on->alive) && (expression);                                \
        mr_info_free(info);                                                                                  \
        return holds;                                                                                        \
    }

static bool spread_is_even(const mr_cluster_info *info) {
    uint32_t leaders_min = UINT32_MAX, leaders_max = 0, replicas_min = UINT32_MAX, replicas_max = 0;
    for (size_t i = 0; i < info->nodes_count; i++) {
        const mr_node_info *n = info->nodes[i];
        if (strcmp(n->state, "alive") != 0)
            continue;
        leaders_min = n->leaders < leaders_min ? n->leaders : leaders_min;
        leaders_max = n->leaders > leaders_max ? n->leaders : leaders_max;
        replicas_min = n->replicas < replicas_min ? n->replicas : replicas_min;
        replicas_max = n->replicas > replicas_max ? n->replicas : replicas_max;
    }
    uint32_t leaders_slack = leaders_max / 10 > 1 ? leaders_max / 10 : 1;
    uint32_t replicas_slack = replicas_max / 10 > 1 ? replicas_max / 10 : 1;
    return leaders_max - leaders_min <= leaders_slack && replicas_max - replicas_min <= replicas_slack;
}

STATUS_CONDITION(nodes_alive, true)
STATUS_CONDITION(all_led, info->without_leader == 0)
STATUS_CONDITION(all_replicated, info->without_leader == 0 && info->under_replicated == 0)
STATUS_CONDITION(even, info->without_leader == 0 && info->under_replicated == 0 && spread_is_even(info))

/* ---- life ---- */

void cluster_wait_alive(struct cluster *c) {
    for (int i = 0; i < c->nodes_count; i++) {
        mr_client *client = cluster_client(c, i);
        struct on_nodes on = {c, client, c->nodes_count};
        cluster_wait(c, "all nodes alive, as each of them sees it", nodes_alive, &on);
        mr_client_close(client, REQUEST_MS, NULL);
    }
}

struct cluster *cluster_start(const struct cluster_options *options) {
    struct cluster *c = calloc(1, sizeof *c);
    const char *tmp = getenv("TMPDIR");
    signal(SIGPIPE, SIG_IGN);
    snprintf(c->folder, sizeof c->folder, "%s/mailroom-test-XXXXXX", tmp ? tmp : "/tmp");
    cr_assert(mkdtemp(c->folder));
    c->shards = options->shards ? options->shards : 1;
    c->count = c->nodes_count = options->nodes;
    int base = find_ports();
    for (int i = 0; i < CLUSTER_NODES_MAX; i++)
        lay_out(c, i, base);
    for (int i = 0; i < c->count; i++)
        write_config(c, &c->nodes[i], options->extra);
    for (int i = 0; i < c->count; i++)
        node_start(c, i);
    cluster_wait_alive(c);
    return c;
}

int node_join(struct cluster *c) {
    int i = c->nodes_count++;
    cr_assert(i < CLUSTER_NODES_MAX);
    c->nodes[i].joins = true;
    write_config(c, &c->nodes[i], NULL);
    node_start(c, i);
    return i;
}

static void remove_folder(const char *folder) {
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", folder, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, &status, 0);
}

void cluster_end(struct cluster *c) {
    for (int i = 0; i < c->nodes_count; i++)
        if (c->nodes[i].pid)
            node_kill(c, i, SIGTERM);
    remove_folder(c->folder);
    free(c);
}

int node_index(const struct cluster *c, const char *name) {
    for (int i = 0; i < c->nodes_count; i++)
        if (strcmp(c->nodes[i].name, name) == 0)
            return i;
    return -1;
}

pid_t node_process(struct cluster *c, int i, const char *role) {
    mr_client *client = cluster_client(c, i);
    struct on_nodes on = {.client = client};
    const mr_cluster_info *info = status_of(&on);
    pid_t pid = 0;
    cr_assert(info);
    for (size_t k = 0; k < info->nodes_count; k++)
        for (size_t p = 0; p < info->nodes[k]->processes_count; p++)
            if (strcmp(info->nodes[k]->name, c->nodes[i].name) == 0 &&
                strcmp(info->nodes[k]->processes[p]->role, role) == 0)
                pid = info->nodes[k]->processes[p]->pid;
    mr_info_free(info);
    mr_client_close(client, REQUEST_MS, NULL);
    cr_assert(pid > 0, "%s has no process %s", c->nodes[i].name, role);
    return pid;
}

const char *cluster_servers(const struct cluster *c, int i) {
    static char text[512];
    if (i >= 0) {
        snprintf(text, sizeof text, "127.0.0.1:%d", c->nodes[i].client_port);
        return text;
    }
    size_t n = 0;
    for (int k = 0; k < c->nodes_count; k++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s127.0.0.1:%d", k ? "," : "",
                              c->nodes[k].client_port);
    return text;
}

mr_client *cluster_client(struct cluster *c, int i) {
    mr_client *client;
    mr_error error;
    mr_client_options options = {
        .struct_size = sizeof options, .servers = cluster_servers(c, i), .timeout_ms = 30000};
    int code = mr_client_open(&options, &client, &error);
    cr_assert_eq(code, MR_OK, "%s", error.text);
    return client;
}

/* ---- the command line ---- */

static char *read_all(FILE *f) {
    size_t size = 0, capacity = 65536, got;
    char *text = malloc(capacity);
    rewind(f);
    while ((got = fread(text + size, 1, capacity - size - 1, f)) > 0) {
        size += got;
        if (capacity - size < 2)
            text = realloc(text, capacity *= 2);
    }
    text[size] = 0;
    fclose(f);
    return text;
}

static void exec_mailroom(const char *servers, FILE *in, FILE *out, FILE *err, const char *const *arguments) {
    const char *argv[64] = {"mailroom", "--server", servers};
    for (int i = 0; arguments[i]; i++)
        argv[3 + i] = arguments[i];
    dup2(in ? fileno(in) : open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(binary("MAILROOM"), (char *const *)(uintptr_t)argv);
    _exit(127);
}

int mailroom_run(struct cluster *c, int node, const char *input, char **output, char **errors,
                 const char *const *arguments) {
    FILE *in = input ? tmpfile() : NULL, *out = tmpfile(), *err = tmpfile();
    if (in) {
        fwrite(input, 1, strlen(input), in);
        fflush(in);
        rewind(in);
    }
    pid_t pid = fork();
    if (pid == 0)
        exec_mailroom(cluster_servers(c, node), in, out, err, arguments);
    int status;
    int64_t end = clock_ms() + 3 * CLUSTER_WAIT_MS;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_ms() > end) {
            kill(pid, SIGKILL);
            give_up(c, "end of a mailroom command");
        }
        poll(NULL, 0, 1);
    }
    if (in)
        fclose(in);
    char *out_text = read_all(out), *err_text = read_all(err);
    if (!errors && err_text[0])
        fprintf(stderr, "mailroom %s: %s", arguments[0], err_text);
    if (output)
        *output = out_text;
    else
        free(out_text);
    if (errors)
        *errors = err_text;
    else
        free(err_text);
    cr_assert(WIFEXITED(status), "mailroom %s died of a signal: %x", arguments[0], status);
    return WEXITSTATUS(status);
}

/* ---- mailboxes ---- */

static void add_state(struct totals *t, const mr_subscription_state *s, const char *mailbox,
                      uint32_t partition) {
    uint64_t sum = s->ready + s->leased + s->delayed + s->dying + s->acked + s->dead + s->expired +
                   s->dropped + s->purged;
    cr_assert_eq(s->published, sum, "%s/%u %s: published %llu, in all states %llu", mailbox, partition,
                 s->name, (unsigned long long)s->published, (unsigned long long)sum);
    t->published += s->published;
    t->ready += s->ready;
    t->leased += s->leased;
    t->delayed += s->delayed;
    t->dying += s->dying;
    t->acked += s->acked;
    t->dead += s->dead;
    t->expired += s->expired;
    t->dropped += s->dropped;
    t->purged += s->purged;
}

/* A partition between two leaders shows no subscriptions. */
static bool all_shown(const mr_mailbox_info *info) {
    for (size_t i = 0; i < info->partitions_count; i++)
        if (info->partitions[i]->subscriptions_count == 0)
            return false;
    return true;
}

static const mr_mailbox_info *show_led(mr_client *client, const char *mailbox) {
    int64_t end = clock_ms() + CLUSTER_WAIT_MS;
    for (;;) {
        const mr_mailbox_info *info;
        mr_error error;
        int code = mr_mailbox_show(client, mailbox, CLUSTER_WAIT_MS, &info, &error);
        cr_assert_eq(code, MR_OK, "mailbox show %s: %s", mailbox, error.text);
        if (all_shown(info))
            return info;
        mr_info_free(info);
        cr_assert_lt(clock_ms(), end, "mailbox show %s: a partition without a leader", mailbox);
        poll(NULL, 0, POLL_MS);
    }
}

struct totals conserved(mr_client *client, const char *mailbox, const char *subscription) {
    struct totals t = {0};
    const mr_mailbox_info *info = show_led(client, mailbox);
    for (size_t i = 0; i < info->partitions_count; i++) {
        const mr_partition_info *p = info->partitions[i];
        t.messages += p->messages;
        for (size_t k = 0; k < p->subscriptions_count; k++)
            if (strcmp(p->subscriptions[k]->name, subscription) == 0)
                add_state(&t, p->subscriptions[k], mailbox, p->partition);
    }
    mr_info_free(info);
    return t;
}

void publish_text(mr_client *client, const char *mailbox, const char *text) {
    mr_error error;
    mr_publication m = {.struct_size = sizeof m, .payload = text, .payload_size = strlen(text)};
    int code = mr_publish(client, mailbox, &m, CLUSTER_WAIT_MS, NULL, &error);
    cr_assert_eq(code, MR_OK, "publish: %s", error.text);
}

mr_settings settings_of(void (*change)(mr_settings *)) {
    mr_settings s;
    mr_settings_init(&s);
    if (change)
        change(&s);
    return s;
}

void create_mailbox(mr_client *client, const char *name, mr_settings settings) {
    mr_error error;
    int code = mr_mailbox_create(client, name, &settings, CLUSTER_WAIT_MS, &error);
    cr_assert_eq(code, MR_OK, "mailbox create %s: %s", name, error.text);
}

// SPDX-License-Identifier: Apache-2.0
/* mailroomd: one binary for all processes of a node. By hand it becomes the
 * supervisor; the supervisor starts it again with --role for each child. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/admin.h"
#include "base/config.h"
#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller.h"
#include "gateway/gateway.h"
#include "shard/shard.h"
#include "supervisor/child.h"
#include "supervisor/node.h"
#include "supervisor/supervisor.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

struct role {
    const char *name;
    int (*main)(struct child *child);
};

static const struct role roles[] = {{"controller", controller_main},
                                    {"gateway", gateway_main},
                                    {"shard", shard_main},
                                    {"admin", admin_main},
                                    {0}};

static const char help[] =
    "usage: mailroomd --config FILE         run a node in the foreground\n"
    "       mailroomd --check-config FILE   read the configuration, say what is wrong\n"
    "       mailroomd --version | --help\n"
    "\n"
    "Logs go to standard error. SIGTERM stops the node in order.\n"
    "Exit codes: 0 stopped, 1 failed, 2 wrong usage or configuration,\n"
    "78 stopped and an operator must look.\n";

static int usage(const char *why, const char *what) {
    fprintf(stderr, "mailroomd: %s%s\nTry 'mailroomd --help'.\n", why, what);
    return EXIT_USAGE;
}

/* The file's bytes (the caller's to free), or NULL with errno. */
static char *read_file(const char *name, size_t *size) {
    FILE *f = fopen(name, "re");
    if (!f)
        return NULL;
    char *text = xmalloc(CONFIG_FILE_BYTES_MAX + 1);
    *size = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, f);
    if (ferror(f)) {
        free(text);
        text = NULL;
    }
    fclose(f);
    return text;
}

/* The text is the caller's to free, the configuration to config_free. */
static int load_config(const char *file, char **text, size_t *size, struct config *out) {
    struct err_detail d = {0};
    *text = read_file(file, size);
    if (!*text) {
        fprintf(stderr, "mailroomd: %s: %s\n", file, strerror(errno));
        return EXIT_USAGE;
    }
    if (config_parse(file, *text, *size, out, &d) == ERR_OK)
        return EXIT_DONE;
    fprintf(stderr, "mailroomd: %s\n", d.text);
    free(*text);
    return EXIT_USAGE;
}

static int check_config(const char *file) {
    struct config c;
    char *text;
    size_t size;
    int code = load_config(file, &text, &size, &c);
    if (code)
        return code;
    config_free(&c);
    free(text);
    return EXIT_DONE;
}

static int supervise(struct config *c, const char *file, const char *text, size_t size) {
    struct child_spec children[TREE_CHILDREN_MAX];
    struct err_detail d = {0};
    int lock = -1;
    log_open(c->node, "supervisor", LOG_INFO);
    enum err e = node_open(c, &lock, &d);
    if (e) {
        fprintf(stderr, "mailroomd: %s\n", d.text);
        return e == ERR_INVALID ? EXIT_USAGE : EXIT_REFUSED;
    }
    unsigned restarts = node_restarts_max(c);
    struct supervisor_options o = {.config = c,
                                   .file = file,
                                   .text = text,
                                   .text_size = size,
                                   .children = children,
                                   .children_count = node_children(c, children),
                                   .strategy = STRATEGY_ONE_FOR_ONE,
                                   .restarts_max = restarts,
                                   .period = restarts * TREE_PERIOD_PER_RESTART,
                                   .lock = lock};
    log_info("mailroomd %s: node %s of cluster %s, %u shards, data in %s", MAILROOM_VERSION, c->node,
             c->cluster, c->shards, c->data);
    int code = supervisor_run(&o);
    log_info("stopped with exit code %d", code);
    return code;
}

static int run_node(const char *file) {
    struct config c;
    char *text;
    size_t size;
    int code = load_config(file, &text, &size, &c);
    if (code)
        return code;
    code = supervise(&c, file, text, size);
    config_free(&c);
    free(text);
    return code;
}

static int run_role(const char *name, unsigned index) {
    const struct role *r = roles;
    while (r->name && strcmp(r->name, name) != 0)
        r++;
    if (!r->name)
        return usage("no such role: ", name);
    struct child *child = child_open(r->name, index);
    int code = r->main(child);
    child_close(child);
    return code;
}

enum option_code { OPTION_CONFIG = 1, OPTION_CHECK, OPTION_ROLE, OPTION_INDEX, OPTION_VERSION, OPTION_HELP };

static const struct option options[] = {{"config", required_argument, NULL, OPTION_CONFIG},
                                        {"check-config", required_argument, NULL, OPTION_CHECK},
                                        {"role", required_argument, NULL, OPTION_ROLE},
                                        {"index", required_argument, NULL, OPTION_INDEX},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {0}};

int main(int count, char **arguments) {
    const char *values[OPTION_HELP + 1] = {0};
    for (int o; (o = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        if (o == '?')
            return usage("wrong option", "");
        values[o] = optarg ? optarg : "";
    }
    if (optind < count)
        return usage("unexpected argument: ", arguments[optind]);
    if (values[OPTION_HELP])
        return fputs(help, stdout) < 0 ? EXIT_REFUSED : EXIT_DONE;
    if (values[OPTION_VERSION])
        return puts("mailroomd " MAILROOM_VERSION) < 0 ? EXIT_REFUSED : EXIT_DONE;
    if (values[OPTION_ROLE])
        return run_role(values[OPTION_ROLE], values[OPTION_INDEX] ? (unsigned)atoi(values[OPTION_INDEX]) : 0);
    if (values[OPTION_CHECK])
        return check_config(values[OPTION_CHECK]);
    if (values[OPTION_CONFIG])
        return run_node(values[OPTION_CONFIG]);
    return usage("expected --config FILE", "");
}

// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include <criterion/criterion.h>
#include <string.h>

static const char whole[] =
    "node: n1\n"
    "data: /var/lib/mailroom\n"
    "run: /run/mailroom   # a comment\n"
    "upgrade_from: /usr/lib/mailroom\n"
    "listen: { client: 127.0.0.1:7400, cluster: '[::1]:7410', admin: localhost:7480 }\n"
    "shards: 3\n"
    "cluster:\n"
    "  name: demo\n"
    "  initial: { n1: 127.0.0.1:7410, n2: 127.0.0.1:7510 }\n"
    "failure: { heartbeat: 50ms, timeout: 1s, replace_after: 1m, rebuild_grace: 5s, watchdog: 3s }\n"
    "limits: { message: 4MiB, memory: 2GiB, segment: 32MiB }\n"
    "insecure: false\n";

Test(config, every_key_is_read) {
    struct config c;
    struct err_detail d = {0};
    cr_assert_eq(config_parse("m.yaml", whole, strlen(whole), &c, &d), ERR_OK, "%s", d.text);
    cr_assert_str_eq(c.node, "n1");
    cr_assert_str_eq(c.data, "/var/lib/mailroom");
    cr_assert_str_eq(c.run, "/run/mailroom");
    cr_assert_str_eq(c.upgrade_from, "/usr/lib/mailroom");
    cr_assert_str_eq(c.listen_client.text, "127.0.0.1:7400");
    cr_assert_str_eq(c.listen_cluster.host, "::1");
    cr_assert_eq(c.listen_cluster.port, 7410);
    cr_assert_str_eq(c.listen_admin.host, "localhost");
    cr_assert_eq(c.shards, 3);
    cr_assert_str_eq(c.cluster, "demo");
    cr_assert_eq(c.initial_count, 2);
    cr_assert_str_eq(c.initial[1].name, "n2");
    cr_assert_eq(c.initial[1].address.port, 7510);
    cr_assert_eq(c.heartbeat, 50 * USEC_MS);
    cr_assert_eq(c.timeout, USEC_S);
    cr_assert_eq(c.replace_after, 60 * USEC_S);
    cr_assert_eq(c.rebuild_grace, 5 * USEC_S);
    cr_assert_eq(c.watchdog, 3 * USEC_S);
    cr_assert_eq(c.message_bytes_max, 4 * MIB);
    cr_assert_eq(c.memory_bytes_max, 2 * GIB);
    cr_assert_eq(c.segment_bytes, 32 * MIB);
    cr_assert(!c.insecure);
    config_free(&c);
}

#define LEAST "node: n1\ndata: /d\ncluster: {name: c, initial: {n1: 127.0.0.1:7410}}\n"

Test(config, defaults) {
    struct config c;
    struct err_detail d = {0};
    cr_assert_eq(config_parse("m", LEAST, strlen(LEAST), &c, &d), ERR_OK, "%s", d.text);
    cr_assert_str_eq(c.run, "/d/run");
    cr_assert_str_empty(c.upgrade_from);
    cr_assert_eq(c.shards, 0);
    cr_assert_eq(c.listen_admin.port, 7480);
    cr_assert_eq(c.timeout, 600 * USEC_MS);
    cr_assert_eq(c.segment_bytes, 64 * MIB);
    config_free(&c);
    static const char joins[] =
        "node: n4\ndata: /d\nlimits: {segment: 1MiB}\ncluster: {name: c, join: ['127.0.0.1:1']}\n";
    cr_assert_eq(config_parse("m", joins, strlen(joins), &c, &d), ERR_OK, "%s", d.text);
    cr_assert_eq(c.join_count, 1);
    cr_assert_eq(c.message_bytes_max, MIB / 4, "a small segment makes a small default");
    config_free(&c);
}

/* Each row: a file and the start of the one error line it must give. */
static const struct {
    const char *text;
    const char *error;
} refusals[] = {
    {"", "m:1: the file is empty, expected a mapping"},
    {"# nothing\n", "m:1: the file is empty"},
    {"- a\n", "m:1: a list, expected a mapping"},
    {"node: [\n", "m:2: not YAML ("},
    {"node: n1\n\tdata: x\n", "m:2: not YAML ("},
    {"node: \x01\n", "m:1: not YAML (control characters"},
    {LEAST "---\nnode: n2\n", "m:5: a second document, expected one"},
    {LEAST "colour: red\n",
     "m:4: unknown key 'colour', expected one of node, data, run, upgrade_from, listen, "
     "shards, cluster, failure, limits, insecure"},
    {LEAST "listen:\n  clint: 127.0.0.1:1\n",
     "m:5: listen: unknown key 'clint', expected one of client, cluster, admin"},
    {LEAST "node: n1\n", "m:4: 'node' stands twice, expected it once (first in line 1)"},
    {LEAST "limits: {memory: 1GiB, memory: 1GiB}\n", "m:4: limits: 'memory' stands twice"},
    {"data: /d\ncluster: {name: c, initial: {n1: 127.0.0.1:1}}\n",
     "m:1: 'node' is missing, expected it here"},
    {"node: n1\ncluster: {name: c, initial: {n1: 127.0.0.1:1}}\n", "m:1: 'data' is missing"},
    {"node: n1\ndata: /d\n", "m:1: 'cluster' is missing"},
    {"node: n1\ndata: /d\ncluster:\n  initial: {n1: 127.0.0.1:1}\n", "m:4: cluster: 'name' is missing"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n",
     "m:4: neither 'initial' nor 'join', expected one of the two"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  initial: {n1: 127.0.0.1:1}\n  join: ['127.0.0.1:1']\n",
     "m:6: both 'initial' and 'join', expected one of the two"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  initial: {n2: 127.0.0.1:1}\n",
     "m:5: node 'n1' is not in 'initial'"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  initial: {n1: 127.0.0.1:1, n1: 127.0.0.1:2}\n",
     "m:5: initial: 'n1' stands twice"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  join: 127.0.0.1:1\n", "m:5: join: 127.0.0.1:1, expected a list"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  join: []\n", "m:5: join: 0 addresses, expected 1 to"},
    {"node: n 1\ndata: /d\n", "m:1: node: 'n 1' is not a name, expected 1 to 64 of"},
    {"node: {a: b}\n", "m:1: node: 'a mapping' is not a name"},
    {"node:\n", "m:1: node: 'nothing' is not a name"},
    {"data: ''\n", "m:1: data: 'nothing' is not a path"},
    {LEAST "shards: 0\n", "m:4: shards: '0' is no number of shards, expected auto or 1 to 64"},
    {LEAST "shards: 65\n", "m:4: shards: '65' is no number"},
    {LEAST "shards: 2x\n", "m:4: shards: '2x' is no number"},
    {LEAST "shards: many\n", "m:4: shards: 'many' is no number"},
    {LEAST "insecure: yes\n", "m:4: insecure: 'yes', expected true or false"},
    {LEAST "listen: {client: 127.0.0.1}\n", "m:4: client: '127.0.0.1' is not an address, expected host:port"},
    {LEAST "listen: {client: '127.0.0.1:0'}\n", "m:4: client: '127.0.0.1:0' is not an address"},
    {LEAST "listen: {client: '127.0.0.1:65536'}\n", "m:4: client: '127.0.0.1:65536' is not an address"},
    {LEAST "listen: {client: '::1:7400'}\n", "m:4: client: '::1:7400' is not an address"},
    {LEAST "listen: 7400\n", "m:4: listen: 7400, expected a mapping of keys to values"},
    {LEAST "listen:\n  client: 0.0.0.0:7400\n",
     "m:5: 0.0.0.0:7400 is reachable from outside, expected a loopback "
     "address or 'insecure: true'"},
    {"node: n1\ndata: /d\ncluster:\n  name: c\n  initial: {n1: 127.0.0.1:1, n2: 10.0.0.2:1}\n",
     "m:5: 10.0.0.2:1 is reachable from outside"},
    {LEAST "failure: {heartbeat: 5}\n",
     "m:4: heartbeat: '5' is not a duration, expected a number with ms, s, m, h or d"},
    {LEAST "failure: {heartbeat: 1ms}\n", "m:4: heartbeat of 1ms, expected 10ms to 10s"},
    {LEAST "failure: {timeout: 150ms}\n", "m:4: timeout of 150ms, expected 200ms to"},
    {LEAST "limits: {message: 8MB}\n", "m:4: message: '8MB' is not a size, expected a number with KiB, MiB or GiB"},
    {LEAST "limits: {message: 17MiB}\n", "m:4: message of 17MiB, expected 1KiB to 16MiB"},
    {LEAST "limits: {memory: 1MiB}\n", "m:4: memory of 1MiB, expected 64MiB to"},
    {LEAST "listen: {admin: '127.0.0.1:7400'}\n", "m:4: client and admin port are both 7400"},
    {LEAST "shards: 4\nlisten:\n  cluster: 127.0.0.1:7396\n",
     "m:6: client port 7400, expected it outside of 7396 to 7400 (cluster port and 4 shards)"},
    {LEAST "listen: {cluster: '127.0.0.1:65535'}\n",
     "m:4: cluster port 65535 and 1 shards end at port 65536"},
    {"node: n1\ndata: /d\nshards: 2\ncluster:\n  name: c\n  initial: {n1: 127.0.0.1:7410, n2: "
     "127.0.0.1:7411}\n",
     "m:1: node n2 at port 7411, expected it outside of 7410 to 7412"},
    {LEAST "run: /0123456789012345678901234567890123456789012345678901234567890123456789012345678\n",
     "m:4: run folder of 80 bytes is too long for local sockets, expected 'run' of at most 78 bytes"},
};

Test(config, refusals_name_line_and_expectation) {
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct config c;
        struct err_detail d = {0};
        cr_expect_eq(config_parse("m", refusals[i].text, strlen(refusals[i].text), &c, &d), ERR_INVALID, "%s",
                     refusals[i].text);
        cr_expect(strncmp(d.text, refusals[i].error, strlen(refusals[i].error)) == 0,
                  "got:      %s\nexpected: %s", d.text, refusals[i].error);
        cr_expect_null(c.initial);
        cr_expect_null(c.join);
    }
}

Test(config, insecure_opens_other_addresses) {
    static const char text[] = "node: n1\ndata: /d\ninsecure: true\nlisten: {client: 0.0.0.0:7400}\n"
                               "cluster: {name: c, initial: {n1: 'host-1.example:7410'}}\n";
    struct config c;
    struct err_detail d = {0};
    cr_assert_eq(config_parse("m", text, strlen(text), &c, &d), ERR_OK, "%s", d.text);
    cr_assert_eq(config_check_ports(&c, 60, &d), ERR_OK);
    cr_assert_eq(config_check_ports(&c, CONFIG_SHARDS_MAX + 6, &d), ERR_INVALID);
    config_free(&c);
}

/* Whatever the cut, the parser ends, with an error or a whole configuration. */
Test(config, any_prefix_is_handled) {
    for (size_t size = 0; size <= strlen(whole); size++) {
        struct config c;
        struct err_detail d = {0};
        if (config_parse("m", whole, size, &c, &d) == ERR_OK)
            config_free(&c);
        else
            cr_assert(strncmp(d.text, "m:", 2) == 0, "%s", d.text);
    }
}

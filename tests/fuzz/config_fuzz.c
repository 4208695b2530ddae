// SPDX-License-Identifier: Apache-2.0
/* A configuration file: refused with file, line and text, or whole. */
#include "base/config.h"

#include <string.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct config c;
    struct err_detail d = {0};
    if (config_parse("f.yaml", data, size, &c, &d) != ERR_OK) {
        EXPECT(strncmp(d.text, "f.yaml", strlen("f.yaml")) == 0);
        return 0;
    }
    EXPECT(c.node[0] && c.data[0] && c.cluster[0] && c.shards <= CONFIG_SHARDS_MAX);
    EXPECT(c.initial_count <= CONFIG_NODES_MAX && c.join_count <= CONFIG_NODES_MAX);
    EXPECT((c.initial_count == 0) != (c.join_count == 0));
    config_free(&c);
    return 0;
}

void fuzz_seeds(void) {
    static const char *const texts[] = {
        "node: n1\ndata: /d\ncluster: { name: a, initial: { n1: 127.0.0.1:7410 } }\n",
        "node: n2\ndata: /d\nrun: /r\nshards: auto\nlisten:\n  client: '[::1]:1'\n  cluster: 127.0.0.1:20\n"
        "cluster:\n  name: b\n  join: [127.0.0.1:7410, 127.0.0.1:7411]\n"
        "failure: { heartbeat: 50ms, timeout: 1s, watchdog: 3s }\nlimits: { message: 1MiB, memory: 64MiB }\n"
        "insecure: true\n"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        fuzz_seed(texts[i], strlen(texts[i]));
}

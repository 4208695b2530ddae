// SPDX-License-Identifier: Apache-2.0
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/xalloc.h"

struct node_info fixture_node(unsigned node, unsigned shards) {
    struct node_info n = {.controller = controller_of(node), .starts = 1, .shards_count = shards};
    snprintf(n.name, sizeof n.name, "n%u", node);
    snprintf(n.cluster_address, sizeof n.cluster_address, "127.0.0.1:%u", 7310 + node * 100);
    for (unsigned s = 0; s < shards; s++)
        n.shards[s] = shard_of(node, s);
    return n;
}

struct metadata_result fixture_apply(struct metadata *m, const struct command *c,
                                     struct metadata_changes *changes) {
    struct metadata_changes mine = {0};
    struct metadata_result result;
    struct encoder e = {0};
    command_encode(c, &e);
    metadata_apply(m, metadata_index(m) + 1, e.data, e.size, &result, changes ? changes : &mine);
    encoder_free(&e);
    metadata_changes_free(&mine);
    return result;
}

struct metadata_result fixture_form(struct metadata *m, unsigned nodes, unsigned shards) {
    struct command c = {.type = COMMAND_FORM, .form = {.cluster = "demo", .cluster_id = 77, .count = nodes}};
    c.form.nodes = xcalloc(nodes, sizeof *c.form.nodes);
    for (unsigned i = 0; i < nodes; i++)
        c.form.nodes[i] = fixture_node(i + 1, shards);
    struct metadata_result r = fixture_apply(m, &c, NULL);
    free(c.form.nodes);
    return r;
}

struct metadata_result fixture_node_set(struct metadata *m, unsigned node, unsigned shards) {
    struct command c = {.type = COMMAND_NODE_SET, .node = fixture_node(node, shards)};
    return fixture_apply(m, &c, NULL);
}

struct metadata_result fixture_create(struct metadata *m, const char *name,
                                      const struct mailbox_settings *settings, const struct placing *placing,
                                      uint32_t count) {
    struct command c = {.type = COMMAND_MAILBOX_CREATE};
    strcpy(c.mailbox_create.name, name);
    if (settings)
        c.mailbox_create.settings = *settings;
    else
        settings_default(&c.mailbox_create.settings);
    c.mailbox_create.settings.partitions = count;
    c.mailbox_create.count = count;
    c.mailbox_create.placing = (struct placing *)placing;
    return fixture_apply(m, &c, NULL);
}

struct metadata_result fixture_delete(struct metadata *m, const char *name) {
    struct command c = {.type = COMMAND_MAILBOX_DELETE};
    strcpy(c.mailbox.name, name);
    return fixture_apply(m, &c, NULL);
}

struct placing fixture_placing(unsigned count, const unsigned *nodes) {
    struct placing p = {.set = {.count = count}};
    for (unsigned i = 0; i < count; i++)
        p.set.members[i] = shard_of(nodes[i], 0);
    p.leader = p.set.members[0];
    return p;
}

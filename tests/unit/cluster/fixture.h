// SPDX-License-Identifier: Apache-2.0
/* Commands in one line each, for stories about the metadata. */
#ifndef MAILROOM_TESTS_CLUSTER_FIXTURE_H
#define MAILROOM_TESTS_CLUSTER_FIXTURE_H

#include "cluster/metadata.h"

/* Member of node n's (1..) shard s; its controller. */
static inline member_t shard_of(unsigned node, unsigned s) {
    return node * 1000 + s + 1;
}
static inline member_t controller_of(unsigned node) {
    return node * 1000 + 900;
}

struct node_info fixture_node(unsigned node, unsigned shards); /* "n1", 127.0.0.1:7410 .. */

/* Apply at the next index; *changes may be NULL. */
struct metadata_result fixture_apply(struct metadata *m, const struct command *c,
                                     struct metadata_changes *changes);
struct metadata_result fixture_form(struct metadata *m, unsigned nodes, unsigned shards);
struct metadata_result fixture_node_set(struct metadata *m, unsigned node, unsigned shards);
/* One partition for each placing; settings NULL: defaults. */
struct metadata_result fixture_create(struct metadata *m, const char *name,
                                      const struct mailbox_settings *settings, const struct placing *placing,
                                      uint32_t count);
struct metadata_result fixture_delete(struct metadata *m, const char *name);
struct placing fixture_placing(unsigned count, const unsigned *nodes); /* shard 0 of each; the first leads */

#endif

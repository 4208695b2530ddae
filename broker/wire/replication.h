// SPDX-License-Identifier: Apache-2.0
/*
 * The replication core's messages (replica/replica.h) as frames (proto/peer.proto)
 * and back: shards use it for partitions, controllers for the metadata group.
 * A library of its own, so that the client library does not carry the core.
 */
#ifndef MAILROOM_WIRE_REPLICATION_H
#define MAILROOM_WIRE_REPLICATION_H

#include "replica/replica.h"
#include "wire/frames.h"

/* An append's header, malloc'ed; the bodies of its entries are added to the
 * frame's list by the caller, in the order of the entries (empty ones left out). */
Mr__Append *replication_append(uint64_t partition, const struct replica_append *a);
void replication_append_free(Mr__Append *m);
/* Back: entries (malloc'ed, with references to their bodies) cut from the frame's
 * body at *at, which moves on. False: the sizes do not fit the body. Free with
 * replication_entries_free in either case. */
bool replication_read_append(const Mr__Append *m, struct body *frame, size_t *at, struct replica_append *out);
void replication_entries_free(struct replica_append *a);

void replication_appended(uint64_t partition, const struct replica_appended *a, Mr__Appended *out);
/* False: a status this release does not know. */
bool replication_read_appended(const Mr__Appended *m, struct replica_appended *out);

void replication_piece(uint64_t partition, const struct replica_piece *a, Mr__Piece *out);
/* The frame's body for it; no reference taken. */
struct body *replication_piece_body(const struct replica_piece *a);
void replication_read_piece(const Mr__Piece *m, struct body *body, struct replica_piece *out);

void replication_pieced(uint64_t partition, const struct replica_pieced *a, Mr__Pieced *out);
void replication_read_pieced(const Mr__Pieced *m, struct replica_pieced *out);

/* Sets, records. */
bool replication_read_set(const Mr__Set *in, struct replica_set *out);

#endif

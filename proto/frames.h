// SPDX-License-Identifier: Apache-2.0
/*
 * Frame types, written once: X(NAME, number, Message, name). On the wire:
 *
 *   u32 length of what follows (little-endian, as all)
 *   u16 type
 *   u16 reserved, 0
 *   u32 header length
 *   header: protobuf, message of the type's row (package mr)
 *   body: the rest, raw; what it holds is said at the message
 *
 * Numbers are never used twice. A type a side does not know ends the link with
 * an error that names it; new types wait for a protocol version that has them.
 */
#ifndef MAILROOM_PROTO_FRAMES_H
#define MAILROOM_PROTO_FRAMES_H

enum {
    PROTOCOL_VERSION_MIN = 1,
    PROTOCOL_VERSION_MAX = 1,
    FRAME_PREFIX_BYTES = 12,
    FRAME_HEADER_BYTES_MAX = 1048576 * 4,
    FRAME_BYTES_DEFAULT = 1048576 * 32,
    FRAME_TYPES = 128 /* numbers are below it */
};

#define FRAME_LIST(X)                                                                                        \
    /* any link */                                                                                           \
    X(HELLO, 1, Hello, hello)                                                                                \
    X(WELCOME, 2, Welcome, welcome)                                                                          \
    X(FAIL, 3, Fail, fail)                                                                                   \
    X(GOAWAY, 4, Goaway, goaway)                                                                             \
    X(PING, 5, Ping, ping)                                                                                   \
    X(PONG, 6, Pong, pong)                                                                                   \
    /* client <-> gateway */                                                                                 \
    X(LOOKUP, 10, Lookup, lookup)                                                                            \
    X(MAILBOX_INFO, 11, MailboxInfo, mailbox_info)                                                           \
    X(LOADS, 12, Loads, loads)                                                                               \
    X(PUBLISH, 13, Publish, publish)                                                                         \
    X(RECEIPTS, 14, Receipts, receipts)                                                                      \
    X(SUBSCRIBE, 15, Subscribe, subscribe)                                                                   \
    X(SUBSCRIBED, 16, Subscribed, subscribed)                                                                \
    X(UNSUBSCRIBE, 17, Unsubscribe, unsubscribe)                                                             \
    X(CREDIT, 18, Credit, credit)                                                                            \
    X(DELIVERY, 19, Delivery, delivery)                                                                      \
    X(SETTLE, 20, Settle, settle)                                                                            \
    X(SETTLED, 21, Settled, settled)                                                                         \
    X(CONSUMER_END, 22, ConsumerEnd, consumer_end)                                                           \
    X(REQUEST, 23, Request, request)                                                                         \
    X(RESPONSE, 24, Response, response)                                                                      \
    /* replica <-> replica, controller <-> shard */                                                          \
    X(APPENDS, 40, Appends, appends)                                                                         \
    X(APPENDEDS, 41, Appendeds, appendeds)                                                                   \
    X(SEALS, 42, Seals, seals)                                                                               \
    X(SEALEDS, 43, Sealeds, sealeds)                                                                         \
    X(PIECE, 44, Piece, piece)                                                                               \
    X(PIECED, 45, Pieced, pieced)                                                                            \
    X(CONFIRM, 46, Confirm, confirm)                                                                         \
    X(CONFIRMED, 47, Confirmed, confirmed)                                                                   \
    X(FENCED, 48, Fenced, fenced)                                                                            \
    X(RECORDS, 49, Records, records)                                                                         \
    X(MEMBERS, 50, Members, members)                                                                         \
    X(LEAD, 51, Lead, lead)                                                                                  \
    X(DROP_REPLICA, 52, DropReplica, drop_replica)                                                           \
    X(HOLD, 53, Hold, hold)                                                                                  \
    X(REPORTS, 54, Reports, reports)                                                                         \
    X(SHARD_LOAD, 55, ShardLoad, shard_load)                                                                 \
    /* controller <-> controller */                                                                          \
    X(HEARTBEAT, 60, Heartbeat, heartbeat)                                                                   \
    X(HEARTBEAT_SEEN, 61, HeartbeatSeen, heartbeat_seen)                                                     \
    X(PRE_VOTE, 62, PreVote, pre_vote)                                                                       \
    X(PRE_VOTED, 63, PreVoted, pre_voted)                                                                    \
    X(VOTE, 64, Vote, vote)                                                                                  \
    X(VOTED, 65, Voted, voted)                                                                               \
    X(TIMEOUT_NOW, 66, TimeoutNow, timeout_now)                                                              \
    X(PROPOSE, 67, Propose, propose)                                                                         \
    X(PROPOSED, 68, Proposed, proposed)                                                                      \
    X(INTRODUCE, 69, Introduce, introduce)                                                                   \
    X(INTRODUCED, 70, Introduced, introduced)                                                                \
    /* gateway <-> shard */                                                                                  \
    X(SHARD_PUBLISH, 80, ShardPublish, shard_publish)                                                        \
    X(SHARD_RECEIPTS, 81, ShardReceipts, shard_receipts)                                                     \
    X(ATTACH, 82, Attach, attach)                                                                            \
    X(ATTACHED, 83, Attached, attached)                                                                      \
    X(DETACH, 84, Detach, detach)                                                                            \
    X(DETACHED, 85, Detached, detached)                                                                      \
    X(LEND, 86, Lend, lend)                                                                                  \
    X(CREDIT_BACK, 87, CreditBack, credit_back)                                                              \
    X(READY, 88, Ready, ready)                                                                               \
    X(SHARD_DELIVERY, 89, ShardDelivery, shard_delivery)                                                     \
    X(SHARD_SETTLE, 90, ShardSettle, shard_settle)                                                           \
    X(SHARD_SETTLED, 91, ShardSettled, shard_settled)                                                        \
    X(LED, 92, Led, led)                                                                                     \
    X(PRESENTED, 93, Presented, presented)                                                                   \
    X(NOT_LEADING, 94, NotLeading, not_leading)                                                              \
    X(PARTITION_LOADS, 95, PartitionLoads, partition_loads)                                                  \
    X(SHOW_PARTITION, 96, ShowPartition, show_partition)                                                     \
    X(PARTITION_SHOWN, 97, PartitionShown, partition_shown)                                                  \
    X(PURGE_PARTITION, 98, PurgePartition, purge_partition)                                                  \
    X(PARTITION_PURGED, 99, PartitionPurged, partition_purged)                                               \
    X(FORWARD_PUBLISH, 100, ForwardPublish, forward_publish)                                                 \
    X(FORWARDED, 101, Forwarded, forwarded)                                                                  \
    /* controller -> gateway */                                                                              \
    X(MAP, 110, Map, map)

enum frame_type {
#define X(name, number, message, lower) FRAME_##name = (number),
    FRAME_LIST(X)
#undef X
};

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Frame types, written once: X(NAME, number, Message). On the wire:
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
    FRAME_BYTES_DEFAULT = 1048576 * 32
};

#define FRAME_LIST(X)                                    \
    /* any link */                                       \
    X(HELLO, 1, Hello)                                   \
    X(WELCOME, 2, Welcome)                               \
    X(FAIL, 3, Fail)                                     \
    X(GOAWAY, 4, Goaway)                                 \
    X(PING, 5, Ping)                                     \
    X(PONG, 6, Pong)                                     \
    /* client <-> gateway */                             \
    X(LOOKUP, 10, Lookup)                                \
    X(MAILBOX_INFO, 11, MailboxInfo)                     \
    X(LOADS, 12, Loads)                                  \
    X(PUBLISH, 13, Publish)                              \
    X(RECEIPTS, 14, Receipts)                            \
    X(SUBSCRIBE, 15, Subscribe)                          \
    X(SUBSCRIBED, 16, Subscribed)                        \
    X(UNSUBSCRIBE, 17, Unsubscribe)                      \
    X(CREDIT, 18, Credit)                                \
    X(DELIVERY, 19, Delivery)                            \
    X(SETTLE, 20, Settle)                                \
    X(SETTLED, 21, Settled)                              \
    X(CONSUMER_END, 22, ConsumerEnd)                     \
    X(REQUEST, 23, Request)                              \
    X(RESPONSE, 24, Response)                            \
    /* replica <-> replica, controller <-> shard */      \
    X(APPENDS, 40, Appends)                              \
    X(APPENDEDS, 41, Appendeds)                          \
    X(SEALS, 42, Seals)                                  \
    X(SEALEDS, 43, Sealeds)                              \
    X(PIECE, 44, Piece)                                  \
    X(PIECED, 45, Pieced)                                \
    X(CONFIRM, 46, Confirm)                              \
    X(CONFIRMED, 47, Confirmed)                          \
    X(FENCED, 48, Fenced)                                \
    X(RECORDS, 49, Records)                              \
    X(MEMBERS, 50, Members)                              \
    X(LEAD, 51, Lead)                                    \
    X(DROP_REPLICA, 52, DropReplica)                     \
    X(HOLD, 53, Hold)                                    \
    X(REPORTS, 54, Reports)                              \
    X(SHARD_LOAD, 55, ShardLoad)                         \
    /* controller <-> controller */                      \
    X(HEARTBEAT, 60, Heartbeat)                          \
    X(HEARTBEAT_SEEN, 61, HeartbeatSeen)                 \
    X(PRE_VOTE, 62, PreVote)                             \
    X(PRE_VOTED, 63, PreVoted)                           \
    X(VOTE, 64, Vote)                                    \
    X(VOTED, 65, Voted)                                  \
    X(TIMEOUT_NOW, 66, TimeoutNow)                       \
    X(PROPOSE, 67, Propose)                              \
    X(PROPOSED, 68, Proposed)                            \
    X(INTRODUCE, 69, Introduce)                          \
    X(INTRODUCED, 70, Introduced)                        \
    /* gateway <-> shard */                              \
    X(SHARD_PUBLISH, 80, ShardPublish)                   \
    X(SHARD_RECEIPTS, 81, ShardReceipts)                 \
    X(ATTACH, 82, Attach)                                \
    X(ATTACHED, 83, Attached)                            \
    X(DETACH, 84, Detach)                                \
    X(DETACHED, 85, Detached)                            \
    X(LEND, 86, Lend)                                    \
    X(CREDIT_BACK, 87, CreditBack)                       \
    X(READY, 88, Ready)                                  \
    X(SHARD_DELIVERY, 89, ShardDelivery)                 \
    X(SHARD_SETTLE, 90, ShardSettle)                     \
    X(SHARD_SETTLED, 91, ShardSettled)                   \
    X(LED, 92, Led)                                      \
    X(PRESENTED, 93, Presented)                          \
    X(NOT_LEADING, 94, NotLeading)                       \
    X(PARTITION_LOADS, 95, PartitionLoads)               \
    X(SHOW_PARTITION, 96, ShowPartition)                 \
    X(PARTITION_SHOWN, 97, PartitionShown)               \
    X(PURGE_PARTITION, 98, PurgePartition)               \
    X(PARTITION_PURGED, 99, PartitionPurged)             \
    X(FORWARD_PUBLISH, 100, ForwardPublish)              \
    X(FORWARDED, 101, Forwarded)                         \
    /* controller -> gateway */                          \
    X(MAP, 110, Map)

enum frame_type {
#define X(name, number, message) FRAME_##name = (number),
    FRAME_LIST(X)
#undef X
};

#endif

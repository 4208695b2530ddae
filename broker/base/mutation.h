// SPDX-License-Identifier: Apache-2.0
/*
 * Rules that the simulator's mutated build can break, to show that it would notice.
 *
 * MUTATED(name) is the constant 0 in everything that is installed or tested: there
 * is nothing to set, and the compiler leaves no trace of it. Only tests/sim builds
 * the pure folders and the journal once more, into sim_mutated, with
 * MAILROOM_MUTATIONS defined; there it asks whether `--mutation NAME` chose the
 * rule (at most one, before anything runs). tests/sim/mutate runs them all.
 *
 * Each line: the name, and the rule with what a user would lose without it.
 */
#ifndef MAILROOM_MUTATION_H
#define MAILROOM_MUTATION_H

#include <stdbool.h>

/* clang-format off */
#define MUTATIONS(X)                                                                                               \
    /* commit */                                                                                                   \
    X(older_by_majority, "an older epoch's entries commit with the own epoch's record only: receipted messages go") \
    X(stored_before_sync, "an append is answered as stored once it is synced: receipts are lost with the power")   \
    X(own_log_answered, "an answer says what was verified against this leader: its majority holds other entries") \
    X(commit_unverified, "a follower commits what it verified against this leader only: it applies what is cut later") \
    X(minority_commits, "more than half store an entry before it is committed: one death loses receipts")           \
    X(learner_counts, "learners count in no majority: a receipt rests on copies that may not lead")                 \
    X(new_set_alone, "while activating, both sets commit: the old set leads on without what was receipted")         \
    X(epoch_unsynced, "nothing of an epoch is sent before its record is synced: it is led twice, with two contents") \
    /* following */                                                                                                \
    X(promise_ignored, "an append below the promise is refused: a deposed leader goes on committing")               \
    X(previous_ignored, "an append's previous entry must be there in its epoch: logs differ below what is committed") \
    X(cut_agreeing, "only what diverges is cut, nothing at or below the commit index: copies lose what they answered for") \
    X(shorter_frame_cuts, "a late frame that ends before the log cuts nothing: copies lose what they answered for")  \
    /* seals */                                                                                                    \
    X(sealed_before_sync, "a promise is synced before it is answered: forgotten with the power, an old leader commits") \
    X(seal_below_promise, "a seal below the promise is refused: two epochs lead at once")                           \
    X(promise_not_kept, "a promise survives a restart: a deposed leader finds a majority again")                    \
    X(promise_not_in_drop, "a dropped copy keeps its promise: a deposed leader finds a majority again")             \
    X(two_votes, "an election's epoch is promised to one candidate: two controllers lead in one epoch")             \
    X(votes_for_any_log, "who votes wants a log as long as his own: what controllers committed is lost")            \
    X(any_log_leads, "the longest log of a majority leads: receipted messages are lost")                            \
    X(index_before_epoch, "a log's last epoch counts before its length: receipted messages are lost")               \
    X(half_seals, "more than half must promise: the old leader and the new one commit side by side")                \
    X(seal_of_one_set, "while activating, both sets seal: receipts of the other set are lost")                      \
    X(leads_again, "an epoch is taken at most once, also across a restart: one index, two contents")                \
    X(record_swap_unchecked, "a record replaces the very one it was computed from: a decision is undone, messages lost") \
    /* changing the set */                                                                                         \
    X(activated_by_one, "activated means stored by both majorities: the old set drops what the new one lacks")      \
    X(leavers_drop_early, "leavers keep their data until the new set is active: its majority is not yet there")     \
    X(voters_without_majority, "no set of voters of which a majority is away: the cluster can never be changed again") \
    /* who may deliver */                                                                                          \
    X(lease_not_waited, "a new leader waits out the old one's lease: a message is at two consumers at once")        \
    X(lease_unconfirmed, "a leader delivers while a majority confirms it: one cut off goes on delivering")          \
    X(fences_ignored, "who promised a newer epoch confirms no older leader: one cut off goes on delivering")        \
    X(fences_not_told, "a promise is told to all peers at once: a deposed leader goes on delivering")        \
    X(fences_not_repeated, "a new link and a new process tell the promises again: a deposed leader goes on delivering") \
    X(inherited_at_once, "what an earlier epoch delivered waits for its consumers' word: they see it twice")        \
    X(old_token_taken, "a settlement by an old token is refused: an ack undoes somebody else's delivery")           \
    X(exclusive_forgotten, "an exclusive subscription serves one consumer, also what comes back: order is lost")    \
    X(return_overtaken, "exclusive delivery stands still while something is coming back: order is lost")            \
    /* once */                                                                                                     \
    X(duplicates_taken, "a sequence is taken once: a message is stored twice")                                      \
    X(gaps_taken, "what names an earlier message (after) waits for it: a producer's order is lost")                 \
    X(producers_not_in_checkpoint, "checkpoints hold who published how far: a retried message is stored twice")     \
    X(marks_not_in_checkpoint, "checkpoints hold how often a message came back: old tokens count again")            \
    X(settled_not_in_checkpoint, "checkpoints hold what is settled: acked messages come again")                     \
    /* damage */                                                                                                   \
    X(damaged_counts, "a damaged copy seals nothing and counts in no majority: receipted messages are lost")        \
    X(damage_unmarked, "damage is remembered across a restart: a short log looks whole and leads")                  \
    X(mended_early, "mended is what is stored as far as the leader named: a copy with a hole leads")                \
    X(damaged_middle_cut, "an unreadable entry below what is proven is damage: the log ends there and looks whole") \
    X(gap_ignored, "an unreadable stretch below what is proven is damage: entries or promises vanish unseen")       \
    /* the journal and checkpoints */                                                                              \
    X(completed_before_sync, "a turn is complete once it is synced: all that rests on it is lost with the power")   \
    X(checkpoint_not_atomic, "the old log stays until the last piece is in: a crash between leaves neither")        \
    X(checkpoint_before_sync, "a received checkpoint counts once it is synced: it counts and is gone")              \
    X(checkpoint_ahead, "a checkpoint stands at what is applied, not above: what is missing in it is lost")         \
    X(reclaimed_unsaid, "a segment goes once all it says is said again: promises and cuts are forgotten")           \
    X(reclaimed_unsynced, "a segment goes once all it said is synced elsewhere: copies vanish with the power")
/* clang-format on */

enum mutation {
    MUTATION_NONE,
#define X(name, rule) MUTATION_##name,
    MUTATIONS(X)
#undef X
};

#ifdef MAILROOM_MUTATIONS
#ifdef NDEBUG
#error "mutations are for the simulator only"
#endif
/* Defined by the simulator alone: nothing else links with this. */
extern enum mutation mutation_chosen;
#define MUTATED(name) (mutation_chosen == MUTATION_##name)
#else
#define MUTATED(name) ((void)MUTATION_##name, 0)
#endif

#endif

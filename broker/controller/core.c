// SPDX-License-Identifier: Apache-2.0
/*
 * The core's life and clock.
 */
#include "controller/core.h"

#include <stdarg.h>
#include <stdio.h>

#include "controller/core_private.h"

enum { SAY_BYTES_MAX = 512 };

void core_say(struct core *c, enum log_level level, const char *format, ...) {
    char text[SAY_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->host->say(c->host_context, level, text);
}

/* ---- the clock ---- */

usec_t core_deadline(const struct core *c) {
    usec_t now = core_now(c), at = now + c->config->heartbeat;
    usec_t others[] = {election_deadline(c->election), replica_deadline(c->replica),
                       c->leads ? control_deadline(c->control) : USEC_NEVER, detector_deadline(c->detector)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        at = others[i] < at ? others[i] : at;
    return at > now + ELECTION_GRAIN_US ? at : now + ELECTION_GRAIN_US;
}

void core_tick(struct core *c) {
    usec_t now = core_now(c);
    controllers_hear_self(c);
    detector_tick(c->detector, now, &c->detected);
    group_detected(c);
    election_tick(c->election, now, &c->replica_effects, &c->election_effects);
    replica_tick(c->replica, now, &c->replica_effects);
    if (c->leads)
        control_tick(c->control, now, &c->control_effects);
    group_run(c);
    forming_check(c);
    requests_tick(c);
    if (journal_in_flight(c->journal) == 0)
        journal_prove(c->journal); /* idle: let a torn tail and damage be told apart */
}

usec_t core_beat_interval(const struct core *c) {
    usec_t half = c->config->heartbeat / 2;
    return half < ELECTION_HEARTBEAT_US_MAX ? half : ELECTION_HEARTBEAT_US_MAX;
}

static void beat(struct core *c) {
    struct beat b = controllers_beat(c);
    c->applied_sent = b.applied;
    c->host->beat(c->host_context, &b);
}

void core_beat(struct core *c) {
    struct shard_order ping = {.type = SHARD_PING, .sent_at = core_now(c)};
    beat(c);
    CORE_SHARDS_EACH(c, s)
    if (s->up)
        c->host->order(c->host_context, s, &ping);
}

/* Heartbeats out of turn: newly applied metadata lets somebody who waits for it go on. */
void core_turn(struct core *c) {
    group_turn(c);
    shards_turn(c);
    if (metadata_index(c->metadata) != c->applied_sent)
        beat(c);
}

/* ---- life ---- */

void core_open(struct core *c, const struct core_options *options) {
    *c = (struct core){.host = options->host,
                       .host_context = options->host_context,
                       .config = options->config,
                       .journal = options->journal,
                       .self = options->self,
                       .starts = options->starts,
                       .checkpoint_entries = options->checkpoint_entries,
                       .rng.state = options->election_seed,
                       .next_request = 1};
    group_open(c, options);
    forming_start(c);
    controllers_refresh(c);
    shards_refresh(c);
}

/* So that nobody waits for a timer. */
usec_t core_stop(struct core *c) {
    c->stopping = true;
    if (!election_leading(c->election) ||
        election_transfer(c->election, 0, core_now(c), &c->election_effects) != ERR_OK)
        return 0;
    group_run(c);
    return ELECTION_TRANSFER_US;
}

void core_hang_up(struct core *c) {
    c->stopping = true;
    requests_close(c);
}

void core_close(struct core *c) {
    requests_close(c);
    group_close(c);
    shards_forget(c);
    controllers_close(c);
}

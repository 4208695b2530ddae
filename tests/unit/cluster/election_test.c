// SPDX-License-Identifier: Apache-2.0
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/body.h"
#include "cluster/election.h"
#include "world.h"

#define MS(n) ((usec_t)(n)*USEC_MS)

enum { VOTERS_MAX = 5, EPOCHS_MAX = 4096 };

struct voter {
    struct host *host;
    struct copy *copy;
    struct election *election;
    usec_t heartbeat_at;
};

struct story {
    struct world *world;
    struct voter voters[VOTERS_MAX];
    size_t count;
    member_t leader_of[EPOCHS_MAX]; /* the oracle: one leader an epoch */
    uint64_t committed[EPOCHS_MAX]; /* epoch of each applied index */
    bool hear;                      /* refusals are told (rule 5) */
    usec_t active_at;               /* newest ACTIVE */
    member_t active;
    unsigned stands;
};

static struct voter *voter_of(struct story *s, member_t m) {
    return &s->voters[m - 1];
}

/* ---- carrying frames ---- */

struct mail {
    enum { ASK, ANSWER, HEARTBEAT, SEEN } kind;
    enum election_effect_type type;
    struct election_ask ask;
    struct election_answer answer;
    member_t from, to;
    uint64_t epoch;
    usec_t sent_at;
};

static void post(struct story *s, const struct mail *m);

static void carry(struct story *s, struct voter *v, struct replica_effects *rfx,
                  struct election_effects *fx) {
    struct election_effects mine = *fx;
    *fx = (struct election_effects){0};
    world_carry(v->copy, rfx);
    for (size_t i = 0; i < mine.count; i++) {
        const struct election_effect *e = &mine.items[i];
        struct mail m = {.type = e->type, .from = v->host->member};
        if (e->type == ELECTION_STANDS)
            s->stands++;
        if (e->type == ELECTION_SEND_PRE_VOTED || e->type == ELECTION_SEND_VOTED) {
            m.kind = ANSWER;
            m.answer = e->answer;
            m.to = e->answer.to;
        } else {
            m.kind = ASK;
            m.ask = e->ask;
            m.to = e->ask.to;
        }
        if (e->type != ELECTION_STANDS && e->type != ELECTION_STEPS_DOWN)
            post(s, &m);
    }
    election_effects_free(&mine);
}

static void receive_answer(struct voter *v, const struct mail *m, usec_t now, struct replica_effects *rfx,
                           struct election_effects *fx) {
    if (m->type == ELECTION_SEND_PRE_VOTED)
        election_on_pre_voted(v->election, &m->answer, now, rfx, fx);
    else
        election_on_voted(v->election, &m->answer, now, rfx, fx);
}

static void receive_ask(struct voter *v, const struct mail *m, usec_t now, struct replica_effects *rfx,
                        struct election_effects *fx) {
    if (m->type == ELECTION_SEND_PRE_VOTE)
        election_on_pre_vote(v->election, &m->ask, now, fx);
    else if (m->type == ELECTION_SEND_VOTE)
        election_on_vote(v->election, &m->ask, now, rfx, fx);
    else
        election_on_timeout_now(v->election, &m->ask, now, rfx, fx);
}

static void receive(void *ctx, void *argument) {
    struct story *s = ctx;
    const struct mail *m = argument;
    struct voter *v = voter_of(s, m->to);
    struct replica_effects rfx = {0};
    struct election_effects fx = {0};
    usec_t now = world_now(s->world);
    if (m->kind == ASK) {
        receive_ask(v, m, now, &rfx, &fx);
    } else if (m->kind == ANSWER) {
        receive_answer(v, m, now, &rfx, &fx);
    } else if (m->kind == SEEN) {
        election_seen(v->election, m->from, m->sent_at);
    } else {
        election_heard(v->election, m->from, m->epoch, now);
        post(s, &(struct mail){.kind = SEEN, .from = m->to, .to = m->from, .sent_at = m->sent_at});
    }
    carry(s, v, &rfx, &fx);
}

static void post(struct story *s, const struct mail *m) {
    if (!world_cut_off(s->world, m->from, m->to))
        world_later(s->world, WORLD_TRIP_US, m->to, receive, m, sizeof *m);
}

/* ---- hooks ---- */

static void on_effect(void *ctx, struct copy *c, const struct replica_effect *e) {
    struct story *s = ctx;
    struct voter *v = voter_of(s, c->host->member);
    struct replica_effects rfx = {0};
    struct election_effects fx = {0};
    usec_t now = world_now(s->world);
    if (e->type == REPLICA_LEADING) {
        cr_assert_lt(e->epoch, EPOCHS_MAX);
        cr_assert_eq(s->leader_of[e->epoch], 0, "two leaders in epoch %lu", e->epoch);
        s->leader_of[e->epoch] = c->host->member;
    } else if (e->type == REPLICA_ACTIVE) {
        s->active = c->host->member;
        s->active_at = now;
    } else if (e->type == REPLICA_APPLY) {
        uint64_t *known = &s->committed[e->entry.index];
        cr_assert(*known == 0 || *known == e->entry.epoch, "committed entry %lu changed", e->entry.index);
        *known = e->entry.epoch;
    } else if (e->type == REPLICA_SEND_SEALED) {
        election_sealed(v->election, &e->sealed, now, &rfx, &fx);
    } else if (e->type == REPLICA_REPORT_SUPERSEDED) {
        election_superseded(v->election, e->promise.epoch, now, &rfx, &fx);
    }
    carry(s, v, &rfx, &fx);
}

static void on_append(void *ctx, struct copy *c, const struct replica_append *m) {
    struct story *s = ctx;
    election_heard(voter_of(s, c->host->member)->election, m->from, m->epoch, world_now(s->world));
}

static void heartbeats(struct story *s, struct voter *v) {
    usec_t now = world_now(s->world);
    if (!election_leading(v->election) || now < v->heartbeat_at)
        return;
    v->heartbeat_at = now + ELECTION_HEARTBEAT_US_MAX;
    for (size_t i = 0; i < s->count; i++) {
        struct mail m = {.kind = HEARTBEAT, .from = v->host->member, .to = i + 1, .sent_at = now};
        m.epoch = election_epoch(v->election);
        if (m.to != m.from)
            post(s, &m);
    }
}

static void on_tick(void *ctx) {
    struct story *s = ctx;
    for (size_t i = 0; i < s->count; i++) {
        struct voter *v = &s->voters[i];
        struct replica_effects rfx = {0};
        struct election_effects fx = {0};
        if (!v->host->alive)
            continue;
        heartbeats(s, v);
        if (election_deadline(v->election) <= world_now(s->world))
            election_tick(v->election, world_now(s->world), &rfx, &fx);
        carry(s, v, &rfx, &fx);
    }
}

/* ---- the story's own words ---- */

static const struct world_hooks hooks = {.effect = on_effect, .append = on_append, .tick = on_tick};

static void voter_open(struct story *s, struct voter *v) {
    v->election = election_new(v->copy->r, world_rng(s->world), 0, world_now(s->world));
}

/* Every voter's log begins with the CONFIG entry of all. */
static struct story *tell(size_t count, uint64_t seed) {
    struct story *s = calloc(1, sizeof *s);
    struct replica_set all = {.count = (uint32_t)count};
    for (size_t i = 0; i < count; i++)
        all.members[i] = i + 1;
    s->world = world_new(&hooks, s, true, seed);
    s->count = count;
    s->hear = true;
    for (size_t i = 0; i < count; i++) {
        struct voter *v = &s->voters[i];
        v->host = world_host(s->world, i + 1);
        v->copy = world_copy_make(v->host, 0);
        struct entry config = {
            .index = 1, .epoch = 1, .type = ENTRY_CONFIG, .body = replica_config_encode(&all)};
        v->copy->entries = malloc(sizeof config);
        v->copy->entries[0] = config;
        v->copy->entries_count = v->copy->entries_capacity = 1;
        v->copy->promise = 1;
        world_kill(s->world, i + 1);
        world_start(s->world, i + 1);
        voter_open(s, v);
    }
    return s;
}

static void end(struct story *s) {
    for (size_t i = 0; i < s->count; i++)
        election_free(s->voters[i].election);
    world_free(s->world);
    free(s);
}

static member_t leader(const struct story *s) {
    member_t found = 0;
    uint64_t epoch = 0;
    for (size_t i = 0; i < s->count; i++) {
        const struct voter *v = &s->voters[i];
        if (v->host->alive && election_leading(v->election) && election_epoch(v->election) > epoch) {
            found = v->host->member;
            epoch = election_epoch(v->election);
        }
    }
    return found;
}

static void kill_voter(struct story *s, member_t m) {
    world_kill(s->world, m);
    election_free(voter_of(s, m)->election);
    voter_of(s, m)->election = NULL;
    for (size_t i = 0; s->hear && i < s->count; i++) {
        if (s->voters[i].host->alive)
            election_gone(s->voters[i].election, m, world_now(s->world));
    }
}

static void start_voter(struct story *s, member_t m) {
    world_start(s->world, m);
    voter_open(s, voter_of(s, m));
    for (size_t i = 0; i < s->count; i++) {
        if (s->voters[i].host->alive)
            election_back(s->voters[i].election, m);
    }
}

static enum err propose(struct story *s, member_t m, uint8_t type, struct body *body) {
    struct replica_effects rfx = {0};
    uint64_t index;
    struct voter *v = voter_of(s, m);
    enum err err = replica_propose(v->copy->r, type, body, world_now(s->world), &index, &rfx);
    body_drop(body);
    world_carry(v->copy, &rfx);
    return err;
}

static void propose_some(struct story *s, member_t m) {
    if (m)
        propose(s, m, ENTRY_COMMAND, body_copy("x", 1));
}

static struct story *led(size_t count, uint64_t seed) {
    struct story *s = tell(count, seed);
    world_run(s->world, MS(1500));
    cr_assert_neq(leader(s), 0, "nobody leads, seed %lu", seed);
    return s;
}

/* ---- stories ---- */

Test(election, one_voter_leads_alone) {
    struct story *s = led(1, 1);
    cr_expect_eq(s->active, 1);
    end(s);
}

Test(election, three_voters_agree_on_one_and_stay_with_it) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct story *s = led(3, seed);
        member_t first = leader(s);
        unsigned stands = s->stands;
        world_run(s->world, 5 * USEC_S);
        cr_expect_eq(leader(s), first);
        cr_expect_eq(s->stands, stands, "nobody stands while the leader is heard");
        end(s);
    }
}

/* Rule 5 of a reset and refused connection: it does not cost the timer. */
Test(election, a_leader_that_is_gone_is_replaced_within_fifty_milliseconds) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct story *s = led(seed % 2 ? 3 : 5, seed);
        member_t old = leader(s);
        usec_t at = world_now(s->world);
        kill_voter(s, old);
        world_run(s->world, MS(400));
        cr_assert_neq(leader(s), 0);
        cr_assert_neq(s->active, old);
        cr_assert_leq(s->active_at - at, MS(50), "seed %lu: %ld us", seed, s->active_at - at);
        end(s);
    }
}

Test(election, a_silent_leader_costs_the_timer) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct story *s = led(3, seed);
        s->hear = false;
        usec_t at = world_now(s->world);
        kill_voter(s, leader(s));
        world_run(s->world, MS(900));
        cr_assert_neq(leader(s), 0, "seed %lu", seed);
        cr_assert_leq(s->active_at - at, MS(600), "seed %lu: %ld us", seed, s->active_at - at);
        end(s);
    }
}

Test(election, a_leader_without_a_majority_steps_down) {
    struct story *s = led(3, 3);
    member_t old = leader(s);
    for (member_t m = 1; m <= 3; m++) {
        if (m != old)
            world_cut(s->world, old, m, true);
    }
    world_run(s->world, MS(1500));
    cr_expect_not(election_leading(voter_of(s, old)->election));
    member_t next = leader(s);
    cr_assert_neq(next, 0);
    cr_expect_neq(next, old);
    for (member_t m = 1; m <= 3; m++) {
        if (m != old)
            world_cut(s->world, old, m, false);
    }
    world_run(s->world, MS(2000));
    cr_expect_neq(leader(s), 0);
    propose_some(s, leader(s));
    world_run(s->world, MS(200));
    cr_expect_eq(voter_of(s, old)->copy->applied, voter_of(s, leader(s))->copy->applied, "it follows again");
    end(s);
}

Test(election, one_that_cannot_hear_the_leader_disturbs_nobody) {
    struct story *s = led(3, 5);
    member_t lead = leader(s), deaf = lead % 3 + 1;
    uint64_t epoch = election_epoch(voter_of(s, lead)->election);
    world_cut(s->world, lead, deaf, true);
    world_run(s->world, 3 * USEC_S);
    cr_expect_eq(leader(s), lead);
    world_cut(s->world, lead, deaf, false);
    world_run(s->world, USEC_S);
    cr_expect_eq(leader(s), lead);
    cr_expect_eq(election_epoch(voter_of(s, lead)->election), epoch, "pre-votes raise no epoch");
    end(s);
}

Test(election, leadership_is_passed_on_in_milliseconds) {
    struct story *s = led(3, 7);
    member_t old = leader(s), to = old % 3 + 1;
    struct election_effects fx = {0};
    struct replica_effects rfx = {0};
    usec_t at = world_now(s->world);
    propose_some(s, old);
    cr_assert_eq(election_transfer(voter_of(s, old)->election, to, at, &fx), ERR_OK);
    carry(s, voter_of(s, old), &rfx, &fx);
    cr_expect_not(election_proposable(voter_of(s, old)->election));
    world_run(s->world, MS(100));
    cr_expect_eq(leader(s), to);
    cr_expect_leq(s->active_at - at, MS(20));
    end(s);
}

Test(election, the_one_with_the_shorter_log_is_not_elected) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct story *s = led(3, seed);
        member_t lead = leader(s), behind = lead % 3 + 1;
        kill_voter(s, behind);
        world_run(s->world, MS(20));
        propose_some(s, lead);
        world_run(s->world, MS(20));
        start_voter(s, behind);
        kill_voter(s, lead);
        world_run(s->world, MS(800));
        cr_expect_neq(leader(s), behind);
        end(s);
    }
}

Test(election, random_deaths_and_cuts_never_make_two_leaders_or_lose_an_entry) {
    for (uint64_t seed = 1; seed <= 25; seed++) {
        struct story *s = led(seed % 2 ? 3 : 5, seed);
        struct rng r = {seed * 77};
        member_t down = 0;
        for (int i = 0; i < 40; i++) {
            member_t a = 1 + rng_below(&r, s->count), b = 1 + rng_below(&r, s->count);
            switch (rng_below(&r, 4)) {
            case 0:
                if (!down)
                    kill_voter(s, down = a);
                break;
            case 1:
                if (down)
                    start_voter(s, down);
                down = 0;
                break;
            case 2:
                if (a != b)
                    world_cut(s->world, a, b, rng_below(&r, 2));
                break;
            default:
                propose_some(s, leader(s));
            }
            world_run(s->world, (usec_t)rng_below(&r, 300000));
        }
        for (member_t a = 1; a <= s->count; a++) {
            for (member_t b = 1; b < a; b++)
                world_cut(s->world, a, b, false);
        }
        if (down)
            start_voter(s, down);
        world_run(s->world, 3 * USEC_S);
        cr_assert_neq(leader(s), 0, "nobody leads in the end, seed %lu", seed);
        propose_some(s, leader(s));
        world_run(s->world, MS(200));
        for (size_t i = 0; i < s->count; i++)
            cr_assert_eq(s->voters[i].copy->applied, s->voters[0].copy->applied, "seed %lu", seed);
        end(s);
    }
}

/* ---- who votes ---- */

static struct replica_set set_of(size_t n, const member_t *m) {
    struct replica_set s = {.count = (uint32_t)n};
    memcpy(s.members, m, n * sizeof *m);
    return s;
}
#define SET(...) set_of(sizeof((member_t[]){__VA_ARGS__}) / sizeof(member_t), (member_t[]){__VA_ARGS__})

static struct replica_set voters_after(struct replica_set now, const struct election_candidate *all,
                                       size_t count, unsigned *steps) {
    struct replica_set next;
    *steps = 0;
    while (election_next_voters(&now, all, count, &next)) {
        cr_assert_eq(abs((int)next.count - (int)now.count), 1, "one at a time");
        now = next;
        cr_assert_lt(++*steps, 20);
    }
    return now;
}

Test(election, voters_grow_to_an_odd_number_of_at_most_five) {
    struct election_candidate all[7];
    unsigned steps;
    for (size_t i = 0; i < 7; i++)
        all[i] = (struct election_candidate){.member = i + 1, .alive = true};
    cr_expect_eq(voters_after(SET(1), all, 2, &steps).count, 1);
    cr_expect_eq(voters_after(SET(1), all, 3, &steps).count, 3);
    cr_expect_eq(voters_after(SET(1, 2, 3), all, 4, &steps).count, 3);
    cr_expect_eq(voters_after(SET(1, 2, 3), all, 7, &steps).count, 5);
    cr_expect_eq(voters_after(SET(1, 2, 3, 4, 5), all, 7, &steps).count, 5);
    cr_expect_eq(steps, 0);
}

Test(election, a_dead_voter_is_replaced_and_without_a_replacement_kept) {
    struct election_candidate all[4] = {
        {1, true, false}, {2, false, true}, {3, true, false}, {4, true, false}};
    unsigned steps;
    struct replica_set s = voters_after(SET(1, 2, 3), all, 4, &steps);
    struct replica_set expected = SET(1, 3, 4);
    cr_expect(replica_set_equal(&s, &expected));
    cr_expect_eq(steps, 2);
    s = voters_after(SET(1, 2, 3), all, 3, &steps);
    cr_expect_eq(steps, 0, "three nodes, one of them dead: still three voters");
}

Test(election, no_voter_goes_while_those_who_stay_would_be_no_majority) {
    struct election_candidate all[4] = {{.member = 1, .alive = true, .left = true},
                                        {.member = 2, .alive = true},
                                        {.member = 3},
                                        {.member = 4}};
    struct replica_set now = SET(1, 2, 3), next;
    cr_expect_not(election_next_voters(&now, all, 4, &next), "2 and 3 alone: 3 may never come back");
    all[3].alive = true;
    unsigned steps;
    struct replica_set s = voters_after(now, all, 4, &steps), expected = SET(2, 3, 4);
    cr_expect(replica_set_equal(&s, &expected), "first 4 comes, then 1 goes");
    cr_expect_eq(steps, 2);
    s = voters_after(now, all, 3, &steps);
    expected = SET(2);
    cr_expect(replica_set_equal(&s, &expected), "of two nodes one votes: 3 goes first");
}

Test(election, a_voter_whose_disk_is_gone_goes_before_its_successor_comes) {
    struct election_candidate all[3] = {{1, true, false}, {20, true, false}, {3, true, false}};
    struct replica_set now = SET(1, 2, 3), next;
    cr_assert(election_next_voters(&now, all, 3, &next));
    struct replica_set expected = SET(1, 3);
    cr_expect(replica_set_equal(&next, &expected));
    now = next;
    cr_assert(election_next_voters(&now, all, 3, &next));
    expected = SET(1, 3, 20);
    cr_expect(replica_set_equal(&next, &expected));
    all[1].member = 21; /* lost again at once: two of three are left */
    now = next;
    cr_assert(election_next_voters(&now, all, 3, &next));
    expected = SET(1, 3);
    cr_expect(replica_set_equal(&next, &expected));
}

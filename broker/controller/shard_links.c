// SPDX-License-Identifier: Apache-2.0
/*
 * Links to all shards of the cluster: own ones by ipc (announced by the
 * supervisor), others by tcp at the port behind their controller's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/xalloc.h"
#include "controller/controller_private.h"
#include "wire/hello.h"

/* ---- what shards say ---- */

static void on_sealeds(struct core *c, struct link *link, const struct frame *frame) {
    Mr__Sealeds *m = frame_read_sealeds(link, frame);
    for (size_t i = 0; m && i < m->n_sealeds; i++) {
        const Mr__Sealed *a = m->sealeds[i];
        struct replica_sealed in = {.token = a->token,
                                    .from = a->from,
                                    .epoch = a->epoch,
                                    .granted = a->granted,
                                    .promise = a->promise,
                                    .last_epoch = a->last_epoch,
                                    .last_index = a->last_index,
                                    .commit = a->commit,
                                    .damaged = a->damaged,
                                    .doubtful = a->doubtful,
                                    .was_leading = a->was_leading};
        shards_on_sealed(c, a->partition, &in, a->unknown);
    }
}

static void on_reports(struct core *c, struct link *link, const struct frame *frame) {
    Mr__Reports *m = frame_read_reports(link, frame);
    for (size_t i = 0; m && i < m->n_reports; i++) {
        const Mr__Report *r = m->reports[i];
        struct control_report in = {.partition = r->partition,
                                    .kind = (enum control_report_kind)r->kind,
                                    .from = r->from,
                                    .epoch = r->epoch,
                                    .peer = r->peer,
                                    .crashes = r->crashes};
        shards_on_report(c, &in);
    }
}

static void on_shard_load(struct core *c, struct shard_peer *s, struct link *link,
                          const struct frame *frame) {
    Mr__ShardLoad *m = frame_read_shard_load(link, frame);
    if (m)
        shards_on_load(c, s, m->leaders, m->backlog_messages);
}

/* ---- links ---- */

static void greet(void *ctx, struct keep *keep, struct link *link) {
    struct shard_link *l = ctx;
    struct hello offer = hello_ours();
    Mr__Hello m = MR__HELLO__INIT;
    Mr__Identity identity;
    (void)keep;
    offer.frame_bytes_max = FRAME_BYTES_DEFAULT;
    links_identify(l->controller, &identity);
    m.identity = &identity;
    m.name = (char *)(uintptr_t)l->controller->config->node;
    hello_send(link, &offer, &m);
}

static void on_welcome(struct shard_link *l, struct link *link, const struct frame *frame) {
    struct hello offer = hello_ours();
    struct hello_agreed agreed;
    offer.frame_bytes_max = FRAME_BYTES_DEFAULT;
    Mr__Welcome *m = frame_read_welcome(link, frame);
    if (!m || hello_welcomed(link, &offer, m, &agreed) != ERR_OK)
        return;
    if (!m->identity || !m->identity->member) {
        link_refuse(link, ERR_PROTOCOL, "a shard's welcome without its identity");
        return;
    }
    l->link = link;
    if (shards_up(&l->controller->core, l->shard, m->identity->member)) {
        keep_settled(l->keep);
        return;
    }
    l->link = NULL;
    link_close(link, ERR_STALE, "another identity than the metadata names");
}

static void on_frame(void *ctx, struct link *link, const struct frame *frame) {
    struct shard_link *l = ctx;
    struct core *c = &l->controller->core;
    if (!l->link) {
        if (frame->type == FRAME_WELCOME)
            on_welcome(l, link, frame);
        return;
    }
    shards_heard(c, l->shard);
    switch (frame->type) {
    case FRAME_SEALEDS:
        on_sealeds(c, link, frame);
        break;
    case FRAME_REPORTS:
        on_reports(c, link, frame);
        break;
    case FRAME_SHARD_LOAD:
        on_shard_load(c, l->shard, link, frame);
        break;
    case FRAME_PONG:
        break;
    default:
        link_refuse(link, ERR_PROTOCOL, "frame type %s: not one a shard sends to a controller",
                    frame_name(frame->type));
    }
    group_run(c);
}

static void on_down(void *ctx, struct keep *keep, const struct link_end *end, bool was_up) {
    struct shard_link *l = ctx;
    (void)keep;
    if (was_up) {
        l->link = NULL;
        shards_down(&l->controller->core, l->shard);
    } else if (end->cause == LINK_END_REFUSED) {
        shards_refused(&l->controller->core, l->shard);
    }
}

static const struct keep_handlers keep_calls = {.up = greet, .frame = on_frame, .down = on_down};

static struct shard_link *side_of(struct controller *c, struct shard_peer *s) {
    if (!s->user) {
        struct shard_link *l = xcalloc(1, sizeof *l);
        *l = (struct shard_link){.controller = c, .shard = s};
        s->user = l;
    }
    return s->user;
}

void shard_links_dial(struct controller *c, struct shard_peer *s, const char *url) {
    struct shard_link *l = side_of(c, s);
    struct err_detail detail;
    struct keep_options options = {.handlers = &keep_calls,
                                   .ctx = l,
                                   .link = controller_link_options(),
                                   .retry_max = 200 * USEC_MS,
                                   .silent = KEEP_SILENT_USEC + c->config->timeout};
    if (strcmp(l->url, url) == 0 && l->keep)
        return;
    snprintf(l->url, sizeof l->url, "%s", url);
    if (l->keep)
        keep_redirect(l->keep, url, NULL);
    else if (!(l->keep = keep_new(c->loop, url, &options, &detail)))
        log_error("shard at %s: %s", url, detail.text);
    if (l->keep)
        keep_hurry(l->keep);
}

void shard_links_close(struct controller *c, struct shard_peer *s) {
    struct shard_link *l = side_of(c, s);
    if (l->link)
        link_close(l->link, ERR_STALE, "its identity has changed");
}

void shard_links_leave(struct controller *c) {
    CORE_SHARDS_EACH(&c->core, s) {
        struct shard_link *l = s->user;
        s->up = false;
        s->user = NULL;
        if (l && l->keep)
            keep_free(l->keep);
        free(l);
    }
}

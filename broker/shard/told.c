// SPDX-License-Identifier: Apache-2.0
/*
 * What is said of single partitions and comes in crowds when a node dies: who is
 * led here now, what has been promised away, what the controller is to know. One
 * frame a link and turn carries all of it: it leaves with the turn, or before
 * anything else on the same link.
 */
#include <stdlib.h>

#include "base/xalloc.h"
#include "shard/process.h"

static void send_fences(struct process_link *l) {
    Mr__Fenced m = MR__FENCED__INIT;
    Mr__Fence *fences = xcalloc(l->told_count, sizeof *fences);
    m.fences = xcalloc(l->told_count, sizeof *m.fences);
    for (size_t i = 0; i < l->told_count; i++) {
        mr__fence__init(&fences[i]);
        fences[i].partition = l->told[i].partition;
        fences[i].promise = l->told[i].number;
        m.fences[m.n_fences++] = &fences[i];
    }
    link_send(l->link, FRAME_FENCED, &m.base, NULL, 0);
    free(m.fences);
    free(fences);
}

static void send_led(struct process_link *l) {
    Mr__Led m = MR__LED__INIT;
    Mr__Leading *leading = xcalloc(l->told_count, sizeof *leading);
    m.leading = xcalloc(l->told_count, sizeof *m.leading);
    for (size_t i = 0; i < l->told_count; i++) {
        mr__leading__init(&leading[i]);
        leading[i].partition = l->told[i].partition;
        leading[i].epoch = l->told[i].number;
        m.leading[m.n_leading++] = &leading[i];
    }
    link_send(l->link, FRAME_LED, &m.base, NULL, 0);
    free(m.leading);
    free(leading);
}

static void send_not_leading(struct process_link *l) {
    Mr__NotLeading m = MR__NOT_LEADING__INIT;
    m.partitions = xcalloc(l->told_count, sizeof *m.partitions);
    for (size_t i = 0; i < l->told_count; i++)
        m.partitions[m.n_partitions++] = l->told[i].partition;
    link_send(l->link, FRAME_NOT_LEADING, &m.base, NULL, 0);
    free(m.partitions);
}

static void send_reports(struct process_link *l) {
    Mr__Reports m = MR__REPORTS__INIT;
    Mr__Report *reports = xcalloc(l->told_count, sizeof *reports);
    m.reports = xcalloc(l->told_count, sizeof *m.reports);
    for (size_t i = 0; i < l->told_count; i++) {
        const struct control_report *in = &l->told[i].report;
        Mr__Report *r = m.reports[m.n_reports++] = &reports[i];
        mr__report__init(r);
        r->partition = in->partition;
        r->kind = (Mr__ReportKind)in->kind;
        r->from = in->from;
        r->epoch = in->epoch;
        r->peer = in->peer;
        r->crashes = in->crashes;
    }
    link_send(l->link, FRAME_REPORTS, &m.base, NULL, 0);
    free(m.reports);
    free(reports);
}

void told_send(struct process_link *l) {
    static void (*const senders[])(struct process_link * l) = {[TOLD_FENCED] = send_fences,
                                                               [TOLD_LED] = send_led,
                                                               [TOLD_NOT_LEADING] = send_not_leading,
                                                               [TOLD_REPORTS] = send_reports};
    if (l->told_count)
        senders[l->told_kind](l);
    l->told_count = 0;
}

void told_add(struct process_link *l, enum told_kind kind, const struct told *what) {
    if (l->told_kind != kind || l->told_count == PROCESS_TOLD_MAX)
        told_send(l);
    l->told_kind = kind;
    xgrow(&l->told, &l->told_capacity, l->told_count + 1, sizeof *l->told);
    l->told[l->told_count++] = *what;
}

# SPDX-License-Identifier: Apache-2.0
"""Compares what was promised with what came: reads the records that workload.c
wrote (its head lists the lines) and names everything that must not be."""

import collections
import os

GAP_US = 1_000_000  # between two receipts of a mailbox, under constant load, from when on it counts as unavailable
ACK, DONE = 0, 0
OFFSET_UNKNOWN = (1 << 64) - 1
SHOWN_MAX = 20


class Books:
    def __init__(self, mailbox):
        self.mailbox = mailbox
        self.receipts = {}  # (publisher, seq) -> (partition, offset, time)
        self.unknown, self.failed = {}, {}
        self.deliveries = collections.defaultdict(list)  # (publisher, seq) -> [(time, partition, offset, attempt, consumer)]
        self.done = collections.defaultdict(list)  # (publisher, seq) -> [time acked]
        self.answers = collections.Counter()
        self.wrong = []
        self.late = []
        self.slowest = (0, None, 0)  # (us from submission to receipt, key, submitted)
        self.published = 0

    def error(self, text):
        self.wrong.append(f'{self.mailbox}: {text}')

    def read_publisher(self, path, publisher):
        ended = None
        for words in lines_of(path):
            kind = words[0]
            if kind == 'R':
                key = (publisher, int(words[1]))
                if key in self.receipts or key in self.unknown or key in self.failed:
                    self.error(f'two answers for {key}')
                self.receipts[key] = (int(words[2]), int(words[3]), int(words[6]))
                self.slowest = max(self.slowest, (int(words[6]) - int(words[5]), key, int(words[5])))
            elif kind in 'UF':
                key = (publisher, int(words[1]))
                (self.unknown if kind == 'U' else self.failed)[key] = (words[2], int(words[3]), int(words[4]))
            elif kind == 'E':
                ended = words
            elif kind == 'H':
                self.late.append(f'{os.path.basename(path)}: {" ".join(words[1:])} ms')
        if ended is None:
            self.error(f'publisher {publisher} did not end')
        elif ended[1] != ended[2]:
            self.error(f'publisher {publisher}: {ended[1]} submitted, {ended[2]} answered')

    def read_consumer(self, path):
        name = os.path.basename(path)
        for words in lines_of(path):
            kind = words[0]
            if kind == 'D':
                self.deliveries[(int(words[1]), int(words[2]))].append(
                    (int(words[6]), int(words[3]), int(words[4]), int(words[5]), name))
            elif kind == 'A':
                self.answers[(int(words[5]), int(words[6]))] += 1
                if int(words[5]) == ACK and int(words[6]) == DONE:
                    self.done[(int(words[1]), int(words[2]))].append(int(words[7]))
            elif kind == 'B':
                self.error(f'{name}: bytes that nobody published: {" ".join(words[1:])}')
            elif kind == 'H':
                self.late.append(f'{name}: {" ".join(words[1:])} ms')

    def check(self):
        self.published = len(self.receipts) + len(self.unknown) + len(self.failed)
        lost = [k for k in self.receipts if k not in self.deliveries]
        for key in lost[:SHOWN_MAX]:
            self.error(f'lost: {key}, receipted as {self.receipts[key]}')
        self.check_honest()
        self.check_once()
        self.check_order()
        self.check_settled()
        return len(lost)

    def check_honest(self):
        for key, got in self.deliveries.items():
            if key in self.failed:
                self.error(f'{key} was reported as not stored ({self.failed[key]}), and came: {got[0]}')
            elif key not in self.receipts and key not in self.unknown:
                self.error(f'{key} was never published, and came: {got[0]}')

    def check_once(self):
        places = {}
        for key, got in self.deliveries.items():
            at = {(p, o) for _, p, o, _, _ in got}
            if key in self.receipts and self.receipts[key][1] != OFFSET_UNKNOWN:
                at.add(self.receipts[key][:2])
            if len(at) > 1:
                self.error(f'{key} is stored more than once: {sorted(at)}')
            for place in at:
                if places.setdefault(place, key) != key:
                    self.error(f'{place} is both {places[place]} and {key}')

    def check_order(self):
        last = {}
        for key in sorted(self.receipts):
            partition, offset, _ = self.receipts[key]
            if offset == OFFSET_UNKNOWN:
                continue
            before = last.get((key[0], partition))
            if before and before[1] >= offset:
                self.error(f'partition {partition}: {key} at {offset}, but {before[0]} at {before[1]}')
            last[(key[0], partition)] = (key, offset)

    def check_settled(self):
        for key, times in self.done.items():
            if len(times) > 1:
                self.error(f'{key} was acked {len(times)} times')
            after = [d for d in self.deliveries[key] if d[0] > min(times)]
            if after:
                self.error(f'{key} came again after its ack was confirmed at {min(times)}: {after[0]}')

    def duplicates(self):
        return sum(len(got) - 1 for got in self.deliveries.values())

    def check_shown(self, shown, subscription='default'):
        """`mailbox show --json` after everything was drained."""
        published = acked = 0
        for p in shown['partitions']:
            if p['state'] != 'ok':
                self.error(f'partition {p["partition"]} is {p["state"]} at the end')
            for s in p['subscriptions']:
                if s['name'] != subscription:
                    continue
                parts = {k: s[k] for k in ('ready', 'leased', 'delayed', 'dying', 'acked', 'dead', 'expired',
                                           'dropped', 'purged')}
                if s['published'] != sum(parts.values()):
                    self.error(f'partition {p["partition"]} is not conserved: {s["published"]} of {parts}')
                if any(parts[k] for k in parts if k != 'acked'):
                    self.error(f'partition {p["partition"]} is not drained: {parts} {s["reason"]}')
                published, acked = published + s['published'], acked + parts['acked']
        if published != len(self.deliveries):
            self.error(f'{published} are counted as published, {len(self.deliveries)} came')

    def gaps(self):
        """[(start, end)] without a receipt."""
        times = sorted(t for _, _, t in self.receipts.values())
        return [(a, b) for a, b in zip(times, times[1:]) if b - a > GAP_US]


def lines_of(path):
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            words = line.split()
            if words:
                yield words

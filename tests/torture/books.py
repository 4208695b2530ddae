# SPDX-License-Identifier: Apache-2.0
"""Compares what was promised with what came: reads the records that workload.c
wrote (its head lists the lines) and names everything that must not be.

Books are a mailbox's; a Reader is one of its subscriptions. What the run did
(Faults) explains what may be: a message that came twice, a lease that passed on,
a receipt of a mailbox with durability `written` that a blackout took."""

import bisect
import collections
import os

GAP_US = 1_000_000  # between two receipts of a mailbox, under constant load, from when on it counts as unavailable
ACK, NACK, REJECT, RELEASE, FREED, DONE = 0, 1, 2, 4, 9, 0
OFFSET_UNKNOWN = (1 << 64) - 1
SHOWN_MAX = 20
BEFORE_US, AFTER_US = 1_000_000, 4_000_000  # a fault explains what comes so long before its record and after its end
LEASE_US = 5_000_000 - 1_000_000  # of the mailboxes' ack-timeout, what is left when the application gets a message
WRITTEN_US = 3_000_000  # so long before the machines' power fails a receipt for `written` may prove nothing
WORDS = {NACK: 'nack', RELEASE: 'release', REJECT: 'reject', FREED: 'freed', ACK: 'ack'}


class Faults:
    """What happened when: [(begin us, end us)] of faults, and of all machines' power."""

    def __init__(self, spans=(), blackouts=()):
        self.spans = sorted((a - BEFORE_US, b + AFTER_US) for a, b in spans)
        self.latest = []
        for _, b in self.spans:
            self.latest.append(max(b, self.latest[-1]) if self.latest else b)
        self.blackouts = sorted(blackouts)

    def between(self, a, b):
        i = bisect.bisect_right(self.spans, (b, float('inf')))
        return i > 0 and self.latest[i - 1] >= a

    def blackout_after(self, t, within=WRITTEN_US):
        i = bisect.bisect_left(self.blackouts, t - BEFORE_US)
        return i < len(self.blackouts) and self.blackouts[i] <= t + within


class Delivery:
    __slots__ = ('time', 'partition', 'offset', 'attempt', 'consumer', 'key', 'kind', 'until')

    def __init__(self, time, partition, offset, attempt, consumer, key):
        self.time, self.partition, self.offset, self.attempt = time, partition, offset, attempt
        self.consumer, self.key, self.kind, self.until = consumer, key, None, None

    def __repr__(self):
        end = f', {WORDS.get(self.kind, "held")} until {self.until}' if self.until else ', held'
        return f'{self.partition}/{self.offset} attempt {self.attempt} to {self.consumer} at {self.time}{end}'


class Reader:
    """One subscription's deliveries."""

    def __init__(self, books, name):
        self.books, self.name = books, name
        self.deliveries = collections.defaultdict(list)  # (publisher, seq) -> [Delivery], by time
        self.done = collections.defaultdict(list)  # (publisher, seq) -> [(time answered, delivered)] acked
        self.rejected = set()
        self.answers = collections.Counter()
        self.duplicates = collections.Counter()  # why -> how many
        self.shared = collections.Counter()  # why two held one message, or what must be one's
        self.counts = collections.Counter()  # of `mailbox show`

    def error(self, text):
        self.books.error(f'{self.name}: {text}')

    def read(self, path):
        name = os.path.basename(path)
        mine, ended, last = {}, [], 0
        for words in lines_of(path):
            kind = words[0]
            if kind == 'D':
                d = Delivery(int(words[6]), int(words[3]), int(words[4]), int(words[5]), name,
                             words[7] if len(words) > 7 else '-')
                mine[(words[1], words[2], words[6])] = d
                last = max(last, d.time)
                self.deliveries[(int(words[1]), int(words[2]))].append(d)
            elif kind == 'S':
                d = mine[(words[1], words[2], words[4])]
                d.kind, d.until = int(words[3]), int(words[5])
            elif kind == 'A':
                self.answered(words)
            elif kind == 'B':
                self.error(f'{name}: bytes that nobody published: {" ".join(words[1:])}')
            elif kind == 'X':
                ended.append(int(words[2]))
            elif kind == 'K':
                ended.append(int(words[1]))
            elif kind == 'H':
                self.books.late.append(f'{name}: {" ".join(words[1:])} ms')
        for d in mine.values():
            if d.until is None:
                d.until = next((t for t in ended if t >= d.time), None)

    def answered(self, words):
        key = (int(words[1]), int(words[2]))
        kind, result = int(words[5]), int(words[6])
        self.answers[(kind, result)] += 1
        if result != DONE:
            return
        if kind == ACK:
            self.done[key].append((int(words[7]), int(words[8]) if len(words) > 8 else 0))
        elif kind == REJECT:
            self.rejected.add(key)

    def check(self):
        for got in self.deliveries.values():
            got.sort(key=lambda d: d.time)
        self.check_settled()
        self.check_again()
        if self.books.ordered:
            self.check_first_in_order()
            self.check_alone()

    def taken_back(self, key):
        """Durability `written`, and all machines lost their power."""
        return self.books.written and any(self.books.faults.blackout_after(t) for t, _ in self.done.get(key, []))

    def check_settled(self):
        for key, answers in self.done.items():
            times = [t for t, _ in answers]
            if len(times) > 1 and not self.taken_back(key):
                self.error(f'{key} was acked {len(times)} times')
            after = [d for d in self.deliveries[key] if d.time > min(times)]
            if after and self.taken_back(key):
                self.books.excused['came again after an ack that a blackout took'] += 1
            elif after:
                self.error(f'{key} came again after its ack was confirmed at {min(times)}: {after[0]}')

    def why(self, a, b):
        """Why b came although a had, or None."""
        if a.kind in (NACK, RELEASE, FREED) and a.until <= b.time:
            return WORDS[a.kind]
        if b.time - a.time >= LEASE_US:
            return 'timeout'
        if a.kind is None and a.until is not None and a.until <= b.time:
            return 'consumer gone'
        return 'fault' if self.books.faults.between(a.time, b.time) else None

    def check_again(self):
        for key, got in self.deliveries.items():
            for a, b in zip(got, got[1:]):
                why = self.why(a, b)
                self.duplicates[why or 'unexplained'] += 1
                if why is None:
                    self.error(f'{key} came twice without a reason: {a}, {b}')
                held = a.until is None or a.until > b.time
                if held and a.consumer != b.consumer:
                    self.shared[why] += 1
                # settled after another one had it: the older token must not count
                if held and a.kind is not None and any(at == a.time for _, at in self.done.get(key, [])):
                    self.error(f'{key}: acked by who had lost it: {a}, {b}')

    def groups(self):
        """What must be consumed in order, by one consumer at a time."""
        found = collections.defaultdict(list)
        for key, got in self.deliveries.items():
            for d in got:
                found[(d.partition, d.key if self.books.ordered == 'key' else '')].append((d, key))
        return found

    def check_first_in_order(self):
        for group, all_of in self.groups().items():
            first = {}
            for d, key in all_of:
                first[d.offset] = min(first.get(d.offset, (d.time, None)), (d.time, key), key=lambda x: x[0])
            before = (0, None)
            for offset in sorted(first):
                if first[offset][0] < before[0]:
                    self.error(f'{group}: {first[offset][1]} at {offset} came before {before[1]}')
                before = max(before, first[offset], key=lambda x: x[0])

    def check_alone(self):
        for group, all_of in self.groups().items():
            holder = None
            for d, key in sorted(all_of, key=lambda x: x[0].time):
                if holder and holder.consumer != d.consumer and (holder.until is None or holder.until > d.time):
                    why = ('timeout' if d.time - holder.time >= LEASE_US else
                           'fault' if self.books.faults.between(holder.time, d.time) else None)
                    self.shared[why or 'unexplained'] += 1
                    if why is None:
                        self.error(f'{group}: two hold what is for one: {holder}, {d} ({key})')
                if not holder or holder.until and (not d.until or d.until > holder.until):
                    holder = d

    def check_shown(self, shown):
        """`mailbox show --json` after everything was drained."""
        for p in shown['partitions']:
            for s in p['subscriptions']:
                if s['name'] != self.name:
                    continue
                parts = {k: s[k] for k in ('ready', 'leased', 'delayed', 'dying', 'acked', 'dead', 'expired',
                                           'dropped', 'purged')}
                if s['published'] != sum(parts.values()):
                    self.error(f'partition {p["partition"]} is not conserved: {s["published"]} of {parts}')
                if any(parts[k] for k in parts if k not in ('acked', 'dead')):
                    self.error(f'partition {p["partition"]} is not drained: {parts} {s["reason"]}')
                self.counts.update({'published': s['published'], 'acked': parts['acked'], 'dead': parts['dead']})


class Books:
    def __init__(self, mailbox, faults=None, written=False, ordered=''):
        self.mailbox, self.faults, self.written = mailbox, faults or Faults(), written
        self.ordered = ordered  # '', 'partition' (exclusive) or 'key'
        self.receipts = {}  # (publisher, seq) -> (partition, offset, time)
        self.unknown, self.failed = {}, {}
        self.readers = {}
        self.letters = None  # the Reader of the dead-letter mailbox
        self.excused = collections.Counter()
        self.wrong = []
        self.late = []
        self.slowest = (0, None, 0)  # (us from submission to receipt, key, submitted)
        self.published = 0

    def reader(self, subscription='default'):
        return self.readers.setdefault(subscription, Reader(self, subscription))

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

    def check(self):
        """Returns how many receipted messages never came."""
        self.published = len(self.receipts) + len(self.unknown) + len(self.failed)
        came = self.came()
        lost = [k for k in self.receipts if any(k not in c for c in came)]
        if self.written:
            excused = [k for k in lost if self.faults.blackout_after(self.receipts[k][2])]
            self.excused['receipts that a blackout took'] += len(excused)
            for key in excused:
                del self.receipts[key]
            lost = [k for k in lost if k in self.receipts]
        for key in lost[:SHOWN_MAX]:
            self.error(f'lost: {key}, receipted as {self.receipts[key]}')
        self.check_honest()
        self.check_once()
        self.check_order()
        for reader in self.readers.values():
            reader.check()
        self.check_letters()
        return len(lost)

    def came(self):
        """For each subscription what came to it, or went to the dead letters."""
        letters = self.letters.deliveries if self.letters else {}
        return [{*r.deliveries, *letters} if letters else r.deliveries for r in self.readers.values()]

    def every(self):
        for reader in self.readers.values():
            yield from reader.deliveries.items()

    def check_honest(self):
        letters = list(self.letters.deliveries.items()) if self.letters else []
        for key, got in [*self.every(), *letters]:
            if key in self.failed:
                self.error(f'{key} was reported as not stored ({self.failed[key]}), and came: {got[0]}')
            elif key not in self.receipts and key not in self.unknown:
                self.error(f'{key} was never published, and came: {got[0]}')

    def check_once(self):
        places = {}
        for key, got in self.every():
            at = {(d.partition, d.offset) for d in got}
            if key in self.receipts and self.receipts[key][1] != OFFSET_UNKNOWN:
                at.add(self.receipts[key][:2])
            if len(at) > 1 and not (self.written and self.faults.blackouts):
                self.error(f'{key} is stored more than once: {sorted(at)}')
            for place in at:
                if places.setdefault(place, key) != key and not (self.written and self.faults.blackouts):
                    self.error(f'{place} is both {places[place]} and {key}')

    def check_order(self):
        last = {}
        for key in sorted(self.receipts):
            partition, offset, at = self.receipts[key]
            if offset == OFFSET_UNKNOWN:
                continue
            before = last.get((key[0], partition))
            if before and before[1] >= offset and not (self.written and self.faults.blackouts):
                self.error(f'partition {partition}: {key} at {offset}, but {before[0]} at {before[1]}')
            last[(key[0], partition)] = (key, offset)

    def check_letters(self):
        if not self.letters:
            return
        letters = self.letters.deliveries
        for reader in self.readers.values():
            for key in reader.rejected - set(letters):
                self.error(f'{key} was rejected, and is not among the dead letters')
            for key in set(reader.done) & set(letters):
                self.error(f'{key} was acked, and is among the dead letters: {letters[key][0]}')
        for key, got in letters.items():
            if len({(d.partition, d.offset) for d in got}) > 1:
                self.error(f'{key} is more than once among the dead letters: {got}')

    def check_shown(self, shown):
        for p in shown['partitions']:
            if p['state'] != 'ok':
                self.error(f'partition {p["partition"]} is {p["state"]} at the end')
        for reader in self.readers.values():
            reader.check_shown(shown)
            came = len({*reader.deliveries, *self.letters.deliveries} if self.letters else reader.deliveries)
            published, dead = reader.counts['published'], reader.counts['dead']
            if self.written and self.faults.blackouts and published <= came:
                self.excused['stored messages that a blackout took'] += came - published
            elif published != came:
                self.error(f'{reader.name}: {published} are counted as published, {came} came')
            if dead != (len(self.letters.deliveries) if self.letters else 0):
                self.error(f'{reader.name}: {dead} are counted as dead')

    def duplicates(self):
        total = collections.Counter()
        for reader in self.readers.values():
            total.update(reader.duplicates)
        return total

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

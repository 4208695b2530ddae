# SPDX-License-Identifier: Apache-2.0
"""What is done to a cluster under load. Each fault is a generator that begins at
its first step. It yields what it did and what its next step waits for: seconds,
or (condition, most seconds, its name)."""

import random as random_module
import signal
import time

WHOLE_S = 40  # for what one node lost to be copied again
JOIN_S = 30
QUIET = ('rolling',)  # nothing else meanwhile
SINGLE = ('wipe', 'join', 'rolling')  # one of these at a time
NEED_WHOLE = ('wipe', 'rolling')
NEED_NAMESPACES = ('unplug', 'cut', 'disk_full', 'delay')
WEIGHTS = {'kill': 4, 'power': 4, 'blackout': 1, 'restart': 2, 'stop': 3, 'stop_child': 4, 'crash_child': 5,
           'unplug': 2, 'cut': 3, 'disk_full': 1, 'sync': 1, 'consumer': 3, 'delay': 4, 'wipe': 2, 'join': 2,
           'rolling': 1}
EXPLAIN_NOTHING = ('join', 'delay')  # consumers that are alive see no redelivery by these
PAUSES_S = (0.2, 1, 2, 3, 3, 9)


class Active:
    def __init__(self, kind, generator):
        self.kind, self.generator = kind, generator
        self.begin_us = time.monotonic_ns() // 1000
        self.text = ''
        self.step()

    def step(self):
        """Takes the next step. False when it was the last one."""
        try:
            self.text, wait = next(self.generator)
        except StopIteration:
            return False
        now = time.monotonic()
        self.condition, most, self.what = wait if isinstance(wait, tuple) else (None, wait, '')
        self.deadline, self.look_at = now + most, now + 0.5
        return True

    def ready(self):
        """True, or 'late', or False."""
        now = time.monotonic()
        if now >= self.deadline:
            return 'late' if self.condition else True
        if self.condition and now >= self.look_at:
            self.look_at = now + 0.5
            return self.condition()
        return False


class Tormentor:
    """Chooses faults from the seed and does them to the nodes of a run (its `say`,
    `error`, `mind`, `status`, `all_well`, `add_consumer`, `consumers`)."""

    def __init__(self, run, random: random_module.Random, kinds, namespaces):
        self.run, self.lab, self.random = run, run.lab, random
        self.kinds = {k: w for k, w in WEIGHTS.items()
                      if (not kinds or k in kinds) and (namespaces or k not in NEED_NAMESPACES)}
        self.active = []
        self.spans, self.blackouts = [], []  # us, for the books
        self.busy = set()  # nodes that something longer is done to
        self.hurt_disk = None  # the node that lost its power or disk last, until all is whole again

    # ---- when

    def torment(self, seconds):
        end = time.monotonic() + seconds
        pause = time.monotonic() + 1
        crowd = 1
        while time.monotonic() < end:
            self.go_on()
            if time.monotonic() >= pause and len(self.active) < crowd and self.begin(self.choose()):
                crowd = 2 if self.random.random() < 0.3 else 1
                pause = time.monotonic() + self.random.choice(PAUSES_S)
            self.run.mind()
            time.sleep(0.02)
        for fault in list(self.active):
            while fault.step():
                pass
            self.finish(fault)

    def single(self):
        return any(f.kind in SINGLE for f in self.active)

    def go_on(self):
        for fault in list(self.active):
            ready = fault.ready()
            if ready == 'late':
                self.run.say(f'after {fault.text}: still not {fault.what}')
            if not ready:
                continue
            if fault.step():
                self.run.say(f'next {fault.text}')
            else:
                self.finish(fault)

    def choose(self):
        return self.random.choices(list(self.kinds), list(self.kinds.values()))[0]

    def begin(self, kind):
        if any(f.kind in QUIET for f in self.active) or (kind in QUIET or kind == 'blackout') and self.active:
            return False
        if kind in SINGLE and self.single() or len(self.up()) < (2 if kind == 'cut' else 1):
            return False
        if kind == 'join' and not self.spare() or kind in NEED_WHOLE and not self.whole():
            return False
        fault = Active(kind, getattr(self, f'fault_{kind}')())
        self.run.faults[kind] += 1
        self.run.say(f'begin {fault.text}')
        self.active.append(fault)
        return True

    def finish(self, fault):
        self.active.remove(fault)
        if fault.kind not in EXPLAIN_NOTHING:
            self.spans.append((fault.begin_us, time.monotonic_ns() // 1000))
        self.run.say(f'end {fault.text}')

    def whole(self):
        """Every partition has all its replicas, the metadata group all its voters."""
        if self.run.all_well() and (not self.hurt_disk or self.hurt_disk.voters_again()):
            self.hurt_disk = None
        return self.hurt_disk is None and not self.active

    def disk_hurt(self, node):
        """Power or disk of one node gone while another one's was not made up for:
        mailboxes with durability `written` may have lost it in both."""
        if self.hurt_disk not in (None, node) and not self.run.all_well():
            self.blackouts.append(time.monotonic_ns() // 1000)
        self.hurt_disk = node

    # ---- whom

    def up(self):
        return [n for n in self.lab.nodes if n.member and n.wanted and not n.stopped and n not in self.busy and
                n.children()]

    def spare(self):
        return [n for n in self.lab.nodes if not n.member]

    def any_node(self):
        return self.random.choice(self.up() or [None])

    def some_child(self):
        node = self.any_node()
        return (node, *self.random.choice(list(node.children().items())))

    # ---- what

    def fault_kill(self):
        node = self.any_node()
        node.wanted = False
        node.kill()
        yield f'kill {node.name}', self.random.choice([0, 0.3, 2, 4])
        self.lab.start(node)
        node.wanted = True

    def fault_power(self):
        node = self.any_node()
        self.disk_hurt(node)
        node.wanted = False
        text = node.lose_power(self.random)
        yield f'power {node.name}: {text}', self.random.choice([0.1, 1, 3])
        self.lab.start(node)
        node.wanted = True

    def fault_blackout(self):
        up = self.up()
        self.blackouts.append(time.monotonic_ns() // 1000)
        for node in up:
            node.wanted = False
        texts = [node.lose_power(self.random) for node in up]
        yield f'blackout: {"; ".join(texts)}', self.random.choice([0.1, 0.5])
        self.random.shuffle(up)
        for node in up:
            self.lab.start(node)
            node.wanted = True
            yield f'power is back at {node.name}', self.random.choice([0, 0, 0.5])

    def fault_wipe(self):
        node = self.any_node()
        self.disk_hurt(node)
        self.busy.add(node)
        node.wanted = False
        node.kill()
        node.wipe()
        node.remember_logs()
        yield f'wipe {node.name}', self.random.choice([0, 1, 3])
        self.lab.start(node)
        node.wanted = True
        yield f'{node.name} is back as a newcomer', (self.run.all_well, WHOLE_S, 'whole')
        self.busy.discard(node)
        if not self.run.all_well():
            return
        yield f'{node.name} has its replicas again', (node.voters_again, WHOLE_S, 'a voter')

    def fault_join(self):
        node = self.spare()[0]
        node.member = node.wanted = True
        self.lab.start(node)
        yield f'join {node.name}', (self.run.all_well, JOIN_S, 'one of the cluster')

    def fault_restart(self):
        node = self.any_node()
        self.stop_cleanly(node)
        yield f'restart {node.name}', self.random.choice([0, 1])
        self.lab.start(node)
        node.wanted = True

    def stop_cleanly(self, node):
        node.wanted = False
        code = node.term()
        if code != 0:
            self.run.error(f'{node.name}: SIGTERM: exit {code}')

    def fault_rolling(self):
        """As an upgrade of one machine after the other: each stops, starts, and is waited for."""
        for node in self.up():
            self.stop_cleanly(node)
            self.lab.start(node)
            node.wanted = True
            yield f'rolling restart: {node.name}', (self.run.all_well, WHOLE_S, 'whole')

    def fault_stop(self):
        node = self.any_node()
        node.stop([node.process.pid, *node.children()])
        yield f'stop {node.name}', self.random.choice([0.2, 0.7, 1.5, 4])
        node.go_on()

    def fault_stop_child(self):
        node, pid, role = self.some_child()
        node.stop([pid])
        yield f'stop {node.name} {role} pid {pid}', self.random.choice([0.2, 0.7, 1.5, 4])
        node.go_on()

    def fault_crash_child(self):
        node, pid, role = self.some_child()
        number = self.random.choice([signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
        node.hurt(pid, number)
        yield f'crash {node.name} {role} pid {pid} signal {int(number)}', 0.5

    def fault_unplug(self):
        node = self.any_node()
        node.unplug()
        yield f'unplug {node.name}', self.random.choice([0.3, 1, 3, 6])
        node.unplug(False)

    def fault_cut(self):
        a, b = self.random.sample(self.up(), 2)
        both = self.random.random() < 0.6
        a.cut(b)
        if both:
            b.cut(a)
        yield f'cut {a.name} {"<->" if both else "->"} {b.name}', self.random.choice([0.3, 1, 3, 6])
        a.mend(b)
        b.mend(a)

    def fault_delay(self):
        """A node's way to one other, or to all; each direction has its own line."""
        free = [n for n in self.lab.nodes if n.member and n.delayer is None]
        a = self.random.choice(free)
        others = [n for n in self.lab.nodes if n.member and n is not a]
        if self.random.random() < 0.5:
            others = [self.random.choice(others)]
        lines = [(a, others)]
        back = [n for n in others if n.delayer is None]
        if self.random.random() < 0.5:
            lines += [(n, [a]) for n in back]
        texts = []
        for node, to in lines:
            how = self.line()
            node.delay(to, *how)
            texts.append(f'{node.name} -> {",".join(n.name for n in to)} {how[0] // 1000} + {how[1] // 1000} ms'
                         f'{f" {how[2] >> 10} KiB/s" if how[2] else ""}')
        yield f'delay {"; ".join(texts)}', self.random.choice([1, 3, 6])
        for node, to in lines:
            node.undelay(to)

    def line(self):
        """(us, jitter us, bytes a second)"""
        kind = self.random.choice(['constant', 'jitter', 'narrow'])
        if kind == 'constant':
            return self.random.choice([5, 40, 150, 500]) * 1000, 0, 0
        if kind == 'jitter':
            return 2000, self.random.choice([20, 100, 400]) * 1000, 0
        return 1000, 0, self.random.choice([64, 256, 1024]) << 10

    def fault_disk_full(self):
        node = self.any_node()
        node.starved = True
        node.fill_disk(self.random.choice([0, 1 << 20, 16 << 20]))
        yield f'disk full {node.name}', self.random.choice([1, 3])
        node.free_disk()
        node.starved = time.monotonic() + 5

    def fault_sync(self):
        node = self.any_node()
        node.fail_sync()
        yield f'failed sync {node.name}', 0.5

    def fault_consumer(self):
        victim = self.random.choice(self.run.consumers)
        self.run.kill_consumer(victim)
        yield f'kill consumer of {victim.mailbox}/{victim.subscription}', self.random.choice([0, 0.5, 2])
        self.run.add_consumer(victim.mailbox, victim.subscription)


# SPDX-License-Identifier: Apache-2.0
"""Nodes of mailroomd in network namespaces of their own (or, where those are
refused, on loopback addresses without cuts), and what can be done to them."""

import os
import shutil
import signal
import subprocess
import time

import powerloss

NODE_DISK_BYTES = 1 << 30
START_S = 0.5  # before it has elapsed a program need not have its handlers yet
VOTERS_MAX = 5  # of the metadata group
PORT_CLIENT, PORT_CLUSTER, PORT_ADMIN = 7400, 7410, 7480


def ip(*words, ns=None):
    enter = ['nsenter', f'--net=/proc/{ns}/ns/net'] if ns else []
    return subprocess.run([*enter, 'ip', *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True).stdout


def children_of(pid):
    """Its children that have a role, as {pid: 'role/index'}."""
    found = {}
    try:
        with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
            pids = [int(p) for p in f.read().split()]
    except OSError:
        return found
    for child in pids:
        try:
            with open(f'/proc/{child}/cmdline', encoding='utf-8', errors='replace') as f:
                words = f.read().split('\0')
        except OSError:
            continue
        if '--role' in words:
            index = words[words.index('--index') + 1] if '--index' in words else '0'
            found[child] = words[words.index('--role') + 1] + '/' + index
    return found


class Node:
    def __init__(self, lab, number):
        self.lab, self.number, self.name = lab, number, f'n{number}'
        self.process = None
        self.delayer = None
        self.member = number <= lab.founders_count  # in the cluster, or on its way into it
        self.log_sizes = None
        self.stopped = []
        self.wanted = False  # to be running
        self.starved = 0  # True: its disk is full; else until when that may be felt
        self.killed = {}  # pid -> why: deaths that are ours
        self.disk = os.path.join(lab.folder, self.name)
        self.data, self.graves = os.path.join(self.disk, 'data'), os.path.join(self.disk, 'graves')
        self.undo = os.path.join(lab.folder, f'{self.name}-undo')
        self.log = os.path.join(lab.folder, f'{self.name}.log')
        self.config = os.path.join(lab.folder, f'{self.name}.yaml')
        self.ns = None
        os.mkdir(self.disk)
        if lab.namespaces:
            subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={NODE_DISK_BYTES}', 'torture', self.disk], check=True)
            self.address = f'10.77.0.{number}'
            self.connect()
        else:
            self.address = f'127.77.{os.getpid() % 250}.{number}'
        os.mkdir(self.undo)
        os.mkdir(self.graves)
        self.started = 0

    def connect(self):
        holder = subprocess.Popen(['unshare', '--net', 'sleep', 'infinity'])
        self.ns = holder.pid
        while os.readlink(f'/proc/{self.ns}/ns/net') == os.readlink('/proc/self/ns/net'):
            time.sleep(0.005)
        ip('link', 'add', f'v{self.number}', 'type', 'veth', 'peer', 'name', f'e{self.number}')
        ip('link', 'set', f'v{self.number}', 'master', 'br0', 'up')
        ip('link', 'set', f'e{self.number}', 'netns', str(self.ns))
        ip('link', 'set', 'lo', 'up', ns=self.ns)
        ip('addr', 'add', f'{self.address}/24', 'dev', f'e{self.number}', ns=self.ns)
        ip('link', 'set', f'e{self.number}', 'up', ns=self.ns)
        # a second way out, for what is to be delayed
        ip('link', 'add', f'p{self.number}', 'up', 'type', 'veth', 'peer', 'name', f'd{self.number}')
        ip('link', 'set', f'd{self.number}', 'netns', str(self.ns))
        ip('link', 'set', f'd{self.number}', 'up', ns=self.ns)
        self.mac = ip('-o', 'link', 'show', f'e{self.number}', ns=self.ns).split('link/ether ')[1].split()[0]

    def write_config(self, joins=False):
        """joins: asks a running cluster to take it in, instead of forming one."""
        initial = ', '.join(f'{n.name}: {n.address}:{PORT_CLUSTER}' for n in self.lab.founders)
        join = ', '.join(f'{n.address}:{PORT_CLUSTER}' for n in self.lab.founders if n is not self)
        with open(self.config, 'w', encoding='utf-8') as f:
            f.write(f'node: {self.name}\ndata: {self.data}\nshards: 2\ninsecure: true\n'
                    f'listen: {{ client: {self.address}:{PORT_CLIENT}, cluster: {self.address}:{PORT_CLUSTER}, '
                    f'admin: {self.address}:{PORT_ADMIN} }}\n'
                    f'cluster:\n  name: torture\n  ' + (f'join: [ {join} ]\n' if joins else f'initial: {{ {initial} }}\n') +
                    f'failure: {{ replace_after: {self.lab.grace_s}s, rebuild_grace: {self.lab.grace_s}s }}\n'
                    'limits: { segment: 4MiB }\n')

    def start(self):
        environment = dict(os.environ, TORTURE_DATA=self.data, TORTURE_UNDO=self.undo, TORTURE_GRAVES=self.graves,
                           LD_PRELOAD=os.environ['TORTURE_UNSYNCED'])
        enter = ['nsenter', f'--net=/proc/{self.ns}/ns/net'] if self.ns else []
        self.started = time.monotonic()
        with open(self.log, 'ab') as log:
            log.write(b'---- start\n')
            log.flush()
            self.process = subprocess.Popen(
                [*enter, 'env', f'LD_PRELOAD={environment.pop("LD_PRELOAD")}', os.environ['MAILROOMD'],
                 '--config', self.config], env=environment, stdout=log, stderr=log)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def children(self, role=None):
        found = children_of(self.process.pid) if self.running() else {}
        return {p: r for p, r in found.items() if role is None or r.startswith(role)}

    def kill(self):
        """SIGKILL to all of the node at once."""
        children = self.children()
        self.killed.update({p: 'node' for p in children})
        for pid in [self.process.pid, *children]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        for pid in children:
            wait_gone(pid)
        self.stopped = []

    def lose_power(self, random):
        self.kill()
        return powerloss.fail(self.data, self.undo, self.graves, random) if os.path.isdir(self.data) else ''

    def wipe(self):
        """The node is dead; its disk is a new one."""
        for folder in (self.data, self.undo, self.graves):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.undo, self.graves):
            os.mkdir(folder)

    def remember_logs(self):
        self.log_sizes = {n: os.path.getsize(n.log) for n in self.lab.nodes if os.path.exists(n.log)}

    def voters_again(self):
        """Has the metadata group been filled up since the last wipe?"""
        voters = min(VOTERS_MAX, (sum(n.member for n in self.lab.nodes) - 1) // 2 * 2 + 1)
        for node, size in (self.log_sizes or {}).items():
            with open(node.log, encoding='utf-8', errors='replace') as f:
                f.seek(size)
                if f'metadata group: {voters} voters' in f.read():
                    self.log_sizes = None
                    return True
        return self.log_sizes is None

    def term(self, timeout_s=25):
        young = time.monotonic() - self.started < START_S
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
            return 0 if young and code == -signal.SIGTERM else code
        except subprocess.TimeoutExpired:
            self.kill()
            return 'no exit'

    def stop(self, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGSTOP)
                self.stopped.append(pid)
                self.killed[pid] = 'stopped'
            except ProcessLookupError:
                pass

    def go_on(self):
        for pid in self.stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.stopped = []

    def hurt(self, pid, number):
        self.killed[pid] = f'signal {number}'
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    # -- network: towards one address, one way; undone by mend()

    def cut(self, other):
        ip('route', 'replace', 'blackhole', f'{other.address}/32', 'metric', '1', ns=self.ns)

    def mend(self, other):
        self.unroute('blackhole', f'{other.address}/32', 'metric', '1')

    def unroute(self, *words):
        try:
            ip('route', 'del', *words, ns=self.ns)
        except subprocess.CalledProcessError:
            pass

    def delay(self, others, delay_us, jitter_us, bytes_per_s):
        """What it sends to others comes late, through a process of its own, until undelay()."""
        self.delayer = subprocess.Popen([os.environ['TORTURE_DELAY'], f'p{self.number}', 'br0', str(delay_us),
                                         str(jitter_us), str(bytes_per_s)], stdout=subprocess.PIPE)
        Lab.own.add(self.delayer.pid)
        self.delayer.stdout.readline()
        for other in others:
            ip('neigh', 'replace', other.address, 'lladdr', other.mac, 'nud', 'permanent', 'dev', f'd{self.number}',
               ns=self.ns)
            ip('route', 'replace', f'{other.address}/32', 'dev', f'd{self.number}', 'src', self.address, 'metric',
               '2', ns=self.ns)

    def undelay(self, others):
        for other in others:
            self.unroute(f'{other.address}/32', 'metric', '2')
        self.delayer.terminate()
        if self.delayer.wait() != 0:
            raise RuntimeError(f'delay of {self.name} ended with {self.delayer.returncode}')
        self.delayer = None

    def unplug(self, off=True):
        ip('link', 'set', f'v{self.number}', 'down' if off else 'up')

    def fill_disk(self, leave=0):
        stat = os.statvfs(self.disk)
        free = stat.f_bavail * stat.f_frsize - leave
        try:
            with open(os.path.join(self.disk, 'fill'), 'wb') as f:
                os.posix_fallocate(f.fileno(), 0, max(free, 1))
        except OSError:  # the node was faster: what it has taken is as full
            pass

    def free_disk(self):
        path = os.path.join(self.disk, 'fill')
        if os.path.exists(path):
            os.unlink(path)

    def fail_sync(self):
        with open(os.path.join(self.undo, 'fail-sync'), 'w', encoding='ascii'):
            pass

    def memory(self):
        """(bytes, role) of its largest process."""
        largest = (0, '')
        for pid, role in self.children().items():
            try:
                with open(f'/proc/{pid}/statm', encoding='ascii') as f:
                    largest = max(largest, (int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE'), role))
            except OSError:
                continue
        return largest


def wait_gone(pid):
    for _ in range(2000):
        try:
            with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
                if f.read().rsplit(')', 1)[1].split()[0] == 'Z':
                    reap()
        except OSError:
            return
        time.sleep(0.002)


def reap():
    """As process 1 of its own namespace this program inherits orphans."""
    if os.getpid() != 1:
        return
    with open('/proc/1/task/1/children', encoding='ascii') as f:
        pids = [int(p) for p in f.read().split()]
    ours = {p.pid for p in subprocess._active} if hasattr(subprocess, '_active') else set()
    for pid in pids:
        try:
            with open(f'/proc/{pid}/cmdline', encoding='utf-8') as f, open(f'/proc/{pid}/stat', encoding='ascii') as s:
                zombie = s.read().rsplit(')', 1)[1].split()[0] == 'Z' and not f.read()
            if zombie and pid not in ours and pid not in Lab.own:
                os.waitpid(pid, os.WNOHANG)
        except OSError:
            continue


class Lab:
    own = set()  # processes that somebody waits for by their object

    def __init__(self, folder, count, spare, namespaces, grace_s):
        """count nodes form the cluster; spare ones are there to join it."""
        self.folder, self.namespaces, self.grace_s = folder, namespaces, grace_s
        if namespaces:
            ip('link', 'set', 'lo', 'up')
            ip('link', 'add', 'br0', 'type', 'bridge')
            ip('addr', 'add', '10.77.0.254/24', 'dev', 'br0')
            ip('link', 'set', 'br0', 'up')
        self.founders_count = count
        self.nodes = [Node(self, i + 1) for i in range(count + spare)]
        self.founders = self.nodes[:count]
        for node in self.nodes:
            node.write_config(joins=node not in self.founders)

    def start(self, node):
        node.start()
        Lab.own.add(node.process.pid)

    def servers(self):
        return ','.join(f'{n.address}:{PORT_CLIENT}' for n in self.founders)

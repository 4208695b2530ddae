# SPDX-License-Identifier: Apache-2.0
"""What a power failure leaves of a node's files: undoes what unsynced.c wrote
down, all of it, nothing, or at random page by page, as a disk would."""

import os
import shutil
import struct

PAGE = 4096
ENTRY = struct.Struct('<QQQQ')
ENTRY_MAGIC, SYNCED_MAGIC = 0x55d01, 0x55d02


def entries_of(log):
    """(offset, old bytes, size of the file before) of each unsynced write, oldest first."""
    with open(log, 'rb') as f:
        raw = f.read()
    found, synced, at = [], 0, 0
    while at + ENTRY.size <= len(raw):
        magic, offset, size, before = ENTRY.unpack_from(raw, at)
        if magic == SYNCED_MAGIC:
            synced = max(synced, offset)
            at += ENTRY.size
            continue
        assert magic == ENTRY_MAGIC, f'{log} at {at}'
        if at + ENTRY.size + size > len(raw):
            break  # killed inside the log's write: the file's own did not happen
        found.append((at, offset, raw[at + ENTRY.size:at + ENTRY.size + size], before))
        at += ENTRY.size + size
    return [e[1:] for e in found if e[0] >= synced]


def undo_bytes(path, entries, random):
    """Takes unsynced writes of one file back. Returns how many pages."""
    mood = random.choice(['all', 'none', 'pages', 'pages'])
    if mood == 'none' or not entries:
        return 0
    depth, undone = {}, 0
    touched = {}
    for offset, old, _ in entries:
        for page in range(offset // PAGE, (offset + len(old) + PAGE - 1) // PAGE):
            touched[page] = touched.get(page, 0) + 1
    for page, n in touched.items():
        depth[page] = n if mood == 'all' else random.randint(0, n)
    with open(path, 'r+b') as f:
        for offset, old, _ in reversed(entries):
            for page in range(offset // PAGE, (offset + len(old) + PAGE - 1) // PAGE):
                if depth[page] <= 0:
                    continue
                depth[page] -= 1
                undone += 1
                start, end = max(offset, page * PAGE), min(offset + len(old), (page + 1) * PAGE)
                f.seek(start)
                f.write(old[start - offset:end - offset])
        size = min(e[2] for e in entries)
        if size < os.path.getsize(path) and (mood == 'all' or random.random() < 0.5):
            f.truncate(size)
            undone += 1
    return undone


def undo_names(log, random):
    """Takes back the last ones of a folder's unsynced changes of names."""
    with open(log, encoding='utf-8') as f:
        lines = [line.split() for line in f if line.endswith('\n')]
    keep = random.choice([0, len(lines), random.randint(0, len(lines))])
    for words in reversed(lines[keep:]):
        if words[0] == 'create' and os.path.exists(words[1]):
            os.unlink(words[1])
        elif words[0] == 'unlink' and os.path.exists(words[2]):
            os.rename(words[2], words[1])
        elif words[0] in ('rename', 'over') and os.path.exists(words[2]):
            os.rename(words[2], words[1])
            if words[0] == 'over' and os.path.exists(words[3]):
                os.rename(words[3], words[2])
    return len(lines) - keep


def fail(data, undo, graves, random):
    """The node is dead; its data folder becomes what the disk would hold.
    Returns a text for the record."""
    inodes = {}
    for folder, _, names in os.walk(data):
        for name in names:
            path = os.path.join(folder, name)
            inodes[os.lstat(path).st_ino] = path
    for name in os.listdir(graves):
        path = os.path.join(graves, name)
        inodes.setdefault(os.lstat(path).st_ino, path)
    pages = names_undone = 0
    for name in sorted(os.listdir(undo)):
        if name.startswith('u-') and int(name[2:]) in inodes:
            pages += undo_bytes(inodes[int(name[2:])], entries_of(os.path.join(undo, name)), random)
    for name in sorted(os.listdir(undo)):
        if name.startswith('d-'):
            names_undone += undo_names(os.path.join(undo, name), random)
    for folder in (undo, graves):
        shutil.rmtree(folder)
        os.mkdir(folder)
    return f'{pages} pages and {names_undone} names lost'

"""The disk after a power cut, put together from what powerloss.c wrote down.

SPDX-License-Identifier: Apache-2.0
"""
import os
import pathlib
import shutil

PAGE = 4096


class Disk:
    """Two folders: the disk as the server sees it (its data in disk/data), and the journal of what is owed."""

    def __init__(self, folder, shim, lie=None):
        self.folder, self.n_cuts = pathlib.Path(folder), 0
        self.root, self.journal = self.folder / "disk", self.folder / "journal"
        self.root.mkdir()
        self.env = {"LD_PRELOAD": shim, "POWERLOSS_JOURNAL": str(self.journal), "POWERLOSS_ROOT": str(self.root),
                    **({"POWERLOSS_LIE": lie} if lie else {})}
        self.settle()

    def settle(self):
        """All that is there now is durable: the machine has just been switched on."""
        shutil.rmtree(self.journal, ignore_errors=True)
        self.journal.mkdir()
        for path, folders, files in os.walk(self.root):
            entries = ""
            for name in folders + files:
                inode = os.lstat(os.path.join(path, name)).st_ino
                entries += "%s %d %s\n" % ("d" if name in folders else "f", inode, name)
                if name in files:
                    shutil.copyfile(os.path.join(path, name), self.journal / ("f%d" % inode))
            (self.journal / ("d%d" % os.lstat(path).st_ino)).write_text(entries)

    def cut(self, rng, mixed):
        """The server is dead. What was not synced is gone; `mixed`: or not, name by name and page by page."""
        self.n_cuts += 1
        new = self.folder / "disk.new"
        new.mkdir()
        now_files = {}
        for path, _, files in os.walk(self.root):
            for name in files:
                full = os.path.join(path, name)
                now_files[os.lstat(full).st_ino] = full
        self._folder(os.lstat(self.root).st_ino, self.root, new, now_files, rng if mixed else None)
        old = self.folder / "disk.old"
        self.root.rename(old)
        new.rename(self.root)
        shutil.rmtree(old)
        self.settle()

    def _entries(self, inode):
        try:
            lines = (self.journal / ("d%d" % inode)).read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {name: (kind, int(number)) for kind, number, name in (line.split(" ", 2) for line in lines)}

    def _folder(self, inode, now, to, now_files, rng):
        entries = self._entries(inode)
        if rng is not None and now is not None:
            for entry in os.scandir(now):
                found = ("d" if entry.is_dir(follow_symlinks=False) else "f", entry.inode())
                if entries.get(entry.name) != found and rng.random() < 0.5:
                    entries[entry.name] = found        # the disk was quicker than it had to be
            there = set(os.listdir(now))
            entries = {n: e for n, e in entries.items() if n in there or rng.random() < 0.5}
        for name, (kind, number) in entries.items():
            if kind == "d":
                (to / name).mkdir()
                inner = now / name if now is not None else None
                same = inner is not None and inner.is_dir() and inner.stat().st_ino == number
                self._folder(number, inner if same else None, to / name, now_files, rng)
            else:
                (to / name).write_bytes(self._content(number, now_files.get(number), rng))

    def _content(self, inode, now, rng):
        kept = self.journal / ("f%d" % inode)
        durable = kept.read_bytes() if kept.exists() else b""
        if rng is None or now is None:
            return durable
        with open(now, "rb") as file:
            current = file.read()
        if current == durable:
            return durable
        size = rng.choice([len(durable), len(current)])
        pages = []
        for at in range(0, size, PAGE):
            source = rng.choice([durable, current])
            pages.append(source[at:at + PAGE].ljust(min(PAGE, size - at), b"\0"))
        return b"".join(pages)

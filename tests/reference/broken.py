"""A worker with a defect, to prove that the tester finds it: the six kinds that a mount is started with, imitated on a local directory."""

import fcntl
import os
import sys

from worker import Worker, serve


class AppendLostAfterTruncate(Worker):
    def __init__(self, root):
        super().__init__(root)
        self.truncated = set()

    def ftruncate(self, slot, size):
        super().ftruncate(slot, size)
        self.truncated.add(os.fstat(self.fd(slot)).st_ino)

    def truncate(self, path, size):
        super().truncate(path, size)
        self.truncated.add(os.stat(self.path(path)).st_ino)

    def write(self, slot, length, tag):
        appends = fcntl.fcntl(self.fd(slot), fcntl.F_GETFL) & os.O_APPEND
        if appends and os.fstat(self.fd(slot)).st_ino in self.truncated:
            return length
        return super().write(slot, length, tag)


class StaleDentryAfterRename(Worker):
    def rename(self, path, to, noreplace):
        super().rename(path, to, noreplace)
        if os.path.isfile(self.path(to)) and path != to:
            os.link(self.path(to), self.path(path), follow_symlinks=False)


class OldBytesInHole(Worker):
    def pwrite(self, slot, at, length, tag):
        fd = self.fd(slot)
        hole = at - os.fstat(fd).st_size
        written = super().pwrite(slot, at, length, tag)
        if hole > 0 and length:
            os.pwrite(fd, b"old bytes"[:hole], at - hole)
        return written


class LastExtentDroppedAtFlush(Worker):
    def __init__(self, root):
        super().__init__(root)
        self.extents = {}

    def pwrite(self, slot, at, length, tag):
        written = super().pwrite(slot, at, length, tag)
        self.extents.setdefault(slot, []).append((at, length))
        return written

    def close(self, slot):
        extents = self.extents.pop(slot, [])
        if len(extents) > 1 and slot in self.fds:
            at, length = extents[-1]
            os.pwrite(self.fds[slot], bytes(length), at)
        super().close(slot)


class WrongSizeAfterRenameOver(Worker):
    def rename(self, path, to, noreplace):
        old = os.path.getsize(self.path(to)) if os.path.isfile(self.path(to)) else None
        super().rename(path, to, noreplace)
        if old is not None and os.path.isfile(self.path(to)):
            os.truncate(self.path(to), old)


class EntryCreatedDuringListingLost(Worker):
    def list_during(self, path, before, first, create, remove):
        answer = super().list_during(path, before, first, create, remove)
        for name in answer["found"][:1]:
            os.unlink(os.path.join(self.path(path), name))
        return answer


DEFECTS = {
    "append-lost-after-truncate": AppendLostAfterTruncate,
    "stale-dentry-after-rename": StaleDentryAfterRename,
    "old-bytes-in-hole": OldBytesInHole,
    "last-extent-dropped-at-flush": LastExtentDroppedAtFlush,
    "wrong-size-after-rename-over": WrongSizeAfterRenameOver,
    "entry-created-during-listing-lost": EntryCreatedDuringListingLost,
}

if __name__ == "__main__":
    serve(DEFECTS[sys.argv[1]])

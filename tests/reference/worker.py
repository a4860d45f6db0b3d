"""One process that does what it is told to files below a directory, and answers what happened.

The tester starts several of them on each side. A line of JSON in is one operation; a line of JSON out is {"ok": what it gave} or
{"err": the errno's name}. Descriptors and mappings live in numbered slots, so any part of a list of operations can be run by itself.
Answers hold only what two correct file systems must agree on: no inode numbers, no sizes of directories, no times of now.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import stat
import sys
import zlib

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
LIBC.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
AT_FDCWD, RENAME_NOREPLACE, MS_SYNC = -100, 1, 4
FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "creat": os.O_CREAT, "excl": os.O_EXCL, "trunc": os.O_TRUNC,
         "append": os.O_APPEND}
# FALLOC_FL_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE
FALLOCATE = {"keep": 1, "punch": 2 | 1, "zero": 16, "zero keep": 16 | 1}
# A time before this was set by utimens; any other is "now", and differs between the sides.
LONG_AGO = 1_500_000_000 * 10**9


class Refused(Exception):
    """The operation makes no sense here: an empty slot, an empty file to map. The same on both sides."""


def checked(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def content(tag, length):
    """Bytes that say which operation wrote them, and where in it they stood."""
    cells = (b"%07x@%07x|" % (tag, cell) for cell in range((length + 15) // 16))
    return b"".join(cells)[:length]


def seen(data):
    return {"len": len(data), "crc": zlib.crc32(data), "begins": data[:24].decode("latin-1")}


def attributes(st):
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}[stat.S_IFMT(st.st_mode)]
    found = {"kind": kind, "mode": oct(stat.S_IMODE(st.st_mode)), "owner": [st.st_uid, st.st_gid]}
    if kind != "dir":
        found.update(size=st.st_size, nlink=st.st_nlink, mtime=st.st_mtime_ns if st.st_mtime_ns < LONG_AGO else "now")
    return found


class Mapping:
    """A shared mapping made by mmap(2) itself: Python's own keeps a descriptor, and a mapping must outlive the last close."""

    def __init__(self, fd, at, length, write):
        # O_PATH opens nothing in the file system: it only lets us ask for the size.
        self.file = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
        self.at = at
        st = os.fstat(fd)
        self.length = min(length, st.st_size - at) if stat.S_ISREG(st.st_mode) else length
        if self.length <= 0:
            os.close(self.file)
            raise Refused("nothing to map")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        try:
            self.address = checked(LIBC.mmap(None, self.length, protection, mmap.MAP_SHARED, fd, at))
        except OSError:
            os.close(self.file)
            raise

    def span(self, at, length):
        """The part of a range that is mapped and within the file: behind its end there is only the rest of a page, or SIGBUS."""
        end = min(at + length, self.length, os.fstat(self.file).st_size - self.at)
        if end <= at:
            raise Refused("not mapped")
        return at, end

    def move(self, at, end, data=None):
        """Loads or stores through a pipe: a page that cannot be had is then EFAULT and not the death of this process."""
        loaded = b""
        for start in range(at, end, 32768):
            count = min(32768, end - start)
            reader, writer = os.pipe()
            try:
                if data is None:
                    checked(LIBC.write(writer, self.address + start, count))
                    loaded += os.read(reader, count)
                else:
                    os.write(writer, data[start - at:start - at + count])
                    checked(LIBC.read(reader, self.address + start, count))
            finally:
                os.close(reader)
                os.close(writer)
        return loaded

    def sync(self):
        checked(LIBC.msync(self.address, self.length, MS_SYNC))

    def close(self):
        os.close(self.file)
        checked(LIBC.munmap(self.address, self.length))


class Child:
    """A forked process, which has all descriptors and shares their positions; it does one thing and ends without another word."""

    def __init__(self, work):
        self.pid = os.fork()
        self.status = None
        if self.pid == 0:
            code = 0
            try:
                work()
            except OSError as error:
                code = error.errno
            finally:
                os._exit(code)

    def lives(self):
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if ended else None
        return self.status is None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self.status)
        if code and kind is None:
            raise OSError(code, os.strerror(code))


class Worker:
    def __init__(self, root):
        self.root = root
        self.fds = {}
        self.maps = {}
        os.umask(0o022)

    def path(self, path):
        return os.path.join(self.root, path)

    def fd(self, slot):
        if slot not in self.fds:
            raise Refused("no such handle")
        return self.fds[slot]

    def mapping(self, slot):
        if slot not in self.maps:
            raise Refused("no such mapping")
        return self.maps[slot]

    # Handles

    def open(self, slot, path, flags, mode):
        if slot in self.fds:
            self.close(slot)
        bits = 0
        for flag in flags.split():
            bits |= FLAGS[flag]
        self.fds[slot] = os.open(self.path(path), bits, mode)

    def close(self, slot):
        fd = self.fd(slot)
        del self.fds[slot]
        os.close(fd)

    def dup(self, slot, to):
        fd = os.dup(self.fd(slot))
        if to in self.fds:
            self.close(to)
        self.fds[to] = fd

    def write(self, slot, length, tag):
        return os.write(self.fd(slot), content(tag, length))

    def pwrite(self, slot, at, length, tag):
        return os.pwrite(self.fd(slot), content(tag, length), at)

    def read(self, slot, length):
        return seen(os.read(self.fd(slot), length))

    def pread(self, slot, at, length):
        return seen(os.pread(self.fd(slot), length, at))

    def seek(self, slot, at, end):
        if stat.S_ISDIR(os.fstat(self.fd(slot)).st_mode):
            raise Refused("positions in directories are the file system's own")
        return os.lseek(self.fd(slot), at, os.SEEK_END if end else os.SEEK_SET)

    def ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)

    def fsync(self, slot, data):
        (os.fdatasync if data else os.fsync)(self.fd(slot))

    def fstat(self, slot):
        return attributes(os.fstat(self.fd(slot)))

    def futimens(self, slot, mtime):
        os.utime(self.fd(slot), ns=(mtime, mtime))

    def copy(self, slot, at, to, to_at, length):
        source, target, copied = self.fd(slot), self.fd(to), 0
        while copied < length:
            count = os.copy_file_range(source, target, length - copied, at + copied, to_at + copied)
            if count == 0:
                break
            copied += count
        return copied

    def fallocate(self, slot, how, at, length):
        checked(LIBC.fallocate(self.fd(slot), FALLOCATE[how], at, length))

    def holes(self, slot):
        """What is called a hole reads as zeros. What else is called one is a file system's own affair."""
        fd = self.fd(slot)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refused("cannot be compared")
        before = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            at, size = 0, os.fstat(fd).st_size
            while at < size:
                hole = os.lseek(fd, at, os.SEEK_HOLE)
                try:
                    at = os.lseek(fd, hole, os.SEEK_DATA) if hole < size else size
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    at = size
                if os.pread(fd, at - hole, hole).strip(b"\0"):
                    return f"data in the hole from {hole} to {at}"
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                try:
                    return f"{os.lseek(fd, size, whence)} lies behind the end"
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
        finally:
            os.lseek(fd, before, os.SEEK_SET)
        return size

    def fork_write(self, slot, length, tag):
        fd = self.fd(slot)
        with Child(lambda: os.write(fd, content(tag, length))):
            pass

    def fork_close(self, slot):
        fd = self.fd(slot)
        with Child(lambda: os.close(fd)):
            pass

    # Mappings

    def map(self, slot, map, at, length, write):
        if map in self.maps:
            self.unmap(map)
        self.maps[map] = Mapping(self.fd(slot), at, length, write)

    def unmap(self, map):
        mapping = self.mapping(map)
        del self.maps[map]
        mapping.close()

    def map_write(self, map, at, length, tag):
        at, end = self.mapping(map).span(at, length)
        self.maps[map].move(at, end, content(tag, end - at))
        return end - at

    def map_read(self, map, at, length):
        return seen(self.mapping(map).move(*self.mapping(map).span(at, length)))

    def settle(self):
        """Writes mapped pages back: until then two file systems may differ about the time of the change."""
        for mapping in self.maps.values():
            mapping.sync()

    def reset(self):
        """Closes everything, and says what that gave."""
        answers = [self.answer({"op": "unmap", "map": slot}) for slot in sorted(self.maps)]
        return answers + [self.answer({"op": "close", "slot": slot}) for slot in sorted(self.fds)]

    # Names

    def fill(self, path, names):
        for name in names:
            os.close(os.open(os.path.join(self.path(path), name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def mkdir(self, path, mode):
        os.mkdir(self.path(path), mode)

    def rmdir(self, path):
        os.rmdir(self.path(path))

    def unlink(self, path):
        os.unlink(self.path(path))

    def rename(self, path, to, noreplace):
        flags = RENAME_NOREPLACE if noreplace else 0
        checked(LIBC.renameat2(AT_FDCWD, os.fsencode(self.path(path)), AT_FDCWD, os.fsencode(self.path(to)), flags))

    def symlink(self, path, target):
        os.symlink(target, self.path(path))

    def readlink(self, path):
        return os.readlink(self.path(path))

    def truncate(self, path, size):
        os.truncate(self.path(path), size)

    def chmod(self, path, mode):
        os.chmod(self.path(path), mode)

    def chown(self, path, uid, gid):
        os.lchown(self.path(path), uid, gid)

    def utimens(self, path, mtime, follow):
        os.utime(self.path(path), ns=(mtime, mtime), follow_symlinks=follow)

    def stat(self, path, follow):
        return attributes(os.stat(self.path(path), follow_symlinks=follow))

    def sync_dir(self, path):
        fd = os.open(self.path(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_xattr(self, path, name, value, flags):
        os.setxattr(self.path(path), name, value.encode(), {"create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE}.get(flags, 0))

    def get_xattr(self, path, name):
        return os.getxattr(self.path(path), name).decode()

    def remove_xattr(self, path, name):
        os.removexattr(self.path(path), name)

    # Listings

    def list(self, path):
        with os.scandir(self.path(path)) as entries:
            return sorted([entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()] for entry in entries)

    def list_during(self, path, before, first, create, remove):
        """Reads `first` small pieces of a directory, changes it, and reads on. `before` is what was in it, asked of the other side, so that
        nothing here has looked before."""
        path = self.path(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = []
            for _ in range(first):
                names += directory_entries(fd)
            created = [name for name in create if self.quietly(os.open, os.path.join(path, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)]
            removed = [name for name in remove if self.quietly(os.unlink, os.path.join(path, name))]
            while piece := directory_entries(fd):
                names += piece
        finally:
            os.close(fd)
        throughout = set(before) - set(removed)
        return {
            "missing": sorted(throughout - set(names)),
            "twice": sorted({name for name in names if names.count(name) > 1}),
            "never there": sorted(set(names) - set(before) - set(created)),
            "found": [name for name in created if os.path.lexists(os.path.join(path, name))],
            "now": sorted(os.listdir(path)),
        }

    def list_race(self, path, before, create, remove):
        """Lists a directory over and over while another process changes it."""
        path = self.path(path)
        missing, twice = set(), set()

        def change():
            for name in create:
                self.quietly(os.open, os.path.join(path, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            for name in remove:
                self.quietly(os.unlink, os.path.join(path, name))

        def look():
            names = os.listdir(path)
            missing.update(set(before) - set(remove) - set(names))
            twice.update(name for name in names if names.count(name) > 1)

        with Child(change) as child:
            look()
            while child.lives():
                look()
        return {"missing": sorted(missing), "twice": sorted(twice), "now": sorted(os.listdir(path))}

    def write_race(self, path, at, pages, tag):
        """Two processes write the even and the odd pages of a range at once, each through a descriptor of its own."""
        def write(parity):
            fd = os.open(self.path(path), os.O_WRONLY)
            try:
                for page in range(parity, pages, 2):
                    os.pwrite(fd, content(tag + page, 4096), at + page * 4096)
            finally:
                os.close(fd)

        with Child(lambda: write(0)):
            write(1)

    def quietly(self, work, *arguments):
        try:
            fd = work(*arguments)
        except OSError:
            return False
        if fd is not None:
            os.close(fd)
        return True

    # Answers

    def answer(self, operation):
        work = getattr(self, operation.pop("op"))
        try:
            return {"ok": work(**operation)}
        except OSError as error:
            return {"err": errno.errorcode.get(error.errno, error.errno)}
        except Refused as refused:
            return {"err": str(refused)}


def directory_entries(fd):
    """The next few names of an open directory, in the order of the file system, by getdents64(2) with a small buffer."""
    buffer = ctypes.create_string_buffer(320)
    size = checked(LIBC.getdents64(fd, buffer, ctypes.c_size_t(len(buffer))))
    names, at = [], 0
    while at < size:
        length = int.from_bytes(buffer[at + 16:at + 18], sys.byteorder)
        name = buffer[at + 19:at + length].split(b"\0")[0]
        names.append(os.fsdecode(name))
        at += length
    return [name for name in names if name not in (".", "..")] or (directory_entries(fd) if names else [])


def serve(make):
    worker = None
    for line in sys.stdin:
        operation = json.loads(line)
        if operation["op"] == "start":
            if worker:
                worker.reset()
            worker = make(operation["root"])
            answer = {"ok": None}
        else:
            answer = worker.answer(operation)
        print(json.dumps(answer, sort_keys=True), flush=True)


if __name__ == "__main__":
    serve(Worker)

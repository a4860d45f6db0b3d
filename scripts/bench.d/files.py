#!/usr/bin/env python3
"""What workloads do that is no command of its own.

  files.py write DIR COUNT SIZE WRITERS [fsync]   files of SIZE bytes by so many threads
  files.py append FILE COUNT SIZE [fsync]         open, append and close, COUNT times
  files.py fsync DIR                              fsync of every file below
  files.py tree DIR COUNT                         a source tree, the same every time

The first two print how long it took, without the start of Python.
"""

import os
import random
import sys
import threading
import time


def put(path, data, flags, durable):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        assert os.write(fd, data) == len(data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def write(directory, count, size, writers, *durable):
    data, failed = os.urandom(int(size)), []

    def some(first):
        try:
            for number in range(first, int(count), int(writers)):
                put(f"{directory}/f{number:05}", data, os.O_EXCL, durable)
        except OSError as error:
            failed.append(error)

    begun = time.perf_counter()
    threads = [threading.Thread(target=some, args=(first,)) for first in range(int(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    print("took", time.perf_counter() - begun)


def append(path, count, size, *durable):
    begun = time.perf_counter()
    for _ in range(int(count)):
        put(path, os.urandom(int(size)), os.O_APPEND, durable)
    print("took", time.perf_counter() - begun)


def fsync(directory):
    for folder, _, names in os.walk(directory):
        for name in names:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def tree(directory, count):
    """Sizes like those of sources: most of a few KiB, a few of many."""
    chance = random.Random(4)
    for number in range(int(count)):
        folder = f"{directory}/src/mod{number % 61:02}" + (f"/part{number % 7}" if number % 3 else "")
        os.makedirs(folder, exist_ok=True)
        size = min(int(chance.lognormvariate(8.2, 1.2)), 400_000)
        with open(f"{folder}/file{number:04}.c", "wb") as file:
            file.write(b"".join(b"int v%08x;\n" % chance.getrandbits(32) for _ in range(size // 14 + 1)))


if __name__ == "__main__":
    {"write": write, "append": append, "fsync": fsync, "tree": tree}[sys.argv[1]](*sys.argv[2:])

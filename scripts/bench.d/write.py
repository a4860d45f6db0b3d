"""What `scripts/bench write` measures: programs that write, until what they wrote is in the bucket."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = f"'{sys.executable}' '{HERE}/files.py'"
EVERYBODY = ("cosmount", "bare", "curl", "sdk", "s3fs", "rclone", "disk")
MOUNTS = ("cosmount", "s3fs", "rclone", "disk")
TITLE = "Writing"


@dataclasses.dataclass(frozen=True)
class Workload:
    """`command` is what is timed, `prepare` comes before it without latency, both in `sh` with $D for the directory. `finish` is what the local
    disk adds for durability. `seeds` are objects that are there before the mount; `done` says, from all objects before and now, whether
    everything has arrived."""

    name: str
    title: str
    command: str
    done: Callable
    prepare: str = ""
    finish: str = "true"
    size: int = 0
    count: int = 0
    unit: str = "files"
    memory: str = ""
    seeds: dict = dataclasses.field(default_factory=dict)
    source: str = ""
    random: bool = False
    contestants: tuple = MOUNTS
    # Rounds are for figures that others are compared with.
    repeated: bool = False


def workloads(inputs, scale):
    """All of them; `scale` divides sizes and counts for a quick run."""
    gib, files, tree = (1 << 30) // scale, 2000 // scale, inputs.tree_files
    big = f"{inputs.directory}/big"
    zeros = f"{inputs.directory}/zeros"
    whole = lambda sizes: lambda _, now: all(now.get(key, (None,))[0] == size for key, size in sizes.items())
    below = lambda prefix, count: lambda _, now: sum(1 for key in now if key.startswith(prefix) and not key.endswith("/")) == count
    changed = lambda key: lambda before, now: key in now and now[key] != before.get(key)
    written = f"{FILES} write $D/d {files} 4096"
    sized = lambda text: text.format(mib=gib >> 20, quarter=gib >> 22, half=gib >> 13)
    moved = 1000 // scale
    # All that a mount has is to be durable when its program ends; only the disk needs an fsync for it.
    everything = [
        Workload("dd", sized("{mib} MiB by `dd bs=1M conv=fsync`"), f"dd if='{big}' of=$D/big bs=1M conv=fsync", whole({"big": gib}),
                 size=gib, source=big, contestants=EVERYBODY, repeated=True),
        Workload("cp", sized("{mib} MiB by `cp`"), f"cp '{big}' $D/big", whole({"big": gib}), finish="sync $D/big", size=gib, source=big,
                 contestants=EVERYBODY, repeated=True),
        Workload("streams", sized("4 streams of {quarter} MiB"),
                 sized(f"for n in 1 2 3 4; do dd if='{big}' of=$D/s$n bs=1M count={{quarter}} conv=fsync & done; wait"),
                 whole({f"s{n}": gib >> 22 << 20 for n in range(1, 5)}), size=(gib >> 22 << 20) * 4, repeated=True),
        Workload("zeros", sized("{mib} MiB of zeros, `--memory-limit 256M`"), f"dd if='{zeros}' of=$D/big bs=1M conv=fsync", whole({"big": gib}),
                 size=gib, memory="256M", contestants=("cosmount",), repeated=True),
        Workload("10g", f"{10 * gib >> 20} MiB of zeros, `--memory-limit 256M`", f"dd if=/dev/zero of=$D/big bs=1M count={10 * gib >> 20} conv=fsync",
                 whole({"big": 10 * gib}), size=10 * gib, memory="256M", contestants=("cosmount", "s3fs", "rclone", "disk")),
        Workload("small-1", f"{files} files of 4 KiB, 1 writer", f"{written} 1", below("d/", files), prepare="mkdir $D/d", count=files),
        Workload("small-16", f"{files} files of 4 KiB, 16 writers", f"{written} 16", below("d/", files), prepare="mkdir $D/d", count=files, repeated=True),
        Workload("cp-r", f"`cp -r` of a source tree, {tree} files", f"cp -r '{inputs.tree}' $D/tree", below("tree/", tree),
                 finish=f"{FILES} fsync $D/tree", count=tree),
        Workload("tar", f"`tar x` of the same tree", f"tar xf '{inputs.tar}' -C $D", below("tree/", tree), finish=f"{FILES} fsync $D/tree", count=tree),
        Workload("rm", f"`rm -rf` of the same tree", "rm -rf $D/tree", below("tree/", 0), prepare=f"cp -r '{inputs.tree}' $D/tree", count=tree),
        Workload("mv", f"`mv` of a directory of {moved} files", "mv $D/d $D/e", lambda _, now: below("e/", moved)(_, now) and below("d/", 0)(_, now),
                 prepare=f"mkdir $D/d; {FILES} write $D/d {moved} 4096 16", count=moved),
        Workload("edit", sized("4 KiB into {mib} MiB"), sized("dd if=/dev/urandom of=$D/big bs=4k count=1 seek={half} conv=notrunc,fsync"),
                 changed("big"), seeds={"big": gib}, count=1, unit="edits", random=True),
        Workload("edit-10g", f"4 KiB into {10 * gib >> 20} MiB", sized("dd if=/dev/urandom of=$D/big bs=4k count=1 seek={half} conv=notrunc,fsync"),
                 changed("big"), seeds={"big": 10 * gib}, count=1, unit="edits", contestants=("cosmount",)),
        Workload("append-10g", f"1 MiB appended to {10 * gib >> 20} MiB", f"{FILES} append $D/big 1 {1 << 20}",
                 whole({"big": 10 * gib + (1 << 20)}), seeds={"big": 10 * gib}, count=1, unit="appends", contestants=("cosmount",)),
        Workload("copy", f"`cp` of {3 * gib >> 20} MiB inside the mount", "cp $D/big $D/copy", whole({"copy": 3 * gib}), seeds={"big": 3 * gib},
                 count=1, unit="copies", contestants=("cosmount",)),
        Workload("copy-r", f"`cp -r` of the source tree inside the mount", "cp -r $D/tree $D/copy", below("copy/", tree),
                 prepare=f"cp -r '{inputs.tree}' $D/tree", count=tree, contestants=("cosmount",)),
        Workload("append", f"{100 // scale} appends of 4 KiB to {gib >> 22} MiB", f"{FILES} append $D/log {100 // scale} 4096",
                 whole({"log": (gib >> 22 << 20) + 100 // scale * 4096}), seeds={"log": gib >> 22 << 20}, count=100 // scale, unit="appends", random=True),
        Workload("sqlite", f"sqlite, {200 // scale} transactions", f"sqlite3 $D/db < '{inputs.sql}'", changed("db"), count=200 // scale,
                 unit="transactions", random=True),
        Workload("git", f"`git clone` of the same tree", f"git clone -q 'file://{inputs.repository}' $D/clone", below("clone/src/", tree),
                 finish=f"{FILES} fsync $D/clone", count=tree, random=True),
    ]
    return {one.name: one for one in everything}


def disk_command(workload):
    """The same with one fsync a file."""
    command = workload.command
    if "files.py' write" in command or "files.py' append" in command:
        command += " fsync"
    return f"{command}; {workload.finish}"


class Inputs:
    """What is written, made once: in memory, so that no disk is measured but the contestant's."""

    def __init__(self, directory, scale):
        self.directory, self.tree_files = directory, max(1000 // scale, 20)
        size = (1 << 30) // scale
        with open(f"{directory}/big", "wb") as file:
            block = os.urandom(32 << 20)
            for number in range(0, size, len(block)):
                # No two blocks are alike.
                file.write((number.to_bytes(8, "big") + block[8:])[:size - number])
        with open(f"{directory}/zeros", "wb") as file:
            file.truncate(size)
        self.tree, self.tar = f"{directory}/tree", f"{directory}/tree.tar"
        self.sql, self.repository = f"{directory}/transactions.sql", f"{directory}/repository"
        with open(self.sql, "w") as file:
            file.write("create table t(a integer primary key, b blob);\n")
            file.writelines("insert into t(b) values (randomblob(1000));\n" for _ in range(200 // scale))
        run = lambda command: subprocess.run(["sh", "-ec", command], check=True, stdout=subprocess.DEVNULL)
        run(f"{FILES} tree '{self.tree}' {self.tree_files}")
        run(f"tar cf '{self.tar}' -C '{directory}' tree")
        run(f"cp -r '{self.tree}' '{self.repository}'; cd '{self.repository}'; git init -q; git add .; "
            "git -c user.name=bench -c user.email=bench@example.org commit -qm tree")

"""Runs workloads on contestants, alternating, and keeps what each run took."""

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import contestants
import host
from emulator import BUCKET, Emulator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The bare client's connections where cosmount was not measured.
CONNECTIONS = 8


class Bench:
    """The two emulators, the directories, and who takes part. On the way out all of it is stopped, unmounted and removed."""

    def __init__(self, suite, options):
        self.suite, self.options = suite, options
        self.binaries = os.environ.get("COSMOUNT_BENCH_BINARIES") or build()
        venv = os.path.join(os.environ.get("COSMOUNT_TESTENV", f"{ROOT}/target/testenv"), "venv/bin/python")
        self.sdk_python = venv if os.path.exists(venv) else None
        self.results = {}
        self.notes = []

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            os.makedirs(f"{ROOT}/target", exist_ok=True)
            # Its disk is the one that is compared. Inputs come from memory.
            disk = os.environ.get("TMPDIR") or f"{ROOT}/target"
            self.scratch = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=disk, ignore_cleanup_errors=True))
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            inputs = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=memory))
            self.inputs = self.suite.Inputs(inputs, self.options.scale)
            self.bare_client = f"{self.scratch}/bare-client"
            if "bare" in self.options.contestants:
                # By itself: cargo would build all that tests need, too.
                source = f"{ROOT}/scripts/bench.d/bare-client.rs"
                subprocess.run(["rustc", "--edition", "2024", "-O", "-o", self.bare_client, source], check=True)
            self.cos = self.stack.enter_context(Emulator(self.binaries))
            self.s3 = self.stack.enter_context(Emulator(self.binaries, "--s3"))
            # Also so that no contestant is the first to touch the memory: a virtual machine has to find it.
            for emulator in (self.s3, self.cos):
                emulator.put("big", f"{inputs}/big")
            self.sum = self.cos.checksum("big")
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        # A second Ctrl-C leaves nothing half undone.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.stack.close()

    def run(self):
        """All that was asked for."""
        workloads = self.suite.workloads(self.inputs, self.options.scale)
        unknown = [name for name in self.options.workloads if name not in workloads]
        if unknown:
            raise SystemExit(f"no such workload: {', '.join(unknown)}; there are {', '.join(workloads)}")
        gone = contestants.missing(self)
        self.notes += [f"Not measured: {name} ({why})." for name, why in gone.items() if name in self.options.contestants]
        everybody = {name: make(self) for name, make in contestants.EVERYBODY.items() if name in self.options.contestants and name not in gone}
        for workload in [workloads[name] for name in self.options.workloads or workloads]:
            for latency in self.options.latencies:
                # The SDK and curl are there to show what the bare client is worth; the disk knows no latency.
                taking = [one for name, one in everybody.items() if name in workload.contestants and not (latency and name in ("sdk", "disk"))]
                for number in range(self.options.rounds if workload.repeated else 1):
                    for contestant in taking if number % 2 == 0 else reversed(taking):
                        self.measure(contestant, workload, latency)
        self.workloads = workloads

    def measure(self, contestant, workload, latency):
        """One run, unless an earlier one says that it leads nowhere."""
        key = (workload.name, latency, contestant.name)
        result = self.results.setdefault(key, {"seconds": [], "cpu": [], "peak": []})
        slower = [self.results.get((workload.name, lower, contestant.name), {}) for lower in self.options.latencies if lower <= latency]
        for failed in slower:
            for why in ("over", "error"):
                if why in failed:
                    result[why] = failed[why]
                    return
        try:
            if contestant.direct:
                self.upload(contestant, workload, latency, result)
            else:
                self.program(contestant, workload, latency, result)
            told = f"{result['seconds'][-1]:.3f} s"
        except host.Over:
            result["over"], told = self.options.limit, f"> {self.options.limit} s"
        except (RuntimeError, OSError) as error:
            why = str(error).replace(self.scratch, "…").replace(self.inputs.directory, "…")
            result["error"], told = why, f"failed: {why}"
        print(f"{workload.name:9} {latency:3} ms  {contestant.name:9} {told}", file=sys.stderr, flush=True)

    def upload(self, contestant, workload, latency, result):
        """A client that is no mount sends the same bytes."""
        emulator = contestant.emulator
        connections = self.results.get((workload.name, latency, "cosmount"), {}).get("parts_at_once") or CONNECTIONS
        emulator.empty()
        emulator.latency(latency)
        emulator.forget()
        serving = host.cpu_seconds(emulator.process.pid)
        seconds = host.shell(contestant.upload(workload.source, "big", connections), self.options.limit)
        result.setdefault("server_cpu", []).append(host.cpu_seconds(emulator.process.pid) - serving)
        self.count(emulator, result)
        result["connections"] = connections
        self.check_sum(emulator, workload)
        result["seconds"].append(seconds)
        emulator.empty()

    def program(self, contestant, workload, latency, result):
        """A program writes into a mount, or on the disk."""
        emulator, limit = contestant.emulator, self.options.limit
        if emulator:
            emulator.empty()
            for key, size in workload.seeds.items():
                self.seed(emulator, key, size)
        with contestant.mounted(workload) as (directory, pid):
            for key, size in ({} if emulator else workload.seeds).items():
                host.shell(f"head -c {size} '{self.inputs.directory}/big' > $D/{key}; sync $D/{key}", limit, D=directory)
            if workload.prepare:
                host.shell(workload.prepare, limit, D=directory)
            if not emulator:
                result["seconds"].append(host.shell(self.suite.disk_command(workload), limit, D=directory))
                return
            before = emulator.objects()
            emulator.latency(latency)
            emulator.forget()
            host.forget_peak(pid)
            serving = host.cpu_seconds(emulator.process.pid)
            cpu, begun = host.cpu_seconds(pid), time.perf_counter()
            seconds = host.shell(workload.command, limit, D=directory)
            self.count(emulator, result)
            if not workload.done(before, emulator.objects()):
                # Not durable when the program had ended: the clock runs on.
                while not workload.done(before, emulator.objects()):
                    if time.perf_counter() - begun > limit:
                        raise host.Over
                    time.sleep(0.005)
                seconds = time.perf_counter() - begun
                result["later"] = True
                self.count(emulator, result)
            result["cpu"].append(host.cpu_seconds(pid) - cpu)
            result.setdefault("server_cpu", []).append(host.cpu_seconds(emulator.process.pid) - serving)
            result["peak"].append(host.peak_memory(pid))
            if contestant.name == "cosmount" and workload.source:
                result["parts_at_once"] = max(emulator.parts_at_once(), result.get("parts_at_once", 0))
            self.check_sum(emulator, workload)
            result["seconds"].append(seconds)
            emulator.latency(0)
        emulator.empty()

    def count(self, emulator, result):
        counters = emulator.counters()
        result["requests"] = {op: count["requests"] for op, count in counters.items() if count["requests"]}
        result["errors"] = sum(count["errors"] for count in counters.values())
        # Of files; what a complete or a multi-delete says is not theirs.
        result["sent"] = sum(counters.get(op, {}).get("bytes_in", 0) for op in ("PutObject", "UploadPart", "AppendObject"))
        result["received"] = counters.get("GetObject", {}).get("bytes_out", 0)

    def seed(self, emulator, key, size):
        whole = os.path.getsize(f"{self.inputs.directory}/zeros")
        if size > whole:
            emulator.put("seed", f"{self.inputs.directory}/zeros")
            emulator.repeat(key, "seed", size // whole)
            emulator.request("DELETE", f"/{BUCKET}/seed")
            return
        path = f"{self.inputs.directory}/seed"
        host.shell(f"head -c {size} '{self.inputs.directory}/big' > '{path}'", 60)
        emulator.put(key, path)
        os.remove(path)

    def check_sum(self, emulator, workload):
        if workload.source and emulator.checksum("big") != self.sum:
            raise RuntimeError("what is in the bucket is not what was written")

    def report(self):
        """All results as one document."""
        rows = []
        for (workload, latency, contestant), result in self.results.items():
            row = {"workload": workload, "latency": latency, "contestant": contestant, **result}
            for name in ("seconds", "cpu", "server_cpu"):
                if result.get(name):
                    row[f"median_{name}"] = statistics.median(result[name])
            rows.append(row)
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno", "--", "src", "Cargo.toml", "scripts"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        shown = {name: {"title": one.title, "size": one.size, "count": one.count, "unit": one.unit, "memory": one.memory}
                 for name, one in self.workloads.items() if name in {row["workload"] for row in rows}}
        return {
            "title": self.suite.TITLE, "command": self.options.command,
            "commit": os.environ.get("COSMOUNT_BENCH_COMMIT") or commit + (" and changes not committed" if dirty else ""),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": host.machine(), "rounds": self.options.rounds,
            "limit": self.options.limit, "latencies": self.options.latencies, "versions": versions(self), "notes": self.notes,
            "contestants": {name: one.title for name, one in contestants.EVERYBODY.items()}, "workloads": shown, "results": rows,
        }


def build():
    """Release builds of what is measured."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bins"], cwd=ROOT, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"), "release")


def versions(bench):
    """What the others call themselves."""
    found = {}
    for name, command in {"s3fs": ["s3fs", "--version"], "rclone": ["rclone", "version"], "curl": ["curl", "--version"]}.items():
        with contextlib.suppress(OSError):
            told = subprocess.run(command, capture_output=True, text=True).stdout
            found[name] = f"{name} {re.search(r'[0-9]+[.][0-9.]+', told)[0]}"
    return found

"""Who is measured: cosmount, and what is there of the others.

A mount is started anew for every run, so that its memory and time are that run's. The options of s3fs and rclone are their defaults but for what
they need here; signatures are spared them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

import host
from emulator import BUCKET

PART = 8 << 20


class Mount:
    """A contestant with a directory, served by a process."""

    direct = False

    def __init__(self, bench):
        self.bench = bench

    @contextlib.contextmanager
    def mounted(self, workload):
        """The directory, and the pid of who serves it."""
        home = tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.bench.scratch)
        directory = os.path.join(home, "mnt")
        os.mkdir(directory)
        with open(os.path.join(home, "log"), "w") as log:
            child = subprocess.Popen(
                self.command(directory, home, workload), env=self.environment(home), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )
        try:
            wait_for_mount(child, directory, os.path.join(home, "log"))
            yield directory, child.pid
        finally:
            # An upload that is not over keeps a mount busy; the run's figures are taken.
            if os.path.ismount(directory):
                subprocess.run(["umount", "-l", directory], check=False, stderr=subprocess.DEVNULL)
            host.stop(child)
            shutil.rmtree(home, ignore_errors=True)

    def environment(self, home):
        return {**os.environ, "HOME": home}


class Cosmount(Mount):
    name, title = "cosmount", "cosmount"

    @property
    def emulator(self):
        return self.bench.cos

    def command(self, directory, home, workload):
        memory = ["--memory-limit", workload.memory] if workload.memory else []
        return [f"{self.bench.binaries}/cosmount", "mount", f"cos://{BUCKET}", directory, "--endpoint", self.emulator.endpoint, "--foreground",
                "--config", "/dev/null", "--staging", f"{home}/staging", "--log-level", "warn", *memory]

    def environment(self, home):
        return {**os.environ, "HOME": home, "COS_SECRET_ID": "AKIDEXAMPLE", "COS_SECRET_KEY": "exampleSecretKey"}


class S3fs(Mount):
    name, title = "s3fs", "s3fs"

    @property
    def emulator(self):
        return self.bench.s3

    def command(self, directory, home, workload):
        return ["s3fs", BUCKET, directory, "-f", "-o", f"url={self.emulator.endpoint},use_path_request_style,public_bucket=1,tmpdir={home}"]


class Rclone(Mount):
    name, title = "rclone", "rclone mount"

    @property
    def emulator(self):
        return self.bench.s3

    def command(self, directory, home, workload):
        # `off` streams and is durable at close; what is not written in sequence needs `writes`, which uploads after it. At once would be fairer,
        # but 1.60 then loses files that are removed meanwhile, and sqlite's journal is such a file.
        cache = "writes" if workload.random else "off"
        return ["rclone", "mount", f"bench:{BUCKET}", directory, "--config", "/dev/null", "--cache-dir", f"{home}/cache",
                "--vfs-cache-mode", cache, "--vfs-write-back", "1s"]

    def environment(self, home):
        remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.emulator.endpoint, "FORCE_PATH_STYLE": "true", "LIST_VERSION": "1",
                  "NO_CHECK_BUCKET": "true"}
        # It refuses to start where this names authorities, TLS or not.
        inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
        return {**inherited, "HOME": home, **{f"RCLONE_CONFIG_BENCH_{name}": value for name, value in remote.items()}}


class Disk:
    """The disk under the scratch directory; durable by one fsync a file."""

    name, title, direct, emulator = "disk", "local disk, fsync", False, None

    def __init__(self, bench):
        self.bench = bench

    @contextlib.contextmanager
    def mounted(self, workload):
        with tempfile.TemporaryDirectory(prefix="disk-", dir=self.bench.scratch) as directory:
            yield directory, None


class Direct:
    """A client that only uploads a file."""

    direct = True

    def __init__(self, bench):
        self.bench = bench

    @property
    def emulator(self):
        return self.bench.cos


class Bare(Direct):
    name, title = "bare", "bare multipart client"

    def upload(self, source, key, connections):
        return f"'{self.bench.bare_client}' {self.emulator.address} {BUCKET} {key} '{source}' {connections} {PART}"


class Curl(Direct):
    name, title = "curl", "curl -T"

    def upload(self, source, key, connections):
        return f"curl -sSf -T '{source}' {self.emulator.endpoint}/{BUCKET}/{key}"


class Sdk(Direct):
    name, title = "sdk", "Python SDK"

    def upload(self, source, key, connections):
        here = os.path.dirname(os.path.abspath(__file__))
        return f"'{self.bench.sdk_python}' '{here}/sdk_upload.py' {self.emulator.address} {BUCKET} {key} '{source}' {connections}"


EVERYBODY = {one.name: one for one in (Cosmount, Bare, Curl, Sdk, S3fs, Rclone, Disk)}


def wait_for_mount(child, directory, log):
    deadline = time.monotonic() + 20
    while not os.path.ismount(directory):
        if child.poll() is not None or time.monotonic() > deadline:
            with open(log, errors="replace") as text:
                raise RuntimeError(f"{os.path.basename(child.args[0])} does not mount: {text.read().strip()[-500:]}")
        time.sleep(0.01)


def missing(bench):
    """What is not here of the others, and why."""
    gone = {name: f"{name} is not installed" for name in ("s3fs", "rclone", "curl") if not shutil.which(name)}
    if not bench.sdk_python:
        gone["sdk"] = "scripts/testenv has not made target/testenv/venv"
    return gone


def install(wanted):
    """Debian's packages of those that are wanted and not there, where we may."""
    packages = [name for name in ("s3fs", "rclone", "curl") if name in wanted and not shutil.which(name)]
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print("installing", *packages, file=sys.stderr)
    quiet = {"stdout": subprocess.DEVNULL, "check": False, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], **quiet)

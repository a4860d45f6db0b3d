"""This host: processes that are started and stopped by their id, what they used, and what the machine is."""

import contextlib
import os
import platform
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


class Over(Exception):
    """A command that did not end within its time."""


def cpu_seconds(pid):
    """User and system time of a process and its threads."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def forget_peak(pid):
    """Lets VmHWM begin anew."""
    with open(f"/proc/{pid}/clear_refs", "w") as refs:
        refs.write("5")


def peak_memory(pid):
    """VmHWM in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def shell(command, limit, **variables):
    """Runs a command of `sh` and answers how long it took, by its own account if it prints `took SECONDS`; all it started ends with it."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        ["sh", "-ec", command],
        env={**os.environ, "LC_ALL": "C", **{name: str(value) for name, value in variables.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )
    try:
        told, errors = child.communicate(timeout=limit)
    except BaseException as why:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        # What waits in a mount that hangs ends with the mount.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=2)
        if isinstance(why, subprocess.TimeoutExpired):
            raise Over from None
        raise
    if child.returncode:
        raise RuntimeError(errors.strip().splitlines()[-1] if errors.strip() else f"exit code {child.returncode}")
    seconds = time.perf_counter() - begun
    return float(told.split()[1]) if told.startswith("took ") else seconds


def stop(child, patience=10):
    """Ends a process we started: asked first, then not."""
    child.terminate()
    try:
        child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def machine():
    """What the figures were measured on."""
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": os.cpu_count(), "memory": memory, "kernel": platform.release(), "load": os.getloadavg()[0]}

"""Results for people (Markdown and a chart) and programs (JSON)."""

import json
import os

from chart import chart

MIB = 1 << 20


class Figures:
    """The rows of a report, found by workload, latency and contestant."""

    def __init__(self, found):
        self.found = found
        self.rows = {(row["workload"], row["latency"], row["contestant"]): row for row in found["results"]}

    def seconds(self, workload, latency, contestant):
        return self.rows.get((workload, latency, contestant), {}).get("median_seconds")

    def ratio(self, workload, latency, over):
        """How many times as fast as another cosmount is; at least, where the other was given up."""
        ours, row = self.seconds(workload, latency, "cosmount"), self.rows.get((workload, latency, over), {})
        theirs = row.get("over") or row.get("median_seconds")
        return theirs / ours if ours and theirs else None

    def cell(self, workload, latency, contestant):
        row = self.rows.get((workload, latency, contestant))
        if row is None:
            return ""
        if "error" in row:
            return "fails"
        if "over" in row:
            return f"> {row['over']} s"
        return duration(row["median_seconds"]) + (" *" if row.get("later") else "")

    def rate(self, workload, seconds):
        """In what the workload counts."""
        about = self.found["workloads"][workload]
        if about["size"]:
            return f"{about['size'] / seconds / 1e6:.0f} MB/s"
        return f"{about['count'] / seconds:.0f}/s" if about["count"] > 1 else duration(seconds)


def duration(seconds):
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"


def table(head, rows):
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return "\n".join([line(head), line(["---"] + ["---:"] * (len(head) - 1)), *map(line, rows)])


def text(found):
    """The whole report."""
    figures, machine = Figures(found), found["machine"]
    present = [name for name in found["contestants"] if any(row["contestant"] == name for row in found["results"])]
    out = [
        f"# {found['title']}",
        f"Made by `{found['command']}` on {found['date']}, commit {found['commit']}: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory'] / (1 << 30):.0f} GiB, Linux {machine['kernel']}, load {machine['load']:.1f} at the end; "
        + ", ".join(found["versions"].values()) + ".",
        f"Times until everything is in the bucket, medians of {found['rounds']} alternating rounds (of one where rates are not compared with aims). The emulator, "
        "on the same cores, answers each request so many milliseconds late; it makes ETags from CRC-64 for everybody. `*`: not yet there when the "
        "program had ended; the clock ran on. `fails`: the program was told an error. s3fs and rclone sign nothing. rclone's cache is `off` where "
        "files are written in sequence, else `writes`, uploading a second after close (at once it loses sqlite's journal). The disk has one fsync a file and no latency.",
    ]
    out += found["notes"]
    for latency in found["latencies"]:
        rows = []
        for name, about in found["workloads"].items():
            ours = figures.seconds(name, latency, "cosmount")
            cells = [figures.cell(name, latency, one) for one in present]
            rate = figures.rate(name, ours) if ours else ""
            rows.append([about["title"], *cells, rate])
        out += [f"## {latency} ms" if latency else "## No latency", table(["", *[found["contestants"][name] for name in present], "cosmount's rate"], rows)]
    out += ["## What it costs", "Requests and bytes of the last round, median CPU of the mount's process and of the emulator, highest peak of its memory.", costs(figures)]
    out += ["## Against the aims", table(["aim", "here", ""], aims(figures))]
    failed = sorted({f"{row['contestant']}, {row['workload']}: {row['error']}" for row in found["results"] if "error" in row})
    if failed:
        out += ["## Failures", "\n".join(f"- {line}" for line in failed)]
    return "\n\n".join(out) + "\n"


def costs(figures):
    rows = []
    for (workload, latency, contestant), row in figures.rows.items():
        if "requests" not in row or not row["peak"]:
            continue
        about = figures.found["workloads"][workload]
        cpu = f"{row['median_cpu']:.2f} s"
        if about["size"]:
            cpu += f" ({row['median_cpu'] / about['size'] * (1 << 30):.2f} a GiB)"
        requests = ", ".join(f"{count} {op}" for op, count in sorted(row["requests"].items(), key=lambda pair: -pair[1]))
        rows.append([about["title"], f"{latency} ms", figures.found["contestants"][contestant], requests, f"{row['sent'] / MIB:.1f} MiB",
                     f"{row['received'] / MIB:.1f} MiB", cpu, f"{row['median_server_cpu']:.2f} s", f"{max(row['peak']) / MIB:.0f} MiB"])
    return table(["", "latency", "", "requests", "sent", "fetched", "CPU", "emulator's CPU", "peak memory"], rows)


def aims(figures):
    """What the figures are to be, and whether they are."""
    rows = []

    def aim(what, value, limit, unit="x", most=False):
        if value is not None:
            met = value <= limit if most else value >= limit
            rows.append([what, f"{value:.2f}{unit}" if isinstance(value, float) else f"{value}{unit}", "met" if met else "**missed**"])

    for name in ("dd", "cp"):
        curl = [figures.seconds(name, 0, one) for one in ("curl", "sdk")]
        bare = figures.seconds(name, 0, "bare")
        if bare and any(curl):
            aim(f"`{name}`: the bare client is at least 0.9 x the faster of curl and the SDK", min(filter(None, curl)) / bare, 0.9)
        aim(f"`{name}`: at least 0.6 x the bare client", figures.ratio(name, 0, "bare"), 0.6)
        aim(f"`{name}`: at least `curl -T`", figures.ratio(name, 0, "curl"), 1)
        for latency in (10, 50):
            aim(f"`{name}`, {latency} ms: at least 0.9 x the bare client", figures.ratio(name, latency, "bare"), 0.9)
        peers = [figures.ratio(name, 0, one) for one in ("s3fs", "rclone")]
        if any(peers):
            aim(f"`{name}`: at least 2 x the best of s3fs and rclone", min(filter(None, peers)), 2)
    for (workload, latency, contestant), row in figures.rows.items():
        if contestant == "cosmount" and workload in ("dd", "cp", "10g") and row["cpu"]:
            title = f"`{workload}`" + (f", {latency} ms" if latency else "")
            aim(f"{title}: at most 0.35 CPU seconds a GiB", row["median_cpu"] / figures.found["workloads"][workload]["size"] * (1 << 30), 0.35, " s", True)
            limit = 256 if workload == "10g" else 128
            aim(f"{title}: peak memory within {limit} + 64 MiB", max(row["peak"]) / MIB, limit + 64, " MiB", True)
    for latency in figures.found["latencies"]:
        short, long = figures.seconds("zeros", latency, "cosmount"), figures.seconds("10g", latency, "cosmount")
        if short and long:
            aim(f"ten times as much at the same rate, {latency} ms", short * 10 / long, 0.9)
    for latency in (10, 50):
        many = figures.seconds("small-16", latency, "cosmount")
        if many:
            count = figures.found["workloads"]["small-16"]["count"]
            aim(f"16 writers, {latency} ms: at least 0.9 of 16 / latency a second", count / many / (16e3 / latency), 0.9)
    for (workload, latency, contestant), row in figures.rows.items():
        if contestant != "cosmount" or "requests" not in row:
            continue
        title, requests = f"`{workload}`" + (f", {latency} ms" if latency else ""), row["requests"]
        if workload.startswith("small"):
            aim(f"{title}: no request but a PUT a file", sum(requests.values()) - figures.found["workloads"][workload]["count"], 0, "", True)
        if workload in ("edit-10g", "append-10g"):
            aim(f"{title}: parts sent", requests.get("UploadPart", 0), 2 if workload == "edit-10g" else 1, "", True)
            if latency == 10:
                aim(f"{title}: seconds", row.get("median_seconds"), 1, " s", True)
        if workload in ("copy", "copy-r"):
            aim(f"{title}: bytes sent", row["sent"], 0, "", True)
    moved = figures.seconds("mv", 10, "cosmount")
    if moved:
        count = figures.found["workloads"]["mv"]["count"]
        aim(f"`mv` of {count} files, 10 ms", moved, 1.3 * (count / 128 * 2 * 0.01) + 0.2, " s", True)
    return rows


def panels(figures):
    found, out = figures.found, []
    chosen = [("dd", "higher"), ("small-16", "higher"), ("tar", "higher"), ("edit", "lower")]
    for name, better in [pair for pair in chosen if pair[0] in found["workloads"]]:
        about, groups = found["workloads"][name], []
        for latency in found["latencies"]:
            bars = []
            for contestant, title in found["contestants"].items():
                seconds = figures.seconds(name, latency, contestant)
                cell = figures.cell(name, latency, contestant)
                if seconds and "over" not in figures.rows[(name, latency, contestant)]:
                    value = seconds if better == "lower" else 1 / seconds
                    bars.append((contestant, title, value, figures.rate(name, seconds)))
                elif cell:
                    bars.append((contestant, title, None, cell))
            groups.append((f"{latency} ms", bars))
        out.append((f"{about['title'].replace('`', '')}: {better} is better", groups))
    return out


def write(found, directory, name):
    """The three files."""
    os.makedirs(directory, exist_ok=True)
    body = text(found)
    title, rest = body.split("\n\n", 1)
    files = {
        "json": json.dumps(found, indent=1) + "\n",
        "md": f"{title}\n\n![{found['title']}]({name}.svg)\n\n{rest}",
        "svg": chart(f"{found['title']}: cosmount and others", f"On the emulator on the same machine, with its latency per request; commit {found['commit']}, {found['date']}",
                     panels(Figures(found))),
    }
    for kind, content in files.items():
        with open(f"{directory}/{name}.{kind}", "w") as file:
            file.write(content)

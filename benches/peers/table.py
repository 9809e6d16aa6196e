"""A record as the README shows it."""

import json
import os
import statistics
from collections import defaultdict

OPS = {
    "gemm": "int8 -> int32, weights packed once",
    "linear": "f32 -> f32, weights packed once",
    "q_matmul": "f32 -> f32, everything a call",
}


def load(folder):
    with open(os.path.join(folder, "record.json")) as file:
        record = json.load(file)
    with open(os.path.join(folder, "rounds.jsonl")) as file:
        return record, [json.loads(line) for line in file]


def table(folder):
    record, rows = load(folder)
    times, ceilings, kernels, failed = defaultdict(list), defaultdict(list), {}, {}
    for row in rows:
        at = (row["m"], row["k"], row["n"], row["threads"])
        if row["who"] == "ceiling":
            for kernel, peak in row["kernels"].items():
                ceilings[at, kernel].append(peak["gops"])
        elif "not_run" in row:
            failed[row["who"], row["op"]] = row["not_run"]
        else:
            times[at, row["op"], row["who"]].append(row["median_s"])
            if row["who"] == "imma":
                kernels[at, row["op"]] = row["kernel"]
    lines = heading(record, rows)
    lines.append(f"| M x K x N | threads | {' | '.join(OPS.values())} | ceiling |")
    lines.append("|---" * (3 + len(OPS)) + "|")
    order = list(dict.fromkeys((row["m"], row["k"], row["n"], row["threads"]) for row in rows))
    # As they were first measured, threads below each other.
    shapes = list(dict.fromkeys(at[:3] for at in order))
    for at in sorted(order, key=lambda at: (shapes.index(at[:3]), at[3])):
        m, k, n, threads = at
        cells = [cell(times, at, op) for op in OPS]
        peaks = {kernel: statistics.median(gops) for (a, kernel), gops in ceilings.items() if a == at}
        # Of the kernels that served; of the fastest where they go by other names.
        served = [kernel for kernel in peaks if kernel in {kernels[at, op] for op in OPS}]
        shown = ", ".join(f"{kernel} {figure(peaks[kernel])}" for kernel in served or [max(peaks, key=peaks.get)])
        lines.append(f"| {m} x {k} x {n} | {threads} | {' | '.join(cells)} | {shown} |")
    for (who, op), reason in failed.items():
        lines += ["", f"not run: {who}, {op}: {reason}"]
    return "\n".join(lines) + "\n"


def cell(times, at, op):
    """Ours in GOPS, and in brackets the best peer and our ratio to it."""
    operations = 2 * at[0] * at[1] * at[2]
    rate = {who: operations / statistics.median(seconds) * 1e-9 for (a, o, who), seconds in times.items() if (a, o) == (at, op)}
    ours = rate.pop("imma")
    if not rate:
        return figure(ours)
    best = max(rate, key=rate.get)
    return f"{figure(ours)} ({best} {figure(rate[best])}: {ours / rate[best]:.2f}x)"


def figure(gops):
    return f"{gops:.0f}" if gops >= 20 else f"{gops:.1f}" if gops >= 1 else f"{gops:.2f}"


def heading(record, rows):
    machine, code = record["machine"], (record["commit"] or "unknown")[:7]
    loads = [row["load"] for row in rows]
    memory = defaultdict(list)
    for row in rows:
        if row["who"] == "ceiling":
            memory[row["threads"]].append(row["read_gb_per_s"])
    reads = ", ".join(f"{statistics.median(rates):.0f} GB/s on {count}" for count, rates in memory.items())
    return [
        f"{machine['cpu']} (family {machine['family']}, model {machine['model']}), {machine['cores']} cores"
        f"{' of a virtual machine' if machine['virtual'] else ''}, {record['date']}, commit `{code}`"
        f"{' with changes' if record['changed'] else ''}; load {min(loads):.1f} to {max(loads):.1f}; memory read: {reads} threads.",
        f"Peers: {', '.join(f'{name} {version}' for name, version in record['versions'].items())}. `{record['command']}`",
        "",
    ]

"""Ours and the peers, interleaved: the rounds of a record."""

import datetime
import json
import os
import subprocess

import environment
import machine

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = ("jax", "onnxruntime", "torch")
OPS = "gemm,linear,q_matmul"
# Each kernel's ceiling: short, because every round has its own.
PEAK_SECONDS = 0.05


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def pinned(cpus):
    """For a process that is started: the CPUs it may use."""
    return lambda: os.sched_setaffinity(0, cpus)


class Ended(Exception):
    """A process that does not answer any more."""


class Family:
    """A process that measures one family of peers when asked to."""

    def __init__(self, name, threads, cpus, folder):
        self.process = subprocess.Popen(
            [environment.python(folder), os.path.join(HERE, "serve.py"), name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment.variables(folder)},
            preexec_fn=pinned(cpus),
        )
        self.name = name

    def versions(self):
        """Its first answer, once everything is imported."""
        return self.answer()["versions"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Ended(f"the process ended with code {self.process.wait()}")
        return json.loads(line)

    def measure(self, m, k, n, seconds):
        print(json.dumps({"m": m, "k": k, "n": n, "seconds": seconds}), file=self.process.stdin, flush=True)
        while True:
            answer = self.answer()
            if answer.get("done"):
                return
            yield answer

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Record:
    """The rounds as they are measured, in memory and in a file."""

    def __init__(self, imma, seconds, path):
        self.imma, self.seconds = imma, seconds
        self.file = open(path, "w")
        self.place = {}

    def add(self, **row):
        row = {"at": now(), "load": round(os.getloadavg()[0], 2), **self.place, **row}
        if "median_s" in row:
            operations = 2 * row["m"] * row["k"] * row["n"]
            row["gops"] = round(operations / row["median_s"] * 1e-9, 2)
        print(json.dumps(row), file=self.file, flush=True)

    def command(self, *arguments):
        cpus = self.place["cpus"]
        done = subprocess.run([self.imma, *arguments], capture_output=True, text=True, preexec_fn=pinned(cpus))
        if done.returncode:
            raise SystemExit(f"record-cpu: imma {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def ceilings(self):
        threads = str(self.place["threads"])
        peaks = self.command("info", "--peak", "--json", "--threads", threads, "--seconds", str(PEAK_SECONDS))
        self.add(who="ceiling", **json.loads(peaks))

    def ours(self, part):
        threads, shape = str(self.place["threads"]), "x".join(str(self.place[side]) for side in "mkn")
        lines = self.command(
            "bench", "gemm", "--device", "cpu", "--shapes", shape, "--op", OPS, "--json",
            "--seconds", str(self.seconds), "--threads", threads,
        )  # fmt: skip
        for line in lines.splitlines():
            row = json.loads(line)
            kept = {key: row[key] for key in ("op", "kernel", "median_s", "min_s", "samples")}
            self.add(who="imma", part=part, **kept)

    def round(self, families):
        self.ceilings()
        self.ours("before")
        for family in families:
            try:
                for row in family.measure(*(self.place[side] for side in "mkn"), self.seconds):
                    self.add(**row)
            except Ended as error:
                raise SystemExit(f"record-cpu: {family.name}: {error}")
        self.ours("after")


def started(threads, cpus, folder, say):
    """The families that work here, each in a process, and their versions."""
    families, versions = [], {}
    for family in [Family(name, threads, cpus, folder) for name in FAMILIES]:
        try:
            versions.update(family.versions())
            families.append(family)
        except Ended as error:
            say(f"not run: {family.name}: {error}")
            versions[family.name] = "not run"
    return families, versions


def run(imma, folder, shapes, threads, rounds, seconds, path, say):
    """Measures everything into the file `path`; the peers' versions."""
    record, versions = Record(imma, seconds, path), {}
    cores = machine.cores()
    for count in threads:
        families, found = started(count, cores[:count], folder, say)
        versions.update(found)
        for shape in shapes:
            for number in range(rounds):
                record.place = {"threads": count, "cpus": cores[:count], "round": number, **dict(zip("mkn", shape))}
                record.round(families)
            say(f"{'x'.join(map(str, shape))}, {count} thread{'s' * (count > 1)}: {rounds} rounds")
        for family in families:
            family.stop()
    record.file.close()
    return versions


def build(root):
    """The release build of the command."""
    subprocess.run(["cargo", "build", "--release", "--features", "cli"], cwd=root, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    return os.path.join(target, "release", "imma")

"""One family of peers, measured on demand.

usage: serve.py jax|onnxruntime|torch THREADS        reads one request a line, answers with JSON lines

A request is {"m": 1, "k": 4096, "n": 4096, "seconds": 0.2}. The answer is a line for each peer, then {"done": true}. Between requests
the process waits, so that its threads and those of the next family do not fight. Shapes stay prepared until another is asked for.

The operations are named as `imma bench` names them:

    gemm       int8 x int8 -> int32, weights packed beforehand where the peer can
    linear     f32 -> f32, activations quantised in each call, weights quantised and packed beforehand
    q_matmul   f32 x f32 -> f32, both sides quantised in each call
"""

import importlib
import json
import os
import sys
import time

FAMILIES = ("jax", "onnxruntime", "torch")


def limit_threads(threads):
    """Before anything is imported: pools are made at import."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


class Data:
    """Full-range random bytes, and floats that quantise to about them: what `imma bench` multiplies."""

    def __init__(self, m, k, n):
        import numpy as np

        rng = np.random.default_rng(0)
        self.m, self.k, self.n = m, k, n
        self.qa = rng.integers(-128, 128, (m, k), dtype=np.int8)
        self.qw = rng.integers(-128, 128, (k, n), dtype=np.int8)
        self.a = self.qa.astype(np.float32) * np.float32(0.37)
        self.w = self.qw.astype(np.float32) * np.float32(0.011)
        # The steps of quantised weights, one a column.
        self.steps = np.abs(self.w).max(axis=0) / np.float32(127)
        self.quantised_w = np.clip(np.round(self.w / self.steps), -127, 127).astype(np.int8)
        # The first rows of the exact products, of integers and of floats.
        rows = slice(0, 4)
        self.exact = {
            True: self.qa[rows].astype(np.float64) @ self.qw.astype(np.float64),
            False: self.a[rows].astype(np.float64) @ self.w.astype(np.float64),
        }

    def check(self, result):
        """Against the first rows of the exact product, whatever the type; raises where it is another."""
        import numpy as np

        result = np.asarray(result)
        integers = result.dtype == np.int32
        want = self.exact[integers]
        result = result[: len(want)]
        error = np.linalg.norm(result - want) / np.linalg.norm(want)
        if not error <= (0 if integers else 0.03):
            raise ValueError(f"the result is off by {error:.3g} of its norm")


def measure(run, seconds):
    """Median and least of samples of ten milliseconds or one call: the method of `imma bench`."""
    run()
    start = time.perf_counter()
    run()
    inner = max(1, int(0.01 / max(time.perf_counter() - start, 1e-9)))
    samples = []
    begin = time.perf_counter()
    while len(samples) < 7 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(inner):
            run()
        samples.append((time.perf_counter() - start) / inner)
    samples.sort()
    return {"median_s": samples[len(samples) // 2], "min_s": samples[0], "samples": len(samples)}


def prepare(family, data, threads):
    """The peers whose results are right; the others with the reason why not."""
    good, bad = [], []
    for op, name, make in family.peers(data, threads):
        try:
            run, result = make()
            data.check(result())
            good.append((op, name, run))
        except Exception as error:  # whatever a library raises: one peer less, and said so
            reason = " ".join(str(error).split())[:200]
            bad.append({"op": op, "who": name, "not_run": f"{type(error).__name__}: {reason}"})
    return good, bad


def main():
    name, threads = sys.argv[1], int(sys.argv[2])
    limit_threads(threads)
    # The answers' own stream: libraries print what they like on stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    family = importlib.import_module(f"with_{name}")

    def answer(**line):
        print(json.dumps(line), file=answers, flush=True)

    answer(family=name, versions=family.versions())
    prepared = None
    for line in sys.stdin:
        request = json.loads(line)
        shape = tuple(request[side] for side in "mkn")
        if prepared != shape:
            good, bad = prepare(family, Data(*shape), threads)
            prepared = shape
        for peer in bad:
            answer(**peer)
        for op, who, run in good:
            answer(op=op, who=who, **measure(run, request["seconds"]))
        answer(done=True)


if __name__ == "__main__":
    main()

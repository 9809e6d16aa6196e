"""torch: its plain integer product, and the quantised linear layers of oneDNN and fbgemm."""

import numpy as np
import torch


def versions():
    return {"torch": torch.__version__}


def peers(data, threads):
    torch.set_num_threads(threads)
    qa, qw, a = map(torch.from_numpy, (data.qa, data.qw, data.a))

    def int_mm(w):
        run = lambda: torch._int_mm(qa, w)
        return run, run

    def qlinear():
        # Signed activations fall back to oneDNN's reference code, at a thousandth of the speed.
        x = torch.from_numpy((data.qa.astype(np.int16) + 128).astype(np.uint8))
        w = torch.ops.onednn.qlinear_prepack(qw.t().contiguous(), [data.m, data.k])
        ones, zeros = torch.ones(data.n), torch.zeros(data.n, dtype=torch.int64)

        def run():
            return torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 128, w, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        # Its results are f32 of the sums: exact up to 2^24, so rounded here and compared as floats below.
        return run, lambda: run() * (0.37 * 0.011)

    def linear_dynamic(engine):
        torch.backends.quantized.engine = engine
        w = torch.from_numpy(data.quantised_w).t().contiguous()
        steps, zeros = torch.from_numpy(data.steps).double(), torch.zeros(data.n, dtype=torch.int64)
        w = torch._make_per_channel_quantized_tensor(w, steps, zeros, 0)
        packed = torch.ops.quantized.linear_prepack(w, None)

        def run():
            torch.backends.quantized.engine = engine
            return torch.ops.quantized.linear_dynamic(a, packed, False)

        return run, run

    yield "gemm", "torch _int_mm", lambda: int_mm(qw)
    yield "gemm", "torch _int_mm, W by columns", lambda: int_mm(qw.t().contiguous().t())
    yield "gemm", "oneDNN qlinear", qlinear
    yield "linear", "oneDNN", lambda: linear_dynamic("onednn")
    yield "linear", "fbgemm", lambda: linear_dynamic("fbgemm")

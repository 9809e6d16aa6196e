"""Compiles kernels.py ahead of time, without a GPU, into the fixtures that tests/foreign.rs runs.

    python3 -m venv DIR && DIR/bin/pip install triton==3.9.0 zstandard==0.25.0
    DIR/bin/python tests/fake_cuda/foreign/compile.py [NAME...]

writes NAME.ptx.zst (PTX without comments and debug information) for every fixture below, or those named, and
manifest.json. `relax` names the rules of the emulated machine that a fixture breaks and a GPU lets pass
(`exec::Strictness`): run strictly it must end in that fault, and with them relaxed give the right answer.
"""
import json
import pathlib
import re
import sys

import triton
import zstandard
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction
from triton.experimental.gluon.language import NVMMASharedLayout

import kernels

PINNED = "3.9.0"
HERE = pathlib.Path(__file__).parent
BYTES = {"i8": 1, "i16": 2, "i32": 4, "fp16": 2, "bf16": 2, "fp32": 4}

GEMM = dict(a="*i8", b="*i8", c="*i32", m="i32", n="i32", k="i32")
WHOLE = dict(signature=GEMM, aligned="abcmnk")


def tile(m, n, k, **more):
    return dict(BM=m, BN=n, BK=k, **more)


def tensor(element, *box):
    return f"tensordesc<{element}[{','.join(map(str, box))}]>"


def layout(element, rows, columns, cga=None):
    """A tensor map's type for Gluon, which is told the layout."""
    width = min(128, columns * BYTES[element])
    shared = NVMMASharedLayout(width, 8 * BYTES[element], 2, cga_layout=cga)
    return f"tensordesc<{element}[{rows},{columns}],{shared!r}>"


def fixture(kernel, arch, constants, signature, aligned="", relax=(), **options):
    return dict(kernel=kernel, arch=arch, constants=constants, signature=signature, aligned=aligned,
                relax=list(relax), options=options)


FIXTURES = {
    "conversions": fixture("conversions", 80, dict(BLOCK=256), dict(a="*fp32", b="*i32", n="i32"), "ab"),
    "float_bits": fixture("float_bits", 80, dict(BLOCK=256), dict(a="*fp32", b="*fp32", c="*fp32", n="i32"), "abc",
                          enable_fp_fusion=False, enable_reflect_ftz=False),
    "atomics": fixture("atomics", 80, dict(BLOCK=256), dict(a="*i32", b="*i32", n="i32"), "ab"),
    "scan": fixture("scan", 80, dict(COLUMNS=256), dict(a="*i32", b="*i32"), "ab"),
    "quantise": fixture("quantise", 80, dict(BLOCK=1024), dict(a="*fp32", q="*i8", scales="*fp32", columns="i32"), "aq",
                        enable_fp_fusion=False),
    "transpose": fixture("transpose_tma", 90, dict(R=32, C=32),
                         dict(a=tensor("i32", 32, 32), b=tensor("i32", 32, 32)), relax=["init-fence"]),
    "reduce": fixture("reduce_tma", 90, dict(R=32, C=32), dict(a=tensor("i32", 32, 32), b=tensor("i32", 32, 32)), relax=["init-fence"]),
    "turns": fixture("turns_tma", 90, dict(R=32, C=32, STEPS=5),
                     dict(a=layout("i32", 32, 32), b=layout("i32", 32, 32)), relax=["init-fence", "wide-parity"]),
    "half_written": fixture("half_written", 80, dict(BLOCK=256), dict(a="*i32", b="*i32", n="i32"), "ab",
                            ["unused-shared"]),
    "specialised": fixture("dot_s8_specialised", 90, tile(64, 64, 128, STAGES=3),
                           dict(a=layout("i8", 64, 128), b=layout("i8", 64, 128), c=layout("i32", 64, 64), k="i32"),
                           relax=["init-fence", "same-value", "one-setmaxnreg"]),
    "multicast": fixture("dot_s8_multicast", 90, tile(128, 64, 128),
                         dict(a=layout("i8", 128, 128, [[1, 0]]), b=layout("i8", 64, 128, [[0, 0]]),
                              c=layout("i32", 128, 64, [[1, 0]]), k="i32"), num_ctas=2),
    "split_tma": fixture("dot_s8_tma", 90, tile(128, 128, 64),
                         dict(a=tensor("i8", 128, 64), b=tensor("i8", 128, 64), c=tensor("i32", 128, 128), k="i32"),
                         relax=["init-fence"], num_ctas=2),
}
for arch in (80, 90):
    for k in (32, 64, 128):
        FIXTURES[f"dot_{arch}_{k}"] = fixture("dot_s8_whole", arch, tile(64, 64, k), **WHOLE)
    FIXTURES[f"ragged_{arch}"] = fixture("dot_s8", arch, tile(64, 32, 32), GEMM, "abc")
    FIXTURES[f"changed_{arch}"] = fixture("dot_s8_changed", arch, tile(64, 64, 64), **WHOLE)
    FIXTURES[f"onto_{arch}"] = fixture("dot_s8_onto", arch, tile(64, 64, 64), **WHOLE)
for k in (32, 64, 128):
    FIXTURES[f"tma_{k}"] = fixture("dot_s8_tma", 90, tile(64, 64, k),
                                   dict(a=tensor("i8", 64, k), b=tensor("i8", 64, k), c=tensor("i32", 64, 64), k="i32"),
                                   relax=["init-fence"])


def stripped(ptx):
    """The text without comments, line numbers, and the sections and labels of debug information."""
    ptx = re.sub(r"/\*.*?\*/", "", ptx, flags=re.S)
    ptx = re.sub(r"^\s*\.section[^{]*\{.*?^\s*\}", "", ptx, flags=re.S | re.M)
    lines = [re.sub(r"//.*", "", line).strip() for line in ptx.splitlines()]
    debug = re.compile(r"\.(loc|file)\b|\$L__(tmp|func_begin|func_end)\w*:")
    return "\n".join(line for line in lines if line and not debug.match(line)) + "\n"


def parameters(signature, maps):
    """The entry's parameters in order; a tensor map is followed by extents and strides that these kernels don't read."""
    found, maps = [], iter(maps)
    for kind in signature.values():
        if kind.startswith("tensordesc"):
            meta = next(maps)
            found.append(dict(map=dict(type=meta["elem_type"], swizzle=meta["swizzle"], box=meta["block_size"][::-1])))
            found += ["i32", "i32", "i64", "i64"]
        else:
            found.append("pointer" if kind.startswith("*") else kind)
    return found + ["scratch", "scratch"]


def compiled(name, f):
    fn = getattr(kernels, f["kernel"])
    names = list(f["signature"])
    attributes = {(names.index(p),): [["tt.divisibility", 16]] for p in f["aligned"]}
    signature = {**f["signature"], **{c: "constexpr" for c in f["constants"]}}
    source = GluonASTSource if isinstance(fn, GluonJITFunction) else ASTSource
    out = triton.compile(source(fn, signature, f["constants"], attributes), GPUTarget("cuda", f["arch"], 32), f["options"])
    meta, text = out.metadata, stripped(out.asm["ptx"])
    (HERE / f"{name}.ptx.zst").write_bytes(zstandard.ZstdCompressor(19).compress(text.encode()))
    return dict(name=name, kernel=f["kernel"], target=f["arch"], constants=f["constants"], entry=meta.name,
                threads=int(re.search(r"\.reqntid (\d+)", text)[1]), cluster=meta.num_ctas, shared=meta.shared,
                parameters=parameters(f["signature"], meta.tensordesc_meta), relax=f["relax"])


def main():
    if triton.__version__ != PINNED:
        sys.exit(f"Triton {triton.__version__}, want {PINNED}")
    path = HERE / "manifest.json"
    old = {f["name"]: f for f in json.loads(path.read_text())["fixtures"]} if path.exists() else {}
    chosen = sys.argv[1:] or list(FIXTURES)
    new = {name: compiled(name, FIXTURES[name]) for name in chosen}
    for name in FIXTURES:
        if name in old:
            new.setdefault(name, {**old[name], "relax": FIXTURES[name]["relax"]})
    lines = ",\n".join(json.dumps(new[name]) for name in FIXTURES if name in new)
    path.write_text(f'{{"triton": "{triton.__version__}", "fixtures": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes fuzz/corpus: small good files of every format, from which fuzzing starts. The checkpoints are those of
tests/data/checkpoints. Needs Python alone; running it again gives the same bytes."""
import io
import struct
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parent / "tests/data/checkpoints"


def put(target, name, data):
    path = HERE / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def npy(descr, shape, data, fortran=False, version=1):
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    size = 2 if version == 1 else 4
    room = -(8 + size + len(text) + 1) % 64
    text = (text + " " * room + "\n").encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(size, "little") + text + data


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def int8(values):
    return bytes(v % 256 for v in values)


put("npy", "f4", npy("<f4", (2, 3), floats(1, -2, 0.5, 3, 1e30, -0.0)))
put("npy", "f2_fortran", npy("<f2", (3, 2), bytes(range(12)), fortran=True))
put("npy", "i1_v2", npy("|i1", (2, 2, 2), int8(range(-4, 4)), version=2))
put("npy", "i1_v3", npy("|i1", (5,), int8(range(5)), version=3))
put("npy", "scalar", npy("<f4", (), floats(7)))
put("npy", "empty", npy("<f4", (0, 4), b""))
# No elements, and yet more than can be addressed along the other axes.
put("npy", "empty_huge", npy("<f4", (0, 1 << 40, 1 << 40), b""))


def operand(integers, shape, scales, scales_shape, bits, side, contracting, batch, sharded):
    one = lambda x: npy("|i1", (1,), int8([x]))
    axes = lambda a: npy("|i1", (len(a),), int8(a))
    return [
        ("integers", npy("|i1", shape, int8(integers))),
        ("scales", npy("<f4", scales_shape, floats(*scales))),
        ("bits", one(bits)), ("side", one(side)),
        ("contracting", axes(contracting)), ("batch", axes(batch)), ("sharded", one(sharded)),
    ]


for name, members in {
    "rhs": operand(range(-6, 6), (4, 3), (0.5, 0.25, 1), (1, 3), 8, 1, [0], [], 0),
    "lhs_batch": operand(range(12), (2, 2, 3), (0.5,) * 4, (2, 2, 1), 5, 0, [2], [0], 0),
    "rhs_sharded": operand([i % 7 for i in range(24)], (2, 4, 3), (0.5,) * 6, (2, 1, 3), 4, 1, [0], [], 1),
}.items():
    for kind, method in ("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for member, data in members:
                info = zipfile.ZipInfo(f"{member}.npy", (1980, 1, 1, 0, 0, 0))
                info.compress_type = method
                archive.writestr(info, data)
        put("frozen", f"{name}_{kind}", out.getvalue())
    put("frozen_members", name, b"".join(struct.pack("<H", len(d)) + d for _, d in members))

# Entries that all name the same bytes: how a small archive becomes a large one.
data = npy("|i1", (64,), bytes(64))
out = io.BytesIO()
with zipfile.ZipFile(out, "w") as archive:
    for i in range(8):
        archive.writestr(zipfile.ZipInfo(f"{i}.npy", (1980, 1, 1, 0, 0, 0)), data)
    for entry in archive.infolist():
        entry.header_offset = 0
put("frozen", "overlapping", out.getvalue())

for folder in ("bnb", "ct_asymmetric", "ct_dynamic", "ct_group", "ct_static", "floats"):
    parts = sorted(p for p in (CHECKPOINTS / folder).iterdir() if not p.name.startswith("expected"))
    data = b"".join(b"%%" + p.name.encode() + b"\n" + p.read_bytes() for p in parts)
    assert data.count(b"%%") == len(parts), folder
    put("checkpoint", folder, data)


def safetensors(header, data=b""):
    text = header.encode()
    return b"%%model.safetensors\n" + struct.pack("<Q", len(text)) + text + data


put("checkpoint", "tiny", safetensors('{"a.weight":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},'
                                       '"a.weight_scale":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
                                       bytes([1, 2, 255, 128]) + floats(0.5)))
put("checkpoint", "empty_huge", safetensors('{"a.weight":{"dtype":"F32","shape":[0,1099511627776,1099511627776],'
                                             '"data_offsets":[0,0]}}'))
put("checkpoint", "pattern", b'%%config.json\n{"quantization_config":{"quant_method":"compressed-tensors",'
    b'"format":"int-quantized","ignore":["re:(a{9}){9}.*[b-d]+$","lm_head"],"config_groups":{"g":{"targets":'
    b'["Linear"],"weights":{"num_bits":8,"type":"int","strategy":"channel","symmetric":true},'
    b'"input_activations":null}}}}'
    + (HERE / "corpus/checkpoint/tiny").read_bytes())

put("choices", "entries", b"4096 4096 8192 bf16-token>bf16 -> igemm_sm80:128x256x64 151.25\n"
                          b"1 8 16 i8-by16>i32 -> cublaslt:2 1.5\n")
put("choices", "whole", b"imma choices 3\nkey NVIDIA H200, driver 13000, imma 0.1.0\n"
                        b"16 4096 8192 f16-token>f16+f16 -> cublaslt:0 12\n")

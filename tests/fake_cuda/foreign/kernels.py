"""Kernels in Triton that another compiler turns into PTX for the emulated machine: what they compute is plain enough for
an integer oracle (tests/foreign.rs), what the compiler makes of it is not ours."""
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait)


@triton.jit
def dot_s8(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C[m, n] = A[m, k] B[n, k]^T in int32, ragged along every axis."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.int32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        x = tl.load(a + rows[:, None] * k + inner[None, :], (rows[:, None] < m) & (inner[None, :] < k), 0)
        y = tl.load(b + columns[None, :] * k + inner[:, None], (columns[None, :] < n) & (inner[:, None] < k), 0)
        sums = tl.dot(x, y, sums)
    tl.store(c + rows[:, None] * n + columns[None, :], sums, (rows[:, None] < m) & (columns[None, :] < n))


@triton.jit
def dot_s8_whole(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The same for whole tiles (m, n and k are multiples of 16 that the tile divides): copies of 16 bytes."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.int32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        x = tl.load(a + rows[:, None] * k + inner[None, :])
        y = tl.load(b + columns[None, :] * k + inner[:, None])
        sums = tl.dot(x, y, sums)
    tl.store(c + rows[:, None] * n + columns[None, :], sums)


@triton.jit
def dot_s8_changed(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """A is changed on its way (each value's low bit flipped), so it comes from registers."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.int32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        x = tl.load(a + rows[:, None] * k + inner[None, :])
        y = tl.load(b + columns[None, :] * k + inner[:, None])
        sums = tl.dot(x ^ 1, y, sums)
    tl.store(c + rows[:, None] * n + columns[None, :], sums)


@triton.jit
def dot_s8_onto(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C += A B^T: the sums start from what C holds, which may be next to the ends of int32."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.load(c + rows[:, None] * n + columns[None, :])
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        x = tl.load(a + rows[:, None] * k + inner[None, :])
        y = tl.load(b + columns[None, :] * k + inner[:, None])
        sums = tl.dot(x, y, sums)
    tl.store(c + rows[:, None] * n + columns[None, :], sums)


@triton.jit
def dot_s8_tma(a, b, c, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The product through tensor maps: a [m, k], b [n, k], c [m, n]."""
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    sums = tl.zeros((BM, BN), tl.int32)
    for start in range(0, k, BK):
        sums = tl.dot(a.load([row, start]), b.load([column, start]).T, sums)
    c.store([row, column], sums)


@triton.jit
def transpose_tma(a, b, R: tl.constexpr, C: tl.constexpr):
    """b [c, r] = a [r, c]^T of 32-bit words through tensor maps."""
    row, column = tl.program_id(0) * R, tl.program_id(1) * C
    b.store([column, row], a.load([row, column]).T)


@triton.jit
def reduce_tma(a, b, R: tl.constexpr, C: tl.constexpr):
    """b += a by reducing stores."""
    row = tl.program_id(0) * R
    b.atomic_add([0, 0], a.load([row, 0]))


@triton.jit
def conversions(a, b, n, BLOCK: tl.constexpr):
    """f32 to f16, bf16, int8 and int32, and back: 8 words each."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = at < n
    x = tl.load(a + at, ok, 0.0)
    bits = x.to(tl.int32, bitcast=True)
    tl.store(b + at, x.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32), ok)
    tl.store(b + n + at, x.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32), ok)
    small = tl.where((bits & 0x7f800000) < 0x4f000000, x, 0.0)
    tl.store(b + 2 * n + at, small.to(tl.int32), ok)
    tl.store(b + 3 * n + at, tl.where(tl.abs(small) < 128.0, small, 0.0).to(tl.int8).to(tl.int32), ok)
    tl.store(b + 4 * n + at, bits.to(tl.float32).to(tl.int32, bitcast=True), ok)
    half = bits.to(tl.int16).to(tl.float16, bitcast=True)
    tl.store(b + 5 * n + at, half.to(tl.float32).to(tl.int32, bitcast=True), ok)
    brain = bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    tl.store(b + 6 * n + at, brain.to(tl.float32).to(tl.int32, bitcast=True), ok)
    tl.store(b + 7 * n + at, bits.to(tl.uint8).to(tl.float32).to(tl.int32, bitcast=True), ok)


@triton.jit
def float_bits(a, b, c, n, BLOCK: tl.constexpr):
    """Operations of f32 whose every bit IEEE 754 gives: 8 words each."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = at < n
    x, y = tl.load(a + at, ok, 0.0), tl.load(b + at, ok, 1.0)
    tl.store(c + at, x + y, ok)
    tl.store(c + n + at, x * y, ok)
    tl.store(c + 2 * n + at, tl.fma(x, y, x), ok)
    tl.store(c + 3 * n + at, tl.div_rn(x, y), ok)
    tl.store(c + 4 * n + at, tl.sqrt_rn(tl.abs(x)), ok)
    tl.store(c + 5 * n + at, tl.floor(x), ok)
    tl.store(c + 6 * n + at, tl.maximum(x, y), ok)
    tl.store(c + 7 * n + at, tl.ceil(y), ok)


@triton.jit
def atomics(a, b, n, BLOCK: tl.constexpr):
    """A histogram of 16 counters, the largest, the smallest and the bits of all values, their sum, and a count of
    blocks that a lock keeps."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = at < n
    x = tl.load(a + at, ok, 0)
    one = at * 0
    tl.atomic_add(b + (x & 15), one + 1, ok)
    tl.atomic_max(b + 16 + one, x, ok)
    tl.atomic_min(b + 17 + one, x, ok)
    tl.atomic_or(b + 18 + one, x, ok)
    tl.atomic_and(b + 19 + one, x, ok)
    tl.atomic_xor(b + 20 + one, x, ok)
    tl.atomic_add(b + 21, tl.sum(tl.where(ok, x, 0), 0))
    while tl.atomic_cas(b + 22, 0, 1) != 0:
        pass
    tl.store(b + 23, tl.load(b + 23, volatile=True) + 1)
    tl.debug_barrier()
    tl.atomic_xchg(b + 22, 0)


@triton.jit
def scan(a, b, COLUMNS: tl.constexpr):
    """Prefix sums of a row, its prefix maxima, and the row sorted."""
    at = tl.arange(0, COLUMNS)
    x = tl.load(a + tl.program_id(0) * COLUMNS + at)
    row = b + tl.program_id(0) * 3 * COLUMNS
    tl.store(row + at, tl.cumsum(x, 0))
    tl.store(row + COLUMNS + at, tl.associative_scan(x, 0, larger))
    tl.store(row + 2 * COLUMNS + at, tl.sort(x))


@triton.jit
def larger(x, y):
    return tl.maximum(x, y)


@triton.jit
def quantise(a, q, scales, columns, BLOCK: tl.constexpr):
    """Rows of f32 to int8: scale = max |x| / 127, q = floor(x / scale + 0.5)."""
    at = tl.arange(0, BLOCK)
    row = tl.program_id(0)
    x = tl.load(a + row * columns + at, at < columns, 0.0)
    scale = tl.div_rn(tl.max(tl.abs(x), 0), 127.0)
    tl.store(scales + row, scale)
    tl.store(q + row * columns + at, tl.floor(tl.div_rn(x, scale) + 0.5).to(tl.int8), at < columns)


@gluon.jit
def fetch_tiles(a, b, c, xs, ys, full, empty, steps, row, column):
    """The loading warp: stage after stage, as soon as it is empty."""
    STAGES: gl.constexpr = xs.shape[0]
    BK: gl.constexpr = xs.shape[2]
    for i in range(steps):
        stage = i % STAGES
        mbarrier.wait(empty.index(stage), (i // STAGES & 1) ^ 1)
        mbarrier.expect(full.index(stage), a.nbytes_per_cta + b.nbytes_per_cta)
        tma.async_load(a, [row, i * BK], full.index(stage), xs.index(stage))
        tma.async_load(b, [column, i * BK], full.index(stage), ys.index(stage))


@gluon.jit
def multiply_tiles(a, b, c, xs, ys, full, empty, steps, row, column):
    """The multiplying warpgroup: waits for a stage, multiplies, gives it back."""
    STAGES: gl.constexpr = xs.shape[0]
    BM: gl.constexpr = xs.shape[1]
    BN: gl.constexpr = ys.shape[1]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 32])
    sums = gl.zeros((BM, BN), gl.int32, layout)
    for i in range(steps):
        stage = i % STAGES
        mbarrier.wait(full.index(stage), i // STAGES & 1)
        sums = warpgroup_mma(xs.index(stage), ys.index(stage).permute((1, 0)), sums)
        mbarrier.arrive(empty.index(stage))
    out = gl.allocate_shared_memory(gl.int32, [BM, BN], c.layout, sums)
    fence_async_shared()
    tma.async_store(c, [row, column], out)
    tma.store_wait(0)


@gluon.jit
def dot_s8_specialised(a, b, c, k, BM: gl.constexpr, BN: gl.constexpr, BK: gl.constexpr, STAGES: gl.constexpr):
    """The product with a warp that loads and a warpgroup that multiplies, a ring of stages between them."""
    row, column = gl.program_id(0) * BM, gl.program_id(1) * BN
    xs = gl.allocate_shared_memory(gl.int8, [STAGES, BM, BK], a.layout)
    ys = gl.allocate_shared_memory(gl.int8, [STAGES, BN, BK], b.layout)
    full = mbarrier.allocate_mbarrier(batch=STAGES)
    empty = mbarrier.allocate_mbarrier(batch=STAGES)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    steps = gl.cdiv(k, BK)
    arguments = (a, b, c, xs, ys, full, empty, steps, row, column)
    gl.warp_specialize([(multiply_tiles, arguments), (fetch_tiles, arguments)], [1], [24])


@gluon.jit
def dot_s8_multicast(a, b, c, k, BM: gl.constexpr, BN: gl.constexpr, BK: gl.constexpr):
    """Two blocks of a cluster share the rows of a tile; the columns' operand comes once, for both."""
    row, column = gl.program_id(0) * BM, gl.program_id(1) * BN
    x = gl.allocate_shared_memory(gl.int8, [BM, BK], a.layout)
    y = gl.allocate_shared_memory(gl.int8, [BN, BK], b.layout)
    full = mbarrier.allocate_mbarrier()
    mbarrier.init(full, count=1)
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 32], cga_layout=[[1, 0]])
    sums = gl.zeros((BM, BN), gl.int32, layout)
    for i in range(gl.cdiv(k, BK)):
        mbarrier.expect(full, a.nbytes_per_cta + b.nbytes_per_cta)
        gl.barrier(cluster=True)
        tma.async_load(a, [row, i * BK], full, x)
        tma.async_load(b, [column, i * BK], full, y, multicast=True)
        mbarrier.wait(full, i & 1)
        sums = warpgroup_mma(x, y.permute((1, 0)), sums)
        gl.barrier(cluster=True)
    out = gl.allocate_shared_memory(gl.int32, [BM, BN], c.layout, sums)
    fence_async_shared()
    tma.async_store(c, [row, column], out)
    tma.store_wait(0)


@gluon.jit
def turns_tma(a, b, R: gl.constexpr, C: gl.constexpr, STEPS: gl.constexpr):
    """b = a, tile by tile down the columns; the wait is asked for the step's number instead of its parity."""
    column = gl.program_id(0) * C
    tile = gl.allocate_shared_memory(gl.int32, [R, C], a.layout)
    full = mbarrier.allocate_mbarrier()
    mbarrier.init(full, count=1)
    for i in range(STEPS):
        mbarrier.expect(full, a.nbytes_per_cta)
        tma.async_load(a, [i * R, column], full, tile)
        mbarrier.wait(full, i)
        tma.async_store(b, [i * R, column], tile)
        tma.store_wait(0)


@gluon.jit
def half_written(a, b, n, BLOCK: gl.constexpr):
    """b = a by way of shared memory of which only one half is written, and only that half is used."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    shared: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    half = gl.program_id(0) * BLOCK + gl.arange(0, BLOCK, layout)
    place = gl.allocate_shared_memory(gl.int32, [2 * BLOCK], shared)
    place.slice(0, BLOCK).store(gl.load(a + half, half < n, 0))
    gl.barrier()
    at = gl.arange(0, 2 * BLOCK, layout)
    whole = gl.program_id(0) * BLOCK + at
    gl.store(b + whole, place.load(layout), (whole < n) & (at < BLOCK))

"""Errors to plant in the kernels: where, what, and which tests must notice. See run."""
from dataclasses import dataclass


@dataclass
class Mutant:
    name: str
    file: str  # in cuda/
    find: str
    replace: str
    tests: list
    sources: list = None  # what includes a header: the .cu files to compile
    equivalent: str = ""  # why nothing can notice; the tests must then pass
    unseen: str = ""  # what the emulated machine would have to know to notice for certain; it counts as not caught
    tried: bool = True  # whether what is said here was seen; a tenth leaves out what was not
    count: int = 1  # how often the text stands there; all are replaced

    def __post_init__(self):
        self.sources = self.sources or [self.file]


KERNELS = "kernels::every_kernel_gives_the_bits_of_the_numerics"
FUSED = "fused::fused_kernels_give_the_bits_of_the_cpu_and_of_the_pair"
IGEMM = "igemm::every_instance_gives_the_oracle_s_bits"
BATCH = "igemm::a_batch_is_its_products_one_by_one"
IGEMM90 = "igemm90::every_instance_gives_the_oracle_s_bits"
RANDOM90 = "igemm90::random_shapes_and_schedules"
PLAIN90 = "igemm90::plain_results_are_stored_by_tma"
OVERLAP90 = "igemm90::a_product_overlaps_the_kernel_that_quantises"
GROUPWISE = "groupwise::every_instance_gives_the_definitions_bits"

SM80, SM90, GROUPS = ["igemm_sm80.cu"], ["igemm_sm90.cu"], ["igemm_groupwise.cu"]

BLOCKS = "the order of global memory between blocks"

MUTANTS = [
    # What lies in memory as int32 sums.
    Mutant("epilogue_first_columns", "epilogue.cu", "(blockIdx.x * IMMA_EPILOGUE_THREADS + threadIdx.x)", "(threadIdx.x)",
           ["sizes::sums_of_many_columns"]),
    Mutant("epilogue_grid_swapped", "epilogue.cu", "(blockIdx.x * IMMA_EPILOGUE_THREADS", "(blockIdx.y * IMMA_EPILOGUE_THREADS",
           [IGEMM]),
    Mutant("epilogue_rows_of_one_grid", "epilogue.cu", "row < e.rows; row += gridDim.y", "row < e.rows; row += e.rows",
           ["sizes::more_rows_than_a_grid_has"]),
    Mutant("epilogue_first_product", "epilogue.cu", "const unsigned batch = blockIdx.z;", "const unsigned batch = 0;", [BATCH]),
    Mutant("epilogue_one_split", "epilogue.cu", "++split, from += p.split_stride)", "++split)", [IGEMM]),
    Mutant("epilogue_unaligned_vectors", "epilogue.cu", "if (p.vector && count == QUAD)", "if (count == QUAD)", [IGEMM]),
    Mutant("epilogue_q_gathers_once", "epilogue.cu",
           """        const unsigned kept = place(e, col, count).count;""",
           """        if (col >= IMMA_EPILOGUE_THREADS * QUAD) {
            break;
        }
        const unsigned kept = place(e, col, count).count;""", ["sizes::sums_of_many_columns"]),
    Mutant("epilogue_q_stores_once", "epilogue.cu",
           """        const Place to = place(e, col, count);
        store_quantized""",
           """        if (col >= IMMA_EPILOGUE_THREADS * QUAD) {
            break;
        }
        const Place to = place(e, col, count);
        store_quantized""", ["sizes::sums_of_many_columns"]),
    Mutant("epilogue_q_no_barrier", "epilogue.cu", "    __syncthreads();\n", "", ["sizes::sums_of_many_columns"]),
    # Tiles.
    Mutant("raster_last_band", "raster.cuh", "min(tiles_tall - first, rows)", "rows",
           ["sizes::more_tiles_than_a_band"], SM80 + SM90 + GROUPS),
    Mutant("raster_first_band", "raster.cuh", "return {first + within", "return {within", ["sizes::more_tiles_than_a_band"],
           SM80 + SM90 + GROUPS),
    Mutant("raster_band_height", "raster.cuh", "within / height}", "within / rows}", ["sizes::more_tiles_than_a_band"],
           SM80 + SM90 + GROUPS),
    # Rows.
    Mutant("rows_gather_held_only", "quantize_rows.cu",
           "chunk < split.chunks; chunk += threads) {\n        gather", "chunk < 0; chunk += threads) {\n        gather",
           ["sizes::the_largest_element_at_every_border"]),
    Mutant("rows_gather_skips_a_chunk", "quantize_rows.cu",
           "chunk = t + HELD * threads; chunk < split.chunks; chunk += threads) {\n        gather",
           "chunk = t + HELD * threads + 1; chunk < split.chunks; chunk += threads) {\n        gather",
           ["sizes::the_largest_element_at_every_border"]),
    Mutant("rows_gather_every_other", "quantize_rows.cu",
           "chunk += threads) {\n        gather", "chunk += 2 * threads) {\n        gather",
           ["sizes::the_largest_element_at_every_border"]),
    Mutant("rows_store_held_only", "quantize_rows.cu", "chunk < split.chunks; chunk += threads) {\n        store",
           "chunk < 0; chunk += threads) {\n        store", [KERNELS]),
    Mutant("rows_no_barrier", "quantize_rows.cu", "        __syncthreads();\n", "", [KERNELS]),
    Mutant("rows_found_of_the_first", "quantize_rows.cu", "const unsigned first = warp - t / 32;", "const unsigned first = 0;",
           [KERNELS]),
    Mutant("rows_edge_not_gathered", "quantize_rows.cu", "    gathered.add(edge_value);\n", "", [KERNELS]),
    Mutant("rows_draws_of_the_first", "quantize_rows.cu", "const uint64_t index = row * p.cols;", "const uint64_t index = 0;",
           [KERNELS]),
    Mutant("rows_padding_kept", "quantize_rows.cu", "output[col] = 0;", "output[col] = output[col];", [KERNELS], count=2),
    Mutant("given_scale_unreduced", "quantize_rows.cu", "    reduce_row(gathered, found);\n    if (live && t == 0)", "    if (live && t == 0)",
           [KERNELS]),
    Mutant("given_held_only", "quantize_rows.cu", "first < split.chunks; first += HELD * threads", "first < split.chunks; first += split.chunks",
           [KERNELS]),
    Mutant("static_rows_of_one_grid", "quantize_static.cu", "row += gridDim.y", "row += p.rows",
           ["sizes::more_rows_than_a_grid_has"]),
    Mutant("static_edges_by_every_block", "quantize_static.cu", "if (blockIdx.x == 0 && edge", "if (edge", [KERNELS],
           equivalent="every block of a row writes the same bytes to its edges"),
    Mutant("static_one_block", "quantize_static.cu", "uint64_t(blockIdx.x) * (THREADS * VECTORS) + t", "t",
           [KERNELS]),
    Mutant("cols_one_warp", "quantize_cols.cu", "max(column.word[w], found[w][warp][t])", "max(column.word[w], found[w][0][t])",
           [KERNELS]),
    Mutant("cols_first_slab_again", "quantize_cols.cu", "const uint64_t k = first + r;", "const uint64_t k = r;", [KERNELS]),
    Mutant("cols_slab_no_barrier", "quantize_cols.cu", "        __syncthreads();\n    }\n}", "    }\n}", [KERNELS]),
    Mutant("cols_slab_read_early", "quantize_cols.cu", "        __syncthreads();\n        uint32_t column[16];",
           "        uint32_t column[16];", [KERNELS]),
    Mutant("cols_multipliers_early", "quantize_cols.cu", "    __syncthreads();\n    float multiplier[V];", "    float multiplier[V];",
           [KERNELS]),
    Mutant("cols_held_beyond", "quantize_cols.cu", "const uint4 raw = k < p.held_rows ? held", "const uint4 raw = k <= p.held_rows ? held",
           [KERNELS]),
    Mutant("transpose_read_early", "transpose_s8.cu", "        __syncthreads();\n        const unsigned rows16", "        const unsigned rows16",
           [KERNELS]),
    Mutant("transpose_edge_as_whole", "transpose_s8.cu", "if (col + 16 <= p.cols && rein", "if (rein", [KERNELS]),
    Mutant("transpose_padding", "transpose_s8.cu", "row < p.rows && col < p.cols", "col < p.cols", [KERNELS]),
    Mutant("dequantize_rows_of_one_grid", "dequantize.cu", "row += gridDim.y", "row += p.rows",
           ["sizes::more_rows_than_a_grid_has"]),
    # Fused.
    Mutant("rmsnorm_held_only", "rmsnorm_quantize.cu", "group = warp + HELD * warps; group < groups", "group = warp + HELD * warps; group < 0",
           [FUSED]),
    Mutant("rmsnorm_gather_skips_a_chunk", "rmsnorm_quantize.cu",
           "chunk = t + HELD * threads; chunk < chunks; chunk += threads) {\n        gather",
           "chunk = t + HELD * threads + 1; chunk < chunks; chunk += threads) {\n        gather",
           ["sizes::the_largest_element_at_every_border"]),
    Mutant("rows_tree_no_barrier", "row_chunks.cuh", "        count = above;\n        __syncthreads();", "        count = above;",
           [FUSED], ["rmsnorm_quantize.cu"]),
    Mutant("rows_tree_first_no_barrier", "row_chunks.cuh", "threadIdx.x % 32;\n    __syncthreads();", "threadIdx.x % 32;",
           [FUSED], ["rmsnorm_quantize.cu"]),
    Mutant("chunk_beyond_the_row", "row_chunks.cuh", "        if (first + j < cols) {\n            word", "        {\n            word", [FUSED],
           ["rmsnorm_quantize.cu", "silu_mul_quantize.cu"]),
    # mma.sync.
    Mutant("mma_wait_one_less", "igemm_mma.cuh", "ptx::cp_async_wait<T::STAGES - 2>();\n                __syncthreads",
           "ptx::cp_async_wait<T::STAGES - 1>();\n                __syncthreads", [IGEMM], SM80),
    Mutant("mma_no_barrier", "igemm_mma.cuh", "ptx::cp_async_wait<T::STAGES - 2>();\n                __syncthreads();",
           "ptx::cp_async_wait<T::STAGES - 2>();", [IGEMM], SM80),
    Mutant("mma_strips_over_stages", "igemm_mma.cuh", "    ptx::cp_async_wait<0>();\n    __syncthreads();\n", "    ptx::cp_async_wait<0>();\n",
           [IGEMM], SM80),
    Mutant("mma_rows_beyond", "igemm_mma.cuh", "first_row + row < rows && at < k_end", "at < k_end", [IGEMM], SM80),
    Mutant("mma_k_beyond", "igemm_mma.cuh", "inside ? min(k_end - at, 16u) : 0", "inside ? 16u : 0", [IGEMM], SM80),
    Mutant("mma_other_swizzle", "igemm_mma.cuh", "row & 7 : (row >> 1) & 3", "row >> 1 & 7 : row & 3", [IGEMM], SM80,
           equivalent="what is written and what is read agree; banks alone differ"),
    Mutant("mma_last_part_longer", "igemm_mma.cuh", "min(p.k, part.k_begin + p.k_split)", "p.k", [IGEMM], SM80),
    Mutant("mma_batch_of_the_first", "igemm_mma.cuh", "part.w = p.w + part.batch * p.w_batch", "part.w = p.w", [BATCH], SM80),
    Mutant("mma_partial_unaligned", "igemm_mma.cuh", "if (e.cols % QUAD == 0)", "if (count == QUAD)", [IGEMM], SM80),
    Mutant("mma_lanes_fill_unseen", "igemm_mma.cuh", "fill_strip(strip, lane, pass, acc);\n        __syncwarp();",
           "fill_strip(strip, lane, pass, acc);", [IGEMM], SM80),
    Mutant("mma_lanes_fill_early", "igemm_mma.cuh", "pass * 16, part.n0 + warp.n);\n        __syncwarp();",
           "pass * 16, part.n0 + warp.n);", [IGEMM], SM80),
    Mutant("groups_fold_beyond_k", "igemm_mma.cuh", "if (begin < p.k && (", "if ((", [GROUPWISE], GROUPS),
    Mutant("groups_last_not_folded", "igemm_mma.cuh", " || end >= p.k)", ")", [GROUPWISE], GROUPS),
    # wgmma.
    Mutant("ring_stage_read_in_flight", "igemm_sm90.cu", "ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();", [RANDOM90]),
    Mutant("ring_released_before_read", "igemm_sm90.cu", "release<T>(ring, (at - 1) % T::STAGES);\n        }", "release<T>(ring, at % T::STAGES);\n        }",
           [RANDOM90]),
    Mutant("ring_first_stage_twice", "igemm_sm90.cu", "        if (step > 0) {\n", "        if (true) {\n", [RANDOM90]),
    Mutant("ring_full_parity", "igemm_sm90.cu", "ring.full(s), at / T::STAGES % 2)", "ring.full(s), 0)", [IGEMM90]),
    Mutant("ring_empty_parity", "ring_sm90.cuh", "ring.empty(s), at / T::STAGES % 2 ^ 1)", "ring.empty(s), 1)", [IGEMM90], SM90),
    Mutant("ring_turn_not_waited", "igemm_sm90.cu", "ptx::mbarrier_wait(ring.turn(consumer), turn / 2 % 2 ^ (consumer == 0));", "",
           [IGEMM90]),
    Mutant("ring_readers", "igemm_sm90.cu", "ring.empty(s), T::READERS * T::CLUSTER)", "ring.empty(s), T::CLUSTER)", [IGEMM90]),
    Mutant("ring_init_no_fence", "igemm_sm90.cu", "    ptx::fence_mbarrier_init();\n", "", [RANDOM90]),
    Mutant("ring_leaves_early", "igemm_sm90.cu", "        __syncwarp();\n        ptx::cluster_arrive();\n        ptx::cluster_wait();\n",
           "", [IGEMM90]),
    Mutant("ring_boxes_left", "igemm_sm90.cu", "        ptx::bulk_wait_read<0>();\n", "", [PLAIN90]),
    Mutant("ring_consumers_dont_wait", "igemm_sm90.cu", "        ptx::griddepcontrol_wait();\n        consume", "        consume",
           [OVERLAP90]),
    Mutant("ring_producer_does_not_wait", "ring_sm90.cuh", "    ptx::griddepcontrol_wait();\n", "", [OVERLAP90], SM90),
    Mutant("ring_weights_always_ready", "ring_sm90.cuh", "if (p.weights_ready && id", "if (id", ["sizes::weights_quantised_right_before"], SM90),
    Mutant("ring_ahead_too_far", "ring_sm90.cuh", "ahead < min(item.steps, T::STAGES)", "ahead < T::STAGES", [IGEMM90], SM90),
    Mutant("ring_bytes_expected", "ring_sm90.cuh", "ring.full(s), T::STAGE_BYTES)", "ring.full(s), T::TALL_BYTES)", [RANDOM90], SM90),
    Mutant("ring_half_of_the_wide", "ring_sm90.cuh", "int(item.wide + rank * PART)", "int(item.wide)", [IGEMM90], SM90),
    Mutant("boxes_overwritten", "finish_tensor.cuh", "ptx::bulk_wait_read<1>();", "ptx::bulk_wait_read<2>();", [PLAIN90], SM90),
    Mutant("boxes_no_fence", "finish_tensor.cuh", "        ptx::fence_proxy_async();\n", "", [PLAIN90], SM90),
    Mutant("boxes_lanes_unseen", "finish_tensor.cuh", "ptx::fence_proxy_async();\n        __syncwarp();", "ptx::fence_proxy_async();", [PLAIN90],
           SM90),
    Mutant("boxes_lanes_early", "finish_tensor.cuh", "ptx::bulk_wait_read<1>();\n        }\n        __syncwarp();",
           "ptx::bulk_wait_read<1>();\n        }", [PLAIN90], SM90),
    Mutant("boxes_other_swizzle", "finish_tensor.cuh", "const unsigned chunk = j ^ r;", "const unsigned chunk = j;", [PLAIN90], SM90),
    Mutant("strips_lanes_unseen", "finish_item.cuh", "fill_strip<T>(strip, share.lane, pass, sum);\n        __syncwarp();",
           "fill_strip<T>(strip, share.lane, pass, sum);", [RANDOM90], SM90),
    Mutant("strips_lanes_early", "finish_item.cuh", "        }\n        __syncwarp();\n    }\n}\n\n// Counts", "        }\n    }\n}\n\n// Counts",
           [RANDOM90], SM90),
    Mutant("parts_added_plainly", "finish_item.cuh",
           "atomicAdd(p.sums + uint64_t(row0 + r) * e.cols + col0 + c, strip[r * T::STRIP_PITCH + c]);",
           "p.sums[uint64_t(row0 + r) * e.cols + col0 + c] += strip[r * T::STRIP_PITCH + c];", [RANDOM90], SM90, unseen=BLOCKS),
    Mutant("parts_one_less", "finish_item.cuh", "*flag == splits - 1;", "*flag == splits - 2;", [RANDOM90], SM90),
    Mutant("parts_counter_kept", "finish_item.cuh", "        *arrived = 0;\n", "", ["igemm90::a_split_product_is_captured_and_replayed"], SM90),
    Mutant("parts_sums_kept", "finish_plain.cuh", "        __stcg(reinterpret_cast<int4*>(from), make_int4(0, 0, 0, 0));\n", "",
           [RANDOM90], SM90),
    Mutant("parts_no_threadfence", "finish_item.cuh", "    __threadfence();\n    ptx::bar_sync(1 + consumer, 128);\n    if",
           "    ptx::bar_sync(1 + consumer, 128);\n    if", [RANDOM90], SM90, unseen=BLOCKS),
    Mutant("parts_no_barrier", "finish_item.cuh", "    __threadfence();\n    ptx::bar_sync(1 + consumer, 128);\n    if",
           "    __threadfence();\n    if", [RANDOM90], SM90, unseen=BLOCKS),
    Mutant("parts_read_nc", "finish_plain.cuh", "const int4 v = __ldcg(reinterpret_cast<const int4*>(from));",
           "const int4 v = __ldg(reinterpret_cast<const int4*>(from));", [RANDOM90], SM90, unseen=BLOCKS),
    Mutant("dependents_never_launched", "igemm_sm90.cu", "            ptx::griddepcontrol_launch_dependents();\n", "", [OVERLAP90],
           equivalent="the next kernel then starts when this one ends: later, not otherwise"),
]
# Written, and not planted yet.
UNTRIED = {
    "strips_lanes_unseen", "strips_lanes_early", "parts_added_plainly", "parts_one_less", "parts_counter_kept", "parts_sums_kept",
    "parts_no_threadfence", "parts_no_barrier", "parts_read_nc", "dependents_never_launched",
}
for mutant in MUTANTS:
    mutant.tried = mutant.name not in UNTRIED
assert len({m.name for m in MUTANTS}) == len(MUTANTS), "two of one name"

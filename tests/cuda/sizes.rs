//! Sizes that models have and other tests don't: more columns than a block finishes, more tiles than a band of the walk, rows
//! longer than registers hold, more rows than a grid has. Few, as each costs the emulated machine seconds.

use crate::support::{device, same, stream, Placed, Random, Type};
use crate::{groupwise, igemm, igemm90};
use half::{bf16, f16};
use imma::cuda::kernels::igemm_sm90::{Instance, TensorMaps};
use imma::cuda::kernels::{self, igemm_sm80, igemm_sm90, Dequantize, GemmOperands, OnDevice};
use imma::cuda::{DeviceOutput, Matrix};
use imma::epilogue::{Output, Scales};
use imma::numerics;
use imma::rounding::Rounding;
use imma::{reference, Epilogue};
use ndarray::{Array2, ArrayView1, ArrayView2};

/// Sums in memory whose rows several blocks of the epilogue finish, or one block in several rounds.
#[test]
fn sums_of_many_columns() {
    let random = &mut Random(41);
    let tile = igemm_sm80::TILES.iter().min_by_key(|tile| tile.m).unwrap();
    igemm::check_product::<f32>(random, tile, 2, [6, 2100, 40], false);
    igemm::check_product::<bf16>(random, tile, 3, [5, 2306, 70], true);
    igemm::check_product::<i32>(random, tile, 2, [3, 1029, 40], false);
}

/// Tiles are walked in bands of eight along the tall side: two bands, the second of which is lower.
#[test]
fn more_tiles_than_a_band() {
    let random = &mut Random(42);
    for tile in [&igemm_sm80::TILES[0], igemm_sm80::TILES.last().unwrap()] {
        igemm::check_product::<f32>(random, tile, 1, [9 * tile.m + 3, 2 * tile.n + 5, 33], false);
    }
    let tile = &kernels::igemm_groupwise::TILES[0];
    groupwise::check::<f32>(random, tile, 32, [9 * tile.m + 3, 2 * tile.n + 6, 64]);
    if !igemm90::runs() {
        return;
    }
    for name in ["64x64", "64x256_cluster", "swapped_64x8"] {
        let tile = kernels::igemm_sm90::by_name(name).unwrap();
        let (m, n) = tile.rows();
        let tall = 9 * tile.cluster;
        let shape = match tile.swapped {
            true => [2 * m + 3, tall * n + 5, 40],
            false => [tall * m + 3, 2 * n + 5, 40],
        };
        igemm90::check::<f32>(random, Instance::new(tile), shape);
    }
}

/// Small values, one a row that is larger than all others by far: what no thread gathered would be missed.
fn peaks<T: Type>(random: &mut Random, cols: usize, at: &[usize]) -> Vec<T> {
    let mut data: Vec<T> = (0..at.len() * cols)
        .map(|_| T::from_f32(random.unit() * 0.1))
        .collect();
    for (row, &col) in at.iter().enumerate() {
        data[row * cols + col] = T::from_f32(if row % 2 == 0 { 50.0 } else { -50.0 });
    }
    data
}

/// Where regions of a row begin and end: what a round of the threads loads, what they hold, what is read again, the edges.
fn borders<T>(cols: usize) -> Vec<usize> {
    // 1024 threads, vectors of 16 bytes, four of them held.
    let round = 1024 * 16 / size_of::<T>();
    let mut at = vec![0, 1, cols - 2, cols - 1];
    for i in [1, 3, 4, 5] {
        at.extend([i * round - 1, i * round, i * round + 5]);
    }
    at
}

fn rows_with_peaks<T: Type>(seed: u64) {
    let (device, stream, random) = (device(), stream(), &mut Random(seed));
    let cols = 1024 * 16 / size_of::<T>() * 6 + 9;
    let at = borders::<T>(cols);
    let data: Vec<T> = peaks(random, cols, &at);
    // Aligned rows, and rows of which each starts elsewhere.
    for (offset, stride) in [(0, cols.next_multiple_of(16)), (3, cols + 2)] {
        let input = Placed::at(
            &stream,
            &data,
            [at.len(), cols],
            T::from_f32(f32::NAN),
            offset,
            stride,
        );
        let mut output = Placed::filled(&stream, random, at.len(), cols, 0x55i8, 0x66);
        let mut scales = Placed::filled(&stream, random, 1, at.len(), -1.0f32, -2.0);
        let (from, to) = (input.geometry(), output.geometry());
        kernels::quantize_rows(
            device,
            &stream,
            from.over(&input.view()),
            to.over(&mut output.view_mut()),
            &mut scales.view_mut(),
            Rounding::NearestEven,
        )
        .unwrap();
        let bound = numerics::bound(T::from_f32(50.0).to_f32());
        for (row, scale) in scales.read(&stream).into_iter().enumerate() {
            assert_eq!(
                scale,
                numerics::scale(bound),
                "{} largest at {}",
                T::DTYPE,
                at[row]
            );
        }
        let multiplier = numerics::multiplier(bound);
        let quantize = |x: &T| Rounding::NearestEven.quantize(x.to_f32(), multiplier, 0);
        let want: Vec<i8> = data.iter().map(quantize).collect();
        assert!(
            output.read(&stream) == want,
            "{} at {offset}, stride {stride}",
            T::DTYPE
        );
    }
}

/// Rows that registers don't hold, the largest element at every border of a region, with each kernel that looks for it.
#[test]
fn the_largest_element_at_every_border() {
    rows_with_peaks::<f32>(43);
    rows_with_peaks::<f16>(44);
    let (device, stream, random) = (device(), stream(), &mut Random(45));
    let cols = 4096 * 6 + 9;
    let at = borders::<f32>(cols);
    let rows = at.len();
    let data: Vec<f32> = peaks(random, cols, &at);
    let x = ArrayView2::from_shape((rows, cols), &data).unwrap();
    let ones = vec![1.0f32; cols];
    let input = stream.clone_htod(&data).unwrap();
    let weights = stream.clone_htod(&ones).unwrap();
    let mut q = stream.alloc_zeros::<i8>(rows * cols).unwrap();
    let mut scales = stream.alloc_zeros::<f32>(rows).unwrap();
    for silu in [false, true] {
        let (from, to) = (
            Matrix::new(&input, rows, cols),
            Matrix::new(&mut q, rows, cols),
        );
        let expected = if silu {
            let up = Matrix::new(&input, rows, cols);
            kernels::silu_mul_quantize(device, &stream, from, up, to, &mut scales).unwrap();
            imma::ops::silu_mul_quantize(x, x).unwrap()
        } else {
            kernels::rmsnorm_quantize(device, &stream, from, (&weights, 1e-6), to, &mut scales)
                .unwrap();
            imma::ops::rmsnorm_quantize(x, ArrayView1::from(&ones), 1e-6).unwrap()
        };
        let found = stream.clone_dtoh(&scales).unwrap();
        for (row, (found, want)) in found.iter().zip(expected.scales()).enumerate() {
            assert!(same(*found, *want), "silu: {silu}, largest at {}", at[row]);
        }
        let found = stream.clone_dtoh(&q).unwrap();
        assert!(found == expected.data().as_slice().unwrap(), "silu: {silu}");
    }
}

/// Rows beyond the 65,535 blocks that a grid has along y.
#[test]
fn more_rows_than_a_grid_has() {
    let (device, stream, random) = (device(), stream(), &mut Random(46));
    // With a gap between rows: a dense matrix is one long row to elementwise kernels.
    let (rows, cols, stride) = (65_535 + 6, 3, 4);
    let data: Vec<f32> = (0..rows * cols).map(|_| random.unit()).collect();
    let input = Placed::at(&stream, &data, [rows, cols], f32::MAX, 0, stride);
    let mut q = Placed::at(
        &stream,
        &vec![0x55i8; rows * cols],
        [rows, cols],
        0x66,
        0,
        stride,
    );
    let (from, to) = (input.geometry(), q.geometry());
    kernels::quantize_static(
        device,
        &stream,
        from.over(&input.view()),
        to.over(&mut q.view_mut()),
        0.013,
        Rounding::NearestEven,
    )
    .unwrap();
    let quantize = |x: &f32| Rounding::NearestEven.quantize(*x, 1.0 / 0.013, 0);
    let want: Vec<i8> = data.iter().map(quantize).collect();
    assert!(q.read(&stream) == want, "quantize_static");

    let poison = vec![-1.0f32; rows * cols];
    let mut floats = Placed::at(&stream, &poison, [rows, cols], f32::MAX, 0, stride);
    let (from, to) = (q.geometry(), floats.geometry());
    let how = Dequantize::default();
    kernels::dequantize(
        device,
        &stream,
        from.over(&q.view()),
        to.over(&mut floats.view_mut()),
        how,
    )
    .unwrap();
    let want: Vec<f32> = want.iter().map(|q| f32::from(*q)).collect();
    assert!(floats.read(&stream) == want, "dequantize");

    let row_scales = stream.clone_htod(&data[..rows]).unwrap();
    let sums: Vec<i32> = (0..rows * cols)
        .map(|_| random.next() as i32 >> 12)
        .collect();
    let from = stream.clone_htod(&sums).unwrap();
    let mut out = stream.clone_htod(&vec![-1.0f32; rows * cols]).unwrap();
    let epilogue = Epilogue::<OnDevice<'_>>::to(Output::F32)
        .with_row_scales(Scales::PerVector((&row_scales).into()));
    let to = Matrix::new(DeviceOutput::F32(out.as_view_mut()), rows, cols);
    kernels::epilogue(
        device,
        &stream,
        Matrix::new(&from, rows, cols),
        &epilogue,
        None,
        to,
    )
    .unwrap();
    let finished = |i: usize| sums[i] as f32 * data[i / cols];
    let found = stream.clone_dtoh(&out).unwrap();
    assert!(
        (0..rows * cols).all(|i| same(found[i], finished(i))),
        "epilogue"
    );
}

/// Weights that the kernel right before wrote, and that nobody calls ready: the product waits for them too.
#[test]
fn weights_quantised_right_before() {
    if !igemm90::runs() {
        return;
    }
    let (device, stream, random) = (device(), stream(), &mut Random(47));
    let [m, n, k] = [20, 70, 640];
    let a = Array2::from_shape_simple_fn((m, k), || random.next() as i8);
    let y = Array2::from_shape_simple_fn((k, n), || random.unit());
    let device_a = stream.clone_htod(a.as_slice().unwrap()).unwrap();
    let device_y = stream.clone_htod(y.as_slice().unwrap()).unwrap();
    for tile in kernels::igemm_sm90::TILES {
        let mut w = stream.alloc_zeros::<i8>(n * k).unwrap();
        let mut scales = stream.alloc_zeros::<f32>(n).unwrap();
        let mut out = stream.alloc_zeros::<i32>(m * n).unwrap();
        let (from, to) = (Matrix::new(&device_y, k, n), Matrix::new(&mut w, n, k));
        kernels::quantize_cols(
            device,
            &stream,
            from,
            to,
            &mut scales,
            Rounding::NearestEven,
        )
        .unwrap();
        let instance = Instance {
            weights_ready: false,
            ..Instance::new(tile)
        };
        let operands = GemmOperands::new(
            Matrix::new(device_a.as_view(), m, k),
            Matrix::new(w.as_view(), n, k),
            Matrix::new((&mut out).into(), m, n),
            Epilogue::<OnDevice<'_>>::to(Output::Raw),
        );
        igemm_sm90(device, &stream, instance, &TensorMaps::default(), operands).unwrap();
        let w = Array2::from_shape_vec((n, k), stream.clone_dtoh(&w).unwrap()).unwrap();
        let want = reference::matmul_i32(a.view(), w.t());
        assert!(
            stream.clone_dtoh(&out).unwrap() == want.as_slice().unwrap(),
            "{}",
            tile.name
        );
    }
}

//! The kernels that run right before a product, `rmsnorm_quantize` and `silu_mul_quantize`: bit-equal with the CPU and
//! with the unfused pair, over ragged shapes, every element type, odd places in memory, rows that are no numbers.

use crate::support::{self, device, floats, same, stream, Placed, Random, Type};
use half::{bf16, f16};
use imma::cuda::cudarc::driver::CudaStream;
use imma::cuda::{kernels, Matrix};
use imma::rounding::Rounding;
use imma::Error;
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2};
use std::sync::Arc;

const EPSILON: f32 = 1e-5;

/// Around every boundary: chunks (4, 8), groups of 32 chunks (128, 256), warps and blocks of rows, the 32 sums that one
/// warp takes (4096, 8192), what registers hold (16,384 of f32, 32,768 of 16 bits), a third level of the tree (262,144).
fn shapes(random: &mut Random, large: usize) -> Vec<(usize, usize)> {
    let mut shapes = vec![
        (1, 1),
        (3, 0),
        (0, 5),
        (5, 7),
        (2, 8),
        (9, 129),
        (4, 257),
        (3, 1024),
        (1, 4100),
        (2, 8200),
        (2, 33_000),
        (1, large),
    ];
    shapes.extend((0..14).map(|_| (1 + random.below(9), 1 + random.below(900))));
    shapes
}

fn view<T>(data: &[T], rows: usize, cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, cols), data).unwrap()
}

/// Where what a kernel wrote differs from what it should have.
fn compare<T: Copy + std::fmt::Debug>(
    what: &str,
    case: &str,
    found: &[T],
    expected: &[T],
    equal: impl Fn(T, T) -> bool,
    wrong: &mut Vec<String>,
) {
    assert_eq!(found.len(), expected.len(), "{case}: {what}");
    let differ: Vec<_> = (0..found.len())
        .filter(|i| !equal(found[*i], expected[*i]))
        .collect();
    if let Some(i) = differ.first() {
        let (count, found, expected) = (differ.len(), found[*i], expected[*i]);
        wrong.push(format!(
            "{case}: {what}[{i}] is {found:?}, expected {expected:?} ({count} differ)"
        ));
    }
}

/// Integers and scales that a kernel is to write, and rows that are wider than its input.
struct Output {
    integers: Placed<i8>,
    scales: Placed<f32>,
    cols: usize,
}

impl Output {
    fn new(stream: &Arc<CudaStream>, random: &mut Random, rows: usize, cols: usize) -> Self {
        let padded = cols + random.pick(&[0, 0, 1, 16 - cols % 16]);
        Output {
            integers: Placed::filled(stream, random, rows, padded, 0x55, 0x66),
            scales: Placed::filled(stream, random, 1, rows, -1.0, -2.0),
            cols,
        }
    }

    fn check(
        &self,
        stream: &Arc<CudaStream>,
        case: &str,
        integers: &[i8],
        scales: &[f32],
        wrong: &mut Vec<String>,
    ) {
        let padded = self.integers.cols;
        let mut expected = vec![0; self.integers.rows * padded];
        for r in 0..self.integers.rows {
            expected[r * padded..][..self.cols]
                .copy_from_slice(&integers[r * self.cols..][..self.cols]);
        }
        let found = self.integers.read(stream);
        compare("output", case, &found, &expected, |a, b| a == b, wrong);
        let found = self.scales.read(stream);
        compare("scales", case, &found, scales, same, wrong);
    }
}

/// What `quantize_rows` makes of a matrix of T: the second half of each pair.
fn quantized<T: Type>(
    stream: &Arc<CudaStream>,
    data: &[T],
    rows: usize,
    cols: usize,
) -> (Vec<i8>, Vec<f32>) {
    let input = stream.clone_htod(data).unwrap();
    let mut integers = stream.alloc_zeros::<i8>(rows * cols).unwrap();
    let mut scales = stream.alloc_zeros::<f32>(rows).unwrap();
    let nearest = Rounding::NearestEven;
    let (from, to) = (
        Matrix::new(&input, rows, cols),
        Matrix::new(&mut integers, rows, cols),
    );
    kernels::quantize_rows(device(), stream, from, to, &mut scales, nearest).unwrap();
    (
        stream.clone_dtoh(&integers).unwrap(),
        stream.clone_dtoh(&scales).unwrap(),
    )
}

fn rmsnorm<T: Type>(large: usize, wrong: &mut Vec<String>) {
    let (device, stream, random) = (device(), stream(), &mut Random(11));
    for (rows, cols) in shapes(random, large) {
        let data: Vec<T> = floats(random, rows, cols, true);
        let weight: Vec<T> = (0..cols)
            .map(|_| T::from_f32(random.unit() + 1.0))
            .collect();
        let gap = T::from_f32(f32::NAN);
        // NaN is not equal to itself, so what lies around the residual is a number.
        let number = T::from_f32(-3.0);
        let input = Placed::new(&stream, random, &data, rows, cols, gap);
        let weights = Placed::new(&stream, random, &weight, 1, cols, gap);
        let (source, weight_view) = (input.geometry(), weights.view());

        let mut output = Output::new(&stream, random, rows, cols);
        let case = format!(
            "rmsnorm {} {input}, weights {weights} -> {}",
            T::DTYPE,
            output.integers
        );
        let target = output.integers.geometry();
        kernels::rmsnorm_quantize(
            device,
            &stream,
            source.over(&input.view()),
            (&weight_view, EPSILON),
            target.over(&mut output.integers.view_mut()),
            &mut output.scales.view_mut(),
        )
        .unwrap_or_else(|error| panic!("{case}: {error}"));
        let (x, w) = (view(&data, rows, cols), ArrayView1::from(&weight));
        let expected = imma::ops::rmsnorm_quantize(x, w, EPSILON).unwrap();
        let integers = expected.data().as_slice().unwrap();
        output.check(&stream, &case, integers, expected.scales(), wrong);
        if rows * cols > 0 {
            let y = imma::ops::rmsnorm(x, w, EPSILON).unwrap();
            let (integers, scales) = quantized(&stream, y.as_slice().unwrap(), rows, cols);
            output.check(
                &stream,
                &format!("pair of {case}"),
                &integers,
                &scales,
                wrong,
            );
        }

        let mut sum: Vec<T> = (0..rows * cols)
            .map(|_| T::from_f32(random.unit() * 2.0))
            .collect();
        let mut residual = Placed::new(&stream, random, &sum, rows, cols, number);
        let mut output = Output::new(&stream, random, rows, cols);
        let case = format!("{case}, residual {residual} -> {}", output.integers);
        let (target, place) = (output.integers.geometry(), residual.geometry());
        kernels::add_rmsnorm_quantize(
            device,
            &stream,
            source.over(&input.view()),
            place.over(&mut residual.view_mut()),
            (&weight_view, EPSILON),
            target.over(&mut output.integers.view_mut()),
            &mut output.scales.view_mut(),
        )
        .unwrap_or_else(|error| panic!("{case}: {error}"));
        let to = ArrayViewMut2::from_shape((rows, cols), &mut sum).unwrap();
        let expected = imma::ops::add_rmsnorm_quantize(x, to, w, EPSILON).unwrap();
        let found = residual.read(&stream);
        compare("residual", &case, &found, &sum, same, wrong);
        let integers = expected.data().as_slice().unwrap();
        output.check(&stream, &case, integers, expected.scales(), wrong);
        // The same as the norm of the sum that was stored.
        let pair = imma::ops::rmsnorm_quantize(view(&sum, rows, cols), w, EPSILON).unwrap();
        let integers = pair.data().as_slice().unwrap();
        output.check(
            &stream,
            &format!("pair of {case}"),
            integers,
            pair.scales(),
            wrong,
        );
    }
}

fn silu_mul<T: Type>(wrong: &mut Vec<String>) {
    let (device, stream, random) = (device(), stream(), &mut Random(12));
    for (rows, cols) in shapes(random, 70_001) {
        let gate: Vec<T> = floats(random, rows, cols, true);
        let up: Vec<T> = floats(random, rows, cols, true);
        let gap = T::from_f32(f32::NAN);
        let gates = Placed::new(&stream, random, &gate, rows, cols, gap);
        let ups = Placed::new(&stream, random, &up, rows, cols, gap);
        let mut output = Output::new(&stream, random, rows, cols);
        let case = format!(
            "silu_mul {} {gates}, {ups} -> {}",
            T::DTYPE,
            output.integers
        );
        let (first, second) = (gates.geometry(), ups.geometry());
        let target = output.integers.geometry();
        kernels::silu_mul_quantize(
            device,
            &stream,
            first.over(&gates.view()),
            second.over(&ups.view()),
            target.over(&mut output.integers.view_mut()),
            &mut output.scales.view_mut(),
        )
        .unwrap_or_else(|error| panic!("{case}: {error}"));
        let (gate, up) = (view(&gate, rows, cols), view(&up, rows, cols));
        let expected = imma::ops::silu_mul_quantize(gate, up).unwrap();
        let integers = expected.data().as_slice().unwrap();
        output.check(&stream, &case, integers, expected.scales(), wrong);
        if rows * cols > 0 {
            let y = imma::ops::silu_mul(gate, up).unwrap();
            let (integers, scales) = quantized(&stream, y.as_slice().unwrap(), rows, cols);
            output.check(
                &stream,
                &format!("pair of {case}"),
                &integers,
                &scales,
                wrong,
            );
        }
    }
}

#[test]
fn fused_kernels_give_the_bits_of_the_cpu_and_of_the_pair() {
    let own = support::own_device();
    let wrong = &mut Vec::new();
    rmsnorm::<f32>(140_003, wrong);
    rmsnorm::<f16>(70_001, wrong);
    rmsnorm::<bf16>(262_200, wrong);
    silu_mul::<f32>(wrong);
    silu_mul::<f16>(wrong);
    silu_mul::<bf16>(wrong);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    // A kernel that nothing launched has no test.
    support::check_all_launched(&own, "fused");
}

/// A row's result depends on the row alone: alone or in a batch, wherever it lies.
#[test]
fn batches_change_nothing() {
    let (device, stream, random) = (device(), stream(), &mut Random(13));
    let (rows, cols) = (7, 1100);
    let data: Vec<bf16> = (0..rows * cols)
        .map(|_| bf16::from_f32(random.unit()))
        .collect();
    let weight = stream.clone_htod(&vec![bf16::ONE; cols]).unwrap();
    let run = |data: &[bf16], rows: usize, offset: usize| {
        let input = Placed::at(
            &stream,
            data,
            [rows, cols],
            bf16::ZERO,
            offset,
            cols + offset,
        );
        let mut integers = stream.alloc_zeros::<i8>(rows * cols).unwrap();
        let mut scales = stream.alloc_zeros::<f32>(rows).unwrap();
        kernels::rmsnorm_quantize(
            device,
            &stream,
            input.geometry().over(&input.view()),
            (&weight, EPSILON),
            Matrix::new(&mut integers, rows, cols),
            &mut scales,
        )
        .unwrap();
        (
            stream.clone_dtoh(&integers).unwrap(),
            stream.clone_dtoh(&scales).unwrap(),
        )
    };
    let (all, scales) = run(&data, rows, 0);
    for r in 0..rows {
        let (one, scale) = run(&data[r * cols..][..cols], 1, r);
        assert_eq!(one, all[r * cols..][..cols], "row {r}");
        assert_eq!(scale, scales[r..=r], "row {r}");
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let (device, stream) = (device(), stream());
    let input = stream.clone_htod(&[1.0f32; 24]).unwrap();
    let other = stream.clone_htod(&[1.0f32; 24]).unwrap();
    let mut residual = stream.clone_htod(&[1.0f32; 24]).unwrap();
    let weight = stream.clone_htod(&[1.0f32; 6]).unwrap();
    let mut output = stream.clone_htod(&[9i8; 24]).unwrap();
    let mut scales = stream.clone_htod(&[9.0f32; 4]).unwrap();

    let mut norm = |rows, cols, epsilon, out: [usize; 2]| {
        let (from, to) = (
            Matrix::new(&input, rows, cols),
            Matrix::new(&mut output, out[0], out[1]),
        );
        kernels::rmsnorm_quantize(device, &stream, from, (&weight, epsilon), to, &mut scales)
            .unwrap_err()
    };
    for epsilon in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
        let error = norm(4, 6, epsilon, [4, 6]);
        assert!(matches!(error, Error::Value { .. }), "{error}");
    }
    let length = |error: Error, name: &str| {
        assert!(
            matches!(error, Error::Length { what, .. } if what == name),
            "{error}"
        );
    };
    length(norm(4, 7, EPSILON, [4, 6]), "input");
    length(norm(4, 5, EPSILON, [4, 5]), "weight");
    length(norm(3, 6, EPSILON, [3, 6]), "scales");
    let error = norm(4, 6, EPSILON, [4, 5]);
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    // Nothing can hold the sums of a row of this length; the driver is not asked.
    let long = stream.clone_htod(&vec![1.0f32; 1 << 23]).unwrap();
    let mut many = stream.alloc_zeros::<i8>(1 << 23).unwrap();
    let mut one = stream.alloc_zeros::<f32>(1).unwrap();
    let error = kernels::rmsnorm_quantize(
        device,
        &stream,
        Matrix::new(&long, 1, 1 << 23),
        (&long, EPSILON),
        Matrix::new(&mut many, 1, 1 << 23),
        &mut one,
    )
    .unwrap_err();
    assert!(error.to_string().contains("shared memory"), "{error}");

    let error = kernels::add_rmsnorm_quantize(
        device,
        &stream,
        Matrix::new(&input, 4, 6),
        Matrix::new(&mut residual, 3, 6),
        (&weight, EPSILON),
        Matrix::new(&mut output, 4, 6),
        &mut scales,
    )
    .unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");

    let mut silu = |up: [usize; 2], out: [usize; 2]| {
        kernels::silu_mul_quantize(
            device,
            &stream,
            Matrix::new(&input, 4, 6),
            Matrix::new(&other, up[0], up[1]),
            Matrix::new(&mut output, out[0], out[1]),
            &mut scales,
        )
        .unwrap_err()
    };
    for (up, out) in [([4, 5], [4, 6]), ([3, 6], [4, 6]), ([4, 6], [4, 5])] {
        let error = silu(up, out);
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    }
    length(silu([4, 7], [4, 6]), "up");
    length(silu([4, 6], [4, 7]), "output");

    // Other tests launch kernels meanwhile, so what counts is what these calls could have written.
    assert_eq!(stream.clone_dtoh(&output).unwrap(), [9; 24]);
    assert_eq!(stream.clone_dtoh(&scales).unwrap(), [9.0; 4]);
    assert_eq!(stream.clone_dtoh(&residual).unwrap(), [1.0; 24]);
}

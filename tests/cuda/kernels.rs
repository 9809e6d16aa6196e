//! Every kernel in `cuda/`, through the public API, against a naive reading of `imma::numerics`: random shapes,
//! types, alignments and strides, slices with NaN, infinity, zeros and ties. Bits must be equal.

use crate::support::{self, device, floats, same, stream, Placed, Random, Type};
use half::{bf16, f16};
use imma::cuda::kernels::{self, Dequantize};
use imma::numerics::{self, Asymmetric};
use imma::rounding::Rounding;

/// Rows, columns: around every boundary of vectors (4, 8), warps, blocks of rows, and one beyond what is held.
fn row_shapes(random: &mut Random) -> Vec<(usize, usize)> {
    let mut shapes = vec![
        (1, 1),
        (3, 0),
        (0, 5),
        (5, 7),
        (2, 8),
        (4, 129),
        (3, 1024),
        (1, 4100),
        (2, 33_000),
    ];
    shapes.extend((0..30).map(|_| (1 + random.below(9), 1 + random.below(700))));
    shapes
}

/// The same for columns: around strips of 16 and slabs of 1024, and one beyond shared memory.
fn col_shapes(random: &mut Random) -> Vec<(usize, usize)> {
    let mut shapes = vec![
        (1, 1),
        (0, 3),
        (5, 0),
        (16, 16),
        (33, 17),
        (1025, 18),
        (8200, 9),
    ];
    shapes.extend((0..20).map(|_| (1 + random.below(300), 1 + random.below(70))));
    shapes
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Nearest,
    Stochastic,
    Asymmetric,
}
const MODES: [Mode; 3] = [Mode::Nearest, Mode::Stochastic, Mode::Asymmetric];
const SEED: u64 = 0x0123_4567_89ab_cdef;

impl Mode {
    fn rounding(self) -> Rounding {
        match self {
            Mode::Stochastic => Rounding::Stochastic { seed: SEED },
            _ => Rounding::NearestEven,
        }
    }

    /// Integers, scale and zero point of one slice; `index` gives an element's linear index.
    fn slice(self, values: &[f32], index: impl Fn(usize) -> u64) -> (Vec<i8>, f32, i32) {
        let absmax = numerics::absmax(values.iter().copied());
        if let Mode::Asymmetric = self {
            let ends = |start: f32| {
                values
                    .iter()
                    .fold((start, start), |(lo, hi), x| (lo.min(*x), hi.max(*x)))
            };
            let (lo, hi) = if absmax.is_finite() {
                ends(0.0)
            } else {
                (f32::NAN, f32::NAN)
            };
            let Asymmetric {
                scale,
                multiplier,
                zero_point,
            } = numerics::asymmetric(lo, hi);
            let q = values
                .iter()
                .map(|x| numerics::quantize_asymmetric(*x, multiplier, zero_point));
            return (q.collect(), scale, zero_point);
        }
        let bound = numerics::bound(absmax);
        let multiplier = numerics::multiplier(bound);
        let quantize = |(i, x): (usize, &f32)| self.rounding().quantize(*x, multiplier, index(i));
        let q = values.iter().enumerate().map(quantize);
        (q.collect(), numerics::scale(bound), 0)
    }
}

/// The first few places where two vectors differ, or nothing.
fn compare<T: Copy + std::fmt::Debug>(
    what: &str,
    case: &str,
    found: &[T],
    expected: &[T],
    same: impl Fn(T, T) -> bool,
    wrong: &mut Vec<String>,
) {
    assert_eq!(found.len(), expected.len(), "{case}: {what}");
    let mut differ = (0..found.len()).filter(|i| !same(found[*i], expected[*i]));
    if let Some(i) = differ.next() {
        wrong.push(format!(
            "{case}: {what}[{i}] is {:?}, expected {:?} ({} more differ)",
            found[i],
            expected[i],
            differ.count()
        ));
    }
}

fn quantize_slices<T: Type>(by_row: bool, wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(if by_row { 1 } else { 2 });
    let shapes = if by_row {
        row_shapes(random)
    } else {
        col_shapes(random)
    };
    for (rows, cols) in shapes {
        let data: Vec<T> = floats(random, rows, cols, by_row);
        let (slices, length) = if by_row { (rows, cols) } else { (cols, rows) };
        let padded = length + random.pick(&[0, 0, 1, 16 - length % 16]);
        for mode in MODES {
            let input = Placed::new(&stream, random, &data, rows, cols, T::from_f32(f32::NAN));
            let mut output = Placed::filled(&stream, random, slices, padded, 0x55i8, 0x66);
            let mut scales = Placed::filled(&stream, random, 1, slices, -1.0f32, -2.0);
            let mut zeros = Placed::filled(&stream, random, 1, slices, -1i32, -2);
            let case = format!(
                "{} {mode:?} {} {input} -> {output}",
                if by_row { "rows" } else { "cols" },
                T::DTYPE
            );
            let (source, target) = (input.geometry(), output.geometry());
            {
                let (view, mut out) = (input.view(), output.view_mut());
                let (mut s, mut z) = (scales.view_mut(), zeros.view_mut());
                let (from, to) = (source.over(&view), target.over(&mut out));
                match (mode, by_row) {
                    (Mode::Asymmetric, true) => {
                        kernels::quantize_rows_asymmetric(device, &stream, from, to, &mut s, &mut z)
                    }
                    (Mode::Asymmetric, false) => {
                        kernels::quantize_cols_asymmetric(device, &stream, from, to, &mut s, &mut z)
                    }
                    (_, true) => {
                        kernels::quantize_rows(device, &stream, from, to, &mut s, mode.rounding())
                    }
                    (_, false) => {
                        kernels::quantize_cols(device, &stream, from, to, &mut s, mode.rounding())
                    }
                }
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            }
            let (mut q, mut s, mut z) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..slices {
                let at = |j: usize| if by_row { i * cols + j } else { j * cols + i };
                let values: Vec<f32> = (0..length).map(|j| data[at(j)].to_f32()).collect();
                let (integers, scale, zero) = mode.slice(&values, |j| at(j) as u64);
                q.extend(integers);
                q.extend(std::iter::repeat_n(0, padded - length));
                s.push(scale);
                z.push(if let Mode::Asymmetric = mode {
                    zero
                } else {
                    -1
                });
            }
            compare(
                "output",
                &case,
                &output.read(&stream),
                &q,
                |a, b| a == b,
                wrong,
            );
            compare("scales", &case, &scales.read(&stream), &s, same, wrong);
            compare(
                "zero points",
                &case,
                &zeros.read(&stream),
                &z,
                |a, b| a == b,
                wrong,
            );
        }
    }
}

/// With given constants: padding beside, and scales that say which rows are not finite.
fn quantize_given<T: Type>(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(4);
    for (rows, cols) in row_shapes(random) {
        let data: Vec<T> = floats(random, rows, cols, true);
        let scale = random.pick(&[1.0f32, 0.013, 7e-3, 1e30]);
        let padded = cols + random.pick(&[0, 0, 1, 16 - cols % 16]);
        for zero_point in [None, Some(random.below(256) as i32 - 128)] {
            let input = Placed::new(&stream, random, &data, rows, cols, T::from_f32(f32::NAN));
            let mut output = Placed::filled(&stream, random, rows, padded, 0x55i8, 0x66);
            let mut scales = Placed::filled(&stream, random, 1, rows, -1.0f32, -2.0);
            let case = format!(
                "given {} {input} -> {output} by {scale}, {zero_point:?}",
                T::DTYPE
            );
            let (source, target) = (input.geometry(), output.geometry());
            kernels::quantize_rows_given(
                device,
                &stream,
                source.over(&input.view()),
                target.over(&mut output.view_mut()),
                &mut scales.view_mut(),
                scale,
                zero_point,
            )
            .unwrap_or_else(|error| panic!("{case}: {error}"));
            let quantize = |x: f32| match zero_point {
                None => Rounding::NearestEven.quantize(x, 1.0 / scale, 0),
                Some(zero) => {
                    let x = if x.is_nan() { 0.0 } else { x };
                    numerics::quantize_asymmetric(x, 1.0 / scale, zero)
                }
            };
            let at = |i: usize| match i % padded < cols {
                true => quantize(data[i / padded * cols + i % padded].to_f32()),
                false => 0,
            };
            let expected: Vec<i8> = (0..rows * padded).map(at).collect();
            let found = output.read(&stream);
            compare("output", &case, &found, &expected, |a, b| a == b, wrong);
            let row = |r: usize| {
                data[r * cols..][..cols]
                    .iter()
                    .all(|x| x.to_f32().is_finite())
            };
            let of = |r| if row(r) { scale } else { f32::NAN };
            let expected: Vec<f32> = (0..rows).map(of).collect();
            let same = |a: f32, b: f32| a == b || a.is_nan() && b.is_nan();
            compare(
                "scales",
                &case,
                &scales.read(&stream),
                &expected,
                same,
                wrong,
            );
        }
    }
}

/// Rows in two slices, each quantised by what both found: the bits of the whole rows.
fn quantize_by<T: Type>(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(6);
    for (rows, cols) in row_shapes(random) {
        let data: Vec<T> = floats(random, rows, cols, true);
        let cut = random.below(cols + 1);
        for mode in [Mode::Nearest, Mode::Asymmetric] {
            let asymmetric = matches!(mode, Mode::Asymmetric);
            let words = rows * if asymmetric { 2 } else { 1 };
            let parts = [0..cut, cut..cols].map(|range| {
                let own = data.chunks(cols.max(1)).flat_map(|row| &row[range.clone()]);
                let own: Vec<T> = own.copied().collect();
                let own = if cols == 0 { Vec::new() } else { own };
                let nan = T::from_f32(f32::NAN);
                Placed::new(&stream, random, &own, rows, range.len(), nan)
            });
            let case = |part: &Placed<T>| format!("by {mode:?} {} {part} of {cols}", T::DTYPE);
            let mut whole = vec![0i32; words];
            for part in &parts {
                let mut extents = Placed::filled(&stream, random, 1, words, -1i32, -2);
                let view = part.view();
                let source = part.geometry().over(&view);
                kernels::row_extents(device, &stream, source, &mut extents.view_mut(), asymmetric)
                    .unwrap_or_else(|error| panic!("{}: {error}", case(part)));
                let found = extents.read(&stream);
                assert!(found.iter().all(|e| *e >= 0), "{}", case(part));
                whole
                    .iter_mut()
                    .zip(found)
                    .for_each(|(w, e)| *w = e.max(*w));
            }
            let extents = Placed::new(&stream, random, &whole, 1, words, -2);
            for (part, range) in parts.iter().zip([0..cut, cut..cols]) {
                let padded = range.len() + random.pick(&[0, 0, 1, 16]);
                let mut output = Placed::filled(&stream, random, rows, padded, 0x55i8, 0x66);
                let mut scales = Placed::filled(&stream, random, 1, rows, -1.0f32, -2.0);
                let mut zeros = Placed::filled(&stream, random, 1, rows, -1i32, -2);
                let (source, target) = (part.geometry(), output.geometry());
                kernels::quantize_rows_by(
                    device,
                    &stream,
                    source.over(&part.view()),
                    &extents.view(),
                    target.over(&mut output.view_mut()),
                    &mut scales.view_mut(),
                    asymmetric.then_some(&mut zeros.view_mut()),
                )
                .unwrap_or_else(|error| panic!("{}: {error}", case(part)));
                let (mut q, mut s, mut z) = (Vec::new(), Vec::new(), Vec::new());
                for r in 0..rows {
                    let row: Vec<f32> = (0..cols).map(|c| data[r * cols + c].to_f32()).collect();
                    let (integers, scale, zero) = mode.slice(&row, |_| 0);
                    q.extend(&integers[range.clone()]);
                    q.extend(std::iter::repeat_n(0, padded - range.len()));
                    s.push(scale);
                    z.push(if asymmetric { zero } else { -1 });
                }
                let case = case(part);
                let equal = |a: i8, b: i8| a == b;
                compare("output", &case, &output.read(&stream), &q, equal, wrong);
                compare("scales", &case, &scales.read(&stream), &s, same, wrong);
                let equal = |a: i32, b: i32| a == b;
                compare("zero points", &case, &zeros.read(&stream), &z, equal, wrong);
            }
        }
    }
}

fn quantize_static<T: Type>(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(3);
    for (rows, cols) in row_shapes(random) {
        let data: Vec<T> = floats(random, rows, cols, true);
        let scale = random.pick(&[1.0f32, 0.013, 7e-3, 1e30]);
        for mode in [Mode::Nearest, Mode::Stochastic] {
            let input = Placed::new(&stream, random, &data, rows, cols, T::from_f32(f32::NAN));
            let mut output = Placed::filled(&stream, random, rows, cols, 0x55i8, 0x66);
            let case = format!(
                "static {mode:?} {} {input} -> {output} by {scale}",
                T::DTYPE
            );
            let (source, target) = (input.geometry(), output.geometry());
            kernels::quantize_static(
                device,
                &stream,
                source.over(&input.view()),
                target.over(&mut output.view_mut()),
                scale,
                mode.rounding(),
            )
            .unwrap_or_else(|error| panic!("{case}: {error}"));
            let expected: Vec<i8> = data
                .iter()
                .enumerate()
                .map(|(i, x)| mode.rounding().quantize(x.to_f32(), 1.0 / scale, i as u64))
                .collect();
            compare(
                "output",
                &case,
                &output.read(&stream),
                &expected,
                |a, b| a == b,
                wrong,
            );
        }
        let zero_point = random.below(256) as i32 - 128;
        let input = Placed::new(&stream, random, &data, rows, cols, T::from_f32(f32::NAN));
        let mut output = Placed::filled(&stream, random, rows, cols, 0x55i8, 0x66);
        let case = format!(
            "static asymmetric {} {input} -> {output} by {scale}, {zero_point}",
            T::DTYPE
        );
        let (source, target) = (input.geometry(), output.geometry());
        kernels::quantize_static_asymmetric(
            device,
            &stream,
            source.over(&input.view()),
            target.over(&mut output.view_mut()),
            scale,
            zero_point,
        )
        .unwrap_or_else(|error| panic!("{case}: {error}"));
        let number = |x: &T| {
            if x.to_f32().is_nan() {
                0.0
            } else {
                x.to_f32()
            }
        };
        let expected: Vec<i8> = data
            .iter()
            .map(|x| numerics::quantize_asymmetric(number(x), 1.0 / scale, zero_point))
            .collect();
        compare(
            "output",
            &case,
            &output.read(&stream),
            &expected,
            |a, b| a == b,
            wrong,
        );
    }
}

/// Two hundred products of rows and columns of 32 words each.
fn peak(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let mut sums = stream
        .clone_htod(&vec![0x5555_5555; kernels::peak_len(device)])
        .unwrap();
    // Four bytes a word, eight words: 1 * 1 + 2 * 2 + 3 * 3 + (-1) * (-1), thirty-two accumulators a thread.
    let operations = kernels::peak_mma(device, &stream, 3, (0xff03_0201, 0), &mut sums).unwrap();
    let found = stream.clone_dtoh(&sums).unwrap();
    let expected = 3 * 32 * 8 * (1 + 4 + 9 + 1);
    if let Some(bad) = found.iter().find(|s| **s != expected) {
        wrong.push(format!("peak: a sum is {bad}, expected {expected}"));
    }
    let warps = kernels::peak_len(device) as u64 / 32;
    if operations != 2 * 16 * 8 * 32 * 8 * 3 * warps {
        wrong.push(format!("peak: {operations} operations"));
    }
    let mut short = stream.alloc_zeros::<i32>(1).unwrap();
    if kernels::peak_mma(device, &stream, 1, (0, 0), &mut short).is_ok() {
        wrong.push("peak: one element for all sums".into());
    }
}

fn dequantize<T: Type>(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(4);
    for (rows, cols) in row_shapes(random) {
        let bytes: Vec<i8> = (0..rows * cols).map(|_| random.next() as i8).collect();
        let sums: Vec<i32> = (0..rows * cols)
            .map(|_| random.next() as i32 >> random.below(20))
            .collect();
        let row: Vec<f32> = (0..rows).map(|_| random.unit()).collect();
        let col: Vec<f32> = (0..cols).map(|_| random.unit() * 1e-3).collect();
        let row_zero: Vec<i32> = (0..rows).map(|_| random.below(256) as i32 - 128).collect();
        let col_zero: Vec<i32> = (0..cols).map(|_| random.below(256) as i32 - 128).collect();
        let row_scales = Placed::new(&stream, random, &row, 1, rows, -1.0);
        let col_scales = Placed::new(&stream, random, &col, 1, cols, -1.0);
        let row_zeros = Placed::new(&stream, random, &row_zero, 1, rows, -1);
        let col_zeros = Placed::new(&stream, random, &col_zero, 1, cols, -1);
        let one = stream.clone_htod(&[0.37f32]).unwrap();
        for which in 0..5 {
            let how = match which {
                0 => Dequantize::default(),
                1 => Dequantize {
                    row_scales: Some((&one).into()),
                    ..Default::default()
                },
                2 => Dequantize {
                    row_scales: Some(row_scales.view().into()),
                    row_zero_points: Some(row_zeros.view().into()),
                    ..Default::default()
                },
                3 => Dequantize {
                    col_scales: Some(col_scales.view().into()),
                    col_zero_points: Some(col_zeros.view().into()),
                    ..Default::default()
                },
                _ => Dequantize {
                    row_scales: Some(row_scales.view().into()),
                    col_scales: Some(col_scales.view().into()),
                    ..Default::default()
                },
            };
            let expected = |q: &dyn Fn(usize) -> i32| -> Vec<T> {
                let value = |i: usize| {
                    let (r, c) = (i / cols, i % cols);
                    let x = match which {
                        2 => q(i).wrapping_sub(row_zero[r]),
                        3 => q(i).wrapping_sub(col_zero[c]),
                        _ => q(i),
                    } as f32;
                    T::from_f32(match which {
                        0 => x,
                        1 => x * 0.37,
                        2 => x * row[r],
                        3 => x * col[c],
                        _ => (x * row[r]) * col[c],
                    })
                };
                (0..rows * cols).map(value).collect()
            };
            let gap = T::from_f32(-7.0);
            let mut output = Placed::filled(&stream, random, rows, cols, gap, gap);
            let input = Placed::new(&stream, random, &bytes, rows, cols, 0x55);
            let case = format!(
                "dequantize i8 -> {} ({which}) {input} -> {output}",
                T::DTYPE
            );
            let (source, target) = (input.geometry(), output.geometry());
            kernels::dequantize(
                device,
                &stream,
                source.over(&input.view()),
                target.over(&mut output.view_mut()),
                how.clone(),
            )
            .unwrap_or_else(|error| panic!("{case}: {error}"));
            let want = expected(&|i| bytes[i].into());
            compare("output", &case, &output.read(&stream), &want, same, wrong);

            let input = Placed::new(&stream, random, &sums, rows, cols, 0x55);
            let case = format!(
                "dequantize i32 -> {} ({which}) {input} -> {output}",
                T::DTYPE
            );
            let source = input.geometry();
            kernels::dequantize(
                device,
                &stream,
                source.over(&input.view()),
                target.over(&mut output.view_mut()),
                how,
            )
            .unwrap_or_else(|error| panic!("{case}: {error}"));
            let want = expected(&|i| sums[i]);
            compare("output", &case, &output.read(&stream), &want, same, wrong);
        }
    }
}

fn transpose_s8(wrong: &mut Vec<String>) {
    let (device, stream) = (device(), stream());
    let random = &mut Random(5);
    let mut shapes = vec![
        (1, 1),
        (0, 3),
        (4, 0),
        (128, 128),
        (129, 127),
        (16, 300),
        (300, 16),
    ];
    shapes.extend((0..20).map(|_| (1 + random.below(300), 1 + random.below(300))));
    for (rows, cols) in shapes {
        let data: Vec<i8> = (0..rows * cols).map(|_| random.next() as i8).collect();
        let padded = rows + random.pick(&[0, 0, 3, 16 - rows % 16]);
        let input = Placed::new(&stream, random, &data, rows, cols, 0x55);
        let mut output = Placed::filled(&stream, random, cols, padded, 0x44, 0x66);
        let case = format!("transpose {input} -> {output}");
        let (source, target) = (input.geometry(), output.geometry());
        kernels::transpose_s8(
            device,
            &stream,
            source.over(&input.view()),
            target.over(&mut output.view_mut()),
        )
        .unwrap_or_else(|error| panic!("{case}: {error}"));
        let at = |i: usize| match (i / padded, i % padded) {
            (c, r) if r < rows => data[r * cols + c],
            _ => 0,
        };
        let expected: Vec<i8> = (0..cols * padded).map(at).collect();
        compare(
            "output",
            &case,
            &output.read(&stream),
            &expected,
            |a, b| a == b,
            wrong,
        );
    }
}

#[test]
fn every_kernel_gives_the_bits_of_the_numerics() {
    let own = support::own_device();
    let wrong = &mut Vec::new();
    for by_row in [true, false] {
        quantize_slices::<f32>(by_row, wrong);
        quantize_slices::<f16>(by_row, wrong);
        quantize_slices::<bf16>(by_row, wrong);
    }
    quantize_given::<f32>(wrong);
    quantize_given::<f16>(wrong);
    quantize_given::<bf16>(wrong);
    quantize_by::<f32>(wrong);
    quantize_by::<f16>(wrong);
    quantize_by::<bf16>(wrong);
    quantize_static::<f32>(wrong);
    quantize_static::<f16>(wrong);
    quantize_static::<bf16>(wrong);
    dequantize::<f32>(wrong);
    dequantize::<f16>(wrong);
    dequantize::<bf16>(wrong);
    transpose_s8(wrong);
    peak(wrong);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    // A kernel that nothing launched has no test.
    support::check_all_launched(&own, "kernels");
}

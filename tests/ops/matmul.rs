//! The operations against three naive loops: shapes, strides, batches, element types, gradients.

use crate::random::Random;
use half::{bf16, f16};
use imma::activation::Activation;
use imma::gemm::ActivationQuant;
use imma::numerics::{absmax, bound, dequantize, multiplier, quantize, scale, MAX_K};
use imma::ops::{
    matmul_float, matmul_true_int8_on, q_matmul_int8_as, q_matmul_int8_on, DimensionNumbers,
    DotGeneral, FloatDotGeneral, Precision,
};
use imma::{
    matmul, matmul_true_int8, q_matmul_int8, quant_int8, Cpu, Element, Error, Int8Linear, Result,
};
use ndarray::{
    arr1, Array, Array1, Array2, Array3, ArrayD, ArrayView2, ArrayViewD, Axis, Dimension, Slice,
};
use proptest::prelude::*;

impl Random {
    fn floats<T: Element>(&mut self, shape: &[usize]) -> ArrayD<T> {
        ArrayD::from_shape_simple_fn(shape, || T::from_f32(4.0 * self.unit()))
    }

    fn int8(&mut self, shape: &[usize]) -> ArrayD<i8> {
        ArrayD::from_shape_simple_fn(shape, || self.next() as i8)
    }

    /// Stores an array some other way: axes in another order, with gaps, backwards. `0` stores it plainly.
    fn stored<T: Clone + Default>(&mut self, x: ArrayD<T>) -> Stored<T> {
        let rank = x.ndim();
        let mut order: Vec<usize> = (0..rank).collect();
        for i in (1..rank).rev() {
            order.swap(i, self.next() as usize % (i + 1));
        }
        let steps: Vec<isize> = (0..rank)
            .map(|_| [1, 1, 2, -1, -2][self.next() as usize % 5])
            .collect();
        let lengths = order
            .iter()
            .map(|&a| x.shape()[a] * steps[a].unsigned_abs());
        let mut data = ArrayD::default(lengths.collect::<Vec<_>>());
        let stored = Stored {
            data: ArrayD::default(vec![0]),
            order,
            steps,
        };
        let mut place = data.view_mut().permuted_axes(stored.inverse());
        for (axis, &step) in stored.steps.iter().enumerate() {
            place.slice_axis_inplace(Axis(axis), Slice::new(0, None, step));
        }
        place.assign(&x);
        Stored { data, ..stored }
    }
}

struct Stored<T> {
    data: ArrayD<T>,
    order: Vec<usize>,
    steps: Vec<isize>,
}

impl<T> Stored<T> {
    fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.order.len()];
        self.order
            .iter()
            .enumerate()
            .for_each(|(i, &a)| inverse[a] = i);
        inverse
    }

    fn view(&self) -> ArrayViewD<'_, T> {
        let mut view = self.data.view().permuted_axes(self.inverse());
        for (axis, &step) in self.steps.iter().enumerate() {
            view.slice_axis_inplace(Axis(axis), Slice::new(0, None, step));
        }
        view
    }
}

/// Shapes that numpy.matmul accepts, with every way of saying them: vectors, missing and repeated batch axes.
fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let length = || prop_oneof![4 => 1usize..9, 1 => Just(0), 1 => 15usize..40];
    let batch = prop::collection::vec((1usize..4, 0u8..4), 0..4);
    (batch, length(), length(), length(), 0u8..8).prop_map(|(batch, m, k, n, form)| {
        let (mut lhs, mut rhs): (Vec<_>, Vec<_>) = batch
            .iter()
            .map(|&(len, side)| {
                (
                    if side == 1 { 1 } else { len },
                    if side == 2 { 1 } else { len },
                )
            })
            .unzip();
        let missing = batch.iter().take_while(|(_, side)| *side == 3).count();
        match form & 1 {
            0 => drop(rhs.drain(..missing)),
            _ => drop(lhs.drain(..missing)),
        }
        lhs.extend([m, k]);
        rhs.extend([k, n]);
        match form {
            5 => lhs = vec![k],
            6 => rhs = vec![k],
            7 => (lhs, rhs) = (vec![k], vec![k]),
            _ => {}
        }
        (lhs, rhs)
    })
}

/// numpy.matmul by definition, sharing nothing with the crate: `product` gives one element of the result.
fn naive<T: Copy, S: Clone + Default>(
    lhs: &ArrayViewD<'_, T>,
    rhs: &ArrayViewD<'_, T>,
    mut product: impl FnMut(&mut dyn Iterator<Item = (T, T)>) -> S,
) -> ArrayD<S> {
    let (ln, rn) = (lhs.ndim(), rhs.ndim());
    let lhs = if ln == 1 {
        lhs.clone().insert_axis(Axis(0))
    } else {
        lhs.clone()
    };
    let rhs = if rn == 1 {
        rhs.clone().insert_axis(Axis(1))
    } else {
        rhs.clone()
    };
    let axes = lhs.ndim().max(rhs.ndim()) - 2;
    let length = |x: &ArrayViewD<'_, T>, axis: usize| match (axis + x.ndim() - 2).checked_sub(axes)
    {
        Some(a) => x.shape()[a],
        None => 1,
    };
    let mut shape: Vec<usize> = (0..axes)
        .map(|a| match (length(&lhs, a), length(&rhs, a)) {
            (1, r) => r,
            (l, _) => l,
        })
        .collect();
    let (k, n) = (rhs.shape()[rhs.ndim() - 2], rhs.shape()[rhs.ndim() - 1]);
    shape.extend([lhs.shape()[lhs.ndim() - 2], n]);
    let index = |x: &ArrayViewD<'_, T>, batch: &[usize], row: usize, column: usize| {
        let mut at: Vec<usize> = (0..x.ndim() - 2)
            .map(|a| batch[a + axes + 2 - x.ndim()].min(x.shape()[a] - 1))
            .collect();
        at.extend([row, column]);
        at
    };
    let mut out = ArrayD::from_shape_fn(shape, |at| {
        let at = at.slice();
        let (batch, m, n) = (&at[..axes], at[axes], at[axes + 1]);
        let mut pairs = (0..k).map(|k| {
            (
                lhs[&index(&lhs, batch, m, k)[..]],
                rhs[&index(&rhs, batch, k, n)[..]],
            )
        });
        product(&mut pairs)
    });
    if rn == 1 {
        out = out.index_axis_move(Axis(axes + 1), 0);
    }
    if ln == 1 {
        out = out.index_axis_move(Axis(axes), 0);
    }
    out
}

fn exact(pairs: &mut dyn Iterator<Item = (i8, i8)>) -> i32 {
    pairs.map(|(l, r)| i32::from(l) * i32::from(r)).sum()
}

/// q_matmul_int8 by its formula, one element after the other.
fn naive_quantized<T: Element>(a: ArrayView2<'_, T>, w: ArrayView2<'_, T>) -> Array2<T> {
    let bounds = |x: ArrayView2<'_, T>, axis| -> Vec<f32> {
        let lanes = x.lanes(axis).into_iter();
        lanes
            .map(|lane| bound(absmax(lane.iter().map(|x| x.to_f32()))))
            .collect()
    };
    let (rows, columns) = (bounds(a, Axis(1)), bounds(w, Axis(0)));
    Array2::from_shape_fn((a.nrows(), w.ncols()), |(m, n)| {
        let q = |x: T, bound| i32::from(quantize(x.to_f32() * multiplier(bound)));
        let sum = (0..a.ncols())
            .map(|k| q(a[[m, k]], rows[m]) * q(w[[k, n]], columns[n]))
            .sum();
        T::from_f32(dequantize(sum, scale(rows[m]), scale(columns[n])))
    })
}

fn bits<T: Element, D: Dimension>(x: &Array<T, D>) -> Array<u32, D> {
    // All NaN are the same here.
    x.map(|x| x.to_f32())
        .mapv(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
}

/// A float product against f64 sums, to the error that K roundings in f32 and one to T may bring.
fn check_float<T: Element>(lhs: ArrayViewD<'_, T>, rhs: ArrayViewD<'_, T>) {
    let got = matmul_float(lhs.clone(), rhs.clone()).unwrap();
    let epsilon = match T::DTYPE {
        imma::DType::F16 => 1.0 / 2048.0,
        imma::DType::BF16 => 1.0 / 256.0,
        _ => 0.0,
    };
    let want = naive(&lhs, &rhs, |pairs| {
        pairs.fold((0.0f64, 0.0f64), |(sum, magnitude), (l, r)| {
            let p = f64::from(l.to_f32()) * f64::from(r.to_f32());
            (sum + p, magnitude + p.abs())
        })
    });
    assert_eq!(got.shape(), want.shape());
    let k = lhs.shape()[lhs.ndim() - 1] as f64;
    for (g, (sum, magnitude)) in got.iter().zip(&want) {
        let tolerance = k * f64::from(f32::EPSILON) * magnitude + epsilon * sum.abs();
        let error = (f64::from(g.to_f32()) - sum).abs();
        assert!(
            error <= tolerance,
            "{g:?}, expected {sum}: {:?} x {:?}",
            lhs.shape(),
            rhs.shape()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn int8_products_are_exact((lhs, rhs) in shapes(), seed: u64) {
        let mut noise = Random(seed);
        let (lhs, rhs) = (noise.int8(&lhs), noise.int8(&rhs));
        let want = naive(&lhs.view(), &rhs.view(), exact);
        let (lhs, rhs) = (noise.stored(lhs), noise.stored(rhs));
        prop_assert_eq!(&matmul_true_int8(lhs.view(), rhs.view()).unwrap(), &want);
        let one = Cpu::new().with_threads(1).unwrap();
        prop_assert_eq!(&matmul_true_int8_on(&one, lhs.view(), rhs.view()).unwrap(), &want);
    }

    #[test]
    fn float_products_are_close((lhs, rhs) in shapes(), seed: u64) {
        let mut noise = Random(seed);
        let (l, r) = (noise.floats::<f32>(&lhs), noise.floats::<f32>(&rhs));
        let (l, r) = (noise.stored(l), noise.stored(r));
        check_float(l.view(), r.view());
        let (l, r) = (noise.floats::<f16>(&lhs), noise.floats::<f16>(&rhs));
        let (l, r) = (noise.stored(l), noise.stored(r));
        check_float(l.view(), r.view());
        let (l, r) = (noise.floats::<bf16>(&lhs), noise.floats::<bf16>(&rhs));
        let (l, r) = (noise.stored(l), noise.stored(r));
        check_float(l.view(), r.view());
    }

    #[test]
    fn quantized_products_follow_the_formula(m in 0usize..40, k in 0usize..70, n in 0usize..70, seed: u64) {
        fn check<T: Element>(noise: &mut Random, m: usize, k: usize, n: usize) {
            let (mut a, mut w) = (noise.floats::<T>(&[m, k]), noise.floats::<T>(&[k, n]));
            // Now and then a value that is not a number, or a row of zeros.
            if a.len() > 1 && noise.next().is_multiple_of(4) {
                let at = noise.next() as usize % a.len();
                *a.iter_mut().nth(at).unwrap() = T::from_f32([f32::NAN, f32::INFINITY][at % 2]);
                w.index_axis_mut(Axis(0), 0).fill(T::default());
            }
            let (a, w) = (noise.stored(a), noise.stored(w));
            let (a, w) = (a.view().into_dimensionality().unwrap(), w.view().into_dimensionality().unwrap());
            let want = bits(&naive_quantized(a, w));
            assert_eq!(bits(&q_matmul_int8(a, w).unwrap()), want);
            let one = Cpu::new().with_threads(1).unwrap();
            assert_eq!(bits(&q_matmul_int8_on(&one, a, w).unwrap()), want);
            let layer = Int8Linear::from_float(w.reversed_axes(), None).unwrap();
            assert_eq!(bits(&layer.forward(a).unwrap()), want);
        }
        let mut noise = Random(seed);
        check::<f32>(&mut noise, m, k, n);
        check::<f16>(&mut noise, m, k, n);
        check::<bf16>(&mut noise, m, k, n);
    }

    #[test]
    fn quantising_is_elementwise_in_any_layout(shape in prop::collection::vec(0usize..6, 0..4), seed: u64) {
        let mut noise = Random(seed);
        let x = ArrayD::from_shape_simple_fn(shape, || noise.unit() * 150.0);
        let want = x.mapv(|x| x.round_ties_even().clamp(-127.0, 127.0) as i8);
        let x = noise.stored(x);
        prop_assert_eq!(quant_int8(x.view()), want);
    }

    #[test]
    fn dot_general_is_lax_dot_general(
        batch in prop::collection::vec(1usize..4, 0..3),
        contracted in prop::collection::vec(0usize..4, 0..3),
        left in prop::collection::vec(1usize..4, 0..3),
        right in prop::collection::vec(1usize..4, 0..3),
        seed: u64,
    ) {
        let mut noise = Random(seed);
        let mut case = GeneralCase::new(&mut noise, &batch, &contracted, &left, &right);
        let got = FloatDotGeneral
            .dot_general(case.lhs.view(), case.rhs.view(), &case.dims, Precision::Default)
            .unwrap();
        let want = case.naive();
        prop_assert_eq!(got.shape(), want.shape());
        for (g, w) in got.iter().zip(&want) {
            prop_assert!((g - w).abs() <= 1e-4, "{} {}", g, w);
        }
        case.check_gradients(&mut noise);
    }
}

/// Operands whose axes are in random places.
struct GeneralCase {
    lhs: ArrayD<f32>,
    rhs: ArrayD<f32>,
    dims: DimensionNumbers,
    /// The lengths of batch, left, right and contracted axes.
    lengths: [Vec<usize>; 4],
}

impl GeneralCase {
    fn new(
        noise: &mut Random,
        batch: &[usize],
        contracted: &[usize],
        left: &[usize],
        right: &[usize],
    ) -> Self {
        let mut place = |free: &[usize]| {
            // Free axes keep their order; the others go anywhere.
            let rank = batch.len() + contracted.len() + free.len();
            let mut axes: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                axes.swap(i, noise.next() as usize % (i + 1));
            }
            let (b, rest) = axes.split_at(batch.len());
            let (c, f) = rest.split_at(contracted.len());
            let mut f = f.to_vec();
            f.sort_unstable();
            let mut shape = vec![0; rank];
            for (axes, lengths) in [(b, batch), (c, contracted), (&f[..], free)] {
                axes.iter().zip(lengths).for_each(|(&a, &n)| shape[a] = n);
            }
            let x = noise.floats::<f32>(&shape);
            (x, b.to_vec(), c.to_vec())
        };
        let (lhs, lhs_batch, lhs_contracting) = place(left);
        let (rhs, rhs_batch, rhs_contracting) = place(right);
        GeneralCase {
            lhs,
            rhs,
            dims: DimensionNumbers {
                lhs_contracting,
                rhs_contracting,
                lhs_batch,
                rhs_batch,
            },
            lengths: [
                batch.to_vec(),
                left.to_vec(),
                right.to_vec(),
                contracted.to_vec(),
            ],
        }
    }

    /// The definition: `out[batch, left, right]` is the sum over all contracted indices.
    fn naive(&self) -> ArrayD<f32> {
        let [batch, left, right, contracted] = &self.lengths;
        let at = |batch_axes: &[usize],
                  contracted_axes: &[usize],
                  rank: usize,
                  b: &[usize],
                  c: &[usize],
                  f: &[usize]| {
            let mut at = vec![usize::MAX; rank];
            batch_axes.iter().zip(b).for_each(|(&a, &i)| at[a] = i);
            contracted_axes.iter().zip(c).for_each(|(&a, &i)| at[a] = i);
            let mut f = f.iter();
            at.iter_mut()
                .filter(|i| **i == usize::MAX)
                .for_each(|i| *i = *f.next().unwrap());
            at
        };
        let d = &self.dims;
        ArrayD::from_shape_fn([&batch[..], left, right].concat(), |out| {
            let (b, rest) = out.slice().split_at(batch.len());
            let (l, r) = rest.split_at(left.len());
            let mut sum = 0.0f64;
            for c in ndarray::indices(contracted.clone()) {
                let x = self.lhs[&at(
                    &d.lhs_batch,
                    &d.lhs_contracting,
                    self.lhs.ndim(),
                    b,
                    c.slice(),
                    l,
                )[..]];
                let y = self.rhs[&at(
                    &d.rhs_batch,
                    &d.rhs_contracting,
                    self.rhs.ndim(),
                    b,
                    c.slice(),
                    r,
                )[..]];
                sum += f64::from(x) * f64::from(y);
            }
            sum as f32
        })
    }

    /// The product is linear in each operand, so that differences of any size give its gradient.
    fn check_gradients(&mut self, noise: &mut Random) {
        let (y, pullback) = FloatDotGeneral
            .vjp(
                self.lhs.view(),
                self.rhs.view(),
                &self.dims,
                Precision::Default,
            )
            .unwrap();
        let g = noise.floats::<f32>(y.shape());
        let (dlhs, drhs) = pullback.backward(g.view()).unwrap();
        assert_eq!(
            (dlhs.shape(), drhs.shape()),
            (self.lhs.shape(), self.rhs.shape())
        );
        let loss = |case: &Self| -> f64 {
            case.naive()
                .iter()
                .zip(&g)
                .map(|(y, g)| f64::from(*y) * f64::from(*g))
                .sum()
        };
        for (side, gradient) in [(0, dlhs), (1, drhs)] {
            if gradient.is_empty() {
                continue;
            }
            let at = noise.next() as usize % gradient.len();
            let mut shifted = |by: f32| {
                let operand = if side == 0 {
                    &mut self.lhs
                } else {
                    &mut self.rhs
                };
                *operand.iter_mut().nth(at).unwrap() += by;
                loss(self)
            };
            let difference = (shifted(2.0) - shifted(-4.0)) / 4.0;
            shifted(2.0);
            let got = f64::from(*gradient.iter().nth(at).unwrap());
            assert!(
                (got - difference).abs() <= 1e-3 * (1.0 + difference.abs()),
                "{got}, differences give {difference}"
            );
        }
    }
}

#[test]
fn repeated_and_zero_stride_operands_count_as_their_copies() {
    let mut noise = Random(1);
    let lhs = noise.int8(&[3, 1, 5, 7]);
    let rhs = noise.int8(&[7, 4]);
    let (lhs, rhs) = (
        lhs.broadcast(vec![2, 3, 6, 5, 7]).unwrap(),
        rhs.broadcast(vec![3, 6, 7, 4]).unwrap(),
    );
    let want = naive(&lhs, &rhs, exact);
    assert_eq!(matmul_true_int8(lhs.clone(), rhs.clone()).unwrap(), want);
    // The left operand repeated along rows, and along what is contracted.
    let row = noise.int8(&[7]);
    let rows = row.broadcast(vec![5, 7]).unwrap();
    assert_eq!(
        matmul_true_int8(rows.clone(), rhs.clone()).unwrap(),
        naive(&rows, &rhs, exact)
    );
    let one = noise.int8(&[5, 1]);
    let flat = one.broadcast(vec![5, 7]).unwrap();
    assert_eq!(
        matmul_true_int8(flat.clone(), rhs.clone()).unwrap(),
        naive(&flat, &rhs, exact)
    );
}

#[test]
fn sums_are_exact_up_to_the_longest_k() {
    let lhs = Array2::from_elem((2, MAX_K), -128i8);
    let rhs = Array2::from_elem((MAX_K, 1), -128i8);
    let out = matmul_true_int8(lhs.view(), rhs.view()).unwrap();
    assert!(out.iter().all(|&x| x == 128 * 128 * MAX_K as i32));
    let rhs = Array2::from_elem((MAX_K, 1), 127i8);
    let out = matmul_true_int8(lhs.view(), rhs.view()).unwrap();
    assert!(out.iter().all(|&x| x == -128 * 127 * MAX_K as i32));

    let long = MAX_K + 1;
    let (lhs, rhs) = (
        Array2::<i8>::zeros((1, long)),
        Array2::<i8>::zeros((long, 1)),
    );
    let too_long = |r: Option<Error>| match r {
        Some(Error::KTooLong { found, limit, .. }) => assert_eq!((found, limit), (long, MAX_K)),
        other => panic!("{other:?}"),
    };
    too_long(matmul_true_int8(lhs.view(), rhs.view()).err());
    too_long(matmul_true_int8(lhs.row(0), rhs.column(0)).err());
    let (lhs, rhs) = (lhs.mapv(f32::from), rhs.mapv(f32::from));
    too_long(q_matmul_int8(lhs.view(), rhs.view()).err());
    too_long(Int8Linear::from_float(rhs.t(), None).err());
}

#[test]
fn operands_that_do_not_fit_are_refused_with_their_shapes() {
    let (a, w) = (Array2::<f32>::zeros((2, 3)), Array2::<f32>::zeros((4, 5)));
    let message = q_matmul_int8(a.view(), w.view()).unwrap_err().to_string();
    assert!(message.contains("[2, 3] and [4, 5]"), "{message}");
    let point = ndarray::arr0(1.0f32);
    let message = q_matmul_int8(point.view(), w.view())
        .unwrap_err()
        .to_string();
    assert!(message.contains("[.., 4]"), "{message}");
    let message = matmul_float(point.view(), w.view())
        .unwrap_err()
        .to_string();
    assert!(message.contains("[] and [4, 5]"), "{message}");
    let message = matmul_float(a.view(), w.view()).unwrap_err().to_string();
    assert!(message.contains("[2, 3] and [4, 5]"), "{message}");
}

#[test]
fn batches_and_vectors_through_int8_are_that_many_rows() {
    let mut noise = Random(2);
    let w = noise.floats::<f32>(&[9, 6]).into_dimensionality().unwrap();
    let x = noise
        .floats::<f32>(&[2, 3, 9])
        .into_dimensionality::<ndarray::Ix3>()
        .unwrap();
    let y: Array3<f32> = q_matmul_int8(x.view(), w.view()).unwrap();
    assert_eq!(y.dim(), (2, 3, 6));
    let row: Array1<f32> = q_matmul_int8(x.index_axis(Axis(0), 1).row(2), w.view()).unwrap();
    assert_eq!(
        bits(&row),
        bits(&y.index_axis(Axis(0), 1).row(2).to_owned())
    );
    let half: Array3<f16> = q_matmul_int8_as(x.view(), w.view()).unwrap();
    assert_eq!(half, y.mapv(f16::from_f32));
}

#[test]
fn matmul_multiplies_with_what_it_is_given() {
    /// Notes what it is asked, and answers in float.
    type Call = (Vec<usize>, Vec<usize>, DimensionNumbers);
    struct Spy(std::sync::Mutex<Vec<Call>>);
    impl DotGeneral<f32> for Spy {
        fn dot_general(
            &self,
            lhs: ArrayViewD<'_, f32>,
            rhs: ArrayViewD<'_, f32>,
            dims: &DimensionNumbers,
            precision: Precision,
        ) -> Result<ArrayD<f32>> {
            let call = (lhs.shape().to_vec(), rhs.shape().to_vec(), dims.clone());
            self.0.lock().unwrap().push(call);
            FloatDotGeneral.dot_general(lhs, rhs, dims, precision)
        }
        fn vjp(
            &self,
            lhs: ArrayViewD<'_, f32>,
            rhs: ArrayViewD<'_, f32>,
            dims: &DimensionNumbers,
            precision: Precision,
        ) -> Result<(ArrayD<f32>, Box<dyn imma::ops::Pullback<f32>>)> {
            FloatDotGeneral.vjp(lhs, rhs, dims, precision)
        }
    }
    let spy = Spy(Default::default());
    let (a, b) = (
        ArrayD::<f32>::ones(vec![2, 1, 3, 4]),
        ArrayD::<f32>::ones(vec![7, 2, 5, 4, 6]),
    );
    let y = matmul(a.view(), b.view(), Precision::Highest, &spy).unwrap();
    assert_eq!(y, ArrayD::from_elem(vec![7, 2, 5, 3, 6], 4.0));
    assert!(y.is_standard_layout());
    let (lhs, rhs, dims) = spy.0.into_inner().unwrap().pop().unwrap();
    // Nothing repeated: the axis of length 1 is gone, only the common one is a batch axis.
    assert_eq!((lhs, rhs), (vec![2, 3, 4], vec![7, 2, 5, 4, 6]));
    assert_eq!((dims.lhs_batch, dims.rhs_batch), (vec![0], vec![1]));
    assert_eq!(
        (dims.lhs_contracting, dims.rhs_contracting),
        (vec![2], vec![3])
    );
}

#[test]
fn backward_refuses_a_gradient_of_another_shape() {
    let a = ArrayD::<f32>::ones(vec![2, 3]);
    let b = ArrayD::<f32>::ones(vec![3, 4]);
    let dims = DimensionNumbers::matmul();
    let (_, pullback) = FloatDotGeneral
        .vjp(a.view(), b.view(), &dims, Precision::Default)
        .unwrap();
    let message = pullback.backward(b.view()).err().unwrap().to_string();
    assert!(
        message.contains("[3, 4]") && message.contains("[2, 4]"),
        "{message}"
    );
}

#[test]
fn linear_writes_any_layout_and_any_number_of_axes() {
    let mut noise = Random(3);
    let weight = noise
        .floats::<bf16>(&[33, 20])
        .into_dimensionality()
        .unwrap();
    let bias = noise.floats::<bf16>(&[33]).into_dimensionality().unwrap();
    let layer = Int8Linear::from_float(weight.view(), Some(bias.view())).unwrap();
    assert_eq!((layer.inputs(), layer.outputs()), (20, 33));
    let x = noise
        .floats::<bf16>(&[2, 3, 20])
        .into_dimensionality::<ndarray::Ix3>()
        .unwrap();
    let y = layer.forward(x.view()).unwrap();
    assert_eq!(y.dim(), (2, 3, 33));
    let mut plain = Array3::<bf16>::zeros((2, 3, 33));
    layer.forward_into(x.view(), plain.view_mut()).unwrap();
    assert_eq!(plain, y);
    let mut turned = Array3::<bf16>::zeros((33, 3, 2));
    layer
        .forward_into(x.view(), turned.view_mut().reversed_axes())
        .unwrap();
    assert_eq!(turned.reversed_axes(), y);
    let mut upside_down = Array3::<bf16>::zeros((2, 3, 33));
    let mut view = upside_down.view_mut();
    view.invert_axis(Axis(0));
    view.invert_axis(Axis(1));
    layer.forward_into(x.view(), view.view_mut()).unwrap();
    assert_eq!(view, y);
    let message = layer
        .forward_into(x.view(), Array3::zeros((2, 3, 32)).view_mut())
        .unwrap_err();
    assert!(message.to_string().contains("[2, 3, 33]"), "{message}");
}

#[test]
fn linear_steps_are_those_of_the_epilogue() {
    let mut noise = Random(4);
    let weight = noise
        .int8(&[5, 40])
        .into_dimensionality::<ndarray::Ix2>()
        .unwrap();
    let bias = arr1(&[1.0f32, -2.0, 0.25, 0.0, 3.0]);
    let scales = [0.5f32, 0.01, 0.1, 2.0, 0.03];
    let x = noise
        .floats::<f32>(&[3, 40])
        .into_dimensionality::<ndarray::Ix2>()
        .unwrap();
    let step = 0.03f32;
    let layer = Int8Linear::from_int8(weight.view(), &scales, Some(bias.view()))
        .unwrap()
        .with_activation(Activation::Relu)
        .with_activation_quant(ActivationQuant::Static { scale: step })
        .unwrap();
    let y = layer.forward(x.view()).unwrap();
    for ((m, n), &y) in y.indexed_iter() {
        let q = x.row(m).mapv(|x| i32::from(quantize(x * (1.0 / step))));
        let sum: i32 = q
            .iter()
            .zip(weight.row(n))
            .map(|(x, w)| x * i32::from(*w))
            .sum();
        let want = (sum as f32 * step).mul_add(scales[n], bias[n]).max(0.0);
        assert_eq!(y, want);
    }
    // Asymmetric inputs come near the float product: steps of 1/255 of the range.
    let layer = Int8Linear::from_int8::<f32>(weight.view(), &scales, None)
        .unwrap()
        .with_activation_quant(ActivationQuant::PerTokenAsymmetric)
        .unwrap();
    let y = layer.forward(x.view()).unwrap();
    for ((m, n), &y) in y.indexed_iter() {
        let products = x
            .row(m)
            .iter()
            .zip(weight.row(n))
            .map(|(x, w)| x * f32::from(*w) * scales[n])
            .collect::<Vec<_>>();
        let worst: f32 = weight
            .row(n)
            .iter()
            .map(|w| f32::from(*w).abs() * scales[n] * 8.0 / 255.0)
            .sum();
        assert!((y - products.iter().sum::<f32>()).abs() <= worst);
    }
}

#[test]
fn linear_refuses_bad_parts_when_it_is_built() {
    let weight = Array2::<i8>::zeros((3, 4));
    let build = |scales: &[f32], bias: Option<&[f32]>| {
        let bias = bias.map(ndarray::ArrayView1::from);
        Int8Linear::from_int8(weight.view(), scales, bias).map(drop)
    };
    assert_eq!(build(&[1.0], None), Ok(()));
    assert!(matches!(
        build(&[1.0; 2], None),
        Err(Error::Length {
            found: 2,
            expected: 3,
            ..
        })
    ));
    assert!(matches!(
        build(&[1.0; 3], Some(&[0.0; 4])),
        Err(Error::Length { what: "bias", .. })
    ));
    assert!(matches!(
        build(&[1.0, f32::NAN, 1.0], None),
        Err(Error::Value { .. })
    ));
    let layer = Int8Linear::from_int8::<f32>(weight.view(), &[1.0], None).unwrap();
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let quant = ActivationQuant::Static { scale };
        assert!(matches!(
            layer.clone().with_activation_quant(quant),
            Err(Error::Value { .. })
        ));
    }
    let long = Array2::<i8>::zeros((1, 70_000));
    let layer = Int8Linear::from_int8::<f32>(long.view(), &[1.0], None).unwrap();
    let asymmetric = layer.with_activation_quant(ActivationQuant::PerTokenAsymmetric);
    assert!(matches!(asymmetric, Err(Error::KTooLong { .. })));
}

//! Float products through int8.

use crate::element::Element;
use crate::element::OutputMut;
use crate::error::{Error, Result};
use crate::gemm::{check_k, Backend, Lhs, Weights};
use crate::ops::batches::{product, MatrixProduct};
use crate::ops::broadcast::{addressable, zeros};
use crate::ops::default_backend;
use crate::ops::rows::as_rows;
use ndarray::{Array, ArrayD, ArrayView, ArrayView2, ArrayViewMut2, Dimension};
use std::marker::PhantomData;

/// The name in errors.
const OP: &str = "q_matmul_int8";

/// The product of floats through int8: each row of `a` and each column of `w` quantised with its own scale.
///
/// `a` is `[.., K]` (usually `[M, K]`; a vector or a batch counts as that many rows), `w` is `[K, N]`; the result is
/// `[.., N]`, with as many axes as `a`. With `bound(x)` the largest magnitude of a row or column:
///
/// ```text
/// qa[m, k] = clip(round_half_even(a[m, k] * (127 / bound(a[m, :]))), -127, 127)      qw[k, n] alike, by columns
/// out[m, n] = T( f32(sum over k of qa[m, k] * qw[k, n]) * (bound(a[m, :]) / 127) * (bound(w[:, n]) / 127) )
/// ```
///
/// The sum is an exact int32; each float step is rounded to nearest even in f32, and the result once more when T is
/// f16 or bf16. It is within 4 ulp of the division form `int32 / (127/bound_a * 127/bound_w)` in f32. A row or column
/// that holds NaN or infinity makes its row or column of the result NaN; rows of zeros give zeros. Row `m` of the
/// result depends on row `m` of `a` and on `w` alone, so that any way of batching gives the same bits.
///
/// # Errors
/// [`Error::ShapeMismatch`] when the last axis of `a` and the first of `w` differ, [`Error::Shape`] when `a` is 0-D,
/// [`Error::KTooLong`] when K is above [`MAX_K`](crate::numerics::MAX_K), [`Error::Memory`] when the result cannot be
/// allocated.
///
/// ```
/// use imma::q_matmul_int8;
/// use ndarray::arr2;
/// let a = arr2(&[[1.0f32, -2.0], [0.5, 0.25]]);
/// let w = arr2(&[[1.0f32], [0.5]]);
/// let out = q_matmul_int8(a.view(), w.view())?;
/// assert!((out[[1, 0]] - 0.625).abs() < 5e-3);
/// # Ok::<(), imma::Error>(())
/// ```
///
/// Weights that are used more than once are better packed once: [`Int8Linear`](crate::Int8Linear), the same bits.
pub fn q_matmul_int8<T: Element, D: Dimension>(
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<T, D>> {
    q_matmul_int8_as_on(default_backend().as_ref(), a, w)
}

/// [`q_matmul_int8`] on a backend of choice; the same bits.
///
/// # Errors
/// As [`q_matmul_int8`], and those of the backend.
pub fn q_matmul_int8_on<T: Element, D: Dimension>(
    backend: &dyn Backend,
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<T, D>> {
    q_matmul_int8_as_on(backend, a, w)
}

/// [`q_matmul_int8`] with another element type for the result, rounded once from f32.
///
/// # Errors
/// As [`q_matmul_int8`].
///
/// ```
/// use half::bf16;
/// use imma::ops::q_matmul_int8_as;
/// use ndarray::{arr2, Array2};
/// let out: Array2<bf16> = q_matmul_int8_as(arr2(&[[2.0f32]]).view(), arr2(&[[3.0f32]]).view())?;
/// assert_eq!(out[[0, 0]], bf16::from_f32(6.0));
/// # Ok::<(), imma::Error>(())
/// ```
pub fn q_matmul_int8_as<T: Element, O: Element, D: Dimension>(
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<O, D>> {
    q_matmul_int8_as_on(default_backend().as_ref(), a, w)
}

/// [`q_matmul_int8_as`] on a backend of choice; the same bits.
///
/// # Errors
/// As [`q_matmul_int8`], and those of the backend.
pub fn q_matmul_int8_as_on<T: Element, O: Element, D: Dimension>(
    backend: &dyn Backend,
    a: ArrayView<'_, T, D>,
    w: ArrayView2<'_, T>,
) -> Result<Array<O, D>> {
    let (k, n) = w.dim();
    let shape = rows_times(OP, &a, k, n, w.shape())?;
    check_k(k, false)?;
    let a = as_rows(a.into_dyn());
    let mut out = zeros::<O, _>(OP, [a.nrows(), n])?;
    if !out.is_empty() {
        backend.matmul_quantized(T::tag(a.view()), T::tag(w), O::tag_mut(out.view_mut()))?;
    }
    Ok(out.into_shape_with_order(shape).expect("as many elements"))
}

/// [`q_matmul_int8`] by `numpy.matmul`'s rules ([`MatmulShape`](crate::ops::MatmulShape)): 1-D operands on either side, batches of
/// weights, broadcasting.
///
/// Each matrix of the batch is a product of its own, with the bits of [`q_matmul_int8_as`]: a scale for each row of the left
/// one and for each column of the right one.
///
/// # Errors
/// [`Error::ShapeMismatch`] as [`MatmulShape::new`](crate::ops::MatmulShape::new), [`Error::KTooLong`] and [`Error::Memory`] as
/// [`q_matmul_int8`].
///
/// ```
/// use imma::ops::q_matmul_int8_broadcast;
/// use ndarray::{arr1, Array3, ArrayD};
/// let a = Array3::<f32>::ones((2, 3, 4));
/// let out: ArrayD<f32> = q_matmul_int8_broadcast(a.view(), arr1(&[1.0f32, 2.0, 3.0, 4.0]).view())?;
/// assert_eq!(out.shape(), [2, 3]);
/// assert!((out[[1, 2]] - 10.0).abs() < 0.1);
/// # Ok::<(), imma::Error>(())
/// ```
pub fn q_matmul_int8_broadcast<T: Element, O: Element, D1: Dimension, D2: Dimension>(
    a: ArrayView<'_, T, D1>,
    w: ArrayView<'_, T, D2>,
) -> Result<ArrayD<O>> {
    product::<Quantised<T, O>, _, _>(default_backend().as_ref(), true, a, w)
}

/// [`q_matmul_int8_broadcast`] on a backend of choice; the same bits.
///
/// # Errors
/// As [`q_matmul_int8_broadcast`], and those of the backend.
pub fn q_matmul_int8_broadcast_on<T: Element, O: Element, D1: Dimension, D2: Dimension>(
    backend: &dyn Backend,
    a: ArrayView<'_, T, D1>,
    w: ArrayView<'_, T, D2>,
) -> Result<ArrayD<O>> {
    product::<Quantised<T, O>, _, _>(backend, false, a, w)
}

/// T times T to O, both quantised on the way.
struct Quantised<T, O>(PhantomData<(T, O)>);

impl<T: Element, O: Element> MatrixProduct for Quantised<T, O> {
    type In = T;
    type Out = O;
    const OP: &'static str = OP;

    fn once(
        backend: &dyn Backend,
        lhs: ArrayView2<'_, T>,
        rhs: ArrayView2<'_, T>,
        out: ArrayViewMut2<'_, O>,
    ) -> Result<()> {
        backend.matmul_quantized(T::tag(lhs), T::tag(rhs), O::tag_mut(out))
    }

    fn weights(rhs: ArrayView2<'_, T>) -> Weights<'_> {
        Weights::Float(T::tag(rhs))
    }

    fn lhs(lhs: ArrayView2<'_, T>) -> Lhs<'_> {
        Lhs::Float {
            data: T::tag(lhs),
            quant: Default::default(),
        }
    }

    fn output(out: ArrayViewMut2<'_, O>) -> OutputMut<'_> {
        O::tag_mut(out)
    }
}

/// The shape `[.., N]` of `a [.., K]` times a `[K, N]` matrix, whose shape as the caller wrote it is `other`.
pub(crate) fn rows_times<T, D: Dimension>(
    op: &'static str,
    a: &ArrayView<'_, T, D>,
    k: usize,
    n: usize,
    other: &[usize],
) -> Result<D> {
    let Some(last) = a.ndim().checked_sub(1) else {
        return Err(Error::Shape {
            op,
            what: "the left operand",
            found: vec![],
            expected: format!("[.., {k}]"),
        });
    };
    let refuse = |expected| {
        Err(Error::ShapeMismatch {
            op,
            lhs: a.shape().to_vec(),
            rhs: other.to_vec(),
            expected,
        })
    };
    if a.shape()[last] != k {
        return refuse(format!(
            "the left operand's last axis must have {k} elements"
        ));
    }
    let mut shape = a.raw_dim();
    shape[last] = n;
    if !addressable(shape.slice()) {
        return refuse("the result would have more elements than can be addressed".into());
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;
    use crate::Cpu;
    use half::bf16;
    use ndarray::{s, Array4, Axis};

    fn noise(shape: [usize; 4], seed: usize) -> Array4<f32> {
        Array4::from_shape_fn(shape, |(h, i, j, k)| {
            let x = (h * 7919 + i * 104_729 + j * 1299 + k * 31 + seed) * 2_654_435_761 % 10_007;
            x as f32 / 1000.0 - 5.0
        })
    }

    /// Every matrix of the batch by itself, whatever is shared, repeated, viewed or folded on the way.
    #[test]
    fn each_matrix_of_a_batch_is_a_product_of_its_own() {
        let cpu = Cpu::new().with_threads(1).unwrap();
        // (batch of a, batch of w): one for all, each its own, both at once.
        for (a, w) in [
            ([2, 3], [2, 3]),
            ([2, 3], [1, 1]),
            ([1, 1], [2, 3]),
            ([2, 1], [1, 3]),
            ([1, 3], [2, 3]),
        ] {
            for (m, k, n) in [(1, 1, 1), (5, 37, 9), (70, 8, 33)] {
                let mut a = noise([a[0], a[1], m, k], 1);
                let w = noise([w[0], w[1], n, k], 2).permuted_axes([0, 1, 3, 2]);
                a[[0, 0, m - 1, k - 1]] = f32::NAN;
                let got = q_matmul_int8_broadcast::<f32, f32, _, _>(a.view(), w.view()).unwrap();
                assert_eq!(got.shape(), [2, 3, m, n]);
                for i in 0..2 {
                    for j in 0..3 {
                        let of = |x: &Array4<f32>| {
                            let (i, j) =
                                (i.min(x.len_of(Axis(0)) - 1), j.min(x.len_of(Axis(1)) - 1));
                            x.slice(s![i, j, .., ..]).to_owned()
                        };
                        let want = reference::q_matmul(of(&a).view(), of(&w).view());
                        let got = got.slice(s![i, j, .., ..]);
                        let bits = |x: &f32| {
                            if x.is_nan() {
                                f32::NAN.to_bits()
                            } else {
                                x.to_bits()
                            }
                        };
                        assert!(
                            got.iter().map(bits).eq(want.iter().map(bits)),
                            "{m}x{k}x{n}"
                        );
                    }
                }
                let narrow: ArrayD<bf16> =
                    q_matmul_int8_broadcast_on(&cpu, a.view(), w.view()).unwrap();
                for (x, y) in narrow.iter().zip(&got) {
                    assert!(x.is_nan() && y.is_nan() || *x == bf16::from_f32(*y));
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (a, w) = (noise([1, 2, 3, 4], 0), noise([1, 3, 4, 5], 0));
        let error = q_matmul_int8_broadcast::<f32, f32, _, _>(a.view(), w.view()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("q_matmul_int8: shapes [1, 2, 3, 4]"),
            "{error}"
        );
        let (a, w) = (
            Array::<f32, _>::zeros((1 << 23, 1)),
            Array::zeros((1, 1 << 23)),
        );
        for error in [
            q_matmul_int8_broadcast::<f32, f32, _, _>(a.view(), w.view()).unwrap_err(),
            q_matmul_int8(a.view(), w.view()).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Memory { op: OP, bytes, .. } if bytes == 1 << 48));
        }
    }
}

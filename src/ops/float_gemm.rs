//! The one call into the `gemm` crate: f32 matrices of any strides.

use ndarray::{ArrayView2, ArrayViewMut2};

/// `out = lhs [M, K] x rhs [K, N]` in f32, on rayon's current thread pool when the product is large.
///
/// # Panics
/// When the shapes don't fit: the caller has checked them.
pub(crate) fn gemm_f32(
    lhs: ArrayView2<'_, f32>,
    rhs: ArrayView2<'_, f32>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let ((m, k), (rows, n)) = (lhs.dim(), rhs.dim());
    assert!(
        rows == k && out.dim() == (m, n),
        "checked shapes reach gemm_f32"
    );
    if m == 0 || n == 0 || k == 0 {
        out.fill(0.0);
        return;
    }
    let (l, r, o) = (lhs.strides(), rhs.strides(), out.strides());
    let (l, r, o) = ([l[0], l[1]], [r[0], r[1]], [o[0], o[1]]);
    // SAFETY: the three pointers and strides are those of live views of shapes [m, k], [k, n] and [m, n] (asserted
    // above, none empty), so that every address formed is inside them; `out` is borrowed mutably and so overlaps
    // neither operand, and ndarray's mutable views don't alias themselves.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            o[1],
            o[0],
            false,
            lhs.as_ptr(),
            l[1],
            l[0],
            rhs.as_ptr(),
            r[1],
            r[0],
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

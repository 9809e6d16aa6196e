//! The element types that go in and come out: f32, f16, bf16, and the integers int8 and int32.

use half::{bf16, f16};
use std::fmt;

/// The name of an element type, for messages and for choosing an output type at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::I8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I8 => "i8",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A floating-point element: f32, f16 or bf16. Sealed.
///
/// Every computation widens to f32 first (exact) and rounds back once, to nearest even.
pub trait Element: sealed::Sealed + Copy + Send + Sync + fmt::Debug + Default + 'static {
    /// Its name.
    const DTYPE: DType;
    /// Widens to f32; exact.
    fn to_f32(self) -> f32;
    /// Rounds an f32 to this type, to nearest even; overflow gives infinity, NaN stays NaN.
    fn from_f32(x: f32) -> Self;
    /// A view of these elements tagged with their type.
    fn tag(view: ndarray::ArrayView2<'_, Self>) -> FloatView<'_>;
    /// A mutable view of these elements tagged with their type.
    fn tag_mut(view: ndarray::ArrayViewMut2<'_, Self>) -> OutputMut<'_>;
    /// A slice of these elements tagged with their type.
    fn tag_slice(slice: &[Self]) -> FloatSlice<'_>;
}

macro_rules! element {
    ($t:ty, $tag:ident, $to:expr, $from:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$tag;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $from(x)
            }
            fn tag(view: ndarray::ArrayView2<'_, Self>) -> FloatView<'_> {
                FloatView::$tag(view)
            }
            fn tag_mut(view: ndarray::ArrayViewMut2<'_, Self>) -> OutputMut<'_> {
                OutputMut::$tag(view)
            }
            fn tag_slice(slice: &[Self]) -> FloatSlice<'_> {
                FloatSlice::$tag(slice)
            }
        }
    };
}
element!(f32, F32, |x| x, |x| x);
element!(f16, F16, widen_f16, narrow_f16);
element!(bf16, BF16, widen_bf16, narrow_bf16);

// `half`'s own conversions look up the CPU's features at each call, which keeps loops from being
// vectorised. These are branch-free and give the same bits (the tests compare all 65,536 values and
// every rounding boundary).

#[inline(always)]
fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

#[inline(always)]
fn narrow_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN keeps its upper bits and is made quiet, so that rounding can't turn it into infinity.
    let nan = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16)
}

#[inline(always)]
fn widen_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let magnitude = bits & 0x7fff;
    // Exponent and fraction move to their f32 places; multiplying by 2^112 corrects the bias and
    // normalises subnormals, exactly. Infinity and NaN get the full exponent instead.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let special = (magnitude << 13) | 0x7f80_0000;
    // A signalling NaN becomes quiet, as the hardware's conversion makes it.
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let unsigned = if magnitude >= 0x7c00 {
        special | quiet
    } else {
        scaled.to_bits()
    };
    f32::from_bits(unsigned | ((bits & 0x8000) << 16))
}

#[inline(always)]
fn narrow_f16(x: f32) -> f16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal results: move the bias, round the 13 dropped bits to nearest even; a carry may run into
    // the exponent, up to infinity, which is right.
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    // Subnormal results (below 2^-14): adding 0.5 lets the f32 adder do the rounding at 2^-24.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() & 0x7fff;
    let nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
    let unsigned = if magnitude > 0x7f80_0000 {
        nan
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        subnormal
    } else {
        normal
    };
    f16::from_bits((unsigned | sign) as u16)
}

/// A read-only float matrix of any element type.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FloatView<'a> {
    /// f32 elements.
    F32(ndarray::ArrayView2<'a, f32>),
    /// f16 elements.
    F16(ndarray::ArrayView2<'a, f16>),
    /// bf16 elements.
    BF16(ndarray::ArrayView2<'a, bf16>),
}

impl<'a> FloatView<'a> {
    /// A view of the same elements with a shorter lifetime.
    pub fn view(&self) -> FloatView<'_> {
        match self {
            FloatView::F32(v) => FloatView::F32(v.view()),
            FloatView::F16(v) => FloatView::F16(v.view()),
            FloatView::BF16(v) => FloatView::BF16(v.view()),
        }
    }

    /// Rows `first..end`.
    pub(crate) fn rows(&self, first: usize, end: usize) -> FloatView<'a> {
        let rows = ndarray::s![first..end, ..];
        match self {
            FloatView::F32(v) => FloatView::F32(v.slice_move(rows)),
            FloatView::F16(v) => FloatView::F16(v.slice_move(rows)),
            FloatView::BF16(v) => FloatView::BF16(v.slice_move(rows)),
        }
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            FloatView::F32(v) => v.dim(),
            FloatView::F16(v) => v.dim(),
            FloatView::BF16(v) => v.dim(),
        }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            FloatView::F32(_) => DType::F32,
            FloatView::F16(_) => DType::F16,
            FloatView::BF16(_) => DType::BF16,
        }
    }
}

/// A read-only float vector of any element type, such as a bias.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum FloatSlice<'a> {
    /// f32 elements.
    F32(&'a [f32]),
    /// f16 elements.
    F16(&'a [f16]),
    /// bf16 elements.
    BF16(&'a [bf16]),
}

impl FloatSlice<'_> {
    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            FloatSlice::F32(_) => DType::F32,
            FloatSlice::F16(_) => DType::F16,
            FloatSlice::BF16(_) => DType::BF16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            FloatSlice::F32(v) => v.len(),
            FloatSlice::F16(v) => v.len(),
            FloatSlice::BF16(v) => v.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> Self {
        match self {
            FloatSlice::F32(v) => FloatSlice::F32(&v[range]),
            FloatSlice::F16(v) => FloatSlice::F16(&v[range]),
            FloatSlice::BF16(v) => FloatSlice::BF16(&v[range]),
        }
    }

    /// A copy widened to f32.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        match self {
            FloatSlice::F32(v) => v.to_vec(),
            FloatSlice::F16(v) => v.iter().map(|x| Element::to_f32(*x)).collect(),
            FloatSlice::BF16(v) => v.iter().map(|x| Element::to_f32(*x)).collect(),
        }
    }
}

/// Where a product goes: a mutable matrix of any output type.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutputMut<'a> {
    /// f32 elements.
    F32(ndarray::ArrayViewMut2<'a, f32>),
    /// f16 elements.
    F16(ndarray::ArrayViewMut2<'a, f16>),
    /// bf16 elements.
    BF16(ndarray::ArrayViewMut2<'a, bf16>),
    /// The exact sums.
    I32(ndarray::ArrayViewMut2<'a, i32>),
    /// Quantised again with the epilogue's output scale.
    I8(ndarray::ArrayViewMut2<'a, i8>),
    /// Quantised again with a scale a row, which goes beside; any strides.
    I8PerRow {
        /// The integers.
        data: ndarray::ArrayViewMut2<'a, i8>,
        /// One a row.
        scales: &'a mut [f32],
    },
}

impl OutputMut<'_> {
    /// Rows `first..end`, as a place of their own.
    pub(crate) fn rows(&mut self, first: usize, end: usize) -> OutputMut<'_> {
        let rows = ndarray::s![first..end, ..];
        match self {
            OutputMut::F32(v) => OutputMut::F32(v.slice_mut(rows)),
            OutputMut::F16(v) => OutputMut::F16(v.slice_mut(rows)),
            OutputMut::BF16(v) => OutputMut::BF16(v.slice_mut(rows)),
            OutputMut::I32(v) => OutputMut::I32(v.slice_mut(rows)),
            OutputMut::I8(v) => OutputMut::I8(v.slice_mut(rows)),
            OutputMut::I8PerRow { data, scales } => OutputMut::I8PerRow {
                data: data.slice_mut(rows),
                scales: &mut scales[first..end],
            },
        }
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            OutputMut::F32(v) => v.dim(),
            OutputMut::F16(v) => v.dim(),
            OutputMut::BF16(v) => v.dim(),
            OutputMut::I32(v) => v.dim(),
            OutputMut::I8(v) | OutputMut::I8PerRow { data: v, .. } => v.dim(),
        }
    }

    /// Distance in elements between rows and between columns.
    pub fn strides(&self) -> (isize, isize) {
        fn of(s: &[isize]) -> (isize, isize) {
            (s[0], s[1])
        }
        match self {
            OutputMut::F32(v) => of(v.strides()),
            OutputMut::F16(v) => of(v.strides()),
            OutputMut::BF16(v) => of(v.strides()),
            OutputMut::I32(v) => of(v.strides()),
            OutputMut::I8(v) | OutputMut::I8PerRow { data: v, .. } => of(v.strides()),
        }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            OutputMut::F32(_) => DType::F32,
            OutputMut::F16(_) => DType::F16,
            OutputMut::BF16(_) => DType::BF16,
            OutputMut::I32(_) => DType::I32,
            OutputMut::I8(_) | OutputMut::I8PerRow { .. } => DType::I8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn widening_agrees_with_half_for_every_value() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(same(Element::to_f32(h), f16::to_f32(h)), "f16 {bits:#06x}");
            assert!(
                same(Element::to_f32(b), bf16::to_f32(b)),
                "bf16 {bits:#06x}"
            );
        }
    }

    #[test]
    fn narrowing_agrees_with_half_at_every_rounding_boundary() {
        // Each representable value, the midpoints between neighbours, and one f32 step either side.
        let near = |x: f32| {
            let b = x.to_bits();
            [b.wrapping_sub(1), b, b.wrapping_add(1)].map(f32::from_bits)
        };
        for bits in 0..=u16::MAX {
            let (lo, hi) = (f16::from_bits(bits), f16::from_bits(bits.wrapping_add(1)));
            let middle = (f64::from(lo.to_f32()) + f64::from(hi.to_f32())) / 2.0;
            let (blo, bhi) = (bf16::from_bits(bits), bf16::from_bits(bits.wrapping_add(1)));
            let bmiddle = (f64::from(blo.to_f32()) + f64::from(bhi.to_f32())) / 2.0;
            for x in [lo.to_f32(), middle as f32, blo.to_f32(), bmiddle as f32] {
                for x in near(x) {
                    let (h, b) = (
                        <f16 as Element>::from_f32(x),
                        <bf16 as Element>::from_f32(x),
                    );
                    assert!(
                        same(f16::to_f32(h), f16::from_f32(x).to_f32()),
                        "f16 of {x:e}"
                    );
                    assert!(
                        same(bf16::to_f32(b), bf16::from_f32(x).to_f32()),
                        "bf16 of {x:e}"
                    );
                }
            }
        }
    }
}

//! Where the parts of an epilogue lie.

use crate::element::{DType, FloatSlice, FloatView};
use std::fmt::Debug;
use std::marker::PhantomData;

/// Where the parts of an [`Epilogue`](super::Epilogue) lie: host slices, a device's memory, or nowhere yet.
///
/// The functions answer what a check asks; `None` where the place does not know.
pub trait Place {
    /// Scales, one a row or column.
    type F32: Clone + Debug;
    /// Zero points, one a row.
    type I32: Clone + Debug;
    /// Floats, one a column.
    type Bias: Clone + Debug;
    /// A matrix of floats.
    type Residual: Clone + Debug;

    /// How many scales there are.
    fn f32_len(scales: &Self::F32) -> Option<usize>;
    /// How many zero points there are.
    fn i32_len(zero_points: &Self::I32) -> Option<usize>;
    /// The zero points themselves, where the host can read them.
    fn i32_values(_zero_points: &Self::I32) -> Option<&[i32]> {
        None
    }
    /// How many elements a bias has.
    fn bias_len(bias: &Self::Bias) -> Option<usize>;
    /// The type of a bias.
    fn bias_dtype(bias: &Self::Bias) -> DType;
    /// Rows and columns of a residual.
    fn residual_dim(residual: &Self::Residual) -> Option<(usize, usize)>;
    /// The type of a residual.
    fn residual_dtype(residual: &Self::Residual) -> DType;
}

/// Parts in the host's memory.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a>(PhantomData<&'a ()>);

impl<'a> Place for Host<'a> {
    type F32 = &'a [f32];
    type I32 = &'a [i32];
    type Bias = FloatSlice<'a>;
    type Residual = FloatView<'a>;

    fn f32_len(scales: &&'a [f32]) -> Option<usize> {
        Some(scales.len())
    }
    fn i32_len(zero_points: &&'a [i32]) -> Option<usize> {
        Some(zero_points.len())
    }
    fn i32_values<'v>(zero_points: &'v &'a [i32]) -> Option<&'v [i32]> {
        Some(zero_points)
    }
    fn bias_len(bias: &FloatSlice<'a>) -> Option<usize> {
        Some(bias.len())
    }
    fn bias_dtype(bias: &FloatSlice<'a>) -> DType {
        bias.dtype()
    }
    fn residual_dim(residual: &FloatView<'a>) -> Option<(usize, usize)> {
        Some(residual.dim())
    }
    fn residual_dtype(residual: &FloatView<'a>) -> DType {
        residual.dtype()
    }
}

/// Parts that have no memory yet: what a plan knows of them is that they are there, and their types.
#[derive(Debug, Clone, Copy)]
pub struct Planned;

impl Place for Planned {
    type F32 = ();
    type I32 = ();
    type Bias = DType;
    type Residual = DType;

    fn f32_len(_: &()) -> Option<usize> {
        None
    }
    fn i32_len(_: &()) -> Option<usize> {
        None
    }
    fn bias_len(_: &DType) -> Option<usize> {
        None
    }
    fn bias_dtype(bias: &DType) -> DType {
        *bias
    }
    fn residual_dim(_: &DType) -> Option<(usize, usize)> {
        None
    }
    fn residual_dtype(residual: &DType) -> DType {
        *residual
    }
}

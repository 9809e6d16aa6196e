//! Gate and up side by side: the layout of gated products.

use crate::error::{Error, Result};
use ndarray::{Array, ArrayView, Axis, Dimension, RemoveAxis};

/// Puts the slices of `gate` and `up` along `axis` in turn: `2 j` is gate's `j`, `2 j + 1` is up's `j`, as
/// [`Epilogue::gated`](crate::Epilogue::gated) expects the columns of a product.
///
/// Weights `[K, N/2]` are interleaved along axis 1, weights `[N/2, K]` as checkpoints store them, biases and scales along
/// axis 0. The elements are copied as they are, whatever their type.
///
/// ```
/// use imma::activation::Activation;
/// use imma::element::OutputMut;
/// use imma::gemm::{interleave_gate_up, Gemm, Lhs, Weights};
/// use imma::{Backend, Cpu, Epilogue};
/// use ndarray::{arr2, Array2, Axis};
/// let (gate, up) = (arr2(&[[1i8, -1], [2, 1]]), arr2(&[[1i8, 2], [0, 3]]));
/// let weights = interleave_gate_up(gate.view(), up.view(), Axis(1))?;
/// assert_eq!(weights, arr2(&[[1, 1, -1, 2], [2, 0, 1, 3]]));
/// let cpu = Cpu::new();
/// let weights = cpu.pack(Weights::Int8(weights.view()))?;
/// let epilogue = Epilogue { activation: Activation::Relu, gated: true, ..Epilogue::default() };
/// let lhs = arr2(&[[3i8, 4]]);
/// let gemm = Gemm::new(Lhs::Int8(lhs.view()), &weights, epilogue)?;
/// let mut out = Array2::<f32>::zeros((1, 2));
/// cpu.gemm(&gemm, OutputMut::F32(out.view_mut()))?;
/// // relu([11, 1]) * [3, 18]
/// assert_eq!(out, arr2(&[[33.0, 18.0]]));
/// # Ok::<(), imma::Error>(())
/// ```
///
/// # Errors
/// [`Error::ShapeMismatch`] when the two differ in shape, [`Error::Value`] when they have no such axis.
pub fn interleave_gate_up<T: Clone, D: Dimension + RemoveAxis>(
    gate: ArrayView<'_, T, D>,
    up: ArrayView<'_, T, D>,
    axis: Axis,
) -> Result<Array<T, D>> {
    if gate.raw_dim() != up.raw_dim() {
        return Err(Error::ShapeMismatch {
            op: "interleave_gate_up",
            lhs: gate.shape().to_vec(),
            rhs: up.shape().to_vec(),
            expected: "a gate and an up of one shape".into(),
        });
    }
    if axis.index() >= gate.ndim() {
        return Err(Error::Value {
            what: "the axis to interleave",
            found: axis.index().to_string(),
            expected: format!("one of the {} axes", gate.ndim()),
        });
    }
    let mut shape = gate.raw_dim();
    shape[axis.index()] *= 2;
    let slices = gate.axis_iter(axis).zip(up.axis_iter(axis));
    let slices: Vec<_> = slices
        .flat_map(|(gate, up)| [gate.insert_axis(axis), up.insert_axis(axis)])
        .collect();
    if slices.is_empty() {
        return Ok(Array::from_shape_vec(shape, Vec::new()).expect("an empty axis has no elements"));
    }
    let views: Vec<_> = slices
        .into_iter()
        .map(|view| {
            view.into_dimensionality::<D>()
                .expect("as many axes as before")
        })
        .collect();
    Ok(ndarray::concatenate(axis, &views).expect("slices of one shape"))
}

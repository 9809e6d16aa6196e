//! The products themselves: of integers through a backend, of anything else in float.

use super::quantized::Quantized;
use crate::element::Element;
use crate::epilogue::{Epilogue, Output, Scales};
use crate::error::{Error, Result};
use crate::gemm::{check_k, Backend, Gemm, Lhs, PackedWeights, Weights};
use crate::ops::default_backend;
use crate::ops::dimension_numbers::DimensionNumbers;
use crate::ops::dot_general::{DotGeneral, Precision};
use crate::ops::float_dot_general::FloatDotGeneral;
use crate::ops::matrices::{contracted, each_matrix, each_matrix_mut, matrices};
use ndarray::{ArrayD, ArrayView2, ArrayViewD, ArrayViewMut2, Axis, CowArray, IxDyn};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// Where integer products run: the default backend, or the one given.
#[derive(Debug, Clone, Default)]
pub(super) struct Runner(pub Option<Arc<dyn Backend>>);

impl Runner {
    pub fn backend(&self) -> &dyn Backend {
        self.0
            .as_ref()
            .unwrap_or_else(|| default_backend())
            .as_ref()
    }

    /// Whether the entries of a batch may run side by side: on the default backend, which shares rayon's pool.
    fn parallel(&self) -> bool {
        self.0.is_none()
    }
}

/// The right operand's matrices packed for a backend, made at the first use.
pub(super) type PackedOnce = OnceLock<Vec<PackedWeights>>;

/// One operand as it is multiplied.
pub(super) enum Operand<'a, T> {
    Float(ArrayViewD<'a, T>),
    Int(&'a Quantized, Option<&'a PackedOnce>),
}

impl<'a, T: Element> Operand<'a, T> {
    fn widened(&self) -> CowArray<'a, f32, IxDyn> {
        match self {
            Operand::Float(x) => x.mapv(Element::to_f32).into(),
            Operand::Int(q, _) => q.data.mapv(f32::from).into(),
        }
    }

    fn steps(&self) -> Option<&'a ArrayD<f32>> {
        match self {
            Operand::Float(_) => None,
            Operand::Int(q, _) => Some(&q.steps),
        }
    }
}

/// The product of two operands, rounded once from f32; `integers` asks for int32 sums of two quantised ones.
///
/// The dimension numbers have been checked.
pub(super) fn product<T: Element>(
    runner: &Runner,
    integers: bool,
    lhs: Operand<'_, T>,
    rhs: Operand<'_, T>,
    dims: &DimensionNumbers,
    precision: Precision,
) -> Result<ArrayD<T>> {
    match (&lhs, &rhs) {
        (Operand::Float(lhs), Operand::Float(rhs)) => {
            FloatDotGeneral.dot_general(lhs.view(), rhs.view(), dims, precision)
        }
        (Operand::Int(lhs, _), Operand::Int(rhs, packed)) if integers => {
            integer_product(runner, lhs, rhs, *packed, dims)
        }
        _ => {
            let (l, r) = (lhs.widened(), rhs.widened());
            let mut out = FloatDotGeneral.dot_general(l.view(), r.view(), dims, precision)?;
            let (lhs_free, rhs_free) = (dims.lhs_free(l.ndim()), dims.rhs_free(r.ndim()));
            if let Some(steps) = lhs.steps() {
                let steps = on_result(steps, &dims.lhs_batch, &lhs_free, 0, rhs_free.len());
                out *= &steps;
            }
            if let Some(steps) = rhs.steps() {
                let steps = on_result(steps, &dims.rhs_batch, &rhs_free, lhs_free.len(), 0);
                out *= &steps;
            }
            Ok(out.mapv(T::from_f32))
        }
    }
}

/// Steps of an operand with the axes of the result: batch, `before` axes of length 1, its free axes, `after` more.
fn on_result<'a>(
    steps: &'a ArrayD<f32>,
    batch: &[usize],
    free: &[usize],
    before: usize,
    after: usize,
) -> ArrayViewD<'a, f32> {
    let mut steps = only(steps, batch, free);
    for _ in 0..before {
        steps = steps.insert_axis(Axis(batch.len()));
    }
    for _ in 0..after {
        let end = Axis(steps.ndim());
        steps = steps.insert_axis(end);
    }
    steps
}

/// Steps as `[batch.., free..]`: the contracted axes, along which they are shared, left out.
pub(super) fn only<'a>(
    steps: &'a ArrayD<f32>,
    batch: &[usize],
    free: &[usize],
) -> ArrayViewD<'a, f32> {
    let kept = [batch, free].concat();
    let contracted = (0..steps.ndim()).filter(|axis| !kept.contains(axis));
    let order = kept.iter().copied().chain(contracted).collect::<Vec<_>>();
    let mut steps = steps.view().permuted_axes(order);
    while steps.ndim() > kept.len() {
        steps = steps.index_axis_move(Axis(kept.len()), 0);
    }
    steps
}

/// `f32(sum of integers) * left step * right step`, each rounded to nearest even, then once to T.
fn integer_product<T: Element>(
    runner: &Runner,
    lhs: &Quantized,
    rhs: &Quantized,
    packed: Option<&PackedOnce>,
    dims: &DimensionNumbers,
) -> Result<ArrayD<T>> {
    let shape = dims.output_shape(lhs.data.shape(), rhs.data.shape())?;
    let (lhs_free, rhs_free) = (
        dims.lhs_free(lhs.data.ndim()),
        dims.rhs_free(rhs.data.ndim()),
    );
    let (left, right) = match packed {
        None => contracted(dims),
        // Packed once for all left operands: in the right operand's own order.
        Some(_) => {
            let (right, left) = contracted(&dims.swapped());
            (left, right)
        }
    };
    let left = matrices(lhs.data.view(), &dims.lhs_batch, &lhs_free, &left);
    let right = matrices(rhs.data.view(), &dims.rhs_batch, &rhs_free, &right);
    let axes = dims.lhs_batch.len();
    let (m, n) = (left.len_of(Axis(axes)), right.len_of(Axis(axes)));
    check_k(left.len_of(Axis(axes + 1)), false)?;
    let mut out = ArrayD::<T>::default(shape);
    if out.is_empty() {
        return Ok(out);
    }
    let left = each_matrix(left.view());
    let right = each_matrix(right.view());
    let rows = StepsOf::new(&lhs.steps, &dims.lhs_batch, &lhs_free, lhs.data.shape(), m);
    let columns = StepsOf::new(&rhs.steps, &dims.rhs_batch, &rhs_free, rhs.data.shape(), n);
    let backend = runner.backend();
    let pack = |i: usize| -> Result<PackedWeights> {
        let right: ArrayView2<'_, i8> = right[i].t();
        let packed = backend.pack(Weights::Int8(right))?;
        packed.with_scales(columns.of(i).as_slice())
    };
    let kept = match packed {
        None => None,
        Some(once) => Some(match once.get() {
            Some(kept) => kept,
            None => {
                let all: Vec<_> = (0..right.len()).map(pack).collect::<Result<_>>()?;
                once.get_or_init(|| all)
            }
        }),
    };
    let one = |i: usize, mut out: ArrayViewMut2<'_, T>| -> Result<()> {
        let mut run = |weights: &PackedWeights| {
            let output = Output::of::<T>();
            let epilogue = Epilogue::to(output).with_row_scales(rows.of(i).scales());
            let gemm = Gemm::new(Lhs::Int8(left[i]), weights, epilogue)?;
            backend.gemm(&gemm, T::tag_mut(out.view_mut()))
        };
        match kept {
            None => run(&pack(i)?),
            Some(kept) => match run(&kept[i]) {
                // Kept for the backend of an earlier call.
                Err(Error::PackedElsewhere { .. }) => run(&pack(i)?),
                other => other,
            },
        }
    };
    let data = out.as_slice_mut().expect("made in standard layout");
    let outs = each_matrix_mut(data, m, n);
    if runner.parallel() && outs.len() > 1 {
        let each = outs.into_par_iter().enumerate();
        each.try_for_each(|(i, out)| one(i, out))?;
    } else {
        outs.into_iter()
            .enumerate()
            .try_for_each(|(i, out)| one(i, out))?;
    }
    Ok(out)
}

/// The steps of one operand, matrix by matrix.
struct StepsOf<'a> {
    all: Cow<'a, [f32]>,
    /// Steps a matrix; 0 when one serves all.
    each: usize,
}

impl<'a> StepsOf<'a> {
    fn new(
        steps: &'a ArrayD<f32>,
        batch: &[usize],
        free: &[usize],
        shape: &[usize],
        each: usize,
    ) -> Self {
        if steps.len() == 1 {
            let one = steps.iter().copied().collect();
            return StepsOf {
                all: Cow::Owned(one),
                each: 0,
            };
        }
        let full: Vec<usize> = batch.iter().chain(free).map(|&a| shape[a]).collect();
        let steps = only(steps, batch, free);
        let steps = steps.broadcast(full).expect("as many, or one, an axis");
        StepsOf {
            all: steps.iter().copied().collect(),
            each,
        }
    }

    fn of(&self, matrix: usize) -> MatrixSteps<'_> {
        match self.each {
            0 => MatrixSteps(&self.all, true),
            n => MatrixSteps(&self.all[matrix * n..][..n], false),
        }
    }
}

/// The steps of one matrix, and whether one serves it all.
struct MatrixSteps<'a>(&'a [f32], bool);

impl<'a> MatrixSteps<'a> {
    fn as_slice(&self) -> &'a [f32] {
        self.0
    }

    fn scales(&self) -> Scales<&'a [f32]> {
        match self.1 {
            true => Scales::PerTensor(self.0[0]),
            false => Scales::PerVector(self.0),
        }
    }
}

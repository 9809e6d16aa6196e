//! A linear layer of which every rank has a part.

use super::draft::{pack_columns, Draft, Part, OP};
use super::rows::{extents, quantize, Rows};
use super::{Group, LayerOptions, WeightSlice};
use crate::activation::Activation;
use crate::cpu::{Cpu, RowParts, Sums};
use crate::element::{Element, FloatSlice, FloatView, OutputMut};
use crate::epilogue::{Epilogue, Host, Output, Resolved, Scales};
use crate::error::{Error, Result};
use crate::gemm::{check_contraction, check_place, ActivationQuant};
use crate::gemm::{Backend, Gemm, Lhs, PackedWeights, Split};
use crate::quant::InputTransform;
use ndarray::{s, Array2, ArrayView2};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// `y = activation(x . weight^T + bias)` through int8 over the ranks of a [`Group`], with the bits of
/// [`Int8Linear`](crate::Int8Linear) on one; see the [module](super) for how.
///
/// All ranks construct the layer, and call it, together. Construction compares what they brought: ranks that disagree about
/// shape, type or settings get an error that names both values.
///
/// ```
/// use imma::gemm::Split;
/// use imma::ops::default_backend;
/// use imma::parallel::{Group, LayerOptions, ShardedLinear, WeightSlice};
/// use imma::element::FloatView;
/// use imma::Int8Linear;
/// use ndarray::{s, Array2};
/// let weight = Array2::from_shape_fn((5, 12), |(j, i)| (j * 12 + i) as f32 - 30.0);
/// let x = Array2::from_shape_fn((2, 12), |(i, l)| (i + l * l) as f32 * 0.1);
/// let whole = Int8Linear::from_float(weight.view(), None)?.forward(x.view())?;
/// let split = Split::even(12, 2)?; // of K: row-parallel
/// std::thread::scope(|scope| {
///     let ranks: Vec<_> = Group::of_threads(2).into_iter().map(|group| {
///         let own = s![.., split.range(group.rank())];
///         let (weight, x, split) = (weight.slice(own), x.slice(own), &split);
///         scope.spawn(move || {
///             let backend = default_backend().clone();
///             let weight = WeightSlice::Float(FloatView::F32(weight));
///             let layer = ShardedLinear::row(&group, backend, split, weight, LayerOptions::default())?;
///             layer.forward(x)
///         })
///     }).collect();
///     for rank in ranks {
///         assert_eq!(rank.join().unwrap()?, whole); // bit for bit, on every rank
///     }
///     Ok::<(), imma::Error>(())
/// })?;
/// # Ok::<(), imma::Error>(())
/// ```
#[derive(Debug)]
pub struct ShardedLinear {
    group: Group,
    backend: Arc<dyn Backend>,
    /// What runs around the products.
    cpu: Cpu,
    split: Split,
    /// N and K of the whole layer.
    whole: [usize; 2],
    part: Part,
    bias: Option<Vec<f32>>,
    input: ActivationQuant,
    transform: InputTransform,
    activation: Activation,
    gated: bool,
    /// Inputs of the slice that are multiplied twice, for weights with zero points.
    repeated: Vec<usize>,
}

impl ShardedLinear {
    /// A column-parallel layer: `split` is of the N outputs, `weight` is `[this rank's outputs, K]`, the inputs are whole.
    ///
    /// # Errors
    /// [`Error::Group`] when ranks disagree or another one fails; [`Error::Value`] for a split of another number of ranks, or
    /// one that cuts a pair of a gated layer; otherwise as the constructors of [`Int8Linear`](crate::Int8Linear).
    pub fn column(
        group: &Group,
        backend: Arc<dyn Backend>,
        split: &Split,
        weight: WeightSlice<'_>,
        options: LayerOptions<'_>,
    ) -> Result<Self> {
        let whole = [split.length(), weight.dim().1];
        let draft = Draft {
            group,
            split,
            whole,
            columns: true,
        };
        draft.agree(&weight, &options)?;
        group.or_fail(|| {
            let (weights, repeated) = pack_columns(&*backend, &weight)?;
            // A product without rows makes the checks of all later ones.
            let empty = Array2::<f32>::zeros((0, weights.k()));
            let lhs = Lhs::Float {
                data: FloatView::F32(empty.view()),
                quant: options.input,
            };
            Gemm::new(lhs, &weights, Epilogue::default())?;
            let part = (Part::Column(weights), repeated);
            Ok(Self::of(&draft, backend.clone(), part, options))
        })
    }

    /// A row-parallel layer: `split` is of the K inputs, `weight` is `[N, this rank's inputs]`, and so are the inputs that it is
    /// called with; the outputs are whole on every rank.
    ///
    /// Float weights get the scales of the whole weight, for which the ranks exchange N maxima (one a scale group).
    ///
    /// # Errors
    /// [`Error::Group`] when ranks disagree or another one fails; [`Error::Value`] for a split of another number of ranks, or
    /// one that cuts a block of a rotation; [`Error::KTooLong`] when the whole K is; otherwise as the constructors of
    /// [`Int8Linear`](crate::Int8Linear).
    pub fn row(
        group: &Group,
        backend: Arc<dyn Backend>,
        split: &Split,
        weight: WeightSlice<'_>,
        options: LayerOptions<'_>,
    ) -> Result<Self> {
        let whole = [weight.dim().0, split.length()];
        let draft = Draft {
            group,
            split,
            whole,
            columns: false,
        };
        draft.agree(&weight, &options)?;
        group.or_fail(|| {
            let part = draft.pack_rows(&*backend, &weight, options.input)?;
            Ok(Self::of(&draft, backend.clone(), part, options))
        })
    }

    /// The layer of what was packed.
    fn of(
        draft: &Draft<'_>,
        backend: Arc<dyn Backend>,
        (part, repeated): (Part, Vec<usize>),
        options: LayerOptions<'_>,
    ) -> Self {
        ShardedLinear {
            group: draft.group.clone(),
            backend,
            cpu: Cpu::new(),
            split: draft.split.clone(),
            whole: draft.whole,
            part,
            bias: options.bias.map(|bias| bias.to_f32_vec()),
            input: options.input,
            transform: options.transform,
            activation: options.activation,
            gated: options.gated,
            repeated,
        }
    }

    /// N, the outputs of the whole layer before pairs become one.
    pub fn outputs(&self) -> usize {
        self.whole[0]
    }

    /// K, the inputs of the whole layer.
    pub fn inputs(&self) -> usize {
        self.whole[1]
    }

    /// The inputs that this rank is called with: all where outputs are split.
    pub fn own_inputs(&self) -> Range<usize> {
        match self.part {
            Part::Column(_) => 0..self.inputs(),
            Part::Row { .. } | Part::RowGroups(_) => self.split.range(self.group.rank()),
        }
    }

    /// The columns of the result that this rank gets: all where inputs are split.
    pub fn own_outputs(&self) -> Range<usize> {
        let columns = match self.part {
            Part::Column(_) => self.split.range(self.group.rank()),
            Part::Row { .. } | Part::RowGroups(_) => 0..self.outputs(),
        };
        self.halved(columns)
    }

    /// Columns of the whole result.
    fn output_columns(&self) -> usize {
        self.halved(0..self.outputs()).end
    }

    /// The columns of the result that columns of the product become.
    fn halved(&self, columns: Range<usize>) -> Range<usize> {
        match self.gated {
            true => columns.start / 2..columns.end / 2,
            false => columns,
        }
    }

    /// `x [M, own inputs]` to `[M, own outputs]`, in the element type of `x`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn forward<T: Element>(&self, x: ArrayView2<'_, T>) -> Result<Array2<T>> {
        let mut out = Array2::<T>::default((x.nrows(), self.own_outputs().len()));
        self.run(
            T::tag(x),
            None,
            Output::of::<T>(),
            T::tag_mut(out.view_mut()),
        )?;
        Ok(out)
    }

    /// [`forward`](Self::forward) with the whole result on every rank: a column-parallel layer's parts are gathered.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn forward_gathered<T: Element>(&self, x: ArrayView2<'_, T>) -> Result<Array2<T>> {
        let Part::Column(_) = self.part else {
            return self.forward(x);
        };
        let own = self.group.or_fail(|| self.forward(x.view()))?;
        // f32 holds every element exactly.
        let bytes: Vec<u8> = own.iter().flat_map(|v| v.to_f32().to_le_bytes()).collect();
        let parts = self.group.all_gather(&bytes)?;
        let m = x.nrows();
        let mut out = Array2::<T>::default((m, self.output_columns()));
        for (rank, bytes) in parts.iter().enumerate() {
            let columns = self.halved(self.split.range(rank));
            if bytes.len() != 4 * m * columns.len() {
                let (found, expected) = (bytes.len() / 4, m * columns.len());
                let what = format!(
                    "rank {rank} sent {found} elements, expected {expected}: {} columns of {m} rows",
                    columns.len()
                );
                return Err(self.group.error(what));
            }
            let floats = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            let place = out.slice_mut(s![.., columns]).into_iter();
            place.zip(floats).for_each(|(to, v)| *to = T::from_f32(v));
        }
        Ok(out)
    }

    /// The layer's result for `x [M, own inputs]` as `output`, with a residual in the shape of the result (of this rank's
    /// part of it), added last.
    ///
    /// # Errors
    /// [`Error::Group`] when ranks call it with different numbers of rows or another one fails;
    /// [`Error::ShapeMismatch`] when `x` has other columns; [`Error::Epilogue`] for raw sums, and for
    /// [`Output::Int8PerRow`] where outputs are split: no rank has whole rows. Otherwise as
    /// [`Backend::gemm`](crate::Backend::gemm). Then `out` is untouched.
    pub fn run(
        &self,
        x: FloatView<'_>,
        residual: Option<FloatView<'_>>,
        output: Output,
        out: OutputMut<'_>,
    ) -> Result<()> {
        let residual = residual.as_ref();
        match &self.part {
            Part::Column(weights) => self.own_columns(weights, x, (residual, output), out),
            Part::Row { .. } | Part::RowGroups(_) => self.summed(x, (residual, output), out),
        }
    }

    fn epilogue<'a>(
        &'a self,
        residual: Option<&'a FloatView<'_>>,
        to: Output,
    ) -> Epilogue<Host<'a>> {
        Epilogue {
            bias: self.bias.as_deref().map(FloatSlice::F32),
            activation: self.activation,
            gated: self.gated,
            residual: residual.map(FloatView::view),
            ..Epilogue::to(to)
        }
    }

    fn own_columns(
        &self,
        weights: &PackedWeights,
        x: FloatView<'_>,
        (residual, output): (Option<&FloatView<'_>>, Output),
        out: OutputMut<'_>,
    ) -> Result<()> {
        if output == Output::Int8PerRow {
            return Err(Error::Epilogue {
                what: "a column-parallel layer",
                output: output.dtype(),
                expected:
                    "a float output, or int8 with one scale: no rank has whole rows to find theirs",
            });
        }
        self.check_inputs(&x)?;
        let transformed = self.transformed(&x)?;
        let x = or_as_it_is(&transformed, &x);
        let widened = match &x {
            FloatView::F32(x) => self.widened(x),
            FloatView::F16(x) => self.widened(x),
            FloatView::BF16(x) => self.widened(x),
        };
        let lhs = Lhs::Float {
            data: or_as_it_is(&widened, &x),
            quant: self.input,
        };
        let gemm = Gemm::new(lhs, weights, self.epilogue(residual, output))?;
        self.backend.gemm(&gemm, out)
    }

    /// A row-parallel call: see the module.
    fn summed(
        &self,
        x: FloatView<'_>,
        (residual, output): (Option<&FloatView<'_>>, Output),
        out: OutputMut<'_>,
    ) -> Result<()> {
        let transformed = self.group.or_fail(|| {
            self.check_inputs(&x)?;
            self.check_result(x.dim().0, &self.epilogue(residual, output), &out)?;
            self.transformed(&x)
        })?;
        let rows = match or_as_it_is(&transformed, &x) {
            FloatView::F32(x) => self.rows(x),
            FloatView::F16(x) => self.rows(x),
            FloatView::BF16(x) => self.rows(x),
        }?;
        let parts = RowParts {
            scales: &rows.scales,
            zero_points: &rows.zero_points,
        };
        let mut resolved = Resolved {
            bias: self.bias.as_deref(),
            activation: self.activation,
            gated: self.gated,
            residual: residual.map(FloatView::view),
            out_multiplier: match output {
                Output::Int8 { scale } => 1.0 / scale,
                _ => 1.0,
            },
            ..Resolved::default()
        };
        match &self.part {
            Part::Row {
                weights,
                scales,
                col_sums,
            } => {
                let sums = self.sums(weights, &rows)?;
                resolved.col_scales = Scales::PerVector(scales);
                resolved.col_sums = self.input.has_zero_points().then_some(col_sums);
                let sums = Sums::Exact(sums.view());
                self.cpu.finish(sums, parts, &resolved, out);
            }
            Part::RowGroups(groups) => {
                let on = (&self.cpu, &*self.backend);
                let sums = groups.sums(&self.group, on, &self.split, &rows)?;
                let sums = Sums::Scaled(sums.view());
                self.cpu.finish(sums, parts, &resolved, out);
            }
            Part::Column(_) => unreachable!("summed is of row-parallel layers"),
        }
        Ok(())
    }

    /// This rank's slice of the rows, quantised by the whole rows' constants.
    fn rows<T: Element>(&self, x: ArrayView2<'_, T>) -> Result<Rows> {
        let mut extents = extents(&self.cpu, x, self.input);
        self.group.all_reduce_max(&mut extents)?;
        Ok(quantize(&self.cpu, x, self.input, &extents, &self.repeated))
    }

    /// The exact sums over all ranks.
    fn sums(&self, weights: &PackedWeights, rows: &Rows) -> Result<Array2<i32>> {
        let mut sums = Array2::<i32>::zeros((rows.q.nrows(), weights.n()));
        self.group.or_fail(|| {
            let gemm = Gemm::new(Lhs::Int8(rows.q.view()), weights, Epilogue::to(Output::Raw))?;
            self.backend.gemm(&gemm, OutputMut::I32(sums.view_mut()))
        })?;
        self.group
            .all_reduce_sum(sums.as_slice_mut().expect("row-major"))?;
        Ok(sums)
    }

    fn check_inputs(&self, x: &FloatView<'_>) -> Result<()> {
        let ((m, k), own) = (x.dim(), self.own_inputs().len());
        check_contraction(OP, [m, k], [own, self.outputs()])
    }

    /// What [`Gemm::new`] and the backend check of a whole product.
    fn check_result(
        &self,
        m: usize,
        epilogue: &Epilogue<Host<'_>>,
        out: &OutputMut<'_>,
    ) -> Result<()> {
        if epilogue.output == Output::Raw {
            return Err(Error::Epilogue {
                what: "a float left operand",
                output: epilogue.output.dtype(),
                expected: "an int8 left operand: raw sums would lose its scales",
            });
        }
        epilogue.check(m, self.outputs())?;
        check_place(epilogue.output, (m, self.own_outputs().len()), out)
    }

    /// The inputs after the layer's transform, where it has one.
    fn transformed(&self, x: &FloatView<'_>) -> Result<Option<Array2<f32>>> {
        if self.transform.is_identity() {
            return Ok(None);
        }
        let mut x = match x {
            FloatView::F32(x) => x.as_standard_layout().into_owned(),
            FloatView::F16(x) => x.as_standard_layout().mapv(Element::to_f32),
            FloatView::BF16(x) => x.as_standard_layout().mapv(Element::to_f32),
        };
        let k = x.ncols().max(1);
        let all = x.as_slice_mut().expect("row-major");
        all.par_chunks_mut(k)
            .try_for_each(|row| self.transform.apply(row))?;
        Ok(Some(x))
    }

    /// The inputs with those behind them that are multiplied twice.
    fn widened<T: Element>(&self, x: &ArrayView2<'_, T>) -> Option<Array2<f32>> {
        if self.repeated.is_empty() {
            return None;
        }
        let k = x.ncols();
        let shape = (x.nrows(), k + self.repeated.len());
        Some(Array2::from_shape_fn(shape, |(i, l)| {
            let l = if l < k { l } else { self.repeated[l - k] };
            x[[i, l]].to_f32()
        }))
    }
}

/// What was made of the inputs, or else the inputs.
fn or_as_it_is<'a>(made: &'a Option<Array2<f32>>, x: &'a FloatView<'_>) -> FloatView<'a> {
    match made {
        Some(made) => FloatView::F32(made.view()),
        None => x.view(),
    }
}

//! The block over several ranks, with the bits of one: tensor parallelism as Megatron has it.
//!
//! ```text
//!   x, whole on every rank
//!   |-- RMSNorm -- Wqkv, outputs split by heads --> attention over own heads -- Wout, inputs split --.   summed over ranks
//!   +------------------------------------------------------------------------------------------------'
//!   |-- RMSNorm -- Wgate_up, outputs split --> SiLU(gate) * up -- Wdown, inputs split --.                summed over ranks
//!   +-----------------------------------------------------------------------------------'
//!   y, whole on every rank
//! ```

use super::block::{BlockWeights, Shape, EPSILON};
use half::bf16;
use imma::element::{FloatView, OutputMut};
use imma::epilogue::Output;
use imma::gemm::Split;
use imma::ops::{rmsnorm, silu_mul};
use imma::parallel::{Group, LayerOptions, ShardedLinear, WeightSlice};
use imma::Backend;
use ndarray::{concatenate, s, Array1, Array2, ArrayView2, Axis};
use std::ops::Range;
use std::sync::Arc;

/// One rank's part of a block.
#[derive(Debug)]
pub struct ShardedBlock {
    norm: Array1<bf16>,
    inner_norm: Array1<bf16>,
    qkv: ShardedLinear,
    out: ShardedLinear,
    gate_up: ShardedLinear,
    down: ShardedLinear,
}

/// A split of `parts` matrices that lie below each other, each cut in the same way: a rank's rows of all of them.
fn stacked(split: &Split, parts: usize) -> imma::Result<Split> {
    let cuts: Vec<usize> = split.cuts().iter().map(|cut| cut * parts).collect();
    Split::at(&cuts)
}

/// Rows `own` of each of the matrices of `height` rows that `w` consists of.
fn own_rows(w: &Array2<bf16>, height: usize, own: &Range<usize>) -> Array2<bf16> {
    let parts = w.axis_chunks_iter(Axis(0), height.max(1));
    let parts: Vec<_> = parts
        .map(|part| part.slice_move(s![own.clone(), ..]))
        .collect();
    concatenate(Axis(0), &parts).expect("matrices of one width")
}

impl ShardedBlock {
    /// Quantises and packs this rank's part of the weights. All ranks do it together.
    pub fn new(
        group: &Group,
        backend: &Arc<dyn Backend>,
        shape: Shape,
        weights: &BlockWeights,
    ) -> imma::Result<Self> {
        let heads = Split::even(shape.hidden, group.ranks())?;
        let inner = Split::even(shape.inner, group.ranks())?;
        let column = |split: &Split, w: &Array2<bf16>, height| {
            let own = own_rows(w, height, &split.range(group.rank()));
            let parts = w.nrows() / height.max(1);
            let slice = WeightSlice::Float(FloatView::BF16(own.view()));
            let split = stacked(split, parts)?;
            ShardedLinear::column(
                group,
                backend.clone(),
                &split,
                slice,
                LayerOptions::default(),
            )
        };
        let row = |split: &Split, w: &Array2<bf16>| {
            let own = w.slice(s![.., split.range(group.rank())]);
            let slice = WeightSlice::Float(FloatView::BF16(own));
            ShardedLinear::row(
                group,
                backend.clone(),
                split,
                slice,
                LayerOptions::default(),
            )
        };
        Ok(ShardedBlock {
            norm: weights.norm.clone(),
            inner_norm: weights.inner_norm.clone(),
            qkv: column(&heads, &weights.qkv, shape.hidden)?,
            out: row(&heads, &weights.out)?,
            gate_up: column(&inner, &weights.gate_up, shape.inner)?,
            down: row(&inner, &weights.down)?,
        })
    }

    /// `x [tokens, hidden]` to `y`, both whole on every rank.
    pub fn forward(&self, x: ArrayView2<'_, bf16>) -> imma::Result<Array2<bf16>> {
        let normed = rmsnorm(x, self.norm.view(), EPSILON)?;
        let qkv = self.qkv.forward(normed.view())?;
        // Sequences of one token, whose attention is their values: here of this rank's heads.
        let own = qkv.ncols() / 3;
        let attended = self.out.forward(qkv.slice(s![.., 2 * own..]))?;

        let residual = Array2::from_shape_fn(x.dim(), |at| {
            bf16::from_f32(x[at].to_f32() + attended[at].to_f32())
        });
        let normed = rmsnorm(residual.view(), self.inner_norm.view(), EPSILON)?;
        let gate_up = self.gate_up.forward(normed.view())?;
        let own = gate_up.ncols() / 2;
        let (gate, up) = (gate_up.slice(s![.., ..own]), gate_up.slice(s![.., own..]));
        let inner = silu_mul(gate, up)?;
        let mut y = Array2::default(x.dim());
        self.down.run(
            FloatView::BF16(inner.view()),
            Some(FloatView::BF16(residual.view())),
            Output::BF16,
            OutputMut::BF16(y.view_mut()),
        )?;
        Ok(y)
    }
}

/// All blocks on `shards` ranks, a thread each; what every rank ends with.
pub fn forward(
    shards: usize,
    backend: &Arc<dyn Backend>,
    shape: Shape,
    weights: &[BlockWeights],
    x: ArrayView2<'_, bf16>,
) -> imma::Result<Vec<Array2<bf16>>> {
    let rank = |group: Group| {
        let blocks: Vec<_> = weights
            .iter()
            .map(|weights| ShardedBlock::new(&group, backend, shape, weights))
            .collect::<imma::Result<_>>()?;
        blocks
            .iter()
            .try_fold(x.to_owned(), |x, block| block.forward(x.view()))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = Group::of_threads(shards)
            .into_iter()
            .map(|group| scope.spawn(|| rank(group)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|y| y.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

//! A layer that is being made: checked on each rank, compared between them, packed.

use super::groupwise::Groups;
use super::{shared_scales, Group, LayerOptions, WeightSlice};
use crate::element::FloatView;
use crate::epilogue::{check::output_columns, Output};
use crate::error::{Error, Result};
use crate::gemm::agreement::{digest, Agreement};
use crate::gemm::{check_k, ActivationQuant, Backend, PackedWeights, Split, Weights};
use crate::ops::differences;
use ndarray::s;

/// The name in errors.
pub(super) const OP: &str = "ShardedLinear";

/// What a rank multiplies.
#[derive(Debug)]
pub(super) enum Part {
    /// Its outputs.
    Column(PackedWeights),
    /// Its inputs, with what belongs to the whole columns, `[N]`.
    Row {
        weights: PackedWeights,
        scales: Vec<f32>,
        col_sums: Vec<i32>,
    },
    /// Its inputs, in groups.
    RowGroups(Groups),
}

/// Packs a rank's outputs.
pub(super) fn pack_columns(
    backend: &dyn Backend,
    weight: &WeightSlice<'_>,
) -> Result<(PackedWeights, Vec<usize>)> {
    let packed = match weight {
        WeightSlice::Float(data) => backend.pack(Weights::Float(transposed(data)))?,
        WeightSlice::FloatGroupwise { data, size } => backend.pack(Weights::FloatGroupwise {
            data: transposed(data),
            size: *size,
        })?,
        WeightSlice::Int8 {
            data,
            scales,
            zero_points,
        } => {
            let (data, repeated) = match zero_points {
                Some(zero_points) => differences(data.view(), zero_points),
                None => (data.to_owned(), Vec::new()),
            };
            let packed = backend.pack(Weights::Int8(data.t()))?;
            return Ok((packed.with_scales(scales)?, repeated));
        }
        WeightSlice::Int8Groupwise { data, scales, size } => {
            backend.pack(Weights::Int8Groupwise {
                data: data.t(),
                scales: scales.t(),
                size: *size,
            })?
        }
    };
    Ok((packed, Vec::new()))
}

fn transposed<'a>(view: &'a FloatView<'_>) -> FloatView<'a> {
    match view {
        FloatView::F32(v) => FloatView::F32(v.t()),
        FloatView::F16(v) => FloatView::F16(v.t()),
        FloatView::BF16(v) => FloatView::BF16(v.t()),
    }
}

/// A layer that is being made.
pub(super) struct Draft<'a> {
    pub group: &'a Group,
    pub split: &'a Split,
    /// N and K.
    pub whole: [usize; 2],
    /// Whether outputs are split.
    pub columns: bool,
}

impl Draft<'_> {
    /// Checks what this rank brought, then compares it with the others'.
    pub fn agree(&self, weight: &WeightSlice<'_>, options: &LayerOptions<'_>) -> Result<()> {
        self.group.or_fail(|| self.check(weight, options))?;
        let mine = self.agreement(weight, options).to_bytes();
        let all = self.group.all_gather(&mine)?;
        Agreement::differences(&all).map_err(|what| self.group.error(what))
    }

    fn check(&self, weight: &WeightSlice<'_>, options: &LayerOptions<'_>) -> Result<()> {
        let refuse = |what, found: String, expected: String| {
            Err(Error::Value {
                what,
                found,
                expected,
            })
        };
        let (ranks, rank) = (self.group.ranks(), self.group.rank());
        if self.split.ranks() != ranks {
            let expected = format!("one for each of the {ranks} ranks of the group");
            return refuse(
                "the number of parts",
                self.split.ranks().to_string(),
                expected,
            );
        }
        let (own, (n, k)) = (self.split.range(rank), weight.dim());
        let found = if self.columns { n } else { k };
        if found != own.len() {
            let expected = match self.columns {
                true => format!("[{}, K]: rank {rank} has outputs {own:?}", own.len()),
                false => format!("[N, {}]: rank {rank} has inputs {own:?}", own.len()),
            };
            return Err(Error::Shape {
                op: OP,
                what: "the weight",
                found: vec![n, k],
                expected,
            });
        }
        weight.check(if self.columns { 0 } else { own.start })?;
        options.input.check()?;
        options.transform.check(k)?;
        match options.bias.map(|bias| bias.len()) {
            Some(found) if found != n => {
                return Err(Error::Length {
                    what: "bias",
                    found,
                    expected: n,
                });
            }
            _ => {}
        }
        output_columns(self.whole[0], options.gated)?;
        self.check_cuts(weight, options)
    }

    /// Refuses cuts through what has to stay together.
    fn check_cuts(&self, weight: &WeightSlice<'_>, options: &LayerOptions<'_>) -> Result<()> {
        let refuse = |found: usize, expected: String| {
            Err(Error::Value {
                what: "a cut of the split",
                found: found.to_string(),
                expected,
            })
        };
        if self.columns {
            return match self.split.off_unit(2).filter(|_| options.gated) {
                Some(cut) => refuse(cut, "an even number: pairs of gate and up".into()),
                None => Ok(()),
            };
        }
        if let Some(rotation) = options.transform.rotation() {
            let block = rotation.block();
            if let Some(cut) = self.split.off_unit(block) {
                return refuse(
                    cut,
                    format!("a multiple of {block}, the block of the rotation"),
                );
            }
        }
        if weight.group_size().is_some() && options.input.has_zero_points() {
            return Err(Error::Epilogue {
                what: "zero points",
                output: Output::F32.dtype(),
                expected:
                    "a symmetric left operand: group-wise weights have no column sums a group",
            });
        }
        Ok(())
    }

    fn agreement(&self, weight: &WeightSlice<'_>, options: &LayerOptions<'_>) -> Agreement {
        let [n, k] = self.whole;
        let kind = if self.columns { "outputs" } else { "inputs" };
        let bits = |values: &[f32]| digest(values.iter().map(|v| v.to_bits()));
        let none = || "none".to_string();
        // What is split with the weight differs from rank to rank; what is not must not.
        let bias = options.bias.map(|bias| match self.columns {
            true => format!("{} an output", bias.dtype()),
            false => bits(&bias.to_f32_vec()),
        });
        let scales = match weight {
            WeightSlice::Int8 { scales, .. } if !self.columns => bits(scales),
            _ => none(),
        };
        let zero_points = match weight {
            WeightSlice::Int8 {
                zero_points: Some(zero_points),
                ..
            } if !self.columns => digest(zero_points.iter().map(|z| *z as u32)),
            _ => none(),
        };
        let multiplier = options.transform.multiplier();
        let multiplier = multiplier.map(|all| match self.columns {
            true => bits(all),
            false => "one an input".into(),
        });
        Agreement::default()
            .with("what is split", kind)
            .with("the number of outputs", n)
            .with("the number of inputs", k)
            .with("the cuts", format!("{:?}", self.split.cuts()))
            .with("the weight's type", weight.kind())
            .with(
                "the weight's scale groups",
                format!("{:?}", weight.group_size()),
            )
            .with("the weight's scales", scales)
            .with("the weight's zero points", zero_points)
            .with("the bias", bias.unwrap_or_else(none))
            .with("how inputs are quantised", format!("{:?}", options.input))
            .with("the multipliers of inputs", multiplier.unwrap_or_else(none))
            .with(
                "the rotation of inputs",
                format!("{:?}", options.transform.rotation()),
            )
            .with("the activation", format!("{:?}", options.activation))
            .with("whether outputs are gated", options.gated)
    }

    /// Packs a rank's inputs; scales and sums of columns are those of the whole weight.
    pub fn pack_rows(
        &self,
        backend: &dyn Backend,
        weight: &WeightSlice<'_>,
        input: ActivationQuant,
    ) -> Result<(Part, Vec<usize>)> {
        let (rank, [n, k]) = (self.group.rank(), self.whole);
        let range = self.split.range(rank);
        let at = (self.split, rank);
        let (data, scales, repeated) = match weight {
            WeightSlice::Float(data) => {
                let (q, scales) = shared_scales::quantize(self.group, data, &range, k, k)?;
                // Without inputs there are no scales, as there is nothing to scale.
                let scales = scales.iter().copied().chain(std::iter::repeat(1.0));
                (q, scales.take(n).collect(), Vec::new())
            }
            WeightSlice::Int8 {
                data,
                scales,
                zero_points,
            } => {
                let (data, repeated) = match zero_points {
                    Some(zero_points) => differences(data.view(), zero_points),
                    None => (data.to_owned(), Vec::new()),
                };
                let scales = match *scales {
                    [one] => vec![*one; n],
                    all => all.to_vec(),
                };
                (data, scales, repeated)
            }
            WeightSlice::FloatGroupwise { data, size } => {
                check_k(k, false)?;
                let (q, scales) = shared_scales::quantize(self.group, data, &range, k, *size)?;
                let own = s![.., range.start / size..range.end.div_ceil(*size)];
                let groups = Groups::pack(backend, q.view(), scales.slice(own), *size, at)?;
                return Ok((Part::RowGroups(groups), Vec::new()));
            }
            WeightSlice::Int8Groupwise { data, scales, size } => {
                check_k(k, false)?;
                let groups = Groups::pack(backend, data.view(), scales.view(), *size, at)?;
                return Ok((Part::RowGroups(groups), Vec::new()));
            }
        };
        let weights = backend.pack(Weights::Int8(data.t()))?;
        let mut col_sums = weights.col_sums().to_vec();
        // What is multiplied twice counts twice.
        col_sums.push(data.ncols() as i32);
        self.group.all_reduce_sum(&mut col_sums)?;
        let whole = col_sums.pop().unwrap_or_default();
        check_k(whole as usize, input.has_zero_points())?;
        let part = Part::Row {
            weights,
            scales,
            col_sums,
        };
        Ok((part, repeated))
    }
}

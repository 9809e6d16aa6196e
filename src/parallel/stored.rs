//! Layers of checkpoints, of which each rank reads its part.

use super::{Group, LayerOptions, ShardedLinear, WeightSlice};
use crate::activation::Activation;
use crate::checkpoint::{Checkpoint, CheckpointError, LayerSlice, StoredLinear, StoredWeight};
use crate::element::{FloatSlice, FloatView};
use crate::error::Result;
use crate::gemm::{Backend, Split};
use std::ops::Range;
use std::sync::Arc;

impl ShardedLinear {
    /// The linear layer `prefix` of a checkpoint, its outputs split: evenly, or as `split` says. The bits are those of
    /// [`Checkpoint::linear`] with this activation.
    ///
    /// # Errors
    /// As [`Checkpoint::stored_slice`] and [`column`](Self::column).
    pub fn column_from_checkpoint(
        group: &Group,
        backend: Arc<dyn Backend>,
        (checkpoint, prefix): (&Checkpoint, &str),
        split: Option<&Split>,
        activation: Activation,
    ) -> Result<Self, CheckpointError> {
        let source = Source {
            group,
            checkpoint,
            prefix,
        };
        source.layer(split, false, activation, |split, weight, options| {
            Self::column(group, backend, split, weight, options)
        })
    }

    /// The linear layer `prefix` of a checkpoint, its inputs split: evenly in whole scale groups and blocks of its rotation,
    /// or as `split` says. The bits are those of [`Checkpoint::linear`] with this activation.
    ///
    /// ```
    /// use imma::activation::Activation;
    /// use imma::checkpoint::Checkpoint;
    /// use imma::ops::default_backend;
    /// use imma::parallel::{Group, ShardedLinear};
    /// let checkpoint = Checkpoint::open("tests/data/checkpoints/ct_static")?;
    /// let group = Group::of_threads(1).remove(0);
    /// let backend = default_backend().clone();
    /// let layer = ShardedLinear::row_from_checkpoint(&group, backend, (&checkpoint, "up"), None, Activation::None)?;
    /// assert_eq!((layer.inputs(), layer.outputs()), (24, 40));
    /// # Ok::<(), imma::checkpoint::CheckpointError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Checkpoint::stored_slice`] and [`row`](Self::row).
    pub fn row_from_checkpoint(
        group: &Group,
        backend: Arc<dyn Backend>,
        (checkpoint, prefix): (&Checkpoint, &str),
        split: Option<&Split>,
        activation: Activation,
    ) -> Result<Self, CheckpointError> {
        let source = Source {
            group,
            checkpoint,
            prefix,
        };
        source.layer(split, true, activation, |split, weight, options| {
            Self::row(group, backend, split, weight, options)
        })
    }
}

/// Where a layer comes from.
struct Source<'a> {
    group: &'a Group,
    checkpoint: &'a Checkpoint,
    prefix: &'a str,
}

impl Source<'_> {
    /// The layer that `make` makes of this rank's part.
    fn layer(
        &self,
        split: Option<&Split>,
        inputs: bool,
        activation: Activation,
        make: impl FnOnce(&Split, WeightSlice<'_>, LayerOptions<'_>) -> Result<ShardedLinear>,
    ) -> Result<ShardedLinear, CheckpointError> {
        let (split, stored) = self.read(split, inputs)?;
        let made = self.with(&stored, activation, |weight, options| {
            make(&split, weight, options)
        });
        made.map_err(|error| self.checkpoint.no_layer(self.prefix, error))
    }

    /// This rank's part; the others are told when there is none.
    fn read(
        &self,
        split: Option<&Split>,
        inputs: bool,
    ) -> Result<(Split, StoredLinear), CheckpointError> {
        let read = self.part(split, inputs);
        if let Err(why) = &read {
            self.group.fail(&why.to_string());
        }
        read
    }

    fn part(
        &self,
        split: Option<&Split>,
        inputs: bool,
    ) -> Result<(Split, StoredLinear), CheckpointError> {
        let [n, k] = self.checkpoint.linear_shape(self.prefix)?;
        let refuse = |error| self.checkpoint.no_layer(self.prefix, error);
        let length = if inputs { k } else { n };
        let split = match split {
            Some(split) => split.clone(),
            None => {
                let unit = if inputs { self.unit()? } else { 1 };
                Split::even_in_units(length, self.group.ranks(), unit).map_err(refuse)?
            }
        };
        if split.ranks() != self.group.ranks() {
            let what = format!(
                "a split for {} ranks, expected one for {}",
                split.ranks(),
                self.group.ranks()
            );
            return Err(refuse(self.group.error(what)));
        }
        if split.length() != length {
            let what = format!("a split of {}, expected one of {length}", split.length());
            return Err(refuse(self.group.error(what)));
        }
        let own: Range<usize> = split.range(self.group.rank());
        let slice = match inputs {
            true => LayerSlice::Inputs(own),
            false => LayerSlice::Outputs(own),
        };
        let stored = self.checkpoint.stored_slice(self.prefix, slice)?;
        Ok((split, stored))
    }

    /// Inputs that stay together: scale groups by preference, blocks of a rotation by need. Both are powers of two.
    fn unit(&self) -> Result<usize, CheckpointError> {
        let nothing = LayerSlice::Inputs(0..0);
        let stored = self.checkpoint.stored_slice(self.prefix, nothing)?;
        let size = match stored.weight {
            StoredWeight::Groupwise { size, .. } => size,
            _ => 1,
        };
        let block = stored.transform.rotation().map_or(1, |r| r.block());
        Ok(size.max(block))
    }

    /// What was read, as a layer takes it.
    fn with<R>(
        &self,
        stored: &StoredLinear,
        activation: Activation,
        make: impl FnOnce(WeightSlice<'_>, LayerOptions<'_>) -> Result<R>,
    ) -> Result<R> {
        let weight = match &stored.weight {
            StoredWeight::Float(data) => WeightSlice::Float(FloatView::F32(data.view())),
            StoredWeight::Int8 {
                data,
                scales,
                zero_points,
            } => WeightSlice::Int8 {
                data: data.view(),
                scales,
                zero_points: zero_points.as_deref(),
            },
            StoredWeight::Groupwise { data, scales, size } => WeightSlice::Int8Groupwise {
                data: data.view(),
                scales: scales.view(),
                size: *size,
            },
        };
        let options = LayerOptions {
            bias: stored.bias.as_deref().map(FloatSlice::F32),
            input: stored.input,
            transform: stored.transform.clone(),
            activation,
            gated: false,
        };
        make(weight, options)
    }
}

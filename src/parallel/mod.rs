//! Linear layers over several ranks, with the bits of one: tensor parallelism on the CPU and any [`Backend`].
//!
//! ```text
//! column-parallel: outputs are split            row-parallel: inputs are split
//!
//!   x [M, K]   on every rank                      x[:, range]  on each rank, what the layer before left there
//!      |                                             |  extents of each row's slice: M integers
//!   W[range, :]  the rank's outputs               max over the ranks: the whole row's scale on every rank
//!      |                                             |  quantised by it
//!   y[:, range]  no communication                 W[:, range]: exact int32 partial sums
//!                                                    |
//!                                                 sum over the ranks, in int32
//!                                                    |  bias, residual, activation: once
//!                                                 y [M, N]  on every rank
//! ```
//!
//! Maxima and int32 sums are exact in any order, and the epilogue runs once over the whole sum: **the bits are those of the
//! layer on one rank**, for any number of ranks and any cuts, for inputs quantised per token, statically, with zero points.
//! Float partial sums, and scales that each rank finds in its own slice, have no such property.
//! Group-wise weights cut along K go on from rank to rank in the order of the groups, as their sum is one of floats.
//!
//! A [`Group`] is the ranks as threads of a process; [`Split`](crate::gemm::Split) says which part each has.
//! What it costs and what it does not cover: `docs/invariance.md`.
//!
//! [`Backend`]: crate::Backend

mod draft;
mod group;
mod groupwise;
mod rows;
mod sharded_linear;
mod shared_scales;
#[cfg(feature = "safetensors")]
mod stored;
mod weight;

pub use group::Group;
pub use sharded_linear::ShardedLinear;
pub use weight::{LayerOptions, WeightSlice};

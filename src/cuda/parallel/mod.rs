//! Linear layers over several GPUs, with the bits of one (feature `nccl`): `imma::parallel` on device memory.
//!
//! ```text
//!   group            ranks, one device each, in this process or in others: NCCL's collectives over integers
//!   sharded_linear   a layer of which every rank has a part
//! ```

mod group;
mod sharded_linear;

pub use group::{Group, UniqueId};
pub use sharded_linear::{ShardedLinear, ShardedPlan, ShardedWorkspace};

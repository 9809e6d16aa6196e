//! A right operand's matrices, packed once for many left operands.

use crate::error::Result;
use crate::gemm::PackedWeights;
use std::sync::OnceLock;

/// The right operand's matrices packed for a backend, made at the first use.
#[derive(Debug, Default)]
pub(super) struct PackedOnce(OnceLock<Vec<PackedWeights>>);

impl PackedOnce {
    /// The `count` matrices that `pack` packs, or those that an earlier call kept.
    pub fn get_or_pack(
        &self,
        count: usize,
        pack: impl Fn(usize) -> Result<PackedWeights>,
    ) -> Result<&[PackedWeights]> {
        match self.0.get() {
            Some(kept) => Ok(kept),
            None => {
                let all: Vec<_> = (0..count).map(pack).collect::<Result<_>>()?;
                Ok(self.0.get_or_init(|| all))
            }
        }
    }
}

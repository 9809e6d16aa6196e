//! A workspace in parts.

use super::launch::same_context;
use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, CudaViewMut, DevicePtrMut, DeviceRepr, DeviceSlice};
use std::sync::Arc;

/// Every part starts at a multiple of this, and so must the whole.
const ALIGNMENT: usize = 256;

/// Sizes of the parts, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts([usize; 6]);

impl Parts {
    /// Rounds each up; `None` where the sum is more than a number can say.
    pub fn new(bytes: [usize; 6]) -> Option<Self> {
        let mut sizes = [0; 6];
        let mut total = 0usize;
        for (size, bytes) in sizes.iter_mut().zip(bytes) {
            *size = bytes.checked_next_multiple_of(ALIGNMENT)?;
            total = total.checked_add(*size)?;
        }
        (total < isize::MAX as usize).then_some(Parts(sizes))
    }

    pub fn size(&self, part: usize) -> usize {
        self.0[part]
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().sum()
    }

    /// Whether this workspace will do.
    pub fn check(
        &self,
        context: &Arc<CudaContext>,
        stream: &CudaStream,
        workspace: &mut CudaViewMut<'_, u8>,
    ) -> Result<()> {
        same_context("the workspace", context, workspace.stream().context())?;
        if workspace.len() < self.bytes() {
            return Err(Error::Length {
                what: "the workspace",
                found: workspace.len(),
                expected: self.bytes(),
            });
        }
        let (address, _guard) = workspace.device_ptr_mut(stream);
        if self.bytes() > 0 && !address.is_multiple_of(ALIGNMENT as u64) {
            return Err(Error::Value {
                what: "the workspace",
                found: format!("at address {address:#x}"),
                expected: format!("an address that is a multiple of {ALIGNMENT}"),
            });
        }
        Ok(())
    }
}

/// A part as so many elements; `None` for a part that is not there.
pub(super) fn part<'a, T: DeviceRepr>(
    bytes: &'a mut CudaViewMut<'_, u8>,
    len: usize,
) -> Option<CudaViewMut<'a, T>> {
    // SAFETY: any bits are numbers, each part is aligned for all of them, and is written before it is read.
    unsafe { bytes.transmute_mut(len) }
}

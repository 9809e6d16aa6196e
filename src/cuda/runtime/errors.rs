//! What is refused everywhere, in the same words.

use crate::error::{Error, Result};
use cudarc::driver::{CudaContext, DriverError};
use std::sync::Arc;

/// What the driver refused, without asking it for words (which needs a working driver).
pub(in crate::cuda) fn driver(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda {
        call,
        code: error.0 as u32,
        name: format!("{:?}", error.0),
    }
}

/// Checks that an address fits what is read there: a view made by reinterpreting bytes may start anywhere.
pub(super) fn aligned(what: &'static str, address: u64, alignment: u64) -> Result<()> {
    if address.is_multiple_of(alignment) {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found: format!("at address {address:#x}"),
        expected: format!("an address that is a multiple of {alignment}"),
    })
}

/// Refuses what belongs to another context than the kernels.
pub(in crate::cuda) fn same_context(
    what: &'static str,
    expected: &Arc<CudaContext>,
    found: &Arc<CudaContext>,
) -> Result<()> {
    if expected.cu_ctx() == found.cu_ctx() {
        return Ok(());
    }
    Err(Error::Value {
        what,
        found: format!("in another context (device {})", found.ordinal()),
        expected: format!(
            "in the context of the kernels (device {})",
            expected.ordinal()
        ),
    })
}

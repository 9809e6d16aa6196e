//! The backend that is used when none is named.

use crate::cpu::Cpu;
use crate::gemm::Backend;
use std::sync::{Arc, OnceLock};

/// The backend of the short forms: the CPU with its best kernels, on rayon's current thread pool.
///
/// ```
/// assert_eq!(imma::ops::default_backend().name(), "cpu");
/// ```
pub fn default_backend() -> &'static Arc<dyn Backend> {
    static BACKEND: OnceLock<Arc<dyn Backend>> = OnceLock::new();
    BACKEND.get_or_init(|| Arc::new(Cpu::new()))
}

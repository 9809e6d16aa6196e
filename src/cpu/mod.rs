//! The CPU backend.

use crate::element::OutputMut;
use crate::error::Result;
use crate::gemm::{Backend, Gemm, PackedWeights, Weights};

/// The CPU backend: exact int8 products with the best instructions this machine has.
#[derive(Debug, Clone)]
pub struct Cpu {}

/// A kernel family for one instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafInfo {
    /// Its name, as [`Cpu::with_leaf`] takes it.
    pub name: &'static str,
    /// Whether this machine can run it.
    pub available: bool,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// The best leaf of this machine, on rayon's current thread pool.
    pub fn new() -> Self {
        Cpu {}
    }
    /// Every leaf this build knows, best first.
    pub fn leaves() -> Vec<LeafInfo> {
        todo!()
    }
    /// The same backend with a leaf forced by name.
    pub fn with_leaf(self, _name: &str) -> Result<Self> {
        todo!()
    }
    /// The same backend on its own pool of `threads` threads; 1 stays on the calling thread.
    pub fn with_threads(self, _threads: usize) -> Result<Self> {
        todo!()
    }
    /// The leaf in use.
    pub fn leaf(&self) -> &'static str {
        todo!()
    }
    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        todo!()
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".into()
    }
    fn kernel(&self, _m: usize, _n: usize, _k: usize) -> String {
        todo!()
    }
    fn pack(&self, _weights: Weights<'_>) -> Result<PackedWeights> {
        todo!()
    }
    fn gemm(&self, _gemm: &Gemm<'_>, _out: OutputMut<'_>) -> Result<()> {
        todo!()
    }
}

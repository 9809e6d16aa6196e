//! Weights in the order a kernel reads them, made once and used many times.

use crate::epilogue::Scales;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A `[K, N]` int8 matrix laid out for one backend's kernel, with its scales and column sums.
///
/// Tagged with the layout it was packed for; a backend that reads another refuses it. Cheap to clone.
#[derive(Clone)]
pub struct PackedWeights {
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) layout: &'static str,
    pub(crate) bytes: usize,
    pub(crate) scales: Option<Arc<[f32]>>,
    pub(crate) col_sums: Arc<[i32]>,
    pub(crate) storage: Arc<dyn Any + Send + Sync>,
}

impl PackedWeights {
    /// The contracted dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns: output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The layout's name, for example `vnni-n32k4-u8`.
    pub fn layout(&self) -> &'static str {
        self.layout
    }

    /// Bytes held, padding included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The scales a column that were found or given when packing: one for all, or `[N]`.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales.as_deref()
    }

    /// The sum of each column's integers, `[N]`: what a zero point on the other side is multiplied by.
    pub fn col_sums(&self) -> &[i32] {
        &self.col_sums
    }

    /// The same weights with other scales: one, or one a column.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when there is neither one scale nor `N` of them.
    pub fn with_scales(mut self, scales: &[f32]) -> crate::Result<Self> {
        if scales.len() != 1 && scales.len() != self.n {
            return Err(crate::Error::Length {
                what: "weight scales",
                found: scales.len(),
                expected: self.n,
            });
        }
        self.scales = Some(scales.into());
        Ok(self)
    }

    pub(crate) fn epilogue_scales(&self) -> Scales<&[f32]> {
        match self.scales.as_deref() {
            None => Scales::None,
            Some([one]) if self.n != 1 => Scales::PerTensor(*one),
            Some(all) => Scales::PerVector(all),
        }
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedWeights")
            .field("k", &self.k)
            .field("n", &self.n)
            .field("layout", &self.layout)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

//! Weights in the order a kernel reads them, made once and used many times.

use crate::epilogue::Scales;
use ndarray::{ArcArray2, ArrayView2};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The scales that packed weights carry.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum WeightScales {
    /// None: the epilogue gives them, or the product has none.
    #[default]
    None,
    /// One for all columns, or `[N]`.
    PerColumn(Arc<[f32]>),
    /// Group-wise: one for each scale group along K and each column.
    ///
    /// ```text
    /// v = 0;  for each group in order:  v = fma(f32(exact sum of the group), scales[group, col], v)
    /// v = v * row_scale[row]                    without a bias
    /// v = fma(v, row_scale[row], bias[col])     with one; then on as the epilogue says
    /// ```
    ///
    /// Scales of columns, zero points and raw sums do not go with them.
    PerGroup {
        /// Inputs a group.
        size: usize,
        /// `[K / size rounded up, N]`, in row-major order.
        scales: ArcArray2<f32>,
    },
}

impl WeightScales {
    pub(crate) fn per_group(size: usize, scales: ArrayView2<'_, f32>) -> Self {
        let scales = scales.as_standard_layout().into_owned().into_shared();
        WeightScales::PerGroup { size, scales }
    }
}

/// A `[K, N]` int8 matrix laid out for one backend's kernel, with its scales and column sums.
///
/// Tagged with the layout it was packed for; a backend that reads another refuses it. Cheap to clone.
#[derive(Clone)]
pub struct PackedWeights {
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) layout: &'static str,
    pub(crate) bytes: usize,
    pub(crate) scales: WeightScales,
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

    /// The scales that were found or given when packing.
    pub fn scales(&self) -> &WeightScales {
        &self.scales
    }

    /// Inputs that share a scale, when the scales are group-wise.
    pub fn group_size(&self) -> Option<usize> {
        match self.scales {
            WeightScales::PerGroup { size, .. } => Some(size),
            _ => None,
        }
    }

    /// The sum of each column's integers, `[N]`: what a zero point on the other side is multiplied by.
    pub fn col_sums(&self) -> &[i32] {
        &self.col_sums
    }

    /// The same weights with other scales: one, or one a column.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when there is neither one scale nor `N` of them,
    /// [`Error::Value`](crate::Error::Value) for weights with scale groups.
    pub fn with_scales(mut self, scales: &[f32]) -> crate::Result<Self> {
        if let Some(size) = self.group_size() {
            return Err(crate::Error::Value {
                what: "the weights' scales",
                found: format!("one for every {size} inputs"),
                expected: "scales of columns, which others can stand for".into(),
            });
        }
        if scales.len() != 1 && scales.len() != self.n {
            return Err(crate::Error::Length {
                what: "weight scales",
                found: scales.len(),
                expected: self.n,
            });
        }
        self.scales = WeightScales::PerColumn(scales.into());
        Ok(self)
    }

    pub(crate) fn epilogue_scales(&self) -> Scales<&[f32]> {
        match &self.scales {
            WeightScales::PerColumn(one) if one.len() == 1 && self.n != 1 => {
                Scales::PerTensor(one[0])
            }
            WeightScales::PerColumn(all) => Scales::PerVector(all),
            WeightScales::None | WeightScales::PerGroup { .. } => Scales::None,
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

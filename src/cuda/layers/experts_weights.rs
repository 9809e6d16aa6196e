//! What a layer's experts hold on the device, and what a product of them reads.

use super::weights::DeviceWeights;
use crate::activation::Activation;
use crate::cuda::kernels::OnDevice;
use crate::cuda::product::{ScalesView, WeightsView};
use crate::cuda::runtime::Device;
use crate::epilogue::{Epilogue, Scales};
use cudarc::driver::CudaSlice;
use std::ops::Range;
use std::sync::Arc;

/// The weights of some experts, and what is done between and around them.
#[derive(Debug)]
pub(super) struct ExpertWeights {
    pub device: Arc<Device>,
    /// `[E * 2 I, H]`, rows in pairs of gate and up.
    pub gate_up: DeviceWeights,
    /// `[E * H, I]`.
    pub down: DeviceWeights,
    /// `[E * 2 I]` and `[E * H]`.
    pub gate_up_bias: Option<CudaSlice<f32>>,
    pub down_bias: Option<CudaSlice<f32>>,
    pub experts: usize,
    pub activation: Activation,
    /// Which of how many these are.
    pub first: usize,
    pub total: usize,
}

impl ExpertWeights {
    /// H.
    pub fn features(&self) -> usize {
        self.gate_up.k()
    }

    /// I.
    pub fn intermediate(&self) -> usize {
        self.down.k()
    }

    /// Which of how many experts are here.
    pub fn place(&self) -> (Range<usize>, usize) {
        (self.first..self.first + self.experts, self.total)
    }
}

/// What a product of the experts reads beside its left operand, kept while the call lasts.
pub(super) struct ExpertParts<'a> {
    pub weights: WeightsView<'a>,
    /// Bias and scales of columns.
    pub epilogue: Epilogue<OnDevice<'a>>,
}

impl<'a> ExpertParts<'a> {
    pub fn new(weights: &'a DeviceWeights, bias: &'a Option<CudaSlice<f32>>) -> Self {
        let weights = weights.view();
        let mut epilogue = Epilogue::default();
        if let ScalesView::PerColumn(scales) = &weights.scales {
            epilogue.col_scales = Scales::PerVector(scales.clone());
        }
        epilogue.bias = bias.as_ref().map(|bias| bias.into());
        ExpertParts { weights, epilogue }
    }
}

//! Quantised tensors: which elements share a scale, how the scale is found, and the integers that come out.
//!
//! ```text
//!   granularity   which elements share a scale      calibration   the range a slice's scale covers
//!   quantizer     float tensor -> integers          tensor        integers, scales, zero points
//!   report        how far a quantised result is from the float one
//!   smooth        the range of activations moved into the weights
//!   transform     what a layer does to its inputs before they are quantised
//! ```
//!
//! The scale and rounding rules themselves are those of [`numerics`](crate::numerics).

mod calibration;
mod granularity;
mod quantizer;
mod report;
mod smooth;
mod tensor;
mod transform;

pub use calibration::Calibration;
pub use granularity::Granularity;
pub use quantizer::{Quantizer, QuantizerBuilder};
pub use report::ErrorReport;
pub use smooth::{ActivationObserver, SmoothQuant};
pub use tensor::QuantizedTensor;
pub use transform::{InputTransform, Rotation};

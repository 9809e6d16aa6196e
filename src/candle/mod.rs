//! Layers for models written with [candle](https://github.com/huggingface/candle): the feature `candle`.
//!
//! [`Int8Linear`] is a [`candle_nn::Module`] that takes a tensor of f32, f16 or bf16, `[.., K]`, and answers `[.., N]` of
//! the same type. Its int8 weights stay outside candle's tensors, which have no int8. The bits are those of
//! [`imma::Int8Linear`](crate::Int8Linear).
//!
//! candle's models hold [`candle_nn::Linear`] by value, so nothing can exchange a layer behind their back. A model
//! whose fields are [`LinearLayer`] instead, float or int8, reads either: [`swap_linears`] exchanges loaded layers by name,
//! and with the feature `safetensors` `LinearLayer::load` takes the place of [`candle_nn::linear()`] and reads what the
//! checkpoint holds (candle itself refuses int8 tensors). Only inference: the layer has no gradient, and asking for one
//! is an error.
//!
//! ```
//! use candle_core::{DType, Device, Result, Tensor};
//! use candle_nn::{linear, Module, VarBuilder, VarMap};
//! use imma::candle::{swap_linears, LinearLayer};
//!
//! struct Mlp { up: LinearLayer, down: LinearLayer }
//!
//! impl Mlp {
//!     fn load(vb: VarBuilder) -> Result<Self> {
//!         Ok(Mlp {
//!             up: linear(32, 64, vb.pp("up"))?.into(),
//!             down: linear(64, 32, vb.pp("down"))?.into(),
//!         })
//!     }
//!     fn forward(&self, x: &Tensor) -> Result<Tensor> {
//!         self.down.forward(&self.up.forward(x)?.relu()?)
//!     }
//!     /// The layers by the names that the checkpoint has for them.
//!     fn linears(&mut self) -> [(&'static str, &mut LinearLayer); 2] {
//!         [("up", &mut self.up), ("down", &mut self.down)]
//!     }
//! }
//!
//! let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
//! let mut model = Mlp::load(vb)?;
//! let x = Tensor::randn(0f32, 1.0, (2, 5, 32), &Device::Cpu)?;
//! let float = model.forward(&x)?;
//! // All layers but the last.
//! let swapped = swap_linears(model.linears(), |name| name != "down")?;
//! assert_eq!(swapped, ["up"]);
//! let int8 = model.forward(&x)?;
//! assert_eq!(int8.dims(), [2, 5, 32]);
//! assert!((int8 - float)?.abs()?.max_all()?.to_scalar::<f32>()? < 0.1);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! **On GPUs** (feature `candle-cuda`) a layer made on a CUDA device keeps its weights there and enqueues the kernels on
//! candle's stream. That feature turns on candle's own CUDA half: its kernels are compiled by the `nvcc` on `PATH` while it
//! builds, for the GPU that `nvidia-smi` finds or the `CUDA_COMPUTE_CAP` in the environment, and the program is *linked*
//! to libcuda, libcublas, libcublasLt, libcurand and libnvrtc: unlike with the feature `cuda` alone, it does not start
//! where CUDA is missing. Without `candle-cuda`, tensors of CUDA devices get an error that names it.

mod dtype;
mod layer;
mod linear;

#[cfg(feature = "candle-cuda")]
mod device;

pub use layer::{swap_linears, swap_linears_with, LinearLayer};
pub use linear::Int8Linear;

//! Checkpoints: safetensors files read into layers, and written (feature `safetensors`).
//!
//! ```text
//!   source   a file, a sharded index or a folder, opened       linear   a layer's tensors, and the layer of them
//!   file     one memory-mapped safetensors file                error    one sentence for each refusal
//!   keys     where a quantisation config stands, its keys      scheme   what it says of the layers
//!   group    one of compressed-tensors' groups                 online   its rotations at run time
//!   python_json  config.json as Python writes it           names    patterns over names
//!   layer_tensors  the account of a layer's tensors            linear_tensors  scales, zero points, bias
//!   experts  those of mixtures, numbered or fused
//!   ascend   Ascend's static form      comfy  ComfyUI's        packed   four int8 to an int32
//!   quantize a model of floats written as W8A8                 rows     one weight of it, a block of rows at a time
//!   model_plan  what its files will hold                 model_writer  writes them shard by shard, and the rest
//!   writer   a file that can be stopped and continued          journal  what an interrupted run has done
//!   report   what quantising did to each layer           model_files  config.json and what else lies in a folder
//!   slice    a part of a layer, for one of several ranks
//!   float_model  whether a model can be quantised        roles    embeddings, routers and gates by shape and use
//! ```
//!
//! What a linear layer `P` of N outputs and K inputs may be stored as:
//!
//! | format | tensors | weight |
//! |---|---|---|
//! | compressed-tensors `int-quantized` (vLLM's W8A8), sglang's `w8a8_int8`, ModelOpt's `W8A8_SQ` | `P.weight` I8 `[N, K]`, `P.weight_scale` `[N, 1]` or one; when asymmetric `P.weight_zero_point`; static inputs bring `P.input_scale`, `P.input_zero_point` | `(q - zero_point) * scale` |
//! | the same with strategy `group` | `P.weight` I8 `[N, K]`, `P.weight_scale` `[N, K / size rounded up]`, size 32, 64 or 128, symmetric; a [group-wise](crate::Int8Linear::from_int8_groupwise) layer | `q * scale` |
//! | compressed-tensors `pack-quantized` with 8 bits | `P.weight_packed` I32 `[N, K / 4]`, `P.weight_shape`, scales as above, symmetric | `q * scale` |
//! | sglang's `blockwise_int8` | `P.weight` I8 `[N, K]`, `P.weight_scale_inv` `[N / 128, K / 128]` rounded up; a group-wise layer, whose inputs are quantised per token | `q * scale` |
//! | Ascend, static | `P.weight`, `P.input_scale`, `P.input_offset`, `P.quant_bias` I32 `[N]`, `P.deq_scale` `[N]` | `q * deq_scale / input_scale` |
//! | ComfyUI `int8_tensorwise` | `P.weight`, `P.weight_scale`, `P.comfy_quant` (JSON), with `convrot` or not | `q * scale` |
//! | bitsandbytes | `P.weight` I8 `[N, K]`, `P.SCB` F32 `[N]` | `q * (SCB / 127)` |
//! | floats | `P.weight` F32, F16 or BF16 `[N, K]` | quantised per output when it is loaded |
//!
//! and `P.bias` in any float type beside each; [`Checkpoint::experts`] reads numbered layers, or fused tensors, as the experts of a mixture. A layer with the empty name is a file's bare `weight` and `bias`.
//!
//! **What is done to the inputs first** becomes the layer's [`InputTransform`](crate::quant::InputTransform): ModelOpt's
//! `P.pre_quant_scale` `[K]`, ComfyUI's `convrot`, and the Hadamard transforms of compressed-tensors' `transform_config`
//! at a linear layer's input.
//!
//! **Nothing beside a layer is ignored.** A tensor `P.*` that its format does not read is an error that names it (act-order
//! indices, low-rank branches, smoothing scales, quantised outputs, and whatever is not known), and so is a key of the
//! quantisation config that says something and is not known. Excepted are the scales of an attention's cache
//! (`k_scale`, `v_scale`, `q_scale`, `prob_scale`), a router's `e_score_correction_bias`, zero points of symmetric
//! tensors that are all zeros, and lists of modules below `P` (`P.experts.0.weight`), which are layers of their own.
//! [`OpenOptions`] leaves out what the caller knows not to matter.
//!
//! **Damaged and hostile files** give a [`CheckpointError`]: headers, lengths and shapes are checked against the file
//! before anything is read, and nothing larger than a tensor's own bytes, widened, is allocated.
//!
//! Files are memory-mapped: they must not be shortened or rewritten while they are open.

mod ascend;
mod comfy;
mod error;
mod experts;
mod file;
mod float_model;
mod group;
mod journal;
mod keys;
mod layer_tensors;
mod linear;
mod linear_tensors;
mod model_files;
mod model_plan;
mod model_writer;
mod names;
mod online;
mod options;
mod packed;
mod python_json;
mod quantize;
mod report;
mod roles;
mod rows;
mod scheme;
mod slice;
mod source;
mod writer;

pub use error::CheckpointError;
pub use linear::{StoredLinear, StoredWeight};
pub use names::NamePattern;
pub use options::{Progress, QuantizeOptions};
pub use quantize::quantize_model;
pub use report::{LayerReport, ModelReport};
pub use slice::LayerSlice;
pub use source::{Checkpoint, OpenOptions, TensorInfo};

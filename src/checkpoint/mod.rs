//! Checkpoints: safetensors files read into layers, and written (feature `safetensors`).
//!
//! ```text
//!   source   a file, a sharded index or a folder, opened       linear   a layer's tensors, and the layer of them
//!   file     one memory-mapped safetensors file                scheme   what config.json says of the layers
//!   names    patterns over names                               error    one sentence for each refusal
//!   quantize a model of floats written as W8A8                 rows     one weight of it, a block of rows at a time
//!   model_plan  what its files will hold                 model_writer  writes them shard by shard, and the rest
//!   writer   a file that can be stopped and continued          journal  what an interrupted run has done
//!   report   what quantising did to each layer           model_files  config.json and what else lies in a folder
//!   linear_tensors  scales, zero points and bias of a layer
//!   float_model  whether a model can be quantised        roles    embeddings, routers and gates by shape and use
//!   python_json  config.json as Python writes it
//! ```
//!
//! What a linear layer `P` of N outputs and K inputs may be stored as:
//!
//! | format | tensors | weight |
//! |---|---|---|
//! | compressed-tensors `int-quantized` (vLLM's W8A8) | `P.weight` I8 `[N, K]`, `P.weight_scale` `[N, 1]` or one; when asymmetric `P.weight_zero_point`; static inputs bring `P.input_scale`, `P.input_zero_point` | `(q - zero_point) * scale` |
//! | the same with strategy `group` | `P.weight` I8 `[N, K]`, `P.weight_scale` `[N, K / size rounded up]`, size 32, 64 or 128, symmetric; a [group-wise](crate::Int8Linear::from_int8_groupwise) layer | `q * scale` |
//! | bitsandbytes | `P.weight` I8 `[N, K]`, `P.SCB` F32 `[N]` | `q * (SCB / 127)` |
//! | floats | `P.weight` F32, F16 or BF16 `[N, K]` | quantised per output when it is loaded |
//!
//! and `P.bias` in any float type beside each.
//!
//! **Damaged and hostile files** give a [`CheckpointError`]: headers, lengths and shapes are checked against the file
//! before anything is read, and nothing larger than a tensor's own bytes, widened, is allocated.
//!
//! Files are memory-mapped: they must not be shortened or rewritten while they are open.

mod error;
mod file;
mod float_model;
mod journal;
mod linear;
mod linear_tensors;
mod model_files;
mod model_plan;
mod model_writer;
mod names;
mod options;
mod python_json;
mod quantize;
mod report;
mod roles;
mod rows;
mod scheme;
mod source;
mod writer;

pub use error::CheckpointError;
pub use linear::{StoredLinear, StoredWeight};
pub use names::NamePattern;
pub use options::{Progress, QuantizeOptions};
pub use quantize::quantize_model;
pub use report::{LayerReport, ModelReport};
pub use source::{Checkpoint, TensorInfo};

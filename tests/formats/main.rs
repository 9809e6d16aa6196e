//! What the crate reads, writes and plugs into: checkpoints, the command, candle.
//!
//! The readers' bounded fuzzing is a test of its own (`tests/fuzz_readers.rs`): it counts every allocation of its process.

#[cfg(feature = "safetensors")]
#[path = "../common/folder.rs"]
mod folder;

#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "safetensors")]
mod checkpoint;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "safetensors")]
mod minilm;
#[cfg(feature = "safetensors")]
mod quantize_kinds;
#[cfg(feature = "safetensors")]
mod quantize_model;
// bash, links, FIFOs, /dev/full.
#[cfg(feature = "safetensors")]
mod sharded;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod shell;
#[cfg(feature = "safetensors")]
mod side_tensors;

//! What is made of products: packed weights, linear layers, the operations over device arrays, the backend.

mod backend;
mod functions;
mod linear;
mod quantizer;
mod weights;

pub use functions::{matmul_true_int8, q_matmul_int8, quant_int8};
pub use linear::DeviceLinear;
pub use quantizer::quantize;
pub use weights::{DeviceWeights, WeightOrder};

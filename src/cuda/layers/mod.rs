//! What is made of products: packed weights, linear layers, experts, the operations over device arrays, the backend.

mod backend;
mod experts;
mod experts_plan;
mod experts_weights;
mod functions;
mod linear;
mod quantizer;
mod weights;

pub use experts::DeviceExperts;
pub use experts_plan::{DeviceChoices, ExpertsPlan};
pub use functions::{matmul_true_int8, q_matmul_int8, quant_int8};
pub use linear::DeviceLinear;
pub use quantizer::quantize;
pub use weights::{DeviceWeights, WeightOrder};

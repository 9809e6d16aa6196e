//! The quantised `dot_general`: integers forward, and backward where that is asked for.
//!
//! ```text
//!   operand          how one operand is quantised        product_config   how one of the three products is made
//!   config           the three together, checked         presets          ready-made ones
//!   slices           which elements share a scale        quantized        float operand -> integers and steps
//!   product          int8 through a backend, or float    shards           a contraction cut into parts
//!   forward          one product from start to end       backward         the gradients
//!   frozen           an operand quantised once           frozen_file      the same in a file
//! ```

mod backward;
mod config;
mod fields;
mod forward;
mod frozen;
mod frozen_file;
mod operand;
mod presets;
mod product;
mod product_config;
mod quantized;
mod shards;
mod slices;

pub use config::{QuantDotGeneral, QuantDotGeneralBuilder};
pub use frozen::{FrozenOperand, Side};
pub use operand::{OperandQuant, QuantGradient, SharedAxes};
pub use product_config::{Accumulate, ProductQuant};

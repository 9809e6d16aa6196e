//! The quantised `dot_general`: integers forward, and backward where that is asked for.
//!
//! ```text
//!   operand_config   how one operand is quantised        product_config   how one of the three products is made
//!   config           the three together, checked         presets          ready-made ones
//!   slices           which elements share a scale        quantized        float operand -> integers and scales
//!   shards           a contraction cut into parts        operand          what comes in -> what is multiplied
//!   integer_product  int8 through a backend              product          that, or float
//!   packed_once      weights packed at their first use
//!   forward          one product from start to end       backward         the gradients
//!   frozen           an operand quantised once           frozen_file      the same in a file
//! ```

mod backward;
mod config;
mod fields;
mod forward;
mod frozen;
mod frozen_file;
mod integer_product;
mod operand;
mod operand_config;
mod packed_once;
mod presets;
mod product;
mod product_config;
mod quantized;
mod shards;
mod slices;

pub use config::{QuantDotGeneral, QuantDotGeneralBuilder};
pub use frozen::{FrozenOperand, Side};
pub use operand_config::{OperandQuant, QuantGradient, SharedAxes};
pub use product_config::{Accumulate, ProductQuant};

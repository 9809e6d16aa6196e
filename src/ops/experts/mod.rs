//! Mixture-of-experts layers: where tokens go, their way there and back, and the experts themselves.
//!
//! ```text
//!   x [T, H] --moe_permute--> rows sorted by expert --gate and up, SiLU--> int8 --down--> rows --moe_combine--> y [T, H]
//!                 '- Routing: from the router's top-k indices [T, k]                            '- its weights [T, k]
//! ```

mod combine;
mod int8_experts;
mod permute;
mod routing;

pub use combine::moe_combine;
pub use int8_experts::{Int8Experts, QuantizedExperts};
pub use permute::moe_permute;
pub use routing::Routing;
